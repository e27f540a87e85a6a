/* frame.c - see frame.h. */
#include "common/llm/frame.h"

#include <string.h>

void frames_free(struct frames *f)
{
	buf_free(&f->held);
	buf_free(&f->joined);
}

bool frames_too_long(const struct frames *f) { return f->held.n > FRAME_MAX; }

/* How many bytes of s the first whole frame has; 0 = its end is not there. */
static size_t frame_end(enum frame_kind kind, struct str s)
{
	const char *end = s.p + s.n, *p = s.p, *nl;

	while (p < end && (nl = memchr(p, '\n', (size_t)(end - p)))) {
		if (kind == FRAME_LINE)
			return (size_t)(nl + 1 - s.p);
		p = nl + 1;
		if (p < end && *p == '\n')
			return (size_t)(p + 1 - s.p);
		if (end - p >= 2 && p[0] == '\r' && p[1] == '\n')
			return (size_t)(p + 2 - s.p);
	}
	return 0;
}

/* Line by line, so that no more than this frame is copied. */
static bool complete_held(struct frames *f, struct str *in, struct str *ret)
{
	while (in->n) {
		const char *nl = memchr(in->p, '\n', in->n);
		size_t take = nl ? (size_t)(nl + 1 - in->p) : in->n;
		struct str held;

		buf_add(&f->held, in->p, take);
		*in = str_from(*in, take);
		held = buf_as_str(&f->held);
		if (!nl || (f->kind == FRAME_SSE && !str_ends(held, STR("\n\n")) && !str_ends(held, STR("\n\r\n"))))
			continue;
		f->held_is_out = true;
		*ret = held;
		return true;
	}
	return false;
}

/* True when this byte ends the value that is held. */
static bool json_byte(struct frames *f, char c)
{
	if (f->in_string) {
		if (f->escaped || c == '\\')
			f->escaped = !f->escaped;
		else if (c == '"')
			f->in_string = false;
		return false;
	}
	f->in_string = c == '"';
	if (c == '{' || c == '[')
		f->depth++;
	return (c == '}' || c == ']') && --f->depth <= 0;
}

/* Always held: replies come one by one, and few of them are large. */
static bool next_json(struct frames *f, struct str *in, struct str *ret)
{
	for (size_t i = 0, from = 0; i < in->n; i++) {
		if (!f->held.n && i == from && strchr(" \t\r\n", in->p[i]) && in->p[i]) {
			from++;
			continue;
		}
		if (!json_byte(f, in->p[i]) && i + 1 < in->n)
			continue;
		buf_add(&f->held, in->p + from, i + 1 - from);
		if (f->depth > 0 || f->in_string || (in->p[i] != '}' && in->p[i] != ']'))
			break;
		f->depth = 0;
		f->held_is_out = true;
		*ret = buf_as_str(&f->held);
		*in = str_from(*in, i + 1);
		return true;
	}
	*in = str_from(*in, in->n);
	return false;
}

bool frames_next(struct frames *f, struct str *in, struct str *ret)
{
	size_t end;

	if (f->held_is_out) {
		buf_clear(&f->held);
		f->held_is_out = false;
	}
	if (!in->n)
		return false;
	if (f->kind == FRAME_JSON)
		return next_json(f, in, ret);
	if (f->held.n)
		return complete_held(f, in, ret);
	end = frame_end(f->kind, *in);
	if (!end) {
		buf_add(&f->held, in->p, in->n);
		*in = str_from(*in, in->n);
		return false;
	}
	*ret = str_n(in->p, end);
	*in = str_from(*in, end);
	return true;
}

struct str frames_rest(struct frames *f)
{
	if (f->held_is_out)
		buf_clear(&f->held), f->held_is_out = false;
	return buf_as_str(&f->held);
}

static struct str without_line_end(struct str s)
{
	while (s.n && (s.p[s.n - 1] == '\n' || s.p[s.n - 1] == '\r'))
		s.n--;
	return s;
}

/* The value of a data line; p is NULL for every other line. */
static struct str data_of(struct str line)
{
	if (!str_starts(line, STR("data")))
		return str_n(NULL, 0);
	if (line.n == 4)
		return str_n("", 0);
	if (line.p[4] != ':')
		return str_n(NULL, 0);
	line = str_from(line, 5);
	return line.n && line.p[0] == ' ' ? str_from(line, 1) : line;
}

/* One buffer for the whole stream, as large as its largest event: a stream may be long. */
static struct str join_data(struct str rest, struct buf *out)
{
	struct str line, data;

	buf_clear(out);
	while (str_split(&rest, '\n', &line)) {
		data = data_of(without_line_end(line));
		if (!data.p)
			continue;
		if (out->n)
			buf_char(out, '\n');
		buf_str(out, data);
	}
	return buf_as_str(out);
}

struct str frame_payload(struct frames *f, struct str frame)
{
	struct str body = without_line_end(frame);

	if (f->kind == FRAME_LINE)
		return str_trim(body);
	if (!body.n || memchr(body.p, '\n', body.n))
		return body.n ? join_data(body, &f->joined) : body;
	return data_of(body);
}

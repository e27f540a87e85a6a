/* sse.c - see sse.h. Bytes become lines (sse_feed), lines become fields (take_line), an empty line ends an event. */
#include "common/io/sse.h"

#include <string.h>

static const char *line_break(const char *p, const char *end);
static bool take_line(struct sse_reader *, struct str line, bool lasting);
static void dispatch(struct sse_reader *, void (*on_event)(void *, struct str, struct str), void *arg);
static void settle(struct sse_reader *);
static enum err too_large(struct sse_reader *, struct why *);

void sse_init(struct sse_reader *r, size_t max_line)
{
	*r = (struct sse_reader){ .max_line = max_line };
}

void sse_free(struct sse_reader *r)
{
	buf_free(&r->line);
	buf_free(&r->data);
	buf_free(&r->event);
	buf_free(&r->id);
	sse_init(r, r->max_line);
}

static size_t limit(const struct sse_reader *r) { return r->max_line ? r->max_line : SSE_MAX_LINE; }

enum err sse_feed(struct sse_reader *r, struct str in, void (*on_event)(void *arg, struct str event, struct str data),
		  void *arg, struct why *why)
{
	const char *p = in.p, *end = in.n ? p + in.n : p, *stop;

	if (r->broken)
		return too_large(r, why);
	for (; p < end; p = stop + 1) {
		bool held = r->line.n > 0;
		struct str line;

		if (r->after_cr && *p == '\n') {
			r->after_cr = false;
			stop = p;
			continue;
		}
		r->after_cr = false;
		stop = line_break(p, end);
		line = str_n(p, (size_t)((stop ? stop : end) - p));
		if (line.n > limit(r) - r->line.n)
			return too_large(r, why);
		if (held || !stop) {
			buf_str(&r->line, line);
			line = buf_as_str(&r->line);
		}
		if (!stop)
			break;
		r->after_cr = *stop == '\r';
		if (!take_line(r, line, !held))
			return too_large(r, why);
		if (line.n == 0)
			dispatch(r, on_event, arg);
		buf_clear(&r->line);
	}
	settle(r);
	return ERR_OK;
}

bool sse_pending(const struct sse_reader *r)
{
	return r->line.n || r->has_data || r->event.n;
}

static const char *line_break(const char *p, const char *end)
{
	const char *lf = memchr(p, '\n', (size_t)(end - p));
	const char *cr = memchr(p, '\r', (size_t)((lf ? lf : end) - p));

	return cr ? cr : lf;
}

static enum err too_large(struct sse_reader *r, struct why *why)
{
	r->broken = true;
	r->span = (struct str){ 0 };
	return err_set(why, ERR_TOO_LARGE, "a line or an event of the stream is longer than %zu bytes", limit(r));
}

/* Adds one data line. 'lasting' ones may be pointed to until the feed returns. False when the event grew too large. */
static bool add_data(struct sse_reader *r, struct str value, bool lasting)
{
	size_t have = r->span.p ? r->span.n : r->data.n;

	if (!r->has_data && lasting) {
		r->span = value;
		r->has_data = true;
		return true;
	}
	if (r->has_data && value.n + 1 > limit(r) - have)
		return false;
	settle(r);
	if (r->has_data)
		buf_char(&r->data, '\n');
	buf_str(&r->data, value);
	r->has_data = true;
	return true;
}

/* What is pointed to becomes our own. */
static void settle(struct sse_reader *r)
{
	if (r->span.p)
		buf_str(&r->data, r->span);
	r->span = (struct str){ 0 };
}

static void replace(struct buf *b, struct str s)
{
	buf_clear(b);
	buf_str(b, s);
}

static bool take_line(struct sse_reader *r, struct str line, bool lasting)
{
	struct str value = line, name;

	if (!r->started && str_starts(line, STR("\xef\xbb\xbf")))
		value = line = str_from(line, 3);
	r->started = true;
	if (line.n == 0 || line.p[0] == ':')
		return true;
	str_split(&value, ':', &name);
	if (!value.p)
		value = str_n(name.p + name.n, 0);
	if (value.n && value.p[0] == ' ')
		value = str_from(value, 1);
	if (str_eqz(name, "data"))
		return add_data(r, value, lasting);
	if (str_eqz(name, "event"))
		replace(&r->event, value);
	else if (str_eqz(name, "id") && (value.n == 0 || !memchr(value.p, '\0', value.n)))
		replace(&r->id, value);
	return true;
}

static void dispatch(struct sse_reader *r, void (*on_event)(void *, struct str, struct str), void *arg)
{
	if (r->has_data)
		on_event(arg, buf_as_str(&r->event), r->span.p ? r->span : buf_as_str(&r->data));
	r->span = (struct str){ 0 };
	r->has_data = false;
	buf_clear(&r->data);
	buf_clear(&r->event);
}

/* Writing */

static struct str first_line(struct str *rest)
{
	const char *stop = rest->n ? line_break(rest->p, rest->p + rest->n) : NULL;
	struct str line = *rest;
	size_t skip;

	if (!stop) {
		*rest = (struct str){ 0 };
		return line;
	}
	line.n = (size_t)(stop - rest->p);
	skip = line.n + 1 + (*stop == '\r' && line.n + 1 < rest->n && stop[1] == '\n');
	*rest = str_n(rest->p + skip, rest->n - skip);
	return line;
}

static void write_lines(struct buf *b, const char *prefix, struct str text)
{
	do {
		buf_addz(b, prefix);
		buf_str(b, first_line(&text));
		buf_char(b, '\n');
	} while (text.p);
}

void sse_write(struct buf *b, struct str event, struct str data)
{
	if (event.n) {
		buf_addz(b, "event: ");
		buf_str(b, first_line(&event));
		buf_char(b, '\n');
	}
	write_lines(b, "data: ", data);
	buf_char(b, '\n');
}

void sse_comment(struct buf *b, struct str text)
{
	write_lines(b, ": ", text);
	buf_char(b, '\n');
}

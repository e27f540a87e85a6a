/* text.c - see text.h. A slice is a run of string bytes as written between quotes. */
#include "common/llm/text.h"

#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/data/json_write.h"

enum { SLICES = 64 };

static struct str between_quotes(const struct json *doc, uint32_t value)
{
	struct str raw = json_raw(doc, value);

	return str_n(raw.p + 1, raw.n - 2);
}

/* The text of a part: {"type":"text","text":"..."}; strings in an array count too. */
static uint32_t part_text(const struct json *doc, uint32_t part)
{
	uint32_t text;

	if (json_is_string(doc, part))
		return part;
	text = json_get(doc, part, "text");
	return text && json_is_string(doc, text) ? text : 0;
}

static unsigned slices_of(const struct json *doc, uint32_t content, uint32_t *value)
{
	unsigned n = 0;

	if (content && json_is_string(doc, content)) {
		value[n++] = content;
		return n;
	}
	if (!content || json_kind(doc, content) != JSON_ARRAY)
		return 0;
	for (uint32_t i = json_first(doc, content); i && n < SLICES; i = json_next(doc, content, i))
		if ((value[n] = part_text(doc, i)))
			n++;
	return n;
}

uint64_t text_bytes(const struct json *doc, uint32_t content)
{
	uint64_t n = 0;
	uint32_t text;

	if (!content)
		return 0;
	if (json_is_string(doc, content))
		return json_raw(doc, content).n - 2;
	if (json_kind(doc, content) != JSON_ARRAY)
		return 0;
	for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i))
		if ((text = part_text(doc, i)))
			n += json_raw(doc, text).n - 2;
	return n;
}

static unsigned hex4(const char *p)
{
	unsigned v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 4 | (unsigned)((p[i] & 0xf) + (p[i] > '9' ? 9 : 0));
	return v;
}

static size_t put_utf8(char *out, unsigned c)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 0x3f)), out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f)), out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

/* Decodes the escape at p (a backslash); *used of its bytes, 0 when the slice ends inside it. */
static size_t unescape_one(const char *p, const char *end, char *out, size_t *used)
{
	unsigned c;

	*used = 0;
	if (end - p < 2)
		return 0;
	*used = 2;
	switch (p[1]) {
	case 'n': *out = '\n'; return 1;
	case 't': *out = '\t'; return 1;
	case 'r': *out = '\r'; return 1;
	case 'b': *out = '\b'; return 1;
	case 'f': *out = '\f'; return 1;
	case 'u': break;
	default: *out = p[1]; return 1;
	}
	*used = 0;
	if (end - p < 6)
		return 0;
	c = hex4(p + 2);
	*used = 6;
	if (c >= 0xd800 && c < 0xdc00) {
		if (end - p < 12) {
			*used = 0;
			return 0;
		}
		c = 0x10000 + ((c - 0xd800) << 10) + (hex4(p + 8) - 0xdc00);
		*used = 12;
	}
	return put_utf8(out, c);
}

/* At most 'cap' bytes come out; whole characters only. */
static size_t unescape(struct str in, char *out, size_t cap)
{
	const char *p = in.p, *end = in.p + in.n;
	size_t n = 0;

	while (p < end && n < cap) {
		const char *slash = memchr(p, '\\', (size_t)(end - p));
		size_t run = (size_t)((slash ? slash : end) - p), used;
		char c[4];
		size_t made;

		if (run > cap - n) {
			run = cap - n;
			while (run && ((unsigned char)p[run] & 0xc0) == 0x80)
				run--;
			memcpy(out + n, p, run);
			return n + run;
		}
		memcpy(out + n, p, run);
		n += run, p += run;
		if (!slash)
			break;
		made = unescape_one(p, end, c, &used);
		if (!used || made > cap - n)
			break;
		memcpy(out + n, c, made);
		n += made, p += used;
	}
	return n;
}

/* The last bytes of a slice, cut where a character and no escape begins: after a blank, which stands in no escape. */
static struct str slice_tail(struct str s, size_t want)
{
	size_t at = s.n > want ? s.n - want : 0;
	const char *blank;

	if (at == 0)
		return s;
	blank = memchr(s.p + at, ' ', s.n - at);
	return blank ? str_n(blank + 1, (size_t)(s.p + s.n - blank - 1)) : str_n(s.p + s.n, 0);
}

struct str text_capped(const struct json *doc, uint32_t content, size_t head, size_t tail, struct arena *a)
{
	uint32_t value[SLICES];
	unsigned n = slices_of(doc, content, value), last;
	uint64_t total = 0;
	size_t at = 0, left;
	char *out;

	for (unsigned i = 0; i < n; i++)
		total += json_raw(doc, value[i]).n - 2;
	if (n == 1 && total <= head + tail)
		return json_string(doc, value[0], a);
	if (n == 0)
		return str_n("", 0);
	out = arena_alloc(a, head + tail + 2);
	if (total <= head + tail) {
		for (unsigned i = 0; i < n; i++)
			at += unescape(between_quotes(doc, value[i]), out + at, head + tail - at);
		return str_n(out, at);
	}
	for (unsigned i = 0; i < n && at < head; i++)
		at += unescape(between_quotes(doc, value[i]), out + at, head - at);
	if (!tail)
		return str_n(out, at);
	out[at++] = ' ';
	for (last = n, left = tail; last > 0 && left > 0; last--) {
		size_t len = json_raw(doc, value[last - 1]).n - 2;

		left -= len < left ? len : left;
	}
	for (left = tail; last < n; last++) {
		struct str s = slice_tail(between_quotes(doc, value[last]), left);
		size_t made = unescape(s, out + at, left);

		at += made, left -= made;
	}
	return str_n(out, at);
}

struct str text_raw(const struct json *doc, uint32_t content, struct arena *a)
{
	uint64_t bytes = text_bytes(doc, content);
	char *out, *p;
	uint32_t text;

	if (content && json_is_string(doc, content))
		return json_raw(doc, content);
	p = out = arena_alloc(a, bytes + 2);
	*p++ = '"';
	if (bytes)
		for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i))
			if ((text = part_text(doc, i))) {
				struct str s = between_quotes(doc, text);

				memcpy(p, s.p, s.n);
				p += s.n;
			}
	*p++ = '"';
	return str_n(out, (size_t)(p - out));
}

static bool is_plain(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 0x20 || (unsigned char)s.p[i] > 0x7e || s.p[i] == '"' || s.p[i] == '\\')
			return false;
	return true;
}

struct str text_quote(struct str s, struct arena *a)
{
	struct buf b = { 0 };
	struct str copy;

	if (is_plain(s)) {
		char *p = arena_alloc(a, s.n + 2);

		p[0] = p[s.n + 1] = '"';
		if (s.n)
			memcpy(p + 1, s.p, s.n);
		return str_n(p, s.n + 2);
	}
	buf_char(&b, '"');
	json_escape(&b, s);
	buf_char(&b, '"');
	copy = arena_str(a, buf_as_str(&b));
	buf_free(&b);
	return copy;
}

struct str text_one_line(struct str json, struct arena *a)
{
	char *copy;

	if (!json.n || (!memchr(json.p, '\n', json.n) && !memchr(json.p, '\r', json.n)))
		return json;
	copy = arena_dup(a, json.p, json.n);
	for (size_t i = 0; i < json.n; i++)
		if (copy[i] == '\n' || copy[i] == '\r')
			copy[i] = ' ';
	return str_n(copy, json.n);
}

/* How many bytes the valid sequence at p has; 0 when it is invalid, *skip then says how many go for one U+FFFD. */
static unsigned sequence(const unsigned char *p, size_t n, unsigned *skip)
{
	unsigned follow = *p < 0x80 ? 0 : *p >= 0xc2 && *p <= 0xdf ? 1 : *p >= 0xe0 && *p <= 0xef ? 2 : *p >= 0xf0 && *p <= 0xf4 ? 3 : 9;

	*skip = 1;
	if (follow == 9)
		return 0;
	for (unsigned i = 1; i <= follow; i++) {
		unsigned char low = 0x80, high = 0xbf;

		if (i == 1)
			low = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80, high = *p == 0xed ? 0x9f : *p == 0xf4 ? 0x8f : 0xbf;
		if (i >= n || p[i] < low || p[i] > high)
			return 0;
		*skip = i + 1;
	}
	return follow + 1;
}

struct str text_repair_utf8(struct str s, struct arena *a)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t at = 0, made = 0;
	unsigned n, skip;
	char *out;

	if (str_utf8_valid(s))
		return s;
	out = arena_alloc(a, s.n * 3);
	while (at < s.n) {
		if ((n = sequence(p + at, s.n - at, &skip))) {
			memcpy(out + made, p + at, n);
			made += n, at += n;
		} else {
			memcpy(out + made, "\xef\xbf\xbd", 3);
			made += 3, at += skip;
		}
	}
	return str_n(out, made);
}

void text_show(struct str s, char *out, size_t max)
{
	size_t at = 0, i = 0;

	while (i < s.n) {
		unsigned char c = (unsigned char)s.p[i];
		size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

		if (c < 0x20 || c == 0x7f) {
			if (at + 4 > max)
				break;
			at += (size_t)snprintf(out + at, 5, "\\x%02x", c);
			i++;
			continue;
		}
		if (len > s.n - i || at + len > max)
			break;
		memcpy(out + at, s.p + i, len);
		at += len, i += len;
	}
	if (i < s.n && at + 3 <= max + 3) {
		memcpy(out + at, "...", 3);
		at += 3;
	}
	out[at] = '\0';
}

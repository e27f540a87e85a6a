/* json_write.c - see json_write.h. */
#include "common/data/json_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/data/json_scan.h"

void json_begin(struct json_out *jo, struct buf *b) { *jo = (struct json_out){ .b = b }; }

bool json_done(struct json_out *jo)
{
	bool whole = !jo->mistake && jo->depth == 0 && jo->comma;

	while (jo->depth)
		jw_end(jo);
	if (!jo->comma)
		jw_null(jo);
	return whole;
}

static inline bool in_object(const struct json_out *jo)
{
	return jo->depth && jo->objects[(jo->depth - 1) / 64] >> (jo->depth - 1) % 64 & 1;
}

static bool wrong(struct json_out *jo)
{
	jo->mistake = true;
	return false;
}

/* Comma and colon are written, a value may follow. */
static bool may_write(struct json_out *jo)
{
	if (jo->dropped)
		return false;
	if (in_object(jo)) {
		if (!jo->has_key)
			return wrong(jo);
		jo->has_key = false;
	} else if (jo->comma) {
		if (jo->depth == 0)
			return wrong(jo);
		buf_char(jo->b, ',');
	}
	jo->comma = true;
	return true;
}

static void begin_container(struct json_out *jo, bool object)
{
	uint64_t bit = 1ULL << jo->depth % 64;

	if (jo->depth == JW_DEPTH_MAX && !jo->dropped) {
		jw_null(jo);
		wrong(jo);
		jo->dropped++;
		return;
	}
	if (!may_write(jo)) {
		jo->dropped++;
		return;
	}
	buf_char(jo->b, object ? '{' : '[');
	jo->objects[jo->depth / 64] = (jo->objects[jo->depth / 64] & ~bit) | (object ? bit : 0);
	jo->depth++;
	jo->comma = false;
}

void jw_obj(struct json_out *jo) { begin_container(jo, true); }
void jw_arr(struct json_out *jo) { begin_container(jo, false); }

void jw_end(struct json_out *jo)
{
	if (jo->dropped) {
		jo->dropped--;
		return;
	}
	if (jo->depth == 0) {
		wrong(jo);
		return;
	}
	if (jo->has_key) {
		wrong(jo);
		jw_null(jo);
	}
	buf_char(jo->b, in_object(jo) ? '}' : ']');
	jo->depth--;
	jo->comma = true;
}

void jw_key(struct json_out *jo, const char *key) { jw_key_str(jo, str_of(key)); }

void jw_key_str(struct json_out *jo, struct str key)
{
	if (jo->dropped)
		return;
	if (!in_object(jo)) {
		wrong(jo);
		return;
	}
	if (jo->has_key) {
		wrong(jo);
		jw_null(jo);
	}
	buf_reserve(jo->b, key.n + 4);
	if (jo->comma)
		buf_char(jo->b, ',');
	buf_char(jo->b, '"');
	json_escape(jo->b, key);
	buf_add(jo->b, "\":", 2);
	jo->has_key = true;
}

void jw_str(struct json_out *jo, struct str s)
{
	if (!may_write(jo))
		return;
	buf_reserve(jo->b, s.n + 2);
	buf_char(jo->b, '"');
	json_escape(jo->b, s);
	buf_char(jo->b, '"');
}

void jw_strz(struct json_out *jo, const char *z)
{
	if (z)
		jw_str(jo, str_of(z));
	else
		jw_null(jo);
}

void jw_i64(struct json_out *jo, int64_t v)
{
	if (!may_write(jo))
		return;
	if (v < 0)
		buf_char(jo->b, '-');
	buf_u64(jo->b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void jw_u64(struct json_out *jo, uint64_t v)
{
	if (may_write(jo))
		buf_u64(jo->b, v);
}

/* 15 digits that read back are the fewest there are once %g drops its zeros; below the normal range fewer may do. */
static void add_double(struct buf *b, double v)
{
	char z[40];
	int first = fabs(v) < 2.2250738585072014e-308 ? 1 : 15;

	for (int n = first; n <= 17; n++) {
		snprintf(z, sizeof(z), "%.*g", n, v);
		if (n == 17 || strtod(z, NULL) == v)
			break;
	}
	buf_addz(b, z);
}

void jw_double(struct json_out *jo, double v)
{
	bool small = fabs(v) < 1e15 && !(v == 0 && signbit(v));

	if (!isfinite(v))
		jw_null(jo);
	else if (small && v == (double)(int64_t)v)
		jw_i64(jo, (int64_t)v);
	else if (may_write(jo))
		add_double(jo->b, v);
}

void jw_bool(struct json_out *jo, bool v)
{
	if (may_write(jo))
		buf_addz(jo->b, v ? "true" : "false");
}

void jw_null(struct json_out *jo)
{
	if (may_write(jo))
		buf_add(jo->b, "null", 4);
}

void jw_raw(struct json_out *jo, struct str json)
{
	if (json.n == 0) {
		wrong(jo);
		jw_null(jo);
	} else if (may_write(jo)) {
		buf_str(jo->b, json);
	}
}

static void escape_one(struct buf *b, char c)
{
	static const char hex[] = "0123456789abcdef", named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
	char out[6] = { '\\', 'u', '0', '0', hex[c >> 4 & 1], hex[c & 15] };

	for (const char *n = named; *n; n += 2)
		if (*n == c) {
			out[1] = n[1];
			buf_add(b, out, 2);
			return;
		}
	buf_add(b, out, sizeof(out));
}

static void add_utf8(struct buf *b, const char *p, const char *end)
{
	while (p < end) {
		const char *bad = json_scan_utf8(p, end);
		unsigned skip;

		buf_add(b, p, (size_t)(bad - p));
		if (bad == end)
			return;
		json_utf8_length(bad, end, &skip);
		buf_add(b, "\xef\xbf\xbd", 3);
		p = bad + skip;
	}
}

void json_one_line(struct buf *b, struct str text)
{
	struct arena *mem = arena_new(4096);
	struct json doc;
	struct why why;
	size_t from = b->n;

	if (json_parse(&doc, mem, text, &(struct json_limits){ .max_depth = 128, .max_nodes = 10000000 }, &why) == ERR_OK) {
		buf_str(b, str_trim(text));
		for (size_t i = from; i < b->n; i++)
			if (b->p[i] == '\n' || b->p[i] == '\r')
				b->p[i] = ' ';
	} else {
		buf_char(b, '"');
		json_escape(b, text);
		buf_char(b, '"');
	}
	arena_free(mem);
}

void json_escape(struct buf *b, struct str s)
{
	const char *p = s.n ? s.p : "", *end = p + s.n;

	while (p < end) {
		bool wide = false;
		const char *stop = json_scan(p, end, &wide);

		if (wide)
			add_utf8(b, p, stop);
		else
			buf_add(b, p, (size_t)(stop - p));
		if (stop < end)
			escape_one(b, *stop++);
		p = stop;
	}
}

void json_splice(struct buf *out, struct str text, const struct json_edit *edits, size_t n)
{
	size_t at = 0, room = text.n;

	for (size_t i = 0; i < n; i++)
		room += edits[i].with.n;
	buf_reserve(out, room);
	for (size_t i = 0; i < n; i++) {
		const struct json_edit *e = &edits[i];

		if (e->at < at || e->at > text.n || e->len > text.n - e->at) {
			fprintf(stderr, "json_splice: edit %zu of %zu (byte %u, %u long) is out of order or outside the text\n", i, n, e->at, e->len);
			abort();
		}
		buf_add(out, text.p + at, e->at - at);
		buf_str(out, e->with);
		at = (size_t)e->at + e->len;
	}
	if (at < text.n)
		buf_add(out, text.p + at, text.n - at);
}

struct json_edit json_edit_value(const struct json *j, uint32_t value, struct str json)
{
	return (struct json_edit){ j->tok[value].at, j->tok[value].len, json };
}

struct json_edit json_edit_insert(const struct json *j, uint32_t object, const char *key, struct str json, struct arena *mem)
{
	struct buf b = { 0 };
	struct json_edit e = { .at = j->tok[object].at + 1 };

	buf_char(&b, '"');
	json_escape(&b, str_of(key));
	buf_addz(&b, "\":");
	buf_str(&b, json);
	if (json_first(j, object))
		buf_char(&b, ',');
	e.with = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return e;
}

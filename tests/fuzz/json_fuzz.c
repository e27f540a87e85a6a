/* json_fuzz.c - what the validator accepts can be walked, written again decoded, and reads back equal; cJSON accepts it too. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/data/json.h"
#include "common/data/json_write.h"

#define CHECK(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), abort()))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_value(struct json_out *jo, const struct json *j, uint32_t v, struct arena *mem)
{
	enum json_kind kind = json_kind(j, v);
	bool truth = false;
	int64_t i;
	double d;

	if (json_key(j, v))
		jw_key_str(jo, json_string(j, json_key(j, v), mem));
	if (kind == JSON_ARRAY || kind == JSON_OBJECT) {
		kind == JSON_ARRAY ? jw_arr(jo) : jw_obj(jo);
		for (uint32_t m = json_first(j, v); m; m = json_next(j, v, m))
			write_value(jo, j, m, mem);
		jw_end(jo);
	} else if (kind == JSON_STRING) {
		jw_str(jo, json_string(j, v, mem));
	} else if (kind == JSON_NULL) {
		jw_null(jo);
	} else if (json_bool(j, v, &truth)) {
		jw_bool(jo, truth);
	} else if (json_i64(j, v, &i)) {
		jw_i64(jo, i);
	} else if (json_double(j, v, &d)) {
		jw_double(jo, d);
	} else {
		jw_raw(jo, json_raw(j, v));
	}
}

static void check_equal(const struct json *a, const struct json *b, struct arena *mem)
{
	CHECK(a->n == b->n);
	for (uint32_t i = 0; i < a->n; i++) {
		double x = 0, y = 0;
		int64_t ia = 0, ib = 0;

		CHECK(a->tok[i].kind == b->tok[i].kind && a->tok[i].next == b->tok[i].next && a->tok[i].count == b->tok[i].count);
		CHECK((a->tok[i].flags & JSON_KEY) == (b->tok[i].flags & JSON_KEY));
		if (json_is_string(a, i))
			CHECK(str_eq(json_string(a, i, mem), json_string(b, i, mem)));
		if (a->tok[i].kind != JSON_NUMBER)
			continue;
		CHECK(json_double(a, i, &x) == json_double(b, i, &y) && x == y);
		if (json_i64(a, i, &ia))
			CHECK(json_i64(b, i, &ib) && ia == ib);
	}
}

static void check_found(const struct json *j, uint32_t object, uint32_t v, struct arena *mem)
{
	struct str key = json_string(j, json_key(j, v), mem);
	char *z = arena_dup(mem, key.p, key.n);

	if (strlen(z) == key.n)      /* a key with a NUL in it cannot be asked for */
		CHECK(json_get(j, object, z) == v && json_key_is(j, v, z) && json_get_any_case(j, object, z));
}

/* Members inside their container, in order; every member found by its decoded key; doubles as the C library reads them. */
static void check_tape(const struct json *j, struct arena *mem)
{
	for (uint32_t c = 0; c < j->n; c++) {
		uint32_t n = 0, last = j->tok[c].at;
		struct str raw = json_raw(j, c);
		double d;

		CHECK(raw.p >= j->text && raw.n > 0 && raw.p + raw.n <= j->text + j->len);
		for (uint32_t i = json_first(j, c); i; i = json_next(j, c, i), n++) {
			CHECK(i > c && i < j->tok[c].next && j->tok[i].at > last && j->tok[i].at + j->tok[i].len < j->tok[c].at + j->tok[c].len);
			last = j->tok[i].at + j->tok[i].len - 1;
			if (json_key(j, i) && n < 50)
				check_found(j, c, i, mem);
		}
		CHECK(json_count(j, c) == n);
		if (json_kind(j, c) == JSON_NUMBER) {
			double want = strtod(arena_str(mem, raw).p, NULL);

			CHECK(json_double(j, c, &d) ? d == want : isinf(want));
		}
	}
}

static bool has_long_number(const struct json *j)
{
	for (uint32_t i = 0; i < j->n; i++)
		if (j->tok[i].kind == JSON_NUMBER && j->tok[i].len >= 63)
			return true;
	return false;
}

static void check_cjson(const struct json *j)
{
	cJSON *tree;

	if (has_long_number(j))      /* cJSON cuts numbers at 63 characters */
		return;
	tree = cJSON_ParseWithLength(j->text, j->len);
	CHECK(tree);
	cJSON_Delete(tree);
}

static void check_splice(const struct json *j)
{
	struct json_edit edits[64];
	struct buf b = { 0 };
	size_t n = 0;

	for (uint32_t i = json_first(j, 0); i && n < 64; i = json_next(j, 0, i))
		edits[n++] = json_edit_value(j, i, json_raw(j, i));
	json_splice(&b, str_n(j->text, j->len), edits, n);
	CHECK(str_eq(buf_as_str(&b), str_n(j->text, j->len)));
	buf_free(&b);
}

/* Any bytes at all become a string that reads back, unchanged when they were UTF-8. */
static void check_escape(struct str bytes, struct arena *mem)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct json j;

	json_begin(&jo, &b);
	jw_str(&jo, bytes);
	CHECK(json_done(&jo) && json_parse(&j, mem, buf_as_str(&b), NULL, NULL) == ERR_OK && json_is_string(&j, 0));
	if (str_utf8_valid(bytes))
		CHECK(str_eq(json_string(&j, 0, mem), bytes));
	buf_free(&b);
}

static void check_accepted(const struct json *j, struct arena *mem)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct json again;

	CHECK(str_utf8_valid(str_n(j->text, j->len)));
	check_tape(j, mem);
	check_cjson(j);
	check_splice(j);
	json_begin(&jo, &b);
	write_value(&jo, j, 0, mem);
	CHECK(json_done(&jo));
	CHECK(json_parse(&again, mem, buf_as_str(&b), NULL, NULL) == ERR_OK);
	check_equal(j, &again, mem);
	buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *mem = arena_new(0);
	struct str text = str_n((const char *)data, size);
	struct why why = { 0 };
	struct json j;

	if (json_parse(&j, mem, text, NULL, &why) == ERR_OK)
		check_accepted(&j, mem);
	else
		CHECK((why.code == ERR_MALFORMED || why.code == ERR_TOO_LARGE) && why.text[0] && str_utf8_valid(str_of(why.text)) &&
		      str_utf8_valid(str_of(why.field)));
	check_escape(text, mem);
	arena_free(mem);
	return 0;
}

/* json_write_test.c - whatever is called in whatever order, what comes out is JSON and reads back as what went in. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/data/json.h"
#include "common/data/json_write.h"

static struct arena *mem;
static struct buf out;
static struct json_out jo;

static struct json reparsed(void)
{
	struct json_limits any = { .max_depth = 300, .max_nodes = 100000 };
	struct json j = { 0 };
	struct why why = { 0 };

	if (json_parse(&j, mem, buf_as_str(&out), &any, &why) != ERR_OK)
		fail_msg("%s: %s", buf_z(&out), why.text);
	return j;
}

static void begin(void)
{
	buf_clear(&out);
	json_begin(&jo, &out);
}

static void writes_all_kinds(void **state)
{
	begin();
	jw_obj(&jo);
	jw_kv_str(&jo, "s", STR("a\"b"));
	jw_kv_strz(&jo, "z", "x");
	jw_kv_strz(&jo, "none", NULL);
	jw_kv_i64(&jo, "min", INT64_MIN);
	jw_kv_u64(&jo, "max", UINT64_MAX);
	jw_kv_double(&jo, "d", 0.1);
	jw_kv_double(&jo, "nan", NAN);
	jw_kv_double(&jo, "inf", -INFINITY);
	jw_kv_bool(&jo, "t", true);
	jw_kv_null(&jo, "n");
	jw_kv_raw(&jo, "r", STR("[1, 2]"));
	jw_key(&jo, "a");
	jw_arr(&jo), jw_i64(&jo, -1), jw_arr(&jo), jw_end(&jo), jw_obj(&jo), jw_end(&jo), jw_bool(&jo, false), jw_end(&jo);
	jw_end(&jo);
	assert_true(json_done(&jo));
	assert_string_equal(buf_z(&out), "{\"s\":\"a\\\"b\",\"z\":\"x\",\"none\":null,\"min\":-9223372036854775808,\"max\":18446744073709551615,"
		"\"d\":0.1,\"nan\":null,\"inf\":null,\"t\":true,\"n\":null,\"r\":[1, 2],\"a\":[-1,[],{},false]}");
	reparsed();
}

static void escapes(void **state)
{
	static const struct { struct str in, want; } cases[] = {
		{ STR_INIT(""), STR_INIT("") }, { STR_INIT("plain / text \x7f"), STR_INIT("plain / text \x7f") },
		{ STR_INIT("\"\\\b\f\n\r\t"), STR_INIT("\\\"\\\\\\b\\f\\n\\r\\t") }, { STR_INIT("a\0b\x01\x1f"), STR_INIT("a\\u0000b\\u0001\\u001f") },
		{ STR_INIT("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"), STR_INIT("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80") },
		{ STR_INIT("\xff"), STR_INIT("\xef\xbf\xbd") }, { STR_INIT("a\xc3"), STR_INIT("a\xef\xbf\xbd") }, { STR_INIT("\xc3\n"), STR_INIT("\xef\xbf\xbd\\n") },
		{ STR_INIT("\xe2\x82""x"), STR_INIT("\xef\xbf\xbdx") }, { STR_INIT("\xf0\x9f\x98"), STR_INIT("\xef\xbf\xbd") },
		{ STR_INIT("\xed\xa0\x80"), STR_INIT("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") }, { STR_INIT("\xc0\xaf"), STR_INIT("\xef\xbf\xbd\xef\xbf\xbd") },
		{ STR_INIT("\x80\x80"), STR_INIT("\xef\xbf\xbd\xef\xbf\xbd") }, { STR_INIT("\xf4\x90\x80\x80"), STR_INIT("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") },
		{ STR_INIT("0123456789abcdef0123456789abcdef0123456789\"\xff"), STR_INIT("0123456789abcdef0123456789abcdef0123456789\\\"\xef\xbf\xbd") },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		buf_clear(&out);
		json_escape(&out, cases[i].in);
		if (!str_eq(buf_as_str(&out), cases[i].want))
			fail_msg("case %zu gave %s", i, buf_z(&out));
	}
}

/* xorshift: the same calls in every run. */
static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252ULL;

	return x ^= x << 13, x ^= x >> 7, x ^= x << 17;
}

static void any_bytes_become_a_string(void **state)
{
	for (int round = 0; round < 20000; round++) {
		char bytes[80];
		size_t n = random64() % sizeof(bytes);
		struct json j;

		for (size_t i = 0; i < n; i++)
			bytes[i] = (char)(random64() % 4 ? random64() % 128 : random64());
		begin();
		jw_str(&jo, str_n(bytes, n));
		assert_true(json_done(&jo));
		j = reparsed();
		assert_true(json_is_string(&j, 0));
		if (str_utf8_valid(str_n(bytes, n)))
			assert_true(str_eq(json_string(&j, 0, mem), str_n(bytes, n)));
		arena_reset(mem);
	}
}

static void doubles_come_back(void **state)
{
	static const struct { double v; const char *want; } cases[] = { { 0, "0" }, { -0.0, "-0" }, { 1, "1" }, { -2.5, "-2.5" }, { 0.7, "0.7" },
		{ 0.1 + 0.2, "0.30000000000000004" }, { 1e100, "1e+100" }, { 5e-324, "5e-324" }, { 1e15, "1e+15" }, { 123456789012345, "123456789012345" },
		{ DBL_MAX, "1.7976931348623157e+308" }, { DBL_MIN, "2.2250738585072014e-308" }, { 1.0 / 3, "0.3333333333333333" } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin();
		jw_double(&jo, cases[i].v);
		assert_string_equal(buf_z(&out), cases[i].want);
	}
	for (int round = 0; round < 20000; round++) {
		uint64_t bits = random64();
		double v, back;
		struct json j;

		memcpy(&v, &bits, sizeof(v));
		if (!isfinite(v))
			continue;
		begin();
		jw_double(&jo, v);
		j = reparsed();
		assert_true(json_double(&j, 0, &back) && back == v);
		arena_reset(mem);
	}
}

static void mistakes_leave_valid_json(void **state)
{
	begin(), jw_obj(&jo), jw_i64(&jo, 1), jw_end(&jo);                    /* no key */
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "{}");
	begin(), jw_obj(&jo), jw_key(&jo, "a"), jw_key(&jo, "b"), jw_end(&jo);      /* no values */
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "{\"a\":null,\"b\":null}");
	begin(), jw_arr(&jo), jw_key(&jo, "a"), jw_i64(&jo, 1), jw_end(&jo), jw_end(&jo), jw_i64(&jo, 2);
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "[1]");
	begin(), jw_obj(&jo), jw_obj(&jo), jw_kv_i64(&jo, "a", 1), jw_end(&jo), jw_kv_i64(&jo, "b", 2);      /* not closed either */
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "{\"b\":2}");
	begin(), jw_arr(&jo), jw_raw(&jo, STR(""));
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "[null]");
	begin();
	assert_false(json_done(&jo));
	assert_string_equal(buf_z(&out), "null");
}

static void too_deep_becomes_null(void **state)
{
	begin();
	for (int i = 0; i < JW_DEPTH_MAX + 5; i++)
		jw_arr(&jo);
	jw_i64(&jo, 1);
	for (int i = 0; i < JW_DEPTH_MAX + 5; i++)
		jw_end(&jo);
	assert_false(json_done(&jo));
	assert_int_equal(out.n, JW_DEPTH_MAX * 2 + 4);
	reparsed();
}

static void call_one_at_random(void)
{
	switch (random64() % 12) {
	case 0: jw_obj(&jo); break;
	case 1: jw_arr(&jo); break;
	case 2: case 3: jw_end(&jo); break;
	case 4: case 5: case 6: {
		char key[24];      /* different ones: the parser refuses equal keys, the writer does not watch for them */

		snprintf(key, sizeof(key), "%llx", (unsigned long long)random64());
		jw_key(&jo, key);
		break;
	}
	case 7: jw_str(&jo, STR("\"\xff\n")); break;
	case 8: jw_double(&jo, (double)random64()); break;
	case 9: jw_null(&jo); break;
	case 10: jw_raw(&jo, STR("{\"x\":[]}")); break;
	default: jw_bool(&jo, true);
	}
}

static void any_calls_leave_valid_json(void **state)
{
	for (int round = 0; round < 20000; round++) {
		begin();
		for (uint64_t n = random64() % 60; n; n--)
			call_one_at_random();
		json_done(&jo);
		reparsed();
		arena_reset(mem);
	}
}

static void write_again(const struct json *j, uint32_t v)
{
	enum json_kind kind = json_kind(j, v);

	if (json_key(j, v))
		jw_key_str(&jo, json_string(j, json_key(j, v), mem));
	if (kind == JSON_STRING) {
		jw_str(&jo, json_string(j, v, mem));
	} else if (kind == JSON_ARRAY || kind == JSON_OBJECT) {
		kind == JSON_ARRAY ? jw_arr(&jo) : jw_obj(&jo);
		for (uint32_t i = json_first(j, v); i; i = json_next(j, v, i))
			write_again(j, i);
		jw_end(&jo);
	} else {
		jw_raw(&jo, json_raw(j, v));
	}
}

static void a_tree_comes_back(void **state)
{
	static const char *const texts[] = {
		"{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi \xc3\xa4\\n\xf0\x9f\x98\x80\\u0001\\\"\"}],\"n\":9007199254740993,\"stop\":null}",
		"[[],{},[{}],\"\",0,-0.5e-7,true,[false,[null]],{\"\":{\"a\":[1,2,{\"b\":\"\\u0000\"}]}}]", "\"x\"", "1e999", "{\"\\\"\":1}",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct json j;

		assert_int_equal(json_parse(&j, mem, str_of(texts[i]), NULL, NULL), ERR_OK);
		begin();
		write_again(&j, 0);
		assert_true(json_done(&jo));
		assert_string_equal(buf_z(&out), texts[i]);
	}
}

static void splices(void **state)
{
	struct str text = STR("{\"model\": \"auto\", \"o\":{}, \"n\":1}");
	struct json j;
	struct json_edit edits[4];
	char *copy;

	assert_int_equal(json_parse(&j, mem, text, NULL, NULL), ERR_OK);
	edits[0] = json_edit_insert(&j, 0, "stream\"", STR("true"), mem);
	edits[1] = json_edit_value(&j, json_get(&j, 0, "model"), STR("\"tiny:1b\""));
	edits[2] = json_edit_insert(&j, json_get(&j, 0, "o"), "usage", STR("[]"), mem);
	edits[3] = json_edit_value(&j, json_get(&j, 0, "n"), STR("22"));
	buf_clear(&out);
	json_splice(&out, text, edits, 4);
	assert_string_equal(buf_z(&out), "{\"stream\\\"\":true,\"model\": \"tiny:1b\", \"o\":{\"usage\":[]}, \"n\":22}");
	reparsed();
	copy = arena_dup(mem, out.p, out.n);
	buf_clear(&out);
	json_splice(&out, str_of(copy), NULL, 0);
	assert_string_equal(buf_z(&out), copy);
	buf_clear(&out);
	json_splice(&out, STR("abc"), (struct json_edit[]){ { 0, 1, STR_INIT("x") }, { 1, 0, STR_INIT("-") }, { 3, 0, STR_INIT("!") } }, 3);
	assert_string_equal(buf_z(&out), "x-bc!");
}

static int setup(void **state) { return mem = arena_new(0), 0; }
static int teardown(void **state) { return arena_free(mem), buf_free(&out), 0; }

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(writes_all_kinds), TEST(escapes), TEST(any_bytes_become_a_string), TEST(doubles_come_back), TEST(mistakes_leave_valid_json),
		TEST(too_deep_becomes_null), TEST(any_calls_leave_valid_json), TEST(a_tree_comes_back), TEST(splices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

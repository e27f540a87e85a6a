/* json_test.c - the grammar decided case by case, limits, equal keys, and the readers of the tape. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/json.h"
#include "common/data/json_scan.h"

static struct arena *mem;

/* The bytes are copied to a block of exactly their size, so that a sanitizer sees a read past the end. */
static enum err parse_exact(struct json *ret, struct str text, const struct json_limits *limits, struct why *why)
{
	char *copy = malloc(text.n ? text.n : 1);
	enum err e;

	if (text.n)
		memcpy(copy, text.p, text.n);
	e = json_parse(ret, mem, str_n(copy, text.n), limits, why);
	arena_defer(mem, free, copy);
	return e;
}

static struct json parsed(const char *z)
{
	struct json j = { 0 };
	struct why why = { 0 };

	if (parse_exact(&j, str_of(z), NULL, &why) != ERR_OK)
		fail_msg("%s: %s", z, why.text);
	return j;
}

struct grammar_case {
	const char *text;
	size_t n;
};
#define T(literal) { literal, sizeof(literal) - 1 }

static const struct grammar_case accepted[] = {
	/* the five scalars at the root, and blanks around them */
	T("null"), T("true"), T("false"), T("0"), T("\"\""), T("[]"), T("{}"), T(" null"), T("null "), T("\tnull\n"), T("\r\n1\r\n"),
	T(" \t\r\n{} \t\r\n"), T("\n\n\n[]"), T("\"a\""), T("-1"), T("42"), T("[null]"), T("[true,false]"), T("[[]]"), T("[{}]"),
	/* arrays */
	T("[1]"), T("[ ]"), T("[\n]"), T("[1,2]"), T("[1 ,2]"), T("[1, 2]"), T("[ 1,2 ]"), T("[1\n,\n2]"), T("[[],[]]"), T("[[[[[]]]]]"),
	T("[1,[2,[3,[4]]]]"), T("[\"a\",\"a\"]"), T("[null,null]"), T("[{},{}]"), T("[\"\"]"), T("[\"\",\"\"]"), T("[0,-0]"),
	/* objects */
	T("{ }"), T("{\"a\":1}"), T("{\"a\" : 1}"), T("{ \"a\":1 }"), T("{\"a\":1,\"b\":2}"), T("{\"\":0}"), T("{\"a\":{}}"),
	T("{\"a\":{\"a\":{\"a\":1}}}"), T("{\"a\":[],\"b\":[]}"), T("{\"a\":null}"), T("{\"a b\":\"c d\"}"), T("{\"\\n\":1}"),
	T("{\"a\":1,\"b\":{\"a\":1}}"), T("[{\"a\":1},{\"a\":1}]"), T("{\"x\":[{\"id\":1}],\"id\":2}"), T("{\"\\u0061\":1,\"b\":2}"),
	T("{\"a\":1,\"\":2}"), T("{\"a\":1,\"aa\":2}"), T("{\"a\\u0000\":1,\"a\":2}"), T("{\"\\u0000\":1}"), T("{\n\"a\"\n:\n1\n}"),
	T("{\"__proto__\":1}"), T("{\"1\":1,\"01\":2}"), T("{\"\xc3\xa4\":1}"), T("{\"\xc3\xa4\":1,\"a\xcc\x88\":2}"),
	/* numbers */
	T("-0"), T("0.0"), T("-0.0"), T("0.1"), T("10"), T("1.0"), T("1.50"), T("1e1"), T("1E1"), T("1e+1"), T("1e-1"), T("1E+01"), T("1e00"),
	T("0e0"), T("0E-0"), T("-0e+0"), T("1.5e3"), T("123456789012345678901234567890"), T("-123456789012345678901234567890"),
	T("9007199254740993"), T("18446744073709551616"), T("1e999"), T("-1e999"), T("1e-999"), T("0.000000000000000000000000000001"),
	T("3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628"), T("1.7976931348623157e308"),
	T("4.9e-324"), T("[1.0,1e2,-3]"), T("1e0000000000000000000000000000000000000000000000000000000000000000000000001"),
	/* strings */
	T("\"abc\""), T("\"\\\"\""), T("\"\\\\\""), T("\"\\/\""), T("\"/\""), T("\"\\b\\f\\n\\r\\t\""), T("\"\\u0041\""), T("\"\\u00e9\""),
	T("\"\\uABCD\""), T("\"\\uabcd\""), T("\"\\uAbCd\""), T("\"\\u0000\""), T("\"\\u001f\""), T("\"\\u007f\""), T("\"\x7f\""), T("\"\\uFFFF\""),
	T("\"\\uFFFE\""), T("\"\\uFDD0\""), T("\"\\uD83D\\uDE00\""), T("\"\\ud800\\udc00\""), T("\"\\udbff\\udfff\""), T("\"a\\uD83D\\uDE00b\""),
	T("\"\\uD7FF\""), T("\"\\uE000\""), T("\"\\\\u12\""), T("\"\\\\\\\\\""), T("\"\\\"\\\"\""), T("\"'\""), T("\"{[,:]}\""), T("\"// no comment\""),
	T("\"\xc2\x80\""), T("\"\xdf\xbf\""), T("\"\xe0\xa0\x80\""), T("\"\xed\x9f\xbf\""), T("\"\xee\x80\x80\""), T("\"\xef\xbf\xbf\""), T("\"\xef\xbb\xbf\""),
	T("\"\xf0\x90\x80\x80\""), T("\"\xf4\x8f\xbf\xbf\""), T("\"\xf0\x9f\x98\x80\""), T("\"\xe2\x80\xa8\xe2\x80\xa9\""), T("\"gr\xc3\xbc\xc3\x9f\""),
	T("\"0123456789abcdef0123456789abcdef0123456789abcdef\""), T("\"0123456789abcde\\n0123456789abcdef0123456789abcdef\""),
	T("\"0123456789abcdef0123456789abcde\xc3\xbc""0123456789abcdef\""), T("[\"a\\\\\",\"b\"]"), T("\"\\u0022\""), T("\"\\u005C\""),
};

static const struct grammar_case refused[] = {
	/* nothing, or more than one thing */
	T(""), T(" "), T("\n"), T("1 2"), T("{}{}"), T("[][]"), T("{} x"), T("null,"), T("\"a\" \"b\""), T("[1]]"), T("{}}"), T("1,"), T(",1"),
	T("]"), T("}"), T(":"), T(","), T("{} // comment"), T("/* c */ {}"), T("# c\n{}"), T("null\0"), T("\0null"), T("[1]\0"), T("\0"),
	/* blanks that are none */
	T("\v1"), T("\f1"), T("[\f]"), T("\xc2\xa0""1"), T("1\xc2\xa0"), T("\xe2\x80\xa8""1"), T("\xef\xbb\xbf{}"), T("\xef\xbb\xbf"), T("\xff\xfe[\0]\0"),
	T("[1\v,2]"), T("{\"a\"\f:1}"), T("\x1e{}"), T("1\x85"),
	/* words */
	T("True"), T("NULL"), T("nul"), T("nulll"), T("tru"), T("truee"), T("fals"), T("False"), T("undefined"), T("NaN"), T("Infinity"),
	T("-Infinity"), T("-NaN"), T("nan"), T("n"), T("t"), T("f"), T("[nul]"), T("[truefalse]"), T("[true false]"), T("abc"), T("'a'"), T("`a`"),
	/* arrays */
	T("["), T("[1"), T("[1,"), T("[1,]"), T("[,]"), T("[,1]"), T("[1,,2]"), T("[1 2]"), T("[1;2]"), T("[1:2]"), T("[}"), T("[1}"), T("[\"a\""),
	T("[\"a\",\n"), T("[[]"), T("[[1]"), T("[1],"), T("[a]"), T("[\"a\" 1]"), T("[\"a\":1]"), T("[*]"), T("[1,*]"), T("[-]"), T("[\0]"), T("(1)"), T("<1>"),
	/* objects */
	T("{"), T("{\"a\""), T("{\"a\":"), T("{\"a\":1"), T("{\"a\":1,"), T("{\"a\":1,}"), T("{,}"), T("{,\"a\":1}"), T("{\"a\":1,,\"b\":2}"), T("{\"a\"}"),
	T("{\"a\":}"), T("{\"a\" 1}"), T("{\"a\"=1}"), T("{\"a\",1}"), T("{\"a\"::1}"), T("{:1}"), T("{a:1}"), T("{'a':1}"), T("{1:1}"), T("{null:1}"),
	T("{true:1}"), T("{[]:1}"), T("{{}:1}"), T("{\"a\":1 \"b\":2}"), T("{\"a\":1;\"b\":2}"), T("{\"a\":1]"), T("{]"), T("{\"a\":1}}"), T("{\"a\":1 2}"),
	T("{\"a\":b}"), T("{\"a\":1,\"b\"}"), T("{\"a\":1,b}"), T("{\"a\":'1'}"), T("{\"a\" \"b\"}"), T("{\"a\":1/**/}"), T("{\"a\":1,...}"), T("{\"a\n\":1}"),
	/* equal keys */
	T("{\"a\":1,\"a\":1}"), T("{\"a\":1,\"b\":2,\"a\":3}"), T("{\"a\":1,\"\\u0061\":2}"), T("{\"\\u0061\":1,\"\\u0061\":2}"), T("{\"\":1,\"\":2}"),
	T("[{\"a\":1,\"a\":2}]"), T("{\"x\":{\"a\":1,\"a\":2}}"), T("{\"\\/\":1,\"/\":2}"), T("{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}"),
	T("{\"\\u00e9\":1,\"\xc3\xa9\":2}"), T("{\"a\\u0000\":1,\"a\\u0000\":2}"), T("{\"\\n\":1,\"\\u000A\":2}"),
	/* numbers */
	T("01"), T("-01"), T("00"), T("-00"), T("+1"), T("++1"), T("--1"), T("- 1"), T("-"), T("+"), T("."), T(".5"), T("-.5"), T("1."), T("-1."), T("0."), T("1.e1"),
	T("1e"), T("1E"), T("1e+"), T("1e-"), T("1.5e"), T("1e1.5"), T("1e1e1"), T("1..2"), T("1.2.3"), T("0x10"), T("0b1"), T("0o7"), T("1_000"), T("1,000"),
	T("1 000"), T("1f"), T("1L"), T("1n"), T("0e"), T("0e+"), T("-e1"), T("e1"), T("1ee1"), T("1e++1"), T("1-2"), T("1+2"), T("1/2"), T("[1.]"), T("[-a]"), T("[1a]"),
	T("[012]"), T("[1e]"), T("\xef\xbc\x91"), T("1\0"), T("0123e4"), T("$1"), T("5%"),
	/* strings */
	T("\""), T("\"a"), T("\"\\"), T("\"\\\""), T("a\""), T("\"a\"b"), T("\"\n\""), T("\"\t\""), T("\"\r\""), T("\"\0\""), T("\"\x1f\""), T("\"a\x01""b\""), T("\"\\\n\""),
	T("\"\\a\""), T("\"\\v\""), T("\"\\0\""), T("\"\\x41\""), T("\"\\'\""), T("\"\\U0041\""), T("\"\\N\""), T("\"\\ \""), T("\"\\u\""), T("\"\\u1\""), T("\"\\u12\""),
	T("\"\\u123\""), T("\"\\u123"), T("\"\\u12g4\""), T("\"\\uG000\""), T("\"\\u 123\""), T("\"\\u+123\""), T("\"\\u-123\""), T("\"\\u{41}\""), T("\"\\u00\\u0041\""), T("\"\\\0\""),
	T("\"0123456789abcdef0123456789abcdef0123456789\n\""), T("\"0123456789abcdef0123456789abcde"), T("\"\\\xc3\xbc\""), T("\"\\u\xc3\xbc""12\""),
	/* half surrogates */
	T("\"\\ud800\""), T("\"\\udc00\""), T("\"\\udfff\""), T("\"\\ud800\\ud800\""), T("\"\\ud800\\u0041\""), T("\"\\ud800x\""), T("\"\\ud800\\n\""), T("\"\\udc00\\ud800\""),
	T("\"\\ud83d\\ude0\""), T("\"\\ud83d\\"), T("\"\\ud83d\\u"), T("\"\\ud83d\\ude00\\ude00\""), T("{\"\\ud800\":1}"), T("\"\\ud83d\\\\ude00\""),
	/* bytes that are not UTF-8 */
	T("\"\x80\""), T("\"\xbf\""), T("\"\xc0\x80\""), T("\"\xc0\xaf\""), T("\"\xc1\xbf\""), T("\"\xc3\""), T("\"\xc3\x28\""), T("\"\xe0\x80\x80\""), T("\"\xe0\x9f\xbf\""), T("\"\xe2\x82\""),
	T("\"\xe2\x28\xa1\""), T("\"\xe2\x82\x28\""), T("\"\xed\xa0\x80\""), T("\"\xed\xbf\xbf\""), T("\"\xf0\x80\x80\x80\""), T("\"\xf0\x8f\xbf\xbf\""), T("\"\xf0\x9f\x98\""), T("\"\xf0\x28\x8c\xbc\""),
	T("\"\xf4\x90\x80\x80\""), T("\"\xf5\x80\x80\x80\""), T("\"\xf8\x88\x80\x80\x80\""), T("\"\xfe\""), T("\"\xff\""), T("\"\xe9\""), T("{\"\xff\":1}"), T("[\"a\xff\"]"), T("\xff"), T("[\xff]"), T("\"\xc3"),
	T("\"0123456789abcdef0123456789abcdef0123456789abcdef\xff""0123456789abcdef\""), T("\"\xc3\xbc\x80\""), T("\"\xed\xa0\xbd\xed\xb8\x80\""),
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void accepts_what_the_rfc_accepts(void **state)
{
	for (size_t i = 0; i < COUNT(accepted); i++) {
		struct json j;
		struct why why = { 0 };

		if (parse_exact(&j, str_n(accepted[i].text, accepted[i].n), NULL, &why) != ERR_OK)
			fail_msg("accepted[%zu] %s: %s", i, accepted[i].text, why.text);
		assert_int_equal(j.tok[0].next, j.n);
	}
}

static void refuses_what_the_rfc_refuses(void **state)
{
	for (size_t i = 0; i < COUNT(refused); i++) {
		struct json j = { .n = 77 };
		struct why why = { 0 };

		if (parse_exact(&j, str_n(refused[i].text, refused[i].n), NULL, &why) != ERR_MALFORMED)
			fail_msg("refused[%zu] %s was accepted", i, refused[i].text);
		assert_int_equal(why.code, ERR_MALFORMED);
		assert_true(why.text[0] != '\0' && str_utf8_valid(str_of(why.text)));
		assert_int_equal(j.n, 77);
	}
	assert_true(COUNT(accepted) + COUNT(refused) >= 180);
}

/* A valid text that is a container or string has no valid proper prefix. */
static void refuses_every_truncation(void **state)
{
	static const char *const corpus[] = {
		"{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi \\u00e4\\n\\ud83d\\ude00 gr\xc3\xbc\xc3\x9f\"}],\"temperature\":0.5e-1,"
		"\"stream\":true,\"stop\":null,\"n\":1,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]}",
		"[0,-1.5,1e9,true,false,null,\"\",{},[],[[]],{\"a\":{\"b\":[{\"c\":\"0123456789abcdef0123456789abcdef\"}]}}]",
		"\"0123456789abcdef0123456789abcdef \xf0\x9f\x98\x80 \\\\ \\\" \\u0041\"",
	};

	for (size_t c = 0; c < COUNT(corpus); c++) {
		size_t n = strlen(corpus[c]);
		struct json j;

		for (size_t cut = 0; cut < n; cut++) {
			assert_int_equal(parse_exact(&j, str_n(corpus[c], cut), NULL, NULL), ERR_MALFORMED);
			arena_reset(mem);
		}
		assert_int_equal(parse_exact(&j, str_n(corpus[c], n), NULL, NULL), ERR_OK);
	}
}

static void refuses_any_control_byte_anywhere_in_a_string(void **state)
{
	char text[100];
	struct json j;

	for (size_t at = 1; at < sizeof(text) - 1; at++) {
		memset(text, 'x', sizeof(text));
		text[0] = text[sizeof(text) - 1] = '"';
		text[at] = (char)(at % 0x20);
		assert_int_equal(parse_exact(&j, str_n(text, sizeof(text)), NULL, NULL), ERR_MALFORMED);
		text[at] = (char)0x80;
		assert_int_equal(parse_exact(&j, str_n(text, sizeof(text)), NULL, NULL), ERR_MALFORMED);
		text[at] = 0x7f;
		assert_int_equal(parse_exact(&j, str_n(text, sizeof(text)), NULL, NULL), ERR_OK);
		arena_reset(mem);
	}
}

static void says_where(void **state)
{
	struct json j;
	struct why why = { 0 };

	assert_int_equal(parse_exact(&j, STR("{\n  \"\xc3\xa4\": tru\n}"), NULL, &why), ERR_MALFORMED);
	assert_non_null(strstr(why.text, "line 2, column 8 (byte 10)"));
	assert_int_equal(parse_exact(&j, STR("{\"a\":1,\"a\":2}"), NULL, &why), ERR_MALFORMED);
	assert_string_equal(why.field, "a");
	assert_non_null(strstr(why.text, "the key \"a\" is there twice"));
	assert_int_equal(parse_exact(&j, STR("[1,"), NULL, &why), ERR_MALFORMED);
	assert_non_null(strstr(why.text, "expected a value, found the end of the text"));
	assert_int_equal(parse_exact(&j, STR("[1\x01"), NULL, &why), ERR_MALFORMED);
	assert_non_null(strstr(why.text, "found byte 0x01"));
}

static struct str repeated(const char *open, const char *close, uint32_t n)
{
	struct buf b = { 0 };
	struct str s;

	for (uint32_t i = 0; i < n; i++)
		buf_addz(&b, open);
	for (uint32_t i = 0; i < n; i++)
		buf_addz(&b, close);
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void limits_depth(void **state)
{
	struct json_limits deep = { .max_depth = 1000000, .max_nodes = 1000001 };
	struct why why = { 0 };
	struct json j;

	assert_int_equal(parse_exact(&j, repeated("[", "]", 64), NULL, NULL), ERR_OK);
	assert_int_equal(parse_exact(&j, repeated("[", "]", 65), NULL, &why), ERR_TOO_LARGE);
	assert_non_null(strstr(why.text, "more than 64 arrays and objects"));
	assert_int_equal(parse_exact(&j, STR("[[[],[],[]],[[[]]]]"), &(struct json_limits){ .max_depth = 3, .max_nodes = 100 }, NULL), ERR_TOO_LARGE);
	assert_int_equal(parse_exact(&j, STR("[[[],[],[]],[[]]]"), &(struct json_limits){ .max_depth = 3, .max_nodes = 100 }, NULL), ERR_OK);
	assert_int_equal(parse_exact(&j, repeated("[", "", 1000000), NULL, NULL), ERR_TOO_LARGE);
	assert_int_equal(parse_exact(&j, repeated("[", "]", 1000000), &deep, NULL), ERR_OK);      /* no recursion */
	assert_int_equal(j.n, 1000000);
}

static void limits_nodes(void **state)
{
	struct json_limits ten = { .max_depth = 4, .max_nodes = 10 };
	struct json j;

	assert_int_equal(parse_exact(&j, STR("[1,2,3,4,5,6,7,8,9]"), &ten, NULL), ERR_OK);
	assert_int_equal(parse_exact(&j, STR("[1,2,3,4,5,6,7,8,9,0]"), &ten, NULL), ERR_TOO_LARGE);
	assert_int_equal(parse_exact(&j, STR("{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":[5,6,7,8]}"), &ten, NULL), ERR_OK);
	assert_int_equal(parse_exact(&j, STR("{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":[5,6,7,8,9]}"), &ten, NULL), ERR_TOO_LARGE);
	assert_int_equal(parse_exact(&j, STR("0"), &(struct json_limits){ .max_depth = 0, .max_nodes = 1 }, NULL), ERR_OK);
	assert_int_equal(parse_exact(&j, STR("[]"), &(struct json_limits){ .max_depth = 0, .max_nodes = 1 }, NULL), ERR_TOO_LARGE);
}

/* An object with keys k0..k(n-1), then 'extra'. */
static struct str wide_object(uint32_t n, const char *extra)
{
	struct buf b = { 0 };
	struct str s;

	buf_char(&b, '{');
	for (uint32_t i = 0; i < n; i++)
		buf_printf(&b, "%s\"k%u\":%u", i ? "," : "", i, i);
	buf_printf(&b, "%s}", extra);
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void finds_equal_keys_at_any_size(void **state)
{
	struct why why = { 0 };
	struct json j;

	for (uint32_t n = 1; n < 200; n++) {
		char extra[32];

		assert_int_equal(parse_exact(&j, wide_object(n, ""), NULL, NULL), ERR_OK);
		assert_int_equal(json_count(&j, 0), n);
		snprintf(extra, sizeof(extra), ",\"\\u006b%u\":0", n / 2);
		assert_int_equal(parse_exact(&j, wide_object(n, extra), NULL, &why), ERR_MALFORMED);
		assert_non_null(strstr(why.text, "twice"));
		snprintf(extra, sizeof(extra), ",\"K%u\":0", n / 2);
		assert_int_equal(parse_exact(&j, wide_object(n, extra), NULL, &why), ERR_MALFORMED);
		assert_non_null(strstr(why.text, "differ only in upper and lower case"));
		arena_reset(mem);
	}
}

static void equal_keys_stay_linear(void **state)
{
	struct json_limits large = { .max_depth = 4, .max_nodes = 200000, .refuse_case_variants = true };
	struct str text = wide_object(100000, "");
	int64_t from = mono_us();
	struct json j;

	assert_int_equal(parse_exact(&j, text, &large, NULL), ERR_OK);
	assert_true(mono_us() - from < 2000000);      /* comparing each with each takes minutes under a sanitizer */
	assert_int_equal(json_count(&j, 0), 100000);
	assert_int_equal(parse_exact(&j, wide_object(100000, ",\"k77777\":1"), &large, NULL), ERR_MALFORMED);
	assert_int_equal(parse_exact(&j, text, NULL, NULL), ERR_TOO_LARGE);      /* the root is a value too */
}

static void keys_may_repeat_where_that_is_said(void **state)
{
	static const struct str name[1] = { STR_INIT("a") };
	struct json_limits may = { .max_depth = 8, .max_nodes = 100, .may_repeat_keys = true };
	struct json j;
	uint32_t last;
	int64_t v;

	assert_int_equal(parse_exact(&j, STR("{\"a\":1,\"b\":{\"c\":1,\"c\":2},\"a\":3}"), &may, NULL), ERR_OK);
	assert_true(json_i64(&j, json_get(&j, 0, "a"), &v) && v == 1);
	json_get_many(&j, 0, name, 1, &last);
	assert_true(json_i64(&j, last, &v) && v == 3);
}

static void refuses_case_variants_at_the_root_only(void **state)
{
	struct json_limits any = { .max_depth = 8, .max_nodes = 100 };
	static const char *const variants[] = {
		"{\"model\":1,\"MODEL\":2}", "{\"Model\":1,\"x\":0,\"mOdel\":2}", "{\"model\":1,\"\\u004dodel\":2}", "{\"stream\":1,\"\xc5\xbftream\":2}",
		"{\"\xe2\x84\xaa\":1,\"k\":2}", "{\"\xe2\x84\xaa\":1,\"K\":2}", "{\"\\u017ftop\":1,\"STOP\":2}",
	};
	struct json j;

	for (size_t i = 0; i < COUNT(variants); i++) {
		assert_int_equal(parse_exact(&j, str_of(variants[i]), NULL, NULL), ERR_MALFORMED);
		assert_int_equal(parse_exact(&j, str_of(variants[i]), &any, NULL), ERR_OK);
	}
	parsed("{\"metadata\":{\"a\":1,\"A\":2}}");
	parsed("[{\"a\":1,\"A\":2}]");
	parsed("{\"a\":1,\"\xc3\xa4\":2,\"\xc3\x84\":3,\"@\":4,\"`\":5}");
}

static void finds_members_in_any_case(void **state)
{
	struct json j = parsed("{\"MODEL\":1,\"\xc5\xbftream\":2,\"\\u004eum_\\u212aeys\":3,\"\":4,\"x\":{\"Y\":5}}");

	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, 0, "model")), "1"));
	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, 0, "stream")), "2"));
	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, 0, "num_keys")), "3"));
	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, 0, "")), "4"));
	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, json_get(&j, 0, "x"), "y")), "5"));
	assert_true(str_eqz(json_raw(&j, json_get_any_case(&j, 0, "\xc5\xbftream")), "2"));      /* all that json_get() finds */
	assert_int_equal(json_get_any_case(&j, 0, "mode") + json_get(&j, 0, "model") + json_get(&j, 0, "stream"), 0);
}

/* Keys too long to be compared each with each go by the hash set. */
static void finds_equal_long_keys(void **state)
{
	struct buf b = { 0 };
	struct json j;

	for (int i = 0; i < 24; i++) {
		buf_addz(&b, i ? ",\"" : "{\"");
		for (int n = 0; n < 200; n++)
			buf_addz(&b, "abcdefghij");
		buf_printf(&b, "%02d\":0", i);
	}
	buf_char(&b, '}');
	assert_int_equal(parse_exact(&j, buf_as_str(&b), NULL, NULL), ERR_OK);
	b.p[b.n - 5] = '2';       /* ...22 twice */
	assert_int_equal(parse_exact(&j, buf_as_str(&b), NULL, NULL), ERR_MALFORMED);
	buf_free(&b);
}

static void reads_members(void **state)
{
	struct json j = parsed("{\"model\":\"m\",\"n\":3,\"o\":{\"n\":4,\"deep\":[1,{\"x\":2}]},\"\\u006cast\":true,\"z\\u0000\":1}");
	uint32_t o = json_get(&j, 0, "o"), deep = json_get(&j, o, "deep"), seen = 0;

	assert_true(json_string_eq(&j, json_get(&j, 0, "model"), "m"));
	assert_true(str_eqz(json_raw(&j, json_get(&j, o, "n")), "4"));
	assert_true(str_eqz(json_raw(&j, deep), "[1,{\"x\":2}]"));
	assert_int_equal(json_kind(&j, json_get(&j, 0, "last")), JSON_TRUE);
	assert_int_equal(json_get(&j, 0, "absent"), 0);
	assert_int_equal(json_get(&j, 0, "Model"), 0);
	assert_int_equal(json_get_any_case(&j, 0, "Model"), json_get(&j, 0, "model"));
	assert_int_equal(json_get(&j, 0, "z"), 0);
	assert_int_equal(json_get(&j, 0, "mode"), 0);
	assert_int_equal(json_get(&j, deep, "x"), 0);
	for (uint32_t i = json_first(&j, 0); i; i = json_next(&j, 0, i), seen++)
		assert_int_equal(j.tok[json_key(&j, i)].flags & JSON_KEY, JSON_KEY);
	assert_int_equal(seen, 5);
	assert_int_equal(json_count(&j, 0), 5);
	assert_true(json_key_is(&j, o, "o") && !json_key_is(&j, o, "n"));
	assert_true(str_eqz(json_key_raw(&j, json_get(&j, 0, "last")), "\\u006cast"));
	assert_true(str_eqz(json_string(&j, json_key(&j, json_get(&j, 0, "last")), mem), "last"));
	assert_int_equal(json_key(&j, 0), 0);
	assert_int_equal(json_key(&j, json_first(&j, deep)), 0);
	assert_false(json_key_is(&j, json_first(&j, deep), "deep"));
}

static void reads_several_members_at_once(void **state)
{
	static const struct str names[] = { STR_INIT("b"), STR_INIT("absent"), STR_INIT("a"), STR_INIT("long name") };
	struct json j;
	uint32_t at[4] = { 9, 9, 9, 9 };

	assert_int_equal(json_parse(&j, mem, STR("{\"\\u0061\":1,\"c\":{\"b\":2},\"b\":[3],\"long name\":null,\"long namf\":5}"), NULL, NULL), ERR_OK);
	json_get_many(&j, 0, names, 4, at);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(at[i], json_get(&j, 0, names[i].p));
	assert_true(at[0] && !at[1] && at[2] && at[3]);
	json_get_many(&j, at[0], names, 4, at);          /* no object: no members */
	assert_int_equal(at[0] | at[1] | at[2] | at[3], 0);
}

static void walks_arrays(void **state)
{
	struct json j = parsed("[1,[2,3],{\"a\":[]},\"x\",[]]");
	static const char *const raw[] = { "1", "[2,3]", "{\"a\":[]}", "\"x\"", "[]" };
	uint32_t n = 0;

	for (uint32_t i = json_first(&j, 0); i; i = json_next(&j, 0, i))
		assert_true(str_eqz(json_raw(&j, i), raw[n++]));
	assert_int_equal(n, 5);
	j = parsed("[]");
	assert_int_equal(json_first(&j, 0), 0);
	j = parsed("{}");
	assert_int_equal(json_first(&j, 0), 0);
	j = parsed("\"s\"");
	assert_int_equal(json_first(&j, 0) + json_count(&j, 0) + json_get(&j, 0, "s"), 0);
}

static void decodes_strings(void **state)
{
	struct json j = parsed("[\"plain\",\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"\\u0041\\u00e9\\u20AC\\uD83D\\uDE00\",\"a\\u0000b\",7,\"\"]");
	uint32_t i = json_first(&j, 0);
	struct str s = json_string(&j, i, mem);

	assert_ptr_equal(s.p, j.text + j.tok[i].at + 1);
	assert_true(str_eqz(s, "plain"));
	i = json_next(&j, 0, i);
	assert_true(str_eqz(json_string(&j, i, mem), "\"\\/\b\f\n\r\t") && json_string_eq(&j, i, "\"\\/\b\f\n\r\t"));
	i = json_next(&j, 0, i);
	assert_true(str_eqz(json_string(&j, i, mem), "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") && json_string_eq(&j, i, "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"));
	i = json_next(&j, 0, i);
	assert_true(str_eq(json_string(&j, i, mem), STR("a\0b")) && !json_string_eq(&j, i, "a"));
	i = json_next(&j, 0, i);
	assert_true(json_string(&j, i, mem).n == 0 && !json_is_string(&j, i) && !json_string_eq(&j, i, "7"));
	i = json_next(&j, 0, i);
	assert_true(json_is_string(&j, i) && json_string_eq(&j, i, ""));
}

static void reads_integers(void **state)
{
	static const struct { const char *text; bool ok; int64_t v; } cases[] = {
		{ "0", true, 0 }, { "-0", true, 0 }, { "42", true, 42 }, { "-7", true, -7 }, { "9223372036854775807", true, INT64_MAX },
		{ "-9223372036854775808", true, INT64_MIN }, { "9223372036854775808", false, 0 }, { "-9223372036854775809", false, 0 },
		{ "1.0", true, 1 }, { "1e3", true, 1000 }, { "-1.5e1", true, -15 }, { "1.5", false, 0 }, { "100e-2", true, 1 }, { "101e-2", false, 0 },
		{ "0.0", true, 0 }, { "-0.0e5", true, 0 }, { "0e999999999999999999999", true, 0 }, { "1e18", true, 1000000000000000000 }, { "1e19", false, 0 },
		{ "1e999999999999999999999", false, 0 }, { "1e-999999999999999999999", false, 0 }, { "9223372036854775807.0", true, INT64_MAX },
		{ "-9.223372036854775808e18", true, INT64_MIN }, { "9.223372036854775808e18", false, 0 }, { "9007199254740993.0", true, 9007199254740993 },
		{ "1000000000000000000000000000000e-30", true, 1 }, { "0.0000000000000000000000000000001e31", true, 1 }, { "18446744073709551616.0", false, 0 },
		{ "100000000000000000000000000000000000001e-2", false, 0 }, { "\"1\"", false, 0 }, { "true", false, 0 }, { "null", false, 0 }, { "[1]", false, 0 },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct json j = parsed(cases[i].text);
		int64_t v = 77;

		if (json_i64(&j, 0, &v) != cases[i].ok || v != (cases[i].ok ? cases[i].v : 77))
			fail_msg("%s gave %lld", cases[i].text, (long long)v);
	}
}

static void reads_doubles(void **state)
{
	static const char *const texts[] = { "0", "-0", "0.1", "0.7", "1e22", "1e23", "123456789.125", "9007199254740993", "4.9e-324", "1.7976931348623157e308",
		"2.2250738585072011e-308", "1e-999", "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887",
		"0.30000000000000004", "-2.5", "100000000000000000000000000000000e-32", "5e-1" };
	double v = 7;
	struct json j;

	for (size_t i = 0; i < COUNT(texts); i++) {
		j = parsed(texts[i]);
		assert_true(json_double(&j, 0, &v));
		assert_true(v == strtod(texts[i], NULL) && signbit(v) == signbit(strtod(texts[i], NULL)));
	}
	v = 7;
	j = parsed("1e999");
	assert_false(json_double(&j, 0, &v));
	j = parsed("\"1\"");
	assert_false(json_double(&j, 0, &v));
	assert_true(v == 7);
	j = parsed("[9007199254740993]");
	assert_true(str_eqz(json_raw(&j, 1), "9007199254740993"));
}

static void optional_members_say_what_is_wrong(void **state)
{
	struct json j = parsed("{\"temperature\":\"hot\",\"max_tokens\":1.5,\"n\":2,\"stream\":1,\"model\":{},\"user\":null,\"seed\":1e30,\"s\":\"\\u0061\",\"t\":0.5,\"b\":false}");
	struct str s = STR("kept");
	struct why why = { 0 };
	int64_t i = 5;
	double d = 5;
	bool b = true;

	assert_true(json_opt_str(&j, 0, "absent", &s, mem, &why) && json_opt_str(&j, 0, "user", &s, mem, &why) && str_eqz(s, "kept"));
	assert_true(json_opt_i64(&j, 0, "absent", &i, &why) && json_opt_double(&j, 0, "absent", &d, &why) && json_opt_bool(&j, 0, "absent", &b, &why));
	assert_true(i == 5 && d == 5 && b);
	assert_false(json_opt_double(&j, 0, "temperature", &d, &why));
	assert_string_equal(why.text, "temperature must be a number, not a string");
	assert_string_equal(why.field, "temperature");
	assert_int_equal(why.code, ERR_MALFORMED);
	assert_false(json_opt_i64(&j, 0, "max_tokens", &i, &why));
	assert_string_equal(why.text, "max_tokens must be a whole number of 64 bits, not 1.5");
	assert_false(json_opt_i64(&j, 0, "seed", &i, &why));
	assert_false(json_opt_i64(&j, 0, "model", &i, &why));
	assert_string_equal(why.text, "model must be a whole number, not an object");
	assert_false(json_opt_bool(&j, 0, "stream", &b, &why));
	assert_string_equal(why.text, "stream must be true or false, not a number");
	assert_false(json_opt_str(&j, 0, "b", &s, mem, &why));
	assert_string_equal(why.text, "b must be a string, not a boolean");
	assert_true(json_opt_i64(&j, 0, "n", &i, &why) && i == 2 && json_opt_str(&j, 0, "s", &s, mem, &why) && str_eqz(s, "a"));
	assert_true(json_opt_double(&j, 0, "t", &d, &why) && d == 0.5 && json_opt_bool(&j, 0, "b", &b, &why) && !b);
}

/* xorshift: the same texts in every run. */
static uint32_t random32(void)
{
	static uint32_t x = 2463534242;

	x ^= x << 13, x ^= x >> 17, x ^= x << 5;
	return x;
}

/* A few characters of every length, sometimes with one byte wrong. */
static size_t random_utf8(char *out, size_t cap)
{
	static const char *const pieces[] = { "a", "0123456789abcdef0123456789abcdef", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf", "\"", "\\", "\n" };
	size_t n = 0;

	while (n + 40 < cap && random32() % 24) {
		const char *piece = pieces[random32() % (random32() % 8 ? 7 : COUNT(pieces))];

		memcpy(out + n, piece, strlen(piece));
		n += strlen(piece);
	}
	if (n && random32() % 2)
		out[random32() % n] = (char)random32();
	return n;
}

static void scanners_agree(void **state)
{
	enum json_scan_isa best = json_scan_best();

	for (int round = 0; round < 100000; round++) {
		char text[400];
		size_t n = random_utf8(text, sizeof(text)), at[3], bad[3];
		bool wide[3] = { false, false, false };

		for (int isa = JSON_SCAN_PLAIN; isa <= (int)best; isa++) {
			assert_true(json_scan_use((enum json_scan_isa)isa));
			at[isa] = (size_t)(json_scan(text, text + n, &wide[isa]) - text);
			bad[isa] = (size_t)(json_scan_utf8(text, text + n) - text);
			assert_int_equal(at[isa], at[0]);
			assert_int_equal(wide[isa], wide[0]);
			assert_int_equal(bad[isa], bad[0]);
			assert_int_equal(bad[isa] == n, str_utf8_valid(str_n(text, n)));
		}
	}
	json_scan_use(best);
}

static int setup(void **state) { return mem = arena_new(0), 0; }
static int teardown(void **state) { return arena_free(mem), 0; }

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(accepts_what_the_rfc_accepts), TEST(refuses_what_the_rfc_refuses), TEST(refuses_every_truncation),
		TEST(refuses_any_control_byte_anywhere_in_a_string), TEST(says_where), TEST(limits_depth), TEST(limits_nodes),
		TEST(finds_equal_keys_at_any_size), TEST(equal_keys_stay_linear), TEST(keys_may_repeat_where_that_is_said), TEST(refuses_case_variants_at_the_root_only),
		TEST(finds_equal_long_keys), TEST(finds_members_in_any_case), TEST(reads_members), TEST(reads_several_members_at_once),
		TEST(walks_arrays), TEST(decodes_strings), TEST(reads_integers), TEST(reads_doubles),
		TEST(optional_members_say_what_is_wrong), TEST(scanners_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

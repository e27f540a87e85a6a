/* pattern_test.c - what patterns find, what is none, and that no text takes long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/pattern.h"

static struct arena *mem;

static int setup(void **state)
{
	(void)state;
	mem = arena_new(0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	arena_free(mem);
	return 0;
}

/* What was found, each in brackets. */
static const char *found(const char *pattern, const char *text)
{
	struct why why = { 0 };
	struct pattern *p = pattern_new(mem, str_of(pattern), &why);
	int64_t work = 1000000;
	struct span *s;
	struct str out = { 0 };
	size_t n;

	if (!p)
		fail_msg("'%s': %s", pattern, why.text);
	assert_true(pattern_find(p, str_of(text), mem, &work, &s, &n));
	for (size_t i = 0; i < n; i++)
		out = arena_fmt(mem, STR_FMT "[" STR_FMT "]", STR_ARG(out), (int)(s[i].to - s[i].from), text + s[i].from);
	return out.n ? out.p : "";
}

static void finds_what_it_says(void **state)
{
	(void)state;
	assert_string_equal(found("abc", "xabcabcab"), "[abc][abc]");
	assert_string_equal(found("a|bc", "abcb"), "[a][bc]");
	assert_string_equal(found("a+", "baaab"), "[aaa]");
	assert_string_equal(found("a+b?", "aab a"), "[aab][a]");
	assert_string_equal(found("(ab){2,3}", "ab abab abababab"), "[abab][abababab]");
	assert_string_equal(found("[^a-y]{2}", "abzzcz"), "[zz]");
	assert_string_equal(found("[]a]+", "x]a]"), "[]a]]");
	assert_string_equal(found("[[:digit:]x-]{3}", "1-x"), "[1-x]");
	assert_string_equal(found("\\d{3}\\s\\w", "a123 _"), "[123 _]");
	assert_string_equal(found("\\D\\d", "a1"), "[a1]");
	assert_string_equal(found("\\bcat\\b", "concat cat cats cat"), "[cat][cat]");
	assert_string_equal(found("^ab", "abab"), "[ab]");
	assert_string_equal(found("ab$", "abab"), "[ab]");
	assert_string_equal(found("a.c", "a\nc abc"), "[abc]");
	assert_string_equal(found("(?i)Ab[c-e]", "aBD"), "[aBD]");
	assert_string_equal(found("\\x41\\.\\n", "A.\n"), "[A.\n]");
	assert_string_equal(found("(a|)b", "b ab"), "[b][ab]");
	assert_string_equal(found("(a*)*b", "aaab"), "[aaab]");
	assert_string_equal(found("é", "caf\xc3\xa9"), "[\xc3\xa9]");
}

static void overlapping_matches_are_one_part(void **state)
{
	(void)state;
	assert_string_equal(found("[0-9]{3}", "12345"), "[12345]");
	assert_string_equal(found("aba", "ababa"), "[ababa]");
	assert_string_equal(found("abcd|bc|cde", "abcde"), "[abcde]");
}

static void what_is_no_pattern_is_told(void **state)
{
	static const char *const wrong[] = { "", "a**b***", "*a", "(a", "a)", "[a", "[z-a]", "[[:nothing:]]", "a{2", "a{3,2}", "a{1001}", "\\q", "(a)\\1", "(?:a)", "a*", "a|", "^$",
		"\\b", "\\x4", "[\xc3\xa9]", "((((((((((((((((((((((((((((((((((a))))))))))))))))))))))))))))))))))", "((a{100}){100}){100}" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct why why = { 0 };

		if (pattern_new(mem, str_of(wrong[i]), &why))
			fail_msg("'%s' was taken for a pattern", wrong[i]);
		assert_int_equal(why.code, ERR_INVALID);
		assert_true(why.text[0]);
	}
	(void)state;
}

static void a_literal_means_its_bytes(void **state)
{
	struct why why = { 0 };
	struct pattern *p = pattern_literal(mem, STR("a.(b"), &why);
	int64_t work = 10000;
	struct span *s;
	size_t n;

	(void)state;
	assert_non_null(p);
	assert_true(pattern_find(p, STR("axxb a.(b"), mem, &work, &s, &n));
	assert_int_equal(n, 1);
	assert_int_equal(s[0].from, 5);
	assert_int_equal(s[0].to, 9);
}

/* Exponential or quadratic elsewhere: here the work is at most places times bytes, whatever the text is. */
static void no_text_takes_long(void **state)
{
	static const char *const evil[] = { "(a+)+b", "(a|aa)+b", "(a|a)*(a|a)*b", "a|a*b", "(.*a){12}b", "a{1,200}b" };
	enum { N = 20000 };
	char *text = arena_alloc(mem, N);

	(void)state;
	memset(text, 'a', N);
	for (size_t i = 0; i < sizeof(evil) / sizeof(*evil); i++) {
		struct why why = { 0 };
		struct pattern *p = pattern_new(mem, str_of(evil[i]), &why);
		int64_t work = 3 * (int64_t)N * 500;
		struct span *s;
		size_t n;

		assert_non_null(p);
		assert_true(pattern_find(p, str_n(text, N), mem, &work, &s, &n));
	}
}

static void what_takes_too_long_is_given_up(void **state)
{
	struct why why = { 0 };
	struct pattern *p = pattern_new(mem, STR("a{1,200}b"), &why);
	int64_t work = 1000;
	struct span *s;
	char text[5000];
	size_t n;

	(void)state;
	memset(text, 'a', sizeof(text));
	assert_false(pattern_find(p, str_n(text, sizeof(text)), mem, &work, &s, &n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(finds_what_it_says, setup, teardown),
		cmocka_unit_test_setup_teardown(overlapping_matches_are_one_part, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_no_pattern_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(a_literal_means_its_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(no_text_takes_long, setup, teardown),
		cmocka_unit_test_setup_teardown(what_takes_too_long_is_given_up, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

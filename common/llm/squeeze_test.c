/* squeeze_test.c - what is said twice is said once, and nothing else is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "common/base/buf.h"
#include "common/llm/squeeze.h"

#define BLOCK "int add(int a, int b)\n{\n\treturn a + b;           /* sixty-four bytes and more */\n}"
#define OTHER "int sub(int a, int b)\n{\n\treturn a - b;           /* sixty-four bytes and more */\n}"

static struct arena *mem;

static int open_arena(void **state)
{
	mem = arena_new(0);
	return 0;
}

static int close_arena(void **state)
{
	arena_free(mem);
	return 0;
}

static void becomes(const char *from, const char *to)
{
	struct str got = llm_squeeze(str_of(from), mem);

	if (!str_eqz(got, to))
		fail_msg("'%s' becomes '%.*s', not '%s'", from, (int)got.n, got.p, to);
	assert_true(str_eq(llm_squeeze(got, mem), got));
}

static void a_block_that_came_before_is_said_once(void **state)
{
	becomes(BLOCK "\n\n" OTHER "\n\n" BLOCK, BLOCK "\n\n" OTHER "\n\n" SQUEEZE_MARK);
	becomes(BLOCK "\n\n" BLOCK "  \n\n\n\n" BLOCK "\r\n", BLOCK "\n\n" SQUEEZE_MARK "\n\n" SQUEEZE_MARK);
	becomes("short\n\nshort\n\nshort", "short\n\nshort\n\nshort");
}

static void one_byte_makes_another_block(void **state)
{
	becomes(BLOCK "\n\n " BLOCK, BLOCK "\n\n " BLOCK);
	becomes(BLOCK "\n\n" OTHER, BLOCK "\n\n" OTHER);
}

static void blanks_that_mean_something_stay(void **state)
{
	becomes("def f():\n\tif x:\n\t    return  'a  b'", "def f():\n\tif x:\n\t    return  'a  b'");
	becomes("a \nb\t\n\n\n\n  c", "a\nb\n\n  c");
	becomes("", "");
	becomes("a", "a");
	becomes("\n\n\n", "");
}

static void a_fenced_block_is_one(void **state)
{
	const char *fenced = "```c\n" BLOCK "\n\n\n" OTHER "\n```";
	struct str twice = arena_fmt(mem, "%s\n\ntext\n\n%s", fenced, fenced), once = arena_fmt(mem, "%s\n\ntext\n\n" SQUEEZE_MARK, fenced);

	becomes(twice.p, once.p);
	becomes("~~~\n```\n\n\nx\n~~~\n\n\ny", "~~~\n```\n\n\nx\n~~~\n\ny");
	becomes("```\nnever closed\n\n\nx", "```\nnever closed\n\n\nx");
}

/* Any text: no line of it that is not blank is lost for ever, and it never grows. */
static void whatever_it_is_it_never_grows_and_keeps_every_line_once(void **state)
{
	static const char *const pieces[] = { BLOCK, OTHER, "\n", "\n\n", " ", "```\n", "x", "\t", "\r\n", "~~~\n" };
	struct buf text = { 0 };

	srand(7);
	for (unsigned round = 0; round < 2000; round++) {
		struct str got, rest, line;

		buf_clear(&text);
		for (int n = rand() % 12; n >= 0; n--)
			buf_addz(&text, pieces[(unsigned)rand() % (sizeof(pieces) / sizeof(*pieces))]);
		got = llm_squeeze(buf_as_str(&text), mem);
		assert_true(got.n <= text.n);
		rest = buf_as_str(&text);
		while (str_split(&rest, '\n', &line)) {
			while (line.n && strchr(" \t\r", line.p[line.n - 1]))
				line.n--;
			if (line.n && !str_find(got, line))
				fail_msg("'%.*s' is lost from '%.*s'", (int)line.n, line.p, (int)text.n, text.p);
		}
		arena_reset(mem);
	}
	buf_free(&text);
}

static void a_body_is_changed_in_its_context_alone(void **state)
{
	struct str body = STR("{\"prompt\":\"a  \\n\\n\\n\\nb\",\"context\":\"x  \\n\\n\\n\\ny\",\"n\":1.0}");

	assert_true(str_eqz(llm_squeeze_body(body, mem), "{\"prompt\":\"a  \\n\\n\\n\\nb\",\"context\":\"x\\n\\ny\",\"n\":1.0}"));
	body = STR("{\"prompt\":\"a\",\"context\":\"x\"}");
	assert_ptr_equal(llm_squeeze_body(body, mem).p, body.p);
	body = STR("{\"prompt\":\"a\",\"context\":7}");
	assert_ptr_equal(llm_squeeze_body(body, mem).p, body.p);
	body = STR("{");
	assert_ptr_equal(llm_squeeze_body(body, mem).p, body.p);
}

#define T(f) cmocka_unit_test_setup_teardown(f, open_arena, close_arena)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_block_that_came_before_is_said_once), T(one_byte_makes_another_block), T(blanks_that_mean_something_stay), T(a_fenced_block_is_one),
		T(whatever_it_is_it_never_grows_and_keeps_every_line_once), T(a_body_is_changed_in_its_context_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

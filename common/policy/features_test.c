/* features_test.c - task, complexity and language of short requests as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/features.h"

static const struct { const char *text; enum task task; const char *language; } cases[] = {
	{ "Fix the off-by-one error in this loop: for (i = 0; i <= n; i++) {}", TASK_BUG_FIX, NULL },
	{ "Traceback (most recent call last):\n  File \"a.py\", line 3\nTypeError: x", TASK_BUG_FIX, "python" },
	{ "Debug why my server segfaults on start", TASK_BUG_FIX, NULL },
	{ "Write a python function that parses an ISO date", TASK_FEATURE, "python" },
	{ "Implement a ring buffer in C", TASK_FEATURE, "c" },
	{ "Refactor this class so that it has no globals", TASK_REFACTOR, NULL },
	{ "Please review this pull request", TASK_CODE_REVIEW, NULL },
	{ "Explain how TCP slow start works", TASK_EXPLAIN, NULL },
	{ "Write unit tests for the parser", TASK_TEST_GENERATION, NULL },
	{ "Add docstrings to this module", TASK_DOCS, NULL },
	{ "Write a SQL query that joins orders and customers", TASK_SQL, "sql" },
	{ "A bash one-liner that counts lines per file", TASK_SHELL, "shell" },
	{ "Extract all names and dates as JSON", TASK_DATA_EXTRACTION, NULL },
	{ "Summarize this article in three sentences", TASK_SUMMARIZE, NULL },
	{ "Translate 'good night' into French", TASK_TRANSLATE, NULL },
	{ "Solve the equation 3x + 4 = 19", TASK_MATH, NULL },
	{ "Analyze the trade-offs of microservices step by step", TASK_REASONING, NULL },
	{ "Write a poem about the sea", TASK_CREATIVE, NULL },
	{ "What is the capital of France?", TASK_QA, NULL },
	{ "hello", TASK_CHAT, NULL },
	{ "Hi there!", TASK_CHAT, NULL },
	{ "xyzzy", TASK_UNKNOWN, "" },
};

static void detects_tasks(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct feature_text t = { .user = str_of(cases[i].text), .prompt_tokens = 20, .n_messages = 1 };
		struct features f;

		features_extract(&f, &t);
		if (f.task != cases[i].task || (cases[i].language && strcmp(f.language, cases[i].language) != 0))
			fail_msg("'%s' is %s/%s, not %s/%s", cases[i].text, task_name(f.task), f.language, task_name(cases[i].task),
				 cases[i].language ? cases[i].language : "*");
	}
}

static void reads_names_and_synonyms(void **state)
{
	enum task t;

	assert_true(task_parse(STR("bug-fix"), &t) && t == TASK_BUG_FIX);
	assert_true(task_parse(STR("Code_Generation"), &t) && t == TASK_FEATURE);
	assert_true(task_parse(STR("tests"), &t) && t == TASK_TEST_GENERATION);
	assert_true(task_parse(STR("CONVERSATION"), &t) && t == TASK_CHAT);
	assert_false(task_parse(STR("gardening"), &t));
	for (int i = 0; i < TASK_COUNT; i++)
		assert_true(task_parse(str_of(task_name((enum task)i)), &t) && t == (enum task)i);
}

static enum complexity complexity(const char *text, uint32_t tokens, uint32_t messages)
{
	struct feature_text t = { .user = str_of(text), .prompt_tokens = tokens, .n_messages = messages };
	struct features f;

	features_extract(&f, &t);
	return f.complexity;
}

static void estimates_complexity(void **state)
{
	assert_int_equal(complexity("hello", 5, 1), COMPLEXITY_SIMPLE);
	assert_int_equal(complexity("Fix this bug", 400, 1), COMPLEXITY_MEDIUM);
	assert_int_equal(complexity("Refactor the whole module", 7000, 12), COMPLEXITY_COMPLEX);
}

static void takes_any_bytes(void **state)
{
	char text[256];
	struct features f;

	for (unsigned i = 0; i < 256; i++)
		text[i] = (char)(i * 37);
	for (unsigned n = 0; n <= 256; n++)
		features_extract(&f, &(struct feature_text){ .user = str_n(text, n), .context = str_n(text, n) });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(detects_tasks), cmocka_unit_test(reads_names_and_synonyms), cmocka_unit_test(estimates_complexity),
		cmocka_unit_test(takes_any_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

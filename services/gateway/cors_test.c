/* cors_test.c - which origins are let in, and what they are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/cors.h"

static const char *named[] = { "https://chat.example.org", "http://localhost:*", "chrome-extension://*" };
static const struct opt_list none = { 0 }, some = { named, 3 };

static struct http_head *head_of(const char *text)
{
	static struct http_head head;
	struct why why;

	assert_int_equal(http_parse_request(&head, str_of(text), 0, &http_limits_default, &why), HTTP_DONE);
	return &head;
}

static void lets_in_what_is_named(void **state)
{
	static const char *everything[] = { "*" };
	const struct opt_list all = { everything, 1 };

	assert_true(cors_allows(&some, STR("https://chat.example.org")));
	assert_true(cors_allows(&some, STR("HTTPS://Chat.Example.ORG")));
	assert_true(cors_allows(&some, STR("http://localhost:3000")));
	assert_true(cors_allows(&some, STR("chrome-extension://abc")));
	assert_false(cors_allows(&some, STR("https://chat.example.org.evil.test")));
	assert_false(cors_allows(&some, STR("https://evil.test?https://chat.example.org")));
	assert_false(cors_allows(&some, STR("http://localhost.evil.test:3000")));
	assert_false(cors_allows(&some, STR("null")));
	assert_false(cors_allows(&some, STR("")));
	assert_false(cors_allows(&none, STR("https://chat.example.org")));
	assert_true(cors_allows(&all, STR("https://anything.test")));
}

static void tells_nothing_without_origins(void **state)
{
	struct arena *mem = arena_new(0);

	assert_int_equal(cors_lines(&none, head_of("GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://chat.example.org\r\n\r\n"), mem).n, 0);
	assert_true(str_eqz(cors_lines(&some, head_of("GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.test\r\n\r\n"), mem), "Vary: Origin\r\n"));
	arena_free(mem);
}

static void answers_a_preflight(void **state)
{
	static const char ask[] = "OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:1\r\nAccess-Control-Request-Method: POST\r\n"
				  "Access-Control-Request-Headers: x-api-key\r\n\r\n";
	struct arena *mem = arena_new(0);
	struct str lines = cors_options(&some, head_of(ask), STR("POST, OPTIONS"), mem);

	assert_non_null(str_find(lines, STR("Allow: POST, OPTIONS\r\n")));
	assert_non_null(str_find(lines, STR("Access-Control-Allow-Methods: POST, OPTIONS\r\n")));
	assert_non_null(str_find(lines, STR("Access-Control-Allow-Headers: x-api-key\r\n")));
	lines = cors_options(&none, head_of(ask), STR("POST, OPTIONS"), mem);
	assert_true(str_eqz(lines, "Allow: POST, OPTIONS\r\n"));
	arena_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lets_in_what_is_named), cmocka_unit_test(tells_nothing_without_origins), cmocka_unit_test(answers_a_preflight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* redact_test.c - what must not leave does not, wherever in a request it stands and however it is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/data/json.h"
#include "common/llm/redact.h"

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

static struct redact *rules(const char *text)
{
	struct why why = { 0 };
	struct redact *set = redact_new(mem, str_of(text), &why);

	if (!set)
		fail_msg("%s", why.text);
	return set;
}

static struct redacted done;

static const char *after(const char *rule_text, const char *json)
{
	struct why why = { 0 };
	struct json j;

	if (redact_apply(rules(rule_text), str_of(json), mem, &done, &why) != ERR_OK)
		fail_msg("%s", why.text);
	assert_int_equal(json_parse(&j, mem, done.json, NULL, &why), ERR_OK);
	return arena_str(mem, done.json).p;
}

/* 'said' is one text of a message, without anything that JSON escapes. */
static const char *text_after(const char *rule_text, const char *said)
{
	const char *json = after(rule_text, arena_printf(mem, "{\"m\":[\"%s\"]}", said));

	return arena_dup(mem, json + 7, strlen(json) - 10);
}

static void nothing_found_changes_nothing(void **state)
{
	const char *json = "{ \"model\":\"p/x\", \"messages\":[{\"role\":\"user\",\"content\":\"caf\\u00e9 \\/ 12\"}] }";

	(void)state;
	assert_string_equal(after("redact email\nredact card\nrefuse api_key\n", json), json);
	assert_ptr_equal(done.json.p, json);
	assert_int_equal(done.total, 0);
	assert_string_equal(after("# none\n\n", json), json);
}

static void mail_addresses(void **state)
{
	(void)state;
	assert_string_equal(text_after("redact email", "to a.b+c@mail.example.org, please"), "to [redacted:email], please");
	assert_string_equal(text_after("redact email", "x@y and @z and a@b"), "x@y and @z and a@b");
	assert_string_equal(text_after("redact email", "a@b.de c@d.fr"), "[redacted:email] [redacted:email]");
	assert_int_equal(done.count[0], 2);
}

static void cards_by_their_check_digit(void **state)
{
	(void)state;
	assert_string_equal(text_after("redact card", "card 4111111111111111!"), "card [redacted:card]!");
	assert_string_equal(text_after("redact card", "4111 1111 1111 1111 12/27"), "[redacted:card] 12/27");
	assert_string_equal(text_after("redact card", "5500-0000-0000-0004"), "[redacted:card]");
	assert_string_equal(text_after("redact card", "3782 822463 10005."), "[redacted:card].");
	assert_string_equal(text_after("redact card", "12 4111111111111111"), "12 [redacted:card]");
	assert_string_equal(text_after("redact card", "4111111111111112"), "4111111111111112");
	assert_string_equal(text_after("redact card", "41111111111111110000000000"), "41111111111111110000000000");
	assert_string_equal(text_after("redact card", "0000000000000000"), "0000000000000000");
}

static void keys_by_their_shape(void **state)
{
	static const char *const keys[] = { "sk-abcdefghijklmnop1234", "sk-ant-api03-AbCdEf_GhIjKlMn-Op", "AKIAIOSFODNN7EXAMPLE", "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
		"xoxb-123456789012-abcdef", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlLWhlcmU",
		"corral_sk_abcdefgh12345678_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW", "hf_abcdefghijklmnopqrstuvwxyz012345" };

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		assert_string_equal(text_after("redact api_key", arena_printf(mem, "key=%s end", keys[i])), "key=[redacted:api_key] end");
	assert_string_equal(text_after("redact api_key", "ask-me-anything-about-things, risk-free"), "ask-me-anything-about-things, risk-free");
	assert_string_equal(after("redact api_key", "{\"a\":[\"-----BEGIN RSA PRIVATE KEY-----\\nAbC+/=\\n-----END RSA PRIVATE KEY-----\\n.\"]}"), "{\"a\":[\"[redacted:api_key].\"]}");
}

static void own_patterns_and_canaries(void **state)
{
	(void)state;
	assert_string_equal(text_after("redact ticket pattern (?i)ticket-\\d{4,}", "see Ticket-12345."), "see [redacted:ticket].");
	assert_string_equal(text_after("redact bird text Blue Heron", "the Blue Heron flies, blue heron not"), "the [redacted:bird] flies, blue heron not");
	assert_string_equal(text_after("redact dots pattern a.", "b a\xc3\xa9" "d"), "b [redacted:dots]d");      /* no half character stays */
}

static void found_wherever_it_stands(void **state)
{
	const char *r = "redact c text CANARY";

	(void)state;
	assert_string_equal(after(r, "{\"messages\":[{\"role\":\"user\",\"content\":\"a CANARY\"}],\"user\":\"CANARY\",\"model\":\"CANARY/x\"}"),
			    "{\"messages\":[{\"role\":\"user\",\"content\":\"a [redacted:c]\"}],\"user\":\"[redacted:c]\",\"model\":\"CANARY/x\"}");
	assert_string_equal(after(r, "{\"tools\":[{\"function\":{\"description\":\"\\u0043ANARY\",\"parameters\":{\"CANARY\":{},\"xCANARY\":{}}}}]}"),
			    "{\"tools\":[{\"function\":{\"description\":\"[redacted:c]\",\"parameters\":{\"[redacted:c:2]\":{},\"x[redacted:c:3]\":{}}}}]}");
	assert_int_equal(done.total, 3);
	assert_string_equal(after("redact card", "{\"seed\":4111111111111111,\"m\":[{\"input\":{\"card\":4111111111111111,\"n\":1.5}}]}"),
			    "{\"seed\":4111111111111111,\"m\":[{\"input\":{\"card\":\"[redacted:card]\",\"n\":1.5}}]}");
}

static void split_over_parts_is_found(void **state)
{
	const char *r = "redact c text CANARY-42";

	(void)state;
	assert_string_equal(after(r, "{\"messages\":[{\"content\":[{\"type\":\"text\",\"text\":\"say CAN\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"u\"}},"
				     "{\"type\":\"text\",\"text\":\"AR\"},{\"type\":\"text\",\"text\":\"\"},{\"type\":\"text\",\"text\":\"Y-42 now\"}]}]}"),
			    "{\"messages\":[{\"content\":[{\"type\":\"text\",\"text\":\"say [redacted:c]\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"u\"}},"
			    "{\"type\":\"text\",\"text\":\"\"},{\"type\":\"text\",\"text\":\"\"},{\"type\":\"text\",\"text\":\" now\"}]}]}");
	assert_int_equal(done.total, 1);
	assert_string_equal(after(r, "{\"stop\":[\"CANARY\",\"-42\",\"CANARY-42\"]}"), "{\"stop\":[\"[redacted:c]\",\"\",\"[redacted:c]\"]}");
	assert_string_equal(after("redact card", "{\"system\":[{\"text\":\"4111 1111\"},{\"text\":\" 1111 1111\"}]}"),
			    "{\"system\":[{\"text\":\"[redacted:card]\"},{\"text\":\"\"}]}");
	/* a part that holds a whole one is found although the next part goes on with digits */
	assert_string_equal(after("redact card", "{\"system\":[{\"text\":\"4111111111111111\"},{\"text\":\"0000000\"}]}"),
			    "{\"system\":[{\"text\":\"[redacted:card]\"},{\"text\":\"0000000\"}]}");
	/* messages are not parts */
	assert_string_equal(after(r, "{\"messages\":[{\"content\":\"CANARY\"},{\"content\":\"-42\"}]}"), "{\"messages\":[{\"content\":\"CANARY\"},{\"content\":\"-42\"}]}");
}

static void arguments_of_tools_are_read(void **state)
{
	const char *r = "redact c text CANARY\nredact card";

	(void)state;
	assert_string_equal(after(r, "{\"messages\":[{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"q\\\":\\\"\\\\u0043ANARY\\\"}\"}}]}]}"),
			    "{\"messages\":[{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"q\\\":\\\"[redacted:c]\\\"}\"}}]}]}");
	assert_string_equal(after(r, "{\"arguments\":\"{\\\"card\\\": 4111111111111111}\"}"), "{\"arguments\":\"{\\\"card\\\": \\\"[redacted:card]\\\"}\"}");
	/* JSON in JSON in JSON */
	assert_string_equal(after(r, "{\"a\":\"{\\\"b\\\":\\\"{\\\\\\\"c\\\\\\\":\\\\\\\"\\\\\\\\u0043ANARY\\\\\\\"}\\\"}\"}"),
			    "{\"a\":\"{\\\"b\\\":\\\"{\\\\\\\"c\\\\\\\":\\\\\\\"[redacted:c]\\\\\\\"}\\\"}\"}");
	/* cut in the middle: no JSON any more, but its escapes are read */
	assert_string_equal(after(r, "{\"arguments\":\"{\\\"q\\\":\\\"\\\\u0043ANAR\\\\u0059 and\"}"), "{\"arguments\":\"{\\\"q\\\":\\\"[redacted:c] and\"}");
	/* split inside an array of a tool's arguments */
	assert_string_equal(after(r, "{\"arguments\":\"[\\\"CAN\\\",\\\"ARY\\\"]\"}"), "{\"arguments\":\"[\\\"[redacted:c]\\\",\\\"\\\"]\"}");
}

static void a_rule_that_refuses(void **state)
{
	struct redact *set = rules("redact email\nrefuse secret text hunter2");
	struct why why = { 0 };

	(void)state;
	assert_int_equal(redact_apply(set, STR("{\"m\":[{\"text\":\"a@b.de hun\"},{\"text\":\"ter2\"}]}"), mem, &done, &why), ERR_INVALID);
	assert_int_equal(done.refused_by, 1);
	assert_non_null(strstr(why.text, "'secret'"));
	assert_null(strstr(why.text, "hunter"));
	assert_int_equal(redact_apply(set, STR("{\"m\":\"hunter\"}"), mem, &done, &why), ERR_OK);
	assert_int_equal(done.refused_by, -1);
}

static void what_cannot_be_looked_at_does_not_leave(void **state)
{
	struct redact *set = rules("redact c text CANARY");
	struct str s = STR("\"x\"");
	struct why why = { 0 };

	(void)state;
	assert_int_equal(redact_apply(set, STR("{\"m\":"), mem, &done, &why), ERR_MALFORMED);
	for (unsigned i = 0; i < 9; i++) {        /* each level is a JSON text in a JSON text */
		char *next = arena_alloc(mem, 2 * s.n + 3), *at = next;

		*at++ = '"';
		for (size_t k = 0; k < s.n; k++) {
			if (s.p[k] == '"' || s.p[k] == '\\')
				*at++ = '\\';
			*at++ = s.p[k];
		}
		*at++ = '"';
		s = str_n(next, (size_t)(at - next));
	}
	assert_int_equal(redact_apply(set, s, mem, &done, &why), ERR_TOO_LARGE);
}

static void rules_that_are_none(void **state)
{
	static const char *const wrong[] = { "hide email", "redact", "redact Email", "redact phone", "redact x pattern", "redact x pattern (a", "redact x text", "redact x like y",
		"redact a_name_that_is_longer_than_names_are text x" };

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct why why = { 0 };

		if (redact_new(mem, str_of(arena_printf(mem, "# first\n%s\n", wrong[i])), &why))
			fail_msg("'%s' was taken for a rule", wrong[i]);
		assert_int_equal(why.code, ERR_INVALID);
		assert_non_null(strstr(why.text, "line 2"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_found_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(mail_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(cards_by_their_check_digit, setup, teardown),
		cmocka_unit_test_setup_teardown(keys_by_their_shape, setup, teardown),
		cmocka_unit_test_setup_teardown(own_patterns_and_canaries, setup, teardown),
		cmocka_unit_test_setup_teardown(found_wherever_it_stands, setup, teardown),
		cmocka_unit_test_setup_teardown(split_over_parts_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(arguments_of_tools_are_read, setup, teardown),
		cmocka_unit_test_setup_teardown(a_rule_that_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_looked_at_does_not_leave, setup, teardown),
		cmocka_unit_test_setup_teardown(rules_that_are_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* routes_test.c - paths, methods, parameters; and what every route must have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/routes.h"

static const struct route *find(const char *method, const char *path, struct str *param, struct why *why)
{
	struct http_head head = { .method = str_of(method) };

	*why = (struct why){ 0 };
	return route_find(&head, str_of(path), param, why);
}

static void finds_by_path_and_method(void **state)
{
	struct str param;
	struct why why;

	assert_int_equal(find("POST", "/v1/chat/completions", &param, &why)->dialect, LLM_OPENAI);
	assert_int_equal(find("POST", "/api/generate", &param, &why)->op, LLM_COMPLETE);
	assert_non_null(find("HEAD", "/", &param, &why));
	assert_int_equal(why.code, ERR_OK);
	assert_null(find("GET", "/v1/nothing", &param, &why));
	assert_int_equal(why.code, ERR_NOT_FOUND);
	assert_int_equal(find("GET", "/api/chat", &param, &why)->dialect, LLM_OLLAMA);
	assert_int_equal(why.code, ERR_METHOD_NOT_ALLOWED);
}

static void names_may_hold_slashes_and_colons(void **state)
{
	struct str param;
	struct why why;

	assert_non_null(find("GET", "/v1/models/org/name:7b", &param, &why));
	assert_true(str_eqz(param, "org/name:7b"));
	assert_string_equal(find("GET", "/models", &param, &why)->path, "/models");
	assert_string_equal(find("GET", "/models/x", &param, &why)->path, "/models/");
	assert_string_equal(find("POST", "/models/sync", &param, &why)->path, "/models/sync");
}

static void errors_speak_the_protocol_of_the_path(void **state)
{
	assert_int_equal(route_dialect(STR("/v1/chat/completions")), LLM_OPENAI);
	assert_int_equal(route_dialect(STR("/chat/completions")), LLM_OPENAI);
	assert_int_equal(route_dialect(STR("/v1/embeddings")), LLM_OPENAI);
	assert_int_equal(route_dialect(STR("/v1/messages")), LLM_ANTHROPIC);
	assert_int_equal(route_dialect(STR("/v1/messages/batches")), LLM_ANTHROPIC);
	assert_int_equal(route_dialect(STR("/anthropic/v1/nothing")), LLM_ANTHROPIC);
	assert_int_equal(route_dialect(STR("/api/embed")), LLM_OLLAMA);
	assert_int_equal(route_dialect(STR("/api/ollama/nothing")), LLM_NATIVE);
	assert_int_equal(route_dialect(STR("/usage")), LLM_NATIVE);
	assert_int_equal(route_dialect(STR("")), LLM_NATIVE);
}

static bool has_stage(const struct route *r, const char *name, const char *before)
{
	for (const struct stage *const *s = r->stages; *s && strcmp((*s)->name, before) != 0; s++)
		if (strcmp((*s)->name, name) == 0)
			return true;
	return false;
}

/* What asks a model for an answer is counted first. */
static void nothing_is_dispatched_without_its_limits(void **state)
{
	int n = 0;

	for (const struct route *r = gateway_routes; r->method; r++) {
		if (!has_stage(r, "dispatch", "") && !has_stage(r, "count_tokens", ""))
			continue;
		assert_true(has_stage(r, "limits", "decide"));
		n++;
	}
	assert_true(n > 10);
}

static void every_route_has_an_action_and_stages(void **state)
{
	size_t i;

	for (i = 0; gateway_routes[i].method; i++) {
		assert_true(*gateway_routes[i].action && *gateway_routes[i].summary);
		assert_non_null(gateway_routes[i].stages[0]);
		assert_string_equal(gateway_route_docs[i].path, gateway_routes[i].path);
		for (size_t k = 0; k < i; k++)
			assert_false(strcmp(gateway_routes[i].path, gateway_routes[k].path) == 0 &&
				     strcmp(gateway_routes[i].method, gateway_routes[k].method) == 0);
	}
	assert_true(i > 20);
}

static bool has_route(const char *action)
{
	for (const struct route *r = gateway_routes; r->method; r++)
		if (strcmp(r->action, action) == 0)
			return true;
	return false;
}

static void every_action_is_one_that_roles_know(void **state)
{
	for (const struct route *r = gateway_routes; r->method; r++) {
		const char *const *a = all_actions;

		while (*a && strcmp(*a, r->action) != 0)
			a++;
		if (!*a)
			fail_msg("%s %s: no role knows action '%s'; put it into common/policy/authz.c", r->method, r->path, r->action);
	}
	for (const char *const *a = all_actions; *a; a++)
		if (!has_route(*a))
			fail_msg("action '%s' has no route", *a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_by_path_and_method), cmocka_unit_test(names_may_hold_slashes_and_colons),
		cmocka_unit_test(errors_speak_the_protocol_of_the_path), cmocka_unit_test(every_route_has_an_action_and_stages),
		cmocka_unit_test(nothing_is_dispatched_without_its_limits),
		cmocka_unit_test(every_action_is_one_that_roles_know),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

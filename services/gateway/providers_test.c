/* providers_test.c - backend "b" plays cloud-fallback: when requests go there, with what, and what is booked and listed. */
#include "services/gateway/gateway_test.h"

#include "common/policy/cloud.h"
#include "services/gateway/budget_share.h"
#include "services/gateway/purse.h"

static char headers[2048];

/* What the house's fake does, and keeps what it was told besides the body. */
static void cloud_request(struct http_xchg *x, void *arg)
{
	struct buf b = { 0 };

	for (uint32_t i = 0; i < x->head.n_headers; i++)
		buf_printf(&b, STR_FMT ": " STR_FMT "\n", STR_ARG(x->head.headers[i].name), STR_ARG(x->head.headers[i].value));
	if (str_starts(x->path, STR("/b/")))
		(void)str_copy(headers, sizeof(headers), buf_as_str(&b));
	buf_free(&b);
	backend_request(x, arg);
}

static void told(Corral__ProviderState state, const char *why_not, const char *active)
{
	static char *caps[] = { (char *)"completion", (char *)"tools" };
	Corral__ProviderSnapshot s = CORRAL__PROVIDER_SNAPSHOT__INIT;
	Corral__Provider p = CORRAL__PROVIDER__INIT, *list[] = { &p };
	Corral__ProviderModel m = CORRAL__PROVIDER_MODEL__INIT, *models[] = { &m };
	Corral__ActiveModel a = CORRAL__ACTIVE_MODEL__INIT;
	uint8_t packed[1024];

	p.name = (char *)"acme";
	p.kind = (char *)"openai";
	p.state = state;
	p.why = (char *)why_not;
	p.endpoint = arena_printf(h.mem, "http://127.0.0.1:%u/b", http_server_port(h.backend));
	p.slots = 1;
	p.budget_left_microusd = p.budget_left_tokens = -1;
	p.models = models, p.n_models = 1;
	m.name = (char *)"acme/large";
	m.context_tokens = 100000;
	m.capabilities = caps, m.n_capabilities = 2;
	a.model = (char *)active;
	s.providers = list, s.n_providers = 1;
	s.active_model = &a;
	s.token = (ProtobufCBinaryData){ 5, (uint8_t *)"token" };
	assert_true(providers_take(&h.gw.providers, str_n((char *)packed, corral__provider_snapshot__pack(&s, packed))));
	set_world();
}

static void house_is_down(void)
{
	const struct breaker_opts o = { .failures = 1, .open_us = 60000000, .max_open_us = 60000000, .refused_open_us = 60000000 };
	uint32_t probe;

	for (struct replica_state *s = replica_table_first(h.gw.replicas); s; s = s->next)
		if (!s->cloud && breaker_allow(&s->breaker, &o, mono_us(), &probe))
			(void)breaker_failure(&s->breaker, &o, mono_us(), false, "test", probe);
}

/* Somebody has written how much, and it is lent to this gateway. */
static void may_spend(void)
{
	Corral__Budget b = CORRAL__BUDGET__INIT, *list = &b;

	Corral__BudgetLease l = CORRAL__BUDGET_LEASE__INIT, *leases = &l;

	b.id = l.budget = 1;
	b.scope = (char *)"provider:acme";
	b.period = (char *)"month";
	b.limits_tokens = true;
	purse_book_list(h.gw.purses, &list, 1);
	l.granted_tokens = l.most_tokens = 1000000;
	l.ends_us = l.resets_us = wall_us() + 3600 * INT64_C(1000000);
	purse_book_lent(h.gw.purses, &leases, 1, mono_us());
}

static int open_all(void **state)
{
	static const struct http_handler plays = { NULL, cloud_request, NULL, NULL };
	struct why why;

	if (house_open(state))
		return 1;
	http_server_free(h.backend);
	h.backend = http_server_new(h.loop, ":0", &plays, NULL, &why);
	assert_non_null(h.backend);
	headers[0] = '\0';
	h.gw.budget_share = budget_share_new(&h.gw);
	may_spend();
	set_world();
	return 0;
}

static int close_all(void **state)
{
	struct budget_share *s = h.gw.budget_share;
	int failed;

	h.gw.n_budgets = NULL;
	failed = house_close(state);
	budget_share_free(s);
	return failed;
}

static void nothing_is_different_without_providers(void **state)
{
	assert_true(str_eq(h.w->world->models_bytes, buf_as_str(&h.gw.models_bytes)));
	assert_int_equal(h.w->world->cat.epoch, 1);
	house_is_down();
	chat(CHAT("auto", ""));
	assert_int_equal(reply.status, 503);
}

static void the_house_comes_first(void **state)
{
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	send_to("POST", "/v1/chat/completions", "X-Corral-Complexity: simple\r\n", CHAT("auto", ""));
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_false(has_header("X-Corral-Backend: acme"));
	assert_string_equal(headers, "");
}

static void when_the_circuit_is_open_it_is_the_clouds(void **state)
{
	struct booked b;

	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	house_is_down();
	chat(CHAT("auto", ""));
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Backend: acme") && has_header("X-Corral-Model: acme/large") && has_header("X-Corral-Reason: fallback") && has_header("X-Corral-Attempts: 1"));
	assert_non_null(strstr(headers, "Authorization: Bearer token\n"));
	assert_non_null(strstr(headers, "X-Corral-Attempt: 1\n"));
	assert_non_null(strstr(headers, "X-Corral-Tenant: default\n"));
	assert_non_null(strstr(headers, "X-Corral-Deadline-Ms: "));
	assert_non_null(strstr(headers, "X-Request-Id: "));
	assert_non_null(strstr(h.last_body, "\"model\":\"acme/large\""));
	b = books();
	assert_string_equal(b.story, "1ok@acme ");
	assert_string_equal(b.model, "acme/large");
	assert_string_equal(b.provider, "acme");
}

static void an_attempt_that_fails_at_home_goes_on_there(void **state)
{
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	h.does = h.does_b = FAILS;
	h.cfg.cloud_named = true;
	chat(CHAT("only", ""));                   /* at home it has one replica */
	assert_string_equal(books().story, "1error@a 2error@acme ");
	assert_int_equal(reply.status, 502);
	h.does_b = ANSWERS;
	chat(CHAT("only", ""));
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Reason: fallback") && has_header("X-Corral-Attempts: 2"));
}

static void what_was_named_stays_unless_it_may_leave(void **state)
{
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	house_is_down();
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 503);
	h.cfg.cloud_named = true;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Model: acme/large"));
	h.cfg.cloud_named = false;
	chat(CHAT("acme/large", ""));
	assert_true(has_header("X-Corral-Reason: asked"));
}

static void who_says_local_only_is_kept_at_home(void **state)
{
	headers[0] = '\0';
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	house_is_down();
	send_to("POST", "/v1/chat/completions", "X-Corral-Local-Only: true\r\n", CHAT("auto", ""));
	run_until(replied);
	assert_int_equal(reply.status, 503);
	assert_true(has_body("local models are down and the request, its key or its tenant is to stay local"));
	send_to("POST", "/inference", "", "{\"prompt\":\"x\",\"model\":\"acme/large\",\"local_only\":true}");
	run_until(replied);
	assert_int_equal(reply.status, 403);
	assert_string_equal(headers, "");
}

static void a_refused_fallback_says_why_in_the_words_of_who_asked(void **state)
{
	told(CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET, "acme has no tokens left until 1 December", "");
	house_is_down();
	chat(CHAT("auto", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_body("{\"error\":{\"message\":\"local models are down and acme has no tokens left until 1 December"));
	ask_for("POST", "/v1/messages", "{\"model\":\"auto\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
	assert_true(has_body("{\"type\":\"error\",\"error\":{\"type\":\"") && has_body("local models are down and acme has no tokens left until 1 December"));
	ask_for("POST", "/inference", "{\"prompt\":\"x\",\"model\":\"acme/large\"}");
	assert_int_equal(reply.status, 402);
	assert_true(has_body("\"error_code\":\"BUDGET_SPENT\"") && has_body("acme has no tokens left until 1 December"));
}

static void it_is_listed_with_what_is_known_of_it(void **state)
{
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	ask_for("GET", "/v1/models/acme/large", "");
	assert_int_equal(reply.status, 200);
	assert_true(has_body("\"id\":\"acme/large\"") && has_body("\"owned_by\":\"acme\"") && has_body("\"context_length\":100000"));
	ask_for("GET", "/api/tags", "");
	assert_true(has_body("\"name\":\"acme/large\""));
	told(CORRAL__PROVIDER_STATE__PROVIDER_COOLING, "it rests", "");
	ask_for("GET", "/backends", "");
	assert_true(has_body("\"name\":\"acme\"") && has_body("it rests"));
}

/* Nothing is sent there until something is lent, as to a backend of the house. */
static void its_slots_are_lent_like_others(void **state)
{
	struct replica_state *s = NULL;

	replica_table_share(h.gw.replicas);
	told(CORRAL__PROVIDER_STATE__PROVIDER_READY, "", "");
	house_is_down();
	for (struct replica_state *it = replica_table_first(h.gw.replicas); it; it = it->next)
		s = it->cloud ? it : s;
	assert_non_null(s);
	replica_table_valid(h.gw.replicas, mono_us() + 60000000);
	assert_false(slot_take(s));
	replica_lease(h.gw.replicas, "acme", "acme/large", 1);
	chat(CHAT("acme/large", ""));
	assert_int_equal(reply.status, 200);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)
	const struct CMUnitTest tests[] = {
		T(nothing_is_different_without_providers), T(the_house_comes_first), T(when_the_circuit_is_open_it_is_the_clouds),
		T(an_attempt_that_fails_at_home_goes_on_there), T(what_was_named_stays_unless_it_may_leave), T(who_says_local_only_is_kept_at_home),
		T(a_refused_fallback_says_why_in_the_words_of_who_asked), T(it_is_listed_with_what_is_known_of_it), T(its_slots_are_lent_like_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

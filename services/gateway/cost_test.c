/* cost_test.c - what a client is told that an answer costs is what is booked of it; budgets in money hold the most that it may cost. */
#include "services/gateway/gateway_test.h"

#include "common/policy/price_list.h"
#include "services/gateway/budget_share.h"
#include "services/gateway/purse.h"

#define STREAM ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"

enum { PRICED = CORRAL__COST_SOURCE__COST_PRICED, UNKNOWN = CORRAL__COST_SOURCE__COST_UNKNOWN };

static void knows(const struct price *prices, size_t n)
{
	struct price_list *l = price_list_new();

	for (size_t i = 0; i < n; i++)
		price_list_add(l, &prices[i]);
	worker_set_prices(h.w, l);
}

/* A thousand and two thousand micro-dollars a token: an answer of the house (7 and 2 tokens) costs 11,000. */
static void knows_tokens(void)
{
	knows(&(struct price){ .id = 1, .kind = PRICE_TOKENS, .model = STR("m"), .input = 1000000000, .output = 2000000000 }, 1);
}

static int64_t number_behind(struct str text, const char *words)
{
	struct str z = str_of(words);
	const char *at = str_ifind(text, z);
	char digits[24] = "";

	if (!at)
		fail_msg("there is no '%s'", words);
	snprintf(digits, sizeof(digits), "%.20s", at + z.n);
	return strtoll(digits, NULL, 10);
}

static int64_t told(void) { return number_behind(reply.headers, "x-corral-cost-microusd: "); }

static void an_answer_says_what_it_costs(void **state)
{
	struct booked b;

	chat(CHAT("m", ""));
	assert_int_equal(told(), 0);
	assert_int_equal(books().cost_source, UNKNOWN);
	knows_tokens();
	chat(CHAT("m", ""));
	b = books();
	assert_int_equal(told(), 11000);
	assert_int_equal(b.cost, 11000);
	assert_int_equal(b.cost_source, PRICED);
	chat(CHAT("only", ""));           /* of another model nothing is known */
	assert_int_equal(told(), 0);
	assert_int_equal(books().cost_source, UNKNOWN);
}

static void a_stream_says_it_where_it_says_its_use(void **state)
{
	knows_tokens();
	chat(CHAT("m", STREAM));
	assert_int_equal(number_behind(buf_as_str(&reply.body), "\"total_tokens\":9,\"cost_microusd\":"), 11000);
	assert_true(has_body("data: [DONE]"));
	assert_false(has_header("x-corral-cost-microusd"));
	assert_int_equal(books().cost, 11000);
	chat(CHAT("m", ",\"stream\":true"));      /* and to whom asks for no use, nothing */
	assert_false(has_body("cost_microusd"));
	assert_int_equal(books().costs, 22000);
}

static void a_native_answer_has_it_among_its_figures(void **state)
{
	static const char *const bodies[] = { "{\"prompt\":\"x\",\"model\":\"m\"}", "{\"prompt\":\"x\",\"model\":\"m\",\"stream\":true}" };

	knows_tokens();
	for (int i = 0; i < 2; i++) {
		ask_for("POST", "/inference", bodies[i]);
		assert_int_equal(number_behind(buf_as_str(&reply.body), "\"cost_microusd\":"), 11000);
		assert_int_equal(books().cost, 11000);
	}
}

static void the_time_of_a_machine_ends_when_its_cost_is_told(void **state)
{
	static const char *const bodies[] = { CHAT("m", ""), CHAT("m", STREAM) };
	/* a hundred micro-dollars a microsecond */
	const struct price machine = { .kind = PRICE_MACHINE, .gpu_hour = 360000000000 };

	knows(&machine, 1);
	for (int i = 0; i < 2; i++) {
		struct booked b;

		chat(bodies[i]);
		b = books();
		assert_int_equal(i ? number_behind(buf_as_str(&reply.body), "\"cost_microusd\":") : told(), b.cost);
		assert_true(b.gpu_us > 0 && b.cost == 100 * b.gpu_us);
	}
}

/* --- energy --- */

/* A slot of both machines has a kilowatt from now on: a millijoule a microsecond. */
static void draws(uint64_t microwatts)
{
	const struct replica_power powers[] = { { "a", "m", microwatts }, { "b", "m", microwatts }, { "nobody", "m", microwatts } };

	replica_table_powers(h.gw.replicas, powers, microwatts ? 3 : 0, mono_us() + 60 * 1000000LL, mono_us());
}

#define KILOWATT 1000000000
/* A micro-dollar a millijoule. */
#define KWH INT64_C(3600000000)

static void the_energy_of_an_attempt_is_its_slots_part(void **state)
{
	static const char *const bodies[] = { CHAT("m", ""), CHAT("m", STREAM) };
	const struct price machine = { .kind = PRICE_MACHINE, .gpu_hour = 2 * KWH, .kwh = KWH };
	struct booked b;

	knows(&machine, 1);
	chat(CHAT("m", ""));
	b = books();
	assert_int_equal(b.energy_mj, 0);             /* nobody has told what the machine draws */
	assert_int_equal(b.cost, 2 * b.gpu_us);
	draws(KILOWATT);
	for (int i = 0; i < 2; i++) {
		chat(bodies[i]);
		b = books();
		assert_true(b.gpu_us > 0);
		assert_in_range(b.energy_mj, b.gpu_us > 1 ? b.gpu_us - 1 : 0, b.gpu_us);      /* a millijoule is cut off at most */
		assert_int_equal(b.cost, 2 * b.gpu_us + b.energy_mj);
		assert_int_equal(i ? number_behind(buf_as_str(&reply.body), "\"cost_microusd\":") : told(), b.cost);
	}
	draws(0);
	chat(CHAT("m", ""));
	assert_int_equal(books().energy_mj, 0);
}

static void what_was_not_sent_used_no_energy(void **state)
{
	draws(KILOWATT);
	h.does = h.does_b = IS_AWAY;
	set_world();
	chat(CHAT("m", ""));
	assert_int_equal(books().gpu_us, 0);
	assert_int_equal(books().energy_mj, 0);
}

static void a_request_costs_what_its_attempts_cost(void **state)
{
	knows(&(struct price){ .kind = PRICE_MACHINE, .gpu_hour = 360000000000 }, 1);
	h.does = h.does_b = FAILS;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 502);
	assert_true(books().closed > 1);
	assert_int_equal(told(), books().costs);
}

static void a_price_is_that_of_its_beginning(void **state)
{
	int64_t now = wall_us();
	const struct price prices[] = {
		{ .id = 1, .model = STR("m"), .input = 1000000000 }, { .id = 2, .model = STR("m"), .input = 2000000000, .valid_from_us = now - 1000000 },
		{ .id = 3, .model = STR("m"), .input = 9000000000, .valid_from_us = now + 3600 * 1000000LL },
	};

	knows(prices, 3);
	chat(CHAT("m", ""));
	assert_int_equal(books().cost, 14000);
	assert_true(books().began_us >= now && books().began_us <= wall_us());
}

/* --- budgets in money --- */

static void lend(const char *scope, bool limits_money, int64_t granted, int64_t left)
{
	Corral__Budget b = CORRAL__BUDGET__INIT, *list = &b;
	Corral__BudgetLease l = CORRAL__BUDGET_LEASE__INIT, *leases = &l;

	b.id = l.budget = 1;
	b.scope = (char *)(uintptr_t)scope;
	b.period = (char *)(uintptr_t)"month";
	b.limits_microusd = limits_money;
	b.limits_tokens = !limits_money;
	b.limit_microusd = b.limit_tokens = granted + left + 1;
	purse_book_list(h.gw.purses, &list, 1);
	l.granted_microusd = limits_money ? granted : 0;
	l.granted_tokens = limits_money ? 0 : granted;
	l.left_microusd = left;
	l.most_microusd = granted + left;
	l.most_tokens = granted;
	l.ends_us = wall_us() + 3600 * 1000000LL;
	l.resets_us = l.ends_us;
	purse_book_lent(h.gw.purses, &leases, 1, mono_us());
}

static int open_with_purses(void **state)
{
	int failed = house_open(state);

	h.gw.budget_share = budget_share_new(&h.gw);
	return failed;
}

static int close_with_purses(void **state)
{
	struct budget_share *s = h.gw.budget_share;
	int failed;

	h.gw.n_budgets = NULL;
	failed = house_close(state);
	budget_share_free(s);
	return failed;
}

/* 5 bytes of text, 3 x 32 for what templates add: 101 tokens at most, and 10 of an answer. */
#define MOST (101 * 1000 + 10 * 2000)

static void the_most_that_it_may_cost_is_held_before_it_is_sent(void **state)
{
	knows_tokens();
	lend("tenant:default", true, MOST - 1, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 402);
	assert_true(has_body("has 120999 micro-dollars left, and this request may need 121000; there is more from "));
	assert_int_equal(h.calls + h.calls_b, 0);
	lend("tenant:default", true, MOST, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 200);
	chat(CHAT("m", ",\"max_tokens\":10"));            /* 11,000 of it are spent */
	assert_int_equal(reply.status, 402);
	chat(CHAT("only", ",\"max_tokens\":10"));         /* what runs at home and has no price costs nothing */
	assert_int_equal(reply.status, 200);
}

/* Whatever the machine draws now: its most, for as long as the request may take. */
static void the_most_energy_is_held(void **state)
{
	const struct price machine = { .kind = PRICE_MACHINE, .kwh = KWH };
	const struct machine_most most[] = { { "a", KILOWATT / 1000 }, { "b", KILOWATT / 1000 } };

	knows(&machine, 1);
	h.cfg.request_timeout = 10000;
	draws(KILOWATT);
	lend("tenant:default", true, 5000000, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 200);          /* nothing is known of what it may draw */
	replica_table_most_power(h.gw.replicas, most, 2, mono_us());
	lend("tenant:default", true, 5000000, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 402);          /* ten million millijoules */
	lend("tenant:default", true, 11000000, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 200);
	replica_table_most_power(h.gw.replicas, NULL, 0, mono_us() + 50 * 1000000LL);
	lend("tenant:default", true, 5000000, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 402);          /* a probe that is away for a moment */
	replica_table_most_power(h.gw.replicas, NULL, 0, mono_us() + 61 * 1000000LL);
	lend("tenant:default", true, 5000000, 0);
	chat(CHAT("m", ",\"max_tokens\":10"));
	assert_int_equal(reply.status, 200);          /* one that is named no more */
}

static void what_is_left_bounds_the_answer_if_the_client_allows(void **state)
{
	knows_tokens();
	lend("tenant:default", true, 101 * 1000 + 20 * 2000 + 1999, 0);
	send_to("POST", "/v1/chat/completions", "X-Corral-Budget: shrink\r\n", CHAT("m", ",\"max_tokens\":500"));
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Max-Tokens: 20\n"));
	assert_non_null(strstr(h.last_body, "20"));
	lend("tenant:default", true, 101 * 1000 + 15 * 2000 + 11000, 0);          /* too few for an answer; 11,000 were spent */
	send_to("POST", "/v1/chat/completions", "X-Corral-Budget: shrink\r\n", CHAT("m", ",\"max_tokens\":500"));
	run_until(replied);
	assert_int_equal(reply.status, 402);
	run_until(no_requests);
}

/* A provider in the cloud that is called as a kind of backends is: backend "b" plays cloud-fallback. */
static void knows_a_provider(void)
{
	static char *caps[] = { (char *)"completion", (char *)"tools" };
	Corral__ProviderSnapshot s = CORRAL__PROVIDER_SNAPSHOT__INIT;
	Corral__Provider p = CORRAL__PROVIDER__INIT, *list[] = { &p };
	Corral__ProviderModel m = CORRAL__PROVIDER_MODEL__INIT, *models[] = { &m };
	uint8_t packed[1024];

	p.name = p.kind = (char *)"openai";
	p.state = CORRAL__PROVIDER_STATE__PROVIDER_READY;
	p.endpoint = arena_printf(h.mem, "http://127.0.0.1:%u/b", http_server_port(h.backend));
	p.slots = 1;
	p.budget_left_microusd = p.budget_left_tokens = -1;
	p.models = models, p.n_models = 1;
	m.name = (char *)"openai/large";
	m.context_tokens = 100000;
	m.capabilities = caps, m.n_capabilities = 2;
	s.providers = list, s.n_providers = 1;
	assert_true(providers_take(&h.gw.providers, str_n((char *)packed, corral__provider_snapshot__pack(&s, packed))));
	set_world();
}

#define LARGE CHAT("openai/large", ",\"max_tokens\":10")

static void a_provider_in_the_cloud_needs_a_cap_and_a_price(void **state)
{
	knows_a_provider();
	chat(LARGE);
	assert_int_equal(reply.status, 402);
	assert_true(has_body("openai has no budget, so nothing is spent there"));
	lend("provider:openai", false, 1000, 0);          /* of tokens: what they cost need not be known */
	chat(LARGE);
	assert_int_equal(reply.status, 200);
	lend("provider:openai", true, 1000000, 0);
	chat(LARGE);
	assert_int_equal(reply.status, 402);
	assert_true(has_body("nobody knows what openai/large costs at openai"));
	chat(CHAT("m", ",\"max_tokens\":10"));             /* nothing of that is about the house's */
	assert_int_equal(reply.status, 200);
	knows(&(struct price){ .model = STR("openai/large"), .input = 1000000000, .output = 2000000000 }, 1);
	chat(LARGE);
	assert_int_equal(reply.status, 200);
	assert_int_equal(told(), 11000);
}

static void the_house_is_charged_apart_from_a_provider_of_its_kinds_name(void **state)
{
	struct price prices[] = { { .id = 1, .kind = PRICE_TOKENS, .provider = STR("openai"), .input = 1000000000, .output = 2000000000 },
				  { .id = 2, .kind = PRICE_TOKENS, .provider = STR("local-openai"), .input = 1000000, .output = 1000000 } };

	knows(prices, 2);
	chat(CHAT("m", ""));
	assert_string_equal(books().provider, "openai");
	assert_int_equal(told(), 11000);
	knows_a_provider();
	lend("provider:openai", false, 1000, 0);
	chat(LARGE);
	assert_string_equal(books().provider, "openai");
	lend("provider:openai", false, 0, 0);             /* the house spends nothing of that */
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	assert_int_equal(told(), 9);
	assert_string_equal(books().provider, "local-openai");
	assert_int_equal(books().cost, 9);
}

int main(void)
{
#define PURSES(f) cmocka_unit_test_setup_teardown(f, open_with_purses, close_with_purses)
	const struct CMUnitTest tests[] = {
		HOUSE(an_answer_says_what_it_costs), HOUSE(a_stream_says_it_where_it_says_its_use), HOUSE(a_native_answer_has_it_among_its_figures),
		HOUSE(the_time_of_a_machine_ends_when_its_cost_is_told), HOUSE(a_request_costs_what_its_attempts_cost), HOUSE(a_price_is_that_of_its_beginning),
		HOUSE(the_energy_of_an_attempt_is_its_slots_part), HOUSE(what_was_not_sent_used_no_energy), PURSES(the_most_energy_is_held),
		PURSES(the_most_that_it_may_cost_is_held_before_it_is_sent), PURSES(what_is_left_bounds_the_answer_if_the_client_allows),
		PURSES(a_provider_in_the_cloud_needs_a_cap_and_a_price), PURSES(the_house_is_charged_apart_from_a_provider_of_its_kinds_name),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

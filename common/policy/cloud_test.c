/* cloud_test.c - a model of the house, two providers, and when which of them answers; that the log alone tells the same again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/policy/caps.h"
#include "common/policy/cloud.h"

struct fix {
	struct arena *mem;
	Corral__ModelSnapshot models;
	Corral__Backend gpu, *backends[1];
	Corral__Model coder, *model_list[1];
	Corral__Replica here, *replicas[1];
	Corral__ProviderSnapshot providers;
	Corral__Provider acme, zeta, *provider_list[2];
	Corral__ProviderModel large, small, *acme_models[1], *zeta_models[1];
	Corral__ProviderPrice large_price, small_price;
	Corral__PolicySnapshot policy;
	Corral__CloudRules rules;
	Corral__TaskQuality bad, *qualities[1];
	Corral__DecisionFeatures f;
	struct catalogue cat;
	struct policy pol;
	struct load load[3];
	bool tried[3];
};

static char *completion[] = { (char *)"completion" };

static void describe_home(struct fix *x)
{
	corral__model_snapshot__init(&x->models);
	corral__backend__init(&x->gpu);
	corral__model__init(&x->coder);
	corral__replica__init(&x->here);
	x->gpu.name = x->here.backend = (char *)"gpu";
	x->gpu.kind = (char *)"llamacpp";
	x->gpu.url = (char *)"http://127.0.0.1:1";
	x->gpu.state = CORRAL__BACKEND_STATE__BACKEND_UP;
	x->coder.name = x->here.model = (char *)"coder";
	x->coder.parameter_count = 7000000000;
	x->coder.context_length = 8192;
	x->coder.capabilities = completion;
	x->coder.n_capabilities = x->models.n_backends = x->models.n_models = x->models.n_replicas = 1;
	x->here.slots = 2;
	x->here.loaded = true;
	x->models.backends = x->backends, x->backends[0] = &x->gpu;
	x->models.models = x->model_list, x->model_list[0] = &x->coder;
	x->models.replicas = x->replicas, x->replicas[0] = &x->here;
}

static void describe_provider(Corral__Provider *p, const char *name, Corral__ProviderModel *m, const char *model, Corral__ProviderPrice *price,
			      Corral__ProviderModel **list)
{
	corral__provider__init(p);
	corral__provider_model__init(m);
	corral__provider_price__init(price);
	p->name = (char *)name;
	p->kind = (char *)"openai";
	p->state = CORRAL__PROVIDER_STATE__PROVIDER_READY;
	p->endpoint = (char *)"http://127.0.0.1:8101";
	p->slots = 4;
	p->budget_left_microusd = p->budget_left_tokens = -1;
	p->models = list, list[0] = m, p->n_models = 1;
	m->name = (char *)model;
	m->context_tokens = 128000;
	m->capabilities = completion;
	m->n_capabilities = 1;
	m->price = price;
	price->known = true;
	price->input = 1000000;
	price->output = 10000000;
}

static void describe_policy(struct fix *x)
{
	corral__policy_snapshot__init(&x->policy);
	corral__cloud_rules__init(&x->rules);
	corral__task_quality__init(&x->bad);
	x->policy.cloud = &x->rules;
	x->policy.switch_margin = 0.05;
	x->rules.prefer = (char *)"none";
	x->rules.medium_left_microusd = 10000000;
	x->rules.quality_least = 0.7;
	x->bad.model = (char *)"coder";
	x->bad.task_type = (char *)"SQL";
	x->bad.quality = 0.5;
	x->policy.qualities = x->qualities, x->qualities[0] = &x->bad, x->policy.n_qualities = 1;
}

static void ask(struct fix *x, const char *complexity)
{
	corral__decision_features__init(&x->f);
	x->f.requested_model = (char *)"auto";
	x->f.is_auto = true;
	x->f.task_type = (char *)"CHAT";
	x->f.complexity = (char *)complexity;
	x->f.policy = (char *)"balanced";
	x->f.prompt_tokens = 1000;
	x->f.max_tokens = 100;
}

static int set_up(void **state)
{
	struct fix *x = x_calloc(1, sizeof(*x));

	x->mem = arena_new(0);
	describe_home(x);
	corral__provider_snapshot__init(&x->providers);
	describe_provider(&x->acme, "acme", &x->large, "acme/large", &x->large_price, x->acme_models);
	describe_provider(&x->zeta, "zeta", &x->small, "zeta/small", &x->small_price, x->zeta_models);
	x->small_price.output = 500000;
	x->providers.providers = x->provider_list;
	x->provider_list[0] = &x->acme, x->provider_list[1] = &x->zeta;
	x->providers.n_providers = 2;
	x->providers.token = (ProtobufCBinaryData){ 6, (uint8_t *)"secret" };
	describe_policy(x);
	ask(x, "SIMPLE");
	for (int i = 0; i < 3; i++)
		x->load[i] = (struct load){ .slots = 2 };
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fix *x = *state;

	arena_free(x->mem);
	free(x);
	return 0;
}

#define PACK(x, type, message) pack_(x, (type##__get_packed_size)(message), (size_t (*)(const void *, uint8_t *))(void (*)(void))(type##__pack), message)
static struct str pack_(struct fix *x, size_t n, size_t (*pack)(const void *, uint8_t *), const void *message)
{
	uint8_t *out = arena_alloc(x->mem, n + 1);

	return str_n((char *)out, pack(message, out));
}

static struct str merged(struct fix *x, uint64_t *epoch)
{
	struct buf out = { 0 };
	struct why why = { 0 };
	struct str view, s;

	assert_int_equal(cloud_view(x->mem, PACK(x, corral__provider_snapshot, &x->providers), &view, &why), ERR_OK);
	assert_int_equal(cloud_merge(&out, epoch, PACK(x, corral__model_snapshot, &x->models), view, &why), ERR_OK);
	s = arena_str(x->mem, buf_as_str(&out));
	buf_free(&out);
	return s;
}

static struct decision decided(struct fix *x, const char *model)
{
	struct decision d;
	struct why why = { 0 };
	uint64_t epoch = 7;
	bool alias = false;
	int m;

	assert_int_equal(catalogue_build(&x->cat, x->mem, epoch, 1, merged(x, &epoch), &why), ERR_OK);
	assert_int_equal(policy_build(&x->pol, x->mem, &x->cat, 1, 1, PACK(x, corral__policy_snapshot, &x->policy), &why), ERR_OK);
	if (model)
		x->f.requested_model = (char *)model, x->f.is_auto = false;
	m = model ? catalogue_resolve(&x->cat, str_of(model), &alias) : -1;
	decide(&d, x->mem, &x->f, m, alias, &x->cat, &x->pol, x->load, x->tried);
	return d;
}

static const char *first(struct fix *x, const struct decision *d) { return d->n_ranked ? x->cat.replicas[d->ranked[0].replica].pb->model : "none"; }

static void expect(struct fix *x, const char *asked, const char *model, const char *reason)
{
	struct decision d = decided(x, asked);

	assert_string_equal(first(x, &d), model);
	assert_string_equal(d.reason, reason);
}

static const char *words(struct fix *x, const char *asked, enum err err)
{
	struct decision d = decided(x, asked);
	struct why why = { 0 };

	assert_int_equal(d.err, err);
	decision_why(&d, &x->f, &x->cat, &why);
	return arena_printf(x->mem, "%s", why.text);
}

static void without_providers_nothing_changes(void **state)
{
	struct fix *x = *state;
	struct str bytes;
	uint64_t epoch = 7;

	x->acme.n_models = x->zeta.n_models = 0;
	bytes = merged(x, &epoch);
	assert_int_equal(epoch, 7);
	assert_true(str_eq(bytes, PACK(x, corral__model_snapshot, &x->models)));
}

static void the_same_two_make_the_same_bytes_and_no_secret(void **state)
{
	struct fix *x = *state;
	uint64_t a = 7, b = 7, c = 7;
	struct str one = merged(x, &a), two = merged(x, &b);

	assert_true(a == b && a != 7 && str_eq(one, two));
	assert_null(str_find(one, STR("secret")));
	x->acme.budget_left_microusd = 123456789;
	assert_false(str_eq(one, merged(x, &b)));
	x->acme.budget_left_microusd = 123400000;       /* both are about 120 USD */
	assert_true(str_eq(merged(x, &b), merged(x, &c)));
}

static void auto_stays_at_home_and_has_spares(void **state)
{
	struct fix *x = *state;
	struct decision d = decided(x, NULL);

	assert_string_equal(first(x, &d), "coder");
	assert_string_equal(d.reason, "rules");
	assert_int_equal(d.n_ranked, 3);
}

static void when_the_house_is_down_the_cloud_answers(void **state)
{
	struct fix *x = *state;

	x->load[0].breaker_open = true;
	expect(x, NULL, "zeta/small", "fallback");
	x->load[0].breaker_open = false;
	x->gpu.state = CORRAL__BACKEND_STATE__BACKEND_DOWN;
	expect(x, NULL, "zeta/small", "fallback");
	x->models.n_backends = x->models.n_models = x->models.n_replicas = 0;
	x->load[0] = x->load[1];
	expect(x, NULL, "zeta/small", "fallback");
}

/* A gateway that was cut off before the registry had asked anybody would spend money on everything. */
static void what_the_house_has_is_to_be_known_first(void **state)
{
	struct fix *x = *state;

	x->gpu.state = CORRAL__BACKEND_STATE__BACKEND_UNKNOWN;
	expect(x, NULL, "coder", "rules");              /* known from before */
	x->models.n_models = x->models.n_replicas = 0;
	x->load[0] = x->load[1];
	assert_string_equal(words(x, NULL, ERR_UNAVAILABLE), "what backend 'gpu' has is not known yet, and the cloud answers what no local model can; try again");
	x->zeta.n_models = 0;
	assert_int_equal(decided(x, NULL).err, ERR_UNAVAILABLE);
	expect(x, "acme/large", "acme/large", "asked");
	ask(x, "COMPLEX");
	x->rules.prefer = (char *)"medium";
	expect(x, NULL, "acme/large", "fallback");      /* policy sends it there, whatever the house has */
	ask(x, "SIMPLE");
	x->gpu.state = CORRAL__BACKEND_STATE__BACKEND_DOWN;
	expect(x, NULL, "acme/large", "fallback");
}

/* The models, by name, whose queues are full, out of what was decided. */
static struct decision passed(struct fix *x, const char *asked, const char *a, const char *b)
{
	struct decision d = decided(x, asked);
	uint16_t full[2] = { (uint16_t)catalogue_model(&x->cat, str_of(a)), 0 };

	if (b)
		full[1] = (uint16_t)catalogue_model(&x->cat, str_of(b));
	decision_pass(&d, &x->cat, full, b ? 2 : 1);
	return d;
}

static enum rule rule_of(struct fix *x, const struct decision *d, const char *model)
{
	for (uint16_t i = 0; i < d->n_rejected; i++)
		if (strcmp(x->cat.replicas[d->rejected[i].replica].pb->model, model) == 0)
			return (enum rule)d->rejected[i].rule;
	return RULE_NONE;
}

static void a_full_queue_in_the_cloud_is_passed_by(void **state)
{
	struct fix *x = *state;
	struct decision d;

	x->rules.prefer = (char *)"medium";
	ask(x, "COMPLEX");
	expect(x, NULL, "zeta/small", "rules");
	d = passed(x, NULL, "zeta/small", "acme/large");
	assert_string_equal(first(x, &d), "coder");
	assert_string_equal(d.reason, "fallback");
	assert_int_equal(d.err, ERR_OK);
	assert_int_equal(rule_of(x, &d, "zeta/small"), RULE_QUEUE_FULL);
	assert_int_equal(rule_of(x, &d, "acme/large"), RULE_QUEUE_FULL);
	assert_int_equal(rule_of(x, &d, "coder"), RULE_NONE);
	d = passed(x, NULL, "acme/large", NULL);
	assert_string_equal(first(x, &d), "zeta/small");
	assert_string_equal(d.reason, "rules");         /* it was not the one that was given */
}

static void a_full_queue_at_home_is_no_reason_to_spend(void **state)
{
	struct fix *x = *state;
	struct decision d = passed(x, NULL, "coder", NULL);
	struct why why = { 0 };

	assert_int_equal(d.n_ranked, 0);
	assert_int_equal(d.err, ERR_QUEUE_FULL);
	assert_int_equal(rule_of(x, &d, "coder"), RULE_QUEUE_FULL);
	assert_int_equal(rule_of(x, &d, "zeta/small"), RULE_HOME_BUSY);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_non_null(strstr(why.text, "the queues are full"));
	x->rules.prefer = (char *)"medium";
	ask(x, "COMPLEX");                      /* policy sends it there anyway */
	d = passed(x, NULL, "coder", NULL);
	assert_string_equal(first(x, &d), "zeta/small");
	assert_string_equal(d.reason, "rules");
}

static void what_does_not_fit_at_home_fits_there(void **state)
{
	struct fix *x = *state;

	x->f.prompt_tokens = 20000;
	expect(x, NULL, "zeta/small", "fallback");
	x->f.needs = LLM_CAP_EMBEDDING;         /* nobody there embeds for us */
	assert_int_equal(decided(x, NULL).n_ranked, 0);
}

static void after_two_failures_at_home_it_is_the_clouds_turn(void **state)
{
	struct fix *x = *state;

	x->tried[0] = true;
	expect(x, NULL, "zeta/small", "fallback");
}

static void complexity_asks_for_it(void **state)
{
	struct fix *x = *state;

	x->rules.prefer = (char *)"medium";
	x->acme.budget_left_microusd = x->zeta.budget_left_microusd = 11000000;
	expect(x, NULL, "coder", "rules");                      /* SIMPLE */
	ask(x, "MEDIUM");
	assert_true(cloud_of(&x->cat, decided(x, NULL).ranked[0].replica));
	x->acme.budget_left_microusd = x->zeta.budget_left_microusd = 9000000;
	expect(x, NULL, "coder", "rules");
	x->zeta.budget_left_microusd = 11000000;        /* one of them has enough */
	expect(x, NULL, "zeta/small", "rules");
	ask(x, "COMPLEX");
	x->acme.budget_left_microusd = x->zeta.budget_left_microusd = 9000000;
	assert_true(cloud_of(&x->cat, decided(x, NULL).ranked[0].replica));
	x->acme.budget_left_microusd = x->zeta.budget_left_microusd = 1000;     /* less than it may cost */
	expect(x, NULL, "coder", "rules");
	x->acme.budget_left_microusd = x->zeta.budget_left_microusd = -1;
	x->f.policy = (char *)"cheap";
	expect(x, NULL, "coder", "rules");
	x->f.policy = (char *)"balanced";
	x->rules.prefer = (char *)"none";
	expect(x, NULL, "coder", "rules");
}

static void measured_quality_sends_it_there(void **state)
{
	struct fix *x = *state;

	x->f.task_type = (char *)"SQL";
	assert_string_equal(decided(x, NULL).reason, "fallback");
	x->bad.quality = 0.71;
	expect(x, NULL, "coder", "rules");
}

static void who_names_it_gets_it(void **state)
{
	struct fix *x = *state;

	expect(x, "acme/large", "acme/large", "asked");
	x->acme.state = CORRAL__PROVIDER_STATE__PROVIDER_COOLING;
	x->acme.why = (char *)"it said to come back in 20 s";
	assert_string_equal(words(x, "acme/large", ERR_UNAVAILABLE), "model 'acme/large' cannot be served now: provider 'acme' is not ready: it said to come back in 20 s");
	x->acme.state = CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET;
	x->acme.why = (char *)"acme has no tokens left until 1 December";
	assert_string_equal(words(x, "acme/large", ERR_BUDGET_SPENT), "model 'acme/large' cannot be used: acme has no tokens left until 1 December");
	x->acme.state = CORRAL__PROVIDER_STATE__PROVIDER_READY;
	x->f.local_only = true;
	words(x, "acme/large", ERR_FORBIDDEN);
}

static void a_local_model_that_was_named_does_not_leave_unless_allowed(void **state)
{
	struct fix *x = *state;

	x->load[0].breaker_open = true;
	assert_int_equal(decided(x, "coder").err, ERR_UNAVAILABLE);
	x->f.named_may_leave = true;
	expect(x, "coder", "zeta/small", "fallback");
	x->load[0].breaker_open = false;
	expect(x, "coder", "coder", "asked");
	x->load[0].breaker_open = true;
	x->f.local_only = true;
	assert_int_equal(decided(x, "coder").err, ERR_UNAVAILABLE);
}

static void a_refused_fallback_says_which_condition_failed(void **state)
{
	struct fix *x = *state;

	x->load[0].breaker_open = true;
	x->f.local_only = true;
	assert_string_equal(words(x, NULL, ERR_UNAVAILABLE), "local models are down and the request, its key or its tenant is to stay local");
	x->f.local_only = false;
	x->acme.state = CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET;
	x->acme.why = (char *)"acme has no tokens left until 1 December";
	x->zeta.budget_left_microusd = 10;
	assert_string_equal(words(x, NULL, ERR_UNAVAILABLE), "local models are down and acme has no tokens left until 1 December; the request may cost 0.001050 USD, "
			    "zeta has 0.000010 left");
	x->small_price.known = false;           /* what is not known is not free */
	assert_non_null(strstr(words(x, NULL, ERR_UNAVAILABLE), "zeta has a budget of money, and what this model costs is not known"));
}

/* The limit of its day is reached: nobody but who names it gets it, and a snapshot without it has it back. */
static void a_model_that_rests_is_left_out(void **state)
{
	struct fix *x = *state;
	struct decision d;
	uint64_t a = 7, b = 7;
	struct str with, without = merged(x, &a);

	x->load[0].breaker_open = true;
	expect(x, NULL, "zeta/small", "fallback");
	x->small.rests_until_ms = 1795420800000;
	x->small.rests_why = (char *)"zeta allows no more requests of small until 2026-11-23T08:00:00Z";
	with = merged(x, &b);
	assert_true(a != b && !str_eq(with, without));
	d = decided(x, NULL);
	assert_string_equal(first(x, &d), "acme/large");
	assert_int_equal(rule_of(x, &d, "zeta/small"), RULE_MODEL_RESTS);
	assert_string_equal(rule_name(RULE_MODEL_RESTS), "model_rests");
	x->acme.state = CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET;
	x->acme.why = (char *)"acme has no tokens left until 1 December";
	assert_string_equal(words(x, NULL, ERR_UNAVAILABLE), "local models are down and acme has no tokens left until 1 December; zeta allows no more requests of small until "
			    "2026-11-23T08:00:00Z");
	x->load[0].breaker_open = false;
	expect(x, "zeta/small", "zeta/small", "asked");
	x->f.is_auto = true;                            /* the active model is what auto is */
	decide(&d, x->mem, &x->f, catalogue_model(&x->cat, STR("zeta/small")), true, &x->cat, &x->pol, x->load, x->tried);
	assert_int_equal(d.err, ERR_UNAVAILABLE);
	x->load[0].breaker_open = true;
	x->small.rests_until_ms = 0;
	expect(x, NULL, "zeta/small", "fallback");
}

static void the_log_alone_tells_it_again(void **state)
{
	struct fix *x = *state;
	struct buf one = { 0 }, two = { 0 };
	struct decision d;

	x->f.prompt_tokens = 20000;
	d = decided(x, NULL);
	decision_pack(&d, &one);
	d = decided(x, NULL);
	decision_pack(&d, &two);
	assert_true(one.n == two.n && memcmp(one.p, two.p, one.n) == 0);
	buf_free(&one);
	buf_free(&two);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(without_providers_nothing_changes), T(the_same_two_make_the_same_bytes_and_no_secret), T(auto_stays_at_home_and_has_spares),
		T(a_full_queue_in_the_cloud_is_passed_by),
		T(a_full_queue_at_home_is_no_reason_to_spend),
		T(a_model_that_rests_is_left_out), T(when_the_house_is_down_the_cloud_answers), T(what_the_house_has_is_to_be_known_first),
		T(what_does_not_fit_at_home_fits_there), T(after_two_failures_at_home_it_is_the_clouds_turn),
		T(complexity_asks_for_it), T(measured_quality_sends_it_there), T(who_names_it_gets_it),
		T(a_local_model_that_was_named_does_not_leave_unless_allowed), T(a_refused_fallback_says_which_condition_failed), T(the_log_alone_tells_it_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

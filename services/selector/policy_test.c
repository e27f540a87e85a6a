/* policy_test.c - a new policy is published when what was measured has changed, and Decide answers with the newest of everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"
#include "models.pb-c.h"
#include "services/selector/selector.h"
#include "services/selector/service.h"

static struct svc svc;
static struct selector s;
static struct selector_config cfg;
static struct loop *loop;
static struct rpc_server *ours, *ledger;
static struct rpc_client *client;
static struct loop_timer tick;
static struct arena *mem;

/* --- the ledger: says what it is told to --- */

static Corral__SpeedRow rows[2];
static size_t n_rows;
static unsigned asked;

static void speeds(Corral__UsageTracker_Service *service, const Corral__SpeedsRequest *q, Corral__SpeedsReply_Closure closure, void *data)
{
	Corral__SpeedsReply reply = CORRAL__SPEEDS_REPLY__INIT;
	Corral__SpeedRow *all[] = { &rows[0], &rows[1] };

	asked++;
	reply.rows = all;
	reply.n_rows = n_rows;
	closure(&reply, data);
}

static Corral__UsageTracker_Service ledger_service = { .base = { .descriptor = &corral__usage_tracker__descriptor, .invoke = protobuf_c_service_invoke_internal } };

static void measured(size_t i, const char *model, double tokens_per_s, double ttft_ms, uint64_t samples)
{
	corral__speed_row__init(&rows[i]);
	rows[i].model = (char *)model;
	rows[i].backend = (char *)"gpu";
	rows[i].tokens_per_s = tokens_per_s;
	rows[i].ttft_ms = ttft_ms;
	rows[i].samples = samples;
	rows[i].success_rate = 0.987;
	n_rows = i + 1 > n_rows ? i + 1 : n_rows;
}

static void open_ledger(void)
{
	struct why why;

	ledger_service.speeds = speeds;
	ledger = rpc_server_new(loop, "inproc://policy-test-ledger", &why);
	assert_non_null(ledger);
	rpc_server_add(ledger, &ledger_service.base);
}

/* --- the selector without its life --- */

static int set_up(void **state)
{
	struct why why;

	n_rows = asked = 0;
	loop = loop_new();
	mem = arena_new(0);
	cfg = (struct selector_config){ .switch_margin = 0.05 };
	svc = (struct svc){ .metrics = metrics_new(selector_service.metrics, selector_service.n_metrics) };
	s = (struct selector){ .svc = &svc, .cfg = &cfg, .models.kind = "models", .policies.kind = "policy" };
	ours = rpc_server_new(loop, "inproc://policy-test", &why);
	s.policy_pub = snapshot_pub_new(loop, ours, "inproc://policy-test.pub", "policy", &why);
	s.ledger = rpc_client_new(loop, "inproc://policy-test-ledger");
	corral__selector__init(&s.rpc, NULL);
	policy_serve(&s);
	rpc_server_add(ours, &s.rpc.base);
	client = rpc_client_new(loop, "inproc://policy-test");
	open_ledger();
	return 0;
}

static int tear_down(void **state)
{
	rpc_client_free(client);
	rpc_client_free(s.ledger);
	snapshot_pub_free(s.policy_pub);
	rpc_server_free(ours);
	rpc_server_free(ledger);
	versions_free(&s.policies);
	versions_free(&s.models);
	buf_free(&s.policy);
	arena_free(s.mem);
	arena_free(s.policy_mem);
	arena_free(mem);
	metrics_free(svc.metrics);
	loop_free(loop);
	return 0;
}

static bool (*until)(void);
static int64_t give_up_us;

static void look(struct loop_timer *t)
{
	if (until() || mono_us() > give_up_us)
		loop_stop(loop);
	else
		loop_timer_set(loop, t, 500, look);
}

static void run_until(bool (*done)(void))
{
	until = done;
	give_up_us = mono_us() + 20000000;
	loop_timer_set(loop, &tick, 0, look);
	loop_run(loop);
	loop_timer_del(&tick);
	assert_true(done());
}

static Corral__PolicySnapshot *policy(void)
{
	Corral__PolicySnapshot *p = corral__policy_snapshot__unpack(NULL, s.policy.n, (const uint8_t *)s.policy.p);

	assert_non_null(p);
	return p;
}

static unsigned answers, asked_before;
static uint64_t expected;
static bool was_answered(void) { return answers > 0; }
static bool was_asked(void) { return asked > asked_before; }
static bool has_version(void) { return s.policy_id.version >= expected; }

static void refresh_unchanged(void)
{
	asked_before = asked;
	policy_refresh(&s);
	run_until(was_asked);
}

/* Whatever was asked before must not have made a version of its own. */
static void refresh_to(uint64_t version)
{
	expected = version;
	policy_refresh(&s);
	run_until(has_version);
	assert_int_equal(s.policy_id.version, version);
}

/* --- what is published --- */

static void rules_are_there_before_anything_is_measured(void **state)
{
	Corral__PolicySnapshot *p;

	rpc_server_free(ledger);
	ledger = NULL;
	policy_refresh(&s);
	p = policy();
	assert_int_equal(s.policy_id.version, 1);
	assert_string_equal(p->mode, "rules");
	assert_int_equal(p->n_speeds, 0);
	assert_true(p->n_rules >= 2 && p->switch_margin == 0.05);
	assert_string_equal(p->rules[p->n_rules - 1]->task_type, "");     /* the last matches whatever comes */
	assert_string_equal(p->rules[p->n_rules - 1]->complexity, "");
	for (size_t i = 0; i < p->n_rules; i++) {
		double sum = p->rules[i]->quality + p->rules[i]->latency + p->rules[i]->cost;

		assert_true(sum > 0.999 && sum < 1.001);
	}
	corral__policy_snapshot__free_unpacked(p, NULL);
}

static void only_what_differs_in_two_digits_is_news(void **state)
{
	Corral__PolicySnapshot *p;

	measured(0, "m", 41.7, 123.4, 1234);
	refresh_to(2);
	p = policy();
	assert_int_equal(p->n_speeds, 1);
	assert_true(p->speeds[0]->tokens_per_s == 42 && p->speeds[0]->ttft_ms == 120 && p->speeds[0]->samples == 1200);
	assert_true(p->speeds[0]->success_rate == 0.99);
	corral__policy_snapshot__free_unpacked(p, NULL);
	measured(0, "m", 42.3, 118.0, 1199);
	refresh_unchanged();
	measured(0, "m", 44.0, 118.0, 1199);
	refresh_to(3);
	assert_true(series_get(metrics_series(svc.metrics, M_POLICY_VERSION)) == 3);
	cfg.switch_margin = 0.2;                  /* a new configuration is news too */
	refresh_to(4);
}

static void what_is_not_known_is_said_as_zero(void **state)
{
	Corral__PolicySnapshot *p;

	measured(0, "m", 0, 0, 0);
	measured(1, "n", -1, -5, 0);
	refresh_to(2);
	p = policy();
	assert_int_equal(p->n_speeds, 2);
	for (size_t i = 0; i < 2; i++)
		assert_true(p->speeds[i]->tokens_per_s == 0 && p->speeds[i]->ttft_ms == 0 && p->speeds[i]->samples == 0);
	corral__policy_snapshot__free_unpacked(p, NULL);
}

static void on_no_speeds(const Corral__SpeedsReply *reply, void *arg)
{
	assert_null(reply);
	answers++;
}

static void a_ledger_that_is_away_changes_nothing(void **state)
{
	Corral__SpeedsRequest q = CORRAL__SPEEDS_REQUEST__INIT;

	measured(0, "m", 40, 100, 10);
	refresh_to(2);
	rpc_server_free(ledger);
	ledger = NULL;
	(void)rpc_deadline(s.ledger, 20);
	policy_refresh(&s);
	answers = 0;                              /* when a later question has failed, so has that one */
	corral__usage_tracker__speeds(rpc_stub(s.ledger, &corral__usage_tracker__descriptor), &q, on_no_speeds, NULL);
	run_until(was_answered);
	assert_int_equal(s.policy_id.version, 2);
	open_ledger();
	measured(0, "m", 80, 100, 10);
	(void)rpc_deadline(s.ledger, 5000);
	refresh_to(3);
}

/* --- Decide --- */

static enum err decided_err;
static char best[64], why_not[300];
static uint64_t models_version, policy_version;
static size_t n_candidates, n_rejected;

static void on_decided(const Corral__DecideReply *reply, void *arg)
{
	answers++;
	*best = *why_not = '\0';
	n_candidates = n_rejected = 0;
	if (!reply) {
		decided_err = rpc_error(client)->code;
		return;
	}
	decided_err = (enum err)reply->outcome->err;
	n_candidates = reply->outcome->n_candidates;
	n_rejected = reply->outcome->n_rejected;
	if (n_candidates)
		str_copy(best, sizeof(best), str_of(reply->outcome->candidates[0]->model));
	str_copy(why_not, sizeof(why_not), str_of(reply->outcome->text));
	models_version = reply->models_version;
	policy_version = reply->policy_version;
}

static void ask(const char *model, Corral__DecisionFeatures *f, Corral__LoadVector *load)
{
	Corral__DecideRequest q = CORRAL__DECIDE_REQUEST__INIT;

	if (f) {
		f->requested_model = (char *)model;
		f->is_auto = strcmp(model, "auto") == 0;
		f->task_type = f->complexity = f->language = f->conversation_model = (char *)"";
		f->policy = (char *)"balanced";
		f->prompt_tokens = 10;
	}
	q.features = f;
	q.load = load;
	answers = 0;
	corral__selector__decide(rpc_stub(client, &corral__selector__descriptor), &q, on_decided, NULL);
	run_until(was_answered);
}

/* Two models of one size and quality: which is better is a matter of speed and load. */
static void know_models(uint64_t version)
{
	Corral__ModelSnapshot p = CORRAL__MODEL_SNAPSHOT__INIT;
	Corral__Backend gpu = CORRAL__BACKEND__INIT, *backends[] = { &gpu };
	Corral__Model m[2] = { CORRAL__MODEL__INIT, CORRAL__MODEL__INIT }, *models[] = { &m[0], &m[1] };
	Corral__Replica r[2] = { CORRAL__REPLICA__INIT, CORRAL__REPLICA__INIT }, *replicas[] = { &r[0], &r[1] };
	char *chat[] = { (char *)"completion" }, *names[] = { (char *)"m", (char *)"n" }, *packed;
	size_t n;

	gpu.name = (char *)"gpu", gpu.kind = (char *)"ollama", gpu.url = (char *)"http://127.0.0.1:9", gpu.state = CORRAL__BACKEND_STATE__BACKEND_UP;
	for (int i = 0; i < 2; i++) {
		m[i].name = r[i].model = r[i].remote_name = names[i];
		m[i].capabilities = chat, m[i].n_capabilities = 1;
		m[i].context_length = 4096;
		r[i].backend = gpu.name, r[i].slots = 2, r[i].loaded = true;
	}
	p.backends = backends, p.n_backends = 1;
	p.models = models, p.n_models = 2;
	p.replicas = replicas, p.n_replicas = 2;
	n = corral__model_snapshot__get_packed_size(&p);
	packed = arena_alloc(mem, n);
	corral__model_snapshot__pack(&p, (uint8_t *)packed);
	policy_rebuild(&s, (struct snapshot_id){ 1, version }, str_n(packed, n));
	assert_true(s.built);
}

static void nothing_is_decided_before_models_are_known(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;

	policy_refresh(&s);
	ask("auto", &f, NULL);
	assert_int_equal(decided_err, ERR_UNAVAILABLE);
	know_models(1);
	ask("auto", NULL, NULL);
	assert_int_equal(decided_err, ERR_MALFORMED);
	ask("auto", &f, NULL);
	assert_int_equal(decided_err, ERR_OK);
	assert_int_equal(n_candidates, 2);
	log_threshold = LOG_LEVEL_ERROR + 1;
	policy_rebuild(&s, (struct snapshot_id){ 1, 2 }, STR("\xff\xff"));
	log_threshold = LOG_LEVEL_ERROR;
	ask("auto", &f, NULL);
	assert_int_equal(decided_err, ERR_UNAVAILABLE);   /* no half a catalogue */
	know_models(3);
	ask("n", &f, NULL);
	assert_int_equal(models_version, 3);
	assert_string_equal(best, "n");
	assert_int_equal(n_candidates, 1);
}

/* The models did not change meanwhile: the measured speeds count all the same. */
static void a_new_policy_counts_at_once(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;

	policy_refresh(&s);
	know_models(1);
	measured(0, "m", 2, 3000, 100);
	measured(1, "n", 200, 30, 100);
	refresh_to(2);
	ask("auto", &f, NULL);
	assert_string_equal(best, "n");
	assert_int_equal(policy_version, s.policy_id.version);
	measured(0, "m", 200, 30, 100);
	measured(1, "n", 2, 3000, 100);
	refresh_to(3);
	ask("auto", &f, NULL);
	assert_string_equal(best, "m");
	assert_int_equal(policy_version, s.policy_id.version);
}

static void load_and_what_may_be_seen_decide_too(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	Corral__ReplicaLoad busy = CORRAL__REPLICA_LOAD__INIT, free_ = CORRAL__REPLICA_LOAD__INIT, broken = CORRAL__REPLICA_LOAD__INIT;
	Corral__ReplicaLoad *first_busy[] = { &busy, &free_ }, *first_broken[] = { &broken, &free_ };
	Corral__LoadVector load = CORRAL__LOAD_VECTOR__INIT;
	char *only_n[] = { (char *)"n" };

	policy_refresh(&s);
	know_models(1);
	ask("auto", &f, NULL);
	assert_string_equal(best, "m");           /* equals: the first */
	busy.in_use = 2, busy.slots = 2, busy.queued = 9, free_.slots = 2;
	load.replicas = first_busy, load.n_replicas = 2;
	ask("auto", &f, &load);
	assert_string_equal(best, "n");
	broken.breaker_open = true, broken.slots = 2;
	load.replicas = first_broken;
	ask("m", &f, &load);
	assert_int_equal(decided_err, ERR_UNAVAILABLE);
	assert_int_equal(n_rejected, 1);
	load.n_replicas = 1;                      /* a shorter list than there are replicas */
	ask("auto", &f, &load);
	assert_string_equal(best, "n");
	ask("nobody", &f, NULL);
	assert_int_equal(decided_err, ERR_MODEL_NOT_FOUND);
	f.key_models = only_n, f.n_key_models = 1;
	ask("m", &f, NULL);
	assert_int_equal(decided_err, ERR_MODEL_NOT_FOUND);
	assert_int_equal(n_candidates + n_rejected, 0);
	ask("auto", &f, NULL);
	assert_string_equal(best, "n");
	assert_int_equal(n_candidates, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(rules_are_there_before_anything_is_measured), T(only_what_differs_in_two_digits_is_news), T(what_is_not_known_is_said_as_zero),
		T(a_ledger_that_is_away_changes_nothing), T(nothing_is_decided_before_models_are_known), T(a_new_policy_counts_at_once),
		T(load_and_what_may_be_seen_decide_too),
	};

	log_threshold = LOG_LEVEL_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

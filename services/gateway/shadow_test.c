/* shadow_test.c - shadow runs: the client notices nothing, the books keep them apart, and they take nothing that anybody waits for. */
#include "common/data/metrics.h"
#include "services/gateway/gateway_test.h"
#include "services/gateway/shadow.h"

/* --- an experiment: "only" answers, "m" is its shadow --- */

static Corral__ExperimentArm *arm(const char *name, const char *model)
{
	Corral__ExperimentArm *a = arena_new_of(h.mem, Corral__ExperimentArm);

	corral__experiment_arm__init(a);
	a->name = (char *)name;
	a->model = (char *)model;
	a->weight = 1;
	return a;
}

static void begin(const char *parameters)
{
	Corral__ExperimentSnapshot s = CORRAL__EXPERIMENT_SNAPSHOT__INIT;
	Corral__Experiment e = CORRAL__EXPERIMENT__INIT, *list[] = { &e };
	Corral__ExperimentArm *arms[] = { arm("a", "only"), arm("b", "m") };

	arms[1]->parameters = (char *)parameters;
	e.id = (char *)"0199-test";
	e.name = e.namespace_ = (char *)"n";
	e.unit = (char *)"user";
	e.metric = (char *)"success";
	e.traffic_percent = 100;
	e.end_slot = NAMESPACE_SLOTS;
	e.arms = arms;
	e.n_arms = 2;
	e.shadow = true;
	s.experiments = list;
	s.n_experiments = 1;
	buf_clear(&h.gw.experiments_bytes);
	buf_reserve(&h.gw.experiments_bytes, corral__experiment_snapshot__get_packed_size(&s));
	h.gw.experiments_bytes.n = corral__experiment_snapshot__pack(&s, (uint8_t *)h.gw.experiments_bytes.p);
	h.gw.experiments_id = (struct snapshot_id){ 1, h.gw.experiments_id.version + 1 };
	set_world();
	assert_true(slot_take(replica("m", "a")));        /* so that the shadow is at b, where nothing else is */
}

static int close_house(void **state)
{
	buf_free(&h.gw.experiments_bytes);
	return house_close(state);
}

static bool no_shadows(void) { return list_empty(&h.w->shadows) && h.w->n_requests == 0; }
static bool at_b(void) { return h.calls_b > 0; }

static void ask(const char *user)
{
	send_to("POST", "/v1/chat/completions", arena_fmt(h.mem, "X-Corral-User: %s\r\n", user).p, CHAT("auto", ""));
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Model: only") && has_header("X-Corral-Reason: experiment") && has_body("w0 w1"));
}

static double counted(const char *result) { return series_get(metrics_series(h.gw.metrics, M_SHADOWS, result)); }

/* --- the books --- */

struct apart { unsigned clients, shadows; uint64_t run_finals; char status[16], model[16], arm[8], unit[40], tenant[16]; uint64_t tokens; bool linked; };

static void look(void *arg, uint8_t type, const Corral__UsageEvent *e)
{
	struct apart *x = arg;

	if (type != REC_FINAL)
		return;
	x->run_finals += e->run != 0;
	if (!e->shadow_of.len) {
		x->clients++;
		return;
	}
	x->shadows++;
	x->linked = e->shadow_of.len == 16 && memcmp(e->shadow_of.data, e->request_id.data, 16) != 0;
	x->tokens = e->prompt_tokens + e->completion_tokens;
	str_copy(x->status, sizeof(x->status), str_of(e->status));
	str_copy(x->model, sizeof(x->model), str_of(e->model));
	str_copy(x->arm, sizeof(x->arm), str_of(e->arm));
	str_copy(x->unit, sizeof(x->unit), str_of(e->unit));
	str_copy(x->tenant, sizeof(x->tenant), str_of(e->tenant));
}

static struct apart apart(void)
{
	struct apart x = { 0 };

	each_usage(look, &x);
	assert_int_equal(books().begun, books().closed);
	assert_true(list_empty(&h.w->open));
	assert_int_equal(atomic_load(&h.gw.n_shadows), 0);
	assert_int_equal(budget_used(&h.gw.held), 0);
	assert_int_equal(atomic_load(&replica("m", "b")->in_use), 0);
	return x;
}

static void it_is_asked_the_same_and_booked_apart(void **state)
{
	struct apart x;

	begin("{\"temperature\":0.5}");
	ask("ann");
	run_until(no_shadows);
	assert_int_equal(h.calls, 1);
	assert_int_equal(h.calls_b, 1);
	assert_non_null(strstr(h.last_body, "hello"));
	assert_non_null(strstr(h.last_body, "\"temperature\":0.5"));
	x = apart();
	assert_true(x.clients == 1 && x.shadows == 1 && x.linked && x.run_finals == 2);
	assert_string_equal(x.status, "ok");
	assert_string_equal(x.model, "m");
	assert_string_equal(x.arm, "b");
	assert_string_equal(x.tenant, "default");
	assert_int_equal(x.tokens, 9);
	assert_true(*x.unit && counted("ok") == 1);
}

static void a_stream_has_one_too(void **state)
{
	begin("");
	send_to("POST", "/v1/chat/completions", "X-Corral-User: ann\r\n", CHAT("auto", ",\"stream\":true"));
	run_until(replied);
	assert_true(str_starts(buf_as_str(&reply.body), STR(CHUNK("w0 ") CHUNK("w1"))) && str_ends(buf_as_str(&reply.body), STR("data: [DONE]\n\n")));
	run_until(no_shadows);
	assert_int_equal(apart().tokens, 9);
}

static void who_has_no_unit_has_none(void **state)
{
	begin("");
	chat(CHAT("auto", ""));
	assert_int_equal(reply.status, 200);
	run_until(no_shadows);
	assert_int_equal(apart().shadows, 0);
}

static void the_answer_does_not_wait_for_it(void **state)
{
	begin("");
	h.does_b = HANGS;
	ask("ann");
	run_until(at_b);
	assert_false(no_shadows());
	shadows_end(h.w);                 /* as a drain does */
	run_until(backend_was_left);
	assert_true(no_shadows());
	assert_string_equal(apart().status, "cancelled");
	assert_true(counted("made_way") == 1);
}

static void its_failures_hurt_nobody(void **state)
{
	static const enum does bad[] = { FAILS, CUTS, IS_BUSY, CUTS_HALF, REFUSES };

	begin("");
	for (unsigned i = 0; i < 20; i++) {
		h.does_b = bad[i % 5];
		ask("ann");
		run_until(no_shadows);
	}
	assert_int_equal(h.calls_b, 20);  /* each once: none is tried again */
	assert_int_equal(breaker_state(&replica("m", "b")->breaker, loop_now_us(h.loop)), BREAKER_CLOSED);
	assert_int_equal(breaker_retry_us(&replica("m", "b")->breaker, loop_now_us(h.loop)), 0);
	assert_true(counted("error") == 20);
	assert_string_equal(apart().status, "error");
}

static void without_a_free_slot_there_is_none(void **state)
{
	begin("");
	assert_true(slot_take(replica("m", "b")));
	ask("ann");
	run_until(no_shadows);
	assert_true(h.calls_b == 0 && counted("no_slot") == 1);
	slot_free(replica("m", "b"), 0);
	assert_int_equal(apart().shadows, 0);
}

static bool was_not_loaded(void) { return counted("not_loaded") == 1 && list_empty(&h.w->shadows); }

/* The client's model is loaded for it; the shadow's is not. */
static void nothing_is_loaded_for_it(void **state)
{
	h.does = HANGS;
	h.kind = "ollama";
	h.unloaded = true;
	begin("");
	send_to("POST", "/v1/chat/completions", "X-Corral-User: ann\r\n", CHAT("auto", ""));
	run_until(in_backend);
	run_until(was_not_loaded);
	assert_int_equal(h.calls_b, 0);
}

/* A client comes to wait for the model that the shadow is on: it has the slot at once. */
static void it_makes_way_for_a_client(void **state)
{
	begin("");
	h.does_b = HANGS;
	ask("ann");
	run_until(at_b);
	h.does_b = ANSWERS;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Backend: b") && h.calls_b == 2 && counted("made_way") == 1);
	assert_string_equal(apart().status, "cancelled");
}

static void a_slot_that_is_lent_to_others_is_given_back(void **state)
{
	begin("");
	h.does_b = HANGS;
	ask("ann");
	run_until(at_b);
	worker_sweep(h.w, loop_now_us(h.loop));
	assert_false(no_shadows());
	replica_lease_set(replica("m", "b"), 0);
	worker_sweep(h.w, loop_now_us(h.loop));
	assert_true(no_shadows() && counted("made_way") == 1);
}

#define ROOM(f) cmocka_unit_test_setup_teardown(f, house_open, close_house)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ROOM(it_is_asked_the_same_and_booked_apart), ROOM(a_stream_has_one_too), ROOM(who_has_no_unit_has_none), ROOM(the_answer_does_not_wait_for_it),
		ROOM(its_failures_hurt_nobody), ROOM(without_a_free_slot_there_is_none), ROOM(nothing_is_loaded_for_it), ROOM(it_makes_way_for_a_client),
		ROOM(a_slot_that_is_lent_to_others_is_given_back),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

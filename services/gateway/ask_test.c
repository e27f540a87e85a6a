/* ask_test.c - questions to other services: whoever asks may leave, whoever is asked may be away, and at the end nothing stays behind. */
#include "services/gateway/gateway_test.h"

#include "models.pb-c.h"
#include "usage.pb-c.h"

/* --- the other services, scripted --- */

static enum { SAY_ROWS, SAY_NOTHING, SAY_NO_SUCH, SAY_BROKEN } ledger_does;
static char asked_for[64];
static unsigned asked;
static struct rpc_server *ledger, *registry;
static uint64_t synced_version;
static void *unanswered;              /* the closure's data of a question that SAY_NOTHING holds */

static void query(Corral__UsageTracker_Service *service, const Corral__UsageQuery *q, Corral__UsageReport_Closure closure, void *data)
{
	Corral__UsageReport report = CORRAL__USAGE_REPORT__INIT;
	Corral__UsageRow none = CORRAL__USAGE_ROW__INIT, one = CORRAL__USAGE_ROW__INIT, *rows[] = { &none, &one };
	char *no_model[] = { (char *)"" }, *model[] = { (char *)"m" };

	asked++;
	str_copy(asked_for, sizeof(asked_for), str_of(rpc_request_id(data)));
	if (ledger_does == SAY_NO_SUCH)
		rpc_fail(data, ERR_INVALID, "no such day");
	else if (ledger_does == SAY_BROKEN)
		rpc_fail(data, ERR_STORE_FAILED, "/var/secret/ledger.db: disk I/O error");
	if (ledger_does == SAY_NOTHING)
		unanswered = data;
	if (ledger_does != SAY_ROWS)
		return;
	none.groups = no_model, one.groups = model;
	none.n_groups = one.n_groups = 1;
	report.rows = rows;
	report.n_rows = 2;
	closure(&report, data);
}

static void attempts(Corral__UsageTracker_Service *service, const Corral__AttemptsRequest *q, Corral__AttemptsReply_Closure closure, void *data)
{
	Corral__AttemptsReply reply_of = CORRAL__ATTEMPTS_REPLY__INIT;

	closure(&reply_of, data);
}

static void sync_now(Corral__ModelRegistry_Service *service, const Corral__SyncRequest *q, Corral__SyncReply_Closure closure, void *data)
{
	Corral__SyncReply reply_of = CORRAL__SYNC_REPLY__INIT;

	asked++;
	reply_of.epoch = 1;
	reply_of.version = synced_version;
	closure(&reply_of, data);
}

static Corral__UsageTracker_Service ledger_service = { .base = { .descriptor = &corral__usage_tracker__descriptor, .invoke = protobuf_c_service_invoke_internal } };
static Corral__ModelRegistry_Service registry_service = { .base = { .descriptor = &corral__model_registry__descriptor, .invoke = protobuf_c_service_invoke_internal } };

static int open_all(void **state)
{
	struct why why;

	house_open(state);
	ledger_does = SAY_ROWS;
	asked = 0;
	ledger_service.query = query;
	ledger_service.attempts = attempts;
	registry_service.sync = sync_now;
	ledger = rpc_server_new(h.loop, "inproc://gateway-test-ledger", &why);
	registry = rpc_server_new(h.loop, "inproc://gateway-test-registry", &why);
	assert_true(ledger && registry);
	rpc_server_add(ledger, &ledger_service.base);
	rpc_server_add(registry, &registry_service.base);
	return 0;
}

static int close_all(void **state)
{
	rpc_server_free(ledger);
	rpc_server_free(registry);
	if (unanswered)                   /* goes nowhere, and is freed */
		rpc_fail(unanswered, ERR_UNAVAILABLE, "the end");
	unanswered = NULL;
	return house_close(state);
}

static bool is_asked(void) { return asked > 0; }
static bool no_asks(void) { return list_empty(&h.gw.asks); }

/* --- tests --- */

static void answers_with_what_the_other_service_knows(void **state)
{
	ask_for("GET", "/usage?group_by=model", "");
	assert_int_equal(reply.status, 200);
	assert_true(has_body("{\"model\":null,"));       /* refused before a model was chosen */
	assert_true(has_body("{\"model\":\"m\","));
	assert_true(has_header(asked_for) && strlen(asked_for) == 36);
	assert_true(no_asks());
}

static void passes_on_what_is_the_askers_fault_and_keeps_the_rest_to_itself(void **state)
{
	ledger_does = SAY_NO_SUCH;
	ask_for("GET", "/usage", "");
	assert_int_equal(reply.status, 422);
	assert_true(has_body("no such day"));
	ledger_does = SAY_BROKEN;
	ask_for("GET", "/usage", "");
	assert_int_equal(reply.status, 503);
	assert_false(has_body("secret"));
	ask_for("GET", "/requests/01a1fe13-37df-71b7-b437-cc3d29a2af23", "");
	assert_int_equal(reply.status, 404);
	assert_true(no_asks());
}

static void models_that_nobody_asked_for_are_proposed(void **state)
{
	ask_for("GET", "/models/unused?days=7", "");
	assert_int_equal(reply.status, 200);
	assert_true(has_body("\"days\":7") && has_body("{\"name\":\"only\",") && has_body("\"backends\":[\"a\"]") && has_body("\"proposed\":true"));
	assert_false(has_body("\"name\":\"m\""));       /* the ledger has requests for it */
	assert_true(no_asks());
}

static void a_question_that_is_wrong_is_not_asked(void **state)
{
	static const char *const wrong[] = { "/usage?group_by=colour", "/usage?format=xml", "/usage?from=yesterday", "/requests/nobody", "/explain/1",
		"/models/unused?days=x", "/models/unused?days=99999" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		ask_for("GET", wrong[i], "");
		assert_int_equal(reply.status, 422);
	}
	assert_int_equal(asked, 0);
	assert_true(no_asks());
}

static void who_leaves_is_not_answered_and_leaves_nothing(void **state)
{
	ledger_does = SAY_NOTHING;
	send_to("GET", "/usage", "", "");
	run_until(is_asked);
	reply_free(&reply);
	run_until(no_requests);
	assert_false(no_asks());
	rpc_server_free(ledger);          /* its peer breaks: the answer is for nobody */
	ledger = NULL;
	run_until(no_asks);
}

/* What is on its way between the threads at the end is freed: the rest of this test is ASan's. */
static void a_forced_end_forgets_questions(void **state)
{
	ledger_does = SAY_NOTHING;
	send_to("GET", "/usage", "", "");
	run_until(is_asked);
	assert_false(no_asks());
}

static void after_a_sync_the_answer_waits_for_the_list(void **state)
{
	synced_version = h.gw.models_id.version + 1;
	send_to("POST", "/models/sync", "", "");
	run_until(is_asked);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(reply.done);
	set_world();
	ask_models_came(&h.gw);
	run_until(replied);
	assert_int_equal(reply.status, 200);
	synced_version = h.gw.models_id.version;        /* nothing new: nothing to wait for */
	ask_for("POST", "/models/sync", "");
	assert_int_equal(reply.status, 200);
}

static void a_list_that_never_comes_is_said(void **state)
{
	synced_version = h.gw.models_id.version + 1;
	send_to("POST", "/models/sync", "", "");
	run_until(is_asked);
	while (!h.gw.behind)
		turn();
	h.gw.behind->patience_us = 0;
	ask_models_came(&h.gw);
	run_until(replied);
	assert_int_equal(reply.status, 503);
	assert_true(has_body("has not come"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(answers_with_what_the_other_service_knows), T(passes_on_what_is_the_askers_fault_and_keeps_the_rest_to_itself),
		T(models_that_nobody_asked_for_are_proposed), T(a_question_that_is_wrong_is_not_asked), T(who_leaves_is_not_answered_and_leaves_nothing),
		T(a_forced_end_forgets_questions),
		T(after_a_sync_the_answer_waits_for_the_list), T(a_list_that_never_comes_is_said),
	};

	log_threshold = LOG_LEVEL_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* decisions_test.c - the snapshots that decisions refer to are kept as long as these are, whatever the disk and the calendar do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/svc/runtime.h"
#include "services/selector/selector.h"
#include "services/selector/service.h"

static char dir[64], url[128];
static struct svc svc;
static struct selector s;
static uint64_t acked;

static int set_up(void **state)
{
	struct why why;

	str_copy(dir, sizeof(dir), STR("/tmp/decisions-XXXXXX"));
	assert_non_null(mkdtemp(dir));
	snprintf(url, sizeof(url), "sqlite:%s/decisions.db", dir);
	svc = (struct svc){ .metrics = metrics_new(selector_service.metrics, selector_service.n_metrics) };
	pthread_mutex_init(&svc.lock, NULL);
	s = (struct selector){ .svc = &svc, .models.kind = "models", .policies.kind = "policy" };
	s.db = db_open(url, selector_statements, selector_n_statements, selector_migrations, &why);
	assert_non_null(s.db);
	decisions_serve(&s);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	db_close(s.db);
	versions_free(&s.models);
	versions_free(&s.policies);
	metrics_free(svc.metrics);
	while (svc.needs) {
		struct need *n = svc.needs;

		svc.needs = n->next;
		free(n);
	}
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void on_ack(const Corral__FactAck *ack, void *data)
{
	acked = ack->position;
	free(data);
}

/* Keeps one decision of the model snapshot 1.1, 'age_us' old, with n bytes of outcome. False when it was refused. */
static bool ingest(uint64_t first, int64_t age_us, size_t n)
{
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	Corral__FactBatch b = CORRAL__FACT_BATCH__INIT;
	ProtobufCBinaryData record;
	uint64_t ms = (uint64_t)(wall_us() - age_us) / 1000;
	uint8_t id[16] = { (uint8_t)(ms >> 40), (uint8_t)(ms >> 32), (uint8_t)(ms >> 24), (uint8_t)(ms >> 16), (uint8_t)(ms >> 8), (uint8_t)ms, 0x70 };

	id[15] = (uint8_t)first;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.occurred_at_us = wall_us() - age_us;
	e.models_epoch = e.models_version = 1;
	e.outcome = (ProtobufCBinaryData){ n, x_calloc(1, n + 1) };
	record.len = corral__decision_event__get_packed_size(&e);
	record.data = x_malloc(record.len);
	corral__decision_event__pack(&e, record.data);
	b.topic = "decision.v1", b.source = "gateway/decisions-0";
	b.epoch = 1, b.first = first, b.next = first + 10;
	b.records = &record, b.n_records = 1;
	acked = 0;
	/* Zeros are a question whose server is gone: rpc_fail() only frees it. */
	s.facts.ingest(&s.facts, &b, on_ack, x_calloc(1, 256));
	free(record.data);
	free(e.outcome.data);
	return acked == first + 10;
}

static bool take_count(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static int64_t number(const char *sql)
{
	int64_t n = -1;
	struct why why;

	assert_true(db_query(s.db, sql, NULL, 0, take_count, &n, &why));
	return n;
}

static void a_version_of_a_batch_that_failed_is_written_with_the_next(void **state)
{
	versions_note(&s.models, (struct snapshot_id){ 1, 1 }, STR("snapshot"));
	number("PRAGMA max_page_count = 20");     /* a disk that is full */
	assert_false(ingest(0, 0, 1 << 20));
	assert_int_equal(number("SELECT count(*) FROM versions"), 0);
	number("PRAGMA max_page_count = 100000");
	assert_true(ingest(0, 0, 1 << 20));
	assert_int_equal(number("SELECT count(*) FROM versions"), 1);
	assert_int_equal(number("SELECT count(*) FROM decisions"), 1);
}

static void a_version_lives_as_long_as_decisions_refer_to_it(void **state)
{
	const int64_t day = 86400 * (int64_t)1000000;

	versions_note(&s.models, (struct snapshot_id){ 1, 1 }, STR("snapshot"));
	assert_true(ingest(0, 20 * day, 10));
	number("UPDATE versions SET noted_at_us = noted_at_us - 20 * 86400000000 RETURNING 1");
	decisions_clean(&s, wall_us() - 30 * day);
	assert_true(ingest(10, 0, 10));           /* the same snapshot, still in force */
	decisions_clean(&s, wall_us() - 14 * day);
	assert_int_equal(number("SELECT count(*) FROM decisions"), 1);
	assert_int_equal(number("SELECT count(*) FROM versions"), 1);
}

static void a_batch_is_kept_once(void **state)
{
	assert_true(ingest(0, 0, 10));
	assert_true(ingest(0, 0, 10));    /* the answer says where we are */
	assert_int_equal(number("SELECT count(*) FROM decisions"), 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(a_version_of_a_batch_that_failed_is_written_with_the_next), T(a_version_lives_as_long_as_decisions_refer_to_it),
		T(a_batch_is_kept_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

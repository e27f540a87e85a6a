/* decisions_test.c - the snapshots that decisions refer to are kept as long as these are, whatever the disk and the calendar do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "common/svc/runtime.h"
#include "services/selector/selector.h"
#include "services/selector/service.h"

static char dir[64], url[256];
static struct svc svc;
static struct selector s;
static uint64_t acked;

/* Its works are done within the call. */
static void open_store(const char *at)
{
	struct why why;
	struct db *db = db_open(at, selector_statements, selector_n_statements, selector_migrations, &why);

	assert_non_null(db);
	decisions_open(&s, NULL, db);
}

static int set_up(void **state)
{

	str_copy(dir, sizeof(dir), STR("/tmp/decisions-XXXXXX"));
	assert_non_null(mkdtemp(dir));
	test_db(dir, "decisions.db", selector_migrations, url, sizeof(url));
	svc = (struct svc){ .state = &s, .metrics = metrics_new(selector_service.metrics, selector_service.n_metrics) };
	pthread_mutex_init(&svc.lock, NULL);
	s = (struct selector){ .svc = &svc, .models.kind = "models", .policies.kind = "policy" };
	open_store(url);
	decisions_serve(&s);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	db_thread_free(s.store);
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

static bool send(uint64_t first, ProtobufCBinaryData *records, size_t n)
{
	Corral__FactBatch b = CORRAL__FACT_BATCH__INIT;

	b.topic = "decision.v1", b.source = "gateway/decisions-0";
	b.epoch = 1, b.first = first, b.next = first + 10;
	b.records = records, b.n_records = n;
	acked = 0;
	/* Zeros are a question whose server is gone: rpc_fail() only frees it. */
	s.facts.ingest(&s.facts, &b, on_ack, x_calloc(1, 256));
	return acked == first + 10;
}

/* The id of request 'number' of that time. */
static void id_of(uint8_t id[16], int64_t age_us, uint8_t number)
{
	uint64_t ms = (uint64_t)(wall_us() - age_us) / 1000;

	memset(id, 0, 16);
	for (int i = 0; i < 6; i++)
		id[i] = (uint8_t)(ms >> (40 - 8 * i));
	id[6] = 0x70;
	id[15] = number;
}

static ProtobufCBinaryData packed(const Corral__DecisionEvent *e)
{
	ProtobufCBinaryData record = { .len = corral__decision_event__get_packed_size(e) };

	record.data = x_malloc(record.len);
	corral__decision_event__pack(e, record.data);
	return record;
}

/* Keeps one decision of the model snapshot 1.1, 'age_us' old, with n bytes of outcome. False when it was refused. */
static bool ingest(uint64_t first, int64_t age_us, size_t n)
{
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	ProtobufCBinaryData record;
	uint8_t id[16];
	bool ok;

	id_of(id, age_us, (uint8_t)first);
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.occurred_at_us = wall_us() - age_us;
	e.models_epoch = e.models_version = 1;
	e.outcome = (ProtobufCBinaryData){ n, x_calloc(1, n + 1) };
	record = packed(&e);
	ok = send(first, &record, 1);
	free(record.data);
	free(e.outcome.data);
	return ok;
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
	SKIP_ON_SERVER();
	versions_note(&s.models, (struct snapshot_id){ 1, 1 }, STR("snapshot"));
	number("PRAGMA max_page_count = 20");     /* a disk that is full */
	assert_false(ingest(0, 0, 1 << 20));
	assert_int_equal(number("SELECT count(*) FROM versions"), 0);
	number("PRAGMA max_page_count = 100000");
	assert_true(ingest(0, 0, 1 << 20));
	assert_int_equal(number("SELECT count(*) FROM versions"), 1);
	assert_int_equal(number("SELECT coalesce(sum(n), 0) FROM decision_blocks"), 1);
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
	assert_int_equal(number("SELECT coalesce(sum(n), 0) FROM decision_blocks"), 1);
	assert_int_equal(number("SELECT count(*) FROM versions"), 1);
}

static void a_batch_is_kept_once(void **state)
{
	assert_true(ingest(0, 0, 10));
	assert_true(ingest(0, 0, 10));    /* the answer says where we are */
	assert_int_equal(number("SELECT coalesce(sum(n), 0) FROM decision_blocks"), 1);
}

/* --- what is asked for comes back --- */

static Corral__DecisionEvent *explained;
static bool replayed;
static size_t trace_bytes;        /* of the one explained last */

static void on_explained(const Corral__ExplainReply *reply, void *data)
{
	ProtobufCBinaryData copy;

	free(data);
	explained = NULL;
	if (!reply->found)
		return;
	replayed = reply->replayed;
	copy = packed(reply->decision);
	explained = corral__decision_event__unpack(NULL, copy.len, copy.data);
	free(copy.data);
}

static bool explain(uint8_t id[16], int64_t want_us)
{
	Corral__ExplainRequest q = CORRAL__EXPLAIN_REQUEST__INIT;
	bool right;

	q.request_id = (ProtobufCBinaryData){ 16, id };
	s.rpc.explain(&s.rpc, &q, on_explained, x_calloc(1, 256));
	if (!explained)
		return false;
	trace_bytes = explained->trace.len;
	right = explained->occurred_at_us == want_us && memcmp(explained->request_id.data, id, 16) == 0 && explained->models_snapshot.len == 0;
	corral__decision_event__free_unpacked(explained, NULL);
	return right;
}

enum { MANY = 100 };

/* Requests end in another order than they begin, and a spool may hold some of yesterday. */
static int64_t age_of(int i) { return i % 10 == 0 ? 86400 * (int64_t)1000000 : (i * 7919 % 97) * (int64_t)1000; }

static void each_of_many_is_found(void **state)
{
	ProtobufCBinaryData records[MANY];
	uint8_t id[MANY][16], other[16];

	for (int i = 0; i < MANY; i++) {
		Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;

		id_of(id[i], age_of(i), (uint8_t)i);
		e.request_id = (ProtobufCBinaryData){ 16, id[i] };
		e.occurred_at_us = i + 1;
		e.models_epoch = 1, e.models_version = 5;
		e.trace = (ProtobufCBinaryData){ i % 3 ? 24 : 0, (uint8_t *)"the trace id and a span." };
		if (i == 50)
			e.models_snapshot = (ProtobufCBinaryData){ 4, (uint8_t *)"snap" };
		records[i] = packed(&e);
	}
	assert_true(send(0, records, MANY));
	for (int i = 0; i < MANY; i++) {
		assert_true(explain(id[i], i + 1));
		assert_int_equal(trace_bytes, i % 3 ? 24 : 0);
		free(records[i].data);
	}
	id_of(other, 0, 200);
	assert_false(explain(other, 1));
	assert_int_equal(number("SELECT sum(n) FROM decision_blocks"), MANY);
	assert_true(number("SELECT count(*) FROM decision_blocks") < MANY);
	assert_int_equal(number("SELECT length(bytes) FROM versions WHERE version = 5"), 4);
}

/* The same message with its last fields first: what another encoder may do. */
static void fields_may_come_in_any_order(void **state)
{
	Corral__DecisionEvent front = CORRAL__DECISION_EVENT__INIT, back = CORRAL__DECISION_EVENT__INIT;
	ProtobufCBinaryData record, a, b;
	uint8_t id[16];

	id_of(id, 0, 1);
	front.models_snapshot = (ProtobufCBinaryData){ 4, (uint8_t *)"snap" };
	back.request_id = (ProtobufCBinaryData){ 16, id };
	back.occurred_at_us = 77;
	back.models_epoch = 1, back.models_version = 6;
	a = packed(&front);
	b = packed(&back);
	record.len = a.len + b.len;
	record.data = x_malloc(record.len);
	memcpy(record.data, a.data, a.len);
	memcpy(record.data + a.len, b.data, b.len);
	assert_true(send(0, &record, 1));
	assert_true(explain(id, 77));
	assert_int_equal(number("SELECT length(bytes) FROM versions WHERE version = 6"), 4);
	free(a.data);
	free(b.data);
	free(record.data);
}

static void what_is_no_decision_is_buried(void **state)
{
	ProtobufCBinaryData record = { 3, (uint8_t *)"\x0a\x10x" };

	assert_true(send(0, &record, 1));
	assert_int_equal(number("SELECT count(*) FROM dead_letters"), 1);
	assert_int_equal(number("SELECT count(*) FROM decision_blocks"), 0);
}

static void decisions_of_the_old_table_are_found(void **state)
{
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	struct db_migration before[] = { selector_migrations[0], selector_migrations[1], { 0 } };
	ProtobufCBinaryData record;
	char old[256];
	uint8_t id[16];
	struct why why;
	struct db *db;

	id_of(id, 0, 9);
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.occurred_at_us = 99;
	record = packed(&e);
	db_thread_free(s.store);
	test_db(dir, "old.db", before, old, sizeof(old));
	db = db_open(old, NULL, 0, before, &why);
	assert_non_null(db);
	assert_true(db_query(db, "INSERT INTO decisions (request_id, occurred_at_us, event) VALUES (?1, 99, ?2)",
			     (struct db_value[]){ DB_B(str_n((char *)id, 16)), DB_B(str_n((char *)record.data, record.len)) }, 2, NULL, NULL, &why));
	db_close(db);
	test_db(dir, "old.db", selector_migrations, old, sizeof(old));
	open_store(old);
	assert_true(explain(id, 99));
	free(record.data);
}

/* --- and is computed again --- */

static struct str two_models(struct arena *mem)
{
	Corral__ModelSnapshot p = CORRAL__MODEL_SNAPSHOT__INIT;
	Corral__Backend b = CORRAL__BACKEND__INIT, *backends[] = { &b };
	Corral__Model m[2] = { CORRAL__MODEL__INIT, CORRAL__MODEL__INIT }, *models[] = { &m[0], &m[1] };
	Corral__Replica r[2] = { CORRAL__REPLICA__INIT, CORRAL__REPLICA__INIT }, *replicas[] = { &r[0], &r[1] };
	uint8_t *out;

	b.name = (char *)"gpu", b.kind = (char *)"ollama", b.url = (char *)"http://127.0.0.1:9", b.state = CORRAL__BACKEND_STATE__BACKEND_UP;
	for (int i = 0; i < 2; i++) {
		m[i].name = r[i].model = (char *)(i ? "n" : "m");
		r[i].backend = b.name;
	}
	p.backends = backends, p.n_backends = 1;
	p.models = models, p.replicas = replicas, p.n_models = p.n_replicas = 2;
	out = arena_alloc(mem, corral__model_snapshot__get_packed_size(&p));
	return str_n((char *)out, corral__model_snapshot__pack(&p, out));
}

static ProtobufCBinaryData packed_features(struct arena *mem)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	ProtobufCBinaryData b;

	f.requested_model = (char *)"n", f.policy = (char *)"balanced";
	b.data = arena_alloc(mem, corral__decision_features__get_packed_size(&f));
	b.len = corral__decision_features__pack(&f, b.data);
	return b;
}

/* A named model's decision with the loads in reach, as it is logged now, and with those of all replicas, as it was once. */
static void decisions_are_computed_again(void **state)
{
	struct arena *mem = arena_new(0);
	Corral__DecisionFeatures *features;
	struct load load[2] = { { .slots = 9, .queued = 7 }, { .slots = 2, .in_use = 2, .queued = 3 } };
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	ProtobufCBinaryData record;
	struct str models = two_models(mem);
	struct buf outcome = { 0 };
	struct catalogue cat;
	struct decision d;
	struct policy pol;
	struct why why;
	uint8_t id[16];

	assert_int_equal(catalogue_build(&cat, mem, 1, 1, models, &why), ERR_OK);
	assert_int_equal(policy_build(&pol, mem, &cat, 0, 0, STR(""), &why), ERR_OK);
	e.features = packed_features(mem);
	e.models_snapshot = (ProtobufCBinaryData){ models.n, (uint8_t *)models.p };
	e.model = 1;
	features = corral__decision_features__unpack(NULL, e.features.len, e.features.data);
	decide(&d, mem, features, 1, false, &cat, &pol, &load[1], NULL);
	corral__decision_features__free_unpacked(features, NULL);
	decision_pack(&d, &outcome);
	e.outcome = (ProtobufCBinaryData){ outcome.n, (uint8_t *)outcome.p };
	e.models_epoch = e.models_version = 1;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	for (uint8_t whole = 0; whole < 3; whole++) {
		id_of(id, 0, whole);
		e.load = (ProtobufCBinaryData){ sizeof(load[0]) * (whole ? 2 : 1), (uint8_t *)(whole ? &load[0] : &load[1]) };
		load[0].queued += whole == 1;     /* not in reach: says nothing */
		if (whole == 2)
			load[1].queued++;
		record = packed(&e);
		assert_true(send(10 * whole, &record, 1));
		assert_true(explain(id, 0));
		assert_int_equal(replayed, whole < 2);
		free(record.data);
	}
	buf_free(&outcome);
	arena_free(mem);
}

/* An event as the gateway logs it: auto between "m" and "n", where 'full' refused it before. */
static ProtobufCBinaryData auto_event(struct arena *mem, const uint8_t id[16], const uint16_t *full, size_t n_full)
{
	static const struct load load[2] = { { .slots = 2 }, { .slots = 2, .in_use = 2 } };
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	struct str models = two_models(mem);
	struct buf outcome = { 0 };
	ProtobufCBinaryData record;
	struct catalogue cat;
	struct decision d;
	struct policy pol;
	struct why why;

	f.is_auto = true;
	f.requested_model = (char *)"auto", f.policy = (char *)"balanced";
	e.features.data = arena_alloc(mem, corral__decision_features__get_packed_size(&f));
	e.features.len = corral__decision_features__pack(&f, e.features.data);
	assert_int_equal(catalogue_build(&cat, mem, 1, 1, models, &why), ERR_OK);
	assert_int_equal(policy_build(&pol, mem, &cat, 0, 0, STR(""), &why), ERR_OK);
	decide(&d, mem, &f, -1, false, &cat, &pol, load, NULL);
	decision_pass(&d, &cat, full, n_full);
	assert_int_equal(d.n_ranked, n_full ? 1 : 2);
	decision_pack(&d, &outcome);
	e.request_id = (ProtobufCBinaryData){ 16, (uint8_t *)id };
	e.occurred_at_us = n_full ? 2 : 1;
	e.model = -1;
	e.models_epoch = e.models_version = 1;
	e.load = (ProtobufCBinaryData){ sizeof(load), (uint8_t *)load };
	e.models_snapshot = (ProtobufCBinaryData){ models.n, (uint8_t *)models.p };
	e.outcome = (ProtobufCBinaryData){ outcome.n, (uint8_t *)outcome.p };
	e.queue_full = (ProtobufCBinaryData){ n_full * sizeof(*full), (uint8_t *)full };
	record = packed(&e);
	buf_free(&outcome);
	return record;
}

/* The second of a request takes the place of the first, in the same batch, or in another; both are computed again. */
static void what_a_queue_refused_is_known_and_computed_again(void **state)
{
	static const uint16_t full[] = { 0 };
	struct arena *mem = arena_new(0);
	uint8_t together[16], one_by_one[16];
	ProtobufCBinaryData records[4];

	id_of(together, 0, 1);
	id_of(one_by_one, 0, 2);
	for (int i = 0; i < 4; i++)
		records[i] = auto_event(mem, i < 2 ? together : one_by_one, full, i % 2u);
	assert_true(send(0, records, 3));
	assert_true(explain(together, 2) && replayed);
	assert_true(explain(one_by_one, 1) && replayed);
	assert_true(send(10, &records[3], 1));
	assert_true(explain(one_by_one, 2) && replayed);
	assert_true(explain(together, 2) && replayed);
	for (int i = 0; i < 4; i++)
		free(records[i].data);
	arena_free(mem);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(a_version_of_a_batch_that_failed_is_written_with_the_next), T(a_version_lives_as_long_as_decisions_refer_to_it),
		T(a_batch_is_kept_once), T(each_of_many_is_found), T(fields_may_come_in_any_order), T(what_is_no_decision_is_buried),
		T(decisions_of_the_old_table_are_found), T(decisions_are_computed_again),
		T(what_a_queue_refused_is_known_and_computed_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* intake_test.c - messages become rows once: over batches that fail, a reader that lost its partitions, and messages that nobody understands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/data/log.h"
#include "common/io/loop.h"
#include "common/store/intake.h"

enum { Q_ADD, Q_COUNT, Q_STEAL, Q_DEAD, Q_INTAKE, N_STATEMENTS = Q_INTAKE + INTAKE_N_STATEMENTS };
static const char *const statements[N_STATEMENTS] = {
	[Q_ADD] = "INSERT INTO facts (number) VALUES (?1)",
	[Q_COUNT] = "SELECT count(*), count(DISTINCT number) FROM facts",
	[Q_STEAL] = "UPDATE kafka_offset SET epoch = epoch + 1",
	[Q_DEAD] = "SELECT count(*) FROM kafka_dead WHERE published = 1 AND reason = 'no number'",
	INTAKE_STATEMENTS(Q_INTAKE),
};
static const struct db_migration migrations[] = { { 1, INTAKE_SCHEMA "CREATE TABLE facts (number BIGINT NOT NULL)" }, { 0 } };
static const struct metric_def metrics[] = { INTAKE_METRICS(0) };
static const char *const topics[] = { "t.v1", NULL }, *const dead[] = { "t.v1.dead", NULL };

struct place {
	rd_kafka_t *rk;
	rd_kafka_mock_cluster_t *brokers;
	struct bus_config cfg;
	char url[300], dir[64];
	struct loop *loop;
	struct loop_timer timer;
	struct db *db;
	struct metrics *metrics;
	struct bus_producer *producer;
	struct intake *intake;
	int64_t written, reports;
	int fail;
	bool (*done)(struct place *);
	int64_t wanted;
};

static int unlink_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static const char *each(void *arg, const struct bus_in *in, struct why *why)
{
	struct place *p = arg;
	int64_t number;

	if (in->value.n != sizeof(number))
		return "no number";
	if (p->fail > 0 && p->fail-- > 0) {
		err_set(why, ERR_STORE_FAILED, "the disk is full");
		return NULL;
	}
	memcpy(&number, in->value.p, sizeof(number));
	return db_run(p->db, Q_ADD, (struct db_value[]){ DB_I(number) }, 1, NULL, NULL, NULL, why) ? "" : NULL;
}

static enum intake_outcome keep(void *arg, const struct intake_batch *b, struct why *why) { return intake_each(b, each, arg, why); }

static void read_topic(struct place *p)
{
	const struct intake_opts o = { .config = &p->cfg, .group = "g", .dir = p->dir, .topics = topics, .dead = dead, .db = p->db, .statements = Q_INTAKE,
				       .metrics = p->metrics, .keep = keep, .arg = p };
	struct why why;

	p->intake = intake_new(p->loop, &o, &why);
	assert_non_null(p->intake);
}

static int begin(void **state)
{
	struct place *p = *state = x_calloc(1, sizeof(*p));
	rd_kafka_conf_t *quiet = rd_kafka_conf_new();
	char db[128], said[128];
	struct why why;

	log_init(LOG_LEVEL_ERROR + 1, LOG_FORMAT_TEXT);
	rd_kafka_conf_set_log_cb(quiet, NULL);
	p->rk = rd_kafka_new(RD_KAFKA_PRODUCER, quiet, said, sizeof(said));
	p->brokers = rd_kafka_mock_cluster_new(p->rk, 1);
	rd_kafka_mock_topic_create(p->brokers, "t.v1", 2, 1);
	rd_kafka_mock_topic_create(p->brokers, "t.v1.dead", 1, 1);
	snprintf(p->url, sizeof(p->url), "kafka:%s", rd_kafka_mock_cluster_bootstraps(p->brokers));
	p->cfg = (struct bus_config){ p->url, "", true, 0, 0, "none", "", "", false, "", "", "" };
	p->loop = loop_new();
	p->metrics = metrics_new(metrics, INTAKE_N_METRICS);
	snprintf(p->dir, sizeof(p->dir), "/tmp/intake-test.XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(db, sizeof(db), "sqlite:%s/t.db", p->dir);
	p->db = db_open(db, statements, N_STATEMENTS, migrations, &why);
	assert_non_null(p->db);
	p->producer = bus_producer_new(p->loop, &p->cfg, topics, NULL, NULL, &why);
	assert_non_null(p->producer);
	return 0;
}

static int end(void **state)
{
	struct place *p = *state;

	intake_free(p->intake);
	bus_producer_free(p->producer);
	db_close(p->db);
	metrics_free(p->metrics);
	loop_free(p->loop);
	rd_kafka_mock_cluster_destroy(p->brokers);
	rd_kafka_destroy(p->rk);
	nftw(p->dir, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
	free(p);
	return 0;
}

/* --- what happens --- */

struct sent { struct bus_ticket ticket; struct place *p; };

static void on_report(struct bus_ticket *t, bool persisted, const char *error)
{
	struct sent *s = (struct sent *)(void *)t;

	assert_true(persisted);
	s->p->reports++;
	free(s);
}

static void publish(struct place *p, struct str value, const char *key)
{
	struct sent *s = x_calloc(1, sizeof(*s));
	const struct bus_out m = { .topic = "t.v1", .key = str_of(key), .value = value };

	s->ticket.on_report = on_report;
	s->p = p;
	assert_int_equal(bus_send(p->producer, &m, &s->ticket), BUS_SENT);
}

static void send_numbers(struct place *p, int n)
{
	char key[24];

	for (int i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "%d", i);
		publish(p, str_n((const char *)&p->written, 8), key);
		p->written++;
	}
}

static bool take_counts(void *arg, const struct db_row *row)
{
	((int64_t *)arg)[0] = db_int(row, 0);
	((int64_t *)arg)[1] = db_cols(row) > 1 ? db_int(row, 1) : 0;
	return true;
}

static bool all_kept(struct place *p)
{
	int64_t n[2] = { 0 };
	struct why why;

	assert_true(db_run(p->db, Q_COUNT, NULL, 0, take_counts, n, NULL, &why));
	assert_int_equal(n[0], n[1]);         /* none twice */
	return n[0] == p->written;
}

static bool all_buried(struct place *p)
{
	int64_t n[2] = { 0 };
	struct why why;

	assert_true(db_run(p->db, Q_DEAD, NULL, 0, take_counts, n, NULL, &why));
	return n[0] == p->wanted && all_kept(p);
}

static void look(struct loop_timer *t)
{
	struct place *p = list_entry(t, struct place, timer);

	if (p->done(p))
		loop_stop(p->loop);
	else
		loop_timer_set(p->loop, t, 5000, look);
}

static void wait_for(struct place *p, bool (*done)(struct place *))
{
	p->done = done;
	loop_timer_set(p->loop, &p->timer, 0, look);
	loop_run(p->loop);
}

static double metric(struct place *p, unsigned index, const char *label)
{
	return series_get(label ? metrics_series(p->metrics, index, label) : metrics_series(p->metrics, index));
}

/* --- tests --- */

static void each_message_is_one_row(void **state)
{
	struct place *p = *state;

	read_topic(p);
	send_numbers(p, 500);
	p->fail = 3;
	wait_for(p, all_kept);
	assert_int_equal(metric(p, INTAKE_READ, "t.v1"), 500);
	/* another begins where this one ended */
	intake_free(p->intake);
	send_numbers(p, 100);
	read_topic(p);
	wait_for(p, all_kept);
	assert_int_equal(metric(p, INTAKE_READ, "t.v1"), 600);
	assert_int_equal(metric(p, INTAKE_FENCED, NULL), 0);
}

static void who_lost_its_partitions_moves_nothing(void **state)
{
	struct place *p = *state;
	struct why why;

	read_topic(p);
	send_numbers(p, 100);
	wait_for(p, all_kept);
	assert_true(db_run(p->db, Q_STEAL, NULL, 0, NULL, NULL, NULL, &why));
	send_numbers(p, 100);
	wait_for(p, all_kept);                /* claimed again */
	assert_true(metric(p, INTAKE_FENCED, NULL) >= 1);
	assert_int_equal(metric(p, INTAKE_READ, "t.v1"), 200);
}

static void what_nobody_understands_is_kept_and_published(void **state)
{
	struct place *p = *state;

	read_topic(p);
	send_numbers(p, 10);
	publish(p, STR("poison"), "k");
	publish(p, STR(""), "k");
	send_numbers(p, 10);
	p->wanted = 2;
	wait_for(p, all_buried);
	assert_int_equal(metric(p, INTAKE_DEAD, "t.v1"), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_message_is_one_row, begin, end),
		cmocka_unit_test_setup_teardown(who_lost_its_partitions_moves_nothing, begin, end),
		cmocka_unit_test_setup_teardown(what_nobody_understands_is_kept_and_published, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ship_bus_test.c - facts come to Kafka and out of it again, over brokers that refuse, are down, change their minds or end the producer's
 * promise. The brokers are librdkafka's own imitation, in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/loop.h"
#include "common/store/ship_bus.h"
#include "common/store/spool.h"

enum { FACT = 1, OTHER = 9, PRODUCE = 0, FETCH = 1, BROKERS = 3, PARTITIONS = 4, MOST = 20000 };

struct world {
	rd_kafka_t *rk;
	rd_kafka_mock_cluster_t *brokers;
	struct bus_config cfg;
	char url[400], dir[64];
	struct loop *loop;
	struct loop_timer timer;
	struct spool *spool;
	struct bus_producer *producer;
	struct bus_shipper *shipper;
	struct bus_consumer *consumer;
	uint64_t written, on_acked;
	bool ok;                      /* what on_state said */
	char text[300];
	bool (*done)(struct world *);

	/* what came out */
	uint8_t times[MOST];
	uint64_t received, again;
	int64_t next[PARTITIONS];     /* kept */
	int fail;                     /* batches that are not kept */
	unsigned assigned, gaps;
};

static const char *const topics[] = { "test.v1", NULL };

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int setup(void **state)
{
	struct world *w = *state = x_calloc(1, sizeof(*w));
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char text[200];

	log_init(LOG_LEVEL_ERROR + 1, LOG_FORMAT_TEXT);
	rd_kafka_conf_set_log_cb(conf, NULL);
	w->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	w->brokers = rd_kafka_mock_cluster_new(w->rk, BROKERS);
	rd_kafka_mock_topic_create(w->brokers, "c.test.v1", PARTITIONS, BROKERS);
	snprintf(w->url, sizeof(w->url), "kafka:%s", rd_kafka_mock_cluster_bootstraps(w->brokers));
	w->cfg = (struct bus_config){ .bus = w->url, .bus_prefix = "c.", .bus_create_topics = true, .bus_sasl_mechanism = "none", .bus_user = "", .bus_password = "",
				      .bus_tls_ca = "", .bus_tls_cert = "", .bus_tls_key = "" };
	w->loop = loop_new();
	snprintf(w->dir, sizeof(w->dir), "/tmp/ship-bus-test.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	for (int i = 0; i < PARTITIONS; i++)
		w->next[i] = -1;
	return 0;
}

static void close_all(struct world *w)
{
	bus_shipper_free(w->shipper);
	bus_producer_free(w->producer);
	bus_consumer_free(w->consumer);
	spool_close(w->spool);
	w->shipper = NULL;
	w->producer = NULL;
	w->consumer = NULL;
	w->spool = NULL;
}

static int teardown(void **state)
{
	struct world *w = *state;

	close_all(w);
	loop_free(w->loop);
	rd_kafka_mock_cluster_destroy(w->brokers);
	rd_kafka_destroy(w->rk);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

/* --- the parts --- */

static void on_state(void *arg, bool ok, const char *text)
{
	struct world *w = arg;

	w->ok = ok;
	snprintf(w->text, sizeof(w->text), "%s", text);
}

static void acked(void *arg, uint64_t position)
{
	struct world *w = arg;

	assert_true(position >= w->on_acked);
	w->on_acked = position;
	spool_release(w->spool, position);
}

/* The first 8 bytes are the number, and the key. */
static void label(struct str payload, struct bus_label *l)
{
	l->key = str_n(payload.p, 8);
	l->event_id = str_n(payload.p + 8, 16);
	l->trace = STR("\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c\xb7\xad\x6b\x71\x69\x20\x33\x31");
}

static void ship(struct world *w)
{
	struct spool_opts o = { .sync_ms = 0 };
	struct bus_ship_opts so = { .dir = w->dir, .topic = "test.v1", .schema = "test.Fact", .source = "here/0", .type_min = FACT, .type_max = FACT,
				    .every_ms = 5, .window = 500, .label = label };
	struct why why;

	w->on_acked = 0;
	w->spool = spool_open(w->dir, &o, &why);
	assert_non_null(w->spool);
	w->producer = bus_producer_new(w->loop, &w->cfg, topics, on_state, w, &why);
	assert_non_null(w->producer);
	so.spool = w->spool;
	w->shipper = bus_shipper_new(w->loop, w->producer, &so, acked, w);
}

static void write_facts(struct world *w, unsigned n, size_t bytes)
{
	char *fact = x_calloc(1, bytes);
	struct why why;

	for (unsigned i = 0; i < n; i++) {
		memcpy(fact, &w->written, 8);
		memset(fact + 8, 7, 16);
		assert_true(spool_append(w->spool, FACT, str_n(fact, bytes), &why) >= 0);
		w->written++;
		if (i % 10 == 0)
			assert_true(spool_append(w->spool, OTHER, STR("not for the bus"), &why) >= 0);
	}
	free(fact);
}

static bool on_assigned(void *arg, const char *topic, int32_t partition, int64_t *ret_next)
{
	struct world *w = arg;

	assert_string_equal(topic, "test.v1");
	assert_in_range(partition, 0, PARTITIONS - 1);
	*ret_next = w->next[partition];
	w->assigned++;
	return true;
}

static void take(struct world *w, const struct bus_in *in)
{
	uint64_t number;

	memcpy(&number, in->value.p, 8);
	assert_true(number < w->written && str_eq(in->key, str_n(in->value.p, 8)));
	assert_true(str_eqz(bus_in_header(in, "traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
	assert_true(str_eqz(bus_in_header(in, "schema"), "test.Fact") && str_eqz(bus_in_header(in, "source"), "here/0"));
	assert_true(str_eqz(bus_in_header(in, "event-id"), "07070707-0707-0707-0707-070707070707"));
	assert_true(str_eqz(bus_in_header(in, "content-type"), "application/x-protobuf"));
	assert_non_null(strchr(bus_in_header(in, "position").p, ':'));
	w->received += w->times[number] == 0;
	w->times[number] += w->times[number] < 255;
	w->again += bus_in_header(in, "again").p != NULL;
}

static bool on_batch(void *arg, const struct bus_batch *b)
{
	struct world *w = arg;

	assert_int_equal(b->first, w->next[b->partition]);
	if (w->fail > 0) {
		w->fail--;
		return false;
	}
	for (size_t i = 0; i < b->n; i++)
		take(w, &b->in[i]);
	w->next[b->partition] = b->next;
	return true;
}

static void on_gap(void *arg, const char *topic, int32_t partition, int64_t wanted) { ((struct world *)arg)->gaps++; }

static void consume(struct world *w)
{
	struct bus_consumer_opts o = { .group = "test", .member = "", .topics = topics, .on_assigned = on_assigned, .on_batch = on_batch, .on_gap = on_gap,
				       .on_state = NULL, .arg = w };
	struct why why;

	w->consumer = bus_consumer_new(w->loop, &w->cfg, &o, &why);
	assert_non_null(w->consumer);
}

/* --- running --- */

static void look(struct loop_timer *t)
{
	struct world *w = list_entry(t, struct world, timer);

	if (w->done(w))
		loop_stop(w->loop);
	else
		loop_timer_set(w->loop, t, 2000, look);
}

static void run_until(struct world *w, bool (*done)(struct world *))
{
	w->done = done;
	loop_timer_set(w->loop, &w->timer, 0, look);
	loop_run(w->loop);
}

static bool all_acked(struct world *w) { return bus_shipper_acked(w->shipper) == spool_end(w->spool) && w->on_acked == spool_end(w->spool); }
static bool all_received(struct world *w) { return w->received == w->written && all_acked(w); }
static bool is_told_down(struct world *w) { return !w->ok && w->text[0]; }
static bool is_told_up(struct world *w) { return w->ok; }

static bool on_tail(void *arg, int32_t partition, const struct bus_in *in)
{
	struct world *w = arg;

	if (in)
		take(w, in);
	return w->received < w->written;
}

/* Without a group, which takes the imitation three seconds to make. */
static void read_all(struct world *w)
{
	struct why why;

	if (!bus_tail(&w->cfg, "test.v1", true, 60000, on_tail, w, &why))
		fail_msg("%s", why.text);
}

static void each_arrived(struct world *w, bool once)
{
	if (!w->consumer)
		read_all(w);
	for (uint64_t i = 0; i < w->written; i++)
		assert_true(once ? w->times[i] == 1 : w->times[i] >= 1);
}

static struct bus_ship_counts counts(struct world *w)
{
	struct bus_ship_counts c;

	bus_shipper_counts(w->shipper, &c);
	return c;
}

/* --- tests --- */

static void each_fact_arrives_once(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 3000, 200);
	consume(w);
	run_until(w, all_received);
	write_facts(w, 500, 200);
	run_until(w, all_received);
	each_arrived(w, true);
	assert_int_equal(w->again, 0);
	assert_int_equal(counts(w).persisted, 3500);
	assert_true(w->ok);
}

static void a_restart_sends_little_again(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 300, 200);
	run_until(w, all_acked);
	close_all(w);
	ship(w);
	write_facts(w, 20, 200);
	run_until(w, all_acked);
	assert_int_equal(counts(w).persisted, 20);
	assert_int_equal(counts(w).again, 0);
	close_all(w);
	/* what it knew of itself is gone: all is sent again, and says so */
	{
		char path[128];

		snprintf(path, sizeof(path), "%s/shipped.test.v1", w->dir);
		assert_int_equal(unlink(path), 0);
	}
	ship(w);
	run_until(w, all_acked);
	assert_int_equal(counts(w).again, 320);
	each_arrived(w, false);
}

/* The broker says that it did not keep them, for a reason that trying again within the producer does not mend. */
static void what_is_not_persisted_is_sent_again(void **state)
{
	struct world *w = *state;

	rd_kafka_mock_push_request_errors(w->brokers, PRODUCE, 3, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_INVALID_MSG,
					  RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
	ship(w);
	write_facts(w, 2000, 100);
	run_until(w, all_acked);
	each_arrived(w, false);
	assert_true(counts(w).again > 0);
}

static void what_may_be_persisted_is_sent_again(void **state)
{
	struct world *w = *state;

	rd_kafka_mock_push_request_errors(w->brokers, PRODUCE, 4, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, RD_KAFKA_RESP_ERR__TRANSPORT,
					  RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR__TRANSPORT);
	ship(w);
	write_facts(w, 2000, 100);
	run_until(w, all_acked);
	each_arrived(w, false);
}

static void a_fatal_error_makes_the_producer_anew(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 100, 100);
	run_until(w, all_acked);
	rd_kafka_mock_push_request_errors(w->brokers, PRODUCE, 2, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
	write_facts(w, 2000, 100);
	run_until(w, all_acked);
	each_arrived(w, false);
}

static void facts_wait_while_the_brokers_are_down(void **state)
{
	struct world *w = *state;

	ship(w);
	consume(w);
	write_facts(w, 500, 100);
	run_until(w, all_received);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_down(w->brokers, i);
	write_facts(w, 3000, 100);
	run_until(w, is_told_down);
	assert_true(bus_shipper_acked(w->shipper) < spool_end(w->spool));
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_up(w->brokers, i);
	run_until(w, all_received);
	each_arrived(w, false);
	run_until(w, is_told_up);                 /* producer and consumer find the brokers again each by itself */
}

static void leaders_change(void **state)
{
	struct world *w = *state;

	ship(w);
	for (int round = 0; round < 6; round++) {
		write_facts(w, 400, 100);
		for (int p = 0; p < PARTITIONS; p++)
			rd_kafka_mock_partition_set_leader(w->brokers, "c.test.v1", p, (p + round) % BROKERS + 1);
		write_facts(w, 400, 100);
		run_until(w, all_acked);
	}
	each_arrived(w, false);
}

static bool some_under_way(struct world *w) { return bus_producer_queue(w->producer) >= 60; }

/* The producer's queue holds 64 MiB; what does not fit stays in the spool. */
static void a_full_queue_is_no_loss(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 1, 100);
	run_until(w, all_acked);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_down(w->brokers, i);
	write_facts(w, 80, 1 << 20);
	run_until(w, some_under_way);
	assert_true(bus_producer_queue(w->producer) < 80);     /* 64 messages, and what librdkafka has to say about its brokers */
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_up(w->brokers, i);
	run_until(w, all_acked);
	assert_true(counts(w).persisted == 81);
}

static void what_no_broker_takes_is_counted(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 1, BUS_MESSAGE_BYTES + 1);
	w->times[0] = 1;
	w->received = 1;
	write_facts(w, 10, 100);
	run_until(w, all_acked);
	each_arrived(w, true);
	assert_int_equal(counts(w).too_large, 1);
}

static void a_batch_that_is_not_kept_comes_again(void **state)
{
	struct world *w = *state;

	w->fail = 4;
	ship(w);
	write_facts(w, 2000, 100);
	consume(w);
	run_until(w, all_received);
	each_arrived(w, true);
	assert_int_equal(w->fail, 0);
	assert_true(w->assigned > PARTITIONS);
}

static bool has_gaps(struct world *w) { return w->gaps == PARTITIONS && w->received == w->written; }

/* The store says a place that the topic does not have: the topic was made anew. */
static void a_place_that_is_gone_is_said(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 200, 100);
	run_until(w, all_acked);
	for (int i = 0; i < PARTITIONS; i++)
		w->next[i] = 1000000;
	consume(w);
	run_until(w, has_gaps);
	each_arrived(w, true);
}

static void a_producer_with_much_under_way_is_freed(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 1, 100);
	run_until(w, all_acked);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_down(w->brokers, i);
	write_facts(w, 300, 100);
	run_until(w, is_told_down);
	close_all(w);
}

static void configurations(void **state)
{
	struct world *w = *state;
	struct bus_config c = w->cfg;
	struct why why;

	c.bus = "local:";
	assert_false(bus_is_kafka(&c));
	assert_int_equal(bus_check(&c, &why), ERR_OK);
	c.bus = "kafka:";
	assert_int_equal(bus_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "bus");
	c.bus = "kafka:h:1";
	c.bus_sasl_mechanism = "plain";
	assert_int_equal(bus_check(&c, &why), ERR_INVALID);
	c.bus_user = c.bus_password = "x";
	assert_int_equal(bus_check(&c, &why), ERR_OK);
	c.bus_sasl_mechanism = "none";            /* what would be left unused without a word */
	assert_int_equal(bus_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "bus_sasl_mechanism");
	c.bus_sasl_mechanism = "plain";
	c.bus_tls_ca = "/x";
	assert_int_equal(bus_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "bus_tls");
	c.bus_tls = true;
	assert_int_equal(bus_check(&c, &why), ERR_OK);
	c.bus_tls_ca = "";
	c.bus_tls_cert = "/x";
	assert_int_equal(bus_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "bus_tls_cert");
	c.bus_tls_key = "/does-not-exist";
	assert_int_equal(bus_check(&c, &why), ERR_OK);
	assert_null(bus_producer_new(w->loop, &c, topics, NULL, NULL, &why));
	assert_non_null(strstr(why.text, "Kafka"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_fact_arrives_once, setup, teardown),
		cmocka_unit_test_setup_teardown(a_restart_sends_little_again, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_persisted_is_sent_again, setup, teardown),
		cmocka_unit_test_setup_teardown(what_may_be_persisted_is_sent_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_fatal_error_makes_the_producer_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(facts_wait_while_the_brokers_are_down, setup, teardown),
		cmocka_unit_test_setup_teardown(leaders_change, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_queue_is_no_loss, setup, teardown),
		cmocka_unit_test_setup_teardown(what_no_broker_takes_is_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(a_batch_that_is_not_kept_comes_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_place_that_is_gone_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(a_producer_with_much_under_way_is_freed, setup, teardown),
		cmocka_unit_test_setup_teardown(configurations, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

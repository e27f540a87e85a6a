/* ship_test.c - facts arrive once and in order: over a receiver that is away, fails, loses answers or was moved, and over gaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/ship.h"
#include "common/store/spool.h"
#include "facts.pb-c.h"

enum { FACT = 1, OTHER = 9 };
static const char *const url = "inproc://ship-test";

/* A receiver that does what it says, or one of the things that go wrong, and the loop both ends share. */
struct world {
	Corral__Facts_Service facts;  /* first: methods get it back */
	char dir[64];
	struct loop *loop;
	struct rpc_server *server;
	struct rpc_client *client;
	struct spool *spool;
	struct shipper *shipper;
	uint64_t written, received, cursor, epoch, batches, on_acked;
	uint64_t lowest;              /* number received */
	bool any_number;              /* there may be gaps */
	int fail, lose_answer;        /* so many batches are refused, or applied and answered with a failure */
	struct loop_timer timer;
	bool beside;                  /* the shipper is told of the writer */
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void fake_cursor(Corral__Facts_Service *service, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	struct world *w = (struct world *)(void *)service;
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	assert_string_equal(q->topic, "test.v1");
	assert_string_equal(q->source, "here/0");
	ack.position = w->cursor;
	closure(&ack, data);
}

static void apply(struct world *w, const Corral__FactBatch *b)
{
	for (size_t i = 0; i < b->n_records; i++) {
		uint64_t number;

		assert_int_equal(b->records[i].len, 100);
		memcpy(&number, b->records[i].data, 8);
		assert_true(w->any_number || number == w->received);
		w->lowest = number < w->lowest ? number : w->lowest;
		w->received = number + 1;
	}
	w->cursor = b->next;
	w->epoch = b->epoch;
}

static void fake_ingest(Corral__Facts_Service *service, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct world *w = (struct world *)(void *)service;
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;

	w->batches++;
	if (w->fail > 0) {
		w->fail--;
		rpc_fail(data, ERR_STORE_FAILED, "the disk is full");
		return;
	}
	if (b->first == w->cursor)
		apply(w, b);
	if (w->lose_answer > 0) {
		w->lose_answer--;
		rpc_fail(data, ERR_UNAVAILABLE, "died after the commit");
		return;
	}
	ack.position = w->cursor;
	closure(&ack, data);
}

static void serve(struct world *w)
{
	struct why why = { 0 };

	w->server = rpc_server_new(w->loop, url, &why);
	if (!w->server)
		fail_msg("%s", why.text);
	rpc_server_add(w->server, &w->facts.base);
}

static void acked(void *arg, uint64_t position)
{
	struct world *w = arg;

	assert_true(position >= w->on_acked || position == 0);
	w->on_acked = position;
	spool_release(w->spool, position);
}

static void ship(struct world *w)
{
	struct ship_opts o = { .dir = w->dir, .topic = "test.v1", .source = "here/0", .type_min = FACT, .type_max = FACT + 1, .every_ms = 5, .batch_records = 100,
		.spool = w->beside ? w->spool : NULL };

	w->on_acked = 0;
	w->shipper = shipper_new(w->loop, w->client, &o, acked, w);
}

static void spool(struct world *w)
{
	struct spool_opts o = { .segment_bytes = 16 << 10, .sync_ms = 0 };

	w->spool = spool_open(w->dir, &o, NULL);
	assert_non_null(w->spool);
}

static int setup(void **state)
{
	struct world *w = x_calloc(1, sizeof(*w));
	Corral__Facts_Service facts = CORRAL__FACTS__INIT(fake_);

	w->facts = facts;
	snprintf(w->dir, sizeof(w->dir), "/tmp/ship-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->lowest = UINT64_MAX;
	w->loop = loop_new();
	w->client = rpc_client_new(w->loop, url);
	rpc_deadline(w->client, 500);
	spool(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	shipper_free(w->shipper);
	rpc_client_free(w->client);
	rpc_server_free(w->server);
	loop_free(w->loop);
	spool_close(w->spool);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static void write_facts(struct world *w, uint64_t n)
{
	char p[100] = { 0 };

	for (uint64_t i = 0; i < n; i++, w->written++) {
		memcpy(p, &w->written, 8);
		assert_true(spool_append(w->spool, FACT, str_n(p, sizeof(p)), NULL) >= 0);
		if (i % 3 == 0)
			assert_true(spool_append(w->spool, OTHER, STR("a checkpoint"), NULL) >= 0);
	}
}

struct until { struct loop_timer timer; struct world *w; int64_t deadline_us; bool settled; };

static void look(struct loop_timer *t)
{
	struct until *u = list_entry(t, struct until, timer);
	struct world *w = u->w;

	u->settled = w->received == w->written && shipper_acked(w->shipper) == spool_end(w->spool);
	if (u->settled || mono_us() > u->deadline_us)
		loop_stop(w->loop);
	else
		loop_timer_set(w->loop, t, 2000, look);
}

/* Runs until everything has arrived and the shipper says so. */
static bool settles(struct world *w, int64_t ms)
{
	struct until u = { .w = w, .deadline_us = mono_us() + ms * 1000 };

	loop_timer_set(w->loop, &u.timer, 0, look);
	loop_run(w->loop);
	return u.settled;
}

/* --- */

static void ships_everything(void **state)
{
	struct world *w = *state;

	serve(w);
	ship(w);
	assert_true(settles(w, 5000));                /* nothing is soon shipped */
	write_facts(w, 1000);
	assert_true(settles(w, 5000));
	assert_int_equal(w->received, 1000);
	assert_int_equal(w->epoch, spool_epoch(w->spool));
	assert_in_range(w->batches, 10, 12);
	assert_int_equal(w->on_acked, w->cursor);
	assert_true(spool_bytes(w->spool) <= 2 * (16 << 10));
	write_facts(w, 1);
	shipper_kick(w->shipper);
	assert_true(settles(w, 5000));
	assert_int_equal(shipper_gaps(w->shipper), 0);
}

static void ships_everything_of_the_writer_beside_it(void **state)
{
	struct world *w = *state;

	w->beside = true;
	ships_everything(state);
}

static void what_is_not_shipped_does_not_wait(void **state)
{
	struct world *w = *state;

	serve(w);
	ship(w);
	for (int i = 0; i < 500; i++)
		assert_true(spool_append(w->spool, OTHER, STR("a checkpoint"), NULL) >= 0);
	assert_true(settles(w, 5000));
	assert_int_equal(w->batches, 0);
	write_facts(w, 10);
	assert_true(settles(w, 5000));
	assert_int_equal(w->batches, 1);
}

static void waits_for_a_receiver_that_is_away(void **state)
{
	struct world *w = *state;

	ship(w);
	write_facts(w, 300);
	assert_false(settles(w, 300));
	serve(w);
	assert_true(settles(w, 8000));
	rpc_server_free(w->server);
	w->server = NULL;
	write_facts(w, 300);
	assert_false(settles(w, 300));
	serve(w);
	assert_true(settles(w, 8000));
	assert_int_equal(w->received, 600);
	assert_int_equal(shipper_gaps(w->shipper), 0);
}

static void refused_and_lost_answers_double_nothing(void **state)
{
	struct world *w = *state;

	serve(w);
	ship(w);
	for (int i = 0; i < 4; i++) {
		w->fail = i % 2;
		w->lose_answer = 1;
		write_facts(w, 150);
		assert_true(settles(w, 8000));
	}
	assert_int_equal(w->received, 600);
}

static void resumes_after_a_restart_of_the_writer(void **state)
{
	struct world *w = *state;

	serve(w);
	ship(w);
	for (int i = 0; i < 5; i++) {
		write_facts(w, 137);
		if (i % 2)
			assert_true(settles(w, 5000));
		shipper_free(w->shipper);
		spool_close(w->spool);
		spool(w);
		ship(w);
	}
	assert_true(settles(w, 5000));
	assert_int_equal(w->received, 5 * 137);
	assert_int_equal(shipper_gaps(w->shipper), 0);
	assert_int_equal(w->epoch, spool_epoch(w->spool));
}

static void counts_what_is_gone(void **state)
{
	struct world *w = *state;

	serve(w);
	write_facts(w, 1000);
	spool_release(w->spool, spool_end(w->spool) - (40 << 10));
	w->any_number = true;
	ship(w);
	assert_true(settles(w, 5000));
	assert_in_range(w->lowest, 1, 900);
	assert_int_equal(shipper_gaps(w->shipper), 1);
}

static void a_spool_made_anew_is_shipped_from_its_start(void **state)
{
	struct world *w = *state;

	serve(w);
	ship(w);
	write_facts(w, 100);
	assert_true(settles(w, 5000));
	shipper_free(w->shipper);
	spool_close(w->spool);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	usleep(10000);
	spool(w);
	ship(w);
	write_facts(w, 100);
	assert_true(settles(w, 5000));
	assert_int_equal(w->received, 200);
	assert_int_equal(shipper_gaps(w->shipper), 1);
	/* A receiver that is ahead of the spool, as after a clock that was set back: nothing is released that it has not got. */
	shipper_free(w->shipper);
	write_facts(w, 1000);
	w->cursor = spool_end(w->spool) + (1 << 30);
	w->any_number = true;
	w->lowest = UINT64_MAX;
	ship(w);
	assert_true(settles(w, 5000));
	assert_int_equal(w->lowest, 100);
	assert_int_equal(shipper_gaps(w->shipper), 1);
}

static void is_freed_at_any_time(void **state)
{
	struct world *w = *state;

	serve(w);
	write_facts(w, 500);
	for (int i = 0; i < 20; i++) {
		ship(w);
		(void)settles(w, i % 7);
		shipper_free(w->shipper);
	}
	ship(w);
	assert_true(settles(w, 5000));
	shipper_free(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(ships_everything), T(ships_everything_of_the_writer_beside_it), T(what_is_not_shipped_does_not_wait), T(waits_for_a_receiver_that_is_away),
		T(refused_and_lost_answers_double_nothing), T(resumes_after_a_restart_of_the_writer), T(counts_what_is_gone),
		T(a_spool_made_anew_is_shipped_from_its_start), T(is_freed_at_any_time),
	};

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

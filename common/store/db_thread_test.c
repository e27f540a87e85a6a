/* db_thread_test.c - works run alone and in order, the loop goes on meanwhile, and an end comes soon whatever hangs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "common/store/db_thread.h"

enum { MOST = 40, SLOW_US = 600000 };
enum { PUT, COUNT, STATEMENTS };
static const char *const sql[] = {
	[PUT] = "INSERT INTO t (k, part) VALUES (?1, ?2)",
	[COUNT] = "SELECT count(*) FROM t",
};
static const struct db_migration one[] = { { 1, "CREATE TABLE t (k INTEGER NOT NULL, part INTEGER NOT NULL)" }, { 0 } };

static char dir[64];
static struct loop *loop;
static struct db_thread *thread;
static pthread_t self;
static _Atomic int64_t ran;
static int64_t ended, dropped, most_gap_us, last_us;
static bool told_end;
static int waits;

static void on_end(void *arg) { *(bool *)arg = true; }

static struct db *open_db(void)
{
	char url[600];
	struct why why;
	struct db *db;

	test_db(dir, "t.db", one, url, sizeof(url));
	db = db_open(url, sql, STATEMENTS, one, &why);
	if (!db)
		fail_msg("%s", why.text);
	return db;
}

static int set_up(void **state)
{
	const struct db_thread_opts o = { .service = "test", .most = MOST, .end = on_end, .arg = &told_end };

	(void)state;
	str_copy(dir, sizeof(dir), STR("/tmp/db-thread-XXXXXX"));
	assert_non_null(mkdtemp(dir));
	ran = 0;
	ended = dropped = most_gap_us = waits = 0;
	told_end = false;
	self = pthread_self();
	loop = loop_new();
	thread = db_thread_new(loop, open_db(), &o);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	db_thread_free(thread);
	loop_free(loop);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

/* --- works --- */

struct work {
	struct db_work work;          /* first */
	int64_t number, order;
	bool elsewhere, ok;
};

static void run_number(struct db_work *w, struct db *db)
{
	struct work *mine = (struct work *)(void *)w;

	(void)db;
	mine->order = ran++;
	mine->elsewhere = !pthread_equal(pthread_self(), self);
}

static void run_slowly(struct db_work *w, struct db *db)
{
	run_number(w, db);
	usleep(SLOW_US);
}

/* Two rows or none: another's between them would be in its transaction. */
static void run_rows(struct db_work *w, struct db *db)
{
	struct work *mine = (struct work *)(void *)w;
	struct db_value row[] = { DB_I(mine->number), DB_I(0) };

	run_number(w, db);
	mine->ok = db_begin(db, NULL) && db_run(db, PUT, row, 2, NULL, NULL, NULL, NULL);
	row[1] = DB_I(1);
	mine->ok = mine->ok && db_run(db, PUT, row, 2, NULL, NULL, NULL, NULL);
	if (mine->number % 3 == 0)
		db_rollback(db);
	else
		mine->ok = mine->ok && db_commit(db, NULL);
}

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static void run_count(struct db_work *w, struct db *db)
{
	struct work *mine = (struct work *)(void *)w;

	run_number(w, db);
	mine->ok = db_run(db, COUNT, NULL, 0, keep_int, &mine->number, NULL, NULL);
}

static void on_done(struct db_work *w, const struct why *why)
{
	struct work *mine = (struct work *)(void *)w;

	assert_true(pthread_equal(pthread_self(), self));
	if (why) {
		assert_int_equal(why->code, ERR_UNAVAILABLE);
		dropped++;
	} else {
		assert_int_equal(mine->order, ended);
	}
	ended++;
	if (!why && mine->work.run != run_count)
		assert_true(mine->work.run != run_rows || mine->ok);
}

static void on_last(struct db_work *w, const struct why *why)
{
	on_done(w, why);
	loop_stop(loop);
}

static struct work works[MOST + 1];

static struct work *give(int i, void (*run)(struct db_work *, struct db *), void (*done)(struct db_work *, const struct why *))
{
	struct why why;

	works[i] = (struct work){ .work = { .run = run, .done = done }, .number = i };
	assert_true(db_thread_do(thread, &works[i].work, &why));
	return &works[i];
}

/* --- tests --- */

static void works_run_elsewhere_and_come_back_in_order(void **state)
{
	(void)state;
	db_thread_start(thread);
	for (int i = 0; i < MOST; i++)
		give(i, run_number, i == MOST - 1 ? on_last : on_done);
	loop_run(loop);
	assert_int_equal(ended, MOST);
	for (int i = 0; i < MOST; i++) {
		assert_int_equal(works[i].order, i);
		assert_true(works[i].elsewhere);
	}
}

static void before_the_start_they_are_done_at_once(void **state)
{
	(void)state;
	give(0, run_rows, on_done);
	give(1, run_rows, on_done);
	assert_int_equal(ended, 2);
	assert_false(works[1].elsewhere);
	assert_int_equal(give(2, run_count, on_done)->number, 2);
}

static void no_transaction_meets_another_work(void **state)
{
	(void)state;
	db_thread_start(thread);
	for (int i = 0; i < 30; i++)
		give(i, run_rows, on_done);
	give(30, run_count, on_last);
	loop_run(loop);
	assert_true(works[30].ok);
	assert_int_equal(works[30].number, 2 * 20);
}

struct ticking { struct loop_timer t; };

static void tick(struct loop_timer *t)
{
	int64_t now = mono_us();

	if (now - last_us > most_gap_us)
		most_gap_us = now - last_us;
	last_us = now;
	loop_timer_set(loop, t, 5000, tick);
}

static void the_loop_goes_on_meanwhile(void **state)
{
	struct ticking ticking = { 0 };

	(void)state;
	db_thread_start(thread);
	last_us = mono_us();
	tick(&ticking.t);
	give(0, run_slowly, on_done);
	give(1, run_slowly, on_last);
	loop_run(loop);
	loop_timer_del(&ticking.t);
	assert_true(most_gap_us > 0 && most_gap_us < SLOW_US);
}

/* After those that were given before; what came of these is heard later, as ever. */
static void one_may_be_waited_for(void **state)
{
	struct work count = { .work = { .run = run_count } };

	(void)state;
	db_thread_wait(thread, &count.work);      /* before the start, too */
	assert_true(count.ok && count.number == 0 && !count.elsewhere);
	ran = 0;
	db_thread_start(thread);
	for (int i = 1; i < 3; i++)
		give(i, run_rows, i == 2 ? on_last : on_done);
	db_thread_wait(thread, &count.work);
	assert_true(count.ok && count.elsewhere);
	assert_int_equal(count.order, 2);
	assert_int_equal(count.number, 4);
	assert_int_equal(ended, 0);
	loop_run(loop);
	assert_int_equal(ended, 2);
}

static void too_many_are_refused(void **state)
{
	struct work more = { .work = { .run = run_number, .done = on_done } };
	struct why why;

	(void)state;
	db_thread_start(thread);
	for (int i = 0; i < MOST; i++)
		give(i, i ? run_number : run_slowly, i == MOST - 1 ? on_last : on_done);
	assert_false(db_thread_do(thread, &more.work, &why));
	assert_int_equal(why.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(why.text, "40 calls wait"));
	loop_run(loop);
	assert_int_equal(ended, MOST);
	give(0, run_number, on_last);             /* there is room again */
	loop_run(loop);
	assert_int_equal(ended, MOST + 1);
}

/* The one that runs is let end; all hear of it, in order. */
static void an_end_drops_what_has_not_begun(void **state)
{
	(void)state;
	db_thread_start(thread);
	for (int i = 0; i < 10; i++)
		give(i, run_slowly, on_done);
	while (ran == 0)
		usleep(1000);
	db_thread_free(thread);
	thread = NULL;
	assert_true(told_end);
	assert_true(ran < 10);                    /* 1 where this thread has its turn within 600 ms */
	assert_int_equal(ended, 10);
	assert_int_equal(dropped, 10);            /* the loop turned no more, so it did not hear of the first either */
}

static void on_done_free(struct db_work *w, const struct why *why)
{
	on_last(w, why);
	db_thread_free(thread);
	thread = NULL;
}

static void an_end_may_come_from_a_work(void **state)
{
	(void)state;
	db_thread_start(thread);
	give(0, run_number, on_done_free);
	loop_run(loop);
	assert_null(thread);
	assert_int_equal(ended, 1);
}

/* --- a server that is silent --- */

static void run_sleeping(struct db_work *w, struct db *db)
{
	run_number(w, db);
	((struct work *)(void *)w)->ok = db_query(db, "SELECT 1 FROM (SELECT pg_sleep(30)) AS s", NULL, 0, NULL, NULL, NULL);
}

static void count_waits(void *arg, const char *server, int64_t waited_ms)
{
	(void)arg, (void)server;
	if (waited_ms)
		waits++;
}

static struct db_thread *thread_on_server(void)
{
	const struct db_thread_opts o = { .service = "test", .most = MOST, .on_wait = count_waits };
	struct why why;
	char url[600];
	struct db *db;

	snprintf(url, sizeof(url), "%s&statement_timeout_ms=20000", getenv("CORRAL_TEST_POSTGRES"));
	db = db_open(url, NULL, 0, NULL, &why);
	if (!db)
		fail_msg("%s", why.text);
	return db_thread_new(loop, db, &o);
}

static void stop_loop(struct loop_timer *t)
{
	(void)t;
	loop_stop(loop);
}

static void a_call_that_hangs_ends_with_the_thread(void **state)
{
	struct loop_timer end = { 0 };
	struct ticking ticking = { 0 };
	int64_t began_us;

	(void)state;
	if (!getenv("CORRAL_TEST_POSTGRES")) {
		printf("skip: CORRAL_TEST_POSTGRES is not set; scripts/with-postgres sets it\n");
		skip();
	}
	db_thread_free(thread);
	thread = thread_on_server();
	db_thread_start(thread);
	give(0, run_sleeping, on_done);
	give(1, run_number, on_done);
	last_us = mono_us();
	tick(&ticking.t);
	loop_timer_set(loop, &end, 3000000, stop_loop);
	loop_run(loop);
	loop_timer_del(&ticking.t);
	assert_int_equal(ended, 0);
	assert_true(most_gap_us < 1000000);
	began_us = mono_us();
	db_thread_free(thread);
	thread = NULL;
	assert_true(mono_us() - began_us < 4000000);
	assert_int_equal(dropped, 2);
	assert_int_equal(ran, 1);
	assert_false(works[0].ok);
	assert_true(waits > 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(works_run_elsewhere_and_come_back_in_order), T(before_the_start_they_are_done_at_once), T(no_transaction_meets_another_work),
		T(the_loop_goes_on_meanwhile), T(one_may_be_waited_for), T(too_many_are_refused), T(an_end_drops_what_has_not_begun), T(an_end_may_come_from_a_work),
		T(a_call_that_hangs_ends_with_the_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

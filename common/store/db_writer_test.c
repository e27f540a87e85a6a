/* db_writer_test.c - one writer of a schema: who has it, who waits, and that one that was passed by changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "common/store/db_writer.h"

enum { PUT, COUNT, STATEMENTS };
static const char *const sql[] = {
	[PUT] = "INSERT INTO t (k) VALUES (?1)",
	[COUNT] = "SELECT count(*) FROM t",
};
static const struct db_migration one[] = { { 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY)" }, { 0 } };

static char url[600];
static struct why why;

static int make(void **state)
{
	char name[60];

	(void)state;
	if (!getenv("CORRAL_TEST_POSTGRES"))
		return 0;
	snprintf(name, sizeof(name), "writer %lld", (long long)mono_us());
	test_db_postgres(name, url, sizeof(url));
	return db_migrate(url, one, NULL, NULL, &why) ? 0 : -1;
}

static void need_server(void)
{
	if (getenv("CORRAL_TEST_POSTGRES"))
		return;
	printf("skip: CORRAL_TEST_POSTGRES is not set; scripts/with-postgres sets it\n");
	skip();
}

static struct db_writer *open_writer(const char *who)
{
	struct db_writer *w = db_writer_open(url, who, NULL, &why);

	assert_non_null(w);
	return w;
}

static enum db_writer_turn try(struct db_writer *w)
{
	const char *other = "";
	enum db_writer_turn turn = db_writer_try(w, &other, &why);

	if (turn == DB_WRITER_UNKNOWN)
		fail_msg("%s", why.text);
	return turn;
}

/* Under the lease that was taken last. */
static struct db *open_db(void)
{
	struct db *db = db_open(url, sql, STATEMENTS, one, &why);

	if (!db)
		fail_msg("%s", why.text);
	return db;
}

static bool put(struct db *db, int k)
{
	struct db_value p[] = { DB_I(k) };

	return db_run(db, PUT, p, 1, NULL, NULL, NULL, &why);
}

/* As if its time were over, without waiting for it. */
static void expire(void)
{
	struct db *db = db_open(url, NULL, 0, NULL, &why);

	assert_true(db && db_query(db, "UPDATE one_writer SET until_us = 1", NULL, 0, NULL, NULL, &why));
	db_close(db);
}

static void test_the_first_has_it_and_the_second_waits(void **state)
{
	struct db_writer *a, *b;
	const char *other = "";

	need_server();
	a = open_writer("a");
	b = open_writer("b");
	assert_int_equal(try(a), DB_WRITER_MINE);
	assert_int_equal(db_writer_try(b, &other, &why), DB_WRITER_ANOTHERS);
	assert_string_equal(other, "a");
	db_writer_free(a);                        /* given back: no wait */
	assert_int_equal(try(b), DB_WRITER_MINE);
	assert_true(db_writer_epoch(b) == 2);
	db_writer_free(b);
}

static void test_one_that_was_passed_by_changes_nothing(void **state)
{
	struct db_writer *a, *b;
	struct db *of_a, *of_b;

	need_server();
	a = open_writer("a");
	b = open_writer("b");
	assert_int_equal(try(a), DB_WRITER_MINE);
	of_a = open_db();
	assert_true(put(of_a, 1));
	expire();
	assert_int_equal(try(b), DB_WRITER_MINE);
	of_b = open_db();
	assert_false(put(of_a, 2));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_false(db_begin(of_a, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_true(db_run(of_a, COUNT, NULL, 0, NULL, NULL, NULL, &why));      /* it may still look */
	assert_true(put(of_b, 2));
	db_close(of_a);
	db_close(of_b);
	db_writer_free(a);                        /* gives back what is no longer its own: nothing */
	assert_int_equal(db_writer_try(a = open_writer("c"), &(const char *){ "" }, &why), DB_WRITER_ANOTHERS);
	db_writer_free(a);
	db_writer_free(b);
}

static void test_a_new_writer_waits_for_what_is_under_way(void **state)
{
	struct db_writer *a, *b;
	const char *other = "";
	struct db *of_a;

	need_server();
	a = open_writer("a");
	b = open_writer("b");
	assert_int_equal(try(a), DB_WRITER_MINE);
	of_a = open_db();
	assert_true(db_begin(of_a, &why) && put(of_a, 1));
	expire();                                 /* does not wait: what is held is the key */
	assert_int_equal(db_writer_try(b, &other, &why), DB_WRITER_UNKNOWN);    /* after its lock_timeout */
	assert_true(db_commit(of_a, &why));
	assert_int_equal(try(b), DB_WRITER_MINE);
	db_close(of_a);
	db_writer_free(a);
	db_writer_free(b);
}

/* As a process does that was killed and is started again. */
static void test_what_a_dead_one_had_is_taken_at_once(void **state)
{
	struct db_writer *a, *b, *c;
	struct db *of_a, *of_b;

	need_server();
	a = open_writer("a");
	b = db_writer_open(url, "b", "a", &why);
	c = db_writer_open(url, "c", "x", &why);          /* that one is not who has it */
	assert_true(b && c);
	assert_int_equal(try(a), DB_WRITER_MINE);
	of_a = open_db();
	assert_int_equal(try(c), DB_WRITER_ANOTHERS);
	assert_int_equal(try(b), DB_WRITER_MINE);
	assert_true(db_writer_epoch(b) == 2);
	of_b = open_db();
	assert_true(put(of_b, 1));
	assert_false(put(of_a, 2));               /* it was not dead after all: nothing is changed */
	assert_int_equal(why.code, ERR_CONFLICT);
	db_writer_free(a);                        /* gives back what is another's: nothing */
	assert_int_equal(try(c), DB_WRITER_ANOTHERS);
	db_close(of_a);
	db_close(of_b);
	db_writer_free(b);
	db_writer_free(c);
}

static atomic_int lost;

static void on_lost(void *arg, const struct why *w)
{
	assert_int_equal(w->code, ERR_CONFLICT);
	assert_non_null(strstr(w->text, "b has become"));
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_it_is_renewed_and_who_lost_it_hears_so_once(void **state)
{
	struct db_writer *a, *b;

	need_server();
	a = open_writer("a");
	b = open_writer("b");
	assert_int_equal(try(a), DB_WRITER_MINE);
	db_writer_keep(a, on_lost, &lost);
	for (int64_t end = mono_ms() + DB_WRITER_LEASE_MS + 1500; mono_ms() < end; usleep(300000))
		assert_int_equal(try(b), DB_WRITER_ANOTHERS);
	assert_int_equal(atomic_load(&lost), 0);
	for (int64_t end = mono_ms() + 10000; mono_ms() < end && try(b) != DB_WRITER_MINE;)
		expire();
	for (int64_t end = mono_ms() + 20000; mono_ms() < end && !atomic_load(&lost); usleep(20000))
		;
	assert_int_equal(atomic_load(&lost), 1);
	db_writer_free(a);
	assert_int_equal(atomic_load(&lost), 1);
	db_writer_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_the_first_has_it_and_the_second_waits, make),
		cmocka_unit_test_setup(test_one_that_was_passed_by_changes_nothing, make),
		cmocka_unit_test_setup(test_a_new_writer_waits_for_what_is_under_way, make),
		cmocka_unit_test_setup(test_what_a_dead_one_had_is_taken_at_once, make),
		cmocka_unit_test_setup(test_it_is_renewed_and_who_lost_it_hears_so_once, make),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

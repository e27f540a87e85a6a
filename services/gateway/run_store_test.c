/* run_store_test.c - claims, ends, what a gateway that died left behind, pieces of streams, time and room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/store/db_test.h"
#include "services/gateway/run_store.h"

enum { S = 1000000 };
static const int64_t t0 = 1000 * (int64_t)S;
static char path[100], url[256];
static struct arena *mem;
static struct run_store *store;
static struct why why;

static struct run_store *open_as(const char *owner, int64_t now)
{
	struct run_store *s = run_store_open(url, owner, now, &why);

	if (!s)
		fail_msg("%s", why.text);
	return s;
}

static void add(const char *id, const char *tenant)
{
	struct run r = { .id = id, .tenant = tenant, .key_id = "k", .role = 6, .path = "/inference", .body = STR("{\"prompt\":\"x\"}"), .created_us = t0,
		.expires_us = t0 + 100 * S, .execution_ms = 5000 };

	if (!run_add(store, &r, &why))
		fail_msg("%s", why.text);
}

static struct run get(const char *id)
{
	struct run r = { 0 };

	assert_true(run_get(store, str_of(id), true, mem, &r, &why));
	return r;
}

static unsigned none(void *arg, const char *tenant) { return (void)arg, (void)tenant, 0; }
static unsigned busy_is(void *arg, const char *tenant) { return strcmp(arg, tenant) == 0; }

static struct run claim(int64_t now)
{
	struct run r = { 0 };

	if (!run_claim(store, now, none, NULL, mem, &r, &why))
		assert_int_equal(why.code, ERR_OK);
	return r;
}

static void finish(const char *id, enum run_state s, const char *output, int64_t at, bool expect)
{
	struct run end = { .id = id, .state = s, .ended_us = at, .error_code = "", .error = "", .request_id = "q", .output = str_of(output) };
	bool ours = !expect;

	assert_true(run_finish(store, &end, &ours, &why));
	assert_int_equal(ours, expect);
}

static void oldest_first_and_the_idle_tenant_first(void **state)
{
	struct run r;

	add("b", "north");
	add("a", "north");
	add("c", "south");
	assert_true(run_claim(store, t0, busy_is, "north", mem, &r, &why));
	assert_string_equal(r.id, "c");
	assert_string_equal(r.path, "/inference");
	assert_true(str_eqz(r.body, "{\"prompt\":\"x\"}"));
	assert_int_equal(r.role, 6);
	assert_string_equal(claim(t0).id, "a");
	assert_string_equal(claim(t0).id, "b");
	assert_null(claim(t0).id);
	assert_int_equal(get("a").state, RUN_IN_PROGRESS);
}

static void an_end_is_one(void **state)
{
	struct run_counts c;
	bool changed;

	add("a", "t");
	claim(t0);
	finish("a", RUN_COMPLETED, "{\"x\":1}", t0 + 1, true);
	finish("a", RUN_FAILED, "", t0 + 2, false);
	assert_true(run_cancel(store, "a", t0 + 3, &changed, &why));
	assert_false(changed);
	assert_int_equal(get("a").state, RUN_COMPLETED);
	assert_true(str_eqz(get("a").output, "{\"x\":1}"));
	assert_int_equal(get("a").body.n, 0);
	assert_true(run_count(store, &c, &why));
	assert_int_equal(c.ended, 1);
	assert_int_equal(c.bytes, 7);
	assert_true(run_forget_oldest(store, &why) == 7 && run_forget_oldest(store, &why) == 0);
}

static void cancelled_while_it_runs(void **state)
{
	bool changed;

	add("a", "t");
	claim(t0);
	assert_true(run_cancel(store, "a", t0 + 1, &changed, &why) && changed);
	finish("a", RUN_COMPLETED, "1", t0 + 2, false);
	assert_int_equal(get("a").state, RUN_CANCELLED);
}

static void put_back_it_waits(void **state)
{
	bool ours;

	add("a", "t");
	claim(t0);
	assert_true(run_requeue(store, "a", t0 + 5 * S, "busy", &ours, &why) && ours);
	assert_null(claim(t0 + 4 * S).id);
	assert_int_equal(claim(t0 + 5 * S).tries, 1);
}

static void what_a_crash_leaves(void **state)
{
	struct run_store *again;

	add("begun", "t");
	add("quiet", "t");
	claim(t0);
	claim(t0);
	assert_true(run_say(store, "begun", STR("1\n2\n"), 2, NULL, &why));
	run_store_close(store);
	store = open_as("me", t0 + S);
	assert_int_equal(get("quiet").state, RUN_IN_QUEUE);
	assert_int_equal(get("begun").state, RUN_FAILED);
	assert_string_equal(get("begun").error_code, "INTERRUPTED");
	assert_int_equal(get("begun").chunks, 2);
	claim(t0 + S);
	again = open_as("other", t0 + 2 * S);             /* another gateway takes nothing of one that lives */
	assert_int_equal(get("quiet").state, RUN_IN_PROGRESS);
	assert_true(run_alive(again, t0 + 3 * S, &why));
	assert_int_equal(get("quiet").state, RUN_IN_PROGRESS);
	assert_true(run_alive(again, t0 + 60 * S, &why));
	assert_int_equal(get("quiet").state, RUN_IN_QUEUE);
	finish("quiet", RUN_COMPLETED, "1", t0 + 61 * S, false);
	run_store_close(again);
}

static void a_job_that_kills_is_given_up(void **state)
{
	add("a", "t");
	for (int i = 0; i < RUN_TRIES; i++) {
		assert_string_equal(claim(t0).id, "a");
		run_store_close(store);
		store = open_as("me", t0);
	}
	assert_int_equal(get("a").state, RUN_FAILED);
}

static void pieces_by_number(void **state)
{
	struct str text;
	uint32_t n;

	add("a", "t");
	claim(t0);
	assert_true(run_say(store, "a", STR("0\n1\n2\n"), 3, NULL, &why) && run_say(store, "a", STR("3\n4\n"), 2, NULL, &why));
	assert_true(run_pieces(store, "a", 1, 1000, mem, &text, &n, &why));
	assert_true(n == 4 && str_eqz(text, "1\n2\n3\n4\n"));
	assert_true(run_pieces(store, "a", 4, 1000, mem, &text, &n, &why));
	assert_true(n == 1 && str_eqz(text, "4\n"));
	assert_true(run_pieces(store, "a", 0, 4, mem, &text, &n, &why));
	assert_true(n == 2 && str_eqz(text, "0\n1\n"));
	assert_true(run_pieces(store, "a", 5, 1000, mem, &text, &n, &why));
	assert_int_equal(n, 0);
	assert_true(run_delivered(store, "a", 5, &why));
	assert_int_equal(get("a").delivered, 5);
	finish("a", RUN_COMPLETED, "", t0 + 1, true);
	assert_true(run_expire(store, t0 + 10 * S, 5 * S, &why));
	assert_false(run_get(store, STR("a"), false, mem, &(struct run){ 0 }, &why));
	assert_true(run_pieces(store, "a", 0, 1000, mem, &text, &n, &why) && n == 0);
}

static void pieces_of_what_is_not_ours(void **state)
{
	struct run_store *other = open_as("other", t0);
	bool ours = false;

	add("a", "t");
	claim(t0);
	assert_true(run_say(store, "a", STR("0\n"), 1, &ours, &why) && ours);
	assert_true(run_say(other, "a", STR("1\n"), 1, &ours, &why) && !ours);
	assert_int_equal(get("a").chunks, 1);
	assert_true(run_cancel(store, "a", t0 + 1, &ours, &why) && ours);
	assert_true(run_say(store, "a", STR("1\n"), 1, &ours, &why) && !ours);
	assert_int_equal(get("a").chunks, 1);
	run_store_close(other);
}

static unsigned north_rests(void *arg, const char *tenant) { return (void)arg, strcmp(tenant, "north") == 0 ? RUN_NOT_NOW : 7; }

static void a_tenant_that_rests_is_passed_over(void **state)
{
	struct run r;

	add("a", "north");
	add("b", "south");
	assert_true(run_claim(store, t0, north_rests, NULL, mem, &r, &why));
	assert_string_equal(r.id, "b");
	assert_false(run_claim(store, t0, north_rests, NULL, mem, &r, &why));
	assert_int_equal(why.code, ERR_OK);
	assert_int_equal(get("a").state, RUN_IN_QUEUE);
}

static void bytes_that_wait(void **state)
{
	struct run_counts c;
	int64_t tenants, all;

	add("a", "north");
	add("b", "north");
	add("c", "south");
	assert_true(run_waiting_bytes(store, STR("north"), &tenants, &all, &why) && tenants == 28 && all == 42);
	claim(t0);
	assert_true(run_waiting_bytes(store, STR("north"), &tenants, &all, &why) && tenants == 14 && all == 28);
	assert_true(run_count(store, &c, &why) && c.waiting_bytes == 28 && c.bytes == 42);
}

static void too_long_in_the_queue(void **state)
{
	add("a", "t");
	assert_null(claim(t0 + 100 * S).id);
	assert_true(run_expire(store, t0 + 99 * S, S, &why));
	assert_int_equal(get("a").state, RUN_IN_QUEUE);
	assert_true(run_expire(store, t0 + 100 * S, S, &why));
	assert_int_equal(get("a").state, RUN_TIMED_OUT);
}

static int setup(void **state)
{
	static unsigned n;
	char file[80];

	snprintf(file, sizeof(file), "run_store_test.%d.%u.db", getpid(), ++n);
	snprintf(path, sizeof(path), "/tmp/%s", file);
	test_db("/tmp", file, run_migrations, url, sizeof(url));
	mem = arena_new(0);
	store = open_as("me", t0);
	return 0;
}

static int teardown(void **state)
{
	char more[120];

	run_store_close(store);
	arena_free(mem);
	unlink(path);
	snprintf(more, sizeof(more), "%s-wal", path);
	unlink(more);
	snprintf(more, sizeof(more), "%s-shm", path);
	unlink(more);
	return 0;
}

#define RUN(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		RUN(oldest_first_and_the_idle_tenant_first), RUN(an_end_is_one), RUN(cancelled_while_it_runs), RUN(put_back_it_waits), RUN(what_a_crash_leaves),
		RUN(a_job_that_kills_is_given_up), RUN(pieces_by_number), RUN(pieces_of_what_is_not_ours),
		RUN(a_tenant_that_rests_is_passed_over), RUN(bytes_that_wait), RUN(too_long_in_the_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

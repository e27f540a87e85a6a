/* scope_test.c - limits of a key and its tenant: exact from many threads, settled, shared, and without access. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/scope.h"

#define S INT64_C(1000000)

static struct scope_table *table;
static int needs;

static int set_up(void **state)
{
	table = scope_table_new();
	needs = 0;
	return 0;
}

static int tear_down(void **state)
{
	scope_table_free(table);
	return 0;
}

static struct scope *limited(const char *kind, const char *name, uint64_t requests, uint64_t tokens, uint32_t concurrency)
{
	Corral__Limits l = CORRAL__LIMITS__INIT;
	struct scope *s;

	l.requests_per_minute = requests;
	l.tokens_per_minute = tokens;
	l.concurrency = concurrency;
	s = scope_get(table, kind, name, &l);
	scope_unref(s);                   /* the table has one */
	return s;
}

static bool take(struct limit_hold *h, struct scope *key, struct scope *tenant, uint64_t tokens, int64_t now, struct limit_refusal *why)
{
	*h = (struct limit_hold){ .scopes = { key, tenant } };
	return scopes_take(h, tokens, now, why);
}

static void both_or_neither(void **state)
{
	struct scope *key = limited("key", "k", 5, 0, 0), *tenant = limited("tenant", "t", 3, 0, 0);
	struct limit_refusal why;
	struct limit_hold h;

	for (int i = 0; i < 3; i++)
		assert_true(take(&h, key, tenant, 0, S, &why));
	assert_false(take(&h, key, tenant, 0, 2 * S, &why));
	assert_ptr_equal(why.scope, tenant);
	assert_int_equal(why.kind, LIMIT_REQUESTS);
	assert_int_equal(why.limit, 3);
	assert_false(why.share);
	assert_in_range(why.wait_us, 59 * S, 61 * S);
	assert_true(take(&h, key, NULL, 0, 3 * S, &why) && take(&h, key, NULL, 0, 3 * S, &why));   /* the refused one cost the key nothing */
	assert_false(take(&h, key, NULL, 0, 3 * S, &why));
	assert_true(take(&h, key, tenant, 0, 65 * S, &why));
}

static void places_under_way_are_given_back(void **state)
{
	struct scope *key = limited("key", "k", 0, 0, 2);
	struct limit_hold a, b, c;
	struct limit_refusal why;

	assert_true(take(&a, key, NULL, 0, S, &why) && take(&b, key, NULL, 0, S, &why));
	assert_false(take(&c, key, NULL, 0, S, &why));
	assert_int_equal(why.kind, LIMIT_CONCURRENCY);
	scopes_end(&c, 0, S);                                          /* it took nothing */
	scopes_end(&a, 0, S);
	scopes_end(&a, 0, S);                                          /* once */
	assert_true(take(&c, key, NULL, 0, S, &why));
	assert_false(take(&a, key, NULL, 0, S, &why));
}

static void tokens_are_reserved_and_settled(void **state)
{
	struct scope *key = limited("key", "k", 0, 1000, 0);
	struct limit_hold a, b, c;
	struct limit_refusal why;

	assert_true(take(&a, key, NULL, 600, 1 * S, &why));
	assert_false(take(&b, key, NULL, 500, 1 * S, &why));
	assert_int_equal(why.left, 400);
	assert_int_equal(why.need, 500);
	scopes_end(&a, 100, 5 * S);
	assert_int_equal(scopes_state(&a, LIMIT_TOKENS, 5 * S).left, 900);
	assert_true(take(&b, key, NULL, 500, 5 * S, &why));
	scopes_end(&b, 1500, 6 * S);                                   /* more than was thought: a debt */
	assert_int_equal(scopes_state(&b, LIMIT_TOKENS, 6 * S).left, 0);
	assert_false(take(&c, key, NULL, 1, 60 * S, &why));
	assert_true(take(&c, key, NULL, 1000000, 70 * S, &why));       /* above the limit: in an empty minute */
	assert_false(take(&a, key, NULL, 1, 70 * S, &why));
}

static void the_tighter_of_two_is_shown(void **state)
{
	struct scope *key = limited("key", "k", 5, 0, 0), *tenant = limited("tenant", "t", 100, 70, 0);
	struct limit_refusal why;
	struct limit_hold h;

	assert_true(take(&h, key, tenant, 30, S, &why));
	assert_int_equal(scopes_state(&h, LIMIT_REQUESTS, S).limit, 5);
	assert_int_equal(scopes_state(&h, LIMIT_REQUESTS, S).left, 4);
	assert_int_equal(scopes_state(&h, LIMIT_TOKENS, S).limit, 70);
	assert_int_equal(scopes_state(&h, LIMIT_TOKENS, S).left, 40);
	assert_in_range(scopes_state(&h, LIMIT_REQUESTS, S).reset_us, 59 * S, 62 * S);
	assert_int_equal(scopes_state(&(struct limit_hold){ 0 }, LIMIT_REQUESTS, S).limit, 0);
}

static void a_changed_limit_counts_what_was_used(void **state)
{
	struct scope *key = limited("key", "k", 0, 0, 9);
	struct limit_refusal why;
	struct limit_hold h;

	for (int i = 0; i < 4; i++)
		assert_true(take(&h, key, NULL, 10, S, &why));
	assert_ptr_equal(limited("key", "k", 4, 0, 0), key);
	assert_false(take(&h, key, NULL, 10, 2 * S, &why));
	limited("key", "k", 5, 0, 0);
	assert_true(take(&h, key, NULL, 10, 2 * S, &why));
	assert_false(take(&h, key, NULL, 10, 2 * S, &why));
	limited("key", "k", 0, 0, 0);
	assert_true(take(&h, key, NULL, 10, 2 * S, &why));
}

/* --- many threads --- */

enum { THREADS = 8, TRIES = 500 };

struct crowd { struct scope *key, *tenant; _Atomic int granted, together, worst; };

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	struct limit_refusal why;
	struct limit_hold h;

	for (int i = 0; i < TRIES; i++) {
		int n;

		if (!take(&h, c->key, c->tenant, 3, S, &why))
			continue;
		atomic_fetch_add(&c->granted, 1);
		n = atomic_fetch_add(&c->together, 1) + 1;
		if (n > atomic_load(&c->worst))
			atomic_store(&c->worst, n);
		atomic_fetch_sub(&c->together, 1);
		scopes_end(&h, 3, S);
	}
	return NULL;
}

static int crowd(struct scope *key, struct scope *tenant, int *worst)
{
	struct crowd c = { key, tenant, 0, 0, 0 };
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, crowd_main, &c);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	*worst = c.worst;
	return c.granted;
}

static void exact_from_many_threads(void **state)
{
	int worst;

	assert_int_equal(crowd(limited("key", "a", 777, 0, 0), limited("tenant", "a", 778, 0, 0), &worst), 777);
	assert_int_equal(crowd(limited("key", "b", 778, 0, 0), limited("tenant", "b", 777, 0, 0), &worst), 777);
	assert_int_equal(crowd(limited("key", "c", 0, 3000, 0), NULL, &worst), 1000);
	crowd(limited("key", "d", 0, 0, 2), NULL, &worst);
	assert_in_range(worst, 1, 2);
}

/* --- shared --- */

static void need(void *arg) { needs++; }
static void give(struct scope *s, uint64_t requests, uint64_t others, int64_t now)
{
	scope_give(s, now, (uint64_t[LIMIT_KINDS]){ requests, 0, 0 }, (uint64_t[LIMIT_KINDS]){ others, 0, 0 });
}

static bool keep(struct scope *s, void *n)
{
	uint64_t used[LIMIT_KINDS];

	++*(int *)n;
	scope_used(s, 100 * S, used);
	return used[LIMIT_REQUESTS] > 0;
}

static void what_was_given_is_used_and_more_is_asked_for(void **state)
{
	struct scope *key = limited("key", "k", 10, 0, 0);
	struct limit_refusal why;
	struct limit_hold h;
	int n = 0;

	scope_table_share(table, need, NULL);
	assert_false(take(&h, key, NULL, 0, 50 * S, &why));            /* nothing was given yet */
	assert_true(why.share);
	assert_false(take(&h, key, NULL, 0, 50 * S, &why));
	assert_int_equal(needs, 1);                                    /* said once */
	scope_table_told(table);
	scope_table_mode(table, SCOPES_SHARED, 2, 60 * S);
	give(key, 2, 7, 51 * S);
	assert_true(take(&h, key, NULL, 0, 52 * S, &why) && take(&h, key, NULL, 0, 52 * S, &why));
	assert_int_equal(scopes_state(&h, LIMIT_REQUESTS, 52 * S).left, 1);
	assert_false(take(&h, key, NULL, 0, 52 * S, &why));            /* one of ten is left, with somebody */
	assert_true(why.share);
	assert_int_equal(needs, 2);
	give(key, 3, 7, 53 * S);
	assert_true(take(&h, key, NULL, 0, 53 * S, &why));
	assert_false(take(&h, key, NULL, 0, 53 * S, &why));
	assert_false(why.share);                                       /* the limit itself is used up */
	give(key, 9, 1, 54 * S);
	assert_true(take(&h, key, NULL, 0, 60 * S, &why));
	assert_false(take(&h, key, NULL, 0, 60 * S + 1, &why));        /* this gateway stood still: others may have it now */
	assert_true(why.share);
	scope_table_busy(table, keep, &n);
	scope_table_busy(table, keep, &n);
	assert_int_equal(n, 2);
	scope_table_mode(table, SCOPES_ALONE, 1, 70 * S);
	assert_true(take(&h, key, NULL, 0, 61 * S, &why));
}

static void without_access_each_has_its_part(void **state)
{
	struct scope *key = limited("key", "k", 10, 0, 0), *small = limited("key", "small", 1, 0, 0), *seen = limited("key", "seen", 10, 0, 0);
	struct scope *much = limited("key", "much", 10, 0, 0);
	struct limit_refusal why;
	struct limit_hold h;
	int n = 0;

	scope_table_share(table, need, NULL);
	give(much, 10, 0, 40 * S);                                     /* the others may not have heard of that */
	give(seen, 2, 7, 40 * S);                                      /* the others had used seven of it a moment ago */
	scope_table_mode(table, SCOPES_ON_THEIR_OWN, 2, INT64_MAX);
	while (take(&h, key, NULL, 0, 50 * S, &why))
		n++;
	assert_int_equal(n, 5);
	assert_false(why.share);
	assert_in_range(why.wait_us, 59 * S, 62 * S);
	assert_true(take(&h, small, NULL, 0, 50 * S, &why));           /* a limit is no ban */
	assert_false(take(&h, small, NULL, 0, 50 * S, &why));
	for (n = 0; take(&h, seen, NULL, 0, 50 * S, &why);)
		n++;
	assert_int_equal(n, 3);
	for (n = 0; take(&h, much, NULL, 0, 50 * S, &why);)
		n++;
	assert_int_equal(n, 5);
}

static void what_was_used_alone_is_told_to_those_who_come(void **state)
{
	struct scope *key = limited("key", "k", 10, 0, 0);
	struct limit_refusal why;
	struct limit_hold h;
	int n = 0;

	scope_ref(key);                                                /* as a keyring does */
	assert_true(take(&h, key, NULL, 0, 99 * S, &why));
	scope_table_busy(table, keep, &n);
	assert_int_equal(n, 0);
	scope_table_recall(table, 100 * S);
	scope_table_busy(table, keep, &n);
	assert_int_equal(n, 1);
	scope_unref(key);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_or_neither, set_up, tear_down),
		cmocka_unit_test_setup_teardown(places_under_way_are_given_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(tokens_are_reserved_and_settled, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_tighter_of_two_is_shown, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_changed_limit_counts_what_was_used, set_up, tear_down),
		cmocka_unit_test_setup_teardown(exact_from_many_threads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_given_is_used_and_more_is_asked_for, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_access_each_has_its_part, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_used_alone_is_told_to_those_who_come, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

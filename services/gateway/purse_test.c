/* purse_test.c - what a request takes of its budgets: from all or from none, never more than was lent, and what is asked for and given back. */
#include "services/gateway/purse.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SECOND = 1000000 };

struct fixture { struct purse_book *b; struct arena *mem; int64_t mono_us; };

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	f->b = purse_book_new();
	f->mem = arena_new(0);
	f->mono_us = 100 * SECOND;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	purse_book_free(f->b);
	arena_free(f->mem);
	free(f);
	return 0;
}

static Corral__Budget *budget(struct fixture *f, uint64_t id, const char *scope, const char *tenant)
{
	Corral__Budget *b = arena_alloc(f->mem, sizeof(*b));

	corral__budget__init(b);
	b->id = id;
	b->scope = (char *)(uintptr_t)scope;
	b->tenant = (char *)(uintptr_t)tenant;
	b->period = (char *)"month";
	b->limits_tokens = true;
	b->limit_tokens = 1000;
	return b;
}

static void lend_period(struct fixture *f, uint64_t id, int64_t granted, int64_t left, int64_t most, int64_t period_us, bool tight)
{
	Corral__BudgetLease l = CORRAL__BUDGET_LEASE__INIT, *list = &l;

	l.budget = id;
	l.period_us = period_us;
	l.ends_us = period_us + 1000 * (int64_t)SECOND;
	l.granted_tokens = granted;
	l.left_tokens = left;
	l.most_tokens = most;
	l.tight = tight;
	purse_book_lent(f->b, &list, 1, f->mono_us);
}

static void lend(struct fixture *f, uint64_t id, int64_t granted) { lend_period(f, id, granted, 1000 - granted, 1000, 5, false); }

static struct purse_hold find(struct fixture *f, const char *tenant, const char *key, const char *user)
{
	struct purse_asker a = { str_of(tenant), STR("core"), str_of(key), str_of(user), STR("ollama") };
	struct purse_hold h = { 0 };

	purse_find(f->b, &a, &h);
	return h;
}

static enum purse_answer take(struct fixture *f, struct purse_hold *h, int64_t tokens, int64_t least, int64_t wall_us, int64_t *ret_tokens)
{
	struct purse_refusal why;
	struct purse *shadow;

	return purse_take(f->b, h, (struct purse_amounts){ { tokens, 0 } }, least, wall_us, f->mono_us, ret_tokens, &shadow, &why);
}

static Corral__BudgetLeaseRequest demands(struct fixture *f, bool leaving)
{
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;

	f->mono_us += SECOND;
	purse_book_demands(f->b, leaving, f->mono_us, f->mem, &q);
	return q;
}

static void who_is_covered(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", ""), budget(f, 2, "tenant:acme", "acme"), budget(f, 3, "key:k1", "acme"), budget(f, 4, "user:ann", "acme"),
				   budget(f, 5, "team:core", "other"), budget(f, 6, "provider:ollama", "") };

	assert_true(purse_book_is_empty(purse_book_count(f->b)));
	purse_book_list(f->b, list, 6);
	assert_false(purse_book_is_empty(purse_book_count(f->b)));
	assert_int_equal(find(f, "acme", "k1", "ann").n, 5);
	assert_int_equal(find(f, "acme", "k2", "").n, 3);
	assert_int_equal(find(f, "other", "k1", "ann").n, 3);    /* its own team's, and everybody's */
	purse_book_list(f->b, list, 1);
	assert_int_equal(find(f, "acme", "k1", "ann").n, 1);
	purse_book_list(f->b, list, 0);
	assert_true(purse_book_is_empty(purse_book_count(f->b)));
}

static void from_all_or_from_none(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", ""), budget(f, 2, "tenant:acme", "acme") };
	struct purse_hold a, b;
	int64_t got;

	purse_book_list(f->b, list, 2);
	a = find(f, "acme", "", "");
	b = find(f, "acme", "", "");
	assert_int_equal(a.n, 2);
	assert_int_equal(take(f, &a, 100, 100, 10, &got), PURSE_ASK);    /* nothing is lent yet */
	lend(f, 1, 500);
	lend(f, 2, 150);
	assert_int_equal(take(f, &a, 100, 100, 10, &got), PURSE_TAKEN);
	assert_int_equal(take(f, &b, 100, 100, 10, &got), PURSE_ASK);
	assert_int_equal(take(f, &b, 100, 20, 10, &got), PURSE_TAKEN);   /* as much as there is */
	assert_int_equal(got, 50);
	purse_settle(f->b, &a, (struct purse_amounts){ { 30, 0 } });
	purse_settle(f->b, &a, (struct purse_amounts){ { 30, 0 } });     /* once */
	purse_settle(f->b, &b, (struct purse_amounts){ { 50, 0 } });
	assert_int_equal(take(f, &a, 70, 70, 10, &got), PURSE_TAKEN);    /* 150 - 30 - 50, and nothing of it was left in the other */
	assert_int_equal(take(f, &b, 1, 1, 10, &got), PURSE_ASK);
}

static void spent_is_said_when_it_was_heard_lately(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	struct purse_hold h;
	int64_t got;

	purse_book_list(f->b, list, 1);
	h = find(f, "acme", "", "");
	lend_period(f, 1, 0, 0, 90, 5, true);
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_SPENT);
	assert_int_equal(take(f, &h, 90, 90, 10, &got), PURSE_ASK);      /* others may give it back */
	f->mono_us += SECOND;
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_ASK);    /* it may be otherwise by now */
	purse_book_list(f->b, list, 1);
	assert_int_equal(take(f, &h, 100, 100, 2000 * (int64_t)SECOND, &got), PURSE_ASK);        /* a period that is over says nothing */
}

/* The usage-tracker may be away before it has lent anything. */
static void who_was_never_lent_to_may_use_what_is_unlimited_and_is_told_of_the_rest(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "provider:ollama", ""), budget(f, 2, "tenant:acme", "acme") };
	struct purse_refusal why;
	struct purse *shadow;
	struct purse_hold h;
	int64_t got;

	list[0]->limits_tokens = false;
	list[0]->unlimited = true;
	purse_book_list(f->b, list, 2);
	h = find(f, "other", "k", "");
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_TAKEN);
	assert_int_equal(got, 100);
	list[0]->unlimited = false;
	list[0]->limits_microusd = true;
	purse_book_list(f->b, list, 1);
	h = find(f, "other", "k", "");
	assert_int_equal(purse_take(f->b, &h, (struct purse_amounts){ { 100, 0 } }, 100, 10, f->mono_us, &got, &shadow, &why), PURSE_ASK);
	assert_non_null(why.purse);
}

static void needs_and_idle_purses(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	Corral__BudgetLeaseRequest q;
	struct purse_hold h;
	int64_t got;

	purse_book_list(f->b, list, 1);
	assert_int_equal(demands(f, false).n_demands, 0);
	h = find(f, "acme", "", "");
	purse_wait(f->b, &h, (struct purse_amounts){ { 100, 0 } });
	purse_wait(f->b, &h, (struct purse_amounts){ { 100, 0 } });
	assert_true(purse_book_waits(f->b));
	q = demands(f, false);
	assert_int_equal(q.n_demands, 1);
	assert_int_equal(q.demands[0]->want_tokens, 100);
	lend(f, 1, 100);
	purse_wait_no_more(f->b, &h);
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_TAKEN);
	q = demands(f, false);
	assert_int_equal(q.n_demands, 1);        /* some more, ahead of need */
	assert_true(q.demands[0]->ahead_tokens >= 100 && !q.demands[0]->gives_back);
	purse_settle(f->b, &h, (struct purse_amounts){ { 10, 0 } });
	lend_period(f, 1, 100, 0, 1000, 5, true);
	q = demands(f, false);
	assert_true(q.demands[0]->gives_back);   /* others need it */
	assert_int_equal(q.demands[0]->granted_tokens, 10);
	assert_int_equal(take(f, &h, 1, 1, 10, &got), PURSE_ASK);        /* it is gone before anybody was told */
	assert_false(purse_book_lends(f->b));
}

/* Granted by one that died before it said so: asked after until it is known, and given back. */
static void an_unanswered_ask_is_asked_again(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	Corral__BudgetLeaseRequest q;
	struct purse_hold h;

	purse_book_list(f->b, list, 1);
	h = find(f, "acme", "", "");
	purse_wait(f->b, &h, (struct purse_amounts){ { 100, 0 } });
	assert_int_equal(demands(f, false).n_demands, 1);
	purse_wait_no_more(f->b, &h);            /* refused: the answer did not come */
	assert_true(purse_book_busy(f->b));
	q = demands(f, false);
	assert_int_equal(q.n_demands, 1);
	assert_int_equal(q.demands[0]->want_tokens, 0);
	lend(f, 1, 100);
	q = demands(f, false);
	assert_true(q.n_demands == 1 && q.demands[0]->gives_back && q.demands[0]->granted_tokens == 0);
	lend(f, 1, 0);
	assert_int_equal(demands(f, false).n_demands, 0);
	assert_false(purse_book_busy(f->b));
}

static void idle_comes_back_in_time(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	struct purse_hold h;
	int64_t got;
	int looks = 0;

	purse_book_list(f->b, list, 1);
	h = find(f, "acme", "", "");
	lend(f, 1, 900);
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_TAKEN);
	purse_settle(f->b, &h, (struct purse_amounts){ { 10, 0 } });
	while (purse_book_lends(f->b) && looks++ < 1000)
		(void)demands(f, false);
	assert_true(looks < 100);
	lend(f, 1, 900);
	assert_true(demands(f, true).demands[0]->gives_back);    /* leaving: at once */
	assert_false(purse_book_lends(f->b));
}

static void a_new_period_is_empty_and_the_old_one_goes_back(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	Corral__BudgetLeaseRequest q;
	struct purse_hold old, h;
	int64_t got;

	purse_book_list(f->b, list, 1);
	old = find(f, "acme", "", "");
	h = old;
	lend(f, 1, 900);
	assert_int_equal(take(f, &old, 100, 100, 10, &got), PURSE_TAKEN);
	assert_int_equal(take(f, &h, 100, 100, 2000 * (int64_t)SECOND, &got), PURSE_ASK);
	lend_period(f, 1, 50, 950, 1000, 2000 * (int64_t)SECOND, false);
	assert_int_equal(take(f, &h, 100, 100, 2001 * (int64_t)SECOND, &got), PURSE_ASK);
	purse_settle(f->b, &old, (struct purse_amounts){ { 80, 0 } });   /* of the old one: the new one is as it was */
	assert_int_equal(take(f, &h, 50, 50, 2001 * (int64_t)SECOND, &got), PURSE_TAKEN);
	q = demands(f, false);
	assert_true(q.n_demands >= 1 && q.demands[0]->gives_back);
	assert_int_equal(q.demands[0]->period_us, 5);
	assert_int_equal(q.demands[0]->granted_tokens, 100);     /* what was reserved may be spent of it */
}

static void a_shadow_is_never_short(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", "") };
	struct purse_refusal why;
	struct purse *shadow;
	struct purse_hold h;
	int64_t got;

	list[0]->shadow = true;
	purse_book_list(f->b, list, 1);
	h = find(f, "acme", "", "");
	assert_int_equal(take(f, &h, 5000, 5000, 10, &got), PURSE_TAKEN);
	purse_settle(f->b, &h, (struct purse_amounts){ { 10, 0 } });
	lend_period(f, 1, 0, 990, 990, 5, false);
	assert_int_equal(purse_take(f->b, &h, (struct purse_amounts){ { 5000, 0 } }, 5000, 10, f->mono_us, &got, &shadow, &why), PURSE_TAKEN);
	assert_non_null(shadow);
	purse_settle(f->b, &h, (struct purse_amounts){ { 10, 0 } });
	assert_int_equal(purse_take(f->b, &h, (struct purse_amounts){ { 500, 0 } }, 500, 10, f->mono_us, &got, &shadow, &why), PURSE_TAKEN);
	assert_null(shadow);
}

static void the_stamp_names_what_was_taken(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 7, "organisation:us", "") };
	Corral__BudgetCharges *c;
	struct purse_hold h;
	struct str s;
	int64_t got;

	purse_book_list(f->b, list, 1);
	h = find(f, "acme", "", "");
	lend(f, 7, 900);
	assert_int_equal(take(f, &h, 100, 100, 10, &got), PURSE_TAKEN);
	s = purse_stamp(&h, "life-1", f->mem);
	c = corral__budget_charges__unpack(NULL, s.n, (const uint8_t *)s.p);
	assert_string_equal(c->holder, "life-1");
	assert_true(c->n_charges == 1 && c->charges[0]->budget == 7 && c->charges[0]->period_us == 5);
	corral__budget_charges__free_unpacked(c, NULL);
}

/* --- many at once --- */

enum { THREADS = 8, ROUNDS = 20000, EACH = 7 };

struct racer { struct fixture *f; pthread_t thread; int64_t taken; };

static void *race(void *arg)
{
	struct racer *r = arg;
	struct purse_hold h = find(r->f, "acme", "", "");
	int64_t got;

	for (int i = 0; i < ROUNDS; i++)
		if (take(r->f, &h, EACH, EACH, 10, &got) == PURSE_TAKEN) {
			bool uses = i % 3 == 0;

			r->taken += uses ? EACH : 0;
			purse_settle(r->f->b, &h, (struct purse_amounts){ { uses ? EACH : 0, 0 } });
		}
	return NULL;
}

static void threads_take_exactly_what_there_is(void **state)
{
	struct fixture *f = *state;
	Corral__Budget *list[] = { budget(f, 1, "organisation:us", ""), budget(f, 2, "tenant:acme", "acme") };
	struct racer r[THREADS];
	int64_t sum = 0;

	purse_book_list(f->b, list, 2);
	lend(f, 1, 10000 * EACH + 3);
	lend(f, 2, 100000 * EACH);
	for (int i = 0; i < THREADS; i++) {
		r[i] = (struct racer){ .f = f };
		assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(r[i].thread, NULL);
		sum += r[i].taken;
	}
	assert_int_equal(sum, 10000 * EACH);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(who_is_covered), T(from_all_or_from_none), T(spent_is_said_when_it_was_heard_lately), T(needs_and_idle_purses),
		T(who_was_never_lent_to_may_use_what_is_unlimited_and_is_told_of_the_rest), T(an_unanswered_ask_is_asked_again), T(idle_comes_back_in_time),
		T(a_new_period_is_empty_and_the_old_one_goes_back), T(a_shadow_is_never_short), T(the_stamp_names_what_was_taken), T(threads_take_exactly_what_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

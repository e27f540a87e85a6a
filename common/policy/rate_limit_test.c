/* rate_limit_test.c - no minute has more than was allowed in it; what is given back; how long to wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/id.h"
#include "common/policy/rate_limit.h"

enum { S = 1000000 };

static void nothing_is_used_at_first(void **state)
{
	struct rate_window w = { 0 };

	assert_int_equal(rate_used(&w, 5 * S), 0);
	assert_int_equal(rate_wait_us(&w, 5 * S, 0), 0);
}

static void what_is_taken_counts_for_a_minute(void **state)
{
	for (int64_t at = 0; at < 4 * S; at += 333333) {
		struct rate_window w = { 0 };

		rate_add(&w, 1000 * S + at, 7);
		assert_int_equal(rate_used(&w, 1000 * S + at + 60 * S - 1), 7);
		assert_int_equal(rate_used(&w, 1000 * S + at + 62 * S), 0);
	}
}

/* Against every taking kept in a list. */
static void no_minute_has_more_than_the_limit(void **state)
{
	enum { N = 4000, LIMIT = 40 };
	static int64_t taken[N];
	struct rate_window w = { 0 };
	int64_t now = 77 * S;
	unsigned n = 0, from = 0;

	for (int i = 0; i < 20000 && n < N; i++) {
		now += rand_u64() % 5 ? (int64_t)(rand_u64() % 400000) : (int64_t)(rand_u64() % (70 * S)) * (rand_u64() % 40 == 0);
		if (rate_used(&w, now) >= LIMIT)
			continue;
		rate_add(&w, now, 1);
		taken[n++] = now;
		while (taken[from] <= now - 60 * S)
			from++;
		assert_in_range(n - from, 1, LIMIT);
	}
	assert_true(n > 500);
}

static void the_wait_is_long_enough_and_not_longer(void **state)
{
	struct rate_window w = { 0 };
	int64_t now = 100 * S, wait;

	for (int i = 0; i < 20; i++)
		rate_add(&w, now + i * S, 1);
	now += 30 * S;
	for (uint64_t most = 0; most < 20; most++) {
		struct rate_window copy = w;

		wait = rate_wait_us(&copy, now, most);
		assert_true(rate_used(&copy, now + wait - 1) > most);
		assert_true(rate_used(&copy, now + wait) <= most);
	}
}

static void what_was_not_needed_comes_back(void **state)
{
	struct rate_window w = { 0 };

	rate_add(&w, 10 * S, 100);
	rate_add(&w, 30 * S, 50);
	rate_give_back(&w, 31 * S, 10 * S, 60);
	assert_int_equal(rate_used(&w, 31 * S), 90);
	rate_give_back(&w, 31 * S, 10 * S, 1000);         /* no more than was taken then */
	assert_int_equal(rate_used(&w, 31 * S), 50);
	rate_add(&w, 80 * S, 5);
	rate_give_back(&w, 100 * S, 30 * S, 50);          /* it has run out: nobody else's is given back for it */
	assert_int_equal(rate_used(&w, 100 * S), 5);
	rate_give_back(&w, 100 * S, 500 * S, 5);
	assert_int_equal(rate_used(&w, 100 * S), 5);
}

static void absurd_numbers_do_no_harm(void **state)
{
	struct rate_window w = { 0 };

	rate_add(&w, 0, UINT64_MAX);
	rate_add(&w, 0, UINT64_MAX);
	assert_int_equal(rate_used(&w, 1 * S), UINT32_MAX);
	assert_true(rate_wait_us(&w, 1 * S, 0) > 60 * (int64_t)S);
	assert_int_equal(rate_used(&w, INT64_MAX / 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_used_at_first),
		cmocka_unit_test(what_is_taken_counts_for_a_minute),
		cmocka_unit_test(no_minute_has_more_than_the_limit),
		cmocka_unit_test(the_wait_is_long_enough_and_not_longer),
		cmocka_unit_test(what_was_not_needed_comes_back),
		cmocka_unit_test(absurd_numbers_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* rate_limit_test.c - exact with many threads, steady over time, settled afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "common/policy/rate_limit.h"

static const int64_t second = 1000000, start = 5000 * (int64_t)1000000;

static uint64_t take_all(struct rate_limit *l, int64_t now, uint64_t most)
{
	uint64_t n = 0;
	int64_t wait;

	while (n < most && rate_limit_take(l, now, 1, &wait))
		n++;
	return n;
}

static void no_limit_gives_everything(void **state)
{
	struct rate_limit l = { 0 };
	int64_t wait;

	assert_true(rate_limit_take(&l, start, UINT64_MAX, &wait));
	assert_int_equal(rate_limit_state(&l, start).limit, 0);
}

static void a_minute_gives_what_was_set(void **state)
{
	static const uint64_t limits[] = { 1, 3, 7, 60, 600, 1000, 12345 };

	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		struct rate_limit l = { 0 };
		uint64_t later = 0;

		rate_limit_set(&l, (double)limits[i]);
		assert_int_equal(rate_limit_state(&l, start).remaining, limits[i]);
		assert_int_equal(take_all(&l, start, UINT64_MAX), limits[i]);
		assert_int_equal(rate_limit_state(&l, start).remaining, 0);
		for (int s = 1; s <= 600; s++)
			later += take_all(&l, start + s * second, UINT64_MAX);
		assert_in_range(later, 10 * limits[i] - 1, 10 * limits[i]);
	}
}

static void the_wait_is_as_long_as_it_says(void **state)
{
	struct rate_limit l = { 0 };
	int64_t wait = 0, again;

	rate_limit_set(&l, 6);
	take_all(&l, start, 6);
	assert_false(rate_limit_take(&l, start, 1, &wait));
	assert_in_range(wait, 9900000, 10000001);
	assert_false(rate_limit_take(&l, start + wait - 20000, 1, &again));
	assert_true(rate_limit_take(&l, start + wait, 1, &again));
	assert_in_range(rate_limit_state(&l, start + wait).reset_us, 59 * second, 61 * second);
}

static void more_than_a_bucket_needs_a_full_one(void **state)
{
	struct rate_limit l = { 0 };
	int64_t wait = 0;

	rate_limit_set(&l, 1000);
	assert_true(rate_limit_take(&l, start, 1, &wait));
	assert_false(rate_limit_take(&l, start, 5000, &wait));
	assert_in_range(wait, 59000, 61000);
	assert_true(rate_limit_take(&l, start + wait, 5000, &wait));
	assert_false(rate_limit_take(&l, start + 230 * second, 1, &wait));      /* four minutes of debt */
	assert_true(rate_limit_take(&l, start + 242 * second, 1, &wait));
}

static void it_is_settled_afterwards(void **state)
{
	struct rate_limit l = { 0 };
	int64_t wait;

	rate_limit_set(&l, 1000);
	assert_true(rate_limit_take(&l, start, 600, &wait));
	rate_limit_settle(&l, start, -500);
	assert_in_range(rate_limit_state(&l, start).remaining, 899, 900);
	rate_limit_settle(&l, start, 1900);
	assert_int_equal(rate_limit_state(&l, start).remaining, 0);
	assert_false(rate_limit_take(&l, start + 59 * second, 1, &wait));
	assert_true(rate_limit_take(&l, start + 61 * second, 1, &wait));
}

static void absurd_numbers_do_no_harm(void **state)
{
	struct rate_limit l = { 0 };
	int64_t wait;

	rate_limit_set(&l, 1e-30);
	assert_true(rate_limit_take(&l, start, UINT64_MAX, &wait));
	assert_false(rate_limit_take(&l, start, UINT64_MAX, &wait));
	assert_true(wait > 0);
	rate_limit_settle(&l, start, INT64_MIN);
	rate_limit_set(&l, 1e18);
	assert_true(take_all(&l, start + second, 1000) == 1000);
}

enum { THREADS = 8, EACH = 20000, LIMIT = 50000 };
struct taker { pthread_t thread; struct rate_limit *l; uint64_t got; };

static void *run(void *arg)
{
	struct taker *t = arg;

	for (int i = 0; i < EACH; i++)
		t->got += take_all(t->l, start, 1);
	return NULL;
}

static void threads_together_take_exactly_the_limit(void **state)
{
	struct rate_limit l = { 0 };
	struct taker t[THREADS] = { 0 };
	uint64_t sum = 0;

	rate_limit_set(&l, LIMIT);
	for (int i = 0; i < THREADS; i++) {
		t[i].l = &l;
		assert_int_equal(pthread_create(&t[i].thread, NULL, run, &t[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i].thread, NULL);
		sum += t[i].got;
	}
	assert_int_equal(sum, LIMIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_limit_gives_everything), cmocka_unit_test(a_minute_gives_what_was_set),
		cmocka_unit_test(the_wait_is_as_long_as_it_says), cmocka_unit_test(more_than_a_bucket_needs_a_full_one),
		cmocka_unit_test(it_is_settled_afterwards), cmocka_unit_test(absurd_numbers_do_no_harm),
		cmocka_unit_test(threads_together_take_exactly_the_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

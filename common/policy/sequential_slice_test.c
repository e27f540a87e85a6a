/* sequential_slice_test.c - a slice of the proof by simulation (tests/proofs/experiments.c), with a fixed seed. The limits are set so that another seed
 * would break one of them by chance less than once in a million, while a test that is looked at too often or not at all fails them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/proofs/simulate.h"

static const uint64_t SEED = 2026;

/* Runs that were sure; their sizes in units[], those that were not last. */
static int sure_of(const struct trial *t, int runs, uint64_t *units)
{
	const struct sequential s = sequential_default();
	int sure = 0;

	for (int i = 0; i < runs; i++) {
		struct trial_end end = trial_run(t, &s, SEED * 1000000 + (uint64_t)i);

		sure += end.sure;
		units[i] = end.sure ? end.units : UINT64_MAX;
	}
	return sure;
}

/* At most 5 % of 400 are false alarms: 20, and 45 with five standard deviations of chance. Without correction for looking there are some 140. */
static void equal_arms_are_rarely_called_different(void **state)
{
	static const struct trial trials[] = {
		{ "success", SHAPE_RATE, { 0.6, 0.6 }, 0, 0.5, 2000 },
		{ "latency", SHAPE_LOG_NORMAL, { 900, 900 }, 0.5, 0.5, 2000 },
		{ "skewed, one in ten to the arm", SHAPE_RATE, { 0.95, 0.95 }, 0, 0.1, 2000 },
		{ "units that come back", SHAPE_RETURNING, { 0.5, 0.5 }, 0, 0.5, 2000 },
	};
	uint64_t units[400];

	for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
		assert_true(sure_of(&trials[i], 400, units) <= 45);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* 97 of 100 are found so far out; 80 is five standard deviations less. */
static void found(const struct trial *t, double fixed)
{
	uint64_t units[200];

	assert_true(sure_of(t, 200, units) >= 160);
	qsort(units, 200, sizeof *units, by_size);
	assert_true((double)units[100] / 2 <= 1.35 * fixed);
}

static void what_differs_is_found_soon(void **state)
{
	found(&(struct trial){ "success", SHAPE_RATE, { 0.6, 0.7 }, 0, 0.5, 1766 }, 353);
	found(&(struct trial){ "latency", SHAPE_LOG_NORMAL, { 900, 990 }, 0.5, 0.5, 2160 }, 432);
}

/* 97 of 100 wrong splits are found, and 0.07 of 100 right ones are called wrong. */
static void a_wrong_split_is_found_and_a_right_one_is_not(void **state)
{
	int wrong = 0, right = 0;

	for (uint64_t i = 0; i < 200; i++) {
		wrong += split_run(0.55, 3000, SEED * 1000000 + i) > 1;
		right += split_run(0.5, 3000, SEED * 2000000 + i) > 0;
	}
	assert_true(wrong >= 170);
	assert_true(right <= 4);
}

/* A guard that is worse by just its margin breaks in 5 % at most: 20 of 400, and 45 with chance. */
static void a_guard_breaks_when_it_should(void **state)
{
	static const struct trial edge = { "edge", SHAPE_RATE, { 0.6, 0.55 }, 0, 0.5, 2000 }, bad = { "bad", SHAPE_RATE, { 0.6, 0.3 }, 0, 0.5, 2000 };
	const struct sequential s = sequential_default();
	int false_ones = 0;

	for (uint64_t i = 0; i < 400; i++)
		false_ones += guard_run(&edge, &s, 0.05, SEED * 1000000 + i) > 0;
	assert_true(false_ones <= 45);
	for (uint64_t i = 0; i < 100; i++)
		assert_true(guard_run(&bad, &s, 0.05, SEED * 1000000 + i) > 0);
}

/* Late outcomes by themselves: 5 % of 200 are false alarms at most, 10, and 26 with chance; found are all, within 250 outcomes. */
static void a_guard_sees_what_is_new(void **state)
{
	static const struct trial equal = { "equal", SHAPE_RATE, { 0.9, 0.9 }, 0, 0.5, 3000 }, bad = { "bad", SHAPE_RATE, { 0.9, 0.3 }, 0, 0.5, 0 };
	const struct sequential s = sequential_default();
	int false_ones = 0, early = 0;

	for (uint64_t i = 0; i < 200; i++)
		false_ones += late_run(&equal, &equal, 0, &s, 0, SEED * 1000000 + i) > 0;
	assert_true(false_ones <= 26);
	for (uint64_t i = 0; i < 20; i++) {
		uint64_t at = late_run(&equal, &bad, 2000, &s, 0.05, SEED * 3000000 + i);

		early += at > 0 && at <= 2000;
		assert_true(at > 0 && at <= 2500);
	}
	assert_true(early <= 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_arms_are_rarely_called_different),
		cmocka_unit_test(what_differs_is_found_soon),
		cmocka_unit_test(a_wrong_split_is_found_and_a_right_one_is_not),
		cmocka_unit_test(a_guard_breaks_when_it_should),
		cmocka_unit_test(a_guard_sees_what_is_new),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* sequential_test.c - tallies, bounds and evidence against figures computed elsewhere, and at the edges: no outcome, one, all equal, 10^9. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/sequential.h"

static void near(double got, double expected, double within)
{
	if (!(fabs(got - expected) <= within))
		fail_msg("%.9g instead of %.9g", got, expected);
}

static struct tally rate(uint64_t successes, uint64_t n)
{
	double s = (double)successes;

	return (struct tally){ .n = n, .units = n, .sum = s, .sum_yy = s, .sum_yn = s, .sum_nn = (double)n };
}

static void a_tally_has_mean_and_spread(void **state)
{
	static const double values[] = { 2, 4, 4, 5, 1 };
	struct tally t = { 0 };

	for (int i = 0; i < 5; i++)
		assert_true(tally_add(&t, METRIC_RATING, values[i]));
	near(tally_mean(&t), 3.2, 1e-12);
	near(tally_sd(&t), 1.6431676725, 1e-9);                   /* of the sample */
	assert_int_equal(t.units, 5);
	assert_false(tally_add(&t, METRIC_RATING, NAN));
	assert_int_equal(t.n, 5);
	assert_true(tally_add(&t, METRIC_RATING, 99));
	near(t.sum, 21, 1e-12);                                   /* a rating is 5 at most */
}

static void scales_keep_values_in_range(void **state)
{
	for (int m = 0; m < METRIC_COUNT; m++) {
		static const double odd[] = { 0, -1, INFINITY, -INFINITY, 1e300, 5e-324 };

		for (int i = 0; i < 6; i++)
			assert_true(isfinite(metric_scale(m, odd[i])));
	}
	near(metric_unscale(METRIC_LATENCY, metric_scale(METRIC_LATENCY, 1234)), 1234, 1e-9);
	near(metric_unscale(METRIC_COST, metric_scale(METRIC_COST, 0)), 0, 0);
	near(metric_unscale(METRIC_RATING, metric_scale(METRIC_RATING, 4)), 4, 0);
}

static void outcomes_of_one_unit_count_as_one(void **state)
{
	struct tally once = { 0 }, often = { 0 };

	for (int i = 0; i < 100; i++) {
		struct unit_total u = { 0, 0 };

		tally_add(&once, METRIC_SUCCESS, i % 2);
		for (int k = 0; k < 10; k++)
			tally_add_of(&often, &u, METRIC_SUCCESS, i % 2);
	}
	assert_int_equal(often.n, 1000);
	assert_int_equal(often.units, 100);
	near(tally_variance_of_mean(&often, METRIC_LATENCY), tally_variance_of_mean(&once, METRIC_LATENCY), 1e-12);
}

static void tallies_merge_and_are_kept(void **state)
{
	struct tally a = { 0 }, b = { 0 }, all = { 0 }, back;
	uint8_t packed[TALLY_PACKED];

	for (int i = 1; i < 50; i++) {
		tally_add(i % 3 ? &a : &b, METRIC_LATENCY, i * 10);
		tally_add(&all, METRIC_LATENCY, i * 10);
	}
	tally_merge(&a, &b);
	near(tally_mean(&a), tally_mean(&all), 1e-12);
	near(tally_sd(&a), tally_sd(&all), 1e-12);
	tally_pack(&a, packed);
	assert_true(tally_unpack(&back, packed));
	assert_memory_equal(&back, &a, sizeof a);
	packed[23] = 0x7f, packed[22] = 0xf8;                     /* the sum is no number */
	back = b;
	assert_false(tally_unpack(&back, packed));
	assert_memory_equal(&back, &b, sizeof b);
}

/* Figures by a Python program that follows the formulas of the document, not this code. */
static void a_difference_has_its_bounds(void **state)
{
	const struct sequential s = sequential_default();
	const struct tally arm = rate(290, 400), champion = rate(240, 400);
	struct difference d;
	struct harm h;

	sequential_difference(&d, &s, METRIC_SUCCESS, &arm, &champion);
	assert_true(d.known && d.sure);
	near(d.effect, 0.125, 1e-12);
	near(d.sd, 0.03342498917746143, 1e-9);
	near(d.evidence, 166.52849911684524, 1e-3);
	near(d.low, 0.023548172345340096, 1e-9);
	near(d.high, 0.2264518276546599, 1e-9);
	near(d.p, 1 / d.evidence, 1e-12);
	sequential_harm(&h, &s, METRIC_SUCCESS, &arm, &champion);
	near(h.at_least, -0.21752011017092893, 1e-9);
	near(h.at_most, -0.03247988982907106, 1e-9);
	sequential_harm(&h, &s, METRIC_ERROR, &arm, &champion);   /* more errors are worse */
	near(h.effect, 0.125, 1e-12);
}

static void sure_is_when_the_bounds_leave_zero_out(void **state)
{
	const struct sequential s = sequential_default();
	const struct tally champion = rate(300, 500);

	for (uint64_t k = 200; k <= 450; k++) {
		const struct tally arm = rate(k, 500);
		struct difference d;

		sequential_difference(&d, &s, METRIC_SUCCESS, &arm, &champion);
		assert_int_equal(d.sure, d.low > 0 || d.high < 0);
		assert_true((sequential_left(&s, METRIC_SUCCESS, &arm, &champion) == 0) == d.sure);
	}
}

static void nothing_is_said_of_few(void **state)
{
	const struct sequential s = sequential_default();
	const struct tally few = rate(49, 49), many = rate(0, 1000), none = { 0 };
	struct difference d;
	struct harm h;

	sequential_difference(&d, &s, METRIC_SUCCESS, &few, &many);
	assert_false(d.known || d.sure);
	assert_true(d.low == -INFINITY && d.high == INFINITY && d.p == 1);
	sequential_harm(&h, &s, METRIC_SUCCESS, &none, &none);
	assert_false(h.known);
	assert_true(isinf(sequential_left(&s, METRIC_SUCCESS, &none, &many)));
	near(tally_mean(&none), 0, 0);
	near(tally_sd(&none), 0, 0);
}

static void equal_outcomes_are_no_trouble(void **state)
{
	const struct sequential s = sequential_default();
	struct tally free = { 0 }, also = { 0 }, dear = { 0 };
	struct difference d;
	struct harm h;

	for (int i = 0; i < 60; i++) {
		tally_add(&free, METRIC_COST, 0);
		tally_add(&also, METRIC_COST, 0);
		tally_add(&dear, METRIC_COST, 100);
	}
	sequential_difference(&d, &s, METRIC_COST, &free, &also);
	assert_true(d.known && !d.sure && d.low == 0 && d.high == 0);
	sequential_harm(&h, &s, METRIC_COST, &also, &free);
	assert_true(h.known && h.at_most == 0);
	sequential_difference(&d, &s, METRIC_COST, &dear, &free);
	assert_true(d.sure && isfinite(d.evidence) && d.p >= 0);
}

static void a_thousand_million_outcomes_are_no_trouble(void **state)
{
	const struct sequential s = sequential_default();
	struct tally a = { 0 }, b = { 0 };
	struct difference d;
	double best[2];

	for (int i = 0; i < 1000; i++) {
		tally_add(&a, METRIC_LATENCY, 800 + i);
		tally_add(&b, METRIC_LATENCY, 801 + i);
	}
	for (int i = 0; i < 20; i++) {                            /* doubled 20 times: 1,048,576,000 */
		struct tally again = a, more = b;

		tally_merge(&a, &again);
		tally_merge(&b, &more);
	}
	sequential_difference(&d, &s, METRIC_LATENCY, &b, &a);
	assert_true(d.sure && isfinite(d.evidence) && d.low > 0 && d.high < 0.002);
	near(tally_sd(&a), 0.2304, 1e-4);
	a = rate(600000000, 1000000000), b = rate(600100000, 1000000000);
	sequential_best(METRIC_SUCCESS, (const struct tally *[]){ &a, &b }, 2, best);
	near(best[1], 0.999998, 1e-5);                            /* 4.56 standard deviations */
	near(log(sequential_split((uint64_t[]){ 500000000, 500000000 }, (double[]){ 1, 1 }, 2)), -7.71, 0.01);
}

/* 90 successes in a row are no news of a rate of .95, however small their own spread is. */
static void a_few_that_are_alike_prove_nothing(void **state)
{
	const struct sequential s = sequential_default();
	const struct tally arm = rate(90, 90), champion = rate(760, 800), worse = rate(640, 800);
	struct difference d;

	sequential_difference(&d, &s, METRIC_SUCCESS, &arm, &champion);
	assert_true(d.known && !d.sure);
	sequential_difference(&d, &s, METRIC_SUCCESS, &arm, &worse);
	assert_true(d.sure);
}

static void what_is_left_fits_what_comes(void **state)
{
	const struct sequential s = sequential_default();
	const struct tally arm = rate(130, 200), champion = rate(120, 200);
	double left = sequential_left(&s, METRIC_SUCCESS, &arm, &champion);
	double k = (200 + left) / 200;
	const struct tally later = rate((uint64_t)lround(130 * k), (uint64_t)lround(200 * k)), last = rate((uint64_t)lround(120 * k), (uint64_t)lround(200 * k));
	struct difference d;

	sequential_difference(&d, &s, METRIC_SUCCESS, &later, &last);
	near(d.evidence, 20, 1.5);
	assert_true(isinf(sequential_left(&s, METRIC_SUCCESS, &champion, &champion)));
}

static void sizes_are_those_of_the_textbook(void **state)
{
	const double sd6 = sqrt(0.24), sd7 = sqrt(0.21), sd65 = sqrt(0.2275);
	const struct sequential s = sequential_default();

	near(sequential_fixed_units(0.05, 0.8, 0.1, sd7, sd6), 353.2, 0.1);
	near(sequential_fixed_units(0.05, 0.8, 0.05, sd65, sd6), 1467.8, 0.5);
	near(sequential_fixed_units(0.05, 0.8, log(1.1), 0.5, 0.5), 432.0, 0.1);
	assert_true(isinf(sequential_fixed_units(0.05, 0.8, 0, 1, 1)));
	near(sequential_median_units(&s, 0.1, sd7, sd6), 415, 5);
	assert_true(isinf(sequential_median_units(&s, 0, 1, 1)));
}

static void a_wrong_split_is_seen(void **state)
{
	static const double even[] = { 1, 1 }, ten[] = { 9, 1 }, none[] = { 1, 0 };

	near(log(sequential_split((uint64_t[]){ 1650, 1350 }, even, 2)), 12.700120777528355, 1e-6);
	near(log(sequential_split((uint64_t[]){ 1500, 1500 }, even, 2)), -1.3874662309135601, 1e-6);
	near(sequential_split((uint64_t[]){ 0, 0 }, even, 2), 1, 1e-12);
	assert_true(sequential_split((uint64_t[]){ 9000, 1000 }, ten, 2) < 1);
	assert_true(sequential_split((uint64_t[]){ 8000, 2000 }, ten, 2) > SPLIT_ALARM);
	assert_true(sequential_split((uint64_t[]){ 8000, 1 }, none, 2) > SPLIT_ALARM);
	near(sequential_split((uint64_t[]){ 8000, 0 }, none, 2), 1, 1e-6);
}

static void best_of(enum metric m, struct tally a, struct tally b, double expected_b)
{
	double best[2];

	sequential_best(m, (const struct tally *[]){ &a, &b }, 2, best);
	near(best[1], expected_b, 1e-3);
	near(best[0] + best[1], 1, 1e-9);
}

/* Against the sum of Beta functions that is exact for two arms (E. Miller, "Formulas for Bayesian A/B testing"). */
static void the_chance_to_be_best(void **state)
{
	const struct tally none = { 0 }, *three[] = { &none, &none, &none };
	double best[3];

	best_of(METRIC_SUCCESS, rate(60, 100), rate(70, 100), 0.9298493590723598);
	best_of(METRIC_SUCCESS, rate(0, 0), rate(2, 2), 0.75);
	best_of(METRIC_SUCCESS, rate(0, 10), rate(2, 10), 0.8928571);
	best_of(METRIC_ERROR, rate(0, 10), rate(2, 10), 1 - 0.8928571);
	best_of(METRIC_LATENCY, none, none, 0.5);
	best_of(METRIC_SUCCESS, rate(6, 10), rate(600000, 1000000), 0.532774);
	sequential_best(METRIC_RATING, three, 3, best);
	near(best[2], 1.0 / 3, 1e-3);
}

static void metrics_have_names(void **state)
{
	enum metric m;

	assert_true(metric_parse(STR("Latency"), &m));
	assert_int_equal(m, METRIC_LATENCY);
	assert_string_equal(metric_name(METRIC_COST), "cost");
	assert_true(metric_is_ratio(METRIC_COST) && !metric_is_ratio(METRIC_ERROR));
	assert_false(metric_parse(STR("speed"), &m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tally_has_mean_and_spread),
		cmocka_unit_test(scales_keep_values_in_range),
		cmocka_unit_test(outcomes_of_one_unit_count_as_one),
		cmocka_unit_test(tallies_merge_and_are_kept),
		cmocka_unit_test(a_difference_has_its_bounds),
		cmocka_unit_test(sure_is_when_the_bounds_leave_zero_out),
		cmocka_unit_test(nothing_is_said_of_few),
		cmocka_unit_test(equal_outcomes_are_no_trouble),
		cmocka_unit_test(a_thousand_million_outcomes_are_no_trouble),
		cmocka_unit_test(a_few_that_are_alike_prove_nothing),
		cmocka_unit_test(what_is_left_fits_what_comes),
		cmocka_unit_test(sizes_are_those_of_the_textbook),
		cmocka_unit_test(a_wrong_split_is_seen),
		cmocka_unit_test(the_chance_to_be_best),
		cmocka_unit_test(metrics_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* experiment_verdict_test.c - each verdict from outcomes that call for it, its words, and how often it is wrong of equal arms. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/policy/experiment_verdict.h"
#include "tests/proofs/simulate.h"

struct bench { struct tally by[3][METRIC_COUNT]; struct arm_outcomes arms[3]; };

static void bench_set(struct bench *b)
{
	static const char *const names[] = { "a", "b", "c" };

	*b = (struct bench){ 0 };
	for (int i = 0; i < 3; i++)
		b->arms[i] = (struct arm_outcomes){ .name = str_of(names[i]), .weight = 1, .by = b->by[i] };
}

/* So many outcomes of a unit each, of which so many are 1. */
static void outcomes(struct bench *b, int arm, enum metric m, int ones, int n)
{
	for (int i = 0; i < n; i++)
		tally_add(&b->by[arm][m], m, i < ones);
	b->arms[arm].units = b->by[arm][m].units;
}

static void latencies(struct bench *b, int arm, double ms, int n)
{
	for (int i = 0; i < n; i++)
		tally_add(&b->by[arm][METRIC_LATENCY], METRIC_LATENCY, ms * (i % 2 ? 1.5 : 1 / 1.5));
}

static void says(const struct bench *b, const struct verdict_rules *r, int n_arms, enum verdict_kind kind, int arm, const char *words)
{
	struct verdict v;

	verdict_of(&v, r, b->arms, n_arms, 0);
	if (v.kind != kind || v.arm != arm || !strstr(v.words, words))
		fail_msg("%s of %d: %s", verdict_name(v.kind), v.arm, v.words);
}

static void waits_until_it_is_sure(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	says(&b, &r, 2, VERDICT_WAIT, -1, "no difference is sure yet");
	outcomes(&b, 0, METRIC_SUCCESS, 120, 200);
	outcomes(&b, 1, METRIC_SUCCESS, 140, 200);
	says(&b, &r, 2, VERDICT_WAIT, -1, "more units of an arm");
	r.over = true;
	says(&b, &r, 2, VERDICT_EVEN, 0, "no sure difference in success by its end");
	r.over = false;
	r.max_units = 201;
	says(&b, &r, 2, VERDICT_WAIT, -1, "");
	r.max_units = 200;
	says(&b, &r, 2, VERDICT_EVEN, 0, "");
}

static void a_sure_winner_is_promoted_once_its_guards_are_kept(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	outcomes(&b, 0, METRIC_SUCCESS, 300, 500);
	outcomes(&b, 1, METRIC_SUCCESS, 380, 500);
	says(&b, &r, 2, VERDICT_PROMOTE, 1, "arm 'b' has success of 76.0 % against 60.0 % of 'a', from 500 and 500 units: surely better");
	r.guards[METRIC_LATENCY] = (struct guard){ true, guard_margin(METRIC_LATENCY, 0.2) };
	says(&b, &r, 2, VERDICT_WAIT, 1, "keeps the guard latency is not sure yet");
	latencies(&b, 0, 900, 500);
	latencies(&b, 1, 910, 500);
	says(&b, &r, 2, VERDICT_PROMOTE, 1, "surely better");
	r.may_promote = false;
	says(&b, &r, 2, VERDICT_WAIT, 1, "surely better");
	r.over = true;
	says(&b, &r, 2, VERDICT_EVEN, 0, "surely better");
}

static void a_broken_guard_comes_before_everything(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	outcomes(&b, 0, METRIC_SUCCESS, 300, 500);
	outcomes(&b, 1, METRIC_SUCCESS, 450, 500);
	latencies(&b, 0, 900, 500);
	latencies(&b, 1, 1400, 500);
	r.guards[METRIC_LATENCY] = (struct guard){ true, guard_margin(METRIC_LATENCY, 0.2) };
	says(&b, &r, 2, VERDICT_ROLLBACK, 1, "the guard latency broke: arm 'b' has latency of 1400 ms against 900 ms of 'a', from 500 and 500 units; worse by 55.6 %");
	assert_true(verdict_guard_breaks(&r, b.arms, 2, 0, 1, METRIC_LATENCY));
	assert_false(verdict_guard_breaks(&r, b.arms, 2, 0, 0, METRIC_LATENCY));
	assert_false(verdict_guard_breaks(&r, b.arms, 2, 0, 1, METRIC_SUCCESS));
	b.arms[1].units = 5000;
	says(&b, &r, 2, VERDICT_ROLLBACK, 1, "20.0 % is allowed");
}

static void slightly_worse_is_within_its_margin(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	latencies(&b, 0, 900, 5000);
	latencies(&b, 1, 990, 5000);
	r.guards[METRIC_LATENCY] = (struct guard){ true, guard_margin(METRIC_LATENCY, 0.2) };
	says(&b, &r, 2, VERDICT_WAIT, -1, "");
}

static void a_wrong_split_ends_all_comparing(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	outcomes(&b, 0, METRIC_SUCCESS, 300, 500);
	outcomes(&b, 1, METRIC_SUCCESS, 380, 500);
	b.arms[0].units = 800;
	says(&b, &r, 2, VERDICT_SPLIT, 1, "proportion of the weights");
}

static void the_champion_stays_when_all_are_worse(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	outcomes(&b, 0, METRIC_SUCCESS, 400, 500);
	outcomes(&b, 1, METRIC_SUCCESS, 300, 500);
	outcomes(&b, 2, METRIC_SUCCESS, 390, 500);
	says(&b, &r, 2, VERDICT_KEEP, 0, "no arm is better than 'a'");
	says(&b, &r, 3, VERDICT_WAIT, -1, "");
}

static void the_best_of_several_wins(void **state)
{
	struct verdict_rules r = verdict_rules_default();
	struct bench b;

	bench_set(&b);
	r.primary = METRIC_ERROR;                                 /* of which less is better */
	outcomes(&b, 0, METRIC_ERROR, 200, 500);
	outcomes(&b, 1, METRIC_ERROR, 120, 500);
	outcomes(&b, 2, METRIC_ERROR, 80, 500);
	says(&b, &r, 3, VERDICT_PROMOTE, 2, "arm 'c' has error of 16.0 %");
}

/* What decides is wrong of 5 %, guards of another 5 %: of 200 experiments 20, and 42 with five standard deviations of chance. */
static void equal_arms_seldom_get_a_verdict(void **state)
{
	int said = 0;

	for (uint64_t run = 0; run < 200; run++)
		said += verdict_run(600, 2026000000 + run) != VERDICT_WAIT;
	assert_true(said <= 42);
}

static void the_composite_is_on_comparable_scales(void **state)
{
	struct composite c;
	struct bench b;

	bench_set(&b);
	composite_of(&c, b.by[1], b.by[0]);
	assert_true(c.score == 0 && c.known == 0);
	outcomes(&b, 0, METRIC_SUCCESS, 250, 500);
	outcomes(&b, 1, METRIC_SUCCESS, 300, 500);
	composite_of(&c, b.by[1], b.by[0]);
	assert_true(fabs(c.score - 0.2010) < 1e-3 && fabs(c.known - 0.4) < 1e-12);        /* 0.1 of 0.4977 */
	latencies(&b, 0, 900, 500);
	latencies(&b, 1, 90000, 500);                             /* a hundred times as slow */
	composite_of(&c, b.by[1], b.by[0]);
	assert_true(c.part[METRIC_LATENCY] < -1.9 && c.part[METRIC_LATENCY] >= -3);
	assert_true(c.score < 0);
	composite_of(&c, b.by[0], b.by[0]);
	assert_true(c.score == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_until_it_is_sure),
		cmocka_unit_test(a_sure_winner_is_promoted_once_its_guards_are_kept),
		cmocka_unit_test(a_broken_guard_comes_before_everything),
		cmocka_unit_test(slightly_worse_is_within_its_margin),
		cmocka_unit_test(a_wrong_split_ends_all_comparing),
		cmocka_unit_test(the_champion_stays_when_all_are_worse),
		cmocka_unit_test(the_best_of_several_wins),
		cmocka_unit_test(equal_arms_seldom_get_a_verdict),
		cmocka_unit_test(the_composite_is_on_comparable_scales),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

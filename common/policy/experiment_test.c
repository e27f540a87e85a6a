/* experiment_test.c - assignment: uniform, sticky, apart by namespace, and refused when it cannot be right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/policy/experiment.h"

static struct experiment prepared(const char *id, const char *space)
{
	struct experiment e = { .id = str_of(id), .space = str_of(space), .traffic = TRAFFIC_ALL, .n_arms = 2,
				.arms = { { .name = STR("a"), .weight = 1 }, { .name = STR("b"), .weight = 1 } } };
	struct why why = { 0 };

	assert_int_equal(experiment_prepare(&e, &why), ERR_OK);
	return e;
}

static struct str user(int i)
{
	static char name[32];

	return str_n(name, (size_t)snprintf(name, sizeof name, "user-%d", i));
}

/* Σ (seen - expected)² / expected over that many cells that are as likely. */
static double chi_square(const int *seen, int cells, int n)
{
	double sum = 0, expected = (double)n / cells;

	for (int i = 0; i < cells; i++)
		sum += (seen[i] - expected) * (seen[i] - expected) / expected;
	return sum;
}

static void siphash_is_the_published_one(void **state)
{
	const struct sip_key key = { 0x0706050403020100, 0x0f0e0d0c0b0a0908 };
	char text[15];

	for (int i = 0; i < 15; i++)
		text[i] = (char)i;
	assert_true(siphash(key, str_n(text, 15)) == 0xa129ca6149be45e5);
	assert_true(siphash(key, str_n(NULL, 0)) == 0x726fdb47dd0e0e31);
	assert_true(siphash(key, str_n(text, 8)) == 0x93f5f5799a932462);
}

/* Found once, written down: a version or a machine that assigns otherwise breaks every running experiment. */
static void an_assignment_never_changes(void **state)
{
	struct experiment e = prepared("exp-1", "");
	static const char expected[] = "a--b---a----bbaabbaa--b-bab-babbbab--b--";
	char got[41] = "";

	e.traffic = 5000;
	for (int i = 0; i < 40; i++)
		got[i] = "-ab"[experiment_arm_of(&e, user(i)) + 1];
	assert_string_equal(got, expected);
}

static void arms_and_slots_are_uniform(void **state)
{
	enum { USERS = 200000 };
	struct experiment e = prepared("uniform", "");
	int arms[5] = { 0 }, slots[100] = { 0 };

	e.n_arms = 5;
	for (int i = 0; i < 5; i++)
		e.arms[i].weight = 7;
	for (int i = 0; i < USERS; i++) {
		arms[experiment_arm_of(&e, user(i))]++;
		slots[(siphash(e.slot_key, user(i)) >> 32) * 100 >> 32]++;
	}
	assert_true(chi_square(arms, 5, USERS) < 18.47);          /* p = 0.001 of 4 degrees of freedom */
	assert_true(chi_square(slots, 100, USERS) < 148.2);       /* of 99 */
}

static void weights_and_traffic_are_met(void **state)
{
	enum { USERS = 100000 };
	struct experiment e = prepared("weights", "");
	int in = 0, b = 0;

	e.traffic = 1000;
	e.arms[0].weight = 9;
	for (int i = 0; i < USERS; i++) {
		int arm = experiment_arm_of(&e, user(i));

		in += arm >= 0;
		b += arm == 1;
	}
	assert_in_range(in, 9600, 10400);                         /* 10,000 ± 4 standard deviations */
	assert_in_range(b * 10, in - 1200, in + 1200);
}

static void experiments_know_nothing_of_each_other(void **state)
{
	enum { USERS = 100000 };
	struct experiment e = prepared("one", ""), f = prepared("two", "");
	int seen[4] = { 0 };

	for (int i = 0; i < USERS; i++)
		seen[experiment_arm_of(&e, user(i)) * 2 + experiment_arm_of(&f, user(i))]++;
	assert_true(chi_square(seen, 4, USERS) < 16.27);
}

static void more_traffic_moves_nobody(void **state)
{
	struct experiment few = prepared("ramp", ""), many = few;

	few.traffic = 1000;
	many.traffic = 5000;
	for (int i = 0; i < 10000; i++)
		if (experiment_arm_of(&few, user(i)) >= 0)
			assert_int_equal(experiment_arm_of(&few, user(i)), experiment_arm_of(&many, user(i)));
}

static void claim(struct experiment *e, uint16_t slots, const struct experiment *others, uint32_t n, enum err expected)
{
	struct why why = { 0 };

	assert_int_equal(experiment_claim(e, slots, &(struct experiment_view){ others, n }, &why), expected);
	assert_true(expected == ERR_OK || why.text[0]);
}

static void a_namespace_keeps_experiments_apart(void **state)
{
	struct experiment e[4] = { prepared("one", "chat"), prepared("two", "chat"), prepared("three", "chat"), prepared("elsewhere", "code") };
	int in = 0;

	claim(&e[3], 9000, e, 0, ERR_OK);
	claim(&e[0], 3000, &e[3], 1, ERR_OK);
	claim(&e[1], 5000, e, 1, ERR_OK);
	claim(&e[2], 2001, e, 2, ERR_CONFLICT);
	claim(&e[2], 2000, e, 2, ERR_OK);
	assert_int_equal(e[2].first_slot, 8000);
	for (int i = 0; i < 20000; i++) {
		int n = 0;

		for (int k = 0; k < 3; k++)
			n += experiment_arm_of(&e[k], user(i)) >= 0;
		assert_int_equal(n, 1);                           /* all slots are taken, so each user is in exactly one */
		in += experiment_arm_of(&e[0], user(i)) >= 0;
	}
	assert_in_range(in, 5700, 6300);
}

static void a_gap_in_a_namespace_is_used(void **state)
{
	struct experiment e[3] = { prepared("one", "chat"), prepared("two", "chat"), prepared("three", "chat") };

	e[0].end_slot = 1000;
	e[1].first_slot = 1500;
	e[1].end_slot = 9800;
	claim(&e[2], 500, e, 2, ERR_OK);
	assert_int_equal(e[2].first_slot, 1000);
	claim(&e[2], 501, e, 2, ERR_CONFLICT);
	e[2].unit = UNIT_SESSION;
	claim(&e[2], 100, e, 2, ERR_CONFLICT);                    /* a session and a user are not kept apart */
	claim(&e[2], 0, e, 2, ERR_INVALID);
}

static void the_filter_decides_first(void **state)
{
	struct experiment e[2] = { prepared("sql", ""), prepared("rest", "") };
	const struct experiment_view view = { e, 2 };
	struct experiment_request r = { .task = STR("sql"), .tenant = STR("t1"), .unit = { STR("u1"), STR("s1"), STR("") } };

	e[0].task = STR("SQL");
	e[1].tenant = STR("t2");
	assert_int_equal(experiment_assign(&view, &r).experiment, 0);
	assert_true(experiment_assign(&view, &r).arm >= 0);
	r.task = STR("MATH");
	assert_int_equal(experiment_assign(&view, &r).experiment, -1);
	assert_int_equal(experiment_assign(&view, &r).arm, -1);
	r.tenant = STR("t2");
	assert_int_equal(experiment_assign(&view, &r).experiment, 1);
	e[1].unit = UNIT_CONVERSATION;                            /* which this request has not */
	assert_int_equal(experiment_assign(&view, &r).experiment, -1);
}

static void refused(struct experiment e, const char *field)
{
	struct why why = { 0 };

	assert_int_equal(experiment_prepare(&e, &why), ERR_INVALID);
	assert_string_equal(why.field, field);
}

static void what_cannot_be_assigned_is_refused(void **state)
{
	const struct experiment good = prepared("good", "");
	struct experiment e = good;

	e.id = STR("");
	refused(e, "id");
	e = good, e.n_arms = 1;
	refused(e, "arms");
	e = good, e.champion = 2;
	refused(e, "champion");
	e = good, e.arms[0].weight = e.arms[1].weight = 0;
	refused(e, "arms");
	e = good, e.arms[0].weight = e.arms[1].weight = UINT32_MAX;
	refused(e, "arms");
	e = good, e.traffic = TRAFFIC_ALL + 1;
	refused(e, "traffic");
	e = good, e.first_slot = 5, e.end_slot = 5;
	refused(e, "namespace");
}

static void an_arm_without_weight_gets_nobody(void **state)
{
	struct experiment e = prepared("weights", "");

	e.arms[0].weight = 0;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(experiment_arm_of(&e, user(i)), 1);
}

static void a_shadow_is_asked_beside_the_champion(void **state)
{
	struct experiment e = prepared("exp-1", "");
	struct why why = { 0 };
	int seen[3] = { 0 };

	e.arms[2] = (struct experiment_arm){ .name = STR("c"), .weight = 3 };
	e.n_arms = 3;
	e.traffic = 5000;
	assert_int_equal(experiment_prepare(&e, &why), ERR_OK);
	assert_int_equal(experiment_shadow_of(&e, user(1)), -1);          /* it is none of shadows */
	e.shadow = true;
	for (int i = 0; i < 4000; i++) {
		assert_in_range(experiment_arm_of(&e, user(i)) + 1, 0, 1);
		seen[experiment_shadow_of(&e, user(i))]++;
	}
	assert_true(seen[0] == 0 && seen[1] > 850 && seen[1] < 1150 && seen[1] + seen[2] == 4000);
	e.arms[1].weight = e.arms[2].weight = 0;
	assert_int_equal(experiment_shadow_of(&e, user(1)), -1);
}

static void units_have_names(void **state)
{
	enum experiment_unit u;

	assert_true(experiment_unit_parse(STR("Session"), &u));
	assert_int_equal(u, UNIT_SESSION);
	assert_string_equal(experiment_unit_name(UNIT_CONVERSATION), "conversation");
	assert_false(experiment_unit_parse(STR("request"), &u));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(siphash_is_the_published_one),
		cmocka_unit_test(an_assignment_never_changes),
		cmocka_unit_test(arms_and_slots_are_uniform),
		cmocka_unit_test(weights_and_traffic_are_met),
		cmocka_unit_test(experiments_know_nothing_of_each_other),
		cmocka_unit_test(more_traffic_moves_nobody),
		cmocka_unit_test(a_namespace_keeps_experiments_apart),
		cmocka_unit_test(a_gap_in_a_namespace_is_used),
		cmocka_unit_test(the_filter_decides_first),
		cmocka_unit_test(what_cannot_be_assigned_is_refused),
		cmocka_unit_test(an_arm_without_weight_gets_nobody),
		cmocka_unit_test(a_shadow_is_asked_beside_the_champion),
		cmocka_unit_test(units_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

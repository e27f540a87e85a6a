/* slot_bank_test.c - two that count together, as a program and its successor do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/gateway/slot_bank.h"

static struct slot_row *row(struct slot_bank *b) { return slot_bank_row(b, STR("backend"), STR("model")); }

static void each_sees_what_the_other_counts(void **state)
{
	struct slot_bank *a = slot_bank_new(-1), *b;

	assert_non_null(a);
	assert_true(slot_bank_alone(a));
	b = slot_bank_new(dup(slot_bank_fd(a)));
	assert_non_null(b);
	assert_int_not_equal(slot_bank_mine(a), slot_bank_mine(b));
	assert_false(slot_bank_alone(a));
	assert_false(slot_bank_alone(b));
	atomic_fetch_add(&row(a)->in_use[slot_bank_mine(a)], 2);
	assert_int_equal(slot_row_others(row(b), slot_bank_mine(b)), 2);
	assert_int_equal(slot_row_others(row(a), slot_bank_mine(a)), 0);
	assert_int_equal(slot_row_others(slot_bank_row(b, STR("backend"), STR("another")), slot_bank_mine(b)), 0);
	slot_bank_free(b);
	assert_true(slot_bank_alone(a));
	slot_bank_free(a);
}

static void what_a_dead_one_counted_is_taken_back(void **state)
{
	struct slot_bank *a = slot_bank_new(-1), *b = slot_bank_new(dup(slot_bank_fd(a)));

	atomic_fetch_add(&row(a)->in_use[slot_bank_mine(a)], 3);
	slot_bank_free(a);
	assert_int_equal(slot_row_others(row(b), slot_bank_mine(b)), 3);      /* until somebody looks */
	assert_true(slot_bank_alone(b));
	assert_int_equal(slot_row_others(row(b), slot_bank_mine(b)), 0);
	slot_bank_free(b);
}

static void there_are_so_many_and_no_more(void **state)
{
	struct slot_bank *all[SLOT_BANKS] = { slot_bank_new(-1) };
	int fd = slot_bank_fd(all[0]);

	for (unsigned i = 1; i < SLOT_BANKS; i++)
		assert_non_null(all[i] = slot_bank_new(dup(fd)));
	assert_null(slot_bank_new(dup(fd)));
	atomic_fetch_add(&row(all[3])->in_use[slot_bank_mine(all[3])], 1);
	slot_bank_free(all[3]);
	assert_non_null(all[3] = slot_bank_new(dup(fd)));
	assert_int_equal(atomic_load(&row(all[3])->in_use[slot_bank_mine(all[3])]), 0);
	for (unsigned i = 0; i < SLOT_BANKS; i++)
		slot_bank_free(all[i]);
}

static void what_is_no_bank_is_refused(void **state)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_null(slot_bank_new(ends[0]));
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_sees_what_the_other_counts), cmocka_unit_test(what_a_dead_one_counted_is_taken_back),
		cmocka_unit_test(there_are_so_many_and_no_more), cmocka_unit_test(what_is_no_bank_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* breaker_test.c - the states of a breaker, with the clock in hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/breaker.h"

static const struct breaker_opts opts = { .failures = 5, .open_us = 30000000, .max_open_us = 300000000, .refused_open_us = 1000000 };

static void fail_times(struct breaker *b, int n, int64_t now)
{
	for (int i = 0; i < n; i++)
		breaker_failure(b, &opts, now, false, "test");
}

static void opens_after_failures_in_a_row(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 4, 0);
	breaker_success(&b, 0);
	fail_times(&b, 4, 0);
	assert_true(breaker_allow(&b, &opts, 0));
	assert_true(breaker_failure(&b, &opts, 0, false, "test"));
	assert_false(breaker_allow(&b, &opts, 29999999));
	assert_true(breaker_is_open(&b, 1));
}

static void one_probe_then_two_successes_close(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(breaker_allow(&b, &opts, 30000000));
	assert_false(breaker_allow(&b, &opts, 30000000));
	assert_true(breaker_is_open(&b, 30000000));
	assert_false(breaker_success(&b, 30000001));
	assert_true(breaker_allow(&b, &opts, 30000002));
	assert_true(breaker_success(&b, 30000003));
	assert_int_equal(breaker_state(&b, 30000004), BREAKER_CLOSED);
}

static void a_failed_probe_doubles_the_rest(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(breaker_allow(&b, &opts, 30000000));
	breaker_failure(&b, &opts, 30000000, false, "test");
	assert_false(breaker_allow(&b, &opts, 89999999));
	assert_true(breaker_allow(&b, &opts, 90000000));
}

static void refused_connections_are_probed_soon(void **state)
{
	struct breaker b;

	breaker_init(&b);
	for (int i = 0; i < 5; i++)
		breaker_failure(&b, &opts, 0, true, "refused");
	assert_true(breaker_allow(&b, &opts, 1000000));
}

static void a_cancelled_probe_is_given_back(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(breaker_allow(&b, &opts, 30000000));
	breaker_neutral(&b);
	assert_true(breaker_allow(&b, &opts, 30000001));
}

static void half_of_many_calls_opens_it(void **state)
{
	struct breaker b;
	bool opened = false;

	breaker_init(&b);
	for (int i = 0; i < 30 && !opened; i++) {
		opened = breaker_failure(&b, &opts, i, false, "test");
		breaker_success(&b, i);
	}
	assert_true(opened);
}

static void retry_after_pauses_without_opening(void **state)
{
	struct breaker b;

	breaker_init(&b);
	breaker_pause(&b, 5000000);
	assert_false(breaker_allow(&b, &opts, 4999999));
	assert_int_equal(breaker_retry_us(&b, 4000000), 1000000);
	assert_true(breaker_allow(&b, &opts, 5000000));
	assert_int_equal(breaker_state(&b, 5000000), BREAKER_CLOSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_after_failures_in_a_row), cmocka_unit_test(one_probe_then_two_successes_close),
		cmocka_unit_test(a_failed_probe_doubles_the_rest), cmocka_unit_test(refused_connections_are_probed_soon),
		cmocka_unit_test(a_cancelled_probe_is_given_back), cmocka_unit_test(half_of_many_calls_opens_it),
		cmocka_unit_test(retry_after_pauses_without_opening),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

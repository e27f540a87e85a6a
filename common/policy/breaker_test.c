/* breaker_test.c - the states of a breaker, with the clock in hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/breaker.h"

static const struct breaker_opts opts = { .failures = 5, .open_us = 30000000, .max_open_us = 300000000, .refused_open_us = 1000000 };

/* The ticket of the last call that was let through. */
static uint32_t probe;

static bool allow(struct breaker *b, int64_t now)
{
	uint32_t got;

	if (!breaker_allow(b, &opts, now, &got))
		return false;
	probe = got;
	return true;
}

static void fail_times(struct breaker *b, int n, int64_t now)
{
	for (int i = 0; i < n; i++)
		breaker_failure(b, &opts, now, false, "test", 0);
}

static void opens_after_failures_in_a_row(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 4, 0);
	breaker_success(&b, 0, 0);
	fail_times(&b, 4, 0);
	assert_true(allow(&b, 0));
	assert_true(breaker_failure(&b, &opts, 0, false, "test", probe));
	assert_false(allow(&b, 29999999));
	assert_true(breaker_is_open(&b, 1));
}

static void one_probe_then_two_successes_close(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(allow(&b, 30000000));
	assert_false(allow(&b, 30000000));
	assert_true(breaker_is_open(&b, 30000000));
	assert_false(breaker_success(&b, 30000001, probe));
	assert_true(allow(&b, 30000002));
	assert_true(breaker_success(&b, 30000003, probe));
	assert_int_equal(breaker_state(&b, 30000004), BREAKER_CLOSED);
}

static void a_failed_probe_doubles_the_rest(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(allow(&b, 30000000));
	breaker_failure(&b, &opts, 30000000, false, "test", probe);
	assert_false(allow(&b, 89999999));
	assert_true(allow(&b, 90000000));
}

static void refused_connections_are_probed_soon(void **state)
{
	struct breaker b;

	breaker_init(&b);
	for (int i = 0; i < 5; i++)
		breaker_failure(&b, &opts, 0, true, "refused", 0);
	assert_true(allow(&b, 1000000));
}

/* A server that starts refuses connections, and then says that it loads its model: the rest that follows is the first one of its kind. */
static void refusals_make_no_other_rest_longer(void **state)
{
	struct breaker b;

	breaker_init(&b);
	for (int i = 0; i < 12; i++)
		breaker_failure(&b, &opts, 0, true, "refused", 0);
	assert_true(allow(&b, 30000000));
	breaker_failure(&b, &opts, 30000000, false, "it is loading its model", probe);
	assert_false(allow(&b, 59999999));
	assert_true(allow(&b, 60000000));
}

static void a_cancelled_probe_is_given_back(void **state)
{
	struct breaker b;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(allow(&b, 30000000));
	breaker_neutral(&b, probe);
	assert_true(allow(&b, 30000001));
}

/* Requests that were sent before it opened end one after another while the probe is under way. */
static void only_the_probe_itself_ends_the_probe(void **state)
{
	struct breaker b;
	uint32_t old;

	breaker_init(&b);
	assert_true(allow(&b, 0));
	old = probe;
	fail_times(&b, 5, 0);
	assert_true(allow(&b, 30000000));
	assert_int_not_equal(probe, 0);
	assert_int_equal(old, 0);
	breaker_neutral(&b, old);
	assert_false(breaker_allow(&b, &opts, 30000001, &old));
	breaker_success(&b, 30000002, old);
	assert_false(breaker_allow(&b, &opts, 30000003, &old));
	breaker_neutral(&b, probe);
	assert_true(allow(&b, 30000004));
}

/* A ticket that was given back already is nobody's. */
static void a_ticket_serves_once(void **state)
{
	struct breaker b;
	uint32_t first;

	breaker_init(&b);
	fail_times(&b, 5, 0);
	assert_true(allow(&b, 30000000));
	first = probe;
	breaker_neutral(&b, first);
	assert_true(allow(&b, 30000001));
	breaker_neutral(&b, first);
	assert_false(breaker_allow(&b, &opts, 30000002, &first));
}

static void half_of_many_calls_opens_it(void **state)
{
	struct breaker b;
	bool opened = false;

	breaker_init(&b);
	for (int i = 0; i < 30 && !opened; i++) {
		opened = breaker_failure(&b, &opts, i, false, "test", 0);
		breaker_success(&b, i, 0);
	}
	assert_true(opened);
}

static void retry_after_pauses_without_opening(void **state)
{
	struct breaker b;

	breaker_init(&b);
	breaker_pause(&b, 5000000);
	assert_false(allow(&b, 4999999));
	assert_int_equal(breaker_retry_us(&b, 4000000), 1000000);
	assert_true(allow(&b, 5000000));
	assert_int_equal(breaker_state(&b, 5000000), BREAKER_CLOSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_after_failures_in_a_row), cmocka_unit_test(one_probe_then_two_successes_close),
		cmocka_unit_test(a_failed_probe_doubles_the_rest), cmocka_unit_test(refused_connections_are_probed_soon),
		cmocka_unit_test(refusals_make_no_other_rest_longer),
		cmocka_unit_test(a_cancelled_probe_is_given_back), cmocka_unit_test(half_of_many_calls_opens_it),
		cmocka_unit_test(only_the_probe_itself_ends_the_probe), cmocka_unit_test(a_ticket_serves_once),
		cmocka_unit_test(retry_after_pauses_without_opening),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* meter_test.c - a meter adds up power and time, stands still when nobody speaks, and never falls, also while it is set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "services/gateway/meter.h"

#define S INT64_C(1000000)

static void adds_power_over_time(void **state)
{
	struct meter m = { 0 };

	assert_int_equal(meter_read(&m, 5 * S), 0);           /* nobody has said anything */
	meter_set(&m, 100 * S, 10 * S, 12 * S);               /* 100 W */
	assert_int_equal(meter_read(&m, 10 * S), 0);
	assert_int_equal(meter_read(&m, 11 * S), 100 * S);    /* 100 J */
	meter_set(&m, 50 * S, 11 * S, 13 * S);
	assert_int_equal(meter_read(&m, 12 * S), 150 * S);
	assert_int_equal(meter_read(&m, 10 * S), 100 * S);    /* a worker's clock may be behind */
}

static void stands_still_when_nobody_speaks(void **state)
{
	struct meter m = { 0 };

	meter_set(&m, 100 * S, 10 * S, 12 * S);
	assert_int_equal(meter_read(&m, 100 * S), 200 * S);
	meter_set(&m, 100 * S, 90 * S, 92 * S);
	assert_int_equal(meter_read(&m, 90 * S), 200 * S);
	meter_set(&m, 0, 91 * S, 91 * S);
	assert_int_equal(meter_read(&m, 99 * S), 300 * S);
}

static void a_hundred_kilowatts_for_a_month(void **state)
{
	struct meter m = { 0 };
	int64_t now = 0;

	for (int i = 0; i < 30 * 86400; i++, now += S)
		meter_set(&m, 100000 * S, now, now + 2 * S);
	assert_int_equal(meter_read(&m, now), INT64_C(30) * 86400 * 100000 * S);
}

/* --- a reader beside the one who sets --- */

static struct meter shared;
static _Atomic int64_t now_us, n_reads;
static _Atomic bool over;

/* It runs as fast all the time, a kilowatt: so it shows just what the reader's own time makes, or what the time of a setting since then does. A torn
 * setting shows less, or more by one that does not end in the time of any. */
static void *reads(void *arg)
{
	int64_t last = 0, *bad = arg;

	while (!atomic_load(&over)) {
		int64_t at = atomic_load(&now_us) + 5, uj = meter_read(&shared, at), last_set = atomic_load(&now_us) + 10;

		if (uj < last || (uj != 1000 * at && (uj < 1000 * at || uj > 1000 * last_set || uj % 10000)))
			++*bad;
		last = uj;
		atomic_fetch_add(&n_reads, 1);
	}
	return NULL;
}

static void is_read_while_it_is_set(void **state)
{
	int64_t bad = 0;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, reads, &bad), 0);
	for (int64_t i = 0; i < 300000 || atomic_load(&n_reads) < 300000; i++) {
		meter_set(&shared, 1000 * S, i * 10, i * 10 + 1000);
		atomic_store(&now_us, i * 10);
	}
	atomic_store(&over, true);
	pthread_join(t, NULL);
	assert_int_equal(bad, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(adds_power_over_time), cmocka_unit_test(stands_still_when_nobody_speaks), cmocka_unit_test(a_hundred_kilowatts_for_a_month),
		cmocka_unit_test(is_read_while_it_is_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

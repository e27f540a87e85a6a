/* zone_test.c - days and months against libc's own word, in zones whose clocks change at midnight, by half an hour, and never. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "services/usage-tracker/zone.h"

static const int64_t november_us = 1795251600000000LL;    /* 2026-11-21T09:00:00Z */

static int64_t at(const char *utc)
{
	struct tm tm = { 0 };

	assert_non_null(strptime(utc, "%Y-%m-%d %H:%M", &tm));
	return (int64_t)timegm(&tm) * 1000000;
}

static void check(const char *zone, void fn(const struct zone *, int64_t, int64_t *, int64_t *), const char *moment, const char *from, const char *to)
{
	struct zone z;
	int64_t begins, ends;

	assert_true(zone_load(&z, zone, november_us, NULL));
	fn(&z, at(moment), &begins, &ends);
	if (begins != at(from) || ends != at(to))
		fail_msg("%s at %s: %lld to %lld, not %s to %s", zone, moment, (long long)begins / 1000000, (long long)ends / 1000000, from, to);
}

static void months_end_where_the_zone_says(void **state)
{
	(void)state;
	check("UTC", zone_month, "2026-11-30 23:59", "2026-11-01 00:00", "2026-12-01 00:00");
	check("UTC", zone_month, "2026-12-01 00:00", "2026-12-01 00:00", "2027-01-01 00:00");
	check("UTC", zone_month, "2028-02-29 12:00", "2028-02-01 00:00", "2028-03-01 00:00");
	check("Europe/Berlin", zone_month, "2026-11-30 22:59", "2026-10-31 23:00", "2026-11-30 23:00");
	check("Europe/Berlin", zone_month, "2026-11-30 23:00", "2026-11-30 23:00", "2026-12-31 23:00");
	check("Europe/Berlin", zone_month, "2026-10-15 12:00", "2026-09-30 22:00", "2026-10-31 23:00");      /* summer at one end, winter at the other */
	check("Asia/Kolkata", zone_month, "2026-11-30 18:30", "2026-11-30 18:30", "2026-12-31 18:30");
	check("Pacific/Kiritimati", zone_month, "2026-11-30 10:00", "2026-11-30 10:00", "2026-12-31 10:00");
}

static void days_are_as_long_as_their_clock_changes_make_them(void **state)
{
	(void)state;
	check("Europe/Berlin", zone_day, "2027-03-28 12:00", "2027-03-27 23:00", "2027-03-28 22:00");        /* 23 hours */
	check("Europe/Berlin", zone_day, "2026-10-25 12:00", "2026-10-24 22:00", "2026-10-25 23:00");        /* 25 hours */
	check("Australia/Lord_Howe", zone_day, "2026-10-03 20:00", "2026-10-03 13:30", "2026-10-04 13:00");  /* half an hour forward */
	check("Africa/Cairo", zone_day, "2027-04-30 12:00", "2027-04-29 22:00", "2027-04-30 21:00");         /* midnight itself is left out */
	check("America/Havana", zone_day, "2026-11-01 12:00", "2026-11-01 04:00", "2026-11-02 05:00");       /* midnight comes twice */
}

/* Every two hours or so of two years: the day that holds a moment is libc's, and days follow each other without a gap. */
static void agrees_with_libc(void **state)
{
	static const char *const zones[] = { "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana", "Asia/Kathmandu", "America/Santiago",
					     "Pacific/Apia" };

	(void)state;
	for (size_t i = 0; i < sizeof(zones) / sizeof(*zones); i++) {
		struct zone z;
		char tz[64];

		assert_true(zone_load(&z, zones[i], november_us, NULL));
		assert_true(z.n > 2 || strcmp(zones[i], "Asia/Kathmandu") == 0 || strcmp(zones[i], "Pacific/Apia") == 0);
		snprintf(tz, sizeof(tz), ":%s", zones[i]);
		setenv("TZ", tz, 1);
		tzset();
		for (int64_t us = november_us - 365 * 86400000000LL; us < november_us + 365 * 86400000000LL; us += 7000000000LL) {
			int64_t from, to, f2, t2;
			struct tm now, first, last;
			time_t t = us / 1000000, b, e;

			zone_day(&z, us, &from, &to);
			assert_true(from <= us && us < to);
			b = from / 1000000, e = to / 1000000 - 1;
			localtime_r(&t, &now), localtime_r(&b, &first), localtime_r(&e, &last);
			assert_true(now.tm_yday == first.tm_yday && now.tm_yday == last.tm_yday);
			zone_day(&z, to, &f2, &t2);
			assert_true(f2 == to);
			zone_month(&z, us, &from, &to);
			assert_true(from <= us && us < to);
			b = from / 1000000, e = to / 1000000;
			localtime_r(&b, &first), localtime_r(&e, &last);
			assert_true(now.tm_mon == first.tm_mon && first.tm_mday == 1 && last.tm_mday == 1 && last.tm_mon == (now.tm_mon + 1) % 12);
		}
		unsetenv("TZ");
		tzset();
	}
}

static void what_is_no_zone_is_refused_and_tz_is_left_alone(void **state)
{
	static const char *const bad[] = { "", "Mars/Olympus", "/etc/passwd", "../../etc/passwd", "Europe/../../../../etc/passwd" };
	struct zone z;
	struct why why = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_false(zone_load(&z, bad[i], november_us, &why));
		assert_int_equal(why.code, ERR_INVALID);
	}
	setenv("TZ", "Asia/Tokyo", 1);
	assert_true(zone_load(&z, "Europe/Berlin", november_us, NULL));
	assert_string_equal(getenv("TZ"), "Asia/Tokyo");
	unsetenv("TZ");
	assert_true(zone_load(&z, "Europe/Berlin", november_us, NULL));
	assert_null(getenv("TZ"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(months_end_where_the_zone_says),
		cmocka_unit_test(days_are_as_long_as_their_clock_changes_make_them),
		cmocka_unit_test(agrees_with_libc),
		cmocka_unit_test(what_is_no_zone_is_refused_and_tz_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

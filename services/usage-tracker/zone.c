/* zone.c - see zone.h. */
#include "services/usage-tracker/zone.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/arena.h"

#define DAY_S 86400
#define YEAR_S (366 * (int64_t)DAY_S)

enum { STEP_S = 900 };                /* every offset of today is a whole number of these */

/* --- asking libc --- */

static int64_t offset_at(int64_t s)
{
	time_t t = (time_t)s;
	struct tm tm;

	return localtime_r(&t, &tm) ? tm.tm_gmtoff : 0;
}

/* The first second of the later offset, between two moments that differ. */
static int64_t change_between(int64_t from_s, int64_t to_s)
{
	int64_t before = offset_at(from_s);

	while (to_s - from_s > 1) {
		int64_t middle = from_s + (to_s - from_s) / 2;

		if (offset_at(middle) == before)
			from_s = middle;
		else
			to_s = middle;
	}
	return to_s;
}

static void add(struct zone *z, int64_t from_s, int64_t offset_s)
{
	if (z->n < ZONE_CHANGES) {
		z->change[z->n].from_s = from_s;
		z->change[z->n++].offset_s = offset_s;
	}
}

static void scan(struct zone *z, int64_t now_s)
{
	int64_t at = now_s - 2 * YEAR_S, end = now_s + 40 * YEAR_S;

	add(z, INT64_MIN, offset_at(at));
	for (; at < end; at += DAY_S)
		if (offset_at(at + DAY_S) != z->change[z->n - 1].offset_s)
			add(z, change_between(at, at + DAY_S), offset_at(at + DAY_S));
}

static bool is_there(const char *name)
{
	char path[128];

	if (!*name || *name == '/' || strstr(name, "..") || strlen(name) >= 64)
		return false;
	snprintf(path, sizeof(path), "/usr/share/zoneinfo/%s", name);
	return access(path, R_OK) == 0;
}

bool zone_load(struct zone *z, const char *name, int64_t now_us, struct why *why)
{
	const char *was = getenv("TZ");
	char *kept = was ? x_strdup(was) : NULL, value[80];

	memset(z, 0, sizeof(*z));
	snprintf(z->name, sizeof(z->name), "%s", name);
	if (strcmp(name, "UTC") == 0) {
		add(z, INT64_MIN, 0);
		return true;
	}
	if (!is_there(name))
		return err_field(why, ERR_INVALID, "budget_time_zone", "there is no time zone '%s' under /usr/share/zoneinfo; write UTC or a name such as Europe/Berlin, and see that the package "
			       "tzdata is installed", name) == ERR_OK;
	snprintf(value, sizeof(value), ":%s", name);
	setenv("TZ", value, 1);
	tzset();
	scan(z, now_us / 1000000);
	if (kept)
		setenv("TZ", kept, 1);
	else
		unsetenv("TZ");
	tzset();
	free(kept);
	return true;
}

/* --- arithmetic --- */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

static int64_t local_day(const struct zone *z, int64_t s)
{
	size_t i = z->n - 1;

	while (i > 0 && z->change[i].from_s > s)
		i--;
	return floor_div(s + z->change[i].offset_s, DAY_S);
}

/* The first second whose local day is this one, or a later one where the clocks leave it out. */
static int64_t day_begins(const struct zone *z, int64_t day)
{
	int64_t s = floor_div(day * DAY_S, STEP_S) * STEP_S - 16 * 3600;

	while (local_day(z, s) < day)
		s += STEP_S;
	return s;
}

/* Days since 1970 of the first of a month, and back; proleptic Gregorian calendar. */
static int64_t first_of(int64_t months)
{
	int64_t year = floor_div(months, 12), month = months - year * 12 + 1, y = year - (month <= 2), era = floor_div(y, 400), in_era = y - era * 400;
	int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5;

	return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + of_year - 719468;
}

static int64_t months_of(int64_t day)
{
	int64_t months = (int64_t)((double)day / 30.436875) + 1970 * 12 - 2;

	while (first_of(months + 1) <= day)
		months++;
	return months;
}

void zone_day(const struct zone *z, int64_t us, int64_t *ret_from_us, int64_t *ret_to_us)
{
	int64_t day = local_day(z, floor_div(us, 1000000));

	*ret_from_us = day_begins(z, day) * 1000000;
	*ret_to_us = day_begins(z, day + 1) * 1000000;
}

void zone_month(const struct zone *z, int64_t us, int64_t *ret_from_us, int64_t *ret_to_us)
{
	int64_t months = months_of(local_day(z, floor_div(us, 1000000)));

	*ret_from_us = day_begins(z, first_of(months)) * 1000000;
	*ret_to_us = day_begins(z, first_of(months + 1)) * 1000000;
}

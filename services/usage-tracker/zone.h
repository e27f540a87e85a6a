/* zone.h - days and months of a time zone, as tzdata knows it.
 *
 * libc knows zones only through TZ of the whole process. So zone_load() asks it once, while there is one thread, puts TZ back, and keeps a
 * table of the zone's offsets from 2 years back to 40 years on; all else is arithmetic on that table, on any thread. */
#ifndef CORRAL_USAGE_ZONE_H
#define CORRAL_USAGE_ZONE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { ZONE_CHANGES = 256 };

struct zone {
	char name[64];
	struct { int64_t from_s; int64_t offset_s; } change[ZONE_CHANGES];    /* ascending; the first from INT64_MIN */
	size_t n;
};

/* "UTC", or a name under /usr/share/zoneinfo: "Europe/Berlin". Only while the process has one thread. False with *why: there is no such zone. */
bool zone_load(struct zone *, const char *name, int64_t now_us, struct why *);
/* When the local day, or month, that holds this moment began, and when the next one begins. A day is as long as its clock changes make it. */
void zone_day(const struct zone *, int64_t us, int64_t *ret_from_us, int64_t *ret_to_us);
void zone_month(const struct zone *, int64_t us, int64_t *ret_from_us, int64_t *ret_to_us);
#endif

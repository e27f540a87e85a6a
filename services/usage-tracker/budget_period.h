/* budget_period.h - the words of periods: "month" "day" "minute" "rolling:30d". Pure. */
#ifndef CORRAL_USAGE_BUDGET_PERIOD_H
#define CORRAL_USAGE_BUDGET_PERIOD_H
#include "common/base/str.h"
#include "services/usage-tracker/zone.h"

enum budget_every { EVERY_MONTH, EVERY_DAY, EVERY_MINUTE, EVERY_ROLLING };

struct budget_period { enum budget_every every; int64_t window_us, slice_us; };       /* the two of rolling ones */

bool budget_period_parse(struct str, struct budget_period *ret, struct why *);
/* The key of the period that holds a moment, 0 for rolling ones, and when it ends (INT64_MAX). */
void budget_period_at(const struct budget_period *, const struct zone *, int64_t us, int64_t *ret_key_us, int64_t *ret_ends_us);
#endif

/* money.h - dollars as people write them, and micro-dollars as they are kept; exact both ways. */
#ifndef CORRAL_CORRAL_MONEY_H
#define CORRAL_CORRAL_MONEY_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"

bool money_parse(const char *dollars, int64_t *ret_microusd);     /* "2.50"; at most six digits behind the point, no sign */
const char *money(struct arena *, int64_t microusd);              /* "2.50", "0.000075"; two digits at least */
#endif

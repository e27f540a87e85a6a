/* speeds.h - how fast and how sure each model is on each backend, from the last attempts; kept in memory, filled from the ledger at start. */
#ifndef CORRAL_USAGE_SPEEDS_H
#define CORRAL_USAGE_SPEEDS_H
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

struct speeds;

struct speeds *speeds_new(void);
void speeds_free(struct speeds *);
bool speeds_load(struct speeds *, struct ledger *, int64_t now_us, struct why *);
/* One finished attempt; fits ledger_on_finished(). */
void speeds_add(void *speeds, const struct dim *, const Corral__UsageEvent *);
void speeds_reply(const struct speeds *, int64_t now_us, struct arena *, Corral__SpeedsReply *ret);
#endif

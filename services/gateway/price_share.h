/* price_share.h - the prices of the usage-tracker, as they come with leases of budgets (budget_share.c): every worker gets a list of its own, and
 * the last one is on disk, so that a gateway that starts while the usage-tracker is away knows what things cost. Control thread. */
#ifndef CORRAL_GATEWAY_PRICE_SHARE_H
#define CORRAL_GATEWAY_PRICE_SHARE_H
#include "services/gateway/gateway.h"
#include "usage.pb-c.h"

/* From the disk, for the workers that are there; returns the list's version, 0 = there is none. */
uint64_t price_share_load(struct gateway *);
/* What was heard, for the workers and for the disk; returns the list's version. */
uint64_t price_share_heard(struct gateway *, Corral__Price *const *, size_t n, uint64_t version);
#endif

/* budget_service.h - the budgets' half of the service: RPC Budgets, the watch on the ledger, the clock, the metrics. */
#ifndef CORRAL_USAGE_BUDGET_SERVICE_H
#define CORRAL_USAGE_BUDGET_SERVICE_H
#include "common/svc/svc.h"
#include "services/usage-tracker/ledger.h"
#include "services/usage-tracker/prices.h"

/* Where its metrics stand in the service's table. */
struct budget_metrics { unsigned tokens, microusd, overdrawn, lent; };

struct budget_service;

/* For the service's check(), while the process has one thread: learns the zone. */
enum err budget_zone_check(const char *zone, struct why *);
/* The prices go to the gateways with what is lent to them. */
struct budget_service *budget_service_new(struct svc *, struct ledger *, struct prices *, const struct budget_metrics *, int64_t in_doubt_ms, struct why *);
void budget_service_free(struct budget_service *);        /* before the ledger; NULL is fine */
#endif

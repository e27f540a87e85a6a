/* from_bus.h - what the usage-tracker reads from Kafka: usage.v1 into the ledger, task-completed.v1 into feedback. */
#ifndef CORRAL_USAGE_FROM_BUS_H
#define CORRAL_USAGE_FROM_BUS_H
#include "common/store/intake.h"
#include "common/svc/svc.h"
#include "services/usage-tracker/ledger.h"

struct from_bus;

/* on_kept: a batch of usage was applied, or with 'failed' could not be. 'metrics_at': the place of INTAKE_METRICS. Reports the want "bus". */
struct from_bus *from_bus_new(struct svc *, const struct bus_config *, struct ledger *, unsigned metrics_at,
			      void (*on_kept)(void *arg, const struct ledger_counts *, int64_t began_us, const struct why *failed), void *arg, struct why *);
void from_bus_free(struct from_bus *);        /* before the ledger; NULL is fine */
#endif

/* query.h - the answers of usage-tracker as generated messages, from the ledger. */
#ifndef CORRAL_USAGE_QUERY_H
#define CORRAL_USAGE_QUERY_H
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

/* Everything in *ret lives in the arena. Sums of whole hours come from the hourly sums, the edges from rows, so that the result is exact;
 * percentiles are at most 3.2 % off. success_rate = ok / finished, 0 when nothing has finished. errors = finished and neither ok nor cancelled. */
bool usage_query(struct ledger *, const Corral__UsageQuery *, int64_t now_us, struct arena *, Corral__UsageReport *ret, struct why *);
bool usage_attempts(struct ledger *, const Corral__AttemptsRequest *, struct arena *, Corral__AttemptsReply *ret, struct why *);
#endif

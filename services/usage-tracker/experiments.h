/* experiments.h - requests that are part of experiments, for ab-testing: each once, as it is now, in the order in which they changed.
 *
 * A row is made in the transaction that enters the request's last attempt; what is said of the request later gives it the next number. A reader that
 * remembers the number of the last row that it has kept misses nothing, and gets what changed again. */
#ifndef CORRAL_USAGE_EXPERIMENTS_H
#define CORRAL_USAGE_EXPERIMENTS_H
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

enum { OUTCOMES_MAX = 1000 };

struct experiments;

struct experiments *experiments_new(struct ledger *);        /* watches the ledger from now on */
void experiments_free(struct experiments *);                 /* NULL is fine; before the ledger */
/* In the transaction that enters what ended last of a request in an experiment. */
bool experiments_ended(struct db *, const Corral__UsageEvent *, struct why *);
/* In the transaction that keeps a word on the request. */
bool experiments_said(struct db *, struct str request_id, struct why *);
bool experiments_outcomes(struct db *, const Corral__OutcomesRequest *, struct arena *, Corral__OutcomesReply *ret, struct why *);
#endif

/* outcome.h - task-completed.v1: what other systems say became of a task that a request was part of; it becomes feedback of the request. */
#ifndef CORRAL_USAGE_OUTCOME_H
#define CORRAL_USAGE_OUTCOME_H
#include "common/base/arena.h"
#include "common/store/db.h"

/* A TaskCompletedEvent (events.proto), or the same as a JSON object. "" = kept, or known before; a reason = it says nothing that can be kept;
 * NULL = the store failed, *why says how. What is said of a request that the ledger does not know yet is kept all the same. */
const char *outcome_keep(struct db *, struct str bytes, struct arena *, struct why *);
#endif

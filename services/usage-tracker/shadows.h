/* shadows.h - shadow runs of experiments: requests that no client sent and none was answered with. They stand in a table of their own, so that nothing
 * that adds up what clients use (rows, sums, budgets, quality, speeds) sees them; their tokens and cost are their experiment's. */
#ifndef CORRAL_USAGE_SHADOWS_H
#define CORRAL_USAGE_SHADOWS_H
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

static inline bool shadow_is(const Corral__UsageEvent *e) { return e->shadow_of.len != 0; }

/* In the batch's transaction: a FINAL makes its row and its outcome, once; anything else says nothing here. *ret_new: the row was not there. */
bool shadow_enter(struct db *, const Corral__UsageEvent *, struct str packed, bool *ret_new, struct why *);
/* Those of a client's request, or the one with that id, in the arena. */
bool shadows_of(struct db *, struct str request_id, struct arena *, Corral__AttemptsReply *add_to, struct why *);
#endif

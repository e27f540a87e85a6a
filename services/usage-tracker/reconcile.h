/* reconcile.h - does the ledger have what the gateways wrote down? Two comparisons, whose sum of differences is 0 in balance:
 *
 *   spools against facts: each FINAL says which run of which spool wrote it, how many FINALs that run had written with it, and their tokens
 *     (events.proto, 42-44), a shadow as any other. What the ledger entered of each run is counted in the transaction that enters it (table spool_runs).
 *   sums against rows: attempts, tokens and cost of each hour as they were added up, and as the rows of that hour say now. This goes through
 *     the whole ledger in the background, newest hour first, a few milliseconds at a time.
 *
 * The first sees what never arrived, the second what was lost or changed afterwards. A difference of the first kind has to last from one
 * look to the next: what is under way in other partitions is none. */
#ifndef CORRAL_USAGE_RECONCILE_H
#define CORRAL_USAGE_RECONCILE_H
#include "services/usage-tracker/ledger.h"

struct reconcile;

/* What does not agree; all 0 = balance. */
struct unreconciled {
	int64_t spool_attempts, spool_tokens;
	int64_t row_attempts, row_tokens, row_microusd;
};

struct reconcile *reconcile_new(struct ledger *);         /* watches the ledger from now on; lives no longer than it */
void reconcile_free(struct reconcile *);                  /* NULL is fine */
/* One step of at most about budget_us; *ret_whole = with it all hours have been looked at, and the next call begins anew. */
bool reconcile_step(struct reconcile *, int64_t budget_us, bool *ret_whole, struct why *);
/* As of the last whole look, or worse when the one under way has found more. */
struct unreconciled reconcile_result(const struct reconcile *);
#endif

/* budgets.h - every budget in one place: what may be used, what is used, and who has been lent how much.
 *
 * Nouns: a budget limits a scope over a period. What of it is not 'free' stands in one of three accounts: 'held' (lent to a living gateway and not
 * yet settled), 'in doubt' (lent to one that fell silent; still counted), 'used' (settled by facts in the ledger). A lease is what one holder,
 * that is one life of one gateway, was granted of one budget in one period, in absolute numbers, and how much of that is settled.
 *
 *        reserve            settle
 *   free ───────▶ held ────────────▶ used          lapse: held ▶ in doubt, when its holder is silent; back when it speaks (revive)
 *     ◀───────────  │  ◀──▶ in doubt ──▶           adjust: free ▶ used, what facts say beyond what was lent, or without a lease
 *        release                                   refund: used ▶ free, what a correction takes back
 *                                                  expire: used ▶ free, out of a rolling window; write: in doubt ▶ used, by the operator's time
 *
 * Lending is one conditional update: used + held + in doubt never passes the limit by it. Facts may (an answer was longer than was reserved):
 * then the true figure is booked, and nothing is lent until the period ends. Nothing in doubt is ever freed by time.
 * Every movement is one row of budget_entries, in the transaction that makes it. Pure over db.h; one thread. Times are wall clock unless 'mono'. */
#ifndef CORRAL_USAGE_BUDGETS_H
#define CORRAL_USAGE_BUDGETS_H
#include <stdbool.h>
#include <stdint.h>

#include "budgets.pb-c.h"
#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/store/db.h"
#include "events.pb-c.h"
#include "services/usage-tracker/zone.h"

enum { BUDGET_TTL_MS = 10000 };       /* a holder that is silent for so long is doubted */

struct budgets;
struct ledger_booking;

/* Over the ledger's database; the zone outlives it. in_doubt_ms: what is in doubt for so long is booked as used; 0 = never. */
struct budgets *budgets_open(struct db *, const struct zone *, int64_t in_doubt_ms, int64_t mono_now_us, struct why *);
void budgets_close(struct budgets *);     /* NULL is fine */

/* Makes or replaces; what was used stays used. Fills 'tenant' from the scope, or checks it. ERR_INVALID names the field. */
bool budgets_put(struct budgets *, const Corral__Budget *, int64_t now_us, struct arena *, Corral__BudgetState *ret, struct why *);
bool budgets_remove(struct budgets *, const char *scope, const char *tenant, const char *period, int64_t now_us, bool *ret_changed, struct why *);
typedef bool budget_visible(void *arg, const Corral__Budget *);
bool budgets_list(struct budgets *, budget_visible *, void *arg, int64_t now_us, struct arena *, Corral__ListBudgetsReply *ret, struct why *);

/* Whether each of the providers may be used, see SpendReply. Reads alone. */
bool budgets_spend(struct budgets *, const Corral__SpendRequest *, int64_t now_us, struct arena *, Corral__SpendReply *ret, struct why *);

/* One gateway's ask, in one transaction. */
bool budgets_lease(struct budgets *, const Corral__BudgetLeaseRequest *, int64_t now_us, int64_t mono_now_us, struct arena *, Corral__BudgetLeaseReply *ret,
		   struct why *);

/* Inside the ledger's transaction: an attempt that finished is charged to the budgets that its event names, and to those that cover it unnamed; so is
 * every later change of it. What its gateway took it to cost is charged to what that gateway was lent, and what is booked beyond or below that to
 * nobody's lease: so both go on counting alike.
 * First note each, then book once: together, in the order of the budgets. After a rollback call budgets_forget(). */
bool budgets_note(struct budgets *, const struct ledger_booking *, struct arena *, struct why *);
bool budgets_book(struct budgets *, int64_t now_us, struct why *);
void budgets_forget(struct budgets *);

/* Every second or so: silent holders' leases go in doubt, rolling windows roll, periods that are over are tidied. */
bool budgets_tick(struct budgets *, int64_t now_us, int64_t mono_now_us, struct why *);

/* Whether the entries of every period add up to its accounts; for tests and for who looks for a fault. False with *why names the first that does not. */
bool budgets_audit(struct budgets *, int64_t now_us, struct why *);

/* A scope as it is written: "tenant:acme" → kind and name. False: it is none. */
enum budget_kind { BUDGET_ORGANISATION, BUDGET_TEAM, BUDGET_TENANT, BUDGET_KEY, BUDGET_USER, BUDGET_PROVIDER, BUDGET_KINDS };
bool budget_scope(struct str scope, enum budget_kind *ret_kind, struct str *ret_name);
extern const char *const budget_kind_names[BUDGET_KINDS];
#endif

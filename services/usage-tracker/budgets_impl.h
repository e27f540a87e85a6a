/* budgets_impl.h - what the files of the budgets share: the list in memory, and the moves between accounts. See budgets.h. */
#ifndef CORRAL_USAGE_BUDGETS_IMPL_H
#define CORRAL_USAGE_BUDGETS_IMPL_H
#include "common/base/list.h"
#include "services/usage-tracker/budget_period.h"
#include "services/usage-tracker/budgets.h"
#include "services/usage-tracker/ledger_sql.h"

enum { TOKENS, MICROUSD, AMOUNTS };
enum account { USED, HELD, IN_DOUBT, ACCOUNTS, FREE = ACCOUNTS };

#define BUDGET_UNLIMITED INT64_MAX

struct amounts { int64_t n[AMOUNTS]; };

struct one_budget {
	int64_t id, created_us, overdrawn;
	enum budget_kind kind;
	struct str scope, name, tenant, period;       /* name: the scope's, without its kind */
	struct budget_period every;
	bool shadow, removed;
	bool unlimited;               /* it was written that it has no limit: for providers, see budget_spend.c */
	struct amounts limit;         /* BUDGET_UNLIMITED */
	int64_t tight_until_us;       /* mono: somebody did not get what it needed */
};

/* A life of a gateway that asked, or that something is lent to. */
struct holder {
	struct holder *next;
	int64_t heard_us;             /* mono */
	uint64_t seq;
	bool doubted;                 /* its leases are in doubt */
	bool loaded;                  /* known from its leases alone; not heard since the start */
	char name[64];
};

struct lease_row {
	int64_t budget, period_us;
	char holder[64];
	struct amounts granted, settled, written;
	bool in_doubt;
	int64_t since_us;
};

/* What a batch charges: of one budget, one period, one holder ("" = nobody was lent it). */
struct charge {
	int64_t budget, period_us, at_us;
	struct str holder;
	struct amounts n;
};

struct budgets {
	struct db *db;
	const struct zone *zone;
	int64_t in_doubt_ms;
	struct arena *mem;            /* of the list */
	struct one_budget *list;      /* ascending by id */
	size_t n;
	uint64_t version;
	struct holder *holders;
	struct arena *batch_mem;
	struct charge *charges;
	size_t n_charges, charges_cap;
};

struct one_budget *budget_find(struct budgets *, int64_t id);
bool budgets_reload(struct budgets *, struct why *);

void budgets_write_list(struct budgets *, struct arena *, Corral__BudgetLeaseReply *ret);
/* When there is more again: the period's end, or when the oldest use leaves a rolling window. */
bool budget_resets(struct budgets *, const struct one_budget *, int64_t ends_us, int64_t now_us, int64_t *ret, struct why *);

/* --- moves; each inside a transaction --- */

/* The period's row as it is; made when it is not there. ret[account]. */
bool period_get(struct budgets *, const struct one_budget *, int64_t key_us, int64_t ends_us, struct amounts ret[ACCOUNTS], struct why *);
/* From one account to another, with its entry; of nothing, nothing. */
bool move(struct budgets *, const char *kind, int64_t budget, int64_t period_us, const char *holder, enum account from, enum account to, struct amounts, int64_t now_us,
	  struct why *);
bool entry_add(struct budgets *, const char *kind, int64_t budget, int64_t period_us, const char *holder, enum account from, enum account to, struct amounts,
	       int64_t now_us, struct why *);
bool lease_get(struct budgets *, int64_t budget, int64_t period_us, const char *holder, bool *ret_found, struct lease_row *ret, struct why *);
bool lease_set(struct budgets *, const struct lease_row *, struct why *);
/* What of it is neither used nor given back. */
struct amounts lease_rest(const struct lease_row *);
/* Frees what of a lease is not settled. */
bool lease_release(struct budgets *, struct lease_row *, int64_t now_us, struct why *);
bool lease_doubt(struct budgets *, struct lease_row *, bool doubt, int64_t now_us, struct why *);
bool leases_each(struct budgets *, enum ledger_statement, const struct db_value *, unsigned n, struct arena *, struct lease_row **ret, size_t *ret_n, struct why *);
/* Rolling: what has left the window is free again. */
bool slices_expire(struct budgets *, const struct one_budget *, int64_t now_us, struct why *);

static inline bool none(struct amounts a) { return !a.n[TOKENS] && !a.n[MICROUSD]; }
#endif

/* budget_moves.c - the rows of the budgets, and the moves between their accounts; see budgets_impl.h. Every move is one entry. */
#include <stdlib.h>

#include "services/usage-tracker/budgets_impl.h"

static const char *const account_names[] = { [USED] = "used", [HELD] = "held", [IN_DOUBT] = "in_doubt", [FREE] = "free" };

/* --- periods --- */

struct period_to { struct amounts *accounts; bool found; };

static bool take_period(void *arg, const struct db_row *row)
{
	struct period_to *to = arg;

	for (unsigned k = 0; k < AMOUNTS; k++)
		for (unsigned a = 0; a < ACCOUNTS; a++)
			to->accounts[a].n[k] = db_int(row, k * ACCOUNTS + a);
	to->found = true;
	return true;
}

bool period_get(struct budgets *b, const struct one_budget *o, int64_t key_us, int64_t ends_us, struct amounts ret[ACCOUNTS], struct why *why)
{
	struct db_value p[] = { DB_I(o->id), DB_I(key_us), DB_I(ends_us) };
	struct period_to to = { ret, false };

	if (!db_run(b->db, B_PERIOD_GET, p, 2, take_period, &to, NULL, why))
		return false;
	if (to.found)
		return true;
	memset(ret, 0, ACCOUNTS * sizeof(*ret));
	return db_run(b->db, B_PERIOD_ADD, p, 3, NULL, NULL, NULL, why);
}

bool entry_add(struct budgets *b, const char *kind, int64_t budget, int64_t period_us, const char *holder, enum account from, enum account to, struct amounts n,
	       int64_t now_us, struct why *why)
{
	const struct db_value p[] = { DB_I(now_us), DB_Z(kind), DB_I(budget), DB_I(period_us), DB_Z(holder), DB_Z(account_names[from]), DB_Z(account_names[to]),
				      DB_I(n.n[TOKENS]), DB_I(n.n[MICROUSD]) };

	return none(n) || db_run(b->db, B_ENTRY_ADD, p, sizeof(p) / sizeof(*p), NULL, NULL, NULL, why);
}

bool move(struct budgets *b, const char *kind, int64_t budget, int64_t period_us, const char *holder, enum account from, enum account to, struct amounts n,
	  int64_t now_us, struct why *why)
{
	struct db_value p[2 + AMOUNTS * ACCOUNTS] = { DB_I(budget), DB_I(period_us) };

	if (none(n))
		return true;
	for (unsigned k = 0; k < AMOUNTS; k++)
		for (unsigned a = 0; a < ACCOUNTS; a++)
			p[2 + k * ACCOUNTS + a] = DB_I(a == from ? -n.n[k] : a == to ? n.n[k] : 0);
	return db_run(b->db, B_PERIOD_MOVE, p, sizeof(p) / sizeof(*p), NULL, NULL, NULL, why) &&
	       entry_add(b, kind, budget, period_us, holder, from, to, n, now_us, why);
}

/* --- leases --- */

struct lease_to { struct lease_row *row; bool found; };

static void read_lease(const struct db_row *row, struct lease_row *l)
{
	*l = (struct lease_row){ .budget = db_int(row, 0), .period_us = db_int(row, 1), .in_doubt = db_int(row, 9) != 0, .since_us = db_int(row, 10) };
	(void)str_copy(l->holder, sizeof(l->holder), db_str(row, 2));
	for (unsigned k = 0; k < AMOUNTS; k++) {
		l->granted.n[k] = db_int(row, 3 + 3 * k);
		l->settled.n[k] = db_int(row, 4 + 3 * k);
		l->written.n[k] = db_int(row, 5 + 3 * k);
	}
}

static bool take_lease(void *arg, const struct db_row *row)
{
	struct lease_to *to = arg;

	read_lease(row, to->row);
	to->found = true;
	return true;
}

bool lease_get(struct budgets *b, int64_t budget, int64_t period_us, const char *holder, bool *ret_found, struct lease_row *ret, struct why *why)
{
	struct db_value p[] = { DB_I(budget), DB_I(period_us), DB_Z(holder) };
	struct lease_to to = { ret, false };

	*ret = (struct lease_row){ .budget = budget, .period_us = period_us };
	(void)str_copy(ret->holder, sizeof(ret->holder), str_of(holder));
	if (!db_run(b->db, B_LEASE_GET, p, 3, take_lease, &to, NULL, why))
		return false;
	*ret_found = to.found;
	return true;
}

bool lease_set(struct budgets *b, const struct lease_row *l, struct why *why)
{
	const struct db_value p[] = { DB_I(l->budget), DB_I(l->period_us), DB_Z(l->holder), DB_I(l->granted.n[TOKENS]), DB_I(l->settled.n[TOKENS]),
				      DB_I(l->written.n[TOKENS]), DB_I(l->granted.n[MICROUSD]), DB_I(l->settled.n[MICROUSD]), DB_I(l->written.n[MICROUSD]),
				      DB_I(l->in_doubt), DB_I(l->since_us) };

	return db_run(b->db, B_LEASE_SET, p, sizeof(p) / sizeof(*p), NULL, NULL, NULL, why);
}

struct amounts lease_rest(const struct lease_row *l)
{
	struct amounts rest;

	for (unsigned k = 0; k < AMOUNTS; k++)
		rest.n[k] = l->granted.n[k] > l->settled.n[k] ? l->granted.n[k] - l->settled.n[k] : 0;
	return rest;
}

bool lease_release(struct budgets *b, struct lease_row *l, int64_t now_us, struct why *why)
{
	struct amounts rest = lease_rest(l);

	for (unsigned k = 0; k < AMOUNTS; k++)
		l->granted.n[k] -= rest.n[k];
	return move(b, "release", l->budget, l->period_us, l->holder, l->in_doubt ? IN_DOUBT : HELD, FREE, rest, now_us, why) && lease_set(b, l, why);
}

bool lease_doubt(struct budgets *b, struct lease_row *l, bool doubt, int64_t now_us, struct why *why)
{
	if (l->in_doubt == doubt)
		return true;
	l->in_doubt = doubt;
	l->since_us = now_us;
	return move(b, doubt ? "lapse" : "revive", l->budget, l->period_us, l->holder, doubt ? HELD : IN_DOUBT, doubt ? IN_DOUBT : HELD, lease_rest(l), now_us, why) &&
	       lease_set(b, l, why);
}

struct leases_to { struct arena *mem; struct lease_row *rows; size_t n, cap; };

static bool add_lease(void *arg, const struct db_row *row)
{
	struct leases_to *to = arg;

	if (to->n == to->cap) {
		struct lease_row *more = arena_alloc(to->mem, (to->cap = to->cap ? 2 * to->cap : 16) * sizeof(*more));

		if (to->n)
			memcpy(more, to->rows, to->n * sizeof(*more));
		to->rows = more;
	}
	read_lease(row, &to->rows[to->n++]);
	return true;
}

bool leases_each(struct budgets *b, enum ledger_statement statement, const struct db_value *p, unsigned n, struct arena *mem, struct lease_row **ret, size_t *ret_n,
		 struct why *why)
{
	struct leases_to to = { .mem = mem };
	bool ok = db_run(b->db, statement, p, n, add_lease, &to, NULL, why);

	*ret = to.rows;
	*ret_n = to.n;
	return ok;
}

/* --- rolling windows --- */

struct gone { int64_t rows; struct amounts n; };

static bool take_gone(void *arg, const struct db_row *row)
{
	*(struct gone *)arg = (struct gone){ db_int(row, 0), { { db_int(row, 1), db_int(row, 2) } } };
	return true;
}

bool slices_expire(struct budgets *b, const struct one_budget *o, int64_t now_us, struct why *why)
{
	/* A slice is counted until all of it has left the window. */
	struct db_value p[] = { DB_I(o->id), DB_I(now_us - o->every.window_us - o->every.slice_us) };
	struct gone gone = { 0 };

	if (o->every.every != EVERY_ROLLING)
		return true;
	if (!db_run(b->db, B_SLICES_BEFORE, p, 2, take_gone, &gone, NULL, why))
		return false;
	return !gone.rows || (db_run(b->db, B_SLICES_DROP, p, 2, NULL, NULL, NULL, why) &&
			      move(b, "expire", o->id, 0, "", USED, FREE, gone.n, now_us, why));
}

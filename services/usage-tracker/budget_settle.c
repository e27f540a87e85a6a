/* budget_settle.c - facts become use: what finished attempts took is charged to their budgets, inside the ledger's transaction. See budgets.h.
 *
 * An attempt's event says which budgets it was reserved of, in which period, and who had been lent that. A budget that covers it and is not
 * named there (it was made a moment before, or the gateway had not heard of it) is charged all the same, if it was there when the request came.
 * A correction, and what the ledger's price makes of it beyond what the gateway's did, goes to the same budgets and periods, and to no lease. */
#include <stdlib.h>

#include "services/usage-tracker/budgets_impl.h"
#include "services/usage-tracker/ledger.h"

static int64_t request_time_us(const Corral__UsageEvent *e)
{
	int64_t ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | e->request_id.data[i];
	return ms * 1000;
}

/* --- noting --- */

static void add(struct budgets *b, const struct one_budget *o, struct str holder, int64_t at_us, struct amounts n)
{
	int64_t key_us, ends_us;
	struct charge *c;

	if (none(n))
		return;
	budget_period_at(&o->every, b->zone, at_us, &key_us, &ends_us);
	if (o->every.every == EVERY_ROLLING)
		at_us -= at_us % o->every.slice_us;
	else
		at_us = key_us;
	for (size_t i = 0; i < b->n_charges; i++) {
		c = &b->charges[i];
		if (c->budget == o->id && c->at_us == at_us && str_eq(c->holder, holder)) {
			c->n.n[TOKENS] += n.n[TOKENS];
			c->n.n[MICROUSD] += n.n[MICROUSD];
			return;
		}
	}
	if (b->n_charges == b->charges_cap) {
		b->charges_cap = b->charges_cap ? 2 * b->charges_cap : 64;
		b->charges = x_realloc(b->charges, b->charges_cap * sizeof(*b->charges));
	}
	b->charges[b->n_charges++] = (struct charge){ o->id, key_us, at_us, arena_str(b->batch_mem, holder), n };
}

static bool is_named(const Corral__BudgetCharges *named, int64_t id)
{
	for (size_t i = 0; named && i < named->n_charges; i++)
		if ((int64_t)named->charges[i]->budget == id)
			return true;
	return false;
}

/* As far as an event tells: whose key it was it says, which team's and user's it does not. */
static bool covers(const struct one_budget *o, const Corral__UsageEvent *e)
{
	switch (o->kind) {
	case BUDGET_ORGANISATION:
		return true;
	case BUDGET_TENANT:
		return str_eqz(o->name, *e->tenant ? e->tenant : "default");
	case BUDGET_KEY:
		return str_eqz(o->name, e->key_id) && str_eqz(o->tenant, *e->tenant ? e->tenant : "default");
	case BUDGET_PROVIDER:
		return str_eqz(o->name, e->provider);
	default:
		return false;
	}
}

static void *of_arena(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep(void *arena, void *p) { (void)arena, (void)p; }

/* What is charged to leases, and what beside them. */
struct amounts_of { struct amounts lent, beside; };

static struct amounts_of amounts_of(const struct ledger_booking *k)
{
	if (!k->finished)
		return (struct amounts_of){ .beside = { { k->tokens, k->microusd } } };
	return (struct amounts_of){ { { k->tokens, k->told_microusd } }, { { 0, k->microusd - k->told_microusd } } };
}

static struct amounts sum_of(struct amounts_of n)
{
	return (struct amounts){ { n.lent.n[TOKENS] + n.beside.n[TOKENS], n.lent.n[MICROUSD] + n.beside.n[MICROUSD] } };
}

bool budgets_note(struct budgets *b, const struct ledger_booking *k, struct arena *mem, struct why *why)
{
	ProtobufCAllocator alloc = { of_arena, keep, mem };
	const Corral__UsageEvent *e = k->event;
	struct amounts_of n = amounts_of(k);
	const Corral__BudgetCharges *named = NULL;

	(void)why;
	if (e->cached || (none(n.lent) && none(n.beside)) || !b->n)
		return true;
	if (e->budgets.len)
		named = corral__budget_charges__unpack(&alloc, e->budgets.len, e->budgets.data);
	for (size_t i = 0; named && i < named->n_charges; i++) {
		const struct one_budget *o = budget_find(b, (int64_t)named->charges[i]->budget);

		if (!o)
			continue;
		add(b, o, str_of(named->holder), named->charges[i]->period_us, n.lent);
		add(b, o, STR(""), named->charges[i]->period_us, n.beside);
	}
	for (size_t i = 0; i < b->n; i++)
		if (!b->list[i].removed && b->list[i].created_us <= request_time_us(e) && covers(&b->list[i], e) && !is_named(named, b->list[i].id))
			add(b, &b->list[i], STR(""), request_time_us(e), sum_of(n));
	return true;
}

/* --- booking --- */

static int by_budget(const void *x, const void *y)
{
	const struct charge *a = x, *b = y;

	if (a->budget != b->budget)
		return a->budget < b->budget ? -1 : 1;
	if (a->period_us != b->period_us)
		return a->period_us < b->period_us ? -1 : 1;
	return str_cmp(a->holder, b->holder);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Divides a charge: what the holder's lease covers, what was booked without facts before, and what nobody had lent. */
struct parts { struct amounts lent, written, beyond; };

static bool from_lease(struct budgets *b, const struct charge *c, struct lease_row *l, struct parts *ret, struct why *why)
{
	struct amounts rest;
	bool found = false;

	*ret = (struct parts){ .beyond = c->n };
	if (c->holder.n && !lease_get(b, c->budget, c->period_us, c->holder.p, &found, l, why))
		return false;
	if (!found)
		return true;
	rest = lease_rest(l);
	for (unsigned k = 0; k < AMOUNTS; k++) {
		ret->written.n[k] = smaller(c->n.n[k], l->written.n[k]);
		ret->lent.n[k] = smaller(c->n.n[k] - ret->written.n[k], rest.n[k]);
		ret->beyond.n[k] = c->n.n[k] - ret->written.n[k] - ret->lent.n[k];
		l->written.n[k] -= ret->written.n[k];
		l->settled.n[k] += c->n.n[k] - ret->written.n[k];
		if (l->granted.n[k] < l->settled.n[k])
			l->granted.n[k] = l->settled.n[k];       /* what is lent next is all there to be used */
	}
	return lease_set(b, l, why);
}

/* The limit was passed by a fact: said once each time, for its owner to see. */
static bool note_overdrawn(struct budgets *b, struct one_budget *o, int64_t key_us, int64_t ends_us, struct amounts beyond, struct why *why)
{
	struct amounts a[ACCOUNTS];
	bool over = false;

	if (none(beyond))
		return true;
	if (!period_get(b, o, key_us, ends_us, a, why))
		return false;
	for (unsigned k = 0; k < AMOUNTS; k++)
		over |= beyond.n[k] > 0 && o->limit.n[k] != BUDGET_UNLIMITED && a[USED].n[k] + a[HELD].n[k] + a[IN_DOUBT].n[k] > o->limit.n[k];
	if (!over)
		return true;
	o->overdrawn++;
	return db_run(b->db, B_OVERDRAWN, (struct db_value[]){ DB_I(o->id) }, 1, NULL, NULL, NULL, why);
}

/* Nobody's lease. */
static bool adjust(struct budgets *b, const struct charge *c, struct amounts n, int64_t now_us, struct why *why)
{
	struct amounts more = { { 0 } }, less = { { 0 } };

	for (unsigned k = 0; k < AMOUNTS; k++) {
		more.n[k] = n.n[k] > 0 ? n.n[k] : 0;
		less.n[k] = n.n[k] < 0 ? -n.n[k] : 0;
	}
	return move(b, "adjust", c->budget, c->period_us, c->holder.p, FREE, USED, more, now_us, why) &&
	       move(b, "refund", c->budget, c->period_us, c->holder.p, USED, FREE, less, now_us, why);
}

static bool book_one(struct budgets *b, const struct charge *c, int64_t now_us, struct why *why)
{
	struct one_budget *o = budget_find(b, c->budget);
	struct lease_row l = { 0 };
	int64_t key_us, ends_us;
	struct amounts a[ACCOUNTS];
	struct parts p;

	budget_period_at(&o->every, b->zone, c->at_us, &key_us, &ends_us);
	if (!period_get(b, o, c->period_us, ends_us, a, why) ||
	    !db_run(b->db, B_PERIOD_LOCK, (struct db_value[]){ DB_I(o->id), DB_I(c->period_us) }, 2, NULL, NULL, NULL, why) || !from_lease(b, c, &l, &p, why))
		return false;
	if (!move(b, "settle", c->budget, c->period_us, c->holder.p, l.in_doubt ? IN_DOUBT : HELD, USED, p.lent, now_us, why) ||
	    !adjust(b, c, p.beyond, now_us, why))
		return false;
	if (o->every.every == EVERY_ROLLING &&
	    !db_run(b->db, B_SLICE_ADD,
		    (struct db_value[]){ DB_I(o->id), DB_I(c->at_us), DB_I(p.lent.n[TOKENS] + p.beyond.n[TOKENS]), DB_I(p.lent.n[MICROUSD] + p.beyond.n[MICROUSD]) }, 4,
		    NULL, NULL, NULL, why))
		return false;
	return note_overdrawn(b, o, c->period_us, ends_us, p.beyond, why);
}

bool budgets_book(struct budgets *b, int64_t now_us, struct why *why)
{
	bool ok = true;

	if (b->n_charges > 1)
		qsort(b->charges, b->n_charges, sizeof(*b->charges), by_budget);
	for (size_t i = 0; ok && i < b->n_charges; i++)
		ok = book_one(b, &b->charges[i], now_us, why);
	budgets_forget(b);
	return ok;
}

void budgets_forget(struct budgets *b)
{
	b->n_charges = 0;
	arena_reset(b->batch_mem);
}

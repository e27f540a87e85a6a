/* budget_lend.c - leases: given, given back, doubted, closed; see budgets.h.
 *
 * A gateway says what it knows to have been granted and what it wants beyond that. All numbers are absolute, so that an ask whose answer was
 * lost can be made again: it finds more granted than it knew of. What it gives back it has stopped to use before it says so. */
#include <stdlib.h>

#include "services/usage-tracker/budgets_impl.h"

enum {
	TIGHT_US = 2000 * 1000,
	MOST_HOLDERS = 4096
};

/* --- holders --- */

static struct holder *holder_of(struct budgets *b, const char *name)
{
	struct holder *h = b->holders;

	while (h && strcmp(h->name, name) != 0)
		h = h->next;
	return h;
}

static struct holder *holder_heard(struct budgets *b, const Corral__BudgetLeaseRequest *q, int64_t mono_now_us, struct why *why)
{
	struct holder *h = holder_of(b, q->holder);
	size_t n = 0;

	if (!q->holder[0] || strlen(q->holder) >= sizeof(h->name)) {
		err_set(why, ERR_INVALID, "a holder needs a name of at most %zu bytes", sizeof(h->name) - 1);
		return NULL;
	}
	if (h && q->seq <= h->seq) {
		err_set(why, ERR_CONFLICT, "this ask was overtaken by a later one");
		return NULL;
	}
	for (struct holder *o = b->holders; o && !h; o = o->next)
		n++;
	if (n >= MOST_HOLDERS) {
		err_set(why, ERR_UNAVAILABLE, "there are %d gateways already", MOST_HOLDERS);
		return NULL;
	}
	if (!h) {
		h = x_calloc(1, sizeof(*h));
		snprintf(h->name, sizeof(h->name), "%s", q->holder);
		h->next = b->holders;
		b->holders = h;
	}
	h->heard_us = mono_now_us;
	h->seq = q->seq;
	return h;
}

static bool is_silent(const struct holder *h, int64_t mono_now_us) { return mono_now_us - h->heard_us > BUDGET_TTL_MS * 1000LL; }

static int64_t living(const struct budgets *b, int64_t mono_now_us)
{
	int64_t n = 0;

	for (const struct holder *h = b->holders; h; h = h->next)
		n += !is_silent(h, mono_now_us);
	return n ? n : 1;
}

static void holder_forget(struct budgets *b, const char *name)
{
	struct holder **at = &b->holders, *h;

	while ((h = *at) && strcmp(h->name, name) != 0)
		at = &h->next;
	if (h) {
		*at = h->next;
		free(h);
	}
}

/* --- lending --- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t at_least_0(int64_t a) { return a > 0 ? a : 0; }

static struct amounts left_of(const struct one_budget *o, const struct amounts a[ACCOUNTS])
{
	struct amounts left;

	for (unsigned k = 0; k < AMOUNTS; k++)
		left.n[k] = o->limit.n[k] == BUDGET_UNLIMITED ? BUDGET_UNLIMITED : o->limit.n[k] - a[USED].n[k] - a[HELD].n[k] - a[IN_DOUBT].n[k];
	return left;
}

struct wish { struct amounts known, want, ahead; };

/* What is lent: the need as far as there is any, and of the rest for what is expected a share that leaves the others theirs. */
static struct amounts share(const struct wish *w, const struct lease_row *l, struct amounts left, bool tight, int64_t gateways, bool *ret_short)
{
	struct amounts n;

	for (unsigned k = 0; k < AMOUNTS; k++) {
		int64_t need = at_least_0(w->known.n[k] + w->want.n[k] - l->granted.n[k]), rest, ahead;

		n.n[k] = smaller(need, at_least_0(left.n[k]));
		*ret_short |= n.n[k] < need;
		rest = at_least_0(left.n[k]) - n.n[k];
		ahead = at_least_0(w->known.n[k] + w->want.n[k] + w->ahead.n[k] - l->granted.n[k] - n.n[k]);
		if (!tight)
			n.n[k] += smaller(ahead, rest / (2 * (gateways + 1)));
	}
	return n;
}

static bool grant(struct budgets *b, struct one_budget *o, struct lease_row *l, struct amounts n, int64_t now_us, bool *ret_granted, struct why *why)
{
	int64_t changed = 0;

	*ret_granted = false;
	if (none(n))
		return true;
	if (!db_run(b->db, B_PERIOD_GRANT, (struct db_value[]){ DB_I(o->id), DB_I(l->period_us), DB_I(n.n[TOKENS]), DB_I(n.n[MICROUSD]) }, 4, NULL, NULL, &changed, why))
		return false;
	if (!changed)
		return true;              /* another was quicker; asked again, it is seen what is left */
	for (unsigned k = 0; k < AMOUNTS; k++)
		l->granted.n[k] += n.n[k];
	*ret_granted = true;
	return db_run(b->db, B_LEASE_ADD, (struct db_value[]){ DB_I(o->id), DB_I(l->period_us), DB_Z(l->holder), DB_I(now_us) }, 4, NULL, NULL, NULL, why) &&
	       lease_set(b, l, why) && entry_add(b, "reserve", o->id, l->period_us, l->holder, FREE, HELD, n, now_us, why);
}

static bool give_back(struct budgets *b, const Corral__BudgetDemand *d, const char *holder, int64_t now_us, struct why *why)
{
	const int64_t known[AMOUNTS] = { d->granted_tokens, d->granted_microusd };
	struct amounts back = { { 0 } };
	struct lease_row l;
	bool found;

	if (!lease_get(b, (int64_t)d->budget, d->period_us, holder, &found, &l, why))
		return false;
	if (!found)
		return true;
	if (!lease_doubt(b, &l, false, now_us, why))
		return false;
	for (unsigned k = 0; k < AMOUNTS; k++) {
		int64_t keep = known[k] > l.settled.n[k] ? known[k] : l.settled.n[k];

		back.n[k] = at_least_0(l.granted.n[k] - keep);
		l.granted.n[k] -= back.n[k];
	}
	return none(back) || (move(b, "release", l.budget, l.period_us, holder, HELD, FREE, back, now_us, why) && lease_set(b, &l, why));
}

static void tell(const struct one_budget *o, const struct lease_row *l, int64_t ends_us, const struct amounts a[ACCOUNTS], int64_t mono_now_us, Corral__BudgetLease *ret)
{
	struct amounts left = left_of(o, a);

	ret->budget = (uint64_t)o->id;
	ret->period_us = l->period_us;
	ret->ends_us = ends_us;
	ret->granted_tokens = l->granted.n[TOKENS];
	ret->granted_microusd = l->granted.n[MICROUSD];
	ret->settled_tokens = l->settled.n[TOKENS];
	ret->settled_microusd = l->settled.n[MICROUSD];
	ret->left_tokens = left.n[TOKENS];
	ret->left_microusd = left.n[MICROUSD];
	ret->most_tokens = o->limit.n[TOKENS] == BUDGET_UNLIMITED ? BUDGET_UNLIMITED : left.n[TOKENS] + a[HELD].n[TOKENS];
	ret->most_microusd = o->limit.n[MICROUSD] == BUDGET_UNLIMITED ? BUDGET_UNLIMITED : left.n[MICROUSD] + a[HELD].n[MICROUSD];
	ret->tight = mono_now_us < o->tight_until_us;
}

/* One budget of an ask, in its present period; NULL in *ret: there is no such budget any more. */
static bool lend(struct budgets *b, const Corral__BudgetDemand *d, const char *holder, int64_t now_us, int64_t mono_now_us, struct arena *mem, Corral__BudgetLease **ret,
		 struct why *why)
{
	struct one_budget *o = budget_find(b, (int64_t)d->budget);
	struct amounts a[ACCOUNTS], n;
	int64_t key_us, ends_us;
	struct lease_row l;
	struct wish w;
	bool found, is_short = false, granted;

	*ret = NULL;
	if (d->gives_back && !give_back(b, d, holder, now_us, why))
		return false;
	if (!o || o->removed)
		return true;
	budget_period_at(&o->every, b->zone, now_us, &key_us, &ends_us);
	if (!slices_expire(b, o, now_us, why) || !period_get(b, o, key_us, ends_us, a, why) || !lease_get(b, o->id, key_us, holder, &found, &l, why))
		return false;
	if (found && l.in_doubt && (!lease_doubt(b, &l, false, now_us, why) || !period_get(b, o, key_us, ends_us, a, why)))
		return false;
	w = (struct wish){ { { d->granted_tokens, d->granted_microusd } }, { { d->want_tokens, d->want_microusd } }, { { d->ahead_tokens, d->ahead_microusd } } };
	if (d->period_us != key_us)
		w.known = (struct amounts){ { 0 } };
	if (!o->shadow) {
		n = share(&w, &l, left_of(o, a), mono_now_us < o->tight_until_us, living(b, mono_now_us), &is_short);
		if (!grant(b, o, &l, n, now_us, &granted, why) || (granted && !period_get(b, o, key_us, ends_us, a, why)))
			return false;
	}
	if (is_short)
		o->tight_until_us = mono_now_us + TIGHT_US;
	*ret = arena_new_of(mem, Corral__BudgetLease);
	corral__budget_lease__init(*ret);
	tell(o, &l, ends_us, a, mono_now_us, *ret);
	return budget_resets(b, o, ends_us, now_us, &(*ret)->resets_us, why);
}

/* --- the end of a life --- */

/* All facts of it are in the ledger: what they did not use was not used. One that still speaks has not ended. */
static bool close_holder(struct budgets *b, const char *name, int64_t now_us, int64_t mono_now_us, struct arena *mem, bool *ret_closed, struct why *why)
{
	struct holder *h = holder_of(b, name);
	struct lease_row *rows;
	size_t n;

	*ret_closed = false;
	if (h && !is_silent(h, mono_now_us))
		return true;
	if (!leases_each(b, B_LEASES_OF, (struct db_value[]){ DB_Z(name) }, 1, mem, &rows, &n, why))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!lease_release(b, &rows[i], now_us, why) ||
		    !db_run(b->db, B_LEASE_DROP, (struct db_value[]){ DB_I(rows[i].budget), DB_I(rows[i].period_us), DB_Z(name) }, 3, NULL, NULL, NULL, why))
			return false;
	*ret_closed = true;
	return true;
}

static bool close_ended(struct budgets *b, const Corral__BudgetLeaseRequest *q, int64_t now_us, int64_t mono_now_us, struct arena *mem, Corral__BudgetLeaseReply *ret,
			struct why *why)
{
	ret->closed = arena_array(mem, char *, q->n_ended + 1);
	for (size_t i = 0; i < q->n_ended; i++) {
		bool closed;

		if (strcmp(q->ended[i], q->holder) == 0)
			continue;
		if (!close_holder(b, q->ended[i], now_us, mono_now_us, mem, &closed, why))
			return false;
		if (closed)
			ret->closed[ret->n_closed++] = arena_dup(mem, q->ended[i], strlen(q->ended[i]));
	}
	return true;
}

/* --- an ask --- */

static int by_budget(const void *x, const void *y)
{
	const Corral__BudgetDemand *const *a = x, *const *b = y;

	if ((*a)->budget != (*b)->budget)
		return (*a)->budget < (*b)->budget ? -1 : 1;
	return (*a)->period_us < (*b)->period_us ? -1 : (*a)->period_us > (*b)->period_us;
}

static bool lend_all(struct budgets *b, const Corral__BudgetLeaseRequest *q, int64_t now_us, int64_t mono_now_us, struct arena *mem, Corral__BudgetLeaseReply *ret,
		     struct why *why)
{
	Corral__BudgetDemand **sorted = arena_array(mem, Corral__BudgetDemand *, q->n_demands + 1);

	if (q->n_demands)
		memcpy(sorted, q->demands, q->n_demands * sizeof(*sorted));
	qsort(sorted, q->n_demands, sizeof(*sorted), by_budget);
	ret->leases = arena_array(mem, Corral__BudgetLease *, q->n_demands + 1);
	for (size_t i = 0; i < q->n_demands; i++) {
		Corral__BudgetLease *lease;

		if (!lend(b, sorted[i], q->holder, now_us, mono_now_us, mem, &lease, why))
			return false;
		if (lease)
			ret->leases[ret->n_leases++] = lease;
	}
	return close_ended(b, q, now_us, mono_now_us, mem, ret, why);
}

static bool has_work(const Corral__BudgetLeaseRequest *q) { return q->n_demands || q->n_ended; }

/* What was doubted is believed again: it speaks. */
static bool revive(struct budgets *b, struct holder *h, int64_t now_us, struct arena *mem, struct why *why)
{
	struct lease_row *rows;
	size_t n;

	if (!h->doubted && !h->loaded)
		return true;
	if (!leases_each(b, B_LEASES_OF, (struct db_value[]){ DB_Z(h->name) }, 1, mem, &rows, &n, why))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!lease_doubt(b, &rows[i], false, now_us, why))
			return false;
	return true;
}

bool budgets_lease(struct budgets *b, const Corral__BudgetLeaseRequest *q, int64_t now_us, int64_t mono_now_us, struct arena *mem, Corral__BudgetLeaseReply *ret,
		   struct why *why)
{
	struct holder *h = holder_heard(b, q, mono_now_us, why);

	if (!h)
		return false;
	corral__budget_lease_reply__init(ret);
	ret->version = b->version;
	if (q->version != b->version)
		budgets_write_list(b, mem, ret);
	if (!has_work(q) && !h->doubted && !h->loaded)
		return true;
	if (!db_begin(b->db, why))
		return false;
	if (!revive(b, h, now_us, mem, why) || !lend_all(b, q, now_us, mono_now_us, mem, ret, why) || !db_commit(b->db, why)) {
		db_rollback(b->db);
		return false;
	}
	h->doubted = h->loaded = false;
	for (size_t i = 0; i < ret->n_closed; i++)
		holder_forget(b, ret->closed[i]);
	return true;
}

/* --- by time --- */

static bool doubt_holder(struct budgets *b, struct holder *h, int64_t now_us, struct arena *mem, struct why *why)
{
	struct lease_row *rows;
	size_t n;

	if (!leases_each(b, B_LEASES_OF, (struct db_value[]){ DB_Z(h->name) }, 1, mem, &rows, &n, why))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!lease_doubt(b, &rows[i], true, now_us, why))
			return false;
	return true;
}

/* What is in doubt for too long by the operator's word: it counts as used, and facts that come after all are not charged again. */
static bool write_one(struct budgets *b, struct lease_row *l, int64_t now_us, struct why *why)
{
	struct one_budget *o = budget_find(b, l->budget);
	struct amounts rest = lease_rest(l);

	for (unsigned k = 0; k < AMOUNTS; k++) {
		l->settled.n[k] += rest.n[k];
		l->written.n[k] += rest.n[k];
	}
	if (o && o->every.every == EVERY_ROLLING && !none(rest) &&
	    !db_run(b->db, B_SLICE_ADD, (struct db_value[]){ DB_I(o->id), DB_I(now_us - now_us % o->every.slice_us), DB_I(rest.n[TOKENS]), DB_I(rest.n[MICROUSD]) }, 4,
		    NULL, NULL, NULL, why))
		return false;
	l->since_us = INT64_MAX;          /* done */
	return move(b, "write", l->budget, l->period_us, l->holder, IN_DOUBT, USED, rest, now_us, why) && lease_set(b, l, why);
}

static bool write_lapsed(struct budgets *b, int64_t now_us, struct arena *mem, struct why *why)
{
	struct lease_row *rows;
	size_t n;

	if (!b->in_doubt_ms)
		return true;
	if (!leases_each(b, B_LEASES_LAPSED, (struct db_value[]){ DB_I(now_us - b->in_doubt_ms * 1000) }, 1, mem, &rows, &n, why))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!write_one(b, &rows[i], now_us, why))
			return false;
	return true;
}

/* Of a period that ended an hour ago nothing is under way any more. What is in doubt stays so: its facts may yet come. */
static bool tidy(struct budgets *b, int64_t now_us, struct arena *mem, struct why *why)
{
	struct lease_row *rows;
	size_t n;

	if (!leases_each(b, B_LEASES_ENDED, (struct db_value[]){ DB_I(now_us - 3600 * 1000000LL) }, 1, mem, &rows, &n, why))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!rows[i].in_doubt &&
		    (!lease_release(b, &rows[i], now_us, why) ||
		     !db_run(b->db, B_LEASE_DROP, (struct db_value[]){ DB_I(rows[i].budget), DB_I(rows[i].period_us), DB_Z(rows[i].holder) }, 3, NULL, NULL, NULL, why)))
			return false;
	return true;
}

static bool tick_all(struct budgets *b, int64_t now_us, int64_t mono_now_us, struct arena *mem, struct why *why)
{
	for (struct holder *h = b->holders; h; h = h->next)
		if (is_silent(h, mono_now_us) && !h->doubted && !doubt_holder(b, h, now_us, mem, why))
			return false;
	return write_lapsed(b, now_us, mem, why) && tidy(b, now_us, mem, why);
}

bool budgets_tick(struct budgets *b, int64_t now_us, int64_t mono_now_us, struct why *why)
{
	struct arena *mem;
	bool ok;

	if (!budgets_reload(b, why))
		return false;
	if (!b->n)
		return true;
	mem = arena_new(0);
	ok = db_begin(b->db, why);
	if (ok && !(tick_all(b, now_us, mono_now_us, mem, why) && db_commit(b->db, why))) {
		db_rollback(b->db);
		ok = false;
	}
	arena_free(mem);
	for (struct holder *h = b->holders; h && ok; h = h->next)
		h->doubted |= is_silent(h, mono_now_us);
	return ok;
}

/* budgets.c - the list of budgets: made, replaced, removed, shown; see budgets.h. budget_lend.c lends of them, budget_settle.c charges them. */
#include "services/usage-tracker/budgets.h"

#include <stdlib.h>

#include "services/usage-tracker/budgets_impl.h"

/* So much can be added up a thousand times without a number running over. */
#define MOST_LIMIT INT64_C(1000000000000000)

enum { NAME_MAX_BYTES = 96 };

const char *const budget_kind_names[BUDGET_KINDS] = {
	[BUDGET_ORGANISATION] = "organisation", [BUDGET_TEAM] = "team", [BUDGET_TENANT] = "tenant", [BUDGET_KEY] = "key", [BUDGET_USER] = "user",
	[BUDGET_PROVIDER] = "provider",
};

bool budget_scope(struct str scope, enum budget_kind *ret_kind, struct str *ret_name)
{
	struct str rest = scope, kind;

	if (!str_split(&rest, ':', &kind) || !rest.p || !rest.n || rest.n > NAME_MAX_BYTES)
		return false;
	for (size_t i = 0; i < rest.n; i++)
		if ((unsigned char)rest.p[i] < 0x21 || rest.p[i] == 0x7f)
			return false;
	for (unsigned k = 0; k < BUDGET_KINDS; k++)
		if (str_eqz(kind, budget_kind_names[k])) {
			*ret_kind = (enum budget_kind)k;
			*ret_name = rest;
			return true;
		}
	return false;
}

/* --- the list in memory --- */

static int64_t limit_of(struct db_value v) { return v.type == DB_NULL ? BUDGET_UNLIMITED : v.i; }

static bool load_one(void *arg, const struct db_row *row)
{
	struct budgets *b = arg;
	struct one_budget *more, *o;

	if ((b->n & (b->n - 1)) == 0) {           /* full at each power of two */
		more = arena_alloc(b->mem, (b->n ? 2 * b->n : 1) * sizeof(*more));
		if (b->n)
			memcpy(more, b->list, b->n * sizeof(*more));
		b->list = more;
	}
	o = &b->list[b->n];
	*o = (struct one_budget){ .id = db_int(row, 0), .scope = arena_str(b->mem, db_str(row, 1)), .tenant = arena_str(b->mem, db_str(row, 2)),
				  .period = arena_str(b->mem, db_str(row, 3)), .shadow = db_int(row, 4) != 0,
				  .limit = { { limit_of(db_col(row, 5)), limit_of(db_col(row, 6)) } }, .removed = db_int(row, 7) != 0,
				  .created_us = db_int(row, 8), .overdrawn = db_int(row, 10), .unlimited = db_int(row, 11) != 0 };
	if (!budget_scope(o->scope, &o->kind, &o->name) || !budget_period_parse(o->period, &o->every, NULL))
		return true;              /* a later version's: not ours to act on */
	if ((uint64_t)db_int(row, 9) > b->version)
		b->version = (uint64_t)db_int(row, 9);
	b->n++;
	return true;
}

bool budgets_reload(struct budgets *b, struct why *why)
{
	struct arena *was = b->mem;
	struct one_budget *old = b->list;
	size_t n_old = b->n, j = 0;
	bool ok;

	b->mem = arena_new(4096);
	b->list = NULL;
	b->n = 0;
	ok = db_run(b->db, B_ALL, NULL, 0, load_one, b, NULL, why);
	if (!ok) {
		arena_free(b->mem);
		b->mem = was;
		b->list = old;
		b->n = n_old;
		return false;
	}
	for (size_t i = 0; i < b->n; i++) {
		while (j < n_old && old[j].id < b->list[i].id)
			j++;
		if (j < n_old && old[j].id == b->list[i].id)
			b->list[i].tight_until_us = old[j].tight_until_us;
	}
	arena_free(was);
	return true;
}

struct one_budget *budget_find(struct budgets *b, int64_t id)
{
	size_t low = 0, high = b->n;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (b->list[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < b->n && b->list[low].id == id ? &b->list[low] : NULL;
}

/* --- open and close --- */

struct loading { struct budgets *b; int64_t mono_now_us; };

static bool load_holder(void *arg, const struct db_row *row)
{
	struct loading *l = arg;
	struct holder *h = x_calloc(1, sizeof(*h));

	(void)str_copy(h->name, sizeof(h->name), db_str(row, 0));
	h->loaded = true;
	h->heard_us = l->mono_now_us;     /* it has as long to speak as if it had just done so */
	h->next = l->b->holders;
	l->b->holders = h;
	return true;
}

struct budgets *budgets_open(struct db *db, const struct zone *zone, int64_t in_doubt_ms, int64_t mono_now_us, struct why *why)
{
	struct budgets *b = x_calloc(1, sizeof(*b));
	struct loading l = { b, mono_now_us };

	b->db = db;
	b->zone = zone;
	b->in_doubt_ms = in_doubt_ms;
	b->version = 1;
	b->batch_mem = arena_new(4096);
	if (budgets_reload(b, why) && db_run(db, B_HOLDERS, NULL, 0, load_holder, &l, NULL, why))
		return b;
	budgets_close(b);
	return NULL;
}

void budgets_close(struct budgets *b)
{
	if (!b)
		return;
	while (b->holders) {
		struct holder *h = b->holders;

		b->holders = h->next;
		free(h);
	}
	arena_free(b->mem);
	arena_free(b->batch_mem);
	free(b->charges);
	free(b);
}

/* --- making and removing --- */

static bool limit_ok(bool given, int64_t limit, const char *field, struct why *why)
{
	return !given || (limit >= 0 && limit <= MOST_LIMIT) ||
	       err_field(why, ERR_INVALID, field, "a limit is from 0 (nothing) to %lld; null = no limit of this kind", (long long)MOST_LIMIT) == ERR_OK;
}

/* Whose it is, from what it limits. */
static bool owner_of(const Corral__Budget *p, enum budget_kind kind, struct str name, struct str *ret, struct why *why)
{
	struct str said = str_of(p->tenant);

	switch (kind) {
	case BUDGET_ORGANISATION:
	case BUDGET_PROVIDER:
		*ret = STR("");
		return true;
	case BUDGET_TENANT:
		*ret = name;
		return true;
	default:
		*ret = said.n ? said : STR("default");
		return ret->n <= 63 || err_field(why, ERR_INVALID, "tenant", "there is no tenant with such a name") == ERR_OK;
	}
}

static struct db_value limit_value(bool given, int64_t limit) { return given ? DB_I(limit) : DB_NIL; }

static struct one_budget *find_named(struct budgets *b, struct str scope, struct str tenant, struct str period)
{
	for (size_t i = 0; i < b->n; i++)
		if (str_eq(b->list[i].scope, scope) && str_eq(b->list[i].tenant, tenant) && str_eq(b->list[i].period, period))
			return &b->list[i];
	return NULL;
}

static int64_t changed_us(const struct budgets *b, int64_t now_us) { return now_us > (int64_t)b->version ? now_us : (int64_t)b->version + 1; }

static bool write_budget(struct budgets *b, const Corral__Budget *p, struct str tenant, int64_t now_us, struct why *why)
{
	const struct db_value row[] = { DB_Z(p->scope), DB_S(tenant), DB_Z(p->period), DB_I(p->shadow), limit_value(p->limits_tokens, p->limit_tokens),
					limit_value(p->limits_microusd, p->limit_microusd), DB_I(changed_us(b, now_us)), DB_I(p->unlimited) };
	int64_t added = 0;

	if (!db_run(b->db, B_ADD, row, sizeof(row) / sizeof(*row), NULL, NULL, &added, why))
		return false;
	return (added || db_run(b->db, B_SET, row, sizeof(row) / sizeof(*row), NULL, NULL, NULL, why)) && budgets_reload(b, why);
}

static bool put_state(struct budgets *, struct one_budget *, int64_t now_us, struct arena *, Corral__BudgetState *ret, struct why *);

bool budgets_put(struct budgets *b, const Corral__Budget *p, int64_t now_us, struct arena *mem, Corral__BudgetState *ret, struct why *why)
{
	struct budget_period every;
	enum budget_kind kind;
	struct str name, tenant;

	if (!budget_scope(str_of(p->scope), &kind, &name))
		return err_field(why, ERR_INVALID, "scope", "'%.80s' is no scope; write organisation:, team:, tenant:, key:, user: or provider: with a name behind it",
				 p->scope) == ERR_OK;
	if (!budget_period_parse(str_of(p->period), &every, why) || !limit_ok(p->limits_tokens, p->limit_tokens, "tokens", why) ||
	    !limit_ok(p->limits_microusd, p->limit_microusd, "microusd", why) || !owner_of(p, kind, name, &tenant, why))
		return false;
	if (p->unlimited && (p->limits_tokens || p->limits_microusd || p->shadow))
		return err_field(why, ERR_INVALID, "unlimited", "what is unlimited has no limit, and no mode shadow") == ERR_OK;
	return write_budget(b, p, tenant, now_us, why) && put_state(b, find_named(b, str_of(p->scope), tenant, str_of(p->period)), now_us, mem, ret, why);
}

bool budgets_remove(struct budgets *b, const char *scope, const char *tenant, const char *period, int64_t now_us, bool *ret_changed, struct why *why)
{
	const struct db_value row[] = { DB_Z(scope), DB_Z(tenant), DB_Z(period), DB_I(changed_us(b, now_us)) };
	int64_t changed = 0;

	if (!db_run(b->db, B_REMOVE, row, 4, NULL, NULL, &changed, why) || !budgets_reload(b, why))
		return false;
	*ret_changed = changed > 0;
	return true;
}

/* --- showing --- */

static void fill(const struct one_budget *o, struct arena *mem, Corral__Budget *ret)
{
	corral__budget__init(ret);
	ret->id = (uint64_t)o->id;
	ret->scope = (char *)arena_str(mem, o->scope).p;
	ret->tenant = (char *)arena_str(mem, o->tenant).p;
	ret->period = (char *)arena_str(mem, o->period).p;
	ret->shadow = o->shadow;
	ret->unlimited = o->unlimited;
	ret->limits_tokens = o->limit.n[TOKENS] != BUDGET_UNLIMITED;
	ret->limit_tokens = ret->limits_tokens ? o->limit.n[TOKENS] : 0;
	ret->limits_microusd = o->limit.n[MICROUSD] != BUDGET_UNLIMITED;
	ret->limit_microusd = ret->limits_microusd ? o->limit.n[MICROUSD] : 0;
}

void budgets_write_list(struct budgets *b, struct arena *mem, Corral__BudgetLeaseReply *ret)
{
	ret->whole = true;
	ret->budgets = arena_array(mem, Corral__Budget *, b->n + 1);
	for (size_t i = 0; i < b->n; i++) {
		if (b->list[i].removed)
			continue;
		ret->budgets[ret->n_budgets] = arena_new_of(mem, Corral__Budget);
		fill(&b->list[i], mem, ret->budgets[ret->n_budgets++]);
	}
}

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

bool budget_resets(struct budgets *b, const struct one_budget *o, int64_t ends_us, int64_t now_us, int64_t *ret, struct why *why)
{
	int64_t oldest = 0;

	*ret = ends_us;
	if (o->every.every != EVERY_ROLLING)
		return true;
	if (!db_run(b->db, B_SLICE_OLDEST, (struct db_value[]){ DB_I(o->id) }, 1, keep_int, &oldest, NULL, why))
		return false;
	*ret = oldest ? oldest + o->every.window_us + o->every.slice_us : now_us + o->every.window_us;
	return true;
}

/* The period's accounts are made when they are looked at first: a row of nothing. */
static bool put_state(struct budgets *b, struct one_budget *o, int64_t now_us, struct arena *mem, Corral__BudgetState *ret, struct why *why)
{
	struct amounts a[ACCOUNTS];
	int64_t key_us, ends_us;

	corral__budget_state__init(ret);
	budget_period_at(&o->every, b->zone, now_us, &key_us, &ends_us);
	if (!slices_expire(b, o, now_us, why) || !period_get(b, o, key_us, ends_us, a, why) || !budget_resets(b, o, ends_us, now_us, &ret->resets_us, why))
		return false;
	ret->budget = arena_new_of(mem, Corral__Budget);
	fill(o, mem, ret->budget);
	ret->used_tokens = a[USED].n[TOKENS];
	ret->held_tokens = a[HELD].n[TOKENS];
	ret->in_doubt_tokens = a[IN_DOUBT].n[TOKENS];
	ret->used_microusd = a[USED].n[MICROUSD];
	ret->held_microusd = a[HELD].n[MICROUSD];
	ret->in_doubt_microusd = a[IN_DOUBT].n[MICROUSD];
	ret->period_us = key_us;
	ret->overdrawn = (uint64_t)o->overdrawn;
	return true;
}

static bool list_all(struct budgets *b, budget_visible *visible, void *arg, int64_t now_us, struct arena *mem, Corral__ListBudgetsReply *ret, struct why *why)
{
	corral__list_budgets_reply__init(ret);
	ret->rows = arena_array(mem, Corral__BudgetState *, b->n + 1);
	for (size_t i = 0; i < b->n; i++) {
		Corral__BudgetState *s = arena_new_of(mem, Corral__BudgetState);

		if (b->list[i].removed)
			continue;
		if (!put_state(b, &b->list[i], now_us, mem, s, why))
			return false;
		if (!visible || visible(arg, s->budget))
			ret->rows[ret->n_rows++] = s;
	}
	return true;
}

bool budgets_list(struct budgets *b, budget_visible *visible, void *arg, int64_t now_us, struct arena *mem, Corral__ListBudgetsReply *ret, struct why *why)
{
	corral__list_budgets_reply__init(ret);
	if (!b->n)
		return true;
	if (!db_begin(b->db, why))
		return false;
	if (list_all(b, visible, arg, now_us, mem, ret, why) && db_commit(b->db, why))
		return true;
	db_rollback(b->db);
	return false;
}

/* --- the proof in the books --- */

struct sums_of { struct amounts account[ACCOUNTS]; };

static bool take_sum(void *arg, const struct db_row *row)
{
	static const char *const names[ACCOUNTS] = { [USED] = "used", [HELD] = "held", [IN_DOUBT] = "in_doubt" };
	struct sums_of *s = arg;

	for (unsigned a = 0; a < ACCOUNTS; a++)
		if (str_eqz(db_str(row, 0), names[a]))
			s->account[a] = (struct amounts){ { db_int(row, 1), db_int(row, 2) } };
	return true;
}

static bool audit_one(struct budgets *b, const struct one_budget *o, int64_t now_us, struct why *why)
{
	struct amounts a[ACCOUNTS];
	struct sums_of s = { 0 };
	int64_t key_us, ends_us;

	budget_period_at(&o->every, b->zone, now_us, &key_us, &ends_us);
	if (!period_get(b, o, key_us, ends_us, a, why) ||
	    !db_run(b->db, B_ENTRY_SUMS, (struct db_value[]){ DB_I(o->id), DB_I(key_us) }, 2, take_sum, &s, NULL, why))
		return false;
	if (memcmp(a, s.account, sizeof(a)) == 0)
		return true;
	return err_set(why, ERR_INTERNAL, "the entries of budget " STR_FMT " (" STR_FMT ") add up to used %lld, held %lld, in doubt %lld tokens; its accounts say %lld, %lld, %lld",
		       STR_ARG(o->scope), STR_ARG(o->period), (long long)s.account[USED].n[0], (long long)s.account[HELD].n[0], (long long)s.account[IN_DOUBT].n[0],
		       (long long)a[USED].n[0], (long long)a[HELD].n[0], (long long)a[IN_DOUBT].n[0]) == ERR_OK;
}

bool budgets_audit(struct budgets *b, int64_t now_us, struct why *why)
{
	for (size_t i = 0; i < b->n; i++)
		if (!audit_one(b, &b->list[i], now_us, why))
			return false;
	return true;
}

/* budget_service.c - see budget_service.h; budgets.h does the work. */
#include "services/usage-tracker/budget_service.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/authz.h"
#include "services/usage-tracker/budgets.h"

enum { TICK_US = 1000000 };

struct budget_service {
	struct svc *svc;
	struct budgets *budgets;
	struct ledger *ledger;
	struct prices *prices;
	struct budget_metrics m;
	struct arena *mem;            /* of the ask in hand */
	struct loop_timer tick;
	Corral__Budgets_Service rpc;
	bool failing;
	int64_t ask_failed_us;        /* mono: when the store failed an ask last; 0 = never */
};

static struct zone the_zone;          /* of the process: libc can be asked only before there are threads */

static struct budget_service *of(Corral__Budgets_Service *rpc)
{
	return (struct budget_service *)(void *)((char *)rpc - offsetof(struct budget_service, rpc));
}

enum err budget_zone_check(const char *name, struct why *why)
{
	if (the_zone.n)                   /* read again while it runs: the option needs a restart */
		return ERR_OK;
	if (zone_load(&the_zone, name, wall_us(), why))
		return ERR_OK;
	the_zone.n = 0;
	return why ? why->code : ERR_INVALID;
}

/* --- rights --- */

static struct subject subject_of(const Corral__Caller *c, Corral__Key *narrow)
{
	corral__key__init(narrow);
	narrow->n_actions = c->n_actions;
	narrow->actions = c->actions;
	return (struct subject){ .role = c->role, .key_id = str_of(c->key_id), .tenant = str_of(c->tenant), .key = narrow };
}

/* What is the whole installation's is for those who reach every tenant. */
static enum err may(const Corral__Caller *caller, const char *action, const char *scope, const char *tenant, struct why *why)
{
	static const Corral__Caller nobody = CORRAL__CALLER__INIT;
	Corral__Key narrow;
	struct subject s = subject_of(caller ? caller : &nobody, &narrow);
	enum err e = authorise(&s, str_of(action), str_of(scope), str_of(tenant), why);

	if (e == ERR_OK && !*tenant && !role_reaches(s.role, str_of(action)))
		return err_set(why, ERR_FORBIDDEN, "%.80s is the whole installation's; only its owner sets it", scope);
	return e;
}

/* The tenant that a scope belongs to, if it says so itself; otherwise the one named, or the caller's. */
static const char *tenant_of(const char *scope, const char *named, const Corral__Caller *caller)
{
	enum budget_kind kind;
	struct str name;

	if (!budget_scope(str_of(scope), &kind, &name))
		return "default";
	if (kind == BUDGET_ORGANISATION || kind == BUDGET_PROVIDER)
		return "";
	if (kind == BUDGET_TENANT)
		return name.p;
	return *named ? named : caller && *caller->tenant ? caller->tenant : "default";
}

/* A tenant that is named for what is not its own, or is another's, would be passed over: the budget would cover more than was meant. */
static bool is_of(const char *scope, const char *named, const char *tenant, struct why *why)
{
	enum budget_kind kind;
	struct str name;

	if (!*named || !budget_scope(str_of(scope), &kind, &name) || strcmp(named, tenant) == 0)
		return true;
	if (*tenant)
		return err_field(why, ERR_INVALID, "tenant", "%.80s is of the tenant '%.80s', and not of '%.80s'", scope, tenant, named) == ERR_OK;
	return err_field(why, ERR_INVALID, "tenant", "%.80s is the whole installation's, and no tenant's", scope) == ERR_OK;
}

/* --- asks --- */

enum { QUIET_US = 5 * TICK_US };

/* An ask may be answered from memory, and says nothing of the store then; the clock reads it, and where it can be read alone asks go on to fail. */
static bool is_good_again(const struct budget_service *s) { return !s->ask_failed_us || mono_us() - s->ask_failed_us > QUIET_US; }

static void store_state(struct budget_service *s, bool ok, const struct why *why)
{
	if (ok == !s->failing)
		return;
	s->failing = !ok;
	if (ok)
		LOG_INFO("the budgets can be used again");
	else
		LOG_ERROR("the budgets cannot be read or written; nothing new is lent", LOG_S("error", why->text));
}

/* Those that the gateway has not: all of them, for they are few and change seldom. */
static void put_prices(struct budget_service *s, const Corral__BudgetLeaseRequest *q, Corral__BudgetLeaseReply *ret)
{
	Corral__PricesReply all;

	ret->prices_version = prices_version(s->prices);
	ret->prices_whole = q->prices_version != ret->prices_version;
	if (!ret->prices_whole)
		return;
	prices_reply(s->prices, wall_us(), s->mem, &all);
	ret->prices = all.prices;
	ret->n_prices = all.n_prices;
}

static void on_lease(Corral__Budgets_Service *rpc, const Corral__BudgetLeaseRequest *q, Corral__BudgetLeaseReply_Closure closure, void *data)
{
	struct budget_service *s = of(rpc);
	Corral__BudgetLeaseReply reply;
	struct why why = { 0 };
	bool ok = budgets_lease(s->budgets, q, wall_us(), mono_us(), s->mem, &reply, &why);

	if (!ok && why.code == ERR_STORE_FAILED) {
		s->ask_failed_us = mono_us();
		store_state(s, false, &why);
	}
	series_inc(metrics_series(svc_metrics(s->svc), s->m.lent, ok ? "ok" : err_name(why.code)));
	if (ok) {
		put_prices(s, q, &reply);
		closure(&reply, data);
	} else {
		rpc_fail(data, why.code, why.text);
	}
	arena_reset(s->mem);
}

static void said(const char *action, const Corral__Caller *c, const char *scope, const char *period)
{
	LOG_INFO("administrative act", LOG_S("action", action), LOG_S("object", scope), LOG_S("period", period),
		 LOG_S("by", c && c->key_id[0] ? c->key_id : "no key"), LOG_S("request_id", c ? c->request_id : ""));
}

static void on_put(Corral__Budgets_Service *rpc, const Corral__PutBudgetRequest *q, Corral__BudgetState_Closure closure, void *data)
{
	struct budget_service *s = of(rpc);
	Corral__Budget empty = CORRAL__BUDGET__INIT, wanted = q->budget ? *q->budget : empty;
	Corral__BudgetState reply;
	const char *named = wanted.tenant;
	struct why why = { 0 };

	wanted.tenant = (char *)(uintptr_t)tenant_of(wanted.scope, named, q->caller);
	if (is_of(wanted.scope, named, wanted.tenant, &why) &&
	    may(q->caller, "budgets.write", wanted.scope, wanted.tenant, &why) == ERR_OK &&
	    budgets_put(s->budgets, &wanted, wall_us(), s->mem, &reply, &why)) {
		said("budgets.write", q->caller, wanted.scope, wanted.period);
		closure(&reply, data);
	} else {
		rpc_fail(data, why.code, why.text);
	}
	arena_reset(s->mem);
}

static void on_delete(Corral__Budgets_Service *rpc, const Corral__DeleteBudgetRequest *q, Corral__Done_Closure closure, void *data)
{
	struct budget_service *s = of(rpc);
	const char *tenant = tenant_of(q->scope, q->tenant, q->caller);
	Corral__Done done = CORRAL__DONE__INIT;
	struct why why = { 0 };
	bool changed = false;

	if (is_of(q->scope, q->tenant, tenant, &why) && may(q->caller, "budgets.write", q->scope, tenant, &why) == ERR_OK &&
	    budgets_remove(s->budgets, q->scope, tenant, q->period, wall_us(), &changed, &why)) {
		if (!changed)
			err_set(&why, ERR_NOT_FOUND, "there is no budget of %.80s for the period '%.32s'", q->scope, q->period);
		else
			said("budgets.delete", q->caller, q->scope, q->period);
	}
	done.changed = changed;
	if (why.code)
		rpc_fail(data, why.code, why.text);
	else
		closure(&done, data);
}

struct looking { const Corral__ListBudgetsRequest *q; bool all; };

static bool is_visible(void *arg, const Corral__Budget *b)
{
	const struct looking *l = arg;
	const char *own = l->q->caller && *l->q->caller->tenant ? l->q->caller->tenant : "default";

	return (l->all || strcmp(b->tenant, own) == 0) && (!*l->q->tenant || strcmp(b->tenant, l->q->tenant) == 0) &&
	       (!*l->q->scope || strcmp(b->scope, l->q->scope) == 0);
}

static void on_list(Corral__Budgets_Service *rpc, const Corral__ListBudgetsRequest *q, Corral__ListBudgetsReply_Closure closure, void *data)
{
	struct budget_service *s = of(rpc);
	struct looking l = { q, q->caller && role_reaches(q->caller->role, STR("budgets.read")) };
	Corral__ListBudgetsReply reply;
	struct why why = { 0 };

	const char *own = q->caller && *q->caller->tenant ? q->caller->tenant : "default";

	if (may(q->caller, "budgets.read", "budgets", *q->tenant ? q->tenant : own, &why) == ERR_OK &&
	    budgets_list(s->budgets, is_visible, &l, wall_us(), s->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(s->mem);
}

static void on_spend(Corral__Budgets_Service *rpc, const Corral__SpendRequest *q, Corral__SpendReply_Closure closure, void *data)
{
	struct budget_service *s = of(rpc);
	Corral__SpendReply reply;
	struct why why = { 0 };

	if (budgets_spend(s->budgets, q, wall_us(), s->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(s->mem);
}

/* --- the clock --- */

static void show(struct budget_service *s, unsigned metric, const Corral__BudgetState *b, const char *account, int64_t n)
{
	series_set(metrics_series(svc_metrics(s->svc), metric, b->budget->scope, b->budget->period, account), (double)n);
}

/* Keys and users may be many thousands, and their names are nobody else's: they are not labels. */
static bool is_shown(const Corral__Budget *b) { return strncmp(b->scope, "key:", 4) != 0 && strncmp(b->scope, "user:", 5) != 0; }

static void show_all(struct budget_service *s, const Corral__ListBudgetsReply *r)
{
	for (size_t i = 0; i < r->n_rows; i++) {
		const Corral__BudgetState *b = r->rows[i];

		if (!is_shown(b->budget))
			continue;
		if (b->budget->limits_tokens)
			show(s, s->m.tokens, b, "limit", b->budget->limit_tokens);
		show(s, s->m.tokens, b, "used", b->used_tokens);
		show(s, s->m.tokens, b, "held", b->held_tokens);
		show(s, s->m.tokens, b, "in_doubt", b->in_doubt_tokens);
		if (b->budget->limits_microusd)
			show(s, s->m.microusd, b, "limit", b->budget->limit_microusd);
		show(s, s->m.microusd, b, "used", b->used_microusd);
		show(s, s->m.microusd, b, "held", b->held_microusd);
		show(s, s->m.microusd, b, "in_doubt", b->in_doubt_microusd);
		series_set(metrics_series(svc_metrics(s->svc), s->m.overdrawn, b->budget->scope, b->budget->period), (double)b->overdrawn);
	}
}

static void on_tick(struct loop_timer *t)
{
	struct budget_service *s = (struct budget_service *)(void *)((char *)t - offsetof(struct budget_service, tick));
	Corral__ListBudgetsReply all;
	struct why why = { 0 };
	bool ok = budgets_tick(s->budgets, wall_us(), mono_us(), &why) && budgets_list(s->budgets, NULL, NULL, wall_us(), s->mem, &all, &why);

	if (!ok || is_good_again(s))
		store_state(s, ok, &why);
	if (ok)
		show_all(s, &all);
	arena_reset(s->mem);
	loop_timer_set(svc_loop(s->svc), t, TICK_US, on_tick);
}

/* --- life --- */

static bool booked(void *arg, const struct ledger_booking *b, struct arena *mem, struct why *why)
{
	struct budget_service *s = arg;

	return b ? budgets_note(s->budgets, b, mem, why) : budgets_book(s->budgets, wall_us(), why);
}

static void undone(void *arg) { budgets_forget(((struct budget_service *)arg)->budgets); }

struct budget_service *budget_service_new(struct svc *svc, struct ledger *l, struct prices *prices, const struct budget_metrics *m, int64_t in_doubt_ms, struct why *why)
{
	struct budget_service *s = x_calloc(1, sizeof(*s));

	s->svc = svc;
	s->ledger = l;
	s->prices = prices;
	s->m = *m;
	s->mem = arena_new(16 << 10);
	if (!the_zone.n)
		(void)zone_load(&the_zone, "UTC", wall_us(), NULL);
	s->budgets = budgets_open(ledger_db(l), &the_zone, in_doubt_ms, mono_us(), why);
	if (!s->budgets) {
		budget_service_free(s);
		return NULL;
	}
	ledger_watch(l, (struct ledger_watch){ .on_booked = booked, .undone = undone, .arg = s });
	corral__budgets__init(&s->rpc, NULL);
	s->rpc.lease = on_lease;
	s->rpc.put = on_put;
	s->rpc.delete = on_delete;
	s->rpc.list = on_list;
	s->rpc.spend = on_spend;
	rpc_server_add(svc_rpc_server(svc), &s->rpc.base);
	loop_timer_set(svc_loop(svc), &s->tick, TICK_US, on_tick);
	return s;
}

void budget_service_free(struct budget_service *s)
{
	if (!s)
		return;
	loop_timer_del(&s->tick);
	if (s->budgets)
		ledger_watch(s->ledger, (struct ledger_watch){ .arg = s });
	budgets_close(s->budgets);
	arena_free(s->mem);
	free(s);
}

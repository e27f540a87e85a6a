/* budgets.c - /budgets: asked of the usage-tracker, which checks the rights again and owns them all. */
#include "budgets.pb-c.h"
#include "common/data/json_write.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/asked.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/trail.h"

struct budget_ask {
	Corral__Caller caller;
	Corral__ListBudgetsRequest list;
	Corral__PutBudgetRequest put;
	Corral__DeleteBudgetRequest del;
	Corral__Budget budget;
};

static struct budget_ask *begin(struct req *r, struct ask **ret_ask, void (*call)(struct ask *))
{
	struct ask *a = *ret_ask = ask_new(r, call);
	struct budget_ask *q = arena_new_of(a->mem, struct budget_ask);

	asked_by(r, a, &q->caller);
	corral__list_budgets_request__init(&q->list), q->list.caller = &q->caller;
	corral__put_budget_request__init(&q->put), q->put.caller = &q->caller, q->put.budget = &q->budget;
	corral__delete_budget_request__init(&q->del), q->del.caller = &q->caller;
	corral__budget__init(&q->budget);
	a->query = q;
	return q;
}

static struct budget_ask *of(struct ask *a) { return a->query; }
static ProtobufCService *budgets_of(struct ask *a) { return rpc_stub(a->gw->ledger, &corral__budgets__descriptor); }

/* --- out --- */

static void limit_member(struct json_out *jo, const char *key, bool given, int64_t limit)
{
	if (given)
		jw_kv_i64(jo, key, limit);
	else
		jw_kv_null(jo, key);
}

static void state_members(struct json_out *jo, const Corral__BudgetState *s)
{
	const Corral__Budget *b = s->budget;

	jw_kv_strz(jo, "scope", b->scope);
	jw_kv_strz(jo, "tenant", *b->tenant ? b->tenant : NULL);
	jw_kv_strz(jo, "period", b->period);
	jw_kv_strz(jo, "mode", b->shadow ? "shadow" : "enforce");
	jw_kv_bool(jo, "unlimited", b->unlimited);
	limit_member(jo, "limit_tokens", b->limits_tokens, b->limit_tokens);
	jw_kv_i64(jo, "used_tokens", s->used_tokens);
	jw_kv_i64(jo, "held_tokens", s->held_tokens);
	jw_kv_i64(jo, "in_doubt_tokens", s->in_doubt_tokens);
	limit_member(jo, "limit_microusd", b->limits_microusd, b->limit_microusd);
	jw_kv_i64(jo, "used_microusd", s->used_microusd);
	jw_kv_i64(jo, "held_microusd", s->held_microusd);
	jw_kv_i64(jo, "in_doubt_microusd", s->in_doubt_microusd);
	jw_kv_u64(jo, "overdrawn", s->overdrawn);
	time_json(jo, "resets_at", s->resets_us);
}

/* --- GET --- */

static void listed(const Corral__ListBudgetsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "rows");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_rows; i++) {
		jw_obj(&jo);
		state_members(&jo, reply->rows[i]);
		jw_end(&jo);
	}
	jw_end(&jo);
	ask_json_done(a, &jo);
}

static void list_call(struct ask *a) { corral__budgets__list(budgets_of(a), &of(a)->list, listed, a); }

static enum step list(struct req *r)
{
	struct ask *a;
	struct budget_ask *q = begin(r, &a, list_call);

	q->list.scope = asked_param(r, a, "scope");
	q->list.tenant = asked_param(r, a, "tenant");
	return ask_send(a);
}

/* --- PUT --- */

static void put_done(const Corral__BudgetState *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, 200);
	state_members(&jo, reply);
	ask_json_done(a, &jo);
}

static void put_call(struct ask *a) { corral__budgets__put(budgets_of(a), &of(a)->put, put_done, a); }

/* It has to be said, be it null: a limit that was forgotten would be none. One of the two kinds is enough. */
static bool limit(const struct json *doc, const char *key, protobuf_c_boolean *ret_limits, int64_t *ret, bool *ret_said, struct why *why)
{
	uint32_t v = json_get(doc, 0, key);

	*ret_said |= v != 0;
	*ret_limits = v && json_kind(doc, v) != JSON_NULL;
	return !*ret_limits || json_i64(doc, v, ret) ||
	       err_field(why, ERR_MALFORMED, key, "%s is a whole number, or null for no limit of this kind", key) == ERR_OK;
}

static bool word(const struct json *doc, const char *key, const char *absent, char **ret, struct ask *a, struct why *why)
{
	struct str s = str_of(absent);

	if (!json_opt_str(doc, 0, key, &s, a->mem, why))
		return false;
	if (!s.n && !*absent && strcmp(key, "tenant") != 0)
		return err_field(why, ERR_MALFORMED, key, "%s is missing", key) == ERR_OK;
	if (s.n && memchr(s.p, '\0', s.n))
		return err_field(why, ERR_INVALID, key, "%s has a zero character", key) == ERR_OK;
	*ret = arena_dup(a->mem, s.p ? s.p : "", s.n);
	return true;
}

static bool mode(const struct json *doc, protobuf_c_boolean *ret_shadow, struct ask *a, struct why *why)
{
	char *said;

	if (!word(doc, "mode", "enforce", &said, a, why))
		return false;
	*ret_shadow = strcmp(said, "shadow") == 0;
	return *ret_shadow || strcmp(said, "enforce") == 0 || err_field(why, ERR_INVALID, "mode", "mode is enforce or shadow, not '%.40s'", said) == ERR_OK;
}

/* That a provider in the cloud needs no limit is said, not left out. */
static bool unlimited(const struct json *doc, protobuf_c_boolean *ret, struct why *why)
{
	bool yes = false;

	if (!json_opt_bool(doc, 0, "unlimited", &yes, why))
		return false;
	*ret = yes;
	return true;
}

static bool read_budget(const struct json *doc, Corral__Budget *b, struct ask *a, struct why *why)
{
	bool said = false;

	if (!word(doc, "scope", "", &b->scope, a, why) || !word(doc, "period", "month", &b->period, a, why) || !word(doc, "tenant", "", &b->tenant, a, why) ||
	    !mode(doc, &b->shadow, a, why) || !unlimited(doc, &b->unlimited, why) || !limit(doc, "tokens", &b->limits_tokens, &b->limit_tokens, &said, why) ||
	    !limit(doc, "microusd", &b->limits_microusd, &b->limit_microusd, &said, why))
		return false;
	return said || b->unlimited || err_field(why, ERR_MALFORMED, "tokens", "say tokens or microusd; null = no limit, 0 = nothing; or unlimited") == ERR_OK;
}

static struct str said(const struct json *doc, const char *key)
{
	uint32_t v = json_get(doc, 0, key);

	return v ? json_raw(doc, v) : STR("null");
}

static enum step put(struct req *r)
{
	static const char *const known[] = { "scope", "period", "tenant", "mode", "tokens", "microusd", "unlimited", NULL };
	struct ask *a;
	struct budget_ask *q = begin(r, &a, put_call);
	struct why why = { 0 };
	struct json doc;

	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (read_budget(&doc, &q->budget, a, &why))
		trail_act(r, "write", arena_fmt(r->mem, "%s %s %s tokens=" STR_FMT " microusd=" STR_FMT, q->budget.scope, q->budget.period,
						q->budget.unlimited ? "unlimited" : q->budget.shadow ? "shadow" : "enforce",
						STR_ARG(said(&doc, "tokens")), STR_ARG(said(&doc, "microusd"))));
	else
		req_fail_why(r, &why);
	return asked_send(a, why.code == ERR_OK);
}

/* --- DELETE --- */

static void deleted(const Corral__Done *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	jo = ask_json(a, 200);
	jw_kv_strz(&jo, "scope", of(a)->del.scope);
	jw_kv_strz(&jo, "period", of(a)->del.period);
	jw_kv_bool(&jo, "deleted", true);
	ask_json_done(a, &jo);
}

static void delete_call(struct ask *a) { corral__budgets__delete(budgets_of(a), &of(a)->del, deleted, a); }

static enum step drop(struct req *r)
{
	struct ask *a;
	struct budget_ask *q = begin(r, &a, delete_call);

	q->del.scope = asked_param(r, a, "scope");
	q->del.period = asked_param(r, a, "period");
	q->del.tenant = asked_param(r, a, "tenant");
	if (!*q->del.scope || !*q->del.period) {
		req_fail(r, ERR_MALFORMED, "say which: DELETE /budgets?scope=SCOPE&period=PERIOD");
		return asked_send(a, false);
	}
	trail_act(r, "delete", arena_fmt(r->mem, "%s %s", q->del.scope, q->del.period));
	return ask_send(a);
}

const struct stage stage_budgets = { "budgets", list }, stage_budget_put = { "budget_put", put }, stage_budget_delete = { "budget_delete", drop };

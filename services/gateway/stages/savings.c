/* savings.c - GET /savings?month&against=model: what one's own machines saved; the usage-tracker computes it. docs/prices.md. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"
#include "usage.pb-c.h"

static void against_json(struct json_out *jo, const Corral__SavingsQuery *q, const Corral__SavingsReport *s)
{
	jw_key(jo, "against");
	jw_obj(jo);
	jw_kv_strz(jo, "model", q->against);
	jw_kv_strz(jo, "provider", s->n_prices && *s->prices[0]->provider ? s->prices[0]->provider : *q->provider ? q->provider : NULL);
	jw_key(jo, "prices");
	jw_arr(jo);
	for (size_t i = 0; i < s->n_prices; i++) {
		jw_obj(jo);
		time_json(jo, "valid_from", s->prices[i]->valid_from_us);
		jw_kv_i64(jo, "input_microusd", s->prices[i]->input_microusd);
		jw_kv_i64(jo, "output_microusd", s->prices[i]->output_microusd);
		jw_end(jo);
	}
	jw_end(jo);
	jw_end(jo);
}

static void share(struct json_out *jo, const char *key, uint64_t part, uint64_t all)
{
	jw_key(jo, key);
	if (all)
		jw_double(jo, (double)part / (double)all);
	else
		jw_null(jo);
}

static void savings_json(struct json_out *jo, const Corral__SavingsQuery *q, const Corral__SavingsReport *s)
{
	jw_obj(jo);
	time_json(jo, "from", q->from_us);
	time_json(jo, "to", q->to_us);
	jw_kv_strz(jo, "tenant", *q->tenant ? q->tenant : NULL);
	against_json(jo, q, s);
	jw_kv_u64(jo, "requests", s->requests);
	jw_kv_u64(jo, "local_requests", s->local_requests);
	share(jo, "local_request_share", s->local_requests, s->requests);
	jw_kv_u64(jo, "prompt_tokens", s->prompt_tokens);
	jw_kv_u64(jo, "completion_tokens", s->completion_tokens);
	jw_kv_u64(jo, "local_tokens", s->local_tokens);
	share(jo, "local_token_share", s->local_tokens, s->prompt_tokens + s->completion_tokens);
	jw_kv_u64(jo, "unpriced_tokens", s->unpriced_tokens);
	jw_kv_i64(jo, "would_cost_microusd", s->would_cost_microusd);
	jw_kv_i64(jo, "infrastructure_microusd", s->infrastructure_microusd);
	jw_kv_double(jo, "gpu_s", s->gpu_s);
	jw_kv_double(jo, "energy_j", s->energy_j);
	jw_kv_i64(jo, "cloud_microusd", s->cloud_microusd);
	jw_kv_i64(jo, "savings_microusd", s->savings_microusd);
	time_json(jo, "as_of", s->as_of_us);
	jw_end(jo);
}

static void came(const Corral__SavingsReport *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	const struct why *why = reply ? NULL : rpc_error(a->gw->ledger);

	if (why && why->code == ERR_NOT_FOUND) {
		err_field(&a->err, why->code, "against", "%s", why->text);
		ask_done(a);
		return;
	}
	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	json_begin(&jo, &a->body);
	savings_json(&jo, a->query, reply);
	json_done(&jo);
	a->status = 200;
	ask_done(a);
}

static void call(struct ask *a)
{
	corral__usage_tracker__savings(rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor), a->query, came, a);
}

/* "2026-11"; absent is the month of now. In UTC. */
static bool read_month(struct str text, Corral__SavingsQuery *q, struct why *why)
{
	char month[40];
	uint64_t year, number;

	clock_rfc3339(wall_us(), 0, month, sizeof(month));
	month[7] = '\0';
	if (text.n && (text.n != 7 || text.p[4] != '-' || !str_copy(month, sizeof(month), text)))
		return err_field(why, ERR_INVALID, "month", "'" STR_FMT "' is not a month; write 2026-11", STR_ARG(text)) == ERR_OK;
	if (!str_u64(str_n(month, 4), &year) || !str_u64(str_n(month + 5, 2), &number) || year < 1971 || number < 1 || number > 12)
		return err_field(why, ERR_INVALID, "month", "'" STR_FMT "' is not a month; write 2026-11", STR_ARG(text)) == ERR_OK;
	snprintf(month, sizeof(month), "%04llu-%02llu-01T00:00:00Z", (unsigned long long)year, (unsigned long long)number);
	if (!clock_parse_rfc3339(month, &q->from_us))
		return err_field(why, ERR_INVALID, "month", "there is no such month") == ERR_OK;
	snprintf(month, sizeof(month), "%04llu-%02llu-01T00:00:00Z", (unsigned long long)(year + number / 12), (unsigned long long)(number % 12 + 1));
	return clock_parse_rfc3339(month, &q->to_us);
}

static char *param(struct req *r, struct ask *a, const char *name)
{
	struct str s = STR("");

	http_query_get(r->x->head.query, name, a->mem, &s);
	return arena_dup(a->mem, s.p ? s.p : "", s.n);
}

static bool read_query(struct req *r, struct ask *a, Corral__SavingsQuery *q, struct why *why)
{
	q->against = param(r, a, "against");
	q->provider = param(r, a, "provider");
	q->tenant = param(r, a, "tenant");
	if (!*q->tenant && !role_reaches(r->who.role, STR("usage.read")))
		q->tenant = arena_dup(a->mem, r->tenant.p, r->tenant.n);
	if (authorise(&r->who, STR("usage.read"), str_of(q->tenant), str_of(q->tenant), why) != ERR_OK)
		return false;
	if (!*q->against)
		return err_field(why, ERR_MALFORMED, "against", "say the model whose price is compared with: against=NAME") == ERR_OK;
	return read_month(str_of(param(r, a, "month")), q, why);
}

static enum step savings(struct req *r)
{
	struct ask *a = ask_new(r, call);
	Corral__SavingsQuery *q = arena_new_of(a->mem, Corral__SavingsQuery);
	struct why why = { 0 };

	corral__savings_query__init(q);
	a->query = q;
	if (read_query(r, a, q, &why))
		return ask_send(a);
	ask_drop(a);
	return req_fail_why(r, &why);
}

const struct stage stage_savings = { "savings", savings };

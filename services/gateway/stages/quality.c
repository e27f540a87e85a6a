/* quality.c - GET /quality: how good answers are, by model, task type and language; the usage-tracker knows. docs/quality.md. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"
#include "usage.pb-c.h"

#define DAY_US INT64_C(86400000000)
enum { DAYS = 30 };

static void number_or_null(struct json_out *jo, const char *key, double v, bool known)
{
	jw_key(jo, key);
	if (known)
		jw_double(jo, v);
	else
		jw_null(jo);
}

static void row_json(struct json_out *jo, const Corral__QualityRow *r)
{
	jw_obj(jo);
	jw_kv_strz(jo, "model", *r->model ? r->model : NULL);
	jw_kv_strz(jo, "task_type", *r->task_type ? r->task_type : NULL);
	jw_kv_strz(jo, "language", *r->language ? r->language : NULL);
	jw_kv_u64(jo, "answers", r->answers);
	number_or_null(jo, "success_rate", r->success_rate, r->answers > r->aborted);
	jw_kv_u64(jo, "aborted", r->aborted);
	jw_kv_u64(jo, "regenerated", r->regenerated);
	jw_kv_u64(jo, "asked_again", r->asked_again);
	jw_kv_u64(jo, "feedback", r->said);
	jw_kv_u64(jo, "ratings", r->ratings);
	number_or_null(jo, "rating", r->rating, r->ratings > 0);
	jw_kv_u64(jo, "tests_passed", r->tests_passed);
	jw_kv_u64(jo, "tests_total", r->tests_total);
	number_or_null(jo, "latency_ms", r->latency_ms, r->latency_ms > 0);
	number_or_null(jo, "ttft_ms", r->ttft_ms, r->ttft_ms > 0);
	number_or_null(jo, "tokens_per_s", r->tokens_per_s, r->tokens_per_s > 0);
	number_or_null(jo, "quality", r->quality, r->answers + r->said > 0);
	jw_end(jo);
}

static void came(const Corral__QualityReport *reply, void *arg)
{
	struct ask *a = arg;
	const Corral__QualityQuery *q = a->query;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	time_json(&jo, "from", q->from_day * DAY_US);
	time_json(&jo, "to", q->to_day * DAY_US);
	jw_key(&jo, "rows");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_rows; i++)
		row_json(&jo, reply->rows[i]);
	jw_end(&jo);
	time_json(&jo, "as_of", reply->as_of_us);
	jw_end(&jo);
	json_done(&jo);
	a->status = 200;
	ask_done(a);
}

static void call(struct ask *a)
{
	corral__usage_tracker__quality(rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor), a->query, came, a);
}

/* Whole days: the one of 'from' to the one before 'to'; by default the last thirty with today. */
static bool read_days(struct req *r, struct ask *a, Corral__QualityQuery *q)
{
	int64_t to_us = (wall_us() / DAY_US + 1) * DAY_US, from_us = to_us - DAYS * DAY_US;
	struct why why;

	if (!ask_time(r, a, "from", &from_us) || !ask_time(r, a, "to", &to_us))
		return false;
	q->from_day = from_us / DAY_US;
	q->to_day = (to_us + DAY_US - 1) / DAY_US;
	if (q->to_day > q->from_day)
		return true;
	err_field(&why, ERR_INVALID, "to", "the end of the time span is not after its beginning");
	req_fail_why(r, &why);
	return false;
}

static enum step quality(struct req *r)
{
	struct ask *a = ask_new(r, call);
	Corral__QualityQuery *q = arena_new_of(a->mem, Corral__QualityQuery);
	struct str tenant = STR("");
	struct why why = { 0 };

	corral__quality_query__init(q);
	a->query = q;
	http_query_get(r->x->head.query, "tenant", a->mem, &tenant);
	if (!tenant.n && !role_reaches(r->who.role, STR("usage.read")))
		tenant = r->tenant;
	q->tenant = arena_dup(a->mem, tenant.p ? tenant.p : "", tenant.n);
	if (authorise(&r->who, STR("usage.read"), tenant, tenant, &why) != ERR_OK)
		req_fail_why(r, &why);
	else if (read_days(r, a, q))
		return ask_send(a);
	ask_drop(a);
	return STEP_FAIL;
}

const struct stage stage_quality = { "quality", quality };

/* asks.c - what other services know: usage and attempts (usage-tracker), explanations (selector), sync (model-registry). */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "events.pb-c.h"
#include "selector.pb-c.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/outbox.h"
#include "services/gateway/stages/stages.h"
#include "usage.pb-c.h"

/* What a request was is for its tenant, and for those who see all tenants. */
struct id_query {
	struct uuid id;
	char text[37];
	Corral__Role role;
	const char *tenant, *action;
};

static bool may_see(const struct id_query *q, const char *tenant)
{
	if (!*tenant)
		tenant = "default";               /* from before there were tenants */
	return strcmp(q->tenant, tenant) == 0 || role_reaches(q->role, str_of(q->action));
}

static bool read_id(struct req *r, struct uuid *ret)
{
	if (uuid_parse(r->param, ret))
		return true;
	req_fail(r, ERR_INVALID, "'" STR_FMT "' is not a request id; X-Request-Id of an answer is one", STR_ARG(r->param));
	return false;
}

static void finish_json(struct ask *a, int status)
{
	a->status = status;
	ask_done(a);
}

static struct json_out begin(struct ask *a)
{
	struct json_out jo;

	json_begin(&jo, &a->body);
	jw_obj(&jo);
	return jo;
}

/* --- GET /usage --- */

static const char *const groups[] = { "model", "key", "tenant", "backend", "provider", "task_type", "day", "dialect", "status" };

struct usage_query {
	Corral__UsageQuery q;
	bool csv;
};

static bool known_group(struct str word)
{
	for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++)
		if (str_eqz(word, groups[i]))
			return true;
	return false;
}

/* Once is enough: a row has no name twice. */
static bool is_named(const struct usage_query *u, struct str word)
{
	for (size_t i = 0; i < u->q.n_group_by; i++)
		if (str_eqz(word, u->q.group_by[i]))
			return true;
	return false;
}

static bool read_groups(struct req *r, struct ask *a, struct usage_query *u, struct str text)
{
	struct str part;

	u->q.group_by = arena_array(a->mem, char *, sizeof(groups) / sizeof(*groups));
	while (text.n && str_split(&text, ',', &part)) {
		struct why why;

		part = str_trim(part);
		if (is_named(u, part))
			continue;
		if (!known_group(part)) {
			err_field(&why, ERR_INVALID, "group_by",
				  "'" STR_FMT "' is not a grouping; use model, key, tenant, backend, provider, task_type, day, dialect, status",
				  STR_ARG(part));
			req_fail_why(r, &why);
			return false;
		}
		u->q.group_by[u->q.n_group_by++] = arena_dup(a->mem, part.p, part.n);
	}
	return true;
}

static void usage_row(struct json_out *jo, const Corral__UsageQuery *q, const Corral__UsageRow *row)
{
	jw_obj(jo);
	for (size_t i = 0; i < q->n_group_by && i < row->n_groups; i++)
		jw_kv_strz(jo, q->group_by[i], *row->groups[i] ? row->groups[i] : NULL);      /* refused before a model was chosen: none */
	jw_kv_u64(jo, "requests", row->requests);
	jw_kv_u64(jo, "attempts", row->attempts);
	jw_kv_u64(jo, "errors", row->errors);
	jw_kv_u64(jo, "prompt_tokens", row->prompt_tokens);
	jw_kv_u64(jo, "completion_tokens", row->completion_tokens);
	jw_kv_u64(jo, "cached_requests", row->cached_requests);
	jw_kv_i64(jo, "cost_microusd", row->cost_microusd);
	jw_kv_double(jo, "gpu_s", row->gpu_s);
	jw_kv_double(jo, "energy_j", row->energy_j);
	jw_kv_double(jo, "latency_p50_ms", row->latency_p50_ms);
	jw_kv_double(jo, "latency_p95_ms", row->latency_p95_ms);
	jw_kv_double(jo, "success_rate", row->success_rate);
	jw_end(jo);
}

static void usage_json(struct ask *a, const Corral__UsageQuery *q, const Corral__UsageReport *report)
{
	struct json_out jo = begin(a);
	char as_of[40];

	clock_rfc3339(report->as_of_us, 3, as_of, sizeof(as_of));
	jw_key(&jo, "rows");
	jw_arr(&jo);
	for (size_t i = 0; i < report->n_rows; i++)
		usage_row(&jo, q, report->rows[i]);
	jw_end(&jo);
	jw_key(&jo, "totals");
	if (report->totals)
		usage_row(&jo, &(Corral__UsageQuery){ 0 }, report->totals);
	else
		jw_null(&jo);
	jw_kv_strz(&jo, "as_of", as_of);
	jw_end(&jo);
}

/* RFC 4180; a leading = + - @, tab or carriage return would be a formula to a spreadsheet, so such text is quoted with a leading apostrophe. */
static void csv_text(struct buf *b, const char *s)
{
	buf_char(b, '"');
	if (*s && strchr("=+-@\t\r", *s))
		buf_char(b, '\'');
	for (; *s; s++) {
		if (*s == '"')
			buf_char(b, '"');
		buf_char(b, *s);
	}
	buf_char(b, '"');
}

static void usage_csv(struct ask *a, const Corral__UsageQuery *q, const Corral__UsageReport *report)
{
	struct buf *b = &a->body;

	for (size_t i = 0; i < q->n_group_by; i++)
		buf_printf(b, "%s,", q->group_by[i]);
	buf_addz(b, "requests,attempts,errors,prompt_tokens,completion_tokens,cached_requests,cost_microusd,gpu_s,energy_j,"
		    "latency_p50_ms,latency_p95_ms,success_rate\r\n");
	for (size_t i = 0; i < report->n_rows; i++) {
		const Corral__UsageRow *r = report->rows[i];

		for (size_t g = 0; g < r->n_groups; g++) {
			csv_text(b, r->groups[g]);
			buf_char(b, ',');
		}
		buf_printf(b, "%llu,%llu,%llu,%llu,%llu,%llu,%lld,%.6f,%.3f,%.3f,%.3f,%.6g\r\n", (unsigned long long)r->requests,
			   (unsigned long long)r->attempts, (unsigned long long)r->errors, (unsigned long long)r->prompt_tokens,
			   (unsigned long long)r->completion_tokens, (unsigned long long)r->cached_requests, (long long)r->cost_microusd,
			   r->gpu_s, r->energy_j, r->latency_p50_ms, r->latency_p95_ms, r->success_rate);
	}
	a->content_type = "text/csv; charset=utf-8";
}

static void usage_reply(const Corral__UsageReport *report, void *arg)
{
	struct ask *a = arg;
	struct usage_query *u = a->query;

	if (!report) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	if (u->csv)
		usage_csv(a, &u->q, report);
	else
		usage_json(a, &u->q, report);
	finish_json(a, 200);
}

static void usage_call(struct ask *a)
{
	struct usage_query *u = a->query;

	corral__usage_tracker__query(rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor), &u->q, usage_reply, a);
}

static enum step usage(struct req *r)
{
	struct ask *a = ask_new(r, usage_call);
	struct usage_query *u = arena_new_of(a->mem, struct usage_query);
	struct why why = { 0 };
	struct str text = STR(""), format = STR(""), tenant = STR("");

	corral__usage_query__init(&u->q);
	a->query = u;
	http_query_get(r->x->head.query, "group_by", a->mem, &text);
	http_query_get(r->x->head.query, "format", a->mem, &format);
	http_query_get(r->x->head.query, "tenant", a->mem, &tenant);
	if (!tenant.n && !role_reaches(r->who.role, STR("usage.read")))
		tenant = r->tenant;
	u->q.tenant = arena_dup(a->mem, tenant.p ? tenant.p : "", tenant.n);
	if (authorise(&r->who, STR("usage.read"), tenant, tenant, &why) != ERR_OK) {
		req_fail_why(r, &why);
	} else if (format.n && !str_eqz(format, "json") && !str_eqz(format, "csv")) {
		err_field(&why, ERR_INVALID, "format", "format is json or csv, not '" STR_FMT "'", STR_ARG(format));
		req_fail_why(r, &why);
	} else if (read_groups(r, a, u, text) && ask_time(r, a, "from", &u->q.from_us) && ask_time(r, a, "to", &u->q.to_us)) {
		u->csv = str_eqz(format, "csv");
		return ask_send(a);
	}
	ask_drop(a);
	return STEP_FAIL;
}

/* --- GET /requests/{id} --- */

static void attempt_json(struct json_out *jo, const Corral__AttemptRow *row)
{
	static const char *const sources[] = { "unknown", "reported", "counted", "estimated", "in_doubt" }, *const cost_sources[] = { NULL, "reported", "priced" };
	const Corral__UsageEvent *e = row->event;

	jw_obj(jo);
	jw_kv_u64(jo, "attempt", e->attempt);
	jw_kv_bool(jo, "open", row->open);
	jw_kv_strz(jo, "status", e->status);
	jw_kv_strz(jo, "error_code", *e->error_code ? e->error_code : NULL);
	jw_kv_strz(jo, "model", e->model);
	jw_kv_strz(jo, "requested_model", e->requested_model);
	jw_kv_strz(jo, "backend", e->backend);
	jw_kv_strz(jo, "provider", e->provider);
	jw_kv_strz(jo, "dialect", e->dialect);
	jw_kv_strz(jo, "reason", e->reason);
	jw_kv_strz(jo, "task_type", e->task_type);
	jw_kv_strz(jo, "complexity", e->complexity);
	jw_kv_strz(jo, "language", e->language);
	jw_kv_strz(jo, "tenant", e->tenant);
	jw_kv_strz(jo, "key_id", e->key_id);
	jw_kv_bool(jo, "stream", e->stream);
	jw_kv_bool(jo, "cached", e->cached);
	jw_kv_u64(jo, "prompt_tokens", e->prompt_tokens);
	jw_kv_u64(jo, "completion_tokens", e->completion_tokens);
	jw_kv_u64(jo, "cached_prompt_tokens", e->cached_prompt_tokens);
	jw_kv_strz(jo, "prompt_tokens_source", sources[e->prompt_tokens_source <= 4 ? e->prompt_tokens_source : 0]);
	jw_kv_strz(jo, "tokens_source", sources[e->tokens_source <= 4 ? e->tokens_source : 0]);
	jw_kv_u64(jo, "http_status", e->http_status);
	jw_kv_i64(jo, "queue_us", e->queue_us);
	jw_kv_i64(jo, "ttft_us", e->ttft_us);
	jw_kv_i64(jo, "latency_us", e->latency_us);
	jw_kv_i64(jo, "cost_microusd", e->cost_microusd);
	jw_kv_strz(jo, "cost_source", cost_sources[e->cost_source <= 2 ? e->cost_source : 0]);
	jw_kv_i64(jo, "gpu_us", e->gpu_us);
	jw_kv_i64(jo, "energy_mj", e->energy_mj);
	jw_kv_u64(jo, "response_bytes", e->response_bytes);
	jw_kv_strz(jo, "policy_version", e->policy_version);
	if (*e->experiment_id) {
		jw_kv_strz(jo, "experiment_id", e->experiment_id);
		jw_kv_strz(jo, "arm", e->arm);
	}
	time_json(jo, "started_at", row->started_at_us);
	time_json(jo, "ended_at", row->ended_at_us);
	jw_end(jo);
}

/* No row of the client's: see shadow.h. */
static void shadows_json(struct json_out *jo, const Corral__AttemptsReply *reply)
{
	jw_key(jo, "shadows");
	jw_arr(jo);
	for (size_t i = 0; i < reply->n_shadows; i++) {
		Corral__UsageEvent *e = reply->shadows[i];
		Corral__AttemptRow row = CORRAL__ATTEMPT_ROW__INIT;

		row.event = e;
		row.started_at_us = e->occurred_at_us - e->latency_us;
		row.ended_at_us = e->occurred_at_us;
		attempt_json(jo, &row);
	}
	jw_end(jo);
}

static void attempts_reply(const Corral__AttemptsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	if (!reply->n_attempts || !may_see(a->query, reply->attempts[0]->event->tenant)) {
		err_set(&a->err, ERR_NOT_FOUND, "the ledger has no request %s; it may be younger than a moment, or was never sent to a backend",
			((struct id_query *)a->query)->text);
		ask_done(a);
		return;
	}
	jo = begin(a);
	jw_kv_strz(&jo, "request_id", ((struct id_query *)a->query)->text);
	jw_key(&jo, "attempts");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_attempts; i++)
		attempt_json(&jo, reply->attempts[i]);
	jw_end(&jo);
	if (reply->n_shadows)
		shadows_json(&jo, reply);
	jw_end(&jo);
	finish_json(a, 200);
}

static void attempts_call(struct ask *a)
{
	Corral__AttemptsRequest q = CORRAL__ATTEMPTS_REQUEST__INIT;
	struct id_query *id = a->query;

	q.request_id = (ProtobufCBinaryData){ sizeof(id->id.b), id->id.b };
	corral__usage_tracker__attempts(rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor), &q, attempts_reply, a);
}

static enum step ask_by_id(struct req *r, void (*call)(struct ask *))
{
	struct uuid id;
	struct ask *a;
	struct id_query *q;

	if (!read_id(r, &id))
		return STEP_FAIL;
	a = ask_new(r, call);
	q = arena_new_of(a->mem, struct id_query);
	q->id = id;
	uuid_format(id, q->text);
	q->role = r->who.role;
	q->tenant = arena_dup(a->mem, r->tenant.p, r->tenant.n);
	q->action = r->route->action;
	a->query = q;
	return ask_send(a);
}

static enum step requests(struct req *r) { return ask_by_id(r, attempts_call); }

/* --- GET /explain/{id} --- */

static void explain_reply(const Corral__ExplainReply *reply, void *arg)
{
	struct ask *a = arg;
	struct id_query *q = a->query;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->selector, "selector");
		return;
	}
	if (!reply->found || !reply->features || !may_see(q, reply->features->tenant)) {
		err_set(&a->err, ERR_NOT_FOUND, "no decision is kept for request %s: auto decisions are kept for 14 days, those for a named model are "
			"sampled (decision_sample)", q->text);
		ask_done(a);
		return;
	}
	jo = begin(a);
	jw_kv_strz(&jo, "request_id", q->text);
	time_json(&jo, "decided_at", reply->decision->occurred_at_us);
	decider_json(&jo, reply->decision->decided_by, reply->decision->not_asked);
	explain_json(&jo, reply->features, reply->outcome);
	jw_key(&jo, "snapshots");
	jw_obj(&jo);
	jw_kv_str(&jo, "models", arena_fmt(a->mem, "%llu.%llu", (unsigned long long)reply->decision->models_epoch,
					   (unsigned long long)reply->decision->models_version));
	jw_kv_str(&jo, "policy", arena_fmt(a->mem, "%llu.%llu", (unsigned long long)reply->decision->policy_epoch,
					   (unsigned long long)reply->decision->policy_version));
	jw_end(&jo);
	jw_kv_bool(&jo, "replayed", reply->replayed);
	jw_kv_strz(&jo, "replay_text", *reply->replay_text ? reply->replay_text : NULL);
	jw_end(&jo);
	finish_json(a, 200);
}

static void explain_call(struct ask *a)
{
	Corral__ExplainRequest q = CORRAL__EXPLAIN_REQUEST__INIT;
	struct id_query *id = a->query;

	q.request_id = (ProtobufCBinaryData){ sizeof(id->id.b), id->id.b };
	corral__selector__explain(rpc_stub(a->gw->selector, &corral__selector__descriptor), &q, explain_reply, a);
}

static enum step explain(struct req *r) { return ask_by_id(r, explain_call); }

/* --- POST /models/sync --- */

static void sync_reply(const Corral__SyncReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->registry, "model-registry");
		return;
	}
	jo = begin(a);
	jw_kv_bool(&jo, "success", true);
	jw_kv_u64(&jo, "models", reply->models);
	jw_kv_u64(&jo, "added", reply->added);
	jw_kv_u64(&jo, "removed", reply->removed);
	jw_key(&jo, "backends");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_backends; i++) {
		const Corral__Backend *b = reply->backends[i];

		jw_obj(&jo);
		jw_kv_strz(&jo, "name", b->name);
		jw_kv_bool(&jo, "up", b->state == CORRAL__BACKEND_STATE__BACKEND_UP);
		jw_kv_strz(&jo, "reason", *b->reason ? b->reason : NULL);
		jw_end(&jo);
	}
	jw_end(&jo);
	jw_end(&jo);
	a->status = 200;
	ask_done_with_models(a, (struct snapshot_id){ reply->epoch, reply->version });
}

static void sync_call(struct ask *a)
{
	Corral__SyncRequest q = CORRAL__SYNC_REQUEST__INIT;

	q.backend = a->query;
	rpc_deadline(a->gw->registry, 30000);
	corral__model_registry__sync(rpc_stub(a->gw->registry, &corral__model_registry__descriptor), &q, sync_reply, a);
	rpc_deadline(a->gw->registry, 5000);
}

static enum step sync_models(struct req *r)
{
	struct ask *a = ask_new(r, sync_call);
	struct str backend = STR("");

	http_query_get(r->x->head.query, "backend", a->mem, &backend);
	a->query = arena_dup(a->mem, backend.p, backend.n);
	return ask_send(a);
}

const struct stage stage_usage = { "usage", usage }, stage_requests = { "requests", requests }, stage_explain = { "explain", explain },
	stage_sync = { "sync", sync_models };

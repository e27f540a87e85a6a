/* runs.c - POST /run and /runsync, GET /status/ID and /stream/ID, POST /cancel/ID: durable jobs in RunPod's shapes (runs.h does them). */
#include "common/data/json.h"
#include "services/gateway/routes.h"
#include "services/gateway/run_input.h"
#include "services/gateway/runs.h"
#include "services/gateway/stages/stages.h"

enum { WAIT_MS = 90000, WAIT_MIN_MS = 1000, WAIT_MAX_MS = 300000, TTL_MS = 86400000 };

static bool asks_a_model(const struct route *route)
{
	for (const struct stage *const *s = route->stages; *s; s++)
		if (*s == &stage_dispatch)
			return true;
	return false;
}

/* What is wrong with the request is said now, and not by a job that fails later. */
static enum err check(struct req *r, const struct run_input *in, struct why *why)
{
	struct http_head head = { .method = STR("POST") };
	const struct route *route;
	struct llm_in read = { 0 };
	struct str param;

	route = route_find(&head, in->job.path, &param, why);
	if (!route || why->code || !asks_a_model(route))
		return err_field(why, ERR_INVALID, "input", "'" STR_FMT "' is no route that asks a model", STR_ARG(in->job.path));
	return llm_read(&read, route->dialect, route->op, in->job.body, STR(""), r->mem, why);
}

static char *z(struct arena *mem, struct str s) { return arena_dup(mem, s.p ? s.p : "", s.n); }

static bool query_number(struct req *r, const char *name, int64_t min, int64_t max, int64_t *ret)
{
	struct str text = STR("");
	int64_t v;

	if (!http_query_get(r->x->head.query, name, r->mem, &text) || !text.n)
		return true;
	if (!str_i64(text, &v) || v < min || v > max) {
		req_fail(r, ERR_INVALID, "%s is a number from %lld to %lld, not '" STR_FMT "'", name, (long long)min, (long long)max, STR_ARG(text));
		return false;
	}
	*ret = v;
	return true;
}

static struct run_ask *run_ask(struct ask *a, struct req *r)
{
	struct run_ask *q = arena_new_of(a->mem, struct run_ask);

	q->tenant = z(a->mem, r->tenant);
	q->sees_all = role_reaches(r->who.role, str_of(r->route->action));
	q->from = -1;
	a->query = q;
	return q;
}

static enum step submit(struct req *r, int64_t wait_ms)
{
	const struct gateway_config *cfg = r->worker->gw->cfg;
	struct run_input in;
	struct why why = { 0 };
	struct run_ask *q;
	struct ask *a;

	if (run_input_read(&in, r->x->body, r->mem, &why) != ERR_OK || check(r, &in, &why) != ERR_OK)
		return req_fail_why(r, &why);
	a = ask_new(r, runs_submit);
	q = run_ask(a, r);
	q->wait_ms = wait_ms;
	q->run = (struct run){ .tenant = q->tenant, .key_id = z(a->mem, r->key_id), .role = r->who.role, .path = z(a->mem, in.job.path),
		.body = arena_str(a->mem, in.job.body), .execution_ms = in.execution_ms ? in.execution_ms : cfg->request_timeout,
		.expires_us = (in.ttl_ms ? in.ttl_ms : TTL_MS) * 1000 };
	return ask_send(a);
}

static enum step run(struct req *r) { return submit(r, 0); }

static enum step runsync(struct req *r)
{
	int64_t wait_ms = WAIT_MS;

	return query_number(r, "wait", WAIT_MIN_MS, WAIT_MAX_MS, &wait_ms) ? submit(r, wait_ms) : STEP_FAIL;
}

static enum step by_id(struct req *r, void (*call)(struct ask *), int64_t from)
{
	struct ask *a;
	struct run_ask *q;
	struct uuid id;

	if (!uuid_parse(r->param, &id))
		return req_fail(r, ERR_NOT_FOUND, "there is no job '" STR_FMT "' here", STR_ARG(r->param));
	a = ask_new(r, call);
	q = run_ask(a, r);
	uuid_format(id, q->id);
	q->from = from;
	return ask_send(a);
}

static enum step status(struct req *r) { return by_id(r, runs_status, -1); }
static enum step cancel(struct req *r) { return by_id(r, runs_cancel, -1); }

static enum step stream(struct req *r)
{
	int64_t from = -1;

	return query_number(r, "from", 0, UINT32_MAX, &from) ? by_id(r, runs_stream, from) : STEP_FAIL;
}

const struct stage stage_run = { "run", run }, stage_runsync = { "runsync", runsync }, stage_run_status = { "run_status", status },
	stage_run_stream = { "run_stream", stream }, stage_run_cancel = { "run_cancel", cancel };

/* jobs.c - durable work on models: asked of the registry, which does it (proto/jobs.proto). /models/pull, DELETE /models/NAME,
 * POST /models/NAME/VERB, /jobs. Ollama's own routes for the same are in admin.c. */
#include "services/gateway/jobs_json.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/trail.h"

/* What the registry says of a job or a name is for the client; what it says of itself is not. */
void jobs_ask_failed(struct ask *a)
{
	const struct why *why = rpc_error(a->gw->registry);

	if (why && why->code != ERR_UNAVAILABLE && why->code != ERR_DEADLINE && why->code != ERR_INTERNAL) {
		a->err = *why;
		ask_done(a);
	} else {
		ask_failed(a, a->gw->registry, "model-registry");
	}
}

struct job_ask {
	Corral__ModelAction action;
	Corral__JobsQuery query;
	Corral__JobRef ref;
};

static ProtobufCService *registry_jobs(struct ask *a) { return rpc_stub(a->gw->registry, &corral__model_jobs__descriptor); }

static char *z(struct ask *a, struct str s) { return arena_dup(a->mem, s.p ? s.p : "", s.n); }

static struct job_ask *job_ask(struct ask *a)
{
	struct job_ask *q = arena_new_of(a->mem, struct job_ask);

	corral__model_action__init(&q->action);
	corral__jobs_query__init(&q->query);
	corral__job_ref__init(&q->ref);
	a->query = q;
	return q;
}

/* --- actions --- */

static void act_reply(const Corral__ActionReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	jw_kv_bool(&jo, "success", true);
	jw_kv_strz(&jo, "job_id", reply->job->id);
	jw_kv_bool(&jo, "joined", reply->joined);
	jw_kv_strz(&jo, "model", reply->job->model);
	if (reply->job->removes_at_us)
		time_json(&jo, "removes_at", reply->job->removes_at_us);
	jw_key(&jo, "job");
	job_json(&jo, reply->job);
	jw_end(&jo);
	a->status = reply->job->state <= CORRAL__JOB_STATE__JOB_RUNNING ? 202 : 200;
	ask_done(a);
}

static void act_call(struct ask *a) { corral__model_jobs__act(registry_jobs(a), &((struct job_ask *)a->query)->action, act_reply, a); }

static enum step act(struct req *r, const char *action, struct str model, struct str backend, int64_t grace_ms)
{
	struct ask *a = ask_new(r, act_call);
	struct job_ask *q = job_ask(a);

	trail_act(r, action, model);
	q->action.action = (char *)(uintptr_t)action;
	q->action.model = z(a, model);
	q->action.backend = z(a, backend);
	q->action.grace_ms = grace_ms;
	return ask_send(a);
}

static struct str query(struct req *r, const char *name)
{
	struct str s = STR("");

	http_query_get(r->x->head.query, name, r->mem, &s);
	return s;
}

/* POST /models/pull {name, backend} */
static enum step pull(struct req *r)
{
	struct json doc;
	struct str name = STR(""), backend = STR("");
	struct why why = { 0 };

	if (json_parse(&doc, r->mem, r->x->body, &json_limits_default, &why) != ERR_OK ||
	    !json_opt_str(&doc, 0, "name", &name, r->mem, &why) || (!name.n && !json_opt_str(&doc, 0, "model", &name, r->mem, &why)) ||
	    !json_opt_str(&doc, 0, "backend", &backend, r->mem, &why))
		return req_fail_why(r, &why);
	if (!name.n) {
		err_field(&why, ERR_MALFORMED, "name", "name is missing: which model is to be pulled?");
		return req_fail_why(r, &why);
	}
	return act(r, "pull", name, backend, -1);
}

/* DELETE /models/NAME?grace_s=N&backend=B */
static enum step remove_model(struct req *r)
{
	struct str grace = query(r, "grace_s");
	uint64_t s = 0;
	struct why why;

	if (grace.n && (!str_u64(grace, &s) || s > 30 * 86400)) {
		err_field(&why, ERR_INVALID, "grace_s", "grace_s is a number of seconds from 0 to 2592000, not '" STR_FMT "'", STR_ARG(grace));
		return req_fail_why(r, &why);
	}
	return act(r, "delete", param_name(r), query(r, "backend"), grace.n ? (int64_t)s * 1000 : -1);
}

/* POST /models/NAME/VERB; the name may have slashes itself */
static enum step change_model(struct req *r)
{
	static const char *const verbs[] = { "undelete", "preload", "unload", "protect", "unprotect", "pin", "unpin" };
	struct str name = param_name(r), verb = name;

	while (verb.n && memchr(verb.p, '/', verb.n))
		verb = str_from(verb, (size_t)((const char *)memchr(verb.p, '/', verb.n) - verb.p) + 1);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (str_eqz(verb, verbs[i]) && name.n > verb.n + 1)
			return act(r, verbs[i], str_n(name.p, name.n - verb.n - 1), query(r, "backend"), -1);
	return req_fail(r, ERR_NOT_FOUND, "'" STR_FMT "' is nothing to do with a model; POST /models/NAME/ takes undelete, preload, unload, protect, unprotect, "
					  "pin and unpin", STR_ARG(verb));
}

/* --- /jobs --- */

static void jobs_reply(const Corral__JobsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct job_ask *q = a->query;
	struct json_out jo;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	json_begin(&jo, &a->body);
	if (q->query.id[0]) {
		job_json(&jo, reply->jobs[0]);
	} else {
		jw_obj(&jo);
		jw_key(&jo, "jobs");
		jw_arr(&jo);
		for (size_t i = 0; i < reply->n_jobs; i++)
			job_json(&jo, reply->jobs[i]);
		jw_end(&jo);
		jw_end(&jo);
	}
	a->status = 200;
	ask_done(a);
}

static void jobs_call(struct ask *a) { corral__model_jobs__jobs(registry_jobs(a), &((struct job_ask *)a->query)->query, jobs_reply, a); }

static enum step jobs(struct req *r)
{
	struct str active = query(r, "active"), limit = query(r, "limit");
	struct ask *a;
	struct job_ask *q;
	uint64_t n = 0;

	if (limit.n && (!str_u64(limit, &n) || n < 1 || n > 500))
		return req_fail(r, ERR_INVALID, "limit is a number from 1 to 500, not '" STR_FMT "'", STR_ARG(limit));
	a = ask_new(r, jobs_call);
	q = job_ask(a);
	q->query.active_only = str_eqz(active, "true") || str_eqz(active, "1");
	q->query.limit = (uint32_t)n;
	return ask_send(a);
}

static enum step job(struct req *r)
{
	struct ask *a = ask_new(r, jobs_call);

	job_ask(a)->query.id = z(a, r->param);
	return ask_send(a);
}

static void cancel_reply(const Corral__Job *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	json_begin(&jo, &a->body);
	job_json(&jo, reply);
	a->status = 200;
	ask_done(a);
}

static void cancel_call(struct ask *a) { corral__model_jobs__cancel(registry_jobs(a), &((struct job_ask *)a->query)->ref, cancel_reply, a); }

static enum step job_cancel(struct req *r)
{
	struct ask *a = ask_new(r, cancel_call);

	trail_act(r, "cancel", r->param);
	job_ask(a)->ref.id = z(a, r->param);
	return ask_send(a);
}

const struct stage stage_pull = { "pull", pull }, stage_remove_model = { "remove_model", remove_model }, stage_change_model = { "change_model", change_model },
	stage_jobs = { "jobs", jobs }, stage_job = { "job", job }, stage_job_cancel = { "job_cancel", job_cancel };

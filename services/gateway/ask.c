/* ask.c - see ask.h. */
#include "services/gateway/ask.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/gateway/door.h"

static void release(struct ask *a)
{
	pthread_mutex_lock(&a->gw->asks_lock);
	list_del(&a->node);
	pthread_mutex_unlock(&a->gw->asks_lock);
	buf_free(&a->body);
	arena_free(a->mem);
}

struct ask *ask_new(struct req *r, void (*call)(struct ask *))
{
	struct arena *mem = arena_new(2048);
	struct ask *a = arena_new_of(mem, struct ask);

	a->mem = mem;
	a->gw = r->worker->gw;
	a->worker = r->worker;
	a->req = r;
	a->call = call;
	r->ask = a;
	memcpy(a->request_id, r->id_text, sizeof(a->request_id));
	pthread_mutex_lock(&a->gw->asks_lock);
	list_push(&a->gw->asks, &a->node);
	pthread_mutex_unlock(&a->gw->asks_lock);
	return a;
}

void ask_drop(struct ask *a)
{
	a->req->ask = NULL;
	release(a);
}

static void answer(void *arg)
{
	struct ask *a = arg;
	struct req *r = a->req;

	if (r) {
		r->ask = NULL;
		if (a->err.code)
			req_resume(r, req_fail_why(r, &a->err));
		else if (a->then)
			req_resume(r, a->then(r, a));
		else
			req_resume(r, req_reply(r, a->status, a->content_type ? a->content_type : "application/json", buf_as_str(&a->body)));
	}
	release(a);
}

void ask_forget_all(struct gateway *g)
{
	list_each_safe(it, &g->asks)
		release(list_entry(it, struct ask, node));
}

void ask_done(struct ask *a) { loop_post(a->worker->loop, answer, a); }

/* --- behind a model snapshot --- */

enum { BEHIND_US = 5000000 };

static void passed(void *arg)
{
	struct ask *a = arg;

	if (atomic_fetch_sub(&a->unseen, 1) == 1)
		ask_done(a);
}

/* Posts keep their order: behind the handing over of the world. */
static void pass_through_workers(struct ask *a)
{
	unsigned n = a->gw->n_workers;

	atomic_store(&a->unseen, n);
	for (unsigned i = 0; i < n; i++)
		loop_post(a->gw->workers[i]->loop, passed, a);
}

static bool has_models(const struct gateway *g, struct snapshot_id id)
{
	return g->models_id.epoch == id.epoch ? g->models_id.version >= id.version : g->models_id.epoch > id.epoch;
}

void ask_done_with_models(struct ask *a, struct snapshot_id id)
{
	a->needs = id;
	a->patience_us = loop_now_us(a->gw->loop) + BEHIND_US;
	a->behind = a->gw->behind;
	a->gw->behind = a;
	ask_models_came(a->gw);
}

void ask_models_came(struct gateway *g)
{
	for (struct ask **at = &g->behind, *a; (a = *at);) {
		bool late = loop_now_us(g->loop) >= a->patience_us;

		if (!has_models(g, a->needs) && !late) {
			at = &a->behind;
			continue;
		}
		*at = a->behind;
		if (!has_models(g, a->needs))
			err_set(&a->err, ERR_UNAVAILABLE, "the backends were listed, but the new list has not come from the model-registry within %d s",
				BEHIND_US / 1000000);
		pass_through_workers(a);
	}
}

/* What it says of files and addresses is for the log. */
static void cannot_answer(struct ask *a, const char *service, const char *error)
{
	LOG_WARN("a question was not answered", LOG_S("of", service), LOG_S("error", error));
	err_set(&a->err, ERR_UNAVAILABLE, "the %s does not answer now; the gateway's log says why", service);
}

struct json_out ask_json(struct ask *a, int status)
{
	struct json_out jo;

	a->status = status;
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	return jo;
}

void ask_json_done(struct ask *a, struct json_out *jo)
{
	json_done(jo);
	ask_done(a);
}

void ask_failed(struct ask *a, struct rpc_client *client, const char *service)
{
	const struct why *why = rpc_error(client);

	if (why && (why->code == ERR_NOT_FOUND || why->code == ERR_FORBIDDEN || why->code == ERR_INVALID || why->code == ERR_MALFORMED || why->code == ERR_CONFLICT))
		a->err = *why;
	else
		cannot_answer(a, service, why ? why->text : "no reply");
	ask_done(a);
}

bool ask_time(struct req *r, struct ask *a, const char *name, int64_t *ret)
{
	struct str text = STR("");
	struct why why;
	uint64_t seconds;

	if (!http_query_get(r->x->head.query, name, a->mem, &text) || !text.n)
		return true;
	if (str_u64(text, &seconds) && seconds < 100000000000ULL) {
		*ret = (int64_t)seconds * 1000000;
		return true;
	}
	if (clock_parse_rfc3339(arena_dup(a->mem, text.p, text.n), ret))
		return true;
	err_field(&why, ERR_INVALID, name, "'" STR_FMT "' is not a time; write 2026-11-21 or 2026-11-21T09:00:00Z", STR_ARG(text));
	req_fail_why(r, &why);
	return false;
}

static void name_caller(struct gateway *g, const char *request_id)
{
	rpc_asked_for(g->registry, request_id);
	rpc_asked_for(g->selector, request_id);
	rpc_asked_for(g->ledger, request_id);
	rpc_asked_for(g->hardware, request_id);
	rpc_asked_for(g->cloud, request_id);
	rpc_asked_for(g->door->access, request_id);
}

/* What is answered at once is with the worker, or freed, when call() returns. */
static void start(void *arg)
{
	struct ask *a = arg;
	struct gateway *g = a->gw;

	name_caller(g, a->request_id);
	a->call(a);
	name_caller(g, "");
}

enum step ask_send(struct ask *a)
{
	loop_post(a->gw->loop, start, a);
	return STEP_WAIT;
}

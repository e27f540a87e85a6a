/* ask.c - see ask.h. */
#include "services/gateway/ask.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"

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
	return a;
}

void ask_drop(struct ask *a)
{
	a->req->ask = NULL;
	arena_free(a->mem);
}

static void answer(void *arg)
{
	struct ask *a = arg;
	struct req *r = a->req;

	if (r) {
		r->ask = NULL;
		if (a->err.code)
			req_resume(r, req_fail_why(r, &a->err));
		else
			req_resume(r, req_reply(r, a->status, a->content_type ? a->content_type : "application/json", buf_as_str(&a->body)));
	}
	buf_free(&a->body);
	arena_free(a->mem);
}

void ask_done(struct ask *a) { loop_post(a->worker->loop, answer, a); }

/* What it says of files and addresses is for the log. */
static void cannot_answer(struct ask *a, const char *service, const char *error)
{
	LOG_WARN("a question was not answered", LOG_S("of", service), LOG_S("error", error));
	err_set(&a->err, ERR_UNAVAILABLE, "the %s does not answer now; the gateway's log says why", service);
}

void ask_failed(struct ask *a, struct rpc_client *client, const char *service)
{
	const struct why *why = rpc_error(client);

	if (why && (why->code == ERR_NOT_FOUND || why->code == ERR_INVALID || why->code == ERR_MALFORMED))
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

static void start(void *arg)
{
	struct ask *a = arg;

	a->call(a);
}

enum step ask_send(struct ask *a)
{
	loop_post(a->gw->loop, start, a);
	return STEP_WAIT;
}

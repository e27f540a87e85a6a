/* count_tokens.c - how many tokens an Anthropic request's prompt has: the backend's own count of what would be sent to it, else an
 * estimate; X-Corral-Tokens-Source says which. It takes no slot, and nothing of it is in the ledger: no token is made. */
#include "common/data/json_write.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

enum { COUNT_MS = 5000, COUNT_MAX = 64 * 1024 };

static enum step answer(struct req *r, int64_t tokens, const char *source)
{
	struct buf b = { 0 };
	struct json_out jo;
	enum step s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_i64(&jo, "input_tokens", tokens);
	jw_end(&jo);
	r->extra_headers = arena_fmt(r->mem, STR_FMT "X-Corral-Tokens-Source: %s\r\n", STR_ARG(r->extra_headers), source);
	s = req_reply_json(r, 200, &b);
	buf_free(&b);
	return s;
}

static enum step estimate(struct req *r) { return answer(r, r->in.prompt_tokens_est, "estimated"); }

static void counted(void *arg, int status, struct str body, const char *error)
{
	struct req *r = arg;
	struct json doc;
	int64_t tokens;

	(void)error;
	r->fetch = NULL;
	if (status == 200 && json_parse(&doc, r->mem, body, &json_limits_default, NULL) == ERR_OK &&
	    json_i64(&doc, json_get(&doc, 0, "input_tokens"), &tokens) && tokens >= 0)
		req_resume(r, answer(r, tokens, "counted"));
	else
		req_resume(r, estimate(r));
}

static struct str joined(struct req *r, const struct llm_plan *p)
{
	return arena_join(r->mem, p->parts, p->n_parts);
}

static enum step enter(struct req *r)
{
	const struct cat_replica *cr = &r->world->cat.replicas[r->pick.ranked[0].replica];
	const struct world_backend *b = &r->world->backends[cr->backend];
	struct llm_target target = { .kind = b->kind, .remote_model = str_of(cr->remote_name), .context_length = cr->context,
		.shown_model = r->world->cat.models[cr->model].name, .caps = r->world->cat.models[cr->model].caps,
		.request_id = str_n(r->id_text, 36), .created_us = r->start_wall_us };
	struct llm_plan plan;
	struct why why = { 0 };
	enum err e = llm_plan(&plan, &r->in, &target, r->mem, &why);

	if (e == ERR_NOT_IMPLEMENTED || !b->usable)
		return estimate(r);
	if (e)
		return req_fail_why(r, &why);
	r->fetch = http_fetch(worker_pool(r->worker, &b->url), "POST", str_of(plan.path), STR("Content-Type: application/json\r\n"),
			      joined(r, &plan), COUNT_MS, COUNT_MAX, counted, r);
	return STEP_WAIT;
}

const struct stage stage_count_tokens = { "count_tokens", enter };

/* attempt.c - see attempt.h.
 *
 *   start ──▶ head ──▶ data… ──▶ end ──▶ settle(ok)
 *      └────────┴────────┴────────┴───▶ settle(error): before the first byte to the client another replica is tried */
#include "services/gateway/attempt.h"
#include "services/gateway/treat.h"

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/cloud.h"
#include "services/gateway/account.h"
#include "services/gateway/budget.h"
#include "services/gateway/cost.h"
#include "services/gateway/recall.h"

enum { HEARD_STEP_US = 50000, HOLD_FREE = 64 << 10, HOLD_STEP = 256 << 10, RETRY_AFTER_MAX_US = 600 * 1000000,
       CLOUD_PAUSE_US = 1000000 };      /* how a provider is says the snapshot of cloud-fallback, which is newer than any answer */

/* --- settling: exactly once per attempt --- */

enum verdict { V_OK, V_FAILED, V_REFUSED /* backend unreachable */, V_NEUTRAL };

static void report(struct req *r, enum verdict v, const char *cause)
{
	struct attempt *t = &r->try;
	struct breaker_opts o = gateway_breaker_opts(r->worker->gw->cfg);
	struct breaker *b = &t->slot->breaker;
	bool changed = false;

	switch (v) {
	case V_OK:
		changed = breaker_success(b, req_now(r), t->probe);
		break;
	case V_FAILED:
	case V_REFUSED:
		changed = breaker_failure(b, &o, req_now(r), v == V_REFUSED, cause, t->probe);
		break;
	case V_NEUTRAL:
		breaker_neutral(b, t->probe);
		break;
	}
	if (t->retry_after_us)
		breaker_pause(b, req_now(r) + (t->slot->cloud && t->retry_after_us > CLOUD_PAUSE_US ? CLOUD_PAUSE_US : t->retry_after_us));
	if (changed && v != V_OK) {
		series_inc(metrics_series(r->worker->gw->metrics, M_BREAKER_OPENED, t->slot->model, t->slot->backend));
		LOG_WARN("breaker opened", LOG_S("model", t->slot->model), LOG_S("backend", t->slot->backend), LOG_S("cause", cause),
			 LOG_I("rest_ms", breaker_retry_us(b, req_now(r)) / 1000));
	} else if (changed) {
		LOG_INFO("breaker closed", LOG_S("model", t->slot->model), LOG_S("backend", t->slot->backend));
	}
}

static void measure(struct req *r, const char *status)
{
	struct replica_state *s = r->try.slot;

	series_inc(status[0] == 'o' ? s->m_ok : status[0] == 'c' ? s->m_cancelled : s->m_error);
	if (r->used.prompt_tokens)
		series_add(s->m_prompt_tokens, (double)r->used.prompt_tokens);
	if (r->used.completion_tokens)
		series_add(s->m_completion_tokens, (double)r->used.completion_tokens);
	if (r->try.first_us)
		series_observe(s->m_first_token, (double)(r->try.first_us - r->try.start_us) / 1e6);
}

static void answered(struct req *r)
{
	if (r->try.asked)
		slot_answered(r->try.slot, req_now(r));
	r->try.asked = false;
}

static void settle(struct req *r, enum verdict v, const char *status, enum err code, const char *cause)
{
	struct attempt *t = &r->try;
	struct replica_state *slot = t->slot;

	if (!slot)
		return;
	if (t->start_position >= 0)
		account_final(r, status, code);
	budget_end(r);                    /* of one that was not begun */
	if (r->shadow) {                  /* what it was asked is the experiment's doing */
		breaker_neutral(&slot->breaker, t->probe);
	} else {
		report(r, v, cause);
		measure(r, status);
	}
	answered(r);
	t->slot = NULL;
	if (r->slot_charged_us)
		queue_settle(slot->queue, r->tenant, req_now(r) - t->start_us - r->slot_charged_us);
	r->slot_charged_us = 0;
	slot_free(slot, v == V_OK && !r->shadow ? req_now(r) - t->start_us : 0);
}

/* All of its answer came, and its client left in the same turn. */
static void keep_books(struct req *r)
{
	struct llm_extra extra = attempt_extra(r);

	loop_undefer(&r->try.over);
	if (llm_relay_end(r->try.relay, &extra, &r->out, NULL) == LLM_DONE)
		settle(r, V_OK, "ok", ERR_OK, "");
}

void attempt_close(struct req *r)
{
	struct attempt *t = &r->try;

	if (t->call) {
		t->sent = http_call_sent(t->call);
		http_call_cancel(t->call);
		t->call = NULL;
	}
	if (loop_is_deferred(&t->over))
		keep_books(r);
	if (t->slot)
		settle(r, V_NEUTRAL, r->err.code == ERR_CLIENT_GONE ? t->sent || r->shadow ? "cancelled" : "not_sent" : "error", r->err.code, "closed");
}

/* --- failing and trying again --- */

static void mark_tried(struct req *r)
{
	if (!r->tried)
		r->tried = arena_array(r->mem, bool, r->world->cat.n_replicas + 1u);
	r->tried[r->try.replica] = true;
}

/* The backend may have another request's answer ready only for what it understood: our own fault and the client's are not retried. */
static bool may_retry(const struct req *r, enum err code)
{
	const struct gateway_config *cfg = r->worker->gw->cfg;

	if (r->answer_begun || !r->x || r->try.number >= (uint32_t)cfg->attempts || req_now(r) >= r->deadline_us)
		return false;
	return code == ERR_BACKEND_FAILED || code == ERR_UNAVAILABLE || code == ERR_RATE_LIMITED || code == ERR_BUDGET_SPENT;
}

static bool other_replica(const struct req *r)
{
	for (uint16_t i = 0; i < r->pick.n_ranked; i++)
		if (!r->tried[r->pick.ranked[i].replica])
			return true;
	return false;
}

/* Nobody else is there, and it may be well: it ended a kept connection with the request on it, as servers do that think it idle. Once. */
static bool same_again(struct req *r)
{
	if (!r->try.kept_broke || r->fresh_link)
		return false;
	r->tried[r->try.replica] = false;
	r->fresh_link = true;
	return true;
}

static void failed(struct req *r, enum verdict v, const struct why *why, const char *cause)
{
	struct attempt *t = &r->try;

	t->call = NULL;
	LOG_DEBUG("attempt failed", LOG_S("request_id", r->id_text), LOG_S("backend", req_backend_name(r)), LOG_S("cause", cause),
		  LOG_S("error", why->text));
	if (r->orphan) {
		settle(r, v, "cancelled", ERR_CLIENT_GONE, cause);
		req_resume(r, STEP_FAIL);
		return;
	}
	mark_tried(r);
	if (may_retry(r, why->code) && (other_replica(r) || same_again(r))) {
		r->status = 0;
		r->retries = true;
		settle(r, r->fresh_link ? V_NEUTRAL : v, t->sent ? "error" : "not_sent", why->code, cause);
		r->retries = false;
		req_resume(r, STEP_AGAIN);
		return;
	}
	r->status = req_error_status(r, why->code);
	if (t->retry_after_us)
		r->retry_after_s = (t->retry_after_us + 999999) / 1000000;
	settle(r, v, t->sent ? "error" : "not_sent", why->code, cause);
	req_fail_why(r, why);
	req_resume(r, STEP_FAIL);
}

/* What the backend itself said, as a verdict on its health. */
static enum verdict verdict_of(const struct req *r, const struct why *why)
{
	if (why->code == ERR_BACKEND_FAILED)
		return V_FAILED;
	if (why->code == ERR_UNAVAILABLE && r->try.upstream_status == 503)
		return r->try.retry_after_us ? V_NEUTRAL : V_FAILED;
	return V_NEUTRAL;
}

static void relay_failed(struct req *r, const struct why *why)
{
	struct http_call *call = r->try.call;

	r->try.sent = true;
	if (call)
		http_call_cancel(call);
	if (r->try.upstream_status == 402 && cloud_of(&r->world->cat, r->try.replica)) {
		struct why spent = *why;

		spent.code = ERR_BUDGET_SPENT;
		failed(r, V_NEUTRAL, &spent, "status");
		return;
	}
	failed(r, verdict_of(r, why), why, r->try.upstream_error ? "status" : "protocol");
}

/* --- sending the client what has come --- */

static void push(struct req *r)
{
	struct attempt *t = &r->try;

	if (!r->x)
		buf_clear(&r->out);       /* nobody's */
	if (!r->out.n)
		return;
	if (!r->head_sent) {
		http_reply_start(r->x, 200, req_headers(r, llm_relay_content_type(t->relay)), -1);
		r->head_sent = true;
		r->status = 200;
	}
	r->answer_begun = true;
	http_reply_data(r->x, buf_as_str(&r->out));
	r->sent_bytes += r->out.n;
	buf_clear(&r->out);
	if (t->call && !r->paused && http_reply_full(r->x)) {
		r->paused = true;
		http_call_pause(t->call);
	}
}

static void note_progress(struct req *r)
{
	struct attempt *t = &r->try;
	int64_t now = req_now(r);

	if (!t->first_us && llm_relay_deltas(t->relay))
		t->first_us = now;
	if (r->in.stream && now - t->checkpoint_us >= r->worker->gw->cfg->checkpoint * 1000) {
		account_checkpoint(r);
		t->checkpoint_us = now;
	}
}

static const char *alternatives(struct req *r)
{
	struct str s = STR("[");

	for (uint16_t i = 1; i < r->pick.n_ranked && i < 4; i++)
		s = arena_fmt(r->mem, STR_FMT "%s{\"model\":\"%s\",\"score\":%.6g}", STR_ARG(s), i > 1 ? "," : "",
			      r->world->cat.replicas[r->pick.ranked[i].replica].pb->model, r->pick.ranked[i].score);
	return arena_fmt(r->mem, STR_FMT "]", STR_ARG(s)).p;
}

struct llm_extra attempt_extra(struct req *r)
{
	struct llm_extra e = {
		.backend = str_of(req_backend_name(r)), .task_type = str_of(r->features.task_type),
		.complexity = str_of(r->features.complexity), .language = str_of(r->features.language),
		.reason = str_of(r->picked_reason), .context_size = r->in.prompt_tokens_est, .confidence = r->pick.confidence,
		.latency_us = req_now(r) - r->start_us, .ttft_us = r->try.first_us ? r->try.first_us - r->start_us : 0,
	};

	e.experiment_json = treat_json(r);
	e.squeezed = r->squeezed;
	e.tokens_saved = r->tokens_saved;
	if (r->in.dialect == LLM_NATIVE)
		e.alternatives_json = str_of(alternatives(r));
	return e;
}

/* --- callbacks of the client --- */

static int64_t retry_after_us(const struct http_head *head)
{
	const struct http_header *h = http_find(head, "retry-after");
	uint64_t s;

	if (!h || !str_u64(h->value, &s))
		return 0;                 /* a date is rare between machines; the breaker's own rest serves */
	return s * 1000000 > RETRY_AFTER_MAX_US ? RETRY_AFTER_MAX_US : (int64_t)(s * 1000000);
}

static bool says_unspent(const struct http_head *head)
{
	const struct http_header *h = head->status >= 400 ? http_find(head, "x-corral-spent") : NULL;

	return h && str_eqz(h->value, "no");
}

/* The registry tells an engine that works from one that hangs by this (lease.c). */
static void heard(struct req *r)
{
	struct replica_state *s = r->try.slot;

	if (s && req_now(r) - atomic_load_explicit(&s->heard_us, memory_order_relaxed) > HEARD_STEP_US)
		atomic_store_explicit(&s->heard_us, req_now(r), memory_order_relaxed);
}

static void on_head(struct http_call *call, const struct http_head *head, void *arg)
{
	struct req *r = arg;
	struct why why = { 0 };

	heard(r);
	answered(r);
	r->try.sent = true;
	r->try.upstream_status = head->status;
	r->try.upstream_error = head->status >= 400;
	r->try.unspent = says_unspent(head);
	if (head->status == 429 || head->status == 503)
		r->try.retry_after_us = retry_after_us(head);
	if (r->orphan) {                  /* loaded: the load was let finish, the answer is nobody's */
		http_call_cancel(call);
		r->try.call = NULL;
		settle(r, V_NEUTRAL, "cancelled", ERR_CLIENT_GONE, "client left");
		req_resume(r, STEP_FAIL);
		return;
	}
	if (llm_relay_head(r->try.relay, head, &why) == LLM_FAILED)
		relay_failed(r, &why);
}

/* An answer that is made whole before the client gets it counts, from a size on. What a failed attempt held stays until the request's end. */
static bool hold(struct req *r)
{
	struct attempt *t = &r->try;

	if (r->in.stream || t->bytes <= t->held_bytes + HOLD_FREE)
		return true;
	if (!budget_take(&r->worker->gw->held, HOLD_STEP))
		return false;
	t->held_bytes += HOLD_STEP;
	r->held_bytes += HOLD_STEP;
	return true;
}

/* Not the backend's fault, and no other would help. */
static void no_room(struct req *r, struct http_call *call)
{
	http_call_cancel(call);
	r->try.call = NULL;
	req_fail(r, ERR_UNAVAILABLE, "the answer is too large for the memory that is left for answers now (CORRAL_HOLD_MAX); try again, or stream it");
	settle(r, V_NEUTRAL, "error", ERR_UNAVAILABLE, "memory");
	req_resume(r, STEP_FAIL);
}

/* What a stream says is with the server before the turn ends, so one buffer serves them all: it is warm, and a stream at rest holds none. */
static void lend_out(struct req *r)
{
	if (!r->in.stream || r->out.cap)
		return;
	r->out = r->worker->out;
	r->worker->out = (struct buf){ 0 };
}

static void return_out(struct req *r)
{
	if (!r->in.stream || r->out.n || r->worker->out.cap)
		return;
	r->worker->out = r->out;
	r->out = (struct buf){ 0 };
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct req *r = arg;
	struct why why = { 0 };
	enum llm_step step;

	heard(r);
	r->try.bytes += data.n;
	if (!hold(r)) {
		no_room(r, call);
		return;
	}
	recall_record(r, data);
	lend_out(r);
	step = llm_relay_data(r->try.relay, data, &r->out, &why);
	if (step == LLM_FAILED) {
		push(r);
		relay_failed(r, &why);
		return;
	}
	r->try.ended |= step == LLM_DONE;
	note_progress(r);
	if (r->in.stream)
		push(r);
	return_out(r);
}

/* A prompt above the context, of which was read less than any text needs (nine bytes a token): cut in silence, as Ollama does when a client
 * asks for it or it is too old to be told not to. Pictures count too differently to be judged. */
static void tell_of_a_cut(struct req *r)
{
	const struct llm_usage *u = llm_relay_usage(r->try.relay);
	uint32_t context = r->world->cat.replicas[r->try.replica].context;

	if (!u->reported || !u->prompt_tokens || !context || r->in.op == LLM_EMBED || (r->in.needs & LLM_CAP_VISION) || r->in.prompt_tokens_est <= context ||
	    u->prompt_tokens * 3 >= r->in.prompt_tokens_est)
		return;
	recall_spoil(r);
	series_inc(metrics_series(r->worker->gw->metrics, M_CUT, req_model_name(r), req_backend_name(r)));
	LOG_WARN("a backend has cut a prompt", LOG_S("request_id", r->id_text), LOG_S("model", req_model_name(r)), LOG_S("backend", req_backend_name(r)),
		 LOG_I("tokens_read", (int64_t)u->prompt_tokens), LOG_I("tokens_sent_about", r->in.prompt_tokens_est), LOG_I("context", context));
	r->extra_headers = arena_fmt(r->mem, STR_FMT "X-Corral-Prompt-Cut: %llu of about %u tokens were read\r\n", STR_ARG(r->extra_headers),
				     (unsigned long long)u->prompt_tokens, r->in.prompt_tokens_est);
}

static void answer_whole(struct req *r)
{
	struct str body = buf_as_str(&r->out);

	r->status = 200;
	r->sent_bytes += body.n;
	http_reply(r->x, 200, req_headers(r, llm_relay_content_type(r->try.relay)), body);
	r->head_sent = true;
	r->x = NULL;
}

static void conclude(struct loop_deferred *d)
{
	struct req *r = list_entry(d, struct req, try.over);
	struct why why = { 0 };
	struct llm_extra extra = attempt_extra(r);

	if (llm_relay_end(r->try.relay, &extra, &r->out, &why) != LLM_DONE) {
		if (r->answer_begun)
			push(r);          /* what was whole is the client's */
		relay_failed(r, &why);
		return;
	}
	note_progress(r);
	r->status = 200;
	tell_of_a_cut(r);
	recall_keep(r);
	settle(r, V_OK, "ok", ERR_OK, "");        /* in the spool before the client sees the end */
	if (!r->x) {
		req_resume(r, STEP_DONE);
		return;
	}
	if (r->in.stream) {
		push(r);
		if (!r->head_sent)
			http_reply_start(r->x, 200, req_headers(r, llm_relay_content_type(r->try.relay)), -1);
		r->head_sent = true;
		http_reply_end(r->x);
		r->x = NULL;
	} else {
		answer_whole(r);
	}
	req_resume(r, STEP_DONE);
}

/* Answers that end in one turn are concluded together, after all was read. */
static void on_end(struct http_call *call, void *arg)
{
	struct req *r = arg;

	(void)call;
	r->try.call = NULL;
	loop_defer(r->worker->loop, &r->try.over, LOOP_PHASE_ENDS, conclude);
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct req *r = arg;
	struct why why = { 0 };
	bool timeout = e == HTTP_CALL_FIRST_BYTE_TIMEOUT || e == HTTP_CALL_IDLE_TIMEOUT;

	if (r->try.ended) {               /* [DONE] is with the client: no error may follow it */
		on_end(call, r);
		return;
	}
	r->try.sent = http_call_sent(call);
	r->try.kept_broke = e == HTTP_CALL_RESET && http_call_reused(call) && !http_call_answered(call);
	r->try.call = NULL;
	if (e == HTTP_CALL_DEADLINE)
		err_set(&why, ERR_DEADLINE, "the request was not answered within %lld s", (long long)(r->worker->gw->cfg->request_timeout / 1000));
	else
		err_set(&why, timeout && r->head_sent ? ERR_DEADLINE : ERR_BACKEND_FAILED, "backend '%s' failed (%s): %s", req_backend_name(r),
			http_call_error_name(e), text);
	failed(r, e == HTTP_CALL_DEADLINE ? V_NEUTRAL : e == HTTP_CALL_REFUSED ? V_REFUSED : V_FAILED, &why, http_call_error_name(e));
}

static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };

/* --- starting --- */

/* What cloud-fallback asks for, and what it has to know to stop in time and to tell attempts apart. */
static struct str cloud_headers(struct req *r)
{
	char left[20], number[20];
	int64_t left_ms = (r->deadline_us - req_now(r)) / 1000;
	const struct str parts[] = {
		STR("Authorization: Bearer "), r->world->cloud_token, STR("\r\nX-Corral-Deadline-Ms: "), str_from_u64(left_ms > 0 ? (uint64_t)left_ms : 0, left),
		STR("\r\nX-Corral-Attempt: "), str_from_u64(r->try.number, number), STR("\r\nX-Corral-Tenant: "), r->tenant, STR("\r\n"),
	};

	return arena_join(r->mem, parts, sizeof(parts) / sizeof(*parts));
}

static struct str call_headers(struct req *r)
{
	char trace_id[33], span_id[16];
	const struct str parts[] = {
		STR("Content-Type: application/json\r\nAccept: "),
		r->in.stream ? STR("text/event-stream, application/x-ndjson") : STR("application/json"),
		STR("\r\nX-Request-Id: "), str_n(r->id_text, 36),
		STR("\r\ntraceparent: 00-"), str_n(req_trace_id(r, trace_id), 32), STR("-"), str_n(span_id, 16), STR("-01\r\n"),
		cloud_of(&r->world->cat, r->try.replica) ? cloud_headers(r) : STR(""),
	};

	hex_of(span_id, r->trace + 16, 8);
	return arena_join(r->mem, parts, sizeof(parts) / sizeof(*parts));
}

/* Who asks for "x" and has "x:latest" answering is told "x"; auto and aliases are told which model it was. */
static struct str spelled(const struct req *r, uint16_t model)
{
	return r->model == model && !r->alias ? r->in.model : r->world->cat.models[model].name;
}

struct llm_target attempt_target(struct req *r, uint16_t replica)
{
	const struct cat_replica *cr = &r->world->cat.replicas[replica];

	return (struct llm_target){ .kind = r->world->backends[cr->backend].kind, .remote_model = str_of(cr->remote_name),
		.shown_model = spelled(r, cr->model), .context_length = cr->context, .caps = r->world->cat.models[cr->model].caps,
		.request_id = str_n(r->id_text, 36), .created_us = r->start_wall_us };
}

/* This backend cannot be given the request; another kind may. */
static enum step cannot_plan(struct req *r, const struct why *why)
{
	settle(r, V_NEUTRAL, "not_sent", why->code, "plan");
	mark_tried(r);
	r->try.number--;
	if (!r->unplanned.code)
		r->unplanned = *why;
	return other_replica(r) ? STEP_AGAIN : req_fail_why(r, &r->unplanned);
}

/* Providers are asked for chats alone. */
static bool cloud_takes(struct req *r, struct why *why)
{
	if (!cloud_of(&r->world->cat, r->try.replica) || strcmp(r->try.plan.path, "/v1/chat/completions") == 0)
		return true;
	err_field(why, ERR_NO_MODEL_FITS, "model", "model '%s' is in the cloud and answers chats only", req_model_name(r));
	return false;
}

/* The call may outlive the client's connection, whose buffer the parts point into (see attempt_orphan). */
static void own_body(struct req *r)
{
	struct llm_plan *p = &r->try.plan;
	char *copy = arena_alloc(r->mem, p->length + 1), *at = copy;

	for (unsigned i = 0; i < p->n_parts; i++) {
		memcpy(at, p->parts[i].p, p->parts[i].n);
		at += p->parts[i].n;
	}
	p->parts[0] = str_n(copy, p->length);
	p->n_parts = 1;
}

enum step attempt_start(struct req *r, struct replica_state *slot, uint16_t replica)
{
	struct attempt *t = &r->try;
	const struct gateway_config *cfg = r->worker->gw->cfg;
	const struct world_backend *b = &r->world->backends[r->world->cat.replicas[replica].backend];
	struct http_pool *pool = worker_pool(r->worker, &b->url);
	struct llm_target target = attempt_target(r, replica);
	struct http_call_opts opts = { .connect_ms = cfg->connect_timeout, .first_byte_ms = cfg->first_byte_timeout,
		.idle_ms = cfg->idle_timeout, .deadline_us = r->deadline_us, .fresh = r->fresh_link };
	uint32_t number = t->number + 1;
	struct why why = { 0 };

	*t = (struct attempt){ .number = number, .replica = replica, .slot = slot, .probe = r->probe, .start_us = req_now(r), .start_position = -1,
			       .met_uj = meter_read(&slot->meter, req_now(r)) };
	list_init(&t->open);
	if (atomic_load(&slot->in_use) <= 1)
		atomic_store(&slot->busy_since_us, t->start_us);
	buf_clear(&r->out);               /* of an attempt that failed before anything was sent */
	t->checkpoint_us = t->start_us;
	if (llm_plan(&t->plan, &r->in, &target, r->mem, &why) != ERR_OK || !cloud_takes(r, &why))
		return cannot_plan(r, &why);
	if (!account_start(r, &why)) {
		settle(r, V_NEUTRAL, "not_sent", why.code, "spool");
		t->number = number - 1;           /* nothing of it is in the ledger */
		return req_fail_why(r, &why);
	}
	if (b->kind == LLM_BACKEND_OLLAMA && !r->world->cat.replicas[replica].pb->loaded)
		own_body(r);
	if (t->plan.ignored.n && http_value_ok(t->plan.ignored) && t->plan.ignored.n < 1024)
		r->extra_headers = arena_fmt(r->mem, "X-Corral-Ignored: " STR_FMT "\r\n", STR_ARG(t->plan.ignored));
	t->relay = llm_relay_new(r->mem, &r->in, &t->plan, &target);
	llm_relay_price(t->relay, cost_of_answer, r);
	recall_begin(r);
	slot_asked(slot, t->start_us);
	t->asked = true;
	t->call = http_call_start(pool, http_call_head(r->mem, pool, "POST", str_of(t->plan.path), call_headers(r), true, t->plan.length),
				  t->plan.parts, t->plan.n_parts, &opts, &ops, r);
	return STEP_WAIT;
}

bool attempt_orphan(struct req *r)
{
	struct attempt *t = &r->try;
	const struct cat_replica *cr;

	if (!t->call || t->upstream_status || !http_call_sent(t->call))
		return false;
	cr = &r->world->cat.replicas[t->replica];
	if (r->world->backends[cr->backend].kind != LLM_BACKEND_OLLAMA || cr->pb->loaded)
		return false;
	r->orphan = true;
	return true;
}

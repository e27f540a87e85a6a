/* pipeline.c - the driver: takes a request through the stages of its route, and ends it the same way on every way out. */
#include <stdarg.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/sse.h"
#include "services/gateway/account.h"
#include "services/gateway/admission.h"
#include "services/gateway/ask.h"
#include "services/gateway/attempt.h"
#include "services/gateway/budget.h"
#include "services/gateway/cors.h"
#include "services/gateway/cost.h"
#include "services/gateway/passage.h"
#include "services/gateway/recall.h"
#include "services/gateway/limits.h"
#include "services/gateway/routes.h"
#include "services/gateway/shadow.h"
#include "services/gateway/trail.h"
#include "services/gateway/upload.h"
#include "services/gateway/run_exec.h"

enum { OUT_KEPT = 16 * 1024 };        /* an output buffer up to this size waits for the next request */

int64_t req_now(const struct req *r) { return loop_now_us(r->worker->loop); }

const char *req_model_name(const struct req *r)
{
	return r->pick.n_ranked && (r->try.number || recall_is_hit(r)) ? r->world->cat.replicas[r->try.replica].pb->model : "";
}

const char *req_backend_name(const struct req *r)
{
	return r->pick.n_ranked && r->try.number ? r->world->cat.replicas[r->try.replica].pb->backend : "";
}

/* --- making and freeing --- */

static struct arena *take_arena(struct worker *w) { return w->n_spare ? w->spare[--w->n_spare] : arena_new(8192); }

static void give_arena(struct worker *w, struct arena *a)
{
	if (w->n_spare == sizeof(w->spare) / sizeof(*w->spare) || arena_used(a) > 256 * 1024) {
		arena_free(a);
		return;
	}
	arena_reset(a);
	w->spare[w->n_spare++] = a;
}

static struct req *req_new(struct worker *w, struct http_xchg *x)
{
	struct req *r = w->n_spare_req ? w->spare_req[--w->n_spare_req] : x_calloc(1, sizeof(*r));

	/* Apart, for what is larger than 2 KB the C library clears by 'rep stos', which is slow to start. */
	memset(r, 0, offsetof(struct req, features));
	memset(&r->features, 0, offsetof(struct req, out) - offsetof(struct req, features));
	why_clear(&r->err);
	why_clear(&r->unplanned);
	r->mem = take_arena(w);
	r->worker = w;
	r->x = x;
	r->start_us = loop_now_us(w->loop);
	r->start_wall_us = wall_us();
	r->id = uuid_v7(r->start_wall_us);
	uuid_format(r->id, r->id_text);
	r->model = -1;
	r->try.start_position = -1;
	list_init(&r->try.open);
	corral__decision_features__init(&r->features);
	list_push(&w->requests, &r->node);
	w->n_requests++;
	if (w->world)
		r->world = world_ref(w->world);
	return r;
}

static void req_free(struct req *r)
{
	struct worker *w = r->worker;

	list_del(&r->node);
	w->n_requests--;
	buf_clear(&r->out);
	if (r->out.cap > OUT_KEPT)
		buf_free(&r->out);
	world_unref(r->world);
	budget_give(&w->gw->held, r->held_bytes);
	keyring_unref(r->ring);
	give_arena(w, r->mem);
	if (w->n_spare_req < sizeof(w->spare_req) / sizeof(*w->spare_req)) {
		w->spare_req[w->n_spare_req++] = r;
	} else {
		buf_free(&r->out);
		free(r);
	}
}

/* --- trace context: W3C Trace Context level 1 --- */

static bool is_hex(struct str s)
{
	bool zero = true;

	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		zero &= c == '0';
	}
	return !zero;
}

static uint8_t nibble(char c) { return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10); }

static void unhex(uint8_t *to, const char *from, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		to[i] = (uint8_t)(nibble(from[2 * i]) << 4 | nibble(from[2 * i + 1]));
}

/* Ids of the trace context are never all zero. */
static void draw_id(uint8_t *to, unsigned words)
{
	for (unsigned i = 0; i < words; i++) {
		uint64_t v = rand_u64() | 1;

		memcpy(to + 8 * i, &v, sizeof(v));
	}
}

static void draw_span(struct req *r)
{
	draw_id(r->trace + 16, 1);
}

/* The client's trace goes on where it names one, else a new one begins. */
static void read_trace(struct req *r)
{
	const struct http_header *h = http_find(&r->x->head, "traceparent");
	const struct http_header *id = http_find(&r->x->head, "x-request-id");

	draw_span(r);
	if (h && h->value.n == 55 && str_starts(h->value, STR("00-")) && is_hex(str_n(h->value.p + 3, 32)))
		unhex(r->trace, h->value.p + 3, 16);
	else
		draw_id(r->trace, 2);
	if (id && id->value.n && id->value.n <= 128)
		r->client_request_id = arena_str(r->mem, id->value);      /* the log outlives the connection's buffer */
}

const char *req_trace_id(const struct req *r, char out[33])
{
	hex_of(out, r->trace, 16);
	out[32] = '\0';
	return out;
}

/* --- answers --- */

/* Proxies on the way must neither keep nor gather nor change a stream. */
#define STREAM_LINES "Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n"

/* Where the answer is from, what was tried for it, what it costs. */
static void put_work(struct req *r, struct buf *b)
{
	int64_t expected;

	buf_addz(b, "\r\nX-Corral-Cache: ");
	buf_addz(b, recall_word(r));
	buf_addz(b, "\r\nX-Corral-Attempts: ");
	buf_u64(b, r->try.number);
	if (cost_expected(r, &expected)) {
		buf_addz(b, "\r\nX-Corral-Estimated-Cost-Microusd: ");
		buf_u64(b, (uint64_t)expected);
	}
	if (!r->in.stream) {
		buf_addz(b, "\r\nX-Corral-Cost-Microusd: ");
		buf_u64(b, (uint64_t)r->cost_microusd);
	}
}

struct str req_headers(struct req *r, const char *content_type)
{
	struct str extra = r->extra_headers;
	const char *model = req_model_name(r), *backend = req_backend_name(r);
	/* Model and backend are at most 384 bytes together, the rest is short: it never grows out of the arena. */
	struct buf b = { .p = arena_alloc(r->mem, 1024), .cap = 1024 };
	struct str lines;

	buf_addz(&b, "X-Request-Id: ");
	buf_add(&b, r->id_text, 36);
	if (r->route && req_dialect(r) == LLM_ANTHROPIC) {
		buf_addz(&b, "\r\nrequest-id: ");
		buf_add(&b, r->id_text, 36);
	}
	if (content_type) {
		buf_addz(&b, "\r\nContent-Type: ");
		buf_addz(&b, content_type);
	}
	if (*model && strlen(model) < 256 && http_value_ok(str_of(model))) {
		buf_addz(&b, "\r\nX-Corral-Model: ");
		buf_addz(&b, model);
	}
	if (*backend && strlen(backend) < 128 && http_value_ok(str_of(backend))) {
		buf_addz(&b, "\r\nX-Corral-Backend: ");
		buf_addz(&b, backend);
	}
	if (*r->picked_reason) {
		buf_addz(&b, "\r\nX-Corral-Reason: ");
		buf_addz(&b, r->picked_reason);
	}
	if (r->try.number || recall_is_hit(r))
		put_work(r, &b);
	if (r->squeezed) {
		buf_addz(&b, "\r\nX-Corral-Tokens-Saved: ");
		buf_u64(&b, r->tokens_saved);
	}
	buf_addz(&b, r->in.stream ? "\r\n" STREAM_LINES : "\r\nCache-Control: no-store\r\n");
	lines = buf_as_str(&b);
	if (extra.n || r->cors.n || r->limit_headers.n) {
		const struct str parts[] = { lines, r->limit_headers, r->cors, extra };

		return arena_join(r->mem, parts, sizeof(parts) / sizeof(*parts));
	}
	return lines;
}

enum step req_reply(struct req *r, int status, const char *content_type, struct str body)
{
	r->status = status;
	r->sent_bytes += body.n;
	if (r->x)
		http_reply(r->x, status, req_headers(r, content_type), body);
	r->head_sent = r->answer_begun = true;
	r->x = NULL;
	return STEP_DONE;
}

enum step req_reply_json(struct req *r, int status, const struct buf *body)
{
	return req_reply(r, status, "application/json", buf_as_str(body));
}

enum step req_fail_why(struct req *r, const struct why *why)
{
	if (r->err.code == ERR_OK)
		r->err = *why;
	return STEP_FAIL;
}

enum step req_fail(struct req *r, enum err code, const char *fmt, ...)
{
	struct why why = { .code = code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why.text, sizeof(why.text), fmt, ap);
	va_end(ap);
	return req_fail_why(r, &why);
}

static void add_retry_after(struct req *r)
{
	if (r->retry_after_s <= 0 && (r->err.code == ERR_UNAVAILABLE || r->err.code == ERR_QUEUE_FULL || r->err.code == ERR_RATE_LIMITED ||
				      r->err.code == ERR_STORE_FAILED))
		r->retry_after_s = 1 + (int64_t)(rand_unit() * 2);
	if (r->retry_after_s > 0)
		r->extra_headers = arena_fmt(r->mem, STR_FMT "Retry-After: %lld\r\n", STR_ARG(r->extra_headers), (long long)r->retry_after_s);
}

/* Anthropic's clients list models on the path that OpenAI's use; a header tells them apart. */
enum llm_dialect req_dialect(const struct req *r)
{
	enum llm_dialect d = r->route ? r->route->dialect : route_dialect(r->x->path);

	if (d != LLM_OPENAI || !r->x || (r->route && strcmp(r->route->action, "models.read") != 0))
		return d;
	return http_find(&r->x->head, "anthropic-version") ? LLM_ANTHROPIC : d;
}

/* Streams of events can carry comments and a data line anywhere; JSON lines cannot. */
static bool is_event_stream(const struct req *r)
{
	return r->parsed && r->in.stream && (r->in.dialect == LLM_OPENAI || r->in.sse);
}

/* A stream breaks: its dialect's error, never a made-up end. */
static void break_stream(struct req *r)
{
	struct buf body = { 0 }, event = { 0 };

	if (r->try.relay && r->answer_begun) {
		llm_relay_break(r->try.relay, &r->err, &event);
	} else {                          /* only signs of life were sent so far */
		llm_error_body(req_dialect(r), &r->err, str_n(r->id_text, 36), wall_us(), &body);
		sse_write(&event, req_dialect(r) == LLM_ANTHROPIC ? STR("error") : STR(""), buf_as_str(&body));
	}
	http_reply_data(r->x, buf_as_str(&event));
	r->status = err_status(r->err.code);
	http_reply_end(r->x);
	buf_free(&body);
	buf_free(&event);
}

int req_error_status(const struct req *r, enum err code)
{
	int refused = code == ERR_BACKEND_REFUSED && r->try.relay ? llm_relay_refused_status(r->try.relay) : 0;
	int status = refused ? refused : err_status(code);

	return status == 422 && req_dialect(r) == LLM_ANTHROPIC ? 400 : status;      /* the only one it has for what is wrong in a request */
}

static void send_error(struct req *r)
{
	struct buf body = { 0 };
	const char *type;

	if (r->head_sent) {
		break_stream(r);
	} else {
		add_retry_after(r);
		r->status = req_error_status(r, r->err.code);
		type = llm_error_body(req_dialect(r), &r->err, str_n(r->id_text, 36), wall_us(), &body);
		http_reply(r->x, r->status, req_headers(r, type), buf_as_str(&body));
		r->sent_bytes += body.n;
	}
	r->x = NULL;
	buf_free(&body);
}

/* The head goes out before the answer is known: it cannot name a backend, for that may still change. */
void req_heartbeat(struct req *r, int64_t now_us)
{
	int64_t every_us = r->worker->gw->cfg->heartbeat * 1000;
	struct buf comment = { 0 };

	if (!every_us || r->run || r->answer_begun || !r->x || !is_event_stream(r) || now_us - (r->alive_us ? r->alive_us : r->start_us) < every_us)
		return;
	r->alive_us = now_us;
	if (!r->head_sent) {
		struct str lines = arena_fmt(r->mem, "X-Request-Id: %s\r\nContent-Type: text/event-stream\r\n" STREAM_LINES STR_FMT STR_FMT, r->id_text,
					     STR_ARG(r->limit_headers), STR_ARG(r->cors));

		http_reply_start(r->x, 200, lines, -1);
		r->head_sent = true;
		r->status = 200;
	}
	sse_comment(&comment, r->waiting ? STR("waiting for a slot") : STR("waiting for the model"));
	http_reply_data(r->x, buf_as_str(&comment));
	buf_free(&comment);
}

/* --- the end --- */

static void count(struct req *r)
{
	struct worker *w = r->worker;
	enum llm_dialect d = r->route ? r->route->dialect : LLM_NATIVE;      /* the client's head may be gone */
	double seconds = (double)(req_now(r) - r->start_us) / 1e6;
	unsigned i;

	for (i = 0; i < w->n_m_requests; i++)
		if (w->m_requests[i].dialect == d && w->m_requests[i].status == r->status)
			break;
	if (i == w->n_m_requests) {
		char status[8];

		if (i == sizeof(w->m_requests) / sizeof(*w->m_requests))
			i = w->n_m_requests = 0;
		snprintf(status, sizeof(status), "%d", r->status);
		w->m_requests[i].dialect = d;
		w->m_requests[i].status = r->status;
		w->m_requests[i].requests = metrics_series(w->gw->metrics, M_REQUESTS, llm_dialect_name(d), status);
		w->m_requests[i].seconds = metrics_series(w->gw->metrics, M_REQUEST_SECONDS, llm_dialect_name(d));
		w->n_m_requests++;
	}
	series_inc(w->m_requests[i].requests);
	series_observe(w->m_requests[i].seconds, seconds);
}

static void access_log(struct req *r)
{
	const char *mode = r->worker->gw->cfg->access_log;
	enum log_level level = r->status >= 500 ? LOG_LEVEL_WARN : LOG_LEVEL_INFO;
	char trace_id[33];

	if (*mode == 'o' || (*mode == 'e' && r->status < 400))   /* off, errors */
		return;
	LOG_AT(level, "request", LOG_S("request_id", r->id_text), LOG_S("trace_id", req_trace_id(r, trace_id)),
	       LOG_STR("tenant", r->tenant), LOG_STR("key_id", r->key_id), LOG_S("method", r->route ? r->route->method : ""), LOG_S("route", r->route ? r->route->path : ""), LOG_I("status", r->status),
	       LOG_S("model", req_model_name(r)), LOG_S("backend", req_backend_name(r)), LOG_S("reason", r->picked_reason),
	       LOG_I("attempts", r->try.number), LOG_I("prompt_tokens", r->used.prompt_tokens),
	       LOG_I("completion_tokens", r->used.completion_tokens), LOG_I("queue_us", r->queue_us),
	       LOG_I("duration_us", req_now(r) - r->start_us), LOG_STR("client_request_id", r->client_request_id),
	       LOG_S("error_code", r->err.code ? err_name(r->err.code) : ""), LOG_S("error", r->err.text));
}

static void tell(struct req *r)
{
	count(r);
	trail_end(r);
	access_log(r);
}

static void req_end(struct req *r)
{
	if (r->ended)
		return;
	r->ended = true;
	loop_undefer(&r->begin);
	recall_end(r);
	if (r->waiting)
		queue_leave(r->waiting);
	r->waiting = NULL;
	if (r->ask)
		r->ask->req = NULL;       /* its answer comes to nobody */
	r->ask = NULL;
	if (r->fetch)
		http_fetch_cancel(r->fetch);
	r->fetch = NULL;
	if (r->slot) {                    /* it ends between queue and dispatch */
		if (r->slot_charged_us)
			queue_settle(r->slot->queue, r->tenant, -r->slot_charged_us);
		breaker_neutral(&r->slot->breaker, r->probe);
		slot_free(r->slot, 0);
	}
	r->slot = NULL;
	if (r->err.code && r->x)
		send_error(r);
	attempt_close(r);
	passage_free(r->passage);
	upload_free(r->upload);
	budget_end(r);
	limits_end(r);
	/* What failed before a backend was asked stands alone in the ledger; what never was an inference request does not. */
	if (r->parsed && r->in.op != LLM_COUNT && !r->try.number && r->err.code) {
		series_inc(metrics_series(r->worker->gw->metrics, M_REFUSED, err_name(r->err.code)));
		account_final(r, r->err.code == ERR_CLIENT_GONE ? "cancelled" : "not_sent", r->err.code);
	}
	if (r->shadow)
		shadow_ended(r);
	else
		tell(r);
	if (r->run)
		run_request_ended(r);
	req_free(r);
}

static const struct stage *const *again(const struct req *r)
{
	const struct stage *const *s = r->route->stages;

	while (*s && strcmp((*s)->name, "decide") != 0)
		s++;
	return s;
}

static void walk(struct req *r)
{
	while (*r->at) {
		switch ((*r->at)->enter(r)) {
		case STEP_NEXT:
			r->at++;
			break;
		case STEP_AGAIN:
			r->at = again(r);
			break;
		case STEP_WAIT:
			return;
		case STEP_DONE:
		case STEP_FAIL:
			req_end(r);
			return;
		}
	}
	req_end(r);
}

void req_resume(struct req *r, enum step step)
{
	switch (step) {
	case STEP_WAIT:
		return;
	case STEP_NEXT:
		r->at++;
		walk(r);
		return;
	case STEP_AGAIN:
		r->at = again(r);
		walk(r);
		return;
	default:
		req_end(r);
	}
}

void req_gone(struct http_xchg *x, const char *why)
{
	struct req *r = x->user;

	r->x = NULL;
	series_inc(r->worker->m_gone);
	if (r->err.code == ERR_OK)
		err_set(&r->err, ERR_CLIENT_GONE, "the client left: %s", why);
	r->status = 499;
	if (attempt_orphan(r)) {
		recall_end(r);            /* whoever waits for the same answer asks for it now */
		return;                   /* the backend is loading the model for it: that is let finish */
	}
	req_end(r);
}

static void drained_output(struct http_xchg *x)
{
	struct req *r = x->user;

	if (r->paused && passage_resume(r->passage))
		r->paused = false;
	if (r->paused && r->try.call) {
		r->paused = false;
		http_call_resume(r->try.call);
	}
}

/* What a path takes. False: it is no path of ours. */
static bool options(struct req *r)
{
	struct str allow = route_allow(r->x->path, r->mem);

	if (!allow.n)
		return false;
	r->extra_headers = cors_options(&r->worker->gw->cfg->cors_origins, &r->x->head, allow, r->mem);
	req_reply(r, 204, NULL, STR(""));
	return true;
}

static bool turned_away(struct req *r, const struct admission *a)
{
	if (a->refused != REFUSED_NOT) {
		series_inc(metrics_series(r->worker->gw->metrics, M_AUTH_REFUSED, refusal_name(a->refused)));
		r->extra_headers = admission_challenge(a);
		req_fail_why(r, &a->why);
	} else if (!r->route || a->no_route.code) {
		if (r->route)
			r->extra_headers = arena_fmt(r->mem, "Allow: " STR_FMT "\r\n", STR_ARG(route_allow(r->x->path, r->mem)));
		req_fail_why(r, &a->no_route);
	} else {
		return false;
	}
	req_end(r);
	return true;
}

static struct req *req_of(struct worker *w, struct http_xchg *x)
{
	struct req *r = req_new(w, x);

	r->upload = upload_take(x);
	x->user = r;
	x->on_gone = req_gone;
	x->on_drain = drained_output;
	return r;
}

void req_start_run(struct worker *w, struct http_xchg *x, const struct admission *a, struct run_exec *run, int64_t execution_us)
{
	struct req *r = req_of(w, x);

	r->run = run;
	r->deadline_us = r->start_us + execution_us;
	read_trace(r);
	admission_apply(r, a);
	r->route = a->route;
	r->at = r->route->stages;
	walk(r);
}

void req_start_shadow(struct worker *w, struct shadow *s, const uint8_t trace_id[16])
{
	struct req *r = req_new(w, NULL);

	r->deadline_us = r->start_us + w->gw->cfg->request_timeout * 1000;
	memcpy(r->trace, trace_id, 16);
	draw_span(r);
	shadow_dress(s, r);
	r->at = r->route->stages;
	walk(r);
}

/* Requests that came in one turn begin together, after all were read. */
static void begin(struct loop_deferred *d) { walk(list_entry(d, struct req, begin)); }

void req_start(struct worker *w, struct http_xchg *x)
{
	const struct admission *a = admission_of(w, x);
	struct req *r = req_of(w, x);

	r->deadline_us = r->start_us + w->gw->cfg->request_timeout * 1000;
	read_trace(r);
	if (w->gw->cfg->cors_origins.n)
		r->cors = cors_lines(&w->gw->cfg->cors_origins, &x->head, r->mem);
	admission_apply(r, a);
	if (str_eqz(x->head.method, "OPTIONS") && options(r)) {
		req_end(r);
		return;
	}
	r->route = a->route;
	r->param = a->param;
	trail_begin(r, a);
	if (!turned_away(r, a)) {
		r->at = r->route->stages;
		loop_defer(w->loop, &r->begin, LOOP_PHASE_WORK, begin);
	}
}

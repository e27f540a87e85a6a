/* errand.c - one request of a gateway on its way to a provider: admitted, sent with one of the provider's keys, its answer relayed.
 *
 *   (wait for a slot) ──▶ admit ──▶ send ──▶ head ──▶ data… ──▶ end
 *                                     ▲        │
 *                                     └────────┘ a key that is refused, spent or told to wait: another one, as long as nothing was said to the gateway;
 *                          a conversation that is refused for lost signatures: once more, signed anew
 *
 * Whatever way it ends, once: the slot is free, the breaker and the key know, the gateway has an OpenAI answer or error. See errand.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/data/json_write.h"
#include "common/data/secret.h"
#include "services/cloud-fallback/errand.h"

enum { HEADERS_MOST = 7, BUSY_RETRY_MS = 1000, BUSY_WAIT_US = 2000000, WAITING_MOST = 256, ID_MOST = 100, SUBMIT_GRACE_MS = 5000 };

static void go_on(struct http_xchg *);
static void next_turn(struct provider *);
static void out_of_time(struct errand *);

/* --- the end --- */

static void count(const struct errand *e, const char *outcome)
{
	series_inc(metrics_series(svc_metrics(e->cloud->svc), M_REQUESTS, e->provider->set->name, outcome));
}

static void free_errand(struct errand *e)
{
	struct provider *p = e->provider;

	list_del(&e->link);
	p->active--;
	series_set(metrics_series(svc_metrics(e->cloud->svc), M_ACTIVE, p->set->name), p->active);
	if (e->call)
		https_call_cancel(e->call);
	loop_timer_del(&e->again);
	loop_timer_del(&e->deadline);
	buf_free(&e->out);
	arena_free(e->mem);
	free(e);
	next_turn(p);
}

/* Nobody waits for it. A job whose id is still to come is let come. */
static void let_go(struct errand *e)
{
	if (errand_is_job(e) && e->call && !errand_has_job(e)) {
		e->orphan = true;
		loop_timer_del(&e->deadline);
		return;
	}
	errand_cancel_job(e);
	free_errand(e);
}

/* Nothing of the provider's sentence may show the key. */
static void hide_key(const struct errand *e, struct why *why)
{
	const struct provider_key *k = errand_key(e);
	const char *at = k ? strstr(why->text, k->text) : NULL;

	if (at)
		snprintf(why->text, sizeof(why->text), "%s answered with a sentence that held its key", e->provider->set->name);
}

static void fail(struct errand *e, struct why *why)
{
	hide_key(e, why);
	count(e, err_name(why->code));
	if (why->code != ERR_CLIENT_GONE && err_status(why->code) >= 429)
		LOG_WARN("a request to a provider failed", LOG_S("provider", e->provider->set->name), LOG_S("model", e->model), LOG_S("code", err_name(why->code)),
			 LOG_S("error", why->text), LOG_STR("request_id", e->request_id));
	if (e->x && http_reply_started(e->x)) {
		buf_clear(&e->out);
		llm_relay_break(e->relay, why, &e->out);
		http_reply_data(e->x, buf_as_str(&e->out));
		http_reply_end(e->x);
	} else if (e->x) {
		front_refuse(e->x, why, e->refused_status, e->retry_ms, e->in_doubt);
	}
	e->x = NULL;
	cloud_changed(e->cloud);
	let_go(e);
}

static void give_probe_back(struct errand *e)
{
	breaker_neutral(&e->provider->breaker, e->probe);
	e->probe = 0;
}

static void on_gone(struct http_xchg *x, const char *text)
{
	struct errand *e = x->user;
	struct why why;

	e->x = NULL;
	give_probe_back(e);
	err_set(&why, ERR_CLIENT_GONE, "the gateway left: %s", text);
	fail(e, &why);
}

static void tokens(const struct errand *e, const char *kind, const struct llm_usage *u, uint64_t n)
{
	series_add(metrics_series(svc_metrics(e->cloud->svc), M_TOKENS, e->provider->set->name, kind, u->reported ? "reported" : "estimated"), (double)n);
}

static void good_end(struct errand *e)
{
	struct provider_key *k = errand_key(e);
	const struct llm_usage *u = llm_relay_usage(e->relay);

	tokens(e, "prompt", u, u->prompt_tokens);
	tokens(e, "completion", u, u->completion_tokens);
	if (k)
		key_is_good(k);
	(void)breaker_success(&e->provider->breaker, mono_us(), e->probe);
	e->probe = 0;
	count(e, "ok");
	cloud_changed(e->cloud);
}

/* --- what a failure means --- */

static void failure_of_provider(struct errand *e, bool refused, const struct why *why)
{
	struct breaker_opts o = cloud_breaker_opts(e->cloud);

	if (breaker_failure(&e->provider->breaker, &o, mono_us(), refused, err_name(why->code), e->probe))
		LOG_WARN("the breaker of a provider opened", LOG_S("provider", e->provider->set->name), LOG_S("error", why->text));
	e->probe = 0;
}

static bool may_begin_again(const struct errand *e)
{
	return !errand_has_job(e) && e->x && !http_reply_started(e->x) && loop_now_us(e->cloud->loop) < e->until_us;
}

static bool another_key(const struct errand *e)
{
	if (!may_begin_again(e) || e->n_tried == KEY_TRIES)
		return false;
	for (size_t i = 0; i < e->provider->keys.n; i++)
		if (key_usable(&e->provider->keys.keys[i], e->model, mono_us()) && !key_is_among(e->tried, e->n_tried, e->provider->keys.keys[i].id))
			return true;
	return false;
}

static enum err plan_body(struct errand *, struct str body, struct why *);
static void send_again(struct loop_timer *);

/* Once, with the same key. */
static bool sign_anew(struct errand *e)
{
	struct why why;

	if (e->signed_anew || !may_begin_again(e) || !errand_is_about_signatures(e))
		return false;
	e->signed_anew = true;
	if (plan_body(e, errand_signed_body(e), &why) != ERR_OK)
		return false;
	e->n_tried--;
	return true;
}

/* An attempt failed, with an answer or without one (status 0). 'refused': no connection was made. */
static void failed(struct errand *e, bool refused, struct why *why)
{
	enum blame b = errand_judge(e, why);

	if (e->call)
		https_call_cancel(e->call);
	e->call = NULL;
	if ((b == BLAME_KEY && another_key(e)) || (b == BLAME_REQUEST && sign_anew(e))) {
		if (b == BLAME_KEY)
			series_inc(metrics_series(svc_metrics(e->cloud->svc), M_RETRIES, e->provider->set->name));
		loop_timer_set(e->cloud->loop, &e->again, 0, send_again);     /* libcurl may be what called */
		return;
	}
	if (b == BLAME_PROVIDER)
		failure_of_provider(e, refused, why);
	else
		give_probe_back(e);
	fail(e, why);
}

void errand_failed(struct errand *e, struct why *why)
{
	e->status = 0;
	failed(e, false, why);
}

/* --- the answer --- */

static void c_head(struct https_call *c, const struct http_head *h, void *arg)
{
	struct errand *e = arg;
	struct why why = { 0 };
	int64_t waited_us = loop_now_us(e->cloud->loop) - e->sent_us;

	if (errand_is_job(e) && errand_job_skips(e, h))
		return;
	e->status = h->status;
	e->head = NULL;
	if (h->status >= 400)
		errand_keep_head(e, h);
	if (h->status >= 400 && !e->asked)
		e->in_doubt = false;
	if (h->status < 400 && !errand_is_job(e)) {
		series_observe(metrics_series(svc_metrics(e->cloud->svc), M_FIRST_BYTE, e->provider->set->name), (double)waited_us / 1e6);
		workers_began(e->provider, waited_us, e->cold);
	}
	if (llm_relay_head(e->relay, h, &why) == LLM_FAILED)
		failed(e, false, &why);
}

static void write_some(struct errand *e)
{
	struct buf head = { 0 };

	if (!e->out.n || !e->x)
		return;
	if (!http_reply_started(e->x)) {
		buf_printf(&head, "Content-Type: %s\r\nCache-Control: no-store\r\n", llm_relay_content_type(e->relay));
		http_reply_start(e->x, 200, buf_as_str(&head), -1);
		buf_free(&head);
	}
	http_reply_data(e->x, buf_as_str(&e->out));
	buf_clear(&e->out);
	if (http_reply_full(e->x) && e->call)
		https_call_pause(e->call);
}

/* The provider said all of it. */
static void complete(struct errand *e)
{
	struct why why = { 0 };
	bool stream = e->in.stream;

	if (llm_relay_end(e->relay, &(struct llm_extra){ 0 }, &e->out, &why) != LLM_DONE) {
		failed(e, false, &why);
		return;
	}
	good_end(e);
	if (stream) {
		write_some(e);
		if (e->x)
			http_reply_end(e->x);
	} else if (e->x) {
		http_reply(e->x, 200, STR("Content-Type: application/json\r\nCache-Control: no-store\r\n"), buf_as_str(&e->out));
	}
	e->x = NULL;
	e->over = true;
	if (!e->call)
		free_errand(e);
}

static void c_data(struct https_call *c, struct str data, void *arg)
{
	struct errand *e = arg;
	struct why why = { 0 };
	enum llm_step step;

	if (e->over || e->skipping)
		return;
	step = llm_relay_data(e->relay, data, &e->out, &why);
	if (e->orphan)
		return;
	if (errand_is_job(e))
		errand_job_heard(e);
	write_some(e);
	if (step == LLM_DONE)
		complete(e);
	else if (step == LLM_FAILED)
		failed(e, false, &why);
}

static void c_end(struct https_call *c, void *arg)
{
	struct errand *e = arg;

	e->call = NULL;
	if (e->over)
		free_errand(e);
	else if (e->orphan)
		let_go(e);
	else if (!errand_is_job(e) || !errand_job_goes_on(e))
		complete(e);
}

static void c_error(struct https_call *c, enum https_error error, const char *text, void *arg)
{
	struct errand *e = arg;
	const char *name = e->provider->set->name;
	struct why why;

	e->call = NULL;
	if (e->over || e->orphan) {
		let_go(e);
		return;
	}
	switch (error) {
	case HTTPS_REFUSED:
	case HTTPS_UNTRUSTED:
	case HTTPS_CONNECT_TIMEOUT:
		err_set(&why, ERR_UNAVAILABLE, "%s cannot be reached: %s", name, text);
		break;
	case HTTPS_FIRST_BYTE_TIMEOUT:
		err_set(&why, ERR_DEADLINE, "%s did not begin an answer in time", name);
		break;
	case HTTPS_DEADLINE:
		e->status = 0;
		out_of_time(e);
		return;
	case HTTPS_CANCELLED:
		err_set(&why, ERR_UNAVAILABLE, "cloud-fallback is shutting down");
		break;
	default:
		err_set(&why, ERR_BACKEND_FAILED, "%s broke off its answer: %s", name, text);
	}
	e->status = 0;
	if (error <= HTTPS_CONNECT_TIMEOUT && !e->asked)
		e->in_doubt = false;
	if (error == HTTPS_CANCELLED) {
		give_probe_back(e);           /* that says nothing about the provider */
		fail(e, &why);
	} else {
		failed(e, error <= HTTPS_UNTRUSTED, &why);
	}
}

static void go_on(struct http_xchg *x)
{
	struct errand *e = x->user;

	if (e->call)
		https_call_resume(e->call);
}

/* --- sending --- */

static struct str header(struct errand *e, const char *name, struct str value)
{
	return value.n ? arena_fmt(e->mem, "%s: " STR_FMT, name, STR_ARG(value)) : STR("");
}

void errand_call(struct errand *e, const struct provider_key *k, const char *method, const char *url, int64_t total_ms)
{
	static const struct https_ops ops = { c_head, c_data, c_end, c_error };
	const struct llm_headers *own = llm_backend_headers(e->target.kind);
	const struct cloud_config *cfg = e->cloud->cfg;
	bool post = strcmp(method, "POST") == 0;
	struct buf key = { 0 };
	struct str headers[HEADERS_MOST], all[HEADERS_MOST] = { STR(""), post ? STR("Content-Type: application/json") : STR(""),
		e->in.stream && !errand_is_job(e) ? STR("Accept: text/event-stream") : STR("Accept: application/json"), STR("User-Agent: corral/" CORRAL_VERSION),
		header(e, "X-Request-Id", e->request_id), header(e, "traceparent", e->trace), header(e, own->name, str_of(own->value)) };
	unsigned n = 0;
	struct https_request q = { .method = method, .url = url, .headers = headers, .body = e->plan.parts, .n_body = post ? e->plan.n_parts : 0,
				   .connect_ms = cfg->cloud_connect, .first_byte_ms = cfg->cloud_first_byte + 2 * e->cold_ms, .idle_ms = cfg->cloud_idle,
				   .total_ms = total_ms };

	buf_printf(&key, "%s: %s%s", own->key_name, own->key_prefix, k->text);
	all[0] = buf_as_str(&key);
	for (unsigned i = 0; i < HEADERS_MOST; i++)
		if (all[i].n)
			headers[n++] = all[i];
	q.n_headers = n;
	e->status = 0;
	e->call = https_call_start(e->cloud->out, &q, &ops, e);
	secret_wipe(key.p, key.n);
	buf_free(&key);
}

static void out_of_time(struct errand *e)
{
	struct why why;

	give_probe_back(e);                   /* that says nothing about the provider */
	err_set(&why, ERR_DEADLINE, "the time of the request ran out while %s answered", e->provider->set->name);
	fail(e, &why);
}

static void on_deadline(struct loop_timer *t)
{
	struct errand *e = list_entry(t, struct errand, deadline);

	if (!e->over)
		out_of_time(e);
}

/* A job is watched over by a time of its own: between two questions nothing is under way, and its submission may last a little longer. */
static void send_with(struct errand *e, const struct provider_key *k, int64_t left_ms)
{
	e->cold_ms = provider_cold_ms(e->provider);
	e->cold = e->cold_ms > 0;
	e->sent_us = loop_now_us(e->cloud->loop);
	e->in_doubt = true;
	e->relay = llm_relay_new(e->mem, &e->in, &e->plan, &e->target);
	if (errand_is_job(e))
		loop_timer_set(e->cloud->loop, &e->deadline, left_ms * 1000, on_deadline);
	errand_call(e, k, "POST", e->url, left_ms + (errand_is_job(e) ? SUBMIT_GRACE_MS : 0));
}

static void send_it(struct errand *e)
{
	int64_t left_ms = (e->until_us - loop_now_us(e->cloud->loop)) / 1000;
	struct provider_key *k = left_ms > 0 ? keyring_pick(&e->provider->keys, e->model, mono_us(), e->tried, e->n_tried) : NULL;
	int64_t back_us = keyring_model_back_us(&e->provider->keys, e->model, mono_us());
	struct why why;

	if (!k && left_ms > 0 && back_us) {
		give_probe_back(e);
		e->retry_ms = (back_us - mono_us()) / 1000;
		err_set(&why, ERR_RATE_LIMITED, "%s allows no more requests of %s today", e->provider->set->name, e->model);
		fail(e, &why);
		return;
	}
	if (!k) {
		give_probe_back(e);
		err_set(&why, left_ms > 0 ? ERR_UNAVAILABLE : ERR_DEADLINE, "%s was not asked: %s", e->provider->set->name,
			left_ms > 0 ? "none of its keys can be used now" : "the time of the request ran out");
		fail(e, &why);
		return;
	}
	memcpy(e->tried[e->n_tried++], k->id, KEY_ID);
	send_with(e, k, left_ms);
}

static void send_again(struct loop_timer *t) { send_it(list_entry(t, struct errand, again)); }

/* --- admission --- */

static struct str head_value(const struct http_xchg *x, const char *name)
{
	const struct http_header *h = http_find(&x->head, name);

	return h && h->value.n <= ID_MOST && http_value_ok(h->value) ? h->value : STR("");
}

/* Its newer models know the one word for it alone, its older ones both. */
static struct str newer_limit(const struct provider *p, const struct llm_in *in, struct arena *mem)
{
	uint32_t old = json_get(&in->doc, 0, "max_tokens"), key = old ? json_key(&in->doc, old) : 0;
	struct buf b = { 0 };
	struct str body;

	if (p->set->kind != KIND_OPENAI || !key || json_get(&in->doc, 0, "max_completion_tokens"))
		return in->body;
	json_splice(&b, in->body, &(struct json_edit){ in->doc.tok[key].at, in->doc.tok[key].len, STR("\"max_completion_tokens\"") }, 1);
	body = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return body;
}

/* Whom it is for: "provider/model". */
static enum err whom(struct errand *e, struct why *why)
{
	struct str rest = e->in.model, name;

	if (!str_split(&rest, '/', &name) || !rest.n || !(e->provider = cloud_provider(e->cloud, name)) || !(e->model = provider_model(e->provider, rest)))
		return err_field(why, ERR_MODEL_NOT_FOUND, "model", "no provider has the model '%.*s'", (int)(e->in.model.n < 150 ? e->in.model.n : 150), e->in.model.p);
	return ERR_OK;
}

/* Gemini speaks both; which one is meant says its address. */
static enum llm_backend backend_of(const struct provider *p)
{
	if (p->set->kind == KIND_ANTHROPIC)
		return LLM_BACKEND_ANTHROPIC;
	if (p->set->queue)
		return LLM_BACKEND_RUNPOD;
	return p->set->kind == KIND_GEMINI && !str_ends(str_of(p->set->url), STR("/openai")) ? LLM_BACKEND_GEMINI : LLM_BACKEND_OPENAI;
}

/* The base is written with the version of the API behind it or without, as each provider's own documents have it. */
static const char *url_of(const struct errand *e)
{
	struct str base = str_of(e->provider->set->url), version = e->target.kind == LLM_BACKEND_GEMINI ? STR("/v1beta") : STR("/v1");

	if (errand_is_job(e))                 /* held open for a second at most, so that who leaves knows what to cancel */
		return arena_printf(e->mem, STR_FMT "%s", STR_ARG(base), e->in.stream ? "/run" : "/runsync?wait=1000");
	if (e->target.kind == LLM_BACKEND_OPENAI)
		return arena_printf(e->mem, STR_FMT "%s/chat/completions", STR_ARG(base), e->provider->set->kind == KIND_RUNPOD ? "/openai/v1" : "");
	if (str_ends(base, version))
		base.n -= version.n;
	return arena_printf(e->mem, STR_FMT "%s", STR_ARG(base), e->plan.path);
}

static enum err plan_it(struct errand *e, struct why *why)
{
	const struct provider_setting *p = e->provider->set;
	const struct catalogue_row *r = cloud_catalogue_find(e->cloud->catalogue, str_of(provider_kind_name(p->kind)), str_of(p->name), str_of(e->model));
	enum err code;

	e->target = (struct llm_target){ .kind = backend_of(e->provider), .remote_model = str_of(e->model), .shown_model = e->in.model, .request_id = e->request_id,
					 .created_us = wall_us(), .rewrite = p->kind == KIND_GEMINI, .worker = p->kind == KIND_RUNPOD, .no_guess = true,
					 .time_left_ms = p->queue ? (e->until_us - loop_now_us(e->cloud->loop)) / 1000 : 0,
					 .max_output_tokens = r ? r->max_output_tokens : 0 };
	code = llm_plan(&e->plan, &e->in, &e->target, e->mem, why);
	if (code == ERR_OK)
		e->url = url_of(e);
	return code;
}

static enum err plan_body(struct errand *e, struct str body, struct why *why)
{
	enum err code = body.p == e->in.body.p ? ERR_OK : llm_read(&e->in, LLM_OPENAI, LLM_CHAT, body, STR(""), e->mem, why);

	return code ? code : plan_it(e, why);
}

static enum err read_it(struct errand *e, struct why *why)
{
	struct str body;
	enum err code = redaction_apply(e->cloud, e->x->body, e->request_id, e->mem, &body, why);

	if (code || (code = llm_read(&e->in, LLM_OPENAI, LLM_CHAT, body, STR(""), e->mem, why)) != ERR_OK || (code = whom(e, why)) != ERR_OK)
		return code;
	return plan_body(e, newer_limit(e->provider, &e->in, e->mem), why);
}

static enum err may_go(struct errand *e, struct why *why)
{
	struct provider *p = e->provider;
	int64_t left_ms = (e->until_us - loop_now_us(e->cloud->loop)) / 1000, cold_ms = provider_cold_ms(p);
	struct breaker_opts o = cloud_breaker_opts(e->cloud);
	struct standing s;

	provider_standing(p, &s);
	if (s.state != CORRAL__PROVIDER_STATE__PROVIDER_READY && s.ready_at_ms)
		e->retry_ms = s.ready_at_ms - wall_us() / 1000;
	if (s.state == CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET)
		return err_set(why, ERR_BUDGET_SPENT, "%s", s.why);
	if (s.state != CORRAL__PROVIDER_STATE__PROVIDER_READY)
		return err_set(why, ERR_UNAVAILABLE, "%s", s.why);
	if (left_ms <= 0)
		return err_set(why, ERR_DEADLINE, "the time of the request had run out before it was sent to %s", p->set->name);
	if (cold_ms > left_ms)
		return err_set(why, ERR_UNAVAILABLE, "no worker of %s is up and starting one takes about %.1f s%s, longer than the request may wait (%.1f s)", p->set->name, (double)cold_ms / 1e3,
			       p->workers.cold_start_us ? ", as was learned" : ", as cloud_cold_start says until it is learned", (double)left_ms / 1e3);
	if (p->active >= p->set->slots) {
		e->retry_ms = BUSY_RETRY_MS;
		return err_set(why, ERR_UNAVAILABLE, "all %u slots of %s are in use", p->set->slots, p->set->name);
	}
	if (!counts_take(e->cloud->counts, p)) {
		e->retry_ms = BUSY_RETRY_MS;
		return err_set(why, ERR_UNAVAILABLE, "%s allows so many requests a minute or day, and the next ones are being asked for", p->set->name);
	}
	if (!breaker_allow(&p->breaker, &o, mono_us(), &e->probe))
		return err_set(why, ERR_UNAVAILABLE, "%s is being tried by another request after it failed", p->set->name);
	return ERR_OK;
}

static void read_heads(struct errand *e)
{
	const struct http_header *h = http_find(&e->x->head, "X-Corral-Deadline-Ms"), *attempt = http_find(&e->x->head, "X-Corral-Attempt");
	int64_t number, ms = e->cloud->cfg->cloud_time, said;

	if (h && str_i64(h->value, &said) && said < ms)
		ms = said;
	if (attempt && str_i64(attempt->value, &number) && number > 0 && number <= UINT32_MAX)
		e->attempt = (uint32_t)number;
	e->until_us = loop_now_us(e->cloud->loop) + ms * 1000;
	e->request_id = arena_str(e->mem, head_value(e->x, "X-Request-Id"));
	e->trace = arena_str(e->mem, head_value(e->x, "traceparent"));
}

static void refuse(struct errand *e, const struct why *why)
{
	if (e->provider)
		count(e, err_name(why->code));
	front_refuse(e->x, why, 0, e->retry_ms, false);
	arena_free(e->mem);
	free(e);
}

static void admit(struct errand *e)
{
	struct why why = { 0 };

	if (may_go(e, &why)) {
		refuse(e, &why);
		return;
	}
	e->x->user = e;
	e->x->on_gone = on_gone;
	e->x->on_drain = go_on;
	list_push(&e->cloud->errands, &e->link);
	series_set(metrics_series(svc_metrics(e->cloud->svc), M_ACTIVE, e->provider->set->name), ++e->provider->active);
	send_it(e);
}

/* --- waiting for a slot: gateways know those of each model, and the provider has them for all of its models --- */

static void wait_no_more(struct errand *e)
{
	loop_timer_del(&e->again);
	list_del(&e->link);
	e->provider->n_waiting--;
	e->x->on_gone = NULL;
}

static void on_turn(struct loop_timer *t)
{
	struct errand *e = list_entry(t, struct errand, again);
	struct provider *p = e->provider;

	wait_no_more(e);
	admit(e);
	next_turn(p);
}

/* libcurl may be what called, and what is admitted may end at once. */
static void next_turn(struct provider *p)
{
	if (!list_empty(&p->waiting) && p->active < p->set->slots)
		loop_timer_set(p->cloud->loop, &list_entry(p->waiting.next, struct errand, link)->again, 0, on_turn);
}

static void on_gone_waiting(struct http_xchg *x, const char *text)
{
	struct errand *e = x->user;

	wait_no_more(e);
	count(e, err_name(ERR_CLIENT_GONE));
	arena_free(e->mem);
	free(e);
}

static bool waits(const struct errand *e)
{
	const struct provider *p = e->provider;
	struct standing s;

	if ((p->active < p->set->slots && !p->n_waiting) || p->n_waiting >= WAITING_MOST)
		return false;
	provider_standing(p, &s);
	return s.state == CORRAL__PROVIDER_STATE__PROVIDER_READY;
}

static void wait_for_slot(struct errand *e)
{
	int64_t left_us = e->until_us - loop_now_us(e->cloud->loop);

	e->x->user = e;
	e->x->on_gone = on_gone_waiting;
	list_push(&e->provider->waiting, &e->link);
	e->provider->n_waiting++;
	loop_timer_set(e->cloud->loop, &e->again, left_us < 0 ? 0 : left_us < BUSY_WAIT_US ? left_us : BUSY_WAIT_US, on_turn);
}

void errand_begin(struct cloud *c, struct http_xchg *x)
{
	struct errand *e = x_calloc(1, sizeof(*e));
	struct why why = { 0 };

	e->cloud = c;
	e->x = x;
	e->mem = arena_new(0);
	read_heads(e);
	if (read_it(e, &why))
		refuse(e, &why);
	else if (waits(e))
		wait_for_slot(e);
	else
		admit(e);
}

static void drop_waiting(struct provider *p)
{
	list_each_safe(l, &p->waiting) {
		struct errand *e = list_entry(l, struct errand, link);

		wait_no_more(e);
		arena_free(e->mem);
		free(e);
	}
}

void errands_drop(struct cloud *c)
{
	for (size_t i = 0; i < c->n; i++)
		drop_waiting(&c->providers[i]);
	list_each_safe(l, &c->errands) {
		struct errand *e = list_entry(l, struct errand, link);

		if (e->x) {
			e->x->on_gone = NULL;
			e->x->on_drain = NULL;
		}
		free_errand(e);
	}
}

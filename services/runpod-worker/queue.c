/* queue.c - RunPod's side of worker.h: takes jobs, hears what was cancelled, tells that it lives, hands in what jobs say. */
#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/runpod-worker/worker.h"

enum {
	HELD_MS = 90000,              /* a question that the queue holds open */
	LIMITED_MS = 5000,            /* after 429 */
	EMPTY_MS = 500,               /* between questions that are answered at once with nothing */
	NO_STOPS_MS = 1000,
	FAIL_MS = 1000, FAIL_MAX_MS = 30000,
	POST_MS = 30000,
	TAKE_BYTES = 256 * 1024 * 1024, ANSWER_BYTES = 1024 * 1024
};

static struct https_fetch *ask(struct worker *w, const struct str *url, int64_t total_ms, size_t max_bytes,
			       void (*done)(void *arg, int status, struct str body, const char *error))
{
	struct str headers[] = { w->auth, STR("Accept: application/json"), STR("User-Agent: corral/" CORRAL_VERSION) };
	struct https_request rq = { .method = "GET", .url = url->p, .headers = headers, .n_headers = 3, .total_ms = total_ms };

	return https_fetch(w->out, &rq, max_bytes, done, w);
}

static void count(struct worker *w, unsigned metric, const char *label) { series_inc(metrics_series(svc_metrics(w->svc), metric, label)); }

/* What is said once, when something begins to fail, and once when it works again. */
static void note(bool *failed, bool fails, const char *what, int status, const char *error)
{
	if (fails && !*failed)
		LOG_WARN("the queue does not answer as it should; it is asked again", LOG_S("what", what), LOG_I("status", status), LOG_S("error", error ? error : ""),
			 LOG_S("hint", status == 401 || status == 403 ? "RUNPOD_AI_API_KEY is missing or wrong" : ""));
	else if (!fails && *failed)
		LOG_INFO("the queue answers again", LOG_S("what", what));
	*failed = fails;
}

static int64_t longer(int64_t *wait_ms)
{
	*wait_ms = *wait_ms ? *wait_ms * 2 : FAIL_MS;
	if (*wait_ms > FAIL_MAX_MS)
		*wait_ms = FAIL_MAX_MS;
	return *wait_ms;
}

/* --- taking --- */

static void on_take_time(struct loop_timer *t) { queue_wake(list_entry(t, struct worker, take_timer)); }

static const char *start_jobs(struct worker *w, struct str body)
{
	struct arena *mem = arena_new(0);
	struct taken *t = NULL;
	unsigned n = 0;
	struct why why;

	if (taken_read(body, mem, &t, &n, &why) != ERR_OK) {
		LOG_ERROR("the queue gave something that is no job", LOG_S("error", why.text));
		arena_free(mem);
		return "malformed";
	}
	for (unsigned i = 0; i < n; i++)
		job_start(w, &t[i]);
	arena_free(mem);
	return n ? "job" : "none";
}

static void on_taken(void *arg, int status, struct str body, const char *error)
{
	struct worker *w = arg;
	int64_t took_ms = (mono_us() - w->take_us) / 1000, wait_ms = 0;
	const char *result = "none";

	w->take = NULL;
	if (status >= 200 && status < 300)
		result = start_jobs(w, status == 204 ? STR("") : body);
	else if (status == 429)
		result = "limited", wait_ms = LIMITED_MS;
	else if (status != 400 && !(status == 0 && took_ms >= HELD_MS - 1000))
		result = "failed";
	if (strcmp(result, "failed") == 0 || strcmp(result, "malformed") == 0)
		wait_ms = longer(&w->take_wait_ms);
	else
		w->take_wait_ms = 0;
	if (strcmp(result, "none") == 0 && took_ms < EMPTY_MS)
		wait_ms = EMPTY_MS - took_ms;
	count(w, M_TAKES, result);
	note(&w->take_failed, strcmp(result, "failed") == 0, "taking jobs", status, error);
	svc_want(w->svc, "queue", !w->take_failed, w->take_failed ? "no job can be taken; the log says why" : "");
	loop_timer_set(w->loop, &w->take_timer, wait_ms * 1000, on_take_time);
}

void queue_wake(struct worker *w)
{
	struct buf url = { 0 };
	struct str text;

	if (w->waits || w->draining || !w->ready || w->take || w->take_timer.heap_index || w->n_jobs >= w->room)
		return;
	url_take(&url, w->take_url, w->room - w->n_jobs, w->n_jobs > 0);
	text = str_of(buf_z(&url));
	w->take_us = mono_us();
	w->take = ask(w, &text, HELD_MS, TAKE_BYTES, on_taken);
	buf_free(&url);
}

void queue_no_more(struct worker *w)
{
	loop_timer_del(&w->take_timer);
	if (w->take)
		https_fetch_cancel(w->take);
	w->take = NULL;
}

/* --- what was cancelled --- */

static void ask_stops(struct loop_timer *);

static void on_stops(void *arg, int status, struct str body, const char *error)
{
	struct worker *w = arg;
	struct arena *mem = arena_new(0);
	bool held = status == 0 && (mono_us() - w->stop_us) / 1000 >= HELD_MS - 1000;
	bool fails = !held && status != 429 && (status < 200 || status >= 300);
	struct str *ids = NULL;
	unsigned n = status == 200 ? stops_read(body, mem, &ids) : 0;

	w->stop = NULL;
	for (unsigned i = 0; i < n; i++)
		job_stop(w, ids[i]);
	arena_free(mem);
	note(&w->stop_failed, fails, "asking what was cancelled", status, error);
	if (!fails)
		w->stop_wait_ms = 0;
	loop_timer_set(w->loop, &w->stop_timer, (fails ? longer(&w->stop_wait_ms) : status == 429 ? LIMITED_MS : n || held ? 0 : NO_STOPS_MS) * 1000, ask_stops);
}

static void ask_stops(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, stop_timer);

	w->stop_us = mono_us();
	w->stop = ask(w, &w->stop_url, HELD_MS, ANSWER_BYTES, on_stops);
}

/* --- that it lives --- */

static void on_pinged(void *arg, int status, struct str body, const char *error)
{
	struct worker *w = arg;
	bool fails = status < 200 || status >= 300;

	w->ping = NULL;
	count(w, M_PINGS, fails ? "failed" : "ok");
	note(&w->ping_failed, fails, "telling that this worker lives", status, error);
}

static void ping(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, ping_timer);
	struct buf url = { 0 }, jobs = { 0 };
	struct str text;

	loop_timer_set(w->loop, t, w->cfg->runpod_ping_interval * 1000, ping);
	if (w->ping)
		return;
	add_job_ids(w, &jobs);
	url_ping(&url, w->ping_url, buf_as_str(&jobs), "corral-" CORRAL_VERSION);
	text = str_of(buf_z(&url));
	w->ping = ask(w, &text, w->cfg->runpod_ping_interval * 2, ANSWER_BYTES, on_pinged);
	buf_free(&jobs);
	buf_free(&url);
}

/* --- handing in --- */

bool queue_may_repeat(int status) { return status == 0 || status == 408 || status == 429 || status >= 500; }

struct https_fetch *queue_post(struct worker *w, bool is_answer, bool is_stream, struct str job_id, struct str body,
			       void (*done)(void *arg, int status, struct str body, const char *error), void *arg)
{
	struct arena *mem = arena_new(0);
	struct str headers[] = { w->auth, STR("Content-Type: application/x-www-form-urlencoded"), STR("charset: utf-8"),
		STR("User-Agent: corral/" CORRAL_VERSION), arena_fmt(mem, "X-Request-ID: " STR_FMT, STR_ARG(job_id)) };
	struct https_request rq = { .method = "POST", .headers = headers, .n_headers = 5, .body = &body, .n_body = 1, .total_ms = POST_MS };
	struct https_fetch *f;
	struct buf url = { 0 };

	url_post(&url, is_answer ? w->output_url : w->stream_url, job_id, is_stream);
	rq.url = buf_z(&url);
	f = https_fetch(w->out, &rq, ANSWER_BYTES, done, arg);
	buf_free(&url);
	arena_free(mem);
	return f;
}

/* --- life --- */

static struct str address(struct worker *w, const char *template, const char *id, bool is_take)
{
	struct buf b = { 0 };
	struct str s;

	url_of_worker(&b, template, id, is_take);
	s = arena_str(w->mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void find_stop(struct worker *w)
{
	struct buf b = { 0 };

	if (url_stop(&b, w->take_url))
		w->stop_url = arena_str(w->mem, buf_as_str(&b));
	else
		LOG_WARN("RUNPOD_WEBHOOK_GET_JOB has no /job-take/ in it: one job is taken at a time, and what is cancelled is not heard");
	buf_free(&b);
}

bool queue_open(struct worker *w, struct why *why)
{
	const struct worker_config *c = w->cfg;
	const char *id = *c->runpod_pod_id ? c->runpod_pod_id : arena_printf(w->mem, "corral-%lld", (long long)wall_us());

	w->out = https_out_new(w->loop, &(struct https_out_opts){ .ca_file = c->runpod_ca_file }, why);
	if (!w->out)
		return false;
	w->auth = arena_fmt(w->mem, "Authorization: %s", c->runpod_api_key);
	w->take_url = address(w, c->runpod_get_job, id, true);
	w->output_url = address(w, c->runpod_post_output, id, false);
	w->stream_url = address(w, c->runpod_post_stream, id, false);
	w->ping_url = address(w, c->runpod_ping, id, false);
	find_stop(w);
	LOG_INFO("works for a queue", LOG_STR("queue", url_host(w->take_url)), LOG_S("worker", id), LOG_S("gateway", w->where), LOG_B("streams", w->stream_url.n > 0),
		 LOG_B("pings", w->ping_url.n > 0), LOG_B("key", *c->runpod_api_key != '\0'));
	return true;
}

void queue_begin(struct worker *w)
{
	w->waits = false;
	if (w->stop_url.n)
		loop_timer_set(w->loop, &w->stop_timer, 0, ask_stops);
	if (w->ping_url.n)
		loop_timer_set(w->loop, &w->ping_timer, 0, ping);
	queue_wake(w);
}

void queue_close(struct worker *w)
{
	queue_no_more(w);
	loop_timer_del(&w->stop_timer);
	loop_timer_del(&w->ping_timer);
	if (w->stop)
		https_fetch_cancel(w->stop);
	if (w->ping)
		https_fetch_cancel(w->ping);
	w->stop = w->ping = NULL;
	https_out_free(w->out);
	w->out = NULL;
}

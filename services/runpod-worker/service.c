/* service.c - the runpod-worker's table and life: options, metrics, how the gateway is, and the drain. */
#include "services/runpod-worker/service.h"

#include <stdlib.h>

#include "common/data/json.h"
#include "common/data/log.h"
#include "services/runpod-worker/worker.h"

enum { LOOK_MS = 5000, LOOK_SOON_MS = 500, LOOK_TIMEOUT_MS = 5000, LOOK_BYTES = 16 * 1024 * 1024, ROOM_MAX = 256, DRAIN_TICK_MS = 100, LAST_MS = 3000 };

#define C struct worker_config
static const struct opt options[] = {
	OPT(C, STRING, url, "http://127.0.0.1:8100", "Where the gateway is, that does the jobs."),
	OPT(C, SECRET, api_key, "", "Key for the gateway, when it asks for one."),
	OPT(C, INT, jobs, "0", "How many jobs at once; 0 = as many as the backends of the gateway have slots, or 1 where it does not tell.", .min = 0, .max = ROOM_MAX),
	OPT(C, DURATION, job_timeout, "600s", "How long a job may run; then its answer is an error.", .min = 1000, .max = 604800000),
	OPT(C, DURATION, job_retry, "30s", "How long a job that has said nothing yet is tried again while the gateway is away, full, or has nobody who can do it.", .min = 0,
	    .max = 86400000),
	OPT(C, SECRET, runpod_get_job, "", "Where jobs are taken: RUNPOD_WEBHOOK_GET_JOB. $ID in it is the worker's id. Needed.", .aliases = "RUNPOD_WEBHOOK_GET_JOB"),
	OPT(C, SECRET, runpod_post_output, "", "Where answers go: RUNPOD_WEBHOOK_POST_OUTPUT. $ID in it is the job's id. Needed.", .aliases = "RUNPOD_WEBHOOK_POST_OUTPUT"),
	OPT(C, SECRET, runpod_post_stream, "", "Where the pieces of streams go: RUNPOD_WEBHOOK_POST_STREAM. Empty = they are in the answer alone.",
	    .aliases = "RUNPOD_WEBHOOK_POST_STREAM"),
	OPT(C, SECRET, runpod_ping, "", "Where it is told that this worker lives: RUNPOD_WEBHOOK_PING. Empty = nowhere.", .aliases = "RUNPOD_WEBHOOK_PING"),
	OPT(C, INT, runpod_ping_interval, "10000", "How often, in milliseconds: RUNPOD_PING_INTERVAL.", .min = 100, .max = 3600000, .aliases = "RUNPOD_PING_INTERVAL"),
	OPT(C, SECRET, runpod_api_key, "", "What is shown to the queue: RUNPOD_AI_API_KEY.", .aliases = "RUNPOD_AI_API_KEY"),
	OPT(C, STRING, runpod_pod_id, "", "This worker's id: RUNPOD_POD_ID. Empty = a new one at each start.", .aliases = "RUNPOD_POD_ID"),
	OPT(C, STRING, runpod_ca_file, "", "PEM file with the authorities that may vouch for the queue; empty = those of the system."),
	OPT_END
};
#undef C

static const struct metric_def metrics[M_COUNT] = {
	[M_JOBS] = { METRIC_COUNTER, "runpod_jobs_total", "Jobs that ended: completed, failed (answered with an error), stopped (cancelled), lost (the answer could not be handed in), "
							  "malformed (without an id).", "result" },
	[M_RUNNING] = { METRIC_GAUGE, "runpod_jobs_running", "Jobs under way.", "" },
	[M_ROOM] = { METRIC_GAUGE, "runpod_jobs_room", "How many jobs may be under way at once.", "" },
	[M_SECONDS] = { METRIC_HISTOGRAM, "runpod_job_seconds", "From a job's arrival to its end here.", "" },
	[M_TRIES] = { METRIC_COUNTER, "runpod_job_retries_total", "Times a job was asked of the gateway once more.", "" },
	[M_TAKES] = { METRIC_COUNTER, "runpod_takes_total", "Questions for jobs: job, none, limited (429), malformed, failed.", "result" },
	[M_POSTS] = { METRIC_COUNTER, "runpod_posts_total", "What was handed in: an output or a piece of a stream, that was ok, is sent again, or was lost.", "what,result" },
	[M_PINGS] = { METRIC_COUNTER, "runpod_pings_total", "Times it was told that this worker lives: ok, failed.", "result" },
};

/* --- options --- */

/* "localhost:8100" and the base URL of the OpenAI protocol mean the gateway, too. */
static struct str gateway_url(struct arena *mem, const char *given)
{
	struct str url = strstr(given, "://") ? arena_str(mem, str_of(given)) : arena_fmt(mem, "http://%s", given);

	for (const char *tail[] = { "/", "/v1", "/" }, **t = tail; t < tail + 3; t++)
		url.n -= str_ends(url, str_of(*t)) ? strlen(*t) : 0;
	return arena_str(mem, url);
}

static enum err check_gateway(const char *given, struct why *why)
{
	struct arena *mem = arena_new(0);
	struct str url = gateway_url(mem, given);
	struct http_url parts;
	enum err err = ERR_OK;

	if (str_starts(url, STR("https://")))
		err = err_field(why, ERR_INVALID, "url", "url: '%s': the gateway is asked over plain http; give the address of the gateway itself, or of a tunnel to it", given);
	else if (!http_url_parse(&parts, url, why))
		err = why->code;
	arena_free(mem);
	return err;
}

static enum err check_optional(const char *url, const char *variable, struct why *why) { return *url ? url_check(url, variable, why) : ERR_OK; }

static enum err check(const void *config, struct why *why)
{
	const struct worker_config *c = config;

	if (url_check(c->runpod_get_job, "RUNPOD_WEBHOOK_GET_JOB", why) || url_check(c->runpod_post_output, "RUNPOD_WEBHOOK_POST_OUTPUT", why) ||
	    check_optional(c->runpod_post_stream, "RUNPOD_WEBHOOK_POST_STREAM", why) || check_optional(c->runpod_ping, "RUNPOD_WEBHOOK_PING", why))
		return why->code;
	if (!strstr(c->runpod_post_output, "$ID"))
		return err_field(why, ERR_INVALID, "RUNPOD_WEBHOOK_POST_OUTPUT", "RUNPOD_WEBHOOK_POST_OUTPUT has no $ID, where the job's id goes");
	if (!http_value_ok(str_of(c->runpod_api_key)) || !http_value_ok(str_of(c->api_key)))
		return err_set(why, ERR_INVALID, "%s holds characters that no header may have", http_value_ok(str_of(c->api_key)) ? "RUNPOD_AI_API_KEY" : "api_key");
	return check_gateway(c->url, why);
}

/* --- how the gateway is --- */

static void look(struct loop_timer *);

static void tell(struct worker *w, bool ready, const char *text)
{
	bool news = !w->said || ready != w->said_ready;

	if (news && ready)
		LOG_INFO("the gateway is ready", LOG_S("gateway", w->where), LOG_I("jobs", w->room));
	else if (news)
		LOG_WARN("the gateway is not ready; no job is taken", LOG_S("gateway", w->where), LOG_S("error", text));
	w->said = true;
	w->ready = w->said_ready = ready;
	svc_need(w->svc, "gateway", ready, text);
	series_set(metrics_series(svc_metrics(w->svc), M_ROOM), w->room);
	loop_timer_set(w->loop, &w->look_timer, (ready ? LOOK_MS : LOOK_SOON_MS) * 1000, look);
	if (ready)
		queue_wake(w);
}

/* A backend does several models, but not all at once with all their slots: the most that one of them has counts. */
static unsigned slots_in(struct str body)
{
	struct arena *mem = arena_new(0);
	int64_t sum = 0;
	struct json j;
	uint32_t backends = json_parse(&j, mem, body, &(struct json_limits){ 64, 4000000, false }, NULL) == ERR_OK ? json_get(&j, 0, "backends") : 0;

	for (uint32_t b = backends ? json_first(&j, backends) : 0; b; b = json_next(&j, backends, b)) {
		uint32_t models = json_get(&j, b, "models");
		int64_t most = 0;

		for (uint32_t m = models ? json_first(&j, models) : 0; m; m = json_next(&j, models, m)) {
			int64_t n = 0;

			if (json_i64(&j, json_get(&j, m, "slots"), &n) && n > most)
				most = n;
		}
		sum += most;
	}
	arena_free(mem);
	return sum < 1 ? 1 : sum > ROOM_MAX ? ROOM_MAX : (unsigned)sum;
}

static void on_slots(void *arg, int status, struct str body, const char *error)
{
	struct worker *w = arg;

	w->look = NULL;
	w->room = status == 200 ? slots_in(body) : 1;
	tell(w, true, "");
}

static void on_health(void *arg, int status, struct str body, const char *error)
{
	struct worker *w = arg;
	struct arena *mem = arena_new(0);

	w->look = NULL;
	if (status == 200 && !w->cfg->jobs)
		w->look = http_fetch(w->pool, "GET", STR("/backends"), w->headers, STR(""), LOOK_TIMEOUT_MS, LOOK_BYTES, on_slots, w);
	else if (status == 200)
		tell(w, true, "");
	else if (status == 0)
		tell(w, false, arena_printf(mem, "it does not answer: %s", error ? error : ""));
	else if (status == 503)
		tell(w, false, "none of its backends is up, or it has no model");
	else
		tell(w, false, arena_printf(mem, "it answers with status %d%s", status, status == 401 || status == 403 ? "; set CORRAL_API_KEY" : ""));
	arena_free(mem);
}

static void look(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, look_timer);

	if (!w->look)
		w->look = http_fetch(w->pool, "GET", STR("/health"), w->headers, STR(""), LOOK_TIMEOUT_MS, LOOK_BYTES, on_health, w);
}

void worker_gateway_gone(struct worker *w)
{
	w->ready = false;
	loop_timer_set(w->loop, &w->look_timer, 0, look);
}

/* --- life --- */

static void drained(struct worker *w)
{
	if (w->drained)
		return;
	w->drained = true;
	loop_timer_del(&w->drain_timer);
	svc_drained(w->svc);
}

void worker_job_ended(struct worker *w)
{
	series_set(metrics_series(svc_metrics(w->svc), M_RUNNING), w->n_jobs);
	if (w->draining && !w->n_jobs)
		drained(w);
	else
		queue_wake(w);
}

/* When the time is nearly over, or a second signal came, jobs under way are answered with an error, so that nobody waits for them. */
static void watch_drain(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, drain_timer);

	if (svc_drain_hurried(w->svc) || svc_drain_ms(w->svc) <= LAST_MS)
		jobs_end(w, "the worker was shut down before the job was done");
	if (!w->drained)
		loop_timer_set(w->loop, t, DRAIN_TICK_MS * 1000, watch_drain);
}

static void drain(struct svc *svc)
{
	struct worker *w = svc_state(svc);

	w->draining = true;
	queue_no_more(w);
	LOG_INFO("no job is taken any more", LOG_I("jobs", w->n_jobs));
	if (!w->n_jobs)
		drained(w);
	else
		watch_drain(&w->drain_timer);
}

static void stop(struct svc *svc)
{
	struct worker *w = svc_state(svc);

	loop_timer_del(&w->look_timer);
	loop_timer_del(&w->drain_timer);
	if (w->look)
		http_fetch_cancel(w->look);
	jobs_drop(w);
	queue_close(w);
	http_pool_free(w->pool);
	arena_free(w->mem);
	free(w);
	svc_set_state(svc, NULL);
}

static bool start(struct svc *svc, struct why *why)
{
	const struct worker_config *cfg = svc_config(svc);
	struct worker *w = x_calloc(1, sizeof(*w));
	struct http_url parts;
	struct str url;

	w->svc = svc;
	w->loop = svc_loop(svc);
	w->cfg = cfg;
	w->mem = arena_new(0);
	w->room = cfg->jobs ? (unsigned)cfg->jobs : 1;
	w->waits = svc_is_heir(svc);
	list_init(&w->jobs);
	url = gateway_url(w->mem, cfg->url);
	w->where = url.p;
	if (!http_url_parse(&parts, url, why) || !queue_open(w, why)) {
		arena_free(w->mem);
		free(w);
		return false;
	}
	w->pool = http_pool_new(w->loop, &parts, NULL);
	w->headers = arena_fmt(w->mem, "Content-Type: application/json\r\n%s%s%s", *cfg->api_key ? "Authorization: Bearer " : "", cfg->api_key, *cfg->api_key ? "\r\n" : "");
	svc_set_state(svc, w);
	svc_need(svc, "gateway", false, "it was not asked yet");
	loop_timer_set(w->loop, &w->look_timer, 0, look);
	if (!w->waits)
		queue_begin(w);
	return true;
}

/* It is the successor of one that takes no job any more, and finishes those that it has. */
static void take_over(struct svc *svc) { queue_begin(svc_state(svc)); }

const struct svc_def runpod_worker_service = {
	.name = "runpod-worker",
	.summary = "Serves a job queue of RunPod with a gateway: takes jobs there, hands in what comes of them.",
	.options = options,
	.config_size = sizeof(struct worker_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8119,
	.check = check,
	.start = start,
	.open = take_over,
	.drain = drain,
	.stop = stop,
};

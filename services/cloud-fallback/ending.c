/* ending.c - a job in RunPod's queue that nobody waits for any more: it is cancelled, then asked what became of it, and the ledger is told.
 *
 *   POST /cancel/ID ──▶ GET /status/ID, until its state is final ──▶ usage-tracker.Settle, until the attempt's end is there
 *
 * What its gateway booked is a guess, the most that it may have cost. Where the platform says that it was cancelled before it ran, or what it used, that
 * is booked in its place; where it says neither, or nothing, the guess stays. It goes on when the client, the gateway and the errand are gone; a
 * cloud-fallback that leaves hears the answers that are under way and asks nothing more. See cloud.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "services/cloud-fallback/errand.h"
#include "usage.pb-c.h"

enum { CALL_MS = 10000, ANSWER_MAX = 1 << 20, FIRST_WAIT_US = 200000, LONGEST_WAIT_US = 8000000, ASKS_MOST = 9, TELLS_MOST = 60 };

struct ending {
	struct list link;
	struct cloud *cloud;
	struct provider *provider;
	struct https_fetch *fetch;    /* or the ledger is asked, or the timer runs */
	struct loop_timer timer;
	char job[96];
	struct uuid request;
	uint32_t attempt;             /* 0 = nobody said whose it is: it is cancelled, and no more */
	bool ran;                     /* it was seen to run */
	bool resting;                 /* until the next try */
	unsigned tries;
	struct llm_usage used;        /* what is told */
};

static void ask(struct loop_timer *);
static void tell(struct loop_timer *);

static void over(struct ending *g)
{
	struct cloud *c = g->cloud;

	list_del(&g->link);
	loop_timer_del(&g->timer);
	if (g->fetch)
		https_fetch_cancel(g->fetch);
	free(g);
	if (list_empty(&c->endings) && c->endings_over)
		c->endings_over(c);
}

static void end_as(struct ending *g, const char *outcome)
{
	series_inc(metrics_series(svc_metrics(g->cloud->svc), M_DOUBTS, g->provider->set->name, outcome));
	over(g);
}

static void stays(struct ending *g, const char *because)
{
	LOG_WARN("what a job cost is not known, and stays booked with the most that it may have cost", LOG_S("provider", g->provider->set->name), LOG_S("job", g->job),
		 LOG_S("because", because));
	end_as(g, "stays");
}

/* The next try, or the first one of a step. */
static void later(struct ending *g, unsigned most, void (*step)(struct loop_timer *))
{
	int64_t wait_us = g->tries > 6 ? LONGEST_WAIT_US : (int64_t)FIRST_WAIT_US << g->tries;

	if (g->tries == most || (g->tries && g->cloud->draining)) {
		stays(g, g->cloud->draining ? "cloud-fallback is shutting down" : "there was no answer to that in time");
		return;
	}
	g->tries++;
	g->resting = true;
	loop_timer_set(g->cloud->loop, &g->timer, wait_us < LONGEST_WAIT_US ? wait_us : LONGEST_WAIT_US, step);
}

static void call(struct ending *g, const char *method, const char *what, void (*done)(void *, int, struct str, const char *))
{
	struct provider_key *k = keyring_pick(&g->provider->keys, NULL, mono_us(), NULL, 0);
	struct buf head = { 0 };
	struct str header;
	char url[600];

	if (!k) {
		done(g, 0, STR(""), "none of its keys can be used now");
		return;
	}
	snprintf(url, sizeof(url), "%s/%s/%s", g->provider->set->url, what, g->job);
	buf_printf(&head, "Authorization: Bearer %s", k->text);
	header = buf_as_str(&head);
	g->fetch = https_fetch(g->cloud->out, &(struct https_request){ .method = method, .url = url, .headers = &header, .n_headers = 1, .total_ms = CALL_MS },
			       ANSWER_MAX, done, g);
	secret_wipe(head.p, head.n);
	buf_free(&head);
}

/* --- the ledger --- */

static void on_settled(const Corral__SettleReply *r, void *arg)
{
	struct ending *g = arg;
	struct rpc_client *ledger = svc_peer(g->cloud->svc, "usage-tracker");
	enum err e = r ? ERR_OK : rpc_error(ledger)->code;

	if (e == ERR_OK)
		end_as(g, g->used.prompt_tokens + g->used.completion_tokens ? "counted" : "nothing");
	else if (e == ERR_NOT_FOUND || e == ERR_UNAVAILABLE || e == ERR_DEADLINE || e == ERR_STORE_FAILED)
		later(g, TELLS_MOST, tell);
	else
		stays(g, rpc_error(ledger)->text);
}

static void tell(struct loop_timer *t)
{
	struct ending *g = list_entry(t, struct ending, timer);
	Corral__SettleRequest q = CORRAL__SETTLE_REQUEST__INIT;

	g->resting = false;
	q.request_id = (ProtobufCBinaryData){ sizeof(g->request.b), g->request.b };
	q.attempt = g->attempt;
	q.prompt_tokens = g->used.prompt_tokens;
	q.cached_prompt_tokens = g->used.cached_tokens;
	q.completion_tokens = g->used.completion_tokens;
	corral__usage_tracker__settle(rpc_stub(svc_peer(g->cloud->svc, "usage-tracker"), &corral__usage_tracker__descriptor), &q, on_settled, g);
}

/* --- what became of it --- */

static void judge(struct ending *g, const struct llm_job_end *end)
{
	const struct llm_job *job = &end->job;
	bool never_ran = strcmp(job->state, "CANCELLED") == 0 && !g->ran && !job->execution_ms && !job->has_worker;

	if (!job->final) {
		later(g, ASKS_MOST, ask);
		return;
	}
	if (!never_ran && !end->usage.reported) {
		stays(g, "it ran, and nobody says what it used");
		return;
	}
	g->used = never_ran ? (struct llm_usage){ 0 } : end->usage;
	g->tries = 0;
	later(g, TELLS_MOST, tell);
}

static void on_status(void *arg, int status, struct str body, const char *error)
{
	struct ending *g = arg;
	struct llm_job_end end = { 0 };

	g->fetch = NULL;
	if (status == 404) {
		stays(g, "the platform does not know the job any more");
		return;
	}
	if (status == 200)
		llm_job_read_end(&end, body);
	judge(g, &end);
}

static void ask(struct loop_timer *t)
{
	struct ending *g = list_entry(t, struct ending, timer);

	g->resting = false;
	call(g, "GET", "status", on_status);
}

/* --- the beginning --- */

static void on_cancelled(void *arg, int status, struct str body, const char *error)
{
	struct ending *g = arg;

	g->fetch = NULL;
	series_inc(metrics_series(svc_metrics(g->cloud->svc), M_CANCELS, g->provider->set->name, status == 200 ? "ok" : "failed"));
	if (status != 200)
		LOG_WARN("a job could not be cancelled, and may go on and cost", LOG_S("provider", g->provider->set->name), LOG_S("job", g->job),
			 LOG_I("status", status), LOG_S("error", error ? error : ""));
	if (g->attempt)
		later(g, ASKS_MOST, ask);
	else
		over(g);
}

static void cancel(struct loop_timer *t) { call(list_entry(t, struct ending, timer), "POST", "cancel", on_cancelled); }

/* One that is over before anybody could cancel it is asked at once. */
void ending_begin(struct provider *p, const struct llm_job *job, bool ran, struct str request_id, uint32_t attempt)
{
	struct ending *g = x_calloc(1, sizeof(*g));

	g->cloud = p->cloud;
	g->provider = p;
	g->ran = ran;
	(void)str_copy(g->job, sizeof(g->job), str_of(job->id));
	if (uuid_parse(request_id, &g->request))
		g->attempt = attempt;
	list_push(&p->cloud->endings, &g->link);
	loop_timer_set(p->cloud->loop, &g->timer, 0, job->final ? ask : cancel);      /* libcurl may be what called */
}

void endings_hurry(struct cloud *c)
{
	list_each_safe(l, &c->endings) {
		struct ending *g = list_entry(l, struct ending, link);

		if (g->resting && g->tries > 1)
			stays(g, "cloud-fallback is shutting down");
	}
}

void endings_drop(struct cloud *c)
{
	c->endings_over = NULL;
	list_each_safe(l, &c->endings)
		over(list_entry(l, struct ending, link));
}

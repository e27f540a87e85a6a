/* errand_job.c - a request as a job in RunPod's queue: submitted, asked for until it is over, cancelled when nobody waits for it any more.
 *
 *   POST /run (a stream), /runsync ──▶ an id ──▶ GET /stream/ID, /status/ID, again and again ──▶ its last reply
 *                                         └── the gateway leaves, the time is over, it broke ──▶ POST /cancel/ID
 *
 * A job that nobody cancels goes on and costs. So a submission that is under way when the gateway leaves is let finish, for the id that it tells.
 * What the replies say is read by common/llm/provider_runpod.c; how a job is ended is in ending.c. See errand.h. */
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "services/cloud-fallback/errand.h"

enum { FIRST_ASK_US = 100000, LONGEST_ASK_US = 1000000, BUSY_ASK_US = 1000000, SKIPS_MOST = 5 };

bool errand_is_job(const struct errand *e) { return e->target.kind == LLM_BACKEND_RUNPOD; }

static const struct llm_job *job_of(const struct errand *e) { return e->relay ? llm_relay_job(e->relay) : NULL; }

bool errand_has_job(const struct errand *e)
{
	const struct llm_job *job = job_of(e);

	return job && job->id[0];
}

/* --- asking --- */

static void ask(struct loop_timer *);

static void ask_later(struct errand *e, int64_t wait_us) { loop_timer_set(e->cloud->loop, &e->again, wait_us, ask); }

static bool fail_silent(struct errand *e, const char *what)
{
	struct why why;

	err_set(&why, ERR_DEADLINE, "the job at %s %s in time", e->provider->set->name, what);
	errand_failed(e, &why);
	return true;
}

/* A stream that has begun goes on within cloud_idle, and begins within what a first byte may take. Without streaming there is nothing to hear before the end. */
static bool is_silent_too_long(struct errand *e)
{
	const struct cloud_config *cfg = e->cloud->cfg;
	int64_t now_us = loop_now_us(e->cloud->loop);
	bool waits = strcmp(job_of(e)->state, "IN_QUEUE") == 0;

	if (waits || !e->job_began_us)
		return (waits || e->in.stream) && now_us - e->sent_us > (cfg->cloud_first_byte + 2 * e->cold_ms) * 1000 && fail_silent(e, "did not begin");
	return e->in.stream && now_us - e->job_heard_us > cfg->cloud_idle * 1000 && fail_silent(e, "said nothing more");
}

static void ask(struct loop_timer *t)
{
	struct errand *e = list_entry(t, struct errand, again);
	struct provider_key *k = errand_key(e);
	const char *url;

	if (!k)                               /* taken away: another one of the same account asks on */
		k = keyring_pick(&e->provider->keys, NULL, mono_us(), NULL, 0);
	if (is_silent_too_long(e))
		return;
	if (!k || http_reply_full(e->x)) {
		ask_later(e, LONGEST_ASK_US);
		return;
	}
	url = arena_printf(e->mem, "%s/%s/%s", e->provider->set->url, e->in.stream ? "stream" : "status", job_of(e)->id);
	e->asked = true;
	errand_call(e, k, "GET", url, (e->until_us - loop_now_us(e->cloud->loop)) / 1000);
}

/* --- hearing --- */

bool errand_job_skips(struct errand *e, const struct http_head *h)
{
	bool busy = h->status == 429 || h->status == 502 || h->status == 503 || h->status == 504;

	e->skipping = e->asked && busy && e->skips < SKIPS_MOST;
	e->skips = e->skipping ? e->skips + 1 : 0;
	return e->skipping;
}

void errand_job_heard(struct errand *e)
{
	const struct llm_job *job = job_of(e);
	int64_t now_us = loop_now_us(e->cloud->loop), waited_us = job->delay_ms ? job->delay_ms * 1000 : now_us - e->sent_us;

	if (e->job_began_us || !job->state[0] || strcmp(job->state, "IN_QUEUE") == 0)
		return;
	e->job_began_us = e->job_heard_us = now_us;
	series_observe(metrics_series(svc_metrics(e->cloud->svc), M_FIRST_BYTE, e->provider->set->name), (double)waited_us / 1e6);
	workers_began(e->provider, waited_us, e->cold);
}

bool errand_job_goes_on(struct errand *e)
{
	const struct llm_job *job = job_of(e);
	uint32_t deltas = llm_relay_deltas(e->relay);

	if (e->skipping) {
		ask_later(e, BUSY_ASK_US);
		return true;
	}
	if (e->status >= 400 || !errand_has_job(e))
		return false;
	if (job->final && !e->in.stream)
		return false;
	if (deltas != e->job_deltas)
		e->job_heard_us = loop_now_us(e->cloud->loop);
	e->ask_us = deltas != e->job_deltas || !e->ask_us ? FIRST_ASK_US : e->ask_us * 3 / 2 < LONGEST_ASK_US ? e->ask_us * 3 / 2 : LONGEST_ASK_US;
	e->job_deltas = deltas;
	ask_later(e, e->ask_us);
	return true;
}

/* --- cancelling --- */

void errand_cancel_job(struct errand *e)
{
	const struct llm_job *job = job_of(e);
	bool ran = e->job_began_us || (job && strcmp(job->state, "IN_QUEUE") != 0);

	if (errand_has_job(e) && (!job->final || (e->orphan && e->attempt)))
		ending_begin(e->provider, job, ran, e->request_id, e->attempt);
}

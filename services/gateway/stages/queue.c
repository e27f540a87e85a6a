/* queue.c - a slot on a replica of the chosen model now, or a place in its queue, or a refusal that says when to come back. */
#include "common/base/clock.h"
#include "services/gateway/shadow.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

static bool same_model(const struct req *r, uint16_t i)
{
	const struct cat_replica *all = r->world->cat.replicas;

	return all[r->pick.ranked[i].replica].model == all[r->pick.ranked[0].replica].model;
}

/* A slot that was waited for and is not used after all costs the tenant nothing. */
static void unused(struct req *r, struct replica_state *s)
{
	if (r->slot_charged_us)
		queue_settle(s->queue, r->tenant, -r->slot_charged_us);
	r->slot_charged_us = 0;
	slot_free(s, 0);
}

static enum step take(struct req *r, struct replica_state *s)
{
	struct breaker_opts o = gateway_breaker_opts(r->worker->gw->cfg);

	if (!breaker_allow(&s->breaker, &o, req_now(r), &r->probe)) {
		unused(r, s);             /* it opened, or another took the probe, since the decision */
		return STEP_AGAIN;
	}
	r->slot = s;
	return STEP_NEXT;
}

static enum step refuse(struct req *r, int64_t predicted_us)
{
	r->retry_after_s = predicted_us > 0 ? (predicted_us + 999999) / 1000000 : 1;
	return req_fail(r, ERR_QUEUE_FULL, "all slots for model '%s' are taken and its queue is full; try again in %lld s",
			r->world->cat.replicas[r->pick.ranked[0].replica].pb->model, (long long)r->retry_after_s);
}

/* s NULL: another tenant, with less waiting, has its place. */
static void granted(struct req *r, struct replica_state *s)
{
	r->slot_charged_us = r->waiting->charged_us;
	r->waiting = NULL;
	r->queue_us += req_now(r) - r->queue_since_us;
	series_observe(r->worker->m_queue_seconds, (double)(req_now(r) - r->queue_since_us) / 1e6);
	req_resume(r, s ? take(r, s) : refuse(r, queue_predict_us(&r->world->states[r->pick.ranked[0].replica], 1, r->tenant)));
}

static enum step enter(struct req *r)
{
	const struct gateway_config *cfg = r->worker->gw->cfg;
	struct replica_state **wants = arena_array(r->mem, struct replica_state *, r->pick.n_ranked + 1u), *now;
	unsigned n = 0;
	bool shared = replica_table_shared(r->worker->gw->replicas);  /* then each tenant's demand is counted */
	int64_t predicted, patience_us;

	for (uint16_t i = 0; i < r->pick.n_ranked; i++) {
		if (!same_model(r, i))
			continue;
		wants[n++] = r->world->states[r->pick.ranked[i].replica];
		if (!shared && atomic_load(&wants[0]->queue->n) == 0 && slot_take(wants[n - 1]))
			return take(r, wants[n - 1]);
	}
	if (r->run && r->worker->draining)        /* nothing of it was answered: the next start does it */
		return req_fail(r, ERR_UNAVAILABLE, "the gateway is shutting down");
	predicted = queue_predict_us(wants, n, r->tenant);
	r->queue_since_us = req_now(r);
	patience_us = r->run ? r->deadline_us - r->queue_since_us : cfg->queue_timeout * 1000;     /* nobody stands at the door for a job */
	r->queue_deadline_us = r->queue_since_us + patience_us;
	r->waiting = queue_join(wants[0]->queue, r->tenant, r, r->worker->loop, wants, n, (uint32_t)cfg->queue_max, granted, &now, &r->slot_charged_us);
	if (now)
		return take(r, now);
	shadows_make_way(r->worker, wants[0]->queue);
	if (r->waiting && (predicted > patience_us || req_now(r) + predicted > r->deadline_us)) {
		queue_leave(r->waiting);
		r->waiting = NULL;
	}
	return r->waiting ? STEP_WAIT : refuse(r, predicted);
}

const struct stage stage_queue = { "queue", enter };

/* queue.c - a slot on a replica of the chosen model now, or a place in its queue, or a refusal that says when to come back. Who named no model goes on
 * to the next that has room, as decision_pass() says, before it is refused. */
#include "common/base/clock.h"
#include "common/policy/cloud.h"
#include "services/gateway/shadow.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

static uint16_t model_of(const struct req *r, uint16_t i) { return r->world->cat.replicas[r->pick.ranked[i].replica].model; }

/* The states of all replicas of the model that stands at that place. */
static struct replica_state **replicas_of(const struct req *r, uint16_t at, unsigned *ret_n)
{
	struct replica_state **all = arena_array(r->mem, struct replica_state *, r->pick.n_ranked + 1u);

	*ret_n = 0;
	for (uint16_t i = at; i < r->pick.n_ranked; i++)
		if (model_of(r, i) == model_of(r, at))
			all[(*ret_n)++] = r->world->states[r->pick.ranked[i].replica];
	return all;
}

/* A slot that is free, or, of a request that has not waited yet, a place in the queue that is worth waiting at. */
static bool has_room(const struct req *r, uint16_t at, bool waited)
{
	const struct gateway_config *cfg = r->worker->gw->cfg;
	struct replica_state **all;
	unsigned n;

	all = replicas_of(r, at, &n);
	for (unsigned i = 0; i < n; i++)
		if (atomic_load(&all[i]->queue->n) == 0 && slots_in_use(all[i]) < atomic_load(&all[i]->slots))
			return true;
	return !waited && atomic_load(&all[0]->queue->n) < (uint64_t)cfg->queue_max && queue_predict_us(all, n, r->tenant) <= cfg->queue_timeout * 1000;
}

static void pass_by(struct req *r, uint16_t model)
{
	for (uint16_t i = 0; i < r->n_full; i++)
		if (r->full[i] == model)
			return;
	r->full[r->n_full++] = model;
}

/* The first of those behind it that has room, if the choice is ours; those before that are passed by. */
static bool goes_on(struct req *r, bool waited)
{
	uint16_t was = r->n_full, *had = r->full;
	bool home = false;

	if (!r->features.is_auto)
		return false;
	r->full = arena_array(r->mem, uint16_t, r->world->cat.n_models + 1u);
	for (uint16_t i = 0; i < was; i++)
		r->full[i] = had[i];
	for (uint16_t i = 0; i < r->pick.n_ranked; i++) {
		bool cloud = cloud_of(&r->world->cat, r->pick.ranked[i].replica);

		if (cloud && home)
			continue;                 /* a spare: see decision_pass() */
		if (i && model_of(r, i) != model_of(r, 0) && has_room(r, i, waited)) {
			series_inc(metrics_series(r->worker->gw->metrics, M_QUEUE_PASSED, r->world->cat.replicas[r->pick.ranked[0].replica].pb->model));
			return true;
		}
		home |= !cloud;
		pass_by(r, model_of(r, i));
	}
	r->n_full = was;
	return false;
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
	if (goes_on(r, false))
		return STEP_AGAIN;
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
		if (model_of(r, i) != model_of(r, 0))
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

enum step queue_overdue(struct req *r, int64_t now)
{
	if (goes_on(r, true)) {
		queue_leave(r->waiting);
		r->waiting = NULL;
		r->queue_us += now - r->queue_since_us;
		return STEP_AGAIN;
	}
	r->retry_after_s = 1 + (now - r->queue_since_us) / 2000000;
	return req_fail(r, ERR_QUEUE_FULL, "no slot for model '%s' became free within %lld ms; try again in %lld s",
			r->world->cat.replicas[r->pick.ranked[0].replica].pb->model, (long long)((now - r->queue_since_us) / 1000), (long long)r->retry_after_s);
}

const struct stage stage_queue = { "queue", enter };

/* shadow.c - see shadow.h. */
#include "services/gateway/shadow.h"

#include <stdlib.h>

#include "common/data/log.h"
#include "common/policy/cloud.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/treat.h"
#include "services/gateway/worker.h"

enum { SHADOWS_MOST = 64 };           /* of a worker */

struct shadow {
	struct list node;             /* among the worker's */
	struct worker *worker;
	struct arena *mem;
	struct loop_timer begin;
	struct req *req;              /* NULL: not begun */
	struct route route;           /* the client's, with the stages of shadows */
	struct uuid client;
	uint8_t trace_id[16];
	char user_hash[17];
	struct str body, tenant, key_id;
	const char *experiment, *arm, *unit, *model, *task, *complexity, *language;
	const char *result;           /* why it did not run; NULL = as its request ended */
};

struct uuid *shadow_client(struct shadow *s) { return &s->client; }

static void count(struct worker *w, const char *result) { series_inc(metrics_series(w->gw->metrics, M_SHADOWS, result)); }

static void shadow_free(struct shadow *s)
{
	struct worker *w = s->worker;

	loop_timer_del(&s->begin);
	list_del(&s->node);
	w->n_shadows--;
	atomic_fetch_sub(&w->gw->n_shadows, 1);
	budget_give(&w->gw->held, s->body.n);
	arena_free(s->mem);
	free(s);
}

/* --- its stages --- */

static enum step not_run(struct req *r, const char *result, enum err code)
{
	r->shadow->result = result;
	return req_fail(r, code, "a shadow does not run: %s", result);
}

static enum step read_body(struct req *r)
{
	struct why why = { 0 };

	if (llm_read(&r->in, r->route->dialect, r->route->op, r->shadow->body, STR(""), r->mem, &why) != ERR_OK)
		return req_fail_why(r, &why);
	return STEP_NEXT;
}

static void fill_features(struct req *r)
{
	struct shadow *s = r->shadow;
	Corral__DecisionFeatures *f = &r->features;

	f->requested_model = (char *)s->model;
	f->task_type = (char *)s->task;
	f->complexity = (char *)s->complexity;
	f->language = (char *)s->language;
	f->tenant = (char *)s->tenant.p;
	f->prompt_tokens = r->in.prompt_tokens_est;
	f->max_tokens = r->in.max_tokens > 0 && r->in.max_tokens < UINT32_MAX ? (uint32_t)r->in.max_tokens : 0;
	f->needs = r->in.needs;
	f->local_only = true;
	f->policy = (char *)"balanced";
}

/* The arm's model by its name, outside of all experiments. */
static void pick(struct req *r)
{
	struct world *w = r->world;
	struct policy alone = w->pol;

	alone.arms = NULL;
	r->pick_reach = decide_reach(&r->features, r->model, &w->cat);
	r->pick_load = arena_alloc(r->mem, sizeof(*r->pick_load) * (r->pick_reach.n + 1u));
	world_load(w, r->pick_reach, req_now(r), r->pick_load);
	decide(&r->pick, r->mem, &r->features, r->model, false, &w->cat, &alone, r->pick_load, r->tried);
}

static enum step choose(struct req *r)
{
	struct shadow *s = r->shadow;
	struct why why = { 0 };

	if (!r->world || !r->world->pol.arms || !arms_find(r->world->pol.arms, s->experiment, s->arm, false))
		return not_run(r, "over", ERR_CONFLICT);
	r->model = catalogue_model(&r->world->cat, str_of(s->model));
	if (r->model < 0)
		return not_run(r, "no_model", ERR_MODEL_NOT_FOUND);
	fill_features(r);
	pick(r);
	if (r->pick.err != ERR_OK)
		return not_run(r, "no_model", r->pick.err);
	r->experiment = r->pick.experiment = s->experiment;
	r->arm = r->pick.arm = s->arm;
	r->unit = s->unit;
	return treat(r, &why) == ERR_OK ? STEP_NEXT : req_fail_why(r, &why);
}

static bool is_here(const struct req *r, uint16_t replica)
{
	const struct cat_replica *cr = &r->world->cat.replicas[replica];

	return cr->model == r->model && !cloud_of(&r->world->cat, replica);
}

/* A model that is loaded for it may push another one out. */
static bool is_loaded(const struct req *r, uint16_t replica)
{
	const struct cat_replica *cr = &r->world->cat.replicas[replica];

	return cr->pb->loaded || r->world->backends[cr->backend].kind != LLM_BACKEND_OLLAMA;
}

static bool is_well(const struct req *r, const struct replica_state *s)
{
	return breaker_state(&s->breaker, req_now(r)) == BREAKER_CLOSED && !breaker_is_open(&s->breaker, req_now(r));
}

/* One that is free, and that nobody waits for. */
static enum step take_slot(struct req *r)
{
	bool any = false;

	for (uint16_t i = 0; i < r->pick.n_ranked; i++) {
		struct replica_state *s = r->world->states[r->pick.ranked[i].replica];

		if (!is_here(r, r->pick.ranked[i].replica) || !is_loaded(r, r->pick.ranked[i].replica))
			continue;
		any = true;
		if (!is_well(r, s) || atomic_load(&s->queue->n) || !slot_take(s))
			continue;
		r->slot = s;
		return STEP_NEXT;
	}
	return not_run(r, any ? "no_slot" : "not_loaded", ERR_QUEUE_FULL);
}

static const struct stage stage_read = { "shadow_read", read_body }, stage_choose = { "decide", choose }, stage_slot = { "shadow_slot", take_slot };
static const struct stage *const stages[] = { &stage_read, &stage_choose, &stage_slot, &stage_dispatch, NULL };

/* --- its life --- */

static void begin(struct loop_timer *t)
{
	struct shadow *s = list_entry(t, struct shadow, begin);

	req_start_shadow(s->worker, s, s->trace_id);
}

static const char *kept(struct shadow *s, const char *z) { return z && *z ? arena_dup(s->mem, z, strlen(z)) : ""; }

/* The client's own, as it was asked: what its arm does to it is not the shadow's. */
static struct shadow *copy(const struct req *r, struct str body)
{
	struct shadow *s = x_calloc(1, sizeof(*s));

	s->mem = arena_new(body.n + 1024);
	s->worker = r->worker;
	s->route = *r->route;
	s->route.stages = stages;
	s->client = r->id;
	memcpy(s->trace_id, r->trace, sizeof(s->trace_id));
	memcpy(s->user_hash, r->user_hash, sizeof(s->user_hash));
	s->body = arena_str(s->mem, body);
	s->tenant = arena_str(s->mem, r->tenant);
	s->key_id = arena_str(s->mem, r->key_id);
	s->experiment = kept(s, r->experiment);
	s->unit = kept(s, r->unit);
	s->arm = kept(s, r->shadow_arm->name);
	s->model = kept(s, r->shadow_arm->model);
	s->task = kept(s, r->features.task_type);
	s->complexity = kept(s, r->features.complexity);
	s->language = kept(s, r->features.language);
	return s;
}

void shadow_ask(struct req *r)
{
	struct str body = r->as_asked ? r->as_asked->body : r->in.body;
	struct worker *w = r->worker;
	struct shadow *s;

	if (w->draining || w->n_shadows >= SHADOWS_MOST || !budget_take(&w->gw->held, body.n)) {
		count(w, "no_room");
	} else {
		s = copy(r, body);
		list_push(&w->shadows, &s->node);
		w->n_shadows++;
		atomic_fetch_add(&w->gw->n_shadows, 1);
		loop_timer_set(w->loop, &s->begin, 0, begin);
	}
	r->shadow_arm = NULL;             /* once, however often the client's is tried */
}

void shadow_dress(struct shadow *s, struct req *r)
{
	s->req = r;
	r->shadow = s;
	r->route = &s->route;
	r->tenant = s->tenant;
	r->key_id = s->key_id;
	memcpy(r->user_hash, s->user_hash, sizeof(r->user_hash));
	str_copy(r->picked_reason, sizeof(r->picked_reason), STR("shadow"));
}

static const char *result_of(const struct req *r)
{
	return r->shadow->result ? r->shadow->result : r->err.code == ERR_OK ? "ok" : r->err.code == ERR_CLIENT_GONE ? "made_way" : "error";
}

void shadow_ended(struct req *r)
{
	const char *result = result_of(r);

	count(r->worker, result);
	LOG_DEBUG("shadow", LOG_S("request_id", r->id_text), LOG_S("experiment", r->shadow->experiment), LOG_S("arm", r->shadow->arm), LOG_S("result", result),
		  LOG_S("error", r->err.text));
	shadow_free(r->shadow);
}

/* --- making way --- */

static void leave(struct shadow *s, const char *why)
{
	if (!s->req) {
		count(s->worker, "made_way");
		shadow_free(s);
		return;
	}
	req_fail(s->req, ERR_CLIENT_GONE, "%s", why);
	req_resume(s->req, STEP_FAIL);
}

static const struct replica_state *slot_of(const struct shadow *s) { return s->req ? s->req->try.slot : NULL; }

static bool one_leaves(struct worker *w, const struct model_queue *q)
{
	list_each(it, &w->shadows) {
		struct shadow *s = list_entry(it, struct shadow, node);

		if (slot_of(s) && slot_of(s)->queue == q) {
			leave(s, "a client's request waits for the slot");
			return true;
		}
	}
	return false;
}

struct plea { struct worker *worker; struct model_queue *queue; };

static void hear(void *arg)
{
	struct plea *p = arg;

	if (atomic_load(&p->queue->n))
		(void)one_leaves(p->worker, p->queue);
	free(p);
}

void shadows_make_way(struct worker *w, struct model_queue *q)
{
	if (!atomic_load_explicit(&w->gw->n_shadows, memory_order_relaxed) || one_leaves(w, q))
		return;
	for (unsigned i = 0; i < w->gw->n_workers; i++)
		if (w->gw->workers[i] != w && w->gw->workers[i]) {
			struct plea *p = x_malloc(sizeof(*p));

			*p = (struct plea){ w->gw->workers[i], q };
			loop_post(p->worker->loop, hear, p);
		}
}

void shadows_sweep(struct worker *w)
{
	list_each_safe(it, &w->shadows) {
		const struct replica_state *s = slot_of(list_entry(it, struct shadow, node));

		if (s && (atomic_load(&s->queue->n) || atomic_load(&s->in_use) > atomic_load(&s->slots)))
			leave(list_entry(it, struct shadow, node), "a client's request waits for the slot");
	}
}

void shadows_end(struct worker *w)
{
	list_each_safe(it, &w->shadows)
		leave(list_entry(it, struct shadow, node), "the gateway is shutting down");
}

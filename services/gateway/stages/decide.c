/* decide.c - which model answers, on which backends it can: applies policy/decide.h to the worker's world. */
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/policy/sketch.h"
#include "services/gateway/account.h"
#include "services/gateway/remote.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"
#include "services/gateway/sticky.h"
#include "services/gateway/treat.h"

static bool is_auto(struct str model)
{
	return str_ieq(model, STR("auto")) || str_ieq(model, STR("auto:latest"));
}

/* What clients say is a label in the ledger: cut to what a name can be, between characters. */
enum { NAME_MAX_BYTES = 255 };
static char *z(struct req *r, struct str s)
{
	if (s.n > NAME_MAX_BYTES)
		for (s.n = NAME_MAX_BYTES; s.n && ((unsigned char)s.p[s.n] & 0xc0) == 0x80;)
			s.n--;
	return s.n ? arena_dup(r->mem, s.p, s.n) : (char *)"";
}

/* The client's own words win; an unknown task type is kept as a label and treated as undetected. */
static void label(struct req *r)
{
	Corral__DecisionFeatures *f = &r->features;
	enum complexity c;
	enum task t;

	if (r->in.task_type.n)
		f->task_type = task_parse(r->in.task_type, &t) ? (char *)task_name(t) : z(r, r->in.task_type);
	if (r->in.complexity.n && complexity_parse(r->in.complexity, &c))
		f->complexity = (char *)complexity_name(c);
	if (r->in.language.n)
		f->language = z(r, r->in.language);
	f->policy = r->in.policy.n ? z(r, r->in.policy) : (char *)"balanced";
}

/* So that the ledger can tell when somebody asks the same again. */
static void sketch(struct req *r, struct str text)
{
	uint64_t seed = str_hash(r->tenant, 11);

	if (r->in.op == LLM_EMBED || r->in.op == LLM_EMBED_OLD || !text.n)
		return;
	r->prompt_hash = str_hash_long(text, seed) | 1;
	r->prompt_sketch = sketch_of(text, seed);
}

static void extract(struct req *r)
{
	struct llm_texts texts = llm_read_texts(&r->in, r->mem);
	struct feature_text t = { .system = texts.system, .user = texts.user, .context = texts.context,
		.prompt_tokens = r->in.prompt_tokens_est, .n_messages = r->in.n_messages, .has_tools = r->in.has_tools,
		.has_schema = r->in.has_schema, .has_images = (r->in.needs & LLM_CAP_VISION) != 0 };
	Corral__DecisionFeatures *f = &r->features;

	sketch(r, texts.user);
	features_extract(&r->extracted, &t);
	f->task_type = (char *)task_name(r->extracted.task);
	f->task_confidence = r->extracted.confidence;
	f->complexity = (char *)complexity_name(r->extracted.complexity);
	f->language = r->extracted.language;
}

static void fill_features(struct req *r)
{
	Corral__DecisionFeatures *f = &r->features;

	f->requested_model = z(r, r->in.model);
	f->is_auto = is_auto(r->in.model);
	f->prompt_tokens = r->in.prompt_tokens_est;
	f->max_tokens = r->in.max_tokens > 0 && r->in.max_tokens < UINT32_MAX ? (uint32_t)r->in.max_tokens : 0;
	f->needs = r->in.needs;
	f->local_only = r->in.local_only || (r->who.key && r->who.key->local_only) || (r->who.home && r->who.home->local_only);
	f->named_may_leave = !f->is_auto && r->worker->gw->cfg->cloud_named;
	f->tenant = z(r, r->tenant);
	if (r->who.key) {
		f->key_models = r->who.key->models;
		f->n_key_models = r->who.key->n_models;
	}
	if (r->who.home) {
		f->tenant_models = r->who.home->models;
		f->n_tenant_models = r->who.home->n_models;
	}
	if (f->is_auto || r->in.dialect == LLM_NATIVE)
		extract(r);
	label(r);
	treat_units(r);
	if (f->is_auto && r->in.conversation.n)
		f->conversation_model = (char *)sticky_get(r->worker->gw->sticky, r->tenant, r->in.conversation, mono_us(), r->mem);
}

/* Somebody has said what auto is. It has to fit and to be there like any model that we choose; the cloud may stand in for it as for any. */
static bool take_active(struct req *r)
{
	struct str name = r->world->active_model;
	bool alias = false;
	int m = r->features.is_auto && name.n ? catalogue_resolve(&r->world->cat, name, &alias) : -1;

	if (m < 0 || !authorise_model(&r->who, r->world->cat.models[m].name))
		return false;
	r->model = m;
	r->alias = true;
	r->features.named_may_leave = true;
	return true;
}

/* What auto is cannot answer this: it is decided as if nothing had been said. */
static void drop_active(struct req *r)
{
	r->active = false;
	r->alias = false;
	r->features.named_may_leave = false;
	r->model = -1;
}

static void look(struct req *r)
{
	r->pick_reach = decide_reach(&r->features, r->model, &r->world->cat);
	r->pick_load = arena_alloc(r->mem, sizeof(*r->pick_load) * (r->pick_reach.n + 1u));
	world_load(r->world, r->pick_reach, req_now(r), r->pick_load);
}

static enum step refuse(struct req *r)
{
	struct why why = { 0 };
	int64_t soonest = 0, now = req_now(r);

	if (r->unplanned.code)
		return req_fail_why(r, &r->unplanned);
	for (uint16_t i = 0; i < r->pick.n_rejected; i++) {
		int64_t us = breaker_retry_us(&r->world->states[r->pick.rejected[i].replica]->breaker, now);

		if (us && (!soonest || us < soonest))
			soonest = us;
	}
	if (soonest)
		r->retry_after_s = (soonest + 999999) / 1000000;
	decision_why(&r->pick, &r->features, &r->world->cat, &why);
	return req_fail_why(r, &why);
}

static void remember(struct req *r, bool first)
{
	double sample = r->worker->gw->cfg->decision_sample;

	str_copy(r->picked_reason, sizeof(r->picked_reason), str_of(first || !r->try.number ? r->pick.reason : "fallback"));
	if (first && (r->features.is_auto || (sample > 0 && rand_unit() < sample)))
		account_decision(r);
	if (r->pick.n_ranked && r->features.is_auto && r->in.conversation.n)
		sticky_put(r->worker->gw->sticky, r->tenant, r->in.conversation, r->world->cat.replicas[r->pick.ranked[0].replica].pb->model,
			   mono_us());
}

/* Whatever answers in the end, and however often it is decided: the outcome is that of the arm that it was given first. */
static void take_part(struct req *r)
{
	const Corral__Experiment *e = r->pick.experiment && !r->pick.champion && r->world->pol.arms ? arms_running(r->world->pol.arms, r->pick.experiment) : NULL;

	if (!e)
		return;
	r->experiment = r->pick.experiment;
	r->arm = r->pick.arm;
	r->unit = arms_unit(e, &r->features);
	r->shadow_arm = arms_shadow(r->world->pol.arms, e, r->unit);
}

static enum step decided(struct req *r, bool by_selector)
{
	struct why why = { 0 };

	if (!by_selector) {
		r->experiments_id = r->world->pol.arms ? (struct snapshot_id){ r->world->pol.arms->epoch, r->world->pol.arms->version } : (struct snapshot_id){ 0 };
		r->policy_id = (struct snapshot_id){ r->world->pol.epoch, r->world->pol.version };
		decide(&r->pick, r->mem, &r->features, r->model, r->alias, &r->world->cat, &r->world->pol, r->pick_load, r->tried);
	}
	if (r->n_full)
		decision_pass(&r->pick, &r->world->cat, r->full, r->n_full);
	if (r->active && r->pick.err != ERR_OK) {
		drop_active(r);
		look(r);
		return decided(r, false);
	}
	if (!r->tried && !r->n_full)
		take_part(r);
	remember(r, !r->tried);
	if (r->pick.err != ERR_OK)
		return refuse(r);
	return treat(r, &why) == ERR_OK ? STEP_NEXT : req_fail_why(r, &why);
}

static enum step enter(struct req *r)
{
	bool first = !r->tried && !r->n_full;

	if (!r->world)
		return req_fail(r, ERR_UNAVAILABLE, "no model list yet: the registry has not answered since the start");
	if (first) {
		fill_features(r);
		r->model = r->features.is_auto ? -1 : catalogue_resolve(&r->world->cat, r->in.model, &r->alias);
		if (r->model >= 0 && !authorise_model(&r->who, r->world->cat.models[r->model].name))
			r->model = -1;            /* as if it was not there */
		if (r->model < 0 && !r->features.is_auto) {
			r->pick.err = ERR_MODEL_NOT_FOUND;
			return refuse(r);
		}
		r->active = take_active(r);
	}
	look(r);
	r->not_asked = NULL;
	if (!r->active && strcmp(r->worker->gw->cfg->decide, "remote") == 0 && remote_decide(r, decided) == STEP_WAIT)
		return STEP_WAIT;
	return decided(r, false);
}

const struct stage stage_decide = { "decide", enter };

/* cloud.c - see cloud.h.
 *
 * A provider's price stands for the strength of a model of which nothing was measured: providers ask more for what does more. */
#include "common/policy/cloud.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is assumed until it was measured. */
enum { ASSUMED_TTFT_MS = 800, ASSUMED_TOKENS_PER_S = 60, ASSUMED_ANSWER_TOKENS = 400, MOST_ANSWER_TOKENS = 1024, MEDIUM_LEFT_MICROUSD = 10000000 };
static const double quality_least = 0.70;

/* ---- merging ---- */

/* Two digits, rounded down. */
static int64_t coarse(int64_t v)
{
	int64_t unit = 1;

	while (v / unit >= 100)
		unit *= 10;
	return v > 0 ? v / unit * unit : v;
}

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

enum err cloud_view(struct arena *mem, struct str providers, struct str *ret, struct why *why)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };
	Corral__ProviderSnapshot *s = corral__provider_snapshot__unpack(&alloc, providers.n, (const uint8_t *)providers.p);
	uint8_t *out;
	size_t n = 0;

	*ret = STR("");
	if (!s)
		return err_set(why, ERR_MALFORMED, "the snapshot of providers cannot be decoded");
	s->token = (ProtobufCBinaryData){ 0 };
	s->active_model = NULL;
	s->made_at_us = 0;
	for (size_t i = 0; i < s->n_providers; i++) {
		Corral__Provider *p = s->providers[i];

		p->budget_left_microusd = coarse(p->budget_left_microusd);
		p->budget_left_tokens = coarse(p->budget_left_tokens);
		p->cold_start_ms = (uint32_t)coarse(p->cold_start_ms);
		p->keys = 0;
		if (p->n_models)
			s->providers[n++] = p;
	}
	s->n_providers = n;
	if (!n)
		return ERR_OK;
	out = arena_alloc(mem, corral__provider_snapshot__get_packed_size(s));
	*ret = str_n((char *)out, corral__provider_snapshot__pack(s, out));
	return ERR_OK;
}

struct merge {
	struct arena *mem;
	Corral__ModelSnapshot *to;
	size_t n_local, n_backends;
};

static void put_backend(struct merge *m, Corral__Provider *p)
{
	Corral__Backend *b = arena_new_of(m->mem, Corral__Backend);

	corral__backend__init(b);
	b->name = p->name;
	b->kind = (char *)CLOUD_KIND;
	b->url = p->endpoint;
	b->state = p->state == CORRAL__PROVIDER_STATE__PROVIDER_READY ? CORRAL__BACKEND_STATE__BACKEND_UP : CORRAL__BACKEND_STATE__BACKEND_DOWN;
	b->reason = p->why;
	b->slots = p->slots;
	b->cloud = p;
	m->to->backends[m->to->n_backends++] = b;
}

/* "json" is not a capability here: it is asked for as a format, and not filtered by. */
static void put_model(struct merge *m, const Corral__Provider *p, Corral__ProviderModel *pm)
{
	Corral__Model *model = arena_new_of(m->mem, Corral__Model);
	Corral__Replica *r = arena_new_of(m->mem, Corral__Replica);

	corral__model__init(model);
	model->name = model->display_name = pm->name;
	model->family = p->kind;
	model->context_length = pm->context_tokens;
	model->capabilities = pm->capabilities;
	model->n_capabilities = pm->n_capabilities;
	m->to->models[m->to->n_models++] = model;
	corral__replica__init(r);
	r->model = r->remote_name = pm->name;
	r->backend = p->name;
	r->context_length = pm->context_tokens;
	r->slots = p->slots ? p->slots : 1;
	r->loaded = true;
	r->cloud = pm;
	m->to->replicas[m->to->n_replicas++] = r;
}

static bool has_model(const struct merge *m, const char *name)
{
	for (size_t i = 0; i < m->to->n_models; i++)
		if (strcasecmp(m->to->models[i]->name, name) == 0)
			return true;
	return false;
}

static bool has_backend(const struct merge *m, const char *name)
{
	for (size_t i = 0; i < m->to->n_backends; i++)
		if (strcmp(m->to->backends[i]->name, name) == 0)
			return true;
	return false;
}

/* A name that the house uses is the house's. */
static void put_provider(struct merge *m, Corral__Provider *p)
{
	size_t n = p->n_models;

	if (has_backend(m, p->name))
		return;
	for (size_t i = 0; i < n; i++)
		if (!has_model(m, p->models[i]->name))
			put_model(m, p, p->models[i]);
	p->n_models = 0;
	put_backend(m, p);
}

static size_t n_models(const Corral__ProviderSnapshot *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_providers; i++)
		n += s->providers[i]->n_models;
	return n;
}

static void *longer(struct arena *mem, void *from, size_t n, size_t more)
{
	void **to = arena_alloc(mem, (n + more + 1) * sizeof(*to));

	if (n)
		memcpy(to, from, n * sizeof(*to));
	return to;
}

static enum err merge_in(struct arena *mem, struct buf *out, struct str models, struct str view, struct why *why)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };
	Corral__ModelSnapshot *to = corral__model_snapshot__unpack(&alloc, models.n, (const uint8_t *)models.p);
	Corral__ProviderSnapshot *from = corral__provider_snapshot__unpack(&alloc, view.n, (const uint8_t *)view.p);
	struct merge m = { .mem = mem, .to = to };
	size_t n;

	if (!to || !from)
		return err_set(why, ERR_MALFORMED, "the snapshot of %s cannot be decoded", to ? "providers" : "models");
	n = n_models(from);
	to->backends = longer(mem, to->backends, to->n_backends, from->n_providers);
	to->models = longer(mem, to->models, to->n_models, n);
	to->replicas = longer(mem, to->replicas, to->n_replicas, n);
	for (size_t i = 0; i < from->n_providers; i++)
		put_provider(&m, from->providers[i]);
	n = corral__model_snapshot__get_packed_size(to);
	buf_reserve(out, n);
	out->n += corral__model_snapshot__pack(to, (uint8_t *)out->p + out->n);
	return ERR_OK;
}

enum err cloud_merge(struct buf *out, uint64_t *epoch, struct str models, struct str view, struct why *why)
{
	struct arena *mem;
	enum err err;

	if (!view.n) {
		buf_str(out, models);
		return ERR_OK;
	}
	mem = arena_new(16384);
	err = merge_in(mem, out, models, view, why);
	arena_free(mem);
	if (err == ERR_OK)
		*epoch = str_hash(view, *epoch) >> 1 | 1;      /* databases keep it in 63 bits */
	return err;
}

/* ---- what it costs, and whether there is as much ---- */

static const Corral__ProviderPrice *price_of(const struct catalogue *c, uint16_t replica)
{
	const Corral__ProviderModel *m = c->replicas[replica].pb->cloud;

	return m && m->price && m->price->known ? m->price : NULL;
}

static int64_t answer_tokens(const struct catalogue *c, uint16_t replica, const Corral__DecisionFeatures *f)
{
	const Corral__ProviderModel *m = c->replicas[replica].pb->cloud;
	int64_t most = f->max_tokens ? f->max_tokens : MOST_ANSWER_TOKENS;

	return m && m->max_output_tokens && most > m->max_output_tokens ? m->max_output_tokens : most;
}

bool cloud_estimate(const struct catalogue *c, uint16_t replica, const Corral__DecisionFeatures *f, int64_t *ret_microusd, int64_t *ret_tokens)
{
	const Corral__ProviderPrice *price = price_of(c, replica);
	int64_t answer = answer_tokens(c, replica, f);

	*ret_tokens = f->prompt_tokens + answer;
	*ret_microusd = 0;
	if (!price)
		return false;
	*ret_microusd = (int64_t)ceil(((double)f->prompt_tokens * (double)price->input + (double)answer * (double)price->output) / 1e6);
	return true;
}

static uint32_t narrow(int64_t v) { return v < 0 ? 0 : v > UINT32_MAX ? UINT32_MAX : (uint32_t)v; }

bool cloud_affords(const struct catalogue *c, uint16_t replica, const Corral__DecisionFeatures *f, struct rejected *no)
{
	const Corral__Provider *p = cloud_of(c, replica);
	int64_t microusd, tokens;
	bool known = cloud_estimate(c, replica, f, &microusd, &tokens);

	no->need = no->have = 0;
	if (p->state == CORRAL__PROVIDER_STATE__PROVIDER_NO_BUDGET || (p->budget_left_microusd >= 0 && !known))
		return false;
	if (p->budget_left_tokens >= 0 && tokens > p->budget_left_tokens)
		no->need = narrow(tokens), no->have = narrow(p->budget_left_tokens);
	else if (p->budget_left_microusd >= 0 && microusd > p->budget_left_microusd)
		no->need = narrow(microusd), no->have = narrow(p->budget_left_microusd);
	return no->need == 0;
}

/* ---- when ---- */

static double measured_quality(const struct catalogue *c, const struct policy *p, const Corral__DecisionFeatures *f, uint16_t model)
{
	for (size_t i = 0; p->pb && i < p->pb->n_qualities; i++)
		if (str_eqz(c->models[model].name, p->pb->qualities[i]->model) && strcmp(p->pb->qualities[i]->task_type, f->task_type) == 0)
			return p->pb->qualities[i]->quality;
	return -1;
}

bool cloud_preferred(const struct policy *p, const Corral__DecisionFeatures *f)
{
	const char *from = p->pb && p->pb->cloud && *p->pb->cloud->prefer ? p->pb->cloud->prefer : "medium";

	if (strcmp(from, "none") == 0 || strcmp(f->policy, "cheap") == 0)
		return false;
	return strcmp(f->policy, "quality") == 0 || strcmp(f->complexity, "COMPLEX") == 0 ||
	       (strcmp(f->complexity, "MEDIUM") == 0 && strcmp(from, "medium") == 0);
}

enum cloud_wish cloud_wish(const struct catalogue *c, const struct policy *p, const Corral__DecisionFeatures *f, uint16_t best_local)
{
	double least = p->pb && p->pb->cloud ? p->pb->cloud->quality_least : quality_least, measured = measured_quality(c, p, f, best_local);

	if (cloud_preferred(p, f))
		return CLOUD_BY_POLICY;
	return measured >= 0 && measured < least ? CLOUD_BY_QUALITY : CLOUD_SPARE;
}

bool cloud_has_plenty(const Corral__Provider *cloud, const struct policy *p, const Corral__DecisionFeatures *f)
{
	int64_t most = p->pb && p->pb->cloud ? p->pb->cloud->medium_left_microusd : MEDIUM_LEFT_MICROUSD;

	return strcmp(f->complexity, "MEDIUM") != 0 || cloud->budget_left_microusd < 0 || cloud->budget_left_microusd > most;
}

/* ---- scores ---- */

double cloud_quality(const struct catalogue *c, uint16_t replica)
{
	const Corral__ProviderPrice *price = price_of(c, replica);
	double q = 0.70 + (price ? 0.03 * log2(1.0 + (double)price->output / 1e6) : 0);

	return q > 0.90 ? 0.90 : q;
}

double cloud_cost(const struct catalogue *c, uint16_t replica)
{
	const Corral__ProviderPrice *price = price_of(c, replica);

	return price ? 1.0 / (1.0 + (double)price->output / 5e6) : 0.1;
}

double cloud_seconds(const Corral__Provider *p, const Corral__Speed *s, const struct load *l, uint32_t max_tokens)
{
	double tps = s && s->tokens_per_s > 0 ? s->tokens_per_s : ASSUMED_TOKENS_PER_S;
	double ttft = (s && s->ttft_ms > 0 ? s->ttft_ms : ASSUMED_TTFT_MS) / 1000.0;
	double answer = ttft + (max_tokens && max_tokens < ASSUMED_ANSWER_TOKENS ? max_tokens : ASSUMED_ANSWER_TOKENS) / tps;
	double ahead = l->in_use >= l->slots ? (l->queued + 1.0) / (l->slots ? l->slots : 1) : 0;

	return p->cold_start_ms / 1000.0 + ahead * answer + answer;
}

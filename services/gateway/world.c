/* world.c - see world.h. */
#include "services/gateway/world.h"

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/tls.h"
#include "common/policy/cloud.h"
#include "services/gateway/recall.h"

bool llm_backend_parse(const char *kind, enum llm_backend *ret)
{
	static const struct { const char *name; enum llm_backend kind; } kinds[] = {
		{ "llamacpp", LLM_BACKEND_LLAMACPP }, { "openai", LLM_BACKEND_OPENAI }, { "ollama", LLM_BACKEND_OLLAMA },
		{ CLOUD_KIND, LLM_BACKEND_OPENAI },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strcmp(kind, kinds[i].name) == 0) {
			*ret = kinds[i].kind;
			return true;
		}
	return false;
}

/* What is needed to speak with it. The authorities of a whole system are some megabytes: only for who has a use for them. */
static bool can_speak(struct gateway *g, const struct http_url *url, struct why *why)
{
	if (url->tls && !g->backend_trust)
		g->backend_trust = tls_trust_load(g->cfg->backend_ca, why);
	return !url->tls || g->backend_trust;
}

/* What cannot be read leaves everybody without experiments: they are no reason not to serve. */
static void take_arms(struct gateway *g, struct world *w)
{
	struct why why = { 0 };

	w->experiments_bytes = arena_str(w->mem, buf_as_str(&g->experiments_bytes));
	if (arms_build(&w->arms, w->mem, g->experiments_id.epoch, g->experiments_id.version, w->experiments_bytes, &why) != ERR_OK)
		LOG_ERROR("experiments cannot be read; none is in force", LOG_S("error", why.text));
	else if (w->arms.pb && (w->arms.pb->n_experiments || w->arms.pb->n_champions))
		w->pol.arms = &w->arms;
}

/* A provider may be called as a kind of backends is, and 'openai' mostly is: then those of the house are charged as local-KIND. */
static const char *charged_as(const struct world *w, const Corral__Backend *pb)
{
	if (pb->cloud)
		return pb->name;
	for (uint16_t b = 0; b < w->cat.n_backends; b++)
		if (w->cat.backends[b].pb->cloud && strcmp(w->cat.backends[b].pb->name, pb->kind) == 0)
			return arena_printf(w->mem, "local-%s", pb->kind);
	return pb->kind;
}

static void resolve_backends(struct gateway *g, struct world *w)
{
	w->backends = arena_array(w->mem, struct world_backend, w->cat.n_backends + 1u);
	for (uint16_t b = 0; b < w->cat.n_backends; b++) {
		const Corral__Backend *pb = w->cat.backends[b].pb;
		struct why why = { 0 };

		w->backends[b].charged = charged_as(w, pb);
		w->backends[b].usable = llm_backend_parse(pb->kind, &w->backends[b].kind) &&
					http_url_parse(&w->backends[b].url, str_of(pb->url), &why) && can_speak(g, &w->backends[b].url, &why);
		if (!w->backends[b].usable) {
			w->cat.backends[b].up = false;
			LOG_WARN("backend cannot be used", LOG_S("backend", pb->name), LOG_S("kind", pb->kind), LOG_S("url", pb->url), LOG_S("why", why.text));
		}
	}
}

/* The models of the house, and behind them those of the cloud. */
static bool merge(struct gateway *g, struct world *w, uint64_t *ret_epoch, struct why *why)
{
	struct buf b = { 0 };
	enum err err;

	*ret_epoch = g->models_id.epoch;
	err = cloud_merge(&b, ret_epoch, buf_as_str(&g->models_bytes), buf_as_str(&g->providers.view), why);
	w->models_bytes = arena_str(w->mem, buf_as_str(&b));
	buf_free(&b);
	w->cloud_token = arena_str(w->mem, str_of(g->providers.token));
	w->active_model = arena_str(w->mem, str_of(g->providers.active_model));
	return err == ERR_OK;
}

static struct replica_state *state_of(struct gateway *g, const struct world *w, uint16_t r)
{
	const struct cat_replica *cr = &w->cat.replicas[r];

	return (cloud_of(&w->cat, r) ? replica_state_get_cloud : replica_state_get)(g->replicas, w->cat.backends[cr->backend].name,
										    w->cat.models[cr->model].name, cr->slots);
}

struct world *world_new(struct gateway *g, struct why *why)
{
	uint64_t epoch;
	struct arena *mem = arena_new(16384);
	struct world *w = arena_new_of(mem, struct world);

	atomic_store(&w->refs, 1);
	w->mem = mem;
	w->made_at_us = wall_us();
	w->policy_bytes = arena_str(mem, buf_as_str(&g->policy_bytes));
	if (!merge(g, w, &epoch, why) || catalogue_build(&w->cat, mem, epoch, g->models_id.version, w->models_bytes, why) != ERR_OK ||
	    policy_build(&w->pol, mem, &w->cat, g->policy_id.epoch, g->policy_id.version, w->policy_bytes, why) != ERR_OK) {
		arena_free(mem);
		return NULL;
	}
	snprintf(w->policy_version, sizeof(w->policy_version), "%llu.%llu", (unsigned long long)w->pol.epoch,
		 (unsigned long long)w->pol.version);
	take_arms(g, w);
	resolve_backends(g, w);
	w->states = arena_array(mem, struct replica_state *, w->cat.n_replicas + 1u);
	w->asked = arena_array(mem, struct str, w->cat.n_replicas + 1u);
	for (uint16_t r = 0; r < w->cat.n_replicas; r++) {
		w->states[r] = state_of(g, w, r);
		w->asked[r] = recall_model_text(w, r, mem);
	}
	for (uint16_t r = 0; r < w->cat.n_replicas; r++) {
		w->states[r]->resident = w->cat.replicas[r].pb->loaded;
		w->states[r]->loads = w->backends[w->cat.replicas[r].backend].kind == LLM_BACKEND_OLLAMA;
	}
	return w;
}

struct world *world_ref(struct world *w)
{
	atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
	return w;
}

void world_unref(struct world *w)
{
	if (w && atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) == 1)
		arena_free(w->mem);
}

void world_load(const struct world *w, struct reach reach, int64_t now_us, struct load *load)
{
	for (uint16_t i = 0; i < reach.n; i++) {
		struct replica_state *s = w->states[reach.first + i];

		load[i] = (struct load){ .in_use = slots_in_use(s),
			.slots = atomic_load_explicit(&s->slots, memory_order_relaxed),
			.queued = atomic_load_explicit(&s->queue->n, memory_order_relaxed),
			.breaker_open = breaker_is_open(&s->breaker, now_us) };
	}
}

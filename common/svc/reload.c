/* reload.c - SIGHUP: the configuration is read again into a new generation, compared, and handed to the services that can take it.
 *
 *   read + check ──error──▶ log; nothing changed
 *        └─▶ old values where an option needs a restart ──▶ each service's reload() on its thread ──▶ svc_reloaded() ──▶ the former is freed
 *
 * Main thread, but for call_reload() and svc_reloaded(). One reading at a time; a signal meanwhile is followed by one more. */
#include <stdio.h>

#include "common/data/log.h"
#include "common/svc/runtime.h"

struct handover {
	struct svc *svc;
	void *config, *before;
	bool ok;
	struct why why;
};

static void generation_drop(struct generation *g)
{
	if (!g || --g->uses > 0)
		return;
	arena_free(g->mem);
	free(g);
}

void reload_free(struct svc *s)
{
	generation_drop(s->before);
	generation_drop(s->generation);
	s->before = s->generation = NULL;
}

/* --- reading --- */

/* A second runtime, as the program would have at a start now; only its tables and values are used. */
static bool read_again(struct runtime *rt, struct runtime *next, struct why *why)
{
	*next = (struct runtime){ .name = rt->name, .summary = rt->summary, .n = rt->n, .mem = arena_new(16384) };
	next->svcs = arena_array(next->mem, struct svc, rt->n);
	for (unsigned i = 0; i < rt->n; i++)
		next->svcs[i].def = rt->svcs[i].def;
	settings_prepare(next);
	return settings_load(next, rt->argc, rt->argv, why) == ERR_OK;
}

static void tell_change(const struct opt *o, const char *owner)
{
	if (o->live)
		LOG_INFO("option changed", LOG_S("option", o->name), LOG_S("of", owner));
	else
		LOG_WARN("option changed in the configuration, but keeps its value until a restart", LOG_S("option", o->name), LOG_S("of", owner));
}

/* Puts the old value where an option is not live (as all are of a service that cannot reload). Returns how many took the new one. */
static unsigned settle(const struct opt *table, const char *owner, const void *old, void *new, struct arena *mem, bool can)
{
	unsigned changed = 0;

	for (const struct opt *o = table; o && o->name; o++) {
		bool live = o->live && can;

		if (opt_same(o, old, new))
			continue;
		tell_change(live ? o : &(struct opt){ .name = o->name }, owner);
		if (live)
			changed++;
		else
			opt_copy(o, old, new, mem);
	}
	return changed;
}

static void settle_common(struct runtime *rt, struct runtime *next, unsigned *changed)
{
	enum log_level level;

	*changed += settle(rt->options, "every program", &rt->config, &next->config, rt->mem, true);
	for (const struct opt *o = rt->options; o->name; o++)
		if (o->live && !opt_same(o, &rt->config, &next->config))
			opt_copy(o, &next->config, &rt->config, rt->mem);
	if (log_level_parse(rt->config.log_level, &level))
		atomic_store(&log_threshold, level);
}

/* --- handing over --- */

static void finished(struct runtime *rt)
{
	if (--rt->reloading > 0)
		return;
	LOG_INFO("the configuration in force is the one read last");
	if (!rt->reload_again)
		return;
	if (!rt->ending)
		reload(rt);
}

static void let_go(void *arg)
{
	struct svc *s = arg;

	generation_drop(s->before);
	s->before = NULL;
	finished(s->rt);
}

void svc_reloaded(struct svc *s) { loop_post(s->rt->loop, let_go, s); }

static void refused(void *arg)
{
	struct handover *h = arg;
	struct svc *s = h->svc;

	LOG_ERROR("the new configuration was not taken; the one before stays in force", LOG_S("of", s->def->name), LOG_S("error", h->why.text));
	s->rt->reloads_failed++;
	generation_drop(s->generation);
	s->generation = s->before;
	s->before = NULL;
	s->in_force = h->before;
	free(h);
	finished(s->rt);
}

static void call_reload(void *arg)
{
	struct handover *h = arg;
	struct svc *s = h->svc;

	s->config = h->config;
	if (s->def->reload(s, &h->why)) {
		free(h);
		return;
	}
	s->config = h->before;
	loop_post(s->rt->loop, refused, h);
}

static void hand_over(struct svc *s, void *config, struct generation *g)
{
	struct handover *h = x_calloc(1, sizeof(*h));

	*h = (struct handover){ .svc = s, .config = config, .before = s->in_force };
	s->before = s->generation;
	s->generation = g;
	s->in_force = config;
	g->uses++;
	s->rt->reloading++;
	loop_post(s->loop, call_reload, h);
}

static void apply(struct runtime *rt, struct runtime *next)
{
	struct generation *g = x_calloc(1, sizeof(*g));
	unsigned changed = 0;

	*g = (struct generation){ .mem = next->mem, .uses = 1 };
	rt->reloading = 1;
	settle_common(rt, next, &changed);
	for (unsigned i = 0; i < rt->n; i++) {
		struct svc *s = &rt->svcs[i];

		if (!s->in_force)
			s->in_force = s->config;
		changed += settle(s->def->options, s->def->name, s->in_force, next->svcs[i].config, g->mem, s->def->reload != NULL);
		if (s->def->reload)
			hand_over(s, next->svcs[i].config, g);
	}
	LOG_INFO("the configuration was read again", LOG_I("changed", changed));
	rt->reloads++;
	generation_drop(g);
	finished(rt);
}

void reload(struct runtime *rt)
{
	struct runtime next;
	struct why why = { 0 };

	if (rt->reloading) {
		rt->reload_again = true;
		return;
	}
	rt->reload_again = false;
	if (read_again(rt, &next, &why)) {
		apply(rt, &next);
		return;
	}
	LOG_ERROR("the configuration was not read; the one in force stays", LOG_S("field", why.field), LOG_S("error", why.text));
	rt->reloads_failed++;
	arena_free(next.mem);
}

/* gazette.c - see gazette.h. */
#include "services/model-registry/gazette.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/io/snapshot_file.h"
#include "events.pb-c.h"

/* What was told, and the events that told it last. */
struct told {
	struct arena *mem;
	Corral__ModelSnapshot *view;
	struct str *events;           /* packed */
	size_t n, said;
};

struct gazette {
	struct herald *herald;
	char path[1100];
	struct told told;
};

/* Fields of a CatalogueEvent. */
enum { F_MODEL = 6, F_BACKEND = 7 };

void gazette_label(struct str payload, struct bus_label *ret)
{
	bus_label_of(payload, F_MODEL, 0, ret);
	if (!ret->key.n)
		bus_label_of(payload, F_BACKEND, 0, ret);
}

static struct str pack(struct arena *mem, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = arena_alloc(mem, n + 1);

	return str_n((char *)p, protobuf_c_message_pack(m, p));
}

static char *z(struct arena *mem, const char *s) { return (char *)arena_str(mem, str_of(s)).p; }

/* --- a snapshot as it is told --- */

static const Corral__Backend *backend_of(const Corral__ModelSnapshot *s, const char *name)
{
	for (size_t i = 0; i < s->n_backends; i++)
		if (strcmp(s->backends[i]->name, name) == 0)
			return s->backends[i];
	return NULL;
}

static int order(const char *model, const char *backend, const Corral__Replica *r)
{
	int c = strcmp(model, r->model);

	return c ? c : strcmp(backend, r->backend);
}

static const Corral__Replica *replica_of(const Corral__ModelSnapshot *s, const char *model, const char *backend)
{
	size_t from = 0, to = s->n_replicas;

	while (from < to) {
		size_t at = from + (to - from) / 2;
		int c = order(model, backend, s->replicas[at]);

		if (c == 0)
			return s->replicas[at];
		*(c < 0 ? &to : &from) = c < 0 ? at : at + 1;
	}
	return NULL;
}

/* Of a backend that was not asked yet, nothing is known that was not known before. */
static void view_backend(struct arena *mem, Corral__ModelSnapshot *view, const Corral__Backend *b, const Corral__ModelSnapshot *before)
{
	const Corral__Backend *was = backend_of(before, b->name);
	Corral__Backend *to = view->backends[view->n_backends++] = arena_new_of(mem, Corral__Backend);

	corral__backend__init(to);
	to->name = z(mem, b->name);
	to->reason = z(mem, b->reason);
	to->state = b->state;
	if (b->state == CORRAL__BACKEND_STATE__BACKEND_UNKNOWN && was)
		to->state = was->state;
}

static void view_model(struct arena *mem, Corral__ModelSnapshot *view, const Corral__Model *m)
{
	Corral__Model *to = view->models[view->n_models++] = arena_new_of(mem, Corral__Model);

	corral__model__init(to);
	to->name = z(mem, m->name);
	to->digest = z(mem, m->digest);
	to->family = z(mem, m->family);
	to->parameters = z(mem, m->parameters);
	to->quantization = z(mem, m->quantization);
	to->context_length = m->context_length;
	to->size_bytes = m->size_bytes;
	to->capabilities = arena_array(mem, char *, m->n_capabilities + 1);
	for (size_t i = 0; i < m->n_capabilities; i++)
		to->capabilities[to->n_capabilities++] = z(mem, m->capabilities[i]);
}

/* What is loaded at a backend that does not answer, or was not asked yet, is not known: as it was. */
static void view_replica(struct arena *mem, Corral__ModelSnapshot *view, const Corral__Replica *r, const Corral__Backend *b, const Corral__ModelSnapshot *before)
{
	const Corral__Replica *was = replica_of(before, r->model, r->backend);
	Corral__Replica *to = view->replicas[view->n_replicas++] = arena_new_of(mem, Corral__Replica);
	bool known = b && b->state == CORRAL__BACKEND_STATE__BACKEND_UP;

	corral__replica__init(to);
	to->model = z(mem, r->model);
	to->backend = z(mem, r->backend);
	to->loaded = known ? r->loaded : was && was->loaded;
	to->size_vram_bytes = known ? r->size_vram_bytes : 0;
}

static Corral__ModelSnapshot *view_of(struct arena *mem, const Corral__ModelSnapshot *s, const Corral__ModelSnapshot *before)
{
	Corral__ModelSnapshot *view = arena_new_of(mem, Corral__ModelSnapshot);

	corral__model_snapshot__init(view);
	view->backends = arena_array(mem, Corral__Backend *, s->n_backends + 1);
	view->models = arena_array(mem, Corral__Model *, s->n_models + 1);
	view->replicas = arena_array(mem, Corral__Replica *, s->n_replicas + 1);
	for (size_t i = 0; i < s->n_backends; i++)
		view_backend(mem, view, s->backends[i], before);
	for (size_t i = 0; i < s->n_models; i++)
		view_model(mem, view, s->models[i]);
	for (size_t i = 0; i < s->n_replicas; i++)
		view_replica(mem, view, s->replicas[i], backend_of(s, s->replicas[i]->backend), before);
	return view;
}

/* --- what is new --- */

struct diff {
	const Corral__ModelSnapshot *before, *after;
	struct snapshot_id id;
	int64_t now_us;
	struct told *to;
};

static void add(struct diff *d, Corral__CatalogueEvent *e, const char *kind)
{
	struct uuid id = uuid_v7(d->now_us);

	e->event_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	e->occurred_at_us = d->now_us;
	e->kind = (char *)kind;
	e->epoch = d->id.epoch;
	e->version = d->id.version;
	d->to->events[d->to->n++] = pack(d->to->mem, &e->base);
}

static void diff_backend(struct diff *d, const Corral__Backend *b, Corral__BackendState was)
{
	static const char *const kinds[] = { [CORRAL__BACKEND_STATE__BACKEND_UP] = "backend_up", [CORRAL__BACKEND_STATE__BACKEND_DOWN] = "backend_down",
					     [CORRAL__BACKEND_STATE__BACKEND_LOADING] = "backend_loading" };
	Corral__CatalogueEvent e = CORRAL__CATALOGUE_EVENT__INIT;

	if (b->state == was || b->state == CORRAL__BACKEND_STATE__BACKEND_UNKNOWN)
		return;
	e.backend = b->name;
	if (b->state != CORRAL__BACKEND_STATE__BACKEND_UP)
		e.reason = b->reason;
	add(d, &e, kinds[b->state]);
}

static void diff_backends(struct diff *d)
{
	for (size_t i = 0; i < d->after->n_backends; i++) {
		const Corral__Backend *was = backend_of(d->before, d->after->backends[i]->name);

		diff_backend(d, d->after->backends[i], was ? was->state : CORRAL__BACKEND_STATE__BACKEND_UNKNOWN);
	}
	for (size_t i = 0; i < d->before->n_backends; i++) {
		Corral__CatalogueEvent e = CORRAL__CATALOGUE_EVENT__INIT;

		e.backend = d->before->backends[i]->name;
		if (!backend_of(d->after, e.backend) && d->before->backends[i]->state != CORRAL__BACKEND_STATE__BACKEND_UNKNOWN)
			add(d, &e, "backend_gone");
	}
}

static char *caps_text(struct arena *mem, const Corral__Model *m)
{
	const char *all = "";

	for (size_t i = 0; i < m->n_capabilities; i++)
		all = arena_printf(mem, "%s%s%s", all, i ? "," : "", m->capabilities[i]);
	return (char *)all;
}

static char *backends_text(struct arena *mem, const Corral__ModelSnapshot *s, const char *model)
{
	const char *all = "";
	size_t from = 0, to = s->n_replicas;

	while (from < to) {                       /* the first of the model */
		size_t at = from + (to - from) / 2;

		*(strcmp(s->replicas[at]->model, model) < 0 ? &from : &to) = strcmp(s->replicas[at]->model, model) < 0 ? at + 1 : at;
	}
	for (size_t i = from; i < s->n_replicas && strcmp(s->replicas[i]->model, model) == 0; i++)
		all = arena_printf(mem, "%s%s%s", all, *all ? "," : "", s->replicas[i]->backend);
	return (char *)all;
}

static Corral__CatalogueEvent event_of(struct arena *mem, const Corral__ModelSnapshot *s, const Corral__Model *m)
{
	Corral__CatalogueEvent e = CORRAL__CATALOGUE_EVENT__INIT;

	e.model = m->name;
	e.digest = m->digest;
	e.family = m->family;
	e.parameters = m->parameters;
	e.quantization = m->quantization;
	e.context_length = m->context_length;
	e.size_bytes = m->size_bytes;
	e.capabilities = caps_text(mem, m);
	e.backends = backends_text(mem, s, m->name);
	return e;
}

static const char *changed(struct arena *mem, const Corral__CatalogueEvent *a, const Corral__CatalogueEvent *b)
{
	const struct { const char *name; bool is; } fields[] = {
		{ "digest", strcmp(a->digest, b->digest) != 0 }, { "family", strcmp(a->family, b->family) != 0 },
		{ "parameters", strcmp(a->parameters, b->parameters) != 0 }, { "quantization", strcmp(a->quantization, b->quantization) != 0 },
		{ "context_length", a->context_length != b->context_length }, { "size_bytes", a->size_bytes != b->size_bytes },
		{ "capabilities", strcmp(a->capabilities, b->capabilities) != 0 }, { "backends", strcmp(a->backends, b->backends) != 0 },
	};
	const char *all = "";

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (fields[i].is)
			all = arena_printf(mem, "%s%s%s", all, *all ? "," : "", fields[i].name);
	return all;
}

static void diff_model(struct diff *d, struct arena *mem, const Corral__Model *was, const Corral__Model *is)
{
	Corral__CatalogueEvent a, b;

	if (was)
		a = event_of(mem, d->before, was);
	if (is)
		b = event_of(mem, d->after, is);
	if (!is) {
		add(d, &a, "model_gone");
	} else if (!was) {
		add(d, &b, "model_appeared");
	} else {
		b.changed = (char *)changed(mem, &a, &b);
		if (*b.changed)
			add(d, &b, "model_changed");
	}
}

/* Both sorted by name. */
static void diff_models(struct diff *d)
{
	const Corral__ModelSnapshot *x = d->before, *y = d->after;
	struct arena *mem = arena_new(4096);
	size_t i = 0, j = 0;

	while (i < x->n_models || j < y->n_models) {
		int c = i == x->n_models ? 1 : j == y->n_models ? -1 : strcmp(x->models[i]->name, y->models[j]->name);

		diff_model(d, mem, c <= 0 ? x->models[i] : NULL, c >= 0 ? y->models[j] : NULL);
		i += c <= 0;
		j += c >= 0;
		arena_reset(mem);
	}
	arena_free(mem);
}

static void add_replica(struct diff *d, const Corral__Replica *r, const char *kind)
{
	Corral__CatalogueEvent e = CORRAL__CATALOGUE_EVENT__INIT;

	e.model = r->model;
	e.backend = r->backend;
	e.size_vram_bytes = r->size_vram_bytes;
	add(d, &e, kind);
}

static void diff_replicas(struct diff *d)
{
	for (size_t i = 0; i < d->after->n_replicas; i++) {
		const Corral__Replica *is = d->after->replicas[i], *was = replica_of(d->before, is->model, is->backend);

		if (is->loaded != (was && was->loaded))
			add_replica(d, is, is->loaded ? "replica_loaded" : "replica_unloaded");
	}
	for (size_t i = 0; i < d->before->n_replicas; i++) {
		const Corral__Replica *was = d->before->replicas[i];

		if (was->loaded && !replica_of(d->after, was->model, was->backend))
			add_replica(d, was, "replica_unloaded");
	}
}

static struct told compare(const Corral__ModelSnapshot *before, const Corral__ModelSnapshot *s, struct snapshot_id id)
{
	struct told t = { .mem = arena_new(4096) };
	struct diff d = { .before = before, .id = id, .now_us = wall_us(), .to = &t };

	d.after = t.view = view_of(t.mem, s, before);
	t.events = arena_array(t.mem, struct str, before->n_backends + before->n_models + before->n_replicas + s->n_backends + s->n_models + s->n_replicas + 1);
	diff_backends(&d);
	diff_models(&d);
	diff_replicas(&d);
	return t;
}

/* --- the file, and the spool --- */

static void keep(const struct gazette *g, struct snapshot_id id)
{
	struct arena *mem = arena_new(4096);
	Corral__CatalogueKept kept = CORRAL__CATALOGUE_KEPT__INIT;

	kept.told = g->told.view;
	kept.events = arena_array(mem, ProtobufCBinaryData, g->told.n + 1);
	for (size_t i = 0; i < g->told.n; i++)
		kept.events[kept.n_events++] = (ProtobufCBinaryData){ g->told.events[i].n, (uint8_t *)(uintptr_t)g->told.events[i].p };
	if (!snapshot_file_save(g->path, "catalogue", id, pack(mem, &kept.base)))
		LOG_WARN("what was told of the catalogue cannot be kept for the next start, which will tell it again", LOG_S("path", g->path));
	arena_free(mem);
}

/* What the spool ends with was said. */
static void pass_over(struct gazette *g)
{
	struct buf last = { 0 };

	if (herald_last(g->herald, &last))
		for (size_t i = 0; i < g->told.n; i++)
			if (str_eq(g->told.events[i], buf_as_str(&last)))
				g->told.said = i + 1;
	buf_free(&last);
}

/* False: there are some left. */
static bool say(struct gazette *g)
{
	struct told *t = &g->told;

	while (t->said < t->n && herald_say(g->herald, t->events[t->said]))
		t->said++;
	return t->said == t->n;
}

static void load(struct gazette *g)
{
	struct buf bytes = { 0 };
	struct snapshot_id id;
	Corral__CatalogueKept *kept = NULL;

	g->told.mem = arena_new(4096);
	g->told.view = arena_new_of(g->told.mem, Corral__ModelSnapshot);
	corral__model_snapshot__init(g->told.view);
	if (snapshot_file_load(g->path, "catalogue", &id, &bytes))
		kept = corral__catalogue_kept__unpack(NULL, bytes.n, (const uint8_t *)bytes.p);
	if (kept && kept->told) {
		g->told.view = view_of(g->told.mem, kept->told, kept->told);
		g->told.events = arena_array(g->told.mem, struct str, kept->n_events + 1);
		for (size_t i = 0; i < kept->n_events; i++)
			g->told.events[g->told.n++] = arena_str(g->told.mem, str_n((const char *)kept->events[i].data, kept->events[i].len));
	}
	if (kept)
		corral__catalogue_kept__free_unpacked(kept, NULL);
	buf_free(&bytes);
}

struct gazette *gazette_new(struct herald *h, const char *state_dir)
{
	struct gazette *g = x_calloc(1, sizeof(*g));

	g->herald = h;
	snprintf(g->path, sizeof(g->path), "%s/catalogue.told", state_dir);
	load(g);
	return g;
}

bool gazette_hear(struct gazette *g, const Corral__ModelSnapshot *s, struct snapshot_id id)
{
	struct told next;

	if (!herald_open(g->herald))
		return false;
	if (!g->told.said && g->told.n)
		pass_over(g);                     /* it was read from the file, or nothing of it could be written yet */
	if (!say(g))
		return false;
	if (g->told.n && !herald_settled(g->herald))
		return false;                     /* the next ones take their place in the file, and a power cut would take these from the spool */
	next = compare(g->told.view, s, id);
	arena_free(g->told.mem);
	g->told = next;
	if (!next.n)
		return true;
	keep(g, id);
	return say(g);
}

void gazette_free(struct gazette *g)
{
	if (g)
		arena_free(g->told.mem);
	free(g);
}

/* catalogue.c - see catalogue.h. */
#include "common/policy/catalogue.h"

#include <stdio.h>
#include <string.h>

#include "common/policy/caps.h"

static struct str plain_name(struct str name)
{
	return str_ends(name, STR(":latest")) ? str_n(name.p, name.n - 7) : name;
}

static uint64_t name_hash(struct str name)
{
	uint64_t h = 1469598103934665603ULL;

	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];

		h = (h ^ (c >= 'A' && c <= 'Z' ? c | 0x20u : c)) * 1099511628211ULL;
	}
	return h ^ h >> 29;
}

int catalogue_model(const struct catalogue *c, struct str name)
{
	if (!c->by_name || name.n == 0)
		return -1;
	name = plain_name(name);
	for (uint64_t at = name_hash(name);; at++) {
		uint16_t slot = c->by_name[at & c->by_name_mask];

		if (!slot)
			return -1;
		if (str_ieq(plain_name(c->models[slot - 1].name), name))
			return slot - 1;
	}
}

const char *catalogue_template(const struct catalogue *c, const struct cat_model *m)
{
	return m->pb->template_at && m->pb->template_at <= c->snapshot->n_templates ? c->snapshot->templates[m->pb->template_at - 1] : "";
}

int catalogue_resolve(const struct catalogue *c, struct str name, bool *ret_alias)
{
	int m = catalogue_model(c, name);

	*ret_alias = false;
	if (m >= 0 || !c->snapshot)
		return m;
	for (size_t i = 0; i < c->snapshot->n_aliases; i++)
		if (str_ieq(str_of(c->snapshot->aliases[i]->name), name)) {
			*ret_alias = true;
			return catalogue_model(c, str_of(c->snapshot->aliases[i]->model));
		}
	return -1;
}

/* --- did you mean --- */

enum { NEAR = 3 };

/* Without who made it: people leave that out, or write another. */
static struct str bare_name(struct str name)
{
	const char *slash = NULL;

	for (size_t i = 0; i < name.n; i++)
		slash = name.p[i] == '/' ? name.p + i : slash;
	return plain_name(slash ? str_from(name, (size_t)(slash + 1 - name.p)) : name);
}

static struct str family_of(struct str name)
{
	for (size_t i = 0; i < name.n; i++)
		if (name.p[i] == ':')
			return str_n(name.p, i);
	return name;
}

/* 0 = not meant; else the smaller the nearer. The same name with another tag is near whatever the tag is. */
static unsigned farness(struct str asked, struct str known)
{
	unsigned d = str_distance(asked, known), most = asked.n < 6 ? 1 : (unsigned)(asked.n / 4);

	if (str_ieq(family_of(asked), family_of(known)))
		return 1 + d;
	return d <= most ? 20 + d : str_distance(family_of(asked), family_of(known)) <= (family_of(asked).n < 6 ? 1u : 2u) ? 40 + d : 0;
}

struct near { unsigned far; struct str name; };

static void near_add(struct near *best, struct str name, unsigned far)
{
	unsigned at = NEAR;

	while (at > 0 && (!best[at - 1].far || far < best[at - 1].far))
		at--;
	if (at == NEAR || !far)
		return;
	memmove(best + at + 1, best + at, (NEAR - 1 - at) * sizeof(*best));
	best[at] = (struct near){ far, name };
}

enum err catalogue_not_found(const struct catalogue *c, struct str name, catalogue_sees *sees, const void *asker, struct why *why)
{
	struct near best[NEAR] = { 0 };
	char meant[3 * 100] = "";
	int at = 0;

	for (uint16_t m = 0; c && m < c->n_models; m++)
		if (c->models[m].n && (!sees || sees(asker, c->models[m].name)))
			near_add(best, c->models[m].name, farness(bare_name(name), bare_name(c->models[m].name)));
	for (unsigned i = 0; i < NEAR && best[i].far && best[i].name.n < 64; i++)
		at += snprintf(meant + at, sizeof(meant) - (size_t)at, "%s'" STR_FMT "'", i ? " or " : "; did you mean ", STR_ARG(best[i].name));
	return err_field(why, ERR_MODEL_NOT_FOUND, "model", "model '%.*s' is not on any backend%s%s GET /v1/models lists what is there",
			 (int)(name.n < 96 ? name.n : 96), name.p, meant, *meant ? "?" : ";");
}

static void free_snapshot(void *p) { corral__model_snapshot__free_unpacked(p, NULL); }

static void index_names(struct catalogue *c, struct arena *a)
{
	uint32_t size = 16;

	while (size < c->n_models * 2u + 2)
		size *= 2;
	c->by_name = arena_array(a, uint16_t, size);
	c->by_name_mask = size - 1;
	for (uint16_t m = 0; m < c->n_models; m++) {
		uint64_t at = name_hash(plain_name(c->models[m].name));

		while (c->by_name[at & c->by_name_mask])
			at++;
		c->by_name[at & c->by_name_mask] = (uint16_t)(m + 1);
	}
}

static void fill_models(struct catalogue *c, struct arena *a)
{
	c->n_models = (uint16_t)c->snapshot->n_models;
	c->models = arena_array(a, struct cat_model, c->n_models + 1u);
	for (uint16_t m = 0; m < c->n_models; m++) {
		const Corral__Model *pb = c->snapshot->models[m];

		c->models[m] = (struct cat_model){ .pb = pb, .name = str_of(pb->name), .context = pb->context_length };
		for (size_t i = 0; i < pb->n_capabilities; i++)
			c->models[m].caps |= llm_cap_parse(str_of(pb->capabilities[i]));
	}
}

static void fill_backends(struct catalogue *c, struct arena *a)
{
	c->n_backends = (uint16_t)c->snapshot->n_backends;
	c->backends = arena_array(a, struct cat_backend, c->n_backends + 1u);
	for (uint16_t b = 0; b < c->n_backends; b++) {
		const Corral__Backend *pb = c->snapshot->backends[b];

		c->backends[b] = (struct cat_backend){ .pb = pb, .name = str_of(pb->name),
			.up = pb->state == CORRAL__BACKEND_STATE__BACKEND_UP || pb->state == CORRAL__BACKEND_STATE__BACKEND_UNKNOWN };
	}
}

static int backend_index(const struct catalogue *c, const char *name)
{
	for (uint16_t b = 0; b < c->n_backends; b++)
		if (str_eqz(c->backends[b].name, name))
			return b;
	return -1;
}

static enum err fill_replicas(struct catalogue *c, struct arena *a, struct why *why)
{
	c->n_replicas = (uint16_t)c->snapshot->n_replicas;
	c->replicas = arena_array(a, struct cat_replica, c->n_replicas + 1u);
	for (uint16_t r = 0; r < c->n_replicas; r++) {
		const Corral__Replica *pb = c->snapshot->replicas[r];
		int m = catalogue_model(c, str_of(pb->model)), b = backend_index(c, pb->backend);
		struct cat_model *model;

		if (m < 0 || b < 0)
			return err_set(why, ERR_MALFORMED, "replica %u names unknown model '%s' or backend '%s'", r, pb->model, pb->backend);
		model = &c->models[m];
		if (model->n && model->first + model->n != r)
			return err_set(why, ERR_MALFORMED, "replicas of model '%s' do not stand together", pb->model);
		if (!model->n)
			model->first = r;
		model->n++;
		c->replicas[r] = (struct cat_replica){ .pb = pb, .remote_name = *pb->remote_name ? pb->remote_name : pb->model,
			.model = (uint16_t)m, .backend = (uint16_t)b,
			.context = pb->context_length ? pb->context_length : model->pb->context_length,
			.slots = pb->slots ? pb->slots : 1 };
		if (c->replicas[r].context > model->context || model->n == 1)
			model->context = c->replicas[r].context;
	}
	return ERR_OK;
}

enum err catalogue_build(struct catalogue *c, struct arena *a, uint64_t epoch, uint64_t version, struct str packed, struct why *why)
{
	*c = (struct catalogue){ .epoch = epoch, .version = version };
	c->snapshot = corral__model_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
	if (!c->snapshot)
		return err_set(why, ERR_MALFORMED, "the model snapshot cannot be decoded");
	arena_defer(a, free_snapshot, c->snapshot);
	if (c->snapshot->n_models >= UINT16_MAX || c->snapshot->n_replicas >= UINT16_MAX || c->snapshot->n_backends >= UINT16_MAX)
		return err_set(why, ERR_TOO_LARGE, "the model snapshot has more than 65,534 models, replicas or backends");
	fill_backends(c, a);
	fill_models(c, a);
	index_names(c, a);
	return fill_replicas(c, a, why);
}

/* demand.c - see demand.h. */
#include "services/model-registry/demand.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024 };

struct cell {
	struct cell *next, **back;    /* of the same bucket */
	char *model, *tenant;
	uint64_t wanted;              /* at all gateways */
	unsigned n_lists;
	/* while a replica is divided */
	struct cell *next_open;       /* of those that get more with a higher level */
	bool counted;
	double need, share;
};

struct wish {
	struct cell *cell;
	uint32_t wanted;
};

struct model_demand {
	char *model;
	struct wish *wishes;
	size_t n;
	uint64_t wanted;
};

struct demands { struct cell *buckets[BUCKETS]; };

struct demands *demands_new(void) { return x_calloc(1, sizeof(struct demands)); }
void demands_free(struct demands *d) { free(d); }

/* --- what was said --- */

static struct cell *cell_get(struct demands *d, const char *model, const char *tenant)
{
	struct cell **bucket = &d->buckets[str_hash(str_of(tenant), str_hash(str_of(model), 0)) % BUCKETS], *c = *bucket;

	while (c && (strcmp(c->tenant, tenant) != 0 || strcmp(c->model, model) != 0))
		c = c->next;
	if (c)
		return c;
	c = x_calloc(1, sizeof(*c));
	c->model = x_strdup(model);
	c->tenant = x_strdup(tenant);
	c->next = *bucket;
	c->back = bucket;
	if (c->next)
		c->next->back = &c->next;
	return *bucket = c;
}

static void cell_put(struct cell *c, uint32_t wanted)
{
	c->wanted -= wanted;
	if (--c->n_lists)
		return;
	*c->back = c->next;
	if (c->next)
		c->next->back = c->back;
	free(c->model);
	free(c->tenant);
	free(c);
}

static void wishes_drop(struct model_demand *m)
{
	for (size_t i = 0; i < m->n; i++)
		cell_put(m->wishes[i].cell, m->wishes[i].wanted);
	free(m->wishes);
	free(m->model);
}

static struct model_demand *find(const struct demand_list *l, const char *model)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->models[i].model, model) == 0)
			return &l->models[i];
	return NULL;
}

static struct model_demand *room(struct demand_list *l)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 8;
		l->models = x_realloc(l->models, l->cap * sizeof(*l->models));
	}
	return &l->models[l->n++];
}

void demand_set(struct demands *d, struct demand_list *l, const Corral__ModelDemand *said)
{
	struct model_demand *m = find(l, said->model), now = { .n = said->n_tenants };

	now.wishes = x_calloc(now.n + 1, sizeof(*now.wishes));
	for (size_t i = 0; i < now.n; i++) {
		struct cell *c = cell_get(d, said->model, said->tenants[i]->tenant);

		now.wishes[i] = (struct wish){ c, said->tenants[i]->wanted };
		now.wanted += now.wishes[i].wanted;
		c->wanted += now.wishes[i].wanted;
		c->n_lists++;
	}
	now.model = x_strdup(said->model);
	if (m)
		wishes_drop(m);           /* after the new ones were taken: most cells are the same */
	else
		m = room(l);
	*m = now;
	if (!now.n) {
		wishes_drop(m);
		*m = l->models[--l->n];
	}
}

void demand_clear(struct demand_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		wishes_drop(&l->models[i]);
	free(l->models);
	*l = (struct demand_list){ 0 };
}

/* --- dividing --- */

/* What a tenant wants of this replica at one gateway: its part of what that gateway wants of it. */
static double part_of(const struct demander *d, const struct model_demand *m, const struct wish *w)
{
	return (double)d->wanted * w->wanted / (double)m->wanted;
}

static struct cell *count_in(struct cell *open, struct cell *c, double need)
{
	c->need = c->counted ? c->need + need : need;
	if (c->counted || !(need > 0))
		return open;
	c->counted = true;
	c->next_open = open;
	return c;
}

/* The same for all, and no more than each needs: who needs less than an even part share what he needs, and the rest is divided again. */
static void fill(struct cell *open, double left)
{
	bool again = true;
	unsigned n = 0;

	for (struct cell *c = open; c; c = c->next_open, n++)
		c->share = -1;
	while (again && n) {
		double each = left / n;

		again = false;
		for (struct cell *c = open; c; c = c->next_open)
			if (c->share < 0 && c->need <= each) {
				c->share = c->need;
				left -= c->need;
				n--;
				again = true;
			}
	}
	for (struct cell *c = open; c; c = c->next_open) {
		c->counted = false;
		if (c->share < 0)
			c->share = left / n;
	}
}

static const struct model_demand *said_by(const struct demander *d, const char *model)
{
	const struct model_demand *m = find(d->list, model);

	return m && m->wanted ? m : NULL;
}

void demand_divide(struct demander *who, unsigned n, const char *model, uint32_t total)
{
	struct cell *open = NULL, *nameless = x_calloc(n + 1, sizeof(*nameless));

	for (unsigned i = 0; i < n; i++) {
		const struct model_demand *m = said_by(&who[i], model);

		for (size_t k = 0; m && k < m->n; k++)
			open = count_in(open, m->wishes[k].cell, part_of(&who[i], m, &m->wishes[k]));
		if (!m)
			open = count_in(open, &nameless[i], who[i].wanted);
	}
	fill(open, total);
	for (unsigned i = 0; i < n; i++) {
		const struct model_demand *m = said_by(&who[i], model);

		who[i].due = m ? 0 : nameless[i].share;
		for (size_t k = 0; m && k < m->n; k++) {
			const struct cell *c = m->wishes[k].cell;

			if (c->need > 0)
				who[i].due += part_of(&who[i], m, &m->wishes[k]) / c->need * c->share;
		}
	}
	free(nameless);
}

/* --- what the gateways have to know --- */

static void put_part(struct arena *mem, Corral__LeaseReply *reply, const struct wish *w)
{
	Corral__TenantPart *part = arena_new_of(mem, Corral__TenantPart);
	uint64_t milli = 1000 * (uint64_t)w->wanted / w->cell->wanted;

	corral__tenant_part__init(part);
	part->model = arena_dup(mem, w->cell->model, strlen(w->cell->model));
	part->tenant = arena_dup(mem, w->cell->tenant, strlen(w->cell->tenant));
	part->milli = milli ? (uint32_t)milli : 1;
	reply->parts[reply->n_parts++] = part;
}

void demand_parts(const struct demand_list *l, struct arena *mem, Corral__LeaseReply *reply)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += l->models[i].n;
	reply->parts = arena_array(mem, Corral__TenantPart *, n + 1);
	for (size_t i = 0; i < l->n; i++)
		for (size_t k = 0; k < l->models[i].n; k++)
			if (l->models[i].wishes[k].wanted < l->models[i].wishes[k].cell->wanted)
				put_part(mem, reply, &l->models[i].wishes[k]);
}

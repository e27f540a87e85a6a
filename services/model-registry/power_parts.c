/* power_parts.c - see power_parts.h. */
#include "services/model-registry/power_parts.h"

#include <stdlib.h>
#include <string.h>

/* A replica that is in memory or in use, or was. */
struct part {
	char *backend, *model;
	uint32_t slots;
	bool in, wanted;
	int64_t changed_us;           /* when it joined, or left */
	int64_t fewer_us;             /* since when it has fewer slots than are counted; 0 = it has not */
	int64_t told_us;              /* when a gateway used it last; 0 = none did */
	const struct machine *machine;        /* of the last power_parts_make(); NULL = unknown */
};

struct machine { const char *name; int64_t milliwatts; uint64_t slots; };

struct power_parts {
	struct part *parts;
	size_t n, cap;
	struct machine *machines;
	struct machine_power *backends;
	size_t n_backends;
	int64_t now_us;
};

struct power_parts *power_parts_new(void) { return x_calloc(1, sizeof(struct power_parts)); }

static void forget_backends(struct power_parts *ps)
{
	for (size_t i = 0; i < ps->n_backends; i++)
		free((char *)(uintptr_t)ps->backends[i].backend);
	free(ps->backends);
	free(ps->machines);
	ps->n_backends = 0;
}

static void part_remove(struct power_parts *ps, size_t i)
{
	free(ps->parts[i].backend);
	free(ps->parts[i].model);
	ps->parts[i] = ps->parts[--ps->n];
}

void power_parts_free(struct power_parts *ps)
{
	if (!ps)
		return;
	while (ps->n)
		part_remove(ps, ps->n - 1);
	forget_backends(ps);
	free(ps->parts);
	free(ps);
}

static struct part *part_find(const struct power_parts *ps, const char *backend, const char *model)
{
	for (size_t i = 0; i < ps->n; i++)
		if (strcmp(ps->parts[i].model, model) == 0 && strcmp(ps->parts[i].backend, backend) == 0)
			return &ps->parts[i];
	return NULL;
}

static struct part *part_get(struct power_parts *ps, const char *backend, const char *model)
{
	struct part *p = part_find(ps, backend, model);

	if (p)
		return p;
	if (ps->n == ps->cap) {
		ps->cap = ps->cap ? ps->cap * 2 : 16;
		ps->parts = x_realloc(ps->parts, ps->cap * sizeof(*ps->parts));
	}
	p = &ps->parts[ps->n++];
	*p = (struct part){ .backend = x_strdup(backend), .model = x_strdup(model) };
	return p;
}

void power_parts_hear(struct power_parts *ps, const Corral__LeaseRequest *r, int64_t now_us)
{
	for (size_t i = 0; i < r->n_active; i++)
		part_get(ps, r->active[i]->backend, r->active[i]->model)->told_us = now_us;
}

/* --- who is counted --- */

static bool is_used(const struct part *p, int64_t now_us) { return p->told_us && now_us - p->told_us < PARTS_IN_USE_MS * INT64_C(1000); }

static bool is_over(int64_t since_us, int64_t now_us) { return now_us - since_us >= PARTS_GRACE_MS * INT64_C(1000); }

static bool is_settled(const struct part *p, int64_t now_us) { return is_over(p->changed_us, now_us); }

/* More slots are as a replica that joins, fewer as one that leaves. */
static void count_slots(struct part *p, uint32_t slots, int64_t now_us)
{
	if (slots > p->slots) {
		p->changed_us = now_us;
	} else if (slots < p->slots && p->in) {
		p->fewer_us = p->fewer_us ? p->fewer_us : now_us;
		if (!is_over(p->fewer_us, now_us))
			return;
	}
	p->slots = slots;
	p->fewer_us = 0;
}

static void note_replica(struct power_parts *ps, const Corral__Replica *r, int64_t now_us)
{
	struct part *p = r->loaded ? part_get(ps, r->backend, r->model) : part_find(ps, r->backend, r->model);

	if (!p)
		return;
	p->wanted = r->loaded || is_used(p, now_us);
	if (p->wanted)
		count_slots(p, r->slots, now_us);
}

static void join_and_leave(struct power_parts *ps, int64_t now_us)
{
	for (size_t i = ps->n; i-- > 0;) {
		struct part *p = &ps->parts[i];

		if (p->in != p->wanted) {
			p->in = p->wanted;
			p->changed_us = now_us;
		}
		if (!p->in && !is_used(p, now_us) && is_settled(p, now_us))
			part_remove(ps, i);
	}
}

/* --- the machines --- */

static struct machine *machine_of(const struct power_parts *ps, const char *backend)
{
	for (size_t i = 0; i < ps->n_backends; i++)
		if (strcmp(ps->backends[i].backend, backend) == 0)
			for (struct machine *m = ps->machines; m->name; m++)
				if (strcmp(m->name, ps->backends[i].machine) == 0)
					return m;
	return NULL;
}

/* Of two probes that are the same one the figure that came last in the list counts: they say the same. */
static void add_machine(struct power_parts *ps, const struct machine_power *b)
{
	struct machine *m = ps->machines;

	while (m->name && strcmp(m->name, b->machine) != 0)
		m++;
	*m = (struct machine){ .name = b->machine, .milliwatts = b->milliwatts };
}

static void take_backends(struct power_parts *ps, const struct machine_power *list, size_t n)
{
	forget_backends(ps);
	ps->backends = x_calloc(n + 1, sizeof(*ps->backends));
	ps->machines = x_calloc(n + 1, sizeof(*ps->machines));
	for (size_t i = 0; i < n; i++) {
		ps->backends[i] = list[i];
		ps->backends[i].backend = x_strdup(list[i].backend);
		add_machine(ps, &list[i]);
	}
	ps->n_backends = n;
}

void power_parts_make(struct power_parts *ps, const Corral__ModelSnapshot *snapshot, const struct machine_power *list, size_t n, int64_t now_us)
{
	for (size_t i = 0; i < ps->n; i++)
		ps->parts[i].wanted = false;
	for (size_t i = 0; i < snapshot->n_replicas; i++)
		note_replica(ps, snapshot->replicas[i], now_us);
	join_and_leave(ps, now_us);
	take_backends(ps, list, n);
	for (size_t i = 0; i < ps->n; i++) {
		struct part *p = &ps->parts[i];
		struct machine *m = machine_of(ps, p->backend);

		p->machine = m;
		if (m && (p->in || !is_settled(p, now_us)))
			m->slots += p->slots;
	}
	for (struct machine *m = ps->machines; m->name; m++)
		m->name = "";             /* the caller's; nobody looks for it from here on */
	ps->now_us = now_us;
}

void power_parts_put(const struct power_parts *ps, struct arena *mem, Corral__LeaseReply *reply)
{
	reply->powers = arena_array(mem, Corral__BackendPower *, ps->n_backends + 1);
	for (size_t i = 0; i < ps->n_backends; i++) {
		Corral__BackendPower *b = reply->powers[reply->n_powers++] = arena_new_of(mem, Corral__BackendPower);

		corral__backend_power__init(b);
		b->backend = (char *)(uintptr_t)ps->backends[i].backend;
		b->milliwatts = (uint64_t)ps->backends[i].milliwatts;
		b->most_milliwatts = (uint64_t)ps->backends[i].most_milliwatts;
	}
	reply->parts_of_power = arena_array(mem, Corral__SlotPower *, ps->n + 1);
	for (size_t i = 0; i < ps->n; i++) {
		const struct part *p = &ps->parts[i];
		Corral__SlotPower *part;

		if (!p->in || !p->machine || !p->machine->slots || !is_settled(p, ps->now_us))
			continue;
		part = reply->parts_of_power[reply->n_parts_of_power++] = arena_new_of(mem, Corral__SlotPower);
		corral__slot_power__init(part);
		part->backend = p->backend;
		part->model = p->model;
		part->microwatts = (uint64_t)p->machine->milliwatts * 1000 / p->machine->slots;
	}
}

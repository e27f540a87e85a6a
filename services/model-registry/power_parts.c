/* power_parts.c - see power_parts.h. */
#include "services/model-registry/power_parts.h"

#include <stdlib.h>
#include <string.h>

/* What a gateway said that it has in use of a replica. */
struct use { uint8_t gateway[16]; uint32_t n; int64_t told_us; };

/* A replica that is in memory or in use, or was. */
struct part {
	char *backend, *model;
	char *where;                  /* the machine it was on when that was known last; NULL = never */
	int64_t lost_us;              /* since when that is not known any more; 0 = it is */
	bool left;                    /* what is still counted there of a backend that is elsewhere now */
	uint32_t slots;
	struct use *uses;
	size_t n_uses;
	bool in, wanted;
	int64_t changed_us;           /* when it joined, or left */
	int64_t fewer_us;             /* since when it has fewer slots than are counted; 0 = it has not */
	uint32_t fewer;               /* the most that it had since */
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
	free(ps->parts[i].where);
	free(ps->parts[i].uses);
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
		if (!ps->parts[i].left && strcmp(ps->parts[i].model, model) == 0 && strcmp(ps->parts[i].backend, backend) == 0)
			return &ps->parts[i];
	return NULL;
}

static struct part *part_add(struct power_parts *ps, const char *backend, const char *model)
{
	struct part *p;

	if (ps->n == ps->cap) {
		ps->cap = ps->cap ? ps->cap * 2 : 16;
		ps->parts = x_realloc(ps->parts, ps->cap * sizeof(*ps->parts));
	}
	p = &ps->parts[ps->n++];
	*p = (struct part){ .backend = x_strdup(backend), .model = x_strdup(model) };
	return p;
}

static struct part *part_get(struct power_parts *ps, const char *backend, const char *model)
{
	struct part *p = part_find(ps, backend, model);

	return p ? p : part_add(ps, backend, model);
}

static bool is_over(int64_t since_us, int64_t now_us) { return now_us - since_us >= PARTS_GRACE_MS * INT64_C(1000); }

/* --- the power's peak --- */

void power_peak_note(struct power_peak *p, int64_t milliwatts, int64_t now_us)
{
	const int64_t half_hour_us = INT64_C(1800000000);
	int64_t turns = p->since_us ? (now_us - p->since_us) / half_hour_us : 2;

	if (turns) {
		p->before_mw = turns == 1 ? p->now_mw : 0;
		p->now_mw = 0;
		p->since_us = now_us;
	}
	p->now_mw = milliwatts > p->now_mw ? milliwatts : p->now_mw;
}

int64_t power_peak_of(const struct power_peak *p) { return p->now_mw > p->before_mw ? p->now_mw : p->before_mw; }

/* --- what is in use --- */

/* One that is not heard for so long adds no energy any more. */
static uint32_t in_use(const struct part *p, int64_t now_us)
{
	uint64_t n = 0;

	for (size_t i = 0; i < p->n_uses; i++)
		n += is_over(p->uses[i].told_us, now_us) ? 0 : p->uses[i].n;
	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static void forget_uses(struct part *p, const uint8_t *gateway, int64_t now_us)
{
	for (size_t i = p->n_uses; i-- > 0;)
		if (memcmp(p->uses[i].gateway, gateway, sizeof(p->uses[i].gateway)) == 0 || is_over(p->uses[i].told_us, now_us))
			p->uses[i] = p->uses[--p->n_uses];
}

/* More than is counted with: it has no part until that was counted for long enough. */
static void add_use(struct part *p, const uint8_t *gateway, uint32_t n, int64_t now_us)
{
	struct use *u;

	p->uses = x_realloc(p->uses, (p->n_uses + 1) * sizeof(*p->uses));
	u = &p->uses[p->n_uses++];
	memcpy(u->gateway, gateway, sizeof(u->gateway));
	u->n = n;
	u->told_us = now_us;
	if (in_use(p, now_us) > p->slots)
		p->changed_us = now_us;
}

void power_parts_hear(struct power_parts *ps, const Corral__LeaseRequest *r, int64_t now_us)
{
	uint8_t gateway[16] = { 0 };

	if (r->gateway.len)
		memcpy(gateway, r->gateway.data, r->gateway.len < sizeof(gateway) ? r->gateway.len : sizeof(gateway));
	for (size_t i = 0; i < ps->n; i++)
		forget_uses(&ps->parts[i], gateway, now_us);
	for (size_t i = 0; i < r->n_active; i++) {
		struct part *p = part_get(ps, r->active[i]->backend, r->active[i]->model);

		p->told_us = now_us;
		if (r->active[i]->in_use)
			add_use(p, gateway, r->active[i]->in_use, now_us);
	}
}

/* --- who is counted --- */

static bool is_used(const struct part *p, int64_t now_us) { return p->told_us && now_us - p->told_us < PARTS_IN_USE_MS * INT64_C(1000); }

static bool is_settled(const struct part *p, int64_t now_us) { return is_over(p->changed_us, now_us); }

static void begin_fewer(struct part *p, uint32_t slots, int64_t now_us)
{
	p->fewer_us = slots < p->slots ? now_us : 0;
	p->fewer = slots;
}

/* More slots are as a replica that joins, fewer as one that leaves: counted until it had no more for as long as that. */
static void count_slots(struct part *p, uint32_t slots, int64_t now_us)
{
	if (slots >= p->slots || (!p->in && is_settled(p, now_us))) {
		p->changed_us = slots > p->slots ? now_us : p->changed_us;
		p->slots = slots;
		p->fewer_us = 0;
		return;
	}
	if (!p->fewer_us)
		begin_fewer(p, slots, now_us);
	p->fewer = slots > p->fewer ? slots : p->fewer;
	if (is_over(p->fewer_us, now_us)) {
		p->slots = p->fewer;
		begin_fewer(p, slots, now_us);
	}
}

static void note_replica(struct power_parts *ps, const Corral__Replica *r, int64_t now_us)
{
	struct part *p = r->loaded ? part_get(ps, r->backend, r->model) : part_find(ps, r->backend, r->model);
	uint32_t used;

	if (!p)
		return;
	used = in_use(p, now_us);
	p->wanted = r->loaded || is_used(p, now_us);
	if (p->wanted)
		count_slots(p, used > r->slots ? used : r->slots, now_us);
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

static const char *place_of(const struct power_parts *ps, const char *backend)
{
	for (size_t i = 0; i < ps->n_backends; i++)
		if (strcmp(ps->backends[i].backend, backend) == 0)
			return ps->backends[i].machine;
	return NULL;
}

static struct machine *machine_of(const struct power_parts *ps, const struct part *p)
{
	for (struct machine *m = ps->machines; p->where && m->name; m++)
		if (strcmp(m->name, p->where) == 0)
			return m;
	return NULL;
}

static void leave_behind(struct power_parts *ps, size_t i, int64_t now_us)
{
	struct part *rest = part_add(ps, ps->parts[i].backend, ps->parts[i].model), *p = &ps->parts[i];

	rest->left = true;
	rest->slots = p->slots;
	rest->where = p->where;
	rest->lost_us = p->lost_us ? p->lost_us : now_us;
	rest->changed_us = now_us;
	p->where = NULL;
}

/* A machine of which nothing is heard for a moment keeps those that are on it; after that, and on another one, they join anew. */
static void find_place(struct power_parts *ps, size_t i, int64_t now_us)
{
	const char *name = ps->parts[i].left ? NULL : place_of(ps, ps->parts[i].backend), *was = ps->parts[i].where;
	struct part *p;

	if (name && was && strcmp(was, name) != 0)
		leave_behind(ps, i, now_us);
	p = &ps->parts[i];
	if (!name) {
		p->lost_us = p->lost_us ? p->lost_us : now_us;
		return;
	}
	if (!p->where || (p->lost_us && is_over(p->lost_us, now_us)))
		p->changed_us = now_us;
	if (!p->where)
		p->where = x_strdup(name);
	p->lost_us = 0;
}

static bool is_lost(const struct part *p, int64_t now_us) { return p->lost_us && is_over(p->lost_us, now_us); }

/* Of several probes on a machine the one counts that came last in the list. */
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
	for (size_t i = 0, before = ps->n; i < before; i++)
		find_place(ps, i, now_us);
	for (size_t i = 0; i < ps->n; i++) {
		struct part *p = &ps->parts[i];
		struct machine *m = machine_of(ps, p);

		p->machine = p->lost_us ? NULL : m;
		if (m && !is_lost(p, now_us) && (p->in || !is_settled(p, now_us)))
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

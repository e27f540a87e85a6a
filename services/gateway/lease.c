/* lease.c - see lease.h; the other side is services/model-registry/slots.c. */
#include "services/gateway/lease.h"

#include <stdlib.h>
#include <sys/random.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "models.pb-c.h"
#include "services/gateway/replicas.h"
#include "services/gateway/sharers.h"

enum {
	ALONE_US = 250 * 1000, SHARED_US = 100 * 1000,
	PAUSE_US = 20 * 1000,         /* between two reports, however much changes */
	DEADLINE_MS = 1000, FIRST_DEADLINE_MS = 500,
	SILENT_US = 2000 * 1000, SILENT_CALLS = 3,    /* then it goes on by itself */
	VALID_US = 1200 * 1000,       /* longer than a report takes, shorter than the registry's lease */
	STOOD_US = 500 * 1000
};

struct lease {
	struct gateway *gw;
	struct loop_timer timer;
	uint8_t id[16];
	uint64_t seq, epoch;
	bool calling, again;          /* a report is on its way; another is wanted after it */
	bool whole;                   /* the next report says everything */
	bool alone, on_its_own, leaving;
	bool had_parts;               /* some tenant waits at other gateways too */
	unsigned failures;
	uint32_t gateways;            /* that share the backends, as the registry said last; also on disk */
	int64_t called_us, heard_us;
};

static void send_report(struct loop_timer *);

/* --- how many share, for a start without the registry --- */

static const char *const count_file = "gateways";

static void save_gateways(struct lease *l, uint32_t n)
{
	if (n == l->gateways)
		return;
	l->gateways = n;
	sharers_save(l->gw, count_file, n);
}

/* --- life --- */

static void on_change(void *arg);

struct lease *lease_new(struct gateway *g)
{
	struct lease *l = x_calloc(1, sizeof(*l));

	l->gw = g;
	if (getrandom(l->id, sizeof(l->id), 0) != (ssize_t)sizeof(l->id))
		abort();
	l->gateways = sharers_load(l->gw, count_file);
	l->heard_us = mono_us();
	replica_table_lend(g->replicas, on_change, l);
	send_report(&l->timer);
	return l;
}

void lease_free(struct lease *l)
{
	if (!l)
		return;
	loop_timer_del(&l->timer);
	free(l);
}

void lease_renew(struct lease *l)
{
	int64_t wait = l->called_us + PAUSE_US - mono_us();

	if (l->calling)
		l->again = true;
	else
		loop_timer_set(l->gw->loop, &l->timer, wait > 0 ? wait : 0, send_report);
}

void lease_leave(struct lease *l)
{
	l->leaving = true;
	lease_renew(l);
}

static void renew(void *arg) { lease_renew(arg); }

/* A worker's thread. */
static void on_change(void *arg)
{
	struct lease *l = arg;

	loop_post(l->gw->loop, renew, l);
}

/* --- reporting --- */

static bool changed(const struct replica_state *s, uint32_t held, uint32_t wanted)
{
	return !s->claimed || s->claimed_held != held || s->claimed_wanted != wanted || s->claimed_total != s->total;
}

/* in_use is read after the lease was applied, so that 'held' cannot be exceeded before the next one (replicas.c, still_ours()). */
static void claim(struct lease *l, struct arena *mem, struct replica_state *s, Corral__LeaseRequest *r)
{
	uint32_t slots = atomic_load(&s->slots), in_use = atomic_load(&s->in_use), held = in_use > slots ? in_use : slots;
	uint32_t wanted = in_use + atomic_load(&s->queue->n);
	Corral__SlotClaim *claim;

	if (!l->whole && !changed(s, held, wanted))
		return;
	s->claimed = true;
	s->claimed_held = held;
	s->claimed_wanted = wanted;
	s->claimed_total = s->total;
	claim = arena_new_of(mem, Corral__SlotClaim);
	corral__slot_claim__init(claim);
	claim->backend = s->backend;
	claim->model = s->model;
	claim->held = held;
	claim->wanted = wanted;
	claim->total = s->cloud ? s->total : 0;
	r->claims[r->n_claims++] = claim;
}

static void put_claims(struct lease *l, struct arena *mem, Corral__LeaseRequest *r)
{
	size_t n = 1;

	for (struct replica_state *s = replica_table_first(l->gw->replicas); s; s = s->next)
		n++;
	r->claims = arena_array(mem, Corral__SlotClaim *, n);
	for (struct replica_state *s = replica_table_first(l->gw->replicas); s; s = s->next)
		claim(l, mem, s, r);
}

struct demand { struct arena *mem; Corral__ModelDemand *model; size_t cap; };

static void put_tenant(void *arg, struct str tenant, uint32_t wanted)
{
	struct demand *d = arg;
	Corral__TenantDemand *t = arena_new_of(d->mem, Corral__TenantDemand), **more;

	corral__tenant_demand__init(t);
	t->tenant = arena_dup(d->mem, tenant.p, tenant.n);
	t->wanted = wanted;
	if (d->model->n_tenants == d->cap) {
		d->cap = d->cap ? d->cap * 2 : 8;
		more = arena_array(d->mem, Corral__TenantDemand *, d->cap);
		if (d->model->n_tenants)
			memcpy(more, d->model->tenants, d->model->n_tenants * sizeof(Corral__TenantDemand *));
		d->model->tenants = more;
	}
	d->model->tenants[d->model->n_tenants++] = t;
}

/* Who wants the slots, beside how many are wanted. */
static void put_demands(struct lease *l, struct arena *mem, Corral__LeaseRequest *r)
{
	size_t n = 1;

	for (struct model_queue *q = replica_table_queues(l->gw->replicas); q; q = q->next)
		n++;
	r->demands = arena_array(mem, Corral__ModelDemand *, n);
	for (struct model_queue *q = replica_table_queues(l->gw->replicas); q; q = q->next) {
		struct demand d = { mem, arena_new_of(mem, Corral__ModelDemand), 0 };
		uint64_t changes;

		corral__model_demand__init(d.model);
		d.model->model = q->model;
		changes = queue_demand(q, put_tenant, &d);
		if (l->whole ? d.model->n_tenants > 0 : changes != q->claimed_changes)
			r->demands[r->n_demands++] = d.model;
		q->claimed_changes = changes;
	}
}

/* Also where all slots are this gateway's: the registry looks after the engines by it. */
static void put_active(struct lease *l, struct arena *mem, Corral__LeaseRequest *r)
{
	int64_t now = mono_us();
	size_t n = 1;

	for (struct replica_state *s = replica_table_first(l->gw->replicas); s; s = s->next)
		n++;
	r->active = arena_array(mem, Corral__SlotActivity *, n);
	for (struct replica_state *s = replica_table_first(l->gw->replicas); s; s = s->next) {
		int64_t heard = atomic_load(&s->heard_us), since = atomic_load(&s->busy_since_us), last = heard > since ? heard : since;
		uint32_t in_use = atomic_load(&s->in_use);
		Corral__SlotActivity *a;

		if (s->cloud || (!in_use && last <= l->called_us))
			continue;
		a = arena_new_of(mem, Corral__SlotActivity);
		corral__slot_activity__init(a);
		a->backend = s->backend;
		a->model = s->model;
		a->in_use = in_use;
		a->quiet_ms = now > last ? (uint64_t)(now - last) / 1000 : 0;
		a->load_wait_ms = (uint64_t)(slot_load_wait_us(s, now) + 999) / 1000;
		r->active[r->n_active++] = a;
	}
}

static void on_reply(const Corral__LeaseReply *, void *arg);

static void send_report(struct loop_timer *t)
{
	struct lease *l = (struct lease *)(void *)((char *)t - offsetof(struct lease, timer));
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	struct arena *mem = arena_new(0);

	r.gateway = (ProtobufCBinaryData){ sizeof(l->id), l->id };
	r.seq = ++l->seq;
	r.epoch = l->epoch;
	r.whole = l->whole && !l->alone;
	r.leaving = l->leaving;
	replica_table_told(l->gw->replicas);
	if (!l->alone && (l->epoch || r.whole)) {
		put_claims(l, mem, &r);
		put_demands(l, mem, &r);
	}
	put_active(l, mem, &r);
	l->calling = true;
	l->again = false;
	l->called_us = mono_us();
	rpc_deadline(l->gw->registry, l->epoch ? DEADLINE_MS : FIRST_DEADLINE_MS);
	corral__slots__lease(rpc_stub(l->gw->registry, &corral__slots__descriptor), &r, on_reply, l);
	rpc_deadline(l->gw->registry, 5000);
	arena_free(mem);
}

/* --- what comes back --- */

static void apply_parts(struct lease *l, const Corral__LeaseReply *reply)
{
	struct tenant_part *parts = x_calloc(reply->n_parts + 1, sizeof(*parts));

	for (size_t i = 0; i < reply->n_parts; i++)
		parts[i] = (struct tenant_part){ reply->parts[i]->model, reply->parts[i]->tenant, reply->parts[i]->milli };
	if (reply->n_parts || l->had_parts)
		replica_table_parts(l->gw->replicas, parts, reply->n_parts);
	l->had_parts = reply->n_parts > 0;
	free(parts);
}

static void apply_turns(struct lease *l, const Corral__LeaseReply *reply)
{
	struct replica_turn *turns = x_calloc(reply->n_turns + 1, sizeof(*turns));

	for (size_t i = 0; i < reply->n_turns; i++)
		turns[i] = (struct replica_turn){ reply->turns[i]->backend, reply->turns[i]->model };
	replica_table_turns(l->gw->replicas, turns, reply->n_turns);
	free(turns);
}

static void apply_powers(struct lease *l, const Corral__LeaseReply *reply)
{
	struct replica_power *list = x_calloc(reply->n_parts_of_power + 1, sizeof(*list));

	for (size_t i = 0; i < reply->n_parts_of_power; i++)
		list[i] = (struct replica_power){ reply->parts_of_power[i]->backend, reply->parts_of_power[i]->model, reply->parts_of_power[i]->microwatts };
	replica_table_powers(l->gw->replicas, list, reply->n_parts_of_power, l->called_us, mono_us());
	free(list);
}

static void apply_most_power(struct lease *l, const Corral__LeaseReply *reply)
{
	struct machine_most *list = x_calloc(reply->n_powers + 1, sizeof(*list));

	for (size_t i = 0; i < reply->n_powers; i++)
		list[i] = (struct machine_most){ reply->powers[i]->backend, reply->powers[i]->most_milliwatts };
	replica_table_most_power(l->gw->replicas, list, reply->n_powers, mono_us());
	free(list);
}

static void apply(struct lease *l, const Corral__LeaseReply *reply)
{
	struct replica_table *t = l->gw->replicas;

	if (l->alone != (bool)reply->everything) {
		LOG_INFO(reply->everything ? "all slots are this gateway's" : "the slots are shared with other gateways", LOG_I("gateways", reply->gateways));
		l->alone = reply->everything;
		if (l->alone)
			replica_table_own(t);
		else
			replica_table_share(t);
	}
	for (size_t i = 0; i < reply->n_grants; i++)
		replica_lease(t, reply->grants[i]->backend, reply->grants[i]->model, reply->grants[i]->slots);
	apply_parts(l, reply);
	apply_turns(l, reply);
	apply_powers(l, reply);
	apply_most_power(l, reply);
	replica_table_valid(t, l->called_us + VALID_US);
}

/* A lease of none would mean that nobody is served here until the registry is back. */
static void go_on(struct lease *l)
{
	for (struct replica_state *s = replica_table_first(l->gw->replicas); s; s = s->next) {
		uint32_t slots = atomic_load(&s->slots), mine = l->epoch ? slots : s->total / l->gateways;

		replica_lease_set(s, mine ? mine : 1);
	}
}

static bool silent(const struct lease *l, int64_t now_us)
{
	return !l->epoch || (now_us - l->heard_us > SILENT_US && l->failures >= SILENT_CALLS);
}

static void unheard(struct lease *l)
{
	int64_t now = mono_us();

	l->whole = true;
	replica_table_turns(l->gw->replicas, NULL, 0);    /* nobody would say when they are over */
	if (now - l->called_us > DEADLINE_MS * 1000 + STOOD_US)
		return;                   /* it was this process that stood still: others may have its slots */
	l->failures++;
	if (silent(l, now) && !l->alone) {
		if (!l->on_its_own)
			LOG_WARN("the model-registry is not heard; what it lent last stays in force", LOG_I("gateways", l->gateways));
		l->on_its_own = true;
		go_on(l);
	}
	replica_table_valid(l->gw->replicas, now + SHARED_US + VALID_US);
}

static void heard(struct lease *l, const Corral__LeaseReply *reply)
{
	if (l->on_its_own)
		LOG_INFO("the model-registry is heard again");
	l->on_its_own = false;
	l->failures = 0;
	l->heard_us = mono_us();
	l->epoch = reply->epoch;
	l->whole = reply->ask_whole;
	l->again |= reply->ask_whole;
	save_gateways(l, reply->gateways);
	apply(l, reply);
}

/* Some of what was lent cannot be used at once, or some of what is in use is to be given back: then the next report is not far. */
static bool unsettled(const struct lease *l, const Corral__LeaseReply *reply) { return !l->alone && reply && reply->n_grants > 0; }

static void on_reply(const Corral__LeaseReply *reply, void *arg)
{
	struct lease *l = arg;

	l->calling = false;
	if (reply)
		heard(l, reply);
	else
		unheard(l);
	if (reply && (l->again || unsettled(l, reply)))
		lease_renew(l);
	else
		loop_timer_set(l->gw->loop, &l->timer, l->alone ? ALONE_US : SHARED_US, send_report);
}

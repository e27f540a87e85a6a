/* remote.c - see remote.h. */
#include "services/gateway/remote.h"

#include "common/base/clock.h"
#include "services/gateway/ask.h"

enum { REST_US = 1000 * 1000, TRIES = 2 };

struct question {
	enum step (*then)(struct req *, bool by_selector);
	struct str packed;            /* DecideRequest */
	int64_t deadline_ms;
	enum why_local { NOT_LOCAL, LOCAL_AWAY, LOCAL_LATE, LOCAL_OTHER_SNAPSHOT, LOCAL_REFUSED } local;
	struct snapshot_id policy, experiments;
};

static const struct { const char *label, *text; } whys[] = {
	[NOT_LOCAL] = { "", "" },
	[LOCAL_AWAY] = { "away", "the selector is away" },
	[LOCAL_LATE] = { "late", "the selector did not answer in time" },
	[LOCAL_OTHER_SNAPSHOT] = { "other_snapshot", "the selector had another model snapshot" },
	[LOCAL_REFUSED] = { "refused", "the selector's answer could not be used" },
};

static void note(struct req *r, enum why_local why)
{
	struct metrics *m = r->worker->gw->metrics;

	r->not_asked = whys[why].text;
	if (why == NOT_LOCAL)
		series_inc(metrics_series(m, M_REMOTE_DECISIONS));
	else
		series_inc(metrics_series(m, M_LOCAL_DECISIONS, whys[why].label));
}

/* --- worker: the question --- */

static void put_load(struct req *r, struct arena *mem, Corral__LoadVector *v)
{
	v->first = r->pick_reach.first;
	v->replicas = arena_array(mem, Corral__ReplicaLoad *, r->pick_reach.n + 1u);
	for (uint16_t i = 0; i < r->pick_reach.n; i++) {
		Corral__ReplicaLoad *l = v->replicas[v->n_replicas++] = arena_new_of(mem, Corral__ReplicaLoad);

		corral__replica_load__init(l);
		l->in_use = r->pick_load[i].in_use;
		l->slots = r->pick_load[i].slots;
		l->queued = r->pick_load[i].queued;
		l->breaker_open = r->pick_load[i].breaker_open;
	}
}

static struct str pack(struct req *r, struct arena *mem)
{
	Corral__DecideRequest q = CORRAL__DECIDE_REQUEST__INIT;
	Corral__LoadVector load = CORRAL__LOAD_VECTOR__INIT;
	uint16_t n = r->world->cat.n_replicas;
	uint8_t *to;

	put_load(r, mem, &load);
	q.features = &r->features;
	q.load = &load;
	q.models_epoch = r->world->cat.epoch;
	q.models_version = r->world->cat.version;
	q.tried = arena_array(mem, protobuf_c_boolean, n + 1u);
	for (q.n_tried = 0; r->tried && q.n_tried < n; q.n_tried++)
		q.tried[q.n_tried] = r->tried[q.n_tried];
	to = arena_alloc(mem, corral__decide_request__get_packed_size(&q));
	return str_n((char *)to, corral__decide_request__pack(&q, to));
}

static void call(struct ask *);
static enum step use(struct req *, struct ask *);

enum step remote_decide(struct req *r, enum step (*then)(struct req *, bool))
{
	struct gateway *g = r->worker->gw;
	int64_t left_ms = (r->deadline_us - req_now(r)) / 1000, most_ms = g->cfg->decide_timeout;
	struct question *q;
	struct ask *a;

	if (!rpc_connected(g->selector) || atomic_load(&g->selector_rest_us) > mono_us()) {
		note(r, rpc_connected(g->selector) ? LOCAL_LATE : LOCAL_AWAY);
		return STEP_NEXT;
	}
	a = ask_new(r, call);
	a->query = q = arena_new_of(a->mem, struct question);
	a->then = use;
	*q = (struct question){ .then = then, .packed = pack(r, a->mem), .deadline_ms = left_ms < most_ms ? left_ms : most_ms };
	return ask_send(a);
}

/* --- control thread: the call --- */

static void on_reply(const Corral__DecideReply *reply, void *arg)
{
	struct ask *a = arg;
	struct question *q = a->query;
	const struct why *why = reply ? NULL : rpc_error(a->gw->selector);

	if (reply) {
		buf_add(&a->body, reply->decision.data, reply->decision.len);
		q->policy = (struct snapshot_id){ reply->policy_epoch, reply->policy_version };
		q->experiments = (struct snapshot_id){ reply->experiments_epoch, reply->experiments_version };
	} else if (why->code == ERR_CONFLICT) {
		q->local = LOCAL_OTHER_SNAPSHOT;
	} else if (why->code == ERR_DEADLINE) {
		q->local = LOCAL_LATE;
		atomic_store(&a->gw->selector_rest_us, mono_us() + REST_US);
	} else {
		q->local = why->code == ERR_UNAVAILABLE ? LOCAL_AWAY : LOCAL_REFUSED;
	}
	ask_done(a);
}

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

static void call(struct ask *a)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, a->mem };
	struct question *q = a->query;
	Corral__DecideRequest *request = corral__decide_request__unpack(&alloc, q->packed.n, (const uint8_t *)q->packed.p);
	int64_t before = rpc_deadline(a->gw->selector, q->deadline_ms);

	rpc_tries(a->gw->selector, TRIES);
	corral__selector__decide(rpc_stub(a->gw->selector, &corral__selector__descriptor), request, on_reply, a);
	(void)rpc_deadline(a->gw->selector, before);
}

/* --- worker: the answer --- */

static enum step use(struct req *r, struct ask *a)
{
	struct question *q = a->query;
	bool theirs = q->local == NOT_LOCAL && decision_unpack(&r->pick, r->mem, buf_as_str(&a->body), r->world->cat.n_replicas);

	note(r, theirs ? NOT_LOCAL : q->local ? q->local : LOCAL_REFUSED);
	if (theirs) {
		r->policy_id = q->policy;
		r->experiments_id = q->experiments;
	}
	return q->then(r, theirs);
}

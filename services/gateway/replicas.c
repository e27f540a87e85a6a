/* replicas.c - see replicas.h. */
#include "services/gateway/replicas.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "services/gateway/slot_bank.h"

enum { BUCKETS = 4096, UNKNOWN_SERVICE_US = 100000 };

struct replica_table {
	struct replica_state *buckets[BUCKETS];
	struct replica_state *states;
	struct model_queue *queues;
	struct metrics *metrics;
	struct slot_bank *bank;       /* NULL: nobody else counts */
	unsigned mine;                /* the column of it */
	void (*on_change)(void *arg);         /* NULL: no leases, everything is ours */
	void *on_change_arg;
	uint64_t powers;              /* calls of replica_table_powers() */
	_Atomic bool shared, told;
	_Atomic int64_t valid_until_us;
};

static void hand_over(struct replica_state *);

struct replica_table *replica_table_new(struct metrics *m)
{
	struct replica_table *t = x_calloc(1, sizeof(*t));

	t->metrics = m;
	return t;
}

void replica_table_free(struct replica_table *t)
{
	if (!t)
		return;
	while (t->states) {
		struct replica_state *s = t->states;

		t->states = s->next;
		pthread_mutex_destroy(&s->breaker.lock);
		free(s);
	}
	while (t->queues) {
		struct model_queue *q = t->queues;

		t->queues = q->next;
		list_each_safe(it, &q->flows)
			free(list_entry(it, struct flow, node));
		pthread_mutex_destroy(&q->lock);
		free(q);
	}
	free(t);
}

static struct model_queue *queue_get(struct replica_table *t, struct str model)
{
	struct model_queue *q;

	for (q = t->queues; q; q = q->next)
		if (str_eqz(model, q->model))
			return q;
	q = x_calloc(1, sizeof(*q));
	str_copy(q->model, sizeof(q->model), model);
	pthread_mutex_init(&q->lock, NULL);
	list_init(&q->flows);
	q->table = t;
	q->m_queued = metrics_series(t->metrics, M_QUEUED, q->model);
	q->next = t->queues;
	t->queues = q;
	return q;
}

static void make_series(struct replica_table *t, struct replica_state *s)
{
	const char *m = s->model, *b = s->backend;

	s->m_slots = metrics_series(t->metrics, M_SLOTS, m, b);
	s->m_in_use = metrics_series(t->metrics, M_IN_USE, m, b);
	s->m_breaker = metrics_series(t->metrics, M_BREAKER, m, b);
	s->m_ok = metrics_series(t->metrics, M_ATTEMPTS, m, b, "ok");
	s->m_error = metrics_series(t->metrics, M_ATTEMPTS, m, b, "error");
	s->m_cancelled = metrics_series(t->metrics, M_ATTEMPTS, m, b, "cancelled");
	s->m_first_token = metrics_series(t->metrics, M_FIRST_TOKEN_SECONDS, m, b);
	s->m_prompt_tokens = metrics_series(t->metrics, M_TOKENS, m, b, "input");
	s->m_completion_tokens = metrics_series(t->metrics, M_TOKENS, m, b, "output");
	s->m_cost = metrics_series(t->metrics, M_COST, m, b);
	s->m_energy = metrics_series(t->metrics, M_ENERGY, m, b);
}

static struct replica_state **bucket_of(struct replica_table *t, struct str backend, struct str model)
{
	return &t->buckets[str_hash(model, str_hash(backend, 0)) % BUCKETS];
}

static struct replica_state *find(struct replica_table *t, struct str backend, struct str model)
{
	struct replica_state *s = *bucket_of(t, backend, model);

	while (s && !(str_eqz(model, s->model) && str_eqz(backend, s->backend)))
		s = s->same_bucket;
	return s;
}

static void stop_meter(struct replica_state *s, int64_t now_us)
{
	meter_set(&s->meter, 0, now_us, now_us);
	s->powered = false;
}

static struct replica_state *get(struct replica_table *t, struct str backend, struct str model, uint32_t slots, bool cloud)
{
	struct replica_state *s = find(t, backend, model), **bucket = bucket_of(t, backend, model);

	if (!s) {
		s = x_calloc(1, sizeof(*s));
		str_copy(s->model, sizeof(s->model), model);
		str_copy(s->backend, sizeof(s->backend), backend);
		breaker_init(&s->breaker);
		s->queue = queue_get(t, model);
		s->cloud = cloud;
		s->table = t;
		s->row = t->bank ? slot_bank_row(t->bank, backend, model) : NULL;
		make_series(t, s);
		s->same_bucket = *bucket;
		*bucket = s;
		s->next = t->states;
		t->states = s;
	}
	if (s->powered && slots > s->total)
		stop_meter(s, mono_us());         /* the part that is known is one of fewer slots */
	s->total = slots;
	if (!atomic_load(&t->shared))
		replica_lease_set(s, slots);
	return s;
}

struct replica_state *replica_state_get(struct replica_table *t, struct str backend, struct str model, uint32_t slots)
{
	return get(t, backend, model, slots, false);
}

struct replica_state *replica_state_get_cloud(struct replica_table *t, struct str backend, struct str model, uint32_t slots)
{
	return get(t, backend, model, slots, true);
}

/* --- together with a predecessor or successor --- */

void replica_table_bank(struct replica_table *t, struct slot_bank *b)
{
	t->bank = b;
	t->mine = slot_bank_mine(b);
}

void replica_table_look(struct replica_table *t)
{
	for (struct replica_state *s = t->states; s; s = s->next)
		hand_over(s);
}

static uint32_t others(const struct replica_state *s) { return s->row ? slot_row_others(s->row, s->table->mine) : 0; }

uint32_t slots_in_use(const struct replica_state *s) { return atomic_load_explicit(&s->in_use, memory_order_relaxed) + others(s); }

static uint32_t give_back(struct replica_state *s)
{
	if (s->row)
		atomic_fetch_sub(&s->row->in_use[s->table->mine], 1);
	return atomic_fetch_sub(&s->in_use, 1);
}

/* --- leases --- */

void replica_table_lend(struct replica_table *t, void (*on_change)(void *), void *arg)
{
	t->on_change = on_change;
	t->on_change_arg = arg;
	atomic_store(&t->shared, true);
}

void replica_table_told(struct replica_table *t) { atomic_store(&t->told, false); }

void replica_table_own(struct replica_table *t)
{
	atomic_store(&t->shared, false);
	for (struct replica_state *s = t->states; s; s = s->next)
		replica_lease_set(s, s->total);
	replica_table_parts(t, NULL, 0);
}

void replica_table_share(struct replica_table *t) { atomic_store(&t->shared, true); }

bool replica_table_shared(const struct replica_table *t) { return atomic_load_explicit(&t->shared, memory_order_relaxed); }

void replica_lease_set(struct replica_state *s, uint32_t slots)
{
	atomic_store(&s->slots, slots);
	hand_over(s);                     /* there may be more than before */
}

void replica_lease(struct replica_table *t, const char *backend, const char *model, uint32_t slots)
{
	struct replica_state *s = find(t, str_of(backend), str_of(model));

	if (s)
		replica_lease_set(s, slots);
}

void replica_table_valid(struct replica_table *t, int64_t until_us)
{
	bool lapsed = atomic_exchange(&t->valid_until_us, until_us) < mono_us();

	for (struct replica_state *s = lapsed ? t->states : NULL; s; s = s->next)
		hand_over(s);
}

struct replica_state *replica_table_first(struct replica_table *t) { return t->states; }
struct model_queue *replica_table_queues(struct replica_table *t) { return t->queues; }

static void changed(struct replica_table *t)
{
	if (t->on_change && atomic_load_explicit(&t->shared, memory_order_relaxed) && !atomic_exchange(&t->told, true))
		t->on_change(t->on_change_arg);
}

void replica_table_sweep(struct replica_table *t, int64_t now_us)
{
	for (struct replica_state *s = t->states; s; s = s->next) {
		series_set(s->m_slots, atomic_load_explicit(&s->slots, memory_order_relaxed));
		series_set(s->m_in_use, atomic_load_explicit(&s->in_use, memory_order_relaxed));
		series_set(s->m_breaker, breaker_state(&s->breaker, now_us));
	}
	for (struct model_queue *q = t->queues; q; q = q->next)
		series_set(q->m_queued, atomic_load_explicit(&q->n, memory_order_relaxed));
}

/* A lease that shrank in the same moment is seen either here, and the slot goes back, or by who reads in_use after shrinking it. Of two
 * programs that take the last one at once at least one sees the other. */
static bool still_ours(struct replica_state *s)
{
	if (s->row)
		atomic_fetch_add(&s->row->in_use[s->table->mine], 1);
	if (atomic_load(&s->in_use) + others(s) <= atomic_load(&s->slots))
		return true;
	(void)give_back(s);
	return false;
}

bool slot_take(struct replica_state *s)
{
	uint32_t now = atomic_load_explicit(&s->in_use, memory_order_relaxed);
	bool shared = atomic_load_explicit(&s->table->shared, memory_order_relaxed);

	if (atomic_load_explicit(&s->held, memory_order_relaxed))
		return false;
	if (shared && atomic_load_explicit(&s->table->valid_until_us, memory_order_relaxed) < mono_us())
		return false;
	while (now + others(s) < atomic_load_explicit(&s->slots, memory_order_relaxed))
		if (atomic_compare_exchange_weak(&s->in_use, &now, now + 1))
			return still_ours(s);
	return false;
}

/* --- turns of the models of a backend --- */

static bool is_held(const struct replica_state *s, const struct replica_turn *turns, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(turns[i].backend, s->backend) == 0 && strcmp(turns[i].model, s->model) != 0)
			return true;
	return false;
}

void replica_table_turns(struct replica_table *t, const struct replica_turn *turns, size_t n)
{
	for (struct replica_state *s = t->states; s; s = s->next) {
		bool held = n && is_held(s, turns, n);

		if (atomic_exchange(&s->held, held) && !held)
			hand_over(s);
	}
}

/* --- power --- */

/* A machine of a hundred kilowatts is a mistake of somebody's, and no meter runs over. */
#define MOST_UW UINT64_C(100000000000)
#define MOST_KEPT_US INT64_C(60000000)

void replica_table_powers(struct replica_table *t, const struct replica_power *list, size_t n, int64_t asked_us, int64_t now_us)
{
	t->powers++;
	for (size_t i = 0; i < n; i++) {
		struct replica_state *s = find(t, str_of(list[i].backend), str_of(list[i].model));

		if (!s || list[i].microwatts > MOST_UW)
			continue;
		meter_set(&s->meter, (int64_t)list[i].microwatts, now_us, asked_us + METER_HOLD_US);
		s->power_told = t->powers;
		s->powered = true;
	}
	for (struct replica_state *s = t->states; s; s = s->next)
		if (s->powered && s->power_told != t->powers)
			stop_meter(s, now_us);
}

static void set_most(struct replica_state *s, const struct machine_most *list, size_t n, int64_t now_us)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].milliwatts > MOST_UW / 1000 || strcmp(s->backend, list[i].backend) != 0)
			continue;
		atomic_store_explicit(&s->meter.most_uw, (int64_t)list[i].milliwatts * 1000 / (s->total ? s->total : 1), memory_order_relaxed);
		s->most_told_us = now_us;
	}
	if (s->most_told_us && now_us - s->most_told_us > MOST_KEPT_US) {
		atomic_store_explicit(&s->meter.most_uw, 0, memory_order_relaxed);
		s->most_told_us = 0;
	}
}

void replica_table_most_power(struct replica_table *t, const struct machine_most *list, size_t n, int64_t now_us)
{
	for (struct replica_state *s = t->states; s; s = s->next)
		set_most(s, list, n, now_us);
}

void slot_asked(struct replica_state *s, int64_t now_us)
{
	if (atomic_fetch_add(&s->unanswered, 1) == 0)
		atomic_store(&s->unanswered_us, now_us);
}

void slot_answered(struct replica_state *s, int64_t now_us)
{
	atomic_store(&s->unanswered_us, now_us);
	atomic_fetch_sub(&s->unanswered, 1);
}

int64_t slot_load_wait_us(const struct replica_state *s, int64_t now_us)
{
	int64_t wait = now_us - atomic_load(&s->unanswered_us);

	return s->loads && !s->resident && atomic_load(&s->unanswered) ? wait > 0 ? wait : 1 : 0;
}

/* --- tenants in a queue; all under its lock --- */

static struct flow *flow_find(struct model_queue *q, struct str tenant)
{
	list_each(it, &q->flows) {
		struct flow *f = list_entry(it, struct flow, node);

		if (str_eq(tenant, str_n(f->name, f->name_n)))
			return f;
	}
	return NULL;
}

/* Who waits no more and is not ahead of the others is forgotten. */
static void flows_forget(struct model_queue *q)
{
	list_each_safe(it, &q->flows) {
		struct flow *f = list_entry(it, struct flow, node);

		if (f->n || f->in_use || f->clock_us > q->clock_us)
			continue;
		list_del(&f->node);
		free(f);
	}
}

static struct flow *flow_get(struct model_queue *q, struct str tenant)
{
	struct flow *f = flow_find(q, tenant);

	if (!f) {
		flows_forget(q);
		f = x_calloc(1, sizeof(*f) + tenant.n);
		list_init(&f->waiters);
		memcpy(f->name, tenant.p, tenant.n);
		f->name_n = tenant.n;
		list_push(&q->flows, &f->node);
	}
	return f;
}

/* Who comes back starts where the others are: time that nobody asked for is not saved up. */
static void flow_start(struct model_queue *q, struct flow *f)
{
	if (f->clock_us < q->clock_us)
		f->clock_us = q->clock_us;
}

static void flow_push(struct model_queue *q, struct flow *f, struct waiter *w)
{
	if (f->n++ == 0) {
		q->n_busy++;
		flow_start(q, f);
	}
	q->changes++;
	w->flow = f;
	w->seq = ++q->seq;
	w->queued = true;
	list_push(&f->waiters, &w->node);
	atomic_fetch_add(&q->n, 1);
}

static void flow_remove(struct model_queue *q, struct waiter *w)
{
	list_del(&w->node);
	w->queued = false;
	q->changes++;
	if (--w->flow->n == 0)
		q->n_busy--;
	atomic_fetch_sub(&q->n, 1);
}

static bool wants(const struct waiter *w, const struct replica_state *s)
{
	for (unsigned i = 0; i < w->n_wants; i++)
		if (w->wants[i] == s)
			return true;
	return false;
}

/* The oldest of the tenant that can use a slot of s. */
static struct waiter *first_for(const struct flow *f, const struct replica_state *s)
{
	list_each(it, &f->waiters) {
		struct waiter *w = list_entry(it, struct waiter, node);

		if (wants(w, s))
			return w;
	}
	return NULL;
}

static struct waiter *next_for(const struct model_queue *q, const struct replica_state *s)
{
	struct waiter *best = NULL;

	list_each(it, &q->flows) {
		const struct flow *f = list_entry(it, struct flow, node);
		struct waiter *w;

		if (!f->n || (best && f->clock_us > best->flow->clock_us))
			continue;
		w = first_for(f, s);
		if (w && (!best || f->clock_us < best->flow->clock_us || w->seq < best->seq))
			best = w;
	}
	return best;
}

static int64_t scaled(const struct flow *f, int64_t us) { return f->milli ? us * 1000 / f->milli : us; }

/* What the slot will take is not known yet: as long as they usually take; queue_settle() corrects it. */
static int64_t charge(struct model_queue *q, struct flow *f, const struct replica_state *s)
{
	int64_t us = atomic_load_explicit(&s->service_us, memory_order_relaxed);

	us = us > 0 ? us : UNKNOWN_SERVICE_US;
	if (f->clock_us > q->clock_us)
		q->clock_us = f->clock_us;
	f->clock_us += scaled(f, us);
	f->in_use++;
	q->changes++;
	return us;
}

static void uncharge(struct model_queue *q, struct flow *f, int64_t more_us)
{
	f->clock_us += scaled(f, more_us);
	f->in_use -= f->in_use > 0;
	q->changes++;
}

void queue_settle(struct model_queue *q, struct str tenant, int64_t more_us)
{
	struct flow *f;

	pthread_mutex_lock(&q->lock);
	f = flow_find(q, tenant);
	if (f)
		uncharge(q, f, more_us);
	pthread_mutex_unlock(&q->lock);
}

/* --- tenants at several gateways --- */

static uint32_t part_in(const struct tenant_part *parts, size_t n, const char *model, const struct flow *f)
{
	for (size_t i = 0; i < n; i++)
		if (str_eqz(str_n(f->name, f->name_n), parts[i].tenant) && strcmp(parts[i].model, model) == 0)
			return parts[i].milli;
	return 0;
}

void replica_table_parts(struct replica_table *t, const struct tenant_part *parts, size_t n)
{
	for (struct model_queue *q = t->queues; q; q = q->next) {
		pthread_mutex_lock(&q->lock);
		list_each(it, &q->flows) {
			struct flow *f = list_entry(it, struct flow, node);

			f->milli = part_in(parts, n, q->model, f);
		}
		pthread_mutex_unlock(&q->lock);
	}
}

uint64_t queue_demand(struct model_queue *q, void (*each)(void *arg, struct str tenant, uint32_t wanted), void *arg)
{
	uint64_t changes;

	pthread_mutex_lock(&q->lock);
	list_each(it, &q->flows) {
		struct flow *f = list_entry(it, struct flow, node);

		if (f->n + f->in_use)
			each(arg, str_n(f->name, f->name_n), f->n + f->in_use);
	}
	changes = q->changes;
	pthread_mutex_unlock(&q->lock);
	return changes;
}

/* --- waiting --- */

static void not_wanted(struct waiter *w, struct replica_state *s)
{
	pthread_mutex_lock(&w->queue->lock);
	uncharge(w->queue, w->flow, -w->charged_us);
	pthread_mutex_unlock(&w->queue->lock);
	slot_free(s, 0);
}

static void deliver(void *arg)
{
	struct waiter *w = arg;
	struct replica_state *s = w->got;
	struct req *r = w->req;

	if (r)
		w->granted(r, s);
	else if (s)
		not_wanted(w, s);
	free(w);
}

/* Under the queue's lock: who is to have a slot of s, with the slot taken for it. */
static struct waiter *pop(struct model_queue *q, struct replica_state *s)
{
	struct waiter *w = next_for(q, s);

	if (!w || !slot_take(s))
		return NULL;
	flow_remove(q, w);
	w->charged_us = charge(q, w->flow, s);
	w->got = s;
	return w;
}

/* Gives the free slots of s to those who wait for them. */
static void hand_over(struct replica_state *s)
{
	struct waiter *w = NULL;

	while (atomic_load(&s->queue->n)) {
		pthread_mutex_lock(&s->queue->lock);
		w = pop(s->queue, s);
		pthread_mutex_unlock(&s->queue->lock);
		if (!w)
			return;
		loop_post(w->loop, deliver, w);
	}
}

static void smooth(struct replica_state *s, int64_t held_us)
{
	int64_t was = atomic_load_explicit(&s->service_us, memory_order_relaxed);

	if (held_us > 0)
		atomic_store_explicit(&s->service_us, was ? was + (held_us - was) / 8 : held_us, memory_order_relaxed);
}

void slot_free(struct replica_state *s, int64_t held_us)
{
	uint32_t before;

	smooth(s, held_us);
	before = give_back(s);
	hand_over(s);
	if (before > atomic_load_explicit(&s->slots, memory_order_relaxed))
		changed(s->table);        /* another gateway may have it now */
}

/* Under the queue's lock: somebody else waits for the same slots. */
static bool is_behind(const struct model_queue *q, const struct replica_state *s)
{
	list_each(it, &q->flows)
		if (first_for(list_entry(it, struct flow, node), s))
			return true;
	return false;
}

/* A slot may be free that nobody will hand over: freed since the caller looked, or of no use to those who wait. */
static struct replica_state *take_now(const struct model_queue *q, struct replica_state **want, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (atomic_load(&want[i]->in_use) < atomic_load(&want[i]->slots) && !is_behind(q, want[i]) && slot_take(want[i]))
			return want[i];
	return NULL;
}

/* The queue is full: whose place a tenant may have that has less than its part of them. The newest of the one who has most. */
static struct waiter *to_displace(const struct model_queue *q, const struct flow *mine, uint32_t max)
{
	const struct flow *most = NULL;

	list_each(it, &q->flows) {
		const struct flow *f = list_entry(it, struct flow, node);

		if (!most || f->n > most->n)
			most = f;
	}
	if (!most || most == mine || most->n <= mine->n + 1 || mine->n >= max / (q->n_busy + (mine->n == 0)))
		return NULL;
	return list_entry(most->waiters.prev, struct waiter, node);
}

/* Under the queue's lock. NULL: there is no room. */
static struct waiter *enqueue(struct model_queue *q, struct str tenant, uint32_t max, struct waiter **ret_displaced)
{
	struct flow *f = flow_get(q, tenant);
	struct waiter *w;

	if (atomic_load(&q->n) > max) {           /* the one who joins is counted */
		*ret_displaced = to_displace(q, f, max);
		if (!*ret_displaced)
			return NULL;
		flow_remove(q, *ret_displaced);
	}
	w = x_calloc(1, sizeof(*w));
	flow_push(q, f, w);
	return w;
}

static int64_t charge_now(struct model_queue *q, struct str tenant, const struct replica_state *s)
{
	struct flow *f = flow_get(q, tenant);

	flow_start(q, f);
	return charge(q, f, s);
}

struct waiter *queue_join(struct model_queue *q, struct str tenant, struct req *r, struct loop *loop, struct replica_state **want, unsigned n, uint32_t max,
			  void (*granted)(struct req *, struct replica_state *), struct replica_state **ret_now, int64_t *ret_charged_us)
{
	struct waiter *w = NULL, *displaced = NULL;

	if (ret_charged_us)
		*ret_charged_us = 0;
	pthread_mutex_lock(&q->lock);
	atomic_fetch_add(&q->n, 1);               /* before looking for a slot: who frees one from now on sees that somebody waits */
	*ret_now = take_now(q, want, n);
	if (!*ret_now)
		w = enqueue(q, tenant, max, &displaced);
	else if (ret_charged_us && replica_table_shared(q->table))
		*ret_charged_us = charge_now(q, tenant, *ret_now);
	atomic_fetch_sub(&q->n, 1);
	if (w) {
		w->queue = q;
		w->loop = loop;
		w->req = r;
		w->granted = granted;
		w->wants = want;
		w->n_wants = n;
	}
	pthread_mutex_unlock(&q->lock);
	if (displaced)
		loop_post(displaced->loop, deliver, displaced);
	if (w)
		changed(q->table);
	return w;
}

void queue_leave(struct waiter *w)
{
	bool queued;

	if (!w)
		return;
	pthread_mutex_lock(&w->queue->lock);
	queued = w->queued;
	if (queued) {
		flow_remove(w->queue, w);
	} else {
		w->req = NULL;            /* a slot is on its way: deliver() frees both */
	}
	pthread_mutex_unlock(&w->queue->lock);
	if (queued)
		free(w);
}

/* Those who are before one more of this tenant: of every other tenant as many as of its own, or all it has. */
static uint32_t before(struct model_queue *q, struct str tenant)
{
	uint32_t n = 0, mine = 0;
	struct flow *own;

	pthread_mutex_lock(&q->lock);
	own = flow_find(q, tenant);
	mine = own ? own->n : 0;
	list_each(it, &q->flows) {
		const struct flow *f = list_entry(it, struct flow, node);

		n += f == own || f->n < mine + 1 ? f->n : mine + 1;
	}
	pthread_mutex_unlock(&q->lock);
	return n;
}

int64_t queue_predict_us(struct replica_state **want, unsigned n, struct str tenant)
{
	double rate = 0;
	uint32_t queued = n && atomic_load(&want[0]->queue->n) ? before(want[0]->queue, tenant) : 0;

	for (unsigned i = 0; i < n; i++) {
		int64_t us = atomic_load_explicit(&want[i]->service_us, memory_order_relaxed);

		if (us > 0)
			rate += atomic_load(&want[i]->slots) / (double)us;
	}
	return rate > 0 ? (int64_t)((queued + 1) / rate) : 0;
}

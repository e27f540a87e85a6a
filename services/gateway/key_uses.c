/* key_uses.c - see key_uses.h. */
#include "services/gateway/key_uses.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/data/log.h"
#include "services/gateway/door.h"

enum { EVERY_US = 5 * 1000 * 1000, AT_ONCE = 2000, MOST = 200000 };
static const int64_t minute_us = 60 * 1000000;

struct use { char id[APIKEY_ID + 1]; int64_t at_us; };

struct key_uses {
	struct gateway *gw;
	struct loop_timer timer;
	pthread_mutex_t lock;         /* of what follows */
	struct use *uses;
	size_t n, cap, sent;          /* 'sent' of them, the first ones, are with access; more come behind them */
	bool calling;                 /* the control thread's */
};

void key_uses_note(struct key_uses *u, const struct ring_key *k, int64_t wall_us)
{
	int64_t minute = wall_us / minute_us;
	_Atomic int64_t *was = k ? (_Atomic int64_t *)&k->used_minute : NULL;       /* the one thing of a key that changes */

	if (!u || !k || atomic_load_explicit(was, memory_order_relaxed) >= minute || atomic_exchange(was, minute) >= minute)
		return;
	pthread_mutex_lock(&u->lock);
	if (u->n == u->cap && u->cap < MOST) {
		u->cap = u->cap ? 2 * u->cap : 64;
		u->uses = x_realloc(u->uses, u->cap * sizeof(*u->uses));
	}
	if (u->n < u->cap) {
		str_copy(u->uses[u->n].id, sizeof(u->uses->id), k->e.name);
		u->uses[u->n++].at_us = minute * minute_us;
	}
	pthread_mutex_unlock(&u->lock);
}

/* --- the control side --- */

static void tick(struct loop_timer *t)
{
	struct key_uses *u = (struct key_uses *)(void *)((char *)t - offsetof(struct key_uses, timer));

	loop_timer_set(u->gw->loop, t, EVERY_US, tick);
	key_uses_tell(u);
}

struct key_uses *key_uses_new(struct gateway *g)
{
	struct key_uses *u = x_calloc(1, sizeof(*u));

	u->gw = g;
	pthread_mutex_init(&u->lock, NULL);
	loop_timer_set(g->loop, &u->timer, EVERY_US, tick);
	return u;
}

void key_uses_free(struct key_uses *u)
{
	if (!u)
		return;
	loop_timer_del(&u->timer);
	pthread_mutex_destroy(&u->lock);
	free(u->uses);
	free(u);
}

/* Copied, because workers add to the list meanwhile. */
static void take(struct key_uses *u, struct arena *mem, Corral__KeyUses *q)
{
	pthread_mutex_lock(&u->lock);
	u->sent = u->n < AT_ONCE ? u->n : AT_ONCE;
	q->uses = arena_array(mem, Corral__KeyUse *, u->sent + 1);
	for (; q->n_uses < u->sent; q->n_uses++) {
		Corral__KeyUse *use = q->uses[q->n_uses] = arena_alloc(mem, sizeof(*use));

		corral__key_use__init(use);
		use->id = arena_dup(mem, u->uses[q->n_uses].id, strlen(u->uses[q->n_uses].id));
		use->at_us = u->uses[q->n_uses].at_us;
	}
	pthread_mutex_unlock(&u->lock);
}

static void on_done(const Corral__Done *, void *arg);

void key_uses_tell(struct key_uses *u)
{
	Corral__KeyUses q = CORRAL__KEY_USES__INIT;
	struct arena *mem;

	if (!u || u->calling)
		return;
	mem = arena_new(0);
	take(u, mem, &q);
	if (q.n_uses) {
		u->calling = true;
		corral__access__used(rpc_stub(u->gw->door->access, &corral__access__descriptor), &q, on_done, u);
	}
	arena_free(mem);
}

static void on_done(const Corral__Done *reply, void *arg)
{
	struct key_uses *u = arg;
	bool more;

	u->calling = false;
	if (!reply) {
		LOG_DEBUG("when keys were used cannot be told now", LOG_I("keys", u->sent));
		return;                   /* again with the next tick */
	}
	pthread_mutex_lock(&u->lock);
	u->n -= u->sent;
	memmove(u->uses, u->uses + u->sent, u->n * sizeof(*u->uses));
	more = u->n >= AT_ONCE;
	pthread_mutex_unlock(&u->lock);
	if (more)
		key_uses_tell(u);
}

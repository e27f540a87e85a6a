/* cache_memory.c - the part of the cache that is in this process. Shards with a lock each; a look-up copies nothing.
 *
 * Eviction is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023): what is new goes into a small
 * queue of a tenth of the bytes; from its end goes on into the main queue what was asked for meanwhile, the rest leaves and only a
 * mark of it stays ("ghost"). What comes again while its mark is there goes into the main queue at once, whose end gives each entry that was asked
 * for another round. So a scan of things that are asked for once passes through the tenth and takes nothing else away. */
#include "common/store/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/list.h"

enum { SHARDS = 16, BUCKETS_MIN = 64, ASKED_MAX = 3, GHOSTS_MIN = 64 };

struct entry {
	struct entry *next;           /* in its bucket */
	struct list node;             /* in its queue, the newest first */
	struct cached *value;
	uint64_t hash;
	uint8_t asked;                /* since it came, ASKED_MAX at most */
	bool main;
};

struct shard {
	pthread_mutex_t lock;
	struct entry **buckets;
	size_t n_buckets;             /* a power of two */
	struct list small, main;
	size_t small_bytes, main_bytes;
	size_t n, n_main;
	uint64_t evictions;
	/* marks of what left the small queue: each at a place of its hash, with the moment at which it left */
	struct { uint32_t mark, left_at; } *ghosts;
	size_t n_ghosts;              /* a power of two */
	uint32_t leavings;
};

struct cache_memory {
	size_t shard_bytes, max_entry;
	struct shard shards[SHARDS];
};

/* Keys are hashes already. */
static uint64_t hash_of(const uint8_t key[CACHE_KEY_BYTES])
{
	uint64_t h;

	memcpy(&h, key, sizeof(h));
	return h;
}

static size_t weight(const struct cached *c) { return sizeof(struct entry) + sizeof(*c) + c->n; }
static struct shard *shard_of(struct cache_memory *m, uint64_t hash) { return &m->shards[hash & (SHARDS - 1)]; }
static struct entry **bucket_of(struct shard *s, uint64_t hash) { return &s->buckets[(hash >> 4) & (s->n_buckets - 1)]; }

/* --- values --- */

struct cached *cached_new(const uint8_t key[CACHE_KEY_BYTES], int64_t stored_us, int64_t expires_us, struct str bytes)
{
	struct cached *c = x_malloc(sizeof(*c) + bytes.n);

	atomic_init(&c->refs, 1);
	atomic_init(&c->note, NULL);
	memcpy(c->key, key, CACHE_KEY_BYTES);
	c->stored_us = stored_us;
	c->expires_us = expires_us;
	c->n = bytes.n;
	if (bytes.n)
		memcpy(c->bytes, bytes.p, bytes.n);
	return c;
}

struct cached *cached_ref(struct cached *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void cached_unref(struct cached *c)
{
	if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1) {
		free(atomic_load_explicit(&c->note, memory_order_relaxed));
		free(c);
	}
}

void cached_note(struct cached *c, void *note)
{
	void *none = NULL;

	if (!atomic_compare_exchange_strong_explicit(&c->note, &none, note, memory_order_acq_rel, memory_order_relaxed))
		free(note);
}

/* --- marks --- */

static uint32_t mark_of(uint64_t hash) { return (uint32_t)(hash >> 32) | 1; }

static void leave_mark(struct shard *s, uint64_t hash)
{
	size_t at = (hash >> 8) & (s->n_ghosts - 1);

	s->ghosts[at].mark = mark_of(hash);
	s->ghosts[at].left_at = ++s->leavings;
}

/* Marks are remembered for as many leavings as the main queue has entries. */
static bool take_mark(struct shard *s, uint64_t hash)
{
	size_t at = (hash >> 8) & (s->n_ghosts - 1), most = s->n_main > GHOSTS_MIN ? s->n_main : GHOSTS_MIN;
	bool there = s->ghosts[at].mark == mark_of(hash) && s->leavings - s->ghosts[at].left_at < most;

	if (there)
		s->ghosts[at].mark = 0;
	return there;
}

/* --- the table --- */

static void grow(struct shard *s)
{
	struct entry **old = s->buckets;
	size_t n_old = s->n_buckets;

	if (s->n < 2 * s->n_buckets)
		return;
	s->n_buckets *= 2;
	s->buckets = x_calloc(s->n_buckets, sizeof(*s->buckets));
	for (size_t i = 0; i < n_old; i++)
		for (struct entry *e = old[i], *next; e; e = next) {
			struct entry **b = bucket_of(s, e->hash);

			next = e->next;
			e->next = *b;
			*b = e;
		}
	free(old);
	if (s->n_ghosts < s->n_buckets) {         /* marks are hints: those there are may go */
		free(s->ghosts);
		s->n_ghosts = s->n_buckets;
		s->ghosts = x_calloc(s->n_ghosts, sizeof(*s->ghosts));
	}
}

static struct entry **find(struct shard *s, uint64_t hash, const uint8_t key[CACHE_KEY_BYTES])
{
	struct entry **at = bucket_of(s, hash);

	while (*at && ((*at)->hash != hash || memcmp((*at)->value->key, key, CACHE_KEY_BYTES) != 0))
		at = &(*at)->next;
	return at;
}

static void enqueue(struct shard *s, struct entry *e, bool in_main)
{
	e->main = in_main;
	e->asked = 0;
	list_push_front(in_main ? &s->main : &s->small, &e->node);
	*(in_main ? &s->main_bytes : &s->small_bytes) += weight(e->value);
	s->n_main += in_main;
}

static void dequeue(struct shard *s, struct entry *e)
{
	list_del(&e->node);
	*(e->main ? &s->main_bytes : &s->small_bytes) -= weight(e->value);
	s->n_main -= e->main;
}

static void drop(struct shard *s, struct entry *e)
{
	struct entry **at = find(s, e->hash, e->value->key);

	*at = e->next;
	dequeue(s, e);
	s->n--;
	cached_unref(e->value);
	free(e);
}

/* --- eviction --- */

static void evict_small(struct shard *s)
{
	struct entry *e = list_entry(s->small.prev, struct entry, node);

	if (e->asked) {
		dequeue(s, e);
		enqueue(s, e, true);
		return;
	}
	leave_mark(s, e->hash);
	drop(s, e);
	s->evictions++;
}

static void evict_main(struct shard *s)
{
	struct entry *e = list_entry(s->main.prev, struct entry, node);
	uint8_t left = e->asked;

	if (!left) {
		drop(s, e);
		s->evictions++;
		return;
	}
	dequeue(s, e);
	enqueue(s, e, true);
	e->asked = (uint8_t)(left - 1);
}

static void make_room(struct cache_memory *m, struct shard *s)
{
	while (s->small_bytes + s->main_bytes > m->shard_bytes)
		if (!list_empty(&s->small) && (s->small_bytes > m->shard_bytes / 10 || list_empty(&s->main)))
			evict_small(s);
		else
			evict_main(s);
}

/* --- the cache --- */

struct cache_memory *cache_memory_new(size_t max_bytes)
{
	struct cache_memory *m = x_calloc(1, sizeof(*m));

	m->shard_bytes = max_bytes / SHARDS;
	m->max_entry = max_bytes / SHARDS / 4;     /* so that one value cannot empty its shard */
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &m->shards[i];

		pthread_mutex_init(&s->lock, NULL);
		list_init(&s->small);
		list_init(&s->main);
		s->n_buckets = BUCKETS_MIN;
		s->buckets = x_calloc(s->n_buckets, sizeof(*s->buckets));
		s->n_ghosts = GHOSTS_MIN;
		s->ghosts = x_calloc(s->n_ghosts, sizeof(*s->ghosts));
	}
	return m;
}

void cache_memory_free(struct cache_memory *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &m->shards[i];

		while (!list_empty(&s->small))
			drop(s, list_entry(s->small.next, struct entry, node));
		while (!list_empty(&s->main))
			drop(s, list_entry(s->main.next, struct entry, node));
		free(s->buckets);
		free(s->ghosts);
		pthread_mutex_destroy(&s->lock);
	}
	free(m);
}

struct cached *cache_memory_get(struct cache_memory *m, const uint8_t key[CACHE_KEY_BYTES], int64_t now_us)
{
	uint64_t hash = hash_of(key);
	struct shard *s = shard_of(m, hash);
	struct cached *got = NULL;
	struct entry *e;

	pthread_mutex_lock(&s->lock);
	e = *find(s, hash, key);
	if (e && e->value->expires_us <= now_us) {
		drop(s, e);
	} else if (e) {
		e->asked += e->asked < ASKED_MAX;
		got = cached_ref(e->value);
	}
	pthread_mutex_unlock(&s->lock);
	return got;
}

void cache_memory_put(struct cache_memory *m, struct cached *c)
{
	uint64_t hash = hash_of(c->key);
	struct shard *s = shard_of(m, hash);
	struct entry *e;

	if (weight(c) > m->max_entry)
		return;
	pthread_mutex_lock(&s->lock);
	if ((e = *find(s, hash, c->key)))
		drop(s, e);
	grow(s);
	e = x_calloc(1, sizeof(*e));
	e->hash = hash;
	e->value = cached_ref(c);
	e->next = *bucket_of(s, hash);
	*bucket_of(s, hash) = e;
	s->n++;
	enqueue(s, e, take_mark(s, hash));
	make_room(m, s);
	pthread_mutex_unlock(&s->lock);
}

void cache_memory_figures(const struct cache_memory *m, struct cache_figures *f)
{
	*f = (struct cache_figures){ 0 };
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = (struct shard *)&m->shards[i];

		pthread_mutex_lock(&s->lock);
		f->bytes += s->small_bytes + s->main_bytes;
		f->entries += s->n;
		f->evictions += s->evictions;
		pthread_mutex_unlock(&s->lock);
	}
}

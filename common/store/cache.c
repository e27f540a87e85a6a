/* cache.c - see cache.h: the memory in front, the store behind it, deadlines between them. */
#include "common/store/cache.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/store/cache_driver.h"

struct cache {
	struct cache_memory *memory;
	const struct cache_driver *driver;    /* NULL: there is only the memory */
	void *shared;
	char *url;
	int64_t lookup_us;
	_Atomic uint64_t *events;
};

struct cache_seat {
	struct cache *cache;
	struct loop *loop;
	struct cache_far *far;
	bool closing;
};

/* A question that the driver has. It outlives who asked. */
struct cache_pending {
	struct cache_seat *seat;
	struct cache_ask *ask;        /* NULL: nobody waits any more */
	uint8_t key[CACHE_KEY_BYTES];
};

static const struct cache_driver *const drivers[] = { &cache_redis, &cache_redis_unix, &cache_sqlite };

static bool is_memory(const char *url) { return strcmp(url, "memory:") == 0 || strcmp(url, "memory") == 0; }

static const struct cache_driver *driver_of(const char *url)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++) {
		size_t n = strlen(drivers[i]->scheme);

		if (strncmp(url, drivers[i]->scheme, n) == 0 && url[n] == ':')
			return drivers[i];
	}
	return NULL;
}

bool cache_url_check(const char *url, struct why *why)
{
	const struct cache_driver *d = driver_of(url);

	if (is_memory(url))
		return true;
	if (d)
		return d->check(url, why);
	err_set(why, ERR_INVALID, "the cache is none of memory:, sqlite:PATH, redis://HOST, redis+unix:///PATH and off");
	return false;
}

/* --- values as they lie in a store: a mark, the key, two times, the bytes --- */

enum { MARK = 0x43524332, HEAD = 4 + CACHE_KEY_BYTES + 8 + 8 };

static void put_u64(char *to, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		to[i] = (char)(v >> (56 - 8 * i));
}

static uint64_t get_u64(const char *from)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v = v << 8 | (uint8_t)from[i];
	return v;
}

static void pack(const struct cached *c, struct buf *out)
{
	char head[HEAD] = { (char)(MARK >> 24), (char)(MARK >> 16 & 255), (char)(MARK >> 8 & 255), (char)(MARK & 255) };

	memcpy(head + 4, c->key, CACHE_KEY_BYTES);
	put_u64(head + 4 + CACHE_KEY_BYTES, (uint64_t)c->stored_us);
	put_u64(head + 12 + CACHE_KEY_BYTES, (uint64_t)c->expires_us);
	buf_add(out, head, HEAD);
	buf_add(out, c->bytes, c->n);
}

/* NULL: it is none, another's, or expired. */
static struct cached *unpack(const uint8_t key[CACHE_KEY_BYTES], struct str s, _Atomic uint64_t *events)
{
	static const char mark[4] = { (char)(MARK >> 24), (char)(MARK >> 16 & 255), (char)(MARK >> 8 & 255), (char)(MARK & 255) };
	int64_t stored, expires;

	if (s.n < HEAD || memcmp(s.p, mark, 4) != 0 || memcmp(s.p + 4, key, CACHE_KEY_BYTES) != 0) {
		cache_note(events, CACHE_FOREIGN);
		return NULL;
	}
	stored = (int64_t)get_u64(s.p + 4 + CACHE_KEY_BYTES);
	expires = (int64_t)get_u64(s.p + 12 + CACHE_KEY_BYTES);
	return expires <= wall_us() ? NULL : cached_new(key, stored, expires, str_from(s, HEAD));
}

/* --- life --- */

struct cache *cache_open(const struct cache_opts *o, struct why *why)
{
	struct cache *c;

	if (!cache_url_check(o->url, why))
		return NULL;
	c = x_calloc(1, sizeof(*c));
	c->driver = driver_of(o->url);
	c->url = x_strdup(o->url);
	c->lookup_us = o->lookup_us;
	c->events = o->events;
	c->memory = cache_memory_new(o->memory_bytes);
	if (c->driver && c->driver->start && !c->driver->start(c->url, c->events, &c->shared, why)) {
		c->driver = NULL;
		cache_close(c);
		return NULL;
	}
	return c;
}

void cache_close(struct cache *c)
{
	if (!c)
		return;
	if (c->driver && c->driver->stop)
		c->driver->stop(c->shared);
	cache_memory_free(c->memory);
	free(c->url);
	free(c);
}

struct cache_memory *cache_near(struct cache *c) { return c->memory; }

struct cache_seat *cache_seat_new(struct cache *c, struct loop *loop)
{
	struct cache_seat *s = x_calloc(1, sizeof(*s));

	s->cache = c;
	s->loop = loop;
	if (c->driver)
		s->far = c->driver->open(c->url, c->shared, loop, c->events);
	return s;
}

void cache_seat_free(struct cache_seat *s)
{
	if (!s)
		return;
	s->closing = true;
	if (s->far)
		s->cache->driver->close(s->far);
	free(s);
}

bool cache_seat_ready(const struct cache_seat *s) { return !s->far || s->cache->driver->ready(s->far); }

/* --- asking --- */

static void end_ask(struct cache_ask *a)
{
	loop_timer_del(&a->timer);
	a->pending->ask = NULL;
	a->pending = NULL;
}

static void too_late(struct loop_timer *t)
{
	struct cache_ask *a = list_entry(t, struct cache_ask, timer);
	struct cache_seat *s = a->pending->seat;

	end_ask(a);
	cache_note(s->cache->events, CACHE_LATE);
	s->cache->driver->late(s->far);
	a->done(a, NULL);
}

void cache_forget(struct cache_ask *a)
{
	if (a->pending)
		end_ask(a);
}

bool cache_pending_waits(const struct cache_pending *p) { return p->ask != NULL; }

void cache_answer(struct cache_pending *p, bool found, struct str bytes)
{
	struct cache_seat *s = p->seat;
	struct cache_ask *a = p->ask;
	struct cached *c = found && !s->closing ? unpack(p->key, bytes, s->cache->events) : NULL;

	if (c)                            /* late or not: the next one finds it here */
		cache_memory_put(s->cache->memory, c);
	if (a)
		end_ask(a);
	free(p);
	if (a && !s->closing)
		a->done(a, c);
	else
		cached_unref(c);
}

enum cache_found cache_get(struct cache_seat *s, const uint8_t key[CACHE_KEY_BYTES], struct cache_ask *a, struct cached **ret)
{
	struct cache *c = s->cache;
	struct cache_pending *p;

	*ret = cache_memory_get(c->memory, key, wall_us());
	if (*ret || !s->far)
		return *ret ? CACHE_HIT : CACHE_MISS;
	p = x_malloc(sizeof(*p));
	p->seat = s;
	p->ask = a;
	memcpy(p->key, key, CACHE_KEY_BYTES);
	a->pending = p;
	a->asked_us = loop_now_us(s->loop);
	if (!c->driver->get(s->far, key, p)) {
		a->pending = NULL;
		free(p);
		cache_note(c->events, CACHE_RESTING);
		return CACHE_MISS;
	}
	loop_timer_set(s->loop, &a->timer, c->lookup_us, too_late);
	return CACHE_ASKED;
}

void cache_put(struct cache_seat *s, struct cached *c)
{
	int64_t ttl_ms = (c->expires_us - wall_us()) / 1000;
	struct buf b = { 0 };

	if (ttl_ms <= 0)
		return;
	cache_memory_put(s->cache->memory, c);
	if (!s->far)
		return;
	pack(c, &b);
	s->cache->driver->put(s->far, c->key, ttl_ms, buf_as_str(&b));
	buf_free(&b);
}

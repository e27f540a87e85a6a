/* cache_driver.h - what a store behind the memory gives to cache.c. Private to common/store.
 *
 * A driver is opened once a seat and lives on its loop; nothing in it blocks. For each get() it calls cache_answer() exactly once, in a later
 * turn or from close(), with the bytes that put() was given or with none. */
#ifndef CORRAL_STORE_CACHE_DRIVER_H
#define CORRAL_STORE_CACHE_DRIVER_H
#include "common/store/cache.h"

struct cache_far;             /* a driver's own */
struct cache_pending;

struct cache_driver {
	const char *scheme;           /* "redis" of "redis://…" */
	bool (*check)(const char *url, struct why *);
	/* What all seats share; NULL when there is nothing. False with *why. */
	bool (*start)(const char *url, _Atomic uint64_t *events, void **ret_shared, struct why *);
	void (*stop)(void *shared);   /* after every close() */
	struct cache_far *(*open)(const char *url, void *shared, struct loop *, _Atomic uint64_t *events);
	/* False: it is resting, nothing was asked. */
	bool (*get)(struct cache_far *, const uint8_t key[CACHE_KEY_BYTES], struct cache_pending *);
	void (*put)(struct cache_far *, const uint8_t key[CACHE_KEY_BYTES], int64_t ttl_ms, struct str bytes);
	void (*late)(struct cache_far *);     /* an answer did not come in time */
	bool (*ready)(const struct cache_far *);
	void (*close)(struct cache_far *);
};

extern const struct cache_driver cache_redis, cache_redis_unix, cache_sqlite;

/* Frees the pending. 'found' false: it has none. */
void cache_answer(struct cache_pending *, bool found, struct str bytes);
bool cache_pending_waits(const struct cache_pending *);      /* somebody still waits for it */

static inline void cache_note(_Atomic uint64_t *events, enum cache_event e)
{
	if (events)
		atomic_fetch_add_explicit(&events[e], 1, memory_order_relaxed);
}
#endif

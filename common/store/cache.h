/* cache.h - values that are kept for a while under keys of 32 bytes: in this process, and behind that in a file or in a Redis.
 *
 *   struct cached        one value: immutable, counted, with its full key; any thread
 *   struct cache_memory  the part in this process: bounded in bytes, shared by all threads
 *   struct cache         that, and the store behind it that the URL names
 *   struct cache_seat    one thread's way to it, on that thread's loop
 *
 * Whoever asks never waits longer than it said: a store that is slow or away is one that has nothing. What it brings late is ignored, and
 * a value whose key is another than the one that was asked for is none. */
#ifndef CORRAL_STORE_CACHE_H
#define CORRAL_STORE_CACHE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"
#include "common/io/loop.h"

enum { CACHE_KEY_BYTES = 32 };

struct cached {
	_Atomic int refs;
	uint8_t key[CACHE_KEY_BYTES];
	int64_t stored_us, expires_us;        /* wall clock */
	_Atomic(void *) note;                 /* what a reader of the bytes wants to find again, see cached_note(); NULL = nothing yet */
	size_t n;
	char bytes[];
};

struct cached *cached_new(const uint8_t key[CACHE_KEY_BYTES], int64_t stored_us, int64_t expires_us, struct str bytes);     /* a copy; one reference */
struct cached *cached_ref(struct cached *);
void cached_unref(struct cached *);           /* NULL is fine */
/* Leaves a note, of x_malloc(), freed with the value; not stored. Any thread; who comes second is ignored, and its note freed. */
void cached_note(struct cached *, void *note);
static inline struct str cached_bytes(const struct cached *c) { return str_n(c->bytes, c->n); }

/* --- in this process (cache_memory.c) --- */

struct cache_memory;
struct cache_figures { uint64_t bytes, entries, evictions; };

struct cache_memory *cache_memory_new(size_t max_bytes);
void cache_memory_free(struct cache_memory *);        /* NULL is fine */
/* NULL: not there, or expired. The reference is the caller's. */
struct cached *cache_memory_get(struct cache_memory *, const uint8_t key[CACHE_KEY_BYTES], int64_t now_us);
void cache_memory_put(struct cache_memory *, struct cached *);       /* takes a reference of its own; what is larger than 1/64 of the whole is left out */
void cache_memory_figures(const struct cache_memory *, struct cache_figures *);

/* --- all of it (cache.c) --- */

enum cache_event { CACHE_LATE, CACHE_BROKEN /* the connection, or an error of the store */, CACHE_RESTING /* not asked: it was late too often */,
		   CACHE_DROPPED /* a value that was not stored */, CACHE_FOREIGN /* bytes that are no value under this key */, CACHE_EVENTS };

struct cache_opts {
	const char *url;              /* "memory:", "sqlite:PATH", "redis://[user:password@]host[:port][/db]", "redis+unix:///PATH[?db=N]" */
	size_t memory_bytes;          /* of the part in this process */
	int64_t lookup_us;            /* longest wait for the store behind it */
	_Atomic uint64_t *events;     /* CACHE_EVENTS counters, added to from any thread; NULL = not counted */
};

struct cache;
struct cache_seat;

/* What is wrong with a URL; the sentence holds no password. */
bool cache_url_check(const char *url, struct why *);
struct cache *cache_open(const struct cache_opts *, struct why *);
void cache_close(struct cache *);             /* after every seat; NULL is fine */
struct cache_memory *cache_near(struct cache *);

struct cache_seat *cache_seat_new(struct cache *, struct loop *);
void cache_seat_free(struct cache_seat *);    /* on the loop's thread, or after it; nobody is called back any more; NULL is fine */

enum cache_found { CACHE_HIT, CACHE_MISS, CACHE_ASKED };

/* A question that is under way. The caller's memory, zero-initialised, in place until done() was called or cache_forget(). */
struct cache_ask {
	void (*done)(struct cache_ask *, struct cached *);     /* once, in a later turn; NULL = not there. The reference is the receiver's */
	struct cache_pending *pending;        /* private, as the rest */
	struct loop_timer timer;
	int64_t asked_us;
};

/* CACHE_HIT: *ret, the reference is the caller's. CACHE_ASKED: done() follows, at the latest after lookup_us. */
enum cache_found cache_get(struct cache_seat *, const uint8_t key[CACHE_KEY_BYTES], struct cache_ask *, struct cached **ret);
void cache_forget(struct cache_ask *);        /* done() is not called any more; fine when nothing is under way */
void cache_put(struct cache_seat *, struct cached *);
/* Whether the store behind is asked at present; true where there is none. */
bool cache_seat_ready(const struct cache_seat *);
#endif

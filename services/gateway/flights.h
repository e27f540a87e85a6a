/* flights.h - the same question asked by several at once is sent once: who asks first leads, the others wait for the leader's answer.
 *
 *   join ──▶ leads ──▶ landed: whoever follows gets the answer, or goes its own way when it cannot be given again
 *     │        └──────▶ leaves (failed, its client left): who waits longest leads in its place
 *     └────▶ follows ─▶ news, or leaves
 *
 * Shared by all workers; a place belongs to the request that took it, and its news come on that request's loop. What is held is a few words for
 * each request that waits. */
#ifndef CORRAL_GATEWAY_FLIGHTS_H
#define CORRAL_GATEWAY_FLIGHTS_H
#include "common/io/loop.h"
#include "common/store/cache.h"

struct flights;
struct flight_place;

enum flight_news {
	FLIGHT_ANSWER,                /* here it is; the reference is the receiver's */
	FLIGHT_ALONE,                 /* there is none that could be shared: everybody for himself */
	FLIGHT_LEAD                   /* the leader is gone: it is up to you */
};
/* After ANSWER and ALONE the place is gone. */
typedef void flight_fn(void *arg, enum flight_news, struct cached *);

struct flights *flights_new(void);
void flights_free(struct flights *);          /* when no loop runs any more; NULL is fine */

/* NULL: so many wait already that this one had better go alone. */
struct flight_place *flight_join(struct flights *, const uint8_t key[CACHE_KEY_BYTES], struct loop *, flight_fn *, void *arg, bool *ret_leads);
/* The leader's answer is whole; NULL: it cannot be given to others. The place is gone. */
void flight_landed(struct flight_place *, struct cached *);
/* The place is gone; no news follow. NULL is fine. */
void flight_leave(struct flight_place *);
#endif

/* turns.h - a model that waits to be loaded gets its turn.
 *
 * An Ollama that has no room for another model lets the requests for those in memory overtake the one that waits for its load, without
 * end. So when a request has waited for its model longer than 'after', nothing new is sent to the other models of that backend
 * until what runs there has ended and a moment has passed, in which the engine begins the load; and again after the same time, while the
 * request still waits. Gateways tell how long theirs wait and what they run, and are told whose turn it is (lease.c of the gateway).
 * Pure: the clock is a parameter. One loop thread. */
#ifndef REGISTRY_TURNS_H
#define REGISTRY_TURNS_H
#include <stdint.h>

#include "common/base/arena.h"
#include "models.pb-c.h"

enum { TURNS_STILL_MS = 600 };    /* nothing ran for so long: longer than gateways take to tell */

struct turns;

/* 'began' is told of each turn. */
struct turns *turns_new(void (*began)(void *arg, const char *backend, const char *model), void *arg);
void turns_free(struct turns *);      /* NULL is fine */
/* What a gateway has in use; replaces what it told before. */
void turns_hear(struct turns *, const Corral__LeaseRequest *, int64_t now_us);
/* The turns that there are now, for a reply; lists in the arena, names as long as no more is heard. after_ms 0: there are none. */
void turns_put(struct turns *, int64_t after_ms, int64_t now_us, struct arena *, Corral__LeaseReply *);
#endif

/* share.h - limits between gateways: who may use which part of a key's or tenant's limits for the next seconds.
 *
 * Each gateway tells every second what it needs of each scope ("key:ID", "tenant:NAME") and gets a share of the scope's limits, 0 to 1,
 * in the proportion of the needs, valid for 3 s from when it asked. The shares of a scope that are valid at the same time never add up
 * to more than 1: what one has been given is taken from the others until it asks again or its time is over. What a gateway did
 * not name it may use up to the floor, which is kept back from the others for it; one gateway alone has all.
 * A gateway that begins asks once before it takes work (with no scopes), so that the others have made room within a second.
 *
 * Requests under way cannot be taken back: while a gateway has more of them than its share allows, the others get less.
 * Pure: the clock is a parameter. One thread. */
#ifndef CORRAL_ACCESS_SHARE_H
#define CORRAL_ACCESS_SHARE_H
#include "access.pb-c.h"
#include "common/base/arena.h"
#include "common/base/err.h"

enum { SHARE_VALID_MS = 3000, SHARE_MOST_SCOPES = 20000, SHARE_MOST_GATEWAYS = 256 };

struct shares;

/* 'concurrency' tells how many requests a scope may have under way, 0 = no limit; may be NULL. */
struct shares *shares_new(uint32_t (*concurrency)(void *arg, const char *scope), void *arg);
void shares_free(struct shares *);
enum err shares_ask(struct shares *, const Corral__ShareRequest *, int64_t now_us, struct arena *, Corral__ShareReply *ret, struct why *);
unsigned shares_gateways(struct shares *, int64_t now_us);       /* heard within the time */
#endif

/* slots.h - who may use how many of a replica's slots: lent to gateways for a moment, so that all of them together never have more
 * requests inside a backend than it has slots.
 *
 * Nouns: holder (a gateway process), share (what one holder has of one replica). A slot counts as lent to a holder until the holder has
 * said that it is free, or was not heard of for SLOTS_LEASE_MS. A holder alone is told "everything" and claims nothing.
 * Division: who wants gets what the tenants that wait there are due (demand.h); what nobody wants is lent evenly ahead of need. What a holder is
 * due is seldom whole: the rest goes by turns of half a second at most, the one who is furthest behind next.
 * Pure: the clock is a parameter. One loop thread. */
#ifndef REGISTRY_SLOTS_H
#define REGISTRY_SLOTS_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "models.pb-c.h"

enum { SLOTS_LEASE_MS = 1500, SLOTS_RESTART_MS = 2500, SLOTS_TURN_MS = 500, SLOTS_MEMORY_MS = 5000, SLOTS_AHEAD_MS = 60000, SLOTS_TICK_MS = 200, SLOTS_HOLDERS_MAX = 64 };

struct slots;

/* 'after_restart': holders of a registry before this one may still use what it lent them, for they keep it while none is heard. Until it is
 * known what they have, nobody gets more than he says he has: for one lease time, in which who lives has come back; or as slots_expect() says. */
struct slots *slots_new(uint64_t epoch, bool after_restart, int64_t now_us);
/* After a restart, when it is known who the holders were: nobody gets more than he says he has until all of them have said what they have,
 * and at most SLOTS_RESTART_MS. With none, lending begins at once. */
void slots_expect(struct slots *, struct str ids, int64_t now_us);
/* Those to be expected after a restart: 16 bytes each, added to the buffer. Who is leaving and holds nothing is not among them.
 * False when it cannot be said: right after a start that knew of nobody. */
bool slots_known(const struct slots *, int64_t now_us, struct buf *);
void slots_free(struct slots *);      /* NULL is fine */
/* How many slots there are; those of replicas not named are none, but for those of which holders say it themselves. */
void slots_set_totals(struct slots *, const Corral__ModelSnapshot *);
/* Fills 'reply' (initialised by the caller; lists in the arena). INVALID for a request that makes no sense or comes too late. */
enum err slots_lease(struct slots *, const Corral__LeaseRequest *, int64_t now_us, struct arena *, Corral__LeaseReply *reply, struct why *);
/* Every SLOTS_TICK_MS: takes back what silent holders had. A tick that comes late means that this process stood still, and nobody is
 * blamed for it. */
void slots_tick(struct slots *, int64_t now_us);
unsigned slots_holders(const struct slots *);
/* What counts as lent of one replica, to all holders together. */
uint32_t slots_lent(const struct slots *, const char *backend, const char *model);
#endif

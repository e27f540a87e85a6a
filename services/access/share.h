/* share.h - limits between gateways: how much of a key's or tenant's limit each may use until it asks again.
 *
 * A gateway alone has all limits whole. Several tell, a few times a second, what they have used of each scope ("key:ID", "tenant:NAME") in
 * the last minute and what they need next, and are given what the others neither used nor hold: what all may use together is never
 * more than the limit. A gateway holds what it was given until its next ask shows that it heard less; what one had that is gone counts as
 * used for a minute.
 *
 * Nothing new is given while another gateway still acts as if it was alone, and not in the first seconds after a start, before all had time
 * to say what they hold. Pure: the clock is a parameter. One thread. */
#ifndef CORRAL_ACCESS_SHARE_H
#define CORRAL_ACCESS_SHARE_H
#include "access.pb-c.h"
#include "common/base/arena.h"
#include "common/base/err.h"

enum { SHARE_VALID_MS = 3000, SHARE_KEPT_MS = 62000, SHARE_MOST_SCOPES = 100000, SHARE_MOST_GATEWAYS = 256 };

struct shares;

/* 'quiet_until_us': until then others may live whose words were not heard yet; 0 = that cannot be. */
struct shares *shares_new(int64_t quiet_until_us);
void shares_free(struct shares *);
enum err shares_ask(struct shares *, const Corral__ShareRequest *, int64_t now_us, struct arena *, Corral__ShareReply *ret, struct why *);
unsigned shares_gateways(struct shares *, int64_t now_us);       /* heard within the time */
#endif

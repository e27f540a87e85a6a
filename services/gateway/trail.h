/* trail.h - who did what by this gateway, for the audit log that access keeps: acts on models and jobs, and everybody who was turned away
 * from administration at the door. (Acts on keys and tenants access writes down itself, in the transaction that does them.)
 *
 * A worker notes who asks and for what when such a request begins, and hands the entry to the control thread when it ends, on every way out.
 * Entries wait there until access has them, TRAIL_MOST at most; what is more is counted, said in the log and lost. */
#ifndef CORRAL_GATEWAY_TRAIL_H
#define CORRAL_GATEWAY_TRAIL_H
#include "services/gateway/admission.h"
#include "services/gateway/req.h"

enum { TRAIL_MOST = 20000, TRAIL_REFUSED_PER_MINUTE = 600 };

struct trail;

struct trail *trail_new(struct gateway *);    /* before the workers run */
void trail_kick(struct trail *);      /* now, not at its time; NULL is fine, in all that follow */
bool trail_empty(const struct trail *);
void trail_free(struct trail *);      /* what still waits is said in the log */

/* --- the worker's side --- */
void trail_begin(struct req *, const struct admission *);     /* before its first stage, and before it is turned away */
/* What it is about, as soon as that is known: "pull", and a model; without this the route's action and its parameter. */
void trail_act(struct req *, const char *verb, struct str object);
void trail_end(struct req *);         /* its status is known */
#endif

/* trail.h - what this gateway tells access: who did what, for the audit log, and when keys were used.
 *
 * Acts on models and jobs, and everybody who was turned away from administration at the door, are entries. (Acts on keys and tenants access
 * writes down itself, in the transaction that does them.) A worker notes who asks and for what when such a request begins, and writes the entry
 * when it ends, on every way out: into a spool on disk, from which it is shipped (outbox.c) and which survives kill -9. What the spool cannot
 * take is counted, said in the log and lost. A key's use is noted once a minute. */
#ifndef CORRAL_GATEWAY_TRAIL_H
#define CORRAL_GATEWAY_TRAIL_H
#include "services/gateway/admission.h"
#include "services/gateway/req.h"

enum { TRAIL_REFUSED_PER_MINUTE = 600, REC_ACCESS = 32 };

struct trail;
struct spool;

/* Before the workers run. NULL with *why when its spool cannot be opened. */
struct trail *trail_new(struct gateway *, struct why *);
void trail_free(struct trail *);      /* after the outbox; NULL is fine, in all that follow */
struct spool *trail_spool(struct trail *, const char **ret_dir);

/* --- the worker's side --- */
void trail_begin(struct req *, const struct admission *);     /* before its first stage, and before it is turned away */
/* What it is about, as soon as that is known: "pull", and a model; without this the route's action and its parameter. */
void trail_act(struct req *, const char *verb, struct str object);
void trail_end(struct req *);         /* its status is known */
void trail_key_used(struct trail *, const struct ring_key *, int64_t wall_us);        /* any thread; no key is fine */
#endif

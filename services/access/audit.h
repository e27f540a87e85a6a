/* audit.h - the audit log: lines in a chain, each with the hash of the one before it and of itself.
 *
 *   hash(n) = SHA-256( field(hash(n-1)) field(seq) field(at_us) field(actor) … field(request_id) )
 *   field(x) = length of x as 8 bytes, x;  numbers are 8 bytes, all least byte first;  hash(0) is 32 zero bytes
 *
 * A line changed, removed or moved breaks the chain where it stood; lines cut from the end are noticed by the head that the store keeps,
 * and, when that was changed too, by a head remembered elsewhere (the service writes one to its log every hour). */
#ifndef CORRAL_ACCESS_AUDIT_H
#define CORRAL_ACCESS_AUDIT_H
#include "common/data/secret.h"
#include "services/access/store.h"

enum { AUDIT_LONGEST_TEXT = 4096 };       /* bytes; of access's own acts the detail alone may be longer */

/* Inside a transaction of the caller's. Sets seq and hash. */
bool audit_append(struct access_store *, Corral__AuditEntry *, struct why *);
/* The same for a line of another service: INVALID when the log cannot hold it. at_us 0 is now. */
enum err audit_add(struct access_store *, Corral__AuditEntry *, int64_t now_us, struct why *);

struct audit_head { uint64_t seq; uint8_t hash[SHA256_BYTES]; };
bool audit_head(struct access_store *, struct audit_head *ret, struct why *);

enum err audit_query(struct access_store *, const Corral__AuditQuery *, int64_t now_us, struct arena *, Corral__AuditReply *ret, struct why *);

/* Entries behind 'after', in their order, at most so many. False with *why on failure of the store. */
bool audit_each(struct access_store *, uint64_t after, unsigned rows, bool (*fn)(void *arg, const Corral__AuditEntry *), void *arg, struct why *);

/* The walk along the chain, in steps, because a log may be long. */
struct audit_walk {
	uint64_t entries;             /* good ones so far; the seq of the last */
	uint8_t hash[SHA256_BYTES];   /* of the last */
	uint64_t want_seq;            /* compared with the hash there; 0 = nothing is */
	uint8_t want[SHA256_BYTES];
	uint64_t broken_seq;          /* 0 = none */
	char text[200];
	bool done;
};

/* At most 'rows' lines further; sets done at the end or at a break. False with *why on failure of the store. */
bool audit_walk_on(struct access_store *, struct audit_walk *, unsigned rows, struct why *);
void audit_verdict(const struct audit_walk *, struct arena *, Corral__AuditVerifyReply *ret);
#endif

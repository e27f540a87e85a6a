/* tell.h - every entry of the audit log, as an event of the topic audit.v1.
 *
 *   transaction of the deed ─▶ table audit ─▶ spool "audit-0" ─▶ Kafka, or, without one, whoever reads the spool (corral events tail)
 *
 * The log itself is what waits: audit_told has the last entry that Kafka has (without Kafka: that is on the disk in the spool), and it moves no sooner.
 * So neither a kill nor another process that takes over on another machine leaves one out. What is told twice has one event id, for it is made of the entry. */
#ifndef CORRAL_ACCESS_TELL_H
#define CORRAL_ACCESS_TELL_H
#include "common/store/herald.h"
#include "services/access/store.h"

struct teller;

struct teller *teller_new(struct access_store *, struct herald *);        /* the herald is the caller's */
/* Now and then. *ret_more: there is more to be told at once. False with *why on failure of the store. */
bool teller_tell(struct teller *, bool *ret_more, struct why *);
void teller_free(struct teller *);                /* NULL is fine */
void teller_label(struct str payload, struct bus_label *);
#endif

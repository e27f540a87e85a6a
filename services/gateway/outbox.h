/* outbox.h - ships every spool on disk to the service that keeps it, or to Kafka, and releases what is no longer needed. Control thread. */
#ifndef CORRAL_GATEWAY_OUTBOX_H
#define CORRAL_GATEWAY_OUTBOX_H
#include "services/gateway/worker.h"

struct bus_producer;
struct bus_shipper;
struct bus_ship_counts;
struct outbox;
/* The number of the first of so many spools that no other process has: one that is draining after a handover, say. Before the workers. */
unsigned outbox_free_base(const struct gateway *);
/* After the workers were made: their spools, and those that workers of an earlier run left behind. */
struct outbox *outbox_new(struct gateway *, struct why *);   /* NULL when the configured bus cannot be used at all */
/* Once a second: ships what a process left that has ended since, and closes what is shipped. */
void outbox_sweep(struct outbox *);
void outbox_kick(struct outbox *);
/* Everything that was in the spools when asked is with its receiver. */
bool outbox_empty(struct outbox *);
/* Everything that earlier runs had used is with the ledger. */
bool outbox_past_is_told(struct outbox *);
/* For topics that others of this thread ship: there is one producer a loop. NULL: without Kafka. */
struct bus_producer *outbox_producer(struct outbox *);
/* What a shipper has done since *told, into the metrics. */
void outbox_count(struct gateway *, const char *topic, const struct bus_shipper *, struct bus_ship_counts *told);
void outbox_free(struct outbox *);
#endif

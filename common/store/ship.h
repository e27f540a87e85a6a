/* ship.h - carries facts from a spool to the service that keeps them, at least once; the receiver makes it exactly once.
 *
 * One shipper per (spool directory, topic). It asks the receiver for its cursor, reads records of the given type from there, sends them in
 * batches by RPC (service Facts of facts.proto, one batch under way at a time), and reports the acknowledged position. A receiver that is
 * away is asked again after a while (50 ms to 2 s). Runs on the loop of the service that owns it. */
#ifndef CORRAL_STORE_SHIP_H
#define CORRAL_STORE_SHIP_H
#include <stdint.h>

#include "common/io/rpc.h"

struct shipper;
struct spool;

struct ship_opts {
	const char *dir;              /* of the spool */
	const struct spool *spool;    /* its writer, when that is in this process and outlives the shipper: nothing is read while it has nothing new */
	const char *topic;            /* "usage.v1" */
	const char *source;           /* unique name of the writer: "gateway-host/usage-0" */
	uint8_t type_min, type_max;   /* record types that are shipped; others are skipped */
	int64_t every_ms;             /* default 50; twice that while there is much */
	uint32_t batch_records, batch_bytes;          /* default 4000, 1 MiB */
};

struct shipper *shipper_new(struct loop *, struct rpc_client *receiver, const struct ship_opts *,
			    void (*on_acked)(void *arg, uint64_t position), void *arg);
/* Everything below is acknowledged, or of a type that is not shipped: equals spool_end() when nothing waits. */
uint64_t shipper_acked(const struct shipper *);
/* How often facts were missing: the receiver's cursor was below what is on disk, or a part was damaged. Each is logged. */
uint64_t shipper_gaps(const struct shipper *);
void shipper_kick(struct shipper *);              /* ship now: before a drain ends, or when somebody waits for figures */
void shipper_free(struct shipper *);              /* NULL is fine; no on_acked afterwards */
#endif

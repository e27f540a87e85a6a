/* snapshot_wire.h - a snapshot's messages seen from the outside: opening one, and putting the parts of a large whole together.
 *
 * Pure: bytes in, messages out; snapshot_sub.c gets them from nng, the fuzzer feeds anything. */
#ifndef CORRAL_IO_SNAPSHOT_WIRE_H
#define CORRAL_IO_SNAPSHOT_WIRE_H
#include <stdbool.h>

#include "common/base/buf.h"
#include "common/io/snapshot.h"
#include "snapshot.pb-c.h"

enum {
	SNAPSHOT_PART_BYTES = 4 << 20,        /* of a body in one message; several deltas together too */
	SNAPSHOT_PARTS_MAX = 64,
	SNAPSHOT_HEARTBEAT_MS = 250,
	SNAPSHOT_LIVE_MS = 1000       /* heard from within that: alive */
};
#define SNAPSHOT_MAX_BYTES ((size_t)SNAPSHOT_PART_BYTES * SNAPSHOT_PARTS_MAX)

struct snapshot_parts {
	struct snapshot_id id;
	uint32_t next, parts;         /* the part that is missing first; parts 0 = none begun */
	struct buf body;
};

enum parts_taken { PARTS_MORE, PARTS_DONE, PARTS_LOST };

/* News: topic, a zero byte, an envelope of that name. NULL when it is not that. Freed by corral__snapshot_envelope__free_unpacked(). */
Corral__SnapshotEnvelope *snapshot_open(struct str message, const char *name);
/* The first part begins anew. DONE: the whole is in ->body until the next call; LOST: this is not the part that was missing. */
enum parts_taken snapshot_parts_take(struct snapshot_parts *, const Corral__SnapshotEnvelope *);
void snapshot_parts_drop(struct snapshot_parts *);        /* and its memory */
uint32_t snapshot_parts_of(size_t bytes);         /* how many messages a body takes; at least 1 */
struct str snapshot_part(struct str body, uint32_t part);
#endif

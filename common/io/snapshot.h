/* snapshot.h - how things are: versioned state, published whole, heard by everyone who needs it.
 *
 * The publisher numbers versions upwards within an epoch (its start time in microseconds); a subscriber applies anything newer than what it has.
 * PUB drops when a queue is full, hence: the publisher repeats its version in a heartbeat every 250 ms, and a subscriber that sees a
 * gap, or has nothing yet, asks by RPC (service Snapshots of snapshot.proto, registered by snapshot_pub_new()): for the deltas it
 * missed, or where they are gone for the whole. A whole above 4 MiB travels in parts; 256 MiB is the most.
 * The last good snapshot is kept on disk when cache_path is given, and served from there at start (stale = true) until a newer one comes. */
#ifndef CORRAL_IO_SNAPSHOT_H
#define CORRAL_IO_SNAPSHOT_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/io/rpc.h"

struct snapshot_pub;
struct snapshot_sub;

/* 'name' ("models", "policy") keys the topic. pub_url e.g. "inproc://model-registry.pub"; 'server' answers Get. Several names may share one url and server. */
struct snapshot_pub *snapshot_pub_new(struct loop *, struct rpc_server *server, const char *pub_url, const char *name, struct why *);
uint64_t snapshot_publish(struct snapshot_pub *, struct str bytes);      /* returns the version given */
/* Instead of the whole, what changed: applies to the version before it and to no other. 'whole' makes the whole when somebody asks for it
 * (on the loop; its bytes are valid until the next call); a publisher of deltas sets it before its first one. */
void snapshot_pub_whole(struct snapshot_pub *, struct str (*whole)(void *arg), void *arg);
uint64_t snapshot_publish_delta(struct snapshot_pub *, struct str delta);
uint64_t snapshot_pub_epoch(const struct snapshot_pub *);
void snapshot_pub_free(struct snapshot_pub *);

struct snapshot_id { uint64_t epoch, version; };

struct snapshot_sub *snapshot_sub_new(struct loop *, struct rpc_client *source, const char *pub_url, const char *name, const char *cache_path,
				      void (*on_snapshot)(void *arg, struct snapshot_id, struct str bytes, bool stale), void *arg);
/* Takes deltas too: called for version + 1 of what was last given. False: it does not apply, the whole is fetched. Without this, a
 * delta is a gap, and the whole is fetched. Set right after snapshot_sub_new(). Deltas are kept on disk behind the whole they apply to. */
void snapshot_sub_on_delta(struct snapshot_sub *, bool (*on_delta)(void *arg, struct snapshot_id, struct str delta));
/* What the file has, now and not in the loop's first turn: for who serves from that turn on. The owner is called before this returns. */
void snapshot_sub_load(struct snapshot_sub *);
bool snapshot_sub_live(const struct snapshot_sub *);     /* heard from a publisher within 1 s */
void snapshot_sub_free(struct snapshot_sub *);
#endif

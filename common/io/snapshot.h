/* snapshot.h - how things are: versioned state, published whole, heard by everyone who needs it.
 *
 * The publisher numbers versions upwards within an epoch (its start time in microseconds); a subscriber applies anything newer than what it has.
 * PUB drops when a queue is full, hence: the publisher repeats its version in a heartbeat every second, and a subscriber that sees a
 * gap, or has nothing yet, asks for the whole by RPC (service Snapshots of snapshot.proto, registered by snapshot_pub_new()).
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
uint64_t snapshot_pub_epoch(const struct snapshot_pub *);
void snapshot_pub_free(struct snapshot_pub *);

struct snapshot_id { uint64_t epoch, version; };

struct snapshot_sub *snapshot_sub_new(struct loop *, struct rpc_client *source, const char *pub_url, const char *name, const char *cache_path,
				      void (*on_snapshot)(void *arg, struct snapshot_id, struct str bytes, bool stale), void *arg);
bool snapshot_sub_live(const struct snapshot_sub *);     /* heard from the publisher within 3 s */
void snapshot_sub_free(struct snapshot_sub *);
#endif

/* keyring.h - the keys and tenants that are known at one moment. Immutable, counted, swapped like the world.
 *
 * The control thread makes one from the snapshot "access" and a new one from each delta. Keys lie in many small tables by their id, and a
 * delta copies only the tables that it touches, so that one revocation among 100,000 keys costs microseconds. Entries keep the hash of a
 * key, never a key. Once a key was found right, its entry keeps a fast keyed hash of it too, so that it costs a third the next time; that goes with
 * the entry, so what is revoked or changed is forgotten at once. */
#ifndef CORRAL_GATEWAY_KEYRING_H
#define CORRAL_GATEWAY_KEYRING_H
#include <stdatomic.h>

#include "common/base/cidr.h"
#include "common/data/secret.h"
#include "common/io/snapshot.h"
#include "common/policy/apikey.h"
#include "common/policy/authz.h"
#include "services/gateway/scope.h"

/* What stands first in both kinds of entries. */
struct ring_entry {
	_Atomic uint32_t refs;
	uint32_t kind;
	uint64_t name_hash;
	struct str name;              /* key id or tenant */
};

struct ring_key {
	struct ring_entry e;
	char id[APIKEY_ID];           /* beside the hash, and without terminator */
	uint8_t hash[SHA256_BYTES];
	_Atomic uint64_t seen[2];     /* tag of the text that was found right before, under a key of this process; 0 = none yet */
	struct scope *scope;          /* NULL: no limits of its own */
	Corral__Key pb;               /* its strings lie behind the entry */
	struct cidr *networks;     /* one each of pb.networks */
	_Atomic int64_t used_minute;  /* key_uses.h */
	bool bad_network;             /* one of them cannot be read: the key is good from nowhere */
};

struct ring_tenant {
	struct ring_entry e;
	struct scope *scope;
	Corral__Tenant pb;
};

struct keyring;
/* From a whole snapshot; NULL with *why when it cannot be decoded. One reference is the caller's, in all three. */
struct keyring *keyring_new(struct str packed, struct snapshot_id, struct scope_table *, struct why *);
struct keyring *keyring_with(const struct keyring *, struct str delta, struct snapshot_id, struct scope_table *, struct why *);
struct keyring *keyring_ref(struct keyring *);
void keyring_unref(struct keyring *);         /* any thread; NULL is fine */

struct snapshot_id keyring_id(const struct keyring *);
size_t keyring_keys(const struct keyring *);
size_t keyring_tenants(const struct keyring *);
const struct ring_tenant *keyring_tenant(const struct keyring *, struct str name);
/* The key whose whole text this is, or NULL. An unknown id takes the same work and touches as much memory as a wrong secret. */
const struct ring_key *keyring_verify(const struct keyring *, struct str id, struct str text);
/* By its id alone: for tests and for what was verified before. */
const struct ring_key *keyring_key(const struct keyring *, struct str id);
#endif

/* door.h - the control side of admission: the keyring out of the snapshot "access", and who may come in without a key. */
#ifndef CORRAL_GATEWAY_DOOR_H
#define CORRAL_GATEWAY_DOOR_H
#include "common/base/cidr.h"
#include "services/gateway/gateway.h"
#include "services/gateway/keyring.h"

struct door {
	struct gateway *gw;
	struct rpc_client *access;
	struct snapshot_sub *sub;
	struct keyring *ring;         /* the newest; NULL until heard */
	struct scope_table *scopes;
	int64_t heard_us;             /* mono: when the access service was last there; 0 = never since the start */
	bool judged;                  /* it is known whether there is a key */
	/* set before the workers run */
	bool wide;                    /* other machines can reach the public port */
	bool keyless_owner[DOORS];    /* who has no key is the owner, if he came by this address */
	struct cidr *anonymous;       /* who comes from there without a key is a user */
	size_t n_anonymous;
};

struct door *door_new(struct gateway *);
void door_open(struct door *);        /* hears the access service from now on; the workers are made, and do not run yet */
void door_load(struct door *);        /* the keys that were heard before the last end are in force; after door_open() */
void door_sweep(struct door *, int64_t now_us);       /* once a second */
void door_close(struct door *);       /* hears nothing any more */
void door_free(struct door *);        /* after the workers; NULL is fine */

/* Of the two addresses, one that other machines can reach; NULL = neither. */
const char *door_wide_address(const struct gateway_config *);
/* "127.…:p", "[::1]:p", "localhost:p", ":p", "unix:…" stay on this machine. */
bool listen_is_loopback(struct str listen);
/* Networks that may come in without a key. */
enum err door_check(const struct gateway_config *, struct why *);
#endif

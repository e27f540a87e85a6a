/* providers.h - what the gateway knows of providers in the cloud: the snapshot of cloud-fallback, as the world is made of it. Control thread. */
#ifndef CORRAL_GATEWAY_PROVIDERS_H
#define CORRAL_GATEWAY_PROVIDERS_H
#include "common/base/buf.h"
#include "common/io/snapshot.h"
#include "common/svc/svc.h"

struct gateway;

struct providers {
	struct rpc_client *peer;
	struct snapshot_sub *sub;
	struct buf view;              /* cloud_view(): without the token, rounded; empty = no provider has a model */
	char token[200];              /* what cloud-fallback's endpoints ask for */
	char active_model[256];       /* that "auto" uses; "" = none is set */
	void (*changed)(struct gateway *);
	struct gateway *gw;
};

void providers_open(struct gateway *, struct providers *, void (*changed)(struct gateway *));
void providers_close(struct providers *);
/* Takes a snapshot; false when it changed nothing that a world is made of, or cannot be read. */
bool providers_take(struct providers *, struct str bytes);
#endif

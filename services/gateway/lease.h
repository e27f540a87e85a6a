/* lease.h - this gateway's slots where several gateways share the backends: says to the model-registry what it uses and wants, and
 * applies what it lends (replicas.h). Control thread; no request waits for it while slots are there.
 *
 *   alone     all slots are ours; asks every 250 ms whether that is still so
 *   shared    reports what changed every 100 ms, sooner when somebody waits or a slot is given back
 *   on its own   the registry is not heard: what was lent last stays, of each replica at least one slot
 *
 * A gateway that stood still (SIGSTOP, a machine that slept) takes no slot until it has reported again. */
#ifndef CORRAL_GATEWAY_LEASE_H
#define CORRAL_GATEWAY_LEASE_H
#include "services/gateway/gateway.h"

struct lease;

struct lease *lease_new(struct gateway *);
void lease_renew(struct lease *);     /* now, not at its time */
void lease_leave(struct lease *);     /* draining: no slot ahead of need */
void lease_free(struct lease *);      /* NULL is fine */
#endif

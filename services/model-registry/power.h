/* power.h - asks the hardware-probe of each backend's machine what that draws, and tells gateways which part of it their slots have.
 *
 * A backend at a loopback address is on the machine of the hardware-probe that the registry knows as its peer; of others the option 'hardware' says whose probe it
 * is. What was not heard for three turns and a second is not known. It travels with the leases (lend.h), not with the catalogue, which it would make new every
 * few seconds. Everything on the registry's loop. */
#ifndef REGISTRY_POWER_H
#define REGISTRY_POWER_H
#include "common/svc/svc.h"
#include "services/model-registry/registry.h"

struct power_watch;

/* '*registry' may be another one after each turn of the loop. */
struct power_watch *power_watch_new(struct svc *, struct registry *const *registry);
void power_watch_free(struct power_watch *);  /* NULL is fine */
/* What a gateway uses, and what it is told. */
void power_watch_hear(struct power_watch *, const Corral__LeaseRequest *);
void power_watch_put(struct power_watch *, struct arena *, Corral__LeaseReply *);
#endif

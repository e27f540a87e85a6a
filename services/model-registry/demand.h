/* demand.h - which tenants want how many slots of a model at which gateway, and what part of a replica's slots each gateway is due by that.
 *
 * Nouns: demand list (what one gateway has said), cell (one tenant's demand for one model, all gateways together).
 * The rule: tenants get the same, as far as they want it; a tenant's slots lie where its requests are. So a gateway is due, of each of its tenants,
 * the part of that tenant's slots that its requests there are of all that the tenant has (demand_divide()), and inside it each tenant has the weight
 * of that part (demand_part_milli()): together that gives every tenant the same, wherever its clients are.
 * One loop thread. */
#ifndef REGISTRY_DEMAND_H
#define REGISTRY_DEMAND_H
#include "common/base/arena.h"
#include "models.pb-c.h"

struct demands;

struct demand_list {                  /* zeroed = nothing said */
	struct model_demand *models;
	size_t n, cap;
};

/* One gateway's part in a division. */
struct demander {
	const struct demand_list *list;
	uint32_t wanted;              /* slots of this replica, in use and waited for */
	double due;                   /* filled in: slots */
};

struct demands *demands_new(void);
void demands_free(struct demands *);  /* after all lists were cleared. NULL is fine */
/* What is said of a model takes the place of what was said of it before. */
void demand_set(struct demands *, struct demand_list *, const Corral__ModelDemand *);
void demand_clear(struct demand_list *);
/* Divides 'total' slots of a replica of the model among those who want more than that together. A gateway that names no tenant counts as one. */
void demand_divide(struct demander *, unsigned n, const char *model, uint32_t total);
/* The tenants of that list who wait at other gateways too, each with the part of its demand that is here, in thousandths. */
void demand_parts(const struct demand_list *, struct arena *, Corral__LeaseReply *);
#endif

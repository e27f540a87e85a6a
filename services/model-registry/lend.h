/* lend.h - the registry's service Slots: hears gateways, lends them slots (slots.h), takes back what silent ones had. */
#ifndef REGISTRY_LEND_H
#define REGISTRY_LEND_H
#include "common/svc/svc.h"
#include "services/model-registry/registry.h"

struct lender;

/* 'epoch': of this run. Adds its RPC service to the service's server. */
struct lender *lender_new(struct svc *, uint64_t epoch);
/* Who else wants to know what gateways say: called with each request. */
void lender_tell(struct lender *, void (*heard)(void *arg, const Corral__LeaseRequest *), void *arg);
/* The registry's own loads wait for their turns as those of requests do: 'loads' puts them into r->active before each answer. */
void lender_loads(struct lender *, void (*loads)(void *arg, struct arena *, Corral__LeaseRequest *r), void *arg);
/* Which parts of their machines' power slots have: 'powers' puts them into each answer. */
void lender_powers(struct lender *, void (*powers)(void *arg, struct arena *, Corral__LeaseReply *), void *arg);
void lender_set_totals(struct lender *, const Corral__ModelSnapshot *);
void lender_free(struct lender *);    /* later requests are refused; NULL is fine */
#endif

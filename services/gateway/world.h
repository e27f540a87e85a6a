/* world.h - what is known at one moment: catalogue, policy, and the shared state of each replica. Immutable, counted.
 *
 * The control thread builds one from the last snapshots and gives every worker a reference; a worker gives one to each request. */
#ifndef CORRAL_GATEWAY_WORLD_H
#define CORRAL_GATEWAY_WORLD_H
#include <stdatomic.h>

#include "common/llm/exchange.h"
#include "common/policy/catalogue.h"
#include "common/policy/decide.h"
#include "services/gateway/replicas.h"

struct world_backend {
	const char *charged;          /* whose prices and budgets count: a provider's name, or the kind of a backend of one's own */
	enum llm_backend kind;
	struct http_url url;
	bool usable;                  /* its URL can be parsed */
};

struct world {
	_Atomic int refs;
	struct arena *mem;
	struct catalogue cat;
	struct policy pol;
	struct arms arms;             /* pol.arms, when there are any */
	struct str models_bytes, policy_bytes, experiments_bytes;     /* packed, as heard, with the cloud merged in: the decision log carries each version once */
	struct str cloud_token, active_model; /* see providers.h */
	struct replica_state **states;        /* by replica index */
	struct str *asked;            /* by replica index: recall_model_text() */
	struct world_backend *backends;       /* by backend index */
	char policy_version[48];      /* "epoch.version", for the ledger */
	int64_t made_at_us;           /* wall */
};

/* NULL with *why when the snapshots do not fit together. One reference is the caller's. */
struct world *world_new(struct gateway *, struct why *);
struct world *world_ref(struct world *);
void world_unref(struct world *);
/* Fills load[] (reach.n long) with what is so now. */
void world_load(const struct world *, struct reach, int64_t now_us, struct load *load);
bool llm_backend_parse(const char *kind, enum llm_backend *ret);
#endif

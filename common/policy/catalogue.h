/* catalogue.h - the registry's ModelSnapshot, indexed for deciding: models by name, replicas by model. Immutable after building.
 *
 * Nouns: model (weights under a name), backend (a server), replica (a model on a backend). The index of a replica in
 * replicas[] is the order of the snapshot, and of load vectors in the decision log. */
#ifndef CORRAL_POLICY_CATALOGUE_H
#define CORRAL_POLICY_CATALOGUE_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "models.pb-c.h"

struct cat_backend {
	const Corral__Backend *pb;
	struct str name;
	bool up;                      /* state UP or UNKNOWN: worth trying */
};

struct cat_model {
	const Corral__Model *pb;
	struct str name;
	uint32_t caps;                /* LLM_CAP_* */
	uint32_t context;             /* the largest in force on any replica; 0 = unknown */
	uint16_t first, n;            /* replicas[first … first + n) */
};

struct cat_replica {
	const Corral__Replica *pb;
	const char *remote_name;      /* what that backend calls it */
	uint16_t model, backend;      /* indexes */
	uint32_t context;             /* in force there; 0 = unknown */
	uint32_t slots;
};

struct catalogue {
	Corral__ModelSnapshot *snapshot;      /* unpacked; owns every string */
	uint64_t epoch, version;
	struct cat_backend *backends;
	struct cat_model *models;
	struct cat_replica *replicas;
	uint16_t n_backends, n_models, n_replicas;
	uint16_t *by_name;            /* open addressing, index + 1 of the model; keys lower-case, without ":latest" */
	uint32_t by_name_mask;
};

/* Builds in the arena (the unpacked snapshot is freed with it). Replicas that name an unknown model or backend are an error. */
enum err catalogue_build(struct catalogue *, struct arena *, uint64_t epoch, uint64_t version, struct str packed, struct why *);

/* By name: "x" equals "x:latest"; case does not matter (Ollama's rule). -1 = unknown. */
int catalogue_model(const struct catalogue *, struct str name);
/* The prompt's template; "" = unknown. */
const char *catalogue_template(const struct catalogue *, const struct cat_model *);
/* Follows one alias; *ret_alias tells whether one was used. -1 = unknown. */
int catalogue_resolve(const struct catalogue *, struct str name, bool *ret_alias);
/* MODEL_NOT_FOUND with up to three names that were perhaps meant, of those that the asker may see; 'sees' NULL: all. The catalogue may be
 * NULL: nothing is known yet. */
typedef bool catalogue_sees(const void *asker, struct str model);
enum err catalogue_not_found(const struct catalogue *, struct str name, catalogue_sees *sees, const void *asker, struct why *);
#endif

/* cloud.h - providers in the cloud as backends of the catalogue, and when they may answer.
 *
 * The snapshot "models" knows nothing of providers; the gateway and the selector put what the snapshot "providers" says into it with
 * cloud_merge(), the same bytes from the same two. The result has an identity of its own and goes into the decision log like any other
 * version, so that a decision over it can be computed again from the log alone. */
#ifndef CORRAL_POLICY_CLOUD_H
#define CORRAL_POLICY_CLOUD_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/policy/decide.h"

#define CLOUD_KIND "cloud"            /* Backend.kind of a provider */

/* What of it decisions may be made on: without its token, times, and with what is left rounded down to two digits, so that not every
 * cent is a version. In the arena; empty when no provider has a model. ERR_MALFORMED for bytes that are none. */
enum err cloud_view(struct arena *, struct str providers, struct str *ret, struct why *);
/* Appends to 'out' a ModelSnapshot of both; *epoch becomes that of the merged one. With an empty view: the bytes and the epoch as they were. */
enum err cloud_merge(struct buf *out, uint64_t *epoch, struct str models, struct str view, struct why *);

/* --- for decide.c; all pure --- */
static inline const Corral__Provider *cloud_of(const struct catalogue *c, uint16_t replica)
{
	return c->backends[c->replicas[replica].backend].pb->cloud;
}
/* What a request may cost at most there, in micro-dollars and tokens; false: the price is not known. */
bool cloud_estimate(const struct catalogue *, uint16_t replica, const Corral__DecisionFeatures *, int64_t *ret_microusd, int64_t *ret_tokens);
/* The provider has enough left for it, as far as is known. *need, *have (thousandths of a dollar, or tokens) where not. */
bool cloud_affords(const struct catalogue *, uint16_t replica, const Corral__DecisionFeatures *, struct rejected *);
/* The cloud is preferred to what the house has: what was asked is so hard, or the house is measured to be bad at it. 'best_local' is a model's index. */
bool cloud_preferred(const struct policy *, const Corral__DecisionFeatures *);       /* for the first of the two */
enum cloud_wish { CLOUD_SPARE, CLOUD_BY_POLICY, CLOUD_BY_QUALITY };
enum cloud_wish cloud_wish(const struct catalogue *, const struct policy *, const Corral__DecisionFeatures *, uint16_t best_local);
/* MEDIUM requests only while more than a set amount is left. */
bool cloud_has_plenty(const Corral__Provider *, const struct policy *, const Corral__DecisionFeatures *);
double cloud_quality(const struct catalogue *, uint16_t replica);
double cloud_cost(const struct catalogue *, uint16_t replica);
double cloud_seconds(const Corral__Provider *, const Corral__Speed *, const struct load *, uint32_t max_tokens);
#endif

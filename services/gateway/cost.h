/* cost.h - what attempts cost, by the prices that this worker has and by the ledger's own rule (common/policy/price.h): what the client is told
 * and what budgets hold. The ledger computes it again from the same figures; where its prices are newer, it is right. A worker's own. */
#ifndef CORRAL_GATEWAY_COST_H
#define CORRAL_GATEWAY_COST_H
#include "events.pb-c.h"
#include "services/gateway/req.h"

/* Whose prices and budgets count for a replica: a provider's name, or the kind of a backend of one's own; local-KIND where a provider is called so. */
const char *cost_provider(const struct world *, uint16_t replica);
bool cost_is_cloud(const struct world *, uint16_t replica);

/* What the whole request costs if its attempt ends now with this use, in micro-dollars: for llm_relay_price(), with the request. The attempt's GPU
 * time ends with the first call, so that what is told and what is booked are one figure. */
int64_t cost_of_answer(void *req, const struct llm_usage *);
/* Fills gpu_us, energy_mj, cost_microusd and cost_source of an attempt's FINAL, whose tokens are there already, and adds it to the request's. */
void cost_book(struct req *, Corral__UsageEvent *);

/* What an attempt at a provider was expected to cost before it was sent, as decisions reckon it: the prompt, and max_tokens or 1,024 tokens for the answer.
 * False: it is none, or there is no price. */
bool cost_expected(const struct req *, int64_t *ret_microusd);

/* The most that so many tokens may cost on a replica until the request's deadline; -1 = nobody knows: a model in the cloud without a price. */
int64_t cost_most(const struct req *, uint16_t replica, uint64_t prompt_tokens, uint64_t answer_tokens);
#endif

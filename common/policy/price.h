/* price.h - what an attempt costs: prices with a history, and the one function that turns usage into micro-dollars.
 *
 * Nouns: a price says, from a time on, what tokens cost (a cloud model's list price) or what a machine costs (per GPU-hour and per kWh).
 * Its scope is three patterns, of provider, backend and model; '*' stands for any run of characters and "" for "*".
 * For an attempt the most specific scope counts that has a price in force when the attempt began (of models first, then backends, then
 * providers; a name without '*' beats a pattern, then the longer one); in that scope the youngest price. A price is never changed:
 * a newer one follows it, so an attempt costs for ever what it cost.
 *
 * GPU time of an attempt = the time its backend worked on it / slots of that replica: a server with four slots of which one is busy is used
 * to a quarter. With all slots busy the sum over attempts is the wall time. Idle time is nobody's, a machine without a GPU counts as one.
 *
 * Pure; integers only. Money is micro-dollars (1 USD = 1,000,000). One rounding per attempt, half up. */
#ifndef CORRAL_POLICY_PRICE_H
#define CORRAL_POLICY_PRICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"

#define PRICE_MOST INT64_C(1000000000000000)      /* of any one number of a price: a thousand million dollars */

enum price_kind { PRICE_TOKENS, PRICE_MACHINE };

struct price {
	int64_t id, valid_from_us;    /* wall clock; it counts for attempts that began then or later */
	enum price_kind kind;
	struct str provider, backend, model;                   /* patterns */
	int64_t input, cached_input, output;                   /* PRICE_TOKENS: per million tokens */
	int64_t gpu_hour, kwh;                                 /* PRICE_MACHINE */
};

/* What was used. Cached tokens are a part of prompt_tokens: those that the provider had in its own cache. */
struct price_use { int64_t prompt_tokens, cached_prompt_tokens, completion_tokens, gpu_us, energy_mj; };

/* Micro-dollars, rounded half up; either price may be NULL. Never negative, INT64_MAX when it is more than that.
 *   tokens:  ((prompt - cached) * input + cached * cached_input + completion * output) / 10^6
 *   machine: (gpu_us * gpu_hour + energy_mj * kwh) / 3.6 * 10^9        (an hour has 3.6 * 10^9 us, a kWh 3.6 * 10^9 mJ) */
int64_t price_cost(const struct price *tokens, const struct price *machine, const struct price_use *);

/* The price in force; NULL = there is none. */
const struct price *price_find(const struct price *list, size_t n, enum price_kind, struct str provider, struct str backend, struct str model,
			       int64_t at_us);
/* Between these two times no price of the list begins: what was found at at_us holds in [*ret_from, *ret_until). */
void price_span(const struct price *list, size_t n, int64_t at_us, int64_t *ret_from, int64_t *ret_until);

/* Whether attempts of that provider ran on a machine of one's own: the kind of a backend (local-openai beside a provider called openai), or "".
 * Everybody else sells. */
bool provider_is_local(struct str provider);

bool price_same_scope(const struct price *, const struct price *);
bool price_same_numbers(const struct price *, const struct price *);
/* False with *why, which names the field, for what is no price. */
bool price_check(const struct price *, struct why *);
#endif

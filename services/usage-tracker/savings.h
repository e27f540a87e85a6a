/* savings.h - what one's own machines saved: the month's traffic at a cloud model's price, less what was really paid.
 *
 *   savings = would_cost - infrastructure - cloud                                               (micro-dollars, integers)
 *   would_cost      tokens of the answers at the price of 'against': for each of its prices, the sums of prompt and completion tokens of the
 *                   requests that came while it was in force, priced at once (price_cost(): one rounding, half up, for each price).
 *                   Answers are attempts that ended ok, from a cache too, or that the client cancelled: what they had made would have been
 *                   charged. Failed attempts are left out: nobody would have bought them. All prompt tokens at the full input price: what
 *                   a provider's own cache would have saved is not known, so savings are an upper bound in that.
 *   infrastructure  what local attempts cost in the ledger, failed ones too: GPU time and energy at their prices. Idle hours are in no row
 *                   and so not in it.
 *   cloud           what all other attempts cost.
 * An attempt is local when its provider is a kind of backend and no price of tokens is in force for it: what has one is bought. */
#ifndef CORRAL_USAGE_SAVINGS_H
#define CORRAL_USAGE_SAVINGS_H
#include "services/usage-tracker/prices.h"

bool savings_query(struct ledger *, const struct prices *, const Corral__SavingsQuery *, int64_t now_us, struct arena *, Corral__SavingsReport *ret,
		   struct why *);
#endif

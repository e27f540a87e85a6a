/* prices.h - the price list of the ledger's database, in memory, and what it says of attempts; common/policy/price.h has the rules. */
#ifndef CORRAL_USAGE_PRICES_H
#define CORRAL_USAGE_PRICES_H
#include "common/policy/price_list.h"
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

struct prices;

struct prices *prices_new(struct db *);
void prices_free(struct prices *);                /* NULL is fine */
bool prices_load(struct prices *, struct why *);  /* what the table has now */
const struct price *prices_list(const struct prices *, size_t *ret_n);    /* until the next load or put */
uint64_t prices_version(const struct prices *);   /* of what is in it, see price_list.h */

/* Adds a price; what is said again is there already. CONFLICT: the scope has another price from that very time on. */
bool prices_put(struct prices *, const Corral__Price *, int64_t now_us, struct arena *, Corral__PutPriceReply *ret, struct why *);
void prices_reply(const struct prices *, int64_t now_us, struct arena *, Corral__PricesReply *ret);
Corral__Price *prices_message(const struct prices *, const struct price *of_the_list, struct arena *);

/* What an attempt costs that began then; fits ledger_set_pricer(). A figure of the provider's own stays, and so does one that nobody
 * says the source of; an answer from the cache costs nothing. Without a price in force: what the event says. */
int64_t prices_cost(void *prices, const Corral__UsageEvent *, int64_t began_us);

bool prices_given(const Corral__UsageEvent *);            /* its cost is not ours to say */

/* Books what the list says now of the requests that came in [from_us, to_us), the difference as a CORRECTION to each attempt. */
bool prices_rebook(struct prices *, struct ledger *, const Corral__RepriceRequest *, Corral__RepriceReply *ret, struct why *);
#endif

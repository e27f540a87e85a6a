/* price_list.h - prices in memory, and what was found among them lately: neighbours in a stream of attempts are alike. See price.h.
 *
 * The ledger has one, and each worker of a gateway its own: what was found is kept without a lock. One thread. */
#ifndef CORRAL_POLICY_PRICE_LIST_H
#define CORRAL_POLICY_PRICE_LIST_H
#include "common/policy/price.h"

struct price_list;

/* The prices in force for one attempt; either may be NULL. */
struct price_pair { const struct price *tokens, *machine; };

struct price_list *price_list_new(void);
void price_list_free(struct price_list *);        /* NULL is fine */
void price_list_clear(struct price_list *);
void price_list_add(struct price_list *, const struct price *);          /* copies its words */
const struct price *price_list_all(const struct price_list *, size_t *ret_n);     /* in the order of adding; until the next add or clear */
/* Equal prices added in the same order have equal ones; 0 = there is none. */
uint64_t price_list_version(const struct price_list *);
/* Both NULL also when there is no list (NULL). Until the next add or clear. */
struct price_pair price_list_find(struct price_list *, const char *provider, const char *backend, const char *model, int64_t at_us);
#endif

/* facts.h - what gateways tell of themselves: audit entries, and when keys were used, from their spools (common/store/ship.h).
 *
 * The cursor of each spool moves in the transaction that writes its entries: nothing is there twice, and nothing is left out between. */
#ifndef CORRAL_ACCESS_FACTS_H
#define CORRAL_ACCESS_FACTS_H
#include "facts.pb-c.h"
#include "services/access/store.h"

#define FACTS_TOPIC "access.v1"

/* How far it has that source; 0 = nothing yet. */
enum err facts_cursor(struct access_store *, const char *source, uint64_t *ret, struct why *);
/* Applies the batch if it begins where the cursor is; *ret is the cursor now. *ret_bad: records that are no facts, or say what no log can hold; they are left out. */
enum err facts_take(struct access_store *, const Corral__FactBatch *, int64_t now_us, uint64_t *ret, unsigned *ret_bad, struct why *);
#endif

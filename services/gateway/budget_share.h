/* budget_share.h - asks the usage-tracker for leases of budgets and gives back what is idle (purse.h); keeps the list of budgets, also on disk,
 * so that a start while the usage-tracker is away refuses what it must. Control thread.
 *
 * With the answers come the prices, when they have changed (price_share.h).
 *
 *   no budget     asks once a second whether there is one by now
 *   otherwise     every 200 ms, sooner when a request waits for more
 *
 * Each life of a gateway is a holder of its own. The names of earlier lives are kept until all of their facts are with the ledger; then it is
 * told that they have ended, and what they had been lent and did not use is free. */
#ifndef CORRAL_GATEWAY_BUDGET_SHARE_H
#define CORRAL_GATEWAY_BUDGET_SHARE_H
#include "services/gateway/gateway.h"

struct budget_share;

/* Before the workers run: gateway.purses are made here. */
struct budget_share *budget_share_new(struct gateway *);
void budget_share_open(struct budget_share *);    /* asks from now on */
void budget_share_leave(struct budget_share *);   /* draining: what is idle is for the others now */
/* Asked while leaving, with no request under way: nothing is lent to this life any more; false: not yet, it is on its way. */
bool budget_share_left(struct budget_share *);
void budget_share_free(struct budget_share *);    /* after the workers; NULL is fine */

const char *budget_share_holder(const struct budget_share *);
/* Any thread: a request waits. */
void budget_share_need(struct budget_share *);
/* Any thread: since when the usage-tracker does not answer, mono; 0 = it does. And how many answers there were. */
int64_t budget_share_away_us(const struct budget_share *);
uint64_t budget_share_answers(const struct budget_share *);
#endif

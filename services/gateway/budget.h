/* budget.h - the budgets of a request (purse.h): reserved by the stage 'reserve' before each attempt, settled with what it really used on every
 * way out. Who is covered by none pays one look at a counter. A worker's own. */
#ifndef CORRAL_GATEWAY_BUDGET_H
#define CORRAL_GATEWAY_BUDGET_H
#include "services/gateway/req.h"

/* The attempt's FINAL is written, and says this. Once; without a reservation nothing happens. */
void budget_settle(struct req *, uint64_t tokens, int64_t cost_microusd);
/* The attempt, or the request, goes no further and used nothing that was not settled. */
void budget_end(struct req *);
/* Those that wait for more of a budget look again; who has waited too long is refused. */
void budget_news(struct worker *);
#endif

/* settle.h - what a provider told later of an attempt whose end nobody had heard: the row gets its word in place of the guess, the difference is booked
 * as a CORRECTION, so that sums and budgets follow. What a provider reported at once stays as it is. */
#ifndef CORRAL_USAGE_SETTLE_H
#define CORRAL_USAGE_SETTLE_H
#include "services/usage-tracker/prices.h"

/* NOT_FOUND: that attempt has not ended in the ledger. Said again, it changes nothing. */
bool ledger_settle(struct ledger *, struct prices *, const Corral__SettleRequest *, struct arena *, Corral__SettleReply *ret, struct why *);
#endif

/* feedback.h - what people and programs say of answers: a row for each request and author, in the ledger's database. */
#ifndef CORRAL_USAGE_FEEDBACK_H
#define CORRAL_USAGE_FEEDBACK_H
#include "common/store/db.h"
#include "events.pb-c.h"

/* Keeps it when the ledger has the request, and it is the tenant's. False with *why: NOT_FOUND, INVALID, or the store's own. */
bool feedback_keep(struct db *, const Corral__FeedbackEvent *, bool *ret_replaced, struct why *);
#endif

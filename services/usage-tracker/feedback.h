/* feedback.h - what people and programs say of answers: a row for each request and author, in the ledger's database. */
#ifndef CORRAL_USAGE_FEEDBACK_H
#define CORRAL_USAGE_FEEDBACK_H
#include "common/store/db.h"
#include "events.pb-c.h"

enum feedback_outcome { FEEDBACK_NEW, FEEDBACK_REPLACED, FEEDBACK_OF_OTHERS, FEEDBACK_UNSOUND };

/* Keeps it, inside a transaction. What is newer stays; of another tenant's request nothing is kept. A request that the ledger does not have
 * yet may still come: then the tenant is that of who said it, "" when it may speak of any, and counts only where the two agree. */
bool feedback_keep(struct db *, const Corral__FeedbackEvent *, enum feedback_outcome *ret, struct why *);
/* One record of feedback.v1; what is none goes to dead_letters. */
bool feedback_record(struct db *, struct str record, struct str source, enum feedback_outcome *ret, struct why *);
#endif

/* explain_json.h - a decision in JSON: features, candidates with each term, who lost and why. For /explain and POST /explain. */
#ifndef CORRAL_GATEWAY_EXPLAIN_JSON_H
#define CORRAL_GATEWAY_EXPLAIN_JSON_H
#include "common/data/json_write.h"
#include "selector.pb-c.h"

/* Members of an open object: features, chosen, candidates, rejected, reason, confidence. */
void explain_json(struct json_out *, const Corral__DecisionFeatures *, const Corral__DecisionOutcome *);
/* Members of it: who decided, and under decide=remote why not the selector. 'not_asked' may be NULL. */
void decider_json(struct json_out *, const char *by, const char *not_asked);
void time_json(struct json_out *, const char *key, int64_t us);       /* RFC 3339 or null */
#endif

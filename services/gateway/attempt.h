/* attempt.h - one try on one backend: START, send, relay the answer, FINAL. Stage dispatch starts it; callbacks of the HTTP client drive it. */
#ifndef CORRAL_GATEWAY_ATTEMPT_H
#define CORRAL_GATEWAY_ATTEMPT_H
#include "services/gateway/req.h"

enum step attempt_start(struct req *, struct replica_state *slot, uint16_t replica);
/* Ends whatever is under way: the backend's connection closes, the slot is free, the FINAL is written. Nothing under way is fine. */
void attempt_close(struct req *);
/* The client left: true when the call goes on for the model's sake, until the load is done. */
bool attempt_orphan(struct req *);
/* What a backend that is asked by this request is told and says; what a native answer shows of it. */
struct llm_target attempt_target(struct req *, uint16_t replica);
struct llm_extra attempt_extra(struct req *);
/* The worker's sweep: silence, deadlines. */
void attempt_tick(struct req *, int64_t now_us);
#endif

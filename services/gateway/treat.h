/* treat.h - what an arm does to a request besides its model: parameters that it does not say itself, and a prompt around what was asked last. */
#ifndef CORRAL_GATEWAY_TREAT_H
#define CORRAL_GATEWAY_TREAT_H
#include "services/gateway/req.h"

/* Whom experiments know the request by: fills features.user, session and conversation, as hashes that tell nothing of the names. */
void treat_units(struct req *);
/* After a decision: what goes to the model that was chosen. That of the arm gets it treated, another one as it came. */
enum err treat(struct req *, struct why *);
/* "experiment" of a native answer: {"id","arm"}, or "" without an arm. */
struct str treat_json(struct req *);

/* The body with the arm's parameters and prompt, in the arena; the same when the arm has neither, or nothing to change. */
struct str treat_body(const struct llm_in *, const Corral__ExperimentArm *, struct arena *);
#endif

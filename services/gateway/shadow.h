/* shadow.h - shadow runs: what a client asked is asked of another arm's model too, for the experiment alone.
 *
 * A shadow is a request of the gateway's own, behind that of a client whose experiment says so (Experiment.shadow). It begins when the client's has
 * its slot, with a copy of the body, and goes by stages of its own: no limits, no budgets, no cache, no queue. It takes a slot that is free and that
 * nobody waits for, or does not run; when a client comes to wait for that model it is ended and gives the slot back. It goes to no provider in the
 * cloud, and makes no backend load a model. What it does says nothing to breakers, metrics of attempts and service times. In the ledger it stands
 * in a table of its own (UsageEvent.shadow_of). One worker has it. */
#ifndef CORRAL_GATEWAY_SHADOW_H
#define CORRAL_GATEWAY_SHADOW_H
#include "services/gateway/req.h"

struct shadow;
struct worker;

/* The client's request has its slot; it names the arm (req.shadow_arm). Copies what is needed; the rest happens in the next turn of the loop. */
void shadow_ask(struct req *client);
/* pipeline.c: gives a request of its own what the client's had; its answer is nobody's. */
void shadow_dress(struct shadow *, struct req *);
/* pipeline.c: that request is over; frees the shadow. */
void shadow_ended(struct req *);
/* The client's request id, for the ledger. */
struct uuid *shadow_client(struct shadow *);

/* A client's request waits in that queue: a shadow on its model, if there is one, makes way. */
void shadows_make_way(struct worker *, struct model_queue *);
/* Ten times a second: those whose slot is waited for, or was taken from this gateway, make way. */
void shadows_sweep(struct worker *);
/* The worker drains or ends: all of them. */
void shadows_end(struct worker *);

/* pipeline.c */
void req_start_shadow(struct worker *, struct shadow *, const uint8_t trace_id[16]);
#endif

/* dispatch.c - sends the request to the replica whose slot the queue stage took. */
#include "services/gateway/attempt.h"
#include "services/gateway/shadow.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

static enum step enter(struct req *r)
{
	struct replica_state *s = r->slot;

	r->slot = NULL;
	if (r->shadow_arm)
		shadow_ask(r);
	for (uint16_t i = 0; i < r->pick.n_ranked; i++)
		if (r->world->states[r->pick.ranked[i].replica] == s)
			return attempt_start(r, s, r->pick.ranked[i].replica);
	breaker_neutral(&s->breaker, r->probe);
	if (r->slot_charged_us)
		queue_settle(s->queue, r->tenant, -r->slot_charged_us);
	r->slot_charged_us = 0;
	slot_free(s, 0);
	return req_fail(r, ERR_INTERNAL, "the slot that was granted belongs to no candidate");
}

const struct stage stage_dispatch = { "dispatch", enter };

/* remote.h - decide=remote: the selector decides, for each request, from the inputs this gateway would decide from.
 *
 *   worker: features, load ─▶ control thread: Decide, with the time that is left ─▶ worker: the selector's numbers, or why there are none
 *
 * Without an answer (away, late, another model snapshot than this request's) the gateway decides itself, at once, and says so. Once
 * late, the selector is left alone for a second, so that one that stands still does not delay every request. */
#ifndef CORRAL_GATEWAY_REMOTE_H
#define CORRAL_GATEWAY_REMOTE_H
#include "services/gateway/req.h"

/* STEP_WAIT: 'then' runs later on the worker, with the decision in r->pick (by_selector) or without one (r->not_asked says why).
 * STEP_NEXT: it is not asked now, and r->not_asked says why. */
enum step remote_decide(struct req *, enum step (*then)(struct req *, bool by_selector));
#endif

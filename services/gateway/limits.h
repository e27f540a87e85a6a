/* limits.h - the limits of a request's key and tenant (scope.h): taken by the stage 'limits', given back on every way out. A worker's own. */
#ifndef CORRAL_GATEWAY_LIMITS_H
#define CORRAL_GATEWAY_LIMITS_H
#include "services/gateway/req.h"

/* The request is over, or goes no further: its place is free, and its tokens are those that were used. Once; nothing taken is fine. */
void limits_end(struct req *);
/* Those that wait for a part of a limit look again; who has waited too long is refused. */
void limits_news(struct worker *);
#endif

/* limit_share.h - this gateway's part of the limits where several share them: tells access what it has used and needs, and applies what it is
 * given (scope.h). Control thread.
 *
 *   alone     asks every 500 ms whether that is still so
 *   shared    tells every 200 ms what was used, sooner when a request waits for more
 *   on its own   access is not heard: goes on with the n-th part of each limit, n being the gateways that there were
 *
 * A gateway that stood still (SIGSTOP, a machine that slept) lets no limited request through until it has asked again. */
#ifndef CORRAL_GATEWAY_LIMIT_SHARE_H
#define CORRAL_GATEWAY_LIMIT_SHARE_H
#include "services/gateway/door.h"

struct limit_share;

struct limit_share *limit_share_new(struct door *);
void limit_share_leave(struct limit_share *);   /* draining: what is held is for the others now */
void limit_share_free(struct limit_share *);    /* NULL is fine */
#endif

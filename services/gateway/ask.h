/* ask.h - a question of a request to another service: worker -> control thread -> RPC -> control thread -> worker.
 *
 * The reply is turned into JSON on the control thread and answered on the worker; a client that leaves meanwhile costs nothing. */
#ifndef CORRAL_GATEWAY_ASK_H
#define CORRAL_GATEWAY_ASK_H
#include "services/gateway/worker.h"

struct ask {
	struct gateway *gw;
	struct worker *worker;
	struct req *req;              /* NULL: it ended. The worker's */
	struct arena *mem;            /* the ask's own; freed with it */
	void (*call)(struct ask *);   /* on the control thread: starts the RPC; its closure calls ask_done() */
	struct buf body;              /* the answer */
	const char *content_type;     /* NULL = application/json */
	int status;
	struct why err;
	/* what the question needs, in mem */
	void *query;
};

struct ask *ask_new(struct req *, void (*call)(struct ask *));
enum step ask_send(struct ask *);     /* STEP_WAIT */
void ask_drop(struct ask *);          /* was never sent */
void ask_done(struct ask *);          /* status and body are set, or err */
void ask_failed(struct ask *, struct rpc_client *, const char *service);
/* A time of the query: RFC 3339, a day, or seconds; absent leaves *ret. False: the request has failed. */
bool ask_time(struct req *, struct ask *, const char *name, int64_t *ret);
#endif

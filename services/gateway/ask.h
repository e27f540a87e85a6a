/* ask.h - a question of a request to another service: worker -> control thread -> RPC -> control thread -> worker.
 *
 * The reply is turned into JSON on the control thread and answered on the worker; a client that leaves meanwhile costs nothing. */
#ifndef CORRAL_GATEWAY_ASK_H
#define CORRAL_GATEWAY_ASK_H
#include "common/data/json_write.h"
#include "services/gateway/worker.h"

struct ask {
	struct list node;             /* on the gateway's list, under its lock */
	struct gateway *gw;
	struct worker *worker;
	struct req *req;              /* NULL: it ended. The worker's */
	struct arena *mem;            /* the ask's own; freed with it */
	void (*call)(struct ask *);   /* on the control thread: starts the RPC; its closure calls ask_done() */
	enum step (*then)(struct req *, struct ask *);    /* on the worker: goes on with what came, instead of answering with 'body' */
	struct buf body;              /* the answer */
	const char *content_type;     /* NULL = application/json */
	int status;
	struct why err;
	/* what the question needs, in mem */
	void *query;
	char request_id[37];          /* for the other service's log */
	struct ask *behind;           /* the next on the gateway's list of those that wait for a model snapshot */
	struct snapshot_id needs;
	int64_t patience_us;          /* loop clock */
	_Atomic unsigned unseen;      /* workers that may not have it yet */
};

struct ask *ask_new(struct req *, void (*call)(struct ask *));
enum step ask_send(struct ask *);     /* STEP_WAIT */
void ask_drop(struct ask *);          /* was never sent */
void ask_done(struct ask *);          /* status and body are set, or err */
/* The same, when every worker has a model snapshot that is at least this one: the client's next request must see what it was told. */
void ask_done_with_models(struct ask *, struct snapshot_id);
void ask_models_came(struct gateway *);       /* looks at those that wait for one */
/* An answer that is one JSON object: opened in 'body', and closed; the second calls ask_done(). */
struct json_out ask_json(struct ask *, int status);
void ask_json_done(struct ask *, struct json_out *);
void ask_failed(struct ask *, struct rpc_client *, const char *service);
/* A time of the query: RFC 3339, a day, or seconds; absent leaves *ret. False: the request has failed. */
bool ask_time(struct req *, struct ask *, const char *name, int64_t *ret);
/* When the peers are closed and the workers stopped: what was on its way between threads then will never arrive. */
void ask_forget_all(struct gateway *);
#endif

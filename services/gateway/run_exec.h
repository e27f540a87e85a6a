/* run_exec.h - one execution of a job: a request from inside through the same pipeline as any other, on a worker; what it answers goes back in pieces.
 *
 * The control thread makes it and posts it to a worker; the worker fills what is under the lock and posts 'look' to the control thread; when
 * 'ended' is set the worker has let go of it, and the control thread frees it. */
#ifndef CORRAL_GATEWAY_RUN_EXEC_H
#define CORRAL_GATEWAY_RUN_EXEC_H
#include <pthread.h>

#include "common/io/http_local.h"
#include "common/io/ndjson.h"
#include "common/io/sse.h"
#include "services/gateway/run_store.h"
#include "services/gateway/worker.h"

enum { RUN_OUTPUT_MAX = 64 << 20 };           /* of one job, as of any answer that is made whole */

struct run_exec {
	struct list link;             /* the control thread's list of what runs */
	struct gateway *gw;
	struct worker *worker;
	struct arena *mem;
	struct run run;               /* as claimed; read-only for the worker */
	void (*look)(void *arg);      /* on the control thread, with this */
	bool lost;                    /* the control thread's: a piece could not be kept, so it has failed, however it ends */
	bool gone;                    /* the control thread's: it was cancelled or is another gateway's now; nothing of it is written any more */

	/* the worker's */
	struct list node;
	struct http_local *http;      /* NULL: not begun, or over */
	enum { RUN_WHOLE, RUN_EVENTS, RUN_LINES } form;
	struct sse_reader events;
	struct ndjson_reader lines;
	struct loop_timer flush;
	struct buf whole;
	size_t said_bytes;
	const char *leave;            /* why it is to be left in the next turn; NULL = it is not */

	pthread_mutex_t lock;
	struct buf pieces;            /* JSON texts, a line feed behind each */
	uint32_t n_pieces;
	bool posted, ended;

	/* set before 'ended' */
	enum run_state state;
	bool again;                   /* nothing was answered, and later it may be */
	int64_t wait_us;
	struct why why;
	char request_id[37];
};

struct run_exec *run_exec_new(struct gateway *, struct arena *mem, const struct run *, void (*look)(void *arg));   /* takes the arena */
void run_exec_free(struct run_exec *);
void run_exec_post(struct run_exec *, struct worker *);
/* By its id, for it may be over by now: the client's word, or a failure of ours ('why' is a literal). */
void run_exec_stop(struct worker *, const char *id, const char *why);

/* pipeline.c: a request that is a job's is over. */
void run_request_ended(struct req *);
#endif

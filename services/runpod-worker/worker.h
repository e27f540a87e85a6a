/* worker.h - a worker of RunPod's queue: takes jobs there, has a gateway do them, hands the answers in.
 *
 *   queue.c   take ──▶ job.c ──▶ gateway            what RunPod calls a worker; one loop, one thread
 *     stop ──────────▶  │  ◀── pieces, answer
 *     ping              └────▶ queue.c posts
 *
 * A job is one request to the gateway, over a connection of its own: whoever ends the job closes it, and the gateway its backend's. service.c has the
 * table, looks whether the gateway is well, and drains. */
#ifndef CORRAL_RUNPOD_WORKER_WORKER_H
#define CORRAL_RUNPOD_WORKER_WORKER_H
#include "common/base/list.h"
#include "common/io/http_client.h"
#include "common/io/https_out.h"
#include "common/svc/svc.h"
#include "services/runpod-worker/message.h"

struct worker_config {
	const char *url, *api_key, *runpod_get_job, *runpod_post_output, *runpod_post_stream, *runpod_ping, *runpod_api_key, *runpod_pod_id, *runpod_ca_file;
	int64_t jobs, job_timeout, job_retry, runpod_ping_interval;
};

enum { M_JOBS, M_RUNNING, M_ROOM, M_SECONDS, M_TRIES, M_TAKES, M_POSTS, M_PINGS, M_COUNT };

struct worker {
	struct svc *svc;
	struct loop *loop;
	const struct worker_config *cfg;
	struct arena *mem;

	/* the gateway */
	struct http_pool *pool;
	const char *where;            /* its address, for sentences */
	struct str headers;           /* of each request there: whole lines */
	struct http_fetch *look;      /* "are you well?", "how many slots?" */
	struct loop_timer look_timer, drain_timer;
	bool ready, said, said_ready;

	/* the queue */
	struct https_out *out;
	struct str auth, take_url, stop_url, output_url, stream_url, ping_url;       /* stop, stream, ping: empty = none */
	struct https_fetch *take, *stop, *ping;
	struct loop_timer take_timer, stop_timer, ping_timer;
	int64_t take_us, stop_us, take_wait_ms, stop_wait_ms;
	bool take_failed, stop_failed, ping_failed;

	struct list jobs;
	unsigned n_jobs, room;        /* room: how many at once */
	bool waits;                   /* until the one before has let go: a successor */
	bool draining, drained;
};

/* --- queue.c --- */
bool queue_open(struct worker *, struct why *);
void queue_begin(struct worker *);            /* from now on jobs are taken, and it is told that this worker lives */
void queue_close(struct worker *);            /* no callback follows */
void queue_wake(struct worker *);             /* asks for jobs, if there is room and nothing against it */
void queue_no_more(struct worker *);          /* takes no job from now on */
/* Hands in the body; 'done' as that of https_fetch(). */
struct https_fetch *queue_post(struct worker *, bool is_answer, bool is_stream, struct str job_id, struct str body,
			       void (*done)(void *arg, int status, struct str body, const char *error), void *arg);
/* Whether it may be handed in once more, after that status (0 = none). */
bool queue_may_repeat(int status);

/* --- job.c --- */
struct job;
void job_start(struct worker *, const struct taken *);
void job_stop(struct worker *, struct str id);        /* it was cancelled: ends without an answer; of none here is fine */
void jobs_end(struct worker *, const char *why);      /* all of them, each with this sentence as its answer */
void jobs_drop(struct worker *);                      /* without answers */
void add_job_ids(struct worker *, struct buf *);      /* with commas between */

/* --- service.c --- */
void worker_gateway_gone(struct worker *);            /* a job found nobody there: looks at once */
void worker_job_ended(struct worker *);
#endif

/* message.h - what is said between a worker and RunPod's queue, as bytes: addresses, jobs, and what a job's input asks of the gateway.
 *
 * Facts as RunPod's own SDK has them: a worker takes a job by GET, hands pieces of a stream and the answer in by POST, hears what was cancelled by a
 * GET that is held open, and tells by GET that it lives. Pure: no I/O; what is given back lies in the arena or in what was read. */
#ifndef CORRAL_RUNPOD_WORKER_MESSAGE_H
#define CORRAL_RUNPOD_WORKER_MESSAGE_H
#include <stdbool.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/str.h"

/* --- addresses --- */

/* Is it an address of http(s) that can be asked? The sentence names 'variable' and shows nothing of a query, which may hold a secret. */
enum err url_check(const char *url, const char *variable, struct why *);
/* "https://host" of it: all that is fit for logs. */
struct str url_host(struct str url);
/* The template with $RUNPOD_POD_ID replaced by the worker's id; with is_take $ID as well, which elsewhere is the job's. */
void url_of_worker(struct buf *, const char *template, const char *worker_id, bool is_take);
/* Asks for 'wanted' jobs; several where the address is one that knows batches, else one. */
void url_take(struct buf *, struct str url, unsigned wanted, bool busy);
/* Where it is told which jobs were cancelled; false where the address does not say. */
bool url_stop(struct buf *, struct str take_url);
/* Where something of a job is handed in. */
void url_post(struct buf *, struct str url, struct str job_id, bool is_stream);
/* jobs: ids with commas between, may be empty. */
void url_ping(struct buf *, struct str url, struct str jobs, const char *version);

/* --- jobs --- */

struct taken {
	struct str id;                /* empty: it has none, and nobody can be answered */
	struct str input;             /* as it was written; empty: it has none */
};

/* One job, or a list of them; none is fine. ERR_MALFORMED when it is neither. */
enum err taken_read(struct str body, struct arena *, struct taken **ret, unsigned *ret_n, struct why *);
/* {"jobsToStop":["id",…]}; 0 for anything else. */
unsigned stops_read(struct str body, struct arena *, struct str **ret);

/* What a job asks of the gateway. */
struct plan {
	const char *method;
	struct str path, body;
	bool as_worker;               /* openai_route: its answer has the form that RunPod's vLLM worker gives it, for the platform hands that on as OpenAI's */
};

/* The input, in any form that POST /run of the gateway takes, for routes that ask a model and no other; and openai_route /v1/models. ERR_MALFORMED,
 * ERR_INVALID, ERR_UNSUPPORTED_FIELD with the sentence for whoever sent the job. */
enum err plan_read(struct plan *, struct str input, struct arena *, struct why *);

/* --- answers --- */

/* {"output":JSON}, {"error":"TEXT"} */
void add_output(struct buf *, struct str json);
void add_error(struct buf *, struct str text);
/* The sentence in an error body or a piece of any dialect, in the arena; empty when it is no error. */
struct str error_in(struct str json, struct arena *);
#endif

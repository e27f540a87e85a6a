/* runs.h - the durable jobs of /run: kept on disk (run_store.h), executed as requests of their own (run_exec.h), asked for by id.
 *
 * Control thread. The questions come as asks (ask.h) from stages/runs.c with a struct run_ask as their query. */
#ifndef CORRAL_GATEWAY_RUNS_H
#define CORRAL_GATEWAY_RUNS_H
#include "services/gateway/ask.h"
#include "services/gateway/run_store.h"

struct runs;

struct run_ask {
	struct run run;               /* submit: what to keep; its id is made here */
	char id[40];                  /* the others: which */
	int64_t wait_ms;              /* submit: how long to wait for its end; 0 = not */
	bool sees_all;                /* may see other tenants' jobs */
	const char *tenant;
	int64_t from;                 /* stream: pieces from here on; -1 = those not handed out yet */
};

/* NULL with *why when its database cannot be opened. A server that cannot be reached is no reason: it is tried again, and until then
 * whoever asks is told so. */
struct runs *runs_open(struct gateway *, struct why *);
void runs_go(struct runs *);          /* there is something to decide with: jobs may begin */
void runs_drain(struct runs *);       /* no job begins any more */
void runs_close(struct runs *);       /* after the workers were stopped: what they did not finish waits for the next start; NULL is fine */

/* These are struct ask's 'call'. */
void runs_submit(struct ask *);
void runs_status(struct ask *);
void runs_stream(struct ask *);
void runs_cancel(struct ask *);
#endif

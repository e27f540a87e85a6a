/* run_store.h - the jobs of /run on disk: a row a job, and what a stream has said so far in pieces. Control thread.
 *
 *   IN_QUEUE ──claim──▶ IN_PROGRESS ──end──▶ COMPLETED | FAILED | TIMED_OUT         CANCELLED from both
 *       ◀──────requeue──────┘
 *
 * Several gateways may share one database: a job in progress belongs to the gateway that claimed it ("owner"), which says now and then that it lives.
 * What belongs to one that is silent is taken back: a job that had said nothing yet is queued again, one whose answer had begun has failed. */
#ifndef CORRAL_GATEWAY_RUN_STORE_H
#define CORRAL_GATEWAY_RUN_STORE_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/store/db.h"

enum run_state { RUN_IN_QUEUE, RUN_IN_PROGRESS, RUN_COMPLETED, RUN_FAILED, RUN_CANCELLED, RUN_TIMED_OUT };
const char *run_state_name(enum run_state);   /* "IN_QUEUE" */
static inline bool run_ended_state(enum run_state s) { return s >= RUN_COMPLETED; }

enum { RUN_TRIES = 3 };                       /* executions that a crash may cut off before the job counts as its cause */

struct run {
	const char *id, *tenant, *key_id;
	int64_t role;                         /* of who asked without a key */
	const char *path;
	struct str body;
	enum run_state state;
	int64_t created_us, started_us, ended_us, expires_us;
	int64_t execution_ms;
	uint32_t tries;
	uint32_t chunks, delivered;           /* pieces of a stream: made, and handed out by /stream */
	const char *error_code, *error;
	const char *request_id;               /* of the last execution; "" = none */
	struct str output;                    /* a JSON value; "" = none */
};

struct run_store;
extern const struct db_migration run_migrations[];

/* 'owner' names this gateway over restarts. What an earlier run of it left in progress is taken back at once. */
struct run_store *run_store_open(const char *url, const char *owner, int64_t now_us, struct why *);
void run_store_close(struct run_store *);

bool run_add(struct run_store *, const struct run *, struct why *);
/* False with *why.code ERR_OK: there is none. Strings in the arena; with_body: body, key and path too. */
bool run_get(struct run_store *, struct str id, bool with_body, struct arena *, struct run *ret, struct why *);
int64_t run_waiting(struct run_store *, struct str tenant);
bool run_waiting_bytes(struct run_store *, struct str tenant, int64_t *ret_tenants, int64_t *ret_all, struct why *);       /* reads a row for each that waits */
enum { RUN_NOT_NOW = 1 << 30 };               /* as a weight: no job of this tenant */
/* The oldest job that may begin, of the tenant for which 'weight' is lowest; it is in progress and ours then. False: none, or *why. */
bool run_claim(struct run_store *, int64_t now_us, unsigned (*weight)(void *arg, const char *tenant), void *arg, struct arena *, struct run *ret, struct why *);

/* Pieces of an answer, each a JSON text, with a line feed behind each. */
bool run_say(struct run_store *, const char *id, struct str pieces, uint32_t n, bool *ret_ours, struct why *);
/* All four change nothing when the job is no longer ours and in progress; *ret_ours (may be NULL) says so. */
bool run_finish(struct run_store *, const struct run *, bool *ret_ours, struct why *);       /* id, state, ended_us, error…, request_id, output */
bool run_requeue(struct run_store *, const char *id, int64_t not_before_us, const char *error, bool *ret_ours, struct why *);
bool run_cancel(struct run_store *, const char *id, int64_t now_us, bool *ret_changed, struct why *);

/* Hands out pieces from number 'from' on, up to about 'most' bytes, in *ret with line feeds; *ret_n of them. */
bool run_pieces(struct run_store *, const char *id, uint32_t from, size_t most, struct arena *, struct str *ret, uint32_t *ret_n, struct why *);
bool run_delivered(struct run_store *, const char *id, uint32_t delivered, struct why *);

/* --- time and room --- */
struct run_counts { int64_t waiting, running, ended, bytes, waiting_bytes; };
bool run_count(struct run_store *, struct run_counts *, struct why *);
bool run_alive(struct run_store *, int64_t now_us, struct why *);                    /* we live; what belongs to the silent is taken back */
bool run_expire(struct run_store *, int64_t now_us, int64_t keep_us, struct why *);  /* too long in the queue; ended too long ago */
/* Forgets the job that ended longest ago; 0 = none has ended, else the bytes it had. */
int64_t run_forget_oldest(struct run_store *, struct why *);
/* Calls fn with each job of ours that another gateway, or nobody's client, cancelled since. */
bool run_cancelled(struct run_store *, int64_t since_us, void (*fn)(void *arg, const char *id), void *arg, struct why *);
#endif

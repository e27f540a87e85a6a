/* jobs.h - durable work on models: pull, delete (after a grace time), preload, unload; and the marks protected and pinned.
 *
 *   asked ──▶ waiting ──▶ running ──▶ done | failed
 *                 └──────────┴──────▶ cancelled
 *
 * A job is a row in the registry's database from the moment it is answered for, so that kill -9 loses none: what had not ended goes on at
 * the next start. The same work asked twice is one job. Long calls to backends are the registry's own: no client that leaves ends them.
 * jobs.c drives, jobs_store.c keeps, job_pull.c, job_delete.c and job_load.c do the work. All of it on the registry's loop. */
#ifndef REGISTRY_JOBS_H
#define REGISTRY_JOBS_H
#include "common/base/list.h"
#include "common/io/ndjson.h"
#include "common/store/db_thread.h"
#include "jobs.pb-c.h"
#include "services/model-registry/registry.h"

enum job_kind { JOB_PULL, JOB_DELETE, JOB_PRELOAD, JOB_UNLOAD, JOB_PROTECT, JOB_UNPROTECT, JOB_PIN, JOB_UNPIN, JOB_KINDS };
enum job_state { JOB_WAITING, JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED };      /* as in jobs.proto, and on disk */

enum { JOB_LAYERS = 64 };
struct job_layer { char digest[72]; uint64_t total, completed; };

struct jobs;
struct job;

extern const struct db_migration jobs_migrations[];

struct job_work {
	const char *name;             /* "pull" */
	/* Goes on with the work, or begins: at start, after a wait, after a restart. Ends in job_done(), job_failed() or job_wait(),
	 * never before it returned unless nothing has to be asked. NULL: done when asked. */
	void (*go)(struct job *);
};

struct job {
	struct list node;             /* in jobs->all, oldest first */
	struct jobs *jobs;
	char id[37];
	enum job_kind kind;
	enum job_state state;
	char model[256];              /* as clients call it; a pull: as it was asked */
	char backend[128];            /* "" = every one that has it */
	char phase[64], status_text[128];
	uint64_t bytes_done, bytes_total;
	double bytes_per_s;
	int64_t expected_us;          /* a load: how long the last one took; 0 = not known */
	int64_t created_us, started_us, ended_us, removes_at_us;      /* wall clock */
	char error_code[32], error[400];
	uint32_t asked, tries;
	bool unkept;                  /* its row as it is could not be written; tried again now and then */
	uint32_t puts;                /* times that it was to be written */

	/* of the run in hand */
	struct http_call *call;
	struct http_fetch *fetch;
	struct loop_timer timer;
	struct ndjson_reader lines;
	struct buf request, answer;
	struct arena *mem;            /* of a call's head */
	int answer_status;
	struct job_layer layers[JOB_LAYERS];
	unsigned n_layers;
	size_t at;                    /* backends done with */
	bool succeeded;
	int64_t began_us;             /* mono: this run */
	int64_t measured_us, kept_us; /* mono: when rate was measured, progress was kept */
	uint64_t measured_bytes;
};

/* Marks that people set; those of the configuration are apart. */
struct mark {
	struct mark *next;
	char model[256];              /* model_key() of it */
	bool is_protected, pinned;
	int64_t again_us;             /* mono: a pinned model that was unloaded is not loaded again before */
};

struct jobs {
	struct registry *registry;
	struct loop *loop;
	struct db_thread *store;
	struct load_time *loads;      /* how long each took last */
	struct list all;
	struct mark *marks;
	struct loop_timer tend_timer; /* pinned models that were unloaded; old rows */
	struct series *ended[JOB_KINDS][3], *active;
};

/* Opens "<state_dir>/jobs.db" (or url) and goes on with what had not ended. */
struct jobs *jobs_new(struct registry *, const char *url, struct why *);
void jobs_free(struct jobs *);        /* breaks calls off; the jobs go on at the next start. NULL is fine */

/* Starts or joins. NULL with *why: MODEL_NOT_FOUND, FORBIDDEN, CONFLICT, INVALID, NOT_IMPLEMENTED, STORE_FAILED. */
struct job *jobs_act(struct jobs *, struct str action, struct str model, struct str backend, int64_t grace_ms, bool *ret_joined, struct why *);
struct job *jobs_find(struct jobs *, struct str id);
/* A deletion that waits is undone so. CONFLICT when it has ended. */
enum err jobs_cancel(struct jobs *, struct job *, struct why *);
/* Which backend an Ollama client's create, copy, push or blob goes to. */
enum err jobs_check(struct jobs *, const Corral__AdminCheck *, struct arena *, Corral__AdminTarget *, struct why *);

/* --- what the rest of the registry asks; 'jobs' may be NULL --- */
bool jobs_hide(const struct jobs *, const char *backend, struct str model);           /* a deletion waits or runs */
bool jobs_pinned(const struct jobs *, struct str model);
/* By the configuration, by a mark, or because its files lie in a protected directory; *why_text (may be NULL) says which. */
bool jobs_protected(const struct registry *, struct str model, const char **why_text);
bool jobs_protected_by_name(const struct registry *, struct str model, const char **why_text);    /* the same without the directories */

/* Those that load into an Ollama and wait for it now, as activity with load_wait_ms. */
void jobs_loads(const struct jobs *, struct arena *, Corral__LeaseRequest *ret);

void job_pb(const struct job *, struct arena *, Corral__Job *);
const char *job_kind_name(enum job_kind);

/* --- for the files that do the work --- */
extern const struct job_work job_pull_work, job_delete_work, job_preload_work, job_unload_work;
struct backend *jobs_backend(struct jobs *, const char *name);        /* NULL = none of that name */
void job_phase(struct job *, const char *phase);
void job_progress(struct job *);      /* bytes were set: measures the rate, keeps now and then */
void job_done(struct job *);
void job_failed(struct job *, enum err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Tries again after a while that grows with the tries; says meanwhile why. */
void job_wait(struct job *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void job_stop_calls(struct job *);
/* The first character that a model's name may not have, or another reason; NULL = it is a name. */
const char *model_name_fault(struct str name);

/* --- jobs_store.c --- */
bool store_open(struct jobs *, const char *url, struct why *);
void store_close(struct jobs *);
/* With 'why' it is there when they return, and the loop waits; with NULL that is tried later, in the order of the calls, and true is the answer. */
bool store_put(struct jobs *, struct job *, struct why *);
bool store_mark(struct jobs *, const struct mark *, struct why *);
void store_load_time(struct jobs *, const char *model, const char *backend, int64_t us);
int64_t store_last_load_us(struct jobs *, const char *model, const char *backend);
void store_forget(struct jobs *, int64_t ended_before_us);
#endif

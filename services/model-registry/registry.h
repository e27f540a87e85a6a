/* registry.h - which backends there are, what each has, and the snapshot made of it.
 *
 * A backend is visited (visit.h) by discovery.c; what a good listing found is held (stock.c) until the backend itself says
 * otherwise three times; catalog.c makes one ModelSnapshot of all that is held. Everything lives on one loop. */
#ifndef REGISTRY_REGISTRY_H
#define REGISTRY_REGISTRY_H
#include "common/base/buf.h"
#include "common/data/metrics.h"
#include "common/store/herald.h"
#include "models.pb-c.h"
#include "services/model-registry/settings.h"
#include "services/model-registry/strengths.h"

enum { MISSES_TO_REMOVE = 3 };

struct registry;

struct backend {
	struct registry *registry;
	const char *name, *url_text;
	const struct kind *configured;
	const struct kind *kind;      /* kind_probe until the server has told */
	struct http_pool *pool;
	struct listing *held;         /* never NULL */
	Corral__BackendState state;
	char reason[200];             /* why it is not up */
	char down_reason[200];        /* what the last visit said; "" = it answered */
	char sick[200];               /* it answers, and cannot generate: why; "" = it can, as far as is known */
	bool visited;                 /* it was listed since the start */
	bool doubted;                 /* the last visit failed, and it is asked again before that counts */
	int64_t looked_us;            /* mono: when a visit ended last */
	int64_t resident_us;          /* mono: when the visit began that was told last what is in memory */
	int64_t untold_us;            /* mono: when the first of the visits since began that were not told; 0 = there was none */
	int64_t moved_us;             /* mono: when a job loaded or unloaded something there last */
	int64_t checked_at_us;        /* wall clock */

	struct visit visit;
	bool visiting, list_again;
	int64_t visit_began_us;       /* mono */
	uint64_t lists_begun, lists_ended;
	struct series *up;
};

struct jobs;
struct sync;      /* somebody who waits for listings */

struct registry {
	struct loop *loop;
	const struct registry_config *config;
	const struct families *families;
	struct metrics *metrics;      /* registry_metrics[] */
	struct arena *mem;
	struct backend *backends;
	size_t n;
	struct tls_trust *trust;      /* for https backends; NULL = there is none of them */
	struct loop_timer sync_timer, look_timer, publish_timer;
	struct sync *syncs;
	Corral__ModelSnapshot *last;  /* the one published last, unpacked; NULL before */
	struct buf last_packed;       /* the same without its times of checking, to see what is new */
	struct jobs *jobs;            /* set by the owner, who frees it first; NULL = nothing is hidden or marked */
	uint64_t refused;             /* hash of the names refused last, so that each set is logged once */
	void (*on_snapshot)(void *arg, struct str packed);
	void (*on_state)(void *arg, unsigned up, unsigned known, unsigned n);
	void *arg;
	void (*on_db_wait)(void *arg, const char *server, int64_t waited_ms);     /* of the jobs' database, as db_thread_opts has it; may be NULL */
	void *db_wait_arg;
};

enum registry_metric { M_BACKEND_UP, M_MODELS, M_SYNC_SECONDS, M_SYNC_FAILURES, M_GATEWAYS, M_JOBS, M_JOBS_ACTIVE, M_CHECKS, M_RESTARTS, M_STANDBY, M_TURNS,
		       M_BUS, M_COUNT = M_BUS + HERALD_METRIC_COUNT };
extern const struct metric_def registry_metrics[M_COUNT];

/* Starts visiting in the next turn. 'kept' is an earlier snapshot, packed, or empty; its models stay until listings say otherwise.
 * on_snapshot gets every new one; on_state the number of backends that are up, and that were visited, whenever it may have changed. */
struct registry *registry_new(struct loop *, const struct registry_config *, struct metrics *, struct str kept,
			      void (*on_snapshot)(void *arg, struct str packed), void (*on_state)(void *arg, unsigned up, unsigned known, unsigned n), void *arg,
			      struct why *);
void registry_free(struct registry *);    /* syncs in progress are answered as unavailable; NULL is fine */

/* Lists one backend, or all for "", and tells when each has answered, at the latest a quarter of a second after list_timeout. 'done' is called once, with NULL when
 * the registry went away. NOT_FOUND at once for an unknown backend. */
enum err registry_sync(struct registry *, struct str backend, void (*done)(void *arg, const Corral__SyncReply *), void *arg, struct why *);

/* --- between its files --- */
/* discovery.c: what is published may have changed; a backend is to be listed, or looked at, as soon as it can. */
void registry_changed(struct registry *);
void registry_list_again(struct registry *, struct backend *);
void registry_look(struct registry *, struct backend *);
/* It cannot generate, and why; NULL: it can again. Until then it counts as down. */
void registry_set_sick(struct backend *, const char *why);
/* stock.c: what is held after a good listing; takes both, gives the new one. */
struct listing *stock_accept(struct listing *held, struct listing *found, int64_t now_us);
/* stock.c: the models of an earlier snapshot, into the backends of the same names. */
void stock_restore(struct registry *, const Corral__ModelSnapshot *);
/* catalog.c: the snapshot of all that is held, in the arena. */
Corral__ModelSnapshot *catalog_make(struct registry *, struct arena *, int64_t now_us);
#endif

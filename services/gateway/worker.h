/* worker.h - one of the gateway's identical threads: its loop, its listener, its calls to backends, its spools. */
#ifndef CORRAL_GATEWAY_WORKER_H
#define CORRAL_GATEWAY_WORKER_H
#include <pthread.h>
#include <stdatomic.h>

#include "services/gateway/admission.h"
#include "services/gateway/req.h"

struct price_list;
struct recall_seat;

struct backend_pool {
	struct backend_pool *next;
	struct http_url url;
	struct http_pool *pool;
};

struct worker {
	struct gateway *gw;
	unsigned index;
	pthread_t thread;
	bool running;
	struct loop *loop;
	struct http_server *server;
	struct world *world;          /* NULL until the first snapshot came */
	struct keyring *ring;         /* the same */
	struct price_list *prices;    /* NULL until the first came */
	struct admission admission;   /* of the head that was looked at last */
	struct snapshot_id logged_models, logged_policy, logged_experiments;  /* versions that the decision log has the bytes of */
	struct backend_pool *pools;
	struct recall_seat *recall;   /* NULL: the cache is off */
	struct spool *usage, *decisions;
	struct list open;             /* attempts with START and no FINAL, oldest first */
	struct list owed;             /* FINALs that the spool could not take, oldest first (account.c) */
	_Atomic uint64_t oldest_open; /* position below which the usage spool is no longer needed for recovery; UINT64_MAX = none open */
	struct list requests;         /* under way */
	struct list limit_waiters;    /* of them: those that wait for a part of a limit */
	_Atomic unsigned n_limit_waiters;
	struct list budget_waiters;   /* of them: those that wait for a budget to be lent (stages/reserve.c) */
	_Atomic unsigned n_budget_waiters;
	struct list runs;             /* of them: jobs, see run_exec.h */
	struct list shadows;          /* of them, and those that begin in the next turn: see shadow.h */
	uint32_t n_shadows;
	uint32_t n_requests;
	struct arena *spare[64];      /* reset arenas */
	unsigned n_spare;
	struct req *spare_req[64];
	unsigned n_spare_req;
	struct buf out;               /* lent to a stream for one turn: see attempt.c */
	struct loop_timer sweep;
	uint64_t run, run_finals, run_tokens; /* of 'usage' since it was opened, see UsageEvent; account.c */
	bool spool_failed;            /* the last append to 'usage' failed: logged once */
	bool draining, server_idle;
	char usage_dir[512], decisions_dir[512];
	struct series *m_gone, *m_queue_seconds;
	struct { enum llm_dialect dialect; int status; struct series *requests, *seconds; } m_requests[32];
	unsigned n_m_requests;
};

struct worker *worker_new(struct gateway *, unsigned index, struct why *);    /* at gateway.addresses; the first one notes the ports */
bool worker_run(struct worker *, struct why *);       /* starts the thread */
void worker_set_world(struct worker *, struct world *);       /* from the control thread; takes the reference */
void worker_set_tls(struct worker *, struct tls_identity *);  /* the same, but takes a reference of its own */
void worker_set_ring(struct worker *, struct keyring *);      /* the same */
void worker_set_prices(struct worker *, struct price_list *); /* the same; takes it */
void worker_sweep(struct worker *, int64_t now_us);   /* what time brings: ten times a second on its own thread */
void worker_limits_news(struct worker *);     /* from the control thread: there may be more of the limits now */
void worker_budget_news(struct worker *);     /* the same of budgets */
extern const char *const door_names[DOORS];   /* of the addresses: their options, and what their descriptors are offered as */
bool worker_add_door(struct worker *, unsigned door, int fd);         /* one more descriptor of that address; before it runs */
void worker_offer_doors(struct worker *);     /* to a successor */
void worker_open(struct worker *);            /* from the control thread: accept clients, as svc_def.open() says */
void worker_drain(struct worker *);           /* from the control thread; answers with gateway_worker_idle() on it */
void worker_hurry(struct worker *);
void worker_settle(struct worker *);          /* answers with gateway_worker_settled() when it has turned its loop */
void worker_stop(struct worker *);            /* ends its thread, then its requests; the spools stay open */
void worker_free(struct worker *);            /* stops and frees; NULL is fine */
struct http_pool *worker_pool(struct worker *, const struct http_url *);
void gateway_worker_idle(struct gateway *);   /* service.c */
void gateway_worker_settled(struct gateway *);
#endif

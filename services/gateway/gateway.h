/* gateway.h - the gateway's own nouns, and which thread has them.
 *
 *   control thread (the service's loop): snapshots in, facts out, asks of other services        struct gateway
 *   worker threads (N, alike): connections, requests, calls to backends, one spool each           struct worker
 *   shared between them: replica states (slots, breaker, queue), by atomics and one lock a queue   struct replica_state
 *   handed over whole: the world, what is known at one moment, immutable, counted                  struct world */
#ifndef CORRAL_GATEWAY_GATEWAY_H
#define CORRAL_GATEWAY_GATEWAY_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/budget.h"
#include "common/base/list.h"
#include "common/data/metrics.h"
#include "common/data/opt.h"
#include "common/io/http_client.h"
#include "common/io/http_server.h"
#include "common/io/loop.h"
#include "common/io/snapshot.h"
#include "common/policy/breaker.h"
#include "common/store/bus.h"
#include "common/store/spool.h"
#include "common/svc/svc.h"
#include "services/gateway/providers.h"

/* The addresses: what http_xchg.door says. */
enum { DOOR_PLAIN, DOOR_TLS, DOORS };

struct gateway;
struct budget_share;
struct certificate;
struct door;
struct limit_share;
struct purse_book;
struct recall;
struct runs;
struct trail;
struct worker;
struct world;
struct req;

struct gateway_config {
	const char *listen, *public_tls_listen, *public_tls_cert, *public_tls_key, *backend_ca;
	int64_t workers;
	int64_t max_body, max_blob, hold_max;
	int64_t admin_timeout;
	int64_t max_connections;
	int64_t request_timeout, first_byte_timeout, idle_timeout, connect_timeout;
	int64_t queue_max, queue_timeout;
	int64_t attempts;
	int64_t breaker_failures, breaker_open;
	const char *access_log;
	bool require_keys;
	struct opt_list anonymous;
	double decision_sample;
	const char *decide;
	int64_t decide_timeout;
	bool cloud_named;
	const char *ollama_version;
	struct opt_list allowed_hosts, cors_origins;
	int64_t checkpoint, heartbeat;
	int64_t spool_segment, spool_max;
	const char *cache, *master_key_file;
	int64_t cache_size, cache_entry_max, cache_ttl, cache_lookup;
	bool cache_undigested;
	const char *runs_db;
	int64_t budget_answer_tokens;
	bool budget_shrink;
	int64_t runs_keep, runs_max, runs_parallel, runs_queue_max;
	struct bus_config bus;
};

enum gateway_metric {
	M_REQUESTS, M_REQUEST_SECONDS, M_ATTEMPTS, M_FIRST_TOKEN_SECONDS, M_TOKENS, M_COST, M_ENERGY, M_QUEUE_SECONDS, M_QUEUED,
	M_REFUSED, M_CUT, M_SLOTS, M_IN_USE,
	M_BREAKER, M_BREAKER_OPENED, M_SPOOL_BYTES, M_SPOOL_ERRORS, M_SNAPSHOT_VERSION, M_CONNECTIONS, M_CLIENT_GONE,
	M_HELD, M_TLS_ENDS, M_LIMITED, M_AUDIT_LOST, M_LIMIT_WAITS, M_LIMIT_GATEWAYS, M_AUTH_REFUSED, M_KEYS, M_KEYS_AGE, M_REMOTE_DECISIONS, M_LOCAL_DECISIONS,
	M_BUDGETS, M_PRICES, M_BUDGET_REFUSED, M_BUDGET_SHADOW, M_BUDGET_WAITS, M_BUDGET_SHRUNK, M_RUNS, M_RUNS_HELD, M_RUNS_BYTES,
	M_CACHE_HITS, M_CACHE_MISSES, M_CACHE_BYPASSED, M_CACHE_STORED, M_CACHE_SECONDS, M_CACHE_BYTES, M_CACHE_ENTRIES, M_CACHE_EVICTIONS,
	M_CACHE_TROUBLE, M_CACHE_READY, M_CONTEXT_SAVED,
	M_QUEUE_PASSED, M_SHADOWS, M_BUS_PRODUCED, M_BUS_AGAIN, M_BUS_QUEUE, M_BUS_REFUSED, M_COUNT
};
extern const struct metric_def gateway_metrics[M_COUNT];

/* One option set, several loops: the control side. */
struct gateway {
	struct svc *svc;
	struct loop *loop;
	const struct gateway_config *_Atomic cfg;     /* replaced by SIGHUP: not to be kept for the next turn of a loop */
	struct metrics *metrics;
	struct worker **workers;
	unsigned n_workers;
	bool waits;                   /* a successor that has not taken over: no job of /run begins */
	unsigned spool_base;          /* the first worker's number in the names of spools */
	unsigned draining;            /* workers still busy while draining */
	unsigned settling;            /* that may still read the configuration before */
	struct replica_table *replicas;
	struct slot_bank *bank;       /* NULL where slots are leased between programs */
	struct loop_timer look;       /* for slots that the program before or after gives back */
	struct lease *lease;          /* how many slots of each are ours */
	struct sticky *sticky;
	struct recall *recall;        /* answers that may be given again; NULL = the cache is off */
	_Atomic uint32_t n_shadows;   /* of all workers, see shadow.h */
	struct budget held;           /* what bodies and whole answers of all workers hold */
	struct snapshot_sub *models_sub, *policy_sub, *experiments_sub;
	struct snapshot_id models_id, policy_id, experiments_id;
	struct buf models_bytes, policy_bytes, experiments_bytes;
	struct providers providers;   /* in the cloud */
	_Atomic int64_t selector_rest_us;     /* decide=remote: it was late, and is not asked before */
	struct rpc_client *registry, *selector, *ledger, *hardware, *cloud, *experiments;
	struct door *door;            /* keys, and who needs none */
	struct trail *trail;          /* audit entries and uses of keys on their way */
	struct budget_share *budget_share;      /* what is lent to us of budgets */
	struct purse_book *purses;
	const _Atomic unsigned *n_budgets;
	struct limit_share *limit_share;        /* which part of the limits is ours */
	struct certificate *certificate;      /* of the address with TLS; NULL = there is none */
	struct tls_trust *backend_trust;      /* control thread, before the first world with an https backend; then for all. NULL = there was none */
	char addresses[DOORS][300];   /* as bound, "" = not there */
	struct runs *runs;            /* durable jobs */
	struct feedback_box *feedback;
	struct outbox *outbox;        /* shippers of every spool found on disk */
	pthread_mutex_t asks_lock;
	struct list asks;             /* under way, see ask.h */
	struct ask *behind;           /* those that wait for a model snapshot */
	struct loop_timer sweep;
	struct loop_timer hurry;
	int drain_ticks;
};

struct breaker_opts gateway_breaker_opts(const struct gateway_config *);
#endif

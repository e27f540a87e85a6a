/* svc.h - a service is one constant table; this runs it.
 *
 * svc_main() gives every program the same: --help --version --dump=config|metrics|routes|errors|fields|roles --check-config, options
 * (opt.h), logs, admin port (/livez /readyz /startupz /metrics /version), one loop thread that owns the service's state, RPC endpoint
 * and peers, signals, drain. `corral` runs several tables in one process: each service on its own loop thread, one admin port,
 * peers at inproc:// addresses. 'PROGRAM migrate' brings the schemas of its databases up to date. A service never calls another's functions: it
 * asks by RPC, hears snapshots, ships facts.
 *
 * Life of a service, all on its own loop thread:  start() … [drain() until svc_drained()] … stop()
 *
 * SIGTERM drains for the option 'drain' at most, SIGINT for 5 s at most, a second signal hurries to 5 s, a third ends at once.
 * Services drain in the order of the table, so the one that takes the last facts stands last; they start from the last to the first,
 * so that each finds those that it asks and hears. */
#ifndef CORRAL_SVC_SVC_H
#define CORRAL_SVC_SVC_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/data/metrics.h"
#include "common/data/opt.h"
#include "common/io/loop.h"
#include "common/io/rpc.h"

struct svc;
struct db_migration;

struct svc_route { const char *method, *path, *action, *summary; };   /* action: what authorisation checks ("inference", "models.read") */

/* A database of a service: for backups, and for whoever has to know where its state is. */
struct svc_db {
	const char *option;           /* whose value is its URL; "" there = 'file' in the service's state directory, or as the option 'db' says: then start() */
	const char *file;             /* finds the URL in its configuration all the same */
	const struct db_migration *schema;
	bool of_db;                   /* a file that 'db' names is this one's */
};

struct svc_def {
	const char *name;             /* "model-registry" */
	const char *summary;          /* one sentence */
	const struct opt *options;    /* ended by OPT_END; may be NULL */
	size_t config_size;
	const struct metric_def *metrics;
	unsigned n_metrics;
	const struct svc_route *routes;       /* public routes, for --dump=routes; ended by { 0 }; may be NULL */
	const struct svc_db *databases;       /* ended by { 0 }; may be NULL */
	uint16_t public_port, admin_port, rpc_port;   /* defaults of api-contract; 0 = none */
	bool one_writer;              /* of several processes on one database server one starts, the others are standby (standby.c) */
	/* Checks the filled configuration beyond types and ranges. May be NULL. */
	enum err (*check)(const void *config, struct why *);
	/* Starts; false with *why ends the program with status 1, after freeing what it had made (stop() is not called then).
	 * Must not wait for peers. */
	bool (*start)(struct svc *, struct why *);
	/* The configuration was read again: svc_config() is the new one, with old values where an option is not .live. On true the service calls
	 * svc_reloaded() once nothing uses the one before; on false that stays in force, and svc_config() goes back. NULL = all its options need a restart. */
	bool (*reload)(struct svc *, struct why *);
	/* It is a successor (svc_is_heir()), and ready: accept clients now at the addresses that were inherited. What has this serves on while its own
	 * successor starts; the others are stopped first, for their stores are one program's at a time. NULL = no addresses for clients. */
	void (*open)(struct svc *);
	void (*drain)(struct svc *);  /* stop taking work; call svc_drained() when none is left; NULL = nothing to wait for */
	/* Frees everything. The loop no longer turns; calls to peers have ended (closures ran with NULL) and new ones are refused;
	 * peers and RPC server themselves go afterwards. */
	void (*stop)(struct svc *);
};

/* Both return the process's exit status: 0, or 1 with a sentence on stderr. */
int svc_main(const struct svc_def *, int argc, char **argv);
/* Several services in one process under the program name 'name'. */
int svc_main_all(const char *name, const char *summary, const struct svc_def *const *defs, unsigned n, int argc, char **argv);

/* What one of these services would be configured with from this command line, file and environment, without running it and without its
 * check(): for a command that works on a service's files. Calls 'look' with its configuration and its directory, which is made; both are
 * valid during the call. Returns what look returned, or why it was not called. */
enum err svc_look(const struct svc_def *const *defs, unsigned n, const char *service, int argc, char **argv,
		  enum err (*look)(void *arg, const void *config, const char *dir, struct why *), void *arg, struct why *);

/* What they would run with from this command line, file and environment, without running: for commands about the configuration itself. With
 * 'check' every service's check() has its say as well. 'look' is called once, or the answer is why not. */
struct svc_settings {
	const struct opt_set *sets;   /* the services' in order, then every program's: n */
	size_t n;
	const char *state_dir;        /* may not exist */
	const char *file;             /* "" = none */
	struct opt_list unknown;      /* sentences about names in the environment that nothing reads */
};
enum err svc_settings(const struct svc_def *const *defs, unsigned n, int argc, char **argv, bool check,
		      enum err (*look)(void *arg, const struct svc_settings *, struct why *), void *arg, struct why *why);

/* All that is wrong with it: how many mistakes 'wrong' was told of. 'look' is called when there are none. */
unsigned svc_settings_check(const struct svc_def *const *defs, unsigned n, int argc, char **argv, void (*wrong)(void *arg, const struct why *),
			    enum err (*look)(void *arg, const struct svc_settings *, struct why *), void *arg);

/* --- what a service uses of its runtime --- */
struct loop *svc_loop(struct svc *);
const void *svc_config(struct svc *);
void svc_set_state(struct svc *, void *state);
void *svc_state(struct svc *);
struct metrics *svc_metrics(struct svc *);
const char *svc_state_dir(struct svc *);          /* "<state_dir>/<service>", made with mode 0700 */
const char *svc_name(struct svc *);
const char *svc_listen(struct svc *);             /* where the public port is to be bound; NULL when the service has none */
bool svc_drain_hurried(struct svc *);             /* a second signal came: end within 5 s */
int64_t svc_drain_ms(struct svc *);               /* time left for the drain; never negative */
void svc_drained(struct svc *);
/* Something without which it must not run became known after start(): the program says the sentence, drains for 5 s at most, and ends with
 * status 1. Any thread. */
void svc_fail(struct svc *, const struct why *);
void svc_reloaded(struct svc *);
struct rpc_server *svc_rpc_server(struct svc *);  /* add generated services to it in start(); NULL when rpc_port is 0 */
/* A client of another service, by its name; made once, shared by the service's loop. Never NULL; it reconnects by itself. */
struct rpc_client *svc_peer(struct svc *, const char *service);
/* Where a service's snapshots are published and heard: "inproc://selector.pub", "tcp://…". */
const char *svc_pub_url(struct svc *, const char *service);
/* --- upgrade in place (docs/ops/upgrade.md) --- */
void svc_offer(struct svc *, const char *what, int fd);      /* a listening descriptor that a successor may have; stays the caller's */
int svc_inherit(struct svc *, const char *what);  /* one that was offered under that name, now the caller's; -1 = none (more). Before open() */
bool svc_is_heir(struct svc *);                   /* in start(): accept nobody before open() */
bool svc_handed_over(struct svc *);               /* in drain(): the addresses are a successor's */
/* Asks the program that runs with this configuration to start a successor, and waits until that has taken over. */
enum err svc_upgrade(const struct svc_def *const *defs, unsigned n, const char *name, int argc, char **argv, struct why *);
/* What /readyz says: a need by name ("model snapshot", "ledger") with ok and a sentence. Not ready while any is not ok. */
void svc_need(struct svc *, const char *need, bool ok, const char *text);     /* any thread; both texts are copied */
/* The same for what is missed, but not needed: named there, and ready all the same. Peers of other processes are such, by themselves. */
void svc_want(struct svc *, const char *want, bool ok, const char *text);
/* For db_thread.h, 'svc' is the service: a server that does not answer is missed, for its loop goes on. */
void svc_db_wait(void *svc, const char *server, int64_t waited_ms);
#endif

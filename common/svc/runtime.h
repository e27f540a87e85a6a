/* runtime.h - one process and the services in it; known to the files of common/svc only.
 *
 *   main thread   command line, admin server, signals; starts, drains and stops the services one after another (svc.c, life.c)
 *   one thread each service     its loop; start(), drain(), stop() run there (thread.c)
 *
 * The two talk by loop_post() and by the atomics below. */
#ifndef CORRAL_SVC_RUNTIME_H
#define CORRAL_SVC_RUNTIME_H
#include <pthread.h>
#include <stdatomic.h>

#include "common/io/http_server.h"
#include "common/svc/svc.h"
#include "rpc.pb-c.h"

struct runtime_config {
	const char *config, *listen, *admin_listen, *rpc_listen, *state_dir, *log_level, *log_format;
	const char *tls_ca, *tls_cert, *tls_key, *db;
	int64_t drain;
	bool standby_ready;
	struct opt_list peer;
};

enum svc_phase { SVC_NEW, SVC_STARTING, SVC_RUNNING, SVC_DRAINING, SVC_DRAINED, SVC_FAILED, SVC_STOPPED,
		 SVC_YIELDED /* stopped, for a successor has its stores; upgrade.c */ };

struct upgrade;

struct offer {                        /* a listening descriptor that a successor may have */
	struct offer *next;
	char what[64];
	int fd;
};

struct need {
	struct need *next;
	bool ok, wanted;              /* wanted: missed, but the service is ready without it */
	int64_t since_us;             /* wall: when ok last changed */
	char name[64], text[200];
};

struct peer {
	struct peer *next;
	struct svc *svc;
	const char *name, *need;      /* "selector", "peer selector" */
	struct rpc_client *client;
	struct loop_timer timer;      /* the next ping */
	unsigned missed;              /* pings in a row */
	bool gone;                    /* the client is being freed */
};

struct generation {                   /* what one reading of the configuration gave */
	struct arena *mem;
	unsigned uses;                /* services that run on it */
};

struct svc {
	struct runtime *rt;
	const struct svc_def *def;
	void *config;                 /* the service's thread, once it runs */
	struct metrics *metrics;
	struct loop *loop;
	pthread_t thread;

	/* main thread */
	enum svc_phase phase;
	struct generation *generation, *before;       /* of its configuration; the one it still lets go of. NULL = the first, in runtime.mem */
	void *in_force;               /* its configuration */

	/* the service's thread */
	struct arena *mem;
	void *state;
	const char *state_dir;
	struct rpc_server *rpc;
	int lock_fd;                  /* of state_dir; -1 = not held */
	struct db_writer *writer;     /* NULL = nobody else could write, or it was not yet tried */
	Corral__Peer_Service ping;
	struct peer *peers;
	struct why why;               /* of a failed start; read by main after it was told */
	struct loop_timer beat;

	/* both */
	_Atomic int64_t beat_us;      /* when the loop last turned, mono; 0 = not started */
	_Atomic int64_t drain_until_us;
	_Atomic bool hurried;
	_Atomic bool standby, spare, give_up; /* it waits for its turn; another is known to be the writer; the process is to end */
	pthread_mutex_t lock;         /* guards needs and offers */
	struct need *needs;
	struct offer *offers;
};

struct runtime {
	const char *name, *summary;
	struct svc *svcs;
	unsigned n;
	struct arena *mem;
	struct opt *options;          /* the runtime's own table, made for these services */
	struct runtime_config config;
	struct opt_set *sets;         /* the services', then the runtime's: n + 1 */
	const char *state_dir;
	int argc;
	char **argv;                  /* as read at the start, and again on SIGHUP */
	unsigned reloading;           /* services that have not answered yet */
	bool reload_again;
	unsigned reloads, reloads_failed;

	struct loop *loop;            /* the main thread's */
	struct http_server *admin;
	struct loop_timer timer;      /* ends the drain of one service */
	int64_t drain_until_us, started_us;
	unsigned signals;             /* SIGTERM and SIGINT so far */
	bool started, ending;         /* all services run; no more are started */
	bool handed_over;             /* a successor has the addresses */
	struct upgrade *upgrade;      /* NULL until needed */
	char program[1024];           /* the file that runs, as it was named at the start */
	int status;
};

/* svc.c */
void svc_prepare(struct runtime *, const char *name, const char *summary, const struct svc_def *const *defs, unsigned n);
void svc_release(struct runtime *);
/* help.c: --help, --version, --dump; true when the program is to end now with *ret_status. */
bool help_asked(struct runtime *, int argc, char **argv, int *ret_status);
/* ask_self.c: --probe=WHAT and --wait=TIME; the exit status */
int self_probe(struct runtime *, const char *what);
int self_wait(struct runtime *, const char *text);
/* settings.c */
void settings_prepare(struct runtime *);          /* the option tables */
enum err settings_fill(struct runtime *, int argc, char **argv, struct why *);    /* from all sources; no service's check() */
enum err settings_load(struct runtime *, int argc, char **argv, struct why *);    /* and the checks */
/* All that is wrong with it, one by one; nothing is loaded for use. */
void settings_check_all(struct runtime *, int argc, char **argv, void (*wrong)(void *arg, const struct why *), void *arg);
/* databases.c */
enum err databases_place(struct runtime *, struct why *);   /* fills the services' own options from 'db' */
const char *databases_url(const struct runtime *, unsigned i, const struct svc_db *);   /* of the i-th service; "" = a file in its directory */
int databases_migrate(struct runtime *);           /* prints what it did; the exit status */
/* standby.c */
bool standby_wait(struct svc *);                   /* before start(), with state_dir and, if free, its lock: true = it may; false with s->why,
						    * ERR_OK there when it was told to end */
void standby_leave(struct svc *);                  /* after stop() */
/* places.c */
const char *place_of(struct runtime *, struct arena *, const char *service);      /* RPC URL */
const char *place_pub(struct arena *, const char *rpc_url);
enum err place_state_dir(struct arena *, const char *given, const char **ret, struct why *);
enum err place_make_dir(const char *path, struct why *);
/* peers.c */
void peers_serve(struct svc *);                   /* answers others' pings */
void peers_end_calls(struct svc *);
void peers_free(struct svc *);
/* thread.c */
void thread_start(struct svc *, void (*done)(void *svc));      /* done on the main loop; svc->why.code says how it went */
void thread_drain(struct svc *);
void thread_stop(struct svc *);                   /* returns when the thread has ended */
void thread_sign_lock(struct svc *);              /* our pid is in it from now on */
void thread_unlock(struct svc *);                 /* lets go of its directory */
/* life.c */
void life_run(struct runtime *);                  /* until the process should end; sets status */
void life_drained(void *svc);                     /* on the main loop */
void life_start(struct runtime *);                /* the services that are new, the last first */
void life_end(struct runtime *);                  /* drains and ends */
/* upgrade.c */
enum err upgrade_meet(struct runtime *, struct why *);   /* --upgrade: asks the program that runs for its addresses */
int upgrade_take(struct runtime *, const char *service, const char *what);       /* one of them, -1 = none (more) */
bool upgrade_before_start(struct runtime *);      /* true: it calls life_start() when the stores are ours */
void upgrade_started(struct runtime *);           /* all services have started */
bool upgrade_under_way(const struct runtime *);
void upgrade_failed(struct runtime *, const char *text);
void upgrade_start(struct runtime *);             /* starts a successor */
void upgrade_start_again(struct runtime *);       /* soon: the services that have yielded */
void upgrade_end(struct runtime *);               /* this program is to end, for another reason */
void upgrade_forget_offers(struct svc *);
void upgrade_free(struct runtime *);
/* reload.c */
void reload(struct runtime *);                    /* on the main loop, while all services run */
void reload_free(struct svc *);                   /* its thread has ended */
/* admin.c */
bool admin_open(struct runtime *, struct why *);
bool svc_ready(struct svc *);
#endif

/* db_thread.h - a database on a thread of its own, so that a server that hangs never keeps a service's loop waiting.
 *
 * A service hands over works one by one; each runs alone, in the order they were given, and comes back to the service's loop in that order. So no transaction
 * meets another work on its connection. What run() touches is in the work, in the database, or guarded; done() is on the loop, where the service's state is.
 * The thread has a loop itself, for what waits for more than the database and works on it (intake.h).
 * Until db_thread_start() a work is run and done within the call: at a service's start, and in tests. */
#ifndef CORRAL_STORE_DB_THREAD_H
#define CORRAL_STORE_DB_THREAD_H
#include "common/base/list.h"
#include "common/io/loop.h"
#include "common/store/db.h"

struct db_thread;

struct db_work {
	void (*run)(struct db_work *, struct db *);
	/* Once for each that was taken: frees it. 'dropped' is NULL when it ran; else the service stops, and it may have run or not. */
	void (*done)(struct db_work *, const struct why *dropped);
	struct list node, mine;       /* the module's, with what follows */
	bool awaited, ran;
};

struct db_thread_opts {
	const char *service;          /* for the log; stays */
	unsigned most;                /* works that wait or run; more are refused */
	/* db_on_wait() of this thread, on which nothing but works waits. May be NULL. */
	void (*on_wait)(void *arg, const char *server, int64_t waited_ms);
	void (*end)(void *arg);       /* its last act on the thread, before the database is closed: frees what lives on its loop. May be NULL */
	void *arg;                    /* of both */
};

/* The database is the thread's from now on, and closed with it. */
struct db_thread *db_thread_new(struct loop *, struct db *, const struct db_thread_opts *);
void db_thread_start(struct db_thread *);
struct loop *db_thread_loop(struct db_thread *);  /* the thread's; for what is made before it starts, and for works */
/* false with *why (ERR_UNAVAILABLE): there are as many as may be, and the work stays the caller's. */
bool db_thread_do(struct db_thread *, struct db_work *, struct why *);
/* Runs it after those that were given before, and waits for that; done() is not called. For what cannot go on without: the loop stands still meanwhile. */
void db_thread_wait(struct db_thread *, struct db_work *);
/* The work that runs has a second to end, then its calls fail; those that have not begun are dropped. NULL is fine. On the loop's thread. */
void db_thread_free(struct db_thread *);
#endif

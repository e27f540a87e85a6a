/* db_thread.c - see db_thread.h. */
#include "common/store/db_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "common/data/log.h"
#include "common/io/mailbox.h"

enum { END_S = 1 };

struct db_thread {
	struct db *db;
	struct db_thread_opts o;
	struct loop *own;
	struct mailbox *todo, *finished;      /* to the thread, and to the service's loop */
	struct list given;            /* of the service's loop: not done yet, in order */
	unsigned n;
	bool started;
	atomic_bool ending;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t over;          /* the thread, or a work that is awaited; both under the lock */
	bool is_over;
};

static void on_todo(void *arg, struct list *node)
{
	struct db_thread *t = arg;
	struct db_work *w = list_entry(node, struct db_work, node);

	if (atomic_load(&t->ending))
		return;                   /* db_thread_free() has it in 'given' */
	w->run(w, t->db);
	if (!w->awaited) {
		mailbox_put(t->finished, &w->node);
		return;
	}
	pthread_mutex_lock(&t->lock);
	w->ran = true;
	pthread_cond_signal(&t->over);
	pthread_mutex_unlock(&t->lock);
}

static void leave(struct db_thread *t, struct db_work *w, const struct why *dropped)
{
	list_del(&w->mine);
	t->n--;
	w->done(w, dropped);
}

/* done() may free the thread: nothing is touched behind it. */
static void on_finished(void *arg, struct list *node) { leave(arg, list_entry(node, struct db_work, node), NULL); }

struct db_thread *db_thread_new(struct loop *loop, struct db *db, const struct db_thread_opts *o)
{
	struct db_thread *t = x_calloc(1, sizeof(*t));
	pthread_condattr_t attr;

	t->db = db;
	t->o = *o;
	t->own = loop_new();
	list_init(&t->given);
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->over, &attr);
	pthread_condattr_destroy(&attr);
	if (loop && (!(t->finished = mailbox_new(loop, on_finished, t)) || !(t->todo = mailbox_new(t->own, on_todo, t))))
		abort();                  /* no descriptor left at the start of a service */
	return t;
}

struct loop *db_thread_loop(struct db_thread *t) { return t->own; }

static void end(struct db_thread *t)
{
	if (t->o.end)
		t->o.end(t->o.arg);
}

static void *turn(void *arg)
{
	struct db_thread *t = arg;

	log_thread_service(t->o.service);
	db_on_wait(t->o.on_wait, t->o.arg);
	loop_run(t->own);
	end(t);
	pthread_mutex_lock(&t->lock);
	t->is_over = true;
	pthread_cond_signal(&t->over);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* Signals are the main thread's. */
void db_thread_start(struct db_thread *t)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pthread_create(&t->thread, NULL, turn, t) != 0)
		abort();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_setname_np(t->thread, "database");
	t->started = true;
}

bool db_thread_do(struct db_thread *t, struct db_work *w, struct why *why)
{
	if (t->n >= t->o.most) {
		err_set(why, ERR_UNAVAILABLE, "the database is behind: %u calls wait for it already; try again later", t->n);
		return false;
	}
	w->awaited = false;
	t->n++;
	list_push(&t->given, &w->mine);
	if (t->started) {
		mailbox_put(t->todo, &w->node);
		return true;
	}
	w->run(w, t->db);
	leave(t, w, NULL);
	return true;
}

void db_thread_wait(struct db_thread *t, struct db_work *w)
{
	w->awaited = true;
	w->ran = false;
	if (!t->started) {
		w->run(w, t->db);
		return;
	}
	mailbox_put(t->todo, &w->node);
	pthread_mutex_lock(&t->lock);
	while (!w->ran)
		pthread_cond_wait(&t->over, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static void stop_own(void *arg) { loop_stop(arg); }

/* Not by the clock that tests move. */
static void wait_a_little(struct db_thread *t)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += END_S;
	pthread_mutex_lock(&t->lock);
	while (!t->is_over && pthread_cond_timedwait(&t->over, &t->lock, &until) == 0)
		;
	pthread_mutex_unlock(&t->lock);
}

static void stop(struct db_thread *t)
{
	atomic_store(&t->ending, true);
	loop_post(t->own, stop_own, t->own);
	wait_a_little(t);
	db_interrupt(t->db);
	pthread_join(t->thread, NULL);
}

void db_thread_free(struct db_thread *t)
{
	struct why why;

	if (!t)
		return;
	if (t->started)
		stop(t);
	else
		end(t);
	mailbox_free(t->todo);
	mailbox_free(t->finished);
	err_set(&why, ERR_UNAVAILABLE, "the service is stopping");
	while (!list_empty(&t->given))
		leave(t, list_entry(t->given.next, struct db_work, mine), &why);
	db_close(t->db);
	loop_free(t->own);
	pthread_cond_destroy(&t->over);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* thread.c - one service on its thread: from start() to stop(), and what the service asks of its runtime. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/db.h"
#include "common/svc/runtime.h"

enum { BEAT_US = 2 * 1000 * 1000 };

struct starting { struct svc *svc; void (*done)(void *); };

static void beat(struct loop_timer *t)
{
	struct svc *s = (struct svc *)(void *)((char *)t - offsetof(struct svc, beat));

	atomic_store(&s->beat_us, mono_us());
	loop_timer_set(s->loop, t, BEAT_US, beat);
}

/* Whose it is. */
void thread_sign_lock(struct svc *s)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (s->lock_fd < 0 || ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, strlen(pid), 0) < 0)
		LOG_DEBUG("a lock is not signed", LOG_S("of", s->def->name));
}

/* Two programs would spoil each other's files. A successor that serves beside the one before inherits its lock. */
static bool lock_dir(struct svc *s)
{
	char path[1200], pid[16] = "";

	s->lock_fd = svc_inherit(s, "lock");
	if (s->lock_fd >= 0)
		return true;
	snprintf(path, sizeof(path), "%s/lock", s->state_dir);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return err_set(&s->why, ERR_STORE_FAILED, "'%s' cannot be made: %s", path, strerror(errno)) == ERR_OK;
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) {
		thread_sign_lock(s);
		return true;
	}
	(void)!pread(s->lock_fd, pid, sizeof(pid) - 1, 0);
	thread_unlock(s);
	return err_set(&s->why, ERR_CONFLICT, "another program (pid %.*s) uses the directory %s; stop it first, let this one take its place with --upgrade, "
		       "or give another --state-dir", (int)strcspn(pid, "\n"), pid, s->state_dir) == ERR_OK;
}

void thread_unlock(struct svc *s)
{
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	s->lock_fd = -1;
}

/* Whose directory is another's yet may have to wait for its turn anyway, and then it is free. */
static bool open_dir(struct svc *s)
{
	s->state_dir = arena_printf(s->mem, "%s/%s", s->rt->state_dir, s->def->name);
	if (place_make_dir(s->state_dir, &s->why) != ERR_OK)
		return false;
	(void)lock_dir(s);
	s->why = (struct why){ 0 };
	return true;
}

static bool open_places(struct svc *s)
{
	if (s->lock_fd < 0 && !lock_dir(s))
		return false;
	if (s->def->rpc_port == 0)
		return true;
	s->rpc = rpc_server_new(s->loop, place_of(s->rt, s->mem, s->def->name), &s->why);
	if (s->rpc)
		peers_serve(s);
	return s->rpc != NULL;
}

static bool start(struct svc *s)
{
	s->why = (struct why){ 0 };
	if (!open_dir(s) || !standby_wait(s) || !open_places(s) || !s->def->start(s, &s->why)) {
		if (s->why.code == ERR_OK)
			err_set(&s->why, ERR_INTERNAL, "it gave no reason");
		return false;
	}
	s->why.code = ERR_OK;
	beat(&s->beat);
	return true;
}

static void close_places(struct svc *s)
{
	peers_free(s);
	rpc_server_free(s->rpc);
	s->rpc = NULL;
	upgrade_forget_offers(s);
	standby_leave(s);
	thread_unlock(s);
}

static void note_need(struct svc *, const char *need, bool ok, const char *text, bool wanted);

static void wait_note(struct svc *s, const char *server, int64_t waited_ms, bool wanted)
{
	char text[200];

	snprintf(text, sizeof(text), "no answer for %lld ms from %s", (long long)waited_ms, server);
	note_need(s, "database", waited_ms == 0, waited_ms ? text : "", wanted);
}

/* Its loop stands still then, and only the admin port can say why. */
static void on_db_wait(void *arg, const char *server, int64_t waited_ms)
{
	wait_note(arg, server, waited_ms, false);
}

void svc_db_wait(void *svc, const char *server, int64_t waited_ms)
{
	wait_note(svc, server, waited_ms, true);
}

static void *run(void *arg)
{
	struct starting given = *(struct starting *)arg;
	struct svc *s = given.svc;
	bool ok;

	free(arg);
	log_thread_service(s->def->name);
	db_on_wait(on_db_wait, s);
	ok = start(s);
	loop_post(s->rt->loop, given.done, s);
	if (ok) {
		loop_run(s->loop);
		loop_timer_del(&s->beat);
		peers_end_calls(s);
		s->def->stop(s);
	}
	close_places(s);
	return NULL;
}

/* Signals are the main thread's. */
void thread_start(struct svc *s, void (*done)(void *svc))
{
	struct starting *given = x_malloc(sizeof(*given));
	sigset_t all, before;
	char name[16];

	*given = (struct starting){ s, done };
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pthread_create(&s->thread, NULL, run, given) != 0)
		abort();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	str_copy(name, sizeof(name), str_of(s->def->name));
	pthread_setname_np(s->thread, name);
}

static void call_drain(void *arg)
{
	struct svc *s = arg;

	s->def->drain(s);
}

void thread_drain(struct svc *s) { loop_post(s->loop, call_drain, s); }

static void call_stop(void *arg) { loop_stop(((struct svc *)arg)->loop); }

void thread_stop(struct svc *s)
{
	loop_post(s->loop, call_stop, s);
	pthread_join(s->thread, NULL);
}

/* --- what a service asks --- */

struct loop *svc_loop(struct svc *s) { return s->loop; }
const void *svc_config(struct svc *s) { return s->config; }
void svc_set_state(struct svc *s, void *state) { s->state = state; }
void *svc_state(struct svc *s) { return s->state; }
struct metrics *svc_metrics(struct svc *s) { return s->metrics; }
const char *svc_state_dir(struct svc *s) { return s->state_dir; }
const char *svc_name(struct svc *s) { return s->def->name; }
bool svc_drain_hurried(struct svc *s) { return atomic_load(&s->hurried); }
void svc_drained(struct svc *s) { loop_post(s->rt->loop, life_drained, s); }
struct rpc_server *svc_rpc_server(struct svc *s) { return s->rpc; }

const char *svc_listen(struct svc *s)
{
	if (s->def->public_port == 0)
		return NULL;
	for (unsigned i = 0; &s->rt->svcs[i] != s; i++)
		if (s->rt->svcs[i].def->public_port)      /* the option is the first one's */
			return arena_printf(s->mem, "127.0.0.1:%u", s->def->public_port);
	return s->rt->config.listen;
}

int64_t svc_drain_ms(struct svc *s)
{
	int64_t left_us = atomic_load(&s->drain_until_us) - mono_us();

	return left_us > 0 ? left_us / 1000 : 0;
}

const char *svc_pub_url(struct svc *s, const char *service) { return place_pub(s->mem, place_of(s->rt, s->mem, service)); }

/* Not having heard of others yet is how every program starts; losing one later is news. */
static void tell_need(const char *need, bool born, bool ok, const char *text)
{
	if (ok)
		LOG_AT(born ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "need is met", LOG_S("need", need), LOG_S("text", text));
	else if (born)
		LOG_INFO("waits for a need", LOG_S("need", need), LOG_S("text", text));
	else
		LOG_WARN("need is not met", LOG_S("need", need), LOG_S("text", text));
}

static void note_need(struct svc *s, const char *need, bool ok, const char *text, bool wanted)
{
	struct need **at, *n;
	bool born, changed;

	pthread_mutex_lock(&s->lock);
	for (at = &s->needs; *at && strcmp((*at)->name, need) != 0; at = &(*at)->next)
		;
	born = !*at;
	changed = born || (*at)->ok != ok;
	if (born) {
		*at = x_calloc(1, sizeof(**at));
		str_copy((*at)->name, sizeof((*at)->name), str_of(need));
	}
	n = *at;
	n->ok = ok;
	n->wanted = wanted;
	if (changed)
		n->since_us = wall_us();
	str_copy(n->text, sizeof(n->text), str_of(text ? text : ""));
	pthread_mutex_unlock(&s->lock);
	if (changed)
		tell_need(need, born, ok, text);
}

void svc_need(struct svc *s, const char *need, bool ok, const char *text) { note_need(s, need, ok, text, false); }

void svc_want(struct svc *s, const char *want, bool ok, const char *text) { note_need(s, want, ok, text, true); }

/* upgrade.c - upgrade in place: a program and its successor, which takes its listening descriptors and then its work.
 *
 *      the one that runs                                the successor (--upgrade)
 *      a socket file in the state directory   ◀─ hello ─  its configuration is read and checked
 *      its listening descriptors              ─ fd … ─▶
 *      services that hold stores are stopped  ◀─ yield ─  (only when there are such)
 *                                             ─ yielded ▶ all services start; the addresses are not served yet
 *                                                         ready: it accepts
 *      accepts nobody any more, drains, ends  ◀─── go ──
 *                                             ── going ─▶ it is the one that runs
 *
 * When the successor ends, or says why it cannot, before "go", what was stopped is started again and nothing has changed. While services
 * are stopped the gateway goes on: it decides on what it knows, and its facts wait on disk. Main thread. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"
#include "common/svc/upgrade_wire.h"

enum {
	READY_US = 60 * 1000000, LOOK_US = 20 * 1000,
	AGAIN_US = 200 * 1000,
	PATIENCE_US = 90 * 1000000,   /* longer than the successor waits for itself */
	ANSWER_S = 10, CHILD_US = 50 * 1000, ARGS = 1024
};

/* Somebody at the socket file: a successor, or one who asks for one to be started. */
struct guest {
	struct loop_io io;
	struct upgrade *up;
	struct list node;
	bool dead;
};

struct inherited {
	struct inherited *next;
	char service[64], what[64];
	int fd;
};

struct upgrade {
	struct runtime *rt;
	/* as the one that runs */
	struct loop_io door;
	int door_fd;
	struct list guests;
	struct guest *heir, *asker;
	pid_t child;                  /* the successor that we started and that has not ended */
	bool yielded, gone;
	char said[UPGRADE_TEXT];      /* by the successor: why it cannot */
	struct loop_timer patience, watch_child, again;
	/* as the successor */
	struct loop_io before;        /* to the one that runs */
	int before_fd;                /* -1: none, or it is over */
	bool before_ready, taking, went, failed;
	struct inherited *inherited;
	struct loop_timer look;
	int64_t until_us;
};

static void say_started(struct runtime *);
static void on_guest(struct loop_io *, unsigned ready);
static void heir_lost(struct upgrade *);

static struct upgrade *made(struct runtime *rt)
{
	if (!rt->upgrade) {
		rt->upgrade = x_calloc(1, sizeof(*rt->upgrade));
		rt->upgrade->rt = rt;
		rt->upgrade->door.fd = rt->upgrade->before.fd = rt->upgrade->before_fd = -1;
		list_init(&rt->upgrade->guests);
	}
	return rt->upgrade;
}

/* Does this service go on serving while another has its addresses? */
static bool hands_over(const struct svc *s) { return s->def->open != NULL; }

/* --- what is offered --- */

void svc_offer(struct svc *s, const char *what, int fd)
{
	struct offer *o = x_calloc(1, sizeof(*o));

	*o = (struct offer){ .fd = fd };
	str_copy(o->what, sizeof(o->what), str_of(what));
	pthread_mutex_lock(&s->lock);
	o->next = s->offers;
	s->offers = o;
	pthread_mutex_unlock(&s->lock);
}

void upgrade_forget_offers(struct svc *s)
{
	struct offer *o;

	pthread_mutex_lock(&s->lock);
	while ((o = s->offers)) {
		s->offers = o->next;
		free(o);
	}
	pthread_mutex_unlock(&s->lock);
}

static bool offer(int to, const char *service, const char *what, int fd)
{
	char text[UPGRADE_TEXT];

	snprintf(text, sizeof(text), "fd %s %s", service, what);
	return upgrade_send(to, text, fd);
}

static bool offer_service(int to, struct svc *s)
{
	bool ok = s->lock_fd < 0 || offer(to, s->def->name, "lock", s->lock_fd);

	pthread_mutex_lock(&s->lock);
	for (struct offer *o = s->offers; o && ok; o = o->next)
		ok = offer(to, s->def->name, o->what, o->fd);
	pthread_mutex_unlock(&s->lock);
	return ok;
}

static bool offer_all(struct upgrade *up, int to)
{
	struct runtime *rt = up->rt;
	bool ok = offer(to, "-", "admin_listen", http_server_fd(rt->admin, 0)), ready = true;

	for (unsigned i = 0; i < rt->n; i++) {
		ready &= svc_ready(&rt->svcs[i]);
		if (ok && hands_over(&rt->svcs[i]))
			ok = offer_service(to, &rt->svcs[i]);
	}
	return ok && upgrade_send(to, ready ? "all ready" : "all unready", -1);
}

/* --- guests --- */

static void answer(struct guest *g, const char *word, const char *text)
{
	char line[UPGRADE_TEXT];

	snprintf(line, sizeof(line), "%s %.480s", word, text);
	(void)upgrade_send(g->io.fd, line, -1);
}

static void answer_asker(struct upgrade *up, const char *word, const char *text)
{
	if (up->asker)
		answer(up->asker, word, text);
}

static void guest_close(struct guest *g)
{
	struct upgrade *up = g->up;
	int fd = g->io.fd;
	bool was_heir = up->heir == g;

	loop_io_del(&g->io);
	close(fd);
	list_del(&g->node);
	if (up->asker == g)
		up->asker = NULL;
	if (was_heir)
		up->heir = NULL;
	free(g);
	if (was_heir && !up->gone)
		heir_lost(up);
}

static const char *cannot(const struct upgrade *up)
{
	const struct runtime *rt = up->rt;

	for (unsigned i = 0; i < rt->n; i++)
		if (rt->svcs[i].phase != SVC_RUNNING && rt->started && !rt->ending)
			return "its services are being started again";
	return rt->ending || up->gone ? "it is draining" : !rt->started || up->taking ? "it is starting" : up->heir ? "another successor is starting" :
	       rt->reloading ? "it is reading its configuration" : NULL;
}

static void on_patience(struct loop_timer *t)
{
	struct upgrade *up = list_entry(t, struct upgrade, patience);

	snprintf(up->said, sizeof(up->said), "it was not ready after %d s", PATIENCE_US / 1000000);
	if (up->heir)
		guest_close(up->heir);
}

static void greet(struct guest *g, const char *rest)
{
	struct upgrade *up = g->up;
	const char *no = cannot(up);
	char text[UPGRADE_TEXT];

	if (no) {
		snprintf(text, sizeof(text), "no %s", no);
		(void)upgrade_send(g->io.fd, text, -1);
		return;
	}
	up->heir = g;
	up->said[0] = '\0';
	LOG_INFO("a successor is starting", LOG_S("pid_and_version", rest));
	loop_timer_set(up->rt->loop, &up->patience, PATIENCE_US, on_patience);
	if (!offer_all(up, g->io.fd))
		LOG_ERROR("the listening descriptors cannot be handed over", LOG_S("error", strerror(errno)));
}

/* The stores are another's from here on. The last first, as at a start, so that nobody is asked who is gone. */
static void yield_stores(struct upgrade *up)
{
	up->yielded = true;
	for (unsigned i = 0; i < up->rt->n; i++) {
		struct svc *s = &up->rt->svcs[i];

		if (!hands_over(s) && s->phase == SVC_RUNNING) {
			thread_stop(s);
			s->phase = SVC_YIELDED;
		}
	}
}

static void hand_over(struct upgrade *up)
{
	struct runtime *rt = up->rt;

	up->gone = true;
	rt->handed_over = true;
	loop_timer_del(&up->patience);
	for (unsigned i = 0; i < rt->n; i++)
		thread_unlock(&rt->svcs[i]);
	loop_io_del(&up->door);
	close(up->door_fd);
	http_server_hand_over(rt->admin);
	http_server_drain(rt->admin, NULL, NULL);
	(void)upgrade_send(up->heir->io.fd, "going", -1);
	answer_asker(up, "done", "");
	LOG_INFO("handed over to the successor; what is open goes on here");
	life_end(rt);
}

static void heard(struct guest *g, const char *text)
{
	struct upgrade *up = g->up;

	if (strncmp(text, "hello ", 6) == 0) {
		greet(g, text + 6);
	} else if (strcmp(text, "start") == 0) {
		const char *no = cannot(up);

		if (no) {
			answer(g, "failed", no);     /* who asked before still waits for his answer */
			return;
		}
		up->asker = g;
		upgrade_start(up->rt);
	} else if (up->heir != g) {
		return;
	} else if (strcmp(text, "yield") == 0) {
		yield_stores(up);
		(void)upgrade_send(g->io.fd, "yielded", -1);
	} else if (strncmp(text, "failed ", 7) == 0) {
		snprintf(up->said, sizeof(up->said), "%s", text + 7);
	} else if (strcmp(text, "go") == 0) {
		hand_over(up);
	}
}

static void on_guest(struct loop_io *io, unsigned ready)
{
	struct guest *g = list_entry(io, struct guest, io);
	char text[UPGRADE_TEXT];
	int passed, got;

	while ((got = upgrade_recv(io->fd, text, sizeof(text), &passed)) > 0) {
		if (passed >= 0)
			close(passed);
		heard(g, text);
	}
	if (got == 0)
		guest_close(g);
}

static void on_door(struct loop_io *io, unsigned ready)
{
	struct upgrade *up = list_entry(io, struct upgrade, door);
	int fd;

	while ((fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct guest *g;

		if (!upgrade_same_user(fd)) {
			close(fd);
			continue;
		}
		g = x_calloc(1, sizeof(*g));
		g->up = up;
		list_push(&up->guests, &g->node);
		loop_io_add(up->rt->loop, &g->io, fd, LOOP_READ, on_guest);
	}
}

/* --- the successor did not come to be --- */

static void heir_lost(struct upgrade *up)
{
	struct runtime *rt = up->rt;
	const char *why = up->said[0] ? up->said : "it ended without a word; its log says more";

	loop_timer_del(&up->patience);
	LOG_ERROR("the successor did not take over; this program goes on as before", LOG_S("error", why));
	answer_asker(up, "failed", why);
	if (!up->yielded)
		return;
	up->yielded = false;
	upgrade_start_again(rt);
}

static void on_again(struct loop_timer *t)
{
	struct upgrade *up = list_entry(t, struct upgrade, again);

	for (unsigned i = 0; i < up->rt->n; i++)
		if (up->rt->svcs[i].phase == SVC_STARTING) {          /* one after another */
			upgrade_start_again(up->rt);
			return;
		}
	for (unsigned i = 0; i < up->rt->n; i++)
		if (up->rt->svcs[i].phase == SVC_YIELDED)
			up->rt->svcs[i].phase = SVC_NEW;
	if (!up->rt->ending)
		life_start(up->rt);
}

/* A successor that was killed holds its locks for a moment longer than its end of the connection. */
void upgrade_start_again(struct runtime *rt) { loop_timer_set(rt->loop, &made(rt)->again, AGAIN_US, on_again); }

static void on_child(struct loop_timer *t)
{
	struct upgrade *up = list_entry(t, struct upgrade, watch_child);
	int status = 0;

	if (waitpid(up->child, &status, WNOHANG) == 0) {
		loop_timer_set(up->rt->loop, t, CHILD_US, on_child);
		return;
	}
	up->child = 0;
	if (!up->heir && !up->gone && !up->said[0]) {         /* it never came to the socket */
		snprintf(up->said, sizeof(up->said), "it ended with status %d at its start; what it said is in the log", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
		LOG_ERROR("the successor did not take over; this program goes on as before", LOG_S("error", up->said));
		answer_asker(up, "failed", up->said);
	}
}

/* --- starting one --- */

static size_t read_arguments(char *to, size_t cap, char **ret_argv)
{
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, to, cap - 1);
	size_t argc = 0;

	if (fd >= 0)
		close(fd);
	if (n <= 0 || (size_t)n == cap - 1)
		return 0;
	for (char *p = to; p < to + n && argc < ARGS - 2; p += strlen(p) + 1)
		if (strcmp(p, "--upgrade") != 0)
			ret_argv[argc++] = p;
	return argc;
}

/* Its signals as after a start by a shell: main() of the successor sets its own. */
static int spawn(const char *program, char **argv, pid_t *ret)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int error;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	error = posix_spawn(ret, program, &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

void upgrade_start(struct runtime *rt)
{
	struct upgrade *up = made(rt);
	char *text = x_malloc(131072), *argv[ARGS];
	size_t argc = read_arguments(text, 131072, argv);
	const char *no = cannot(up);
	int error = argc && rt->program[0] ? 0 : E2BIG;

	argv[argc] = (char *)(uintptr_t)"--upgrade";
	argv[argc + 1] = NULL;
	up->said[0] = '\0';
	if (!no && up->child)
		no = "another successor is starting";
	if (!no && !error)
		error = spawn(rt->program, argv, &up->child);
	free(text);
	if (!no && !error) {
		LOG_INFO("starting a successor", LOG_S("program", rt->program), LOG_I("pid", up->child));
		loop_timer_set(rt->loop, &up->watch_child, CHILD_US, on_child);
		return;
	}
	LOG_ERROR("no successor was started", LOG_S("error", no ? no : strerror(error)), LOG_S("program", rt->program));
	answer_asker(up, "failed", no ? no : strerror(error));
}

/* --- as the successor --- */

static bool take_fd(struct upgrade *up, const char *text, int fd)
{
	struct inherited *i = x_calloc(1, sizeof(*i)), **last = &up->inherited;

	i->fd = fd;
	if (fd < 0 || sscanf(text, "fd %63s %63s", i->service, i->what) != 2) {
		free(i);
		return false;
	}
	while (*last)
		last = &(*last)->next;
	*last = i;
	return true;
}

static enum err talk(struct upgrade *up, struct why *why)
{
	char text[UPGRADE_TEXT];
	int fd, got;

	snprintf(text, sizeof(text), "hello %d " CORRAL_VERSION, (int)getpid());
	if (!upgrade_send(up->before_fd, text, -1))
		return err_set(why, ERR_UNAVAILABLE, "the program that runs does not listen: %s", strerror(errno));
	while ((got = upgrade_recv(up->before_fd, text, sizeof(text), &fd)) > 0) {
		if (strncmp(text, "no ", 3) == 0)
			return err_set(why, ERR_CONFLICT, "the program that runs cannot hand over now: %s", text + 3);
		if (strncmp(text, "all ", 4) == 0) {
			up->before_ready = strcmp(text, "all ready") == 0;
			return ERR_OK;
		}
		if (!take_fd(up, text, fd))
			break;
	}
	return err_set(why, ERR_UNAVAILABLE, "the program that runs did not hand its addresses over");
}

enum err upgrade_meet(struct runtime *rt, struct why *why)
{
	struct upgrade *up = made(rt);
	struct timeval limit = { .tv_sec = ANSWER_S };

	up->taking = true;
	up->before_fd = upgrade_dial(rt->state_dir, rt->name);
	if (up->before_fd < 0)
		return err_set(why, ERR_UNAVAILABLE, "no %s runs on %s that could hand over (%s); start it without --upgrade", rt->name, rt->state_dir, strerror(errno));
	setsockopt(up->before_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return talk(up, why);
}

int upgrade_take(struct runtime *rt, const char *service, const char *what)
{
	struct inherited **at, *i;
	int fd;

	if (!rt->upgrade)
		return -1;
	for (at = &rt->upgrade->inherited; (i = *at); at = &i->next)
		if (strcmp(i->service, service) == 0 && strcmp(i->what, what) == 0) {
			fd = i->fd;
			*at = i->next;
			free(i);
			return fd;
		}
	return -1;
}

/* Services are stopped for a successor, or it is one that has not taken over. */
bool upgrade_under_way(const struct runtime *rt)
{
	for (unsigned i = 0; i < rt->n; i++)
		if (rt->svcs[i].phase != SVC_RUNNING)
			return true;
	return rt->upgrade && rt->upgrade->taking;
}

int svc_inherit(struct svc *s, const char *what) { return upgrade_take(s->rt, s->def->name, what); }
bool svc_is_heir(struct svc *s) { return s->rt->upgrade && s->rt->upgrade->taking; }
bool svc_handed_over(struct svc *s) { return s->rt->handed_over; }

static void leave_before(struct upgrade *up)
{
	if (up->before_fd < 0)
		return;
	loop_io_del(&up->before);
	close(up->before_fd);
	up->before_fd = -1;
}

/* The connection stays until our stores are closed: its end is what the other goes on at. */
void upgrade_failed(struct runtime *rt, const char *text)
{
	struct upgrade *up = rt->upgrade;
	char line[UPGRADE_TEXT];

	if (!up || !up->taking || up->went || up->failed || up->before_fd < 0)
		return;
	up->failed = true;
	snprintf(line, sizeof(line), "failed %.480s", text);
	(void)upgrade_send(up->before_fd, line, -1);
	loop_io_del(&up->before);
	loop_timer_del(&up->look);
}

static void give_up(struct upgrade *up, const char *text)
{
	struct runtime *rt = up->rt;

	fprintf(stderr, "%s: %s\n", rt->name, text);
	upgrade_failed(rt, text);
	rt->status = 1;
	loop_stop(rt->loop);
}

static void call_open(void *arg)
{
	struct svc *s = arg;

	s->def->open(s);
}

/* First we accept, then the other stops: between the two both do. */
static void take_over(struct upgrade *up)
{
	struct runtime *rt = up->rt;

	for (unsigned i = 0; i < rt->n; i++)
		if (hands_over(&rt->svcs[i]))
			loop_post(rt->svcs[i].loop, call_open, &rt->svcs[i]);
	http_server_accept(rt->admin);
	up->went = upgrade_send(up->before_fd, "go", -1);
	if (!up->went)
		give_up(up, "the program that ran ended before it handed over");
}

/* The sentence of what is missing, or NULL. */
static const char *unready(struct runtime *rt, char *text, size_t cap)
{
	for (unsigned i = 0; i < rt->n; i++) {
		struct svc *s = &rt->svcs[i];
		bool found = false;

		pthread_mutex_lock(&s->lock);
		for (const struct need *n = s->needs; n && !found; n = n->next)
			if (!n->ok && !n->wanted) {
				snprintf(text, cap, "%s: %s: %s", s->def->name, n->name, n->text);
				found = true;
			}
		pthread_mutex_unlock(&s->lock);
		if (found)
			return text;
	}
	return NULL;
}

static void on_look(struct loop_timer *t)
{
	struct upgrade *up = list_entry(t, struct upgrade, look);
	char text[300], line[400];
	const char *missing = unready(up->rt, text, sizeof(text));

	if (!missing || !up->before_ready) {
		take_over(up);
	} else if (mono_us() < up->until_us) {
		loop_timer_set(up->rt->loop, t, LOOK_US, on_look);
	} else {
		snprintf(line, sizeof(line), "the successor was not ready after %d s: %s", READY_US / 1000000, missing);
		give_up(up, line);
	}
}

static void finish(struct upgrade *up)
{
	struct inherited *i;

	leave_before(up);
	up->taking = false;
	while ((i = up->inherited)) {             /* addresses that the new configuration does not have */
		up->inherited = i->next;
		close(i->fd);
		free(i);
	}
	for (unsigned k = 0; k < up->rt->n; k++)
		thread_sign_lock(&up->rt->svcs[k]);
	LOG_INFO("took over");
	say_started(up->rt);
}

static void on_before(struct loop_io *io, unsigned ready)
{
	struct upgrade *up = list_entry(io, struct upgrade, before);
	char text[UPGRADE_TEXT];
	int passed, got;

	while (up->before_fd >= 0 && (got = upgrade_recv(up->before_fd, text, sizeof(text), &passed)) >= 0) {
		if (passed >= 0)
			close(passed);
		if (got > 0 && strcmp(text, "yielded") == 0) {
			life_start(up->rt);
		} else if (up->went) {        /* it goes, or is gone: both is well now */
			finish(up);
		} else {
			give_up(up, "the program that ran ended before it handed over, or waited no longer");
			return;
		}
	}
}

/* The services are to start: at once, or when their stores are ours. */
bool upgrade_before_start(struct runtime *rt)
{
	struct upgrade *up = rt->upgrade;
	bool stores = false;

	if (!up || !up->taking)
		return false;
	for (unsigned i = 0; i < rt->n; i++)
		stores |= !hands_over(&rt->svcs[i]);
	(void)fcntl(up->before_fd, F_SETFL, O_NONBLOCK);
	loop_io_add(rt->loop, &up->before, up->before_fd, LOOP_READ, on_before);
	if (stores && !upgrade_send(up->before_fd, "yield", -1))
		give_up(up, "the program that ran ended before it handed over");
	return stores;
}

/* --- both --- */

/* Now it is the one that runs. */
static void say_started(struct runtime *rt)
{
	struct upgrade *up = made(rt);
	char text[64];

	up->door_fd = upgrade_bind(rt->state_dir, rt->name);
	if (up->door_fd >= 0)
		loop_io_add(rt->loop, &up->door, up->door_fd, LOOP_READ, on_door);
	else
		LOG_WARN("no upgrade in place from here: its socket cannot be made", LOG_S("error", strerror(errno)));
	snprintf(text, sizeof(text), "MAINPID=%d\nREADY=1\n", (int)getpid());
	upgrade_notify(text);
}

void upgrade_started(struct runtime *rt)
{
	struct upgrade *up = made(rt);

	if (!up->taking) {
		say_started(rt);
		return;
	}
	up->until_us = mono_us() + READY_US;
	on_look(&up->look);
}

/* A signal ends the program: a successor that has not taken over has none to succeed. */
void upgrade_end(struct runtime *rt)
{
	struct upgrade *up = rt->upgrade;

	if (!up)
		return;
	if (up->taking)
		upgrade_failed(rt, "it was told to end");
	loop_timer_del(&up->again);
	if (up->gone)
		return;
	up->gone = true;
	loop_timer_del(&up->patience);
	if (up->heir)
		guest_close(up->heir);
	if (up->door.fd >= 0) {
		loop_io_del(&up->door);
		close(up->door_fd);
		upgrade_unlink(rt->state_dir, rt->name);
	}
}

void upgrade_free(struct runtime *rt)
{
	struct upgrade *up = rt->upgrade;
	struct inherited *i;

	if (!up)
		return;
	upgrade_end(rt);
	while (!list_empty(&up->guests))
		guest_close(list_entry(up->guests.next, struct guest, node));
	loop_timer_del(&up->watch_child);
	loop_timer_del(&up->again);
	leave_before(up);
	while ((i = up->inherited)) {
		up->inherited = i->next;
		close(i->fd);
		free(i);
	}
	free(up);
	rt->upgrade = NULL;
}

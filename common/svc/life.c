/* life.c - the life of the process on its main thread: start from the last, run, drain in order, stop in order.
 *
 *   start c, b, a ──▶ run ──signal──▶ drain a ▶ drain b ▶ drain c ──▶ stop a, b, c
 *            └─ one fails ─────────────────────────────────────────────▶ stop
 *
 * While a drains, b and c go on working for it. A service that is not drained when its time is over is passed by. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/svc/runtime.h"

enum {
	SHORT_DRAIN_MS = 5000,        /* SIGINT, or a second signal */
	LEAST_MS = 2000,              /* what a later service has when the earlier ones used up the time */
	LEAST_HURRIED_MS = 1000,
	SLACK_MS = 1000               /* for a service that ends its work itself when svc_drain_ms() is over */
};

static void drain_next(struct runtime *);

static void on_started(void *arg)
{
	struct svc *s = arg;
	struct runtime *rt = s->rt;

	if (s->why.code != ERR_OK && rt->started) {       /* again, after a successor failed */
		LOG_ERROR("a service did not start again; it is tried once more", LOG_S("of", s->def->name), LOG_S("error", s->why.text));
		pthread_join(s->thread, NULL);
		s->phase = SVC_YIELDED;
		upgrade_start_again(rt);
		if (rt->ending)
			drain_next(rt);
		else
			life_start(rt);   /* the others, meanwhile */
		return;
	}
	if (s->why.code != ERR_OK && atomic_load(&s->give_up)) {
		s->phase = SVC_FAILED;
		drain_next(rt);
		return;
	}
	if (s->why.code != ERR_OK) {
		s->phase = SVC_FAILED;
		upgrade_failed(rt, s->why.text);
		fprintf(stderr, "%s: %s%s%s\n", rt->name, rt->n > 1 ? s->def->name : "", rt->n > 1 ? ": " : "", s->why.text);
		rt->status = 1;
		loop_stop(rt->loop);
		return;
	}
	s->phase = SVC_RUNNING;
	if (rt->ending)
		drain_next(rt);
	else
		life_start(rt);
}

void life_start(struct runtime *rt)
{
	for (unsigned i = rt->n; i-- > 0;)
		if (rt->svcs[i].phase == SVC_NEW) {
			rt->svcs[i].phase = SVC_STARTING;
			thread_start(&rt->svcs[i], on_started);
			return;
		}
	if (rt->started) {
		for (unsigned i = 0; i < rt->n; i++)
			if (rt->svcs[i].phase != SVC_RUNNING)
				return;
		LOG_INFO("the services that had stopped run again");
		return;
	}
	rt->started = true;
	if (rt->reload_again)
		reload(rt);
	LOG_INFO("started", LOG_S("version", CORRAL_VERSION), LOG_I("services", rt->n), LOG_S("admin", rt->config.admin_listen),
		 LOG_I("admin_port", http_server_port(rt->admin)), LOG_I("after_ms", mono_ms() - rt->started_us / 1000));
	upgrade_started(rt);
}

/* --- drain --- */

static struct svc *next_to_drain(struct runtime *rt)
{
	for (unsigned i = 0; i < rt->n; i++)
		if (rt->svcs[i].phase >= SVC_STARTING && rt->svcs[i].phase <= SVC_DRAINING)
			return &rt->svcs[i];
	return NULL;
}

static void on_time_over(struct loop_timer *t)
{
	struct runtime *rt = (struct runtime *)(void *)((char *)t - offsetof(struct runtime, timer));
	struct svc *s = next_to_drain(rt);

	LOG_WARN("the time for draining is over", LOG_S("of", s ? s->def->name : ""));
	if (s)
		s->phase = SVC_DRAINED;
	drain_next(rt);
}

/* Gives the service that drains now its time, or less of it when a signal hurried. */
static void set_time(struct runtime *rt, struct svc *s)
{
	bool hurried = rt->signals > 1;
	int64_t now = mono_us(), least = now + (hurried ? LEAST_HURRIED_MS : LEAST_MS) * 1000;
	int64_t until = rt->drain_until_us > least ? rt->drain_until_us : least;

	atomic_store(&s->drain_until_us, until);
	atomic_store(&s->hurried, hurried);
	loop_timer_set(rt->loop, &rt->timer, until - now + SLACK_MS * 1000, on_time_over);
}

static void drain_next(struct runtime *rt)
{
	struct svc *s = next_to_drain(rt);

	if (!s) {
		loop_timer_del(&rt->timer);
		loop_stop(rt->loop);
		return;
	}
	if (s->phase != SVC_RUNNING)              /* on_started() comes back here; SVC_DRAINING is under way */
		return;
	if (!s->def->drain) {
		s->phase = SVC_DRAINED;
		drain_next(rt);
		return;
	}
	s->phase = SVC_DRAINING;
	set_time(rt, s);
	thread_drain(s);
}

void life_drained(void *arg)
{
	struct svc *s = arg;

	if (s->phase != SVC_DRAINING)
		return;
	s->phase = SVC_DRAINED;
	drain_next(s->rt);
}

/* --- signals --- */

static const char *signal_name(int signo) { return signo == SIGINT ? "SIGINT" : "SIGTERM"; }

static void hurry(struct runtime *rt)
{
	int64_t soon = mono_us() + SHORT_DRAIN_MS * 1000;
	struct svc *s = next_to_drain(rt);

	if (rt->drain_until_us > soon)
		rt->drain_until_us = soon;
	for (unsigned i = 0; i < rt->n; i++)
		atomic_store(&rt->svcs[i].hurried, true);
	if (s && s->phase == SVC_DRAINING)
		set_time(rt, s);
}

static void on_end_signal(void *arg, int signo)
{
	struct runtime *rt = arg;
	int64_t drain_ms = rt->config.drain;

	rt->signals++;
	if (rt->signals > 2)
		_exit(128 + signo);
	if (rt->signals == 2) {
		LOG_WARN("hurrying; one more signal ends at once", LOG_S("signal", signal_name(signo)));
		hurry(rt);
		return;
	}
	if (signo == SIGINT && drain_ms > SHORT_DRAIN_MS)
		drain_ms = SHORT_DRAIN_MS;
	if (rt->ending)               /* a successor has the addresses: what is open may take less time */
		drain_ms = SHORT_DRAIN_MS;
	LOG_INFO("draining", LOG_S("signal", signal_name(signo)), LOG_I("at_most_ms", drain_ms));
	if (rt->ending) {
		hurry(rt);
		return;
	}
	upgrade_end(rt);
	rt->ending = true;
	for (unsigned i = 0; i < rt->n; i++)
		atomic_store(&rt->svcs[i].give_up, true);
	rt->drain_until_us = mono_us() + drain_ms * 1000;
	drain_next(rt);
}

void life_end(struct runtime *rt)
{
	rt->ending = true;
	rt->drain_until_us = mono_us() + rt->config.drain * 1000;
	drain_next(rt);
}

struct failure { struct svc *svc; struct why why; };

static void on_failure(void *arg)
{
	struct failure *f = arg;
	struct runtime *rt = f->svc->rt;

	rt->status = 1;
	fprintf(stderr, "%s: %s%s%s\n", rt->name, rt->n > 1 ? f->svc->def->name : "", rt->n > 1 ? ": " : "", f->why.text);
	upgrade_failed(rt, f->why.text);
	free(f);
	if (rt->ending)
		return;
	upgrade_end(rt);
	rt->ending = true;
	rt->drain_until_us = mono_us() + SHORT_DRAIN_MS * 1000;
	drain_next(rt);
}

void svc_fail(struct svc *s, const struct why *why)
{
	struct failure *f = x_malloc(sizeof(*f));

	*f = (struct failure){ s, *why };
	loop_post(s->rt->loop, on_failure, f);
}

static void on_upgrade_signal(void *arg, int signo) { upgrade_start(arg); }

static void on_hangup(void *arg, int signo)
{
	struct runtime *rt = arg;

	(void)signo;
	if (rt->ending)
		LOG_WARN("the configuration is not read again while draining", LOG_S("signal", "SIGHUP"));
	else if (rt->started && !upgrade_under_way(rt))
		reload(rt);
	else
		rt->reload_again = true;
}

/* --- the whole --- */

static void stop_all(struct runtime *rt)
{
	for (unsigned i = 0; i < rt->n; i++) {
		struct svc *s = &rt->svcs[i];

		if (s->phase == SVC_FAILED)
			pthread_join(s->thread, NULL);
		else if (s->phase != SVC_NEW && s->phase != SVC_YIELDED)
			thread_stop(s);
		s->phase = SVC_STOPPED;
	}
}

void life_run(struct runtime *rt)
{
	loop_signal(rt->loop, SIGTERM, on_end_signal, rt);
	loop_signal(rt->loop, SIGINT, on_end_signal, rt);
	loop_signal(rt->loop, SIGHUP, on_hangup, rt);
	loop_signal(rt->loop, SIGUSR2, on_upgrade_signal, rt);
	if (!upgrade_before_start(rt))
		life_start(rt);
	loop_run(rt->loop);
	signal(SIGTERM, SIG_DFL);                 /* a stop() that hangs can still be ended */
	signal(SIGINT, SIG_DFL);
	stop_all(rt);
	if (rt->status == 0)
		LOG_INFO("stopped");
}

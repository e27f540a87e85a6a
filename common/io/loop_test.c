/* loop_test.c - turns, timers, deferred order, posts from other threads. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/io/loop.h"

static struct loop *l;
static char trace[64];

static void note(char c)
{
	size_t n = strlen(trace);

	if (n + 1 < sizeof(trace))
		trace[n] = c;
}

static int set_up(void **state)
{
	memset(trace, 0, sizeof(trace));
	l = loop_new();
	return 0;
}

static int tear_down(void **state)
{
	loop_free(l);
	return 0;
}

static void stop(void *arg) { loop_stop(l); }
static void timer_stop(struct loop_timer *t) { loop_stop(l); }

/* --- timers --- */

struct named { struct loop_timer t; char name; };

static void on_named(struct loop_timer *t) { note(list_entry(t, struct named, t)->name); }

static void timers_fire_in_order(void **state)
{
	struct named a = { .name = 'a' }, b = { .name = 'b' }, c = { .name = 'c' }, d = { .name = 'd' };
	struct loop_timer end = { 0 };

	loop_timer_set(l, &c.t, 9000, on_named);
	loop_timer_set(l, &a.t, 1000, on_named);
	loop_timer_set(l, &b.t, 500000, on_named);
	loop_timer_set(l, &d.t, 2000, on_named);
	loop_timer_set(l, &b.t, 4000, on_named);      /* re-armed earlier */
	loop_timer_del(&d.t);
	loop_timer_del(&d.t);
	loop_timer_set(l, &end, 20000, timer_stop);
	loop_run(l);
	assert_string_equal(trace, "abc");
}

static int fired, armed;
static int64_t last_at;

static void on_many(struct loop_timer *t)
{
	assert_true(t->at_us >= last_at);
	last_at = t->at_us;
	if (++fired == armed)
		loop_stop(l);
}

static void a_thousand_timers(void **state)
{
	static struct loop_timer many[1000];

	fired = armed = 0;
	last_at = 0;
	srand(7);
	for (int i = 0; i < 1000; i++)
		loop_timer_set(l, &many[i], rand() % 30000, on_many);
	for (int i = 0; i < 1000; i += 3)
		loop_timer_del(&many[i]);
	for (int i = 0; i < 1000; i++)
		armed += many[i].heap_index != 0;
	loop_run(l);
	assert_int_equal(armed, 666);
}

static void spin(struct loop_timer *t)
{
	if (++fired < 100)
		loop_timer_set(l, t, 0, spin);
}

static void a_spinning_timer_lets_others_run(void **state)
{
	struct loop_timer t = { 0 }, end = { 0 };

	fired = 0;
	loop_timer_set(l, &t, 0, spin);
	loop_timer_set(l, &end, 50000, timer_stop);
	loop_run(l);
	assert_int_equal(fired, 100);
}

/* --- deferred --- */

struct step { struct loop_deferred d; char name; struct step *then; unsigned phase; };

static void on_step(struct loop_deferred *d)
{
	struct step *s = list_entry(d, struct step, d);

	note(s->name);
	if (s->then)
		loop_defer(l, &s->then->d, s->then->phase, on_step);
}

static void deferred_runs_by_phase(void **state)
{
	struct step late = { .name = 'l', .phase = LOOP_PHASE_SEND }, f = { .name = 'f', .phase = LOOP_PHASE_FREE };
	struct step s = { .name = 's', .then = &late }, gone = { .name = 'x' };

	loop_defer(l, &f.d, LOOP_PHASE_FREE, on_step);
	loop_defer(l, &s.d, LOOP_PHASE_SEND, on_step);
	loop_defer(l, &s.d, LOOP_PHASE_SEND, on_step);
	loop_defer(l, &gone.d, LOOP_PHASE_SEND, on_step);
	loop_undefer(&gone.d);
	loop_undefer(&gone.d);
	loop_post(l, stop, NULL);
	loop_run(l);
	assert_string_equal(trace, "slf");
}

static void loop_free_runs_what_was_deferred(void **state)
{
	struct loop *other = loop_new();
	struct step f = { .name = 'f' };

	loop_defer(other, &f.d, LOOP_PHASE_FREE, on_step);
	loop_free(other);
	assert_string_equal(trace, "f");
}

/* --- descriptors --- */

static int ends[2];
static unsigned readies;

static void on_io(struct loop_io *io, unsigned ready)
{
	char b[8];

	readies |= ready;
	if ((ready & LOOP_READ) && read(io->fd, b, sizeof(b)) > 0)
		note(b[0]);
	if (ready & LOOP_HUP) {
		loop_io_del(io);
		loop_stop(l);
	}
}

static void send_then_close(struct loop_timer *t)
{
	assert_int_equal(write(ends[1], "r", 1), 1);
	close(ends[1]);
}

static void sees_bytes_and_the_end(void **state)
{
	struct loop_timer t = { 0 };
	struct loop_io io;

	readies = 0;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	loop_io_add(l, &io, ends[0], LOOP_READ | LOOP_WRITE, on_io);
	loop_timer_set(l, &t, 1000, send_then_close);
	loop_run(l);
	assert_int_equal(readies, LOOP_READ | LOOP_WRITE | LOOP_HUP);
	assert_string_equal(trace, "r");
	assert_int_equal(io.fd, -1);
	close(ends[0]);
}

static struct loop_io pair_io[2];

static void del_other(struct loop_io *io, unsigned ready)
{
	note('1');
	loop_io_del(&pair_io[io == &pair_io[0]]);
	loop_io_del(io);
	loop_post(l, stop, NULL);
}

static void a_removed_descriptor_is_silent(void **state)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	loop_io_add(l, &pair_io[0], ends[0], LOOP_WRITE, del_other);   /* both are ready in the same turn */
	loop_io_add(l, &pair_io[1], ends[1], LOOP_WRITE, del_other);
	loop_run(l);
	assert_string_equal(trace, "1");
	close(ends[0]);
	close(ends[1]);
}

static void on_again(struct loop_io *io, unsigned ready)
{
	note(ready == LOOP_READ ? 'a' : 'w');
	if (strlen(trace) < 3)
		loop_io_again(io, LOOP_READ);
	else
		loop_stop(l);
}

static void again_comes_in_the_next_turn(void **state)
{
	struct loop_io io;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	loop_io_add(l, &io, ends[0], LOOP_WRITE, on_again);
	loop_run(l);
	assert_string_equal(trace, "waa");
	loop_io_again(&io, LOOP_READ);
	loop_io_del(&io);
	loop_post(l, stop, NULL);
	loop_run(l);
	assert_string_equal(trace, "waa");
	close(ends[0]);
	close(ends[1]);
}

/* --- posts --- */

enum { POSTERS = 4, POSTS = 10000 };

static int next_of[POSTERS], posted;

static void on_post(void *arg)
{
	intptr_t v = (intptr_t)arg;

	assert_int_equal(v % POSTS, next_of[v / POSTS]++);     /* in order, per thread */
	if (++posted == POSTERS * POSTS)
		loop_stop(l);
}

static void *post_all(void *arg)
{
	for (intptr_t i = 0; i < POSTS; i++)
		loop_post(l, on_post, (void *)((intptr_t)arg * POSTS + i));
	return NULL;
}

static void threads_post(void **state)
{
	pthread_t t[POSTERS];

	posted = 0;
	memset(next_of, 0, sizeof(next_of));
	for (intptr_t i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, post_all, (void *)i), 0);
	loop_run(l);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(posted, POSTERS * POSTS);
}

static void posts_that_never_ran_are_dropped(void **state) { loop_post(l, stop, NULL); }

/* --- signals --- */

static int got_signal;
static void on_signal(void *arg, int signo) { got_signal = signo; loop_stop(l); }
static void raise_it(struct loop_timer *t) { raise(SIGUSR1); }

static void hears_signals(void **state)
{
	struct loop_timer t = { 0 };

	loop_signal(l, SIGUSR1, on_signal, NULL);
	loop_timer_set(l, &t, 1000, raise_it);
	loop_run(l);
	assert_int_equal(got_signal, SIGUSR1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(timers_fire_in_order), T(a_thousand_timers), T(a_spinning_timer_lets_others_run), T(deferred_runs_by_phase),
		T(loop_free_runs_what_was_deferred), T(sees_bytes_and_the_end), T(a_removed_descriptor_is_silent),
		T(again_comes_in_the_next_turn), T(threads_post), T(posts_that_never_ran_are_dropped), T(hears_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

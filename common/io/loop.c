/* loop.c - see loop.h. The only file that knows libevent: it does the waiting, everything else is ours.
 *
 * A turn is one event_base_loop(EVLOOP_ONCE). The libevent timer only ends the wait: it is armed when the top of the
 * heap lies before the moment it is armed for, so that moving timers costs no call; firing too early is harmless. */
#include "common/io/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"

enum { TEST_WAKE_US = 20000, SCRATCHES_TAKEN = 64, SCRATCHES_SPARE = 32 };

struct post {
	struct post *next;
	void (*fn)(void *);
	void *arg;
};

/* What libevent needs for one descriptor; kept for reuse by the loop. */
struct watch {
	struct event ev;
	struct loop_io *io;
	struct list node;             /* on loop.again, or on loop.spare */
	unsigned ready;               /* for loop_io_again() */
};

struct sig {
	struct event ev;
	struct sig *next;
	void (*fn)(void *, int);
	void *arg;
};

struct loop {
	struct event_base *base;
	_Atomic(struct post *) posts; /* newest first */
	int wake_fd;
	struct event wake_ev, timer_ev;
	int64_t armed_us;             /* when timer_ev ends the wait; 0 = it does not */
	struct loop_timer **heap;     /* from index 1 */
	uint32_t heap_n, heap_cap;
	int64_t now_us;
	bool awake, stop;
	struct list deferred[LOOP_PHASES];
	struct list again, spare;
	struct sig *signals;
	char *scratch, *spare_scratch[SCRATCHES_SPARE];
	unsigned n_taken, n_spare_scratch;
};

static void on_wake(evutil_socket_t fd, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);
static void wait_ready(struct loop *);
static void finish_turn(struct loop *);
static void run_deferred(struct loop *, unsigned last);
static void drop_posts(struct loop *);
static void drop_watches(struct list *);

/* glibc gives the top of its heap back above 128 KiB and takes it again for the next request: four page faults for each body
 * of 32 KiB, a third of what the whole request costs. Blocks above 128 KiB (batches of facts) it takes from the kernel each time.
 * A program with a loop keeps up to 4 MiB instead. */
static void keep_heap(void)
{
	mallopt(M_TRIM_THRESHOLD, 4 << 20);
	mallopt(M_TOP_PAD, 256 << 10);
	mallopt(M_MMAP_THRESHOLD, 4 << 20);       /* setting the first ends glibc's own adjustment of this one */
}

struct loop *loop_new(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct loop *l = x_calloc(1, sizeof(*l));
	struct event_config *cfg = event_config_new();

	pthread_once(&once, keep_heap);
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK);
	event_config_require_features(cfg, EV_FEATURE_ET | EV_FEATURE_EARLY_CLOSE);
	l->base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (!l->base || l->wake_fd < 0) {
		LOG_ERROR("no event loop: descriptors or memory ran out", LOG_S("error", strerror(errno)));
		abort();
	}
	event_assign(&l->wake_ev, l->base, l->wake_fd, EV_READ | EV_PERSIST | EV_ET, on_wake, l);
	event_add(&l->wake_ev, NULL);
	evtimer_assign(&l->timer_ev, l->base, on_timer, l);
	for (unsigned i = 0; i < LOOP_PHASES; i++)
		list_init(&l->deferred[i]);
	list_init(&l->again);
	list_init(&l->spare);
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	run_deferred(l, LOOP_PHASES - 1);
	drop_posts(l);
	event_del(&l->wake_ev);
	event_del(&l->timer_ev);
	for (struct sig *s = l->signals, *next; s; s = next) {
		next = s->next;
		event_del(&s->ev);
		free(s);
	}
	drop_watches(&l->again);
	drop_watches(&l->spare);
	event_base_free(l->base);
	close(l->wake_fd);
	free(l->heap);
	free(l->scratch);
	while (l->n_spare_scratch)
		free(l->spare_scratch[--l->n_spare_scratch]);
	free(l);
}

void loop_run(struct loop *l)
{
	for (;;) {
		finish_turn(l);
		if (l->stop)
			break;
		wait_ready(l);
	}
	l->stop = false;
}

void loop_stop(struct loop *l) { l->stop = true; }

int64_t loop_now_us(const struct loop *l)
{
	return l->awake ? l->now_us : mono_us();
}

char *loop_scratch(struct loop *l)
{
	if (!l->scratch)
		l->scratch = l->n_spare_scratch ? l->spare_scratch[--l->n_spare_scratch] : x_malloc(LOOP_SCRATCH_BYTES);
	return l->scratch;
}

char *loop_scratch_take(struct loop *l)
{
	char *p = l->n_taken < SCRATCHES_TAKEN ? l->scratch : NULL;

	if (p) {
		l->scratch = NULL;
		l->n_taken++;
	}
	return p;
}

void loop_scratch_give(struct loop *l, char *p)
{
	l->n_taken--;
	if (l->n_spare_scratch < SCRATCHES_SPARE)
		l->spare_scratch[l->n_spare_scratch++] = p;
	else
		free(p);
}

/* --- turns --- */

static void wake(struct loop *l)
{
	if (l->awake)
		return;
	l->now_us = mono_us();
	l->awake = true;
}

static void arm(struct loop *l, int64_t at_us)
{
	int64_t wait_us = at_us - mono_us();
	struct timeval tv;

	if (wait_us < 0)
		wait_us = 0;
	tv.tv_sec = wait_us / 1000000;
	tv.tv_usec = wait_us % 1000000;
	event_add(&l->timer_ev, &tv);
	l->armed_us = at_us;
}

static void wait_ready(struct loop *l)
{
	const struct loop_timer *top = l->heap_n ? l->heap[1] : NULL;
	bool now = !list_empty(&l->again) || (top && top->at_us <= l->now_us);

	l->awake = false;
	if (now) {
		event_base_loop(l->base, EVLOOP_NONBLOCK);
		return;
	}
	if (top && (!l->armed_us || top->at_us < l->armed_us))
		arm(l, top->at_us);
	if (clock_is_test() && (!l->armed_us || l->armed_us > mono_us() + TEST_WAKE_US))
		arm(l, mono_us() + TEST_WAKE_US);
	event_base_loop(l->base, EVLOOP_ONCE);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;

	l->armed_us = 0;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	uint64_t n;

	(void)!read(fd, &n, sizeof(n));
}

static void run_again(struct loop *l)
{
	struct list batch = LIST_INIT(batch);

	if (list_empty(&l->again))
		return;
	list_add_after(&l->again, &batch);
	list_del(&l->again);
	while (!list_empty(&batch)) {
		struct watch *w = list_entry(batch.next, struct watch, node);

		list_del(&w->node);
		w->io->fn(w->io, w->ready);
	}
}

static struct post *take_posts(struct loop *l)
{
	struct post *p = atomic_load_explicit(&l->posts, memory_order_relaxed), *ordered = NULL;

	if (!p)
		return NULL;
	for (p = atomic_exchange_explicit(&l->posts, NULL, memory_order_acquire); p;) {
		struct post *next = p->next;

		p->next = ordered;
		ordered = p;
		p = next;
	}
	return ordered;
}

static void run_posts(struct loop *l)
{
	for (struct post *p = take_posts(l), *next; p; p = next) {
		next = p->next;
		p->fn(p->arg);
		free(p);
	}
}

/* At most as many as there were: a timer that re-arms itself with no delay must not keep the others from running. */
static void run_timers(struct loop *l)
{
	for (uint32_t n = l->heap_n; n && l->heap_n && l->heap[1]->at_us <= l->now_us; n--) {
		struct loop_timer *t = l->heap[1];

		loop_timer_del(t);
		t->fn(t);
	}
}

static void run_deferred(struct loop *l, unsigned last)
{
	for (unsigned phase = 0; phase <= last;) {
		struct list *head = &l->deferred[phase];
		struct loop_deferred *d;

		if (list_empty(head)) {
			phase++;
			continue;
		}
		d = list_entry(head->next, struct loop_deferred, node);
		list_del(&d->node);
		d->fn(d);
		phase = 0;
	}
}

static void finish_turn(struct loop *l)
{
	run_deferred(l, LOOP_PHASE_WORK);
	wake(l);
	run_again(l);
	run_posts(l);
	run_timers(l);
	run_deferred(l, LOOP_PHASES - 1);
}

/* --- posts --- */

void loop_post(struct loop *l, void (*fn)(void *), void *arg)
{
	struct post *p = x_malloc(sizeof(*p)), *head = atomic_load_explicit(&l->posts, memory_order_relaxed);
	uint64_t one = 1;

	p->fn = fn;
	p->arg = arg;
	do
		p->next = head;
	while (!atomic_compare_exchange_weak_explicit(&l->posts, &head, p, memory_order_release, memory_order_relaxed));
	/* Only the first of a batch wakes the loop; 'p' may be run and freed by now. */
	if (!head)
		(void)!write(l->wake_fd, &one, sizeof(one));
}

static void drop_posts(struct loop *l)
{
	for (struct post *p = take_posts(l), *next; p; p = next) {
		next = p->next;
		free(p);
	}
}

/* --- descriptors --- */

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct watch *w = arg;
	unsigned ready = 0;

	if (what & EV_READ)
		ready |= LOOP_READ;
	if (what & EV_WRITE)
		ready |= LOOP_WRITE;
	if (what & EV_CLOSED)
		ready |= LOOP_HUP | LOOP_READ;
	wake(w->io->loop);
	w->io->fn(w->io, ready);
}

static struct watch *watch_new(struct loop *l)
{
	struct watch *w;

	if (list_empty(&l->spare)) {
		w = x_calloc(1, sizeof(*w));
		list_init(&w->node);
		return w;
	}
	w = list_entry(l->spare.next, struct watch, node);
	list_del(&w->node);
	return w;
}

void loop_io_add(struct loop *l, struct loop_io *io, int fd, unsigned events, void (*fn)(struct loop_io *, unsigned ready))
{
	struct watch *w = watch_new(l);
	short what = EV_PERSIST | EV_ET | EV_CLOSED;

	if (events & LOOP_READ)
		what |= EV_READ;
	if (events & LOOP_WRITE)
		what |= EV_WRITE;
	*io = (struct loop_io){ .fd = fd, .fn = fn, .loop = l, .impl = w };
	w->io = io;
	event_assign(&w->ev, l->base, fd, what, on_ready, w);
	if (event_add(&w->ev, NULL) < 0)
		LOG_ERROR("descriptor cannot be watched", LOG_I("fd", fd), LOG_S("error", strerror(errno)));
}

void loop_io_del(struct loop_io *io)
{
	struct watch *w = io->impl;

	if (!w)
		return;
	event_del(&w->ev);
	list_del(&w->node);
	list_push_front(&io->loop->spare, &w->node);
	io->impl = NULL;
	io->fd = -1;
}

void loop_io_again(struct loop_io *io, unsigned ready)
{
	struct watch *w = io->impl;

	if (list_empty(&w->node)) {
		list_push(&io->loop->again, &w->node);
		w->ready = 0;
	}
	w->ready |= ready;
}

static void drop_watches(struct list *head)
{
	list_each_safe(it, head)
		free(list_entry(it, struct watch, node));
	list_init(head);
}

/* --- timers: a binary heap --- */

static void place(struct loop *l, uint32_t i, struct loop_timer *t)
{
	l->heap[i] = t;
	t->heap_index = i;
}

static void sift_up(struct loop *l, uint32_t i, struct loop_timer *t)
{
	for (; i > 1 && l->heap[i / 2]->at_us > t->at_us; i /= 2)
		place(l, i, l->heap[i / 2]);
	place(l, i, t);
}

static void sift_down(struct loop *l, uint32_t i, struct loop_timer *t)
{
	for (uint32_t child; (child = 2 * i) <= l->heap_n; i = child) {
		if (child < l->heap_n && l->heap[child + 1]->at_us < l->heap[child]->at_us)
			child++;
		if (l->heap[child]->at_us >= t->at_us)
			break;
		place(l, i, l->heap[child]);
	}
	place(l, i, t);
}

void loop_timer_set(struct loop *l, struct loop_timer *t, int64_t delay_us, void (*fn)(struct loop_timer *))
{
	loop_timer_del(t);
	t->at_us = loop_now_us(l) + (delay_us > 0 ? delay_us : 0);
	t->fn = fn;
	t->loop = l;
	if (++l->heap_n >= l->heap_cap) {
		l->heap_cap = l->heap_cap ? 2 * l->heap_cap : 16;
		l->heap = x_realloc(l->heap, l->heap_cap * sizeof(struct loop_timer *));
	}
	sift_up(l, l->heap_n, t);
}

void loop_timer_del(struct loop_timer *t)
{
	uint32_t i = t->heap_index;
	struct loop *l = t->loop;
	struct loop_timer *last;

	if (!i)
		return;
	t->heap_index = 0;
	last = l->heap[l->heap_n--];
	if (last == t)
		return;
	if (i > 1 && l->heap[i / 2]->at_us > last->at_us)
		sift_up(l, i, last);
	else
		sift_down(l, i, last);
}

/* --- end of turn --- */

bool loop_is_deferred(const struct loop_deferred *d) { return d->node.next && d->node.next != &d->node; }

void loop_defer(struct loop *l, struct loop_deferred *d, unsigned phase, void (*fn)(struct loop_deferred *))
{
	d->fn = fn;
	if (!loop_is_deferred(d))
		list_push(&l->deferred[phase], &d->node);
}

void loop_undefer(struct loop_deferred *d)
{
	if (loop_is_deferred(d))
		list_del(&d->node);
}

/* --- signals --- */

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
	struct sig *s = arg;

	s->fn(s->arg, (int)signo);
}

void loop_signal(struct loop *l, int signo, void (*fn)(void *, int), void *arg)
{
	struct sig *s = x_calloc(1, sizeof(*s));

	s->fn = fn;
	s->arg = arg;
	s->next = l->signals;
	l->signals = s;
	evsignal_assign(&s->ev, l->base, signo, on_signal, s);
	event_add(&s->ev, NULL);
}

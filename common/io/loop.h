/* loop.h - one thread's event loop: readiness, timers, work posted by other threads, work for the end of the turn.
 *
 * A wrapper over libevent (loop.c alone includes it). A loop belongs to the thread that runs it; only loop_post() may
 * be called from elsewhere. Timers are our own heap on mono_us(), so that tests can move time
 * (see base/clock.h). One turn: ready descriptors, posted work, due timers, then deferred work in the order of its phase. */
#ifndef CORRAL_IO_LOOP_H
#define CORRAL_IO_LOOP_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/list.h"

struct loop;

struct loop *loop_new(void);
void loop_free(struct loop *);                    /* runs what was deferred, drops what was posted; NULL is fine */
void loop_run(struct loop *);                     /* until loop_stop() */
void loop_stop(struct loop *);                    /* ends the turn in progress first */
int64_t loop_now_us(const struct loop *);         /* mono, read once a turn */

/* Runs fn(arg) on the loop's thread, in order of posting. Any thread. */
void loop_post(struct loop *, void (*fn)(void *arg), void *arg);

/* --- descriptors: edge-triggered, registered once; a callback reads or writes until EAGAIN or a short count --- */
enum {
	LOOP_READ = 1, LOOP_WRITE = 2,
	LOOP_HUP = 4                              /* only reported: the peer sent its end; read until 0 or EAGAIN, not to a short count */
};

struct loop_io {
	int fd;                                   /* -1 when not added */
	void (*fn)(struct loop_io *, unsigned ready);
	struct loop *loop;
	void *impl;
};

void loop_io_add(struct loop *, struct loop_io *, int fd, unsigned events, void (*fn)(struct loop_io *, unsigned ready));
void loop_io_del(struct loop_io *);               /* does not close; safe in any callback; nothing fires afterwards */
void loop_io_again(struct loop_io *, unsigned ready);   /* calls fn with these in the next turn, whatever the kernel says */

/* Memory for bytes just received, until the callback that filled it returns. What it calls must not read descriptors. */
enum { LOOP_SCRATCH_BYTES = 65536 };
char *loop_scratch(struct loop *);

/* Keeps what lies in the scratch memory where it lies, instead of copying it: the loop gets other memory, and this is given back with
 * loop_scratch_give(). NULL when so much is kept already that copying is better. */
char *loop_scratch_take(struct loop *);
void loop_scratch_give(struct loop *, char *);

/* --- timers --- */
struct loop_timer {
	int64_t at_us;
	uint32_t heap_index;                      /* 0 = not armed; zero-initialise */
	void (*fn)(struct loop_timer *);
	struct loop *loop;
};

void loop_timer_set(struct loop *, struct loop_timer *, int64_t delay_us, void (*fn)(struct loop_timer *)); /* re-arms */
void loop_timer_del(struct loop_timer *);         /* not armed is fine */

/* --- end of turn --- */
enum { LOOP_PHASE_ENDS, LOOP_PHASE_WORK, LOOP_PHASE_SEND, LOOP_PHASE_FREE, LOOP_PHASES };

struct loop_deferred {
	struct list node;                         /* zero-initialised or list_init()ed when not queued */
	void (*fn)(struct loop_deferred *);
};

/* Runs once at the end of this turn, before the loop waits again. Queueing twice is one run. Work queued by deferred work
 * runs in the same turn; a phase starts when those before it have nothing left. What ended in the turn (ENDS) and what began (WORK) comes before
 * timers and posts, so that these meet nothing half done; then all that is to be sent, then what is to be freed. */
void loop_defer(struct loop *, struct loop_deferred *, unsigned phase, void (*fn)(struct loop_deferred *));
void loop_undefer(struct loop_deferred *);
bool loop_is_deferred(const struct loop_deferred *);

/* Calls fn(arg, signo) on the loop's thread. One loop a process. */
void loop_signal(struct loop *, int signo, void (*fn)(void *arg, int signo), void *arg);
#endif

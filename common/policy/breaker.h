/* breaker.h - stops sending work to a (backend, model) that keeps failing.
 *
 *   closed ──failures in a row, or half of ≥20 calls in 30 s──▶ open ──rest over──▶ half-open ──two successes──▶ closed
 *                                    ▲                                                  │
 *                                    └──────────────── one failure (rest doubles) ──────┘
 * Counted: connect errors, resets, 5xx, bad framing, silence. Not counted: the client's 4xx, its leaving, its own deadline, our queue;
 * 429 and Retry-After set a pause instead. Pure: the clock is a parameter. Thread-safe by one lock that is taken on failures, and on
 * success only when there is something to reset. */
#ifndef CORRAL_POLICY_BREAKER_H
#define CORRAL_POLICY_BREAKER_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

struct breaker_opts {
	uint32_t failures;            /* in a row; 5 */
	int64_t open_us;              /* first rest; 30 s, doubling to max_open_us */
	int64_t max_open_us;          /* 5 min */
	int64_t refused_open_us;      /* rest after connection refused: 1 s, doubling to open_us */
};

struct breaker {
	_Atomic int state;            /* read without the lock */
	_Atomic int64_t until_us;     /* open: rest ends; also the pause of a 429 while closed */
	_Atomic uint32_t probing;     /* half-open: the ticket of the probe that is under way; 0 = none */
	_Atomic uint32_t tickets;
	_Atomic uint32_t run;         /* failures in a row */
	pthread_mutex_t lock;
	uint32_t successes;           /* while half-open */
	uint32_t opened, refused;     /* times in a row, for doubling: a server that starts refuses often, and is not ill for that */
	int64_t window_us;            /* start of the ratio window */
	uint32_t calls;               /* in it */
	_Atomic uint32_t failed;      /* in it */
	const char *cause;            /* static text of the last failure */
};

void breaker_init(struct breaker *);
/* May a call be made now? Half-open lets exactly one through: *ret_probe is its ticket, else 0. Every call that was let through is reported once,
 * with its ticket: success, failure or neutral. Only the probe's own report lets another probe go. */
bool breaker_allow(struct breaker *, const struct breaker_opts *, int64_t now_us, uint32_t *ret_probe);
/* The same question without taking the probe: for ranking. */
bool breaker_is_open(const struct breaker *, int64_t now_us);
/* Both return true when the state changed (then log it). */
bool breaker_success(struct breaker *, int64_t now_us, uint32_t probe);
bool breaker_failure(struct breaker *, const struct breaker_opts *, int64_t now_us, bool refused, const char *cause, uint32_t probe);
/* A call that says nothing about health (cancelled, client's error): gives the probe back, if it was one. */
void breaker_neutral(struct breaker *, uint32_t probe);
void breaker_pause(struct breaker *, int64_t until_us);       /* Retry-After */
int64_t breaker_retry_us(const struct breaker *, int64_t now_us);     /* time until it may be tried; 0 = now */
enum breaker_state breaker_state(const struct breaker *, int64_t now_us);
const char *breaker_state_name(enum breaker_state);
#endif

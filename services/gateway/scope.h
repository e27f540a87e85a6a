/* scope.h - what a key or a tenant has used of its limits, shared by the workers and outliving every keyring.
 *
 * A scope is found by its name ("key:ID", "tenant:NAME") when the access snapshot names limits for it, and counted by the entries that
 * use it. Taking is exact however many threads take: a request takes from its key and its tenant under both locks, or from neither.
 *
 * How much of a limit is this gateway's depends on who else is there (limit_share.c asks access' RPC Share):
 *   alone     all of it
 *   shared    what was given last, and nothing once that is older than its time; who finds too little waits for more
 *   on its own   access is not heard: the limit divided by the gateways that there were, less what others had used by then */
#ifndef CORRAL_GATEWAY_SCOPE_H
#define CORRAL_GATEWAY_SCOPE_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "access.pb-c.h"
#include "common/policy/rate_limit.h"

enum limit_kind { LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_CONCURRENCY, LIMIT_KINDS, LIMIT_WINDOWS = LIMIT_CONCURRENCY };

struct scope {
	struct scope *next, *next_busy;
	struct scope_table *table;
	_Atomic uint32_t refs;                /* entries of keyrings, and one for the table */
	char name[96];
	pthread_mutex_t lock;                 /* of all that follows */
	uint64_t limit[LIMIT_KINDS];          /* 0 = none */
	uint64_t given[LIMIT_KINDS];          /* of it, while it is shared; what is used is part of it */
	uint64_t others[LIMIT_KINDS];         /* what other gateways had used when that was said */
	int64_t given_us;
	struct rate_window used[LIMIT_WINDOWS];
	uint64_t in_flight;
	uint64_t asked[LIMIT_KINDS];          /* since the last ask, granted or not */
	uint64_t want[LIMIT_KINDS];           /* in the last ask */
	bool busy;                            /* in the table's list of those that shares are asked for */
};

enum scope_mode { SCOPES_ALONE, SCOPES_SHARED, SCOPES_ON_THEIR_OWN };

struct scope_table;
struct scope_table *scope_table_new(void);
void scope_table_free(struct scope_table *);
/* The scope of that name with these limits from now on, one reference; NULL when there is nothing to limit. Control thread. */
struct scope *scope_get(struct scope_table *, const char *kind, const char *name, const Corral__Limits *);
struct scope *scope_ref(struct scope *);      /* NULL is fine in both */
void scope_unref(struct scope *);

/* --- requests; any thread --- */

struct limit_refusal {
	const struct scope *scope;
	enum limit_kind kind;
	uint64_t limit, left, need;
	int64_t wait_us;              /* until there may be enough; 0 = nobody knows */
	bool share;                   /* the limit is not used up; what this gateway has of it is */
};

/* What a request holds of its key's scope and its tenant's; either may be NULL. */
struct limit_hold {
	struct scope *scopes[2];
	uint64_t tokens[2];           /* reserved */
	int64_t taken_us;
	bool taken;
};

/* One request with about so many tokens, now: from both scopes or from neither. A reservation above the whole limit waits for an empty minute. */
bool scopes_take(struct limit_hold *, uint64_t tokens, int64_t now_us, struct limit_refusal *ret);
/* It is over, and used so many tokens. Once; a hold that took nothing is fine. */
void scopes_end(struct limit_hold *, uint64_t tokens, int64_t now_us);

struct limit_state {
	uint64_t limit, left;         /* limit 0 = none */
	int64_t reset_us;             /* until all of it is there again */
};
/* Of the two scopes' windows the one that has less left. */
struct limit_state scopes_state(const struct limit_hold *, enum limit_kind, int64_t now_us);

/* --- the control side --- */

/* Forgets those that nobody uses any more, and calls fn for each that is left. */
void scope_table_sweep(struct scope_table *, void (*fn)(struct scope *, void *arg), void *arg);
struct scope *scope_find(struct scope_table *, const char *name);      /* no reference is given; NULL */
/* 'on_need' is called on any thread when a request needs more than was given; once, until scope_table_told(). */
void scope_table_share(struct scope_table *, void (*on_need)(void *arg), void *arg);
void scope_table_told(struct scope_table *);
void scope_table_mode(struct scope_table *, enum scope_mode, uint32_t gateways, int64_t valid_until_us);
enum scope_mode scope_table_is(const struct scope_table *);
/* Calls fn for each scope of which something was used, and drops from the list those for which it says false. */
void scope_table_busy(struct scope_table *, bool (*fn)(struct scope *, void *arg), void *arg);
/* After a time alone: all of which something was used are busy. */
void scope_table_recall(struct scope_table *, int64_t now_us);
void scope_used(struct scope *, int64_t now_us, uint64_t ret[LIMIT_KINDS]);    /* under its lock */
void scope_give(struct scope *, int64_t now_us, const uint64_t given[LIMIT_KINDS], const uint64_t others[LIMIT_KINDS]);
#endif

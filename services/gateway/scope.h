/* scope.h - what a key or a tenant has used of its limits, shared by the workers and outliving every keyring.
 *
 * A scope is found by its name ("key:ID", "tenant:NAME") when the access snapshot names limits for it, and counted by the entries that
 * use it. The limits are those of the snapshot, times the share this gateway has of them (access' RPC Share; 1 when there is one gateway). */
#ifndef CORRAL_GATEWAY_SCOPE_H
#define CORRAL_GATEWAY_SCOPE_H
#include <pthread.h>

#include "access.pb-c.h"
#include "common/policy/rate_limit.h"

struct scope {
	struct scope *next;
	_Atomic uint32_t refs;                /* entries of keyrings, requests, and one for the table */
	char name[96];
	struct rate_limit requests, tokens;
	_Atomic uint32_t concurrency;         /* 0 = no limit */
	_Atomic uint32_t in_flight;
	_Atomic uint64_t asked_requests, asked_tokens;        /* since the start, refused ones too: what Share asks for */
	/* control thread */
	uint64_t told_requests, told_tokens;
	int64_t told_at_us;
	Corral__Limits limits;                /* of the snapshot */
	double share;
	int64_t share_until_us;               /* 0 = it is 1 */
};

struct scope_table;
struct scope_table *scope_table_new(void);
void scope_table_free(struct scope_table *);
/* The scope of that name with these limits from now on, one reference; NULL when there is nothing to limit. Control thread. */
struct scope *scope_get(struct scope_table *, const char *kind, const char *name, const Corral__Limits *);
struct scope *scope_ref(struct scope *);      /* NULL is fine in both */
void scope_unref(struct scope *);

/* Forgets those that nobody uses any more, and calls fn for each that is left. Control thread. */
void scope_table_sweep(struct scope_table *, void (*fn)(struct scope *, void *arg), void *arg);
struct scope *scope_find(struct scope_table *, const char *name);      /* no reference is given; NULL */
void scope_set_share(struct scope *, double share, int64_t until_us);

/* A place among those under way; false when there is none. */
bool scope_enter(struct scope *);
void scope_leave(struct scope *);
#endif

/* scope.c - see scope.h. */
#include "services/gateway/scope.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/base/str.h"

enum { BUCKETS = 65536 };             /* untouched pages cost nothing */

struct scope_table { unsigned n; struct scope *bucket[BUCKETS]; };

struct scope_table *scope_table_new(void) { return x_calloc(1, sizeof(struct scope_table)); }

void scope_table_free(struct scope_table *t)
{
	for (unsigned i = 0; t && i < BUCKETS; i++)
		while (t->bucket[i]) {
			struct scope *s = t->bucket[i];

			t->bucket[i] = s->next;
			scope_unref(s);
		}
	free(t);
}

struct scope *scope_ref(struct scope *s)
{
	if (s)
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void scope_unref(struct scope *s)
{
	if (s && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		free(s);
}

static struct scope **place(struct scope_table *t, const char *name)
{
	struct scope **at = &t->bucket[str_hash(str_of(name), 3) % BUCKETS];

	while (*at && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

struct scope *scope_find(struct scope_table *t, const char *name) { return *place(t, name); }

/* A part of a limit on concurrency is at least one, else a gateway with a small part could serve nobody for ever. */
static void apply(struct scope *s)
{
	const Corral__Limits *l = &s->limits;
	double part = l->concurrency * s->share;

	rate_limit_set(&s->requests, (double)l->requests_per_minute * s->share);
	rate_limit_set(&s->tokens, (double)l->tokens_per_minute * s->share);
	atomic_store(&s->concurrency, l->concurrency && part < 1 ? 1 : (uint32_t)part);
}

struct scope *scope_get(struct scope_table *t, const char *kind, const char *name, const Corral__Limits *l)
{
	char full[sizeof(((struct scope *)0)->name)];
	struct scope **at;

	snprintf(full, sizeof(full), "%s:%s", kind, name);
	at = place(t, full);
	if (!*at) {
		if (!l || (!l->requests_per_minute && !l->tokens_per_minute && !l->concurrency))
			return NULL;
		*at = x_calloc(1, sizeof(**at));
		memcpy((*at)->name, full, sizeof(full));
		atomic_store(&(*at)->refs, 1);
		(*at)->share = 1;
		t->n++;
	}
	(*at)->limits = (Corral__Limits)CORRAL__LIMITS__INIT;
	if (l) {
		(*at)->limits.requests_per_minute = l->requests_per_minute;
		(*at)->limits.tokens_per_minute = l->tokens_per_minute;
		(*at)->limits.concurrency = l->concurrency;
	}
	apply(*at);
	return scope_ref(*at);
}

void scope_set_share(struct scope *s, double share, int64_t until_us)
{
	s->share_until_us = until_us;
	if (s->share == share)
		return;
	s->share = share;
	apply(s);
}

void scope_table_sweep(struct scope_table *t, void (*fn)(struct scope *, void *arg), void *arg)
{
	for (unsigned i = 0; t->n && i < BUCKETS; i++)
		for (struct scope **at = &t->bucket[i]; *at;) {
			struct scope *s = *at;

			if (atomic_load(&s->refs) == 1) {
				*at = s->next;
				t->n--;
				scope_unref(s);
				continue;
			}
			fn(s, arg);
			at = &s->next;
		}
}

bool scope_enter(struct scope *s)
{
	uint32_t now = atomic_load_explicit(&s->in_flight, memory_order_relaxed), most;

	do {
		most = atomic_load_explicit(&s->concurrency, memory_order_relaxed);
		if (most && now >= most)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&s->in_flight, &now, now + 1, memory_order_relaxed, memory_order_relaxed));
	return true;
}

void scope_leave(struct scope *s) { atomic_fetch_sub_explicit(&s->in_flight, 1, memory_order_relaxed); }

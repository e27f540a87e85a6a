/* scope.c - see scope.h. Locks: a key's scope before a tenant's, either before the list of busy ones. */
#include "services/gateway/scope.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/base/str.h"

enum { BUCKETS = 65536 };             /* untouched pages cost nothing */
static const int64_t minute_us = 62 * INT64_C(1000000);       /* as rate_limit.h counts */

struct scope_table {
	unsigned n;
	struct scope *bucket[BUCKETS];
	pthread_mutex_t lock;
	struct scope *busy;
	void (*on_need)(void *arg);           /* NULL: nobody to ask, and nobody to share with */
	void *arg;
	_Atomic bool told;
	_Atomic int mode;
	_Atomic uint32_t gateways;
	_Atomic int64_t valid_until_us;
};

/* --- the table --- */

struct scope_table *scope_table_new(void)
{
	struct scope_table *t = x_calloc(1, sizeof(*t));

	pthread_mutex_init(&t->lock, NULL);
	atomic_store(&t->valid_until_us, INT64_MAX);
	return t;
}

static bool idle(struct scope *s, void *arg) { return false; }

void scope_table_free(struct scope_table *t)
{
	if (t)
		scope_table_busy(t, idle, NULL);
	for (unsigned i = 0; t && i < BUCKETS; i++)
		while (t->bucket[i]) {
			struct scope *s = t->bucket[i];

			t->bucket[i] = s->next;
			scope_unref(s);
		}
	if (t)
		pthread_mutex_destroy(&t->lock);
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
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_destroy(&s->lock);
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

static struct scope *scope_new(struct scope_table *t, const char *name)
{
	struct scope *s = x_calloc(1, sizeof(*s));

	str_copy(s->name, sizeof(s->name), str_of(name));
	atomic_store(&s->refs, 1);
	pthread_mutex_init(&s->lock, NULL);
	s->table = t;
	t->n++;
	return s;
}

struct scope *scope_get(struct scope_table *t, const char *kind, const char *name, const Corral__Limits *l)
{
	char full[sizeof(((struct scope *)0)->name)];
	struct scope **at;

	snprintf(full, sizeof(full), "%s:%s", kind, name);
	at = place(t, full);
	if (!*at && (!l || (!l->requests_per_minute && !l->tokens_per_minute && !l->concurrency)))
		return NULL;
	if (!*at)
		*at = scope_new(t, full);
	pthread_mutex_lock(&(*at)->lock);
	(*at)->limit[LIMIT_REQUESTS] = l ? l->requests_per_minute : 0;
	(*at)->limit[LIMIT_TOKENS] = l ? l->tokens_per_minute : 0;
	(*at)->limit[LIMIT_CONCURRENCY] = l ? l->concurrency : 0;
	pthread_mutex_unlock(&(*at)->lock);
	return scope_ref(*at);
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

/* --- who is busy --- */

/* Under the scope's lock. The list has a reference. */
static void set_busy(struct scope *s)
{
	struct scope_table *t = s->table;

	if (s->busy)
		return;
	s->busy = true;
	scope_ref(s);
	pthread_mutex_lock(&t->lock);
	s->next_busy = t->busy;
	t->busy = s;
	pthread_mutex_unlock(&t->lock);
}

static void push_back(struct scope_table *t, struct scope *s)
{
	pthread_mutex_lock(&t->lock);
	s->next_busy = t->busy;
	t->busy = s;
	pthread_mutex_unlock(&t->lock);
}

void scope_table_busy(struct scope_table *t, bool (*fn)(struct scope *, void *), void *arg)
{
	struct scope *s, *next;

	pthread_mutex_lock(&t->lock);
	s = t->busy;
	t->busy = NULL;
	pthread_mutex_unlock(&t->lock);
	for (; s; s = next) {
		bool stays;

		next = s->next_busy;
		pthread_mutex_lock(&s->lock);
		stays = s->busy = fn(s, arg);
		pthread_mutex_unlock(&s->lock);
		if (stays)
			push_back(t, s);
		else
			scope_unref(s);
	}
}

void scope_used(struct scope *s, int64_t now_us, uint64_t ret[LIMIT_KINDS])
{
	for (int k = 0; k < LIMIT_WINDOWS; k++)
		ret[k] = rate_used(&s->used[k], now_us);
	ret[LIMIT_CONCURRENCY] = s->in_flight;
}

static bool is_used(struct scope *s, int64_t now_us)
{
	uint64_t used[LIMIT_KINDS];

	scope_used(s, now_us, used);
	return used[0] || used[1] || used[2];
}

static void recall(struct scope *s, void *now_us)
{
	pthread_mutex_lock(&s->lock);
	if (is_used(s, *(int64_t *)now_us))
		set_busy(s);
	pthread_mutex_unlock(&s->lock);
}

void scope_table_recall(struct scope_table *t, int64_t now_us) { scope_table_sweep(t, recall, &now_us); }

/* --- what is ours --- */

void scope_table_share(struct scope_table *t, void (*on_need)(void *), void *arg)
{
	t->on_need = on_need;
	t->arg = arg;
	atomic_store(&t->mode, SCOPES_SHARED);
	atomic_store(&t->valid_until_us, 0);
}

void scope_table_told(struct scope_table *t) { atomic_store(&t->told, false); }

void scope_table_mode(struct scope_table *t, enum scope_mode mode, uint32_t gateways, int64_t valid_until_us)
{
	atomic_store(&t->gateways, gateways ? gateways : 1);
	atomic_store(&t->mode, (int)mode);
	atomic_store(&t->valid_until_us, valid_until_us);
}

enum scope_mode scope_table_is(const struct scope_table *t) { return (enum scope_mode)atomic_load(&t->mode); }

static void need_more(struct scope_table *t)
{
	if (t->on_need && !atomic_exchange(&t->told, true))
		t->on_need(t->arg);
}

void scope_give(struct scope *s, int64_t now_us, const uint64_t given[LIMIT_KINDS], const uint64_t others[LIMIT_KINDS])
{
	pthread_mutex_lock(&s->lock);
	memcpy(s->given, given, sizeof(s->given));
	memcpy(s->others, others, sizeof(s->others));
	s->given_us = now_us;
	pthread_mutex_unlock(&s->lock);
}

static bool is_fresh(const struct scope *s, int64_t now_us) { return s->given_us && now_us - s->given_us < minute_us; }

/* At least one, so that no limit becomes a ban. What was given beyond the part is not used: the others may not know of it, and use theirs. */
static uint64_t part_of(const struct scope *s, enum limit_kind k, int64_t now_us)
{
	uint64_t part = s->limit[k] / atomic_load(&s->table->gateways), left = s->limit[k], others = is_fresh(s, now_us) ? s->others[k] : 0;

	left = left > others ? left - others : 0;
	part = part ? part : 1;
	return part < left ? part : left;
}

/* How much of the limit this gateway may use, what it has used included. */
static uint64_t most(const struct scope *s, enum limit_kind k, int64_t now_us)
{
	const struct scope_table *t = s->table;
	enum scope_mode mode = scope_table_is(t);

	if (mode == SCOPES_ON_THEIR_OWN)
		return part_of(s, k, now_us);
	if (now_us > atomic_load(&t->valid_until_us))
		return 0;
	return mode == SCOPES_ALONE || s->given[k] > s->limit[k] ? s->limit[k] : s->given[k];
}

/* --- taking --- */

static uint64_t need_of(const struct scope *s, enum limit_kind k, uint64_t tokens)
{
	return k != LIMIT_TOKENS ? 1 : s->limit[k] && tokens > s->limit[k] ? s->limit[k] : tokens;
}

static bool refuse(struct scope *s, enum limit_kind k, uint64_t need, uint64_t used, int64_t now_us, struct limit_refusal *ret)
{
	enum scope_mode mode = scope_table_is(s->table);
	uint64_t others = mode == SCOPES_SHARED && is_fresh(s, now_us) ? s->others[k] : 0;
	uint64_t whole = mode == SCOPES_ON_THEIR_OWN ? most(s, k, now_us) : s->limit[k] > others ? s->limit[k] - others : 0;

	*ret = (struct limit_refusal){ .scope = s, .kind = k, .limit = s->limit[k], .need = need, .left = whole > used ? whole - used : 0 };
	ret->share = mode != SCOPES_ON_THEIR_OWN && used + need <= whole;
	if (k < LIMIT_WINDOWS)
		ret->wait_us = rate_wait_us(&s->used[k], now_us, whole > need ? whole - need : 0);
	return false;
}

static bool has_room(struct scope *s, uint64_t tokens, int64_t now_us, struct limit_refusal *ret)
{
	uint64_t used[LIMIT_KINDS];

	scope_used(s, now_us, used);
	for (enum limit_kind k = 0; k < LIMIT_KINDS; k++) {
		uint64_t need = need_of(s, k, tokens);

		s->asked[k] += need;
		if (s->limit[k] && (used[k] >= UINT64_MAX - need || used[k] + need > most(s, k, now_us)))
			return refuse(s, k, need, used[k], now_us, ret);
	}
	return true;
}

static void take(struct scope *s, uint64_t tokens, int64_t now_us)
{
	rate_add(&s->used[LIMIT_REQUESTS], now_us, 1);
	rate_add(&s->used[LIMIT_TOKENS], now_us, tokens);
	s->in_flight++;
}

static void lock_both(struct scope *const s[2])
{
	for (int i = 0; i < 2; i++)
		if (s[i])
			pthread_mutex_lock(&s[i]->lock);
}

static void unlock_both(struct scope *const s[2])
{
	for (int i = 0; i < 2; i++)
		if (s[i])
			pthread_mutex_unlock(&s[i]->lock);
}

bool scopes_take(struct limit_hold *h, uint64_t tokens, int64_t now_us, struct limit_refusal *ret)
{
	struct scope_table *t = h->scopes[0] ? h->scopes[0]->table : h->scopes[1] ? h->scopes[1]->table : NULL;
	bool ok = true, share = t && scope_table_is(t) != SCOPES_ALONE;

	lock_both(h->scopes);
	for (int i = 0; ok && i < 2; i++)
		ok = !h->scopes[i] || has_room(h->scopes[i], tokens, now_us, ret);
	for (int i = 0; i < 2; i++) {
		if (h->scopes[i] && share)
			set_busy(h->scopes[i]);
		if (!h->scopes[i] || !ok)
			continue;
		h->tokens[i] = need_of(h->scopes[i], LIMIT_TOKENS, tokens);
		take(h->scopes[i], h->tokens[i], now_us);
	}
	unlock_both(h->scopes);
	h->taken = ok;
	h->taken_us = now_us;
	if (!ok && ret->share)
		need_more(t);
	return ok;
}

void scopes_end(struct limit_hold *h, uint64_t tokens, int64_t now_us)
{
	if (!h->taken)
		return;
	h->taken = false;
	for (int i = 0; i < 2; i++) {
		struct scope *s = h->scopes[i];

		if (!s)
			continue;
		pthread_mutex_lock(&s->lock);
		s->in_flight--;
		if (tokens < h->tokens[i])
			rate_give_back(&s->used[LIMIT_TOKENS], now_us, h->taken_us, h->tokens[i] - tokens);
		else
			rate_add(&s->used[LIMIT_TOKENS], now_us, tokens - h->tokens[i]);
		pthread_mutex_unlock(&s->lock);
	}
}

struct limit_state scopes_state(const struct limit_hold *h, enum limit_kind k, int64_t now_us)
{
	struct limit_state less = { 0 };

	for (int i = 0; i < 2 && k < LIMIT_WINDOWS; i++) {
		struct scope *s = h->scopes[i];
		uint64_t used;

		if (!s)
			continue;
		pthread_mutex_lock(&s->lock);
		used = rate_used(&s->used[k], now_us) + (scope_table_is(s->table) == SCOPES_SHARED && is_fresh(s, now_us) ? s->others[k] : 0);
		if (s->limit[k] && (!less.limit || s->limit[k] - (used < s->limit[k] ? used : s->limit[k]) < less.left))
			less = (struct limit_state){ s->limit[k], used < s->limit[k] ? s->limit[k] - used : 0, rate_wait_us(&s->used[k], now_us, 0) };
		pthread_mutex_unlock(&s->lock);
	}
	return less;
}

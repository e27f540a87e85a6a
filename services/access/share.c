/* share.c - see share.h. */
#include "services/access/share.h"

#include "common/base/list.h"

enum { KINDS = 3, IN_FLIGHT = 2 };

struct units { uint64_t n[KINDS]; };

struct scope {
	struct scope *next;
	struct units used, holds;     /* as it said; 'holds' covers what it was given then, too */
	char name[];
};

struct gateway {
	struct list link;
	char *name;
	int64_t asked_us;
	bool alone;                   /* it said so, and acts so */
	bool gone;                    /* what it used stays used */
	struct scope **bucket;
	size_t n_buckets;
};

struct shares {
	struct list gateways;
	unsigned n, n_gone;
	int64_t quiet_until_us;
};

struct shares *shares_new(int64_t quiet_until_us)
{
	struct shares *s = x_calloc(1, sizeof(*s));

	list_init(&s->gateways);
	s->quiet_until_us = quiet_until_us;
	return s;
}

/* --- gateways --- */

static void scopes_free(struct scope **bucket, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (struct scope *s = bucket[i], *next; s; s = next) {
			next = s->next;
			free(s);
		}
	free(bucket);
}

static void gateway_free(struct shares *s, struct gateway *g)
{
	list_del(&g->link);
	scopes_free(g->bucket, g->n_buckets);
	free(g->name);
	s->n -= !g->gone;
	s->n_gone -= g->gone;
	free(g);
}

void shares_free(struct shares *s)
{
	if (!s)
		return;
	list_each_safe(l, &s->gateways)
		gateway_free(s, list_entry(l, struct gateway, link));
	free(s);
}

static void goes(struct shares *s, struct gateway *g)
{
	s->n -= !g->gone;
	s->n_gone += !g->gone;
	g->gone = true;
	g->alone = false;
}

static void comes(struct shares *s, struct gateway *g)
{
	s->n += g->gone;
	s->n_gone -= g->gone;
	g->gone = false;
}

/* A clock that was set back would keep them for ever: what asked "later" than now has not asked. */
static bool older(const struct gateway *g, int64_t now_us, int64_t ms) { return g->asked_us > now_us || now_us - g->asked_us >= ms * 1000; }

static void drop_silent(struct shares *s, int64_t now_us)
{
	list_each_safe(l, &s->gateways) {
		struct gateway *g = list_entry(l, struct gateway, link);

		if (!g->gone && older(g, now_us, SHARE_VALID_MS))
			goes(s, g);
		if (g->gone && (older(g, now_us, SHARE_KEPT_MS) || g->n_buckets == 1))
			gateway_free(s, g);       /* its minute is over, or it had nothing */
	}
}

unsigned shares_gateways(struct shares *s, int64_t now_us)
{
	drop_silent(s, now_us);
	return s->n;
}

/* NULL: there are too many. */
static struct gateway *gateway_of(struct shares *s, const char *name)
{
	struct gateway *g;

	list_each(l, &s->gateways) {
		g = list_entry(l, struct gateway, link);
		if (strcmp(g->name, name) == 0)
			return g;
	}
	if (s->n >= SHARE_MOST_GATEWAYS)
		return NULL;
	g = x_calloc(1, sizeof(*g));
	g->name = x_strdup(name);
	g->n_buckets = 1;
	g->bucket = x_calloc(1, sizeof(struct scope *));
	list_push(&s->gateways, &g->link);
	s->n++;
	return g;
}

/* --- scopes --- */

static struct units units_of(const Corral__Units *u)
{
	return u ? (struct units){ { u->requests, u->tokens, u->in_flight } } : (struct units){ 0 };
}

static void put_units(struct arena *mem, Corral__Units **ret, const struct units *u)
{
	*ret = arena_alloc(mem, sizeof(**ret));
	corral__units__init(*ret);
	(*ret)->requests = u->n[0];
	(*ret)->tokens = u->n[1];
	(*ret)->in_flight = u->n[IN_FLIGHT];
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t plus(uint64_t a, uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }
static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static struct scope **bucket_of(const struct gateway *g, const char *name)
{
	return &g->bucket[str_hash(str_of(name), 11) & (g->n_buckets - 1)];
}

static struct scope *scope_of(const struct gateway *g, const char *name)
{
	struct scope *s = *bucket_of(g, name);

	while (s && strcmp(s->name, name) != 0)
		s = s->next;
	return s;
}

static void scope_add(struct gateway *g, const Corral__ScopeDemand *d)
{
	struct scope *s = scope_of(g, d->scope), **head = bucket_of(g, d->scope);
	size_t n = strlen(d->scope) + 1;

	if (!s) {
		s = x_calloc(1, sizeof(*s) + n);
		memcpy(s->name, d->scope, n);
		s->next = *head;
		*head = s;
	}
	s->used = units_of(d->used);
	s->holds = units_of(d->held);
}

/* What it has now, in the place of what it had before. */
static void replace_scopes(struct gateway *g, const Corral__ShareRequest *q)
{
	scopes_free(g->bucket, g->n_buckets);
	for (g->n_buckets = 1; g->n_buckets < 2 * q->n_scopes; g->n_buckets *= 2)
		;
	g->bucket = x_calloc(g->n_buckets, sizeof(struct scope *));
	for (size_t i = 0; i < q->n_scopes; i++)
		scope_add(g, q->scopes[i]);
}

/* --- shares --- */

/* Nobody may be given more now: somebody's use is not known yet. */
static bool is_blocked(const struct shares *s, const struct gateway *mine, int64_t now_us)
{
	if (now_us < s->quiet_until_us)
		return true;
	list_each(l, &s->gateways) {
		const struct gateway *g = list_entry(l, struct gateway, link);

		if (g != mine && g->alone)
			return true;
	}
	return false;
}

/* What the others used, and what they may have used by now: one that is gone does not say what it left. What that had under way is over. */
static void sum_others(struct shares *s, const struct gateway *mine, const char *name, struct units *used, struct units *held)
{
	list_each(l, &s->gateways) {
		const struct gateway *g = list_entry(l, struct gateway, link);
		const struct scope *c = g == mine ? NULL : scope_of(g, name);

		for (int k = 0; c && k < (g->gone ? IN_FLIGHT : KINDS); k++) {
			uint64_t most = larger(c->used.n[k], c->holds.n[k]);

			used->n[k] = plus(used->n[k], g->gone ? most : c->used.n[k]);
			held->n[k] = plus(held->n[k], most);
		}
	}
}

static void share(struct shares *s, struct gateway *g, const Corral__ScopeDemand *d, bool blocked, struct arena *mem, Corral__ScopeShare *ret)
{
	struct units limit = units_of(d->limit), want = units_of(d->want), used = { 0 }, held = { 0 }, given;
	struct scope *c = scope_of(g, d->scope);

	sum_others(s, g, c->name, &used, &held);
	for (int k = 0; k < KINDS; k++) {
		uint64_t left = minus(limit.n[k], plus(held.n[k], c->used.n[k]));

		given.n[k] = blocked ? larger(c->used.n[k], c->holds.n[k]) : plus(c->used.n[k], smaller(want.n[k], left));
		c->holds.n[k] = larger(c->holds.n[k], given.n[k]);
	}
	corral__scope_share__init(ret);
	ret->scope = (char *)arena_str(mem, str_of(c->name)).p;
	put_units(mem, &ret->given, &given);
	put_units(mem, &ret->others, &used);
}

static void answer(struct shares *s, struct gateway *g, const Corral__ShareRequest *q, int64_t now_us, struct arena *mem, Corral__ShareReply *ret)
{
	bool quiet = now_us < s->quiet_until_us, blocked = is_blocked(s, g, now_us);

	corral__share_reply__init(ret);
	ret->valid_ms = SHARE_VALID_MS;
	ret->gateways = s->n;
	ret->alone = g->alone = !q->leaving && s->n == 1 && !s->n_gone && (!quiet || q->alone);
	g->alone |= q->alone;             /* it is until it has heard that it is not */
	ret->scopes = arena_array(mem, Corral__ScopeShare *, q->n_scopes + 1);
	for (size_t i = 0; i < q->n_scopes; i++) {
		Corral__ScopeShare *one = arena_alloc(mem, sizeof(*one));

		share(s, g, q->scopes[i], blocked, mem, one);
		ret->scopes[ret->n_scopes++] = one;
	}
}

enum err shares_ask(struct shares *s, const Corral__ShareRequest *q, int64_t now_us, struct arena *mem, Corral__ShareReply *ret, struct why *why)
{
	struct gateway *g;

	if (!q->gateway[0] || strlen(q->gateway) > 128)
		return err_set(why, ERR_INVALID, "a gateway needs a name of at most 128 bytes");
	if (q->n_scopes > SHARE_MOST_SCOPES)
		return err_set(why, ERR_TOO_LARGE, "at most %d scopes are shared at once", SHARE_MOST_SCOPES);
	drop_silent(s, now_us);
	g = gateway_of(s, q->gateway);
	if (!g)
		return err_set(why, ERR_UNAVAILABLE, "there are %d gateways already", SHARE_MOST_GATEWAYS);
	comes(s, g);
	g->asked_us = now_us;
	g->alone = false;
	replace_scopes(g, q);
	answer(s, g, q, now_us, mem, ret);
	if (q->leaving)
		goes(s, g);
	return ERR_OK;
}

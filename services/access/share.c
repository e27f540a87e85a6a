/* share.c - see share.h. A scope's need is one number: the mean of the parts in requests, tokens and requests under way. */
#include "services/access/share.h"

#include "common/base/list.h"

enum { KINDS = 3 };
static const double kept_for_unnamed = 0.1;       /* of each limit, divided by all gateways */

struct scope {
	struct scope *next;
	double need[KINDS];
	uint32_t in_flight;
	double given;
	char name[];
};

struct gateway {
	struct list link;
	char *name;
	int64_t joined_us, asked_us;
	double floor;                 /* what it was told last */
	struct scope **bucket;
	size_t n_buckets;
};

struct shares {
	struct list gateways;
	unsigned n;
	uint32_t (*concurrency)(void *arg, const char *scope);
	void *arg;
};

struct shares *shares_new(uint32_t (*concurrency)(void *, const char *), void *arg)
{
	struct shares *s = x_calloc(1, sizeof(*s));

	list_init(&s->gateways);
	s->concurrency = concurrency;
	s->arg = arg;
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
	free(g);
	s->n--;
}

void shares_free(struct shares *s)
{
	if (!s)
		return;
	list_each_safe(l, &s->gateways)
		gateway_free(s, list_entry(l, struct gateway, link));
	free(s);
}

/* A clock that was set back would keep them for ever: what asked "later" than now has not asked. */
static bool is_over(const struct gateway *g, int64_t now_us)
{
	return g->asked_us > now_us || now_us - g->asked_us >= SHARE_VALID_MS * 1000;
}

static void drop_silent(struct shares *s, int64_t now_us)
{
	list_each_safe(l, &s->gateways)
		if (is_over(list_entry(l, struct gateway, link), now_us))
			gateway_free(s, list_entry(l, struct gateway, link));
}

unsigned shares_gateways(struct shares *s, int64_t now_us)
{
	drop_silent(s, now_us);
	return s->n;
}

/* NULL: there are too many. */
static struct gateway *gateway_of(struct shares *s, const char *name, int64_t now_us)
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
	g->joined_us = now_us;
	g->n_buckets = 1;
	g->bucket = x_calloc(1, sizeof(struct scope *));
	list_push(&s->gateways, &g->link);
	s->n++;
	return g;
}

/* --- scopes --- */

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

static double positive(double v) { return v > 0 && v < 1e15 ? v : 0; }

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
	s->need[0] = positive(d->requests_per_s);
	s->need[1] = positive(d->tokens_per_s);
	s->need[2] = s->in_flight = d->in_flight;
}

/* What it needs now, in the place of what it needed before. */
static void replace_needs(struct gateway *g, const Corral__ShareRequest *q)
{
	scopes_free(g->bucket, g->n_buckets);
	for (g->n_buckets = 16; g->n_buckets < q->n_scopes; g->n_buckets *= 2)
		;
	g->bucket = x_calloc(g->n_buckets, sizeof(struct scope *));
	for (size_t i = 0; i < q->n_scopes; i++)
		scope_add(g, q->scopes[i]);
}

/* --- shares --- */

/* The part of this gateway in what all need; the parts of all add up to 1. */
static double part_of(struct shares *s, const struct gateway *mine, const char *name)
{
	double sum[KINDS] = { 0 }, part = 0;
	const struct scope *own = scope_of(mine, name);
	unsigned kinds = 0, named = 0;

	list_each(l, &s->gateways) {
		const struct scope *c = scope_of(list_entry(l, struct gateway, link), name);

		named += c != NULL;
		for (int k = 0; c && k < KINDS; k++)
			sum[k] += c->need[k];
	}
	for (int k = 0; k < KINDS; k++)
		if (sum[k] > 0) {
			part += own->need[k] / sum[k];
			kinds++;
		}
	return kinds ? part / kinds : 1.0 / named;
}

/* What another gateway may be using of it now. */
static double held_by(struct shares *s, const struct gateway *g, const char *name)
{
	const struct scope *c = scope_of(g, name);
	uint32_t most = c && c->in_flight && s->concurrency ? s->concurrency(s->arg, name) : 0;
	double held = c ? c->given : g->floor, busy = most ? (double)c->in_flight / most : 0;

	return busy > held ? busy : held;
}

static double give(struct shares *s, struct gateway *g, const char *name, double floor)
{
	double want = floor + (1 - floor * s->n) * part_of(s, g, name), left = 1;

	list_each(l, &s->gateways) {
		struct gateway *other = list_entry(l, struct gateway, link);
		double held = other == g ? 0 : held_by(s, other, name);

		left -= held > floor || other == g ? held : floor;
	}
	return want < left ? want : left > 0 ? left : 0;
}

/* All others have been told of this gateway, and keep its floor free. */
static bool is_known_to_all(const struct shares *s, const struct gateway *g)
{
	list_each(l, &s->gateways) {
		const struct gateway *other = list_entry(l, struct gateway, link);

		if (other != g && other->asked_us <= g->joined_us)
			return false;
	}
	return true;
}

static void answer(struct shares *s, struct gateway *g, const Corral__ShareRequest *q, struct arena *mem, Corral__ShareReply *ret)
{
	double floor = s->n > 1 ? kept_for_unnamed / s->n : 1;

	corral__share_reply__init(ret);
	ret->valid_ms = SHARE_VALID_MS;
	ret->gateways = s->n;
	ret->floor = g->floor = is_known_to_all(s, g) ? floor : 0;
	ret->scopes = arena_array(mem, Corral__ScopeShare *, q->n_scopes + 1);
	for (size_t i = 0; i < q->n_scopes; i++) {
		Corral__ScopeShare *share = arena_alloc(mem, sizeof(*share));
		struct scope *c = scope_of(g, q->scopes[i]->scope);

		corral__scope_share__init(share);
		share->scope = (char *)arena_str(mem, str_of(c->name)).p;
		share->share = c->given = s->n == 1 ? 1 : give(s, g, c->name, floor);
		ret->scopes[ret->n_scopes++] = share;
	}
}

enum err shares_ask(struct shares *s, const Corral__ShareRequest *q, int64_t now_us, struct arena *mem, Corral__ShareReply *ret, struct why *why)
{
	struct gateway *g;

	if (!q->gateway[0] || strlen(q->gateway) > 128)
		return err_set(why, ERR_INVALID, "a gateway needs a name of at most 128 bytes");
	if (q->n_scopes > SHARE_MOST_SCOPES)
		return err_set(why, ERR_TOO_LARGE, "at most %d scopes are shared at once; name those with the most use", SHARE_MOST_SCOPES);
	drop_silent(s, now_us);
	g = gateway_of(s, q->gateway, now_us);
	if (!g)
		return err_set(why, ERR_UNAVAILABLE, "there are %d gateways already", SHARE_MOST_GATEWAYS);
	g->asked_us = now_us;
	replace_needs(g, q);
	answer(s, g, q, mem, ret);
	return ERR_OK;
}

/* purse.c - see purse.h. */
#include "services/gateway/purse.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PLACES = 1024,
	FRESH_US = 300 * 1000,        /* what was heard so lately need not be asked again before somebody is refused */
	LOOK_US = 150 * 1000,
	AHEAD = 8                     /* looks' worth of use that is lent ahead of need */
};

struct purse_book {
	pthread_mutex_t lock;
	_Atomic unsigned n;
	struct purse *all;            /* a request may hold one that is gone: they are freed with the book */
	struct purse *place[PLACES], *place_id[PLACES];
	struct purse *everybody;
	int64_t planned_us;
};

struct purse_book *purse_book_new(void)
{
	struct purse_book *b = x_calloc(1, sizeof(*b));

	pthread_mutex_init(&b->lock, NULL);
	return b;
}

void purse_book_free(struct purse_book *b)
{
	if (!b)
		return;
	while (b->all) {
		struct purse *p = b->all;

		b->all = p->next;
		free(p);
	}
	pthread_mutex_destroy(&b->lock);
	free(b);
}

const _Atomic unsigned *purse_book_count(const struct purse_book *b) { return &b->n; }

/* --- finding --- */

static struct purse **place_of(struct purse_book *b, struct str scope) { return &b->place[str_hash(scope, 5) % PLACES]; }

static void find_kind(struct purse_book *b, const char *kind, struct str name, struct str tenant, struct purse_hold *h)
{
	char scope[160];

	if (!name.n || name.n > 100)
		return;
	snprintf(scope, sizeof(scope), "%s:" STR_FMT, kind, STR_ARG(name));
	for (struct purse *p = *place_of(b, str_of(scope)); p && h->n < PURSES_MOST; p = p->next_same)
		if (!p->gone && strcmp(p->scope, scope) == 0 && (!p->tenant[0] || str_eqz(tenant, p->tenant)))
			h->purses[h->n++] = p;
}

void purse_find(struct purse_book *b, const struct purse_asker *a, struct purse_hold *h)
{
	h->n = 0;
	pthread_mutex_lock(&b->lock);
	for (struct purse *p = b->everybody; p && h->n < PURSES_MOST; p = p->next_same)
		if (!p->gone)
			h->purses[h->n++] = p;
	find_kind(b, "team", a->team, a->tenant, h);
	find_kind(b, "tenant", a->tenant, a->tenant, h);
	find_kind(b, "key", a->key_id, a->tenant, h);
	find_kind(b, "user", a->user, a->tenant, h);
	find_kind(b, "provider", a->provider, a->tenant, h);
	pthread_mutex_unlock(&b->lock);
}

const struct purse *purse_limiting(struct purse_book *b, const struct purse_hold *h, int kind)
{
	const struct purse *found = NULL;

	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < h->n && !found; i++)
		if (!h->purses[i]->gone && !h->purses[i]->shadow && h->purses[i]->limits[kind])
			found = h->purses[i];
	pthread_mutex_unlock(&b->lock);
	return found;
}

bool purse_is_capped(struct purse_book *b, struct str provider)
{
	struct purse_hold h = { .n = 0 };
	bool capped = false;

	pthread_mutex_lock(&b->lock);
	find_kind(b, "provider", provider, STR(""), &h);
	for (unsigned i = 0; i < h.n; i++)
		capped |= !h.purses[i]->shadow && (h.purses[i]->unlimited || h.purses[i]->limits[PURSE_TOKENS] || h.purses[i]->limits[PURSE_MICROUSD]);
	pthread_mutex_unlock(&b->lock);
	return capped;
}

/* --- taking --- */

static int64_t avail(const struct purse *p, int k) { return p->granted.n[k] - p->spent.n[k] - p->reserved.n[k]; }

static bool has_period(const struct purse *p, int64_t wall_us) { return p->heard && wall_us < p->ends_us; }

/* What the budget could give if everybody else gave back what they hold: less what was spent here and is not known there. */
static int64_t most(const struct purse *p, int k)
{
	int64_t unknown = p->spent.n[k] - p->settled.n[k];

	return p->most.n[k] - (unknown > 0 ? unknown : 0);
}

static bool is_spent(const struct purse *p, int k, int64_t least, int64_t wall_us, int64_t mono_us)
{
	return has_period(p, wall_us) && mono_us - p->heard_us < FRESH_US && most(p, k) < least;
}

static enum purse_answer short_of(const struct purse *p, int k, int64_t least, int64_t wall_us, int64_t mono_us, struct purse_refusal *ret)
{
	bool spent = is_spent(p, k, least, wall_us, mono_us);

	*ret = (struct purse_refusal){ (struct purse *)(uintptr_t)p, k, most(p, k) > 0 ? most(p, k) : 0, p->limit.n[k], p->resets_us, !spent };
	return spent ? PURSE_SPENT : PURSE_ASK;
}

/* Of the kinds that a purse limits: how much of 'need' it can give. */
static enum purse_answer look(const struct purse *p, const struct purse_amounts *need, int64_t least_tokens, int64_t wall_us, int64_t mono_us, int64_t *tokens,
			      struct purse_refusal *ret)
{
	for (int k = 0; k < PURSE_AMOUNTS; k++) {
		int64_t least = k == PURSE_TOKENS ? least_tokens : need->n[k], there = has_period(p, wall_us) ? avail(p, k) : 0;

		if (!p->limits[k] || !need->n[k])
			continue;
		if (there < least)
			return short_of(p, k, least, wall_us, mono_us, ret);
		if (k == PURSE_TOKENS && there < *tokens)
			*tokens = there;
	}
	return has_period(p, wall_us) || p->unlimited ? PURSE_TAKEN : short_of(p, PURSE_TOKENS, least_tokens, wall_us, mono_us, ret);
}

static bool would_refuse(const struct purse *p, const struct purse_amounts *need)
{
	for (int k = 0; k < PURSE_AMOUNTS; k++)
		if (p->heard && p->limits[k] && need->n[k] && p->left.n[k] - p->spent.n[k] - p->reserved.n[k] < need->n[k])
			return true;
	return false;
}

static void reserve(struct purse *p, const struct purse_amounts *n)
{
	p->used = true;
	for (int k = 0; k < PURSE_AMOUNTS; k++) {
		p->reserved.n[k] += n->n[k];
		p->taken.n[k] += n->n[k];
	}
}

enum purse_answer purse_take(struct purse_book *b, struct purse_hold *h, struct purse_amounts need, int64_t least_tokens, int64_t wall_us, int64_t mono_us,
			     int64_t *ret_tokens, struct purse **ret_shadow, struct purse_refusal *ret)
{
	enum purse_answer answer = PURSE_TAKEN;
	int64_t tokens = need.n[PURSE_TOKENS];

	*ret = (struct purse_refusal){ 0 };
	*ret_shadow = NULL;
	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < h->n && answer == PURSE_TAKEN; i++)
		if (!h->purses[i]->shadow && !h->purses[i]->gone)
			answer = look(h->purses[i], &need, least_tokens, wall_us, mono_us, &tokens, ret);
	/* Which one has nothing at all matters more than which one would have to be asked. */
	for (unsigned i = 0; i < h->n && answer == PURSE_ASK; i++) {
		struct purse_refusal why;

		if (!h->purses[i]->shadow && !h->purses[i]->gone &&
		    look(h->purses[i], &need, least_tokens, wall_us, mono_us, &tokens, &why) == PURSE_SPENT) {
			answer = PURSE_SPENT;
			*ret = why;
		}
	}
	if (answer == PURSE_TAKEN) {
		h->taken = need;
		h->taken.n[PURSE_TOKENS] = tokens;
		for (unsigned i = 0; i < h->n; i++) {
			struct purse *p = h->purses[i];

			if (p->shadow && !p->gone && would_refuse(p, &need))
				*ret_shadow = p;
			h->period_us[i] = !p->heard || p->rolling ? wall_us : p->period_us;
			reserve(p, &h->taken);
		}
		h->held = true;
		*ret_tokens = tokens;
	}
	pthread_mutex_unlock(&b->lock);
	return answer;
}

static void add_need(struct purse_book *b, struct purse_hold *h, int64_t sign)
{
	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < h->n; i++)
		for (int k = 0; k < PURSE_AMOUNTS; k++)
			h->purses[i]->need.n[k] += sign * h->need.n[k];
	pthread_mutex_unlock(&b->lock);
}

void purse_wait(struct purse_book *b, struct purse_hold *h, struct purse_amounts need)
{
	if (h->waits)
		return;
	h->waits = true;
	h->need = need;
	add_need(b, h, 1);
}

void purse_wait_no_more(struct purse_book *b, struct purse_hold *h)
{
	if (!h->waits)
		return;
	h->waits = false;
	add_need(b, h, -1);
}

/* A period that was left behind meanwhile has its own books at the usage-tracker; here it is forgotten. */
void purse_settle(struct purse_book *b, struct purse_hold *h, struct purse_amounts used)
{
	if (!h->held)
		return;
	h->held = false;
	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < h->n; i++) {
		struct purse *p = h->purses[i];

		if (!p->rolling && h->period_us[i] != p->period_us)
			continue;
		for (int k = 0; k < PURSE_AMOUNTS; k++) {
			p->reserved.n[k] -= h->taken.n[k];
			p->spent.n[k] += used.n[k];
		}
	}
	pthread_mutex_unlock(&b->lock);
}

struct str purse_stamp(const struct purse_hold *h, const char *holder, struct arena *mem)
{
	Corral__BudgetCharges c = CORRAL__BUDGET_CHARGES__INIT;
	Corral__BudgetCharge one[PURSES_MOST], *list[PURSES_MOST];
	uint8_t *p;
	size_t n;

	c.holder = (char *)(uintptr_t)holder;
	c.charges = list;
	for (unsigned i = 0; i < h->n; i++) {
		corral__budget_charge__init(&one[i]);
		one[i].budget = h->purses[i]->id;
		one[i].period_us = h->period_us[i];
		list[c.n_charges++] = &one[i];
	}
	if (!c.n_charges)
		return str_n("", 0);
	n = corral__budget_charges__get_packed_size(&c);
	p = arena_alloc(mem, n);
	corral__budget_charges__pack(&c, p);
	return str_n((char *)p, n);
}

/* --- the list --- */

static struct purse *by_id(struct purse_book *b, uint64_t id)
{
	struct purse *p = b->place_id[id % PLACES];

	while (p && p->id != id)
		p = p->next_id;
	return p;
}

static struct purse *purse_add(struct purse_book *b, const Corral__Budget *from)
{
	struct purse *p = x_calloc(1, sizeof(*p)), **head;

	p->id = from->id;
	(void)str_copy(p->scope, sizeof(p->scope), str_of(from->scope));
	(void)str_copy(p->tenant, sizeof(p->tenant), str_of(from->tenant));
	(void)str_copy(p->period, sizeof(p->period), str_of(from->period));
	p->everybody = str_starts(str_of(p->scope), STR("organisation:"));
	p->rolling = str_starts(str_of(p->period), STR("rolling:"));
	head = p->everybody ? &b->everybody : place_of(b, str_of(p->scope));
	p->next_same = *head;
	*head = p;
	p->next_id = b->place_id[p->id % PLACES];
	b->place_id[p->id % PLACES] = p;
	p->next = b->all;
	b->all = p;
	return p;
}

void purse_book_list(struct purse_book *b, Corral__Budget *const *list, size_t n)
{
	pthread_mutex_lock(&b->lock);
	for (struct purse *p = b->all; p; p = p->next)
		p->gone = true;
	for (size_t i = 0; i < n; i++) {
		struct purse *p = by_id(b, list[i]->id);

		if (!p)
			p = purse_add(b, list[i]);
		p->gone = false;
		p->heard_us = INT64_MIN / 2;      /* its limit may be another: what was heard of it is old */
		p->shadow = list[i]->shadow;
		p->unlimited = list[i]->unlimited;
		p->limits[PURSE_TOKENS] = list[i]->limits_tokens;
		p->limits[PURSE_MICROUSD] = list[i]->limits_microusd;
		p->limit = (struct purse_amounts){ { [PURSE_TOKENS] = list[i]->limit_tokens, [PURSE_MICROUSD] = list[i]->limit_microusd } };
	}
	atomic_store_explicit(&b->n, (unsigned)n, memory_order_release);
	pthread_mutex_unlock(&b->lock);
}

/* --- asking --- */

static int64_t at_least_0(int64_t n) { return n > 0 ? n : 0; }

/* What comes in a moment is as much as came in the last one; that falls off in seconds. */
static void plan(struct purse *p)
{
	for (int k = 0; k < PURSE_AMOUNTS; k++) {
		int64_t slow = p->rate.n[k] / 2;

		p->rate.n[k] = p->taken.n[k] > slow ? p->taken.n[k] : slow;
		p->taken.n[k] = 0;
	}
}

static int64_t give_back(struct purse *p, int k, bool leaving)
{
	int64_t keep = leaving || p->tight ? 0 : AHEAD * p->rate.n[k], idle = avail(p, k) - p->need.n[k] - keep;

	if (idle <= 0 || (!leaving && !p->tight && idle < keep && p->rate.n[k]))
		return 0;
	p->granted.n[k] -= idle;
	return idle;
}

/* False: nothing is to be asked of it now. */
static bool demand(struct purse *p, bool leaving, Corral__BudgetDemand *d)
{
	int64_t want[PURSE_AMOUNTS] = { 0 }, ahead[PURSE_AMOUNTS] = { 0 };
	bool back = false, waits = false;

	for (int k = 0; k < PURSE_AMOUNTS; k++) {
		waits |= p->need.n[k] != 0;
		back |= give_back(p, k, leaving) != 0;
		if (!p->limits[k] || p->gone || p->shadow)
			continue;
		want[k] = at_least_0(p->need.n[k] - (p->heard ? avail(p, k) : 0));
		if (!leaving && !p->tight && avail(p, k) - p->need.n[k] < AHEAD / 2 * p->rate.n[k])
			ahead[k] = AHEAD * p->rate.n[k];
	}
	d->budget = p->id;
	d->period_us = p->heard ? p->period_us : 0;
	d->granted_tokens = p->granted.n[PURSE_TOKENS];
	d->granted_microusd = p->granted.n[PURSE_MICROUSD];
	d->want_tokens = want[PURSE_TOKENS];
	d->want_microusd = want[PURSE_MICROUSD];
	d->ahead_tokens = ahead[PURSE_TOKENS];
	d->ahead_microusd = ahead[PURSE_MICROUSD];
	d->gives_back = back;
	return back || waits || (p->unsure && !p->gone) || want[0] || want[1] || ahead[0] || ahead[1] || (p->used && (p->shadow || p->tight));
}

static Corral__BudgetDemand *demand_new(struct arena *mem, Corral__BudgetLeaseRequest *q, Corral__BudgetDemand d)
{
	Corral__BudgetDemand *one = arena_alloc(mem, sizeof(*one));

	*one = d;
	q->demands[q->n_demands++] = one;
	return one;
}

static void give_back_old(struct purse *p, struct arena *mem, Corral__BudgetLeaseRequest *q)
{
	Corral__BudgetDemand d = CORRAL__BUDGET_DEMAND__INIT;

	if (!p->old_period_us)
		return;
	d.budget = p->id;
	d.period_us = p->old_period_us;
	d.granted_tokens = p->old_keep.n[PURSE_TOKENS];
	d.granted_microusd = p->old_keep.n[PURSE_MICROUSD];
	d.gives_back = true;
	p->old_period_us = 0;
	(void)demand_new(mem, q, d);
}

void purse_book_demands(struct purse_book *b, bool leaving, int64_t mono_us, struct arena *mem, Corral__BudgetLeaseRequest *q)
{
	bool looks = mono_us - b->planned_us >= LOOK_US;
	size_t n = 1;

	pthread_mutex_lock(&b->lock);
	if (looks)
		b->planned_us = mono_us;
	for (struct purse *p = b->all; p; p = p->next)
		n += 2;
	q->demands = arena_array(mem, Corral__BudgetDemand *, n);
	for (struct purse *p = b->all; p; p = p->next) {
		Corral__BudgetDemand d = CORRAL__BUDGET_DEMAND__INIT;

		give_back_old(p, mem, q);
		if (looks)
			plan(p);
		if (demand(p, leaving, &d)) {
			(void)demand_new(mem, q, d);
			p->unsure = true;
		}
		p->used = p->reserved.n[0] || p->reserved.n[1];
	}
	pthread_mutex_unlock(&b->lock);
}

/* The purse of a new period is empty. What is reserved of the old one may still be spent of it; the rest goes back. */
static void new_period(struct purse *p, int64_t period_us)
{
	if (p->heard && !p->rolling) {
		p->old_period_us = p->period_us;
		for (int k = 0; k < PURSE_AMOUNTS; k++)
			p->old_keep.n[k] = p->spent.n[k] + p->reserved.n[k];
	}
	p->period_us = period_us;
	p->spent = p->reserved = (struct purse_amounts){ { 0 } };
}

static void lent(struct purse *p, const Corral__BudgetLease *l, int64_t mono_us)
{
	if (!p->heard || p->period_us != l->period_us)
		new_period(p, l->period_us);
	p->heard = true;
	p->unsure = false;
	p->heard_us = mono_us;
	p->ends_us = l->ends_us;
	p->resets_us = l->resets_us;
	p->settled = (struct purse_amounts){ { l->settled_tokens, l->settled_microusd } };
	p->granted = (struct purse_amounts){ { l->granted_tokens, l->granted_microusd } };
	p->left = (struct purse_amounts){ { l->left_tokens, l->left_microusd } };
	p->most = (struct purse_amounts){ { l->most_tokens, l->most_microusd } };
	p->tight = l->tight;
	if (p->shadow)                    /* what was spent before is in what is left */
		p->spent = (struct purse_amounts){ { 0 } };
}

void purse_book_lent(struct purse_book *b, Corral__BudgetLease *const *leases, size_t n, int64_t mono_us)
{
	pthread_mutex_lock(&b->lock);
	for (size_t i = 0; i < n; i++) {
		struct purse *p = by_id(b, leases[i]->budget);

		if (p)
			lent(p, leases[i], mono_us);
	}
	pthread_mutex_unlock(&b->lock);
}

static bool any(struct purse_book *b, bool waits)
{
	bool yes = false;

	pthread_mutex_lock(&b->lock);
	for (struct purse *p = b->all; p && !yes; p = p->next)
		for (int k = 0; k < PURSE_AMOUNTS; k++)
			yes |= waits ? p->need.n[k] > 0 : p->used || (p->unsure && !p->gone) || p->need.n[k] || p->reserved.n[k] || p->rate.n[k] ||
							 p->granted.n[k] > p->spent.n[k];
	pthread_mutex_unlock(&b->lock);
	return yes;
}

bool purse_book_lends(struct purse_book *b)
{
	bool yes = false;

	pthread_mutex_lock(&b->lock);
	for (struct purse *p = b->all; p && !yes; p = p->next)
		for (int k = 0; k < PURSE_AMOUNTS; k++)
			yes |= p->granted.n[k] > p->spent.n[k];
	pthread_mutex_unlock(&b->lock);
	return yes;
}

bool purse_book_waits(struct purse_book *b) { return any(b, true); }
bool purse_book_busy(struct purse_book *b) { return any(b, false); }

/* counts.c - how many requests a provider allows in a minute and a day: its free tier, or what somebody wants at most. See cloud.h.
 *
 * They are budgets of the usage-tracker like all others, of the scope provider:NAME.requests, in which a token stands for a request. Each
 * cloud-fallback is a holder of leases there and keeps a few requests in hand; what it has sent stays held until the period is over, for no fact ever
 * settles it. So several cloud-fallbacks together never send more, nor does one that was killed and started again: what it held is in doubt, and counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "budgets.pb-c.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/cloud-fallback/cloud.h"

enum { EVERY_US = 1000000, SOON_US = 20000, DEADLINE_MS = 1000, IN_HAND = 2, FRESH_US = 3000000 };

struct quota {
	struct provider *provider;
	const char *period;           /* "minute", "day" */
	int64_t limit;
	bool told;                    /* the usage-tracker has the limit */
	uint64_t budget;              /* its id; 0 = not known yet */
	int64_t period_us, ends_us, resets_us;
	int64_t granted, sent, most;
	int64_t heard_us;             /* mono */
};

struct counts {
	struct cloud *cloud;
	struct rpc_client *ledger;
	struct loop_timer timer;
	struct quota *list;
	size_t n;
	char holder[40];
	uint64_t seq, version;
	bool calling, again, leaving;
	void (*left)(void *arg);
	void *arg;
};

static void ask(struct loop_timer *);

static void later(struct counts *c, int64_t us) { loop_timer_set(c->cloud->loop, &c->timer, us, ask); }

static const char *scope_of(const struct quota *q, char scope[80])
{
	snprintf(scope, 80, "provider:%s.requests", q->provider->set->name);
	return scope;
}

/* --- limits --- */

static struct quota *untold(struct counts *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (!c->list[i].told)
			return &c->list[i];
	return NULL;
}

static void on_put(const Corral__BudgetState *b, void *arg)
{
	struct counts *c = arg;
	struct quota *q = untold(c);

	if (b && q)
		q->told = true;
	else
		LOG_DEBUG("the usage-tracker cannot be told yet how many requests a provider allows", LOG_S("error", rpc_error(c->ledger)->text));
	c->calling = false;
	later(c, b ? 0 : EVERY_US);
}

static void put(struct counts *c, const struct quota *q)
{
	Corral__PutBudgetRequest put = CORRAL__PUT_BUDGET_REQUEST__INIT;
	Corral__Budget b = CORRAL__BUDGET__INIT;
	Corral__Caller who = CORRAL__CALLER__INIT;
	char scope[80];

	who.role = CORRAL__ROLE__ROLE_OWNER;
	who.address = (char *)(uintptr_t)"cloud-fallback";
	b.scope = (char *)(uintptr_t)scope_of(q, scope);
	b.period = (char *)(uintptr_t)q->period;
	b.limits_tokens = true;
	b.limit_tokens = q->limit;
	put.caller = &who;
	put.budget = &b;
	c->calling = true;
	corral__budgets__put(rpc_stub(c->ledger, &corral__budgets__descriptor), &put, on_put, c);
}

/* --- leases --- */

static bool runs(const struct quota *q) { return q->period_us && wall_us() < q->ends_us; }
static int64_t in_hand(const struct quota *q) { return runs(q) ? q->granted - q->sent : 0; }

static void take_list(struct counts *c, const Corral__BudgetLeaseReply *r)
{
	for (size_t i = 0; i < c->n; i++) {
		struct quota *q = &c->list[i];
		char scope[80];

		q->budget = 0;
		for (size_t j = 0; j < r->n_budgets; j++)
			if (!strcmp(r->budgets[j]->scope, scope_of(q, scope)) && !strcmp(r->budgets[j]->period, q->period))
				q->budget = r->budgets[j]->id;
	}
}

static void take_lease(struct quota *q, const Corral__BudgetLease *l)
{
	if (q->period_us != l->period_us)
		q->sent = 0;
	q->period_us = l->period_us;
	q->ends_us = l->ends_us;
	q->granted = l->granted_tokens;
	q->most = l->left_tokens;
	q->resets_us = l->resets_us;
	q->heard_us = mono_us();
}

static void on_lease(const Corral__BudgetLeaseReply *r, void *arg)
{
	struct counts *c = arg;

	c->calling = false;
	if (r && r->whole)
		take_list(c, r);
	if (r)
		c->version = r->version;
	for (size_t j = 0; r && j < r->n_leases; j++)
		for (size_t i = 0; i < c->n; i++)
			if (c->list[i].budget == r->leases[j]->budget)
				take_lease(&c->list[i], r->leases[j]);
	if (c->left) {
		c->left(c->arg);
		c->left = NULL;
		return;
	}
	cloud_changed(c->cloud);
	later(c, r && (c->again || r->whole) ? SOON_US : EVERY_US);
	c->again = false;
}

static void fill(const struct counts *c, const struct quota *q, Corral__BudgetDemand *d)
{
	int64_t wanted = q->provider->active ? q->provider->set->slots : IN_HAND, hand = in_hand(q);

	corral__budget_demand__init(d);
	d->budget = q->budget;
	d->period_us = q->period_us;
	d->granted_tokens = c->leaving ? q->sent : q->granted;
	d->gives_back = c->leaving;
	d->want_tokens = !c->leaving && hand < wanted ? wanted - hand : 0;
}

static void lease(struct counts *c)
{
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	struct arena *mem = arena_new(0);

	q.holder = c->holder;
	q.seq = ++c->seq;
	q.version = c->version;
	q.demands = arena_array(mem, Corral__BudgetDemand *, c->n + 1);
	for (size_t i = 0; i < c->n; i++)
		if (c->list[i].budget) {
			q.demands[q.n_demands] = arena_new_of(mem, Corral__BudgetDemand);
			fill(c, &c->list[i], q.demands[q.n_demands++]);
		}
	c->calling = true;
	corral__budgets__lease(rpc_stub(c->ledger, &corral__budgets__descriptor), &q, on_lease, c);
	arena_free(mem);
}

static void ask(struct loop_timer *t)
{
	struct counts *c = list_entry(t, struct counts, timer);
	int64_t was;

	if (c->calling)
		return;
	was = rpc_deadline(c->ledger, DEADLINE_MS);
	if (untold(c) && !c->leaving)
		put(c, untold(c));
	else
		lease(c);
	rpc_deadline(c->ledger, was);
}

/* --- for errands --- */

static bool concerns(const struct quota *q, const struct provider *p) { return q->provider == p; }

/* Nothing is in hand, and nothing more is to be had in this period. */
static bool is_used_up(const struct quota *q) { return runs(q) && in_hand(q) <= 0 && q->most <= 0 && mono_us() - q->heard_us < FRESH_US; }

bool counts_used_up(struct counts *c, const struct provider *p, char words[WORDS], int64_t *ret_resets_us)
{
	for (size_t i = 0; c && i < c->n; i++) {
		const struct quota *q = &c->list[i];
		char until[40];

		if (!concerns(q, p) || !is_used_up(q))
			continue;
		clock_rfc3339(q->resets_us, 0, until, sizeof(until));
		snprintf(words, WORDS, "%s has had its %lld requests of this %s; more from %s on", p->set->name, (long long)q->limit, q->period, until);
		*ret_resets_us = q->resets_us;
		return true;
	}
	return false;
}

bool counts_take(struct counts *c, const struct provider *p)
{
	for (size_t i = 0; c && i < c->n; i++)
		if (concerns(&c->list[i], p) && in_hand(&c->list[i]) <= 0) {
			c->again = true;
			if (!c->calling)
				later(c, 0);
			return false;
		}
	for (size_t i = 0; c && i < c->n; i++)
		if (concerns(&c->list[i], p)) {
			c->list[i].sent++;
			c->again = true;
			if (!c->calling)
				later(c, SOON_US);
		}
	return true;
}

/* --- life --- */

static void add(struct counts *c, struct provider *p, const char *period, int64_t limit)
{
	if (limit < 0 || !p->set->enabled)
		return;
	c->list = x_realloc(c->list, (c->n + 1) * sizeof(*c->list));
	c->list[c->n++] = (struct quota){ .provider = p, .period = period, .limit = limit };
}

struct counts *counts_new(struct cloud *cloud)
{
	struct counts *c = x_calloc(1, sizeof(*c));

	c->cloud = cloud;
	c->ledger = svc_peer(cloud->svc, "usage-tracker");
	snprintf(c->holder, sizeof(c->holder), "cloud%016llx%016llx", (unsigned long long)rand_u64(), (unsigned long long)rand_u64());
	for (size_t i = 0; i < cloud->n; i++) {
		add(c, &cloud->providers[i], "minute", cloud->providers[i].set->per_minute);
		add(c, &cloud->providers[i], "day", cloud->providers[i].set->per_day);
	}
	if (c->n)
		later(c, 0);
	return c;
}

void counts_leave(struct counts *c, void (*left)(void *arg), void *arg)
{
	c->leaving = true;
	if (!c->n || c->calling) {            /* what an answer that is on its way brings stays held until the period is over */
		left(arg);
		return;
	}
	c->left = left;
	c->arg = arg;
	loop_timer_del(&c->timer);
	lease(c);
}

void counts_free(struct counts *c)
{
	if (!c)
		return;
	loop_timer_del(&c->timer);
	free(c->list);
	free(c);
}

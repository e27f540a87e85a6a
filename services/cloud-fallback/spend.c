/* spend.c - may a provider be used? The usage-tracker is asked every second for all of them (Budgets.Spend); before that it is told the limits that
 * the configuration names, once a start. The gateways reserve of these budgets before each attempt and settle them (docs/ops/budgets.md).
 *
 * What was heard is good for a while: a usage-tracker that is restarted does not stop what gateways were lent. After that, or when it was never
 * heard, no provider may be used. See cloud.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "budgets.pb-c.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/cloud-fallback/cloud.h"

enum { EVERY_US = 1000000, DEADLINE_MS = 2000 };
#define GOOD_FOR_US INT64_C(60000000)

struct spend {
	struct cloud *cloud;
	struct rpc_client *ledger;
	struct loop_timer timer;
	size_t next;                  /* the provider whose limits are told next; n = all are */
	int64_t heard_us;
	bool silent;
};

static void ask(struct loop_timer *);

static void later(struct spend *s, int64_t us) { loop_timer_set(s->cloud->loop, &s->timer, us, ask); }

/* --- limits of the configuration --- */

static bool has_limits(const struct provider_setting *p)
{
	return p->enabled && (p->monthly_tokens != CAP_NOT_SAID || p->monthly_microusd != CAP_NOT_SAID);
}

static void on_put(const Corral__BudgetState *b, void *arg)
{
	struct spend *s = arg;

	if (b)
		s->next++;
	else if (rpc_error(s->ledger)->code != ERR_UNAVAILABLE && rpc_error(s->ledger)->code != ERR_DEADLINE)
		LOG_ERROR("the limits of a provider cannot be set", LOG_S("provider", s->cloud->providers[s->next++].set->name), LOG_S("error", rpc_error(s->ledger)->text));
	later(s, b ? 0 : EVERY_US);
}

static void put(struct spend *s, const struct provider_setting *p)
{
	Corral__PutBudgetRequest q = CORRAL__PUT_BUDGET_REQUEST__INIT;
	Corral__Budget b = CORRAL__BUDGET__INIT;
	Corral__Caller c = CORRAL__CALLER__INIT;
	char scope[64];

	snprintf(scope, sizeof(scope), "provider:%s", p->name);
	c.role = CORRAL__ROLE__ROLE_OWNER;
	c.address = (char *)(uintptr_t)"cloud-fallback";
	b.scope = scope;
	b.period = (char *)(uintptr_t)"month";
	b.limits_tokens = p->monthly_tokens >= 0;
	b.limit_tokens = b.limits_tokens ? p->monthly_tokens : 0;
	b.limits_microusd = p->monthly_microusd >= 0;
	b.limit_microusd = b.limits_microusd ? p->monthly_microusd : 0;
	b.unlimited = !b.limits_tokens && !b.limits_microusd;
	q.caller = &c;
	q.budget = &b;
	corral__budgets__put(rpc_stub(s->ledger, &corral__budgets__descriptor), &q, on_put, s);
}

/* --- may it be used? --- */

static void take(struct provider *p, const Corral__ProviderSpend *m)
{
	struct spending *o = &p->spend;

	o->heard = true;
	o->may = m->may;
	snprintf(o->why, sizeof(o->why), "%s", m->why);
	o->until_us = m->until_us;
	o->left_tokens = m->limits_tokens ? m->left_tokens : -1;
	o->left_microusd = m->limits_microusd ? m->left_microusd : -1;
}

static void heard_nothing(struct spend *s)
{
	if (s->heard_us && mono_us() - s->heard_us < GOOD_FOR_US)
		return;
	for (size_t i = 0; i < s->cloud->n; i++)
		s->cloud->providers[i].spend.heard = false;
	if (!s->silent)
		LOG_WARN("the usage-tracker is not heard: no provider may be used", LOG_S("error", rpc_error(s->ledger)->text));
	s->silent = true;
}

static void on_spend(const Corral__SpendReply *r, void *arg)
{
	struct spend *s = arg;

	if (r) {
		s->heard_us = mono_us();
		s->silent = false;
		for (size_t i = 0; i < r->n_rows; i++) {
			struct provider *p = cloud_provider(s->cloud, str_of(r->rows[i]->provider));

			if (p)
				take(p, r->rows[i]);
		}
	} else {
		heard_nothing(s);
	}
	cloud_changed(s->cloud);
	later(s, EVERY_US);
}

static void ask_spend(struct spend *s)
{
	Corral__SpendRequest q = CORRAL__SPEND_REQUEST__INIT;
	struct arena *mem = arena_new(0);

	q.providers = arena_array(mem, char *, s->cloud->n + 1);
	for (; q.n_providers < s->cloud->n; q.n_providers++)
		q.providers[q.n_providers] = (char *)(uintptr_t)s->cloud->providers[q.n_providers].set->name;
	corral__budgets__spend(rpc_stub(s->ledger, &corral__budgets__descriptor), &q, on_spend, s);
	arena_free(mem);
}

static void ask(struct loop_timer *t)
{
	struct spend *s = list_entry(t, struct spend, timer);

	while (s->next < s->cloud->n && !has_limits(s->cloud->providers[s->next].set))
		s->next++;
	rpc_deadline(s->ledger, DEADLINE_MS);
	if (s->next < s->cloud->n)
		put(s, s->cloud->providers[s->next].set);
	else
		ask_spend(s);
}

struct spend *spend_new(struct cloud *c)
{
	struct spend *s = x_calloc(1, sizeof(*s));

	s->cloud = c;
	s->ledger = svc_peer(c->svc, "usage-tracker");
	for (size_t i = 0; i < c->n; i++)
		c->providers[i].spend.left_tokens = c->providers[i].spend.left_microusd = -1;
	if (c->n)
		later(s, 0);
	return s;
}

void spend_free(struct spend *s)
{
	if (!s)
		return;
	loop_timer_del(&s->timer);
	free(s);
}

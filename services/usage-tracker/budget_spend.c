/* budget_spend.c - may a provider in the cloud be used, and if not, which condition failed and until when; see budgets.h.
 *
 * The rule: null means no limit, 0 means nothing, and a provider without any cap stays unused until 'unlimited' is written. A cap is a budget of
 * provider:NAME that limits something and is no shadow. It binds together with those of the organisation, which cover everything. */
#include "common/base/clock.h"
#include "services/usage-tracker/budgets_impl.h"

/* That has something to say of a provider: its own, and those of everybody. */
static bool concerns(const struct one_budget *o, struct str provider)
{
	return !o->removed && !o->shadow && (o->kind == BUDGET_ORGANISATION || (o->kind == BUDGET_PROVIDER && str_eq(o->name, provider)));
}

static bool is_limited(const struct one_budget *o) { return o->limit.n[TOKENS] != BUDGET_UNLIMITED || o->limit.n[MICROUSD] != BUDGET_UNLIMITED; }

static bool is_capped(const struct budgets *b, struct str provider)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct one_budget *o = &b->list[i];

		if (o->kind == BUDGET_PROVIDER && concerns(o, provider) && (o->unlimited || is_limited(o)))
			return true;
	}
	return false;
}

static void refuse(Corral__ProviderSpend *p, enum _Corral__SpendCondition condition, char *why)
{
	p->may = false;
	p->condition = condition;
	p->why = why;
}

static void refuse_spent(Corral__ProviderSpend *p, const struct one_budget *o, unsigned kind, int64_t left, int64_t resets_us, struct arena *mem)
{
	const char *unit = kind == TOKENS ? "tokens" : "micro-dollars";
	char until[40];

	clock_rfc3339(resets_us, 0, until, sizeof(until));
	refuse(p, kind == TOKENS ? CORRAL__SPEND_CONDITION__SPEND_NO_TOKENS : CORRAL__SPEND_CONDITION__SPEND_NO_MICROUSD,
	       left > 0 ? arena_printf(mem, "%s has only %lld %s left until %s (" STR_FMT ", a " STR_FMT ")", p->provider, (long long)left, unit, until, STR_ARG(o->scope),
				       STR_ARG(o->period))
			: arena_printf(mem, "%s has no %s left until %s (" STR_FMT ", a " STR_FMT ")", p->provider, unit, until, STR_ARG(o->scope), STR_ARG(o->period)));
	p->until_us = resets_us;
	p->scope = (char *)arena_str(mem, o->scope).p;
	p->period = (char *)arena_str(mem, o->period).p;
}

static void note_left(Corral__ProviderSpend *p, unsigned kind, int64_t left)
{
	protobuf_c_boolean *limits = kind == TOKENS ? &p->limits_tokens : &p->limits_microusd;
	int64_t *least = kind == TOKENS ? &p->left_tokens : &p->left_microusd;

	if (!*limits || left < *least)
		*least = left;
	*limits = true;
}

/* What is left is what is neither used nor in doubt: what gateways hold they may still use. The budget that is closed longest is told. */
static bool look_at(struct budgets *b, struct one_budget *o, const struct amounts *need, int64_t now_us, struct arena *mem, Corral__ProviderSpend *p, struct why *why)
{
	struct amounts a[ACCOUNTS];
	int64_t key_us, ends_us, resets_us;

	budget_period_at(&o->every, b->zone, now_us, &key_us, &ends_us);
	if (!slices_expire(b, o, now_us, why) || !period_get(b, o, key_us, ends_us, a, why) || !budget_resets(b, o, ends_us, now_us, &resets_us, why))
		return false;
	for (unsigned k = 0; k < AMOUNTS; k++) {
		int64_t left = o->limit.n[k] - a[USED].n[k] - a[IN_DOUBT].n[k];

		if (o->limit.n[k] == BUDGET_UNLIMITED)
			continue;
		note_left(p, k, left > 0 ? left : 0);
		if ((left <= 0 || left < need->n[k]) && (p->may || resets_us > p->until_us))
			refuse_spent(p, o, k, left, resets_us, mem);
	}
	return true;
}

static bool look_at_all(struct budgets *b, const struct amounts *need, int64_t now_us, struct arena *mem, Corral__ProviderSpend *p, struct why *why)
{
	struct str name = str_of(p->provider);

	p->may = true;
	for (size_t i = 0; i < b->n; i++)
		if (concerns(&b->list[i], name) && is_limited(&b->list[i]) && !look_at(b, &b->list[i], need, now_us, mem, p, why))
			return false;
	if (!is_capped(b, name)) {
		p->until_us = 0;
		refuse(p, CORRAL__SPEND_CONDITION__SPEND_NO_CAP, arena_printf(mem, "%s has no budget, so nothing is spent there: set one for provider:%s, or write that it is unlimited",
									      p->provider, p->provider));
	}
	return true;
}

static bool spend(struct budgets *b, const Corral__SpendRequest *q, int64_t now_us, struct arena *mem, Corral__SpendReply *ret, struct why *why)
{
	const struct amounts need = { { q->tokens, q->microusd } };

	ret->rows = arena_array(mem, Corral__ProviderSpend *, q->n_providers + 1);
	for (size_t i = 0; i < q->n_providers; i++) {
		Corral__ProviderSpend *p = ret->rows[ret->n_rows++] = arena_new_of(mem, Corral__ProviderSpend);

		corral__provider_spend__init(p);
		p->provider = arena_dup(mem, q->providers[i], strlen(q->providers[i]));
		if (!look_at_all(b, &need, now_us, mem, p, why))
			return false;
	}
	return true;
}

bool budgets_spend(struct budgets *b, const Corral__SpendRequest *q, int64_t now_us, struct arena *mem, Corral__SpendReply *ret, struct why *why)
{
	corral__spend_reply__init(ret);
	if (!db_begin(b->db, why))
		return false;
	if (spend(b, q, now_us, mem, ret, why) && db_commit(b->db, why))
		return true;
	db_rollback(b->db);
	return false;
}

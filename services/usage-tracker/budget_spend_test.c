/* budget_spend_test.c - may a provider be used: no budget, one in shadow, unlimited, something left, nothing left, held, in doubt, the organisation's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "services/usage-tracker/budgets.h"
#include "services/usage-tracker/ledger.h"

static const int64_t base_us = 1795251600000000LL;        /* 2026-11-21T09:00:00Z */

struct fixture {
	struct zone zone;
	struct ledger *l;
	struct budgets *b;
	struct arena *mem;
	uint64_t seq;
};

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));
	struct why why = { 0 };

	assert_true(zone_load(&f->zone, "UTC", base_us, NULL));
	f->mem = arena_new(1 << 16);
	f->l = ledger_open("sqlite::memory:", &why);
	if (!f->l)
		fail_msg("%s", why.text);
	f->b = budgets_open(ledger_db(f->l), &f->zone, 0, 1000000, &why);
	assert_non_null(f->b);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	budgets_close(f->b);
	ledger_close(f->l);
	arena_free(f->mem);
	free(f);
	return 0;
}

struct wanted { const char *scope, *period; int64_t tokens, microusd; bool shadow, unlimited; };      /* below 0: null */

static bool try_put(struct fixture *f, struct wanted w, Corral__BudgetState *s, struct why *why)
{
	Corral__Budget p = CORRAL__BUDGET__INIT;

	p.scope = (char *)(uintptr_t)w.scope;
	p.period = (char *)(uintptr_t)w.period;
	p.limits_tokens = w.tokens >= 0;
	p.limit_tokens = w.tokens;
	p.limits_microusd = w.microusd >= 0;
	p.limit_microusd = w.microusd;
	p.shadow = w.shadow;
	p.unlimited = w.unlimited;
	return budgets_put(f->b, &p, base_us, f->mem, s, why);
}

static uint64_t put(struct fixture *f, struct wanted w)
{
	Corral__BudgetState s;
	struct why why = { 0 };

	if (!try_put(f, w, &s, &why))
		fail_msg("%s", why.text);
	assert_int_equal(s.budget->unlimited, w.unlimited);
	return s.budget->id;
}

static Corral__ProviderSpend *may_take(struct fixture *f, const char *provider, int64_t tokens, int64_t microusd)
{
	Corral__SpendRequest q = CORRAL__SPEND_REQUEST__INIT;
	Corral__SpendReply *r = arena_new_of(f->mem, Corral__SpendReply);
	char *names[] = { (char *)(uintptr_t)"another", (char *)(uintptr_t)provider };
	struct why why = { 0 };

	q.providers = names;
	q.n_providers = 2;
	q.tokens = tokens;
	q.microusd = microusd;
	if (!budgets_spend(f->b, &q, base_us, f->mem, r, &why))
		fail_msg("%s", why.text);
	assert_int_equal(r->n_rows, 2);
	assert_string_equal(r->rows[1]->provider, provider);
	assert_int_equal(r->rows[1]->may, r->rows[1]->condition == CORRAL__SPEND_CONDITION__SPEND_ALLOWED);
	assert_int_equal(r->rows[1]->may, !*r->rows[1]->why);
	return r->rows[1];
}

static Corral__ProviderSpend *may(struct fixture *f, const char *provider) { return may_take(f, provider, 0, 0); }

static void lend(struct fixture *f, uint64_t budget, int64_t tokens)
{
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	Corral__BudgetDemand d = CORRAL__BUDGET_DEMAND__INIT, *list = &d;
	Corral__BudgetLeaseReply r;

	d.budget = budget;
	d.want_tokens = tokens;
	q.holder = (char *)(uintptr_t)"g";
	q.seq = ++f->seq;
	q.demands = &list;
	q.n_demands = 1;
	assert_true(budgets_lease(f->b, &q, base_us, 1000000, f->mem, &r, NULL));
	assert_int_equal(r.leases[0]->granted_tokens, tokens);
}

static void without_a_cap_it_stays_unused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(may(f, "acme")->condition, CORRAL__SPEND_CONDITION__SPEND_NO_CAP);
	put(f, (struct wanted){ "organisation:us", "month", 1000, -1, false, false });    /* everybody's is no cap of its own */
	put(f, (struct wanted){ "provider:acme", "month", -1, -1, false, false });        /* null is no limit, and so no cap */
	put(f, (struct wanted){ "provider:acme", "day", 1000, -1, true, false });         /* a shadow refuses nothing */
	put(f, (struct wanted){ "provider:other", "month", 1000, -1, false, false });
	assert_int_equal(may(f, "acme")->condition, CORRAL__SPEND_CONDITION__SPEND_NO_CAP);
	assert_string_equal(may(f, "acme")->why, "acme has no budget, so nothing is spent there: set one for provider:acme, or write that it is unlimited");
	assert_int_equal(may(f, "acme")->until_us, 0);
	put(f, (struct wanted){ "provider:acme", "month", -1, -1, false, true });
	assert_true(may(f, "acme")->may);
	put(f, (struct wanted){ "provider:acme", "month", -1, -1, false, false });        /* written over: it is not unlimited any more */
	assert_false(may(f, "acme")->may);
	put(f, (struct wanted){ "provider:acme", "month", -1, 5, false, false });
	assert_true(may(f, "acme")->may);
}

static void which_condition_failed_and_until_when(void **state)
{
	struct fixture *f = *state;
	Corral__ProviderSpend *p;

	put(f, (struct wanted){ "provider:acme", "month", 1000, 0, false, false });
	p = may(f, "acme");
	assert_int_equal(p->condition, CORRAL__SPEND_CONDITION__SPEND_NO_MICROUSD);
	assert_string_equal(p->why, "acme has no micro-dollars left until 2026-12-01T00:00:00Z (provider:acme, a month)");
	assert_int_equal(p->until_us, 1796083200000000LL);
	assert_true(p->limits_tokens && p->left_tokens == 1000 && p->limits_microusd && p->left_microusd == 0);
	put(f, (struct wanted){ "provider:acme", "month", 1000, 500, false, false });
	assert_true(may_take(f, "acme", 1000, 500)->may);
	p = may_take(f, "acme", 1001, 500);
	assert_int_equal(p->condition, CORRAL__SPEND_CONDITION__SPEND_NO_TOKENS);
	assert_string_equal(p->why, "acme has only 1000 tokens left until 2026-12-01T00:00:00Z (provider:acme, a month)");
	assert_string_equal(p->scope, "provider:acme");
	put(f, (struct wanted){ "organisation:us", "day", 0, -1, false, false });         /* and what closes longest is told */
	assert_int_equal(may(f, "acme")->until_us, 1795305600000000LL);
	put(f, (struct wanted){ "provider:acme", "month", 0, 500, false, false });
	assert_int_equal(may(f, "acme")->until_us, 1796083200000000LL);
}

static void what_gateways_hold_is_theirs_to_use(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, (struct wanted){ "provider:acme", "month", 1000, -1, false, false });

	lend(f, id, 1000);
	assert_true(may(f, "acme")->may && may(f, "acme")->left_tokens == 1000);
	assert_true(budgets_tick(f->b, base_us, 1000000 + 1000LL * BUDGET_TTL_MS + 1, NULL));     /* it fell silent: in doubt is as good as gone */
	assert_int_equal(may(f, "acme")->condition, CORRAL__SPEND_CONDITION__SPEND_NO_TOKENS);
}

static void unlimited_has_no_limit(void **state)
{
	struct fixture *f = *state;
	Corral__BudgetState s;
	struct why why = { 0 };

	assert_false(try_put(f, (struct wanted){ "provider:acme", "month", 5, -1, false, true }, &s, &why));
	assert_int_equal(why.code, ERR_INVALID);
	assert_string_equal(why.field, "unlimited");
	assert_false(try_put(f, (struct wanted){ "provider:acme", "month", -1, -1, true, true }, &s, &why));
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(without_a_cap_it_stays_unused), T(which_condition_failed_and_until_when), T(what_gateways_hold_is_theirs_to_use), T(unlimited_has_no_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

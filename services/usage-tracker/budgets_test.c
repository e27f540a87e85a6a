/* budgets_test.c - each move between the accounts, what happens when the program dies between any two writes, clocks that jump, month ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "services/usage-tracker/budgets.h"
#include "services/usage-tracker/ledger.h"
#include "services/usage-tracker/ledger_sql.h"

/* --- kill -9 in the middle of a write: SQLite's pwrite64 comes through here --- */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at);
static int writes_until_kill = -1;        /* -1 = never */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	if (writes_until_kill == 0) {
		(void)!syscall(SYS_pwrite64, fd, p, n / 2, at);
		raise(SIGKILL);
	}
	if (writes_until_kill > 0)
		writes_until_kill--;
	return syscall(SYS_pwrite64, fd, p, n, at);
}

/* --- a ledger with budgets, and gateways that ask --- */

#define MINUTE 60000000LL
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
static const int64_t base_us = 1795251600000000LL;        /* 2026-11-21T09:00:00Z */

struct fixture {
	char dir[64], url[256];
	struct zone zone;
	struct ledger *l;
	struct budgets *b;
	struct arena *mem;
	int64_t now_us, mono_us, in_doubt_ms;
	uint64_t seq, position;
	unsigned requests;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	(void)st, (void)flag, (void)f;
	return remove(path);
}

static bool booked(void *arg, const struct ledger_booking *k, struct arena *mem, struct why *why)
{
	struct fixture *f = arg;

	return k ? budgets_note(f->b, k, mem, why) : budgets_book(f->b, f->now_us, why);
}

static void undone(void *arg) { budgets_forget(((struct fixture *)arg)->b); }

/* As after a restart: all that is in memory is gone. */
static void reopen(struct fixture *f)
{
	struct why why = { 0 };

	budgets_close(f->b);
	ledger_close(f->l);
	f->l = ledger_open(f->url, &why);
	if (!f->l)
		fail_msg("%s", why.text);
	f->b = budgets_open(ledger_db(f->l), &f->zone, f->in_doubt_ms, f->mono_us, &why);
	if (!f->b)
		fail_msg("%s", why.text);
	ledger_watch(f->l, (struct ledger_watch){ .on_booked = booked, .undone = undone, .arg = f });
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/budgets-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	test_db(f->dir, "ledger.db", ledger_migrations, f->url, sizeof(f->url));
	assert_true(zone_load(&f->zone, "UTC", base_us, NULL));
	f->mem = arena_new(1 << 16);
	f->now_us = base_us;
	f->mono_us = 1000000;
	reopen(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	budgets_close(f->b);
	ledger_close(f->l);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static void pass(struct fixture *f, int64_t us)
{
	f->now_us += us;
	f->mono_us += us;
}

static void tick(struct fixture *f)
{
	struct why why = { 0 };

	if (!budgets_tick(f->b, f->now_us, f->mono_us, &why))
		fail_msg("%s", why.text);
}

static uint64_t put(struct fixture *f, const char *scope, const char *period, int64_t tokens, bool shadow)
{
	Corral__Budget p = CORRAL__BUDGET__INIT;
	Corral__BudgetState s;
	struct why why = { 0 };

	p.scope = (char *)(uintptr_t)scope;
	p.period = (char *)(uintptr_t)period;
	p.limits_tokens = tokens >= 0;
	p.limit_tokens = tokens;
	p.shadow = shadow;
	if (!budgets_put(f->b, &p, f->now_us, f->mem, &s, &why))
		fail_msg("%s", why.text);
	return s.budget->id;
}

static Corral__BudgetState *state_of(struct fixture *f, uint64_t id)
{
	Corral__ListBudgetsReply r;
	struct why why = { 0 };

	if (!budgets_list(f->b, NULL, NULL, f->now_us, f->mem, &r, &why))
		fail_msg("%s", why.text);
	for (size_t i = 0; i < r.n_rows; i++)
		if (r.rows[i]->budget->id == id)
			return r.rows[i];
	return NULL;
}

static void accounts(struct fixture *f, uint64_t id, int64_t used, int64_t held, int64_t in_doubt)
{
	Corral__BudgetState *s = state_of(f, id);
	struct why why = { 0 };

	assert_non_null(s);
	if (s->used_tokens != used || s->held_tokens != held || s->in_doubt_tokens != in_doubt)
		fail_msg("used %lld, held %lld, in doubt %lld, not %lld, %lld, %lld", (long long)s->used_tokens, (long long)s->held_tokens,
			 (long long)s->in_doubt_tokens, (long long)used, (long long)held, (long long)in_doubt);
	if (!budgets_audit(f->b, f->now_us, &why))
		fail_msg("%s", why.text);
}

static Corral__BudgetDemand demand(uint64_t id, int64_t period_us, int64_t known, int64_t want)
{
	Corral__BudgetDemand d = CORRAL__BUDGET_DEMAND__INIT;

	d.budget = id;
	d.period_us = period_us;
	d.granted_tokens = known;
	d.want_tokens = want;
	return d;
}

static Corral__BudgetLeaseReply *ask_many(struct fixture *f, const char *holder, Corral__BudgetDemand **d, size_t n)
{
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	Corral__BudgetLeaseReply *r = arena_new_of(f->mem, Corral__BudgetLeaseReply);
	struct why why = { 0 };

	q.holder = (char *)(uintptr_t)holder;
	q.seq = ++f->seq;
	q.demands = d;
	q.n_demands = n;
	if (!budgets_lease(f->b, &q, f->now_us, f->mono_us, f->mem, r, &why))
		fail_msg("%s", why.text);
	return r;
}

static Corral__BudgetLease *ask(struct fixture *f, const char *holder, Corral__BudgetDemand d)
{
	Corral__BudgetDemand *one = &d;
	Corral__BudgetLeaseReply *r = ask_many(f, holder, &one, 1);

	assert_int_equal(r->n_leases, 1);
	return r->leases[0];
}

/* Knows nothing of the period yet. */
static Corral__BudgetLease *ask_new(struct fixture *f, const char *holder, uint64_t id, int64_t want) { return ask(f, holder, demand(id, 0, 0, want)); }

static bool close_life(struct fixture *f, const char *holder, const char *ended)
{
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	Corral__BudgetLeaseReply r;
	char *list[] = { (char *)(uintptr_t)ended };

	q.holder = (char *)(uintptr_t)holder;
	q.seq = ++f->seq;
	q.ended = list;
	q.n_ended = 1;
	assert_true(budgets_lease(f->b, &q, f->now_us, f->mono_us, f->mem, &r, NULL));
	return r.n_closed == 1;
}

/* --- facts --- */

struct taken { const char *holder; uint64_t id[4]; int64_t period_us; unsigned n; };

static ProtobufCBinaryData charges(struct fixture *f, const struct taken *t)
{
	Corral__BudgetCharges c = CORRAL__BUDGET_CHARGES__INIT;
	Corral__BudgetCharge one[4], *list[4];
	ProtobufCBinaryData out;

	c.holder = (char *)(uintptr_t)t->holder;
	c.charges = list;
	c.n_charges = t->n;
	for (unsigned i = 0; i < t->n; i++) {
		corral__budget_charge__init(&one[i]);
		one[i].budget = t->id[i];
		one[i].period_us = t->period_us;
		list[i] = &one[i];
	}
	out.len = corral__budget_charges__get_packed_size(&c);
	out.data = arena_alloc(f->mem, out.len + 1);
	corral__budget_charges__pack(&c, out.data);
	return out;
}

static void request_id(int64_t us, unsigned i, uint8_t id[16])
{
	int64_t ms = us / 1000;

	memset(id, 0x11, 16);
	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	id[6] = 0x70;
	id[8] = 0x80;
	memcpy(id + 12, &i, 4);
}

static struct str fact(struct fixture *f, unsigned i, int64_t tokens, const struct taken *t)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16], *p;
	size_t n;

	request_id(f->now_us, i, id);
	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.event_id = (ProtobufCBinaryData){ 16, id };
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = 1;
	e.occurred_at_us = f->now_us;
	e.tenant = (char *)"acme";
	e.key_id = (char *)"key-1";
	e.provider = (char *)"ollama";
	e.status = (char *)"ok";
	e.prompt_tokens = (uint64_t)tokens / 2;
	e.completion_tokens = (uint64_t)(tokens - tokens / 2);
	e.cost_microusd = 3 * tokens;
	if (t)
		e.budgets = charges(f, t);
	n = corral__usage_event__get_packed_size(&e);
	p = arena_alloc(f->mem, n);
	corral__usage_event__pack(&e, p);
	return str_n((char *)p, n);
}

static enum ledger_outcome send_at(struct fixture *f, struct str fact, uint64_t first, uint64_t *ret_position)
{
	struct ledger_batch batch = { .topic = STR("usage.v1"), .source = STR("test/0"), .epoch = 1, .first = first, .next = first + 100, .records = &fact, .n = 1 };
	struct why why = { 0 };

	return ledger_ingest(f->l, &batch, ret_position, NULL, &why);
}

static void settle(struct fixture *f, int64_t tokens, const struct taken *t)
{
	assert_int_equal(send_at(f, fact(f, ++f->requests, tokens, t), f->position, &f->position), LEDGER_APPLIED);
}

static struct taken lent(const char *holder, uint64_t id, int64_t period_us) { return (struct taken){ holder, { id }, period_us, 1 }; }

/* --- the moves --- */

static void reserve_settle_release(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 400);
	struct taken t = lent("g1", id, l->period_us);
	Corral__BudgetDemand back;

	assert_int_equal(l->granted_tokens, 400);
	assert_int_equal(l->left_tokens, 600);
	assert_int_equal(l->most_tokens, 1000);
	accounts(f, id, 0, 400, 0);
	settle(f, 150, &t);
	accounts(f, id, 150, 250, 0);
	back = demand(id, l->period_us, 150, 0);
	back.gives_back = true;
	l = ask(f, "g1", back);
	assert_int_equal(l->granted_tokens, 150);
	accounts(f, id, 150, 0, 0);
	assert_int_equal(state_of(f, id)->resets_us, 1796083200000000LL);      /* 2026-12-01 */
}

static void never_above_the_limit(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetLease *l;

	assert_int_equal(ask_new(f, "g1", id, 700)->granted_tokens, 700);
	l = ask_new(f, "g2", id, 700);
	assert_int_equal(l->granted_tokens, 300);
	assert_int_equal(l->left_tokens, 0);
	assert_true(l->tight);
	assert_int_equal(ask_new(f, "g3", id, 1)->granted_tokens, 0);
	accounts(f, id, 0, 1000, 0);
	/* a smaller limit frees nothing, and lends nothing */
	put(f, "tenant:acme", "month", 500, false);
	assert_int_equal(ask_new(f, "g3", id, 1)->granted_tokens, 0);
	accounts(f, id, 0, 1000, 0);
}

static void null_is_no_limit_and_nought_is_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t none = put(f, "tenant:acme", "month", -1, false), nothing = put(f, "key:key-1", "month", 0, false);

	assert_int_equal(ask_new(f, "g1", none, 1000000000000)->granted_tokens, 1000000000000);
	assert_int_equal(ask_new(f, "g1", nothing, 1)->granted_tokens, 0);
	assert_int_equal(ask_new(f, "g1", nothing, 1)->most_tokens, 0);
}

static void what_is_expected_is_lent_only_while_there_is_plenty(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetDemand d = demand(id, 0, 0, 100);

	d.ahead_tokens = 10000;
	assert_int_equal(ask(f, "g1", d)->granted_tokens, 100 + 900 / 4);
	assert_int_equal(ask_new(f, "g2", id, 800)->granted_tokens, 675);
	d.want_tokens = 0;
	assert_int_equal(ask(f, "g3", d)->granted_tokens, 0);  /* somebody needs what is there */
}

/* The answer was lost: the same ask again finds what was granted, and no more is. */
static void asked_twice_is_granted_once(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);

	assert_int_equal(ask_new(f, "g1", id, 400)->granted_tokens, 400);
	assert_int_equal(ask_new(f, "g1", id, 400)->granted_tokens, 400);
	reopen(f);
	assert_int_equal(ask_new(f, "g1", id, 400)->granted_tokens, 400);
	accounts(f, id, 0, 400, 0);
}

static void an_older_ask_is_refused(void **state)
{
	struct fixture *f = *state;
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	Corral__BudgetLeaseReply r;
	struct why why;

	q.holder = (char *)"g1";
	q.seq = 7;
	assert_true(budgets_lease(f->b, &q, f->now_us, f->mono_us, f->mem, &r, &why));
	assert_false(budgets_lease(f->b, &q, f->now_us, f->mono_us, f->mem, &r, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
}

static void a_fact_that_comes_twice_is_charged_once(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false), first = f->position, position;
	Corral__BudgetLease *l = ask_new(f, "g1", id, 400);
	struct taken t = lent("g1", id, l->period_us);
	struct str one = fact(f, 1, 100, &t);

	assert_int_equal(send_at(f, one, first, &f->position), LEDGER_APPLIED);
	assert_int_equal(send_at(f, one, first, &position), LEDGER_OUT_OF_ORDER);
	assert_int_equal(send_at(f, one, f->position, &f->position), LEDGER_APPLIED);
	accounts(f, id, 100, 300, 0);
}

/* The true figure is booked, whatever was lent; nothing is lent from then on. */
static void more_than_was_reserved_is_booked_and_blocks(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 900);
	struct taken t = lent("g1", id, l->period_us);

	settle(f, 1200, &t);
	accounts(f, id, 1200, 0, 0);
	assert_int_equal(state_of(f, id)->overdrawn, 1);
	l = ask(f, "g1", demand(id, l->period_us, 1200, 1));
	assert_int_equal(l->granted_tokens, 1200);
	assert_int_equal(l->left_tokens, -200);
	assert_int_equal(l->most_tokens, -200);
	put(f, "tenant:acme", "month", 2000, false);
	assert_int_equal(ask(f, "g1", demand(id, l->period_us, 1200, 100))->granted_tokens, 1300);
	accounts(f, id, 1200, 100, 0);
	settle(f, 100, &t);
	accounts(f, id, 1300, 0, 0);
}

static void all_scopes_in_one_step(void **state)
{
	struct fixture *f = *state;
	uint64_t a = put(f, "organisation:all", "month", 1000, false), b = put(f, "tenant:acme", "month", 500, false), c = put(f, "team:core", "month", 400, false);
	Corral__BudgetDemand d[] = { demand(c, 0, 0, 300), demand(a, 0, 0, 300), demand(b, 0, 0, 300) }, *list[] = { &d[0], &d[1], &d[2] };
	Corral__BudgetLeaseReply *r = ask_many(f, "g1", list, 3);
	struct taken t = { "g1", { a, b, c }, 0, 3 };

	assert_int_equal(r->n_leases, 3);
	t.period_us = r->leases[0]->period_us;
	settle(f, 200, &t);
	accounts(f, a, 200, 100, 0);
	accounts(f, b, 200, 100, 0);
	accounts(f, c, 200, 100, 0);
}

/* --- facts that name no budget --- */

static void a_request_that_was_there_before_its_budget_is_not_charged(void **state)
{
	struct fixture *f = *state;
	struct str before = fact(f, 1, 100, NULL);
	uint64_t id;

	pass(f, MINUTE);
	id = put(f, "tenant:acme", "month", 1000, false);
	assert_int_equal(send_at(f, before, f->position, &f->position), LEDGER_APPLIED);
	accounts(f, id, 0, 0, 0);
}

static void what_covers_it_unnamed_is_charged_all_the_same(void **state)
{
	struct fixture *f = *state;
	uint64_t tenant = put(f, "tenant:acme", "month", 1000, false), other = put(f, "tenant:other", "month", 1000, false), key = put(f, "key:key-1", "day", 1000, false),
		 provider = put(f, "provider:ollama", "month", 1000, false);
	Corral__BudgetLease *l;
	struct taken t;

	pass(f, 1000000);
	settle(f, 100, NULL);
	accounts(f, tenant, 100, 0, 0);
	accounts(f, other, 0, 0, 0);
	accounts(f, key, 0, 0, 0);        /* of the tenant 'default', which this key is not of */
	accounts(f, provider, 100, 0, 0);
	l = ask_new(f, "g1", tenant, 100);
	t = lent("g1", tenant, l->period_us);
	settle(f, 100, &t);
	accounts(f, tenant, 200, 0, 0);
	accounts(f, provider, 200, 0, 0);
}

static void a_removed_budget_charges_nothing_and_remembers(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	bool changed;

	pass(f, 1000000);
	settle(f, 100, NULL);
	assert_true(budgets_remove(f->b, "tenant:acme", "acme", "month", f->now_us, &changed, NULL) && changed);
	assert_null(state_of(f, id));
	assert_true(budgets_remove(f->b, "tenant:acme", "acme", "month", f->now_us, &changed, NULL) && !changed);
	assert_int_equal(put(f, "tenant:acme", "month", 1000, false), id);
	accounts(f, id, 100, 0, 0);
}

static void shadow_counts_and_lends_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 100, true);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 50);
	struct taken t = lent("g1", id, l->period_us);

	assert_int_equal(l->granted_tokens, 0);
	assert_int_equal(l->left_tokens, 100);
	settle(f, 150, &t);
	accounts(f, id, 150, 0, 0);
	assert_int_equal(ask_new(f, "g1", id, 50)->left_tokens, -50);
}

/* --- gateways that fall silent --- */

static void silence_is_doubt_and_doubt_is_counted(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 600);
	struct taken t = lent("g1", id, l->period_us);

	pass(f, 11 * 1000000);
	tick(f);
	accounts(f, id, 0, 0, 600);
	assert_int_equal(ask_new(f, "g2", id, 1000)->granted_tokens, 400);
	assert_int_equal(ask_new(f, "g2", id, 1000)->most_tokens, 400);        /* what is in doubt does not come back by waiting */
	settle(f, 100, &t);               /* its spool arrives */
	accounts(f, id, 100, 400, 500);
	pass(f, 40 * DAY / 8);            /* nothing is given back by time */
	tick(f);
	accounts(f, id, 100, 0, 900);
	ask(f, "g1", demand(id, l->period_us, 600, 0));
	accounts(f, id, 100, 500, 400);   /* it was not dead */
}

static void an_ended_life_gives_back_what_its_facts_did_not_use(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 600);
	struct taken t = lent("g1", id, l->period_us);

	assert_false(close_life(f, "g1-again", "g1"));    /* it was heard a moment ago */
	pass(f, 11 * 1000000);
	tick(f);
	settle(f, 100, &t);
	assert_true(close_life(f, "g1-again", "g1"));
	accounts(f, id, 100, 0, 0);
	assert_true(close_life(f, "g1-again", "g1"));     /* the answer was lost: once more is fine */
	settle(f, 10, &t);                /* a fact that should not be there any more is charged none the less */
	accounts(f, id, 110, 0, 0);
}

static void a_restart_waits_before_it_doubts_or_closes(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 1000, false);

	ask_new(f, "g1", id, 600);
	pass(f, 60 * 1000000);
	reopen(f);
	tick(f);
	accounts(f, id, 0, 600, 0);
	assert_false(close_life(f, "g2", "g1"));
	pass(f, 11 * 1000000);
	tick(f);
	accounts(f, id, 0, 0, 600);
}

static void the_operators_time_books_what_is_in_doubt(void **state)
{
	struct fixture *f = *state;
	uint64_t id;
	struct taken t;

	f->in_doubt_ms = 3600 * 1000;
	reopen(f);
	id = put(f, "tenant:acme", "month", 1000, false);
	t = lent("g1", id, ask_new(f, "g1", id, 600)->period_us);
	pass(f, 11 * 1000000);
	tick(f);
	pass(f, HOUR - 1000000);
	tick(f);
	accounts(f, id, 0, 0, 600);
	pass(f, 2000000);
	tick(f);
	accounts(f, id, 600, 0, 0);
	settle(f, 250, &t);               /* it is in the 600 */
	accounts(f, id, 600, 0, 0);
	settle(f, 400, &t);               /* 50 of it are not */
	accounts(f, id, 650, 0, 0);
}

/* --- time --- */

static void a_month_ends_in_its_zone(void **state)
{
	struct fixture *f = *state;
	uint64_t id;
	Corral__BudgetLease *l;
	struct taken old;

	assert_true(zone_load(&f->zone, "Europe/Berlin", base_us, NULL));
	f->now_us = 1796079000000000LL;   /* 2026-11-30T22:50Z = 23:50 in Berlin */
	id = put(f, "tenant:acme", "month", 1000, false);
	l = ask_new(f, "g1", id, 1000);
	assert_int_equal(l->ends_us, 1796079600000000LL);
	old = lent("g1", id, l->period_us);
	pass(f, 15 * MINUTE);             /* 00:05 on the first of December there, still November in UTC */
	l = ask(f, "g1", demand(id, l->period_us, 1000, 300));
	assert_int_equal(l->period_us, 1796079600000000LL);
	assert_int_equal(l->granted_tokens, 300);
	settle(f, 900, &old);             /* it was reserved in November, and is November's */
	accounts(f, id, 0, 300, 0);
	f->now_us -= 15 * MINUTE;
	accounts(f, id, 900, 100, 0);
}

/* A clock that goes back an hour, over the end of a period: both periods keep their books. */
static void clocks_jump(void **state)
{
	struct fixture *f = *state;
	uint64_t id;
	Corral__BudgetLease *l;
	struct taken t;

	f->now_us = 1796083200000000LL - 10 * MINUTE;      /* ten minutes before December */
	id = put(f, "tenant:acme", "day", 1000, false);
	l = ask_new(f, "g1", id, 700);
	t = lent("g1", id, l->period_us);
	settle(f, 700, &t);
	f->now_us += HOUR;
	assert_int_equal(ask_new(f, "g1", id, 1000)->granted_tokens, 1000);
	f->now_us -= HOUR;
	assert_int_equal(ask(f, "g1", demand(id, l->period_us, 700, 1000))->granted_tokens, 1000);    /* 300 more, not 1000 */
	accounts(f, id, 700, 300, 0);
	tick(f);
	accounts(f, id, 700, 300, 0);
	f->now_us += HOUR;
	accounts(f, id, 0, 1000, 0);
}

static void a_window_rolls(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "rolling:2h", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 1000);
	struct taken t = lent("g1", id, f->now_us);

	assert_int_equal(l->period_us, 0);
	assert_true(l->ends_us == INT64_MAX);
	settle(f, 600, &t);
	pass(f, HOUR);
	t.period_us = f->now_us;
	settle(f, 300, &t);
	accounts(f, id, 900, 100, 0);
	pass(f, HOUR);                    /* its slice is counted until all of it is out of the window */
	accounts(f, id, 900, 100, 0);
	pass(f, 3 * MINUTE);
	accounts(f, id, 300, 100, 0);
	assert_int_equal(state_of(f, id)->resets_us, base_us + 3 * HOUR + MINUTE);
	assert_int_equal(ask(f, "g1", demand(id, 0, 1000, 1000))->granted_tokens, 1600);
	pass(f, HOUR);
	accounts(f, id, 0, 700, 0);
}

static void periods_that_are_over_are_tidied(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "minute", 1000, false);
	Corral__BudgetLease *l = ask_new(f, "g1", id, 600);
	int64_t began_us = f->now_us;

	for (int i = 0; i < 8; i++) {
		pass(f, 9 * MINUTE);
		l = ask(f, "g1", demand(id, l->period_us, l->granted_tokens, 100));
		assert_int_equal(l->granted_tokens, 100);
		tick(f);
	}
	f->now_us = began_us;
	accounts(f, id, 0, 0, 0);
}

/* --- what is no budget --- */

static void what_is_no_budget_is_refused(void **state)
{
	static const struct { const char *scope, *period; int64_t tokens; const char *field; } bad[] = {
		{ "acme", "month", 1, "scope" }, { "tenant:", "month", 1, "scope" }, { "planet:x", "month", 1, "scope" }, { "tenant:a b", "month", 1, "scope" },
		{ "tenant:a", "week", 1, "period" }, { "tenant:a", "rolling:", 1, "period" }, { "tenant:a", "rolling:0d", 1, "period" },
		{ "tenant:a", "rolling:367d", 1, "period" }, { "tenant:a", "rolling:99999999999999999999d", 1, "period" }, { "tenant:a", "rolling:5y", 1, "period" },
		{ "tenant:a", "month", -1, "tokens" }, { "tenant:a", "month", INT64_MAX, "tokens" },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		Corral__Budget p = CORRAL__BUDGET__INIT;
		Corral__BudgetState s;
		struct why why = { 0 };

		p.scope = (char *)(uintptr_t)bad[i].scope;
		p.period = (char *)(uintptr_t)bad[i].period;
		p.limits_tokens = true;
		p.limit_tokens = bad[i].tokens;
		assert_false(budgets_put(f->b, &p, f->now_us, f->mem, &s, &why));
		assert_int_equal(why.code, ERR_INVALID);
		assert_string_equal(why.field, bad[i].field);
	}
}

/* --- kill -9 --- */

/* What one life does: lends, settles above and below, is doubted, comes back, gives back, closes another. */
static void one_life(struct fixture *f, uint64_t id)
{
	Corral__BudgetLease *l = ask_new(f, "g1", id, 300);
	struct taken t = lent("g1", id, l->period_us);
	Corral__BudgetDemand back;

	settle(f, 100, &t);
	ask_new(f, "g2", id, 100);
	pass(f, 11 * 1000000);
	tick(f);
	settle(f, 250, &t);
	ask(f, "g1", demand(id, l->period_us, 350, 50));
	back = demand(id, l->period_us, 350, 0);
	back.gives_back = true;
	ask(f, "g1", back);
	close_life(f, "g1", "g2");
	put(f, "tenant:acme", "month", 1000, false);
}

/* The program is killed at its n-th write, for every n: what is on disk adds up, never passes the limit, and what was not done can be done again. */
static void killed_at_every_write(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 500, false);
	int n = 0, status = 0;

	SKIP_ON_SERVER();
	budgets_close(f->b);
	ledger_close(f->l);
	f->b = NULL;
	f->l = NULL;
	for (;; n += 3) {
		struct fixture child = *f;
		Corral__BudgetState *s;
		pid_t pid;

		child.position = child.seq = 0;
		pid = fork();
		if (pid == 0) {
			reopen(&child);
			writes_until_kill = n;
			child.requests = (unsigned)n * 10;
			one_life(&child, id);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		reopen(f);
		s = state_of(f, id);
		assert_true(s->held_tokens >= 0 && s->in_doubt_tokens >= 0 && s->used_tokens >= 0);
		accounts(f, id, s->used_tokens, s->held_tokens, s->in_doubt_tokens);
		if (WIFEXITED(status))
			break;
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		/* a clean sheet for the next */
		pass(f, 11 * 1000000);
		assert_true(close_life(f, "sweeper", "g1") && close_life(f, "sweeper", "g2"));
		accounts(f, id, s->used_tokens, 0, 0);
		budgets_close(f->b);
		ledger_close(f->l);
		f->b = NULL;
		f->l = NULL;
		nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		assert_int_equal(mkdir(f->dir, 0700), 0);
		f->now_us = base_us;
		reopen(f);
		id = put(f, "tenant:acme", "month", 500, false);
		budgets_close(f->b);
		ledger_close(f->l);
		f->b = NULL;
		f->l = NULL;
	}
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_true(n > 20);
	print_message("killed at every third of %d writes\n", n);
}

/* --- what changes afterwards --- */

static struct str correction(struct fixture *f, unsigned i, unsigned seq, int64_t tokens, int64_t microusd)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16], *p;
	size_t n;

	request_id(f->now_us, i, id);
	e.kind = CORRAL__USAGE_KIND__USAGE_CORRECTION;
	e.seq = seq;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = 1;
	e.occurred_at_us = f->now_us;
	e.prompt_tokens = (uint64_t)tokens;       /* below 0 too: they are added as they are */
	e.cost_microusd = microusd;
	n = corral__usage_event__get_packed_size(&e);
	p = arena_alloc(f->mem, n);
	corral__usage_event__pack(&e, p);
	return str_n((char *)p, n);
}

static void enter(struct fixture *f, struct str fact) { assert_int_equal(send_at(f, fact, f->position, &f->position), LEDGER_APPLIED); }

static void money(struct fixture *f, uint64_t id, int64_t tokens, int64_t used, int64_t held)
{
	Corral__BudgetState *s = state_of(f, id);
	struct why why = { 0 };

	if (s->used_tokens != tokens)
		fail_msg("%s: %lld tokens, not %lld", s->budget->scope, (long long)s->used_tokens, (long long)tokens);
	assert_int_equal(s->used_microusd, used);
	assert_int_equal(s->held_microusd, held);
	if (!budgets_audit(f->b, f->now_us, &why))
		fail_msg("%s", why.text);
}

static Corral__BudgetLease *lend_money(struct fixture *f, uint64_t id, int64_t microusd)
{
	Corral__BudgetDemand d = demand(id, 0, 0, 1000);

	d.want_microusd = microusd;
	return ask(f, "g1", d);
}

/* Named in the event, unnamed, and of a rolling window. */
static void a_correction_adjusts_each_budget_once(void **state)
{
	struct fixture *f = *state;
	uint64_t month = put(f, "tenant:acme", "month", 5000, false), provider = put(f, "provider:ollama", "day", -1, false),
		 window = put(f, "organisation:us", "rolling:1h", 5000, false);
	Corral__BudgetLease *l = lend_money(f, month, 1000);
	struct taken t = lent("g1", month, l->period_us);
	struct str more;

	pass(f, 1000);
	enter(f, fact(f, 1, 100, &t));
	money(f, month, 100, 300, 700);
	more = correction(f, 1, 7, 0, 50);
	enter(f, more);
	money(f, month, 100, 350, 700);           /* what the gateway holds is as it was */
	money(f, provider, 100, 350, 0);
	money(f, window, 100, 350, 0);
	enter(f, more);                   /* the same once more */
	money(f, month, 100, 350, 700);
	enter(f, correction(f, 1, 8, -10, -120));
	money(f, month, 90, 230, 700);
	money(f, provider, 90, 230, 0);
	money(f, window, 90, 230, 0);
	assert_int_equal(state_of(f, month)->overdrawn, 0);
	pass(f, 62 * MINUTE);
	tick(f);
	money(f, window, 0, 0, 0);        /* and all of it leaves the window together */
}

static void a_correction_that_comes_first_waits_for_its_fact(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 5000, false);
	struct taken t = lent("g1", id, lend_money(f, id, 1000)->period_us);

	pass(f, 1000);
	enter(f, correction(f, 1, 1, 5, 11));
	money(f, id, 0, 0, 1000);
	enter(f, fact(f, 1, 100, &t));
	money(f, id, 105, 311, 700);
}

static int64_t twice_as_dear(void *arg, const Corral__UsageEvent *e, int64_t began_us) { return *(int *)arg * e->cost_microusd / 2; }

/* What the gateway took it to cost is taken of its lease; the rest is booked beside it, so that the gateway's own count stays right. */
static void the_ledgers_price_counts_and_the_lease_counts_the_gateways(void **state)
{
	struct fixture *f = *state;
	uint64_t id = put(f, "tenant:acme", "month", 5000, false);
	struct taken t = lent("g1", id, lend_money(f, id, 1000)->period_us);
	Corral__BudgetDemand look = demand(id, t.period_us, 1000, 0);
	int halves = 4;

	look.granted_microusd = 1000;
	ledger_set_pricer(f->l, twice_as_dear, &halves);
	pass(f, 1000);
	settle(f, 100, &t);               /* the gateway says 300 */
	money(f, id, 100, 600, 700);
	assert_int_equal(ask(f, "g1", look)->settled_microusd, 300);
	halves = 1;
	settle(f, 100, &t);
	money(f, id, 200, 750, 400);
	assert_int_equal(ask(f, "g1", look)->settled_microusd, 600);
	ledger_set_pricer(f->l, NULL, NULL);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(reserve_settle_release), T(never_above_the_limit), T(null_is_no_limit_and_nought_is_nothing),
		T(what_is_expected_is_lent_only_while_there_is_plenty), T(asked_twice_is_granted_once), T(an_older_ask_is_refused),
		T(a_fact_that_comes_twice_is_charged_once), T(more_than_was_reserved_is_booked_and_blocks), T(all_scopes_in_one_step),
		T(a_request_that_was_there_before_its_budget_is_not_charged), T(what_covers_it_unnamed_is_charged_all_the_same),
		T(a_removed_budget_charges_nothing_and_remembers), T(shadow_counts_and_lends_nothing), T(silence_is_doubt_and_doubt_is_counted),
		T(an_ended_life_gives_back_what_its_facts_did_not_use), T(a_restart_waits_before_it_doubts_or_closes),
		T(the_operators_time_books_what_is_in_doubt), T(a_month_ends_in_its_zone), T(clocks_jump), T(a_window_rolls), T(periods_that_are_over_are_tidied),
		T(what_is_no_budget_is_refused), T(killed_at_every_write), T(a_correction_adjusts_each_budget_once),
		T(a_correction_that_comes_first_waits_for_its_fact), T(the_ledgers_price_counts_and_the_lease_counts_the_gateways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

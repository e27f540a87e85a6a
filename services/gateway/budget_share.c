/* budget_share.c - see budget_share.h; the other side is services/usage-tracker/budget_lend.c. */
#include "services/gateway/budget_share.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/gateway/lease_file.h"
#include "services/gateway/lives.h"
#include "services/gateway/outbox.h"
#include "services/gateway/price_share.h"
#include "services/gateway/purse.h"
#include "services/gateway/worker.h"

enum {
	IDLE_US = 1000 * 1000, BUSY_US = 200 * 1000,
	PAUSE_US = 4 * 1000,          /* between two asks, however many requests wait */
	DEADLINE_MS = 1000,
	CLOSE_US = 2000 * 1000        /* between two tries to close an earlier life */
};

struct budget_share {
	struct gateway *gw;
	struct loop_timer timer;
	char lives[LIVES][LIFE];      /* earlier ones that are not closed yet; the newest last */
	unsigned n_lives;
	char id[LIFE];                /* this one */
	uint64_t seq, version, prices_version;
	bool calling, again, leaving, open, saved;
	_Atomic bool asked;           /* a worker has asked for an ask */
	_Atomic int64_t away_us;
	_Atomic uint64_t answers;
	int64_t called_us, closed_us;
};

static void send_ask(struct loop_timer *);

/* --- lives --- */

/* On disk before anything is lent to this life: whoever comes after it has to know its name. */
static bool save_lives(struct budget_share *s, char *const *closed, size_t n_closed)
{
	char path[1024];
	bool ok;

	state_file_path(s->gw, "budget-lives", path);
	ok = lives_change(path, s->id, closed, n_closed);
	if (!ok)
		LOG_WARN("the name under which budgets are lent to this gateway cannot be kept: after a crash they stay in doubt");
	return ok;
}

static void life_closed(struct budget_share *s, const char *life)
{
	for (unsigned i = 0; i < s->n_lives; i++)
		if (strcmp(s->lives[i], life) == 0) {
			memmove(s->lives[i], s->lives[i + 1 < LIVES ? i + 1 : i], (s->n_lives - i - 1) * LIFE);
			s->n_lives--;
			return;
		}
}

/* --- the list --- */

static void apply_list(struct budget_share *s, const Corral__BudgetLeaseReply *r)
{
	purse_book_list(s->gw->purses, r->budgets, r->n_budgets);
	series_set(metrics_series(s->gw->metrics, M_BUDGETS), (double)r->n_budgets);
}

static void save_list(struct budget_share *s, const Corral__BudgetLeaseReply *from)
{
	Corral__BudgetLeaseReply r = CORRAL__BUDGET_LEASE_REPLY__INIT;

	r.budgets = from->budgets;
	r.n_budgets = from->n_budgets;
	r.whole = true;
	if (!lease_file_write(s->gw, "budgets", &r))
		LOG_WARN("the list of budgets cannot be kept for a start without the usage-tracker");
}

static void load_list(struct budget_share *s)
{
	Corral__BudgetLeaseReply *r = lease_file_read(s->gw, "budgets");

	if (!r)
		return;
	apply_list(s, r);
	corral__budget_lease_reply__free_unpacked(r, NULL);
}

/* --- life --- */

struct budget_share *budget_share_new(struct gateway *g)
{
	struct budget_share *s = x_calloc(1, sizeof(*s));
	char path[1024];

	s->gw = g;
	g->purses = purse_book_new();
	g->n_budgets = purse_book_count(g->purses);
	snprintf(s->id, sizeof(s->id), "%016llx%016llx", (unsigned long long)rand_u64(), (unsigned long long)rand_u64());
	state_file_path(g, "budget-lives", path);
	s->n_lives = lives_read(path, s->lives);
	load_list(s);
	return s;
}

static void renew(struct budget_share *s)
{
	int64_t wait = s->called_us + PAUSE_US - mono_us();

	if (s->calling)
		s->again = true;
	else if (s->open)
		loop_timer_set(s->gw->loop, &s->timer, wait > 0 ? wait : 0, send_ask);
}

void budget_share_open(struct budget_share *s)
{
	s->open = true;
	s->prices_version = price_share_load(s->gw);
	renew(s);
}

static void renew_here(void *arg)
{
	struct budget_share *s = arg;

	atomic_store(&s->asked, false);
	renew(s);
}

void budget_share_need(struct budget_share *s)
{
	if (!atomic_exchange(&s->asked, true))
		loop_post(s->gw->loop, renew_here, s);
}

void budget_share_leave(struct budget_share *s)
{
	if (!s)
		return;
	s->leaving = true;
	renew(s);
}

bool budget_share_left(struct budget_share *s)
{
	if (!s->calling && !purse_book_lends(s->gw->purses))
		return true;
	renew(s);
	return false;
}

void budget_share_free(struct budget_share *s)
{
	if (!s)
		return;
	loop_timer_del(&s->timer);
	purse_book_free(s->gw->purses);
	s->gw->purses = NULL;
	free(s);
}

const char *budget_share_holder(const struct budget_share *s) { return s->id; }
int64_t budget_share_away_us(const struct budget_share *s) { return atomic_load(&s->away_us); }
uint64_t budget_share_answers(const struct budget_share *s) { return atomic_load(&s->answers); }

/* --- asking --- */

static void on_reply(const Corral__BudgetLeaseReply *, void *arg);

static void put_ended(struct budget_share *s, struct arena *mem, Corral__BudgetLeaseRequest *q)
{
	if (!s->n_lives || s->called_us - s->closed_us < CLOSE_US || !outbox_past_is_told(s->gw->outbox))
		return;
	s->closed_us = s->called_us;
	q->ended = arena_array(mem, char *, s->n_lives);
	for (; q->n_ended < s->n_lives; q->n_ended++)
		q->ended[q->n_ended] = s->lives[q->n_ended];
}

static void send_ask(struct loop_timer *t)
{
	struct budget_share *s = (struct budget_share *)(void *)((char *)t - offsetof(struct budget_share, timer));
	Corral__BudgetLeaseRequest q = CORRAL__BUDGET_LEASE_REQUEST__INIT;
	struct rpc_client *ledger = s->gw->ledger;
	struct arena *mem = arena_new(0);
	int64_t was;

	s->called_us = mono_us();
	q.holder = s->id;
	q.seq = ++s->seq;
	q.version = s->version;
	q.prices_version = s->prices_version;
	purse_book_demands(s->gw->purses, s->leaving, s->called_us, mem, &q);
	put_ended(s, mem, &q);
	if (q.n_demands && !s->saved)
		s->saved = save_lives(s, NULL, 0);
	s->calling = true;
	s->again = false;
	was = rpc_deadline(ledger, DEADLINE_MS);
	corral__budgets__lease(rpc_stub(ledger, &corral__budgets__descriptor), &q, on_reply, s);
	rpc_deadline(ledger, was);
	arena_free(mem);
}

static void heard(struct budget_share *s, const Corral__BudgetLeaseReply *r)
{
	if (atomic_exchange(&s->away_us, 0))
		LOG_INFO("the usage-tracker lends of budgets again");
	if (r->whole) {
		apply_list(s, r);
		save_list(s, r);
	}
	s->version = r->version;
	if (r->prices_whole)
		s->prices_version = price_share_heard(s->gw, r->prices, r->n_prices, r->prices_version);
	purse_book_lent(s->gw->purses, r->leases, r->n_leases, mono_us());
	for (size_t i = 0; i < r->n_closed; i++)
		life_closed(s, r->closed[i]);
	if (r->n_closed)
		(void)save_lives(s, r->closed, r->n_closed);
	atomic_fetch_add(&s->answers, 1);
}

static void unheard(struct budget_share *s, const struct why *why)
{
	int64_t none = 0;

	if (atomic_compare_exchange_strong(&s->away_us, &none, mono_us()) && atomic_load(s->gw->n_budgets))
		LOG_WARN("the usage-tracker is not heard: what needs more of a budget than is lent is refused", LOG_S("error", why ? why->text : ""));
}

static void on_reply(const Corral__BudgetLeaseReply *r, void *arg)
{
	struct budget_share *s = arg;
	bool busy;

	s->calling = false;
	if (r)
		heard(s, r);
	else
		unheard(s, rpc_error(s->gw->ledger));
	for (unsigned i = 0; i < s->gw->n_workers; i++)
		worker_budget_news(s->gw->workers[i]);
	busy = purse_book_busy(s->gw->purses) || s->n_lives;
	if (r && s->again)
		renew(s);
	else
		loop_timer_set(s->gw->loop, &s->timer, busy ? BUSY_US : IDLE_US, send_ask);
}

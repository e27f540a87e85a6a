/* reserve.c - before an attempt is sent, the most that it can use is reserved of every budget that covers it (purse.h), or it is refused.
 *
 * The most: the prompt by its bytes, for no token is less than one, and the answer by max_tokens, which is told to the backend. A request that
 * says no max_tokens gets budget_answer_tokens. In money: what so many tokens may cost there, and the machine until the request's deadline.
 * Where a budget has less left than that, and the client allows it (X-Corral-Budget: shrink, or
 * the option budget_shrink), its answer is bounded to what is left.
 * What is lent to this gateway already is taken at once; else the request waits for one answer of the usage-tracker, or, when what is left is
 * held by others, for a moment.
 * A provider in the cloud is used only when a budget of its own caps it or says that it is unlimited, and a model there that nobody knows the price
 * of only where nothing limits money. */
#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/gateway/budget.h"
#include "services/gateway/budget_share.h"
#include "services/gateway/cost.h"
#include "services/gateway/purse.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

enum {
	WAIT_US = 2000 * 1000,        /* for what others hold, or requests under way */
	AWAY_US = 1500 * 1000,        /* the usage-tracker is silent for so long: nobody waits for it any more */
	LEAST_ANSWER = 16,            /* tokens; less is no answer */
	MESSAGE_TOKENS = 32,          /* that a template may put around a message */
	IMAGE_TOKENS = 4096
};

/* --- what it may use --- */

/* Whose slot it has; -1 = none's that it may go to. */
static int replica_of(const struct req *r)
{
	for (uint16_t i = 0; i < r->pick.n_ranked; i++)
		if (r->world->states[r->pick.ranked[i].replica] == r->slot)
			return r->pick.ranked[i].replica;
	return -1;
}

/* Bytes of text, and what templates add. A context holds no more than it holds. */
static int64_t most_prompt_tokens(const struct req *r, int replica)
{
	uint64_t n = (llm_embeds(r->in.op) ? r->in.body.n : r->in.text_bytes) + MESSAGE_TOKENS * (r->in.n_messages + 2u);
	uint32_t context = replica >= 0 ? r->world->cat.replicas[replica].context : 0;

	if (r->in.needs & LLM_CAP_VISION)
		n += IMAGE_TOKENS + r->in.body.n / 64;
	return (int64_t)(context && !llm_embeds(r->in.op) && n > context ? context : n);
}

/* OpenAI's n: so many answers to one prompt. */
static int64_t answers(const struct req *r)
{
	uint32_t v = r->in.dialect == LLM_OPENAI ? json_get(&r->in.doc, 0, "n") : 0;
	int64_t n;

	return v && json_i64(&r->in.doc, v, &n) && n > 1 && n < 1000 ? n : 1;
}

struct most { int replica; int64_t prompt, each, answers; const char *bound_by; };

static struct most most_of(const struct req *r)
{
	struct most m = { .replica = replica_of(r), .answers = answers(r), .bound_by = "tokens" };

	m.prompt = most_prompt_tokens(r, m.replica);
	if (!llm_embeds(r->in.op))
		m.each = r->in.max_tokens >= 0 ? r->in.max_tokens : r->worker->gw->cfg->budget_answer_tokens;
	return m;
}

/* -1 = nobody knows. */
static int64_t most_microusd(const struct req *r, const struct most *m)
{
	return m->replica < 0 ? 0 : cost_most(r, (uint16_t)m->replica, (uint64_t)m->prompt, (uint64_t)(m->each * m->answers));
}

static struct purse_amounts need_of(const struct req *r, const struct most *m)
{
	int64_t microusd = most_microusd(r, m);

	return (struct purse_amounts){ { m->prompt + m->each * m->answers, microusd > 0 ? microusd : 0 } };
}

/* The longest answers that so much money is enough for; below LEAST_ANSWER: there are none. */
static int64_t affordable(const struct req *r, struct most m, int64_t microusd)
{
	int64_t low = 0, high = m.each;

	while (low < high) {
		m.each = low + (high - low + 1) / 2;
		if (most_microusd(r, &m) <= microusd)
			low = m.each;
		else
			high = m.each - 1;
	}
	return low;
}

static bool may_shrink(const struct req *r)
{
	const struct http_header *h = r->x ? http_find(&r->x->head, "x-corral-budget") : NULL;

	if (llm_embeds(r->in.op))
		return false;
	return h && str_ieq(h->value, STR("shrink")) ? true : h && str_ieq(h->value, STR("refuse")) ? false : r->worker->gw->cfg->budget_shrink;
}

/* The backend is told, and the client. */
static void bound_answer(struct req *r, const struct most *m, int64_t tokens)
{
	int64_t each = (tokens - m->prompt) / m->answers;

	if (llm_embeds(r->in.op) || (r->in.max_tokens >= 0 && each >= r->in.max_tokens))
		return;
	if (each < m->each)
		series_inc(metrics_series(r->worker->gw->metrics, M_BUDGET_SHRUNK, m->bound_by));
	llm_cap_tokens(&r->in, each);
	r->limit_headers = arena_fmt(r->mem, STR_FMT "X-Corral-Max-Tokens: %lld\r\n", STR_ARG(r->limit_headers), (long long)each);
}

/* --- refusing --- */

static struct str kind_of(const struct purse *p)
{
	struct str rest = str_of(p->scope), kind;

	(void)str_split(&rest, ':', &kind);
	return kind;
}

static void count(struct req *r, unsigned metric, const struct purse *p, const char *reason)
{
	struct str values[] = { kind_of(p), str_of(reason) };

	series_inc(metrics_series_v(r->worker->gw->metrics, metric, values));
}

static enum step refuse_away(struct req *r, const struct purse_refusal *why)
{
	count(r, M_BUDGET_REFUSED, why->purse, "away");
	r->retry_after_s = 2;
	return req_fail(r, ERR_UNAVAILABLE, "the budget of %s has to be asked for more, and the usage-tracker is away; nothing is used that was not lent before. Try again in a moment",
			why->purse->scope);
}

static enum step refuse_spent(struct req *r, const struct purse_refusal *why)
{
	int64_t wait_us = why->resets_us - wall_us();
	const char *unit = why->kind == PURSE_TOKENS ? "tokens" : "micro-dollars";
	struct str left;
	char at[40];

	if (why->lent_out) {
		count(r, M_BUDGET_REFUSED, why->purse, "held");
		r->retry_after_s = 1;
		return req_fail(r, ERR_BUDGET_SPENT, "what is left of the budget of %s (a %s) is held for requests under way; this one may need %lld %s. Try again when some have ended",
				why->purse->scope, why->purse->period, (long long)r->budget_need.n[why->kind], unit);
	}
	count(r, M_BUDGET_REFUSED, why->purse, "spent");
	r->retry_after_s = wait_us > 1000000 ? (wait_us + 999999) / 1000000 : 1;
	clock_rfc3339(why->resets_us, 0, at, sizeof(at));
	left = arena_fmt(r->mem, "the budget of %s (a %s) has %lld %s left, and this request may need %lld", why->purse->scope, why->purse->period,
			 (long long)why->left, unit, (long long)r->budget_need.n[why->kind]);
	if (!why->limit)
		return req_fail(r, ERR_BUDGET_SPENT, "the budget of %s (a %s) allows nothing: its limit is 0 %s; it begins anew at %s", why->purse->scope, why->purse->period,
				unit, at);
	if (r->budget_need.n[why->kind] <= why->limit)
		return req_fail(r, ERR_BUDGET_SPENT, STR_FMT "; there is more from %s on", STR_ARG(left), at);
	return req_fail(r, ERR_BUDGET_SPENT, STR_FMT "; it never has more than %lld, and begins anew at %s: ask for a shorter answer, or for a higher limit", STR_ARG(left),
			(long long)why->limit, at);
}

/* --- taking --- */

static void stop_waiting(struct req *r)
{
	if (!r->budget_until_us)
		return;
	r->budget_until_us = 0;
	list_del(&r->budget_node);
	atomic_fetch_sub(&r->worker->n_budget_waiters, 1);
	purse_wait_no_more(r->worker->gw->purses, r->budget);
}

static void note_shadow(struct req *r, const struct purse *p, const struct purse_amounts *need)
{
	count(r, M_BUDGET_SHADOW, p, "");
	LOG_INFO("a budget in mode shadow would have refused this", LOG_S("request_id", r->id_text), LOG_S("budget", p->scope), LOG_S("period", p->period),
		 LOG_I("tokens", need->n[PURSE_TOKENS]));
}

static void taken(struct req *r, const struct most *m, int64_t tokens, const struct purse *shadow)
{
	struct purse_amounts need = need_of(r, m);
	struct str stamp = purse_stamp(r->budget, budget_share_holder(r->worker->gw->budget_share), r->mem);

	r->budget_stamp = stamp;
	r->reserved_prompt = (uint64_t)m->prompt;
	r->reserved_answer = tokens > m->prompt ? (uint64_t)(tokens - m->prompt) : 0;
	if (shadow)
		note_shadow(r, shadow, &need);
	bound_answer(r, m, tokens);
}

/* Money is short: as long an answer as what is left is enough for. */
static enum purse_answer take_affordable(struct req *r, struct most *m, struct purse_amounts *need, int64_t *tokens, struct purse **shadow, struct purse_refusal *why)
{
	struct most less = *m;

	less.each = affordable(r, less, why->left);
	if (less.each < LEAST_ANSWER)
		return PURSE_SPENT;
	m->bound_by = "microusd";
	*need = need_of(r, &less);
	return purse_take(r->worker->gw->purses, r->budget, *need, need->n[PURSE_TOKENS], wall_us(), mono_us(), tokens, shadow, why);
}

/* The usage-tracker did not answer what was asked for this; the first answer may be to what was asked before. */
static bool is_unheard(const struct req *r)
{
	const struct budget_share *s = r->worker->gw->budget_share;

	return budget_share_away_us(s) || (r->budget_until_us && budget_share_answers(s) < r->budget_answers + 2);
}

/* 'last': it has waited long enough, and takes what there is. STEP_WAIT: more is to be lent first. */
static enum step try_now(struct req *r, bool last)
{
	struct purse_book *b = r->worker->gw->purses;
	struct most m = most_of(r);
	struct purse_amounts need = need_of(r, &m);
	int64_t full = need.n[PURSE_TOKENS], least = m.prompt + LEAST_ANSWER * m.answers, tokens;
	struct purse_refusal why;
	struct purse *shadow;
	enum purse_answer answer;

	r->budget_need = need;
	answer = purse_take(b, r->budget, need, last && may_shrink(r) && least < full ? least : full, wall_us(), mono_us(), &tokens, &shadow, &why);
	if (answer == PURSE_SPENT && why.kind == PURSE_TOKENS && may_shrink(r) && why.left >= least && why.left < full) {
		need.n[PURSE_TOKENS] = why.left;
		answer = purse_take(b, r->budget, need, last ? least : why.left, wall_us(), mono_us(), &tokens, &shadow, &why);
	}
	if (answer == PURSE_SPENT && why.kind == PURSE_MICROUSD && may_shrink(r))
		answer = take_affordable(r, &m, &need, &tokens, &shadow, &why);
	if (answer == PURSE_TAKEN) {
		taken(r, &m, tokens, shadow);
		return STEP_NEXT;
	}
	if (answer == PURSE_SPENT)
		return refuse_spent(r, &why);
	if (last && is_unheard(r))
		return refuse_away(r, &why);
	if (last)
		return refuse_spent(r, &why);
	if (r->budget->waits)
		purse_wait_no_more(b, r->budget);
	purse_wait(b, r->budget, need);
	return STEP_WAIT;
}

/* The usage-tracker is known to be away: what is lent serves, and nobody waits for more. */
static bool is_away(const struct req *r)
{
	int64_t since = budget_share_away_us(r->worker->gw->budget_share);

	return since && mono_us() - since > AWAY_US;
}

static void find(struct req *r, int replica)
{
	struct purse_asker a = { .tenant = r->tenant, .team = r->who.team, .key_id = r->key_id, .user = r->who.user.n ? r->who.user : r->in.user };

	if (replica >= 0)
		a.provider = str_of(cost_provider(r->world, (uint16_t)replica));
	if (!r->budget)
		r->budget = arena_new_of(r->mem, struct purse_hold);
	purse_find(r->worker->gw->purses, &a, r->budget);
}

/* Money goes out only where somebody has said how much, or that any. */
static bool may_buy(struct req *r, int replica)
{
	const char *provider = cost_provider(r->world, (uint16_t)replica);

	if (purse_is_capped(r->worker->gw->purses, str_of(provider)))
		return true;
	series_inc(metrics_series(r->worker->gw->metrics, M_BUDGET_REFUSED, "provider", "no_cap"));
	req_fail(r, ERR_BUDGET_SPENT, "%s has no budget, so nothing is spent there; its owner sets one for provider:%s, or writes that it is unlimited", provider, provider);
	return false;
}

/* A limit of money cannot be kept by who does not know what a thing costs. */
static bool has_price(struct req *r)
{
	struct most m = most_of(r);
	const struct purse *p = most_microusd(r, &m) < 0 ? purse_limiting(r->worker->gw->purses, r->budget, PURSE_MICROUSD) : NULL;

	if (!p)
		return true;
	count(r, M_BUDGET_REFUSED, p, "no_price");
	req_fail(r, ERR_BUDGET_SPENT, "the budget of %s is in money, and nobody knows what %s costs at %s: a price has to be set first", p->scope,
		 r->world->cat.replicas[m.replica].pb->model, cost_provider(r->world, (uint16_t)m.replica));
	return false;
}

static enum step enter(struct req *r)
{
	struct gateway *g = r->worker->gw;
	int replica = replica_of(r);
	enum step step;

	if (replica >= 0 && cost_is_cloud(r->world, (uint16_t)replica) && !may_buy(r, replica))
		return STEP_FAIL;
	if (purse_book_is_empty(g->n_budgets))
		return STEP_NEXT;
	find(r, replica);
	if (!r->budget->n)
		return STEP_NEXT;
	if (!has_price(r))
		return STEP_FAIL;
	step = try_now(r, is_away(r));
	if (step != STEP_WAIT)
		return step;
	series_inc(metrics_series(g->metrics, M_BUDGET_WAITS));
	r->budget_until_us = req_now(r) + WAIT_US < r->deadline_us ? req_now(r) + WAIT_US : r->deadline_us;
	r->budget_answers = budget_share_answers(g->budget_share);
	list_push(&r->worker->budget_waiters, &r->budget_node);
	atomic_fetch_add(&r->worker->n_budget_waiters, 1);
	budget_share_need(g->budget_share);
	return STEP_WAIT;
}

void budget_news(struct worker *w)
{
	struct list waiting;
	bool more = false;

	if (list_empty(&w->budget_waiters))
		return;
	list_push(&w->budget_waiters, &waiting);  /* the head changes, the members stay */
	list_del(&w->budget_waiters);
	list_init(&w->budget_waiters);
	while (!list_empty(&waiting)) {
		struct req *r = list_entry(waiting.next, struct req, budget_node);
		enum step step;

		list_del(&r->budget_node);
		list_push(&w->budget_waiters, &r->budget_node);
		step = try_now(r, req_now(r) >= r->budget_until_us || is_away(r));
		more |= step == STEP_WAIT;
		if (step == STEP_WAIT)
			continue;
		stop_waiting(r);
		req_resume(r, step);
	}
	if (more)
		budget_share_need(w->gw->budget_share);
}

/* --- the end --- */

void budget_settle(struct req *r, uint64_t tokens, int64_t cost_microusd)
{
	if (r->budget && r->budget->held)
		purse_settle(r->worker->gw->purses, r->budget, (struct purse_amounts){ { (int64_t)tokens, cost_microusd } });
	r->budget_stamp = STR("");
	r->reserved_prompt = r->reserved_answer = 0;
}

void budget_end(struct req *r)
{
	if (!r->budget)
		return;
	stop_waiting(r);
	budget_settle(r, 0, 0);
}

const struct stage stage_reserve = { "reserve", enter };

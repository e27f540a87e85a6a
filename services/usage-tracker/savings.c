/* savings.c - see savings.h. */
#include "services/usage-tracker/savings.h"

#include "services/usage-tracker/query.h"

/* Requests of [from_us, to_us), in which 'against' has one price, or none. */
struct span { int64_t from_us, to_us; const struct price *price; };

struct savings {
	struct ledger *l;
	const struct prices *prices;
	const Corral__SavingsQuery *q;
	struct str provider;
	struct arena *mem;
	Corral__SavingsReport *ret;
	struct why *why;
};

/* --- the price that is compared with --- */

static bool says_model(const struct price *p) { return p->kind == PRICE_TOKENS && p->model.n > 0; }

static const struct price *priced(const struct price *list, size_t n, struct str provider, struct str model, int64_t at_us)
{
	return price_find(list, n, PRICE_TOKENS, provider, STR(""), model, at_us);
}

/* What is known instead, for the sentence. */
static struct str known_models(const struct price *list, size_t n, struct arena *mem)
{
	struct str known = STR("");

	for (size_t i = 0; i < n && known.n < 200; i++)
		if (says_model(&list[i]) && !str_find(known, list[i].model))
			known = arena_fmt(mem, STR_FMT "%s" STR_FMT, STR_ARG(known), known.n ? ", " : "", STR_ARG(list[i].model));
	return known;
}

static bool not_known(const struct savings *s, const struct price *list, size_t n)
{
	struct str known = known_models(list, n, s->mem);

	return err_field(s->why, ERR_NOT_FOUND, "against", "no price of '%.80s' is known%s" STR_FMT "; PUT /prices, or 'corral prices set', sets one",
			 s->q->against, known.n ? "; of these there are: " : "", STR_ARG(known)) == ERR_OK;
}

/* Whose price is meant, where that was not said: there has to be one only. */
static bool find_provider(struct savings *s)
{
	struct str model = str_of(s->q->against);
	bool found = false;
	size_t n;
	const struct price *list = prices_list(s->prices, &n);

	s->provider = str_of(s->q->provider);
	for (size_t i = 0; i < n; i++) {
		struct price alone = list[i];

		alone.provider = alone.backend = STR("");
		if (!says_model(&alone) || (s->provider.n && !str_eq(list[i].provider, s->provider) && list[i].provider.n) ||
		    !priced(&alone, 1, STR(""), model, INT64_MAX))
			continue;
		if (found && !s->q->provider[0] && !str_eq(s->provider, list[i].provider))
			return err_field(s->why, ERR_INVALID, "provider", "several providers have a price of '%.80s': say which, with provider=NAME", s->q->against) == ERR_OK;
		if (!s->q->provider[0])
			s->provider = list[i].provider;
		found = true;
	}
	return found || not_known(s, list, n);
}

/* --- one span --- */

/* Grouped by provider, backend, model, status. */
static bool is_local(const struct savings *s, const Corral__UsageRow *row, int64_t at_us)
{
	size_t n;
	const struct price *list = prices_list(s->prices, &n);

	return provider_is_local(str_of(row->groups[0])) &&
	       !price_find(list, n, PRICE_TOKENS, str_of(row->groups[0]), str_of(row->groups[1]), str_of(row->groups[2]), at_us);
}

static void add_row(struct savings *s, const Corral__UsageRow *row, const struct span *span, struct price_use *use)
{
	bool local = is_local(s, row, span->to_us - 1), ok = strcmp(row->groups[3], "ok") == 0;
	Corral__SavingsReport *r = s->ret;

	if (local) {
		r->infrastructure_microusd += row->cost_microusd;
		r->gpu_s += row->gpu_s;
		r->energy_j += row->energy_j;
	} else {
		r->cloud_microusd += row->cost_microusd;
	}
	if (!ok && strcmp(row->groups[3], "cancelled") != 0)
		return;
	if (ok) {
		r->requests += row->finished;
		r->local_requests += local ? row->finished : 0;
	}
	use->prompt_tokens += (int64_t)row->prompt_tokens;
	use->completion_tokens += (int64_t)row->completion_tokens;
	r->local_tokens += local ? row->prompt_tokens + row->completion_tokens : 0;
}

static void add_price(struct savings *s, const struct price *p)
{
	Corral__SavingsReport *r = s->ret;

	if (p && (!r->n_prices || r->prices[r->n_prices - 1]->id != p->id))
		r->prices[r->n_prices++] = prices_message(s->prices, p, s->mem);
}

static bool add_span(struct savings *s, const struct span *span)
{
	char *by[] = { (char *)"provider", (char *)"backend", (char *)"model", (char *)"status" };
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	struct price_use use = { 0 };
	Corral__UsageReport u;

	q.group_by = by;
	q.n_group_by = 4;
	q.from_us = span->from_us;
	q.to_us = span->to_us;
	q.tenant = s->q->tenant;
	if (!usage_query(s->l, &q, span->to_us, s->mem, &u, s->why))
		return false;
	for (size_t i = 0; i < u.n_rows; i++)
		add_row(s, u.rows[i], span, &use);
	s->ret->prompt_tokens += (uint64_t)use.prompt_tokens;
	s->ret->completion_tokens += (uint64_t)use.completion_tokens;
	s->ret->would_cost_microusd += price_cost(span->price, NULL, &use);
	if (!span->price)
		s->ret->unpriced_tokens += (uint64_t)(use.prompt_tokens + use.completion_tokens);
	add_price(s, span->price);
	return true;
}

/* The time in spans: a new one where another price of 'against' begins. */
static bool add_spans(struct savings *s)
{
	struct str model = str_of(s->q->against);
	struct span span = { .from_us = s->q->from_us };
	size_t n;
	const struct price *list = prices_list(s->prices, &n);

	s->ret->prices = arena_array(s->mem, Corral__Price *, n + 1);
	for (; span.from_us < s->q->to_us; span.from_us = span.to_us) {
		int64_t at_us = span.from_us, unused;

		span.price = priced(list, n, s->provider, model, at_us);
		do {
			price_span(list, n, at_us, &unused, &span.to_us);
			at_us = span.to_us;
		} while (at_us < s->q->to_us && priced(list, n, s->provider, model, at_us) == span.price);
		if (span.to_us > s->q->to_us)
			span.to_us = s->q->to_us;
		if (!add_span(s, &span))
			return false;
	}
	return true;
}

bool savings_query(struct ledger *l, const struct prices *p, const Corral__SavingsQuery *q, int64_t now_us, struct arena *mem, Corral__SavingsReport *ret,
		   struct why *why)
{
	struct savings s = { .l = l, .prices = p, .q = q, .mem = mem, .ret = ret, .why = why };

	corral__savings_report__init(ret);
	if (!q->against[0])
		return err_field(why, ERR_INVALID, "against", "say the model whose price is compared with: against=NAME") == ERR_OK;
	if (q->from_us <= 0 || q->to_us <= q->from_us)
		return err_field(why, ERR_INVALID, "month", "there is no such time") == ERR_OK;
	if (!find_provider(&s) || !add_spans(&s))
		return false;
	ret->savings_microusd = ret->would_cost_microusd - ret->infrastructure_microusd - ret->cloud_microusd;
	ret->as_of_us = now_us;
	return true;
}

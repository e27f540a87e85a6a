/* prices.c - see prices.h. */
#include "services/usage-tracker/prices.h"

#include <stdlib.h>

#include "services/usage-tracker/ledger_sql.h"

enum { MEMO = 64, WORD = 96 };

/* What was found before: neighbours in the ledger are alike. */
struct memo {
	char provider[WORD], backend[WORD], model[WORD];
	int64_t from_us, until_us;    /* the time it holds for; empty at first */
	const struct price *tokens, *machine;
};

/* What the table has beside the price itself. */
struct origin { char *set_by; int64_t set_at_us; };

struct prices {
	struct db *db;
	struct arena *mem;            /* the words */
	struct price *list;
	struct origin *origins;
	size_t n, cap;
	struct memo memo[MEMO];
};

struct prices *prices_new(struct db *db)
{
	struct prices *p = x_calloc(1, sizeof(*p));

	p->db = db;
	p->mem = arena_new(0);
	return p;
}

void prices_free(struct prices *p)
{
	if (!p)
		return;
	arena_free(p->mem);
	free(p->list);
	free(p->origins);
	free(p);
}

const struct price *prices_list(const struct prices *p, size_t *ret_n)
{
	*ret_n = p->n;
	return p->list;
}

/* --- the table --- */

static void keep(struct prices *p, const struct price *price, struct str set_by, int64_t set_at_us)
{
	struct price *to;

	if (p->n == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 32;
		p->list = x_realloc(p->list, p->cap * sizeof(*p->list));
		p->origins = x_realloc(p->origins, p->cap * sizeof(*p->origins));
	}
	to = &p->list[p->n];
	*to = *price;
	to->provider = arena_str(p->mem, price->provider);
	to->backend = arena_str(p->mem, price->backend);
	to->model = arena_str(p->mem, price->model);
	p->origins[p->n++] = (struct origin){ arena_dup(p->mem, set_by.p ? set_by.p : "", set_by.n), set_at_us };
	memset(p->memo, 0, sizeof(p->memo));
}

static bool take(void *prices, const struct db_row *d)
{
	struct price price = {
		.id = db_int(d, 0), .valid_from_us = db_int(d, 1), .provider = db_str(d, 2), .backend = db_str(d, 3), .model = db_str(d, 4),
		.kind = db_int(d, 5) ? PRICE_MACHINE : PRICE_TOKENS, .input = db_int(d, 6), .cached_input = db_int(d, 7), .output = db_int(d, 8),
		.gpu_hour = db_int(d, 9), .kwh = db_int(d, 10),
	};

	keep(prices, &price, db_str(d, 12), db_int(d, 13));
	return true;
}

bool prices_load(struct prices *p, struct why *why)
{
	arena_reset(p->mem);
	p->n = 0;
	memset(p->memo, 0, sizeof(p->memo));
	return db_run(p->db, L_PRICES_ALL, NULL, 0, take, p, NULL, why);
}

static bool add(struct prices *p, const struct price *x, const char *set_by, int64_t now_us, struct why *why)
{
	const struct db_value row[] = { DB_I(x->id), DB_I(x->valid_from_us), DB_S(x->provider), DB_S(x->backend), DB_S(x->model), DB_I(x->kind == PRICE_MACHINE),
					DB_I(x->input), DB_I(x->cached_input), DB_I(x->output), DB_I(x->gpu_hour), DB_I(x->kwh), DB_Z("USD"), DB_Z(set_by),
					DB_I(now_us) };

	if (!db_run(p->db, L_PRICE_ADD, row, sizeof(row) / sizeof(*row), NULL, NULL, NULL, why))
		return false;
	keep(p, x, str_of(set_by), now_us);
	return true;
}

/* --- messages --- */

static Corral__Price *message(const struct price *x, const struct origin *o, struct arena *mem)
{
	Corral__Price *m = arena_alloc(mem, sizeof(*m));

	corral__price__init(m);
	m->id = x->id;
	m->valid_from_us = x->valid_from_us;
	m->provider = arena_dup(mem, x->provider.p, x->provider.n);
	m->backend = arena_dup(mem, x->backend.p, x->backend.n);
	m->model = arena_dup(mem, x->model.p, x->model.n);
	m->machine = x->kind == PRICE_MACHINE;
	m->input_microusd = x->input;
	m->cached_input_microusd = x->cached_input;
	m->output_microusd = x->output;
	m->gpu_hour_microusd = x->gpu_hour;
	m->kwh_microusd = x->kwh;
	m->set_by = o->set_by;
	m->set_at_us = o->set_at_us;
	return m;
}

Corral__Price *prices_message(const struct prices *p, const struct price *x, struct arena *mem)
{
	return message(x, &p->origins[x - p->list], mem);
}

/* "*" and "" are one scope. */
static struct str pattern(const char *z) { return strcmp(z, "*") == 0 ? STR("") : str_of(z); }

bool prices_put(struct prices *p, const Corral__Price *m, int64_t now_us, struct arena *mem, Corral__PutPriceReply *ret, struct why *why)
{
	struct price x = {
		.id = p->n ? p->list[p->n - 1].id + 1 : 1, .valid_from_us = m->valid_from_us ? m->valid_from_us : now_us,
		.kind = m->machine ? PRICE_MACHINE : PRICE_TOKENS, .provider = pattern(m->provider), .backend = pattern(m->backend), .model = pattern(m->model),
		.input = m->input_microusd, .cached_input = m->cached_input_microusd, .output = m->output_microusd, .gpu_hour = m->gpu_hour_microusd,
		.kwh = m->kwh_microusd,
	};
	size_t i = 0;

	corral__put_price_reply__init(ret);
	if (!price_check(&x, why))
		return false;
	while (i < p->n && !(price_same_scope(&p->list[i], &x) && p->list[i].valid_from_us == x.valid_from_us))
		i++;
	ret->was_there = i < p->n;
	if (ret->was_there && !price_same_numbers(&p->list[i], &x))
		return err_field(why, ERR_CONFLICT, "valid_from", "these have another price from that very time on, and a price is never changed; give the new "
				 "one a later time") == ERR_OK;
	if (!ret->was_there && !add(p, &x, m->set_by, now_us, why))
		return false;
	ret->price = prices_message(p, &p->list[i], mem);
	return true;
}

void prices_reply(const struct prices *p, int64_t now_us, struct arena *mem, Corral__PricesReply *ret)
{
	corral__prices_reply__init(ret);
	ret->prices = arena_array(mem, Corral__Price *, p->n + 1);
	for (size_t i = 0; i < p->n; i++)
		ret->prices[ret->n_prices++] = prices_message(p, &p->list[i], mem);
	ret->revision = p->n ? (uint64_t)p->list[p->n - 1].id : 0;
	ret->as_of_us = now_us;
}

/* --- what it costs --- */

static bool is_of(const struct memo *m, const Corral__UsageEvent *e, int64_t at_us)
{
	return at_us >= m->from_us && at_us < m->until_us && strcmp(m->model, e->model) == 0 && strcmp(m->backend, e->backend) == 0 &&
	       strcmp(m->provider, e->provider) == 0;
}

static struct memo look_up(struct prices *p, const Corral__UsageEvent *e, int64_t at_us)
{
	struct str provider = str_of(e->provider), backend = str_of(e->backend), model = str_of(e->model);
	struct memo *m = &p->memo[(str_hash(model, 0) ^ str_hash(backend, 1)) % MEMO], found = { .from_us = 0 };

	if (is_of(m, e, at_us))
		return *m;
	found.tokens = price_find(p->list, p->n, PRICE_TOKENS, provider, backend, model, at_us);
	found.machine = price_find(p->list, p->n, PRICE_MACHINE, provider, backend, model, at_us);
	price_span(p->list, p->n, at_us, &found.from_us, &found.until_us);
	if (str_copy(found.provider, WORD, provider) && str_copy(found.backend, WORD, backend) && str_copy(found.model, WORD, model))
		*m = found;
	return found;
}

bool prices_given(const Corral__UsageEvent *e)
{
	return e->cost_source == CORRAL__COST_SOURCE__COST_REPORTED || (e->cost_microusd != 0 && e->cost_source == CORRAL__COST_SOURCE__COST_UNKNOWN);
}

int64_t prices_cost(void *prices, const Corral__UsageEvent *e, int64_t began_us)
{
	struct prices *p = prices;
	struct price_use use = { (int64_t)e->prompt_tokens, (int64_t)e->cached_prompt_tokens, (int64_t)e->completion_tokens, e->gpu_us, e->energy_mj };
	struct memo found;

	if (prices_given(e))
		return e->cost_microusd;
	if (e->cached || p->n == 0)
		return e->cached ? 0 : e->cost_microusd;
	found = look_up(p, e, began_us);
	return found.tokens || found.machine ? price_cost(found.tokens, found.machine, &use) : e->cost_microusd;
}

/* prices.c - see prices.h. */
#include "services/usage-tracker/prices.h"

#include <stdlib.h>

#include "services/usage-tracker/ledger_sql.h"

/* What the table has beside the price itself. */
struct origin { char *set_by; int64_t set_at_us; };

struct prices {
	struct db *db;
	struct arena *mem;            /* the words */
	struct price_list *list;
	struct origin *origins;       /* of each of the list */
	size_t n, cap;
};

struct prices *prices_new(struct db *db)
{
	struct prices *p = x_calloc(1, sizeof(*p));

	p->db = db;
	p->mem = arena_new(0);
	p->list = price_list_new();
	return p;
}

void prices_free(struct prices *p)
{
	if (!p)
		return;
	arena_free(p->mem);
	price_list_free(p->list);
	free(p->origins);
	free(p);
}

const struct price *prices_list(const struct prices *p, size_t *ret_n) { return price_list_all(p->list, ret_n); }
uint64_t prices_version(const struct prices *p) { return price_list_version(p->list); }

/* --- the table --- */

static void keep(struct prices *p, const struct price *price, struct str set_by, int64_t set_at_us)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 32;
		p->origins = x_realloc(p->origins, p->cap * sizeof(*p->origins));
	}
	p->origins[p->n++] = (struct origin){ arena_dup(p->mem, set_by.p ? set_by.p : "", set_by.n), set_at_us };
	price_list_add(p->list, price);
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
	price_list_clear(p->list);
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
	size_t n;

	return message(x, &p->origins[x - prices_list(p, &n)], mem);
}

/* "*" and "" are one scope. */
static struct str pattern(const char *z) { return strcmp(z, "*") == 0 ? STR("") : str_of(z); }

bool prices_put(struct prices *p, const Corral__Price *m, int64_t now_us, struct arena *mem, Corral__PutPriceReply *ret, struct why *why)
{
	size_t n, i = 0;
	const struct price *list = prices_list(p, &n);
	struct price x = {
		.id = n ? list[n - 1].id + 1 : 1, .valid_from_us = m->valid_from_us ? m->valid_from_us : now_us,
		.kind = m->machine ? PRICE_MACHINE : PRICE_TOKENS, .provider = pattern(m->provider), .backend = pattern(m->backend), .model = pattern(m->model),
		.input = m->input_microusd, .cached_input = m->cached_input_microusd, .output = m->output_microusd, .gpu_hour = m->gpu_hour_microusd,
		.kwh = m->kwh_microusd,
	};

	corral__put_price_reply__init(ret);
	if (!price_check(&x, why))
		return false;
	while (i < n && !(price_same_scope(&list[i], &x) && list[i].valid_from_us == x.valid_from_us))
		i++;
	ret->was_there = i < n;
	if (ret->was_there && !price_same_numbers(&list[i], &x))
		return err_field(why, ERR_CONFLICT, "valid_from", "these have another price from that very time on, and a price is never changed; give the new "
				 "one a later time") == ERR_OK;
	if (!ret->was_there && !add(p, &x, m->set_by, now_us, why))
		return false;
	ret->price = prices_message(p, &prices_list(p, &n)[i], mem);
	return true;
}

void prices_reply(const struct prices *p, int64_t now_us, struct arena *mem, Corral__PricesReply *ret)
{
	size_t n;
	const struct price *list = prices_list(p, &n);

	corral__prices_reply__init(ret);
	ret->prices = arena_array(mem, Corral__Price *, n + 1);
	for (size_t i = 0; i < n; i++)
		ret->prices[ret->n_prices++] = prices_message(p, &list[i], mem);
	ret->revision = n ? (uint64_t)list[n - 1].id : 0;
	ret->as_of_us = now_us;
}

/* --- what it costs --- */

bool prices_given(const Corral__UsageEvent *e)
{
	return e->cost_source == CORRAL__COST_SOURCE__COST_REPORTED || (e->cost_microusd != 0 && e->cost_source == CORRAL__COST_SOURCE__COST_UNKNOWN);
}

int64_t prices_cost(void *prices, const Corral__UsageEvent *e, int64_t began_us)
{
	struct prices *p = prices;
	struct price_use use = { (int64_t)e->prompt_tokens, (int64_t)e->cached_prompt_tokens, (int64_t)e->completion_tokens, e->gpu_us, e->energy_mj };
	struct price_pair found;

	if (prices_given(e))
		return e->cost_microusd;
	if (e->cached || p->n == 0)
		return e->cached ? 0 : e->cost_microusd;
	found = price_list_find(p->list, e->provider, e->backend, e->model, began_us);
	return found.tokens || found.machine ? price_cost(found.tokens, found.machine, &use) : e->cost_microusd;
}

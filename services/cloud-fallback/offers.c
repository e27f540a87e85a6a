/* offers.c - what the catalogue knows of prices is told to the usage-tracker, by whose prices everything is charged: once a start, a model at a time.
 * Then it is asked now and then which prices are in force, for a price that somebody sets counts for deciding, too, and not for charging alone.
 *
 * A price is told as that of the model by its full name ("provider/model"), valid from the day it was read. Where somebody else has set a price
 * that counts for the model, that is the one, and the catalogue is silent. See cloud.h. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/price.h"
#include "services/cloud-fallback/cloud.h"
#include "usage.pb-c.h"

enum { AGAIN_US = 1000000, LOOK_US = 5000000 };

static const char set_by[] = "the catalogue of cloud-fallback";

struct offers {
	struct cloud *cloud;
	struct rpc_client *ledger;
	struct loop_timer timer;
	size_t provider, model;       /* the next one */
	struct arena *mem;            /* of the prices of tokens that are in the ledger: all of them, at 'revision' */
	struct price *said;
	size_t n_said;
	uint64_t revision;
};

static void step(struct loop_timer *);
static void later(struct offers *o, int64_t us) { loop_timer_set(o->cloud->loop, &o->timer, us, step); }

/* The next model that has a price in the catalogue; false: there is none any more. */
static bool next_priced(struct offers *o, const struct provider_setting **ret_set, const struct catalogue_row **ret_row)
{
	for (; o->provider < o->cloud->n; o->provider++, o->model = 0) {
		const struct provider_setting *s = o->cloud->providers[o->provider].set;

		for (; s->enabled && o->model < s->n_models; o->model++) {
			*ret_row = cloud_catalogue_find(o->cloud->catalogue, str_of(provider_kind_name(s->kind)), str_of(s->name), str_of(s->models[o->model]));
			*ret_set = s;
			if (*ret_row && (*ret_row)->priced)
				return true;
		}
	}
	return false;
}

static struct price price_of(const Corral__Price *m)
{
	return (struct price){ .id = m->id, .valid_from_us = m->valid_from_us, .kind = m->machine ? PRICE_MACHINE : PRICE_TOKENS, .provider = str_of(m->provider),
			       .backend = str_of(m->backend), .model = str_of(m->model) };
}

static void keep(struct offers *o, const Corral__PricesReply *r)
{
	if (o->mem && r->revision == o->revision)
		return;
	arena_free(o->mem);
	o->mem = arena_new(4096);
	o->said = arena_array(o->mem, struct price, r->n_prices + 1);
	o->n_said = 0;
	o->revision = r->revision;
	for (size_t i = 0; i < r->n_prices; i++) {
		const Corral__Price *m = r->prices[i];
		struct price *p = &o->said[o->n_said];

		*p = price_of(m);
		p->provider = arena_str(o->mem, p->provider);
		p->backend = arena_str(o->mem, p->backend);
		p->model = arena_str(o->mem, p->model);
		p->input = m->input_microusd;
		p->cached_input = m->cached_input_microusd;
		p->output = m->output_microusd;
		o->n_said += !m->machine;
	}
}

const struct price *offers_price(const struct offers *o, const char *provider, const char *model)
{
	return o ? price_find(o->said, o->n_said, PRICE_TOKENS, str_of(provider), str_of(provider), str_of(model), wall_us()) : NULL;
}

/* A price that is in force for it now and that was set by somebody else. */
static bool is_said(const Corral__PricesReply *r, const char *provider, const char *model, struct arena *mem)
{
	struct price *others = arena_array(mem, struct price, r->n_prices + 1);
	size_t n = 0;

	for (size_t i = 0; i < r->n_prices; i++)
		if (strcmp(r->prices[i]->set_by, set_by) != 0)
			others[n++] = price_of(r->prices[i]);
	return price_find(others, n, PRICE_TOKENS, str_of(provider), str_of(provider), str_of(model), wall_us()) != NULL;
}

static void on_put(const Corral__PutPriceReply *r, void *arg)
{
	struct offers *o = arg;
	enum err e = r ? ERR_OK : rpc_error(o->ledger)->code;

	if (e == ERR_UNAVAILABLE || e == ERR_DEADLINE || e == ERR_STORE_FAILED) {
		later(o, AGAIN_US);
		return;
	}
	if (e)
		LOG_WARN("a price of the catalogue was not taken", LOG_S("provider", o->cloud->providers[o->provider].set->name), LOG_S("error", rpc_error(o->ledger)->text));
	o->model++;
	later(o, 0);
}

static void tell(struct offers *o, const struct catalogue_row *row, const char *model)
{
	Corral__PutPriceRequest q = CORRAL__PUT_PRICE_REQUEST__INIT;
	Corral__Price p = CORRAL__PRICE__INIT;
	char date[16];

	(void)str_copy(date, sizeof(date), row->date);
	if (!clock_parse_rfc3339(date, &p.valid_from_us) || p.valid_from_us > wall_us())
		p.valid_from_us = 0;              /* from now on */
	p.model = (char *)(uintptr_t)model;
	p.input_microusd = row->input;
	p.cached_input_microusd = row->cached_input;
	p.output_microusd = row->output;
	p.set_by = (char *)(uintptr_t)set_by;
	q.price = &p;
	corral__usage_tracker__put_price(rpc_stub(o->ledger, &corral__usage_tracker__descriptor), &q, on_put, o);
}

static void on_prices(const Corral__PricesReply *r, void *arg)
{
	struct offers *o = arg;
	const struct provider_setting *set;
	const struct catalogue_row *row;
	struct arena *mem = arena_new(0);

	if (r) {
		keep(o, r);
		cloud_changed(o->cloud);
	}
	if (!r) {
		later(o, AGAIN_US);
	} else if (next_priced(o, &set, &row)) {
		const char *model = arena_printf(mem, "%s/%s", set->name, set->models[o->model]);

		if (is_said(r, set->name, model, mem)) {
			o->model++;
			later(o, 0);
		} else {
			tell(o, row, model);
		}
	} else {
		later(o, LOOK_US);
	}
	arena_free(mem);
}

static void step(struct loop_timer *t)
{
	struct offers *o = list_entry(t, struct offers, timer);
	Corral__PricesRequest q = CORRAL__PRICES_REQUEST__INIT;

	if (o->cloud->n)
		corral__usage_tracker__prices(rpc_stub(o->ledger, &corral__usage_tracker__descriptor), &q, on_prices, o);
}

struct offers *offers_new(struct cloud *c)
{
	struct offers *o = x_calloc(1, sizeof(*o));

	o->cloud = c;
	o->ledger = svc_peer(c->svc, "usage-tracker");
	later(o, 0);
	return o;
}

void offers_free(struct offers *o)
{
	if (!o)
		return;
	loop_timer_del(&o->timer);
	arena_free(o->mem);
	free(o);
}

/* price_share.c - see price_share.h. */
#include "services/gateway/price_share.h"

#include "common/data/log.h"
#include "common/policy/price_list.h"
#include "services/gateway/lease_file.h"
#include "services/gateway/worker.h"

static struct price price_of(const Corral__Price *m)
{
	return (struct price){
		.id = m->id, .valid_from_us = m->valid_from_us, .kind = m->machine ? PRICE_MACHINE : PRICE_TOKENS, .provider = str_of(m->provider),
		.backend = str_of(m->backend), .model = str_of(m->model), .input = m->input_microusd, .cached_input = m->cached_input_microusd,
		.output = m->output_microusd, .gpu_hour = m->gpu_hour_microusd, .kwh = m->kwh_microusd,
	};
}

static void hand_out(struct gateway *g, Corral__Price *const *prices, size_t n)
{
	for (unsigned i = 0; i < g->n_workers; i++) {
		struct price_list *list = price_list_new();

		for (size_t k = 0; k < n; k++) {
			struct price p = price_of(prices[k]);

			price_list_add(list, &p);
		}
		worker_set_prices(g->workers[i], list);
	}
	series_set(metrics_series(g->metrics, M_PRICES), (double)n);
}

uint64_t price_share_load(struct gateway *g)
{
	Corral__BudgetLeaseReply *r = lease_file_read(g, "prices");
	uint64_t version = r ? r->prices_version : 0;

	if (!r)
		return 0;
	hand_out(g, r->prices, r->n_prices);
	corral__budget_lease_reply__free_unpacked(r, NULL);
	return version;
}

uint64_t price_share_heard(struct gateway *g, Corral__Price *const *prices, size_t n, uint64_t version)
{
	Corral__BudgetLeaseReply r = CORRAL__BUDGET_LEASE_REPLY__INIT;

	hand_out(g, prices, n);
	r.prices_version = version;
	r.prices_whole = true;
	r.prices = (Corral__Price **)(uintptr_t)prices;
	r.n_prices = n;
	if (!lease_file_write(g, "prices", &r))
		LOG_WARN("the prices cannot be kept for a start without the usage-tracker");
	return version;
}

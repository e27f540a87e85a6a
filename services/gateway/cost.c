/* cost.c - see cost.h. */
#include "services/gateway/cost.h"

#include "common/base/clock.h"
#include "common/policy/cloud.h"
#include "common/policy/price_list.h"
#include "services/gateway/worker.h"

const char *cost_provider(const struct world *w, uint16_t replica)
{
	return w->backends[w->cat.replicas[replica].backend].charged;
}

/* Not by its name: a provider may be called as a kind of backends is. */
bool cost_is_cloud(const struct world *w, uint16_t replica) { return w->cat.backends[w->cat.replicas[replica].backend].pb->cloud != NULL; }

static struct price_pair prices_of(const struct req *r, uint16_t replica, int64_t at_us)
{
	const struct cat_replica *cr = &r->world->cat.replicas[replica];

	return price_list_find(r->worker->prices, cost_provider(r->world, replica), cr->pb->backend, cr->pb->model, at_us);
}

static uint32_t slots_of(const struct req *r, uint16_t replica)
{
	uint32_t slots = r->world->cat.replicas[replica].slots;

	return slots ? slots : 1;
}

/* The time of the attempt on its backend, as large a part of it as its slot is of the replica's slots. */
static int64_t gpu_us(const struct req *r)
{
	const struct attempt *t = &r->try;
	int64_t until = t->priced_us ? t->priced_us : req_now(r);

	return t->sent && until > t->start_us ? (until - t->start_us) / slots_of(r, t->replica) : 0;
}

static struct meter *meter_of(const struct req *r) { return &r->world->states[r->try.replica]->meter; }

/* What the machine drew in that time, as large a part of it as the slot is of all slots that are counted there. It ends with the GPU time. */
static int64_t energy_mj(const struct req *r)
{
	const struct attempt *t = &r->try;
	int64_t uj = t->priced_us ? t->priced_uj : meter_read(meter_of(r), req_now(r));

	return t->sent && uj > t->met_uj ? (uj - t->met_uj) / 1000 : 0;
}

int64_t cost_of_answer(void *arg, const struct llm_usage *u)
{
	struct req *r = arg;
	struct attempt *t = &r->try;
	struct price_pair p = prices_of(r, t->replica, t->start_wall_us);
	struct price_use use = { (int64_t)u->prompt_tokens, (int64_t)u->cached_tokens, (int64_t)u->completion_tokens };

	if (!t->priced_us) {
		t->priced_us = req_now(r);
		t->priced_uj = meter_read(meter_of(r), t->priced_us);
	}
	use.gpu_us = gpu_us(r);
	use.energy_mj = energy_mj(r);
	return r->cost_microusd + price_cost(p.tokens, p.machine, &use);
}

void cost_book(struct req *r, Corral__UsageEvent *e)
{
	struct price_use use = { (int64_t)e->prompt_tokens, (int64_t)e->cached_prompt_tokens, (int64_t)e->completion_tokens };
	struct price_pair p;

	if (!r->try.number)               /* it met no backend, or a kept answer was given */
		return;
	p = prices_of(r, r->try.replica, r->try.start_wall_us);
	use.gpu_us = e->gpu_us = gpu_us(r);
	use.energy_mj = e->energy_mj = energy_mj(r);
	if (e->energy_mj)
		series_add(r->world->states[r->try.replica]->m_energy, (double)e->energy_mj / 1e3);
	if (!p.tokens && !p.machine)
		return;
	e->cost_microusd = price_cost(p.tokens, p.machine, &use);
	e->cost_source = CORRAL__COST_SOURCE__COST_PRICED;
	r->cost_microusd += e->cost_microusd;
	if (e->cost_microusd)
		series_add(r->world->states[r->try.replica]->m_cost, (double)e->cost_microusd);
}

bool cost_expected(const struct req *r, int64_t *ret_microusd)
{
	int64_t tokens;

	return r->try.number && cost_is_cloud(r->world, r->try.replica) && cloud_estimate(&r->world->cat, r->try.replica, &r->features, ret_microusd, &tokens);
}

int64_t cost_most(const struct req *r, uint16_t replica, uint64_t prompt_tokens, uint64_t answer_tokens)
{
	struct price_pair p = prices_of(r, replica, wall_us());
	struct price_use use = { .prompt_tokens = (int64_t)prompt_tokens, .completion_tokens = (int64_t)answer_tokens };

	if (!p.tokens && cost_is_cloud(r->world, replica))
		return -1;
	if (p.tokens && p.tokens->cached_input > p.tokens->input)
		use.cached_prompt_tokens = use.prompt_tokens;
	if (r->deadline_us > req_now(r)) {
		int64_t left = r->deadline_us - req_now(r);

		use.gpu_us = left / slots_of(r, replica);
		use.energy_mj = atomic_load_explicit(&r->world->states[replica]->meter.most_uw, memory_order_relaxed) / 1000 * (left / 1000) / 1000;
	}
	return price_cost(p.tokens, p.machine, &use);
}

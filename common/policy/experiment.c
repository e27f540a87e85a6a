/* experiment.c - see experiment.h. */
#include "common/policy/experiment.h"

static const char *const unit_names[UNIT_KINDS] = { "user", "session", "conversation" };

const char *experiment_unit_name(enum experiment_unit u) { return u < UNIT_KINDS ? unit_names[u] : "unknown"; }

bool experiment_unit_parse(struct str word, enum experiment_unit *ret)
{
	for (int i = 0; i < UNIT_KINDS; i++)
		if (str_ieq(word, str_of(unit_names[i]))) {
			*ret = (enum experiment_unit)i;
			return true;
		}
	return false;
}

/* Uniform over 0 … n-1, but for one part in 2^32 / n. */
static uint32_t spread(struct sip_key key, struct str unit, uint32_t n)
{
	return (uint32_t)((siphash(key, unit) >> 32) * n >> 32);
}

static uint32_t weights(const struct experiment *e)
{
	uint64_t sum = 0;

	for (int i = 0; i < e->n_arms; i++)
		sum += e->arms[i].weight;
	return sum > UINT32_MAX ? 0 : (uint32_t)sum;
}

static uint16_t end_of(const struct experiment *e) { return e->end_slot ? e->end_slot : NAMESPACE_SLOTS; }

enum err experiment_prepare(struct experiment *e, struct why *why)
{
	struct str salt = e->salt.n ? e->salt : e->id;

	if (!e->id.n)
		return err_field(why, ERR_INVALID, "id", "an experiment needs an id");
	if (e->n_arms < 2 || e->n_arms > EXPERIMENT_ARMS)
		return err_field(why, ERR_INVALID, "arms", "an experiment has 2 to %d arms, not %d", EXPERIMENT_ARMS, e->n_arms);
	if (e->champion >= e->n_arms)
		return err_field(why, ERR_INVALID, "champion", "there is no arm %d", e->champion);
	if (!weights(e))
		return err_field(why, ERR_INVALID, "arms", "the weights of the arms add up to nothing, or to more than 4,294,967,295");
	if (e->traffic > TRAFFIC_ALL)
		return err_field(why, ERR_INVALID, "traffic", "no more than 100 %% of the traffic can take part");
	if (e->unit >= UNIT_KINDS || e->first_slot >= end_of(e) || end_of(e) > NAMESPACE_SLOTS)
		return err_field(why, ERR_INVALID, "namespace", "slots %u to %u are no part of a namespace of %d", e->first_slot, e->end_slot, NAMESPACE_SLOTS);
	e->slot_key = sip_key_of(e->space.n ? e->space : salt, e->space.n ? "namespace" : "own namespace");
	e->traffic_key = sip_key_of(salt, "traffic");
	e->arm_key = sip_key_of(salt, "arm");
	return ERR_OK;
}

static int arm_by_weight(const struct experiment *e, struct str unit)
{
	uint32_t at = spread(e->arm_key, unit, weights(e));
	int arm = 0;

	while (at >= e->arms[arm].weight)
		at -= e->arms[arm++].weight;
	return arm;
}

int experiment_arm_of(const struct experiment *e, struct str unit)
{
	uint32_t slot;

	if (!unit.n)
		return -1;
	slot = spread(e->slot_key, unit, NAMESPACE_SLOTS);
	if (slot < e->first_slot || slot >= end_of(e) || spread(e->traffic_key, unit, TRAFFIC_ALL) >= e->traffic)
		return -1;
	return e->shadow ? e->champion : arm_by_weight(e, unit);
}

int experiment_shadow_of(const struct experiment *e, struct str unit)
{
	uint32_t rest = weights(e) - e->arms[e->champion].weight, at = rest ? spread(e->arm_key, unit, rest) : 0;

	for (int i = 0; e->shadow && rest && i < e->n_arms; i++) {
		if (i == e->champion)
			continue;
		if (at < e->arms[i].weight)
			return i;
		at -= e->arms[i].weight;
	}
	return -1;
}

static bool meets(struct str wanted, struct str has) { return !wanted.n || str_ieq(wanted, has); }

struct assignment experiment_assign(const struct experiment_view *v, const struct experiment_request *r)
{
	for (uint32_t i = 0; i < v->n; i++) {
		const struct experiment *e = &v->at[i];
		int arm;

		if (!meets(e->task, r->task) || !meets(e->language, r->language) || !meets(e->tenant, r->tenant))
			continue;
		arm = experiment_arm_of(e, r->unit[e->unit]);
		if (arm >= 0)
			return (struct assignment){ (int)i, arm };
	}
	return (struct assignment){ -1, -1 };
}

/* Of the others in the namespace, one that has a slot of [first, first + slots); NULL = all are free. */
static const struct experiment *in_the_way(const struct experiment *e, uint32_t first, uint32_t slots, const struct experiment_view *others)
{
	for (uint32_t i = 0; i < others->n; i++) {
		const struct experiment *o = &others->at[i];

		if (str_eq(o->space, e->space) && !str_eq(o->id, e->id) && o->first_slot < first + slots && first < end_of(o))
			return o;
	}
	return NULL;
}

static enum err same_unit(const struct experiment *e, const struct experiment_view *others, struct why *why)
{
	for (uint32_t i = 0; i < others->n; i++) {
		const struct experiment *o = &others->at[i];

		if (str_eq(o->space, e->space) && !str_eq(o->id, e->id) && o->unit != e->unit)
			return err_field(why, ERR_CONFLICT, "unit", "experiment '" STR_FMT "' of the namespace '" STR_FMT "' goes by %s; by %s the two would overlap",
					 STR_ARG(o->id), STR_ARG(o->space), experiment_unit_name(o->unit), experiment_unit_name(e->unit));
	}
	return ERR_OK;
}

enum err experiment_claim(struct experiment *e, uint16_t slots, const struct experiment_view *others, struct why *why)
{
	const struct experiment *o;
	uint32_t first = 0;
	enum err err = ERR_OK;

	if (!slots || slots > NAMESPACE_SLOTS)
		return err_field(why, ERR_INVALID, "namespace", "a part of a namespace has 1 to %d slots", NAMESPACE_SLOTS);
	if (e->space.n && (err = same_unit(e, others, why)))
		return err;
	while (e->space.n && (o = in_the_way(e, first, slots, others)))
		first = end_of(o);
	if (first + slots > NAMESPACE_SLOTS)
		return err_field(why, ERR_CONFLICT, "namespace", "the experiments of the namespace '" STR_FMT "' leave no %u slots of %d free",
				 STR_ARG(e->space), slots, NAMESPACE_SLOTS);
	e->first_slot = (uint16_t)first;
	e->end_slot = (uint16_t)(first + slots);
	return ERR_OK;
}

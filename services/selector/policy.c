/* policy.c - the policy in force: weights by complexity, and the speeds that the ledger measured. Published when it changes. */
#include <math.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/selector/selector.h"

/* Weights of quality, latency and cost. The first match wins; "" matches all. Simple questions are not worth a wait for a big model;
 * complex ones are. */
static const struct { const char *task, *complexity; double quality, latency, cost; } rules[] = {
	{ "", "SIMPLE", 0.40, 0.45, 0.15 },
	{ "", "COMPLEX", 0.80, 0.15, 0.05 },
	{ "", "", 0.60, 0.30, 0.10 },
};
enum { N_RULES = sizeof(rules) / sizeof(*rules) };

/* Two digits: a policy that changes with every sample would be published with every sample. */
static double coarse(double v)
{
	double unit;

	if (v <= 0)
		return 0;
	unit = pow(10, floor(log10(v)) - 1);
	return round(v / unit) * unit;
}

static void pack(struct selector *s, const Corral__SpeedsReply *speeds, struct buf *out)
{
	Corral__PolicySnapshot p = CORRAL__POLICY_SNAPSHOT__INIT;
	struct arena *mem = arena_new(4096);
	size_t n;

	p.mode = (char *)"rules";
	p.switch_margin = s->cfg->switch_margin;
	p.outcomes = 0;                   /* not part of the policy's identity under rules */
	cloud_policy(s, mem, &p);
	p.rules = arena_array(mem, Corral__Rule *, N_RULES);
	for (p.n_rules = 0; p.n_rules < N_RULES; p.n_rules++) {
		Corral__Rule *r = p.rules[p.n_rules] = arena_new_of(mem, Corral__Rule);

		corral__rule__init(r);
		r->task_type = (char *)rules[p.n_rules].task;
		r->complexity = (char *)rules[p.n_rules].complexity;
		r->quality = rules[p.n_rules].quality;
		r->latency = rules[p.n_rules].latency;
		r->cost = rules[p.n_rules].cost;
	}
	p.speeds = arena_array(mem, Corral__Speed *, speeds ? speeds->n_rows : 0);
	for (size_t i = 0; speeds && i < speeds->n_rows; i++) {
		const Corral__SpeedRow *row = speeds->rows[i];
		Corral__Speed *v = p.speeds[p.n_speeds++] = arena_new_of(mem, Corral__Speed);

		corral__speed__init(v);
		v->model = row->model;
		v->backend = row->backend;
		v->tokens_per_s = coarse(row->tokens_per_s);
		v->ttft_ms = coarse(row->ttft_ms);
		v->samples = (uint64_t)coarse((double)row->samples);
		v->success_rate = round(row->success_rate * 100) / 100;
	}
	n = corral__policy_snapshot__get_packed_size(&p);
	buf_clear(out);
	buf_reserve(out, n);
	out->n = corral__policy_snapshot__pack(&p, (uint8_t *)out->p);
	arena_free(mem);
}

/* What Decide answers from: the policy over the catalogue in force. */
static void build_policy(struct selector *s)
{
	struct why why;

	arena_free(s->policy_mem);
	s->policy_mem = arena_new(8192);
	s->built = policy_build(&s->pol, s->policy_mem, &s->cat, s->policy_id.epoch, s->policy_id.version, buf_as_str(&s->policy), &why) == ERR_OK;
	if (!s->built)
		LOG_ERROR("the policy cannot be used", LOG_S("error", why.text));
	s->arms = (struct arms){ 0 };
	if (s->built && arms_build(&s->arms, s->policy_mem, s->experiments_id.epoch, s->experiments_id.version, buf_as_str(&s->experiments_bytes), &why) != ERR_OK)
		LOG_ERROR("experiments cannot be read; none is in force", LOG_S("error", why.text));
	else if (s->built && s->arms.pb && (s->arms.pb->n_experiments || s->arms.pb->n_champions))
		s->pol.arms = &s->arms;
}

void policy_experiments(struct selector *s, struct snapshot_id id, struct str bytes)
{
	buf_clear(&s->experiments_bytes);
	buf_str(&s->experiments_bytes, bytes);
	s->experiments_id = id;
	if (s->built)
		build_policy(s);
}

static void publish(struct selector *s, const Corral__SpeedsReply *speeds)
{
	struct buf now = { 0 };
	uint64_t version;

	pack(s, speeds, &now);
	if (s->policy.n == now.n && memcmp(s->policy.p, now.p, now.n) == 0) {
		buf_free(&now);
		return;
	}
	buf_free(&s->policy);
	s->policy = now;
	version = snapshot_publish(s->policy_pub, buf_as_str(&now));
	s->policy_id = (struct snapshot_id){ snapshot_pub_epoch(s->policy_pub), version };
	versions_note(&s->policies, s->policy_id, buf_as_str(&now));
	if (s->built)
		build_policy(s);
	series_set(metrics_series(svc_metrics(s->svc), M_POLICY_VERSION), (double)version);
	LOG_DEBUG("policy published", LOG_I("version", version), LOG_I("speeds", speeds ? speeds->n_rows : 0));
}

static void on_speeds(const Corral__SpeedsReply *reply, void *arg)
{
	struct selector *s = arg;

	if (reply)
		publish(s, reply);
	else if (!s->policy.n)
		publish(s, NULL);         /* rules work without measurements */
}

void policy_refresh(struct selector *s)
{
	Corral__SpeedsRequest q = CORRAL__SPEEDS_REQUEST__INIT;

	if (!s->policy.n)
		publish(s, NULL);
	cloud_measure(s);
	corral__usage_tracker__speeds(rpc_stub(s->ledger, &corral__usage_tracker__descriptor), &q, on_speeds, s);
}

void policy_rebuild(struct selector *s, struct snapshot_id id, struct str models)
{
	struct why why;

	arena_free(s->mem);
	s->mem = arena_new(8192);
	s->built = catalogue_build(&s->cat, s->mem, id.epoch, id.version, models, &why) == ERR_OK;
	if (s->built)
		build_policy(s);
	else
		LOG_ERROR("the model snapshot was not applied", LOG_S("error", why.text));
}

static const Corral__ReplicaLoad *load_at(const Corral__LoadVector *v, uint32_t replica)
{
	return v && replica >= v->first && replica - v->first < v->n_replicas ? v->replicas[replica - v->first] : NULL;
}

static struct load *load_of(struct selector *s, struct reach reach, const Corral__DecideRequest *q, struct arena *mem)
{
	struct load *l = arena_array(mem, struct load, reach.n + 1u);

	for (uint16_t i = 0; i < reach.n; i++) {
		const Corral__ReplicaLoad *r = load_at(q->load, reach.first + i);

		l[i] = r ? (struct load){ r->in_use, r->slots, r->queued, r->breaker_open } : (struct load){ .slots = s->cat.replicas[reach.first + i].slots };
	}
	return l;
}

static bool *tried_of(struct selector *s, const Corral__DecideRequest *q, struct arena *mem)
{
	bool *tried = q->n_tried ? arena_array(mem, bool, s->cat.n_replicas + 1u) : NULL;

	for (uint16_t i = 0; tried && i < s->cat.n_replicas && i < q->n_tried; i++)
		tried[i] = q->tried[i];
	return tried;
}

static bool may_decide(const struct selector *s, const Corral__DecideRequest *q, void *data)
{
	if (!s->built)
		rpc_fail(data, ERR_UNAVAILABLE, "no model snapshot yet");
	else if (!q->features)
		rpc_fail(data, ERR_MALFORMED, "features are missing");
	else if (q->models_epoch && (q->models_epoch != s->cat.epoch || q->models_version != s->cat.version))
		rpc_fail(data, ERR_CONFLICT, "the selector has another model snapshot");
	else
		return true;
	return false;
}

static void decide_one(struct selector *s, const Corral__DecideRequest *q, struct arena *mem, struct decision *d)
{
	bool alias = false;
	int model = q->features->is_auto ? -1 : catalogue_resolve(&s->cat, str_of(q->features->requested_model), &alias);

	if (model < 0 && !q->features->is_auto)
		*d = (struct decision){ .err = ERR_MODEL_NOT_FOUND, .reason = "asked" };
	else
		decide(d, mem, q->features, model, alias, &s->cat, &s->pol, load_of(s, decide_reach(q->features, model, &s->cat), q, mem), tried_of(s, q, mem));
}

static void on_decide(Corral__Selector_Service *rpc, const Corral__DecideRequest *q, Corral__DecideReply_Closure closure, void *data)
{
	struct selector *s = selector_of_rpc(rpc);
	Corral__DecideReply reply = CORRAL__DECIDE_REPLY__INIT;
	Corral__DecisionOutcome outcome;
	struct buf packed = { 0 };
	struct arena *mem;
	struct decision d;

	if (!may_decide(s, q, data))
		return;
	mem = arena_new(8192);
	decide_one(s, q, mem, &d);
	decision_explain(&d, q->features, &s->cat, mem, &outcome);
	decision_pack(&d, &packed);
	reply.outcome = &outcome;
	reply.models_version = s->cat.version;
	reply.policy_epoch = s->pol.epoch;
	reply.policy_version = s->pol.version;
	reply.experiments_epoch = s->pol.arms ? s->arms.epoch : 0;
	reply.experiments_version = s->pol.arms ? s->arms.version : 0;
	reply.decision = (ProtobufCBinaryData){ packed.n, (uint8_t *)packed.p };
	series_inc(metrics_series(svc_metrics(s->svc), M_DECIDED));
	closure(&reply, data);
	buf_free(&packed);
	arena_free(mem);
}

void policy_serve(struct selector *s) { s->rpc.decide = on_decide; }

/* decide.c - see decide.h.
 *
 * Quality under rules: the model's strength for the task when somebody stated one, else a prior from its size that grows with the
 * logarithm of the parameter count (scaling laws, Kaplan et al. 2020). Latency: load if cold + wait + first token + answer at measured
 * or assumed speed. Cost: parameters, as a stand-in for the energy of a token. Weights come from the policy, by task and complexity. */
#include "common/policy/decide.h"

#include <math.h>

#include "common/policy/authz.h"
#include "common/policy/caps.h"
#include "common/policy/cloud.h"

/* What is assumed until it was measured. */
enum { ASSUMED_TTFT_MS = 300, ASSUMED_ANSWER_TOKENS = 400, PATIENCE_S = 60 };
static const double assumed_load_s = 6.0, assumed_tokens_per_s_b = 120.0;      /* a 1B model; divided by billions of parameters */

const char *rule_name(enum rule r)
{
	static const char *const names[RULE_COUNT] = { "none", "not_asked", "backend_down", "breaker_open", "capability", "context",
						       "already_tried", "not_a_chat_model", "score", "local_only", "budget", "home_unknown",
						       "queue_full", "home_busy", "model_rests" };

	return r < RULE_COUNT ? names[r] : "none";
}

static void free_policy(void *p) { corral__policy_snapshot__free_unpacked(p, NULL); }

enum err policy_build(struct policy *p, struct arena *a, const struct catalogue *c, uint64_t epoch, uint64_t version, struct str packed,
		      struct why *why)
{
	*p = (struct policy){ .epoch = epoch, .version = version };
	p->speeds = arena_array(a, const Corral__Speed *, c->n_replicas + 1u);
	if (packed.n == 0)
		return ERR_OK;
	p->pb = corral__policy_snapshot__unpack(NULL, packed.n, (const uint8_t *)packed.p);
	if (!p->pb)
		return err_set(why, ERR_MALFORMED, "the policy snapshot cannot be decoded");
	arena_defer(a, free_policy, p->pb);
	for (size_t i = 0; i < p->pb->n_speeds; i++) {
		const Corral__Speed *s = p->pb->speeds[i];
		int m = catalogue_model(c, str_of(s->model));

		for (uint16_t r = 0; m >= 0 && r < c->models[m].n; r++)
			if (str_eqz(c->backends[c->replicas[c->models[m].first + r].backend].name, s->backend))
				p->speeds[c->models[m].first + r] = s;
	}
	return ERR_OK;
}

struct weights { double quality, latency, cost; };

static struct weights weights_for(const struct policy *p, const Corral__DecisionFeatures *f)
{
	struct weights w = { 0.6, 0.3, 0.1 };

	for (size_t i = 0; p->pb && i < p->pb->n_rules; i++) {
		const Corral__Rule *r = p->pb->rules[i];

		if ((!*r->task_type || strcmp(r->task_type, f->task_type) == 0) &&
		    (!*r->complexity || strcmp(r->complexity, f->complexity) == 0)) {
			w = (struct weights){ r->quality, r->latency, r->cost };
			break;
		}
	}
	if (strcmp(f->policy, "quality") == 0)
		w = (struct weights){ 0.90, 0.08, 0.02 };
	else if (strcmp(f->policy, "fast") == 0)
		w = (struct weights){ 0.30, 0.65, 0.05 };
	else if (strcmp(f->policy, "cheap") == 0)
		w = (struct weights){ 0.30, 0.15, 0.55 };
	return w;
}

static double billions(const struct cat_model *m) { return m->pb->parameter_count ? (double)m->pb->parameter_count / 1e9 : 7.0; }

static double quality_of(const struct cat_model *m, const Corral__DecisionFeatures *f)
{
	double b = billions(m), prior = 0.30 + 0.10 * log2(1.0 + b);
	double general = -1;

	if (prior > 0.85)
		prior = 0.85;
	for (size_t i = 0; i < m->pb->n_strengths; i++) {
		const Corral__Strength *s = m->pb->strengths[i];

		if (strcmp(s->task_type, f->task_type) == 0)
			return 0.25 * prior + 0.75 * s->score;
		if (!*s->task_type)
			general = s->score;
	}
	return general >= 0 ? 0.5 * prior + 0.5 * general : prior;
}

static double expected_seconds(const struct cat_replica *r, const struct cat_model *m, const Corral__Speed *s, const struct load *l,
			       const Corral__DecisionFeatures *f)
{
	double tps = s && s->tokens_per_s > 0 ? s->tokens_per_s : assumed_tokens_per_s_b / (billions(m) < 0.5 ? 0.5 : billions(m));
	double ttft = (s && s->ttft_ms > 0 ? s->ttft_ms : ASSUMED_TTFT_MS) / 1000.0;
	double load = r->pb->loaded ? 0 : s && s->load_ms > 0 ? s->load_ms / 1000.0 : assumed_load_s;
	double tokens = f->max_tokens > 0 && f->max_tokens < ASSUMED_ANSWER_TOKENS ? f->max_tokens : ASSUMED_ANSWER_TOKENS;
	double answer = ttft + tokens / tps;
	double slots = l->slots ? l->slots : 1;
	double ahead = l->in_use >= l->slots ? (l->queued + 1.0) / slots : 0;

	return load + ahead * answer + answer;
}

static bool is_chat(const struct cat_model *m) { return m->caps == 0 || (m->caps & LLM_CAP_COMPLETION); }

/* A model asked by name may do more than is known of it, but a chat model does not embed. Only an OpenAI-style server never says
 * which of the two its models are. */
static bool tells_kind(const struct cat_backend *b) { return strcmp(b->pb->kind, "openai") != 0; }

/* The first rule that a replica breaks, with its numbers. 'ours': the choice of this model is ours, nobody asked for it. */
static enum rule refuses(const Corral__DecisionFeatures *f, const struct catalogue *c, uint16_t i, const struct load *l, bool tried, bool ours,
			 struct rejected *why)
{
	const struct cat_replica *r = &c->replicas[i];
	const struct cat_model *m = &c->models[r->model];
	/* A model about which nothing is known may be able to; auto does not count on it. */
	uint32_t missing = m->caps || ours ? f->needs & ~(m->caps | LLM_CAP_COMPLETION) : 0;
	uint64_t tokens = (uint64_t)f->prompt_tokens + (ours && f->max_tokens ? f->max_tokens : 1);
	bool embed = f->needs & LLM_CAP_EMBEDDING, cloud = cloud_of(c, i);

	if (cloud && f->local_only)
		return RULE_LOCAL_ONLY;
	if (ours && !embed && !is_chat(m))
		return RULE_NOT_CHAT;
	if (cloud && embed)
		missing = LLM_CAP_EMBEDDING;
	if (missing && (ours || cloud || (embed && tells_kind(&c->backends[r->backend])))) {
		why->need = f->needs;
		why->have = missing;
		return RULE_CAPABILITY;
	}
	if (r->context && tokens > r->context && ours) {
		why->need = tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)tokens;
		why->have = r->context;
		return RULE_CONTEXT;
	}
	if (cloud && !cloud_affords(c, i, f, why))
		return RULE_BUDGET;
	if (!c->backends[r->backend].up)
		return RULE_BACKEND_DOWN;
	if (cloud && (ours || f->is_auto) && r->pb->cloud->rests_until_ms)     /* who names it is told by the provider when it is back */
		return RULE_MODEL_RESTS;
	if (tried)
		return RULE_TRIED;
	if (l->breaker_open)
		return RULE_BREAKER_OPEN;
	return RULE_NONE;
}

static void score(struct ranked *out, const Corral__DecisionFeatures *f, const struct catalogue *c, const struct policy *p,
		  const struct load *l, struct weights w)
{
	const struct cat_replica *r = &c->replicas[out->replica];
	const struct cat_model *m = &c->models[r->model];

	const Corral__Provider *cloud = cloud_of(c, out->replica);

	out->expected_s = cloud ? cloud_seconds(cloud, p->speeds[out->replica], l, f->max_tokens) : expected_seconds(r, m, p->speeds[out->replica], l, f);
	out->quality = cloud ? cloud_quality(c, out->replica) : quality_of(m, f);
	out->latency = 1.0 / (1.0 + out->expected_s / 10.0);
	out->cost = cloud ? cloud_cost(c, out->replica) : 1.0 / (1.0 + billions(m) / 30.0);
	out->score = w.quality * out->quality + w.latency * out->latency + w.cost * out->cost;
	if (out->expected_s > PATIENCE_S)         /* past what people wait for, no quality makes up for it */
		out->score *= PATIENCE_S / out->expected_s;
}

static bool before(const struct ranked *a, const struct ranked *b)
{
	return a->score > b->score || (a->score == b->score && a->replica < b->replica);
}

static void insert(struct decision *d, const struct ranked *r)
{
	uint16_t at = d->n_ranked++;

	while (at && before(r, &d->ranked[at - 1])) {
		d->ranked[at] = d->ranked[at - 1];
		at--;
	}
	d->ranked[at] = *r;
}

/* All of that model come first, in their order. False: none is there. */
static bool lead(struct decision *d, const struct catalogue *c, int m)
{
	uint16_t at = 0, to = 0;

	while (at < d->n_ranked && c->replicas[d->ranked[at].replica].model != m)
		at++;
	if (m < 0 || at == d->n_ranked)
		return false;
	for (uint16_t i = at; i < d->n_ranked; i++)
		if (c->replicas[d->ranked[i].replica].model == m) {
			struct ranked keep = d->ranked[i];

			memmove(&d->ranked[to + 1], &d->ranked[to], sizeof(keep) * (size_t)(i - to));
			d->ranked[to++] = keep;
		}
	return true;
}

/* What place_cloud() knows. */
enum { HOME_TRIES = 2 };              /* so many failed at home: the last try is the cloud's */
struct choosing {
	const Corral__DecisionFeatures *f;
	const struct catalogue *c;
	const struct policy *p;
	unsigned failed_at_home;
	enum cloud_wish wish;
};

/* All of the conversation's model come first, unless another is better by the margin. Nothing moves between the house and the cloud for that. */
static bool stay(struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, const struct policy *p)
{
	double margin = p->pb ? p->pb->switch_margin : 0.05;
	int m = *f->conversation_model ? catalogue_model(c, str_of(f->conversation_model)) : -1;
	uint16_t at = 0;

	if (m < 0 || !d->n_ranked)
		return false;
	while (at < d->n_ranked && c->replicas[d->ranked[at].replica].model != m)
		at++;
	if (at == d->n_ranked || !cloud_of(c, d->ranked[at].replica) != !cloud_of(c, d->ranked[0].replica) || (at && d->ranked[0].score - d->ranked[at].score > margin))
		return false;
	return lead(d, c, m);
}

/* --- arms --- */

static bool is_lasting(enum rule r) { return r == RULE_CAPABILITY || r == RULE_CONTEXT || r == RULE_NOT_CHAT || r == RULE_LOCAL_ONLY; }

/* Could it be served by that model, were all of its replicas up? The same for every arm's unit, whatever the moment. */
static bool may_serve(const struct decision *d, const struct catalogue *c, const char *model)
{
	int m = catalogue_model(c, str_of(model));

	for (uint16_t i = 0; m >= 0 && i < d->n_ranked; i++)
		if (c->replicas[d->ranked[i].replica].model == m)
			return true;
	for (uint16_t i = 0; m >= 0 && i < d->n_rejected; i++)
		if (c->replicas[d->rejected[i].replica].model == m && !is_lasting((enum rule)d->rejected[i].rule))
			return true;
	return false;
}

static bool is_on(const struct decision *d, const struct catalogue *c, const char *model)
{
	return d->n_ranked && strcmp(c->models[c->replicas[d->ranked[0].replica].model].pb->name, model) == 0;
}

/* Experiments on models are for auto; those on one model for what that model gets. */
static bool takes_part(const struct decision *d, const struct catalogue *c, const Corral__Experiment *e, bool one_model)
{
	if (one_model)
		return is_on(d, c, e->arms[0]->model);
	for (size_t i = 0; i < e->n_arms; i++)
		if (!may_serve(d, c, e->arms[i]->model))
			return false;
	return true;
}

static bool enrol(struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, const struct arms *x, bool one_model)
{
	for (size_t i = 0; x->pb && i < x->pb->n_experiments; i++) {
		const Corral__Experiment *e = x->pb->experiments[i];
		int arm = arms_of_one_model(e) == one_model && takes_part(d, c, e, one_model) ? arms_assign(x, i, f) : -1;

		if (arm < 0)
			continue;
		d->experiment = e->id;
		d->arm = e->arms[arm]->name;
		d->champion = false;
		if (!one_model)
			d->reason = lead(d, c, catalogue_model(c, str_of(e->arms[arm]->model))) ? "experiment" : "fallback";
		return true;
	}
	return false;
}

static bool crown(struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, const struct arms *x, bool one_model)
{
	for (size_t i = 0; x->pb && i < x->pb->n_champions; i++) {
		const Corral__Champion *h = x->pb->champions[i];

		if (!h->arm || h->of_one_model != one_model || !arms_filter(h->filter, f))
			continue;
		if (one_model ? !is_on(d, c, h->arm->model) : !lead(d, c, catalogue_model(c, str_of(h->arm->model))))
			continue;
		d->experiment = h->experiment_id;
		d->arm = h->arm->name;
		d->champion = true;
		if (!one_model)
			d->reason = "champion";
		return true;
	}
	return false;
}

/* Which model comes first: of the arm, of the champion, of the conversation; else the best. */
static void first_model(struct decision *d, const Corral__DecisionFeatures *f, int model, const struct catalogue *c, const struct policy *p)
{
	bool text = p->arms && !(f->needs & LLM_CAP_EMBEDDING), crowned;

	if (model < 0 && text && enrol(d, f, c, p->arms, false))
		return;
	crowned = model < 0 && text && crown(d, f, c, p->arms, false);
	if (model < 0 && !crowned && stay(d, f, c, p))
		d->reason = "sticky";
	if (text && !enrol(d, f, c, p->arms, true) && !crowned)
		(void)crown(d, f, c, p->arms, true);
}

/* A backend of the house that was never asked, and of which nothing is known from before; NULL: there is none. */
static const Corral__Backend *unknown_backend(const struct catalogue *c)
{
	for (uint16_t b = 0; b < c->n_backends; b++) {
		uint16_t r = 0;

		if (c->backends[b].pb->cloud || c->backends[b].pb->state != CORRAL__BACKEND_STATE__BACKEND_UNKNOWN)
			continue;
		while (r < c->n_replicas && c->replicas[r].backend != b)
			r++;
		if (r == c->n_replicas)
			return c->backends[b].pb;
	}
	return NULL;
}

/* Where nobody of the house can answer and some of it is not known yet, that is no reason to spend money: only what policy sends to the cloud goes there. */
static void hold_spares(struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, const struct policy *p)
{
	uint16_t n = 0;

	for (uint16_t i = 0; i < d->n_ranked; i++)
		if (!cloud_of(c, d->ranked[i].replica))
			return;
	if (!d->n_ranked || !unknown_backend(c))
		return;
	for (uint16_t i = 0; i < d->n_ranked; i++) {
		struct ranked r = d->ranked[i];

		if (cloud_preferred(p, f) && cloud_has_plenty(cloud_of(c, r.replica), p, f))
			d->ranked[n++] = r;
		else
			d->rejected[d->n_rejected++] = (struct rejected){ .replica = r.replica, .rule = RULE_HOME_UNKNOWN };
	}
	d->n_ranked = n;
}

static enum err verdict(const struct decision *d, int model, const struct catalogue *c)
{
	bool waits = false, context = false, here = model >= 0 && c->models[model].n && cloud_of(c, c->models[model].first);
	unsigned n = d->n_rejected;

	if (d->n_ranked)
		return ERR_OK;
	for (uint16_t i = 0; i < d->n_rejected; i++) {
		enum rule r = d->rejected[i].rule;

		waits |= r == RULE_BACKEND_DOWN || r == RULE_BREAKER_OPEN || r == RULE_TRIED || r == RULE_HOME_UNKNOWN || r == RULE_MODEL_RESTS ||
			 (r == RULE_BUDGET && !here);
		context |= r == RULE_CONTEXT;
		n -= r == RULE_LOCAL_ONLY && !here;
		if (here && (r == RULE_LOCAL_ONLY || r == RULE_BUDGET))        /* asked for by name, and one provider has it */
			return r == RULE_BUDGET ? ERR_BUDGET_SPENT : ERR_FORBIDDEN;
	}
	if (waits || (!n && model < 0))
		return ERR_UNAVAILABLE;
	if (!n)
		return ERR_MODEL_NOT_FOUND;
	return context ? ERR_CONTEXT_TOO_LONG : ERR_NO_MODEL_FITS;
}

static double confidence_of(const struct decision *d, const struct catalogue *c)
{
	for (uint16_t i = 1; i < d->n_ranked; i++)
		if (c->replicas[d->ranked[i].replica].model != c->replicas[d->ranked[0].replica].model) {
			double lead = (d->ranked[0].score - d->ranked[i].score) * 5.0;

			return lead > 1 ? 1 : lead < 0 ? 0 : 0.5 + lead / 2;
		}
	return d->n_ranked ? 1.0 : 0.0;
}

/* What a key or its tenant may not see is as if it was not there: not ranked, not rejected, not counted. */
static bool visible(const void *asker, struct str model)
{
	const Corral__DecisionFeatures *f = asker;

	return models_allow(f->key_models, f->n_key_models, model) && models_allow(f->tenant_models, f->n_tenant_models, model);
}

static bool is_narrow(const Corral__DecisionFeatures *f) { return f->n_key_models || f->n_tenant_models; }

/* A model of the house was asked for by name, and the cloud may answer where it cannot. */
static bool may_leave(const Corral__DecisionFeatures *f, int model, const struct catalogue *c)
{
	return model >= 0 && f->named_may_leave && c->models[model].n && !cloud_of(c, c->models[model].first);
}

/* Where nothing is hidden, DECIDE_MAX are met in the first ones. */
struct reach decide_reach(const Corral__DecisionFeatures *f, int model, const struct catalogue *c)
{
	struct reach r = { 0, c->n_replicas };

	if (model >= 0 && !may_leave(f, model, c))
		r = (struct reach){ c->models[model].first, c->models[model].n };
	if (!is_narrow(f) && r.n > DECIDE_MAX)
		r.n = DECIDE_MAX;
	return r;
}

/* 0: before the models of the house; 1: they; 2: behind them. */
static unsigned tier(const struct ranked *r, const struct choosing *ch)
{
	const Corral__Provider *p = cloud_of(ch->c, r->replica);

	if (!p)
		return 1;
	return ch->failed_at_home >= HOME_TRIES || (ch->wish != CLOUD_SPARE && cloud_has_plenty(p, ch->p, ch->f)) ? 0 : 2;
}

/* By tiers, and as ranked inside them. */
static void by_tier(struct decision *d, const struct choosing *ch)
{
	for (uint16_t i = 1; i < d->n_ranked; i++) {
		struct ranked r = d->ranked[i];
		unsigned t = tier(&r, ch);
		uint16_t at = i;

		for (; at && tier(&d->ranked[at - 1], ch) > t; at--)
			d->ranked[at] = d->ranked[at - 1];
		d->ranked[at] = r;
	}
}

/* Where the models of the cloud stand among those of the house, and what that is called. */
static void place_cloud(struct decision *d, const Corral__DecisionFeatures *f, int model, const struct catalogue *c, const struct policy *p, const bool *tried)
{
	struct choosing ch = { f, c, p, 0, CLOUD_SPARE };
	const struct ranked *home = NULL;

	for (uint16_t i = 0; !home && i < d->n_ranked; i++)
		home = cloud_of(c, d->ranked[i].replica) ? NULL : &d->ranked[i];
	for (uint16_t i = 0; tried && i < c->n_replicas; i++)
		ch.failed_at_home += tried[i] && !cloud_of(c, i);
	if (home && model < 0)
		ch.wish = cloud_wish(c, p, f, c->replicas[home->replica].model);
	by_tier(d, &ch);
	if (d->n_ranked && cloud_of(c, d->ranked[0].replica) && c->replicas[d->ranked[0].replica].model != model &&
	    (!home || ch.failed_at_home || ch.wish == CLOUD_BY_QUALITY))
		d->reason = "fallback";
}

static void look_at(struct decision *d, uint16_t i, const Corral__DecisionFeatures *f, int model, const struct catalogue *c, const struct policy *p,
		    const struct load *l, bool tried)
{
	bool ours = f->is_auto || (model >= 0 && c->replicas[i].model != model);
	struct rejected no = { .replica = i };
	struct ranked r = { .replica = i };

	no.rule = (uint8_t)refuses(f, c, i, l, tried, ours, &no);
	if (no.rule != RULE_NONE) {
		d->rejected[d->n_rejected++] = no;
		return;
	}
	score(&r, f, c, p, l, weights_for(p, f));
	insert(d, &r);
}

void decide(struct decision *d, struct arena *a, const Corral__DecisionFeatures *f, int model, bool alias, const struct catalogue *c,
	    const struct policy *p, const struct load *load, const bool *tried)
{
	struct reach reach = decide_reach(f, model, c);
	uint16_t first = reach.first, n = reach.n;
	bool narrow = is_narrow(f), seen = true, leaves = may_leave(f, model, c);
	unsigned hidden = 0;

	*d = (struct decision){ .reason = model < 0 ? "rules" : alias ? "alias" : "asked" };
	d->ranked = arena_alloc(a, sizeof(*d->ranked) * ((n > DECIDE_MAX ? DECIDE_MAX : n) + 1u));
	d->rejected = arena_alloc(a, sizeof(*d->rejected) * ((n > DECIDE_MAX ? DECIDE_MAX : n) + 1u));
	d->n_left_out = (uint16_t)((model >= 0 && !leaves ? c->models[model].n : c->n_replicas) - n);
	for (uint16_t i = first; i < first + n; i++) {
		if (narrow && (i == first || c->replicas[i].model != c->replicas[i - 1].model))
			seen = visible(f, c->models[c->replicas[i].model].name);
		if (!seen || (leaves && c->replicas[i].model != model && !cloud_of(c, i))) {
			hidden++;
			continue;
		}
		if (d->n_ranked + d->n_rejected == DECIDE_MAX)
			d->n_left_out++;
		else
			look_at(d, i, f, model, c, p, &load[i - first], tried && tried[i]);
	}
	if (model < 0)
		hold_spares(d, f, c, p);
	d->err = hidden && hidden == n ? ERR_MODEL_NOT_FOUND : verdict(d, model, c);
	place_cloud(d, f, model, c, p, tried);
	first_model(d, f, model, c, p);
	d->confidence = confidence_of(d, c);
}

static bool is_among(const uint16_t *models, size_t n, uint16_t model)
{
	while (n && models[n - 1] != model)
		n--;
	return n > 0;
}

void decision_pass(struct decision *d, const struct catalogue *c, const uint16_t *full, size_t n)
{
	bool busy = false, led = d->n_ranked && is_among(full, n, c->replicas[d->ranked[0].replica].model);
	uint16_t kept = 0;

	for (uint16_t i = 0; i < d->n_ranked; i++) {
		struct ranked r = d->ranked[i];
		bool cloud = cloud_of(c, r.replica), no_place = is_among(full, n, c->replicas[r.replica].model);

		busy |= no_place && !cloud;
		if (no_place || (cloud && busy))
			d->rejected[d->n_rejected++] = (struct rejected){ .replica = r.replica, .rule = no_place ? RULE_QUEUE_FULL : RULE_HOME_BUSY };
		else
			d->ranked[kept++] = r;
	}
	if (kept == d->n_ranked)
		return;
	d->n_ranked = kept;
	d->err = kept ? ERR_OK : ERR_QUEUE_FULL;
	d->reason = led && kept ? "fallback" : d->reason;
	d->confidence = confidence_of(d, c);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the decision log is written in host order");

/* err, reason with its end, confidence, how many were left out; how many are ranked, rejected. Of an arm: whether it is a champion's, experiment, arm. */
enum { RANKED_BYTES = 2 + 5 * 8, REJECTED_BYTES = 2 + 1 + 2 * 4 };

size_t decision_packed_size(const struct decision *d)
{
	size_t arm = d->experiment ? 1 + strlen(d->experiment) + 1 + strlen(d->arm) + 1 : 0;

	return 1 + strlen(d->reason) + 1 + 8 + 2 + 2 + (size_t)d->n_ranked * RANKED_BYTES + 2 + (size_t)d->n_rejected * REJECTED_BYTES + arm;
}

static char *put(char *p, const void *from, size_t n) { return (char *)memcpy(p, from, n) + n; }

static char *put_ranked(char *p, const struct ranked *r)
{
	p = put(p, &r->replica, 2);
	p = put(p, &r->score, 8);
	p = put(p, &r->quality, 8);
	p = put(p, &r->latency, 8);
	p = put(p, &r->cost, 8);
	return put(p, &r->expected_s, 8);
}

static char *put_rejected(char *p, const struct rejected *r)
{
	p = put(p, &r->replica, 2);
	p = put(p, &r->rule, 1);
	p = put(p, &r->need, 4);
	return put(p, &r->have, 4);
}

void decision_pack(const struct decision *d, struct buf *out)
{
	uint8_t e = (uint8_t)d->err;
	char *p;

	buf_reserve(out, decision_packed_size(d));
	p = put(out->p + out->n, &e, 1);
	p = put(p, d->reason, strlen(d->reason) + 1);
	p = put(p, &d->confidence, 8);
	p = put(p, &d->n_left_out, 2);
	p = put(p, &d->n_ranked, 2);
	for (uint16_t i = 0; i < d->n_ranked; i++)
		p = put_ranked(p, &d->ranked[i]);
	p = put(p, &d->n_rejected, 2);
	for (uint16_t i = 0; i < d->n_rejected; i++)
		p = put_rejected(p, &d->rejected[i]);
	if (d->experiment) {
		p = put(p, &d->champion, 1);
		p = put(p, d->experiment, strlen(d->experiment) + 1);
		p = put(p, d->arm, strlen(d->arm) + 1);
	}
	out->n = (size_t)(p - out->p);
}

static bool take(struct str *from, void *to, size_t n)
{
	if (from->n < n)
		return false;
	memcpy(to, from->p, n);
	*from = str_from(*from, n);
	return true;
}

static bool take_text(struct str *from, struct arena *a, const char **ret)
{
	const char *end = from->n ? memchr(from->p, 0, from->n) : NULL;

	if (!end)
		return false;
	*ret = arena_dup(a, from->p, (size_t)(end - from->p));
	*from = str_from(*from, (size_t)(end - from->p) + 1);
	return true;
}

static bool take_ranked(struct str *from, struct ranked *r, uint16_t n_replicas)
{
	return take(from, &r->replica, 2) && take(from, &r->score, 8) && take(from, &r->quality, 8) && take(from, &r->latency, 8) &&
	       take(from, &r->cost, 8) && take(from, &r->expected_s, 8) && r->replica < n_replicas;
}

static bool take_rejected(struct str *from, struct rejected *r, uint16_t n_replicas)
{
	return take(from, &r->replica, 2) && take(from, &r->rule, 1) && take(from, &r->need, 4) && take(from, &r->have, 4) &&
	       r->replica < n_replicas && r->rule < RULE_COUNT;
}

static bool take_arm(struct str *from, struct arena *a, struct decision *d)
{
	uint8_t champion;

	if (!from->n)
		return true;
	if (!take(from, &champion, 1) || champion > 1 || !take_text(from, a, &d->experiment) || !take_text(from, a, &d->arm))
		return false;
	d->champion = champion;
	return true;
}

/* Nothing fits, or there is somewhere to go: one of the two. */
static bool makes_sense(const struct decision *d) { return (d->err == ERR_OK) == (d->n_ranked > 0); }

bool decision_unpack(struct decision *d, struct arena *a, struct str from, uint16_t n_replicas)
{
	uint8_t e;
	bool ok;

	*d = (struct decision){ 0 };
	ok = take(&from, &e, 1) && e < ERR_COUNT && take_text(&from, a, &d->reason) && take(&from, &d->confidence, 8) && take(&from, &d->n_left_out, 2) &&
	     take(&from, &d->n_ranked, 2) && d->n_ranked <= DECIDE_MAX;
	if (!ok)
		return false;
	d->err = (enum err)e;
	d->ranked = arena_array(a, struct ranked, d->n_ranked + 1u);
	for (uint16_t i = 0; ok && i < d->n_ranked; i++)
		ok = take_ranked(&from, &d->ranked[i], n_replicas);
	ok = ok && take(&from, &d->n_rejected, 2) && d->n_rejected <= DECIDE_MAX;
	if (!ok)
		return false;
	d->rejected = arena_array(a, struct rejected, (size_t)d->n_rejected + d->n_ranked + 1u);      /* decision_pass() may move those there */
	for (uint16_t i = 0; ok && i < d->n_rejected; i++)
		ok = take_rejected(&from, &d->rejected[i], n_replicas);
	return ok && take_arm(&from, a, d) && from.n == 0 && makes_sense(d);
}

static const char *cap_words(uint32_t bits, struct arena *a)
{
	struct str words = STR("");

	for (uint32_t bit = 1; bit && bit <= bits; bit <<= 1)
		if ((bits & bit) && llm_cap_name(bit))
			words = arena_fmt(a, STR_FMT "%s%s", STR_ARG(words), words.n ? ", " : "", llm_cap_name(bit));
	return words.p;
}

static const char *budget_text(const struct rejected *r, const struct catalogue *c, struct arena *a)
{
	const Corral__Provider *p = cloud_of(c, r->replica);

	if (*p->why)
		return p->why;
	if (!r->need)
		return arena_printf(a, "%s has a budget of money, and what this model costs is not known (corral prices set says it)", p->name);
	if (p->budget_left_tokens >= 0 && r->have == (uint32_t)p->budget_left_tokens)
		return arena_printf(a, "the request may need %u tokens, %s has %u left", r->need, p->name, r->have);
	return arena_printf(a, "the request may cost %.6f USD, %s has %.6f left", r->need / 1e6, p->name, r->have / 1e6);
}

static const char *rejected_text(const struct rejected *r, const struct catalogue *c, struct arena *a)
{
	const struct cat_backend *b = &c->backends[c->replicas[r->replica].backend];

	switch ((enum rule)r->rule) {
	case RULE_LOCAL_ONLY:
		return "it is in the cloud, and the request, its key or its tenant is to stay local";
	case RULE_BUDGET:
		return budget_text(r, c, a);
	case RULE_BACKEND_DOWN:
		if (b->pb->cloud)
			return arena_printf(a, "provider '%s' is not ready: %s", b->pb->name, *b->pb->reason ? b->pb->reason : "it does not say why");
		return arena_printf(a, "backend '%s' is down: %s", b->pb->name, *b->pb->reason ? b->pb->reason : "it does not answer");
	case RULE_MODEL_RESTS:
		return c->replicas[r->replica].pb->cloud->rests_why;
	case RULE_BREAKER_OPEN:
		return "it failed repeatedly and rests";
	case RULE_CAPABILITY:
		return arena_printf(a, "the request needs %s", cap_words(r->have, a));
	case RULE_CONTEXT:
		return arena_printf(a, "the request needs a context of %u tokens, this one has %u", r->need, r->have);
	case RULE_TRIED:
		return "it was tried for this request and failed";
	case RULE_NOT_CHAT:
		return "it does not generate text";
	case RULE_QUEUE_FULL:
		return "all its slots are taken and its queue is full";
	case RULE_HOME_BUSY:
		return "it is the spare of what no local model can answer, and one that can is only busy";
	case RULE_HOME_UNKNOWN:
		return "it is the spare of what no local model can answer, and that is not known yet";
	default:
		return rule_name((enum rule)r->rule);
	}
}

static void no_model_text(const struct decision *d, const Corral__DecisionFeatures *f, struct arena *a, const struct catalogue *c, struct why *why)
{
	uint32_t best = 0, missing = 0;

	for (uint16_t i = 0; i < d->n_rejected; i++) {
		if (d->rejected[i].rule == RULE_CONTEXT && d->rejected[i].have > best)
			best = d->rejected[i].have;
		if (d->rejected[i].rule == RULE_CAPABILITY)
			missing |= d->rejected[i].have;
	}
	if (d->err == ERR_CONTEXT_TOO_LONG)
		err_field(why, d->err, "messages",
			  "the request needs a context of about %u tokens; the longest available that fits otherwise has %u",
			  f->prompt_tokens + f->max_tokens, best);
	else if (missing && !f->is_auto)
		err_field(why, d->err, "model", "model '%s' cannot do what the request needs: %s", f->requested_model, cap_words(missing, a));
	else if (missing)
		err_set(why, d->err, "no available model has what the request needs: %s", cap_words(missing, a));
	else
		err_set(why, d->err, "none of the %u available models generates text", c->n_models);
}

/* What the house has, of what was looked at: "local models are down". */
static const char *home_text(const struct decision *d, const struct catalogue *c, struct arena *a)
{
	const struct rejected *first = NULL;
	bool down = true;

	for (uint16_t i = 0; i < d->n_rejected; i++) {
		const struct rejected *r = &d->rejected[i];

		if (cloud_of(c, r->replica))
			continue;
		first = first ? first : r;
		down &= r->rule == RULE_BACKEND_DOWN || r->rule == RULE_BREAKER_OPEN || r->rule == RULE_TRIED;
	}
	if (!first)
		return "there is no local model";
	return down ? "local models are down" : arena_printf(a, "no local model can answer ('%s': %s)", c->replicas[first->replica].pb->model, rejected_text(first, c, a));
}

static bool said_before(const struct decision *d, const struct catalogue *c, uint16_t at)
{
	for (uint16_t i = 0; i < at; i++)
		if (c->replicas[d->rejected[i].replica].backend == c->replicas[d->rejected[at].replica].backend)
			return true;
	return false;
}

/* Why each provider cannot stand in, of the first of its models; "" where none was looked at. */
static const char *cloud_text(const struct decision *d, const struct catalogue *c, struct arena *a)
{
	struct str text = STR("");

	for (uint16_t i = 0; i < d->n_rejected; i++) {
		const struct rejected *r = &d->rejected[i];
		const char *name;
		bool named = r->rule == RULE_BUDGET || r->rule == RULE_BACKEND_DOWN || r->rule == RULE_MODEL_RESTS;

		if (!cloud_of(c, r->replica) || said_before(d, c, i))
			continue;
		if (r->rule == RULE_LOCAL_ONLY)
			return " and the request, its key or its tenant is to stay local";
		name = c->backends[c->replicas[r->replica].backend].pb->name;
		text = arena_fmt(a, STR_FMT "%s%s%s%s", STR_ARG(text), text.n ? "; " : " and ", named ? "" : name, named ? "" : ": ", rejected_text(r, c, a));
	}
	return text.p;
}

static bool home_unknown(const struct decision *d)
{
	for (uint16_t i = 0; i < d->n_rejected; i++)
		if (d->rejected[i].rule == RULE_HOME_UNKNOWN)
			return true;
	return false;
}

static void unavailable_text(const struct decision *d, const struct catalogue *c, struct arena *a, struct why *why)
{
	const char *cloud = cloud_text(d, c, a);
	const Corral__Backend *unknown = home_unknown(d) ? unknown_backend(c) : NULL;

	if (unknown)
		err_set(why, d->err, "what backend '%s' has is not known yet, and the cloud answers what no local model can; try again", unknown->name);
	else if (!d->n_rejected)
		err_set(why, d->err, "no backend has a model yet; configure one with CORRAL_BACKENDS, or see GET /backends");
	else if (d->n_rejected == 1)
		err_set(why, d->err, "model '%s' cannot be served now: %s", c->replicas[d->rejected[0].replica].pb->model,
			rejected_text(&d->rejected[0], c, a));
	else if (*cloud)
		err_set(why, d->err, "%s%s", home_text(d, c, a), cloud);
	else
		err_set(why, d->err, "none of %u replicas can serve this now; the first, '%s' on '%s': %s", d->n_rejected,
			c->replicas[d->rejected[0].replica].pb->model, c->replicas[d->rejected[0].replica].pb->backend,
			rejected_text(&d->rejected[0], c, a));
}

void decision_why(const struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, struct why *why)
{
	struct arena *a = arena_new(1024);

	if (d->err == ERR_OK)
		err_set(why, ERR_OK, "%s", "");
	else if (d->err == ERR_MODEL_NOT_FOUND && f->is_auto)
		err_field(why, d->err, "model", "no model is there that this key may use; GET /models lists those that it may");
	else if (d->err == ERR_MODEL_NOT_FOUND)
		catalogue_not_found(c, str_of(f->requested_model), visible, f, why);
	else if (d->err == ERR_BUDGET_SPENT || d->err == ERR_FORBIDDEN)
		err_field(why, d->err, "model", "model '%s' cannot be used: %s", c->replicas[d->rejected[0].replica].pb->model, rejected_text(&d->rejected[0], c, a));
	else if (d->err == ERR_UNAVAILABLE)
		unavailable_text(d, c, a, why);
	else if (d->err == ERR_QUEUE_FULL)
		err_set(why, d->err, "all slots are taken and the queues are full, of every model that could answer this; try again");
	else
		no_model_text(d, f, a, c, why);
	arena_free(a);
}

static Corral__Candidate *candidate(const struct ranked *r, const struct catalogue *c, struct arena *a)
{
	Corral__Candidate *out = arena_alloc(a, sizeof(*out));

	corral__candidate__init(out);
	out->model = c->replicas[r->replica].pb->model;
	out->backend = c->replicas[r->replica].pb->backend;
	out->score = r->score;
	out->quality = r->quality;
	out->latency = r->latency;
	out->cost = r->cost;
	out->load = r->expected_s;
	out->warmth = c->replicas[r->replica].pb->loaded;
	out->context = c->replicas[r->replica].context;
	return out;
}

/* The term in which a lower-ranked replica lost most. */
static const char *lost_text(const struct ranked *r, const struct ranked *best, const struct catalogue *c, const char *reason, struct arena *a)
{
	bool cloud = cloud_of(c, r->replica), best_cloud = cloud_of(c, best->replica);
	double q = best->quality - r->quality, l = best->latency - r->latency, co = best->cost - r->cost;
	const char *term = q >= l && q >= co ? "expected quality" : l >= co ? "expected latency" : "cost";

	if (cloud && !best_cloud)
		return arena_printf(a, "scored %.3f; the cloud is the spare here, for when no local model answers", r->score);
	if (!cloud && best_cloud)
		return arena_printf(a, "scored %.3f; the cloud is preferred for this request (%s)", r->score, reason);
	if (r->score > best->score && strcmp(reason, "sticky") != 0)
		return arena_printf(a, "scored %.3f, above %.3f, but another was given to the request (%s)", r->score, best->score, reason);
	if (r->score > best->score)
		return arena_printf(a, "scored %.3f, above %.3f, but the conversation stays with its model (%s)", r->score, best->score, reason);
	return arena_printf(a, "scored %.3f against %.3f; lost most on %s", r->score, best->score, term);
}

static Corral__Rejected *lost(const char *model, const char *backend, const char *rule, const char *text, struct arena *a)
{
	Corral__Rejected *out = arena_alloc(a, sizeof(*out));

	corral__rejected__init(out);
	out->model = (char *)model;
	out->backend = (char *)backend;
	out->rule = (char *)rule;
	out->text = (char *)text;
	return out;
}

void decision_explain(const struct decision *d, const Corral__DecisionFeatures *f, const struct catalogue *c, struct arena *a,
		      Corral__DecisionOutcome *o)
{
	size_t n_lost = 0;
	struct why why = { 0 };

	corral__decision_outcome__init(o);
	o->candidates = arena_array(a, Corral__Candidate *, d->n_ranked + 1u);
	o->rejected = arena_array(a, Corral__Rejected *, d->n_ranked + d->n_rejected + 1u);
	for (uint16_t i = 0; i < d->n_ranked; i++) {
		const Corral__Replica *pb = c->replicas[d->ranked[i].replica].pb;

		o->candidates[o->n_candidates++] = candidate(&d->ranked[i], c, a);
		if (i)
			o->rejected[n_lost++] = lost(pb->model, pb->backend, rule_name(RULE_SCORE),
						     lost_text(&d->ranked[i], &d->ranked[0], c, d->reason, a), a);
	}
	for (uint16_t i = 0; i < d->n_rejected; i++) {
		const Corral__Replica *pb = c->replicas[d->rejected[i].replica].pb;

		o->rejected[n_lost++] = lost(pb->model, pb->backend, rule_name((enum rule)d->rejected[i].rule),
					     rejected_text(&d->rejected[i], c, a), a);
	}
	o->n_rejected = n_lost;
	o->reason = (char *)d->reason;
	o->err = d->err;
	o->confidence = d->confidence;
	o->experiment_id = (char *)(d->experiment ? d->experiment : "");
	o->arm = (char *)(d->arm ? d->arm : "");
	o->champion = d->champion;
	decision_why(d, f, c, &why);
	o->text = arena_dup(a, why.text, strlen(why.text));
}

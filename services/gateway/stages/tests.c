/* tests.c - /tests: experiments, asked of ab-testing, which owns them and checks the rights again. docs/experiments.md. */
#include "common/data/json_write.h"
#include "common/policy/cloud.h"
#include "experiments.pb-c.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/asked.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/trail.h"

struct tests_ask {
	Corral__Caller caller;
	Corral__CreateExperimentRequest create;
	Corral__ExperimentRequest one;
	Corral__ListExperimentsRequest list;
	Corral__ChangeExperimentRequest change;
	Corral__Experiment experiment;
	Corral__ExperimentFilter filter;
};

static struct tests_ask *begin(struct req *r, struct ask **ret_ask, void (*call)(struct ask *))
{
	struct ask *a = *ret_ask = ask_new(r, call);
	struct tests_ask *q = arena_new_of(a->mem, struct tests_ask);

	asked_by(r, a, &q->caller);
	corral__create_experiment_request__init(&q->create), q->create.caller = &q->caller, q->create.experiment = &q->experiment;
	corral__experiment_request__init(&q->one), q->one.caller = &q->caller;
	corral__list_experiments_request__init(&q->list), q->list.caller = &q->caller;
	corral__change_experiment_request__init(&q->change), q->change.caller = &q->caller;
	corral__experiment__init(&q->experiment), q->experiment.filter = &q->filter;
	corral__experiment_filter__init(&q->filter);
	a->query = q;
	return q;
}

static struct tests_ask *of(struct ask *a) { return a->query; }
static ProtobufCService *experiments_of(struct ask *a) { return rpc_stub(a->gw->experiments, &corral__experiments__descriptor); }

/* --- out --- */

static const char *const states[] = { "running", "paused", "stopped", "promoted", "rolled_back" };

static const char *state_name(Corral__ExperimentState s) { return (unsigned)s < sizeof(states) / sizeof(*states) ? states[s] : "unknown"; }

static void word_or_null(struct json_out *jo, const char *key, const char *z) { jw_kv_strz(jo, key, *z ? z : NULL); }

static void arm_json(struct json_out *jo, const Corral__ExperimentArm *a)
{
	jw_obj(jo);
	jw_kv_strz(jo, "name", a->name);
	jw_kv_strz(jo, "model", a->model);
	jw_kv_u64(jo, "weight", a->weight);
	jw_kv_raw(jo, "parameters", *a->parameters ? str_of(a->parameters) : STR("{}"));
	word_or_null(jo, "prompt_template", a->prompt_template);
	jw_end(jo);
}

static void filter_members(struct json_out *jo, const Corral__ExperimentFilter *f)
{
	word_or_null(jo, "task_type_filter", f ? f->task_type : "");
	word_or_null(jo, "language_filter", f ? f->language : "");
	word_or_null(jo, "tenant_filter", f ? f->tenant : "");
}

static void experiment_members(struct json_out *jo, const Corral__Experiment *e)
{
	jw_kv_strz(jo, "id", e->id);
	jw_kv_strz(jo, "name", e->name);
	jw_kv_strz(jo, "state", state_name(e->state));
	jw_kv_strz(jo, "model_a", e->n_arms ? e->arms[0]->model : NULL);
	jw_kv_strz(jo, "model_b", e->n_arms > 1 ? e->arms[1]->model : NULL);
	jw_key(jo, "arms");
	jw_arr(jo);
	for (size_t i = 0; i < e->n_arms; i++)
		arm_json(jo, e->arms[i]);
	jw_end(jo);
	filter_members(jo, e->filter);
	jw_kv_double(jo, "traffic_percent", e->traffic_percent);
	jw_kv_strz(jo, "unit", e->unit);
	jw_kv_strz(jo, "namespace", e->namespace_);
	jw_kv_strz(jo, "metric", e->metric);
	jw_key(jo, "guards");
	jw_arr(jo);
	for (size_t i = 0; i < e->n_guards; i++) {
		jw_obj(jo);
		jw_kv_strz(jo, "metric", e->guards[i]->metric);
		jw_kv_double(jo, "margin", e->guards[i]->margin);
		jw_end(jo);
	}
	jw_end(jo);
	jw_kv_bool(jo, "auto_promote", e->auto_promote);
	jw_kv_bool(jo, "shadow", e->shadow);
	time_json(jo, "created_at", e->created_at_us);
	time_json(jo, "ends_at", e->ends_at_us);
	time_json(jo, "ended_at", e->ended_at_us);
	jw_kv_strz(jo, "created_by", e->created_by);
	word_or_null(jo, "winner", e->winner);
	word_or_null(jo, "reason", e->reason);
}

static void one_came(const Corral__Experiment *e, struct ask *a, int status)
{
	struct json_out jo;

	if (!e) {
		ask_failed(a, a->gw->experiments, "ab-testing");
		return;
	}
	jo = ask_json(a, status);
	experiment_members(&jo, e);
	ask_json_done(a, &jo);
}

static void shown(const Corral__Experiment *e, void *arg) { one_came(e, arg, 200); }
static void created(const Corral__Experiment *e, void *arg) { one_came(e, arg, 201); }

/* --- GET /tests --- */

static void listed(const Corral__ListExperimentsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->experiments, "ab-testing");
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "tests");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_experiments; i++) {
		jw_obj(&jo);
		experiment_members(&jo, reply->experiments[i]);
		jw_end(&jo);
	}
	jw_end(&jo);
	jw_key(&jo, "champions");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_champions; i++) {
		const Corral__Champion *h = reply->champions[i];

		jw_obj(&jo);
		filter_members(&jo, h->filter);
		jw_key(&jo, "arm");
		arm_json(&jo, h->arm);
		jw_kv_strz(&jo, "test_id", h->experiment_id);
		time_json(&jo, "since", h->since_us);
		jw_end(&jo);
	}
	jw_end(&jo);
	ask_json_done(a, &jo);
}

static void list_call(struct ask *a) { corral__experiments__list(experiments_of(a), &of(a)->list, listed, a); }

static enum step list(struct req *r)
{
	struct ask *a;
	struct tests_ask *q = begin(r, &a, list_call);

	q->list.running = strcmp(asked_param(r, a, "running"), "true") == 0;
	return ask_send(a);
}

/* --- POST /tests --- */

static bool word(const struct json *doc, uint32_t object, const char *key, const char *absent, char **ret, struct ask *a, struct why *why)
{
	struct str s = str_of(absent);

	if (!json_opt_str(doc, object, key, &s, a->mem, why))
		return false;
	if (s.n && memchr(s.p, '\0', s.n))
		return err_field(why, ERR_INVALID, key, "%s has a zero character", key) == ERR_OK;
	*ret = arena_dup(a->mem, s.p ? s.p : "", s.n);
	return true;
}

/* By its own name: an alias may come to mean another model while the experiment runs. */
static bool model(struct req *r, struct ask *a, const char *field, char **name, struct why *why)
{
	bool alias;
	int m = catalogue_resolve(&r->world->cat, str_of(*name), &alias);

	if (m < 0 || !authorise_model(&r->who, r->world->cat.models[m].name))
		return err_field(why, ERR_INVALID, field, "%s: no backend has a model '%.80s'; GET /models lists them", field, *name) == ERR_OK;
	*name = arena_dup(a->mem, r->world->cat.models[m].name.p, r->world->cat.models[m].name.n);
	return true;
}

static Corral__ExperimentArm *arm_new(struct ask *a, size_t i)
{
	Corral__ExperimentArm *arm = arena_alloc(a->mem, sizeof(*arm));

	corral__experiment_arm__init(arm);
	arm->name = arena_printf(a->mem, "%c", (int)('a' + i % 26));
	arm->weight = 1;
	return arm;
}

static bool read_arm(struct req *r, struct ask *a, const struct json *doc, uint32_t v, size_t i, Corral__ExperimentArm *arm, struct why *why)
{
	static const char *const known[] = { "name", "model", "weight", "parameters", "prompt_template", NULL };
	char *field = arena_printf(a->mem, "arms[%zu].model", i);
	int64_t weight = 1;
	uint32_t p;

	if (json_kind(doc, v) != JSON_OBJECT)
		return err_field(why, ERR_MALFORMED, "arms", "each of arms is an object with a model") == ERR_OK;
	for (uint32_t m = json_first(doc, v); m; m = json_next(doc, v, m)) {
		size_t k = 0;

		while (known[k] && !json_key_is(doc, m, known[k]))
			k++;
		if (!known[k])
			return err_field(why, ERR_MALFORMED, "arms", "an arm has no field '" STR_FMT "'", STR_ARG(json_key_raw(doc, m))) == ERR_OK;
	}
	if (!word(doc, v, "name", arm->name, &arm->name, a, why) || !word(doc, v, "model", "", &arm->model, a, why) ||
	    !word(doc, v, "prompt_template", "", &arm->prompt_template, a, why) || !json_opt_i64(doc, v, "weight", &weight, why))
		return false;
	arm->weight = weight > 0 && weight <= UINT32_MAX ? (uint32_t)weight : 0;
	p = json_get(doc, v, "parameters");
	if (p && json_kind(doc, p) != JSON_NULL && (json_kind(doc, p) != JSON_OBJECT || json_count(doc, p)))
		arm->parameters = arena_dup(a->mem, json_raw(doc, p).p, json_raw(doc, p).n);
	return model(r, a, field, &arm->model, why);
}

static bool read_arms(struct req *r, struct ask *a, const struct json *doc, Corral__Experiment *e, struct why *why)
{
	uint32_t list_tok = json_get(doc, 0, "arms");
	static const char *const models[] = { "model_a", "model_b" };

	if (!!list_tok == (json_get(doc, 0, "model_a") || json_get(doc, 0, "model_b")))
		return err_field(why, ERR_MALFORMED, list_tok ? "arms" : "model_a", "say model_a and model_b, or arms: [{name, model, parameters, prompt_template}]") == ERR_OK;
	if (list_tok && json_kind(doc, list_tok) != JSON_ARRAY)
		return err_field(why, ERR_MALFORMED, "arms", "arms must be an array, not %s", json_kind_name(json_kind(doc, list_tok))) == ERR_OK;
	e->arms = arena_array(a->mem, Corral__ExperimentArm *, list_tok ? json_count(doc, list_tok) + 1 : 2);
	for (uint32_t v = list_tok ? json_first(doc, list_tok) : 0; v; v = json_next(doc, list_tok, v), e->n_arms++) {
		e->arms[e->n_arms] = arm_new(a, e->n_arms);
		if (!read_arm(r, a, doc, v, e->n_arms, e->arms[e->n_arms], why))
			return false;
	}
	for (; !list_tok && e->n_arms < 2; e->n_arms++) {
		Corral__ExperimentArm *arm = e->arms[e->n_arms] = arm_new(a, e->n_arms);

		if (!word(doc, 0, models[e->n_arms], "", &arm->model, a, why) || !model(r, a, models[e->n_arms], &arm->model, why))
			return false;
	}
	return true;
}

static Corral__ExperimentGuard *guard_new(struct ask *a, const char *metric, double margin)
{
	Corral__ExperimentGuard *g = arena_alloc(a->mem, sizeof(*g));

	corral__experiment_guard__init(g);
	g->metric = (char *)metric;
	g->margin = margin;
	return g;
}

enum { DEFAULT_MARGIN_PERCENT = 5 };

/* "success", or {"metric","margin"}. */
static bool read_guard(struct ask *a, const struct json *doc, uint32_t v, Corral__ExperimentGuard **ret, struct why *why)
{
	double margin = DEFAULT_MARGIN_PERCENT / 100.;
	char *metric = NULL;

	if (json_is_string(doc, v)) {
		struct str s = json_string(doc, v, a->mem);

		metric = arena_dup(a->mem, s.p, s.n);
	} else if (json_kind(doc, v) != JSON_OBJECT) {
		return err_field(why, ERR_MALFORMED, "guards", "a guard is the name of a metric, or {\"metric\", \"margin\"}") == ERR_OK;
	} else if (!word(doc, v, "metric", "", &metric, a, why) || !json_opt_double(doc, v, "margin", &margin, why)) {
		return false;
	}
	*ret = guard_new(a, metric, margin);
	return true;
}

/* Nobody who says nothing of guards wants answers to get worse. */
static bool read_guards(struct ask *a, const struct json *doc, Corral__Experiment *e, struct why *why)
{
	uint32_t list_tok = json_get(doc, 0, "guards");

	if (list_tok && json_kind(doc, list_tok) != JSON_NULL && json_kind(doc, list_tok) != JSON_ARRAY)
		return err_field(why, ERR_MALFORMED, "guards", "guards must be an array, not %s", json_kind_name(json_kind(doc, list_tok))) == ERR_OK;
	e->guards = arena_array(a->mem, Corral__ExperimentGuard *, json_count(doc, list_tok) + 1);
	if (!list_tok || json_kind(doc, list_tok) == JSON_NULL)
		e->guards[e->n_guards++] = guard_new(a, "success", DEFAULT_MARGIN_PERCENT / 100.);
	else
		for (uint32_t v = json_first(doc, list_tok); v; v = json_next(doc, list_tok, v), e->n_guards++)
			if (!read_guard(a, doc, v, &e->guards[e->n_guards], why))
				return false;
	return true;
}

static bool read_filter(struct ask *a, const struct json *doc, Corral__ExperimentFilter *f, struct why *why)
{
	enum task task;

	if (!word(doc, 0, "task_type_filter", "", &f->task_type, a, why) || !word(doc, 0, "language_filter", "", &f->language, a, why) ||
	    !word(doc, 0, "tenant_filter", "", &f->tenant, a, why))
		return false;
	if (*f->task_type && task_parse(str_of(f->task_type), &task))
		f->task_type = (char *)task_name(task);
	return true;
}

static bool read_duration(const struct json *doc, double *ret, struct why *why)
{
	bool said = json_get(doc, 0, "duration_days") && json_kind(doc, json_get(doc, 0, "duration_days")) != JSON_NULL;

	if (!json_opt_double(doc, 0, "duration_days", ret, why))
		return false;
	return !said || (*ret > 0 && *ret <= 3660) || err_field(why, ERR_INVALID, "duration_days", "duration_days is a number above 0, 3660 at most, or null") == ERR_OK;
}

/* It would wait for ever for what is never asked. */
static bool shadows_stay(struct req *r, const Corral__Experiment *e, struct why *why)
{
	for (size_t i = 1; e->shadow && i < e->n_arms; i++) {
		int m = catalogue_model(&r->world->cat, str_of(e->arms[i]->model));

		if (m >= 0 && r->world->cat.models[m].n && cloud_of(&r->world->cat, r->world->cat.models[m].first))
			return err_field(why, ERR_INVALID, "shadow", "a shadow is never asked of a provider in the cloud, where '%.80s' of arm '%s' is", e->arms[i]->model,
					 e->arms[i]->name) == ERR_OK;
	}
	return true;
}

static bool read_experiment(struct req *r, struct ask *a, const struct json *doc, struct tests_ask *q, struct why *why)
{
	Corral__Experiment *e = &q->experiment;
	bool shadow = false, promote;

	e->traffic_percent = 10;
	if (!json_opt_bool(doc, 0, "shadow", &shadow, why))
		return false;
	promote = !shadow;
	if (!word(doc, 0, "name", "", &e->name, a, why) || !word(doc, 0, "namespace", "default", &e->namespace_, a, why) ||
	    !word(doc, 0, "unit", "user", &e->unit, a, why) || !word(doc, 0, "metric", "success", &e->metric, a, why) || !read_filter(a, doc, &q->filter, why) ||
	    !json_opt_double(doc, 0, "traffic_percent", &e->traffic_percent, why) || !json_opt_bool(doc, 0, "auto_promote", &promote, why) ||
	    !read_duration(doc, &q->create.duration_days, why) || !read_guards(a, doc, e, why) || !read_arms(r, a, doc, e, why))
		return false;
	e->auto_promote = promote;
	e->shadow = shadow;
	return shadows_stay(r, e, why) && arms_check(e, why) == ERR_OK;
}

static void create_call(struct ask *a) { corral__experiments__create(experiments_of(a), &of(a)->create, created, a); }

/* Who does not reach other tenants experiments with his own's requests. */
static void keep_home(struct req *r, struct tests_ask *q, struct ask *a)
{
	if (!*q->filter.tenant && !role_reaches(r->who.role, STR("tests.write")))
		q->filter.tenant = arena_dup(a->mem, r->tenant.p, r->tenant.n);
}

static enum step create(struct req *r)
{
	static const char *const known[] = { "name", "model_a", "model_b", "arms", "task_type_filter", "language_filter", "tenant_filter", "traffic_percent",
					     "unit", "namespace", "metric", "guards", "duration_days", "auto_promote", "shadow", NULL };
	struct ask *a;
	struct tests_ask *q = begin(r, &a, create_call);
	struct why why = { 0 };
	struct json doc;

	if (!r->world) {
		req_fail(r, ERR_UNAVAILABLE, "no model list yet: the registry has not answered since the start");
		return asked_send(a, false);
	}
	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (read_experiment(r, a, &doc, q, &why)) {
		keep_home(r, q, a);
		trail_act(r, "write", arena_fmt(r->mem, "create %s", q->experiment.name));
	} else {
		req_fail_why(r, &why);
	}
	return asked_send(a, why.code == ERR_OK);
}

/* --- GET /tests/ID and /tests/ID/analysis --- */

static void figure(struct json_out *jo, const char *key, double v) { jw_kv_double(jo, key, v); }

static void metrics_members(struct json_out *jo, const Corral__ArmAnalysis *a)
{
	jw_kv_strz(jo, "arm", a->arm);
	jw_kv_strz(jo, "model", a->model);
	figure(jo, "success_rate", a->success_rate);
	figure(jo, "avg_latency_ms", a->avg_latency_ms);
	figure(jo, "avg_rating", a->avg_rating);
	jw_kv_u64(jo, "total_requests", a->requests);
	figure(jo, "avg_tokens", a->avg_tokens);
	figure(jo, "avg_cost_microusd", a->avg_cost_microusd);
	jw_kv_u64(jo, "units", a->units);
	jw_kv_u64(jo, "judged", a->judged);
	jw_kv_u64(jo, "ratings", a->ratings);
	figure(jo, "probability_best", a->probability_best);
	figure(jo, "composite", a->composite);
}

static void metrics_json(struct json_out *jo, const char *key, const Corral__ExperimentAnalysis *x, size_t i)
{
	jw_key(jo, key);
	if (i >= x->n_arms) {
		jw_null(jo);
		return;
	}
	jw_obj(jo);
	metrics_members(jo, x->arms[i]);
	jw_end(jo);
}

static void interval(struct json_out *jo, double low, double high)
{
	jw_key(jo, "interval");
	jw_arr(jo);
	jw_double(jo, low);
	jw_double(jo, high);
	jw_end(jo);
}

static void comparison_json(struct json_out *jo, const Corral__ArmComparison *c)
{
	jw_obj(jo);
	jw_kv_strz(jo, "arm", c->arm);
	jw_kv_strz(jo, "metric", c->metric);
	figure(jo, "estimate", c->estimate);
	interval(jo, c->low, c->high);
	figure(jo, "e_value", c->e_value);
	jw_kv_u64(jo, "samples", c->samples);
	figure(jo, "expected_samples_left", c->expected_samples_left);
	jw_kv_bool(jo, "guard", c->guard);
	if (c->guard) {
		jw_kv_double(jo, "margin", c->margin);
		jw_kv_bool(jo, "breached", c->breached);
	}
	jw_end(jo);
}

/* "ModelA", "ModelB" of two arms; of more than two, the arm's name. */
static void winner_json(struct json_out *jo, const Corral__ExperimentAnalysis *x)
{
	const char *said = *x->winner ? x->winner : NULL;

	for (size_t i = 0; said && x->n_arms == 2 && i < 2; i++)
		if (strcmp(x->arms[i]->arm, x->winner) == 0)
			said = i ? "ModelB" : "ModelA";
	jw_kv_strz(jo, "winner", said);
	word_or_null(jo, "winner_arm", x->winner);
}

static void history_json(struct json_out *jo, const Corral__ExperimentAnalysis *x)
{
	jw_key(jo, "history");
	jw_arr(jo);
	for (size_t i = 0; i < x->n_history; i++) {
		jw_obj(jo);
		time_json(jo, "at", x->history[i]->at_us);
		jw_kv_u64(jo, "samples", x->history[i]->samples);
		figure(jo, "estimate", x->history[i]->estimate);
		interval(jo, x->history[i]->low, x->history[i]->high);
		jw_end(jo);
	}
	jw_end(jo);
}

/* The figures of the first comparison, that of the second arm in the deciding metric, stand at the top too. */
static void main_members(struct json_out *jo, const Corral__ExperimentAnalysis *x)
{
	const Corral__ArmComparison *c = x->n_comparisons ? x->comparisons[0] : NULL;

	winner_json(jo, x);
	figure(jo, "confidence", x->confidence);
	if (c) {
		figure(jo, "estimate", c->estimate);
		interval(jo, c->low, c->high);
		figure(jo, "e_value", c->e_value);
		figure(jo, "expected_samples_left", c->expected_samples_left);
	}
	figure(jo, "probability_best", x->n_arms > 1 ? x->arms[1]->probability_best : 0);
	figure(jo, "sample_ratio_p", x->sample_ratio_p);
	jw_kv_bool(jo, "sample_ratio_alarm", x->sample_ratio_alarm);
	jw_key(jo, "composite");
	jw_obj(jo);
	for (size_t i = 0; i < x->n_arms; i++)
		figure(jo, x->arms[i]->arm, x->arms[i]->composite);
	jw_end(jo);
}

static void analysed(const Corral__ExperimentAnalysis *x, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!x || !x->experiment) {
		ask_failed(a, a->gw->experiments, "ab-testing");
		return;
	}
	jo = ask_json(a, 200);
	jw_kv_strz(&jo, "test_id", x->experiment->id);
	jw_kv_strz(&jo, "name", x->experiment->name);
	jw_kv_strz(&jo, "state", state_name(x->experiment->state));
	jw_kv_strz(&jo, "metric", x->experiment->metric);
	jw_kv_bool(&jo, "shadow", x->experiment->shadow);
	jw_kv_strz(&jo, "model_a", x->n_arms ? x->arms[0]->model : NULL);
	jw_kv_strz(&jo, "model_b", x->n_arms > 1 ? x->arms[1]->model : NULL);
	metrics_json(&jo, "metrics_a", x, 0);
	metrics_json(&jo, "metrics_b", x, 1);
	main_members(&jo, x);
	jw_kv_strz(&jo, "verdict", x->verdict);
	jw_key(&jo, "arms");
	jw_arr(&jo);
	for (size_t i = 0; i < x->n_arms; i++) {
		jw_obj(&jo);
		metrics_members(&jo, x->arms[i]);
		jw_end(&jo);
	}
	jw_end(&jo);
	jw_key(&jo, "comparisons");
	jw_arr(&jo);
	for (size_t i = 0; i < x->n_comparisons; i++)
		comparison_json(&jo, x->comparisons[i]);
	jw_end(&jo);
	history_json(&jo, x);
	time_json(&jo, "as_of", x->as_of_us);
	ask_json_done(a, &jo);
}

static void show_call(struct ask *a) { corral__experiments__show(experiments_of(a), &of(a)->one, shown, a); }
static void analyse_call(struct ask *a) { corral__experiments__analyse(experiments_of(a), &of(a)->one, analysed, a); }

/* ID, or ID/WORD. */
static struct str id_and(struct req *r, struct str *ret_word)
{
	struct str rest = r->param, id;

	(void)str_split(&rest, '/', &id);
	*ret_word = rest.p ? rest : STR("");
	return id;
}

static enum step no_such(struct req *r)
{
	return req_fail(r, ERR_NOT_FOUND, "this Corral does not serve " STR_FMT "; see docs/reference/routes.md", STR_ARG(r->x->path));
}

static enum step show(struct req *r)
{
	struct str rest, id = id_and(r, &rest);
	struct tests_ask *q;
	struct ask *a;

	if (rest.n && !str_eqz(rest, "analysis"))
		return no_such(r);
	q = begin(r, &a, rest.n ? analyse_call : show_call);
	q->one.id = arena_dup(a->mem, id.p, id.n);
	return ask_send(a);
}

/* --- POST /tests/ID/ACT --- */

static void change_call(struct ask *a) { corral__experiments__change(experiments_of(a), &of(a)->change, shown, a); }

static enum step change(struct req *r)
{
	static const char *const acts[] = { "", "pause", "resume", "stop", "promote", "rollback" }, *const known[] = { "arm", "reason", NULL };
	struct str rest, id = id_and(r, &rest);
	struct tests_ask *q;
	struct why why = { 0 };
	struct json doc;
	struct ask *a;
	size_t act = 1;

	while (act < sizeof(acts) / sizeof(*acts) && !str_eqz(rest, acts[act]))
		act++;
	if (act == sizeof(acts) / sizeof(*acts))
		return no_such(r);
	q = begin(r, &a, change_call);
	q->change.id = arena_dup(a->mem, id.p, id.n);
	q->change.act = (Corral__ExperimentAct)act;
	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (word(&doc, 0, "arm", "", &q->change.arm, a, &why) && word(&doc, 0, "reason", "", &q->change.reason, a, &why))
		trail_act(r, "write", arena_fmt(r->mem, "%s %s", acts[act], q->change.id));
	else
		req_fail_why(r, &why);
	return asked_send(a, why.code == ERR_OK);
}

const struct stage stage_tests = { "tests", list }, stage_test_create = { "test_create", create }, stage_test = { "test", show }, stage_test_change = { "test_change", change };

/* judge.c - what the sums say (common/policy/experiment_verdict.h), as figures and as what follows from them by itself:
 *
 *   ROLLBACK   a guard broke: rolled back        PROMOTE   a winner: promoted        KEEP, EVEN   no better arm, or its time is over: stopped
 *
 * Units that do not come in the proportion of the weights (SPLIT) make every comparison doubtful: then nothing is promoted. */
#include <math.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/experiment_verdict.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { POINTS = 200 };            /* of a history, about */

/* --- asking --- */

static enum metric metric_of(const char *name)
{
	enum metric m = METRIC_SUCCESS;

	(void)metric_parse(str_of(name), &m);
	return m;
}

static const struct tally *of(const struct trial *t, size_t arm, enum metric m) { return &t->arms[arm].of[m]; }

/* For the proportion of the weights. Shadows run where there is room, so theirs say nothing. */
static uint64_t units_of(const struct trial *t, size_t arm) { return t->e->shadow ? 0 : t->arms[arm].units; }

/* An experiment in the words of experiment_verdict.h; the first arm is what the others are compared with. */
struct asked { struct verdict_rules rules; struct arm_outcomes arms[EXPERIMENT_ARMS]; int n_arms; };

static struct asked asked_of(const struct trial *t, bool over)
{
	struct asked a = { .rules = verdict_rules_default(), .n_arms = (int)t->e->n_arms };

	a.rules.primary = metric_of(t->e->metric);
	a.rules.may_promote = t->e->auto_promote;
	a.rules.over = over;
	a.rules.lately = t->lately;
	for (size_t i = 0; i < t->e->n_guards; i++) {
		enum metric m = metric_of(t->e->guards[i]->metric);

		a.rules.guards[m] = (struct guard){ true, guard_margin(m, t->e->guards[i]->margin) };
	}
	for (size_t i = 0; i < t->e->n_arms; i++)
		a.arms[i] = (struct arm_outcomes){ .name = str_of(t->e->arms[i]->name), .weight = t->e->arms[i]->weight, .units = units_of(t, i), .by = t->arms[i].of,
						.late = t->arms[i].late };
	return a;
}

static struct verdict verdict(const struct trial *t, bool over)
{
	struct asked a = asked_of(t, over);
	struct verdict v;

	verdict_of(&v, &a.rules, a.arms, a.n_arms, 0);
	return v;
}

static double split(const struct trial *t)
{
	uint64_t units[EXPERIMENT_ARMS];
	double weights[EXPERIMENT_ARMS];

	for (size_t i = 0; i < t->e->n_arms; i++) {
		units[i] = units_of(t, i);
		weights[i] = t->e->arms[i]->weight;
	}
	return sequential_split(units, weights, (int)t->e->n_arms);
}

static struct sequential sure(const Corral__Experiment *e)
{
	struct sequential s = sequential_default();

	s.alpha /= (double)(e->n_arms > 2 ? e->n_arms - 1 : 1);
	return s;
}

/* --- the analysis --- */

static double mean_of(const struct tally *t) { return t->n ? tally_mean(t) : NAN; }

static Corral__ArmAnalysis *arm_analysis(const struct trial *t, size_t arm, double probability_best, struct arena *mem)
{
	Corral__ArmAnalysis *a = arena_alloc(mem, sizeof(*a));
	const struct arm_sums *s = &t->arms[arm];
	struct composite against_first;

	composite_of(&against_first, s->of, t->arms[0].of);
	corral__arm_analysis__init(a);
	a->arm = t->e->arms[arm]->name;
	a->model = t->e->arms[arm]->model;
	a->units = s->units;
	a->requests = s->requests;
	a->judged = s->of[METRIC_SUCCESS].n;
	a->success_rate = mean_of(&s->of[METRIC_SUCCESS]);
	a->avg_latency_ms = s->latency_n ? s->latency_ms / (double)s->latency_n : NAN;
	a->avg_rating = mean_of(&s->of[METRIC_RATING]);
	a->avg_tokens = s->requests ? (double)s->tokens / (double)s->requests : NAN;
	a->avg_cost_microusd = s->requests ? (double)s->cost_microusd / (double)s->requests : NAN;
	a->ratings = s->of[METRIC_RATING].n;
	a->probability_best = probability_best;
	a->composite = against_first.known > 0 ? against_first.score : NAN;
	return a;
}

static Corral__ArmComparison *comparison(const struct trial *t, size_t arm, const char *metric, struct arena *mem)
{
	Corral__ArmComparison *c = arena_alloc(mem, sizeof(*c));
	enum metric m = metric_of(metric);
	struct sequential s = sure(t->e);
	struct difference d;
	double sign = metric_more_is_better(m) ? 1 : -1;

	corral__arm_comparison__init(c);
	sequential_difference(&d, &s, m, of(t, arm, m), of(t, 0, m));
	c->arm = t->e->arms[arm]->name;
	c->metric = (char *)metric;
	c->estimate = d.known ? sign * d.effect : NAN;
	c->low = sign > 0 ? d.low : -d.high;
	c->high = sign > 0 ? d.high : -d.low;
	c->e_value = d.known ? d.evidence : NAN;
	c->samples = of(t, arm, m)->n + of(t, 0, m)->n;
	c->expected_samples_left = sequential_left(&s, m, of(t, arm, m), of(t, 0, m));
	return c;
}

static Corral__ArmComparison *guard_comparison(const struct trial *t, size_t arm, const Corral__ExperimentGuard *g, struct arena *mem)
{
	Corral__ArmComparison *c = comparison(t, arm, g->metric, mem);
	struct asked a = asked_of(t, false);

	c->guard = true;
	c->margin = g->margin;
	c->breached = verdict_guard_breaks(&a.rules, a.arms, a.n_arms, 0, (int)arm, metric_of(g->metric));
	return c;
}

static void add_arms(const struct trial *t, struct arena *mem, Corral__ExperimentAnalysis *ret)
{
	const struct tally *tallies[EXPERIMENT_ARMS];
	double best[EXPERIMENT_ARMS] = { 0 };
	enum metric m = metric_of(t->e->metric);
	bool known = true;

	for (size_t i = 0; i < t->e->n_arms; i++) {
		tallies[i] = of(t, i, m);
		known &= tallies[i]->n > 0;
	}
	if (known)
		sequential_best(m, tallies, (int)t->e->n_arms, best);
	ret->arms = arena_array(mem, Corral__ArmAnalysis *, t->e->n_arms);
	for (ret->n_arms = 0; ret->n_arms < t->e->n_arms; ret->n_arms++)
		ret->arms[ret->n_arms] = arm_analysis(t, ret->n_arms, known ? best[ret->n_arms] : NAN, mem);
}

static void add_comparisons(const struct trial *t, struct arena *mem, Corral__ExperimentAnalysis *ret)
{
	ret->comparisons = arena_array(mem, Corral__ArmComparison *, t->e->n_arms * (1 + t->e->n_guards));
	for (size_t i = 1; i < t->e->n_arms; i++) {
		ret->comparisons[ret->n_comparisons++] = comparison(t, i, t->e->metric, mem);
		for (size_t g = 0; g < t->e->n_guards; g++)
			ret->comparisons[ret->n_comparisons++] = guard_comparison(t, i, t->e->guards[g], mem);
	}
}

struct points { struct arena *mem; Corral__AnalysisPoint **at; size_t n, cap; };

static bool take_point(void *arg, const struct db_row *row)
{
	struct points *p = arg;
	Corral__AnalysisPoint *point = p->n < p->cap ? ab_unpack(p->mem, &corral__analysis_point__descriptor, db_str(row, 0)) : NULL;

	if (point)
		p->at[p->n++] = point;
	return true;
}

static void add_history(struct ab *ab, const struct trial *t, struct arena *mem, Corral__ExperimentAnalysis *ret)
{
	struct points p = { mem, arena_array(mem, Corral__AnalysisPoint *, 500), 0, 500 };
	struct why why;

	if (!db_run(ab->db, X_POINTS, (struct db_value[]){ DB_Z(t->e->id) }, 1, take_point, &p, NULL, &why))
		LOG_WARN("the history of an experiment cannot be read", LOG_S("error", why.text));
	ret->history = p.at;
	ret->n_history = p.n;
}

/* Who is ahead for sure, and who stays when nobody is better: an arm's name, "" = nobody yet. */
static const char *winner_of(const struct trial *t, const struct verdict *v)
{
	bool ahead = v->kind == VERDICT_PROMOTE || v->kind == VERDICT_KEEP || v->kind == VERDICT_WAIT || v->kind == VERDICT_SPLIT;

	return *t->e->winner ? t->e->winner : ahead && v->arm >= 0 ? t->e->arms[v->arm]->name : "";
}

void judge_analyse(struct ab *ab, const struct trial *t, int64_t now_us, struct arena *mem, Corral__ExperimentAnalysis *ret)
{
	struct verdict v = verdict(t, false);
	double e = split(t);

	corral__experiment_analysis__init(ret);
	ret->experiment = t->e;
	add_arms(t, mem, ret);
	add_comparisons(t, mem, ret);
	add_history(ab, t, mem, ret);
	ret->winner = (char *)winner_of(t, &v);
	for (size_t i = 0; i < ret->n_comparisons; i++)
		if (!ret->comparisons[i]->guard && ret->comparisons[i]->e_value > 1)
			ret->confidence = fmax(ret->confidence, 1 - 1 / ret->comparisons[i]->e_value);
	ret->sample_ratio_p = e > 1 ? 1 / e : 1;
	ret->sample_ratio_alarm = e >= SPLIT_ALARM;
	ret->verdict = trial_is_over(t->e) && *t->e->reason ? t->e->reason : arena_dup(mem, v.words, strlen(v.words));
	ret->as_of_us = now_us;
}

/* --- what follows --- */

static struct change rule(const struct trial *t, int64_t now_us, struct arena *mem)
{
	bool over = t->e->ends_at_us && now_us >= t->e->ends_at_us;
	struct verdict v = verdict(t, over);
	const char *words = arena_dup(mem, v.words, strlen(v.words)), *arm = v.arm >= 0 ? t->e->arms[v.arm]->name : "";

	switch (v.kind) {
	case VERDICT_ROLLBACK:
		return (struct change){ CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", words, .by_itself = true, .guard_arm = arm, .guard_metric = metric_name(v.metric) };
	case VERDICT_PROMOTE:
		return (struct change){ CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, arm, words, .by_itself = true };
	case VERDICT_KEEP:
		return (struct change){ CORRAL__EXPERIMENT_ACT__ACT_STOP, arm, words, .by_itself = true };
	default:
		return over ? (struct change){ CORRAL__EXPERIMENT_ACT__ACT_STOP, "", arena_printf(mem, "its time is over: %s", words), .by_itself = true } :
			      (struct change){ CORRAL__EXPERIMENT_ACT__ACT_NONE, "", words, .by_itself = true };
	}
}

bool judge_point(struct ab *ab, struct trial *t, int64_t now_us, struct why *why)
{
	Corral__AnalysisPoint p = CORRAL__ANALYSIS_POINT__INIT;
	struct arena *mem = arena_new(2048);
	Corral__ArmComparison *c = comparison(t, 1, t->e->metric, mem);
	bool ok;

	p.at_us = now_us;
	p.samples = c->samples;
	p.estimate = c->estimate;
	p.low = c->low;
	p.high = c->high;
	ok = db_run(ab->db, X_POINT_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_I(now_us), DB_B(ab_pack(mem, &p.base)) }, 3, NULL, NULL, NULL, why);
	t->judged_us = now_us;
	arena_free(mem);
	return ok;
}

static bool is_due(const struct trial *t, int64_t now_us)
{
	int64_t step = (now_us - t->e->created_at_us) / POINTS;

	return now_us - t->judged_us >= (step > 1000000 ? step : 1000000);
}

/* "units came as a 8000, b 2000; …" */
static const char *split_words(const struct trial *t, struct arena *mem)
{
	const char *came = "units came as";

	for (size_t i = 0; i < t->e->n_arms; i++)
		came = arena_printf(mem, "%s%s %s %llu (weight %u)", came, i ? "," : "", t->e->arms[i]->name, (unsigned long long)t->arms[i].units, t->e->arms[i]->weight);
	return arena_printf(mem, "%s: not in the proportion of the weights, so something loses those of an arm, and nothing is promoted", came);
}

static bool judge_one(struct ab *ab, struct trial *t, int64_t now_us, struct arena *mem, struct why *why)
{
	struct change r = rule(t, now_us, mem);
	bool shown = r.act || is_due(t, now_us);

	if (shown && !judge_point(ab, t, now_us, why))
		return false;
	t->changed = !shown;              /* looked at again, so that the history has the last of it */
	if (!t->e->split_at_us && split(t) >= SPLIT_ALARM && !trial_split(ab, t, split_words(t, mem), now_us, why))
		return false;
	return !r.act || trial_change(ab, t, &r, now_us, why) == ERR_OK;
}

bool judge_all(struct ab *ab, int64_t now_us, struct why *why)
{
	struct arena *mem = arena_new(4096);
	bool ok = true;

	list_each(it, &ab->trials) {
		struct trial *t = list_entry(it, struct trial, node);

		if (!trial_is_over(t->e) && (t->changed || (t->e->ends_at_us && now_us >= t->e->ends_at_us)))
			ok = judge_one(ab, t, now_us, mem, why) && ok;
	}
	arena_free(mem);
	return ok;
}

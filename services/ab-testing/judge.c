/* judge.c - what the sums say, in figures that stay valid however often one looks (sequential.h), and what follows from them by itself.
 *
 *   a guard breaks      an arm is surely worse than the first one in a guard's metric, and by more than its margin as it stands: rolled back
 *   a winner            an arm is surely better in the deciding metric, and for sure not worse by a guard's margin in any other: promoted
 *   no better arm       every other arm is surely worse in the deciding metric: stopped
 *   its time is over    stopped
 *
 * Units that do not come in the proportion of the weights (sample ratio) make every comparison doubtful: then nothing is promoted. */
#include <math.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { POINTS = 200 };            /* of a history, about */

/* --- comparing --- */

static struct sequential sure(const Corral__Experiment *e, size_t statements)
{
	struct sequential s = sequential_default();

	s.alpha /= (double)((e->n_arms > 2 ? e->n_arms - 1 : 1) * (statements ? statements : 1));
	return s;
}

static enum metric metric_of(const char *name)
{
	enum metric m = METRIC_SUCCESS;

	(void)metric_parse(str_of(name), &m);
	return m;
}

static const struct tally *of(const struct trial *t, size_t arm, enum metric m) { return &t->arms[arm].of[m]; }

/* On the metric's scale. */
static double margin_of(const Corral__ExperimentGuard *g)
{
	return metric_is_ratio(metric_of(g->metric)) ? log1p(g->margin) : g->margin;
}

struct duel { struct difference d; bool better, worse; };

static struct duel duel(const struct trial *t, size_t arm)
{
	enum metric m = metric_of(t->e->metric);
	struct sequential s = sure(t->e, 1);
	struct duel x;

	sequential_difference(&x.d, &s, m, of(t, arm, m), of(t, 0, m));
	x.better = x.d.known && x.d.sure && (x.d.effect > 0) == metric_more_is_better(m);
	x.worse = x.d.known && x.d.sure && !x.better;
	return x;
}

struct watched { struct harm h; double margin; bool breached, clear; };

static struct watched watch(const struct trial *t, size_t arm, const Corral__ExperimentGuard *g)
{
	enum metric m = metric_of(g->metric);
	struct sequential s = sure(t->e, t->e->n_guards);
	struct watched w = { .margin = margin_of(g) };

	sequential_harm(&w.h, &s, m, of(t, arm, m), of(t, 0, m));
	w.breached = w.h.known && w.h.at_least > 0 && w.h.effect >= w.margin;
	w.clear = w.h.known && w.h.at_most < w.margin;
	return w;
}

static bool is_clear(const struct trial *t, size_t arm)
{
	for (size_t i = 0; i < t->e->n_guards; i++)
		if (strcmp(t->e->guards[i]->metric, t->e->metric) != 0 && !watch(t, arm, t->e->guards[i]).clear)
			return false;
	return true;
}

static double split(const struct trial *t)
{
	uint64_t units[EXPERIMENT_ARMS];
	double weights[EXPERIMENT_ARMS];

	for (size_t i = 0; i < t->e->n_arms; i++) {
		units[i] = t->arms[i].units;
		weights[i] = t->e->arms[i]->weight;
	}
	return sequential_split(units, weights, (int)t->e->n_arms);
}

/* The arm that is surely better than the first one, the best of them; 0 = none. */
static size_t best_arm(const struct trial *t)
{
	size_t best = 0;
	double lead = 0;

	for (size_t i = 1; i < t->e->n_arms; i++) {
		struct duel x = duel(t, i);

		if (x.better && fabs(x.d.effect) > lead) {
			lead = fabs(x.d.effect);
			best = i;
		}
	}
	return best;
}

static bool none_is_better(const struct trial *t)
{
	for (size_t i = 1; i < t->e->n_arms; i++)
		if (!duel(t, i).worse)
			return false;
	return true;
}

/* --- words --- */

static const char *amount(struct arena *mem, enum metric m, double scaled)
{
	if (metric_is_ratio(m))
		return arena_printf(mem, "%.1f %%", fabs(expm1(scaled)) * 100);
	return m == METRIC_RATING ? arena_printf(mem, "%.2f points", fabs(scaled)) : arena_printf(mem, "%.1f points of a hundred", fabs(scaled) * 100);
}

static const char *guard_words(struct arena *mem, const struct trial *t, size_t arm, const Corral__ExperimentGuard *g, const struct watched *w)
{
	return arena_printf(mem, "the guard %s broke: arm '%s' (%s) is worse than '%s' by %s, surely by %s; %s was allowed", g->metric, t->e->arms[arm]->name,
			    t->e->arms[arm]->model, t->e->arms[0]->name, amount(mem, metric_of(g->metric), w->h.effect),
			    amount(mem, metric_of(g->metric), w->h.at_least), amount(mem, metric_of(g->metric), w->margin));
}

static const char *winner_words(struct arena *mem, const struct trial *t, size_t arm)
{
	struct duel x = duel(t, arm);

	return arena_printf(mem, "arm '%s' (%s) is better than '%s' in %s by %s (e-value %.3g, of %llu and %llu units)", t->e->arms[arm]->name, t->e->arms[arm]->model,
			    t->e->arms[0]->name, t->e->metric, amount(mem, metric_of(t->e->metric), x.d.effect), x.d.evidence,
			    (unsigned long long)t->arms[arm].units, (unsigned long long)t->arms[0].units);
}

static const char *running_words(struct arena *mem, const struct trial *t)
{
	size_t best = best_arm(t);

	if (split(t) >= SPLIT_ALARM)
		return "units do not come in the proportion of the weights: the comparison is not to be trusted, and nothing is promoted";
	if (best && !is_clear(t, best))
		return arena_printf(mem, "%s; whether it is worse in what its guards watch is not sure yet", winner_words(mem, t, best));
	if (best)
		return winner_words(mem, t, best);
	return none_is_better(t) ? arena_printf(mem, "no arm is better than '%s' in %s", t->e->arms[0]->name, t->e->metric) : "no difference is sure yet";
}

/* --- the analysis --- */

static double mean_of(const struct tally *t) { return t->n ? tally_mean(t) : NAN; }

/* 40 % success, 30 % latency against the first arm's, 30 % rating, each in 0..1; of those that are known. */
static double composite(const struct trial *t, size_t arm)
{
	const struct tally *first = of(t, 0, METRIC_LATENCY), *own = of(t, arm, METRIC_LATENCY);
	const double part[] = { mean_of(of(t, arm, METRIC_SUCCESS)), first->n && own->n ? 1 / (1 + exp(tally_mean(own) - tally_mean(first))) : NAN,
				(mean_of(of(t, arm, METRIC_RATING)) - 1) / 4 };
	static const double weight[] = { .4, .3, .3 };
	double sum = 0, of_all = 0;

	for (int i = 0; i < 3; i++)
		if (!isnan(part[i])) {
			sum += weight[i] * part[i];
			of_all += weight[i];
		}
	return of_all > 0 ? sum / of_all : NAN;
}

static Corral__ArmAnalysis *arm_analysis(const struct trial *t, size_t arm, double probability_best, struct arena *mem)
{
	Corral__ArmAnalysis *a = arena_alloc(mem, sizeof(*a));
	const struct arm_sums *s = &t->arms[arm];

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
	a->composite = composite(t, arm);
	return a;
}

static Corral__ArmComparison *comparison(const struct trial *t, size_t arm, const char *metric, struct arena *mem)
{
	Corral__ArmComparison *c = arena_alloc(mem, sizeof(*c));
	enum metric m = metric_of(metric);
	struct sequential s = sure(t->e, 1);
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
	struct watched w = watch(t, arm, g);

	c->guard = true;
	c->margin = g->margin;
	c->breached = w.breached;
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

void judge_analyse(struct ab *ab, const struct trial *t, int64_t now_us, struct arena *mem, Corral__ExperimentAnalysis *ret)
{
	size_t best = best_arm(t);
	double e = split(t);

	corral__experiment_analysis__init(ret);
	ret->experiment = t->e;
	add_arms(t, mem, ret);
	add_comparisons(t, mem, ret);
	add_history(ab, t, mem, ret);
	ret->winner = *t->e->winner ? t->e->winner : best ? t->e->arms[best]->name : none_is_better(t) ? t->e->arms[0]->name : (char *)"";
	for (size_t i = 1; i < t->e->n_arms; i++) {
		struct duel x = duel(t, i);

		if (x.d.known && 1 - x.d.p > ret->confidence)
			ret->confidence = 1 - x.d.p;
	}
	ret->sample_ratio_p = e > 1 ? 1 / e : 1;
	ret->sample_ratio_alarm = e >= SPLIT_ALARM;
	ret->verdict = trial_is_over(t->e) && *t->e->reason ? t->e->reason : (char *)running_words(mem, t);
	ret->as_of_us = now_us;
}

/* --- what follows --- */

struct ruling { Corral__ExperimentAct act; const char *arm, *reason; };

static bool guards_broke(const struct trial *t, struct arena *mem, struct ruling *ret)
{
	for (size_t i = 1; i < t->e->n_arms; i++)
		for (size_t g = 0; g < t->e->n_guards; g++) {
			struct watched w = watch(t, i, t->e->guards[g]);

			if (w.breached) {
				*ret = (struct ruling){ CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", guard_words(mem, t, i, t->e->guards[g], &w) };
				return true;
			}
		}
	return false;
}

static struct ruling rule(const struct trial *t, int64_t now_us, struct arena *mem)
{
	struct ruling r = { CORRAL__EXPERIMENT_ACT__ACT_NONE, "", "" };
	size_t best;

	if (guards_broke(t, mem, &r))
		return r;
	best = split(t) >= SPLIT_ALARM ? 0 : best_arm(t);
	if (best && t->e->auto_promote && is_clear(t, best))
		return (struct ruling){ CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, t->e->arms[best]->name, winner_words(mem, t, best) };
	if (!best && split(t) < SPLIT_ALARM && none_is_better(t))
		return (struct ruling){ CORRAL__EXPERIMENT_ACT__ACT_STOP, t->e->arms[0]->name,
					arena_printf(mem, "no arm is better than '%s' in %s: each is surely worse", t->e->arms[0]->name, t->e->metric) };
	if (t->e->ends_at_us && now_us >= t->e->ends_at_us)
		return (struct ruling){ CORRAL__EXPERIMENT_ACT__ACT_STOP, "", arena_printf(mem, "its time is over: %s", running_words(mem, t)) };
	return r;
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

static bool judge_one(struct ab *ab, struct trial *t, int64_t now_us, struct arena *mem, struct why *why)
{
	struct ruling r = rule(t, now_us, mem);

	if ((r.act || is_due(t, now_us)) && !judge_point(ab, t, now_us, why))
		return false;
	t->changed = false;
	return !r.act || trial_change(ab, t, r.act, r.arm, r.reason, now_us, why) == ERR_OK;
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

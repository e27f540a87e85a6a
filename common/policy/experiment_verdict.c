/* experiment_verdict.c - see experiment_verdict.h.
 *
 * Several arms, or guards, are several statements, and each gets its part of alpha (Bonferroni). "Every guard is kept" needs no parts: for that to be
 * wrong, one that is broken has to look kept. */
#include "common/policy/experiment_verdict.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

double guard_margin(enum metric m, double written) { return metric_is_ratio(m) ? log1p(fmax(written, 0)) : written; }

struct verdict_rules verdict_rules_default(void)
{
	return (struct verdict_rules){ .sure = sequential_default(), .guard_alpha = 0.05, .primary = METRIC_SUCCESS, .may_promote = true };
}

const char *verdict_name(enum verdict_kind k)
{
	static const char *const names[VERDICT_KINDS] = { "wait", "promote", "keep", "rollback", "split", "even" };

	return k < VERDICT_KINDS ? names[k] : "unknown";
}

/* The question in hand. */
struct asked {
	const struct verdict_rules *rules;
	const struct arm_outcomes *arms;
	int n_arms, champion;
	struct sequential primary, breaks, keeps;        /* the parts of alpha */
};

static struct asked asked_of(const struct verdict_rules *r, const struct arm_outcomes *arms, int n_arms, int champion)
{
	struct asked a = { r, arms, n_arms, champion, r->sure, r->sure, r->sure };
	int guards = 0;

	for (int m = 0; m < METRIC_COUNT; m++)
		guards += r->guards[m].on;
	a.primary.alpha /= n_arms - 1;
	a.keeps.alpha = r->guard_alpha;
	a.breaks.alpha = r->guard_alpha / ((n_arms - 1) * (guards ? guards : 1));
	return a;
}

static const struct tally *tally_of(const struct asked *a, int arm, enum metric m) { return &a->arms[arm].by[m]; }

/* --- words --- */

struct word { char text[64]; };

static struct word word(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static struct word word(const char *fmt, ...)
{
	struct word w;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w.text, sizeof w.text, fmt, ap);
	va_end(ap);
	return w;
}

/* Names are others' words: cut, so that a sentence has room for the rest. */
static struct word name_of(const struct asked *a, int arm)
{
	struct str n = a->arms[arm].name;

	return word("%.*s", (int)(n.n < 40 ? n.n : 40), n.p ? n.p : "");
}

static struct word level(enum metric m, const struct tally *t)
{
	double value = metric_unscale(m, tally_mean(t));

	switch (m) {
	case METRIC_LATENCY:
		return word("%.0f ms", value);
	case METRIC_COST:
		return word("$%.6f", value / 1e6);
	case METRIC_RATING:
		return word("%.2f", value);
	default:
		return word("%.1f %%", value * 100);
	}
}

/* A difference on the metric's scale. */
static struct word amount(enum metric m, double by)
{
	if (metric_is_ratio(m))
		return word("%.1f %%", expm1(by) * 100);
	return m == METRIC_RATING ? word("%.2f", by) : word("%.1f points", by * 100);
}

static struct verdict verdict(enum verdict_kind kind, int arm, enum metric m, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static struct verdict verdict(enum verdict_kind kind, int arm, enum metric m, const char *fmt, ...)
{
	struct verdict v = { .kind = kind, .arm = arm, .metric = m };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v.words, sizeof v.words, fmt, ap);
	va_end(ap);
	return v;
}

/* "arm 'b' has success of 70.2 % against 60.1 % of 'a', from 412 and 420 units" */
struct compared { char text[320]; };

static struct compared compared_by(const struct asked *a, int arm, enum metric m, const struct tally *x, const struct tally *c)
{
	struct compared s;

	snprintf(s.text, sizeof s.text, "arm '%s' has %s of %s against %s of '%s', from %llu and %llu units", name_of(a, arm).text, metric_name(m),
		 level(m, x).text, level(m, c).text, name_of(a, a->champion).text, (unsigned long long)x->units, (unsigned long long)c->units);
	return s;
}

static struct compared compared(const struct asked *a, int arm, enum metric m)
{
	return compared_by(a, arm, m, tally_of(a, arm, m), tally_of(a, a->champion, m));
}

/* --- guards --- */

static struct harm harm(const struct asked *a, const struct sequential *s, int arm, enum metric m)
{
	struct harm h;

	sequential_harm(&h, s, m, tally_of(a, arm, m), tally_of(a, a->champion, m));
	return h;
}

/* What an arm does to a guard, over the whole history or in a window. */
struct breach { struct harm h; const struct tally *arm, *champion; bool late; };

/* At least -1, the whole history, below LATE_WINDOWS. */
static struct breach look(const struct asked *a, int arm, enum metric m, int window)
{
	const struct lately *w = a->rules->lately;
	struct sequential s = window >= 0 ? lately_part(&a->breaks, window, w[m].number[window]) : w ? lately_whole(&a->breaks) : a->breaks;
	struct breach b = { .arm = tally_of(a, arm, m), .champion = tally_of(a, a->champion, m), .late = window >= 0 };

	if (b.late) {
		b.arm = &a->arms[arm].late[m].in[window];
		b.champion = &a->arms[a->champion].late[m].in[window];
	}
	sequential_harm(&b.h, &s, m, b.arm, b.champion);
	return b;
}

static bool breaks(const struct asked *a, int arm, enum metric m, struct breach *ret)
{
	for (int window = -1; a->rules->guards[m].on && window < (a->rules->lately ? LATE_WINDOWS : 0); window++) {
		*ret = look(a, arm, m, window);
		if (ret->h.known && ret->h.at_least > 0 && ret->h.effect >= a->rules->guards[m].margin)
			return true;
	}
	return false;
}

static bool is_kept(const struct asked *a, int arm, enum metric m)
{
	struct harm h = harm(a, &a->keeps, arm, m);

	return !a->rules->guards[m].on || m == a->rules->primary || (h.known && h.at_most <= a->rules->guards[m].margin);
}

static bool guard_broke(const struct asked *a, struct verdict *ret)
{
	struct breach b;

	for (int i = 0; i < a->n_arms; i++)
		for (int m = 0; m < METRIC_COUNT; m++)
			if (i != a->champion && breaks(a, i, m, &b)) {
				*ret = verdict(VERDICT_ROLLBACK, i, m, "the guard %s broke%s: %s; worse by %s, surely by %s, and %s is allowed", metric_name(m),
					       b.late ? " of late" : "", compared_by(a, i, m, b.arm, b.champion).text, amount(m, b.h.effect).text,
					       amount(m, b.h.at_least).text, amount(m, a->rules->guards[m].margin).text);
				return true;
			}
	return false;
}

bool verdict_guard_breaks(const struct verdict_rules *rules, const struct arm_outcomes *arms, int n_arms, int champion, int arm, enum metric m)
{
	struct asked a = asked_of(rules, arms, n_arms, champion);
	struct breach ignored;

	return arm != champion && breaks(&a, arm, m, &ignored);
}

/* The first metric whose guard is not shown to be kept; METRIC_COUNT = all are. */
static enum metric not_kept(const struct asked *a, int arm)
{
	int m = 0;

	while (m < METRIC_COUNT && is_kept(a, arm, m))
		m++;
	return m;
}

/* --- what decides --- */

/* Above 0 = better; 'sure' counts for either side. */
static double lead(const struct asked *a, int arm, struct difference *ret)
{
	enum metric m = a->rules->primary;

	sequential_difference(ret, &a->primary, m, tally_of(a, arm, m), tally_of(a, a->champion, m));
	return metric_more_is_better(m) ? ret->effect : -ret->effect;
}

/* The arm that is surely better, the furthest of several; -1 = none. 'ret_all_worse': each other one is surely worse. */
static int winner(const struct asked *a, bool *ret_all_worse)
{
	double most = 0;
	int best = -1;

	*ret_all_worse = true;
	for (int i = 0; i < a->n_arms; i++) {
		struct difference d;
		double by = i == a->champion ? 0 : lead(a, i, &d);

		if (i == a->champion)
			continue;
		*ret_all_worse &= d.sure && by < 0;
		if (d.sure && by > most) {
			most = by;
			best = i;
		}
	}
	return best;
}

static bool is_at_its_end(const struct asked *a)
{
	uint64_t most = a->rules->max_units;

	for (int i = 0; most && i < a->n_arms; i++)
		if (tally_of(a, i, a->rules->primary)->units < most)
			most = 0;
	return most || a->rules->over;
}

static struct verdict of_winner(const struct asked *a, int arm)
{
	enum metric m = a->rules->primary, guard = not_kept(a, arm);
	bool ends = is_at_its_end(a);
	struct compared words = compared(a, arm, m);
	struct difference d;

	(void)lead(a, arm, &d);
	if (guard != METRIC_COUNT)
		return verdict(ends ? VERDICT_EVEN : VERDICT_WAIT, ends ? a->champion : arm, guard, "%s: surely better; that it keeps the guard %s is not sure%s",
			       words.text, metric_name(guard), ends ? ", and its time is over" : " yet");
	return verdict(a->rules->may_promote ? VERDICT_PROMOTE : ends ? VERDICT_EVEN : VERDICT_WAIT, ends && !a->rules->may_promote ? a->champion : arm, m,
		       "%s: surely better (%s to %s at %.3g %%, however often one looks)", words.text, amount(m, d.low).text, amount(m, d.high).text,
		       100 * (1 - a->primary.alpha));
}

static struct verdict of_nobody(const struct asked *a)
{
	double least = INFINITY;

	if (is_at_its_end(a))
		return verdict(VERDICT_EVEN, a->champion, a->rules->primary, "no sure difference in %s by its end", metric_name(a->rules->primary));
	for (int i = 0; i < a->n_arms; i++)
		if (i != a->champion)
			least = fmin(least, sequential_left(&a->primary, a->rules->primary, tally_of(a, i, a->rules->primary),
							    tally_of(a, a->champion, a->rules->primary)));
	if (isinf(least))
		return verdict(VERDICT_WAIT, -1, a->rules->primary, "no difference is sure yet");
	return verdict(VERDICT_WAIT, -1, a->rules->primary, "no difference is sure yet; as it stands, %.0f more units of an arm would make it so", least);
}

static bool is_split_wrong(const struct asked *a)
{
	uint64_t units[8] = { 0 };
	double weights[8] = { 0 };

	for (int i = 0; i < a->n_arms; i++) {
		units[i] = a->arms[i].units;
		weights[i] = a->arms[i].weight;
	}
	return sequential_split(units, weights, a->n_arms) >= SPLIT_ALARM;
}

void verdict_of(struct verdict *ret, const struct verdict_rules *rules, const struct arm_outcomes *arms, int n_arms, int champion)
{
	struct asked a = asked_of(rules, arms, n_arms, champion);
	bool all_worse;
	int best = winner(&a, &all_worse);

	if (guard_broke(&a, ret))
		return;
	if (is_split_wrong(&a))
		*ret = verdict(VERDICT_SPLIT, best, rules->primary,
			       "units do not come in the proportion of the weights: something loses those of an arm, so no comparison is to be trusted");
	else if (best >= 0)
		*ret = of_winner(&a, best);
	else if (all_worse)
		*ret = verdict(VERDICT_KEEP, champion, rules->primary, "no arm is better than '%s': each is surely worse in %s", name_of(&a, champion).text,
			       metric_name(rules->primary));
	else
		*ret = of_nobody(&a);
}

/* --- the composite --- */

/* How much better the arm is, in standard deviations of the outcomes of both. */
static double standardised(enum metric m, const struct tally *arm, const struct tally *champion)
{
	double by = tally_mean(arm) - tally_mean(champion), sd;
	struct tally all = *arm;

	tally_merge(&all, champion);
	sd = tally_sd(&all);
	by = sd > 0 ? by / sd : 0;
	return fmax(-3, fmin(3, metric_more_is_better(m) ? by : -by));
}

void composite_of(struct composite *ret, const struct tally *arm, const struct tally *champion)
{
	static const double weights[METRIC_COUNT] = { [METRIC_SUCCESS] = 0.4, [METRIC_LATENCY] = 0.3, [METRIC_RATING] = 0.3 };

	*ret = (struct composite){ 0 };
	for (int m = 0; m < METRIC_COUNT; m++)
		if (arm[m].n && champion[m].n && weights[m] > 0) {
			ret->part[m] = standardised(m, &arm[m], &champion[m]);
			ret->score += weights[m] * ret->part[m];
			ret->known += weights[m];
		}
	if (ret->known > 0)
		ret->score /= ret->known;
}

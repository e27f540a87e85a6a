/* sequential_best.c - the chance that each arm is the best one: see sequential.h.
 *
 * Each arm's true mean has a posterior: Beta for rates, normal for the rest. The chance that arm i is best is the integral of its density times the
 * others' distribution functions, taken over points that lie dense where any of the densities is (error under 0.001, by the test). */
#include "common/policy/sequential.h"

#include <math.h>
#include <stdlib.h>

enum { ARMS_MAX = 8, POINTS = 241, POINTS_MAX = ARMS_MAX * POINTS };
static const double REACH = 9.0;      /* standard deviations to either side */

struct posterior {
	bool rate;
	double a, b;                  /* of a rate: Beta(a, b) */
	double mean, sd;
	double log_scale;             /* of the density */
};

static double log_gamma(double x)
{
	int sign;

	return lgamma_r(x, &sign);
}

/* Units whose outcomes are alike tell less than as many outcomes of strangers. */
static double outcomes_in_effect(const struct tally *t)
{
	double n = (double)t->n, units = (double)t->units, mean = tally_mean(t), sd = tally_sd(t);
	double alone = mean * (1 - mean) * units / fmax(units - 1, 1);

	return alone > 0 && sd * sd > alone ? n * alone / (sd * sd) : n;
}

static struct posterior of_rate(const struct tally *t)
{
	double n = outcomes_in_effect(t), mean = tally_mean(t);
	struct posterior p = { .rate = true, .a = 1 + n * mean, .b = 1 + n * (1 - mean) };
	double both = p.a + p.b;

	p.mean = p.a / both;
	p.sd = sqrt(p.a * p.b / (both + 1)) / both;
	p.log_scale = log_gamma(both) - log_gamma(p.a) - log_gamma(p.b);
	return p;
}

/* Without two outcomes nothing is known of a mean: all that the metric may be is as likely. */
static struct posterior of_mean(const struct tally *t, enum metric m)
{
	double variance = t->units < 2 ? 100 : tally_variance_of_mean(t, m);
	struct posterior p = { .mean = tally_mean(t), .sd = sqrt(fmax(variance, 1e-18)) };

	p.log_scale = -log(p.sd) - 0.5 * log(6.283185307179586);
	return p;
}

static double times_log(double factor, double x) { return factor == 0 ? 0 : factor * log(x); }

static double density(const struct posterior *p, double at)
{
	double z = (at - p->mean) / p->sd;

	if (p->rate)
		return at < 0 || at > 1 ? 0 : exp(p->log_scale + times_log(p->a - 1, at) + times_log(p->b - 1, 1 - at));
	return exp(p->log_scale - z * z / 2);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int points_of(const struct posterior *p, int n_arms, double *ret)
{
	int n = 0;

	for (int i = 0; i < n_arms; i++)
		for (int k = 0; k < POINTS; k++) {
			double at = p[i].mean + p[i].sd * REACH * (2.0 * k / (POINTS - 1) - 1);

			ret[n++] = !p[i].rate ? at : at < 0 ? 0 : at > 1 ? 1 : at;
		}
	qsort(ret, (size_t)n, sizeof *ret, by_value);
	return n;
}

/* What each arm has below the point (its distribution function) and there (its density). */
struct mark { double below[ARMS_MAX], here[ARMS_MAX]; };

static void advance(struct mark *next, const struct mark *last, const struct posterior *p, int n_arms, double at, double step)
{
	for (int i = 0; i < n_arms; i++) {
		next->here[i] = density(&p[i], at);
		next->below[i] = fmin(1, last->below[i] + step * (last->here[i] + next->here[i]) / 2);
	}
}

static double wins(const struct mark *m, int arm, int n_arms, bool more)
{
	double chance = m->here[arm];

	for (int j = 0; j < n_arms; j++)
		if (j != arm)
			chance *= more ? m->below[j] : 1 - m->below[j];
	return chance;
}

static void integrate(const struct posterior *p, int n_arms, bool more, const double *points, int n_points, double *ret)
{
	struct mark last = { { 0 }, { 0 } }, next;

	for (int k = 0; k < n_points; k++) {
		double step = k ? points[k] - points[k - 1] : 0;

		advance(&next, &last, p, n_arms, points[k], step);
		for (int i = 0; k && i < n_arms; i++)
			ret[i] += step * (wins(&last, i, n_arms, more) + wins(&next, i, n_arms, more)) / 2;
		last = next;
	}
}

void sequential_best(enum metric m, const struct tally *const *arms, int n_arms, double *ret)
{
	struct posterior p[ARMS_MAX];
	double points[POINTS_MAX], sum = 0;

	if (n_arms < 1 || n_arms > ARMS_MAX)
		return;
	for (int i = 0; i < n_arms; i++) {
		p[i] = m == METRIC_SUCCESS || m == METRIC_ERROR ? of_rate(arms[i]) : of_mean(arms[i], m);
		ret[i] = 0;
	}
	integrate(p, n_arms, metric_more_is_better(m), points, points_of(p, n_arms, points), ret);
	for (int i = 0; i < n_arms; i++)
		sum += ret[i];
	for (int i = 0; i < n_arms; i++)
		ret[i] = sum > 0 ? ret[i] / sum : 1.0 / n_arms;
}

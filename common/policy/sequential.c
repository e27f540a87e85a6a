/* sequential.c - bounds and evidence that hold at any time: see sequential.h.
 *
 * The estimate of an effect is nearly normal with a variance V that outcomes make smaller. Its likelihood under effects spread as N(0, τ²), against that
 * under no effect, is a martingale while there is none (Robbins 1970), so its chance to ever reach 1 / α is α (Ville). With x = τ² / V and Z = effect / √V:
 *
 *   evidence = exp(Z²·x / (2·(1 + x))) / √(1 + x)            bounds = effect ± √V · √((1 + 1/x)·(ln(1 + x) - 2·ln α))
 *
 * Asymptotically valid for any distribution of outcomes (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024). For one side, effects are spread over
 * half of the normal distribution. τ is such that the bounds are narrowest at tuned_units. */
#include "common/policy/sequential.h"

#include <float.h>
#include <math.h>

static const double LOG_EVIDENCE_MAX = 690.0;            /* exp() of it is 1e299 */

struct sequential sequential_default(void) { return (struct sequential){ .alpha = 0.05, .tuned_units = 400, .min_units = 50 }; }

/* Where √((1 + 1/x)(ln(1 + x) - 2 ln α)) is least, nearly. */
static double best_x(double alpha)
{
	double l = -2 * log(alpha);

	return l + log1p(l);
}

static double x_at(const struct sequential *s, double units) { return best_x(s->alpha) * units / s->tuned_units; }

/* Two arms of different size tell as much as two of this size each. */
static double units_each(const struct tally *a, const struct tally *b)
{
	double x = (double)a->units, y = (double)b->units;

	return 2 * x * y / (x + y);
}

static double bound_squared(double x, double alpha) { return (1 + 1 / x) * (log1p(x) - 2 * log(alpha)); }

static double log_evidence(double z, double x) { return z * z * x / (2 * (1 + x)) - log1p(x) / 2; }

static bool enough(const struct sequential *s, const struct tally *a, const struct tally *b)
{
	uint64_t least = s->min_units < 2 ? 2 : s->min_units;

	return a->units >= least && b->units >= least;
}

/* Of the difference: from each arm's own spread, or, where that is more, from that of all outcomes together. An arm of few units that happen to be
 * alike (60 successes in a row of a rate of .95) does not know its own. */
static double variance_of_effect(enum metric m, const struct tally *a, const struct tally *b)
{
	double own = tally_variance_of_mean(a, m) + tally_variance_of_mean(b, m);
	struct tally all = *a;

	tally_merge(&all, b);
	return fmax(own, tally_variance_of_mean(&all, m) * (double)all.units * (1 / (double)a->units + 1 / (double)b->units));
}

struct estimate { double effect, sd, x; };

static struct estimate estimate(const struct sequential *s, enum metric m, const struct tally *arm, const struct tally *champion)
{
	double variance = variance_of_effect(m, arm, champion);

	return (struct estimate){ tally_mean(arm) - tally_mean(champion), sqrt(variance), x_at(s, units_each(arm, champion)) };
}

/* Outcomes that are all equal leave no doubt about a difference, and none about its being absent. */
static double z_of(const struct estimate *e) { return e->effect == 0 ? 0 : e->effect / fmax(e->sd, fabs(e->effect) * 1e-9); }

void sequential_difference(struct difference *ret, const struct sequential *s, enum metric m, const struct tally *arm, const struct tally *champion)
{
	struct estimate e;
	double log_e, radius;

	*ret = (struct difference){ .low = -INFINITY, .high = INFINITY, .evidence = 1, .p = 1 };
	if (!enough(s, arm, champion))
		return;
	e = estimate(s, m, arm, champion);
	log_e = log_evidence(z_of(&e), e.x);
	radius = e.sd * sqrt(bound_squared(e.x, s->alpha));
	*ret = (struct difference){ .known = true, .effect = e.effect, .sd = e.sd, .low = e.effect - radius, .high = e.effect + radius,
				    .evidence = exp(fmin(log_e, LOG_EVIDENCE_MAX)), .p = log_e > 0 ? exp(-fmin(log_e, LOG_EVIDENCE_MAX)) : 1,
				    .sure = log_e >= -log(s->alpha) };
}

/* The standard deviations that one side's evidence 2·exp(u²/2)·Φ(u)/√(1+x), u = Z·√(x/(1+x)), needs to reach 1/α. Newton's steps from above on a convex
 * function. */
static double bound_one_sided(double x, double alpha)
{
	double k = -log(2 * alpha) + log1p(x) / 2, u = sqrt(2 * (k + log(2))), step = 1;

	for (int i = 0; i < 8 && step > 1e-9; i++) {
		double phi = erfc(-u * sqrt(0.5)) / 2, density = exp(-u * u / 2) * 0.3989422804014327;

		step = (u * u / 2 + log(phi) - k) / (u + density / phi);
		u -= step;
	}
	return u * sqrt((1 + x) / x);
}

void sequential_harm(struct harm *ret, const struct sequential *s, enum metric m, const struct tally *arm, const struct tally *champion)
{
	struct estimate e;
	double worse, radius;

	*ret = (struct harm){ .at_least = -INFINITY, .at_most = INFINITY };
	if (!enough(s, arm, champion))
		return;
	e = estimate(s, m, arm, champion);
	worse = metric_more_is_better(m) ? -e.effect : e.effect;
	radius = e.sd * bound_one_sided(e.x, s->alpha);
	*ret = (struct harm){ .known = true, .effect = worse, .at_least = worse - radius, .at_most = worse + radius };
}

/* How many times as many units make z² times that reach the bound; infinite beyond 10^9. */
static double growth(double z_squared, double x, double alpha)
{
	double low = 1, high = 1e9;

	if (z_squared >= bound_squared(x, alpha))
		return 1;
	if (z_squared * high < bound_squared(x * high, alpha))
		return INFINITY;
	for (int i = 0; i < 50; i++) {
		double k = sqrt(low * high);

		if (z_squared * k < bound_squared(x * k, alpha))
			low = k;
		else
			high = k;
	}
	return high;
}

double sequential_left(const struct sequential *s, enum metric m, const struct tally *arm, const struct tally *champion)
{
	struct estimate e;
	double z;

	if (!enough(s, arm, champion))
		return INFINITY;
	e = estimate(s, m, arm, champion);
	z = z_of(&e);
	return ceil((growth(z * z, e.x, s->alpha) - 1) * (double)arm->units);
}

/* The z that a normal variable stays under with that probability. */
static double normal_quantile(double probability)
{
	double low = -40, high = 40;

	for (int i = 0; i < 100; i++) {
		double z = (low + high) / 2;

		if (erfc(-z * sqrt(0.5)) / 2 < probability)
			low = z;
		else
			high = z;
	}
	return high;
}

double sequential_fixed_units(double alpha, double power, double effect, double sd_arm, double sd_champion)
{
	double z = normal_quantile(1 - alpha / 2) + normal_quantile(power);

	return effect == 0 ? INFINITY : z * z * (sd_arm * sd_arm + sd_champion * sd_champion) / (effect * effect);
}

double sequential_median_units(const struct sequential *s, double effect, double sd_arm, double sd_champion)
{
	double spread = fmax(sd_arm * sd_arm + sd_champion * sd_champion, DBL_MIN);

	return effect == 0 ? INFINITY : growth(effect * effect / spread, x_at(s, 1), s->alpha);
}

/* sequential.h - statistics of an experiment that stay valid however often one looks. Pure: counts in, figures out; no clock, no allocation.
 *
 * Nouns: metric (what is measured of an answer), tally (what is kept of a metric of an arm), difference (arm minus champion), always (at any number
 * of looks, the next one included: the chance that a statement is ever wrong is bounded, not the chance that it is wrong now).
 *
 *   outcomes ─▶ tally per arm and metric ─▶ difference with its bounds ─▶ verdict (experiment_verdict.h)
 *   units    ─▶ sample ratio
 *
 * docs/experiments-statistics.md has the formulas, their sources, and what each figure means. */
#ifndef CORRAL_POLICY_SEQUENTIAL_H
#define CORRAL_POLICY_SEQUENTIAL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

/* SUCCESS and ERROR are 0 or 1, RATING 1 to 5; LATENCY is in ms and COST in micro-dollars, both kept on a log scale, so that differences are ratios. */
enum metric { METRIC_SUCCESS, METRIC_RATING, METRIC_LATENCY, METRIC_COST, METRIC_ERROR, METRIC_COUNT };
const char *metric_name(enum metric);                    /* "success" */
bool metric_parse(struct str word, enum metric *ret);
bool metric_more_is_better(enum metric);
bool metric_is_ratio(enum metric);                       /* effects are logarithms of a ratio */
/* On the metric's scale: log of ms, log of 1 + micro-dollars; what is out of its range is brought into it, NaN stays NaN. */
double metric_scale(enum metric, double value);
/* Back, for people: a level on the scale as ms or micro-dollars. */
double metric_unscale(enum metric, double scaled);

/* Outcomes of one metric in one arm. Several of one unit are alike, so the spread is that between units (the delta method on their totals); with one
 * outcome for each unit it is the usual one. An outcome may come late, and one metric's without another's: each counts for itself. */
struct tally {
	uint64_t n, units;            /* outcomes; units that have any */
	double sum;                   /* of outcomes, scaled */
	double sum_yy, sum_yn, sum_nn;           /* over units: total², total × outcomes, outcomes² */
};
/* What is kept of a unit, for each metric, where units come back; zero at first. */
struct unit_total { uint64_t n; double sum; };

/* Of a unit that has no other outcome, and of one that may (updates both). False, and nothing counted, for a value that is no number. */
bool tally_add(struct tally *, enum metric, double value);
bool tally_add_of(struct tally *, struct unit_total *, enum metric, double value);
void tally_merge(struct tally *, const struct tally *);  /* of other units */
double tally_mean(const struct tally *);                 /* 0 when empty */
double tally_sd(const struct tally *);                   /* of outcomes, as if each were its own unit's; 0 when fewer than two */
/* Of the mean. Rates and ratings are held off 0 by one outcome at either end, so that 50 equal outcomes do not make certain. */
double tally_variance_of_mean(const struct tally *, enum metric);

enum { TALLY_PACKED = 48 };
void tally_pack(const struct tally *, uint8_t out[TALLY_PACKED]);                /* little-endian */
bool tally_unpack(struct tally *, const uint8_t packed[TALLY_PACKED]);           /* false, and untouched, for what is no tally */

/* How sure, and for which size of experiment the bounds are narrowest. */
struct sequential {
	double alpha;                 /* chance that a statement is ever wrong: 0.05 */
	double tuned_units;           /* per arm: 400; any value is valid, bounds are narrowest near it */
	uint64_t min_units;           /* per arm: nothing is said before; 50 */
};
struct sequential sequential_default(void);

/* An arm against the champion. Effects are on the metric's scale: a difference, or the logarithm of a ratio; above 0 the arm has more. */
struct difference {
	bool known;                   /* false: too few units in one of the two; the figures are 0 then, the bounds infinite */
	double effect, sd;            /* sd: of the effect */
	double low, high;             /* always within, but for alpha */
	double evidence;              /* e-value against "no difference": its chance to ever reach x is 1 / x at most; at most 1e300 */
	double p;                     /* 1 / evidence, at most 1 */
	bool sure;                    /* evidence ≥ 1 / alpha */
};
void sequential_difference(struct difference *ret, const struct sequential *, enum metric, const struct tally *arm, const struct tally *champion);

/* One-sided, for guards: how much worse the arm is (above 0 = worse), and between which bounds always, each of them but for alpha. */
struct harm { bool known; double effect, at_least, at_most; };
void sequential_harm(struct harm *ret, const struct sequential *, enum metric, const struct tally *arm, const struct tally *champion);

/* More units in the arm until a difference as it is now would be sure, were both arms to grow alike; 0 = it is; infinite when there is no difference,
 * or nothing is known yet. */
double sequential_left(const struct sequential *, enum metric, const struct tally *arm, const struct tally *champion);
/* Units per arm that the fixed two-sided test needs to find 'effect' with that power, and about what this one needs at the median. sd: of
 * outcomes. Infinite for no effect. */
double sequential_fixed_units(double alpha, double power, double effect, double sd_arm, double sd_champion);
double sequential_median_units(const struct sequential *, double effect, double sd_arm, double sd_champion);

/* Whether units came in the proportion of the weights: an e-value against it, valid however often one looks. weights[] add up to more than 0; an arm
 * of weight 0 with a unit in it is certainly wrong. At most 1e300. Alarm at 1 / 0.001. */
enum { SPLIT_ALARM = 1000 };
double sequential_split(const uint64_t *units, const double *weights, int n_arms);

/* A second reading, which decides nothing: the chance that each arm is the best of all, from a flat prior. ret[] adds up to 1. At most 8 arms. */
void sequential_best(enum metric, const struct tally *const *arms, int n_arms, double *ret);
#endif

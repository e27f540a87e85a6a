/* simulate.h - experiments with made-up outcomes, looked at after every one by the very functions that ship. For the proof (experiments.c) and its
 * slice among the unit tests (common/policy/sequential_slice_test.c). A run is given by its seed, whatever thread it runs on. */
#ifndef CORRAL_SIMULATE_H
#define CORRAL_SIMULATE_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/policy/experiment_verdict.h"
#include "common/policy/experiment_lately.h"
#include "common/policy/sequential.h"

/* xoshiro256**, seeded by splitmix64 (Blackman, Vigna). */
struct dice { uint64_t s[4]; };

static inline uint64_t dice_throw(struct dice *d)
{
	uint64_t *s = d->s, product = s[1] * 5, result = (product << 7 | product >> 57) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = s[3] << 45 | s[3] >> 19;
	return result;
}

static inline struct dice dice_of(uint64_t seed)
{
	struct dice d;

	for (int i = 0; i < 4; i++) {
		uint64_t z = seed += 0x9e3779b97f4a7c15;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
		z = (z ^ z >> 27) * 0x94d049bb133111eb;
		d.s[i] = z ^ z >> 31;
	}
	return d;
}

static inline double dice_share(struct dice *d) { return (double)(dice_throw(d) >> 11) * 0x1p-53; }

static inline double dice_normal(struct dice *d)
{
	double u = 1 - dice_share(d), v = dice_share(d);

	return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* How outcomes fall, per arm: [0] the champion, [1] the other. */
enum shape { SHAPE_RATE, SHAPE_LOG_NORMAL, SHAPE_RATING, SHAPE_COST, SHAPE_RETURNING };
struct trial {
	const char *name;
	enum shape shape;
	double level[2];              /* the rate; the median in ms; the mean; the share that costs nothing; the mean rate of units */
	double spread;                /* log-normal: standard deviation of the logarithm */
	double share;                 /* of outcomes that fall to the other arm */
	uint64_t units;               /* in all, at most */
};
struct trial_end { bool sure, arm_has_more; uint64_t units; };

static inline enum metric metric_of(enum shape s)
{
	return s == SHAPE_LOG_NORMAL ? METRIC_LATENCY : s == SHAPE_RATING ? METRIC_RATING : s == SHAPE_COST ? METRIC_COST : METRIC_SUCCESS;
}

static inline double outcome(struct dice *d, const struct trial *t, int arm)
{
	double u = dice_share(d);

	switch (t->shape) {
	case SHAPE_LOG_NORMAL:
		return t->level[arm] * exp(t->spread * dice_normal(d));
	case SHAPE_RATING:            /* mostly fives, now and then a one */
		return u < t->level[arm] ? 5 : u < 0.97 ? 4 : 1;
	case SHAPE_COST:
		return u < t->level[arm] ? 0 : 1000 * exp(2 * dice_normal(d));
	default:
		return u < t->level[arm];
	}
}

/* Units that come back: some 30 of each arm's last ones are about, each with a success rate of its own, and one in ten outcomes brings a new one. */
enum { ABOUT = 30 };
struct crowd { struct unit_total total[2][ABOUT]; double rate[2][ABOUT]; };

static inline void returning(struct crowd *c, struct dice *d, const struct trial *t, int arm, struct tally *tally)
{
	int i = (int)(dice_share(d) * ABOUT);

	if (!c->total[arm][i].n || dice_share(d) < 0.1) {
		c->total[arm][i] = (struct unit_total){ 0, 0 };
		c->rate[arm][i] = dice_share(d) < t->level[arm] ? 0.95 : 0.05;
	}
	tally_add_of(tally, &c->total[arm][i], METRIC_SUCCESS, dice_share(d) < c->rate[arm][i]);
}

static inline double own_variance(const struct tally *t)
{
	double n = (double)t->n, mean = t->sum / n;

	return (t->sum_yy - 2 * mean * t->sum_yn + mean * mean * t->sum_nn) / (n * n);
}

/* So far from any bound that asking is vain: less than 'least' standard deviations lie between the effect and what it is held against. Bounds are
 * never that narrow (3.03 for two sides, 2.7 for one), and the spread never much less than the arms' own. Asked all the same at every 256th outcome. */
static inline bool is_far(const struct tally *tally, double against, double least, uint64_t n)
{
	double off;

	if (tally[0].units < 2 || tally[1].units < 2 || n % 256 == 0)
		return false;
	off = fabs(tally[1].sum / (double)tally[1].n - tally[0].sum / (double)tally[0].n) - against;
	return off < 0 || off * off < least * least * (own_variance(&tally[0]) + own_variance(&tally[1]));
}

/* Runs until the bounds leave 0 out, or until the last unit. */
static inline struct trial_end trial_run(const struct trial *t, const struct sequential *s, uint64_t seed)
{
	struct dice dice = dice_of(seed);
	struct tally tally[2] = { { 0 }, { 0 } };
	struct crowd crowd = { 0 };
	enum metric m = metric_of(t->shape);

	for (uint64_t n = 1; n <= t->units; n++) {
		int arm = dice_share(&dice) < t->share;
		struct difference d;

		if (t->shape == SHAPE_RETURNING)
			returning(&crowd, &dice, t, arm, &tally[arm]);
		else
			tally_add(&tally[arm], m, outcome(&dice, t, arm));
		if (is_far(tally, 0, 2.8, n))
			continue;
		sequential_difference(&d, s, m, &tally[1], &tally[0]);
		if (d.sure)
			return (struct trial_end){ true, d.effect > 0, n };
	}
	return (struct trial_end){ false, false, t->units };
}

/* Units until the split is called wrong; 0 = never. 'share': of the second of two arms that should get the same. The evidence is multiplied up from
 * unit to unit and the function asked where that comes near the alarm, and at every 500th unit; the two have to agree, else 1 is the answer. */
static inline uint64_t split_run(double share, uint64_t units, uint64_t seed)
{
	static const double even[] = { 1, 1 };
	struct dice dice = dice_of(seed);
	uint64_t count[2] = { 0, 0 };
	double evidence = 1;

	for (uint64_t n = 1; n <= units; n++) {
		int arm = dice_share(&dice) < share;

		evidence *= (100.0 + (double)count[arm]) / (199.0 + (double)n) / 0.5;
		count[arm]++;
		if (evidence < SPLIT_ALARM / 2 && n % 500)
			continue;
		if (fabs(sequential_split(count, even, 2) / evidence - 1) > 1e-6)
			return 1;
		if (sequential_split(count, even, 2) >= SPLIT_ALARM)
			return n;
	}
	return 0;
}

/* Units until a guard finds the arm worse than the margin allows; 0 = never. */
static inline uint64_t guard_run(const struct trial *t, const struct sequential *s, double margin, uint64_t seed)
{
	struct dice dice = dice_of(seed);
	struct tally tally[2] = { { 0 }, { 0 } };
	enum metric m = metric_of(t->shape);

	for (uint64_t n = 1; n <= t->units; n++) {
		int arm = dice_share(&dice) < t->share;
		struct harm h;

		tally_add(&tally[arm], m, outcome(&dice, t, arm));
		if (is_far(tally, margin, 2.4, n))
			continue;
		sequential_harm(&h, s, m, &tally[1], &tally[0]);
		if (h.at_least > margin)
			return n;
	}
	return 0;
}

/* Outcomes of one metric of two arms with the windows of late ones, as ab-testing keeps them. */
struct late_run {
	struct tally all[2], in[LATE_WINDOWS][2];
	struct crowd crowd, part[LATE_WINDOWS];         /* for units that come back: their totals */
	struct lately lately;
	struct sequential s;
	enum metric m;
	double margin;
};

static inline bool is_breach(const struct late_run *r, const struct tally *tally, const struct sequential *s, uint64_t n)
{
	struct harm h;

	if (is_far(tally, 0, 2.4, n))
		return false;
	sequential_harm(&h, s, r->m, &tally[1], &tally[0]);
	return h.known && h.at_least > 0 && h.effect >= r->margin;
}

static inline void late_add(struct late_run *r, const struct trial *t, int arm, int unit, double value)
{
	tally_add_of(&r->all[arm], &r->crowd.total[arm][unit], r->m, value);
	r->lately.now++;
	for (int w = 0; w < LATE_WINDOWS; w++) {
		const struct tally *arms[2] = { &r->in[w][0], &r->in[w][1] };

		tally_add_of(&r->in[w][arm], &r->part[w].total[arm][unit], r->m, value);
		if (t->shape != SHAPE_RETURNING)
			r->part[w].total[arm][unit] = (struct unit_total){ 0, 0 };
		if (lately_is_full(&r->s, w, arms, 2)) {
			lately_again(&r->lately, w);
			memset(r->in[w], 0, sizeof r->in[w]);
			memset(&r->part[w], 0, sizeof r->part[w]);
		}
	}
	if (t->shape != SHAPE_RETURNING)
		r->crowd.total[arm][unit] = (struct unit_total){ 0, 0 };
}

/* A unit of those about, and what it says: each keeps a rate of its own, and one in ten outcomes brings a new one. */
static inline int late_unit(struct late_run *r, struct dice *d, const struct trial *t, int arm)
{
	int i = (int)(dice_share(d) * ABOUT);

	if (!r->crowd.total[arm][i].n || dice_share(d) < 0.1) {
		r->crowd.total[arm][i] = (struct unit_total){ 0, 0 };
		for (int w = 0; w < LATE_WINDOWS; w++)
			r->part[w].total[arm][i] = (struct unit_total){ 0, 0 };
		r->crowd.rate[arm][i] = dice_share(d) < t->level[arm] ? 0.95 : 0.05;
	}
	return i;
}

/* Units until a guard breaks, on the whole or of late; 0 = never. From the unit 'change' on the second arm is as in 'after'. */
static inline uint64_t late_run(const struct trial *t, const struct trial *after, uint64_t change, const struct sequential *s, double margin, uint64_t seed)
{
	const struct sequential whole = lately_whole(s);
	struct late_run r = { .s = *s, .m = metric_of(t->shape), .margin = margin };
	struct dice dice = dice_of(seed);

	lately_begin(&r.lately);
	for (uint64_t n = 1; n <= t->units; n++) {
		const struct trial *now = n > change ? after : t;
		int arm = dice_share(&dice) < now->share, unit = now->shape == SHAPE_RETURNING ? late_unit(&r, &dice, now, arm) : 0;

		late_add(&r, now, arm, unit, now->shape == SHAPE_RETURNING ? dice_share(&dice) < r.crowd.rate[arm][unit] : outcome(&dice, now, arm));
		if (is_breach(&r, r.all, &whole, n))
			return n;
		for (int w = 0; w < LATE_WINDOWS; w++) {
			const struct sequential part = lately_part(s, w, r.lately.number[w]);

			if (is_breach(&r, r.in[w], &part, n))
				return n;
		}
	}
	return 0;
}

/* A whole experiment of two equal arms, guards that allow nothing included; the verdict is asked for after every outcome. */
static inline enum verdict_kind verdict_run(uint64_t units, uint64_t seed)
{
	struct verdict_rules rules = verdict_rules_default();
	struct tally by[2][METRIC_COUNT] = { 0 };
	struct arm_outcomes arms[2] = { { .name = STR("a"), .weight = 1, .by = by[0] }, { .name = STR("b"), .weight = 1, .by = by[1] } };
	struct dice dice = dice_of(seed);
	struct verdict v = { .kind = VERDICT_WAIT };

	rules.guards[METRIC_LATENCY].on = rules.guards[METRIC_ERROR].on = true;
	for (uint64_t n = 0; n < units && v.kind == VERDICT_WAIT; n++) {
		int arm = dice_share(&dice) < 0.5;

		arms[arm].units++;
		tally_add(&by[arm][METRIC_SUCCESS], METRIC_SUCCESS, dice_share(&dice) < 0.6);
		tally_add(&by[arm][METRIC_ERROR], METRIC_ERROR, dice_share(&dice) < 0.05);
		tally_add(&by[arm][METRIC_LATENCY], METRIC_LATENCY, 900 * exp(0.5 * dice_normal(&dice)));
		verdict_of(&v, &rules, arms, 2, 0);
	}
	return v.kind;
}
#endif

/* sequential_tally.c - what is kept of outcomes: see sequential.h.
 *
 * Sums only, so that adding is a few additions, merging is addition, and an outcome may come in any order. Values are on scales on which they are
 * small (0 to 35), so that sums of 10^9 squares lose nothing that matters. */
#include "common/policy/sequential.h"

#include <math.h>

static const struct scale { const char *name; double low, high; bool more_is_better, is_log; } scales[METRIC_COUNT] = {
	[METRIC_SUCCESS] = { "success", 0, 1, true, false },
	[METRIC_RATING]  = { "rating", 1, 5, true, false },
	[METRIC_LATENCY] = { "latency", 1e-3, 1e9, false, true },
	[METRIC_COST]    = { "cost", 0, 1e15, false, true },
	[METRIC_ERROR]   = { "error", 0, 1, false, false },
};

const char *metric_name(enum metric m) { return m < METRIC_COUNT ? scales[m].name : "unknown"; }
bool metric_more_is_better(enum metric m) { return scales[m].more_is_better; }
bool metric_is_ratio(enum metric m) { return scales[m].is_log; }

bool metric_parse(struct str word, enum metric *ret)
{
	for (int m = 0; m < METRIC_COUNT; m++)
		if (str_ieq(word, str_of(scales[m].name))) {
			*ret = (enum metric)m;
			return true;
		}
	return false;
}

double metric_scale(enum metric m, double value)
{
	const struct scale *s = &scales[m];

	if (isnan(value))
		return value;
	value = value < s->low ? s->low : value > s->high ? s->high : value;
	return m == METRIC_COST ? log1p(value) : s->is_log ? log(value) : value;
}

double metric_unscale(enum metric m, double scaled) { return m == METRIC_COST ? expm1(scaled) : scales[m].is_log ? exp(scaled) : scaled; }

bool tally_add(struct tally *t, enum metric m, double value)
{
	struct unit_total once = { 0, 0 };

	return tally_add_of(t, &once, m, value);
}

bool tally_add_of(struct tally *t, struct unit_total *u, enum metric m, double value)
{
	double y = metric_scale(m, value), before = (double)u->n;

	if (isnan(y))
		return false;
	t->n++;
	t->units += u->n == 0;
	t->sum += y;
	t->sum_yy += (2 * u->sum + y) * y;
	t->sum_yn += u->sum + y * (before + 1);
	t->sum_nn += 2 * before + 1;
	u->n++;
	u->sum += y;
	return true;
}

void tally_merge(struct tally *t, const struct tally *other)
{
	t->n += other->n;
	t->units += other->units;
	t->sum += other->sum;
	t->sum_yy += other->sum_yy;
	t->sum_yn += other->sum_yn;
	t->sum_nn += other->sum_nn;
}

double tally_mean(const struct tally *t) { return t->n ? t->sum / (double)t->n : 0; }

/* The variance of sum / n for totals of that many units (the ratio of two sums, to first order). */
static double variance(double n, double units, double sum, double yy, double yn, double nn)
{
	double mean, about;

	if (units < 2)
		return 0;
	mean = sum / n;
	about = yy - 2 * mean * yn + mean * mean * nn;
	return about > 0 ? about / (n * n) * (units / (units - 1)) : 0;
}

double tally_sd(const struct tally *t)
{
	return t->units < 2 ? 0 : sqrt(variance((double)t->n, (double)t->units, t->sum, t->sum_yy, t->sum_yn, t->sum_nn) * (double)t->n);
}

double tally_variance_of_mean(const struct tally *t, enum metric m)
{
	const struct scale *s = &scales[m];
	double low = s->low, high = s->high;

	if (s->is_log)
		return variance((double)t->n, (double)t->units, t->sum, t->sum_yy, t->sum_yn, t->sum_nn);
	return variance((double)t->n + 2, (double)t->units + 2, t->sum + low + high, t->sum_yy + low * low + high * high, t->sum_yn + low + high,
			t->sum_nn + 2);
}

static uint64_t bits_of(double d)
{
	uint64_t bits;

	memcpy(&bits, &d, sizeof bits);
	return bits;
}

static void put(uint8_t *out, uint64_t word)
{
	for (int i = 0; i < 8; i++)
		out[i] = (uint8_t)(word >> (8 * i));
}

static uint64_t take(const uint8_t *p)
{
	uint64_t word = 0;

	for (int i = 0; i < 8; i++)
		word |= (uint64_t)p[i] << (8 * i);
	return word;
}

static double take_double(const uint8_t *p)
{
	uint64_t bits = take(p);
	double d;

	memcpy(&d, &bits, sizeof d);
	return d;
}

void tally_pack(const struct tally *t, uint8_t out[TALLY_PACKED])
{
	const uint64_t words[] = { t->n, t->units, bits_of(t->sum), bits_of(t->sum_yy), bits_of(t->sum_yn), bits_of(t->sum_nn) };

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		put(out + 8 * i, words[i]);
}

bool tally_unpack(struct tally *ret, const uint8_t packed[TALLY_PACKED])
{
	struct tally t = { take(packed), take(packed + 8), take_double(packed + 16), take_double(packed + 24), take_double(packed + 32),
			   take_double(packed + 40) };

	if (t.units > t.n || (t.n && !t.units) || !isfinite(t.sum) || !isfinite(t.sum_yy) || !isfinite(t.sum_yn) || !isfinite(t.sum_nn) || t.sum_yy < 0 ||
	    t.sum_nn < (double)t.n)
		return false;
	*ret = t;
	return true;
}

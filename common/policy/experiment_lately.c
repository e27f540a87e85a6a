/* experiment_lately.c - see experiment_lately.h. Σ 1/(k·(k + 1)) over all k is 1, so the parts of alpha are 1/2 + 3 · 1/6. That windows share units, and
 * that the next one begins when the outcomes say so, matters nothing: each is valid by itself, and chances of being wrong add up at most. */
#include "common/policy/experiment_lately.h"

enum { SMALLEST = 100, TIMES = 4, OUTCOMES_OF_A_UNIT = 8 };

static uint64_t units_of(int window)
{
	uint64_t units = SMALLEST;

	while (window--)
		units *= TIMES;
	return units;
}

void lately_begin(struct lately *w)
{
	*w = (struct lately){ 0 };
	for (int i = 0; i < LATE_WINDOWS; i++)
		lately_again(w, i);
}

void lately_again(struct lately *w, int window)
{
	w->began[window] = w->now + 1;
	w->number[window]++;
}

bool lately_is_full(const struct sequential *s, int window, const struct tally *const *arms, int n_arms)
{
	uint64_t units = units_of(window);

	for (int i = 0; i < n_arms; i++)
		if (arms[i]->units < units && (arms[i]->units < s->min_units || arms[i]->n < units * OUTCOMES_OF_A_UNIT))
			return false;
	return true;
}

struct sequential lately_whole(const struct sequential *all)
{
	struct sequential s = *all;

	s.alpha /= 2;
	return s;
}

struct sequential lately_part(const struct sequential *all, int window, uint64_t number)
{
	double k = number ? (double)number : 1;
	struct sequential s = *all;

	s.alpha /= 2.0 * LATE_WINDOWS * k * (k + 1);
	s.tuned_units = (double)units_of(window) / 2;
	return s;
}

/* sums.h - what is added up over attempts: counts, tokens, money, and latency as a histogram that can be merged.
 *
 * The histogram has 16 buckets to a doubling, from 1 us up: a percentile is the middle of its bucket and at most 3.2 % off.
 * Everything is an integer and can be taken off again, so that a row that changes leaves no trace of what it was. */
#ifndef CORRAL_USAGE_SUMS_H
#define CORRAL_USAGE_SUMS_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

struct hist_bucket { uint32_t index; int64_t count; };
struct hist { struct hist_bucket *at; uint32_t n, cap; };           /* ascending by index; zero-initialised is empty */

void hist_add(struct hist *, uint64_t value, int64_t count);        /* count may be negative */
void hist_merge(struct hist *, const struct hist *);
double hist_percentile(const struct hist *, double fraction);       /* 0.95; 0 when empty */
void hist_encode(const struct hist *, struct buf *);                /* appends */
bool hist_decode(struct hist *, struct str);                        /* adds what was encoded */
void hist_free(struct hist *);

struct sums {
	int64_t attempts, requests, finished, ok, errors, cached;
	int64_t prompt_tokens, completion_tokens, cost_microusd, gpu_us, energy_mj;
	struct hist latency_us;
};

void sums_add(struct sums *, const struct sums *);
void sums_free(struct sums *);
#endif

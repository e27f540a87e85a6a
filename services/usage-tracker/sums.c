/* sums.c - see sums.h. */
#include "services/usage-tracker/sums.h"

#include "common/base/arena.h"

enum { SUB_BITS = 4, SUB = 1 << SUB_BITS };

/* Values below 16 have a bucket each; above, the leading bit and the four behind it choose. */
static uint32_t bucket_of(uint64_t v)
{
	unsigned top = v < SUB ? 0 : 63 - (unsigned)__builtin_clzll(v) - SUB_BITS;

	return v < SUB ? (uint32_t)v : top * SUB + (uint32_t)(v >> top);
}

static double bucket_middle(uint32_t index)
{
	unsigned top = index < 2 * SUB ? 0 : index / SUB - 1;
	double low = (double)((uint64_t)(index - top * SUB) << top);

	return index < SUB ? low : low + ((double)((uint64_t)1 << top) - 1) / 2;
}

static struct hist_bucket *bucket_at(struct hist *h, uint32_t index)
{
	uint32_t lo = 0, hi = h->n;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (h->at[mid].index < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < h->n && h->at[lo].index == index)
		return &h->at[lo];
	if (h->n == h->cap) {
		h->cap = h->cap ? h->cap * 2 : 16;
		h->at = x_realloc(h->at, h->cap * sizeof(*h->at));
	}
	memmove(h->at + lo + 1, h->at + lo, (h->n - lo) * sizeof(*h->at));
	h->n++;
	h->at[lo] = (struct hist_bucket){ index, 0 };
	return &h->at[lo];
}

void hist_add(struct hist *h, uint64_t value, int64_t count)
{
	bucket_at(h, bucket_of(value))->count += count;
}

void hist_merge(struct hist *h, const struct hist *other)
{
	for (uint32_t i = 0; i < other->n; i++)
		bucket_at(h, other->at[i].index)->count += other->at[i].count;
}

double hist_percentile(const struct hist *h, double fraction)
{
	int64_t total = 0, rank, seen = 0;

	for (uint32_t i = 0; i < h->n; i++)
		total += h->at[i].count;
	if (total <= 0)
		return 0;
	rank = (int64_t)(fraction * (double)total);
	rank += (double)rank < fraction * (double)total;      /* nearest rank: round up */
	for (uint32_t i = 0; i < h->n; i++) {
		seen += h->at[i].count;
		if (seen >= rank && seen > 0)
			return bucket_middle(h->at[i].index);
	}
	return 0;
}

static void varint(struct buf *b, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		buf_char(b, (char)(v | 0x80));
	buf_char(b, (char)v);
}

static bool varint_take(struct str *s, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64 && s->n; shift += 7) {
		uint8_t c = (uint8_t)*s->p;

		*s = str_from(*s, 1);
		v |= (uint64_t)(c & 0x7f) << shift;
		if (c < 0x80) {
			*ret = v;
			return true;
		}
	}
	return false;
}

void hist_encode(const struct hist *h, struct buf *b)
{
	uint32_t last = 0;

	for (uint32_t i = 0; i < h->n; i++) {
		if (h->at[i].count == 0)
			continue;
		varint(b, h->at[i].index - last);
		varint(b, (uint64_t)h->at[i].count);
		last = h->at[i].index;
	}
}

bool hist_decode(struct hist *h, struct str s)
{
	uint64_t step, count, index = 0;

	while (s.n) {
		if (!varint_take(&s, &step) || !varint_take(&s, &count) || step > 4096)
			return false;
		index += step;
		bucket_at(h, (uint32_t)index)->count += (int64_t)count;
	}
	return true;
}

void hist_free(struct hist *h)
{
	free(h->at);
	*h = (struct hist){ 0 };
}

void sums_add(struct sums *s, const struct sums *o)
{
	s->attempts += o->attempts;
	s->requests += o->requests;
	s->finished += o->finished;
	s->ok += o->ok;
	s->errors += o->errors;
	s->cached += o->cached;
	s->prompt_tokens += o->prompt_tokens;
	s->completion_tokens += o->completion_tokens;
	s->cost_microusd += o->cost_microusd;
	s->gpu_us += o->gpu_us;
	s->energy_mj += o->energy_mj;
	hist_merge(&s->latency_us, &o->latency_us);
}

void sums_free(struct sums *s)
{
	hist_free(&s->latency_us);
}

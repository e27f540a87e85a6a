/* meter.h - the energy that a slot of a replica has been reckoned to use since the start, as a counter: what an attempt used is the difference from its beginning to
 * its end, with every change of power between. The control thread sets how fast it runs; workers read it at any time, at the cost of a multiplication.
 *
 * It stands still while nobody says how fast it runs: what was told counts until METER_HOLD_US later. */
#ifndef CORRAL_GATEWAY_METER_H
#define CORRAL_GATEWAY_METER_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { METER_HOLD_US = 2000000 };     /* PARTS_HOLD_MS of the model-registry (power_parts.h) */

struct meter {
	_Atomic uint32_t seq;         /* odd while it is being set */
	_Atomic int64_t uj, at_us;    /* what it showed then; loop clock */
	_Atomic int64_t uw, until_us; /* how fast it runs, and until when */
	_Atomic int64_t most_uw;      /* of one slot, as far as is known: what budgets hold */
};

static inline int64_t meter_between(int64_t uj, int64_t at_us, int64_t uw, int64_t until_us, int64_t now_us)
{
	int64_t end = now_us < until_us ? now_us : until_us;

	/* at most a few seconds of at most 100 kW: far from the end of 64 bits */
	return end > at_us ? uj + uw * (end - at_us) / 1000000 : uj;
}

/* Microjoules; never falls. Who sees one value of a setting sees that it is under way: each is stored after 'seq', and read before it. */
static inline int64_t meter_read(struct meter *m, int64_t now_us)
{
	for (;;) {
		uint32_t seq = atomic_load_explicit(&m->seq, memory_order_acquire);
		int64_t uj = atomic_load_explicit(&m->uj, memory_order_acquire), at = atomic_load_explicit(&m->at_us, memory_order_acquire);
		int64_t uw = atomic_load_explicit(&m->uw, memory_order_acquire), until = atomic_load_explicit(&m->until_us, memory_order_acquire);

		if (!(seq & 1) && atomic_load_explicit(&m->seq, memory_order_relaxed) == seq)
			return meter_between(uj, at, uw, until, now_us);
	}
}

/* One thread. 'until_us' is when this is too old to go on. */
static inline void meter_set(struct meter *m, int64_t uw, int64_t now_us, int64_t until_us)
{
	uint32_t seq = atomic_load_explicit(&m->seq, memory_order_relaxed);
	int64_t uj = meter_read(m, now_us);

	atomic_store_explicit(&m->seq, seq + 1, memory_order_relaxed);
	atomic_store_explicit(&m->uj, uj, memory_order_release);
	atomic_store_explicit(&m->at_us, now_us, memory_order_release);
	atomic_store_explicit(&m->uw, uw, memory_order_release);
	atomic_store_explicit(&m->until_us, until_us, memory_order_release);
	atomic_store_explicit(&m->seq, seq + 2, memory_order_release);
}
#endif

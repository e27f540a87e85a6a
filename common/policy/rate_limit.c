/* rate_limit.c - see rate_limit.h. A ring of slots; slot s lies at s % RATE_SLOTS and is over when slot s + RATE_SLOTS begins. */
#include "common/policy/rate_limit.h"

#include <string.h>

static int64_t slot_of(int64_t us) { return us / RATE_SLOT_US; }

/* Empties the slots that are over. */
static void advance(struct rate_window *w, int64_t now_us)
{
	int64_t now = slot_of(now_us);

	if (now - w->newest >= RATE_SLOTS) {
		memset(w->slots, 0, sizeof(w->slots));
		w->sum = 0;
		w->newest = now;
	}
	while (w->newest < now) {
		uint32_t *slot = &w->slots[++w->newest % RATE_SLOTS];

		w->sum -= *slot;
		*slot = 0;
	}
}

uint64_t rate_used(struct rate_window *w, int64_t now_us)
{
	advance(w, now_us);
	return w->sum;
}

void rate_add(struct rate_window *w, int64_t now_us, uint64_t n)
{
	uint32_t *slot;

	advance(w, now_us);
	slot = &w->slots[w->newest % RATE_SLOTS];
	if (n > UINT32_MAX - *slot)
		n = UINT32_MAX - *slot;
	*slot += (uint32_t)n;
	w->sum += n;
}

void rate_give_back(struct rate_window *w, int64_t now_us, int64_t taken_us, uint64_t n)
{
	int64_t at = slot_of(taken_us);
	uint32_t *slot;

	advance(w, now_us);
	if (at > w->newest || at <= w->newest - RATE_SLOTS)
		return;
	slot = &w->slots[at % RATE_SLOTS];
	if (n > *slot)
		n = *slot;
	*slot -= (uint32_t)n;
	w->sum -= n;
}

int64_t rate_wait_us(struct rate_window *w, int64_t now_us, uint64_t most)
{
	uint64_t left = rate_used(w, now_us);
	int64_t s = w->newest - RATE_SLOTS;

	if (left <= most)
		return 0;
	while (left > most && s < w->newest)
		if (++s >= 0)
			left -= w->slots[s % RATE_SLOTS];
	return (s + RATE_SLOTS) * RATE_SLOT_US - now_us;
}

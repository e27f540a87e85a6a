/* rate_limit.c - see rate_limit.h.
 *
 *   now                 full_at            now + 60 s
 *    |----- taken --------|------ free -------|          taking n moves full_at by n * unit_ns to the right, at most to the end */
#include "common/policy/rate_limit.h"

static const double minute_ns = 60e9, longest_unit_ns = 3.2e17;

void rate_limit_set(struct rate_limit *l, double per_minute)
{
	double unit = per_minute > 0 ? minute_ns / per_minute : 0;

	atomic_store_explicit(&l->unit_ns, unit > longest_unit_ns ? longest_unit_ns : unit, memory_order_relaxed);
}

/* Far below what 64 bits hold, however absurd the numbers. */
static int64_t cost_ns(double unit, double n)
{
	double cost = unit * n;

	return cost > 4e18 ? (int64_t)4e18 : cost < -4e18 ? -(int64_t)4e18 : (int64_t)cost;
}

bool rate_limit_take(struct rate_limit *l, int64_t now_us, uint64_t n, int64_t *ret_wait_us)
{
	double unit = atomic_load_explicit(&l->unit_ns, memory_order_relaxed);
	int64_t now = now_us * 1000, was, begin, cost;

	if (unit == 0)
		return true;
	cost = cost_ns(unit, (double)n);
	was = atomic_load_explicit(&l->full_at_ns, memory_order_relaxed);
	do {
		int64_t room;

		begin = was > now ? was : now;
		room = (int64_t)minute_ns - (begin - now);
		/* a thousandth of a unit is forgiven: the unit's time is not a whole number */
		if (cost > room + (int64_t)(unit / 1000) && begin > now) {
			int64_t enough = cost < (int64_t)minute_ns ? cost : (int64_t)minute_ns;

			*ret_wait_us = (enough - room) / 1000 + 1;
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(&l->full_at_ns, &was, begin + cost, memory_order_relaxed, memory_order_relaxed));
	return true;
}

void rate_limit_settle(struct rate_limit *l, int64_t now_us, int64_t more)
{
	double unit = atomic_load_explicit(&l->unit_ns, memory_order_relaxed);
	int64_t now = now_us * 1000, was = atomic_load_explicit(&l->full_at_ns, memory_order_relaxed), then;

	if (unit == 0 || more == 0)
		return;
	do {
		if (__builtin_add_overflow(was > now ? was : now, cost_ns(unit, (double)more), &then))
			then = INT64_MAX;
	} while (!atomic_compare_exchange_weak_explicit(&l->full_at_ns, &was, then, memory_order_relaxed, memory_order_relaxed));
}

struct rate_state rate_limit_state(const struct rate_limit *l, int64_t now_us)
{
	double unit = atomic_load_explicit(&l->unit_ns, memory_order_relaxed), room;
	int64_t taken = atomic_load_explicit(&l->full_at_ns, memory_order_relaxed) - now_us * 1000;

	if (unit == 0)
		return (struct rate_state){ 0 };
	taken = taken < 0 ? 0 : taken;
	room = minute_ns - (double)taken;
	return (struct rate_state){ .limit = (uint64_t)(minute_ns / unit + 0.5), .remaining = room > 0 ? (uint64_t)(room / unit + 0.001) : 0,
		.reset_us = taken / 1000 };
}

/* budget.h - how many bytes a group of buffers may hold together; any thread. Who takes gives back the same number.
 *
 * A budget of 0 has no limit, and still counts. NULL is fine everywhere: nothing is counted. */
#ifndef CORRAL_BASE_BUDGET_H
#define CORRAL_BASE_BUDGET_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct budget {
	_Atomic int64_t used;
	int64_t max;
};

static inline int64_t budget_used(const struct budget *b) { return b ? atomic_load_explicit(&b->used, memory_order_relaxed) : 0; }
static inline bool budget_is_full(const struct budget *b) { return b && b->max && budget_used(b) >= b->max; }

/* For what must be held whatever it costs: an answer that is made already. */
static inline void budget_force(struct budget *b, size_t n)
{
	if (b)
		atomic_fetch_add_explicit(&b->used, (int64_t)n, memory_order_relaxed);
}

static inline void budget_give(struct budget *b, size_t n)
{
	if (b)
		atomic_fetch_sub_explicit(&b->used, (int64_t)n, memory_order_relaxed);
}

/* False: there is no room, nothing was taken. */
static inline bool budget_take(struct budget *b, size_t n)
{
	if (!b || atomic_fetch_add_explicit(&b->used, (int64_t)n, memory_order_relaxed) + (int64_t)n <= b->max || !b->max)
		return true;
	budget_give(b, n);
	return false;
}
#endif

/* rate_limit.h - so many units a minute, exact however many threads take them.
 *
 * A bucket that holds a minute's worth and fills steadily, kept as one number: the time at which it will be full again (the generic cell
 * rate algorithm). Any thread; one compare-and-swap a taking. The clock is a parameter, in microseconds, and never goes back.
 * Zero-initialised is "no limit". */
#ifndef CORRAL_POLICY_RATE_LIMIT_H
#define CORRAL_POLICY_RATE_LIMIT_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rate_limit {
	_Atomic int64_t full_at_ns;
	_Atomic double unit_ns;               /* a unit's time to grow back; 0 = no limit */
};

/* 0 = no limit. What was taken stays taken. A limit that is too small to ever be reached counts as its smallest: one in ten years. */
void rate_limit_set(struct rate_limit *, double per_minute);
/* Takes n units, or none: then *ret_wait_us says when it will have them. More than a whole bucket is given when the bucket is full: the
 * debt then keeps everybody waiting who comes after. */
bool rate_limit_take(struct rate_limit *, int64_t now_us, uint64_t n, int64_t *ret_wait_us);
/* What was taken turned out to be so many more (fewer: negative). */
void rate_limit_settle(struct rate_limit *, int64_t now_us, int64_t more);

struct rate_state {
	uint64_t limit, remaining;            /* a minute; limit 0 = none */
	int64_t reset_us;                     /* until it is full */
};
struct rate_state rate_limit_state(const struct rate_limit *, int64_t now_us);
#endif

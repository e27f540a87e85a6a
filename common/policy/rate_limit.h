/* rate_limit.h - how much was used in the last minute, so that no minute ever has more than its limit.
 *
 * Time is cut into slots of two seconds, and each slot remembers what was taken in it. What was taken counts for at least 60 and for
 * less than 62 seconds: a limit of N can be used up at once, and then nothing is left before the first of it is a minute old. There is
 * no minute, wherever it begins, in which more than N were taken.
 * Pure: the clock is a parameter, in microseconds, and may stand still but not go back. One thread, or a lock around it.
 * Zero-initialised is "nothing used". */
#ifndef CORRAL_POLICY_RATE_LIMIT_H
#define CORRAL_POLICY_RATE_LIMIT_H
#include <stdint.h>

enum { RATE_SLOTS = 31, RATE_SLOT_US = 2000000 };

struct rate_window {
	int64_t newest;                       /* number of the slot that was written last */
	uint64_t sum;
	uint32_t slots[RATE_SLOTS];           /* a slot that would hold more counts as full */
};

uint64_t rate_used(struct rate_window *, int64_t now_us);
void rate_add(struct rate_window *, int64_t now_us, uint64_t n);
/* Of what was taken at that time so much was not needed. What has run out meanwhile stays out. */
void rate_give_back(struct rate_window *, int64_t now_us, int64_t taken_us, uint64_t n);
/* Until no more than 'most' of what is used now is left. */
int64_t rate_wait_us(struct rate_window *, int64_t now_us, uint64_t most);
#endif

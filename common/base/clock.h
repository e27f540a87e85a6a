/* clock.h - the two clocks, and how tests move them.
 *
 * Durations and deadlines use the monotonic clock (mono); what is stored or shown uses the wall clock.
 * When the environment names a file in CORRAL_TEST_CLOCK, its first 16 bytes (two int64, microseconds,
 * native order: added to mono, added to wall) are mapped and added to every reading; tests move time by writing there,
 * and loops then wake at least every 20 ms to notice. Without it the cost is one addition. */
#ifndef CORRAL_BASE_CLOCK_H
#define CORRAL_BASE_CLOCK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t mono_us(void);
int64_t wall_us(void);
static inline int64_t mono_ms(void) { return mono_us() / 1000; }
static inline int64_t wall_ms(void) { return wall_us() / 1000; }

void clock_init(void);                    /* maps CORRAL_TEST_CLOCK; called once by svc_main and test mains */
bool clock_is_test(void);

/* "2026-11-21T09:00:00.123456Z"; digits = 0, 3 or 6 fractional digits. cap >= 28. Returns its length. */
size_t clock_rfc3339(int64_t us, int digits, char *out, size_t cap);
bool clock_parse_rfc3339(const char *s, int64_t *ret_us);   /* "2026-11-21", with or without a time; Z or ±hh:mm */
#endif

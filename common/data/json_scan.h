/* json_scan.h - finds the bytes of a string that matter, many at a time. Private to json.c and json_write.c.
 *
 * On x86-64 the first 16 bytes are looked at in place (most strings are short), the rest 32 at a time where the
 * processor has AVX2, else 16; elsewhere byte by byte. Nothing is read outside [p, end). */
#ifndef CORRAL_DATA_JSON_SCAN_H
#define CORRAL_DATA_JSON_SCAN_H
#include <stdbool.h>
#include <stddef.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* The first byte that is a quote, a backslash or below 0x20, or 'end'. *wide is set when bytes from 0x80 on were passed. */
static inline const char *json_scan(const char *p, const char *end, bool *wide);

/* The first byte of the first sequence in [p, end) that is not valid UTF-8, or 'end'. */
const char *json_scan_utf8(const char *p, const char *end);

/* The valid sequence at p (p < end) has this many bytes; 0 when it is invalid. *skip: how many bytes one U+FFFD replaces then. */
unsigned json_utf8_length(const char *p, const char *end, unsigned *skip);

/* The implementations, for the test that compares them; json_scan_use() picks one for the process (tests only). */
enum json_scan_isa { JSON_SCAN_PLAIN, JSON_SCAN_SSE2, JSON_SCAN_AVX2 };
bool json_scan_use(enum json_scan_isa);       /* false when this machine has it not */
enum json_scan_isa json_scan_best(void);

extern const char *(*json_scan_rest)(const char *p, const char *end, bool *wide);

#ifdef __SSE2__
/* One bit for each of 16 bytes that is a quote, a backslash or below 0x20. */
static inline unsigned json_scan_mask16(__m128i v)
{
	__m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
	__m128i slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
	__m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);

	return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), control));
}

static inline const char *json_scan(const char *p, const char *end, bool *wide)
{
	__m128i v;
	unsigned found, high;

	if (end - p < 16)
		return json_scan_rest(p, end, wide);
	v = _mm_loadu_si128((const __m128i *)(const void *)p);
	found = json_scan_mask16(v);
	high = (unsigned)_mm_movemask_epi8(v);
	if (!found) {
		*wide |= high != 0;
		return json_scan_rest(p + 16, end, wide);
	}
	*wide |= (high & (found - 1) & ~found) != 0;      /* only those before the first found */
	return p + __builtin_ctz(found);
}
#else
static inline const char *json_scan(const char *p, const char *end, bool *wide) { return json_scan_rest(p, end, wide); }
#endif
#endif

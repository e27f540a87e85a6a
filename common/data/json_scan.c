/* json_scan.c - see json_scan.h. UTF-8 with AVX2 follows Keiser and Lemire, "Validating UTF-8 in less than one
 * instruction per byte": three table look-ups by nibble say for each pair of bytes which rules it could break. */
#include "common/data/json_scan.h"

#include <stdint.h>

static inline bool special(unsigned char c) { return c == '"' || c == '\\' || c < 0x20; }

static const char *scan_plain(const char *p, const char *end, bool *wide)
{
	unsigned char all = 0;

	for (; p < end && !special((unsigned char)*p); p++)
		all |= (unsigned char)*p;
	*wide |= all >= 0x80;
	return p;
}

unsigned json_utf8_length(const char *p, const char *end, unsigned *skip)
{
	const unsigned char *s = (const unsigned char *)p;
	unsigned c = s[0], n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	unsigned low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;      /* no overlong forms */
	unsigned high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;     /* no surrogates, nothing above U+10FFFF */

	*skip = 1;
	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4 || end - p < 2 || s[1] < low || s[1] > high)
		return 0;
	for (*skip = 2; *skip < n; ++*skip)
		if (end - p <= (ptrdiff_t)*skip || (s[*skip] & 0xc0) != 0x80)
			return 0;
	return n;
}

static const char *utf8_plain(const char *p, const char *end)
{
	unsigned n, skip;

	while (p < end) {
		uint64_t eight;

		if (end - p >= 8) {
			__builtin_memcpy(&eight, p, 8);
			if (!(eight & 0x8080808080808080ULL)) {
				p += 8;
				continue;
			}
		}
		n = json_utf8_length(p, end, &skip);
		if (n == 0)
			return p;
		p += n;
	}
	return end;
}

const char *(*json_scan_rest)(const char *p, const char *end, bool *wide) = scan_plain;
static const char *(*utf8_all)(const char *p, const char *end) = utf8_plain;

const char *json_scan_utf8(const char *p, const char *end) { return utf8_all(p, end); }

#ifdef __SSE2__
#include <immintrin.h>

static const char *scan_sse2(const char *p, const char *end, bool *wide)
{
	for (; end - p >= 16; p += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
		unsigned found = json_scan_mask16(v), high = (unsigned)_mm_movemask_epi8(v);

		if (found) {
			*wide |= (high & (found - 1) & ~found) != 0;
			return p + __builtin_ctz(found);
		}
		*wide |= high != 0;
	}
	return scan_plain(p, end, wide);
}

__attribute__((target("avx2"))) static inline __m256i special32(__m256i v)
{
	__m256i quote = _mm256_cmpeq_epi8(v, _mm256_set1_epi8('"'));
	__m256i slash = _mm256_cmpeq_epi8(v, _mm256_set1_epi8('\\'));
	__m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(v, _mm256_set1_epi8(0x1f)), v);

	return _mm256_or_si256(_mm256_or_si256(quote, slash), control);
}

/* The two are the only bytes that the table gives back for their low nibble; a zero is found as well, which is a control. */
__attribute__((target("avx2"))) static inline __m256i quote_or_slash(__m256i v)
{
	const __m256i table = _mm256_setr_epi8(0, 0, '"', 0, 0, 0, 0, 0, 0, 0, 0, 0, '\\', 0, 0, 0, 0, 0, '"', 0, 0, 0, 0, 0, 0, 0, 0, 0, '\\', 0, 0, 0);

	return _mm256_cmpeq_epi8(_mm256_shuffle_epi8(table, v), v);
}

/* Prompts are long strings with nothing special in them: four blocks are looked at together. True: there is nothing. */
__attribute__((target("avx2"))) static inline bool is_plain128(const char *p, __m256i *all)
{
	const __m256i *at = (const __m256i *)(const void *)p, highest = _mm256_set1_epi8(0x1f);
	__m256i a = _mm256_loadu_si256(at), b = _mm256_loadu_si256(at + 1), c = _mm256_loadu_si256(at + 2), d = _mm256_loadu_si256(at + 3);
	__m256i least = _mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d));
	__m256i found = _mm256_or_si256(_mm256_or_si256(quote_or_slash(a), quote_or_slash(b)), _mm256_or_si256(quote_or_slash(c), quote_or_slash(d)));

	found = _mm256_or_si256(found, _mm256_cmpeq_epi8(_mm256_min_epu8(least, highest), least));
	if (!_mm256_testz_si256(found, found))
		return false;
	*all = _mm256_or_si256(*all, _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
	return true;
}

__attribute__((target("avx2"))) static const char *scan_avx2(const char *p, const char *end, bool *wide)
{
	__m256i all = _mm256_setzero_si256();

	while (end - p >= 128 && is_plain128(p, &all))
		p += 128;
	for (; end - p >= 32; p += 32) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)p);
		unsigned found = (unsigned)_mm256_movemask_epi8(special32(v));

		if (found) {
			unsigned high = (unsigned)_mm256_movemask_epi8(v);

			*wide |= ((high & (found - 1) & ~found) != 0) | (_mm256_movemask_epi8(all) != 0);
			return p + __builtin_ctz(found);
		}
		all = _mm256_or_si256(all, v);
	}
	*wide |= _mm256_movemask_epi8(all) != 0;
	return scan_sse2(p, end, wide);
}

/* What a pair of neighbouring bytes may break; bits of the three tables below. */
enum {
	SHORT    = 1 << 0,      /* a lead byte without its continuation */
	LONG     = 1 << 1,      /* a continuation after ASCII */
	OVER_3   = 1 << 2,      /* e0 80..9f: overlong */
	LARGE    = 1 << 3,      /* f4 90.. and f5..: above U+10FFFF */
	SURR     = 1 << 4,      /* ed a0..bf: a surrogate */
	OVER_2   = 1 << 5,      /* c0, c1: overlong */
	LARGE_OR_OVER_4 = 1 << 6,     /* f5.. 80..8f, or f0 80..8f: overlong */
	TWO_CONT = 1 << 7,      /* two continuations: right only as bytes 3 and 4, checked apart */
	CARRY    = SHORT | LONG | TWO_CONT,
};
#define BY_LEAD_HIGH LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG, (char)TWO_CONT, (char)TWO_CONT, (char)TWO_CONT, (char)TWO_CONT, \
	SHORT | OVER_2, SHORT, SHORT | OVER_3 | SURR, SHORT | LARGE | LARGE_OR_OVER_4
#define LARGE_ROW (char)(CARRY | LARGE | LARGE_OR_OVER_4)
#define BY_LEAD_LOW (char)(CARRY | OVER_3 | OVER_2 | LARGE_OR_OVER_4), (char)(CARRY | OVER_2), (char)CARRY, (char)CARRY, \
	(char)(CARRY | LARGE), LARGE_ROW, LARGE_ROW, LARGE_ROW, LARGE_ROW, LARGE_ROW, LARGE_ROW, LARGE_ROW, LARGE_ROW, \
	(char)(CARRY | LARGE | LARGE_OR_OVER_4 | SURR), LARGE_ROW, LARGE_ROW
#define CONT (LONG | OVER_2 | TWO_CONT)
#define BY_SECOND_HIGH SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, \
	(char)(CONT | OVER_3 | LARGE_OR_OVER_4), (char)(CONT | OVER_3 | LARGE), (char)(CONT | SURR | LARGE), (char)(CONT | SURR | LARGE), \
	SHORT, SHORT, SHORT, SHORT

__attribute__((target("avx2"))) static inline __m256i broken32(__m256i v, __m256i before)
{
	const __m256i nibble = _mm256_set1_epi8(0x0f);
	__m256i across = _mm256_permute2x128_si256(before, v, 0x21);
	__m256i prev1 = _mm256_alignr_epi8(v, across, 15);
	__m256i prev2 = _mm256_alignr_epi8(v, across, 14), prev3 = _mm256_alignr_epi8(v, across, 13);
	__m256i a = _mm256_shuffle_epi8(_mm256_setr_epi8(BY_LEAD_HIGH, BY_LEAD_HIGH), _mm256_and_si256(_mm256_srli_epi16(prev1, 4), nibble));
	__m256i b = _mm256_shuffle_epi8(_mm256_setr_epi8(BY_LEAD_LOW, BY_LEAD_LOW), _mm256_and_si256(prev1, nibble));
	__m256i c = _mm256_shuffle_epi8(_mm256_setr_epi8(BY_SECOND_HIGH, BY_SECOND_HIGH), _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
	__m256i pairs = _mm256_and_si256(_mm256_and_si256(a, b), c);
	__m256i third = _mm256_subs_epu8(prev2, _mm256_set1_epi8((char)(0xe0 - 0x80)));
	__m256i fourth = _mm256_subs_epu8(prev3, _mm256_set1_epi8((char)(0xf0 - 0x80)));
	__m256i must_continue = _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8((char)0x80));

	return _mm256_xor_si256(must_continue, pairs);
}

/* How many bytes before p, none of them wrong, belong to a sequence that may reach beyond p. */
static ptrdiff_t open_bytes(const char *start, const char *p)
{
	for (ptrdiff_t back = 1; back <= 3 && p - start >= back; back++)
		if ((p[-back] & 0xc0) == 0xc0)
			return back;
	return 0;
}

/* Whole blocks by table, the last bytes plainly, starting again at the last lead byte before them.
 * A broken block is walked plainly too, to say where. */
__attribute__((target("avx2"))) static const char *utf8_avx2(const char *p, const char *end)
{
	const char *start = p;
	__m256i before = _mm256_setzero_si256();

	for (; end - p >= 32; p += 32) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)p);
		__m256i broken;

		if (_mm256_movemask_epi8(_mm256_or_si256(v, before)) == 0)
			continue;      /* 'before' is ASCII too: nothing can be open */
		broken = broken32(v, before);
		if (!_mm256_testz_si256(broken, broken))
			break;
		before = v;
	}
	return utf8_plain(p - open_bytes(start, p), end);
}

bool json_scan_use(enum json_scan_isa isa)
{
	if (isa > json_scan_best())
		return false;
	json_scan_rest = isa == JSON_SCAN_AVX2 ? scan_avx2 : isa == JSON_SCAN_SSE2 ? scan_sse2 : scan_plain;
	utf8_all = isa == JSON_SCAN_AVX2 ? utf8_avx2 : utf8_plain;
	return true;
}

enum json_scan_isa json_scan_best(void)
{
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") ? JSON_SCAN_AVX2 : JSON_SCAN_SSE2;
}

__attribute__((constructor)) static void choose(void) { json_scan_use(json_scan_best()); }
#else
bool json_scan_use(enum json_scan_isa isa) { return isa == JSON_SCAN_PLAIN; }
enum json_scan_isa json_scan_best(void) { return JSON_SCAN_PLAIN; }
#endif

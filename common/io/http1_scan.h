/* http1_scan.h - character classes of HTTP, and the two scans that see every byte of a head. Private to http1*.c.
 *
 * The scans read 16 bytes at once where the machine can, and never one beyond 'end'. */
#ifndef CORRAL_IO_HTTP1_SCAN_H
#define CORRAL_IO_HTTP1_SCAN_H
#include <stdbool.h>
#include <stdint.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "common/base/str.h"

enum {
	C_TOKEN  = 1,             /* tchar of RFC 9110: names, methods, codings */
	C_TARGET = 2,             /* what may stand in a request target: visible ASCII but " # < > and backslash */
	C_HOST   = 4,             /* letters, digits, - . _ */
	C_HEX    = 8,
	C_VALUE  = 16,            /* tab, space, visible ASCII */
	C_OBS    = 32,            /* 0x80 and up */
	C_PLAIN  = 64,            /* means itself in a path: visible ASCII but % . and backslash */
};

extern const uint8_t http_class[256];

static inline bool http_is(char c, unsigned classes) { return http_class[(unsigned char)c] & classes; }
static inline char http_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

/* The first byte of no such class, or 'end'. */
static inline const char *http_skip(const char *p, const char *end, unsigned classes)
{
	while (p < end && http_is(*p, classes))
		p++;
	return p;
}

#ifdef __SSE2__
/* Bit i is set when byte i may not stand in a value. */
static inline unsigned http_bad_in_value(const char *p, bool obs_text)
{
	__m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m128i below = obs_text ? _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x)
	                         : _mm_cmplt_epi8(x, _mm_set1_epi8(0x20));     /* signed: 0x80 and up are below */
	__m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('\t')), below),
	                           _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7f)));

	return (unsigned)_mm_movemask_epi8(bad);
}

/* Bit i is set when byte i is neither a letter, a digit nor '-', of which nearly all names are made. */
static inline unsigned http_odd_in_name(const char *p)
{
	__m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m128i letter = _mm_cmplt_epi8(_mm_add_epi8(_mm_or_si128(x, _mm_set1_epi8(0x20)), _mm_set1_epi8((char)(0x80 - 'a'))),
	                                _mm_set1_epi8((char)(0x80 + 26)));
	__m128i digit = _mm_cmplt_epi8(_mm_add_epi8(x, _mm_set1_epi8((char)(0x80 - '0'))), _mm_set1_epi8((char)(0x80 + 10)));
	__m128i plain = _mm_or_si128(_mm_or_si128(letter, digit), _mm_cmpeq_epi8(x, _mm_set1_epi8('-')));

	return ~(unsigned)_mm_movemask_epi8(plain) & 0xffff;
}

/* Are all 16 bytes C_PLAIN, with no two slashes beside each other? */
static inline bool http_plain_16(const char *p)
{
	__m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m128i odd = _mm_or_si128(_mm_cmplt_epi8(x, _mm_set1_epi8(0x21)), _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7f)));    /* signed: 0x80 and up too */
	unsigned slashes = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8('/')));

	odd = _mm_or_si128(odd, _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('%')), _mm_cmpeq_epi8(x, _mm_set1_epi8('.'))));
	odd = _mm_or_si128(odd, _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
	return !_mm_movemask_epi8(odd) && !(slashes & slashes << 1);
}
#endif

/* C_VALUE, or C_VALUE | C_OBS. */
static inline const char *http_skip_value(const char *p, const char *end, bool obs_text)
{
#ifdef __SSE2__
	for (; end - p >= 16; p += 16) {
		unsigned bad = http_bad_in_value(p, obs_text);

		if (bad)
			return p + __builtin_ctz(bad);
	}
#endif
	return http_skip(p, end, obs_text ? C_VALUE | C_OBS : C_VALUE);
}

/* C_TOKEN. */
static inline const char *http_skip_token(const char *p, const char *end)
{
#ifdef __SSE2__
	for (; end - p >= 16; p += 16) {
		unsigned odd = http_odd_in_name(p);

		if (odd) {
			p += __builtin_ctz(odd);
			break;
		}
	}
#endif
	return http_skip(p, end, C_TOKEN);
}

bool http_all(struct str s, unsigned classes);           /* true for an empty string */
bool http_lookalike(struct str name);                    /* Content_Length and its kind: not the name, but read as it by some */
unsigned http_unhex(char c);                             /* of a C_HEX */

/* Removes the first element of a comma list, trimmed; empty ones are skipped. False when none is left. */
bool http_list_next(struct str *rest, struct str *ret_item);
#endif

/* str.c - see str.h. */
#include "common/base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

static inline unsigned char lower(unsigned char c) { return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c; }

/* Of eight letters. A byte's top bit is set in from_a when it is 'A' or more, in past_z when it is more than 'Z'. */
static inline uint64_t lower8(uint64_t v)
{
	const uint64_t each = 0x0101010101010101u, top = 0x80 * each;
	uint64_t from_a = (v & ~top) + (0x80 - 'A') * each, past_z = (v & ~top) + (0x80 - 'Z' - 1) * each;

	return v | (from_a & ~past_z & ~v & top) >> 2;
}

/* Most are equal, or differ by more than the one bit that parts upper from lower case. */
static inline bool eq8(uint64_t a, uint64_t b)
{
	uint64_t differ = a ^ b;

	return !differ || (!(differ & ~0x2020202020202020u) && lower8(a) == lower8(b));
}

static inline uint64_t load8(const char *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

/* All of 4 to 7 bytes, some of them twice. */
static inline uint64_t load_4_to_7(const char *p, size_t n)
{
	uint32_t first, last;

	memcpy(&first, p, 4);
	memcpy(&last, p + n - 4, 4);
	return first | (uint64_t)last << 32;
}

bool str_letters_eq(const char *a, const char *b, size_t n)
{
	if (n >= 8) {
		for (size_t i = 0; i + 8 < n; i += 8)
			if (!eq8(load8(a + i), load8(b + i)))
				return false;
		return eq8(load8(a + n - 8), load8(b + n - 8));
	}
	if (n >= 4)
		return eq8(load_4_to_7(a, n), load_4_to_7(b, n));
	for (size_t i = 0; i < n; i++)
		if (lower((unsigned char)a[i]) != lower((unsigned char)b[i]))
			return false;
	return true;
}

bool str_ends(struct str s, struct str suffix)
{
	return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

int str_cmp(struct str a, struct str b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int c = n ? memcmp(a.p, b.p, n) : 0;

	if (c)
		return c;
	return (a.n > b.n) - (a.n < b.n);
}

struct str str_trim(struct str s)
{
	while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
		s.p++, s.n--;
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

const char *str_find(struct str s, struct str needle)
{
	if (needle.n == 0)
		return s.p;
	return s.n < needle.n ? NULL : memmem(s.p, s.n, needle.p, needle.n);
}

const char *str_ifind(struct str s, struct str needle)
{
	if (needle.n == 0)
		return s.p;
	for (size_t i = 0; i + needle.n <= s.n; i++)
		if (lower((unsigned char)s.p[i]) == lower((unsigned char)needle.p[0]) && str_ieq(str_n(s.p + i, needle.n), needle))
			return s.p + i;
	return NULL;
}

bool str_split(struct str *rest, char sep, struct str *ret_part)
{
	const char *at;

	if (!rest->p)
		return false;
	at = rest->n ? memchr(rest->p, sep, rest->n) : NULL;
	if (!at) {
		*ret_part = *rest;
		*rest = (struct str){ NULL, 0 };
		return true;
	}
	*ret_part = str_n(rest->p, (size_t)(at - rest->p));
	*rest = str_n(at + 1, rest->n - ret_part->n - 1);
	return true;
}

bool str_copy(char *dst, size_t cap, struct str s)
{
	size_t n = s.n < cap ? s.n : cap - 1;

	if (n)
		memcpy(dst, s.p, n);
	dst[n] = '\0';
	return n == s.n;
}

bool str_u64(struct str s, uint64_t *ret)
{
	uint64_t v = 0;

	if (s.n == 0)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned d = (unsigned)(unsigned char)s.p[i] - '0';

		if (d > 9 || v > (UINT64_MAX - d) / 10)
			return false;
		v = v * 10 + d;
	}
	*ret = v;
	return true;
}

bool str_i64(struct str s, int64_t *ret)
{
	bool negative = s.n && s.p[0] == '-';
	uint64_t v;

	if (!str_u64(negative ? str_from(s, 1) : s, &v) || v > (uint64_t)INT64_MAX + negative)
		return false;
	*ret = negative ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

bool str_double(struct str s, double *ret)
{
	char z[64], *end;
	double v;

	if (s.n == 0 || s.n >= sizeof(z) || isspace((unsigned char)s.p[0]))
		return false;
	str_copy(z, sizeof(z), s);
	errno = 0;
	v = strtod(z, &end);
	if (end != z + s.n || (errno == ERANGE && (v > 1 || v < -1)))
		return false;
	*ret = v;
	return true;
}

struct str str_from_u64(uint64_t v, char out[20])
{
	size_t at = 20;

	do {
		out[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	return str_n(out + at, 20 - at);
}

bool str_utf8_valid(struct str s)
{
	const unsigned char *p = (const unsigned char *)s.p, *end = s.n ? p + s.n : p;

	while (p < end) {
		unsigned c = *p;
		unsigned follow, min;

		if (c < 0x80) {
			p++;
			continue;
		}
		if (c >= 0xc2 && c <= 0xdf)
			follow = 1, min = 0x80, c &= 0x1f;
		else if (c >= 0xe0 && c <= 0xef)
			follow = 2, min = 0x800, c &= 0x0f;
		else if (c >= 0xf0 && c <= 0xf4)
			follow = 3, min = 0x10000, c &= 0x07;
		else
			return false;
		if ((size_t)(end - p) <= follow)
			return false;
		for (unsigned i = 1; i <= follow; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return false;
			c = c << 6 | (p[i] & 0x3f);
		}
		if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
			return false;
		p += follow + 1;
	}
	return true;
}

unsigned str_distance(struct str a, struct str b)
{
	unsigned row[3][66];

	if (a.n > 64)
		a.n = 64;
	if (b.n > 64)
		b.n = 64;
	for (unsigned j = 0; j <= b.n; j++)
		row[0][j] = j;
	for (unsigned i = 1; i <= a.n; i++) {
		unsigned *now = row[i % 3], *prev = row[(i + 2) % 3], *prev2 = row[(i + 1) % 3];

		now[0] = i;
		for (unsigned j = 1; j <= b.n; j++) {
			unsigned char ca = lower((unsigned char)a.p[i - 1]), cb = lower((unsigned char)b.p[j - 1]);
			unsigned best = prev[j - 1] + (ca != cb);

			if (prev[j] + 1 < best)
				best = prev[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && ca == lower((unsigned char)b.p[j - 2]) && lower((unsigned char)a.p[i - 2]) == cb &&
			    prev2[j - 2] + 1 < best)
				best = prev2[j - 2] + 1;
			now[j] = best;
		}
	}
	return row[a.n % 3][b.n];
}

uint64_t str_hash_long(struct str s, uint64_t seed)
{
	uint64_t h = 1469598103934665603ULL ^ (seed * 0x9e3779b97f4a7c15ULL) ^ s.n, v;

	for (; s.n >= 8; s = str_from(s, 8)) {
		memcpy(&v, s.p, 8);
		h = (h ^ v) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 32;
	}
	return str_hash(s, h);
}

uint64_t str_hash(struct str s, uint64_t seed)
{
	uint64_t h = 1469598103934665603ULL ^ (seed * 0x9e3779b97f4a7c15ULL);

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 1099511628211ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	return h ^ h >> 32;
}

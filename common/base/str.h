/* str.h - a borrowed run of bytes: pointer and length, no owner, no terminator.
 *
 * Everything that looks into a buffer (HTTP heads, JSON tokens, names in a snapshot) is a struct str.
 * It is valid as long as what it points into is. A NULL pointer with length 0 is the empty string. */
#ifndef CORRAL_BASE_STR_H
#define CORRAL_BASE_STR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
	const char *p;
	size_t n;
};

#define STR(literal) ((struct str){ (literal), sizeof(literal) - 1 })
#define STR_INIT(literal) { (literal), sizeof(literal) - 1 }
#define STR_FMT "%.*s"
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *z) { return (struct str){ z, z ? strlen(z) : 0 }; }
static inline struct str str_n(const char *p, size_t n) { return (struct str){ p, n }; }
static inline bool str_eq(struct str a, struct str b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }
static inline bool str_eqz(struct str a, const char *z) { return str_eq(a, str_of(z)); }
static inline bool str_starts(struct str s, struct str prefix) { return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0); }
static inline struct str str_from(struct str s, size_t at) { return s.n == 0 ? s : at >= s.n ? (struct str){ s.p + s.n, 0 } : (struct str){ s.p + at, s.n - at }; }

bool str_letters_eq(const char *a, const char *b, size_t n);
static inline bool str_ieq(struct str a, struct str b) { return a.n == b.n && str_letters_eq(a.p, b.p, a.n); }     /* the case of ASCII letters alone does not matter */
bool str_ends(struct str s, struct str suffix);
int  str_cmp(struct str a, struct str b);          /* bytewise; shorter first on a tie */
struct str str_trim(struct str s);                 /* space and tab, both ends */
const char *str_find(struct str s, struct str needle);   /* NULL when absent */
const char *str_ifind(struct str s, struct str needle);  /* ASCII case-insensitive */

/* Takes the part before the first 'sep' off *rest; false when *rest is exhausted (its p is NULL then).
 * "a,,b" gives "a", "", "b". */
bool str_split(struct str *rest, char sep, struct str *ret_part);

/* Copies with a terminator, cutting to fit; false when it was cut. cap > 0. */
bool str_copy(char *dst, size_t cap, struct str s);

/* Whole-string conversions: no blanks, no sign but '-', no overflow. False leaves *ret untouched. */
bool str_u64(struct str s, uint64_t *ret);
bool str_i64(struct str s, int64_t *ret);
bool str_double(struct str s, double *ret);

/* Decimal digits into out; returns them. */
struct str str_from_u64(uint64_t v, char out[20]);

bool str_utf8_valid(struct str s);

/* Optimal string alignment distance over ASCII-lowered bytes, for "did you mean"; capped at 64 bytes. */
unsigned str_distance(struct str a, struct str b);

uint64_t str_hash(struct str s, uint64_t seed);    /* not for secrets, not keyed against attack */
uint64_t str_hash_long(struct str s, uint64_t seed);   /* the same for long texts, eight bytes at a time; other numbers than str_hash()'s */
#endif

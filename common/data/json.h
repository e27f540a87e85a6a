/* json.h - a strict JSON validator that leaves a tape of tokens, and readers of that tape.
 *
 * json_parse() decides RFC 8259 exactly, in one pass: the grammar, valid UTF-8 (raw and by \u escapes: lone surrogates
 * are refused), no key twice in one object (decoded keys are compared), nothing but blanks after the value. A byte order
 * mark is refused. Nothing is converted: numbers and strings stay the bytes that were written, until a reader asks.
 *
 * The tape: one token per value in the order of the text; a member of an object is its key's token and, directly after
 * it, its value's token. Token 0 is the root. {"a":[1,2],"b":3} is
 *
 *   0 object  1 key a  2 array  3 number 1  4 number 2  5 key b  6 number 3
 *   next: 7   2        5        4           5           6        7
 *
 * Index 0 also means "no such value", because the root is nobody's member: json_get() of an absent key gives 0, and
 * a loop over members ends with 0. Ask whether the index is 0 before reading from it, or use the json_opt_ getters.
 *
 * The text is borrowed and must outlive the tape; the tape lives in the arena. A parsed tape is read-only: any number of
 * threads may read it, but json_string() writes to the arena it is given. */
#ifndef CORRAL_DATA_JSON_H
#define CORRAL_DATA_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

enum {
	JSON_ESCAPED = 1,         /* the string has a backslash: its value is not its bytes */
	JSON_KEY     = 2,         /* the token is the key of the value that follows it */
	JSON_INT     = 4,         /* the number has no '.', 'e' or 'E' */
	JSON_WIDE    = 8,         /* the string has bytes beyond ASCII */
};

struct json_tok {
	uint32_t at, len;         /* the bytes in the text; quotes included for strings, braces for containers */
	uint32_t next;            /* index of the token after this value and everything inside it; of a key: its value */
	uint8_t kind;             /* enum json_kind */
	uint8_t flags;
	uint16_t count;           /* members of a container, 65535 = that many or more; see json_count() */
};

struct json {
	const char *text;
	size_t len;
	struct json_tok *tok;
	uint32_t n;               /* tokens, keys included */
};

struct json_limits {
	uint32_t max_depth;       /* containers inside each other; the root container is 1 */
	uint32_t max_nodes;       /* values, the root and containers included, keys not */
	bool refuse_case_variants;   /* keys of the root object that differ only in the case of ASCII letters; U+017F counts
	                              * as s and U+212A as k there, because some backends fold them when they match keys */
	bool may_repeat_keys;     /* in one object; RFC 8259 section 4 allows it. Else the text is refused. For texts that only we read: json_get() finds the
	                           * first of them, json_get_many() the last */
};
extern const struct json_limits json_limits_default;      /* 64, 100000, true */

/* Validates 'text' and fills *ret, which is untouched on failure. 'limits' may be NULL for the default.
 * ERR_MALFORMED, or ERR_TOO_LARGE when a limit is passed; why->text says what is wrong and at which line, column
 * (in characters) and byte offset; why->field is the key when it is about one. Linear in the length of the text. */
enum err json_parse(struct json *ret, struct arena *, struct str text, const struct json_limits *, struct why *);

/* The value of a member; 0 when absent or when 'object' is no object. Case-sensitive, escapes in keys decoded. */
uint32_t json_get(const struct json *, uint32_t object, const char *key);

/* The values of several members at once, in one walk over the object: ret[i] is that of names[i], 0 when absent. */
void json_get_many(const struct json *, uint32_t object, const struct str *names, unsigned n, uint32_t *ret);

/* As json_get(), but upper and lower case are one, as in refuse_case_variants; the first in the text wins. It finds what a
 * backend that is careless about case would read: {"STREAM":true}. Beyond 64 bytes
 * of 'key', or with characters beyond ASCII in it, only what json_get() would find is sure to be found. */
uint32_t json_get_any_case(const struct json *, uint32_t object, const char *key);

/* for (uint32_t i = json_first(j, c); i; i = json_next(j, c, i)): the values of an array, or of the members of an object. */
uint32_t json_first(const struct json *, uint32_t container);
uint32_t json_next(const struct json *, uint32_t container, uint32_t value);
uint32_t json_count(const struct json *, uint32_t container);      /* members; 0 for no container */

/* The key of a member's value: its token (0 for what is no member), its bytes between the quotes as written, a comparison. */
uint32_t json_key(const struct json *, uint32_t value);
struct str json_key_raw(const struct json *, uint32_t value);
bool json_key_is(const struct json *, uint32_t value, const char *key);

enum json_kind json_kind(const struct json *, uint32_t value);
const char *json_kind_name(enum json_kind);               /* "null", "a string", "an array": for sentences */
struct str json_raw(const struct json *, uint32_t value); /* the bytes as written, quotes and braces included */

/* The string decoded: points into the text when nothing is escaped, else into the arena. It may hold NUL bytes.
 * Empty when the value is no string. Works for key tokens too. */
struct str json_string(const struct json *, uint32_t value, struct arena *);
bool json_is_string(const struct json *, uint32_t value);
bool json_string_eq(const struct json *, uint32_t value, const char *z);   /* decoded, without memory */

/* False, and *ret untouched, when the value is of another kind or not representable. 1.0 and 1e3 are integers;
 * 1.5 and 9223372036854775808 are not. A double is the nearest one; 1e999 is not representable, 1e-999 is 0. */
bool json_i64(const struct json *, uint32_t value, int64_t *ret);
bool json_double(const struct json *, uint32_t value, double *ret);
bool json_bool(const struct json *, uint32_t value, bool *ret);

/* An optional member: absent or null leaves *ret and is true; a wrong type is false with ERR_MALFORMED, why->field = key
 * and a sentence such as "temperature must be a number, not a string". */
bool json_opt_str(const struct json *, uint32_t object, const char *key, struct str *ret, struct arena *, struct why *);
bool json_opt_i64(const struct json *, uint32_t object, const char *key, int64_t *ret, struct why *);
bool json_opt_double(const struct json *, uint32_t object, const char *key, double *ret, struct why *);
bool json_opt_bool(const struct json *, uint32_t object, const char *key, bool *ret, struct why *);
#endif

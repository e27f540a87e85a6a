/* json_write.h - writes JSON into a buffer, so that what comes out is always JSON; and splices bytes of a text.
 *
 *   json_begin(&jo, &buf);
 *   jw_obj(&jo);
 *   jw_kv_str(&jo, "model", name);
 *   jw_key(&jo, "usage"), jw_obj(&jo), jw_kv_i64(&jo, "prompt_tokens", n), jw_end(&jo);
 *   jw_end(&jo);
 *
 * The writer puts commas and colons itself. A mistake of the caller never makes invalid output: a value without a key in
 * an object is left out, so are a key in an array and anything after the root value; a key without a value gets null; an
 * end too many is ignored. json_done() closes what is open and says whether there was such a mistake.
 * Equal keys are not noticed. A json_out has no memory of its own and needs no freeing; the buffer may hold other bytes before. */
#ifndef CORRAL_DATA_JSON_WRITE_H
#define CORRAL_DATA_JSON_WRITE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/str.h"
#include "common/data/json.h"

enum { JW_DEPTH_MAX = 256 };      /* deeper containers are written as null, a mistake */

struct json_out {
	struct buf *b;
	uint64_t objects[JW_DEPTH_MAX / 64];      /* one bit a level: it is an object */
	uint32_t depth;           /* open containers */
	uint32_t dropped;         /* open containers that are left out with all they hold */
	bool comma;               /* something precedes on this level */
	bool has_key;             /* a key waits for its value */
	bool mistake;
};

void json_begin(struct json_out *, struct buf *);
bool json_done(struct json_out *);            /* closes everything open; true when the calls made one whole value */

void jw_obj(struct json_out *);
void jw_arr(struct json_out *);
void jw_end(struct json_out *);               /* the innermost object or array */
void jw_key(struct json_out *, const char *key);
void jw_key_str(struct json_out *, struct str key);

void jw_str(struct json_out *, struct str);   /* invalid UTF-8 becomes U+FFFD */
void jw_strz(struct json_out *, const char *z);       /* NULL is null */
void jw_i64(struct json_out *, int64_t);
void jw_u64(struct json_out *, uint64_t);
void jw_double(struct json_out *, double);    /* the fewest digits that read back as the same double; not finite: null */
void jw_bool(struct json_out *, bool);
void jw_null(struct json_out *);
void jw_raw(struct json_out *, struct str json);      /* must be one valid JSON value, as from json_raw(); empty: null, a mistake */

static inline void jw_kv_str(struct json_out *jo, const char *key, struct str s) { jw_key(jo, key), jw_str(jo, s); }
static inline void jw_kv_strz(struct json_out *jo, const char *key, const char *z) { jw_key(jo, key), jw_strz(jo, z); }
static inline void jw_kv_i64(struct json_out *jo, const char *key, int64_t v) { jw_key(jo, key), jw_i64(jo, v); }
static inline void jw_kv_u64(struct json_out *jo, const char *key, uint64_t v) { jw_key(jo, key), jw_u64(jo, v); }
static inline void jw_kv_double(struct json_out *jo, const char *key, double v) { jw_key(jo, key), jw_double(jo, v); }
static inline void jw_kv_bool(struct json_out *jo, const char *key, bool v) { jw_key(jo, key), jw_bool(jo, v); }
static inline void jw_kv_null(struct json_out *jo, const char *key) { jw_key(jo, key), jw_null(jo); }
static inline void jw_kv_raw(struct json_out *jo, const char *key, struct str json) { jw_key(jo, key), jw_raw(jo, json); }

/* A string's contents, escaped, without quotes. Each invalid part of a UTF-8 sequence becomes one U+FFFD. */
void json_escape(struct buf *, struct str);

/* Text from elsewhere: where it is one JSON value that value, on one line; else a JSON string of it. */
void json_one_line(struct buf *, struct str text);

/* Replaces [at, at + len) by 'with'; len 0 inserts. */
struct json_edit {
	uint32_t at, len;
	struct str with;
};

/* Appends 'text' with the edits made. They are sorted by 'at', do not overlap and lie in the text: else the process ends,
 * because the bytes that would go out are not those that were checked. */
void json_splice(struct buf *out, struct str text, const struct json_edit *edits, size_t n);

/* Edits on a parsed text: another value, or a new first member ("key":json) of an object.
 * An empty object takes only one new member this way, because nothing would part two of them. */
struct json_edit json_edit_value(const struct json *, uint32_t value, struct str json);
struct json_edit json_edit_insert(const struct json *, uint32_t object, const char *key, struct str json, struct arena *);
#endif

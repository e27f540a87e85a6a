/* text.h - text content of messages as it stands in JSON: a string, or an array of parts with text in some of them. */
#ifndef CORRAL_LLM_TEXT_H
#define CORRAL_LLM_TEXT_H
#include "common/base/arena.h"
#include "common/data/json.h"

enum { TEXT_CAP = 4096 };

uint64_t text_bytes(const struct json *, uint32_t content);     /* as written, escapes included */

/* Decoded, for features: whole up to 'head' + 'tail' bytes, else the first 'head' and the last 'tail', a blank between.
 * Points into the document when it can. */
struct str text_capped(const struct json *, uint32_t content, size_t head, size_t tail, struct arena *);

/* One JSON string, quotes included, of all text in it; parts are joined as they are. "\"\"" when there is none. */
struct str text_raw(const struct json *, uint32_t content, struct arena *);

/* A JSON string (quotes included) of these bytes. */
struct str text_quote(struct str, struct arena *);

/* The same JSON on one line: raw line ends in JSON are blanks between tokens. For answers whose frames are lines. */
struct str text_one_line(struct str json, struct arena *);

/* The bytes with each invalid part of UTF-8 replaced by U+FFFD; the same bytes when there is none. */
struct str text_repair_utf8(struct str, struct arena *);

/* At most 'max' bytes of valid UTF-8, whole characters, "..." where it was cut, controls as \xNN: it goes into logs and headers' neighbourhood.
 * 'out' has room for 4 more. */
void text_show(struct str, char *out, size_t max);
#endif

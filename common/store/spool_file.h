/* spool_file.h - what spool.c (writer) and spool_reader.c agree on: names, the record's shape, the list of segments.
 *
 *   offset in the segment   0 . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . size
 *                           [len crc type payload pad][len crc type payload pad] [SEAL] 0 0 0
 * len = bytes of type and payload, so never 0; 0 = not written yet. SEAL in place of len: this segment gets no more records.
 * A position is the segment's first position plus the offset; the next segment begins at first + size. */
#ifndef CORRAL_STORE_SPOOL_FILE_H
#define CORRAL_STORE_SPOOL_FILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { SPOOL_HEAD = 9, SPOOL_ALIGN = 8 };
#define SPOOL_SEAL 0xffffffffu

struct spool_extent { uint64_t first, size; };
struct spool_list { struct spool_extent *at; size_t n; };   /* ascending by first; free(at) */

static inline uint64_t spool_record_bytes(uint32_t len) { return (8 + (uint64_t)len + SPOOL_ALIGN - 1) & ~(uint64_t)(SPOOL_ALIGN - 1); }
void spool_name(uint64_t first, char out[24]);
/* Segments in a directory; none = an empty list. False when the directory cannot be read. */
bool spool_list_dir(const char *dir, struct spool_list *ret, struct why *);
/* Does a whole record lie at p, where 'room' bytes are left? */
bool spool_record_ok(const uint8_t *p, uint64_t room);
#endif

/* http1_scan.h - character classes of HTTP, and the two scans that see every byte of a head. Private to http1*.c.
 *
 * The scans read 16 bytes at once where the machine can, and never one beyond 'end'. */
#ifndef CORRAL_IO_HTTP1_SCAN_H
#define CORRAL_IO_HTTP1_SCAN_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

enum {
	C_TOKEN  = 1,             /* tchar of RFC 9110: names, methods, codings */
	C_TARGET = 2,             /* what may stand in a request target: visible ASCII but " # < > and backslash */
	C_HOST   = 4,             /* letters, digits, - . _ */
	C_HEX    = 8,
	C_VALUE  = 16,            /* tab, space, visible ASCII */
	C_OBS    = 32,            /* 0x80 and up */
};

extern const uint8_t http_class[256];

static inline bool http_is(char c, unsigned classes) { return http_class[(unsigned char)c] & classes; }
static inline char http_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c; }

const char *http_skip(const char *p, const char *end, unsigned classes);    /* the first byte of no such class, or end */
const char *http_skip_value(const char *p, const char *end, bool obs_text); /* C_VALUE, or C_VALUE | C_OBS, fast */

bool http_all(struct str s, unsigned classes);           /* true for an empty string */
bool http_lookalike(struct str name);                    /* Content_Length and its kind: not the name, but read as it by some */
unsigned http_unhex(char c);                             /* of a C_HEX */

/* Removes the first element of a comma list, trimmed; empty ones are skipped. False when none is left. */
bool http_list_next(struct str *rest, struct str *ret_item);
#endif

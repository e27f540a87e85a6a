/* buf.h - a growing run of bytes with one owner. Zero-initialised is empty and valid. Never fails (see arena.h). */
#ifndef CORRAL_BASE_BUF_H
#define CORRAL_BASE_BUF_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

struct buf {
	char *p;
	size_t n, cap;
};

void buf_free(struct buf *);                 /* leaves it empty and usable */
void buf_reserve(struct buf *, size_t room); /* at least 'room' bytes can be written at p + n */
void buf_add(struct buf *, const void *p, size_t n);
void buf_printf(struct buf *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *, const char *fmt, va_list ap);
void buf_u64(struct buf *, uint64_t v);      /* decimal */
void buf_consume(struct buf *, size_t n);    /* drops the first n bytes */
char *buf_z(struct buf *);                   /* terminated after n, the terminator not counted */

static inline void buf_str(struct buf *b, struct str s) { buf_add(b, s.p, s.n); }
static inline void buf_addz(struct buf *b, const char *z) { buf_add(b, z, strlen(z)); }
static inline void buf_char(struct buf *b, char c) { buf_add(b, &c, 1); }
static inline void buf_clear(struct buf *b) { b->n = 0; }
static inline struct str buf_as_str(const struct buf *b) { return str_n(b->p, b->n); }
#endif

/* tar.h - archives of regular files, POSIX ustar: a writer and a reader for what backups are made of.
 *
 * What the reader hands out is checked: header sums, sizes, and names that stay below where they are unpacked. Links, devices and long
 * names are refused; sizes above 8 GiB are written as GNU tar does. Synchronous. */
#ifndef CORRAL_CORRAL_TAR_H
#define CORRAL_CORRAL_TAR_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"

enum { TAR_NAME = 256 };

/* A header and its file's bytes; from a descriptor (exactly size bytes of it, from its beginning) or from memory. */
bool tar_add_fd(int tar, const char *name, int fd, uint64_t size, int64_t mtime_s, struct why *);
bool tar_add(int tar, const char *name, struct str bytes, int64_t mtime_s, struct why *);
bool tar_end(int tar, struct why *);

struct tar_entry { char name[TAR_NAME]; uint64_t size; };
/* 1: an entry, the descriptor is at its bytes; 0: the archive's end; -1 with *why. The caller reads or skips exactly the bytes before
 * the next call: tar_take() writes them to 'to' (-1 = nowhere) and moves to the next header. */
int tar_next(int tar, struct tar_entry *, struct why *);
bool tar_take(int tar, const struct tar_entry *, int to, void (*see)(void *arg, struct str), void *arg, struct why *);
/* "a/b", neither absolute nor with . or .. or control characters in it. */
bool tar_name_ok(const char *name);
#endif

/* snapshot_file.h - one snapshot kept in a file, for a start without anybody to ask. Replaced whole; a damaged one is no file. */
#ifndef CORRAL_IO_SNAPSHOT_FILE_H
#define CORRAL_IO_SNAPSHOT_FILE_H
#include <stdbool.h>

#include "common/base/buf.h"
#include "common/io/snapshot.h"

/* False, and nothing touched, when there is none of that name, or a damaged one. */
bool snapshot_file_load(const char *path, const char *name, struct snapshot_id *ret_id, struct buf *ret_bytes);
/* By rename of "path.tmp", mode 0600. id.version > 0. False when it could not be written; the old one is then still there. */
bool snapshot_file_save(const char *path, const char *name, struct snapshot_id id, struct str bytes);
#endif

/* snapshot_file.h - one snapshot kept in a file, for a start without anybody to ask: the whole, and behind it the deltas since.
 *
 * The whole is replaced by rename; a delta is one write at the end. What a kill left half written is the end of the file: it and
 * all behind it are not there. A file without a good whole is no file. Not synced: a file that a power cut damaged is told by checksums. */
#ifndef CORRAL_IO_SNAPSHOT_FILE_H
#define CORRAL_IO_SNAPSHOT_FILE_H
#include <stdbool.h>

#include "common/base/buf.h"
#include "common/io/snapshot.h"

/* The whole only. False, and nothing touched, when there is none of that name, or a damaged one. */
bool snapshot_file_load(const char *path, const char *name, struct snapshot_id *ret_id, struct buf *ret_bytes);
/* By rename of "path.tmp", mode 0600. id.version > 0. False when it could not be written; the old one is then still there. */
bool snapshot_file_save(const char *path, const char *name, struct snapshot_id id, struct str bytes);

/* All that is in 'file' (the bytes of one): the whole, then each delta that follows on what came before. A callback that returns false
 * ends the reading. False when there is no good whole. */
struct snapshot_reader {
	bool (*whole)(void *arg, struct snapshot_id, struct str bytes);
	bool (*delta)(void *arg, struct snapshot_id, struct str delta);
	void *arg;
};
bool snapshot_file_read(struct str file, const char *name, const struct snapshot_reader *);
bool snapshot_file_open(const char *path, struct buf *ret_file);  /* reads it; false when there is none that can be read */

/* A file that deltas are added to. */
struct snapshot_log {
	const char *path, *name;      /* the owner's */
	int fd;                       /* -1: it has no whole that deltas could follow */
	size_t whole_bytes, delta_bytes;
};
void snapshot_log_init(struct snapshot_log *, const char *path, const char *name);
bool snapshot_log_whole(struct snapshot_log *, struct snapshot_id, struct str bytes);
bool snapshot_log_delta(struct snapshot_log *, struct snapshot_id, struct str delta);
/* The same file with a younger whole; deltas that it has behind that version stay. Of the same epoch only. */
bool snapshot_log_compact(struct snapshot_log *, struct snapshot_id, struct str bytes);
/* It wants a new whole: the deltas have outgrown the old one, or could not be written. */
bool snapshot_log_outgrown(const struct snapshot_log *);
void snapshot_log_close(struct snapshot_log *);
#endif

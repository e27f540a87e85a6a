/* spool.h - facts on disk before anything else happens: an append-only log of records, one writer thread, any number of readers.
 *
 * Segments (16 MiB, preallocated, mapped) in one directory: <first position, 16 hex digits>.seg. A position is a byte offset that never
 * repeats. Record: length u32, crc32c u32 (of type and payload), type u8, payload; 8-byte aligned; length is stored last, so a kill -9 leaves a whole record or none.
 * spool_append() is a memory copy: what it returned for survives kill -9 at once (page cache), and power loss after the next group
 * fdatasync (every sync_ms, by the spool's own thread). A full disk is noticed when a segment is allocated: append fails, nothing is
 * dropped in silence, and it is tried again with the next append
 * (at most every 100 ms). A failed sync marks the segment lost for new writes and opens another. */
#ifndef CORRAL_STORE_SPOOL_H
#define CORRAL_STORE_SPOOL_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"

struct spool;
struct spool_reader;

struct spool_opts {
	uint32_t segment_bytes;       /* default 16 MiB */
	int64_t sync_ms;              /* default 20 (also when negative); 0 = only at close */
	uint64_t max_bytes;           /* default 4 GiB of unreleased segments; then append fails with STORE_FAILED */
};

/* Opens for writing (an flock keeps a second writer out), after repairing a torn tail. Makes the directory. opts NULL = defaults.
 * A new spool begins at a position and an epoch taken from the wall clock, so that a directory that was lost and made anew cannot
 * be taken for the old one by whoever keeps its cursor. */
struct spool *spool_open(const char *dir, const struct spool_opts *, struct why *);
void spool_close(struct spool *);                 /* syncs; NULL is fine */
uint64_t spool_end(const struct spool *);
uint64_t spool_epoch(const struct spool *);       /* grows by one at each open; kept in the directory */
/* Returns the record's own position (>= 0), or -1 with *why. */
int64_t spool_append(struct spool *, uint8_t type, struct str payload, struct why *);
/* Two-step append without a second copy: room for up to n bytes, then the bytes really used (0 = nothing happens). */
uint8_t *spool_reserve(struct spool *, uint32_t n, struct why *);        /* NULL on failure */
int64_t spool_commit(struct spool *, uint8_t type, uint32_t n);
void spool_release(struct spool *, uint64_t below);   /* segments that end at or below it may be deleted; any thread */
/* Everything below it has been synced: a power cut does not take it. It stays where it is once a sync has failed. */
uint64_t spool_durable(const struct spool *);
uint64_t spool_bytes(const struct spool *);       /* on disk */
uint64_t spool_sync_errors(const struct spool *);

/* What the directory says of itself: the epoch of the last open, and the position its first record ever had or will have. */
bool spool_identity(const char *dir, uint64_t *ret_epoch, uint64_t *ret_origin, struct why *);

/* Readers see what is committed, from any thread or process. */
struct spool_reader *spool_reader_open(const char *dir, uint64_t position, struct why *);   /* first record at or after it */
void spool_reader_close(struct spool_reader *);
/* 1: a record (view valid until the next call), 0: nothing more at present, -1: damaged (position says where, next where it goes on;
 * the reader moves on to the next segment). A reader that is behind what was released goes on with the first segment there is. */
int spool_read(struct spool_reader *, uint8_t *ret_type, struct str *ret_payload, uint64_t *ret_position, uint64_t *ret_next, struct why *);
uint64_t spool_reader_position(const struct spool_reader *);  /* of the record that comes next, as far as is known */
uint64_t spool_reader_gaps(const struct spool_reader *);      /* how often the next record was not there and a later one came */
#endif

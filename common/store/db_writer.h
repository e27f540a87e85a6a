/* db_writer.h - of several processes on one PostgreSQL schema, the one that may write: a lease in the table one_writer, with an epoch.
 *
 * Who takes the lease raises the epoch; what this process opens at the same URL from then on writes only while the epoch is its own
 * (db_postgres.c): each of its transactions holds the row against a change, so a writer that was stopped, or cut off, and comes back later
 * changes nothing. Times are the server's. A lease lasts LEASE_MS without being renewed; it is renewed three times in that time, on a thread of
 * its own. While the server is away nobody can take it, and the one that had it goes on: it cannot write either.
 * (Why a lease alone is not enough: M. Kleppmann, "How to do distributed locking", 2016, on fencing tokens.) */
#ifndef CORRAL_STORE_DB_WRITER_H
#define CORRAL_STORE_DB_WRITER_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { DB_WRITER_LEASE_MS = 6000 };

struct db_writer;

bool db_writer_has(const char *url);              /* whether a database of this kind is several processes' */
/* 'who' names this process for people, and no other one: "host, pid 7, 5f3a9c1e". 'dead' (may be NULL) is what a process was called that is known to have
 * ended, as one is whose files are under this one's lock: if the lease is still that one's it is taken without waiting for its end, under the next epoch as
 * always. Connects; NULL with *why when that fails. */
struct db_writer *db_writer_open(const char *url, const char *who, const char *dead, struct why *);
enum db_writer_turn { DB_WRITER_MINE, DB_WRITER_ANOTHERS, DB_WRITER_UNKNOWN };
/* Takes the lease if it is free, or was a dead one's. ANOTHERS: *ret_who (valid until the next call) has it. UNKNOWN with *why: the server did not say. */
enum db_writer_turn db_writer_try(struct db_writer *, const char **ret_who, struct why *);
int64_t db_writer_epoch(const struct db_writer *);
int64_t db_writer_epoch_of(const char *rest);     /* of the URL behind its scheme: the epoch of this process's lease there; 0 = it has none. Any thread */
/* From now on it is renewed; on_lost is called once, on the thread that renews, when another has it. */
void db_writer_keep(struct db_writer *, void (*on_lost)(void *arg, const struct why *), void *arg);
/* Gives it back, so that another need not wait for its end. NULL is fine. */
void db_writer_free(struct db_writer *);           /* after what was opened under it was closed */
#endif

/* db.h - a small SQL interface over SQLite and PostgreSQL: statements named in one array, positional parameters,
 * transactions, numbered migrations. Synchronous: it belongs to a thread of its own (db_thread.h) or to a control-plane loop thread, never to a gateway worker.
 * URL "sqlite:PATH" (WAL, synchronous=NORMAL unless ?sync=full, foreign keys on, busy timeout 5 s), or
 * "postgresql://USER:PASSWORD@HOST:PORT/NAME?schema=S" (and libpq's parameters; statement_timeout_ms=5000).
 *
 * What both understand alike: ?1 for parameters; INSERT … ON CONFLICT (columns) DO …; RETURNING; the types INTEGER (64 bits), BIGINT, REAL, TEXT
 * and BLOB, x'00', INTEGER PRIMARY KEY for a number that is given by the database, WITHOUT ROWID, hex(), CAST, CASE, coalesce, length;
 * capitals for key words (db_sql.h says what is changed for PostgreSQL). A sum of INTEGERs is an INTEGER; text is UTF-8 without NUL, and what
 * is not is kept with U+FFFD on PostgreSQL. After a statement has failed in a transaction, all that may follow is db_rollback(). A call
 * that fails with ERR_STORE_FAILED may succeed later, for a lost server is connected again; the transaction is gone then. */
#ifndef CORRAL_STORE_DB_H
#define CORRAL_STORE_DB_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

struct db;
struct db_row;

struct db_migration { int number; const char *sql; };       /* ascending from 1; ended by { 0 } */

struct db *db_open(const char *url, const char *const *statements, unsigned n_statements, const struct db_migration *, struct why *);
void db_close(struct db *);
/* From any thread: a call that waits for a server fails within a quarter of a second, and all that follow at once. Only db_close() is left. Nothing for a file. */
void db_interrupt(struct db *);
/* Brings the schema to the newest of these, alone, in one transaction. db_open() does it on SQLite; on PostgreSQL it is an act of its own, and
 * db_open() refuses a schema that is older or newer than the program (ERR_CONFLICT). *ret_from and *ret_to (may be NULL): the versions before and after. */
bool db_migrate(const char *url, const struct db_migration *, int64_t *ret_from, int64_t *ret_to, struct why *);
bool db_migrates_at_open(const char *url);

/* Whether a server that was lost answers again; asks it. False for a file, where only the next write tells. */
bool db_is_back(struct db *);

/* From now on no call waits longer than so for a server that is silent; a statement that needs longer fails. For whose thread has other things to do
 * in time. At first it is statement_timeout_ms and 2 s. Nothing for a file. DB_SOON_MS: where all statements are small, and leases have to be renewed or lent
 * on the same thread. */
enum { DB_SOON_MS = 1000 };
void db_patience(struct db *, int64_t ms);

/* While a call on this thread has waited for a server longer than DB_LONG_MS: called four times a second with the server's name, and with waited_ms = 0
 * once the wait is over. For who has to say so while its loop stands still. */
enum { DB_LONG_MS = 2000 };
void db_on_wait(void (*on_wait)(void *arg, const char *server, int64_t waited_ms), void *arg);

bool db_begin(struct db *, struct why *);
bool db_commit(struct db *, struct why *);
void db_rollback(struct db *);

enum db_type { DB_NULL, DB_INT, DB_REAL, DB_TEXT, DB_BLOB };
struct db_value { enum db_type type; int64_t i; double d; struct str s; };
#define DB_I(v) ((struct db_value){ .type = DB_INT, .i = (int64_t)(v) })
#define DB_D(v) ((struct db_value){ .type = DB_REAL, .d = (v) })
#define DB_S(v) ((struct db_value){ .type = DB_TEXT, .s = (v) })
#define DB_Z(v) ((struct db_value){ .type = DB_TEXT, .s = str_of(v) })
#define DB_B(v) ((struct db_value){ .type = DB_BLOB, .s = (v) })
#define DB_NIL ((struct db_value){ .type = DB_NULL })

/* Runs statement 'index' with parameters ?1…; each row goes to on_row (may be NULL; false stops). Returns false with *why on failure.
 * ret_changed (may be NULL) = rows inserted, updated or deleted. Views in a row are valid during the call. */
bool db_run(struct db *, unsigned index, const struct db_value *params, unsigned n,
	    bool (*on_row)(void *arg, const struct db_row *), void *arg, int64_t *ret_changed, struct why *);
/* The statement once for each of 'rows' rows of n parameters, which lie one after another; of one type or NULL in each column. On PostgreSQL
 * nothing waits between them, and many new rows go together (db_sql_of_arrays()). Within a transaction: a failure leaves some of it done.
 * ret_changed (may be NULL) = of all together. */
bool db_batch(struct db *, unsigned index, const struct db_value *params, unsigned n, size_t rows, int64_t *ret_changed, struct why *);

/* For backups: holds a database at one moment while others write to it, for a copy to a new file later. No program needs to have it open.
 * 'path' is that of a sqlite: URL. */
struct db_pin;
struct db_pin *db_pin(const char *path, struct why *);
bool db_pin_copy(struct db_pin *, const char *to, struct why *);
void db_unpin(struct db_pin *);               /* NULL is fine */
/* Whether a file is a sound database, and its schema version (0 = it has none). Opens it for reading only; nobody else may have it. */
bool db_verify(const char *path, int64_t *ret_schema, struct why *);
bool db_is_file(const char *path);            /* it begins as SQLite's files do */

/* Text made by the program (never from a request) with bound parameters: for reports whose grouping varies. */
bool db_query(struct db *, const char *sql, const struct db_value *params, unsigned n,
	      bool (*on_row)(void *arg, const struct db_row *), void *arg, struct why *);
/* The text as every database can keep it: what is no UTF-8, and a NUL, becomes U+FFFD. Itself when it is good. */
struct str db_text(struct arena *, struct str);
struct db_value db_col(const struct db_row *, unsigned column);
unsigned db_cols(const struct db_row *);
const char *db_col_name(const struct db_row *, unsigned column);
int64_t db_int(const struct db_row *, unsigned column);      /* NULL = 0 */
struct str db_str(const struct db_row *, unsigned column);
#endif

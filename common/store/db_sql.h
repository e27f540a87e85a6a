/* db_sql.h - SQL as the programs write it, in the words of PostgreSQL. Pure; used by db_postgres.c alone.
 *
 * Statements and migrations are written once, in what SQLite and PostgreSQL have in common. What the two name differently is changed here,
 * outside of quotes and comments: ?1 and ? become $1; x'00' becomes '\x00'::bytea; the words (in capitals) INTEGER PRIMARY KEY become an
 * identity column, INTEGER and INT BIGINT, REAL DOUBLE PRECISION, BLOB BYTEA; WITHOUT ROWID and STRICT are left out. */
#ifndef CORRAL_STORE_DB_SQL_H
#define CORRAL_STORE_DB_SQL_H
#include <stdbool.h>

#include "common/base/arena.h"
#include "common/base/buf.h"

void db_sql_rewrite(struct str sql, struct buf *add_to);

/* The statement that adds many rows at once, from an array for each column: for INSERT … VALUES (?1, ?2, … ?n), and nothing behind it but perhaps
 * ON CONFLICT … DO NOTHING, which is the same for rows one by one, for two of one key too. False when it is another one; nothing is added then. */
bool db_sql_of_arrays(struct str sql, unsigned n, struct buf *add_to);

/* The text as PostgreSQL can keep it: what is no UTF-8, and a NUL, becomes U+FFFD. Itself when nothing has to change. */
struct str db_sql_text(struct arena *, struct str);
#endif

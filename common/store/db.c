/* db.c - chooses the driver, applies migrations, and hands calls on. */
#include "common/store/db.h"

#include "common/store/db_driver.h"

static const struct db_driver *const drivers[] = { &db_sqlite };

static bool migrate(struct db *, const struct db_migration *, struct why *);

static const struct db_driver *driver_find(const char *url)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
		if (str_starts(str_of(url), str_of(drivers[i]->scheme)))
			return drivers[i];
	return NULL;
}

struct db *db_open(const char *url, const char *const *statements, unsigned n, const struct db_migration *migrations, struct why *why)
{
	const struct db_driver *d = driver_find(url);
	struct db *db;

	if (!d) {
		/* Not the whole URL: it may hold a password. */
		err_field(why, ERR_INVALID, "db", "the database URL '%.12s…' has no known scheme; write sqlite:PATH", url);
		return NULL;
	}
	db = d->open(url + strlen(d->scheme), statements, n, why);
	if (db && migrate(db, migrations, why) && d->prepare(db, why))
		return db;
	db_close(db);
	return NULL;
}

void db_close(struct db *db)
{
	if (db)
		db->driver->close(db);
}

/* --- migrations --- */

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static bool migrate_from(struct db *db, int64_t have, const struct db_migration *m, struct why *why)
{
	const struct db_driver *d = db->driver;
	struct db_value p[] = { DB_NIL };

	for (; m && m->number; m++) {
		if (m->number <= have)
			continue;
		p[0] = DB_I(m->number);
		if (!d->exec(db, m->sql, why) || !d->query(db, "INSERT INTO schema_version (number) VALUES (?1)", p, 1, NULL, NULL, why))
			return false;
	}
	return true;
}

static bool migrate_locked(struct db *db, const struct db_migration *migrations, struct why *why)
{
	const struct db_driver *d = db->driver;
	int64_t have = 0, known = 0;

	for (const struct db_migration *m = migrations; m && m->number; m++)
		known = m->number;
	if (!d->exec(db, "CREATE TABLE IF NOT EXISTS schema_version (number INTEGER NOT NULL PRIMARY KEY)", why) ||
	    !d->query(db, "SELECT max(number) FROM schema_version", NULL, 0, keep_int, &have, why))
		return false;
	if (have > known)
		return err_set(why, ERR_STORE_FAILED,
			       "the database has schema version %lld, this program knows %lld; start the program that wrote it, or a newer one",
			       (long long)have, (long long)known) == ERR_OK;
	return migrate_from(db, have, migrations, why);
}

static bool migrate(struct db *db, const struct db_migration *migrations, struct why *why)
{
	if (!db->driver->begin(db, true, why))
		return false;
	if (migrate_locked(db, migrations, why))
		return db->driver->commit(db, why);
	db->driver->rollback(db);
	return false;
}

/* --- calls --- */

bool db_begin(struct db *db, struct why *why) { return db->driver->begin(db, false, why); }
bool db_commit(struct db *db, struct why *why) { return db->driver->commit(db, why); }
void db_rollback(struct db *db) { db->driver->rollback(db); }

bool db_run(struct db *db, unsigned index, const struct db_value *params, unsigned n,
	    bool (*on_row)(void *arg, const struct db_row *), void *arg, int64_t *ret_changed, struct why *why)
{
	return db->driver->run(db, index, params, n, on_row, arg, ret_changed, why);
}

bool db_query(struct db *db, const char *sql, const struct db_value *params, unsigned n,
	      bool (*on_row)(void *arg, const struct db_row *), void *arg, struct why *why)
{
	return db->driver->query(db, sql, params, n, on_row, arg, why);
}

struct db_value db_col(const struct db_row *r, unsigned column) { return r->driver->col(r, column); }
unsigned db_cols(const struct db_row *r) { return r->driver->cols(r); }
const char *db_col_name(const struct db_row *r, unsigned column) { return r->driver->col_name(r, column); }

int64_t db_int(const struct db_row *r, unsigned column)
{
	struct db_value v = db_col(r, column);

	return v.type == DB_INT ? v.i : v.type == DB_REAL ? (int64_t)v.d : 0;
}

struct str db_str(const struct db_row *r, unsigned column)
{
	struct db_value v = db_col(r, column);

	return v.type == DB_TEXT || v.type == DB_BLOB ? v.s : (struct str){ 0 };
}

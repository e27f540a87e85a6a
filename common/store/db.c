/* db.c - chooses the driver, applies migrations or looks whether they were applied, and hands calls on. */
#include "common/store/db.h"

#include "common/store/db_driver.h"
#include "common/store/db_sql.h"

enum { REST_FIRST_MS = 100, REST_MOST_MS = 1000 };
static const struct db_driver *const drivers[] = { &db_sqlite, &db_postgres };

static bool migrate(struct db *, const struct db_migration *, int64_t *ret_from, struct why *);
static bool schema_fits(struct db *, const struct db_migration *, struct why *);

static bool has_scheme(const char *url, const char *scheme, size_t *ret_n)
{
	if (!scheme || !str_starts(str_of(url), str_of(scheme)))
		return false;
	*ret_n = strlen(scheme);
	return true;
}

static const struct db_driver *driver_find(const char *url, size_t *ret_n)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
		if (has_scheme(url, drivers[i]->scheme, ret_n) || has_scheme(url, drivers[i]->also, ret_n))
			return drivers[i];
	return NULL;
}

static struct db *open_bare(const char *url, const char *const *statements, unsigned n, struct why *why)
{
	size_t scheme;
	const struct db_driver *d = driver_find(url, &scheme);

	if (d)
		return d->open(url + scheme, statements, n, why);
	/* Not the whole URL: it may hold a password. */
	err_field(why, ERR_INVALID, "db", "the database URL '%.12s…' has no known scheme; write sqlite:PATH or postgresql://USER@HOST/NAME", url);
	return NULL;
}

struct db *db_open(const char *url, const char *const *statements, unsigned n, const struct db_migration *migrations, struct why *why)
{
	struct db *db = open_bare(url, statements, n, why);

	if (!db)
		return NULL;
	if ((db->driver->is_made ? schema_fits(db, migrations, why) : migrate(db, migrations, NULL, why)) && db->driver->prepare(db, why))
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

static int64_t newest(const struct db_migration *m)
{
	int64_t n = 0;

	for (; m && m->number; m++)
		n = m->number;
	return n;
}

static bool too_new(int64_t have, int64_t known, struct why *why)
{
	return err_set(why, ERR_CONFLICT, "the database has schema version %lld, this program knows %lld; start the program that wrote it, or a newer one",
		       (long long)have, (long long)known) == ERR_OK;
}

static bool version_read(struct db *db, int64_t *ret, struct why *why)
{
	return db->driver->query(db, "SELECT max(number) FROM schema_version", NULL, 0, keep_int, ret, why);
}

static bool schema_fits(struct db *db, const struct db_migration *migrations, struct why *why)
{
	int64_t have = 0, known = newest(migrations);
	bool made = false;

	if (!migrations)
		return true;
	if (!db->driver->is_made(db, &made, why) || (made && !version_read(db, &have, why)))
		return false;
	if (have > known)
		return too_new(have, known, why);
	return have == known || err_set(why, ERR_CONFLICT, "%s has schema version %lld, this program needs %lld; bring it there with 'corral migrate', or this "
					"program's own command 'migrate', and start again", db->driver->name(db), (long long)have, (long long)known) == ERR_OK;
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

static bool migrate_locked(struct db *db, const struct db_migration *migrations, int64_t *ret_from, struct why *why)
{
	int64_t have = 0, known = newest(migrations);

	if (!db->driver->exec(db, "CREATE TABLE IF NOT EXISTS schema_version (number INTEGER NOT NULL PRIMARY KEY)", why) || !version_read(db, &have, why))
		return false;
	if (ret_from)
		*ret_from = have;
	return have > known ? too_new(have, known, why) : migrate_from(db, have, migrations, why);
}

static bool migrate(struct db *db, const struct db_migration *migrations, int64_t *ret_from, struct why *why)
{
	if (!db->driver->begin(db, true, why))
		return false;
	if (migrate_locked(db, migrations, ret_from, why))
		return db->driver->commit(db, why);
	db->driver->rollback(db);
	return false;
}

bool db_migrate(const char *url, const struct db_migration *migrations, int64_t *ret_from, int64_t *ret_to, struct why *why)
{
	struct db *db = open_bare(url, NULL, 0, why);
	bool ok = db && migrate(db, migrations, ret_from, why);

	if (ret_to)
		*ret_to = newest(migrations);
	db_close(db);
	return ok;
}

bool db_migrates_at_open(const char *url)
{
	size_t n;
	const struct db_driver *d = driver_find(url, &n);

	return !d || !d->is_made;
}

/* --- calls --- */

static _Thread_local struct { void (*on_wait)(void *, const char *, int64_t); void *arg; } watch;

void db_on_wait(void (*on_wait)(void *arg, const char *server, int64_t waited_ms), void *arg)
{
	watch.on_wait = on_wait;
	watch.arg = arg;
}

bool db_wait_is_watched(void) { return watch.on_wait != NULL; }

void db_wait_tell(const char *server, int64_t waited_ms)
{
	if (watch.on_wait)
		watch.on_wait(watch.arg, server, waited_ms);
}

bool db_is_back(struct db *db) { return db->driver->is_back && db->driver->is_back(db); }

void db_patience(struct db *db, int64_t ms)
{
	if (db->driver->patience)
		db->driver->patience(db, ms);
}

void db_interrupt(struct db *db)
{
	if (db->driver->interrupt)
		db->driver->interrupt(db);
}

bool db_begin(struct db *db, struct why *why) { return db->driver->begin(db, false, why); }
bool db_commit(struct db *db, struct why *why) { return db->driver->commit(db, why); }
void db_rollback(struct db *db) { db->driver->rollback(db); }

bool db_run(struct db *db, unsigned index, const struct db_value *params, unsigned n,
	    bool (*on_row)(void *arg, const struct db_row *), void *arg, int64_t *ret_changed, struct why *why)
{
	return db->driver->run(db, index, params, n, on_row, arg, ret_changed, why);
}

bool db_batch(struct db *db, unsigned index, const struct db_value *params, unsigned n, size_t rows, int64_t *ret_changed, struct why *why)
{
	return db->driver->batch(db, index, params, n, rows, ret_changed, why);
}

bool db_query(struct db *db, const char *sql, const struct db_value *params, unsigned n,
	      bool (*on_row)(void *arg, const struct db_row *), void *arg, struct why *why)
{
	return db->driver->query(db, sql, params, n, on_row, arg, why);
}

struct str db_text(struct arena *mem, struct str s) { return db_sql_text(mem, s); }
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

int64_t db_rest_ms(int64_t before_ms, int64_t took_ms)
{
	int64_t ms = before_ms ? before_ms * 2 : REST_FIRST_MS;

	if (ms > REST_MOST_MS)
		ms = REST_MOST_MS;
	return ms > took_ms * 4 ? ms : took_ms * 4;
}

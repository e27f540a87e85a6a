/* db_sqlite.c - the SQLite driver of db.h; the only file that includes sqlite3.h.
 *
 * URL: sqlite:PATH[?sync=full]. WAL; a commit survives kill -9, and with sync=full power loss too. */
#include <sqlite3.h>
#include <stdio.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/store/db_driver.h"

enum { BUSY_MS = 5000, TOGETHER = 32 /* rows of a batch in one statement */ };

struct db_sqlite {
	struct db base;
	sqlite3 *handle;
	char *path;
	const char *const *sql;
	sqlite3_stmt **stmts, **many; /* many: of TOGETHER rows, made when first used */
	unsigned n;
	sqlite3_stmt *begin, *commit;
};

static struct db_sqlite *of(struct db *db) { return (struct db_sqlite *)(void *)db; }

static enum err code_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_CONSTRAINT:
		return ERR_CONFLICT;
	case SQLITE_ERROR:
	case SQLITE_MISUSE:
	case SQLITE_RANGE:
	case SQLITE_MISMATCH:
		return ERR_INTERNAL;
	default:
		return ERR_STORE_FAILED;
	}
}

static bool failed(struct db_sqlite *d, int rc, const char *what, struct why *why)
{
	err_set(why, code_of(rc), "database %s: cannot %s: %s", d->path, what, d->handle ? sqlite3_errmsg(d->handle) : sqlite3_errstr(rc));
	return false;
}

/* --- open and close --- */

static bool exec(struct db *db, const char *sql, struct why *why)
{
	int rc = sqlite3_exec(of(db)->handle, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK || failed(of(db), rc, "run a statement", why);
}

static void sqlite_close(struct db *db)
{
	struct db_sqlite *d = of(db);

	for (unsigned i = 0; i < d->n; i++) {
		sqlite3_finalize(d->stmts ? d->stmts[i] : NULL);
		sqlite3_finalize(d->many ? d->many[i] : NULL);
	}
	sqlite3_finalize(d->begin);
	sqlite3_finalize(d->commit);
	sqlite3_close(d->handle);
	free(d->stmts);
	free(d->many);
	free(d->path);
	free(d);
}

/* Splits "PATH?sync=full"; false on an unknown parameter. */
static bool url_parse(struct db_sqlite *d, const char *rest, bool *ret_full, struct why *why)
{
	const char *query = strchr(rest, '?');

	d->path = x_strdup(rest);
	if (query)
		d->path[query - rest] = '\0';
	*ret_full = query && strcmp(query, "?sync=full") == 0;
	if (query && !*ret_full && strcmp(query, "?sync=normal") != 0)
		return err_field(why, ERR_INVALID, "db", "'%s' is not known behind the path of a sqlite: URL; write ?sync=full or ?sync=normal", query) == ERR_OK;
	if (!d->path[0])
		return err_field(why, ERR_INVALID, "db", "a sqlite: URL needs a path") == ERR_OK;
	return true;
}

static bool handle_open(struct db_sqlite *d, bool full, struct why *why)
{
	int rc = sqlite3_open_v2(d->path, &d->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);

	if (rc != SQLITE_OK)
		return failed(d, rc, "open it", why);
	sqlite3_extended_result_codes(d->handle, 1);
	sqlite3_busy_timeout(d->handle, BUSY_MS);
	return exec(&d->base, "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;", why) &&
	       exec(&d->base, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", why);
}

static struct db *sqlite_open(const char *rest, const char *const *statements, unsigned n, struct why *why)
{
	struct db_sqlite *d = x_calloc(1, sizeof(*d));
	bool full;

	d->base.driver = &db_sqlite;
	d->sql = statements;
	d->n = n;
	if (url_parse(d, rest, &full, why) && handle_open(d, full, why))
		return &d->base;
	sqlite_close(&d->base);
	return NULL;
}

static bool prepare_one(struct db_sqlite *d, const char *sql, sqlite3_stmt **ret, struct why *why)
{
	int rc = sqlite3_prepare_v3(d->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);

	return rc == SQLITE_OK || failed(d, rc, sql, why);
}

static bool sqlite_prepare(struct db *db, struct why *why)
{
	struct db_sqlite *d = of(db);

	d->stmts = x_calloc(d->n ? d->n : 1, sizeof(*d->stmts));
	for (unsigned i = 0; i < d->n; i++)
		if (!prepare_one(d, d->sql[i], &d->stmts[i], why))
			return false;
	return prepare_one(d, "BEGIN IMMEDIATE", &d->begin, why) && prepare_one(d, "COMMIT", &d->commit, why);
}

/* --- transactions --- */

static bool step_done(struct db_sqlite *d, sqlite3_stmt *s, const char *what, struct why *why)
{
	int rc = sqlite3_step(s);
	bool ok = rc == SQLITE_DONE || failed(d, rc, what, why);

	sqlite3_reset(s);
	return ok;
}

static bool sqlite_begin(struct db *db, bool exclusive, struct why *why)
{
	struct db_sqlite *d = of(db);

	if (exclusive || !d->begin)
		return exec(db, exclusive ? "BEGIN EXCLUSIVE" : "BEGIN IMMEDIATE", why);
	return step_done(d, d->begin, "begin a transaction", why);
}

static void sqlite_rollback(struct db *db)
{
	/* Some failures have rolled back already. */
	if (!sqlite3_get_autocommit(of(db)->handle))
		(void)exec(db, "ROLLBACK", NULL);
}

static bool sqlite_commit(struct db *db, struct why *why)
{
	struct db_sqlite *d = of(db);

	if (d->commit ? step_done(d, d->commit, "commit", why) : exec(db, "COMMIT", why))
		return true;
	sqlite_rollback(db);
	return false;
}

/* --- statements --- */

static int bind_one(sqlite3_stmt *s, int at, const struct db_value *v)
{
	switch (v->type) {
	case DB_INT:
		return sqlite3_bind_int64(s, at, v->i);
	case DB_REAL:
		return sqlite3_bind_double(s, at, v->d);
	case DB_TEXT:
		return sqlite3_bind_text(s, at, v->s.p ? v->s.p : "", (int)v->s.n, SQLITE_STATIC);
	case DB_BLOB:
		return sqlite3_bind_blob(s, at, v->s.p ? v->s.p : "", (int)v->s.n, SQLITE_STATIC);
	default:
		return sqlite3_bind_null(s, at);
	}
}

static int bind_all(sqlite3_stmt *s, const struct db_value *params, unsigned n)
{
	int rc = SQLITE_OK;

	for (unsigned i = 0; i < n && rc == SQLITE_OK; i++)
		rc = bind_one(s, (int)i + 1, &params[i]);
	return rc;
}

static bool stmt_run(struct db_sqlite *d, sqlite3_stmt *s, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg,
		     struct why *why)
{
	struct db_row row = { &db_sqlite, s };
	int rc = bind_all(s, params, n);

	if (rc != SQLITE_OK)
		return failed(d, rc, "bind a parameter", why);
	while ((rc = sqlite3_step(s)) == SQLITE_ROW)
		if (on_row && !on_row(arg, &row))
			return true;
	return rc == SQLITE_DONE || failed(d, rc, sqlite3_sql(s), why);
}

static bool sqlite_run(struct db *db, unsigned index, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg,
		       int64_t *ret_changed, struct why *why)
{
	struct db_sqlite *d = of(db);
	bool ok;

	if (index >= d->n)
		return err_set(why, ERR_INTERNAL, "there is no statement %u", index) == ERR_OK;
	ok = stmt_run(d, d->stmts[index], params, n, on_row, arg, why);
	if (ok && ret_changed)
		*ret_changed = sqlite3_changes(d->handle);
	sqlite3_reset(d->stmts[index]);
	return ok;
}

/* --- many rows --- */

/* The same insert of TOGETHER rows; false when its text is not that of a row of ?1 to ?n with no parameter behind it. FAIL keeps what was
 * inserted before the row that cannot be, and needs no journal of the statement. */
static bool many_of(struct str sql, unsigned n, struct buf *to)
{
	const char *at = str_find(sql, STR(" VALUES "));
	struct str head = str_n(sql.p, at ? (size_t)(at - sql.p) + 8 : 0), tail = str_from(sql, head.n);
	struct buf row = { 0 };
	bool fits = at && str_starts(sql, STR("INSERT INTO "));

	for (unsigned i = 1; i <= n; i++)
		buf_printf(&row, "%s?%u", i == 1 ? "(" : ", ", i);
	buf_char(&row, ')');
	fits = fits && str_starts(tail, buf_as_str(&row));
	tail = str_from(tail, row.n);
	buf_free(&row);
	if (!fits || str_find(tail, STR("?")))
		return false;
	buf_addz(to, "INSERT OR FAIL INTO ");
	buf_str(to, str_from(head, 12));
	for (unsigned r = 0; r < TOGETHER; r++) {
		for (unsigned i = 0; i < n; i++)
			buf_addz(to, i ? ",?" : r ? ",(?" : "(?");
		buf_char(to, ')');
	}
	buf_str(to, tail);
	return true;
}

/* *ret stays NULL when rows go one by one. */
static bool many_stmt(struct db_sqlite *d, unsigned index, unsigned n, sqlite3_stmt **ret, struct why *why)
{
	struct buf sql = { 0 };
	bool ok = true;

	if (!d->many)
		d->many = x_calloc(d->n ? d->n : 1, sizeof(*d->many));
	if (!d->many[index] && many_of(str_of(d->sql[index]), n, &sql))
		ok = prepare_one(d, buf_z(&sql), &d->many[index], why);
	buf_free(&sql);
	*ret = d->many[index];
	return ok;
}

static bool sqlite_batch(struct db *db, unsigned index, const struct db_value *params, unsigned n, size_t rows, int64_t *ret_changed, struct why *why)
{
	struct db_sqlite *d = of(db);
	sqlite3_stmt *many = NULL;
	int64_t all = 0, one = 0;
	size_t i = 0;
	bool ok = index >= d->n || rows < TOGETHER || many_stmt(d, index, n, &many, why);

	for (; ok && many && i + TOGETHER <= rows; i += TOGETHER) {
		ok = stmt_run(d, many, params + i * n, n * TOGETHER, NULL, NULL, why);
		all += sqlite3_changes(d->handle);
		sqlite3_reset(many);
	}
	for (; ok && i < rows; i++, all += one)
		ok = sqlite_run(db, index, params + i * n, n, NULL, NULL, &one, why);
	if (ok && ret_changed)
		*ret_changed = all;
	return ok;
}

static bool sqlite_query(struct db *db, const char *sql, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg,
			 struct why *why)
{
	struct db_sqlite *d = of(db);
	sqlite3_stmt *s = NULL;
	int rc = sqlite3_prepare_v2(d->handle, sql, -1, &s, NULL);
	bool ok = rc == SQLITE_OK ? stmt_run(d, s, params, n, on_row, arg, why) : failed(d, rc, sql, why);

	sqlite3_finalize(s);
	return ok;
}

/* --- rows --- */

static struct str bytes_of(sqlite3_stmt *s, int column, const void *p)
{
	return str_n(p, (size_t)sqlite3_column_bytes(s, column));
}

static struct db_value sqlite_col(const struct db_row *row, unsigned column)
{
	sqlite3_stmt *s = row->impl;
	int c = (int)column;

	switch (sqlite3_column_type(s, c)) {
	case SQLITE_INTEGER:
		return DB_I(sqlite3_column_int64(s, c));
	case SQLITE_FLOAT:
		return DB_D(sqlite3_column_double(s, c));
	case SQLITE_TEXT:
		return DB_S(bytes_of(s, c, sqlite3_column_text(s, c)));
	case SQLITE_BLOB:
		return DB_B(bytes_of(s, c, sqlite3_column_blob(s, c)));
	default:
		return DB_NIL;
	}
}

static unsigned sqlite_cols(const struct db_row *row) { return (unsigned)sqlite3_column_count(row->impl); }
static const char *sqlite_col_name(const struct db_row *row, unsigned column) { return sqlite3_column_name(row->impl, (int)column); }

/* --- whole files --- */

static bool open_plain(struct db_sqlite *d, const char *path, int flags, struct why *why)
{
	int rc;

	*d = (struct db_sqlite){ .path = (char *)(uintptr_t)path };
	rc = sqlite3_open_v2(path, &d->handle, flags | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK)
		sqlite3_busy_timeout(d->handle, BUSY_MS);
	return rc == SQLITE_OK || failed(d, rc, "open it", why);
}

static bool copy_all(struct db_sqlite *from, struct db_sqlite *to, struct why *why)
{
	sqlite3_backup *b = sqlite3_backup_init(to->handle, "main", from->handle, "main");
	int rc;

	if (!b)
		return failed(to, sqlite3_errcode(to->handle), "begin a copy", why);
	while ((rc = sqlite3_backup_step(b, -1)) == SQLITE_BUSY || rc == SQLITE_LOCKED)
		sqlite3_sleep(20);
	sqlite3_backup_finish(b);
	if (rc != SQLITE_DONE)
		return failed(from, rc, "copy it", why);
	/* One file, without a log beside it. */
	return exec(&to->base, "PRAGMA journal_mode=DELETE", why);
}

struct db_pin { struct db_sqlite db; char path[]; };

struct db_pin *db_pin(const char *path, struct why *why)
{
	struct db_pin *p = x_calloc(1, sizeof(*p) + strlen(path) + 1);

	memcpy(p->path, path, strlen(path) + 1);
	/* a transaction begins with its first read */
	if (open_plain(&p->db, p->path, SQLITE_OPEN_READWRITE, why) && exec(&p->db.base, "BEGIN; SELECT count(*) FROM sqlite_master", why))
		return p;
	db_unpin(p);
	return NULL;
}

bool db_pin_copy(struct db_pin *p, const char *to, struct why *why)
{
	struct db_sqlite copy;
	bool ok = open_plain(&copy, to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, why) && copy_all(&p->db, &copy, why);

	sqlite3_close(copy.handle);
	return ok;
}

void db_unpin(struct db_pin *p)
{
	if (!p)
		return;
	sqlite3_close(p->db.handle);
	free(p);
}

static int first_text(void *arg, int n, char **values, char **names)
{
	char *to = arg;

	(void)names;
	if (!to[0] && n > 0 && values[0])
		(void)str_copy(to, 64, str_of(values[0]));
	return 0;
}

static bool ask(struct db_sqlite *d, const char *sql, char ret[64], struct why *why)
{
	int rc;

	ret[0] = '\0';
	rc = sqlite3_exec(d->handle, sql, first_text, ret, NULL);
	return rc == SQLITE_OK || failed(d, rc, "read it", why);
}

bool db_verify(const char *path, int64_t *ret_schema, struct why *why)
{
	struct db_sqlite d;
	char said[64], version[64] = "0", has[64];
	bool ok = open_plain(&d, path, SQLITE_OPEN_READONLY, why) && ask(&d, "PRAGMA integrity_check(1)", said, why);

	if (ok && strcmp(said, "ok") != 0)
		ok = err_set(why, ERR_STORE_FAILED, "database %s is damaged: %s", path, said) == ERR_OK;
	ok = ok && ask(&d, "SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'", has, why);
	if (ok && has[0] == '1')
		ok = ask(&d, "SELECT max(number) FROM schema_version", version, why);
	sqlite3_close(d.handle);
	if (ok && !str_i64(str_of(version), ret_schema))
		*ret_schema = 0;
	return ok;
}

bool db_is_file(const char *path)
{
	char magic[16] = { 0 };
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(magic, 1, sizeof(magic), f) : 0;

	if (f)
		fclose(f);
	return n == sizeof(magic) && memcmp(magic, "SQLite format 3", 16) == 0;
}

const struct db_driver db_sqlite = {
	.scheme = "sqlite:",
	.open = sqlite_open, .close = sqlite_close, .prepare = sqlite_prepare, .exec = exec,
	.begin = sqlite_begin, .commit = sqlite_commit, .rollback = sqlite_rollback,
	.run = sqlite_run, .batch = sqlite_batch, .query = sqlite_query,
	.col = sqlite_col, .cols = sqlite_cols, .col_name = sqlite_col_name,
};

/* db_postgres.c - the PostgreSQL driver of db.h; the only file that includes libpq-fe.h.
 *
 * URL: postgresql://USER:PASSWORD@HOST:PORT/NAME[?schema=S&statement_timeout_ms=N&…], the rest as libpq has it. Everything lies in the
 * schema S (default: corral), which is all of the search path. The connection belongs to this process for long: a pooler between has to
 * pool sessions, not transactions.
 *
 * No call waits for long for a server that does not answer: a statement has its statement_timeout (the server ends it) and a little more (then the
 * connection is given up). A lost connection fails the call in hand and its transaction; later calls connect again: an attempt has CONNECT_MS, of which a
 * call waits DIAL_MS at most, and between two attempts, or two calls that wait, is a rest in which calls fail at once. Only the first has OPEN_MS in one go.
 * Values go and come in binary; a statement is prepared when it first runs, with the types of what it is given, so that SQL needs no casts. Many rows go in a
 * pipeline, new ones in arrays. Answers are read whole before the first row is handed on, so that on_row may ask further. */
#include <libpq-fe.h>
#include <endian.h>
#include <poll.h>
#include <stdatomic.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/store/db_driver.h"
#include "common/store/db_sql.h"
#include "common/store/db_writer.h"

enum { OPEN_MS = 5000, CONNECT_MS = 5000, DIAL_MS = 250, SILENT_MS = 1000, STATEMENT_MS = 5000, LOCK_MS = 2000, SPARE_MS = 2000,
       TELL_MS = 250, MIGRATE_MS = 600000, MIGRATE_LOCK_MS = 60000,
       LOCK_CLASS = 0x436f7261 /* of advisory locks: migrations */ };

/* Rows that go in arrays: from so many on, at most so many in a statement, and about so many bytes, so that the server need not put them aside on its disk. */
enum { ARRAYS_FROM = 8, ARRAY_ROWS = 500, ARRAY_BYTES = 512 << 10 };

/* Types by the numbers that pg_type has for them since ever. */
enum { T_BOOL = 16, T_BYTEA = 17, T_NAME = 19, T_INT8 = 20, T_INT2 = 21, T_INT4 = 23, T_TEXT = 25, T_OID = 26, T_FLOAT4 = 700, T_FLOAT8 = 701,
       T_BPCHAR = 1042, T_VARCHAR = 1043, T_NUMERIC = 1700, T_BYTEAS = 1001, T_TEXTS = 1009, T_INT8S = 1016, T_FLOAT8S = 1022 };

struct stmt {
	char *sql;                    /* rewritten; NULL until first used */
	bool by_row;                  /* of those for arrays: there is none */
	char name[32];                /* "" = not prepared on this connection */
	Oid *types;                   /* n_types; 0 = only NULL was given so far */
	unsigned n_types, times;
};

struct db_postgres {
	struct db base;
	PGconn *conn;                 /* NULL = not connected */
	PGconn *dialled;              /* being connected */
	PostgresPollingStatusType dial;       /* what it waits for */
	PQconninfoOption *info;
	const char **keys, **values;  /* what to connect with, into info and constants; ended by NULL */
	char schema[64], where[300];  /* where: for sentences; without a password */
	const char *const *sql;
	struct stmt *stmts;           /* n as they are, and n that take arrays */
	unsigned n;
	bool in_tx, lost;             /* lost: the transaction is gone, and the caller has not heard it from commit or rollback yet */
	bool opened, migrating;
	atomic_bool interrupted;      /* nothing waits any more */
	bool down;                    /* it was lost, and nobody has asked since whether it is back */
	int64_t statement_ms, spare_ms, rest_ms, connect_us, retry_us;
	int64_t epoch;                /* it writes while this is the writer's (db_writer.h); 0 = always */
	struct arena *mem;            /* of the parameters in hand */
	struct buf arrays;
	char trouble[300];            /* why it could not connect last */
};

static struct db_postgres *of(struct db *db) { return (struct db_postgres *)(void *)db; }

/* --- what went wrong --- */

/* The first line of what libpq says, which ends in a newline. */
static struct str first_line(const char *text)
{
	return str_trim(str_n(text, strcspn(text, "\n")));
}

static enum err code_of(const char *state)
{
	if (!state)
		return ERR_STORE_FAILED;
	if (strncmp(state, "23", 2) == 0)
		return ERR_CONFLICT;
	return strncmp(state, "42", 2) == 0 || strncmp(state, "22", 2) == 0 || strncmp(state, "26", 2) == 0 ? ERR_INTERNAL : ERR_STORE_FAILED;
}

static void hang_up(struct db_postgres *d)
{
	PQfinish(d->conn);
	PQfinish(d->dialled);
	d->conn = d->dialled = NULL;
	d->down = true;
	d->lost = d->in_tx;
	for (unsigned i = 0; i < 2 * d->n; i++)
		d->stmts[i].name[0] = '\0';
}

static bool gone(struct db_postgres *d, const char *what, struct why *why)
{
	struct str said = first_line(d->conn ? PQerrorMessage(d->conn) : "");

	err_set(why, ERR_STORE_FAILED, "%s: %s%s" STR_FMT "; it is connected again with the next call", d->where, what, said.n ? ": " : "", STR_ARG(said));
	hang_up(d);
	return false;
}

/* Sessions that the server ends say why before the connection breaks. One that may only read (25006) is of a server that is no longer, or not yet, the one
 * that writes: the next is asked for at its address. */
static bool ends_session(const char *state)
{
	return state && (strncmp(state, "57P0", 4) == 0 || strncmp(state, "08", 2) == 0 || strcmp(state, "25P03") == 0 || strcmp(state, "25006") == 0);
}

static bool refused(struct db_postgres *d, const PGresult *r, const char *sql, struct why *why)
{
	const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE), *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);

	err_set(why, code_of(state), "%s: %s (%s), in: %.120s", d->where, text ? text : "it failed", state ? state : "no code", sql);
	if (ends_session(state) || PQstatus(d->conn) == CONNECTION_BAD)
		hang_up(d);
	return false;
}

/* --- waiting --- */

/* Like poll(), for a long wait in pieces, so that it is told, and can be interrupted. */
static int poll_telling(struct db_postgres *d, struct pollfd *p, int64_t until_us)
{
	int64_t began_us = mono_us(), left_us = until_us - began_us, now_us = began_us;
	bool told = false;
	int n;

	while ((n = poll(p, 1, (int)((left_us < TELL_MS * 1000 ? left_us : TELL_MS * 1000) / 1000) + 1)) == 0 && (now_us = mono_us()) < until_us &&
	       !atomic_load(&d->interrupted)) {
		left_us = until_us - now_us;
		if (now_us - began_us < DB_LONG_MS * 1000 || !db_wait_is_watched())
			continue;
		db_wait_tell(d->where, (now_us - began_us) / 1000);
		told = true;
	}
	if (told)
		db_wait_tell(d->where, 0);
	return n;
}

static bool wait_for(struct db_postgres *d, const PGconn *conn, short events, int64_t until_us)
{
	struct pollfd p = { .fd = PQsocket(conn), .events = events };

	return p.fd >= 0 && mono_us() < until_us && !atomic_load(&d->interrupted) && poll_telling(d, &p, until_us) >= 0;
}

static int64_t call_until(const struct db_postgres *d)
{
	return mono_us() + 1000 * ((d->migrating ? MIGRATE_MS : d->statement_ms) + d->spare_ms);
}

/* Whoever asks next hears so, and waits no second time. */
static bool silent(struct db_postgres *d, struct why *why)
{
	d->retry_us = mono_us() + SILENT_MS * 1000;
	(void)str_copy(d->trouble, sizeof(d->trouble), STR("no answer within the time for a statement"));
	return gone(d, "no answer within the time for a statement, the connection is given up", why);
}

/* The next result of what was sent; NULL with *ret_ok = true when there is none more. */
static PGresult *next_result(struct db_postgres *d, int64_t until_us, bool *ret_ok, struct why *why)
{
	int unsent;

	*ret_ok = true;
	while ((unsent = PQflush(d->conn)) >= 0) {
		if (!PQisBusy(d->conn))
			return PQgetResult(d->conn);
		if (!wait_for(d, d->conn, (short)(POLLIN | (unsent ? POLLOUT : 0)), until_us)) {
			*ret_ok = silent(d, why);
			return NULL;
		}
		if (!PQconsumeInput(d->conn))
			break;
	}
	*ret_ok = gone(d, "the connection was lost", why);
	return NULL;
}

static bool is_good(const PGresult *r)
{
	ExecStatusType s = PQresultStatus(r);

	return s == PGRES_COMMAND_OK || s == PGRES_TUPLES_OK || s == PGRES_EMPTY_QUERY;
}

/* Reads all results of one command and keeps the last; NULL = it failed, or the connection did. */
static PGresult *finish(struct db_postgres *d, const char *sql, struct why *why)
{
	int64_t until_us = call_until(d);
	PGresult *r, *last = NULL;
	bool ok, good = true;

	while ((r = next_result(d, until_us, &ok, why))) {
		if (good && !is_good(r))
			good = refused(d, r, sql, why);
		PQclear(last);
		last = r;
		if (!d->conn)
			break;
	}
	if (good && ok)
		return last;
	PQclear(last);
	return NULL;
}

static bool command(struct db_postgres *d, const char *sql, struct why *why)
{
	PGresult *r;

	if (!PQsendQuery(d->conn, sql))
		return gone(d, "the connection was lost", why);
	r = finish(d, sql, why);
	PQclear(r);
	return r != NULL;
}

/* --- connecting --- */

static void ignore_notice(void *arg, const PGresult *r) { (void)arg, (void)r; }

/* NULL = connected, else why not; *ret_later: not yet. */
static const char *connect_wait(struct db_postgres *d, bool *ret_later)
{
	int64_t end_us = d->connect_us + (d->opened ? CONNECT_MS : OPEN_MS) * 1000, until_us = d->opened ? mono_us() + DIAL_MS * 1000 : end_us;

	while (d->dial != PGRES_POLLING_OK && d->dial != PGRES_POLLING_FAILED && PQstatus(d->dialled) != CONNECTION_BAD) {
		if (!wait_for(d, d->dialled, d->dial == PGRES_POLLING_READING ? POLLIN : POLLOUT, until_us)) {
			*ret_later = mono_us() < end_us;
			return "no answer in time";
		}
		d->dial = PQconnectPoll(d->dialled);
	}
	return PQstatus(d->dialled) == CONNECTION_OK ? NULL : PQerrorMessage(d->dialled);
}

/* A session whose client is gone is ended by the server soon, so that its locks do not outlive it. */
static bool session_begin(struct db_postgres *d, struct why *why)
{
	char sql[600];

	snprintf(sql, sizeof(sql), "SET search_path TO %s; SET statement_timeout TO %lld; SET lock_timeout TO %d; SET idle_in_transaction_session_timeout TO %lld; "
		 "SET client_min_messages TO warning; SET standard_conforming_strings TO on; SET tcp_keepalives_idle TO 5; SET tcp_keepalives_interval TO 2; "
		 "SET tcp_keepalives_count TO 3", d->schema, (long long)d->statement_ms, LOCK_MS, (long long)d->statement_ms * 2);
	return command(d, sql, why);
}

/* At a random moment of its last quarter: not all that lost it try again together. */
static void rest(struct db_postgres *d, int64_t ms)
{
	d->retry_us = mono_us() + (int64_t)((double)ms * 1000 * (1 + rand_unit() / 4));
}

static bool connect_failed(struct db_postgres *d, struct str text, int64_t took_ms, struct why *why)
{
	(void)str_copy(d->trouble, sizeof(d->trouble), text);
	hang_up(d);
	d->lost = false;
	d->rest_ms = db_rest_ms(d->rest_ms, took_ms);
	rest(d, d->rest_ms);
	return err_set(why, ERR_STORE_FAILED, "%s cannot be reached: %s", d->where, d->trouble) == ERR_OK;
}

/* The attempt stays under way. */
static bool connect_later(struct db_postgres *d, const char *flaw, struct why *why)
{
	(void)str_copy(d->trouble, sizeof(d->trouble), str_of(flaw));
	rest(d, 4 * DIAL_MS);
	return err_set(why, ERR_STORE_FAILED, "%s cannot be reached yet: %s", d->where, d->trouble) == ERR_OK;
}

static bool connect_now(struct db_postgres *d, struct why *why)
{
	int64_t began_us = mono_us();
	struct why said = { 0 };
	const char *flaw = "out of memory";
	bool later = false;

	if (!d->dialled) {
		d->connect_us = began_us;
		d->dialled = PQconnectStartParams(d->keys, d->values, 0);
		d->dial = PGRES_POLLING_WRITING;
	}
	if (d->dialled)
		flaw = connect_wait(d, &later);
	if (later)
		return connect_later(d, flaw, why);
	if (flaw)
		return connect_failed(d, first_line(flaw), (mono_us() - began_us) / 1000, why);
	d->conn = d->dialled;
	d->dialled = NULL;
	PQsetNoticeReceiver(d->conn, ignore_notice, NULL);
	PQsetnonblocking(d->conn, 1);
	if (!session_begin(d, &said))
		return connect_failed(d, str_of(said.text), (mono_us() - began_us) / 1000, why);
	d->rest_ms = 0;
	d->opened = true;
	return true;
}

static bool ready(struct db_postgres *d, struct why *why)
{
	if (atomic_load(&d->interrupted))
		return err_set(why, ERR_STORE_FAILED, "%s: the call was interrupted, for this program stops", d->where) == ERR_OK;
	if (d->lost)
		return err_set(why, ERR_STORE_FAILED, "%s: the connection was lost, and the transaction with it", d->where) == ERR_OK;
	if (d->conn)
		return true;
	if (mono_us() < d->retry_us)
		return err_set(why, ERR_STORE_FAILED, "%s cannot be reached: %s; it is tried again in a moment", d->where, d->trouble) == ERR_OK;
	return connect_now(d, why);
}

/* --- the URL --- */

static bool is_schema(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || s.p[i] == '_' || (i && s.p[i] >= '0' && s.p[i] <= '9')))
			return false;
	return s.n > 0 && s.n < 60 && !str_starts(s, STR("pg_"));
}

/* True when the parameter is ours and not libpq's. */
static bool own_parameter(struct db_postgres *d, struct str name, struct str value, bool *ret_bad, struct why *why)
{
	if (str_eqz(name, "schema")) {
		(void)str_copy(d->schema, sizeof(d->schema), value);
		*ret_bad = !is_schema(value) &&
			   err_field(why, ERR_INVALID, "db", "'" STR_FMT "' is no name for a schema; it has small letters, digits and _", STR_ARG(value));
		return true;
	}
	if (!str_eqz(name, "statement_timeout_ms"))
		return false;
	*ret_bad = (!str_i64(value, &d->statement_ms) || d->statement_ms < 10 || d->statement_ms > 3600000) &&
		   err_field(why, ERR_INVALID, "db", "statement_timeout_ms is a number from 10 to 3600000");
	return true;
}

/* The URL without what is ours. */
static bool url_take(struct db_postgres *d, const char *rest, struct buf *to, struct why *why)
{
	struct str url = str_of(rest), head, part, value;
	bool bad = false;
	char sep = '?';

	buf_addz(to, "postgresql:");
	(void)str_split(&url, '?', &head);
	buf_str(to, head);
	while (!bad && url.p && str_split(&url, '&', &part)) {
		value = part;
		(void)str_split(&value, '=', &head);
		if (own_parameter(d, head, value, &bad, why))
			continue;
		buf_char(to, sep);
		buf_str(to, part);
		sep = '&';
	}
	(void)buf_z(to);
	return !bad;
}

static void describe(struct db_postgres *d)
{
	const char *host = NULL, *port = NULL, *name = NULL, *user = NULL;

	for (const PQconninfoOption *o = d->info; o->keyword; o++) {
		const char **to = strcmp(o->keyword, "host") == 0 ? &host : strcmp(o->keyword, "port") == 0 ? &port :
				  strcmp(o->keyword, "dbname") == 0 ? &name : strcmp(o->keyword, "user") == 0 ? &user : NULL;

		if (to)
			*to = o->val;
	}
	snprintf(d->where, sizeof(d->where), "PostgreSQL at %.100s%s%.10s, database %.60s, schema %.60s", host ? host : "the local socket", port ? ":" : "",
		 port ? port : "", name ? name : user ? user : "of the user's name", d->schema);
}

/* What is not said in the URL is as good for a service: no wait for a dead peer, no Kerberos that asks around first, no server that only reads. */
static void parameters(struct db_postgres *d)
{
	static const char *const more[][2] = {
		{ "client_encoding", "UTF8" }, { "fallback_application_name", "corral" }, { "gssencmode", "disable" }, { "tcp_user_timeout", "5000" },
		{ "keepalives_idle", "5" }, { "keepalives_interval", "2" }, { "keepalives_count", "3" }, { "target_session_attrs", "read-write" },
	};
	unsigned n = 0;

	for (const PQconninfoOption *o = d->info; o->keyword; o++)
		n++;
	d->keys = x_calloc(n + sizeof(more) / sizeof(*more) + 1, sizeof(*d->keys));
	d->values = x_calloc(n + sizeof(more) / sizeof(*more) + 1, sizeof(*d->values));
	n = 0;
	for (size_t i = 0; i < sizeof(more) / sizeof(*more); i++, n++) {
		d->keys[n] = more[i][0];
		d->values[n] = more[i][1];
	}
	for (const PQconninfoOption *o = d->info; o->keyword; o++)        /* a later one wins */
		if (o->val) {
			d->keys[n] = o->keyword;
			d->values[n++] = o->val;
		}
}

static bool url_parse(struct db_postgres *d, const char *rest, struct why *why)
{
	struct buf url = { 0 };
	char *said = NULL;
	bool ok = url_take(d, rest, &url, why);

	if (ok && !(d->info = PQconninfoParse(url.p, &said)))
		/* What libpq says of it may hold the password. */
		ok = err_field(why, ERR_INVALID, "db", "the database URL cannot be read; write postgresql://USER:PASSWORD@HOST:PORT/NAME, with %%40 for @ and %%2F for / in "
			       "the password") == ERR_OK;
	PQfreemem(said);
	buf_free(&url);
	if (ok) {
		describe(d);
		parameters(d);
	}
	return ok;
}

/* --- open and close --- */

static void pg_close(struct db *db)
{
	struct db_postgres *d = of(db);

	PQfinish(d->conn);
	PQfinish(d->dialled);
	for (unsigned i = 0; i < 2 * d->n; i++) {
		free(d->stmts[i].sql);
		free(d->stmts[i].types);
	}
	free(d->stmts);
	free(d->keys);
	free(d->values);
	PQconninfoFree(d->info);
	buf_free(&d->arrays);
	arena_free(d->mem);
	free(d);
}

static struct db *pg_open(const char *rest, const char *const *statements, unsigned n, struct why *why)
{
	struct db_postgres *d = x_calloc(1, sizeof(*d));

	*d = (struct db_postgres){ .base.driver = &db_postgres, .sql = statements, .n = n, .schema = "corral", .statement_ms = STATEMENT_MS,
				   .spare_ms = SPARE_MS };
	d->stmts = x_calloc(n ? 2 * n : 1, sizeof(*d->stmts));
	d->mem = arena_new(0);
	d->epoch = db_writer_epoch_of(rest);
	if (url_parse(d, rest, why) && connect_now(d, why))
		return &d->base;
	pg_close(&d->base);
	return NULL;
}

/* Statements are prepared when they first run: then the types are known. */
static bool pg_prepare(struct db *db, struct why *why)
{
	(void)db, (void)why;
	return true;
}

/* --- transactions --- */

static bool pg_exec(struct db *db, const char *sql, struct why *why)
{
	struct db_postgres *d = of(db);
	struct buf own = { 0 };
	bool ok;

	if (!ready(d, why))
		return false;
	db_sql_rewrite(str_of(sql), &own);
	ok = command(d, buf_z(&own), why);
	buf_free(&own);
	return ok;
}

/* For migrations: one at a time; the schema, and what SQLite has and views use. */
static bool begin_alone(struct db_postgres *d, struct why *why)
{
	char sql[1000];

	d->migrating = true;
	snprintf(sql, sizeof(sql), "BEGIN; SET LOCAL statement_timeout TO %d; SET LOCAL lock_timeout TO %d; SET LOCAL idle_in_transaction_session_timeout TO 0;"
		 "SELECT pg_advisory_xact_lock(%d, hashtext('%s')); SET LOCAL lock_timeout TO %d", MIGRATE_MS, MIGRATE_LOCK_MS, LOCK_CLASS, d->schema, LOCK_MS * 5);
	if (!command(d, sql, why))
		return false;
	d->in_tx = true;
	snprintf(sql, sizeof(sql), "DO $do$ BEGIN IF to_regnamespace('%s') IS NULL THEN CREATE SCHEMA %s; END IF;"
		 "IF to_regprocedure('%s.hex(bytea)') IS NULL THEN CREATE FUNCTION %s.hex(bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE"
		 " AS $fn$ SELECT upper(encode($1, 'hex')) $fn$; END IF; END $do$",
		 d->schema, d->schema, d->schema, d->schema);
	return command(d, sql, why) && command(d, "CREATE TABLE IF NOT EXISTS one_writer (one BIGINT PRIMARY KEY, who TEXT NOT NULL, epoch BIGINT NOT NULL UNIQUE,"
							   " until_us BIGINT NOT NULL)", why);
}

/* The row is held by its key until the end of the transaction: a new writer, who changes that, waits for it. */
static bool begin_as_writer(struct db_postgres *d, struct why *why)
{
	char sql[120];
	PGresult *r;
	bool ok;

	snprintf(sql, sizeof(sql), "BEGIN; SELECT 1 FROM one_writer WHERE epoch = %lld FOR KEY SHARE", (long long)d->epoch);
	if (!PQsendQuery(d->conn, sql))
		return gone(d, "the connection was lost", why);
	r = finish(d, sql, why);
	ok = r && PQntuples(r) == 1;
	if (r && !ok)
		err_set(why, ERR_CONFLICT, "%s: another process has become its writer; nothing was changed", d->where);
	PQclear(r);
	return ok;
}

static void pg_rollback(struct db *db)
{
	struct db_postgres *d = of(db);

	/* also after a BEGIN of which nothing is known */
	if (d->conn && PQtransactionStatus(d->conn) != PQTRANS_IDLE)
		(void)command(d, "ROLLBACK", NULL);
	d->in_tx = d->lost = d->migrating = false;
}

static bool pg_begin(struct db *db, bool exclusive, struct why *why)
{
	struct db_postgres *d = of(db);

	if (!ready(d, why))
		return false;
	d->in_tx = exclusive ? begin_alone(d, why) : d->epoch ? begin_as_writer(d, why) : command(d, "BEGIN", why);
	if (!d->in_tx)
		pg_rollback(db);
	return d->in_tx;
}

/* A COMMIT of what has failed is answered with ROLLBACK. */
static bool commit_said(struct db_postgres *d, struct why *why)
{
	PGresult *r;
	bool ok;

	if (!PQsendQuery(d->conn, "COMMIT"))
		return gone(d, "the connection was lost", why);
	r = finish(d, "COMMIT", why);
	ok = r && strcmp(PQcmdStatus(r), "COMMIT") == 0;
	if (r && !ok)
		err_set(why, ERR_STORE_FAILED, "%s: a statement of the transaction had failed; nothing of it was kept", d->where);
	PQclear(r);
	return ok;
}

static bool pg_commit(struct db *db, struct why *why)
{
	struct db_postgres *d = of(db);
	bool ok = ready(d, why) && commit_said(d, why);

	if (!ok)
		pg_rollback(db);
	d->in_tx = d->lost = d->migrating = false;
	return ok;
}

/* --- parameters --- */

struct given {
	const char **values;
	int *lengths, *formats;
	Oid *types;
	uint64_t *eights;             /* where numbers lie */
};

static Oid type_of(enum db_type t)
{
	static const Oid types[] = { [DB_NULL] = 0, [DB_INT] = T_INT8, [DB_REAL] = T_FLOAT8, [DB_TEXT] = T_TEXT, [DB_BLOB] = T_BYTEA };

	return types[t];
}

static void give(struct db_postgres *d, struct given *g, unsigned i, const struct db_value *v)
{
	struct str s = v->type == DB_TEXT ? db_sql_text(d->mem, v->s) : v->s;

	g->types[i] = type_of(v->type);
	g->formats[i] = 1;
	g->lengths[i] = 8;
	g->values[i] = (const char *)&g->eights[i];
	switch (v->type) {
	case DB_INT:
		g->eights[i] = htobe64((uint64_t)v->i);
		return;
	case DB_REAL:
		memcpy(&g->eights[i], &v->d, 8);
		g->eights[i] = htobe64(g->eights[i]);
		return;
	case DB_NULL:
		g->values[i] = NULL;
		return;
	default:
		g->values[i] = s.p ? s.p : "";
		g->lengths[i] = (int)s.n;
	}
}

static struct given given_new(struct db_postgres *d, unsigned n)
{
	return (struct given){
		.values = arena_array(d->mem, const char *, n + 1), .lengths = arena_array(d->mem, int, n + 1),
		.formats = arena_array(d->mem, int, n + 1), .types = arena_array(d->mem, Oid, n + 1), .eights = arena_array(d->mem, uint64_t, n + 1),
	};
}

static struct given given(struct db_postgres *d, const struct db_value *params, unsigned n)
{
	struct given g = given_new(d, n);

	for (unsigned i = 0; i < n; i++)
		give(d, &g, i, &params[i]);
	return g;
}

/* --- rows --- */

struct answer { PGresult *result; int row; };

static uint64_t be(const char *p, int n)
{
	uint64_t v = 0;

	for (int i = 0; i < n; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static double real_of(const char *p, int n)
{
	uint64_t bits = be(p, n);
	uint32_t half = (uint32_t)bits;
	float f;
	double v;

	memcpy(&f, &half, 4);
	memcpy(&v, &bits, 8);
	return n == 4 ? (double)f : v;
}

/* A sum of BIGINTs is NUMERIC: groups of four digits, the place of the first, sign. A whole number that fits is an INT. */
static struct db_value numeric_of(const char *p, int n)
{
	int groups = n >= 8 ? (int)be(p, 2) : 0, place = n >= 8 ? (int16_t)be(p + 2, 2) : 0;
	bool negative = n >= 8 && be(p + 4, 2) == 0x4000, fits = true;
	int64_t whole = 0;
	double v = 0, unit = 1;

	for (int i = place; i < -1 && i > -100; i++)
		unit /= 10000;
	for (int i = 0; i < groups && 8 + 2 * i + 2 <= n; i++) {
		int64_t digits = (int64_t)be(p + 8 + 2 * i, 2);

		v = i <= place ? v * 10000 + (double)digits : v + (double)digits * (unit /= 10000);
		fits &= i <= place ? !__builtin_mul_overflow(whole, 10000, &whole) && !__builtin_add_overflow(whole, digits, &whole) : digits == 0;
	}
	for (int i = groups; i <= place; i++) {
		v *= 10000;
		fits &= !__builtin_mul_overflow(whole, 10000, &whole);
	}
	if (fits)
		return DB_I(negative ? -whole : whole);
	return DB_D(negative ? -v : v);
}

static struct db_value value_of(Oid type, const char *p, int n)
{
	switch (type) {
	case T_BOOL: case T_INT2: case T_INT4: case T_INT8: case T_OID:
		return DB_I(n == 2 ? (int16_t)be(p, n) : n == 4 && type != T_OID ? (int32_t)be(p, n) : (int64_t)be(p, n));
	case T_FLOAT4: case T_FLOAT8:
		return DB_D(real_of(p, n));
	case T_NUMERIC:
		return numeric_of(p, n);
	case T_TEXT: case T_VARCHAR: case T_BPCHAR: case T_NAME: case 0x2c1 /* unknown */:
		return DB_S(str_n(p, (size_t)n));
	default:
		return DB_B(str_n(p, (size_t)n));
	}
}

static struct db_value pg_col(const struct db_row *row, unsigned column)
{
	const struct answer *a = row->impl;
	int c = (int)column;

	if (c >= PQnfields(a->result) || PQgetisnull(a->result, a->row, c))
		return DB_NIL;
	return value_of(PQftype(a->result, c), PQgetvalue(a->result, a->row, c), PQgetlength(a->result, a->row, c));
}

static unsigned pg_cols(const struct db_row *row) { return (unsigned)PQnfields(((const struct answer *)row->impl)->result); }
static const char *pg_col_name(const struct db_row *row, unsigned column) { return PQfname(((const struct answer *)row->impl)->result, (int)column); }

static void hand_on(PGresult *r, db_row_fn *on_row, void *arg)
{
	struct answer a = { r, 0 };
	struct db_row row = { &db_postgres, &a };

	for (; on_row && a.row < PQntuples(r); a.row++)
		if (!on_row(arg, &row))
			return;
}

static int64_t changed_of(PGresult *r)
{
	int64_t n = 0;

	(void)str_i64(str_of(PQcmdTuples(r)), &n);
	return n;
}

/* --- statements --- */

/* Takes what is known of the types from the parameters; false = as it was prepared. */
static bool types_merge(struct stmt *s, const Oid *types, unsigned n)
{
	bool other = n != s->n_types;

	if (other) {
		s->types = x_realloc(s->types, (n ? n : 1) * sizeof(*s->types));
		memset(s->types, 0, (n ? n : 1) * sizeof(*s->types));
		s->n_types = n;
	}
	for (unsigned i = 0; i < n; i++)
		if (types[i] && types[i] != s->types[i]) {
			s->types[i] = types[i];
			other = true;
		}
	return other;
}

static bool forget_stmt(struct db_postgres *d, struct stmt *s, struct why *why)
{
	char sql[64];

	if (!s->name[0])
		return true;
	snprintf(sql, sizeof(sql), "DEALLOCATE %s", s->name);
	s->name[0] = '\0';
	return command(d, sql, why);
}

static bool stmt_ready(struct db_postgres *d, unsigned index, const Oid *types, unsigned n, struct why *why)
{
	struct stmt *s = &d->stmts[index];
	PGresult *r;

	if (!s->sql) {
		struct buf b = { 0 };

		db_sql_rewrite(str_of(d->sql[index]), &b);
		s->sql = x_strdup(buf_z(&b));
		buf_free(&b);
	}
	if (types_merge(s, types, n) && !forget_stmt(d, s, why))
		return false;
	if (s->name[0])
		return true;
	snprintf(s->name, sizeof(s->name), "s%u_%u", index, ++s->times);
	if (!PQsendPrepare(d->conn, s->name, s->sql, (int)n, s->types)) {
		s->name[0] = '\0';
		return gone(d, "the connection was lost", why);
	}
	r = finish(d, s->sql, why);
	if (!r)
		s->name[0] = '\0';
	PQclear(r);
	return r != NULL;
}

static bool run_bare(struct db *db, unsigned index, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg, int64_t *ret_changed,
		     struct why *why)
{
	struct db_postgres *d = of(db);
	struct given g;
	PGresult *r;
	bool ok;

	if (index >= d->n)
		return err_set(why, ERR_INTERNAL, "there is no statement %u", index) == ERR_OK;
	if (!ready(d, why))
		return false;
	g = given(d, params, n);
	ok = stmt_ready(d, index, g.types, n, why) &&
	     (PQsendQueryPrepared(d->conn, d->stmts[index].name, (int)n, g.values, g.lengths, g.formats, 1) || gone(d, "the connection was lost", why));
	arena_reset(d->mem);
	r = ok ? finish(d, d->sql[index], why) : NULL;
	if (!r)
		return false;
	if (ret_changed)
		*ret_changed = changed_of(r);
	hand_on(r, on_row, arg);
	PQclear(r);
	return true;
}

/* --- many rows --- */

static bool batch_types(struct db_postgres *d, const struct db_value *params, unsigned n, size_t rows, Oid *types, struct why *why)
{
	for (size_t i = 0; i < rows * n; i++) {
		Oid t = type_of(params[i].type), *seen = &types[i % n];

		if (t && *seen && t != *seen)
			return err_set(why, ERR_INTERNAL, "%s: parameter %zu of a batch has two types", d->where, i % n + 1) == ERR_OK;
		if (t)
			*seen = t;
	}
	return true;
}

static bool rows_send(struct db_postgres *d, const char *name, const struct db_value *params, unsigned n, size_t rows)
{
	struct given g = given_new(d, n);
	bool ok = true;

	for (size_t row = 0; ok && row < rows; row++) {
		for (unsigned i = 0; i < n; i++)
			give(d, &g, i, &params[row * n + i]);
		ok = PQsendQueryPrepared(d->conn, name, (int)n, g.values, g.lengths, g.formats, 1);
	}
	return ok;
}

static Oid array_of(Oid type)
{
	return type == T_INT8 ? T_INT8S : type == T_FLOAT8 ? T_FLOAT8S : type == T_TEXT ? T_TEXTS : type == T_BYTEA ? T_BYTEAS : 0;
}

/* The number of the statement that takes these rows in arrays; else that for one row. Of a column of nothing but NULLs the server alone knows the type. */
static unsigned arrays_or_rows(struct db_postgres *d, unsigned index, Oid *types, unsigned n, size_t rows)
{
	struct stmt *s = &d->stmts[d->n + index];
	struct buf b = { 0 };

	for (unsigned i = 0; i < n; i++)
		if (!types[i])
			return index;
	if (rows < ARRAYS_FROM || s->by_row)
		return index;
	if (!s->sql) {
		s->by_row = !db_sql_of_arrays(str_of(d->sql[index]), n, &b);
		s->sql = s->by_row ? NULL : x_strdup(buf_z(&b));
		buf_free(&b);
	}
	if (s->by_row)
		return index;
	for (unsigned i = 0; i < n; i++)
		types[i] = array_of(types[i]);
	return d->n + index;
}

/* How many of these rows go into one statement. */
static size_t rows_together(const struct db_value *params, unsigned n, size_t rows)
{
	size_t row = 0, bytes = 0;

	for (; row < rows && row < ARRAY_ROWS && bytes < ARRAY_BYTES; row++)
		for (unsigned i = 0; i < n; i++) {
			const struct db_value *v = &params[row * n + i];

			bytes += v->type == DB_TEXT || v->type == DB_BLOB ? v->s.n + 4 : 12;
		}
	return row;
}

static void put32(struct buf *b, uint32_t v)
{
	v = htobe32(v);
	buf_add(b, &v, 4);
}

/* An array as it goes over the wire: dimensions, whether there may be NULLs, the type, how many, the first's number; then each with its length before it. */
static void array_put(struct db_postgres *d, Oid type, const struct db_value *first, unsigned stride, size_t rows)
{
	struct given g = given_new(d, 1);

	put32(&d->arrays, 1);
	put32(&d->arrays, 1);
	put32(&d->arrays, type);
	put32(&d->arrays, (uint32_t)rows);
	put32(&d->arrays, 1);
	for (size_t row = 0; row < rows; row++) {
		give(d, &g, 0, &first[row * stride]);
		put32(&d->arrays, g.values[0] ? (uint32_t)g.lengths[0] : UINT32_MAX);
		if (g.values[0])
			buf_add(&d->arrays, g.values[0], (size_t)g.lengths[0]);
	}
}

static Oid element_of(Oid array)
{
	return array == T_INT8S ? T_INT8 : array == T_FLOAT8S ? T_FLOAT8 : array == T_TEXTS ? T_TEXT : T_BYTEA;
}

static bool arrays_send(struct db_postgres *d, const struct stmt *s, const struct db_value *params, unsigned n, size_t rows)
{
	struct given g = given_new(d, n);
	size_t *at = arena_array(d->mem, size_t, n + 1);

	buf_clear(&d->arrays);
	for (unsigned i = 0; i < n; i++) {
		array_put(d, element_of(s->types[i]), params + i, n, rows);
		at[i + 1] = d->arrays.n;
	}
	for (unsigned i = 0; i < n; i++) {        /* the buffer has its place now */
		g.values[i] = d->arrays.p + at[i];
		g.lengths[i] = (int)(at[i + 1] - at[i]);
		g.formats[i] = 1;
	}
	return PQsendQueryPrepared(d->conn, s->name, (int)n, g.values, g.lengths, g.formats, 1);
}

static bool batch_send(struct db_postgres *d, unsigned index, const struct db_value *params, unsigned n, size_t rows)
{
	const struct stmt *s = &d->stmts[index];
	bool ok = PQenterPipelineMode(d->conn);

	if (index < d->n)
		return ok && rows_send(d, s->name, params, n, rows) && PQpipelineSync(d->conn);
	for (size_t row = 0, some; ok && row < rows; row += some) {
		some = rows_together(params + row * n, n, rows - row);
		ok = arrays_send(d, s, params + row * n, n, some);
	}
	return ok && PQpipelineSync(d->conn);
}

/* Each statement has a result and a NULL behind it; the last is that of the sync. What follows a failure is answered too. */
static bool batch_take(struct db_postgres *d, const char *sql, int64_t *ret_changed, struct why *why)
{
	ExecStatusType status = PGRES_EMPTY_QUERY;
	bool good = true, ok = true;

	*ret_changed = 0;
	while (ok && d->conn && status != PGRES_PIPELINE_SYNC) {
		PGresult *r = next_result(d, call_until(d), &ok, why);

		status = r ? PQresultStatus(r) : PGRES_EMPTY_QUERY;
		if (r && is_good(r))
			*ret_changed += changed_of(r);
		else if (r && good && status != PGRES_PIPELINE_SYNC)
			good = refused(d, r, sql, why);
		PQclear(r);
	}
	if (!ok || !d->conn)
		return false;
	return (PQexitPipelineMode(d->conn) || gone(d, "the connection is in disorder", why)) && good;
}

static bool pg_batch(struct db *db, unsigned index, const struct db_value *params, unsigned n, size_t rows, int64_t *ret_changed, struct why *why)
{
	struct db_postgres *d = of(db);
	int64_t changed;
	unsigned form;
	Oid *types;
	bool ok;

	if (index >= d->n)
		return err_set(why, ERR_INTERNAL, "there is no statement %u", index) == ERR_OK;
	if (!ready(d, why))
		return false;
	types = arena_array(d->mem, Oid, n + 1);
	ok = batch_types(d, params, n, rows, types, why);
	form = ok ? arrays_or_rows(d, index, types, n, rows) : index;
	ok = ok && stmt_ready(d, form, types, n, why) && (batch_send(d, form, params, n, rows) || gone(d, "the connection was lost", why));
	arena_reset(d->mem);
	ok = ok && batch_take(d, d->sql[index], &changed, why);
	if (ok && ret_changed)
		*ret_changed = changed;
	return ok;
}

static bool only_reads(const char *sql) { return strncmp(sql, "SELECT", 6) == 0; }

static bool pg_run(struct db *db, unsigned index, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg, int64_t *ret_changed,
		   struct why *why)
{
	struct db_postgres *d = of(db);

	if (!d->epoch || d->in_tx || d->lost || index >= d->n || only_reads(d->sql[index]))
		return run_bare(db, index, params, n, on_row, arg, ret_changed, why);
	if (!pg_begin(db, false, why))
		return false;
	if (run_bare(db, index, params, n, on_row, arg, ret_changed, why))
		return pg_commit(db, why);
	pg_rollback(db);
	return false;
}

static bool pg_query(struct db *db, const char *sql, const struct db_value *params, unsigned n, db_row_fn *on_row, void *arg, struct why *why)
{
	struct db_postgres *d = of(db);
	struct buf own = { 0 };
	struct given g;
	PGresult *r;
	bool ok;

	if (!ready(d, why))
		return false;
	db_sql_rewrite(str_of(sql), &own);
	g = given(d, params, n);
	ok = PQsendQueryParams(d->conn, buf_z(&own), (int)n, g.types, g.values, g.lengths, g.formats, 1) || gone(d, "the connection was lost", why);
	arena_reset(d->mem);
	buf_free(&own);
	r = ok ? finish(d, sql, why) : NULL;
	if (!r)
		return false;
	hand_on(r, on_row, arg);
	PQclear(r);
	return true;
}

/* --- the version of the schema --- */

static bool keep_there(void *arg, const struct db_row *row)
{
	*(bool *)arg = db_int(row, 0) != 0;
	return true;
}

static bool pg_is_made(struct db *db, bool *ret, struct why *why)
{
	struct db_postgres *d = of(db);
	char sql[160];

	snprintf(sql, sizeof(sql), "SELECT to_regclass('%s.schema_version') IS NOT NULL", d->schema);
	return pg_query(db, sql, NULL, 0, keep_there, ret, why);
}

static bool pg_is_back(struct db *db)
{
	struct db_postgres *d = of(db);
	bool back = d->down && !d->in_tx && pg_query(db, "SELECT 1", NULL, 0, NULL, NULL, NULL);

	d->down &= !back;
	return back;
}

static void pg_patience(struct db *db, int64_t ms)
{
	struct db_postgres *d = of(db);
	char sql[80];

	if (d->statement_ms + d->spare_ms <= ms)
		return;
	d->spare_ms = ms / 4;
	if (d->statement_ms > ms - d->spare_ms)
		d->statement_ms = ms - d->spare_ms;
	snprintf(sql, sizeof(sql), "SET statement_timeout TO %lld", (long long)d->statement_ms);
	if (d->conn)
		(void)command(d, sql, NULL);      /* else with the next session */
}

static void pg_interrupt(struct db *db) { atomic_store(&of(db)->interrupted, true); }

static const char *pg_name(struct db *db) { return of(db)->where; }

const struct db_driver db_postgres = {
	.scheme = "postgresql:", .also = "postgres:",
	.open = pg_open, .close = pg_close, .prepare = pg_prepare, .exec = pg_exec,
	.begin = pg_begin, .commit = pg_commit, .rollback = pg_rollback,
	.run = pg_run, .batch = pg_batch, .query = pg_query,
	.col = pg_col, .cols = pg_cols, .col_name = pg_col_name,
	.is_made = pg_is_made, .is_back = pg_is_back, .patience = pg_patience, .name = pg_name, .interrupt = pg_interrupt,
};

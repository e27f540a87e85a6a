/* db_test.c - the contract of db.h on every driver there is: rows, transactions, migrations, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_driver.h"
#include "common/store/db_test.h"

enum { PUT, GET, COUNT, CLEAR, STATEMENTS };
static const char *const sql[] = {
	[PUT] = "INSERT INTO t (k, i, d, s, b) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (k) DO NOTHING",
	[GET] = "SELECT k, i, d, s, b FROM t WHERE k = ?1",
	[COUNT] = "SELECT count(*) AS n FROM t",
	[CLEAR] = "DELETE FROM t",
};
static const struct db_migration one[] = { { 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL CHECK (d < 1000), s TEXT, b BLOB)" }, { 0 } };
static const struct db_migration two[] = {
	{ 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL CHECK (d < 1000), s TEXT, b BLOB)" },
	{ 2, "ALTER TABLE t ADD COLUMN more TEXT; CREATE INDEX t_i ON t (i)" },
	{ 0 }
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

/* A test's place: a directory, and whether its database is a schema of a server instead of a file there. */
struct place { char dir[40]; bool postgres; };

static int place_make(void **state, bool postgres)
{
	struct place *p = x_calloc(1, sizeof(*p));

	*p = (struct place){ "/tmp/db-test-XXXXXX", postgres };
	assert_non_null(mkdtemp(p->dir));
	*state = p;
	return 0;
}

static int dir_make(void **state) { return place_make(state, false); }
static int schema_make(void **state) { return place_make(state, true); }

static int place_remove(void **state)
{
	nftw(((struct place *)*state)->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(*state);
	return 0;
}

static void url_in(const struct place *p, char *url, size_t cap)
{
	if (p->postgres)
		test_db_postgres(p->dir, url, cap);
	else
		snprintf(url, cap, "sqlite:%s/t.db", p->dir);
}

/* With the schema brought there first, where that is not part of opening. */
static struct db *open_in(void *place, const struct db_migration *m, struct why *why)
{
	char url[256];

	url_in(place, url, sizeof(url));
	if (!db_migrates_at_open(url) && !db_migrate(url, m, NULL, NULL, why))
		return NULL;
	return db_open(url, sql, STATEMENTS, m, why);
}

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static int64_t count(struct db *db)
{
	int64_t n = -1;

	assert_true(db_run(db, COUNT, NULL, 0, keep_int, &n, NULL, NULL));
	return n;
}

static bool put(struct db *db, int64_t k, int64_t *ret_changed, struct why *why)
{
	struct db_value p[] = { DB_I(k), DB_I(INT64_MIN), DB_D(0.5), DB_Z("text"), DB_B(str_n("\0\xff", 2)) };

	return db_run(db, PUT, p, 5, NULL, NULL, ret_changed, why);
}

static bool check_row(void *arg, const struct db_row *row)
{
	assert_int_equal(db_cols(row), 5);
	assert_string_equal(db_col_name(row, 3), "s");
	assert_true(db_int(row, 1) == INT64_MIN);
	assert_true(db_col(row, 2).type == DB_REAL && db_col(row, 2).d == 0.5);
	assert_true(str_eq(db_str(row, 3), STR("text")));
	assert_true(db_col(row, 4).type == DB_BLOB && db_str(row, 4).n == 2);
	++*(int *)arg;
	return true;
}

static void keeps_values(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	struct db_value nils[] = { DB_I(2), DB_NIL, DB_NIL, DB_S(((struct str){ 0 })), DB_NIL };
	int64_t changed = -1, null_text = -1;
	int rows = 0;

	assert_non_null(db);
	assert_true(put(db, 1, &changed, &why) && changed == 1);
	assert_true(put(db, 1, &changed, &why) && changed == 0);
	assert_true(db_run(db, GET, nils, 1, check_row, &rows, NULL, &why) && rows == 0);
	assert_true(db_run(db, GET, (struct db_value[]){ DB_I(1) }, 1, check_row, &rows, NULL, &why) && rows == 1);
	assert_true(db_run(db, PUT, nils, 5, NULL, NULL, NULL, &why));
	assert_true(db_query(db, "SELECT count(*) FROM t WHERE i IS NULL AND s = ''", NULL, 0, keep_int, &null_text, &why));
	assert_int_equal(null_text, 1);
	db_close(db);
	db_close(NULL);
}

/* Rows that are there already are not changed; one that cannot be fails all. */
static void many_rows_go_at_once(void **state)
{
	enum { N = 3000 };
	struct db_value *p = x_calloc(N * 5, sizeof(*p));
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	char big[300] = { 0 };
	int64_t changed = 0;

	assert_true(put(db, 7, NULL, &why) && put(db, 8, NULL, &why));
	for (int64_t k = 0; k < N; k++) {
		struct db_value *row = p + k * 5;

		row[0] = DB_I(k);
		row[1] = k % 2 ? DB_I(k) : DB_NIL;
		row[2] = k % 3 ? DB_D(0.25) : DB_NIL;
		row[3] = DB_S(str_n("0123456789", (size_t)(k % 10)));
		row[4] = DB_B(str_n(big, sizeof(big)));
	}
	assert_true(db_begin(db, &why) && db_batch(db, PUT, p, 5, N, &changed, &why));
	assert_int_equal(changed, N - 2);
	assert_true(db_commit(db, &why));
	assert_int_equal(count(db), N);
	assert_true(db_query(db, "SELECT sum(i) FROM t WHERE k <> 7 AND k <> 8 AND length(b) = 300 AND length(s) = k % 10", NULL, 0, keep_int, &changed, &why));
	assert_int_equal(changed, N / 2 * (N / 2) - 7);
	assert_true(db_batch(db, PUT, p, 5, 0, &changed, &why) && changed == 0);
	p[N / 2 * 5 + 2] = DB_D(1000);
	assert_true(db_begin(db, &why) && db_run(db, CLEAR, NULL, 0, NULL, NULL, NULL, &why));
	assert_false(db_batch(db, PUT, p, 5, N, &changed, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	db_rollback(db);
	assert_int_equal(count(db), N);
	assert_true(put(db, N, &changed, &why) && changed == 1);
	db_close(db);
	free(p);
}

/* Of two rows of one key the first is kept, in whatever way and number they go. */
static void one_of_a_key_is_kept(void **state)
{
	static const size_t sizes[] = { 1, 2, 7, 8, 9, 499, 500, 501, 1300 };
	struct db_value *p = x_calloc(1300 * 5, sizeof(*p));
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	int64_t changed, first;

	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		for (size_t i = 0; i < sizes[s]; i++) {
			const struct db_value row[5] = { DB_I(i / 2), DB_I(i), DB_D(-1e-300), DB_Z("s"), DB_B(STR("b")) };

			memcpy(p + i * 5, row, sizeof(row));
		}
		assert_true(db_begin(db, &why) && db_run(db, CLEAR, NULL, 0, NULL, NULL, NULL, &why) && db_batch(db, PUT, p, 5, sizes[s], &changed, &why));
		assert_int_equal(changed, (sizes[s] + 1) / 2);
		assert_true(db_batch(db, PUT, p, 5, sizes[s], &changed, &why) && changed == 0 && db_commit(db, &why));
		assert_int_equal(count(db), (sizes[s] + 1) / 2);
		assert_true(db_query(db, "SELECT count(*) FROM t WHERE i = 2 * k AND d = -1e-300", NULL, 0, keep_int, &first, &why));
		assert_int_equal(first, count(db));
	}
	db_close(db);
	free(p);
}

static bool same_row(void *arg, const struct db_row *row)
{
	const struct db_value *p = arg;

	for (unsigned i = 0; i < 5; i++) {
		struct db_value v = db_col(row, i);

		assert_int_equal(v.type, p[i].type);
		if (v.type == DB_INT)
			assert_true(v.i == p[i].i);
		else if (v.type == DB_REAL)
			assert_memory_equal(&v.d, &p[i].d, sizeof(v.d));
		else if (v.type != DB_NULL)
			assert_true(str_eq(v.s, p[i].s));
	}
	return true;
}

/* Each kind of value, none of some columns in some batches or in all, and rows that are far too big for one statement. */
static void many_rows_keep_their_values(void **state)
{
	enum { N = 40, BIG = 100000 };
	static const int64_t whole[] = { 0, -1, INT64_MIN, INT64_MAX };
	static const double real[] = { 0, -0.1, 5e-324, -1.7976931348623157e308 };
	const struct str bytes[] = { STR(""), STR("\0\0"), STR("\xff{}\","), STR("NULL") }, texts[] = { STR(""), STR("NULL"), STR("{\"\\'}"), STR("\xc3\xbc") };
	struct db_value p[N * 5];
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	char *big = x_malloc(BIG);
	int64_t changed;

	memset(big, 0xfe, BIG);
	for (unsigned none = 0; none < 5; none++) {
		for (size_t i = 0; i < N; i++) {
			const struct db_value row[5] = { DB_I(none * N + i), DB_I(whole[i % 4]), DB_D(real[i % 4]), DB_S(texts[i % 4]),
							 DB_B(i % 5 == 4 ? str_n(big, BIG) : bytes[i % 4]) };

			memcpy(p + i * 5, row, sizeof(row));
			if (i % 3 == 2)
				p[i * 5 + 1 + i % 4] = DB_NIL;
			if (none)
				p[i * 5 + none] = DB_NIL;
		}
		assert_true(db_begin(db, &why) && db_batch(db, PUT, p, 5, N, &changed, &why) && db_commit(db, &why));
		assert_int_equal(changed, N);
		for (size_t i = 0; i < N; i++)
			assert_true(db_run(db, GET, p + i * 5, 1, same_row, p + i * 5, NULL, &why));
	}
	assert_int_equal(count(db), 5 * N);
	db_close(db);
	free(big);
}

static void commits_or_not(void **state)
{
	struct db *db = open_in(*state, one, NULL);

	assert_true(db_begin(db, NULL) && put(db, 1, NULL, NULL));
	db_rollback(db);
	db_rollback(db);
	assert_int_equal(count(db), 0);
	assert_true(db_begin(db, NULL) && put(db, 1, NULL, NULL) && db_commit(db, NULL));
	db_close(db);
	db = open_in(*state, one, NULL);
	assert_int_equal(count(db), 1);
	db_close(db);
}

static void migrates_once_and_never_back(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, NULL);

	assert_true(put(db, 1, NULL, NULL));
	db_close(db);
	for (int i = 0; i < 2; i++) {
		db = open_in(*state, two, &why);
		assert_non_null(db);
		assert_true(db_query(db, "SELECT more FROM t", NULL, 0, NULL, NULL, &why));
		assert_int_equal(count(db), 1);
		db_close(db);
	}
	assert_null(open_in(*state, one, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_non_null(strstr(why.text, "schema version 2"));
}

static void a_failed_migration_leaves_nothing(void **state)
{
	static const struct db_migration bad[] = {
		{ 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL CHECK (d < 1000), s TEXT, b BLOB); CREATE TABLE oops (" }, { 0 }
	};
	struct why why = { 0 };
	struct db *db;

	assert_null(open_in(*state, bad, &why));
	db = open_in(*state, one, &why);
	assert_non_null(db);
	db_close(db);
}

static void says_what_is_wrong(void **state)
{
	struct why why = { 0 };
	char url[256];

	assert_null(db_open("mysql://x", sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_INVALID);
	assert_null(db_open("sqlite:", sql, STATEMENTS, one, &why));
	snprintf(url, sizeof(url), "sqlite:%s/t.db?fast=yes", ((struct place *)*state)->dir);
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_non_null(strstr(why.text, "?fast=yes"));
	snprintf(url, sizeof(url), "sqlite:%s/none/t.db", ((struct place *)*state)->dir);
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
}

static void says_what_is_wrong_with_a_statement(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);

	assert_false(db_query(db, "SELECT nothing FROM t", NULL, 0, NULL, NULL, &why));
	assert_int_equal(why.code, ERR_INTERNAL);
	assert_true(put(db, 1, NULL, NULL));
	assert_false(db_query(db, "INSERT INTO t (k) VALUES (1)", NULL, 0, NULL, NULL, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_false(db_run(db, STATEMENTS, NULL, 0, NULL, NULL, NULL, &why));
	db_close(db);
}

static void a_full_disk_loses_no_commit(void **state)
{
	struct db *db = open_in(*state, one, NULL);
	struct rlimit old, low;
	struct why why = { 0 };
	int64_t k = 0, done = 0;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){ 256 << 10, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	while (db_begin(db, &why) && put(db, ++k, NULL, &why) && db_commit(db, &why))
		done++;
	db_rollback(db);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_int_equal(count(db), done);
	assert_true(put(db, k, NULL, &why));
	db_close(db);
}

/* A child commits numbers and reports each; whatever it reported before the kill is there. */
static void a_kill_loses_no_commit(void **state)
{
	int64_t total = 0;

	db_close(open_in(*state, one, NULL));
	srandom(7);
	for (int i = 0; i < 20; i++) {
		int fds[2];
		int64_t k = total, reported = total;
		struct db *db;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		if (pid == 0) {
			db = open_in(*state, one, NULL);
			while (db && db_begin(db, NULL) && put(db, ++k, NULL, NULL) && db_commit(db, NULL) && write(fds[1], &k, 8) == 8)
				;
			_exit(1);
		}
		close(fds[1]);
		usleep((useconds_t)(random() % 20000));
		kill(pid, SIGKILL);
		while (read(fds[0], &k, 8) == 8)
			reported = k;
		waitpid(pid, NULL, 0);
		close(fds[0]);
		db = open_in(*state, one, NULL);
		assert_non_null(db);
		total = count(db);
		assert_in_range(total, reported, reported + 1);
		db_close(db);
	}
}

static bool pinned_count(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static void a_pinned_moment_is_copied_later(void **state)
{
	static const char *const pin_sql[] = { "INSERT INTO t (x) VALUES (?1)", "SELECT count(*) FROM t" };
	static const struct db_migration m[] = { { 1, "CREATE TABLE t (x INTEGER)" }, { 0 } };
	char file[80], copy[90], url[100];
	struct db_pin *pin;
	struct why why = { 0 };
	int64_t n = 0, schema = 0;
	struct db *db;

	snprintf(file, sizeof(file), "/tmp/db_test.pin.%d", getpid());
	snprintf(copy, sizeof(copy), "%s.copy", file);
	snprintf(url, sizeof(url), "sqlite:%s", file);
	db = db_open(url, pin_sql, 2, m, &why);
	assert_non_null(db);
	assert_true(db_run(db, 0, (struct db_value[]){ DB_I(1) }, 1, NULL, NULL, NULL, &why));
	pin = db_pin(file, &why);
	assert_non_null(pin);
	assert_true(db_run(db, 0, (struct db_value[]){ DB_I(2) }, 1, NULL, NULL, NULL, &why));
	assert_true(db_is_file(file) && db_pin_copy(pin, copy, &why));
	db_unpin(pin);
	db_close(db);
	assert_true(db_verify(copy, &schema, &why));
	assert_int_equal(schema, 1);
	snprintf(url, sizeof(url), "sqlite:%s", copy);
	db = db_open(url, pin_sql, 2, m, &why);
	assert_true(db_run(db, 1, NULL, 0, pinned_count, &n, NULL, &why));
	assert_int_equal(n, 1);
	db_close(db);
	assert_int_equal(truncate(copy, 5000), 0);
	assert_false(db_verify(copy, &schema, &why));
	assert_null(db_pin("/nowhere/at/all", &why));
	for (size_t i = 0; i < 2; i++)
		for (size_t k = 0; k < 3; k++) {
			static const char *const tails[] = { "", "-wal", "-shm" };

			snprintf(url, sizeof(url), "%s%s", i ? copy : file, tails[k]);
			unlink(url);
		}
}

/* --- what a server can do besides --- */

static struct db *open_more(void *place, const char *more, struct why *why)
{
	char url[300];

	url_in(place, url, sizeof(url));
	(void)snprintf(url + strlen(url), sizeof(url) - strlen(url), "%s", more);
	return db_open(url, sql, STATEMENTS, one, why);
}

static void an_older_schema_is_refused(void **state)
{
	struct why why = { 0 };
	char url[256];
	int64_t from = -1, to = -1;
	struct db *db;

	url_in(*state, url, sizeof(url));
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_non_null(strstr(why.text, "schema version 0, this program needs 1"));
	assert_non_null(strstr(why.text, "corral migrate"));
	assert_true(db_migrate(url, one, &from, &to, &why));
	assert_true(from == 0 && to == 1);
	assert_null(db_open(url, sql, STATEMENTS, two, &why));
	assert_non_null(strstr(why.text, "schema version 1, this program needs 2"));
	db = db_open(url, sql, STATEMENTS, one, &why);
	assert_non_null(db);
	db_close(db);
	assert_true(db_migrate(url, two, &from, &to, &why));
	assert_true(from == 1 && to == 2);
	assert_true(db_migrate(url, two, &from, &to, &why));
	assert_true(from == 2 && to == 2);
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_non_null(strstr(why.text, "schema version 2, this program knows 1"));
}

/* Both at once: one does it, the other finds it done. */
static void two_migrate_at_once(void **state)
{
	struct why why;
	char url[256];
	pid_t pids[4];
	int status;

	url_in(*state, url, sizeof(url));
	for (size_t i = 0; i < 4; i++)
		if ((pids[i] = fork()) == 0) {
			bool ok = db_migrate(url, two, NULL, NULL, &why);

			if (!ok)
				fprintf(stderr, "%s\n", why.text);
			_exit(ok ? 0 : 1);
		}
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	db_close(open_in(*state, two, &why));
}

/* As an administrator ends a session, or a server that stops. */
static void end_session_of(void *place, struct db *db)
{
	struct db *other = open_in(place, one, NULL);
	int64_t pid = 0, left = 1;

	assert_true(db_query(db, "SELECT pg_backend_pid()", NULL, 0, keep_int, &pid, NULL));
	assert_true(db_query(other, "SELECT count(*) FROM (SELECT pg_terminate_backend(CAST(?1 AS int))) AS t", (struct db_value[]){ DB_I(pid) }, 1, NULL, NULL, NULL));
	while (left)
		assert_true(db_query(other, "SELECT count(*) FROM pg_stat_activity WHERE pid = ?1", (struct db_value[]){ DB_I(pid) }, 1, keep_int, &left, NULL));
	db_close(other);
}

/* A busy server takes longer than one call waits for a connection. */
static void reconnect(struct db *db)
{
	bool ok = false;

	for (int64_t end = mono_ms() + 30000; !ok && mono_ms() < end;) {
		ok = db_query(db, "SELECT 1", NULL, 0, NULL, NULL, NULL);
		if (!ok)
			usleep(10000);
	}
	assert_true(ok);
}

static void a_lost_connection_is_made_again(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);

	assert_true(put(db, 1, NULL, &why));
	end_session_of(*state, db);
	assert_false(put(db, 2, NULL, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	for (int64_t end = mono_ms() + 30000; !db_is_back(db); usleep(10000))
		assert_true(mono_ms() < end);
	assert_false(db_is_back(db));             /* it was said */
	assert_true(put(db, 2, NULL, &why));
	assert_int_equal(count(db), 2);
	db_close(db);
}

/* As a standby that an address leads to for a while, or a server that has become one. */
static void a_server_that_only_reads_is_left(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);

	assert_null(open_more(*state, "&options=-c%20default_transaction_read_only%3Don", &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_non_null(strstr(why.text, "read-only"));
	assert_true(db_query(db, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", NULL, 0, NULL, NULL, &why));
	assert_int_equal(count(db), 0);
	assert_false(put(db, 1, NULL, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	reconnect(db);
	assert_true(put(db, 1, NULL, &why));
	assert_int_equal(count(db), 1);
	db_close(db);
}

static void a_transaction_is_lost_with_its_connection(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);

	assert_true(db_begin(db, &why) && put(db, 1, NULL, &why));
	end_session_of(*state, db);
	assert_false(put(db, 2, NULL, &why));
	assert_false(put(db, 3, NULL, &why));     /* not on its own, outside of the transaction */
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_false(db_commit(db, &why));
	reconnect(db);
	assert_int_equal(count(db), 0);
	assert_true(db_begin(db, &why) && put(db, 4, NULL, &why));
	end_session_of(*state, db);
	assert_false(db_commit(db, &why));
	reconnect(db);
	assert_true(db_begin(db, &why) && put(db, 5, NULL, &why));
	end_session_of(*state, db);
	db_rollback(db);
	reconnect(db);                            /* what ended it may be heard here */
	assert_true(db_begin(db, &why));
	assert_true(put(db, 6, NULL, &why) && db_commit(db, &why));
	assert_int_equal(count(db), 1);
	db_close(db);
}

static void a_failed_statement_fails_its_transaction(void **state)
{
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);

	assert_true(db_begin(db, &why) && put(db, 1, NULL, &why));
	assert_false(db_query(db, "INSERT INTO t (k) VALUES (1)", NULL, 0, NULL, NULL, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_false(db_commit(db, &why));
	assert_int_equal(count(db), 0);
	db_close(db);
}

static void a_statement_has_its_time(void **state)
{
	struct why why = { 0 };
	struct db *db;
	int64_t began_us = mono_us();

	db_close(open_in(*state, one, &why));
	db = open_more(*state, "&statement_timeout_ms=100", &why);
	assert_non_null(db);
	assert_false(db_query(db, "SELECT pg_sleep(60)", NULL, 0, NULL, NULL, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_true(mono_us() - began_us < 30000000);
	assert_int_equal(count(db), 0);
	db_close(db);
}

static bool keep_value(void *arg, const struct db_row *row)
{
	*(struct db_value *)arg = db_col(row, 0);
	return true;
}

static struct db_value ask(struct db *db, const char *text, struct db_value p)
{
	struct db_value v = { .type = DB_BLOB };
	struct why why;

	if (!db_query(db, text, &p, 1, keep_value, &v, &why))
		fail_msg("%s", why.text);
	return v;
}

static void sums_and_casts_are_numbers(void **state)
{
	static const struct { const char *text; int64_t i; } whole[] = {
		{ "SELECT sum(v) FROM (VALUES (?1), (5000000000)) AS t (v)", 5000000001 },
		{ "SELECT sum(v) FROM (VALUES (?1), (-30000000001)) AS t (v)", -30000000000 },
		{ "SELECT sum(v) FROM (VALUES (?1), (9223372036854775806)) AS t (v)", INT64_MAX },
		{ "SELECT CAST(10000 AS numeric) + ?1 - ?1", 10000 }, { "SELECT CAST(100000000 AS numeric) + ?1", 100000001 },
		{ "SELECT CAST(0 AS numeric) * ?1", 0 }, { "SELECT 1 = ?1", 1 }, { "SELECT CAST(?1 AS smallint) - 3", -2 },
	};
	static const struct { const char *text; double d; } real[] = {
		{ "SELECT avg(v) FROM (VALUES (?1), (2)) AS t (v)", 1.5 }, { "SELECT CAST(-0.00001234 AS numeric) * ?1", -0.00001234 },
		{ "SELECT CAST(?1 AS REAL) / 4", 0.25 }, { "SELECT CAST(12345.0625 AS numeric) * ?1", 12345.0625 },
		{ "SELECT sum(v) FROM (VALUES (?1), (9223372036854775807)) AS t (v)", 9223372036854775808.0 },
	};
	struct db *db = open_in(*state, one, NULL);

	for (size_t i = 0; i < sizeof(whole) / sizeof(*whole); i++) {
		struct db_value v = ask(db, whole[i].text, DB_I(1));

		assert_int_equal(v.type, DB_INT);
		assert_true(v.i == whole[i].i);
	}
	for (size_t i = 0; i < sizeof(real) / sizeof(*real); i++) {
		struct db_value v = ask(db, real[i].text, DB_I(1));

		assert_int_equal(v.type, DB_REAL);
		assert_true(v.d - real[i].d < 1e-12 && real[i].d - v.d < 1e-12);
	}
	db_close(db);
}

/* A statement is prepared with the types of what it is given first. */
static void types_may_change(void **state)
{
	struct db_value p[] = { DB_I(1), DB_NIL, DB_NIL, DB_NIL, DB_NIL };
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	int64_t good = 0;

	for (int i = 0; i < 3; i++) {
		p[0] = DB_I(i);
		p[1] = i ? DB_I(7) : DB_NIL;
		p[2] = i == 2 ? DB_D(0.5) : i ? DB_I(3) : DB_NIL;
		p[3] = i ? DB_S(STR("a\0b")) : DB_NIL;
		p[4] = i ? DB_B(STR("\0\xff")) : DB_NIL;
		assert_true(db_run(db, PUT, p, 5, NULL, NULL, NULL, &why));
	}
	assert_true(db_query(db, "SELECT count(*) FROM t WHERE i = 7 AND d = CASE k WHEN 1 THEN 3 ELSE 0.5 END AND length(s) = 3 AND hex(b) = '00FF'",
			     NULL, 0, keep_int, &good, &why));
	assert_int_equal(good, 2);
	db_close(db);
}

/* A row of the batch's is another's, who does not end. */
static void a_batch_has_its_time(void **state)
{
	struct db_value p[20 * 5];
	struct why why = { 0 };
	struct db *other = open_in(*state, one, &why), *db = open_more(*state, "&statement_timeout_ms=300", &why);
	int64_t changed, began_us;

	assert_true(db_begin(other, &why) && put(other, 15, NULL, &why));
	for (size_t i = 0; i < 20; i++) {
		const struct db_value row[5] = { DB_I(i), DB_I(i), DB_D(i), DB_S(STR("a\0b\xff")), DB_B(STR("x")) };

		memcpy(p + i * 5, row, sizeof(row));
	}
	assert_true(db_begin(db, &why));
	began_us = mono_us();
	assert_false(db_batch(db, PUT, p, 5, 20, &changed, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_true(mono_us() - began_us < 20000000);
	db_rollback(db);
	db_rollback(other);
	reconnect(db);                            /* on a busy machine it gave the connection up */
	assert_true(db_begin(db, &why) && db_batch(db, PUT, p, 5, 20, &changed, &why) && db_commit(db, &why));
	assert_int_equal(changed, 20);
	assert_true(db_query(db, "SELECT count(*) FROM t WHERE i = k AND d = k AND s = 'a\xef\xbf\xbd" "b\xef\xbf\xbd'", NULL, 0, keep_int, &changed, &why));
	assert_int_equal(changed, 20);
	assert_true(db_query(db, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%unnest%'", NULL, 0, keep_int, &changed, &why));
	assert_int_equal(changed, 1);             /* the rows went together */
	db_close(other);
	db_close(db);
}

struct ender { char url[256]; int64_t pid; };

static void *end_when_it_waits(void *arg)
{
	struct ender *e = arg;
	struct db_value pid = DB_I(e->pid);
	struct db *db = db_open(e->url, sql, STATEMENTS, one, NULL);
	int64_t done = 0, until_us = mono_us() + 10000000;

	while (db && !done && mono_us() < until_us && db_query(db, "SELECT count(*) FROM (SELECT pg_terminate_backend(pid)"
									     " FROM pg_stat_activity WHERE pid = ?1 AND wait_event_type = 'Lock') AS t", &pid, 1, keep_int, &done, NULL))
		usleep(1000);
	db_close(db);
	return NULL;
}

/* In the middle of a batch: nothing of it is kept, and the same batch once more is whole. */
static void a_batch_is_lost_with_its_connection(void **state)
{
	enum { N = 2000 };
	struct db_value *p = x_calloc(N * 5, sizeof(*p));
	struct why why = { 0 };
	struct db *other = open_in(*state, one, &why), *db = open_in(*state, one, &why);
	struct ender e = { .pid = 0 };
	int64_t changed = -1;
	pthread_t t;

	url_in(*state, e.url, sizeof(e.url));
	for (size_t i = 0; i < N; i++) {
		const struct db_value row[5] = { DB_I(i), DB_I(1), DB_D(1), DB_Z("s"), DB_B(STR("b")) };

		memcpy(p + i * 5, row, sizeof(row));
	}
	assert_true(db_begin(other, &why) && put(other, N - 100, NULL, &why));
	assert_true(db_query(db, "SELECT pg_backend_pid()", NULL, 0, keep_int, &e.pid, &why));
	assert_int_equal(pthread_create(&t, NULL, end_when_it_waits, &e), 0);
	assert_true(db_begin(db, &why));
	assert_false(db_batch(db, PUT, p, 5, N, &changed, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_int_equal(changed, -1);
	assert_false(db_commit(db, &why));
	pthread_join(t, NULL);
	db_rollback(other);
	reconnect(db);
	assert_int_equal(count(db), 0);
	assert_true(db_begin(db, &why) && db_batch(db, PUT, p, 5, N, &changed, &why) && db_commit(db, &why));
	assert_int_equal(changed, N);
	assert_int_equal(count(db), N);
	db_close(other);
	db_close(db);
	free(p);
}

struct nested { struct db *db; int64_t seen; };

static bool ask_within(void *arg, const struct db_row *row)
{
	struct nested *x = arg;

	assert_int_equal(count(x->db), 3);
	return ++x->seen < 2 && db_int(row, 0) >= 0;
}

static void rows_may_ask(void **state)
{
	struct nested x = { .db = open_in(*state, one, NULL) };

	for (int64_t k = 1; k <= 3; k++)
		assert_true(put(x.db, k, NULL, NULL));
	assert_true(db_query(x.db, "SELECT k FROM t ORDER BY k", NULL, 0, ask_within, &x, NULL));
	assert_int_equal(x.seen, 2);
	assert_int_equal(count(x.db), 3);
	db_close(x.db);
}

static void passwords_are_not_told(void **state)
{
	static const char *const urls[] = {
		"postgresql://who:se-cret@127.0.0.1:1/x", "postgresql://who:se-cret@[bad/x", "postgresql://who:se-cret@127.0.0.1:port/x?schema=a",
		"postgresql:who:se-cret", "postgresql://who:se-cret@127.0.0.1/x?what=se-cret", "postgresql://who:se-cret@127.0.0.1/x?schema=Bad-Name",
		"postgresql://who:se-cret@127.0.0.1/x?statement_timeout_ms=soon",
	};
	struct why why = { 0 };
	struct db *db = open_in(*state, one, &why);
	char url[300];

	for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
		assert_null(db_open(urls[i], sql, STATEMENTS, one, &why));
		assert_null(strstr(why.text, "se-cret"));
	}
	(void)db_query(db, "CREATE ROLE with_password LOGIN PASSWORD 'right'", NULL, 0, NULL, NULL, &why);
	snprintf(url, sizeof(url), "%s&user=with_password&password=se-cret", getenv("CORRAL_TEST_POSTGRES"));
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_non_null(strstr(why.text, "password"));
	assert_null(strstr(why.text, "se-cret"));
	db_close(db);
}

static void nothing_answers(void **state)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int64_t began_us = mono_us();
	struct why why = { 0 };
	char url[100];

	assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, 4) == 0 && getsockname(fd, (struct sockaddr *)&a, &n) == 0);
	snprintf(url, sizeof(url), "postgresql://who@127.0.0.1:%u/x", ntohs(a.sin_port));
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_non_null(strstr(why.text, "no answer"));
	assert_true(mono_us() - began_us < 20000000);
	close(fd);
}

static void the_impatient_wait_no_longer(void **state)
{
	struct db *db = open_in(*state, one, NULL);
	int64_t began_us;
	struct why why;

	db_patience(db, 400);
	for (int i = 0; i < 2; i++) {
		began_us = mono_us();
		assert_false(db_query(db, "SELECT pg_sleep(60)", NULL, 0, NULL, NULL, &why));
		assert_int_equal(why.code, ERR_STORE_FAILED);
		assert_true(mono_us() - began_us < 4500000);      /* a statement has 5 s else */
	}
	reconnect(db);                            /* on a busy machine it gave the connection up */
	assert_true(put(db, 1, NULL, &why));
	db_close(db);
}

static void who_is_away_is_tried_again_soon(void **state)
{
	const int64_t rests[] = { 100, 200, 400, 800, 1000, 1000, 1000 };
	int64_t ms = 0;

	for (size_t i = 0; i < sizeof(rests) / sizeof(*rests); i++) {
		ms = db_rest_ms(ms, 1);
		assert_int_equal(ms, rests[i]);
	}
	assert_int_equal(db_rest_ms(0, 1000), 4000);      /* who does not answer keeps its callers waiting */
	assert_int_equal(db_rest_ms(4000, 1), 1000);
}

static void on_postgres(void **state)
{
	printf("skip: CORRAL_TEST_POSTGRES is not set; scripts/with-postgres sets it\n");
	skip();
}

#define T(f) cmocka_unit_test_setup_teardown(f, dir_make, place_remove)
#define P(f) { #f "_on_postgres", f, schema_make, place_remove, NULL }

static const struct CMUnitTest on_server[] = {
	P(keeps_values), P(many_rows_go_at_once), P(one_of_a_key_is_kept), P(many_rows_keep_their_values), P(commits_or_not),
	P(migrates_once_and_never_back), P(a_failed_migration_leaves_nothing),
	P(says_what_is_wrong_with_a_statement), P(a_kill_loses_no_commit), P(an_older_schema_is_refused), P(two_migrate_at_once),
	P(a_lost_connection_is_made_again), P(a_transaction_is_lost_with_its_connection), P(a_failed_statement_fails_its_transaction),
	P(a_statement_has_its_time), P(sums_and_casts_are_numbers), P(types_may_change), P(rows_may_ask), P(passwords_are_not_told),
	P(the_impatient_wait_no_longer), P(a_server_that_only_reads_is_left), P(a_batch_has_its_time), P(a_batch_is_lost_with_its_connection),
};

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pinned_moment_is_copied_later),
		T(keeps_values), T(many_rows_go_at_once), T(one_of_a_key_is_kept), T(many_rows_keep_their_values), T(commits_or_not),
		T(migrates_once_and_never_back), T(a_failed_migration_leaves_nothing),
		T(says_what_is_wrong), T(says_what_is_wrong_with_a_statement), T(a_full_disk_loses_no_commit), T(a_kill_loses_no_commit),
		cmocka_unit_test(nothing_answers), cmocka_unit_test(who_is_away_is_tried_again_soon),
	};
	const struct CMUnitTest skipped[] = { cmocka_unit_test(on_postgres) };
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	if (getenv("CORRAL_TEST_POSTGRES"))
		return failed + cmocka_run_group_tests(on_server, NULL, NULL);
	return failed + cmocka_run_group_tests(skipped, NULL, NULL);
}

/* db_test.c - the contract of db.h on every driver there is: rows, transactions, migrations, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/store/db.h"

enum { PUT, GET, COUNT, CLEAR, STATEMENTS };
static const char *const sql[] = {
	[PUT] = "INSERT INTO t (k, i, d, s, b) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (k) DO NOTHING",
	[GET] = "SELECT k, i, d, s, b FROM t WHERE k = ?1",
	[COUNT] = "SELECT count(*) AS n FROM t",
	[CLEAR] = "DELETE FROM t",
};
static const struct db_migration one[] = { { 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL, s TEXT, b BLOB)" }, { 0 } };
static const struct db_migration two[] = {
	{ 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL, s TEXT, b BLOB)" },
	{ 2, "ALTER TABLE t ADD COLUMN more TEXT; CREATE INDEX t_i ON t (i)" },
	{ 0 }
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int dir_make(void **state)
{
	char path[] = "/tmp/db-test-XXXXXX";

	assert_non_null(mkdtemp(path));
	*state = x_strdup(path);
	return 0;
}

static int dir_remove(void **state)
{
	nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(*state);
	return 0;
}

static struct db *open_in(const char *dir, const struct db_migration *m, struct why *why)
{
	char url[256];

	snprintf(url, sizeof(url), "sqlite:%s/t.db", dir);
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
	assert_int_equal(why.code, ERR_STORE_FAILED);
	assert_non_null(strstr(why.text, "schema version 2"));
}

static void a_failed_migration_leaves_nothing(void **state)
{
	static const struct db_migration bad[] = {
		{ 1, "CREATE TABLE t (k INTEGER NOT NULL PRIMARY KEY, i INTEGER, d REAL, s TEXT, b BLOB); CREATE TABLE oops (" }, { 0 }
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
	struct db *db;
	char url[256];

	assert_null(db_open("mysql://x", sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_INVALID);
	assert_null(db_open("sqlite:", sql, STATEMENTS, one, &why));
	snprintf(url, sizeof(url), "sqlite:%s/t.db?fast=yes", (char *)*state);
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_non_null(strstr(why.text, "?fast=yes"));
	snprintf(url, sizeof(url), "sqlite:%s/none/t.db", (char *)*state);
	assert_null(db_open(url, sql, STATEMENTS, one, &why));
	assert_int_equal(why.code, ERR_STORE_FAILED);
	db = open_in(*state, one, &why);
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

#define T(f) cmocka_unit_test_setup_teardown(f, dir_make, dir_remove)

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pinned_moment_is_copied_later),
		T(keeps_values), T(commits_or_not), T(migrates_once_and_never_back), T(a_failed_migration_leaves_nothing),
		T(says_what_is_wrong), T(a_full_disk_loses_no_commit), T(a_kill_loses_no_commit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

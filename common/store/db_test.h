/* db_test.h - where the database of a test is: a file of SQLite, or, when CORRAL_TEST_DB is postgresql, a schema of its own on the server of
 * CORRAL_TEST_POSTGRES (scripts/with-postgres). For *_test.c only. */
#ifndef CORRAL_STORE_DB_TEST_H
#define CORRAL_STORE_DB_TEST_H
#include <stdio.h>

#include "common/store/db.h"

static inline bool test_db_is_server(void)
{
	const char *kind = getenv("CORRAL_TEST_DB");

	return kind && strcmp(kind, "postgresql") == 0;
}

/* A schema by the name of a path, which is new for each test. */
static inline void test_db_postgres(const char *path, char *url, size_t cap)
{
	snprintf(url, cap, "%s&schema=t_%016llx", getenv("CORRAL_TEST_POSTGRES"), (unsigned long long)str_hash(str_of(path), 1));
}

/* Writes the URL; the schema is migrated already. */
static inline void test_db(const char *dir, const char *file, const struct db_migration *migrations, char *url, size_t cap)
{
	char path[200];
	struct why why;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	snprintf(url, cap, "sqlite:%s", path);
	if (!test_db_is_server())
		return;
	test_db_postgres(path, url, cap);
	if (db_migrate(url, migrations, NULL, NULL, &why))
		return;
	printf("%s\n", why.text);
	abort();
}

/* First in a test of what only a file of SQLite has. */
#define SKIP_ON_SERVER() \
	do { \
		if (test_db_is_server()) { \
			printf("skip: this is about a file of SQLite\n"); \
			skip(); \
		} \
	} while (0)
#endif

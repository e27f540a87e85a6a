/* db_test.h - where the database of a test is: a file of SQLite, or, when CORRAL_TEST_DB is postgresql, a schema of its own on the server of
 * CORRAL_TEST_POSTGRES (scripts/with-postgres). For *_test.c only. */
#ifndef CORRAL_STORE_DB_TEST_H
#define CORRAL_STORE_DB_TEST_H
#include <stdio.h>

#include "common/store/db.h"

/* A schema by the name of a path, which is new for each test. */
static inline void test_db_postgres(const char *path, char *url, size_t cap)
{
	snprintf(url, cap, "%s&schema=t_%016llx", getenv("CORRAL_TEST_POSTGRES"), (unsigned long long)str_hash(str_of(path), 1));
}

/* Writes the URL; the schema is migrated already. False with the reason on standard output: skip(). */
static inline bool test_db(const char *path, const struct db_migration *migrations, char *url, size_t cap)
{
	const char *kind = getenv("CORRAL_TEST_DB");
	struct why why;

	snprintf(url, cap, "sqlite:%s", path);
	if (!kind || strcmp(kind, "postgresql") != 0)
		return true;
	if (!getenv("CORRAL_TEST_POSTGRES")) {
		printf("skip: CORRAL_TEST_POSTGRES is not set; scripts/with-postgres sets it\n");
		return false;
	}
	test_db_postgres(path, url, cap);
	if (db_migrate(url, migrations, NULL, NULL, &why))
		return true;
	printf("%s\n", why.text);
	abort();
}
#endif

/* db_driver.h - what a database driver gives to db.c. One per URL scheme; all listed in db.c. */
#ifndef CORRAL_STORE_DB_DRIVER_H
#define CORRAL_STORE_DB_DRIVER_H
#include "common/store/db.h"

typedef bool db_row_fn(void *arg, const struct db_row *);

struct db_driver {
	const char *scheme, *also;    /* "sqlite:"; also: another name of it, or NULL */

	/* 'rest' = the URL behind the scheme. The driver's struct begins with struct db. Statements are prepared later. */
	struct db *(*open)(const char *rest, const char *const *statements, unsigned n, struct why *);
	void (*close)(struct db *);
	bool (*prepare)(struct db *, struct why *);                       /* all statements; after the migrations */
	bool (*exec)(struct db *, const char *sql, struct why *);         /* one or more statements without parameters or rows */
	bool (*begin)(struct db *, bool exclusive, struct why *);
	bool (*commit)(struct db *, struct why *);                        /* rolls back when it fails */
	void (*rollback)(struct db *);                                    /* without a transaction: nothing */
	bool (*run)(struct db *, unsigned index, const struct db_value *, unsigned n, db_row_fn *, void *arg, int64_t *ret_changed, struct why *);
	bool (*batch)(struct db *, unsigned index, const struct db_value *, unsigned n, size_t rows, int64_t *ret_changed, struct why *);
	bool (*query)(struct db *, const char *sql, const struct db_value *, unsigned n, db_row_fn *, void *arg, struct why *);
	struct db_value (*col)(const struct db_row *, unsigned column);
	unsigned (*cols)(const struct db_row *);
	const char *(*col_name)(const struct db_row *, unsigned column);

	/* Of a database that other programs may be using: migrations are a command there (db_migrate()). NULL = they are applied when it is opened.
	 * Whether there is a schema_version. begin(exclusive) makes what that needs. */
	bool (*is_made)(struct db *, bool *ret, struct why *);
	bool (*is_back)(struct db *);                                     /* with is_made */
	void (*patience)(struct db *, int64_t ms);                        /* with is_made */
	const char *(*name)(struct db *);                                 /* for sentences; with is_made */
	void (*interrupt)(struct db *);                                   /* any thread; with is_made */
};

struct db { const struct db_driver *driver; };
struct db_row { const struct db_driver *driver; void *impl; };

/* db_on_wait()'s. */
bool db_wait_is_watched(void);
void db_wait_tell(const char *server, int64_t waited_ms);

extern const struct db_driver db_sqlite, db_postgres;

/* How long a server that is away is left alone after an attempt that failed after took_ms, when before_ms was the rest before (0 = it was there): ever longer up
 * to a second, and four times as long as it kept us waiting where that is more, for whoever calls waits for the attempt. */
int64_t db_rest_ms(int64_t before_ms, int64_t took_ms);
#endif

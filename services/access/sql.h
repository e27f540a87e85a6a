/* sql.h - every statement and migration of access. */
#ifndef CORRAL_ACCESS_SQL_H
#define CORRAL_ACCESS_SQL_H
#include "common/store/db.h"

enum access_statement {
	A_KEY_ADD, A_KEY_SET, A_KEY_GET, A_KEY_LIST, A_KEYS_LIVE, A_KEYS_OF_TENANT, A_KEY_NAMED, A_KEY_SUCCESSOR, A_KEYS_OF_ROLE, A_KEYS_EXPIRED, A_KEYS_COUNT,
	A_KEY_USED,
	A_CURSOR_GET, A_CURSOR_ADD, A_CURSOR_MOVE,
	A_TENANT_PUT, A_TENANT_GET, A_TENANT_DEL, A_TENANTS,
	A_HEAD_GET, A_HEAD_MOVE, A_AUDIT_ADD, A_AUDIT_QUERY, A_AUDIT_WALK,
	A_TOLD_GET, A_TOLD_MOVE,
	A_STATEMENTS
};

extern const char *const access_sql[A_STATEMENTS];
extern const struct db_migration access_migrations[];
#endif

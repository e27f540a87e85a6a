/* sql.c - see sql.h. */
#include "services/access/sql.h"

#define AUDIT_COLUMNS "seq, at_us, actor, role, tenant, address, action, object, outcome, detail, request_id, hash"
/* Neither ended nor past its time; ?1 = now. */
#define LIVE "ended_us = 0 AND (expires_us = 0 OR expires_us > ?1)"

const char *const access_sql[A_STATEMENTS] = {
	[A_KEY_ADD] = "INSERT INTO keys (id, hash, tenant, name, role, created_us, expires_us, ended_us, replaces, body) "
		      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9)",
	[A_KEY_SET] = "UPDATE keys SET expires_us = ?2, ended_us = ?3, body = ?4 WHERE id = ?1",
	[A_KEY_GET] = "SELECT body, ended_us FROM keys WHERE id = ?1",
	[A_KEY_LIST] = "SELECT body, coalesce((SELECT at_us FROM key_uses WHERE key_uses.id = keys.id), 0) FROM keys WHERE (?2 = '' OR tenant = ?2) AND (?3 = 1 OR (" LIVE ")) "
		       "AND (?4 = '' OR (created_us, id) > (SELECT created_us, id FROM keys WHERE id = ?4)) ORDER BY created_us, id LIMIT ?5",
	[A_KEYS_LIVE] = "SELECT body FROM keys WHERE " LIVE,
	[A_KEYS_OF_TENANT] = "SELECT count(*) FROM keys WHERE " LIVE " AND tenant = ?2",
	[A_KEY_NAMED] = "SELECT id FROM keys WHERE " LIVE " AND tenant = ?2 AND name = ?3 LIMIT 1",
	[A_KEY_SUCCESSOR] = "SELECT id FROM keys WHERE " LIVE " AND replaces = ?2 LIMIT 1",
	[A_KEYS_OF_ROLE] = "SELECT count(*) FROM keys WHERE " LIVE " AND role = ?2",
	[A_KEYS_EXPIRED] = "SELECT id FROM keys WHERE ended_us = 0 AND expires_us > ?1 AND expires_us <= ?2",
	[A_KEYS_COUNT] = "SELECT count(*) FROM keys WHERE " LIVE,

	[A_KEY_USED] = "INSERT INTO key_uses (id, at_us) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET at_us = ?2 WHERE key_uses.at_us < ?2",

	[A_CURSOR_GET] = "SELECT position FROM cursors WHERE source = ?1",
	[A_CURSOR_ADD] = "INSERT INTO cursors (source, position, epoch) VALUES (?1, 0, ?2) ON CONFLICT (source) DO NOTHING",
	[A_CURSOR_MOVE] = "UPDATE cursors SET position = ?2, epoch = ?3 WHERE source = ?1 AND position = ?4 AND epoch <= ?3",

	[A_TENANT_PUT] = "INSERT INTO tenants (name, body) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET body = ?2",
	[A_TENANT_GET] = "SELECT body FROM tenants WHERE name = ?1",
	[A_TENANT_DEL] = "DELETE FROM tenants WHERE name = ?1",
	[A_TENANTS] = "SELECT body FROM tenants ORDER BY name",

	[A_HEAD_GET] = "SELECT seq, hash FROM audit_head WHERE one = 1",
	[A_HEAD_MOVE] = "UPDATE audit_head SET seq = ?1, hash = ?2 WHERE one = 1 AND seq = ?1 - 1",
	[A_AUDIT_ADD] = "INSERT INTO audit (" AUDIT_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
	[A_AUDIT_QUERY] = "SELECT " AUDIT_COLUMNS " FROM audit WHERE seq > ?1 AND at_us >= ?2 AND at_us < ?3 AND (?4 = '' OR actor = ?4) "
			  "AND action >= ?5 AND action < ?6 AND (?7 = '' OR tenant = ?7) ORDER BY seq LIMIT ?8",
	[A_AUDIT_WALK] = "SELECT " AUDIT_COLUMNS " FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2",
	[A_TOLD_GET] = "SELECT seq FROM audit_told WHERE one = 1",
	[A_TOLD_MOVE] = "UPDATE audit_told SET seq = ?1 WHERE one = 1 AND seq < ?1",
};

const struct db_migration access_migrations[] = {
	{ 1,
	  /* body: the packed Key or Tenant; the columns beside it are what is searched by */
	  "CREATE TABLE tenants (name TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL);"
	  "CREATE TABLE keys (id TEXT NOT NULL PRIMARY KEY, hash BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL, role INTEGER NOT NULL,"
	  " created_us BIGINT NOT NULL, expires_us BIGINT NOT NULL, ended_us BIGINT NOT NULL, replaces TEXT NOT NULL, body BLOB NOT NULL);"
	  "CREATE INDEX keys_by_age ON keys (created_us, id);"
	  "CREATE INDEX keys_by_name ON keys (tenant, name);"
	  "CREATE INDEX keys_by_end ON keys (ended_us, expires_us);"
	  "CREATE INDEX keys_by_origin ON keys (replaces) WHERE replaces <> '';"
	  "CREATE INDEX keys_by_role ON keys (role);"
	  /* append-only; hash: of the one before and all columns of this one */
	  "CREATE TABLE audit (seq BIGINT NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL, actor TEXT NOT NULL, role TEXT NOT NULL, tenant TEXT NOT NULL,"
	  " address TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL, request_id TEXT NOT NULL,"
	  " hash BLOB NOT NULL);"
	  "CREATE TABLE audit_head (one INTEGER NOT NULL PRIMARY KEY, seq BIGINT NOT NULL, hash BLOB NOT NULL);"
	  "INSERT INTO audit_head (one, seq, hash) VALUES (1, 0, x'0000000000000000000000000000000000000000000000000000000000000000')" },
	{ 2, "CREATE TABLE key_uses (id TEXT NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL)" },
	{ 3, "CREATE TABLE cursors (source TEXT NOT NULL PRIMARY KEY, position BIGINT NOT NULL, epoch BIGINT NOT NULL)" },
	/* up to which entry audit.v1 has the log */
	{ 4, "CREATE TABLE audit_told (one INTEGER NOT NULL PRIMARY KEY, seq BIGINT NOT NULL);"
	     "INSERT INTO audit_told (one, seq) VALUES (1, 0)" },
	{ 0 }
};

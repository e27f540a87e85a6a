/* active.c - the active model: one row of a database, so that it outlives a restart and is one for several cloud-fallbacks. See cloud.h. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/store/db.h"
#include "services/cloud-fallback/cloud.h"

enum { Q_GET, Q_SET, Q_ADD, STATEMENTS };

enum { MODEL_MOST = 200 };

static const char *const sql[STATEMENTS] = {
	[Q_GET] = "SELECT model, version, set_at_us FROM active_model WHERE one = 1",
	[Q_ADD] = "INSERT INTO active_model (one, model, version, set_at_us) VALUES (1, '', 0, 0) ON CONFLICT (one) DO NOTHING",
	[Q_SET] = "UPDATE active_model SET model = ?1, version = version + 1, set_at_us = ?2 WHERE one = 1 AND (?3 = 0 OR version = ?4)",
};

const struct db_migration cloud_migrations[] = {
	{ 1, "CREATE TABLE active_model (one INTEGER NOT NULL PRIMARY KEY, model TEXT NOT NULL, version BIGINT NOT NULL, set_at_us BIGINT NOT NULL)" },
	{ 0 }
};

struct active {
	struct db *db;
	char model[MODEL_MOST + 1];
	uint64_t version;
	int64_t set_at_us;
	bool changed;
};

static bool take(void *arg, const struct db_row *row)
{
	struct active *a = arg;

	a->changed |= a->version != (uint64_t)db_int(row, 1);
	(void)str_copy(a->model, sizeof(a->model), db_str(row, 0));
	a->version = (uint64_t)db_int(row, 1);
	a->set_at_us = db_int(row, 2);
	return true;
}

bool active_look(struct active *a)
{
	a->changed = false;
	return db_run(a->db, Q_GET, NULL, 0, take, a, NULL, NULL) && a->changed;
}

struct active *active_open(struct cloud *c, struct why *why)
{
	struct active *a = x_calloc(1, sizeof(*a));
	char url[1200];

	snprintf(url, sizeof(url), "sqlite:%s/cloud.db", svc_state_dir(c->svc));
	a->db = db_open(c->cfg->cloud_db[0] ? c->cfg->cloud_db : url, sql, STATEMENTS, cloud_migrations, why);
	if (a->db && db_run(a->db, Q_ADD, NULL, 0, NULL, NULL, NULL, why) && db_run(a->db, Q_GET, NULL, 0, take, a, NULL, why)) {
		db_patience(a->db, DB_SOON_MS);       /* streams are passed on by the same thread */
		return a;
	}
	active_close(a);
	return NULL;
}

void active_close(struct active *a)
{
	if (!a)
		return;
	db_close(a->db);
	free(a);
}

void active_get(struct active *a, struct arena *mem, Corral__ActiveModel *ret)
{
	corral__active_model__init(ret);
	ret->model = arena_dup(mem, a->model, strlen(a->model));
	ret->version = a->version;
	ret->set_at_us = a->set_at_us;
}

enum err active_set(struct active *a, const Corral__SetActiveModelRequest *q, struct why *why)
{
	const struct db_value row[] = { DB_Z(q->model), DB_I(wall_us()), DB_I(q->if_version), DB_I(q->version) };
	int64_t changed = 0;

	if (strlen(q->model) > MODEL_MOST || !str_utf8_valid(str_of(q->model)))
		return err_field(why, ERR_INVALID, "model", "a model's name has at most %d bytes", MODEL_MOST);
	if (!db_run(a->db, Q_SET, row, 4, NULL, NULL, &changed, why))
		return why->code;
	(void)active_look(a);
	if (!changed)
		return err_set(why, ERR_CONFLICT, "the active model is at version %llu already; look at it and set it again", (unsigned long long)a->version);
	return ERR_OK;
}

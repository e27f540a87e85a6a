/* active.c - the active model: one row of a database, so that it outlives a restart and is one for several cloud-fallbacks. See cloud.h.
 *
 * The database has a thread of its own: streams are passed on by the service's, which must not wait for it. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/store/db_thread.h"
#include "services/cloud-fallback/cloud.h"

enum { Q_GET, Q_SET, Q_ADD, STATEMENTS };

enum { MODEL_MOST = 200, ASKED_MOST = 32, WAIT_MS = 3000 /* gateways wait 5 s for an answer, and are to hear the reason */ };

static const char *const sql[STATEMENTS] = {
	[Q_GET] = "SELECT model, version, set_at_us FROM active_model WHERE one = 1",
	[Q_ADD] = "INSERT INTO active_model (one, model, version, set_at_us) VALUES (1, '', 0, 0) ON CONFLICT (one) DO NOTHING",
	[Q_SET] = "UPDATE active_model SET model = ?1, version = version + 1, set_at_us = ?2 WHERE one = 1 AND (?3 = 0 OR version = ?4)",
};

const struct db_migration cloud_migrations[] = {
	{ 1, "CREATE TABLE active_model (one INTEGER NOT NULL PRIMARY KEY, model TEXT NOT NULL, version BIGINT NOT NULL, set_at_us BIGINT NOT NULL)" },
	{ 0 }
};

/* The row as it was read. */
struct model { char model[MODEL_MOST + 1]; uint64_t version; int64_t set_at_us; };

struct active {
	struct cloud *cloud;
	struct db_thread *thread;
	struct model now;
	bool looking;
};

/* Reading it again, or setting it first. */
struct asked {
	struct db_work work;          /* first */
	struct active *active;
	struct model read;
	bool was_read;
	Corral__SetActiveModelRequest *set;   /* NULL: only a look */
	active_set_done *done;
	void *arg;
	int64_t changed;
	struct why why;
};

static bool take(void *arg, const struct db_row *row)
{
	struct model *m = arg;

	(void)str_copy(m->model, sizeof(m->model), db_str(row, 0));
	m->version = (uint64_t)db_int(row, 1);
	m->set_at_us = db_int(row, 2);
	return true;
}

/* --- on the thread of the database --- */

static void ask(struct db_work *w, struct db *db)
{
	struct asked *q = (struct asked *)(void *)w;
	struct db_value row[] = { DB_NIL, DB_I(wall_us()), DB_NIL, DB_NIL };

	if (q->set) {
		row[0] = DB_Z(q->set->model);
		row[2] = DB_I(q->set->if_version);
		row[3] = DB_I(q->set->version);
		if (!db_run(db, Q_SET, row, 4, NULL, NULL, &q->changed, &q->why))
			return;
	}
	q->was_read = db_run(db, Q_GET, NULL, 0, take, &q->read, NULL, NULL);
}

/* --- on the loop --- */

static void ended(struct asked *q, const struct why *dropped)
{
	struct why why = dropped ? *dropped : q->why;

	if (!why.code && !q->changed)
		err_set(&why, ERR_CONFLICT, "the active model is at version %llu already; look at it and set it again", (unsigned long long)q->active->now.version);
	q->done(q->arg, q->set, &why);
	corral__set_active_model_request__free_unpacked(q->set, NULL);
}

static void asked(struct db_work *w, const struct why *dropped)
{
	struct asked *q = (struct asked *)(void *)w;
	struct active *a = q->active;
	bool is_other = q->was_read && q->read.version != a->now.version;

	if (q->was_read)
		a->now = q->read;
	if (q->set)
		ended(q, dropped);
	else
		a->looking = false;
	if (is_other && !dropped)
		cloud_changed(a->cloud);
	free(q);
}

static struct asked *asked_new(struct active *a)
{
	struct asked *q = x_calloc(1, sizeof(*q));

	q->work.run = ask;
	q->work.done = asked;
	q->active = a;
	return q;
}

void active_look(struct active *a)
{
	struct asked *q = a->looking ? NULL : asked_new(a);
	struct why why;

	if (!q)
		return;
	a->looking = true;
	if (db_thread_do(a->thread, &q->work, &why))
		return;
	a->looking = false;
	free(q);
}

struct active *active_open(struct cloud *c, struct why *why)
{
	const struct db_thread_opts o = { .service = svc_name(c->svc), .most = ASKED_MOST, .on_wait = svc_db_wait, .arg = c->svc };
	struct active *a;
	struct db *db;
	char url[1200];

	snprintf(url, sizeof(url), "sqlite:%s/cloud.db", svc_state_dir(c->svc));
	db = db_open(c->cfg->cloud_db[0] ? c->cfg->cloud_db : url, sql, STATEMENTS, cloud_migrations, why);
	if (!db)
		return NULL;
	a = x_calloc(1, sizeof(*a));
	a->cloud = c;
	db_patience(db, WAIT_MS);
	a->thread = db_thread_new(c->loop, db, &o);
	if (db_run(db, Q_ADD, NULL, 0, NULL, NULL, NULL, why) && db_run(db, Q_GET, NULL, 0, take, &a->now, NULL, why)) {
		db_thread_start(a->thread);
		return a;
	}
	active_close(a);
	return NULL;
}

void active_close(struct active *a)
{
	if (!a)
		return;
	db_thread_free(a->thread);
	free(a);
}

void active_get(struct active *a, struct arena *mem, Corral__ActiveModel *ret)
{
	corral__active_model__init(ret);
	ret->model = arena_dup(mem, a->now.model, strlen(a->now.model));
	ret->version = a->now.version;
	ret->set_at_us = a->now.set_at_us;
}

static Corral__SetActiveModelRequest *copy_of(const Corral__SetActiveModelRequest *q)
{
	size_t n = corral__set_active_model_request__get_packed_size(q);
	uint8_t *bytes = x_malloc(n + 1);
	Corral__SetActiveModelRequest *copy;

	(void)corral__set_active_model_request__pack(q, bytes);
	copy = corral__set_active_model_request__unpack(NULL, n, bytes);
	free(bytes);
	return copy;
}

enum err active_set(struct active *a, const Corral__SetActiveModelRequest *request, active_set_done *done, void *arg, struct why *why)
{
	struct asked *q;

	if (strlen(request->model) > MODEL_MOST || !str_utf8_valid(str_of(request->model)))
		return err_field(why, ERR_INVALID, "model", "a model's name has at most %d bytes", MODEL_MOST);
	q = asked_new(a);
	q->set = copy_of(request);
	q->done = done;
	q->arg = arg;
	if (db_thread_do(a->thread, &q->work, why))
		return ERR_OK;
	corral__set_active_model_request__free_unpacked(q->set, NULL);
	free(q);
	return why->code;
}

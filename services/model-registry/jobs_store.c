/* jobs_store.c - what jobs.h keeps: a row a job, a row a model with marks, and how long each load took last. */
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/db.h"
#include "services/model-registry/jobs.h"

enum { S_PUT, S_ALL, S_FORGET, S_MARK, S_MARKS, S_LOAD_PUT, S_LOAD_GET, STATEMENTS };

static const char *const sql[STATEMENTS] = {
	[S_PUT] = "INSERT INTO jobs (id, kind, state, model, backend, phase, bytes_done, bytes_total, created_us, started_us, ended_us, removes_at_us,"
		  " error_code, error, asked, tries) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
		  " ON CONFLICT (id) DO UPDATE SET state = ?3, phase = ?6, bytes_done = ?7, bytes_total = ?8, started_us = ?10, ended_us = ?11,"
		  " removes_at_us = ?12, error_code = ?13, error = ?14, asked = ?15, tries = ?16",
	[S_ALL] = "SELECT id, kind, state, model, backend, phase, bytes_done, bytes_total, created_us, started_us, ended_us, removes_at_us,"
		  " error_code, error, asked, tries FROM jobs ORDER BY id",
	[S_FORGET] = "DELETE FROM jobs WHERE ended_us > 0 AND ended_us < ?1",
	[S_MARK] = "INSERT INTO marks (model, is_protected, pinned, set_us) VALUES (?1, ?2, ?3, ?4)"
		   " ON CONFLICT (model) DO UPDATE SET is_protected = ?2, pinned = ?3, set_us = ?4",
	[S_MARKS] = "SELECT model, is_protected, pinned FROM marks WHERE is_protected <> 0 OR pinned <> 0",
	[S_LOAD_PUT] = "INSERT INTO loads (model, backend, took_us, at_us) VALUES (?1, ?2, ?3, ?4)"
		       " ON CONFLICT (model, backend) DO UPDATE SET took_us = ?3, at_us = ?4",
	[S_LOAD_GET] = "SELECT took_us FROM loads WHERE model = ?1 AND backend = ?2",
};

const struct db_migration jobs_migrations[] = {
	{ 1, "CREATE TABLE jobs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, state BIGINT NOT NULL, model TEXT NOT NULL, backend TEXT NOT NULL,"
	     " phase TEXT NOT NULL, bytes_done BIGINT NOT NULL, bytes_total BIGINT NOT NULL, created_us BIGINT NOT NULL, started_us BIGINT NOT NULL,"
	     " ended_us BIGINT NOT NULL, removes_at_us BIGINT NOT NULL, error_code TEXT NOT NULL, error TEXT NOT NULL, asked BIGINT NOT NULL,"
	     " tries BIGINT NOT NULL);"
	     "CREATE TABLE marks (model TEXT PRIMARY KEY, is_protected BIGINT NOT NULL, pinned BIGINT NOT NULL, set_us BIGINT NOT NULL);"
	     "CREATE TABLE loads (model TEXT NOT NULL, backend TEXT NOT NULL, took_us BIGINT NOT NULL, at_us BIGINT NOT NULL,"
	     " PRIMARY KEY (model, backend));" },
	{ 0 }
};

static enum job_kind kind_of(struct str name)
{
	for (enum job_kind k = 0; k < JOB_KINDS; k++)
		if (str_eqz(name, job_kind_name(k)))
			return k;
	return JOB_KINDS;
}

static bool read_job(void *arg, const struct db_row *row)
{
	struct jobs *jobs = arg;
	struct job *j;

	if (kind_of(db_str(row, 1)) == JOB_KINDS)         /* of a newer version */
		return true;
	j = x_calloc(1, sizeof(*j));
	j->jobs = jobs;
	(void)str_copy(j->id, sizeof(j->id), db_str(row, 0));
	j->kind = kind_of(db_str(row, 1));
	j->state = (enum job_state)db_int(row, 2);
	(void)str_copy(j->model, sizeof(j->model), db_str(row, 3));
	(void)str_copy(j->backend, sizeof(j->backend), db_str(row, 4));
	(void)str_copy(j->phase, sizeof(j->phase), db_str(row, 5));
	j->bytes_done = (uint64_t)db_int(row, 6);
	j->bytes_total = (uint64_t)db_int(row, 7);
	j->created_us = db_int(row, 8);
	j->started_us = db_int(row, 9);
	j->ended_us = db_int(row, 10);
	j->removes_at_us = db_int(row, 11);
	(void)str_copy(j->error_code, sizeof(j->error_code), db_str(row, 12));
	(void)str_copy(j->error, sizeof(j->error), db_str(row, 13));
	j->asked = (uint32_t)db_int(row, 14);
	j->tries = (uint32_t)db_int(row, 15);
	list_push(&jobs->all, &j->node);
	return true;
}

static bool read_mark(void *arg, const struct db_row *row)
{
	struct jobs *jobs = arg;
	struct mark *m = x_calloc(1, sizeof(*m));

	(void)str_copy(m->model, sizeof(m->model), db_str(row, 0));
	m->is_protected = db_int(row, 1) != 0;
	m->pinned = db_int(row, 2) != 0;
	m->next = jobs->marks;
	jobs->marks = m;
	return true;
}

bool store_open(struct jobs *jobs, const char *url, struct why *why)
{
	jobs->db = db_open(url, sql, STATEMENTS, jobs_migrations, why);
	if (!jobs->db || !db_run(jobs->db, S_ALL, NULL, 0, read_job, jobs, NULL, why) || !db_run(jobs->db, S_MARKS, NULL, 0, read_mark, jobs, NULL, why))
		return false;
	db_patience(jobs->db, DB_SOON_MS);        /* there are slots to lend (slots.h) */
	return true;
}

bool store_put(struct jobs *jobs, const struct job *j, struct why *why)
{
	const struct db_value row[] = {
		DB_Z(j->id), DB_Z(job_kind_name(j->kind)), DB_I(j->state), DB_Z(j->model), DB_Z(j->backend), DB_Z(j->phase), DB_I(j->bytes_done),
		DB_I(j->bytes_total), DB_I(j->created_us), DB_I(j->started_us), DB_I(j->ended_us), DB_I(j->removes_at_us), DB_Z(j->error_code),
		DB_Z(j->error), DB_I(j->asked), DB_I(j->tries),
	};
	struct why own = { 0 };

	if (db_run(jobs->db, S_PUT, row, sizeof(row) / sizeof(*row), NULL, NULL, NULL, &own))
		return true;
	LOG_ERROR("a job cannot be kept", LOG_S("job", j->id), LOG_S("error", own.text));
	err_set(why, ERR_STORE_FAILED, "the job cannot be kept on disk: %s", own.text);
	return false;
}

bool store_mark(struct jobs *jobs, const struct mark *m, struct why *why)
{
	const struct db_value row[] = { DB_Z(m->model), DB_I(m->is_protected), DB_I(m->pinned), DB_I(wall_us()) };
	struct why own = { 0 };

	if (db_run(jobs->db, S_MARK, row, 4, NULL, NULL, NULL, &own))
		return true;
	err_set(why, ERR_STORE_FAILED, "the mark cannot be kept on disk: %s", own.text);
	return false;
}

bool store_load_time(struct jobs *jobs, const char *model, const char *backend, int64_t us)
{
	const struct db_value row[] = { DB_Z(model), DB_Z(backend), DB_I(us), DB_I(wall_us()) };

	return db_run(jobs->db, S_LOAD_PUT, row, 4, NULL, NULL, NULL, NULL);
}

static bool take_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

int64_t store_last_load_us(struct jobs *jobs, const char *model, const char *backend)
{
	int64_t us = 0;

	(void)db_run(jobs->db, S_LOAD_GET, (struct db_value[]){ DB_Z(model), DB_Z(backend) }, 2, take_int, &us, NULL, NULL);
	return us;
}

void store_forget(struct jobs *jobs, int64_t ended_before_us)
{
	(void)db_run(jobs->db, S_FORGET, (struct db_value[]){ DB_I(ended_before_us) }, 1, NULL, NULL, NULL, NULL);
}

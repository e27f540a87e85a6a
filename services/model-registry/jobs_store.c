/* jobs_store.c - what jobs.h keeps: a row a job, a row a model with marks, and how long each load took last.
 *
 * The database is on a thread of its own, for the service's has slots to lend. It is waited for only where somebody is told that it is so:
 * a job that begins or is cancelled, and a mark. */
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/model-registry/jobs.h"

enum { S_PUT, S_ALL, S_FORGET, S_MARK, S_MARKS, S_LOAD_PUT, S_LOADS, STATEMENTS };
enum { PUTS_MOST = 64 };

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
	[S_LOADS] = "SELECT model, backend, took_us FROM loads",
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

struct load_time { struct load_time *next; char model[256], backend[128]; int64_t us; };

static struct load_time *load_of(const struct jobs *jobs, struct str model, struct str backend)
{
	for (struct load_time *l = jobs->loads; l; l = l->next)
		if (str_eqz(model, l->model) && str_eqz(backend, l->backend))
			return l;
	return NULL;
}

static void load_note(struct jobs *jobs, struct str model, struct str backend, int64_t us)
{
	struct load_time *l = load_of(jobs, model, backend);

	if (!l) {
		l = x_calloc(1, sizeof(*l));
		(void)str_copy(l->model, sizeof(l->model), model);
		(void)str_copy(l->backend, sizeof(l->backend), backend);
		l->next = jobs->loads;
		jobs->loads = l;
	}
	l->us = us;
}

static bool read_load(void *arg, const struct db_row *row)
{
	load_note(arg, db_str(row, 0), db_str(row, 1), db_int(row, 2));
	return true;
}

static bool read_all(struct jobs *jobs, struct db *db, struct why *why)
{
	return db_run(db, S_ALL, NULL, 0, read_job, jobs, NULL, why) && db_run(db, S_MARKS, NULL, 0, read_mark, jobs, NULL, why) &&
	       db_run(db, S_LOADS, NULL, 0, read_load, jobs, NULL, why);
}

bool store_open(struct jobs *jobs, const char *url, struct why *why)
{
	const struct db_thread_opts o = { .service = "model-registry", .most = PUTS_MOST, .on_wait = jobs->registry->on_db_wait, .arg = jobs->registry->db_wait_arg };
	struct db *db = db_open(url, sql, STATEMENTS, jobs_migrations, why);

	if (!db)
		return false;
	db_patience(db, DB_SOON_MS);      /* for who waits on the loop */
	jobs->store = db_thread_new(jobs->loop, db, &o);
	if (!read_all(jobs, db, why))
		return false;
	db_thread_start(jobs->store);
	return true;
}

static void nothing_run(struct db_work *w, struct db *db) { (void)w, (void)db; }

/* What was to be written later is: the next start, or a reload, goes on from there. */
void store_close(struct jobs *jobs)
{
	struct db_work last = { .run = nothing_run };

	if (jobs->store)
		db_thread_wait(jobs->store, &last);
	db_thread_free(jobs->store);
	while (jobs->loads) {
		struct load_time *l = jobs->loads;

		jobs->loads = l->next;
		free(l);
	}
}

/* --- writing --- */

struct put {
	struct db_work work;          /* first */
	struct jobs *jobs;            /* of a job's row, with the number of it */
	uint32_t number;
	unsigned statement, n;
	const struct db_value *row;
	struct arena *mem;            /* of a copy; NULL: it is waited for */
	bool ok;
	struct why why;
};

static void put_run(struct db_work *w, struct db *db)
{
	struct put *p = (struct put *)(void *)w;

	p->ok = db_run(db, p->statement, p->row, p->n, NULL, NULL, NULL, &p->why);
}

static void put_done(struct db_work *w, const struct why *dropped)
{
	struct put *p = (struct put *)(void *)w;
	struct job *j = p->statement == S_PUT && !dropped ? jobs_find(p->jobs, p->row[0].s) : NULL;

	if (p->statement == S_PUT && !p->ok && (!dropped || p->why.code) && !(j && j->unkept))
		LOG_ERROR("a job cannot be kept", LOG_S("job", p->row[0].s.p), LOG_S("error", p->why.text));
	if (j && j->puts == p->number)
		j->unkept = !p->ok;
	arena_free(p->mem);
	free(p);
}

static void put_later(struct jobs *jobs, unsigned statement, const struct db_value *row, unsigned n, uint32_t number)
{
	struct put *p = x_calloc(1, sizeof(*p));
	struct arena *mem = arena_new(1024);
	struct db_value *copy = arena_array(mem, struct db_value, n);
	struct why why;

	for (unsigned i = 0; i < n; i++) {
		copy[i] = row[i];
		if (row[i].type == DB_TEXT)
			copy[i].s.p = arena_dup(mem, row[i].s.p, row[i].s.n);
	}
	*p = (struct put){ .work = { .run = put_run, .done = put_done }, .jobs = jobs, .number = number, .statement = statement, .n = n, .row = copy, .mem = mem };
	if (db_thread_do(jobs->store, &p->work, &why))
		return;
	p->why = why;
	put_done(&p->work, NULL);
}

static bool put_now(struct jobs *jobs, unsigned statement, const struct db_value *row, unsigned n, struct why *why)
{
	struct put p = { .work = { .run = put_run }, .statement = statement, .n = n, .row = row };

	db_thread_wait(jobs->store, &p.work);
	*why = p.why;
	return p.ok;
}

bool store_put(struct jobs *jobs, struct job *j, struct why *why)
{
	const struct db_value row[] = {
		DB_Z(j->id), DB_Z(job_kind_name(j->kind)), DB_I(j->state), DB_Z(j->model), DB_Z(j->backend), DB_Z(j->phase), DB_I(j->bytes_done),
		DB_I(j->bytes_total), DB_I(j->created_us), DB_I(j->started_us), DB_I(j->ended_us), DB_I(j->removes_at_us), DB_Z(j->error_code),
		DB_Z(j->error), DB_I(j->asked), DB_I(j->tries),
	};
	struct why own = { 0 };

	j->puts++;
	if (!why)
		put_later(jobs, S_PUT, row, sizeof(row) / sizeof(*row), j->puts);
	if (!why || put_now(jobs, S_PUT, row, sizeof(row) / sizeof(*row), &own))
		return true;
	LOG_ERROR("a job cannot be kept", LOG_S("job", j->id), LOG_S("error", own.text));
	err_set(why, ERR_STORE_FAILED, "the job cannot be kept on disk: %s", own.text);
	return false;
}

bool store_mark(struct jobs *jobs, const struct mark *m, struct why *why)
{
	const struct db_value row[] = { DB_Z(m->model), DB_I(m->is_protected), DB_I(m->pinned), DB_I(wall_us()) };
	struct why own = { 0 };

	if (!why)
		put_later(jobs, S_MARK, row, 4, 0);
	if (!why || put_now(jobs, S_MARK, row, 4, &own))
		return true;
	err_set(why, ERR_STORE_FAILED, "the mark cannot be kept on disk: %s", own.text);
	return false;
}

void store_load_time(struct jobs *jobs, const char *model, const char *backend, int64_t us)
{
	const struct db_value row[] = { DB_Z(model), DB_Z(backend), DB_I(us), DB_I(wall_us()) };

	load_note(jobs, str_of(model), str_of(backend), us);
	put_later(jobs, S_LOAD_PUT, row, 4, 0);
}

int64_t store_last_load_us(struct jobs *jobs, const char *model, const char *backend)
{
	const struct load_time *l = load_of(jobs, str_of(model), str_of(backend));

	return l ? l->us : 0;
}

void store_forget(struct jobs *jobs, int64_t ended_before_us)
{
	const struct db_value row[] = { DB_I(ended_before_us) };

	put_later(jobs, S_FORGET, row, 1, 0);
}

/* cache_sqlite.c - the cache in a file, for one node: it outlives a restart. One thread has the database, and works off what the seats give it;
 * a seat never waits for it. What is expired is removed once a minute; beyond ROWS_BYTES the oldest goes first. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/list.h"
#include "common/data/log.h"
#include "common/store/cache_driver.h"
#include "common/store/db.h"

enum { QUEUE_BYTES = 16 << 20, SWEEP_US = 60 * 1000000, OLDEST = 1000 };
#define FILE_BYTES (INT64_C(1) << 30)

enum { GET, PUT, SWEEP, BYTES, TRIM };
static const char *const statements[] = {
	[GET] = "SELECT value FROM answers WHERE key = ?1 AND expires_us > ?2",
	[PUT] = "INSERT INTO answers (key, stored_us, expires_us, size_bytes, value) VALUES (?1, ?2, ?3, ?4, ?5) "
		"ON CONFLICT (key) DO UPDATE SET stored_us = excluded.stored_us, expires_us = excluded.expires_us, size_bytes = excluded.size_bytes, value = excluded.value",
	[SWEEP] = "DELETE FROM answers WHERE expires_us <= ?1",
	[BYTES] = "SELECT COALESCE(SUM(size_bytes), 0) FROM answers",
	[TRIM] = "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY stored_us LIMIT ?1)",
};
static const struct db_migration migrations[] = {
	{ 1, "CREATE TABLE answers (key BLOB NOT NULL PRIMARY KEY, stored_us BIGINT NOT NULL, expires_us BIGINT NOT NULL, size_bytes BIGINT NOT NULL, value BLOB NOT NULL);"
	     "CREATE INDEX answers_by_expiry ON answers (expires_us);"
	     "CREATE INDEX answers_by_age ON answers (stored_us);" },
	{ 0 },
};

/* The thread's. */
struct store {
	struct db *db;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list jobs;             /* under the lock, as 'queued' and 'ends' */
	size_t queued;                /* bytes of values that wait */
	bool ends;
	_Atomic uint64_t *events;
	int64_t swept_us;
};

struct cache_far {
	struct store *store;
	struct loop *loop;
	pthread_mutex_t lock;
	struct list answers;          /* of this seat, under the lock */
	struct list asked;            /* jobs of this seat that the thread has; the loop's alone */
};

struct job {
	struct list node;             /* in the thread's queue, then among the seat's answers */
	struct list mine;             /* in the seat's list of what was asked */
	struct cache_far *seat;       /* NULL: a value to store */
	struct cache_pending *pending;
	uint8_t key[CACHE_KEY_BYTES];
	int64_t expires_us;
	bool found;
	struct buf bytes;
};

static void job_free(struct job *j)
{
	buf_free(&j->bytes);
	free(j);
}

/* --- the thread --- */

static bool take_value(void *arg, const struct db_row *row)
{
	struct job *j = arg;

	j->found = true;
	buf_str(&j->bytes, db_str(row, 0));
	return false;
}

static bool take_number(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return false;
}

static void failed(struct store *s, const struct why *why)
{
	cache_note(s->events, CACHE_BROKEN);
	LOG_DEBUG("the cache's file", LOG_S("error", why->text));
}

static void put_row(struct store *s, const struct job *j)
{
	struct db_value row[] = { DB_B(str_n((const char *)j->key, CACHE_KEY_BYTES)), DB_I(wall_us()), DB_I(j->expires_us), DB_I(j->bytes.n),
				  DB_B(buf_as_str(&j->bytes)) };
	struct why why;

	if (!db_run(s->db, PUT, row, 5, NULL, NULL, NULL, &why))
		failed(s, &why);
}

static void get_row(struct store *s, struct job *j)
{
	struct db_value key[] = { DB_B(str_n((const char *)j->key, CACHE_KEY_BYTES)), DB_I(wall_us()) };
	struct why why;

	if (!db_run(s->db, GET, key, 2, take_value, j, NULL, &why))
		failed(s, &why);
}

static void sweep(struct store *s)
{
	struct db_value now = DB_I(wall_us()), oldest = DB_I(OLDEST);
	int64_t bytes = 0;
	struct why why;

	if (mono_us() - s->swept_us < SWEEP_US)
		return;
	s->swept_us = mono_us();
	if (!db_run(s->db, SWEEP, &now, 1, NULL, NULL, NULL, &why) || !db_run(s->db, BYTES, NULL, 0, take_number, &bytes, NULL, &why)) {
		failed(s, &why);
		return;
	}
	while (bytes > FILE_BYTES)
		if (!db_run(s->db, TRIM, &oldest, 1, NULL, NULL, NULL, &why) || !db_run(s->db, BYTES, NULL, 0, take_number, &bytes, NULL, &why))
			return;
}

static void deliver(void *arg)
{
	struct cache_far *f = arg;
	struct job *j;

	for (;;) {
		pthread_mutex_lock(&f->lock);
		j = list_empty(&f->answers) ? NULL : list_entry(f->answers.next, struct job, node);
		if (j)
			list_del(&j->node);
		pthread_mutex_unlock(&f->lock);
		if (!j)
			return;
		list_del(&j->mine);
		cache_answer(j->pending, j->found, buf_as_str(&j->bytes));
		job_free(j);
	}
}

static void hand_back(struct job *j)
{
	struct cache_far *f = j->seat;
	struct loop *loop = f->loop;

	pthread_mutex_lock(&f->lock);
	list_push(&f->answers, &j->node);
	loop_post(loop, deliver, f);      /* under the lock: close() takes it before the seat goes */
	pthread_mutex_unlock(&f->lock);
}

static struct job *next_job(struct store *s)
{
	struct timespec until;
	struct job *j = NULL;

	pthread_mutex_lock(&s->lock);
	if (list_empty(&s->jobs) && !s->ends) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 5;
		pthread_cond_timedwait(&s->work, &s->lock, &until);
	}
	if (!list_empty(&s->jobs)) {
		j = list_entry(s->jobs.next, struct job, node);
		list_del(&j->node);
		s->queued -= j->bytes.n;
	}
	pthread_mutex_unlock(&s->lock);
	return j;
}

static bool is_over(struct store *s)
{
	bool over;

	pthread_mutex_lock(&s->lock);
	over = s->ends && list_empty(&s->jobs);
	pthread_mutex_unlock(&s->lock);
	return over;
}

static void *thread_main(void *arg)
{
	struct store *s = arg;

	while (!is_over(s)) {
		struct job *j = next_job(s);

		if (j && j->seat) {
			get_row(s, j);
			hand_back(j);
		} else if (j) {
			put_row(s, j);
			job_free(j);
		}
		sweep(s);
	}
	return NULL;
}

static bool give(struct store *s, struct job *j)
{
	bool room;

	pthread_mutex_lock(&s->lock);
	room = s->queued + j->bytes.n <= QUEUE_BYTES;
	if (room) {
		s->queued += j->bytes.n;
		list_push(&s->jobs, &j->node);
		pthread_cond_signal(&s->work);
	}
	pthread_mutex_unlock(&s->lock);
	return room;
}

/* --- the driver --- */

static bool check(const char *url, struct why *why)
{
	if (strlen(url) > strlen("sqlite:"))
		return true;
	err_set(why, ERR_INVALID, "the cache's URL names no file: write sqlite:PATH");
	return false;
}

static bool start(const char *url, _Atomic uint64_t *events, void **ret_shared, struct why *why)
{
	struct store *s = x_calloc(1, sizeof(*s));

	s->db = db_open(url, statements, sizeof(statements) / sizeof(*statements), migrations, why);
	if (!s->db) {
		free(s);
		return false;
	}
	s->events = events;
	list_init(&s->jobs);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	if (pthread_create(&s->thread, NULL, thread_main, s) != 0) {
		db_close(s->db);
		free(s);
		err_set(why, ERR_INTERNAL, "cannot start the thread of the cache's file");
		return false;
	}
	*ret_shared = s;
	return true;
}

static void stop(void *shared)
{
	struct store *s = shared;

	pthread_mutex_lock(&s->lock);
	s->ends = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	db_close(s->db);
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static struct cache_far *open_seat(const char *url, void *shared, struct loop *loop, _Atomic uint64_t *events)
{
	struct cache_far *f = x_calloc(1, sizeof(*f));

	f->store = shared;
	f->loop = loop;
	list_init(&f->answers);
	list_init(&f->asked);
	pthread_mutex_init(&f->lock, NULL);
	return f;
}

static bool get(struct cache_far *f, const uint8_t key[CACHE_KEY_BYTES], struct cache_pending *p)
{
	struct job *j = x_calloc(1, sizeof(*j));

	memcpy(j->key, key, CACHE_KEY_BYTES);
	j->seat = f;
	j->pending = p;
	list_push(&f->asked, &j->mine);
	(void)give(f->store, j);          /* a question has no bytes: there is room */
	return true;
}

static void put(struct cache_far *f, const uint8_t key[CACHE_KEY_BYTES], int64_t ttl_ms, struct str bytes)
{
	struct job *j = x_calloc(1, sizeof(*j));

	memcpy(j->key, key, CACHE_KEY_BYTES);
	j->expires_us = wall_us() + ttl_ms * 1000;
	buf_str(&j->bytes, bytes);
	if (give(f->store, j))
		return;
	cache_note(f->store->events, CACHE_DROPPED);
	job_free(j);
}

static void late(struct cache_far *f) { (void)f; }
static bool is_ready(const struct cache_far *f) { return true; }

/* The questions that the thread has not begun are taken back from it; the one in its hands is waited for. */
static void close_seat(struct cache_far *f)
{
	struct store *s = f->store;

	pthread_mutex_lock(&s->lock);
	list_each_safe(it, &s->jobs) {
		struct job *j = list_entry(it, struct job, node);

		if (j->seat != f)
			continue;
		list_del(&j->node);
		pthread_mutex_lock(&f->lock);
		list_push(&f->answers, &j->node);
		pthread_mutex_unlock(&f->lock);
	}
	pthread_mutex_unlock(&s->lock);
	while (!list_empty(&f->asked)) {
		deliver(f);
		if (!list_empty(&f->asked))
			sched_yield();
	}
	pthread_mutex_lock(&f->lock);     /* the thread may still be between its push and its unlock */
	pthread_mutex_unlock(&f->lock);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

const struct cache_driver cache_sqlite = { "sqlite", check, start, stop, open_seat, get, put, late, is_ready, close_seat };

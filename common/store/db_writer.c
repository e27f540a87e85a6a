/* db_writer.c - see db_writer.h. */
#include "common/store/db_writer.h"

#include <pthread.h>

#include "common/base/clock.h"
#include "common/base/str.h"
#include "common/data/log.h"
#include "common/store/db.h"

enum { RENEW_MS = DB_WRITER_LEASE_MS / 3 };

enum { W_TAKE, W_WHO, W_RENEW, W_GIVE, STATEMENTS };

#define NOW "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"

/* The epoch is unique, so that changing it waits for those who hold the row by it, and renewing does not. */
static const char *const sql[STATEMENTS] = {
	[W_TAKE] = "INSERT INTO one_writer (one, who, epoch, until_us) VALUES (1, ?1, 1, " NOW " + ?2)"
		   " ON CONFLICT (one) DO UPDATE SET who = excluded.who, epoch = one_writer.epoch + 1, until_us = excluded.until_us"
		   " WHERE one_writer.until_us < " NOW " OR one_writer.who = ?3 RETURNING epoch",
	[W_WHO] = "SELECT who FROM one_writer WHERE one = 1",
	[W_RENEW] = "UPDATE one_writer SET until_us = " NOW " + ?2 WHERE epoch = ?1",
	[W_GIVE] = "UPDATE one_writer SET until_us = 0 WHERE epoch = ?1",
};

struct db_writer {
	struct db_writer *next;       /* of those that were taken; under writers_lock */
	struct db *db;
	char *rest;                   /* of the URL, behind the scheme */
	char who[100], dead[100], other[100];
	int64_t epoch, taken;         /* 0 = not taken, or lost; what it was when it was taken */
	bool keeps, ending;           /* ending: under the lock */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	void (*on_lost)(void *arg, const struct why *);
	void *arg;
};

static pthread_mutex_t writers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct db_writer *writers;

bool db_writer_has(const char *url) { return str_starts(str_of(url), STR("postgresql:")) || str_starts(str_of(url), STR("postgres:")); }

struct db_writer *db_writer_open(const char *url, const char *who, const char *dead, struct why *why)
{
	struct db *db = db_open(url, sql, STATEMENTS, NULL, why);
	struct db_writer *w;
	pthread_condattr_t attr;

	if (!db)
		return NULL;
	w = x_calloc(1, sizeof(*w));
	w->db = db;
	w->rest = x_strdup(strchr(url, ':') + 1);
	(void)str_copy(w->who, sizeof(w->who), str_of(who));
	(void)str_copy(w->dead, sizeof(w->dead), str_of(dead ? dead : ""));
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
	return w;
}

int64_t db_writer_epoch(const struct db_writer *w) { return w->epoch; }

int64_t db_writer_epoch_of(const char *rest)
{
	int64_t epoch = 0;

	pthread_mutex_lock(&writers_lock);
	for (const struct db_writer *w = writers; w && !epoch; w = w->next)
		epoch = strcmp(w->rest, rest) == 0 ? w->taken : 0;
	pthread_mutex_unlock(&writers_lock);
	return epoch;
}

static void be_known(struct db_writer *w)
{
	pthread_mutex_lock(&writers_lock);
	w->taken = w->epoch;
	w->next = writers;
	writers = w;
	pthread_mutex_unlock(&writers_lock);
}

static void be_forgotten(struct db_writer *w)
{
	pthread_mutex_lock(&writers_lock);
	for (struct db_writer **at = &writers; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			break;
		}
	pthread_mutex_unlock(&writers_lock);
}

static bool keep_epoch(void *arg, const struct db_row *row)
{
	((struct db_writer *)arg)->epoch = db_int(row, 0);
	return true;
}

static bool keep_who(void *arg, const struct db_row *row)
{
	struct db_writer *w = arg;

	(void)str_copy(w->other, sizeof(w->other), db_str(row, 0));
	return true;
}

enum db_writer_turn db_writer_try(struct db_writer *w, const char **ret_who, struct why *why)
{
	struct db_value take[] = { DB_Z(w->who), DB_I((int64_t)DB_WRITER_LEASE_MS * 1000), DB_Z(w->dead) };

	w->other[0] = '\0';
	if (!db_run(w->db, W_TAKE, take, 3, keep_epoch, w, NULL, why) || (!w->epoch && !db_run(w->db, W_WHO, NULL, 0, keep_who, w, NULL, why)))
		return DB_WRITER_UNKNOWN;
	*ret_who = w->other;
	if (w->epoch)
		be_known(w);
	return w->epoch ? DB_WRITER_MINE : DB_WRITER_ANOTHERS;
}

/* --- keeping it --- */

/* false: told to end. */
static bool pause_between(struct db_writer *w)
{
	struct timespec until;
	bool go_on;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += RENEW_MS / 1000;
	pthread_mutex_lock(&w->lock);
	while (!w->ending && pthread_cond_timedwait(&w->wake, &w->lock, &until) == 0)
		;
	go_on = !w->ending;
	pthread_mutex_unlock(&w->lock);
	return go_on;
}

/* Not renewed in time, and taken by nobody, is renewed all the same: the epoch is still this one's. */
static void *keep(void *arg)
{
	struct db_writer *w = arg;
	struct db_value p[] = { DB_I(w->epoch), DB_I((int64_t)DB_WRITER_LEASE_MS * 1000) };
	const char *other;
	struct why why;
	bool reached = true;

	while (pause_between(w)) {
		int64_t changed = 0;
		bool ok = db_run(w->db, W_RENEW, p, 2, NULL, NULL, &changed, &why);

		if (ok != reached)
			LOG_AT(ok ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, ok ? "the writer's lease is renewed again" : "the writer's lease cannot be renewed",
			       LOG_S("why", ok ? "" : why.text));
		reached = ok;
		if (!ok || changed)
			continue;
		w->epoch = 0;
		(void)db_run(w->db, W_WHO, NULL, 0, keep_who, w, NULL, NULL);
		other = w->other[0] ? w->other : "another process";
		err_set(&why, ERR_CONFLICT, "%s has become the writer of this service's database; this process ends, and may be started again as standby", other);
		w->on_lost(w->arg, &why);
		break;
	}
	return NULL;
}

void db_writer_keep(struct db_writer *w, void (*on_lost)(void *arg, const struct why *), void *arg)
{
	w->on_lost = on_lost;
	w->arg = arg;
	if (pthread_create(&w->thread, NULL, keep, w) != 0)
		abort();
	pthread_setname_np(w->thread, "writer");
	w->keeps = true;
}

void db_writer_free(struct db_writer *w)
{
	struct db_value p[1];

	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	if (w->keeps)
		pthread_join(w->thread, NULL);
	p[0] = DB_I(w->epoch);
	if (w->epoch)
		(void)db_run(w->db, W_GIVE, p, 1, NULL, NULL, NULL, NULL);
	be_forgotten(w);
	db_close(w->db);
	free(w->rest);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

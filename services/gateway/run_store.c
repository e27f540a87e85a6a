/* run_store.c - see run_store.h. */
#include "services/gateway/run_store.h"

#include <stdlib.h>

#include "common/base/buf.h"
#include "common/store/db.h"

enum { SILENT_US = 15 * 1000000 };

enum { S_ADD, S_GET, S_BODY, S_WAITING, S_WAITING_BYTES, S_TENANTS, S_CLAIM, S_PIECE, S_SAID, S_FINISH, S_REQUEUE, S_CANCEL, S_PIECES, S_DELIVERED, S_COUNT, S_ALIVE,
       S_TAKE_BACK, S_GIVE_UP, S_LATE, S_FORGET, S_OLDEST, S_DROP, S_CANCELLED, STATEMENTS };

#define COLUMNS "id, tenant, state, created_us, started_us, ended_us, expires_us, execution_ms, tries, chunks, delivered, error_code, error, request_id"
#define SILENT_OWNER "state = 1 AND (owner = ?2 OR owner NOT IN (SELECT owner FROM run_owners WHERE seen_us > ?3))"

static const char *const sql[STATEMENTS] = {
	[S_ADD] = "INSERT INTO runs (id, tenant, key_id, role, path, state, created_us, expires_us, execution_ms, bytes, body)"
		  " VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10)",
	[S_GET] = "SELECT " COLUMNS ", output FROM runs WHERE id = ?1",
	[S_BODY] = "SELECT " COLUMNS ", output, key_id, role, path, body FROM runs WHERE id = ?1",
	[S_WAITING] = "SELECT count(*) FROM runs WHERE state = 0 AND tenant = ?1",
	[S_WAITING_BYTES] = "SELECT coalesce(sum(CASE WHEN tenant = ?1 THEN bytes ELSE 0 END), 0), coalesce(sum(bytes), 0) FROM runs WHERE state = 0",
	[S_TENANTS] = "SELECT tenant, min(id) FROM runs WHERE state = 0 AND not_before_us <= ?1 AND expires_us > ?1 GROUP BY tenant",
	[S_CLAIM] = "UPDATE runs SET state = 1, owner = ?2, started_us = ?3, tries = tries + 1 WHERE id = ?1 AND state = 0",
	[S_PIECE] = "INSERT INTO run_pieces (run_id, first, n, data) SELECT id, chunks, ?2, ?3 FROM runs WHERE id = ?1 AND state = 1 AND owner = ?4",
	[S_SAID] = "UPDATE runs SET chunks = chunks + ?2, bytes = bytes + ?3 WHERE id = ?1 AND state = 1 AND owner = ?4",
	[S_FINISH] = "UPDATE runs SET state = ?3, ended_us = ?4, error_code = ?5, error = ?6, request_id = ?7, output = ?8,"
		     " bytes = bytes - length(body) + length(?8), body = '' WHERE id = ?1 AND state = 1 AND owner = ?2",
	[S_REQUEUE] = "UPDATE runs SET state = 0, owner = '', not_before_us = ?3, tries = tries - 1, error = ?4 WHERE id = ?1 AND state = 1 AND owner = ?2",
	[S_CANCEL] = "UPDATE runs SET state = 4, ended_us = ?2, error_code = '', error = '', bytes = bytes - length(body), body = ''"
		     " WHERE id = ?1 AND state IN (0, 1)",
	[S_PIECES] = "SELECT first, n, data FROM run_pieces WHERE run_id = ?1 AND first + n > ?2 ORDER BY first",
	[S_DELIVERED] = "UPDATE runs SET delivered = ?2 WHERE id = ?1",
	[S_COUNT] = "SELECT coalesce(sum(CASE WHEN state = 0 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN state = 1 THEN 1 ELSE 0 END), 0),"
		    " coalesce(sum(CASE WHEN state > 1 THEN 1 ELSE 0 END), 0), coalesce(sum(bytes), 0),"
		    " coalesce(sum(CASE WHEN state = 0 THEN bytes ELSE 0 END), 0) FROM runs",
	[S_ALIVE] = "INSERT INTO run_owners (owner, seen_us) VALUES (?1, ?2) ON CONFLICT (owner) DO UPDATE SET seen_us = ?2",
	[S_TAKE_BACK] = "UPDATE runs SET state = 0, owner = '' WHERE chunks = 0 AND tries < ?1 AND " SILENT_OWNER,
	[S_GIVE_UP] = "UPDATE runs SET state = 3, ended_us = ?1, error_code = 'INTERRUPTED', error = CASE WHEN chunks > 0"
		      " THEN 'the gateway that ran this job ended before the answer was complete; what had come of it is kept'"
		      " ELSE 'the gateway ended each time that it ran this job' END, bytes = bytes - length(body), body = '' WHERE " SILENT_OWNER,
	[S_LATE] = "UPDATE runs SET state = 5, ended_us = ?1, error_code = 'DEADLINE', error = 'the job was not begun within its time to live'"
		   " || CASE WHEN error <> '' THEN ': ' || error ELSE '' END, bytes = bytes - length(body), body = '' WHERE state = 0 AND expires_us <= ?1",
	[S_FORGET] = "DELETE FROM runs WHERE ended_us > 0 AND ended_us <= ?1",
	[S_OLDEST] = "SELECT id, bytes FROM runs WHERE ended_us > 0 ORDER BY ended_us LIMIT 1",
	[S_DROP] = "DELETE FROM runs WHERE id = ?1",
	[S_CANCELLED] = "SELECT id FROM runs WHERE state = 4 AND owner = ?1 AND ended_us >= ?2",
};

const struct db_migration run_migrations[] = {
	{ 1, "CREATE TABLE runs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key_id TEXT NOT NULL, role BIGINT NOT NULL,"
	     " path TEXT NOT NULL, state BIGINT NOT NULL, owner TEXT NOT NULL DEFAULT '', created_us BIGINT NOT NULL, not_before_us BIGINT NOT NULL DEFAULT 0,"
	     " started_us BIGINT NOT NULL DEFAULT 0, ended_us BIGINT NOT NULL DEFAULT 0, expires_us BIGINT NOT NULL, execution_ms BIGINT NOT NULL,"
	     " tries BIGINT NOT NULL DEFAULT 0, chunks BIGINT NOT NULL DEFAULT 0, delivered BIGINT NOT NULL DEFAULT 0, bytes BIGINT NOT NULL,"
	     " error_code TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '', request_id TEXT NOT NULL DEFAULT '', body BLOB NOT NULL,"
	     " output BLOB NOT NULL DEFAULT '');"
	     "CREATE INDEX runs_by_state ON runs (state, tenant, id, not_before_us);"
	     "CREATE INDEX runs_by_end ON runs (ended_us);"
	     "CREATE TABLE run_pieces (run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, first BIGINT NOT NULL, n BIGINT NOT NULL,"
	     " data BLOB NOT NULL, PRIMARY KEY (run_id, first));"
	     "CREATE TABLE run_owners (owner TEXT PRIMARY KEY, seen_us BIGINT NOT NULL);" },
	{ 0 }
};

struct run_store { struct db *db; char owner[40]; };

const char *run_state_name(enum run_state s)
{
	static const char *const names[] = { "IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT" };

	return (unsigned)s < sizeof(names) / sizeof(*names) ? names[s] : "FAILED";
}

/* --- open --- */

static bool take_back(struct run_store *s, const char *owner, int64_t now_us, struct why *why)
{
	struct db_value p[] = { DB_I(RUN_TRIES), DB_Z(owner), DB_I(now_us - SILENT_US) };

	if (!db_run(s->db, S_TAKE_BACK, p, 3, NULL, NULL, NULL, why))
		return false;
	p[0] = DB_I(now_us);
	return db_run(s->db, S_GIVE_UP, p, 3, NULL, NULL, NULL, why);
}

static bool seen(struct run_store *s, int64_t now_us, struct why *why)
{
	return db_run(s->db, S_ALIVE, (struct db_value[]){ DB_Z(s->owner), DB_I(now_us) }, 2, NULL, NULL, NULL, why);
}

bool run_alive(struct run_store *s, int64_t now_us, struct why *why) { return seen(s, now_us, why) && take_back(s, "", now_us, why); }

struct run_store *run_store_open(const char *url, const char *owner, int64_t now_us, struct why *why)
{
	struct run_store *s = x_calloc(1, sizeof(*s));

	(void)str_copy(s->owner, sizeof(s->owner), str_of(owner));
	s->db = db_open(url, sql, STATEMENTS, run_migrations, why);
	if (s->db && seen(s, now_us, why) && take_back(s, s->owner, now_us, why)) {
		db_patience(s->db, DB_SOON_MS);       /* the control thread has leases to renew, and asks to end */
		return s;
	}
	run_store_close(s);
	return NULL;
}

void run_store_close(struct run_store *s)
{
	if (!s)
		return;
	db_close(s->db);
	free(s);
}

/* --- rows --- */

bool run_add(struct run_store *s, const struct run *r, struct why *why)
{
	const struct db_value p[] = {
		DB_Z(r->id), DB_Z(r->tenant), DB_Z(r->key_id), DB_I(r->role), DB_Z(r->path), DB_I(r->created_us), DB_I(r->expires_us),
		DB_I(r->execution_ms), DB_I(r->body.n), DB_B(r->body),
	};

	return db_run(s->db, S_ADD, p, sizeof(p) / sizeof(*p), NULL, NULL, NULL, why);
}

struct reading { struct run *run; struct arena *mem; bool found, with_body; };

static const char *text(struct reading *g, const struct db_row *row, unsigned column)
{
	struct str s = db_str(row, column);

	return arena_dup(g->mem, s.p ? s.p : "", s.n);
}

static bool read_row(void *arg, const struct db_row *row)
{
	struct reading *g = arg;
	struct run *r = g->run;

	g->found = true;
	*r = (struct run){
		.id = text(g, row, 0), .tenant = text(g, row, 1), .state = (enum run_state)db_int(row, 2), .created_us = db_int(row, 3),
		.started_us = db_int(row, 4), .ended_us = db_int(row, 5), .expires_us = db_int(row, 6), .execution_ms = db_int(row, 7),
		.tries = (uint32_t)db_int(row, 8), .chunks = (uint32_t)db_int(row, 9), .delivered = (uint32_t)db_int(row, 10),
		.error_code = text(g, row, 11), .error = text(g, row, 12), .request_id = text(g, row, 13), .output = arena_str(g->mem, db_str(row, 14)),
	};
	if (g->with_body) {
		r->key_id = text(g, row, 15);
		r->role = db_int(row, 16);
		r->path = text(g, row, 17);
		r->body = arena_str(g->mem, db_str(row, 18));
	}
	return false;
}

bool run_get(struct run_store *s, struct str id, bool with_body, struct arena *mem, struct run *ret, struct why *why)
{
	struct reading g = { .run = ret, .mem = mem, .with_body = with_body };

	*why = (struct why){ 0 };
	return db_run(s->db, with_body ? S_BODY : S_GET, (struct db_value[]){ DB_S(id) }, 1, read_row, &g, NULL, why) && g.found;
}

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return false;
}

int64_t run_waiting(struct run_store *s, struct str tenant)
{
	int64_t n = 0;

	(void)db_run(s->db, S_WAITING, (struct db_value[]){ DB_S(tenant) }, 1, keep_int, &n, NULL, NULL);
	return n;
}

static bool keep_two(void *arg, const struct db_row *row)
{
	((int64_t *)arg)[0] = db_int(row, 0);
	((int64_t *)arg)[1] = db_int(row, 1);
	return false;
}

bool run_waiting_bytes(struct run_store *s, struct str tenant, int64_t *ret_tenants, int64_t *ret_all, struct why *why)
{
	int64_t n[2] = { 0 };
	bool ok = db_run(s->db, S_WAITING_BYTES, (struct db_value[]){ DB_S(tenant) }, 1, keep_two, n, NULL, why);

	*ret_tenants = n[0];
	*ret_all = n[1];
	return ok;
}

struct choice { unsigned (*weight)(void *arg, const char *tenant); void *arg; unsigned best; char tenant[256], id[40]; };

static bool consider(void *arg, const struct db_row *row)
{
	struct choice *c = arg;
	char tenant[256], id[40];
	unsigned w;

	(void)str_copy(tenant, sizeof(tenant), db_str(row, 0));
	(void)str_copy(id, sizeof(id), db_str(row, 1));
	w = c->weight(c->arg, tenant);
	if (w == RUN_NOT_NOW)
		return true;
	if (c->id[0] && (w > c->best || (w == c->best && strcmp(id, c->id) > 0)))
		return true;
	c->best = w;
	memcpy(c->id, id, sizeof(id));
	return true;
}

bool run_claim(struct run_store *s, int64_t now_us, unsigned (*weight)(void *arg, const char *tenant), void *arg, struct arena *mem, struct run *ret, struct why *why)
{
	struct choice c = { .weight = weight, .arg = arg };
	int64_t changed = 0;

	*why = (struct why){ 0 };
	if (!db_run(s->db, S_TENANTS, (struct db_value[]){ DB_I(now_us) }, 1, consider, &c, NULL, why) || !c.id[0] || !db_begin(s->db, why))
		return false;
	if (db_run(s->db, S_CLAIM, (struct db_value[]){ DB_Z(c.id), DB_Z(s->owner), DB_I(now_us) }, 3, NULL, NULL, &changed, why) && changed == 1 &&
	    run_get(s, str_of(c.id), true, mem, ret, why))
		return db_commit(s->db, why);
	db_rollback(s->db);                       /* one that is not given out waits on */
	return false;
}

bool run_say(struct run_store *s, const char *id, struct str pieces, uint32_t n, bool *ret_ours, struct why *why)
{
	struct db_value p[] = { DB_Z(id), DB_I(n), DB_B(pieces), DB_Z(s->owner) };
	int64_t changed = 0;

	if (!db_begin(s->db, why))
		return false;
	if (db_run(s->db, S_PIECE, p, 4, NULL, NULL, NULL, why)) {
		p[2] = DB_I(pieces.n);
		if (db_run(s->db, S_SAID, p, 4, NULL, NULL, &changed, why)) {
			if (ret_ours)
				*ret_ours = changed > 0;
			return db_commit(s->db, why);
		}
	}
	db_rollback(s->db);
	return false;
}

static bool change(struct run_store *s, unsigned statement, const struct db_value *p, unsigned n, bool *ret_changed, struct why *why)
{
	int64_t changed = 0;
	bool ok = db_run(s->db, statement, p, n, NULL, NULL, &changed, why);

	if (ok && ret_changed)
		*ret_changed = changed > 0;
	return ok;
}

bool run_finish(struct run_store *s, const struct run *r, bool *ret_ours, struct why *why)
{
	const struct db_value p[] = { DB_Z(r->id), DB_Z(s->owner), DB_I(r->state), DB_I(r->ended_us), DB_Z(r->error_code), DB_Z(r->error),
		DB_Z(r->request_id), DB_B(r->output) };

	return change(s, S_FINISH, p, sizeof(p) / sizeof(*p), ret_ours, why);
}

bool run_requeue(struct run_store *s, const char *id, int64_t not_before_us, const char *error, bool *ret_ours, struct why *why)
{
	return change(s, S_REQUEUE, (struct db_value[]){ DB_Z(id), DB_Z(s->owner), DB_I(not_before_us), DB_Z(error) }, 4, ret_ours, why);
}

bool run_cancel(struct run_store *s, const char *id, int64_t now_us, bool *ret_changed, struct why *why)
{
	return change(s, S_CANCEL, (struct db_value[]){ DB_Z(id), DB_I(now_us) }, 2, ret_changed, why);
}

/* --- pieces --- */

struct gathering { struct buf text; uint32_t skip_below, n; size_t most; };

/* A row may begin before what is asked for: then its first pieces were handed out already. */
static bool gather(void *arg, const struct db_row *row)
{
	struct gathering *g = arg;
	uint32_t at = (uint32_t)db_int(row, 0);
	struct str rest = db_str(row, 2), piece;

	while (rest.n && str_split(&rest, '\n', &piece)) {
		if (at++ < g->skip_below)
			continue;
		if (g->n && g->text.n + piece.n > g->most)
			return false;
		buf_str(&g->text, piece);
		buf_char(&g->text, '\n');
		g->n++;
	}
	return true;
}

bool run_pieces(struct run_store *s, const char *id, uint32_t from, size_t most, struct arena *mem, struct str *ret, uint32_t *ret_n, struct why *why)
{
	struct gathering g = { .skip_below = from, .most = most };
	bool ok = db_run(s->db, S_PIECES, (struct db_value[]){ DB_Z(id), DB_I(from) }, 2, gather, &g, NULL, why);

	*ret = arena_str(mem, buf_as_str(&g.text));
	*ret_n = g.n;
	buf_free(&g.text);
	return ok;
}

bool run_delivered(struct run_store *s, const char *id, uint32_t delivered, struct why *why)
{
	return db_run(s->db, S_DELIVERED, (struct db_value[]){ DB_Z(id), DB_I(delivered) }, 2, NULL, NULL, NULL, why);
}

/* --- time and room --- */

static bool keep_counts(void *arg, const struct db_row *row)
{
	*(struct run_counts *)arg = (struct run_counts){ db_int(row, 0), db_int(row, 1), db_int(row, 2), db_int(row, 3), db_int(row, 4) };
	return false;
}

bool run_count(struct run_store *s, struct run_counts *ret, struct why *why) { return db_run(s->db, S_COUNT, NULL, 0, keep_counts, ret, NULL, why); }

bool run_expire(struct run_store *s, int64_t now_us, int64_t keep_us, struct why *why)
{
	return db_run(s->db, S_LATE, (struct db_value[]){ DB_I(now_us) }, 1, NULL, NULL, NULL, why) &&
	       db_run(s->db, S_FORGET, (struct db_value[]){ DB_I(now_us - keep_us) }, 1, NULL, NULL, NULL, why);
}

struct oldest { char id[40]; int64_t bytes; };

static bool keep_oldest(void *arg, const struct db_row *row)
{
	struct oldest *o = arg;

	(void)str_copy(o->id, sizeof(o->id), db_str(row, 0));
	o->bytes = db_int(row, 1);
	return false;
}

int64_t run_forget_oldest(struct run_store *s, struct why *why)
{
	struct oldest o = { 0 };

	if (!db_run(s->db, S_OLDEST, NULL, 0, keep_oldest, &o, NULL, why) || !o.id[0] ||
	    !db_run(s->db, S_DROP, (struct db_value[]){ DB_Z(o.id) }, 1, NULL, NULL, NULL, why))
		return 0;
	return o.bytes ? o.bytes : 1;
}

struct telling { void (*fn)(void *arg, const char *id); void *arg; };

static bool tell(void *arg, const struct db_row *row)
{
	struct telling *t = arg;
	char id[40];

	(void)str_copy(id, sizeof(id), db_str(row, 0));
	t->fn(t->arg, id);
	return true;
}

bool run_cancelled(struct run_store *s, int64_t since_us, void (*fn)(void *arg, const char *id), void *arg, struct why *why)
{
	struct telling t = { fn, arg };

	return db_run(s->db, S_CANCELLED, (struct db_value[]){ DB_Z(s->owner), DB_I(since_us) }, 2, tell, &t, NULL, why);
}

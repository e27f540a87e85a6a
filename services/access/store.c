/* store.c - see store.h. */
#include "services/access/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/access/audit.h"
#include "services/access/keys.h"
#include "services/access/tenants.h"

enum { LONGEST_DETAIL = 128 << 10 };      /* with the other texts it fits the spool of audit.v1 */

struct access_store {
	struct db *db;
	int lock_fd;                  /* -1 = not held */
};

static struct access_store *open_at(const char *url, int lock_fd, struct why *why)
{
	struct access_store *s = x_calloc(1, sizeof(*s));

	s->lock_fd = lock_fd;
	s->db = db_open(url, access_sql, A_STATEMENTS, access_migrations, why);
	if (s->db)
		return s;
	access_store_close(s);
	return NULL;
}

static int held_by(int fd, const char *path, struct why *why)
{
	char pid[24] = "";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

	if (n > 0)
		pid[strcspn(pid, "\n")] = '\0';
	err_set(why, ERR_CONFLICT, "the store %s is in use by another process%s%s", path, pid[0] ? ", pid " : "", pid);
	close(fd);
	return -1;
}

/* A lock of its own: SQLite's lets two processes write in turn, and the other would not tell its gateways of our change. */
static int lock_take(const char *path, struct why *why)
{
	char name[4300], pid[24];
	int fd, n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

	snprintf(name, sizeof(name), "%s.lock", path);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", name, strerror(errno));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		return held_by(fd, path, why);
	if (ftruncate(fd, 0) == 0)
		(void)!pwrite(fd, pid, (size_t)n, 0);         /* for people; the lock is what counts */
	return fd;
}

static bool seed(struct access_store *s, struct why *why)
{
	struct arena *mem = arena_new(0);
	bool ok = tenant_seed(s, mem, wall_us(), why);

	arena_free(mem);
	return ok;
}

struct access_store *access_store_open(const char *url, struct why *why)
{
	struct access_store *s;
	char path[4200];
	int fd = -1;

	if (str_starts(str_of(url), STR("sqlite:"))) {
		snprintf(path, sizeof(path), "%s", url + 7);
		path[strcspn(path, "?")] = '\0';
		fd = lock_take(path, why);
		if (fd < 0)
			return NULL;
	}
	s = open_at(url, fd, why);
	if (s && !seed(s, why)) {
		access_store_close(s);
		return NULL;
	}
	return s;
}

struct access_store *access_store_peek(const char *url, struct why *why) { return open_at(url, -1, why); }

void access_store_close(struct access_store *s)
{
	if (!s)
		return;
	db_close(s->db);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	free(s);
}

struct db *access_db(struct access_store *s) { return s->db; }

bool access_run(struct access_store *s, enum access_statement which, const struct db_value *params, unsigned n,
		bool (*on_row)(void *, const struct db_row *), void *arg, struct why *why)
{
	return db_run(s->db, which, params, n, on_row, arg, NULL, why);
}

/* --- messages --- */

static void *in_arena(void *arena, size_t n) { return arena_alloc(arena, n); }
static void not_freed(void *arena, void *p) { }

void *access_unpack(struct arena *mem, const ProtobufCMessageDescriptor *d, struct str body)
{
	ProtobufCAllocator a = { in_arena, not_freed, mem };

	return protobuf_c_message_unpack(d, &a, body.n, (const uint8_t *)body.p);
}

struct str access_pack(struct arena *mem, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	char *p = arena_alloc(mem, n + 1);

	protobuf_c_message_pack(m, (uint8_t *)p);
	return str_n(p, n);
}

/* --- acts --- */

/* Without a key the gateway says who it is (loopback, or a network that needs none), and can narrow it. */
static void subject_without_key(struct act *a)
{
	Corral__Key *narrow = arena_alloc(a->mem, sizeof(*narrow));
	const Corral__Caller *c = a->caller;

	corral__key__init(narrow);
	narrow->n_actions = c->n_actions;
	narrow->actions = c->actions;
	narrow->n_models = c->n_models;
	narrow->models = c->models;
	a->subject = (struct subject){ .role = c->role, .tenant = str_of(c->tenant), .key = narrow };
}

static enum err subject_of_key(struct act *a, struct why *why)
{
	struct key_row row;
	Corral__Tenant *home;
	enum err e = key_get(a->store, a->mem, str_of(a->caller->key_id), &row, why);

	if (e == ERR_NOT_FOUND || (e == ERR_OK && !key_is_live(&row, a->now_us)))
		return err_set(why, ERR_UNAUTHENTICATED, "the key %s that asks for this has ended", a->caller->key_id);
	if (e)
		return e;
	e = tenant_get(a->store, a->mem, str_of(row.key->tenant), &home, why);
	if (e && e != ERR_NOT_FOUND)
		return e;
	a->subject = (struct subject){ .role = row.key->role, .key_id = str_of(row.key->id), .tenant = str_of(row.key->tenant),
				       .team = str_of(row.key->team), .user = str_of(row.key->user), .key = row.key, .home = e ? NULL : home };
	if (!e && home->suspended)        /* the entry says who it was */
		return err_set(why, ERR_FORBIDDEN, "the tenant '%s' is suspended", home->name);
	return ERR_OK;
}

enum err act_begin(struct act *a, struct why *why)
{
	static const Corral__Caller nobody = CORRAL__CALLER__INIT;

	corral__access_delta__init(&a->delta);
	if (!a->caller)
		a->caller = &nobody;
	subject_without_key(a);
	if (!db_begin(a->store->db, why))
		return why->code;
	if (a->caller->key_id[0])
		return subject_of_key(a, why);
	return ERR_OK;
}

enum err act_allowed(struct act *a, struct str object_tenant, struct why *why)
{
	return authorise(&a->subject, str_of(a->action), a->object, object_tenant, why);
}

static const char *actor_of(const struct act *a)
{
	if (a->caller->key_id[0])
		return a->caller->key_id;
	if (a->by_system)
		return "system";
	return a->caller->role == CORRAL__ROLE__ROLE_NONE ? "anonymous" : "loopback";
}

/* The detail of an act that was not done is why. */
static struct str detail_of(const struct act *a, enum err e, const struct why *why)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str detail;

	if (e == ERR_OK)
		return a->detail;
	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "error_code", err_name(e));
	jw_kv_strz(&jo, "error", why->text);
	json_done(&jo);
	detail = arena_str(a->mem, buf_as_str(&b));
	buf_free(&b);
	return detail;
}

/* What a caller has sent is written down before anything was found out about it, its length as little as the rest. Not in the middle of a character. */
static char *cut(struct arena *mem, struct str s)
{
	size_t n = s.n < AUDIT_LONGEST_TEXT ? s.n : AUDIT_LONGEST_TEXT;

	while (n && n < s.n && ((unsigned char)s.p[n] & 0xc0) == 0x80)
		n--;
	return (char *)arena_str(mem, str_n(s.p, n)).p;
}

/* An object as JSON: cut, it would be none. */
static char *whole(struct arena *mem, struct str detail)
{
	if (detail.n > LONGEST_DETAIL)
		return arena_printf(mem, "{\"left_out_bytes\":%zu}", detail.n);
	return (char *)arena_str(mem, detail).p;
}

static bool write_down(struct act *a, enum err e, const struct why *of, struct why *why)
{
	Corral__AuditEntry entry = CORRAL__AUDIT_ENTRY__INIT;

	entry.at_us = a->now_us;
	entry.actor = (char *)actor_of(a);
	entry.role = (char *)role_name(a->subject.role);
	entry.tenant = cut(a->mem, a->subject.tenant);
	entry.address = cut(a->mem, str_of(a->caller->address));
	entry.action = (char *)a->action;
	entry.object = cut(a->mem, db_text(a->mem, a->object));       /* its hash is of what is kept */
	entry.outcome = (char *)(e == ERR_OK ? "ok" : e == ERR_FORBIDDEN || e == ERR_NOT_FOUND || e == ERR_UNAUTHENTICATED ? "refused" : "failed");
	entry.detail = whole(a->mem, db_text(a->mem, detail_of(a, e, of)));
	entry.request_id = cut(a->mem, str_of(a->caller->request_id));
	return audit_append(a->store, &entry, why);
}

/* A failure of the store itself cannot be written there. */
static bool can_be_written(enum err e) { return e != ERR_STORE_FAILED && e != ERR_INTERNAL; }

enum err act_end(struct act *a, enum err e, struct why *why)
{
	struct why second = { 0 };

	if (e == ERR_OK) {
		if (write_down(a, e, why, why)) {
			a->unsure = !db_commit(a->store->db, why);
			if (!a->unsure)
				return ERR_OK;
		}
		e = why->code;
		db_rollback(a->store->db);
		return e;
	}
	db_rollback(a->store->db);
	if (!can_be_written(e) || !db_begin(a->store->db, &second))
		return e;
	if (!write_down(a, e, why, &second) || !db_commit(a->store->db, &second))
		db_rollback(a->store->db);
	return e;
}

enum err act_read(struct act *a, struct why *why)
{
	enum err e = act_begin(a, why);

	if (e)
		return act_end(a, e, why);
	db_rollback(a->store->db);
	return ERR_OK;
}

/* restore.c - see backup.h: the way back. Everything is unpacked and checked beside the state before anything of it is touched. */
#include "services/corral/backup_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json.h"
#include "common/data/secret.h"
#include "common/store/db.h"
#include "services/corral/tar.h"

enum { MANIFEST_MAX = 64 << 20 };

struct unpacked {
	struct list link;
	char name[TAR_NAME];
	uint64_t size;
	char hex[65];
	bool listed;
};

struct restore {
	const struct svc_settings *settings;
	struct parts *parts;
	struct arena *mem;
	int tar;
	char staging[1100];           /* state/…, databases/…, config.yaml as they are in the archive */
	struct buf manifest;
	struct list files;
	struct list swaps;            /* struct swap */
	const struct stat *owner;     /* of the state that is there, when we are root and it is another's; NULL: files stay ours */
	struct restore_result *ret;
};

/* A database outside the state directory. */
struct swap {
	struct list link;
	const char *path, *new, *kept;        /* all in one directory, so that a rename is enough */
	bool placed;
};

/* --- unpacking --- */

/* Where that is not allowed the files stay root's; docs/ops/backup.md says so. */
static void give(const struct restore *r, const char *path)
{
	if (r->owner)
		(void)!lchown(path, r->owner->st_uid, r->owner->st_gid);
}

static bool make_parents(struct restore *r, const char *path, struct why *why)
{
	char *part = arena_dup(r->mem, path, strlen(path));

	for (char *p = part + strlen(r->staging) + 1; *p; p++)
		if (*p == '/') {
			*p = '\0';
			if (mkdir(part, 0700) != 0 && errno != EEXIST)
				return err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", part, strerror(errno)) == ERR_OK;
			give(r, part);
			*p = '/';
		}
	return true;
}

static void add_hash(void *arg, struct str piece) { sha256_add(arg, piece); }

static bool known_place(const char *name)
{
	struct str s = str_of(name);

	return str_starts(s, STR("state/")) || str_starts(s, STR("databases/")) || strcmp(name, "config.yaml") == 0;
}

static bool unpack_one(struct restore *r, const struct tar_entry *e, struct why *why)
{
	struct unpacked *u = arena_new_of(r->mem, struct unpacked);
	const char *path = arena_printf(r->mem, "%s/%s", r->staging, e->name);
	struct sha256_state *hash;
	uint8_t sum[SHA256_BYTES];
	bool ok;
	int fd;

	if (!known_place(e->name))
		return err_set(why, ERR_MALFORMED, "the archive holds '%s', which no backup has", e->name) == ERR_OK;
	if (!make_parents(r, path, why))
		return false;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", path, strerror(errno)) == ERR_OK;
	hash = sha256_begin();
	ok = tar_take(r->tar, e, fd, add_hash, hash, why);
	sha256_end(hash, sum);
	if (ok && fsync(fd) != 0)
		ok = err_set(why, ERR_STORE_FAILED, "%s cannot be written: %s", path, strerror(errno)) == ERR_OK;
	close(fd);
	give(r, path);
	memcpy(u->name, e->name, sizeof(u->name));
	u->size = e->size;
	parts_hex(sum, u->hex);
	list_push(&r->files, &u->link);
	return ok;
}

static void add_text(void *arg, struct str piece) { buf_str(arg, piece); }

static bool unpack(struct restore *r, struct why *why)
{
	struct tar_entry e;
	int got;

	while ((got = tar_next(r->tar, &e, why)) == 1) {
		bool manifest = strcmp(e.name, "manifest.json") == 0;

		if (manifest && (r->manifest.n || e.size > MANIFEST_MAX))
			return err_set(why, ERR_MALFORMED, "the archive's manifest cannot be read") == ERR_OK;
		if (!(manifest ? tar_take(r->tar, &e, -1, add_text, &r->manifest, why) : unpack_one(r, &e, why)))
			return false;
	}
	if (got == 0 && !r->manifest.n)
		return err_set(why, ERR_MALFORMED, "the archive has no manifest: it is no backup of Corral, or was cut short") == ERR_OK;
	return got == 0;
}

/* --- checking --- */

static struct unpacked *unpacked(struct restore *r, struct str name)
{
	list_each(it, &r->files)
		if (str_eqz(name, list_entry(it, struct unpacked, link)->name))
			return list_entry(it, struct unpacked, link);
	return NULL;
}

/* Which database of this program a file of the archive is. */
static const struct part_db *db_of(const struct restore *r, const char *name)
{
	for (const struct part_db *p = r->parts->dbs; p < r->parts->dbs + r->parts->n_dbs; p++) {
		if (p->outside && strcmp(name, arena_printf(r->mem, "databases/%s.db", p->option)) == 0)
			return p;
		if (p->path && !p->outside && strncmp(name, "state/", 6) == 0 && strcmp(name + 6, p->path + strlen(r->settings->state_dir) + 1) == 0)
			return p;
	}
	return NULL;
}

static bool check_database(struct restore *r, const char *name, struct why *why)
{
	const struct part_db *p = db_of(r, name);
	int64_t schema = 0;

	if (!db_verify(arena_printf(r->mem, "%s/%s", r->staging, name), &schema, why))
		return false;
	if (strncmp(name, "databases/", 10) == 0 && !p)
		return err_set(why, ERR_INVALID, "'%s' was kept outside the state directory; set its option to where it belongs, and restore again", name) == ERR_OK;
	if (p && schema > p->schema)
		return err_set(why, ERR_CONFLICT, "%s in the backup has schema version %lld, this program knows %lld; restore with the program that made it, or a newer one",
			       name, (long long)schema, (long long)p->schema) == ERR_OK;
	r->ret->sum.databases++;
	return true;
}

/* Segments of spools are in the archive without the room that was not used yet. */
static bool check_file(struct restore *r, const struct json *j, uint32_t file, struct why *why)
{
	struct str name = json_string(j, json_get(j, file, "name"), r->mem), hex = json_string(j, json_get(j, file, "sha256"), r->mem);
	struct unpacked *u = unpacked(r, name);
	int64_t size = -1, full = 0;

	(void)json_i64(j, json_get(j, file, "size"), &size);
	(void)json_i64(j, json_get(j, file, "full_size"), &full);
	if (!u || u->listed || (uint64_t)size != u->size || !str_eqz(hex, u->hex))
		return err_set(why, ERR_MALFORMED, "'" STR_FMT "' in the archive is missing or damaged", STR_ARG(name)) == ERR_OK;
	u->listed = true;
	r->ret->sum.files++;
	r->ret->sum.bytes += u->size;
	if (full > size && (full > INT64_C(1) << 40 || truncate(arena_printf(r->mem, "%s/%s", r->staging, u->name), full) != 0))
		return err_set(why, ERR_STORE_FAILED, "there is no room for %s: %s", u->name, strerror(errno)) == ERR_OK;
	if (json_string_eq(j, json_get(j, file, "kind"), "database"))
		return check_database(r, u->name, why);
	return true;
}

static bool check(struct restore *r, struct why *why)
{
	struct json j;
	uint32_t files;
	int64_t format = 0;

	if (json_parse(&j, r->mem, buf_as_str(&r->manifest), NULL, why) != ERR_OK)
		return false;
	(void)json_i64(&j, json_get(&j, 0, "format"), &format);
	if (format != BACKUP_FORMAT)
		return err_set(why, ERR_CONFLICT, "the archive has format %lld, this program knows %d; restore with the program that made it", (long long)format,
			       BACKUP_FORMAT) == ERR_OK;
	(void)str_copy(r->ret->made_at, sizeof(r->ret->made_at), json_string(&j, json_get(&j, 0, "made_at"), r->mem));
	(void)str_copy(r->ret->program, sizeof(r->ret->program), json_string(&j, json_get(&j, 0, "program"), r->mem));
	files = json_get(&j, 0, "files");
	for (uint32_t i = files ? json_first(&j, files) : 0; i; i = json_next(&j, files, i))
		if (!check_file(r, &j, i, why))
			return false;
	list_each(it, &r->files)
		if (!list_entry(it, struct unpacked, link)->listed)
			return err_set(why, ERR_MALFORMED, "'%s' is in the archive and not in its manifest", list_entry(it, struct unpacked, link)->name) == ERR_OK;
	return true;
}

static bool nobody_runs(struct restore *r, struct why *why)
{
	int64_t pid = parts_user(r->settings, r->parts);

	if (!pid)
		return true;
	if (pid > 0)
		err_set(why, ERR_CONFLICT, "process %lld has the state in %s open; stop it first", (long long)pid, r->settings->state_dir);
	else
		err_set(why, ERR_CONFLICT, "another process has the state in %s open; stop it first", r->settings->state_dir);
	return false;
}

/* --- putting it in its place --- */

static void sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		(void)fsync(fd);
		close(fd);
	}
}

static void sync_above(const struct restore *r, const char *path)
{
	char *above = arena_printf(r->mem, "%s", path), *slash = strrchr(above, '/');

	if (slash && slash > above) {
		*slash = '\0';
		sync_dir(above);
	}
}

static bool cannot_place(const char *what, struct why *why)
{
	const char *hint = errno == EBUSY || errno == EXDEV ? "; it is a mount point: mount the directory above it, or restore into another --state-dir and move the files" : "";

	return err_set(why, ERR_STORE_FAILED, "%s cannot be put in its place: %s%s", what, strerror(errno), hint) == ERR_OK;
}

static const char *kept_name(const struct restore *r, const char *path)
{
	time_t now = (time_t)(wall_us() / 1000000);
	char stamp[32];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	return arena_printf(r->mem, "%.1000s.before-%s-%ld", path, stamp, (long)getpid());
}

/* One step on the disk: there is the old state or the new, never a part of each. */
static bool swap_state(struct restore *r, struct why *why)
{
	const char *new = arena_printf(r->mem, "%s/state", r->staging), *dir = r->settings->state_dir;

	if (mkdir(new, 0700) != 0 && errno != EEXIST)
		return cannot_place(dir, why);
	if (access(dir, F_OK) != 0)
		return rename(new, dir) == 0 || cannot_place(dir, why);
	snprintf(r->ret->kept, sizeof(r->ret->kept), "%.1000s", kept_name(r, dir));
	if (renameat2(AT_FDCWD, new, AT_FDCWD, dir, RENAME_EXCHANGE) != 0)
		return cannot_place(dir, why);
	if (rename(new, r->ret->kept) != 0) {     /* then it stays where it is, and what is around it too */
		(void)snprintf(r->ret->kept, sizeof(r->ret->kept), "%s", new);
		r->staging[0] = '\0';
	}
	return true;
}

static bool copy_bytes(int from, int to)
{
	char piece[64 << 10];
	ssize_t n;

	while ((n = read(from, piece, sizeof(piece))) > 0)
		for (ssize_t at = 0, put; at < n; at += put)
			if ((put = write(to, piece + at, (size_t)(n - at))) <= 0)
				return false;
	return n == 0 && fsync(to) == 0;
}

/* As readable as the one that is there, and whose that is; nothing else is changed yet. */
static bool copy_beside(struct restore *r, struct swap *s, const char *from, struct why *why)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = in < 0 ? -1 : open(s->new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat old;
	bool ok = out >= 0;

	if (ok)
		list_push(&r->swaps, &s->link);
	ok = ok && copy_bytes(in, out);
	if (ok && stat(s->path, &old) == 0)
		ok = fchmod(out, old.st_mode & 0777) == 0 && (geteuid() != 0 || fchown(out, old.st_uid, old.st_gid) == 0);
	else if (ok)
		give(r, s->new);
	if (!ok)
		err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s; nothing was changed", s->new, strerror(errno));
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return ok;
}

static bool copy_databases(struct restore *r, struct why *why)
{
	for (const struct part_db *p = r->parts->dbs; p < r->parts->dbs + r->parts->n_dbs; p++) {
		const char *from = arena_printf(r->mem, "%s/databases/%s.db", r->staging, p->option);
		struct swap *s = arena_new_of(r->mem, struct swap);

		if (!p->outside || access(from, F_OK) != 0)
			continue;
		*s = (struct swap){ .path = p->path, .kept = kept_name(r, p->path) };
		s->new = arena_printf(r->mem, "%s.restore-%ld", p->path, (long)getpid());
		if (!copy_beside(r, s, from, why))
			return false;
	}
	return true;
}

/* A database and what SQLite keeps beside it, which may hold its last rows: together they can be opened under the other name too. */
static bool move_database(const struct restore *r, const char *from, const char *to)
{
	static const char *const ends[] = { "", "-wal", "-shm", "-journal" };

	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
		if (rename(arena_printf(r->mem, "%s%s", from, ends[i]), arena_printf(r->mem, "%s%s", to, ends[i])) != 0 && errno != ENOENT)
			return false;
	return true;
}

static bool swap_databases(struct restore *r, struct why *why)
{
	list_each(it, &r->swaps) {
		struct swap *s = list_entry(it, struct swap, link);

		if (!move_database(r, s->path, s->kept) || rename(s->new, s->path) != 0)
			return cannot_place(s->path, why);
		s->placed = true;
	}
	return true;
}

static void undo_databases(struct restore *r)
{
	list_each(it, &r->swaps) {
		struct swap *s = list_entry(it, struct swap, link);

		(void)unlink(s->placed ? s->path : s->new);
		(void)move_database(r, s->kept, s->path);
	}
}

static void name_databases(struct restore *r)
{
	list_each(it, &r->swaps) {
		struct swap *s = list_entry(it, struct swap, link);
		size_t n = strlen(r->ret->databases);

		sync_above(r, s->path);
		if (access(s->kept, F_OK) == 0)
			snprintf(r->ret->databases + n, sizeof(r->ret->databases) - n, "%s%s", n ? ", " : "", s->kept);
	}
}

/* The configuration is written where --config says when nothing is there, else beside it: the one in force may be right on purpose. */
static void place_config(struct restore *r)
{
	const char *from = arena_printf(r->mem, "%s/config.yaml", r->staging), *file = r->settings->file;

	if (access(from, F_OK) != 0)
		return;
	snprintf(r->ret->config, sizeof(r->ret->config), "%.1000s%s", *file ? file : r->settings->state_dir, *file ? ".restored" : "/config.yaml.restored");
	if (rename(from, r->ret->config) == 0)
		return;
	snprintf(r->ret->config, sizeof(r->ret->config), "%.1000s/config.yaml.restored", r->settings->state_dir);     /* another file system, or not ours to write */
	if (rename(from, r->ret->config) != 0)
		r->ret->config[0] = '\0';
}

static bool place(struct restore *r, struct why *why)
{
	if (!copy_databases(r, why) || !nobody_runs(r, why) || !swap_databases(r, why) || !swap_state(r, why)) {
		undo_databases(r);
		return false;
	}
	sync_above(r, r->settings->state_dir);
	name_databases(r);
	place_config(r);
	return true;
}

/* --- the whole --- */

static bool begin(struct restore *r, const char *from, struct why *why)
{
	r->tar = open(from, O_RDONLY | O_CLOEXEC);
	if (r->tar < 0)
		return err_set(why, ERR_NOT_FOUND, "%s cannot be read: %s", from, strerror(errno)) == ERR_OK;
	for (char *p = arena_printf(r->mem, "%s", r->settings->state_dir), *at = p + 1; *at; at++)
		if (*at == '/') {
			*at = '\0';
			(void)mkdir(p, 0700);     /* mkdtemp() says so when it is not there */
			*at = '/';
		}
	snprintf(r->staging, sizeof(r->staging), "%.1000s.restore-XXXXXX", r->settings->state_dir);
	if (mkdtemp(r->staging))
		return true;
	err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", r->staging, strerror(errno));
	r->staging[0] = '\0';
	return false;
}

enum err backup_restore(const struct svc_settings *s, const struct svc_def *const *defs, unsigned n, const char *from, bool verify_only,
			struct restore_result *ret, struct why *why)
{
	struct restore r = { .settings = s, .mem = arena_new(0), .tar = -1, .ret = ret };
	struct stat st;

	*why = (struct why){ 0 };
	*ret = (struct restore_result){ 0 };
	list_init(&r.files);
	list_init(&r.swaps);
	if (geteuid() == 0 && stat(s->state_dir, &st) == 0 && st.st_uid != 0)
		r.owner = &st;
	r.parts = parts_of(s, defs, n, r.mem);
	if ((verify_only || nobody_runs(&r, why)) && begin(&r, from, why) && unpack(&r, why) && check(&r, why) && !verify_only)
		(void)place(&r, why);
	if (r.tar >= 0)
		close(r.tar);
	if (r.staging[0])
		parts_remove_tree(r.staging);
	buf_free(&r.manifest);
	arena_free(r.mem);
	return why->code;
}

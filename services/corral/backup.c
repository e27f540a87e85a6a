/* backup.c - see backup.h: the making. */
#include "services/corral/backup_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/secret.h"
#include "common/store/db.h"
#include "services/corral/tar.h"

struct backup {
	struct parts *parts;
	struct arena *mem;
	const char *root;             /* the state directory */
	char staging[1100], links[1100];
	int tar;
	struct backup_sum sum;
	struct buf manifest;
	struct json_out json;
	struct list found;            /* struct found, in the order of the archive */
	unsigned staged;
};

struct found {
	struct list link;
	const char *name;             /* in the archive */
	const char *path;             /* where it is; what is in the archive is 'copy' when that is set */
	const char *copy;
	const char *second;           /* a hard link to it, so that it stays whole when it is deleted; NULL = none */
	struct db_pin *pin;
	const struct part_db *db;     /* NULL: none of ours */
	bool is_db, is_spool;
	uint64_t full_size;
};

/* --- what there is --- */

static bool is_left_out(const char *name)
{
	struct str s = str_of(name);

	return name[0] == '.' || str_ends(s, STR("-wal")) || str_ends(s, STR("-shm")) || str_ends(s, STR("-journal")) || str_ends(s, STR(".lock")) ||
	       strcmp(name, "lock") == 0;
}

static void add(struct backup *b, const char *name, const char *path)
{
	struct found *f = arena_new_of(b->mem, struct found);

	*f = (struct found){ .name = name, .path = path, .db = parts_find(b->parts, path), .is_spool = strstr(name, "/spool/") != NULL };
	f->is_db = f->db || db_is_file(path);
	list_push(&b->found, &f->link);
}

static bool walk(struct backup *b, const char *dir, const char *name, struct why *why)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	struct stat st;
	bool ok = true;

	if (!d)
		return err_set(why, ERR_STORE_FAILED, "%s cannot be read: %s", dir, strerror(errno)) == ERR_OK;
	while (ok && (e = readdir(d))) {
		const char *path = arena_printf(b->mem, "%s/%s", dir, e->d_name), *in = arena_printf(b->mem, "%s/%s", name, e->d_name);

		if (is_left_out(e->d_name) || lstat(path, &st) != 0)
			continue;
		if (S_ISDIR(st.st_mode))
			ok = walk(b, path, in, why);
		else if (S_ISREG(st.st_mode))
			add(b, in, path);
		else if (S_ISLNK(st.st_mode))
			ok = err_set(why, ERR_INVALID, "%s is a symbolic link, and what it leads to would be missing from the backup; mount the place there instead, or name a database with its option",
				     path) == ERR_OK;
	}
	closedir(d);
	return ok;
}

/* Databases that lie elsewhere. */
static void add_outside(struct backup *b, void (*note)(void *, const char *), void *arg)
{
	for (const struct part_db *p = b->parts->dbs; p < b->parts->dbs + b->parts->n_dbs; p++) {
		if (!p->path)
			note(arg, arena_printf(b->mem, "the database of %s (%s) is on a server and no part of this backup", p->service, p->option));
		else if (p->outside && access(p->path, F_OK) == 0)
			add(b, arena_printf(b->mem, "databases/%s.db", p->option), p->path);
	}
}

static bool is_found(const struct backup *b, const struct stat *want)
{
	struct stat st;

	list_each(it, (struct list *)(uintptr_t)&b->found)
		if (stat(list_entry(it, struct found, link)->path, &st) == 0 && st.st_dev == want->st_dev && st.st_ino == want->st_ino)
			return true;
	return false;
}

/* A backup without one of the databases would look whole. */
static bool has_databases(const struct backup *b, struct why *why)
{
	struct stat st;

	for (const struct part_db *p = b->parts->dbs; p < b->parts->dbs + b->parts->n_dbs; p++)
		if (p->path && stat(p->path, &st) == 0 && !is_found(b, &st))
			return err_set(why, ERR_INVALID, "%s, the database of %s, was not found below the state directory; give it another name (%s)", p->path, p->service,
				       p->option) == ERR_OK;
	return true;
}

/* --- copies --- */

static const char *new_copy(struct backup *b) { return arena_printf(b->mem, "%s/%u", b->staging, b->staged++); }

static bool pin_databases(struct backup *b, struct why *why)
{
	list_each(it, &b->found) {
		struct found *f = list_entry(it, struct found, link);

		if (f->is_db && !(f->pin = db_pin(f->path, why)))
			return false;
	}
	return true;
}

static bool copy_databases(struct backup *b, struct why *why)
{
	list_each(it, &b->found) {
		struct found *f = list_entry(it, struct found, link);

		if (!f->is_db)
			continue;
		f->copy = new_copy(b);
		if (!db_pin_copy(f->pin, f->copy, why))
			return false;
		db_unpin(f->pin);
		f->pin = NULL;
	}
	return true;
}

/* A segment is as long as its room on disk; what was never written is zero, and is not copied. */
static bool copy_segment(struct found *f, int from, int to, struct why *why)
{
	char piece[64 << 10];
	off_t at = 0, end = 0;
	ssize_t n;

	while ((n = pread(from, piece, sizeof(piece), at)) > 0) {
		ssize_t used = n;

		while (used > 0 && !piece[used - 1])
			used--;
		if (used > 0 && pwrite(to, piece, (size_t)used, at) != used)
			return err_set(why, ERR_STORE_FAILED, "%s cannot be copied: %s", f->path, strerror(errno)) == ERR_OK;
		if (used > 0)
			end = at + used;
		at += n;
	}
	f->full_size = (uint64_t)at;
	if (n < 0 || ftruncate(to, end) != 0)
		return err_set(why, ERR_STORE_FAILED, "%s cannot be copied: %s", f->path, strerror(errno)) == ERR_OK;
	return true;
}

/* A file that is gone is no failure: a segment was shipped, a snapshot replaced; an earlier copy stays. */
static bool copy_file(struct backup *b, struct found *f, struct why *why)
{
	bool config = strcmp(f->name, "config.yaml") == 0;     /* a mounted ConfigMap is links */
	int from = open(f->second ? f->second : f->path, O_RDONLY | O_CLOEXEC | (config ? 0 : O_NOFOLLOW)), to;
	bool ok;

	if (from < 0)
		return errno == ENOENT || err_set(why, ERR_STORE_FAILED, "%s cannot be read: %s", f->path, strerror(errno)) == ERR_OK;
	if (!f->copy)
		f->copy = new_copy(b);
	to = open(f->copy, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ok = to >= 0 ? copy_segment(f, from, to, why) : err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", f->copy, strerror(errno)) == ERR_OK;
	close(from);
	if (to >= 0)
		close(to);
	return ok;
}

/* Where the file system has no links, a copy now has to do. */
static bool keep_spools(struct backup *b, struct why *why)
{
	list_each(it, &b->found) {
		struct found *f = list_entry(it, struct found, link);
		const char *second = arena_printf(b->mem, "%s/%u", b->links, b->staged);

		if (!f->is_spool || f->second)
			continue;
		if (link(f->path, second) == 0) {
			f->second = second;
			b->staged++;
		} else if (errno != ENOENT && !copy_file(b, f, why)) {
			return false;
		}
	}
	return true;
}

static bool copy_spools(struct backup *b, struct why *why)
{
	list_each(it, &b->found) {
		struct found *f = list_entry(it, struct found, link);

		if (f->second && !copy_file(b, f, why))
			return false;
	}
	return true;
}

static bool is_known(const struct backup *b, const char *name)
{
	list_each(it, (struct list *)(uintptr_t)&b->found)
		if (strcmp(list_entry(it, struct found, link)->name, name) == 0)
			return true;
	return false;
}

/* Segments that were begun since the first look. */
static bool look_again(struct backup *b, struct why *why)
{
	struct backup again = { .parts = b->parts, .mem = b->mem, .root = b->root };

	list_init(&again.found);
	if (!walk(&again, b->root, "state", why))
		return false;
	list_each_safe(it, &again.found) {
		struct found *f = list_entry(it, struct found, link);

		if (f->is_spool && !is_known(b, f->name)) {
			list_del(&f->link);
			list_push(&b->found, &f->link);
		}
	}
	return keep_spools(b, why);
}

/* --- the archive --- */

static bool hash_fd(int fd, uint64_t size, char hex[65])
{
	struct sha256_state *s = sha256_begin();
	uint8_t hash[SHA256_BYTES];
	char piece[64 << 10];
	uint64_t at = 0;
	ssize_t n = 1;

	while (at < size && (n = pread(fd, piece, size - at < sizeof(piece) ? (size_t)(size - at) : sizeof(piece), (off_t)at)) > 0) {
		sha256_add(s, str_n(piece, (size_t)n));
		at += (uint64_t)n;
	}
	sha256_end(s, hash);
	parts_hex(hash, hex);
	return at == size;
}

static void list_file(struct backup *b, const struct found *f, uint64_t size, const char *hex, int64_t schema)
{
	struct json_out *jo = &b->json;

	jw_obj(jo);
	jw_kv_strz(jo, "name", f->name);
	jw_kv_u64(jo, "size", size);
	if (f->full_size > size)
		jw_kv_u64(jo, "full_size", f->full_size);
	jw_kv_strz(jo, "sha256", hex);
	if (f->is_db) {
		jw_kv_strz(jo, "kind", "database");
		jw_kv_i64(jo, "schema", schema);
	}
	jw_end(jo);
	b->sum.files++;
	b->sum.databases += f->is_db;
	b->sum.bytes += size;
}

/* From a copy of our own: what is hashed is what is written. */
static bool write_file(struct backup *b, struct found *f, struct why *why)
{
	int64_t schema = 0;
	struct stat st;
	char hex[65];
	bool ok;
	int fd;

	if (!f->copy && !copy_file(b, f, why))
		return false;
	if (!f->copy)
		return true;
	fd = open(f->copy, O_RDONLY | O_CLOEXEC);
	ok = fd >= 0 && fstat(fd, &st) == 0 && hash_fd(fd, (uint64_t)st.st_size, hex);
	if (!ok)
		err_set(why, ERR_STORE_FAILED, "%s cannot be read: %s", f->copy, strerror(errno));
	ok = ok && (!f->is_db || db_verify(f->copy, &schema, why)) && tar_add_fd(b->tar, f->name, fd, (uint64_t)st.st_size, st.st_mtime, why);
	if (ok)
		list_file(b, f, (uint64_t)st.st_size, hex, schema);
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool write_archive(struct backup *b, struct why *why)
{
	char now[40];
	bool ok = true;

	clock_rfc3339(wall_us(), 3, now, sizeof(now));
	json_begin(&b->json, &b->manifest);
	jw_obj(&b->json);
	jw_kv_i64(&b->json, "format", BACKUP_FORMAT);
	jw_kv_strz(&b->json, "program", CORRAL_VERSION);
	jw_kv_strz(&b->json, "made_at", now);
	jw_key(&b->json, "files");
	jw_arr(&b->json);
	list_each(it, &b->found)
		ok = ok && write_file(b, list_entry(it, struct found, link), why);
	jw_end(&b->json);
	jw_end(&b->json);
	ok = ok && tar_add(b->tar, "manifest.json", buf_as_str(&b->manifest), wall_us() / 1000000, why) && tar_end(b->tar, why);
	if (ok && fsync(b->tar) != 0)
		ok = err_set(why, ERR_STORE_FAILED, "the archive cannot be written: %s", strerror(errno)) == ERR_OK;
	return ok;
}

static bool make(struct backup *b, const struct svc_settings *s, void (*note)(void *, const char *), void *arg, struct why *why)
{
	if (!walk(b, b->root, "state", why))
		return false;
	add_outside(b, note, arg);
	if (!has_databases(b, why))
		return false;
	if (*s->file)
		add(b, "config.yaml", s->file);
	return keep_spools(b, why) && pin_databases(b, why) && look_again(b, why) && copy_databases(b, why) && copy_spools(b, why) && write_archive(b, why);
}

static bool open_output(struct backup *b, const char *to, const char *part, struct why *why)
{
	if (access(b->root, F_OK) != 0)
		return err_set(why, ERR_NOT_FOUND, "there is no state in %s; name where it is with --state-dir", b->root) == ERR_OK;
	if (access(to, F_OK) == 0)
		return err_set(why, ERR_CONFLICT, "%s is there already; give another name", to) == ERR_OK;
	b->tar = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (b->tar < 0 && errno == EEXIST)
		return err_set(why, ERR_CONFLICT, "%s is there already: another backup to this name is being made, or one was cut off; remove it when none runs", part) == ERR_OK;
	if (b->tar < 0)
		return err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", part, strerror(errno)) == ERR_OK;
	snprintf(b->staging, sizeof(b->staging), "%.1000s.d-XXXXXX", part);
	if (!mkdtemp(b->staging))
		return err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", b->staging, strerror(errno)) == ERR_OK;
	snprintf(b->links, sizeof(b->links), "%.1000s/.backup-XXXXXX", b->root);      /* links stay within a file system */
	if (!mkdtemp(b->links))
		return err_set(why, ERR_STORE_FAILED, "%s cannot be made: %s", b->links, strerror(errno)) == ERR_OK;
	return true;
}

enum err backup_make(const struct svc_settings *s, const struct svc_def *const *defs, unsigned n, const char *to, struct backup_sum *ret,
		     void (*note)(void *arg, const char *text), void *arg, struct why *why)
{
	struct backup b = { .mem = arena_new(0), .root = s->state_dir, .tar = -1 };
	const char *part = arena_printf(b.mem, "%s.part", to);
	bool ok;

	*why = (struct why){ 0 };
	list_init(&b.found);
	b.parts = parts_of(s, defs, n, b.mem);
	ok = open_output(&b, to, part, why) && make(&b, s, note, arg, why);
	if (ok && rename(part, to) != 0)
		ok = err_set(why, ERR_STORE_FAILED, "%s cannot be put in its place: %s", to, strerror(errno)) == ERR_OK;
	if (b.tar >= 0) {
		close(b.tar);
		if (!ok)
			(void)unlink(part);
	}
	list_each(it, &b.found)
		db_unpin(list_entry(it, struct found, link)->pin);
	if (b.staging[0])
		parts_remove_tree(b.staging);
	if (b.links[0])
		parts_remove_tree(b.links);
	*ret = b.sum;
	buf_free(&b.manifest);
	arena_free(b.mem);
	return why->code;
}

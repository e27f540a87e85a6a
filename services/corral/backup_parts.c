/* backup_parts.c - see backup_parts.h. */
#include "services/corral/backup_parts.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/store/db.h"

/* --- databases --- */

static const char *value_of(const struct opt_set *set, const char *option)
{
	for (const struct opt *o = set->table; o && o->name; o++)
		if (strcmp(o->name, option) == 0)
			return *(const char **)(void *)((char *)set->config + o->offset);
	return "";
}

static int64_t newest(const struct db_migration *m)
{
	int64_t n = 0;

	for (; m && m->number; m++)
		n = m->number;
	return n;
}

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

static void add_db(struct parts *p, const struct svc_settings *s, const struct svc_def *def, const struct opt_set *set, const struct svc_db *d, struct arena *a)
{
	const char *url = value_of(set, d->option);
	struct part_db *db = &p->dbs[p->n_dbs++];

	*db = (struct part_db){ .service = def->name, .option = d->option, .schema = newest(d->schema) };
	if (!*url)
		db->path = arena_printf(a, "%s/%s/%s", s->state_dir, def->name, d->file);
	else if (str_starts(str_of(url), STR("sqlite:")))
		db->path = arena_dup(a, url + 7, strcspn(url + 7, "?"));
	db->outside = db->path && !below(db->path, s->state_dir);
}

struct parts *parts_of(const struct svc_settings *s, const struct svc_def *const *defs, unsigned n, struct arena *a)
{
	struct parts *p = arena_new_of(a, struct parts);
	unsigned most = 0;

	for (unsigned i = 0; i < n; i++)
		for (const struct svc_db *d = defs[i]->databases; d && d->file; d++)
			most++;
	p->dbs = arena_array(a, struct part_db, most + 1);
	for (unsigned i = 0; i < n; i++)
		for (const struct svc_db *d = defs[i]->databases; d && d->file; d++)
			add_db(p, s, defs[i], &s->sets[i], d, a);
	return p;
}

const struct part_db *parts_find(const struct parts *p, const char *path)
{
	for (unsigned i = 0; i < p->n_dbs; i++)
		if (p->dbs[i].path && strcmp(p->dbs[i].path, path) == 0)
			return &p->dbs[i];
	return NULL;
}

/* --- files --- */

void parts_hex(const uint8_t hash[32], char hex[65])
{
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", hash[i]);
}

void parts_remove_tree(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4400];
	struct stat st;

	while (d && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
			parts_remove_tree(path);
		else
			(void)unlink(path);
	}
	if (d)
		closedir(d);
	(void)rmdir(dir);
}

/* --- who has it open --- */

/* SQLite's programs hold a read lock on these bytes as long as they have a database with a log open. */
enum { SHARED_FIRST = 0x40000002, SHARED_SIZE = 510 };

static int64_t reader_of(int fd)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SHARED_FIRST, .l_len = SHARED_SIZE };

	if (fcntl(fd, F_GETLK, &l) != 0 || l.l_type == F_UNLCK)
		return 0;
	return l.l_pid > 0 ? l.l_pid : -1;
}

static int64_t locker_of(int fd)
{
	char text[24] = "";
	uint64_t pid;

	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;                 /* let go when it is closed */
	if (pread(fd, text, sizeof(text) - 1, 0) < 0 || (text[strcspn(text, "\n")] = '\0', !str_u64(str_of(text), &pid)) || !pid)
		return -1;
	return (int64_t)pid;
}

static int64_t user_of_file(const char *path, const char *name)
{
	bool lock = strcmp(name, "lock") == 0 || str_ends(str_of(name), STR(".lock"));
	int64_t pid = 0;
	int fd;

	if (!lock && !db_is_file(path))
		return 0;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	pid = lock ? locker_of(fd) : reader_of(fd);
	close(fd);
	return pid;
}

static int64_t user_below(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4400];
	struct stat st;
	int64_t pid = 0, found;

	while (d && pid <= 0 && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || lstat(path, &st) != 0)
			continue;
		found = S_ISDIR(st.st_mode) ? user_below(path) : S_ISREG(st.st_mode) ? user_of_file(path, e->d_name) : 0;
		pid = found ? found : pid;
	}
	if (d)
		closedir(d);
	return pid;
}

int64_t parts_user(const struct svc_settings *s, const struct parts *p)
{
	int64_t pid = user_below(s->state_dir);

	for (unsigned i = 0; pid <= 0 && i < p->n_dbs; i++)
		if (p->dbs[i].outside) {
			int64_t found = user_of_file(p->dbs[i].path, "");

			pid = found ? found : pid;
		}
	return pid;
}

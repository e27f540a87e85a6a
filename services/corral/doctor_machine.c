/* doctor_machine.c - the checks of `corral doctor` that need no gateway: configuration, ports, disk, descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/corral/doctor.h"

enum { LEAST_FREE_MB = 100, GOOD_FREE_MB = 1024, GOOD_DESCRIPTORS = 4096 };

/* --- configuration: serve --check-config in a process of its own, because that is what will read it --- */

/* Runs this program; everything it prints goes to *out. Its exit status, or -1. */
static int run_self(char **argv, struct buf *out)
{
	extern char **environ;
	posix_spawn_file_actions_t files;
	int fds[2], status = -1, rc;
	ssize_t n;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -1;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, fds[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, fds[1], STDERR_FILENO);
	rc = posix_spawn(&pid, "/proc/self/exe", &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	close(fds[1]);
	if (rc == 0) {
		do {
			buf_reserve(out, 4096);
			n = read(fds[0], out->p + out->n, 4096);
			out->n += n > 0 ? (size_t)n : 0;
		} while (n > 0 || (n < 0 && errno == EINTR));
		if (waitpid(pid, &status, 0) != pid)
			status = -1;
	}
	close(fds[0]);
	return rc == 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void check_config(struct doctor *d)
{
	struct arena *mem = d->cli->mem;
	char *argv[6], **to = argv;
	struct buf out = { 0 };
	int status;

	*to++ = arena_dup(mem, "corral", 6);
	*to++ = arena_dup(mem, "serve", 5);
	*to++ = arena_dup(mem, "--check-config", 14);
	if (*d->opts->config)
		*to++ = arena_printf(mem, "--config=%s", d->opts->config);
	if (*d->opts->state_dir)
		*to++ = arena_printf(mem, "--state-dir=%s", d->opts->state_dir);
	*to = NULL;
	status = run_self(argv, &out);
	if (status == 0) {
		d->settings = arena_str(mem, buf_as_str(&out)).p;
		found(d, FINDING_OK, "configuration", "%s", *config_value(d, "config") ? arena_printf(mem, "%s and the environment are right", config_value(d, "config"))
									       : "defaults and environment are right; there is no file");
	} else {
		found(d, FINDING_FAIL, "configuration", STR_FMT, STR_ARG(str_trim(buf_as_str(&out))));
	}
	buf_free(&out);
}

struct str setting_in(struct str text, const char *name)
{
	struct str line;

	while (str_split(&text, '\n', &line)) {
		const char *end;

		if (!str_starts(line, str_of(name)) || !str_starts(str_from(line, strlen(name)), STR(": ")))
			continue;
		line = str_from(line, strlen(name) + 2);
		end = str_find(line, STR("  # "));
		return str_trim(end ? str_n(line.p, (size_t)(end - line.p)) : line);
	}
	return STR("");
}

const char *config_value(struct doctor *d, const char *name)
{
	struct cli *c = d->cli;
	struct str text = d->settings ? setting_in(str_of(d->settings), name) : STR("");
	struct json j;

	/* texts are printed as JSON strings, lists as arrays of them, words bare */
	if (json_parse(&j, c->mem, text, NULL, NULL) != ERR_OK)
		return arena_str(c->mem, text).p;
	if (json_is_string(&j, 0))
		return arena_str(c->mem, json_string(&j, 0, c->mem)).p;
	if (json_kind(&j, 0) == JSON_ARRAY) {
		struct buf b = { 0 };
		const char *z;

		for (uint32_t i = json_first(&j, 0); i; i = json_next(&j, 0, i)) {
			buf_addz(&b, b.n ? "," : "");
			buf_str(&b, json_string(&j, i, c->mem));
		}
		z = arena_str(c->mem, buf_as_str(&b)).p;
		buf_free(&b);
		return z;
	}
	return arena_str(c->mem, text).p;
}

/* --- ports --- */

/* 0 when somebody could listen there now, else errno. */
static int try_port(struct cli *c, const char *listen)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *list;
	const char *colon = strrchr(listen, ':');
	struct str host = str_n(listen, colon ? (size_t)(colon - listen) : 0);
	int fd, on = 1, err = 0;

	if (host.n > 2 && host.p[0] == '[')
		host = str_n(host.p + 1, host.n - 2);
	if (!colon || getaddrinfo(host.n ? arena_str(c->mem, host).p : "127.0.0.1", colon + 1, &hints, &list) != 0)
		return EADDRNOTAVAIL;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 || bind(fd, list->ai_addr, list->ai_addrlen) != 0)
		err = errno;
	if (fd >= 0)
		close(fd);
	freeaddrinfo(list);
	return err;
}

/* A Corral that runs answers 'path' with a 'member'. */
static bool is_ours(struct doctor *d, const char *listen, const char *path, const char *member)
{
	struct remote *r = remote_new(d->cli, arena_printf(d->cli->mem, "%s%s", listen[0] == ':' ? "127.0.0.1" : "", listen), &(struct why){ 0 });
	struct answer a = { 0 };

	if (r)
		a = remote_ask(r, "GET", path, STR(""), 2000);
	remote_free(r);
	return a.is_json && json_get(&a.doc, 0, member) && json_get(&a.doc, 0, "version");
}

static void check_port(struct doctor *d, const char *option, const char *flag, const char *path, const char *member)
{
	const char *listen = config_value(d, option);
	int err;

	if (!*listen || strncmp(listen, "unix:", 5) == 0)
		return;
	err = try_port(d->cli, listen);
	if (err == 0)
		found(d, FINDING_OK, "port", "%s is free", listen);
	else if (err == EADDRINUSE && is_ours(d, listen, path, member))
		found(d, FINDING_OK, "port", "%s is held by a running Corral", listen);
	else if (err == EADDRINUSE)
		found(d, FINDING_FAIL, "port", "%s is held by another program; stop it, or serve elsewhere with %s", listen, flag);
	else
		found(d, FINDING_FAIL, "port", "nobody can listen on %s: %s; choose another with %s", listen, strerror(err), flag);
}

void check_ports(struct doctor *d)
{
	if (!d->settings)
		return;
	check_port(d, "listen", "--listen", "/health", "backends");
	check_port(d, "admin_listen", "--admin-listen", "/version", "name");
}

/* --- disk --- */

/* Writes and syncs a small file there; 0, or errno. */
static int try_write(struct cli *c, const char *dir)
{
	char *path = arena_printf(c->mem, "%s/.doctor-XXXXXX", dir);
	int fd = mkostemp(path, O_CLOEXEC), err = 0;

	if (fd < 0)
		return errno;
	if (write(fd, "corral\n", 7) != 7 || fsync(fd) != 0)
		err = errno ? errno : ENOSPC;
	close(fd);
	(void)unlink(path);
	return err;
}

/* The directory, or the nearest one above it that is there. */
static const char *existing(struct cli *c, const char *dir)
{
	struct stat st;
	char *at = arena_dup(c->mem, dir, strlen(dir)), *slash;

	while (stat(at, &st) != 0 && (slash = strrchr(at, '/')))
		*(slash == at && at[1] ? slash + 1 : slash) = '\0';
	return *at ? at : "/";
}

static void check_free(struct doctor *d, const char *dir)
{
	struct statvfs v;
	unsigned long long mb;

	if (statvfs(dir, &v) != 0) {
		found(d, FINDING_WARN, "disk", "free space at %s cannot be told: %s", dir, strerror(errno));
		return;
	}
	mb = (unsigned long long)v.f_bavail * v.f_frsize >> 20;
	if (mb < LEAST_FREE_MB)
		found(d, FINDING_FAIL, "disk", "only %llu MB free at %s; make room, for nothing is admitted that cannot be recorded", mb, dir);
	else if (mb < GOOD_FREE_MB)
		found(d, FINDING_WARN, "disk", "%llu MB free at %s; make room soon", mb, dir);
	else
		found(d, FINDING_OK, "disk", "%llu GB free at %s", mb >> 10, dir);
}

static const char *expanded(struct cli *c, const char *dir)
{
	const char *home = getenv("HOME");

	return dir[0] == '~' && dir[1] == '/' && home ? arena_printf(c->mem, "%s%s", home, dir + 1) : dir;
}

void check_state_dir(struct doctor *d)
{
	const char *dir = expanded(d->cli, config_value(d, "state_dir")), *there;
	int err;

	if (!d->settings)
		return;
	there = existing(d->cli, dir);
	err = try_write(d->cli, there);
	if (err)
		found(d, FINDING_FAIL, "state", "%s cannot be written: %s; give its owner the right, or another place with --state-dir", there, strerror(err));
	else if (strcmp(there, dir) != 0)
		found(d, FINDING_OK, "state", "%s will be made at the first start", dir);
	else
		found(d, FINDING_OK, "state", "%s can be written", dir);
	check_free(d, there);
}

/* --- descriptors --- */

void check_descriptors(struct doctor *d)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) != 0)
		return;
	if (r.rlim_max != RLIM_INFINITY && r.rlim_max < GOOD_DESCRIPTORS)
		found(d, FINDING_WARN, "descriptors", "a process may open %llu files only, and each request under way takes two; raise it (ulimit -Hn, LimitNOFILE=)",
		      (unsigned long long)r.rlim_max);
	else
		found(d, FINDING_OK, "descriptors", "a process may open %llu files", (unsigned long long)r.rlim_max);
}

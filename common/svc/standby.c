/* standby.c - a service that has one writer waits until it is that (db_writer.h): until then it has no RPC endpoint, publishes nothing, and
 * /readyz says whose turn it is. When another takes over, the process ends with status 1, to be started again as standby.
 *
 * The file NAME_FILE in the service's directory keeps what the last writer from there was called. Whoever has the directory's lock knows that that
 * one has ended, and need not wait for its lease: a process that was killed and started again is the writer at once. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/store/db_writer.h"
#include "common/svc/runtime.h"

#define NAME_FILE ".writer"       /* the point keeps it out of backups */

enum { ASK_MS = 1000, NAP_MS = 50 };

static const char need[] = "writer";

static void on_lost(void *arg, const struct why *why) { svc_fail(arg, why); }

/* Of all processes on all machines, for ever. */
static void who_am_i(char *to, size_t n)
{
	char host[64] = "";

	(void)gethostname(host, sizeof(host) - 1);
	snprintf(to, n, "%s, pid %d, %016" PRIx64, host[0] ? host : "this machine", (int)getpid(), rand_u64());
}

/* "" when it is not known to have ended, or nobody was. */
static void who_was_here(const struct svc *s, char *to, size_t n)
{
	char path[1200];
	ssize_t got = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/" NAME_FILE, s->state_dir);
	fd = s->lock_fd >= 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		got = read(fd, to, n - 1);
		close(fd);
	}
	to[got > 0 ? got : 0] = '\0';
}

/* A name that is cut short is nobody's. */
static void sign_here(const struct svc *s, const char *who)
{
	char path[1200];
	bool ok;
	int fd;

	if (s->lock_fd < 0)
		return;
	snprintf(path, sizeof(path), "%s/" NAME_FILE, s->state_dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ok = fd >= 0 && write(fd, who, strlen(who)) == (ssize_t)strlen(who);
	if (fd >= 0)
		close(fd);
	if (!ok)
		LOG_WARN("a file cannot be written; if this process is killed, the next one waits until its lease is over", LOG_S("file", path));
}

static void wait_a_while(struct svc *s)
{
	const struct timespec nap = { .tv_nsec = NAP_MS * 1000000L };

	for (int i = 0; i < ASK_MS / NAP_MS && !atomic_load(&s->give_up); i++)
		(void)nanosleep(&nap, NULL);
}

static void tell(struct svc *s, enum db_writer_turn turn, const char *other, const struct why *why)
{
	char text[200];

	if (turn == DB_WRITER_UNKNOWN)
		(void)str_copy(text, sizeof(text), str_of(why->text));
	else
		snprintf(text, sizeof(text), "standby; the writer is %s", other);
	svc_need(s, need, false, text);
}

static void became(struct svc *s, const char *who)
{
	sign_here(s, who);
	atomic_store(&s->standby, false);
	db_writer_keep(s->writer, on_lost, s);
	LOG_INFO("this process is the writer", LOG_I("epoch", db_writer_epoch(s->writer)));
	svc_need(s, need, true, "this process");
}

bool standby_wait(struct svc *s)
{
	const char *url = s->def->one_writer ? databases_url(s->rt, (unsigned)(s - s->rt->svcs), s->def->databases) : NULL;
	enum db_writer_turn turn = DB_WRITER_UNKNOWN;
	const char *other = "";
	struct why why;
	char who[100], dead[100];

	if (!url || !db_writer_has(url))
		return true;
	who_am_i(who, sizeof(who));
	who_was_here(s, dead, sizeof(dead));
	for (;;) {
		if (!s->writer)
			s->writer = db_writer_open(url, who, dead, &why);
		if (s->writer)
			turn = db_writer_try(s->writer, &other, &why);
		if (turn == DB_WRITER_MINE)
			break;
		if (turn == DB_WRITER_UNKNOWN && why.code == ERR_INTERNAL)        /* the server is there, and knows no such table */
			return err_set(&s->why, ERR_STORE_FAILED, "the database has no place for the writer's name; bring its schema up to date with '%s migrate', and start "
				       "again (%s)", s->rt->name, why.text) == ERR_OK;
		tell(s, turn, other, &why);
		atomic_store(&s->spare, turn == DB_WRITER_ANOTHERS);
		atomic_store(&s->standby, true);
		wait_a_while(s);
		if (atomic_load(&s->give_up))
			return err_set(&s->why, ERR_UNAVAILABLE, "it was told to end while it was standby") == ERR_OK;
		turn = DB_WRITER_UNKNOWN;
	}
	became(s, who);
	return true;
}

void standby_leave(struct svc *s)
{
	db_writer_free(s->writer);
	s->writer = NULL;
}

/* standby.c - a service that has one writer waits until it is that (db_writer.h): until then it has no RPC endpoint, publishes nothing, and
 * /readyz says whose turn it is. When another takes over, the process ends with status 1, to be started again as standby. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/db_writer.h"
#include "common/svc/runtime.h"

enum { ASK_MS = 1000, NAP_MS = 50 };

static const char need[] = "writer";

static void on_lost(void *arg, const struct why *why) { svc_fail(arg, why); }

static void who_am_i(char *to, size_t n)
{
	char host[64] = "";

	(void)gethostname(host, sizeof(host) - 1);
	snprintf(to, n, "%s, pid %d", host[0] ? host : "this machine", (int)getpid());
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

static void became(struct svc *s)
{
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
	char who[100];

	if (!url || !db_writer_has(url))
		return true;
	who_am_i(who, sizeof(who));
	for (;;) {
		if (!s->writer)
			s->writer = db_writer_open(url, who, &why);
		if (s->writer)
			turn = db_writer_try(s->writer, &other, &why);
		if (turn == DB_WRITER_MINE)
			break;
		if (turn == DB_WRITER_UNKNOWN && why.code == ERR_INTERNAL)        /* the server is there, and knows no such table */
			return err_set(&s->why, ERR_STORE_FAILED, "the database has no place for the writer's name; bring its schema up to date with '%s migrate', and start "
				       "again (%s)", s->rt->name, why.text) == ERR_OK;
		tell(s, turn, other, &why);
		atomic_store(&s->standby, true);
		wait_a_while(s);
		if (atomic_load(&s->give_up))
			return err_set(&s->why, ERR_UNAVAILABLE, "it was told to end while it was standby") == ERR_OK;
		turn = DB_WRITER_UNKNOWN;
	}
	became(s);
	return true;
}

void standby_leave(struct svc *s)
{
	db_writer_free(s->writer);
	s->writer = NULL;
}

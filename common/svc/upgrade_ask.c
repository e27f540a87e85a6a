/* upgrade_ask.c - asks the program that runs to start its successor, for `corral upgrade`. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/svc/runtime.h"
#include "common/svc/upgrade_wire.h"

enum { WAIT_S = 120 };

static enum err wait_for(int fd, struct why *why)
{
	struct timeval limit = { .tv_sec = WAIT_S };
	char text[UPGRADE_TEXT];
	int passed, got;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	got = upgrade_send(fd, "start", -1) ? upgrade_recv(fd, text, sizeof(text), &passed) : 0;
	if (got > 0 && strncmp(text, "done", 4) == 0)
		return ERR_OK;
	if (got > 0 && strncmp(text, "failed ", 7) == 0)
		return err_set(why, ERR_UNAVAILABLE, "nothing was changed: %s", text + 7);
	return err_set(why, ERR_UNAVAILABLE, got == 0 ? "the program that runs has ended" : "the program that runs has not answered for %d s", WAIT_S);
}

enum err svc_upgrade(const struct svc_def *const *defs, unsigned n, const char *name, int argc, char **argv, struct why *why)
{
	struct runtime rt;
	enum err e;
	int fd = -1;

	svc_prepare(&rt, name, "", defs, n);
	e = settings_fill(&rt, argc, argv, why);
	if (e == ERR_OK)
		fd = upgrade_dial(rt.state_dir, name);
	if (e == ERR_OK && fd < 0)
		e = err_set(why, ERR_UNAVAILABLE, "no %s runs on %s: %s; name its directory with --state-dir", name, rt.state_dir, strerror(errno));
	if (e == ERR_OK)
		e = wait_for(fd, why);
	if (fd >= 0)
		close(fd);
	svc_release(&rt);
	return e;
}

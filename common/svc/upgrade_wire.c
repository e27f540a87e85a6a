/* upgrade_wire.c - see upgrade_wire.h. */
#include "common/svc/upgrade_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/str.h"

/* A socket's path has at most 107 bytes: the directory is named by a descriptor of it. */
static int address_of(const char *dir, const char *name, struct sockaddr_un *ret)
{
	int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (at >= 0)
		snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%.60s.upgrade", at, name);
	return at;
}

void upgrade_unlink(const char *dir, const char *name)
{
	struct sockaddr_un sa;
	int at = address_of(dir, name, &sa);

	if (at < 0)
		return;
	(void)unlink(sa.sun_path);
	close(at);
}

static int open_socket(const char *dir, const char *name, bool listening)
{
	struct sockaddr_un sa;
	int at = address_of(dir, name, &sa), saved;
	int fd = at < 0 ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (listening ? SOCK_NONBLOCK : 0), 0);
	bool ok;

	if (listening && fd >= 0) {
		(void)unlink(sa.sun_path);
		ok = bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(fd, 8) == 0;
	} else {
		ok = fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
	}
	saved = errno;
	if (at >= 0)
		close(at);
	if (!ok && fd >= 0)
		close(fd);
	errno = saved;
	return ok ? fd : -1;
}

int upgrade_bind(const char *dir, const char *name) { return open_socket(dir, name, true); }
int upgrade_dial(const char *dir, const char *name) { return open_socket(dir, name, false); }

bool upgrade_send(int fd, const char *text, int passed)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { (char *)(uintptr_t)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (passed >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control.room);
		control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.head), &passed, sizeof(int));
	}
	do
		n = sendmsg(fd, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)iov.iov_len;
}

int upgrade_recv(int fd, char *text, size_t cap, int *ret_passed)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
	struct iovec iov = { text, cap - 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.room) };
	struct cmsghdr *c;
	ssize_t n;

	*ret_passed = -1;
	do
		n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 && errno == ECONNRESET ? 0 : (int)n;
	text[n] = '\0';
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_passed, CMSG_DATA(c), sizeof(int));
	return 1;
}

bool upgrade_same_user(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 && peer.uid == geteuid();
}

void upgrade_notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	socklen_t n;
	int fd;

	if (!path || (path[0] != '/' && path[0] != '@') || !str_copy(sa.sun_path, sizeof(sa.sun_path), str_of(path)))
		return;
	n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (sa.sun_path[0] == '@')
		sa.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&sa, n);
	close(fd);
}

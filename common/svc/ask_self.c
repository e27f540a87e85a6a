/* ask_self.c - what a program does beside serving, for containers that hold no shell and no curl: --probe asks the program that runs with this
 * configuration whether it is well, --wait does nothing for a time (a preStop hook). */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/data/opt_value.h"
#include "common/svc/runtime.h"

enum { PROBE_S = 3 };

struct pause { int64_t ms; };

static int unix_socket(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	str_copy(a.sun_path, sizeof(a.sun_path), str_of(path));
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int try_address(const struct addrinfo *ai)
{
	struct timeval limit = { .tv_sec = PROBE_S };
	int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
		return fd;
	close(fd);
	return -1;
}

/* "0.0.0.0:8110", "[::]:8110" and ":8110" are reached on loopback. */
static int tcp_socket(const char *listen)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	const char *colon = strrchr(listen, ':');
	char host[256];
	int fd = -1;

	if (!colon)
		return -1;
	str_copy(host, sizeof(host), str_n(listen, (size_t)(colon - listen)));
	if (host[0] == '[') {
		memmove(host, host + 1, strlen(host));
		host[strcspn(host, "]")] = '\0';
	}
	if (!host[0] || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0)
		str_copy(host, sizeof(host), STR("127.0.0.1"));
	if (strcmp(host, "::") == 0)
		str_copy(host, sizeof(host), STR("::1"));
	if (getaddrinfo(host, colon + 1, &hints, &list) != 0)
		return -1;
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = try_address(ai);
	freeaddrinfo(list);
	return fd;
}

/* The whole answer, at most what fits; its length. */
static size_t exchange(int fd, const char *what, char *to, size_t cap)
{
	char request[128];
	int len = snprintf(request, sizeof(request), "GET /%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", what);
	size_t n = 0;
	ssize_t got = send(fd, request, (size_t)len, MSG_NOSIGNAL) == len ? 1 : 0;

	while (got > 0 && n < cap - 1) {
		got = recv(fd, to + n, cap - 1 - n, 0);
		n += got > 0 ? (size_t)got : 0;
	}
	to[n] = '\0';
	return n;
}

int self_probe(struct runtime *rt, const char *what)
{
	const char *listen = rt->config.admin_listen, *body;
	char answer[16384];
	int fd;

	if (strcmp(what, "livez") != 0 && strcmp(what, "readyz") != 0 && strcmp(what, "startupz") != 0) {
		fprintf(stderr, "%s: --probe is livez, readyz or startupz, not '%s'\n", rt->name, what);
		return 2;
	}
	fd = strncmp(listen, "unix:", 5) == 0 ? unix_socket(listen + 5) : tcp_socket(listen);
	if (fd < 0 || !exchange(fd, what, answer, sizeof(answer))) {
		fprintf(stderr, "%s: nothing answers at %s (admin_listen): %s\n", rt->name, listen, strerror(errno));
		if (fd >= 0)
			close(fd);
		return 1;
	}
	close(fd);
	body = strstr(answer, "\r\n\r\n");
	printf("%s\n", body ? body + 4 : answer);
	return strncmp(answer, "HTTP/1.1 200 ", 13) == 0 && fflush(stdout) == 0 ? 0 : 1;
}

int self_wait(struct runtime *rt, const char *text)
{
	static const struct opt wait = OPT(struct pause, DURATION, ms, "", "", .min = 0, .max = 3600000);
	struct pause pause = { 0 };
	struct timespec left;
	struct why why;

	if (opt_value_parse(&wait, text, &pause, rt->mem, "--wait", &why) != ERR_OK) {
		fprintf(stderr, "%s: %s\n", rt->name, why.text);
		return 2;
	}
	left = (struct timespec){ pause.ms / 1000, pause.ms % 1000 * 1000000 };
	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
	return 0;
}

/* resolve.c - see resolve.h. The thread and the loop share one job; whoever lets go of it last frees it, so that neither
 * has to wait for the other: a look-up may take half a minute, the loop may be gone by then. */
#include "common/io/resolve.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/str.h"

struct resolver {
	atomic_int owners;            /* thread and loop */
	int fd;                       /* eventfd: the thread is ready */
	char host[256];
	char port[8];
	struct addresses to;          /* by the thread, before it writes fd */
	const char *error;
	struct loop_io io;            /* the rest is the loop's */
	void (*done)(void *, const struct addresses *, const char *);
	void *arg;
};

bool resolve_literal(const char *host, uint16_t port, struct addresses *ret)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
		memcpy(&ret->list[0].sa, &v4, sizeof(v4));
		ret->list[0].len = sizeof(v4);
	} else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
		memcpy(&ret->list[0].sa, &v6, sizeof(v6));
		ret->list[0].len = sizeof(v6);
	} else {
		return false;
	}
	ret->n = 1;
	return true;
}

static void let_go(struct resolver *r)
{
	if (atomic_fetch_sub(&r->owners, 1) != 1)
		return;
	close(r->fd);
	free(r);
}

static void *look_up(void *arg)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list = NULL;
	struct resolver *r = arg;
	uint64_t one = 1;
	int e = getaddrinfo(r->host, r->port, &hints, &list);

	for (struct addrinfo *ai = e == 0 ? list : NULL; ai && r->to.n < RESOLVE_MAX; ai = ai->ai_next) {
		struct address *a = &r->to.list[r->to.n++];

		memcpy(&a->sa, ai->ai_addr, ai->ai_addrlen);
		a->len = ai->ai_addrlen;
	}
	if (e == 0)
		freeaddrinfo(list);
	else
		r->error = gai_strerror(e);
	(void)!write(r->fd, &one, sizeof(one));
	let_go(r);
	return NULL;
}

static void on_found(struct loop_io *io, unsigned ready)
{
	struct resolver *r = list_entry(io, struct resolver, io);
	uint64_t n;

	if (read(r->fd, &n, sizeof(n)) != sizeof(n))
		return;
	loop_io_del(&r->io);
	r->done(r->arg, &r->to, r->error ? r->error : "the name has no address");
	let_go(r);
}

static bool start_thread(struct resolver *r)
{
	pthread_attr_t attr;
	pthread_t t;
	int e;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = pthread_create(&t, &attr, look_up, r);
	pthread_attr_destroy(&attr);
	return e == 0;
}

struct resolver *resolve_start(struct loop *l, const char *host, uint16_t port,
			       void (*done)(void *, const struct addresses *, const char *), void *arg)
{
	struct resolver *r = x_calloc(1, sizeof(*r));

	r->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	str_copy(r->host, sizeof(r->host), str_of(host));
	snprintf(r->port, sizeof(r->port), "%u", port);
	r->done = done;
	r->arg = arg;
	atomic_init(&r->owners, 2);
	if (r->fd < 0) {
		free(r);
		return NULL;
	}
	loop_io_add(l, &r->io, r->fd, LOOP_READ, on_found);
	if (start_thread(r))
		return r;
	loop_io_del(&r->io);
	close(r->fd);
	free(r);
	return NULL;
}

void resolve_cancel(struct resolver *r)
{
	if (!r)
		return;
	loop_io_del(&r->io);
	let_go(r);
}

/* resolve.c - see resolve.h. The thread and the loop share a look-up; whoever lets go of it last frees it, so that neither
 * has to wait for the other: a look-up may take a minute, the loop may be gone by then. */
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

enum {
	AGAIN_US = 2 * 1000 * 1000, TRIES = 3,
	THREADS_MAX = 64              /* of the process; a name service that answers nobody must not fill it with threads */
};

/* One look-up: a thread's and the loop's. */
struct look {
	atomic_int owners;            /* thread and loop */
	int fd;                       /* eventfd: the thread is ready */
	char host[256];
	char port[8];
	struct addresses to;          /* by the thread, before it writes fd */
	const char *error;
	struct loop_io io;            /* the loop's */
	struct resolver *resolver;    /* the loop's */
};

struct resolver {
	struct loop *loop;
	char host[256];
	uint16_t port;
	struct look *looks[TRIES];    /* NULL: not begun */
	unsigned n;
	struct loop_timer again;
	void (*done)(void *, const struct addresses *, const char *);
	void *arg;
};

static atomic_int threads;

static bool look_start(struct resolver *);
static void next_look(struct loop_timer *);

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

struct resolver *resolve_start(struct loop *l, const char *host, uint16_t port,
			       void (*done)(void *, const struct addresses *, const char *), void *arg)
{
	struct resolver *r = x_calloc(1, sizeof(*r));

	r->loop = l;
	str_copy(r->host, sizeof(r->host), str_of(host));
	r->port = port;
	r->done = done;
	r->arg = arg;
	if (look_start(r)) {
		loop_timer_set(l, &r->again, AGAIN_US, next_look);
		return r;
	}
	free(r);
	return NULL;
}

static void let_go(struct look *k)
{
	if (atomic_fetch_sub(&k->owners, 1) != 1)
		return;
	close(k->fd);
	free(k);
}

void resolve_cancel(struct resolver *r)
{
	if (!r)
		return;
	loop_timer_del(&r->again);
	for (unsigned i = 0; i < r->n; i++) {
		loop_io_del(&r->looks[i]->io);
		let_go(r->looks[i]);
	}
	free(r);
}

/* --- one look-up --- */

static void *look_up(void *arg)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list = NULL;
	struct look *k = arg;
	uint64_t one = 1;
	int e = getaddrinfo(k->host, k->port, &hints, &list);

	for (struct addrinfo *ai = e == 0 ? list : NULL; ai && k->to.n < RESOLVE_MAX; ai = ai->ai_next) {
		struct address *a = &k->to.list[k->to.n++];

		memcpy(&a->sa, ai->ai_addr, ai->ai_addrlen);
		a->len = ai->ai_addrlen;
	}
	if (e == 0)
		freeaddrinfo(list);
	else
		k->error = gai_strerror(e);
	(void)!write(k->fd, &one, sizeof(one));
	let_go(k);
	atomic_fetch_sub(&threads, 1);
	return NULL;
}

static void finish(struct resolver *r, const struct addresses *to, const char *error)
{
	struct addresses found = *to;
	void (*done)(void *, const struct addresses *, const char *) = r->done;
	void *arg = r->arg;

	resolve_cancel(r);
	done(arg, &found, error);
}

static void on_found(struct loop_io *io, unsigned ready)
{
	struct look *k = list_entry(io, struct look, io);
	uint64_t n;

	if (read(k->fd, &n, sizeof(n)) == sizeof(n))
		finish(k->resolver, &k->to, k->error ? k->error : "the name has no address");
}

static bool start_thread(struct look *k)
{
	pthread_attr_t attr;
	pthread_t t;
	int e;

	if (atomic_fetch_add(&threads, 1) >= THREADS_MAX) {
		atomic_fetch_sub(&threads, 1);
		return false;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = pthread_create(&t, &attr, look_up, k);
	pthread_attr_destroy(&attr);
	if (e)
		atomic_fetch_sub(&threads, 1);
	return e == 0;
}

static bool look_start(struct resolver *r)
{
	struct look *k = x_calloc(1, sizeof(*k));

	k->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	str_copy(k->host, sizeof(k->host), str_of(r->host));
	snprintf(k->port, sizeof(k->port), "%u", r->port);
	k->resolver = r;
	atomic_init(&k->owners, 2);
	if (k->fd >= 0) {
		loop_io_add(r->loop, &k->io, k->fd, LOOP_READ, on_found);
		if (start_thread(k)) {
			r->looks[r->n++] = k;
			return true;
		}
		loop_io_del(&k->io);
		close(k->fd);
	}
	free(k);
	return false;
}

/* Nobody has answered yet: what was asked too early may never be, and is not waited for. */
static void next_look(struct loop_timer *t)
{
	static const struct addresses none;
	struct resolver *r = list_entry(t, struct resolver, again);

	if (r->n == TRIES || !look_start(r))
		finish(r, &none, "the name service does not answer");
	else
		loop_timer_set(r->loop, t, AGAIN_US, next_look);
}

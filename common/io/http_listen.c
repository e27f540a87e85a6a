/* http_listen.c - the listening half of the HTTP server (http_server.h): addresses, their descriptors, accepting. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/data/log.h"
#include "common/io/http_conn.h"

enum { BACKLOG = 4096, ACCEPT_PAUSE_US = 100000, ACCEPT_WARN_US = 60000000 };

static void on_accept(struct loop_io *, unsigned ready);

/* --- listening --- */

static int bind_socket(const struct sockaddr *sa, socklen_t n, bool reuseport)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, saved;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (sa->sa_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));      /* accepted ones inherit it */
	if (reuseport)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (bind(fd, sa, n) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

/* With SO_REUSEPORT another program's listener, a second copy of this one say, would go unnoticed and take half the clients. */
static bool is_free(const struct sockaddr *sa, socklen_t n)
{
	int fd = bind_socket(sa, n, false);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* A socket file that nobody listens on is what a killed predecessor left. */
static bool unlink_dead_socket(const struct sockaddr_un *sa)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool dead = fd >= 0 && connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 && errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return dead && unlink(sa->sun_path) == 0;
}

static int listen_unix(struct listener *at, const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (!str_copy(sa.sun_path, sizeof(sa.sun_path), str_of(path)) || !*path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = bind_socket((struct sockaddr *)&sa, sizeof(sa), false);
	if (fd < 0 && errno == EADDRINUSE) {
		if (unlink_dead_socket(&sa))
			fd = bind_socket((struct sockaddr *)&sa, sizeof(sa), false);
		else
			errno = EADDRINUSE;
	}
	if (fd >= 0)
		at->unix_path = x_strdup(path);
	return fd;
}

/* Splits "host:port", "[v6]:port", ":port"; false when it is none of these. */
static bool split_address(const char *at, char *host, size_t cap, char *port, size_t port_cap)
{
	const char *colon = strrchr(at, ':');
	struct str h, p;
	uint64_t n;

	if (!colon)
		return false;
	h = str_n(at, (size_t)(colon - at));
	p = str_of(colon + 1);
	if (h.n >= 2 && h.p[0] == '[' && h.p[h.n - 1] == ']')
		h = str_n(h.p + 1, h.n - 2);
	else if (memchr(h.p, ':', h.n))
		return false;
	if (h.n == 0)
		h = STR("127.0.0.1");
	if (str_eqz(h, "*"))
		h = STR("0.0.0.0");
	return str_u64(p, &n) && n <= 65535 && str_copy(host, cap, h) && str_copy(port, port_cap, p);
}

static uint16_t port_of(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)sa)->sin_port);
	return sa->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)sa)->sin6_port) : 0;
}

/* Port 0 is any port. */
static bool same_address(const struct sockaddr *want, const struct sockaddr_storage *have)
{
	struct sockaddr_storage a = { 0 };

	memcpy(&a, want, want->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
	if (a.ss_family != have->ss_family || (port_of(&a) && port_of(&a) != port_of(have)))
		return false;
	if (a.ss_family == AF_INET)
		return ((struct sockaddr_in *)&a)->sin_addr.s_addr == ((const struct sockaddr_in *)have)->sin_addr.s_addr;
	return memcmp(&((struct sockaddr_in6 *)&a)->sin6_addr, &((const struct sockaddr_in6 *)have)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* Is a descriptor that was given one of this address? */
static bool listens_at(int fd, const struct sockaddr *want)
{
	struct sockaddr_storage have = { 0 };
	socklen_t n = sizeof(have);

	return getsockname(fd, (struct sockaddr *)&have, &n) == 0 && same_address(want, &have);
}

static int listen_tcp(struct http_server *s, const struct http_listen *l, const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *ai;
	struct sockaddr_storage bound = { 0 };
	socklen_t n = sizeof(bound);
	bool given;
	int fd;

	if (getaddrinfo(host, port, &hints, &ai) != 0) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	given = l->given && listens_at(l->fd, ai->ai_addr);
	if (given || l->or_none)
		fd = given ? l->fd : -1;
	else if (s->opts.reuseport && s->opts.first && !is_free(ai->ai_addr, ai->ai_addrlen))
		fd = -1;
	else
		fd = bind_socket(ai->ai_addr, ai->ai_addrlen, s->opts.reuseport);
	freeaddrinfo(ai);
	if (fd >= 0 && !s->port && getsockname(fd, (struct sockaddr *)&bound, &n) == 0)
		s->port = port_of(&bound);
	return fd;
}

static bool given_unix(const struct http_listen *l, const char *path)
{
	struct sockaddr_un have = { 0 };
	socklen_t n = sizeof(have);

	return l->given && getsockname(l->fd, (struct sockaddr *)&have, &n) == 0 && have.sun_family == AF_UNIX && strcmp(have.sun_path, path) == 0;
}

static int open_address(struct listener *at, const struct http_listen *l, struct why *why)
{
	char host[256], port[8];
	int fd;

	if (strncmp(l->address, "unix:", 5) == 0) {
		if (given_unix(l, l->address + 5)) {
			at->unix_path = x_strdup(l->address + 5);
			return l->fd;
		}
		fd = l->or_none ? -1 : listen_unix(at, l->address + 5);
	} else if (split_address(l->address, host, sizeof(host), port, sizeof(port))) {
		fd = listen_tcp(at->srv, l, host, port);
	} else {
		err_set(why, ERR_INVALID, "'%s' is not an address to listen on; write host:port, [v6]:port, :port or unix:/path", l->address);
		return -1;
	}
	if (fd < 0)
		err_set(why, ERR_UNAVAILABLE, "cannot listen on %s: %s", l->address,
			errno == EADDRINUSE ? "another program has this address; stop it or choose another port" : strerror(errno));
	return fd;
}

bool http_server_listen(struct http_server *s, const struct http_listen *l, struct why *why)
{
	struct listener *at = x_calloc(1, sizeof(*at)), **last = &s->listeners;

	at->srv = s;
	at->door = l->door;
	at->fd = open_address(at, l, why);
	if (l->given && at->fd != l->fd)
		close(l->fd);
	if (at->fd < 0) {
		free(at);
		return false;
	}
	at->tls = tls_identity_ref(l->tls);
	while (*last)
		last = &(*last)->next;
	*last = at;
	if (!s->paused)
		loop_io_add(s->loop, &at->io, at->fd, LOOP_READ, on_accept);
	return true;
}

void http_server_accept(struct http_server *s)
{
	if (!s->paused)
		return;
	s->paused = false;
	for (struct listener *at = s->listeners; at; at = at->next)
		if (at->fd >= 0)
			loop_io_add(s->loop, &at->io, at->fd, LOOP_READ, on_accept);
}

void http_server_set_tls(struct http_server *s, struct tls_identity *identity)
{
	for (struct listener *at = s->listeners; at; at = at->next)
		if (at->tls) {
			tls_identity_unref(at->tls);
			at->tls = tls_identity_ref(identity);
		}
}

static const struct listener *listener_at(const struct http_server *s, unsigned i)
{
	const struct listener *at = s->listeners;

	while (at && i--)
		at = at->next;
	return at;
}

int http_server_fd(const struct http_server *s, unsigned i)
{
	const struct listener *at = listener_at(s, i);

	return at ? at->fd : -1;
}

uint8_t http_server_door_at(const struct http_server *s, unsigned i)
{
	const struct listener *at = listener_at(s, i);

	return at ? at->door : 0;
}

uint16_t http_server_port_at(const struct http_server *s, unsigned i)
{
	struct sockaddr_storage bound = { 0 };
	socklen_t n = sizeof(bound);
	int fd = http_server_fd(s, i);

	return fd >= 0 && getsockname(fd, (struct sockaddr *)&bound, &n) == 0 ? port_of(&bound) : 0;
}

void http_server_hand_over(struct http_server *s) { s->handed_over = true; }

static void listener_close(struct listener *at, bool take_waiting)
{
	bool live = at->io.impl != NULL;

	if (live && take_waiting)
		on_accept(&at->io, LOOP_READ);        /* whoever the kernel has accepted already is served */
	loop_timer_del(&at->retry);
	if (live)
		loop_io_del(&at->io);
	close(at->fd);
	at->fd = -1;
	if (at->unix_path && !at->srv->handed_over && !at->srv->paused)
		(void)unlink(at->unix_path);
}

void listeners_close(struct http_server *s, bool take_waiting)
{
	for (struct listener *at = s->listeners; at; at = at->next)
		if (at->fd >= 0)
			listener_close(at, take_waiting);
}

void listeners_free(struct http_server *s)
{
	struct listener *at;

	while ((at = s->listeners)) {
		s->listeners = at->next;
		tls_identity_unref(at->tls);
		free(at->unix_path);
		free(at);
	}
}

/* --- accepting --- */

static void refuse_conn(int fd, bool tls)
{
	static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n"
				   "Retry-After: 1\r\nConnection: close\r\n\r\ntoo many connections\n";

	if (!tls)
		(void)!send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	close(fd);
}

static void accept_again(struct loop_timer *t)
{
	struct listener *at = list_entry(t, struct listener, retry);

	on_accept(&at->io, LOOP_READ);
}

/* No descriptor or memory for it: rest, for the listener stays ready and would keep the loop spinning. Said once a minute: a few
 * may be accepted in between, and ten lines a second help nobody. */
static void accept_pause(struct listener *at)
{
	struct http_server *s = at->srv;
	int64_t now_us = loop_now_us(s->loop);

	if (now_us >= s->accept_warn_us) {
		LOG_WARN("connections wait: accepting failed; raise the limit of open files", LOG_S("error", strerror(errno)),
			 LOG_I("connections", s->n_conns));
		s->accept_warn_us = now_us + ACCEPT_WARN_US;
	}
	loop_timer_set(s->loop, &at->retry, ACCEPT_PAUSE_US, accept_again);
}

static void on_accept(struct loop_io *io, unsigned ready)
{
	struct listener *at = list_entry(io, struct listener, io);
	struct http_server *s = at->srv;

	for (;;) {
		struct sockaddr_storage sa = { 0 };
		socklen_t n = sizeof(sa);
		int fd = accept4(io->fd, (struct sockaddr *)&sa, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO))
			continue;
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0) {
			accept_pause(at);
			return;
		}
		if (s->n_conns >= s->opts.max_conns)
			refuse_conn(fd, at->tls != NULL);
		else
			conn_new(at, fd, &sa);
	}
}

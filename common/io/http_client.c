/* http_client.c - see http_client.h. Nouns: a pool (one server), its links (connections), its calls (one at a time on a link).
 *
 *   call:  WAITING for addresses ──▶ CONNECTING (and TLS handshake) ──▶ HEAD ──▶ BODY ──▶ ended        a link is idle or has a call
 *                    └── an idle link ─────────────▶ ┘  └── a reused link broke before the first byte: once more, afresh
 *
 * Names are looked up by a short-lived thread (resolve.c). Deadlines are looked at by one timer per pool. */
#include "common/io/http_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/list.h"
#include "common/io/resolve.h"
#include "common/io/tls.h"

enum {
	SWEEP_US = 50000, SWEEP_PARTS = 10, SWEEP_MIN = 64,
	SPARE_CALLS = 64, PARTS_INLINE = 4, IOV_MAX_PARTS = 16,
	SMALL_BYTES = 4096,           /* what is sent from one piece: the kernel takes longer over a list than we do over the copy */
	READ_TURN = 1 << 20,
	QUIET_US = 100000,
	STALE_US = 1000000,           /* a server that closed before it read the request is heard of sooner */
	STREAMS_ASIDE = 64            /* of a server that ends a connection after a stream: after so many one is kept again, for it may have changed */
};

struct link {
	struct loop_io io;
	struct http_pool *pool;
	struct http_call *call;       /* NULL while idle */
	struct list node;             /* on pool.idle while idle */
	struct loop_deferred release;
	struct tls *tls;              /* NULL: plain */
	char error[200];              /* why TLS failed */
	int64_t idle_since_us;
	struct buf in;                /* part of a head */
	size_t seen;
	bool used;                    /* has answered before */
	bool streamed;                /* in chunks, the last time */
	bool suspect;                 /* a reset may hide behind what was read last, see sweep() */
	bool broken;                  /* ended by the server, or could not be written: never idle again */
};

enum call_state { CALL_WAITING, CALL_CONNECTING, CALL_HEAD, CALL_BODY, CALL_OVER };

/* What each piece of an answer touches comes first, as in struct conn. */
struct http_call {
	struct http_pool *pool;
	struct link *link;
	enum call_state state;
	enum http_framing framing;
	bool sent, reused, again, paused, readable, hup, answered;
	bool keep;
	int64_t since_us;             /* of the wait that runs: connecting, first byte, between bytes */
	void *arg;
	struct http_call_ops ops;
	struct http_chunked chunked;
	uint64_t left;                /* of HTTP_LENGTH */
	struct list node;             /* on pool.calls */
	struct http_call_opts opts;
	struct loop_deferred release, flush;
	struct http_call *next;       /* among pool.spare */
	struct loop_timer fail;
	enum http_call_error error;   /* for 'fail' */
	const char *error_text;
	unsigned n_parts, part;       /* part and at: the first byte not sent */
	size_t at;
	struct str *parts, inline_parts[PARTS_INLINE + 1];
	unsigned address;             /* index of the one tried */
};

struct http_pool {
	struct loop *loop;
	struct http_url url;
	struct http_pool_opts opts;
	struct list idle;             /* the youngest first */
	uint32_t n_idle, n_calls, n_spare;
	struct http_call *spare;      /* memory of calls that are over, the latest first: it is in the cache */
	struct list calls;            /* the one looked at longest ago first */
	struct addresses to;
	struct tls_memory *memory;    /* NULL: plain */
	struct resolver *resolver;    /* runs while calls wait for it */
	bool ends_streams;            /* the server says keep-alive, and ends the connection after an answer in chunks, as llama.cpp does */
	uint32_t n_streams;           /* answered while it is so: see STREAMS_ASIDE */
	bool literal, stale;          /* stale: look the name up again before the next connection */
	struct loop_timer sweep;
	struct http_head head;        /* of the answer being parsed */
	struct loop_deferred release;
	bool freed;
};

static void on_ready(struct loop_io *, unsigned ready);
static void sweep(struct loop_timer *);
static void on_resolved(void *arg, const struct addresses *, const char *error);
static void call_begin(struct http_call *);
static void call_connect(struct http_call *);
static void call_send(struct http_call *);
static void handshake(struct http_call *);
static void send_rest(struct http_call *);
static void call_failed(struct http_call *, enum http_call_error, const char *text);
static void link_close(struct link *);
static void link_read(struct link *, bool hup);

/* --- pools --- */

bool http_url_parse(struct http_url *u, struct str url, struct why *why)
{
	struct str rest = url, authority, host;
	const char *slash, *colon;
	uint64_t port;

	u->tls = str_starts(url, STR("https://"));
	port = u->tls ? 443 : 80;
	if (!u->tls && !str_starts(url, STR("http://"))) {
		err_field(why, ERR_INVALID, "url", "'" STR_FMT "' is not an http:// or https:// address", STR_ARG(url));
		return false;
	}
	rest = str_from(url, u->tls ? 8 : 7);
	slash = memchr(rest.p, '/', rest.n);
	authority = slash ? str_n(rest.p, (size_t)(slash - rest.p)) : rest;
	rest = slash ? str_n(slash, rest.n - authority.n) : STR("");
	while (rest.n && rest.p[rest.n - 1] == '/')
		rest.n--;
	host = authority;
	colon = memrchr(authority.p, ':', authority.n);
	if (colon && !memchr(colon, ']', authority.n - (size_t)(colon - authority.p))) {
		host = str_n(authority.p, (size_t)(colon - authority.p));
		if (!str_u64(str_from(authority, host.n + 1), &port) || port == 0 || port > 65535)
			host.n = 0;
	}
	if (!str_copy(u->host_header, sizeof(u->host_header), authority))
		host.n = 0;
	if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']')
		host = str_n(host.p + 1, host.n - 2);
	u->port = (uint16_t)port;
	if (host.n && http_value_ok(url) && !str_find(url, STR(" ")) && !str_find(url, STR("?")) && !str_find(url, STR("#")) &&
	    !str_find(authority, STR("@")) && str_copy(u->host, sizeof(u->host), host) && str_copy(u->base, sizeof(u->base), rest))
		return true;
	err_field(why, ERR_INVALID, "url", "'" STR_FMT "' is not http://host:port/path", STR_ARG(url));
	return false;
}

struct http_pool *http_pool_new(struct loop *l, const struct http_url *url, const struct http_pool_opts *opts)
{
	struct http_pool *p = x_calloc(1, sizeof(*p));

	p->loop = l;
	p->url = *url;
	if (opts)
		p->opts = *opts;
	p->opts.max_idle = p->opts.max_idle ? p->opts.max_idle : 64;
	p->opts.idle_ms = p->opts.idle_ms ? p->opts.idle_ms : 4000;
	list_init(&p->idle);
	list_init(&p->calls);
	p->memory = url->tls ? tls_memory_new() : NULL;
	p->literal = resolve_literal(url->host, url->port, &p->to);
	return p;
}

int64_t http_pool_now_us(const struct http_pool *p) { return loop_now_us(p->loop); }
uint32_t http_pool_active(const struct http_pool *p) { return p->n_calls; }

static void release_pool(struct loop_deferred *d)
{
	struct http_pool *p = list_entry(d, struct http_pool, release);

	tls_memory_free(p->memory);
	while (p->spare) {
		struct http_call *call = p->spare;

		p->spare = call->next;
		free(call);
	}
	free(p);
}

void http_pool_free(struct http_pool *p)
{
	if (!p || p->freed)
		return;
	p->freed = true;
	while (!list_empty(&p->calls))
		call_failed(list_entry(p->calls.next, struct http_call, node), HTTP_CALL_CANCELLED, "the pool was closed");
	while (!list_empty(&p->idle))
		link_close(list_entry(p->idle.next, struct link, node));
	resolve_cancel(p->resolver);
	loop_timer_del(&p->sweep);
	loop_defer(p->loop, &p->release, LOOP_PHASE_FREE, release_pool);
}

const char *http_call_error_name(enum http_call_error e)
{
	static const char *const names[] = {
		[HTTP_CALL_REFUSED] = "refused", [HTTP_CALL_CONNECT_TIMEOUT] = "connect_timeout", [HTTP_CALL_RESET] = "reset",
		[HTTP_CALL_FIRST_BYTE_TIMEOUT] = "first_byte_timeout", [HTTP_CALL_IDLE_TIMEOUT] = "idle_timeout",
		[HTTP_CALL_CUT] = "cut", [HTTP_CALL_BAD_FRAMING] = "bad_framing", [HTTP_CALL_DEADLINE] = "deadline",
		[HTTP_CALL_CANCELLED] = "cancelled",
	};

	return (unsigned)e < sizeof(names) / sizeof(names[0]) ? names[e] : "unknown";
}

struct str http_call_head(struct arena *a, const struct http_pool *p, const char *method, struct str path, struct str headers,
			  bool has_body, uint64_t content_length)
{
	char digits[20];
	struct str length = str_from_u64(content_length, digits);
	const struct str parts[] = { str_of(method), STR(" "), str_of(p->url.base), path, STR(" HTTP/1.1\r\nHost: "), str_of(p->url.host_header),
		STR("\r\n"), headers, STR("Content-Length: "), length, STR("\r\n\r\n") };

	if (has_body)
		return arena_join(a, parts, sizeof(parts) / sizeof(*parts));
	return arena_join(a, (const struct str[]){ parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], STR("\r\n"), headers, STR("\r\n") }, 9);
}

/* --- calls, as the caller sees them --- */

static struct http_call *call_new(struct http_pool *p)
{
	struct http_call *call = p->spare;

	if (call) {
		p->spare = call->next;
		p->n_spare--;
		memset(call, 0, sizeof(*call));
	} else {
		call = x_calloc(1, sizeof(*call));
	}
	call->pool = p;
	return call;
}

struct http_call *http_call_start(struct http_pool *p, struct str head, const struct str *body, unsigned n_body,
				  const struct http_call_opts *opts, const struct http_call_ops *ops, void *arg)
{
	struct http_call *call = call_new(p);

	call->ops = *ops;
	call->arg = arg;
	if (opts)
		call->opts = *opts;
	call->opts.connect_ms = call->opts.connect_ms ? call->opts.connect_ms : 2000;
	call->n_parts = n_body + 1;
	call->parts = n_body <= PARTS_INLINE ? call->inline_parts : x_malloc(call->n_parts * sizeof(struct str));
	call->parts[0] = head;
	for (unsigned i = 0; i < n_body; i++)
		call->parts[i + 1] = body[i];
	list_push(&p->calls, &call->node);
	if (p->n_calls++ == 0 && !p->sweep.heap_index)
		loop_timer_set(p->loop, &p->sweep, SWEEP_US, sweep);
	call_begin(call);
	return call;
}

bool http_call_sent(const struct http_call *call) { return call->sent; }
bool http_call_reused(const struct http_call *call) { return call->reused; }
bool http_call_answered(const struct http_call *call) { return call->answered; }

static void release_call(struct loop_deferred *d)
{
	struct http_call *call = list_entry(d, struct http_call, release);

	if (call->parts != call->inline_parts)
		free(call->parts);
	if (call->pool->n_spare < SPARE_CALLS) {
		call->next = call->pool->spare;
		call->pool->spare = call;
		call->pool->n_spare++;
	} else {
		free(call);
	}
}

/* Takes the call off everything; memory goes at the end of the turn, so that loops over its data can still ask its state. */
static void call_over(struct http_call *call)
{
	struct link *link = call->link;

	call->state = CALL_OVER;
	call->link = NULL;
	loop_timer_del(&call->fail);
	loop_undefer(&call->flush);
	list_del(&call->node);
	call->pool->n_calls--;
	loop_defer(call->pool->loop, &call->release, LOOP_PHASE_FREE, release_call);
	if (link) {
		link->call = NULL;
		link_close(link);
	}
}

void http_call_cancel(struct http_call *call)
{
	if (call->state != CALL_OVER)
		call_over(call);
}

static void call_failed(struct http_call *call, enum http_call_error e, const char *text)
{
	if (call->state == CALL_OVER)
		return;
	call_over(call);
	call->ops.on_error(call, e, text, call->arg);
}

static void fail_now(struct loop_timer *t)
{
	struct http_call *call = list_entry(t, struct http_call, fail);

	call_failed(call, call->error, call->error_text);
}

/* For what goes wrong while http_call_start() runs: told in the next turn. A timer, because a caller that starts again at
 * once must not keep the turn from ending. 'text' stays valid. */
static void call_fail_later(struct http_call *call, enum http_call_error e, const char *text)
{
	call->error = e;
	call->error_text = text;
	loop_timer_set(call->pool->loop, &call->fail, 0, fail_now);
}

void http_call_pause(struct http_call *call) { call->paused = true; }

void http_call_resume(struct http_call *call)
{
	if (!call->paused)
		return;
	call->paused = false;
	call->since_us = loop_now_us(call->pool->loop);
	if (call->link && call->readable)
		loop_io_again(&call->link->io, LOOP_READ | (call->hup ? LOOP_HUP : 0));
	call->readable = false;
}

/* --- connections --- */

static void release_link(struct loop_deferred *d)
{
	struct link *link = list_entry(d, struct link, release);

	tls_free(link->tls);
	buf_free(&link->in);
	free(link);
}

static void link_close(struct link *link)
{
	struct http_pool *p = link->pool;
	int fd = link->io.fd;

	if (fd < 0)
		return;
	if (link->tls)
		tls_say_end(link->tls);
	loop_io_del(&link->io);
	close(fd);
	if (!list_empty(&link->node)) {
		list_del(&link->node);
		p->n_idle--;
	}
	loop_defer(p->loop, &link->release, LOOP_PHASE_FREE, release_link);
}

static struct link *link_new(struct http_pool *p, int fd)
{
	struct link *link = x_calloc(1, sizeof(*link));

	link->pool = p;
	list_init(&link->node);
	loop_io_add(p->loop, &link->io, fd, LOOP_READ | LOOP_WRITE, on_ready);
	return link;
}

static void link_give(struct http_call *call, struct link *link)
{
	call->link = link;
	call->reused = link->used;
	link->call = call;
	link->seen = 0;
}

static struct link *idle_take(struct http_pool *p)
{
	struct link *link;

	if (list_empty(&p->idle))
		return NULL;
	link = list_entry(p->idle.next, struct link, node);
	list_del(&link->node);
	p->n_idle--;
	return link;
}

static void idle_put(struct link *link)
{
	struct http_pool *p = link->pool;

	link->used = true;
	link->call = NULL;
	link->idle_since_us = loop_now_us(p->loop);
	list_push_front(&p->idle, &link->node);
	p->n_idle++;
	if (p->n_idle > p->opts.max_idle)
		link_close(list_entry(p->idle.prev, struct link, node));
}

/* Asked on such a connection right after a stream, the request and the end would cross, and nobody could say whether it was read. */
static bool ends_with_stream(struct link *link)
{
	struct http_pool *p = link->pool;

	return link->streamed && p->ends_streams && ++p->n_streams % STREAMS_ASIDE != 0;
}

/* It ended idle, or with a request on it that was not answered. */
static void note_end(struct link *link)
{
	if (link->used && link->streamed && loop_now_us(link->pool->loop) - link->idle_since_us < STALE_US)
		link->pool->ends_streams = true;
}

static void call_begin(struct http_call *call)
{
	struct http_pool *p = call->pool;
	struct link *link = call->opts.fresh || call->again ? NULL : idle_take(p);

	call->since_us = loop_now_us(p->loop);
	if (link) {
		link_give(call, link);
		call_send(call);
		return;
	}
	if (p->to.n && !(p->stale && !p->literal)) {
		call_connect(call);
		return;
	}
	call->state = CALL_WAITING;
	if (!p->resolver)
		p->resolver = resolve_start(p->loop, p->url.host, p->url.port, on_resolved, p);
	if (!p->resolver)
		call_fail_later(call, HTTP_CALL_REFUSED, "no thread to look the name up");
}

static void on_resolved(void *arg, const struct addresses *to, const char *error)
{
	struct http_pool *p = arg;

	p->resolver = NULL;
	p->stale = false;
	if (to->n)
		p->to = *to;
	list_each_safe(it, &p->calls) {
		struct http_call *call = list_entry(it, struct http_call, node);

		if (call->state != CALL_WAITING)
			continue;
		if (p->to.n) {
			call_connect(call);
			continue;
		}
		call->state = CALL_CONNECTING;
		call_fail_later(call, HTTP_CALL_REFUSED, error);
	}
}

/* Tries the addresses from call.address on; an error here or later moves on to the next one. */
static void call_connect(struct http_call *call)
{
	struct http_pool *p = call->pool;
	int on = 1, error = 0;

	call->state = CALL_CONNECTING;
	for (; call->address < p->to.n; call->address++) {
		const struct address *to = &p->to.list[call->address];
		int fd = socket(to->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

		if (fd < 0) {
			error = errno;
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (connect(fd, (const struct sockaddr *)&to->sa, to->len) == 0 || errno == EINPROGRESS) {
			link_give(call, link_new(p, fd));
			return;
		}
		close(fd);
	}
	p->stale = true;
	call_fail_later(call, HTTP_CALL_REFUSED, error == EMFILE || error == ENFILE ? "no descriptor left" : "connection refused");
}

static void connected(struct http_call *call)
{
	int error = 0;
	socklen_t n = sizeof(error);
	struct link *link = call->link;

	if (getsockopt(link->io.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 || error) {
		link->call = NULL;
		call->link = NULL;
		link_close(link);
		call->address++;
		call_connect(call);
		return;
	}
	call->since_us = loop_now_us(call->pool->loop);
	if (!call->pool->url.tls) {
		call_send(call);
	} else if (call->pool->opts.trust) {
		link->tls = tls_connect(call->pool->opts.trust, call->pool->memory, link->io.fd, call->pool->url.host);
		handshake(call);
	} else {
		call_failed(call, HTTP_CALL_REFUSED, "TLS: it is not known whose certificates are good");
	}
}

static const char *tls_failed(struct link *link, const char *otherwise)
{
	const char *said = tls_error(link->tls);

	(void)snprintf(link->error, sizeof(link->error), "TLS: %s", *said ? said : otherwise);
	return link->error;
}

/* OpenSSL does it while it is asked to read; the server has nothing to say before it was asked. */
static void handshake(struct http_call *call)
{
	struct link *link = call->link;
	char early;
	ssize_t n = tls_recv(link->tls, &early, 1);

	if (n < 0 && errno == EAGAIN) {
		if (!tls_ready(link->tls))
			return;
		call->since_us = loop_now_us(call->pool->loop);
		call_send(call);
		return;
	}
	call_failed(call, HTTP_CALL_REFUSED, tls_failed(link, n > 0 ? "the server spoke before it was asked" : "the server ended the connection in the handshake"));
}

static bool all_sent(const struct http_call *call) { return call->part == call->n_parts; }

/* True: all that we sent was acknowledged, and the server ended the connection in order: it has read the request. With bytes that it has
 * not read it would have been a reset. */
static bool was_read(const struct http_call *call)
{
	struct tcp_info said;
	socklen_t n = sizeof(said);

	return all_sent(call) && getsockopt(call->link->io.fd, IPPROTO_TCP, TCP_INFO, &said, &n) == 0 && said.tcpi_state == TCP_CLOSE_WAIT && said.tcpi_unacked == 0;
}

/* A server that closed its idle connection just when it was reused has not seen the request. One that read it, or that broke later, may have
 * worked on it. */
static bool is_stale(const struct http_call *call)
{
	return call->reused && !call->answered && !call->again && loop_now_us(call->pool->loop) - call->since_us < STALE_US && !was_read(call);
}

/* The link broke: on a stale one nothing is lost, so once more, on a fresh one. */
static void link_broke(struct http_call *call, const char *text)
{
	struct link *link = call->link;

	if (!call->answered)
		note_end(link);
	if (call->state == CALL_BODY) {
		call_failed(call, HTTP_CALL_CUT, text);
		return;
	}
	if (!is_stale(call)) {
		call_failed(call, HTTP_CALL_RESET, text);
		return;
	}
	link->call = NULL;
	call->link = NULL;
	link_close(link);
	call->again = true;
	call->sent = false;
	call->part = 0;
	call->at = 0;
	call->address = 0;
	call_begin(call);
}

/* --- sending --- */

static unsigned to_send(const struct http_call *call, struct iovec *iov)
{
	unsigned n = 0;

	for (unsigned i = call->part; i < call->n_parts && n < IOV_MAX_PARTS; i++) {
		struct str s = i == call->part ? str_from(call->parts[i], call->at) : call->parts[i];

		iov[n++] = (struct iovec){ (char *)(uintptr_t)s.p, s.n };
	}
	return n;
}

static void took(struct http_call *call, size_t n)
{
	call->sent |= n > 0;
	while (!all_sent(call)) {
		size_t left = call->parts[call->part].n - call->at;

		if (n < left) {
			call->at += n;
			return;
		}
		n -= left;
		call->at = 0;
		call->part++;
	}
}

static ssize_t send_list(struct link *link, struct iovec *iov, unsigned n)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	return link->tls ? tls_send(link->tls, iov->iov_base, iov->iov_len) : sendmsg(link->io.fd, &m, MSG_NOSIGNAL);
}

static ssize_t send_parts(struct link *link, struct iovec *iov, unsigned n)
{
	char all[SMALL_BYTES], *at = all;

	for (unsigned i = 0; i < n; i++) {
		if (iov[i].iov_len > (size_t)(all + sizeof(all) - at))
			return send_list(link, iov, n);
		memcpy(at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return link->tls ? tls_send(link->tls, all, (size_t)(at - all)) : send(link->io.fd, all, (size_t)(at - all), MSG_NOSIGNAL);
}

/* May run inside http_call_start(): tells nobody anything. An error of the connection comes to on_ready() as well,
 * where an answer that was sent before it is read first. */
static void send_rest(struct http_call *call)
{
	while (!all_sent(call)) {
		struct iovec iov[IOV_MAX_PARTS];
		ssize_t n = send_parts(call->link, iov, to_send(call, iov));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			call->part = call->n_parts;
			call->link->broken = true;
			loop_io_again(&call->link->io, LOOP_READ | LOOP_HUP);
			return;
		}
		took(call, (size_t)n);
	}
}

static void on_flush(struct loop_deferred *d)
{
	struct http_call *call = list_entry(d, struct http_call, flush);

	if (call->link && call->state != CALL_CONNECTING)
		send_rest(call);
}

/* At the end of the turn: what all of its calls say leaves one after the other, and the kernel's way out stays in the cache. */
static void call_send(struct http_call *call)
{
	call->state = CALL_HEAD;
	loop_defer(call->pool->loop, &call->flush, LOOP_PHASE_SEND, on_flush);
}

/* --- the answer --- */

static void answer_done(struct http_call *call, bool clean)
{
	struct link *link = call->link;

	call->link = NULL;
	link->call = NULL;
	link->streamed = call->framing == HTTP_CHUNKED;
	if (clean && call->keep && all_sent(call) && !link->broken && !call->pool->freed && !ends_with_stream(link))
		idle_put(link);
	else
		link_close(link);
	call_over(call);
	call->ops.on_end(call, call->arg);
}

static void bad_framing(struct http_call *call, const char *text) { call_failed(call, HTTP_CALL_BAD_FRAMING, text); }

static bool give(struct http_call *call, struct str data)
{
	if (data.n)
		call->ops.on_data(call, data, call->arg);
	return call->state != CALL_OVER;
}

static void body_length(struct http_call *call, struct str in)
{
	struct str data = str_n(in.p, in.n < call->left ? in.n : (size_t)call->left);

	call->left -= data.n;
	if (give(call, data) && call->left == 0)
		answer_done(call, data.n == in.n);
}

static void body_chunked(struct http_call *call, struct str in)
{
	enum http_parse r;
	struct str data;
	struct why why;

	do {
		r = http_chunked_next(&call->chunked, &in, &data, &why);
		if (r == HTTP_BAD) {
			bad_framing(call, why.text);
			return;
		}
		if (!give(call, data))
			return;
	} while (r == HTTP_MORE && in.n);
	if (r == HTTP_DONE)
		answer_done(call, in.n == 0);
}

static void body_feed(struct http_call *call, struct str in)
{
	switch (call->framing) {
	case HTTP_NO_BODY:
		answer_done(call, in.n == 0);
		break;
	case HTTP_LENGTH:
		body_length(call, in);
		break;
	case HTTP_CHUNKED:
		if (in.n)
			body_chunked(call, in);
		break;
	case HTTP_UNTIL_CLOSE:
		(void)give(call, in);
		break;
	}
}

static void head_done(struct http_call *call, struct str rest)
{
	const struct http_head *h = &call->pool->head;

	call->state = CALL_BODY;
	call->framing = h->framing;
	call->left = h->framing == HTTP_LENGTH ? h->content_length : 0;
	call->keep = h->keep_alive;
	http_chunked_init(&call->chunked);
	call->ops.on_head(call, h, call->arg);
	if (call->state == CALL_OVER)
		return;
	body_feed(call, rest);
}

/* 'in' begins with a head. Interim answers (1xx) are passed over. */
static void head_feed(struct http_call *call, struct str in, bool kept)
{
	struct link *link = call->link;
	struct why why;

	for (;; link->seen = 0) {
		struct http_head *h = &call->pool->head;
		enum http_parse r = http_parse_response(h, in, link->seen, call->opts.head_request, &http_limits_default, &why);

		if (r == HTTP_BAD) {
			bad_framing(call, why.text);
			return;
		}
		if (r == HTTP_MORE)
			break;
		if (h->status == 101) {
			bad_framing(call, "101 Switching Protocols was not asked for");
			return;
		}
		in = str_from(in, h->head_len);
		if (h->status >= 200) {
			head_done(call, in);
			return;
		}
		kept = false;
	}
	link->seen = in.n;
	if (!kept)
		buf_add(&link->in, in.p, in.n);
}

static void head_more(struct http_call *call, struct str data)
{
	struct link *link = call->link;
	struct buf in = link->in;

	if (in.n == 0) {
		head_feed(call, data, false);
		return;
	}
	link->in = (struct buf){ 0 };
	buf_add(&in, data.p, data.n);
	head_feed(call, buf_as_str(&in), true);
	if (call->state == CALL_HEAD && call->link == link && link->in.n == 0)
		link->in = in;
	else
		buf_free(&in);
}

static void link_ended(struct link *link, bool clean)
{
	struct http_call *call = link->call;

	if (!call) {
		note_end(link);
		link_close(link);
	} else if (clean && call->state == CALL_BODY && call->framing == HTTP_UNTIL_CLOSE) {
		answer_done(call, false);
	} else {
		link_broke(call, clean ? "the server closed the connection" : link->tls ? tls_failed(link, "the connection broke off") : "connection reset by the server");
	}
}

static void link_got(struct link *link, struct str data)
{
	struct http_call *call = link->call;

	if (!call->answered && link->streamed)
		link->pool->ends_streams = false;
	call->answered = true;
	call->since_us = loop_now_us(call->pool->loop);
	if (call->state == CALL_HEAD)
		head_more(call, data);
	else
		body_feed(call, data);
}

/* Not while paused: what comes then is remembered and read at http_call_resume(). */
static bool may_read(struct link *link, bool hup)
{
	struct http_call *call = link->call;

	if (!call || !call->paused)
		return true;
	call->readable = true;
	call->hup |= hup;
	return false;
}

static void link_read(struct link *link, bool hup)
{
	char *scratch = loop_scratch(link->pool->loop);
	struct http_call *call = link->call;
	size_t total = 0;

	link->broken |= hup;
	while (may_read(link, hup)) {
		ssize_t n = link->tls ? tls_recv(link->tls, scratch, LOOP_SCRATCH_BYTES) : recv(link->io.fd, scratch, LOOP_SCRATCH_BYTES, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			link_ended(link, n == 0);
			return;
		}
		if (!call) {                  /* words of a server that was not asked */
			link_close(link);
			return;
		}
		link_got(link, str_n(scratch, (size_t)n));
		if (link->io.fd < 0 || link->call != call)
			return;
		if (n < LOOP_SCRATCH_BYTES && !hup && !(link->tls && tls_has_end(link->tls))) {
			link->suspect = true;
			return;
		}
		total += (size_t)n;
		if (total >= READ_TURN) {
			loop_io_again(&link->io, LOOP_READ | (hup ? LOOP_HUP : 0));
			return;
		}
	}
}

static void on_ready(struct loop_io *io, unsigned ready)
{
	struct link *link = list_entry(io, struct link, io);
	struct http_call *call = link->call;

	if (call && call->state == CALL_CONNECTING) {
		if (link->tls)
			handshake(call);
		else if (ready & LOOP_WRITE)
			connected(call);
		return;
	}
	if (link->tls && (ready & LOOP_WRITE) && tls_wants_write(link->tls))
		ready |= LOOP_READ;
	if ((ready & LOOP_WRITE) && call && !all_sent(call))
		send_rest(call);
	if (ready & (LOOP_READ | LOOP_HUP))
		link_read(link, ready & LOOP_HUP);
}

/* --- deadlines --- */

static bool passed(int64_t now_us, int64_t since_us, int64_t limit_ms) { return limit_ms && now_us - since_us >= limit_ms * 1000; }

static void call_check(struct http_call *call, int64_t now_us)
{
	if (call->link && call->link->suspect && !call->paused && now_us - call->since_us >= QUIET_US) {
		call->link->suspect = false;
		link_read(call->link, false);
		if (call->state == CALL_OVER)
			return;
	}
	if (call->opts.deadline_us && now_us >= call->opts.deadline_us)
		call_failed(call, HTTP_CALL_DEADLINE, "the time allowed for the request ran out");
	else if (call->paused)
		return;
	else if (call->state <= CALL_CONNECTING && passed(now_us, call->since_us, call->opts.connect_ms))
		call_failed(call, HTTP_CALL_CONNECT_TIMEOUT, call->link && call->link->tls ? "TLS: the handshake was not over in time" : "no connection in time");
	else if (call->state == CALL_HEAD && passed(now_us, call->since_us, call->opts.first_byte_ms))
		call_failed(call, HTTP_CALL_FIRST_BYTE_TIMEOUT, "no answer in time");
	else if (call->state == CALL_BODY && passed(now_us, call->since_us, call->opts.idle_ms))
		call_failed(call, HTTP_CALL_IDLE_TIMEOUT, "the answer stopped coming");
}

static void drop_old_links(struct http_pool *p, int64_t now_us)
{
	while (!list_empty(&p->idle)) {
		struct link *oldest = list_entry(p->idle.prev, struct link, node);

		if (!passed(now_us, oldest->idle_since_us, p->opts.idle_ms))
			return;
		link_close(oldest);
	}
}

/* Looks at some of the calls, the one not seen for longest first. It also reads once more where a short read may have
 * hidden a reset that came together with the bytes before it: libevent reports an error as "readable". Where bytes still come nothing was hidden. */
static void sweep(struct loop_timer *t)
{
	struct http_pool *p = list_entry(t, struct http_pool, sweep);
	uint32_t n = p->n_calls / SWEEP_PARTS > SWEEP_MIN ? p->n_calls / SWEEP_PARTS : SWEEP_MIN;
	int64_t now_us = loop_now_us(p->loop);

	drop_old_links(p, now_us);
	for (n = n < p->n_calls ? n : p->n_calls; n && p->n_calls; n--) {
		struct http_call *call = list_entry(p->calls.next, struct http_call, node);

		list_del(&call->node);
		list_push(&p->calls, &call->node);
		call_check(call, now_us);
	}
	if (!p->freed && (p->n_calls || p->n_idle))
		loop_timer_set(p->loop, t, SWEEP_US, sweep);
}

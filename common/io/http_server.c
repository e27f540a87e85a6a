/* http_server.c - see http_server.h: connections, reading. http_listen.c listens, http_reply.c writes; http_conn.h is between them.
 *
 * Bytes are received into the loop's scratch memory. A request that is whole there (nearly all are) is copied once into its
 * exchange, or keeps the memory when it is large; a part of a head waits in conn.in; a body that comes in pieces is received where it stays. An idle connection
 * owns nothing but its struct.
 * Deadlines are plain stores; one timer per server looks at the connections in turn (sweep()), each at least once a second.
 * While an answer is made the connection is still read, to see the client leave; requests that come early wait in conn.in. */
#include "common/io/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/data/log.h"
#include "common/io/http_conn.h"

enum {
	SWEEP_US = 100000, SWEEP_PARTS = 10, SWEEP_MIN = 64,
	LINGER_US = 2000000,
	REST_US = 5000000,            /* a connection without a request, after the address was handed over */
	EARLY_BYTES = 65536,          /* of requests sent before the last one was answered */
	BODY_FIRST = 65536,
	TAKE_BYTES = 16384,           /* a request from this size on keeps the memory it was received in */
	READ_TURN = 1 << 20           /* bytes of one connection in one turn */
};

static void on_ready(struct loop_io *, unsigned ready);
static void sweep(struct loop_timer *);
static void feed(struct conn *, struct str);
static void feed_early(struct conn *);
static void conn_close(struct conn *);
static void on_flush(struct loop_deferred *);
static void idle_if_drained(struct http_server *);

static struct http_server_opts with_defaults(const struct http_server_opts *given)
{
	struct http_server_opts o = given ? *given : (struct http_server_opts){ 0 };

	o.max_body = o.max_body ? o.max_body : 8u << 20;
	o.high_water = o.high_water ? o.high_water : 256u << 10;
	o.head_ms = o.head_ms ? o.head_ms : 10000;
	o.idle_ms = o.idle_ms ? o.idle_ms : 60000;
	o.stall_ms = o.stall_ms ? o.stall_ms : 60000;
	o.min_body_rate = o.min_body_rate ? o.min_body_rate : 1024;
	o.max_requests = o.max_requests ? o.max_requests : 10000;
	o.max_conns = o.max_conns ? o.max_conns : 10000;
	return o;
}

struct http_server *http_server_new(struct loop *l, const char *listen, const struct http_handler *h,
				    const struct http_server_opts *opts, struct why *why)
{
	struct http_server *s = x_calloc(1, sizeof(*s));

	s->loop = l;
	s->handler = *h;
	s->opts = with_defaults(opts);
	s->paused = s->opts.paused;
	list_init(&s->conns);
	if (listen && !http_server_listen(s, &(struct http_listen){ .address = listen }, why)) {
		free(s);
		return NULL;
	}
	return s;
}

uint16_t http_server_port(const struct http_server *s) { return s->port; }
uint32_t http_server_conns(const struct http_server *s) { return __atomic_load_n(&s->n_conns, __ATOMIC_RELAXED); }

/* A request may wait in the kernel; if not, read_all() closes. When another process goes on there is time for one that is still on its way. */
static void drain_idle(struct conn *c)
{
	int64_t until_us = loop_now_us(c->srv->loop) + REST_US;

	if (c->srv->handed_over && c->deadline_us > until_us)
		c->deadline_us = until_us;
	loop_io_again(&c->io, LOOP_READ);
}

void http_server_drain(struct http_server *s, void (*on_idle)(void *), void *arg)
{
	s->on_idle = on_idle;
	s->on_idle_arg = arg;
	listeners_close(s, !s->handed_over);
	s->draining = true;
	list_each(it, &s->conns) {
		struct conn *c = list_entry(it, struct conn, node);

		if (c->state == CONN_IDLE)
			drain_idle(c);
	}
	idle_if_drained(s);
}

/* AddressSanitizer is to see each use of a block for itself. */
#ifdef __SANITIZE_ADDRESS__
static const bool blocks_are_kept = false;
#else
static const bool blocks_are_kept = true;
#endif

void *block_take(struct http_server *s) { return s->n_spare ? s->spare[--s->n_spare] : x_malloc(BLOCK_BYTES); }

void block_give(struct http_server *s, void *block)
{
	if (blocks_are_kept && s->n_spare < BLOCKS_SPARE)
		s->spare[s->n_spare++] = block;
	else
		free(block);
}

static void release_server(struct loop_deferred *d)
{
	struct http_server *s = list_entry(d, struct http_server, release);

	if (s->n_dead)
		return;               /* the last connection calls again */
	while (s->n_spare)
		free(s->spare[--s->n_spare]);
	free(s);
}

void http_server_free(struct http_server *s)
{
	if (!s || s->freed)
		return;
	s->freed = true;
	s->on_idle = NULL;
	listeners_close(s, false);
	listeners_free(s);
	while (!list_empty(&s->conns))
		conn_gone(list_entry(s->conns.next, struct conn, node), "server stopped");
	loop_timer_del(&s->sweep);
	loop_defer(s->loop, &s->release, LOOP_PHASE_FREE, release_server);
}

static void idle_if_drained(struct http_server *s)
{
	void (*fn)(void *) = s->on_idle;

	if (!s->draining || s->n_conns || !fn)
		return;
	s->on_idle = NULL;
	fn(s->on_idle_arg);
}

/* --- new connections --- */

static void name_peer(struct conn *c, const struct sockaddr_storage *sa)
{
	char ip[INET6_ADDRSTRLEN] = "";

	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		inet_ntop(AF_INET, &in->sin_addr, ip, sizeof(ip));
		snprintf(c->peer, sizeof(c->peer), "%s:%u", ip, ntohs(in->sin_port));
	} else if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)sa;

		inet_ntop(AF_INET6, &in->sin6_addr, ip, sizeof(ip));
		snprintf(c->peer, sizeof(c->peer), "[%s]:%u", ip, ntohs(in->sin6_port));
	} else {
		snprintf(c->peer, sizeof(c->peer), "unix");
	}
}

void conn_new(const struct listener *at, int fd, const struct sockaddr_storage *sa)
{
	struct conn *c = x_calloc(1, sizeof(*c));
	struct http_server *s = at->srv;

	c->srv = s;
	c->keep = true;
	c->door = at->door;
	c->identity = tls_identity_ref(at->tls);
	c->handshaking = at->tls != NULL;
	name_peer(c, sa);
	c->deadline_us = loop_now_us(s->loop) + (at->tls ? s->opts.head_ms : s->opts.idle_ms) * 1000;
	list_push(&s->conns, &c->node);
	__atomic_store_n(&s->n_conns, s->n_conns + 1, __ATOMIC_RELAXED);      /* others may look */
	if (!s->sweep.heap_index)
		loop_timer_set(s->loop, &s->sweep, SWEEP_US, sweep);
	loop_io_add(s->loop, &c->io, fd, LOOP_READ | LOOP_WRITE, on_ready);
}

/* --- the end of connections --- */

static void exchange_free(struct exchange *e)
{
	if (e->taken)
		loop_scratch_give(e->conn->srv->loop, e->taken);
	else
		buf_free(&e->body);
	budget_give(e->conn->srv->opts.held, e->charged);
	if (e->in_block)
		block_give(e->conn->srv, e);
	else
		free(e);
}

static void release_conn(struct loop_deferred *d)
{
	struct conn *c = list_entry(d, struct conn, release);
	struct http_server *s = c->srv;

	if (c->xc)
		exchange_free(c->xc);
	tls_free(c->tls);
	tls_identity_unref(c->identity);
	buf_free(&c->in);
	conn_out_free(c);
	free(c);
	if (--s->n_dead == 0 && s->freed)
		loop_defer(s->loop, &s->release, LOOP_PHASE_FREE, release_server);
}

static void conn_close(struct conn *c)
{
	struct http_server *s = c->srv;
	int fd = c->io.fd;

	if (c->tls && c->framing == REPLY_NONE && !c->out)
		tls_say_end(c->tls);          /* nothing is missing */
	c->state = CONN_DEAD;
	loop_io_del(&c->io);
	close(fd);
	loop_undefer(&c->flush);
	list_del(&c->node);
	__atomic_store_n(&s->n_conns, s->n_conns - 1, __ATOMIC_RELAXED);
	s->n_dead++;
	loop_defer(s->loop, &c->release, LOOP_PHASE_FREE, release_conn);
	if (s->n_conns == 0)
		loop_timer_del(&s->sweep);
	idle_if_drained(s);
}

void conn_gone(struct conn *c, const char *why)
{
	bool owed = c->xc && (c->state == CONN_BODY || c->state == CONN_BUSY);

	if (owed && c->xc->x.on_gone) {
		c->state = CONN_DEAD;         /* what the handler still says goes nowhere */
		c->xc->x.on_gone(&c->xc->x, why);
	}
	conn_close(c);
}

static void drop_exchange(struct conn *c)
{
	exchange_free(c->xc);
	c->xc = NULL;
	c->framing = REPLY_NONE;
}

/* Bytes of answers that the kernel has and the client's has not. */
static int undelivered(const struct conn *c)
{
	int n = 0;

	return ioctl(c->io.fd, SIOCOUTQ, &n) == 0 ? n : 0;
}

/* No request is to come. Where the program ends soon it stays until the client has its answer: the network of a container ends with its
 * program, and what the kernel still held is lost. */
static void conn_finish(struct conn *c)
{
	bool last;

	if (c->tls)
		tls_say_end(c->tls);
	last = c->srv->draining && undelivered(c);
	if ((!c->unread && !last) || c->hup || shutdown(c->io.fd, SHUT_WR) < 0) {
		conn_close(c);
		return;
	}
	buf_free(&c->in);
	c->state = CONN_LINGER;
	c->undelivered = INT_MAX;
	c->deadline_us = loop_now_us(c->srv->loop) + (last ? c->srv->opts.stall_ms * 1000 : LINGER_US);
	loop_io_again(&c->io, LOOP_READ);
}

/* The answer has left. */
static void exchange_done(struct conn *c)
{
	bool again = c->unread;

	drop_exchange(c);
	if (!c->keep || c->hup) {
		conn_finish(c);
		return;
	}
	c->state = CONN_IDLE;
	c->unread = false;
	c->deadline_us = loop_now_us(c->srv->loop) + c->srv->opts.idle_ms * 1000;
	if (again)
		loop_io_again(&c->io, LOOP_READ);
	if (c->in.n)
		feed_early(c);
	else if (c->srv->draining)
		loop_io_again(&c->io, LOOP_READ);
}

static void break_conn(struct conn *c)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	/* Without framing only a reset tells the client that something is missing. */
	if (c->framing == REPLY_UNTIL_CLOSE)
		setsockopt(c->io.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	conn_close(c);
}

static void after_send(struct conn *c)
{
	if (c->aborting) {
		break_conn(c);
		return;
	}
	if (c->state == CONN_SENDING && !c->out) {
		exchange_done(c);
		return;
	}
	if (c->out && !c->deadline_us)
		c->deadline_us = loop_now_us(c->srv->loop) + c->srv->opts.stall_ms * 1000;
	if (c->was_full && conn_queued(c) < c->srv->opts.high_water / 2) {
		c->was_full = false;
		if (c->state == CONN_BUSY && c->xc->x.on_drain)
			c->xc->x.on_drain(&c->xc->x);
	}
}

static void on_flush(struct loop_deferred *d)
{
	struct conn *c = list_entry(d, struct conn, flush);

	if (conn_send(c))
		after_send(c);
	else
		conn_gone(c, "connection reset by client");
}

void conn_flush_later(struct conn *c) { loop_defer(c->srv->loop, &c->flush, LOOP_PHASE_SEND, on_flush); }

/* --- requests --- */

static void shift(struct str *s, const char *from, size_t n, const char *to)
{
	if (s->p >= from && s->p <= from + n)
		s->p = to + (s->p - from);
}

/* Copies the bytes the head looks into to 'mem', and turns its views there. */
static void copy_bytes(struct http_head *h, struct str bytes, char *mem)
{
	memcpy(mem, bytes.p, bytes.n);
	shift(&h->method, bytes.p, bytes.n, mem);
	shift(&h->target, bytes.p, bytes.n, mem);
	shift(&h->path, bytes.p, bytes.n, mem);
	shift(&h->query, bytes.p, bytes.n, mem);
	shift(&h->host, bytes.p, bytes.n, mem);
	for (uint32_t i = 0; i < h->n_headers; i++) {
		shift(&h->headers[i].name, bytes.p, bytes.n, mem);
		shift(&h->headers[i].value, bytes.p, bytes.n, mem);
	}
}

/* 'bytes' begin with the head; they are copied behind the exchange when they are not in 'taken' memory. */
static struct exchange *exchange_new(struct conn *c, const struct http_head *h, struct str bytes, char *taken)
{
	size_t heads = h->n_headers * sizeof(h->headers[0]), fixed = offsetof(struct exchange, x.head.headers);
	size_t all = fixed + heads + (taken ? 0 : bytes.n) + h->path.n + 1;
	struct exchange *e = all <= BLOCK_BYTES ? block_take(c->srv) : x_malloc(all);
	char *mem = (char *)e + fixed + heads;

	memset(e, 0, offsetof(struct exchange, x.head));
	memcpy(&e->x.head, h, offsetof(struct http_head, headers) + heads);
	if (!taken)
		copy_bytes(&e->x.head, bytes, mem);
	e->conn = c;
	e->taken = taken;
	e->in_block = all <= BLOCK_BYTES;
	e->x.path = str_n(taken ? mem : mem + bytes.n, 0);
	e->x.body = str_n((taken ? taken : mem) + h->head_len, 0);
	e->x.start_us = loop_now_us(c->srv->loop);
	e->x.peer = c->peer;
	e->x.door = c->door;
	e->x.tls = c->tls != NULL;
	c->xc = e;
	return e;
}

static bool set_path(struct exchange *e)
{
	struct http_head *h = &e->x.head;
	char *out = (char *)(uintptr_t)e->x.path.p;

	if (str_eqz(h->path, "*")) {
		e->x.path = h->path;
		return true;
	}
	return http_path_normalise(h->path, out, h->path.n, &e->x.path);
}

/* Answers instead of the request, and lets the connection go. */
static void refuse(struct conn *c, const struct why *why)
{
	struct http_server *s = c->srv;
	struct http_xchg *x = &c->xc->x;
	char text[sizeof(why->text) + 1];

	c->keep = false;
	c->unread = true;
	c->state = CONN_BUSY;
	c->deadline_us = 0;
	if (s->handler.on_refused)
		s->handler.on_refused(x, why, s->handler.arg);
	if (c->state != CONN_BUSY || c->framing != REPLY_NONE)
		return;
	http_reply(x, err_status(why->code), STR("Content-Type: text/plain; charset=utf-8\r\n"),
		   str_n(text, (size_t)snprintf(text, sizeof(text), "%s\n", why->text)));
}

/* A head that never became one. 'h' is what was understood of it, in 'bytes': enough to answer in the caller's dialect. */
static void refuse_head(struct conn *c, const struct http_head *h, struct str bytes, const struct why *why)
{
	struct exchange *e = exchange_new(c, h, bytes, NULL);

	buf_free(&c->in);
	c->seen = 0;
	e->x.body = STR("");
	e->x.head.minor = 1;
	(void)set_path(e);
	refuse(c, why);
}

static void dispatch(struct conn *c)
{
	c->state = CONN_BUSY;
	c->deadline_us = 0;
	c->srv->handler.on_request(&c->xc->x, c->srv->handler.arg);
}

static void keep_early(struct conn *c, struct str bytes)
{
	if (bytes.n)
		buf_add(&c->in, bytes.p, bytes.n);
}

static bool too_large(struct conn *c, uint64_t n)
{
	struct why why;

	if (n <= c->xc->body_allowed)
		return false;
	err_set(&why, ERR_TOO_LARGE, "the body is larger than the %zu bytes allowed here", c->xc->body_allowed);
	refuse(c, &why);
	return true;
}

/* A body is charged as it comes, not as it was announced: who announces much and sends nothing holds nothing. */
static bool no_room(struct conn *c)
{
	struct exchange *e = c->xc;
	size_t cap = e->body.cap;
	struct why why;

	if (cap <= HELD_FREE || cap <= e->charged)
		return false;
	if (budget_take(c->srv->opts.held, cap - e->charged)) {
		e->charged = cap;
		return false;
	}
	err_set(&why, ERR_UNAVAILABLE, "the bodies and answers of all requests fill the memory that is set aside for them; try again");
	buf_free(&e->body);
	refuse(c, &why);
	return true;
}

/* A piece of the body: kept, or the handler's. False: refused. */
static bool body_piece(struct conn *c, struct str data)
{
	struct exchange *e = c->xc;
	struct why why = { 0 };

	if (!e->x.on_body) {
		buf_add(&e->body, data.p, data.n);
		return !no_room(c);
	}
	e->streamed += data.n;
	if (!data.n || e->x.on_body(&e->x, data, &why))
		return true;
	refuse(c, &why);
	return false;
}

/* Takes body bytes out of 'in'; true when the body is complete or refused, the rest of 'in' is then what follows it. */
static bool body_add_chunked(struct conn *c, struct str *in)
{
	struct exchange *e = c->xc;
	enum http_parse r;
	struct str data;
	struct why why;

	do {
		r = http_chunked_next(&e->chunked, in, &data, &why);
		if (r == HTTP_BAD) {
			refuse(c, &why);
			return true;
		}
		if (too_large(c, e->streamed + e->body.n + data.n) || !body_piece(c, data))
			return true;
	} while (r == HTTP_MORE && in->n);
	return r == HTTP_DONE;
}

static void body_room(struct exchange *e)
{
	size_t room = e->body.cap - e->body.n, want = e->body.n < BODY_FIRST ? BODY_FIRST : e->body.n;

	if (room < 4096 && room < e->body_left)
		buf_reserve(&e->body, want < e->body_left ? want : (size_t)e->body_left);
}

static bool body_add_length(struct conn *c, struct str *in)
{
	struct exchange *e = c->xc;
	size_t n = in->n < e->body_left ? in->n : (size_t)e->body_left;

	if (n && !e->x.on_body)
		body_room(e);
	if (n && !body_piece(c, str_n(in->p, n)))
		return true;
	e->body_left -= n;
	*in = str_from(*in, n);
	return e->body_left == 0;
}

static void body_feed(struct conn *c, struct str in)
{
	struct exchange *e = c->xc;

	if (!(e->x.head.framing == HTTP_CHUNKED ? body_add_chunked(c, &in) : body_add_length(c, &in)))
		return;
	if (c->state != CONN_BODY)
		return;       /* refused */
	e->x.body = buf_as_str(&e->body);
	keep_early(c, in);
	dispatch(c);
}

static void body_start(struct conn *c, struct str in)
{
	struct exchange *e = c->xc;

	if (e->taken && !e->x.on_body) {      /* what came lies where it stays */
		e->body = (struct buf){ .p = e->taken + e->x.head.head_len, .n = in.n, .cap = (size_t)e->x.head.content_length };
		in.n = 0;
	}
	e->body_left = e->x.head.framing == HTTP_LENGTH ? e->x.head.content_length - e->body.n : 0;
	http_chunked_init(&e->chunked);
	c->deadline_us = 0;
	if (e->x.head.expect_continue && in.n == 0 && e->body.n == 0)
		conn_send_now(c, "HTTP/1.1 100 Continue\r\n\r\n");
	if (in.n)
		body_feed(c, in);
}

/* The scratch memory that 'in' lies in, when a large request has room there. */
static char *take_memory(struct http_server *s, const struct http_head *h, struct str in)
{
	uint64_t body = h->framing == HTTP_LENGTH ? h->content_length : 0;

	if (in.p != loop_scratch(s->loop) || body < TAKE_BYTES || body > LOOP_SCRATCH_BYTES - h->head_len)
		return NULL;
	return loop_scratch_take(s->loop);
}

/* The head is complete: 'in' begins with it. What is not of this request is kept for later. */
static void request_start(struct conn *c, struct str in)
{
	struct http_head *h = &c->srv->head;
	uint64_t body = h->framing == HTTP_LENGTH ? h->content_length : 0;
	bool whole = h->framing == HTTP_NO_BODY || (h->framing == HTTP_LENGTH && in.n - h->head_len >= body);
	size_t mine = h->head_len + (whole ? (size_t)body : 0);
	struct exchange *e = exchange_new(c, h, str_n(in.p, mine), take_memory(c->srv, h, in));
	struct http_server *s = c->srv;
	struct why why;

	c->keep = h->keep_alive && ++c->requests < s->opts.max_requests && !s->draining;
	c->seen = 0;
	c->state = h->framing == HTTP_NO_BODY ? CONN_BUSY : CONN_BODY;
	c->deadline_us = 0;
	in = str_from(in, mine);
	if (!set_path(e)) {
		err_set(&why, ERR_MALFORMED, "the path is not one this server can take: dot segments or bad escapes");
		refuse(c, &why);
		return;
	}
	if (c->wrong_door) {
		err_set(&why, ERR_MALFORMED, "this port speaks HTTPS, and the request came without TLS: write https:// in its address");
		refuse(c, &why);
		return;
	}
	e->body_allowed = s->handler.on_head ? s->handler.on_head(&e->x, s->handler.arg) : 0;
	if (c->state == CONN_DEAD)
		return;
	if (c->state == CONN_SENDING || c->framing != REPLY_NONE) {     /* refused at the door */
		c->unread |= e->x.head.framing != HTTP_NO_BODY;
		if (c->state == CONN_BODY)
			c->state = CONN_BUSY;
		if (c->keep)
			keep_early(c, in);
		return;
	}
	e->body_allowed = e->body_allowed ? e->body_allowed : s->opts.max_body;
	if (e->x.head.framing == HTTP_LENGTH && too_large(c, body))
		return;
	if (!whole) {
		body_start(c, in);
		return;
	}
	e->x.body = str_n(e->x.body.p, (size_t)body);
	if (e->x.on_body) {
		if (!body_piece(c, e->x.body))
			return;
		e->x.body = STR("");
	}
	keep_early(c, in);
	dispatch(c);
}

/* Bytes of a head: from the scratch memory, or what is not used yet in conn.in. */
static void head_feed(struct conn *c, struct str in, bool kept)
{
	struct http_server *s = c->srv;
	struct why why;

	switch (http_parse_request(&s->head, in, c->seen, &http_limits_default, &why)) {
	case HTTP_DONE:
		request_start(c, in);
		return;
	case HTTP_BAD:
		refuse_head(c, &s->head, str_n(in.p, in.n < http_limits_default.max_head ? in.n : http_limits_default.max_head), &why);
		return;
	case HTTP_MORE:
		break;
	}
	if (!kept)
		buf_add(&c->in, in.p, in.n);
	c->seen = in.n;
	if (c->state == CONN_IDLE)
		c->deadline_us = loop_now_us(s->loop) + s->opts.head_ms * 1000;
	c->state = CONN_HEAD;
}

/* Uses what lies in conn.in for the next request. The buffer is taken off first, for request_start() puts the rest there. */
static void feed_early(struct conn *c)
{
	struct buf in = c->in;

	c->in = (struct buf){ 0 };
	head_feed(c, buf_as_str(&in), true);
	if (c->state == CONN_HEAD)
		c->in = in;
	else
		buf_free(&in);
}

static void feed(struct conn *c, struct str in)
{
	if (c->state == CONN_IDLE && c->in.n == 0) {
		head_feed(c, in, false);
	} else if (c->state == CONN_BODY) {
		body_feed(c, in);
	} else if (c->state != CONN_LINGER && !c->keep) {
		c->unread = true;             /* a request after the last one is not answered */
	} else if (c->state != CONN_LINGER) {
		buf_add(&c->in, in.p, in.n);
		if (c->state == CONN_IDLE || c->state == CONN_HEAD)
			feed_early(c);
	}
}

/* --- reading --- */

/* Where the next bytes go: into a body of known length directly, else into the scratch memory. */
static char *read_room(struct conn *c, size_t *ret_n)
{
	struct exchange *e = c->xc;

	if (c->state != CONN_BODY || e->x.head.framing != HTTP_LENGTH || e->x.on_body) {
		*ret_n = LOOP_SCRATCH_BYTES;
		return loop_scratch(c->srv->loop);
	}
	body_room(e);
	*ret_n = e->body.cap - e->body.n < e->body_left ? e->body.cap - e->body.n : (size_t)e->body_left;
	return e->body.p + e->body.n;
}

static void got(struct conn *c, char *p, size_t n)
{
	struct exchange *e = c->xc;

	if (p == loop_scratch(c->srv->loop)) {
		feed(c, str_n(p, n));
		return;
	}
	e->body.n += n;
	e->body_left -= n;
	if (!no_room(c) && e->body_left == 0)
		body_feed(c, STR(""));
}

static void ended(struct conn *c, const char *why)
{
	c->hup = true;
	if (c->state == CONN_SENDING)
		c->keep = false;      /* its answer is complete: let it go out */
	else
		conn_gone(c, why);
}

static bool answering(const struct conn *c) { return c->state == CONN_BUSY || c->state == CONN_SENDING; }

static bool broken(const struct conn *c)
{
	int error = 0;
	socklen_t n = sizeof(error);

	return getsockopt(c->io.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 || error;
}

/* Requests that came early wait in the kernel above a limit; a reset is then seen by asking for it. */
static bool may_read(struct conn *c)
{
	if (c->state == CONN_DEAD)
		return false;
	if (!answering(c) || c->in.n < EARLY_BYTES)
		return true;
	c->unread = true;
	if (broken(c))
		conn_gone(c, "connection reset by client");
	return false;
}

static void read_all(struct conn *c, bool hup)
{
	size_t total = 0, room;

	while (may_read(c)) {
		char *p = read_room(c, &room);
		ssize_t n = c->tls ? tls_recv(c->tls, p, room) : recv(c->io.fd, p, room, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			ended(c, n == 0 ? "client closed the connection" : "connection reset by client");
			return;
		}
		c->handshaking = false;
		total += (size_t)n;
		got(c, p, (size_t)n);
		if ((size_t)n < room && !hup && !(c->tls && tls_has_end(c->tls))) {
			c->suspect = true;
			return;
		}
		if (total >= READ_TURN && c->state != CONN_DEAD) {
			loop_io_again(&c->io, LOOP_READ | (hup ? LOOP_HUP : 0));
			return;
		}
	}
	if (hup && c->state != CONN_DEAD)
		ended(c, "client closed the connection");
	else if (c->srv->draining && !c->srv->handed_over && c->state == CONN_IDLE && !c->handshaking)
		conn_finish(c);
}

/* The first byte says whether TLS begins. False: it has not come, or the connection is over. */
static bool secure(struct conn *c, bool hup)
{
	unsigned char first;
	ssize_t n;

	do
		n = recv(c->io.fd, &first, 1, MSG_PEEK);
	while (n < 0 && errno == EINTR);
	if (n <= 0) {
		if (n == 0 || errno != EAGAIN || hup)
			ended(c, "client closed the connection");
		return false;
	}
	if (tls_begins_with(first))
		c->tls = tls_accept(c->identity, c->io.fd);
	else
		c->wrong_door = true;
	tls_identity_unref(c->identity);
	c->identity = NULL;
	return true;
}

/* Someone who has shaken hands may rest as long as others may. */
static void tls_progress(struct conn *c)
{
	if (c->state == CONN_DEAD || !tls_ready(c->tls))
		return;
	c->handshaking = c->srv->draining;        /* the request that it was for may be on its way */
	if (c->state == CONN_IDLE && !c->srv->draining)
		c->deadline_us = loop_now_us(c->srv->loop) + c->srv->opts.idle_ms * 1000;
}

static void on_ready(struct loop_io *io, unsigned ready)
{
	struct conn *c = list_entry(io, struct conn, io);

	if ((ready & LOOP_WRITE) && c->out)
		conn_flush_later(c);
	if (c->identity && !secure(c, ready & LOOP_HUP))
		return;
	if ((ready & (LOOP_READ | LOOP_HUP)) || (c->tls && tls_wants_write(c->tls))) {
		bool began = c->handshaking;

		read_all(c, ready & LOOP_HUP);
		if (began && c->tls)
			tls_progress(c);
	}
}

/* --- deadlines --- */

static void head_late(struct conn *c)
{
	static const struct http_head nothing;
	struct why why;

	err_set(&why, ERR_REQUEST_TIMEOUT, "the request head was not complete after %d ms", (int)c->srv->opts.head_ms);
	refuse_head(c, &nothing, STR(""), &why);
}

static void body_check(struct conn *c, int64_t now_us)
{
	struct exchange *e = c->xc;
	int64_t over_us = now_us - e->x.start_us - c->srv->opts.head_ms * 1000;
	struct why why;

	if (over_us <= 0 || (double)(e->body.n + e->streamed) >= (double)c->srv->opts.min_body_rate * (double)over_us / 1e6)
		return;
	err_set(&why, ERR_REQUEST_TIMEOUT, "the body came slower than %u bytes a second", c->srv->opts.min_body_rate);
	refuse(c, &why);
}

static void linger_check(struct conn *c, int64_t now_us)
{
	int n = c->srv->draining ? undelivered(c) : 0;

	if (n && n < c->undelivered)
		c->deadline_us = now_us + c->srv->opts.stall_ms * 1000;
	c->undelivered = n;
	if (now_us >= c->deadline_us || (!n && !c->unread))
		conn_close(c);
}

static void conn_check(struct conn *c, int64_t now_us)
{
	if (c->suspect && c->state == CONN_BUSY) {
		c->suspect = false;
		if (broken(c)) {
			conn_gone(c, "connection reset by client");
			return;
		}
	}
	if (c->state == CONN_BODY)
		body_check(c, now_us);
	else if (c->state == CONN_LINGER)
		linger_check(c, now_us);
	else if (!c->deadline_us || now_us < c->deadline_us)
		return;
	else if (c->state == CONN_HEAD)
		head_late(c);
	else if (c->state == CONN_IDLE)
		conn_close(c);
	else
		conn_gone(c, "client does not read its answer");
}

/* Looks at some of the connections, the one not seen for longest first. It also finds the resets that came together with
 * the bytes before them: libevent reports an error as "readable", and a short read then looks like all there is. */
static void sweep(struct loop_timer *t)
{
	struct http_server *s = list_entry(t, struct http_server, sweep);
	uint32_t n = s->n_conns / SWEEP_PARTS > SWEEP_MIN ? s->n_conns / SWEEP_PARTS : SWEEP_MIN;
	int64_t now_us = loop_now_us(s->loop);

	if (n > s->n_conns)
		n = s->n_conns;
	loop_timer_set(s->loop, t, SWEEP_US, sweep);
	for (; n && s->n_conns; n--) {
		struct conn *c = list_entry(s->conns.next, struct conn, node);

		list_del(&c->node);
		list_push(&s->conns, &c->node);
		conn_check(c, now_us);
	}
}

/* http_reply.c - the writing half of the HTTP server (http_server.h): heads, framing, queue, back-pressure.
 *
 * Everything a handler says in one turn is gathered in conn.out and leaves by one send() at the end of the turn; what the
 * kernel does not take stays there. Large data goes past the queue when it is empty of older bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/io/http_conn.h"

enum { DATE_LATE_US = 20000, DIRECT_BYTES = 16384, CHUNK_FRAME = 4 + 4 /* digits below DIRECT_BYTES, two line ends */ };

/* --- the queue --- */

static char *out_room(struct conn *c, size_t n)
{
	size_t cap;

	if (!c->out) {
		c->out = block_take(c->srv);
		c->out_cap = BLOCK_BYTES;
	}
	if (c->out_cap - c->out_n >= n)
		return c->out + c->out_n;
	if (c->out_at) {
		memmove(c->out, c->out + c->out_at, conn_queued(c));
		c->out_n -= c->out_at;
		c->out_at = 0;
	}
	for (cap = c->out_cap; cap - c->out_n < n; cap *= 2)
		;
	if (cap != c->out_cap)
		c->out = x_realloc(c->out, cap);
	c->out_cap = cap;
	if (cap > HELD_FREE && cap > c->out_charged) {
		budget_force(c->srv->opts.held, cap - c->out_charged);
		c->out_charged = cap;
	}
	return c->out + c->out_n;
}

static void out_add(struct conn *c, struct str s)
{
	if (s.n == 0)
		return;
	memcpy(out_room(c, s.n), s.p, s.n);
	c->out_n += s.n;
}

void conn_out_free(struct conn *c)
{
	budget_give(c->srv->opts.held, c->out_charged);
	if (c->out_cap == BLOCK_BYTES)
		block_give(c->srv, c->out);
	else
		free(c->out);
	c->out = NULL;
	c->out_at = c->out_n = c->out_cap = c->out_charged = 0;
}

/* Never SIGPIPE, never EINTR; -1 for both "full" (EAGAIN) and broken. */
static ssize_t send_parts(int fd, struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t sent;

	do
		sent = sendmsg(fd, &m, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent;
}

/* Two records, where one call cannot take both. */
static ssize_t tls_send_parts(struct tls *t, const struct iovec iov[2])
{
	ssize_t first = tls_send(t, iov[0].iov_base, iov[0].iov_len), second;

	if (first < (ssize_t)iov[0].iov_len)
		return first;
	second = tls_send(t, iov[1].iov_base, iov[1].iov_len);
	return second < 0 ? first : first + second;
}

bool conn_send(struct conn *c)
{
	while (c->out_at < c->out_n) {
		const char *from = c->out + c->out_at;
		ssize_t n = c->tls ? tls_send(c->tls, from, conn_queued(c)) : send(c->io.fd, from, conn_queued(c), MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		c->out_at += (size_t)n;
		c->deadline_us = 0;           /* progress: the stall clock starts anew, see after_send() */
	}
	conn_out_free(c);
	return true;
}

void conn_send_now(struct conn *c, const char *z)
{
	out_add(c, str_of(z));
	conn_flush_later(c);
}

/* Sends the queue and 'data' at once; queues what was left. A broken connection shows at the flush. */
static void send_direct(struct conn *c, struct str data)
{
	struct iovec iov[2] = { { c->out ? c->out + c->out_at : NULL, conn_queued(c) }, { (char *)(uintptr_t)data.p, data.n } };
	ssize_t sent = c->tls ? tls_send_parts(c->tls, iov) : send_parts(c->io.fd, iov, 2);
	size_t n = sent < 0 ? 0 : (size_t)sent, old = conn_queued(c);

	if (n < old) {
		c->out_at += n;
		out_add(c, data);
		return;
	}
	c->out_at = c->out_n = 0;
	out_add(c, str_from(data, n - old));
}

/* --- heads --- */

/* At most DATE_LATE_US late. */
static struct str date_line(struct http_server *s)
{
	int64_t now_us = loop_now_us(s->loop);
	struct tm tm;
	time_t now;

	if (s->date_n && now_us - s->date_us < DATE_LATE_US)
		return str_n(s->date, s->date_n);
	s->date_us = now_us;
	now = (time_t)(wall_us() / 1000000);
	if (now != s->date_s) {
		s->date_s = now;
		gmtime_r(&now, &tm);
		s->date_n = (uint32_t)strftime(s->date, sizeof(s->date), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
	}
	return str_n(s->date, s->date_n);
}

static void add_status(struct conn *c, int status)
{
	const char *reason = http_reason(status);
	char *p = out_room(c, 15 + strlen(reason)), *at = p;

	memcpy(at, "HTTP/1.1 ", 9);
	at += 9;
	*at++ = (char)('0' + status / 100 % 10);
	*at++ = (char)('0' + status / 10 % 10);
	*at++ = (char)('0' + status % 10);
	*at++ = ' ';
	memcpy(at, reason, strlen(reason));
	at += strlen(reason);
	*at++ = '\r';
	*at++ = '\n';
	c->out_n += (size_t)(at - p);
}

static void add_number(struct conn *c, uint64_t v, unsigned base)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = "0123456789abcdef"[v % base];
	while (v /= base);
	out_add(c, str_n(digits + at, sizeof(digits) - at));
}

static void add_length(struct conn *c, uint64_t length)
{
	out_add(c, STR("Content-Length: "));
	add_number(c, length, 10);
	out_add(c, STR("\r\n"));
}

static bool bodiless(int status) { return status < 200 || status == 204 || status == 304; }

static void add_framing(struct conn *c, const struct http_head *in, int status, int64_t length)
{
	bool is_head = str_eqz(in->method, "HEAD");

	c->framing = bodiless(status) || is_head ? REPLY_NO_BODY : length >= 0 ? REPLY_LENGTH : in->minor >= 1 ? REPLY_CHUNKED : REPLY_UNTIL_CLOSE;
	c->reply_left = length > 0 ? (uint64_t)length : 0;
	if (bodiless(status))
		return;
	if (length >= 0)
		add_length(c, (uint64_t)length);
	else if (in->minor >= 1)
		out_add(c, STR("Transfer-Encoding: chunked\r\n"));
	else if (!is_head)
		c->keep = false;
}

/* --- answers --- */

void http_reply_start(struct http_xchg *x, int status, struct str headers, int64_t length)
{
	struct conn *c = conn_of(x);
	struct http_server *s = c->srv;

	if (c->state == CONN_DEAD || c->framing != REPLY_NONE)
		return;
	if (c->local) {
		local_start(c, status, headers);
		return;
	}
	if (s->draining || c->state == CONN_BODY)
		c->keep = false;      /* answering without having read the body: what follows cannot be told apart */
	out_room(c, 256 + headers.n + (length > 0 && length < DIRECT_BYTES ? (size_t)length : 0));
	add_status(c, status);
	if (s->opts.server_name) {
		out_add(c, STR("Server: "));
		out_add(c, str_of(s->opts.server_name));
		out_add(c, STR("\r\n"));
	}
	out_add(c, date_line(s));
	out_add(c, headers);
	add_framing(c, &x->head, status, length);
	if (!c->keep)
		out_add(c, STR("Connection: close\r\n"));
	else if (x->head.minor == 0)
		out_add(c, STR("Connection: keep-alive\r\n"));
	out_add(c, STR("\r\n"));
	conn_flush_later(c);
}

/* A small chunk with its frame, by one look for room: this is what streams are made of. */
static void add_chunk(struct conn *c, struct str data)
{
	char *p = out_room(c, data.n + CHUNK_FRAME), *at = p;
	int shift = 0;

	while (shift < 16 && data.n >> (shift + 4))
		shift += 4;
	for (; shift >= 0; shift -= 4)
		*at++ = "0123456789abcdef"[data.n >> shift & 15];
	*at++ = '\r';
	*at++ = '\n';
	memcpy(at, data.p, data.n);
	at += data.n;
	*at++ = '\r';
	*at++ = '\n';
	c->out_n += (size_t)(at - p);
}

static void add_data(struct conn *c, struct str data)
{
	if (data.n >= DIRECT_BYTES && c->out_at == 0)
		send_direct(c, data);
	else
		out_add(c, data);
}

static void add_large_chunk(struct conn *c, struct str data)
{
	add_number(c, data.n, 16);
	out_add(c, STR("\r\n"));
	add_data(c, data);
	out_add(c, STR("\r\n"));
}

void http_reply_data(struct http_xchg *x, struct str data)
{
	struct conn *c = conn_of(x);

	if (c->state == CONN_DEAD || data.n == 0 || c->framing == REPLY_NONE || c->framing == REPLY_NO_BODY)
		return;
	if (c->local) {
		local_data(c, data);
		return;
	}
	if (c->framing == REPLY_LENGTH) {
		data.n = data.n < c->reply_left ? data.n : (size_t)c->reply_left;
		c->reply_left -= data.n;
	}
	if (c->framing != REPLY_CHUNKED)
		add_data(c, data);
	else if (data.n < DIRECT_BYTES)
		add_chunk(c, data);
	else
		add_large_chunk(c, data);
	if (conn_queued(c) > c->srv->opts.high_water)
		c->was_full = true;
	conn_flush_later(c);
}

void http_reply_end(struct http_xchg *x)
{
	struct conn *c = conn_of(x);

	if (c->state == CONN_DEAD || c->state == CONN_SENDING)
		return;
	if (c->framing == REPLY_NONE || (c->framing == REPLY_LENGTH && c->reply_left)) {
		http_reply_abort(x);      /* fewer bytes than promised: the client must see it */
		return;
	}
	if (c->local) {
		local_end(c, true);
		return;
	}
	if (c->framing == REPLY_CHUNKED)
		out_add(c, STR("0\r\n\r\n"));
	c->state = CONN_SENDING;
	c->was_full = false;
	conn_flush_later(c);
}

void http_reply(struct http_xchg *x, int status, struct str headers, struct str body)
{
	http_reply_start(x, status, headers, (int64_t)body.n);
	http_reply_data(x, body);
	http_reply_end(x);
}

void http_reply_abort(struct http_xchg *x)
{
	struct conn *c = conn_of(x);

	if (c->state == CONN_DEAD)
		return;
	if (c->local) {
		local_end(c, false);
		return;
	}
	c->keep = false;
	c->aborting = true;
	c->state = CONN_SENDING;
	c->was_full = false;
	conn_flush_later(c);
}

bool http_reply_started(const struct http_xchg *x) { return conn_of(x)->framing != REPLY_NONE; }
size_t http_reply_queued(const struct http_xchg *x) { return conn_queued(conn_of(x)); }
bool http_reply_full(const struct http_xchg *x) { return !conn_of(x)->local && conn_queued(conn_of(x)) > conn_of(x)->srv->opts.high_water; }
void http_reply_close_after(struct http_xchg *x) { conn_of(x)->keep = false; }

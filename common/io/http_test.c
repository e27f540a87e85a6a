/* http_test.c - http_server.c, http_reply.c, http_client.c and http_fetch.c: both ends on one loop, and raw sockets where
 * a peer misbehaves. Time is moved by the test clock (base/clock.h). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/http_client.h"
#include "common/io/http_server.h"

/* --- the world: one loop, one server whose handler is steered by the path, one pool to it --- */

struct world {
	struct loop *loop;
	struct http_server *srv;
	struct http_pool *pool;
	struct loop_timer tick;
	bool (*until)(void);
	int64_t give_up_us;
	struct http_xchg *held;       /* /hold, /stream: the test answers */
	int heads, requests, gone, refused, drained;
	enum err refused_code;
	char refused_path[32];
	struct buf pieces;            /* /pieces: what was handed over */
	size_t n_streamed;
	struct str big;
	size_t fed, high;             /* /feed: bytes given, most bytes queued */
};

static struct world w;
static int64_t *clock_shift;
static int64_t real_us(void) { return mono_us() - clock_shift[0]; }

static void pass_ms(int64_t ms) { __atomic_fetch_add(&clock_shift[0], ms * 1000, __ATOMIC_RELAXED); }

static void on_tick(struct loop_timer *t)
{
	if ((w.until && w.until()) || real_us() > w.give_up_us)
		loop_stop(w.loop);
	else
		loop_timer_set(w.loop, t, 200, on_tick);
}

/* Runs the loop until 'done' says so; fails the test after 10 real seconds. */
static void run_until(bool (*done)(void))
{
	w.until = done;
	w.give_up_us = real_us() + 10000000;
	loop_timer_set(w.loop, &w.tick, 0, on_tick);
	loop_run(w.loop);
	loop_timer_del(&w.tick);
	assert_true(!done || done());
}

static bool never(void) { return false; }

static void run_ms(int64_t ms)
{
	w.until = never;
	w.give_up_us = real_us() + ms * 1000;
	loop_timer_set(w.loop, &w.tick, 0, on_tick);
	loop_run(w.loop);
	loop_timer_del(&w.tick);
}

static void h_gone(struct http_xchg *x, const char *why);

static bool h_body(struct http_xchg *x, struct str data, struct why *why)
{
	w.n_streamed += data.n;
	if (w.pieces.n < 1000)
		buf_str(&w.pieces, data);
	if (!str_find(buf_as_str(&w.pieces), STR("bad")))
		return true;
	err_set(why, ERR_STORE_FAILED, "no room for it");
	return false;
}

static size_t h_head(struct http_xchg *x, void *arg)
{
	w.heads++;
	if (str_eqz(x->path, "/pieces")) {
		buf_clear(&w.pieces);
		w.n_streamed = 0;
		x->on_body = h_body;
		x->on_gone = h_gone;
		return 32 << 20;
	}
	if (str_eqz(x->path, "/forbidden"))
		http_reply(x, 403, STR(""), STR("no\n"));
	if (str_eqz(x->path, "/small"))
		return 10;
	return 0;
}

static void h_gone(struct http_xchg *x, const char *why)
{
	w.gone++;
	if (w.held == x)
		w.held = NULL;
}

static void feed_more(struct http_xchg *x)
{
	while (w.fed < w.big.n && !http_reply_full(x)) {
		http_reply_data(x, str_n(w.big.p + w.fed, 10000 < w.big.n - w.fed ? 10000 : w.big.n - w.fed));
		w.fed += 10000;
		if (http_reply_queued(x) > w.high)
			w.high = http_reply_queued(x);
	}
	if (w.fed >= w.big.n)
		http_reply_end(x);
}

static void h_drain(struct http_xchg *x)
{
	w.drained++;
	feed_more(x);
}

static void echo_chunked(struct http_xchg *x)
{
	http_reply_start(x, 200, STR("X-Kind: chunked\r\n"), -1);
	for (size_t i = 0; i < x->body.n; i += 1000)
		http_reply_data(x, str_n(x->body.p + i, x->body.n - i < 1000 ? x->body.n - i : 1000));
	http_reply_end(x);
}

static void echo_in_a_chunk(struct http_xchg *x)
{
	http_reply_start(x, 200, STR("X-Kind: chunked\r\n"), -1);
	http_reply_data(x, x->body);
	http_reply_end(x);
}

static void h_request(struct http_xchg *x, void *arg)
{
	w.requests++;
	x->on_gone = h_gone;
	if (str_eqz(x->path, "/hold") || str_eqz(x->path, "/stream")) {
		w.held = x;
		if (str_eqz(x->path, "/stream"))
			http_reply_start(x, 200, STR(""), -1);
	} else if (str_eqz(x->path, "/chunk")) {
		echo_in_a_chunk(x);
	} else if (str_eqz(x->path, "/chunked")) {
		echo_chunked(x);
	} else if (str_eqz(x->path, "/pieces")) {
		assert_int_equal(x->body.n, 0);
		http_reply(x, 200, STR(""), buf_as_str(&w.pieces));
	} else if (str_eqz(x->path, "/big")) {
		http_reply(x, 200, STR(""), w.big);
	} else if (str_eqz(x->path, "/feed")) {
		x->on_drain = h_drain;
		http_reply_start(x, 200, STR(""), (int64_t)w.big.n);
		feed_more(x);
	} else if (str_eqz(x->path, "/short")) {
		http_reply_start(x, 200, STR(""), 10);
		http_reply_data(x, STR("only5"));
		http_reply_end(x);
	} else if (str_eqz(x->path, "/empty")) {
		http_reply(x, 204, STR(""), STR(""));
	} else {
		http_reply(x, 200, STR("X-Kind: echo\r\n"), x->body.n ? x->body : x->path);
	}
}

static void h_refused(struct http_xchg *x, const struct why *why, void *arg)
{
	w.refused++;
	w.refused_code = why->code;
	str_copy(w.refused_path, sizeof(w.refused_path), x->path);
}

static const struct http_handler handler = { h_head, h_request, h_refused, NULL };

static void listen_with(const struct http_server_opts *opts)
{
	struct why why;

	w.srv = http_server_new(w.loop, ":0", &handler, opts, &why);
	assert_non_null(w.srv);
}

static void pool_to(uint16_t port, const char *host)
{
	struct http_url url;
	struct why why;
	char text[128];

	snprintf(text, sizeof(text), "http://%s:%u", host, port);
	assert_true(http_url_parse(&url, str_of(text), &why));
	w.pool = http_pool_new(w.loop, &url, NULL);
}

static int set_up(void **state)
{
	w = (struct world){ 0 };
	clock_shift[0] = 0;
	w.loop = loop_new();
	listen_with(NULL);
	pool_to(http_server_port(w.srv), "127.0.0.1");
	return 0;
}

static int tear_down(void **state)
{
	http_pool_free(w.pool);
	http_server_free(w.srv);
	loop_free(w.loop);
	return 0;
}

/* --- a raw client --- */

static int dial(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(http_server_port(w.srv)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void say(int fd, const char *z) { assert_int_equal(send(fd, z, strlen(z), MSG_NOSIGNAL), strlen(z)); }

static struct { int fd; struct buf got; const char *want; bool eof, reset; } raw;

static void raw_read(void)
{
	for (;;) {
		ssize_t n;

		buf_reserve(&raw.got, 65536);
		n = recv(raw.fd, raw.got.p + raw.got.n, 65536, 0);
		if (n <= 0) {
			raw.eof |= n == 0;
			raw.reset |= n < 0 && errno == ECONNRESET;
			return;
		}
		raw.got.n += (size_t)n;
	}
}

static bool raw_has(void)
{
	raw_read();
	return str_find(buf_as_str(&raw.got), str_of(raw.want)) != NULL;
}

static bool raw_ended(void)
{
	raw_read();
	return raw.eof || raw.reset;
}

static void raw_use(int fd)
{
	raw.fd = fd;
	buf_clear(&raw.got);
	raw.eof = raw.reset = false;
}

static void expect(int fd, const char *want)
{
	raw_use(fd);
	raw.want = want;
	run_until(raw_has);
}

static void expect_end(int fd)
{
	raw_use(fd);
	run_until(raw_ended);
}

static void raw_done(int fd)
{
	close(fd);
	buf_free(&raw.got);
}

static bool held(void) { return w.held != NULL; }
static bool one_gone(void) { return w.gone > 0; }
static bool no_conns(void) { return http_server_conns(w.srv) == 0; }

static struct { int calls, status; char body[64]; bool failed; } fetched;

static void on_fetched(void *arg, int status, struct str body, const char *error)
{
	fetched.calls++;
	fetched.status = status;
	fetched.failed = error != NULL;
	str_copy(fetched.body, sizeof(fetched.body), body);
}

static bool has_fetched(void) { return fetched.calls > 0; }

/* What a server that was killed leaves: a socket file without a listener. */
static void leave_dead_socket(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(path);
	str_copy(sa.sun_path, sizeof(sa.sun_path), str_of(path));
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
}

/* --- server --- */

static void answers_and_keeps_alive(void **state)
{
	int fd = dial();

	say(fd, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
	expect(fd, "hello");
	assert_non_null(str_find(buf_as_str(&raw.got), STR("HTTP/1.1 200 OK\r\n")));
	assert_non_null(str_find(buf_as_str(&raw.got), STR("\r\nContent-Length: 5\r\n")));
	assert_non_null(str_find(buf_as_str(&raw.got), STR("\r\nDate: ")));
	assert_null(str_find(buf_as_str(&raw.got), STR("Connection:")));
	say(fd, "GET /b//c/ HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "\r\n\r\n/b/c");
	say(fd, "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	expect(fd, "Connection: close\r\n");
	expect_end(fd);
	assert_int_equal(w.requests, 3);
	raw_done(fd);
}

static void speaks_http_1_0(void **state)
{
	int fd = dial();

	say(fd, "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
	expect(fd, "Connection: keep-alive\r\n\r\n/x");
	say(fd, "POST /chunked HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd");
	expect_end(fd);
	assert_non_null(str_find(buf_as_str(&raw.got), STR("Connection: close\r\n\r\nabcd")));
	raw_done(fd);
}

static void answers_head_without_body(void **state)
{
	int fd = dial();

	say(fd, "HEAD /x HTTP/1.1\r\nHost: x\r\n\r\nGET /empty HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "204 No Content");
	assert_non_null(str_find(buf_as_str(&raw.got), STR("Content-Length: 2\r\n\r\nHTTP/1.1 204")));
	raw_done(fd);
}

static bool all_answered(void) { raw_read(); return w.requests == 100 && str_ends(buf_as_str(&raw.got), STR("/p99")); }

static void answers_pipelined_requests_in_order(void **state)
{
	struct buf b = { 0 };
	struct str rest;
	int fd = dial();

	for (int i = 0; i < 100; i++)
		buf_printf(&b, "GET /p%02d HTTP/1.1\r\nHost: x\r\n\r\n", i);
	say(fd, buf_z(&b));
	raw_use(fd);
	run_until(all_answered);
	rest = buf_as_str(&raw.got);
	for (int i = 0; i < 100; i++) {
		char want[32];

		snprintf(want, sizeof(want), "\r\n\r\n/p%02d", i);
		assert_non_null(str_find(rest, str_of(want)));
		rest = str_from(rest, (size_t)(str_find(rest, str_of(want)) - rest.p));
	}
	buf_free(&b);
	raw_done(fd);
}

static void request_in_pieces(const char *request, const char *want)
{
	for (size_t cut = 1; cut < strlen(request); cut++) {
		int fd = dial();

		assert_int_equal(send(fd, request, cut, 0), cut);
		run_ms(2);
		say(fd, request + cut);
		expect(fd, want);
		raw_done(fd);
	}
}

static void takes_a_request_split_anywhere(void **state)
{
	request_in_pieces("POST /s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "\r\n\r\nhello");
	request_in_pieces("POST /s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n", "\r\n\r\nhello");
}

static void takes_a_request_byte_by_byte(void **state)
{
	const char *r = "POST /s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n";
	int fd = dial();

	for (; *r; r++) {
		assert_int_equal(send(fd, r, 1, 0), 1);
		run_ms(1);
	}
	expect(fd, "/next");
	assert_non_null(str_find(buf_as_str(&raw.got), STR("\r\n\r\nhello")));
	raw_done(fd);
}

static void refuses_at_the_head(void **state)
{
	int fd = dial();

	say(fd, "POST /forbidden HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\npart");
	expect(fd, "\r\n\r\nno\n");
	assert_non_null(str_find(buf_as_str(&raw.got), STR("403 Forbidden")));
	assert_non_null(str_find(buf_as_str(&raw.got), STR("Connection: close")));
	expect_end(fd);
	raw_done(fd);
	fd = dial();
	say(fd, "GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "no\n");
	say(fd, "GET /after HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "/after");
	raw_done(fd);
	assert_int_equal(w.requests, 1);
}

static void refused(const char *request, const char *status, enum err code)
{
	int fd = dial();

	w.refused = 0;
	say(fd, request);
	expect(fd, status);
	expect_end(fd);
	assert_int_equal(w.refused, 1);
	assert_int_equal(w.refused_code, code);
	raw_done(fd);
}

static void refuses_what_is_wrong(void **state)
{
	refused("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request", ERR_MALFORMED);
	refused("GET / HTTP/1.1\r\n\r\n", "400", ERR_MALFORMED);
	refused("GET /a/../b HTTP/1.1\r\nHost: x\r\n\r\n", "400", ERR_MALFORMED);
	refused("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501", ERR_NOT_IMPLEMENTED);
	refused("POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", "413", ERR_TOO_LARGE);
	refused("POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n6\r\n123456\r\n", "413", ERR_TOO_LARGE);
	refused("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400", ERR_MALFORMED);
	refused("POST /v1//known HTTP/1.1\r\nHost: x\r\nContent-Length: z\r\n\r\n", "400", ERR_MALFORMED);
	assert_string_equal(w.refused_path, "/v1/known");
	assert_int_equal(w.requests, 0);
}

static void a_reset_right_behind_the_request_is_seen(void **state)
{
	int fd = dial();

	run_ms(5);
	say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	close(fd);
	run_until(no_conns);
	assert_int_equal(w.gone, w.requests);
}

static void invites_the_body(void **state)
{
	int fd = dial();

	say(fd, "POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
	expect(fd, "HTTP/1.1 100 Continue\r\n\r\n");
	say(fd, "body");
	expect(fd, "\r\n\r\nbody");
	say(fd, "POST /forbidden HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
	expect(fd, "403");
	assert_null(str_find(buf_as_str(&raw.got), STR("100 Continue")));
	raw_done(fd);
}

static void a_body_is_handed_over_as_it_comes(void **state)
{
	int fd;

	request_in_pieces("POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "\r\n\r\nhello");
	request_in_pieces("POST /pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n", "\r\n\r\nhello");
	w.refused = 0;
	refused("POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbad", "503", ERR_STORE_FAILED);
	refused("POST /pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n", "503", ERR_STORE_FAILED);
	refused("POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n", "413", ERR_TOO_LARGE);
	fd = dial();
	say(fd, "POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "/next");
	raw_done(fd);
	w.gone = 0;
	fd = dial();
	say(fd, "POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhel");
	run_ms(20);
	raw_done(fd);
	run_until(no_conns);
	assert_int_equal(w.gone, 1);
	buf_free(&w.pieces);
}

static void a_slow_head_is_refused(void **state)
{
	int fd = dial();

	say(fd, "GET / HTTP/1.1\r\nHo");
	run_ms(50);
	pass_ms(9000);
	run_ms(150);
	assert_int_equal(w.refused, 0);
	pass_ms(1100);
	expect(fd, "408 Request Timeout");
	assert_int_equal(w.refused_code, ERR_REQUEST_TIMEOUT);
	expect_end(fd);
	raw_done(fd);
}

static void a_slow_body_is_refused(void **state)
{
	int fd = dial();

	say(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc");
	run_ms(50);
	pass_ms(9500);
	run_ms(150);
	assert_int_equal(w.refused, 0);
	pass_ms(1000);
	expect(fd, "408");
	raw_done(fd);
}

static void an_idle_connection_is_closed(void **state)
{
	int fd = dial();

	say(fd, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
	expect(fd, "/x");
	pass_ms(59000);
	run_ms(150);
	assert_int_equal(http_server_conns(w.srv), 1);
	pass_ms(2000);
	expect_end(fd);
	raw_done(fd);
}

static void notices_a_client_that_leaves(void **state)
{
	int fd = dial();

	say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
	run_until(held);
	close(fd);
	run_until(one_gone);
	assert_null(w.held);
	run_until(no_conns);

	fd = dial();
	w.gone = 0;
	say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	http_reply_data(w.held, STR("first"));
	expect(fd, "first");
	shutdown(fd, SHUT_WR);        /* half closed is gone, too */
	run_until(one_gone);
	expect_end(fd);
	raw_done(fd);

	fd = dial();
	w.gone = 0;
	say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	raw_done(fd);                 /* a reset */
	run_until(one_gone);
}

static void a_client_that_leaves_early_costs_nothing(void **state)
{
	int fd = dial();

	close(fd);
	fd = dial();
	say(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
	run_ms(20);
	close(fd);
	fd = dial();
	say(fd, "GET /x HT");
	run_ms(20);
	close(fd);
	run_until(no_conns);
	assert_int_equal(w.requests + w.gone + w.refused, 0);
}

static void request_and_end_at_once_is_answered(void **state)
{
	int fd = dial();

	say(fd, "GET /quick HTTP/1.1\r\nHost: x\r\n\r\n");
	shutdown(fd, SHUT_WR);
	expect_end(fd);
	assert_non_null(str_find(buf_as_str(&raw.got), STR("/quick")));
	assert_int_equal(w.gone, 0);
	raw_done(fd);
}

static void an_aborted_answer_looks_incomplete(void **state)
{
	int fd = dial();

	say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	http_reply_data(w.held, STR("part"));
	http_reply_abort(w.held);
	expect_end(fd);
	assert_true(str_ends(buf_as_str(&raw.got), STR("4\r\npart\r\n")));
	raw_done(fd);
	fd = dial();
	say(fd, "GET /short HTTP/1.1\r\nHost: x\r\n\r\n");
	expect_end(fd);
	assert_true(str_ends(buf_as_str(&raw.got), STR("only5")));
	raw_done(fd);
	fd = dial();
	w.held = NULL;
	say(fd, "GET /stream HTTP/1.0\r\n\r\n");
	run_until(held);
	http_reply_abort(w.held);
	expect_end(fd);
	assert_true(raw.reset);
	raw_done(fd);
}

static void big_set(size_t n)
{
	char *p = malloc(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (char)('a' + i % 26 + (i / 65536) % 3);
	w.big = str_n(p, n);
}

static void big_free(void) { free((char *)(uintptr_t)w.big.p); }
static bool feed_stuck(void) { return w.fed > 0; }
static bool feed_all(void) { raw_read(); return raw.got.n >= w.big.n; }

static void a_slow_reader_bounds_memory(void **state)
{
	int fd = dial(), small = 16384;

	big_set(16 << 20);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	say(fd, "GET /feed HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(feed_stuck);
	run_ms(100);
	assert_true(w.fed < w.big.n);
	assert_true(w.high <= (256 << 10) + 10000);
	raw_use(fd);
	run_until(feed_all);
	assert_true(w.drained > 1);
	assert_true(str_ends(buf_as_str(&raw.got), str_from(w.big, w.big.n - 1000000)));
	raw_done(fd);
	big_free();
}

static void a_reader_that_stopped_is_gone(void **state)
{
	int fd = dial();

	big_set(16 << 20);
	say(fd, "GET /feed HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(feed_stuck);
	run_ms(50);
	pass_ms(61000);
	run_until(one_gone);
	raw_done(fd);
	big_free();
}

static bool was_idle;
static void on_idle(void *arg) { was_idle = true; }
static bool idle(void) { return was_idle; }

static void drains(void **state)
{
	int idler = dial(), fd = dial();

	was_idle = false;
	say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	http_server_drain(w.srv, on_idle, NULL);
	expect_end(idler);
	close(idler);
	assert_false(was_idle);
	http_reply_data(w.held, STR("still"));
	expect(fd, "still");
	http_reply_end(w.held);
	expect(fd, "0\r\n\r\n");
	expect_end(fd);
	run_until(idle);
	raw_done(fd);
}

static void drain_of_an_idle_server_is_immediate(void **state)
{
	was_idle = false;
	http_server_drain(w.srv, on_idle, NULL);
	assert_true(was_idle);
}

static void drain_serves_what_the_kernel_has(void **state)
{
	int fd = dial();

	was_idle = false;
	say(fd, "GET /in-the-backlog HTTP/1.1\r\nHost: x\r\n\r\n");
	http_server_drain(w.srv, on_idle, NULL);
	expect_end(fd);
	assert_non_null(str_find(buf_as_str(&raw.got), STR("Connection: close\r\n\r\n/in-the-backlog")));
	run_until(idle);
	raw_done(fd);
}

static bool fed_all(void) { return w.fed >= w.big.n; }

/* One whose answer is with the kernel as a whole, and who has read nothing of it. */
static int dial_slow_reader(void)
{
	int fd = dial(), small = 4096;

	big_set(64 << 10);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	say(fd, "GET /feed HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(fed_all);
	run_ms(20);
	was_idle = false;
	http_server_drain(w.srv, on_idle, NULL);
	return fd;
}

static void drain_waits_until_answers_arrived(void **state)
{
	int fd = dial_slow_reader();

	run_ms(1500);
	assert_false(was_idle);
	raw_use(fd);
	run_until(feed_all);
	run_until(idle);
	raw_done(fd);
	big_free();
}

static void drain_does_not_wait_for_who_reads_nothing(void **state)
{
	int fd = dial_slow_reader();

	run_ms(300);
	assert_false(was_idle);
	pass_ms(61000);
	run_until(idle);
	raw_done(fd);
	big_free();
}

static void http_server_free_breaks_what_is_open(void **state)
{
	int fd = dial(), sending = dial();

	big_set(16 << 20);
	say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
	say(sending, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	http_server_free(w.srv);
	assert_int_equal(w.gone, 1);
	w.srv = NULL;
	expect_end(fd);
	raw_done(fd);
	close(sending);
	big_free();
}

static void free_when_idle(void *arg)
{
	http_server_free(w.srv);
	w.srv = NULL;
	was_idle = true;
}

static void may_be_freed_when_drained(void **state)
{
	int fd = dial();

	was_idle = false;
	say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	http_server_drain(w.srv, free_when_idle, NULL);
	http_reply(w.held, 200, STR(""), STR("bye"));
	run_until(idle);
	raw_done(fd);
}

static bool all_early(void) { raw_read(); return w.requests == 5001; }

static void holds_early_requests_back(void **state)
{
	struct buf b = { 0 };
	int fd = dial();
	size_t sent = 0;

	say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(held);
	for (int i = 0; i < 5000; i++)
		buf_addz(&b, "GET /early HTTP/1.1\r\nHost: x\r\n\r\n");
	raw_use(fd);
	for (int i = 0; i < 1000 && sent < b.n; i++) {
		ssize_t n = send(fd, b.p + sent, b.n - sent, MSG_NOSIGNAL);

		sent += n > 0 ? (size_t)n : 0;
		run_ms(1);
		if (sent < b.n || !w.held)
			continue;
		run_ms(20);
		http_reply(w.held, 200, STR(""), STR(""));
	}
	assert_int_equal(sent, b.n);
	run_until(all_early);
	buf_free(&b);
	raw_done(fd);
}

static void listens_on_v6_and_unix(void **state)
{
	struct http_server *v6, *ux, *again;
	struct http_url url;
	struct why why;
	char text[64], path[] = "unix:/tmp/http_test.sock.XXXXXX";

	v6 = http_server_new(w.loop, "[::1]:0", &handler, NULL, &why);
	if (!v6)
		skip();               /* no v6 on this machine */
	snprintf(text, sizeof(text), "http://[::1]:%u/base/", http_server_port(v6));
	assert_true(http_url_parse(&url, str_of(text), &why));
	http_pool_free(w.pool);
	w.pool = http_pool_new(w.loop, &url, NULL);
	memset(&fetched, 0, sizeof(fetched));
	http_fetch(w.pool, "GET", STR("/six"), STR(""), STR(""), 1000, 100, on_fetched, NULL);
	run_until(has_fetched);
	assert_string_equal(fetched.body, "/base/six");
	http_server_free(v6);

	close(mkstemp(path + 5));
	unlink(path + 5);
	ux = http_server_new(w.loop, path, &handler, NULL, &why);
	assert_non_null(ux);
	assert_null(http_server_new(w.loop, path, &handler, NULL, &why));     /* alive: not taken over */
	run_ms(1);
	leave_dead_socket("/tmp/http_test.dead");
	again = http_server_new(w.loop, "unix:/tmp/http_test.dead", &handler, NULL, &why);
	assert_non_null(again);
	http_server_free(again);
	http_server_free(ux);
	assert_int_equal(access(path + 5, F_OK), -1);
}

static void says_who_has_the_port(void **state)
{
	struct why why;
	char at[32];

	snprintf(at, sizeof(at), "127.0.0.1:%u", http_server_port(w.srv));
	assert_null(http_server_new(w.loop, at, &handler, NULL, &why));
	assert_non_null(strstr(why.text, at));
	assert_non_null(strstr(why.text, "another program"));
	assert_null(http_server_new(w.loop, "nonsense", &handler, NULL, &why));
}

static void limits_connections(void **state)
{
	struct http_server_opts opts = { .max_conns = 2 };
	int a, b, c;

	http_server_free(w.srv);
	listen_with(&opts);
	a = dial();
	b = dial();
	c = dial();
	expect(c, "503 Service Unavailable");
	close(a);
	close(b);
	raw_done(c);
}

static bool paused_then_served(void) { return raw_has(); }

/* Takes every descriptor up to 'limit' that is not used; gives the last 'n' of them. */
static void hoard(rlim_t limit, int *last, unsigned n)
{
	struct rlimit low;
	unsigned got = 0;

	getrlimit(RLIMIT_NOFILE, &low);
	low.rlim_cur = limit;
	setrlimit(RLIMIT_NOFILE, &low);
	for (int fd = dup(0); fd >= 0; fd = dup(0))
		last[got++ % n] = fd;
	assert_true(got >= n);
}

static void survives_without_descriptors(void **state)
{
	struct rlimit old;
	int waiting[6], spare[5];
	uint64_t warned = log_written(LOG_LEVEL_WARN);

	getrlimit(RLIMIT_NOFILE, &old);
	for (size_t i = 0; i < 6; i++) {
		waiting[i] = dial();
		say(waiting[i], i < 5 ? "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /late HTTP/1.1\r\nHost: x\r\n\r\n");
	}
	hoard((rlim_t)waiting[5] + 6, spare, 5);
	run_ms(50);
	assert_int_equal(w.requests, 0);
	assert_int_equal(log_written(LOG_LEVEL_WARN), warned + 1);
	for (size_t i = 0; i < 5; i++) {         /* one comes through now and then; that the others wait on is no news */
		close(spare[i]);
		pass_ms(100);
		run_ms(5);
	}
	assert_int_equal(http_server_conns(w.srv), 5);
	assert_int_equal(log_written(LOG_LEVEL_WARN), warned + 1);
	pass_ms(60000);
	run_ms(5);
	assert_int_equal(log_written(LOG_LEVEL_WARN), warned + 2);
	setrlimit(RLIMIT_NOFILE, &old);
	pass_ms(100);
	raw_use(waiting[5]);
	raw.want = "/late";
	run_until(paused_then_served);
	for (size_t i = 0; i < 5; i++)
		close(waiting[i]);
	raw_done(waiting[5]);
}

/* --- what bodies and answers hold together --- */

static struct budget held_budget;

static int set_up_budget(void **state)
{
	held_budget = (struct budget){ .max = 1 << 20 };
	set_up(state);
	http_server_free(w.srv);
	listen_with(&(struct http_server_opts){ .held = &held_budget });
	return 0;
}

static void say_body(int fd, const char *head, size_t n)
{
	static char body[65536];

	memset(body, 'x', sizeof(body));
	fcntl(fd, F_SETFL, 0);
	say(fd, head);
	for (; n; n -= n < sizeof(body) ? n : sizeof(body))
		assert_true(send(fd, body, n < sizeof(body) ? n : sizeof(body), MSG_NOSIGNAL) > 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
}

static bool half_is_here(void) { return budget_used(&held_budget) >= 600000; }
static bool nothing_held(void) { return budget_used(&held_budget) == 0; }

/* Two bodies that fit alone and not together: the second is told to come back, the first is served. */
static void bodies_share_a_budget(void **state)
{
	int first = dial(), second = dial();

	say_body(first, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n", 600000);
	run_until(half_is_here);
	say_body(second, "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n", 130000);
	fcntl(second, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 6 && !w.refused; i++) {
		char more[100000] = "";

		(void)!send(second, more, i < 5 ? sizeof(more) : 70000, MSG_NOSIGNAL | MSG_DONTWAIT);
		run_ms(20);
	}
	expect(second, "HTTP/1.1 503 ");
	assert_int_equal(w.refused_code, ERR_UNAVAILABLE);
	raw_done(second);
	say_body(first, "", 100000);
	expect(first, "HTTP/1.1 200 OK");
	raw_done(first);
	run_until(nothing_held);
}

static void a_chunked_body_is_counted(void **state)
{
	int fd = dial();

	held_budget.max = 100000;
	say_body(fd, "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n30000\r\n", 0x30000);
	expect(fd, "HTTP/1.1 503 ");
	raw_done(fd);
	run_until(nothing_held);
}

static bool all_is_here(void) { return w.n_streamed == 8 << 20; }

/* What is handed over as it comes is held by nobody here. */
static void a_body_that_is_handed_over_is_not_counted(void **state)
{
	int fd = dial();

	held_budget.max = 100000;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	say(fd, "POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n");
	for (size_t left = 8 << 20; left;) {
		static char zeros[65536];
		ssize_t n = send(fd, zeros, left < sizeof(zeros) ? left : sizeof(zeros), MSG_NOSIGNAL);

		left -= n > 0 ? (size_t)n : 0;
		run_ms(1);
	}
	run_until(all_is_here);
	expect(fd, "200 OK");
	raw_done(fd);
	run_until(nothing_held);
	buf_free(&w.pieces);
}

static bool queue_is_counted(void) { return budget_used(&held_budget) > 1 << 20; }

static void an_answer_nobody_reads_is_counted(void **state)
{
	static char bytes[8 << 20];
	int fd = dial();

	w.big = str_n(bytes, sizeof(bytes));
	say(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
	run_until(queue_is_counted);
	assert_true(budget_is_full(&held_budget));
	close(fd);
	run_until(nothing_held);
}

/* --- client against the server --- */

static struct seen {
	int heads, ends, errors, status;
	enum http_call_error error;
	struct buf body;
	bool pause_at_data, cancel_at_head;
	struct http_call *call;
	const struct http_call_ops *ops;
} got;

static void c_head(struct http_call *call, const struct http_head *h, void *arg)
{
	got.heads++;
	got.status = h->status;
	if (got.cancel_at_head)
		http_call_cancel(call);
}

static void c_data(struct http_call *call, struct str data, void *arg)
{
	assert_true(data.n > 0);
	buf_str(&got.body, data);
	if (got.pause_at_data)
		http_call_pause(call);
}

static void c_end(struct http_call *call, void *arg) { got.ends++; }
static void c_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	assert_non_null(text);
	got.errors++;
	got.error = e;
}

static const struct http_call_ops ops = { c_head, c_data, c_end, c_error };
static struct arena *mem;

static void got_reset(void)
{
	buf_free(&got.body);
	got = (struct seen){ 0 };
}

static void call(const char *method, const char *path, struct str body, const struct http_call_opts *opts)
{
	struct str head;

	if (!mem)
		mem = arena_new(0);
	got_reset();
	head = http_call_head(mem, w.pool, method, str_of(path), STR("X-A: b\r\n"), body.n > 0, body.n);
	got.call = http_call_start(w.pool, head, &body, body.n ? 1 : 0, opts, &ops, NULL);
	assert_int_equal(got.heads + got.ends + got.errors, 0);
}

static bool over(void) { return got.ends + got.errors > 0; }
static bool has_head(void) { return got.heads > 0; }
static bool has_data(void) { return got.body.n > 0; }

static void calls_and_reuses(void **state)
{
	for (int i = 0; i < 3; i++) {
		call("POST", "/x", STR("question"), NULL);
		assert_int_equal(http_call_reused(got.call), i > 0);
		run_until(over);
		assert_int_equal(got.ends, 1);
		assert_int_equal(got.status, 200);
		assert_true(str_eqz(buf_as_str(&got.body), "question"));
	}
	assert_int_equal(http_server_conns(w.srv), 1);
	call("GET", "/chunked", STR(""), NULL);
	run_until(over);
	assert_int_equal(got.ends, 1);
	call("HEAD", "/x", STR(""), &(struct http_call_opts){ .head_request = true });
	run_until(over);
	assert_int_equal(got.ends + (int)got.body.n, 1);
	call("GET", "/empty", STR(""), &(struct http_call_opts){ .fresh = true });
	run_until(over);
	assert_int_equal(got.status, 204);
	assert_int_equal(http_server_conns(w.srv), 2);
	got_reset();
}

static void carries_8_mib_both_ways(void **state)
{
	big_set(8 << 20);
	call("POST", "/x", w.big, NULL);
	run_until(over);
	assert_int_equal(got.ends, 1);
	assert_true(str_eq(buf_as_str(&got.body), w.big));
	call("POST", "/chunked", w.big, NULL);
	run_until(over);
	assert_true(str_eq(buf_as_str(&got.body), w.big));
	got_reset();
	big_free();
}

/* Sizes around each further digit, and around what goes past the queue. */
static void chunks_of_every_length_are_framed(void **state)
{
	static const size_t sizes[] = { 1, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536 };

	big_set(65536);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		call("POST", "/chunk", str_n(w.big.p, sizes[i]), NULL);
		run_until(over);
		assert_int_equal(got.ends, 1);
		assert_true(str_eq(buf_as_str(&got.body), str_n(w.big.p, sizes[i])));
	}
	assert_int_equal(http_server_conns(w.srv), 1);    /* no byte too many: the connection was kept */
	got_reset();
	big_free();
}

static void a_cancelled_call_is_seen_by_the_server(void **state)
{
	call("GET", "/hold", STR(""), NULL);
	run_until(held);
	http_call_cancel(got.call);
	run_until(one_gone);
	assert_int_equal(got.errors + got.ends, 0);
	got_reset();
	call("GET", "/stream", STR(""), NULL);
	got.cancel_at_head = true;
	w.gone = 0;
	run_until(has_head);
	run_until(one_gone);
	assert_int_equal(got.errors + got.ends, 0);
}

static void a_pause_holds_the_server_back(void **state)
{
	size_t before;

	big_set(32 << 20);
	call("GET", "/feed", STR(""), NULL);
	got.pause_at_data = true;
	run_until(has_data);
	run_ms(100);
	before = got.body.n;
	run_ms(100);
	assert_int_equal(before, got.body.n);
	assert_true(before <= 2 * LOOP_SCRATCH_BYTES);
	assert_true(w.fed < w.big.n);
	got.pause_at_data = false;
	http_call_resume(got.call);
	run_until(over);
	assert_true(str_eq(buf_as_str(&got.body), w.big));
	got_reset();
	big_free();
}

static void server_death_reaches_the_call(void **state)
{
	call("GET", "/stream", STR(""), NULL);
	run_until(has_head);
	http_reply_data(w.held, STR("x"));
	http_reply_abort(w.held);
	run_until(over);
	assert_int_equal(got.error, HTTP_CALL_CUT);
	call("GET", "/short", STR(""), NULL);
	run_until(over);
	assert_int_equal(got.error, HTTP_CALL_CUT);
	got_reset();
}

static void pool_free_cancels(void **state)
{
	call("GET", "/hold", STR(""), NULL);
	run_until(held);
	http_pool_free(w.pool);
	assert_int_equal(got.error, HTTP_CALL_CANCELLED);
	w.pool = NULL;
	run_until(one_gone);
}

static void finds_a_name_without_blocking(void **state)
{
	char no_name[71] = "";

	http_pool_free(w.pool);
	pool_to(http_server_port(w.srv), "localhost");
	call("GET", "/named", STR(""), NULL);
	run_until(over);
	assert_true(str_eqz(buf_as_str(&got.body), "/named"));
	http_pool_free(w.pool);
	memset(no_name, 'a', 70);     /* longer than a label may be: fails without asking a name server */
	pool_to(http_server_port(w.srv), no_name);
	call("GET", "/", STR(""), &(struct http_call_opts){ .connect_ms = 60000 });
	run_until(over);
	assert_int_equal(got.error, HTTP_CALL_REFUSED);
	call("GET", "/", STR(""), NULL);
	http_call_cancel(got.call);
	got_reset();
}

/* --- client against a raw server --- */

static struct {
	int listener, conn, accepted, max;
	const char *answer;
	size_t answer_n;
	size_t cut;                   /* != 0: so many bytes at first, the rest in a later turn */
	bool close_after, reset_after, silent, owes;
	struct buf in;
} fake;

static uint16_t fake_listen(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(sa);

	fake.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fake.listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fake.listener, 16), 0);
	getsockname(fake.listener, (struct sockaddr *)&sa, &n);
	fake.conn = -1;
	fake.accepted = 0;
	return ntohs(sa.sin_port);
}

static int fake_set_up(void **state)
{
	set_up(state);
	http_pool_free(w.pool);
	memset(&fake, 0, sizeof(fake));
	pool_to(fake_listen(), "127.0.0.1");
	return 0;
}

static int fake_tear_down(void **state)
{
	got_reset();
	if (fake.conn >= 0)
		close(fake.conn);
	if (fake.listener >= 0)
		close(fake.listener);
	return tear_down(state);
}

/* The raw server's share of the work: accepts, and answers once a whole request without body is there. */
static void fake_turn(void)
{
	char tmp[4096];
	int on = 1, fd = accept4(fake.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	ssize_t n;

	if (fd >= 0) {
		if (fake.conn >= 0)
			close(fake.conn);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		fake.conn = fd;
		fake.accepted++;
	}
	if (fake.conn < 0 || fake.silent)
		return;
	n = recv(fake.conn, tmp, sizeof(tmp), 0);
	if (n < 4 && !fake.owes)
		return;
	if (fake.cut && !fake.owes) {
		(void)!send(fake.conn, fake.answer, fake.cut, MSG_NOSIGNAL);
		fake.owes = true;
		return;
	}
	(void)!send(fake.conn, fake.answer + fake.cut, fake.answer_n - fake.cut, MSG_NOSIGNAL);
	fake.owes = false;
	if (fake.reset_after)
		setsockopt(fake.conn, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	if (fake.close_after || fake.reset_after) {
		close(fake.conn);
		fake.conn = -1;
	}
}

static bool over_fake(void)
{
	fake_turn();
	return over();
}

static void answer_with(const char *z, bool close_after)
{
	fake.answer = z;
	fake.answer_n = strlen(z);
	fake.close_after = close_after;
}

static void ask(const struct http_call_opts *opts)
{
	call("GET", "/", STR(""), opts);
	run_until(over_fake);
}

static void reads_every_framing(void **state)
{
	answer_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	assert_true(got.ends == 1 && got.heads == 1 && str_eqz(buf_as_str(&got.body), "ok"));
	answer_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", false);
	ask(NULL);
	assert_true(got.ends == 1 && str_eqz(buf_as_str(&got.body), "ok!"));
	assert_int_equal(fake.accepted, 1);
	answer_with("HTTP/1.1 200 OK\r\n\r\nuntil the end", true);
	ask(NULL);
	assert_true(got.ends == 1 && str_eqz(buf_as_str(&got.body), "until the end"));
}

static void reads_an_answer_split_anywhere(void **state)
{
	static const char *const answers[] = {
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nhello",
	};

	for (size_t a = 0; a < 3; a++) {
		answer_with(answers[a], a == 2);
		for (fake.cut = 1; fake.cut < fake.answer_n; fake.cut++) {
			ask(NULL);
			assert_int_equal(got.heads, 1);
			assert_int_equal(got.ends, 1);
			assert_true(str_eqz(buf_as_str(&got.body), "hello"));
		}
	}
	assert_int_equal(fake.accepted, strlen(answers[2]) - 1);      /* the framed ones kept one, and the last kind began on it */
}

static unsigned rnd(unsigned n) { return n ? (unsigned)rand() % n : 0; }

/* Whatever a server says, however it is cut and ended: each call ends exactly once. */
static void noise_ends_every_call_once(void **state)
{
	static const char base[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
	struct http_call_opts opts = { .first_byte_ms = 20, .idle_ms = 20 };
	char noise[sizeof(base)];

	srand(11);
	for (int i = 0; i < 150; i++) {
		memcpy(noise, base, sizeof(base));
		if (rnd(2))
			memcpy(strstr(noise, rnd(2) ? "Content-Length" : "Transfer-E"), "X-", 2);
		for (unsigned k = rnd(4); k > 0; k--)
			noise[rnd(sizeof(base) - 1)] = (char)rnd(256);
		fake.answer = noise;
		fake.answer_n = rnd(3) ? sizeof(base) - 1 : rnd(sizeof(base));
		fake.cut = rnd((unsigned)fake.answer_n);
		fake.close_after = true;
		fake.reset_after = rnd(4) == 0;
		fake.owes = false;
		ask(&opts);
		assert_int_equal(got.ends + got.errors, 1);
		assert_true(got.ends == 0 || got.heads == 1);
	}
}

static void refuses_a_bad_answer(void **state)
{
	static const char *const bad[] = {
		"garbage\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n12345",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		answer_with(bad[i], false);
		ask(NULL);
		assert_int_equal(got.errors, 1);
		assert_int_equal(got.error, HTTP_CALL_BAD_FRAMING);
	}
}

static void caps_the_head(void **state)
{
	struct buf b = { 0 };

	buf_addz(&b, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i < 3000; i++)
		buf_printf(&b, "X-%d: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", i);
	answer_with(buf_z(&b), false);
	ask(NULL);
	assert_int_equal(got.error, HTTP_CALL_BAD_FRAMING);
	buf_free(&b);
}

static void a_server_that_dies_anywhere(void **state)
{
	static const char *const answers[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	};

	for (size_t a = 0; a < 2; a++) {
		size_t head = (size_t)(strstr(answers[a], "\r\n\r\n") + 4 - answers[a]), all = strlen(answers[a]);

		for (size_t cut = 0; cut <= 2 * all + 1; cut++) {
			answer_with(answers[a], true);
			fake.answer_n = cut / 2;
			fake.reset_after = cut % 2;
			ask(NULL);
			if (cut / 2 == all && !fake.reset_after)
				assert_int_equal(got.ends, 1);
			else if (cut / 2 < all && !fake.reset_after)
				assert_int_equal(got.error, cut / 2 < head ? HTTP_CALL_RESET : HTTP_CALL_CUT);
			assert_int_equal(got.ends + got.errors, 1);
		}
	}
}

static bool went_out(void) { return http_call_sent(got.call); }

static void a_stale_connection_is_replaced_once(void **state)
{
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	fake.silent = true;
	call("POST", "/again", STR("x"), NULL);       /* goes out on the old connection … */
	run_until(went_out);
	assert_true(http_call_reused(got.call));
	setsockopt(fake.conn, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	close(fake.conn);                             /* … which the server resets */
	fake.conn = -1;
	fake.silent = false;
	run_until(over_fake);
	assert_int_equal(got.ends, 1);
	assert_int_equal(fake.accepted, 2);
	answer_with("", true);                        /* a fresh one that breaks is an error, not a second try */
	call("GET", "/", STR(""), &(struct http_call_opts){ .fresh = true });
	run_until(over_fake);
	assert_int_equal(got.error, HTTP_CALL_RESET);
	assert_int_equal(fake.accepted, 3);
}

/* It may have been working: whoever asks again is to know that. */
static void a_reused_connection_that_breaks_late_is_an_error(void **state)
{
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	fake.silent = true;
	call("POST", "/again", STR("x"), NULL);
	assert_true(http_call_reused(got.call));
	run_ms(1200);
	close(fake.conn);
	fake.conn = -1;
	fake.silent = false;
	run_until(over_fake);
	assert_int_equal(got.ends, 0);
	assert_int_equal(got.error, HTTP_CALL_RESET);
	assert_int_equal(fake.accepted, 1);
}

/* The server may have worked on what it has read, however soon it goes. */
static void a_reused_connection_on_which_the_request_was_read_is_an_error(void **state)
{
	char bytes[500];

	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	fake.silent = true;
	call("POST", "/again", STR("x"), NULL);
	run_until(went_out);
	assert_true(http_call_reused(got.call));
	run_ms(20);
	assert_true(recv(fake.conn, bytes, sizeof(bytes), 0) > 0);
	close(fake.conn);
	fake.conn = -1;
	fake.silent = false;
	run_until(over_fake);
	assert_int_equal(got.ends, 0);
	assert_int_equal(got.error, HTTP_CALL_RESET);
	assert_int_equal(fake.accepted, 1);
}

static void an_idle_connection_closed_by_the_server_is_dropped(void **state)
{
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true);    /* says keep-alive, closes at once */
	ask(NULL);
	assert_int_equal(got.ends, 1);
	run_ms(20);
	call("GET", "/", STR(""), NULL);
	assert_false(http_call_reused(got.call));
	run_until(over_fake);
	assert_int_equal(got.ends, 1);
}

#define IN_CHUNKS "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

/* llama.cpp does so, and says keep-alive. */
static void a_server_that_ends_streams_is_not_asked_on_their_connection(void **state)
{
	answer_with(IN_CHUNKS, false);
	ask(NULL);
	close(fake.conn);
	fake.conn = -1;
	run_ms(20);                                   /* the end is seen, and remembered */
	ask(NULL);
	ask(NULL);
	assert_int_equal(fake.accepted, 3);           /* though this one's connection would have been open */
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	ask(NULL);
	assert_int_equal(fake.accepted, 4);           /* other answers leave it open */
	answer_with(IN_CHUNKS, false);
	for (int i = 0; i < 70; i++)
		ask(NULL);
	assert_in_range(fake.accepted, 50, 70);       /* after some it is tried again, and all is as with others */
	fake.accepted = 0;
	for (int i = 0; i < 10; i++)
		ask(NULL);
	assert_int_equal(fake.accepted, 0);
}

static void an_idle_connection_is_not_kept_for_long(void **state)
{
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	pass_ms(4100);
	run_ms(120);
	call("GET", "/", STR(""), NULL);
	assert_false(http_call_reused(got.call));
	run_until(over_fake);
	assert_int_equal(got.ends, 1);
}

static void answers_before_the_request_is_sent(void **state)
{
	big_set(16 << 20);
	answer_with("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig", false);
	call("POST", "/", w.big, NULL);
	run_until(over_fake);
	assert_int_equal(got.ends, 1);
	assert_int_equal(got.status, 413);
	assert_true(str_eqz(buf_as_str(&got.body), "big"));
	assert_int_equal(http_pool_active(w.pool), 0);
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	assert_int_equal(fake.accepted, 2);
	big_free();
}

static void surplus_bytes_end_the_connection(void **state)
{
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", false);
	ask(NULL);
	assert_int_equal(got.ends, 1);
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false);
	ask(NULL);
	assert_int_equal(fake.accepted, 2);
}

static void waits_only_so_long(void **state)
{
	struct http_call_opts opts = { .first_byte_ms = 1000, .idle_ms = 500 };

	fake.silent = true;
	call("GET", "/", STR(""), &opts);
	run_ms(100);
	pass_ms(1000);
	run_until(over_fake);
	assert_int_equal(got.error, HTTP_CALL_FIRST_BYTE_TIMEOUT);
	fake.silent = false;
	answer_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", false);
	call("GET", "/", STR(""), &opts);
	w.until = NULL;
	while (!has_data()) {
		run_ms(1);
		fake_turn();
	}
	pass_ms(600);
	run_until(over_fake);
	assert_int_equal(got.error, HTTP_CALL_IDLE_TIMEOUT);
	call("GET", "/", STR(""), &(struct http_call_opts){ .deadline_us = loop_now_us(w.loop) + 100000 });
	fake.silent = true;
	run_until(over_fake);
	assert_int_equal(got.error, HTTP_CALL_DEADLINE);
}

static void a_refused_connection(void **state)
{
	close(fake.listener);
	fake.listener = -1;
	call("GET", "/", STR(""), NULL);
	run_until(over);
	assert_int_equal(got.error, HTTP_CALL_REFUSED);
}

static int retries;

static void try_again(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	static const struct http_call_ops again = { c_head, c_data, c_end, try_again };

	retries++;
	if (e == HTTP_CALL_CANCELLED)
		return;
	http_call_start(w.pool, STR("GET / HTTP/1.1\r\n\r\n"), NULL, 0, NULL, &again, NULL);
}

static void a_caller_that_tries_again_at_once_does_not_stop_the_loop(void **state)
{
	static const struct http_call_ops again = { c_head, c_data, c_end, try_again };
	struct rlimit old, low;
	int probe = dup(0);

	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = (rlim_t)probe;
	close(probe);
	got_reset();
	setrlimit(RLIMIT_NOFILE, &low);
	http_call_start(w.pool, STR("GET / HTTP/1.1\r\n\r\n"), NULL, 0, NULL, &again, NULL);
	run_ms(20);
	setrlimit(RLIMIT_NOFILE, &old);
	assert_true(retries > 1);
	close(fake.listener);
	fake.listener = -1;
	run_ms(20);
	w.pool = (http_pool_free(w.pool), NULL);
}

static void a_connection_that_never_comes(void **state)
{
	int fill[64], n = 0;
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);

	listen(fake.listener, 0);
	getsockname(fake.listener, (struct sockaddr *)&sa, &len);
	for (; n < 8; n++) {
		fill[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)!connect(fill[n], (struct sockaddr *)&sa, sizeof(sa));
	}
	call("GET", "/", STR(""), NULL);
	run_ms(60);
	pass_ms(2100);
	run_until(over);
	assert_int_equal(got.error, HTTP_CALL_CONNECT_TIMEOUT);
	while (n)
		close(fill[--n]);
}

/* --- fetch, urls --- */

static void fetches(void **state)
{
	memset(&fetched, 0, sizeof(fetched));
	http_fetch(w.pool, "POST", STR("/f"), STR("A: b\r\n"), STR("ping"), 1000, 100, on_fetched, NULL);
	run_until(has_fetched);
	assert_int_equal(fetched.status, 200);
	assert_string_equal(fetched.body, "ping");
	fetched.calls = 0;
	http_fetch(w.pool, "GET", STR("/a/long/path"), STR(""), STR(""), 1000, 5, on_fetched, NULL);
	run_until(has_fetched);
	assert_true(fetched.status == 0 && fetched.failed);
	fetched.calls = 0;
	http_fetch(w.pool, "GET", STR("/hold"), STR(""), STR(""), 50, 5, on_fetched, NULL);
	run_until(has_fetched);
	assert_true(fetched.status == 0 && fetched.failed);
	fetched.calls = 0;
	http_fetch_cancel(http_fetch(w.pool, "GET", STR("/hold"), STR(""), STR(""), 50, 5, on_fetched, NULL));
	run_ms(100);
	assert_int_equal(fetched.calls, 0);
}

static void parses_urls(void **state)
{
	struct http_url u;
	struct why why;

	assert_true(http_url_parse(&u, STR("http://gpu1:8080/v1/"), &why));
	assert_string_equal(u.host, "gpu1");
	assert_string_equal(u.base, "/v1");
	assert_string_equal(u.host_header, "gpu1:8080");
	assert_int_equal(u.port, 8080);
	assert_true(http_url_parse(&u, STR("http://[::1]:11434"), &why));
	assert_string_equal(u.host, "::1");
	assert_true(http_url_parse(&u, STR("http://[fe80::1]"), &why));
	assert_int_equal(u.port, 80);
	assert_false(u.tls);
	assert_true(http_url_parse(&u, STR("https://api.example.org/v1"), &why));
	assert_true(u.tls && u.port == 443);
	assert_string_equal(u.host, "api.example.org");
	assert_string_equal(u.host_header, "api.example.org");
	assert_true(http_url_parse(&u, STR("https://x:8443"), &why) && u.tls && u.port == 8443);
	assert_false(http_url_parse(&u, STR("ftp://x"), &why));
	assert_false(http_url_parse(&u, STR("https://"), &why));
	assert_false(http_url_parse(&u, STR("http://"), &why));
	assert_false(http_url_parse(&u, STR("http://a:0"), &why));
	assert_false(http_url_parse(&u, STR("http://a:99999"), &why));
	assert_false(http_url_parse(&u, STR("http://user@a"), &why));
	assert_false(http_url_parse(&u, STR("http://a/b\r\nX: y"), &why));
}

static void map_clock(void)
{
	char path[] = "/tmp/http_test_clock.XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0 || ftruncate(fd, 16) < 0)
		abort();
	clock_shift = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	setenv("CORRAL_TEST_CLOCK", path, 1);
	clock_init();
	close(fd);
	unlink(path);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define B(f) cmocka_unit_test_setup_teardown(f, set_up_budget, tear_down)
#define F(f) cmocka_unit_test_setup_teardown(f, fake_set_up, fake_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(answers_and_keeps_alive), T(speaks_http_1_0), T(answers_head_without_body), T(answers_pipelined_requests_in_order),
		T(takes_a_request_split_anywhere), T(takes_a_request_byte_by_byte), T(refuses_at_the_head), T(refuses_what_is_wrong),
		T(invites_the_body), T(a_body_is_handed_over_as_it_comes), T(a_slow_head_is_refused), T(a_slow_body_is_refused), T(an_idle_connection_is_closed),
		T(notices_a_client_that_leaves), T(a_client_that_leaves_early_costs_nothing), T(request_and_end_at_once_is_answered),
		T(a_reset_right_behind_the_request_is_seen),
		T(an_aborted_answer_looks_incomplete), T(a_slow_reader_bounds_memory), T(a_reader_that_stopped_is_gone), T(drains),
		T(drain_of_an_idle_server_is_immediate), T(drain_serves_what_the_kernel_has),
		T(drain_waits_until_answers_arrived), T(drain_does_not_wait_for_who_reads_nothing), T(http_server_free_breaks_what_is_open),
		T(may_be_freed_when_drained), T(holds_early_requests_back), T(listens_on_v6_and_unix), T(says_who_has_the_port), T(limits_connections),
		T(calls_and_reuses), T(carries_8_mib_both_ways),
		T(chunks_of_every_length_are_framed), T(a_cancelled_call_is_seen_by_the_server), T(a_pause_holds_the_server_back),
		T(server_death_reaches_the_call), T(pool_free_cancels), T(finds_a_name_without_blocking),
		F(reads_every_framing), F(reads_an_answer_split_anywhere), F(noise_ends_every_call_once),
		F(refuses_a_bad_answer), F(caps_the_head), F(a_server_that_dies_anywhere),
		F(a_stale_connection_is_replaced_once), F(a_reused_connection_that_breaks_late_is_an_error),
		F(a_reused_connection_on_which_the_request_was_read_is_an_error),
		F(an_idle_connection_closed_by_the_server_is_dropped),
		F(an_idle_connection_is_not_kept_for_long),
		F(a_server_that_ends_streams_is_not_asked_on_their_connection), F(answers_before_the_request_is_sent), F(surplus_bytes_end_the_connection),
		F(waits_only_so_long), F(a_refused_connection), F(a_connection_that_never_comes), F(a_caller_that_tries_again_at_once_does_not_stop_the_loop),
		T(fetches), cmocka_unit_test(parses_urls), T(survives_without_descriptors),
		B(bodies_share_a_budget), B(a_chunked_body_is_counted), B(a_body_that_is_handed_over_is_not_counted), B(an_answer_nobody_reads_is_counted),
	};
	int rc;

	map_clock();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	arena_free(mem);
	buf_free(&got.body);
	return rc;
}

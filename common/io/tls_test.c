/* tls_test.c - tls.c, and the HTTP server behind it: who is let in, what a client sees, what is done about peers that misbehave.
 *
 * One loop has server and clients. The clients are sessions of tls.h, or bare sockets; certificates are made by openssl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http_client.h"
#include "common/io/http_server.h"
#include "common/io/tls.h"

static char dir[] = "/tmp/corral-tls-test.XXXXXX";
static const char *const what[2] = { "public_tls_cert", "public_tls_key" };
static int64_t *clock_shift;

static void sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void sh(const char *fmt, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command) != 0)
		fail_msg("%s", command);
}

static const char *path(const char *name)
{
	static char paths[8][128];
	static unsigned n;
	char *p = paths[n++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void make_authority(const char *name)
{
	sh("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=%s -keyout %s.ca.key -out %s.ca.pem 2>/dev/null",
	   dir, name, name, name);
}

static void make_identity(const char *ca, const char *name, const char *alt)
{
	sh("cd %s && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=%s -keyout %s.key -out %s.csr 2>/dev/null && "
	   "printf 'subjectAltName=%s' >%s.ext && openssl x509 -req -in %s.csr -CA %s.ca.pem -CAkey %s.ca.key -CAcreateserial -days 2 -extfile %s.ext "
	   "-out %s.pem 2>/dev/null", dir, name, name, name, alt, name, name, ca, ca, name, name);
}

static struct tls_identity *identity(const char *cert, const char *key)
{
	struct why why;
	struct tls_identity *i = tls_identity_load(path(cert), path(key), what, &why);

	if (!i)
		fail_msg("%s", why.text);
	return i;
}

static struct tls_trust *trust(const char *ca)
{
	struct why why;
	struct tls_trust *t = tls_trust_load(path(ca), &why);

	assert_non_null(t);
	return t;
}

/* --- the world: a server with a plain and a TLS address --- */

static struct {
	struct loop *loop;
	struct http_server *srv;
	struct tls_identity *identity;
	struct tls_trust *trust;
	uint16_t plain, secure;
	struct http_xchg *held;
	int requests, gone, drained, door;
	bool tls;
	struct str big;
	size_t fed, high;
	struct loop_timer tick;
	bool (*until)(void);
	int64_t give_up_us;
} w;

static int64_t real_us(void) { return mono_us() - clock_shift[0]; }
static void pass_ms(int64_t ms) { __atomic_fetch_add(&clock_shift[0], ms * 1000, __ATOMIC_RELAXED); }

static void on_tick(struct loop_timer *t)
{
	if (w.until() || real_us() > w.give_up_us)
		loop_stop(w.loop);
	else
		loop_timer_set(w.loop, t, 200, on_tick);
}

static void run_until(bool (*done)(void))
{
	w.until = done;
	w.give_up_us = real_us() + 20000000;
	loop_timer_set(w.loop, &w.tick, 0, on_tick);
	loop_run(w.loop);
	loop_timer_del(&w.tick);
	assert_true(done());
}

static void h_gone(struct http_xchg *x, const char *why)
{
	w.gone++;
	w.held = NULL;
}

static void feed_more(struct http_xchg *x)
{
	while (w.fed < w.big.n && !http_reply_full(x)) {
		size_t n = w.big.n - w.fed < 30000 ? w.big.n - w.fed : 30000;

		http_reply_data(x, str_n(w.big.p + w.fed, n));
		w.fed += n;
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

static void h_request(struct http_xchg *x, void *arg)
{
	w.requests++;
	w.door = x->door;
	w.tls = x->tls;
	x->on_gone = h_gone;
	if (str_eqz(x->path, "/hold")) {
		w.held = x;
	} else if (str_eqz(x->path, "/big")) {
		http_reply(x, 200, STR(""), w.big);
	} else if (str_eqz(x->path, "/feed")) {
		x->on_drain = h_drain;
		http_reply_start(x, 200, STR(""), (int64_t)w.big.n);
		feed_more(x);
	} else if (str_eqz(x->path, "/close")) {
		http_reply_start(x, 200, STR(""), -1);
		http_reply_data(x, STR("all"));
		http_reply_end(x);
	} else if (str_eqz(x->path, "/abort")) {
		http_reply_start(x, 200, STR(""), -1);
		http_reply_data(x, STR("part"));
		http_reply_abort(x);
	} else {
		http_reply(x, 200, STR(""), x->body.n ? x->body : x->path);
	}
}

static const struct http_handler handler = { NULL, h_request, NULL, NULL };

static uint16_t port_of_fd(int fd)
{
	struct sockaddr_in sa;
	socklen_t n = sizeof(sa);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
	return ntohs(sa.sin_port);
}

static int set_up(void **state)
{
	struct why why;

	clock_shift[0] = 0;
	memset(&w, 0, sizeof(w));
	w.loop = loop_new();
	w.identity = identity("good.pem", "good.key");
	w.trust = trust("one.ca.pem");
	w.srv = http_server_new(w.loop, ":0", &handler, NULL, &why);
	assert_non_null(w.srv);
	assert_true(http_server_listen(w.srv, &(struct http_listen){ .address = ":0", .door = 1, .tls = w.identity }, &why));
	w.plain = http_server_port(w.srv);
	w.secure = port_of_fd(http_server_fd(w.srv, 1));
	assert_int_not_equal(w.plain, w.secure);
	assert_int_equal(http_server_fd(w.srv, 2), -1);
	return 0;
}

static int tear_down(void **state)
{
	http_server_free(w.srv);
	loop_free(w.loop);
	tls_identity_unref(w.identity);
	tls_trust_free(w.trust);
	return 0;
}

/* --- a client --- */

static struct client {
	int fd;
	struct tls *tls;              /* NULL: bare */
	struct buf out, got;
	const char *want;
	bool ended, broken;           /* broken: without close_notify, or wrong */
	bool reading;
	char error[160];
} c;

static void dial(uint16_t port, const char *host)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	c = (struct client){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .reading = true };
	assert_int_equal(connect(c.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	fcntl(c.fd, F_SETFL, O_NONBLOCK);
	if (host)
		c.tls = tls_connect(w.trust, NULL, c.fd, host);
}

static void step_out(void)
{
	while (c.out.n) {
		ssize_t n = c.tls ? tls_send(c.tls, c.out.p, c.out.n) : send(c.fd, c.out.p, c.out.n, MSG_NOSIGNAL);

		if (n < 0) {
			c.broken |= errno != EAGAIN;
			break;
		}
		memmove(c.out.p, c.out.p + n, c.out.n - (size_t)n);
		c.out.n -= (size_t)n;
	}
}

static void step(void)
{
	if (!c.broken)
		step_out();
	while (c.reading && !c.ended && !c.broken) {
		ssize_t n;

		buf_reserve(&c.got, 4096);
		n = c.tls ? tls_recv(c.tls, c.got.p + c.got.n, 4096) : recv(c.fd, c.got.p + c.got.n, 4096, 0);
		if (n < 0 && errno == EAGAIN)
			return;
		c.ended = n == 0;
		c.broken = n < 0;
		if (n > 0)
			c.got.n += (size_t)n;
	}
	if (c.broken && c.tls)
		snprintf(c.error, sizeof(c.error), "%s", tls_error(c.tls));
}

static bool has(void)
{
	step();
	return str_find(buf_as_str(&c.got), str_of(c.want)) != NULL;
}

static bool over(void)
{
	step();
	return c.ended || c.broken;
}

static bool all_big(void)
{
	step();
	return c.got.n > w.big.n;
}

static void say(const char *z) { buf_add(&c.out, z, strlen(z)); }

static void expect(const char *want)
{
	c.want = want;
	run_until(has);
}

static void leave(void)
{
	tls_free(c.tls);
	close(c.fd);
	buf_free(&c.out);
	buf_free(&c.got);
	c = (struct client){ .fd = -1 };
}

static void get(const char *target)
{
	char text[128];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target);
	say(text);
}

static bool held(void)
{
	step();
	return w.held != NULL;
}
static bool one_gone(void) { return w.gone > 0; }
static bool no_conns(void) { return http_server_conns(w.srv) == 0; }

/* --- calls over TLS --- */

static struct {
	struct http_pool *pool;
	bool over;
	int status;
	struct buf body;
	char error[256];
} call;

static bool call_over(void) { return call.over; }

static void fetched(void *arg, int status, struct str body, const char *error)
{
	call.over = true;
	call.status = status;
	buf_clear(&call.body);
	buf_str(&call.body, body);
	snprintf(call.error, sizeof(call.error), "%s", error ? error : "");
}

static void pool_to(const char *host, uint16_t port, struct tls_trust *trust)
{
	struct http_url url;
	struct why why;
	char text[64];

	snprintf(text, sizeof(text), "https://%s:%u", host, port);
	assert_true(http_url_parse(&url, str_of(text), &why));
	call.pool = http_pool_new(w.loop, &url, &(struct http_pool_opts){ .trust = trust });
}

static void fetch(const char *path, struct str body)
{
	call.over = false;
	http_fetch(call.pool, body.n ? "POST" : "GET", str_of(path), STR(""), body, 15000, 64 << 20, fetched, NULL);
	run_until(call_over);
}

static void pool_end(void)
{
	http_pool_free(call.pool);
	buf_free(&call.body);
	call.pool = NULL;
}

static void calls_over_tls(void **state)
{
	struct buf big = { 0 };

	for (int i = 0; i < 300000; i++)
		buf_printf(&big, "%d ", i);
	w.big = buf_as_str(&big);
	pool_to("127.0.0.1", w.secure, w.trust);
	fetch("/a", STR(""));
	assert_int_equal(call.status, 200);
	assert_true(w.tls && str_eqz(buf_as_str(&call.body), "/a"));
	fetch("/echo", w.big);                    /* many records each way, with a kernel that takes less than all */
	assert_true(call.status == 200 && str_eq(buf_as_str(&call.body), w.big));
	fetch("/big", STR(""));
	assert_true(call.status == 200 && str_eq(buf_as_str(&call.body), w.big));
	assert_int_equal(http_server_conns(w.srv), 1);    /* one after another on one connection */
	fetch("/close", STR(""));
	assert_true(call.status == 200 && str_eqz(buf_as_str(&call.body), "all"));
	fetch("/abort", STR(""));
	assert_int_equal(call.status, 0);
	pool_end();
	run_until(no_conns);
	buf_free(&big);
}

static void who_cannot_be_trusted_is_not_asked(void **state)
{
	struct tls_trust *two = trust("two.ca.pem");

	pool_to("localhost", w.secure, w.trust);  /* its certificate is of 127.0.0.1 and corral.example */
	fetch("/a", STR(""));
	assert_int_equal(call.status, 0);
	assert_non_null(strstr(call.error, "its certificate is not accepted: hostname mismatch"));
	pool_end();
	pool_to("127.0.0.1", w.secure, two);
	fetch("/a", STR(""));
	assert_non_null(strstr(call.error, "TLS: its certificate is not accepted: "));
	pool_end();
	pool_to("127.0.0.1", w.secure, NULL);
	fetch("/a", STR(""));
	assert_non_null(strstr(call.error, "TLS: "));
	pool_end();
	pool_to("127.0.0.1", w.plain, w.trust);   /* speaks no TLS */
	fetch("/a", STR(""));
	assert_non_null(strstr(call.error, "TLS: "));
	pool_end();
	assert_int_equal(w.requests, 0);
	tls_trust_free(two);
}

/* --- a server that breaks off in the handshake, or is silent --- */

static int rude_fd = -1;

static bool held_up(void) { return rude_fd >= 0; }

static void on_rude(struct loop_io *io, unsigned ready)
{
	int fd = accept(io->fd, NULL, NULL);

	if (fd < 0)
		return;
	if (rude_fd == -2) {
		struct linger now = { 1, 0 };

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}
	if (rude_fd == -3)
		rude_fd = fd;             /* silent */
	else
		close(fd);
}

static void servers_that_end_in_the_handshake(void **state)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct loop_io io = { .fd = -1 };

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 10), 0);
	loop_io_add(w.loop, &io, fd, LOOP_READ, on_rude);
	for (rude_fd = -1; rude_fd > -3; rude_fd--) {
		pool_to("127.0.0.1", port_of_fd(fd), w.trust);
		fetch("/a", STR(""));
		assert_int_equal(call.status, 0);
		assert_true(call.error[0]);
		pool_end();
	}
	pool_to("127.0.0.1", port_of_fd(fd), w.trust);
	call.over = false;
	http_fetch(call.pool, "GET", STR("/a"), STR(""), STR(""), 15000, 1 << 20, fetched, NULL);
	run_until(held_up);
	pass_ms(3000);                            /* the handshake is part of connecting, which has two seconds */
	run_until(call_over);
	assert_int_equal(call.status, 0);
	assert_non_null(strstr(call.error, "the handshake was not over in time"));
	pool_end();
	loop_io_del(&io);
	close(fd);
	close(rude_fd);
}

/* The second handshake with a server is short, and its certificate counts as checked: by the same pool, that is for the same name. */
static void sessions_are_taken_up_again(void **state)
{
	struct tls_memory *memory = tls_memory_new();

	for (int i = 0; i < 2; i++) {
		dial(w.secure, NULL);
		c.tls = tls_connect(w.trust, memory, c.fd, "127.0.0.1");
		get("/a");
		expect("\r\n\r\n/a");
		assert_int_equal(tls_resumed(c.tls), i == 1);
		leave();
	}
	tls_memory_free(memory);
}

/* --- identities --- */

static void refused(const char *cert, const char *key, const char *field, const char *sentence)
{
	struct why why = { 0 };

	assert_null(tls_identity_load(path(cert), path(key), what, &why));
	assert_string_equal(why.field, field);
	if (!strstr(why.text, sentence))
		fail_msg("'%s' is not in: %s", sentence, why.text);
}

static void files_that_cannot_be_used_are_told(void **state)
{
	refused("nowhere.pem", "good.key", "public_tls_cert", "cannot be read: No such file");
	refused("good.pem", "nowhere.key", "public_tls_key", "cannot be read: No such file");
	refused("good.key", "good.key", "public_tls_cert", "is no certificate in PEM form");
	refused("good.pem", "good.pem", "public_tls_key", "is no private key in PEM form");
	refused("good.pem", "other.key", "public_tls_key", "is not that of the certificate");
	refused("good.pem", "rsa.key", "public_tls_key", "is not that of the certificate");
	refused("good.pem", "locked.key", "public_tls_key", "has a passphrase");
}

static void the_end_of_a_certificate_is_known(void **state)
{
	struct tls_identity *i = identity("good.pem", "good.key");
	int64_t left_s = tls_identity_ends_s(i) - wall_us() / 1000000;

	assert_true(left_s > 47 * 3600 && left_s < 49 * 3600);
	tls_identity_unref(i);
}

/* --- the server --- */

static void answers_and_keeps_alive(void **state)
{
	dial(w.secure, "127.0.0.1");
	say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
	expect("\r\n\r\nhello");
	assert_true(w.tls);
	assert_int_equal(w.door, 1);
	get("/second");
	expect("\r\n\r\n/second");
	say("GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	expect("\r\n\r\n/last");
	run_until(over);
	assert_true(c.ended);         /* close_notify: nothing is missing */
	assert_int_equal(w.requests, 3);
	leave();
	dial(w.plain, NULL);
	get("/plain");
	expect("\r\n\r\n/plain");
	assert_false(w.tls);
	assert_int_equal(w.door, 0);
	leave();
}

static void the_name_is_checked(void **state)
{
	dial(w.secure, "corral.example");
	get("/x");
	expect("\r\n\r\n/x");
	leave();
	dial(w.secure, "elsewhere.example");
	get("/x");
	run_until(over);
	assert_true(c.broken);
	assert_non_null(strstr(c.error, "hostname mismatch"));
	leave();
	tls_trust_free(w.trust);
	w.trust = trust("two.ca.pem");
	dial(w.secure, "127.0.0.1");
	get("/x");
	run_until(over);
	assert_true(c.broken);
	assert_non_null(strstr(c.error, "certificate"));
	leave();
	run_until(no_conns);
	assert_int_equal(w.requests, 1);
}

static void plain_http_is_told_to_come_by_tls(void **state)
{
	dial(w.secure, NULL);
	say("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
	expect("write https:// in its address\n");
	assert_non_null(str_find(buf_as_str(&c.got), STR("HTTP/1.1 400 Bad Request\r\n")));
	run_until(over);
	assert_true(c.ended);
	assert_int_equal(w.requests, 0);
	leave();
	dial(w.secure, NULL);
	say("SSH-2.0-OpenSSH_9.2p1\r\n\r\n");
	expect("HTTP/1.1 400 Bad Request\r\n");
	run_until(over);
	leave();
	run_until(no_conns);
}

/* What begins as TLS and is none; what ends in the middle of a handshake. */
static void broken_handshakes_end(void **state)
{
	dial(w.secure, NULL);
	buf_add(&c.out, "\x16\x03\x01\x00\x05hello", 10);
	run_until(over);
	leave();
	run_until(no_conns);
	dial(w.secure, NULL);
	buf_add(&c.out, "\x16\x03\x01\x02\x00\x01\x00", 7);
	step();
	leave();
	run_until(no_conns);
	dial(w.secure, NULL);
	leave();
	run_until(no_conns);
	assert_int_equal(w.requests, 0);
}

static bool one_conn(void) { return http_server_conns(w.srv) == 1; }

static void a_slow_handshake_is_cut_off(void **state)
{
	dial(w.secure, NULL);                       /* not a byte */
	run_until(one_conn);
	pass_ms(11000);
	run_until(no_conns);
	leave();
	dial(w.secure, NULL);
	buf_add(&c.out, "\x16\x03\x01\x02", 4);     /* and a few */
	step();
	run_until(one_conn);
	pass_ms(11000);
	run_until(no_conns);
	run_until(over);
	leave();
}

static bool shaken(void)
{
	step();
	return tls_ready(c.tls);
}

static void who_has_shaken_hands_may_rest(void **state)
{
	dial(w.secure, "127.0.0.1");
	run_until(shaken);
	get("/one");
	expect("/one");
	pass_ms(30000);
	get("/two");
	expect("/two");
	pass_ms(61000);
	run_until(over);
	assert_true(c.ended);
	leave();
}

static void a_client_that_leaves_is_noticed(void **state)
{
	for (int how = 0; how < 3; how++) {
		w.gone = 0;
		dial(w.secure, "127.0.0.1");
		get("/hold");
		run_until(held);
		if (how == 0)
			tls_say_end(c.tls);           /* close_notify, and the connection stays */
		else if (how == 1)
			shutdown(c.fd, SHUT_WR);
		else
			leave();
		run_until(one_gone);
		if (how < 2)
			leave();
		run_until(no_conns);
	}
}

static void a_broken_answer_has_no_close_notify(void **state)
{
	dial(w.secure, "127.0.0.1");
	say("GET /abort HTTP/1.0\r\n\r\n");
	run_until(over);
	assert_true(c.broken);
	assert_false(c.ended);
	leave();
	dial(w.secure, "127.0.0.1");
	say("GET /close HTTP/1.0\r\n\r\n");
	run_until(over);
	assert_true(c.ended);
	assert_non_null(str_find(buf_as_str(&c.got), STR("\r\n\r\nall")));
	leave();
}

static void fill_big(size_t n)
{
	char *p = x_malloc(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (char)('a' + (i * 7 + i / 1000) % 26);
	w.big = str_n(p, n);
}

static void check_big(void)
{
	const char *body = str_find(buf_as_str(&c.got), STR("\r\n\r\n"));

	assert_non_null(body);
	assert_int_equal(c.got.n - (size_t)(body + 4 - c.got.p), w.big.n);
	assert_memory_equal(body + 4, w.big.p, w.big.n);
	free((char *)(uintptr_t)w.big.p);
}

static void a_large_answer_is_whole(void **state)
{
	fill_big(3000001);
	dial(w.secure, "127.0.0.1");
	get("/big");
	run_until(all_big);
	check_big();
	leave();
}

static bool full(void)
{
	step();
	return w.high > 200000;
}

static void a_client_that_does_not_read_holds_the_handler_back(void **state)
{
	int small = 65536;

	fill_big(12000000);
	dial(w.secure, "127.0.0.1");
	setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	run_until(shaken);
	get("/feed");
	step();
	c.reading = false;
	run_until(full);
	assert_true(w.fed < w.big.n);
	c.reading = true;
	run_until(all_big);
	check_big();
	assert_true(w.drained > 0);
	assert_true(w.high < 512 * 1024);
	leave();
}

static bool echoed(void)
{
	step();
	return c.got.n > 700000;
}

static void a_large_body_in_pieces(void **state)
{
	fill_big(700000);
	dial(w.secure, "127.0.0.1");
	say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n");
	buf_add(&c.out, w.big.p, w.big.n);
	run_until(echoed);
	check_big();
	leave();
}

/* --- a new certificate --- */

static bool one_turn(void) { return true; }

static void serial(char *ret, size_t cap)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	X509 *cert;
	int rc;

	dial(w.secure, NULL);
	SSL_set_fd(ssl, c.fd);
	w.give_up_us = real_us() + 20000000;
	while ((rc = SSL_connect(ssl)) != 1 && real_us() < w.give_up_us) {
		w.until = one_turn;
		loop_timer_set(w.loop, &w.tick, 200, on_tick);
		loop_run(w.loop);
	}
	loop_timer_del(&w.tick);
	assert_int_equal(rc, 1);
	cert = SSL_get1_peer_certificate(ssl);
	X509_NAME_oneline(X509_get_subject_name(cert), ret, (int)cap);
	X509_free(cert);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	leave();
}

static void a_new_certificate_is_for_who_comes_then(void **state)
{
	struct tls_identity *next = identity("next.pem", "next.key");
	struct client kept;
	char name[128];

	dial(w.secure, "127.0.0.1");
	get("/one");
	expect("/one");
	kept = c;
	http_server_set_tls(w.srv, next);
	tls_identity_unref(next);
	c = kept;
	get("/two");
	expect("/two");
	leave();
	run_until(no_conns);
	serial(name, sizeof(name));
	assert_non_null(strstr(name, "CN=next"));
	run_until(no_conns);
	http_server_set_tls(w.srv, w.identity);
	serial(name, sizeof(name));
	assert_non_null(strstr(name, "CN=good"));
	run_until(no_conns);
}

/* --- which protocol --- */

static int shake_with(int most, const char *protocols, size_t n)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	const unsigned char *chosen = NULL;
	unsigned n_chosen = 0;
	int rc, error = SSL_ERROR_WANT_READ;

	dial(w.secure, NULL);
	SSL_set_security_level(ssl, 0);
	SSL_set_min_proto_version(ssl, TLS1_VERSION);
	SSL_set_max_proto_version(ssl, most);
	if (n)
		SSL_set_alpn_protos(ssl, (const unsigned char *)protocols, (unsigned)n);
	SSL_set_fd(ssl, c.fd);
	w.give_up_us = real_us() + 20000000;
	while ((rc = SSL_connect(ssl)) != 1 && (error = SSL_get_error(ssl, rc)) == SSL_ERROR_WANT_READ && real_us() < w.give_up_us) {
		w.until = one_turn;
		loop_timer_set(w.loop, &w.tick, 200, on_tick);
		loop_run(w.loop);
	}
	loop_timer_del(&w.tick);
	SSL_get0_alpn_selected(ssl, &chosen, &n_chosen);
	rc = rc != 1 ? -1 : n_chosen == 8 && memcmp(chosen, "http/1.1", 8) == 0 ? 1 : 0;
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	leave();
	run_until(no_conns);
	return rc;
}

static void only_what_is_current_is_spoken(void **state)
{
	assert_int_equal(shake_with(TLS1_3_VERSION, "", 0), 0);
	assert_int_equal(shake_with(TLS1_2_VERSION, "\2h2\x8http/1.1", 12), 1);
	assert_int_equal(shake_with(TLS1_3_VERSION, "\2h2\x8http/1.1", 12), 1);
	assert_int_equal(shake_with(TLS1_3_VERSION, "\2h2", 3), -1);
	assert_int_equal(shake_with(TLS1_1_VERSION, "", 0), -1);
}

/* --- addresses that change hands --- */

static bool quiet(void)
{
	w.gone++;
	return w.gone > 20;
}

static void a_listener_changes_hands(void **state)
{
	const struct http_server_opts paused = { .paused = true };
	struct http_server *heir;
	struct why why;
	char address[32];

	snprintf(address, sizeof(address), "127.0.0.1:%u", w.plain);
	heir = http_server_new(w.loop, NULL, &handler, &paused, &why);
	assert_true(http_server_listen(heir, &(struct http_listen){ .address = address, .door = 7, .given = true,
		.fd = fcntl(http_server_fd(w.srv, 0), F_DUPFD_CLOEXEC, 3) }, &why));
	assert_int_equal(http_server_port(heir), w.plain);
	dial(w.plain, NULL);
	get("/a");
	expect("\r\n\r\n/a");
	assert_int_equal(w.door, 0);          /* it accepts nobody yet */
	http_server_hand_over(w.srv);
	http_server_drain(w.srv, NULL, NULL);
	get("/b");                            /* the connection that rested is still served, and then over */
	expect("\r\n\r\n/b");
	assert_non_null(str_find(buf_as_str(&c.got), STR("Connection: close\r\n")));
	run_until(over);
	leave();
	dial(w.plain, NULL);                  /* waits in the backlog of nobody's listener */
	get("/c");
	step();
	run_until(quiet);
	assert_int_equal(w.requests, 2);
	http_server_accept(heir);
	expect("\r\n\r\n/c");
	assert_int_equal(w.door, 7);
	leave();
	http_server_free(heir);
}

static void a_descriptor_of_another_address_is_not_taken(void **state)
{
	struct http_server *other;
	struct why why;
	int fd = fcntl(http_server_fd(w.srv, 0), F_DUPFD_CLOEXEC, 3);

	other = http_server_new(w.loop, NULL, &handler, NULL, &why);
	assert_true(http_server_listen(other, &(struct http_listen){ .address = "[::1]:0", .given = true, .fd = fd }, &why));
	assert_int_not_equal(http_server_port(other), w.plain);
	assert_int_equal(fcntl(fd, F_GETFD), http_server_fd(other, 0) == fd ? 1 : -1);
	http_server_free(other);
}

int main(void)
{
#define RUN(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_that_cannot_be_used_are_told), cmocka_unit_test(the_end_of_a_certificate_is_known),
		RUN(answers_and_keeps_alive), RUN(the_name_is_checked), RUN(plain_http_is_told_to_come_by_tls), RUN(broken_handshakes_end),
		RUN(a_slow_handshake_is_cut_off), RUN(who_has_shaken_hands_may_rest), RUN(a_client_that_leaves_is_noticed),
		RUN(a_broken_answer_has_no_close_notify), RUN(a_large_answer_is_whole), RUN(a_client_that_does_not_read_holds_the_handler_back),
		RUN(a_large_body_in_pieces), RUN(a_new_certificate_is_for_who_comes_then), RUN(only_what_is_current_is_spoken),
		RUN(calls_over_tls), RUN(who_cannot_be_trusted_is_not_asked), RUN(servers_that_end_in_the_handshake),
		RUN(sessions_are_taken_up_again), RUN(a_listener_changes_hands), RUN(a_descriptor_of_another_address_is_not_taken),
	};
	char clock_file[] = "/tmp/corral-tls-clock.XXXXXX";
	int fd = mkstemp(clock_file), rc;

	signal(SIGPIPE, SIG_IGN);
	if (fd < 0 || ftruncate(fd, 16) != 0 || !mkdtemp(dir))
		return 1;
	clock_shift = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	setenv("CORRAL_TEST_CLOCK", clock_file, 1);
	clock_init();
	make_authority("one");
	make_authority("two");
	make_identity("one", "good", "IP:127.0.0.1,DNS:corral.example");
	make_identity("one", "next", "IP:127.0.0.1");
	make_identity("one", "other", "IP:127.0.0.1");
	sh("cd %s && openssl genrsa -out rsa.key 2048 2>/dev/null && openssl ec -in good.key -aes128 -passout pass:secret -out locked.key 2>/dev/null", dir);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	sh("rm -rf %s %s", dir, clock_file);
	return rc;
}

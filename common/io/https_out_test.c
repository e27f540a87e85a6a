/* https_out_test.c - libcurl on our loop against our own server on the same loop: what is told, what is held back, what ends at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http_server.h"
#include "common/io/https_out.h"
#include "common/io/tls.h"

enum { BIG = 24 * 1024 * 1024 };

static char dir[] = "/tmp/corral-https-test.XXXXXX";

static struct {
	struct loop *loop;
	struct http_server *srv;
	struct https_out *out;
	uint16_t plain, secure;
	struct http_xchg *held;
	int requests, gone;
	uint32_t most_conns;
	size_t fed;
	struct buf seen_body, seen_header;
	/* the client's side */
	int status, ends, errors, pauses;
	enum https_error error;
	char text[300];
	struct buf got, type;
	size_t total;
	bool pause_first, cancel_at_head, cancel_at_data;
	struct https_call *call;
	struct loop_timer tick;
	bool (*until)(void);
	int64_t give_up_us;
} w;

static void on_tick(struct loop_timer *t)
{
	if (w.until() || mono_us() > w.give_up_us)
		loop_stop(w.loop);
	else
		loop_timer_set(w.loop, t, 500, on_tick);
}

static void run_until(bool (*done)(void))
{
	w.until = done;
	w.give_up_us = mono_us() + 60000000;
	loop_timer_set(w.loop, &w.tick, 0, on_tick);
	loop_run(w.loop);
	loop_timer_del(&w.tick);
	assert_true(done());
}

/* --- the server --- */

static void h_gone(struct http_xchg *x, const char *why) { w.gone++, w.held = NULL; }

static void feed(struct http_xchg *x)
{
	static const char block[32768];

	while (w.fed < BIG && !http_reply_full(x)) {
		http_reply_data(x, str_n(block, sizeof(block)));
		w.fed += sizeof(block);
	}
	if (w.fed >= BIG)
		http_reply_end(x);
}

static void h_request(struct http_xchg *x, void *arg)
{
	const struct http_header *h = http_find(&x->head, "Authorization");

	w.requests++;
	if (http_server_conns(w.srv) > w.most_conns)
		w.most_conns = http_server_conns(w.srv);
	buf_clear(&w.seen_body), buf_clear(&w.seen_header);
	buf_str(&w.seen_body, x->body);
	if (h)
		buf_str(&w.seen_header, h->value);
	x->on_gone = h_gone;
	x->on_drain = feed;
	if (str_eqz(x->path, "/hello")) {
		http_reply(x, 201, STR("Content-Type: text/x\r\nX-More: a: b\r\n"), STR("hello"));
	} else if (str_eqz(x->path, "/empty")) {
		http_reply(x, 200, STR("X-More: none\r\n"), STR(""));
	} else if (str_eqz(x->path, "/big")) {
		w.fed = 0;
		http_reply_start(x, 200, STR(""), -1);
		feed(x);
	} else if (str_eqz(x->path, "/cut")) {
		http_reply_start(x, 200, STR(""), -1);
		http_reply_data(x, STR("half"));
		w.held = x;
	} else {
		w.held = x;
	}
}

/* --- the client --- */

static void c_head(struct https_call *c, const struct http_head *h, void *arg)
{
	const struct http_header *t = http_find(h, "x-more");

	w.status = h->status;
	if (t)
		buf_str(&w.type, t->value);
	if (w.cancel_at_head) {
		https_call_cancel(c);
		w.call = NULL;
	}
}

static void c_data(struct https_call *c, struct str data, void *arg)
{
	w.total += data.n;
	if (w.got.n < 100)
		buf_str(&w.got, data);
	if (w.pause_first) {
		w.pause_first = false;
		w.pauses++;
		https_call_pause(c);
	}
	if (w.cancel_at_data) {
		https_call_cancel(c);
		w.call = NULL;
	}
}

static void c_end(struct https_call *c, void *arg) { w.ends++, w.call = NULL; }

static void c_error(struct https_call *c, enum https_error e, const char *text, void *arg)
{
	w.errors++;
	w.error = e;
	snprintf(w.text, sizeof(w.text), "%s", text);
	w.call = NULL;
}

static void start(const char *scheme, unsigned port, const char *path, int64_t first_byte_ms, int64_t total_ms)
{
	static const struct https_ops ops = { c_head, c_data, c_end, c_error };
	const struct str headers[] = { STR("Authorization: Bearer top-secret"), STR("Content-Type: application/json") };
	const struct str body[] = { STR("one "), STR("two") };
	char url[200];
	struct https_request q = { .method = "POST", .url = url, .headers = headers, .n_headers = 2, .body = body, .n_body = 2, .first_byte_ms = first_byte_ms,
				   .total_ms = total_ms };

	snprintf(url, sizeof(url), "%s:%u%s", scheme, port, path);
	w.status = w.ends = w.errors = w.pauses = 0;
	w.total = 0;
	buf_clear(&w.got), buf_clear(&w.type);
	w.call = https_call_start(w.out, &q, &ops, NULL);
}

static bool over(void) { return w.ends + w.errors > 0; }
static bool arrived(void) { return w.held != NULL; }
static bool has_some(void) { return w.got.n >= 4; }
static bool was_left(void) { return w.gone > 0; }
static bool was_cancelled(void) { return !w.call && https_out_active(w.out) == 0; }
static bool is_paused(void) { return w.pauses > 0; }

static void renew(const char *ca)
{
	struct why why;

	https_out_free(w.out);
	w.out = https_out_new(w.loop, &(struct https_out_opts){ .ca_file = ca }, &why);
	assert_non_null(w.out);
}

static int set_up(void **state)
{
	static const struct http_handler handler = { .on_request = h_request };
	struct why why;
	struct tls_identity *id;
	char command[1500], cert[100], key[100];

	assert_non_null(mkdtemp(dir));
	snprintf(command, sizeof(command), "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=near -addext subjectAltName=IP:127.0.0.1 "
		 "-keyout key.pem -out cert.pem 2>/dev/null", dir);
	assert_int_equal(system(command), 0);
	snprintf(cert, sizeof(cert), "%s/cert.pem", dir);
	snprintf(key, sizeof(key), "%s/key.pem", dir);
	id = tls_identity_load(cert, key, (const char *const[]){ "a", "b" }, &why);
	assert_non_null(id);
	w.loop = loop_new();
	w.srv = http_server_new(w.loop, ":0", &handler, NULL, &why);
	assert_non_null(w.srv);
	assert_true(http_server_listen(w.srv, &(struct http_listen){ .address = ":0", .tls = id }, &why));
	tls_identity_unref(id);
	w.plain = http_server_port_at(w.srv, 0);
	w.secure = http_server_port_at(w.srv, 1);
	renew(NULL);
	return 0;
}

static int tear_down(void **state)
{
	char command[200];

	https_out_free(w.out);
	http_server_free(w.srv);
	loop_free(w.loop);
	buf_free(&w.seen_body), buf_free(&w.seen_header), buf_free(&w.got), buf_free(&w.type);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

/* --- tests --- */

static void a_request_and_its_answer(void **state)
{
	start("http://127.0.0.1", w.plain, "/hello", 0, 0);
	run_until(over);
	assert_int_equal(w.ends, 1);
	assert_int_equal(w.status, 201);
	assert_true(str_eqz(buf_as_str(&w.got), "hello"));
	assert_true(str_eqz(buf_as_str(&w.type), "a: b"));
	assert_true(str_eqz(buf_as_str(&w.seen_body), "one two"));
	assert_true(str_eqz(buf_as_str(&w.seen_header), "Bearer top-secret"));
	start("http://127.0.0.1", w.plain, "/empty", 0, 0);
	run_until(over);
	assert_int_equal(w.status, 200);
	assert_int_equal(w.ends, 1);
	assert_true(str_eqz(buf_as_str(&w.type), "none"));
	assert_int_equal(w.most_conns, 1);    /* used again */
}

static void a_reader_that_pauses_holds_its_server_back(void **state)
{
	size_t fed;

	w.pause_first = true;
	start("http://127.0.0.1", w.plain, "/big", 0, 0);
	run_until(is_paused);
	for (int i = 0; i < 20; i++)          /* all that can flow has flowed */
		run_until(is_paused);
	fed = w.fed;
	assert_true(fed < BIG);
	assert_int_equal(w.ends, 0);
	https_call_resume(w.call);
	run_until(over);
	assert_int_equal(w.ends, 1);
	assert_int_equal(w.total, BIG);
}

static void who_cancels_is_gone_at_once(void **state)
{
	w.gone = 0;
	start("http://127.0.0.1", w.plain, "/hold", 0, 0);
	run_until(arrived);
	https_call_cancel(w.call);
	assert_int_equal(https_out_active(w.out), 0);
	run_until(was_left);
	w.cancel_at_head = true;
	start("http://127.0.0.1", w.plain, "/empty", 0, 0);
	run_until(was_cancelled);
	w.cancel_at_head = false;
	w.cancel_at_data = true;
	start("http://127.0.0.1", w.plain, "/big", 0, 0);
	run_until(was_cancelled);
	w.cancel_at_data = false;
	assert_int_equal(w.ends + w.errors, 0);
}

static void what_goes_wrong_has_a_name(void **state)
{
	start("http://127.0.0.1", 1, "/", 0, 0);
	run_until(over);
	assert_int_equal(w.error, HTTPS_REFUSED);
	start("http://127.0.0.1", w.plain, "/hold", 30, 0);
	run_until(over);
	assert_int_equal(w.error, HTTPS_FIRST_BYTE_TIMEOUT);
	run_until(was_left);
	start("http://127.0.0.1", w.plain, "/hold", 0, 300);
	run_until(over);
	assert_int_equal(w.error, HTTPS_DEADLINE);
	w.held = NULL;
	start("http://127.0.0.1", w.plain, "/cut", 0, 0);
	run_until(has_some);
	http_reply_abort(w.held);
	run_until(over);
	assert_int_equal(w.error, HTTPS_CUT);
	assert_int_equal(w.ends, 0);
	w.held = NULL;
	start("http://127.0.0.1", w.plain, "/hold", 0, 0);
	run_until(arrived);
	http_reply_abort(w.held);
	run_until(over);
	assert_int_equal(w.error, HTTPS_BROKEN);
	assert_null(strstr(w.text, "secret"));
}

static void certificates_are_verified(void **state)
{
	char ca[100];

	start("https://127.0.0.1", w.secure, "/hello", 0, 0);
	run_until(over);
	assert_int_equal(w.errors, 1);
	assert_int_equal(w.error, HTTPS_UNTRUSTED);
	snprintf(ca, sizeof(ca), "%s/cert.pem", dir);
	renew(ca);
	start("https://127.0.0.1", w.secure, "/hello", 0, 0);
	run_until(over);
	assert_int_equal(w.ends, 1);
	assert_true(str_eqz(buf_as_str(&w.got), "hello"));
	start("https://localhost", w.secure, "/hello", 0, 0);         /* not the certificate's name */
	run_until(over);
	assert_int_equal(w.error, HTTPS_UNTRUSTED);
}

static void addresses_are_checked(void **state)
{
	static const char *const good[] = { "https://api.example.com/v1", "http://127.0.0.1:1/x", "https://[::1]:8443" };
	static const char *const bad[] = { "", "api.example.com:x", "ftp://h/", "file:///etc/passwd", "https://u:p@h/", "https://h/v1?key=secret", "https://h:99999/" };
	struct why why;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_true(https_url_ok(good[i], &why));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(https_url_ok(bad[i], &why));
}

static int fetched;
static void on_fetched(void *arg, int status, struct str body, const char *error)
{
	fetched = status;
	if (status)
		assert_true(str_eqz(body, "hello"));
	else
		assert_non_null(error);
}

static bool was_fetched(void) { return fetched >= 0; }

static void a_small_question(void **state)
{
	char url[100];
	struct https_request q = { .method = "GET", .url = url };

	fetched = -1;
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/hello", w.plain);
	https_fetch(w.out, &q, 100, on_fetched, NULL);
	run_until(was_fetched);
	assert_int_equal(fetched, 201);
	fetched = -1;
	https_fetch(w.out, &q, 4, on_fetched, NULL);
	run_until(was_fetched);
	assert_int_equal(fetched, 0);
}

static void the_end_of_the_pool_ends_its_calls(void **state)
{
	w.held = NULL;
	start("http://127.0.0.1", w.plain, "/hold", 0, 0);
	run_until(arrived);
	renew(NULL);
	assert_int_equal(w.errors, 1);
	assert_int_equal(w.error, HTTPS_CANCELLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_and_its_answer), cmocka_unit_test(a_reader_that_pauses_holds_its_server_back),
		cmocka_unit_test(who_cancels_is_gone_at_once), cmocka_unit_test(what_goes_wrong_has_a_name), cmocka_unit_test(certificates_are_verified),
		cmocka_unit_test(addresses_are_checked), cmocka_unit_test(a_small_question), cmocka_unit_test(the_end_of_the_pool_ends_its_calls),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

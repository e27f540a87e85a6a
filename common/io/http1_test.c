/* http1_test.c - the HTTP/1.1 codec: the table of framings, limits at their edges, paths, values, queries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/arena.h"
#include "tests/contract/framing_cases.h"

static struct http_head head;
static struct why why;

static enum http_parse request(const char *z) { return http_parse_request(&head, str_of(z), 0, NULL, &why); }
static enum http_parse response(const char *z) { return http_parse_response(&head, str_of(z), 0, false, NULL, &why); }

static void reads_a_request(void **state)
{
	static const char z[] = "POST /v1/chat%20x?a=1&b=2 HTTP/1.1\r\nHost: a.example:8080\r\nContent-Type:application/json \t\r\n"
	                        "Content-Length: 12\r\nExpect: 100-Continue\r\nX-Empty:\r\nconnection: Keep-Alive, close\r\n\r\n{\"rest\":...";

	assert_int_equal(request(z), HTTP_DONE);
	assert_true(str_eqz(head.method, "POST") && str_eqz(head.target, "/v1/chat%20x?a=1&b=2"));
	assert_true(str_eqz(head.path, "/v1/chat%20x") && str_eqz(head.query, "a=1&b=2"));
	assert_int_equal(head.minor, 1);
	assert_int_equal(head.n_headers, 6);
	assert_true(str_eqz(http_find(&head, "content-type")->value, "application/json"));
	assert_true(http_find(&head, "X-EMPTY")->value.n == 0 && http_find(&head, "absent") == NULL);
	assert_true(head.framing == HTTP_LENGTH && head.content_length == 12);
	assert_true(head.expect_continue && !head.keep_alive && !head.upgrade);
	assert_true(str_eqz(head.host, "a.example:8080"));
	assert_int_equal(head.head_len, strstr(z, "{") - z);
}

static void knows_when_a_connection_goes_on(void **state)
{
	assert_true(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == HTTP_DONE && head.keep_alive && head.framing == HTTP_NO_BODY);
	assert_true(request("GET / HTTP/1.0\r\n\r\n") == HTTP_DONE && !head.keep_alive && head.host.n == 0);
	assert_true(request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") == HTTP_DONE && head.keep_alive);
	assert_true(request("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") == HTTP_DONE && head.upgrade);
	assert_true(request("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n") == HTTP_DONE && !head.upgrade);
	assert_true(response("HTTP/1.1 200 OK\r\n\r\n") == HTTP_DONE && head.framing == HTTP_UNTIL_CLOSE && !head.keep_alive);
}

static void reduces_absolute_targets(void **state)
{
	assert_int_equal(request("GET http://A.example:1/x?y HTTP/1.1\r\nHost: a.example:1\r\n\r\n"), HTTP_DONE);
	assert_true(str_eqz(head.path, "/x") && str_eqz(head.query, "y"));
	assert_int_equal(request("GET http://a?y HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_DONE);
	assert_true(str_eqz(head.path, "/") && str_eqz(head.query, "y"));
	assert_int_equal(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_DONE);
	assert_true(str_eqz(head.path, "*"));
}

/* llama.cpp's server says both, and leaves the CORS header empty. */
static void reads_odd_but_legal_responses(void **state)
{
	assert_int_equal(response("HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nConnection: close\r\n"
	                          "Keep-Alive: timeout=5, max=100\r\nContent-Length: 2\r\n\r\n{}"), HTTP_DONE);
	assert_true(!head.keep_alive && head.framing == HTTP_LENGTH && head.content_length == 2 && str_eqz(head.reason, "OK"));
	assert_true(response("HTTP/1.1 204\r\nX: \xc3\xbc\r\n\r\n") == HTTP_DONE && head.status == 204 && head.framing == HTTP_NO_BODY);
	assert_true(response("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n") == HTTP_DONE && head.upgrade);
	assert_true(http_parse_response(&head, STR("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), 0, true, NULL, &why) == HTTP_DONE);
	assert_true(head.framing == HTTP_NO_BODY && head.content_length == 9 && head.keep_alive);
}

/* Every case of the table, whole, at every split, and byte by byte: one verdict. */
static void judges_the_table(void **state)
{
	FILE *f = fopen("tests/contract/framing_cases.txt", "r");
	struct framing_case c;
	int n = 0;

	assert_non_null(f);
	while (framing_next(f, &c)) {
		bool pass = strcmp(c.expect, "pass") == 0;

		n++;
		for (long cut = -1; cut < (long)c.bytes.n; cut = cut > 600 && cut + 600 < (long)c.bytes.n ? cut + 599 : cut + 1) {
			struct framing_verdict v = framing_judge(c.kind, buf_as_str(&c.bytes), cut);

			if (v.end != (pass ? HTTP_DONE : HTTP_BAD) || (pass && (v.messages != c.messages || v.body != c.body)) ||
			    (!pass && c.code && err_status(v.why.code) != c.code))
				fail_msg("%s cut at %ld: end %d, %d messages, %lu body bytes, code %d (%s)", c.name, cut, (int)v.end, v.messages,
				         (unsigned long)v.body, err_status(v.why.code), v.why.text);
		}
		buf_free(&c.bytes);
	}
	assert_true(feof(f));
	fclose(f);
	assert_true(n >= 150);
}

static char *filled(struct buf *b, const char *before, size_t n, const char *after)
{
	buf_clear(b);
	buf_addz(b, before);
	while (n--)
		buf_char(b, 'x');
	buf_addz(b, after);
	return buf_z(b);
}

static void keeps_limits_to_the_byte(void **state)
{
	static const char line[] = "GET / HTTP/1.1", host[] = "Host: a\r\n\r\n";
	struct buf b = { 0 };

	assert_int_equal(request(filled(&b, "GET /", 8192 - strlen(line), " HTTP/1.1\r\nHost: a\r\n\r\n")), HTTP_DONE);
	assert_int_equal(request(filled(&b, "GET /", 8193 - strlen(line), " HTTP/1.1\r\nHost: a\r\n\r\n")), HTTP_BAD);
	assert_int_equal(why.code, ERR_URI_TOO_LONG);
	assert_int_equal(request(filled(&b, "GET / HTTP/1.1\r\nX: ", 8192 - 3, "\r\nHost: a\r\n\r\n")), HTTP_DONE);
	assert_int_equal(request(filled(&b, "GET / HTTP/1.1\r\nX: ", 8192 - 2, "\r\nHost: a\r\n\r\n")), HTTP_BAD);
	assert_int_equal(why.code, ERR_HEADERS_TOO_LARGE);
	for (int over = 0; over < 2; over++) {
		size_t rest;

		buf_clear(&b);
		buf_printf(&b, "%s\r\n", line);
		for (int i = 0; i < 4; i++)
			buf_printf(&b, "X: %08000d\r\n", i);
		rest = 32768 - b.n - strlen(host) - 5 + (size_t)over;
		buf_printf(&b, "X: %0*d\r\n%s", (int)rest, 0, host);
		assert_int_equal(request(buf_z(&b)), over ? HTTP_BAD : HTTP_DONE);
		assert_true(!over || why.code == ERR_HEADERS_TOO_LARGE);
	}
	buf_free(&b);
}

static void counts_header_lines(void **state)
{
	struct http_limits few = http_limits_default;
	struct buf b = { 0 };

	for (int n = 99; n <= 100; n++) {
		buf_clear(&b);
		buf_addz(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
		for (int i = 0; i < n; i++)
			buf_addz(&b, "a:\r\n");
		buf_addz(&b, "\r\n");
		assert_int_equal(request(buf_z(&b)), n == 99 ? HTTP_DONE : HTTP_BAD);
	}
	assert_int_equal(why.code, ERR_HEADERS_TOO_LARGE);
	few.max_headers = 1;
	assert_int_equal(http_parse_request(&head, STR("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0, &few, &why), HTTP_DONE);
	assert_int_equal(http_parse_request(&head, STR("GET / HTTP/1.1\r\nHost: a\r\nb: c\r\n\r\n"), 0, &few, &why), HTTP_BAD);
	buf_free(&b);
}

/* The bytes end where a page without access begins. */
static void never_reads_beyond_the_input(void **state)
{
	static const char z[] = "POST /path?query HTTP/1.1\r\nHost: example.com\r\nUser-Agent: something of more than sixteen bytes\r\n"
	                        "Transfer-Encoding: chunked\r\n\r\n5;name=value\r\nhello\r\n0\r\nX: y\r\n\r\n";
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(map != MAP_FAILED && mprotect(map + page, page, PROT_NONE) == 0);
	for (size_t n = 0; n < sizeof(z); n++) {
		char *at = map + page - n;

		memcpy(at, z, n);
		framing_judge("req", str_n(at, n), 0);
		framing_judge("req", str_n(at, n), -1);
		framing_judge("res", str_n(at, n), 0);
	}
	munmap(map, 2 * page);
}

static void explains_old_and_new_protocols(void **state)
{
	assert_true(request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == HTTP_BAD && strstr(why.text, "HTTP/2"));
	assert_true(request("GET /\r\n") == HTTP_BAD && strstr(why.text, "HTTP/0.9"));
	assert_true(request("\x16\x03\x01\x02") == HTTP_BAD && strstr(why.text, "TLS"));
	assert_true(request("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n") == HTTP_BAD && why.code == ERR_METHOD_NOT_ALLOWED);
}

/* Enough for a refusal in the caller's dialect. */
static void keeps_what_came_before_a_fault(void **state)
{
	assert_int_equal(request("POST /v1/chat/completions?x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nBad Name: x\r\n\r\n"), HTTP_BAD);
	assert_true(str_eqz(head.method, "POST") && str_eqz(head.path, "/v1/chat/completions") && str_eqz(head.query, "x"));
	assert_int_equal(head.n_headers, 2);
	assert_true(head.framing == HTTP_NO_BODY && !head.keep_alive && head.head_len == 0);
	assert_int_equal(request("G\x01T / HTTP/1.1\r\n\r\n"), HTTP_BAD);
	assert_true(head.path.n == 0 && head.n_headers == 0 && head.host.n == 0);
}

/* The 16-byte scans stop where the byte-wise tables do, for every byte at every place. */
static void scans_wide_as_narrow(void **state)
{
	char block[40];

	for (int c = 0; c < 256; c++)
		for (size_t at = 0; at < sizeof(block); at++) {
			const char *end = block + sizeof(block);

			memset(block, 'x', sizeof(block));
			block[at] = (char)c;
			assert_ptr_equal(http_skip_value(block, end, false), http_skip(block, end, C_VALUE));
			assert_ptr_equal(http_skip_value(block, end, true), http_skip(block, end, C_VALUE | C_OBS));
			assert_ptr_equal(http_skip_token(block, end), http_skip(block, end, C_TOKEN));
		}
}

static void yields_chunks_without_copying(void **state)
{
	static const char z[] = "4\r\nWiki\r\n6;x=\"\\\"q\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nExpires: never\r\n\r\nnext";
	struct str in = str_of(z), data;
	struct http_chunked k;
	enum http_parse r;
	struct buf all = { 0 };

	http_chunked_init(&k);
	while ((r = http_chunked_next(&k, &in, &data, &why)) == HTTP_MORE && in.n) {
		assert_true(data.n == 0 || (data.p > z && data.p + data.n < z + sizeof(z)));
		buf_str(&all, data);
	}
	assert_int_equal(r, HTTP_DONE);
	assert_true(str_eqz(in, "next") && str_eqz(buf_as_str(&all), "Wikipedia in \r\n\r\nchunks.") && k.total == all.n);
	assert_int_equal(http_chunked_next(&k, &in, &data, &why), HTTP_DONE);
	assert_true(str_eqz(in, "next"));
	buf_free(&all);
}

static enum http_parse chunked(struct http_chunked *k, const char *z)
{
	struct str in = str_of(z), data;
	enum http_parse r;

	while ((r = http_chunked_next(k, &in, &data, &why)) == HTTP_MORE && in.n)
		;
	return r;
}

/* What comes in pieces is read byte by byte, what is whole in one go: both say the same, and stop at the same byte. */
static void whole_chunks_are_read_as_their_bytes_are(void **state)
{
	static const char *const bodies[] = {
		"5\r\nhello\r\n0\r\n\r\n", "05\r\nhello\r\n00\r\n\r\n", "0000005\r\nhello\r\n0\r\n\r\n", "00000005\r\nhello\r\n0\r\n\r\n",
		"0000000000000005\r\nhello\r\n0\r\n\r\n", "00000000000000005\r\nhello\r\n0\r\n\r\n", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
		"5 \r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\rhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n",
		"5\r\nhello\r0\r\n\r\n", "5\r\nhellox\r\n0\r\n\r\n", "5\r\nhell\r\n0\r\n\r\n", "\r\n5\r\nhello\r\n", "+5\r\nhello\r\n", "0x5\r\nhello\r\n", "-1\r\n",
		"5\r\nhello\r\n\r\n0\r\n\r\n", "fffffff\r\nx", "ffffffff\r\nx", "7fffffffffffffff\r\nx", "8000000000000000\r\nx", "1\r\n!\r\n7fffffffffffffff\r\nx",
	};

	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
		struct str whole = str_of(bodies[i]), data;
		struct http_chunked a, b;
		enum http_parse ra, rb = HTTP_MORE;
		uint64_t n = 0;

		http_chunked_init(&a);
		http_chunked_init(&b);
		ra = chunked(&a, bodies[i]);
		for (; whole.n && rb == HTTP_MORE; n += data.n) {
			struct str one = str_n(whole.p, 1);

			rb = http_chunked_next(&b, &one, &data, &why);
			whole = str_from(whole, 1 - one.n);
		}
		if (ra != rb || a.total != b.total || b.total != n || a.state != b.state || a.left != b.left)
			fail_msg("'%s': %d and %d, %llu and %llu bytes", bodies[i], ra, rb, (unsigned long long)a.total, (unsigned long long)b.total);
	}
}

static void bounds_extensions_and_trailers(void **state)
{
	struct http_chunked k;
	struct buf b = { 0 };

	http_chunked_init(&k);
	assert_int_equal(chunked(&k, filled(&b, "1;", 255, "\r\n!\r\n0\r\n\r\n")), HTTP_DONE);
	http_chunked_init(&k);
	assert_int_equal(chunked(&k, filled(&b, "1;", 256, "\r\n!\r\n0\r\n\r\n")), HTTP_BAD);
	assert_int_equal(chunked(&k, "0\r\n\r\n"), HTTP_BAD);
	http_chunked_init(&k);
	k.no_extensions = true;
	assert_int_equal(chunked(&k, "1;x\r\n!\r\n0\r\n\r\n"), HTTP_BAD);
	http_chunked_init(&k);
	assert_int_equal(chunked(&k, filled(&b, "0\r\nX:", 8192 - 6, "\r\n\r\n")), HTTP_DONE);
	http_chunked_init(&k);
	assert_int_equal(chunked(&k, filled(&b, "0\r\nX:", 8192 - 5, "\r\n\r\n")), HTTP_BAD);
	buf_free(&b);
}

static void checks_what_is_sent(void **state)
{
	assert_true(http_value_ok(STR("a\tb \xc3\xbc")) && http_value_ok(STR("")));
	assert_false(http_value_ok(STR("a\r\nb")) || http_value_ok(STR("a\0b")) || http_value_ok(STR("sixteen bytes and more\x7f")));
	assert_false(http_value_ok(STR("\n")) || http_value_ok(STR("0123456789abcdef\r")));
	assert_true(http_name_ok(STR("X-Request-Id")) && http_name_ok(STR("content-length")));
	assert_false(http_name_ok(STR("")) || http_name_ok(STR("a b")) || http_name_ok(STR("a:")) || http_name_ok(STR("Content_Length")));
	assert_string_equal(http_reason(429), "Too Many Requests");
	assert_string_equal(http_reason(299), "");
}

static void normalises_paths(void **state)
{
	static const struct { const char *in, *out; } cases[] = {
		{ "/", "/" }, { "//", "/" }, { "/a", "/a" }, { "/a/", "/a" }, { "//a///b//", "/a/b" }, { "/a%20b", "/a b" }, { "/%61", "/a" },
		{ "/...", "/..." }, { "/.a", "/.a" }, { "/a..", "/a.." }, { "/gr%C3%BCn", "/gr\xc3\xbcn" }, { "/a:b", "/a:b" }, { "/..x", "/..x" },
		{ "/v1/chat/completions", "/v1/chat/completions" }, { "/v1/models/qwen2.5", "/v1/models/qwen2.5" }, { "/v1//models/", "/v1/models" },
		{ "", NULL }, { "a", NULL }, { "*", NULL }, { "/.", NULL }, { "/..", NULL }, { "/a/../b", NULL }, { "/a/./b", NULL }, { "/%2e%2E/", NULL },
		{ "/.%2e", NULL }, { "/..;x/", NULL }, { "/.;/", NULL }, { "/..%3b", NULL }, { "/a%2fb", "/a%2Fb" }, { "/a/..%2fb", NULL }, { "/.%2F", NULL }, { "/a%2", NULL }, { "/a%5cb", NULL }, { "/a\\b", NULL }, { "/a%00", NULL },
		{ "/a%0d%0a", NULL }, { "/a%7f", NULL }, { "/%", NULL }, { "/%4", NULL }, { "/%g0", NULL }, { "/%ff", NULL }, { "/%c0%ae", NULL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct str in = str_of(cases[i].in), got = STR("untouched");
		char out[64];
		bool ok = http_path_normalise(in, out, in.n, &got);

		if (ok != (cases[i].out != NULL) || !str_eqz(got, cases[i].out ? cases[i].out : "untouched"))
			fail_msg("%s gave " STR_FMT, cases[i].in, STR_ARG(got));
	}
	assert_false(http_path_normalise(STR("/abc"), (char[3]){ 0 }, 3, &(struct str){ 0 }));
}

/* A path that changes nowhere is told by looks at many bytes at once. With a slash behind it the same path goes the long way, to the same end. */
static void plain_paths_are_the_same(void **state)
{
	char path[] = "/v1/some-where-i/n_it-is~longer1/for(more-looks)";

	for (size_t n = 2; n < sizeof(path); n++)
		for (size_t at = 1; at < n; at++)
			for (unsigned c = 1; c < 256; c++) {
				char was = path[at], with_slash[sizeof(path)], out[2][sizeof(path)];
				struct str got[2] = { STR(""), STR("") };
				bool ok[2];

				path[at] = (char)c;
				memcpy(with_slash, path, n);
				with_slash[n] = '/';
				ok[0] = http_path_normalise(str_n(path, n), out[0], n, &got[0]);
				ok[1] = http_path_normalise(str_n(with_slash, n + 1), out[1], n + 1, &got[1]);
				if (ok[0] != ok[1] || !str_eq(got[0], got[1]))
					fail_msg("%.*s gave " STR_FMT " and " STR_FMT, (int)n, path, STR_ARG(got[0]), STR_ARG(got[1]));
				path[at] = was;
			}
}

static void finds_query_parameters(void **state)
{
	struct arena *mem = arena_new(0);
	struct str q = STR("a=1&b=x+y%21&a=2&flag&%63=d%3De&bad=%zz&nul=%00"), got;

	assert_true(http_query_get(q, "a", mem, &got) && str_eqz(got, "1"));
	assert_true(http_query_get(q, "b", mem, &got) && str_eqz(got, "x y!"));
	assert_true(http_query_get(q, "flag", mem, &got) && got.n == 0);
	assert_true(http_query_get(q, "c", mem, &got) && str_eqz(got, "d=e"));
	assert_false(http_query_get(q, "bad", mem, &got) || http_query_get(q, "nul", mem, &got) || http_query_get(q, "fla", mem, &got));
	assert_false(http_query_get((struct str){ 0 }, "a", mem, &got));
	arena_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_request),
		cmocka_unit_test(knows_when_a_connection_goes_on),
		cmocka_unit_test(reduces_absolute_targets),
		cmocka_unit_test(reads_odd_but_legal_responses),
		cmocka_unit_test(judges_the_table),
		cmocka_unit_test(keeps_limits_to_the_byte),
		cmocka_unit_test(counts_header_lines),
		cmocka_unit_test(never_reads_beyond_the_input),
		cmocka_unit_test(explains_old_and_new_protocols),
		cmocka_unit_test(keeps_what_came_before_a_fault),
		cmocka_unit_test(scans_wide_as_narrow),
		cmocka_unit_test(yields_chunks_without_copying), cmocka_unit_test(whole_chunks_are_read_as_their_bytes_are),
		cmocka_unit_test(bounds_extensions_and_trailers),
		cmocka_unit_test(checks_what_is_sent),
		cmocka_unit_test(normalises_paths),
		cmocka_unit_test(plain_paths_are_the_same),
		cmocka_unit_test(finds_query_parameters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

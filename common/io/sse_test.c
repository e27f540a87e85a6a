/* sse_test.c - event streams and JSON lines: every split gives the same, limits to the byte, nothing copied needlessly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/io/ndjson.h"
#include "common/io/sse.h"

/* Writes what was heard as "name=data|". */
static void note_event(void *arg, struct str event, struct str data)
{
	buf_printf(arg, STR_FMT "=" STR_FMT "|", STR_ARG(event), STR_ARG(data));
}

static void note_line(void *arg, struct str line) { buf_printf(arg, STR_FMT "|", STR_ARG(line)); }

static void expect_events(const char *stream, const char *want)
{
	struct str s = str_of(stream);
	struct buf got = { 0 };

	for (size_t a = 0; a <= s.n; a++)
		for (size_t b = a; b <= s.n; b++) {
			struct sse_reader r = { 0 };

			buf_clear(&got);
			assert_int_equal(sse_feed(&r, str_n(s.p, a), note_event, &got, NULL), ERR_OK);
			assert_int_equal(sse_feed(&r, str_n(s.p + a, b - a), note_event, &got, NULL), ERR_OK);
			assert_int_equal(sse_feed(&r, str_n(s.p + b, s.n - b), note_event, &got, NULL), ERR_OK);
			assert_string_equal(buf_z(&got), want);
			sse_free(&r);
		}
	buf_free(&got);
}

static void reads_events_at_every_split(void **state)
{
	expect_events("data: a\n\ndata: b\n\n", "=a|=b|");
	expect_events("data: a\r\n\r\ndata: b\r\n\r\n", "=a|=b|");
	expect_events("data: a\r\rdata: b\r\r", "=a|=b|");
	expect_events("data: a\r\ndata: b\ndata: c\r\r\n", "=a\nb\nc|");
	expect_events("\xef\xbb\xbf" "data: x\n\n", "=x|");
	expect_events("event: delta\ndata: {\"a\":1}\nid: 7\n\n", "delta={\"a\":1}|");
	expect_events(": ping\n\n:\n\ndata:x\n\n", "=x|");
	expect_events("data\n\ndata:\n\ndata: \n\n", "=|=|=|");
	expect_events("data:  two\n\n", "= two|");
	expect_events("event: lost\n\ndata: x\n\n", "=x|");
	expect_events("datax: a\n\nDATA: a\n\nretry: 5\n\n", "");
	expect_events("data: a:b\ndata: \ndata: c\n\n", "=a:b\n\nc|");
	expect_events("data: gr\xc3\xbcn \xf0\x9f\x98\x80\n\n", "=gr\xc3\xbcn \xf0\x9f\x98\x80|");
	expect_events("data: unfinished\n", "");
	expect_events("\n\n\r\n\r\r", "");
}

static void keeps_the_last_id_and_knows_a_cut_stream(void **state)
{
	struct sse_reader r = { 0 };
	struct buf got = { 0 };

	assert_int_equal(sse_feed(&r, STR("id: 7\ndata: a\n\nid: x\0y\ndata: b\n\n"), note_event, &got, NULL), ERR_OK);
	assert_true(str_eqz(sse_id(&r), "7") && !sse_pending(&r));
	assert_int_equal(sse_feed(&r, STR("data: c\n"), note_event, &got, NULL), ERR_OK);
	assert_true(sse_pending(&r));
	assert_int_equal(sse_feed(&r, STR("\nda"), note_event, &got, NULL), ERR_OK);
	assert_true(sse_pending(&r));
	assert_string_equal(buf_z(&got), "=a|=b|=c|");
	sse_free(&r);
	assert_false(sse_pending(&r));
	buf_free(&got);
}

static void inside(void *arg, struct str event, struct str data)
{
	struct str *in = arg;

	assert_true(data.p >= in->p && data.p + data.n <= in->p + in->n);
	in->n = 0;
}

static void does_not_copy_whole_events(void **state)
{
	struct sse_reader r = { 0 };
	struct str in = STR("event: e\ndata: whole\n\n"), seen = in;

	assert_int_equal(sse_feed(&r, in, inside, &seen, NULL), ERR_OK);
	assert_true(seen.n == 0 && r.data.cap == 0 && r.line.cap == 0);
	sse_free(&r);
}

static void bounds_lines_and_events(void **state)
{
	static const struct { const char *in; bool ok; } cases[] = {
		{ "data: 7890\n\n", true }, { "data: 78901\n", false }, { "data: 78901", false }, { ":xxxxxxxxxx\n", false },
		{ "data:1234\ndata:6789a\n\n", true }, { "data:12345\ndata:6789a\n\n", false }, { "data:12345\ndata:7890\ndata:\n\n", false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t cut = 0; cut <= strlen(cases[i].in); cut++) {
			struct sse_reader r;
			struct buf got = { 0 };
			struct why why = { 0 };
			enum err e;

			sse_init(&r, 10);
			e = sse_feed(&r, str_n(cases[i].in, cut), note_event, &got, &why);
			if (!e)
				e = sse_feed(&r, str_of(cases[i].in + cut), note_event, &got, &why);
			assert_int_equal(e, cases[i].ok ? ERR_OK : ERR_TOO_LARGE);
			assert_int_equal(sse_feed(&r, STR("\n\n"), note_event, &got, NULL), e);
			sse_free(&r);
			buf_free(&got);
		}
}

static void writes_what_it_reads(void **state)
{
	struct buf b = { 0 }, got = { 0 };
	struct sse_reader r = { 0 };

	sse_write(&b, STR(""), STR("one"));
	assert_string_equal(buf_z(&b), "data: one\n\n");
	sse_comment(&b, STR("wait"));
	sse_write(&b, STR("error\ndata: forged"), STR("a\nb\r\nc\rd\n"));
	sse_write(&b, STR(""), (struct str){ 0 });
	assert_int_equal(sse_feed(&r, buf_as_str(&b), note_event, &got, NULL), ERR_OK);
	assert_string_equal(buf_z(&got), "=one|error=a\nb\nc\nd\n|=|");
	buf_free(&b);
	buf_free(&got);
	sse_free(&r);
}

static void reads_lines_at_every_split(void **state)
{
	static const char z[] = "{\"a\":1}\n\r\n{\"b\":\"\xc3\xbc\"}\r\n\n[\r]\n{\"cut\":";
	struct str s = STR_INIT(z), rest;
	struct buf got = { 0 };

	for (size_t a = 0; a <= s.n; a++) {
		struct ndjson_reader r = { 0 };

		buf_clear(&got);
		assert_int_equal(ndjson_feed(&r, str_n(s.p, a), note_line, &got, NULL), ERR_OK);
		assert_int_equal(ndjson_feed(&r, str_from(s, a), note_line, &got, NULL), ERR_OK);
		assert_string_equal(buf_z(&got), "{\"a\":1}|{\"b\":\"\xc3\xbc\"}|[\r]|");
		assert_true(ndjson_finish(&r, &rest) && str_eqz(rest, "{\"cut\":"));
		assert_false(ndjson_finish(&r, &rest));
		ndjson_free(&r);
	}
	buf_free(&got);
}

static void bounds_json_lines(void **state)
{
	struct ndjson_reader r;
	struct buf got = { 0 };
	struct str rest;

	ndjson_init(&r, 4);
	assert_int_equal(ndjson_feed(&r, STR("1234\n12"), note_line, &got, NULL), ERR_OK);
	assert_int_equal(ndjson_feed(&r, STR("34"), note_line, &got, NULL), ERR_OK);
	assert_int_equal(ndjson_feed(&r, STR("5"), note_line, &got, NULL), ERR_TOO_LARGE);
	assert_int_equal(ndjson_feed(&r, STR("\n1\n"), note_line, &got, NULL), ERR_TOO_LARGE);
	assert_false(ndjson_finish(&r, &rest));
	assert_string_equal(buf_z(&got), "1234|");
	ndjson_free(&r);
	buf_free(&got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_events_at_every_split),
		cmocka_unit_test(keeps_the_last_id_and_knows_a_cut_stream),
		cmocka_unit_test(does_not_copy_whole_events),
		cmocka_unit_test(bounds_lines_and_events),
		cmocka_unit_test(writes_what_it_reads),
		cmocka_unit_test(reads_lines_at_every_split),
		cmocka_unit_test(bounds_json_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

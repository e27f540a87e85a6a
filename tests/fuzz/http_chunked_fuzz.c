/* http_chunked_fuzz.c - a chunked body, whole and in pieces; what is accepted is checked against a slow second reader. */
#include "tests/fuzz/http_fuzz.h"

struct outcome {
	enum http_parse end;
	struct buf body;
	size_t used;
};

static struct outcome decode(struct str bytes, size_t step, bool no_extensions)
{
	struct outcome o = { .end = HTTP_MORE };
	struct http_chunked k;
	struct why why;

	http_chunked_init(&k);
	k.no_extensions = no_extensions;
	for (size_t at = 0; at < bytes.n && o.end == HTTP_MORE; at += step) {
		size_t n = bytes.n - at < step ? bytes.n - at : step;
		char *copy = exactly(bytes.p + at, n);
		struct str in = str_n(copy, n), data;

		while (in.n && (o.end = http_chunked_next(&k, &in, &data, &why)) == HTTP_MORE)
			buf_str(&o.body, data);
		o.used += n - in.n;
		free(copy);
	}
	MUST(k.total == o.body.n);
	return o;
}

/* Reads an accepted body again: sizes by hand, extensions cut at the line's end. */
static void reread(struct str bytes, const struct outcome *o)
{
	struct str rest = str_n(bytes.p, o->used);
	size_t got = 0;

	for (;;) {
		const char *end = str_find(rest, STR("\r\n"));
		uint64_t size = 0;
		size_t i = 0;

		MUST(end);
		for (; i < 16 && http_is(rest.p[i], C_HEX); i++)
			size = size << 4 | http_unhex(rest.p[i]);
		MUST(i > 0 && (rest.p + i == end || rest.p[i] == ';' || rest.p[i] == ' ' || rest.p[i] == '\t'));
		rest = str_from(rest, (size_t)(end - rest.p) + 2);
		if (size == 0)
			break;
		MUST(size + 2 <= rest.n && got + size <= o->body.n && memcmp(rest.p, o->body.p + got, size) == 0);
		got += size;
		MUST(memcmp(rest.p + size, "\r\n", 2) == 0);
		rest = str_from(rest, size + 2);
	}
	MUST(got == o->body.n && str_ends(rest, STR("\r\n")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct str bytes = str_n((const char *)data, n);
	struct outcome whole = decode(bytes, n + 1, false);
	size_t steps[] = { 1, 2, 1 + n / 3 };

	if (whole.end == HTTP_DONE)
		reread(bytes, &whole);
	for (int i = 0; i < 3; i++) {
		struct outcome o = decode(bytes, steps[i], false);

		MUST(o.end == whole.end && o.used == whole.used && str_eq(buf_as_str(&o.body), buf_as_str(&whole.body)));
		buf_free(&o.body);
	}
	struct outcome strict = decode(bytes, n + 1, true);
	MUST(strict.end != HTTP_DONE || (whole.end == HTTP_DONE && strict.used == whole.used));
	buf_free(&strict.body);
	buf_free(&whole.body);
	return 0;
}

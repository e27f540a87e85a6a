/* ndjson_fuzz.c - JSON lines: pieces give what the whole gives, and what a naive split gives. */
#include <stdlib.h>

#include "common/io/ndjson.h"

#define MUST(holds) do { if (!(holds)) { fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); abort(); } } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void note(void *arg, struct str line)
{
	MUST(line.n && !memchr(line.p, '\n', line.n));
	buf_str(arg, line);
	buf_char(arg, '\n');
}

static enum err read_all(struct str bytes, size_t step, size_t max, struct buf *trace)
{
	struct ndjson_reader r;
	struct str rest;
	enum err e = ERR_OK;

	ndjson_init(&r, max);
	for (size_t at = 0; at < bytes.n && !e; at += step) {
		size_t part = bytes.n - at < step ? bytes.n - at : step;
		char *copy = malloc(part);

		memcpy(copy, bytes.p + at, part);
		e = ndjson_feed(&r, str_n(copy, part), note, trace, NULL);
		free(copy);
		MUST(r.line.n <= max);
	}
	if (ndjson_finish(&r, &rest))
		note(trace, rest);
	ndjson_free(&r);
	return e;
}

static void naive(struct str bytes, struct buf *trace)
{
	struct str line;

	while (str_split(&bytes, '\n', &line)) {
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		if (line.n)
			note(trace, line);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct str bytes = str_n((const char *)data, n);
	size_t steps[] = { 1, 3, 1 + n / 2 };
	struct buf whole = { 0 }, other = { 0 };
	enum err e = read_all(bytes, n + 1, 64, &whole);

	for (int i = 0; i < 3; i++) {
		buf_clear(&other);
		MUST(read_all(bytes, steps[i], 64, &other) == e && str_eq(buf_as_str(&other), buf_as_str(&whole)));
	}
	buf_clear(&whole);
	buf_clear(&other);
	MUST(read_all(bytes, 5, 1 << 20, &whole) == ERR_OK);
	naive(bytes, &other);
	MUST(str_eq(buf_as_str(&other), buf_as_str(&whole)));
	buf_free(&whole);
	buf_free(&other);
	return 0;
}

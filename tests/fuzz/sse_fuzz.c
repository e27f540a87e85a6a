/* sse_fuzz.c - an event stream: pieces give what the whole gives, limits hold, and what was read can be written and read again. */
#include <stdlib.h>

#include "common/io/sse.h"

#define MUST(holds) do { if (!(holds)) { fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); abort(); } } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct heard {
	struct buf trace, written;
};

static void note(void *arg, struct str event, struct str data)
{
	struct heard *h = arg;

	buf_printf(&h->trace, "%zu,%zu;", event.n, data.n);
	buf_str(&h->trace, event);
	buf_str(&h->trace, data);
	sse_write(&h->written, event, data);
	MUST((event.n == 0 || (!memchr(event.p, '\n', event.n) && !memchr(event.p, '\r', event.n))));
	MUST(data.n == 0 || !memchr(data.p, '\r', data.n));
}

static enum err read_all(struct str bytes, size_t step, size_t max, struct heard *h, struct buf *ret_id)
{
	struct sse_reader r;
	enum err e = ERR_OK;

	sse_init(&r, max);
	for (size_t at = 0; at < bytes.n && !e; at += step) {
		size_t part = bytes.n - at < step ? bytes.n - at : step;
		char *copy = malloc(part);

		memcpy(copy, bytes.p + at, part);
		e = sse_feed(&r, str_n(copy, part), note, h, NULL);
		free(copy);
		MUST(r.line.n <= max && r.data.n <= max && r.event.n <= max && r.id.n <= max && !r.span.p);
	}
	buf_str(ret_id, sse_id(&r));
	sse_free(&r);
	return e;
}

static void heard_free(struct heard *h)
{
	buf_free(&h->trace);
	buf_free(&h->written);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct str bytes = str_n((const char *)data, n);
	size_t steps[] = { 1, 3, 1 + n / 2 };
	struct heard whole = { 0 }, again = { 0 };
	struct buf id = { 0 }, other = { 0 };
	enum err e = read_all(bytes, n + 1, 64, &whole, &id);

	for (int i = 0; i < 3; i++) {
		struct heard h = { 0 };

		buf_clear(&other);
		MUST(read_all(bytes, steps[i], 64, &h, &other) == e);
		MUST(str_eq(buf_as_str(&h.trace), buf_as_str(&whole.trace)) && str_eq(buf_as_str(&other), buf_as_str(&id)));
		heard_free(&h);
	}
	MUST(read_all(buf_as_str(&whole.written), whole.written.n + 1, SSE_MAX_LINE, &again, &other) == ERR_OK);
	MUST(str_eq(buf_as_str(&again.trace), buf_as_str(&whole.trace)));
	heard_free(&whole);
	heard_free(&again);
	buf_free(&id);
	buf_free(&other);
	return 0;
}

/* http_fuzz.h - what the fuzz targets of the HTTP codec share. MUST() stops the run when a property does not hold. */
#ifndef CORRAL_TESTS_HTTP_FUZZ_H
#define CORRAL_TESTS_HTTP_FUZZ_H
#include <stdlib.h>

#include "tests/contract/framing_cases.h"

#define MUST(holds) do { if (!(holds)) { fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #holds); abort(); } } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A block of exactly n bytes, so that the sanitizer sees the first byte read beyond. */
static inline char *exactly(const void *p, size_t n)
{
	char *copy = malloc(n ? n : 1);

	if (n)
		memcpy(copy, p, n);
	return copy;
}

/* Cut anywhere or fed byte by byte, the outcome is that of the whole; only a fault in an unfinished line may still be hidden. */
static inline void same_in_pieces(const char *kind, struct str bytes)
{
	struct framing_verdict whole = framing_judge(kind, bytes, 0), pieces;
	long cuts[] = { -1, bytes.n ? (long)(str_hash(bytes, 1) % bytes.n) : 0 };

	for (int i = 0; i < 2; i++) {
		pieces = framing_judge(kind, bytes, cuts[i]);
		if (whole.end == HTTP_BAD && pieces.end == HTTP_MORE)
			continue;
		MUST(pieces.end == whole.end && pieces.messages == whole.messages && pieces.body == whole.body);
		MUST(whole.end != HTTP_BAD || pieces.why.code == whole.why.code);
	}
}

static inline bool within(struct str part, struct str whole)
{
	return part.n == 0 || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n);
}

/* An accepted head, looked at again the slow way: CR LF lines without other controls, framing headers at most once. */
static inline void recheck(const struct http_head *h, struct str in, bool response)
{
	struct str head = str_n(in.p, h->head_len);
	uint32_t lines = 0, lengths = 0, codings = 0, hosts = 0;

	MUST(h->head_len <= in.n && h->head_len <= http_limits_default.max_head && str_ends(head, STR("\r\n\r\n")));
	for (size_t i = 0; i < head.n; i++) {
		unsigned char c = (unsigned char)head.p[i];

		MUST(c != '\r' || head.p[i + 1] == '\n');
		MUST(c != '\n' || (i && head.p[i - 1] == '\r'));
		MUST((c >= 0x20 && c != 0x7f) || c == '\r' || c == '\n' || c == '\t');
		MUST(c < 0x80 || response || i > h->method.n + h->target.n + 10);
		lines += c == '\n';
	}
	MUST(lines == h->n_headers + 2 + (head.p[0] == '\r'));
	for (uint32_t i = 0; i < h->n_headers; i++) {
		struct str name = h->headers[i].name, value = h->headers[i].value;

		MUST(within(name, head) && within(value, head) && http_name_ok(name) && http_value_ok(value));
		MUST(str_eq(value, str_trim(value)));
		lengths += str_ieq(name, STR("content-length"));
		codings += str_ieq(name, STR("transfer-encoding"));
		hosts += str_ieq(name, STR("host"));
	}
	MUST(lengths + codings <= 1);
	MUST(response || hosts == 1 || (hosts == 0 && h->minor == 0));
	MUST(h->framing != HTTP_CHUNKED || (codings == 1 && h->minor == 1));
	MUST(h->framing != HTTP_LENGTH || lengths == 1);
	MUST(h->framing != HTTP_UNTIL_CLOSE || (response && !h->keep_alive && lengths + codings == 0));
}
#endif

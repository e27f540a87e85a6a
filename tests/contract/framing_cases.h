/* framing_cases.h - reads framing_cases.txt, and judges one case with our codec. For the unit test, the probe and fuzz seeds.
 *
 * A case is a run of bytes one peer may send: messages with their bodies, one after the other. */
#ifndef CORRAL_TESTS_FRAMING_CASES_H
#define CORRAL_TESTS_FRAMING_CASES_H
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/io/http1.h"
#include "common/io/http1_scan.h"

struct framing_case {
	char kind[8];                 /* req, res, reshead (the answer to a HEAD) */
	char expect[8];               /* refuse (which policy is, too) or pass */
	int code;                     /* HTTP status of a refusal; 0 = any */
	int messages;                 /* of a pass */
	uint64_t body;                /* bytes of all bodies of a pass */
	char name[64];
	struct buf bytes;
};

/* What came of the bytes. */
struct framing_verdict {
	enum http_parse end;          /* DONE: the bytes are used up between two messages; MORE: within one */
	int messages;
	uint64_t body;
	struct why why;
};

/* \r \n \t \0 \\ \xHH, and {N*x}: N times the character x. */
static inline void framing_unescape(const char *z, struct buf *out)
{
	for (; *z && *z != '\n'; z++) {
		unsigned n;
		char c;
		int used = 0;

		if (sscanf(z, "{%u*%c}%n", &n, &c, &used) == 2 && used) {
			while (n--)
				buf_char(out, c);
			z += used - 1;
		} else if (*z == '\\') {
			c = *++z;
			if (c == 'x') {
				buf_char(out, (char)(http_unhex(z[1]) << 4 | http_unhex(z[2])));
				z += 2;
			} else
				buf_char(out, c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : c == '0' ? '\0' : c);
		} else
			buf_char(out, *z);
	}
}

/* The next case; false at the end of the file. The bytes are the caller's to free. */
static inline bool framing_next(FILE *f, struct framing_case *c)
{
	char line[4096];

	while (fgets(line, sizeof(line), f)) {
		int at = 0;

		if (line[0] == '#' || line[0] == '\n')
			continue;
		*c = (struct framing_case){ .messages = 1 };
		if (strncmp(line, "req", 3) != 0 && strncmp(line, "res", 3) != 0)
			return false;
		if ((sscanf(line, "%7s refuse %d %63s %n", c->kind, &c->code, c->name, &at) == 3 && at) ||
		    (sscanf(line, "%7s policy %d %63s %n", c->kind, &c->code, c->name, &at) == 3 && at))
			snprintf(c->expect, sizeof(c->expect), "refuse");
		else if (sscanf(line, "%7s pass %d/%lu %63s %n", c->kind, &c->messages, &c->body, c->name, &at) == 4 && at)
			snprintf(c->expect, sizeof(c->expect), "pass");
		else
			return false;
		framing_unescape(line + at, &c->bytes);
		return true;
	}
	return false;
}

/* Feeds 'bytes' to the codec as if the first 'cut' of them came alone (0: all at once; -1: one byte at a time). */
static inline struct framing_verdict framing_judge(const char *kind, struct str bytes, long cut)
{
	struct framing_verdict v = { .end = HTTP_DONE };
	struct http_head h;
	struct http_chunked chunked;
	uint64_t left = 0;
	size_t at = 0, seen = 0, have = 0;
	enum { HEAD, LENGTH, CHUNKED, CLOSE } state = HEAD;

	while (have < bytes.n) {
		have = cut < 0 ? have + 1 : cut > 0 && have == 0 ? (size_t)cut : bytes.n;
		while (at < have) {
			struct str in = str_n(bytes.p + at, have - at), data;

			if (state == HEAD) {
				v.end = kind[2] == 'q' ? http_parse_request(&h, in, seen, NULL, &v.why)
				                       : http_parse_response(&h, in, seen, strcmp(kind, "reshead") == 0, NULL, &v.why);
				if (v.end == HTTP_BAD)
					return v;
				if (v.end == HTTP_MORE) {
					seen = in.n;
					break;
				}
				at += h.head_len, seen = 0;
				left = h.content_length;
				state = h.framing == HTTP_CHUNKED ? CHUNKED : h.framing == HTTP_LENGTH && left ? LENGTH : h.framing == HTTP_UNTIL_CLOSE ? CLOSE : HEAD;
				v.messages += state == HEAD || state == CLOSE;
				http_chunked_init(&chunked);
				v.end = state == HEAD || state == CLOSE ? HTTP_DONE : HTTP_MORE;
			} else if (state == CHUNKED) {
				v.end = http_chunked_next(&chunked, &in, &data, &v.why);
				if (v.end == HTTP_BAD)
					return v;
				v.body += data.n;
				at = have - in.n;
				if (v.end == HTTP_DONE)
					state = HEAD, v.messages++;
			} else {
				size_t n = state == CLOSE || left > in.n ? in.n : (size_t)left;

				v.body += n, at += n, left -= state == CLOSE ? 0 : n;
				if (state == LENGTH && left == 0)
					state = HEAD, v.messages++, v.end = HTTP_DONE;
			}
		}
	}
	return v;
}
#endif

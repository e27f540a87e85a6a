/* http1.h - HTTP/1.1 messages as bytes: heads, chunked bodies, values, paths; for servers and clients alike.
 *
 * Pure functions over memory: no I/O, no allocation (http_query_get() excepted), no state but what the caller holds.
 * Strict on purpose: where RFC 9112 lets a recipient guess, this one refuses, for a guess that differs from the
 * next hop's guess is a smuggled request. Nothing here reads beyond the bytes it is given.
 * Every struct str given back points into the caller's bytes (or into the named output) and lives as long as they do. */
#ifndef CORRAL_IO_HTTP1_H
#define CORRAL_IO_HTTP1_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"

struct arena;

enum { HTTP_MAX_HEADERS = 100 };

struct http_header { struct str name, value; };     /* into the caller's buffer; value trimmed */

/* All in bytes but the last; a limit is the largest size still accepted. */
struct http_limits {
	uint32_t max_line;            /* request or status line, its line end not counted: 8192 */
	uint32_t max_header;          /* each header line, its line end not counted: 8192 */
	uint32_t max_head;            /* the whole head, the empty line included: 32768 */
	uint32_t max_headers;         /* at most HTTP_MAX_HEADERS: 100 */
};
extern const struct http_limits http_limits_default;

enum http_framing { HTTP_NO_BODY, HTTP_LENGTH, HTTP_CHUNKED, HTTP_UNTIL_CLOSE /* responses only */ };

struct http_head {
	struct str method, target;          /* requests */
	/* target split at '?'; path still percent-encoded; absolute-form reduced to its path ("/", a constant, when it has none); '*' for OPTIONS * */
	struct str path, query;
	int status; struct str reason;      /* responses */
	int minor;                          /* HTTP/1.minor: 0 or 1 */
	uint32_t n_headers;
	uint64_t names;                     /* a bit for each name there is, see http_find(); 0 = not known, of heads put together by hand */
	enum http_framing framing; uint64_t content_length;   /* as Content-Length says, else 0; HTTP_LENGTH may be of 0 */
	bool keep_alive, expect_continue, upgrade;
	struct str host;                    /* with its port, as sent; empty when the request (HTTP/1.0) has none */
	uint32_t head_len;                  /* bytes of the head, the empty line included */
	struct http_header headers[HTTP_MAX_HEADERS];   /* last, so that a keeper of heads can allocate what is used */
};

enum http_parse { HTTP_DONE, HTTP_MORE, HTTP_BAD };

/* Parses a head at the start of 'in'. 'seen' = bytes already looked at by the last call that said HTTP_MORE
 * (0 at first), so slow arrival is not quadratic. A whole head and the same head in pieces get the same verdict, but in
 * pieces a fault may show only when its line has ended. Limits may be NULL: the default ones.
 * After HTTP_MORE nothing in *head is valid. After HTTP_BAD what was read before the fault is (method and target, path once
 * the whole first line was fine, the header lines before the faulty one), the rest is zero: enough to word a refusal, not to
 * act upon.
 * On HTTP_BAD *why has the code and a sentence: MALFORMED (400), URI_TOO_LONG (414: the first line), HEADERS_TOO_LARGE (431), NOT_IMPLEMENTED (501:
 * unknown transfer codings), METHOD_NOT_ALLOWED (405: CONNECT), EXPECTATION_FAILED (417: an Expect other than 100-continue). The connection cannot
 * be used any further. Leading empty lines: at most one CRLF is tolerated before a request line. */
enum http_parse http_parse_request(struct http_head *, struct str in, size_t seen, const struct http_limits *, struct why *);

/* 'request_was_head': no body whatever the head says. 1xx, 204, 304 have none. Duplicated equal Content-Length refused too. */
enum http_parse http_parse_response(struct http_head *, struct str in, size_t seen, bool request_was_head,
				    const struct http_limits *, struct why *);

const struct http_header *http_find_named(const struct http_head *, struct str name);

/* Equal names have equal bits: length and last letter; 0x20 is what upper and lower case differ by. */
static inline uint64_t http_name_bit(struct str name) { return 1ull << ((((unsigned char)name.p[name.n - 1] & 0x1f) + name.n * 5) & 63); }

/* Case-insensitive; first; NULL = none. Most that is looked for is not there, and for a name that the compiler knows that is one test. */
static inline const struct http_header *http_find(const struct http_head *h, const char *name)
{
	struct str want = str_of(name);

	return want.n && (!h->names || (h->names & http_name_bit(want))) ? http_find_named(h, want) : NULL;
}

/* Incremental chunked decoder. Feed bytes; it yields spans of body data inside the input, without copying. */
struct http_chunked {
	uint64_t left;                /* bytes of the running chunk still to come */
	uint64_t total;               /* body bytes yielded so far */
	uint32_t line;                /* bytes of the running size line's extension, or of the trailers */
	uint8_t state, digits, name_n;
	char name[18];                /* start of the running trailer's name */
	bool no_extensions;           /* set after http_chunked_init(): refuse every chunk extension */
};
void http_chunked_init(struct http_chunked *);

/* Consumes from *in; sets *data to the next run of body bytes (may be empty).
 * HTTP_DONE: the last chunk and trailers were read, *in is what follows.
 * HTTP_MORE: *in is exhausted or data was yielded (call again while in->n > 0).
 * HTTP_BAD: framing error; nothing more can be read from this peer. Once DONE or BAD, it stays so until initialised again.
 * Strict: at most 16 hex digits, CRLF only, chunk extensions grammatical and <= 256 bytes a chunk, trailers <= 8192 bytes
 * in all and discarded; a trailer field that would change framing or routing is refused. */
enum http_parse http_chunked_next(struct http_chunked *, struct str *in, struct str *data, struct why *);

bool http_value_ok(struct str value);      /* may be put into a generated header: no CR LF NUL or other controls but tab */
bool http_name_ok(struct str name);        /* a token, and not one of the look-alikes of framing headers */
const char *http_reason(int status);       /* never NULL; "" = unknown */

/* Collapses duplicate slashes, removes a trailing slash, decodes percent-escapes into 'out' (no terminator; cap >= path.n
 * is always enough). An escaped slash stays "%2F": it parts nothing. False, nothing returned: no leading slash, dot segments (also
 * before an escaped slash), a broken escape, an escaped backslash or control byte, bytes that are not UTF-8 after decoding, or 'out' too small. */
bool http_path_normalise(struct str path, char *out, size_t cap, struct str *ret);

/* One query parameter, percent-decoded ('+' = space), into the arena, terminated; the first of that name.
 * False when absent, or its escapes are broken or hide a NUL. */
bool http_query_get(struct str query, const char *name, struct arena *, struct str *ret);
#endif

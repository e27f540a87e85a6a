/* http_client.h - calls to one HTTP/1.1 server, with a pool of kept-alive connections. One pool belongs to one loop.
 *
 * A call sends a head and body parts by one sendmsg() where the kernel takes it, and reports head, body and end of the answer.
 * A reused connection that the server had closed (no byte of an answer came, within a second, and the request was not read) is replaced by a
 * fresh one once, unseen by the caller. */
#ifndef CORRAL_IO_HTTP_CLIENT_H
#define CORRAL_IO_HTTP_CLIENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/io/http1.h"
#include "common/io/loop.h"

/* "http://host:port/base" or "https://…", resolved once (and again when connecting fails). */
struct http_url {
	char host[256];
	uint16_t port;                /* 80 or 443 when none was given */
	bool tls;
	char base[256];               /* path prefix without trailing slash, "" for none */
	char host_header[300];        /* Ollama checks it on loopback: the literal host and port */
};

bool http_url_parse(struct http_url *, struct str url, struct why *);

struct http_pool;
struct http_call;
struct tls_trust;

struct http_pool_opts {
	uint32_t max_idle;            /* default 64 */
	int64_t idle_ms;              /* default 4000: below llama.cpp's 5 s */
	struct tls_trust *trust;      /* for https: whose certificates are good; kept until the pool was freed. NULL: every call fails */
};

struct http_pool *http_pool_new(struct loop *, const struct http_url *, const struct http_pool_opts *);
void http_pool_free(struct http_pool *);          /* calls still open get on_error(CANCELLED) */
uint32_t http_pool_active(const struct http_pool *);
int64_t http_pool_now_us(const struct http_pool *);       /* its loop's clock, for deadlines */

enum http_call_error {
	HTTP_CALL_REFUSED,            /* no connection: refused, unreachable, name not found; no TLS, or a certificate that is not accepted */
	HTTP_CALL_CONNECT_TIMEOUT,    /* the TLS handshake is part of connecting */
	HTTP_CALL_RESET,              /* connection broke before the answer's head */
	HTTP_CALL_FIRST_BYTE_TIMEOUT,
	HTTP_CALL_IDLE_TIMEOUT,       /* silence in the middle of the answer */
	HTTP_CALL_CUT,                /* connection ended before the framing said so */
	HTTP_CALL_BAD_FRAMING,        /* not HTTP/1.1, or ambiguous */
	HTTP_CALL_DEADLINE,
	HTTP_CALL_CANCELLED           /* only from http_pool_free() */
};
const char *http_call_error_name(enum http_call_error);      /* "first_byte_timeout": label of metrics, column of the ledger */

struct http_call_ops {
	/* Called in this order; exactly one of on_end and on_error ends the call, and the handle is invalid when it returns.
	 * None is called before http_call_start() returned. Views are valid during the call only. */
	void (*on_head)(struct http_call *, const struct http_head *, void *arg);
	void (*on_data)(struct http_call *, struct str data, void *arg);   /* body bytes, framing removed; never empty */
	void (*on_end)(struct http_call *, void *arg);
	void (*on_error)(struct http_call *, enum http_call_error, const char *text, void *arg);
};

struct http_call_opts {
	int64_t connect_ms;           /* 0 = 2000 */
	int64_t first_byte_ms;        /* 0 = none */
	int64_t idle_ms;              /* 0 = none: between bytes of the answer */
	int64_t deadline_us;          /* loop clock; 0 = none */
	bool head_request;            /* the method is HEAD */
	bool fresh;                   /* do not reuse a connection */
};

/* 'head' is the complete request head, the empty line included (build it with http_call_head()). Head and body parts must
 * stay valid until the call ends; they are not copied. On a connection that is kept they leave at the end of the loop's turn.
 * Never fails: errors come by on_error in a later turn. */
struct http_call *http_call_start(struct http_pool *, struct str head, const struct str *body, unsigned n_body,
				  const struct http_call_opts *, const struct http_call_ops *, void *arg);
void http_call_cancel(struct http_call *);        /* closes the connection at once; no callback follows */
void http_call_pause(struct http_call *);         /* stop reading: back-pressure; what was received already (at most 64 KiB) still comes */
void http_call_resume(struct http_call *);
bool http_call_sent(const struct http_call *);    /* the kernel took at least one byte of the request */
bool http_call_reused(const struct http_call *);
bool http_call_answered(const struct http_call *);        /* a byte of an answer has come */

/* "METHOD base+path HTTP/1.1\r\nHost: …\r\n" + headers (complete lines) + Content-Length when has_body + "\r\n", in the arena. */
struct str http_call_head(struct arena *, const struct http_pool *, const char *method, struct str path, struct str headers,
			  bool has_body, uint64_t content_length);

/* For control planes: one small request, the whole answer at once, on the loop. 'done' gets status 0 and a sentence on failure.
 * Answers above max_bytes fail. Cancelled by http_get_cancel() (no callback then). */
struct http_fetch;
struct http_fetch *http_fetch(struct http_pool *, const char *method, struct str path, struct str headers, struct str body,
			      int64_t timeout_ms, size_t max_bytes,
			      void (*done)(void *arg, int status, struct str body, const char *error), void *arg);
void http_fetch_cancel(struct http_fetch *);
#endif

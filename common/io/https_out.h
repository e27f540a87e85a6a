/* https_out.h - requests to servers of others, over TLS: libcurl on our loop (https_out.c alone includes it).
 *
 * One pool belongs to one loop and its thread; connections are kept and used again. HTTP/1.1 only, so that ending a call closes its
 * connection at once, and a slow reader holds back its own server and no other. Certificates are verified, always; redirects are not
 * followed; nothing is kept of cookies; the environment's proxies are not used. A POST is sent once, whatever becomes of its connection.
 * What is held of one answer is bounded: libcurl's one buffer (16 KiB) and what the kernel has; a paused call reads no further. */
#ifndef CORRAL_IO_HTTPS_OUT_H
#define CORRAL_IO_HTTPS_OUT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/str.h"
#include "common/io/http1.h"
#include "common/io/loop.h"

struct https_out;
struct https_call;

struct https_out_opts {
	const char *ca_file;          /* PEM with the authorities that are trusted; NULL or "" = those of the system */
	const char *proxy;            /* "http://host:port"; NULL or "" = none */
	uint32_t max_idle;            /* connections that are kept; default 32 */
};

struct https_out *https_out_new(struct loop *, const struct https_out_opts *, struct why *);
void https_out_free(struct https_out *);          /* calls still open get on_error(HTTPS_CANCELLED); NULL is fine */
uint32_t https_out_active(const struct https_out *);

/* Can calls go there? "https://host[:port]/path", or http:// for servers that are near. */
bool https_url_ok(const char *url, struct why *);

enum https_error {
	HTTPS_REFUSED,                /* no connection: name not found, refused, unreachable; nothing was sent */
	HTTPS_UNTRUSTED,              /* TLS: no handshake, or a certificate that is not accepted; nothing was sent */
	HTTPS_CONNECT_TIMEOUT,
	HTTPS_BROKEN,                 /* broke before the answer's head */
	HTTPS_FIRST_BYTE_TIMEOUT,
	HTTPS_IDLE_TIMEOUT,           /* silence in the middle of the answer */
	HTTPS_CUT,                    /* broke after the head, before the framing said so */
	HTTPS_DEADLINE,
	HTTPS_CANCELLED               /* only from https_out_free() */
};
const char *https_error_name(enum https_error);       /* "first_byte_timeout": label of metrics */

struct https_ops {
	/* In this order; exactly one of on_end and on_error ends the call, and the handle is invalid when it returns. None is called before
	 * https_call_start() returned. Views are valid during the call only. Interim answers (1xx) are not told. */
	void (*on_head)(struct https_call *, const struct http_head *, void *arg);
	void (*on_data)(struct https_call *, struct str data, void *arg);
	void (*on_end)(struct https_call *, void *arg);
	void (*on_error)(struct https_call *, enum https_error, const char *text, void *arg);
};

struct https_request {
	const char *method;           /* "POST", "GET" */
	const char *url;
	const struct str *headers;    /* whole lines without their end: "Authorization: Bearer …"; copied, and wiped after the call */
	unsigned n_headers;
	const struct str *body;       /* parts; copied */
	unsigned n_body;
	int64_t connect_ms;           /* 0 = 10 s */
	int64_t first_byte_ms;        /* 0 = none */
	int64_t idle_ms;              /* 0 = none; a pause of ours does not count */
	int64_t total_ms;             /* 0 = none */
};

/* Never fails: errors come by on_error in a later turn. */
struct https_call *https_call_start(struct https_out *, const struct https_request *, const struct https_ops *, void *arg);
void https_call_cancel(struct https_call *);      /* closes the connection at once; no callback follows. In any callback but on_end and on_error too */
void https_call_pause(struct https_call *);       /* reads no further; data that lies here already may come once more */
void https_call_resume(struct https_call *);

/* For small questions: the whole answer at once. 'done' gets status 0 and a sentence on failure; answers above max_bytes fail. */
struct https_fetch;
struct https_fetch *https_fetch(struct https_out *, const struct https_request *, size_t max_bytes,
				void (*done)(void *arg, int status, struct str body, const char *error), void *arg);
void https_fetch_cancel(struct https_fetch *);    /* no callback follows */
#endif

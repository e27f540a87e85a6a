/* http_server.h - listeners and client connections of one loop; one exchange (request and answer) at a time on each.
 *
 * The server reads and checks head and body (http1.h), hands over whole requests, keeps the connection alive, watches
 * the client while the answer is made, and writes with back-pressure. Everything happens on the loop's thread.
 *
 *   on_head ──▶ (body read) ──▶ on_request ──▶ http_reply() | http_reply_start() data… http_reply_end() | http_reply_abort()
 *                                     └──── on_gone at any time before the end: the client left
 *
 * An exchange is valid from on_head until http_reply_end(), http_reply_abort() or the return of on_gone.
 * A client that ends its sending side during an exchange counts as gone (nginx and Ollama see it so too), but what the
 * handler answered within the same turn is still sent. */
#ifndef CORRAL_IO_HTTP_SERVER_H
#define CORRAL_IO_HTTP_SERVER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/budget.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "common/io/http1.h"
#include "common/io/loop.h"

struct http_server;
struct tls_identity;

struct http_xchg {
	struct str path;              /* normalised: one slash, no trailing slash, decoded */
	struct str body;              /* whole body, framing removed; set before on_request */
	const char *peer;             /* "127.0.0.1:5123" */
	int64_t start_us;             /* loop clock when the head was complete */
	uint8_t door;                 /* of the address that it came to, see http_listen */
	bool tls;
	void *user;                   /* the handler's */
	/* Set by the handler in on_head for a body that is too large to be held: each piece as it comes, before on_request, which then finds x->body
	 * empty; on_gone, when set, tells of a client that leaves meanwhile. False with *why: the request is refused (on_refused). */
	bool (*on_body)(struct http_xchg *, struct str data, struct why *);
	void (*on_gone)(struct http_xchg *, const char *why);   /* set by the handler in on_request; may be NULL */
	void (*on_drain)(struct http_xchg *);  /* queued output fell below half of the high-water mark; may be NULL */
	struct http_head head;        /* views stable for the whole exchange. Only n_headers headers are there: do not copy it by value */
};

struct http_handler {
	/* Head complete, body not read. Returns how many body bytes are allowed (0 = the server's default).
	 * It may reply at once (refusal); then the body is not read, the connection closes, on_request is not called. */
	size_t (*on_head)(struct http_xchg *, void *arg);
	void (*on_request)(struct http_xchg *, void *arg);
	/* A request that never became one (bad framing, too large, too slow): x has what could be read of the head, and the
	 * handler answers in the caller's dialect, else the server sends a plain text body. May be NULL. */
	void (*on_refused)(struct http_xchg *, const struct why *, void *arg);
	void *arg;
};

struct http_server_opts {
	size_t max_body;              /* default 8 MiB */
	size_t high_water;            /* default 256 KiB queued output per connection */
	int64_t head_ms;              /* default 10000: whole head must be there */
	int64_t idle_ms;              /* default 60000: keep-alive */
	int64_t stall_ms;             /* default 60000: queued output without progress = client gone */
	uint32_t min_body_rate;       /* default 1024 bytes/s after head_ms */
	uint32_t max_requests;        /* default 10000 per connection; then Connection: close */
	uint32_t max_conns;           /* default 10000; above it new ones get 503 and close */
	struct budget *held;          /* counts what bodies and queued answers hold, each from 64 KiB on; a body that finds no room gets 503. May be
				         shared by servers of several threads; NULL = not counted */
	bool reuseport;               /* several loops listen on one address */
	bool first;                   /* the first of these: fails where another program listens already, which would share the port */
	bool paused;                  /* accepts nobody before http_server_accept() */
	const char *server_name;      /* NULL = no Server header */
};

/* 'listen' is "127.0.0.1:8100", "[::1]:8100", ":0" (any port, loopback) or "unix:/path". NULL with *why when it cannot be bound
 * (the sentence names the address and, for EADDRINUSE, says that another program has it). */
struct http_server *http_server_new(struct loop *, const char *listen, const struct http_handler *, const struct http_server_opts *,
				    struct why *);        /* 'listen' NULL: no address yet */

struct http_listen {
	const char *address;          /* as above */
	uint8_t door;                 /* what http_xchg.door says of who comes here; the address given to http_server_new() has 0 */
	struct tls_identity *tls;     /* TLS with this identity; NULL = plain. Counted by the server */
	bool given;                   /* 'fd' listens already, by another process or an earlier call; it is the server's from now on, or closed when it is
				         not of this address: then one is opened, as without it, but with 'or_none' */
	bool or_none;
	int fd;
};

/* One more address. */
bool http_server_listen(struct http_server *, const struct http_listen *, struct why *);
void http_server_accept(struct http_server *);    /* the end of 'paused' */
void http_server_set_tls(struct http_server *, struct tls_identity *);   /* for those who come from now on, at every address with TLS */
int http_server_fd(const struct http_server *, unsigned i);      /* the i-th listening descriptor, in the order in which they were made; -1 = no more */
uint8_t http_server_door_at(const struct http_server *, unsigned i);
/* The addresses are another process's now, by these same descriptors: a drain that follows leaves to it whoever is not accepted yet, and lets
 * connections that rest go on for some seconds, for their next request may be on its way. */
void http_server_hand_over(struct http_server *);
uint16_t http_server_port(const struct http_server *);   /* of the first address */
uint16_t http_server_port_at(const struct http_server *, unsigned i);    /* of the i-th descriptor; 0 = a socket file, or none */
/* Stops listening at once; answers in progress go on, each with Connection: close; idle connections close. A connection is gone when its
 * client has received all of its answer, or takes nothing of it for stall_ms.
 * on_idle(arg) is called once when the last connection is gone (possibly from inside this call). */
void http_server_drain(struct http_server *, void (*on_idle)(void *arg), void *arg);
void http_server_free(struct http_server *);      /* breaks what is open (on_gone is called) ; NULL is fine */
uint32_t http_server_conns(const struct http_server *);      /* any thread */

/* 'headers' are complete lines ("Name: value\r\n"…), may be empty; the server adds Date, the framing and Connection.
 * length >= 0: exactly so many bytes follow; -1: chunked (HTTP/1.0 clients: until close). HEAD sends no body whatever is given. */
void http_reply_start(struct http_xchg *, int status, struct str headers, int64_t length);
void http_reply_data(struct http_xchg *, struct str data);      /* copied or sent; flushed at the end of the turn */
void http_reply_end(struct http_xchg *);
void http_reply(struct http_xchg *, int status, struct str headers, struct str body);
void http_reply_abort(struct http_xchg *);        /* breaks the connection, so that the client sees an incomplete answer */
bool http_reply_started(const struct http_xchg *);
size_t http_reply_queued(const struct http_xchg *);             /* bytes the client has not taken yet */
bool http_reply_full(const struct http_xchg *);                 /* above the high-water mark: stop producing until on_drain */
void http_reply_close_after(struct http_xchg *);  /* Connection: close on this answer */
#endif

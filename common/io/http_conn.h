/* http_conn.h - the inside of the HTTP server: what http_server.c (reading, life), http_listen.c and http_reply.c (writing) share.
 * Nobody else includes it. */
#ifndef CORRAL_IO_HTTP_CONN_H
#define CORRAL_IO_HTTP_CONN_H
#include "common/base/buf.h"
#include "common/base/list.h"
#include "common/io/http_local.h"
#include "common/io/http_server.h"
#include "common/io/tls.h"

enum conn_state {
	CONN_IDLE,            /* no byte of a request is here */
	CONN_HEAD,            /* a part of a head is in 'in' */
	CONN_BODY,            /* the head is in 'xc', the body arrives */
	CONN_BUSY,            /* the handler makes the answer */
	CONN_SENDING,         /* the answer is complete; what the kernel did not take yet is in 'out' */
	CONN_LINGER,          /* all sent and said so (FIN); what still comes is thrown away, so that no reset eats the answer */
	CONN_DEAD             /* closed; freed at the end of the turn */
};

enum reply_framing { REPLY_NONE, REPLY_LENGTH, REPLY_CHUNKED, REPLY_UNTIL_CLOSE, REPLY_NO_BODY };

struct conn;

enum { HELD_FREE = 65536 };           /* up to this size a buffer is not charged: how many there are is limited elsewhere */
/* Requests and answers of up to this size lie in blocks that the server keeps: malloc(3) takes many times longer for what is above its
 * thread's cache (1 KiB). */
enum { BLOCK_BYTES = 2048, BLOCKS_SPARE = 512 };

/* One exchange: allocated with exactly as many headers as there are, followed by the head's bytes, the normalised path
 * and, when it came with the head, the body. A large request stays where it was received instead. */
struct exchange {
	struct conn *conn;
	char *taken;                  /* the loop's scratch memory with the request in it; NULL = it was copied */
	bool in_block;
	struct buf body;              /* a body that came in pieces */
	struct http_chunked chunked;
	uint64_t body_left;           /* of HTTP_LENGTH */
	uint64_t streamed;            /* bytes given to on_body */
	size_t body_allowed;
	size_t charged;               /* of opts.held, for 'body' */
	struct http_xchg x;           /* last: cut off after the headers that are used */
};

/* What each piece of an answer touches comes first, in few cache lines: thousands of streams take turns. */
struct conn {
	struct loop_io io;
	struct http_server *srv;
	enum conn_state state;
	enum reply_framing framing;
	char *out;                    /* NULL when nothing is queued */
	size_t out_at, out_n, out_cap;
	size_t out_charged;           /* of opts.held */
	struct loop_deferred flush;
	struct tls *tls;              /* NULL: plain */
	const struct http_local_ops *local;   /* not NULL: there is no connection and no server, see http_local.h */
	void *local_arg;
	int64_t deadline_us;          /* of the state; 0 = none */
	bool keep;                    /* keep the connection after this answer */
	bool aborting;                /* break it after the flush */
	bool unread;                  /* input was left in the kernel */
	bool hup;                     /* the client sent its end */
	bool was_full;                /* on_drain is owed */
	bool suspect;                 /* a reset may hide behind what was read last, see sweep() */
	bool handshaking;             /* TLS, and not a byte of a request can have come yet */
	bool wrong_door;              /* plain HTTP where TLS is spoken */
	uint8_t door;
	struct exchange *xc;
	struct list node;             /* on srv->conns */
	uint64_t reply_left;          /* of REPLY_LENGTH */
	uint32_t requests;
	int undelivered;              /* CONN_LINGER while draining: bytes in the kernel when it was looked at last */
	size_t seen;                  /* of 'in', for http_parse_request() */
	struct buf in;                /* part of a head, or requests that came early */
	struct loop_deferred release;
	struct tls_identity *identity;        /* until the first byte has come */
	char peer[56];
};

/* An address, or one of several descriptors of it. */
struct listener {
	struct loop_io io;            /* not added while the server is paused */
	struct http_server *srv;
	struct listener *next;
	struct loop_timer retry;
	int fd;                       /* -1: closed */
	char *unix_path;              /* removed with it */
	struct tls_identity *tls;     /* NULL: plain */
	uint8_t door;
};

struct http_server {
	struct loop *loop;
	struct http_handler handler;
	struct http_server_opts opts;
	struct listener *listeners;   /* in the order in which they were made */
	uint16_t port;
	struct list conns;            /* the one looked at longest ago first, see sweep() */
	uint32_t n_conns, n_dead;
	bool draining, freed, paused, handed_over;
	void (*on_idle)(void *);
	void *on_idle_arg;
	struct loop_timer sweep;
	int64_t accept_warn_us;       /* not before this it is said again that connections wait */
	struct loop_deferred release;
	int64_t date_us;              /* when it was looked at */
	time_t date_s;
	char date[48];                /* "Date: …\r\n" of date_s */
	uint32_t date_n;
	struct http_head head;        /* of the request being parsed */
	void *spare[BLOCKS_SPARE];    /* blocks that nobody has */
	unsigned n_spare;
};

void *block_take(struct http_server *);
void block_give(struct http_server *, void *block);

static inline struct conn *conn_of(const struct http_xchg *x)
{
	return ((const struct exchange *)(const void *)((const char *)x - offsetof(struct exchange, x)))->conn;
}

static inline size_t conn_queued(const struct conn *c) { return c->out_n - c->out_at; }

/* http_listen.c */
void listeners_close(struct http_server *, bool take_waiting);  /* take_waiting: who the kernel has accepted is served */
void listeners_free(struct http_server *);
/* http_server.c */
struct sockaddr_storage;
void conn_new(const struct listener *, int fd, const struct sockaddr_storage *peer);
/* http_local.c */
void local_start(struct conn *, int status, struct str headers);
void local_data(struct conn *, struct str data);
void local_end(struct conn *, bool whole);

void conn_flush_later(struct conn *);
void conn_gone(struct conn *, const char *why);       /* tells the handler and closes */
/* Sends what is queued; false when the connection is broken. */
bool conn_send(struct conn *);
void conn_out_free(struct conn *);                    /* drops what is queued */
void conn_send_now(struct conn *, const char *z);     /* a short interim answer */
#endif

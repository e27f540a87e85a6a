/* http_local.h - an exchange without a connection: a request that comes from inside the process goes the way of those that come from clients.
 *
 * The handler gets a struct http_xchg like any other and answers with http_reply() & co; what it says goes to 'ops' at once, with no queue
 * between. Everything happens on the loop's thread. */
#ifndef CORRAL_IO_HTTP_LOCAL_H
#define CORRAL_IO_HTTP_LOCAL_H
#include "common/io/http_server.h"

struct http_local;

struct http_local_ops {
	void (*start)(void *arg, int status, struct str headers);
	void (*data)(void *arg, struct str data);     /* never empty; valid during the call */
	void (*end)(void *arg, bool whole);           /* false: the handler broke it off. Once; the exchange ends with it */
};

/* A POST of 'body' to 'path'; both are borrowed until http_local_free(). 'peer' is what the handler sees as the client's address. */
struct http_local *http_local_new(struct str path, struct str body, const char *peer, const struct http_local_ops *, void *arg);
struct http_xchg *http_local_xchg(struct http_local *);
/* As a client that leaves: the handler's on_gone is called, and 'end' is not. After the end it does nothing. */
void http_local_leave(struct http_local *, const char *why);
void http_local_free(struct http_local *);            /* ended or left; NULL is fine */
#endif

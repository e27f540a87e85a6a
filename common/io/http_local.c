/* http_local.c - see http_local.h. A struct conn that was never connected, with the exchange's end set to 'local'. */
#include "common/io/http_local.h"

#include <stdlib.h>

#include "common/base/arena.h"
#include "common/io/http_conn.h"

struct http_local {
	struct conn conn;
	struct exchange xc;
};

struct http_local *http_local_new(struct str path, struct str body, const char *peer, const struct http_local_ops *ops, void *arg)
{
	struct http_local *l = x_calloc(1, sizeof(*l));

	l->conn.local = ops;
	l->conn.local_arg = arg;
	l->conn.state = CONN_BUSY;
	l->conn.xc = &l->xc;
	l->xc.conn = &l->conn;
	l->xc.x.path = path;
	l->xc.x.body = body;
	l->xc.x.peer = peer;
	l->xc.x.head.method = STR("POST");
	l->xc.x.head.minor = 1;
	return l;
}

struct http_xchg *http_local_xchg(struct http_local *l) { return &l->xc.x; }

void http_local_leave(struct http_local *l, const char *why)
{
	if (l->conn.state == CONN_DEAD)
		return;
	l->conn.state = CONN_DEAD;
	if (l->xc.x.on_gone)
		l->xc.x.on_gone(&l->xc.x, why);
}

void http_local_free(struct http_local *l) { free(l); }

/* --- what http_reply.c does instead of writing --- */

void local_start(struct conn *c, int status, struct str headers)
{
	c->framing = REPLY_CHUNKED;
	c->local->start(c->local_arg, status, headers);
}

void local_data(struct conn *c, struct str data) { c->local->data(c->local_arg, data); }

void local_end(struct conn *c, bool whole)
{
	c->state = CONN_DEAD;
	c->local->end(c->local_arg, whole);
}

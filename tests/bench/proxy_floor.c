/* proxy_floor.c - the least an HTTP proxy of ours can cost: common/io's server and client joined, and nothing else.
 *
 *   proxy_floor [--listen 127.0.0.1:8291] [--to http://127.0.0.1:8290]
 *
 * What the gateway adds to this is the price of its own work. It keeps the rules of a proxy: hop-by-hop headers stay on
 * their hop, a slow client holds the backend back, a client that leaves ends the call. */
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/io/http_client.h"
#include "common/io/http_server.h"
#include "tests/bench/flags.h"

static const char *listen_on = "127.0.0.1:8291", *to = "http://127.0.0.1:8290";
static struct loop *loop;
static struct http_url url;
static struct http_pool *pool;

struct pass {
	struct http_xchg *x;
	struct http_call *call;
	struct buf head;
};

static bool hop_by_hop(struct str name)
{
	switch (name.n) {
	case 2: return str_ieq(name, STR("te"));
	case 4: return str_ieq(name, STR("host")) || str_ieq(name, STR("date"));
	case 6: return str_ieq(name, STR("expect")) || str_ieq(name, STR("server"));
	case 7: return str_ieq(name, STR("trailer")) || str_ieq(name, STR("upgrade"));
	case 10: return str_ieq(name, STR("connection")) || str_ieq(name, STR("keep-alive"));
	case 14: return str_ieq(name, STR("content-length"));
	case 17: return str_ieq(name, STR("transfer-encoding"));
	default: return false;
	}
}

static void copy_headers(struct buf *b, const struct http_head *h)
{
	for (uint32_t i = 0; i < h->n_headers; i++) {
		const struct http_header *f = &h->headers[i];

		if (hop_by_hop(f->name))
			continue;
		buf_reserve(b, f->name.n + f->value.n + 4);
		buf_str(b, f->name);
		buf_add(b, ": ", 2);
		buf_str(b, f->value);
		buf_add(b, "\r\n", 2);
	}
}

static void pass_free(struct pass *p)
{
	buf_free(&p->head);
	free(p);
}

static void on_head(struct http_call *call, const struct http_head *h, void *arg)
{
	struct pass *p = arg;

	buf_clear(&p->head);          /* the request has been answered, its head is not needed any more */
	copy_headers(&p->head, h);
	http_reply_start(p->x, h->status, buf_as_str(&p->head), h->framing == HTTP_LENGTH ? (int64_t)h->content_length : h->framing == HTTP_NO_BODY ? 0 : -1);
	buf_free(&p->head);           /* a stream may live for long */
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct pass *p = arg;

	http_reply_data(p->x, data);
	if (http_reply_full(p->x))
		http_call_pause(call);
}

static void on_end(struct http_call *call, void *arg)
{
	struct pass *p = arg;

	http_reply_end(p->x);
	pass_free(p);
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct pass *p = arg;

	if (http_reply_started(p->x))
		http_reply_abort(p->x);
	else
		http_reply(p->x, 502, STR("Content-Type: text/plain\r\n"), str_of(text));
	pass_free(p);
}

static void on_gone(struct http_xchg *x, const char *why)
{
	struct pass *p = x->user;

	http_call_cancel(p->call);
	pass_free(p);
}

static void on_drain(struct http_xchg *x) { http_call_resume(((struct pass *)x->user)->call); }

static void on_request(struct http_xchg *x, void *arg)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	static const struct http_call_opts opts = { .first_byte_ms = 600000, .idle_ms = 60000 };
	struct pass *p = x_calloc(1, sizeof(*p));
	struct buf *b = &p->head;

	buf_reserve(b, x->head.head_len + sizeof(url.host_header));
	buf_str(b, x->head.method);
	buf_char(b, ' ');
	buf_str(b, x->head.target);
	buf_addz(b, " HTTP/1.1\r\nHost: ");
	buf_addz(b, url.host_header);
	buf_addz(b, "\r\n");
	copy_headers(b, &x->head);
	if (x->head.framing != HTTP_NO_BODY) {
		buf_addz(b, "Content-Length: ");
		buf_u64(b, x->body.n);
		buf_addz(b, "\r\n");
	}
	buf_addz(b, "\r\n");
	p->x = x;
	x->user = p;
	x->on_gone = on_gone;
	x->on_drain = on_drain;
	p->call = http_call_start(pool, buf_as_str(b), &x->body, x->body.n ? 1 : 0, &opts, &ops, p);
}

int main(int argc, char **argv)
{
	static const struct flag flags[] = { { "listen", &listen_on, NULL }, { "to", &to, NULL }, { 0 } };
	struct http_handler handler = { .on_request = on_request };
	struct http_server_opts opts = { .max_conns = 60000, .max_requests = UINT32_MAX, .max_body = 64u << 20 };
	struct http_pool_opts pool_opts = { .max_idle = 1024 };
	struct why why;

	flags_read(flags, argc, argv);
	loop = loop_new();
	if (!http_url_parse(&url, str_of(to), &why) || !http_server_new(loop, listen_on, &handler, &opts, &why)) {
		fprintf(stderr, "proxy_floor: %s\n", why.text);
		return 1;
	}
	pool = http_pool_new(loop, &url, &pool_opts);
	loop_run(loop);
	return 0;
}

/* http_fetch.c - http_fetch() of http_client.h: a call that gathers its answer, for control planes. */
#include <stdlib.h>

#include "common/base/buf.h"
#include "common/io/http_client.h"

struct http_fetch {
	struct arena *mem;
	struct http_call *call;
	struct buf body;
	int status;
	size_t max_bytes;
	void (*done)(void *arg, int status, struct str body, const char *error);
	void *arg;
};

static void fetch_free(struct http_fetch *f)
{
	buf_free(&f->body);
	arena_free(f->mem);
}

static void finish(struct http_fetch *f, int status, struct str body, const char *error)
{
	f->done(f->arg, status, body, error);
	fetch_free(f);
}

static void fetch_head(struct http_call *call, const struct http_head *h, void *arg) { ((struct http_fetch *)arg)->status = h->status; }

static void fetch_data(struct http_call *call, struct str data, void *arg)
{
	struct http_fetch *f = arg;

	if (f->body.n + data.n <= f->max_bytes) {
		buf_str(&f->body, data);
		return;
	}
	http_call_cancel(call);
	finish(f, 0, STR(""), "the answer is larger than allowed");
}

static void fetch_end(struct http_call *call, void *arg)
{
	struct http_fetch *f = arg;

	finish(f, f->status, buf_as_str(&f->body), NULL);
}

static void fetch_error(struct http_call *call, enum http_call_error e, const char *text, void *arg) { finish(arg, 0, STR(""), text); }

struct http_fetch *http_fetch(struct http_pool *p, const char *method, struct str path, struct str headers, struct str body,
			      int64_t timeout_ms, size_t max_bytes,
			      void (*done)(void *arg, int status, struct str body, const char *error), void *arg)
{
	static const struct http_call_ops ops = { fetch_head, fetch_data, fetch_end, fetch_error };
	struct arena *mem = arena_new(0);
	struct http_fetch *f = arena_new_of(mem, struct http_fetch);
	struct http_call_opts opts = { .deadline_us = http_pool_now_us(p) + timeout_ms * 1000, .head_request = str_eqz(str_of(method), "HEAD") };
	bool has_body = body.n || str_eqz(str_of(method), "POST") || str_eqz(str_of(method), "PUT");
	struct str copy = arena_str(mem, body);

	f->mem = mem;
	f->max_bytes = max_bytes;
	f->done = done;
	f->arg = arg;
	f->call = http_call_start(p, http_call_head(mem, p, method, path, headers, has_body, body.n), &copy, body.n ? 1 : 0, &opts, &ops, f);
	return f;
}

void http_fetch_cancel(struct http_fetch *f)
{
	if (!f)
		return;
	http_call_cancel(f->call);
	fetch_free(f);
}

/* remote.c - see remote.h. */
#include "services/corral/remote.h"

#include <stdlib.h>

enum { MAX_ANSWER_BYTES = 64 * 1024 * 1024, ASK_MS = 15000 };

struct remote {
	struct cli *cli;
	struct http_pool *pool;
	struct http_url parts;
	const char *url;
	bool with_key;
};

static struct loop *the_loop(struct cli *c)
{
	if (!c->loop)
		c->loop = loop_new();
	return c->loop;
}

/* People write "localhost:8100", and the base URL of the OpenAI protocol with its /v1; both mean the gateway. */
static const char *plain_url(struct arena *a, const char *given)
{
	struct str url = str_of(strstr(given, "://") ? given : arena_printf(a, "http://%s", given));

	while (str_ends(url, STR("/")) && !str_ends(url, STR("://")))
		url.n--;
	if (str_ends(url, STR("/v1")))
		url.n -= 3;
	return arena_str(a, url).p;
}

struct remote *remote_new(struct cli *c, const char *given, struct why *why)
{
	struct remote *r = arena_new_of(c->mem, struct remote);

	r->cli = c;
	r->url = plain_url(c->mem, given);
	if (str_starts(str_of(r->url), STR("https://"))) {
		err_set(why, ERR_INVALID, "'%s': this command speaks plain http only; give the address of the gateway itself, or of a tunnel to it", given);
		return NULL;
	}
	if (!http_url_parse(&r->parts, str_of(r->url), why))
		return NULL;
	r->pool = http_pool_new(the_loop(c), &r->parts, NULL);
	return r;
}

void remote_free(struct remote *r)
{
	if (r)
		http_pool_free(r->pool);
}

struct remote *remote_gateway(struct cli *c)
{
	struct why why;

	if (c->gateway)
		return c->gateway;
	if (!http_value_ok(str_of(c->api_key))) {
		cli_fail(c, EXIT_USAGE, "the API key holds characters that no header may have");
		return NULL;
	}
	c->gateway = remote_new(c, *c->url ? c->url : "http://127.0.0.1:8100", &why);
	if (c->gateway)
		c->gateway->with_key = true;
	else
		cli_fail(c, EXIT_USAGE, "%s", why.text);
	return c->gateway;
}

const char *remote_url(const struct remote *r) { return r->url; }
const struct http_url *remote_parts(const struct remote *r) { return &r->parts; }
struct http_pool *remote_pool(struct remote *r) { return r->pool; }
struct cli *remote_cli(struct remote *r) { return r->cli; }

struct str remote_headers(struct remote *r, struct str more)
{
	if (!r->with_key || !*r->cli->api_key)
		return more;
	return arena_fmt(r->cli->mem, "Authorization: Bearer %s\r\n" STR_FMT, r->cli->api_key, STR_ARG(more));
}

/* --- one question --- */

struct waiting {
	struct cli *cli;
	struct answer *answer;
};

const char *error_sentence(struct arena *a, const struct json *doc)
{
	uint32_t error = json_get(doc, 0, "error");

	if (error && json_kind(doc, error) == JSON_OBJECT)
		error = json_get(doc, error, "message");
	return error && json_is_string(doc, error) ? arena_str(a, json_string(doc, error, a)).p : NULL;
}

static void done(void *arg, int status, struct str body, const char *error)
{
	struct waiting *w = arg;
	struct answer *a = w->answer;
	struct arena *mem = w->cli->mem;

	a->status = status;
	a->body = arena_str(mem, body);
	a->is_json = status && json_parse(&a->doc, mem, a->body, &(struct json_limits){ 64, 4000000, false }, NULL) == ERR_OK &&
		     json_kind(&a->doc, 0) == JSON_OBJECT;
	if (status == 0)
		a->error = arena_printf(mem, "%s", error ? error : "no answer");
	else if (status >= 400) {
		a->error = a->is_json ? error_sentence(mem, &a->doc) : NULL;
		if (!a->error)
			a->error = arena_printf(mem, "it answers with status %d %s", status, http_reason(status));
	}
	loop_stop(w->cli->loop);
}

struct answer remote_ask(struct remote *r, const char *method, const char *path, struct str body, int64_t timeout_ms)
{
	struct answer a = { 0 };
	struct waiting w = { r->cli, &a };
	struct str type = body.n ? STR("Content-Type: application/json\r\n") : STR("");

	http_fetch(r->pool, method, str_of(path), remote_headers(r, type), body, timeout_ms, MAX_ANSWER_BYTES, done, &w);
	loop_run(r->cli->loop);
	return a;
}

int cli_answer_failed(struct cli *c, const struct answer *a)
{
	const char *url = remote_url(c->gateway);

	if (a->status == 0)
		return cli_fail(c, EXIT_UNREACHABLE, "the gateway at %s does not answer: %s; start it with 'corral serve', or name another with --url",
				url, a->error);
	if (a->status == 401)
		return cli_fail(c, EXIT_FAILED, "%s; set CORRAL_API_KEY or give --api-key", a->error);
	if (a->status >= 400 && (!a->body.n || (a->is_json && json_get(&a->doc, 0, "success"))))
		return cli_fail(c, EXIT_FAILED, "%s", a->error);
	if (a->status >= 400)             /* an error, and not in the shape of ours */
		return cli_fail(c, EXIT_FAILED, "what answers at %s is not Corral: '%s' (%d); is --url right?", url, a->error, a->status);
	return cli_fail(c, EXIT_FAILED, "what answers at %s is not Corral: the answer is not what was asked for; is --url right?", url);
}

int cli_ask(struct cli *c, const char *method, const char *path, struct str body, struct answer *ret)
{
	struct remote *r = remote_gateway(c);

	if (!r)
		return EXIT_USAGE;
	*ret = remote_ask(r, method, path, body, ASK_MS);
	return ret->status >= 200 && ret->status < 300 && ret->is_json ? EXIT_OK : cli_answer_failed(c, ret);
}

int cli_print_raw(struct cli *c, const struct answer *a)
{
	fwrite(a->body.p, 1, a->body.n, c->out);
	if (!str_ends(a->body, STR("\n")))
		fputc('\n', c->out);
	return EXIT_OK;
}

/* --- paths --- */

void add_percent(struct buf *b, struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c && strchr("-._~", c)))
			buf_char(b, (char)c);
		else
			buf_printf(b, "%%%02X", c);
	}
}

void add_query(struct buf *b, const char *name, const char *value)
{
	if (!*value)
		return;
	buf_printf(b, "%c%s=", b->n && memchr(b->p, '?', b->n) ? '&' : '?', name);
	add_percent(b, str_of(value));
}

/* --- members --- */

struct str get_str(struct cli *c, const struct json *j, uint32_t object, const char *key)
{
	uint32_t v = json_get(j, object, key);

	return v && json_is_string(j, v) ? json_string(j, v, c->mem) : STR("");
}

const char *get_z(struct cli *c, const struct json *j, uint32_t object, const char *key) { return arena_str(c->mem, get_str(c, j, object, key)).p; }

int64_t get_int(const struct json *j, uint32_t object, const char *key)
{
	uint32_t at = json_get(j, object, key);
	int64_t v = 0;

	if (at)
		(void)json_i64(j, at, &v);
	return v;
}

double get_double(const struct json *j, uint32_t object, const char *key)
{
	uint32_t at = json_get(j, object, key);
	double v = 0;

	if (at)
		(void)json_double(j, at, &v);
	return v;
}

bool get_bool(const struct json *j, uint32_t object, const char *key)
{
	uint32_t at = json_get(j, object, key);
	bool v = false;

	if (at)
		(void)json_bool(j, at, &v);
	return v;
}

struct str get_list(struct cli *c, const struct json *j, uint32_t object, const char *key)
{
	uint32_t list = json_get(j, object, key);
	struct buf b = { 0 };
	struct str s;

	for (uint32_t i = list ? json_first(j, list) : 0; i; i = json_next(j, list, i)) {
		if (b.n)
			buf_addz(&b, ", ");
		buf_str(&b, json_string(j, i, c->mem));
	}
	s = arena_str(c->mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

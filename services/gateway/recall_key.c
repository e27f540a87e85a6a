/* recall_key.c - which answers may be given again, and to what question: see recall.h.
 *
 * The question is what would be sent to the backend, read as JSON: so every dialect that comes to the same means the same. Members are sorted,
 * strings decoded, numbers written one way, each value with its kind and length in front; left out is only what no backend's answer depends on. */
#include <math.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/llm/fields.h"
#include "services/gateway/recall.h"

#define TEXT_VERSION "corral answer 1"
enum { TTL_MOST_S = 30 * 86400 };

/* --- may it be? --- */

struct wishes { bool no_store, no_cache; int64_t max_age_s; /* -1 = unsaid */ };

static void read_directive(struct wishes *w, struct str d)
{
	struct str name = STR("max-age=");
	uint64_t s;

	d = str_trim(d);
	if (str_ieq(d, STR("no-store")))
		w->no_store = true;
	else if (str_ieq(d, STR("no-cache")))
		w->no_cache = true;
	else if (d.n > name.n && str_ieq(str_n(d.p, name.n), name) && str_u64(str_from(d, name.n), &s))
		w->max_age_s = s > TTL_MOST_S ? TTL_MOST_S : (int64_t)s;
}

static void read_line(struct wishes *w, struct str rest)
{
	struct str d;

	while (rest.n && str_split(&rest, ',', &d))
		read_directive(w, d);
}

static void read_header(struct wishes *w, const struct http_head *head)
{
	const struct http_header *h = http_find(head, "cache-control"), *pragma = http_find(head, "pragma"), *end = head->headers + head->n_headers;

	for (const struct http_header *each = h; each && each < end; each++)      /* several lines are one list */
		if (str_ieq(each->name, STR("cache-control")))
			read_line(w, each->value);
	if (!h && pragma && str_ieq(pragma->value, STR("no-cache")))
		w->no_cache = true;
}

/* A value is at the top level, in Ollama's options, or, in native requests, in either: both have to be so. */
static bool each_is(const struct llm_in *in, const char *name, bool (*is)(double))
{
	uint32_t options = in->dialect == LLM_OPENAI || in->dialect == LLM_ANTHROPIC ? 0 : json_get(&in->doc, 0, "options");
	uint32_t at[2] = { in->dialect == LLM_OLLAMA ? 0 : json_get(&in->doc, 0, name), options ? json_get(&in->doc, options, name) : 0 };
	bool said = false;
	double v;

	for (unsigned i = 0; i < 2; i++) {
		if (!at[i] || json_kind(&in->doc, at[i]) == JSON_NULL)
			continue;
		if (!json_double(&in->doc, at[i], &v) || !is(v))
			return false;
		said = true;
	}
	return said;
}

static bool is_zero(double v) { return v == 0; }
static bool is_seed(double v) { return v >= 0; }      /* -1 is "any" to the engines */
static bool deterministic(const struct llm_in *in) { return each_is(in, "temperature", is_zero) || each_is(in, "seed", is_seed); }

static const char *digest_of(const struct world *w, uint16_t replica)
{
	const struct cat_replica *c = &w->cat.replicas[replica];

	return c->pb->digest[0] ? c->pb->digest : w->cat.models[c->model].pb->digest;
}

static const char *refused(const struct recollection *rc, const struct gateway_config *cfg)
{
	const struct req *r = rc->req;

	if (r->in.load_only || r->in.op == LLM_COUNT)
		return "nothing_asked";
	if (rc->opted_in)
		return NULL;
	if (r->in.has_tools)
		return "tools";
	if (!deterministic(&r->in))
		return "sampling";
	return digest_of(r->world, rc->replica)[0] || cfg->cache_undigested ? NULL : "digest";
}

void recall_may(struct recollection *rc, const struct gateway_config *cfg)
{
	const struct req *r = rc->req;
	struct wishes w = { .max_age_s = -1 };
	bool no_cache = false;
	double ttl_s = -1;

	read_header(&w, &r->x->head);
	if (r->in.dialect == LLM_NATIVE) {
		(void)json_bool(&r->in.doc, json_get(&r->in.doc, 0, "no_cache"), &no_cache);
		if (json_get(&r->in.doc, 0, "cache_ttl_s"))
			(void)json_double(&r->in.doc, json_get(&r->in.doc, 0, "cache_ttl_s"), &ttl_s);
	}
	rc->ttl_us = cfg->cache_ttl * 1000;
	if (ttl_s > 0)
		rc->ttl_us = rc->max_age_us = (int64_t)(fmin(ttl_s, TTL_MOST_S) * 1e6);
	if (w.max_age_s > 0)
		rc->max_age_us = w.max_age_s * 1000000;
	rc->opted_in = ttl_s > 0 || w.max_age_s > 0;
	if (rc->opted_in && ttl_s <= 0 && !deterministic(&r->in))
		rc->ttl_us = rc->max_age_us;      /* kept for those who ask so */
	rc->bypass = w.no_store || no_cache || ttl_s == 0 ? "asked" : refused(rc, cfg);
	rc->writes = !rc->bypass;
	rc->reads = rc->writes && !w.no_cache && w.max_age_s != 0;
	if (rc->writes && !rc->reads)
		rc->bypass = "asked";             /* not looked up; the new answer takes the old one's place */
}

/* --- the question --- */

struct writing {
	struct arena *mem;
	struct buf *out;
	const struct json *doc;
};

static void put_str(struct buf *out, char kind, struct str s)
{
	uint32_t n = (uint32_t)s.n;
	char head[5] = { kind, (char)(n >> 24), (char)(n >> 16 & 255), (char)(n >> 8 & 255), (char)(n & 255) };

	buf_add(out, head, sizeof(head));
	buf_str(out, s);
}

static void put_count(struct buf *out, char kind, uint32_t n) { put_str(out, kind, str_n((const char *)&n, sizeof(n))); }

/* 1, 1.0 and 1e0 are one number; beyond what a double holds the digits as they are. */
static void put_number(struct writing *w, uint32_t v)
{
	struct str raw = json_raw(w->doc, v);
	char text[40];
	double d;

	if (raw.n == 1) {                 /* a digit */
		put_str(w->out, 'd', raw);
		return;
	}
	if (raw.n > 15 || !json_double(w->doc, v, &d)) {
		put_str(w->out, 'n', raw);
		return;
	}
	(void)snprintf(text, sizeof(text), "%.17g", d == 0 ? 0 : d);
	put_str(w->out, 'd', str_of(text));
}

struct named { struct str key; uint32_t value; };

static int by_name(const void *a, const void *b) { return str_cmp(((const struct named *)a)->key, ((const struct named *)b)->key); }

static void put_value(struct writing *, uint32_t v);

static bool stays(struct str name, void *arg) { return true; }

static void put_object(struct writing *w, uint32_t object, bool (*keeps)(struct str name, void *arg), void *arg)
{
	struct named *members = arena_alloc(w->mem, sizeof(*members) * (json_count(w->doc, object) + 1u));
	uint32_t n = 0;

	for (uint32_t v = json_first(w->doc, object); v; v = json_next(w->doc, object, v)) {
		struct str key = json_string(w->doc, json_key(w->doc, v), w->mem);

		if (keeps(key, arg))
			members[n++] = (struct named){ key, v };
	}
	qsort(members, n, sizeof(*members), by_name);
	put_count(w->out, 'o', n);
	for (uint32_t i = 0; i < n; i++) {
		put_str(w->out, 'k', members[i].key);
		put_value(w, members[i].value);
	}
}

static void put_value(struct writing *w, uint32_t v)
{
	switch (json_kind(w->doc, v)) {
	case JSON_STRING:
		put_str(w->out, 's', json_string(w->doc, v, w->mem));
		break;
	case JSON_NUMBER:
		put_number(w, v);
		break;
	case JSON_ARRAY:
		put_count(w->out, 'a', json_count(w->doc, v));
		for (uint32_t i = json_first(w->doc, v); i; i = json_next(w->doc, v, i))
			put_value(w, i);
		break;
	case JSON_OBJECT:
		put_object(w, v, stays, NULL);
		break;
	default:
		put_str(w->out, 'l', json_raw(w->doc, v));
	}
}

struct outermost { const struct json *doc; enum llm_form form; bool passed; };

/* The model is named by its digest, the form of the answer does not change what it says, and some fields no backend uses. */
static bool matters(struct str name, void *arg)
{
	const struct outermost *o = arg;
	const struct field *f = o->passed ? field_find(o->form, name) : NULL;

	if (str_eqz(name, "model") || str_eqz(name, "stream") || str_eqz(name, "stream_options"))
		return false;
	if (str_eqz(name, "truncate") && json_kind(o->doc, json_get(o->doc, 0, "truncate")) == JSON_FALSE)
		return false;                     /* is added where it was not said */
	return !f || !field_has_no_effect(f);
}

static bool put_body(struct recollection *rc, struct buf *out)
{
	struct req *r = rc->req;
	struct outermost o = { .form = llm_form_of(r->in.dialect, r->in.op), .passed = rc->plan.passthrough };
	struct writing w = { .mem = r->mem, .out = out };
	struct json sent;

	if (!rc->plan.passthrough && json_parse(&sent, r->mem, arena_join(r->mem, rc->plan.parts, rc->plan.n_parts), NULL, NULL) != ERR_OK)
		return false;
	w.doc = o.doc = rc->plan.passthrough ? &r->in.doc : &sent;
	put_object(&w, 0, matters, &o);
	return true;
}

/* Weights that have a digest are known by it, wherever they lie. Those without are known by their place, name and sizes. */
static void put_model(const struct world *w, uint16_t replica, struct buf *out)
{
	const struct cat_replica *c = &w->cat.replicas[replica];
	const Corral__Model *m = w->cat.models[c->model].pb;
	const char *digest = digest_of(w, replica);
	uint64_t sizes[] = { m->size_bytes, m->parameter_count };

	put_str(out, 'm', str_of(digest));
	put_count(out, 'c', c->context);
	if (digest[0])
		return;
	put_str(out, 'b', w->cat.backends[c->backend].name);
	put_str(out, 'r', str_of(c->remote_name));
	put_str(out, 'q', str_of(m->quantization));
	put_str(out, 'z', str_n((const char *)sizes, sizeof(sizes)));
}

struct str recall_model_text(const struct world *w, uint16_t replica, struct arena *mem)
{
	struct buf text = { 0 };
	struct str kept;

	put_model(w, replica, &text);
	kept = arena_str(mem, buf_as_str(&text));
	buf_free(&text);
	return kept;
}

bool recall_text(struct recollection *rc, struct buf *out)
{
	put_str(out, 'v', STR(TEXT_VERSION));
	put_str(out, 't', rc->req->tenant);
	put_count(out, 'x', rc->target.kind);
	put_str(out, 'p', str_of(rc->plan.path));
	buf_str(out, rc->req->world->asked[rc->replica]);
	return put_body(rc, out);
}

/* Lengths first, so that nothing runs into the next. */
void recall_source(const struct recollection *rc, struct buf *out)
{
	const struct req *r = rc->req;
	struct str path = str_of(rc->plan.path), model = r->world->asked[rc->replica];
	uint32_t head[] = { rc->target.kind, rc->plan.passthrough, llm_form_of(r->in.dialect, r->in.op), (uint32_t)r->tenant.n, (uint32_t)path.n, (uint32_t)model.n };

	buf_add(out, head, sizeof(head));
	buf_str(out, r->tenant);
	buf_str(out, path);
	buf_str(out, model);
	if (rc->plan.passthrough)
		buf_add(out, r->in.doc.text, r->in.doc.len);
	for (unsigned i = 0; !rc->plan.passthrough && i < rc->plan.n_parts; i++)
		buf_str(out, rc->plan.parts[i]);
}

bool recall_same_model(const struct world *w, uint16_t replica, uint16_t other)
{
	const struct cat_replica *a = &w->cat.replicas[replica], *b = &w->cat.replicas[other];

	return replica == other || (w->backends[a->backend].kind == w->backends[b->backend].kind && str_eq(w->asked[replica], w->asked[other]));
}

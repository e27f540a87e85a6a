/* listing.c - models and backends, answered from the worker's world in microseconds however many backends are dead.
 *
 * A struct view is one listed model, real or virtual: "auto" is listed like any other, with the union of what its candidates can do
 * (it routes to the one that fits), because clients drop a whole list over one incomplete entry. */
#include <ctype.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/cloud.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/worker.h"

struct view {
	struct str name;
	const struct cat_model *m;    /* NULL: auto */
	uint64_t size;
	uint32_t context, caps, embedding_length;
	char digest[65], modified[40];
	struct str spelled;           /* as the client wrote it */
	const char *family, *parameters, *quantization, *format, *architecture;
	uint64_t parameter_count;
	int64_t created_s;
	const char *provider;         /* in the cloud; NULL = in the house */
};

/* Clients cut digests to 12 characters and fail on shorter ones; what has none gets one made of what identifies it. */
static void digest_of(struct view *v, const char *digest)
{
	struct str d = str_of(digest);

	if (str_starts(d, STR("sha256:")))
		d = str_from(d, 7);
	if (d.n == 64) {
		str_copy(v->digest, sizeof(v->digest), d);
		return;
	}
	for (unsigned i = 0; i < 4; i++)
		snprintf(v->digest + 16 * i, 17, "%016llx", (unsigned long long)str_hash(v->name, i * 1000003 + v->size + v->parameter_count));
}

static void view_model(struct view *v, const struct catalogue *c, uint16_t model)
{
	const struct cat_model *m = &c->models[model];
	const Corral__Provider *cloud = m->n ? cloud_of(c, m->first) : NULL;
	const Corral__Model *pb = m->pb;
	int64_t us;

	*v = (struct view){ .name = m->name, .m = m, .size = pb->size_bytes, .context = m->context, .caps = m->caps,
		.embedding_length = pb->embedding_length, .family = pb->family, .parameters = pb->parameters,
		.quantization = pb->quantization, .format = *pb->format ? pb->format : "gguf",
		.architecture = *pb->architecture ? pb->architecture : *pb->family ? pb->family : "unknown",
		.parameter_count = pb->parameter_count, .provider = cloud ? cloud->name : NULL };
	digest_of(v, pb->digest);
	if (!clock_parse_rfc3339(pb->modified_at, &us))
		us = pb->first_seen_us;
	v->created_s = us / 1000000;
	if (*pb->modified_at && clock_parse_rfc3339(pb->modified_at, &us))
		str_copy(v->modified, sizeof(v->modified), str_of(pb->modified_at));
	else
		clock_rfc3339(pb->first_seen_us, 6, v->modified, sizeof(v->modified));
}

/* What the key and its tenant may see of it. */
static bool lists(const struct req *r, const struct cat_model *m) { return m->n > 0 && authorise_model(&r->who, m->name); }

static void view_auto(struct view *v, const struct req *r)
{
	const struct world *w = r->world;
	int64_t first = w->made_at_us;

	*v = (struct view){ .name = STR("auto"), .family = "auto", .parameters = "", .quantization = "", .format = "gguf", .architecture = "auto",
		.caps = LLM_CAP_COMPLETION };
	for (uint16_t i = 0; i < w->cat.n_models; i++) {
		const struct cat_model *m = &w->cat.models[i];

		if ((m->caps && !(m->caps & LLM_CAP_COMPLETION)) || !authorise_model(&r->who, m->name))
			continue;
		v->caps |= m->caps & ~(uint32_t)LLM_CAP_EMBEDDING;
		if (m->context > v->context)
			v->context = m->context;
		if (m->pb->first_seen_us && m->pb->first_seen_us < first)
			first = m->pb->first_seen_us;
	}
	digest_of(v, "");
	v->created_s = first / 1000000;
	clock_rfc3339(first, 6, v->modified, sizeof(v->modified));
}

static bool available(const struct world *w, const struct cat_model *m)
{
	for (uint16_t i = 0; i < m->n; i++)
		if (w->cat.backends[w->cat.replicas[m->first + i].backend].up)
			return true;
	return false;
}

static void write_caps(struct json_out *jo, uint32_t caps)
{
	jw_key(jo, "capabilities");
	jw_arr(jo);
	for (uint32_t bit = 1; bit && bit <= caps; bit <<= 1)
		if (caps & bit)
			jw_strz(jo, llm_cap_name(bit));
	jw_end(jo);
}

/* --- answers --- */

static enum step answer(struct req *r, int status, void (*write)(struct json_out *, struct req *, const void *), const void *arg)
{
	struct buf b = { 0 };
	struct json_out jo;
	enum step s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	write(&jo, r, arg);
	json_done(&jo);
	s = req_reply_json(r, status, &b);
	buf_free(&b);
	return s;
}

/* --- OpenAI --- */

static void openai_members(struct json_out *jo, const struct view *v)
{
	jw_kv_str(jo, "id", v->name);
	jw_kv_strz(jo, "object", "model");
	jw_kv_i64(jo, "created", v->created_s);
	jw_kv_strz(jo, "owned_by", v->provider ? v->provider : v->m ? "local" : "corral");
	if (v->context)
		jw_kv_u64(jo, "context_length", v->context);
	write_caps(jo, v->caps);
}

static void openai_entry(struct json_out *jo, const struct view *v)
{
	jw_obj(jo);
	openai_members(jo, v);
	jw_end(jo);
}

typedef void entry_fn(struct json_out *, const struct view *);

static void list_all(struct json_out *jo, const struct req *r, entry_fn *entry)
{
	const struct world *w = r->world;
	struct view v;

	jw_arr(jo);
	if (w) {
		view_auto(&v, r);
		entry(jo, &v);
	}
	for (uint16_t i = 0; w && i < w->cat.n_models; i++) {
		if (!lists(r, &w->cat.models[i]))
			continue;
		view_model(&v, &w->cat, i);
		entry(jo, &v);
	}
	jw_end(jo);
}

static void openai_list(struct json_out *jo, struct req *r, const void *arg)
{
	(void)arg;
	jw_kv_strz(jo, "object", "list");
	jw_key(jo, "data");
	list_all(jo, r, openai_entry);
}

/* --- Anthropic, on OpenAI's paths --- */

static void anthropic_members(struct json_out *jo, const struct view *v)
{
	char created[40];

	clock_rfc3339(v->created_s * 1000000, 0, created, sizeof(created));
	jw_kv_strz(jo, "type", "model");
	jw_kv_str(jo, "id", v->name);
	if (v->m && *v->m->pb->display_name)
		jw_kv_strz(jo, "display_name", v->m->pb->display_name);
	else
		jw_kv_str(jo, "display_name", v->name);
	jw_kv_strz(jo, "created_at", created);
	if (v->context)
		jw_kv_u64(jo, "max_input_tokens", v->context);
}

/* All that is listed, in order: 0 is auto. False past the end. */
static bool nth_view(const struct req *r, unsigned n, struct view *v)
{
	const struct world *w = r->world;

	if (n == 0) {
		view_auto(v, r);
		return true;
	}
	for (uint16_t i = 0; i < w->cat.n_models; i++)
		if (lists(r, &w->cat.models[i]) && --n == 0) {
			view_model(v, &w->cat, i);
			return true;
		}
	return false;
}

struct page { unsigned from, to, n; };        /* [from, to) of n */

/* Where 'id' stands, or how many there are when it is not there. */
static unsigned place_of(const struct req *r, struct str id)
{
	const struct world *w = r->world;
	unsigned n = 0;

	if (str_eqz(id, "auto"))
		return 0;
	for (uint16_t i = 0; i < w->cat.n_models; i++) {
		if (!lists(r, &w->cat.models[i]))
			continue;
		n++;
		if (str_eq(w->cat.models[i].name, id))
			return n;
	}
	return n + 1;
}

/* 'limit' from 1 to 1000, behind one model or before one. */
static bool read_page(struct req *r, struct page *p)
{
	struct str q = r->x->head.query, limit = STR(""), after = STR(""), before = STR("");
	uint64_t n = 20;

	http_query_get(q, "limit", r->mem, &limit);
	http_query_get(q, "after_id", r->mem, &after);
	http_query_get(q, "before_id", r->mem, &before);
	if (limit.n && (!str_u64(limit, &n) || n < 1 || n > 1000)) {
		req_fail(r, ERR_INVALID, "limit must be a number from 1 to 1000");
		return false;
	}
	if (!r->world)
		return true;
	p->n = place_of(r, STR(""));
	p->from = after.n ? place_of(r, after) + 1 : 0;
	p->to = before.n ? place_of(r, before) : p->n;
	p->from = p->from > p->to ? p->to : p->from;
	if (before.n && !after.n && p->to - p->from > n)
		p->from = p->to - (unsigned)n;
	if (p->to - p->from > n)
		p->to = p->from + (unsigned)n;
	return true;
}

static void anthropic_list(struct json_out *jo, struct req *r, const void *arg)
{
	const struct page *p = arg;
	struct str first = STR(""), last = STR("");
	struct view v;
	bool before;

	jw_key(jo, "data"), jw_arr(jo);
	for (unsigned i = p->from; i < p->to && nth_view(r, i, &v); i++) {
		jw_obj(jo), anthropic_members(jo, &v), jw_end(jo);
		if (i == p->from)
			first = v.name;
		last = v.name;
	}
	jw_end(jo);
	before = http_query_get(r->x->head.query, "before_id", r->mem, &v.name);
	jw_kv_bool(jo, "has_more", before ? p->from > 0 : p->to < p->n);
	jw_key(jo, "first_id"), first.n ? jw_str(jo, first) : jw_null(jo);
	jw_key(jo, "last_id"), last.n ? jw_str(jo, last) : jw_null(jo);
}

static void anthropic_one(struct json_out *jo, struct req *r, const void *v)
{
	(void)r;
	anthropic_members(jo, v);
}

static bool is_anthropic(const struct req *r) { return req_dialect(r) == LLM_ANTHROPIC; }

static enum step openai_models(struct req *r)
{
	struct page p = { 0 };

	if (!is_anthropic(r))
		return answer(r, 200, openai_list, NULL);
	return read_page(r, &p) ? answer(r, 200, anthropic_list, &p) : STEP_FAIL;
}

static bool is_for(const void *req, struct str model) { return authorise_model(&((const struct req *)req)->who, model); }

/* auto, a model or an alias. False with the request failed. */
static bool find_view(struct req *r, struct str name, struct view *v)
{
	bool alias;
	int m;

	if (r->world && (str_ieq(name, STR("auto")) || str_ieq(name, STR("auto:latest")))) {
		view_auto(v, r);
		v->spelled = name;
		return true;
	}
	m = r->world ? catalogue_resolve(&r->world->cat, name, &alias) : -1;
	if (m < 0 || !authorise_model(&r->who, r->world->cat.models[m].name)) {
		struct why why;

		catalogue_not_found(r->world ? &r->world->cat : NULL, name, is_for, r, &why);
		req_fail_why(r, &why);
		return false;
	}
	view_model(v, &r->world->cat, m);
	v->spelled = alias ? v->name : name;
	return true;
}

/* The rest of the path as a name: clients encode the slash of "org/model". */
struct str param_name(struct req *r)
{
	char *p = arena_dup(r->mem, r->param.p, r->param.n), *to = p;
	struct str rest = str_n(p, r->param.n);

	for (; rest.n; to++) {
		bool slash = str_starts(rest, STR("%2F"));

		*to = slash ? '/' : *rest.p;
		rest = str_from(rest, slash ? 3 : 1);
	}
	return str_n(p, (size_t)(to - p));
}

static void openai_one(struct json_out *jo, struct req *r, const void *v)
{
	(void)r;
	openai_members(jo, v);
}

static enum step openai_model(struct req *r)
{
	struct view v;

	return find_view(r, param_name(r), &v) ? answer(r, 200, is_anthropic(r) ? anthropic_one : openai_one, &v) : STEP_FAIL;
}

/* --- Ollama --- */

static void details(struct json_out *jo, const struct view *v, bool lengths)
{
	jw_key(jo, "details");
	jw_obj(jo);
	jw_kv_strz(jo, "parent_model", "");
	jw_kv_strz(jo, "format", v->format);
	jw_kv_strz(jo, "family", v->family);
	jw_key(jo, "families");
	jw_arr(jo);
	jw_strz(jo, v->family);
	jw_end(jo);
	jw_kv_strz(jo, "parameter_size", v->parameters);
	jw_kv_strz(jo, "quantization_level", v->quantization);
	if (lengths && v->context)
		jw_kv_u64(jo, "context_length", v->context);
	if (lengths && v->embedding_length)
		jw_kv_u64(jo, "embedding_length", v->embedding_length);
	jw_end(jo);
}

static void tag_members(struct json_out *jo, const struct view *v)
{
	jw_kv_str(jo, "name", v->name);
	jw_kv_str(jo, "model", v->name);
	jw_kv_strz(jo, "modified_at", v->modified);
	jw_kv_u64(jo, "size", v->size);
	jw_kv_strz(jo, "digest", v->digest);
	details(jo, v, true);
	write_caps(jo, v->caps);
}

static void tag_entry(struct json_out *jo, const struct view *v)
{
	jw_obj(jo);
	tag_members(jo, v);
	jw_end(jo);
}

static void tag_list(struct json_out *jo, struct req *r, const void *arg)
{
	(void)arg;
	jw_key(jo, "models");
	list_all(jo, r, tag_entry);
}

static enum step ollama_tags(struct req *r) { return answer(r, 200, tag_list, NULL); }

static void ps_entry(struct json_out *jo, const struct world *w, const struct cat_replica *c)
{
	struct view v;
	char expires[40] = "2318-01-01T00:00:00Z";    /* never: a date that is far away and parses */

	view_model(&v, &w->cat, c->model);
	if (c->pb->expires_at_us)
		clock_rfc3339(c->pb->expires_at_us, 6, expires, sizeof(expires));
	jw_obj(jo);
	jw_kv_str(jo, "name", v.name);
	jw_kv_str(jo, "model", v.name);
	jw_kv_u64(jo, "size", c->pb->size_loaded_bytes ? c->pb->size_loaded_bytes : v.size);
	jw_kv_strz(jo, "digest", v.digest);
	details(jo, &v, false);
	jw_kv_strz(jo, "expires_at", expires);
	jw_kv_u64(jo, "size_vram", c->pb->size_vram_bytes);
	jw_kv_u64(jo, "context_length", c->context);
	jw_end(jo);
}

static void ps_list(struct json_out *jo, struct req *r, const void *arg)
{
	(void)arg;
	jw_key(jo, "models");
	jw_arr(jo);
	for (uint16_t i = 0; r->world && i < r->world->cat.n_replicas; i++)
		if (r->world->cat.replicas[i].pb->loaded && lists(r, &r->world->cat.models[r->world->cat.replicas[i].model]))
			ps_entry(jo, r->world, &r->world->cat.replicas[i]);
	jw_end(jo);
}

static enum step ollama_ps(struct req *r) { return answer(r, 200, ps_list, NULL); }

/* "qwen2.5-coder" of "org/qwen2.5-coder:7b" and of "qwen2.5-coder.gguf": the name without who, size and file. */
static struct str basename_of(struct str name)
{
	for (size_t i = 0; i < name.n; i++)
		if (name.p[i] == '/')
			return basename_of(str_from(name, i + 1));
	for (size_t i = name.n; i > 0; i--)
		if (name.p[i - 1] == ':')
			name.n = i - 1;
	return str_ends(name, STR(".gguf")) ? str_n(name.p, name.n - 5) : name;
}

/* What the registry knows, under the names of a GGUF file's metadata, where Ollama has them from. What it does not know is not there. */
static void model_info(struct json_out *jo, const struct view *v, struct req *r)
{
	uint32_t own = v->m && v->m->pb->context_length ? v->m->pb->context_length : v->context;

	jw_key(jo, "model_info");
	jw_obj(jo);
	jw_kv_strz(jo, "general.architecture", v->architecture);
	jw_kv_str(jo, "general.basename", basename_of(v->name));
	if (v->parameter_count)
		jw_kv_u64(jo, "general.parameter_count", v->parameter_count);
	if (own) {
		jw_key_str(jo, arena_fmt(r->mem, "%s.context_length", v->architecture));
		jw_u64(jo, own);
	}
	if (v->embedding_length) {
		jw_key_str(jo, arena_fmt(r->mem, "%s.embedding_length", v->architecture));
		jw_u64(jo, v->embedding_length);
	}
	if (*v->parameters)
		jw_kv_strz(jo, "general.size_label", v->parameters);
	jw_end(jo);
}

/* Some clients look for ".Tools" and ".Suffix" in the template to learn what a model can; where the backend did not show its
 * template the words stand in a comment of one. */
static struct str template_of(const struct view *v, struct req *r)
{
	const char *told = v->m ? catalogue_template(&r->world->cat, v->m) : "";

	if (*told)
		return str_of(told);
	return arena_fmt(r->mem, "{{ .Prompt }}%s%s", v->caps & LLM_CAP_TOOLS ? "{{/* .Tools tools */}}" : "",
			 v->caps & LLM_CAP_INSERT ? "{{/* .Suffix */}}" : "");
}

static void show_one(struct json_out *jo, struct req *r, const void *arg)
{
	const struct view *v = arg;

	jw_kv_str(jo, "modelfile", arena_fmt(r->mem, "# served by corral\nFROM " STR_FMT "\n", STR_ARG(v->spelled)));
	jw_kv_str(jo, "parameters", v->context ? arena_fmt(r->mem, "num_ctx                        %u", v->context) : STR(""));
	jw_kv_str(jo, "template", template_of(v, r));
	details(jo, v, false);
	model_info(jo, v, r);
	write_caps(jo, v->caps);
	jw_kv_strz(jo, "modified_at", v->modified);
}

static enum step ollama_show(struct req *r)
{
	struct json doc;
	struct why why = { 0 };
	struct str name = STR("");
	struct view v;

	if (json_parse(&doc, r->mem, r->x->body, &json_limits_default, &why) != ERR_OK)
		return req_fail_why(r, &why);
	if (!json_opt_str(&doc, 0, "model", &name, r->mem, &why) || (!name.n && !json_opt_str(&doc, 0, "name", &name, r->mem, &why)))
		return req_fail_why(r, &why);
	if (!name.n)
		return req_fail(r, ERR_MALFORMED, "model is required");
	return find_view(r, name, &v) ? answer(r, 200, show_one, &v) : STEP_FAIL;
}

static enum step alive(struct req *r) { return req_reply(r, 200, "text/plain; charset=utf-8", STR("Ollama is running")); }

static enum step version(struct req *r)
{
	struct str body = arena_fmt(r->mem, "{\"version\":\"%s\"}", r->worker->gw->cfg->ollama_version);

	return req_reply(r, 200, "application/json; charset=utf-8", body);
}

/* --- native --- */

static void replica_names(struct json_out *jo, const char *key, const struct world *w, const struct cat_model *m, bool loaded_only)
{
	jw_key(jo, key);
	jw_arr(jo);
	for (uint16_t i = 0; m && i < m->n; i++)
		if (!loaded_only || w->cat.replicas[m->first + i].pb->loaded)
			jw_str(jo, w->cat.backends[w->cat.replicas[m->first + i].backend].name);
	jw_end(jo);
}

/* Weighted over replicas by samples. */
static void measured(struct json_out *jo, const struct world *w, const struct cat_model *m)
{
	double tps = 0, ttft = 0, ok = 0, n = 0;

	for (uint16_t i = 0; m && i < m->n; i++) {
		const Corral__Speed *s = w->pol.speeds[m->first + i];

		if (!s || !s->samples)
			continue;
		n += (double)s->samples;
		tps += s->tokens_per_s * (double)s->samples;
		ttft += s->ttft_ms * (double)s->samples;
		ok += s->success_rate * (double)s->samples;
	}
	jw_key(jo, "success_rate"), n > 0 ? jw_double(jo, ok / n) : jw_null(jo);
	jw_key(jo, "tokens_per_s"), n > 0 ? jw_double(jo, tps / n) : jw_null(jo);
	jw_key(jo, "ttft_ms"), n > 0 ? jw_double(jo, ttft / n) : jw_null(jo);
}

static void native_members(struct json_out *jo, const struct world *w, const struct view *v)
{
	const Corral__Model *pb = v->m ? v->m->pb : NULL;

	jw_kv_strz(jo, "display_name", pb && *pb->display_name ? pb->display_name : v->m ? pb->name : "auto (the best local model for each request)");
	jw_kv_strz(jo, "family", v->family);
	jw_kv_strz(jo, "parameters", v->parameters);
	jw_kv_u64(jo, "parameter_count", v->parameter_count);
	jw_kv_strz(jo, "quantization", v->quantization);
	jw_kv_u64(jo, "context_length", v->context);
	jw_kv_u64(jo, "size_bytes", v->size);
	jw_kv_bool(jo, "is_available", v->m ? available(w, v->m) : w->cat.n_models > 0);
	replica_names(jo, "loaded_on", w, v->m, true);
	replica_names(jo, "backends", w, v->m, false);
	jw_kv_bool(jo, "protected", pb && pb->is_protected);
	jw_kv_bool(jo, "pinned", pb && pb->pinned);
	time_json(jo, "first_seen", pb ? pb->first_seen_us : 0);
	time_json(jo, "last_synced_at", pb ? pb->last_synced_us : w->made_at_us);
	measured(jo, w, v->m);
}

struct filter { struct str available, backend, family, capability; };

static struct filter read_filter(struct req *r)
{
	struct filter f = { 0 };
	struct str q = r->x->head.query;

	http_query_get(q, "available", r->mem, &f.available);
	http_query_get(q, "backend", r->mem, &f.backend);
	http_query_get(q, "family", r->mem, &f.family);
	http_query_get(q, "capability", r->mem, &f.capability);
	return f;
}

static bool passes(const struct filter *f, const struct req *r, const struct cat_model *m)
{
	const struct world *w = r->world;
	bool on = !f->backend.n;

	for (uint16_t i = 0; i < m->n; i++)
		on |= str_eq(w->cat.backends[w->cat.replicas[m->first + i].backend].name, f->backend);
	return lists(r, m) && on && (!f->family.n || str_ieq(str_of(m->pb->family), f->family)) &&
	       (!f->capability.n || (m->caps & llm_cap_parse(f->capability))) &&
	       (!f->available.n || available(w, m) == (str_eqz(f->available, "true") || str_eqz(f->available, "1")));
}

static void both_lists(struct json_out *jo, const struct req *r, const struct filter *f, bool openai)
{
	const struct world *w = r->world;
	bool filtered = f->available.n || f->backend.n || f->family.n || f->capability.n;
	struct view v;

	jw_arr(jo);
	for (int i = filtered ? 0 : -1; w && i < w->cat.n_models; i++) {
		if (i >= 0 && !passes(f, r, &w->cat.models[i]))
			continue;
		if (i < 0)
			view_auto(&v, r);
		else
			view_model(&v, &w->cat, i);
		jw_obj(jo);
		if (openai) {
			openai_members(jo, &v);
		} else {
			tag_members(jo, &v);
			native_members(jo, w, &v);
		}
		jw_end(jo);
	}
	jw_end(jo);
}

static void superset(struct json_out *jo, struct req *r, const void *arg)
{
	struct filter f = read_filter(r);

	(void)arg;
	jw_kv_strz(jo, "object", "list");
	jw_key(jo, "data");
	both_lists(jo, r, &f, true);
	jw_key(jo, "models");
	both_lists(jo, r, &f, false);
}

static enum step models(struct req *r)
{
	struct str a = read_filter(r).available;
	struct why why;

	if (!a.n || str_eqz(a, "true") || str_eqz(a, "1") || str_eqz(a, "false") || str_eqz(a, "0"))
		return answer(r, 200, superset, NULL);
	err_field(&why, ERR_INVALID, "available", "available is true or false, not '%.*s'", (int)(a.n < 40 ? a.n : 40), a.p);
	return req_fail_why(r, &why);
}

static void native_one(struct json_out *jo, struct req *r, const void *arg)
{
	const struct view *v = arg;

	jw_kv_str(jo, "id", v->name);
	jw_kv_strz(jo, "object", "model");
	tag_members(jo, v);
	native_members(jo, r->world, v);
}

static enum step model(struct req *r)
{
	struct view v;

	return find_view(r, param_name(r), &v) ? answer(r, 200, native_one, &v) : STEP_FAIL;
}

static const char *state_name(const Corral__Backend *b)
{
	static const char *const names[] = { "unknown", "up", "down", "loading" };

	return b->state <= 3 ? names[b->state] : "unknown";
}

static void backend_load(struct json_out *jo, const struct req *r, uint16_t b)
{
	const struct world *w = r->world;
	uint32_t in_use = 0, slots = 0;

	jw_key(jo, "models");
	jw_arr(jo);
	for (uint16_t i = 0; i < w->cat.n_replicas; i++) {
		const struct cat_replica *c = &w->cat.replicas[i];

		if (c->backend != b)
			continue;
		in_use += atomic_load(&w->states[i]->in_use);
		slots += c->slots;
		if (!authorise_model(&r->who, w->cat.models[c->model].name))
			continue;
		jw_obj(jo);
		jw_kv_str(jo, "name", w->cat.models[c->model].name);
		jw_kv_bool(jo, "loaded", c->pb->loaded);
		jw_kv_u64(jo, "slots", c->slots);
		jw_kv_u64(jo, "in_use", atomic_load(&w->states[i]->in_use));
		jw_kv_u64(jo, "queued", atomic_load(&w->states[i]->queue->n));
		jw_kv_strz(jo, "breaker", breaker_state_name(breaker_state(&w->states[i]->breaker, mono_us())));
		jw_end(jo);
	}
	jw_end(jo);
	jw_kv_u64(jo, "slots", slots);
	jw_kv_u64(jo, "in_use", in_use);
}

static void backend_entry(struct json_out *jo, const struct req *r, uint16_t i, bool full)
{
	const struct world *w = r->world;
	const Corral__Backend *b = w->cat.backends[i].pb;

	jw_obj(jo);
	jw_kv_strz(jo, "name", b->name);
	if (full) {
		jw_kv_strz(jo, "kind", b->kind);
		jw_kv_strz(jo, "url", b->url);
	}
	jw_kv_strz(jo, "state", state_name(b));
	jw_kv_strz(jo, "reason", *b->reason ? b->reason : NULL);
	if (full) {
		jw_kv_strz(jo, "version", *b->version ? b->version : NULL);
		time_json(jo, "checked_at", b->checked_at_us);
		backend_load(jo, r, i);
	}
	jw_end(jo);
}

static void backend_list(struct json_out *jo, const struct req *r, bool full)
{
	const struct world *w = r->world;

	jw_key(jo, "backends");
	jw_arr(jo);
	for (uint16_t i = 0; w && i < w->cat.n_backends; i++)
		backend_entry(jo, r, i, full);
	jw_end(jo);
}

static void backends_full(struct json_out *jo, struct req *r, const void *arg)
{
	(void)arg;
	backend_list(jo, r, true);
}

static enum step backends(struct req *r) { return answer(r, 200, backends_full, NULL); }

static const char *health_word(const struct world *w)
{
	unsigned up = 0;

	for (uint16_t i = 0; w && i < w->cat.n_backends; i++)
		up += w->cat.backends[i].up;
	if (!w || up == 0 || w->cat.n_models == 0)
		return "unavailable";
	return up == w->cat.n_backends ? "ok" : "degraded";
}

static void health_of(struct json_out *jo, struct req *r, const void *word)
{
	jw_kv_strz(jo, "status", word);
	backend_list(jo, r, false);
	jw_kv_u64(jo, "models", r->world ? r->world->cat.n_models : 0);
	jw_key(jo, "cloud");
	jw_arr(jo);
	jw_end(jo);
	jw_kv_strz(jo, "version", CORRAL_VERSION);
}

static enum step health(struct req *r)
{
	const char *word = health_word(r->world);

	return answer(r, word[0] == 'u' ? 503 : 200, health_of, word);
}

const struct stage stage_alive = { "alive", alive }, stage_version = { "version", version },
	stage_openai_models = { "openai_models", openai_models }, stage_openai_model = { "openai_model", openai_model },
	stage_ollama_tags = { "ollama_tags", ollama_tags }, stage_ollama_ps = { "ollama_ps", ollama_ps },
	stage_ollama_show = { "ollama_show", ollama_show }, stage_models = { "models", models }, stage_model = { "model", model },
	stage_backends = { "backends", backends }, stage_health = { "health", health };

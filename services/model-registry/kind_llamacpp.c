/* kind_llamacpp.c - asks a llama-server: /health, /props, /v1/models; in router mode /models and the props of what is loaded.
 *
 * One process serves one model unless it is a router, whose /props says so. All slots of a process are shared by its model. */
#include "common/base/buf.h"
#include "common/policy/caps.h"
#include "services/model-registry/visit.h"

static void start(struct visit *);
static void on_health(struct visit *, const struct answer *);
static void on_props(struct visit *, const struct answer *);
static void on_models(struct visit *, const struct answer *);
static void on_embeddings(struct visit *, const struct answer *);
static void on_router_models(struct visit *, const struct answer *);
static void ask_next_props(struct visit *);
static void on_model_props(struct visit *, const struct answer *);
static void read_props(const struct json *, struct found *, struct arena *mem);

const struct kind kind_llamacpp = { .name = "llamacpp", .start = start };

static void start(struct visit *visit)
{
	visit_ask(visit, "GET", STR("/health"), STR(""), visit->timeout_ms, on_health);
}

static void on_health(struct visit *visit, const struct answer *answer)
{
	if (answer->status == 503) {
		(void)snprintf(visit->text, sizeof visit->text, "it is loading its model");
		visit_done(visit, VISIT_LOADING);
		return;
	}
	if (!visit_need(visit, answer))
		return;
	visit_ask(visit, "GET", STR("/props"), STR(""), visit->timeout_ms, on_props);
}

static bool is_router(const struct json *json)
{
	uint32_t role = json_get(json, 0, "role");

	return role && json_string_eq(json, role, "router");
}

static void look_at_props(struct visit *visit, const struct json *json)
{
	struct found *only = visit->held && visit->held->n == 1 ? &visit->held->models[0] : NULL;
	uint32_t alias = json_get(json, 0, "model_alias");

	/* It may have been started again with another model since. */
	if (only && alias && !json_string_eq(json, alias, only->remote_name))
		only = NULL;
	if (only)
		only->loaded = !read_bool(json, 0, "is_sleeping");
	visit_done(visit, only ? VISIT_GOOD : VISIT_CHANGED);
}

/* The only model's props wait in the first entry until /v1/models gives it a name. */
static void on_props(struct visit *visit, const struct answer *answer)
{
	struct arena *mem;

	if (!visit_need(visit, answer))
		return;
	if (is_router(answer->json)) {
		visit_ask(visit, "GET", STR("/models"), STR(""), visit->timeout_ms, on_router_models);
		return;
	}
	if (visit->task == VISIT_LOOK) {
		look_at_props(visit, answer->json);
		return;
	}
	mem = visit->found->mem;
	visit->found->version = read_str(answer->json, 0, "build_info", mem);
	visit->found->slots = read_u32(answer->json, 0, "total_slots");
	visit->found->exclusive = true;
	read_props(answer->json, listing_add(visit->found, STR("")), mem);
	visit->found->models[0].loaded = !read_bool(answer->json, 0, "is_sleeping");
	visit_ask(visit, "GET", STR("/v1/models"), STR(""), visit->timeout_ms, on_models);
}

static void read_props(const struct json *json, struct found *found, struct arena *mem)
{
	uint32_t settings = json_get(json, 0, "default_generation_settings"), modalities = json_get(json, 0, "modalities");
	uint32_t caps = json_get(json, 0, "chat_template_caps");

	found->slots = read_u32(json, 0, "total_slots");
	found->template_text = read_str(json, 0, "chat_template", mem);
	if (settings)
		found->context_in_force = read_u32(json, settings, "n_ctx");
	if (modalities && read_bool(json, modalities, "vision"))
		found->caps |= LLM_CAP_VISION;
	if (modalities && read_bool(json, modalities, "audio"))
		found->caps |= LLM_CAP_AUDIO;
	if (caps && (read_bool(json, caps, "supports_tools") || read_bool(json, caps, "supports_tool_calls")))
		found->caps |= LLM_CAP_TOOLS;
	if (caps && read_bool(json, caps, "supports_preserve_reasoning"))
		found->caps |= LLM_CAP_THINKING;
}

/* "models/tiny.gguf", which it reports when it was given no alias, is listed as "tiny". */
static const char *short_name(struct str id, struct arena *mem)
{
	struct str name = id;

	if (!str_ends(name, STR(".gguf")))
		return arena_str(mem, id).p;
	for (size_t i = name.n; i > 0; i--)
		if (name.p[i - 1] == '/') {
			name = str_from(name, i);
			break;
		}
	name.n -= sizeof ".gguf" - 1;
	return arena_str(mem, name.n ? name : id).p;
}

/* "Q4_K - Medium", "all F32" -> "Q4_K_M", "F32": as others write it. */
static const char *quantization(const char *ftype, struct arena *mem)
{
	struct str s = str_of(ftype), rest = s, head;

	if (str_starts(s, STR("all ")))
		return arena_str(mem, str_from(s, 4)).p;
	if (!str_find(s, STR(" - ")))
		return ftype;
	(void)str_split(&rest, ' ', &head);
	return arena_printf(mem, STR_FMT "_%c", STR_ARG(head), rest.n > 2 ? rest.p[2] : '?');
}

static void read_meta(const struct json *json, uint32_t meta, struct found *found, struct arena *mem)
{
	if (!meta || json_kind(json, meta) != JSON_OBJECT)
		return;
	found->context_length = read_u32(json, meta, "n_ctx_train");
	found->embedding_length = read_u32(json, meta, "n_embd");
	found->parameter_count = read_u64(json, meta, "n_params");
	found->parameters = parameters_text(mem, found->parameter_count);
	found->size_bytes = read_u64(json, meta, "size");
	found->quantization = quantization(read_str(json, meta, "ftype", mem), mem);
	found->format = "gguf";
}

static uint32_t data_of(struct visit *visit, const struct answer *answer)
{
	uint32_t data = json_get(answer->json, 0, "data");

	if (data && json_kind(answer->json, data) == JSON_ARRAY)
		return data;
	visit_fail(visit, "malformed", "the list of models has no 'data'");
	return 0;
}

static void on_models(struct visit *visit, const struct answer *answer)
{
	struct arena *mem = visit->found->mem;
	struct found *found = &visit->found->models[0];
	uint32_t data, first;

	if (!visit_need(visit, answer) || (data = data_of(visit, answer)) == 0)
		return;
	first = json_first(answer->json, data);
	if (!first || !listing_wants(NULL, str_of(read_str(answer->json, first, "id", mem)))) {
		visit_fail(visit, "malformed", "the server lists no model");
		return;
	}
	found->remote_name = read_str(answer->json, first, "id", mem);
	found->name = short_name(str_of(found->remote_name), mem);
	found->caps |= LLM_CAP_COMPLETION;
	found->detailed = true;
	read_meta(answer->json, json_get(answer->json, first, "meta"), found, mem);
	visit_ask(visit, "POST", STR("/v1/embeddings"), STR("{}"), visit->timeout_ms, on_embeddings);
}

/* Nothing it lists says whether it was started for embeddings. A server that was complains of the missing input; one that was not
 * says 501 before it looks, and so it costs neither anything. It could chat then too, badly. */
static void on_embeddings(struct visit *visit, const struct answer *answer)
{
	struct found *found = &visit->found->models[0];
	const struct found *before = listing_find(visit->held, str_of(found->remote_name));

	if (answer->status == 400 || (answer->status == 0 && before && before->caps == LLM_CAP_EMBEDDING))
		found->caps = LLM_CAP_EMBEDDING;
	visit_done(visit, VISIT_GOOD);
}

/* --- router --- */

/* The number after a flag in the arguments of a child process; 0 when it is not there. */
static uint32_t child_argument(const struct json *json, uint32_t status, const char *flag, struct arena *mem)
{
	uint32_t args = json_get(json, status, "args");
	bool next = false;
	uint64_t n;

	if (!args || json_kind(json, args) != JSON_ARRAY)
		return 0;
	for (uint32_t i = json_first(json, args); i; i = json_next(json, args, i)) {
		if (next)
			return str_u64(json_string(json, i, mem), &n) && n <= UINT32_MAX ? (uint32_t)n : 0;
		next = json_string_eq(json, i, flag);
	}
	return 0;
}

static void read_router_model(struct visit *visit, const struct json *json, uint32_t entry, struct arena *scratch)
{
	struct str id = str_of(read_str(json, entry, "id", scratch));
	uint32_t status = json_get(json, entry, "status"), architecture = json_get(json, entry, "architecture");
	uint32_t modes = architecture ? json_get(json, architecture, "input_modalities") : 0;
	struct found *found;

	if (!listing_wants(visit->found, id))
		return;
	found = listing_add(visit->found, id);
	found->name = short_name(id, visit->found->mem);
	found->context_length = read_u32(json, entry, "context_length");
	found->caps = LLM_CAP_COMPLETION;
	found->format = "gguf";
	if (modes && json_kind(json, modes) == JSON_ARRAY)
		for (uint32_t i = json_first(json, modes); i; i = json_next(json, modes, i))
			found->caps |= json_string_eq(json, i, "image") ? LLM_CAP_VISION : 0;
	if (!status)
		return;
	found->loaded = !strcmp(read_str(json, status, "value", scratch), "loaded");
	found->slots = child_argument(json, status, "--parallel", scratch);
	if (found->slots)
		found->context_in_force = child_argument(json, status, "--ctx-size", scratch) / found->slots;
}

/* True when the held models are these; their residency is brought up to date on the way. */
static bool look_at_router(struct listing *held, const struct json *json, uint32_t data, struct arena *scratch)
{
	size_t n = 0;

	for (uint32_t i = json_first(json, data); i; i = json_next(json, data, i), n++) {
		struct found *found = listing_find(held, str_of(read_str(json, i, "id", scratch)));
		uint32_t status = json_get(json, i, "status");
		bool loaded = status && !strcmp(read_str(json, status, "value", scratch), "loaded");

		/* One that was loaded now has props worth reading. */
		if (!found || found->missed || (loaded && !found->detailed))
			return false;
		found->loaded = loaded;
	}
	return n == listing_present(held);
}

static void on_router_models(struct visit *visit, const struct answer *answer)
{
	uint32_t data;

	if (!visit_need(visit, answer) || (data = data_of(visit, answer)) == 0)
		return;
	if (visit->task == VISIT_LOOK) {
		visit_done(visit, look_at_router(visit->held, answer->json, data, answer->mem) ? VISIT_GOOD : VISIT_CHANGED);
		return;
	}
	visit->found->router = true;
	for (uint32_t i = json_first(answer->json, data); i; i = json_next(answer->json, data, i))
		read_router_model(visit, answer->json, i, answer->mem);
	ask_next_props(visit);
}

static void percent_encode(struct buf *out, struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-._~", c))
			buf_char(out, (char)c);
		else
			buf_printf(out, "%%%02X", c);
	}
}

static void reuse_props(struct found *found, const struct found *before, struct arena *mem)
{
	if (!before || !before->detailed)
		return;
	found->template_text = arena_str(mem, str_of(before->template_text)).p;
	found->caps |= before->caps;
	if (before->slots)
		found->slots = before->slots;
	if (before->context_in_force)
		found->context_in_force = before->context_in_force;
	found->detailed = true;
}

/* Only of what is loaded: a question about another would load it. */
static void ask_next_props(struct visit *visit)
{
	struct listing *listing = visit->found;
	struct buf path = { 0 };

	for (; visit->at < listing->n; visit->at++) {
		struct found *found = &listing->models[visit->at];

		if (found->loaded && !visit->quiet)
			break;
		reuse_props(found, listing_find(visit->held, str_of(found->remote_name)), listing->mem);
	}
	if (visit->at == listing->n) {
		visit_done(visit, VISIT_GOOD);
		return;
	}
	buf_addz(&path, "/props?autoload=false&model=");
	percent_encode(&path, str_of(listing->models[visit->at].remote_name));
	visit_ask(visit, "GET", buf_as_str(&path), STR(""), visit->timeout_ms, on_model_props);
	buf_free(&path);
}

static void on_model_props(struct visit *visit, const struct answer *answer)
{
	struct found *found = &visit->found->models[visit->at];

	if (answer->status == 200 && answer->json) {
		read_props(answer->json, found, visit->found->mem);
		found->detailed = true;
	} else if (answer->status == 0) {
		visit->quiet = true;
	}
	visit->at++;
	ask_next_props(visit);
}

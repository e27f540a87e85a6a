/* kind_ollama.c - asks an Ollama server: /api/version, /api/tags, /api/show once for each digest, /api/ps.
 *
 * /api/ps is never taken for a sign of life: it blocks for many seconds while an engine hangs, when everything else answers. */
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/caps.h"
#include "services/model-registry/visit.h"

enum { PS_MS = 1500 };

static void start(struct visit *);
static void on_version(struct visit *, const struct answer *);
static void on_tags(struct visit *, const struct answer *);
static void ask_shows(struct visit *);
static void on_show(struct visit *, const struct answer *);
static void on_ps(struct visit *, const struct answer *);

const struct kind kind_ollama = { .name = "ollama", .start = start };

static void start(struct visit *visit)
{
	visit_ask(visit, "GET", STR("/api/version"), STR(""), visit->timeout_ms, on_version);
}

static void on_version(struct visit *visit, const struct answer *answer)
{
	if (!visit_need(visit, answer))
		return;
	if (visit->task == VISIT_LOOK) {
		visit_ask(visit, "GET", STR("/api/ps"), STR(""), PS_MS, on_ps);
		return;
	}
	visit->found->version = read_str(answer->json, 0, "version", visit->found->mem);
	visit_ask(visit, "GET", STR("/api/tags"), STR(""), visit->timeout_ms, on_tags);
}

static uint32_t read_caps(const struct json *json, uint32_t list, struct arena *mem)
{
	uint32_t caps = 0;

	if (list)
		for (uint32_t i = json_first(json, list); i; i = json_next(json, list, i))
			caps |= llm_cap_parse(json_string(json, i, mem));
	return caps;
}

static void read_details(const struct json *json, uint32_t details, struct found *found, struct arena *mem)
{
	if (!details)
		return;
	found->format = read_str(json, details, "format", mem);
	found->family = read_str(json, details, "family", mem);
	found->parameters = read_str(json, details, "parameter_size", mem);
	found->quantization = read_str(json, details, "quantization_level", mem);
	found->parameter_count = parameters_count(str_of(found->parameters));
	found->context_length = read_u32(json, details, "context_length");
	found->embedding_length = read_u32(json, details, "embedding_length");
}

/* What /api/show told about the same bytes before need not be asked again. */
static void reuse_details(struct found *found, const struct found *before, struct arena *mem)
{
	if (!before || !before->detailed || !found->digest[0] || strcmp(before->digest, found->digest) != 0)
		return;
	found->template_text = arena_str(mem, str_of(before->template_text)).p;
	found->architecture = arena_str(mem, str_of(before->architecture)).p;
	found->parameter_count = before->parameter_count;
	if (!found->context_length)
		found->context_length = before->context_length;
	if (!found->embedding_length)
		found->embedding_length = before->embedding_length;
	if (!found->caps)
		found->caps = before->caps;
	found->detailed = true;
}

static void keep_residency(struct found *found, const struct found *before)
{
	if (!before)
		return;
	found->loaded = before->loaded;
	found->size_loaded_bytes = before->size_loaded_bytes;
	found->size_vram_bytes = before->size_vram_bytes;
	found->expires_at_us = before->expires_at_us;
	found->context_in_force = before->context_in_force;
}

static void read_tag(struct visit *visit, const struct json *json, uint32_t tag, struct arena *scratch)
{
	struct arena *mem = visit->found->mem;
	uint32_t name = json_get(json, tag, "name");
	struct str text;
	struct found *found;
	const struct found *before;

	if (!name || !json_is_string(json, name))
		name = json_get(json, tag, "model");
	text = name ? json_string(json, name, scratch) : STR("");
	if (model_is_cloud(text) || read_str(json, tag, "remote_host", scratch)[0] || !listing_wants(visit->found, text))
		return;
	found = listing_add(visit->found, text);
	found->digest = read_str(json, tag, "digest", mem);
	found->modified_at = read_str(json, tag, "modified_at", mem);
	found->size_bytes = read_u64(json, tag, "size");
	read_details(json, json_get(json, tag, "details"), found, mem);
	found->caps = read_caps(json, json_get(json, tag, "capabilities"), scratch);
	before = listing_find(visit->held, text);
	reuse_details(found, before, mem);
	keep_residency(found, before);
}

static void on_tags(struct visit *visit, const struct answer *answer)
{
	const struct json *json = answer->json;
	uint32_t models;

	if (!visit_need(visit, answer))
		return;
	models = json_get(json, 0, "models");
	if (!models || (json_kind(json, models) != JSON_ARRAY && json_kind(json, models) != JSON_NULL)) {
		visit_fail(visit, "malformed", "/api/tags has no list of models");
		return;
	}
	for (uint32_t i = json_first(json, models); i; i = json_next(json, models, i))
		read_tag(visit, json, i, answer->mem);
	ask_shows(visit);
}

static void ask_show(struct visit *visit, size_t at)
{
	struct buf body = { 0 };
	struct json_out out;

	json_begin(&out, &body);
	jw_obj(&out);
	jw_kv_strz(&out, "model", visit->found->models[at].remote_name);
	jw_end(&out);
	visit->open++;
	visit_ask_beside(visit, at, "POST", STR("/api/show"), buf_as_str(&body), visit->timeout_ms, on_show);
	buf_free(&body);
}

/* A server of a hundred models is asked a few things at a time. */
static void ask_shows(struct visit *visit)
{
	for (; visit->at < visit->found->n && visit->open < VISIT_AT_ONCE; visit->at++)
		if (!visit->quiet && !visit->found->models[visit->at].detailed)
			ask_show(visit, visit->at);
	if (visit->at == visit->found->n && !visit->open)
		visit_ask(visit, "GET", STR("/api/ps"), STR(""), PS_MS, on_ps);
}

static uint32_t of_architecture(const struct json *json, uint32_t info, const char *architecture, const char *what, struct arena *mem)
{
	return read_u32(json, info, arena_printf(mem, "%s.%s", architecture, what));
}

static void read_show(const struct answer *answer, struct found *found, struct arena *mem)
{
	const struct json *json = answer->json;
	uint32_t info = json_get(json, 0, "model_info"), caps = read_caps(json, json_get(json, 0, "capabilities"), answer->mem), n;

	found->template_text = read_str(json, 0, "template", mem);
	if (caps)
		found->caps = caps;
	if (info) {
		found->architecture = read_str(json, info, "general.architecture", mem);
		if (read_u64(json, info, "general.parameter_count"))
			found->parameter_count = read_u64(json, info, "general.parameter_count");
		if ((n = of_architecture(json, info, found->architecture, "context_length", answer->mem)) != 0)
			found->context_length = n;
		if ((n = of_architecture(json, info, found->architecture, "embedding_length", answer->mem)) != 0)
			found->embedding_length = n;
	}
	found->detailed = true;
}

/* One that cannot be shown stays in the list with the traits that /api/tags gave. */
static void on_show(struct visit *visit, const struct answer *answer)
{
	if (answer->status == 200 && answer->json && json_kind(answer->json, 0) == JSON_OBJECT)
		read_show(answer, &visit->found->models[answer->about], visit->found->mem);
	else if (answer->status == 0)
		visit->quiet = true;      /* do not wait as long for each of the others */
	visit->open--;
	ask_shows(visit);
}

static void read_resident(struct listing *listing, const struct json *json, uint32_t entry, struct arena *mem)
{
	struct found *found = listing_find(listing, str_of(read_str(json, entry, "name", mem)));

	if (!found)
		return;
	found->loaded = true;
	found->size_loaded_bytes = read_u64(json, entry, "size");
	found->size_vram_bytes = read_u64(json, entry, "size_vram");
	found->context_in_force = read_u32(json, entry, "context_length");
	found->expires_at_us = 0;
	(void)clock_parse_rfc3339(read_str(json, entry, "expires_at", mem), &found->expires_at_us);
}

/* No answer changes nothing: what was in memory before is the best guess. */
static void on_ps(struct visit *visit, const struct answer *answer)
{
	struct listing *listing = visit->task == VISIT_LIST ? visit->found : visit->held;
	uint32_t models = answer->status == 200 && answer->json ? json_get(answer->json, 0, "models") : 0;

	visit->untold = !models;
	if (models && listing) {
		for (size_t i = 0; i < listing->n; i++) {
			listing->models[i].loaded = false;
			listing->models[i].size_loaded_bytes = 0;
			listing->models[i].size_vram_bytes = 0;
			listing->models[i].expires_at_us = 0;
			listing->models[i].context_in_force = 0;
		}
		for (uint32_t i = json_first(answer->json, models); i; i = json_next(answer->json, models, i))
			read_resident(listing, answer->json, i, answer->mem);
	}
	visit_done(visit, VISIT_GOOD);
}

/* request_ollama.c - requests of Ollama's shape: read where they go to an OpenAI-style server, written where others come to Ollama. */
#include <stdio.h>

#include "common/llm/canon.h"
#include "common/llm/text.h"

/* Reading. */

static enum err read_images(struct planning *p, struct message *m, uint32_t list, const char *path)
{
	const struct json *doc = &p->in->doc;

	m->images = arena_array(p->mem, struct str, json_count(doc, list) + 1);
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v)) {
		if (!json_is_string(doc, v))
			return err_field(p->why, ERR_MALFORMED, path, "%s must be a list of base64 strings", path);
		m->images[m->n_images++] = json_string(doc, v, p->mem);
	}
	return ERR_OK;
}

/* A call is answered by one result; results without an id answer the first open call of their name, or the first open one. */
static void find_call(struct planning *p, struct canon *c, struct message *result, bool *answered, uint32_t n_answered)
{
	uint32_t seen = 0;

	for (uint32_t i = 0; i < c->n_messages; i++)
		for (uint32_t k = 0; k < c->messages[i].n_calls; k++, seen++) {
			const struct call *call = &c->messages[i].calls[k];

			if (seen >= n_answered || answered[seen] || (has(result->tool_name) && !str_eq(call->name, result->tool_name)))
				continue;
			answered[seen] = true;
			result->tool_call_id = call->id;
			return;
		}
	result->tool_call_id = has(result->tool_name) ? result->tool_name : STR("\"call_0\"");
}

static enum err read_message(struct planning *p, struct message *m, uint32_t object, uint32_t at)
{
	const struct json *doc = &p->in->doc;
	const struct field *f;
	char where[32], path[48];
	enum err e;

	snprintf(where, sizeof(where), "messages[%u].", at);
	snprintf(path, sizeof(path), "messages[%u].images", at);
	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_OLLAMA_MESSAGE, v, where, "messages.", &f)))
			return e;
		if (!f)
			continue;
		switch (f->id) {
		case F_ROLE: m->role = json_string(doc, v, p->mem); break;
		case F_CONTENT: m->text = json_raw(doc, v); break;
		case F_IMAGES: e = read_images(p, m, v, path); break;
		case F_CALLS: e = canon_calls(p, m, v, at); break;
		case F_CALL_ID: m->tool_call_id = json_raw(doc, v); break;
		case F_TOOL_NAME: m->tool_name = json_raw(doc, v); break;
		case F_THINKING: m->thinking = json_raw(doc, v); break;
		default: break;
		}
		if (e)
			return e;
	}
	return ERR_OK;
}

static enum err read_messages(struct planning *p, struct canon *c, uint32_t list)
{
	const struct json *doc = &p->in->doc;
	uint32_t n = json_count(doc, list), n_calls = 0;
	bool *answered;
	enum err e;

	c->messages = arena_array(p->mem, struct message, n + 1);
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v)) {
		struct message *m = &c->messages[c->n_messages];

		if ((e = read_message(p, m, v, c->n_messages)))
			return e;
		n_calls += m->n_calls;
		c->n_messages++;
	}
	answered = arena_array(p->mem, bool, n_calls + 1);
	for (uint32_t i = 0; i < n; i++)
		if (str_eqz(c->messages[i].role, "tool") && !has(c->messages[i].tool_call_id))
			find_call(p, c, &c->messages[i], answered, n_calls);
	return ERR_OK;
}

static enum err read_tools(struct planning *p, struct canon *c, uint32_t list)
{
	const struct json *doc = &p->in->doc;
	uint32_t i = 0;
	char path[48];

	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v), i++) {
		if (json_get(doc, v, "function"))
			continue;
		snprintf(path, sizeof(path), "tools[%u].function", i);
		return err_field(p->why, ERR_MALFORMED, path, "%s is missing", path);
	}
	c->tools = json_count(doc, list) ? list : 0;
	return ERR_OK;
}

static enum err read_think(struct planning *p, struct canon *c, uint32_t value)
{
	static const char *const levels[] = { "low", "medium", "high", "max" };

	if (!json_is_string(&p->in->doc, value)) {
		c->think = canon_is_true(p, value) ? STR("true") : STR("false");
		return ERR_OK;
	}
	c->think = json_string(&p->in->doc, value, p->mem);
	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
		if (str_eqz(c->think, levels[i]))
			return ERR_OK;
	return plan_refuse(p, "think", "it must be true, false, low, medium, high or max");
}

/* What generate says beside its prompt. */
struct generate {
	uint32_t prompt, system, images;
	bool raw;
};

static enum err read_member(struct planning *p, struct canon *c, const struct field *f, uint32_t v, struct generate *g)
{
	switch (f->id) {
	case F_MESSAGES: return read_messages(p, c, v);
	case F_PROMPT: g->prompt = v; return ERR_OK;
	case F_SYSTEM: g->system = v; return ERR_OK;
	case F_IMAGES: g->images = v; return ERR_OK;
	case F_RAW: g->raw = canon_is_true(p, v); return ERR_OK;
	case F_SUFFIX: c->suffix = json_raw(&p->in->doc, v); return ERR_OK;
	case F_OPTIONS: return canon_options(p, c, v);
	case F_TOOLS: return read_tools(p, c, v);
	case F_FORMAT: return canon_read_format(p, c, v);
	case F_LOGPROBS: c->logprobs = canon_is_true(p, v); return ERR_OK;
	case F_TOP_LOGPROBS: c->top_logprobs = json_raw(&p->in->doc, v); return ERR_OK;
	case F_THINK: return read_think(p, c, v);
	default: return ERR_OK;
	}
}

static enum err prompt_to_messages(struct planning *p, struct canon *c, const struct generate *g)
{
	const struct json *doc = &p->in->doc;
	struct message *m = c->messages = arena_array(p->mem, struct message, 2);

	if (g->system && !text_is_empty(json_raw(doc, g->system)))
		m->role = STR("system"), m->text = json_raw(doc, g->system), m++;
	m->role = STR("user");
	m->text = g->prompt ? json_raw(doc, g->prompt) : STR("\"\"");
	c->n_messages = (uint32_t)(m + 1 - c->messages);
	return g->images ? read_images(p, m, g->images, "images") : ERR_OK;
}

/* Without a template: a raw prompt, or one with a suffix. */
static enum err read_bare(struct planning *p, struct canon *c, const struct generate *g)
{
	bool fill = !text_is_empty(c->suffix);

	if (fill && c->logprobs)
		return plan_refuse(p, "logprobs", "not together with suffix");
	if (g->system && !text_is_empty(json_raw(&p->in->doc, g->system)))
		return plan_refuse(p, "system", "a prompt that is raw or has a suffix stands alone");
	if (g->images && json_count(&p->in->doc, g->images))
		return plan_refuse(p, "images", "a prompt that is raw or has a suffix stands alone");
	if (c->logprobs && p->target->kind != LLM_BACKEND_LLAMACPP)
		return plan_refuse(p, "logprobs", "not together with raw");
	if (has(c->think) && !str_eqz(c->think, "false"))
		return plan_refuse(p, "think", "not together with raw or suffix");
	c->think = str_n("", 0);
	c->op = LLM_COMPLETE;
	c->prompt = g->prompt ? json_raw(&p->in->doc, g->prompt) : STR("\"\"");
	return ERR_OK;
}

enum err canon_read_ollama(struct planning *p, struct canon *c)
{
	const struct json *doc = &p->in->doc;
	enum llm_form form = llm_form_of(LLM_OLLAMA, p->in->op);
	struct generate g = { 0 };
	const struct field *f;
	enum err e;

	if (p->in->load_only)
		return err_set(p->why, ERR_NOT_IMPLEMENTED, "%s has no request that only loads a model", backend_kind_name(p->target->kind));
	c->op = LLM_CHAT;
	c->max_tokens = p->in->max_tokens;
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v))
		if ((e = canon_field(p, form, v, "", "", &f)) || (f && (e = read_member(p, c, f, v, &g))))
			return e;
	if (p->in->op == LLM_CHAT)
		return ERR_OK;
	return g.raw || !text_is_empty(c->suffix) ? read_bare(p, c, &g) : prompt_to_messages(p, c, &g);
}

/* Writing. */

static void write_call(const struct call *call, struct json_out *jo)
{
	jw_obj(jo);
	if (has(call->id))
		jw_kv_raw(jo, "id", call->id);
	jw_key(jo, "function"), jw_obj(jo);
	jw_kv_u64(jo, "index", call->index);
	jw_kv_raw(jo, "name", call->name);
	jw_kv_raw(jo, "arguments", has(call->arguments) ? call->arguments : STR("{}"));
	jw_end(jo), jw_end(jo);
}

static void write_message(const struct message *m, struct json_out *jo)
{
	jw_obj(jo);
	jw_kv_str(jo, "role", m->role);
	jw_kv_raw(jo, "content", has(m->text) ? m->text : STR("\"\""));
	if (!text_is_empty(m->thinking))
		jw_kv_raw(jo, "thinking", m->thinking);
	if (m->n_images) {
		jw_key(jo, "images"), jw_arr(jo);
		for (uint32_t i = 0; i < m->n_images; i++)
			jw_str(jo, m->images[i]);
		jw_end(jo);
	}
	if (m->n_calls) {
		jw_key(jo, "tool_calls"), jw_arr(jo);
		for (uint32_t i = 0; i < m->n_calls; i++)
			write_call(&m->calls[i], jo);
		jw_end(jo);
	}
	if (has(m->tool_name))
		jw_kv_raw(jo, "tool_name", m->tool_name);
	if (has(m->tool_call_id))
		jw_kv_raw(jo, "tool_call_id", m->tool_call_id);
	jw_end(jo);
}

static void write_options(struct planning *p, const struct canon *c, struct json_out *jo)
{
	if (!c->n_plain && !has(c->stop) && c->max_tokens < 0)
		return;
	jw_key(jo, "options"), jw_obj(jo);
	for (uint32_t i = 0; i < c->n_plain; i++)
		jw_kv_raw(jo, c->plain[i].field->as[p->target->kind], c->plain[i].value);
	if (c->max_tokens >= 0)
		jw_kv_i64(jo, "num_predict", c->max_tokens);
	if (has(c->stop) && c->stop.p[0] == '[')
		jw_kv_raw(jo, "stop", c->stop);
	else if (has(c->stop))
		jw_key(jo, "stop"), jw_arr(jo), jw_raw(jo, c->stop), jw_end(jo);
	jw_end(jo);
}

static void write_think(const struct canon *c, struct json_out *jo)
{
	if (!has(c->think))
		return;
	jw_key(jo, "think");
	if (str_eqz(c->think, "true") || str_eqz(c->think, "false"))
		jw_raw(jo, c->think);
	else
		jw_str(jo, c->think);
}

static void write_prompt(const struct canon *c, struct json_out *jo)
{
	jw_kv_raw(jo, "prompt", c->prompt);
	if (!text_is_empty(c->suffix))
		jw_kv_raw(jo, "suffix", c->suffix);
}

void ollama_write_request(struct planning *p, const struct canon *c, struct buf *out)
{
	struct json_out jo;

	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_str(&jo, "model", p->target->remote_model);
	if (c->op == LLM_COMPLETE) {
		write_prompt(c, &jo);
	} else {
		jw_key(&jo, "messages"), jw_arr(&jo);
		for (uint32_t i = 0; i < c->n_messages; i++)
			write_message(&c->messages[i], &jo);
		jw_end(&jo);
	}
	if (c->tools)
		jw_kv_raw(&jo, "tools", json_raw(&p->in->doc, c->tools));
	if (has(c->tools_json))
		jw_kv_raw(&jo, "tools", c->tools_json);
	jw_kv_bool(&jo, "stream", p->in->stream);
	jw_kv_bool(&jo, "truncate", false);
	if (c->format == FORMAT_JSON)
		jw_kv_strz(&jo, "format", "json");
	else if (c->format == FORMAT_SCHEMA)
		jw_kv_raw(&jo, "format", c->schema);
	write_think(c, &jo);
	if (c->logprobs)
		jw_kv_bool(&jo, "logprobs", true);
	if (c->logprobs && has(c->top_logprobs))
		jw_kv_raw(&jo, "top_logprobs", c->top_logprobs);
	write_options(p, c, &jo);
	jw_end(&jo);
}

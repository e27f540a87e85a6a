/* request_openai.c - requests of OpenAI's shape: read where they go to Ollama or to a provider in the cloud with words of its own, written
 * where others come to an OpenAI-style server. */
#include <stdio.h>

#include "common/llm/canon.h"
#include "common/llm/text.h"

/* Reading. */

static bool is_data(struct str uri)
{
	const char *comma = memchr(uri.p ? uri.p : "", ',', uri.n);

	return uri.n >= 5 && str_ieq(str_n(uri.p, 5), STR("data:")) && comma && str_ifind(str_n(uri.p, (size_t)(comma - uri.p)), STR(";base64"));
}

static enum err read_image(struct planning *p, struct message *m, uint32_t part, const char *path)
{
	const struct json *doc = &p->in->doc;
	uint32_t image = json_get(doc, part, "image_url"), url = image, detail = 0;
	struct str uri;

	if (image && json_kind(doc, image) == JSON_OBJECT)
		url = json_get(doc, image, "url"), detail = json_get(doc, image, "detail");
	if (!url || !json_is_string(doc, url))
		return err_field(p->why, ERR_MALFORMED, path, "%s.image_url.url must be a string", path);
	if (detail && !json_string_eq(doc, detail, "auto"))
		plan_ignore(p, "messages.content.image_url.", "detail");
	uri = json_string(doc, url, p->mem);
	if (!is_data(uri) && (p->target->kind != LLM_BACKEND_ANTHROPIC || !str_starts(uri, STR("http"))))
		return plan_refuse(p, path, "images must be data URIs in base64; addresses are not fetched");
	if (is_data(uri) && !kind_is_cloud(p->target->kind))
		uri = canon_image(uri).base64;
	m->images[m->n_images++] = uri;
	return ERR_OK;
}

static enum err read_part(struct planning *p, struct message *m, uint32_t part, const char *path)
{
	const struct json *doc = &p->in->doc;
	uint32_t type = json_get(doc, part, "type");

	if (json_is_string(doc, part) || json_string_eq(doc, type, "text") || json_string_eq(doc, type, "refusal"))
		return ERR_OK;
	if (json_string_eq(doc, type, "image_url"))
		return read_image(p, m, part, path);
	return plan_refuse(p, path, "only parts of type text and image_url can be converted");
}

static enum err read_content(struct planning *p, struct message *m, uint32_t content, uint32_t at)
{
	const struct json *doc = &p->in->doc;
	char path[64];
	uint32_t i = 0;
	enum err e;

	m->text = text_raw(doc, content, p->mem);
	m->content = content;
	if (json_kind(doc, content) != JSON_ARRAY)
		return ERR_OK;
	m->images = arena_array(p->mem, struct str, json_count(doc, content) + 1);
	for (uint32_t part = json_first(doc, content); part; part = json_next(doc, content, part), i++) {
		snprintf(path, sizeof(path), "messages[%u].content[%u]", at, i);
		if ((e = read_part(p, m, part, path)))
			return e;
	}
	return ERR_OK;
}

static enum err read_role(struct planning *p, struct message *m, uint32_t value, uint32_t at)
{
	char path[48];

	m->role = json_string(&p->in->doc, value, p->mem);
	if (str_eqz(m->role, "developer"))
		m->role = STR("system");
	if (str_eqz(m->role, "system") || str_eqz(m->role, "user") || str_eqz(m->role, "assistant") || str_eqz(m->role, "tool"))
		return ERR_OK;
	snprintf(path, sizeof(path), "messages[%u].role", at);
	return plan_refuse(p, path, "roles are system, developer, user, assistant and tool");
}

static enum err read_message(struct planning *p, struct message *m, uint32_t object, uint32_t at)
{
	const struct json *doc = &p->in->doc;
	const struct field *f;
	char where[32];
	enum err e;

	snprintf(where, sizeof(where), "messages[%u].", at);
	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if ((e = canon_field(p, FORM_OPENAI_MESSAGE, v, where, "messages.", &f)))
			return e;
		if (!f)
			continue;
		switch (f->id) {
		case F_ROLE: e = read_role(p, m, v, at); break;
		case F_CONTENT: e = read_content(p, m, v, at); break;
		case F_CALLS: e = canon_calls(p, m, v, at); break;
		case F_CALL_ID: m->tool_call_id = json_raw(doc, v); break;
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
	enum err e;

	c->messages = arena_array(p->mem, struct message, json_count(doc, list) + 1);
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v), c->n_messages++) {
		struct message *m = &c->messages[c->n_messages];

		if ((e = read_message(p, m, v, c->n_messages)))
			return e;
		if (has(m->tool_call_id))
			canon_name_tool(c, m);
	}
	return ERR_OK;
}

static enum err read_tools(struct planning *p, struct canon *c, uint32_t list)
{
	const struct json *doc = &p->in->doc;
	char path[48];
	uint32_t i = 0;

	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v), i++) {
		uint32_t function = json_get(doc, v, "function");

		if (!json_string_eq(doc, json_get(doc, v, "type"), "function") || !function) {
			snprintf(path, sizeof(path), "tools[%u].type", i);
			return plan_refuse(p, path, "only tools of type function can be converted");
		}
		if (p->target->kind != LLM_BACKEND_ANTHROPIC && canon_is_true(p, json_get(doc, function, "strict")))
			plan_ignore(p, "tools.function.", "strict");
	}
	c->tools = json_count(doc, list) ? list : 0;
	return ERR_OK;
}

/* Clouds want to know the tools that earlier turns called, even where none may be called now. */
static enum err read_cloud_choice(struct planning *p, struct canon *c, uint32_t value)
{
	const struct json *doc = &p->in->doc;
	uint32_t function = json_kind(doc, value) == JSON_OBJECT ? json_get(doc, value, "function") : 0, name = function ? json_get(doc, function, "name") : 0;

	if (name && json_is_string(doc, name) && json_string_eq(doc, json_get(doc, value, "type"), "function"))
		c->named_tool = json_raw(doc, name);
	else if (!json_string_eq(doc, value, "none") && !json_string_eq(doc, value, "auto") && !json_string_eq(doc, value, "required"))
		return plan_refuse(p, "tool_choice", "it must be none, auto, required, or the name of a function");
	c->tool_choice = json_raw(doc, value);
	return ERR_OK;
}

static enum err read_tool_choice(struct planning *p, struct canon *c, uint32_t value, bool *no_tools)
{
	const struct json *doc = &p->in->doc;

	if (kind_is_cloud(p->target->kind))
		return read_cloud_choice(p, c, value);
	*no_tools = json_string_eq(doc, value, "none");
	if (*no_tools || json_string_eq(doc, value, "auto"))
		return ERR_OK;
	return plan_refuse(p, "tool_choice", "Ollama lets the model choose; only \"auto\" and \"none\" are possible");
}

static enum err read_response_format(struct planning *p, struct canon *c, uint32_t value)
{
	const struct json *doc = &p->in->doc;
	uint32_t type = json_get(doc, value, "type"), holder, schema;

	if (json_string_eq(doc, type, "text"))
		return ERR_OK;
	if (json_string_eq(doc, type, "json_object"))
		holder = value;
	else if (json_string_eq(doc, type, "json_schema"))
		holder = json_get(doc, value, "json_schema");
	else
		return plan_refuse(p, "response_format.type", "it must be text, json_object or json_schema");
	schema = holder ? json_get(doc, holder, "schema") : 0;
	c->format = FORMAT_JSON;
	if (schema && json_kind(doc, schema) == JSON_OBJECT) {
		c->format = FORMAT_SCHEMA;
		c->schema = json_raw(doc, schema);
	} else if (!json_string_eq(doc, type, "json_object")) {
		return err_field(p->why, ERR_MALFORMED, "response_format.json_schema.schema", "response_format.json_schema.schema must be an object");
	} else if (p->target->kind == LLM_BACKEND_ANTHROPIC) {
		return plan_refuse(p, "response_format.type", "it has answers of a schema only; give one as json_schema");
	}
	return ERR_OK;
}

static enum err read_effort(struct planning *p, struct canon *c, uint32_t value)
{
	static const struct { const char *word, *think; } map[] = {
		{ "none", "false" }, { "minimal", "low" }, { "low", "low" }, { "medium", "medium" }, { "high", "high" }, { "xhigh", "max" }, { "max", "max" },
	};

	for (unsigned i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (json_string_eq(&p->in->doc, value, map[i].word)) {
			c->think = str_of(map[i].think);
			return ERR_OK;
		}
	return plan_refuse(p, "reasoning_effort", "it must be none, minimal, low, medium, high, xhigh or max");
}

static enum err read_template_kwargs(struct planning *p, struct canon *c, uint32_t object)
{
	const struct json *doc = &p->in->doc;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		enum json_kind kind = json_kind(doc, v);

		if (!json_key_is(doc, v, "enable_thinking") || (kind != JSON_TRUE && kind != JSON_FALSE))
			return plan_refuse(p, "chat_template_kwargs", "only enable_thinking is possible");
		if (!has(c->think))                    /* reasoning_effort says more */
			c->think = kind == JSON_TRUE ? STR("true") : STR("false");
	}
	return ERR_OK;
}

static enum err read_prompt(struct planning *p, struct canon *c, uint32_t value)
{
	const struct json *doc = &p->in->doc;

	if (json_kind(doc, value) == JSON_ARRAY) {
		if (json_count(doc, value) != 1 || !json_is_string(doc, json_first(doc, value)))
			return plan_refuse(p, "prompt", "one prompt as text is possible, not several or token ids");
		value = json_first(doc, value);
	}
	c->prompt = json_raw(doc, value);
	return ERR_OK;
}

static enum err read_stream_options(struct planning *p, uint32_t object)
{
	const struct json *doc = &p->in->doc;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if (json_key_is(doc, v, "include_usage"))
			continue;
		if (!json_key_is(doc, v, "include_obfuscation") && !json_key_is(doc, v, "continuous_usage_stats"))
			return plan_refuse(p, "stream_options", "only include_usage is known");
		plan_ignore(p, "stream_options.", json_key_is(doc, v, "include_obfuscation") ? "include_obfuscation" : "continuous_usage_stats");
	}
	return ERR_OK;
}

static enum err read_logprobs_n(struct planning *p, struct canon *c, uint32_t value)
{
	c->logprobs = true;
	c->top_logprobs = json_raw(&p->in->doc, value);
	return ERR_OK;
}

static enum err read_member(struct planning *p, struct canon *c, const struct field *f, uint32_t v, bool *no_tools)
{
	switch (f->id) {
	case F_MESSAGES: return read_messages(p, c, v);
	case F_PROMPT: return read_prompt(p, c, v);
	case F_SUFFIX: c->suffix = json_raw(&p->in->doc, v); return ERR_OK;
	case F_STREAM_OPTIONS: return read_stream_options(p, v);
	case F_TOOLS: return read_tools(p, c, v);
	case F_TOOL_CHOICE: return read_tool_choice(p, c, v, no_tools);
	case F_PARALLEL_TOOLS: c->one_call = !canon_is_true(p, v); return ERR_OK;
	case F_RESPONSE_FORMAT: return read_response_format(p, c, v);
	case F_STOP: return canon_stop(p, c, "stop", v);
	case F_LOGPROBS: c->logprobs = canon_is_true(p, v); return ERR_OK;
	case F_LOGPROBS_N: return read_logprobs_n(p, c, v);
	case F_TOP_LOGPROBS: c->top_logprobs = json_raw(&p->in->doc, v); return ERR_OK;
	case F_REASONING_EFFORT: return read_effort(p, c, v);
	case F_TEMPLATE_KWARGS: return read_template_kwargs(p, c, v);
	case F_PLAIN: return canon_plain(p, c, f, v);
	default: return ERR_OK;
	}
}

enum err canon_read_openai(struct planning *p, struct canon *c)
{
	const struct json *doc = &p->in->doc;
	enum llm_form form = llm_form_of(LLM_OPENAI, p->in->op);
	const struct field *f;
	bool no_tools = false;
	enum err e;

	c->op = p->in->op;
	c->max_tokens = p->in->max_tokens;
	if (c->op == LLM_COMPLETE)
		c->think = STR("false");               /* a completion has no place for thoughts */
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v)) {
		if ((e = canon_field(p, form, v, "", "", &f)) || (f && (e = read_member(p, c, f, v, &no_tools))))
			return e;
	}
	if (no_tools)
		c->tools = 0;
	return ERR_OK;
}

/* Writing. */

static void write_content(struct planning *p, const struct message *m, struct json_out *jo)
{
	jw_key(jo, "content");
	if (!m->n_images) {
		if (text_is_empty(m->text) && m->n_calls)
			jw_null(jo);
		else
			jw_raw(jo, has(m->text) ? m->text : STR("\"\""));
		return;
	}
	jw_arr(jo);
	if (!text_is_empty(m->text))
		jw_obj(jo), jw_kv_strz(jo, "type", "text"), jw_kv_raw(jo, "text", m->text), jw_end(jo);
	for (uint32_t i = 0; i < m->n_images; i++) {
		bool whole = str_starts(m->images[i], STR("data:"));

		jw_obj(jo), jw_kv_strz(jo, "type", "image_url"), jw_key(jo, "image_url"), jw_obj(jo);
		jw_kv_str(jo, "url", whole ? m->images[i] : arena_fmt(p->mem, "data:" STR_FMT ";base64," STR_FMT, STR_ARG(canon_image(m->images[i]).type), STR_ARG(m->images[i])));
		jw_end(jo), jw_end(jo);
	}
	jw_end(jo);
}

static void write_calls(struct planning *p, const struct message *m, struct json_out *jo)
{
	jw_key(jo, "tool_calls"), jw_arr(jo);
	for (uint32_t i = 0; i < m->n_calls; i++) {
		const struct call *call = &m->calls[i];

		jw_obj(jo);
		jw_kv_raw(jo, "id", call->id);
		jw_kv_strz(jo, "type", "function");
		jw_key(jo, "function"), jw_obj(jo);
		jw_kv_raw(jo, "name", call->name);
		jw_kv_raw(jo, "arguments", !has(call->arguments) ? STR("\"{}\"") : call->is_object ? text_quote(call->arguments, p->mem) : call->arguments);
		jw_end(jo), jw_end(jo);
	}
	jw_end(jo);
}

static void write_message(struct planning *p, const struct message *m, struct json_out *jo)
{
	jw_obj(jo);
	jw_kv_str(jo, "role", m->role);
	if (has(m->tool_call_id))
		jw_kv_raw(jo, "tool_call_id", m->tool_call_id);
	write_content(p, m, jo);
	if (!text_is_empty(m->thinking))
		jw_kv_raw(jo, "reasoning_content", m->thinking);
	if (m->n_calls)
		write_calls(p, m, jo);
	jw_end(jo);
}

/* Ollama may leave out the type of a tool. */
static void write_tools(struct planning *p, uint32_t list, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;

	jw_key(jo, "tools"), jw_arr(jo);
	for (uint32_t v = json_first(doc, list); v; v = json_next(doc, list, v)) {
		if (json_get(doc, v, "type")) {
			jw_raw(jo, json_raw(doc, v));
			continue;
		}
		jw_obj(jo), jw_kv_strz(jo, "type", "function");
		for (uint32_t k = json_first(doc, v); k; k = json_next(doc, v, k))
			jw_key_str(jo, json_string(doc, json_key(doc, k), p->mem)), jw_raw(jo, json_raw(doc, k));
		jw_end(jo);
	}
	jw_end(jo);
}

/* OpenAI takes "strict" only for schemas whose objects are all closed and have no optional members, and refuses others that say it. */
static bool may_be_strict(const struct json *doc, uint32_t schema)
{
	uint32_t more = json_get(doc, schema, "additionalProperties"), all = json_get(doc, schema, "properties"), required = json_get(doc, schema, "required");

	if (json_string_eq(doc, json_get(doc, schema, "type"), "object") &&
	    (!more || json_kind(doc, more) != JSON_FALSE || (all ? json_count(doc, all) : 0) != (required ? json_count(doc, required) : 0)))
		return false;
	for (uint32_t v = json_first(doc, schema); v; v = json_next(doc, schema, v))
		if ((json_kind(doc, v) == JSON_OBJECT || json_kind(doc, v) == JSON_ARRAY) && !may_be_strict(doc, v))
			return false;
	return true;
}

static bool is_strict(struct planning *p, struct str schema)
{
	struct json doc;

	return json_parse(&doc, p->mem, schema, NULL, NULL) == ERR_OK && may_be_strict(&doc, 0);
}

static void write_format(struct planning *p, const struct canon *c, struct json_out *jo)
{
	if (c->format == FORMAT_TEXT)
		return;
	jw_key(jo, "response_format"), jw_obj(jo);
	jw_kv_strz(jo, "type", c->format == FORMAT_JSON ? "json_object" : "json_schema");
	if (c->format == FORMAT_SCHEMA) {
		jw_key(jo, "json_schema"), jw_obj(jo);
		jw_kv_strz(jo, "name", "answer"), jw_kv_bool(jo, "strict", is_strict(p, c->schema)), jw_kv_raw(jo, "schema", c->schema);
		jw_end(jo);
	}
	jw_end(jo);
}

/* llama.cpp's templates read enable_thinking; newer ones of its versions reasoning_effort too. */
static void write_think(struct planning *p, const struct canon *c, struct json_out *jo)
{
	bool off = str_eqz(c->think, "false"), level = !off && !str_eqz(c->think, "true");

	if (!has(c->think))
		return;
	if (off || level)
		jw_kv_str(jo, "reasoning_effort", off ? STR("none") : c->think);
	else if (p->target->kind == LLM_BACKEND_OPENAI)
		jw_kv_strz(jo, "reasoning_effort", "medium");
	if (p->target->kind != LLM_BACKEND_LLAMACPP)
		return;
	jw_key(jo, "chat_template_kwargs"), jw_obj(jo), jw_kv_bool(jo, "enable_thinking", !off);
	if (level)
		jw_kv_str(jo, "reasoning_effort", c->think);
	jw_end(jo);
}

static void write_logprobs(const struct canon *c, struct json_out *jo)
{
	if (!c->logprobs)
		return;
	if (c->op == LLM_COMPLETE) {
		jw_kv_raw(jo, "logprobs", has(c->top_logprobs) ? c->top_logprobs : STR("1"));
		return;
	}
	jw_kv_bool(jo, "logprobs", true);
	if (has(c->top_logprobs))
		jw_kv_raw(jo, "top_logprobs", c->top_logprobs);
}

void openai_write_request(struct planning *p, const struct canon *c, struct buf *out)
{
	struct json_out jo;

	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_str(&jo, "model", p->target->remote_model);
	if (c->op == LLM_COMPLETE) {
		jw_kv_raw(&jo, "prompt", c->prompt);
	} else {
		jw_key(&jo, "messages"), jw_arr(&jo);
		for (uint32_t i = 0; i < c->n_messages; i++)
			write_message(p, &c->messages[i], &jo);
		jw_end(&jo);
	}
	if (c->tools)
		write_tools(p, c->tools, &jo);
	if (has(c->tools_json))
		jw_kv_raw(&jo, "tools", c->tools_json);
	if (has(c->tool_choice))
		jw_kv_raw(&jo, "tool_choice", c->tool_choice);
	if (c->one_call)
		jw_kv_bool(&jo, "parallel_tool_calls", false);
	jw_kv_bool(&jo, "stream", p->in->stream);
	if (p->in->stream)
		jw_kv_raw(&jo, "stream_options", STR("{\"include_usage\":true}"));
	write_format(p, c, &jo);
	if (has(c->stop))
		jw_kv_raw(&jo, "stop", c->stop);
	if (c->max_tokens >= 0)
		jw_kv_i64(&jo, "max_tokens", c->max_tokens);
	write_logprobs(c, &jo);
	write_think(p, c, &jo);
	for (uint32_t i = 0; i < c->n_plain; i++)
		jw_kv_raw(&jo, c->plain[i].field->as[p->target->kind], c->plain[i].value);
	jw_end(&jo);
}

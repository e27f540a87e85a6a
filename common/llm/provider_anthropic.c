/* provider_anthropic.c - Anthropic's Messages API as a backend: what is sent, and its answers read. Its clients are served in request_anthropic.c
 * and answer_anthropic.c.
 *
 *   system, system          ──▶  system: [text, text]
 *   user, user              ──▶  user: [text, image, text]            turns of one role are one
 *   assistant with calls    ──▶  assistant: [text, tool_use, tool_use]
 *   tool, tool, user        ──▶  user: [tool_result, tool_result, text]
 *
 * A stream: message_start, then blocks one after another (start, deltas, stop), message_delta, message_stop; ping at any time; what is unknown
 * is skipped, as the API's description asks. */
#include "common/llm/canon.h"
#include "common/llm/text.h"
#include "common/llm/turns.h"

enum { TOKENS_DEFAULT = 4096, THINK_LEAST = 1024 };

/* Sending. */

static void write_image(struct turns *t, struct str given)
{
	struct image image = canon_image(given);

	jw_kv_strz(t->jo, "type", "image"), jw_key(t->jo, "source"), jw_obj(t->jo);
	if (has(image.address)) {
		jw_kv_strz(t->jo, "type", "url"), jw_kv_str(t->jo, "url", image.address);
	} else {
		jw_kv_strz(t->jo, "type", "base64");
		jw_kv_str(t->jo, "media_type", image.type), jw_kv_str(t->jo, "data", image.base64);
	}
	jw_end(t->jo);
}

static void write_uses(struct turns *t, const struct message *m)
{
	for (uint32_t i = 0; i < m->n_calls; i++) {
		const struct call *call = &m->calls[i];

		turns_part(t, "assistant");
		jw_kv_strz(t->jo, "type", "tool_use"), jw_kv_raw(t->jo, "id", call->id), jw_kv_raw(t->jo, "name", call->name);
		jw_kv_raw(t->jo, "input", has(call->arguments) ? call->arguments : STR("{}"));
		jw_end(t->jo);
	}
}

static void write_result(struct turns *t, const struct message *m)
{
	turns_part(t, "user");
	jw_kv_strz(t->jo, "type", "tool_result"), jw_kv_raw(t->jo, "tool_use_id", m->tool_call_id);
	jw_kv_raw(t->jo, "content", has(m->text) ? m->text : STR("\"\""));
	jw_end(t->jo);
}

static void write_messages(struct planning *p, const struct canon *c, struct json_out *jo)
{
	struct turns t = { .p = p, .jo = jo, .parts = "content", .typed = true, .image = write_image };

	turns_system(&t, c, "system");
	jw_key(jo, "messages"), jw_arr(jo);
	for (uint32_t i = 0; i < c->n_messages; i++) {
		const struct message *m = &c->messages[i];

		if (str_eqz(m->role, "tool"))
			write_result(&t, m);
		else if (!str_eqz(m->role, "system"))
			turns_content(&t, m->role.p[0] == 'a' ? "assistant" : "user", m);
		write_uses(&t, m);
	}
	turns_end(&t);
	jw_end(jo);
}

static enum err write_tool(struct planning *p, uint32_t function, uint32_t at, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;
	bool schema = false;

	jw_obj(jo);
	for (uint32_t v = json_first(doc, function); v; v = json_next(doc, function, v)) {
		bool parameters = json_key_is(doc, v, "parameters");

		if (json_kind(doc, v) == JSON_NULL)
			continue;
		if (!parameters && !json_key_is(doc, v, "name") && !json_key_is(doc, v, "description") && !json_key_is(doc, v, "strict"))
			return plan_refuse(p, arena_printf(p->mem, "tools[%u].function." STR_FMT, at, STR_ARG(json_key_raw(doc, v))), "it is no known member of a tool");
		schema |= parameters;
		if (parameters)
			jw_key(jo, "input_schema");
		else
			jw_key_str(jo, json_key_raw(doc, v));
		jw_raw(jo, json_raw(doc, v));
	}
	if (!schema)
		jw_kv_raw(jo, "input_schema", STR("{\"type\":\"object\"}"));
	jw_end(jo);
	return ERR_OK;
}

static void write_choice(const struct canon *c, struct json_out *jo)
{
	const char *type = has(c->named_tool) ? "tool" : str_eqz(c->tool_choice, "\"required\"") ? "any" : str_eqz(c->tool_choice, "\"none\"") ? "none" : "auto";

	if (!has(c->tool_choice) && !c->one_call)
		return;
	jw_key(jo, "tool_choice"), jw_obj(jo), jw_kv_strz(jo, "type", type);
	if (has(c->named_tool))
		jw_kv_raw(jo, "name", c->named_tool);
	if (c->one_call && strcmp(type, "none") != 0)
		jw_kv_bool(jo, "disable_parallel_tool_use", true);
	jw_end(jo);
}

static enum err write_tools(struct planning *p, const struct canon *c, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;
	uint32_t at = 0;
	enum err e;

	if (!c->tools)
		return ERR_OK;
	jw_key(jo, "tools"), jw_arr(jo);
	for (uint32_t v = json_first(doc, c->tools); v; v = json_next(doc, c->tools, v), at++)
		if ((e = write_tool(p, json_get(doc, v, "function"), at, jo)))
			return e;
	jw_end(jo);
	write_choice(c, jo);
	return ERR_OK;
}

/* max_tokens is mandatory there and thoughts are part of it; they take a thousand or so at least, and less than all. */
static void write_lengths(struct planning *p, const struct canon *c, struct json_out *jo)
{
	int64_t most = p->target->max_output_tokens, think = canon_thinking_tokens(c), tokens = c->max_tokens;
	bool after_tool = c->n_messages && str_eqz(c->messages[c->n_messages - 1].role, "tool");

	think = think == -1 ? 8192 : think;
	if (tokens < 0)
		tokens = most ? most : TOKENS_DEFAULT + (think > 0 ? think : 0);
	if (think > tokens / 2 && (c->max_tokens >= 0 || most))
		think = tokens / 2;
	jw_kv_i64(jo, "max_tokens", tokens);
	if (canon_thinking_tokens(c) == 0) {
		jw_key(jo, "thinking"), jw_obj(jo), jw_kv_strz(jo, "type", "disabled"), jw_end(jo);
	} else if (canon_thinking_tokens(c) != -2 && (after_tool || think < THINK_LEAST)) {
		plan_ignore(p, "", json_get(&p->in->doc, 0, "reasoning_effort") ? "reasoning_effort" : "chat_template_kwargs");
	} else if (think > 0) {
		jw_key(jo, "thinking"), jw_obj(jo), jw_kv_strz(jo, "type", "enabled"), jw_kv_i64(jo, "budget_tokens", think), jw_end(jo);
	}
}

static enum err write_plain(struct planning *p, const struct canon *c, struct json_out *jo)
{
	double temperature;

	for (uint32_t i = 0; i < c->n_plain; i++) {
		const char *name = c->plain[i].field->as[LLM_BACKEND_ANTHROPIC];

		if (strcmp(name, "temperature") == 0 && str_double(c->plain[i].value, &temperature) && temperature > 1)
			return plan_refuse(p, "temperature", "it takes 0 to 1");
		jw_kv_raw(jo, name, c->plain[i].value);
	}
	return ERR_OK;
}

static void write_stop(struct str stop, struct json_out *jo)
{
	if (!has(stop))
		return;
	jw_key(jo, "stop_sequences");
	if (stop.p[0] == '[')
		jw_raw(jo, stop);
	else
		jw_arr(jo), jw_raw(jo, stop), jw_end(jo);
}

enum err anthropic_write_request(struct planning *p, const struct canon *c, struct buf *out)
{
	struct json_out jo;
	enum err e;

	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_str(&jo, "model", p->target->remote_model);
	write_lengths(p, c, &jo);
	write_messages(p, c, &jo);
	if ((e = write_tools(p, c, &jo)) || (e = write_plain(p, c, &jo)))
		return e;
	write_stop(c->stop, &jo);
	if (c->format == FORMAT_SCHEMA) {
		jw_key(&jo, "output_config"), jw_obj(&jo), jw_key(&jo, "format"), jw_obj(&jo);
		jw_kv_strz(&jo, "type", "json_schema"), jw_kv_raw(&jo, "schema", c->schema);
		jw_end(&jo), jw_end(&jo);
	}
	jw_kv_bool(&jo, "stream", p->in->stream);
	jw_end(&jo);
	return ERR_OK;
}

/* Reading. */

static struct str string_member(const struct json *doc, uint32_t object, const char *key)
{
	uint32_t v = json_get(doc, object, key);

	return v && json_is_string(doc, v) ? json_raw(doc, v) : str_n(NULL, 0);
}

static bool count(const struct json *doc, uint32_t object, const char *key, uint64_t *ret)
{
	int64_t n = 0;

	if (!json_i64(doc, json_get(doc, object, key), &n) || n < 0)
		return false;
	*ret = (uint64_t)n;
	return true;
}

/* input_tokens leaves out what was read from the cache or written to it. What a stream says grows: the last word counts, and
 * its first event has an output that has hardly begun. */
static void read_usage(const struct json *doc, uint32_t usage, bool last, struct llm_usage *u)
{
	uint64_t fresh = 0, written = 0, cached = 0;
	uint32_t details = usage ? json_get(doc, usage, "output_tokens_details") : 0;

	if (!usage || json_kind(doc, usage) != JSON_OBJECT)
		return;
	if (count(doc, usage, "input_tokens", &fresh)) {
		count(doc, usage, "cache_creation_input_tokens", &written);
		count(doc, usage, "cache_read_input_tokens", &cached);
		u->prompt_tokens = fresh + written + cached;
		u->cached_tokens = cached;
	}
	if (details)
		count(doc, details, "thinking_tokens", &u->reasoning_tokens);
	if (last && count(doc, usage, "output_tokens", &u->completion_tokens))
		u->reported = true;
}

static struct str finish_of(struct str reason)
{
	static const struct { const char *theirs, *ours; } map[] = {
		{ "max_tokens", "length" }, { "model_context_window_exceeded", "length" }, { "pause_turn", "length" },      /* there is more to come */
		{ "tool_use", "tool_calls" }, { "refusal", "content_filter" },
	};

	for (unsigned i = 0; i < sizeof(map) / sizeof(*map); i++)
		if (str_eqz(reason, map[i].theirs))
			return str_of(map[i].ours);
	return has(reason) ? STR("stop") : reason;
}

static void read_finish(const struct json *doc, uint32_t object, struct chunk *c, struct arena *mem)
{
	c->finish = finish_of(json_string(doc, json_get(doc, object, "stop_reason"), mem));
	c->stop_string = string_member(doc, object, "stop_sequence");
}

static struct call *new_call(struct chunk *c, uint32_t index)
{
	struct call *call;

	if (c->n_calls == CHUNK_CALLS) {
		c->too_many_calls = true;
		return NULL;
	}
	call = &c->calls[c->n_calls++];
	*call = (struct call){ .index = index, .has_index = true };
	return call;
}

static void begin_use(const struct json *doc, uint32_t block, uint32_t index, struct chunk *c)
{
	struct call *call = new_call(c, index);

	if (!call)
		return;
	call->id = string_member(doc, block, "id");
	call->name = string_member(doc, block, "name");
}

static void read_start(const struct json *doc, uint32_t block, uint32_t index, struct chunk *c)
{
	uint32_t type = json_get(doc, block, "type");

	if (json_string_eq(doc, type, "tool_use"))
		begin_use(doc, block, index, c);
	else if (json_string_eq(doc, type, "text"))
		c->text = string_member(doc, block, "text");
	else if (json_string_eq(doc, type, "thinking"))
		c->thinking = string_member(doc, block, "thinking");
}

static void read_delta(const struct json *doc, uint32_t delta, uint32_t index, struct chunk *c)
{
	uint32_t type = json_get(doc, delta, "type");
	struct call *call;

	if (json_string_eq(doc, type, "text_delta")) {
		c->text = string_member(doc, delta, "text");
		c->text_tok = json_get(doc, delta, "text");
	} else if (json_string_eq(doc, type, "thinking_delta")) {
		c->thinking = string_member(doc, delta, "thinking");
		c->text_tok = json_get(doc, delta, "thinking");
	} else if (json_string_eq(doc, type, "input_json_delta") && !text_is_empty(string_member(doc, delta, "partial_json"))) {
		call = new_call(c, index);
		call->arguments = string_member(doc, delta, "partial_json");
	}
}

static uint32_t index_of(const struct json *doc)
{
	int64_t n = 0;

	return json_i64(doc, json_get(doc, 0, "index"), &n) && n >= 0 && n < 65536 ? (uint32_t)n : 0;
}

static void read_event(const struct json *doc, uint32_t type, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t message = json_get(doc, 0, "message"), block = json_get(doc, 0, "content_block"), delta = json_get(doc, 0, "delta");

	c->is_answer = true;
	if (json_string_eq(doc, type, "message_start")) {
		read_usage(doc, message ? json_get(doc, message, "usage") : 0, false, u);
	} else if (json_string_eq(doc, type, "content_block_start") && block) {
		read_start(doc, block, index_of(doc), c);
	} else if (json_string_eq(doc, type, "content_block_delta") && delta) {
		read_delta(doc, delta, index_of(doc), c);
	} else if (json_string_eq(doc, type, "message_delta")) {
		read_finish(doc, delta, c, mem);
		read_usage(doc, json_get(doc, 0, "usage"), true, u);
		c->has_usage = true;
	} else if (json_string_eq(doc, type, "message_stop")) {
		c->end = true;
	}
}

/* The texts of the blocks of one kind, as one JSON string. */
static struct str joined(const struct json *doc, uint32_t content, const char *type, const char *key, struct arena *mem)
{
	struct buf b = { 0 };
	struct str s;

	buf_char(&b, '"');
	for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i)) {
		struct str raw = json_string_eq(doc, json_get(doc, i, "type"), type) ? string_member(doc, i, key) : str_n(NULL, 0);

		if (!text_is_empty(raw))
			buf_add(&b, raw.p + 1, raw.n - 2);
	}
	buf_char(&b, '"');
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void read_message(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t content = json_get(doc, 0, "content"), at = 0;

	c->is_answer = content && json_kind(doc, content) == JSON_ARRAY;
	if (!c->is_answer)
		return;
	c->text = joined(doc, content, "text", "text", mem);
	c->thinking = joined(doc, content, "thinking", "thinking", mem);
	for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i), at++) {
		uint32_t input = json_get(doc, i, "input"), before = c->n_calls;

		if (!json_string_eq(doc, json_get(doc, i, "type"), "tool_use"))
			continue;
		begin_use(doc, i, at, c);
		if (c->n_calls > before && input && json_kind(doc, input) == JSON_OBJECT)
			c->calls[before].arguments = json_raw(doc, input), c->calls[before].is_object = true;
	}
	read_finish(doc, 0, c, mem);
	read_usage(doc, json_get(doc, 0, "usage"), true, u);
	c->end = has(c->finish);
}

void anthropic_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t type = json_get(doc, 0, "type"), error = json_get(doc, 0, "error");

	chunk_clear(c);
	c->n_choices = 1;
	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	else if (json_string_eq(doc, type, "message"))
		read_message(doc, c, u, mem);
	else if (type && json_is_string(doc, type))
		read_event(doc, type, c, u, mem);
}

/* provider_gemini.c - Gemini's generateContent as a backend: what is sent, and its answers read.
 *
 *   system              ──▶  systemInstruction
 *   user, tool results  ──▶  role user: text, inlineData, functionResponse (which names the tool: looked up by the id)
 *   assistant           ──▶  role model: text, functionCall with the arguments as an object, and the signature it came with
 *
 * A stream is a run of such answers, each a piece; none says that it is the last, so the end is that of the body, once one of them had a
 * finishReason. Counts grow from piece to piece; thoughts are not among the candidates' tokens, but are billed as such. A prompt that is
 * refused has no candidates but a promptFeedback, with status 200. */
#include "common/llm/canon.h"
#include "common/llm/text.h"
#include "common/llm/turns.h"

/* Sending. */

static void write_image(struct turns *t, struct str given)
{
	struct image image = canon_image(given);

	jw_key(t->jo, "inlineData"), jw_obj(t->jo);
	jw_kv_str(t->jo, "mimeType", image.type), jw_kv_str(t->jo, "data", image.base64);
	jw_end(t->jo);
}

static void write_calls(struct turns *t, const struct message *m)
{
	for (uint32_t i = 0; i < m->n_calls; i++) {
		const struct call *call = &m->calls[i];

		turns_part(t, "model");
		jw_key(t->jo, "functionCall"), jw_obj(t->jo);
		jw_kv_raw(t->jo, "id", call->id), jw_kv_raw(t->jo, "name", call->name);
		jw_kv_raw(t->jo, "args", has(call->arguments) ? call->arguments : STR("{}"));
		jw_end(t->jo);
		if (has(call->signature))
			jw_kv_raw(t->jo, "thoughtSignature", call->signature);
		jw_end(t->jo);
	}
}

static enum err write_result(struct turns *t, const struct message *m, uint32_t at)
{
	if (!has(m->tool_name))
		return plan_refuse(t->p, arena_printf(t->p->mem, "messages[%u].tool_call_id", at), "it wants the tool's name, and no call before has this id");
	turns_part(t, "user");
	jw_key(t->jo, "functionResponse"), jw_obj(t->jo);
	jw_kv_raw(t->jo, "id", m->tool_call_id), jw_kv_raw(t->jo, "name", m->tool_name);
	jw_key(t->jo, "response"), jw_obj(t->jo), jw_kv_raw(t->jo, "result", has(m->text) ? m->text : STR("\"\""));
	jw_end(t->jo), jw_end(t->jo), jw_end(t->jo);
	return ERR_OK;
}

static enum err write_contents(struct planning *p, const struct canon *c, struct json_out *jo)
{
	struct turns t = { .p = p, .jo = jo, .parts = "parts", .image = write_image };
	enum err e;

	jw_key(jo, "contents"), jw_arr(jo);
	for (uint32_t i = 0; i < c->n_messages; i++) {
		const struct message *m = &c->messages[i];

		if (str_eqz(m->role, "tool") && (e = write_result(&t, m, i)))
			return e;
		if (str_eqz(m->role, "assistant"))
			turns_content(&t, "model", m), write_calls(&t, m);
		else if (str_eqz(m->role, "user"))
			turns_content(&t, "user", m);
	}
	turns_end(&t);
	jw_end(jo);
	return ERR_OK;
}

static bool has_system(const struct canon *c)
{
	for (uint32_t i = 0; i < c->n_messages; i++)
		if (str_eqz(c->messages[i].role, "system") && !text_is_empty(c->messages[i].text))
			return true;
	return false;
}

static void write_system(struct planning *p, const struct canon *c, struct json_out *jo)
{
	struct turns t = { .p = p, .jo = jo };

	if (!has_system(c))
		return;
	jw_key(jo, "systemInstruction"), jw_obj(jo);
	turns_system(&t, c, "parts");
	jw_end(jo);
}

static enum err write_tool(struct planning *p, uint32_t function, uint32_t at, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;

	jw_obj(jo);
	for (uint32_t v = json_first(doc, function); v; v = json_next(doc, function, v)) {
		bool parameters = json_key_is(doc, v, "parameters");

		if (json_kind(doc, v) == JSON_NULL || json_key_is(doc, v, "strict"))      /* named as ignored where it was read */
			continue;
		if (!parameters && !json_key_is(doc, v, "name") && !json_key_is(doc, v, "description"))
			return plan_refuse(p, arena_printf(p->mem, "tools[%u].function." STR_FMT, at, STR_ARG(json_key_raw(doc, v))), "it is no known member of a tool");
		jw_key_str(jo, parameters ? STR("parametersJsonSchema") : json_key_raw(doc, v));
		jw_raw(jo, json_raw(doc, v));
	}
	jw_end(jo);
	return ERR_OK;
}

static void write_choice(const struct canon *c, struct json_out *jo)
{
	bool any = has(c->named_tool) || str_eqz(c->tool_choice, "\"required\"");

	if (!has(c->tool_choice))
		return;
	jw_key(jo, "toolConfig"), jw_obj(jo), jw_key(jo, "functionCallingConfig"), jw_obj(jo);
	jw_kv_strz(jo, "mode", any ? "ANY" : str_eqz(c->tool_choice, "\"none\"") ? "NONE" : "AUTO");
	if (has(c->named_tool))
		jw_key(jo, "allowedFunctionNames"), jw_arr(jo), jw_raw(jo, c->named_tool), jw_end(jo);
	jw_end(jo), jw_end(jo);
}

static enum err write_tools(struct planning *p, const struct canon *c, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;
	uint32_t at = 0;
	enum err e;

	if (!c->tools)
		return ERR_OK;
	jw_key(jo, "tools"), jw_arr(jo), jw_obj(jo), jw_key(jo, "functionDeclarations"), jw_arr(jo);
	for (uint32_t v = json_first(doc, c->tools); v; v = json_next(doc, c->tools, v), at++)
		if ((e = write_tool(p, json_get(doc, v, "function"), at, jo)))
			return e;
	jw_end(jo), jw_end(jo), jw_end(jo);
	write_choice(c, jo);
	return ERR_OK;
}

static void write_thinking(const struct canon *c, struct json_out *jo)
{
	int64_t think = canon_thinking_tokens(c);

	if (think == -2)
		return;
	jw_key(jo, "thinkingConfig"), jw_obj(jo);
	jw_kv_bool(jo, "includeThoughts", think != 0);
	if (think >= 0)
		jw_kv_i64(jo, "thinkingBudget", think);
	jw_end(jo);
}

static bool has_config(const struct canon *c)
{
	return c->max_tokens >= 0 || has(c->stop) || c->n_plain || c->format != FORMAT_TEXT || has(c->think);
}

static void write_config(const struct canon *c, struct json_out *jo)
{
	if (!has_config(c))
		return;
	jw_key(jo, "generationConfig"), jw_obj(jo);
	if (c->max_tokens >= 0)
		jw_kv_i64(jo, "maxOutputTokens", c->max_tokens);
	for (uint32_t i = 0; i < c->n_plain; i++)
		jw_kv_raw(jo, c->plain[i].field->as[LLM_BACKEND_GEMINI], c->plain[i].value);
	if (has(c->stop)) {
		jw_key(jo, "stopSequences");
		if (c->stop.p[0] == '[')
			jw_raw(jo, c->stop);
		else
			jw_arr(jo), jw_raw(jo, c->stop), jw_end(jo);
	}
	if (c->format != FORMAT_TEXT)
		jw_kv_strz(jo, "responseMimeType", "application/json");
	if (c->format == FORMAT_SCHEMA)
		jw_kv_raw(jo, "responseJsonSchema", c->schema);
	write_thinking(c, jo);
	jw_end(jo);
}

enum err gemini_write_request(struct planning *p, const struct canon *c, struct buf *out)
{
	struct json_out jo;
	enum err e;

	json_begin(&jo, out);
	jw_obj(&jo);
	write_system(p, c, &jo);
	if ((e = write_contents(p, c, &jo)) || (e = write_tools(p, c, &jo)))
		return e;
	write_config(c, &jo);
	jw_end(&jo);
	return ERR_OK;
}

/* The name goes into the path: what could be anything but a name there is escaped. */
const char *gemini_path(const struct llm_in *in, const struct llm_target *t, struct arena *mem)
{
	struct str name = str_starts(t->remote_model, STR("models/")) ? str_from(t->remote_model, 7) : t->remote_model;
	struct buf b = { 0 };
	struct str path;

	buf_addz(&b, "/v1beta/models/");
	for (size_t i = 0; i < name.n; i++) {
		unsigned char ch = (unsigned char)name.p[i];

		if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || (ch && strchr("-._~", ch)))
			buf_char(&b, (char)ch);
		else
			buf_printf(&b, "%%%02X", ch);
	}
	buf_addz(&b, in->stream ? ":streamGenerateContent?alt=sse" : ":generateContent");
	path = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return path.p;
}

/* Reading. */

static void count(const struct json *doc, uint32_t object, const char *key, uint64_t *ret)
{
	int64_t n = 0;

	if (json_i64(doc, json_get(doc, object, key), &n) && n >= 0)
		*ret = (uint64_t)n;
}

static void read_usage(const struct json *doc, uint32_t usage, struct llm_usage *u)
{
	uint64_t prompt = 0, tools = 0, said = 0, thought = 0, cached = 0;

	if (!usage || json_kind(doc, usage) != JSON_OBJECT)
		return;
	count(doc, usage, "promptTokenCount", &prompt);
	count(doc, usage, "toolUsePromptTokenCount", &tools);
	count(doc, usage, "candidatesTokenCount", &said);
	count(doc, usage, "thoughtsTokenCount", &thought);
	count(doc, usage, "cachedContentTokenCount", &cached);
	if (prompt + said + thought == 0)
		return;
	u->prompt_tokens = prompt + tools, u->cached_tokens = cached;
	u->completion_tokens = said + thought, u->reasoning_tokens = thought;
	u->reported = true;
}

/* Of a broken call nothing can be made; it is the model's fault, and another attempt may go well. */
static void read_finish(const struct json *doc, uint32_t candidate, struct chunk *c, struct arena *mem)
{
	struct str reason = json_string(doc, json_get(doc, candidate, "finishReason"), mem);

	if (!has(reason) || str_eqz(reason, "FINISH_REASON_UNSPECIFIED"))
		return;
	if (str_eqz(reason, "STOP"))
		c->finish = STR("stop");
	else if (str_eqz(reason, "MAX_TOKENS"))
		c->finish = STR("length");
	else if (str_find(reason, STR("_CALL")))          /* MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, TOO_MANY_TOOL_CALLS */
		c->error = json_raw(doc, json_get(doc, candidate, "finishReason"));
	else
		c->finish = STR("content_filter");
}

static void read_call(const struct json *doc, uint32_t part, uint32_t said, struct chunk *c)
{
	uint32_t id = json_get(doc, said, "id"), name = json_get(doc, said, "name"), args = json_get(doc, said, "args"), sign = json_get(doc, part, "thoughtSignature");
	struct call *call;

	c->too_many_calls |= c->n_calls == CHUNK_CALLS;
	if (c->too_many_calls)
		return;
	call = &c->calls[c->n_calls++];
	*call = (struct call){ .index = c->n_calls - 1, .is_object = true };
	call->id = id && json_is_string(doc, id) ? json_raw(doc, id) : str_n(NULL, 0);
	call->name = name && json_is_string(doc, name) ? json_raw(doc, name) : str_n(NULL, 0);
	call->arguments = args && json_kind(doc, args) == JSON_OBJECT ? json_raw(doc, args) : STR("{}");
	call->signature = sign && json_is_string(doc, sign) ? json_raw(doc, sign) : str_n(NULL, 0);
}

/* One piece has a text of its own mostly; more of one kind are put together. */
static void add_text(const struct json *doc, uint32_t text, struct str *to, struct chunk *c, struct arena *mem)
{
	struct str raw = json_raw(doc, text);

	c->text_tok = has(*to) ? 0 : text;
	*to = has(*to) ? arena_join(mem, (struct str[]){ str_n(to->p, to->n - 1), str_from(raw, 1) }, 2) : raw;
}

static void read_part(const struct json *doc, uint32_t part, struct chunk *c, struct arena *mem)
{
	uint32_t text = json_get(doc, part, "text"), said = json_get(doc, part, "functionCall"), thought = json_get(doc, part, "thought");

	if (said && json_kind(doc, said) == JSON_OBJECT)
		read_call(doc, part, said, c);
	else if (text && json_is_string(doc, text))
		add_text(doc, text, thought && json_kind(doc, thought) == JSON_TRUE ? &c->thinking : &c->text, c, mem);
}

static void read_candidate(const struct json *doc, uint32_t candidate, struct chunk *c, struct arena *mem)
{
	uint32_t content = json_get(doc, candidate, "content"), parts = content ? json_get(doc, content, "parts") : 0;

	for (uint32_t i = parts ? json_first(doc, parts) : 0; i; i = json_next(doc, parts, i))
		read_part(doc, i, c, mem);
	read_finish(doc, candidate, c, mem);
	c->n_choices = 1;
}

static void read_feedback(const struct json *doc, uint32_t feedback, struct chunk *c, struct arena *mem)
{
	uint32_t reason = json_get(doc, feedback, "blockReason");

	if (!reason || !json_is_string(doc, reason))
		return;
	c->refused = json_string(doc, reason, mem);
	c->error = json_raw(doc, 0);
}

void gemini_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	enum { CANDIDATES, FEEDBACK, USAGE, ERROR, N };
	static const struct str names[N] = { STR_INIT("candidates"), STR_INIT("promptFeedback"), STR_INIT("usageMetadata"), STR_INIT("error") };
	uint32_t at[N], first;

	chunk_clear(c);
	json_get_many(doc, 0, names, N, at);
	if (at[ERROR] && json_kind(doc, at[ERROR]) != JSON_NULL) {
		c->error = json_raw(doc, at[ERROR]);
		return;
	}
	read_usage(doc, at[USAGE], u);
	c->is_answer = at[CANDIDATES] || at[USAGE] || at[FEEDBACK];
	first = at[CANDIDATES] ? json_first(doc, at[CANDIDATES]) : 0;
	if (first && json_kind(doc, first) == JSON_OBJECT)
		read_candidate(doc, first, c, mem);
	else if (at[FEEDBACK])
		read_feedback(doc, at[FEEDBACK], c, mem);
}

/* reshape.c - see reshape.h. */
#include "common/llm/reshape.h"

#include "common/llm/canon.h"
#include "common/llm/frame.h"
#include "common/llm/text.h"

/* The parts of an answer, put together from its events or read off its one body. */
struct told {
	struct arena *mem;
	bool ollama;
	bool chat;
	struct buf text, thinking;    /* insides of JSON strings */
	char finish[32];
	struct str id, created, model, fingerprint;   /* JSON, OpenAI's */
	struct str last;              /* Ollama's last line, or its one object */
	struct llm_usage usage;
	bool ended;
};

static const struct json_limits limits = { .max_depth = 64, .max_nodes = 4 * 1000 * 1000, .refuse_case_variants = false };

static void add_inside(struct buf *b, struct str json_string)
{
	if (!text_is_empty(json_string))
		buf_add(b, json_string.p + 1, json_string.n - 2);
}

static struct str raw_member(const struct json *doc, const char *name, struct arena *mem)
{
	uint32_t v = json_get(doc, 0, name);

	return v ? arena_str(mem, json_raw(doc, v)) : str_n(NULL, 0);
}

static void note_names(struct told *t, const struct json *doc)
{
	if (has(t->id) || t->ollama)
		return;
	t->id = raw_member(doc, "id", t->mem);
	t->created = raw_member(doc, "created", t->mem);
	t->model = raw_member(doc, "model", t->mem);
	t->fingerprint = raw_member(doc, "system_fingerprint", t->mem);
}

/* One event, or the body. */
static bool read_one(struct told *t, struct str payload)
{
	struct chunk c = { 0 };
	struct json doc;

	if (!t->ollama && str_eqz(payload, "[DONE]")) {
		t->ended = true;
		return true;
	}
	if (json_parse(&doc, t->mem, payload, &limits, NULL) != ERR_OK || json_kind(&doc, 0) != JSON_OBJECT)
		return false;
	if (t->ollama)
		ollama_read_chunk(&doc, &c, &t->usage, t->mem);
	else
		openai_read_chunk(&doc, &c, &t->usage, t->mem);
	if (has(c.error) || !c.is_answer || c.n_calls || has(c.logprobs) || has(c.stop_string) || (!t->ollama && c.n_choices > 1))
		return false;
	note_names(t, &doc);
	add_inside(&t->text, c.text);
	add_inside(&t->thinking, c.thinking);
	if (has(c.finish))
		str_copy(t->finish, sizeof(t->finish), c.finish);
	if (t->ollama && c.end) {
		t->last = arena_str(t->mem, payload);
		t->ended = true;
	}
	return true;
}

static bool read_stream(struct told *t, struct str body)
{
	struct frames frames = { .kind = t->ollama ? FRAME_LINE : FRAME_SSE };
	struct str frame, payload;
	bool ok = true;

	while (ok && !t->ended && frames_next(&frames, &body, &frame)) {
		payload = frame_payload(&frames, frame);
		ok = !payload.n || read_one(t, payload);
	}
	if (ok && !t->ended && (payload = frame_payload(&frames, frames_rest(&frames))).n)
		ok = read_one(t, payload);
	frames_free(&frames);
	return ok && t->ended && t->finish[0];
}

/* --- writing --- */

static struct str quoted(struct told *t, const struct buf *inside)
{
	return arena_fmt(t->mem, "\"" STR_FMT "\"", STR_ARG(buf_as_str(inside)));
}

static void begin_openai(struct told *t, const char *object, struct json_out *jo, struct buf *out)
{
	json_begin(jo, out);
	jw_obj(jo);
	if (has(t->id))
		jw_kv_raw(jo, "id", t->id);
	jw_kv_strz(jo, "object", object);
	if (has(t->created))
		jw_kv_raw(jo, "created", t->created);
	if (has(t->model))
		jw_kv_raw(jo, "model", t->model);
	if (has(t->fingerprint))
		jw_kv_raw(jo, "system_fingerprint", t->fingerprint);
	jw_key(jo, "choices");
	jw_arr(jo);
}

static void write_usage(struct told *t, struct json_out *jo)
{
	if (!t->usage.reported)
		return;
	jw_key(jo, "usage"), jw_obj(jo);
	jw_kv_u64(jo, "prompt_tokens", t->usage.prompt_tokens);
	jw_kv_u64(jo, "completion_tokens", t->usage.completion_tokens);
	jw_kv_u64(jo, "total_tokens", t->usage.prompt_tokens + t->usage.completion_tokens);
	jw_key(jo, "prompt_tokens_details"), jw_obj(jo);
	jw_kv_u64(jo, "cached_tokens", t->usage.cached_tokens);
	jw_end(jo), jw_end(jo);
}

static void write_said(struct told *t, bool role, struct json_out *jo)
{
	jw_obj(jo);
	if (role)
		jw_kv_strz(jo, "role", "assistant");
	jw_kv_raw(jo, "content", quoted(t, &t->text));
	if (t->thinking.n)
		jw_kv_raw(jo, "reasoning_content", quoted(t, &t->thinking));
	jw_end(jo);
}

static void openai_body(struct told *t, struct buf *out)
{
	struct json_out jo;

	begin_openai(t, t->chat ? "chat.completion" : "text_completion", &jo, out);
	jw_obj(&jo);
	jw_kv_i64(&jo, "index", 0);
	if (t->chat)
		jw_key(&jo, "message"), write_said(t, true, &jo);
	else
		jw_kv_raw(&jo, "text", quoted(t, &t->text));
	jw_kv_null(&jo, "logprobs");
	jw_kv_strz(&jo, "finish_reason", t->finish);
	jw_end(&jo), jw_end(&jo);
	write_usage(t, &jo);
	jw_end(&jo);
}

enum part { THE_TEXT, THE_FINISH, THE_USAGE };

static void openai_event(struct told *t, enum part part, struct buf *out)
{
	struct json_out jo;

	buf_addz(out, "data: ");
	begin_openai(t, t->chat ? "chat.completion.chunk" : "text_completion", &jo, out);
	if (part != THE_USAGE) {
		jw_obj(&jo);
		jw_kv_i64(&jo, "index", 0);
		if (t->chat && part == THE_TEXT)
			jw_key(&jo, "delta"), write_said(t, true, &jo);
		else if (t->chat)
			jw_key(&jo, "delta"), jw_obj(&jo), jw_end(&jo);
		else
			jw_kv_raw(&jo, "text", part == THE_TEXT ? quoted(t, &t->text) : STR("\"\""));
		jw_key(&jo, "finish_reason");
		part == THE_TEXT ? jw_null(&jo) : jw_strz(&jo, t->finish);
		jw_end(&jo);
	}
	jw_end(&jo);
	if (part == THE_USAGE)
		write_usage(t, &jo);
	jw_end(&jo);
	buf_addz(out, "\n\n");
}

static void openai_stream(struct told *t, struct buf *out)
{
	openai_event(t, THE_TEXT, out);
	openai_event(t, THE_FINISH, out);
	if (t->usage.reported)
		openai_event(t, THE_USAGE, out);
	buf_addz(out, "data: [DONE]\n\n");
}

static bool is_said(const char *name) { return strcmp(name, "message") == 0 || strcmp(name, "response") == 0 || strcmp(name, "thinking") == 0; }

static void ollama_said(struct told *t, struct str text, struct str thinking, struct json_out *jo)
{
	if (t->chat) {
		jw_key(jo, "message"), jw_obj(jo);
		jw_kv_strz(jo, "role", "assistant");
	}
	jw_kv_raw(jo, t->chat ? "content" : "response", text);
	if (thinking.n > 2)
		jw_kv_raw(jo, "thinking", thinking);
	if (t->chat)
		jw_end(jo);
}

/* The last line's figures around other words. */
static bool ollama_object(struct told *t, struct str text, struct str thinking, bool done, struct buf *out)
{
	struct json doc;
	struct json_out jo;

	if (json_parse(&doc, t->mem, t->last, &limits, NULL) != ERR_OK)
		return false;
	json_begin(&jo, out);
	jw_obj(&jo);
	for (uint32_t v = json_first(&doc, 0); v; v = json_next(&doc, 0, v)) {
		const char *name = arena_str(t->mem, json_string(&doc, json_key(&doc, v), t->mem)).p;
		bool named = strcmp(name, "model") == 0 || strcmp(name, "created_at") == 0;

		if (strcmp(name, "done") == 0)
			ollama_said(t, text, thinking, &jo), jw_kv_bool(&jo, "done", done);
		else if (!is_said(name) && (done || named))
			jw_kv_raw(&jo, name, text_one_line(json_raw(&doc, v), t->mem));
	}
	jw_end(&jo);
	return true;
}

static bool ollama_stream(struct told *t, struct buf *out)
{
	if (!ollama_object(t, quoted(t, &t->text), quoted(t, &t->thinking), false, out))
		return false;
	buf_char(out, '\n');
	if (!ollama_object(t, STR("\"\""), STR("\"\""), true, out))
		return false;
	buf_char(out, '\n');
	return true;
}

static bool write_other(struct told *t, bool from_stream, struct buf *out)
{
	if (t->ollama)
		return from_stream ? ollama_object(t, quoted(t, &t->text), quoted(t, &t->thinking), true, out) : ollama_stream(t, out);
	if (!t->chat && t->thinking.n)
		return false;
	from_stream ? openai_body(t, out) : openai_stream(t, out);
	return true;
}

bool llm_reshape(enum llm_backend kind, enum llm_op op, struct str body, bool from_stream, struct buf *out)
{
	struct told t = { .mem = arena_new(0), .ollama = kind == LLM_BACKEND_OLLAMA, .chat = op == LLM_CHAT };
	bool ok = !llm_embeds(op);

	if (ok && from_stream)
		ok = read_stream(&t, body);
	else if (ok)
		ok = read_one(&t, body) && t.finish[0] && (!t.ollama || t.ended);
	ok = ok && write_other(&t, from_stream, out);
	buf_free(&t.text);
	buf_free(&t.thinking);
	arena_free(t.mem);
	return ok;
}

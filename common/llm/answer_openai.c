/* answer_openai.c - answers of OpenAI's chat/completions and completions, read and written.
 * The imitations read here differ in small ways: llama.cpp says reasoning_content and adds timings, vLLM says reasoning,
 * some leave out the index of tool calls, and errors are objects, flat objects or strings. */
#include "common/llm/relay.h"

#include "common/llm/text.h"

static struct str string_member(const struct json *doc, uint32_t object, const char *key)
{
	uint32_t v = json_get(doc, object, key);

	return v && json_is_string(doc, v) ? json_raw(doc, v) : str_n(NULL, 0);
}

static void number(const struct json *doc, uint32_t value, uint64_t *ret)
{
	int64_t n = 0;

	if (value && json_i64(doc, value, &n) && n > 0)
		*ret = (uint64_t)n;
}

static void count(const struct json *doc, uint32_t object, const char *key, uint64_t *ret)
{
	number(doc, json_get(doc, object, key), ret);
}

/* A usage of zeros stands in every event of some servers: only the last, true one counts. */
static bool read_usage(const struct json *doc, uint32_t usage, struct llm_usage *u)
{
	static const struct str names[] = { STR_INIT("prompt_tokens"), STR_INIT("completion_tokens"), STR_INIT("prompt_tokens_details"),
	                                    STR_INIT("completion_tokens_details") };
	uint64_t prompt = 0, completion = 0;
	uint32_t at[4];

	if (!usage || json_kind(doc, usage) != JSON_OBJECT)
		return false;
	json_get_many(doc, usage, names, 4, at);
	number(doc, at[0], &prompt);
	number(doc, at[1], &completion);
	if (prompt + completion == 0)
		return true;
	u->prompt_tokens = prompt, u->completion_tokens = completion;
	u->reported = true;
	if (at[2])
		count(doc, at[2], "cached_tokens", &u->cached_tokens);
	if (at[3])
		count(doc, at[3], "reasoning_tokens", &u->reasoning_tokens);
	return true;
}

bool openai_read_usage(const struct json *doc, struct llm_usage *u)
{
	return read_usage(doc, json_get(doc, 0, "usage"), u) && u->reported;
}

static int64_t milliseconds(const struct json *doc, uint32_t object, const char *key)
{
	double ms = 0;

	return json_double(doc, json_get(doc, object, key), &ms) && ms > 0 && ms < 1e9 ? (int64_t)(ms * 1e6 + 0.5) : 0;
}

/* llama.cpp's: what it took, and the counts when there is no usage. */
void llamacpp_read_timings(const struct json *doc, uint32_t timings, struct llm_usage *u)
{
	uint64_t cached = 0, prompt = 0, predicted = 0;

	if (!timings || json_kind(doc, timings) != JSON_OBJECT)
		return;
	u->prompt_ns = milliseconds(doc, timings, "prompt_ms");
	u->eval_ns = milliseconds(doc, timings, "predicted_ms");
	if (u->reported)
		return;
	count(doc, timings, "cache_n", &cached);
	count(doc, timings, "prompt_n", &prompt);
	count(doc, timings, "predicted_n", &predicted);
	if (prompt + predicted == 0)
		return;
	u->prompt_tokens = cached + prompt, u->completion_tokens = predicted, u->cached_tokens = cached;
	u->reported = true;
}

void chunk_read_calls(const struct json *doc, uint32_t list, struct chunk *c, bool objects)
{
	if (!list || json_kind(doc, list) != JSON_ARRAY)
		return;
	c->too_many_calls = json_count(doc, list) > CHUNK_CALLS;
	for (uint32_t i = json_first(doc, list); i && c->n_calls < CHUNK_CALLS; i = json_next(doc, list, i)) {
		struct call *call = &c->calls[c->n_calls++];
		uint32_t function = json_get(doc, i, "function"), arguments = function ? json_get(doc, function, "arguments") : 0;
		int64_t index = 0;

		*call = (struct call){ .id = string_member(doc, i, "id"), .signature = canon_signature(doc, i) };
		call->has_index = json_i64(doc, json_get(doc, i, "index"), &index) && index >= 0 && index < 1024;
		call->index = call->has_index ? (uint32_t)index : c->n_calls - 1;
		if (function)
			call->name = string_member(doc, function, "name");
		if (arguments && (objects || json_is_string(doc, arguments)))
			call->arguments = json_raw(doc, arguments);
		call->is_object = objects && arguments && json_kind(doc, arguments) == JSON_OBJECT;
	}
}

static void read_text(const struct json *doc, uint32_t text, struct chunk *c)
{
	if (!text || !json_is_string(doc, text))
		return;
	c->text = json_raw(doc, text);
	c->text_tok = text;
}

/* A delta of a stream, or a whole message. */
static void read_said(const struct json *doc, uint32_t said, struct chunk *c)
{
	enum { CONTENT, REASONING_CONTENT, REASONING, TOOL_CALLS, N };
	static const struct str names[N] = { STR_INIT("content"), STR_INIT("reasoning_content"), STR_INIT("reasoning"), STR_INIT("tool_calls") };
	uint32_t at[N], thinking;

	json_get_many(doc, said, names, N, at);
	read_text(doc, at[CONTENT], c);
	thinking = at[REASONING_CONTENT] && json_is_string(doc, at[REASONING_CONTENT]) ? at[REASONING_CONTENT] : at[REASONING];
	if (thinking && json_is_string(doc, thinking)) {
		c->thinking = json_raw(doc, thinking);
		if (text_is_empty(c->text))
			c->text_tok = thinking;
	}
	chunk_read_calls(doc, at[TOOL_CALLS], c, false);
}

static void read_choice(const struct json *doc, uint32_t choice, struct chunk *c, struct arena *mem)
{
	enum { DELTA, MESSAGE, FINISH, LOGPROBS, TEXT, STOP, N };
	static const struct str names[N] = { STR_INIT("delta"), STR_INIT("message"), STR_INIT("finish_reason"), STR_INIT("logprobs"), STR_INIT("text"),
	                                      STR_INIT("stop_reason") };
	uint32_t at[N], logprobs;
	struct str finish;

	json_get_many(doc, choice, names, N, at);
	logprobs = at[LOGPROBS];
	finish = at[FINISH] ? json_string(doc, at[FINISH], mem) : str_n(NULL, 0);
	if (has(finish))
		c->finish = finish;
	if (at[STOP] && json_is_string(doc, at[STOP]))           /* vLLM's; a number when it is a token */
		c->stop_string = json_raw(doc, at[STOP]);
	if (at[DELTA] || at[MESSAGE])
		read_said(doc, at[DELTA] ? at[DELTA] : at[MESSAGE], c);
	else
		read_text(doc, at[TEXT], c);
	if (logprobs && json_kind(doc, logprobs) == JSON_OBJECT)
		c->logprobs = json_raw(doc, json_get(doc, logprobs, "content") ? json_get(doc, logprobs, "content") : logprobs);
}

void openai_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	enum { CHOICES, ERROR, OBJECT, USAGE, TIMINGS, N };
	static const struct str names[N] = { STR_INIT("choices"), STR_INIT("error"), STR_INIT("object"), STR_INIT("usage"), STR_INIT("timings") };
	uint32_t at[N], choices;

	chunk_clear(c);
	json_get_many(doc, 0, names, N, at);
	choices = at[CHOICES];
	if (at[ERROR] && json_kind(doc, at[ERROR]) != JSON_NULL)
		c->error = json_raw(doc, at[ERROR]);
	else if (at[OBJECT] && json_string_eq(doc, at[OBJECT], "error"))
		c->error = json_raw(doc, 0);
	c->has_usage = read_usage(doc, at[USAGE], u);
	llamacpp_read_timings(doc, at[TIMINGS], u);
	c->is_answer = choices && json_kind(doc, choices) == JSON_ARRAY;
	if (!c->is_answer)
		return;
	for (uint32_t i = json_first(doc, choices); i; i = json_next(doc, choices, i), c->n_choices++)
		read_choice(doc, i, c, mem);
}

/* Writing: what Ollama said, for a client of OpenAI's dialect. */

static bool is_chat(const struct llm_relay *r) { return r->in->op == LLM_CHAT; }

static const char *finish_of(const struct llm_relay *r)
{
	return strcmp(r->finish, "length") == 0 || strcmp(r->finish, "tool_calls") == 0 || strcmp(r->finish, "content_filter") == 0 ? r->finish : "stop";
}

static void write_identity(struct llm_relay *r, const char *object, struct buf *out)
{
	buf_printf(out, "{\"id\":\"%s-" STR_FMT "\",\"object\":\"%s\",\"created\":%lld,\"model\":", is_chat(r) ? "chatcmpl" : "cmpl",
	           STR_ARG(r->target->request_id), object, (long long)(r->target->created_us / 1000000));
	buf_str(out, text_quote(r->target->shown_model, r->mem));
	buf_addz(out, ",\"choices\":[");
}

static void begin_event(struct llm_relay *r, struct buf *out)
{
	struct buf b = { 0 };

	if (!has(r->head)) {
		buf_addz(&b, "data: ");
		write_identity(r, is_chat(r) ? "chat.completion.chunk" : "text_completion", &b);
		r->head = arena_str(r->mem, buf_as_str(&b));
		buf_free(&b);
	}
	buf_str(out, r->head);
	r->started = true;
}

static void end_event(struct llm_relay *r, struct buf *out)
{
	buf_addz(out, r->in->want_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

/* A whole call; what the backend says of its index says little: they are counted here. */
static void write_call(struct llm_relay *r, const struct call *call, struct buf *out, bool with_index)
{
	uint32_t n = r->calls_sent++;
	struct str id = r->target->request_id, short_id = str_from(id, id.n > 8 ? id.n - 8 : 0);

	buf_addz(out, "{");
	if (with_index)
		buf_printf(out, "\"index\":%u,", n);
	buf_addz(out, "\"id\":");
	buf_str(out, has(call->id) ? call->id : text_quote(arena_fmt(r->mem, "call_" STR_FMT "_%u", STR_ARG(short_id), n), r->mem));
	buf_addz(out, ",\"type\":\"function\",\"function\":{\"name\":");
	buf_str(out, has(call->name) ? call->name : STR("\"\""));
	buf_addz(out, ",\"arguments\":");
	buf_str(out, !has(call->arguments) ? STR("\"{}\"") : call->arguments.p[0] != '"' ? text_quote(call->arguments, r->mem) : call->arguments);
	buf_char(out, '}');
	if (has(call->signature)) {
		buf_addz(out, ",\"extra_content\":{\"google\":{\"thought_signature\":");
		buf_str(out, call->signature);
		buf_addz(out, "}}");
	}
	buf_char(out, '}');
}

static void write_call_rest(uint32_t index, struct str arguments, struct buf *out)
{
	buf_printf(out, "{\"index\":%u,\"function\":{\"arguments\":", index);
	buf_str(out, arguments);
	buf_addz(out, "}}");
}

/* A piece of a call: the first has its id and name, the others their part of the arguments. */
static void write_call_piece(struct llm_relay *r, const struct call *call, struct buf *out)
{
	struct pending *p = pending_add(r, call);
	struct call first = *call;

	if (!p)                           /* one too many: told at the end */
		return;
	if (p->begun) {
		write_call_rest((uint32_t)(p - r->pending), has(call->arguments) ? call->arguments : STR("\"\""), out);
		return;
	}
	p->begun = true;
	first.arguments = has(call->arguments) ? call->arguments : STR("\"\"");
	write_call(r, &first, out, true);
}

static void write_calls(struct llm_relay *r, const struct chunk *c, struct buf *out, bool stream)
{
	buf_addz(out, "\"tool_calls\":[");
	for (uint32_t i = 0; i < c->n_calls; i++) {
		if (i)
			buf_char(out, ',');
		if (stream && !r->reader->whole_calls)
			write_call_piece(r, &c->calls[i], out);
		else
			write_call(r, &c->calls[i], out, stream);
	}
	buf_char(out, ']');
}

static void write_chat_piece(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	const char *comma = "";

	begin_event(r, out);
	buf_addz(out, "{\"index\":0,\"delta\":{");
	if (!r->role_sent) {
		buf_addz(out, "\"role\":\"assistant\",\"content\":");
		buf_str(out, !text_is_empty(c->text) ? c->text : c->n_calls ? STR("null") : STR("\"\""));
		comma = ",";
	} else if (!text_is_empty(c->text)) {
		buf_addz(out, "\"content\":");
		buf_str(out, c->text);
		comma = ",";
	}
	r->role_sent = true;
	if (!text_is_empty(c->thinking)) {
		buf_addz(out, comma);
		buf_addz(out, "\"reasoning_content\":");
		buf_str(out, c->thinking);
		comma = ",";
	}
	if (c->n_calls) {
		buf_addz(out, comma);
		write_calls(r, c, out, true);
	}
	buf_addz(out, "},");
	if (has(c->logprobs)) {
		buf_addz(out, "\"logprobs\":{\"content\":");
		buf_str(out, c->logprobs);
		buf_addz(out, ",\"refusal\":null},");
	}
	buf_addz(out, "\"finish_reason\":null}");
	end_event(r, out);
}

/* /v1/completions lists logprobs in columns. */
struct columns {
	struct json doc;
	struct llm_relay *r;
};

static uint64_t characters(struct str s)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s.n; i++)
		n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
	return n;
}

static void column(struct columns *k, const char *name, const char *key, struct json_out *jo)
{
	jw_key(jo, name), jw_arr(jo);
	for (uint32_t v = json_first(&k->doc, 0); v; v = json_next(&k->doc, 0, v))
		jw_raw(jo, json_get(&k->doc, v, key) ? json_raw(&k->doc, json_get(&k->doc, v, key)) : STR("null"));
	jw_end(jo);
}

/* Tokens of different ids may have the same text, of which an object takes one: the likelier, which comes first. */
static void top_tokens(struct columns *k, uint32_t list, struct json_out *jo)
{
	enum { TOP_MAX = 64 };
	struct str seen[TOP_MAX];
	unsigned n = 0, i;

	for (uint32_t t = list ? json_first(&k->doc, list) : 0; t && n < TOP_MAX; t = json_next(&k->doc, list, t)) {
		uint32_t token = json_get(&k->doc, t, "token"), logprob = json_get(&k->doc, t, "logprob");

		if (!token || !logprob)
			continue;
		seen[n] = json_string(&k->doc, token, k->r->scratch);
		for (i = 0; i < n && !str_eq(seen[i], seen[n]); i++)
			;
		if (i == n)
			jw_key_str(jo, seen[n++]), jw_raw(jo, json_raw(&k->doc, logprob));
	}
}

static void top_column(struct columns *k, struct json_out *jo)
{
	jw_key(jo, "top_logprobs"), jw_arr(jo);
	for (uint32_t v = json_first(&k->doc, 0); v; v = json_next(&k->doc, 0, v)) {
		jw_obj(jo);
		top_tokens(k, json_get(&k->doc, v, "top_logprobs"), jo);
		jw_end(jo);
	}
	jw_end(jo);
}

static void offset_column(struct columns *k, struct json_out *jo)
{
	jw_key(jo, "text_offset"), jw_arr(jo);
	for (uint32_t v = json_first(&k->doc, 0); v; v = json_next(&k->doc, 0, v)) {
		jw_u64(jo, k->r->text_chars);
		k->r->text_chars += characters(json_string(&k->doc, json_get(&k->doc, v, "token"), k->r->scratch));
	}
	jw_end(jo);
}

static void write_completion_logprobs(struct llm_relay *r, struct str list, struct buf *out)
{
	struct columns k = { .r = r };
	struct json_out jo;

	if (!has(list) || json_parse(&k.doc, r->scratch, list, NULL, NULL) != ERR_OK || json_kind(&k.doc, 0) != JSON_ARRAY) {
		buf_addz(out, "null");
		return;
	}
	json_begin(&jo, out);
	jw_obj(&jo);
	column(&k, "tokens", "token", &jo);
	column(&k, "token_logprobs", "logprob", &jo);
	top_column(&k, &jo);
	offset_column(&k, &jo);
	jw_end(&jo);
}

static void write_completion_choice(struct llm_relay *r, const struct chunk *c, const char *finish, struct buf *out)
{
	buf_addz(out, "{\"text\":");
	buf_str(out, has(c->text) ? c->text : STR("\"\""));
	buf_addz(out, ",\"index\":0,\"logprobs\":");
	write_completion_logprobs(r, c->logprobs, out);
	buf_printf(out, finish ? ",\"finish_reason\":\"%s\"}" : ",\"finish_reason\":null}", finish);
}

static void openai_piece(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	if (text_is_empty(c->text) && text_is_empty(c->thinking) && !c->n_calls && !has(c->logprobs))
		return;
	if (is_chat(r)) {
		write_chat_piece(r, c, out);
		return;
	}
	begin_event(r, out);
	write_completion_choice(r, c, NULL, out);
	end_event(r, out);
}

static void write_usage(const struct llm_relay *r, struct buf *out)
{
	const struct llm_usage *u = &r->usage;

	buf_printf(out, "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,\"prompt_tokens_details\":{\"cached_tokens\":%llu}",
	           (unsigned long long)u->prompt_tokens, (unsigned long long)u->completion_tokens,
	           (unsigned long long)(u->prompt_tokens + u->completion_tokens), (unsigned long long)u->cached_tokens);
	if (u->reasoning_tokens)
		buf_printf(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%llu}", (unsigned long long)u->reasoning_tokens);
	if (r->in->stream && r->cost)     /* a whole answer has a header for it */
		buf_printf(out, ",\"cost_microusd\":%lld", (long long)r->cost(r->cost_arg, u));
	buf_char(out, '}');
}

/* A call without arguments is one of an empty object. */
static void end_calls(struct llm_relay *r, struct buf *out)
{
	for (uint32_t i = 0; i < r->n_pending; i++) {
		if (r->pending[i].arguments.n)
			continue;
		begin_event(r, out);
		buf_addz(out, "{\"index\":0,\"delta\":{\"tool_calls\":[");
		write_call_rest(i, STR("\"{}\""), out);
		buf_addz(out, "]},\"finish_reason\":null}");
		end_event(r, out);
	}
}

static bool openai_finish(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	static const struct chunk nothing;

	if (r->too_many_calls) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the model called more than %d tools at once", RELAY_CALLS);
		return false;
	}
	end_calls(r, out);
	begin_event(r, out);
	if (is_chat(r))
		buf_printf(out, "{\"index\":0,\"delta\":{%s},\"finish_reason\":\"%s\"}", r->role_sent ? "" : "\"role\":\"assistant\",\"content\":\"\"", finish_of(r));
	else
		write_completion_choice(r, &nothing, finish_of(r), out);
	end_event(r, out);
	if (r->in->want_usage && (r->usage.reported || !r->target->no_guess)) {
		begin_event(r, out);
		buf_addz(out, "],");
		write_usage(r, out);
		buf_addz(out, "}\n\n");
	}
	buf_addz(out, "data: [DONE]\n\n");
	return true;
}

static void write_chat_choice(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	buf_addz(out, "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
	buf_str(out, !text_is_empty(c->text) ? c->text : c->n_calls ? STR("null") : STR("\"\""));
	buf_addz(out, ",\"refusal\":null");
	if (!text_is_empty(c->thinking)) {
		buf_addz(out, ",\"reasoning_content\":");
		buf_str(out, c->thinking);
	}
	if (c->n_calls) {
		buf_char(out, ',');
		write_calls(r, c, out, false);
	}
	buf_addz(out, "},\"logprobs\":");
	if (has(c->logprobs)) {
		buf_addz(out, "{\"content\":");
		buf_str(out, c->logprobs);
		buf_addz(out, ",\"refusal\":null}");
	} else {
		buf_addz(out, "null");
	}
	buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_of(r));
}

static bool openai_whole(struct llm_relay *r, const struct chunk *c, const struct llm_extra *extra, struct buf *out)
{
	write_identity(r, is_chat(r) ? "chat.completion" : "text_completion", out);
	if (is_chat(r))
		write_chat_choice(r, c, out);
	else
		write_completion_choice(r, c, finish_of(r), out);
	buf_addz(out, "],");
	write_usage(r, out);
	buf_char(out, '}');
	return true;
}

const struct writer openai_writer = { openai_piece, openai_finish, openai_whole, false };

/* answer_ollama.c - answers of Ollama's /api/chat and /api/generate, read and written. */
#include "common/base/clock.h"
#include "common/llm/relay.h"

#include "common/llm/text.h"

static struct str string_member(const struct json *doc, uint32_t object, const char *key, uint32_t *tok)
{
	uint32_t v = json_get(doc, object, key);

	if (!v || !json_is_string(doc, v))
		return str_n(NULL, 0);
	if (tok)
		*tok = v;
	return json_raw(doc, v);
}

static uint64_t whole(const struct json *doc, const char *key)
{
	int64_t n = 0;

	return json_i64(doc, json_get(doc, 0, key), &n) && n > 0 ? (uint64_t)n : 0;
}

/* A zero is left out by Ollama, so the last object reports whenever it names one of the counts or the whole duration. */
static void read_usage(const struct json *doc, struct llm_usage *u)
{
	u->prompt_tokens = whole(doc, "prompt_eval_count");
	u->completion_tokens = whole(doc, "eval_count");
	u->cached_tokens = whole(doc, "prompt_eval_cached_count");
	u->total_ns = (int64_t)whole(doc, "total_duration");
	u->load_ns = (int64_t)whole(doc, "load_duration");
	u->prompt_ns = (int64_t)whole(doc, "prompt_eval_duration");
	u->eval_ns = (int64_t)whole(doc, "eval_duration");
	u->reported = u->prompt_tokens || u->completion_tokens || u->total_ns;
}

bool ollama_read_usage(const struct json *doc, struct llm_usage *u)
{
	read_usage(doc, u);
	return u->reported;
}

void ollama_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t error = json_get(doc, 0, "error"), said = json_get(doc, 0, "message"), done = json_get(doc, 0, "done");
	uint32_t where = said ? said : 0, logprobs = json_get(doc, 0, "logprobs"), thinking = 0;

	chunk_clear(c);
	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	c->is_answer = said || json_get(doc, 0, "response") || json_get(doc, 0, "done_reason");
	c->text = string_member(doc, where, said ? "content" : "response", &c->text_tok);
	c->thinking = string_member(doc, where, "thinking", &thinking);
	if (thinking && text_is_empty(c->text))
		c->text_tok = thinking;
	chunk_read_calls(doc, json_get(doc, where, "tool_calls"), c, true);
	if (logprobs && json_kind(doc, logprobs) == JSON_ARRAY)
		c->logprobs = json_raw(doc, logprobs);
	c->n_choices = 1;
	c->end = done && json_kind(doc, done) == JSON_TRUE;
	if (c->end) {
		c->finish = json_string(doc, json_get(doc, 0, "done_reason"), mem);
		read_usage(doc, u);
		c->has_usage = true;
	}
}

/* Writing: what an OpenAI-style server said, for a client of Ollama's dialect. */

static void begin_line(struct llm_relay *r, struct buf *out)
{
	char stamp[32];
	size_t n = clock_rfc3339(wall_us(), 6, stamp, sizeof(stamp));

	if (!has(r->head))
		r->head = arena_fmt(r->mem, "{\"model\":" STR_FMT ",\"created_at\":\"", STR_ARG(text_quote(r->target->shown_model, r->mem)));
	buf_str(out, r->head);
	buf_add(out, stamp, n);
	buf_addz(out, "\",");
	r->started = true;
}

/* "message":{…} or "response":… with what belongs to it. False: the calls cannot be written. */
static bool write_said(struct llm_relay *r, struct str text, struct str thinking, bool calls, struct buf *out)
{
	bool chat = r->in->op == LLM_CHAT;
	struct json_out jo;

	buf_addz(out, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"response\":");
	buf_str(out, has(text) ? text : STR("\"\""));
	if (!text_is_empty(thinking)) {
		buf_addz(out, ",\"thinking\":");
		buf_str(out, thinking);
	}
	if (calls && r->too_many_calls) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the model called more than %d tools at once", RELAY_CALLS);
		return false;
	}
	if (calls && r->n_pending) {
		buf_addz(out, ",\"tool_calls\":");
		json_begin(&jo, out);
		jw_arr(&jo);
		for (uint32_t i = 0; i < r->n_pending; i++) {
			const struct pending *p = &r->pending[i];

			jw_obj(&jo);
			if (has(p->id))
				jw_kv_raw(&jo, "id", p->id);
			jw_key(&jo, "function"), jw_obj(&jo);
			jw_kv_u64(&jo, "index", i);
			jw_kv_raw(&jo, "name", has(p->name) ? p->name : STR("\"\""));
			jw_key(&jo, "arguments");
			if (!pending_arguments(r, p, &jo))
				return false;
			jw_end(&jo), jw_end(&jo);
		}
		jw_end(&jo);
	}
	if (chat)
		buf_char(out, '}');
	return true;
}

static void write_logprobs(struct llm_relay *r, struct str list, struct buf *out)
{
	if (!has(list) || list.p[0] != '[')
		return;
	buf_addz(out, ",\"logprobs\":");
	buf_str(out, text_one_line(list, r->mem));
}

static void ollama_piece(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	for (uint32_t i = 0; i < c->n_calls; i++)
		pending_add(r, &c->calls[i]);
	if (text_is_empty(c->text) && text_is_empty(c->thinking) && !has(c->logprobs))
		return;
	begin_line(r, out);
	write_said(r, c->text, c->thinking, false, out);
	write_logprobs(r, c->logprobs, out);
	buf_addz(out, ",\"done\":false}\n");
}

static const char *reason_of(const struct llm_relay *r)
{
	return strcmp(r->finish, "tool_calls") == 0 || strcmp(r->finish, "function_call") == 0 ? "stop" : r->finish;
}

static void write_figures(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	struct durations d = durations_of(r, extra);

	if (r->in->stream && r->cost)     /* a whole answer has a header for it */
		buf_printf(out, ",\"cost_microusd\":%lld", (long long)r->cost(r->cost_arg, &r->usage));
	buf_printf(out, ",\"done\":true,\"done_reason\":" STR_FMT ",\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":%llu,"
	           "\"prompt_eval_cached_count\":%llu,\"prompt_eval_duration\":%lld,\"eval_count\":%llu,\"eval_duration\":%lld}",
	           STR_ARG(text_quote(str_of(reason_of(r)), r->mem)), (long long)d.total_ns, (long long)d.load_ns,
	           (unsigned long long)r->usage.prompt_tokens, (unsigned long long)r->usage.cached_tokens, (long long)d.prompt_ns,
	           (unsigned long long)r->usage.completion_tokens, (long long)d.eval_ns);
}

static bool ollama_finish(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	size_t before = out->n;

	if (r->n_pending) {
		begin_line(r, out);
		if (!write_said(r, STR("\"\""), str_n("", 0), true, out)) {
			out->n = before;
			return false;
		}
		buf_addz(out, ",\"done\":false}\n");
	}
	begin_line(r, out);
	write_said(r, STR("\"\""), str_n("", 0), false, out);
	write_figures(r, extra, out);
	buf_char(out, '\n');
	return true;
}

static bool ollama_whole(struct llm_relay *r, const struct chunk *c, const struct llm_extra *extra, struct buf *out)
{
	size_t before = out->n;

	for (uint32_t i = 0; i < c->n_calls; i++)
		pending_add(r, &c->calls[i]);
	begin_line(r, out);
	if (!write_said(r, c->text, c->thinking, true, out)) {
		out->n = before;
		return false;
	}
	write_logprobs(r, c->logprobs, out);
	write_figures(r, extra, out);
	return true;
}

const struct writer ollama_writer = { ollama_piece, ollama_finish, ollama_whole, true };

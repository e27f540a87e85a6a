/* dialect_ollama.c - Ollama's /api/chat and /api/generate: reading and writing of requests and answers. */
#include "common/llm/canon.h"

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

static void read_calls(const struct json *doc, uint32_t list, struct chunk *c)
{
	if (!list || json_kind(doc, list) != JSON_ARRAY)
		return;
	for (uint32_t i = json_first(doc, list); i && c->n_calls < CHUNK_CALLS; i = json_next(doc, list, i)) {
		struct call *call = &c->calls[c->n_calls++];
		uint32_t function = json_get(doc, i, "function"), arguments = function ? json_get(doc, function, "arguments") : 0;

		*call = (struct call){ .id = string_member(doc, i, "id", NULL), .index = c->n_calls - 1 };
		if (!function)
			continue;
		call->name = string_member(doc, function, "name", NULL);
		if (arguments)
			call->arguments = json_raw(doc, arguments);
		call->is_object = arguments && json_kind(doc, arguments) == JSON_OBJECT;
	}
}

void ollama_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t error = json_get(doc, 0, "error"), said = json_get(doc, 0, "message"), done = json_get(doc, 0, "done");
	uint32_t where = said ? said : 0, logprobs = json_get(doc, 0, "logprobs"), thinking = 0;

	memset(c, 0, offsetof(struct chunk, calls));
	memset(&c->n_calls, 0, sizeof(*c) - offsetof(struct chunk, n_calls));
	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	c->is_answer = said || json_get(doc, 0, "response") || json_get(doc, 0, "done_reason");
	c->text = string_member(doc, where, said ? "content" : "response", &c->text_tok);
	c->thinking = string_member(doc, where, "thinking", &thinking);
	if (thinking && text_is_empty(c->text))
		c->text_tok = thinking;
	read_calls(doc, json_get(doc, where, "tool_calls"), c);
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

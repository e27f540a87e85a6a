/* dialect_openai.c - OpenAI's chat/completions and completions: reading and writing of requests and answers.
 * The imitations read here differ in small ways: llama.cpp says reasoning_content and adds timings, vLLM says reasoning,
 * some leave out the index of tool calls, and errors are objects, flat objects or strings. */
#include "common/llm/canon.h"

#include "common/llm/text.h"

static struct str string_member(const struct json *doc, uint32_t object, const char *key)
{
	uint32_t v = json_get(doc, object, key);

	return v && json_is_string(doc, v) ? json_raw(doc, v) : str_n(NULL, 0);
}

static void count(const struct json *doc, uint32_t object, const char *key, uint64_t *ret)
{
	int64_t n = 0;

	if (json_i64(doc, json_get(doc, object, key), &n) && n > 0)
		*ret = (uint64_t)n;
}

/* A usage of zeros stands in every event of some servers: only the last, true one counts. */
static bool read_usage(const struct json *doc, uint32_t usage, struct llm_usage *u)
{
	uint64_t prompt = 0, completion = 0;

	if (!usage || json_kind(doc, usage) != JSON_OBJECT)
		return false;
	count(doc, usage, "prompt_tokens", &prompt);
	count(doc, usage, "completion_tokens", &completion);
	if (prompt + completion == 0)
		return true;
	u->prompt_tokens = prompt, u->completion_tokens = completion;
	u->reported = true;
	count(doc, json_get(doc, usage, "prompt_tokens_details"), "cached_tokens", &u->cached_tokens);
	return true;
}

static int64_t milliseconds(const struct json *doc, uint32_t object, const char *key)
{
	double ms = 0;

	return json_double(doc, json_get(doc, object, key), &ms) && ms > 0 && ms < 1e9 ? (int64_t)(ms * 1e6) : 0;
}

/* llama.cpp's: what it took, and the counts when there is no usage. */
static void read_timings(const struct json *doc, uint32_t timings, struct llm_usage *u)
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

static void read_calls(const struct json *doc, uint32_t list, struct chunk *c)
{
	if (!list || json_kind(doc, list) != JSON_ARRAY)
		return;
	for (uint32_t i = json_first(doc, list); i && c->n_calls < CHUNK_CALLS; i = json_next(doc, list, i)) {
		struct call *call = &c->calls[c->n_calls++];
		uint32_t function = json_get(doc, i, "function");
		int64_t index = 0;

		*call = (struct call){ .id = string_member(doc, i, "id") };
		call->has_index = json_i64(doc, json_get(doc, i, "index"), &index) && index >= 0 && index < 1024;
		call->index = call->has_index ? (uint32_t)index : c->n_calls - 1;
		if (!function)
			continue;
		call->name = string_member(doc, function, "name");
		call->arguments = string_member(doc, function, "arguments");
	}
}

static void read_choice(const struct json *doc, uint32_t choice, struct chunk *c, struct arena *mem)
{
	uint32_t said = json_get(doc, choice, "delta"), text;
	struct str finish = json_string(doc, json_get(doc, choice, "finish_reason"), mem);
	uint32_t logprobs = json_get(doc, choice, "logprobs");

	if (!said)
		said = json_get(doc, choice, "message");
	if (has(finish))
		c->finish = finish;
	text = said ? json_get(doc, said, "content") : json_get(doc, choice, "text");
	if (text && json_is_string(doc, text)) {
		c->text = json_raw(doc, text);
		c->text_tok = text;
	}
	if (said) {
		uint32_t thinking = json_get(doc, said, "reasoning_content");

		if (!thinking || !json_is_string(doc, thinking))
			thinking = json_get(doc, said, "reasoning");
		if (thinking && json_is_string(doc, thinking)) {
			c->thinking = json_raw(doc, thinking);
			if (text_is_empty(c->text))
				c->text_tok = thinking;
		}
		read_calls(doc, json_get(doc, said, "tool_calls"), c);
	}
	if (logprobs && json_kind(doc, logprobs) == JSON_OBJECT)
		c->logprobs = json_raw(doc, json_get(doc, logprobs, "content") ? json_get(doc, logprobs, "content") : logprobs);
}

void openai_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t choices = json_get(doc, 0, "choices"), error = json_get(doc, 0, "error");

	memset(c, 0, offsetof(struct chunk, calls));
	memset(&c->n_calls, 0, sizeof(*c) - offsetof(struct chunk, n_calls));
	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	else if (json_string_eq(doc, json_get(doc, 0, "object"), "error"))
		c->error = json_raw(doc, 0);
	c->has_usage = read_usage(doc, json_get(doc, 0, "usage"), u);
	read_timings(doc, json_get(doc, 0, "timings"), u);
	c->is_answer = choices && json_kind(doc, choices) == JSON_ARRAY;
	if (!c->is_answer)
		return;
	for (uint32_t i = json_first(doc, choices); i; i = json_next(doc, choices, i), c->n_choices++)
		read_choice(doc, i, c, mem);
}

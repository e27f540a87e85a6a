/* job_input.c - see job_input.h. */
#include "common/llm/job_input.h"

#include <stdio.h>

#include "common/base/buf.h"

enum err job_unknown(const struct json *j, uint32_t value, const char *where, struct why *why)
{
	struct str key = json_key_raw(j, value);
	char field[96];

	snprintf(field, sizeof(field), "%s" STR_FMT, where, (int)(key.n < 64 ? key.n : 64), key.p);
	return err_field(why, ERR_UNSUPPORTED_FIELD, field, "%s is not supported here", field);
}

/* A route, and the body for it. */
static enum err read_routed(struct job_input *in, const struct json *j, uint32_t input, const char *route, const char *request, struct arena *a, struct why *why)
{
	uint32_t body = json_get(j, input, request);
	struct str path = STR("");

	for (uint32_t i = json_first(j, input); i; i = json_next(j, input, i))
		if (!json_key_is(j, i, route) && !json_key_is(j, i, request))
			return job_unknown(j, i, "input.", why);
	if (!json_opt_str(j, input, route, &path, a, why))
		return why->code;
	if (!path.n || !body || json_kind(j, body) != JSON_OBJECT)
		return err_field(why, ERR_MALFORMED, "input", "input.%s is the path of a route of inference, input.%s the object to send there", route, request);
	in->path = path;
	in->body = json_raw(j, body);
	return ERR_OK;
}

static bool has(const struct json *j, uint32_t input, const char *key)
{
	uint32_t v = json_get(j, input, key);

	return v && json_kind(j, v) != JSON_NULL;
}

/* Each dialect has words that the others lack. */
static struct str chat_path(const struct json *j, uint32_t input)
{
	if (has(j, input, "system") || has(j, input, "stop_sequences"))
		return STR("/v1/messages");
	if (has(j, input, "options") || has(j, input, "keep_alive") || has(j, input, "think"))
		return STR("/api/chat");
	return STR("/v1/chat/completions");
}

/* RunPod's vLLM worker completes a prompt as it is, unless told to treat it as a chat. */
static struct str prompt_path(const struct json *j, uint32_t input)
{
	bool templated = false;

	(void)json_bool(j, json_get(j, input, "apply_chat_template"), &templated);
	if (templated || (!has(j, input, "apply_chat_template") && !has(j, input, "sampling_params")))
		return STR("/inference");
	return STR("/v1/completions");
}

/* Words of the worker that say how, not what. */
static bool is_workers(const struct json *j, uint32_t value)
{
	static const char *const words[] = { "sampling_params", "apply_chat_template", "max_batch_size", "min_batch_size", "batch_size_growth_factor", "use_openai_format" };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (json_key_is(j, value, words[i]))
			return true;
	return false;
}

static void add_members(struct buf *b, const struct json *j, uint32_t object)
{
	for (uint32_t i = json_first(j, object); i; i = json_next(j, object, i)) {
		if (is_workers(j, i))
			continue;
		if (b->n > 1)
			buf_char(b, ',');
		buf_char(b, '"');
		buf_str(b, json_key_raw(j, i));
		buf_addz(b, "\":");
		buf_str(b, json_raw(j, i));
	}
}

/* The same object with the sampling parameters among its members, and with a model. Equal keys are found when it is read. */
static enum err flatten(struct job_input *in, const struct json *j, uint32_t input, struct arena *a, struct why *why)
{
	uint32_t sampling = json_get(j, input, "sampling_params");
	struct buf b = { 0 };

	if (sampling && json_kind(j, sampling) != JSON_OBJECT && json_kind(j, sampling) != JSON_NULL)
		return err_field(why, ERR_MALFORMED, "input.sampling_params", "input.sampling_params must be an object");
	buf_char(&b, '{');
	add_members(&b, j, input);
	if (sampling)
		add_members(&b, j, sampling);
	if (!has(j, input, "model"))
		buf_addz(&b, b.n > 1 ? ",\"model\":\"auto\"" : "\"model\":\"auto\"");
	buf_char(&b, '}');
	in->body = arena_str(a, buf_as_str(&b));
	buf_free(&b);
	return ERR_OK;
}

enum err job_input_read(struct job_input *in, const struct json *j, uint32_t input, struct arena *a, struct why *why)
{
	if (!input || json_kind(j, input) != JSON_OBJECT || !json_count(j, input))
		return err_field(why, ERR_MALFORMED, "input", "input is missing: send {\"input\": {\"prompt\": \"…\"}}, with what an inference request takes");
	if (has(j, input, "route"))
		return read_routed(in, j, input, "route", "request", a, why);
	if (has(j, input, "openai_route"))
		return read_routed(in, j, input, "openai_route", "openai_input", a, why);
	if (!has(j, input, "messages") && !has(j, input, "prompt"))
		return err_field(why, ERR_MALFORMED, "input", "input has neither prompt nor messages, nor a route with a request");
	in->path = has(j, input, "messages") ? chat_path(j, input) : prompt_path(j, input);
	return flatten(in, j, input, a, why);
}

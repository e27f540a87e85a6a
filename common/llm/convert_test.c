/* convert_test.c - requests and answers between dialects, against golden files.
 *
 * tests/golden/llm/NAME.request.json ──▶ NAME.upstream.json, and RECORDED ──▶ NAME.client.EXT, at every split of the recording.
 * With CORRAL_GOLDEN_WRITE set the right sides are written anew: look at the difference before it is committed. */
#include "common/llm/fields.h"
#include "common/llm/llm_test.h"

struct golden {
	const char *name;
	enum llm_dialect d;
	enum llm_op op;
	enum llm_backend b;
	const char *path;             /* of the plan */
	const char *recorded;         /* the backend's answer, NULL = none */
	const char *client;           /* extension of what the client gets */
	const char *accept;
};

static const struct golden goldens[] = {
	{ "openai-ollama-chat", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.chat-stream.ndjson", "sse", "" },
	{ "openai-ollama-chat-whole", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.chat-nonstream.json", "json", "" },
	{ "openai-ollama-tools", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.tools-native-stream.ndjson", "sse", "" },
	{ "openai-ollama-tool-result", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.tool-result.json", "json", "" },
	{ "openai-ollama-think", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.think-native-stream.ndjson", "sse", "" },
	{ "openai-ollama-everything", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.logprobs.json", "json", "" },
	{ "openai-ollama-completion", LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "/api/generate", "ollama.generate-stream.ndjson", "sse", "" },
	{ "openai-ollama-completion-whole", LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "/api/generate", "made.generate-logprobs.json", "json", "" },
	{ "ollama-llamacpp-chat", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.chat-stream-usage.sse", "ndjson", "" },
	{ "ollama-llamacpp-tools", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.tools-stream.sse", "ndjson", "" },
	{ "ollama-llamacpp-tools-whole", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.tools.json", "json", "" },
	{ "ollama-llamacpp-think-whole", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.think.json", "json", "" },
	{ "ollama-openai-think", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OPENAI, "/v1/chat/completions", "ollama.think-v1-stream.sse", "ndjson", "" },
	{ "ollama-llamacpp-generate", LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.chat-stream-nousage.sse", "ndjson", "" },
	{ "ollama-openai-raw", LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_OPENAI, "/v1/completions", "ollama.v1-completions-stream.sse", "ndjson", "" },
	{ "ollama-openai-two-tools", LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OPENAI, "/v1/chat/completions", "made.two-tools.sse", "ndjson", "" },
	{ "openai-llamacpp-infill", LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "/infill", "llamacpp.completion-stream.sse", "sse", "" },
	{ "ollama-llamacpp-infill", LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "/infill", "llamacpp.completion.json", "json", "" },
	{ "native-ollama", LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.chat-nonstream.json", "json", "" },
	{ "native-ollama-stream", LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.think-native-stream.ndjson", "ndjson", "" },
	{ "native-llamacpp-sse", LLM_NATIVE, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.chat-stream-usage.sse", "sse", "text/event-stream" },
	{ "anthropic-llamacpp-chat", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.chat-stream-usage.sse", "sse", "" },
	{ "anthropic-llamacpp-tools", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.tools-stream.sse", "sse", "" },
	{ "anthropic-llamacpp-tools-whole", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.tools.json", "json", "" },
	{ "anthropic-llamacpp-think-whole", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "/v1/chat/completions", "llamacpp.think.json", "json", "" },
	{ "anthropic-openai-think", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OPENAI, "/v1/chat/completions", "ollama.think-v1-stream.sse", "sse", "" },
	{ "anthropic-openai-two-tools", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OPENAI, "/v1/chat/completions", "made.two-tools.sse", "sse", "" },
	{ "anthropic-ollama-chat", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.chat-stream.ndjson", "sse", "" },
	{ "anthropic-ollama-chat-whole", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.chat-nonstream.json", "json", "" },
	{ "anthropic-ollama-tools", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.tools-native-stream.ndjson", "sse", "" },
	{ "anthropic-ollama-tool-result", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.tool-result.json", "json", "" },
	{ "anthropic-ollama-think", LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "/api/chat", "ollama.think-native-stream.ndjson", "sse", "" },
	{ "openai-ollama-embed", LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "/api/embed", "made.embed.json", "json", "" },
	{ "openai-ollama-embed-base64", LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "/api/embed", "made.embed.json", "json", "" },
	{ "ollama-llamacpp-embed", LLM_OLLAMA, LLM_EMBED, LLM_BACKEND_LLAMACPP, "/v1/embeddings", "made.embeddings.json", "json", "" },
	{ "ollama-openai-embed", LLM_OLLAMA, LLM_EMBED, LLM_BACKEND_OPENAI, "/v1/embeddings", "made.embeddings.json", "json", "" },
	{ "ollama-ollama-embeddings", LLM_OLLAMA, LLM_EMBED_OLD, LLM_BACKEND_OLLAMA, "/api/embed", "made.embed-one.json", "json", "" },
	{ "native-openai", LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OPENAI, "/v1/chat/completions", "llamacpp.json-schema.json", "json", "" },

	/* Providers in the cloud. What was recorded of Anthropic's form is of its imitations; the rest is made after the descriptions of the APIs. */
	{ "openai-anthropic-chat", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "llamacpp.messages-stream.sse", "sse", "" },
	{ "openai-anthropic-whole", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "llamacpp.messages.json", "json", "" },
	{ "openai-anthropic-one-tool", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "ollama.messages-tools-stream.sse", "sse", "" },
	{ "openai-anthropic-think", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "ollama.messages-think-stream.sse", "sse", "" },
	{ "openai-anthropic-tools", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "made.anthropic-tools.sse", "sse", "" },
	{ "openai-anthropic-everything", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "/v1/messages", "made.anthropic-tools.json", "json", "" },
	{ "openai-gemini-chat", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_GEMINI, "/v1beta/models/remote%3A1b:streamGenerateContent?alt=sse", "made.gemini-chat.sse", "sse", "" },
	{ "openai-gemini-tools", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_GEMINI, "/v1beta/models/remote%3A1b:streamGenerateContent?alt=sse", "made.gemini-tools.sse", "sse", "" },
	{ "openai-gemini-everything", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_GEMINI, "/v1beta/models/remote%3A1b:generateContent", "made.gemini-whole.json", "json", "" },
	{ "openai-runpod-chat", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_RUNPOD, "/run", "made.runpod-stream.json", "sse", "" },
	{ "openai-runpod-native", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_RUNPOD, "/run", "made.runpod-native.json", "sse", "" },
	{ "openai-runpod-whole", LLM_OPENAI, LLM_CHAT, LLM_BACKEND_RUNPOD, "/runsync", "made.runpod-whole.json", "json", "" },
};
enum { GOLDENS = sizeof(goldens) / sizeof(goldens[0]) };

static struct str golden_file(struct exchange *x, const char *name, struct str got)
{
	char *path = arena_printf(x->mem, "tests/golden/llm/%s", name);
	FILE *f;

	if (getenv("CORRAL_GOLDEN_WRITE")) {
		f = fopen(path, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(got.p, 1, got.n, f), got.n);
		fclose(f);
	}
	return file_text(x->mem, name);
}

/* Stamps of the moment become one. */
static struct str without_times(struct exchange *x)
{
	static const char stamp[] = "2026-11-21T09:00:00.000000Z";
	struct str key = STR("\"created_at\":\"");
	char *p = x->out.p, *end = x->out.p + x->out.n;

	while (p && (p = memmem(p, (size_t)(end - p), key.p, key.n))) {
		p += key.n;
		memcpy(p, stamp, sizeof(stamp) - 1);
	}
	return buf_as_str(&x->out);
}

static void prepare(struct exchange *x, const struct golden *g)
{
	struct str body;
	enum err e;

	exchange_init(x, g->b);
	body = file_text(x->mem, arena_printf(x->mem, "%s.request.json", g->name));
	e = read_request(x, g->d, g->op, body, g->accept);
	if (e == ERR_OK)
		e = plan_request(x);
	if (e)
		fail_msg("%s: %s %s", g->name, err_name(e), x->why.text);
}

static void requests_become_the_golden_ones(void **state)
{
	for (unsigned i = 0; i < GOLDENS; i++) {
		struct exchange x;
		struct json doc;
		struct str got;

		prepare(&x, &goldens[i]);
		got = arena_fmt(x.mem, "%s\n" STR_FMT "\n", arena_str(x.mem, x.plan.ignored).p, STR_ARG(plan_body(&x)));
		assert_text(got, golden_file(&x, arena_printf(x.mem, "%s.upstream.txt", goldens[i].name), got));
		assert_string_equal(x.plan.path, goldens[i].path);
		assert_false(x.plan.passthrough);
		assert_int_equal(json_parse(&doc, x.mem, plan_body(&x), NULL, &x.why), ERR_OK);
		exchange_free(&x);
	}
}

static void answers_become_the_golden_ones_at_every_split(void **state)
{
	for (unsigned i = 0; i < GOLDENS; i++) {
		const struct golden *g = &goldens[i];
		struct exchange x;
		struct str recorded, want;
		const char *type;

		prepare(&x, g);
		recorded = file_text(x.mem, g->recorded);
		type = !x.in.stream ? "application/json" : g->b == LLM_BACKEND_OLLAMA ? "application/x-ndjson" : "text/event-stream";
		answer(&x, 200, type, recorded, 0, 0);
		if (x.step != LLM_DONE)
			fail_msg("%s: %s", g->name, x.why.text);
		want = golden_file(&x, arena_printf(x.mem, "%s.client.%s", g->name, g->client), without_times(&x));
		for (size_t split = 0; split <= recorded.n; split++) {
			answer(&x, 200, type, recorded, split, split == 0 ? 1 : 0);
			assert_int_equal(x.step, LLM_DONE);
			assert_text(without_times(&x), want);
		}
		exchange_free(&x);
	}
}

/* No prefix of a recorded stream counts as an answer, and no terminator is written for it. */
static void a_cut_answer_is_never_complete(void **state)
{
	for (unsigned i = 0; i < GOLDENS; i++) {
		const struct golden *g = &goldens[i];
		struct exchange x;
		struct str recorded;

		prepare(&x, g);
		recorded = file_text(x.mem, g->recorded);
		while (recorded.n && (strchr("\r\n ", recorded.p[recorded.n - 1])))
			recorded.n--;
		for (size_t n = 0; n < recorded.n; n++) {
			answer(&x, 200, g->b == LLM_BACKEND_OLLAMA ? "application/json" : "text/event-stream", str_n(recorded.p, n), 0, 0);
			assert_int_equal(x.step, LLM_FAILED);
			assert_null(str_find(buf_as_str(&x.out), STR("[DONE]")));
			assert_null(str_find(buf_as_str(&x.out), STR("\"done\":true")));
			assert_null(str_find(buf_as_str(&x.out), STR("message_stop")));
		}
		exchange_free(&x);
	}
}

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define ANTHROPIC "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define BLOCK(b) "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":[" b "]}]}"
#define GENERATE "{\"model\":\"m\",\"prompt\":\"hello\""

static void refuses_what_cannot_be_carried(void **state)
{
	static const struct { enum llm_dialect d; enum llm_op op; enum llm_backend b; const char *body, *field; enum err e; } all[] = {
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"n\":2}", "n", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"logit_bias\":{\"1\":5}}", "logit_bias", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"tool_choice\":\"required\",\"tools\":[]}", "tool_choice", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}", "tool_choice", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"parallel_tool_calls\":false}", "parallel_tool_calls", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"tools\":[{\"type\":\"custom\",\"custom\":{}}]}", "tools[0].type", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"temprature\":1}", "temprature", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"reasoning_effort\":\"enormous\"}", "reasoning_effort", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\"}}}", "response_format.json_schema.schema", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"functions\":[{}]}", "functions", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y.png\"}}]}]}", "messages[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}", "messages[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"messages\":[{\"role\":\"critic\",\"content\":\"x\"}]}", "messages[0].role", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"mood\":1}]}", "messages[0].mood", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}]}", "messages[0].tool_calls[0]", ERR_INVALID },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"prompt\":[1,2]}", "prompt", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, GENERATE ",\"echo\":true}", "echo", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"echo\":true}", "echo", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"best_of\":2}", "best_of", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, GENERATE ",\"best_of\":2}", "best_of", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, GENERATE ",\"n\":2}", "n", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"stream\":true,\"prompt\":[\"a\",\"b\"]}", "prompt", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"stream\":true,\"prompt\":[[1,2],[3]]}", "prompt", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OPENAI, CHAT ",\"options\":{\"top_k\":5}}", "options.top_k", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"options\":{\"num_ctx\":8192}}", "options.num_ctx", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"options\":{\"temparature\":1}}", "options.temparature", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"options\":{\"temperature\":\"1\"}}", "options.temperature", ERR_MALFORMED },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"format\":\"xml\"}", "format", ERR_INVALID },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_OPENAI, GENERATE ",\"suffix\":\"x\"}", "suffix", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"suffix\":\"x\",\"system\":\"y\"}", "system", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"suffix\":\"x\",\"n\":2}", "n", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"suffix\":\"x\",\"n_predict\":2}", "n_predict", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"suffix\":\"x\",\"repeat_penalty\":1,\"repetition_penalty\":2}", "repetition_penalty", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"template\":\"{{ .Prompt }}\"}", "template", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"context\":[1,2]}", "context", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, GENERATE ",\"raw\":true,\"system\":\"x\"}", "system", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"input\":[1,2]}", "input", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"input\":[[1,2],[3]]}", "input", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "{\"model\":\"m\",\"input\":\"a\",\"dimension\":3}", "dimension", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":\"a\",\"dimensions\":3}", "dimensions", ERR_UNSUPPORTED_FIELD },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":\"a\",\"encoding_format\":\"int8\"}", "encoding_format", ERR_INVALID },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\"}", "input", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":[]}", "input", ERR_INVALID },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":\"\"}", "input", ERR_INVALID },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":3}", "input", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":[\"a\",3]}", "input", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":[\"a\",\"\"]}", "input", ERR_INVALID },
		{ LLM_OLLAMA, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":[1]}", "input", ERR_MALFORMED },
		{ LLM_OLLAMA, LLM_EMBED, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"input\":\"a\",\"dimensions\":3}", "dimensions", ERR_UNSUPPORTED_FIELD },
		{ LLM_OLLAMA, LLM_EMBED_OLD, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"prompt\":[\"a\"]}", "prompt", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"temprature\":1}", "temprature", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"mcp_servers\":[{\"type\":\"url\"}]}", "mcp_servers", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OPENAI, ANTHROPIC ",\"top_k\":5}", "top_k", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, ANTHROPIC ",\"tool_choice\":{\"type\":\"any\"},\"tools\":[{\"name\":\"f\"}]}", "tool_choice", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, ANTHROPIC ",\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":true}}", "tool_choice.disable_parallel_tool_use", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"tool_choice\":{\"type\":\"tool\"}}", "tool_choice", ERR_INVALID },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"tools\":[{\"type\":\"bash_20250124\",\"name\":\"bash\"}]}", "tools[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"tools\":[{\"description\":\"x\"}]}", "tools[0]", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"tools\":[{\"name\":\"f\",\"input_shema\":{}}]}", "tools[0].input_shema", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"thinking\":{\"type\":\"sometimes\"}}", "thinking.type", ERR_INVALID },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"output_config\":{\"effort\":\"enormous\"}}", "output_config.effort", ERR_INVALID },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"output_config\":{\"format\":{\"type\":\"xml\"}}}", "output_config.format", ERR_INVALID },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"stop_sequences\":[1]}", "stop_sequences", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, ANTHROPIC ",\"system\":[{\"type\":\"image\"}]}", "system[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x/y.png\"}}"), "messages[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"document\",\"source\":{\"type\":\"base64\",\"data\":\"x\"}}"), "messages[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":[{\"type\":\"audio\"}]}"), "messages[0].content[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"tool_result\"}"), "messages[0].content[0]", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"tool_use\",\"id\":\"a\"}"), "messages[0].content[0]", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"text\":\"x\"}"), "messages[0].content[0]", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("\"x\""), "messages[0].content[0]", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"text\",\"text\":\"x\",\"mood\":1}"), "messages[0].content[0].mood", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, BLOCK("{\"type\":\"server_tool_use\"}"), "messages[0].content[0]", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"critic\",\"content\":\"x\"}]}", "messages[0].role", ERR_UNSUPPORTED_FIELD },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT "}", "max_tokens", ERR_MALFORMED },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"max_tokens\":0}", "max_tokens", ERR_INVALID },
		{ LLM_ANTHROPIC, LLM_COUNT, LLM_BACKEND_OLLAMA, CHAT "}", "", ERR_NOT_IMPLEMENTED },
		{ LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OPENAI, GENERATE ",\"options\":{\"min_p\":0.1}}", "options.min_p", ERR_UNSUPPORTED_FIELD },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;
		enum err e;

		exchange_init(&x, all[i].b);
		e = read_request(&x, all[i].d, all[i].op, str_of(all[i].body), "");
		if (e == ERR_OK)
			e = plan_request(&x);
		if (e != all[i].e || strcmp(x.why.field, all[i].field) != 0)
			fail_msg("%s: %s, field '%s', %s", all[i].body, err_name(e), x.why.field, x.why.text);
		exchange_free(&x);
	}
}

static const struct { enum llm_dialect d; enum llm_op op; bool same[LLM_BACKENDS]; } form_of[FORM_COUNT] = {
	[FORM_OPENAI_CHAT] = { LLM_OPENAI, LLM_CHAT, { true, true, false } }, [FORM_OPENAI_COMPLETE] = { LLM_OPENAI, LLM_COMPLETE, { true, true, false } },
	[FORM_OLLAMA_CHAT] = { LLM_OLLAMA, LLM_CHAT, { false, false, true } }, [FORM_OLLAMA_GENERATE] = { LLM_OLLAMA, LLM_COMPLETE, { false, false, true } },
	[FORM_NATIVE] = { LLM_NATIVE, LLM_CHAT, { false, false, false } }, [FORM_OPTIONS] = { LLM_NATIVE, LLM_CHAT, { false, false, false } },
	[FORM_OPENAI_MESSAGE] = { LLM_OPENAI, LLM_CHAT, { true, true, false } }, [FORM_OLLAMA_MESSAGE] = { LLM_OLLAMA, LLM_CHAT, { false, false, true } },
	[FORM_ANTHROPIC] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } }, [FORM_ANTHROPIC_MESSAGE] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } },
	[FORM_ANTHROPIC_BLOCK] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } }, [FORM_ANTHROPIC_TOOL] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } },
	[FORM_ANTHROPIC_THINKING] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } }, [FORM_ANTHROPIC_OUTPUT] = { LLM_ANTHROPIC, LLM_CHAT, { false, false, false } },
	[FORM_OPENAI_EMBED] = { LLM_OPENAI, LLM_EMBED, { true, true, false } }, [FORM_OLLAMA_EMBED] = { LLM_OLLAMA, LLM_EMBED, { false, false, true } },
	[FORM_OLLAMA_EMBED_OLD] = { LLM_OLLAMA, LLM_EMBED_OLD, { false, false, false } },
};

#define ANTHROPIC_FORMS (1u << FORM_ANTHROPIC | 1u << FORM_ANTHROPIC_MESSAGE | 1u << FORM_ANTHROPIC_BLOCK | 1u << FORM_ANTHROPIC_TOOL | \
			 1u << FORM_ANTHROPIC_THINKING | 1u << FORM_ANTHROPIC_OUTPUT)

/* Members that say what a block or tool is have tests of their own. */
static const char *anthropic_sample(const struct field *f)
{
	switch (f->id) {
	case F_SYSTEM: return "\"kind\"";
	case F_TOOLS: return "[{\"name\":\"g\"}]";
	case F_TOOL_CHOICE: return "{\"type\":\"none\"}";
	case F_THINKING_CONFIG: return "{\"type\":\"enabled\",\"budget_tokens\":1024}";
	case F_OUTPUT_CONFIG: return "{\"effort\":\"high\"}";
	case F_STOP: return "[\"x\"]";
	case F_PLAIN: return "3";
	case F_EFFORT: return "\"low\"";
	case F_BUDGET: return "1024";
	case F_FORMAT: return "{\"type\":\"json_schema\",\"schema\":{}}";
	case F_DESCRIPTION: return "\"what it does\"";
	case F_SCHEMA: return "{\"type\":\"object\",\"properties\":{}}";
	case F_STRICT: return "true";
	case F_METADATA: return "{\"user_id\":\"ann\"}";
	case F_TYPE: return f->forms & 1u << FORM_ANTHROPIC_THINKING ? "\"disabled\"" : NULL;
	case F_NONE: return f->kinds & 1 << JSON_OBJECT ? "{\"type\":\"ephemeral\"}" : f->kinds & 1 << JSON_ARRAY ? "[3]" :
	                    f->kinds & 1 << JSON_TRUE ? "true" : "\"x\"";
	default: return NULL;
	}
}

/* A value that asks for something; NULL = a field that is part of every request, or read by the gateway. */
static const char *sample(const struct field *f)
{
	if (f->forms & ANTHROPIC_FORMS)
		return anthropic_sample(f);
	switch (f->id) {
	case F_EMBED_INPUT: case F_ENCODING: case F_MODEL: case F_MESSAGES: case F_PROMPT: case F_STREAM: case F_STREAM_OPTIONS:
	case F_OPTIONS: case F_ROLE: case F_CONTENT: return NULL;
	case F_TOOLS: return "[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]";
	case F_TOOL_CHOICE: return "\"none\"";
	case F_RESPONSE_FORMAT: return "{\"type\":\"json_object\"}";
	case F_FORMAT: return "\"json\"";
	case F_REASONING_EFFORT: return "\"high\"";
	case F_TEMPLATE_KWARGS: return "{\"enable_thinking\":false}";
	case F_IMAGES: return "[\"iVBORw0KGgo=\"]";
	case F_CALLS: return "[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
	case F_PARALLEL_TOOLS: return "false";
	default: break;
	}
	if (field_is_for_gateway(f))
		return NULL;
	return f->kinds & 1 << JSON_NUMBER ? "3" : f->kinds & 1 << JSON_TRUE ? "true" : f->kinds & 1 << JSON_STRING ? "\"x\"" :
	       f->kinds & 1 << JSON_ARRAY ? "[3]" : "{\"x\":3}";
}

static struct str anthropic_with(struct arena *mem, unsigned form, const struct field *f, const char *member)
{
	const char *tools = f->id == F_TOOL_CHOICE ? ",\"tools\":[{\"name\":\"f\"}]" : "";

	if (form == FORM_ANTHROPIC)
		return arena_fmt(mem, ANTHROPIC "%s%s}", tools, member);
	if (form == FORM_ANTHROPIC_MESSAGE)
		return arena_fmt(mem, "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"%s}]}", member);
	if (form == FORM_ANTHROPIC_BLOCK)
		return arena_fmt(mem, BLOCK("{\"type\":\"text\",\"text\":\"x\"%s}"), member);
	if (form == FORM_ANTHROPIC_TOOL)
		return arena_fmt(mem, ANTHROPIC ",\"tools\":[{\"name\":\"f\"%s}]}", member);
	if (form == FORM_ANTHROPIC_THINKING)
		return arena_fmt(mem, ANTHROPIC ",\"thinking\":{%s%s}}", f->id == F_TYPE ? "\"display\":null" : "\"type\":\"enabled\"", member);
	return arena_fmt(mem, ANTHROPIC ",\"output_config\":{%s}}", member[0] ? member + 1 : "");
}

/* The request of a form with 'member' (with its comma) in the place where the form has its members. */
static struct str request_with(struct arena *mem, unsigned form, const struct field *f, const char *member)
{
	const char *logprobs = f->id == F_TOP_LOGPROBS ? ",\"logprobs\":true" : "";
	const char *tools = f->id == F_TOOL_CHOICE || f->id == F_PARALLEL_TOOLS ? ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]" : "";
	const char *role = f->id == F_CALL_ID || f->id == F_TOOL_NAME ? "tool" : "assistant";

	if (form >= FORM_OPENAI_EMBED)
		return arena_fmt(mem, "{\"model\":\"m\",\"%s\":\"x\"%s}", form == FORM_OLLAMA_EMBED_OLD ? "prompt" : "input", member);
	if (form >= FORM_ANTHROPIC)
		return anthropic_with(mem, form, f, member);
	if (form == FORM_OPTIONS)
		return arena_fmt(mem, "{\"model\":\"m\",\"prompt\":\"p\",\"options\":{\"temperature\":1%s}}", strcmp(f->name, "temperature") == 0 ? "" : member);
	if (form == FORM_OPENAI_MESSAGE || form == FORM_OLLAMA_MESSAGE)
		return arena_fmt(mem, "{\"model\":\"m\",\"messages\":[{\"role\":\"%s\",\"content\":\"p\"%s}]}", role, member);
	if (form == FORM_OPENAI_CHAT || form == FORM_OLLAMA_CHAT)
		return arena_fmt(mem, CHAT "%s%s%s}", logprobs, tools, member);
	return arena_fmt(mem, GENERATE "%s%s}", logprobs, member);
}

/* What the backend gets, what is named as ignored and what is refused, as one text. */
static struct str effect(struct exchange *x, unsigned form, struct str body)
{
	enum err e = read_request(x, form_of[form].d, form_of[form].op, body, "");

	if (e == ERR_OK)
		e = plan_request(x);
	if (e)
		return arena_fmt(x->mem, "refused: %s", x->why.field);
	return arena_fmt(x->mem, "%s " STR_FMT " ignored: " STR_FMT, x->plan.path, STR_ARG(plan_body(x)), STR_ARG(x->plan.ignored));
}

static void no_field_disappears_in_silence(void **state)
{
	const struct field *f;
	unsigned tried = 0;

	for (unsigned i = 0; (f = field_at(i)); i++)
		for (unsigned way = 0; way < FORM_COUNT * LLM_BACKENDS; way++) {
			unsigned form = way / LLM_BACKENDS, kind = way % LLM_BACKENDS;
			struct exchange x;
			struct str with, without;

			if (kind == LLM_BACKEND_RUNPOD || (kind > LLM_BACKEND_OLLAMA && form != FORM_OPENAI_CHAT && form != FORM_OPENAI_MESSAGE))
				continue;
			/* logprobs is refused before; a result needs its call, as a golden request has it */
			if (kind > LLM_BACKEND_OLLAMA && (f->id == F_TOP_LOGPROBS || f->id == F_CALL_ID))
				continue;
			if (!(f->forms & 1u << form) || form_of[form].same[kind] || !sample(f) || (form == FORM_OPTIONS && strcmp(f->name, "temperature") == 0))
				continue;
			exchange_init(&x, (enum llm_backend)kind);
			without = effect(&x, form, request_with(x.mem, form, f, ""));
			with = effect(&x, form, request_with(x.mem, form, f, arena_printf(x.mem, ",\"%s\":%s", f->name, sample(f))));
			if (str_starts(without, STR("refused")) || str_eq(with, without))
				fail_msg("'%s' of form %u at backend %u: " STR_FMT, f->name, form, kind, STR_ARG(with));
			if (f->as[kind] == NULL && !str_starts(with, STR("refused")))
				fail_msg("'%s' of form %u at backend %u is not refused: " STR_FMT, f->name, form, kind, STR_ARG(with));
			exchange_free(&x);
			tried++;
		}
	assert_true(tried > 250);
}

static void asking_for_nothing_is_no_reason_to_refuse(void **state)
{
	static const char *const all[] = {
		CHAT ",\"n\":1,\"logit_bias\":{},\"parallel_tool_calls\":true,\"verbosity\":\"medium\",\"modalities\":[\"text\"],\"functions\":[]}",
		CHAT ",\"n\":null,\"logit_bias\":null,\"tool_choice\":\"auto\",\"audio\":null,\"response_format\":{\"type\":\"text\"}}",
		CHAT ",\"chat_template_kwargs\":{},\"user\":null,\"prediction\":null,\"seed\":null,\"stream_options\":null}",
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, LLM_BACKEND_OLLAMA);
		assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, str_of(all[i]), ""), ERR_OK);
		if (plan_request(&x))
			fail_msg("%s: %s", all[i], x.why.text);
		assert_text(plan_body(&x), STR("{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":false,\"truncate\":false}"));
		exchange_free(&x);
	}
}

/* The same request may be planned for another kind of backend after a failure. */
static void plans_again_for_another_backend(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_LLAMACPP);
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, STR(CHAT ",\"user\":\"u\",\"top_k\":4}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_true(x.plan.passthrough);
	x.target.kind = LLM_BACKEND_OLLAMA;
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_false(x.plan.passthrough);
	assert_text(x.plan.ignored, STR("user"));
	assert_text(plan_body(&x), STR("{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":false,\"truncate\":false,\"options\":{\"top_k\":4}}"));
	exchange_free(&x);
}

#define LINE "{\"model\":\"m\",\"created_at\":\"x\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n"

#define PIECE "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n"

/* What had come stays, then the error as the dialect has it, never an end. tests/contract/golden_clients.py reads these files too. */
static void broken_streams_end_in_the_client_dialect(void **state)
{
	static const struct { enum llm_dialect d; enum llm_backend b; const char *accept, *answer, *file, *end; } all[] = {
		{ LLM_OPENAI, LLM_BACKEND_OLLAMA, "", LINE "{\"error\":\"unexpected EOF\"}\n", "broken-openai.client.sse", "\"code\":\"backend_failed\"}}\n\n" },
		{ LLM_OLLAMA, LLM_BACKEND_LLAMACPP, "", PIECE "data: {\"error\":{\"code\":500,\"message\":\"unexpected EOF\"}}\n\n", "broken-ollama.client.ndjson", "unexpected EOF\"}\n" },
		{ LLM_ANTHROPIC, LLM_BACKEND_OLLAMA, "", LINE "{\"error\":\"unexpected EOF\"}\n", "broken-anthropic.client.sse", "\"request_id\":\"01936f3e-0000-7000-8000-000000000001\"}\n\n" },
		{ LLM_NATIVE, LLM_BACKEND_OLLAMA, "", LINE "{\"error\":\"unexpected EOF\"}\n", NULL, "\"field\":null}\n" },
		{ LLM_NATIVE, LLM_BACKEND_OPENAI, "text/event-stream", PIECE "data: {\"error\":\"unexpected EOF\"}\n\n", NULL, "\"field\":null}\n\n" },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;
		struct str sent, request = all[i].d == LLM_NATIVE ? STR("{\"prompt\":\"x\",\"stream\":true}") :
		                           all[i].d == LLM_ANTHROPIC ? STR(ANTHROPIC ",\"stream\":true}") : STR(CHAT ",\"stream\":true}");

		exchange_init(&x, all[i].b);
		assert_int_equal(read_request(&x, all[i].d, LLM_CHAT, request, all[i].accept), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		answer(&x, 200, all[i].b == LLM_BACKEND_OLLAMA ? "application/x-ndjson" : "text/event-stream", str_of(all[i].answer), 0, 0);
		assert_int_equal(x.step, LLM_FAILED);
		assert_string_equal(x.why.text, "the backend broke off its answer: unexpected EOF");
		llm_relay_break(x.relay, &x.why, &x.out);
		sent = without_times(&x);
		assert_non_null(str_find(sent, STR("\"a\"")));
		assert_true(str_ends(sent, str_of(all[i].end)));
		assert_null(str_find(sent, STR("[DONE]")));
		assert_null(str_find(sent, STR("\"done\":true")));
		assert_null(str_find(sent, STR("message_stop")));
		if (all[i].file)
			assert_text(sent, golden_file(&x, all[i].file, sent));
		exchange_free(&x);
	}
}

/* An error that comes first leaves the stream unbegun, so that another backend can be tried. */
static void an_error_first_writes_nothing(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OLLAMA);
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, STR(CHAT ",\"max_tokens\":9,\"stream\":true}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "application/x-ndjson", STR("{\"error\":\"no memory\"}\n"), 0, 0);
	assert_int_equal(x.step, LLM_FAILED);
	assert_int_equal(x.out.n, 0);
	exchange_free(&x);
}

/* Pieces of a call without an index, with repeated ids, and with every index 0. */
static void joins_tool_calls_however_they_are_labelled(void **state)
{
#define CALLS(list) "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[" list "]},\"finish_reason\":null}]}\n\n"
	static const char *const all[] = {
		CALLS("{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\"\"}}") CALLS("{\"function\":{\"arguments\":\":1}\"}}")
		CALLS("{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}"),
		CALLS("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}") CALLS("{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}")
		CALLS("{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\":1\"}}") CALLS("{\"index\":1,\"function\":{\"arguments\":\"{}\"}},{\"index\":0,\"function\":{\"arguments\":\"}\"}}"),
		CALLS("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}") CALLS("{\"index\":0,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{\"}}")
		CALLS("{\"index\":0,\"function\":{\"arguments\":\"}\"}}"),
		CALLS("{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":\"}}") CALLS("{\"id\":\"a\",\"function\":{\"arguments\":\"1}\"}},{\"id\":\"b\",\"function\":{\"name\":\"g\"}}"),
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, LLM_BACKEND_OPENAI);
		assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_CHAT, STR(CHAT "}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		answer(&x, 200, "text/event-stream", arena_fmt(x.mem, "%sdata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n", all[i]), 0, 0);
		if (x.step != LLM_DONE)
			fail_msg("%u: %s", i, x.why.text);
		if (!str_find(buf_as_str(&x.out), STR("\"tool_calls\":[{\"id\":\"a\",\"function\":{\"index\":0,\"name\":\"f\",\"arguments\":{\"x\":1}}},"
		                                      "{\"id\":\"b\",\"function\":{\"index\":1,\"name\":\"g\",\"arguments\":{}}}]")))
			fail_msg("%u: " STR_FMT, i, STR_ARG(buf_as_str(&x.out)));
		exchange_free(&x);
	}
}

static void arguments_that_are_no_object_fail(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OPENAI);
	assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_CHAT, STR(CHAT "}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "text/event-stream", STR(CALLS("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\"\"}}")
	       "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n"), 0, 0);
	assert_int_equal(x.step, LLM_FAILED);
	assert_string_equal(x.why.text, "the arguments of the model's call of \"f\" are not a JSON object: the answer was cut at its length");
	assert_int_equal(x.out.n, 0);
	exchange_free(&x);
}

/* A stop string that the backend names is told; a call that goes on after other text is no message. */
static void anthropic_says_what_stopped_it(void **state)
{
#define SAID(delta, finish) "data: {\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}\n\n"
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OPENAI);
	assert_int_equal(read_request(&x, LLM_ANTHROPIC, LLM_CHAT, STR(ANTHROPIC ",\"stream\":true}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "text/event-stream", STR(SAID("{\"content\":\"a\"}", "null") SAID("{}", "\"stop\",\"stop_reason\":\"EN\\\"D\"") "data: [DONE]\n\n"), 0, 0);
	assert_int_equal(x.step, LLM_DONE);
	assert_non_null(str_find(buf_as_str(&x.out), STR("{\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"EN\\\"D\"}")));
	answer(&x, 200, "text/event-stream", STR(SAID("{\"content\":\"a\"}", "null") SAID("{}", "\"content_filter\"") "data: [DONE]\n\n"), 0, 0);
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"stop_reason\":\"refusal\"")));
	answer(&x, 200, "text/event-stream", STR(SAID("{}", "\"stop\"") "data: [DONE]\n\n"), 0, 0);
	assert_int_equal(x.step, LLM_DONE);
	assert_true(str_starts(buf_as_str(&x.out), STR("event: message_start\n")));
	assert_null(str_find(buf_as_str(&x.out), STR("content_block")));
	exchange_free(&x);
}

static void anthropic_calls_are_whole_or_told(void **state)
{
#define FIRST CALLS("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\"\"}}")
	static const struct { const char *answer, *why; } all[] = {
		{ FIRST SAID("{\"content\":\"hm\"}", "null") CALLS("{\"index\":0,\"function\":{\"arguments\":\":1}\"}}") SAID("{}", "\"tool_calls\"") "data: [DONE]\n\n",
		  "the backend went on with a tool call after other text" },
		{ FIRST SAID("{}", "\"tool_calls\"") "data: [DONE]\n\n", "the arguments of the model's call of \"f\" are not a JSON object" },
		{ FIRST SAID("{}", "\"length\"") "data: [DONE]\n\n", NULL },
		{ FIRST CALLS("{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{\"}}") SAID("{}", "\"length\"") "data: [DONE]\n\n",
		  "the arguments of the model's call of \"g\" are not a JSON object: the answer was cut at its length" },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, LLM_BACKEND_OPENAI);
		assert_int_equal(read_request(&x, LLM_ANTHROPIC, LLM_CHAT, STR(ANTHROPIC ",\"stream\":true}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		answer(&x, 200, "text/event-stream", str_of(all[i].answer), 0, 0);
		assert_int_equal(x.step, all[i].why ? LLM_FAILED : LLM_DONE);
		if (all[i].why)
			assert_string_equal(x.why.text, all[i].why);
		else
			assert_non_null(str_find(buf_as_str(&x.out), STR("\"stop_reason\":\"max_tokens\"")));
		assert_int_equal(str_find(buf_as_str(&x.out), STR("message_stop")) != NULL, !all[i].why);
		exchange_free(&x);
	}
}

/* A model that is known not to think is asked without it, and the answer says so. */
static void anthropic_thinking_goes_where_it_can(void **state)
{
	static const struct { enum llm_backend b; uint32_t caps; const char *member, *has, *ignored; } all[] = {
		{ LLM_BACKEND_OLLAMA, LLM_CAP_COMPLETION, ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":2000}", NULL, "thinking.budget_tokens, thinking" },
		{ LLM_BACKEND_OLLAMA, LLM_CAP_COMPLETION | LLM_CAP_THINKING, ",\"thinking\":{\"type\":\"enabled\"}", "\"think\":true", "" },
		{ LLM_BACKEND_OLLAMA, LLM_CAP_COMPLETION, ",\"output_config\":{\"effort\":\"high\"}", NULL, "output_config.effort" },
		{ LLM_BACKEND_OLLAMA, LLM_CAP_COMPLETION, ",\"thinking\":{\"type\":\"disabled\"}", NULL, "" },
		{ LLM_BACKEND_OLLAMA, 0, ",\"thinking\":{\"type\":\"adaptive\"}", NULL, "" },
		{ LLM_BACKEND_OPENAI, 0, ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":20000}", "\"reasoning_effort\":\"high\"", "" },
		{ LLM_BACKEND_OPENAI, 0, ",\"thinking\":{\"type\":\"disabled\"},\"output_config\":{\"effort\":\"low\"}", "\"reasoning_effort\":\"none\"", "output_config.effort" },
		{ LLM_BACKEND_LLAMACPP, LLM_CAP_COMPLETION, ",\"thinking\":{\"type\":\"enabled\"}", "\"enable_thinking\":true", "" },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, all[i].b);
		x.target.caps = all[i].caps;
		assert_int_equal(read_request(&x, LLM_ANTHROPIC, LLM_CHAT, arena_fmt(x.mem, ANTHROPIC "%s}", all[i].member), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		assert_text(x.plan.ignored, str_of(all[i].ignored));
		if (all[i].has ? !str_find(plan_body(&x), str_of(all[i].has)) : str_find(plan_body(&x), STR("think")) != NULL)
			fail_msg("%u: " STR_FMT, i, STR_ARG(plan_body(&x)));
		exchange_free(&x);
	}
}

#define EMBED "{\"model\":\"m\",\"input\":"

/* Same dialect: the bytes pass, and are looked at. */
static void embeddings_pass_and_are_counted(void **state)
{
	struct exchange x;
	struct str vectors;

	exchange_init(&x, LLM_BACKEND_LLAMACPP);
	vectors = file_text(x.mem, "made.embeddings.json");
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_EMBED, STR(EMBED "[[1,2],[3]],\"encoding_format\":\"base64\",\"other\":1}"), ""), ERR_OK);
	assert_int_equal(x.in.needs, LLM_CAP_EMBEDDING);
	assert_int_equal(x.in.n_inputs, 2);
	assert_int_equal(x.in.prompt_tokens_est, 2);
	assert_int_equal(x.in.inputs_tokens_est, 3);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_true(x.plan.passthrough);
	assert_string_equal(x.plan.path, "/v1/embeddings");
	assert_text(plan_body(&x), STR("{\"model\":\"remote:1b\",\"input\":[[1,2],[3]],\"encoding_format\":\"base64\",\"other\":1}"));
	answer(&x, 200, "application/json", vectors, 0, 7);
	assert_int_equal(x.step, LLM_DONE);
	assert_text(buf_as_str(&x.out), vectors);
	assert_true(llm_relay_usage(x.relay)->reported);
	assert_int_equal(llm_relay_usage(x.relay)->prompt_tokens, 5);
	assert_int_equal(llm_relay_usage(x.relay)->completion_tokens, 0);
	assert_int_equal(llm_relay_deltas(x.relay), 0);
	exchange_free(&x);

	exchange_init(&x, LLM_BACKEND_OLLAMA);
	assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_EMBED, STR(EMBED "[\"a\",\"b\"]}"), ""), ERR_OK);
	assert_false(x.in.stream || x.in.load_only);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_true(x.plan.passthrough);
	assert_text(plan_body(&x), STR("{\"truncate\":false,\"model\":\"remote:1b\",\"input\":[\"a\",\"b\"]}"));
	answer(&x, 200, "application/json", file_text(x.mem, "made.embed.json"), 0, 0);
	assert_int_equal(x.step, LLM_DONE);
	assert_int_equal(llm_relay_usage(x.relay)->prompt_tokens, 8);
	exchange_free(&x);
}

static void embeddings_that_are_none_fail(void **state)
{
	static const struct { enum llm_backend b; const char *answer, *why; } all[] = {
		{ LLM_BACKEND_LLAMACPP, "{\"data\":[{\"embedding\":[1]}]}", "the backend sent another number of embeddings than it was asked for" },
		{ LLM_BACKEND_LLAMACPP, "{\"data\":[{\"embedding\":[1]},{\"embedding\":null}]}", "the backend sent an event that is none of its protocol: " },
		{ LLM_BACKEND_LLAMACPP, "{\"data\":[{\"index\":1,\"embedding\":[1]},{\"index\":1,\"embedding\":[1]}]}", "the backend numbered its embeddings wrongly" },
		{ LLM_BACKEND_LLAMACPP, "{\"data\":[{\"index\":0,\"embedding\":\"AAAA\"},{\"index\":1,\"embedding\":[1]}]}", "the backend sent an embedding that is no list of numbers" },
		{ LLM_BACKEND_LLAMACPP, "{\"error\":{\"message\":\"too long\"}}", "the backend broke off its answer: too long" },
		{ LLM_BACKEND_LLAMACPP, "{\"choices\":[]}", "the backend sent an event that is none of its protocol: " },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, all[i].b);
		assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_EMBED, STR(EMBED "[\"a\",\"b\"]}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		answer(&x, 200, "application/json", str_of(all[i].answer), 0, 0);
		assert_int_equal(x.step, LLM_FAILED);
		if (!str_starts(str_of(x.why.text), str_of(all[i].why)))
			fail_msg("%u: %s", i, x.why.text);
		assert_int_equal(x.out.n, 0);
		exchange_free(&x);
	}
}

/* Base64 of numbers that are none. */
static void base64_is_of_numbers(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OLLAMA);
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_EMBED, STR(EMBED "\"a\",\"encoding_format\":\"base64\"}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "application/json", STR("{\"embeddings\":[[1,\"x\"]]}"), 0, 0);
	assert_int_equal(x.step, LLM_FAILED);
	assert_int_equal(x.out.n, 0);
	answer(&x, 200, "application/json", STR("{\"embeddings\":[[1]]}"), 0, 0);
	assert_int_equal(x.step, LLM_DONE);
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"embedding\":\"AACAPw==\"")));
	exchange_free(&x);
}

static void anthropic_counts_what_it_would_send(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_LLAMACPP);
	assert_int_equal(read_request(&x, LLM_ANTHROPIC, LLM_COUNT, STR(CHAT ",\"system\":\"s\"}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_string_equal(x.plan.path, "/v1/chat/completions/input_tokens");
	assert_text(plan_body(&x), STR("{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":false}"));
	x.target.kind = LLM_BACKEND_OPENAI;
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_string_equal(x.plan.path, "/v1/messages/count_tokens");
	assert_text(plan_body(&x), STR("{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"system\":\"s\"}"));
	exchange_free(&x);
}

static void anthropic_knows_its_user(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_LLAMACPP);
	assert_int_equal(read_request(&x, LLM_ANTHROPIC, LLM_CHAT, STR("{\"model\":\"m\",\"max_tokens\":5,\"metadata\":{\"user_id\":\"ann\"},\"system\":[{\"type\":\"text\",\"text\":\"be kind\"}],"
	       "\"messages\":[{\"role\":\"user\",\"content\":\"what time\"},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a\",\"content\":[{\"type\":\"image\"}]}]}]}"), ""), ERR_OK);
	assert_text(x.in.user, STR("ann"));
	assert_text(x.in.ignored, STR("metadata"));
	assert_text(llm_read_texts(&x.in, x.mem).system, STR("be kind"));
	assert_text(llm_read_texts(&x.in, x.mem).user, STR("what time"));
	assert_int_equal(x.in.needs, LLM_CAP_VISION);
	exchange_free(&x);
}

static void replaces_broken_characters_when_converting(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OPENAI);
	assert_int_equal(read_request(&x, LLM_NATIVE, LLM_CHAT, STR("{\"prompt\":\"x\",\"stream\":true}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "text/event-stream", STR("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ok\"},\"finish_reason\":null}]}\n\n"
	       "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xe2\x82\"},\"finish_reason\":null}]}\n\n"
	       "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"), 0, 3);
	assert_int_equal(x.step, LLM_DONE);
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"response\":\"\xef\xbf\xbd\",")));
	exchange_free(&x);
}

/* vLLM and others: thinking is called reasoning, every event has a null usage, and an error may be followed by [DONE]. */
static void reads_the_imitations(void **state)
{
#define VLLM(delta, rest) "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":" delta ",\"logprobs\":null," rest "}],\"usage\":null}\n\n"
	struct exchange x;
	struct str stream = STR(VLLM("{\"role\":\"assistant\",\"content\":\"\"}", "\"finish_reason\":null") VLLM("{\"reasoning\":\"hm\"}", "\"finish_reason\":null")
	                        VLLM("{\"reasoning\":\"m\"}", "\"finish_reason\":null") VLLM("{\"content\":\"yes\"}", "\"finish_reason\":null")
	                        VLLM("{\"content\":\"\"}", "\"finish_reason\":\"stop\",\"stop_reason\":null")
	                        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":8,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n");

	exchange_init(&x, LLM_BACKEND_OPENAI);
	assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_CHAT, STR(CHAT "}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	answer(&x, 200, "text/event-stream; charset=utf-8", stream, 0, 11);
	assert_int_equal(x.step, LLM_DONE);
	assert_int_equal(llm_relay_deltas(x.relay), 3);
	assert_int_equal(llm_relay_usage(x.relay)->prompt_tokens, 5);
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}")));
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"content\":\"yes\"},\"done\":false}")));
	answer(&x, 200, "text/event-stream", STR("data: {\"object\":\"error\",\"message\":\"engine dead\",\"code\":500}\n\ndata: [DONE]\n\n"), 0, 0);
	assert_int_equal(x.step, LLM_FAILED);
	assert_string_equal(x.why.text, "the backend broke off its answer: engine dead");
	exchange_free(&x);
}

static void the_table_prints_every_field(void **state)
{
	struct buf b = { 0 };

	llm_dump_fields(&b);
	assert_non_null(str_find(buf_as_str(&b), STR("| `logit_bias` | as it is | as it is | refused |")));
	assert_non_null(str_find(buf_as_str(&b), STR("| `top_k` | `top_k` | refused | as it is |")));
	assert_non_null(str_find(buf_as_str(&b), STR("| `keep_alive` | ignored | ignored | as it is |")));
	assert_non_null(str_find(buf_as_str(&b), STR("| `max_tokens` | as it is | as it is | `options.num_predict` |")));
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_become_the_golden_ones),
		cmocka_unit_test(answers_become_the_golden_ones_at_every_split),
		cmocka_unit_test(a_cut_answer_is_never_complete),
		cmocka_unit_test(refuses_what_cannot_be_carried),
		cmocka_unit_test(no_field_disappears_in_silence),
		cmocka_unit_test(asking_for_nothing_is_no_reason_to_refuse),
		cmocka_unit_test(plans_again_for_another_backend),
		cmocka_unit_test(broken_streams_end_in_the_client_dialect),
		cmocka_unit_test(an_error_first_writes_nothing),
		cmocka_unit_test(joins_tool_calls_however_they_are_labelled),
		cmocka_unit_test(arguments_that_are_no_object_fail),
		cmocka_unit_test(anthropic_says_what_stopped_it),
		cmocka_unit_test(anthropic_calls_are_whole_or_told),
		cmocka_unit_test(anthropic_thinking_goes_where_it_can),
		cmocka_unit_test(embeddings_pass_and_are_counted),
		cmocka_unit_test(embeddings_that_are_none_fail),
		cmocka_unit_test(base64_is_of_numbers),
		cmocka_unit_test(anthropic_counts_what_it_would_send),
		cmocka_unit_test(anthropic_knows_its_user),
		cmocka_unit_test(replaces_broken_characters_when_converting),
		cmocka_unit_test(reads_the_imitations),
		cmocka_unit_test(the_table_prints_every_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

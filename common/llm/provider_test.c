/* provider_test.c - providers in the cloud: what of their answers no golden file shows (errors, refusals, broken streams, jobs), and what their errors mean. */
#include "common/llm/llm_test.h"
#include "common/llm/provider_error.h"

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define STREAM CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}"
#define EV(type, rest) "event: " type "\ndata: {\"type\":\"" type "\"" rest "}\n\n"
#define TEXT_AT(n, text) EV("content_block_delta", ",\"index\":" #n ",\"delta\":{\"type\":\"text_delta\",\"text\":" text "}")
#define STOP(reason) EV("message_delta", ",\"delta\":{\"stop_reason\":\"" reason "\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":5}") EV("message_stop", "")
#define PIECE(parts, rest) "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[" parts "]}" rest "}]}\n\n"

static void prepare(struct exchange *x, enum llm_backend kind, const char *body)
{
	exchange_init(x, kind);
	assert_int_equal(read_request(x, LLM_OPENAI, LLM_CHAT, str_of(body), ""), ERR_OK);
	assert_int_equal(plan_request(x), ERR_OK);
}

/* The answer at each split comes to one end. */
static void answer_all_ways(struct exchange *x, const char *type, struct str body)
{
	enum llm_step step;
	struct str out;

	answer(x, 200, type, body, 0, 0);
	step = x->step;
	out = arena_str(x->mem, buf_as_str(&x->out));
	for (size_t split = 0; split <= body.n; split++) {
		answer(x, 200, type, body, split, split == 0 ? 1 : 0);
		assert_int_equal(x->step, step);
		assert_text(buf_as_str(&x->out), out);
	}
}

struct case_of { enum llm_backend kind; const char *answer, *want; enum llm_step step; };

static void check_cases(const struct case_of *all, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct exchange x;

		prepare(&x, all[i].kind, STREAM);
		answer_all_ways(&x, all[i].kind == LLM_BACKEND_RUNPOD ? "application/json" : "text/event-stream", str_of(all[i].answer));
		if (x.step != all[i].step || (all[i].want && !str_find(x.step == LLM_DONE ? buf_as_str(&x.out) : str_of(x.why.text), str_of(all[i].want))))
			fail_msg("%zu: step %d, %s, " STR_FMT, i, x.step, x.step == LLM_FAILED ? x.why.text : "", STR_ARG(buf_as_str(&x.out)));
		if (x.step == LLM_FAILED)
			assert_null(str_find(buf_as_str(&x.out), STR("[DONE]")));
		exchange_free(&x);
	}
}

static void streams_end_as_they_say(void **state)
{
	static const struct case_of all[] = {
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") STOP("refusal"), "\"finish_reason\":\"content_filter\"", LLM_DONE },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") STOP("model_context_window_exceeded"), "\"finish_reason\":\"length\"", LLM_DONE },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") STOP("stop_sequence"), "\"finish_reason\":\"stop\"", LLM_DONE },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\xff\"") STOP("end_turn"), "a\xef\xbf\xbd", LLM_DONE },
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\"}", ",\"finishReason\":\"SAFETY\""), "\"finish_reason\":\"content_filter\"", LLM_DONE },
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\"}", ",\"finishReason\":\"MAX_TOKENS\""), "\"finish_reason\":\"length\"", LLM_DONE },
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\xe2\x82\"}", ",\"finishReason\":\"STOP\""), "a\xef\xbf\xbd", LLM_DONE },
		/* nobody counted: pieces are about tokens */
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\"}", "") PIECE("{\"text\":\"b\"}", ",\"finishReason\":\"STOP\""), "\"completion_tokens\":2,", LLM_DONE },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") EV("message_delta", ",\"delta\":{\"stop_reason\":\"end_turn\"}") EV("message_stop", ""), "\"completion_tokens\":1,", LLM_DONE },
	};

	check_cases(all, sizeof(all) / sizeof(*all));
}

static void broken_streams_are_never_complete(void **state)
{
	static const struct case_of all[] = {
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\""), "without its message_stop after 1 pieces", LLM_FAILED },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") EV("message_stop", ""), "without a finish reason", LLM_FAILED },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") EV("error", ",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}"), "Overloaded", LLM_FAILED },
		{ LLM_BACKEND_ANTHROPIC, TEXT_AT(0, "\"a\"") "event: content_block_delta\ndata: {\"type\":\"content_bl", "without its message_stop", LLM_FAILED },
		{ LLM_BACKEND_ANTHROPIC, "data: [DONE]\n\n", "not Anthropic JSON", LLM_FAILED },
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\"}", ""), "without its finishReason", LLM_FAILED },
		{ LLM_BACKEND_GEMINI, PIECE("{\"text\":\"a\"}", "") "data: {\"error\":{\"code\":503,\"message\":\"busy\",\"status\":\"UNAVAILABLE\"}}\n\n", "busy", LLM_FAILED },
		{ LLM_BACKEND_GEMINI, PIECE("", ",\"finishReason\":\"MALFORMED_FUNCTION_CALL\""), "MALFORMED_FUNCTION_CALL", LLM_FAILED },
		{ LLM_BACKEND_GEMINI, "data: {\"promptFeedback\":{\"blockReason\":\"PROHIBITED_CONTENT\"}}\n\n", "refused the prompt for its content: PROHIBITED_CONTENT", LLM_FAILED },
		{ LLM_BACKEND_GEMINI, "data: {\"what\":1}\n\n", "none of its protocol", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"id\":\"j\",\"status\":\"FAILED\",\"error\":\"out of memory\"}", "out of memory", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"id\":\"j\",\"status\":\"CANCELLED\"}", "ended as CANCELLED", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"id\":\"j\",\"status\":\"TIMED_OUT\"}", "ended as TIMED_OUT", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"id\":\"j\",\"status\":\"IN_QUEUE\"}", "without its final state", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"id\":\"j\",\"status\":\"COMPLETED\"}", "has no output", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"status\":\"COMPLETED\",\"output\":[{\"error\":\"CUDA is gone\"}]}", "CUDA is gone", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"status\":\"COMPLETED\",\"output\":[\"data: {\\\"choices\\\":[{\\\"delta\\\":{\\\"content\\\":\\\"a\\\"}}]}\\n\\n\"]}", "its stream has no end", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"error\":\"job not found\"}", "job not found", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "{\"status\":\"COMPL", "ended without", LLM_FAILED },
		{ LLM_BACKEND_RUNPOD, "<html>no</html>", "ended without", LLM_FAILED },
	};

	check_cases(all, sizeof(all) / sizeof(*all));
}

static void an_error_inside_a_200_is_none_of_an_answer(void **state)
{
	static const struct { enum llm_backend kind; const char *body, *want, *kept; } all[] = {
		{ LLM_BACKEND_ANTHROPIC, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"oh\"}}", "oh", "{\"type\":\"api_error\",\"message\":\"oh\"}" },
		{ LLM_BACKEND_ANTHROPIC, "{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}],\"stop_reason\":null}", "not finished", "" },
		{ LLM_BACKEND_GEMINI, "{\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}", "SAFETY", "{\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}" },
		{ LLM_BACKEND_GEMINI, "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}", "not finished", "" },
		{ LLM_BACKEND_OPENAI, "{\"error\":{\"code\":502,\"message\":\"upstream\",\"metadata\":{\"error_type\":\"provider_unavailable\"}}}", "upstream",
		  "{\"code\":502,\"message\":\"upstream\",\"metadata\":{\"error_type\":\"provider_unavailable\"}}" },
		{ LLM_BACKEND_RUNPOD, "{\"status\":\"COMPLETED\",\"output\":{\"error\":\"bad\"}}", "bad", "\"bad\"" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct exchange x;

		prepare(&x, all[i].kind, CHAT "}");
		answer(&x, 200, "application/json", str_of(all[i].body), 0, 7);
		assert_int_equal(x.step, LLM_FAILED);
		assert_int_equal(x.out.n, 0);
		if (!str_find(str_of(x.why.text), str_of(all[i].want)))
			fail_msg("%zu: %s", i, x.why.text);
		assert_text(llm_relay_upstream_body(x.relay), str_of(all[i].kept));
		exchange_free(&x);
	}
}

static void a_job_is_followed(void **state)
{
	struct exchange x;
	struct http_head head = { .status = 200 };
	const struct llm_job *job;

	prepare(&x, LLM_BACKEND_RUNPOD, CHAT "}");
	x.relay = llm_relay_new(x.mem, &x.in, &x.plan, &x.target);
	job = llm_relay_job(x.relay);
	assert_int_equal(llm_relay_head(x.relay, &head, &x.why), LLM_MORE);
	assert_int_equal(llm_relay_data(x.relay, STR("{\"id\":\"abc-u1\",\"status\":\"IN_QUEUE\"}"), &x.out, &x.why), LLM_MORE);
	assert_string_equal(job->id, "abc-u1");
	assert_false(job->final);
	assert_int_equal(llm_relay_head(x.relay, &head, &x.why), LLM_MORE);
	assert_int_equal(llm_relay_data(x.relay, STR("{\"id\":\"abc-u1\",\"status\":\"COMPLETED\",\"delayTime\":1500,\"executionTime\":20,\"output\":[{\"text\":[\"a \\\"b\\\"\"],"
	                                             "\"input_tokens\":3,\"output_tokens\":2}]}"), &x.out, &x.why), LLM_DONE);
	assert_true(job->final);
	assert_int_equal(job->delay_ms, 1500);
	assert_int_equal(llm_relay_end(x.relay, NULL, &x.out, &x.why), LLM_DONE);
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"content\":\"a \\\"b\\\"\",")));
	assert_non_null(str_find(buf_as_str(&x.out), STR("\"completion_tokens\":2,")));
	exchange_free(&x);
}

#define DELTA(delta, finish) "data: {\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}\n\n"
#define CALL(id) "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{\"thought_signature\":\"s\"}}}"

/* Gemini's OpenAI-compatible path. */
static void what_is_nearly_of_openai_is_made_so(void **state)
{
	struct exchange x;
	struct str out;

	exchange_init(&x, LLM_BACKEND_OPENAI);
	x.target.rewrite = true;
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, STR(STREAM), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_true(x.plan.passthrough);
	answer_all_ways(&x, "text/event-stream", STR(DELTA("{\"role\":\"assistant\",\"tool_calls\":[" CALL("a") "]}", "null")
	                DELTA("{\"tool_calls\":[" CALL("b") "]}", "null") DELTA("{}", "\"stop\"") "data: [DONE]\n\n"));
	out = buf_as_str(&x.out);
	assert_int_equal(x.step, LLM_DONE);
	assert_non_null(str_find(out, STR("{\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{\"thought_signature\":\"s\"}}}")));
	assert_non_null(str_find(out, STR("{\"index\":1,\"id\":\"b\",")));
	assert_non_null(str_find(out, STR("\"finish_reason\":\"tool_calls\"")));
	exchange_free(&x);
}

/* A poll that was cut may have held pieces that come only once. */
static void a_reply_that_was_cut_fails(void **state)
{
	struct exchange x;
	struct http_head head = { .status = 200 };

	prepare(&x, LLM_BACKEND_RUNPOD, STREAM);
	x.relay = llm_relay_new(x.mem, &x.in, &x.plan, &x.target);
	assert_int_equal(llm_relay_head(x.relay, &head, &x.why), LLM_MORE);
	assert_int_equal(llm_relay_data(x.relay, STR("{\"status\":\"IN_PROGRESS\",\"stream\":[{\"out"), &x.out, &x.why), LLM_MORE);
	assert_int_equal(llm_relay_head(x.relay, &head, &x.why), LLM_FAILED);
	exchange_free(&x);
}

static void jobs_have_limits(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_RUNPOD);
	x.target.time_left_ms = 2000;
	x.target.max_output_tokens = 77;
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, STR(CHAT "}"), ""), ERR_OK);
	assert_int_equal(plan_request(&x), ERR_OK);
	assert_string_equal(x.plan.path, "/runsync?wait=2000");
	assert_non_null(str_find(plan_body(&x), STR("\"max_tokens\":77,\"temperature\":1,")));
	assert_true(str_ends(plan_body(&x), STR(",\"policy\":{\"executionTimeout\":5000,\"ttl\":10000}}")));
	exchange_free(&x);
}

static void thoughts_fit_into_the_answer(void **state)
{
	static const struct { const char *more; uint32_t most; const char *want, *ignored; } all[] = {
		{ ",\"reasoning_effort\":\"high\"", 0, "\"max_tokens\":28672,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":24576}", "" },
		{ ",\"reasoning_effort\":\"high\"", 8000, "\"max_tokens\":8000,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":4000}", "" },
		{ ",\"reasoning_effort\":\"low\",\"max_tokens\":2000", 0, "\"max_tokens\":2000,\"messages\"", "reasoning_effort" },
		{ ",\"chat_template_kwargs\":{\"enable_thinking\":true},\"max_tokens\":500", 0, "\"max_tokens\":500,\"messages\"", "chat_template_kwargs" },
		{ ",\"reasoning_effort\":\"none\"", 0, "\"thinking\":{\"type\":\"disabled\"}", "" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct exchange x;

		exchange_init(&x, LLM_BACKEND_ANTHROPIC);
		x.target.max_output_tokens = all[i].most;
		assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, arena_fmt(x.mem, "%s%s}", CHAT, all[i].more), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		if (!str_find(plan_body(&x), str_of(all[i].want)))
			fail_msg("%zu: " STR_FMT, i, STR_ARG(plan_body(&x)));
		assert_text(x.plan.ignored, str_of(all[i].ignored));
		exchange_free(&x);
	}
}

#define IMAGE(url) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"" url "\"}}]}]}"

static void refuses_what_a_provider_cannot_do(void **state)
{
	static const struct { enum llm_backend kind; const char *body, *field; } all[] = {
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"temperature\":1.5}", "temperature" },
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"response_format\":{\"type\":\"json_object\"}}", "response_format.type" },
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"presence_penalty\":0.5}", "presence_penalty" },
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"n\":2}", "n" },
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"mood\":1}}]}", "tools[0].function.mood" },
		{ LLM_BACKEND_ANTHROPIC, CHAT ",\"tool_choice\":{\"type\":\"allowed_tools\"}}", "tool_choice" },
		{ LLM_BACKEND_ANTHROPIC, IMAGE("ftp://x/y.png"), "messages[0].content[0]" },
		{ LLM_BACKEND_GEMINI, IMAGE("https://x/y.png"), "messages[0].content[0]" },
		{ LLM_BACKEND_GEMINI, CHAT ",\"parallel_tool_calls\":false}", "parallel_tool_calls" },
		{ LLM_BACKEND_GEMINI, CHAT ",\"logprobs\":true}", "logprobs" },
		{ LLM_BACKEND_GEMINI, "{\"model\":\"m\",\"messages\":[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"y\"}]}", "messages[0].tool_call_id" },
		{ LLM_BACKEND_GEMINI, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}]}",
		  "messages[0].tool_calls[0]" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct exchange x;

		exchange_init(&x, all[i].kind);
		assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, str_of(all[i].body), ""), ERR_OK);
		if (plan_request(&x) == ERR_OK || strcmp(x.why.field, all[i].field) != 0)
			fail_msg("%zu: '%s' %s", i, x.why.field, x.why.text);
		exchange_free(&x);
	}
}

static void only_chats_of_openai_go_there(void **state)
{
	struct exchange x;

	for (int kind = LLM_BACKEND_ANTHROPIC; kind < LLM_BACKENDS; kind++) {
		exchange_init(&x, (enum llm_backend)kind);
		assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_CHAT, STR(CHAT "}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_NOT_IMPLEMENTED);
		assert_int_equal(read_request(&x, LLM_OPENAI, LLM_COMPLETE, STR("{\"model\":\"m\",\"prompt\":\"x\"}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_NOT_IMPLEMENTED);
		assert_int_equal(read_request(&x, LLM_OPENAI, LLM_EMBED, STR("{\"model\":\"m\",\"input\":\"x\"}"), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_NOT_IMPLEMENTED);
		exchange_free(&x);
	}
	assert_string_equal(llm_backend_headers(LLM_BACKEND_ANTHROPIC)->value, "2023-06-01");
	assert_string_equal(llm_backend_headers(LLM_BACKEND_GEMINI)->key_name, "x-goog-api-key");
	assert_string_equal(llm_backend_headers(LLM_BACKEND_OPENAI)->key_prefix, "Bearer ");
}

/* Errors. */

#define NOW 1795227654000000ll          /* 2026-11-21T02:20:54Z */
#define OA(code) "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":" code "}}"
#define AN(type) "{\"type\":\"error\",\"error\":{\"type\":\"" type "\",\"message\":\"m\"},\"request_id\":\"req\"}"
#define GE(code, status, details) "{\"error\":{\"code\":" code ",\"message\":\"m\",\"status\":\"" status "\",\"details\":[" details "]}}"
#define OR(code, kind) "{\"error\":{\"code\":" code ",\"message\":\"m\",\"metadata\":{\"error_type\":\"" kind "\"}}}"
#define RETRY(s) "{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"" s "\"}"
#define QUOTA(id) "{\"@type\":\"type.googleapis.com/google.rpc.QuotaFailure\",\"violations\":[{\"quotaId\":\"" id "\"}]}"

static const struct error_case {
	int status;
	const char *headers, *body;
	enum provider_fault fault;
	int64_t wait_ms;
	enum err code;
	int client_status;
} errors[] = {
	/* OpenAI */
	{ 401, "", OA("\"invalid_api_key\""), FAULT_AUTH, -1, ERR_UNAVAILABLE, 503 },
	{ 429, "", OA("\"insufficient_quota\""), FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 429, "Retry-After: 7\n", OA("\"rate_limit_exceeded\""), FAULT_RATE_LIMITED, 7000, ERR_RATE_LIMITED, 429 },
	{ 429, "retry-after-ms: 250\nRetry-After: 7\n", "", FAULT_RATE_LIMITED, 250, ERR_RATE_LIMITED, 429 },
	{ 429, "x-ratelimit-remaining-requests: 3\nx-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 6m0s\n", OA("null"),
	  FAULT_RATE_LIMITED, 360000, ERR_RATE_LIMITED, 429 },
	{ 429, "x-ratelimit-reset-requests: 12ms\n", OA("null"), FAULT_RATE_LIMITED, 12, ERR_RATE_LIMITED, 429 },
	{ 429, "Retry-After: Sat, 21 Nov 2026 02:21:54 GMT\n", OA("null"), FAULT_RATE_LIMITED, 60000, ERR_RATE_LIMITED, 429 },
	{ 429, "Retry-After: soon\n", OA("null"), FAULT_RATE_LIMITED, -1, ERR_RATE_LIMITED, 429 },
	{ 400, "", OA("\"context_length_exceeded\""), FAULT_TOO_LONG, -1, ERR_CONTEXT_TOO_LONG, 400 },
	{ 400, "", OA("\"content_filter\""), FAULT_REFUSED, -1, ERR_BACKEND_REFUSED, 400 },
	{ 400, "", OA("\"invalid_value\""), FAULT_BAD_REQUEST, -1, ERR_BACKEND_REFUSED, 400 },
	{ 422, "", OA("null"), FAULT_BAD_REQUEST, -1, ERR_BACKEND_REFUSED, 422 },
	{ 404, "", OA("\"model_not_found\""), FAULT_NO_MODEL, -1, ERR_MODEL_NOT_FOUND, 404 },
	{ 500, "", "{\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}", FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
	{ 503, "Retry-After: 2\n", "Slow Down", FAULT_OVERLOADED, 2000, ERR_UNAVAILABLE, 503 },
	/* Anthropic */
	{ 401, "", AN("authentication_error"), FAULT_AUTH, -1, ERR_UNAVAILABLE, 503 },
	{ 402, "", AN("billing_error"), FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 400, "", "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt is too long: 9 tokens > 8 maximum\"}}", FAULT_TOO_LONG, -1,
	  ERR_CONTEXT_TOO_LONG, 400 },
	{ 413, "", AN("request_too_large"), FAULT_TOO_LONG, -1, ERR_CONTEXT_TOO_LONG, 400 },
	{ 429, "anthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: 2026-11-21T02:21:04Z\n", AN("rate_limit_error"), FAULT_RATE_LIMITED,
	  10000, ERR_RATE_LIMITED, 429 },
	{ 429, "", "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\",\"details\":{\"error_code\":\"enforced_spend_limit_reached\"}}}",
	  FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 529, "", AN("overloaded_error"), FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	{ 500, "", AN("api_error"), FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
	{ 200, "", "{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}", FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	/* Gemini */
	{ 400, "", GE("400", "INVALID_ARGUMENT", "{\"reason\":\"API_KEY_INVALID\"}"), FAULT_AUTH, -1, ERR_UNAVAILABLE, 503 },
	{ 400, "", GE("400", "INVALID_ARGUMENT", ""), FAULT_BAD_REQUEST, -1, ERR_BACKEND_REFUSED, 400 },
	{ 400, "", GE("400", "FAILED_PRECONDITION", ""), FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 429, "", GE("429", "RESOURCE_EXHAUSTED", RETRY("37.5s")), FAULT_RATE_LIMITED, 37500, ERR_RATE_LIMITED, 429 },
	{ 429, "", GE("429", "RESOURCE_EXHAUSTED", QUOTA("GenerateRequestsPerMinutePerProject")), FAULT_RATE_LIMITED, 60000, ERR_RATE_LIMITED, 429 },
	{ 429, "", GE("429", "RESOURCE_EXHAUSTED", QUOTA("GenerateRequestsPerDayPerProject") "," RETRY("3s")), FAULT_RATE_LIMITED, 20346000, ERR_RATE_LIMITED, 429 },
	{ 429, "", "[" GE("429", "RESOURCE_EXHAUSTED", RETRY("1s")) "]", FAULT_RATE_LIMITED, 1000, ERR_RATE_LIMITED, 429 },
	{ 503, "", GE("503", "UNAVAILABLE", ""), FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	{ 200, "", "{\"code\":503,\"message\":\"busy\"}", FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	{ 200, "", "{\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}", FAULT_REFUSED, -1, ERR_BACKEND_REFUSED, 400 },
	/* OpenRouter */
	{ 402, "", OR("402", "payment_required"), FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 403, "", OR("403", "content_policy_violation"), FAULT_REFUSED, -1, ERR_BACKEND_REFUSED, 400 },
	{ 403, "", "{\"error\":{\"code\":403,\"message\":\"no\",\"metadata\":{\"reasons\":[\"violence\"],\"flagged_input\":\"x\"}}}", FAULT_REFUSED, -1, ERR_BACKEND_REFUSED, 400 },
	{ 503, "Retry-After: 7\n", OR("503", "server"), FAULT_OVERLOADED, 7000, ERR_UNAVAILABLE, 503 },
	{ 403, "", OR("403", "permission_denied"), FAULT_AUTH, -1, ERR_UNAVAILABLE, 503 },
	{ 400, "", OR("400", "context_length_exceeded"), FAULT_TOO_LONG, -1, ERR_CONTEXT_TOO_LONG, 400 },
	{ 429, "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795227659000\n", OR("429", "rate_limit_exceeded"), FAULT_RATE_LIMITED, 5000, ERR_RATE_LIMITED, 429 },
	{ 200, "", OR("502", "provider_unavailable"), FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	{ 200, "", "{\"code\":402,\"message\":\"no credits\"}", FAULT_NO_CREDIT, -1, ERR_UNAVAILABLE, 503 },
	{ 524, "", "error code: 524", FAULT_OVERLOADED, -1, ERR_UNAVAILABLE, 503 },
	/* RunPod, proxies, nonsense */
	{ 401, "", "", FAULT_AUTH, -1, ERR_UNAVAILABLE, 503 },
	{ 404, "", "{\"error\":\"job not found\"}", FAULT_NO_MODEL, -1, ERR_MODEL_NOT_FOUND, 404 },
	{ 502, "", "<html>bad gateway</html>", FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
	{ 200, "", "\"out of memory\"", FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
	{ 0, "", "\xff\xfe", FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
	{ 418, "", "[1]", FAULT_BAD_REQUEST, -1, ERR_BACKEND_REFUSED, 418 },
	{ 500, "", "[]", FAULT_BROKEN, -1, ERR_BACKEND_FAILED, 502 },
};

static void read_headers(struct http_head *head, const char *lines)
{
	struct str rest = str_of(lines), line, name;

	while (str_split(&rest, '\n', &line)) {
		if (!line.n)
			continue;
		str_split(&line, ':', &name);
		head->headers[head->n_headers++] = (struct http_header){ name, str_trim(line) };
	}
}

static void errors_mean_what_their_words_say(void **state)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
		const struct error_case *c = &errors[i];
		struct http_head head = { .status = c->status };
		struct provider_error e;

		read_headers(&head, c->headers);
		provider_error_read(&e, c->status, c->headers[0] ? &head : NULL, str_of(c->body), NOW);
		if (e.fault != c->fault || e.wait_ms != c->wait_ms || e.code != c->code || e.status != c->client_status)
			fail_msg("%zu %s: %s, wait %lld, %s, %d: %s", i, c->body, provider_fault_name(e.fault), (long long)e.wait_ms, err_name(e.code), e.status, e.words);
		assert_true(e.words[0] && str_utf8_valid(str_of(e.words)));
	}
}

static void words_are_for_people(void **state)
{
	struct http_head head = { .status = 429, .n_headers = 1, .headers = { { STR("retry-after"), STR("2.5") } } };
	struct provider_error e;

	provider_error_read(&e, 429, &head, STR("{\"error\":{\"message\":\"slow\\ndown\"}}"), NOW);
	assert_string_equal(e.words, "the provider allows no more requests now (429); again in 3 s: slow\\x0adown");
	provider_error_read(&e, 401, NULL, STR("{\"error\":{\"message\":\"Incorrect API key provided: sk-abc\"}}"), NOW);
	assert_string_equal(e.words, "the provider does not take the key (401)");
	assert_true(provider_fault_counts(FAULT_BROKEN));
	assert_false(provider_fault_counts(FAULT_BAD_REQUEST));
}

/* What a job did that nobody waits for any more: only its own words count. */
static void a_job_says_how_it_ended(void **state)
{
	static const struct { const char *body, *state; bool final, worker, reported; int64_t ran_ms; uint64_t prompt, completion; } all[] = {
		{ "{\"id\":\"j\",\"status\":\"CANCELLED\",\"delayTime\":12}", "CANCELLED", true, false, false, 0, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"CANCELLED\",\"executionTime\":45,\"workerId\":\"w\"}", "CANCELLED", true, true, false, 45, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"CANCELLED\",\"executionTime\":null,\"workerId\":null}", "CANCELLED", true, false, false, 0, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"IN_QUEUE\"}", "IN_QUEUE", false, false, false, 0, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"IN_PROGRESS\",\"workerId\":\"w\"}", "IN_PROGRESS", false, true, false, 0, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"FAILED\",\"error\":\"out of memory\"}", "FAILED", true, false, false, 0, 0, 0 },
		{ "{\"id\":\"j\",\"status\":\"COMPLETED\",\"executionTime\":9,\"output\":[{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"a\"},"
		  "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}]}", "COMPLETED", true, false, true, 9, 7, 3 },
		{ "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":[\"data: {\\\"choices\\\":[{\\\"delta\\\":{\\\"content\\\":\\\"a\\\"},\\\"finish_reason\\\":\\\"stop\\\"}],"
		  "\\\"usage\\\":{\\\"prompt_tokens\\\":5,\\\"completion_tokens\\\":1}}\\n\\ndata: [DONE]\\n\\n\"]}", "COMPLETED", true, false, true, 0, 5, 1 },
		{ "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":[{\"text\":[\"a\"]}]}", "COMPLETED", true, false, false, 0, 0, 0 },
		{ "{\"error\":\"job not found\"}", "", false, false, false, 0, 0, 0 },
		{ "<html>no</html>", "", false, false, false, 0, 0, 0 },
		{ "{\"status\":\"CANC", "", false, false, false, 0, 0, 0 },
		{ "", "", false, false, false, 0, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct llm_job_end end = { 0 };

		llm_job_read_end(&end, str_of(all[i].body));
		if (strcmp(end.job.state, all[i].state) != 0 || end.job.final != all[i].final || end.job.has_worker != all[i].worker ||
		    end.job.execution_ms != all[i].ran_ms || end.usage.reported != all[i].reported)
			fail_msg("%zu: '%s', final %d, worker %d, %lld ms, reported %d", i, end.job.state, end.job.final, end.job.has_worker, (long long)end.job.execution_ms,
				 end.usage.reported);
		if (all[i].reported)
			assert_true(end.usage.prompt_tokens == all[i].prompt && end.usage.completion_tokens == all[i].completion);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_end_as_they_say),
		cmocka_unit_test(broken_streams_are_never_complete),
		cmocka_unit_test(an_error_inside_a_200_is_none_of_an_answer),
		cmocka_unit_test(a_job_is_followed),
		cmocka_unit_test(what_is_nearly_of_openai_is_made_so),
		cmocka_unit_test(a_reply_that_was_cut_fails),
		cmocka_unit_test(jobs_have_limits),
		cmocka_unit_test(a_job_says_how_it_ended),
		cmocka_unit_test(thoughts_fit_into_the_answer),
		cmocka_unit_test(refuses_what_a_provider_cannot_do),
		cmocka_unit_test(only_chats_of_openai_go_there),
		cmocka_unit_test(errors_mean_what_their_words_say),
		cmocka_unit_test(words_are_for_people),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

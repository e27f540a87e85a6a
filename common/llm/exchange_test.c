/* exchange_test.c - requests read, passed through with their edits, and answers watched on their way. */
#include "common/llm/llm_test.h"

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define SSE "text/event-stream"

static struct str read_and_plan(struct exchange *x, enum llm_backend kind, enum llm_dialect d, enum llm_op op, const char *body)
{
	exchange_init(x, kind);
	assert_int_equal(read_request(x, d, op, str_of(body), ""), ERR_OK);
	assert_int_equal(plan_request(x), ERR_OK);
	return plan_body(x);
}

static void reads_what_policy_needs(void **state)
{
	struct exchange x;
	struct str body = STR("{\"model\":\"a\\u0062c\",\"stream\":true,\"max_tokens\":7,\"max_completion_tokens\":9,\"user\":\"u\",\"metadata\":{},"
	                      "\"messages\":[{\"role\":\"developer\",\"content\":\"be\\nshort\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"what \"},"
	                      "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:,\"}},{\"type\":\"text\",\"text\":\"is\\u00e9\"}]},"
	                      "{\"role\":\"assistant\",\"content\":null}],\"tools\":[{\"type\":\"function\"}],"
	                      "\"response_format\":{\"type\":\"json_object\"},\"stream_options\":{\"include_usage\":true},\"unheard\":1}");

	exchange_init(&x, LLM_BACKEND_LLAMACPP);
	assert_int_equal(read_request(&x, LLM_OPENAI, LLM_CHAT, body, ""), ERR_OK);
	assert_text(x.in.model, STR("abc"));
	assert_true(x.in.stream && x.in.want_usage && x.in.has_schema && x.in.has_tools && !x.in.load_only);
	assert_int_equal(x.in.needs, LLM_CAP_TOOLS | LLM_CAP_VISION);
	assert_int_equal(x.in.n_messages, 3);
	assert_int_equal(x.in.max_tokens, 9);
	assert_text(llm_read_texts(&x.in, x.mem).system, STR("be\nshort"));
	assert_text(llm_read_texts(&x.in, x.mem).user, STR("what is\xc3\xa9"));
	assert_text(x.in.ignored, STR("user, metadata"));
	assert_int_equal(x.in.text_bytes, 9 + 5 + 8 + 21);
	exchange_free(&x);
}

/* To Ollama "x" and "x:latest" are one, and its answers repeat what was asked. */
static void asks_ollama_in_the_clients_spelling(void **state)
{
	static const struct { const char *asked, *remote, *sent; } cases[] = {
		{ "x", "x:latest", "\"model\":\"x\"" }, { "x:latest", "x", "\"model\":\"x:latest\"" }, { "y", "x:latest", "\"model\":\"x:latest\"" },
		{ "x:1b", "x", "\"model\":\"x\"" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct exchange x;
		struct buf body = { 0 };

		buf_printf(&body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}", cases[i].asked);
		exchange_init(&x, LLM_BACKEND_OLLAMA);
		x.target.remote_model = str_of(cases[i].remote);
		assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_CHAT, buf_as_str(&body), ""), ERR_OK);
		assert_int_equal(plan_request(&x), ERR_OK);
		assert_non_null(str_find(plan_body(&x), str_of(cases[i].sent)));
		buf_free(&body);
		exchange_free(&x);
	}
}

/* A server may write an event as several data lines. However many there are, the request's arena does not grow with them. */
static void many_lined_events_cost_no_memory(void **state)
{
	struct exchange x;
	struct buf body = { 0 };
	size_t before;

	read_and_plan(&x, LLM_BACKEND_OPENAI, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
	for (int i = 0; i < 3000; i++)
		buf_printf(&body, "data: {\"object\":\"chat.completion.chunk\",\ndata: \"choices\":[{\"index\":0,\"delta\":{\"content\":\"w%d\"},\n"
			   "data: \"finish_reason\":%s}]}\n\n", i, i == 2999 ? "\"stop\"" : "null");
	buf_addz(&body, "data: [DONE]\n\n");
	before = arena_used(x.mem);
	answer(&x, 200, SSE, buf_as_str(&body), 0, 1000);
	assert_int_equal(x.step, LLM_DONE);
	assert_int_equal(llm_relay_deltas(x.relay), 3000);
	assert_text(buf_as_str(&x.out), buf_as_str(&body));
	assert_true(arena_used(x.mem) - before < 64 * 1024);
	buf_free(&body);
	exchange_free(&x);
}

static void caps_long_texts_at_characters(void **state)
{
	struct exchange x;
	struct buf b = { 0 };

	buf_addz(&b, "{\"model\":\"m\",\"prompt\":\"");
	for (int i = 0; i < 6000; i++)
		buf_addz(&b, i % 9 ? "\\u00fc" : "\xc3\xa4 ");
	buf_addz(&b, " end\"}");
	exchange_init(&x, LLM_BACKEND_OLLAMA);
	assert_int_equal(read_request(&x, LLM_OLLAMA, LLM_COMPLETE, buf_as_str(&b), ""), ERR_OK);
	assert_true(llm_read_texts(&x.in, x.mem).user.n > 4096 && llm_read_texts(&x.in, x.mem).user.n <= 8193);
	assert_true(str_utf8_valid(llm_read_texts(&x.in, x.mem).user) && str_ends(llm_read_texts(&x.in, x.mem).user, STR(" end")));
	assert_true(str_starts(llm_read_texts(&x.in, x.mem).user, STR("\xc3\xa4 \xc3\xbc")));
	buf_free(&b);
	exchange_free(&x);
}

/* Wherever a request says how long its answer may be, under whichever name, and where it says nothing: the backend is told the cap. */
static void a_cap_is_told_in_every_dialect(void **state)
{
	static const struct { enum llm_dialect d; enum llm_op op; enum llm_backend kind; const char *body, *sent; } all[] = {
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"max_tokens\":900}", "\"max_tokens\":77" },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"max_completion_tokens\":900}", "\"max_completion_tokens\":77" },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OPENAI, CHAT ",\"max_tokens\":5,\"max_completion_tokens\":900,\"stream\":true}", "\"max_tokens\":77,\"max_completion_tokens\":77" },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true}", "\"max_tokens\":77" },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT "}", "\"num_predict\":77" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"options\":{\"num_predict\":-1,\"seed\":3}}", "\"num_predict\":77,\"seed\":3" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"options\":{\"seed\":3}}", "\"options\":{\"num_predict\":77,\"seed\":3}" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"options\":{}}", "\"options\":{\"num_predict\":77}" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT ",\"options\":null}", "\"options\":{\"num_predict\":77}" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, CHAT "}", "\"options\":{\"num_predict\":77}" },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"options\":{\"num_predict\":900}}", "\"max_tokens\":77" },
		{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, CHAT ",\"max_tokens\":900}", "\"max_tokens\":77" },
		{ LLM_NATIVE, LLM_CHAT, LLM_BACKEND_LLAMACPP, "{\"model\":\"m\",\"prompt\":\"x\"}", "\"max_tokens\":77" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct exchange x;
		struct json sent;

		exchange_init(&x, all[i].kind);
		if (read_request(&x, all[i].d, all[i].op, str_of(all[i].body), "") != ERR_OK)
			fail_msg("case %zu: %s", i, x.why.text);
		llm_cap_tokens(&x.in, 77);
		assert_int_equal(plan_request(&x), ERR_OK);
		if (!str_find(plan_body(&x), str_of(all[i].sent)))
			fail_msg("case %zu sent " STR_FMT, i, STR_ARG(plan_body(&x)));
		assert_int_equal(json_parse(&sent, x.mem, plan_body(&x), &json_limits_default, &x.why), ERR_OK);
		exchange_free(&x);
	}
}

static void refuses_what_it_cannot_read(void **state)
{
	static const struct { enum llm_dialect d; enum llm_op op; const char *body, *field; enum err e; } bad[] = {
		{ LLM_OPENAI, LLM_CHAT, "", "", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "[1]", "", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "model", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\"}", "messages", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[]}", "messages", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[1]}", "messages[0]", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, CHAT ",\"temperature\":\"hot\"}", "temperature", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":1}", "stream", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, CHAT ",\"max_tokens\":1.5}", "max_tokens", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, CHAT ",\"model\":\"n\"}", "model", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_CHAT, CHAT ",\"MODEL\":\"n\"}", "MODEL", ERR_MALFORMED },
		{ LLM_OPENAI, LLM_COMPLETE, "{\"model\":\"m\"}", "prompt", ERR_MALFORMED },
		{ LLM_OLLAMA, LLM_CHAT, "{\"Model\":\"m\"}", "Model", ERR_MALFORMED },
		{ LLM_OLLAMA, LLM_CHAT, "{\"messages\":[]}", "model", ERR_MALFORMED },
		{ LLM_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"messages\":[],\"options\":{\"num_ctx\":\"x\"}}", "options.num_ctx", ERR_MALFORMED },
		{ LLM_NATIVE, LLM_CHAT, "{\"model\":\"m\"}", "prompt", ERR_MALFORMED },
		{ LLM_NATIVE, LLM_CHAT, "{\"prompt\":\"\"}", "prompt", ERR_INVALID },
		{ LLM_NATIVE, LLM_CHAT, "{\"promt\":\"x\"}", "promt", ERR_UNSUPPORTED_FIELD },
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct exchange x;
		enum err e;

		exchange_init(&x, LLM_BACKEND_LLAMACPP);
		e = read_request(&x, bad[i].d, bad[i].op, str_of(bad[i].body), "");
		if (e != bad[i].e || strcmp(x.why.field, bad[i].field) != 0)
			fail_msg("%s: %s, field '%s', %s", bad[i].body, err_name(e), x.why.field, x.why.text);
		exchange_free(&x);
	}
}

static void native_requests_default_to_auto(void **state)
{
	struct exchange x;

	exchange_init(&x, LLM_BACKEND_OLLAMA);
	assert_int_equal(read_request(&x, LLM_NATIVE, LLM_CHAT, STR("{\"prompt\":\"fix it\",\"task_type\":\"bug-fix\",\"local_only\":true,\"user_id\":\"ann\","
	                 "\"context\":\"int x;\",\"options\":{\"num_predict\":5}}"), "text/event-stream, */*"), ERR_OK);
	assert_text(x.in.model, STR("auto"));
	assert_text(x.in.task_type, STR("bug-fix"));
	assert_text(x.in.user, STR("ann"));
	assert_text(llm_read_texts(&x.in, x.mem).user, STR("fix it"));
	assert_text(llm_read_texts(&x.in, x.mem).context, STR("int x;"));
	assert_true(x.in.local_only && x.in.sse && !x.in.stream);
	assert_int_equal(x.in.max_tokens, 5);
	exchange_free(&x);
}

static void knows_load_requests(void **state)
{
	static const struct { enum llm_op op; const char *body; bool load; } all[] = {
		{ LLM_CHAT, "{\"model\":\"m\"}", true }, { LLM_CHAT, "{\"model\":\"m\",\"messages\":[]}", true },
		{ LLM_CHAT, CHAT "}", false }, { LLM_COMPLETE, "{\"model\":\"m\",\"keep_alive\":0}", true },
		{ LLM_COMPLETE, "{\"model\":\"m\",\"prompt\":\"\"}", true }, { LLM_COMPLETE, "{\"model\":\"m\",\"prompt\":\"x\"}", false },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		exchange_init(&x, LLM_BACKEND_OLLAMA);
		assert_int_equal(read_request(&x, LLM_OLLAMA, all[i].op, str_of(all[i].body), ""), ERR_OK);
		assert_int_equal(x.in.load_only, all[i].load);
		assert_true(x.in.stream);
		exchange_free(&x);
	}
}

static void splices_only_what_it_must(void **state)
{
	static const struct { enum llm_dialect d; enum llm_backend b; const char *body, *sent; } all[] = {
		{ LLM_OPENAI, LLM_BACKEND_LLAMACPP, CHAT ", \"x\" : 1.0e5 }",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}], \"x\" : 1.0e5 }" },
		{ LLM_OPENAI, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true}",
		  "{\"stream_options\":{\"include_usage\":true},\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true}" },
		{ LLM_OPENAI, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}" },
		{ LLM_OPENAI, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":false, \"a\":1}}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true, \"a\":1}}" },
		{ LLM_OPENAI, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true,\"stream_options\":{}}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}" },
		{ LLM_OPENAI, LLM_BACKEND_OPENAI, CHAT ",\"stream\":true,\"stream_options\":null}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true,\"stream_options\":{\"include_usage\":true}}" },
		{ LLM_OPENAI, LLM_BACKEND_LLAMACPP, CHAT ",\"stream\":true}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true}" },
		{ LLM_OPENAI, LLM_BACKEND_LLAMACPP, CHAT ",\"stream\":true,\"n\":2}",
		  "{\"stream_options\":{\"include_usage\":true},\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"stream\":true,\"n\":2}" },
		{ LLM_OLLAMA, LLM_BACKEND_OLLAMA, CHAT "}",
		  "{\"truncate\":false,\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}" },
		{ LLM_OLLAMA, LLM_BACKEND_OLLAMA, CHAT ",\"truncate\":true}",
		  "{\"model\":\"remote:1b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"truncate\":true}" },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;
		struct str sent = read_and_plan(&x, all[i].b, all[i].d, LLM_CHAT, all[i].body);
		struct json doc;

		assert_text(sent, str_of(all[i].sent));
		assert_true(x.plan.passthrough);
		assert_int_equal(json_parse(&doc, x.mem, sent, NULL, &x.why), ERR_OK);
		exchange_free(&x);
	}
}

static const struct {
	enum llm_dialect d; enum llm_op op; enum llm_backend b; const char *options, *file, *finish; uint64_t prompt, completion, cached, deltas;
} passed[] = {
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, ",\"stream_options\":{\"include_usage\":true}", "llamacpp.chat-stream-usage.sse", "length", 26, 4, 25, 4 },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, "", "llamacpp.chat-stream-nousage.sse", "length", 26, 2, 25, 2 },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, "", "llamacpp.tools-stream.sse", "tool_calls", 283, 27, 282, 12 },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OPENAI, ",\"stream_options\":{\"include_usage\":true}", "ollama.v1-chat-stream-usage.sse", "stop", 9, 10, 8, 9 },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OPENAI, "", "ollama.think-v1-stream.sse", "stop", 0, 0, 0, 11 },
	{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "ollama.chat-stream.ndjson", "stop", 9, 10, 8, 9 },
	{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "", "ollama.generate-stream.ndjson", "stop", 9, 10, 0, 9 },
	{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "ollama.tools-native-stream.ndjson", "tool_calls", 90, 27, 38, 1 },
	{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "ollama.think-native-stream.ndjson", "stop", 9, 15, 8, 11 },
};

static void request_for(struct exchange *x, unsigned i)
{
	char body[256];

	exchange_init(x, passed[i].b);
	snprintf(body, sizeof(body), "{\"model\":\"m\",%s,\"stream\":true%s}", passed[i].op == LLM_COMPLETE ? "\"prompt\":\"hello\"" :
	         "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]", passed[i].options);
	assert_int_equal(read_request(x, passed[i].d, passed[i].op, arena_str(x->mem, str_of(body)), ""), ERR_OK);
	assert_int_equal(plan_request(x), ERR_OK);
}

static void passes_recorded_streams_untouched_at_every_split(void **state)
{
	for (unsigned i = 0; i < sizeof(passed) / sizeof(passed[0]); i++) {
		struct exchange x;
		struct str stream;
		const struct llm_usage *u;

		request_for(&x, i);
		stream = file_text(x.mem, passed[i].file);
		for (size_t split = 0; split <= stream.n; split++) {
			answer(&x, 200, SSE, stream, split, split == 0 ? 1 : 0);
			if (x.step != LLM_DONE)
				fail_msg("%s split at %zu: %s", passed[i].file, split, x.why.text);
			assert_text(buf_as_str(&x.out), stream);
			u = llm_relay_usage(x.relay);
			assert_string_equal(llm_relay_finish(x.relay), passed[i].finish);
			assert_int_equal(llm_relay_deltas(x.relay), passed[i].deltas);
			if (passed[i].prompt) {
				assert_true(u->reported);
				assert_int_equal(u->prompt_tokens, passed[i].prompt);
				assert_int_equal(u->completion_tokens, passed[i].completion);
				assert_int_equal(u->cached_tokens, passed[i].cached);
			} else {
				assert_false(u->reported);
				assert_int_equal(u->completion_tokens, passed[i].deltas);
			}
		}
		exchange_free(&x);
	}
}

/* Whatever is cut off, the answer is no success, and what was sent before is a prefix of whole events. */
static void a_cut_stream_is_never_complete(void **state)
{
	for (unsigned i = 0; i < sizeof(passed) / sizeof(passed[0]); i++) {
		struct exchange x;
		struct str stream, sent;
		bool line_end;

		request_for(&x, i);
		stream = file_text(x.mem, passed[i].file);
		for (size_t n = 0; n + 3 < stream.n; n++) {
			answer(&x, 200, SSE, str_n(stream.p, n), 0, 0);
			line_end = passed[i].d == LLM_OLLAMA;
			assert_int_equal(x.step, LLM_FAILED);
			assert_int_equal(x.why.code, ERR_BACKEND_FAILED);
			sent = buf_as_str(&x.out);
			assert_true(str_starts(stream, sent));
			assert_true(sent.n == 0 || str_ends(sent, line_end ? STR("\n") : STR("\n\n")) || sent.n + 2 >= n);
		}
		exchange_free(&x);
	}
}

static void takes_the_usage_chunk_out_again(void **state)
{
	struct exchange x;
	struct str stream, want;
	const char *usage;

	read_and_plan(&x, LLM_BACKEND_LLAMACPP, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true}");
	stream = file_text(x.mem, "llamacpp.chat-stream-usage.sse");
	usage = str_find(stream, STR("data: {\"choices\":[],"));
	want = arena_fmt(x.mem, STR_FMT "data: [DONE]\n\n", (int)(usage - stream.p), stream.p);
	for (size_t split = 0; split <= stream.n; split++) {
		answer(&x, 200, SSE, stream, split, split == 0 ? 1 : 0);
		assert_int_equal(x.step, LLM_DONE);
		assert_text(buf_as_str(&x.out), want);
		assert_int_equal(llm_relay_usage(x.relay)->prompt_tokens, 26);
	}
	exchange_free(&x);
}

static void passes_whole_answers(void **state)
{
	static const struct { enum llm_dialect d; enum llm_op op; enum llm_backend b; const char *file, *finish; int prompt, completion; } all[] = {
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, "llamacpp.chat.json", "length", 26, 8 },
		{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, "llamacpp.tools.json", "tool_calls", 283, 27 },
		{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, "ollama.chat-nonstream.json", "stop", 9, 10 },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "ollama.generate-nonstream.json", "stop", 9, 10 },
		{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "ollama.generate-preload.json", "load", 0, 0 },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;
		struct str body;

		read_and_plan(&x, all[i].b, all[i].d, all[i].op, all[i].op == LLM_CHAT ? CHAT ",\"stream\":false}" : "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":false}");
		body = file_text(x.mem, all[i].file);
		answer(&x, 200, "application/json; charset=utf-8", body, 10, 7);
		assert_int_equal(x.step, LLM_DONE);
		assert_text(buf_as_str(&x.out), body);
		assert_string_equal(llm_relay_finish(x.relay), all[i].finish);
		assert_string_equal(llm_relay_content_type(x.relay), "application/json");
		if (all[i].prompt) {
			assert_int_equal(llm_relay_usage(x.relay)->prompt_tokens, all[i].prompt);
			assert_int_equal(llm_relay_usage(x.relay)->completion_tokens, all[i].completion);
		}
		answer(&x, 200, "application/json", str_n(body.p, body.n - 1), 0, 0);
		assert_int_equal(x.step, LLM_FAILED);
		assert_int_equal(x.out.n, 0);
		exchange_free(&x);
	}
}

static void a_load_answer_ends_an_ollama_stream(void **state)
{
	struct exchange x;
	struct str body;

	read_and_plan(&x, LLM_BACKEND_OLLAMA, LLM_OLLAMA, LLM_COMPLETE, "{\"model\":\"m\"}");
	body = file_text(x.mem, "ollama.generate-preload.json");
	answer(&x, 200, "application/json; charset=utf-8", body, 3, 0);
	assert_int_equal(x.step, LLM_DONE);
	assert_text(buf_as_str(&x.out), body);
	assert_string_equal(llm_relay_content_type(x.relay), "application/json");
	assert_string_equal(llm_relay_finish(x.relay), "load");
	exchange_free(&x);
}

static void explains_errors_of_backends(void **state)
{
	static const struct { int status; const char *body; enum err code; const char *text; int refused; } all[] = {
		{ 400, "{\"error\":{\"code\":400,\"message\":\"request (6017 tokens) exceeds the available context size (512 tokens), try increasing it\",\"type\":\"exceed_context_size_error\"}}",
		  ERR_CONTEXT_TOO_LONG, "the backend answered 400: request (6017 tokens) exceeds the available context size (512 tokens), try increasing it", 400 },
		{ 404, "{\"error\":\"model 'nope' not found\"}", ERR_MODEL_NOT_FOUND, "the backend answered 404: model 'nope' not found", 404 },
		{ 400, "{\"error\":{\"code\":400,\"message\":\"model 'nope' not found\",\"type\":\"invalid_request_error\"}}", ERR_MODEL_NOT_FOUND,
		  "the backend answered 400: model 'nope' not found", 400 },
		{ 400, "{\"error\":\"{\\\"error\\\":{\\\"code\\\":400,\\\"message\\\":\\\"Multimodal data\\\\nprovided\\\"}}\"}", ERR_BACKEND_REFUSED,
		  "the backend answered 400: Multimodal data\\x0aprovided", 400 },
		{ 429, "{\"error\":{\"message\":\"slow down\"}}", ERR_RATE_LIMITED, "the backend answered 429: slow down", 429 },
		{ 503, "{\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}", ERR_UNAVAILABLE,
		  "the backend answered 503: server busy, please try again.  maximum pending requests exceeded", 0 },
		{ 500, "oh\xff no", ERR_BACKEND_FAILED, "the backend answered 500: oh\xef\xbf\xbd no", 0 },
		{ 500, "", ERR_BACKEND_FAILED, "the backend answered 500 without a reason", 0 },
		{ 401, "{\"error\":\"Unauthorized\"}", ERR_BACKEND_REFUSED, "the backend answered 401: Unauthorized", 0 },
		{ 422, "{\"detail\":\"bad\"}", ERR_BACKEND_REFUSED, "the backend answered 422: bad", 422 },
		{ 500, "{\"error\":\"{\\\"error\\\":{\\\"code\\\":500,\\\"message\\\":\\\"image input is not supported - hint\\\"}}\"}", ERR_BACKEND_REFUSED,
		  "the backend answered 500: image input is not supported - hint", 400 },
		{ 500, "{\"error\":{\"code\":500,\"message\":\"audio input is not supported - hint\"}}", ERR_BACKEND_REFUSED,
		  "the backend answered 500: audio input is not supported - hint", 400 },
		{ 500, "{\"error\":\"invalid format: \\\"xml\\\"\"}", ERR_BACKEND_REFUSED, "the backend answered 500: invalid format: \"xml\"", 400 },
		{ 500, "{\"error\":{\"message\":\"Failed to parse tool call arguments as JSON: x\"}}", ERR_BACKEND_REFUSED,
		  "the backend answered 500: Failed to parse tool call arguments as JSON: x", 400 },
		{ 500, "{\"error\":{\"message\":\"Jinja Exception: roles must alternate\"}}", ERR_BACKEND_REFUSED,
		  "the backend answered 500: Jinja Exception: roles must alternate", 400 },
		{ 501, "{\"error\":{\"message\":\"Infill is not supported by this model\"}}", ERR_BACKEND_REFUSED,
		  "the backend answered 501: Infill is not supported by this model", 400 },
		{ 500, "{\"error\":\"llama runner process has terminated\"}", ERR_BACKEND_FAILED,
		  "the backend answered 500: llama runner process has terminated", 0 },
		{ 302, "", ERR_BACKEND_FAILED, "the backend answered 302 without a reason", 0 },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		read_and_plan(&x, LLM_BACKEND_LLAMACPP, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true}");
		answer(&x, all[i].status, "application/json", str_of(all[i].body), 0, 5);
		assert_int_equal(x.step, LLM_FAILED);
		assert_string_equal(x.why.text, all[i].text);
		assert_int_equal(x.why.code, all[i].code);
		assert_int_equal(llm_relay_refused_status(x.relay), all[i].refused);
		assert_text(llm_relay_upstream_body(x.relay), str_of(all[i].body));
		assert_int_equal(x.out.n, 0);
		exchange_free(&x);
	}
}

#define EVENT "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n"
#define FINISH "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"

static void errors_inside_a_200_fail(void **state)
{
	static const struct { const char *stream, *sent, *text; } all[] = {
		{ "data: {\"error\":{\"message\":\"gpu lost\",\"code\":500}}\n\n", "", "the backend broke off its answer: gpu lost" },
		{ EVENT "data: {\"error\":{\"message\":\"gpu lost\"}}\n\ndata: [DONE]\n\n", EVENT, "the backend broke off its answer: gpu lost" },
		{ EVENT EVENT "data: {\"object\":\"error\",\"message\":\"old shape\"}\n\n", EVENT EVENT, "the backend broke off its answer: old shape" },
		{ EVENT "data: [DONE]\n\n", EVENT, "the backend ended its stream without a finish reason" },
		{ EVENT FINISH, EVENT FINISH, "the backend's stream ended without its [DONE] after 1 pieces" },
		{ EVENT "data: nonsense\n\n", EVENT, "the backend sent an event that is not OpenAI JSON: nonsense" },
		{ "data: {\"x\":1}\n\n", "", "the backend sent an event that is none of its protocol: {\"x\":1}" },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct exchange x;

		read_and_plan(&x, LLM_BACKEND_OPENAI, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true}");
		for (size_t piece = 0; piece < 9; piece++) {
			answer(&x, 200, SSE, str_of(all[i].stream), 0, piece);
			assert_int_equal(x.step, LLM_FAILED);
			assert_string_equal(x.why.text, all[i].text);
			assert_text(buf_as_str(&x.out), str_of(all[i].sent));
		}
		buf_clear(&x.out);
		llm_relay_break(x.relay, &x.why, &x.out);
		assert_true(str_starts(buf_as_str(&x.out), STR("data: {\"error\":{\"message\":\"the backend")));
		assert_true(str_ends(buf_as_str(&x.out), STR("\"type\":\"server_error\",\"param\":null,\"code\":\"backend_failed\"}}\n\n")));
		exchange_free(&x);
	}
}

static void comments_crlf_and_bad_utf8_pass(void **state)
{
	struct str stream = STR(": ping\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\xc3\"},\"finish_reason\":null}]}\r\n\r\n"
	                        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"\\\\\"},\"finish_reason\":null}]}\r\n\r\n:\n\n" FINISH "data: [DONE]\n\n");
	struct exchange x;

	read_and_plan(&x, LLM_BACKEND_OPENAI, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true}");
	for (size_t split = 0; split <= stream.n; split++) {
		answer(&x, 200, SSE, stream, split, split == 0 ? 1 : 0);
		assert_int_equal(x.step, LLM_DONE);
		assert_text(buf_as_str(&x.out), stream);
		assert_int_equal(llm_relay_deltas(x.relay), 2);
	}
	exchange_free(&x);
}

static void an_endless_event_is_refused(void **state)
{
	struct buf b = { 0 };
	struct exchange x;

	read_and_plan(&x, LLM_BACKEND_OPENAI, LLM_OPENAI, LLM_CHAT, CHAT ",\"stream\":true}");
	buf_addz(&b, "data: ");
	while (b.n < 5u << 20)
		buf_addz(&b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
	answer(&x, 200, SSE, buf_as_str(&b), 0, 65536);
	assert_int_equal(x.step, LLM_FAILED);
	assert_string_equal(x.why.text, "the backend sent an event longer than 4 MiB");
	buf_free(&b);
	exchange_free(&x);
}

/* Beside the use, in the last that a stream says, whatever pieces it comes in; a whole answer has a header for it. */
static void the_cost_stands_at_a_streams_end(void **state)
{
	static const char first[] = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a}b\"},\"done\":false}\n";
	static const char last[] = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":3}";
	static const char sse[] = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n"
				  "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
	static const struct { enum llm_dialect d; enum llm_op op; const char *body, *told; } converted[] = {
		{ LLM_OLLAMA, LLM_CHAT, CHAT "}", ",\"cost_microusd\":7,\"done\":true," },
		{ LLM_ANTHROPIC, LLM_CHAT, CHAT ",\"max_tokens\":9,\"stream\":true}", "\"output_tokens\":1,\"cost_microusd\":7}" },
	};
	struct buf body = { 0 }, want = { 0 };
	struct exchange x;

	buf_printf(&body, "%s%s\n", first, last);
	buf_printf(&want, "%s%.*s,\"cost_microusd\":7}\n", first, (int)strlen(last) - 1, last);
	for (size_t piece = 0; piece < body.n; piece += 1 + piece / 8) {
		read_and_plan(&x, LLM_BACKEND_OLLAMA, LLM_OLLAMA, LLM_CHAT, CHAT "}");
		x.priced = true;
		answer(&x, 200, "application/x-ndjson", buf_as_str(&body), 0, piece);
		assert_int_equal(x.step, LLM_DONE);
		assert_text(buf_as_str(&x.out), buf_as_str(&want));
		exchange_free(&x);
	}
	read_and_plan(&x, LLM_BACKEND_OLLAMA, LLM_OLLAMA, LLM_CHAT, CHAT ",\"stream\":false}");
	x.priced = true;
	answer(&x, 200, "application/json", str_of(last), 0, 0);
	assert_text(buf_as_str(&x.out), str_of(last));
	exchange_free(&x);
	for (size_t i = 0; i < sizeof(converted) / sizeof(*converted); i++) {
		read_and_plan(&x, LLM_BACKEND_LLAMACPP, converted[i].d, converted[i].op, converted[i].body);
		x.priced = true;
		answer(&x, 200, SSE, str_of(sse), 0, 10);
		assert_non_null(str_find(buf_as_str(&x.out), str_of(converted[i].told)));
		exchange_free(&x);
	}
	buf_free(&body);
	buf_free(&want);
}

static void writes_errors_in_each_dialect(void **state)
{
	struct why why = { .code = ERR_MODEL_NOT_FOUND, .field = "model", .text = "no \"x\" here" };
	struct buf b = { 0 };

	assert_string_equal(llm_error_body(LLM_OPENAI, &why, STR("id"), 0, &b), "application/json");
	assert_text(buf_as_str(&b), STR("{\"error\":{\"message\":\"no \\\"x\\\" here\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}"));
	buf_clear(&b);
	llm_error_body(LLM_OLLAMA, &why, STR("id"), 0, &b);
	assert_text(buf_as_str(&b), STR("{\"error\":\"no \\\"x\\\" here\"}"));
	buf_clear(&b);
	why.field[0] = '\0';
	llm_error_body(LLM_NATIVE, &why, STR("id"), 1000000, &b);
	assert_text(buf_as_str(&b), STR("{\"success\":false,\"error\":\"no \\\"x\\\" here\",\"error_code\":\"MODEL_NOT_FOUND\",\"timestamp\":\"1970-01-01T00:00:01.000Z\",\"request_id\":\"id\",\"field\":null}"));
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_policy_needs),
		cmocka_unit_test(caps_long_texts_at_characters), cmocka_unit_test(asks_ollama_in_the_clients_spelling),
		cmocka_unit_test(many_lined_events_cost_no_memory), cmocka_unit_test(the_cost_stands_at_a_streams_end),
		cmocka_unit_test(a_cap_is_told_in_every_dialect),
		cmocka_unit_test(refuses_what_it_cannot_read),
		cmocka_unit_test(native_requests_default_to_auto),
		cmocka_unit_test(knows_load_requests),
		cmocka_unit_test(splices_only_what_it_must),
		cmocka_unit_test(passes_recorded_streams_untouched_at_every_split),
		cmocka_unit_test(a_cut_stream_is_never_complete),
		cmocka_unit_test(takes_the_usage_chunk_out_again),
		cmocka_unit_test(passes_whole_answers),
		cmocka_unit_test(a_load_answer_ends_an_ollama_stream),
		cmocka_unit_test(explains_errors_of_backends),
		cmocka_unit_test(errors_inside_a_200_fail),
		cmocka_unit_test(comments_crlf_and_bad_utf8_pass),
		cmocka_unit_test(an_endless_event_is_refused),
		cmocka_unit_test(writes_errors_in_each_dialect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

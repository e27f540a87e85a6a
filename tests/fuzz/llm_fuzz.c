/* llm_fuzz.c - requests of clients and answers of backends, between all dialects.
 *
 * Byte 0 chooses. Below 0x80: client form (low bits); the rest is a request, planned for every kind of backend.
 * From 0x80: one of the pairings below (low bits) and whether it streams (0x40); the rest is the backend's answer,
 * given whole and in pieces: what the client gets must not depend on it, and what we wrote ourselves must be JSON. */
#include <stdlib.h>

#include "common/llm/exchange.h"

#define MUST(x) do { if (!(x)) abort(); } while (0)

static const struct json_limits wide = { .max_depth = 200, .max_nodes = 1000000 };

static const struct { enum llm_dialect d; enum llm_op op; const char *accept; } forms[] = {
	{ LLM_OPENAI, LLM_CHAT, "" }, { LLM_OPENAI, LLM_COMPLETE, "" }, { LLM_OLLAMA, LLM_CHAT, "" }, { LLM_OLLAMA, LLM_COMPLETE, "" },
	{ LLM_NATIVE, LLM_CHAT, "" }, { LLM_NATIVE, LLM_CHAT, "text/event-stream" }, { LLM_ANTHROPIC, LLM_CHAT, "" }, { LLM_ANTHROPIC, LLM_COUNT, "" },
	{ LLM_OPENAI, LLM_EMBED, "" }, { LLM_OLLAMA, LLM_EMBED, "" }, { LLM_OLLAMA, LLM_EMBED_OLD, "" },
};
enum { FORMS = sizeof(forms) / sizeof(forms[0]) };

static struct llm_target target_of(enum llm_backend kind)
{
	return (struct llm_target){ .kind = kind, .remote_model = STR("re\"mote"), .shown_model = STR("sho\\wn"), .context_length = 4096,
	                            .request_id = STR("01936f3e-0000-7000-8000-000000000001"), .created_us = 1795227654123456 };
}

static struct str joined(const struct llm_plan *p, struct arena *mem)
{
	struct buf b = { 0 };
	struct str s;

	for (unsigned i = 0; i < p->n_parts; i++)
		buf_str(&b, p->parts[i]);
	MUST(b.n == p->length);
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void check_why(const struct why *why)
{
	MUST(why->code != ERR_OK && why->text[0] && str_utf8_valid(str_of(why->text)));
}

static void fuzz_request(unsigned form, struct str body)
{
	struct arena *mem = arena_new(0);
	struct llm_in in, again;
	struct llm_texts texts;
	struct llm_plan plan;
	struct why why = { 0 };
	struct json doc;

	if (llm_read(&in, forms[form].d, forms[form].op, body, str_of(forms[form].accept), mem, &why)) {
		MUST(why.code != ERR_OK && why.text[0]);
		arena_free(mem);
		return;
	}
	texts = llm_read_texts(&in, mem);
	MUST(in.model.n && texts.user.n <= 8193 && texts.system.n <= 4097 && str_utf8_valid(texts.user));
	for (int kind = 0; kind < LLM_BACKENDS; kind++) {
		struct llm_target t = target_of((enum llm_backend)kind);
		struct str sent;
		enum llm_op op;

		if (llm_plan(&plan, &in, &t, mem, &why)) {
			MUST(!plan.passthrough && why.code != ERR_OK && why.text[0]);
			continue;
		}
		sent = joined(&plan, mem);
		MUST(json_parse(&doc, mem, sent, &wide, &why) == ERR_OK && json_kind(&doc, 0) == JSON_OBJECT);
		if (kind > LLM_BACKEND_OLLAMA)
			continue;
		MUST(strcmp(plan.path, "/infill") == 0 ||
		     str_eq(json_string(&doc, json_get(&doc, 0, "model"), mem), in.model_tok && str_eq(in.model, t.remote_model) ? in.model : t.remote_model));
		if (strcmp(plan.path, "/infill") == 0 || in.op == LLM_COUNT || llm_embeds(in.op))
			continue;
		op = strcmp(plan.path, "/v1/completions") == 0 || strcmp(plan.path, "/api/generate") == 0 ? LLM_COMPLETE : LLM_CHAT;
		if (!plan.passthrough && llm_read(&again, kind == LLM_BACKEND_OLLAMA ? LLM_OLLAMA : LLM_OPENAI, op, sent, STR(""), mem, &why))
			MUST(why.code == ERR_TOO_LARGE || why.code == ERR_MALFORMED);
	}
	arena_free(mem);
}

static const struct pairing { enum llm_dialect d; enum llm_op op; enum llm_backend b; const char *accept, *body; } pairings[] = {
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_LLAMACPP, "", "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OPENAI, LLM_COMPLETE, LLM_BACKEND_OLLAMA, "", "\"prompt\":\"x\",\"logprobs\":1" },
	{ LLM_OLLAMA, LLM_CHAT, LLM_BACKEND_LLAMACPP, "", "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "", "\"prompt\":\"x\",\"raw\":true" },
	{ LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "\"prompt\":\"x\"" },
	{ LLM_OLLAMA, LLM_COMPLETE, LLM_BACKEND_LLAMACPP, "", "\"prompt\":\"x\",\"suffix\":\"y\"" },
	{ LLM_NATIVE, LLM_CHAT, LLM_BACKEND_OPENAI, "text/event-stream", "\"prompt\":\"x\"" },
	{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_LLAMACPP, "", "\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_ANTHROPIC, LLM_CHAT, LLM_BACKEND_OLLAMA, "", "\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OLLAMA, "", "\"input\":[\"x\",\"y\"],\"encoding_format\":\"base64\"" },
	{ LLM_OLLAMA, LLM_EMBED, LLM_BACKEND_LLAMACPP, "", "\"input\":[\"x\",\"y\"]" },
	{ LLM_OPENAI, LLM_EMBED, LLM_BACKEND_OPENAI, "", "\"input\":\"x\"" },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_ANTHROPIC, "", "\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_GEMINI, "", "\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
	{ LLM_OPENAI, LLM_CHAT, LLM_BACKEND_RUNPOD, "", "\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" },
};
enum { PAIRINGS = sizeof(pairings) / sizeof(pairings[0]) };

struct outcome { enum llm_step step; bool passed, stream, sse, named; struct why why; struct buf out; uint32_t deltas; struct llm_usage usage; };

static struct outcome exchange(const struct pairing *p, bool stream, struct str bytes, size_t piece)
{
	struct llm_extra extra = { .backend = STR("b"), .latency_us = 5000, .ttft_us = 1000 };
	struct http_head head = { .status = 200 };
	struct outcome o = { .stream = stream };
	struct arena *mem = arena_new(0);
	struct llm_target t = target_of(p->b);
	struct llm_in in;
	struct llm_plan plan;
	struct llm_relay *r;

	MUST(llm_read(&in, p->d, p->op, arena_fmt(mem, "{\"model\":\"m\"%s,%s}", llm_embeds(p->op) ? "" : stream ? ",\"stream\":true" : ",\"stream\":false", p->body), str_of(p->accept), mem, &o.why) == ERR_OK);
	MUST(llm_plan(&plan, &in, &t, mem, &o.why) == ERR_OK);
	r = llm_relay_new(mem, &in, &plan, &t);
	o.passed = plan.passthrough, o.sse = p->d == LLM_OPENAI || in.sse;
	o.named = p->d == LLM_ANTHROPIC;
	o.step = llm_relay_head(r, &head, &o.why);
	for (size_t at = 0; at < bytes.n && o.step == LLM_MORE; at += piece) {
		size_t n = bytes.n - at < piece ? bytes.n - at : piece;
		char *copy = malloc(n);

		memcpy(copy, bytes.p + at, n);
		o.step = llm_relay_data(r, str_n(copy, n), &o.out, &o.why);
		free(copy);
	}
	if (o.step != LLM_FAILED)
		o.step = llm_relay_end(r, &extra, &o.out, &o.why);
	MUST(o.step != LLM_MORE);
	if (o.step == LLM_FAILED) {
		check_why(&o.why);
		MUST(stream || !o.out.n);
	}
	if (o.step == LLM_FAILED && stream && o.out.n)
		llm_relay_break(r, &o.why, &o.out);
	o.deltas = llm_relay_deltas(r);
	o.usage = *llm_relay_usage(r);
	arena_free(mem);
	return o;
}

static void mask(struct buf *b, const char *key)
{
	char *p = b->p, *end = b->n ? b->p + b->n : b->p;

	while (p && p < end && (p = memmem(p, (size_t)(end - p), key, strlen(key)))) {
		p += strlen(key);
		while (p < end && *p != '"')
			*p++ = 'T';
	}
}

static void must_be_json(struct str text)
{
	struct arena *mem = arena_new(0);
	struct json doc;
	struct why why;

	MUST(json_parse(&doc, mem, text, &wide, &why) == ERR_OK && json_kind(&doc, 0) == JSON_OBJECT);
	arena_free(mem);
}

static void check_written(const struct outcome *o)
{
	struct str rest = buf_as_str(&o->out), line;

	if (!rest.n)
		return;
	if (!o->stream) {
		must_be_json(rest);
		return;
	}
	while (str_split(&rest, '\n', &line)) {
		if (!line.n)
			continue;
		if (o->named && str_starts(line, STR("event: ")))
			continue;
		if (o->sse) {
			MUST(str_starts(line, STR("data: ")));
			line = str_from(line, 6);
			if (str_eqz(line, "[DONE]")) {
				MUST(o->step == LLM_DONE);
				continue;
			}
		}
		must_be_json(line);
	}
}

static void fuzz_answer(const struct pairing *p, bool stream, struct str bytes)
{
	struct outcome whole = exchange(p, stream, bytes, bytes.n ? bytes.n : 1);

	mask(&whole.out, "\"created_at\":\"");
	mask(&whole.out, "\"timestamp\":\"");
	if (!whole.passed)
		check_written(&whole);
	if (whole.passed && whole.step == LLM_DONE && !stream)
		MUST(whole.out.n == bytes.n);
	for (size_t piece = 1; piece < bytes.n && piece <= 7; piece += 3) {
		struct outcome o = exchange(p, stream, bytes, piece);

		mask(&o.out, "\"created_at\":\"");
		mask(&o.out, "\"timestamp\":\"");
		MUST(o.step == whole.step && o.deltas == whole.deltas && memcmp(&o.usage, &whole.usage, sizeof(o.usage)) == 0);
		MUST(str_eq(buf_as_str(&o.out), buf_as_str(&whole.out)));
		MUST(o.step != LLM_FAILED || strcmp(o.why.text, whole.why.text) == 0);
		buf_free(&o.out);
	}
	buf_free(&whole.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const struct pairing *p;
	char *copy;

	if (n < 1 || n > 65536)
		return 0;
	copy = malloc(n);
	memcpy(copy, data + 1, n - 1);
	p = &pairings[(data[0] & 0x3f) % PAIRINGS];
	if (data[0] & 0x80)
		fuzz_answer(p, (data[0] & 0x40) && !llm_embeds(p->op), str_n(copy, n - 1));
	else
		fuzz_request(data[0] % FORMS, str_n(copy, n - 1));
	free(copy);
	return 0;
}

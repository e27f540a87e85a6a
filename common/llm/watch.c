/* watch.c - looks into an answer as it passes: usage, finish reason, the end, errors inside a 200. */
#include <stdio.h>

#include "common/llm/embed.h"
#include "common/llm/relay.h"
#include "common/llm/text.h"

const struct json_limits answer_limits = { .max_depth = 64, .max_nodes = 4 * 1000 * 1000, .may_repeat_keys = true };

static enum verdict fail(struct llm_relay *r, enum err code, const char *sentence, struct str detail)
{
	char shown[120];
	size_t n = detail.n < sizeof(shown) - 1 ? detail.n : sizeof(shown) - 1;

	for (size_t i = 0; i < n; i++)
		shown[i] = (unsigned char)detail.p[i] < 0x20 || (unsigned char)detail.p[i] > 0x7e ? '?' : detail.p[i];
	shown[n] = '\0';
	err_set(&r->why, code, n ? "%s: %s" : "%s", sentence, shown);
	return FAIL;
}

/* Bytes that are not UTF-8 (a server that cuts characters) are replaced before the text is read as JSON. */
static bool parse(struct llm_relay *r, struct str text, struct json *doc, struct arena *mem)
{
	struct why why;
	struct str repaired;

	if (json_parse(doc, mem, text, &answer_limits, &why) == ERR_OK)
		return json_kind(doc, 0) == JSON_OBJECT;
	repaired = text_repair_utf8(text, mem);
	return repaired.p != text.p && json_parse(doc, mem, repaired, &answer_limits, &why) == ERR_OK && json_kind(doc, 0) == JSON_OBJECT;
}

static void note_finish(struct llm_relay *r, const struct chunk *c)
{
	if (has(c->finish))
		str_copy(r->finish, sizeof(r->finish), c->finish);
	if (c->end && !r->finish[0] && r->target->kind != LLM_BACKEND_ANTHROPIC)
		str_copy(r->finish, sizeof(r->finish), STR("stop"));
	/* Ollama, Gemini and some imitations of OpenAI say stop after tool calls too. */
	r->called |= c->n_calls != 0;
	if ((c->end || !r->pass) && r->called && strcmp(r->finish, "stop") == 0)
		str_copy(r->finish, sizeof(r->finish), STR("tool_calls"));
}

static void note_text(struct llm_relay *r, const struct chunk *c)
{
	unsigned texts = !text_is_empty(c->text), thoughts = !text_is_empty(c->thinking);

	r->deltas += (texts | thoughts) + c->n_calls;
	r->text_bytes += (texts ? c->text.n - 2 : 0) + (thoughts ? c->thinking.n - 2 : 0);
	for (uint32_t i = 0; i < c->n_calls; i++)
		r->text_bytes += c->calls[i].arguments.n;
}

/* Only an event whose sole news is one piece of text has a shape worth keeping. */
static void learn(struct llm_relay *r, const struct json *doc, const struct chunk *c)
{
	uint32_t holes[2], n = 0, stamp = r->from_ollama ? json_get(doc, 0, "created_at") : json_get(doc, 0, "obfuscation");

	r->shape.n_holes = 0;
	if (c->n_choices != 1 || has(c->finish) || c->end || c->has_usage || c->n_calls || has(c->logprobs) || !c->text_tok)
		return;
	if (text_is_empty(c->text) == text_is_empty(c->thinking))
		return;
	if (stamp && !json_is_string(doc, stamp))
		stamp = 0;
	if (stamp && stamp < c->text_tok)
		holes[n++] = stamp;
	holes[n++] = c->text_tok;
	if (stamp > c->text_tok)
		holes[n++] = stamp;
	shape_learn(&r->shape, doc, holes, n, holes[0] == c->text_tok ? 0 : 1);
	r->shape_is_thinking = text_is_empty(c->text);
}

static enum verdict said_end(struct llm_relay *r)
{
	if (!r->finish[0])
		return fail(r, ERR_BACKEND_FAILED, "the backend ended its stream without a finish reason", str_n("", 0));
	r->done = true;
	return END;
}

static bool wants_several(const struct llm_in *in)
{
	uint32_t n = json_get(&in->doc, 0, "n"), prompt = in->op == LLM_COMPLETE ? json_get(&in->doc, 0, "prompt") : 0;
	int64_t answers = 1;
	bool every_token = false;

	if (in->dialect != LLM_OPENAI || (json_bool(&in->doc, json_get(&in->doc, 0, "timings_per_token"), &every_token) && every_token))
		return false;
	return (n && json_i64(&in->doc, n, &answers) && answers > 1) || (prompt && json_kind(&in->doc, prompt) == JSON_ARRAY);
}

/* llama.cpp counts each of several answers (n, several prompts) on its own: in a stream at the end of each, in a whole answer the first alone. Then
 * the others are taken to be as long. */
static void read_llamacpp(struct llm_relay *r, const struct json *doc, struct chunk *c)
{
	struct llm_usage before = r->usage;
	uint64_t estimate = r->in->prompt_tokens_est;

	if (!wants_several(r->in)) {
		openai_read_chunk(doc, c, &r->usage, r->scratch);
		return;
	}
	r->usage.reported = false;
	openai_read_chunk(doc, c, &r->usage, r->scratch);
	if (!r->usage.reported) {
		r->usage = before;
	} else if (c->n_choices > 1) {
		r->usage.completion_tokens *= c->n_choices;
		if (r->in->op == LLM_COMPLETE && estimate > r->usage.prompt_tokens)
			r->usage.prompt_tokens = estimate;
	} else if (before.reported) {
		r->usage.completion_tokens += before.completion_tokens;
	}
}

/* The last event of use, for a client that asked for it: it is told the cost beside it. */
static void note_usage_event(struct llm_relay *r, const struct json *doc)
{
	struct str usage = json_raw(doc, json_get(doc, 0, "usage"));

	if (r->cost && r->in->want_usage && usage.n > 2)
		r->usage_ends = usage.p + usage.n - 1;
}

/* Ollama's last object is its figures. A whole answer has a header for the cost. */
static void note_last_object(struct llm_relay *r, const struct json *doc)
{
	struct str object = json_raw(doc, 0);

	if (r->cost && r->in->stream && r->usage.reported && object.n > 2)
		r->usage_ends = object.p + object.n - 1;
}

/* The error stays for who asks what the backend said. */
static enum verdict say_error(struct llm_relay *r, const struct chunk *c)
{
	r->error = arena_str(r->mem, c->error);
	if (has(c->refused)) {
		r->refused_status = 400;
		err_set(&r->why, ERR_BACKEND_REFUSED, "the provider refused the prompt for its content: " STR_FMT, STR_ARG(c->refused));
	} else {
		refusal(r, 0, r->error, &r->why);
	}
	return FAIL;
}

static enum verdict look(struct llm_relay *r, const struct json *doc, struct chunk *c)
{
	bool usage_only;

	if (r->embeds)
		embed_read_answer(r, doc, c, &r->usage);
	else if (r->target->kind == LLM_BACKEND_LLAMACPP && r->reader->read == openai_read_chunk)
		read_llamacpp(r, doc, c);
	else
		r->reader->read(doc, c, &r->usage, r->scratch);
	if (has(c->error))
		return say_error(r, c);
	usage_only = !r->from_ollama && c->has_usage && c->n_choices == 0;
	if (usage_only)
		note_usage_event(r, doc);
	if (!c->is_answer)
		return fail(r, ERR_BACKEND_FAILED, "the backend sent an event that is none of its protocol", str_n(doc->text, doc->len));
	if (c->too_many_calls && !r->pass)
		return fail(r, ERR_BACKEND_FAILED, "the backend called more tools at once than can be converted", str_n("", 0));
	note_text(r, c);
	note_finish(r, c);
	if (c->end && r->pass && r->from_ollama)
		note_last_object(r, doc);
	if (c->end)
		return said_end(r);
	return usage_only && r->hide_usage ? DROP : KEEP;
}

enum verdict watch_chunk(struct llm_relay *r, struct str payload, struct chunk *c)
{
	enum verdict v;
	struct json doc;

	chunk_clear(c);
	if (!r->reader->says_end && str_eqz(payload, "[DONE]"))
		return said_end(r);
	if (!r->scratch)
		r->scratch = arena_new(8192);
	else
		arena_reset(r->scratch);
	if (!parse(r, payload, &doc, r->scratch)) {
		char sentence[80];

		snprintf(sentence, sizeof(sentence), "the backend sent an event that is not %s JSON", r->reader->name);
		return fail(r, ERR_BACKEND_FAILED, sentence, payload);
	}
	v = look(r, &doc, c);
	if (v != FAIL)
		learn(r, &doc, c);
	return v;
}

enum verdict watch_payload(struct llm_relay *r, struct str payload)
{
	struct chunk c;
	struct str text;

	if (!payload.n)
		return KEEP;
	if (shape_match(&r->shape, payload, &text)) {
		r->deltas += text.n != 0;
		r->text_bytes += text.n;
		return KEEP;
	}
	return watch_chunk(r, payload, &c);
}

enum verdict watch_whole(struct llm_relay *r, struct str body, struct json *doc, struct chunk *c)
{
	chunk_clear(c);
	if (r->scratch != r->mem)
		arena_free(r->scratch);
	r->scratch = r->mem;              /* there is but this one event */
	if (!parse(r, body, doc, r->scratch))
		return fail(r, ERR_BACKEND_FAILED, "the backend's answer is not a JSON object", body);
	if (look(r, doc, c) == FAIL)
		return FAIL;
	if (r->embeds && !embed_is_complete(r, doc))
		return fail(r, ERR_BACKEND_FAILED, "the backend sent another number of embeddings than it was asked for", str_n("", 0));
	if (r->reader->says_end ? !c->end : !r->finish[0])
		return fail(r, ERR_BACKEND_FAILED, "the backend's answer is not finished", str_n("", 0));
	r->done = true;
	return END;
}

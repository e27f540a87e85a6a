/* errand_sign.c - calls of tools in a conversation, signed in Gemini's way where the client lost the signatures that they came with.
 *
 * Gemini's newer models sign the first call of each of their steps, and refuse a conversation in which a call of the current turn comes back without
 * (400, "missing a thought_signature"), or with one of another model or key. OpenAI's form has room for them (extra_content), Anthropic's and Ollama's
 * have none, and clients drop what they do not know. For calls whose signature is lost, or that another model made, the API has a word to say in its place. */
#include "common/data/json_write.h"
#include "services/cloud-fallback/errand.h"

#define PLACEHOLDER "{\"google\":{\"thought_signature\":\"skip_thought_signature_validator\"}}"

/* The first call of a message is signed anew; others need none. */
static void sign_message(const struct json *doc, uint32_t message, struct json_edit *edits, size_t *n, struct arena *mem)
{
	uint32_t calls = json_get(doc, message, "tool_calls");
	bool first = true;

	for (uint32_t call = calls ? json_first(doc, calls) : 0; call; call = json_next(doc, calls, call), first = false) {
		uint32_t extra = json_get(doc, call, "extra_content");

		if (extra)
			edits[(*n)++] = json_edit_value(doc, extra, first ? STR(PLACEHOLDER) : STR("null"));
		else if (first)
			edits[(*n)++] = json_edit_insert(doc, call, "extra_content", STR(PLACEHOLDER), mem);
	}
}

bool errand_is_about_signatures(const struct errand *e)
{
	struct str said = e->status == 400 && e->provider->set->kind == KIND_GEMINI ? llm_relay_upstream_body(e->relay) : STR("");

	return str_ifind(said, STR("thought_signature")) || str_ifind(said, STR("thought signature"));
}

struct str errand_signed_body(const struct errand *e)
{
	const struct json *doc = &e->in.doc;
	uint32_t messages = json_get(doc, 0, "messages");
	size_t n = 0, room = 0;
	struct json_edit *edits;
	struct buf b = { 0 };
	struct str body;

	for (uint32_t m = json_first(doc, messages); m; m = json_next(doc, messages, m))
		room += json_count(doc, json_get(doc, m, "tool_calls"));
	edits = arena_array(e->mem, struct json_edit, room + 1);
	for (uint32_t m = json_first(doc, messages); m; m = json_next(doc, messages, m))
		sign_message(doc, m, edits, &n, e->mem);
	if (!n)
		return e->in.body;
	json_splice(&b, e->in.body, edits, n);
	body = arena_str(e->mem, buf_as_str(&b));
	buf_free(&b);
	return body;
}

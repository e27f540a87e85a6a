/* refusal.c - what a backend means by an error: a code of ours and its own sentence, whatever shape it put it in.
 *
 *   {"error":{"message":…,"type":…,"code":…}}   OpenAI, llama.cpp (code is a number), vLLM
 *   {"object":"error","message":…}              vLLM before
 *   {"error":"…"}                               Ollama; the string may be JSON of the engine below it
 *   [{"error":{…}}]                             Gemini's OpenAI-compatible path
 *   {"detail":"…"}, plain text                  proxies and frameworks */
#include <stdio.h>

#include "common/llm/relay.h"
#include "common/llm/text.h"

enum { SENTENCE_MAX = 300 };

struct said {
	struct str message, type, code;
};

static struct str decoded(const struct json *doc, uint32_t object, const char *key, struct arena *mem)
{
	return json_string(doc, json_get(doc, object, key), mem);
}

static bool read_error(struct str text, struct said *s, struct arena *mem, unsigned depth)
{
	struct json doc;
	uint32_t error, where, first;

	if (depth > 3 || json_parse(&doc, mem, text, NULL, NULL) != ERR_OK)
		return false;
	if (json_is_string(&doc, 0)) {
		s->message = json_string(&doc, 0, mem);
	} else if (json_kind(&doc, 0) == JSON_OBJECT) {
		error = json_get(&doc, 0, "error");
		if (error && json_is_string(&doc, error)) {
			s->message = json_string(&doc, error, mem);
		} else {
			where = error && json_kind(&doc, error) == JSON_OBJECT ? error : 0;
			s->message = decoded(&doc, where, "message", mem);
			s->type = decoded(&doc, where, "type", mem);
			s->code = decoded(&doc, where, "code", mem);
			if (!s->message.n)
				s->message = decoded(&doc, where, "detail", mem);
			if (!s->message.n)
				return false;
		}
	} else if (json_kind(&doc, 0) == JSON_ARRAY && (first = json_first(&doc, 0))) {
		return read_error(json_raw(&doc, first), s, mem, depth + 1);
	} else {
		return false;
	}
	if (s->message.n && s->message.p[0] == '{')
		read_error(s->message, s, mem, depth + 1);
	return true;
}

static bool mentions(struct str s, const char *words) { return str_ifind(s, str_of(words)) != NULL; }

/* Some servers answer 500 to what is the request's fault. Taken for a broken backend, a few of them from one client
 * would open the breaker and take the model from everyone. Each phrase was seen in an answer of llama.cpp or Ollama. */
static bool is_about_request(int status, const struct said *s)
{
	static const char *const phrases[] = {
		"input is not supported",          /* image, audio */
		"\" must be of type",              /* an option of Ollama */
		"invalid format:",                 /* format of Ollama, neither "json" nor a schema */
		"Failed to parse tool",            /* "… tools", "… tool call arguments as JSON" */
		"Failed to parse messages",
		"Jinja Exception",                 /* the model's own template refuses the conversation, by raise_exception() */
		"is not supported by this model",  /* infill */
	};

	if (status == 501)
		return true;
	for (size_t i = 0; status == 500 && i < sizeof(phrases) / sizeof(*phrases); i++)
		if (mentions(s->message, phrases[i]))
			return true;
	return false;
}

static enum err classify(int status, const struct said *s)
{
	if (mentions(s->type, "exceed_context_size") || mentions(s->code, "context_length_exceeded") || mentions(s->message, "context length") ||
	    mentions(s->message, "context size") || mentions(s->message, "prompt is too long"))
		return ERR_CONTEXT_TOO_LONG;
	if (status && (mentions(s->code, "model_not_found") ||
	               ((status == 404 || status == 400) && mentions(s->message, "model") &&
	                (mentions(s->message, "not found") || mentions(s->message, "does not exist")))))
		return ERR_MODEL_NOT_FOUND;
	if (is_about_request(status, s))
		return ERR_BACKEND_REFUSED;
	if (status == 429)
		return ERR_RATE_LIMITED;
	if (status == 503)
		return ERR_UNAVAILABLE;
	return status >= 400 && status < 500 ? ERR_BACKEND_REFUSED : ERR_BACKEND_FAILED;
}

/* The status a client may see. A key that the backend does not take is ours, not the client's. */
static int client_status(int status, enum err code)
{
	if (status >= 500 && code == ERR_BACKEND_REFUSED)
		return 400;
	if (status < 400 || status > 499 || status == 401 || status == 403 || status == 407)
		return 0;
	return status;
}

enum err refusal(struct llm_relay *r, int status, struct str error, struct why *why)
{
	struct said s = { 0 };
	char sentence[SENTENCE_MAX + 4];
	enum err code;

	error = text_repair_utf8(error, r->mem);
	if (!read_error(error, &s, r->mem, 0))
		s.message = error;
	code = classify(status, &s);
	text_show(str_trim(s.message), sentence, SENTENCE_MAX);
	r->refused_status = client_status(status, code);
	if (!status)
		return err_set(why, code, "the backend broke off its answer: %s", sentence[0] ? sentence : "no reason given");
	if (!sentence[0])
		return err_set(why, code, "the backend answered %d without a reason", status);
	return err_set(why, code, "the backend answered %d: %s", status, sentence);
}

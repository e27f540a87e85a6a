/* read.c - llm_read(): one pass over the token tape of a request, for what policy needs to know. Nothing is copied.
 * What is only needed to convert is read again by dialect_*.c, when a backend is chosen. */
#include "common/llm/exchange.h"

#include <stdio.h>

#include "common/llm/embed.h"
#include "common/llm/fields.h"
#include "common/llm/text.h"

struct reading {
	struct llm_in *in;
	struct arena *mem;
	struct why *why;
	enum llm_form form;
	uint32_t system, user, prompt, context, suffix;      /* tokens of text */
	uint32_t images;
	uint32_t max_completion, max_tokens;
	char ignored[256];
	size_t ignored_len;
	bool tools_off;
};

static enum err read_member(struct reading *, const struct field *, uint32_t value);
static enum err unknown_member(struct reading *, struct str key);
static enum err read_messages(struct reading *, uint32_t list);
static enum err read_options(struct reading *, uint32_t object);
static enum err finish(struct reading *);

enum err llm_read(struct llm_in *in, enum llm_dialect dialect, enum llm_op op, struct str body, struct str accept,
		  struct arena *mem, struct why *why)
{
	struct reading r = { .in = in, .mem = mem, .why = why, .form = llm_form_of(dialect, op) };
	struct json *doc = &in->doc;
	enum err e;

	memset(in, 0, sizeof(*in));
	in->dialect = dialect, in->op = dialect == LLM_NATIVE ? LLM_CHAT : op, in->body = body;
	in->max_tokens = -1;
	in->stream = dialect == LLM_OLLAMA && !llm_embeds(op);
	in->sse = dialect == LLM_ANTHROPIC || (dialect == LLM_NATIVE && str_ifind(accept, STR("text/event-stream")));
	if (str_trim(body).n == 0)
		return err_set(why, ERR_MALFORMED, "missing request body");
	if ((e = json_parse(doc, mem, body, NULL, why)))
		return e;
	if (json_kind(doc, 0) != JSON_OBJECT)
		return err_set(why, ERR_MALFORMED, "the body must be a JSON object, not %s", json_kind_name(json_kind(doc, 0)));
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v)) {
		uint32_t k = json_key(doc, v);
		struct str key = doc->tok[k].flags & JSON_ESCAPED ? json_string(doc, k, mem) : json_key_raw(doc, v);
		const struct field *f = field_find(r.form, key);

		if ((e = f ? read_member(&r, f, v) : unknown_member(&r, key)))
			return e;
	}
	return finish(&r);
}

/* Ollama matches keys without regard to case: what it would read as another field than we do is refused. */
static enum err unknown_member(struct reading *r, struct str key)
{
	const struct field *f = r->form == FORM_NATIVE ? NULL : field_find_any_case(r->form, key);
	const char *near;
	char name[64];

	str_copy(name, sizeof(name), key);
	if (f && r->in->dialect == LLM_OLLAMA)
		return err_field(r->why, ERR_MALFORMED, name, "'%s' must be written '%s'", name, f->name);
	if (r->form != FORM_NATIVE)
		return ERR_OK;
	near = field_nearest(r->form, key);
	return near ? err_field(r->why, ERR_UNSUPPORTED_FIELD, name, "unknown field '%s'; did you mean '%s'?", name, near)
	            : err_field(r->why, ERR_UNSUPPORTED_FIELD, name, "unknown field '%s'", name);
}

static void ignore(struct reading *r, const char *name)
{
	size_t n = strlen(name), sep = r->ignored_len ? 2 : 0;

	if (r->ignored_len + sep + n > sizeof(r->ignored))
		return;
	memcpy(r->ignored + r->ignored_len, ", ", sep);
	memcpy(r->ignored + r->ignored_len + sep, name, n);
	r->ignored_len += sep + n;
}

static bool wants_schema(const struct json *doc, const struct field *f, uint32_t v)
{
	if (f->id == F_FORMAT)
		return json_kind(doc, v) == JSON_OBJECT || (json_is_string(doc, v) && json_raw(doc, v).n > 2);
	return json_kind(doc, v) == JSON_OBJECT && !json_string_eq(doc, json_get(doc, v, "type"), "text");
}

static enum err read_stream_options(struct reading *r, uint32_t v)
{
	if (!json_opt_bool(&r->in->doc, v, "include_usage", &r->in->want_usage, r->why))
		return ERR_MALFORMED;
	return ERR_OK;
}

static enum err read_tools(struct reading *r, uint32_t v)
{
	if (json_count(&r->in->doc, v) == 0)
		return ERR_OK;
	r->in->has_tools = true;
	r->in->text_bytes += json_raw(&r->in->doc, v).n;
	return ERR_OK;
}

static enum err read_prompt(struct reading *r, uint32_t v)
{
	struct json *doc = &r->in->doc;
	uint32_t first = json_kind(doc, v) == JSON_ARRAY ? json_first(doc, v) : v;

	if (json_kind(doc, v) == JSON_ARRAY && first && !json_is_string(doc, first))
		r->in->text_bytes += 3ull * json_count(doc, v);      /* token ids: the estimate divides again */
	r->in->text_bytes += text_bytes(doc, v);
	r->prompt = json_kind(doc, v) == JSON_ARRAY ? first : v;
	return ERR_OK;
}

/* Token ids count three bytes each: the estimate divides again. */
static uint64_t input_bytes(const struct json *doc, uint32_t v)
{
	uint32_t first = json_kind(doc, v) == JSON_ARRAY ? json_first(doc, v) : 0;

	return first && json_kind(doc, first) == JSON_NUMBER ? 3ull * json_count(doc, v) : text_bytes(doc, v);
}

static enum err read_input(struct reading *r, uint32_t v)
{
	struct json *doc = &r->in->doc;
	uint64_t bytes = input_bytes(doc, v), longest = bytes;
	enum err e;

	if ((e = embed_check(doc, v, r->in->dialect, r->why)))
		return e;
	r->in->n_inputs = embed_inputs(doc, v);
	if (r->in->n_inputs > 1)
		longest = bytes = 0;
	for (uint32_t i = r->in->n_inputs > 1 ? json_first(doc, v) : 0; i; i = json_next(doc, v, i)) {
		uint64_t n = input_bytes(doc, i);

		bytes += n;
		longest = n > longest ? n : longest;
	}
	r->in->text_bytes = longest;
	r->in->inputs_tokens_est = (uint32_t)((bytes + 2) / 3);
	r->prompt = v;
	return ERR_OK;
}

static enum err read_encoding(struct reading *r, uint32_t v)
{
	if (json_string_eq(&r->in->doc, v, "float") || json_string_eq(&r->in->doc, v, "base64"))
		return ERR_OK;
	return err_field(r->why, ERR_INVALID, "encoding_format", "encoding_format must be float or base64");
}

static enum err read_text_member(struct reading *r, uint32_t v, uint32_t *ret)
{
	*ret = v;
	r->in->text_bytes += text_bytes(&r->in->doc, v);
	return ERR_OK;
}

static enum err read_hint(struct reading *r, uint32_t v, struct str *ret);

static enum err read_tool_choice(struct reading *r, uint32_t v)
{
	struct json *doc = &r->in->doc;

	r->tools_off = json_string_eq(doc, json_kind(doc, v) == JSON_OBJECT ? json_get(doc, v, "type") : v, "none");
	return ERR_OK;
}

/* Anthropic's: whose request it is. */
static enum err read_metadata(struct reading *r, uint32_t v)
{
	uint32_t user = json_get(&r->in->doc, v, "user_id");

	ignore(r, "metadata");
	return user && json_is_string(&r->in->doc, user) ? read_hint(r, user, &r->in->user) : ERR_OK;
}

static enum err read_hint(struct reading *r, uint32_t v, struct str *ret)
{
	*ret = json_string(&r->in->doc, v, r->mem);
	return ERR_OK;
}

/* What would be taken for its default otherwise, and nobody would know. */
enum err llm_policy_check(struct str policy, struct why *why)
{
	static const char *const known[] = { "balanced", "quality", "fast", "cheap" };

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (str_eqz(policy, known[i]))
			return ERR_OK;
	return err_field(why, ERR_INVALID, "policy", "policy is balanced, quality, fast or cheap, not '%.*s'", (int)(policy.n < 40 ? policy.n : 40), policy.p);
}

static enum err read_policy(struct reading *r, uint32_t v)
{
	(void)read_hint(r, v, &r->in->policy);
	return r->in->policy.n ? llm_policy_check(r->in->policy, r->why) : ERR_OK;
}

/* no_cache is true or false; cache_ttl_s counts. */
static enum err read_cache(struct reading *r, const struct field *f, uint32_t v)
{
	double ttl_s;

	if (json_double(&r->in->doc, v, &ttl_s) && ttl_s < 0)
		return err_field(r->why, ERR_INVALID, f->name, "%s is a number of seconds; 0 keeps nothing", f->name);
	return ERR_OK;
}

static enum err read_member(struct reading *r, const struct field *f, uint32_t v)
{
	struct llm_in *in = r->in;
	struct json *doc = &in->doc;
	/* What means nothing to us is the backend's to judge. */
	enum err e = f->id == F_NONE ? ERR_OK : field_check_kind(f, f->name, doc, v, r->why);

	if (e || json_kind(doc, v) == JSON_NULL)
		return e;
	switch (f->id) {
	case F_MODEL: in->model_tok = v; return read_hint(r, v, &in->model);
	case F_STREAM: in->stream = json_kind(doc, v) == JSON_TRUE; return ERR_OK;
	case F_STREAM_OPTIONS: return read_stream_options(r, v);
	case F_MESSAGES: return read_messages(r, v);
	case F_PROMPT: return read_prompt(r, v);
	case F_EMBED_INPUT: return read_input(r, v);
	case F_ENCODING: return read_encoding(r, v);
	case F_SYSTEM: return read_text_member(r, v, &r->system);
	case F_CONTEXT_TEXT: return read_text_member(r, v, &r->context);
	case F_SUFFIX: return read_text_member(r, v, &r->suffix);
	case F_IMAGES: r->images += json_count(doc, v); return ERR_OK;
	case F_OPTIONS: return read_options(r, v);
	case F_TOOLS: return read_tools(r, v);
	case F_TOOL_CHOICE: return read_tool_choice(r, v);
	case F_METADATA: return read_metadata(r, v);
	case F_OUTPUT_CONFIG: in->has_schema = json_get(doc, v, "format") != 0; return ERR_OK;
	case F_RESPONSE_FORMAT: case F_FORMAT: in->has_schema = wants_schema(doc, f, v); return ERR_OK;
	case F_MAX_TOKENS: r->max_tokens = v; return ERR_OK;
	case F_MAX_COMPLETION_TOKENS: r->max_completion = v; return ERR_OK;
	case F_TASK_TYPE: return read_hint(r, v, &in->task_type);
	case F_COMPLEXITY: return read_hint(r, v, &in->complexity);
	case F_LANGUAGE: return read_hint(r, v, &in->language);
	case F_POLICY: return read_policy(r, v);
	case F_CACHE: return read_cache(r, f, v);
	case F_USER_ID: return read_hint(r, v, &in->user);
	case F_SESSION_ID: return read_hint(r, v, &in->session);
	case F_CONVERSATION_ID: return read_hint(r, v, &in->conversation);
	case F_LOCAL_ONLY: in->local_only = json_kind(doc, v) == JSON_TRUE; return ERR_OK;
	default:
		if (field_has_no_effect(f))
			ignore(r, f->name);
		if (f->id == F_NONE && strcmp(f->name, "user") == 0 && json_is_string(doc, v))
			return read_hint(r, v, &in->user);       /* OpenAI's: whose request it is */
		return ERR_OK;
	}
}

static enum err read_options(struct reading *r, uint32_t object)
{
	struct json *doc = &r->in->doc;

	for (uint32_t v = json_first(doc, object); v; v = json_next(doc, object, v)) {
		if (json_key_is(doc, v, "num_ctx")) {
			if (json_kind(doc, v) != JSON_NULL && (!json_i64(doc, v, &r->in->num_ctx) || r->in->num_ctx < 0))
				return err_field(r->why, ERR_MALFORMED, "options.num_ctx", "options.num_ctx must be a whole number of tokens");
		} else if (json_key_is(doc, v, "num_predict") && !r->max_tokens && json_kind(doc, v) != JSON_NULL) {
			r->max_tokens = v;
		}
	}
	return ERR_OK;
}

static void read_parts(struct reading *r, uint32_t content)
{
	struct json *doc = &r->in->doc;

	for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i)) {
		uint32_t type = json_get(doc, i, "type");

		if (!type)
			continue;
		if (json_string_eq(doc, type, "image_url"))
			r->images++;
		else if (json_string_eq(doc, type, "input_audio"))
			r->in->needs |= LLM_CAP_AUDIO;
	}
}

/* Anthropic's blocks: what is in them besides the text that text_bytes() counts. */
static void read_blocks(struct reading *r, uint32_t content)
{
	struct json *doc = &r->in->doc;

	for (uint32_t i = json_first(doc, content); i; i = json_next(doc, content, i)) {
		uint32_t type = json_get(doc, i, "type"), inner = json_get(doc, i, "content");

		if (json_string_eq(doc, type, "image")) {
			r->images++;
		} else if (json_string_eq(doc, type, "tool_result") && inner) {
			r->in->text_bytes += text_bytes(doc, inner);
			if (json_kind(doc, inner) == JSON_ARRAY)
				for (uint32_t k = json_first(doc, inner); k; k = json_next(doc, inner, k))
					r->images += json_string_eq(doc, json_get(doc, k, "type"), "image");
		} else if (!json_string_eq(doc, type, "text")) {
			r->in->text_bytes += json_raw(doc, i).n;      /* a call, thoughts, a document: nearly all of it is text */
		}
	}
}

static enum err read_message(struct reading *r, uint32_t message, uint32_t at)
{
	struct json *doc = &r->in->doc;
	uint32_t role = 0, content = 0;
	char path[48];

	if (json_kind(doc, message) != JSON_OBJECT) {
		snprintf(path, sizeof(path), "messages[%u]", at);
		return err_field(r->why, ERR_MALFORMED, path, "%s must be an object, not %s", path, json_kind_name(json_kind(doc, message)));
	}
	for (uint32_t v = json_first(doc, message); v; v = json_next(doc, message, v)) {
		if (json_key_is(doc, v, "role"))
			role = v;
		else if (json_key_is(doc, v, "content"))
			content = v;
		else if (json_key_is(doc, v, "images"))
			r->images += json_count(doc, v);
		else if (json_key_is(doc, v, "tool_calls"))
			r->in->text_bytes += json_raw(doc, v).n;
	}
	if (!role || !json_is_string(doc, role)) {
		snprintf(path, sizeof(path), "messages[%u].role", at);
		return err_field(r->why, ERR_MALFORMED, path, "%s must be a string: system, user, assistant or tool", path);
	}
	r->in->text_bytes += text_bytes(doc, content);
	if (content && json_kind(doc, content) == JSON_ARRAY)
		r->form == FORM_ANTHROPIC ? read_blocks(r, content) : read_parts(r, content);
	if (json_string_eq(doc, role, "user") && (r->form != FORM_ANTHROPIC || text_bytes(doc, content)))
		r->user = content;
	else if (!r->system && (json_string_eq(doc, role, "system") || json_string_eq(doc, role, "developer")))
		r->system = content;
	return ERR_OK;
}

static enum err read_messages(struct reading *r, uint32_t list)
{
	struct json *doc = &r->in->doc;
	uint32_t at = 0;
	enum err e;

	for (uint32_t m = json_first(doc, list); m; m = json_next(doc, list, m), at++)
		if ((e = read_message(r, m, at)))
			return e;
	r->in->n_messages = at;
	return ERR_OK;
}

/* What an empty request means: Ollama loads or unloads the model, the others refuse. */
static enum err check_content(struct reading *r)
{
	struct llm_in *in = r->in;
	bool empty;

	if (r->form == FORM_OPENAI_CHAT || r->form == FORM_ANTHROPIC) {
		if (!in->n_messages)
			return err_field(r->why, ERR_MALFORMED, "messages", "messages must be an array with at least one message");
	} else if (llm_embeds(in->op)) {
		empty = !in->n_inputs || json_raw(&in->doc, r->prompt).n == 2;
		in->load_only = empty && in->dialect == LLM_OLLAMA;
		if (empty && in->dialect == LLM_OPENAI)
			return err_field(r->why, r->prompt ? ERR_INVALID : ERR_MALFORMED, "input", "input is required and must not be empty");
	} else if (r->form == FORM_OLLAMA_CHAT) {
		in->load_only = in->n_messages == 0;
	} else {
		empty = !r->prompt || json_raw(&in->doc, r->prompt).n == 2;
		if (r->form == FORM_OLLAMA_GENERATE)
			in->load_only = empty && !r->images && !r->suffix;
		else if (!r->prompt || (r->form == FORM_NATIVE && empty))
			return err_field(r->why, r->prompt ? ERR_INVALID : ERR_MALFORMED, "prompt", "prompt is required and must not be empty");
	}
	return ERR_OK;
}

static enum err read_max_tokens(struct reading *r)
{
	uint32_t v = r->max_completion ? r->max_completion : r->max_tokens;
	const char *path = r->max_completion ? "max_completion_tokens" : r->in->dialect == LLM_OLLAMA ? "options.num_predict" : "max_tokens";

	if (!v && r->form == FORM_ANTHROPIC && r->in->op == LLM_CHAT)
		return err_field(r->why, ERR_MALFORMED, path, "max_tokens is required");
	r->in->max_tokens_tok[0] = v;
	r->in->max_tokens_tok[1] = r->max_completion ? r->max_tokens : 0;
	if (!v)
		return ERR_OK;
	if (!json_i64(&r->in->doc, v, &r->in->max_tokens))
		return err_field(r->why, ERR_MALFORMED, path, "%s must be a whole number", path);
	if (r->form == FORM_ANTHROPIC && r->in->max_tokens < 1)
		return err_field(r->why, ERR_INVALID, path, "max_tokens must be at least 1");
	if (r->in->max_tokens < 0)
		r->in->max_tokens = -1;
	return ERR_OK;
}

static enum err check_model(struct reading *r)
{
	struct llm_in *in = r->in;

	if (in->model.n > 256 || !str_utf8_valid(in->model) || memchr(in->model.p ? in->model.p : "", 0, in->model.n))
		return err_field(r->why, ERR_INVALID, "model", "model is no usable name");
	if (in->model.n)
		return ERR_OK;
	if (in->dialect != LLM_NATIVE)
		return err_field(r->why, ERR_MALFORMED, "model", "model is required");
	in->model = STR("auto");
	return ERR_OK;
}

static enum err finish(struct reading *r)
{
	enum { IMAGE_TOKENS = 768 };
	struct llm_in *in = r->in;
	enum err e;

	if ((e = check_model(r)) || (e = check_content(r)) || (e = read_max_tokens(r)))
		return e;
	if (in->has_tools && !r->tools_off)
		in->needs |= LLM_CAP_TOOLS;
	if (r->images)
		in->needs |= LLM_CAP_VISION;
	if (r->suffix && json_raw(&in->doc, r->suffix).n > 2)
		in->needs |= LLM_CAP_INSERT;
	if (llm_embeds(in->op))
		in->needs |= LLM_CAP_EMBEDDING;
	else if (r->prompt)
		in->n_messages = 1 + (r->system != 0);
	in->prompt_tokens_est = (uint32_t)((in->text_bytes + 2) / 3 + 4ull * in->n_messages + (uint64_t)IMAGE_TOKENS * r->images);
	in->system_tok = r->system, in->user_tok = r->prompt ? r->prompt : r->user, in->context_tok = r->context;
	in->ignored = r->ignored_len ? arena_str(r->mem, str_n(r->ignored, r->ignored_len)) : str_n("", 0);
	return ERR_OK;
}

struct llm_texts llm_read_texts(const struct llm_in *in, struct arena *mem)
{
	return (struct llm_texts){
		.system = text_capped(&in->doc, in->system_tok, TEXT_CAP, 0, mem),
		.user = text_capped(&in->doc, in->user_tok, TEXT_CAP, TEXT_CAP, mem),
		.context = text_capped(&in->doc, in->context_tok, TEXT_CAP, TEXT_CAP, mem),
	};
}

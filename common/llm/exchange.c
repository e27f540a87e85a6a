/* exchange.c - names, plans and error bodies; see exchange.h. Reading is in read.c, answers are in relay.c. */
#include "common/llm/exchange.h"

#include <stdio.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/llm/canon.h"
#include "common/llm/embed.h"
#include "common/llm/text.h"

const char *llm_dialect_name(enum llm_dialect d)
{
	static const char *const names[] = { "openai", "ollama", "native", "anthropic" };

	return names[d];
}

/* Plans. */

static bool wants_dimensions(const struct llm_in *in)
{
	uint32_t v = json_get(&in->doc, 0, "dimensions");

	return v && json_kind(&in->doc, v) != JSON_NULL;
}

/* llama.cpp has OpenAI's completions, but not their suffix. */
static bool agree(const struct llm_in *in, enum llm_backend b)
{
	if (b == LLM_BACKEND_RUNPOD)              /* the worker's, inside of a job */
		return true;
	if (kind_is_cloud(b))
		return false;
	if (in->op == LLM_COUNT)                  /* vLLM has Anthropic's own way to ask; what has not is estimated */
		return b == LLM_BACKEND_OPENAI;
	if (llm_embeds(in->op) && in->dialect == LLM_OPENAI)
		return b == LLM_BACKEND_OPENAI || (b == LLM_BACKEND_LLAMACPP && !wants_dimensions(in));
	if (in->op == LLM_EMBED_OLD)
		return false;
	if (in->dialect == LLM_OPENAI)
		return b == LLM_BACKEND_OPENAI || (b == LLM_BACKEND_LLAMACPP && !(in->needs & LLM_CAP_INSERT));
	return in->dialect == LLM_OLLAMA && b == LLM_BACKEND_OLLAMA;
}

static const char *same_path(const struct llm_in *in)
{
	if (in->op == LLM_COUNT)
		return "/v1/messages/count_tokens";
	if (in->op == LLM_EMBED)
		return in->dialect == LLM_OPENAI ? "/v1/embeddings" : "/api/embed";
	if (in->dialect == LLM_OPENAI)
		return in->op == LLM_CHAT ? "/v1/chat/completions" : "/v1/completions";
	return in->op == LLM_CHAT ? "/api/chat" : "/api/generate";
}

static struct json_edit ask_for_usage(const struct llm_in *in, struct arena *mem)
{
	uint32_t options = json_get(&in->doc, 0, "stream_options"), usage;

	if (!options)
		return json_edit_insert(&in->doc, 0, "stream_options", STR("{\"include_usage\":true}"), mem);
	if (json_kind(&in->doc, options) != JSON_OBJECT)
		return json_edit_value(&in->doc, options, STR("{\"include_usage\":true}"));
	usage = json_get(&in->doc, options, "include_usage");
	return usage ? json_edit_value(&in->doc, usage, STR("true"))
	             : json_edit_insert(&in->doc, options, "include_usage", STR("true"), mem);
}

static struct str without_latest(struct str name) { return str_ends(name, STR(":latest")) ? str_n(name.p, name.n - 7) : name; }

/* To Ollama "x" is "x:latest", and its answers say what the request said: the client's spelling. */
static bool says_the_model(const struct llm_in *in, const struct llm_target *t)
{
	return str_eq(in->model, t->remote_model) ||
	       (t->kind == LLM_BACKEND_OLLAMA && str_eq(without_latest(in->model), without_latest(t->remote_model)));
}

/* llama.cpp counts unasked, in the 'timings' of the last chunk, which its clients read; asked for usage, it puts them into the usage chunk
 * instead, which would be taken out again. Of several answers each chunk has its own. */
static bool counts_unasked(const struct llm_in *in, const struct llm_target *t)
{
	return t->kind == LLM_BACKEND_LLAMACPP && !json_get(&in->doc, 0, "n");
}

void llm_cap_tokens(struct llm_in *in, int64_t most)
{
	if (in->max_tokens >= 0 && in->max_tokens <= most)
		return;
	in->max_tokens = most;
	in->capped = true;
}

static struct json_edit say_most(const struct llm_in *in, struct str number, struct arena *mem)
{
	uint32_t options;

	if (in->dialect != LLM_OLLAMA)
		return json_edit_insert(&in->doc, 0, "max_tokens", number, mem);
	options = json_get_any_case(&in->doc, 0, "options");
	if (options && json_kind(&in->doc, options) == JSON_OBJECT && json_count(&in->doc, options))
		return json_edit_insert(&in->doc, options, "num_predict", number, mem);
	number = arena_fmt(mem, "{\"num_predict\":" STR_FMT "}", STR_ARG(number));
	return options ? json_edit_value(&in->doc, options, number) : json_edit_insert(&in->doc, 0, "options", number, mem);
}

/* In each place where the request says a number, or in a new one. */
static unsigned cap_edits(const struct llm_in *in, struct json_edit *edits, struct arena *mem)
{
	struct str number;
	unsigned n = 0;

	if (!in->capped || llm_embeds(in->op))
		return 0;
	number = arena_fmt(mem, "%lld", (long long)in->max_tokens);
	for (unsigned i = 0; i < 2; i++)
		if (in->max_tokens_tok[i])
			edits[n++] = json_edit_value(&in->doc, in->max_tokens_tok[i], number);
	if (!n)
		edits[n++] = say_most(in, number, mem);
	return n;
}

static void sort_edits(struct json_edit *edits, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		for (unsigned j = i; j > 0 && edits[j].at < edits[j - 1].at; j--) {
			struct json_edit later = edits[j - 1];

			edits[j - 1] = edits[j];
			edits[j] = later;
		}
}

enum { EDITS = 7 };

/* Left alone, the worker answers 16 tokens at a temperature of 0.7. */
static unsigned worker_edits(const struct llm_in *in, const struct llm_target *t, struct json_edit *edits, struct arena *mem)
{
	struct str most = arena_fmt(mem, "%u", t->max_output_tokens ? t->max_output_tokens : 4096);
	unsigned n = 0;

	if (in->max_tokens < 0)
		edits[n++] = json_edit_insert(&in->doc, 0, "max_tokens", most, mem);
	if (!json_get(&in->doc, 0, "temperature"))
		edits[n++] = json_edit_insert(&in->doc, 0, "temperature", STR("1"), mem);
	return n;
}

static unsigned same_dialect_edits(const struct llm_in *in, const struct llm_target *t, struct json_edit *edits, struct arena *mem)
{
	unsigned n = 0;

	if (in->model_tok && !says_the_model(in, t))
		edits[n++] = json_edit_value(&in->doc, in->model_tok, text_quote(t->remote_model, mem));
	if (in->dialect == LLM_OPENAI && in->stream && !in->want_usage && !counts_unasked(in, t))
		edits[n++] = ask_for_usage(in, mem);
	if (in->dialect == LLM_OLLAMA && !json_get_any_case(&in->doc, 0, "truncate"))
		edits[n++] = json_edit_insert(&in->doc, 0, "truncate", STR("false"), mem);
	n += cap_edits(in, edits + n, mem);
	if (t->kind == LLM_BACKEND_RUNPOD || t->worker)
		n += worker_edits(in, t, edits + n, mem);
	sort_edits(edits, n);
	return n;
}

static void add_part(struct llm_plan *p, struct str part)
{
	if (!part.n)
		return;
	p->parts[p->n_parts++] = part;
	p->length += part.n;
}

/* A job may wait and run for as long as the request has time: in the platform's limits. */
static struct str job_end(const struct llm_target *t, struct arena *mem)
{
	long long ms = t->time_left_ms;

	if (!ms)
		return STR("}}");
	return arena_fmt(mem, "},\"policy\":{\"executionTimeout\":%lld,\"ttl\":%lld}}", ms < 5000 ? 5000 : ms, ms < 10000 ? 10000 : ms);
}

static const char *job_path(const struct llm_in *in, const struct llm_target *t, struct arena *mem)
{
	long long ms = t->time_left_ms;

	if (in->stream)
		return "/run";
	return ms ? arena_printf(mem, "/runsync?wait=%lld", ms < 1000 ? 1000 : ms > 300000 ? 300000 : ms) : "/runsync";
}

static void pass_through(struct llm_plan *p, const struct llm_in *in, const struct llm_target *t, struct arena *mem)
{
	struct json_edit edits[EDITS];
	unsigned n = same_dialect_edits(in, t, edits, mem);
	bool job = t->kind == LLM_BACKEND_RUNPOD;
	size_t at = 0;

	p->passthrough = !job;            /* its answer comes wrapped */
	p->path = job ? job_path(in, t, mem) : same_path(in);
	if (job)
		add_part(p, STR("{\"input\":{\"openai_route\":\"/v1/chat/completions\",\"openai_input\":"));
	for (unsigned i = 0; i < n; i++) {
		add_part(p, str_n(in->body.p + at, edits[i].at - at));
		add_part(p, edits[i].with);
		at = edits[i].at + edits[i].len;
	}
	add_part(p, str_from(in->body, at));
	if (job)
		add_part(p, job_end(t, mem));
	/* llama.cpp takes the fields that have no effect and makes nothing of them; another server may use them. */
	p->ignored = t->kind == LLM_BACKEND_LLAMACPP ? in->ignored : str_n("", 0);
}

static enum err read_canon(struct planning *pl, struct canon *c)
{
	if (pl->in->dialect == LLM_OPENAI)
		return canon_read_openai(pl, c);
	if (pl->in->dialect == LLM_ANTHROPIC)
		return canon_read_anthropic(pl, c);
	return pl->in->dialect == LLM_OLLAMA ? canon_read_ollama(pl, c) : canon_read_native(pl, c);
}

static enum err write_canon(struct planning *pl, struct buf *body, const char **ret_path)
{
	struct canon c = { .max_tokens = -1 };
	bool chat;
	enum err e;

	if ((e = read_canon(pl, &c)))
		return e;
	chat = c.op == LLM_CHAT;
	if (pl->in->op == LLM_COUNT) {
		openai_write_request(pl, &c, body);
		*ret_path = "/v1/chat/completions/input_tokens";
	} else if (pl->target->kind == LLM_BACKEND_ANTHROPIC) {
		*ret_path = "/v1/messages";
		return anthropic_write_request(pl, &c, body);
	} else if (pl->target->kind == LLM_BACKEND_GEMINI) {
		*ret_path = gemini_path(pl->in, pl->target, pl->mem);
		return gemini_write_request(pl, &c, body);
	} else if (pl->target->kind == LLM_BACKEND_OLLAMA) {
		ollama_write_request(pl, &c, body);
		*ret_path = chat ? "/api/chat" : "/api/generate";
	} else if (!chat && !text_is_empty(c.suffix)) {
		infill_write_request(pl, &c, body);
		*ret_path = "/infill";
	} else {
		openai_write_request(pl, &c, body);
		*ret_path = chat ? "/v1/chat/completions" : "/v1/completions";
	}
	return ERR_OK;
}

static enum err convert(struct llm_plan *p, const struct llm_in *in, const struct llm_target *t, struct arena *mem, struct why *why)
{
	struct planning pl = { .in = in, .target = t, .mem = mem, .why = why };
	struct buf body = { 0 };
	enum err e;

	str_copy(pl.ignored, sizeof(pl.ignored), in->ignored);
	pl.ignored_len = strlen(pl.ignored);
	if (llm_embeds(in->op))
		e = embed_write_request(&pl, &body, &p->path);
	else if (in->dialect == LLM_OPENAI && t->kind == LLM_BACKEND_LLAMACPP)
		e = infill_from_openai(&pl, &body), p->path = "/infill";
	else
		e = write_canon(&pl, &body, &p->path);
	add_part(p, arena_str(mem, buf_as_str(&body)));
	buf_free(&body);
	if (e)
		return e;
	p->ignored = arena_str(mem, str_n(pl.ignored, pl.ignored_len));
	return ERR_OK;
}

static bool given(const struct llm_in *in, const char *name, uint32_t *ret)
{
	*ret = json_get(&in->doc, 0, name);
	return *ret && json_kind(&in->doc, *ret) != JSON_NULL;
}

/* What llama.cpp passes over in silence, or answers with an event of its stream that is none ("data: null"). */
static enum err check_llamacpp_completion(const struct llm_in *in, struct why *why)
{
	uint32_t v;
	int64_t n;

	if (given(in, "echo", &v) && json_kind(&in->doc, v) == JSON_TRUE)
		return err_field(why, ERR_UNSUPPORTED_FIELD, "echo", "echo is passed over by llama.cpp; leave it out, and put the prompt before the answer yourself");
	if (given(in, "best_of", &v) && !(json_i64(&in->doc, v, &n) && n == 1))
		return err_field(why, ERR_UNSUPPORTED_FIELD, "best_of", "best_of is passed over by llama.cpp; ask for n answers and choose");
	if (in->stream && given(in, "prompt", &v) && json_kind(&in->doc, v) == JSON_ARRAY && json_count(&in->doc, v) > 1 &&
	    json_kind(&in->doc, json_first(&in->doc, v)) != JSON_NUMBER)
		return err_field(why, ERR_UNSUPPORTED_FIELD, "prompt", "llama.cpp does not stream the answers to several prompts; send one prompt, or do not stream");
	return ERR_OK;
}

enum err llm_plan(struct llm_plan *p, const struct llm_in *in, const struct llm_target *t, struct arena *mem, struct why *why)
{
	memset(p, 0, sizeof(*p));
	if (t->kind > LLM_BACKEND_OLLAMA && (in->dialect != LLM_OPENAI || in->op != LLM_CHAT))
		return err_set(why, ERR_NOT_IMPLEMENTED, "%s can only be asked in OpenAI's chat form", backend_kind_name(t->kind));
	if (in->op == LLM_COMPLETE && in->dialect == LLM_OPENAI && t->kind == LLM_BACKEND_LLAMACPP && check_llamacpp_completion(in, why) != ERR_OK)
		return why->code;
	if (in->op == LLM_COUNT && t->kind == LLM_BACKEND_OLLAMA)
		return err_set(why, ERR_NOT_IMPLEMENTED, "%s counts no tokens of messages", backend_kind_name(t->kind));
	if (agree(in, t->kind)) {
		pass_through(p, in, t, mem);
		return ERR_OK;
	}
	return convert(p, in, t, mem, why);
}

const struct llm_headers *llm_backend_headers(enum llm_backend kind)
{
	static const struct llm_headers anthropic = { "x-api-key", "", "anthropic-version", "2023-06-01" }, gemini = { "x-goog-api-key", "", NULL, NULL },
	                                bearer = { "Authorization", "Bearer ", NULL, NULL };

	return kind == LLM_BACKEND_ANTHROPIC ? &anthropic : kind == LLM_BACKEND_GEMINI ? &gemini : &bearer;
}

/* Error bodies. */

static const char *openai_type(enum err code)
{
	int status = err_status(code);

	if (code == ERR_BUDGET_SPENT)
		return "insufficient_quota";
	if (status == 429)
		return "rate_limit_exceeded";
	if (code == ERR_FORBIDDEN)
		return "permission_error";
	if (code == ERR_BACKEND_REFUSED)
		return "invalid_request_error";
	return status >= 500 || code == ERR_OK ? "server_error" : "invalid_request_error";
}

/* What clients look for in "code"; the others get our own name in lower case. */
static void openai_code(enum err code, char out[32])
{
	const char *name = code == ERR_UNAUTHENTICATED ? "invalid_api_key" : code == ERR_CONTEXT_TOO_LONG ? "context_length_exceeded" :
	                   code == ERR_RATE_LIMITED || code == ERR_QUEUE_FULL ? "rate_limit_exceeded" :
	                   code == ERR_BUDGET_SPENT ? "insufficient_quota" : code == ERR_UNSUPPORTED_FIELD ? "unsupported_parameter" :
	                   code == ERR_INVALID ? "invalid_value" : code == ERR_MALFORMED ? "invalid_request_error" : err_name(code);
	unsigned i;

	for (i = 0; name[i] && i < 31; i++)
		out[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] | 0x20 : name[i]);
	out[i] = '\0';
}

static void openai_error(const struct why *why, struct json_out *jo)
{
	char code[32];

	openai_code(why->code, code);
	jw_obj(jo);
	jw_key(jo, "error"), jw_obj(jo);
	jw_kv_strz(jo, "message", why->text);
	jw_kv_strz(jo, "type", openai_type(why->code));
	jw_kv_strz(jo, "param", why->field[0] ? why->field : NULL);
	jw_kv_strz(jo, "code", code);
	jw_end(jo), jw_end(jo);
}

static const char *anthropic_type(enum err code)
{
	int status = err_status(code);

	if (code == ERR_BUDGET_SPENT)
		return "billing_error";
	if (code == ERR_BACKEND_REFUSED)          /* the backend's own 4xx is shown */
		return "invalid_request_error";
	switch (status) {
	case 401: return "authentication_error";
	case 403: return "permission_error";
	case 404: return "not_found_error";
	case 413: return "request_too_large";
	case 429: return "rate_limit_error";
	case 503: return "overloaded_error";
	case 504: return "timeout_error";
	default: return status >= 500 ? "api_error" : "invalid_request_error";
	}
}

/* Clients that shorten a conversation by themselves look for the first words of the sentence about its length. */
static void anthropic_error(const struct why *why, struct str request_id, struct json_out *jo)
{
	char text[sizeof(why->text) + 24];

	snprintf(text, sizeof(text), "%s%s", why->code == ERR_CONTEXT_TOO_LONG ? "prompt is too long: " : "", why->text);
	jw_obj(jo);
	jw_kv_strz(jo, "type", "error");
	jw_key(jo, "error"), jw_obj(jo);
	jw_kv_strz(jo, "type", anthropic_type(why->code));
	jw_kv_strz(jo, "message", text);
	jw_end(jo);
	jw_kv_str(jo, "request_id", request_id);
	jw_end(jo);
}

static void native_error(const struct why *why, struct str request_id, int64_t now_us, struct json_out *jo)
{
	char stamp[32];

	clock_rfc3339(now_us, 3, stamp, sizeof(stamp));
	jw_obj(jo);
	jw_kv_bool(jo, "success", false);
	jw_kv_strz(jo, "error", why->text);
	jw_kv_strz(jo, "error_code", err_name(why->code));
	jw_kv_strz(jo, "timestamp", stamp);
	jw_kv_str(jo, "request_id", request_id);
	jw_kv_strz(jo, "field", why->field[0] ? why->field : NULL);
	jw_end(jo);
}

const char *llm_error_body(enum llm_dialect dialect, const struct why *why, struct str request_id, int64_t now_us, struct buf *out)
{
	struct json_out jo;

	json_begin(&jo, out);
	if (dialect == LLM_OPENAI) {
		openai_error(why, &jo);
	} else if (dialect == LLM_ANTHROPIC) {
		anthropic_error(why, request_id, &jo);
	} else if (dialect == LLM_OLLAMA) {
		jw_obj(&jo);
		jw_kv_strz(&jo, "error", why->text);
		jw_end(&jo);
	} else {
		native_error(why, request_id, now_us, &jo);
	}
	return "application/json";
}

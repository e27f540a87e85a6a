/* embed.c - embeddings between dialects: texts in, vectors out. There is no stream, and an answer is one object:
 *
 *   OpenAI                {"data":[{"index":0,"embedding":[…] or base64}],"usage":{…}}
 *   Ollama's embed        {"embeddings":[[…]],"prompt_eval_count":…}
 *   Ollama's embeddings   {"embedding":[…]}: asked as embed at every backend, because that counts tokens and can refuse to cut
 *
 * Numbers keep their digits. Base64 is of little-endian 32-bit floats. */
#include "common/llm/embed.h"

#include "common/llm/text.h"

bool llm_embeds(enum llm_op op) { return op == LLM_EMBED || op == LLM_EMBED_OLD; }

uint32_t embed_inputs(const struct json *doc, uint32_t input)
{
	uint32_t first;

	if (!input || json_is_string(doc, input))
		return input ? 1 : 0;
	first = json_first(doc, input);
	return first && json_kind(doc, first) == JSON_NUMBER ? 1 : json_count(doc, input);
}

/* Requests. */

static enum err check_kind(const struct json *doc, uint32_t i, enum json_kind first, bool ids, struct why *why)
{
	enum json_kind kind = json_kind(doc, i);

	if (kind != first || (kind != JSON_STRING && !(ids && (kind == JSON_NUMBER || kind == JSON_ARRAY))))
		return err_field(why, ERR_MALFORMED, "input", ids ? "input must be a string, a list of strings, or token ids" : "input must be a string or a list of strings");
	if (ids && ((kind == JSON_STRING && json_raw(doc, i).n == 2) || (kind == JSON_ARRAY && !json_count(doc, i))))
		return err_field(why, ERR_INVALID, "input", "no input may be empty");
	return ERR_OK;
}

enum err embed_check(const struct json *doc, uint32_t input, enum llm_dialect dialect, struct why *why)
{
	uint32_t first = json_kind(doc, input) == JSON_ARRAY ? json_first(doc, input) : 0;
	enum err e;

	for (uint32_t i = first; i; i = json_next(doc, input, i))
		if ((e = check_kind(doc, i, json_kind(doc, first), dialect == LLM_OPENAI, why)))
			return e;
	return ERR_OK;
}

static enum err refuse_ids(struct planning *p, uint32_t input)
{
	const struct json *doc = &p->in->doc;
	uint32_t first = json_kind(doc, input) == JSON_ARRAY ? json_first(doc, input) : 0;

	if (!first || json_is_string(doc, first) || p->target->kind != LLM_BACKEND_OLLAMA)
		return ERR_OK;
	return plan_refuse(p, "input", "texts only; token ids mean nothing to Ollama");
}

static enum err write_member(struct planning *p, const struct field *f, uint32_t v, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;
	enum err e;

	switch (f->id) {
	case F_MODEL: case F_ENCODING: return ERR_OK;
	case F_EMBED_INPUT:
		if ((e = refuse_ids(p, v)))
			return e;
		jw_kv_raw(jo, "input", json_raw(doc, v));
		return ERR_OK;
	default:
		jw_kv_raw(jo, f->as[p->target->kind], json_raw(doc, v));
		return ERR_OK;
	}
}

enum err embed_write_request(struct planning *p, struct buf *out, const char **ret_path)
{
	const struct json *doc = &p->in->doc;
	bool ollama = p->target->kind == LLM_BACKEND_OLLAMA;
	enum llm_form form = llm_form_of(p->in->dialect, p->in->op);
	const struct field *f;
	struct json_out jo;
	enum err e;

	*ret_path = ollama ? "/api/embed" : "/v1/embeddings";
	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_str(&jo, "model", p->target->remote_model);
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v))
		if ((e = canon_field(p, form, v, "", "", &f)) || (f && (e = write_member(p, f, v, &jo))))
			return e;
	if (!ollama)
		jw_kv_strz(&jo, "encoding_format", "float");
	else if (!json_get(doc, 0, "truncate"))
		jw_kv_bool(&jo, "truncate", false);
	jw_end(&jo);
	return ERR_OK;
}

/* Answers. */

static uint32_t list_of(const struct llm_relay *r, const struct json *doc)
{
	uint32_t list = json_get(doc, 0, r->from_ollama ? "embeddings" : "data");

	return list && json_kind(doc, list) == JSON_ARRAY ? list : 0;
}

static uint32_t vector_of(const struct llm_relay *r, const struct json *doc, uint32_t entry)
{
	return r->from_ollama ? entry : json_get(doc, entry, "embedding");
}

void embed_read_answer(const struct llm_relay *r, const struct json *doc, struct chunk *c, struct llm_usage *u)
{
	uint32_t error = json_get(doc, 0, "error"), list = list_of(r, doc);

	if (error && json_kind(doc, error) != JSON_NULL)
		c->error = json_raw(doc, error);
	if (r->from_ollama)
		ollama_read_usage(doc, u);
	else
		openai_read_usage(doc, u);
	u->completion_tokens = 0;
	c->has_usage = u->reported;
	c->end = c->is_answer = list != 0;
	c->n_choices = 1;
	for (uint32_t i = list ? json_first(doc, list) : 0; i; i = json_next(doc, list, i)) {
		uint32_t v = vector_of(r, doc, i);

		c->is_answer &= v && (json_kind(doc, v) == JSON_ARRAY || json_is_string(doc, v));
	}
}

bool embed_is_complete(const struct llm_relay *r, const struct json *doc)
{
	uint32_t list = list_of(r, doc);

	return list && (json_count(doc, list) == r->in->n_inputs || !r->in->n_inputs);
}

static void base64(struct buf *out, const unsigned char *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	buf_reserve(out, n / 3 * 4 + 4);
	for (; n; p += 3, n -= n < 3 ? n : 3) {
		uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0u);
		char four[4] = { digits[v >> 18], digits[v >> 12 & 63], n > 1 ? digits[v >> 6 & 63] : '=', n > 2 ? digits[v & 63] : '=' };

		buf_add(out, four, 4);
	}
}

static bool bad_vector(struct llm_relay *r)
{
	err_set(&r->why, ERR_BACKEND_FAILED, "the backend sent an embedding that is no list of numbers");
	return false;
}

static bool write_base64(struct llm_relay *r, const struct json *doc, uint32_t vector, struct buf *out)
{
	uint32_t n = 0;
	unsigned char *bytes = arena_alloc(r->mem, 4u * json_count(doc, vector) + 1);

	for (uint32_t i = json_first(doc, vector); i; i = json_next(doc, vector, i), n++) {
		double d;
		float f;
		uint32_t bits;

		if (!json_double(doc, i, &d))
			return bad_vector(r);
		f = (float)d;
		memcpy(&bits, &f, 4);
		for (unsigned k = 0; k < 4; k++)
			bytes[4 * n + k] = (unsigned char)(bits >> 8 * k);
	}
	buf_char(out, '"');
	base64(out, bytes, 4u * n);
	buf_char(out, '"');
	return true;
}

/* The vectors in the order of the inputs: 'index' decides where it stands. */
static bool in_order(struct llm_relay *r, const struct json *doc, uint32_t *vectors, uint32_t n)
{
	uint32_t list = list_of(r, doc), at = 0;

	for (uint32_t i = json_first(doc, list); i; i = json_next(doc, list, i), at++) {
		uint32_t v = vector_of(r, doc, i);
		int64_t index = at;

		if (!r->from_ollama)
			(void)json_i64(doc, json_get(doc, i, "index"), &index);
		if (json_kind(doc, v) != JSON_ARRAY)
			return bad_vector(r);
		if (index < 0 || index >= n || vectors[index]) {
			err_set(&r->why, ERR_BACKEND_FAILED, "the backend numbered its embeddings wrongly");
			return false;
		}
		vectors[index] = v;
	}
	return true;
}

static bool write_openai(struct llm_relay *r, const struct json *doc, const uint32_t *vectors, uint32_t n, struct buf *out)
{
	bool encode = json_string_eq(&r->in->doc, json_get(&r->in->doc, 0, "encoding_format"), "base64");
	unsigned long long tokens = r->usage.prompt_tokens;

	buf_addz(out, "{\"object\":\"list\",\"data\":[");
	for (uint32_t i = 0; i < n; i++) {
		buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "", i);
		if (!encode)
			buf_str(out, json_raw(doc, vectors[i]));
		else if (!write_base64(r, doc, vectors[i], out))
			return false;
		buf_char(out, '}');
	}
	buf_addz(out, "],\"model\":");
	buf_str(out, text_quote(r->target->shown_model, r->mem));
	buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", tokens, tokens);
	return true;
}

static void write_ollama(struct llm_relay *r, const struct json *doc, const uint32_t *vectors, uint32_t n, const struct llm_extra *extra, struct buf *out)
{
	struct durations d = durations_of(r, extra);

	if (r->in->op == LLM_EMBED_OLD) {
		buf_addz(out, "{\"embedding\":");
		buf_str(out, n ? json_raw(doc, vectors[0]) : STR("[]"));
		buf_char(out, '}');
		return;
	}
	buf_addz(out, "{\"model\":");
	buf_str(out, text_quote(r->target->shown_model, r->mem));
	buf_addz(out, ",\"embeddings\":[");
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			buf_char(out, ',');
		buf_str(out, json_raw(doc, vectors[i]));
	}
	buf_printf(out, "],\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":%llu}", (long long)d.total_ns, (long long)d.load_ns,
	           (unsigned long long)r->usage.prompt_tokens);
}

bool embed_write_answer(struct llm_relay *r, const struct json *doc, const struct llm_extra *extra, struct buf *out)
{
	uint32_t n = json_count(doc, list_of(r, doc)), *vectors = arena_array(r->mem, uint32_t, n + 1);
	size_t before = out->n;
	bool ok = in_order(r, doc, vectors, n);

	if (ok && r->in->dialect == LLM_OPENAI)
		ok = write_openai(r, doc, vectors, n, out);
	else if (ok)
		write_ollama(r, doc, vectors, n, extra, out);
	if (!ok)
		out->n = before;
	return ok;
}

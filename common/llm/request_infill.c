/* request_infill.c - fill in the middle at llama.cpp: /v1/completions there takes no notice of "suffix", /infill does.
 * Its other members are llama.cpp's own words, which clients of OpenAI's dialect may use as they are. */
#include "common/llm/canon.h"
#include "common/llm/text.h"

static void write_stop(struct str stop, struct json_out *jo)
{
	if (!has(stop))
		return;
	jw_key(jo, "stop");
	if (stop.p[0] == '[')
		jw_raw(jo, stop);
	else
		jw_arr(jo), jw_raw(jo, stop), jw_end(jo);
}

static void begin(struct planning *p, struct str prompt, struct str suffix, int64_t max_tokens, struct json_out *jo)
{
	jw_obj(jo);
	jw_kv_raw(jo, "input_prefix", prompt);
	jw_kv_raw(jo, "input_suffix", suffix);
	jw_kv_bool(jo, "stream", p->in->stream);
	if (max_tokens >= 0)
		jw_kv_i64(jo, "n_predict", max_tokens);
}

void infill_write_request(struct planning *p, const struct canon *c, struct buf *out)
{
	struct json_out jo;

	json_begin(&jo, out);
	begin(p, c->prompt, c->suffix, c->max_tokens, &jo);
	write_stop(c->stop, &jo);
	if (c->format != FORMAT_TEXT)
		jw_kv_raw(&jo, "json_schema", c->format == FORMAT_SCHEMA ? c->schema : STR("{}"));
	for (uint32_t i = 0; i < c->n_plain; i++)
		jw_kv_raw(&jo, c->plain[i].field->as[LLM_BACKEND_LLAMACPP], c->plain[i].value);
	jw_end(&jo);
}

/* What becomes of a member that is none of the prompt's. */
static enum err write_member(struct planning *p, const struct field *f, struct str key, uint32_t v, struct json_out *jo)
{
	const struct json *doc = &p->in->doc;

	if (f && (field_has_no_effect(f) || json_kind(doc, v) == JSON_NULL))
		return ERR_OK;
	if (f && (f->id == F_COUNT_OF_ANSWERS || f->id == F_LOGPROBS_N || strcmp(f->name, "echo") == 0))
		return field_harmless(f, doc, v) ? ERR_OK : plan_refuse(p, f->name, "not together with suffix");
	if (f && f->id == F_PLAIN && !str_eqz(key, f->as[LLM_BACKEND_LLAMACPP]) && json_get(doc, 0, f->as[LLM_BACKEND_LLAMACPP]))
		return plan_refuse(p, f->name, "another word for it stands beside it");
	if (f && f->id == F_STOP) {
		write_stop(json_raw(doc, v), jo);
		return ERR_OK;
	}
	jw_key_str(jo, f && f->id == F_PLAIN ? str_of(f->as[LLM_BACKEND_LLAMACPP]) : key);
	jw_raw(jo, json_raw(doc, v));
	return ERR_OK;
}

static enum err one_prompt(struct planning *p, uint32_t *prompt)
{
	const struct json *doc = &p->in->doc;

	*prompt = json_get(doc, 0, "prompt");
	if (json_kind(doc, *prompt) == JSON_ARRAY && json_count(doc, *prompt) == 1)
		*prompt = json_first(doc, *prompt);
	return json_is_string(doc, *prompt) ? ERR_OK : plan_refuse(p, "prompt", "with a suffix there is one prompt, as text");
}

enum err infill_from_openai(struct planning *p, struct buf *out)
{
	const struct json *doc = &p->in->doc;
	struct json_out jo;
	uint32_t prompt;
	enum err e;

	if ((e = one_prompt(p, &prompt)))
		return e;
	json_begin(&jo, out);
	begin(p, json_raw(doc, prompt), json_raw(doc, json_get(doc, 0, "suffix")), p->in->max_tokens, &jo);
	for (uint32_t v = json_first(doc, 0); v; v = json_next(doc, 0, v)) {
		struct str key = json_string(doc, json_key(doc, v), p->mem);
		const struct field *f = field_find(FORM_OPENAI_COMPLETE, key);

		if (f && (f->id == F_MODEL || f->id == F_PROMPT || f->id == F_SUFFIX || f->id == F_STREAM || f->id == F_STREAM_OPTIONS || f->id == F_MAX_TOKENS))
			continue;
		if (!f && (str_eqz(key, "input_prefix") || str_eqz(key, "input_suffix") || str_eqz(key, "n_predict")))
			return plan_refuse(p, key.p[0] == 'n' ? "n_predict" : key.p[6] == 'p' ? "input_prefix" : "input_suffix", "not together with suffix");
		if ((e = write_member(p, f, key, v, &jo)))
			return e;
	}
	jw_end(&jo);
	return ERR_OK;
}

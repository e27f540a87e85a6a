/* answer_native.c - answers of our own dialect: lines like those of Ollama's generate, the last with all figures. */
#include "common/base/clock.h"
#include "common/llm/relay.h"
#include "common/llm/text.h"

static void begin(struct llm_relay *r, struct buf *out)
{
	if (r->in->stream && r->in->sse)
		buf_addz(out, "data: ");
	r->started = true;
}

static void end(const struct llm_relay *r, struct buf *out)
{
	if (r->in->stream)
		buf_addz(out, r->in->sse ? "\n\n" : "\n");
}

static void native_piece(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	if (text_is_empty(c->text) && text_is_empty(c->thinking))
		return;
	begin(r, out);
	if (!has(r->head))
		r->head = arena_fmt(r->mem, "{\"model\":" STR_FMT ",\"response\":", STR_ARG(text_quote(r->target->shown_model, r->mem)));
	buf_str(out, r->head);
	buf_str(out, has(c->text) ? c->text : STR("\"\""));
	if (!text_is_empty(c->thinking)) {
		buf_addz(out, ",\"thinking\":");
		buf_str(out, c->thinking);
	}
	buf_addz(out, ",\"done\":false}");
	end(r, out);
}

static void milliseconds(struct json_out *jo, const char *key, int64_t us)
{
	jw_kv_double(jo, key, (double)us / 1000);
}

static void word(struct json_out *jo, const char *key, struct str s)
{
	jw_key(jo, key);
	if (s.n)
		jw_str(jo, s);
	else
		jw_null(jo);
}

static void write_figures(struct llm_relay *r, const struct llm_extra *x, struct json_out *jo)
{
	struct durations d = durations_of(r, x);
	const struct llm_usage *u = &r->usage;

	jw_kv_bool(jo, "done", true);
	jw_kv_strz(jo, "done_reason", r->finish);
	jw_kv_u64(jo, "prompt_eval_count", u->prompt_tokens);
	jw_kv_u64(jo, "eval_count", u->completion_tokens);
	jw_kv_i64(jo, "total_duration", d.total_ns);
	jw_kv_i64(jo, "load_duration", d.load_ns);
	jw_kv_i64(jo, "prompt_eval_duration", d.prompt_ns);
	jw_kv_i64(jo, "eval_duration", d.eval_ns);
	jw_kv_u64(jo, "tokens_used", u->prompt_tokens + u->completion_tokens);
	milliseconds(jo, "latency_ms", x->latency_us);
	milliseconds(jo, "ttft_ms", x->ttft_us);
	jw_kv_i64(jo, "cost_microusd", r->cost ? r->cost(r->cost_arg, u) : x->cost_microusd);
	jw_kv_bool(jo, "cached", x->cached);
	if (x->squeezed)
		jw_kv_u64(jo, "tokens_saved", x->tokens_saved);
	word(jo, "task_type", x->task_type);
	word(jo, "complexity", x->complexity);
	word(jo, "language", x->language);
	jw_kv_u64(jo, "context_size", x->context_size);
	jw_kv_double(jo, "confidence", x->confidence);
	word(jo, "reason", x->reason);
	jw_kv_raw(jo, "alternatives", x->alternatives_json.n ? x->alternatives_json : STR("[]"));
	jw_kv_raw(jo, "experiment", x->experiment_json.n ? x->experiment_json : STR("null"));
}

static void write_last(struct llm_relay *r, struct str text, struct str thinking, const struct llm_extra *x, struct buf *out)
{
	struct json_out jo;

	begin(r, out);
	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_str(&jo, "request_id", r->target->request_id);
	jw_kv_str(&jo, "model", r->target->shown_model);
	word(&jo, "backend", x->backend);
	jw_kv_raw(&jo, "response", has(text) ? text : STR("\"\""));
	if (!text_is_empty(thinking))
		jw_kv_raw(&jo, "thinking", thinking);
	write_figures(r, x, &jo);
	jw_end(&jo);
	end(r, out);
}

static bool native_finish(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	write_last(r, STR("\"\""), str_n("", 0), extra, out);
	return true;
}

static bool native_whole(struct llm_relay *r, const struct chunk *c, const struct llm_extra *extra, struct buf *out)
{
	write_last(r, c->text, c->thinking, extra, out);
	return true;
}

const struct writer native_writer = { native_piece, native_finish, native_whole, true };

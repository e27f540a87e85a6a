/* convert.c - an answer between dialects: one event read into a chunk, the chunk written for the client. */
#include "common/llm/embed.h"
#include "common/llm/relay.h"
#include "common/llm/text.h"

/* May stand in JSON we write although nobody read it as JSON: no escapes, no controls, UTF-8. */
static bool is_clean(struct str text)
{
	for (size_t i = 0; i < text.n; i++)
		if ((unsigned char)text.p[i] < 0x20 || text.p[i] == '\\')
			return false;
	return str_utf8_valid(text);
}

static enum verdict convert_text(struct llm_relay *r, struct str text, struct buf *out)
{
	struct chunk c;
	struct str quoted = str_n(text.p - 1, text.n + 2);      /* a shape's hole has quotes around it */

	chunk_clear(&c);
	if (r->shape_is_thinking)
		c.thinking = quoted;
	else
		c.text = quoted;
	r->deltas += text.n != 0;
	r->text_bytes += text.n;
	r->writer->piece(r, &c, out);
	return KEEP;
}

enum verdict convert_payload(struct llm_relay *r, struct str payload, struct buf *out)
{
	struct chunk c;
	struct str text;
	enum verdict v;

	if (shape_match(&r->shape, payload, &text) && is_clean(text))
		return convert_text(r, text, out);
	v = watch_chunk(r, payload, &c);
	if (v == FAIL)
		return FAIL;
	r->writer->piece(r, &c, out);
	if (v == END && !r->writer->needs_extra && !relay_finish(r, NULL, out))
		return FAIL;
	return v;
}

enum verdict convert_whole(struct llm_relay *r, struct str body, const struct llm_extra *extra, struct buf *out)
{
	struct json doc;
	struct chunk c;

	if (watch_whole(r, body, &doc, &c) == FAIL)
		return FAIL;
	relay_count(r);
	if (!(r->embeds ? embed_write_answer(r, &doc, extra, out) : r->writer->whole(r, &c, extra, out))) {
		r->done = false;
		return FAIL;
	}
	r->started = true;
	return END;
}

/* The call a piece goes on with. An index says it, but some servers give every call the index 0: then a new id opens a new
 * call; others leave the index out: then a piece without an id belongs to the call that came last. */
static struct pending *open_call(struct llm_relay *r, const struct call *call)
{
	if (r->reader->whole_calls)
		return NULL;
	for (uint32_t i = r->n_pending; i > 0; i--) {
		struct pending *p = &r->pending[i - 1];
		bool same_id = !has(call->id) || !has(p->id) || str_eq(call->id, p->id);

		if (same_id && (call->has_index ? p->index == call->index : !has(call->id) || str_eq(call->id, p->id)))
			return p;
	}
	return NULL;
}

static struct pending *pending_for(struct llm_relay *r, const struct call *call)
{
	struct pending *p = open_call(r, call);

	if (p || r->n_pending == RELAY_CALLS)
		return p;
	if (!r->pending)
		r->pending = arena_array(r->mem, struct pending, RELAY_CALLS);
	p = &r->pending[r->n_pending++];
	p->index = call->has_index ? call->index : r->n_pending - 1;
	return p;
}

/* Pieces are copied: they lie in the event, which goes. */
struct pending *pending_add(struct llm_relay *r, const struct call *call)
{
	struct pending *p = pending_for(r, call);

	if (!p) {
		r->too_many_calls = true;
		return NULL;
	}
	if (has(call->id) && !has(p->id))
		p->id = arena_str(r->mem, call->id);
	if (!text_is_empty(call->name) && !has(p->name))
		p->name = arena_str(r->mem, call->name);
	if (!has(call->arguments))
		return p;
	p->is_object = call->is_object;
	if (call->is_object)
		buf_str(&p->arguments, call->arguments);
	else
		buf_add(&p->arguments, call->arguments.p + 1, call->arguments.n - 2);
	return p;
}

bool pending_arguments(struct llm_relay *r, const struct pending *p, struct json_out *jo)
{
	struct str raw = buf_as_str(&p->arguments), text;
	struct json doc;

	if (!p->is_object && raw.n) {
		raw = arena_fmt(r->mem, "\"" STR_FMT "\"", STR_ARG(raw));
		if (json_parse(&doc, r->mem, raw, NULL, NULL) != ERR_OK)
			raw.n = 0;
		else
			raw = json_string(&doc, 0, r->mem);
	}
	text = str_trim(raw);
	if (!text.n)
		text = STR("{}");
	if (json_parse(&doc, r->mem, text, NULL, NULL) != ERR_OK || json_kind(&doc, 0) != JSON_OBJECT) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the arguments of the model's call of " STR_FMT " are not a JSON object%s", STR_ARG(p->name),
		        strcmp(r->finish, "length") == 0 ? ": the answer was cut at its length" : "");
		return false;
	}
	jw_raw(jo, text_one_line(text, r->mem));
	return true;
}

/* The backend's own figures, else what the gateway measured. */
struct durations durations_of(const struct llm_relay *r, const struct llm_extra *extra)
{
	struct durations d = { r->usage.total_ns, r->usage.load_ns, r->usage.prompt_ns, r->usage.eval_ns };

	if (!d.total_ns)
		d.total_ns = extra->latency_us * 1000;
	if (!d.prompt_ns && !d.eval_ns) {
		d.prompt_ns = extra->ttft_us * 1000;
		d.eval_ns = extra->latency_us > extra->ttft_us ? (extra->latency_us - extra->ttft_us) * 1000 : 0;
	}
	if (!d.total_ns)
		d.total_ns = d.prompt_ns + d.eval_ns;
	return d;
}

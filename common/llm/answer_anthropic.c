/* answer_anthropic.c - answers for clients of Anthropic's dialect: a message of blocks, or the events that build one.
 *
 *   message_start, then block after block (content_block_start, _delta…, _stop), message_delta with the stop reason and
 *   the usage, message_stop
 *
 * Blocks stand one after another, while OpenAI's pieces of several calls may be mixed: the first call is passed on piece by
 * piece, those after it are put together and follow at the end. */
#include "common/llm/relay.h"
#include "common/llm/text.h"

enum { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_CALL };

static void begin(struct buf *out, const char *event)
{
	buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", event, event);
}

static void end(struct buf *out) { buf_addz(out, "}\n\n"); }

/* cost: of the answer in micro-dollars; -1 = not told here. */
static void write_usage(const struct llm_usage *u, uint64_t completion, int64_t cost, struct buf *out)
{
	uint64_t cached = u->cached_tokens < u->prompt_tokens ? u->cached_tokens : u->prompt_tokens;

	buf_printf(out, "\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%llu,\"output_tokens\":%llu",
	           (unsigned long long)(u->prompt_tokens - cached), (unsigned long long)cached, (unsigned long long)completion);
	if (cost >= 0)
		buf_printf(out, ",\"cost_microusd\":%lld", (long long)cost);
	buf_char(out, '}');
}

static void write_message(struct llm_relay *r, struct buf *out)
{
	buf_addz(out, "\"id\":\"msg_");
	buf_str(out, r->target->request_id);
	buf_addz(out, "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
	buf_str(out, text_quote(r->target->shown_model, r->mem));
}

/* The tokens of the prompt are known at the end: here stands the estimate. */
static void start(struct llm_relay *r, struct buf *out)
{
	struct llm_usage estimate = { .prompt_tokens = r->in->prompt_tokens_est };

	if (r->role_sent)
		return;
	r->role_sent = r->started = true;
	begin(out, "message_start");
	buf_addz(out, ",\"message\":{");
	write_message(r, out);
	buf_addz(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
	write_usage(&estimate, 0, -1, out);
	buf_char(out, '}');
	end(out);
}

/* Blocks. */

static void close_block(struct llm_relay *r, struct buf *out)
{
	if (r->block == BLOCK_NONE)
		return;
	begin(out, "content_block_stop");
	buf_printf(out, ",\"index\":%u", r->n_blocks - 1);
	end(out);
	r->block = BLOCK_NONE;
}

static void open_block(struct llm_relay *r, int kind, struct str content, struct buf *out)
{
	start(r, out);
	close_block(r, out);
	begin(out, "content_block_start");
	buf_printf(out, ",\"index\":%u,\"content_block\":", r->n_blocks++);
	buf_str(out, content);
	end(out);
	r->block = (uint8_t)kind;
	if (r->n_blocks == 1)
		begin(out, "ping"), end(out);
}

static void delta(struct llm_relay *r, const char *type, const char *member, struct str json_string, struct buf *out)
{
	begin(out, "content_block_delta");
	buf_printf(out, ",\"index\":%u,\"delta\":{\"type\":\"%s\",\"%s\":", r->n_blocks - 1, type, member);
	buf_str(out, json_string);
	buf_char(out, '}');
	end(out);
}

static void open_call(struct llm_relay *r, struct str id, struct str name, struct buf *out)
{
	struct str request = r->target->request_id, tail = str_from(request, request.n > 8 ? request.n - 8 : 0);

	r->calls_sent++;
	open_block(r, BLOCK_CALL, arena_join(r->mem, (struct str[]){
		STR("{\"type\":\"tool_use\",\"id\":"),
		has(id) ? id : text_quote(arena_fmt(r->mem, "toolu_" STR_FMT "_%u", STR_ARG(tail), r->calls_sent), r->mem),
		STR(",\"name\":"), has(name) ? name : STR("\"\""), STR(",\"input\":{}}") }, 5), out);
}

static void whole_call(struct llm_relay *r, struct str id, struct str name, struct str object, struct buf *out)
{
	open_call(r, id, name, out);
	delta(r, "input_json_delta", "partial_json", text_quote(object, r->mem), out);
	close_block(r, out);
}

/* Of the first call all that is there, then piece after piece; NULL 'piece' when none came. */
static void live_call(struct llm_relay *r, struct pending *p, struct str piece, struct buf *out)
{
	if (p->begun) {
		r->scattered |= r->block != BLOCK_CALL;
		if (!text_is_empty(piece))
			delta(r, "input_json_delta", "partial_json", piece, out);
		return;
	}
	if (!has(p->name))
		return;
	p->begun = true;
	open_call(r, p->id, p->name, out);
	if (p->arguments.n)
		delta(r, "input_json_delta", "partial_json", arena_join(r->mem, (struct str[]){ STR("\""), buf_as_str(&p->arguments), STR("\"") }, 3), out);
}

static void call_piece(struct llm_relay *r, const struct call *call, struct buf *out)
{
	struct pending *p;

	if (r->from_ollama) {
		whole_call(r, call->id, call->name, has(call->arguments) ? text_one_line(call->arguments, r->mem) : STR("{}"), out);
		return;
	}
	p = pending_add(r, call);
	if (p && p == r->pending)
		live_call(r, p, call->arguments, out);
}

static void anthropic_piece(struct llm_relay *r, const struct chunk *c, struct buf *out)
{
	if (has(c->stop_string))
		r->stop_string = arena_str(r->mem, c->stop_string);
	if (!text_is_empty(c->thinking)) {
		if (r->block != BLOCK_THINKING)
			open_block(r, BLOCK_THINKING, STR("{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}"), out);
		delta(r, "thinking_delta", "thinking", c->thinking, out);
	}
	if (!text_is_empty(c->text)) {
		if (r->block != BLOCK_TEXT)
			open_block(r, BLOCK_TEXT, STR("{\"type\":\"text\",\"text\":\"\"}"), out);
		delta(r, "text_delta", "text", c->text, out);
	}
	for (uint32_t i = 0; i < c->n_calls; i++)
		call_piece(r, &c->calls[i], out);
}

/* The end. */

static bool is(const struct llm_relay *r, const char *finish) { return strcmp(r->finish, finish) == 0; }

static const char *stop_reason(const struct llm_relay *r)
{
	if (is(r, "length"))
		return "max_tokens";
	if (is(r, "content_filter"))
		return "refusal";
	if (r->called || is(r, "tool_calls") || is(r, "function_call"))
		return "tool_use";
	return has(r->stop_string) ? "stop_sequence" : "end_turn";
}

static void write_stop(const struct llm_relay *r, struct buf *out)
{
	const char *reason = stop_reason(r);

	buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
	buf_str(out, strcmp(reason, "stop_sequence") == 0 ? r->stop_string : STR("null"));
}

static bool arguments_of(struct llm_relay *r, const struct pending *p, struct str *ret)
{
	struct buf b = { 0 };
	struct json_out jo;
	bool ok;

	json_begin(&jo, &b);
	ok = pending_arguments(r, p, &jo);
	if (ok)
		*ret = arena_str(r->mem, buf_as_str(&b));
	buf_free(&b);
	return ok;
}

/* A call that was cut at the length is the client's to judge where its pieces are out already. */
static bool end_calls(struct llm_relay *r, struct buf *out)
{
	struct str object[RELAY_CALLS];

	if (r->too_many_calls || r->scattered) {
		err_set(&r->why, ERR_BACKEND_FAILED, r->scattered ? "the backend went on with a tool call after other text"
		                                                  : "the model called more than %d tools at once", RELAY_CALLS);
		return false;
	}
	for (uint32_t i = 0; i < r->n_pending; i++)
		if (!(r->pending[i].begun && is(r, "length")) && !arguments_of(r, &r->pending[i], &object[i]))
			return false;
	for (uint32_t i = 0; i < r->n_pending; i++)
		if (!r->pending[i].begun)
			whole_call(r, r->pending[i].id, r->pending[i].name, object[i], out);
	return true;
}

static bool anthropic_finish(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	if (!end_calls(r, out))
		return false;
	start(r, out);
	close_block(r, out);
	begin(out, "message_delta");
	buf_addz(out, ",\"delta\":{");
	write_stop(r, out);
	buf_addz(out, "},");
	write_usage(&r->usage, r->usage.reported ? r->usage.completion_tokens : r->deltas, r->cost ? r->cost(r->cost_arg, &r->usage) : -1, out);
	end(out);
	begin(out, "message_stop");
	end(out);
	return true;
}

static bool write_calls(struct llm_relay *r, struct json_out *jo)
{
	struct str request = r->target->request_id, tail = str_from(request, request.n > 8 ? request.n - 8 : 0);

	if (r->too_many_calls) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the model called more than %d tools at once", RELAY_CALLS);
		return false;
	}
	for (uint32_t i = 0; i < r->n_pending; i++) {
		const struct pending *p = &r->pending[i];

		jw_obj(jo);
		jw_kv_strz(jo, "type", "tool_use");
		jw_kv_raw(jo, "id", has(p->id) ? p->id : text_quote(arena_fmt(r->mem, "toolu_" STR_FMT "_%u", STR_ARG(tail), i + 1), r->mem));
		jw_kv_raw(jo, "name", has(p->name) ? p->name : STR("\"\""));
		jw_key(jo, "input");
		if (!pending_arguments(r, p, jo))
			return false;
		jw_end(jo);
	}
	return true;
}

static bool anthropic_whole(struct llm_relay *r, const struct chunk *c, const struct llm_extra *extra, struct buf *out)
{
	size_t before = out->n;
	struct json_out jo;

	for (uint32_t i = 0; i < c->n_calls; i++)
		(void)pending_add(r, &c->calls[i]);
	r->stop_string = c->stop_string;
	buf_char(out, '{');
	write_message(r, out);
	buf_addz(out, ",\"content\":");
	json_begin(&jo, out);
	jw_arr(&jo);
	if (!text_is_empty(c->thinking))
		jw_obj(&jo), jw_kv_strz(&jo, "type", "thinking"), jw_kv_raw(&jo, "thinking", c->thinking), jw_kv_strz(&jo, "signature", ""), jw_end(&jo);
	if (!text_is_empty(c->text))
		jw_obj(&jo), jw_kv_strz(&jo, "type", "text"), jw_kv_raw(&jo, "text", c->text), jw_end(&jo);
	if (!write_calls(r, &jo)) {
		out->n = before;
		return false;
	}
	jw_end(&jo);
	buf_char(out, ',');
	write_stop(r, out);
	buf_char(out, ',');
	write_usage(&r->usage, r->usage.reported ? r->usage.completion_tokens : (r->text_bytes + 3) / 4, -1, out);
	buf_char(out, '}');
	return true;
}

const struct writer anthropic_writer = { anthropic_piece, anthropic_finish, anthropic_whole, false };

/* relay.c - one backend's answer on its way to the client: drives watch.c and, where dialects differ, the writers.
 *
 *   head ──▶ REPLY_STREAM  frames as they come ──▶ passed on, or read into chunks and written again
 *            REPLY_WHOLE   held until the end
 *            REPLY_ERROR   held, explained by refusal.c */
#include "common/llm/relay.h"

#include "common/base/clock.h"

static void release(void *arg)
{
	struct llm_relay *r = arg;

	for (uint32_t i = 0; i < r->n_pending; i++)
		buf_free(&r->pending[i].arguments);
	frames_free(&r->frames);
	shape_free(&r->shape);
	buf_free(&r->body);
	if (r->runpod)
		runpod_free(r->runpod);
	if (r->scratch != r->mem)
		arena_free(r->scratch);
}

static const struct writer *const writers[] = {
	[LLM_OPENAI] = &openai_writer, [LLM_OLLAMA] = &ollama_writer, [LLM_NATIVE] = &native_writer, [LLM_ANTHROPIC] = &anthropic_writer,
};

static const struct reader from_openai = { .name = "OpenAI", .end = "[DONE]", .read = openai_read_chunk };
static const struct reader from_ollama = { "Ollama", "last line (\"done\":true)", ollama_read_chunk, .says_end = true, .whole_calls = true };
static const struct reader from_infill = { "llama.cpp", "last event (\"stop\":true)", infill_read_chunk, .says_end = true };

static const struct reader *const readers[LLM_BACKENDS] = {
	[LLM_BACKEND_LLAMACPP] = &from_openai, [LLM_BACKEND_OPENAI] = &from_openai, [LLM_BACKEND_OLLAMA] = &from_ollama,
	[LLM_BACKEND_ANTHROPIC] = &(const struct reader){ "Anthropic", "message_stop", anthropic_read_chunk, .says_end = true },
	[LLM_BACKEND_GEMINI] = &(const struct reader){ "Gemini", "finishReason", gemini_read_chunk, .ends_with_body = true, .whole_calls = true },
	[LLM_BACKEND_RUNPOD] = &(const struct reader){ "RunPod", "final state", runpod_read_chunk },
};

static bool is_rewritten(const struct llm_in *in, const struct llm_target *t)
{
	return t->rewrite && t->kind == LLM_BACKEND_OPENAI && in->dialect == LLM_OPENAI && in->op == LLM_CHAT && !json_get(&in->doc, 0, "n");
}

struct llm_relay *llm_relay_new(struct arena *mem, const struct llm_in *in, const struct llm_plan *plan, const struct llm_target *target)
{
	struct llm_relay *r = arena_new_of(mem, struct llm_relay);
	struct llm_target *own = arena_new_of(mem, struct llm_target);

	*own = *target;                   /* the caller's may lie on a stack that is gone at the answer's end */
	r->in = in, r->target = own, r->mem = mem;
	r->pass = plan->passthrough && !is_rewritten(in, target);
	r->from_ollama = target->kind == LLM_BACKEND_OLLAMA;
	r->embeds = llm_embeds(in->op);
	r->reader = strcmp(plan->path, "/infill") == 0 ? &from_infill : readers[target->kind];
	if (target->kind == LLM_BACKEND_RUNPOD)
		r->runpod = arena_new_of(mem, struct runpod);
	r->hide_usage = r->pass && !r->from_ollama && in->stream && !in->want_usage;
	r->writer = writers[in->dialect];
	r->frames.kind = r->from_ollama ? FRAME_LINE : r->runpod ? FRAME_JSON : FRAME_SSE;
	r->usage.prompt_tokens = r->embeds ? in->inputs_tokens_est : in->prompt_tokens_est;
	arena_defer(mem, release, r);
	return r;
}

static enum llm_step failed(struct llm_relay *r, struct why *why)
{
	r->failed = true;
	if (why)
		*why = r->why;
	return LLM_FAILED;
}

static struct str header_of(const struct http_head *h, const char *name)
{
	const struct http_header *found = http_find(h, name);

	return found ? found->value : str_n("", 0);
}

/* Ollama answers one JSON object where there is nothing to stream (a model loaded): a stream of one line to us. */
static enum reply reply_of(const struct llm_relay *r, const struct http_head *h)
{
	struct str type = header_of(h, "content-type");

	if (h->status < 200 || h->status > 299)
		return REPLY_ERROR;
	if (r->runpod)                    /* replies about a job, however the answer is wanted */
		return REPLY_STREAM;
	if (!r->in->stream)
		return REPLY_WHOLE;
	if (r->from_ollama || str_ifind(type, STR("text/event-stream")) == type.p)
		return REPLY_STREAM;
	return type.n ? REPLY_ERROR : REPLY_STREAM;
}

enum llm_step llm_relay_head(struct llm_relay *r, const struct http_head *h, struct why *why)
{
	if (r->runpod && frames_rest(&r->frames).n) {
		err_set(&r->why, ERR_BACKEND_FAILED, "RunPod's reply ended in its middle");
		return failed(r, why);
	}
	r->status = h->status;
	r->reply = reply_of(r, h);
	r->one_object = r->pass && r->from_ollama && str_starts(header_of(h, "content-type"), STR("application/json"));
	return LLM_MORE;
}

static enum llm_step hold(struct llm_relay *r, struct str in, size_t max, struct buf *out, struct why *why)
{
	if (r->reply == REPLY_ERROR && r->body.n + in.n > max)
		in.n = max - r->body.n;
	if (r->body.n + in.n > max) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the backend's answer is longer than %zu MiB", max >> 20);
		return failed(r, why);
	}
	if (!r->body.p && !out->n) {      /* the bytes will lie in the caller's buffer, see whole_end(): let it be its own */
		r->body = *out;
		*out = (struct buf){ 0 };
	}
	buf_add(&r->body, in.p, in.n);
	return LLM_MORE;
}

static void emit(struct llm_relay *r, struct str bytes, struct buf *out)
{
	if (!bytes.n)
		return;
	buf_str(out, bytes);
	r->started = true;
}

/* The frame with its cost where its use is told; false: it goes as it is. */
static bool emit_priced(struct llm_relay *r, struct str frame, struct buf *out)
{
	const char *at = r->usage_ends;

	r->usage_ends = NULL;
	if (!at || at < frame.p || at >= frame.p + frame.n)
		return false;
	emit(r, str_n(frame.p, (size_t)(at - frame.p)), out);
	buf_printf(out, ",\"cost_microusd\":%lld", (long long)r->cost(r->cost_arg, &r->usage));
	emit(r, str_n(at, (size_t)(frame.p + frame.n - at)), out);
	return true;
}

/* Runs of whole frames that lie together are appended at once. */
static enum llm_step pass_frames(struct llm_relay *r, struct str in, struct buf *out, struct why *why)
{
	struct str frame, run = { NULL, 0 };

	while (frames_next(&r->frames, &in, &frame)) {
		enum verdict v = watch_payload(r, frame_payload(&r->frames, frame));

		if ((v == KEEP || v == END) && r->usage_ends) {
			emit(r, run, out);
			run.n = 0;
			if (emit_priced(r, frame, out)) {
				if (v == END)
					return LLM_DONE;
				continue;
			}
		}
		if (v == KEEP || v == END) {
			if (run.n && run.p + run.n == frame.p) {
				run.n += frame.n;
			} else {
				emit(r, run, out);
				run = frame;
			}
		}
		if (v == KEEP && !frames_in_held(&r->frames))
			continue;
		emit(r, run, out);
		run.n = 0;
		if (v == FAIL)
			return failed(r, why);
		if (v == END)
			return LLM_DONE;
	}
	emit(r, run, out);
	return LLM_MORE;
}

static enum llm_step convert_frames(struct llm_relay *r, struct str in, struct buf *out, struct why *why)
{
	struct str frame;

	while (frames_next(&r->frames, &in, &frame)) {
		struct str payload = frame_payload(&r->frames, frame);
		enum verdict v = payload.n ? convert_payload(r, payload, out) : KEEP;

		if (v == FAIL)
			return failed(r, why);
		if (v == END)
			return LLM_DONE;
	}
	return LLM_MORE;
}

static enum llm_step job_replies(struct llm_relay *r, struct str in, struct buf *out, struct why *why)
{
	struct str frame;

	while (frames_next(&r->frames, &in, &frame)) {
		enum verdict v = runpod_reply(r, frame, out);

		if (v == FAIL)
			return failed(r, why);
		if (v == END)
			return LLM_DONE;
	}
	return LLM_MORE;
}

static enum llm_step stream(struct llm_relay *r, struct str in, struct buf *out, struct why *why)
{
	enum llm_step step = r->runpod ? job_replies(r, in, out, why) : r->pass ? pass_frames(r, in, out, why) : convert_frames(r, in, out, why);

	if (step == LLM_MORE && frames_too_long(&r->frames)) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the backend sent an event longer than %d MiB", FRAME_MAX >> 20);
		return failed(r, why);
	}
	return step;
}

void relay_count(struct llm_relay *r)
{
	if (!r->usage.reported)
		r->usage.completion_tokens = !r->in->stream ? (r->text_bytes + 3) / 4 : r->deltas;
}

bool relay_finish(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	relay_count(r);
	return r->writer->finish(r, extra, out);
}

static enum llm_step counted(struct llm_relay *r, enum llm_step step)
{
	relay_count(r);
	return step;
}

enum llm_step llm_relay_data(struct llm_relay *r, struct str in, struct buf *out, struct why *why)
{
	if (r->failed)
		return failed(r, why);
	if (r->done)
		return LLM_DONE;
	switch (r->reply) {
	case REPLY_STREAM: return counted(r, stream(r, in, out, why));
	case REPLY_WHOLE: return hold(r, in, WHOLE_MAX, out, why);
	case REPLY_ERROR: return hold(r, in, ERROR_MAX, out, why);
	default: return LLM_MORE;
	}
}

/* A last line without its line end, or an event without its empty line: taken when it says that the answer ends or broke. */
static enum verdict last_words(struct llm_relay *r, struct buf *out)
{
	struct str rest = frames_rest(&r->frames), payload = frame_payload(&r->frames, rest);
	enum verdict v;

	if (!payload.n || (payload.p[payload.n - 1] != '}' && !str_eqz(payload, "[DONE]")))
		return KEEP;
	v = r->pass ? watch_payload(r, payload) : convert_payload(r, payload, out);
	if (v == END && r->pass) {
		emit(r, rest, out);
		if (!r->one_object)
			emit(r, r->frames.kind == FRAME_LINE || str_ends(rest, STR("\n")) ? STR("\n") : STR("\n\n"), out);
	}
	return v;
}

static enum llm_step stream_end(struct llm_relay *r, const struct llm_extra *extra, struct buf *out, struct why *why)
{
	static const struct llm_extra nothing;

	if (!r->done && !r->runpod && last_words(r, out) == FAIL)
		return failed(r, why);
	if (!r->done && r->reader->ends_with_body && r->finish[0]) {
		r->done = true;
		if (!r->writer->needs_extra && !relay_finish(r, NULL, out))
			return failed(r, why);
	}
	if (r->done && r->runpod && !r->in->stream)
		return runpod_whole(r, extra ? extra : &nothing, out) == FAIL ? failed(r, why) : LLM_DONE;
	if (r->done && !r->pass && r->writer->needs_extra && !r->finished && !relay_finish(r, extra ? extra : &nothing, out))
		return failed(r, why);
	r->finished = r->done;
	if (r->done)
		return LLM_DONE;
	err_set(&r->why, ERR_BACKEND_FAILED, "the backend's stream ended without its %s after %u pieces",
	        r->reader->end, r->deltas);
	return failed(r, why);
}

static enum llm_step whole_end(struct llm_relay *r, const struct llm_extra *extra, struct buf *out, struct why *why)
{
	static const struct llm_extra nothing;
	struct json doc;
	struct chunk c;

	if (!r->pass)
		return convert_whole(r, buf_as_str(&r->body), extra ? extra : &nothing, out) == FAIL ? failed(r, why) : LLM_DONE;
	if (watch_whole(r, buf_as_str(&r->body), &doc, &c) == FAIL)
		return failed(r, why);
	if (!out->n) {
		struct buf swap = *out;

		*out = r->body;
		r->body = swap;
	} else {
		buf_add(out, r->body.p, r->body.n);
	}
	r->started = true;
	return LLM_DONE;
}

static enum llm_step error_end(struct llm_relay *r, struct why *why)
{
	if (r->status >= 200 && r->status <= 299) {
		struct str body = buf_as_str(&r->body);

		if (str_find(body, STR("\"error\"")))
			refusal(r, 500, body, &r->why);
		else
			err_set(&r->why, ERR_BACKEND_FAILED, "the backend answered a stream request with something else");
	} else {
		refusal(r, r->status, buf_as_str(&r->body), &r->why);
	}
	return failed(r, why);
}

enum llm_step llm_relay_end(struct llm_relay *r, const struct llm_extra *extra, struct buf *out, struct why *why)
{
	if (r->failed)
		return failed(r, why);
	switch (r->reply) {
	case REPLY_STREAM: return counted(r, stream_end(r, extra, out, why));
	case REPLY_WHOLE: return r->done ? LLM_DONE : counted(r, whole_end(r, extra, out, why));
	case REPLY_ERROR: return error_end(r, why);
	default:
		err_set(&r->why, ERR_BACKEND_FAILED, "the backend closed the connection without an answer");
		return failed(r, why);
	}
}

bool llm_relay_known(const struct llm_relay *r, struct llm_known *ret)
{
	if (!r->pass || r->reply != REPLY_WHOLE || !r->done)
		return false;
	*ret = (struct llm_known){ .kind = r->target->kind, .dialect = r->in->dialect, .op = r->in->op, .usage = r->usage };
	memcpy(ret->finish, r->finish, sizeof(ret->finish));
	return true;
}

bool llm_relay_again(struct llm_relay *r, const struct llm_known *k)
{
	if (!r->pass || r->in->stream || r->target->kind != k->kind || r->in->dialect != k->dialect || r->in->op != k->op)
		return false;
	r->status = 200;
	r->reply = REPLY_WHOLE;
	r->started = r->done = true;
	r->usage = k->usage;
	memcpy(r->finish, k->finish, sizeof(r->finish));
	return true;
}

void llm_relay_break(struct llm_relay *r, const struct why *why, struct buf *out)
{
	bool sse = r->in->dialect == LLM_OPENAI || r->in->sse;

	r->failed = true;
	if (r->in->dialect == LLM_ANTHROPIC)
		buf_addz(out, "event: error\n");
	if (sse)
		buf_addz(out, "data: ");
	llm_error_body(r->in->dialect, why, r->target->request_id, wall_us(), out);
	buf_addz(out, sse ? "\n\n" : "\n");
}

void llm_relay_price(struct llm_relay *r, int64_t (*cost)(void *, const struct llm_usage *), void *arg)
{
	r->cost = cost;
	r->cost_arg = arg;
}

const struct llm_usage *llm_relay_usage(const struct llm_relay *r) { return &r->usage; }
uint32_t llm_relay_deltas(const struct llm_relay *r) { return r->deltas; }
const char *llm_relay_finish(const struct llm_relay *r) { return r->finish; }
int llm_relay_refused_status(const struct llm_relay *r) { return r->refused_status; }

struct str llm_relay_upstream_body(const struct llm_relay *r)
{
	return r->reply == REPLY_ERROR ? buf_as_str(&r->body) : r->error;
}

const struct llm_job *llm_relay_job(const struct llm_relay *r) { return r->runpod ? &r->runpod->job : NULL; }

const char *llm_relay_content_type(const struct llm_relay *r)
{
	if (!r->in->stream || r->reply == REPLY_ERROR || r->one_object)
		return "application/json";
	return r->in->dialect == LLM_OPENAI || r->in->sse ? "text/event-stream" : "application/x-ndjson";
}

/* provider_runpod.c - RunPod's queue as a backend: a request of OpenAI's shape is the input of a job, and the replies about the job are its answer.
 *
 *   {"input":{"openai_route":"/v1/chat/completions","openai_input":REQUEST},"policy":…}         sent to /run or /runsync, for vLLM's worker
 *
 *   {"id":…,"status":"IN_QUEUE"}                       /run; also /runsync and /status while it is not done
 *   {"status":…,"stream":[{"output":…},…]}             /stream, asked again and again: each output comes once
 *   [{"output":…},…]                                   the same, as the platform's reference has it
 *   {"id":…,"status":"COMPLETED","output":…}           /runsync, /status
 *
 * An output is text of an event stream (what the worker gives as it is set up by itself), an object of OpenAI's, an object of the worker's own
 * ({"choices":[{"tokens":[…]}],"usage":{"input","output"}} or {"text":[…],"input_tokens","output_tokens"}), plain text, or a list of these.
 * A status of 200 says nothing: the state does, and an output may be an error. */
#include "common/llm/relay.h"
#include "common/llm/text.h"

enum { OUTPUT_DEPTH = 4 };

/* One reply, as long as it is looked at. */
struct reply_doc {
	struct llm_relay *r;
	struct arena *mem;
	struct json doc;
	struct buf *out;
};

/* The forms of an output. */

static void count(const struct json *doc, uint32_t object, const char *key, uint64_t *ret)
{
	int64_t n = 0;

	if (json_i64(doc, json_get(doc, object, key), &n) && n >= 0)
		*ret = (uint64_t)n;
}

static void read_native(const struct json *doc, uint32_t texts, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t usage = json_get(doc, 0, "usage");
	uint64_t prompt = 0, completion = 0;

	c->is_answer = true;
	c->n_choices = 1;
	c->text = text_raw(doc, texts, mem);
	if (usage)
		count(doc, usage, "input", &prompt), count(doc, usage, "output", &completion);
	else
		count(doc, 0, "input_tokens", &prompt), count(doc, 0, "output_tokens", &completion);
	if (prompt + completion == 0)
		return;
	u->prompt_tokens = prompt, u->completion_tokens = completion;
	u->reported = true;
	c->has_usage = true;
}

/* The worker's own form has its text in lists of strings. */
static uint32_t native_texts(const struct json *doc)
{
	uint32_t choices = json_get(doc, 0, "choices"), first = choices ? json_first(doc, choices) : 0, tokens = first ? json_get(doc, first, "tokens") : 0;
	uint32_t text = json_get(doc, 0, "text");

	return tokens && json_kind(doc, tokens) == JSON_ARRAY ? tokens : text && (json_kind(doc, text) == JSON_ARRAY || json_is_string(doc, text)) ? text : 0;
}

void runpod_read_chunk(const struct json *doc, struct chunk *c, struct llm_usage *u, struct arena *mem)
{
	uint32_t texts = native_texts(doc);

	if (!texts) {
		openai_read_chunk(doc, c, u, mem);
		return;
	}
	chunk_clear(c);
	read_native(doc, texts, c, u, mem);
}

/* Outputs. */

static enum verdict fail_with(struct llm_relay *r, struct str error)
{
	r->error = arena_str(r->mem, error);
	refusal(r, 0, r->error, &r->why);
	return FAIL;
}

/* An answer that was not to be streamed is put together until its end. */
static enum verdict keep_payload(struct llm_relay *r, struct str payload)
{
	struct chunk c;
	enum verdict v = watch_chunk(r, payload, &c);

	if (v == FAIL)
		return FAIL;
	if (!text_is_empty(c.text))
		buf_add(&r->runpod->text, c.text.p + 1, c.text.n - 2);
	return v;
}

static enum verdict take_payload(struct reply_doc *d, struct str payload)
{
	if (!payload.n || d->r->done)
		return KEEP;
	d->r->runpod->outputs++;
	return d->r->in->stream ? convert_payload(d->r, payload, d->out) : keep_payload(d->r, payload);
}

static enum verdict take_events(struct reply_doc *d, struct str text)
{
	struct frames *inner = &d->r->runpod->events;
	struct str frame;
	enum verdict v = KEEP;

	d->r->runpod->is_events = true;
	while (v != FAIL && frames_next(inner, &text, &frame))
		v = take_payload(d, frame_payload(inner, frame));
	return v;
}

static enum verdict take_string(struct reply_doc *d, uint32_t value)
{
	struct str text = json_string(&d->doc, value, d->mem);
	struct runpod *rp = d->r->runpod;

	if (rp->is_events || str_starts(text, STR("data:")) || str_starts(text, STR(":")) || str_starts(text, STR("event:")))
		return take_events(d, text);
	return take_payload(d, arena_join(d->mem, (struct str[]){ STR("{\"text\":"), json_raw(&d->doc, value), STR("}") }, 3));
}

/* A whole answer of OpenAI's is kept as it is. */
static enum verdict take_object(struct reply_doc *d, uint32_t value)
{
	const struct json *doc = &d->doc;
	uint32_t choices = json_get(doc, value, "choices"), first = choices ? json_first(doc, choices) : 0;
	struct llm_relay *r = d->r;

	if (!r->in->stream && first && json_get(doc, first, "message")) {
		buf_clear(&r->body);
		buf_str(&r->body, json_raw(doc, value));
		r->runpod->outputs++;
		return KEEP;
	}
	return take_payload(d, json_raw(doc, value));
}

static enum verdict take_output(struct reply_doc *d, uint32_t value, unsigned depth)
{
	enum verdict v = KEEP;

	switch (json_kind(&d->doc, value)) {
	case JSON_STRING: return take_string(d, value);
	case JSON_OBJECT: return take_object(d, value);
	case JSON_ARRAY:
		for (uint32_t i = json_first(&d->doc, value); i && v != FAIL && depth < OUTPUT_DEPTH; i = json_next(&d->doc, value, i))
			v = take_output(d, i, depth + 1);
		return v;
	default: return KEEP;
	}
}

static enum verdict take_stream(struct reply_doc *d, uint32_t list)
{
	enum verdict v = KEEP;

	for (uint32_t i = json_first(&d->doc, list); i && v != FAIL; i = json_next(&d->doc, list, i)) {
		uint32_t output = json_get(&d->doc, i, "output");

		if (output)
			v = take_output(d, output, 0);
	}
	return v;
}

/* Replies. */

static void copy_member(const struct reply_doc *d, const char *key, char *to, size_t cap)
{
	uint32_t v = json_get(&d->doc, 0, key);

	if (v && json_is_string(&d->doc, v))
		str_copy(to, cap, json_string(&d->doc, v, d->mem));
}

static void note_job(const struct reply_doc *d)
{
	struct llm_job *job = &d->r->runpod->job;

	copy_member(d, "id", job->id, sizeof(job->id));
	copy_member(d, "status", job->state, sizeof(job->state));
	job->final = strcmp(job->state, "COMPLETED") == 0 || strcmp(job->state, "FAILED") == 0 || strcmp(job->state, "CANCELLED") == 0 ||
	             strcmp(job->state, "TIMED_OUT") == 0;
	(void)json_i64(&d->doc, json_get(&d->doc, 0, "delayTime"), &job->delay_ms);
	(void)json_i64(&d->doc, json_get(&d->doc, 0, "executionTime"), &job->execution_ms);
	job->has_worker = json_is_string(&d->doc, json_get(&d->doc, 0, "workerId"));
}

static enum verdict no_success(struct reply_doc *d, const char *state)
{
	uint32_t error = json_get(&d->doc, 0, "error");

	if (error && json_kind(&d->doc, error) != JSON_NULL)
		return fail_with(d->r, json_raw(&d->doc, error));
	err_set(&d->r->why, strcmp(state, "TIMED_OUT") == 0 ? ERR_DEADLINE : ERR_BACKEND_FAILED, "the job at RunPod ended as %s", state);
	return FAIL;
}

/* The state says that all is well. Of a worker that does not say why an answer ended, the counts do. */
static enum verdict completed(struct reply_doc *d)
{
	struct llm_relay *r = d->r;
	bool full = r->in->max_tokens > 0 && r->usage.reported && r->usage.completion_tokens >= (uint64_t)r->in->max_tokens;

	if (r->done)
		return END;
	if (!r->runpod->outputs || (r->runpod->is_events && !r->finish[0])) {
		err_set(&r->why, ERR_BACKEND_FAILED, "the job at RunPod is completed, but %s", r->runpod->outputs ? "its stream has no end" : "has no output");
		return FAIL;
	}
	if (!r->finish[0])
		str_copy(r->finish, sizeof(r->finish), full ? STR("length") : STR("stop"));
	r->done = true;
	if (r->in->stream && !r->writer->needs_extra && !relay_finish(r, NULL, d->out))
		return FAIL;
	return END;
}

static enum verdict read_reply(struct reply_doc *d)
{
	struct llm_job *job = &d->r->runpod->job;
	uint32_t stream = json_get(&d->doc, 0, "stream"), output = json_get(&d->doc, 0, "output");
	bool polled = stream && json_kind(&d->doc, stream) == JSON_ARRAY;
	enum verdict v = KEEP;

	if (json_kind(&d->doc, 0) == JSON_ARRAY)
		return take_stream(d, 0) == FAIL ? FAIL : d->r->done ? END : KEEP;
	note_job(d);
	if (!job->state[0] || (job->final && strcmp(job->state, "COMPLETED") != 0))
		return no_success(d, job->state[0] ? job->state : "nothing that is known");
	if (polled)
		v = take_stream(d, stream);
	else if (output && !d->r->runpod->outputs)           /* after /stream it has all of it once more */
		v = take_output(d, output, 0);
	if (v == FAIL)
		return FAIL;
	if (d->r->done)
		return END;
	return job->final && !(polled && json_count(&d->doc, stream)) ? completed(d) : KEEP;
}

enum verdict runpod_reply(struct llm_relay *r, struct str text, struct buf *out)
{
	struct reply_doc d = { .r = r, .mem = arena_new(8192), .out = out };
	enum verdict v;

	text = text_repair_utf8(text, d.mem);
	if (json_parse(&d.doc, d.mem, text, &answer_limits, NULL) == ERR_OK) {
		v = read_reply(&d);
	} else {
		err_set(&r->why, ERR_BACKEND_FAILED, "RunPod's reply is not JSON");
		v = FAIL;
	}
	if (v == END)
		r->runpod->job.final = true;
	arena_free(d.mem);
	return v;
}

/* What was put together, for a client that waits for the whole. */
enum verdict runpod_whole(struct llm_relay *r, const struct llm_extra *extra, struct buf *out)
{
	struct chunk c;

	if (r->body.n)
		return convert_whole(r, buf_as_str(&r->body), extra, out);
	relay_count(r);
	chunk_clear(&c);
	c.text = arena_join(r->mem, (struct str[]){ STR("\""), buf_as_str(&r->runpod->text), STR("\"") }, 3);
	return r->writer->whole(r, &c, extra, out) ? END : FAIL;
}

void llm_job_read_end(struct llm_job_end *ret, struct str body)
{
	const struct llm_in in = { .dialect = LLM_OPENAI, .op = LLM_CHAT, .model = STR("") };
	const struct llm_plan plan = { .path = "/runsync" };
	const struct llm_target target = { .kind = LLM_BACKEND_RUNPOD, .remote_model = STR(""), .shown_model = STR(""), .request_id = STR("") };
	struct arena *mem = arena_new(8192);
	struct llm_relay *r = llm_relay_new(mem, &in, &plan, &target);
	struct buf out = { 0 };

	(void)llm_relay_head(r, &(struct http_head){ .status = 200 }, NULL);
	if (llm_relay_data(r, body, &out, NULL) == LLM_DONE)
		(void)llm_relay_end(r, &(struct llm_extra){ 0 }, &out, NULL);
	ret->job = *llm_relay_job(r);
	ret->usage = *llm_relay_usage(r);
	buf_free(&out);
	arena_free(mem);
}

void runpod_free(struct runpod *rp)
{
	frames_free(&rp->events);
	buf_free(&rp->text);
}

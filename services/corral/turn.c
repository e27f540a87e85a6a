/* turn.c - see turn.h. The stream is OpenAI's: events with chunks, the last one [DONE]. An answer that ends without it was cut,
 * and that is said, never hidden. */
#include "services/corral/turn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/io/sse.h"

enum { MAX_ERROR_BODY = 65536 };

struct run {
	struct cli *cli;
	struct turn *turn;
	struct http_call *call;       /* NULL once it ended */
	struct sse_reader sse;
	struct buf body;              /* of an answer that is no stream: the error */
	struct arena *mem;            /* of one event */
	bool streams, done;           /* it is an event stream; [DONE] came */
	int64_t started_us;
	void (*on_text)(void *arg, struct str piece, bool thinking);
	void *arg;
};

static void end(struct run *r, enum turn_end how)
{
	r->turn->end = how;
	r->turn->total_us = mono_us() - r->started_us;
	r->call = NULL;
	loop_stop(r->cli->loop);
}

static void set_error(struct run *r, const char *text) { str_copy(r->turn->error, sizeof(r->turn->error), str_of(text)); }

/* --- head --- */

static void keep(const struct http_head *h, const char *name, char *out, size_t cap)
{
	const struct http_header *v = http_find(h, name);

	if (v)
		str_copy(out, cap, v->value);
}

static void on_head(struct http_call *call, const struct http_head *h, void *arg)
{
	struct run *r = arg;
	struct turn *t = r->turn;
	const struct http_header *type = http_find(h, "Content-Type");

	t->status = h->status;
	r->streams = h->status == 200 && type && str_starts(type->value, STR("text/event-stream"));
	keep(h, "X-Request-Id", t->request_id, sizeof(t->request_id));
	keep(h, "X-Corral-Model", t->model, sizeof(t->model));
	keep(h, "X-Corral-Backend", t->backend, sizeof(t->backend));
	keep(h, "X-Corral-Reason", t->reason, sizeof(t->reason));
	keep(h, "Date", t->date, sizeof(t->date));
}

/* --- events --- */

static void take_text(struct run *r, struct str piece, bool thinking)
{
	if (!piece.n)
		return;
	if (!r->turn->first_us)
		r->turn->first_us = mono_us() - r->started_us;
	if (!thinking)
		buf_str(&r->turn->text, piece);
	if (r->on_text)
		r->on_text(r->arg, piece, thinking);
}

static struct str member(struct run *r, const struct json *j, uint32_t object, const char *key)
{
	uint32_t v = object ? json_get(j, object, key) : 0;

	return v && json_is_string(j, v) ? json_string(j, v, r->mem) : STR("");
}

static void take_choice(struct run *r, const struct json *j, uint32_t choice)
{
	uint32_t delta = json_get(j, choice, "delta");
	struct str finish = member(r, j, choice, "finish_reason");

	take_text(r, member(r, j, delta, "reasoning_content"), true);
	take_text(r, member(r, j, delta, "reasoning"), true);
	take_text(r, member(r, j, delta, "content"), false);
	take_text(r, member(r, j, delta, "refusal"), false);
	if (finish.n)
		str_copy(r->turn->finish, sizeof(r->turn->finish), finish);
}

static void take_usage(struct run *r, const struct json *j, uint32_t usage)
{
	uint32_t prompt = json_get(j, usage, "prompt_tokens"), completion = json_get(j, usage, "completion_tokens");

	if (prompt)
		(void)json_i64(j, prompt, &r->turn->prompt_tokens);
	if (completion)
		(void)json_i64(j, completion, &r->turn->completion_tokens);
}

static void take_chunk(struct run *r, const struct json *j)
{
	uint32_t choices = json_get(j, 0, "choices"), usage = json_get(j, 0, "usage");
	const char *error = error_sentence(r->mem, j);

	if (error)
		set_error(r, error);
	for (uint32_t i = choices ? json_first(j, choices) : 0; i; i = json_next(j, choices, i))
		take_choice(r, j, i);
	if (usage && json_kind(j, usage) == JSON_OBJECT)
		take_usage(r, j, usage);
}

static void on_event(void *arg, struct str event, struct str data)
{
	struct run *r = arg;
	struct json j;
	struct why why;

	if (r->done)
		return;
	if (str_eqz(data, "[DONE]")) {
		r->done = true;
		return;
	}
	arena_reset(r->mem);
	if (json_parse(&j, r->mem, data, &(struct json_limits){ 64, 100000, false }, &why) == ERR_OK)
		take_chunk(r, &j);
	else
		snprintf(r->turn->error, sizeof(r->turn->error), "an event of the stream is not JSON: %s", why.text);
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct run *r = arg;
	struct why why = { 0 };

	if (!r->streams) {
		if (r->body.n + data.n <= MAX_ERROR_BODY)
			buf_str(&r->body, data);
		return;
	}
	if (sse_feed(&r->sse, data, on_event, r, &why) == ERR_OK)
		return;
	http_call_cancel(call);
	set_error(r, why.text);
	end(r, TURN_FAILED);
}

/* --- ends --- */

static void explain_status(struct run *r)
{
	struct json j;
	bool is_json = json_parse(&j, r->mem, buf_as_str(&r->body), NULL, NULL) == ERR_OK && json_kind(&j, 0) == JSON_OBJECT;
	const char *text = is_json ? error_sentence(r->mem, &j) : NULL;

	if (text)
		set_error(r, text);
	else if (r->turn->status == 200)
		set_error(r, "the answer is no event stream; is that Corral?");
	else
		snprintf(r->turn->error, sizeof(r->turn->error), "it answers with status %d %s", r->turn->status, http_reason(r->turn->status));
}

static void on_end(struct http_call *call, void *arg)
{
	struct run *r = arg;

	if (!r->streams)
		explain_status(r);
	else if (!r->done && !*r->turn->error)
		set_error(r, "the answer ended before it was complete");
	end(r, *r->turn->error ? TURN_FAILED : TURN_DONE);
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct run *r = arg;

	if (!*r->turn->error)
		snprintf(r->turn->error, sizeof(r->turn->error), r->turn->status ? "the answer broke off: %s" : "%s", text);
	end(r, r->turn->status ? TURN_FAILED : TURN_UNREACHABLE);
}

/* --- Ctrl-C: the handler notes it and wakes whoever waits by a pipe --- */

volatile sig_atomic_t interrupts;
static int wake[2] = { -1, -1 };

static void on_signal(int signo)
{
	ssize_t n;

	interrupts++;
	n = write(wake[1], "", 1);
	(void)n;                              /* full: then it wakes anyway */
}

void interrupts_watch(void)
{
	/* SA_RESTART: a write to the terminal that it interrupts is no failed write; who waits for it polls the pipe. */
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	if (wake[0] < 0 && pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0)
		return;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
}

void interrupts_release(void) { signal(SIGINT, SIG_DFL); }

void interrupts_forget(void)
{
	char byte[64];

	while (wake[0] >= 0 && read(wake[0], byte, sizeof(byte)) > 0)
		;
	interrupts = 0;
}

bool interrupts_wait(int fd)
{
	struct pollfd fds[2] = { { .fd = fd, .events = POLLIN }, { .fd = wake[0], .events = POLLIN } };

	while (!interrupts && poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	return !interrupts;
}

struct watch { struct loop_io io; struct run *run; };

static void on_wake(struct loop_io *io, unsigned ready)
{
	struct watch *w = (struct watch *)(void *)io;

	if (!w->run->call || !interrupts)
		return;
	http_call_cancel(w->run->call);
	end(w->run, TURN_INTERRUPTED);
}

/* --- the question --- */

static void write_body(const struct question *q, struct buf *b)
{
	struct json_out jo;

	json_begin(&jo, b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", q->model);
	jw_key(&jo, "messages");
	jw_arr(&jo);
	for (unsigned i = 0; i < q->n_messages; i++) {
		jw_obj(&jo);
		jw_kv_strz(&jo, "role", q->messages[i].role);
		jw_kv_str(&jo, "content", q->messages[i].text);
		jw_end(&jo);
	}
	jw_end(&jo);
	jw_kv_bool(&jo, "stream", true);
	jw_key(&jo, "stream_options");
	jw_obj(&jo);
	jw_kv_bool(&jo, "include_usage", true);
	jw_end(&jo);
	if (q->max_tokens)
		jw_kv_i64(&jo, "max_tokens", q->max_tokens);
	json_done(&jo);
}

static struct str headers(struct remote *remote, const struct question *q)
{
	struct arena *mem = remote_cli(remote)->mem;
	struct str own = STR("Content-Type: application/json\r\nAccept: text/event-stream\r\n");

	if (q->conversation)
		own = arena_fmt(mem, STR_FMT "X-Corral-Conversation: %s\r\n", STR_ARG(own), q->conversation);
	return remote_headers(remote, own);
}

void turn_run(struct remote *remote, const struct question *q, void (*on_text)(void *arg, struct str piece, bool thinking), void *arg, struct turn *ret)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	struct http_call_opts opts = { .first_byte_ms = q->first_byte_ms };
	struct cli *c = remote_cli(remote);
	struct run r = { .cli = c, .turn = ret, .mem = arena_new(0), .started_us = mono_us(), .on_text = on_text, .arg = arg };
	struct watch watch = { .io = { .fd = -1 }, .run = &r };
	struct buf body = { 0 };
	struct str sent, head;

	*ret = (struct turn){ .prompt_tokens = -1, .completion_tokens = -1 };
	write_body(q, &body);
	sent = buf_as_str(&body);
	head = http_call_head(c->mem, remote_pool(remote), "POST", STR("/v1/chat/completions"), headers(remote, q), true, sent.n);
	if (wake[0] >= 0)
		loop_io_add(c->loop, &watch.io, wake[0], LOOP_READ, on_wake);
	r.call = http_call_start(remote_pool(remote), head, &sent, 1, &opts, &ops, &r);
	loop_run(c->loop);
	if (wake[0] >= 0)
		loop_io_del(&watch.io);
	sse_free(&r.sse);
	buf_free(&r.body);
	buf_free(&body);
	arena_free(r.mem);
}

void turn_free(struct turn *t) { buf_free(&t->text); }

/* --- what is said about it --- */

static const char *reason_text(const char *reason)
{
	static const struct { const char *word, *text; } texts[] = {
		{ "asked", "as asked" }, { "alias", "by its alias" }, { "rules", "chosen by rules" }, { "learned", "chosen by what was learned" },
		{ "experiment", "chosen by an experiment" }, { "sticky", "as before in this conversation" }, { "fallback", "because others failed" },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		if (strcmp(reason, texts[i].word) == 0)
			return texts[i].text;
	return reason;
}

void turn_summary(const struct turn *t, struct buf *out)
{
	int64_t writing_us = t->total_us - t->first_us;
	struct buf b = { 0 };

	buf_printf(&b, "%s on %s", *t->model ? t->model : "?", *t->backend ? t->backend : "?");
	if (*t->reason)
		buf_printf(&b, ", %s", reason_text(t->reason));
	if (t->completion_tokens >= 0 && t->prompt_tokens >= 0)
		buf_printf(&b, "; %lld tokens in, %lld out", (long long)t->prompt_tokens, (long long)t->completion_tokens);
	buf_printf(&b, "; %.2f s", (double)t->total_us / 1e6);
	if (t->first_us)
		buf_printf(&b, ", first after %.2f s", (double)t->first_us / 1e6);
	/* the first token is there when the clock starts */
	if (t->completion_tokens > 1 && t->first_us && writing_us > 0)
		buf_printf(&b, "; %.1f tokens/s", (double)(t->completion_tokens - 1) * 1e6 / (double)writing_us);
	if (strcmp(t->finish, "length") == 0)
		buf_addz(&b, "; cut at its limit of tokens");
	if (*t->request_id)
		buf_printf(&b, "; request %s", t->request_id);
	add_shown(out, buf_as_str(&b), false);
	buf_free(&b);
}

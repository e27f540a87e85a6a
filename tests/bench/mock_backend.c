/* mock_backend.c - a backend that costs nearly nothing: speaks as much of llama.cpp's server as a gateway asks for.
 *
 *   mock_backend [--listen 127.0.0.1:8290] [--model NAME] [--slots N] [--chunks N] [--gap-ms N] [--first-ms N] [--bytes N]
 *
 * POST to any path answers a chat completion with usage; with "stream":true an event stream of N chunks, one each gap,
 * a usage chunk and [DONE]. A chunk's content is the monotonic clock in microseconds when it was written, so that
 * sse_client.c can tell how long it travelled. GET /health, /v1/models, /props answer discovery. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http_server.h"
#include "tests/bench/flags.h"

static struct {
	const char *listen, *model;
	uint64_t slots, chunks, gap_ms, first_ms, bytes;
} opt = { "127.0.0.1:8290", "mock", 1024, 20, 50, 0, 595 };

static struct loop *loop;
static struct buf answer, models, props;

struct stream {
	struct http_xchg *x;
	struct loop_timer timer;
	uint64_t sent;
};

static void json(struct http_xchg *x, int status, struct str body) { http_reply(x, status, STR("Content-Type: application/json\r\n"), body); }

/* --- streams --- */

static void stream_over(struct stream *s)
{
	loop_timer_del(&s->timer);
	free(s);
}

static void on_gone(struct http_xchg *x, const char *why) { stream_over(x->user); }

static void chunk(struct stream *s)
{
	char text[512];
	int n = snprintf(text, sizeof(text),
			 "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,\"model\":\"%s\","
			 "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%lld\"},\"finish_reason\":null}]}\n\n",
			 opt.model, (long long)mono_us());

	http_reply_data(s->x, str_n(text, (size_t)n));
}

static void finish(struct stream *s)
{
	char text[1024];
	int n = snprintf(text, sizeof(text),
			 "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,\"model\":\"%s\","
			 "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
			 "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,\"model\":\"%s\","
			 "\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%llu,\"total_tokens\":%llu}}\n\ndata: [DONE]\n\n",
			 opt.model, opt.model, (unsigned long long)opt.chunks, (unsigned long long)opt.chunks + 9);

	http_reply_data(s->x, str_n(text, (size_t)n));
	http_reply_end(s->x);
	stream_over(s);
}

static void on_gap(struct loop_timer *t)
{
	struct stream *s = list_entry(t, struct stream, timer);

	if (s->sent++ == opt.chunks) {
		finish(s);
		return;
	}
	chunk(s);
	loop_timer_set(loop, t, (int64_t)opt.gap_ms * 1000, on_gap);
}

static void stream_start(struct http_xchg *x)
{
	struct stream *s = x_calloc(1, sizeof(*s));

	s->x = x;
	x->user = s;
	x->on_gone = on_gone;
	http_reply_start(x, 200, STR("Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"), -1);
	loop_timer_set(loop, &s->timer, (int64_t)opt.first_ms * 1000, on_gap);
}

/* --- whole answers --- */

static void late(struct loop_timer *t)
{
	struct stream *s = list_entry(t, struct stream, timer);

	json(s->x, 200, buf_as_str(&answer));
	free(s);
}

static void answer_late(struct http_xchg *x)
{
	struct stream *s = x_calloc(1, sizeof(*s));

	s->x = x;
	x->user = s;
	x->on_gone = on_gone;
	loop_timer_set(loop, &s->timer, (int64_t)opt.first_ms * 1000, late);
}

static bool wants_stream(struct str body) { return str_find(body, STR("\"stream\":true")) || str_find(body, STR("\"stream\": true")); }

static void on_request(struct http_xchg *x, void *arg)
{
	if (str_eqz(x->head.method, "POST") && wants_stream(x->body))
		stream_start(x);
	else if (str_eqz(x->head.method, "POST") && opt.first_ms)
		answer_late(x);
	else if (str_eqz(x->head.method, "POST"))
		json(x, 200, buf_as_str(&answer));
	else if (str_eqz(x->path, "/health") || str_eqz(x->path, "/v1/health"))
		json(x, 200, STR("{\"status\":\"ok\"}"));
	else if (str_eqz(x->path, "/v1/models") || str_eqz(x->path, "/models"))
		json(x, 200, buf_as_str(&models));
	else if (str_eqz(x->path, "/props"))
		json(x, 200, buf_as_str(&props));
	else
		json(x, 404, STR("{\"error\":{\"code\":404,\"message\":\"File Not Found\",\"type\":\"not_found_error\"}}"));
}

/* The answer is filled with words up to the size that was asked for. */
static void make_answers(void)
{
	struct buf words = { 0 };
	size_t frame;

	for (int pass = 0; pass < 2; pass++) {
		buf_clear(&answer);
		buf_printf(&answer,
			   "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1795000000,\"model\":\"%s\",\"choices\":[{\"index\":0,"
			   "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],"
			   "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":64,\"total_tokens\":73}}",
			   opt.model, buf_z(&words));
		for (frame = answer.n; pass == 0 && frame + words.n < opt.bytes;)
			buf_char(&words, "lorem ipsum dolor sit amet "[words.n % 27]);
	}
	buf_free(&words);
	buf_printf(&models,
		   "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"type\":\"model\",\"capabilities\":[\"completion\"]}],\"object\":\"list\","
		   "\"data\":[{\"id\":\"%s\",\"aliases\":[\"%s\"],\"tags\":[],\"object\":\"model\",\"created\":1795000000,\"owned_by\":\"llamacpp\","
		   "\"meta\":{\"vocab_type\":2,\"n_vocab\":32000,\"n_ctx\":32768,\"n_ctx_train\":32768,\"n_embd\":4096,\"n_params\":7000000000,\"size\":4000000000}}]}",
		   opt.model, opt.model, opt.model, opt.model);
	buf_printf(&props,
		   "{\"default_generation_settings\":{\"params\":{},\"n_ctx\":32768},\"total_slots\":%llu,\"model_alias\":\"%s\",\"model_path\":\"%s\","
		   "\"modalities\":{\"vision\":false,\"audio\":false},\"chat_template\":\"\",\"build_info\":\"mock\",\"is_sleeping\":false}",
		   (unsigned long long)opt.slots, opt.model, opt.model);
}

int main(int argc, char **argv)
{
	static const struct flag flags[] = {
		{ "listen", &opt.listen, NULL }, { "model", &opt.model, NULL }, { "slots", NULL, &opt.slots }, { "chunks", NULL, &opt.chunks },
		{ "gap-ms", NULL, &opt.gap_ms }, { "first-ms", NULL, &opt.first_ms }, { "bytes", NULL, &opt.bytes }, { 0 },
	};
	struct http_handler handler = { .on_request = on_request };
	struct http_server_opts opts = { .max_conns = 60000, .max_requests = UINT32_MAX, .server_name = "llama.cpp", .max_body = 64u << 20 };
	struct why why;

	flags_read(flags, argc, argv);
	make_answers();
	loop = loop_new();
	if (!http_server_new(loop, opt.listen, &handler, &opts, &why)) {
		fprintf(stderr, "mock_backend: %s\n", why.text);
		return 1;
	}
	loop_run(loop);
	return 0;
}

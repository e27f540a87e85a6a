/* train.c - the mixed load that scripts/build-release learns from which code of a gateway is hot.
 *
 *   train [--url http://127.0.0.1:8100] [--model NAME] [--seconds N] [--at-once N]
 *
 * Asks in the three dialects, whole and streamed, short and long, by name and for "auto", repeated questions that are kept and others,
 * and now and then one that is refused. Each of the N asks its next question, of the list in order, when it has its answer.
 * Prints how many answers it had by status; ends with 1 when there was none, or none of 200. */
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http_client.h"
#include "tests/bench/flags.h"

static struct {
	const char *url, *model;
	uint64_t seconds, at_once;
} opt = { "http://127.0.0.1:8100", "mock", 4, 32 };

enum { REPEATED = 1, AUTO = 2, STREAM = 4, UNKNOWN = 8 };

static const struct dialect { const char *path, *before, *after; }
	openai = { "/v1/chat/completions", "\"max_tokens\":64,\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]}" },
	ollama = { "/api/chat", "\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]}" },
	anthropic = { "/v1/messages", "\"max_tokens\":64,\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]}" },
	native = { "/api/ollama/inference", "\"prompt\":\"", "\"}" };

/* One kind of question. The more lines a kind has, the more of the whole it is. */
static const struct kind {
	const struct dialect *dialect;
	size_t bytes;
	unsigned what;
} kinds[] = {
	{ &openai, 1000, 0 }, { &openai, 1000, AUTO }, { &openai, 1000, REPEATED }, { &openai, 1000, 0 },
	{ &openai, 200, AUTO }, { &openai, 300, STREAM }, { &openai, 1000, STREAM }, { &openai, 4000, AUTO },
	{ &openai, 32000, 0 }, { &openai, 100, UNKNOWN }, { &ollama, 1000, 0 }, { &ollama, 1000, STREAM },
	{ &anthropic, 1000, 0 }, { &anthropic, 1000, STREAM }, { &native, 500, AUTO }, { &openai, 1000, REPEATED },
	{ &openai, 32000, AUTO },
};

enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct asker {
	struct buf head, body;
	struct arena *mem;
	int status;
};

static struct loop *loop;
static struct http_pool *pool;
static struct buf filler;
static uint64_t next, running, answers, good, failed;
static int64_t stop_us;

static void ask(struct asker *);

static void make_body(struct buf *b, const struct kind *k, uint64_t n)
{
	const char *model = k->what & UNKNOWN ? "nobody-has-this" : k->what & AUTO ? "auto" : opt.model;

	buf_clear(b);
	buf_printf(b, "{\"model\":\"%s\",\"stream\":%s,", model, k->what & STREAM ? "true" : "false");
	if (k->what & REPEATED)
		buf_addz(b, "\"temperature\":0,");
	buf_addz(b, k->dialect->before);
	if (!(k->what & REPEATED))
		buf_printf(b, "%llu ", (unsigned long long)n);
	buf_str(b, str_n(filler.p, k->bytes));
	buf_addz(b, k->dialect->after);
}

static void on_head(struct http_call *call, const struct http_head *h, void *arg) { ((struct asker *)arg)->status = h->status; }
static void on_data(struct http_call *call, struct str data, void *arg) { }

static void over(struct asker *a, bool ended)
{
	running--;
	answers++;
	good += ended && a->status == 200;
	failed += !ended;
	if (mono_us() < stop_us)
		ask(a);
	else if (running == 0)
		loop_stop(loop);
}

static void on_end(struct http_call *call, void *arg) { over(arg, true); }
static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg) { over(arg, false); }

static void ask(struct asker *a)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	static const struct http_call_opts opts = { .connect_ms = 10000, .first_byte_ms = 30000, .idle_ms = 30000 };
	uint64_t n = next++;
	const struct kind *k = &kinds[n % N_KINDS];
	struct str body;

	make_body(&a->body, k, n);
	arena_reset(a->mem);
	buf_clear(&a->head);
	buf_str(&a->head, http_call_head(a->mem, pool, "POST", str_of(k->dialect->path),
					 STR("Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: train/1.0\r\nAuthorization: Bearer sk-none\r\n"), true, a->body.n));
	a->status = 0;
	running++;
	body = buf_as_str(&a->body);
	http_call_start(pool, buf_as_str(&a->head), &body, 1, &opts, &ops, a);
}

static void begin(struct loop_timer *t)
{
	for (uint64_t i = 0; i < opt.at_once; i++) {
		struct asker *a = x_calloc(1, sizeof(*a));

		a->mem = arena_new(0);
		ask(a);
	}
}

int main(int argc, char **argv)
{
	static const struct flag flags[] = {
		{ "url", &opt.url, NULL }, { "model", &opt.model, NULL }, { "seconds", NULL, &opt.seconds }, { "at-once", NULL, &opt.at_once }, { 0 },
	};
	struct loop_timer starter = { 0 };
	struct http_url url;
	struct why why;

	flags_read(flags, argc, argv);
	loop = loop_new();
	if (!http_url_parse(&url, str_of(opt.url), &why)) {
		fprintf(stderr, "train: %s\n", why.text);
		return 1;
	}
	while (filler.n < 32768)
		buf_addz(&filler, "Write a function in C that reads a line, and say why the second test fails. ");
	pool = http_pool_new(loop, &url, &(struct http_pool_opts){ .max_idle = (uint32_t)opt.at_once });
	stop_us = mono_us() + (int64_t)opt.seconds * 1000000;
	loop_timer_set(loop, &starter, 0, begin);
	loop_run(loop);
	printf("%llu answers, %llu of them with 200, %llu failed\n", (unsigned long long)answers, (unsigned long long)good, (unsigned long long)failed);
	return good ? 0 : 1;
}

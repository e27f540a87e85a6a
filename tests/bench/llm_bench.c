/* llm_bench.c - what reading, planning and relaying cost: nanoseconds a request or an event, the best of several runs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/llm/exchange.h"

enum { RUNS = 11, EVENTS = 2000 };

/* '#' stands for a number that changes. */
static const char openai_event[] =
	"data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"tok#\"}}],\"created\":1795227654,\"id\":\"chatcmpl-1mMaQG7Ce1pR"
	"189NG8YUXOnZ2aQDgmU7\",\"model\":\"models/tiny.gguf\",\"system_fingerprint\":\"b11669-Debian\",\"object\":\"chat.completion.chunk\"}\n\n";
static const char ollama_event[] =
	"{\"model\":\"tiny\",\"created_at\":\"2026-11-21T03:02:21.70456#Z\",\"message\":{\"role\":\"assistant\",\"content\":\"token\"},\"done\":false}\n";

static const struct way { enum llm_dialect d; enum llm_backend b; const char *name, *event; } ways[] = {
	{ LLM_OPENAI, LLM_BACKEND_LLAMACPP, "openai to llama.cpp, passed", openai_event },
	{ LLM_OLLAMA, LLM_BACKEND_OLLAMA, "ollama to ollama, passed", ollama_event },
	{ LLM_OPENAI, LLM_BACKEND_OLLAMA, "openai to ollama", ollama_event },
	{ LLM_OLLAMA, LLM_BACKEND_LLAMACPP, "ollama to llama.cpp", openai_event },
};

static struct bench {
	const struct way *way;
	struct arena *mem, *plan_mem;
	struct buf body, events, out;
	struct llm_in in;
	struct llm_plan plan;
	struct llm_target target;
} now;

static void must(bool ok, const struct why *why)
{
	if (!ok) {
		fprintf(stderr, "%s\n", why->text);
		exit(1);
	}
}

static void one_read(void)
{
	struct why why;

	arena_reset(now.mem);
	must(llm_read(&now.in, now.way->d, LLM_CHAT, buf_as_str(&now.body), STR(""), now.mem, &why) == ERR_OK, &why);
}

static void one_plan(void)
{
	struct why why;

	arena_reset(now.plan_mem);
	must(llm_plan(&now.plan, &now.in, &now.target, now.plan_mem, &why) == ERR_OK, &why);
}

/* All events but the end, which comes once a stream; each in a read of its own. */
static void one_stream(void)
{
	struct http_head head = { .status = 200 };
	struct llm_relay *r = llm_relay_new(now.plan_mem, &now.in, &now.plan, &now.target);
	size_t piece = now.events.n / EVENTS;
	struct why why;

	must(llm_relay_head(r, &head, &why) != LLM_FAILED, &why);
	for (size_t at = 0; at + piece <= now.events.n; at += piece) {
		must(llm_relay_data(r, str_n(now.events.p + at, piece), &now.out, &why) == LLM_MORE, &why);
		buf_clear(&now.out);
	}
}

static double measure(void (*run)(void), int rounds, int units)
{
	double best = 1e12;

	for (int i = 0; i < RUNS; i++) {
		int64_t from = mono_us();
		double ns;

		for (int k = 0; k < rounds; k++)
			run();
		ns = (double)(mono_us() - from) * 1000 / rounds / units;
		best = ns < best ? ns : best;
	}
	return best;
}

static void requests(size_t size, const char *text, const char *label)
{
	buf_clear(&now.body);
	buf_addz(&now.body, "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"");
	while (now.body.n + 40 < size)
		buf_addz(&now.body, text);
	buf_addz(&now.body, "\"}]}");
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		int rounds = size > 10000 ? 500 : 5000;

		now.way = &ways[i];
		now.target.kind = ways[i].b;
		printf("%6zu bytes%s, %-28s", now.body.n, label, ways[i].name);
		printf(" read %8.0f ns", measure(one_read, rounds, 1));
		printf(", plan %8.0f ns\n", measure(one_plan, rounds, 1));
	}
}

static void streams(void)
{
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		now.way = &ways[i];
		now.target.kind = ways[i].b;
		buf_clear(&now.events);
		for (int k = 0; k < EVENTS; k++) {
			const char *hash = strchr(ways[i].event, '#');

			buf_add(&now.events, ways[i].event, (size_t)(hash - ways[i].event));
			buf_u64(&now.events, (uint64_t)(1000 + k));
			buf_addz(&now.events, hash + 1);
		}
		one_read();
		one_plan();
		printf("event of %3zu bytes, %-28s %8.0f ns\n", now.events.n / EVENTS, ways[i].name, measure(one_stream, 3, EVENTS));
	}
}

int main(void)
{
	now.mem = arena_new(65536);
	now.plan_mem = arena_new(65536);
	now.target = (struct llm_target){ .remote_model = STR("qwen:7b"), .shown_model = STR("qwen:7b"), .context_length = 8192,
	                                  .request_id = STR("01936f3e-0000-7000-8000-000000000001"), .created_us = 1795227654123456 };
	requests(1024, "The quick brown fox jumps over it. ", "");
	requests(32768, "The quick brown fox jumps over it. ", "");
	requests(32768, "int main(void) { return x + 1; }\\n\\t", " (escapes)");
	streams();
	arena_free(now.mem);
	arena_free(now.plan_mem);
	buf_free(&now.body);
	buf_free(&now.events);
	buf_free(&now.out);
	return 0;
}

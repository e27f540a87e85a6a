/* http1_bench.c - what the HTTP codec costs: nanoseconds for one head or one body, the best of several runs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http1.h"
#include "common/io/sse.h"

enum { RUNS = 15, ROUNDS = 20000 };

/* What the OpenAI SDK for Python sends, 14 headers. */
static const char sdk_request[] =
	"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
	"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 1.40.0\r\nX-Stainless-Lang: python\r\n"
	"X-Stainless-Package-Version: 1.40.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
	"X-Stainless-Runtime-Version: 3.11.2\r\nAuthorization: Bearer sk-0123456789abcdef0123456789abcdef0123456789abcdef\r\nContent-Length: 1024\r\n\r\n";

static const char response[] =
	"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nContent-Type: text/event-stream\r\n"
	"Transfer-Encoding: chunked\r\nConnection: close\r\nKeep-Alive: timeout=5, max=100\r\n\r\n";

static struct buf chunks, events;
static size_t heard;

static void one_request(void)
{
	static struct http_head h;

	if (http_parse_request(&h, str_n(sdk_request, sizeof(sdk_request) - 1), 0, NULL, NULL) != HTTP_DONE)
		abort();
}

/* The same in three pieces, as a slow network brings it. */
static void one_request_in_pieces(void)
{
	static struct http_head h;

	if (http_parse_request(&h, str_n(sdk_request, 150), 0, NULL, NULL) != HTTP_MORE ||
	    http_parse_request(&h, str_n(sdk_request, 300), 150, NULL, NULL) != HTTP_MORE ||
	    http_parse_request(&h, str_n(sdk_request, sizeof(sdk_request) - 1), 300, NULL, NULL) != HTTP_DONE)
		abort();
}

static void one_response(void)
{
	static struct http_head h;

	if (http_parse_response(&h, str_n(response, sizeof(response) - 1), 0, false, NULL, NULL) != HTTP_DONE)
		abort();
}

static void one_chunked_body(void)
{
	struct str in = buf_as_str(&chunks), data;
	struct http_chunked k;
	enum http_parse r;

	http_chunked_init(&k);
	while ((r = http_chunked_next(&k, &in, &data, NULL)) == HTTP_MORE && in.n)
		heard += data.n;
	if (r != HTTP_DONE)
		abort();
}

static void on_event(void *arg, struct str event, struct str data) { heard += data.n; }

static void one_stream(void)
{
	static struct sse_reader r;

	if (sse_feed(&r, buf_as_str(&events), on_event, NULL, NULL))
		abort();
}

static void measure(const char *what, void (*run)(void), int units)
{
	double best = 1e9;

	for (int i = 0; i < RUNS; i++) {
		int64_t from = mono_us();
		double ns;

		for (int j = 0; j < ROUNDS / units; j++)
			run();
		ns = (double)(mono_us() - from) * 1000 / (ROUNDS / units) / units;
		best = ns < best ? ns : best;
	}
	printf("%-44s %7.1f ns\n", what, best);
}

int main(void)
{
	for (int i = 0; i < 100; i++) {
		buf_printf(&chunks, "c8\r\n%0200d\r\n", i);
		buf_printf(&events, "data: {\"choices\":[{\"delta\":{\"content\":\"%0150d\"}}]}\n\n", i);
	}
	buf_addz(&chunks, "0\r\n\r\n");
	printf("request head: %zu bytes; response head: %zu bytes\n", sizeof(sdk_request) - 1, sizeof(response) - 1);
	measure("request head, 14 headers", one_request, 1);
	measure("the same in three pieces", one_request_in_pieces, 1);
	measure("response head, 6 headers", one_response, 1);
	measure("one 200-byte chunk", one_chunked_body, 100);
	measure("one 200-byte event", one_stream, 100);
	return heard ? 0 : 1;
}

/* sse_client.c - reads N event streams at once and says how long their chunks travelled.
 *
 *   sse_client [--url http://127.0.0.1:8291] [--path /v1/chat/completions] [--model NAME] [--key KEY] [--streams N]
 *              [--seconds N] [--chunks N] [--stall-ms N]
 *
 * Each stream asks again when it has ended, until the time is up; streams that run then are read to their end.
 * Prints one JSON object: chunks, streams ended properly, broken, chunks that are missing, pauses above stall-ms, and the
 * delay (microseconds from the backend's write, see mock_backend.c, to here) as p50, p90, p99 and max. */
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/io/http_client.h"
#include "tests/bench/flags.h"

static struct {
	const char *url, *path, *model, *key;
	uint64_t streams, seconds, chunks, stall_ms;
} opt = { "http://127.0.0.1:8291", "/v1/chat/completions", "mock", "", 100, 5, 20, 1000 };

struct stream {
	struct buf line;
	uint64_t seen;
	bool done, ok;
	int64_t last_us;
};

enum { MAX_DELAY_US = 1000000 };      /* the histogram has one cell for each microsecond; the last gathers the rest */

static struct loop *loop;
static struct http_pool *pool;
static struct buf head, body;
static uint32_t delays[MAX_DELAY_US + 1];
static uint64_t chunks, ended, broken, missing, stalls, not_200, max_delay_us, running;
static int64_t stop_us;

static void stream_start(struct stream *);

static void on_delay(struct stream *s, struct str digits)
{
	uint64_t sent_us, delay;
	int64_t now_us = mono_us();

	if (!str_u64(digits, &sent_us))
		return;
	delay = (uint64_t)now_us > sent_us ? (uint64_t)now_us - sent_us : 0;
	delays[delay < MAX_DELAY_US ? delay : MAX_DELAY_US]++;
	max_delay_us = delay > max_delay_us ? delay : max_delay_us;
	if (s->last_us && now_us - s->last_us > (int64_t)opt.stall_ms * 1000)
		stalls++;
	s->last_us = now_us;
	s->seen++;
	chunks++;
}

static void on_line(struct stream *s, struct str line)
{
	const char *at = str_find(line, STR("\"content\":\"")), *end;

	if (str_eqz(line, "data: [DONE]"))
		s->done = true;
	if (!at)
		return;
	at += 11;
	end = memchr(at, '"', (size_t)(line.p + line.n - at));
	if (end)
		on_delay(s, str_n(at, (size_t)(end - at)));
}

static void on_head(struct http_call *call, const struct http_head *h, void *arg)
{
	((struct stream *)arg)->ok = h->status == 200;
	not_200 += h->status != 200;
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct stream *s = arg;
	const char *nl;

	while ((nl = memchr(data.p, '\n', data.n))) {
		struct str part = str_n(data.p, (size_t)(nl - data.p));

		if (s->line.n) {
			buf_str(&s->line, part);
			part = buf_as_str(&s->line);
		}
		on_line(s, part);
		buf_clear(&s->line);
		data = str_from(data, (size_t)(nl + 1 - data.p));
	}
	buf_str(&s->line, data);
}

static void stream_over(struct stream *s, bool good)
{
	if (good)
		ended++;
	else
		broken++;
	if (s->ok && s->seen < opt.chunks)
		missing += opt.chunks - s->seen;
	running--;
	if (mono_us() < stop_us && s->ok)
		stream_start(s);
	else if (running == 0)
		loop_stop(loop);
}

static void on_end(struct http_call *call, void *arg) { stream_over(arg, ((struct stream *)arg)->done); }
static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg) { stream_over(arg, false); }

static void stream_start(struct stream *s)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	static const struct http_call_opts opts = { .connect_ms = 10000, .first_byte_ms = 30000, .idle_ms = 30000 };
	struct str b = buf_as_str(&body);

	buf_clear(&s->line);
	s->seen = 0;
	s->last_us = 0;
	s->done = s->ok = false;
	running++;
	http_call_start(pool, buf_as_str(&head), &b, 1, &opts, &ops, s);
}

static uint64_t percentile(double p)
{
	uint64_t want = (uint64_t)((double)chunks * p), sum = 0;

	for (uint64_t i = 0; i <= MAX_DELAY_US; i++)
		if ((sum += delays[i]) > want)
			return i;
	return max_delay_us;
}

static void make_request(struct arena *mem)
{
	struct buf headers = { 0 };

	buf_printf(&body, "{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"count\"}]}", opt.model);
	buf_addz(&headers, "Content-Type: application/json\r\nAccept: text/event-stream\r\n");
	if (*opt.key)
		buf_printf(&headers, "Authorization: Bearer %s\r\n", opt.key);
	buf_str(&head, http_call_head(mem, pool, "POST", str_of(opt.path), buf_as_str(&headers), true, body.n));
	buf_free(&headers);
}

/* Not all at once: a burst of thousands of connections measures the backlog, not the streams. */
static void start_some(struct loop_timer *t)
{
	static uint64_t started;

	for (int i = 0; i < 50 && started < opt.streams; i++, started++)
		stream_start(x_calloc(1, sizeof(struct stream)));
	if (started < opt.streams)
		loop_timer_set(loop, t, 5000, start_some);
}

int main(int argc, char **argv)
{
	static const struct flag flags[] = {
		{ "url", &opt.url, NULL }, { "path", &opt.path, NULL }, { "model", &opt.model, NULL }, { "key", &opt.key, NULL },
		{ "streams", NULL, &opt.streams }, { "seconds", NULL, &opt.seconds }, { "chunks", NULL, &opt.chunks }, { "stall-ms", NULL, &opt.stall_ms }, { 0 },
	};
	struct arena *mem = arena_new(0);
	struct loop_timer starter = { 0 };
	struct http_url url;
	struct why why;

	flags_read(flags, argc, argv);
	loop = loop_new();
	if (!http_url_parse(&url, str_of(opt.url), &why)) {
		fprintf(stderr, "sse_client: %s\n", why.text);
		return 1;
	}
	pool = http_pool_new(loop, &url, &(struct http_pool_opts){ .max_idle = (uint32_t)opt.streams });
	make_request(mem);
	stop_us = mono_us() + (int64_t)opt.seconds * 1000000;
	loop_timer_set(loop, &starter, 0, start_some);
	loop_run(loop);
	printf("{\"chunks\":%llu,\"ended\":%llu,\"broken\":%llu,\"missing\":%llu,\"stalls\":%llu,\"not_200\":%llu,"
	       "\"p50_us\":%llu,\"p90_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu}\n",
	       (unsigned long long)chunks, (unsigned long long)ended, (unsigned long long)broken, (unsigned long long)missing,
	       (unsigned long long)stalls, (unsigned long long)not_200, (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.9),
	       (unsigned long long)percentile(0.99), (unsigned long long)max_delay_us);
	return broken || not_200 ? 1 : 0;
}

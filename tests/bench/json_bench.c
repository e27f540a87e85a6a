/* json_bench.c - what reading and writing JSON costs: nanoseconds for one operation, the best of several runs.
 *
 *   json_bench [plain|sse2]      with a lesser scanner than the machine's best */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/json.h"
#include "common/data/json_scan.h"
#include "common/data/json_write.h"

enum { RUNS = 9, RUN_US = 30000 };

static struct arena *mem;
static struct buf text, out;

/* A chat request of about n bytes: a few messages, most of it in long strings; 'piece' is repeated in them. */
static void make_chat(size_t n, const char *piece)
{
	struct json_out jo;
	struct buf content = { 0 };

	while (content.n + strlen(piece) < n / 4 - 60)
		buf_addz(&content, piece);
	buf_clear(&text);
	json_begin(&jo, &text);
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", "auto");
	jw_key(&jo, "messages"), jw_arr(&jo);
	for (int i = 0; i < 4; i++) {
		jw_obj(&jo);
		jw_kv_strz(&jo, "role", i == 0 ? "system" : i % 2 ? "user" : "assistant");
		jw_kv_str(&jo, "content", buf_as_str(&content));
		jw_end(&jo);
	}
	jw_end(&jo);
	jw_kv_double(&jo, "temperature", 0.7);
	jw_kv_i64(&jo, "max_tokens", 256);
	jw_kv_bool(&jo, "stream", true);
	jw_end(&jo);
	json_done(&jo);
	buf_free(&content);
}

/* Many small values: what a tool schema or a list of numbers looks like. */
static void make_dense(size_t n)
{
	struct json_out jo;

	buf_clear(&text);
	json_begin(&jo, &text);
	jw_arr(&jo);
	for (int i = 0; text.n + 100 < n; i++) {
		jw_obj(&jo);
		jw_kv_i64(&jo, "index", i);
		jw_kv_strz(&jo, "type", "function");
		jw_kv_double(&jo, "score", i / 7.0);
		jw_kv_bool(&jo, "ok", i % 2);
		jw_end(&jo);
	}
	jw_end(&jo);
	json_done(&jo);
}

static void make_wide(uint32_t keys)
{
	struct json_out jo;

	buf_clear(&text);
	json_begin(&jo, &text);
	jw_obj(&jo);
	for (uint32_t i = 0; i < keys; i++) {
		char key[24];

		snprintf(key, sizeof(key), "key%u", i);
		jw_kv_i64(&jo, key, i);
	}
	jw_end(&jo);
	json_done(&jo);
}

static void parse(void)
{
	struct json j;
	struct why why;

	arena_reset(mem);
	if (json_parse(&j, mem, buf_as_str(&text), NULL, &why) != ERR_OK) {
		fprintf(stderr, "%s\n", why.text);
		exit(1);
	}
}

static void parse_and_look(void)
{
	struct json j;
	static const char *const keys[] = { "model", "messages", "temperature", "max_tokens", "stream", "tools", "response_format", "user" };

	arena_reset(mem);
	if (json_parse(&j, mem, buf_as_str(&text), NULL, NULL) != ERR_OK)
		exit(1);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		json_get(&j, 0, keys[i]);
}

static void parse_and_splice(void)
{
	struct json j;
	struct json_edit e;

	arena_reset(mem);
	if (json_parse(&j, mem, buf_as_str(&text), NULL, NULL) != ERR_OK)
		exit(1);
	e = json_edit_value(&j, json_get(&j, 0, "model"), STR("\"another-model\""));
	buf_clear(&out);
	json_splice(&out, buf_as_str(&text), &e, 1);
}

static void write_string(void)
{
	buf_clear(&out);
	json_escape(&out, buf_as_str(&text));
}

static double best_ns(void (*fn)(void))
{
	double best = 1e18;

	for (int run = 0; run < RUNS; run++) {
		int64_t from = mono_us(), now;
		uint64_t n = 0;

		do {
			for (int i = 0; i < 16; i++, n++)
				fn();
			now = mono_us();
		} while (now - from < RUN_US);
		if ((double)(now - from) * 1000 / (double)n < best)
			best = (double)(now - from) * 1000 / (double)n;
	}
	return best;
}

static void line(const char *name, void (*fn)(void))
{
	double ns = best_ns(fn);

	printf("%-44s %8zu bytes %12.0f ns %8.2f GB/s\n", name, text.n, ns, (double)text.n / ns);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 1024, 32 * 1024, 256 * 1024 };

	if (argc > 1 && !json_scan_use(strcmp(argv[1], "plain") == 0 ? JSON_SCAN_PLAIN : JSON_SCAN_SSE2))
		return fprintf(stderr, "this machine has no such scanner\n"), 1;
	mem = arena_new(64 * 1024);
	for (int i = 0; i < 3; i++) {
		make_chat(sizes[i], "The quick brown fox jumps over the lazy dog and so on. ");
		line("chat: parse", parse);
		line("chat: parse, 8 look-ups", parse_and_look);
		line("chat: parse, splice the model", parse_and_splice);
		make_chat(sizes[i], "\tif (a[i] == \"x\")\n\t\treturn b;\n");
		line("chat of code (escapes): parse", parse);
		make_chat(sizes[i], "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x81\xae\xe6\x96\x87\xe7\xab\xa0\xe3\x80\x82");
		line("chat in Japanese: parse", parse);
		make_dense(sizes[i]);
		line("small objects: parse", parse);
		line("write it as one string (escape)", write_string);
	}
	make_wide(1000);
	line("object of 1,000 keys: parse", parse);
	make_wide(99999);
	line("object of 99,999 keys: parse", parse);
	arena_free(mem);
	buf_free(&text);
	buf_free(&out);
	return 0;
}

/* runpod_message_fuzz.c - what a queue of RunPod says: jobs, what was cancelled, errors. What is taken is fit to be sent on. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/data/json.h"
#include "common/io/http1.h"
#include "services/runpod-worker/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_job(const struct taken *t, struct arena *mem)
{
	struct why why = { 0 };
	struct plan p = { 0 };
	struct buf url = { 0 };

	if (!http_value_ok(t->id))
		abort();
	url_post(&url, STR("https://q/done/$ID?a=b"), t->id, true);
	for (size_t i = 0; i < url.n; i++)
		if (url.p[i] <= ' ' || url.p[i] == '#' || url.p[i] == 0x7f)
			abort();
	buf_free(&url);
	if (plan_read(&p, t->input, mem, &why) != ERR_OK) {
		if (why.code == ERR_OK || !why.text[0])
			abort();
	} else if (!p.path.n || p.path.p[0] != '/' || str_find(p.path, STR("keys")) || (p.body.n && p.body.p[0] != '{')) {
		abort();
	}
}

static void check_error(struct str text, struct arena *mem)
{
	struct buf b = { 0 };
	struct json j;

	add_error(&b, error_in(text, mem));
	if (json_parse(&j, mem, buf_as_str(&b), NULL, NULL) != ERR_OK)
		abort();
	buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = str_n((const char *)data, size), *ids = NULL;
	struct arena *mem = arena_new(0);
	struct why why = { 0 };
	struct taken *t = NULL;
	unsigned n;

	if (taken_read(text, mem, &t, &n, &why) != ERR_OK && (why.code == ERR_OK || !why.text[0]))
		abort();
	for (unsigned i = 0; i < n; i++)
		check_job(&t[i], mem);
	for (unsigned i = stops_read(text, mem, &ids); i-- > 0;)
		if (ids[i].n && !ids[i].p)
			abort();
	if (str_utf8_valid(text))
		check_error(text, mem);
	arena_free(mem);
	return 0;
}

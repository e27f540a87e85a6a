/* run_input_fuzz.c - bodies of POST /run: what is taken has a path and a JSON object to send there. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/data/json.h"
#include "services/gateway/run_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *mem = arena_new(0);
	struct run_input in = { 0 };
	struct json doc;
	struct why why = { 0 };

	if (run_input_read(&in, str_n((const char *)data, size), mem, &why) == ERR_OK) {
		enum err err = json_parse(&doc, mem, in.job.body, NULL, &why);

		/* two equal keys, of the input and of its sampling parameters, or a node too many are found by who reads it */
		if (!in.job.path.n || !in.job.body.n || in.job.body.p[0] != '{' || (err == ERR_OK && json_kind(&doc, 0) != JSON_OBJECT))
			abort();
	} else if (why.code == ERR_OK || !why.text[0]) {
		abort();
	}
	arena_free(mem);
	return 0;
}

/* redact_fuzz.c - input: rules, a NUL, a request. What comes out is JSON again, in which no text holds the canary any more; patterns of any
 * text are compiled and run within their bounds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/pattern.h"
#include "common/data/json.h"
#include "common/llm/redact.h"

#define CHECK(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), abort()))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_free_of(struct str json, const char *canary, struct arena *mem)
{
	struct why why = { 0 };
	struct json j;

	CHECK(json_parse(&j, mem, json, NULL, &why) == ERR_OK);
	for (uint32_t t = 0; t < j.n; t++) {
		struct str s = json_is_string(&j, t) ? json_string(&j, t, mem) : (struct str){ 0 };

		CHECK(!str_find(s, str_of(canary)) || (json_key(&j, t) && json_key_is(&j, t, "model")));
	}
}

static void try_request(struct str rules, struct str json, const char *canary, struct arena *mem)
{
	struct why why = { 0 };
	struct redact *set = redact_new(mem, rules, &why);
	struct redacted out;
	struct json j;

	if (!set || redact_apply(set, json, mem, &out, &why) != ERR_OK)
		return;
	CHECK(out.total || out.json.p == json.p);
	CHECK(!redact_n_rules(set) || json_parse(&j, mem, out.json, NULL, &why) == ERR_OK);
	if (canary)
		check_free_of(out.json, canary, mem);
}

static void try_pattern(struct str text, struct str in, struct arena *mem)
{
	struct why why = { 0 };
	struct pattern *p = pattern_new(mem, text, &why);
	int64_t work = 1000000;
	size_t n = 0, last = 0;
	struct span *s;

	if (!p || !pattern_find(p, in, mem, &work, &s, &n))
		return;
	for (size_t i = 0; i < n; last = s[i++].to)
		CHECK(s[i].from >= last && s[i].to > s[i].from && s[i].to <= in.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str all = str_n((const char *)data, size), rules;
	struct arena *mem = arena_new(0);

	if (str_split(&all, '\0', &rules) && all.p) {
		try_request(rules, all, NULL, mem);
		try_request(STR("redact c text CANARY\nredact email\nredact card\nredact api_key\n"), all, "CANARY", mem);
		try_pattern(rules, all, mem);
	}
	arena_free(mem);
	return 0;
}

/* answer.c - see visit.h: what an answer is worth, how a visit ends, and readers that are content with anything. */
#include <stdarg.h>
#include <stdio.h>

#include "services/model-registry/visit.h"

const struct kind *kind_find(struct str name)
{
	static const struct kind *const kinds[] = { &kind_ollama, &kind_llamacpp, &kind_openai };

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (str_eqz(name, kinds[i]->name))
			return kinds[i];
	return NULL;
}

bool visit_need(struct visit *visit, const struct answer *answer)
{
	if (answer->status == 200 && answer->json)
		return true;
	if (answer->status == 0)
		visit_fail(visit, "unreachable", "%s", answer->error);
	else if (answer->status == 401 || answer->status == 403)
		visit_fail(visit, "status", "the server refuses to list its models (status %d): it wants a key, or another Host", answer->status);
	else if (answer->status != 200)
		visit_fail(visit, "status", "the server answered with status %d", answer->status);
	else
		visit_fail(visit, "malformed", "the server's answer is not JSON");
	return false;
}

void visit_done(struct visit *visit, enum visit_end end)
{
	visit->end = end;
	visit->on_end(visit, visit->arg);
}

void visit_fail(struct visit *visit, const char *reason, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(visit->text, sizeof visit->text, fmt, ap);
	va_end(ap);
	visit->reason = reason;
	visit_done(visit, VISIT_FAILED);
}

const char *read_str(const struct json *json, uint32_t object, const char *key, struct arena *mem)
{
	uint32_t value = json_get(json, object, key);

	return value && json_is_string(json, value) ? arena_str(mem, json_string(json, value, mem)).p : "";
}

uint64_t read_u64(const struct json *json, uint32_t object, const char *key)
{
	uint32_t value = json_get(json, object, key);
	int64_t n;

	return value && json_i64(json, value, &n) && n > 0 ? (uint64_t)n : 0;
}

uint32_t read_u32(const struct json *json, uint32_t object, const char *key)
{
	uint64_t n = read_u64(json, object, key);

	return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

bool read_bool(const struct json *json, uint32_t object, const char *key)
{
	uint32_t value = json_get(json, object, key);
	bool yes;

	return value && json_bool(json, value, &yes) && yes;
}

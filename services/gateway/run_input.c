/* run_input.c - see run_input.h. */
#include "services/gateway/run_input.h"

#include <stdio.h>

#include "common/data/json.h"

static enum err read_time(const struct json *j, uint32_t policy, const char *key, int64_t *ret, struct why *why)
{
	char field[64];

	if (!json_opt_i64(j, policy, key, ret, why))
		return why->code;
	if (*ret && (*ret < RUN_TIME_MIN_MS || *ret > RUN_TIME_MAX_MS)) {
		snprintf(field, sizeof(field), "policy.%s", key);
		return err_field(why, ERR_INVALID, field, "policy.%s is a time in milliseconds from %d to %d, not %lld", key, RUN_TIME_MIN_MS, RUN_TIME_MAX_MS,
				 (long long)*ret);
	}
	return ERR_OK;
}

static enum err read_policy(struct run_input *in, const struct json *j, uint32_t policy, struct why *why)
{
	if (!policy || json_kind(j, policy) == JSON_NULL)
		return ERR_OK;
	if (json_kind(j, policy) != JSON_OBJECT)
		return err_field(why, ERR_MALFORMED, "policy", "policy must be an object, not %s", json_kind_name(json_kind(j, policy)));
	for (uint32_t i = json_first(j, policy); i; i = json_next(j, policy, i))
		if (!json_key_is(j, i, "executionTimeout") && !json_key_is(j, i, "ttl") && !json_key_is(j, i, "lowPriority"))
			return job_unknown(j, i, "policy.", why);
	if (read_time(j, policy, "executionTimeout", &in->execution_ms, why) != ERR_OK)
		return why->code;
	return read_time(j, policy, "ttl", &in->ttl_ms, why);
}

enum err run_input_read(struct run_input *ret, struct str body, struct arena *a, struct why *why)
{
	struct run_input in = { 0 };
	struct json j;

	if (json_parse(&j, a, body, NULL, why) != ERR_OK)
		return why->code;
	if (json_kind(&j, 0) != JSON_OBJECT)
		return err_set(why, ERR_MALFORMED, "the body must be an object with a member input, not %s", json_kind_name(json_kind(&j, 0)));
	for (uint32_t i = json_first(&j, 0); i; i = json_next(&j, 0, i))
		if (!json_key_is(&j, i, "input") && !json_key_is(&j, i, "policy") && json_kind(&j, i) != JSON_NULL)
			return job_unknown(&j, i, "", why);
	if (read_policy(&in, &j, json_get(&j, 0, "policy"), why) != ERR_OK || job_input_read(&in.job, &j, json_get(&j, 0, "input"), a, why) != ERR_OK)
		return why->code;
	*ret = in;
	return ERR_OK;
}

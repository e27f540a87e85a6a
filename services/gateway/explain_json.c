/* explain_json.c - see explain_json.h. */
#include "services/gateway/explain_json.h"

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/policy/caps.h"

void time_json(struct json_out *jo, const char *key, int64_t us)
{
	char text[40];

	if (us)
		clock_rfc3339(us, 3, text, sizeof(text));
	jw_kv_strz(jo, key, us ? text : NULL);
}

void decider_json(struct json_out *jo, const char *by, const char *not_asked)
{
	jw_kv_strz(jo, "decided_by", *by ? by : "gateway");
	jw_kv_strz(jo, "not_asked", not_asked && *not_asked ? not_asked : NULL);
}

static void features_json(struct json_out *jo, const Corral__DecisionFeatures *f)
{
	jw_obj(jo);
	jw_kv_strz(jo, "requested_model", f->requested_model);
	jw_kv_strz(jo, "task_type", f->task_type);
	jw_kv_double(jo, "task_confidence", f->task_confidence);
	jw_kv_strz(jo, "complexity", f->complexity);
	jw_kv_strz(jo, "language", *f->language ? f->language : NULL);
	jw_kv_u64(jo, "prompt_tokens", f->prompt_tokens);
	jw_kv_u64(jo, "max_tokens", f->max_tokens);
	jw_key(jo, "needs");
	jw_arr(jo);
	for (uint32_t bit = 1; bit && bit <= f->needs; bit <<= 1)
		if (f->needs & bit)
			jw_strz(jo, llm_cap_name(bit));
	jw_end(jo);
	jw_kv_strz(jo, "policy", f->policy);
	jw_kv_bool(jo, "local_only", f->local_only);
	jw_kv_strz(jo, "conversation_model", *f->conversation_model ? f->conversation_model : NULL);
	jw_end(jo);
}

static void candidate_json(struct json_out *jo, const Corral__Candidate *c)
{
	jw_obj(jo);
	jw_kv_strz(jo, "model", c->model);
	jw_kv_strz(jo, "backend", c->backend);
	jw_kv_double(jo, "score", c->score);
	jw_key(jo, "terms");
	jw_obj(jo);
	jw_kv_double(jo, "quality", c->quality);
	jw_kv_double(jo, "latency", c->latency);
	jw_kv_double(jo, "cost", c->cost);
	jw_end(jo);
	jw_kv_double(jo, "expected_s", c->load);
	jw_kv_bool(jo, "warm", c->warmth != 0);
	jw_kv_u64(jo, "context_length", (uint64_t)c->context);
	jw_end(jo);
}

/* Whose arm it got: as part of the experiment, or since the arm was promoted. */
static void experiment_json(struct json_out *jo, const Corral__DecisionOutcome *o)
{
	jw_key(jo, "experiment");
	if (!*o->experiment_id) {
		jw_null(jo);
		return;
	}
	jw_obj(jo);
	jw_kv_strz(jo, "id", o->experiment_id);
	jw_kv_strz(jo, "arm", o->arm);
	jw_kv_bool(jo, "champion", o->champion);
	jw_end(jo);
}

void explain_json(struct json_out *jo, const Corral__DecisionFeatures *f, const Corral__DecisionOutcome *o)
{
	jw_key(jo, "features");
	features_json(jo, f);
	jw_key(jo, "chosen");
	if (o->n_candidates) {
		jw_obj(jo);
		jw_kv_strz(jo, "model", o->candidates[0]->model);
		jw_kv_strz(jo, "backend", o->candidates[0]->backend);
		jw_end(jo);
	} else {
		jw_null(jo);
	}
	jw_kv_strz(jo, "reason", o->reason);
	jw_kv_double(jo, "confidence", o->confidence);
	experiment_json(jo, o);
	if (o->err) {
		jw_kv_strz(jo, "error_code", err_name((enum err)o->err));
		jw_kv_strz(jo, "error", o->text);
	}
	jw_key(jo, "candidates");
	jw_arr(jo);
	for (size_t i = 0; i < o->n_candidates; i++)
		candidate_json(jo, o->candidates[i]);
	jw_end(jo);
	jw_key(jo, "rejected");
	jw_arr(jo);
	for (size_t i = 0; i < o->n_rejected; i++) {
		jw_obj(jo);
		jw_kv_strz(jo, "model", o->rejected[i]->model);
		jw_kv_strz(jo, "backend", o->rejected[i]->backend);
		jw_kv_strz(jo, "rule", o->rejected[i]->rule);
		jw_kv_strz(jo, "text", o->rejected[i]->text);
		jw_end(jo);
	}
	jw_end(jo);
}

/* usage_pack.c - see usage_pack.h. Fields in the order of their numbers, those at their default left out: proto3, as events.proto says.
 * A field that is added there is added here; the test compares every field with what the general encoder makes. */
#include "services/gateway/usage_pack.h"

#include "common/data/pbwire.h"

/* 1 to 19: which attempt, of whom, where, what kind. */
static uint8_t *put_subject(const Corral__UsageEvent *e, uint8_t *p)
{
	p = pb_put_bytes(p, 1, e->event_id.data, e->event_id.len);
	p = pb_put_number(p, 2, e->kind);
	p = pb_put_number(p, 3, e->seq);
	p = pb_put_bytes(p, 4, e->request_id.data, e->request_id.len);
	p = pb_put_number(p, 5, e->attempt);
	p = pb_put_number(p, 6, (uint64_t)e->occurred_at_us);
	p = pb_put_string(p, 7, e->tenant);
	p = pb_put_string(p, 8, e->key_id);
	p = pb_put_string(p, 9, e->user);
	p = pb_put_string(p, 10, e->model);
	p = pb_put_string(p, 11, e->backend);
	p = pb_put_string(p, 12, e->provider);
	p = pb_put_string(p, 13, e->dialect);
	p = pb_put_string(p, 14, e->task_type);
	p = pb_put_string(p, 15, e->complexity);
	p = pb_put_string(p, 16, e->language);
	p = pb_put_number(p, 17, e->context_size);
	p = pb_put_number(p, 18, e->stream);
	return pb_put_number(p, 19, e->cached);
}

/* 40 to 51: what it costs, how many there were before it, what it was like, whose experiment, which trace and whose shadow it is of. */
static uint8_t *put_more(const Corral__UsageEvent *e, uint8_t *p)
{
	p = pb_put_number(p, 40, e->cached_prompt_tokens);
	p = pb_put_number(p, 41, e->cost_source);
	p = pb_put_number(p, 42, e->run);
	p = pb_put_number(p, 43, e->run_finals);
	p = pb_put_number(p, 44, e->run_tokens);
	p = pb_put_number(p, 45, e->prompt_hash);
	p = pb_put_number(p, 46, e->prompt_sketch);
	p = pb_put_string(p, 47, e->unit);
	p = pb_put_number(p, 48, e->retried);
	p = pb_put_number(p, 49, (uint64_t)e->request_us);
	p = pb_put_bytes(p, 50, e->trace.data, e->trace.len);
	return pb_put_bytes(p, 51, e->shadow_of.data, e->shadow_of.len);
}

/* 20 to 39: how it ended, what it took, why it went there. */
static uint8_t *put_outcome(const Corral__UsageEvent *e, uint8_t *p)
{
	p = pb_put_string(p, 20, e->status);
	p = pb_put_string(p, 21, e->error_code);
	p = pb_put_number(p, 22, e->prompt_tokens);
	p = pb_put_number(p, 23, e->completion_tokens);
	p = pb_put_number(p, 24, e->tokens_source);
	p = pb_put_number(p, 25, (uint64_t)e->queue_us);
	p = pb_put_number(p, 26, (uint64_t)e->ttft_us);
	p = pb_put_number(p, 27, (uint64_t)e->latency_us);
	p = pb_put_number(p, 28, (uint64_t)e->cost_microusd);
	p = pb_put_number(p, 29, (uint64_t)e->gpu_us);
	p = pb_put_number(p, 30, (uint64_t)e->energy_mj);
	p = pb_put_string(p, 31, e->experiment_id);
	p = pb_put_string(p, 32, e->arm);
	p = pb_put_string(p, 33, e->policy_version);
	p = pb_put_string(p, 34, e->reason);
	p = pb_put_string(p, 35, e->requested_model);
	p = pb_put_number(p, 36, e->http_status);
	p = pb_put_number(p, 37, e->response_bytes);
	p = pb_put_number(p, 38, e->prompt_tokens_source);
	return pb_put_bytes(p, 39, e->budgets.data, e->budgets.len);
}

size_t usage_pack(const Corral__UsageEvent *e, uint8_t *out)
{
	return (size_t)(put_more(e, put_outcome(e, put_subject(e, out))) - out);
}

/* usage_pack.c - see usage_pack.h. Fields in the order of their numbers, those at their default left out: proto3, as events.proto says.
 * A field that is added there is added here; the test compares every field with what the general encoder makes. */
#include "services/gateway/usage_pack.h"

#include <string.h>

enum wire { WIRE_VARINT = 0, WIRE_BYTES = 2 };

static inline uint8_t *put_varint(uint8_t *p, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*p++ = (uint8_t)(v | 0x80);
	*p++ = (uint8_t)v;
	return p;
}

/* 'field' is a constant everywhere: the tag is one store, or two. */
static inline uint8_t *put_tag(uint8_t *p, unsigned field, enum wire wire) { return put_varint(p, field << 3 | wire); }

static inline uint8_t *put_number(uint8_t *p, unsigned field, uint64_t v)
{
	return v ? put_varint(put_tag(p, field, WIRE_VARINT), v) : p;
}

static inline uint8_t *put_bytes(uint8_t *p, unsigned field, const void *from, size_t n)
{
	if (n == 0)
		return p;
	p = put_varint(put_tag(p, field, WIRE_BYTES), n);
	memcpy(p, from, n);
	return p + n;
}

static inline uint8_t *put_string(uint8_t *p, unsigned field, const char *z)
{
	return *z ? put_bytes(p, field, z, strlen(z)) : p;
}

/* 1 to 19: which attempt, of whom, where, what kind. */
static uint8_t *put_subject(const Corral__UsageEvent *e, uint8_t *p)
{
	p = put_bytes(p, 1, e->event_id.data, e->event_id.len);
	p = put_number(p, 2, e->kind);
	p = put_number(p, 3, e->seq);
	p = put_bytes(p, 4, e->request_id.data, e->request_id.len);
	p = put_number(p, 5, e->attempt);
	p = put_number(p, 6, (uint64_t)e->occurred_at_us);
	p = put_string(p, 7, e->tenant);
	p = put_string(p, 8, e->key_id);
	p = put_string(p, 9, e->user);
	p = put_string(p, 10, e->model);
	p = put_string(p, 11, e->backend);
	p = put_string(p, 12, e->provider);
	p = put_string(p, 13, e->dialect);
	p = put_string(p, 14, e->task_type);
	p = put_string(p, 15, e->complexity);
	p = put_string(p, 16, e->language);
	p = put_number(p, 17, e->context_size);
	p = put_number(p, 18, e->stream);
	return put_number(p, 19, e->cached);
}

/* 20 to 38: how it ended, what it took, why it went there. */
static uint8_t *put_outcome(const Corral__UsageEvent *e, uint8_t *p)
{
	p = put_string(p, 20, e->status);
	p = put_string(p, 21, e->error_code);
	p = put_number(p, 22, e->prompt_tokens);
	p = put_number(p, 23, e->completion_tokens);
	p = put_number(p, 24, e->tokens_source);
	p = put_number(p, 25, (uint64_t)e->queue_us);
	p = put_number(p, 26, (uint64_t)e->ttft_us);
	p = put_number(p, 27, (uint64_t)e->latency_us);
	p = put_number(p, 28, (uint64_t)e->cost_microusd);
	p = put_number(p, 29, (uint64_t)e->gpu_us);
	p = put_number(p, 30, (uint64_t)e->energy_mj);
	p = put_string(p, 31, e->experiment_id);
	p = put_string(p, 32, e->arm);
	p = put_string(p, 33, e->policy_version);
	p = put_string(p, 34, e->reason);
	p = put_string(p, 35, e->requested_model);
	p = put_number(p, 36, e->http_status);
	p = put_number(p, 37, e->response_bytes);
	return put_number(p, 38, e->prompt_tokens_source);
}

size_t usage_pack(const Corral__UsageEvent *e, uint8_t *out)
{
	return (size_t)(put_outcome(e, put_subject(e, out)) - out);
}

/* decision_pack.c - see decision_pack.h. Fields in the order of their numbers, as selector.proto and events.proto say; a field that is added
 * there is added here, and the test compares every field with what the general encoder makes. */
#include "services/gateway/decision_pack.h"

#include "common/data/pbwire.h"

enum { FIELD_MAX = PB_TAG_MAX + PB_VARINT_MAX };      /* of a number, or before bytes */

static size_t patterns_room(char *const *at, size_t n)
{
	size_t room = 0;

	for (size_t i = 0; i < n; i++)
		room += FIELD_MAX + strlen(at[i]);
	return room;
}

size_t features_room(const Corral__DecisionFeatures *f)
{
	return 19 * FIELD_MAX + strlen(f->user) + strlen(f->session) + strlen(f->conversation) +
	       strlen(f->requested_model) + strlen(f->task_type) + strlen(f->complexity) + strlen(f->language) + strlen(f->policy) +
	       strlen(f->conversation_model) + strlen(f->tenant) + patterns_room(f->key_models, f->n_key_models) +
	       patterns_room(f->tenant_models, f->n_tenant_models);
}

static uint8_t *put_patterns(uint8_t *p, unsigned field, char *const *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p = pb_put_element(p, field, at[i], strlen(at[i]));
	return p;
}

size_t features_pack(const Corral__DecisionFeatures *f, uint8_t *out)
{
	uint8_t *p = out;

	p = pb_put_string(p, 1, f->requested_model);
	p = pb_put_string(p, 2, f->task_type);
	p = pb_put_string(p, 3, f->complexity);
	p = pb_put_string(p, 4, f->language);
	p = pb_put_number(p, 5, f->prompt_tokens);
	p = pb_put_number(p, 6, f->max_tokens);
	p = pb_put_number(p, 7, f->needs);
	p = pb_put_string(p, 8, f->policy);
	p = pb_put_number(p, 9, f->local_only != 0);
	p = pb_put_string(p, 10, f->conversation_model);
	p = pb_put_double(p, 11, f->task_confidence);
	p = pb_put_number(p, 12, f->is_auto != 0);
	p = put_patterns(p, 14, f->key_models, f->n_key_models);
	p = put_patterns(p, 15, f->tenant_models, f->n_tenant_models);
	p = pb_put_string(p, 16, f->tenant);
	p = pb_put_number(p, 17, f->named_may_leave != 0);
	p = pb_put_string(p, 18, f->user);
	p = pb_put_string(p, 19, f->session);
	p = pb_put_string(p, 20, f->conversation);
	return (size_t)(p - out);
}

size_t decision_event_room(const Corral__DecisionEvent *e)
{
	return 20 * FIELD_MAX + strlen(e->decided_by) + strlen(e->not_asked) +
	       e->request_id.len + e->features.len + e->load.len + e->outcome.len + e->models_snapshot.len + e->policy_snapshot.len +
	       e->experiments_snapshot.len + e->queue_full.len + e->trace.len;
}

static uint8_t *put_data(uint8_t *p, unsigned field, const ProtobufCBinaryData *d) { return pb_put_bytes(p, field, d->data, d->len); }

size_t decision_event_pack(const Corral__DecisionEvent *e, uint8_t *out)
{
	uint8_t *p = out;

	p = put_data(p, 1, &e->request_id);
	p = pb_put_number(p, 2, (uint64_t)e->occurred_at_us);
	p = put_data(p, 3, &e->features);
	p = pb_put_number(p, 4, e->models_epoch);
	p = pb_put_number(p, 5, e->models_version);
	p = pb_put_number(p, 6, e->policy_epoch);
	p = pb_put_number(p, 7, e->policy_version);
	p = put_data(p, 8, &e->load);
	p = put_data(p, 9, &e->outcome);
	p = pb_put_number(p, 10, (uint64_t)(int64_t)e->model);      /* a negative one in ten bytes, as int32 has it */
	p = pb_put_number(p, 11, e->alias != 0);
	p = put_data(p, 12, &e->models_snapshot);
	p = put_data(p, 13, &e->policy_snapshot);
	p = pb_put_string(p, 14, e->decided_by);
	p = pb_put_string(p, 15, e->not_asked);
	p = pb_put_number(p, 16, e->experiments_epoch);
	p = pb_put_number(p, 17, e->experiments_version);
	p = put_data(p, 18, &e->experiments_snapshot);
	p = put_data(p, 19, &e->queue_full);
	p = put_data(p, 20, &e->trace);
	return (size_t)(p - out);
}

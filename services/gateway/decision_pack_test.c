/* decision_pack_test.c - decision_pack() against the general encoder: each field alone, then many events of random fields. */
#include "services/gateway/decision_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/arena.h"
#include "common/base/id.h"

static const char *const strings[] = { "", "a", "balanced", "model:latest", "\xc3\xa4\xe2\x82\xac" };
static char long_string[3000];
static uint8_t data[300] = { 1, 159, 0, 255, 128, 7 };
static char *patterns[] = { (char *)"a*", (char *)"", (char *)"model:latest" };

static void same(const ProtobufCMessage *m, size_t room, size_t got, const uint8_t *ours)
{
	size_t want = protobuf_c_message_get_packed_size(m);
	uint8_t *theirs = x_malloc(want + 1);

	protobuf_c_message_pack(m, theirs);
	assert_int_equal(got, want);
	assert_true(got <= room);
	assert_memory_equal(ours, theirs, want);
	free(theirs);
}

static void same_features(const Corral__DecisionFeatures *f)
{
	size_t room = features_room(f);
	uint8_t *ours = x_malloc(room);     /* to the byte: a sanitizer sees what is behind it */

	same(&f->base, room, features_pack(f, ours), ours);
	free(ours);
}

static void same_event(const Corral__DecisionEvent *e)
{
	size_t room = decision_event_room(e);
	uint8_t *ours = x_malloc(room);

	same(&e->base, room, decision_event_pack(e, ours), ours);
	free(ours);
}

static void set(void *message, const ProtobufCFieldDescriptor *f, uint64_t v)
{
	void *at = (char *)message + f->offset;

	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		assert_int_equal(f->type, PROTOBUF_C_TYPE_STRING);
		*(size_t *)((char *)message + f->quantifier_offset) = v % 4;
		*(char ***)at = patterns;
		return;
	}
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING: *(const char **)at = v % 6 == 5 ? long_string : strings[v % 6]; break;
	case PROTOBUF_C_TYPE_BYTES: *(ProtobufCBinaryData *)at = (ProtobufCBinaryData){ v % sizeof(data), data }; break;
	case PROTOBUF_C_TYPE_BOOL: *(protobuf_c_boolean *)at = v != 0; break;
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_UINT32: *(uint32_t *)at = (uint32_t)v; break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64: *(uint64_t *)at = v; break;
	case PROTOBUF_C_TYPE_DOUBLE: *(double *)at = (double)(int64_t)v / 3; break;
	default: fail_msg("%s has a type that decision_pack.c does not know", f->name);
	}
}

static uint64_t telling(unsigned i)
{
	static const uint64_t numbers[] = { 0, 1, 127, 128, 300, 16384, UINT32_MAX, INT64_MAX, UINT64_MAX };

	return i < 9 ? numbers[i] : i - 9;
}

static void each_field_alone(void **state)
{
	(void)state;
	for (unsigned v = 0; v < 20; v++) {
		for (unsigned i = 0; i < corral__decision_features__descriptor.n_fields; i++) {
			Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;

			set(&f, &corral__decision_features__descriptor.fields[i], telling(v));
			same_features(&f);
		}
		for (unsigned i = 0; i < corral__decision_event__descriptor.n_fields; i++) {
			Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;

			set(&e, &corral__decision_event__descriptor.fields[i], telling(v));
			same_event(&e);
		}
	}
}

static void set_some(void *message, const ProtobufCMessageDescriptor *d)
{
	for (unsigned i = 0; i < d->n_fields; i++)
		if (rand_u64() & 1)
			set(message, &d->fields[i], rand_u64() >> (rand_u64() & 63));
}

static void random_events(void **state)
{
	(void)state;
	for (int round = 0; round < 20000; round++) {
		Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
		Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;

		set_some(&f, &corral__decision_features__descriptor);
		same_features(&f);
		set_some(&e, &corral__decision_event__descriptor);
		same_event(&e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(each_field_alone), cmocka_unit_test(random_events) };

	memset(long_string, 'x', sizeof(long_string) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

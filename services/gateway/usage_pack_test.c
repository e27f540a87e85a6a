/* usage_pack_test.c - usage_pack() against the general encoder: each field alone at telling values, then many events of random fields. */
#include "services/gateway/usage_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/id.h"

enum { ROOM = 64 * 1024 };

static const char *const strings[] = { "", "a", "default", "model:latest", "\xc3\xa4\xe2\x82\xac" };
static const uint64_t numbers[] = { 0, 1, 127, 128, 300, 16383, 16384, UINT32_MAX, (uint64_t)INT64_MAX, UINT64_MAX };
static char long_string[3000];
static uint8_t id[16] = { 1, 159, 0, 255, 128, 7 };

static void same(const Corral__UsageEvent *e)
{
	static uint8_t ours[ROOM], theirs[ROOM];
	size_t want = corral__usage_event__pack(e, theirs);

	memset(ours, 0xee, sizeof(ours));
	assert_int_equal(usage_pack(e, ours), want);
	assert_memory_equal(ours, theirs, want);
	assert_int_equal(ours[want], 0xee);
}

static void set_number(void *at, ProtobufCType type, uint64_t v)
{
	switch (type) {
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = v != 0;
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(uint32_t *)at = v % 3;
		break;
	case PROTOBUF_C_TYPE_UINT32:
		*(uint32_t *)at = (uint32_t)v;
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64:
		*(uint64_t *)at = v;
		break;
	default:
		fail_msg("a UsageEvent has a type that usage_pack() does not know");
	}
}

static void set(Corral__UsageEvent *e, const ProtobufCFieldDescriptor *f, uint64_t v)
{
	void *at = (char *)e + f->offset;

	if (f->type == PROTOBUF_C_TYPE_STRING)
		*(const char **)at = v % 6 == 5 ? long_string : strings[v % 6];
	else if (f->type == PROTOBUF_C_TYPE_BYTES)
		*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){ v % 17, id };
	else
		set_number(at, f->type, v);
}

static void each_field_alone(void **state)
{
	const ProtobufCMessageDescriptor *d = &corral__usage_event__descriptor;

	(void)state;
	for (unsigned i = 0; i < d->n_fields; i++)
		for (unsigned v = 0; v < 17; v++) {
			Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;

			set(&e, &d->fields[i], v);
			same(&e);
			set(&e, &d->fields[i], numbers[v % 10]);
			same(&e);
		}
}

static void random_events(void **state)
{
	const ProtobufCMessageDescriptor *d = &corral__usage_event__descriptor;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;

		for (unsigned i = 0; i < d->n_fields; i++)
			if (rand_u64() & 1)
				set(&e, &d->fields[i], rand_u64() >> (rand_u64() & 63));
		same(&e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(each_field_alone), cmocka_unit_test(random_events) };

	memset(long_string, 'x', sizeof(long_string) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* event_test.c - event_read() against the general decoder: the same message of every byte string, or none of both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/id.h"
#include "services/usage-tracker/event.h"

static struct str packed(struct arena *mem, const Corral__UsageEvent *e) { return e ? event_pack(mem, e, 0) : str_n(NULL, 0); }

static void same(struct arena *mem, struct str bytes)
{
	Corral__UsageEvent *ours = event_read(mem, bytes);
	Corral__UsageEvent *theirs = corral__usage_event__unpack(NULL, bytes.n, (const uint8_t *)bytes.p);
	struct str a = packed(mem, ours), b = packed(mem, theirs);

	assert_int_equal(!ours, !theirs);
	assert_int_equal(a.n, b.n);
	assert_true(a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
	if (theirs)
		corral__usage_event__free_unpacked(theirs, NULL);
}

static struct str a_final(struct arena *mem)
{
	static uint8_t id[16] = { 1, 2, 3, 4, 5, 6, 0x70 };
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;

	e.event_id = e.request_id = (ProtobufCBinaryData){ sizeof(id), id };
	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.seq = 3, e.attempt = UINT32_MAX;
	e.occurred_at_us = INT64_MAX, e.cost_microusd = -7;
	e.tenant = (char *)"default", e.model = (char *)"m", e.requested_model = (char *)"what the client wrote";
	e.stream = true;
	e.completion_tokens = UINT64_MAX;
	e.tokens_source = CORRAL__TOKENS_SOURCE__TOKENS_COUNTED;
	return event_pack(mem, &e, 0);
}

static void reads_what_was_packed(void **state)
{
	struct arena *mem = arena_new(0);
	struct str bytes = a_final(mem);
	Corral__UsageEvent *e = event_read(mem, bytes);

	assert_string_equal(e->requested_model, "what the client wrote");
	assert_string_equal(e->tenant, "default");
	assert_string_equal(e->backend, "");
	assert_true(e->stream && e->cost_microusd == -7 && e->attempt == UINT32_MAX && e->request_id.len == 16);
	same(mem, bytes);
	same(mem, STR(""));
	arena_free(mem);
}

/* Cut, changed, doubled, with fields from the future: as the general decoder has it. */
static void agrees_on_what_is_damaged(void **state)
{
	struct arena *mem = arena_new(0);
	struct str bytes = a_final(mem);

	for (size_t n = 0; n < bytes.n; n++)
		same(mem, str_n(bytes.p, n));
	for (int i = 0; i < 20000; i++) {
		char *copy = arena_dup(mem, bytes.p, bytes.n);

		copy[rand_u64() % bytes.n] = (char)rand_u64();
		copy[rand_u64() % bytes.n] = (char)rand_u64();
		same(mem, str_n(copy, bytes.n));
		if (i % 100 == 99) {
			arena_reset(mem);
			bytes = a_final(mem);
		}
	}
	same(mem, arena_fmt(mem, STR_FMT STR_FMT, STR_ARG(bytes), STR_ARG(bytes)));
	same(mem, STR("\xfa\x7f\x03" "new"));
	arena_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_was_packed),
		cmocka_unit_test(agrees_on_what_is_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

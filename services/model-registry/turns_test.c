/* turns_test.c - whose turn it is, told by gateways that a script makes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/model-registry/turns.h"

enum { AFTER_MS = 10000, MS = 1000 };

static struct turns *t;
static unsigned n_began;
static int64_t now;
static char whose[200];           /* "o:b " for each turn */

static void began(void *arg, const char *backend, const char *model) { n_began++; }

static int set_up(void **state)
{
	t = turns_new(began, NULL);
	n_began = 0;
	now = 1000000000;
	return 0;
}

static int tear_down(void **state)
{
	turns_free(t);
	return 0;
}

struct active { const char *backend, *model; uint32_t in_use; uint64_t wait_ms; };

static void hear(uint8_t gateway, const struct active *list, size_t n)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotActivity active[8], *at[8];
	uint8_t id[16] = { gateway };

	for (size_t i = 0; i < n; i++) {
		corral__slot_activity__init(at[i] = &active[i]);
		at[i]->backend = (char *)(uintptr_t)list[i].backend;
		at[i]->model = (char *)(uintptr_t)list[i].model;
		at[i]->in_use = list[i].in_use;
		at[i]->load_wait_ms = list[i].wait_ms;
	}
	r.gateway = (ProtobufCBinaryData){ sizeof(id), id };
	r.active = at;
	r.n_active = n;
	turns_hear(t, &r, now);
}

static const char *turns_after(int64_t ms)
{
	Corral__LeaseReply reply = CORRAL__LEASE_REPLY__INIT;
	struct arena *mem = arena_new(0);
	size_t n = 0;

	turns_put(t, ms, now, mem, &reply);
	whose[0] = '\0';
	for (size_t i = 0; i < reply.n_turns; i++)
		n += (size_t)snprintf(whose + n, sizeof(whose) - n, "%s:%s ", reply.turns[i]->backend, reply.turns[i]->model);
	arena_free(mem);
	return whose;
}

static const char *turns(void) { return turns_after(AFTER_MS); }

static void who_has_waited_long_enough_has_the_backend_until_it_was_still(void **state)
{
	hear(1, (struct active[]){ { "o", "a", 2, 0 }, { "o", "b", 1, 9999 } }, 2);
	assert_string_equal(turns(), "");
	now += 100 * MS;
	hear(1, (struct active[]){ { "o", "a", 2, 0 }, { "o", "b", 1, 10099 } }, 2);
	assert_string_equal(turns(), "o:b ");
	now += 5000 * MS;                 /* what runs takes its time */
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 15099 } }, 2);
	assert_string_equal(turns(), "o:b ");
	now += 100 * MS;
	hear(1, (struct active[]){ { "o", "b", 1, 15199 } }, 1);
	assert_string_equal(turns(), "o:b ");
	now += (TURNS_STILL_MS - 1) * MS;
	hear(1, (struct active[]){ { "o", "b", 1, 15799 } }, 1);
	assert_string_equal(turns(), "o:b ");
	now += MS;
	hear(1, (struct active[]){ { "o", "b", 1, 15800 } }, 1);
	assert_string_equal(turns(), ""); /* the engine can begin: nobody is held back for as long as it loads */
	now += (AFTER_MS - 1) * MS;
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 25799 } }, 2);
	assert_string_equal(turns(), "");
	now += MS;
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 25800 } }, 2);
	assert_string_equal(turns(), "o:b ");
	now += 100 * MS;
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 0 } }, 2);
	assert_string_equal(turns(), ""); /* it answers */
	assert_int_equal(n_began, 2);
}

static void all_gateways_have_to_be_still(void **state)
{
	hear(1, (struct active[]){ { "o", "b", 1, 20000 } }, 1);
	hear(2, (struct active[]){ { "o", "a", 3, 0 } }, 1);
	assert_string_equal(turns(), "o:b ");
	now += 1000 * MS;
	hear(1, (struct active[]){ { "o", "b", 1, 21000 } }, 1);
	hear(2, (struct active[]){ { "o", "a", 1, 0 } }, 1);
	assert_string_equal(turns(), "o:b ");
	hear(2, NULL, 0);
	assert_string_equal(turns(), "o:b ");
	now += TURNS_STILL_MS * MS;
	hear(1, (struct active[]){ { "o", "b", 1, 21600 } }, 1);
	assert_string_equal(turns(), "");
}

static void one_at_a_time_at_a_backend_and_the_oldest_first(void **state)
{
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 20000 }, { "o", "c", 1, 30000 }, { "p", "b", 1, 11000 } }, 4);
	assert_string_equal(turns(), "o:c p:b ");
	now += 100 * MS;
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 20100 }, { "o", "c", 1, 0 } }, 3);
	assert_string_equal(turns(), "o:b ");
	hear(1, (struct active[]){ { "o", "b", 1, 20100 }, { "o", "a", 1, 15000 } }, 2);  /* it was put out, and waits itself now */
	assert_string_equal(turns(), "o:b ");
	now += TURNS_STILL_MS * MS;
	hear(1, (struct active[]){ { "o", "b", 1, 20700 }, { "o", "a", 1, 15600 } }, 2);
	(void)turns();
	assert_string_equal(turns(), "o:a ");
}

static void a_gateway_that_died_holds_nobody_back(void **state)
{
	hear(1, (struct active[]){ { "o", "b", 1, 20000 } }, 1);
	hear(2, (struct active[]){ { "o", "a", 1, 0 } }, 1);
	assert_string_equal(turns(), "o:b ");
	now += 2000 * MS;
	hear(2, (struct active[]){ { "o", "a", 1, 0 } }, 1);
	assert_string_equal(turns(), "");
}

static void it_can_be_switched_off(void **state)
{
	hear(1, (struct active[]){ { "o", "a", 1, 0 }, { "o", "b", 1, 20000 } }, 2);
	assert_string_equal(turns(), "o:b ");
	assert_string_equal(turns_after(0), "");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(who_has_waited_long_enough_has_the_backend_until_it_was_still), T(all_gateways_have_to_be_still),
		T(one_at_a_time_at_a_backend_and_the_oldest_first), T(a_gateway_that_died_holds_nobody_back), T(it_can_be_switched_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* power_parts_test.c - who has which part of a machine's power; and that the slots in use never have more than it draws. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "services/model-registry/power_parts.h"

#define MS INT64_C(1000)
enum { REPLICAS = 6, GATEWAYS = 3 };

static struct power_parts *ps;
static int64_t now;
static Corral__Replica replicas[REPLICAS], *at[REPLICAS];
static Corral__ModelSnapshot snapshot;

static void replica(unsigned i, const char *backend, const char *model, uint32_t slots, bool loaded)
{
	corral__replica__init(at[i] = &replicas[i]);
	at[i]->backend = (char *)(uintptr_t)backend;
	at[i]->model = (char *)(uintptr_t)model;
	at[i]->slots = slots;
	at[i]->loaded = loaded;
	snapshot.n_replicas = i + 1;
}

static int set_up(void **state)
{
	ps = power_parts_new();
	corral__model_snapshot__init(&snapshot);
	snapshot.replicas = at;
	now = 1000000 * MS;
	return 0;
}

static int tear_down(void **state)
{
	power_parts_free(ps);
	return 0;
}

/* "a" and "b" are on one machine, "c" on another, of "d" nobody knows. */
static void make(int64_t mw)
{
	const struct machine_power list[] = { { "a", "one", mw, 900000 }, { "b", "one", mw, 900000 }, { "c", "two", mw, 500000 } };

	power_parts_make(ps, &snapshot, list, mw >= 0 ? 3 : 0, now);
}

static void later(int64_t ms, int64_t mw)
{
	now += ms * MS;
	make(mw);
}

static void use(const char *backend, const char *model)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotActivity a = CORRAL__SLOT_ACTIVITY__INIT, *list = &a;

	a.backend = (char *)(uintptr_t)backend;
	a.model = (char *)(uintptr_t)model;
	a.in_use = 1;
	r.active = &list;
	r.n_active = 1;
	power_parts_hear(ps, &r, now);
}

/* In microwatts; -1: it has none. */
static int64_t part_of(const char *backend, const char *model)
{
	Corral__LeaseReply reply = CORRAL__LEASE_REPLY__INIT;
	struct arena *mem = arena_new(0);
	int64_t uw = -1;

	power_parts_put(ps, mem, &reply);
	for (size_t i = 0; i < reply.n_parts_of_power; i++)
		if (strcmp(reply.parts_of_power[i]->backend, backend) == 0 && strcmp(reply.parts_of_power[i]->model, model) == 0)
			uw = (int64_t)reply.parts_of_power[i]->microwatts;
	arena_free(mem);
	return uw;
}

static void one_model_has_it_all(void **state)
{
	replica(0, "a", "m", 4, true);
	replica(1, "a", "on disk", 1, false);
	replica(2, "d", "m", 1, true);
	make(400000);
	assert_int_equal(part_of("a", "m"), -1);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 100000000);       /* a quarter for each slot, as of the GPU time */
	assert_int_equal(part_of("a", "on disk"), -1);
	assert_int_equal(part_of("d", "m"), -1);
	later(100, 200000);
	assert_int_equal(part_of("a", "m"), 50000000);
	later(100, -1);
	assert_int_equal(part_of("a", "m"), -1);              /* not known is no part, not one of 0 */
}

static void backends_of_a_machine_share_it(void **state)
{
	replica(0, "a", "m", 1, true);
	replica(1, "b", "m", 3, true);
	replica(2, "c", "m", 1, true);
	make(400000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 100000000);
	assert_int_equal(part_of("b", "m"), 100000000);
	assert_int_equal(part_of("c", "m"), 400000000);
}

static void who_joins_is_counted_first(void **state)
{
	replica(0, "a", "m", 1, true);
	replica(1, "b", "m", 1, false);
	make(400000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 400000000);
	use("b", "m");                                        /* not in memory as far as is known, but at work */
	later(1, 400000);
	assert_int_equal(part_of("a", "m"), 200000000);
	assert_int_equal(part_of("b", "m"), -1);
	for (int i = 0; i < 10; i++) {
		use("b", "m");
		later(PARTS_GRACE_MS / 10 + 1, 400000);
	}
	assert_int_equal(part_of("b", "m"), 200000000);
	later(PARTS_IN_USE_MS, 400000);                       /* it rests: its part goes at once, and to nobody */
	assert_int_equal(part_of("b", "m"), -1);
	assert_int_equal(part_of("a", "m"), 200000000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 400000000);
}

static void other_slots_are_other_parts(void **state)
{
	replica(0, "a", "m", 1, true);
	make(400000);
	later(PARTS_GRACE_MS, 400000);
	at[0]->slots = 4;
	later(1, 400000);
	assert_int_equal(part_of("a", "m"), -1);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 100000000);
	at[0]->slots = 2;
	later(1, 400000);
	assert_int_equal(part_of("a", "m"), 100000000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 200000000);
}

/* --- never more than it draws --- */

/* A gateway: what it heard last, of each replica, and when it asked for that. */
struct gateway { int64_t uw[REPLICAS], asked; };

static void hears(struct gateway *g, int64_t asked)
{
	for (unsigned i = 0; i < snapshot.n_replicas; i++)
		g->uw[i] = part_of(at[i]->backend, at[i]->model);
	g->asked = asked;
}

/* The slots of replicas on a machine are divided between gateways at random, all of them in use; each uses the parts that it knows, if they are not too old. */
static int64_t drawn(const struct gateway *g, const char *x, const char *y)
{
	int64_t uw = 0;

	for (unsigned i = 0; i < snapshot.n_replicas; i++)
		for (uint32_t slot = 0; slot < at[i]->slots; slot++) {
			const struct gateway *who = &g[rand() % GATEWAYS];

			if ((strcmp(at[i]->backend, x) == 0 || strcmp(at[i]->backend, y) == 0) && who->uw[i] > 0 && now < who->asked + PARTS_HOLD_MS * MS)
				uw += who->uw[i];
		}
	return uw;
}

/* Models come, go and are used; gateways hear of it at once, late or for a while not at all. The power stays, for it is its time that they may differ on. */
static void never_more_than_the_machine_draws(void **state)
{
	static const char *const backends[REPLICAS] = { "a", "a", "b", "b", "c", "c" }, *const models[REPLICAS] = { "m", "n", "m", "o", "m", "n" };
	struct gateway g[GATEWAYS] = { 0 };
	int64_t most = 0;

	srand(7);
	for (unsigned i = 0; i < REPLICAS; i++)
		replica(i, backends[i], models[i], i + 1, false);
	for (int step = 0; step < 50000; step++) {
		unsigned i = (unsigned)rand() % REPLICAS;

		if (rand() % 40 == 0)
			at[i]->loaded = !at[i]->loaded;
		if (rand() % 20 == 0)
			use(at[i]->backend, at[i]->model);
		later(rand() % 200, 600000);
		for (int k = 0; k < GATEWAYS; k++)
			if (rand() % 8 == 0)
				hears(&g[k], now - rand() % 100 * MS);
		assert_true(drawn(g, "a", "b") <= 600000000);
		assert_true(drawn(g, "c", "c") <= 600000000);
		most = drawn(g, "a", "b") > most ? drawn(g, "a", "b") : most;
	}
	assert_true(most > 590000000);                        /* and it is given away, all of it but what is cut off */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(one_model_has_it_all), T(backends_of_a_machine_share_it), T(who_joins_is_counted_first), T(other_slots_are_other_parts),
		T(never_more_than_the_machine_draws),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

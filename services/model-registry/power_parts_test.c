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
static const char *place_of_b;

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
	place_of_b = "one";
	return 0;
}

static int tear_down(void **state)
{
	power_parts_free(ps);
	return 0;
}

/* "a" and "b" are on one machine at first, "c" on another, of "d" nobody knows. */
static void make(int64_t mw)
{
	const struct machine_power list[] = { { "a", "one", mw, 900000 }, { "b", place_of_b, mw, 900000 }, { "c", "two", mw, 500000 } };

	power_parts_make(ps, &snapshot, list, mw >= 0 ? 3 : 0, now);
}

static void later(int64_t ms, int64_t mw)
{
	now += ms * MS;
	make(mw);
}

static void use_at(uint8_t gateway, uint32_t n, const char *backend, const char *model)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotActivity a = CORRAL__SLOT_ACTIVITY__INIT, *list = &a;

	a.backend = (char *)(uintptr_t)backend;
	a.model = (char *)(uintptr_t)model;
	a.in_use = n;
	r.active = &list;
	r.n_active = 1;
	r.gateway = (ProtobufCBinaryData){ 1, &gateway };
	power_parts_hear(ps, &r, now);
}

static void use(const char *backend, const char *model) { use_at(1, 1, backend, model); }

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

static void fewer_slots_and_fewer_still(void **state)
{
	replica(0, "a", "m", 6, true);
	make(600000);
	later(PARTS_GRACE_MS, 600000);
	at[0]->slots = 3;
	later(1, 600000);
	later(PARTS_GRACE_MS - 100, 600000);
	at[0]->slots = 1;
	later(200, 600000);                                   /* a gateway may have begun three a moment ago */
	assert_int_equal(part_of("a", "m"), 200000000);
	later(PARTS_GRACE_MS - 100, 600000);
	assert_int_equal(part_of("a", "m"), 200000000);
	later(100, 600000);
	assert_int_equal(part_of("a", "m"), 600000000);
}

/* Four requests go on where there are to be two: they are counted until they end. */
static void fewer_slots_than_are_in_use(void **state)
{
	replica(0, "a", "m", 4, true);
	use_at(1, 3, "a", "m");
	use_at(2, 1, "a", "m");
	make(400000);
	for (int i = 0; i < 40; i++) {
		use_at(1, 3, "a", "m");
		use_at(2, 1, "a", "m");
		at[0]->slots = i < 10 ? 4 : 2;
		later(1000, 400000);
	}
	assert_int_equal(part_of("a", "m"), 100000000);
	use_at(1, 1, "a", "m");                               /* two of them have ended */
	later(100, 400000);
	assert_int_equal(part_of("a", "m"), 100000000);
	for (int i = 0; i < 4; i++) {
		use_at(1, 1, "a", "m");
		use_at(2, 1, "a", "m");
		later(1000, 400000);
	}
	assert_int_equal(part_of("a", "m"), 200000000);
	use_at(3, 2, "a", "m");                               /* one that was not heard for long has two more: nothing for anybody until that is counted */
	assert_int_equal(part_of("a", "m"), -1);
	for (int i = 0; i < 5; i++) {
		for (uint8_t k = 1; k <= 3; k++)
			use_at(k, k == 3 ? 2 : 1, "a", "m");
		later(1000, 400000);
	}
	assert_int_equal(part_of("a", "m"), 100000000);
}

static void another_machine_is_joined_anew(void **state)
{
	replica(0, "a", "m", 1, true);
	replica(1, "b", "m", 1, true);
	replica(2, "c", "m", 1, true);
	make(400000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("b", "m"), 200000000);
	assert_int_equal(part_of("c", "m"), 400000000);
	place_of_b = "two";
	later(1, 400000);
	assert_int_equal(part_of("b", "m"), -1);
	assert_int_equal(part_of("a", "m"), 200000000);       /* gateways may still use what b had */
	assert_int_equal(part_of("c", "m"), 200000000);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("b", "m"), 200000000);
	assert_int_equal(part_of("a", "m"), 400000000);
	assert_int_equal(part_of("c", "m"), 200000000);
}

/* A probe that is silent for a moment, and for longer. */
static void a_machine_that_is_not_heard(void **state)
{
	replica(0, "a", "m", 2, true);
	make(400000);
	later(PARTS_GRACE_MS, 400000);
	later(1, -1);
	assert_int_equal(part_of("a", "m"), -1);
	later(PARTS_GRACE_MS - 1, 400000);
	assert_int_equal(part_of("a", "m"), 200000000);
	later(1, -1);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), -1);
	later(PARTS_GRACE_MS, 400000);
	assert_int_equal(part_of("a", "m"), 200000000);
}

static void a_peak_is_forgotten(void **state)
{
	const int64_t minute = 60000 * MS;
	struct power_peak p = { 0 };

	power_peak_note(&p, 900, minute);
	power_peak_note(&p, 200, 29 * minute);
	assert_int_equal(power_peak_of(&p), 900);
	power_peak_note(&p, 200, 40 * minute);
	assert_int_equal(power_peak_of(&p), 900);
	power_peak_note(&p, 300, 71 * minute);
	assert_int_equal(power_peak_of(&p), 300);
	power_peak_note(&p, 100, 1000 * minute);
	assert_int_equal(power_peak_of(&p), 100);
}

/* --- never more than it draws --- */

/* A gateway: its attempts, and what it heard last of each replica, of which machine, and when it asked for that. */
struct gateway { uint32_t running[REPLICAS], slots[REPLICAS]; int64_t uw[REPLICAS], asked; const char *of[REPLICAS]; };

static const char *place(unsigned i)
{
	return at[i]->backend[0] == 'a' ? "one" : at[i]->backend[0] == 'b' ? place_of_b : "two";
}

/* Its report says what it has in use, and the answer is what is known now or was at the last making. */
static void hears(struct gateway *all, unsigned k, int64_t asked)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotActivity a[REPLICAS], *list[REPLICAS];
	struct gateway *g = &all[k];
	uint8_t id = (uint8_t)(k + 1);

	r.gateway = (ProtobufCBinaryData){ 1, &id };
	r.active = list;
	for (unsigned i = 0; i < REPLICAS; i++) {
		if (!g->running[i])
			continue;
		corral__slot_activity__init(list[r.n_active] = &a[r.n_active]);
		list[r.n_active]->backend = at[i]->backend;
		list[r.n_active]->model = at[i]->model;
		list[r.n_active++]->in_use = g->running[i];
	}
	power_parts_hear(ps, &r, now);
	if (rand() % 2)
		make(600000);
	for (unsigned i = 0; i < REPLICAS; i++) {
		g->uw[i] = part_of(at[i]->backend, at[i]->model);
		g->of[i] = place(i);
	}
	g->asked = asked;
}

static uint32_t running(const struct gateway *all, unsigned i)
{
	uint32_t n = 0;

	for (unsigned k = 0; k < GATEWAYS; k++)
		n += all[k].running[i];
	return n;
}

/* Attempts begin where there is a slot, and end; they stay when there are fewer slots. A gateway that knows of more slots does not use the part of one of fewer. */
static void begin_and_end(struct gateway *all)
{
	for (unsigned k = 0; k < GATEWAYS; k++)
		for (unsigned i = 0; i < REPLICAS; i++) {
			if (all[k].running[i] && rand() % 40 == 0)
				all[k].running[i]--;
			if (all[k].slots[i] > at[i]->slots)
				all[k].slots[i] = at[i]->slots;
			if (running(all, i) >= at[i]->slots || rand() % 4)
				continue;
			if (all[k].slots[i] < at[i]->slots)
				all[k].uw[i] = 0;
			all[k].slots[i] = at[i]->slots;
			all[k].running[i]++;
		}
}

/* Each attempt has the part that its gateway knows, if that is not too old. */
static int64_t drawn(const struct gateway *all, const char *machine)
{
	int64_t uw = 0;

	for (unsigned k = 0; k < GATEWAYS; k++)
		for (unsigned i = 0; i < REPLICAS; i++)
			if (all[k].of[i] && strcmp(all[k].of[i], machine) == 0 && all[k].uw[i] > 0 && now < all[k].asked + PARTS_HOLD_MS * MS)
				uw += all[k].running[i] * all[k].uw[i];
	return uw;
}

/* Models come, go and are used, have more slots or fewer while requests run, and a backend moves; gateways hear of it at once, late or for a while not at all.
 * The power stays, for it is its time that they may differ on. */
static void never_more_than_the_machine_draws(void **state)
{
	static const char *const backends[REPLICAS] = { "a", "a", "b", "b", "c", "c" }, *const models[REPLICAS] = { "m", "n", "m", "o", "m", "n" };
	struct gateway all[GATEWAYS] = { 0 };
	int64_t most = 0;

	srand(7);
	for (unsigned i = 0; i < REPLICAS; i++)
		replica(i, backends[i], models[i], i + 1, false);
	for (int step = 0; step < 50000; step++) {
		unsigned i = (unsigned)rand() % REPLICAS;

		if (rand() % 60 == 0)
			at[i]->loaded = !at[i]->loaded;
		if (rand() % 60 == 0)
			at[i]->slots = 1 + (uint32_t)rand() % REPLICAS;
		if (rand() % 400 == 0)
			place_of_b = strcmp(place_of_b, "one") == 0 ? "two" : "one";
		begin_and_end(all);
		later(rand() % 200, 600000);
		for (unsigned k = 0; k < GATEWAYS; k++)
			if (rand() % (step / 500 % 4 ? 2 : 30) == 0)
				hears(all, k, now - rand() % 100 * MS);
		assert_true(drawn(all, "one") <= 600000000);
		assert_true(drawn(all, "two") <= 600000000);
		most = drawn(all, "one") > most ? drawn(all, "one") : most;
	}
	assert_true(most > 590000000);                        /* and it is given away, all of it but what is cut off */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(one_model_has_it_all), T(backends_of_a_machine_share_it), T(who_joins_is_counted_first), T(other_slots_are_other_parts),
		T(fewer_slots_and_fewer_still), T(fewer_slots_than_are_in_use), T(another_machine_is_joined_anew), T(a_machine_that_is_not_heard), T(a_peak_is_forgotten),
		T(never_more_than_the_machine_draws),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

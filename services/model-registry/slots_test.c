/* slots_test.c - slots are divided, handed on, taken back, and never lent twice; also under random demand with lost replies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "services/model-registry/slots.h"

enum { G = 4, MS = 1000 };

/* A gateway as lease.c is one, with one replica. */
struct gate {
	uint8_t id[16];
	uint64_t seq, epoch;
	bool alone, whole, leaving;
	uint32_t slots, in_use, waiting;
	uint32_t claimed_held, claimed_wanted;
	bool claimed;
	uint32_t tenants[2];          /* requests of each, in use and waiting; not said where both are 0 */
	uint32_t parts[2];            /* as told, in thousandths */
};

static struct slots *s;
static struct gate g[G];
static int64_t now;
static uint32_t total;
static uint32_t said;                 /* what gateways say that there are; 0 = nothing */

static void set_total(uint32_t n)
{
	Corral__ModelSnapshot snapshot = CORRAL__MODEL_SNAPSHOT__INIT;
	Corral__Replica replica = CORRAL__REPLICA__INIT, *list[] = { &replica };

	replica.backend = (char *)"b";
	replica.model = (char *)"m";
	replica.slots = total = n;
	snapshot.replicas = list;
	snapshot.n_replicas = 1;
	slots_set_totals(s, &snapshot);
}

static int set_up(void **state)
{
	now = 1000000;
	s = slots_new(7, false, now);
	memset(g, 0, sizeof(g));
	for (int i = 0; i < G; i++)
		g[i].id[0] = (uint8_t)(i + 1);
	said = 0;
	set_total(2);
	return 0;
}

static int tear_down(void **state)
{
	slots_free(s);
	return 0;
}

static uint32_t held(const struct gate *gate)
{
	uint32_t slots = gate->alone ? total : gate->slots;

	return gate->in_use > slots ? gate->in_use : slots;
}

static const char *const names[] = { "north", "south" };

static void put_demand(const struct gate *gate, struct arena *mem, Corral__LeaseRequest *r)
{
	Corral__ModelDemand *demand = arena_new_of(mem, Corral__ModelDemand);

	corral__model_demand__init(demand);
	demand->model = (char *)"m";
	demand->tenants = arena_array(mem, Corral__TenantDemand *, 2);
	for (int i = 0; i < 2; i++) {
		Corral__TenantDemand *t = arena_new_of(mem, Corral__TenantDemand);

		corral__tenant_demand__init(t);
		t->tenant = (char *)names[i];
		t->wanted = gate->tenants[i];
		if (t->wanted)
			demand->tenants[demand->n_tenants++] = t;
	}
	r->demands = arena_array(mem, Corral__ModelDemand *, 1);
	r->demands[r->n_demands++] = demand;
}

static void hear_parts(struct gate *gate, const Corral__LeaseReply *reply)
{
	gate->parts[0] = gate->parts[1] = 1000;
	for (size_t i = 0; i < reply->n_parts; i++)
		gate->parts[strcmp(reply->parts[i]->tenant, "north") != 0] = reply->parts[i]->milli;
}

/* One report; 'lost': its reply never comes. */
static void report(struct gate *gate, bool lost)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__SlotClaim claim = CORRAL__SLOT_CLAIM__INIT, *claims[] = { &claim };
	Corral__LeaseReply reply = CORRAL__LEASE_REPLY__INIT;
	uint32_t h = held(gate), w = gate->in_use + gate->waiting;
	struct arena *mem = arena_new(0);
	struct why why;

	r.gateway = (ProtobufCBinaryData){ 16, gate->id };
	r.seq = ++gate->seq;
	r.epoch = gate->epoch;
	r.whole = gate->whole && !gate->alone;
	r.leaving = gate->leaving;
	if (!gate->alone && (gate->epoch || r.whole) && (r.whole || !gate->claimed || gate->claimed_held != h || gate->claimed_wanted != w)) {
		claim.backend = (char *)"b", claim.model = (char *)"m", claim.held = h, claim.wanted = w, claim.total = said;
		r.claims = claims, r.n_claims = 1;
		gate->claimed = true, gate->claimed_held = h, gate->claimed_wanted = w;
	}
	if (gate->tenants[0] + gate->tenants[1] && !gate->alone)
		put_demand(gate, mem, &r);
	assert_int_equal(slots_lease(s, &r, now, mem, &reply, &why), ERR_OK);
	hear_parts(gate, &reply);
	if (lost) {
		gate->whole = true;
	} else {
		if (gate->alone && !reply.everything)
			gate->slots = total;
		gate->alone = reply.everything;
		gate->epoch = reply.epoch;
		gate->whole = reply.ask_whole;
		for (size_t i = 0; i < reply.n_grants; i++)
			gate->slots = reply.grants[i]->slots;
	}
	arena_free(mem);
}

static void rounds(int n, int gates)
{
	for (int k = 0; k < n; k++) {
		for (int i = 0; i < gates; i++)
			report(&g[i], false);
		now += 20 * MS;
		slots_tick(s, now);
	}
}

static void the_first_has_everything_at_once(void **state)
{
	report(&g[0], false);
	assert_true(g[0].alone);
	assert_int_equal(slots_lent(s, "b", "m"), 2);
}

static void a_second_gets_what_the_first_does_not_use(void **state)
{
	report(&g[0], false);
	report(&g[1], false);
	report(&g[1], false);
	assert_int_equal(g[1].slots, 0);          /* the first has not said what it uses */
	rounds(4, 2);
	assert_int_equal(g[0].slots, 1);
	assert_int_equal(g[1].slots, 1);
}

/* A provider in the cloud: the registry knows of it by the gateways alone, and forgets nothing when its own backends change. */
static void what_gateways_say_is_divided_too(void **state)
{
	Corral__ModelSnapshot none = CORRAL__MODEL_SNAPSHOT__INIT;

	slots_set_totals(s, &none);
	total = said = 4;
	rounds(5, 2);
	assert_int_equal(g[0].slots + g[1].slots, 4);
	assert_int_equal(slots_lent(s, "b", "m"), 4);
	slots_set_totals(s, &none);
	rounds(2, 2);
	assert_int_equal(g[0].slots + g[1].slots, 4);
	g[0].waiting = 4;
	rounds(5, 2);
	assert_int_equal(g[0].slots, 4);
	g[0].waiting = 0;
	said = 2;
	g[0].claimed = g[1].claimed = false;
	rounds(5, 2);
	assert_int_equal(g[0].slots + g[1].slots, 2);
	set_total(3);                             /* of what is in the catalogue the registry knows better */
	g[0].claimed = g[1].claimed = false;
	rounds(5, 2);
	assert_int_equal(g[0].slots + g[1].slots, 3);
}

static void idle_slots_go_to_who_waits(void **state)
{
	rounds(6, 2);
	g[0].in_use = 1, g[0].waiting = 5;
	rounds(3, 2);
	assert_int_equal(g[0].slots, 2);
	assert_int_equal(g[1].slots, 0);
}

static void a_slot_in_use_is_not_lent_again_until_it_is_free(void **state)
{
	report(&g[0], false);
	g[0].in_use = 2;
	g[1].waiting = 3;
	rounds(10, 2);
	assert_int_equal(g[0].slots, 1);          /* takes no more, and two still run */
	assert_int_equal(g[1].slots, 0);
	g[0].in_use = 1;
	rounds(3, 2);
	assert_int_equal(g[1].slots, 1);
}

static void one_slot_goes_round(void **state)
{
	int64_t had[3] = { 0 };

	set_total(1);
	rounds(6, 3);
	for (int k = 0; k < 3000; k++) {
		for (int i = 0; i < 3; i++) {
			g[i].in_use = g[i].slots;         /* requests of 20 ms, one after another */
			g[i].waiting = 4;
			had[i] += g[i].in_use;
		}
		rounds(1, 3);
	}
	for (int i = 0; i < 3; i++)
		assert_in_range(had[i], 800, 1100);
}

/* Two gateways whose requests take 20 ms; inside each gateway its tenants get time by their parts (replicas.c does it). What each had, in percent. */
static void serve(const uint32_t (*clients)[2], int rounds_n, double *ret_north, double *ret_first)
{
	double had[2][2] = { 0 };

	for (int k = 0; k < rounds_n; k++) {
		for (int i = 0; i < 2; i++) {
			double part[2] = { clients[i][0] ? g[i].parts[0] : 0, clients[i][1] ? g[i].parts[1] : 0 };

			memcpy(g[i].tenants, clients[i], sizeof(g[i].tenants));
			g[i].in_use = g[i].slots < clients[i][0] + clients[i][1] ? g[i].slots : clients[i][0] + clients[i][1];
			g[i].waiting = clients[i][0] + clients[i][1] - g[i].in_use;
			for (int t = 0; t < 2; t++)
				had[i][t] += g[i].in_use * part[t] / (part[0] + part[1]);
		}
		rounds(1, 2);
	}
	*ret_north = 100 * (had[0][0] + had[1][0]) / (had[0][0] + had[0][1] + had[1][0] + had[1][1]);
	*ret_first = 100 * (had[0][0] + had[0][1]) / (had[0][0] + had[0][1] + had[1][0] + had[1][1]);
}

static void tenants_get_the_same_wherever_their_clients_are(void **state)
{
	static const struct { uint32_t clients[2][2], total, first; } cases[] = {
		{ { { 20, 5 }, { 25, 0 } }, 2, 72 },      /* the first is due all of the one and 20/45 of the other */
		{ { { 40, 10 }, { 10, 40 } }, 2, 50 }, { { { 40, 10 }, { 10, 40 } }, 1, 50 }, { { { 45, 0 }, { 0, 5 } }, 2, 50 },
		{ { { 98, 0 }, { 1, 1 } }, 1, 49 }, { { { 30, 7 }, { 11, 2 } }, 5, 75 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		double north, first;

		set_total(cases[i].total);
		rounds(6, 2);
		serve(cases[i].clients, 3000, &north, &first);
		assert_in_range((int)(north + 0.5), 49, 51);
		assert_in_range((int)(first + 0.5), cases[i].first - 1, cases[i].first + 1);
	}
}

static void who_wants_less_leaves_the_rest_to_the_other(void **state)
{
	static const uint32_t clients[2][2] = { { 1, 0 }, { 0, 30 } };
	double north, first;

	set_total(4);
	rounds(6, 2);
	serve(clients, 500, &north, &first);
	assert_in_range((int)(north + 0.5), 24, 26);
}

/* One that is due a fiftieth gets it request by request, and not half a second every half minute. */
static void a_small_part_is_not_waited_for_long(void **state)
{
	static const uint32_t clients[2][2] = { { 98, 0 }, { 2, 0 } };
	int without = 0, longest = 0;
	double north, first;

	set_total(1);
	rounds(6, 2);
	for (int k = 0; k < 3000; k++) {
		serve(clients, 1, &north, &first);
		without = first < 50 ? 0 : without + 1;
		longest = without > longest ? without : longest;
	}
	assert_in_range(longest, 20, 250);        /* rounds of 20 ms: one in fifty is its own, and a turn takes two or three */
}

static void the_dead_give_back_within_two_seconds(void **state)
{
	int64_t before;

	rounds(6, 2);
	g[1].in_use = 1;
	g[0].waiting = g[1].waiting = 5;
	g[0].in_use = 1;
	rounds(3, 2);
	before = now;
	while (!g[0].alone && now < before + 3000 * MS)
		rounds(1, 1);
	assert_in_range(now - before, 0, 2000 * MS);
}

static void who_leaves_keeps_only_what_it_uses(void **state)
{
	rounds(6, 2);
	g[0].leaving = true;
	g[0].in_use = 1;
	rounds(4, 2);
	assert_int_equal(g[0].slots, 1);
	g[0].in_use = 0;
	rounds(4, 2);
	assert_int_equal(g[0].slots, 0);
	assert_int_equal(g[1].slots, 2);
}

static void after_a_restart_claims_come_before_lending(void **state)
{
	rounds(6, 2);
	g[0].in_use = 1, g[1].in_use = 1;
	slots_free(s);
	s = slots_new(8, true, now);
	g[0].waiting = 10;
	rounds(10, 1);                            /* the other is not heard yet, and still has its slot */
	assert_int_equal(g[0].slots, 1);
	set_total(2);
	rounds(10, 1);
	assert_int_equal(g[0].slots, 1);
	rounds(80, 2);
	assert_int_equal(g[0].slots, 1);
	assert_int_equal(g[1].slots, 1);
}

static struct str id_list(struct buf *b, unsigned first, unsigned end)
{
	buf_clear(b);
	for (unsigned i = first; i < end; i++)
		buf_add(b, g[i].id, 16);
	return buf_as_str(b);
}

/* Who is known to hold something is waited for, also beyond a lease time; when all are back, there is nothing to wait for. */
static void after_a_restart_those_known_are_waited_for(void **state)
{
	struct buf ids = { 0 }, known = { 0 };

	rounds(6, 2);
	assert_true(slots_known(s, now, &known));
	assert_int_equal(known.n, 32);
	g[0].in_use = 1, g[1].in_use = 1;
	slots_free(s);
	s = slots_new(8, true, now);
	assert_false(slots_known(s, now, &known));
	slots_expect(s, id_list(&ids, 0, 2), now);
	set_total(2);
	g[0].waiting = 10;
	rounds(90, 1);                            /* 1.8 s */
	assert_int_equal(g[0].slots, 1);
	buf_clear(&known);
	assert_true(slots_known(s, now, &known));
	assert_int_equal(known.n, 32);            /* a second restart would wait for it too */
	g[1].in_use = 0;
	rounds(5, 2);
	assert_int_equal(g[0].slots, 2);          /* at once */
	buf_free(&ids);
	buf_free(&known);
}

static void after_a_restart_the_dead_are_not_waited_for_long(void **state)
{
	struct buf ids = { 0 };

	rounds(6, 2);
	g[0].in_use = 1;
	slots_free(s);
	s = slots_new(8, true, now);
	slots_expect(s, id_list(&ids, 0, 2), now);
	set_total(2);
	g[0].waiting = 10;
	rounds(140, 1);                           /* 2.8 s */
	assert_int_equal(held(&g[0]), 2);
	slots_free(s);
	s = slots_new(9, true, now);
	slots_expect(s, id_list(&ids, 0, 0), now);        /* all had left */
	set_total(2);
	rounds(2, 1);
	assert_int_equal(held(&g[0]), 2);
	buf_free(&ids);
}

static void nobody_dies_because_the_registry_stood_still(void **state)
{
	rounds(6, 2);
	g[1].in_use = 1;
	now += 5000 * MS;
	slots_tick(s, now);
	assert_int_equal(slots_holders(s), 2);
	rounds(3, 2);
	assert_int_equal(g[1].slots, 1);
}

static void old_requests_are_refused(void **state)
{
	Corral__LeaseRequest r = CORRAL__LEASE_REQUEST__INIT;
	Corral__LeaseReply reply = CORRAL__LEASE_REPLY__INIT;
	struct why why;

	r.gateway = (ProtobufCBinaryData){ 16, g[0].id };
	r.seq = 5;
	assert_int_equal(slots_lease(s, &r, now, NULL, &reply, &why), ERR_OK);
	assert_int_equal(slots_lease(s, &r, now, NULL, &reply, &why), ERR_INVALID);
	r.gateway.len = 3;
	r.seq = 6;
	assert_int_equal(slots_lease(s, &r, now, NULL, &reply, &why), ERR_INVALID);
}

/* Random demand, lost replies, totals that grow, a holder that dies: what may be in use never exceeds what there is. */
static void never_more_than_there_are(void **state)
{
	uint32_t most = 0;

	srand(42);
	set_total(5);
	for (int k = 0; k < 20000; k++) {
		struct gate *gate = &g[rand() % G];
		uint32_t may = 0, limit = gate->alone ? total : gate->slots;

		if (gate->in_use && rand() % 3 == 0)
			gate->in_use--;
		while (gate->waiting && gate->in_use < limit) {
			gate->in_use++;
			gate->waiting--;
		}
		if (rand() % 4 == 0)
			gate->waiting += (uint32_t)(rand() % 4);
		report(gate, rand() % 7 == 0);
		now += rand() % 20 * MS;
		if (k % 10 == 0)
			slots_tick(s, now);
		for (int i = 0; i < G; i++)
			may += held(&g[i]);
		assert_true(may <= total);
		most = may > most ? may : most;
	}
	assert_int_equal(most, total);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(the_first_has_everything_at_once), T(a_second_gets_what_the_first_does_not_use), T(what_gateways_say_is_divided_too), T(idle_slots_go_to_who_waits),
		T(a_slot_in_use_is_not_lent_again_until_it_is_free), T(one_slot_goes_round), T(tenants_get_the_same_wherever_their_clients_are),
		T(who_wants_less_leaves_the_rest_to_the_other), T(a_small_part_is_not_waited_for_long), T(the_dead_give_back_within_two_seconds),
		T(who_leaves_keeps_only_what_it_uses), T(after_a_restart_claims_come_before_lending),
		T(after_a_restart_those_known_are_waited_for), T(after_a_restart_the_dead_are_not_waited_for_long),
		T(nobody_dies_because_the_registry_stood_still), T(old_requests_are_refused), T(never_more_than_there_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

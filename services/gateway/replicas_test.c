/* replicas_test.c - slots are never overdrawn, freed slots reach waiters in order, leaving costs nothing; also from many threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "services/gateway/replicas.h"
#include "services/gateway/slot_bank.h"

static struct metrics *metrics;
static struct replica_table *table;
static struct replica_state *s;
static struct loop *loop;
static struct replica_state *got[8];
static int n_got;

static void granted(struct req *r, struct replica_state *state)
{
	got[(intptr_t)r % 8] = state;
	n_got++;
}

static int set_up(void **state)
{
	metrics = metrics_new(gateway_metrics, M_COUNT);
	table = replica_table_new(metrics);
	s = replica_state_get(table, STR("b"), STR("m"), 2);
	loop = loop_new();
	memset(got, 0, sizeof(got));
	n_got = 0;
	return 0;
}

static int tear_down(void **state)
{
	loop_free(loop);
	replica_table_free(table);
	metrics_free(metrics);
	return 0;
}

static void stop(struct loop_timer *t) { loop_stop(t->loop); }

static void turn(void)
{
	struct loop_timer t = { 0 };

	loop_timer_set(loop, &t, 5000, stop);
	loop_run(loop);
}

static struct waiter *join_as(const char *tenant, intptr_t who, uint32_t max)
{
	struct replica_state *now;
	struct waiter *w = queue_join(s->queue, str_of(tenant), (struct req *)who, loop, &s, 1, max, granted, &now, NULL);

	assert_null(now);
	return w;
}

static struct waiter *join(intptr_t who, uint32_t max) { return join_as("t", who, max); }

static void slots_are_bounded(void **state)
{
	assert_true(slot_take(s) && slot_take(s));
	assert_false(slot_take(s));
	slot_free(s, 1000);
	assert_true(slot_take(s));
}

/* Another model of the backend has its turn. */
static void what_is_held_back_waits_and_goes_on(void **state)
{
	struct replica_state *other = replica_state_get(table, STR("b2"), STR("m"), 1);
	struct replica_turn turn_of_n = { "b", "n" }, own = { "b", "m" };

	replica_table_turns(table, &turn_of_n, 1);
	assert_false(slot_take(s));
	assert_true(slot_take(other));
	join(1, 8);
	turn();
	assert_int_equal(n_got, 0);
	replica_table_turns(table, &own, 1);
	turn();
	assert_int_equal(n_got, 1);
	assert_ptr_equal(got[1], s);
	slot_free(s, 1000);
	slot_free(other, 1000);
}

static void who_waits_for_a_load_is_known(void **state)
{
	assert_int_equal(slot_load_wait_us(s, 5000), 0);
	slot_asked(s, 1000);
	assert_int_equal(slot_load_wait_us(s, 5000), 0);  /* its backend does not load */
	s->loads = true;
	assert_int_equal(slot_load_wait_us(s, 5000), 4000);
	slot_asked(s, 3000);
	assert_int_equal(slot_load_wait_us(s, 5000), 4000);
	slot_answered(s, 4500);
	assert_int_equal(slot_load_wait_us(s, 5000), 500);
	s->resident = true;
	assert_int_equal(slot_load_wait_us(s, 5000), 0);
	s->resident = false;
	slot_answered(s, 4600);
	assert_int_equal(slot_load_wait_us(s, 5000), 0);
}

static void the_same_pair_is_the_same_state(void **state)
{
	assert_ptr_equal(replica_state_get(table, STR("b"), STR("m"), 5), s);
	assert_int_equal(atomic_load(&s->slots), 5);
	assert_ptr_not_equal(replica_state_get(table, STR("b2"), STR("m"), 1), s);
	assert_ptr_equal(replica_state_get(table, STR("b2"), STR("m"), 1)->queue, s->queue);
}

static void waiters_are_served_in_order(void **state)
{
	slot_take(s), slot_take(s);
	join(1, 10), join(2, 10);
	assert_int_equal(atomic_load(&s->queue->n), 2);
	slot_free(s, 1000);
	turn();
	assert_int_equal(n_got, 1);
	assert_ptr_equal(got[1], s);
	slot_free(s, 1000);
	turn();
	assert_ptr_equal(got[2], s);
	assert_int_equal(atomic_load(&s->in_use), 2);
}

/* As in an upgrade in place: a table in each program, one bank. */
static void two_programs_never_have_more_than_there_are(void **state)
{
	struct slot_bank *before = slot_bank_new(-1), *after = slot_bank_new(dup(slot_bank_fd(before)));
	struct replica_table *tables[2] = { replica_table_new(metrics), replica_table_new(metrics) };
	struct replica_state *old, *new, *now;
	struct waiter *w;

	replica_table_bank(tables[0], before);
	replica_table_bank(tables[1], after);
	old = replica_state_get(tables[0], STR("b"), STR("m"), 2);
	new = replica_state_get(tables[1], STR("b"), STR("m"), 2);
	assert_true(slot_take(old));
	assert_true(slot_take(new));
	assert_false(slot_take(old));
	assert_false(slot_take(new));
	assert_int_equal(slots_in_use(new), 2);
	w = queue_join(new->queue, STR("t"), (struct req *)1, loop, &new, 1, 10, granted, &now, NULL);
	assert_non_null(w);
	slot_free(old, 1000);
	replica_table_look(tables[1]);
	turn();
	assert_ptr_equal(got[1], new);
	assert_true(!slot_take(old) && !slot_take(new));
	slot_free(new, 1000), slot_free(new, 1000);
	assert_true(slot_take(old) && slot_take(old) && !slot_take(new));
	replica_table_free(tables[0]);            /* it was killed with two in use */
	slot_bank_free(before);
	assert_false(slot_take(new));
	assert_true(slot_bank_alone(after));
	assert_true(slot_take(new) && slot_take(new) && !slot_take(new));
	replica_table_free(tables[1]);
	slot_bank_free(after);
}

static void a_full_queue_refuses(void **state)
{
	struct waiter *w;

	slot_take(s), slot_take(s);
	w = join(1, 1);
	assert_non_null(w);
	assert_null(join(2, 1));
	queue_leave(w);
	assert_int_equal(atomic_load(&s->queue->n), 0);
}

static void leaving_with_a_slot_on_its_way_gives_it_back(void **state)
{
	struct waiter *w;

	slot_take(s), slot_take(s);
	w = join(1, 10);
	slot_free(s, 1000);               /* granted, not delivered yet */
	queue_leave(w);
	turn();
	assert_int_equal(n_got, 0);
	assert_int_equal(atomic_load(&s->in_use), 1);
}

static void a_slot_freed_before_joining_is_taken_at_once(void **state)
{
	struct replica_state *now;

	slot_take(s);
	assert_null(queue_join(s->queue, STR("t"), (struct req *)1, loop, &s, 1, 10, granted, &now, NULL));
	assert_ptr_equal(now, s);
	assert_int_equal(atomic_load(&s->queue->n), 0);
}

static void who_can_use_a_free_slot_does_not_wait_for_who_cannot(void **state)
{
	struct replica_state *small = replica_state_get(table, STR("small"), STR("m"), 1), *both[2] = { s, small }, *now;
	struct waiter *w;

	slot_take(s), slot_take(s);
	w = join(1, 10);                  /* for s alone: the other's context is too small, say */
	assert_null(queue_join(s->queue, STR("t"), (struct req *)2, loop, both, 2, 10, granted, &now, NULL));
	assert_ptr_equal(now, small);
	assert_int_equal(atomic_load(&s->queue->n), 1);
	queue_leave(w);
}

static void more_slots_reach_all_who_wait(void **state)
{
	slot_take(s), slot_take(s);
	join(1, 10), join(2, 10), join(3, 10);
	replica_state_get(table, STR("b"), STR("m"), 4);
	turn();
	assert_int_equal(n_got, 2);
	assert_int_equal(atomic_load(&s->in_use), 4);
	atomic_store(&s->slots, 6);       /* a slot that is freed finds more free ones */
	join(4, 10);
	slot_free(s, 0);
	turn();
	assert_int_equal(n_got, 4);
}

static void waits_are_predicted_from_service_times(void **state)
{
	struct waiter *w[7];

	assert_int_equal(queue_predict_us(&s, 1, STR("t")), 0);
	slot_take(s);
	slot_free(s, 1000000);
	assert_int_equal(queue_predict_us(&s, 1, STR("t")), 500000);       /* two slots, a second each */
	slot_take(s), slot_take(s);
	for (int i = 0; i < 6; i++)
		w[i] = join_as("many", 1, 20);
	w[6] = join_as("few", 2, 20);
	assert_int_equal(queue_predict_us(&s, 1, STR("many")), 4000000);  /* behind all seven */
	assert_int_equal(queue_predict_us(&s, 1, STR("few")), 2000000);   /* behind its own, and two of the others */
	assert_int_equal(queue_predict_us(&s, 1, STR("none")), 1500000);  /* behind one of each */
	for (int i = 0; i < 7; i++)
		queue_leave(w[i]);
}

/* --- tenants: clients that ask again as soon as they were answered, on two slots, in a time of their own --- */

enum { TENANTS = 2, CLIENTS = 64 };

static struct {
	int served[TENANTS], freed;
	int64_t had_us[TENANTS], hold_us[TENANTS], now_us;
	struct { int tenant, client; int64_t ends_us, charged_us; } slot[2];
	struct waiter *waiters[TENANTS][CLIENTS];
} sim;

static const char *const names[TENANTS] = { "many", "few" };

static void sim_granted(struct req *r, struct replica_state *state)
{
	int tenant = (int)((intptr_t)r - 1000) / 100, client = (int)(intptr_t)r % 100, i = sim.freed;

	sim.slot[i].tenant = tenant;
	sim.slot[i].client = client;
	sim.slot[i].charged_us = sim.waiters[tenant][client]->charged_us;
	sim.waiters[tenant][client] = NULL;
	sim.slot[i].ends_us = sim.now_us + sim.hold_us[tenant];
	sim.had_us[tenant] += sim.hold_us[tenant];
	sim.served[tenant]++;
}

static const struct tenant_part *sim_parts;
static size_t sim_n_parts;

static void sim_join(int tenant, int client)
{
	struct replica_state *now;

	sim.waiters[tenant][client] = queue_join(s->queue, str_of(names[tenant]), (struct req *)(intptr_t)(1000 + tenant * 100 + client), loop, &s, 1, 200,
						  sim_granted, &now, NULL);
	assert_null(now);
	replica_table_parts(table, sim_parts, sim_n_parts);
}

static void stop_now(void *arg) { loop_stop(loop); }

static void sim_step(void)
{
	int i = sim.freed = sim.slot[0].ends_us <= sim.slot[1].ends_us ? 0 : 1, tenant = sim.slot[i].tenant, client = sim.slot[i].client;

	sim.now_us = sim.slot[i].ends_us;
	if (tenant >= 0)
		queue_settle(s->queue, str_of(names[tenant]), sim.hold_us[tenant] - sim.slot[i].charged_us);
	slot_free(s, tenant >= 0 ? sim.hold_us[tenant] : 0);
	loop_post(loop, stop_now, NULL);  /* behind the slot's delivery */
	loop_run(loop);
	if (tenant >= 0)
		sim_join(tenant, client);
}

static void simulate(int many, int few, int64_t many_us, int64_t few_us, int steps)
{
	memset(&sim, 0, sizeof(sim));
	sim.hold_us[0] = many_us;
	sim.hold_us[1] = few_us;
	sim.slot[0].tenant = sim.slot[1].tenant = -1;
	slot_take(s), slot_take(s);
	for (int c = 0; c < many; c++)
		sim_join(0, c);
	for (int c = 0; c < few; c++)
		sim_join(1, c);
	while (steps--)
		sim_step();
	for (int c = 0; c < CLIENTS; c++) {
		queue_leave(sim.waiters[0][c]);
		queue_leave(sim.waiters[1][c]);
	}
}

static void forty_clients_get_no_more_than_ten(void **state)
{
	simulate(40, 10, 30000, 30000, 1000);
	assert_in_range(sim.served[0], 495, 505);
	assert_int_equal(sim.served[0] + sim.served[1], 1000);
}

static void time_is_shared_not_requests(void **state)
{
	simulate(40, 10, 10000, 90000, 2000);
	assert_true(sim.served[0] > 8 * sim.served[1]);
	assert_in_range(100 * sim.had_us[0] / (sim.had_us[0] + sim.had_us[1]), 48, 52);
}

static void who_was_away_has_saved_nothing_up(void **state)
{
	simulate(20, 0, 30000, 30000, 400);
	simulate(20, 4, 30000, 30000, 100);
	assert_in_range(sim.served[1], 45, 55);
}

/* Half of the one's requests are at another gateway: it is served half as often here. */
static void a_tenant_that_is_elsewhere_too_has_its_part(void **state)
{
	const struct tenant_part parts[] = { { "other", "many", 10 }, { "m", "many", 500 } };

	sim_parts = parts;
	sim_n_parts = 2;
	simulate(40, 10, 30000, 30000, 900);
	assert_in_range(sim.served[0], 295, 305);
	assert_in_range(sim.served[1], 595, 605);
	sim_n_parts = 0;
	simulate(40, 10, 30000, 30000, 1000);     /* and no longer, when it is not told any more */
	assert_in_range(sim.served[0], 490, 510);
}

struct said { char names[4][8]; uint32_t wanted[4]; int n; };

static void hear_tenant(void *arg, struct str tenant, uint32_t wanted)
{
	struct said *said = arg;

	str_copy(said->names[said->n], sizeof(said->names[0]), tenant);
	said->wanted[said->n++] = wanted;
}

static void demand_is_what_waits_and_what_is_in_use(void **state)
{
	struct replica_state *now;
	struct said said = { 0 };
	int64_t charged = 0;
	uint64_t changes;
	struct waiter *w;

	assert_null(queue_join(s->queue, STR("north"), (struct req *)1, loop, &s, 1, 10, granted, &now, &charged));
	assert_true(now == s && charged == 0);    /* all slots are ours: it costs nobody anything */
	replica_table_share(table);
	replica_table_valid(table, INT64_MAX);
	assert_null(queue_join(s->queue, STR("north"), (struct req *)1, loop, &s, 1, 10, granted, &now, &charged));
	assert_true(now == s && charged > 0);
	w = join_as("north", 2, 10);
	queue_leave(join_as("south", 3, 10));
	changes = queue_demand(s->queue, hear_tenant, &said);
	assert_int_equal(said.n, 1);
	assert_string_equal(said.names[0], "north");
	assert_int_equal(said.wanted[0], 2);
	queue_leave(w);
	queue_settle(s->queue, STR("north"), 100 - charged);
	slot_free(s, 100);
	said.n = 0;
	assert_true(queue_demand(s->queue, hear_tenant, &said) != changes && said.n == 0);
}

/* A grant on its way to one who leaves costs his tenant nothing. */
static void what_was_not_used_is_not_counted(void **state)
{
	struct said said = { 0 };
	struct waiter *w;

	slot_take(s), slot_take(s);
	w = join_as("north", 1, 10);
	slot_free(s, 1000);
	queue_leave(w);
	turn();
	queue_demand(s->queue, hear_tenant, &said);
	assert_int_equal(said.n, 0);
	assert_int_equal(atomic_load(&s->in_use), 1);
}

static int lost;
static void grant_or_lose(struct req *r, struct replica_state *state) { lost += !state; }

static void a_full_queue_makes_room_for_who_has_less(void **state)
{
	struct replica_state *now;
	struct waiter *w[12];

	lost = 0;
	slot_take(s), slot_take(s);
	for (int i = 0; i < 10; i++)
		w[i] = queue_join(s->queue, STR("many"), (struct req *)1, loop, &s, 1, 10, grant_or_lose, &now, NULL);
	assert_null(queue_join(s->queue, STR("many"), (struct req *)1, loop, &s, 1, 10, grant_or_lose, &now, NULL));
	for (int i = 0; i < 2; i++)
		w[10 + i] = queue_join(s->queue, STR("few"), (struct req *)1, loop, &s, 1, 10, grant_or_lose, &now, NULL);
	assert_true(w[10] && w[11]);
	assert_int_equal(atomic_load(&s->queue->n), 10);
	turn();
	assert_int_equal(lost, 2);        /* the newest of those that are many */
	for (int i = 2; i < 5; i++)
		assert_non_null(queue_join(s->queue, STR("few"), (struct req *)1, loop, &s, 1, 10, grant_or_lose, &now, NULL));
	assert_null(queue_join(s->queue, STR("few"), (struct req *)1, loop, &s, 1, 10, grant_or_lose, &now, NULL));
	turn();
	assert_int_equal(lost, 5);
	for (int i = 0; i < 5; i++)
		queue_leave(w[i]);
	queue_leave(w[10]), queue_leave(w[11]);
	assert_int_equal(atomic_load(&s->queue->n), 3);
	slot_free(s, 1), slot_free(s, 1), slot_free(s, 1);
	turn();
}

/* --- many threads, each a worker with its own loop --- */

enum { THREADS = 4, ROUNDS = 2000 };
struct player { pthread_t thread; struct loop *loop; int left; _Atomic int *highest; };

static void play(void *arg);

static void release(struct player *p)
{
	int now = (int)atomic_load(&s->in_use), high = atomic_load(p->highest);

	while (now > high && !atomic_compare_exchange_weak(p->highest, &high, now))
		;
	slot_free(s, 10);
	if (--p->left)
		loop_post(p->loop, play, p);
	else
		loop_stop(p->loop);
}

static void player_granted(struct req *r, struct replica_state *state)
{
	(void)state;
	release((struct player *)(void *)r);
}

static void play(void *arg)
{
	struct player *p = arg;
	struct replica_state *now = slot_take(s) ? s : NULL;

	if (!now && queue_join(s->queue, STR("t"), (struct req *)arg, p->loop, &s, 1, 100, player_granted, &now, NULL))
		return;
	release(p);
}

static void *player_main(void *arg)
{
	struct player *p = arg;

	loop_post(p->loop, play, p);
	loop_run(p->loop);
	return NULL;
}

static void threads_share_slots_and_nobody_starves(void **state)
{
	struct player p[THREADS];
	_Atomic int highest = 0;

	for (int i = 0; i < THREADS; i++) {
		p[i] = (struct player){ .loop = loop_new(), .left = ROUNDS, .highest = &highest };
		pthread_create(&p[i].thread, NULL, player_main, &p[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(p[i].thread, NULL);
		loop_free(p[i].loop);
	}
	assert_true(atomic_load(&highest) <= 2);
	assert_int_equal(atomic_load(&s->in_use), 0);
	assert_int_equal(atomic_load(&s->queue->n), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(slots_are_bounded), T(what_is_held_back_waits_and_goes_on), T(who_waits_for_a_load_is_known),
		T(the_same_pair_is_the_same_state), T(waiters_are_served_in_order), T(a_full_queue_refuses),
		T(leaving_with_a_slot_on_its_way_gives_it_back), T(a_slot_freed_before_joining_is_taken_at_once),
		T(who_can_use_a_free_slot_does_not_wait_for_who_cannot), T(more_slots_reach_all_who_wait),
		T(waits_are_predicted_from_service_times), T(forty_clients_get_no_more_than_ten), T(time_is_shared_not_requests),
		T(who_was_away_has_saved_nothing_up), T(a_tenant_that_is_elsewhere_too_has_its_part),
		T(two_programs_never_have_more_than_there_are), T(demand_is_what_waits_and_what_is_in_use), T(what_was_not_used_is_not_counted),
		T(a_full_queue_makes_room_for_who_has_less), T(threads_share_slots_and_nobody_starves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* replicas_test.c - slots are never overdrawn, freed slots reach waiters in order, leaving costs nothing; also from many threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "services/gateway/replicas.h"

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

static struct waiter *join(intptr_t who, uint32_t max)
{
	struct replica_state *now;
	struct waiter *w = queue_join(s->queue, (struct req *)who, loop, &s, 1, max, granted, &now);

	assert_null(now);
	return w;
}

static void slots_are_bounded(void **state)
{
	assert_true(slot_take(s) && slot_take(s));
	assert_false(slot_take(s));
	slot_free(s, 1000);
	assert_true(slot_take(s));
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
	assert_null(queue_join(s->queue, (struct req *)1, loop, &s, 1, 10, granted, &now));
	assert_ptr_equal(now, s);
	assert_int_equal(atomic_load(&s->queue->n), 0);
}

static void who_can_use_a_free_slot_does_not_wait_for_who_cannot(void **state)
{
	struct replica_state *small = replica_state_get(table, STR("small"), STR("m"), 1), *both[2] = { s, small }, *now;
	struct waiter *w;

	slot_take(s), slot_take(s);
	w = join(1, 10);                  /* for s alone: the other's context is too small, say */
	assert_null(queue_join(s->queue, (struct req *)2, loop, both, 2, 10, granted, &now));
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
	assert_int_equal(queue_predict_us(&s, 1), 0);
	slot_take(s);
	slot_free(s, 1000000);
	assert_int_equal(queue_predict_us(&s, 1), 500000);       /* two slots, a second each */
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

	if (!now && queue_join(s->queue, (struct req *)arg, p->loop, &s, 1, 100, player_granted, &now))
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
		T(slots_are_bounded), T(the_same_pair_is_the_same_state), T(waiters_are_served_in_order), T(a_full_queue_refuses),
		T(leaving_with_a_slot_on_its_way_gives_it_back), T(a_slot_freed_before_joining_is_taken_at_once),
		T(who_can_use_a_free_slot_does_not_wait_for_who_cannot), T(more_slots_reach_all_who_wait),
		T(waits_are_predicted_from_service_times), T(threads_share_slots_and_nobody_starves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

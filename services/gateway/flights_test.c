/* flights_test.c - one leads, the others wait: on several loops at once, with leaders that fail and followers that leave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "services/gateway/flights.h"

enum { THREADS = 4, ROUNDS = 3000, KEYS = 5, AT_ONCE = 8 };

static struct flights *flights;
static _Atomic unsigned leaders[KEYS], answers, alones, leads, left, wrong, finished;

/* --- one after another --- */

struct one { struct flight_place *place; enum flight_news news; struct cached *answer; unsigned told; };
static struct loop *loop;

static void news(void *arg, enum flight_news n, struct cached *c)
{
	struct one *o = arg;

	o->news = n;
	o->answer = c;
	o->told++;
	if (n != FLIGHT_LEAD)
		o->place = NULL;
}

static void stop(void *arg) { loop_stop(arg); }

static void turn(void)
{
	for (unsigned i = 0; i < 3; i++) {
		loop_post(loop, stop, loop);
		loop_run(loop);
	}
}

static bool join(struct one *o, uint8_t key)
{
	uint8_t k[CACHE_KEY_BYTES] = { key };
	bool leading;

	*o = (struct one){ 0 };
	o->place = flight_join(flights, k, loop, news, o, &leading);
	assert_non_null(o->place);
	return leading;
}

static struct cached *value(uint8_t key)
{
	uint8_t k[CACHE_KEY_BYTES] = { key };

	return cached_new(k, 1, 2, STR("answer"));
}

static int open_one(void **state)
{
	flights = flights_new();
	loop = loop_new();
	return 0;
}

static int close_one(void **state)
{
	loop_free(loop);
	flights_free(flights);
	return 0;
}

static void the_answer_is_everybodys(void **state)
{
	struct one o[4];
	struct cached *c = value(1);

	assert_true(join(&o[0], 1));
	for (unsigned i = 1; i < 4; i++)
		assert_false(join(&o[i], 1));
	flight_leave(o[2].place);
	flight_landed(o[0].place, c);
	assert_true(join(&o[0], 1));              /* what comes now is a new flight */
	flight_leave(o[0].place);
	turn();
	assert_int_equal(o[2].told, 0);
	for (unsigned i = 1; i < 4; i += 2) {
		assert_int_equal(o[i].told, 1);
		assert_int_equal(o[i].news, FLIGHT_ANSWER);
		assert_ptr_equal(o[i].answer, c);
		cached_unref(o[i].answer);
	}
	assert_int_equal(c->refs, 1);
	cached_unref(c);
}

static void without_an_answer_everybody_goes_alone(void **state)
{
	struct one o[2];

	assert_true(join(&o[0], 1));
	assert_false(join(&o[1], 1));
	flight_landed(o[0].place, NULL);
	turn();
	assert_int_equal(o[1].news, FLIGHT_ALONE);
	assert_null(o[1].answer);
}

static void who_waits_longest_leads_next(void **state)
{
	struct one o[4];
	struct cached *c = value(1);

	for (unsigned i = 0; i < 4; i++)
		join(&o[i], 1);
	flight_leave(o[0].place);
	flight_leave(o[1].place);                 /* its turn was on its way to it */
	turn();
	assert_int_equal(o[1].told, 0);
	assert_int_equal(o[2].news, FLIGHT_LEAD);
	assert_int_equal(o[3].told, 0);
	flight_landed(o[2].place, c);
	turn();
	assert_int_equal(o[3].news, FLIGHT_ANSWER);
	cached_unref(o[3].answer);
	cached_unref(c);
	assert_true(join(&o[0], 1));
	flight_leave(o[0].place);
	flight_leave(NULL);
}

static void different_questions_do_not_meet(void **state)
{
	struct one a, b;

	assert_true(join(&a, 1));
	assert_true(join(&b, 2));
	flight_leave(a.place);
	flight_leave(b.place);
}

static void what_is_on_its_way_when_all_ends_is_given_back(void **state)
{
	static struct one o[3];
	struct cached *c = value(1);

	for (unsigned i = 0; i < 3; i++)
		join(&o[i], 1);
	flight_leave(o[1].place);
	flight_landed(o[0].place, c);
	cached_unref(c);
	join(&o[0], 3);                           /* the loop never turns again: ASan sees to the rest */
}

/* --- all at once --- */

struct worker {
	struct loop *loop;
	struct loop_timer again;
	uint32_t rng;
	unsigned begun, running;
};

struct asker { struct worker *w; struct flight_place *place; struct loop_timer timer; uint8_t key; bool leads; };

static void begin(struct loop_timer *t);

/* The lead may be on its way to one that has left, and goes from there to somebody else's loop: so each turns until all are done. */
static void wait_for_others(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, again);

	if (finished == THREADS)
		loop_stop(w->loop);
	else
		loop_timer_set(w->loop, t, 1000, wait_for_others);
}

static void ended(struct asker *a)
{
	struct worker *w = a->w;
	bool last = w->begun == ROUNDS && w->running == 1;

	loop_timer_del(&a->timer);
	free(a);
	w->running--;
	if (last)
		atomic_fetch_add(&finished, 1);
	loop_timer_set(w->loop, &w->again, 0, last ? wait_for_others : begin);
}

static uint32_t chance(struct worker *w, uint32_t of)
{
	w->rng = w->rng * 1664525u + 1013904223u;
	return (w->rng >> 8) % of;
}

static void act(struct loop_timer *t)
{
	struct asker *a = list_entry(t, struct asker, timer);
	uint8_t key[CACHE_KEY_BYTES] = { a->key };
	struct cached *c = NULL;

	if (a->leads) {
		atomic_fetch_sub(&leaders[a->key], 1);
		if (chance(a->w, 3) == 0) {
			flight_leave(a->place);
		} else {
			c = chance(a->w, 4) ? cached_new(key, 1, 2, STR("x")) : NULL;
			flight_landed(a->place, c);
			cached_unref(c);
		}
	} else {
		atomic_fetch_add(&left, 1);
		flight_leave(a->place);
	}
	ended(a);
}

static void lead(struct asker *a)
{
	a->leads = true;
	if (atomic_fetch_add(&leaders[a->key], 1) != 0)
		atomic_fetch_add(&wrong, 1);      /* two at a time */
	loop_timer_set(a->w->loop, &a->timer, chance(a->w, 200), act);
}

static void told(void *arg, enum flight_news n, struct cached *c)
{
	struct asker *a = arg;

	if (n == FLIGHT_LEAD) {
		atomic_fetch_add(&leads, 1);
		lead(a);
		return;
	}
	atomic_fetch_add(n == FLIGHT_ANSWER ? &answers : &alones, 1);
	if ((n == FLIGHT_ANSWER) != (c != NULL) || (c && c->key[0] != a->key))
		atomic_fetch_add(&wrong, 1);
	cached_unref(c);
	ended(a);
}

static void begin_one(struct worker *w)
{
	struct asker *a = x_calloc(1, sizeof(*a));
	uint8_t key[CACHE_KEY_BYTES] = { 0 };
	bool leading;

	a->w = w;
	a->key = key[0] = (uint8_t)chance(w, KEYS);
	w->begun++;
	w->running++;
	a->place = flight_join(flights, key, w->loop, told, a, &leading);
	if (leading)
		lead(a);
	else if (chance(w, 3) == 0)
		loop_timer_set(w->loop, &a->timer, chance(w, 300), act);
}

static void begin(struct loop_timer *t)
{
	struct worker *w = list_entry(t, struct worker, again);

	while (w->running < AT_ONCE && w->begun < ROUNDS)
		begin_one(w);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	loop_timer_set(w->loop, &w->again, 0, begin);
	loop_run(w->loop);
	return NULL;
}

static void on_many_loops_there_is_one_leader_and_nobody_is_forgotten(void **state)
{
	struct worker workers[THREADS] = { 0 };
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].loop = loop_new();
		workers[i].rng = i + 1;
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < THREADS; i++)
		loop_free(workers[i].loop);
	assert_int_equal(wrong, 0);
	assert_true(answers > 0 && alones > 0 && leads > 0 && left > 0);
}

#define ONE(f) cmocka_unit_test_setup_teardown(f, open_one, close_one)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ONE(the_answer_is_everybodys), ONE(without_an_answer_everybody_goes_alone), ONE(who_waits_longest_leads_next), ONE(different_questions_do_not_meet),
		ONE(what_is_on_its_way_when_all_ends_is_given_back), ONE(on_many_loops_there_is_one_leader_and_nobody_is_forgotten),
	};

	clock_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* share_test.c - what all gateways use of a limit together is never more than the limit, whoever comes, goes, stays silent or loses answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/id.h"
#include "common/policy/rate_limit.h"
#include "services/access/share.h"

#define SECOND INT64_C(1000000)
#define MS INT64_C(1000)
static const int64_t valid_us = SHARE_VALID_MS * MS;

struct say { uint64_t limit, used, held, want, in_flight; bool alone, leaving; };

struct told { uint64_t given, others, in_flight; bool alone; uint32_t gateways; };

static Corral__Units requests(uint64_t n, uint64_t in_flight)
{
	Corral__Units u = CORRAL__UNITS__INIT;

	u.requests = n;
	u.in_flight = in_flight;
	return u;
}

/* One scope; with a limit of 0 only "here I am". */
static struct told ask(struct shares *s, const char *gateway, struct say say, int64_t now_us)
{
	Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
	Corral__ScopeDemand d = CORRAL__SCOPE_DEMAND__INIT, *list[1] = { &d };
	Corral__Units limit = requests(say.limit, say.limit), used = requests(say.used, say.in_flight), held = requests(say.held, say.in_flight),
		want = requests(say.want, say.want);
	struct arena *mem = arena_new(0);
	Corral__ShareReply reply;
	struct told told;

	q.gateway = (char *)gateway;
	q.alone = say.alone;
	q.leaving = say.leaving;
	q.n_scopes = say.limit != 0;
	q.scopes = list;
	d.scope = (char *)"key:x";
	d.limit = &limit;
	d.used = &used;
	d.held = &held;
	d.want = &want;
	assert_int_equal(shares_ask(s, &q, now_us, mem, &reply, NULL), ERR_OK);
	assert_int_equal(reply.n_scopes, q.n_scopes);
	assert_int_equal(reply.valid_ms, SHARE_VALID_MS);
	told = (struct told){ .alone = reply.alone, .gateways = reply.gateways };
	if (say.limit) {
		assert_string_equal(reply.scopes[0]->scope, "key:x");
		told.given = reply.scopes[0]->given->requests;
		told.in_flight = reply.scopes[0]->given->in_flight;
		told.others = reply.scopes[0]->others->requests;
	}
	arena_free(mem);
	return told;
}

#define ASK(gateway, now, ...) ask(s, gateway, (struct say){ __VA_ARGS__ }, now)

static void one_gateway_alone_has_all(void **state)
{
	struct shares *s = shares_new(0);

	assert_true(ASK("a", 0, 0).alone);
	assert_true(ASK("a", SECOND, .alone = true).alone);
	assert_int_equal(shares_gateways(s, SECOND), 1);
	assert_int_equal(shares_gateways(s, SECOND + valid_us), 0);
	shares_free(s);
}

static void two_get_what_they_need(void **state)
{
	struct shares *s = shares_new(0);
	struct told a, b;

	ASK("a", 0, 0);
	b = ASK("b", 1 * MS, .limit = 10, .want = 5);
	assert_false(b.alone);
	assert_int_equal(b.given, 0);                                  /* the other does not know yet that it is not alone */
	assert_false(ASK("a", 2 * MS, .alone = true).alone);
	assert_int_equal(ASK("b", 3 * MS, .limit = 10, .want = 5).given, 0);
	a = ASK("a", 4 * MS, .limit = 10, .used = 4, .want = 3);
	assert_int_equal(a.given, 7);
	b = ASK("b", 5 * MS, .limit = 10, .want = 5);
	assert_int_equal(b.given, 3);
	assert_int_equal(b.others, 4);
	a = ASK("a", 6 * MS, .limit = 10, .used = 4, .held = 7, .want = 0);      /* it needs no more, and has used nothing more */
	assert_int_equal(a.given, 4);
	assert_int_equal(ASK("b", 7 * MS, .limit = 10, .held = 3, .want = 9).given, 3);   /* but may have used it before it heard that */
	ASK("a", 8 * MS, .limit = 10, .used = 4, .held = 4);
	assert_int_equal(ASK("b", 9 * MS, .limit = 10, .held = 3, .want = 9).given, 6);
	shares_free(s);
}

static void what_a_dead_one_used_counts_for_its_minute(void **state)
{
	struct shares *s = shares_new(0);
	int64_t t = 0;

	ASK("a", t, 0);
	ASK("b", t, 0);
	ASK("a", t, .limit = 10, .want = 6);
	ASK("a", t, .limit = 10, .used = 5, .held = 6, .want = 1, .in_flight = 4);
	assert_int_equal(ASK("b", t, .limit = 10, .want = 10).given, 4);
	assert_int_equal(ASK("b", t, .limit = 10, .held = 4, .want = 10).in_flight, 5);
	for (t = SECOND; t < 60 * SECOND; t += SECOND) {
		struct told b = ASK("b", t, .limit = 10, .used = 2, .held = 4, .want = 10);

		assert_false(b.alone);
		assert_int_equal(b.given, 4);
		assert_int_equal(b.in_flight, t < valid_us ? 5 : 10);  /* what it had under way is over */
	}
	assert_true(ASK("b", 66 * SECOND, .limit = 10, .used = 2, .held = 4, .want = 10).alone);
	shares_free(s);
}

static void one_that_leaves_makes_room_at_once(void **state)
{
	struct shares *s = shares_new(0);

	ASK("a", 0, 0);
	ASK("a", 1 * MS, .leaving = true);
	assert_true(ASK("b", 2 * MS, 0).alone);
	ASK("b", 3 * MS, .leaving = true, .limit = 10, .used = 8);
	assert_int_equal(ASK("c", 4 * MS, .limit = 10, .want = 10).given, 2);
	shares_free(s);
}

static void after_a_start_all_may_speak_first(void **state)
{
	struct shares *s = shares_new(valid_us);

	assert_int_equal(ASK("b", 1 * MS, .limit = 10, .used = 2, .held = 5, .want = 9).given, 5);
	assert_int_equal(ASK("c", 2 * MS, .limit = 10, .want = 9).given, 0);
	assert_int_equal(ASK("b", valid_us + 1, .limit = 10, .used = 2, .held = 5, .want = 9).given, 10);
	shares_free(s);
	s = shares_new(valid_us);
	assert_true(ASK("a", 1 * MS, .alone = true).alone);            /* who was alone stays so */
	shares_free(s);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct shares *s = shares_new(0);
	Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
	struct arena *mem = arena_new(0);
	Corral__ShareReply reply;
	char name[300];

	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_INVALID);
	for (int i = 0; i < SHARE_MOST_GATEWAYS; i++) {
		snprintf(name, sizeof(name), "g%d", i);
		ASK(name, 0, 0);
	}
	q.gateway = (char *)"one more";
	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_UNAVAILABLE);
	assert_int_equal(shares_ask(s, &q, valid_us, mem, &reply, NULL), ERR_OK);
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	q.gateway = name;
	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_INVALID);
	arena_free(mem);
	ASK("b", INT64_C(1) << 40, .limit = UINT64_MAX, .used = UINT64_MAX, .held = UINT64_MAX, .want = UINT64_MAX);
	assert_int_equal(ASK("c", INT64_C(1) << 40, .limit = UINT64_MAX, .want = 7).given, 0);
	shares_free(s);
}

/* --- gateways that take at random, whose asks take time and get lost, that die and are started again --- */

enum { GATEWAYS = 4, LIMIT = 30, STEPS = 60000 };

struct toy {
	char name[16];
	bool lives, alone;
	int64_t valid_until_us, next_ask_us, answer_us;       /* answer_us: when it arrives; 0 = none is on its way */
	struct told told;
	struct rate_window used;
	uint64_t given, wanted;
	int64_t asked_us;
	bool lost;
};

struct world { struct shares *shares; struct toy toys[GATEWAYS]; struct rate_window all; int64_t now, up_us; uint64_t granted, born; bool deaths; };

/* The same run each time, but for who sets SHARE_SEED. (splitmix64) */
static uint64_t seed;

static uint64_t below(uint64_t n)
{
	uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % n;
}

static void is_born(struct world *w, struct toy *g)
{
	*g = (struct toy){ .lives = true, .next_ask_us = w->now };
	snprintf(g->name, sizeof(g->name), "g%llu", (unsigned long long)++w->born);
}

static void try_to_take(struct world *w, struct toy *g)
{
	bool valid = w->now <= g->valid_until_us;
	uint64_t most = !valid ? 0 : g->alone ? LIMIT : g->given;

	g->wanted++;
	if (rate_used(&g->used, w->now) >= most)
		return;
	rate_add(&g->used, w->now, 1);
	rate_add(&w->all, w->now, 1);
	w->granted++;
	assert_true(rate_used(&w->all, w->now) <= LIMIT);
}

static void send(struct world *w, struct toy *g)
{
	struct say say = { .limit = LIMIT, .used = rate_used(&g->used, w->now), .held = g->given, .want = g->wanted, .alone = g->alone };

	if (g->alone)
		say = (struct say){ .alone = true };
	g->wanted = 0;
	g->asked_us = w->now;
	g->answer_us = w->now + (int64_t)below(40) * MS;
	g->lost = below(10) == 0 || w->now < w->up_us;
	if (w->now >= w->up_us && below(20))                   /* else the question itself is lost */
		g->told = ask(w->shares, g->name, say, w->now);
	else
		g->lost = true;
}

static void hear(struct world *w, struct toy *g)
{
	g->answer_us = 0;
	g->next_ask_us = w->now + 200 * MS;
	if (g->lost)
		return;
	if (g->alone && !g->told.alone)
		g->next_ask_us = w->now;
	g->given = g->alone || g->told.alone ? 0 : g->told.given;
	g->alone = g->told.alone;
	g->valid_until_us = g->asked_us + valid_us;
}

static void step(struct world *w)
{
	w->now += (int64_t)below(10) * MS;
	for (struct toy *g = w->toys; g < w->toys + GATEWAYS; g++) {
		if (!g->lives) {
			if (below(3000) == 0)
				is_born(w, g);
			continue;
		}
		if (g->answer_us && w->now >= g->answer_us)
			hear(w, g);
		else if (!g->answer_us && w->now >= g->next_ask_us)
			send(w, g);
		if (below(30) == 0)
			try_to_take(w, g);
		if (w->deaths && !g->alone && below(20000) == 0)       /* one alone takes its knowledge with it */
			g->lives = false;
	}
}

/* What a dead gateway used is known to access alone: not both within a minute. */
static void run(bool deaths, bool restarts)
{
	struct world w = { .shares = shares_new(0), .now = 100 * SECOND, .deaths = deaths };

	for (int i = 0; i < STEPS; i++) {
		step(&w);
		if (restarts && below(10000) == 0) {           /* access is started again, knowing nothing */
			shares_free(w.shares);
			w.up_us = w.now + (int64_t)below(2000) * MS;
			w.shares = shares_new(w.up_us + valid_us);
		}
	}
	assert_in_range(w.granted, 60, 40 * LIMIT);            /* and it is no brake: of some 240 s */
	shares_free(w.shares);
}

static void together_they_never_use_more_than_the_limit(void **state)
{
	for (int i = 0; i < 5; i++)
		run(true, false);
}

static void nor_while_access_is_started_again(void **state)
{
	for (int i = 0; i < 5; i++)
		run(false, true);
}

int main(void)
{
	const char *said = getenv("SHARE_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_gateway_alone_has_all),
		cmocka_unit_test(two_get_what_they_need),
		cmocka_unit_test(what_a_dead_one_used_counts_for_its_minute),
		cmocka_unit_test(one_that_leaves_makes_room_at_once),
		cmocka_unit_test(after_a_start_all_may_speak_first),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(together_they_never_use_more_than_the_limit),
		cmocka_unit_test(nor_while_access_is_started_again),
	};

	seed = said ? strtoull(said, NULL, 10) : 11;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

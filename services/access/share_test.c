/* share_test.c - the shares that are valid at one time never add up to more than one limit, whoever comes, goes or stays silent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/access/share.h"

#define SECOND 1000000LL

static Corral__ScopeDemand demand(const char *scope, double requests, uint32_t in_flight)
{
	Corral__ScopeDemand d = CORRAL__SCOPE_DEMAND__INIT;

	d.scope = (char *)scope;
	d.requests_per_s = requests;
	d.in_flight = in_flight;
	return d;
}

static double floor_told;

/* One scope's share, or with scope NULL only "here I am". */
static double ask(struct shares *s, const char *gateway, const char *scope, double requests, uint32_t in_flight, int64_t now_us)
{
	Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
	Corral__ScopeDemand d = demand(scope, requests, in_flight), *list[1] = { &d };
	struct arena *mem = arena_new(0);
	Corral__ShareReply reply;
	double share = -1;

	q.gateway = (char *)gateway;
	q.n_scopes = scope != NULL;
	q.scopes = list;
	assert_int_equal(shares_ask(s, &q, now_us, mem, &reply, NULL), ERR_OK);
	assert_int_equal(reply.n_scopes, q.n_scopes);
	assert_int_equal(reply.valid_ms, SHARE_VALID_MS);
	if (scope) {
		assert_string_equal(reply.scopes[0]->scope, scope);
		share = reply.scopes[0]->share;
	}
	floor_told = reply.floor;
	arena_free(mem);
	return share;
}

static void near(double got, double want, int line)
{
	if (got < want - 1e-6 || got > want + 1e-6)
		fail_msg("line %d: %f is not %f", line, got, want);
}
#define assert_near(got, want) near(got, want, __LINE__)

static void one_gateway_alone_has_all(void **state)
{
	struct shares *s = shares_new(NULL, NULL);

	assert_near(ask(s, "a", "key:x", 0, 0, 0), 1);
	assert_near(floor_told, 1);
	assert_near(ask(s, "a", "key:x", 100, 5, SECOND), 1);
	shares_free(s);
}

static void two_have_what_they_need(void **state)
{
	struct shares *s = shares_new(NULL, NULL);
	int64_t t = 0;
	double a = 0, b = 0;

	for (int i = 0; i < 4; i++, t += SECOND) {
		a = ask(s, "a", "key:x", 30, 0, t);
		b = ask(s, "b", "key:x", 10, 0, t + SECOND / 2);
		assert_true(a + b <= 1.000001 || i == 0);
	}
	assert_near(a, 0.05 + 0.9 * 0.75);
	assert_near(b, 0.05 + 0.9 * 0.25);
	shares_free(s);
}

/* What the first was given is its own until it has been told otherwise. */
static void a_newcomer_waits_until_there_is_room(void **state)
{
	struct shares *s = shares_new(NULL, NULL);

	assert_near(ask(s, "a", "key:x", 10, 0, 0), 1);
	assert_near(ask(s, "b", "key:x", 10, 0, SECOND / 2), 0);
	assert_near(floor_told, 0);
	assert_near(ask(s, "a", "key:x", 10, 0, SECOND), 0.5);
	assert_near(ask(s, "b", "key:x", 10, 0, SECOND * 3 / 2), 0.5);
	assert_near(floor_told, 0.05);
	shares_free(s);
}

static void a_silent_one_loses_its_share(void **state)
{
	struct shares *s = shares_new(NULL, NULL);

	ask(s, "a", "key:x", 10, 0, 0);
	ask(s, "b", "key:x", 10, 0, 1);
	ask(s, "a", "key:x", 10, 0, SECOND);
	assert_near(ask(s, "b", "key:x", 10, 0, 2 * SECOND), 0.5);
	assert_int_equal(shares_gateways(s, 2 * SECOND), 2);
	assert_near(ask(s, "b", "key:x", 10, 0, 4 * SECOND - 1), 0.5);
	assert_near(ask(s, "b", "key:x", 10, 0, 4 * SECOND), 1);
	assert_int_equal(shares_gateways(s, 4 * SECOND), 1);
	assert_int_equal(shares_gateways(s, 7 * SECOND), 0);
	shares_free(s);
}

static void a_clock_that_went_back_keeps_nobody(void **state)
{
	struct shares *s = shares_new(NULL, NULL);

	ask(s, "a", "key:x", 10, 0, 100 * SECOND);
	assert_int_equal(shares_gateways(s, 50 * SECOND), 0);
	assert_near(ask(s, "b", "key:x", 10, 0, 50 * SECOND), 1);
	shares_free(s);
}

static uint32_t ten(void *arg, const char *scope) { return strcmp(scope, "key:x") == 0 ? 10 : 0; }

/* Requests under way end when they end: until then the others have the rest. */
static void what_is_under_way_counts(void **state)
{
	struct shares *s = shares_new(ten, NULL);
	int64_t t = 0;

	ask(s, "b", NULL, 0, 0, t);
	ask(s, "a", "key:x", 10, 9, t + 1);
	for (int i = 0; i < 4; i++)
		ask(s, "a", "key:x", 10, 9, t += SECOND / 2);
	assert_true(ask(s, "b", "key:x", 10, 1, t + 1) <= 0.101);
	ask(s, "a", "key:x", 10, 1, t += SECOND / 2);
	assert_true(ask(s, "b", "key:x", 10, 1, t + 1) > 0.3);
	shares_free(s);
}

/* What a gateway did not name it may use up to its floor; it is kept free. */
static void the_unnamed_have_their_floor(void **state)
{
	struct shares *s = shares_new(NULL, NULL);

	ask(s, "a", NULL, 0, 0, 0);
	ask(s, "b", NULL, 0, 0, 1);
	ask(s, "a", NULL, 0, 0, SECOND);
	assert_near(floor_told, 0.05);
	ask(s, "b", NULL, 0, 0, SECOND + 1);
	assert_near(ask(s, "a", "key:x", 10, 0, 2 * SECOND), 0.95);
	assert_near(ask(s, "b", "key:y", 0, 0, 2 * SECOND + 1), 0.95);
	shares_free(s);
}

struct told { double share[8], floor; int64_t until_us; };

/* Gateways of random needs that come, ask now and then, and vanish: at no time do valid shares exceed the whole. */
static void shares_never_exceed_the_whole(void **state)
{
	enum { GATEWAYS = 6, SCOPES = 3 };
	struct shares *s = shares_new(NULL, NULL);
	struct told told[GATEWAYS] = { 0 };
	struct arena *mem = arena_new(0);
	int64_t t = SECOND;

	srandom(5);
	for (int round = 0; round < 20000; round++, t += random() % (SECOND / 2)) {
		Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
		Corral__ScopeDemand d[SCOPES], *list[SCOPES];
		static const char *const names[SCOPES] = { "key:x", "key:y", "tenant:z" };
		int g = (int)(random() % GATEWAYS);
		char name[2] = { (char)('a' + g), '\0' };
		Corral__ShareReply reply;

		q.gateway = name;
		q.scopes = list;
		for (int i = 0; i < SCOPES; i++)
			if (random() % 3) {
				d[i] = demand(names[i], (double)(random() % 50), (uint32_t)(random() % 5));
				list[q.n_scopes++] = &d[i];
			}
		assert_int_equal(shares_ask(s, &q, t, mem, &reply, NULL), ERR_OK);
		told[g].floor = reply.floor;
		told[g].until_us = t + SHARE_VALID_MS * 1000;
		for (int i = 0; i < SCOPES; i++) {
			told[g].share[i] = reply.floor;
			for (size_t k = 0; k < reply.n_scopes; k++)
				if (strcmp(reply.scopes[k]->scope, names[i]) == 0)
					told[g].share[i] = reply.scopes[k]->share;
		}
		for (int i = 0; i < SCOPES; i++) {
			double sum = 0;

			for (int k = 0; k < GATEWAYS; k++)
				sum += told[k].until_us > t ? told[k].share[i] : 0;
			if (sum > 1.000001)
				fail_msg("round %d: %s adds up to %f", round, names[i], sum);
		}
		arena_reset(mem);
	}
	arena_free(mem);
	shares_free(s);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct shares *s = shares_new(NULL, NULL);
	Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
	struct arena *mem = arena_new(0);
	Corral__ShareReply reply;
	char name[16];

	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_INVALID);
	q.gateway = (char *)"a";
	q.n_scopes = SHARE_MOST_SCOPES + 1;
	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_TOO_LARGE);
	for (int i = 0; i < SHARE_MOST_GATEWAYS; i++) {
		snprintf(name, sizeof(name), "g%d", i);
		ask(s, name, "key:x", -5, 0, 0);
	}
	q.n_scopes = 0;
	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_UNAVAILABLE);
	q.gateway = (char *)"g7";
	assert_int_equal(shares_ask(s, &q, 0, mem, &reply, NULL), ERR_OK);
	arena_free(mem);
	shares_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_gateway_alone_has_all),
		cmocka_unit_test(two_have_what_they_need),
		cmocka_unit_test(a_newcomer_waits_until_there_is_room),
		cmocka_unit_test(a_silent_one_loses_its_share),
		cmocka_unit_test(a_clock_that_went_back_keeps_nobody),
		cmocka_unit_test(what_is_under_way_counts),
		cmocka_unit_test(the_unnamed_have_their_floor),
		cmocka_unit_test(shares_never_exceed_the_whole),
		cmocka_unit_test(what_makes_no_sense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

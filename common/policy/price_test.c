/* price_test.c - what an attempt costs, to the micro-dollar, and which price counts when. */
#include "common/policy/price.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct price tokens_of(const char *provider, const char *model, int64_t from_us, int64_t input)
{
	return (struct price){ .valid_from_us = from_us, .provider = str_of(provider), .model = str_of(model), .input = input };
}

static void cost_is_rounded_half_up_and_once(void **state)
{
	struct price t = { .input = 3000000, .cached_input = 300000, .output = 15000000 }, small = { .input = 1 }, m = { .kind = PRICE_MACHINE, .gpu_hour = 1, .kwh = 1 };
	struct { const struct price *t, *m; struct price_use u; int64_t want; } table[] = {
		{ NULL, NULL, { 1000, 0, 1000, 1000, 1000 }, 0 },
		{ &t, NULL, { 1000, 0, 500, 0, 0 }, 10500 },                     /* 3,000 + 7,500 */
		{ &t, NULL, { 1000, 400, 500, 0, 0 }, 9420 },                    /* 1,800 + 120 + 7,500 */
		{ &t, NULL, { 1000, 5000, 0, 0, 0 }, 300 },                      /* no more cached than there are */
		{ &small, NULL, { 499999, 0, 0, 0, 0 }, 0 }, { &small, NULL, { 500000, 0, 0, 0, 0 }, 1 }, { &small, NULL, { 1499999, 0, 0, 0, 0 }, 1 },
		{ NULL, &m, { 0, 0, 0, 1799999999, 0 }, 0 }, { NULL, &m, { 0, 0, 0, 1800000000, 0 }, 1 },
		{ NULL, &m, { 0, 0, 0, 900000000, 900000000 }, 1 },              /* halves of both are one */
		{ &small, &m, { 250000, 0, 0, 900000000, 0 }, 1 },               /* of a quarter and a quarter */
		{ NULL, &(struct price){ .gpu_hour = 2500000 }, { 0, 0, 0, 7200000000, 0 }, 5000000 },
		{ NULL, &(struct price){ .kwh = 300000 }, { 0, 0, 0, 0, 1800000000 }, 150000 },
		{ &(struct price){ .input = PRICE_MOST }, NULL, { INT64_MAX, 0, INT64_MAX, 0, 0 }, INT64_MAX },
		{ &t, &m, { -5, -5, -5, -5, -5 }, 0 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		assert_int_equal(price_cost(table[i].t, table[i].m, &table[i].u), table[i].want);
}

static int64_t input_at(const struct price *list, size_t n, const char *provider, const char *model, int64_t at_us)
{
	const struct price *p = price_find(list, n, PRICE_TOKENS, str_of(provider), STR("b"), str_of(model), at_us);

	return p ? p->input : -1;
}

static void the_most_specific_scope_and_in_it_the_youngest(void **state)
{
	struct price list[] = {
		tokens_of("", "", 0, 1), tokens_of("cloud", "", 0, 2), tokens_of("", "big*", 0, 3), tokens_of("", "big-one", 100, 4),
		tokens_of("", "big-one", 200, 5), tokens_of("cloud", "big-one", 300, 6), tokens_of("", "big-o*", 0, 7),
	};
	size_t n = sizeof(list) / sizeof(*list);

	assert_int_equal(input_at(list, n, "home", "small", 0), 1);
	assert_int_equal(input_at(list, n, "cloud", "small", 0), 2);
	assert_int_equal(input_at(list, n, "cloud", "big-two", 0), 3);
	assert_int_equal(input_at(list, n, "home", "big-one", 99), 7);
	assert_int_equal(input_at(list, n, "home", "big-one", 100), 4);
	assert_int_equal(input_at(list, n, "home", "big-one:latest", 199), 4);
	assert_int_equal(input_at(list, n, "home", "big-one", 200), 5);
	assert_int_equal(input_at(list, n, "cloud", "big-one", 299), 5);
	assert_int_equal(input_at(list, n, "cloud", "big-one", 300), 6);
	assert_int_equal(input_at(list, n, "home", "small", -1), -1);
	assert_null(price_find(list, n, PRICE_MACHINE, STR("home"), STR("b"), STR("small"), 500));
}

static void of_two_that_begin_together_the_later_one_counts(void **state)
{
	struct price list[] = { tokens_of("", "m", 10, 2), tokens_of("", "m", 10, 1) };

	list[0].id = 7;
	list[1].id = 3;
	assert_int_equal(input_at(list, 2, "x", "m", 10), 2);
}

static void nothing_begins_within_a_span(void **state)
{
	struct price list[] = { tokens_of("", "m", 100, 1), tokens_of("", "m", 300, 2) };
	int64_t from, until;

	price_span(list, 2, 50, &from, &until);
	assert_true(from == INT64_MIN && until == 100);
	price_span(list, 2, 100, &from, &until);
	assert_true(from == 100 && until == 300);
	price_span(list, 2, 300, &from, &until);
	assert_true(from == 300 && until == INT64_MAX);
}

static void what_is_no_price_is_named(void **state)
{
	static char long_word[300];
	struct price p = tokens_of("", "m", 0, -1);
	struct why why;

	assert_false(price_check(&p, &why));
	assert_string_equal(why.field, "input_microusd");
	p.input = PRICE_MOST;
	assert_true(price_check(&p, &why));
	p.kwh = PRICE_MOST + 1;
	assert_false(price_check(&p, &why));
	assert_string_equal(why.field, "kwh_microusd");
	p.kwh = 0;
	memset(long_word, 'x', sizeof(long_word));
	p.model = str_n(long_word, 201);
	assert_false(price_check(&p, &why));
	assert_string_equal(why.field, "model");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cost_is_rounded_half_up_and_once), cmocka_unit_test(the_most_specific_scope_and_in_it_the_youngest),
		cmocka_unit_test(of_two_that_begin_together_the_later_one_counts), cmocka_unit_test(nothing_begins_within_a_span),
		cmocka_unit_test(what_is_no_price_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

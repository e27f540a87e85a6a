/* price_list_test.c - what is found again is what was found, until a price begins or is added; equal lists have equal versions. */
#include "common/policy/price_list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static int64_t input_of(struct price_list *l, const char *model, int64_t at_us)
{
	struct price_pair p = price_list_find(l, "openai", "b", model, at_us);

	return p.tokens ? p.tokens->input : -1;
}

static void found_again_until_it_changes(void **state)
{
	struct price_list *l = price_list_new();
	char words[8] = "m*";

	assert_int_equal(input_of(NULL, "m1", 5), -1);
	assert_int_equal(input_of(l, "m1", 5), -1);
	price_list_add(l, &(struct price){ .id = 1, .model = str_of(words), .input = 1, .valid_from_us = 10 });
	words[0] = 'x';                   /* it has its own */
	price_list_add(l, &(struct price){ .id = 2, .model = STR("m1"), .input = 2, .valid_from_us = 20 });
	for (int i = 0; i < 2; i++) {
		assert_int_equal(input_of(l, "m1", 9), -1);
		assert_int_equal(input_of(l, "m1", 10), 1);
		assert_int_equal(input_of(l, "m1", 19), 1);
		assert_int_equal(input_of(l, "m1", 20), 2);
		assert_int_equal(input_of(l, "m2", 20), 1);
		assert_int_equal(input_of(l, "n", 20), -1);
	}
	price_list_add(l, &(struct price){ .id = 3, .kind = PRICE_MACHINE, .gpu_hour = 7 });
	assert_int_equal(price_list_find(l, "openai", "b", "m1", 20).machine->gpu_hour, 7);
	price_list_clear(l);
	assert_int_equal(input_of(l, "m1", 20), -1);
	assert_null(price_list_find(l, "openai", "b", "m1", 20).machine);
	price_list_free(l);
}

static void a_name_that_is_too_long_to_be_kept_is_found_all_the_same(void **state)
{
	struct price_list *l = price_list_new();
	char model[200];

	snprintf(model, sizeof(model), "%0150d", 1);
	price_list_add(l, &(struct price){ .input = 5, .model = str_of(model) });
	for (int i = 0; i < 2; i++) {
		assert_int_equal(input_of(l, model, 1), 5);
		assert_int_equal(input_of(l, "", 1), -1);         /* in the same place, as like as not */
	}
	price_list_free(l);
}

static void versions(void **state)
{
	struct price_list *a = price_list_new(), *b = price_list_new();

	assert_int_equal(price_list_version(a), 0);
	for (int i = 1; i <= 3; i++) {
		struct price p = { .id = i, .model = STR("m"), .input = i };

		price_list_add(a, &p);
		assert_int_not_equal(price_list_version(a), price_list_version(b));
		price_list_add(b, &p);
		assert_int_equal(price_list_version(a), price_list_version(b));
	}
	price_list_clear(b);
	assert_int_equal(price_list_version(b), 0);
	price_list_free(a);
	price_list_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(found_again_until_it_changes), cmocka_unit_test(a_name_that_is_too_long_to_be_kept_is_found_all_the_same), cmocka_unit_test(versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

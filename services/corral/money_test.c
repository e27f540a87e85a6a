/* money_test.c - dollars in and out, exactly. */
#include "services/corral/money.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void in(void **state)
{
	static const struct { const char *text; int64_t want; } good[] = {
		{ "0", 0 }, { "2", 2000000 }, { "2.5", 2500000 }, { "2.50", 2500000 }, { "0.000001", 1 }, { "10.075", 10075000 }, { "1000000000", INT64_C(1000000000000000) },
	};
	static const char *const bad[] = { "", ".", "1.", ".5", "-1", "1.0000001", "1,5", "$2", "2.5e1", "1.-5", "1.2.3", "1000000001", " 1" };
	int64_t v;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_true(money_parse(good[i].text, &v));
		assert_int_equal(v, good[i].want);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(money_parse(bad[i], &v));
}

static void out(void **state)
{
	struct arena *mem = arena_new(0);

	assert_string_equal(money(mem, 0), "0.00");
	assert_string_equal(money(mem, 75), "0.000075");
	assert_string_equal(money(mem, 2500000), "2.50");
	assert_string_equal(money(mem, -1234500), "-1.2345");
	assert_string_equal(money(mem, INT64_MIN), "-9223372036854.775808");
	arena_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(in), cmocka_unit_test(out) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

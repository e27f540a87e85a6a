/* plot_test.c - the picture, and what is hard to draw. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/corral/plot.h"

static void draws(const struct plot_point *p, size_t n, unsigned width, unsigned height, const char *expected)
{
	const struct plot look = { "points", "outcomes", width, height };
	struct buf out = { 0 };

	plot_bounds(&out, &look, p, n);
	assert_string_equal(buf_z(&out), expected);
	buf_free(&out);
}

static void bounds_close_in(void **state)
{
	static const struct plot_point p[] = {
		{ 0, -INFINITY, NAN, INFINITY }, { 100, -40, 10, 60 }, { 200, -20, 8, 36 }, { 300, -5, 9, 23 }, { 400, 0, 10, 20 }, { 500, 2, 10, 18 },
	};

	draws(p, 6, 30, 9,
	      "points\n"
	      "     23 |    :   :   |\n"
	      "        |    |   |   |   |   |\n"
	      "        |    |   |   |   |   |\n"
	      "        |    |   |   |   |   |\n"
	      "        |    *   *   *   *   *\n"
	      "        |    |   |   |   |   |\n"
	      "        |    |   |   |   |   |\n"
	      "      0 +----|---|---|---|----\n"
	      "     -5 |    :   :   |\n"
	      "         0        500 outcomes\n");
}

static void nothing_is_said_of_nothing(void **state)
{
	static const struct plot_point p[] = { { 0, -INFINITY, NAN, INFINITY }, { 50, -INFINITY, NAN, INFINITY } };

	draws(NULL, 0, 80, 10, "nothing to plot yet\n");
	draws(p, 2, 80, 10, "nothing to plot yet\n");
}

/* One value without bounds, all values 0, sizes that are none, far more points than columns: no line is longer than it may be. */
static void odd_pictures_are_drawn(void **state)
{
	static struct plot_point many[5000];
	static const unsigned widths[] = { 0, 1, 31, 80, 100000 };

	for (int i = 0; i < 5000; i++)
		many[i] = (struct plot_point){ i, i % 7 ? -1e9 / (i + 1) : -INFINITY, i % 11 ? 0 : NAN, i % 5 ? 1e300 : NAN };
	for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
		for (size_t n = 1; n <= 5000; n = n * 7 + 1) {
			const struct plot look = { "points", "outcomes", widths[i], widths[i] };
			struct buf out = { 0 };

			plot_bounds(&out, &look, many, n);
			for (char *at = buf_z(&out), *end; (end = strchr(at, '\n')); at = end + 1) {
				assert_true(end - at <= (widths[i] < 30 ? 30 : widths[i] > 409 ? 409 : (long)widths[i]));
				assert_true(end == at || end[-1] != ' ');
			}
			buf_free(&out);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bounds_close_in),
		cmocka_unit_test(nothing_is_said_of_nothing),
		cmocka_unit_test(odd_pictures_are_drawn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

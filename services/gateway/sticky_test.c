/* sticky_test.c - what auto remembers of conversations: bounded, apart by tenant, and not for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>

#include "services/gateway/sticky.h"

enum { HOURS = 3600 };
#define US(seconds) ((int64_t)(seconds) * 1000000)

static struct sticky *s;
static struct arena *mem;

static int set_up(void **state)
{
	s = sticky_new();
	mem = arena_new(0);
	return 0;
}

static int tear_down(void **state)
{
	sticky_free(s);
	arena_free(mem);
	return 0;
}

static const char *get(const char *tenant, const char *conversation, int64_t now_us) { return sticky_get(s, str_of(tenant), str_of(conversation), now_us, mem); }
static void put(const char *tenant, const char *conversation, const char *model, int64_t now_us) { sticky_put(s, str_of(tenant), str_of(conversation), model, now_us); }

static void the_last_model_of_a_conversation_is_remembered(void **state)
{
	assert_string_equal(get("t", "c", US(1)), "");
	put("t", "c", "m", US(1));
	put("t", "d", "n", US(1));
	assert_string_equal(get("t", "c", US(2)), "m");
	put("t", "c", "o", US(3));
	assert_string_equal(get("t", "c", US(4)), "o");
	assert_string_equal(get("t", "d", US(4)), "n");
}

static void tenants_do_not_share_conversations(void **state)
{
	put("one", "c", "m", US(1));
	assert_string_equal(get("two", "c", US(1)), "");
	assert_string_equal(get("on", "ec", US(1)), "");
	put("two", "c", "n", US(1));
	assert_string_equal(get("one", "c", US(1)), "m");
}

static void it_is_forgotten_two_hours_after_the_last_word(void **state)
{
	put("t", "c", "m", US(10));
	assert_string_equal(get("t", "c", US(10 + 2 * HOURS - 1)), "m");
	assert_string_equal(get("t", "c", US(10 + 2 * HOURS + 1)), "");
	put("t", "c", "m", US(10 + 2 * HOURS));
	assert_string_equal(get("t", "c", US(10 + 3 * HOURS)), "m");
}

/* Fixed memory: of very many the newest stay, but for a few that fall together. */
static void the_oldest_give_way(void **state)
{
	char name[32];
	unsigned old = 0, fresh = 0;

	for (int i = 0; i < 400000; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		put("t", name, "m", US(1) + i);
	}
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		old += *get("t", name, US(2)) != '\0';
		snprintf(name, sizeof(name), "c%d", 400000 - 1 - i);
		fresh += *get("t", name, US(2)) != '\0';
	}
	assert_int_equal(old, 0);
	assert_true(fresh > 980);
}

static void names_of_any_length_do_not_run_over(void **state)
{
	static char lengthy[4000];

	memset(lengthy, 'x', sizeof(lengthy) - 1);
	put("t", lengthy, "m", US(1));
	assert_string_equal(get("t", lengthy, US(1)), "m");
	put("t", "c", lengthy, US(1));            /* no model has such a name */
	assert_true(strlen(get("t", "c", US(1))) < sizeof(lengthy));
}

static void *busy(void *arg)
{
	struct arena *own = arena_new(0);

	for (int i = 0; i < 20000; i++) {
		const char *m;

		sticky_put(s, STR("t"), STR("c"), i % 2 ? "first" : "second-and-longer", US(1));
		m = sticky_get(s, STR("t"), STR("c"), US(1), own);
		if (strcmp(m, "first") && strcmp(m, "second-and-longer"))
			*(bool *)arg = true;
		if (i % 100 == 0)
			arena_reset(own);
	}
	arena_free(own);
	return NULL;
}

static void several_threads_see_whole_names(void **state)
{
	pthread_t threads[3];
	bool torn[3] = { false };

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, busy, &torn[i]), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_false(torn[0] || torn[1] || torn[2]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_last_model_of_a_conversation_is_remembered), T(tenants_do_not_share_conversations), T(it_is_forgotten_two_hours_after_the_last_word),
		T(the_oldest_give_way), T(names_of_any_length_do_not_run_over), T(several_threads_see_whole_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

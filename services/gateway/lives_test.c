/* lives_test.c - two processes on one file: what one adds or takes out, the other does not bring back or lose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/gateway/lives.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccc"

static char dir[64], path[128];
static char lives[LIVES][LIFE];

static int set_up(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/corral-lives-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/budget-lives", dir);
	return 0;
}

static int tear_down(void **state)
{
	char name[160];

	unlink(path);
	snprintf(name, sizeof(name), "%s.lock", path);
	unlink(name);
	return rmdir(dir);
}

static void an_old_one_does_not_write_over_its_successor(void **state)
{
	char *closed[] = { (char *)(uintptr_t)A };

	assert_int_equal(lives_read(path, lives), 0);
	assert_true(lives_change(path, A, NULL, 0));
	assert_true(lives_change(path, B, NULL, 0));      /* the one that drains later */
	assert_true(lives_change(path, C, NULL, 0));      /* its successor, of which it does not know */
	assert_true(lives_change(path, B, closed, 1));
	assert_int_equal(lives_read(path, lives), 2);
	assert_string_equal(lives[0], C);
	assert_string_equal(lives[1], B);
	assert_true(lives_change(path, C, closed, 1));    /* once more changes nothing, and brings nothing back */
	assert_int_equal(lives_read(path, lives), 2);
}

static void the_newest_are_kept(void **state)
{
	char name[LIFE];

	for (int i = 0; i < LIVES + 10; i++) {
		snprintf(name, sizeof(name), "%032d", i);
		assert_true(lives_change(path, name, NULL, 0));
	}
	assert_int_equal(lives_read(path, lives), LIVES);
	assert_string_equal(lives[LIVES - 1], name);
}

static void what_is_damaged_is_passed_over(void **state)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fprintf(f, "short\n%s\n%s%s\n", A, A, B);
	fclose(f);
	assert_int_equal(lives_read(path, lives), 1);
	assert_true(lives_change(path, B, NULL, 0));
	assert_int_equal(lives_read(path, lives), 2);
}

static void processes_that_write_together_lose_nothing(void **state)
{
	enum { CHILDREN = 8 };
	char name[LIFE];
	int status;

	for (int i = 0; i < CHILDREN; i++)
		if (fork() == 0) {
			snprintf(name, sizeof(name), "%032d", i);
			for (int k = 0; k < 5; k++)
				if (!lives_change(path, name, NULL, 0))
					_exit(1);
			_exit(0);
		}
	for (int i = 0; i < CHILDREN; i++) {
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	assert_int_equal(lives_read(path, lives), CHILDREN);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(an_old_one_does_not_write_over_its_successor), T(the_newest_are_kept), T(what_is_damaged_is_passed_over),
		T(processes_that_write_together_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* sketch_test.c - alike is alike, other is other. */
#include "common/policy/sketch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static const char question[] = "Please write a function in Python that reads a CSV file line by line, skips empty lines and comments, and returns a list of "
			       "dictionaries with the names of the header as keys; it should raise an error that names the line when a row is too short.";

static bool alike(const char *a, const char *b) { return sketch_alike(sketch_of(str_of(a), 1), sketch_of(str_of(b), 1)); }

static void alike_is_alike(void **state)
{
	assert_true(alike(question, question));
	assert_true(alike("why does this crash", "WHY does  this crash?!"));
	assert_true(alike(question, "please write a function in Python that reads a CSV file line by line, skips empty lines and comments and returns a list of "
			  "dictionaries with the names of the header as keys; it must raise an error that names the line when a row is too short!!"));
}

static void other_is_other(void **state)
{
	unsigned same = 0;

	assert_false(alike(question, "Please explain what a foreign key is and when a database refuses to delete a row because of one."));
	assert_false(alike("what is Corral", "write a haiku about rain"));
	assert_false(alike("", "") || alike("...", "!!!") || alike(question, ""));
	assert_true(sketch_of(str_of(question), 1) != sketch_of(str_of(question), 2));
	for (unsigned i = 0; i < 2000; i++) {
		char a[200], b[200];

		snprintf(a, sizeof(a), "w%u x%u y%u z%u v%u u%u t%u s%u r%u q%u p%u o%u", i, i * 3, i * 5, i * 7, i * 11, i * 13, i * 17, i * 19, i * 23, i * 29, i * 31, i * 37);
		snprintf(b, sizeof(b), "a%u b%u c%u d%u e%u f%u g%u h%u i%u j%u k%u l%u", i, i * 3, i * 5, i * 7, i * 11, i * 13, i * 17, i * 19, i * 23, i * 29, i * 31, i * 37);
		same += alike(a, b);
	}
	assert_int_equal(same, 0);
}

/* Eight bytes are looked at together: at every place the same bytes are a word's as anywhere else. */
static void words_are_words_at_every_place(void **state)
{
	for (unsigned c = 0; c < 256; c++) {
		bool is_word = c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

		for (int at = 0; at < 18; at++) {
			char text[64];
			int n = snprintf(text, sizeof(text), "%*sleft%cright%*s", at, "", 'x', at % 9, "");

			text[at + 4] = (char)c;
			assert_int_equal(sketch_of(str_n(text, (size_t)n), 1) == sketch_of(STR("LEFT right"), 1), !is_word);
		}
	}
	assert_true(sketch_of(STR("abcdefgh"), 1) != sketch_of(STR("abcdefghabcdefgh"), 1));
	assert_true(sketch_of(STR("abcdefghij"), 1) == sketch_of(STR("-ABCDEFGHIJ-"), 1));
	assert_true(sketch_of(STR("        "), 1) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(alike_is_alike), cmocka_unit_test(other_is_other), cmocka_unit_test(words_are_words_at_every_place) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

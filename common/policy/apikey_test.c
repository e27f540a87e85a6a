/* apikey_test.c - keys that are made can be read, and nothing else can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/apikey.h"

/* Made once by apikey_make(): a key that people keep has to be read by every later version. */
static const char kept[] = "corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS";

static void made_keys_are_read(void **state)
{
	char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1];
	uint8_t hash[SHA256_BYTES], again[SHA256_BYTES];
	struct str found;

	for (int i = 0; i < 1000; i++) {
		apikey_make(text, id, hash);
		assert_int_equal(strlen(text), APIKEY_TEXT);
		assert_true(apikey_parse(str_of(text), &found));
		assert_true(str_eqz(found, id));
		assert_ptr_equal(found.p, text + 10);
		sha256(str_of(text), again);
		assert_memory_equal(hash, again, SHA256_BYTES);
	}
}

static void a_kept_key_is_read(void **state)
{
	struct str id;

	assert_true(apikey_parse(str_of(kept), &id));
	assert_true(str_eq(id, str_n(kept + 10, APIKEY_ID)));
}

/* A key with one character changed, cut, or added to is not a key: the checksum covers all of it. */
static void one_wrong_character_is_noticed(void **state)
{
	char text[APIKEY_TEXT + 2];
	struct str id;

	for (size_t i = 0; i < APIKEY_TEXT; i++) {
		memcpy(text, kept, APIKEY_TEXT);
		text[i] = text[i] == 'x' ? 'y' : 'x';
		assert_false(apikey_parse(str_n(text, APIKEY_TEXT), &id));
		text[i] = '\0';
		assert_false(apikey_parse(str_n(text, APIKEY_TEXT), &id));
		assert_false(apikey_parse(str_n(kept, i), &id));
	}
	snprintf(text, sizeof(text), "%sx", kept);
	assert_false(apikey_parse(str_of(text), &id));
	assert_false(apikey_parse((struct str){ 0 }, &id));
}

static void two_neighbours_exchanged_are_noticed(void **state)
{
	char text[APIKEY_TEXT + 1];
	struct str id;

	for (size_t i = 0; i + 1 < APIKEY_TEXT; i++) {
		memcpy(text, kept, sizeof(text));
		text[i] = kept[i + 1];
		text[i + 1] = kept[i];
		assert_true(text[i] == text[i + 1] || !apikey_parse(str_n(text, APIKEY_TEXT), &id));
	}
}

static void all_characters_are_used_alike(void **state)
{
	unsigned seen[256] = { 0 }, used = 0, n = 0;
	char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1];
	uint8_t hash[SHA256_BYTES];

	for (int i = 0; i < 2000; i++) {
		apikey_make(text, id, hash);
		for (int c = 0; c < 43; c++, n++)
			seen[(unsigned char)text[10 + APIKEY_ID + 1 + c]]++;
	}
	for (int c = 0; c < 256; c++)
		if (seen[c]) {
			used++;
			assert_in_range(seen[c], n / 62 * 8 / 10, n / 62 * 12 / 10);
		}
	assert_int_equal(used, 62);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(made_keys_are_read),
		cmocka_unit_test(a_kept_key_is_read),
		cmocka_unit_test(one_wrong_character_is_noticed),
		cmocka_unit_test(two_neighbours_exchanged_are_noticed),
		cmocka_unit_test(all_characters_are_used_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

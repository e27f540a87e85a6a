/* secret_test.c - hashes against published vectors, randomness that differs, comparison and wiping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/data/secret.h"

static void hex(const uint8_t hash[SHA256_BYTES], char out[65])
{
	for (int i = 0; i < SHA256_BYTES; i++)
		snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static void assert_hash(struct str s, const char *want)
{
	uint8_t hash[SHA256_BYTES];
	char text[65];

	sha256(s, hash);
	hex(hash, text);
	assert_string_equal(text, want);
}

/* FIPS 180-4's own examples. */
static void hashes_as_published(void **state)
{
	assert_hash((struct str){ 0 }, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_hash(STR("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_hash(STR("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
		    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void pieces_hash_as_the_whole(void **state)
{
	uint8_t whole[SHA256_BYTES], parts[SHA256_BYTES];
	struct sha256_state *h = sha256_begin();

	sha256_add(h, STR("ab"));
	sha256_add(h, (struct str){ 0 });
	sha256_add(h, STR("c"));
	sha256_end(h, parts);
	sha256(STR("abc"), whole);
	assert_memory_equal(whole, parts, SHA256_BYTES);
}

static void random_bytes_differ(void **state)
{
	uint8_t a[32] = { 0 }, b[32] = { 0 };

	secret_random(a, sizeof(a));
	secret_random(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
}

static void every_byte_counts_in_a_comparison(void **state)
{
	uint8_t a[32], b[32];

	secret_random(a, sizeof(a));
	memcpy(b, a, sizeof(a));
	assert_true(secret_equal(a, b, sizeof(a)));
	for (size_t i = 0; i < sizeof(a); i++) {
		b[i] ^= 1;
		assert_false(secret_equal(a, b, sizeof(a)));
		b[i] ^= 1;
	}
	assert_true(secret_equal(a, b, 0));
}

static void wipes(void **state)
{
	char a[] = "a secret";

	secret_wipe(a, sizeof(a));
	for (size_t i = 0; i < sizeof(a); i++)
		assert_int_equal(a[i], 0);
}

static void what_is_sealed_opens_for_whom_it_is(void **state)
{
	uint8_t key[SEAL_KEY_BYTES], other[SEAL_KEY_BYTES];
	struct buf sealed = { 0 }, again = { 0 }, open = { 0 };

	seal_key_of(STR("a master key of many bytes"), key);
	seal_key_of(STR("another master key"), other);
	secret_seal(key, STR("oa"), STR("the text"), &sealed);
	secret_seal(key, STR("oa"), STR("the text"), &again);
	assert_true(is_sealed(buf_as_str(&sealed)) && !str_eq(buf_as_str(&sealed), buf_as_str(&again)));
	assert_null(str_find(buf_as_str(&sealed), STR("text")));
	assert_true(secret_unseal(key, STR("oa"), buf_as_str(&sealed), &open));
	assert_true(str_eqz(buf_as_str(&open), "the text"));
	buf_clear(&open);
	assert_false(secret_unseal(key, STR("ob"), buf_as_str(&sealed), &open));
	assert_false(secret_unseal(other, STR("oa"), buf_as_str(&sealed), &open));
	assert_false(secret_unseal(key, STR("oa"), STR("sealed:1:"), &open));
	assert_false(secret_unseal(key, STR("oa"), STR("sealed:1:!!!!"), &open));
	assert_false(secret_unseal(key, STR("oa"), STR("the text"), &open));
	for (size_t i = 9; i < sealed.n; i++) {
		sealed.p[i] ^= 1;
		assert_false(secret_unseal(key, STR("oa"), buf_as_str(&sealed), &open));
		sealed.p[i] ^= 1;
	}
	assert_int_equal(open.n, 0);
	buf_free(&sealed), buf_free(&again), buf_free(&open);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hashes_as_published), cmocka_unit_test(what_is_sealed_opens_for_whom_it_is),
		cmocka_unit_test(pieces_hash_as_the_whole),
		cmocka_unit_test(random_bytes_differ),
		cmocka_unit_test(every_byte_counts_in_a_comparison),
		cmocka_unit_test(wipes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

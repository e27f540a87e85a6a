/* secret.c - see secret.h; the only file that knows libsodium. */
#include "common/data/secret.h"

#include <sodium.h>

#include "common/base/arena.h"

_Static_assert(SHA256_BYTES == crypto_hash_sha256_BYTES, "SHA-256");

struct sha256_state { crypto_hash_sha256_state s; };

/* May be called at any time from any thread; libsodium does its work once. */
static void ready(void)
{
	if (sodium_init() < 0) {
		fputs("libsodium cannot be initialised: the kernel gives no randomness\n", stderr);
		abort();
	}
}

static const unsigned char *bytes(struct str s) { return (const unsigned char *)(s.p ? s.p : ""); }

void sha256(struct str s, uint8_t ret[SHA256_BYTES])
{
	crypto_hash_sha256(ret, bytes(s), s.n);
}

struct sha256_state *sha256_begin(void)
{
	struct sha256_state *h = x_malloc(sizeof(*h));

	crypto_hash_sha256_init(&h->s);
	return h;
}

void sha256_add(struct sha256_state *h, struct str s)
{
	crypto_hash_sha256_update(&h->s, bytes(s), s.n);
}

void sha256_end(struct sha256_state *h, uint8_t ret[SHA256_BYTES])
{
	crypto_hash_sha256_final(&h->s, ret);
	sodium_memzero(h, sizeof(*h));
	free(h);
}

_Static_assert(TAG_KEY_BYTES == crypto_shorthash_siphashx24_KEYBYTES && crypto_shorthash_siphashx24_BYTES == 2 * sizeof(uint64_t), "SipHash-2-4, 128 bits");

void secret_tag(const uint8_t key[TAG_KEY_BYTES], struct str s, uint64_t ret[2])
{
	crypto_shorthash_siphashx24((unsigned char *)ret, bytes(s), s.n, key);
}

void secret_random(void *to, size_t n)
{
	ready();
	randombytes_buf(to, n);
}

bool secret_equal(const void *a, const void *b, size_t n)
{
	return sodium_memcmp(a, b, n) == 0;
}

void secret_wipe(void *p, size_t n)
{
	sodium_memzero(p, n);
}

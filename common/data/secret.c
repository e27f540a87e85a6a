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

/* --- sealing --- */

static const struct str seal_mark = STR_INIT("sealed:1:");
_Static_assert(SEAL_KEY_BYTES == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "XChaCha20-Poly1305");
enum { NONCE = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, TAG = crypto_aead_xchacha20poly1305_ietf_ABYTES, VARIANT = sodium_base64_VARIANT_URLSAFE_NO_PADDING };

void seal_key_of(struct str secret, uint8_t ret[SEAL_KEY_BYTES])
{
	struct sha256_state *h = sha256_begin();

	sha256_add(h, STR("corral seals with this"));
	sha256_add(h, secret);
	sha256_end(h, ret);
}

bool is_sealed(struct str s) { return str_starts(s, seal_mark); }

void secret_seal(const uint8_t key[SEAL_KEY_BYTES], struct str whom, struct str text, struct buf *out)
{
	size_t n = NONCE + text.n + TAG, most = sodium_base64_encoded_len(n, VARIANT);
	unsigned char *box = x_malloc(n);

	ready();
	randombytes_buf(box, NONCE);
	crypto_aead_xchacha20poly1305_ietf_encrypt(box + NONCE, NULL, bytes(text), text.n, bytes(whom), whom.n, NULL, box, key);
	buf_str(out, seal_mark);
	buf_reserve(out, most);
	sodium_bin2base64(out->p + out->n, most, box, n, VARIANT);
	out->n += most - 1;
	free(box);
}

bool secret_unseal(const uint8_t key[SEAL_KEY_BYTES], struct str whom, struct str sealed, struct buf *out)
{
	struct str text = str_from(sealed, seal_mark.n);
	unsigned char *box = x_malloc(text.n + 1);
	size_t n = 0;
	bool ok = is_sealed(sealed) && sodium_base642bin(box, text.n, text.p, text.n, NULL, &n, NULL, VARIANT) == 0 && n >= NONCE + TAG;

	if (ok) {
		buf_reserve(out, n);
		ok = crypto_aead_xchacha20poly1305_ietf_decrypt((unsigned char *)out->p + out->n, NULL, NULL, box + NONCE, n - NONCE, bytes(whom), whom.n, box, key) == 0;
	}
	if (ok)
		out->n += n - NONCE - TAG;
	free(box);
	return ok;
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

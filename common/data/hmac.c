/* hmac.c - see hmac.h. The two halves of the key are hashed once; their states are copied for each text.
 *
 * OpenSSL's old functions for SHA-256: a state of theirs is plain memory. To copy one of the new kind costs allocations and more time than
 * hashing the text. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "common/data/hmac.h"

#include <openssl/sha.h>

#include "common/base/arena.h"
#include "common/data/secret.h"

enum { BLOCK = 64 };

struct hmac_key { SHA256_CTX inner, outer; };

static void half(SHA256_CTX *ctx, const uint8_t block[BLOCK], uint8_t pad)
{
	uint8_t padded[BLOCK];

	for (unsigned i = 0; i < BLOCK; i++)
		padded[i] = block[i] ^ pad;
	SHA256_Init(ctx);
	SHA256_Update(ctx, padded, BLOCK);
	secret_wipe(padded, sizeof(padded));
}

struct hmac_key *hmac_key_new(struct str secret)
{
	struct hmac_key *k = x_calloc(1, sizeof(*k));
	uint8_t block[BLOCK] = { 0 };

	if (secret.n > BLOCK)
		sha256(secret, block);
	else if (secret.n)
		memcpy(block, secret.p, secret.n);
	half(&k->inner, block, 0x36);
	half(&k->outer, block, 0x5c);
	secret_wipe(block, sizeof(block));
	return k;
}

void hmac_key_free(struct hmac_key *k)
{
	if (k)
		secret_wipe(k, sizeof(*k));
	free(k);
}

void hmac(const struct hmac_key *k, const struct str *parts, size_t n, uint8_t ret[HMAC_BYTES])
{
	SHA256_CTX ctx = k->inner;
	uint8_t inner[HMAC_BYTES];

	for (size_t i = 0; i < n; i++)
		if (parts[i].n)
			SHA256_Update(&ctx, parts[i].p, parts[i].n);
	SHA256_Final(inner, &ctx);
	ctx = k->outer;
	SHA256_Update(&ctx, inner, sizeof(inner));
	SHA256_Final(ret, &ctx);
}

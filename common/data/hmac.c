/* hmac.c - see hmac.h. The two halves of the key are hashed once and their states copied for each text. */
#include "common/data/hmac.h"

#include <openssl/evp.h>

#include "common/base/arena.h"
#include "common/data/secret.h"

enum { BLOCK = 64 };

struct hmac_key { EVP_MD_CTX *inner, *outer, *work; };

static void sure(int ok)
{
	if (ok == 1)
		return;
	fputs("SHA-256 of OpenSSL does not work\n", stderr);
	abort();
}

static EVP_MD_CTX *half(const EVP_MD *md, const uint8_t block[BLOCK], uint8_t pad)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t padded[BLOCK];

	for (unsigned i = 0; i < BLOCK; i++)
		padded[i] = block[i] ^ pad;
	sure(ctx != NULL);
	sure(EVP_DigestInit_ex(ctx, md, NULL));
	sure(EVP_DigestUpdate(ctx, padded, BLOCK));
	secret_wipe(padded, sizeof(padded));
	return ctx;
}

struct hmac_key *hmac_key_new(struct str secret)
{
	struct hmac_key *k = x_calloc(1, sizeof(*k));
	EVP_MD *md = EVP_MD_fetch(NULL, "SHA256", NULL);
	uint8_t block[BLOCK] = { 0 };

	sure(md != NULL);
	if (secret.n > BLOCK)
		sha256(secret, block);
	else if (secret.n)
		memcpy(block, secret.p, secret.n);
	k->inner = half(md, block, 0x36);
	k->outer = half(md, block, 0x5c);
	k->work = EVP_MD_CTX_new();
	sure(k->work != NULL);
	EVP_MD_free(md);
	secret_wipe(block, sizeof(block));
	return k;
}

void hmac_key_free(struct hmac_key *k)
{
	if (!k)
		return;
	EVP_MD_CTX_free(k->inner);
	EVP_MD_CTX_free(k->outer);
	EVP_MD_CTX_free(k->work);
	free(k);
}

void hmac(struct hmac_key *k, const struct str *parts, size_t n, uint8_t ret[HMAC_BYTES])
{
	uint8_t inner[HMAC_BYTES];

	sure(EVP_MD_CTX_copy_ex(k->work, k->inner));
	for (size_t i = 0; i < n; i++)
		if (parts[i].n)
			sure(EVP_DigestUpdate(k->work, parts[i].p, parts[i].n));
	sure(EVP_DigestFinal_ex(k->work, inner, NULL));
	sure(EVP_MD_CTX_copy_ex(k->work, k->outer));
	sure(EVP_DigestUpdate(k->work, inner, sizeof(inner)));
	sure(EVP_DigestFinal_ex(k->work, ret, NULL));
}

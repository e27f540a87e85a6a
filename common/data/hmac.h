/* hmac.h - HMAC-SHA-256 (RFC 2104) with a key that is prepared once: for names of things that nobody without the key can make or find.
 * OpenSSL's, because it uses the processor's own instructions for it. */
#ifndef CORRAL_DATA_HMAC_H
#define CORRAL_DATA_HMAC_H
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

enum { HMAC_BYTES = 32 };

struct hmac_key;

struct hmac_key *hmac_key_new(struct str secret);
void hmac_key_free(struct hmac_key *);        /* wipes it; NULL is fine */
void hmac(const struct hmac_key *, const struct str *parts, size_t n, uint8_t ret[HMAC_BYTES]);
#endif

/* secret.h - hashes, randomness and comparison for secrets (libsodium): no output depends on time, no secret stays behind. */
#ifndef CORRAL_DATA_SECRET_H
#define CORRAL_DATA_SECRET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

enum { SHA256_BYTES = 32 };

void sha256(struct str, uint8_t ret[SHA256_BYTES]);
struct sha256_state;                  /* for several pieces */
struct sha256_state *sha256_begin(void);
void sha256_add(struct sha256_state *, struct str);
void sha256_end(struct sha256_state *, uint8_t ret[SHA256_BYTES]);      /* and frees it */

/* A keyed hash of 128 bits (SipHash), several times faster than SHA-256: whoever has not the key can neither make two texts meet nor find one. It is
 * for what stays in memory under a key of this process; what is stored needs SHA-256. */
enum { TAG_KEY_BYTES = 16 };
void secret_tag(const uint8_t key[TAG_KEY_BYTES], struct str, uint64_t ret[2]);

/* Texts at rest: sealed with a key that is made of a secret (XChaCha20-Poly1305), as a line of text, "sealed:1:" and base64. Whom a text is for is
 * bound in: opened for another, or with another key, or changed, it is refused. What is opened is the caller's to wipe. */
enum { SEAL_KEY_BYTES = 32 };
void seal_key_of(struct str secret, uint8_t ret[SEAL_KEY_BYTES]);
bool is_sealed(struct str);
void secret_seal(const uint8_t key[SEAL_KEY_BYTES], struct str whom, struct str text, struct buf *out);
bool secret_unseal(const uint8_t key[SEAL_KEY_BYTES], struct str whom, struct str sealed, struct buf *out);

void secret_random(void *to, size_t n);       /* from the kernel */
bool secret_equal(const void *, const void *, size_t n);      /* takes the same time wherever they differ */
void secret_wipe(void *, size_t n);           /* is not optimised away */
#endif

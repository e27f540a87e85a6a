/* siphash.h - SipHash-2-4: 64 bits of a text under a key, alike on every machine and in every version.
 *
 * Whoever does not know the key cannot choose texts that collide, and hashes under two keys have nothing to do with each other. */
#ifndef CORRAL_BASE_SIPHASH_H
#define CORRAL_BASE_SIPHASH_H
#include <stdint.h>

#include "common/base/str.h"

struct sip_key { uint64_t k0, k1; };

uint64_t siphash(struct sip_key, struct str text);
/* A key from words, for use and purpose: different purposes give independent keys of the same salt. */
struct sip_key sip_key_of(struct str salt, const char *purpose);
#endif

/* sketch.h - whether two texts are alike, without the texts: 64 bits that are equal for equal texts, and nearly so for texts that share most words.
 *
 * Words are runs of letters, digits and bytes above 127; case does not matter. Each word's hash falls into one of eight buckets, and the least one
 * of a bucket gives a byte (one-permutation min-hash): two texts agree in a byte about as often as they share words. Pure; about 0.5 ns a byte. */
#ifndef CORRAL_POLICY_SKETCH_H
#define CORRAL_POLICY_SKETCH_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

enum { SKETCH_ALIKE = 6 };            /* of eight bytes: some four fifths of the words are the same */

uint64_t sketch_of(struct str text, uint64_t seed);       /* 0 = it has no word */
bool sketch_alike(uint64_t a, uint64_t b);                /* neither is 0, and SKETCH_ALIKE bytes agree */
#endif

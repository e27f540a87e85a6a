/* id.h - identifiers made by us: UUIDv7 (RFC 9562, time-ordered) and W3C trace ids, from one per-thread generator
 * seeded by getrandom(2). Not secrets: keys and tokens are made elsewhere. */
#ifndef CORRAL_BASE_ID_H
#define CORRAL_BASE_ID_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct uuid { uint8_t b[16]; };

struct uuid uuid_v7(int64_t wall_us);             /* strictly increasing within a thread */
struct uuid uuid_v7_made_of(int64_t wall_us, const uint8_t bytes[10]);      /* the same for the same: of what can be told twice, from its hash */
void uuid_format(struct uuid, char out[37]);      /* lower-case, terminated */
void hex_of(char *out, const uint8_t *bytes, unsigned n);       /* n a multiple of 4; small letters, no terminator */
bool uuid_parse(struct str, struct uuid *ret);    /* 36 characters, either case */
uint64_t rand_u64(void);                          /* xoshiro256**, per thread */
double rand_unit(void);                           /* [0, 1) */
#endif

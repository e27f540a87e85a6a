/* key_uses.h - when keys were used last, to the minute: noted by workers once a minute and key, told to access every few seconds.
 *
 * It is for people who look for keys that nobody needs. What cannot be told for long is forgotten. */
#ifndef CORRAL_GATEWAY_KEY_USES_H
#define CORRAL_GATEWAY_KEY_USES_H
#include "services/gateway/gateway.h"
#include "services/gateway/keyring.h"

struct key_uses;

struct key_uses *key_uses_new(struct gateway *);      /* before the workers run */
void key_uses_note(struct key_uses *, const struct ring_key *, int64_t wall_us);      /* any thread; NULLs are fine */
void key_uses_tell(struct key_uses *);        /* now, not at its time */
void key_uses_free(struct key_uses *);
#endif

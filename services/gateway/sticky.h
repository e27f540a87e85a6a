/* sticky.h - which model a conversation has been with, so that auto does not switch in the middle. Fixed memory, any thread;
 * the oldest entry of a bucket gives way; forgotten after two hours. */
#ifndef CORRAL_GATEWAY_STICKY_H
#define CORRAL_GATEWAY_STICKY_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/str.h"

struct sticky;
struct sticky *sticky_new(void);
void sticky_free(struct sticky *);
/* The model, copied into the arena; "" when none is remembered. */
const char *sticky_get(struct sticky *, struct str tenant, struct str conversation, int64_t now_us, struct arena *);
void sticky_put(struct sticky *, struct str tenant, struct str conversation, const char *model, int64_t now_us);
#endif

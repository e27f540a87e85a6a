/* usage_pack.h - UsageEvents into bytes: two for each request, and the general encoder costs a tenth of what the gateway does for it. */
#ifndef CORRAL_GATEWAY_USAGE_PACK_H
#define CORRAL_GATEWAY_USAGE_PACK_H
#include "events.pb-c.h"

/* The bytes that corral__usage_event__pack() makes, which need as much room; returns how many. Strings may not be NULL. */
size_t usage_pack(const Corral__UsageEvent *, uint8_t *out);
#endif

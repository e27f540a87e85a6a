/* decision_pack.h - a decision's event into bytes: one for each request to "auto". See usage_pack.h. */
#ifndef CORRAL_GATEWAY_DECISION_PACK_H
#define CORRAL_GATEWAY_DECISION_PACK_H
#include "events.pb-c.h"
#include "selector.pb-c.h"

/* The bytes that the generated ..._pack() makes; returns how many. At most ..._room() bytes are written. Strings may not be NULL. */
size_t features_room(const Corral__DecisionFeatures *);
size_t features_pack(const Corral__DecisionFeatures *, uint8_t *out);
size_t decision_event_room(const Corral__DecisionEvent *);
size_t decision_event_pack(const Corral__DecisionEvent *, uint8_t *out);
#endif

/* event.h - reads packed UsageEvents: the ledger reads two for each request, and nothing else of it costs as much. */
#ifndef CORRAL_USAGE_TRACKER_EVENT_H
#define CORRAL_USAGE_TRACKER_EVENT_H
#include "common/base/arena.h"
#include "events.pb-c.h"

/* What corral__usage_event__unpack() makes of the bytes, NULL for what is no UsageEvent; it belongs to the arena. */
Corral__UsageEvent *event_read(struct arena *, struct str bytes);

/* The packed event, in the arena. 'most' is a bound of its size; 0 = it is measured. */
struct str event_pack(struct arena *, const Corral__UsageEvent *, size_t most);
#endif

/* power_parts.h - which part of its machine's power belongs to a slot.
 *
 *   part of a slot = power of the machine / all slots there of models that are in memory or in use
 *
 * All backends on a machine are counted together. A model that joins is counted at once and has its part PARTS_GRACE_MS later; one that leaves loses its part at
 * once and is counted for that long: so, while gateways use what they are told for no longer than PARTS_HOLD_MS, the slots in use never have more than the
 * machine draws, however late each hears of a change. A replica that has got fewer slots is counted with those that are still in use, and a backend whose machine
 * is another one, or was not known, joins there and leaves where it was. What idle slots would have is nobody's.
 * Pure: the clock is a parameter. One loop thread. */
#ifndef REGISTRY_POWER_PARTS_H
#define REGISTRY_POWER_PARTS_H
#include <stdint.h>

#include "common/base/arena.h"
#include "models.pb-c.h"

enum { PARTS_GRACE_MS = 3000, PARTS_HOLD_MS = 2000, PARTS_IN_USE_MS = 1500 };

/* What is known of a backend's machine. */
struct machine_power {
	const char *backend;
	const char *machine;          /* the same text for all of its backends */
	int64_t milliwatts, most_milliwatts;
};

/* The most of the last half hour to hour. */
struct power_peak { int64_t now_mw, before_mw, since_us; };
void power_peak_note(struct power_peak *, int64_t milliwatts, int64_t now_us);
int64_t power_peak_of(const struct power_peak *);

struct power_parts;
struct power_parts *power_parts_new(void);
void power_parts_free(struct power_parts *);  /* NULL is fine */
/* What a gateway has in use, or had since it told last. */
void power_parts_hear(struct power_parts *, const Corral__LeaseRequest *, int64_t now_us);
/* Who has which part from now on; backends that are not in the list are on machines that tell nothing. */
void power_parts_make(struct power_parts *, const Corral__ModelSnapshot *, const struct machine_power *, size_t n, int64_t now_us);
/* For a reply; lists in the arena, names valid until the next of these calls. */
void power_parts_put(const struct power_parts *, struct arena *, Corral__LeaseReply *);
#endif

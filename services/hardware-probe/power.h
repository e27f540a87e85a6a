/* power.h - what this machine draws, as its own hardware reports it: from counters of energy where there are any, else from meters of power.
 *
 *   GPUs        the sum over all that tell it: NVML and hwmon, as nvml.c and drm.c read them. Parts of a GPU tell nothing
 *   RAPL        where no GPU tells it, or all say 0: the processor's packages and the memory beside them, /sys/class/powercap; most kernels let only root read it
 *
 * It is not what the wall socket gives: fans, disks, power supplies, and beside a GPU that tells it the processor, are in no figure. A counter gives the mean since
 * the look before, a meter the moment's value. Not verified on a machine with a GPU. */
#ifndef CORRAL_HARDWARE_PROBE_POWER_H
#define CORRAL_HARDWARE_PROBE_POWER_H
#include "common/base/arena.h"

struct power {
	int64_t milliwatts;           /* -1 = nothing tells it, or not yet */
	int64_t limit_milliwatts;     /* that the GPUs are held to; -1 = not known of all that tell their power */
	const char *source;           /* "nvml", "sysfs", "rapl", or two of them with "+"; "" = unknown */
};

struct power_meter;           /* the counters as they were */
struct power_meter *power_meter_new(void);
void power_meter_free(struct power_meter *);  /* NULL is fine */

struct probe;
/* Of a probe that has looked at its GPUs: what they told then is not asked again. The answer's text is constant. */
struct power power_of(struct power_meter *, struct probe *);
/* Asks new ones for nothing but this; 'nvml' is as for probe_look(). The library stays open until an error, or the meter's end. */
struct power power_look(struct power_meter *, struct probe *, const char *nvml);

/* Says so where there is a counter that this process may not read, and nothing else tells the power. */
void power_note(struct probe *);
#endif

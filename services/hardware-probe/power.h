/* power.h - what this machine draws, as its own hardware reports it: from counters of energy where there are any, else from meters of power.
 *
 *   GPUs        the sum over all that tell it: NVML and hwmon, as nvml.c and drm.c read them. Parts of a GPU tell nothing
 *   RAPL        where no GPU tells it: the processor's packages and the memory beside them, from /sys/class/powercap; most kernels let only root read it
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

/* 'root' and 'nvml' are as for probe_machine(); 'now_us' is monotonic. The answer's text is constant. */
struct power power_look(struct power_meter *, const char *root, const char *nvml, int64_t now_us);

struct probe;
/* Says so where there is a counter that this process may not read, and nothing else tells the power. */
void power_note(struct probe *);

/* --- for tests --- */
struct power power_of(struct power_meter *, struct probe *, int64_t now_us);  /* with the GPUs of that snapshot */
#endif

/* probe.h - looks at the machine: what it has, what of it can be used, and what could not be seen and why.
 *
 *   nvml.c   NVIDIA, through the driver's own library, opened at run time
 *   drm.c    AMD and Intel, from sysfs; NVIDIA's bare presence from procfs
 *   host.c   processor, memory, cgroup limits, disk
 *   power.c  what the machine draws, from one look to the next
 *
 * Nothing here needs a driver, a privilege or a build option; what is missing is a note, never an error. A probe reads files and asks a
 * driver, which may take milliseconds and, with a sick GPU, for ever: it runs on a thread of its own (service.c). */
#ifndef CORRAL_HARDWARE_PROBE_PROBE_H
#define CORRAL_HARDWARE_PROBE_PROBE_H
#include "common/base/arena.h"
#include "common/base/str.h"
#include "hardware.pb-c.h"

enum { PROBE_GPUS = 64, PROBE_NOTES = 32, PROBE_DISKS = 8, PROBE_PROCESSES = 64, PROBE_ROOT_MAX = 512 };

struct probe {
	struct arena *mem;                /* everything below lives in it */
	const char *root;                 /* "" = this machine; tests put a recorded tree here. At most PROBE_ROOT_MAX long */
	Corral__HardwareSnapshot *hw;     /* arrays have room for PROBE_… entries */
	int64_t (*clock)(void);           /* monotonic microseconds; tests have one of their own */
	int64_t power_read_us[PROBE_GPUS];    /* when power and energy of the GPU of that index were read */
};

/* With a new, empty snapshot. */
struct probe probe_new(struct arena *mem, const char *root);

/* Fills the snapshot. 'nvml' names the library, "" = the usual names, "off" = do not look.
 * 'dirs' are places whose disk is of interest. */
struct opt_list;
void probe_look(struct probe *, const char *nvml, const struct opt_list *dirs);
Corral__HardwareSnapshot *probe_machine(struct arena *mem, const char *root, const char *nvml, const struct opt_list *dirs);    /* both */

/* What this boot of this machine is called, for all of its containers alike; "" = that cannot be read. */
const char *probe_boot_id(struct probe *);

void probe_host(struct probe *, const struct opt_list *dirs);
void probe_drm(struct probe *);
void probe_nvidia(struct probe *, const char *library);
/* The same with the library's functions found by 'find': for tests. */
void probe_nvml(struct probe *, void *(*find)(void *arg, const char *name), void *arg);

/* NVML kept open and started, to be asked often and for nothing but power. */
struct nvml_kept { void *library; };   /* {0} at first */
void probe_nvidia_power(struct probe *, const char *library, struct nvml_kept *);
void nvml_kept_close(struct nvml_kept *);
/* Of a library that is started; false: it answers with errors, and is to be opened anew. For tests. */
bool probe_nvml_power(struct probe *, void *(*find)(void *arg, const char *name), void *arg);

/* --- for the three --- */
Corral__Gpu *probe_gpu(struct probe *, const char *vendor, const char *source);       /* NULL: there are too many */
void probe_note(struct probe *, const char *source, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A whole small file below root, without the newline at its end; p is NULL when it cannot be read. */
struct str probe_read(struct probe *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool probe_number(struct probe *, int64_t *ret, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Names in a directory below root, at most max, sorted; returns how many. */
unsigned probe_list(struct probe *, const char *dir, const char **ret, unsigned max);
#endif

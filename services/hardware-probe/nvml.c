/* nvml.c - NVIDIA GPUs through NVML, the library of the driver, opened at run time: never linked, never shipped.
 *
 * Declarations are our own, from nvml.h of NVML API 13; sizes and offsets are checked below. A function that is missing is an older driver,
 * and code 3 (not supported) is normal for single values: what can be had is kept. Not verified on hardware: the tests read recorded
 * answers through the same calls. */
#include <dlfcn.h>
#include <stdio.h>

#include "common/data/log.h"
#include "services/hardware-probe/probe.h"

enum { NVML_OK = 0, NVML_NOT_SUPPORTED = 3, NVML_NO_PERMISSION = 4, NVML_NOT_FOUND = 6, NVML_TOO_SMALL = 7, NVML_NOT_LOADED = 9,
	NVML_NO_FUNCTION = 13, NVML_BLOCKED = 17, NVML_MISMATCH = 18 };

typedef struct nvml_device *nvml_device;      /* opaque in the library as well */

struct nvml_memory { unsigned long long total, free, used; };
struct nvml_memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct nvml_utilization { unsigned gpu, memory; };
struct nvml_temperature { unsigned version; int sensor, celsius; };
struct nvml_pci { char bus_legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct nvml_process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

_Static_assert(sizeof(struct nvml_memory_v2) == 40 && offsetof(struct nvml_memory_v2, total) == 8, "as in nvml.h");
_Static_assert(sizeof(struct nvml_temperature) == 12 && sizeof(struct nvml_pci) == 68 && sizeof(struct nvml_process) == 24, "as in nvml.h");

struct nvml {
	struct probe *p;
	void *(*find)(void *arg, const char *name);
	void *arg;
};

/* Calls a function of the library; NVML_NO_FUNCTION when this driver has none such. */
#define CALL(n, name, types, ...) \
	({ int (*fn_) types = (int (*) types)(n)->find((n)->arg, name); fn_ ? fn_(__VA_ARGS__) : NVML_NO_FUNCTION; })

/* --- values of one device --- */

static char *text_of(struct nvml *n, nvml_device d, const char *name)
{
	char text[256] = "";

	if (CALL(n, name, (nvml_device, char *, unsigned), d, text, 96) != NVML_OK)
		return NULL;
	text[sizeof(text) - 1] = '\0';
	return arena_printf(n->p->mem, "%s", text);
}

static void memory_of(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	struct nvml_memory_v2 m2 = { .version = 0x02000028 };
	struct nvml_memory m = { 0 };

	if (CALL(n, "nvmlDeviceGetMemoryInfo_v2", (nvml_device, struct nvml_memory_v2 *), d, &m2) == NVML_OK)
		m = (struct nvml_memory){ m2.total, m2.free, m2.used };
	else if (CALL(n, "nvmlDeviceGetMemoryInfo", (nvml_device, struct nvml_memory *), d, &m) != NVML_OK)
		return;
	g->memory_total_bytes = (int64_t)m.total;
	g->memory_free_bytes = (int64_t)m.free;
	g->memory_used_bytes = (int64_t)m.used;
}

/* Chips whose memory is the machine's own do not answer: then it is that of the machine. */
static void shared_memory(struct nvml *n, Corral__Gpu *g)
{
	const Corral__Memory *m = n->p->hw->memory;

	if (g->memory_total_bytes >= 0 || g->parent[0] || !m || m->total_bytes < 0)
		return;
	g->shared_memory = true;
	g->memory_total_bytes = m->total_bytes;
	g->memory_free_bytes = m->available_bytes;
	probe_note(n->p, "nvml", "%s does not tell its memory; taken for one that shares the machine's", g->name);
}

static const char *architecture(unsigned code)
{
	static const char *const names[] = { [2] = "Kepler", [3] = "Maxwell", [4] = "Pascal", [5] = "Volta", [6] = "Turing", [7] = "Ampere",
		[8] = "Ada", [9] = "Hopper", [10] = "Blackwell", [13] = "Rubin" };

	return code < sizeof(names) / sizeof(*names) && names[code] ? names[code] : "";
}

static void kind_of(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	int major, minor;
	unsigned arch;

	if (CALL(n, "nvmlDeviceGetCudaComputeCapability", (nvml_device, int *, int *), d, &major, &minor) == NVML_OK)
		g->compute = arena_printf(n->p->mem, "%d.%d", major, minor);
	if (CALL(n, "nvmlDeviceGetArchitecture", (nvml_device, unsigned *), d, &arch) == NVML_OK)
		g->architecture = arena_printf(n->p->mem, "%s", architecture(arch));
}

/* Errors that say something of one value, or that are for good; after others, as of a GPU that is lost, the library is opened anew. */
static bool is_broken(int code)
{
	return code != NVML_OK && code != NVML_NOT_SUPPORTED && code != NVML_NO_PERMISSION && code != NVML_NO_FUNCTION && code != NVML_BLOCKED;
}

/* False: it is broken. */
static bool power_of_device(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	unsigned mw, limit_mw;
	unsigned long long mj;
	int power = CALL(n, "nvmlDeviceGetPowerUsage", (nvml_device, unsigned *), d, &mw);
	int limit = CALL(n, "nvmlDeviceGetEnforcedPowerLimit", (nvml_device, unsigned *), d, &limit_mw);
	int energy = CALL(n, "nvmlDeviceGetTotalEnergyConsumption", (nvml_device, unsigned long long *), d, &mj);

	n->p->power_read_us[g->index] = n->p->clock();
	if (power == NVML_OK)
		g->power_watts = mw / 1000.0;
	if (limit == NVML_OK)
		g->power_limit_watts = limit_mw / 1000.0;
	if (energy == NVML_OK)
		g->energy_joules = (double)mj / 1000.0;
	return !is_broken(power) && !is_broken(limit) && !is_broken(energy);
}

static void state_of(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	struct nvml_utilization u;
	struct nvml_temperature t = { .version = 0x0100000c };
	unsigned v;

	if (CALL(n, "nvmlDeviceGetUtilizationRates", (nvml_device, struct nvml_utilization *), d, &u) == NVML_OK)
		g->utilisation = u.gpu / 100.0;
	if (CALL(n, "nvmlDeviceGetTemperatureV", (nvml_device, struct nvml_temperature *), d, &t) == NVML_OK)
		g->temperature_celsius = t.celsius;
	else if (CALL(n, "nvmlDeviceGetTemperature", (nvml_device, int, unsigned *), d, 0, &v) == NVML_OK)
		g->temperature_celsius = v;
	(void)power_of_device(n, d, g);
}

/* Bits of nvmlDeviceGetCurrentClocksEventReasons; an idle clock and one that an application chose are no throttling. */
static void throttling(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	static const struct { unsigned long long bit; const char *name; } reasons[] = {
		{ 0x4, "power cap" }, { 0x8, "hardware slowdown" }, { 0x20, "software thermal" }, { 0x40, "hardware thermal" }, { 0x80, "power brake" },
	};
	unsigned long long bits = 0;

	if (CALL(n, "nvmlDeviceGetCurrentClocksEventReasons", (nvml_device, unsigned long long *), d, &bits) != NVML_OK &&
	    CALL(n, "nvmlDeviceGetCurrentClocksThrottleReasons", (nvml_device, unsigned long long *), d, &bits) != NVML_OK)
		return;
	g->throttled_by = arena_array(n->p->mem, char *, sizeof(reasons) / sizeof(*reasons));
	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
		if (bits & reasons[i].bit)
			g->throttled_by[g->n_throttled_by++] = arena_printf(n->p->mem, "%s", reasons[i].name);
}

static void add_process(struct nvml *n, Corral__Gpu *g, const struct nvml_process *from)
{
	Corral__GpuProcess *to = arena_new_of(n->p->mem, Corral__GpuProcess);

	corral__gpu_process__init(to);
	to->pid = from->pid;
	to->memory_bytes = from->used == ~0ULL ? -1 : (int64_t)from->used;
	to->name = n->p->hw->in_container ? to->name : arena_printf(n->p->mem, STR_FMT, STR_ARG(probe_read(n->p, "/proc/%u/comm", from->pid)));
	g->processes[g->n_processes++] = to;
}

static void processes(struct nvml *n, nvml_device d, Corral__Gpu *g)
{
	struct nvml_process list[PROBE_PROCESSES];
	unsigned count = PROBE_PROCESSES;

	if (CALL(n, "nvmlDeviceGetComputeRunningProcesses_v3", (nvml_device, unsigned *, struct nvml_process *), d, &count, list) != NVML_OK)
		return;
	g->processes = arena_array(n->p->mem, Corral__GpuProcess *, PROBE_PROCESSES);
	for (unsigned i = 0; i < count && i < PROBE_PROCESSES; i++)
		add_process(n, g, &list[i]);
}

/* --- devices --- */

static char *pci_of(struct nvml *n, nvml_device d)
{
	struct nvml_pci pci = { "", 0 };

	if (CALL(n, "nvmlDeviceGetPciInfo_v3", (nvml_device, struct nvml_pci *), d, &pci) != NVML_OK)
		pci.bus_id[0] = '\0';
	return arena_printf(n->p->mem, "%.31s", pci.bus_id);
}

static Corral__Gpu *device(struct nvml *n, nvml_device d)
{
	Corral__Gpu *g = probe_gpu(n->p, "nvidia", "nvml");
	char *id, *name;

	if (!g)
		return NULL;
	id = text_of(n, d, "nvmlDeviceGetUUID");
	name = text_of(n, d, "nvmlDeviceGetName");
	g->pci = pci_of(n, d);
	g->id = id ? id : g->pci;
	g->name = name ? name : arena_printf(n->p->mem, "NVIDIA GPU %u", g->index);
	memory_of(n, d, g);
	kind_of(n, d, g);
	state_of(n, d, g);
	throttling(n, d, g);
	processes(n, d, g);
	return g;
}

/* A GPU that is split: its parts are the units to use. Power, temperature and use are told of the whole only. */
static void mig(struct nvml *n, nvml_device parent, Corral__Gpu *whole)
{
	unsigned current = 0, pending, max = 0;

	if (CALL(n, "nvmlDeviceGetMigMode", (nvml_device, unsigned *, unsigned *), parent, &current, &pending) != NVML_OK || current != 1)
		return;
	whole->split = true;
	if (CALL(n, "nvmlDeviceGetMaxMigDeviceCount", (nvml_device, unsigned *), parent, &max) != NVML_OK)
		return;
	for (unsigned i = 0; i < max; i++) {
		nvml_device part;
		Corral__Gpu *g;
		char *id;

		if (CALL(n, "nvmlDeviceGetMigDeviceHandleByIndex", (nvml_device, unsigned, nvml_device *), parent, i, &part) != NVML_OK)
			continue;         /* the indexes have gaps */
		g = probe_gpu(n->p, "nvidia", "nvml");
		if (!g)
			return;
		id = text_of(n, part, "nvmlDeviceGetUUID");
		g->id = id ? id : arena_printf(n->p->mem, "%s/%u", whole->id, i);
		g->parent = whole->id;
		g->pci = whole->pci;
		g->name = text_of(n, part, "nvmlDeviceGetName");
		if (!g->name)
			g->name = arena_printf(n->p->mem, "%s, part %u", whole->name, i);
		g->architecture = whole->architecture;
		g->compute = whole->compute;
		memory_of(n, part, g);
		processes(n, part, g);
	}
	probe_note(n->p, "nvml", "%s is split (MIG); power, temperature and use are those of the whole", whole->name);
}

static void versions(struct nvml *n)
{
	char text[128] = "";
	int cuda;

	if (CALL(n, "nvmlSystemGetDriverVersion", (char *, unsigned), text, 80) == NVML_OK)
		n->p->hw->nvidia_driver = arena_printf(n->p->mem, "%s", text);
	if (CALL(n, "nvmlSystemGetCudaDriverVersion_v2", (int *), &cuda) == NVML_OK)
		n->p->hw->cuda = arena_printf(n->p->mem, "%d.%d", cuda / 1000, cuda % 1000 / 10);
}

static void devices(struct nvml *n)
{
	unsigned count = 0, hidden = 0;

	if (CALL(n, "nvmlDeviceGetCount_v2", (unsigned *), &count) != NVML_OK)
		return;
	for (unsigned i = 0; i < count; i++) {
		nvml_device d;
		Corral__Gpu *g;

		if (CALL(n, "nvmlDeviceGetHandleByIndex_v2", (unsigned, nvml_device *), i, &d) != NVML_OK) {
			hidden++;
			continue;
		}
		g = device(n, d);
		if (!g)
			return;
		shared_memory(n, g);
		mig(n, d, g);
	}
	if (hidden)
		probe_note(n->p, "nvml", "%u of %u NVIDIA GPUs may not be opened by this process (container or cgroup)", hidden, count);
}

static const char *init_failure(int code)
{
	switch (code) {
	case NVML_NOT_LOADED:
		return "the NVIDIA library is there, but its kernel module is not loaded";
	case NVML_MISMATCH:
		return "the NVIDIA library and kernel module are of different versions, as after an update; restart the container or the machine";
	case NVML_NO_PERMISSION:
	case NVML_BLOCKED:
		return "this process may not open the NVIDIA devices";
	default:
		return NULL;
	}
}

void probe_nvml(struct probe *p, void *(*find)(void *arg, const char *name), void *arg)
{
	struct nvml n = { p, find, arg };
	int code = CALL(&n, "nvmlInit_v2", (void));

	if (code != NVML_OK) {
		if (init_failure(code))
			probe_note(p, "nvml", "%s", init_failure(code));
		else
			probe_note(p, "nvml", "the NVIDIA library does not start: code %d", code);
		return;
	}
	versions(&n);
	devices(&n);
	(void)CALL(&n, "nvmlShutdown", (void));
}

static void *in_library(void *library, const char *name) { return dlsym(library, name); }

static void *open_library(const char *name)
{
	void *lib = dlopen(*name ? name : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);

	return lib || *name ? lib : dlopen("libnvidia-ml.so", RTLD_NOW | RTLD_LOCAL);
}

/* --- nothing but power --- */

bool probe_nvml_power(struct probe *p, void *(*find)(void *arg, const char *name), void *arg)
{
	struct nvml n = { p, find, arg };
	unsigned count = 0;
	bool whole = true;

	if (CALL(&n, "nvmlDeviceGetCount_v2", (unsigned *), &count) != NVML_OK)
		return false;
	for (unsigned i = 0; i < count; i++) {
		nvml_device d;
		Corral__Gpu *g;
		char *id;
		int code = CALL(&n, "nvmlDeviceGetHandleByIndex_v2", (unsigned, nvml_device *), i, &d);

		if (code != NVML_OK) {
			whole &= !is_broken(code);
			continue;
		}
		g = probe_gpu(p, "nvidia", "nvml");
		if (!g)
			break;
		id = text_of(&n, d, "nvmlDeviceGetUUID");
		g->id = id ? id : pci_of(&n, d);
		whole &= power_of_device(&n, d, g);
	}
	return whole;
}

void nvml_kept_close(struct nvml_kept *kept)
{
	struct nvml n = { NULL, in_library, kept->library };

	if (!kept->library)
		return;
	(void)CALL(&n, "nvmlShutdown", (void));
	dlclose(kept->library);
	kept->library = NULL;
}

static void keep_open(struct nvml_kept *kept, const char *library)
{
	struct nvml n = { NULL, in_library, open_library(library) };

	if (n.arg && CALL(&n, "nvmlInit_v2", (void)) == NVML_OK)
		kept->library = n.arg;
	else if (n.arg)
		dlclose(n.arg);
}

void probe_nvidia_power(struct probe *p, const char *library, struct nvml_kept *kept)
{
	if (strcmp(library, "off") == 0)
		return;
	if (!kept->library)
		keep_open(kept, library);
	if (kept->library && !probe_nvml_power(p, in_library, kept->library))
		nvml_kept_close(kept);
}

/* --- everything --- */

/* Presence without the library: a name, no memory. */
static void from_procfs(struct probe *p)
{
	const char *names[16];
	unsigned n = probe_list(p, "/proc/driver/nvidia/gpus", names, 16);

	for (unsigned i = 0; i < n; i++) {
		struct str text = probe_read(p, "/proc/driver/nvidia/gpus/%s/information", names[i]), line;
		Corral__Gpu *g = probe_gpu(p, "nvidia", "procfs");

		if (!g)
			return;
		g->id = g->pci = arena_printf(p->mem, "%s", names[i]);
		g->name = arena_printf(p->mem, "NVIDIA GPU");
		while (text.n && str_split(&text, '\n', &line)) {
			struct str rest = line, key;

			if (str_split(&rest, ':', &key) && rest.p && str_eqz(key, "Model"))
				g->name = arena_dup(p->mem, str_trim(rest).p, str_trim(rest).n);
		}
	}
	if (n)
		probe_note(p, "procfs", "an NVIDIA kernel module is loaded, but its library cannot be opened here: memory and use are not known "
			   "(in a container, the capability 'utility' brings the library)");
}

void probe_nvidia(struct probe *p, const char *library)
{
	void *lib;

	if (strcmp(library, "off") == 0)
		return;
	lib = open_library(library);
	if (!lib) {
		if (*library)
			probe_note(p, "nvml", "'%s' cannot be opened: %s", library, dlerror());
		from_procfs(p);
		return;
	}
	probe_nvml(p, in_library, lib);
	dlclose(lib);
}

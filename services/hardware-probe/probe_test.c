/* probe_test.c - recorded trees of /proc and /sys, and a library that answers as NVML does: what is seen, and what is said to be unseen. */
#include "services/hardware-probe/probe_test.h"

static Corral__HardwareSnapshot *look(struct tree *t) { return probe_machine(t->mem, t->root, "off", &(struct opt_list){ 0 }); }

static bool noted(const Corral__HardwareSnapshot *hw, const char *text)
{
	for (size_t i = 0; i < hw->n_notes; i++)
		if (strstr(hw->notes[i]->text, text))
			return true;
	return false;
}

static const char meminfo[] = "MemTotal:       32768000 kB\nMemFree:         1000000 kB\nMemAvailable:   20480000 kB\nSwapFree:              0 kB\n";

/* --- host --- */

static void test_this_machine(void **state)
{
	struct tree *t = *state;
	const char *dirs[] = { "/", "/no/such/directory" };
	Corral__HardwareSnapshot *hw = probe_machine(t->mem, "", "", &(struct opt_list){ .items = dirs, .n = 2 });

	assert_true(hw->cpu->usable_cores >= 1 && hw->cpu->cores >= hw->cpu->usable_cores);
	assert_true(hw->memory->total_bytes > 0 && hw->memory->usable_bytes > 0 && hw->memory->usable_bytes <= hw->memory->total_bytes);
	assert_int_equal(hw->n_disks, 1);
	assert_true(hw->disks[0]->free_bytes > 0);
	assert_true(noted(hw, "/no/such/directory"));
}

static void test_nothing_can_be_read(void **state)
{
	Corral__HardwareSnapshot *hw = look(*state);

	assert_int_equal(hw->n_gpus, 0);
	assert_int_equal(hw->memory->total_bytes, -1);
	assert_true(noted(hw, "/proc/meminfo") && noted(hw, "no GPU is visible"));
	assert_string_equal(hw->cpu->simd, "none");
}

static void test_processor(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/proc/cpuinfo", "processor\t: 0\nmodel name\t: Example CPU 9000\nflags\t\t: fpu sse4_2 avx avx2 avx512f amx_tile\n");
	put(t, "/proc/meminfo", meminfo);
	put(t, "/proc/loadavg", "1.25 0.5 0.1 1/200 77\n");
	put(t, "/sys/devices/system/cpu/online", "0-15,32-47\n");
	put(t, "/sys/devices/system/node/node0/x", "");
	put(t, "/sys/devices/system/node/node1/x", "");
	put(t, "/sys/devices/system/node/online", "0-1");
	hw = look(t);
	assert_string_equal(hw->cpu->model, "Example CPU 9000");
	assert_string_equal(hw->cpu->simd, "amx");
	assert_int_equal(hw->cpu->cores, 32);
	assert_int_equal(hw->cpu->numa_nodes, 2);
	assert_true(hw->cpu->load_1m == 1.25 && hw->cpu->limit_cores < 0);
	assert_int_equal(hw->memory->total_bytes, INT64_C(32768000) * 1024);
	assert_int_equal(hw->memory->usable_bytes, INT64_C(20480000) * 1024);
	assert_int_equal(hw->memory->limit_bytes, -1);
}

/* The parent's limit is the smaller one; the page cache in a group does not count as used. */
static void test_limits_v2(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/proc/meminfo", meminfo);
	put(t, "/proc/self/cgroup", "0::/kubepods/pod1/c1\n");
	put(t, "/sys/fs/cgroup/cgroup.controllers", "cpu memory");
	put(t, "/sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n");
	put(t, "/sys/fs/cgroup/kubepods/pod1/c1/memory.current", "999\n");
	put(t, "/sys/fs/cgroup/kubepods/pod1/memory.max", "8589934592\n");
	put(t, "/sys/fs/cgroup/kubepods/pod1/memory.current", "6442450944\n");
	put(t, "/sys/fs/cgroup/kubepods/pod1/memory.stat", "anon 1\ninactive_file 5368709120\n");
	put(t, "/sys/fs/cgroup/kubepods/memory.max", "17179869184\n");
	put(t, "/sys/fs/cgroup/kubepods/memory.current", "0\n");
	put(t, "/sys/fs/cgroup/kubepods/pod1/cpu.max", "250000 100000\n");
	put(t, "/sys/fs/cgroup/kubepods/cpu.max", "max 100000\n");
	hw = look(t);
	assert_int_equal(hw->memory->limit_bytes, INT64_C(8) << 30);
	assert_int_equal(hw->memory->usable_bytes, INT64_C(7) << 30);
	assert_true(hw->cpu->limit_cores == 2.5);
}

static void test_limits_v1(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/proc/meminfo", meminfo);
	put(t, "/proc/self/cgroup", "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n");
	put(t, "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "4294967296\n");
	put(t, "/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "3221225472\n");
	put(t, "/sys/fs/cgroup/memory/docker/abc/memory.stat", "total_inactive_file 1073741824\n");
	put(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put(t, "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
	put(t, "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n");
	hw = look(t);
	assert_int_equal(hw->memory->limit_bytes, INT64_C(4) << 30);
	assert_int_equal(hw->memory->usable_bytes, INT64_C(2) << 30);
	assert_true(hw->cpu->limit_cores < 0);
}

/* --- sysfs --- */

static void test_amd(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/sys/class/drm/card0/device/vendor", "0x1002\n");
	put(t, "/sys/class/drm/card0/device/device", "0x744c\n");
	put(t, "/sys/class/drm/card0/device/uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n");
	put(t, "/sys/class/drm/card0/device/mem_info_vram_total", "25753026560\n");
	put(t, "/sys/class/drm/card0/device/mem_info_vram_used", "1073741824\n");
	put(t, "/sys/class/drm/card0/device/gpu_busy_percent", "37\n");
	put(t, "/sys/class/drm/card0/device/drm/renderD128/x", "");
	put(t, "/sys/class/drm/card0/device/hwmon/hwmon4/temp1_input", "61000\n");
	put(t, "/sys/class/drm/card0/device/hwmon/hwmon4/power1_average", "187000000\n");
	put(t, "/sys/class/drm/card0-DP-1/device/vendor", "0x1002\n");
	put(t, "/sys/class/kfd/kfd/topology/nodes/0/properties", "simd_count 0\n");
	put(t, "/sys/class/kfd/kfd/topology/nodes/1/properties", "gfx_target_version 110000\ndrm_render_minor 128\n");
	hw = look(t);
	assert_int_equal(hw->n_gpus, 1);
	assert_string_equal(hw->gpus[0]->vendor, "amd");
	assert_string_equal(hw->gpus[0]->id, "0000:03:00.0");
	assert_string_equal(hw->gpus[0]->architecture, "gfx1100");
	assert_int_equal(hw->gpus[0]->memory_free_bytes, INT64_C(25753026560) - 1073741824);
	assert_true(hw->gpus[0]->utilisation == 0.37 && hw->gpus[0]->temperature_celsius == 61 && hw->gpus[0]->power_watts == 187);
	assert_true(hw->gpus[0]->power_limit_watts < 0 && !hw->gpus[0]->shared_memory);
}

static void test_integrated_and_dumb_cards(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/sys/class/drm/card0/device/vendor", "0x8086\n");
	put(t, "/sys/class/drm/card0/device/uevent", "PCI_SLOT_NAME=0000:00:02.0\n");
	put(t, "/sys/class/drm/card1/device/vendor", "0x1002\n");
	put(t, "/sys/class/drm/card1/device/mem_info_vram_total", "536870912\n");
	put(t, "/sys/class/drm/card1/device/mem_info_gtt_total", "16106127360\n");
	put(t, "/sys/class/drm/card2/device/vendor", "0x1002\n");
	put(t, "/sys/class/drm/card3/device/vendor", "0x1234\n");
	hw = look(t);
	assert_int_equal(hw->n_gpus, 3);
	assert_true(hw->gpus[0]->shared_memory && hw->gpus[1]->shared_memory && !hw->gpus[2]->shared_memory);
	assert_int_equal(hw->gpus[2]->memory_total_bytes, -1);
	assert_true(noted(hw, "memory of an Intel GPU") && noted(hw, "its driver (amdgpu) may be missing"));
}

/* --- NVML: a library of two GPUs, the second split in two parts with a gap between; a third one hidden --- */

enum { WHOLE_0 = 1, WHOLE_1, PART_0, PART_2 };
static int init_code, power_code;
static int64_t clock_us;
static const char *missing;           /* a function that this driver does not have */
static bool no_memory;

#define DEV(d) ((int)(intptr_t)(d))

static int f_init(void) { return init_code; }
static int f_shutdown(void) { return 0; }
static int f_driver(char *s, unsigned n) { snprintf(s, n, "580.65.06"); return 0; }
static int f_cuda(int *v) { *v = 13000; return 0; }
/* A driver that thinks for 8 s before it answers. */
static int f_count(unsigned *n) { *n = 3, clock_us += 8000000; return 0; }
static int f_handle(unsigned i, void **d) { *d = (void *)(intptr_t)(WHOLE_0 + i); return i < 2 ? 0 : 17; }
static int f_name(void *d, char *s, unsigned n) { snprintf(s, n, "%s", DEV(d) == WHOLE_0 ? "Example RTX" : "Example H"); return 0; }
static int f_uuid(void *d, char *s, unsigned n) { snprintf(s, n, "%s-%d", DEV(d) >= PART_0 ? "MIG" : "GPU", DEV(d)); return 0; }

struct pci { char legacy[16]; unsigned words[5]; char id[32]; };
static int f_pci(void *d, struct pci *p) { snprintf(p->id, sizeof(p->id), "00000000:%02X:00.0", DEV(d)); return 0; }

struct mem { unsigned long long total, free, used; };
static int f_memory(void *d, struct mem *m)
{
	if (no_memory)
		return 3;
	*m = DEV(d) >= PART_0 ? (struct mem){ 20ULL << 30, 19ULL << 30, 1ULL << 30 } : (struct mem){ 24ULL << 30, 20ULL << 30, 4ULL << 30 };
	return 0;
}

struct mem2 { unsigned version; unsigned long long total, reserved, free, used; };
static int f_memory2(void *d, struct mem2 *m)
{
	struct mem v1;

	if (m->version != 0x02000028)
		return 25;
	if (f_memory(d, &v1))
		return 3;
	*m = (struct mem2){ m->version, v1.total, 1, v1.free, v1.used };
	return 0;
}

static int f_busy(void *d, unsigned v[2]) { v[0] = 42; return DEV(d) == WHOLE_0 ? 0 : 3; }
static int f_temperature(void *d, int kind, unsigned *v) { *v = 66; return kind == 0 ? 0 : 2; }
static int f_power(void *d, unsigned *v) { *v = 310500; return power_code; }
static int f_energy(void *d, unsigned long long *v) { *v = 5000; return 0; }
static int f_capability(void *d, int *major, int *minor) { *major = 9, *minor = 0; return 0; }
static int f_architecture(void *d, unsigned *v) { *v = 9; return 0; }
static int f_reasons(void *d, unsigned long long *v) { *v = DEV(d) == WHOLE_0 ? 0x4 | 0x40 | 0x1 : 0; return 0; }

struct process { unsigned pid; unsigned long long used; unsigned instance[2]; };
static int f_processes(void *d, unsigned *n, struct process *p)
{
	if (*n < 2)
		return 7;
	*n = 2;
	p[0] = (struct process){ .pid = 4242, .used = 3ULL << 30 };
	p[1] = (struct process){ .pid = 4243, .used = ~0ULL };
	return 0;
}

static int f_mig(void *d, unsigned *now, unsigned *pending) { *now = *pending = DEV(d) == WHOLE_1; return DEV(d) == WHOLE_0 ? 3 : 0; }
static int f_mig_max(void *d, unsigned *n) { *n = 7; return 0; }
static int f_mig_part(void *d, unsigned i, void **ret) { *ret = (void *)(intptr_t)(i == 0 ? PART_0 : PART_2); return i == 0 || i == 2 ? 0 : 6; }

#define F(name, fn) { name, (void *)(fn) }
static void *find(void *arg, const char *name)
{
	static const struct { const char *name; void *fn; } all[] = {
		F("nvmlInit_v2", f_init), F("nvmlShutdown", f_shutdown), F("nvmlSystemGetDriverVersion", f_driver),
		F("nvmlSystemGetCudaDriverVersion_v2", f_cuda), F("nvmlDeviceGetCount_v2", f_count), F("nvmlDeviceGetHandleByIndex_v2", f_handle),
		F("nvmlDeviceGetName", f_name), F("nvmlDeviceGetUUID", f_uuid), F("nvmlDeviceGetPciInfo_v3", f_pci),
		F("nvmlDeviceGetMemoryInfo", f_memory), F("nvmlDeviceGetMemoryInfo_v2", f_memory2), F("nvmlDeviceGetUtilizationRates", f_busy),
		F("nvmlDeviceGetTemperature", f_temperature), F("nvmlDeviceGetPowerUsage", f_power), F("nvmlDeviceGetTotalEnergyConsumption", f_energy),
		F("nvmlDeviceGetCudaComputeCapability", f_capability), F("nvmlDeviceGetArchitecture", f_architecture),
		F("nvmlDeviceGetCurrentClocksThrottleReasons", f_reasons), F("nvmlDeviceGetComputeRunningProcesses_v3", f_processes),
		F("nvmlDeviceGetMigMode", f_mig), F("nvmlDeviceGetMaxMigDeviceCount", f_mig_max), F("nvmlDeviceGetMigDeviceHandleByIndex", f_mig_part),
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (strcmp(all[i].name, name) == 0 && !(missing && strstr(name, missing)))
			return all[i].fn;
	return NULL;
}

static Corral__HardwareSnapshot *look_nvml(struct tree *t)
{
	struct probe p = probe_new(t->mem, t->root);

	p.hw = look(t);
	p.hw->n_notes = 0;
	probe_nvml(&p, find, NULL);
	return p.hw;
}

static void reset(void) { init_code = power_code = 0, missing = NULL, no_memory = false; }

static void test_nvml(void **state)
{
	Corral__HardwareSnapshot *hw;
	struct tree *t = *state;

	reset();
	put(t, "/proc/4242/comm", "llama-server\n");
	hw = look_nvml(t);
	assert_int_equal(hw->n_gpus, 4);
	assert_string_equal(hw->nvidia_driver, "580.65.06");
	assert_string_equal(hw->cuda, "13.0");
	assert_string_equal(hw->gpus[0]->id, "GPU-1");
	assert_string_equal(hw->gpus[0]->architecture, "Hopper");
	assert_int_equal(hw->gpus[0]->memory_free_bytes, INT64_C(20) << 30);
	assert_true(hw->gpus[0]->utilisation == 0.42 && hw->gpus[0]->temperature_celsius == 66 && hw->gpus[0]->power_watts == 310.5);
	assert_int_equal(hw->gpus[0]->n_throttled_by, 2);
	assert_string_equal(hw->gpus[0]->throttled_by[1], "hardware thermal");
	assert_int_equal(hw->gpus[0]->n_processes, 2);
	assert_string_equal(hw->gpus[0]->processes[0]->name, "llama-server");
	assert_int_equal(hw->gpus[0]->processes[1]->memory_bytes, -1);
	assert_true(hw->gpus[1]->split && hw->gpus[1]->utilisation < 0);
	assert_string_equal(hw->gpus[2]->id, "MIG-3");
	assert_string_equal(hw->gpus[3]->parent, "GPU-2");
	assert_int_equal(hw->gpus[3]->memory_total_bytes, INT64_C(20) << 30);
	assert_true(noted(hw, "1 of 3 NVIDIA GPUs may not be opened"));
}

static void test_old_driver(void **state)
{
	Corral__HardwareSnapshot *hw;

	reset();
	missing = "MemoryInfo_v2";
	hw = look_nvml(*state);
	assert_int_equal(hw->gpus[0]->memory_total_bytes, INT64_C(24) << 30);
	missing = "Mig";
	assert_int_equal(look_nvml(*state)->n_gpus, 2);
	missing = "nvmlDeviceGet";            /* nothing but a start: no devices, no crash */
	assert_int_equal(look_nvml(*state)->n_gpus, 0);
}

static void test_memory_of_the_machine(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	reset();
	no_memory = true;
	put(t, "/proc/meminfo", meminfo);
	hw = look_nvml(t);
	assert_true(hw->gpus[0]->shared_memory);
	assert_int_equal(hw->gpus[0]->memory_total_bytes, hw->memory->total_bytes);
}

static void test_nvml_does_not_start(void **state)
{
	reset();
	init_code = 9;
	assert_true(noted(look_nvml(*state), "kernel module is not loaded"));
	init_code = 18;
	assert_true(noted(look_nvml(*state), "different versions"));
	init_code = 999;
	assert_true(noted(look_nvml(*state), "code 999"));
	init_code = 0;
	missing = "nvmlInit";
	assert_true(noted(look_nvml(*state), "code 13"));
}

/* Names and figures of power, read at the moment that is noted; nothing else is asked, and no part of a GPU. */
static int64_t a_clock(void) { return clock_us; }

static void test_nvml_for_power(void **state)
{
	struct tree *t = *state;
	struct probe p = probe_new(t->mem, t->root);

	reset();
	p.clock = a_clock;
	clock_us = 1000000;
	missing = "Mem";
	assert_true(probe_nvml_power(&p, find, NULL));        /* one GPU of three is hidden, which is no error */
	assert_int_equal(p.hw->n_gpus, 2);
	assert_string_equal(p.hw->gpus[1]->id, "GPU-2");
	assert_true(p.hw->gpus[1]->power_watts == 310.5 && p.hw->gpus[1]->energy_joules == 5 && p.hw->gpus[1]->n_processes == 0 && p.hw->gpus[1]->utilisation < 0);
	assert_int_equal(p.power_read_us[0], 9000000);
	assert_int_equal(p.power_read_us[1], 9000000);
	missing = "nvmlDeviceGetPowerUsage";                  /* an older driver is none that is broken */
	assert_true(probe_nvml_power(&p, find, NULL));
	reset();
	power_code = 15;                                      /* the GPU is lost */
	assert_false(probe_nvml_power(&p, find, NULL));
	missing = "Count";
	assert_false(probe_nvml_power(&p, find, NULL));
}

static void test_name_of_the_boot(void **state)
{
	struct tree *t = *state;
	struct probe p = probe_new(t->mem, t->root);

	assert_string_equal(probe_boot_id(&p), "");
	put(t, "/proc/sys/kernel/random/boot_id", "0f2d7d0c-2a39-4c8e-9a53-7d1a4a1f0b11\n");
	assert_string_equal(probe_boot_id(&p), "0f2d7d0c-2a39-4c8e-9a53-7d1a4a1f0b11");
	put(t, "/proc/sys/kernel/random/boot_id", "none\n");
	assert_string_equal(probe_boot_id(&p), "");
}

/* One below which there is no room for a path: nothing is found there, and nothing is written beside the buffer. */
static void test_root_too_long(void **state)
{
	struct tree *t = *state;
	char *root = arena_array(t->mem, char, 5000);
	const char *names[4];
	struct probe p = probe_new(t->mem, root);

	memset(root, '/', 4999);
	root[4999] = '\0';
	assert_null(probe_read(&p, "/proc/%s", "meminfo").p);
	assert_int_equal(probe_list(&p, "/proc", names, 4), 0);
	root[PROBE_ROOT_MAX] = '\0';
	assert_true(probe_read(&p, "/proc/%s", "meminfo").n > 0);
}

static void test_no_library(void **state)
{
	struct tree *t = *state;
	Corral__HardwareSnapshot *hw;

	put(t, "/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t Example RTX\nIRQ:   99\n");
	hw = probe_machine(t->mem, t->root, "/no/such/library.so", &(struct opt_list){ 0 });
	assert_int_equal(hw->n_gpus, 1);
	assert_string_equal(hw->gpus[0]->name, "Example RTX");
	assert_string_equal(hw->gpus[0]->source, "procfs");
	assert_true(noted(hw, "/no/such/library.so") && noted(hw, "its library cannot be opened"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_this_machine), T(test_nothing_can_be_read), T(test_processor), T(test_limits_v2), T(test_limits_v1), T(test_amd),
		T(test_integrated_and_dumb_cards), T(test_nvml), T(test_old_driver), T(test_memory_of_the_machine), T(test_nvml_does_not_start),
		T(test_no_library), T(test_nvml_for_power), T(test_name_of_the_boot), T(test_root_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* host.c - processor, memory, limits of the control group, disk: procfs and sysfs, as proc(5) and the kernel's cgroup documents have them.
 *
 * A limit holds for a group and everything below it, so the smallest on the way up is the one in force. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/data/opt.h"
#include "services/hardware-probe/probe.h"

/* --- processor --- */

/* The value of "name<blanks>: value" in a text of lines. */
static struct str line_value(struct str text, const char *name)
{
	struct str line;

	while (str_split(&text, '\n', &line)) {
		struct str rest = line, key;

		if (str_split(&rest, ':', &key) && rest.p && str_eqz(str_trim(key), name))
			return str_trim(rest);
	}
	return STR("");
}

static bool has_word(struct str words, const char *word, bool prefix)
{
	struct str w;

	while (str_split(&words, ' ', &w))
		if (prefix ? str_starts(w, str_of(word)) : str_eqz(w, word))
			return true;
	return false;
}

static const char *simd_of(struct str flags)
{
	static const struct { const char *flag, *name; bool prefix; } levels[] = {
		{ "amx_", "amx", true }, { "avx512f", "avx512", false }, { "avx2", "avx2", false }, { "avx", "avx", false },
		{ "sse4_2", "sse4.2", false }, { "sve", "sve", false }, { "asimd", "neon", false }, { "neon", "neon", false },
	};

	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
		if (has_word(flags, levels[i].flag, levels[i].prefix))
			return levels[i].name;
	return "none";
}

/* "0-3,8" is 5. */
static uint32_t count_list(struct str list)
{
	struct str part;
	uint32_t n = 0;

	while (list.n && str_split(&list, ',', &part)) {
		struct str rest = str_trim(part), low;
		uint64_t a, b;

		if (!str_split(&rest, '-', &low) || !str_u64(low, &a))
			continue;
		b = a;
		if (rest.p && !str_u64(rest, &b))
			continue;
		n += b >= a && b - a < 65536 ? (uint32_t)(b - a + 1) : 0;
	}
	return n;
}

static uint32_t numa_nodes(struct probe *p)
{
	const char *names[256];
	unsigned all = probe_list(p, "/sys/devices/system/node", names, 256), n = 0;

	for (unsigned i = 0; i < all; i++)
		n += strncmp(names[i], "node", 4) == 0 && names[i][4] >= '0' && names[i][4] <= '9';
	return n;
}

static void cpu(struct probe *p)
{
	Corral__Cpu *c = arena_new_of(p->mem, Corral__Cpu);
	struct str info = probe_read(p, "/proc/cpuinfo"), flags = line_value(info, "flags"), load = probe_read(p, "/proc/loadavg"), first;
	struct str name = line_value(info, "model name");
	cpu_set_t set;

	corral__cpu__init(c);
	if (!name.n)
		name = line_value(info, "Model");
	c->model = arena_dup(p->mem, name.p, name.n);
	c->simd = arena_printf(p->mem, "%s", simd_of(flags.n ? flags : line_value(info, "Features")));
	c->cores = count_list(probe_read(p, "/sys/devices/system/cpu/online"));
	c->usable_cores = c->cores;
	if (!*p->root && sched_getaffinity(0, sizeof(set), &set) == 0)
		c->usable_cores = (uint32_t)CPU_COUNT(&set);
	if (!c->cores)
		c->cores = c->usable_cores;
	c->numa_nodes = numa_nodes(p);
	c->limit_cores = c->load_1m = -1;
	if (str_split(&load, ' ', &first))
		(void)str_double(first, &c->load_1m);
	if (!c->model[0])
		probe_note(p, "procfs", "/proc/cpuinfo does not name the processor");
	p->hw->cpu = c;
}

/* --- control groups --- */

/* The path of this process in a hierarchy: "0::/path" of v2, "N:memory:/path" of v1. False: there is none. */
static bool cgroup_path(struct probe *p, const char *controller, char *ret, size_t cap)
{
	struct str text = probe_read(p, "/proc/self/cgroup"), line;

	while (text.n && str_split(&text, '\n', &line)) {
		struct str rest = line, number, names, name;

		if (!str_split(&rest, ':', &number) || !str_split(&rest, ':', &names))
			continue;
		if (!*controller && str_eqz(number, "0") && !names.n)
			return str_copy(ret, cap, rest);
		while (*controller && names.n && str_split(&names, ',', &name))
			if (str_eqz(name, controller))
				return str_copy(ret, cap, rest);
	}
	return false;
}

/* Calls see() for the group and each one above it, up to the root of the hierarchy. In a container the path is often not there, but its
 * files lie at the root. */
static void each_group(struct probe *p, const char *base, char *path, void (*see)(struct probe *, const char *dir))
{
	for (;;) {
		char dir[1024], *slash;

		snprintf(dir, sizeof(dir), "%s%s", base, strcmp(path, "/") == 0 ? "" : path);
		see(p, dir);
		slash = strrchr(path, '/');
		if (!slash || strcmp(path, "/") == 0)
			return;
		slash[slash == path ? 1 : 0] = '\0';
	}
}

static void lower(int64_t *limit, int64_t value)
{
	if (value >= 0 && (*limit < 0 || value < *limit))
		*limit = value;
}

static int64_t stat_value(struct str text, const char *name)
{
	struct str line;
	int64_t v;

	while (text.n && str_split(&text, '\n', &line)) {
		struct str rest = line, key;

		if (str_split(&rest, ' ', &key) && str_eqz(key, name) && str_i64(str_trim(rest), &v))
			return v;
	}
	return 0;
}

/* What may still be taken in a group: its limit less what it has, but for the page cache, which the kernel takes back. */
static void take_memory(struct probe *p, int64_t limit, int64_t used, int64_t cache)
{
	Corral__Memory *m = p->hw->memory;
	int64_t left = limit - (used > cache ? used - cache : 0);

	lower(&m->limit_bytes, limit);
	lower(&m->usable_bytes, left > 0 ? left : 0);
}

static void see_memory_v2(struct probe *p, const char *dir)
{
	int64_t limit, used = 0;

	if (!probe_number(p, &limit, "%s/memory.max", dir))
		return;                   /* "max", or no such file */
	(void)probe_number(p, &used, "%s/memory.current", dir);
	take_memory(p, limit, used, stat_value(probe_read(p, "%s/memory.stat", dir), "inactive_file"));
}

static void see_memory_v1(struct probe *p, const char *dir)
{
	int64_t limit, used = 0;

	/* without a limit it says 2^63 less a page, or more than the machine has */
	if (!probe_number(p, &limit, "%s/memory.limit_in_bytes", dir) || limit >= p->hw->memory->total_bytes)
		return;
	(void)probe_number(p, &used, "%s/memory.usage_in_bytes", dir);
	take_memory(p, limit, used, stat_value(probe_read(p, "%s/memory.stat", dir), "total_inactive_file"));
}

static void take_quota(struct probe *p, int64_t quota, int64_t period)
{
	Corral__Cpu *c = p->hw->cpu;
	double cores = quota > 0 && period > 0 ? (double)quota / (double)period : -1;

	if (cores > 0 && (c->limit_cores < 0 || cores < c->limit_cores))
		c->limit_cores = cores;
}

static void see_cpu_v2(struct probe *p, const char *dir)
{
	struct str rest = probe_read(p, "%s/cpu.max", dir), quota;
	int64_t q, period;

	if (rest.n && str_split(&rest, ' ', &quota) && str_i64(quota, &q) && str_i64(str_trim(rest), &period))
		take_quota(p, q, period);
}

static void see_cpu_v1(struct probe *p, const char *dir)
{
	int64_t q, period;

	if (probe_number(p, &q, "%s/cpu.cfs_quota_us", dir) && probe_number(p, &period, "%s/cpu.cfs_period_us", dir))
		take_quota(p, q, period);
}

static void limits(struct probe *p)
{
	char path[512];
	struct str cpus;

	if (cgroup_path(p, "", path, sizeof(path)) && probe_read(p, "/sys/fs/cgroup/cgroup.controllers").p) {
		each_group(p, "/sys/fs/cgroup", path, see_memory_v2);
		if (cgroup_path(p, "", path, sizeof(path)))
			each_group(p, "/sys/fs/cgroup", path, see_cpu_v2);
		cpus = probe_read(p, "/sys/fs/cgroup/cpuset.cpus.effective");
	} else {
		if (cgroup_path(p, "memory", path, sizeof(path)))
			each_group(p, "/sys/fs/cgroup/memory", path, see_memory_v1);
		if (cgroup_path(p, "cpu", path, sizeof(path)))
			each_group(p, "/sys/fs/cgroup/cpu", path, see_cpu_v1);
		cpus = probe_read(p, "/sys/fs/cgroup/cpuset/cpuset.effective_cpus");
	}
	if (count_list(cpus) && count_list(cpus) < p->hw->cpu->usable_cores)
		p->hw->cpu->usable_cores = count_list(cpus);
}

/* --- memory --- */

/* A value of /proc/meminfo, in bytes; -1 when absent. */
static int64_t meminfo(struct str text, const char *name)
{
	struct str value = line_value(text, name), kb;
	int64_t v;

	return str_split(&value, ' ', &kb) && str_i64(kb, &v) ? v * 1024 : -1;
}

static void memory(struct probe *p)
{
	Corral__Memory *m = arena_new_of(p->mem, Corral__Memory);
	struct str text = probe_read(p, "/proc/meminfo");

	corral__memory__init(m);
	m->total_bytes = meminfo(text, "MemTotal");
	m->available_bytes = meminfo(text, "MemAvailable");
	if (m->available_bytes < 0 && m->total_bytes >= 0)
		m->available_bytes = meminfo(text, "MemFree") + meminfo(text, "Buffers") + meminfo(text, "Cached");
	m->swap_free_bytes = meminfo(text, "SwapFree");
	m->limit_bytes = -1;
	m->usable_bytes = m->available_bytes;
	p->hw->memory = m;
	if (m->total_bytes < 0)
		probe_note(p, "procfs", "/proc/meminfo cannot be read");
}

/* --- disk --- */

static void disk(struct probe *p, const char *path)
{
	struct statvfs st;
	Corral__Disk *d;

	if (p->hw->n_disks == PROBE_DISKS)
		return;
	if (statvfs(path, &st) != 0) {
		probe_note(p, "disk", "'%s' cannot be looked at", path);
		return;
	}
	d = arena_new_of(p->mem, Corral__Disk);
	corral__disk__init(d);
	d->path = arena_printf(p->mem, "%s", path);
	d->total_bytes = (int64_t)st.f_blocks * (int64_t)st.f_frsize;
	d->free_bytes = (int64_t)st.f_bavail * (int64_t)st.f_frsize;
	p->hw->disks[p->hw->n_disks++] = d;
}

void probe_host(struct probe *p, const struct opt_list *dirs)
{
	cpu(p);
	memory(p);
	limits(p);
	for (size_t i = 0; dirs && i < dirs->n; i++)
		disk(p, dirs->items[i]);
	p->hw->in_container = probe_read(p, "/.dockerenv").p || probe_read(p, "/run/.containerenv").p || getenv("KUBERNETES_SERVICE_HOST");
}

/* drm.c - AMD and Intel GPUs from sysfs, and NVIDIA's presence from procfs when its library cannot be had.
 *
 * Not verified on hardware: written from the kernel's documentation and from what other programs read. */
#include <stdio.h>

#include "services/hardware-probe/probe.h"

enum { CARDS = 64 };

/* amdgpu and xe put one value into each file; hwmon's unit is in the file's kind: m°C, µW. */
static void hwmon(struct probe *p, const char *device, Corral__Gpu *g)
{
	const char *names[8];
	char dir[512];
	int64_t v;

	snprintf(dir, sizeof(dir), "%s/hwmon", device);
	for (unsigned i = 0, n = probe_list(p, dir, names, 8); i < n; i++) {
		if (probe_number(p, &v, "%s/%s/temp1_input", dir, names[i]))
			g->temperature_celsius = (double)v / 1000;
		if (probe_number(p, &v, "%s/%s/power1_average", dir, names[i]) || probe_number(p, &v, "%s/%s/power1_input", dir, names[i]))
			g->power_watts = (double)v / 1e6;
		if (probe_number(p, &v, "%s/%s/power1_cap", dir, names[i]))
			g->power_limit_watts = (double)v / 1e6;
		if (probe_number(p, &v, "%s/%s/energy1_input", dir, names[i]))
			g->energy_joules = (double)v / 1e6;
		p->power_read_us[g->index] = p->clock();
	}
}

static void pci_id(struct probe *p, const char *device, Corral__Gpu *g)
{
	struct str uevent = probe_read(p, "%s/uevent", device), line;

	while (uevent.n && str_split(&uevent, '\n', &line))
		if (str_starts(line, STR("PCI_SLOT_NAME=")))
			g->pci = arena_dup(p->mem, line.p + 14, line.n - 14);
}

/* The KFD node of a card has the name of its instruction set: 110000 is gfx1100, 90402 gfx942 (steps are hexadecimal). */
static void kfd_name(struct probe *p, int64_t minor, Corral__Gpu *g)
{
	const char *nodes[CARDS];
	unsigned n = probe_list(p, "/sys/class/kfd/kfd/topology/nodes", nodes, CARDS);

	for (unsigned i = 0; i < n; i++) {
		struct str text = probe_read(p, "/sys/class/kfd/kfd/topology/nodes/%s/properties", nodes[i]), line;
		int64_t version = 0, render = -1;

		while (text.n && str_split(&text, '\n', &line)) {
			struct str rest = line, key;

			if (!str_split(&rest, ' ', &key))
				continue;
			if (str_eqz(key, "gfx_target_version"))
				(void)str_i64(rest, &version);
			if (str_eqz(key, "drm_render_minor"))
				(void)str_i64(rest, &render);
		}
		if (version > 0 && render == minor)
			g->architecture = arena_printf(p->mem, "gfx%d%d%x", (int)(version / 10000), (int)(version / 100 % 100), (unsigned)(version % 100));
	}
}

static int64_t render_minor(struct probe *p, const char *device)
{
	const char *names[16];
	char dir[512];
	uint64_t minor;

	snprintf(dir, sizeof(dir), "%s/drm", device);
	for (unsigned i = 0, n = probe_list(p, dir, names, 16); i < n; i++)
		if (strncmp(names[i], "renderD", 7) == 0 && str_u64(str_of(names[i] + 7), &minor))
			return (int64_t)minor;
	return -1;
}

static void amd(struct probe *p, const char *device)
{
	Corral__Gpu *g = probe_gpu(p, "amd", "sysfs");
	struct str name = probe_read(p, "%s/product_name", device), id = probe_read(p, "%s/unique_id", device);
	int64_t total, used, gtt, busy;

	if (!g)
		return;
	pci_id(p, device, g);
	kfd_name(p, render_minor(p, device), g);
	g->id = id.n ? arena_printf(p->mem, "GPU-%s", id.p) : g->pci;
	g->name = name.n ? (char *)name.p : arena_printf(p->mem, "AMD GPU %s", probe_read(p, "%s/device", device).n ? probe_read(p, "%s/device", device).p : "");
	if (probe_number(p, &total, "%s/mem_info_vram_total", device)) {
		g->memory_total_bytes = total;
		if (probe_number(p, &used, "%s/mem_info_vram_used", device)) {
			g->memory_used_bytes = used;
			g->memory_free_bytes = total > used ? total - used : 0;
		}
		/* an APU: a small carve-out, the rest by way of the system's memory */
		g->shared_memory = total < INT64_C(3) << 30 && probe_number(p, &gtt, "%s/mem_info_gtt_total", device) && gtt > total;
	} else {
		probe_note(p, "sysfs", "the memory of %s is not shown; its driver (amdgpu) may be missing or old", g->name);
	}
	if (probe_number(p, &busy, "%s/gpu_busy_percent", device))
		g->utilisation = (double)busy / 100;
	hwmon(p, device, g);
}

/* i915 and xe tell their memory only by ioctl on the render node, whose free figures need privileges: presence is what can be said. */
static void intel(struct probe *p, const char *device)
{
	Corral__Gpu *g = probe_gpu(p, "intel", "sysfs");

	if (!g)
		return;
	pci_id(p, device, g);
	g->id = g->pci;
	g->name = arena_printf(p->mem, "Intel GPU %s", probe_read(p, "%s/device", device).n ? probe_read(p, "%s/device", device).p : "");
	g->shared_memory = strcmp(g->pci, "0000:00:02.0") == 0;      /* the address of every integrated one */
	hwmon(p, device, g);
	probe_note(p, "sysfs", "%s: there is no file that tells the memory of an Intel GPU; it is left out of what fits", g->name);
}

static bool is_card(const char *name)
{
	uint64_t n;

	return strncmp(name, "card", 4) == 0 && str_u64(str_of(name + 4), &n);
}

void probe_drm(struct probe *p)
{
	const char *names[CARDS];
	unsigned n = probe_list(p, "/sys/class/drm", names, CARDS);

	for (unsigned i = 0; i < n; i++) {
		char device[256];
		struct str vendor;

		if (!is_card(names[i]))
			continue;
		snprintf(device, sizeof(device), "/sys/class/drm/%s/device", names[i]);
		vendor = probe_read(p, "%s/vendor", device);
		if (str_eqz(vendor, "0x1002"))
			amd(p, device);
		else if (str_eqz(vendor, "0x8086"))
			intel(p, device);
	}
}

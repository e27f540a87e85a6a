/* probe.c - see probe.h: one look at the whole machine, and what its parts have in common. */
#include "services/hardware-probe/probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/opt.h"
#include "services/hardware-probe/power.h"

Corral__Gpu *probe_gpu(struct probe *p, const char *vendor, const char *source)
{
	Corral__Gpu *g;

	if (p->hw->n_gpus == PROBE_GPUS) {
		probe_note(p, source, "there are more than %d GPUs; the rest is left out", PROBE_GPUS);
		return NULL;
	}
	g = arena_new_of(p->mem, Corral__Gpu);
	corral__gpu__init(g);
	g->vendor = arena_printf(p->mem, "%s", vendor);
	g->source = arena_printf(p->mem, "%s", source);
	g->index = (uint32_t)p->hw->n_gpus;
	g->memory_total_bytes = g->memory_free_bytes = g->memory_used_bytes = -1;
	g->utilisation = g->temperature_celsius = g->power_watts = g->power_limit_watts = g->energy_joules = -1;
	return p->hw->gpus[p->hw->n_gpus++] = g;
}

void probe_note(struct probe *p, const char *source, const char *fmt, ...)
{
	Corral__Note *n;
	char text[300];
	va_list ap;

	if (p->hw->n_notes == PROBE_NOTES)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = arena_new_of(p->mem, Corral__Note);
	corral__note__init(n);
	n->source = arena_printf(p->mem, "%s", source);
	n->text = arena_printf(p->mem, "%s", text);
	p->hw->notes[p->hw->n_notes++] = n;
}

static struct str read_file(struct probe *p, const char *path)
{
	char part[16384];
	struct str s = { NULL, 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return s;
	n = read(fd, part, sizeof(part));
	close(fd);
	if (n < 0)
		return s;
	while (n && (part[n - 1] == '\n' || part[n - 1] == ' '))
		n--;
	return str_n(arena_dup(p->mem, part, (size_t)n), (size_t)n);
}

static struct str read_named(struct probe *p, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static struct str read_named(struct probe *p, const char *fmt, va_list ap)
{
	char path[2 * PROBE_ROOT_MAX];
	size_t n = strlen(p->root);

	if (n > PROBE_ROOT_MAX)
		return (struct str){ NULL, 0 };
	memcpy(path, p->root, n);
	vsnprintf(path + n, sizeof(path) - n, fmt, ap);
	return read_file(p, path);
}

struct str probe_read(struct probe *p, const char *fmt, ...)
{
	struct str text;
	va_list ap;

	va_start(ap, fmt);
	text = read_named(p, fmt, ap);
	va_end(ap);
	return text;
}

bool probe_number(struct probe *p, int64_t *ret, const char *fmt, ...)
{
	struct str text;
	va_list ap;

	va_start(ap, fmt);
	text = read_named(p, fmt, ap);
	va_end(ap);
	return str_i64(str_trim(text), ret);
}

static int by_name(const void *a, const void *b) { return strverscmp(*(const char *const *)a, *(const char *const *)b); }

unsigned probe_list(struct probe *p, const char *dir, const char **ret, unsigned max)
{
	char path[2 * PROBE_ROOT_MAX];
	unsigned n = 0;
	DIR *d;

	if (strlen(p->root) > PROBE_ROOT_MAX)
		return 0;
	snprintf(path, sizeof(path), "%s%s", p->root, dir);
	d = opendir(path);
	for (struct dirent *e; d && n < max && (e = readdir(d));)
		if (e->d_name[0] != '.')
			ret[n++] = arena_printf(p->mem, "%s", e->d_name);
	if (d)
		closedir(d);
	qsort(ret, n, sizeof(*ret), by_name);
	return n;
}

static Corral__HardwareSnapshot *new_snapshot(struct arena *mem)
{
	Corral__HardwareSnapshot *hw = arena_new_of(mem, Corral__HardwareSnapshot);

	corral__hardware_snapshot__init(hw);
	hw->gpus = arena_array(mem, Corral__Gpu *, PROBE_GPUS);
	hw->notes = arena_array(mem, Corral__Note *, PROBE_NOTES);
	hw->disks = arena_array(mem, Corral__Disk *, PROBE_DISKS);
	hw->power_milliwatts = hw->power_limit_milliwatts = -1;
	return hw;
}

struct probe probe_new(struct arena *mem, const char *root) { return (struct probe){ .mem = mem, .root = root, .hw = new_snapshot(mem), .clock = mono_us }; }

void probe_look(struct probe *p, const char *nvml, const struct opt_list *dirs)
{
	char node[256] = "";

	gethostname(node, sizeof(node) - 1);
	p->hw->node = arena_printf(p->mem, "%s", node);
	p->hw->detected_at_us = wall_us();
	probe_host(p, dirs);
	probe_nvidia(p, nvml);
	probe_drm(p);
	if (!p->hw->n_gpus)
		probe_note(p, "gpu", "no GPU is visible here: no NVIDIA driver library, and no AMD or Intel card in /sys/class/drm%s",
			   p->hw->in_container ? "; in a container it has to be handed in (NVIDIA_VISIBLE_DEVICES, /dev/dri)" : "");
	power_note(p);
}

Corral__HardwareSnapshot *probe_machine(struct arena *mem, const char *root, const char *nvml, const struct opt_list *dirs)
{
	struct probe p = probe_new(mem, root);

	probe_look(&p, nvml, dirs);
	return p.hw;
}

const char *probe_boot_id(struct probe *p)
{
	struct str id = probe_read(p, "/proc/sys/kernel/random/boot_id");

	return id.n == 36 && strlen(id.p) == 36 ? id.p : "";
}

/* power.c - see power.h. */
#include "services/hardware-probe/power.h"

#include <stdio.h>
#include <stdlib.h>

#include "services/hardware-probe/probe.h"

enum { SOURCES = PROBE_GPUS + 32, ZONES = 64 };

/* Above it a counter has jumped (a reset, a machine that slept): no single one of these draws so much. */
#define JUMP_MW INT64_C(20000000)

struct counter { char id[128]; int64_t uj, at_us; };

struct power_meter {
	struct counter counters[SOURCES];
	unsigned n;
	struct nvml_kept nvml;
};

struct sum { int64_t mw, limit_mw; unsigned told; bool unlimited; };

struct power_meter *power_meter_new(void) { return x_calloc(1, sizeof(struct power_meter)); }

void power_meter_free(struct power_meter *m)
{
	if (m)
		nvml_kept_close(&m->nvml);
	free(m);
}

static struct counter *counter_of(struct power_meter *m, const char *id)
{
	for (unsigned i = 0; i < m->n; i++)
		if (strcmp(m->counters[i].id, id) == 0)
			return &m->counters[i];
	if (m->n == SOURCES)
		return NULL;
	(void)str_copy(m->counters[m->n].id, sizeof(m->counters[0].id), str_of(id));
	m->counters[m->n].at_us = -1;
	return &m->counters[m->n++];
}

/* The mean in milliwatts since the counter was read last; -1: this was the first time, or it cannot be told. One that fell went round at 'range',
 * or began anew if that is not positive. */
static int64_t count(struct power_meter *m, const char *id, int64_t uj, int64_t range, int64_t now_us)
{
	struct counter *c = *id ? counter_of(m, id) : NULL, was;       /* without a name two could be taken for one */
	int64_t more, mw;

	if (!c || uj < 0)
		return -1;
	was = *c;
	c->uj = uj;
	c->at_us = now_us;
	if (was.at_us < 0 || now_us <= was.at_us)
		return -1;
	more = uj >= was.uj ? uj - was.uj : range > was.uj ? range - was.uj + uj : -1;
	if (more < 0)
		return -1;
	mw = (int64_t)((double)more * 1000 / (double)(now_us - was.at_us) + 0.5);
	return mw <= JUMP_MW ? mw : -1;
}

static void add(struct sum *s, int64_t mw)
{
	s->mw += mw;
	s->told++;
}

/* --- GPUs --- */

static void add_gpu(struct power_meter *m, const Corral__Gpu *g, int64_t now_us, struct sum *s)
{
	int64_t mw = -1;

	if (g->parent[0])
		return;
	if (g->energy_joules >= 0 && g->energy_joules < 9e12)
		mw = count(m, g->id, (int64_t)(g->energy_joules * 1e6), 0, now_us);
	/* the first time, or a counter that stands still though power is drawn */
	if (mw <= 0 && g->power_watts >= 0 && g->power_watts * 1000 <= (double)JUMP_MW)
		mw = (int64_t)(g->power_watts * 1000 + 0.5);
	if (mw < 0)
		return;
	add(s, mw);
	if (g->power_limit_watts > 0 && g->power_limit_watts * 1000 <= (double)JUMP_MW)
		s->limit_mw += (int64_t)(g->power_limit_watts * 1000 + 0.5);
	else
		s->unlimited = true;
}

static struct sum gpus(struct power_meter *m, const struct probe *p, const char *source)
{
	struct sum s = { 0 };

	for (size_t i = 0; i < p->hw->n_gpus; i++)
		if (strcmp(p->hw->gpus[i]->source, source) == 0)
			add_gpu(m, p->hw->gpus[i], p->power_read_us[i], &s);
	return s;
}

/* --- RAPL --- */

/* "intel-rapl:0" is a package, on AMD's processors too, "intel-rapl:0:2" a part of it. Memory is none of the package's figure, cores and
 * graphics are; "psys" counts packages once more. */
static bool counts(struct str zone, struct str name)
{
	const char *colon;

	if (!str_starts(zone, STR("intel-rapl:")))
		return false;
	zone = str_from(zone, 11);
	colon = str_find(zone, STR(":"));
	return colon ? str_eqz(name, "dram") : str_starts(name, STR("package"));
}

static struct sum rapl(struct power_meter *m, struct probe *p)
{
	const char *names[ZONES];
	struct sum s = { .unlimited = true };
	unsigned n = probe_list(p, "/sys/class/powercap", names, ZONES);

	for (unsigned i = 0; i < n; i++) {
		int64_t uj, range = 0, read_us, mw;

		if (!counts(str_of(names[i]), str_trim(probe_read(p, "/sys/class/powercap/%s/name", names[i]))) ||
		    !probe_number(p, &uj, "/sys/class/powercap/%s/energy_uj", names[i]))
			continue;
		read_us = p->clock();
		if (!probe_number(p, &range, "/sys/class/powercap/%s/max_energy_range_uj", names[i]))
			range = 0;
		mw = count(m, names[i], uj, range, read_us);
		if (mw >= 0)
			add(&s, mw);
	}
	return s;
}

/* RAPL is read every time, so that its figure is that of the time since the last look when it is needed. */
struct power power_of(struct power_meter *m, struct probe *p)
{
	struct sum nvml = gpus(m, p, "nvml"), sysfs = gpus(m, p, "sysfs"), cpu = rapl(m, p);

	if (nvml.mw + sysfs.mw == 0 && cpu.told)
		return (struct power){ cpu.mw, -1, "rapl" };
	if (nvml.told + sysfs.told == 0)
		return (struct power){ -1, -1, "" };
	return (struct power){ nvml.mw + sysfs.mw, nvml.unlimited || sysfs.unlimited ? -1 : nvml.limit_mw + sysfs.limit_mw,
			       !sysfs.told ? "nvml" : !nvml.told ? "sysfs" : "nvml+sysfs" };
}

void power_note(struct probe *p)
{
	int64_t uj;

	for (size_t i = 0; i < p->hw->n_gpus; i++)
		if (p->hw->gpus[i]->power_watts >= 0 || p->hw->gpus[i]->energy_joules >= 0)
			return;
	if (probe_read(p, "/sys/class/powercap/intel-rapl:0/name").n && !probe_number(p, &uj, "/sys/class/powercap/intel-rapl:0/energy_uj"))
		probe_note(p, "rapl", "the processor counts its energy, but only root may read it (/sys/class/powercap/intel-rapl:0/energy_uj)");
}

struct power power_look(struct power_meter *m, struct probe *p, const char *nvml)
{
	probe_nvidia_power(p, nvml, &m->nvml);
	probe_drm(p);
	return power_of(m, p);
}

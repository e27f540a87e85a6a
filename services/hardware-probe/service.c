/* service.c - the hardware-probe's table and life: a thread looks, the loop answers.
 *
 *   look thread (probe_machine) ──loop_post──▶ loop: 'last', the answers and the metrics
 *
 * A driver that hangs holds the look thread, never the loop: answers go on from the last look, with a note that says since when. */
#include "services/hardware-probe/service.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/hardware-probe/fit.h"
#include "services/hardware-probe/power.h"
#include "services/hardware-probe/probe.h"

struct hardware_config {
	const char *nvml_library, *models_catalogue, *hardware_root;
	struct opt_list hardware_disks;
	int64_t hardware_every, power_every;
};

#define C struct hardware_config
static const struct opt options[] = {
	OPT(C, DURATION, hardware_every, "10s", "How often the machine is looked at.", .min = 500, .max = 86400000),
	OPT(C, DURATION, power_every, "2s", "How often it is asked what it draws: GPUs that tell it, else RAPL.", .min = 100, .max = 86400000),
	OPT(C, STRING, hardware_root, "", "Directory before /proc and /sys, as where a container has those of its machine; empty = none."),
	OPT(C, STRING, nvml_library, "", "NVIDIA's management library; empty = the driver's, where there is one; off = do not look."),
	OPT(C, LIST, hardware_disks, "/", "Directories whose disk is shown, such as the one that holds models."),
	OPT(C, STRING, models_catalogue, "", "File of models to recommend, in place of the built-in one (services/hardware-probe/catalogue.tsv)."),
	OPT_END
};
#undef C

enum { M_GPU_TOTAL, M_GPU_USED, M_GPU_UTILISATION, M_GPU_TEMPERATURE, M_GPU_POWER, M_GPU_ENERGY, M_GPU_THROTTLED, M_MEMORY, M_DISK,
       M_POWER, M_ENERGY, M_LOOK_SECONDS, M_LOOKED, M_COUNT };

static const struct metric_def metrics[M_COUNT] = {
	[M_GPU_TOTAL] = { METRIC_GAUGE, "gpu_memory_total_bytes", "Memory of a GPU, or of a part of one.", "gpu,name" },
	[M_GPU_USED] = { METRIC_GAUGE, "gpu_memory_used_bytes", "Memory in use, what the driver keeps included.", "gpu,name" },
	[M_GPU_UTILISATION] = { METRIC_GAUGE, "gpu_utilisation_ratio", "Share of the time in which the GPU was busy.", "gpu,name" },
	[M_GPU_TEMPERATURE] = { METRIC_GAUGE, "gpu_temperature_celsius", "Temperature.", "gpu,name" },
	[M_GPU_POWER] = { METRIC_GAUGE, "gpu_power_watts", "Power drawn.", "gpu,name" },
	[M_GPU_ENERGY] = { METRIC_GAUGE, "gpu_energy_joules", "Energy since the driver was loaded.", "gpu,name" },
	[M_GPU_THROTTLED] = { METRIC_GAUGE, "gpu_throttled", "1 while its clocks are held down by heat or power.", "gpu,name" },
	[M_MEMORY] = { METRIC_GAUGE, "machine_memory_bytes", "Memory by kind: total, available, usable (limits of the container counted).", "kind" },
	[M_DISK] = { METRIC_GAUGE, "machine_disk_free_bytes", "Free bytes of the disk below a directory.", "path" },
	[M_POWER] = { METRIC_GAUGE, "machine_power_watts", "Power as hardware reports it: the GPUs', else processor and memory (RAPL). NaN: nothing tells it any more.", "source" },
	[M_ENERGY] = { METRIC_COUNTER, "machine_energy_joules_total", "That power over the time since the start.", "source" },
	[M_LOOK_SECONDS] = { METRIC_GAUGE, "hardware_look_seconds", "How long the last look at the machine took.", "" },
	[M_LOOKED] = { METRIC_GAUGE, "hardware_looked_timestamp_seconds", "When the machine was last looked at.", "" },
};

struct look {
	struct hardware *hw;
	struct arena *mem;                    /* the look lies in it */
	Corral__HardwareSnapshot *seen;
	bool whole;                           /* else only its power was looked at */
	const char *boot_id;
	struct power power;
	int64_t power_us, power_wall_us;      /* when that was */
	int64_t took_us;
	pthread_mutex_t lock;                 /* between its end and being abandoned */
	bool told;                            /* on its way to the loop */
	bool abandoned;                       /* the service stopped before: it frees itself and tells nobody */
};

struct hardware {
	Corral__HardwareProbe_Service rpc;    /* first: the methods cast */
	struct svc *svc;
	struct loop *loop;
	const struct hardware_config *cfg;
	struct arena *mem;                    /* of the catalogue */
	const struct catalogue_file *models;
	struct look *last;                    /* NULL until the first look ended */
	struct look *now;                     /* the thread's; NULL while none runs */
	struct loop_timer timer;
	pthread_t thread;
	int64_t since_us, whole_us;           /* mono: when the look under way began, when the last whole one did; 0 = none yet */
	struct power_meter *meter;            /* the thread's while one runs */
	struct power power;
	int64_t power_us, power_wall_us;
	struct series *power_series;          /* shown last; NULL = none */
	char id[37];                          /* of this boot of the machine, so that two probes of one machine say the same; else of this process */
};

enum { SLOW_US = 5 * 1000 * 1000 };

static void look_free(struct look *l)
{
	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	arena_free(l->mem);
}

/* --- metrics --- */

static void set(struct hardware *h, unsigned metric, const Corral__Gpu *g, double value)
{
	if (value >= 0)
		series_set(metrics_series(svc_metrics(h->svc), metric, g->id, g->name), value);
}

static void show_gpu(struct hardware *h, const Corral__Gpu *g)
{
	set(h, M_GPU_TOTAL, g, (double)g->memory_total_bytes);
	set(h, M_GPU_USED, g, (double)g->memory_used_bytes);
	set(h, M_GPU_UTILISATION, g, g->utilisation);
	set(h, M_GPU_TEMPERATURE, g, g->temperature_celsius);
	set(h, M_GPU_POWER, g, g->power_watts);
	set(h, M_GPU_ENERGY, g, g->energy_joules);
	set(h, M_GPU_THROTTLED, g, g->n_throttled_by > 0);
}

static void show(struct hardware *h, const struct look *l)
{
	struct metrics *m = svc_metrics(h->svc);

	for (size_t i = 0; i < l->seen->n_gpus; i++)
		show_gpu(h, l->seen->gpus[i]);
	series_set(metrics_series(m, M_MEMORY, "total"), (double)l->seen->memory->total_bytes);
	series_set(metrics_series(m, M_MEMORY, "available"), (double)l->seen->memory->available_bytes);
	series_set(metrics_series(m, M_MEMORY, "usable"), (double)l->seen->memory->usable_bytes);
	for (size_t i = 0; i < l->seen->n_disks; i++)
		series_set(metrics_series(m, M_DISK, l->seen->disks[i]->path), (double)l->seen->disks[i]->free_bytes);
	series_set(metrics_series(m, M_LOOK_SECONDS), (double)l->took_us / 1e6);
	series_set(metrics_series(m, M_LOOKED), (double)l->seen->detected_at_us / 1e6);
}

static int64_t step_ms(const struct hardware *h) { return h->cfg->power_every < h->cfg->hardware_every ? h->cfg->power_every : h->cfg->hardware_every; }

/* For how long a figure counts: of a driver that hangs nobody knows what its GPU draws now. */
static int64_t good_us(const struct hardware *h) { return SLOW_US + 2 * step_ms(h) * 1000; }

static int64_t counted_us(const struct hardware *h, const struct look *l)
{
	int64_t us = l->power_us - h->power_us;

	return us < good_us(h) ? us : good_us(h);
}

/* A source that tells nothing any more shows no power, not the last one. */
static void show_power(struct hardware *h, const struct look *l)
{
	struct metrics *m = svc_metrics(h->svc);
	struct series *now = l->power.milliwatts >= 0 ? metrics_series(m, M_POWER, l->power.source) : NULL;

	if (h->power.milliwatts >= 0 && l->power_us > h->power_us)
		series_add(metrics_series(m, M_ENERGY, h->power.source), (double)h->power.milliwatts / 1e3 * (double)counted_us(h, l) / 1e6);
	h->power = l->power;
	h->power_us = l->power_us;
	h->power_wall_us = l->power_wall_us;
	if (h->power_series && h->power_series != now)
		series_set(h->power_series, NAN);
	h->power_series = now;
	if (now)
		series_set(now, (double)h->power.milliwatts / 1e3);
}

/* --- looking --- */

static void on_seen(void *arg)
{
	struct look *l = arg;
	struct hardware *h = l->hw;

	pthread_join(h->thread, NULL);
	h->now = NULL;
	show_power(h, l);
	if (h->last || l->whole)
		svc_need(h->svc, "look at the machine", true, "");
	if (!l->whole) {
		look_free(l);
		return;
	}
	if (l->boot_id[0])
		(void)str_copy(h->id, sizeof(h->id), str_of(l->boot_id));
	if (!h->last)
		LOG_INFO("hardware", LOG_I("gpus", (int64_t)l->seen->n_gpus), LOG_I("cores", l->seen->cpu->usable_cores),
			 LOG_I("memory_bytes", l->seen->memory->total_bytes), LOG_I("took_us", l->took_us));
	look_free(h->last);
	h->last = l;
	show(h, l);
}

static void *look_thread(void *arg)
{
	struct look *l = arg;
	const struct hardware_config *cfg = l->hw->cfg;
	struct probe p = probe_new(l->mem, cfg->hardware_root);
	int64_t began = mono_us();
	bool abandoned;

	l->seen = p.hw;
	if (l->whole) {
		probe_look(&p, cfg->nvml_library, &cfg->hardware_disks);
		l->boot_id = probe_boot_id(&p);
		l->power = power_of(l->hw->meter, &p);
	} else {
		l->power = power_look(l->hw->meter, &p, cfg->nvml_library);
	}
	l->power_us = mono_us();
	l->power_wall_us = wall_us();
	l->took_us = mono_us() - began;
	pthread_mutex_lock(&l->lock);
	abandoned = l->abandoned;
	l->told = !abandoned;
	if (!abandoned)
		loop_post(l->hw->loop, on_seen, l);
	pthread_mutex_unlock(&l->lock);
	if (abandoned)
		look_free(l);
	return NULL;
}

static void start_look(struct hardware *h)
{
	struct arena *mem = arena_new(65536);
	struct look *l = arena_new_of(mem, struct look);

	h->since_us = mono_us();
	*l = (struct look){ .hw = h, .mem = mem, .whole = !h->whole_us || h->since_us - h->whole_us >= (h->cfg->hardware_every - step_ms(h) / 2) * 1000 };
	pthread_mutex_init(&l->lock, NULL);
	if (pthread_create(&h->thread, NULL, look_thread, l) != 0) {
		look_free(l);
		return;
	}
	h->now = l;
	if (l->whole)
		h->whole_us = h->since_us;
}

static void tick(struct loop_timer *t)
{
	struct hardware *h = (struct hardware *)(void *)((char *)t - offsetof(struct hardware, timer));

	loop_timer_set(h->loop, t, step_ms(h) * 1000, tick);
	if (!h->now)
		start_look(h);
	else if (mono_us() - h->since_us > SLOW_US)
		svc_need(h->svc, "look at the machine", false, "a driver has not answered for more than 5 s; what is shown is from the last look");
}

/* --- answers --- */

static void get(Corral__HardwareProbe_Service *s, const Corral__HardwareRequest *rq, Corral__HardwareReply_Closure reply, void *data)
{
	struct hardware *h = (struct hardware *)(void *)s;
	Corral__HardwareReply ret = CORRAL__HARDWARE_REPLY__INIT;
	struct arena *mem;

	if (!h->last) {
		rpc_fail(data, ERR_UNAVAILABLE, h->now ? "the first look at this machine has not ended yet; ask again in a moment" : "the machine could not be looked at");
		return;
	}
	mem = arena_new(16384);
	ret.hardware = h->last->seen;
	ret.hardware->power_milliwatts = h->power.milliwatts;
	ret.hardware->power_limit_milliwatts = h->power.limit_milliwatts;
	ret.hardware->power_source = (char *)(uintptr_t)h->power.source;
	recommend(h->last->seen, h->models, rq->context, rq->all, mem, &ret);
	reply(&ret, data);
	arena_free(mem);
}

static void power(Corral__HardwareProbe_Service *s, const Corral__PowerRequest *rq, Corral__PowerReply_Closure reply, void *data)
{
	struct hardware *h = (struct hardware *)(void *)s;
	Corral__PowerReply ret = CORRAL__POWER_REPLY__INIT;

	if (!h->last) {
		rpc_fail(data, ERR_UNAVAILABLE, "the first look at this machine has not ended yet; ask again in a moment");
		return;
	}
	ret.probe = h->id;
	ret.node = h->last->seen->node;
	ret.measured_at_us = h->power_wall_us;
	ret.milliwatts = ret.limit_milliwatts = -1;
	ret.source = (char *)(uintptr_t)"";
	if (mono_us() - h->power_us < good_us(h)) {
		ret.milliwatts = h->power.milliwatts;
		ret.limit_milliwatts = h->power.limit_milliwatts;
		ret.source = (char *)(uintptr_t)h->power.source;
	}
	reply(&ret, data);
}

/* --- life --- */

static enum err check(const void *config, struct why *why)
{
	const struct hardware_config *c = config;
	struct arena *mem;
	const struct catalogue_file *f;

	if (strlen(c->hardware_root) > PROBE_ROOT_MAX)
		return err_field(why, ERR_INVALID, "hardware_root", "hardware_root: the directory's name is longer than %d characters", PROBE_ROOT_MAX);
	mem = arena_new(0);
	f = catalogue_load(mem, c->models_catalogue, why);
	arena_free(mem);
	return f ? ERR_OK : ERR_INVALID;
}

/* One that ends soon is waited for; one that hangs in a driver is left to itself. False: it was left. */
static bool end_look(struct hardware *h)
{
	struct timespec until;
	struct look *l = h->now;
	bool ended, told;

	if (!l)
		return true;
	pthread_mutex_lock(&l->lock);
	l->abandoned = true;
	told = l->told;
	pthread_mutex_unlock(&l->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	ended = pthread_timedjoin_np(h->thread, NULL, &until) == 0;
	if (told)
		look_free(l);             /* the loop turns no more */
	if (!ended)
		LOG_WARN("a driver does not answer; its thread is left behind");
	return ended;
}

static void stop(struct svc *svc)
{
	struct hardware *h = svc_state(svc);

	loop_timer_del(&h->timer);
	if (!end_look(h))
		return;                   /* the thread reads the configuration and 'h' until the process ends */
	look_free(h->last);
	power_meter_free(h->meter);
	arena_free(h->mem);
	free(h);
	svc_set_state(svc, NULL);
}

static bool start(struct svc *svc, struct why *why)
{
	struct hardware *h = x_calloc(1, sizeof(*h));

	h->svc = svc;
	h->loop = svc_loop(svc);
	h->cfg = svc_config(svc);
	h->mem = arena_new(0);
	h->models = catalogue_load(h->mem, h->cfg->models_catalogue, why);
	if (!h->models) {
		arena_free(h->mem);
		free(h);
		return false;
	}
	h->meter = power_meter_new();
	h->power = (struct power){ -1, -1, "" };
	uuid_format(uuid_v7(wall_us()), h->id);
	svc_set_state(svc, h);
	corral__hardware_probe__init(&h->rpc, NULL);
	h->rpc.get = get;
	h->rpc.power = power;
	rpc_server_add(svc_rpc_server(svc), &h->rpc.base);
	svc_need(svc, "look at the machine", false, "the first look has not ended yet");
	tick(&h->timer);
	return true;
}

const struct svc_def hardware_probe_service = {
	.name = "hardware-probe",
	.summary = "What this machine has: GPUs, processor, memory, limits, disk; and which models fit it.",
	.options = options,
	.config_size = sizeof(struct hardware_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8117,
	.rpc_port = 7117,
	.check = check,
	.start = start,
	.stop = stop,
};

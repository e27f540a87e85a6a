/* hardware.c - GET /hardware: what the hardware-probe saw, and which models to begin with. */
#include "common/data/json_write.h"
#include "hardware.pb-c.h"
#include "services/gateway/ask.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/stages.h"

static double gib(int64_t bytes) { return (double)(int64_t)((double)bytes / (1 << 30) * 10 + 0.5) / 10; }

/* -1 is "could not be seen". */
static void number(struct json_out *jo, const char *key, double v)
{
	jw_key(jo, key);
	if (v < 0)
		jw_null(jo);
	else
		jw_double(jo, v);
}

static void bytes(struct json_out *jo, const char *key, int64_t v)
{
	jw_key(jo, key);
	if (v < 0)
		jw_null(jo);
	else
		jw_i64(jo, v);
}

static void text(struct json_out *jo, const char *key, const char *z) { jw_kv_strz(jo, key, *z ? z : NULL); }

static void processes(struct json_out *jo, const Corral__Gpu *g)
{
	jw_key(jo, "processes");
	jw_arr(jo);
	for (size_t i = 0; i < g->n_processes; i++) {
		jw_obj(jo);
		jw_kv_i64(jo, "pid", g->processes[i]->pid);
		text(jo, "name", g->processes[i]->name);
		bytes(jo, "memory_bytes", g->processes[i]->memory_bytes);
		jw_end(jo);
	}
	jw_end(jo);
}

static void gpu(struct json_out *jo, const Corral__Gpu *g)
{
	jw_obj(jo);
	jw_kv_strz(jo, "id", g->id);
	jw_kv_strz(jo, "name", g->name);
	jw_kv_strz(jo, "vendor", g->vendor);
	jw_kv_strz(jo, "source", g->source);
	text(jo, "pci", g->pci);
	text(jo, "part_of", g->parent);
	jw_kv_bool(jo, "split", g->split);
	jw_kv_bool(jo, "shared_memory", g->shared_memory);
	bytes(jo, "memory_total_bytes", g->memory_total_bytes);
	bytes(jo, "memory_free_bytes", g->memory_free_bytes);
	bytes(jo, "memory_used_bytes", g->memory_used_bytes);
	number(jo, "utilisation", g->utilisation);
	number(jo, "temperature_celsius", g->temperature_celsius);
	number(jo, "power_watts", g->power_watts);
	number(jo, "power_limit_watts", g->power_limit_watts);
	number(jo, "energy_joules", g->energy_joules);
	text(jo, "architecture", g->architecture);
	text(jo, "compute_capability", g->compute);
	jw_key(jo, "throttled_by");
	jw_arr(jo);
	for (size_t i = 0; i < g->n_throttled_by; i++)
		jw_strz(jo, g->throttled_by[i]);
	jw_end(jo);
	processes(jo, g);
	jw_end(jo);
}

/* The largest GPU speaks for the machine; its parts do not count twice. */
static void summary(struct json_out *jo, const Corral__HardwareSnapshot *hw)
{
	const Corral__Gpu *best = NULL;
	int64_t vram = 0;

	for (size_t i = 0; i < hw->n_gpus; i++) {
		const Corral__Gpu *g = hw->gpus[i];

		if (g->parent[0])
			continue;
		if (!best || g->memory_total_bytes > best->memory_total_bytes)
			best = g;
		if (g->memory_total_bytes > 0 && !g->shared_memory)
			vram += g->memory_total_bytes;
	}
	jw_kv_strz(jo, "gpu_type", best ? best->name : "none");
	jw_kv_double(jo, "vram_gb", gib(vram));
	jw_kv_u64(jo, "cpu_cores", hw->cpu ? hw->cpu->usable_cores : 0);
	jw_kv_double(jo, "ram_gb", hw->memory ? gib(hw->memory->total_bytes) : 0);
	time_json(jo, "detected_at", hw->detected_at_us);
	text(jo, "node", hw->node);
	jw_kv_bool(jo, "in_container", hw->in_container);
	text(jo, "nvidia_driver", hw->nvidia_driver);
	text(jo, "cuda", hw->cuda);
	number(jo, "power_watts", *hw->power_source && hw->power_milliwatts >= 0 ? (double)hw->power_milliwatts / 1e3 : -1);
	number(jo, "power_limit_watts", *hw->power_source && hw->power_limit_milliwatts > 0 ? (double)hw->power_limit_milliwatts / 1e3 : -1);
	text(jo, "power_source", hw->power_source);
}

static void cpu_and_memory(struct json_out *jo, const Corral__HardwareSnapshot *hw)
{
	const Corral__Cpu *c = hw->cpu;
	const Corral__Memory *m = hw->memory;

	jw_key(jo, "cpu");
	jw_obj(jo);
	text(jo, "model", c->model);
	text(jo, "simd", c->simd);
	jw_kv_u64(jo, "cores", c->cores);
	jw_kv_u64(jo, "usable_cores", c->usable_cores);
	jw_kv_u64(jo, "numa_nodes", c->numa_nodes);
	number(jo, "load_1m", c->load_1m);
	jw_end(jo);
	jw_key(jo, "memory");
	jw_obj(jo);
	bytes(jo, "total_bytes", m->total_bytes);
	bytes(jo, "available_bytes", m->available_bytes);
	bytes(jo, "usable_bytes", m->usable_bytes);
	bytes(jo, "swap_free_bytes", m->swap_free_bytes);
	jw_end(jo);
	jw_key(jo, "limits");
	jw_obj(jo);
	number(jo, "cpu_cores", c->limit_cores);
	bytes(jo, "memory_bytes", m->limit_bytes);
	jw_end(jo);
}

static void lists(struct json_out *jo, const Corral__HardwareSnapshot *hw)
{
	jw_key(jo, "gpus");
	jw_arr(jo);
	for (size_t i = 0; i < hw->n_gpus; i++)
		gpu(jo, hw->gpus[i]);
	jw_end(jo);
	jw_key(jo, "disks");
	jw_arr(jo);
	for (size_t i = 0; i < hw->n_disks; i++) {
		jw_obj(jo);
		jw_kv_strz(jo, "path", hw->disks[i]->path);
		jw_kv_i64(jo, "total_bytes", hw->disks[i]->total_bytes);
		jw_kv_i64(jo, "free_bytes", hw->disks[i]->free_bytes);
		jw_end(jo);
	}
	jw_end(jo);
	jw_key(jo, "notes");
	jw_arr(jo);
	for (size_t i = 0; i < hw->n_notes; i++) {
		jw_obj(jo);
		jw_kv_strz(jo, "source", hw->notes[i]->source);
		jw_kv_strz(jo, "text", hw->notes[i]->text);
		jw_end(jo);
	}
	jw_end(jo);
}

static void recommendation(struct json_out *jo, const Corral__Recommendation *r)
{
	jw_obj(jo);
	jw_kv_strz(jo, "name", r->name);
	jw_kv_strz(jo, "role", r->role);
	jw_kv_bool(jo, "first", r->first);
	jw_kv_strz(jo, "fits", r->fits);
	jw_kv_strz(jo, "why", r->why);
	jw_kv_i64(jo, "download_bytes", r->download_bytes);
	jw_kv_i64(jo, "needed_bytes", r->needed_bytes);
	jw_kv_i64(jo, "weights_bytes", r->weights_bytes);
	jw_kv_i64(jo, "kv_cache_bytes", r->kv_bytes);
	jw_kv_i64(jo, "overhead_bytes", r->overhead_bytes);
	jw_kv_u64(jo, "context_length", r->context);
	jw_end(jo);
}

static void reply(const Corral__HardwareReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		ask_failed(a, a->gw->hardware, "hardware-probe");
		return;
	}
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	summary(&jo, reply->hardware);
	jw_kv_strz(&jo, "tier", reply->tier);
	lists(&jo, reply->hardware);
	cpu_and_memory(&jo, reply->hardware);
	jw_key(&jo, "recommended_models");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_recommended; i++)
		recommendation(&jo, reply->recommended[i]);
	json_done(&jo);
	a->status = 200;
	ask_done(a);
}

static void call(struct ask *a)
{
	corral__hardware_probe__get(rpc_stub(a->gw->hardware, &corral__hardware_probe__descriptor), a->query, reply, a);
}

/* ?context=TOKENS: the context to compute memory for; ?all=true: what does not fit as well. */
static enum step hardware(struct req *r)
{
	struct ask *a = ask_new(r, call);
	Corral__HardwareRequest *q = arena_new_of(a->mem, Corral__HardwareRequest);
	struct str context = STR(""), all = STR("");
	uint64_t tokens = 0;

	corral__hardware_request__init(q);
	a->query = q;
	http_query_get(r->x->head.query, "context", a->mem, &context);
	http_query_get(r->x->head.query, "all", a->mem, &all);
	if (context.n && (!str_u64(context, &tokens) || tokens < 256 || tokens > 10000000)) {
		struct why why;

		err_field(&why, ERR_INVALID, "context", "context is a number of tokens from 256 to 10000000, not '" STR_FMT "'", STR_ARG(context));
		ask_drop(a);
		return req_fail_why(r, &why);
	}
	q->context = (uint32_t)tokens;
	q->all = str_eqz(all, "true") || str_eqz(all, "1");
	return ask_send(a);
}

const struct stage stage_hardware = { "hardware", hardware };

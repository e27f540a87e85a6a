/* fit.c - see fit.h. */
#include "services/hardware-probe/fit.h"

#include <stdlib.h>

#define GB 1e9                        /* as cards and downloads are sold */

enum { MIB = 1024 * 1024 };

/* Small figures of practice: CUDA's context and llama.cpp's compute buffers take about 0.6 GB on a GPU and grow with the model; on the
 * processor only the buffers. */
static int64_t overhead(int64_t weights, bool gpu) { return (gpu ? 600 : 250) * (int64_t)MIB + weights / 32; }

void entry_needs(const struct entry *e, uint32_t context, Corral__Recommendation *r)
{
	r->context = e->context && context > e->context ? e->context : context;
	r->download_bytes = r->weights_bytes = e->download_bytes;
	r->kv_bytes = (int64_t)2 * e->layers * e->kv_heads * e->head_size * 2 * r->context;
	r->overhead_bytes = overhead(r->weights_bytes, true);
	r->needed_bytes = r->weights_bytes + r->kv_bytes + r->overhead_bytes;
}

/* --- what there is --- */

static bool is_unit(const Corral__Gpu *g) { return !g->split && g->memory_total_bytes > 0 && !g->shared_memory; }

static const Corral__Gpu *largest(const Corral__HardwareSnapshot *hw)
{
	const Corral__Gpu *best = NULL;

	for (size_t i = 0; i < hw->n_gpus; i++)
		if (is_unit(hw->gpus[i]) && (!best || hw->gpus[i]->memory_total_bytes > best->memory_total_bytes))
			best = hw->gpus[i];
	return best;
}

static int64_t less_reserve(int64_t bytes) { return bytes - bytes / 20; }

/* An engine spreads one model over cards of one vendor, not over parts of a split one. */
static void add_gpus(const Corral__HardwareSnapshot *hw, const Corral__Gpu *best, struct room *r)
{
	for (size_t i = 0; i < hw->n_gpus; i++) {
		const Corral__Gpu *g = hw->gpus[i];

		if (!is_unit(g) || strcmp(g->vendor, best->vendor) != 0 || (g->parent[0] && g != best))
			continue;
		r->gpus_bytes += less_reserve(g->memory_total_bytes);
		r->n_gpus++;
	}
}

static const struct tier *tier_of(const struct catalogue_file *f, int64_t bytes)
{
	for (size_t i = 0; i < f->n_tiers; i++)
		if ((double)bytes >= f->tiers[i].min_gb * GB)
			return &f->tiers[i];
	return &f->tiers[f->n_tiers - 1];
}

static int64_t least(int64_t a, int64_t b) { return b >= 0 && b < a ? b : a; }

struct room room_of(const Corral__HardwareSnapshot *hw, const struct catalogue_file *f)
{
	const Corral__Gpu *best = largest(hw);
	struct room r = { .gpu_name = "" };
	int64_t all = 0;

	if (best) {
		r.gpu_bytes = less_reserve(best->memory_total_bytes);
		r.gpu_free_bytes = best->memory_free_bytes >= 0 ? best->memory_free_bytes : r.gpu_bytes;
		r.gpu_name = best->name;
		add_gpus(hw, best, &r);
		for (size_t i = 0; i < hw->n_gpus; i++)
			if (is_unit(hw->gpus[i]) && (hw->gpus[i] == best || !hw->gpus[i]->parent[0]) && strcmp(hw->gpus[i]->vendor, best->vendor) == 0)
				all += hw->gpus[i]->memory_total_bytes;
	}
	if (hw->memory && hw->memory->total_bytes > 0) {
		int64_t most = least(hw->memory->total_bytes, hw->memory->limit_bytes);

		r.cpu_bytes = most - most / 4;            /* the rest is for everything else on the machine */
		r.cpu_free_bytes = hw->memory->usable_bytes;
	}
	if (hw->cpu) {
		r.cpu_cores = hw->cpu->usable_cores;
		if (hw->cpu->limit_cores > 0 && hw->cpu->limit_cores < r.cpu_cores)
			r.cpu_cores = hw->cpu->limit_cores;
	}
	r.tier = tier_of(f, all);
	return r;
}

/* --- what fits --- */

enum fits { FITS_GPU, FITS_GPUS, FITS_PARTLY, FITS_CPU, FITS_NO };
static const char *const fits_names[] = { "gpu", "gpus", "partly", "cpu", "no" };

static enum fits fit(const struct room *room, Corral__Recommendation *r)
{
	if (room->gpu_bytes && r->needed_bytes <= room->gpu_bytes)
		return FITS_GPU;
	if (room->n_gpus > 1 && r->needed_bytes + (int64_t)(room->n_gpus - 1) * overhead(0, true) <= room->gpus_bytes)
		return FITS_GPUS;
	if (room->gpu_bytes && r->needed_bytes <= room->gpus_bytes + room->cpu_bytes)
		return FITS_PARTLY;
	if (!room->gpu_bytes) {
		r->overhead_bytes = overhead(r->weights_bytes, false);
		r->needed_bytes = r->weights_bytes + r->kv_bytes + r->overhead_bytes;
		if (r->needed_bytes <= room->cpu_bytes)
			return FITS_CPU;
	}
	return FITS_NO;
}

/* What a processor has to read and multiply for a token is the active part. A rule of thumb for about five tokens a second: 10^9
 * active parameters a core, up to what the bandwidth of a desktop's memory gives, and the smallest always. */
static bool fast_enough(const struct entry *e, const struct room *room)
{
	double most = room->cpu_cores;

	return e->active_b <= (most > 4.5 ? 4.5 : most < 1 ? 1 : most);
}

static double gb(int64_t bytes) { return (double)bytes / GB; }

static char *needs_text(struct arena *mem, const Corral__Recommendation *r)
{
	return arena_printf(mem, "needs %.1f GB at %u tokens (weights %.1f, KV cache %.1f, overhead %.1f)", gb(r->needed_bytes), r->context,
			    gb(r->weights_bytes), gb(r->kv_bytes), gb(r->overhead_bytes));
}

static char *not_now(struct arena *mem, int64_t needed, int64_t free_bytes)
{
	return free_bytes < needed ? arena_printf(mem, "; only %.1f GB are free right now", gb(free_bytes)) : "";
}

static char *why(struct arena *mem, const struct room *room, const Corral__Recommendation *r, enum fits f, bool fast)
{
	const char *needs = needs_text(mem, r);

	switch (f) {
	case FITS_GPU:
		return arena_printf(mem, "%s, and %s has %.1f GB for it%s", needs, room->gpu_name, gb(room->gpu_bytes),
				    not_now(mem, r->needed_bytes, room->gpu_free_bytes));
	case FITS_GPUS:
		return arena_printf(mem, "%s: more than one GPU has, but %u together have %.1f GB", needs, room->n_gpus, gb(room->gpus_bytes));
	case FITS_PARTLY:
		return arena_printf(mem, "%s, more than the %.1f GB of the GPU: part of its layers would run on the processor, many times slower",
				    needs, gb(room->gpus_bytes));
	case FITS_CPU:
		return arena_printf(mem, "%s, and the processor may use %.1f GB of memory%s%s", needs, gb(room->cpu_bytes),
				    not_now(mem, r->needed_bytes, room->cpu_free_bytes),
				    fast ? "" : "; but it would be slow on so few cores");
	default:
		return arena_printf(mem, "%s, more than the %.1f GB that this machine has for it", needs,
				    gb(room->gpu_bytes ? room->gpus_bytes + room->cpu_bytes : room->cpu_bytes));
	}
}

/* --- the list --- */

struct choice {
	const struct entry *e;
	struct str role;
	enum fits fits;
	bool fast;                        /* on the processor, if it comes to that */
	Corral__Recommendation *r;
};

static bool usable(const struct choice *c) { return c->fits <= FITS_GPUS || (c->fits == FITS_CPU && c->fast); }

static int role_order(struct str role)
{
	static const char *const order[] = { "chat", "code", "reasoning", "vision", "fast", "embedding" };

	for (int i = 0; i < (int)(sizeof(order) / sizeof(*order)); i++)
		if (str_eqz(role, order[i]))
			return i;
	return 99;
}

static int by_role_then_best(const void *a, const void *b)
{
	const struct choice *x = a, *y = b;
	int role = role_order(x->role) - role_order(y->role), other = str_cmp(x->role, y->role);

	if (role || other)
		return role ? role : other;
	if (usable(x) != usable(y))
		return usable(y) - usable(x);
	if ((x->fits == FITS_NO) != (y->fits == FITS_NO))
		return (x->fits == FITS_NO) - (y->fits == FITS_NO);
	if (x->e->rank != y->e->rank)
		return x->e->rank < y->e->rank ? 1 : -1;
	return str_cmp(x->e->name, y->e->name);
}

static void add(struct choice *c, size_t *n, const struct entry *e, struct str role, const struct room *room, uint32_t context, struct arena *mem)
{
	Corral__Recommendation *r = arena_new_of(mem, Corral__Recommendation);

	corral__recommendation__init(r);
	entry_needs(e, context, r);
	c[*n] = (struct choice){ e, role, fit(room, r), fast_enough(e, room), r };
	r->name = arena_dup(mem, e->name.p, e->name.n);
	r->role = arena_dup(mem, role.p, role.n);
	r->fits = arena_printf(mem, "%s", fits_names[c[*n].fits]);
	r->tier = arena_dup(mem, room->tier->name.p, room->tier->name.n);
	r->why = why(mem, room, r, c[*n].fits, c[*n].fast);
	(*n)++;
}

enum { ROLES_MAX = 8 };

static size_t choices(const struct catalogue_file *f, const struct room *room, uint32_t context, struct arena *mem, struct choice *c)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n_entries; i++) {
		struct str rest = f->entries[i].roles, role;

		for (unsigned k = 0; k < ROLES_MAX && rest.p && str_split(&rest, ',', &role); k++)
			add(c, &n, &f->entries[i], role, room, context, mem);
	}
	return n;
}

void recommend(const Corral__HardwareSnapshot *hw, const struct catalogue_file *f, uint32_t context, bool all, struct arena *mem,
	       Corral__HardwareReply *ret)
{
	struct room room = room_of(hw, f);
	struct choice *c = arena_array(mem, struct choice, f->n_entries * ROLES_MAX);
	size_t n = choices(f, &room, context ? context : 8192, mem, c);
	struct str role = { NULL, 0 };

	qsort(c, n, sizeof(*c), by_role_then_best);
	ret->tier = arena_dup(mem, room.tier->name.p, room.tier->name.n);
	ret->recommended = arena_array(mem, Corral__Recommendation *, n);
	for (size_t i = 0; i < n; i++) {
		c[i].r->first = usable(&c[i]) && !str_eq(c[i].role, role);
		role = c[i].role;
		if (c[i].fits != FITS_NO || all)
			ret->recommended[ret->n_recommended++] = c[i].r;
	}
}

/* fit.h - what fits a machine: memory needed is computed, memory there is measured.
 *
 *   needed = weights + KV cache (2 x layers x KV heads x head size x 2 bytes x context) + overhead (runtime and compute buffers)
 *
 * held against the largest GPU, all GPUs of one vendor together, or the machine's memory. Totals count, not what is free at the moment:
 * what is loaded now can be unloaded; the sentence says so when it does not fit right now. Pure, but for reading the catalogue. */
#ifndef CORRAL_HARDWARE_PROBE_FIT_H
#define CORRAL_HARDWARE_PROBE_FIT_H
#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"
#include "hardware.pb-c.h"

struct tier { struct str name; double min_gb; struct str text; };

struct entry {
	struct str name, roles;
	double parameters_b, active_b;
	int64_t download_bytes;
	uint32_t layers, kv_heads, head_size, context, rank;
};

struct catalogue_file {
	struct tier *tiers;               /* the largest first; the last begins at 0 */
	struct entry *entries;
	size_t n_tiers, n_entries;
};

/* The built-in file, or the one at 'path'. NULL with *why naming the line. In the arena. */
const struct catalogue_file *catalogue_load(struct arena *, const char *path, struct why *);
enum err catalogue_parse(struct arena *, struct str text, struct catalogue_file *ret, struct why *);

/* What there is to fit into. */
struct room {
	int64_t gpu_bytes, gpu_free_bytes;    /* of the largest unit, less what drivers keep; 0 = none that is known */
	int64_t gpus_bytes;                   /* all units of that vendor */
	unsigned n_gpus;
	const char *gpu_name;
	int64_t cpu_bytes, cpu_free_bytes;    /* memory that a model on the processor may take */
	double cpu_cores;                     /* usable ones, the limit of the container counted */
	const struct tier *tier;
};
struct room room_of(const Corral__HardwareSnapshot *, const struct catalogue_file *);

/* Memory of one model at 'context' tokens (not more than it can). */
void entry_needs(const struct entry *, uint32_t context, Corral__Recommendation *ret);

/* Fills the reply's list: for each role the one to begin with first, then what else fits, and with 'all' what does not. */
void recommend(const Corral__HardwareSnapshot *, const struct catalogue_file *, uint32_t context, bool all, struct arena *, Corral__HardwareReply *ret);
#endif

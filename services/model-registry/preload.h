/* preload.h - at the start: the models that were used most lately, by the ledger, are loaded by jobs, as many as preload_top and memory allow. */
#ifndef REGISTRY_PRELOAD_H
#define REGISTRY_PRELOAD_H
#include "common/svc/svc.h"
#include "services/model-registry/jobs.h"

struct preload;

/* 'jobs' may point to others after a reload. Waits for backends, ledger and hardware-probe, a minute at most, and gives up. */
struct preload *preload_new(struct svc *, struct jobs **jobs);
void preload_free(struct preload *);  /* NULL is fine */

/* Loads of these, the most used first, what is not in memory anywhere; *memory_bytes is what may still be taken where it is known (on
 * backends of this machine, unless preload_memory says it for each); -1 = not known. Returns how many jobs were started. */
unsigned preload_models(struct jobs *, const char *const *models, size_t n, int64_t *memory_bytes);
#endif

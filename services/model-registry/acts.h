/* acts.h - between the files of the jobs: what may be asked of models (acts.c), who is protected (protect.c), and jobs from inside. */
#ifndef REGISTRY_ACTS_H
#define REGISTRY_ACTS_H
#include "services/model-registry/jobs.h"

/* jobs.c */
struct job *job_new(struct jobs *, enum job_kind, struct str model, const char *backend);
struct job *job_begin(struct job *, struct why *);    /* NULL with *why, and it is gone, when it cannot be kept */
void job_again(struct job *, int64_t delay_us);       /* waits, then goes on */
bool job_is_active(const struct job *);
struct job *jobs_active(struct jobs *, enum job_kind, struct str model, const char *backend);     /* backend NULL: any */

/* acts.c */
void acts_keep_pinned(struct jobs *);         /* loads what is pinned and was unloaded */
void acts_unmark(struct jobs *, struct str model);    /* of a model that is gone */
/* The entry of a model on a backend, whatever the case of its name; NULL = it is not there. */
struct found *held_model(const struct backend *, struct str model);
bool is_router(const struct backend *);       /* a llama-server that serves several models and can load them */

/* protect.c */
bool name_same(struct str a, struct str b);   /* ":latest" and case make no difference */
/* Where a name's registry is, and whether we may pull from there; *ret_insecure: over plain HTTP. */
enum err registry_allowed(const struct registry_config *, struct str name, bool *ret_insecure, struct why *);
/* The name without "http://" and "https://". */
struct str name_bare(struct str name);
#endif

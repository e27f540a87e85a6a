/* models_change.h - the words of `corral models` that change something. */
#ifndef CORRAL_CORRAL_MODELS_CHANGE_H
#define CORRAL_CORRAL_MODELS_CHANGE_H
#include "common/data/json_write.h"
#include "services/corral/remote.h"

struct change_opts {
	const char *backend, *grace;  /* "" = not given */
	bool detach;
};

bool change_is_verb(const char *word);
/* model NULL: none was given. The exit status. */
int change_model(struct cli *, const char *verb, const char *model, const struct change_opts *);
/* {"name": model, "backend": …}, in c->mem. */
struct str change_pull_body(struct cli *, const char *model, const char *backend);
/* `corral models init [NAME ...]` (models_init.c). */
int models_init(struct cli *, const struct change_opts *, bool yes);
#endif

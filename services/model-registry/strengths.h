/* strengths.h - what a model is good at: from the configuration, else by words of its family and name, else unknown. */
#ifndef REGISTRY_STRENGTHS_H
#define REGISTRY_STRENGTHS_H
#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/data/opt.h"

struct families;

struct strength { struct str task; double score; };

/* The table of families.tsv, or of the file when path is not "". Lives in the arena. NULL with *why when it cannot be read. */
const struct families *families_load(struct arena *, const char *path, struct why *);

/* Fills up to max strengths and says in *ret_source where they are from: "configuration", "family" or "unknown". */
size_t strengths_of(const struct opt_list *configured, const struct families *, struct str model, struct str family, struct strength *ret,
		    size_t max, const char **ret_source);
/* Capabilities that the words of the name tell ("embed"), as LLM_CAP_*; 0 = nothing. */
uint32_t families_caps(const struct families *, struct str model, struct str family);
/* The first word of the name when it is a family of the table; else "". */
struct str families_guess(const struct families *, struct str model);

enum err strengths_check(const struct opt_list *configured, struct why *);
#endif

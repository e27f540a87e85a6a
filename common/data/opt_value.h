/* opt_value.h - single values of options: text to member, YAML to list, member to text. Internal to opt*.c. */
#ifndef CORRAL_DATA_OPT_VALUE_H
#define CORRAL_DATA_OPT_VALUE_H
#include "common/data/config.h"
#include "common/data/opt.h"

static inline void *opt_at(void *config, const struct opt *o) { return (char *)config + o->offset; }

/* Parses 'text' into the member; untouched on failure. 'where' begins the sentence: "--drain", "f.yaml:3:8: drain". */
enum err opt_value_parse(const struct opt *, const char *text, void *config, struct arena *, const char *where, struct why *);
enum err opt_list_from_yaml(const struct opt *, const struct config_node *, const char *file, struct arena *, struct opt_list *ret, struct why *);
void opt_list_add(struct arena *, struct opt_list *, const char *item);
void opt_list_join(struct arena *, const struct opt_list *front, struct opt_list *ret_back);      /* puts front's items first */

/* 30000 -> "30s", 65536 -> "64k"; numbers as they are. */
void opt_number_print(struct buf *, enum opt_type, int64_t);

bool opt_name_eq(struct str given, const char *name);     /* '-' and '_' are equal in 'given' */
const char *opt_env_name(struct arena *, const char *name, const char *suffix);
const char *opt_flag_name(struct arena *, const char *name);
#endif

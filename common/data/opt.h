/* opt.h - options as a table: where the value goes, its type, default, range and one sentence for an operator at night.
 *
 * Values come from defaults < file (--config FILE, YAML) < environment (CORRAL_<NAME>) < flags (--name=value; '-' and '_' are equal).
 * A variable that is set but empty counts as not set. In the file, names stand at the top level ("drain: 60s"; config.h says what YAML
 * is understood); nothing, ~ or null there leaves the default. Lists given by repeated flags add up; elsewhere the later source wins.
 * Every error names the source ("corral.yaml:12", "environment CORRAL_LISTEN", "--listen") and, for unknown names, the nearest one. */
#ifndef CORRAL_DATA_OPT_H
#define CORRAL_DATA_OPT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"

enum opt_type {
	OPT_T_STRING,         /* const char * (never NULL) */
	OPT_T_BOOL,           /* bool: true false yes no on off 1 0 */
	OPT_T_INT,            /* int64_t, min..max */
	OPT_T_DURATION,       /* int64_t milliseconds: "500ms", "30s", "5m", "24h", "7d"; a bare number is seconds */
	OPT_T_BYTES,          /* int64_t: "64k", "8m", "1g" (binary), "KiB" spelt out too; a bare number is bytes */
	OPT_T_NUMBER,         /* double, min..max */
	OPT_T_ENUM,           /* const char *, one of the words in 'words' ("auto json text") */
	OPT_T_LIST,           /* struct opt_list: comma-separated; in YAML a list of strings, or mappings, see 'shape' */
	OPT_T_SECRET          /* const char *; printed as "***"; also read from a file named by NAME_file */
};

struct opt_list { const char **items; size_t n; };

struct opt {
	const char *name;             /* "breaker_open"; in the environment CORRAL_BREAKER_OPEN, as flag --breaker-open */
	enum opt_type type;
	size_t offset;                /* in the service's configuration struct */
	const char *dflt;             /* as text */
	const char *help;
	int64_t min, max;             /* INT, DURATION, BYTES, NUMBER; both 0 = no range */
	const char *words;            /* ENUM */
	const char *aliases;          /* other environment names honoured, comma-separated, taken literally: "OLLAMA_ENDPOINT" */
	/* LIST: how YAML mappings become items. "name=kind+url;slots": the keys before the first ';' are required, those after it
	 * optional and appended as ";slots=4". Then these are the same:  [gpu1=ollama+http://h:1;slots=4]
	 *   [{name: gpu1, kind: ollama, url: "http://h:1", slots: 4}]      {gpu1: {kind: ollama, url: "http://h:1", slots: 4}}
	 * and {gpu1: text} is the item gpu1=text, with or without a shape. */
	const char *shape;
	bool live;                    /* a change takes effect on SIGHUP; else at the next start */
	/* LIST of name=text: an item may be given by its name alone too: --peer.NAME=text (commas belong to the text) and CORRAL_PEER_NAME
	 * ('_' for '-'). Such an item is added to the list; who reads it takes the last of a name. */
	bool keyed;
};

#define OPT(cfg, TYPE, member, dflt_, help_, ...) \
	{ .name = #member, .type = OPT_T_##TYPE, .offset = offsetof(cfg, member), .dflt = (dflt_), .help = (help_), __VA_ARGS__ }
#define OPT_END { .name = NULL }

/* Several tables that are filled from the same sources: a service's own and the runtime's; in `corral`, all services'.
 * The same name may stand in several tables (with equal type): each gets the value. */
struct opt_set {
	const struct opt *table;
	void *config;
	const char *owner;
	const char **sources;         /* filled by opt_load(): where each value came from, by the option's place in the table */
};

/* Fills all configs (strings live in the arena). argv[0] is skipped; entries that are not options are kept, in order, in args. */
enum err opt_load(struct opt_set *sets, size_t n, int argc, char **argv, struct arena *, struct opt_list *ret_args, struct why *);
/* The same, but goes on after what is wrong, with what was there before: 'wrong' hears of each mistake. The answer is of what makes going on useless. */
enum err opt_load_all(struct opt_set *sets, size_t n, int argc, char **argv, struct arena *, struct opt_list *ret_args,
		      void (*wrong)(void *arg, const struct why *), void *arg, struct why *why);
/* Sets an option back to its default. False: there is none of that name, or it has it already. */
bool opt_reset(struct opt_set *, const char *name, struct arena *);
/* Whether two configurations of one table have the same value; and a deep copy of one value. */
bool opt_same(const struct opt *, const void *config, const void *other);
void opt_copy(const struct opt *, const void *from, void *to, struct arena *);
/* Sentences about CORRAL_ names in the environment that nothing reads: a warning, for the environment may be shared with other programs. */
void opt_unknown_env(const struct opt_set *sets, size_t n, struct arena *, struct opt_list *ret);
/* "--help" body: flags with type, default, help, wrapped to 100 columns. */
void opt_help(struct buf *, const struct opt_set *sets, size_t n);
/* --dump=config: Markdown table, one row an option with environment name, default, range, help. */
void opt_dump(struct buf *, const struct opt_set *sets, size_t n);
/* The effective values with where each came from, secrets hidden: --check-config prints it. */
void opt_print(struct buf *, const struct opt_set *sets, size_t n);
/* The same as JSON: {"options":[{"name","of","value","default","source":{"kind":"default|file|environment|flag", …},"live"}]}. */
void opt_print_json(struct buf *, const struct opt_set *sets, size_t n);
#endif

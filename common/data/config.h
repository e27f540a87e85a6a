/* config.h - a YAML file as a tree of nodes that know their line, so that errors can name it.
 *
 * A small, predictable YAML: one document; mappings, sequences and scalars; a scalar is text, and who reads it decides on its type
 * (no "no" that becomes false by surprise). Refused, each with its place: duplicate keys ('-' and '_' are equal), anchors,
 * aliases, tags, "<<", nesting deeper than 16, files above 1 MiB, NUL characters.
 * "${NAME}" in a scalar is replaced from the environment, "${NAME:-default}" too when NAME is unset or empty; "$${" is a literal "${". */
#ifndef CORRAL_DATA_CONFIG_H
#define CORRAL_DATA_CONFIG_H
#include <stdbool.h>

#include "common/base/arena.h"
#include "common/base/err.h"

enum config_kind { CONFIG_SCALAR, CONFIG_LIST, CONFIG_MAP };

struct config_node {
	enum config_kind kind;
	unsigned line, column;            /* of the value, from 1 */
	const char *text;                 /* scalars; never NULL */
	bool null;                        /* nothing, ~ or null, written without quotes */
	const char *key;                  /* in a mapping, else NULL */
	unsigned key_line, key_column;
	struct config_node *first, *next; /* children of lists and mappings, in order */
};

enum { CONFIG_MAX_BYTES = 1024 * 1024, CONFIG_MAX_DEPTH = 16 };

/* 'name' stands before line and column in errors: "corral.yaml:12:5: …". An empty document is an empty mapping; anything
 * else than a mapping at the top is refused. All in the arena. */
enum err config_parse(struct arena *, const char *name, struct str text, struct config_node **ret, struct why *);
enum err config_load(struct arena *, const char *path, struct config_node **ret, struct why *);

/* Replaces ${…} as said above; false with *ret_missing = the name that is not set, or "" for a "${" without "}". */
bool config_expand(struct arena *, struct str, struct str *ret, const char **ret_missing);
#endif

/* catalogue.h - contexts and prices of providers' models: a dated table with its sources (catalogue.tsv), and a file in front of it.
 *
 * A row's model may end in '*'. The first row that fits decides; what no row names is unknown, and never free. Read-only once loaded. */
#ifndef CORRAL_CLOUD_FALLBACK_CATALOGUE_H
#define CORRAL_CLOUD_FALLBACK_CATALOGUE_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"

struct catalogue_row {
	struct str kind, model;       /* kind: a kind or a provider's name; "*" = any */
	uint32_t context_tokens, max_output_tokens;   /* 0 = unknown */
	struct str capabilities;      /* words with blanks between them; "" = not said */
	bool priced;
	int64_t input, cached_input, output;  /* micro-dollars for a million tokens */
	struct str date, source;      /* "2026-11-20", where it was read */
};

struct catalogue;

/* 'path' "" = the built-in rows alone. NULL with *why, which names the line. */
const struct catalogue *cloud_catalogue_load(struct arena *, const char *path, struct why *);
const struct catalogue_row *cloud_catalogue_find(const struct catalogue *, struct str kind, struct str provider, struct str model);    /* NULL = unknown */
#endif

/* flags.h - "--name value" for the bench programs: strings and unsigned numbers, nothing else. */
#ifndef CORRAL_TESTS_BENCH_FLAGS_H
#define CORRAL_TESTS_BENCH_FLAGS_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/str.h"

struct flag { const char *name, **text; uint64_t *number; };

static inline bool flag_set(const struct flag *f, const char *name, const char *value)
{
	for (; f->name; f++) {
		if (strcmp(f->name, name) != 0)
			continue;
		if (f->text)
			*f->text = value;
		return f->text || str_u64(str_of(value), f->number);
	}
	return false;
}

/* Ends the program with status 2 and a list of the flags when something is not one. */
static inline void flags_read(const struct flag *flags, int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 < argc && strncmp(argv[i], "--", 2) == 0 && flag_set(flags, argv[i] + 2, argv[i + 1]))
			continue;
		fprintf(stderr, "%s: '%s' is not a flag with its value; flags:", argv[0], argv[i]);
		for (const struct flag *f = flags; f->name; f++)
			fprintf(stderr, " --%s", f->name);
		fprintf(stderr, "\n");
		exit(2);
	}
}
#endif

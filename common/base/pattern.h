/* pattern.h - regular expressions whose time is bounded by text times pattern, whoever wrote either of them.
 *
 * A pattern is run as a set of places in it that moves over the text once, byte by byte; nothing is ever tried again, so there is
 * no backtracking and no back-reference. What is found is not one match after the other but everything that lies in any match: for hiding
 * things the union is what counts.
 *
 *   literals, '.' (any byte but a newline), [a-z] [^a-z] [[:digit:]], \d \w \s \D \W \S, \n \t \r \xHH, groups ( ), a|b, * + ? {n} {n,} {n,m}, ^ $ (of the
 *   whole text), \b (between a letter, digit or '_' and something else); (?i) at the start: upper and lower case are one (ASCII)
 *
 * Bytes, not characters: inside [ ] only ASCII may stand. Compiled patterns are read-only and may be used by several threads at once. */
#ifndef CORRAL_BASE_PATTERN_H
#define CORRAL_BASE_PATTERN_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

enum { PATTERN_STEPS_MAX = 2000, PATTERN_TEXT_MAX = 1024 };      /* places of one pattern after repetitions are written out; bytes of its text */

struct pattern;

/* In the arena; NULL with *why (ERR_INVALID) for what is no pattern, matches the empty text, or is too large. */
struct pattern *pattern_new(struct arena *, struct str text, struct why *);
/* One that matches these bytes and nothing else; not empty, at most PATTERN_TEXT_MAX. */
struct pattern *pattern_literal(struct arena *, struct str text, struct why *);

struct span { size_t from, to; };
/* The parts of the text that lie in a match, in order, not overlapping; in the arena. *work is counted down by what was done (about one for
 * each byte and place); false when it was used up before the end, and *ret, *ret_n are what was found until then. */
bool pattern_find(const struct pattern *, struct str text, struct arena *, int64_t *work, struct span **ret, size_t *ret_n);
#endif

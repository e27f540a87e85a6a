/* redact.h - what must not leave the house in a request: found in its JSON and taken out, or the request is refused.
 *
 * Rules are read from text, one on a line; '#' begins a comment:
 *
 *   redact email                        a built-in kind: email, card (13 to 19 digits with a valid check digit), api_key
 *   refuse api_key
 *   redact ticket pattern TICKET-\d{4,}    a regular expression (common/base/pattern.h); it goes to the end of the line
 *   refuse codename text Blue Heron        these bytes
 *
 * Every text of the request is looked at, decoded, except the root's "model": keys, too, and numbers below the root. A text that is itself JSON (the
 * arguments of a tool call) is looked at inside as well, where escapes may hide what it says. Texts that a model reads as one (the parts of
 * a message, the strings of an array) are also looked at one behind the other, so that a secret split over them is found.
 * What was found is replaced by [redacted:NAME]; all other bytes of the request stay as they are.
 *
 * Not found is what needs more than reading: a secret in a picture, in base64, spelt out, or split over messages. Pure functions; compiled rules are
 * read-only and may be shared by threads. Nothing here ever writes what was found into a sentence or a log. */
#ifndef CORRAL_LLM_REDACT_H
#define CORRAL_LLM_REDACT_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/str.h"

enum { REDACT_RULES_MAX = 64, REDACT_NAME_MAX = 32 };

struct redact;                        /* compiled rules */

/* In the arena. NULL with *why (ERR_INVALID, the line in words; never what stands behind "text") for what is no rule. No rules at all are fine. */
struct redact *redact_new(struct arena *, struct str rules, struct why *);
unsigned redact_n_rules(const struct redact *);
const char *redact_name(const struct redact *, unsigned rule);

struct redacted {
	struct str json;              /* the request as it may leave: the text given, when nothing was found, else in the arena */
	uint32_t count[REDACT_RULES_MAX];     /* places that each rule took out */
	uint32_t total;
	int refused_by;               /* the rule that refused it; -1 = none did */
};

/* ERR_OK, or: ERR_INVALID with refused_by set, the sentence naming the rule; ERR_MALFORMED for what is no JSON; ERR_TOO_LARGE when looking would take too
 * long, or JSON texts lie in each other too deep: what could not be looked at does not leave. Linear in the request times the rules. */
enum err redact_apply(const struct redact *, struct str json, struct arena *, struct redacted *ret, struct why *);
#endif

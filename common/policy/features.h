/* features.h - what a request is about, in one pass over (a sample of) its text: task type, complexity, language.
 *
 * Rules of high precision; the client's own words win; UNKNOWN rather than a guess. Pure, no allocation; about 5 µs for each KiB of English text. */
#ifndef CORRAL_POLICY_FEATURES_H
#define CORRAL_POLICY_FEATURES_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

enum task { TASK_UNKNOWN, TASK_BUG_FIX, TASK_FEATURE, TASK_REFACTOR, TASK_CODE_REVIEW, TASK_EXPLAIN, TASK_TEST_GENERATION,
	TASK_DOCS, TASK_SQL, TASK_SHELL, TASK_DATA_EXTRACTION, TASK_SUMMARIZE, TASK_TRANSLATE, TASK_MATH, TASK_REASONING,
	TASK_CREATIVE, TASK_QA, TASK_CHAT, TASK_AGENT_TOOL, TASK_COUNT };
enum complexity { COMPLEXITY_SIMPLE, COMPLEXITY_MEDIUM, COMPLEXITY_COMPLEX };

const char *task_name(enum task);                         /* "BUG_FIX" */
/* A name of the contract or a synonym; upper or lower case, '-' or '_'. False for an unknown word. */
bool task_parse(struct str word, enum task *ret);
bool task_is_code(enum task);
const char *complexity_name(enum complexity);
bool complexity_parse(struct str word, enum complexity *ret);

/* What the extraction reads: texts may be samples (first and last 4 KiB). */
struct feature_text {
	struct str system, user, context;
	uint32_t prompt_tokens;       /* estimated, whole request */
	uint32_t n_messages;
	bool has_tools, has_schema, has_images;
};

struct features {
	enum task task;
	double confidence;            /* 0..1: of the task */
	enum complexity complexity;
	char language[24];            /* programming ("python", "c", "sql") or natural ("en", "de"); "" = undetected */
};

void features_extract(struct features *, const struct feature_text *);
#endif

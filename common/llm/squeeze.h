/* squeeze.h - a long context made shorter without a word of it being lost: what stands in it twice is said once.
 *
 *   - a block (lines between empty lines; a fenced block with its fences) of at least SQUEEZE_LEAST bytes that is byte for byte one that came before is
 *     replaced by SQUEEZE_MARK, so that it is seen that something stood there;
 *   - blanks at the ends of lines go, runs of empty lines become one.
 *
 * Blanks at the beginning of a line and between words stay: they mean something in Python, YAML, Makefiles and tables. Inside fences empty lines stay too. */
#ifndef CORRAL_LLM_SQUEEZE_H
#define CORRAL_LLM_SQUEEZE_H
#include "common/base/arena.h"
#include "common/base/str.h"

enum { SQUEEZE_LEAST = 64 };
#define SQUEEZE_MARK "[as above]"

/* Twice is as once: the result is its own result. May return the text itself. */
struct str llm_squeeze(struct str text, struct arena *);
/* The "context" of a native request's body squeezed: the body to be read instead, in the arena; the same when there is nothing to gain. */
struct str llm_squeeze_body(struct str body, struct arena *);
#endif

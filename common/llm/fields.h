/* fields.h - every field a client may send, and what becomes of it at each kind of backend.
 *
 * One row per name. Where client and backend speak the same dialect a field passes through as it was written and the row
 * only says its type; where they differ, as[backend] decides:
 *
 *   "name"   carried or mapped; plain fields are written with their value under that name by the writers themselves
 *   IGNORED  accepted, has no effect on the answer, named in X-Corral-Ignored
 *   NULL     refused with a 400 that names the field, unless its value is null or asks for nothing (field_harmless())
 *
 * docs/reference/fields.md is printed from this table by llm_dump_fields(). */
#ifndef CORRAL_LLM_FIELDS_H
#define CORRAL_LLM_FIELDS_H
#include "common/data/json.h"
#include "common/llm/exchange.h"

#define IGNORED "-"

/* Where a field may stand. */
enum llm_form { FORM_OPENAI_CHAT, FORM_OPENAI_COMPLETE, FORM_OLLAMA_CHAT, FORM_OLLAMA_GENERATE, FORM_NATIVE, FORM_OPTIONS,
		FORM_OPENAI_MESSAGE, FORM_OLLAMA_MESSAGE, FORM_ANTHROPIC, FORM_ANTHROPIC_MESSAGE, FORM_ANTHROPIC_BLOCK,
		FORM_ANTHROPIC_TOOL, FORM_ANTHROPIC_THINKING, FORM_ANTHROPIC_OUTPUT, FORM_OPENAI_EMBED, FORM_OLLAMA_EMBED,
		FORM_OLLAMA_EMBED_OLD, FORM_COUNT };

enum field_id {
	F_PLAIN,                  /* a value that is copied under another name, nothing else */
	F_MODEL, F_MESSAGES, F_PROMPT, F_SUFFIX, F_SYSTEM, F_TEMPLATE, F_CONTEXT_IDS, F_CONTEXT_TEXT, F_RAW, F_IMAGES, F_OPTIONS,
	F_STREAM, F_STREAM_OPTIONS, F_TOOLS, F_TOOL_CHOICE, F_PARALLEL_TOOLS, F_RESPONSE_FORMAT, F_FORMAT, F_STOP,
	F_MAX_TOKENS, F_MAX_COMPLETION_TOKENS, F_LOGPROBS, F_LOGPROBS_N, F_TOP_LOGPROBS, F_THINK, F_REASONING_EFFORT, F_TEMPLATE_KWARGS, F_NUM_CTX,
	F_COUNT_OF_ANSWERS, F_ECHO, F_LOGIT_BIAS, F_MODALITIES, F_VERBOSITY,
	F_TASK_TYPE, F_COMPLEXITY, F_LANGUAGE, F_POLICY, F_LOCAL_ONLY, F_USER_ID, F_SESSION_ID, F_CONVERSATION_ID, F_OPTIMIZE, F_CACHE,
	F_ROLE, F_CONTENT, F_CALLS, F_CALL_ID, F_TOOL_NAME, F_THINKING,
	F_METADATA, F_THINKING_CONFIG, F_OUTPUT_CONFIG, F_TYPE, F_TEXT, F_SOURCE, F_ID, F_NAME, F_INPUT, F_IS_ERROR,
	F_EMBED_INPUT, F_ENCODING,
	F_DESCRIPTION, F_SCHEMA, F_STRICT, F_BUDGET, F_EFFORT,
	F_NONE,                   /* no effect anywhere: ignored, or refused where it would have one */
};

struct field {
	const char *name;
	enum field_id id;
	uint32_t forms;           /* bits: 1 << enum llm_form */
	uint8_t kinds;            /* bits: 1 << enum json_kind; null is always allowed and means absent */
	const char *as[LLM_BACKENDS];     /* by enum llm_backend */
	const char *note;         /* for the table of the docs */
};

enum llm_form llm_form_of(enum llm_dialect, enum llm_op);
const struct field *field_find(enum llm_form, struct str name);                 /* NULL = unknown */
const struct field *field_find_any_case(enum llm_form, struct str name);
const struct field *field_at(unsigned i);                                       /* rows in order; NULL after the last */
const char *field_nearest(enum llm_form, struct str name);                      /* "did you mean"; NULL = nothing near */
bool field_is_for_gateway(const struct field *);                                /* a hint of ours: no backend sees it */
bool field_has_no_effect(const struct field *);                                 /* ignored by every backend: named when the request is read */
const char *backend_kind_name(enum llm_backend);                                /* "Ollama": for sentences */

/* ERR_MALFORMED, naming the field, when the value's type is not one of the row's. */
enum err field_check_kind(const struct field *, const char *path, const struct json *, uint32_t value, struct why *);
/* True when a field that cannot be carried asks for nothing: null, an empty list, the default. */
bool field_harmless(const struct field *, const struct json *, uint32_t value);
#endif

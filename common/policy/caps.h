/* caps.h - what a model can do and a request needs, as bits of one mask. Words are Ollama's. */
#ifndef CORRAL_POLICY_CAPS_H
#define CORRAL_POLICY_CAPS_H
#include <stdint.h>

#include "common/base/str.h"

enum {
	LLM_CAP_COMPLETION = 1, LLM_CAP_TOOLS = 2, LLM_CAP_VISION = 4, LLM_CAP_EMBEDDING = 8, LLM_CAP_THINKING = 16,
	LLM_CAP_INSERT = 32, LLM_CAP_AUDIO = 64
};

uint32_t llm_cap_parse(struct str word);          /* "tools" -> LLM_CAP_TOOLS; 0 = unknown */
const char *llm_cap_name(uint32_t bit);           /* NULL for anything but one known bit */
#endif

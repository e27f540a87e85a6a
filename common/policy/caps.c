/* caps.c - see caps.h. */
#include "common/policy/caps.h"

static const struct { uint32_t bit; const char *name; } caps[] = {
	{ LLM_CAP_COMPLETION, "completion" }, { LLM_CAP_TOOLS, "tools" }, { LLM_CAP_VISION, "vision" },
	{ LLM_CAP_EMBEDDING, "embedding" }, { LLM_CAP_THINKING, "thinking" }, { LLM_CAP_INSERT, "insert" },
	{ LLM_CAP_AUDIO, "audio" },
};

uint32_t llm_cap_parse(struct str word)
{
	for (size_t i = 0; i < sizeof(caps) / sizeof(*caps); i++)
		if (str_eqz(word, caps[i].name))
			return caps[i].bit;
	return 0;
}

const char *llm_cap_name(uint32_t bit)
{
	for (size_t i = 0; i < sizeof(caps) / sizeof(*caps); i++)
		if (bit == caps[i].bit)
			return caps[i].name;
	return NULL;
}

/* turns.h - a conversation written as turns of parts, as Anthropic and Gemini have it: turns of one role that follow each other are one,
 * an empty text is no part, and the system prompt stands elsewhere. Private to common/llm. */
#ifndef CORRAL_LLM_TURNS_H
#define CORRAL_LLM_TURNS_H
#include "common/llm/canon.h"

struct turns {
	struct planning *p;
	struct json_out *jo;
	const char *parts;        /* the member of a turn that holds them: "content" */
	bool typed;               /* each part says its type */
	void (*image)(struct turns *, struct str image);       /* the members of a part that is one */
	const char *role;         /* of the open turn; NULL = none is open */
};

void turns_part(struct turns *, const char *role);      /* opens an object in a turn of that role; jw_end() closes it */
void turns_content(struct turns *, const char *role, const struct message *);   /* texts and images in their order */
void turns_end(struct turns *);
/* The texts of all system messages, as a list of parts under 'key'; nothing when there are none. */
void turns_system(struct turns *, const struct canon *, const char *key);
#endif

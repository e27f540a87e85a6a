/* embed.h - requests and answers of embeddings. Private to common/llm; see embed.c. */
#ifndef CORRAL_LLM_EMBED_H
#define CORRAL_LLM_EMBED_H
#include "common/llm/relay.h"

/* How many vectors 'input' asks for: a text or a list of token ids is one. */
uint32_t embed_inputs(const struct json *, uint32_t input);

/* Texts, or token ids where the dialect has them, and none of them empty; ERR_MALFORMED or ERR_INVALID. */
enum err embed_check(const struct json *, uint32_t input, enum llm_dialect, struct why *);

/* The body for a backend of another dialect, and where it goes. */
enum err embed_write_request(struct planning *, struct buf *out, const char **ret_path);

/* What a whole answer says: usage, an error, whether it is one. */
void embed_read_answer(const struct llm_relay *, const struct json *, struct chunk *, struct llm_usage *);
/* As many vectors as were asked for. */
bool embed_is_complete(const struct llm_relay *, const struct json *);
/* The answer in the client's dialect; false with r->why, and nothing written, when the vectors are none. */
bool embed_write_answer(struct llm_relay *, const struct json *, const struct llm_extra *, struct buf *out);
#endif

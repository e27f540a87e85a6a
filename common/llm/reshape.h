/* reshape.h - a backend's answer in its other form: what came as a stream as one body, and the other way round, in the backend's own dialect.
 *
 * For answers that are given again. What only one of the forms can say as it was (several choices, calls of tools, log probabilities) is not
 * turned: then there is no such answer. */
#ifndef CORRAL_LLM_RESHAPE_H
#define CORRAL_LLM_RESHAPE_H
#include "common/llm/exchange.h"

/* 'body': whole, of the form that 'from_stream' says. False: it cannot be turned; what *out got is not to be used. */
bool llm_reshape(enum llm_backend, enum llm_op, struct str body, bool from_stream, struct buf *out);
#endif

/* shape.h - recognises the events of a stream that differ from the last one only in their text.
 *
 * Nearly all events of an answer are the same bytes around one changing string. An event is read as JSON once; the next is
 * compared with it, literal run by literal run, each hole holding the inside of one JSON string. What matches has the same
 * members with the same values but for those strings: no usage, no error, no finish can hide in it. */
#ifndef CORRAL_LLM_SHAPE_H
#define CORRAL_LLM_SHAPE_H
#include "common/base/buf.h"
#include "common/data/json.h"

enum { SHAPE_HOLES = 3 };

struct shape {
	struct buf text;          /* the event it was learned from */
	uint32_t lit_at[SHAPE_HOLES + 1], lit_end[SHAPE_HOLES + 1];
	unsigned n_holes;         /* 0 = nothing learned */
	unsigned text_hole;       /* which hole is the answer's text */
};

void shape_free(struct shape *);
/* Learns an event; 'holes' are tokens of strings in the order of the text, of which 'text_hole' is the answer's. */
void shape_learn(struct shape *, const struct json *, const uint32_t *holes, unsigned n, unsigned text_hole);
/* True when the event has that shape; *ret_text: what is between the quotes of the text hole, still escaped. */
bool shape_match(const struct shape *, struct str event, struct str *ret_text);
#endif

/* recall_entry.h - an answer of a backend as it is kept: its bytes as they came, so that it can go the same way to the client once more.
 *
 * The events of a stream differ from each other in little: each is kept as what it has in common with the one before, at both ends, and what
 * lies between. That is a few bytes beside the text, where the event itself is hundreds. */
#ifndef CORRAL_GATEWAY_RECALL_ENTRY_H
#define CORRAL_GATEWAY_RECALL_ENTRY_H
#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"

enum entry_form { ENTRY_WHOLE, ENTRY_EVENTS, ENTRY_LINES };       /* one body; events of SSE; lines of JSON */

struct entry_head {
	enum entry_form form;
	bool counted;                 /* the stream was asked for its usage */
};

void entry_pack(const struct entry_head *, struct str body, struct buf *out);
/* False: it is none, or would be longer than 'most'; what *out got is not to be used. The bytes may come from anywhere. */
bool entry_unpack(struct entry_head *, struct str packed, size_t most, struct buf *out);
#endif

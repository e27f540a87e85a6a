/* frame.h - cuts a stream into whole frames without taking it apart: an SSE event with its empty line, or a line of NDJSON.
 *
 * Unlike the readers of common/io/sse.h and ndjson.h it keeps the bytes as they came, comments included, because on the
 * pass-through path they go on as they are; frames that lie whole in the input are not copied. */
#ifndef CORRAL_LLM_FRAME_H
#define CORRAL_LLM_FRAME_H
#include <stdbool.h>

#include "common/base/buf.h"
#include "common/base/str.h"

enum frame_kind { FRAME_SSE, FRAME_LINE, FRAME_JSON };   /* JSON: objects or arrays, one after another */
/* Of one unfinished frame. Ollama's last line of /api/generate lists the tokens of the whole context: about 7 bytes each. */
enum { FRAME_MAX = 4 * 1024 * 1024 };

struct frames {
	enum frame_kind kind;
	struct buf held;          /* the start of a frame whose end has not come */
	bool held_is_out;         /* held was given out as a frame: to be cleared by the next call */
	struct buf joined;        /* the payload of an event of several data lines */
	int depth;                /* JSON: open containers of what is held */
	bool in_string, escaped;
};

void frames_free(struct frames *);

/* Takes the next whole frame off *in. It points into *in, or into 'held' when it began in an earlier input; the latter is
 * valid until the next call. False: *in is used up, an unfinished rest is held. */
bool frames_next(struct frames *, struct str *in, struct str *ret_frame);
/* The frame given last lies in 'held': it is gone with the next call, not with the input. */
static inline bool frames_in_held(const struct frames *f) { return f->held_is_out; }
bool frames_too_long(const struct frames *);
/* At the end of the stream: what is held and never got its end. */
struct str frames_rest(struct frames *);

/* The JSON of a frame: joined data lines of an SSE event, or the line without its end. Empty: a comment, an empty line.
 * Points into the frame, or into 'joined': valid until the next call of either. */
struct str frame_payload(struct frames *, struct str frame);
#endif

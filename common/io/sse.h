/* sse.h - Server-Sent Events: a reader fed bytes as they come, and a writer.
 *
 * Line ends are LF, CR or CR LF; a byte order mark at the start, comments and unknown fields are skipped; a block without
 * data is no event. What is held between feeds is bounded. Pure: no I/O, one owner, no locks. */
#ifndef CORRAL_IO_SSE_H
#define CORRAL_IO_SSE_H
#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/str.h"

enum { SSE_MAX_LINE = 1024 * 1024 };

/* Zero-initialised is valid and has the usual limit. */
struct sse_reader {
	struct buf line;              /* the start of a line whose end has not come */
	struct buf data;              /* of the running event, when it had to be copied */
	struct buf event, id;         /* the running event's name; the last id of the stream, see sse_id() */
	struct str span;              /* the running event's only data line, in the bytes being fed */
	size_t max_line;              /* bytes of a line, and of an event's joined data; 0 = SSE_MAX_LINE */
	bool started, after_cr, has_data, broken;
};

void sse_init(struct sse_reader *, size_t max_line);
void sse_free(struct sse_reader *);       /* leaves it empty and usable */

/* Calls on_event for each event that 'in' completes, before returning; 'event' is empty when the block names none, several
 * data lines are joined by LF. Both are valid during the call only, and data that lies in 'in' as one line is not copied.
 * on_event may not feed or free the reader. ERR_TOO_LARGE when a line or an event's data exceeds the limit; from then on
 * every feed fails so. How the bytes were cut makes no difference to events or errors. */
enum err sse_feed(struct sse_reader *, struct str in, void (*on_event)(void *arg, struct str event, struct str data),
		  void *arg, struct why *);

/* Bytes of an unfinished event or line are held: a stream that ends now was cut. */
bool sse_pending(const struct sse_reader *);

static inline struct str sse_id(const struct sse_reader *r) { return buf_as_str(&r->id); }

/* Appends one event; line breaks in data become further data lines, a name is cut at its first line break. */
void sse_write(struct buf *, struct str event_or_empty, struct str data);
void sse_comment(struct buf *, struct str text);
#endif

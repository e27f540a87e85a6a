/* ndjson.h - a reader of newline-delimited JSON: lines, fed as bytes come. What is in a line is not looked at.
 *
 * Lines end with LF; one CR before it is dropped; empty lines are skipped. Pure: no I/O, one owner, no locks. */
#ifndef CORRAL_IO_NDJSON_H
#define CORRAL_IO_NDJSON_H
#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/str.h"

enum { NDJSON_MAX_LINE = 1024 * 1024 };

/* Zero-initialised is valid and has the usual limit. */
struct ndjson_reader {
	struct buf line;              /* the start of a line whose end has not come */
	size_t max_line;              /* bytes before the LF; 0 = NDJSON_MAX_LINE */
	bool broken;
};

void ndjson_init(struct ndjson_reader *, size_t max_line);
void ndjson_free(struct ndjson_reader *);     /* leaves it empty and usable */

/* Calls on_line for each line that 'in' completes, before returning. A line is valid during the call only, and one that lies
 * whole in 'in' is not copied. on_line may not feed or free the reader. ERR_TOO_LARGE when a line exceeds the limit; from
 * then on every feed fails so. How the bytes were cut makes no difference to lines or errors. */
enum err ndjson_feed(struct ndjson_reader *, struct str in, void (*on_line)(void *arg, struct str line), void *arg, struct why *);

/* At the end of the stream: true when a last line came without its LF, which may be cut; *ret_rest is valid until the next
 * call. False after an error. The reader is empty afterwards. */
bool ndjson_finish(struct ndjson_reader *, struct str *ret_rest);
#endif

/* dims.h - the words usage is grouped by, as numbers: found in memory, else in the table, else added there. */
#ifndef CORRAL_USAGE_DIMS_H
#define CORRAL_USAGE_DIMS_H
#include "services/usage-tracker/ledger.h"

struct dims;

struct dims *dims_new(struct db *);
void dims_free(struct dims *);
/* Inside a transaction. */
const struct dim *dims_intern(struct dims *, const struct str word[DIMS], struct why *);
const struct dim *dims_get(struct dims *, int64_t id, struct why *);
/* After a rollback: what was added is not there. Views of a dim end here. */
void dims_forget(struct dims *);
size_t dims_count(const struct dims *);
#endif

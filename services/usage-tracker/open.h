/* open.h - rows whose START is in the table and whose FINAL is not, kept in memory so that the FINAL needs no read.
 * Only a help: a row that is not here is found in the table. At most 65,536. */
#ifndef CORRAL_USAGE_OPEN_H
#define CORRAL_USAGE_OPEN_H
#include "services/usage-tracker/ledger.h"

struct open_rows;

struct open_rows *open_rows_new(void);
void open_rows_free(struct open_rows *);
void open_rows_add(struct open_rows *, const struct ledger_row *);
/* Takes it out; its event moves into the arena. */
bool open_rows_take(struct open_rows *, const uint8_t request_id[16], uint32_t attempt, struct arena *, struct ledger_row *ret);
void open_rows_forget(struct open_rows *);        /* all of them */
#endif

/* book.h - sums by hour and dimension while a batch is applied: loaded when first touched, written back before the commit. */
#ifndef CORRAL_USAGE_BOOK_H
#define CORRAL_USAGE_BOOK_H
#include "services/usage-tracker/ledger.h"

struct book;

struct book *book_new(struct db *);
void book_free(struct book *);
struct sums *book_at(struct book *, int64_t hour, int64_t dim, struct why *);   /* to be changed; NULL on failure */
bool book_write(struct book *, struct why *);     /* what was touched, into the transaction */
void book_forget(struct book *);                  /* after a rollback */
bool book_row(const struct db_row *, int64_t *ret_hour, int64_t *ret_dim, struct sums *add_to);   /* of L_SUMS_GET, L_SUMS_BETWEEN */
#endif

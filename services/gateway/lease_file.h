/* lease_file.h - small files in the gateway's state directory that are there whole or not at all, and what the usage-tracker said last among them. */
#ifndef CORRAL_GATEWAY_LEASE_FILE_H
#define CORRAL_GATEWAY_LEASE_FILE_H
#include "budgets.pb-c.h"
#include "services/gateway/gateway.h"

void state_file_path(const struct gateway *, const char *file, char path[1024]);
/* On the disk when it returns true. */
bool state_file_write(const struct gateway *, const char *file, const void *bytes, size_t n);

bool lease_file_write(const struct gateway *, const char *file, const Corral__BudgetLeaseReply *);
/* NULL: there is none that can be read. Freed with corral__budget_lease_reply__free_unpacked(). */
Corral__BudgetLeaseReply *lease_file_read(const struct gateway *, const char *file);
#endif

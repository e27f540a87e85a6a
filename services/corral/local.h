/* local.h - what a command does on this machine's own files when no service runs: found as `corral serve` would find them. */
#ifndef CORRAL_CORRAL_LOCAL_H
#define CORRAL_CORRAL_LOCAL_H
#include "access.pb-c.h"
#include "common/base/err.h"
#include "services/corral/cli.h"

/* The options of serve that say where its files are; "" = as serve would have them. */
struct local_place { const char *state_dir, *config; };

/* Makes a key in the store of access; ret_file is the store. The replies live in cli->mem. */
enum err local_make_key(struct cli *, const struct local_place *, const Corral__Key *, Corral__CreateKeyReply *ret, const char **ret_file, struct why *);
/* The audit log's file, whether it is there or not. */
enum err local_audit_file(struct cli *, const struct local_place *, const char **ret_file, struct why *);
enum err local_verify(struct cli *, const char *file, uint64_t head_seq, const uint8_t *head, Corral__AuditVerifyReply *ret, struct why *);
/* Lets the program of that name that runs there start its successor, and waits for the end of it. */
enum err local_upgrade(struct cli *, const struct local_place *, const char *program, struct why *);
#endif

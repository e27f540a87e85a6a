/* service.h - the table of access, and what the command line does with its store when no service runs. */
#ifndef CORRAL_ACCESS_SERVICE_H
#define CORRAL_ACCESS_SERVICE_H
#include "access.pb-c.h"
#include "common/svc/svc.h"

extern const struct svc_def access_service;

/* Makes a key as the owner of this machine would, in the store of the service whose configuration and directory these are (see
 * svc_look()). ERR_CONFLICT with a sentence when a process holds the store: then its gateway is the one to ask. */
enum err access_make_key(const void *config, const char *dir, const Corral__Key *wanted, struct arena *, Corral__CreateKeyReply *ret,
			 struct why *);
/* The database file of that service; NULL when its store is none. */
const char *access_file(const void *config, const char *dir, struct arena *);
/* Walks the audit log in a database file; a service may be using it. ERR_OK says that it was walked, *ret what was found.
 * 'head' (32 bytes at 'head_seq', remembered from a checkpoint) is compared when head_seq is not 0. */
enum err access_verify_file(const char *path, uint64_t head_seq, const uint8_t *head, struct arena *, Corral__AuditVerifyReply *ret, struct why *);
#endif

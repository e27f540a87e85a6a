/* backup_parts.h - what backup.c and restore.c share: which databases there are, and small things about files. */
#ifndef CORRAL_CORRAL_BACKUP_PARTS_H
#define CORRAL_CORRAL_BACKUP_PARTS_H
#include "common/base/buf.h"
#include "common/base/list.h"
#include "services/corral/backup.h"

enum { BACKUP_FORMAT = 1 };

struct part_db {
	const char *service, *option;
	const char *path;             /* NULL: it is no file */
	bool outside;                 /* of the state directory */
	int64_t schema;               /* the highest that this program knows */
};

struct parts { struct part_db *dbs; unsigned n_dbs; };

struct parts *parts_of(const struct svc_settings *, const struct svc_def *const *defs, unsigned n, struct arena *);
const struct part_db *parts_find(const struct parts *, const char *path);       /* NULL: none of theirs */
void parts_hex(const uint8_t hash[32], char hex[65]);
void parts_remove_tree(const char *dir);
/* The process that has something of the state open: its id, 0 = nobody, -1 = somebody who cannot be named. */
int64_t parts_user(const struct svc_settings *, const struct parts *);
#endif

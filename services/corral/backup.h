/* backup.h - all state of an installation in one archive, taken while it runs; and back.
 *
 * In the archive (tar.h):  state/…          what lies below the state directory: databases as SQLite copies them at one moment, spools, snapshots
 *                          databases/OPTION.db   databases that an option puts elsewhere
 *                          config.yaml      the configuration file, with the secrets that stand in it
 *                          manifest.json    last: names, sizes, hashes, schema versions
 *
 * All databases are held at one moment, and the segments of spools get a second name just before and just after it: whatever the ledger's cursor is
 * in its copy, the facts behind it are there, although the gateway goes on and deletes what was shipped. */
#ifndef CORRAL_CORRAL_BACKUP_H
#define CORRAL_CORRAL_BACKUP_H
#include "common/svc/svc.h"

struct backup_sum { unsigned files, databases; uint64_t bytes; };

/* Makes the archive 'to', which must not exist; it appears when it is complete. Sentences about what is not part of it go to 'note'. */
enum err backup_make(const struct svc_settings *, const struct svc_def *const *defs, unsigned n, const char *to, struct backup_sum *ret,
		     void (*note)(void *arg, const char *text), void *arg, struct why *);

struct restore_result {
	struct backup_sum sum;
	char made_at[40], program[40];
	char kept[1100];              /* where the state that was there lies now; "" = there was none */
	char databases[4400];         /* the same for databases outside it, with ", " between them */
	char config[1100];            /* where the configuration was put; "" = it was not */
};
/* Unpacks beside the state directory, checks everything, and only then puts it in its place. ERR_CONFLICT while a program has the state open. With
 * 'verify_only' nothing is changed. */
enum err backup_restore(const struct svc_settings *, const struct svc_def *const *defs, unsigned n, const char *from, bool verify_only,
			struct restore_result *ret, struct why *);
#endif

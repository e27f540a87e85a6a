/* keys.h - keys: made, listed, replaced, ended. Acts (store.h), each with its line in the audit log.
 *
 * A key ends when it is revoked (for good) or when its time is over. The latter is judged by the clock each time, not written down: a
 * clock that was wrong for a while destroys no key. */
#ifndef CORRAL_ACCESS_KEYS_H
#define CORRAL_ACCESS_KEYS_H
#include "services/access/store.h"

struct key_row { Corral__Key *key; int64_t ended_us; };

enum err key_get(struct access_store *, struct arena *, struct str id, struct key_row *ret, struct why *);
bool key_is_live(const struct key_row *, int64_t now_us);
bool keys_live(struct access_store *, int64_t now_us, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *);     /* packed, in column 0 */
bool keys_count(struct access_store *, int64_t now_us, int64_t *ret, struct why *);
/* Ids of keys whose time ended after 'from' and not after 'to'. */
bool keys_expired(struct access_store *, int64_t from_us, int64_t to_us, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *);

enum err key_create(struct act *, const Corral__Key *wanted, Corral__CreateKeyReply *ret, struct why *);
/* A new key with all that the old one has; the old one ends in overlap_s, now when that is 0. One with an end keeps its length of life,
 * but does not outlive the key that rotates it. */
enum err key_rotate(struct act *, struct str id, int64_t overlap_s, Corral__CreateKeyReply *ret, struct why *);
/* These limits from now on, of a key that is live; NULL = none. They lie within those of who asks. */
enum err key_limit(struct act *, struct str id, Corral__Limits *, Corral__Key **ret, struct why *);
enum err key_revoke(struct act *, struct str id, bool *ret_changed, struct why *);
enum err keys_list(struct act *, const Corral__ListKeysRequest *, Corral__ListKeysReply *ret, struct why *);

/* The owner key of an installation that has none, from a file. True also when nothing is to be done; *ret_note says what was. */
bool key_bootstrap(struct access_store *, const char *path, int64_t now_us, const char **ret_note, struct why *);
/* When keys were used, as gateways saw it; the latest counts. */
bool key_used(struct access_store *, const Corral__KeyUse *, int64_t now_us, struct why *);
#endif

/* news.h - what gateways hear: the snapshot "access", whole at the start, then what changed.
 *
 * The whole is made from the store when somebody asks for it and kept until the next change. Keys that have ended are not in it; names
 * and origins of keys stay here, no gateway needs them. */
#ifndef CORRAL_ACCESS_NEWS_H
#define CORRAL_ACCESS_NEWS_H
#include "common/io/snapshot.h"
#include "services/access/store.h"

struct news;

/* Publishes the first whole. 'pub' may be NULL (tests, the command line): then nothing goes out. Owns neither. */
struct news *news_new(struct access_store *, struct snapshot_pub *, int64_t now_us, struct why *);
void news_free(struct news *);
void news_tell(struct news *, const Corral__AccessDelta *);       /* after the commit; an empty one is not sent */
/* Something may have been done of which nobody was told: all is made and published anew, by news_time() when the store can be read. */
void news_doubt(struct news *);
/* Keys whose time ended since the last call leave the snapshot. After the clock was set back everything is published anew. */
void news_time(struct news *, int64_t now_us);
struct str news_whole(struct news *);                             /* valid until the next call of this module */
size_t news_last_bytes(const struct news *);                      /* of what was published last */
uint64_t news_version(const struct news *);
#endif

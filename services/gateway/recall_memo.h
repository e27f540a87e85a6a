/* recall_memo.h - keys that were made lately, by what they were made of. Most who ask again send the same bytes again: their key need not be made anew, for
 * which the request is written in one order and hashed (recall_key.c). One worker's; at most RECALL_MEMO_SLOTS * RECALL_MEMO_MOST bytes. */
#ifndef CORRAL_GATEWAY_RECALL_MEMO_H
#define CORRAL_GATEWAY_RECALL_MEMO_H
#include "common/base/str.h"
#include "common/store/cache.h"

enum { RECALL_MEMO_SLOTS = 128, RECALL_MEMO_MOST = 8 << 10 };

struct recall_memo;

struct recall_memo *recall_memo_new(void);
void recall_memo_free(struct recall_memo *);          /* NULL is fine */
/* False: it is not known. Every byte of the source is compared. */
bool recall_memo_find(const struct recall_memo *, struct str source, uint8_t ret_key[CACHE_KEY_BYTES]);
/* In the place of an older one. Copies; what is longer than RECALL_MEMO_MOST is not kept. */
void recall_memo_keep(struct recall_memo *, struct str source, const uint8_t key[CACHE_KEY_BYTES]);
#endif

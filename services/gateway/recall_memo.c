/* recall_memo.c - see recall_memo.h. */
#include "services/gateway/recall_memo.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"

enum { SAMPLES = 24 };

struct kept { char *source; size_t n; uint8_t key[CACHE_KEY_BYTES]; };
struct recall_memo { struct kept slot[RECALL_MEMO_SLOTS]; };

struct recall_memo *recall_memo_new(void) { return x_calloc(1, sizeof(struct recall_memo)); }

void recall_memo_free(struct recall_memo *m)
{
	for (unsigned i = 0; m && i < RECALL_MEMO_SLOTS; i++)
		free(m->slot[i].source);
	free(m);
}

/* By its length and some words of it, the last among them: two that share a slot only displace each other. */
static unsigned slot_of(struct str source)
{
	uint64_t h = source.n, word;

	if (source.n < sizeof(word))
		return 0;
	for (unsigned i = 0; i < SAMPLES; i++) {
		memcpy(&word, source.p + (source.n - sizeof(word)) * i / (SAMPLES - 1), sizeof(word));
		h = (h ^ word) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return (unsigned)(h % RECALL_MEMO_SLOTS);
}

bool recall_memo_find(const struct recall_memo *m, struct str source, uint8_t ret_key[CACHE_KEY_BYTES])
{
	const struct kept *k = &m->slot[slot_of(source)];

	if (!k->source || k->n != source.n || memcmp(k->source, source.p, source.n) != 0)
		return false;
	memcpy(ret_key, k->key, sizeof(k->key));
	return true;
}

void recall_memo_keep(struct recall_memo *m, struct str source, const uint8_t key[CACHE_KEY_BYTES])
{
	struct kept *k = &m->slot[slot_of(source)];

	if (source.n > RECALL_MEMO_MOST || source.n == 0)
		return;
	free(k->source);
	k->source = x_malloc(source.n);
	memcpy(k->source, source.p, source.n);
	k->n = source.n;
	memcpy(k->key, key, sizeof(k->key));
}

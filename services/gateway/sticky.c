/* sticky.c - see sticky.h. Keyed by a 64-bit hash of tenant and conversation: a clash costs a wrong hint, never a wrong answer. */
#include "services/gateway/sticky.h"

#include <pthread.h>
#include <stdlib.h>

enum { BUCKETS = 1024, WAYS = 4 };
static const int64_t forget_us = 2 * 3600 * (int64_t)1000000;

struct entry { uint64_t key; int64_t at_us; char model[128]; };
struct sticky { pthread_mutex_t lock; struct entry (*table)[WAYS]; };

struct sticky *sticky_new(void)
{
	struct sticky *s = x_calloc(1, sizeof(*s));

	pthread_mutex_init(&s->lock, NULL);
	s->table = x_calloc(BUCKETS, sizeof(*s->table));      /* untouched pages cost nothing */
	return s;
}

void sticky_free(struct sticky *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s->table);
	free(s);
}

static uint64_t key_of(struct str tenant, struct str conversation)
{
	return str_hash(conversation, str_hash(tenant, 1)) | 1;
}

/* The lowest bit is no choice. */
static struct entry *bucket_of(struct sticky *s, uint64_t key) { return s->table[(key >> 1) % BUCKETS]; }

const char *sticky_get(struct sticky *s, struct str tenant, struct str conversation, int64_t now_us, struct arena *a)
{
	uint64_t key = key_of(tenant, conversation);
	const char *model = "";

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < WAYS; i++) {
		const struct entry *e = &bucket_of(s, key)[i];

		if (e->key == key && now_us - e->at_us < forget_us)
			model = arena_dup(a, e->model, strlen(e->model));
	}
	pthread_mutex_unlock(&s->lock);
	return model;
}

void sticky_put(struct sticky *s, struct str tenant, struct str conversation, const char *model, int64_t now_us)
{
	uint64_t key = key_of(tenant, conversation);
	struct entry *bucket = bucket_of(s, key), *oldest = &bucket[0];

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < WAYS; i++) {
		if (bucket[i].key == key) {
			oldest = &bucket[i];
			break;
		}
		if (bucket[i].at_us < oldest->at_us)
			oldest = &bucket[i];
	}
	oldest->key = key;
	oldest->at_us = now_us;
	str_copy(oldest->model, sizeof(oldest->model), str_of(model));
	pthread_mutex_unlock(&s->lock);
}

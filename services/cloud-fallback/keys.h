/* keys.h - the keys of one provider: where they come from, which one is next, and which rest.
 *
 * A key comes from the provider's file (one a line, '#' begins a comment), from the environment (commas between them); a blank and a number behind
 * a key is its weight. A key may be sealed (common/data/secret.h). A file is read again when it has changed; a key that stays keeps what was
 * learned of it. What is known of a key is told by its id, eight digits of its hash; its text is given to the request that it pays for and to
 * nobody else. One thread. Times are mono. */
#ifndef CORRAL_CLOUD_FALLBACK_KEYS_H
#define CORRAL_CLOUD_FALLBACK_KEYS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/base/arena.h"
#include "common/base/str.h"
#include "services/cloud-fallback/settings.h"

enum { KEY_ID = 9, KEYS_MOST = 64, KEY_TRIES = 3, KEY_MODELS = 16 };

enum key_state { KEY_GOOD, KEY_REFUSED, KEY_NO_CREDIT, KEY_RESTS };

/* A model that a key may not ask for until then. */
struct model_rest {
	char model[100];
	int64_t until_us, until_wall_us;
};

struct provider_key {
	char id[KEY_ID];
	char *text;
	const char *source;           /* "file", "environment" */
	uint32_t weight;
	int64_t turn;                 /* of the weighted round */
	enum key_state state;
	int64_t until_us;             /* not KEY_GOOD: when it may be tried again */
	int64_t wait_us;              /* the last rest that nobody said the length of */
	struct model_rest models[KEY_MODELS];         /* those whose limit of the day is reached */
};

struct keyring {
	struct provider_key keys[KEYS_MOST];
	size_t n;
	char problem[300];            /* why there is none, or what is wrong with some; "" = nothing */
	struct stat seen;             /* of the file */
	bool loaded;
};

/* True when something has changed. */
bool keyring_load(struct keyring *, const struct provider_setting *, struct arena *);
void keyring_free(struct keyring *);

/* The next one that is good now for that model (NULL = for any), and none of 'not' (ids that were tried); NULL = none. */
struct provider_key *keyring_pick(struct keyring *, const char *model, int64_t now_us, const char (*not)[KEY_ID], unsigned n_not);
bool key_usable(const struct provider_key *, const char *model, int64_t now_us);
/* When one of those that are good now, but not for that model, is good for it too; 0 = there is none such. */
int64_t keyring_model_back_us(const struct keyring *, const char *model, int64_t now_us);
/* When by the wall clock it is good for that model again, where all that are good now rest for it; 0 = one does not, or none is good at all. */
int64_t keyring_model_rests_wall_us(const struct keyring *, const char *model, int64_t now_us);
bool key_is_among(const char (*ids)[KEY_ID], unsigned n, const char *id);
struct provider_key *keyring_find(struct keyring *, const char *id);
/* How many may be used now; and of none, the one that is good again first (NULL = there is no key). */
size_t keyring_good(const struct keyring *, int64_t now_us);
const struct provider_key *keyring_first_back(const struct keyring *);

void key_rest(struct provider_key *, enum key_state, int64_t now_us, int64_t wait_us);    /* wait 0: not said; longer each time */
void key_rest_for(struct provider_key *, const char *model, int64_t until_us);    /* the others' requests go on with it */
void key_is_good(struct provider_key *);

/* What people write where a key should be. */
bool key_is_placeholder(struct str);
#endif

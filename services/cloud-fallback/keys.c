/* keys.c - see keys.h. */
#include "services/cloud-fallback/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/secret.h"
#include "common/io/http1.h"

enum { FILE_MAX = 64 * 1024, WEIGHT_MOST = 1000, KEY_MOST = 4096 };
#define FIRST_WAIT_US INT64_C(2000000)
#define LONGEST_WAIT_US INT64_C(300000000)

bool key_is_placeholder(struct str s)
{
	static const char *const words[] = { "changeme", "change-me", "change_me", "...", "your-", "your_", "yourkey", "placeholder", "replace", "example", "insert-", "insert_", "dummy" };
	size_t same = 1;

	if (s.n < 8 || s.p[0] == '<' || s.p[s.n - 1] == '>')
		return true;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (str_ifind(s, str_of(words[i])))
			return true;
	while (same < s.n && s.p[s.n - same - 1] == s.p[s.n - 1])
		same++;
	return same >= 8;                     /* "sk-xxxxxxxx", "00000000" */
}

/* --- reading --- */

static void wipe_keys(struct provider_key *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (keys[i].text) {
			secret_wipe(keys[i].text, strlen(keys[i].text));
			free(keys[i].text);
		}
	memset(keys, 0, n * sizeof(*keys));
}

static void id_of(struct str text, char id[KEY_ID])
{
	uint8_t hash[SHA256_BYTES];

	sha256(text, hash);
	for (int i = 0; i < 4; i++)
		snprintf(id + 2 * i, 3, "%02x", hash[i]);
}

static bool key_ok(struct str s)
{
	if (s.n > KEY_MOST || !http_value_ok(s))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == ' ' || s.p[i] == '\t')
			return false;
	return true;
}

static void problem(struct keyring *r, const char *text, const char *source)
{
	if (!r->problem[0])
		snprintf(r->problem, sizeof(r->problem), "%s (from its %s)", text, source);
}

static void add_open(struct keyring *r, struct str key, uint32_t weight, const char *source)
{
	struct provider_key *k = &r->keys[r->n];

	if (!key_ok(key))
		problem(r, "a key has characters that no key has", source);
	else if (key_is_placeholder(key))
		problem(r, "there is a placeholder where a key should be", source);
	else if (r->n == KEYS_MOST)
		problem(r, "there are more than 64 keys", source);
	else {
		*k = (struct provider_key){ .source = source, .weight = weight, .text = strndup(key.p, key.n) };
		id_of(key, k->id);
		r->n++;
	}
}

static void add_sealed(struct keyring *r, const struct provider_setting *p, struct str key, uint32_t weight, const char *source)
{
	struct buf open = { 0 };

	if (!p->seal_key)
		problem(r, "a key is sealed, and there is no master key to open it (cloud_master_key, master_key_file)", source);
	else if (!secret_unseal(p->seal_key, str_of(p->name), key, &open))
		problem(r, "a sealed key cannot be opened: it was sealed with another master key or for another provider, or was changed", source);
	else
		add_open(r, buf_as_str(&open), weight, source);
	secret_wipe(open.p, open.cap);
	buf_free(&open);
}

static void add(struct keyring *r, const struct provider_setting *p, struct str line, const char *source)
{
	struct str weight = str_trim(line), key;
	uint64_t w = 1;

	if (!weight.n || weight.p[0] == '#')
		return;
	str_split(&weight, ' ', &key);
	weight = str_trim(weight);
	if (weight.n && (!str_u64(weight, &w) || w < 1 || w > WEIGHT_MOST))
		problem(r, "the weight behind a key is no number from 1 to 1000", source);
	else if (is_sealed(key))
		add_sealed(r, p, key, (uint32_t)w, source);
	else
		add_open(r, key, (uint32_t)w, source);
}

static void read_file(struct keyring *r, const struct provider_setting *p)
{
	const char *path = p->key_file;
	char *text = x_malloc(FILE_MAX);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, FILE_MAX) : -1;
	struct str rest = str_n(text, n > 0 ? (size_t)n : 0), line;

	if (n < 0)
		snprintf(r->problem, sizeof(r->problem), "its key file %.150s cannot be read: %s", path, strerror(errno));
	if (fd >= 0) {
		(void)fstat(fd, &r->seen);
		close(fd);
	}
	while (rest.n && str_split(&rest, '\n', &line))
		add(r, p, line, "file");
	secret_wipe(text, FILE_MAX);
	free(text);
}

static void read_text(struct keyring *r, const struct provider_setting *p, const char *text)
{
	struct str rest = str_of(text), one;

	while (rest.n && str_split(&rest, ',', &one))
		add(r, p, one, "environment");
}

static const char *from_environment(const struct provider_setting *p, struct arena *mem)
{
	const char *v = settings_env(p->name, "KEY", mem);

	if (!v && p->key_env[0])
		v = getenv(p->key_env);
	return v;
}

static bool file_is_same(const struct keyring *r, const char *path)
{
	struct stat now = { 0 };

	(void)stat(path, &now);
	return now.st_ino == r->seen.st_ino && now.st_size == r->seen.st_size && now.st_mtim.tv_sec == r->seen.st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == r->seen.st_mtim.tv_nsec && now.st_dev == r->seen.st_dev;
}

static void keep_learned(struct keyring *r, const struct keyring *was)
{
	for (size_t i = 0; i < r->n; i++)
		for (size_t j = 0; j < was->n; j++)
			if (!strcmp(r->keys[i].text, was->keys[j].text)) {
				r->keys[i].state = was->keys[j].state;
				r->keys[i].until_us = was->keys[j].until_us;
				r->keys[i].wait_us = was->keys[j].wait_us;
				memcpy(r->keys[i].models, was->keys[j].models, sizeof(r->keys[i].models));
			}
}

bool keyring_load(struct keyring *r, const struct provider_setting *p, struct arena *mem)
{
	struct keyring was;
	const char *text;

	if (r->loaded && (!p->key_file[0] || file_is_same(r, p->key_file)))
		return false;
	was = *r;
	memset(r, 0, sizeof(*r));
	r->loaded = true;
	if (p->key_file[0])
		read_file(r, p);
	text = from_environment(p, mem);
	if (text)
		read_text(r, p, text);
	if (!r->n && !r->problem[0])
		snprintf(r->problem, sizeof(r->problem), "it has no key: name a file with key_file or CORRAL_PROVIDER_<NAME>_KEY_FILE");
	keep_learned(r, &was);
	wipe_keys(was.keys, was.n);
	return true;
}

void keyring_free(struct keyring *r)
{
	wipe_keys(r->keys, r->n);
	r->n = 0;
}

/* --- which one --- */

static const struct model_rest *rest_of(const struct provider_key *k, const char *model)
{
	static const struct model_rest none;

	for (size_t i = 0; model && i < KEY_MODELS; i++)
		if (!strncmp(k->models[i].model, model, sizeof(k->models[i].model) - 1))
			return &k->models[i];
	return &none;
}

static int64_t resting_until(const struct provider_key *k, const char *model) { return rest_of(k, model)->until_us; }

bool key_usable(const struct provider_key *k, const char *model, int64_t now_us)
{
	return (k->state == KEY_GOOD || now_us >= k->until_us) && now_us >= resting_until(k, model);
}

int64_t keyring_model_back_us(const struct keyring *r, const char *model, int64_t now_us)
{
	int64_t first = 0;

	for (size_t i = 0; i < r->n; i++) {
		int64_t until_us = resting_until(&r->keys[i], model);

		if (key_usable(&r->keys[i], NULL, now_us) && until_us > now_us && (!first || until_us < first))
			first = until_us;
	}
	return first;
}

int64_t keyring_model_rests_wall_us(const struct keyring *r, const char *model, int64_t now_us)
{
	int64_t first = 0;

	for (size_t i = 0; i < r->n; i++) {
		const struct model_rest *rest = rest_of(&r->keys[i], model);

		if (!key_usable(&r->keys[i], NULL, now_us))
			continue;
		if (rest->until_us <= now_us)
			return 0;
		if (!first || rest->until_wall_us < first)
			first = rest->until_wall_us;
	}
	return first;
}

bool key_is_among(const char (*ids)[KEY_ID], unsigned n, const char *id)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(ids[i], id))
			return true;
	return false;
}

/* By weight, evenly spread: who is owed most is next. */
struct provider_key *keyring_pick(struct keyring *r, const char *model, int64_t now_us, const char (*not)[KEY_ID], unsigned n_not)
{
	struct provider_key *best = NULL;
	int64_t all = 0;

	for (size_t i = 0; i < r->n; i++) {
		struct provider_key *k = &r->keys[i];

		if (!key_usable(k, model, now_us) || key_is_among(not, n_not, k->id))
			continue;
		k->turn += k->weight;
		all += k->weight;
		if (!best || k->turn > best->turn)
			best = k;
	}
	if (!best)
		return NULL;
	best->turn -= all;
	if (best->state == KEY_RESTS)
		best->state = KEY_GOOD;               /* its time is over; the next rest that nobody says the length of is longer */
	if (best->state != KEY_GOOD)
		best->until_us = now_us + FIRST_WAIT_US;      /* it is tried: one request alone until its outcome is known */
	return best;
}

struct provider_key *keyring_find(struct keyring *r, const char *id)
{
	for (size_t i = 0; i < r->n; i++)
		if (!strcmp(r->keys[i].id, id))
			return &r->keys[i];
	return NULL;
}

size_t keyring_good(const struct keyring *r, int64_t now_us)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		n += key_usable(&r->keys[i], NULL, now_us);
	return n;
}

const struct provider_key *keyring_first_back(const struct keyring *r)
{
	const struct provider_key *first = NULL;

	for (size_t i = 0; i < r->n; i++)
		if (!first || r->keys[i].until_us < first->until_us)
			first = &r->keys[i];
	return first;
}

void key_rest(struct provider_key *k, enum key_state state, int64_t now_us, int64_t wait_us)
{
	if (!wait_us) {
		k->wait_us = k->wait_us ? 2 * k->wait_us : FIRST_WAIT_US;
		if (k->wait_us > LONGEST_WAIT_US)
			k->wait_us = LONGEST_WAIT_US;
		wait_us = k->wait_us;
	}
	if (k->state == state && k->until_us > now_us + wait_us)
		return;
	k->state = state;
	k->until_us = now_us + wait_us;
}

/* In the place of that model's last rest, else of the one that ends first: mostly that of nobody. */
void key_rest_for(struct provider_key *k, const char *model, int64_t until_us)
{
	struct model_rest *to = &k->models[0];

	for (size_t i = 0; i < KEY_MODELS; i++) {
		if (!strncmp(k->models[i].model, model, sizeof(k->models[i].model) - 1)) {
			to = &k->models[i];
			break;
		}
		if (k->models[i].until_us < to->until_us)
			to = &k->models[i];
	}
	snprintf(to->model, sizeof(to->model), "%s", model);
	to->until_us = until_us;
	to->until_wall_us = wall_us() + until_us - mono_us();
}

void key_is_good(struct provider_key *k)
{
	k->state = KEY_GOOD;
	k->wait_us = 0;
}

/* keyring.c - see keyring.h.
 *
 *   keyring ──▶ shard[0 … 1023] ──▶ slots {hash, entry} ──▶ entry        each arrow is a counted reference to something immutable
 *          └──▶ tenants (one such table) */
#include "services/gateway/keyring.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/data/log.h"

enum { SHARDS = 1024, KIND_KEY = 1, KIND_TENANT = 2, LEAST_SLOTS = 4 };

/* A place without entry has hash EMPTY and, once the table is complete, the entry of a neighbour as decoy: looking for an unknown id then
 * reads the same memory as looking for a known one. */
enum { EMPTY = 0 };
struct slot { uint64_t hash; struct ring_entry *entry; };

struct table {
	_Atomic uint32_t refs;
	uint32_t n, mask;
	struct slot slots[];
};

struct keyring {
	_Atomic uint32_t refs;
	struct snapshot_id id;
	size_t n_keys;
	struct table *tenants;
	struct table *shards[SHARDS];
};

static uint64_t hash_of(struct str name)
{
	uint64_t h = str_hash(name, 5);

	return h == EMPTY ? 1 : h;
}
static unsigned shard_of(uint64_t hash) { return (unsigned)(hash >> 48) % SHARDS; }

/* --- entries: one block of memory each --- */

struct packer { char *p; };           /* NULL counts only */

static char *put(struct packer *to, size_t *n, const char *z)
{
	size_t len = strlen(z) + 1;
	char *at = to->p ? to->p + *n : NULL;

	if (at)
		memcpy(at, z, len);
	*n += len;
	return at;
}

static char **put_all(struct packer *to, size_t *n, char **all, size_t count)
{
	char **at;

	*n = (*n + 15) & ~(size_t)15;
	at = to->p ? (char **)(void *)(to->p + *n) : NULL;
	*n += count * sizeof(*at);
	for (size_t i = 0; i < count; i++) {
		char *s = put(to, n, all[i]);

		if (at)
			at[i] = s;
	}
	return at;
}

/* What of it the request path reads; names for people stay in access. */
static size_t pack_key(struct packer *to, Corral__Key *out, const Corral__Key *k)
{
	size_t n = 0;
	Corral__Key c = CORRAL__KEY__INIT;

	c.models = put_all(to, &n, k->models, k->n_models);
	c.actions = put_all(to, &n, k->actions, k->n_actions);
	c.networks = put_all(to, &n, k->networks, k->n_networks);
	c.n_models = k->n_models;
	c.n_actions = k->n_actions;
	c.n_networks = k->n_networks;
	c.id = put(to, &n, k->id);
	c.tenant = put(to, &n, k->tenant);
	c.team = put(to, &n, k->team);
	c.user = put(to, &n, k->user);
	c.role = k->role;
	c.expires_at_us = k->expires_at_us;
	c.local_only = k->local_only;
	if (out)
		*out = c;
	return n;
}

static size_t pack_tenant(struct packer *to, Corral__Tenant *out, const Corral__Tenant *t)
{
	size_t n = 0;
	Corral__Tenant c = CORRAL__TENANT__INIT;

	c.models = put_all(to, &n, t->models, t->n_models);
	c.n_models = t->n_models;
	c.name = put(to, &n, t->name);
	c.suspended = t->suspended;
	c.optimize_context = t->optimize_context;
	c.local_only = t->local_only;
	if (out)
		*out = c;
	return n;
}

static void entry_init(struct ring_entry *e, uint32_t kind, const char *name)
{
	atomic_store(&e->refs, 1);
	e->kind = kind;
	e->name = str_of(name);
	e->name_hash = hash_of(e->name);
}

static void read_networks(struct ring_key *k)
{
	for (size_t i = 0; i < k->pb.n_networks; i++)
		if (!cidr_parse(str_of(k->pb.networks[i]), &k->networks[i])) {
			k->bad_network = true;
			LOG_WARN("a key's network cannot be read; the key is refused everywhere", LOG_STR("key_id", k->e.name),
				 LOG_S("network", k->pb.networks[i]));
		}
}

static struct ring_key *key_new(const Corral__Key *pb, struct scope_table *scopes)
{
	size_t at = (sizeof(struct ring_key) + 15) & ~(size_t)15, nets = pb->n_networks * sizeof(struct cidr);
	size_t strings = (at + nets + 15) & ~(size_t)15;
	struct ring_key *k = x_calloc(1, strings + pack_key(&(struct packer){ NULL }, NULL, pb));

	pack_key(&(struct packer){ (char *)k + strings }, &k->pb, pb);
	entry_init(&k->e, KIND_KEY, k->pb.id);
	memcpy(k->hash, pb->hash.data, sizeof(k->hash));
	memcpy(k->id, pb->id, sizeof(k->id));
	k->networks = (struct cidr *)(void *)((char *)k + at);
	read_networks(k);
	k->scope = scope_get(scopes, "key", k->pb.id, pb->limits);
	return k;
}

static struct ring_tenant *tenant_new(const Corral__Tenant *pb, struct scope_table *scopes)
{
	size_t at = (sizeof(struct ring_tenant) + 15) & ~(size_t)15;
	struct ring_tenant *t = x_calloc(1, at + pack_tenant(&(struct packer){ NULL }, NULL, pb));

	pack_tenant(&(struct packer){ (char *)t + at }, &t->pb, pb);
	entry_init(&t->e, KIND_TENANT, t->pb.name);
	t->scope = scope_get(scopes, "tenant", t->pb.name, pb->limits);
	return t;
}

static void entry_unref(struct ring_entry *e)
{
	if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
		return;
	scope_unref(e->kind == KIND_KEY ? ((struct ring_key *)(void *)e)->scope : ((struct ring_tenant *)(void *)e)->scope);
	free(e);
}

/* --- tables --- */

static struct table *table_new(size_t room)
{
	uint32_t slots = LEAST_SLOTS;
	struct table *t;

	while (slots < room * 2)
		slots *= 2;
	t = x_calloc(1, sizeof(*t) + slots * sizeof(struct slot));
	atomic_store(&t->refs, 1);
	t->mask = slots - 1;
	return t;
}

static void table_unref(struct table *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i <= t->mask; i++)
		if (t->slots[i].hash != EMPTY)
			entry_unref(t->slots[i].entry);
	free(t);
}

static struct slot *table_slot(struct table *t, uint64_t hash, struct str name)
{
	for (uint64_t at = hash;; at++) {
		struct slot *s = &t->slots[at & t->mask];

		if (s->hash == EMPTY || (s->hash == hash && str_eq(s->entry->name, name)))
			return s;
	}
}

/* Takes over the reference. True: it was not there before. */
static bool table_put(struct table *t, struct ring_entry *e)
{
	struct slot *s = table_slot(t, e->name_hash, e->name);
	bool fresh = s->hash == EMPTY;

	if (!fresh)
		entry_unref(s->entry);
	*s = (struct slot){ e->name_hash, e };
	t->n += fresh;
	return fresh;
}

/* The same entries, with room for more; 'without' is left out (NULL = none). */
static struct table *table_copy(const struct table *old, size_t more, const struct ring_entry *without)
{
	struct table *t = table_new((old ? old->n : 0) + more);

	for (uint32_t i = 0; old && i <= old->mask; i++) {
		struct ring_entry *e = old->slots[i].entry;

		if (old->slots[i].hash == EMPTY || e == without)
			continue;
		atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
		table_put(t, e);
	}
	return t;
}

static const struct ring_entry *table_find(const struct table *t, uint64_t hash, struct str name)
{
	const struct slot *s = t ? table_slot((struct table *)t, hash, name) : NULL;

	return s && s->hash != EMPTY ? s->entry : NULL;
}

/* Complete: every place leads to somebody, nobody more often than others. */
static void table_seal(struct table *t)
{
	uint32_t next = 0;

	for (uint32_t i = 0; t->n && i <= t->mask; i++) {
		if (t->slots[i].hash != EMPTY)
			continue;
		do
			next = (next + 1) & t->mask;
		while (t->slots[next].hash == EMPTY);
		t->slots[i].entry = t->slots[next].entry;
	}
}

/* --- keyrings --- */

static bool usable(const Corral__Key *k) { return k->hash.len == SHA256_BYTES && strlen(k->id) == APIKEY_ID && *k->tenant; }

/* Tables of a ring under construction that no other ring shares, by bit; the rest are copied before they change. */
struct making {
	struct keyring *ring;
	struct scope_table *scopes;
	uint64_t own[SHARDS / 64];
};

static struct table **own_shard(struct making *m, uint64_t hash, const struct ring_entry *without)
{
	unsigned i = shard_of(hash);
	struct table **at = &m->ring->shards[i], *was = *at;
	bool mine = m->own[i / 64] >> (i % 64) & 1;

	if (!mine || without || !was || (was->n + 1) * 2 > was->mask + 1) {
		*at = table_copy(was, was ? was->n / 2 + 1 : 1, without);
		table_unref(was);
		m->own[i / 64] |= UINT64_C(1) << (i % 64);
	}
	return at;
}

static void put_key(struct making *m, const Corral__Key *pb)
{
	struct ring_key *k;

	if (!usable(pb)) {
		LOG_WARN("a key of the access snapshot cannot be used", LOG_S("key_id", pb->id));
		return;
	}
	k = key_new(pb, m->scopes);
	m->ring->n_keys += table_put(*own_shard(m, k->e.name_hash, NULL), &k->e);
}

static void del_key(struct making *m, const char *id)
{
	uint64_t hash = hash_of(str_of(id));
	const struct ring_entry *e = table_find(m->ring->shards[shard_of(hash)], hash, str_of(id));

	if (!e)
		return;
	own_shard(m, hash, e);
	m->ring->n_keys--;
}

static void own_tenants(struct making *m, size_t more, const struct ring_entry *without)
{
	struct table *was = m->ring->tenants;

	m->ring->tenants = table_copy(was, more, without);
	table_unref(was);
}

static void change(struct making *m, Corral__Tenant **put_tenants, size_t n_put, char **del_tenants, size_t n_del)
{
	if (n_put)
		own_tenants(m, n_put, NULL);
	for (size_t i = 0; i < n_put; i++) {
		struct ring_tenant *t = tenant_new(put_tenants[i], m->scopes);

		table_put(m->ring->tenants, &t->e);
	}
	for (size_t i = 0; i < n_del; i++) {
		const struct ring_entry *e = table_find(m->ring->tenants, hash_of(str_of(del_tenants[i])), str_of(del_tenants[i]));

		if (e)
			own_tenants(m, 0, e);
	}
}

static void finish(struct making *m)
{
	for (unsigned i = 0; i < SHARDS; i++)
		if (m->own[i / 64] >> (i % 64) & 1)
			table_seal(m->ring->shards[i]);
}

/* protobuf-c's pieces in one arena: thousands of them are given back at once. */
static void *piece(void *arena, size_t n) { return arena_alloc(arena, n); }
static void no_free(void *arena, void *p) { (void)arena, (void)p; }

struct keyring *keyring_new(struct str packed, struct snapshot_id id, struct scope_table *scopes, struct why *why)
{
	struct arena *mem = arena_new(packed.n + 4096);
	ProtobufCAllocator pieces = { piece, no_free, mem };
	Corral__AccessSnapshot *pb = corral__access_snapshot__unpack(&pieces, packed.n, (const uint8_t *)packed.p);
	struct making m = { .scopes = scopes };

	if (pb) {
		m.ring = x_calloc(1, sizeof(*m.ring));
		atomic_store(&m.ring->refs, 1);
		m.ring->id = id;
		change(&m, pb->tenants, pb->n_tenants, NULL, 0);
		for (size_t i = 0; i < pb->n_keys; i++)
			put_key(&m, pb->keys[i]);
		finish(&m);
	} else {
		err_set(why, ERR_MALFORMED, "the access snapshot cannot be decoded");
	}
	arena_free(mem);
	return m.ring;
}

static struct keyring *copy(const struct keyring *old, struct snapshot_id id)
{
	struct keyring *r = x_malloc(sizeof(*r));

	memcpy(r, old, sizeof(*r));
	atomic_store(&r->refs, 1);
	r->id = id;
	if (r->tenants)
		atomic_fetch_add_explicit(&r->tenants->refs, 1, memory_order_relaxed);
	for (unsigned i = 0; i < SHARDS; i++)
		if (r->shards[i])
			atomic_fetch_add_explicit(&r->shards[i]->refs, 1, memory_order_relaxed);
	return r;
}

struct keyring *keyring_with(const struct keyring *old, struct str delta, struct snapshot_id id, struct scope_table *scopes, struct why *why)
{
	struct arena *mem = arena_new(delta.n + 4096);
	ProtobufCAllocator pieces = { piece, no_free, mem };
	Corral__AccessDelta *pb = corral__access_delta__unpack(&pieces, delta.n, (const uint8_t *)delta.p);
	struct making m = { .scopes = scopes };

	if (pb) {
		m.ring = copy(old, id);
		change(&m, pb->put_tenants, pb->n_put_tenants, pb->del_tenants, pb->n_del_tenants);
		for (size_t i = 0; i < pb->n_put_keys; i++)
			put_key(&m, pb->put_keys[i]);
		for (size_t i = 0; i < pb->n_del_keys; i++)
			del_key(&m, pb->del_keys[i]);
		finish(&m);
	} else {
		err_set(why, ERR_MALFORMED, "a change of the access snapshot cannot be decoded");
	}
	arena_free(mem);
	return m.ring;
}

struct keyring *keyring_ref(struct keyring *r)
{
	if (r)
		atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	return r;
}

void keyring_unref(struct keyring *r)
{
	if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
		return;
	table_unref(r->tenants);
	for (unsigned i = 0; i < SHARDS; i++)
		table_unref(r->shards[i]);
	free(r);
}

struct snapshot_id keyring_id(const struct keyring *r) { return r->id; }
size_t keyring_keys(const struct keyring *r) { return r->n_keys; }
size_t keyring_tenants(const struct keyring *r) { return r->tenants ? r->tenants->n : 0; }

const struct ring_tenant *keyring_tenant(const struct keyring *r, struct str name)
{
	return (const struct ring_tenant *)(const void *)table_find(r->tenants, hash_of(name), name);
}

const struct ring_key *keyring_key(const struct keyring *r, struct str id)
{
	uint64_t hash = hash_of(id);

	return (const struct ring_key *)(const void *)table_find(r->shards[shard_of(hash)], hash, id);
}

/* The key whose id has this hash, or the decoy of the place where it would be. */
static const struct slot *by_hash(const struct table *t, uint64_t hash)
{
	for (uint64_t at = hash;; at++) {
		const struct slot *s = &t->slots[at & t->mask];

		if (s->hash == hash || s->hash == EMPTY)
			return s;
	}
}

static uint8_t tag_key[TAG_KEY_BYTES];

static void make_tag_key(void) { secret_random(tag_key, sizeof(tag_key)); }

static void tag_of(struct str text, uint64_t ret[2])
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_tag_key);
	secret_tag(tag_key, text, ret);
	ret[0] |= 1;                      /* never that of an entry without one */
}

static bool was_seen(const struct ring_key *k, const uint64_t tag[2])
{
	uint64_t seen[2] = { atomic_load_explicit(&k->seen[0], memory_order_relaxed), atomic_load_explicit(&k->seen[1], memory_order_relaxed) };

	return secret_equal(seen, tag, sizeof(seen));
}

/* Every worker that finds it right writes the same; one that reads half of it checks the hash once more. */
static const struct ring_key *found_right(const struct ring_key *k, const uint64_t tag[2])
{
	struct ring_key *mine = (struct ring_key *)(uintptr_t)k;

	atomic_store_explicit(&mine->seen[0], tag[0], memory_order_relaxed);
	atomic_store_explicit(&mine->seen[1], tag[1], memory_order_relaxed);
	return k;
}

const struct ring_key *keyring_verify(const struct keyring *r, struct str id, struct str text)
{
	static const struct ring_key nobody = { .hash = { 1 } };
	static const struct slot nowhere = { EMPTY, (struct ring_entry *)&nobody };
	uint64_t hash = hash_of(id);
	const struct table *t = r->shards[shard_of(hash)];
	const struct slot *s = t && t->n ? by_hash(t, hash) : &nowhere;
	const struct ring_key *k = (const struct ring_key *)(const void *)s->entry;
	bool same_id = secret_equal(k->id, id.p, sizeof(k->id)), same_hash;
	uint8_t shown[SHA256_BYTES];
	uint64_t tag[2];
	bool seen;

	tag_of(text, tag);
	seen = was_seen(k, tag);
	if (seen && same_id && s->hash != EMPTY)
		return k;
	sha256(text, shown);
	same_hash = secret_equal(shown, k->hash, sizeof(shown));
	if (s->hash != EMPTY && !same_id) {       /* two ids of one hash: once in a great many installations */
		k = keyring_key(r, id);
		return k && secret_equal(shown, k->hash, sizeof(shown)) ? k : NULL;
	}
	return same_id && same_hash ? found_right(k, tag) : NULL;
}

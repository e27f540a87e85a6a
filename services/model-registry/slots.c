/* slots.c - see slots.h. */
#include "services/model-registry/slots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/model-registry/demand.h"

enum { BUCKETS = 1024 };
#define WHOLE 1e-6                /* parts of slots are computed: so near to a whole one is one */

struct key {                          /* a replica; never removed, for holders may still use its slots */
	struct key *next;             /* of the same bucket */
	char *backend, *model;
	uint32_t total;
	bool told;                    /* the total is what holders say */
	size_t index;
	int64_t counted_us;           /* share.ahead is right for this moment */
	bool contended;               /* more is wanted than there is */
};

struct share {
	uint32_t held, wanted;        /* as claimed last */
	uint32_t granted;             /* as told last */
	bool known;                   /* the holder has claimed it */
	double ahead;                 /* slots × microseconds that it had above what it was due, of late */
};

struct holder {
	uint8_t id[16];
	uint64_t seq;
	int64_t until_us;
	bool everything, leaving;
	bool claimed;                 /* it has said what it has, all of it */
	struct demand_list demand;
	struct share *shares;         /* by key.index */
	size_t n_shares;
};

struct slots {
	uint64_t epoch;
	int64_t lend_from_us;         /* before it only what is held already */
	uint8_t (*expected)[16];      /* who may hold something from before; when all have claimed, it is time too */
	size_t n_expected;
	int64_t tick_us;
	struct demands *demands;
	struct key *buckets[BUCKETS], **keys;
	size_t n_keys, cap_keys;
	struct holder *holders[SLOTS_HOLDERS_MAX];
	unsigned n;
};

struct slots *slots_new(uint64_t epoch, bool after_restart, int64_t now_us)
{
	struct slots *s = x_calloc(1, sizeof *s);

	s->epoch = epoch;
	s->tick_us = now_us;
	s->demands = demands_new();
	s->lend_from_us = after_restart ? now_us + SLOTS_LEASE_MS * 1000 : now_us;
	return s;
}

static void holder_free(struct holder *h)
{
	demand_clear(&h->demand);
	free(h->shares);
	free(h);
}

void slots_free(struct slots *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n; i++)
		holder_free(s->holders[i]);
	demands_free(s->demands);
	for (size_t i = 0; i < s->n_keys; i++) {
		free(s->keys[i]->backend);
		free(s->keys[i]->model);
		free(s->keys[i]);
	}
	free(s->keys);
	free(s->expected);
	free(s);
}

unsigned slots_holders(const struct slots *s) { return s->n; }

static struct holder *holder_find(const struct slots *s, const uint8_t *id)
{
	for (unsigned i = 0; i < s->n; i++)
		if (memcmp(s->holders[i]->id, id, 16) == 0)
			return s->holders[i];
	return NULL;
}

/* --- after a restart --- */

void slots_expect(struct slots *s, struct str ids, int64_t now_us)
{
	s->n_expected = ids.n / 16;
	s->expected = x_calloc(s->n_expected + 1, 16);
	memcpy(s->expected, ids.p, s->n_expected * 16);
	s->lend_from_us = s->n_expected ? now_us + SLOTS_RESTART_MS * 1000 : now_us;
}

static bool holds_nothing(const struct holder *h)
{
	for (size_t i = 0; i < h->n_shares; i++)
		if (h->shares[i].known && (h->shares[i].held || h->shares[i].granted))
			return false;
	return !h->everything;
}

bool slots_known(const struct slots *s, int64_t now_us, struct buf *ret)
{
	if (now_us < s->lend_from_us && !s->expected)
		return false;
	for (size_t i = 0; i < s->n_expected && now_us < s->lend_from_us; i++)
		if (!holder_find(s, s->expected[i]))
			buf_add(ret, s->expected[i], 16);
	for (unsigned i = 0; i < s->n; i++)
		if (!s->holders[i]->leaving || !holds_nothing(s->holders[i]))
			buf_add(ret, s->holders[i]->id, 16);
	return true;
}

/* What was lent before this registry is all known, or nobody who lives can still have it. */
static bool may_lend(struct slots *s, int64_t now_us)
{
	if (now_us >= s->lend_from_us)
		return true;
	if (!s->expected)
		return false;
	for (size_t i = 0; i < s->n_expected; i++) {
		const struct holder *h = holder_find(s, s->expected[i]);

		if (!h || !h->claimed)
			return false;
	}
	s->lend_from_us = now_us;
	return true;
}

/* --- replicas --- */

static uint64_t bucket_of(const char *backend, const char *model) { return str_hash(str_of(model), str_hash(str_of(backend), 0)) % BUCKETS; }

static struct key *key_find(const struct slots *s, const char *backend, const char *model)
{
	struct key *k = s->buckets[bucket_of(backend, model)];

	while (k && (strcmp(k->model, model) != 0 || strcmp(k->backend, backend) != 0))
		k = k->next;
	return k;
}

static struct key *key_get(struct slots *s, const char *backend, const char *model)
{
	struct key *k = key_find(s, backend, model), **bucket;

	if (k)
		return k;
	if (s->n_keys == s->cap_keys) {
		s->cap_keys = s->cap_keys ? s->cap_keys * 2 : 64;
		s->keys = x_realloc(s->keys, s->cap_keys * sizeof(struct key *));
	}
	bucket = &s->buckets[bucket_of(backend, model)];
	k = x_calloc(1, sizeof *k);
	*k = (struct key){ .next = *bucket, .backend = x_strdup(backend), .model = x_strdup(model), .index = s->n_keys };
	*bucket = k;
	return s->keys[s->n_keys++] = k;
}

void slots_set_totals(struct slots *s, const Corral__ModelSnapshot *snapshot)
{
	for (size_t i = 0; i < s->n_keys; i++)
		if (!s->keys[i]->told)
			s->keys[i]->total = 0;
	for (size_t i = 0; i < snapshot->n_replicas; i++) {
		struct key *k = key_get(s, snapshot->replicas[i]->backend, snapshot->replicas[i]->model);

		k->told = false;
		k->total = snapshot->replicas[i]->slots;
	}
}

/* --- shares --- */

static struct share *share_of(const struct holder *h, const struct key *k)
{
	return k->index < h->n_shares && h->shares[k->index].known ? &h->shares[k->index] : NULL;
}

static struct share *share_get(struct slots *s, struct holder *h, const struct key *k)
{
	if (k->index >= h->n_shares) {
		h->shares = x_realloc(h->shares, s->cap_keys * sizeof *h->shares);
		memset(h->shares + h->n_shares, 0, (s->cap_keys - h->n_shares) * sizeof *h->shares);
		h->n_shares = s->cap_keys;
	}
	h->shares[k->index].known = true;
	return &h->shares[k->index];
}

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t lent_to(const struct holder *h, const struct key *k)
{
	const struct share *share = share_of(h, k);

	if (h->everything)
		return k->total;
	return share ? max_u32(share->held, share->granted) : 0;
}

static uint32_t lent_to_others(const struct slots *s, const struct holder *h, const struct key *k)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < s->n; i++)
		if (s->holders[i] != h)
			sum += lent_to(s->holders[i], k);
	return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

uint32_t slots_lent(const struct slots *s, const char *backend, const char *model)
{
	const struct key *k = key_find(s, backend, model);

	return k ? lent_to_others(s, NULL, k) : 0;
}

/* --- dividing one replica's slots --- */

struct member {
	const struct holder *holder;
	struct share *share;
	uint32_t lent, target;
	double due;
	double rank;                  /* what is left over goes to the smallest first */
};

static unsigned members(const struct slots *s, const struct key *k, struct member *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->n; i++) {
		struct share *share = share_of(s->holders[i], k);

		if (share)
			m[n++] = (struct member){ .holder = s->holders[i], .share = share, .lent = lent_to(s->holders[i], k) };
	}
	return n;
}

static void give_rest(struct member *m, unsigned n, uint32_t rest, bool (*may)(const struct member *))
{
	bool had[SLOTS_HOLDERS_MAX] = { false };

	for (; rest; rest--) {
		unsigned best = n;

		for (unsigned i = 0; i < n; i++)
			if (!had[i] && may(&m[i]) && (best == n || m[i].rank < m[best].rank))
				best = i;
		if (best == n)
			return;
		had[best] = true;
		m[best].target++;
	}
}

static bool stays(const struct member *m) { return !m->holder->leaving; }
static bool wants_more(const struct member *m) { return m->share->wanted > m->target; }

/* Nobody has to wait: what is left over is lent ahead of need, where it is already if it cannot be split. */
static void divide_spare(struct member *m, unsigned n, uint32_t spare)
{
	uint32_t staying = 0;

	for (unsigned i = 0; i < n; i++)
		staying += stays(&m[i]);
	for (unsigned i = 0; i < n; i++) {
		m[i].target = m[i].share->wanted;
		m[i].rank = (double)m[i].target - m[i].lent;
		m[i].target += staying && stays(&m[i]) ? spare / staying : 0;
	}
	if (staying)
		give_rest(m, n, spare % staying, stays);
}

/* Time passes for those who contend. What was lent in all is what they were due of: a slot on its way from one to another is nobody's loss alone. */
static void count_use(struct key *k, struct member *m, unsigned n, int64_t now_us)
{
	int64_t passed = now_us - k->counted_us;
	double lent = 0, due = 0;

	for (unsigned i = 0; i < n; i++) {
		lent += m[i].lent;
		due += m[i].due;
	}
	for (unsigned i = 0; i < n; i++) {
		double *ahead = &m[i].share->ahead;

		if (k->contended && due > 0)
			*ahead += (double)passed * (m[i].lent - m[i].due * lent / due);
		else if (passed > SLOTS_MEMORY_MS * 1000)
			*ahead = 0;
		*ahead = fmax(-SLOTS_AHEAD_MS * 1000.0, fmin(SLOTS_AHEAD_MS * 1000.0, *ahead));
	}
	k->counted_us = now_us;
	k->contended = true;
}

static void divide_by_tenants(const struct key *k, struct member *m, unsigned n)
{
	struct demander who[SLOTS_HOLDERS_MAX];

	for (unsigned i = 0; i < n; i++)
		who[i] = (struct demander){ .list = &m[i].holder->demand, .wanted = m[i].share->wanted };
	demand_divide(who, n, k->model, k->total);
	for (unsigned i = 0; i < n; i++)
		m[i].due = who[i].due;
}

/* How long one may keep what is nobody's whole: the smaller a part, the shorter are the turns, so that nobody waits long for a small one. */
static double turn_us(const struct member *m, unsigned n)
{
	double least = 1;

	for (unsigned i = 0; i < n; i++) {
		double part = m[i].due - m[i].target;

		if (part > WHOLE && part < least)
			least = part;
	}
	return SLOTS_TURN_MS * 1000 * fmin(1, 2 * least);
}

static void divide_shortage(struct key *k, struct member *m, unsigned n, int64_t now_us)
{
	uint32_t rest = k->total;
	double turn;

	divide_by_tenants(k, m, n);
	count_use(k, m, n, now_us);
	for (unsigned i = 0; i < n; i++) {
		m[i].target = min_u32((uint32_t)(m[i].due + WHOLE), rest);
		rest -= m[i].target;
	}
	turn = turn_us(m, n);
	for (unsigned i = 0; i < n; i++)      /* who has one now keeps it for his turn */
		m[i].rank = m[i].share->ahead - (m[i].share->granted > m[i].target ? turn : 0);
	give_rest(m, n, rest, wants_more);
}

static uint32_t target_of(struct slots *s, struct key *k, const struct holder *h, int64_t now_us)
{
	struct member m[SLOTS_HOLDERS_MAX];
	unsigned n = members(s, k, m);
	uint64_t wanted = 0;

	for (unsigned i = 0; i < n; i++)
		wanted += m[i].share->wanted;
	if (wanted <= k->total) {
		k->contended = false;
		divide_spare(m, n, k->total - (uint32_t)wanted);
	} else {
		divide_shortage(k, m, n, now_us);
	}
	for (unsigned i = 0; i < n; i++)
		if (m[i].holder == h)
			return m[i].target;
	return 0;
}

static uint32_t grant_for(struct slots *s, struct key *k, const struct holder *h, const struct share *share, int64_t now_us)
{
	uint32_t others = lent_to_others(s, h, k), free = k->total > others ? k->total - others : 0;
	uint32_t grant = min_u32(target_of(s, k, h, now_us), free);

	if (may_lend(s, now_us))
		return grant;
	return k->total ? min_u32(grant, share->held) : share->held;      /* the backends may not have been asked yet */
}

/* --- holders --- */

static struct holder *holder_add(struct slots *s, const uint8_t *id)
{
	struct holder *h = x_calloc(1, sizeof *h);

	memcpy(h->id, id, 16);
	return s->holders[s->n++] = h;
}

static void holder_remove(struct slots *s, unsigned i)
{
	holder_free(s->holders[i]);
	s->holders[i] = s->holders[--s->n];
}

static enum err check(const struct slots *s, const Corral__LeaseRequest *r, struct why *why)
{
	const struct holder *h;

	if (r->gateway.len != 16)
		return err_set(why, ERR_INVALID, "a gateway's identity is 16 bytes");
	h = holder_find(s, r->gateway.data);
	if (!h && s->n == SLOTS_HOLDERS_MAX)
		return err_set(why, ERR_UNAVAILABLE, "%d gateways hold slots already", SLOTS_HOLDERS_MAX);
	if (h && r->seq <= h->seq)
		return err_set(why, ERR_INVALID, "a later request of this gateway came before");
	return ERR_OK;
}

static void take_claims(struct slots *s, struct holder *h, const Corral__LeaseRequest *r)
{
	if (r->whole) {
		if (h->n_shares)
			memset(h->shares, 0, h->n_shares * sizeof *h->shares);
		demand_clear(&h->demand);
		h->everything = false;
		h->claimed = true;
	}
	for (size_t i = 0; i < r->n_claims; i++) {
		const Corral__SlotClaim *claim = r->claims[i];
		struct key *k = key_get(s, claim->backend, claim->model);
		struct share *share = share_get(s, h, k);

		if (claim->total && (k->told || !k->total)) {
			k->told = true;
			k->total = claim->total;
		}
		share->held = claim->held;
		share->wanted = claim->wanted;
	}
	for (size_t i = 0; i < r->n_demands; i++)
		demand_set(s->demands, &h->demand, r->demands[i]);
}

static void put_grant(struct arena *mem, Corral__LeaseReply *reply, const struct key *k, uint32_t slots)
{
	Corral__SlotGrant *grant = arena_new_of(mem, Corral__SlotGrant);

	corral__slot_grant__init(grant);
	grant->backend = k->backend;
	grant->model = k->model;
	grant->slots = slots;
	reply->grants[reply->n_grants++] = grant;
}

static void put_grants(struct slots *s, struct holder *h, bool whole, int64_t now_us, struct arena *mem, Corral__LeaseReply *reply)
{
	reply->grants = arena_array(mem, Corral__SlotGrant *, s->n_keys + 1);
	for (size_t i = 0; i < s->n_keys; i++) {
		struct share *share = share_of(h, s->keys[i]);
		uint32_t grant = share ? grant_for(s, s->keys[i], h, share, now_us) : 0;

		if (!share || (!whole && grant == share->granted))
			continue;
		share->granted = grant;
		put_grant(mem, reply, s->keys[i], grant);
	}
}

/* It was the only one, so what may still be in use is its own. */
static bool alone_as_before(const struct slots *s, const struct holder *h)
{
	return s->expected && s->n_expected == 1 && memcmp(s->expected[0], h->id, 16) == 0;
}

enum err slots_lease(struct slots *s, const Corral__LeaseRequest *r, int64_t now_us, struct arena *mem, Corral__LeaseReply *reply, struct why *why)
{
	enum err err = check(s, r, why);
	struct holder *h;
	bool fresh;

	if (err)
		return err;
	h = holder_find(s, r->gateway.data);
	fresh = !h;
	if (!h)
		h = holder_add(s, r->gateway.data);
	h->seq = r->seq;
	h->until_us = now_us + SLOTS_LEASE_MS * 1000;
	h->leaving = r->leaving;
	reply->epoch = s->epoch;
	reply->gateways = s->n;
	reply->lease_ms = SLOTS_LEASE_MS;
	if (s->n == 1 && (may_lend(s, now_us) || alone_as_before(s, h))) {
		demand_clear(&h->demand);
		h->everything = true;
		reply->everything = true;
		return ERR_OK;
	}
	/* One that had everything counts as having it until it has said what it uses. */
	if (!r->whole && (fresh || h->everything || r->epoch != s->epoch)) {
		reply->ask_whole = true;
		return ERR_OK;
	}
	take_claims(s, h, r);
	put_grants(s, h, r->whole, now_us, mem, reply);
	demand_parts(&h->demand, mem, reply);
	return ERR_OK;
}

void slots_tick(struct slots *s, int64_t now_us)
{
	int64_t stood_us = now_us - s->tick_us - SLOTS_TICK_MS * 1000;

	s->tick_us = now_us;
	for (unsigned i = s->n; i-- > 0;) {
		if (stood_us > SLOTS_TICK_MS * 1000)
			s->holders[i]->until_us += stood_us;
		if (s->holders[i]->until_us < now_us)
			holder_remove(s, i);
	}
}

/* news.c - see news.h. */
#include "services/access/news.h"

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/access/keys.h"
#include "services/access/tenants.h"

struct news {
	struct access_store *store;
	struct snapshot_pub *pub;
	struct arena *mem;            /* of the message in hand */
	struct buf whole;             /* the last that could be made */
	bool fresh;                   /* whole is of now */
	struct buf gone;              /* ids of keys that left since, each with a terminator */
	bool behind;                  /* what was published or given is not of now, or may not be: the store could not be read, or did not answer */
	int64_t until_us;             /* keys that ended before are gone from what was published */
	size_t last_bytes;
	uint64_t version;
};

/* --- the whole --- */

/* Without what no gateway needs. */
static Corral__Key for_gateways(const Corral__Key *k)
{
	Corral__Key slim = *k;

	slim.name = slim.created_by = slim.replaces = (char *)"";
	slim.created_at_us = 0;
	return slim;
}

static void add_varint(struct buf *b, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		buf_char(b, (char)(v | 0x80));
	buf_char(b, (char)v);
}

/* One element of a repeated field, as protobuf writes it: the whole need never be in memory as messages. */
static void add_element(struct buf *b, unsigned field, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);

	add_varint(b, field << 3 | 2);
	add_varint(b, n);
	buf_reserve(b, n);
	b->n += protobuf_c_message_pack(m, (uint8_t *)b->p + b->n);
}

struct making { struct news *news; struct buf out; };

static bool add_tenant(void *arg, const struct db_row *row)
{
	struct making *m = arg;
	Corral__Tenant *t = access_unpack(m->news->mem, &corral__tenant__descriptor, db_str(row, 0));

	if (t)
		add_element(&m->out, 1, &t->base);
	arena_reset(m->news->mem);
	return true;
}

static bool add_key(void *arg, const struct db_row *row)
{
	struct making *m = arg;
	Corral__Key *k = access_unpack(m->news->mem, &corral__key__descriptor, db_str(row, 0)), slim;

	if (k) {
		slim = for_gateways(k);
		add_element(&m->out, 2, &slim.base);
	}
	arena_reset(m->news->mem);
	return true;
}

static bool rebuild(struct news *w, struct why *why)
{
	int64_t began_us = mono_us();
	struct making m = { .news = w };

	buf_reserve(&m.out, w->whole.n + 4096);
	if (!tenants_each(w->store, add_tenant, &m, why) || !keys_live(w->store, w->until_us, add_key, &m, why)) {
		buf_free(&m.out);
		return false;
	}
	buf_free(&w->whole);
	w->whole = m.out;
	w->fresh = true;
	buf_clear(&w->gone);
	LOG_DEBUG("the whole of keys and tenants was made", LOG_I("bytes", w->whole.n), LOG_I("after_us", mono_us() - began_us));
	return true;
}

static bool is_gone(const struct news *w, const char *id)
{
	for (size_t at = 0; at < w->gone.n; at += strlen(w->gone.p + at) + 1)
		if (strcmp(w->gone.p + at, id) == 0)
			return true;
	return false;
}

/* The store cannot be read: the last whole without the keys that left since. What came since is missing until it can be read again; what
 * was revoked must not come back. */
static void patch(struct news *w)
{
	struct arena *mem = arena_new(w->whole.n + 4096);
	Corral__AccessSnapshot *old = access_unpack(mem, &corral__access_snapshot__descriptor, buf_as_str(&w->whole));
	struct str packed;
	size_t kept = 0;

	for (size_t i = 0; old && i < old->n_keys; i++)
		if (!is_gone(w, old->keys[i]->id))
			old->keys[kept++] = old->keys[i];
	if (old) {
		old->n_keys = kept;
		packed = access_pack(mem, &old->base);
		buf_clear(&w->whole);
		buf_str(&w->whole, packed);
	}
	arena_free(mem);
	w->behind = true;
}

struct str news_whole(struct news *w)
{
	struct why why;

	if (!w->fresh && !rebuild(w, &why)) {
		LOG_ERROR("keys and tenants cannot be read for gateways; they get what was known before", LOG_S("error", why.text));
		patch(w);
	}
	return buf_as_str(&w->whole);
}

/* --- publishing --- */

static void publish_whole(struct news *w)
{
	struct str whole = news_whole(w);

	w->last_bytes = whole.n;
	w->version = w->pub ? snapshot_publish(w->pub, whole) : w->version + 1;
}

static struct str whole_for_pub(void *arg) { return news_whole(arg); }

struct news *news_new(struct access_store *s, struct snapshot_pub *pub, int64_t now_us, struct why *why)
{
	struct news *w = x_calloc(1, sizeof(*w));

	w->store = s;
	w->pub = pub;
	w->mem = arena_new(0);
	w->until_us = now_us;
	if (!rebuild(w, why)) {
		news_free(w);
		return NULL;
	}
	if (pub)
		snapshot_pub_whole(pub, whole_for_pub, w);
	publish_whole(w);
	return w;
}

void news_free(struct news *w)
{
	if (!w)
		return;
	arena_free(w->mem);
	buf_free(&w->whole);
	buf_free(&w->gone);
	free(w);
}

static struct str pack_delta(struct news *w, const Corral__AccessDelta *d)
{
	Corral__AccessDelta slim = *d;
	Corral__Key *keys = arena_alloc(w->mem, (d->n_put_keys + 1) * sizeof(*keys));

	slim.put_keys = arena_array(w->mem, Corral__Key *, d->n_put_keys + 1);
	for (size_t i = 0; i < d->n_put_keys; i++) {
		keys[i] = for_gateways(d->put_keys[i]);
		slim.put_keys[i] = &keys[i];
	}
	return access_pack(w->mem, &slim.base);
}

void news_tell(struct news *w, const Corral__AccessDelta *d)
{
	struct str delta;

	if (!d->n_put_tenants && !d->n_del_tenants && !d->n_put_keys && !d->n_del_keys)
		return;
	w->fresh = false;
	for (size_t i = 0; i < d->n_del_keys; i++)
		buf_add(&w->gone, d->del_keys[i], strlen(d->del_keys[i]) + 1);
	delta = pack_delta(w, d);
	w->last_bytes = delta.n;
	w->version = w->pub ? snapshot_publish_delta(w->pub, delta) : w->version + 1;
	arena_reset(w->mem);
}

void news_doubt(struct news *w)
{
	w->fresh = false;
	w->behind = true;
}

/* --- time --- */

struct ended { struct arena *mem; char **ids; size_t n, cap; };

static bool keep_id(void *arg, const struct db_row *row)
{
	struct ended *e = arg;

	if (e->n == e->cap) {
		e->cap = e->cap ? 2 * e->cap : 64;
		e->ids = x_realloc(e->ids, e->cap * sizeof(*e->ids));
	}
	e->ids[e->n++] = (char *)arena_str(e->mem, db_str(row, 0)).p;
	return true;
}

static void tell_ended(struct news *w, int64_t now_us)
{
	Corral__AccessDelta d = CORRAL__ACCESS_DELTA__INIT;
	struct ended e = { .mem = arena_new(0) };
	struct why why;

	if (keys_expired(w->store, w->until_us, now_us, keep_id, &e, &why)) {
		w->until_us = now_us;
		d.n_del_keys = e.n;
		d.del_keys = e.ids;
		news_tell(w, &d);
	} else {
		LOG_ERROR("keys that have ended cannot be read; the gateways know their time themselves", LOG_S("error", why.text));
	}
	free(e.ids);
	arena_free(e.mem);
}

void news_time(struct news *w, int64_t now_us)
{
	struct why why;

	if (w->behind && (w->fresh || rebuild(w, &why))) {
		LOG_INFO("keys and tenants can be read again; they are published anew");
		w->behind = false;
		publish_whole(w);
	}
	if (now_us >= w->until_us) {
		tell_ended(w, now_us);
		return;
	}
	LOG_WARN("the clock was set back; keys and tenants are published anew", LOG_I("by_ms", (w->until_us - now_us) / 1000));
	w->until_us = now_us;
	w->fresh = false;
	publish_whole(w);
}

size_t news_last_bytes(const struct news *w) { return w->last_bytes; }
uint64_t news_version(const struct news *w) { return w->version; }

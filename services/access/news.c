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
	struct buf whole;
	bool fresh;                   /* whole is of now */
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

static bool add_tenant(void *arg, const struct db_row *row)
{
	struct news *w = arg;
	Corral__Tenant *t = access_unpack(w->mem, &corral__tenant__descriptor, db_str(row, 0));

	if (t)
		add_element(&w->whole, 1, &t->base);
	arena_reset(w->mem);
	return true;
}

static bool add_key(void *arg, const struct db_row *row)
{
	struct news *w = arg;
	Corral__Key *k = access_unpack(w->mem, &corral__key__descriptor, db_str(row, 0)), slim;

	if (k) {
		slim = for_gateways(k);
		add_element(&w->whole, 2, &slim.base);
	}
	arena_reset(w->mem);
	return true;
}

static bool rebuild(struct news *w, struct why *why)
{
	int64_t began_us = mono_us();

	buf_clear(&w->whole);
	if (!tenants_each(w->store, add_tenant, w, why) || !keys_live(w->store, w->until_us, add_key, w, why)) {
		buf_clear(&w->whole);
		return false;
	}
	w->fresh = true;
	LOG_DEBUG("the whole of keys and tenants was made", LOG_I("bytes", w->whole.n), LOG_I("after_us", mono_us() - began_us));
	return true;
}

struct str news_whole(struct news *w)
{
	struct why why;

	if (!w->fresh && !rebuild(w, &why))
		LOG_ERROR("keys and tenants cannot be read for gateways", LOG_S("error", why.text));
	return buf_as_str(&w->whole);
}

/* --- publishing --- */

static void publish_whole(struct news *w)
{
	struct str whole = news_whole(w);

	w->last_bytes = whole.n;
	if (w->pub && w->fresh)
		w->version = snapshot_publish(w->pub, whole);
}

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
	publish_whole(w);
	return w;
}

void news_free(struct news *w)
{
	if (!w)
		return;
	arena_free(w->mem);
	buf_free(&w->whole);
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
	delta = pack_delta(w, d);
	w->last_bytes = delta.n;
	publish_whole(w);
	arena_reset(w->mem);
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

/* tell.c - see tell.h. */
#include "services/access/tell.h"

#include <stdlib.h>

#include "common/base/id.h"
#include "events.pb-c.h"
#include "services/access/audit.h"

enum { ENTRIES_AT_ONCE = 500, NEWEST = 20000 };    /* about what a spool keeps that nobody reads, where entries are as small as they come */

struct teller {
	struct access_store *store;
	struct herald *herald;
	bool known;                   /* what is said below is */
	uint64_t told, spooled;       /* entries: up to which audit_told says; the last one in the spool */
	uint64_t mark, mark_end;      /* an entry, and where the spool ended behind it: told goes there next; 0 = none */
};

struct teller *teller_new(struct access_store *s, struct herald *h)
{
	struct teller *t = x_calloc(1, sizeof(*t));

	t->store = s;
	t->herald = h;
	return t;
}

void teller_free(struct teller *t) { free(t); }

/* Its tenant is the key. */
void teller_label(struct str payload, struct bus_label *ret) { bus_label_of(payload, 6, 0, ret); }

/* --- one entry --- */

static Corral__AuditEvent event_of(const Corral__AuditEntry *e, struct uuid *id)
{
	Corral__AuditEvent v = CORRAL__AUDIT_EVENT__INIT;

	*id = uuid_v7_made_of(e->at_us, e->hash.data);
	v.event_id = (ProtobufCBinaryData){ sizeof(id->b), id->b };
	v.occurred_at_us = e->at_us;
	v.seq = e->seq;
	v.actor = e->actor;
	v.role = e->role;
	v.tenant = e->tenant;
	v.address = e->address;
	v.action = e->action;
	v.object = e->object;
	v.outcome = e->outcome;
	v.detail = e->detail;
	v.request_id = e->request_id;
	v.hash = e->hash;
	return v;
}

struct telling { struct teller *teller; struct arena *mem; unsigned n; };

static bool say(void *arg, const Corral__AuditEntry *e)
{
	static uint8_t none[SHA256_BYTES];        /* of an entry whose hash somebody has shortened: it is told as it stands */
	struct telling *w = arg;
	Corral__AuditEntry whole = *e;
	Corral__AuditEvent v;
	struct uuid id;

	if (e->hash.len != SHA256_BYTES)
		whole.hash = (ProtobufCBinaryData){ SHA256_BYTES, none };
	v = event_of(&whole, &id);
	v.hash = e->hash;
	arena_reset(w->mem);
	if (!herald_say(w->teller->herald, access_pack(w->mem, &v.base)))
		return false;
	w->teller->spooled = e->seq;
	w->n++;
	return true;
}

/* --- where it stood --- */

static bool read_seq(void *arg, const struct db_row *row)
{
	*(uint64_t *)arg = (uint64_t)db_int(row, 0);
	return true;
}

struct same { const Corral__AuditEvent *v; bool is; };

static bool is_the_same(void *arg, const Corral__AuditEntry *e)
{
	struct same *s = arg;

	s->is = e->seq == s->v->seq && e->hash.len == s->v->hash.len && memcmp(e->hash.data, s->v->hash.data, e->hash.len) == 0;
	return false;
}

/* What lies in the spool already is not put there again; unless the log is another one, brought back from a backup, say. */
static bool look_in_spool(struct teller *t, struct why *why)
{
	struct buf last = { 0 };
	struct arena *mem = arena_new(0);
	Corral__AuditEvent *v = herald_last(t->herald, &last) ? access_unpack(mem, &corral__audit_event__descriptor, buf_as_str(&last)) : NULL;
	struct same same = { v, false };
	bool ok = true;

	t->spooled = t->told;
	if (v && v->seq > t->told)
		ok = audit_each(t->store, v->seq - 1, 1, is_the_same, &same, why);
	if (same.is)
		t->spooled = v->seq;
	buf_free(&last);
	arena_free(mem);
	return ok;
}

/* Nothing was ever told, and the log may be long: without Kafka only the newest would stay in the spool, and the rest goes through it for nobody. */
static bool pass_old(struct teller *t, struct why *why)
{
	struct audit_head head;

	if (t->spooled || herald_by_kafka(t->herald))
		return true;
	if (!audit_head(t->store, &head, why))
		return false;
	t->spooled = head.seq > NEWEST ? head.seq - NEWEST : 0;
	return true;
}

static bool look(struct teller *t, struct why *why)
{
	t->known = t->known || (access_run(t->store, A_TOLD_GET, NULL, 0, read_seq, &t->told, why) && look_in_spool(t, why) && pass_old(t, why));
	return t->known;
}

/* --- telling --- */

static bool move(struct teller *t, struct why *why)
{
	if (!t->mark && t->spooled > t->told) {
		t->mark = t->spooled;
		t->mark_end = herald_end(t->herald);
	}
	if (!t->mark || herald_told(t->herald) < t->mark_end)
		return true;
	if (!access_run(t->store, A_TOLD_MOVE, (struct db_value[]){ DB_I(t->mark) }, 1, NULL, NULL, why))
		return false;
	t->told = t->mark;
	t->mark = 0;
	return true;
}

bool teller_tell(struct teller *t, bool *ret_more, struct why *why)
{
	struct telling w = { .teller = t };
	bool ok;

	*ret_more = false;
	if (!herald_open(t->herald))
		return true;                      /* the log keeps them */
	if (!look(t, why))
		return false;
	w.mem = arena_new(0);
	ok = audit_each(t->store, t->spooled, ENTRIES_AT_ONCE, say, &w, why) && move(t, why);
	arena_free(w.mem);
	herald_tick(t->herald);
	*ret_more = ok && w.n == ENTRIES_AT_ONCE;
	return ok;
}

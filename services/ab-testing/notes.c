/* notes.c - what experiments did by themselves, for the audit log of access: written in the transaction of the deed, told until access has it.
 *
 * Access keeps how far it has heard us in the transaction that writes its lines (service Facts of facts.proto), so each deed has exactly one line there,
 * whoever was killed between. Acts of people are in that log already: their gateway wrote them down. */
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { NOTES_AT_ONCE = 50 };

/* --- writing --- */

static char *detail_of(struct arena *mem, const Corral__Experiment *e, const char *words)
{
	struct buf b = { 0 };
	struct json_out jo;
	char *text;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "name", e->name);
	if (*e->winner)
		jw_kv_strz(&jo, "arm", e->winner);
	jw_kv_strz(&jo, "reason", words);
	jw_end(&jo);
	text = arena_dup(mem, b.p, b.n);
	buf_free(&b);
	return text;
}

static struct str packed(struct arena *mem, const Corral__Experiment *e, const char *action, const char *words, int64_t now_us)
{
	Corral__AuditEntry line = CORRAL__AUDIT_ENTRY__INIT;
	Corral__AccessFact fact = CORRAL__ACCESS_FACT__INIT;

	line.at_us = now_us;
	line.actor = (char *)"system";
	line.tenant = e->filter ? e->filter->tenant : (char *)"";
	line.action = (char *)action;
	line.object = e->id;
	line.outcome = (char *)"ok";
	line.detail = detail_of(mem, e, words);
	fact.entry = &line;
	return ab_pack(mem, &fact.base);
}

bool note_deed(struct ab *ab, const Corral__Experiment *e, const char *action, const char *words, int64_t now_us, struct why *why)
{
	struct arena *mem = arena_new(2048);
	int64_t at = now_us > ab->notes.last ? now_us : ab->notes.last + 1;
	bool ok = db_run(ab->db, X_NOTE_PUT, (struct db_value[]){ DB_I(at), DB_B(packed(mem, e, action, words, now_us)) }, 2, NULL, NULL, NULL, why);

	ab->notes.last = ok ? at : ab->notes.last;
	ab->notes.due |= ok;
	arena_free(mem);
	return ok;
}

static bool take_last(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

bool notes_load(struct ab *ab, struct why *why)
{
	ab->notes.due = true;             /* access may lack some */
	return db_run(ab->db, X_NOTE_LAST, NULL, 0, take_last, &ab->notes.last, NULL, why);
}

/* --- telling --- */

struct batch { struct arena *mem; ProtobufCBinaryData at[NOTES_AT_ONCE]; size_t n; int64_t last; };

static bool take_note(void *arg, const struct db_row *row)
{
	struct batch *b = arg;
	struct str body = arena_str(b->mem, db_str(row, 1));

	b->last = db_int(row, 0);
	b->at[b->n++] = (ProtobufCBinaryData){ body.n, (uint8_t *)body.p };
	return b->n < NOTES_AT_ONCE;
}

static void on_told(const Corral__FactAck *, void *);

/* What access lacks from there on. */
static void tell_from(struct ab *ab, uint64_t position)
{
	Corral__FactBatch q = CORRAL__FACT_BATCH__INIT;
	struct batch b = { .mem = arena_new(4096) };
	struct why why;

	if (!db_run(ab->db, X_NOTES, (struct db_value[]){ DB_I(position), DB_I(NOTES_AT_ONCE) }, 2, take_note, &b, NULL, &why)) {
		LOG_WARN("what experiments did cannot be read for the audit log; tried again", LOG_S("error", why.text));
	} else if (!b.n) {
		ab->notes.due = false;
	} else {
		q.topic = (char *)"access.v1";
		q.source = (char *)"ab-testing";
		q.epoch = 1;
		q.first = position;
		q.next = (uint64_t)b.last + 1;
		q.n_records = b.n;
		q.records = b.at;
		ab->notes.asking = true;
		corral__facts__ingest(rpc_stub(ab->notes.access, &corral__facts__descriptor), &q, on_told, ab);
	}
	arena_free(b.mem);
}

static void on_told(const Corral__FactAck *ack, void *arg)
{
	struct ab *ab = arg;

	ab->notes.asking = false;
	if (ack)
		tell_from(ab, ack->position);    /* the rest, or nothing; an access that is away is asked again with the next tick */
}

void notes_tell(struct ab *ab)
{
	Corral__FactCursor q = CORRAL__FACT_CURSOR__INIT;

	if (!ab->notes.due || ab->notes.asking || !ab->notes.access)
		return;
	ab->notes.asking = true;
	q.topic = (char *)"access.v1";
	q.source = (char *)"ab-testing";
	corral__facts__cursor(rpc_stub(ab->notes.access, &corral__facts__descriptor), &q, on_told, ab);
}

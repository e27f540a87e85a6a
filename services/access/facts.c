/* facts.c - see facts.h. */
#include "services/access/facts.h"

#include "services/access/audit.h"
#include "services/access/keys.h"

struct cursor { uint64_t position; };

static bool read_position(void *arg, const struct db_row *row)
{
	((struct cursor *)arg)->position = (uint64_t)db_int(row, 0);
	return false;
}

enum err facts_cursor(struct access_store *s, const char *source, uint64_t *ret, struct why *why)
{
	struct cursor c = { 0 };

	if (!access_run(s, A_CURSOR_GET, (struct db_value[]){ DB_Z(source) }, 1, read_position, &c, why))
		return why->code;
	*ret = c.position;
	return ERR_OK;
}

/* INVALID: it is none. */
static enum err take(struct access_store *s, const ProtobufCBinaryData *record, int64_t now_us, struct why *why)
{
	Corral__AccessFact *f = corral__access_fact__unpack(NULL, record->len, record->data);
	enum err e = ERR_INVALID;

	if (f && f->entry)
		e = audit_add(s, f->entry, now_us, why);
	else if (f && f->use)
		e = key_used(s, f->use, now_us, why) ? ERR_OK : why->code;
	else
		err_set(why, ERR_INVALID, "it is neither an audit entry nor the use of a key");
	if (f)
		corral__access_fact__free_unpacked(f, NULL);
	return e;
}

static bool move(struct access_store *s, const Corral__FactBatch *b, int64_t *ret_moved, struct why *why)
{
	return access_run(s, A_CURSOR_ADD, (struct db_value[]){ DB_Z(b->source), DB_I(b->epoch) }, 2, NULL, NULL, why) &&
	       db_run(access_db(s), A_CURSOR_MOVE, (struct db_value[]){ DB_Z(b->source), DB_I(b->next), DB_I(b->epoch), DB_I(b->first) }, 4, NULL, NULL, ret_moved, why);
}

static enum err take_all(struct access_store *s, const Corral__FactBatch *b, int64_t now_us, unsigned *ret_bad, struct why *why)
{
	for (size_t i = 0; i < b->n_records; i++) {
		enum err e = take(s, &b->records[i], now_us, why);

		if (e == ERR_INVALID)
			++*ret_bad;
		else if (e)
			return e;
	}
	return ERR_OK;
}

enum err facts_take(struct access_store *s, const Corral__FactBatch *b, int64_t now_us, uint64_t *ret, unsigned *ret_bad, struct why *why)
{
	int64_t moved = 0;
	bool ok;

	*ret_bad = 0;
	if (!db_begin(access_db(s), why))
		return why->code;
	ok = move(s, b, &moved, why) && (!moved || take_all(s, b, now_us, ret_bad, why) == ERR_OK);
	if (!ok || !moved || !db_commit(access_db(s), why)) {
		db_rollback(access_db(s));        /* also out of order or from a stale writer: the answer says where we are */
		*ret_bad = 0;
		if (!ok || moved)
			return why->code;
	}
	return facts_cursor(s, b->source, ret, why);
}

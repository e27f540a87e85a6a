/* blocks.c - see blocks.h. */
#include "services/selector/blocks.h"

enum { ID = 16, ENTRY = ID + 4, SPAN_MS = 60000, EVENTS_BYTES = 256 << 10 };

/* A request's id begins with the millisecond of its arrival. */
static int64_t id_ms(const uint8_t id[ID])
{
	int64_t ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | id[i];
	return ms;
}

static struct str id_bound(int64_t ms, uint8_t fill, uint8_t id[ID])
{
	memset(id, fill, ID);
	for (int i = 0; i < 6; i++)
		id[i] = (uint8_t)(ms >> (40 - 8 * i));
	return str_n((const char *)id, ID);
}

static struct str id_str(const uint8_t id[ID]) { return str_n((const char *)id, ID); }

static bool fits(const struct block *b, const uint8_t id[ID], size_t n)
{
	int64_t ms = id_ms(id);

	return b->n == 0 || (b->events.n + n <= EVENTS_BYTES && ms - id_ms(b->first) <= SPAN_MS && id_ms(b->last) - ms <= SPAN_MS);
}

bool block_add(struct block *b, struct db *db, const uint8_t id[ID], struct str event, struct why *why)
{
	uint32_t end;

	if (!fits(b, id, event.n) && !block_write(b, db, why))
		return false;
	if (b->n == 0 || memcmp(id, b->first, ID) < 0)
		memcpy(b->first, id, ID);
	if (b->n == 0 || memcmp(id, b->last, ID) > 0)
		memcpy(b->last, id, ID);
	buf_str(&b->events, event);
	end = (uint32_t)b->events.n;
	buf_add(&b->ids, id, ID);
	buf_add(&b->ids, &end, 4);        /* little-endian hosts: policy/decide.c asserts it for the events */
	b->n++;
	return true;
}

bool block_write(struct block *b, struct db *db, struct why *why)
{
	struct db_value p[] = { DB_B(id_str(b->first)), DB_B(id_str(b->last)), DB_I(b->n), DB_B(buf_as_str(&b->ids)), DB_B(buf_as_str(&b->events)) };

	if (b->n == 0)
		return true;
	if (b->n == 1)
		p[3] = DB_B(STR(""));
	b->n = 0;
	buf_clear(&b->ids);
	buf_clear(&b->events);
	return db_run(db, Q_BLOCK, p, 5, NULL, NULL, NULL, why);
}

void block_free(struct block *b)
{
	buf_free(&b->ids);
	buf_free(&b->events);
}

struct search { const uint8_t *id; struct arena *mem; struct str event; int64_t row; };

/* Where the event lies among all of its block, the last that has the id; false when it is not there. */
static bool place(struct str ids, const uint8_t id[ID], size_t *ret_from, size_t *ret_to)
{
	uint32_t from = 0, to;
	bool found = false;

	for (; ids.n >= ENTRY; ids = str_from(ids, ENTRY), from = to) {
		memcpy(&to, ids.p + ID, 4);
		if (memcmp(ids.p, id, ID) == 0) {
			*ret_from = from;
			*ret_to = to;
			found = from <= to;
		}
	}
	return found;
}

static bool look_into(void *arg, const struct db_row *row)
{
	struct search *s = arg;
	struct str ids = db_str(row, 0), events = db_str(row, 1);
	size_t from = 0, to = events.n;           /* of one event the bounds of the row are its id */

	if (db_int(row, 2) < s->row || (ids.n && !place(ids, s->id, &from, &to)) || to > events.n)
		return true;
	s->row = db_int(row, 2);
	s->event = arena_str(s->mem, str_n(events.p + from, to - from));
	return true;                      /* a later row may have a later one of the same request */
}

bool block_find(struct db *db, const uint8_t id[ID], struct arena *mem, struct str *ret_event, struct why *why)
{
	struct search s = { id, mem, { 0 } };
	uint8_t latest[ID];
	struct db_value p[] = { DB_B(id_str(id)), DB_B(id_bound(id_ms(id) + SPAN_MS, 0xff, latest)) };
	bool ok = db_run(db, Q_BLOCK_FIND, p, 2, look_into, &s, NULL, why);

	*ret_event = s.event;
	return ok;
}

bool block_clean(struct db *db, int64_t before_us, int64_t *ret_blocks, struct why *why)
{
	uint8_t id[ID];

	return db_run(db, Q_BLOCK_CLEAN, (struct db_value[]){ DB_B(id_bound(before_us > 0 ? before_us / 1000 : 0, 0, id)) }, 1, NULL, NULL, ret_blocks, why);
}

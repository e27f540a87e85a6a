/* audit.c - see audit.h. */
#include "services/access/audit.h"

#include "common/base/clock.h"

enum { MOST_LINES = 1000, USUAL_LINES = 100 };

/* --- the chain --- */

static void add_field(struct sha256_state *h, struct str s)
{
	uint8_t n[8];

	for (int i = 0; i < 8; i++)
		n[i] = (uint8_t)((uint64_t)s.n >> (8 * i));
	sha256_add(h, str_n((const char *)n, 8));
	sha256_add(h, s);
}

static void add_number(struct sha256_state *h, uint64_t v)
{
	uint8_t b[8];

	for (int i = 0; i < 8; i++)
		b[i] = (uint8_t)(v >> (8 * i));
	add_field(h, str_n((const char *)b, 8));
}

static void link_hash(const uint8_t before[SHA256_BYTES], const Corral__AuditEntry *e, uint8_t ret[SHA256_BYTES])
{
	struct sha256_state *h = sha256_begin();
	const char *const texts[] = { e->actor, e->role, e->tenant, e->address, e->action, e->object, e->outcome, e->detail, e->request_id };

	add_field(h, str_n((const char *)before, SHA256_BYTES));
	add_number(h, e->seq);
	add_number(h, (uint64_t)e->at_us);
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		add_field(h, str_of(texts[i]));
	sha256_end(h, ret);
}

static bool read_head(void *arg, const struct db_row *row)
{
	struct audit_head *head = arg;
	struct str hash = db_str(row, 1);

	head->seq = (uint64_t)db_int(row, 0);
	if (hash.n == SHA256_BYTES)
		memcpy(head->hash, hash.p, SHA256_BYTES);
	return true;
}

bool audit_head(struct access_store *s, struct audit_head *ret, struct why *why)
{
	*ret = (struct audit_head){ .seq = UINT64_MAX };
	if (!access_run(s, A_HEAD_GET, NULL, 0, read_head, ret, why))
		return false;
	if (ret->seq == UINT64_MAX)
		return err_set(why, ERR_STORE_FAILED, "the head of the audit log is missing; restore the store from a backup") == ERR_OK;
	return true;
}

static bool insert(struct access_store *s, const Corral__AuditEntry *e, struct why *why)
{
	struct db_value p[] = {
		DB_I(e->seq), DB_I(e->at_us), DB_Z(e->actor), DB_Z(e->role), DB_Z(e->tenant), DB_Z(e->address), DB_Z(e->action), DB_Z(e->object),
		DB_Z(e->outcome), DB_Z(e->detail), DB_Z(e->request_id), DB_B(str_n((const char *)e->hash.data, SHA256_BYTES)),
	};

	return access_run(s, A_AUDIT_ADD, p, sizeof(p) / sizeof(*p), NULL, NULL, why);
}

bool audit_append(struct access_store *s, Corral__AuditEntry *e, struct why *why)
{
	uint8_t hash[SHA256_BYTES];
	struct audit_head head;
	int64_t moved = 0;

	if (!audit_head(s, &head, why))
		return false;
	e->seq = head.seq + 1;
	link_hash(head.hash, e, hash);
	e->hash = (ProtobufCBinaryData){ SHA256_BYTES, hash };
	if (!insert(s, e, why) ||
	    !db_run(access_db(s), A_HEAD_MOVE, (struct db_value[]){ DB_I(e->seq), DB_B(str_n((const char *)hash, SHA256_BYTES)) }, 2, NULL, NULL, &moved, why))
		return false;
	e->hash = (ProtobufCBinaryData){ 0 };
	return moved == 1 || err_set(why, ERR_STORE_FAILED, "the head of the audit log was moved by somebody else") == ERR_OK;
}

/* --- lines of others --- */

static enum err check_line(const Corral__AuditEntry *e, struct why *why)
{
	const char *const texts[] = { e->actor, e->role, e->tenant, e->address, e->action, e->object, e->outcome, e->detail, e->request_id };

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		if (strlen(texts[i]) > AUDIT_LONGEST_TEXT || !str_utf8_valid(str_of(texts[i])))
			return err_set(why, ERR_INVALID, "an audit entry has a text of more than %d bytes, or one that is not UTF-8", AUDIT_LONGEST_TEXT);
	if (!e->action[0] || !e->actor[0] || !e->outcome[0])
		return err_set(why, ERR_INVALID, "an audit entry needs an actor, an action and an outcome");
	return ERR_OK;
}

enum err audit_add(struct access_store *s, Corral__AuditEntry *e, int64_t now_us, struct why *why)
{
	enum err bad = check_line(e, why);

	if (bad)
		return bad;
	if (!e->at_us)
		e->at_us = now_us;
	return audit_append(s, e, why) ? ERR_OK : why->code;
}

/* --- reading --- */

static char *text(struct arena *mem, const struct db_row *row, unsigned column) { return (char *)arena_str(mem, db_str(row, column)).p; }

static void read_line(struct arena *mem, const struct db_row *row, Corral__AuditEntry *e)
{
	struct str hash = arena_str(mem, db_str(row, 11));

	corral__audit_entry__init(e);
	e->seq = (uint64_t)db_int(row, 0);
	e->at_us = db_int(row, 1);
	e->actor = text(mem, row, 2);
	e->role = text(mem, row, 3);
	e->tenant = text(mem, row, 4);
	e->address = text(mem, row, 5);
	e->action = text(mem, row, 6);
	e->object = text(mem, row, 7);
	e->outcome = text(mem, row, 8);
	e->detail = text(mem, row, 9);
	e->request_id = text(mem, row, 10);
	e->hash = (ProtobufCBinaryData){ hash.n, (uint8_t *)hash.p };
}

struct reading { struct arena *mem; Corral__AuditReply *reply; };

static bool keep_line(void *arg, const struct db_row *row)
{
	struct reading *r = arg;
	Corral__AuditEntry *e = arena_alloc(r->mem, sizeof(*e));

	read_line(r->mem, row, e);
	r->reply->entries[r->reply->n_entries++] = e;
	return true;
}

struct each { struct arena *mem; bool (*fn)(void *arg, const Corral__AuditEntry *); void *arg; };

static bool each_line(void *arg, const struct db_row *row)
{
	struct each *x = arg;
	Corral__AuditEntry e;

	arena_reset(x->mem);
	read_line(x->mem, row, &e);
	return x->fn(x->arg, &e);
}

bool audit_each(struct access_store *s, uint64_t after, unsigned rows, bool (*fn)(void *arg, const Corral__AuditEntry *), void *arg, struct why *why)
{
	struct each x = { arena_new(0), fn, arg };
	bool ok = access_run(s, A_AUDIT_WALK, (struct db_value[]){ DB_I(after), DB_I(rows) }, 2, each_line, &x, why);

	arena_free(x.mem);
	return ok;
}

/* "keys.create" is itself, "keys.*" all that begin with "keys.", "" everything: as a range, which an index could serve. */
static void action_range(struct arena *mem, const char *pattern, const char **ret_from, const char **ret_below)
{
	size_t n = strlen(pattern);

	if (!n || strcmp(pattern, "*") == 0) {
		*ret_from = "";
		*ret_below = "\x7f";
	} else if (pattern[n - 1] == '*') {
		*ret_from = arena_dup(mem, pattern, n - 1);
		*ret_below = arena_printf(mem, "%s\x7f", *ret_from);
	} else {
		*ret_from = pattern;
		*ret_below = arena_printf(mem, "%s\x01", pattern);
	}
}

static enum err may_read(struct act *a, struct why *why)
{
	enum err e = act_read(a, why);

	return e ? e : act_allowed(a, STR(""), why);
}

enum err audit_query(struct access_store *s, const Corral__AuditQuery *q, int64_t now_us, struct arena *mem, Corral__AuditReply *ret, struct why *why)
{
	struct act act = { .store = s, .mem = mem, .caller = q->caller, .now_us = now_us, .action = "audit.read" };
	uint32_t limit = !q->limit ? USUAL_LINES : q->limit > MOST_LINES ? MOST_LINES : q->limit;
	struct reading r = { mem, ret };
	const char *from, *below;
	enum err e = may_read(&act, why);

	if (e)
		return e;
	action_range(mem, q->action, &from, &below);
	corral__audit_reply__init(ret);
	ret->entries = arena_array(mem, Corral__AuditEntry *, limit + 1);
	struct db_value p[] = {
		DB_I(q->after_seq), DB_I(q->from_us), DB_I(q->to_us ? q->to_us : INT64_MAX), DB_Z(q->actor), DB_Z(from), DB_Z(below),
		DB_S(role_reaches(act.subject.role, str_of(act.action)) ? STR("") : act.subject.tenant), DB_I(limit + 1),
	};
	if (!access_run(s, A_AUDIT_QUERY, p, sizeof(p) / sizeof(*p), keep_line, &r, why))
		return why->code;
	if (ret->n_entries > limit)
		ret->next_seq = ret->entries[--ret->n_entries - 1]->seq;
	return ERR_OK;
}

/* --- the walk --- */

struct stepping {
	struct audit_walk *walk;
	struct arena *mem;
	unsigned rows;
};

static bool broken(struct audit_walk *w, uint64_t seq, const char *what)
{
	w->broken_seq = seq;
	w->done = true;
	snprintf(w->text, sizeof(w->text), "%s", what);
	return false;
}

/* Behind a zero byte would be text that no hash covers. */
static bool has_hidden_text(const struct db_row *row)
{
	for (unsigned c = 2; c <= 10; c++) {
		struct str s = db_str(row, c);

		if (s.n && memchr(s.p, '\0', s.n))
			return true;
	}
	return false;
}

static bool step(void *arg, const struct db_row *row)
{
	struct stepping *s = arg;
	struct audit_walk *w = s->walk;
	uint8_t hash[SHA256_BYTES];
	Corral__AuditEntry e;

	s->rows++;
	arena_reset(s->mem);
	read_line(s->mem, row, &e);
	if (e.seq != w->entries + 1)
		return broken(w, w->entries + 1, "an entry is missing here");
	if (has_hidden_text(row))
		return broken(w, e.seq, "this entry holds more than was written");
	link_hash(w->hash, &e, hash);
	if (e.hash.len != SHA256_BYTES || memcmp(hash, e.hash.data, SHA256_BYTES) != 0)
		return broken(w, e.seq, "this entry is not what was written, or not where it was written");
	memcpy(w->hash, hash, SHA256_BYTES);
	w->entries = e.seq;
	if (e.seq == w->want_seq && memcmp(hash, w->want, SHA256_BYTES) != 0)
		return broken(w, e.seq, "the log up to here is another than the one whose head was remembered");
	return true;
}

static void finish(struct audit_walk *w, const struct audit_head *head)
{
	w->done = true;
	if (head->seq > w->entries)
		broken(w, w->entries + 1, "entries are missing at the end");
	else if (head->seq < w->entries)
		broken(w, head->seq + 1, "there are entries behind the head");
	else if (memcmp(head->hash, w->hash, SHA256_BYTES) != 0)
		broken(w, w->entries, "the head is not that of the last entry");
	else if (w->want_seq > w->entries)
		broken(w, w->entries + 1, "entries are missing at the end: the head that was remembered is of a longer log");
}

bool audit_walk_on(struct access_store *s, struct audit_walk *w, unsigned rows, struct why *why)
{
	struct stepping stepping = { w, arena_new(0), 0 };
	struct db_value p[] = { DB_I(w->entries), DB_I(rows) };
	struct audit_head head;
	bool ok = db_begin(access_db(s), why);

	/* one view of rows and head */
	if (ok) {
		ok = access_run(s, A_AUDIT_WALK, p, 2, step, &stepping, why) && audit_head(s, &head, why);
		db_rollback(access_db(s));
	}
	if (ok && !w->done && stepping.rows < rows)
		finish(w, &head);
	arena_free(stepping.mem);
	return ok;
}

void audit_verdict(const struct audit_walk *w, struct arena *mem, Corral__AuditVerifyReply *ret)
{
	corral__audit_verify_reply__init(ret);
	ret->ok = !w->broken_seq;
	ret->entries = w->entries;
	ret->broken_seq = w->broken_seq;
	ret->head = (ProtobufCBinaryData){ SHA256_BYTES, (uint8_t *)arena_dup(mem, w->hash, SHA256_BYTES) };
	ret->text = (char *)w->text;
	if (!w->broken_seq)
		ret->text = arena_printf(mem, "the log is whole: %llu entries", (unsigned long long)w->entries);
	else
		ret->text = arena_printf(mem, "the chain breaks at entry %llu: %s", (unsigned long long)w->broken_seq, w->text);
}

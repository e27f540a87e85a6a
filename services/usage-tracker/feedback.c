/* feedback.c - see feedback.h. */
#include "services/usage-tracker/feedback.h"

#include "common/base/clock.h"
#include "services/usage-tracker/experiments.h"
#include "services/usage-tracker/ledger_sql.h"

struct owner { bool found; char tenant[256]; };

static bool keep_owner(void *arg, const struct db_row *row)
{
	struct owner *o = arg;

	o->found = true;
	(void)str_copy(o->tenant, sizeof(o->tenant), db_str(row, 0));
	return false;
}

static bool note(void *arg, const struct db_row *row)
{
	(void)row;
	*(bool *)arg = true;
	return false;
}

static struct db_value number(uint32_t v, bool given) { return given ? DB_I(v) : DB_NIL; }
static struct db_value verdict(Corral__Verdict v) { return v == CORRAL__VERDICT__VERDICT_NONE ? DB_NIL : DB_I(v == CORRAL__VERDICT__VERDICT_GOOD); }
static struct db_value text(const char *z) { return *z ? DB_Z(z) : DB_NIL; }

static bool is_sound(const Corral__FeedbackEvent *e)
{
	return e->request_id.len == 16 && e->rating <= 5 && e->tests_passed <= e->tests_total && e->thumbs <= CORRAL__VERDICT__VERDICT_BAD &&
	       e->success <= CORRAL__VERDICT__VERDICT_BAD;
}

static bool put(struct db *db, const Corral__FeedbackEvent *e, const char *tenant, bool *ret_replaced, struct why *why)
{
	const struct db_value row[] = {
		DB_B(str_n((const char *)e->request_id.data, e->request_id.len)), DB_Z(e->author), DB_Z(tenant), DB_I(e->occurred_at_us),
		number(e->rating, e->rating > 0), verdict(e->thumbs), verdict(e->success), number(e->tests_passed, e->tests_total > 0),
		number(e->tests_total, e->tests_total > 0), text(e->corrected_output), text(e->comment),
	};

	*ret_replaced = false;
	return db_run(db, L_FEEDBACK_KNOWN, row, 2, note, ret_replaced, NULL, why) &&
	       db_run(db, L_FEEDBACK_PUT, row, sizeof(row) / sizeof(*row), NULL, NULL, NULL, why) && experiments_said(db, row[0].s, why);
}

bool feedback_keep(struct db *db, const Corral__FeedbackEvent *e, enum feedback_outcome *ret, struct why *why)
{
	struct owner o = { 0 };
	bool replaced;

	*ret = FEEDBACK_UNSOUND;
	if (!is_sound(e))
		return true;
	if (!db_run(db, L_FEEDBACK_OF, (struct db_value[]){ DB_B(str_n((const char *)e->request_id.data, e->request_id.len)) }, 1, keep_owner, &o, NULL, why))
		return false;
	if (o.found && !o.tenant[0])
		(void)str_copy(o.tenant, sizeof(o.tenant), STR("default"));
	*ret = FEEDBACK_OF_OTHERS;
	if (o.found && !e->sees_all && strcmp(o.tenant, e->tenant) != 0)
		return true;
	if (!put(db, e, o.found ? o.tenant : e->sees_all ? "" : e->tenant, &replaced, why))
		return false;
	*ret = replaced ? FEEDBACK_REPLACED : FEEDBACK_NEW;
	return true;
}

bool feedback_record(struct db *db, struct str record, struct str source, enum feedback_outcome *ret, struct why *why)
{
	Corral__FeedbackEvent *e = corral__feedback_event__unpack(NULL, record.n, (const uint8_t *)record.p);
	bool ok = true;

	*ret = FEEDBACK_UNSOUND;
	if (e)
		ok = feedback_keep(db, e, ret, why);
	if (ok && *ret == FEEDBACK_UNSOUND)
		ok = db_run(db, L_DEAD_ADD,
			    (struct db_value[]){ DB_I(wall_us()), DB_Z("feedback.v1"), DB_S(source), DB_I(0), DB_Z("this is no feedback"), DB_B(record) }, 6, NULL,
			    NULL, NULL, why);
	if (e)
		corral__feedback_event__free_unpacked(e, NULL);
	return ok;
}

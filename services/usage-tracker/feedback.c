/* feedback.c - see feedback.h. */
#include "services/usage-tracker/feedback.h"

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
	       db_run(db, L_FEEDBACK_PUT, row, sizeof(row) / sizeof(*row), NULL, NULL, NULL, why);
}

bool feedback_keep(struct db *db, const Corral__FeedbackEvent *e, bool *ret_replaced, struct why *why)
{
	struct owner o = { 0 };

	if (!is_sound(e))
		return err_set(why, ERR_INVALID, "this is no feedback") == ERR_OK;
	if (!db_run(db, L_FEEDBACK_OF, (struct db_value[]){ DB_B(str_n((const char *)e->request_id.data, e->request_id.len)) }, 1, keep_owner, &o, NULL, why))
		return false;
	if (o.found && !o.tenant[0])
		(void)str_copy(o.tenant, sizeof(o.tenant), STR("default"));
	if (!o.found || (!e->sees_all && strcmp(o.tenant, e->tenant) != 0))
		return err_set(why, ERR_NOT_FOUND, "the ledger has no such request; it may be younger than a moment, or was never sent to a backend") == ERR_OK;
	return put(db, e, o.tenant, ret_replaced, why);
}

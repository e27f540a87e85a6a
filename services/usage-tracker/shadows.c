/* shadows.c - see shadows.h. */
#include "services/usage-tracker/shadows.h"

#include "services/usage-tracker/event.h"
#include "services/usage-tracker/experiments.h"
#include "services/usage-tracker/ledger_sql.h"

enum { SHADOWS_SHOWN = 32 };

static struct db_value id(ProtobufCBinaryData d) { return DB_B(str_n((const char *)d.data, d.len)); }

bool shadow_enter(struct db *db, const Corral__UsageEvent *e, struct str packed, bool *ret_new, struct why *why)
{
	const struct db_value row[] = { id(e->request_id), id(e->shadow_of), DB_Z(e->experiment_id), DB_Z(e->arm), DB_Z(*e->tenant ? e->tenant : "default"),
					DB_I(e->occurred_at_us), DB_I(e->prompt_tokens), DB_I(e->completion_tokens), DB_I(e->cost_microusd), DB_B(packed) };
	int64_t changed = 0;

	*ret_new = false;
	if (e->kind != CORRAL__USAGE_KIND__USAGE_FINAL)
		return true;
	if (!db_run(db, L_SHADOW_ADD, row, sizeof(row) / sizeof(*row), NULL, NULL, &changed, why))
		return false;
	*ret_new = changed == 1;
	return !*ret_new || experiments_ended(db, e, why);
}

struct listing { struct arena *mem; Corral__AttemptsReply *reply; };

static bool take(void *arg, const struct db_row *row)
{
	struct listing *l = arg;
	Corral__UsageEvent *e = event_read(l->mem, db_str(row, 0));

	if (e)
		l->reply->shadows[l->reply->n_shadows++] = e;
	return l->reply->n_shadows < SHADOWS_SHOWN;
}

bool shadows_of(struct db *db, struct str request_id, struct arena *mem, Corral__AttemptsReply *add_to, struct why *why)
{
	struct listing l = { mem, add_to };

	add_to->shadows = arena_array(mem, Corral__UsageEvent *, SHADOWS_SHOWN);
	return db_run(db, L_SHADOWS_OF, (struct db_value[]){ DB_B(request_id) }, 1, take, &l, NULL, why);
}

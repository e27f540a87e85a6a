/* experiments.c - see experiments.h. */
#include "services/usage-tracker/experiments.h"

#include <stdlib.h>

#include "services/usage-tracker/ledger_sql.h"

struct experiments { struct ledger *l; };

static bool finished(void *arg, const struct dim *dim, const Corral__UsageEvent *e, struct arena *mem, struct why *why)
{
	struct experiments *x = arg;

	(void)mem;
	return !dim || !*e->experiment_id || e->retried || experiments_ended(ledger_db(x->l), e, why);
}

bool experiments_ended(struct db *db, const Corral__UsageEvent *e, struct why *why)
{
	return db_run(db, L_OUTCOME_PUT,
		      (struct db_value[]){ DB_B(str_n((const char *)e->request_id.data, e->request_id.len)), DB_Z(e->experiment_id), DB_Z(e->arm), DB_Z(e->unit),
					   DB_Z(*e->tenant ? e->tenant : "default"), DB_Z(e->status), DB_I(e->cached), DB_I(e->request_us), DB_I(e->occurred_at_us) },
		      9, NULL, NULL, NULL, why);
}

struct experiments *experiments_new(struct ledger *l)
{
	struct experiments *x = x_calloc(1, sizeof(*x));

	x->l = l;
	ledger_watch(l, (struct ledger_watch){ .on_finished = finished, .arg = x });
	return x;
}

void experiments_free(struct experiments *x)
{
	if (x)
		ledger_watch(x->l, (struct ledger_watch){ .arg = x });
	free(x);
}

bool experiments_said(struct db *db, struct str request_id, struct why *why)
{
	return db_run(db, L_OUTCOME_TOUCH, (struct db_value[]){ DB_B(request_id) }, 1, NULL, NULL, NULL, why);
}

struct listing { struct arena *mem; Corral__OutcomesReply *reply; };

static char *text(struct listing *l, const struct db_row *row, unsigned column)
{
	struct str s = db_str(row, column);

	return arena_dup(l->mem, s.p ? s.p : "", s.n);
}

static bool take(void *arg, const struct db_row *row)
{
	struct listing *l = arg;
	Corral__Outcome *o = l->reply->rows[l->reply->n_rows++] = arena_new_of(l->mem, Corral__Outcome);
	struct str id = arena_str(l->mem, db_str(row, 1));
	int64_t words = db_int(row, 12), good = db_int(row, 11), ratings = db_int(row, 14);

	corral__outcome__init(o);
	o->seq = (uint64_t)db_int(row, 0);
	o->request_id = (ProtobufCBinaryData){ id.n, (uint8_t *)(uintptr_t)id.p };
	o->experiment_id = text(l, row, 2);
	o->arm = text(l, row, 3);
	o->unit = text(l, row, 4);
	o->status = text(l, row, 5);
	o->cached = db_int(row, 6) != 0;
	o->request_us = db_int(row, 7);
	o->ended_at_us = db_int(row, 8);
	o->tokens = (uint64_t)db_int(row, 9);
	o->cost_microusd = db_int(row, 10);
	o->said_good = (uint32_t)good;
	o->said_bad = (uint32_t)(words - good);
	o->ratings = (uint32_t)ratings;
	o->rating = ratings ? (double)db_int(row, 13) / (double)ratings : 0;
	return true;
}

bool experiments_outcomes(struct db *db, const Corral__OutcomesRequest *q, struct arena *mem, Corral__OutcomesReply *ret, struct why *why)
{
	uint32_t limit = q->limit && q->limit < OUTCOMES_MAX ? q->limit : OUTCOMES_MAX;
	struct listing l = { mem, ret };

	corral__outcomes_reply__init(ret);
	ret->rows = arena_array(mem, Corral__Outcome *, limit);
	if (!db_run(db, L_OUTCOMES_AFTER, (struct db_value[]){ DB_I(q->after), DB_I(limit) }, 2, take, &l, NULL, why))
		return false;
	ret->more = ret->n_rows == limit;
	return true;
}

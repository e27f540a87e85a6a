/* results.c - outcomes of requests into the sums of their arms, each once in effect.
 *
 * The ledger tells of a request again when something of it has changed: it ended, or somebody said what it was worth. What it counted for before is
 * kept with it, and taken back out of the sums of its unit and its arm before what it counts for now goes in. */
#include <math.h>
#include <stdlib.h>

#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

/* What a request counts for; value NaN = nothing in that metric. Kept as it lies in memory, on machines that are alike. */
struct worth {
	double value[METRIC_COUNT];   /* in ms, micro-dollars, points */
	uint64_t tokens;
	int64_t cost_microusd;
};
/* The same of a unit in its arm. */
struct unit_sums { struct unit_total of[METRIC_COUNT]; uint64_t requests; };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are written in host order");

/* --- what a request is worth --- */

static double delivered(const char *status)
{
	if (strcmp(status, "ok") == 0)
		return 1;
	return strcmp(status, "error") == 0 || strcmp(status, "not_sent") == 0 ? 0 : NAN;
}

/* Success: what was said of it, else whether it was answered. Who left before the end says nothing of either. */
static struct worth worth_of(const Corral__Outcome *o)
{
	double ok = delivered(o->status);
	bool said = o->said_good + o->said_bad > 0;

	return (struct worth){
		.value = { [METRIC_SUCCESS] = said ? (o->said_good >= o->said_bad ? 1 : 0) : ok,
			   [METRIC_RATING] = o->ratings ? o->rating : NAN,
			   [METRIC_LATENCY] = ok == 1 && !o->cached && o->request_us > 0 ? (double)o->request_us / 1000 : NAN,
			   [METRIC_COST] = isnan(ok) ? NAN : (double)o->cost_microusd,
			   [METRIC_ERROR] = isnan(ok) ? NAN : 1 - ok },
		.tokens = o->tokens, .cost_microusd = o->cost_microusd,
	};
}

/* --- sums --- */

/* A unit's totals in the place of what they were. */
static void tally_turn(struct tally *t, struct unit_total was, struct unit_total is)
{
	double wn = (double)was.n, in = (double)is.n;

	t->n += is.n - was.n;
	t->units += (is.n > 0) - (was.n > 0);
	if (!t->n) {
		*t = (struct tally){ 0 };
		return;
	}
	t->sum += is.sum - was.sum;
	t->sum_yy = fmax(t->sum_yy + is.sum * is.sum - was.sum * was.sum, 0);
	t->sum_yn += is.sum * in - was.sum * wn;
	t->sum_nn += in * in - wn * wn;
}

static void unit_add(struct unit_total *u, enum metric m, double value, int sign)
{
	if (isnan(value))
		return;
	u->n += (uint64_t)(int64_t)sign;
	u->sum = u->n ? u->sum + sign * metric_scale(m, value) : 0;
}

static void count(struct arm_sums *a, struct unit_sums *u, const struct worth *w, int sign)
{
	for (int m = 0; m < METRIC_COUNT; m++) {
		struct unit_total was = u->of[m];

		unit_add(&u->of[m], (enum metric)m, w->value[m], sign);
		tally_turn(&a->of[m], was, u->of[m]);
	}
	a->units += sign > 0 && !u->requests;
	u->requests += (uint64_t)(int64_t)sign;
	a->units -= sign < 0 && !u->requests;
	a->requests += (uint64_t)(int64_t)sign;
	a->tokens += (uint64_t)((int64_t)w->tokens * sign);
	a->cost_microusd += w->cost_microusd * sign;
	if (!isnan(w->value[METRIC_LATENCY])) {
		a->latency_n += (uint64_t)(int64_t)sign;
		a->latency_ms = a->latency_n ? a->latency_ms + sign * w->value[METRIC_LATENCY] : 0;
	}
}

/* --- rows --- */

struct cell { void *to; size_t n; bool found; const struct trial *trial; int arm; };

static bool take_body(struct cell *c, struct str body)
{
	c->found = body.n == c->n;
	if (c->found)
		memcpy(c->to, body.p, c->n);
	return true;
}

static bool take_unit(void *arg, const struct db_row *row) { return take_body(arg, db_str(row, 0)); }

static bool take_outcome(void *arg, const struct db_row *row)
{
	struct cell *c = arg;
	struct str name = db_str(row, 0);
	char arm[64];

	(void)str_copy(arm, sizeof(arm), name);
	c->arm = trial_arm(c->trial, arm);
	return take_body(c, db_str(row, 1));
}

static bool take_sums(void *arg, const struct db_row *row)
{
	struct trial *t = arg;
	struct str name = db_str(row, 0), body = db_str(row, 1);
	char arm[64];
	int i;

	(void)str_copy(arm, sizeof(arm), name);
	i = trial_arm(t, arm);
	if (i >= 0 && body.n == sizeof(t->arms[i]))
		memcpy(&t->arms[i], body.p, body.n);
	return true;
}

bool results_load(struct ab *ab, struct trial *t, struct why *why)
{
	memset(t->arms, 0, sizeof(t->arms));
	t->changed = true;
	return db_run(ab->db, X_TALLIES, (struct db_value[]){ DB_Z(t->e->id) }, 1, take_sums, t, NULL, why);
}

static struct db_value bytes(const void *p, size_t n) { return DB_B(str_n(p, n)); }

static bool put_all(struct ab *ab, const struct trial *t, const Corral__Outcome *o, const struct worth *w, const struct unit_sums *u, int arm, struct why *why)
{
	const char *name = t->e->arms[arm]->name;
	struct str id = str_n((const char *)o->request_id.data, o->request_id.len);
	const struct db_value outcome[] = { DB_B(id), DB_Z(t->e->id), DB_Z(name), DB_Z(o->unit), bytes(w, sizeof(*w)) };

	return db_run(ab->db, X_OUTCOME_PUT, outcome, 5, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_UNIT_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(o->unit), DB_Z(name), bytes(u, sizeof(*u)) }, 4, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_TALLY_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(name), bytes(&t->arms[arm], sizeof(t->arms[arm])) }, 3, NULL, NULL, NULL, why);
}

static bool take(struct ab *ab, const Corral__Outcome *o, struct why *why)
{
	struct trial *t = trial_find(ab, o->experiment_id);
	int arm = t ? trial_arm(t, o->arm) : -1;
	struct unit_sums u = { 0 };
	struct worth is = worth_of(o), was;
	struct cell before = { &was, sizeof(was), false, t, arm }, unit = { &u, sizeof(u), false, t, arm };

	if (arm < 0 || o->request_id.len != 16)
		return true;              /* of an experiment that this installation does not know */
	if (!db_run(ab->db, X_OUTCOME, (struct db_value[]){ DB_B(str_n((const char *)o->request_id.data, 16)) }, 1, take_outcome, &before, NULL, why) ||
	    !db_run(ab->db, X_UNIT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(o->unit), DB_Z(o->arm) }, 3, take_unit, &unit, NULL, why))
		return false;
	if (before.found && before.arm == arm)
		count(&t->arms[arm], &u, &was, -1);
	count(&t->arms[arm], &u, &is, 1);
	t->changed = true;
	return put_all(ab, t, o, &is, &u, arm, why);
}

/* From exactly where we are: what was taken already is not taken again. */
static bool move(struct ab *ab, uint64_t to, struct why *why)
{
	int64_t moved = 0;

	if (!db_run(ab->db, X_CURSOR_MOVE, (struct db_value[]){ DB_I(ab->cursor), DB_I(to) }, 2, NULL, NULL, &moved, why))
		return false;
	return moved == 1 || err_set(why, ERR_CONFLICT, "the cursor of outcomes is not where this process left it") == ERR_OK;
}

bool results_take(struct ab *ab, const Corral__OutcomesReply *reply, struct why *why)
{
	uint64_t to = ab->cursor;
	bool ok;

	if (!reply->n_rows)
		return true;
	if (!db_begin(ab->db, why))
		return false;
	ok = true;
	for (size_t i = 0; ok && i < reply->n_rows; i++) {
		if (reply->rows[i]->seq <= to)
			continue;
		to = reply->rows[i]->seq;
		ok = take(ab, reply->rows[i], why);
	}
	if (ok && move(ab, to, why) && db_commit(ab->db, why)) {
		ab->cursor = to;
		return true;
	}
	db_rollback(ab->db);
	list_each(it, &ab->trials) {              /* as the database has it */
		struct why again;

		(void)results_load(ab, list_entry(it, struct trial, node), &again);
	}
	return false;
}

/* results.c - outcomes of requests into the sums of their arms, each once in effect.
 *
 * The ledger tells of a request again when something of it has changed: it ended, or somebody said what it was worth. What it counted for before is
 * kept with it, and taken back out of the sums of its unit and its arm before what it counts for now goes in. In the windows of late outcomes
 * (common/policy/experiment_lately.h) it counts when something is learnt of it: what is said days later of an old request is news too. */
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
	uint64_t at[METRIC_COUNT];    /* lately.now of the metric when it was learnt; 0 = in no window */
};
enum { WORTH_OF_OLD = offsetof(struct worth, at) };
/* The same of a unit in its arm. */
struct unit_sums {
	struct unit_total of[METRIC_COUNT];
	uint64_t requests;
	struct unit_total late[METRIC_COUNT][LATE_WINDOWS];
	uint64_t late_since[METRIC_COUNT][LATE_WINDOWS];
};
enum { UNIT_OF_OLD = offsetof(struct unit_sums, late), ARM_OF_OLD = offsetof(struct arm_sums, late) };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are written in host order");

/* --- what a request is worth --- */

static double delivered(const char *status)
{
	if (strcmp(status, "ok") == 0)
		return 1;
	return strcmp(status, "error") == 0 || strcmp(status, "not_sent") == 0 ? 0 : NAN;
}

/* Success: what was said of it, else whether it was answered. Who left before the end says nothing of either. Nobody can say anything of shadows, so
 * beside them only that counts. */
static struct worth worth_of(const Corral__Outcome *o, bool shadow)
{
	double ok = delivered(o->status);
	bool said = !shadow && o->said_good + o->said_bad > 0;

	return (struct worth){
		.value = { [METRIC_SUCCESS] = said ? (o->said_good >= o->said_bad ? 1 : 0) : ok,
			   [METRIC_RATING] = !shadow && o->ratings ? o->rating : NAN,
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

/* --- what is new --- */

static void empty(struct trial *t, enum metric m, int window)
{
	for (size_t i = 0; i < t->e->n_arms; i++) {
		t->arms[i].late[m].in[window] = (struct tally){ 0 };
		t->arms[i].late_since[m][window] = t->lately[m].began[window];
	}
}

static bool is_full(const struct trial *t, enum metric m, int window)
{
	const struct sequential s = sequential_default();
	const struct tally *arms[EXPERIMENT_ARMS];

	for (size_t i = 0; i < t->e->n_arms; i++)
		arms[i] = &t->arms[i].late[m].in[window];
	return lately_is_full(&s, window, arms, (int)t->e->n_arms);
}

static void learn_in(struct trial *t, int arm, struct unit_sums *u, enum metric m, int window, double before, double now)
{
	uint64_t since = t->lately[m].began[window];
	struct unit_total *total = &u->late[m][window], was;

	if (u->late_since[m][window] != since)
		*total = (struct unit_total){ 0 };
	u->late_since[m][window] = since;
	was = *total;
	unit_add(total, m, before, -1);
	unit_add(total, m, now, 1);
	tally_turn(&t->arms[arm].late[m].in[window], was, *total);
	if (is_full(t, m, window)) {
		lately_again(&t->lately[m], window);
		empty(t, m, window);
	}
}

static bool is_same(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/* 'was' NULL: nothing was known of the request. */
static void learn(struct trial *t, int arm, struct unit_sums *u, const struct worth *was, struct worth *is)
{
	for (int m = 0; m < METRIC_COUNT; m++) {
		double before = was ? was->value[m] : NAN, now = is->value[m];
		uint64_t at = is->at[m] = was ? was->at[m] : 0;

		if (is_same(before, now))
			continue;
		is->at[m] = isnan(now) ? 0 : ++t->lately[m].now;
		for (int w = 0; w < LATE_WINDOWS; w++)
			learn_in(t, arm, u, (enum metric)m, w, at >= t->lately[m].began[w] ? before : NAN, now);
	}
}

void results_begin(struct trial *t)
{
	for (int m = 0; m < METRIC_COUNT; m++) {
		if (!t->lately[m].number[0])
			lately_begin(&t->lately[m]);
		for (size_t i = 0; i < t->e->n_arms * LATE_WINDOWS; i++) {
			struct arm_sums *a = &t->arms[i / LATE_WINDOWS];
			size_t w = i % LATE_WINDOWS;

			if (a->late_since[m][w] != t->lately[m].began[w])
				a->late[m].in[w] = (struct tally){ 0 };
			a->late_since[m][w] = t->lately[m].began[w];
		}
	}
}

/* --- rows --- */

/* old: how long a row of before there were windows is; what follows is zero then. */
struct cell { void *to; size_t n, old; bool found; const struct trial *trial; int arm; };

static bool take_into(void *to, size_t n, size_t old, struct str body)
{
	if (body.n != n && body.n != old)
		return false;
	memset(to, 0, n);
	memcpy(to, body.p, body.n);
	return true;
}

static bool take_body(struct cell *c, struct str body)
{
	c->found = take_into(c->to, c->n, c->old, body);
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
	if (i >= 0)
		(void)take_into(&t->arms[i], sizeof(t->arms[i]), ARM_OF_OLD, body);
	else if (!*arm)
		(void)take_into(t->lately, sizeof(t->lately), sizeof(t->lately), body);
	return true;
}

static bool sums_load(struct ab *ab, struct trial *t, struct why *why)
{
	bool ok;

	memset(t->arms, 0, sizeof(t->arms));
	memset(t->lately, 0, sizeof(t->lately));
	t->changed = true;
	ok = db_run(ab->db, X_TALLIES, (struct db_value[]){ DB_Z(t->e->id) }, 1, take_sums, t, NULL, why);
	results_begin(t);
	return ok;
}

static bool take_cursor(void *arg, const struct db_row *row)
{
	((struct ab *)arg)->cursor = (uint64_t)db_int(row, 0);
	return true;
}

bool results_load(struct ab *ab, struct why *why)
{
	bool ok = !ab->in_doubt || db_run(ab->db, X_CURSOR, NULL, 0, take_cursor, ab, NULL, why);

	if (ok && ab->in_doubt)
		list_each(it, &ab->trials)
			ok = ok && sums_load(ab, list_entry(it, struct trial, node), why);
	ab->in_doubt &= !ok;
	return ok;
}

static struct db_value bytes(const void *p, size_t n) { return DB_B(str_n(p, n)); }

static bool put_all(struct ab *ab, const struct trial *t, const Corral__Outcome *o, const struct worth *w, const struct unit_sums *u, int arm, struct why *why)
{
	const char *name = t->e->arms[arm]->name;
	struct str id = str_n((const char *)o->request_id.data, o->request_id.len);
	const struct db_value outcome[] = { DB_B(id), DB_Z(t->e->id), DB_Z(name), DB_Z(o->unit), bytes(w, sizeof(*w)) };

	return db_run(ab->db, X_OUTCOME_PUT, outcome, 5, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_UNIT_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(o->unit), DB_Z(name), bytes(u, sizeof(*u)) }, 4, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_TALLY_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(name), bytes(&t->arms[arm], sizeof(t->arms[arm])) }, 3, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_TALLY_PUT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(""), bytes(t->lately, sizeof(t->lately)) }, 3, NULL, NULL, NULL, why);
}

static bool take(struct ab *ab, const Corral__Outcome *o, struct why *why)
{
	struct trial *t = trial_find(ab, o->experiment_id);
	int arm = t ? trial_arm(t, o->arm) : -1;
	struct unit_sums u = { 0 };
	struct worth is = worth_of(o, t && t->e->shadow), was;
	struct cell before = { &was, sizeof(was), WORTH_OF_OLD, false, t, arm }, unit = { &u, sizeof(u), UNIT_OF_OLD, false, t, arm };
	bool again;

	if (arm < 0 || o->request_id.len != 16 || t->e->closed_at_us)
		return true;              /* of an experiment that this installation does not know, or whose outcomes were removed */
	if (!db_run(ab->db, X_OUTCOME, (struct db_value[]){ DB_B(str_n((const char *)o->request_id.data, 16)) }, 1, take_outcome, &before, NULL, why) ||
	    !db_run(ab->db, X_UNIT, (struct db_value[]){ DB_Z(t->e->id), DB_Z(o->unit), DB_Z(o->arm) }, 3, take_unit, &unit, NULL, why))
		return false;
	again = before.found && before.arm == arm;
	if (again)
		count(&t->arms[arm], &u, &was, -1);
	count(&t->arms[arm], &u, &is, 1);
	learn(t, arm, &u, again ? &was : NULL, &is);
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
	struct why again;
	uint64_t to;
	bool ok;

	if (!reply->n_rows)
		return true;
	if (!results_load(ab, why) || !db_begin(ab->db, why))
		return false;
	to = ab->cursor;
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
	ab->in_doubt = true;
	(void)results_load(ab, &again);
	return false;
}

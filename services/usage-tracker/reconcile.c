/* reconcile.c - see reconcile.h.
 *
 * A busy hour is read minute by minute. When its sums have changed meanwhile, what was read is worth nothing and the hour is left for the next
 * round: one that still changes will be read when it is over. */
#include "services/usage-tracker/reconcile.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/usage-tracker/ledger_sql.h"

#define HOUR_US INT64_C(3600000000)
#define MINUTE_US INT64_C(60000000)

enum { RUNS_IN_BATCH = 64, BUSY = 20000 };

struct run { int64_t run, at_us, finals_said, tokens_said, finals_had, tokens_had; };
struct tally { int64_t attempts, requests, prompt_tokens, completion_tokens, cost_microusd; };

struct reconcile {
	struct ledger *l;
	struct db *db;
	struct run runs[RUNS_IN_BATCH];       /* that the batch in hand has FINALs of */
	unsigned n_runs;
	/* the hour that is being read; hour -1 = none yet */
	int64_t hour, at_us;
	struct tally sums, rows;
	int64_t spool_attempts, spool_tokens; /* at the last look */
	struct unreconciled found, result;    /* by the round under way; told */
};

/* --- what is entered --- */

static bool runs_write(struct reconcile *r, struct why *why)
{
	for (unsigned i = 0; i < r->n_runs; i++) {
		const struct run *x = &r->runs[i];
		const struct db_value p[] = { DB_I(x->run), DB_I(x->at_us), DB_I(x->finals_said), DB_I(x->tokens_said), DB_I(x->finals_had), DB_I(x->tokens_had) };

		if (!db_run(r->db, L_RUN_ADD, p, 6, NULL, NULL, NULL, why))
			return false;
	}
	r->n_runs = 0;
	return true;
}

static struct run *run_of(struct reconcile *r, int64_t run, struct why *why)
{
	unsigned i = 0;

	while (i < r->n_runs && r->runs[i].run != run)
		i++;
	if (i == RUNS_IN_BATCH) {
		if (!runs_write(r, why))
			return NULL;
		i = 0;
	}
	if (i == r->n_runs)
		r->runs[r->n_runs++] = (struct run){ .run = run };
	return &r->runs[i];
}

static bool entered(void *arg, const Corral__UsageEvent *e, struct why *why)
{
	struct reconcile *r = arg;
	struct run *x;

	if (!e->run)
		return true;
	x = run_of(r, (int64_t)e->run, why);
	if (!x)
		return false;
	x->finals_had++;
	x->tokens_had += (int64_t)(e->prompt_tokens + e->completion_tokens);
	if ((int64_t)e->run_finals > x->finals_said) {
		x->finals_said = (int64_t)e->run_finals;
		x->tokens_said = (int64_t)e->run_tokens;
		x->at_us = e->occurred_at_us;
	}
	return true;
}

static bool finished(void *arg, const struct dim *d, const Corral__UsageEvent *e, struct arena *mem, struct why *why)
{
	return d ? entered(arg, e, why) : runs_write(arg, why);
}

static void undone(void *arg) { ((struct reconcile *)arg)->n_runs = 0; }

struct reconcile *reconcile_new(struct ledger *l)
{
	struct reconcile *r = x_calloc(1, sizeof(*r));

	r->l = l;
	r->db = ledger_db(l);
	r->hour = -1;
	ledger_watch(l, (struct ledger_watch){ .on_finished = finished, .on_shadow = entered, .undone = undone, .arg = r });
	return r;
}

void reconcile_free(struct reconcile *r)
{
	if (!r)
		return;
	ledger_watch(r->l, (struct ledger_watch){ .arg = r });
	free(r);
}

/* --- spools against facts --- */

struct pair { int64_t attempts, tokens; };

static bool take_pair(void *arg, const struct db_row *d)
{
	*(struct pair *)arg = (struct pair){ db_int(d, 0), db_int(d, 1) };
	return true;
}

static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

static bool look_at_runs(struct reconcile *r, struct why *why)
{
	struct pair now = { 0 };

	if (!db_run(r->db, L_RUNS_MISSING, NULL, 0, take_pair, &now, NULL, why))
		return false;
	r->found.spool_attempts = lesser(now.attempts, r->spool_attempts);
	r->found.spool_tokens = lesser(now.tokens, r->spool_tokens);
	r->spool_attempts = now.attempts;
	r->spool_tokens = now.tokens;
	return true;
}

/* --- sums against rows --- */

static bool take_tally(void *arg, const struct db_row *d)
{
	struct tally *t = arg;

	t->attempts += db_int(d, 0);
	t->requests += db_int(d, 1);
	t->prompt_tokens += db_int(d, 2);
	t->completion_tokens += db_int(d, 3);
	t->cost_microusd += db_int(d, 4);
	return true;
}

static bool hour_sums(struct reconcile *r, struct tally *t, struct why *why)
{
	*t = (struct tally){ 0 };
	return db_run(r->db, L_HOUR_SUMS, (struct db_value[]){ DB_I(r->hour) }, 1, take_tally, t, NULL, why);
}

static struct str first_id(int64_t us, uint8_t id[16])
{
	int64_t ms = us / 1000;

	memset(id, 0, 16);
	for (int i = 0; i < 6; i++)
		id[i] = (uint8_t)(ms >> (40 - 8 * i));
	return str_n((const char *)id, 16);
}

static bool read_some(struct reconcile *r, struct why *why)
{
	int64_t span_us = r->sums.attempts + r->sums.requests < BUSY ? HOUR_US : MINUTE_US;
	uint8_t from[16], to[16];
	const struct db_value p[] = { DB_B(first_id(r->at_us, from)), DB_B(first_id(r->at_us + span_us, to)) };

	r->at_us += span_us;
	return db_run(r->db, L_ROWS_TALLY, p, 2, take_tally, &r->rows, NULL, why);
}

static int64_t distance(int64_t a, int64_t b) { return a > b ? a - b : b - a; }

static void compare(struct reconcile *r)
{
	const struct tally *s = &r->sums, *t = &r->rows;
	int64_t attempts = distance(s->attempts, t->attempts) + distance(s->requests, t->requests);
	int64_t tokens = distance(s->prompt_tokens, t->prompt_tokens) + distance(s->completion_tokens, t->completion_tokens);
	int64_t microusd = distance(s->cost_microusd, t->cost_microusd);
	char hour[40];

	r->found.row_attempts += attempts;
	r->found.row_tokens += tokens;
	r->found.row_microusd += microusd;
	if (r->found.row_attempts <= r->result.row_attempts && r->found.row_tokens <= r->result.row_tokens && r->found.row_microusd <= r->result.row_microusd)
		return;                   /* none, or what was said before */
	clock_rfc3339(r->hour * HOUR_US, 0, hour, sizeof(hour));
	LOG_ERROR("the rows of an hour are not what was added up", LOG_S("hour", hour), LOG_I("attempts_added", s->attempts), LOG_I("attempts_there", t->attempts),
		  LOG_I("tokens_added", s->prompt_tokens + s->completion_tokens), LOG_I("tokens_there", t->prompt_tokens + t->completion_tokens),
		  LOG_I("microusd_added", s->cost_microusd), LOG_I("microusd_there", t->cost_microusd));
}

static bool take_int(void *arg, const struct db_row *d)
{
	*(int64_t *)arg = db_int(d, 0);
	return true;
}

/* The newest hour before the one that was read; -1 = that was the oldest. */
static bool next_hour(struct reconcile *r, struct why *why)
{
	int64_t before = r->hour < 0 ? INT64_MAX : r->hour, hour = -1;

	if (!db_run(r->db, L_HOUR_BEFORE, (struct db_value[]){ DB_I(before) }, 1, take_int, &hour, NULL, why))
		return false;
	r->hour = hour;
	r->at_us = hour * HOUR_US;
	r->rows = (struct tally){ 0 };
	return hour < 0 || hour_sums(r, &r->sums, why);
}

static bool end_hour(struct reconcile *r, struct why *why)
{
	struct tally now;

	if (!hour_sums(r, &now, why))
		return false;
	if (memcmp(&now, &r->sums, sizeof(now)) == 0)
		compare(r);
	return next_hour(r, why);
}

static bool begin_round(struct reconcile *r, struct why *why)
{
	r->found = (struct unreconciled){ 0 };
	return look_at_runs(r, why) && next_hour(r, why);
}

bool reconcile_step(struct reconcile *r, int64_t budget_us, bool *ret_whole, struct why *why)
{
	int64_t until_us = mono_us() + budget_us;
	bool ok = r->hour >= 0 || begin_round(r, why);

	*ret_whole = false;
	while (ok && r->hour >= 0) {
		ok = r->at_us < (r->hour + 1) * HOUR_US ? read_some(r, why) : end_hour(r, why);
		if (r->hour >= 0 && mono_us() >= until_us)
			return ok;
	}
	if (!ok) {
		r->hour = -1;
		return false;
	}
	r->result = r->found;
	*ret_whole = true;
	return true;
}

struct unreconciled reconcile_result(const struct reconcile *r)
{
	struct unreconciled u = r->result;

	if (r->found.row_attempts + r->found.row_tokens + r->found.row_microusd > u.row_attempts + u.row_tokens + u.row_microusd) {
		u.row_attempts = r->found.row_attempts;
		u.row_tokens = r->found.row_tokens;
		u.row_microusd = r->found.row_microusd;
	}
	return u;
}

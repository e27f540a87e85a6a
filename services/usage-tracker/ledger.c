/* ledger.c - applies batches of facts to the ledger, each in one transaction; see ledger.h.
 *
 * A batch is first sorted into cases, one per attempt: a START, a FINAL, or both. The usual case is a new row, and new rows go in many at
 * once, in the order of their ids; so do those that a FINAL closes. When one of them is not as expected, the whole batch is begun again, row by row.
 * A START whose FINAL comes later leaves a copy in 'open', so that the FINAL is one update without a read. Everything else (duplicates,
 * a FINAL before its START, a restart in between) takes the slow way: read the row, change it, write it back. */
#include "services/usage-tracker/ledger.h"

#include <endian.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "services/usage-tracker/book.h"
#include "services/usage-tracker/dims.h"
#include "services/usage-tracker/event.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/open.h"
#include "services/usage-tracker/shadows.h"

#define HOUR_US 3600000000LL

enum { ROW_COLUMNS = 15, MAX_DIMS_KEPT = 50000, TOGETHER_FROM = 8, AT_ONCE = 500 };

struct ledger {
	struct db *db;
	struct dims *dims;
	struct book *book;
	struct open_rows *open;
	struct arena *mem;            /* of the batch in hand */
	int64_t corrections_waiting;  /* for a FINAL that has not come */
	bool in_doubt;                /* a batch failed, perhaps by a commit that was done and not answered: they are to be counted again */
	void (*on_finished)(void *, const struct dim *, const Corral__UsageEvent *);
	void *on_finished_arg;
	struct ledger_watch watches[LEDGER_WATCHES];
	size_t n_watches;
	int64_t (*cost)(void *, const Corral__UsageEvent *, int64_t began_us);
	void *cost_arg;
};

struct fact {
	Corral__UsageEvent *event;
	struct str bytes;
	struct fact *next;            /* more corrections of the attempt */
};

/* What a batch says of one attempt. */
struct facts_case {
	const uint8_t *request_id;
	uint32_t attempt;
	struct fact *start, *final, *corrections;
};

struct finished { const struct dim *dim; const Corral__UsageEvent *event; int64_t told_microusd; };

/* A row to be added; 'order' is the first half of its id. */
struct fresh { uint64_t order; struct ledger_row row; };

/* A batch on its way through. */
struct work {
	struct ledger *l;
	const struct ledger_batch *batch;
	struct ledger_counts counts;
	struct facts_case *cases;
	size_t n_cases;
	uint32_t *table;              /* of case numbers + 1, open addressing */
	size_t table_cap;
	struct finished *finished;
	size_t n_finished;
	struct ledger_booking *changes;
	size_t n_changes;
	struct fresh *fresh;          /* added together at the end; NULL = row by row */
	struct ledger_row *closed;    /* the same of rows that were open */
	size_t n_fresh, n_closed;
	bool met;                     /* one of them was there, or not */
	int64_t corrections_waiting;
	struct why *why;
};

static bool facts_sort(struct work *);
static bool case_apply(struct work *, struct facts_case *);
static bool rows_write(struct work *);
static bool cursor_move(struct work *, uint64_t *ret_position, enum ledger_outcome *ret);

/* --- open and close --- */

static bool keep_int(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

static bool corrections_count(struct ledger *l, int64_t *ret, struct why *why)
{
	return db_run(l->db, L_CORRECTIONS_COUNT, NULL, 0, keep_int, ret, NULL, why);
}

struct db *ledger_db(struct ledger *l) { return l->db; }

struct ledger *ledger_open(const char *url, struct why *why)
{
	struct db *db = db_open(url, ledger_sql, L_STATEMENTS, ledger_migrations, why);
	struct ledger *l;

	if (!db)
		return NULL;
	l = x_calloc(1, sizeof(*l));
	l->db = db;
	l->dims = dims_new(db);
	l->book = book_new(db);
	l->open = open_rows_new();
	l->mem = arena_new(256 << 10);
	if (corrections_count(l, &l->corrections_waiting, why))
		return l;
	ledger_close(l);
	return NULL;
}

void ledger_close(struct ledger *l)
{
	if (!l)
		return;
	open_rows_free(l->open);
	book_free(l->book);
	dims_free(l->dims);
	arena_free(l->mem);
	db_close(l->db);
	free(l);
}

void ledger_on_finished(struct ledger *l, void (*fn)(void *, const struct dim *, const Corral__UsageEvent *), void *arg)
{
	l->on_finished = fn;
	l->on_finished_arg = arg;
}

void ledger_watch(struct ledger *l, struct ledger_watch w)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->n_watches; i++)
		if (l->watches[i].arg != w.arg)
			l->watches[kept++] = l->watches[i];
	if ((w.on_finished || w.on_booked) && kept < LEDGER_WATCHES)
		l->watches[kept++] = w;
	l->n_watches = kept;
}

void ledger_set_pricer(struct ledger *l, int64_t (*cost)(void *, const Corral__UsageEvent *, int64_t began_us), void *arg)
{
	l->cost = cost;
	l->cost_arg = arg;
}

const struct dim *ledger_dim(struct ledger *l, int64_t id, struct why *why)
{
	return dims_get(l->dims, id, why);
}

/* --- a batch --- */

/* What memory holds of a transaction that is no more. */
static void forget_all(struct ledger *l)
{
	dims_forget(l->dims);
	book_forget(l->book);
	open_rows_forget(l->open);
	for (size_t i = 0; i < l->n_watches; i++)
		if (l->watches[i].undone)
			l->watches[i].undone(l->watches[i].arg);
}

static bool tell_finished(struct work *w, const struct ledger_watch *watch)
{
	for (size_t i = 0; i < w->n_finished; i++)
		if (!watch->on_finished(watch->arg, w->finished[i].dim, w->finished[i].event, w->l->mem, w->why))
			return false;
	return watch->on_finished(watch->arg, NULL, NULL, w->l->mem, w->why);
}

static bool tell_booked(struct work *w, const struct ledger_watch *watch)
{
	for (size_t i = 0; i < w->n_finished; i++) {
		const Corral__UsageEvent *e = w->finished[i].event;
		struct ledger_booking b = { e, true, w->finished[i].told_microusd, (int64_t)(e->prompt_tokens + e->completion_tokens), e->cost_microusd };

		if (!watch->on_booked(watch->arg, &b, w->l->mem, w->why))
			return false;
	}
	for (size_t i = 0; i < w->n_changes; i++)
		if (!watch->on_booked(watch->arg, &w->changes[i], w->l->mem, w->why))
			return false;
	return watch->on_booked(watch->arg, NULL, w->l->mem, w->why);
}

static bool watch_tell(struct work *w)
{
	for (size_t k = 0; k < w->l->n_watches; k++) {
		const struct ledger_watch *watch = &w->l->watches[k];

		if ((watch->on_finished && !tell_finished(w, watch)) || (watch->on_booked && !tell_booked(w, watch)))
			return false;
	}
	return true;
}

static enum ledger_outcome batch_apply(struct work *w, uint64_t *ret_position)
{
	enum ledger_outcome outcome;

	if (!db_begin(w->l->db, w->why))
		return LEDGER_FAILED;
	if (!cursor_move(w, ret_position, &outcome))
		return outcome;
	if (w->l->in_doubt && !corrections_count(w->l, &w->corrections_waiting, w->why))
		return LEDGER_FAILED;
	if (!facts_sort(w))
		return LEDGER_FAILED;
	for (size_t i = 0; i < w->n_cases; i++)
		if (!case_apply(w, &w->cases[i]))
			return LEDGER_FAILED;
	return rows_write(w) && book_write(w->l->book, w->why) && watch_tell(w) && db_commit(w->l->db, w->why) ? LEDGER_APPLIED : LEDGER_FAILED;
}

/* What was done is undone; the same batch once more, in smaller steps. */
static enum ledger_outcome batch_again(struct work *w, uint64_t *ret_position)
{
	struct ledger *l = w->l;

	db_rollback(l->db);
	forget_all(l);
	arena_reset(l->mem);
	*w = (struct work){ .l = l, .batch = w->batch, .why = w->why, .corrections_waiting = l->corrections_waiting };
	return batch_apply(w, ret_position);
}

enum ledger_outcome ledger_ingest(struct ledger *l, const struct ledger_batch *b, uint64_t *ret_position, struct ledger_counts *ret_counts,
				  struct why *why)
{
	struct work w = { .l = l, .batch = b, .why = why, .corrections_waiting = l->corrections_waiting };
	enum ledger_outcome outcome;

	if (dims_count(l->dims) > MAX_DIMS_KEPT)
		dims_forget(l->dims);
	if (b->n >= TOGETHER_FROM) {
		w.fresh = arena_alloc(l->mem, b->n * sizeof(*w.fresh));
		w.closed = arena_alloc(l->mem, b->n * sizeof(*w.closed));
	}
	outcome = batch_apply(&w, ret_position);
	if (outcome == LEDGER_FAILED && w.met)
		outcome = batch_again(&w, ret_position);
	if (outcome == LEDGER_APPLIED) {
		l->corrections_waiting = w.corrections_waiting;
		l->in_doubt = false;
		for (size_t i = 0; i < w.n_finished && l->on_finished; i++)
			l->on_finished(l->on_finished_arg, w.finished[i].dim, w.finished[i].event);
	} else {
		db_rollback(l->db);
		w.counts = (struct ledger_counts){ 0 };
		if (outcome == LEDGER_FAILED) {
			forget_all(l);
			l->in_doubt = true;
		}
	}
	if (ret_counts)
		*ret_counts = w.counts;
	arena_reset(l->mem);
	return outcome;
}

enum ledger_outcome ledger_carry(struct ledger *l, const struct ledger_batch *b, bool (*each)(void *, struct str record, struct why *), void *arg,
				 uint64_t *ret_position, struct why *why)
{
	struct work w = { .l = l, .batch = b, .why = why };
	enum ledger_outcome outcome = LEDGER_FAILED;
	bool ok = db_begin(l->db, why) && cursor_move(&w, ret_position, &outcome);

	for (size_t i = 0; ok && i < b->n; i++)
		ok = each(arg, b->records[i], why);
	if (ok && db_commit(l->db, why))
		return LEDGER_APPLIED;
	db_rollback(l->db);
	return outcome;
}

/* --- the cursor --- */

struct cursor { uint64_t position, epoch; bool found; };

static bool cursor_take(void *arg, const struct db_row *row)
{
	*(struct cursor *)arg = (struct cursor){ (uint64_t)db_int(row, 0), (uint64_t)db_int(row, 1), true };
	return true;
}

static bool cursor_get(struct ledger *l, struct str topic, struct str source, struct cursor *c, struct why *why)
{
	return db_run(l->db, L_CURSOR_GET, (struct db_value[]){ DB_S(topic), DB_S(source) }, 2, cursor_take, c, NULL, why);
}

bool ledger_cursor(struct ledger *l, struct str topic, struct str source, uint64_t *ret_position, uint64_t *ret_epoch, struct why *why)
{
	struct cursor c = { 0 };

	if (!cursor_get(l, topic, source, &c, why))
		return false;
	*ret_position = c.position;
	*ret_epoch = c.epoch;
	return true;
}

static bool carrier_move(struct work *w, enum ledger_outcome *ret)
{
	const struct ledger_carrier *c = w->batch->carrier;
	bool moved = false;

	if (c->move(c->arg, &moved, w->why) && !moved)
		*ret = LEDGER_OUT_OF_ORDER;
	return moved;
}

/* Compare and set; false with *ret when the batch does not begin where the cursor is. */
static bool cursor_move(struct work *w, uint64_t *ret_position, enum ledger_outcome *ret)
{
	const struct ledger_batch *b = w->batch;
	struct db_value p[] = { DB_S(b->topic), DB_S(b->source), DB_I(b->next), DB_I(b->epoch), DB_I(b->first) };
	struct cursor c = { 0 };
	int64_t changed = 0;

	*ret = LEDGER_FAILED;
	if (b->carrier)
		return carrier_move(w, ret);
	if (!db_run(w->l->db, L_CURSOR_MOVE, p, 5, NULL, NULL, &changed, w->why))
		return false;
	*ret_position = b->next;
	if (changed == 1)
		return true;
	if (!cursor_get(w->l, b->topic, b->source, &c, w->why))
		return false;
	if (!c.found && b->first == 0)
		return db_run(w->l->db, L_CURSOR_NEW, p, 4, NULL, NULL, NULL, w->why);
	*ret_position = c.position;
	*ret = LEDGER_OUT_OF_ORDER;
	if (c.epoch > b->epoch) {
		*ret = LEDGER_STALE;
		err_set(w->why, ERR_CONFLICT, "the spool of " STR_FMT " was opened again since (epoch %llu, this batch is of %llu)", STR_ARG(b->source),
			(unsigned long long)c.epoch, (unsigned long long)b->epoch);
	}
	return false;
}

/* --- sorting a batch into cases --- */

static bool carrier_bury(struct work *w, struct str bytes, const char *reason)
{
	const struct ledger_batch *b = w->batch;
	size_t i = 0;

	while (i < b->n && b->records[i].p != bytes.p)
		i++;
	return b->carrier->bury(b->carrier->arg, i, reason, w->why);
}

static bool dead_letter(struct work *w, struct str bytes, const char *reason)
{
	const struct ledger_batch *b = w->batch;

	w->counts.dead++;
	if (b->carrier)
		return carrier_bury(w, bytes, reason);
	return db_run(w->l->db, L_DEAD_ADD,
		      (struct db_value[]){ DB_I(wall_us()), DB_S(b->topic), DB_S(b->source), DB_I(b->first), DB_Z(reason), DB_B(bytes) }, 6, NULL, NULL,
		      NULL, w->why);
}

/* Why this event has no place in the ledger; NULL = it has. */
static const char *event_flaw(const Corral__UsageEvent *e)
{
	if (!e)
		return "it is not a UsageEvent";
	if (e->request_id.len != 16 || e->request_id.data[6] >> 4 != 7)
		return "its request id is not a UUIDv7";
	if (e->kind != CORRAL__USAGE_KIND__USAGE_START && e->kind != CORRAL__USAGE_KIND__USAGE_FINAL && e->kind != CORRAL__USAGE_KIND__USAGE_CORRECTION)
		return "its kind does not belong in the ledger";
	return NULL;
}

static struct facts_case *case_find(struct work *w, const Corral__UsageEvent *e)
{
	uint64_t tail;
	size_t at;

	memcpy(&tail, e->request_id.data + 8, 8);
	at = (size_t)((tail ^ e->attempt) * 0x9e3779b97f4a7c15u >> 20) & (w->table_cap - 1);
	for (; w->table[at]; at = (at + 1) & (w->table_cap - 1)) {
		struct facts_case *c = &w->cases[w->table[at] - 1];

		if (c->attempt == e->attempt && memcmp(c->request_id, e->request_id.data, 16) == 0)
			return c;
	}
	w->table[at] = (uint32_t)++w->n_cases;
	w->cases[w->n_cases - 1] = (struct facts_case){ .request_id = e->request_id.data, .attempt = e->attempt };
	return &w->cases[w->n_cases - 1];
}

/* A second FINAL is the same fact once more when its number is the same, and a contradiction otherwise. */
static bool final_again(struct work *w, uint32_t seq, const struct fact *f)
{
	if (f->event->seq != seq)
		return dead_letter(w, f->bytes, "the attempt has a FINAL with another number already");
	w->counts.duplicates++;
	return true;
}

static bool fact_put(struct work *w, struct facts_case *c, struct fact *f)
{
	switch (f->event->kind) {
	case CORRAL__USAGE_KIND__USAGE_START:
		if (c->start)
			w->counts.duplicates++;
		else
			c->start = f;
		return true;
	case CORRAL__USAGE_KIND__USAGE_FINAL:
		if (c->final)
			return final_again(w, c->final->event->seq, f);
		c->final = f;
		return true;
	default:
		f->next = c->corrections;
		c->corrections = f;
		return true;
	}
}

static bool shadow_put(struct work *w, const struct fact *f)
{
	bool new;

	if (!shadow_enter(w->l->db, f->event, f->bytes, &new, w->why))
		return false;
	w->counts.shadows += new;
	for (size_t i = 0; new && i < w->l->n_watches; i++)
		if (w->l->watches[i].on_shadow && !w->l->watches[i].on_shadow(w->l->watches[i].arg, f->event, w->why))
			return false;
	return true;
}

static bool facts_sort(struct work *w)
{
	const struct ledger_batch *b = w->batch;
	struct arena *mem = w->l->mem;

	for (w->table_cap = 16; w->table_cap < b->n * 2; w->table_cap *= 2)
		;
	w->table = arena_array(mem, uint32_t, w->table_cap);
	w->cases = arena_alloc(mem, (b->n + 1) * sizeof(*w->cases));
	w->finished = arena_alloc(mem, (b->n + 1) * sizeof(*w->finished));
	w->changes = arena_alloc(mem, (2 * b->n + 1) * sizeof(*w->changes));
	for (size_t i = 0; i < b->n; i++) {
		struct fact *f = arena_alloc(mem, sizeof(*f));
		const char *flaw;

		*f = (struct fact){ event_read(mem, b->records[i]), b->records[i], NULL };
		flaw = event_flaw(f->event);
		if (flaw ? !dead_letter(w, b->records[i], flaw) : shadow_is(f->event) ? !shadow_put(w, f) : !fact_put(w, case_find(w, f->event), f))
			return false;
		if (!flaw && f->event->occurred_at_us > w->counts.newest_us)
			w->counts.newest_us = f->event->occurred_at_us;
	}
	return true;
}

/* --- rows --- */

int64_t ledger_row_time_us(const struct ledger_row *r)
{
	int64_t ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | r->request_id[i];
	return ms * 1000;
}

int64_t ledger_row_began_us(const struct ledger_row *r) { return r->started_us ? r->started_us : ledger_row_time_us(r); }

void ledger_row_sums(const struct ledger_row *r, struct str status, struct sums *s, int sign)
{
	bool finished = r->state & ROW_FINISHED, ok = finished && str_eq(status, STR("ok"));

	s->attempts += r->attempt >= 1 ? sign : 0;
	s->requests += r->attempt <= 1 ? sign : 0;
	s->finished += finished ? sign : 0;
	s->ok += ok ? sign : 0;
	s->errors += finished && !ok && !str_eq(status, STR("cancelled")) ? sign : 0;
	s->cached += r->cached && r->attempt <= 1 ? sign : 0;
	s->prompt_tokens += sign * r->prompt_tokens;
	s->completion_tokens += sign * r->completion_tokens;
	s->cost_microusd += sign * r->cost_microusd;
	s->gpu_us += sign * r->gpu_us;
	s->energy_mj += sign * r->energy_mj;
	if (finished && r->latency_us > 0 && (r->attempt >= 1 || r->cached))
		hist_add(&s->latency_us, (uint64_t)r->latency_us, sign);
}

/* Puts the row into the sums of its hour, or takes it out again. */
static bool row_book(struct work *w, const struct ledger_row *r, int sign)
{
	const struct dim *dim = dims_get(w->l->dims, r->dim, w->why);
	struct sums *s = dim ? book_at(w->l->book, ledger_row_time_us(r) / HOUR_US, r->dim, w->why) : NULL;

	if (!s)
		return false;
	ledger_row_sums(r, dim->word[DIM_STATUS], s, sign);
	return true;
}

static void row_params(const struct ledger_row *r, struct db_value p[ROW_COLUMNS])
{
	p[0] = DB_B(str_n((const char *)r->request_id, 16));
	p[1] = DB_I(r->attempt);
	p[2] = DB_I(r->dim);
	p[3] = DB_I(r->state);
	p[4] = DB_I(r->started_us);
	p[5] = DB_I(r->ended_us);
	p[6] = DB_I(r->prompt_tokens);
	p[7] = DB_I(r->completion_tokens);
	p[8] = DB_I(r->cost_microusd);
	p[9] = DB_I(r->latency_us);
	p[10] = DB_I(r->gpu_us);
	p[11] = DB_I(r->energy_mj);
	p[12] = DB_I(r->cached);
	p[13] = DB_I(r->final_seq);
	p[14] = DB_B(r->event);
}

static void row_take(const struct db_row *d, struct ledger_row *r)
{
	struct str id = db_str(d, 0);

	*r = (struct ledger_row){
		.attempt = (uint32_t)db_int(d, 1), .dim = db_int(d, 2), .state = (unsigned)db_int(d, 3), .started_us = db_int(d, 4),
		.ended_us = db_int(d, 5), .prompt_tokens = db_int(d, 6), .completion_tokens = db_int(d, 7), .cost_microusd = db_int(d, 8),
		.latency_us = db_int(d, 9), .gpu_us = db_int(d, 10), .energy_mj = db_int(d, 11), .cached = db_int(d, 12) != 0,
		.final_seq = (uint32_t)db_int(d, 13), .event = db_str(d, 14),
	};
	memcpy(r->request_id, id.p, id.n < 16 ? id.n : 16);
}

static bool row_write(struct work *w, enum ledger_statement statement, const struct ledger_row *r, int64_t *ret_changed)
{
	struct db_value p[ROW_COLUMNS];

	row_params(r, p);
	return db_run(w->l->db, statement, p, ROW_COLUMNS, NULL, NULL, ret_changed, w->why);
}

/* --- events into rows --- */

static bool row_dim(struct work *w, struct ledger_row *r, const Corral__UsageEvent *e)
{
	const struct str word[DIMS] = {
		[DIM_TENANT] = str_of(e->tenant), [DIM_KEY] = str_of(e->key_id), [DIM_MODEL] = str_of(e->model), [DIM_BACKEND] = str_of(e->backend),
		[DIM_PROVIDER] = str_of(e->provider), [DIM_DIALECT] = str_of(e->dialect), [DIM_TASK_TYPE] = str_of(e->task_type),
		[DIM_STATUS] = r->state & ROW_FINISHED ? str_of(e->status) : STR("open"),
	};
	const struct dim *dim = dims_intern(w->l->dims, word, w->why);

	if (!dim)
		return false;
	r->dim = dim->id;
	if (r->state & ROW_FINISHED)
		w->finished[w->n_finished++] = (struct finished){ dim, e, e->cost_microusd };
	return true;
}

/* What the FINAL leaves out is as the START said. True when something was filled in. */
static bool final_fill(Corral__UsageEvent *f, const Corral__UsageEvent *s)
{
	char **const to[] = { &f->tenant, &f->key_id, &f->user, &f->model, &f->backend, &f->provider, &f->dialect, &f->task_type, &f->complexity,
			      &f->language, &f->experiment_id, &f->arm, &f->policy_version, &f->reason, &f->requested_model };
	char *const from[] = { s->tenant, s->key_id, s->user, s->model, s->backend, s->provider, s->dialect, s->task_type, s->complexity,
			       s->language, s->experiment_id, s->arm, s->policy_version, s->reason, s->requested_model };
	bool filled = false;

	for (size_t i = 0; i < sizeof(to) / sizeof(*to); i++)
		if (!**to[i] && *from[i]) {
			*to[i] = from[i];
			filled = true;
		}
	if (!*f->unit && *s->unit) {
		f->unit = s->unit;
		filled = true;
	}
	if (!f->prompt_hash && s->prompt_hash) {
		f->prompt_hash = s->prompt_hash;
		f->prompt_sketch = s->prompt_sketch;
		filled = true;
	}
	if (!f->context_size && s->context_size) {
		f->context_size = s->context_size;
		filled = true;
	}
	return filled;
}

static bool row_open(struct work *w, struct ledger_row *r, const struct fact *start)
{
	r->state |= ROW_STARTED;
	r->started_us = start->event->occurred_at_us;
	r->event = start->bytes;
	return row_dim(w, r, start->event);
}

static int64_t row_cost(struct work *w, const struct ledger_row *r, const Corral__UsageEvent *e)
{
	return w->l->cost ? w->l->cost(w->l->cost_arg, e, ledger_row_began_us(r)) : e->cost_microusd;
}

/* Completes the row; the START (may be NULL) fills what the FINAL left out. Every field of the whole is in one of the two. */
static bool row_finish(struct work *w, struct ledger_row *r, const struct fact *final, const struct fact *start)
{
	Corral__UsageEvent *e = final->event;
	int64_t told_microusd = e->cost_microusd;

	r->event = start && start->event && final_fill(e, start->event) ? event_pack(w->l->mem, e, start->bytes.n + final->bytes.n) : final->bytes;
	r->state |= ROW_FINISHED;
	r->ended_us = e->occurred_at_us;
	if (!r->started_us && e->latency_us > 0)          /* no START was heard: short attempts are told of by their FINAL alone */
		r->started_us = e->occurred_at_us - e->latency_us;
	r->prompt_tokens = (int64_t)e->prompt_tokens;
	r->completion_tokens = (int64_t)e->completion_tokens;
	r->cost_microusd = e->cost_microusd = row_cost(w, r, e);
	r->latency_us = e->latency_us;
	r->gpu_us = e->gpu_us;
	r->energy_mj = e->energy_mj;
	r->cached = e->cached;
	r->final_seq = e->seq;
	if (!row_dim(w, r, e))
		return false;
	w->finished[w->n_finished - 1].told_microusd = told_microusd;
	return true;
}

/* --- corrections --- */

static void row_correct(struct ledger_row *r, int64_t prompt, int64_t completion, int64_t cost, int64_t gpu_us, int64_t energy_mj)
{
	r->prompt_tokens += prompt;
	r->completion_tokens += completion;
	r->cost_microusd += cost;
	r->gpu_us += gpu_us;
	r->energy_mj += energy_mj;
}

static Corral__UsageEvent *row_event(struct work *w, const struct ledger_row *r)
{
	return event_read(w->l->mem, r->event);
}

/* A finished row is not what it was. At most twice in a case: by corrections, and by a late START. */
static void note_change(struct work *w, const struct ledger_row *old, const struct ledger_row *now)
{
	struct ledger_booking b = { .tokens = now->prompt_tokens + now->completion_tokens - old->prompt_tokens - old->completion_tokens,
				    .microusd = now->cost_microusd - old->cost_microusd };

	if (b.tokens || b.microusd) {
		b.event = row_event(w, now);
		w->changes[w->n_changes++] = b;
	}
}

struct waiting { struct work *w; struct ledger_row *row; int64_t n; };

/* The row's event says where its tokens come from: from here on, as the correction does. */
static void row_take_source(struct work *w, struct ledger_row *r, struct str correction)
{
	const Corral__UsageEvent *by = event_read(w->l->mem, correction);
	Corral__UsageEvent *e = by && by->tokens_source ? row_event(w, r) : NULL;

	if (!e)
		return;
	e->tokens_source = by->tokens_source;
	e->prompt_tokens_source = by->prompt_tokens_source;
	e->cached_prompt_tokens = by->cached_prompt_tokens;
	r->event = event_pack(w->l->mem, e, 0);
}

static bool waiting_take(void *arg, const struct db_row *d)
{
	struct waiting *x = arg;

	row_correct(x->row, db_int(d, 1), db_int(d, 2), db_int(d, 3), db_int(d, 4), db_int(d, 5));
	row_take_source(x->w, x->row, db_str(d, 6));
	x->n++;
	return true;
}

/* Adds the corrections that wait for this FINAL. */
static bool row_take_waiting(struct work *w, struct ledger_row *r)
{
	struct db_value p[] = { DB_B(str_n((const char *)r->request_id, 16)), DB_I(r->attempt) };
	struct waiting x = { w, r, 0 };
	struct ledger_row old = *r;

	if (w->corrections_waiting == 0)
		return true;
	if (!db_run(w->l->db, L_CORRECTIONS_WAITING, p, 2, waiting_take, &x, NULL, w->why))
		return false;
	note_change(w, &old, r);
	w->corrections_waiting -= x.n;
	return x.n == 0 || db_run(w->l->db, L_CORRECTION_APPLIED, p, 2, NULL, NULL, NULL, w->why);
}

/* Keeps a correction as waiting; a second one with the same number changes nothing. */
static bool correction_keep(struct work *w, const struct fact *f)
{
	const Corral__UsageEvent *e = f->event;
	int64_t changed = 0;

	if (!db_run(w->l->db, L_CORRECTION_ADD,
		    (struct db_value[]){ DB_B(str_n((const char *)e->request_id.data, 16)), DB_I(e->attempt), DB_I(e->seq), DB_I(e->prompt_tokens),
					 DB_I(e->completion_tokens), DB_I(e->cost_microusd), DB_I(e->gpu_us), DB_I(e->energy_mj), DB_B(f->bytes) },
		    9, NULL, NULL, &changed, w->why))
		return false;
	w->counts.corrections += changed == 1;
	w->counts.duplicates += changed == 0;
	w->corrections_waiting += changed == 1;
	return true;
}

/* --- cases --- */

/* The attempt is in the ledger in some state: read it, change it, write it. */
struct slow { struct arena *mem; struct ledger_row row; bool found; };

static bool slow_take(void *arg, const struct db_row *d)
{
	struct slow *s = arg;

	row_take(d, &s->row);
	s->row.event = arena_str(s->mem, s->row.event);
	s->found = true;
	return true;
}

static bool row_read(struct work *w, const struct facts_case *c, struct slow *s)
{
	struct db_value p[] = { DB_B(str_n((const char *)c->request_id, 16)), DB_I(c->attempt) };

	*s = (struct slow){ .mem = w->l->mem };
	return db_run(w->l->db, L_ROW_GET, p, 2, slow_take, s, NULL, w->why);
}

static bool slow_finish(struct work *w, struct ledger_row *r, const struct fact *final)
{
	struct fact start = { .bytes = r->event };

	if (r->state & ROW_STARTED)
		start.event = row_event(w, r);
	w->counts.finals++;
	return row_finish(w, r, final, &start) && row_take_waiting(w, r);
}

/* A START after its FINAL: says when the attempt began, and what the FINAL left out. */
static bool slow_start(struct work *w, struct ledger_row *r, const struct fact *start)
{
	struct fact final = { .event = row_event(w, r), .bytes = r->event };
	struct ledger_row old = *r;
	int64_t cost = final.event ? row_cost(w, r, final.event) : 0;

	w->counts.starts++;
	r->state |= ROW_STARTED;
	r->started_us = start->event->occurred_at_us;
	if (final.event && final_fill(final.event, start->event)) {
		r->event = event_pack(w->l->mem, final.event, 0);
		if (!row_dim(w, r, final.event))
			return false;
		w->n_finished--;      /* it was told when the FINAL came */
	}
	r->cost_microusd += final.event ? row_cost(w, r, final.event) - cost : 0;
	if (final.event)
		note_change(w, &old, r);
	return true;
}

static bool case_slow(struct work *w, struct facts_case *c)
{
	struct ledger_row old;
	struct slow s;
	bool changed = false;

	if (!row_read(w, c, &s))
		return false;
	if (!s.found)
		return err_set(w->why, ERR_INTERNAL, "an attempt is in the ledger and is not") == ERR_OK;
	old = s.row;
	if (c->start && old.state & ROW_STARTED)
		w->counts.duplicates++;
	else if (c->start && (changed = true) && !slow_start(w, &s.row, c->start))
		return false;
	if (c->final && old.state & ROW_FINISHED) {
		if (!final_again(w, old.final_seq, c->final))
			return false;
	} else if (c->final && (changed = true) && !slow_finish(w, &s.row, c->final))
		return false;
	return !changed || (row_write(w, L_ROW_SET, &s.row, NULL) && row_book(w, &old, -1) && row_book(w, &s.row, 1));
}

static void added(struct work *w, const struct ledger_row *r)
{
	w->counts.starts += (r->state & ROW_STARTED) != 0;
	w->counts.finals += (r->state & ROW_FINISHED) != 0;
	if (r->state == ROW_STARTED)
		open_rows_add(w->l->open, r);
}

static int by_order(const void *a, const void *b)
{
	uint64_t x = ((const struct fresh *)a)->order, y = ((const struct fresh *)b)->order;

	return x < y ? -1 : x > y;
}

static bool rows_met(struct work *w)
{
	w->met = true;
	return err_set(w->why, ERR_CONFLICT, "a row is in the ledger already") == ERR_OK;
}

/* Writes rows, 'stride' bytes apart; each has to be changed by it. */
static bool rows_send(struct work *w, enum ledger_statement statement, const struct ledger_row *first, size_t n, size_t stride)
{
	struct db_value *p = x_malloc(AT_ONCE * ROW_COLUMNS * sizeof(*p));
	bool ok = true;

	for (size_t i = 0, some; ok && i < n; i += some) {
		int64_t changed = 0;

		some = n - i < AT_ONCE ? n - i : AT_ONCE;
		for (size_t k = 0; k < some; k++)
			row_params((const struct ledger_row *)(const void *)((const char *)first + (i + k) * stride), p + k * ROW_COLUMNS);
		ok = db_batch(w->l->db, statement, p, ROW_COLUMNS, some, &changed, w->why) && (changed == (int64_t)some || rows_met(w));
	}
	free(p);
	return ok;
}

/* In the order of the table, each insert begins where the one before it ended. */
static bool rows_write(struct work *w)
{
	if (w->n_fresh)
		qsort(w->fresh, w->n_fresh, sizeof(*w->fresh), by_order);
	return (w->n_fresh == 0 || rows_send(w, L_ROW_ADD, &w->fresh->row, w->n_fresh, sizeof(*w->fresh))) &&
	       (w->n_closed == 0 || rows_send(w, L_ROW_FINISH, w->closed, w->n_closed, sizeof(*w->closed)));
}

static bool row_add_later(struct work *w, const struct ledger_row *r)
{
	struct fresh *f = &w->fresh[w->n_fresh++];

	f->row = *r;
	memcpy(&f->order, r->request_id, 8);
	f->order = be64toh(f->order);
	added(w, r);
	return row_book(w, r, 1);
}

/* Adds a row that should be new; 'slow' when it was not. */
static bool row_add(struct work *w, struct facts_case *c, struct ledger_row *r)
{
	int64_t changed = 0;

	if (w->fresh && !c->corrections)          /* corrections look for the row at once */
		return row_add_later(w, r);
	if (!row_write(w, L_ROW_ADD, r, &changed))
		return false;
	if (changed == 0) {
		w->n_finished -= (r->state & ROW_FINISHED) != 0;
		return case_slow(w, c);
	}
	added(w, r);
	return row_book(w, r, 1);
}

/* A FINAL whose START is known to lie open in the table. */
static bool case_close(struct work *w, struct facts_case *c, const struct ledger_row *open)
{
	struct ledger_row old = *open, r = *open;
	struct fact start = { .event = row_event(w, &old), .bytes = old.event };
	int64_t changed = 0;

	if (!row_finish(w, &r, c->final, &start) || !row_take_waiting(w, &r))
		return false;
	if (w->closed && !c->corrections) {
		w->closed[w->n_closed++] = r;
	} else {
		if (!row_write(w, L_ROW_FINISH, &r, &changed))
			return false;
		if (changed == 0) {
			w->n_finished--;
			return case_slow(w, c);
		}
	}
	w->counts.finals++;
	return row_book(w, &old, -1) && row_book(w, &r, 1);
}

static bool case_start_final(struct work *w, struct facts_case *c)
{
	struct ledger_row r = { .attempt = c->attempt };
	struct ledger_row open;

	if (c->final && w->corrections_waiting) {
		struct slow s;

		/* Corrections are taken once, so it has to be known before what row they go to. */
		if (!row_read(w, c, &s))
			return false;
		if (s.found)
			return case_slow(w, c);
	}
	if (c->final && !c->start && open_rows_take(w->l->open, c->request_id, c->attempt, w->l->mem, &open))
		return case_close(w, c, &open);
	memcpy(r.request_id, c->request_id, 16);
	if (c->start && !c->final)
		return row_open(w, &r, c->start) && row_add(w, c, &r);
	if (c->start) {
		r.state = ROW_STARTED;
		r.started_us = c->start->event->occurred_at_us;
	}
	return row_finish(w, &r, c->final, c->start) && row_take_waiting(w, &r) && row_add(w, c, &r);
}

/* Corrections are kept first and then added to the row, at once or when its FINAL comes. */
static bool case_corrections(struct work *w, struct facts_case *c)
{
	struct ledger_row old;
	struct slow s;

	for (struct fact *f = c->corrections; f; f = f->next)
		if (!correction_keep(w, f))
			return false;
	if (!row_read(w, c, &s))
		return false;
	if (!s.found || !(s.row.state & ROW_FINISHED))
		return true;
	old = s.row;
	return row_take_waiting(w, &s.row) && row_write(w, L_ROW_SET, &s.row, NULL) && row_book(w, &old, -1) && row_book(w, &s.row, 1);
}

static bool case_apply(struct work *w, struct facts_case *c)
{
	if ((c->start || c->final) && !case_start_final(w, c))
		return false;
	return !c->corrections || case_corrections(w, c);
}

/* --- reading --- */

struct rows_to { bool (*on_row)(void *, const struct ledger_row *); void *arg; };

static bool rows_pass(void *arg, const struct db_row *d)
{
	const struct rows_to *to = arg;
	struct ledger_row r;

	row_take(d, &r);
	return to->on_row(to->arg, &r);
}

bool ledger_attempts(struct ledger *l, const uint8_t request_id[16], bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *why)
{
	struct rows_to to = { on_row, arg };

	return db_run(l->db, L_ROWS_OF_REQUEST, (struct db_value[]){ DB_B(str_n((const char *)request_id, 16)) }, 1, rows_pass, &to, NULL, why);
}

/* The lowest id of the first millisecond that begins at or after the time. */
static struct str id_bound(int64_t us, uint8_t id[16])
{
	int64_t ms = us <= 0 ? 0 : us / 1000 + (us % 1000 != 0);

	memset(id, ms >> 48 ? 0xff : 0, 16);
	for (int i = 0; i < 6 && !(ms >> 48); i++)
		id[i] = (uint8_t)(ms >> (40 - 8 * i));
	return str_n((const char *)id, 16);
}

bool ledger_rows(struct ledger *l, int64_t from_us, int64_t to_us, bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *why)
{
	struct rows_to to = { on_row, arg };
	uint8_t from_id[16], to_id[16];

	return db_run(l->db, L_ROWS_BETWEEN, (struct db_value[]){ DB_B(id_bound(from_us, from_id)), DB_B(id_bound(to_us, to_id)) }, 2, rows_pass, &to, NULL,
		      why);
}

bool ledger_rows_newest(struct ledger *l, int64_t from_us, int64_t most, bool (*on_row)(void *, const struct ledger_row *), void *arg, struct why *why)
{
	struct rows_to to = { on_row, arg };
	uint8_t from_id[16];

	return db_run(l->db, L_ROWS_NEWEST, (struct db_value[]){ DB_B(id_bound(from_us, from_id)), DB_I(most) }, 2, rows_pass, &to, NULL, why);
}

struct sums_to { bool (*on_sums)(void *, int64_t, int64_t, const struct sums *); void *arg; bool damaged; };

static bool sums_pass(void *arg, const struct db_row *d)
{
	struct sums_to *to = arg;
	struct sums s = { 0 };
	int64_t hour, dim;
	bool more = book_row(d, &hour, &dim, &s);

	to->damaged |= !more;
	more = more && to->on_sums(to->arg, hour, dim, &s);
	sums_free(&s);
	return more;
}

bool ledger_sums(struct ledger *l, int64_t from_hour, int64_t to_hour, bool (*on_sums)(void *, int64_t hour, int64_t dim, const struct sums *), void *arg,
		 struct why *why)
{
	struct sums_to to = { on_sums, arg, false };

	if (!db_run(l->db, L_SUMS_BETWEEN, (struct db_value[]){ DB_I(from_hour), DB_I(to_hour) }, 2, sums_pass, &to, NULL, why))
		return false;
	return !to.damaged || err_set(why, ERR_STORE_FAILED, "a sum in the ledger has a damaged histogram") == ERR_OK;
}

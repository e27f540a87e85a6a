/* quality.c - see quality.h. */
#include "services/usage-tracker/quality.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/policy/sketch.h"
#include "services/usage-tracker/event.h"
#include "services/usage-tracker/ledger_sql.h"

#define DAY_US INT64_C(86400000000)

enum { WORD = 96, COUNTS = 11, ASKERS = 4096, RECENT = 4, TOUCHED = 64 };
enum count { ANSWERS, OK, ERRORS, ABORTED, REGENERATED, ASKED_AGAIN, TOKENS, GENERATE_US, LATENCY_US, TTFT_US, N_TTFT };

struct key { int64_t day; char tenant[WORD], model[WORD], task_type[WORD], language[WORD]; };
struct touched { struct key key; int64_t n[COUNTS]; };

/* An answer that may yet turn out not to have been good enough. */
struct recent { uint8_t request_id[16]; uint64_t hash, sketch; int64_t ended_us; struct key key; bool told; };
struct asker { uint64_t who; unsigned next; struct recent recent[RECENT]; };

struct quality {
	struct ledger *l;
	struct db *db;
	struct touched touched[TOUCHED];      /* by the batch in hand */
	unsigned n_touched;
	struct asker *askers;                 /* by a hash of who asks: a newcomer takes the place */
};

/* --- sums --- */

static bool key_eq(const struct key *a, const struct key *b)
{
	return a->day == b->day && strcmp(a->model, b->model) == 0 && strcmp(a->task_type, b->task_type) == 0 && strcmp(a->language, b->language) == 0 &&
	       strcmp(a->tenant, b->tenant) == 0;
}

static bool sums_write(struct quality *q, struct why *why)
{
	for (unsigned i = 0; i < q->n_touched; i++) {
		const struct touched *t = &q->touched[i];
		struct db_value p[5 + COUNTS] = { DB_I(t->key.day), DB_Z(t->key.tenant), DB_Z(t->key.model), DB_Z(t->key.task_type), DB_Z(t->key.language) };

		for (int k = 0; k < COUNTS; k++)
			p[5 + k] = DB_I(t->n[k]);
		if (!db_run(q->db, L_QUALITY_ADD, p, 5 + COUNTS, NULL, NULL, NULL, why))
			return false;
	}
	q->n_touched = 0;
	return true;
}

static int64_t *sums_of(struct quality *q, const struct key *key, struct why *why)
{
	unsigned i = 0;

	while (i < q->n_touched && !key_eq(&q->touched[i].key, key))
		i++;
	if (i == TOUCHED) {
		if (!sums_write(q, why))
			return NULL;
		i = 0;
	}
	if (i == q->n_touched)
		q->touched[q->n_touched++] = (struct touched){ .key = *key };
	return q->touched[i].n;
}

/* --- what they did --- */

static int64_t came_us(const Corral__UsageEvent *e)
{
	int64_t ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | e->request_id.data[i];
	return ms * 1000;
}

static struct asker *asker_of(struct quality *q, const Corral__UsageEvent *e)
{
	uint64_t who = str_hash(str_of(e->user), str_hash(str_of(e->key_id), str_hash(str_of(e->tenant), 3))) | 1;
	struct asker *a;

	if (!q->askers)
		q->askers = x_calloc(ASKERS, sizeof(*q->askers));
	a = &q->askers[who % ASKERS];
	if (a->who != who)
		*a = (struct asker){ .who = who };
	return a;
}

/* Is one of the asker's last answers one that this request asks for again? */
static bool look_back(struct quality *q, struct asker *a, const Corral__UsageEvent *e, struct why *why)
{
	int64_t at_us = came_us(e), *n;

	for (int i = 0; i < RECENT; i++) {
		struct recent *r = &a->recent[i];
		bool same = r->hash == e->prompt_hash;

		if (!r->hash || r->told || memcmp(r->request_id, e->request_id.data, 16) == 0 || r->ended_us > at_us || at_us - r->ended_us > REASK_US ||
		    !(same || sketch_alike(r->sketch, e->prompt_sketch)))
			continue;
		n = sums_of(q, &r->key, why);
		if (!n)
			return false;
		n[same ? REGENERATED : ASKED_AGAIN]++;
		r->told = true;
	}
	return true;
}

static void remember(struct asker *a, const Corral__UsageEvent *e, const struct key *key)
{
	struct recent *r = &a->recent[a->next++ % RECENT];

	*r = (struct recent){ .hash = e->prompt_hash, .sketch = e->prompt_sketch, .ended_us = e->occurred_at_us, .key = *key };
	memcpy(r->request_id, e->request_id.data, 16);
}

static void add(int64_t *n, const Corral__UsageEvent *e, struct str status)
{
	bool ok = str_eqz(status, "ok"), aborted = str_eqz(status, "cancelled");

	n[ANSWERS]++;
	n[OK] += ok;
	n[ABORTED] += aborted;
	n[ERRORS] += !ok && !aborted;
	if (!ok)
		return;
	n[LATENCY_US] += e->latency_us;
	if (e->ttft_us > 0 && e->latency_us > e->ttft_us) {
		n[TOKENS] += (int64_t)e->completion_tokens;
		n[GENERATE_US] += e->latency_us - e->ttft_us;
		n[TTFT_US] += e->ttft_us;
		n[N_TTFT]++;
	}
}

static struct key key_of(const struct dim *d, const Corral__UsageEvent *e)
{
	struct key k = { .day = came_us(e) / DAY_US };

	(void)str_copy(k.tenant, WORD, d->word[DIM_TENANT].n ? d->word[DIM_TENANT] : STR("default"));
	(void)str_copy(k.model, WORD, d->word[DIM_MODEL]);
	(void)str_copy(k.task_type, WORD, d->word[DIM_TASK_TYPE]);
	(void)str_copy(k.language, WORD, str_of(e->language));
	return k;
}

static bool is_answer(const struct dim *d, const Corral__UsageEvent *e)
{
	return e->attempt >= 1 && !e->cached && !str_eqz(d->word[DIM_STATUS], "not_sent") && !str_eqz(d->word[DIM_STATUS], "open");
}

static bool finished(void *arg, const struct dim *d, const Corral__UsageEvent *e, struct arena *mem, struct why *why)
{
	struct quality *q = arg;
	struct asker *a;
	struct key key;
	int64_t *n;

	if (!d)
		return sums_write(q, why);
	if (!is_answer(d, e))
		return true;
	key = key_of(d, e);
	n = sums_of(q, &key, why);
	if (!n)
		return false;
	add(n, e, d->word[DIM_STATUS]);
	if (!e->prompt_hash)
		return true;
	a = asker_of(q, e);
	if (!look_back(q, a, e, why))
		return false;
	remember(a, e, &key);
	return true;
}

/* The batch comes again, and is remembered again: one request is found by its id then. */
static void undone(void *arg) { ((struct quality *)arg)->n_touched = 0; }

struct quality *quality_new(struct ledger *l)
{
	struct quality *q = x_calloc(1, sizeof(*q));

	q->l = l;
	q->db = ledger_db(l);
	ledger_watch(l, (struct ledger_watch){ .on_finished = finished, .undone = undone, .arg = q });
	return q;
}

void quality_free(struct quality *q)
{
	if (!q)
		return;
	ledger_watch(q->l, (struct ledger_watch){ .arg = q });
	free(q->askers);
	free(q);
}

/* --- the report --- */

struct line {
	struct str model, task_type, language;
	int64_t n[COUNTS];
	double weight, good;          /* of explicit words */
	int64_t said, ratings, rating_sum, tests_passed, tests_total;
};

struct report {
	struct quality *q;
	const Corral__QualityQuery *query;
	struct arena *mem;
	struct line *lines;
	size_t n, cap;
	struct why *why;
	bool failed;
};

static struct line *line_of(struct report *r, struct str model, struct str task_type, struct str language)
{
	for (size_t i = 0; i < r->n; i++)
		if (str_eq(r->lines[i].model, model) && str_eq(r->lines[i].task_type, task_type) && str_eq(r->lines[i].language, language))
			return &r->lines[i];
	if (r->n == r->cap) {
		struct line *old = r->lines;

		r->cap = r->cap ? r->cap * 2 : 64;
		r->lines = arena_array(r->mem, struct line, r->cap);
		if (r->n)
			memcpy(r->lines, old, r->n * sizeof(*old));
	}
	r->lines[r->n] = (struct line){ .model = arena_str(r->mem, model), .task_type = arena_str(r->mem, task_type), .language = arena_str(r->mem, language) };
	return &r->lines[r->n++];
}

static bool is_wanted(const struct report *r, struct str tenant) { return !*r->query->tenant || str_eqz(tenant, r->query->tenant); }

static bool take_sums(void *arg, const struct db_row *d)
{
	struct report *r = arg;
	struct line *l;

	if (!is_wanted(r, db_str(d, 0)))
		return true;
	l = line_of(r, db_str(d, 1), db_str(d, 2), db_str(d, 3));
	for (unsigned i = 0; i < COUNTS; i++)
		l->n[i] += db_int(d, 4 + i);
	return true;
}

/* What was said of one request, by one author; -1 = not that. */
struct word { uint8_t request_id[16]; char tenant[256]; int64_t rating, thumbs, success, tests_passed, tests_total; };
struct words { struct arena *mem; struct word *at; size_t n, cap; };

static int64_t given(const struct db_row *d, unsigned column) { return db_col(d, column).type == DB_NULL ? -1 : db_int(d, column); }

static bool take_word(void *arg, const struct db_row *d)
{
	struct words *w = arg;
	struct str id = db_str(d, 0);
	struct word *to;

	if (w->n == w->cap) {
		struct word *old = w->at;

		w->cap = w->cap ? w->cap * 2 : 64;
		w->at = arena_array(w->mem, struct word, w->cap);
		if (w->n)
			memcpy(w->at, old, w->n * sizeof(*old));
	}
	to = &w->at[w->n++];
	*to = (struct word){ .rating = given(d, 2), .thumbs = given(d, 3), .success = given(d, 4), .tests_passed = given(d, 5), .tests_total = given(d, 6) };
	memcpy(to->request_id, id.p, id.n < 16 ? id.n : 16);
	(void)str_copy(to->tenant, sizeof(to->tenant), db_str(d, 1));
	return true;
}

/* The answer that was given: the last attempt that ended well, else the last one. */
struct answer { struct report *r; char model[WORD], task_type[WORD], language[WORD], tenant[256]; bool found, ok; };

static bool take_answer(void *arg, const struct ledger_row *row)
{
	struct answer *a = arg;
	const struct dim *d = ledger_dim(a->r->q->l, row->dim, a->r->why);
	Corral__UsageEvent *e = d ? event_read(a->r->mem, row->event) : NULL;
	bool ok = d && str_eqz(d->word[DIM_STATUS], "ok");

	if (!d)
		return !(a->r->failed = true);
	if (!e || (a->ok && !ok))
		return true;
	(void)str_copy(a->model, WORD, d->word[DIM_MODEL]);
	(void)str_copy(a->task_type, WORD, d->word[DIM_TASK_TYPE]);
	(void)str_copy(a->language, WORD, str_of(e->language));
	(void)str_copy(a->tenant, sizeof(a->tenant), d->word[DIM_TENANT].n ? d->word[DIM_TENANT] : STR("default"));
	a->found = true;
	a->ok = ok;
	return true;
}

static void add_word(struct line *l, const struct word *w)
{
	double weight = w->tests_total > 0 ? 1 : 0.8, good = -1;

	if (w->tests_total > 0)
		good = (double)w->tests_passed / (double)w->tests_total;
	else if (w->success >= 0)
		good = (double)w->success;
	else if (w->rating > 0)
		good = (double)(w->rating - 1) / 4;
	else if (w->thumbs >= 0)
		good = (double)w->thumbs;
	l->said++;
	if (good >= 0) {
		l->weight += weight;
		l->good += weight * good;
	}
	if (w->rating > 0) {
		l->ratings++;
		l->rating_sum += w->rating;
	}
	if (w->tests_total > 0) {
		l->tests_passed += w->tests_passed;
		l->tests_total += w->tests_total;
	}
}

static bool add_words(struct report *r)
{
	struct words all = { .mem = r->mem };
	const struct db_value p[] = { DB_I(r->query->from_day * DAY_US), DB_I(r->query->to_day * DAY_US) };

	if (!db_run(r->q->db, L_FEEDBACK_BETWEEN, p, 2, take_word, &all, NULL, r->why))
		return false;
	for (size_t i = 0; i < all.n; i++) {
		struct answer a = { .r = r };

		if (!ledger_attempts(r->q->l, all.at[i].request_id, take_answer, &a, r->why) || r->failed)
			return false;
		if (a.found && (!all.at[i].tenant[0] || strcmp(all.at[i].tenant, a.tenant) == 0) && is_wanted(r, str_of(a.tenant)))
			add_word(line_of(r, str_of(a.model), str_of(a.task_type), str_of(a.language)), &all.at[i]);
	}
	return true;
}

static double quality_of(const struct line *l)
{
	double bad = (double)(l->n[ABORTED] + l->n[REGENERATED] + l->n[ASKED_AGAIN]);
	double weight = l->weight + 0.3 * bad + 0.1 * (double)(l->n[OK] + l->n[ERRORS]);

	return weight > 0 ? (l->good + 0.1 * (double)l->n[OK]) / weight : 0;
}

static Corral__QualityRow *row_of(struct report *r, const struct line *l)
{
	Corral__QualityRow *row = arena_alloc(r->mem, sizeof(*row));
	int64_t judged = l->n[ANSWERS] - l->n[ABORTED];

	corral__quality_row__init(row);
	row->model = arena_dup(r->mem, l->model.p, l->model.n);
	row->task_type = arena_dup(r->mem, l->task_type.p, l->task_type.n);
	row->language = arena_dup(r->mem, l->language.p, l->language.n);
	row->answers = (uint64_t)l->n[ANSWERS];
	row->ok = (uint64_t)l->n[OK];
	row->aborted = (uint64_t)l->n[ABORTED];
	row->regenerated = (uint64_t)l->n[REGENERATED];
	row->asked_again = (uint64_t)l->n[ASKED_AGAIN];
	row->success_rate = judged > 0 ? (double)l->n[OK] / (double)judged : 0;
	row->said = (uint64_t)l->said;
	row->ratings = (uint64_t)l->ratings;
	row->rating = l->ratings ? (double)l->rating_sum / (double)l->ratings : 0;
	row->tests_passed = (uint64_t)l->tests_passed;
	row->tests_total = (uint64_t)l->tests_total;
	row->latency_ms = l->n[OK] ? (double)l->n[LATENCY_US] / (double)l->n[OK] / 1e3 : 0;
	row->ttft_ms = l->n[N_TTFT] ? (double)l->n[TTFT_US] / (double)l->n[N_TTFT] / 1e3 : 0;
	row->tokens_per_s = l->n[GENERATE_US] ? (double)l->n[TOKENS] * 1e6 / (double)l->n[GENERATE_US] : 0;
	row->quality = quality_of(l);
	return row;
}

static int by_words(const void *a, const void *b)
{
	const Corral__QualityRow *x = *(Corral__QualityRow *const *)a, *y = *(Corral__QualityRow *const *)b;
	int d = strcmp(x->model, y->model);

	d = d ? d : strcmp(x->task_type, y->task_type);
	return d ? d : strcmp(x->language, y->language);
}

bool quality_query(struct quality *q, const Corral__QualityQuery *query, struct arena *mem, Corral__QualityReport *ret, struct why *why)
{
	struct report r = { .q = q, .query = query, .mem = mem, .why = why };
	const struct db_value p[] = { DB_I(query->from_day), DB_I(query->to_day) };

	corral__quality_report__init(ret);
	if (!db_run(q->db, L_QUALITY_BETWEEN, p, 2, take_sums, &r, NULL, why) || !add_words(&r))
		return false;
	ret->rows = arena_array(mem, Corral__QualityRow *, r.n + 1);
	for (size_t i = 0; i < r.n; i++)
		ret->rows[ret->n_rows++] = row_of(&r, &r.lines[i]);
	if (ret->n_rows > 1)
		qsort(ret->rows, ret->n_rows, sizeof(*ret->rows), by_words);
	ret->as_of_us = wall_us();
	return true;
}

/* query.c - see query.h. */
#include "services/usage-tracker/query.h"

#include "common/base/clock.h"
#include "services/usage-tracker/shadows.h"

#define HOUR_US 3600000000LL

enum { BY_DAY = DIMS, BY_MOST = 16 };

static const struct { const char *name; int by; } group_names[] = {
	{ "model", DIM_MODEL }, { "key", DIM_KEY }, { "tenant", DIM_TENANT }, { "backend", DIM_BACKEND }, { "provider", DIM_PROVIDER },
	{ "task_type", DIM_TASK_TYPE }, { "day", BY_DAY }, { "dialect", DIM_DIALECT }, { "status", DIM_STATUS },
};

struct group {
	struct str *word;             /* one for each of by[] */
	struct sums sums;
};

struct report {
	struct ledger *l;
	struct arena *mem;
	int by[BY_MOST];
	size_t n_by;
	struct group **groups;
	size_t n, cap;
	uint32_t *table;              /* of group numbers + 1 */
	size_t table_cap;
	struct str tenant;            /* only its rows; empty = all */
	struct why *why;
	bool failed;                  /* *why says it */
};

/* --- groups --- */

static bool group_by_parse(const Corral__UsageQuery *q, struct report *r)
{
	if (q->n_group_by > BY_MOST)
		return err_field(r->why, ERR_INVALID, "group_by", "at most %d words to group by", BY_MOST) == ERR_OK;
	for (size_t i = 0; i < q->n_group_by; i++) {
		int by = -1;

		for (size_t k = 0; k < sizeof(group_names) / sizeof(*group_names); k++)
			if (strcmp(q->group_by[i], group_names[k].name) == 0)
				by = group_names[k].by;
		if (by < 0)
			return err_field(r->why, ERR_INVALID, "group_by", "usage cannot be grouped by '%.40s'; known: model key tenant backend provider "
					 "task_type day dialect status", q->group_by[i]) == ERR_OK;
		r->by[r->n_by++] = by;
	}
	return true;
}

static bool words_eq(const struct str *a, const struct str *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!str_eq(a[i], b[i]))
			return false;
	return true;
}

static size_t words_slot(const struct report *r, const struct str *word)
{
	uint64_t h = 0;
	size_t at;

	for (size_t i = 0; i < r->n_by; i++)
		h = str_hash(word[i], h);
	for (at = h & (r->table_cap - 1); r->table[at]; at = (at + 1) & (r->table_cap - 1))
		if (words_eq(r->groups[r->table[at] - 1]->word, word, r->n_by))
			break;
	return at;
}

static void table_grow(struct report *r)
{
	r->table_cap = r->table_cap ? r->table_cap * 2 : 64;
	r->table = arena_array(r->mem, uint32_t, r->table_cap);
	for (size_t i = 0; i < r->n; i++)
		r->table[words_slot(r, r->groups[i]->word)] = (uint32_t)i + 1;
}

static void group_free(void *group) { sums_free(&((struct group *)group)->sums); }

static void group_new(struct report *r, const struct str *word)
{
	struct group *g = arena_new_of(r->mem, struct group);

	arena_defer(r->mem, group_free, g);
	g->word = arena_array(r->mem, struct str, r->n_by + 1);
	for (size_t i = 0; i < r->n_by; i++)
		g->word[i] = arena_str(r->mem, word[i]);
	if (r->n == r->cap) {
		struct group **old = r->groups;

		r->cap = r->cap ? r->cap * 2 : 64;
		r->groups = arena_array(r->mem, struct group *, r->cap);
		if (r->n)
			memcpy(r->groups, old, r->n * sizeof(*old));
	}
	r->groups[r->n++] = g;
}

static struct group *group_of(struct report *r, const struct dim *dim, int64_t hour)
{
	struct str word[BY_MOST];
	char day[32];
	size_t at;

	for (size_t i = 0; i < r->n_by; i++) {
		if (r->by[i] == BY_DAY) {
			clock_rfc3339(hour * HOUR_US, 0, day, sizeof(day));
			word[i] = str_n(day, 10);
		} else {
			word[i] = dim->word[r->by[i]];
		}
	}
	if (r->n * 2 >= r->table_cap)
		table_grow(r);
	at = words_slot(r, word);
	if (!r->table[at]) {
		group_new(r, word);
		r->table[at] = (uint32_t)r->n;
	}
	return r->groups[r->table[at] - 1];
}

/* --- gathering --- */

static bool add_sums(void *arg, int64_t hour, int64_t dim_id, const struct sums *s)
{
	struct report *r = arg;
	const struct dim *dim = ledger_dim(r->l, dim_id, r->why);

	if (!dim)
		return !(r->failed = true);
	if (r->tenant.n && !str_eq(r->tenant, dim->word[DIM_TENANT]))
		return true;
	sums_add(&group_of(r, dim, hour)->sums, s);
	return true;
}

static bool add_row(void *arg, const struct ledger_row *row)
{
	struct report *r = arg;
	const struct dim *dim = ledger_dim(r->l, row->dim, r->why);

	if (!dim)
		return !(r->failed = true);
	if (r->tenant.n && !str_eq(r->tenant, dim->word[DIM_TENANT]))
		return true;
	ledger_row_sums(row, dim->word[DIM_STATUS], &group_of(r, dim, ledger_row_time_us(row) / HOUR_US)->sums, 1);
	return true;
}

static bool gather(struct report *r, int64_t from_us, int64_t to_us)
{
	int64_t from_hour = from_us / HOUR_US + (from_us % HOUR_US != 0), to_hour = to_us / HOUR_US;

	if (from_hour >= to_hour)
		return ledger_rows(r->l, from_us, to_us, add_row, r, r->why) && !r->failed;
	return (from_us == from_hour * HOUR_US || ledger_rows(r->l, from_us, from_hour * HOUR_US, add_row, r, r->why)) &&
	       ledger_sums(r->l, from_hour, to_hour, add_sums, r, r->why) &&
	       (to_us == to_hour * HOUR_US || ledger_rows(r->l, to_hour * HOUR_US, to_us, add_row, r, r->why)) && !r->failed;
}

/* --- answering --- */

static Corral__UsageRow *row_of(struct report *r, const struct group *g, size_t n_words)
{
	Corral__UsageRow *row = arena_alloc(r->mem, sizeof(*row));
	const struct sums *s = &g->sums;

	corral__usage_row__init(row);
	row->n_groups = n_words;
	row->groups = arena_array(r->mem, char *, n_words + 1);
	for (size_t i = 0; i < n_words; i++)
		row->groups[i] = (char *)(uintptr_t)g->word[i].p;
	row->requests = (uint64_t)s->requests;
	row->attempts = (uint64_t)s->attempts;
	row->errors = (uint64_t)s->errors;
	row->finished = (uint64_t)s->finished;
	row->prompt_tokens = (uint64_t)s->prompt_tokens;
	row->completion_tokens = (uint64_t)s->completion_tokens;
	row->cached_requests = (uint64_t)s->cached;
	row->cost_microusd = s->cost_microusd;
	row->gpu_s = (double)s->gpu_us / 1e6;
	row->energy_j = (double)s->energy_mj / 1e3;
	row->latency_p50_ms = hist_percentile(&s->latency_us, 0.50) / 1e3;
	row->latency_p95_ms = hist_percentile(&s->latency_us, 0.95) / 1e3;
	row->success_rate = s->finished > 0 ? (double)s->ok / (double)s->finished : 0;
	return row;
}

static int by_words(const void *a, const void *b)
{
	const Corral__UsageRow *x = *(Corral__UsageRow *const *)a, *y = *(Corral__UsageRow *const *)b;
	int d = 0;

	for (size_t i = 0; i < x->n_groups && d == 0; i++)
		d = strcmp(x->groups[i], y->groups[i]);
	return d;
}

static void report_fill(struct report *r, int64_t now_us, Corral__UsageReport *ret)
{
	struct group *all = arena_new_of(r->mem, struct group);

	arena_defer(r->mem, group_free, all);
	corral__usage_report__init(ret);
	ret->rows = arena_array(r->mem, Corral__UsageRow *, r->n + 1);
	for (size_t i = 0; i < r->n; i++) {
		sums_add(&all->sums, &r->groups[i]->sums);
		/* What was taken off again down to nothing is no row. */
		if (r->n_by && (r->groups[i]->sums.attempts || r->groups[i]->sums.requests))
			ret->rows[ret->n_rows++] = row_of(r, r->groups[i], r->n_by);
	}
	if (ret->n_rows > 1)
		qsort(ret->rows, ret->n_rows, sizeof(*ret->rows), by_words);
	ret->totals = row_of(r, all, 0);
	ret->as_of_us = now_us;
}

bool usage_query(struct ledger *l, const Corral__UsageQuery *q, int64_t now_us, struct arena *mem, Corral__UsageReport *ret, struct why *why)
{
	struct report r = { .l = l, .mem = mem, .tenant = str_of(q->tenant), .why = why };
	/* No end asked for: also what came in this very moment. A multiple of an hour keeps it one scan. */
	int64_t to_us = q->to_us > 0 ? q->to_us : INT64_MAX / HOUR_US * HOUR_US, from_us = q->from_us > 0 ? q->from_us : 0;

	if (!group_by_parse(q, &r))
		return false;
	if (to_us < from_us)
		return err_field(why, ERR_INVALID, "to", "the end of the time span is before its beginning") == ERR_OK;
	if (!gather(&r, from_us, to_us))
		return false;
	report_fill(&r, now_us, ret);
	return true;
}

/* --- attempts --- */

struct attempts { struct ledger *l; struct arena *mem; Corral__AttemptsReply *reply; size_t cap; bool damaged; };

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

static void attempt_place(struct attempts *a, Corral__AttemptRow *row)
{
	Corral__AttemptsReply *reply = a->reply;

	if (reply->n_attempts == a->cap) {
		Corral__AttemptRow **old = reply->attempts;

		a->cap = a->cap ? a->cap * 2 : 8;
		reply->attempts = arena_array(a->mem, Corral__AttemptRow *, a->cap);
		if (reply->n_attempts)
			memcpy(reply->attempts, old, reply->n_attempts * sizeof(*old));
	}
	reply->attempts[reply->n_attempts++] = row;
}

static bool attempt_add(void *arg, const struct ledger_row *r)
{
	struct attempts *a = arg;
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, a->mem };
	Corral__AttemptRow *row = arena_alloc(a->mem, sizeof(*row));

	corral__attempt_row__init(row);
	row->event = corral__usage_event__unpack(&alloc, r->event.n, (const uint8_t *)r->event.p);
	if (!row->event)
		return !(a->damaged = true);
	row->started_at_us = r->started_us;
	row->ended_at_us = r->ended_us;
	row->open = !(r->state & ROW_FINISHED);
	if (!row->open) {
		/* As corrected. */
		row->event->prompt_tokens = (uint64_t)r->prompt_tokens;
		row->event->completion_tokens = (uint64_t)r->completion_tokens;
		row->event->cost_microusd = r->cost_microusd;
		row->event->gpu_us = r->gpu_us;
		row->event->energy_mj = r->energy_mj;
	}
	attempt_place(a, row);
	return true;
}

bool usage_attempts(struct ledger *l, const Corral__AttemptsRequest *q, struct arena *mem, Corral__AttemptsReply *ret, struct why *why)
{
	struct attempts a = { .l = l, .mem = mem, .reply = ret };

	corral__attempts_reply__init(ret);
	if (q->request_id.len != 16)
		return err_field(why, ERR_INVALID, "request_id", "a request id has 16 bytes") == ERR_OK;
	if (!ledger_attempts(l, q->request_id.data, attempt_add, &a, why))
		return false;
	if (a.damaged)
		return err_set(why, ERR_STORE_FAILED, "an event in the ledger is damaged") == ERR_OK;
	return shadows_of(ledger_db(l), str_n((const char *)q->request_id.data, q->request_id.len), mem, ret, why);
}

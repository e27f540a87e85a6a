/* book.c - see book.h. */
#include "services/usage-tracker/book.h"

#include "services/usage-tracker/ledger_sql.h"

enum { BUCKETS = 1024, KEEP = 2048 };

struct page {
	struct page *next, *next_touched;
	int64_t hour, dim;
	struct sums sums;
	bool touched;
};

struct book {
	struct db *db;
	struct page *bucket[BUCKETS];
	struct page *touched, *last;  /* last: the one asked for before */
	size_t n;
	struct buf latency;
};

struct book *book_new(struct db *db)
{
	struct book *b = x_calloc(1, sizeof(*b));

	b->db = db;
	return b;
}

void book_free(struct book *b)
{
	if (!b)
		return;
	book_forget(b);
	buf_free(&b->latency);
	free(b);
}

void book_forget(struct book *b)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct page *p = b->bucket[i], *next; p; p = next) {
			next = p->next;
			sums_free(&p->sums);
			free(p);
		}
	memset(b->bucket, 0, sizeof(b->bucket));
	b->touched = b->last = NULL;
	b->n = 0;
}

bool book_row(const struct db_row *row, int64_t *ret_hour, int64_t *ret_dim, struct sums *s)
{
	int64_t *const field[] = { &s->attempts, &s->requests, &s->finished, &s->ok, &s->errors, &s->cached, &s->prompt_tokens,
				   &s->completion_tokens, &s->cost_microusd, &s->gpu_us, &s->energy_mj };

	*ret_hour = db_int(row, 0);
	*ret_dim = db_int(row, 1);
	for (unsigned i = 0; i < 11; i++)
		*field[i] += db_int(row, 2 + i);
	return hist_decode(&s->latency_us, db_str(row, 13));
}

static bool page_load(void *arg, const struct db_row *row)
{
	struct page *p = arg;
	int64_t hour, dim;

	return book_row(row, &hour, &dim, &p->sums);
}

static struct page *page_find(struct book *b, int64_t hour, int64_t dim, struct why *why)
{
	struct page **head = &b->bucket[(uint64_t)(hour * 31 + dim) % BUCKETS], *p;

	if (b->last && b->last->hour == hour && b->last->dim == dim)
		return b->last;
	for (p = *head; p; p = p->next)
		if (p->hour == hour && p->dim == dim)
			return b->last = p;
	p = x_calloc(1, sizeof(*p));
	p->hour = hour;
	p->dim = dim;
	if (!db_run(b->db, L_SUMS_GET, (struct db_value[]){ DB_I(hour), DB_I(dim) }, 2, page_load, p, NULL, why)) {
		sums_free(&p->sums);
		free(p);
		return NULL;
	}
	p->next = *head;
	*head = p;
	b->n++;
	return b->last = p;
}

struct sums *book_at(struct book *b, int64_t hour, int64_t dim, struct why *why)
{
	struct page *p = page_find(b, hour, dim, why);

	if (!p)
		return NULL;
	if (!p->touched) {
		p->touched = true;
		p->next_touched = b->touched;
		b->touched = p;
	}
	return &p->sums;
}

enum { PAGE_COLUMNS = 14, AT_ONCE = 64 };

static void page_params(const struct page *p, struct str latency, struct db_value to[PAGE_COLUMNS])
{
	const struct sums *s = &p->sums;
	const struct db_value all[PAGE_COLUMNS] = {
		DB_I(p->hour), DB_I(p->dim), DB_I(s->attempts), DB_I(s->requests), DB_I(s->finished), DB_I(s->ok), DB_I(s->errors), DB_I(s->cached),
		DB_I(s->prompt_tokens), DB_I(s->completion_tokens), DB_I(s->cost_microusd), DB_I(s->gpu_us), DB_I(s->energy_mj), DB_B(latency),
	};

	memcpy(to, all, sizeof(all));
}

/* Those from *p on, as many as go at once; *p = the next. */
static bool pages_write(struct book *b, struct page **p, struct why *why)
{
	struct db_value params[AT_ONCE * PAGE_COLUMNS];
	size_t ends[AT_ONCE + 1] = { 0 }, n = 0;

	buf_clear(&b->latency);
	for (struct page *x = *p; x && n < AT_ONCE; x = x->next_touched) {
		hist_encode(&x->sums.latency_us, &b->latency);
		ends[++n] = b->latency.n;
	}
	for (size_t i = 0; i < n; i++) {          /* the buffer has its place now */
		struct page *x = *p;

		page_params(x, str_n(b->latency.p + ends[i], ends[i + 1] - ends[i]), params + i * PAGE_COLUMNS);
		*p = x->next_touched;
		x->touched = false;
		x->next_touched = NULL;
	}
	return db_batch(b->db, L_SUMS_SET, params, PAGE_COLUMNS, n, NULL, why);
}

bool book_write(struct book *b, struct why *why)
{
	while (b->touched)
		if (!pages_write(b, &b->touched, why))
			return false;
	if (b->n > KEEP)
		book_forget(b);
	return true;
}

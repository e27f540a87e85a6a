/* dims.c - see dims.h. */
#include "services/usage-tracker/dims.h"

#include "services/usage-tracker/ledger_sql.h"

struct dims {
	struct db *db;
	struct arena *mem;            /* every dim and its words */
	const struct dim **by_word;   /* open addressing; cap is a power of two */
	size_t cap, n;
	const struct dim **by_id;
	const struct dim *last;       /* the one asked for before: one answer is like the next */
	int64_t id_cap;
};

struct dims *dims_new(struct db *db)
{
	struct dims *d = x_calloc(1, sizeof(*d));

	d->db = db;
	dims_forget(d);
	return d;
}

void dims_free(struct dims *d)
{
	if (!d)
		return;
	arena_free(d->mem);
	free(d->by_word);
	free(d->by_id);
	free(d);
}

void dims_forget(struct dims *d)
{
	arena_free(d->mem);
	free(d->by_word);
	free(d->by_id);
	d->mem = arena_new(0);
	d->cap = 64;
	d->by_word = x_calloc(d->cap, sizeof(*d->by_word));
	d->n = 0;
	d->by_id = NULL;
	d->last = NULL;
	d->id_cap = 0;
}

size_t dims_count(const struct dims *d) { return d->n; }

static uint64_t words_hash(const struct str word[DIMS])
{
	uint64_t h = 0;

	for (int i = 0; i < DIMS; i++)
		h = str_hash(word[i], h);
	return h;
}

static bool words_eq(const struct str a[DIMS], const struct str b[DIMS])
{
	for (int i = 0; i < DIMS; i++)
		if (!str_eq(a[i], b[i]))
			return false;
	return true;
}

/* The slot of these words, or the empty one where they belong. */
static const struct dim **slot(struct dims *d, const struct str word[DIMS])
{
	size_t at = words_hash(word) & (d->cap - 1);

	while (d->by_word[at] && !words_eq(d->by_word[at]->word, word))
		at = (at + 1) & (d->cap - 1);
	return &d->by_word[at];
}

static void grow(struct dims *d)
{
	const struct dim **old = d->by_word;
	size_t cap = d->cap;

	d->cap *= 2;
	d->by_word = x_calloc(d->cap, sizeof(*d->by_word));
	for (size_t i = 0; i < cap; i++)
		if (old[i])
			*slot(d, old[i]->word) = old[i];
	free(old);
}

static const struct dim *keep(struct dims *d, int64_t id, const struct str word[DIMS])
{
	struct dim *dim = arena_new_of(d->mem, struct dim);

	dim->id = id;
	for (int i = 0; i < DIMS; i++)
		dim->word[i] = arena_str(d->mem, word[i]);
	if (++d->n * 2 > d->cap)
		grow(d);
	*slot(d, dim->word) = dim;
	if (id >= d->id_cap) {
		int64_t cap = id * 2 + 16;

		d->by_id = x_realloc(d->by_id, (size_t)cap * sizeof(*d->by_id));
		memset(d->by_id + d->id_cap, 0, (size_t)(cap - d->id_cap) * sizeof(*d->by_id));
		d->id_cap = cap;
	}
	d->by_id[id] = dim;
	return dim;
}

static bool keep_id(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

const struct dim *dims_intern(struct dims *d, const struct str word[DIMS], struct why *why)
{
	struct db_value p[DIMS];
	int64_t id = 0;

	if (d->last && words_eq(d->last->word, word))
		return d->last;
	if (*slot(d, word))
		return d->last = *slot(d, word);
	for (int i = 0; i < DIMS; i++)
		p[i] = DB_S(word[i]);
	if (!db_run(d->db, L_DIM_FIND, p, DIMS, keep_id, &id, NULL, why) ||
	    (id == 0 && !db_run(d->db, L_DIM_ADD, p, DIMS, keep_id, &id, NULL, why)))
		return NULL;
	return keep(d, id, word);
}

struct take { struct dims *dims; int64_t id; const struct dim *dim; };

static bool take_words(void *arg, const struct db_row *row)
{
	struct take *t = arg;
	struct str word[DIMS];

	for (unsigned i = 0; i < DIMS; i++)
		word[i] = db_str(row, i);
	t->dim = keep(t->dims, t->id, word);
	return true;
}

const struct dim *dims_get(struct dims *d, int64_t id, struct why *why)
{
	struct take t = { d, id, NULL };

	if (id > 0 && id < d->id_cap && d->by_id[id])
		return d->by_id[id];
	if (db_run(d->db, L_DIM_GET, (struct db_value[]){ DB_I(id) }, 1, take_words, &t, NULL, why) && !t.dim)
		err_set(why, ERR_STORE_FAILED, "the ledger has a row of dimension %lld, which is missing", (long long)id);
	return t.dim;
}

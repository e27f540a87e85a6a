/* speeds.c - see speeds.h. */
#include "services/usage-tracker/speeds.h"

#include "services/usage-tracker/event.h"

#define DAY_US 86400000000LL

enum { SAMPLES = 1000, LOAD_MOST = 50000 };

struct sample { int64_t at_us; uint32_t tokens, generate_us, ttft_us; bool ok; };

struct pair {
	struct pair *next;
	struct str model, backend;
	uint64_t n;                   /* ever added; the last SAMPLES are in the ring */
	struct sample ring[SAMPLES];
};

struct speeds {
	struct pair *pairs;
	size_t n_pairs;
	uint64_t outcomes;
	struct arena *mem;
};

struct speeds *speeds_new(void)
{
	struct speeds *s = x_calloc(1, sizeof(*s));

	s->mem = arena_new(0);
	return s;
}

void speeds_free(struct speeds *s)
{
	if (!s)
		return;
	arena_free(s->mem);
	free(s);
}

static struct pair *pair_of(struct speeds *s, struct str model, struct str backend)
{
	struct pair *p;

	for (p = s->pairs; p; p = p->next)
		if (str_eq(p->model, model) && str_eq(p->backend, backend))
			return p;
	p = arena_new_of(s->mem, struct pair);
	p->model = arena_str(s->mem, model);
	p->backend = arena_str(s->mem, backend);
	p->next = s->pairs;
	s->pairs = p;
	s->n_pairs++;
	return p;
}

static uint32_t clamp32(int64_t v) { return v < 0 ? 0 : v > UINT32_MAX ? UINT32_MAX : (uint32_t)v; }

/* The request was at fault: what a client was told is 4xx. */
static bool was_refused(const Corral__UsageEvent *e)
{
	return str_eqz(str_of(e->error_code), err_name(ERR_BACKEND_REFUSED)) && e->http_status >= 400 && e->http_status < 500;
}

/* A cache answers without the backend, a client that leaves or asks what it cannot says nothing of it, and what was not sent never met it. */
static bool tells_of_backend(const struct dim *d, const Corral__UsageEvent *e)
{
	struct str status = d->word[DIM_STATUS];

	return d->word[DIM_BACKEND].n && !e->cached && !was_refused(e) && !str_eq(status, STR("cancelled")) && !str_eq(status, STR("not_sent"));
}

void speeds_add(void *speeds, const struct dim *d, const Corral__UsageEvent *e)
{
	struct speeds *s = speeds;
	struct pair *p;

	s->outcomes++;
	if (!tells_of_backend(d, e))
		return;
	p = pair_of(s, d->word[DIM_MODEL], d->word[DIM_BACKEND]);
	p->ring[p->n++ % SAMPLES] = (struct sample){
		.at_us = e->occurred_at_us, .tokens = clamp32((int64_t)e->completion_tokens), .generate_us = clamp32(e->latency_us - e->ttft_us),
		.ttft_us = clamp32(e->ttft_us), .ok = str_eq(d->word[DIM_STATUS], STR("ok")),
	};
}

/* --- from the ledger --- */

struct load { struct speeds *s; struct ledger *l; struct arena *mem; struct why *why; bool failed; };

static bool load_row(void *arg, const struct ledger_row *r)
{
	struct load *x = arg;
	const struct dim *d = ledger_dim(x->l, r->dim, x->why);
	Corral__UsageEvent *e;

	if (!d)
		return !(x->failed = true);
	arena_reset(x->mem);
	e = r->state & ROW_FINISHED ? event_read(x->mem, r->event) : NULL;
	if (e)
		speeds_add(x->s, d, e);
	return true;
}

static bool count_finished(void *arg, int64_t hour, int64_t dim, const struct sums *sums)
{
	*(uint64_t *)arg += (uint64_t)sums->finished;
	return true;
}

bool speeds_load(struct speeds *s, struct ledger *l, int64_t now_us, struct why *why)
{
	struct load x = { .s = s, .l = l, .mem = arena_new(0), .why = why };
	uint64_t outcomes = 0;
	bool ok = ledger_rows_newest(l, now_us - DAY_US, LOAD_MOST, load_row, &x, why) && !x.failed &&
		  ledger_sums(l, 0, INT64_MAX, count_finished, &outcomes, why);

	arena_free(x.mem);
	s->outcomes = outcomes;
	return ok;
}

/* --- the answer --- */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static Corral__SpeedRow *pair_speed(const struct pair *p, int64_t now_us, struct arena *mem)
{
	Corral__SpeedRow *m = arena_alloc(mem, sizeof(*m));
	uint64_t kept = p->n < SAMPLES ? p->n : SAMPLES, ok = 0, tokens = 0, generate_us = 0, n_ttft = 0;
	uint32_t ttft[SAMPLES];

	corral__speed_row__init(m);
	m->model = (char *)(uintptr_t)p->model.p;
	m->backend = (char *)(uintptr_t)p->backend.p;
	for (uint64_t i = 0; i < kept; i++) {
		const struct sample *x = &p->ring[i];

		if (x->at_us < now_us - DAY_US)
			continue;
		m->samples++;
		ok += x->ok;
		if (!x->ok)
			continue;
		tokens += x->tokens;
		generate_us += x->generate_us;
		if (x->ttft_us)
			ttft[n_ttft++] = x->ttft_us;
	}
	qsort(ttft, n_ttft, sizeof(*ttft), by_value);
	m->tokens_per_s = generate_us ? (double)tokens * 1e6 / (double)generate_us : 0;
	m->ttft_ms = n_ttft ? ttft[n_ttft / 2] / 1e3 : 0;
	m->success_rate = m->samples ? (double)ok / m->samples : 0;
	return m;
}

void speeds_reply(const struct speeds *s, int64_t now_us, struct arena *mem, Corral__SpeedsReply *ret)
{
	corral__speeds_reply__init(ret);
	ret->rows = arena_array(mem, Corral__SpeedRow *, s->n_pairs + 1);
	for (const struct pair *p = s->pairs; p; p = p->next) {
		Corral__SpeedRow *m = pair_speed(p, now_us, mem);

		if (m->samples)
			ret->rows[ret->n_rows++] = m;
	}
	ret->outcomes = s->outcomes;
	ret->as_of_us = now_us;
}

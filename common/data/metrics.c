/* metrics.c - see metrics.h.
 *
 * registry ─▶ family (one metric_def) ─▶ series (one set of label values), found by a hash chain, kept in order of birth.
 * A series never goes away before its registry, so that a pointer to one is good without a lock. */
#include "common/data/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "common/base/arena.h"

enum {
	CHAINS = 64,
	MAX_SERIES = 2000,
	MAX_LABELS = 6,
	MAX_VALUE_BYTES = 200
};

struct series {
	const struct metric_def *def;
	struct series *chain;
	char *labels;                     /* as printed: a="x",b="y" */
	_Atomic uint64_t whole;           /* counters: what was added in integers */
	_Atomic uint64_t bits;            /* a double: the rest of a counter, a gauge, a histogram's sum */
	unsigned n_bounds;
	_Atomic uint64_t counts[];        /* histograms: per bucket, not cumulative; the last is +Inf */
};

struct family {
	struct series *chains[CHAINS];
	struct series **all;
	unsigned n, cap;
	_Atomic uint64_t folded;          /* look-ups that were answered with "other" */
};

struct metrics {
	pthread_mutex_t lock;             /* guards the families, not the values */
	const struct metric_def *defs;
	unsigned n;
	struct family *families;
};

const double metric_seconds[] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 0 };
const double metric_tokens[] = { 1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 0 };

struct metrics *metrics_new(const struct metric_def *defs, unsigned n)
{
	struct metrics *m = x_calloc(1, sizeof(*m));

	pthread_mutex_init(&m->lock, NULL);
	m->defs = defs;
	m->n = n;
	m->families = x_calloc(n, sizeof(*m->families));
	for (unsigned i = 0; i < n; i++)      /* no labels: there from the first scrape on, as 0 */
		if (!defs[i].labels || !defs[i].labels[0])
			metrics_series_v(m, i, NULL);
	return m;
}

void metrics_free(struct metrics *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->n; i++) {
		for (unsigned k = 0; k < m->families[i].n; k++) {
			free(m->families[i].all[k]->labels);
			free(m->families[i].all[k]);
		}
		free(m->families[i].all);
	}
	free(m->families);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* --- label sets --- */

static unsigned label_names(const struct metric_def *def, struct str *ret)
{
	struct str rest = str_of(def->labels), part;
	unsigned n = 0;

	while (n < MAX_LABELS && rest.n > 0 && str_split(&rest, ',', &part))
		ret[n++] = str_trim(part);
	return n;
}

/* Escapes for the text format; bytes that are not UTF-8 would break the whole page. */
static void add_escaped(struct buf *b, struct str s, bool quotes)
{
	bool valid;

	if (s.n > MAX_VALUE_BYTES && quotes) {
		s.n = MAX_VALUE_BYTES;
		while (s.n > 0 && ((unsigned char)s.p[s.n] & 0xc0) == 0x80)
			s.n--;
	}
	valid = str_utf8_valid(s);
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (c == '\\' || (c == '"' && quotes))
			buf_printf(b, "\\%c", c);
		else if (c == '\n')
			buf_addz(b, "\\n");
		else
			buf_char(b, !valid && (unsigned char)c >= 0x80 ? '?' : c);
	}
}

static void print_labels(struct buf *b, const struct metric_def *def, const struct str *values)
{
	struct str names[MAX_LABELS];
	unsigned n = label_names(def, names);

	for (unsigned i = 0; i < n; i++) {
		buf_printf(b, "%s" STR_FMT "=\"", i ? "," : "", STR_ARG(names[i]));
		add_escaped(b, values[i], true);
		buf_char(b, '"');
	}
}

static struct series *find(const struct family *f, const struct str labels, unsigned chain)
{
	struct series *s;

	for (s = f->chains[chain]; s; s = s->chain)
		if (str_eqz(labels, s->labels))
			return s;
	return NULL;
}

static struct series *add(struct family *f, const struct metric_def *def, struct buf *labels, unsigned chain)
{
	const double *bounds = def->buckets ? def->buckets : metric_seconds;
	unsigned n_bounds = 0;
	struct series *s;

	if (def->kind == METRIC_HISTOGRAM)
		while (bounds[n_bounds] != 0)
			n_bounds++;
	s = x_calloc(1, sizeof(*s) + (n_bounds + 1) * sizeof(s->counts[0]));
	s->def = def;
	s->n_bounds = n_bounds;
	s->labels = x_strdup(buf_z(labels));
	s->chain = f->chains[chain];
	f->chains[chain] = s;
	if (f->n == f->cap) {
		f->cap = f->cap ? f->cap * 2 : 4;
		f->all = x_realloc(f->all, f->cap * sizeof(struct series *));
	}
	f->all[f->n++] = s;
	return s;
}

static struct series *find_or_add(struct metrics *m, unsigned index, const struct str *values, bool fold)
{
	static const struct str other[MAX_LABELS] = { STR_INIT("other"), STR_INIT("other"), STR_INIT("other"),
						      STR_INIT("other"), STR_INIT("other"), STR_INIT("other") };
	struct family *f = &m->families[index];
	struct buf labels = { 0 };
	struct series *s;
	unsigned chain;

	print_labels(&labels, &m->defs[index], values);
	chain = (unsigned)(str_hash(buf_as_str(&labels), 0) % CHAINS);
	s = find(f, buf_as_str(&labels), chain);
	if (!s && fold && f->n >= MAX_SERIES) {
		f->folded++;
		s = find_or_add(m, index, other, false);
	}
	if (!s)
		s = add(f, &m->defs[index], &labels, chain);
	buf_free(&labels);
	return s;
}

struct series *metrics_series_v(struct metrics *m, unsigned index, const struct str *values)
{
	struct series *s;

	pthread_mutex_lock(&m->lock);
	s = find_or_add(m, index, values, true);
	pthread_mutex_unlock(&m->lock);
	return s;
}

struct series *metrics_series(struct metrics *m, unsigned index, ...)
{
	struct str names[MAX_LABELS], values[MAX_LABELS];
	unsigned n = label_names(&m->defs[index], names);
	va_list ap;

	va_start(ap, index);
	for (unsigned i = 0; i < n; i++)
		values[i] = str_of(va_arg(ap, const char *));
	va_end(ap);
	return metrics_series_v(m, index, values);
}

/* --- values --- */

static uint64_t to_bits(double d)
{
	uint64_t u;

	memcpy(&u, &d, sizeof(u));
	return u;
}

static double from_bits(uint64_t u)
{
	double d;

	memcpy(&d, &u, sizeof(d));
	return d;
}

static void add_double(_Atomic uint64_t *at, double v)
{
	uint64_t old = atomic_load_explicit(at, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(at, &old, to_bits(from_bits(old) + v), memory_order_relaxed, memory_order_relaxed))
		;
}

void series_add(struct series *s, double v)
{
	if (s->def->kind == METRIC_GAUGE) {
		add_double(&s->bits, v);
		return;
	}
	if (!(v > 0))                     /* a counter never goes back; NaN would stay for ever */
		return;
	if (v < 1e15 && v == (double)(uint64_t)v)
		atomic_fetch_add_explicit(&s->whole, (uint64_t)v, memory_order_relaxed);
	else
		add_double(&s->bits, v);
}

void series_inc(struct series *s)
{
	if (s->def->kind == METRIC_GAUGE)
		add_double(&s->bits, 1);
	else
		atomic_fetch_add_explicit(&s->whole, 1, memory_order_relaxed);
}

void series_set(struct series *s, double v) { atomic_store_explicit(&s->bits, to_bits(v), memory_order_relaxed); }

void series_observe(struct series *s, double v)
{
	const double *bounds = s->def->buckets ? s->def->buckets : metric_seconds;
	unsigned i = 0;

	if (isnan(v))
		return;
	if (v < 0)                        /* a clock that stepped; the sum must not go down */
		v = 0;
	while (i < s->n_bounds && v > bounds[i])
		i++;
	atomic_fetch_add_explicit(&s->counts[i], 1, memory_order_relaxed);
	add_double(&s->bits, v);
}

static uint64_t count_of(const struct series *s)
{
	uint64_t n = 0;

	for (unsigned i = 0; i <= s->n_bounds; i++)
		n += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
	return n;
}

double series_get(const struct series *s)
{
	if (s->def->kind == METRIC_HISTOGRAM)
		return (double)count_of(s);
	return (double)atomic_load_explicit(&s->whole, memory_order_relaxed) + from_bits(atomic_load_explicit(&s->bits, memory_order_relaxed));
}

/* --- the page --- */

/* The shortest text that reads back as the same number. */
static void add_number(struct buf *b, double v)
{
	char out[40];

	if (isnan(v)) {
		buf_addz(b, "NaN");
		return;
	}
	if (isinf(v)) {
		buf_addz(b, v > 0 ? "+Inf" : "-Inf");
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(out, sizeof(out), "%.*g", digits, v);
		if (strtod(out, NULL) == v)
			break;
	}
	buf_addz(b, out);
}

const char *metric_prefix(const struct metric_def *def) { return strncmp(def->name, "gen_ai_", 7) == 0 ? "" : "corral_"; }

static void add_name(struct buf *b, const struct metric_def *def, const char *suffix, const char *service, const char *labels, const char *le)
{
	const char *sep = "";

	buf_printf(b, "%s%s%s", metric_prefix(def), def->name, suffix);
	if (!service && !labels[0] && !le)
		return;
	buf_char(b, '{');
	if (service) {
		buf_printf(b, "service=\"%s\"", service);
		sep = ",";
	}
	if (labels[0]) {
		buf_printf(b, "%s%s", sep, labels);
		sep = ",";
	}
	if (le)
		buf_printf(b, "%sle=\"%s\"", sep, le);
	buf_char(b, '}');
}

static void add_sample(struct buf *b, const struct series *s, const char *suffix, const char *service, const char *le, double v)
{
	add_name(b, s->def, suffix, service, s->labels, le);
	buf_char(b, ' ');
	add_number(b, v);
	buf_char(b, '\n');
}

/* The count is what the buckets add up to, so that +Inf and _count agree whatever happens meanwhile. */
static void print_histogram(struct buf *b, const struct series *s, const char *service)
{
	const double *bounds = s->def->buckets ? s->def->buckets : metric_seconds;
	double sum = from_bits(atomic_load_explicit(&s->bits, memory_order_relaxed));
	uint64_t n = 0;

	for (unsigned i = 0; i < s->n_bounds; i++) {
		struct buf le = { 0 };

		n += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
		add_number(&le, bounds[i]);
		add_sample(b, s, "_bucket", service, buf_z(&le), (double)n);
		buf_free(&le);
	}
	n += atomic_load_explicit(&s->counts[s->n_bounds], memory_order_relaxed);
	add_sample(b, s, "_bucket", service, "+Inf", (double)n);
	add_sample(b, s, "_sum", service, NULL, sum);
	add_sample(b, s, "_count", service, NULL, (double)n);
}

static void print_series(struct buf *b, struct metrics *m, unsigned index, const char *service)
{
	const struct family *f = &m->families[index];

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < f->n; i++)
		if (m->defs[index].kind == METRIC_HISTOGRAM)
			print_histogram(b, f->all[i], service);
		else
			add_sample(b, f->all[i], "", service, NULL, series_get(f->all[i]));
	pthread_mutex_unlock(&m->lock);
}

static bool same_metric(const struct metric_def *a, const struct metric_def *b)
{
	return strcmp(a->name, b->name) == 0 && a->kind == b->kind;
}

static bool printed_before(struct metrics *const *ms, unsigned registry, unsigned index)
{
	const char *name = ms[registry]->defs[index].name;

	for (unsigned r = 0; r <= registry; r++)
		for (unsigned i = 0; i < (r == registry ? index : ms[r]->n); i++)
			if (strcmp(ms[r]->defs[i].name, name) == 0)
				return true;
	return false;
}

void metrics_print_head(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP %s ", name);
	add_escaped(b, str_of(help), false);
	buf_printf(b, "\n# TYPE %s %s\n", name, type);
}

const char *metric_type(const struct metric_def *def)
{
	static const char *const types[] = { "counter", "gauge", "histogram" };

	return types[def->kind];
}

static void print_family(struct buf *b, struct metrics *const *ms, const char *const *names, unsigned n, const struct metric_def *def)
{
	struct buf full = { 0 };

	buf_printf(&full, "%s%s", metric_prefix(def), def->name);
	metrics_print_head(b, buf_z(&full), metric_type(def), def->help);
	buf_free(&full);
	for (unsigned r = 0; r < n; r++)
		for (unsigned i = 0; i < ms[r]->n; i++)
			if (same_metric(&ms[r]->defs[i], def))
				print_series(b, ms[r], i, names ? names[r] : NULL);
}

static void print_folded(struct buf *b, struct metrics *const *ms, const char *const *names, unsigned n)
{
	static const struct metric_def def = { .kind = METRIC_COUNTER, .name = "metric_series_folded_total", .labels = "metric",
		.help = "Look-ups answered with label value \"other\", because the metric has 2,000 series." };
	bool headed = false;

	for (unsigned r = 0; r < n; r++)
		for (unsigned i = 0; i < ms[r]->n; i++) {
			struct buf labels = { 0 };

			if (ms[r]->families[i].folded == 0)
				continue;
			if (!headed)
				metrics_print_head(b, "corral_metric_series_folded_total", "counter", def.help);
			headed = true;
			buf_printf(&labels, "metric=\"%s%s\"", metric_prefix(&ms[r]->defs[i]), ms[r]->defs[i].name);
			add_name(b, &def, "", names ? names[r] : NULL, buf_z(&labels), NULL);
			buf_printf(b, " %llu\n", (unsigned long long)ms[r]->families[i].folded);
			buf_free(&labels);
		}
}

void metrics_print(struct buf *b, struct metrics *const *ms, const char *const *names, unsigned n)
{
	for (unsigned r = 0; r < n; r++)
		for (unsigned i = 0; i < ms[r]->n; i++)
			if (!printed_before(ms, r, i))
				print_family(b, ms, names, n, &ms[r]->defs[i]);
	print_folded(b, ms, names, n);
}

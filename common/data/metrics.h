/* metrics.h - counters, gauges and histograms, declared in a constant table, printed in the Prometheus text format.
 *
 * A series (one metric with one set of label values) is looked up once under a lock and then updated with relaxed atomics
 * from any thread. Names get the prefix "corral_"; seconds and bytes; labels from small closed sets (a metric that grows past
 * 2,000 series folds further ones into label value "other" and counts that). */
#ifndef CORRAL_DATA_METRICS_H
#define CORRAL_DATA_METRICS_H
#include <stdint.h>

#include "common/base/buf.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_def {
	enum metric_kind kind;
	const char *name;             /* without prefix: "requests_total", "first_token_seconds"; "gen_ai_…" names get no prefix */
	const char *help;
	const char *labels;           /* "backend,reason", "" for none; 6 at most */
	const double *buckets;        /* histograms: upper bounds, ascending, ended by 0; NULL = metric_seconds */
};

extern const double metric_seconds[];     /* 0.001 … 120 */
extern const double metric_tokens[];      /* 1, 4, 16 … 1048576 */

struct metrics;
struct series;

struct metrics *metrics_new(const struct metric_def *defs, unsigned n);   /* defs stay valid */
void metrics_free(struct metrics *);
/* values: as many as the metric has labels, copied. Never NULL. */
struct series *metrics_series(struct metrics *, unsigned index, ...);            /* const char * values */
struct series *metrics_series_v(struct metrics *, unsigned index, const struct str *values);
void series_add(struct series *, double);         /* counters (>= 0) and gauges */
void series_inc(struct series *);
void series_set(struct series *, double);         /* gauges */
void series_observe(struct series *, double);     /* histograms */
double series_get(const struct series *);         /* counters, gauges; histograms: count */

/* Appends the text exposition of several registries as one valid page: the same metric name from two registries is merged
 * under one HELP/TYPE, with a label service="NAME" on every series when names[] is given. */
void metrics_print(struct buf *, struct metrics *const *, const char *const *names, unsigned n);

/* For pages made of more than registries, and for --dump=metrics. */
void metrics_print_head(struct buf *, const char *name, const char *type, const char *help);      /* # HELP, # TYPE */
const char *metric_prefix(const struct metric_def *);    /* "corral_" or "" */
const char *metric_type(const struct metric_def *);      /* "counter" */
#endif

/* metrics_test.c - pages as Prometheus reads them; promtool, when it is there, has the last word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <sys/wait.h>

#include "common/data/metrics.h"

enum { REQUESTS, INFLIGHT, LATENCY, TOKENS, N_DEFS };

static const double few[] = { 0.1, 1, 0 };
static const struct metric_def defs[N_DEFS] = {
	[REQUESTS] = { METRIC_COUNTER, "requests_total", "Requests by route and code.", "route,code", NULL },
	[INFLIGHT] = { METRIC_GAUGE, "requests_in_flight", "Requests being answered.", "", NULL },
	[LATENCY] = { METRIC_HISTOGRAM, "request_seconds", "Time to the last byte.\nWith a \\ in it.", "route", few },
	[TOKENS] = { METRIC_HISTOGRAM, "gen_ai_client_token_usage", "Tokens used.", "", metric_tokens },
};

static const char *page(struct metrics *const *ms, const char *const *names, unsigned n)
{
	static struct buf b;

	buf_clear(&b);
	metrics_print(&b, ms, names, n);
	return buf_z(&b);
}

static void counts_and_prints(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	struct series *s = metrics_series(m, REQUESTS, "chat", "200");
	const char *p;

	assert_ptr_equal(s, metrics_series(m, REQUESTS, "chat", "200"));
	assert_ptr_not_equal(s, metrics_series(m, REQUESTS, "chat", "500"));
	series_inc(s);
	series_add(s, 2);
	series_add(s, 0.5);
	series_add(s, -7);
	series_add(s, NAN);
	series_set(metrics_series(m, INFLIGHT), 7);
	series_add(metrics_series(m, INFLIGHT), -2.25);
	assert_true(series_get(s) == 3.5);
	p = page(&m, NULL, 1);
	assert_non_null(strstr(p, "# HELP corral_requests_total Requests by route and code.\n# TYPE corral_requests_total counter\n"
				  "corral_requests_total{route=\"chat\",code=\"200\"} 3.5\ncorral_requests_total{route=\"chat\",code=\"500\"} 0\n"));
	assert_non_null(strstr(p, "# TYPE corral_requests_in_flight gauge\ncorral_requests_in_flight 4.75\n"));
	metrics_free(m);
	metrics_free(NULL);
}

static void buckets_are_cumulative(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	struct series *s = metrics_series(m, LATENCY, "chat");
	const char *p;

	series_observe(s, 0.1);           /* bounds are inclusive */
	series_observe(s, 0.5);
	series_observe(s, 7);
	series_observe(s, -3);
	series_observe(s, NAN);
	p = page(&m, NULL, 1);
	assert_non_null(strstr(p, "# HELP corral_request_seconds Time to the last byte.\\nWith a \\\\ in it.\n"));
	assert_non_null(strstr(p, "corral_request_seconds_bucket{route=\"chat\",le=\"0.1\"} 2\n"
				  "corral_request_seconds_bucket{route=\"chat\",le=\"1\"} 3\n"
				  "corral_request_seconds_bucket{route=\"chat\",le=\"+Inf\"} 4\n"
				  "corral_request_seconds_sum{route=\"chat\"} 7.6\n"
				  "corral_request_seconds_count{route=\"chat\"} 4\n"));
	assert_non_null(strstr(p, "gen_ai_client_token_usage_bucket{le=\"1048576\"} 0\n"));
	assert_null(strstr(p, "corral_gen_ai"));
	assert_true(series_get(s) == 4);
	metrics_free(m);
}

static void escapes_label_values(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	static char big[600];

	memset(big, 'x', sizeof(big) - 1);
	metrics_series(m, REQUESTS, "a\"b\\c\nd", "\xff\xc3");
	metrics_series(m, REQUESTS, big, "\xc3\xbc");
	assert_non_null(strstr(page(&m, NULL, 1), "{route=\"a\\\"b\\\\c\\nd\",code=\"??\"} 0\n"));
	assert_non_null(strstr(page(&m, NULL, 1), "x\",code=\"\xc3\xbc\"} 0\n"));
	big[201] = '\0';
	assert_null(strstr(page(&m, NULL, 1), big));
	metrics_free(m);
}

static void folds_what_grows_too_far(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	char v[16];

	for (int i = 0; i < 2100; i++) {
		snprintf(v, sizeof(v), "r%d", i);
		series_inc(metrics_series(m, REQUESTS, v, "200"));
	}
	series_inc(metrics_series(m, REQUESTS, "r1999", "200"));
	assert_non_null(strstr(page(&m, NULL, 1), "corral_requests_total{route=\"other\",code=\"other\"} 100\n"));
	assert_non_null(strstr(page(&m, NULL, 1), "corral_requests_total{route=\"r1999\",code=\"200\"} 2\n"));
	assert_non_null(strstr(page(&m, NULL, 1), "\ncorral_metric_series_folded_total{metric=\"corral_requests_total\"} 100\n"));
	metrics_free(m);
}

static void prints_large_numbers_whole(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	struct series *s = metrics_series(m, REQUESTS, "a", "b"), *g = metrics_series(m, INFLIGHT);

	series_add(s, 123456789012.0);
	series_set(g, 0.1 + 0.2);
	assert_non_null(strstr(page(&m, NULL, 1), "} 123456789012\n"));
	assert_non_null(strstr(page(&m, NULL, 1), "in_flight 0.30000000000000004\n"));
	series_set(g, INFINITY);
	assert_non_null(strstr(page(&m, NULL, 1), "in_flight +Inf\n"));
	metrics_free(m);
}

static void merges_registries(void **state)
{
	struct metrics *m[2] = { metrics_new(defs, N_DEFS), metrics_new(defs, 2) };
	static const char *const names[] = { "gateway", "ledger" };
	const char *p, *first;

	series_inc(metrics_series(m[0], REQUESTS, "a", "1"));
	series_inc(metrics_series(m[1], REQUESTS, "a", "1"));
	p = page(m, names, 2);
	first = strstr(p, "# TYPE corral_requests_total counter\n");
	assert_non_null(strstr(p, "corral_requests_total{service=\"gateway\",route=\"a\",code=\"1\"} 1\n"
				  "corral_requests_total{service=\"ledger\",route=\"a\",code=\"1\"} 1\n"));
	assert_non_null(strstr(p, "corral_requests_in_flight{service=\"ledger\"} 0\n"));
	assert_null(strstr(first + 1, "# TYPE corral_requests_total"));
	metrics_free(m[0]);
	metrics_free(m[1]);
}

static void promtool_accepts_it(void **state)
{
	struct metrics *m[2] = { metrics_new(defs, N_DEFS), metrics_new(defs, N_DEFS) };
	static const char *const names[] = { "gateway", "ledger" };
	char v[16];
	FILE *out;
	int rc;

	if (system("command -v promtool >/dev/null 2>&1") != 0)
		skip();
	for (int i = 0; i < 2100; i++) {
		snprintf(v, sizeof(v), "\"\\\n%d", i);
		series_add(metrics_series(m[i & 1], REQUESTS, v, "\xff"), 1.5);
		series_observe(metrics_series(m[i & 1], LATENCY, v), i / 1000.0);
	}
	out = popen("promtool check metrics", "w");
	fputs(page(m, names, 2), out);
	rc = pclose(out);
	assert_true(WIFEXITED(rc));
	assert_int_equal(WEXITSTATUS(rc), 0);
	metrics_free(m[0]);
	metrics_free(m[1]);
}

static void *work(void *arg)
{
	struct metrics *m = arg;

	for (int i = 0; i < 5000; i++) {
		series_inc(metrics_series(m, REQUESTS, i & 1 ? "a" : "b", "200"));
		series_add(metrics_series(m, INFLIGHT), 1);
		series_observe(metrics_series(m, LATENCY, "x"), 0.5);
	}
	return NULL;
}

static void threads_lose_nothing(void **state)
{
	struct metrics *m = metrics_new(defs, N_DEFS);
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, work, m);
	for (int i = 0; i < 50; i++)
		assert_non_null(page(&m, NULL, 1));
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_true(series_get(metrics_series(m, REQUESTS, "a", "200")) == 10000);
	assert_true(series_get(metrics_series(m, INFLIGHT)) == 20000);
	assert_non_null(strstr(page(&m, NULL, 1), "corral_request_seconds_sum{route=\"x\"} 10000\n"));
	metrics_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_and_prints), cmocka_unit_test(buckets_are_cumulative), cmocka_unit_test(escapes_label_values),
		cmocka_unit_test(folds_what_grows_too_far), cmocka_unit_test(prints_large_numbers_whole), cmocka_unit_test(merges_registries),
		cmocka_unit_test(promtool_accepts_it), cmocka_unit_test(threads_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

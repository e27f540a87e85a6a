/* herald_test.c - events come into their spool; one that is too large stops no other, and what fails is not tried again at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/loop.h"
#include "common/store/herald.h"
#include "common/store/spool.h"

enum { PIECE = 100 << 10, SPOOL_BYTES = 64 << 20, TOO_LARGE = 2, REST_US = 1050000 };

static const struct metric_def metric_defs[] = { HERALD_METRICS(0) };

struct fixture {
	char dir[64], spool[128];
	struct metrics *metrics;
	struct loop *loop;
	struct bus_config bus;
	struct herald *h;
	char *piece;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void open_it(struct fixture *f, const struct bus_config *bus)
{
	const struct herald_opts o = { .root = f->dir, .service = "test", .name = "events", .topic = "events.v1", .bus = bus, .metrics = f->metrics };

	herald_free(f->h);
	f->h = herald_new(f->loop, &o);
}

static int setup(void **state)
{
	struct fixture *f = *state = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/herald-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->spool, sizeof(f->spool), "%s/events-0", f->dir);
	f->metrics = metrics_new(metric_defs, HERALD_METRIC_COUNT);
	f->loop = loop_new();
	f->piece = x_calloc(1, PIECE);
	/* where nobody is */
	f->bus = (struct bus_config){ .bus = "kafka:127.0.0.1:9", .bus_prefix = "", .bus_sasl_mechanism = "none", .bus_user = "", .bus_password = "",
				      .bus_tls_ca = "", .bus_tls_cert = "", .bus_tls_key = "" };
	open_it(f, NULL);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	herald_free(f->h);
	loop_free(f->loop);
	metrics_free(f->metrics);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f->piece);
	free(f);
	return 0;
}

static size_t events(const struct fixture *f)
{
	struct why why;
	struct spool_reader *r = spool_reader_open(f->spool, 0, &why);
	struct str payload;
	uint64_t at, next;
	uint8_t type;
	size_t n = 0;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &at, &next, &why) > 0)
		n++;
	spool_reader_close(r);
	return n;
}

static void one_that_is_too_large_is_passed_over(void **state)
{
	enum { LARGE = 300 << 10 };
	struct fixture *f = *state;
	char *large = x_calloc(1, LARGE);

	assert_true(herald_say(f->h, STR("one")));
	assert_true(herald_say(f->h, str_n(large, LARGE)));
	assert_true(herald_say(f->h, STR("two")));
	free(large);
	assert_int_equal(events(f), 2);
	assert_int_equal((int)series_get(metrics_series(f->metrics, TOO_LARGE, "events.v1")), 1);
}

/* Until it cannot be written. */
static void fill(struct fixture *f)
{
	int i = 0;

	while (i <= SPOOL_BYTES / PIECE && herald_say(f->h, str_n(f->piece, PIECE)))
		i++;
	assert_in_range(i, 1, SPOOL_BYTES / PIECE);
}

static unsigned lines(const char *path, const char *with)
{
	FILE *in = fopen(path, "r");
	char line[2000];
	unsigned n = 0;

	assert_non_null(in);
	while (fgets(line, sizeof(line), in))
		n += strstr(line, with) != NULL;
	fclose(in);
	return n;
}

/* What is logged from here on. */
static int log_to(const char *path)
{
	int was = dup(STDERR_FILENO);

	assert_non_null(freopen(path, "w", stderr));
	log_init(LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
	return was;
}

static void log_back(int was)
{
	fflush(stderr);
	assert_true(dup2(was, STDERR_FILENO) >= 0);
	close(was);
	log_init(LOG_LEVEL_ERROR + 1, LOG_FORMAT_TEXT);
}

static void a_full_spool_is_let_rest_and_told_of_once(void **state)
{
	struct fixture *f = *state;
	char path[100];
	int was;

	snprintf(path, sizeof(path), "%s/log", f->dir);
	was = log_to(path);
	fill(f);
	assert_false(herald_open(f->h));
	herald_tick(f->h);                        /* there is room again */
	assert_false(herald_say(f->h, STR("too early")));
	usleep(REST_US);
	assert_true(herald_say(f->h, STR("again")));
	fill(f);
	log_back(was);
	assert_int_equal(lines(path, "events wait"), 1);
}

static unsigned opened(const struct fixture *f)
{
	uint64_t epoch = 0, origin;
	struct why why;

	assert_true(spool_identity(f->spool, &epoch, &origin, &why));
	return (unsigned)epoch;
}

/* Each try makes a spool's thread and syncs its epoch. */
static void an_open_that_fails_is_let_rest(void **state)
{
	struct fixture *f = *state;
	unsigned first;

	f->bus.bus_tls_ca = "/nowhere/ca.pem";
	f->bus.bus_tls = true;
	open_it(f, &f->bus);
	assert_false(herald_open(f->h));
	first = opened(f);
	for (int i = 0; i < 20; i++)
		assert_false(herald_open(f->h));
	assert_int_equal(opened(f), first);
	usleep(REST_US);
	assert_false(herald_open(f->h));
	assert_int_equal(opened(f), first + 1);
	usleep(REST_US);                          /* the second rest is longer */
	assert_false(herald_open(f->h));
	assert_int_equal(opened(f), first + 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(one_that_is_too_large_is_passed_over), T(a_full_spool_is_let_rest_and_told_of_once),
					  T(an_open_that_fails_is_let_rest) };

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

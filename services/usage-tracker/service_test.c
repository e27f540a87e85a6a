/* service_test.c - the whole path: a spool, its shipper, the program in a child, kill -9 of it, and its answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/store/ship.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/usage-tracker/service.h"
#include "usage.pb-c.h"

/* nng 1.5.2 does not free a request that a killed peer had not taken off the wire: a few hundred bytes a kill, in its own hands. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:request_pack\n"; }

struct world {
	char dir[64], spool_dir[96];
	pid_t child;
	struct loop *loop;
	struct rpc_client *client;
	struct spool *spool;
	struct shipper *shipper;
	uint64_t pairs;
	/* the answer looked for */
	bool asked, answered;
	uint64_t attempts, tokens;
	struct why why;
	struct loop_timer timer;
	int64_t deadline_us;
};

static const char *const url = "tcp://127.0.0.1:8340";

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void program_start(struct world *w)
{
	char state[128], rpc[64];
	char *argv[] = { (char *)"usage-tracker", state, rpc, (char *)"--admin-listen=127.0.0.1:8341", (char *)"--log-level=error", NULL };

	snprintf(state, sizeof(state), "--state-dir=%s/state", w->dir);
	snprintf(rpc, sizeof(rpc), "--rpc-listen=%s", url);
	w->child = fork();
	if (w->child == 0)
		_exit(svc_main(&usage_tracker_service, 5, argv));
}

static void program_end(struct world *w, int signo)
{
	struct rusage used;
	int status;

	kill(w->child, signo);
	wait4(w->child, &status, 0, &used);
	if (signo == SIGTERM)
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	if (signo == SIGTERM && w->pairs)
		print_message("%llu START+FINAL pairs over RPC: %.2f us of the program's CPU each, its start on 30,000 rows included\n", (unsigned long long)w->pairs,
			      ((double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec)) /
				      (double)w->pairs);
	w->child = 0;
}

static int setup(void **state)
{
	struct world *w = x_calloc(1, sizeof(*w));

	snprintf(w->dir, sizeof(w->dir), "/tmp/usage-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->spool_dir, sizeof(w->spool_dir), "%s/spool", w->dir);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	if (w->child)
		program_end(w, SIGKILL);
	shipper_free(w->shipper);
	rpc_client_free(w->client);
	loop_free(w->loop);
	spool_close(w->spool);
	nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w);
	return 0;
}

static void acked(void *arg, uint64_t position) { spool_release(((struct world *)arg)->spool, position); }

static void ends_meet(struct world *w)
{
	struct ship_opts o = { .dir = w->spool_dir, .topic = "usage.v1", .source = "test/0", .type_min = 1, .type_max = 3, .every_ms = 10 };

	w->loop = loop_new();
	w->client = rpc_client_new(w->loop, url);
	rpc_deadline(w->client, 1000);
	w->spool = spool_open(w->spool_dir, NULL, NULL);
	assert_non_null(w->spool);
	w->shipper = shipper_new(w->loop, w->client, &o, acked, w);
}

static void fact_write(struct world *w, struct uuid id, Corral__UsageKind kind)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t *p;
	size_t n;

	e.kind = kind;
	e.seq = kind;
	e.request_id = (ProtobufCBinaryData){ 16, id.b };
	e.attempt = 1;
	e.occurred_at_us = wall_us();
	e.tenant = (char *)"team";
	e.model = (char *)"alpha";
	e.backend = (char *)"gpu1";
	e.status = (char *)"ok";
	e.prompt_tokens = 7;
	e.latency_us = 1000;
	n = corral__usage_event__get_packed_size(&e);
	p = spool_reserve(w->spool, (uint32_t)n, NULL);
	assert_non_null(p);
	corral__usage_event__pack(&e, p);
	assert_true(spool_commit(w->spool, (uint8_t)(kind + 1), (uint32_t)n) >= 0);
}

static void pairs_write(struct world *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++, w->pairs++) {
		struct uuid id = uuid_v7(wall_us());

		fact_write(w, id, CORRAL__USAGE_KIND__USAGE_START);
		fact_write(w, id, CORRAL__USAGE_KIND__USAGE_FINAL);
	}
}

static void on_report(const Corral__UsageReport *r, void *arg)
{
	struct world *w = arg;

	w->asked = false;
	w->answered = r != NULL;
	if (r) {
		w->attempts = r->totals->attempts;
		w->tokens = r->totals->prompt_tokens;
	} else {
		w->why = *rpc_error(w->client);
	}
}

static void look(struct loop_timer *t)
{
	struct world *w = list_entry(t, struct world, timer);
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;

	if ((w->answered && w->attempts == w->pairs && !w->asked) || mono_us() > w->deadline_us) {
		if (!w->asked) {
			loop_stop(w->loop);
			return;
		}
	} else if (!w->asked) {
		w->asked = true;
		corral__usage_tracker__query(rpc_stub(w->client, &corral__usage_tracker__descriptor), &q, on_report, w);
	}
	loop_timer_set(w->loop, t, 5000, look);
}

/* Runs until the ledger says what was written. */
static void agrees(struct world *w, int64_t ms)
{
	w->deadline_us = mono_us() + ms * 1000;
	w->answered = false;
	loop_timer_set(w->loop, &w->timer, 0, look);
	loop_run(w->loop);
	if (!w->answered)
		fail_msg("no answer: %s", w->why.text);
	assert_int_equal(w->attempts, w->pairs);
	assert_int_equal(w->tokens, w->pairs * 7);
}

static void run_ms(struct world *w, int64_t ms)
{
	w->pairs++;                   /* never agrees */
	w->deadline_us = mono_us() + ms * 1000;
	loop_timer_set(w->loop, &w->timer, 0, look);
	loop_run(w->loop);
	w->pairs--;
}

/* nng aborts in a child of a process that used it, so programs are started by a process that never does. One letter each:
 * k = kill -9 the one that runs and start another, t = SIGTERM. */
static pid_t starter_start(struct world *w, int *ret_orders)
{
	int orders[2];
	char order;
	pid_t pid;

	assert_int_equal(pipe(orders), 0);
	pid = fork();
	*ret_orders = orders[1];
	if (pid != 0) {
		close(orders[0]);
		return pid;
	}
	close(orders[1]);
	while (read(orders[0], &order, 1) == 1) {
		if (w->child)
			program_end(w, order == 't' ? SIGTERM : SIGKILL);
		if (order == 'k')
			program_start(w);
	}
	_exit(0);
}

static void order(int orders, char letter) { assert_int_equal(write(orders, &letter, 1), 1); }

static void starter_end(pid_t starter, int orders)
{
	int status;

	order(orders, 't');
	close(orders);
	waitpid(starter, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

enum { MEASURED = 50000 };

static void accounts_over_kills(void **state)
{
	struct world *w = *state;
	int orders;
	pid_t starter;

	w->pairs = MEASURED;          /* for the starter, which reports what the last program used */
	starter = starter_start(w, &orders);
	w->pairs = 0;
	ends_meet(w);
	srandom(3);
	for (int i = 0; i < 10; i++) {
		order(orders, 'k');
		pairs_write(w, 3000);
		run_ms(w, 20 + random() % 150);
	}
	agrees(w, 20000);
	pairs_write(w, 1);
	agrees(w, 2000);
	assert_int_equal(shipper_gaps(w->shipper), 0);
	order(orders, 'k');
	for (int i = 0; i < MEASURED / 1000; i++) {
		pairs_write(w, 1000);
		run_ms(w, 20);
	}
	agrees(w, 20000);
	starter_end(starter, orders);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(accounts_over_kills) };

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ledger_test.c - the ledger says the same however facts arrive: twice, out of order, over kills and full disks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "services/usage-tracker/experiments.h"
#include "services/usage-tracker/ledger.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/query.h"
#include "services/usage-tracker/speeds.h"

/* --- kill -9 in the middle of a write: SQLite's pwrite64 comes through here --- */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at);
static int writes_until_kill = -1;        /* -1 = never */

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	if (writes_until_kill == 0) {
		/* Half of it reaches the file. */
		(void)!syscall(SYS_pwrite64, fd, p, n / 2, at);
		raise(SIGKILL);
	}
	if (writes_until_kill > 0)
		writes_until_kill--;
	return syscall(SYS_pwrite64, fd, p, n, at);
}

/* --- a directory and a ledger --- */

struct fixture {
	char dir[64], url[256];
	struct ledger *l;
	struct arena *mem;            /* of facts and answers */
	uint64_t position, epoch;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void reopen(struct fixture *f)
{
	struct why why = { 0 };

	ledger_close(f->l);
	f->l = ledger_open(f->url, &why);
	if (!f->l)
		fail_msg("%s", why.text);
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/ledger-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->mem = arena_new(1 << 16);
	test_db(f->dir, "ledger.db", ledger_migrations, f->url, sizeof(f->url));
	f->epoch = 5;
	reopen(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ledger_close(f->l);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* --- facts --- */

#define HOUR_US 3600000000LL
static const int64_t base_us = 1795251600000000LL;        /* 2026-11-21T09:00:00Z, a full hour */

/* Request number i comes in i * 10 s after base; its id says so. */
static int64_t request_us(unsigned i) { return base_us + (int64_t)i * 10000000; }

static void request_id(unsigned i, uint8_t id[16])
{
	int64_t ms = request_us(i) / 1000;

	memset(id, 0x11, 16);
	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	id[6] = 0x70;
	id[8] = 0x80;
	memcpy(id + 12, &i, 4);
}

static const char *const models[] = { "alpha", "beta", "gamma" };
static const char *const tenants[] = { "one", "two" };
static const char *const statuses[] = { "ok", "ok", "ok", "error", "cancelled" };

static struct str fact(struct fixture *f, unsigned i, unsigned attempt, Corral__UsageKind kind, unsigned seq)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16], *p;
	size_t n;

	request_id(i, id);
	e.kind = kind;
	e.seq = seq;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = attempt;
	e.occurred_at_us = request_us(i) + (kind == CORRAL__USAGE_KIND__USAGE_START ? 1000 : 500000);
	e.tenant = (char *)(uintptr_t)tenants[i % 2];
	e.key_id = (char *)"key-1";
	e.model = (char *)(uintptr_t)models[i % 3];
	e.backend = (char *)(attempt > 1 ? "gpu2" : "gpu1");
	e.provider = (char *)"llamacpp";
	e.dialect = (char *)"openai";
	e.task_type = (char *)"CHAT";
	e.event_id = (ProtobufCBinaryData){ 16, id };
	e.user = (char *)"9f86d081884c7d65";
	e.complexity = (char *)"MEDIUM";
	e.language = (char *)"english";
	e.context_size = 1200;
	e.policy_version = (char *)"1795251600.12";
	e.reason = (char *)"rules";
	e.requested_model = (char *)"auto";
	if (kind == CORRAL__USAGE_KIND__USAGE_FINAL) {
		e.status = (char *)(uintptr_t)statuses[i % 5];
		e.prompt_tokens = 10 + i;
		e.completion_tokens = 20 + i % 7;
		e.cost_microusd = 3 * (int64_t)i;
		e.latency_us = 1000 + (int64_t)i * 100;
		e.ttft_us = 500;
		e.gpu_us = 7;
		e.energy_mj = 9;
		e.cached = i % 10 == 0;
		e.tokens_source = CORRAL__TOKENS_SOURCE__TOKENS_REPORTED;
		e.http_status = 200;
		e.response_bytes = 4000;
	} else if (kind == CORRAL__USAGE_KIND__USAGE_CORRECTION) {
		e.completion_tokens = 1000;
		e.cost_microusd = -1;
	}
	n = corral__usage_event__get_packed_size(&e);
	p = arena_alloc(f->mem, n);
	corral__usage_event__pack(&e, p);
	return str_n((char *)p, n);
}

#define START(i, a) fact(f, (i), (a), CORRAL__USAGE_KIND__USAGE_START, 0)
#define FINAL(i, a) fact(f, (i), (a), CORRAL__USAGE_KIND__USAGE_FINAL, 1)
#define CORRECTION(i, a, s) fact(f, (i), (a), CORRAL__USAGE_KIND__USAGE_CORRECTION, (s))

static enum ledger_outcome send_from(struct fixture *f, const struct str *r, size_t n, uint64_t first, uint64_t epoch, uint64_t *ret_position,
				     struct ledger_counts *c)
{
	struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("test/0"), .epoch = epoch, .first = first, .next = first + 100 * n + 8,
				  .records = r, .n = n };
	struct why why = { 0 };

	return ledger_ingest(f->l, &b, ret_position, c, &why);
}

static struct ledger_counts send(struct fixture *f, const struct str *r, size_t n)
{
	struct ledger_counts c;

	assert_int_equal(send_from(f, r, n, f->position, f->epoch, &f->position, &c), LEDGER_APPLIED);
	return c;
}

#define SEND(...) send(f, (const struct str[]){ __VA_ARGS__ }, sizeof((const struct str[]){ __VA_ARGS__ }) / sizeof(struct str))

static Corral__UsageReport query(struct fixture *f, const char *by, int64_t from_us, int64_t to_us)
{
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	Corral__UsageReport r;
	struct why why = { 0 };
	struct str rest = str_of(by), part;
	char *names[16];

	q.group_by = names;
	while (by[0] && str_split(&rest, ',', &part))
		names[q.n_group_by++] = arena_dup(f->mem, part.p, part.n);
	q.from_us = from_us;
	q.to_us = to_us;
	if (!usage_query(f->l, &q, base_us, f->mem, &r, &why))
		fail_msg("%s", why.text);
	return r;
}

static Corral__AttemptsReply attempts(struct fixture *f, unsigned i)
{
	Corral__AttemptsRequest q = CORRAL__ATTEMPTS_REQUEST__INIT;
	Corral__AttemptsReply r;
	uint8_t *id = arena_alloc(f->mem, 16);

	request_id(i, id);
	q.request_id = (ProtobufCBinaryData){ 16, id };
	assert_true(usage_attempts(f->l, &q, f->mem, &r, NULL));
	return r;
}

/* --- one attempt --- */

static void check_one_finished(struct fixture *f, unsigned i)
{
	Corral__AttemptsReply a = attempts(f, i);
	Corral__UsageReport r = query(f, "", 0, 0);

	assert_int_equal(a.n_attempts, 1);
	assert_false(a.attempts[0]->open);
	assert_int_equal(a.attempts[0]->started_at_us, request_us(i) + 1000);
	assert_int_equal(a.attempts[0]->ended_at_us, request_us(i) + 500000);
	assert_string_equal(a.attempts[0]->event->status, statuses[i % 5]);
	assert_int_equal(r.totals->attempts, 1);
	assert_int_equal(r.totals->requests, 1);
	assert_int_equal(r.totals->prompt_tokens, 10 + i);
}

static void both_in_one_batch(void **state)
{
	struct fixture *f = *state;
	struct ledger_counts c = SEND(START(1, 1), FINAL(1, 1));

	assert_true(c.starts == 1 && c.finals == 1 && c.duplicates == 0 && c.dead == 0);
	assert_int_equal(c.newest_us, request_us(1) + 500000);
	check_one_finished(f, 1);
}

static void a_request_without_a_backend_is_no_attempt(void **state)
{
	struct fixture *f = *state;
	Corral__UsageReport r;

	SEND(FINAL(1, 0), START(2, 1), FINAL(2, 1), START(2, 2), FINAL(2, 2));
	r = query(f, "model", 0, 0);
	assert_int_equal(r.n_rows, 2);
	assert_int_equal(r.rows[0]->attempts, 0);
	assert_int_equal(r.rows[0]->requests, 1);
	assert_true(r.rows[0]->latency_p50_ms == 0);
	assert_int_equal(r.totals->attempts, 2);
	assert_int_equal(r.totals->requests, 2);
}

static void start_then_final(void **state)
{
	struct fixture *f = *state;
	Corral__AttemptsReply a;
	Corral__UsageReport r;

	SEND(START(1, 1));
	a = attempts(f, 1);
	assert_int_equal(a.n_attempts, 1);
	assert_true(a.attempts[0]->open);
	r = query(f, "status", 0, 0);
	assert_int_equal(r.n_rows, 1);
	assert_string_equal(r.rows[0]->groups[0], "open");
	assert_int_equal(r.totals->success_rate, 0);
	SEND(FINAL(1, 1));
	check_one_finished(f, 1);
	r = query(f, "status", 0, 0);
	assert_int_equal(r.n_rows, 1);
	assert_string_equal(r.rows[0]->groups[0], "ok");
}

static void start_then_restart_then_final(void **state)
{
	struct fixture *f = *state;

	SEND(START(1, 1));
	reopen(f);
	SEND(FINAL(1, 1));
	check_one_finished(f, 1);
}

static void final_before_its_start(void **state)
{
	struct fixture *f = *state;
	Corral__AttemptsReply a;

	SEND(FINAL(1, 1));
	a = attempts(f, 1);
	assert_true(a.n_attempts == 1 && !a.attempts[0]->open && a.attempts[0]->started_at_us > 0);
	SEND(START(1, 1));
	check_one_finished(f, 1);
}

static void duplicates_change_nothing(void **state)
{
	struct fixture *f = *state;
	struct ledger_counts c = SEND(START(1, 1), START(1, 1), FINAL(1, 1), FINAL(1, 1));

	assert_true(c.starts == 1 && c.finals == 1 && c.duplicates == 2);
	for (int i = 0; i < 3; i++) {
		c = SEND(START(1, 1), FINAL(1, 1));
		assert_true(c.starts == 0 && c.finals == 0 && c.duplicates == 2);
		c = SEND(FINAL(1, 1));
		assert_true(c.finals == 0 && c.duplicates == 1);
		reopen(f);
	}
	check_one_finished(f, 1);
	c = SEND(fact(f, 1, 1, CORRAL__USAGE_KIND__USAGE_FINAL, 9));
	assert_true(c.dead == 1 && c.duplicates == 0);
	check_one_finished(f, 1);
}

static void change(struct fixture *f, const char *text)
{
	struct why why;

	if (!db_query(ledger_db(f->l), text, NULL, 0, NULL, NULL, &why))
		fail_msg("%s", why.text);
}

/* To the ledger a commit that is not answered is a failure; what it did is there all the same, as if another had done it. */
static void what_a_commit_without_answer_left_is_found(void **state)
{
	struct fixture *f = *state;
	struct ledger *l = f->l;
	uint64_t position;

	SEND(START(1, 1));
	f->l = NULL;
	reopen(f);
	SEND(CORRECTION(1, 1, 2));
	ledger_close(f->l);
	f->l = l;
	change(f, "ALTER TABLE cursors RENAME TO away");
	assert_int_equal(send_from(f, (const struct str[]){ CORRECTION(1, 1, 2) }, 1, f->position, f->epoch, &position, NULL), LEDGER_FAILED);
	change(f, "ALTER TABLE away RENAME TO cursors");
	SEND(FINAL(1, 1));
	check_one_finished(f, 1);
	assert_int_equal(query(f, "", 0, 0).totals->completion_tokens, 21 + 1000);
}

/* The same fact as that of a shadow of request 7, in an experiment. */
static struct str shadow_fact(struct fixture *f, unsigned i, Corral__UsageKind kind)
{
	struct str plain = fact(f, i, 1, kind, 1);
	Corral__UsageEvent *e = corral__usage_event__unpack(NULL, plain.n, (const uint8_t *)plain.p), own = *e;
	uint8_t of[16], *p;
	size_t n;

	request_id(7, of);
	own.shadow_of = (ProtobufCBinaryData){ 16, of };
	own.experiment_id = (char *)"exp";
	own.arm = (char *)"b";
	own.unit = (char *)"u";
	n = corral__usage_event__get_packed_size(&own);
	p = arena_alloc(f->mem, n);
	corral__usage_event__pack(&own, p);
	corral__usage_event__free_unpacked(e, NULL);
	return str_n((char *)p, n);
}

/* Sums, rows and who watches them know nothing of it; its request and its experiment do, once. */
static void a_shadow_stands_apart(void **state)
{
	struct fixture *f = *state;
	struct experiments *x = experiments_new(f->l);
	Corral__OutcomesRequest q = CORRAL__OUTCOMES_REQUEST__INIT;
	Corral__OutcomesReply told;
	Corral__AttemptsReply a;
	struct why why = { 0 };

	for (int i = 0; i < 2; i++) {
		struct ledger_counts c = SEND(shadow_fact(f, 9, CORRAL__USAGE_KIND__USAGE_START), START(7, 1), FINAL(7, 1),
					      shadow_fact(f, 9, CORRAL__USAGE_KIND__USAGE_FINAL));

		assert_true(c.shadows == !i && c.starts == !i && c.finals == !i && c.dead == 0);
	}
	check_one_finished(f, 7);
	a = attempts(f, 7);
	assert_int_equal(a.n_shadows, 1);
	assert_string_equal(a.shadows[0]->model, models[0]);
	assert_int_equal(a.shadows[0]->prompt_tokens, 19);
	a = attempts(f, 9);
	assert_true(a.n_attempts == 0 && a.n_shadows == 1);
	assert_true(experiments_outcomes(ledger_db(f->l), &q, f->mem, &told, &why));
	assert_int_equal(told.n_rows, 1);
	assert_string_equal(told.rows[0]->arm, "b");
	assert_true(told.rows[0]->tokens == 10 + 9 + 20 + 2 && told.rows[0]->cost_microusd == 27);
	experiments_free(x);
}

static void corrections_add_once(void **state)
{
	struct fixture *f = *state;
	Corral__UsageReport r;

	SEND(START(1, 1), FINAL(1, 1), CORRECTION(1, 1, 2));      /* with its FINAL */
	SEND(CORRECTION(1, 1, 3));                                /* after it */
	SEND(CORRECTION(1, 1, 3), CORRECTION(1, 1, 2));           /* again */
	r = query(f, "", 0, 0);
	assert_int_equal(r.totals->completion_tokens, 21 + 2000);
	assert_int_equal(r.totals->cost_microusd, 3 - 2);
	assert_int_equal(attempts(f, 1).attempts[0]->event->completion_tokens, 2021);
	SEND(CORRECTION(2, 1, 2));                                /* before everything */
	SEND(START(2, 1));
	reopen(f);
	SEND(CORRECTION(2, 1, 3));                                /* before its FINAL */
	assert_int_equal(query(f, "", 0, 0).totals->completion_tokens, 2021);
	SEND(FINAL(2, 1));
	assert_int_equal(query(f, "", 0, 0).totals->completion_tokens, 2021 + 22 + 2000);
	SEND(FINAL(2, 1), FINAL(1, 1));
	assert_int_equal(query(f, "", 0, 0).totals->completion_tokens, 2021 + 22 + 2000);
}

static void a_bare_final_is_filled_from_its_start(void **state)
{
	struct fixture *f = *state;

	for (int way = 0; way < 3; way++) {
		Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
		unsigned i = 1 + 6 * (unsigned)way;
		uint8_t id[16], bytes[64];
		struct str bare;

		request_id(i, id);
		e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
		e.request_id = (ProtobufCBinaryData){ 16, id };
		e.attempt = 1;
		e.status = (char *)"ok";
		e.prompt_tokens = 1;
		bare = str_n((char *)bytes, corral__usage_event__pack(&e, bytes));
		if (way == 0)
			SEND(START(i, 1), bare);
		else if (way == 1)
			SEND(START(i, 1)), SEND(bare);
		else
			SEND(bare), SEND(START(i, 1));
		assert_string_equal(attempts(f, i).attempts[0]->event->tenant, "two");
	}
	Corral__UsageReport r = query(f, "tenant,model,status", 0, 0);
	assert_int_equal(r.n_rows, 1);
	assert_string_equal(r.rows[0]->groups[1], "beta");
	assert_int_equal(r.rows[0]->prompt_tokens, 3);
}

static void what_cannot_be_read_is_kept(void **state)
{
	struct fixture *f = *state;
	struct ledger_counts c = SEND(STR("\xff\xff not a message"), START(1, 1), fact(f, 2, 1, CORRAL__USAGE_KIND__USAGE_CHECKPOINT, 1), STR(""), FINAL(1, 1));

	assert_int_equal(c.dead, 3);
	check_one_finished(f, 1);
}

/* --- cursors --- */

static void the_cursor_is_compared_and_set(void **state)
{
	struct fixture *f = *state;
	struct str one[] = { START(1, 1) };
	uint64_t position = 0, epoch;

	assert_int_equal(send_from(f, one, 1, 77, 5, &position, NULL), LEDGER_OUT_OF_ORDER);      /* not known: begins at 0 */
	assert_int_equal(position, 0);
	assert_int_equal(send_from(f, one, 1, 0, 5, &position, NULL), LEDGER_APPLIED);
	assert_int_equal(position, 108);
	assert_int_equal(send_from(f, one, 1, 0, 5, &position, NULL), LEDGER_OUT_OF_ORDER);
	assert_int_equal(position, 108);
	assert_int_equal(send_from(f, one, 1, 108, 4, &position, NULL), LEDGER_STALE);
	assert_int_equal(send_from(f, one, 1, 108, 6, &position, NULL), LEDGER_APPLIED);          /* opened again */
	assert_int_equal(send_from(f, one, 1, 216, 5, &position, NULL), LEDGER_STALE);            /* the old writer */
	reopen(f);
	assert_true(ledger_cursor(f->l, STR("usage.v1"), STR("test/0"), &position, &epoch, NULL));
	assert_true(position == 216 && epoch == 6);
	assert_true(ledger_cursor(f->l, STR("usage.v1"), STR("test/1"), &position, &epoch, NULL));
	assert_true(position == 0 && epoch == 0);
	assert_int_equal(query(f, "", 0, 0).totals->attempts, 1);
}

/* --- many attempts, in any order --- */

enum { REQUESTS = 2000 };                 /* 10 s apart: five hours and a half */

static uint64_t rnd(uint64_t *s) { return (*s = *s * 6364136223846793005u + 1442695040888963407u) >> 33; }

static uint64_t sum_prompt(unsigned from, unsigned to)
{
	uint64_t sum = 0;

	for (unsigned i = from; i < to; i++)
		sum += (10 + i) * (i % 4 == 0 ? 2 : 1);
	return sum;
}

/* Requests [from, to) in the report's totals: every fourth has a second attempt. */
static void check_span(struct fixture *f, unsigned from, unsigned to, int64_t from_us, int64_t to_us)
{
	Corral__UsageReport r = query(f, "model,tenant,backend,status,day", from_us, to_us);
	uint64_t requests = 0, n_attempts = 0, second = 0;

	for (unsigned i = from; i < to; i++)
		second += i % 4 == 0;
	for (size_t i = 0; i < r.n_rows; i++) {
		requests += r.rows[i]->requests;
		n_attempts += r.rows[i]->attempts;
	}
	assert_int_equal(requests, to - from);
	assert_int_equal(n_attempts, to - from + second);
	assert_int_equal(r.totals->requests, to - from);
	assert_int_equal(r.totals->prompt_tokens, sum_prompt(from, to));
}

static void check_all(struct fixture *f)
{
	Corral__UsageReport r = query(f, "model", 0, 0);

	check_span(f, 0, REQUESTS, 0, 0);
	/* Edges inside hours, from rows; whole hours, from sums; a span within one hour. */
	for (unsigned i = 0; i < REQUESTS; i += 173)
		for (unsigned k = i; k < REQUESTS; k += 391)
			check_span(f, i, k, request_us(i), request_us(k));
	check_span(f, 360, 720, base_us + HOUR_US, base_us + 2 * HOUR_US);
	check_span(f, 361, 720, request_us(360) + 1, base_us + 2 * HOUR_US);
	assert_int_equal(r.n_rows, 3);
	assert_string_equal(r.rows[0]->groups[0], "alpha");
	/* latency of request i is 1000 + 100 i us, every fourth counted twice */
	assert_true(r.totals->latency_p50_ms > 101.0 * 0.95 && r.totals->latency_p50_ms < 101.0 * 1.05);
	assert_true(r.totals->latency_p95_ms > 191.0 * 0.95 && r.totals->latency_p95_ms < 191.0 * 1.05);
	assert_true(r.totals->success_rate > 0.599 && r.totals->success_rate < 0.601);
}

static struct str *all_facts(struct fixture *f, size_t *ret_n)
{
	struct str *all = arena_alloc(f->mem, sizeof(*all) * REQUESTS * 5);
	size_t n = 0;

	for (unsigned i = 0; i < REQUESTS; i++)
		for (unsigned a = 1; a <= (i % 4 == 0 ? 2u : 1u); a++) {
			all[n++] = START(i, a);
			all[n++] = FINAL(i, a);
		}
	*ret_n = n;
	return all;
}

static void any_order_gives_the_same(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 42;
	size_t n;
	struct str *all = all_facts(f, &n);

	for (size_t i = n - 1; i > 0; i--) {
		size_t k = rnd(&seed) % (i + 1);
		struct str t = all[i];

		all[i] = all[k];
		all[k] = t;
	}
	for (size_t at = 0; at < n;) {
		size_t take = 1 + rnd(&seed) % 200;

		take = take < n - at ? take : n - at;
		send(f, all + at, take);
		if (rnd(&seed) % 4 == 0)
			send(f, all + at, take);
		if (rnd(&seed) % 10 == 0)
			reopen(f);
		at += take;
	}
	check_all(f);
}

/* Many at once, and some of them were there: each counts once, whichever batch it comes with. */
static void many_finals_of_which_some_were_there(void **state)
{
	struct fixture *f = *state;
	struct str r[100];
	struct ledger_counts c;

	for (unsigned i = 0; i < 100; i++)
		r[i] = FINAL((i * 37) % 100, 1);          /* they end in another order than they begin */
	c = send(f, r, 40);
	assert_true(c.finals == 40 && c.duplicates == 0);
	c = send(f, r, 100);
	assert_true(c.finals == 60 && c.duplicates == 40 && c.dead == 0);
	c = send(f, r, 100);
	assert_true(c.finals == 0 && c.duplicates == 100);
	assert_int_equal(query(f, "", 0, 0).totals->attempts, 100);
	assert_int_equal(query(f, "", 0, 0).totals->prompt_tokens, 100 * 10 + 99 * 50);
	for (unsigned i = 0; i < 100; i++) {
		Corral__AttemptsReply a = attempts(f, i);

		assert_int_equal(a.n_attempts, 1);
		assert_int_equal(a.attempts[0]->event->prompt_tokens, 10 + i);
	}
}

/* --- kill -9 --- */

/* The child sends all facts in batches from the ledger's cursor and dies at the n-th write of the database. */
static void send_until_killed(struct fixture *f, const struct str *all, size_t n, int writes)
{
	uint64_t position = 0, epoch;
	enum { BATCH = 50 };

	ledger_close(f->l);
	f->l = ledger_open(f->url, NULL);
	if (!f->l || !ledger_cursor(f->l, STR("usage.v1"), STR("kill"), &position, &epoch, NULL))
		_exit(1);
	writes_until_kill = writes;
	while (position < n) {
		size_t take = n - position < BATCH ? n - position : BATCH;
		struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("kill"), .epoch = 1, .first = position, .next = position + take,
					  .records = all + position, .n = take };

		if (ledger_ingest(f->l, &b, &position, NULL, NULL) != LEDGER_APPLIED)
			_exit(2);
	}
	_exit(0);
}

static void kills_lose_and_double_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 20261121, position = 0, epoch;
	size_t n;
	struct str *all = all_facts(f, &n);
	int killed = 0, status, round = 0;

	/* Each round comes a little further; the last ones run to the end. */
	for (; round < 50 || position < n; round++) {
		pid_t pid;

		ledger_close(f->l);
		f->l = NULL;
		pid = fork();
		if (pid == 0)
			send_until_killed(f, all, n, round < 50 ? (int)(rnd(&seed) % 40) : -1);
		if (test_db_is_server() && round < 50) {
			usleep((useconds_t)(rnd(&seed) % 60000));         /* the server writes elsewhere: at any time instead */
			kill(pid, SIGKILL);
		}
		waitpid(pid, &status, 0);
		killed += WIFSIGNALED(status);
		assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
		reopen(f);
		assert_true(ledger_cursor(f->l, STR("usage.v1"), STR("kill"), &position, &epoch, NULL));
		if (position < n) {
			Corral__UsageReport r = query(f, "", 0, 0);
			uint64_t started = 0;

			/* Facts alternate START and FINAL, batches are even: what is there is what the cursor says, no more, no less. */
			started = position / 2;
			assert_int_equal(r.totals->attempts, started);
		}
	}
	assert_in_range(killed, test_db_is_server() ? 1 : 20, 50);
	check_all(f);
}

/* --- a full disk --- */

static void a_full_disk_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, low;
	size_t n, at = 0;
	struct str *all = all_facts(f, &n);
	uint64_t before = 0, position = 0, epoch;
	bool was_full = false;

	SKIP_ON_SERVER();
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){ 300 << 10, old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &low);
	while (at < n) {
		size_t take = n - at < 100 ? n - at : 100;
		enum ledger_outcome o = send_from(f, all + at, take, f->position, f->epoch, &position, NULL);

		if (o == LEDGER_FAILED) {
			was_full = true;
			setrlimit(RLIMIT_FSIZE, &old);
			assert_true(ledger_cursor(f->l, STR("usage.v1"), STR("test/0"), &before, &epoch, NULL));
			assert_int_equal(before, f->position);
			continue;
		}
		assert_int_equal(o, LEDGER_APPLIED);
		f->position = position;
		at += take;
	}
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(was_full);
	check_all(f);
}

/* --- percentiles, speeds, refusals --- */

static void percentiles_are_within_their_word(void **state)
{
	struct hist h = { 0 }, back = { 0 };
	struct buf b = { 0 };
	uint64_t seed = 1, v[1000];

	for (int i = 0; i < 1000; i++) {
		v[i] = 1 + rnd(&seed) % 1000 * (rnd(&seed) % 100000);
		hist_add(&h, v[i], 1);
	}
	for (int i = 0; i < 1000; i++)
		for (int k = i + 1; k < 1000; k++)
			if (v[k] < v[i]) {
				uint64_t t = v[i];

				v[i] = v[k], v[k] = t;
			}
	for (int p = 1; p <= 100; p++) {
		double got = hist_percentile(&h, p / 100.0), want = (double)v[p * 10 - 1];

		assert_true(got >= want * 0.968 && got <= want * 1.032);
	}
	hist_encode(&h, &b);
	assert_true(hist_decode(&back, buf_as_str(&b)));
	assert_true(hist_percentile(&back, 0.5) == hist_percentile(&h, 0.5));
	for (int i = 0; i < 1000; i++)
		hist_add(&h, v[i], -1);
	assert_true(hist_percentile(&h, 0.5) == 0);
	assert_false(hist_decode(&back, STR("\xff\xff\xff")));
	hist_free(&h);
	hist_free(&back);
	buf_free(&b);
}

static const Corral__SpeedRow *speed_of(const Corral__SpeedsReply *r, const char *model, const char *backend)
{
	for (size_t i = 0; i < r->n_rows; i++)
		if (strcmp(r->rows[i]->model, model) == 0 && strcmp(r->rows[i]->backend, backend) == 0)
			return r->rows[i];
	return NULL;
}

static void what_a_backend_refuses_says_nothing_of_it(void **state)
{
	struct fixture *f = *state;
	struct dim d = { .word = { [DIM_MODEL] = STR("m"), [DIM_BACKEND] = STR("b"), [DIM_STATUS] = STR("error") } };
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct speeds *s = speeds_new();
	struct { const char *code; uint32_t status; unsigned samples; } cases[] = {
		{ "BACKEND_REFUSED", 400, 0 }, { "BACKEND_REFUSED", 422, 0 }, { "BACKEND_REFUSED", 502, 1 }, { "BACKEND_FAILED", 502, 2 },
	};

	e.occurred_at_us = request_us(REQUESTS);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		Corral__SpeedsReply r;
		const Corral__SpeedRow *row;

		e.error_code = (char *)(uintptr_t)cases[i].code;
		e.http_status = cases[i].status;
		speeds_add(s, &d, &e);
		speeds_reply(s, request_us(REQUESTS), f->mem, &r);
		row = speed_of(&r, "m", "b");
		assert_int_equal(row ? row->samples : 0, cases[i].samples);
	}
	speeds_free(s);
}

static void speeds_are_measured_and_survive(void **state)
{
	struct fixture *f = *state;
	size_t n;
	struct str *all = all_facts(f, &n);
	int64_t now_us = request_us(REQUESTS);

	for (int run = 0; run < 2; run++) {
		struct speeds *s = speeds_new();
		Corral__SpeedsReply r;
		const Corral__SpeedRow *m;

		assert_true(speeds_load(s, f->l, now_us, NULL));
		ledger_on_finished(f->l, speeds_add, s);
		if (run == 0)
			send(f, all, n);
		speeds_reply(s, now_us, f->mem, &r);
		assert_int_equal(r.outcomes, n / 2);
		m = speed_of(&r, "alpha", "gpu1");
		assert_non_null(m);
		assert_in_range(m->samples, 400, 600);
		assert_true(m->success_rate > 0.70 && m->success_rate < 0.73);     /* of ten: 5 ok, 2 errors; 2 cancelled and 1 cached do not count */
		assert_true(m->ttft_ms == 0.5);
		assert_true(m->tokens_per_s > 150 && m->tokens_per_s < 350);
		speeds_reply(s, now_us + 30 * HOUR_US, f->mem, &r);
		assert_int_equal(r.n_rows, 0);
		speeds_free(s);
		reopen(f);
	}
}

static void refuses_unknown_groups(void **state)
{
	struct fixture *f = *state;
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	Corral__UsageReport r;
	struct why why = { 0 };
	char *by[] = { (char *)"colour" };

	q.group_by = by;
	q.n_group_by = 1;
	assert_false(usage_query(f->l, &q, 0, f->mem, &r, &why));
	assert_int_equal(why.code, ERR_INVALID);
	q.n_group_by = 0;
	q.from_us = 10;
	q.to_us = 5;
	assert_false(usage_query(f->l, &q, 0, f->mem, &r, &why));
	r = query(f, "model,key,tenant,backend,provider,task_type,day,dialect,status", 0, 0);
	assert_int_equal(r.n_rows, 0);
	assert_int_equal(r.totals->attempts, 0);
}

/* --- cost --- */

static double wall_ms_of_query(struct fixture *f, const char *by, int64_t from_us, int64_t to_us)
{
	int64_t t0 = mono_us();

	query(f, by, from_us, to_us);
	return (double)(mono_us() - t0) / 1e3;
}

static double cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void costs_little(void **state)
{
	struct fixture *f = *state;
	const char *text = getenv("LEDGER_BENCH_PAIRS");
	uint64_t pairs = 20000;
	enum { BATCH = 2000 };
	struct str r[BATCH];
	double used = 0;

	if (text)
		assert_true(str_u64(str_of(text), &pairs));
	for (unsigned i = 0; i < pairs;) {
		double t0;

		arena_reset(f->mem);
		for (size_t k = 0; k < BATCH; k += 2, i++) {
			r[k] = START(i / 100, 1 + i % 100);
			r[k + 1] = FINAL(i / 100, 1 + i % 100);
		}
		t0 = cpu_us();
		send(f, r, BATCH);
		used += cpu_us() - t0;
	}
	print_message("%llu START+FINAL pairs of %zu bytes in batches of %d: %.2f us of CPU each\n", (unsigned long long)pairs, r[0].n + r[1].n, BATCH,
		      used / (double)pairs);
	reopen(f);
	print_message("report by model and day of all: %.1f ms; of part of an hour, from rows: %.1f ms\n", wall_ms_of_query(f, "model,day", 0, 0),
		      wall_ms_of_query(f, "model,day", base_us + 1, base_us + 1800000000));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(both_in_one_batch), T(a_request_without_a_backend_is_no_attempt), T(start_then_final), T(start_then_restart_then_final),
		T(final_before_its_start), T(duplicates_change_nothing), T(a_shadow_stands_apart),
		T(corrections_add_once), T(what_a_commit_without_answer_left_is_found),
		T(a_bare_final_is_filled_from_its_start), T(what_cannot_be_read_is_kept), T(the_cursor_is_compared_and_set),
		T(any_order_gives_the_same), T(many_finals_of_which_some_were_there), T(kills_lose_and_double_nothing), T(a_full_disk_changes_nothing),
		cmocka_unit_test(percentiles_are_within_their_word), T(speeds_are_measured_and_survive),
		T(what_a_backend_refuses_says_nothing_of_it), T(refuses_unknown_groups), T(costs_little),
	};

	clock_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

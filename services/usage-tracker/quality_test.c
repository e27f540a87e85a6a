/* quality_test.c - what counts as an answer that was not good enough, and what people's words weigh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <unistd.h>

#include "common/store/db_test.h"
#include "services/usage-tracker/feedback.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/quality.h"

#define DAY_US INT64_C(86400000000)
#define MINUTE_US INT64_C(60000000)
static const int64_t base_us = 1795251600000000LL;

struct fixture {
	char dir[64], url[256];
	struct ledger *l;
	struct quality *q;
	struct arena *mem;
	uint64_t position;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));
	struct why why = { 0 };

	snprintf(f->dir, sizeof(f->dir), "/tmp/quality-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	test_db(f->dir, "ledger.db", ledger_migrations, f->url, sizeof(f->url));
	f->mem = arena_new(1 << 16);
	f->l = ledger_open(f->url, &why);
	if (!f->l)
		fail_msg("%s", why.text);
	f->q = quality_new(f->l);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	quality_free(f->q);
	ledger_close(f->l);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* An answer that took a second: which request, when it came, of whom, how it ended, what was asked. */
struct said_answer { unsigned request; int64_t came_us; const char *user, *status; uint64_t hash, sketch; bool cached; };

static uint8_t *id_of(struct fixture *f, unsigned request, int64_t came_us)
{
	uint8_t *id = arena_alloc(f->mem, 16);
	int64_t ms = came_us / 1000;

	memset(id, 0, 16);
	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	id[6] = 0x70;
	id[8] = 0x80;
	id[15] = (uint8_t)request;
	return id;
}

static void enter(struct fixture *f, struct said_answer a)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("test"), .epoch = 1, .first = f->position, .next = f->position + 1, .n = 1 };
	struct str record;
	struct why why = { 0 };
	uint8_t *packed;

	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.request_id = (ProtobufCBinaryData){ 16, id_of(f, a.request, a.came_us) };
	e.attempt = 1;
	e.occurred_at_us = a.came_us + 1000000;
	e.tenant = (char *)"north";
	e.user = (char *)a.user;
	e.model = (char *)"m";
	e.backend = (char *)"gpu1";
	e.task_type = (char *)"BUG_FIX";
	e.language = (char *)"c";
	e.status = (char *)a.status;
	e.latency_us = 1000000;
	e.ttft_us = 200000;
	e.completion_tokens = 40;
	e.prompt_hash = a.hash;
	e.prompt_sketch = a.sketch;
	e.cached = a.cached;
	packed = arena_alloc(f->mem, corral__usage_event__get_packed_size(&e));
	record = str_n((char *)packed, corral__usage_event__pack(&e, packed));
	b.records = &record;
	if (ledger_ingest(f->l, &b, &f->position, NULL, &why) != LEDGER_APPLIED)
		fail_msg("%s", why.text);
}

static Corral__QualityReport report(struct fixture *f, const char *tenant)
{
	Corral__QualityQuery q = CORRAL__QUALITY_QUERY__INIT;
	Corral__QualityReport r;
	struct why why = { 0 };

	q.from_day = base_us / DAY_US - 1;
	q.to_day = base_us / DAY_US + 2;
	q.tenant = (char *)tenant;
	if (!quality_query(f->q, &q, f->mem, &r, &why))
		fail_msg("%s", why.text);
	return r;
}

static Corral__QualityRow *only(struct fixture *f)
{
	Corral__QualityReport r = report(f, "");

	assert_int_equal(r.n_rows, 1);
	return r.rows[0];
}

static const uint64_t A = 0x0102030405060708, OTHER = 0x1112131415161718, ALIKE = 0x01020304050607ff;

static void asked_again(void **state)
{
	struct fixture *f = *state;
	const Corral__QualityRow *row;

	enter(f, (struct said_answer){ 1, base_us, "ada", "ok", 7, A, false });
	enter(f, (struct said_answer){ 2, base_us + 2 * MINUTE_US, "ada", "ok", 7, A, false });           /* the same: against 1 */
	enter(f, (struct said_answer){ 3, base_us + 3 * MINUTE_US, "bob", "ok", 7, A, false });           /* somebody else */
	enter(f, (struct said_answer){ 4, base_us + 4 * MINUTE_US, "ada", "ok", 9, ALIKE, false });       /* alike: against 2, not 1 again */
	enter(f, (struct said_answer){ 5, base_us + 5 * MINUTE_US, "ada", "ok", 11, OTHER, false });      /* another question */
	enter(f, (struct said_answer){ 6, base_us + 17 * MINUTE_US, "ada", "ok", 11, OTHER, false });     /* too late */
	enter(f, (struct said_answer){ 7, base_us + 17 * MINUTE_US + 500000, "ada", "ok", 11, OTHER, false });     /* beside the one before, not after it */
	enter(f, (struct said_answer){ 8, base_us + 18 * MINUTE_US, "bob", "ok", 7, A, true });           /* the cache gave it again */
	row = only(f);
	assert_int_equal(row->answers, 7);
	assert_int_equal(row->regenerated, 1);
	assert_int_equal(row->asked_again, 1);
	assert_string_equal(row->model, "m");
	assert_string_equal(row->task_type, "BUG_FIX");
	assert_string_equal(row->language, "c");
	assert_true(row->latency_ms == 1000 && row->ttft_ms == 200 && row->tokens_per_s == 50);
	assert_true(row->quality > 0.699 / 1.3 && row->quality < 0.701 / 1.3);           /* seven ends at .1 each, two that are bad at .3 */
}

static void aborted_is_no_failure_and_twice_is_once(void **state)
{
	struct fixture *f = *state;
	const Corral__QualityRow *row;

	for (int i = 0; i < 2; i++) {
		enter(f, (struct said_answer){ 1, base_us, "", "ok", 0, 0, false });
		enter(f, (struct said_answer){ 2, base_us, "", "cancelled", 0, 0, false });
		enter(f, (struct said_answer){ 3, base_us, "", "error", 0, 0, false });
		enter(f, (struct said_answer){ 4, base_us, "", "not_sent", 0, 0, false });
	}
	row = only(f);
	assert_int_equal(row->answers, 3);
	assert_int_equal(row->aborted, 1);
	assert_true(row->success_rate == 0.5);
}

static void say(struct fixture *f, unsigned request, const char *tenant, const char *author, uint32_t rating, uint32_t passed, uint32_t total, int64_t at_us)
{
	Corral__FeedbackEvent e = CORRAL__FEEDBACK_EVENT__INIT;
	enum feedback_outcome outcome;
	struct why why = { 0 };
	uint8_t packed[512];

	e.request_id = (ProtobufCBinaryData){ 16, id_of(f, request, base_us) };
	e.occurred_at_us = at_us;
	e.tenant = (char *)tenant;
	e.author = (char *)author;
	e.rating = rating;
	e.tests_passed = passed;
	e.tests_total = total;
	assert_true(feedback_record(ledger_db(f->l), str_n((char *)packed, corral__feedback_event__pack(&e, packed)), STR("test"), &outcome, &why));
}

static void what_people_say(void **state)
{
	struct fixture *f = *state;
	const Corral__QualityRow *row;

	say(f, 1, "north", "early", 5, 0, 0, base_us);            /* before the ledger has it */
	say(f, 1, "south", "spy", 1, 0, 0, base_us);              /* of another tenant: kept until it is known, and never counted */
	enter(f, (struct said_answer){ 1, base_us, "", "ok", 0, 0, false });
	enter(f, (struct said_answer){ 2, base_us, "", "ok", 0, 0, false });
	say(f, 2, "north", "tester", 0, 1, 4, base_us + 10);
	say(f, 2, "north", "tester", 0, 3, 4, base_us + 20);      /* said again: replaces */
	say(f, 2, "north", "tester", 0, 0, 4, base_us + 15);      /* older, and late: does not */
	say(f, 2, "south", "spy", 1, 0, 0, base_us + 30);         /* refused at once */
	row = only(f);
	assert_int_equal(row->said, 2);
	assert_int_equal(row->ratings, 1);
	assert_true(row->rating == 5);
	assert_true(row->tests_passed == 3 && row->tests_total == 4);
	assert_true(row->quality > (0.8 + 0.75 + 0.2) / 2.0 - 1e-9 && row->quality < (0.8 + 0.75 + 0.2) / 2.0 + 1e-9);
	assert_int_equal(report(f, "north").n_rows, 1);
	assert_int_equal(report(f, "south").n_rows, 0);
}

static void what_is_no_feedback_is_buried(void **state)
{
	struct fixture *f = *state;
	enum feedback_outcome outcome;
	struct why why = { 0 };

	assert_true(feedback_record(ledger_db(f->l), STR("\xff\xff"), STR("test"), &outcome, &why));
	assert_int_equal(outcome, FEEDBACK_UNSOUND);
	assert_int_equal(report(f, "").n_rows, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(asked_again, setup, teardown), cmocka_unit_test_setup_teardown(aborted_is_no_failure_and_twice_is_once, setup, teardown),
		cmocka_unit_test_setup_teardown(what_people_say, setup, teardown), cmocka_unit_test_setup_teardown(what_is_no_feedback_is_buried, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

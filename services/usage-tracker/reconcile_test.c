/* reconcile_test.c - 0 in balance; not 0 when a FINAL never came, a row is taken out or changed by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <unistd.h>

#include "common/store/db_test.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/reconcile.h"

#define HOUR_US INT64_C(3600000000)
static const int64_t base_us = 1795251600000000LL;

struct fixture {
	char dir[64], url[256];
	struct ledger *l;
	struct reconcile *r;
	struct arena *mem;
	uint64_t position, finals, tokens;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void open_it(struct fixture *f)
{
	struct why why = { 0 };

	f->l = ledger_open(f->url, &why);
	if (!f->l)
		fail_msg("%s", why.text);
	f->r = reconcile_new(f->l);
}

static void close_it(struct fixture *f)
{
	reconcile_free(f->r);
	ledger_close(f->l);
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/reconcile-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	test_db(f->dir, "ledger.db", ledger_migrations, f->url, sizeof(f->url));
	f->mem = arena_new(1 << 16);
	open_it(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_it(f);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static bool of_shadows;               /* the FINALs that are made are those of shadows */

/* Request i: one every five minutes, so that there are hours. */
static struct str final_of(struct fixture *f, unsigned i, uint64_t run)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t id[16] = { 0 }, *packed;
	int64_t ms = (base_us + (int64_t)i * 300000000) / 1000;

	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	id[6] = 0x70;
	id[8] = 0x80;
	id[15] = (uint8_t)i;
	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = 1;
	if (of_shadows)
		e.shadow_of = e.request_id;
	e.occurred_at_us = ms * 1000;
	e.status = (char *)"ok";
	e.prompt_tokens = 10 + i;
	e.completion_tokens = 3;
	e.cost_microusd = 7;
	e.run = run;
	e.run_finals = ++f->finals;
	e.run_tokens = f->tokens += 13 + i;
	packed = arena_alloc(f->mem, corral__usage_event__get_packed_size(&e));
	return str_n((char *)packed, corral__usage_event__pack(&e, packed));
}

static void enter(struct fixture *f, const struct str *records, size_t n)
{
	struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("test"), .epoch = 1, .first = f->position, .next = f->position + n, .records = records, .n = n };
	struct why why = { 0 };

	if (ledger_ingest(f->l, &b, &f->position, NULL, &why) != LEDGER_APPLIED)
		fail_msg("%s", why.text);
}

/* Two looks: what never came has to be missing twice. */
static struct unreconciled look(struct fixture *f, int64_t budget_us)
{
	struct why why = { 0 };
	bool whole;

	for (int round = 0; round < 2; round++)
		do {
			if (!reconcile_step(f->r, budget_us, &whole, &why))
				fail_msg("%s", why.text);
		} while (!whole);
	return reconcile_result(f->r);
}

static void in_balance(struct fixture *f, int64_t budget_us)
{
	struct unreconciled u = look(f, budget_us);

	assert_true(!u.spool_attempts && !u.spool_tokens && !u.row_attempts && !u.row_tokens && !u.row_microusd);
}

static void fill(struct fixture *f, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		struct str r = final_of(f, i, 77);

		enter(f, &r, 1);
	}
}

static void sql(struct fixture *f, const char *text)
{
	struct why why = { 0 };

	if (!db_query(ledger_db(f->l), text, NULL, 0, NULL, NULL, &why))
		fail_msg("%s", why.text);
}

static void nothing_is_in_balance(void **state) { in_balance(*state, 1000000); }

static void what_came_is_in_balance_however_small_the_steps(void **state)
{
	struct fixture *f = *state;

	fill(f, 0, 60);
	in_balance(f, 1000000);
	in_balance(f, 0);
	close_it(f);
	open_it(f);                       /* the counts are in the database */
	fill(f, 60, 70);
	in_balance(f, 1000000);
}

static void a_row_taken_out_by_hand_is_missed(void **state)
{
	struct fixture *f = *state;
	struct unreconciled u;

	fill(f, 0, 60);
	sql(f, "DELETE FROM attempts WHERE prompt_tokens = 25");
	u = look(f, 0);
	assert_int_equal(u.row_attempts, 2);      /* an attempt, and the request that it was of */
	assert_int_equal(u.row_tokens, 28);
	assert_int_equal(u.row_microusd, 7);
	assert_int_equal(u.spool_attempts, 0);
	close_it(f);
	open_it(f);
	assert_int_equal(look(f, 1000000).row_attempts, 2);
}

static void a_row_changed_by_hand_is_seen(void **state)
{
	struct fixture *f = *state;

	fill(f, 0, 30);
	sql(f, "UPDATE attempts SET cost_microusd = 6 WHERE prompt_tokens = 20");
	assert_int_equal(look(f, 1000000).row_microusd, 1);
	sql(f, "UPDATE attempts SET cost_microusd = 7 WHERE prompt_tokens = 20");
	in_balance(f, 1000000);
}

static void a_final_that_never_came_is_missed(void **state)
{
	struct fixture *f = *state;
	struct unreconciled u;

	fill(f, 0, 10);
	final_of(f, 10, 77);                      /* written, and lost with its segment */
	in_balance(f, 1000000);                   /* nobody can know yet */
	fill(f, 11, 12);
	u = look(f, 1000000);
	assert_int_equal(u.spool_attempts, 1);
	assert_int_equal(u.spool_tokens, 23);
	assert_int_equal(u.row_attempts, 0);
}

static void a_shadow_is_missed_like_any_other(void **state)
{
	struct fixture *f = *state;
	struct unreconciled u;

	fill(f, 0, 3);
	of_shadows = true;
	fill(f, 3, 5);
	in_balance(f, 1000000);
	final_of(f, 5, 77);                       /* lost */
	fill(f, 6, 7);
	of_shadows = false;
	fill(f, 7, 8);
	u = look(f, 1000000);
	assert_true(u.spool_attempts == 1 && u.spool_tokens == 18 && u.row_attempts == 0 && u.row_tokens == 0);
}

static void what_is_on_its_way_is_not_missed(void **state)
{
	struct fixture *f = *state;
	struct str late = final_of(f, 0, 77);
	struct why why;
	bool whole;

	fill(f, 1, 3);                            /* another partition was faster */
	assert_true(reconcile_step(f->r, 1000000, &whole, &why) && whole);
	assert_int_equal(reconcile_result(f->r).spool_attempts, 0);
	enter(f, &late, 1);
	in_balance(f, 1000000);
}

static void twice_is_once(void **state)
{
	struct fixture *f = *state;
	struct str r = final_of(f, 0, 77);

	enter(f, &r, 1);
	enter(f, &r, 1);
	in_balance(f, 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_is_in_balance, setup, teardown),
		cmocka_unit_test_setup_teardown(a_shadow_is_missed_like_any_other, setup, teardown),
		cmocka_unit_test_setup_teardown(what_came_is_in_balance_however_small_the_steps, setup, teardown),
		cmocka_unit_test_setup_teardown(a_row_taken_out_by_hand_is_missed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_row_changed_by_hand_is_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(a_final_that_never_came_is_missed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_on_its_way_is_not_missed, setup, teardown), cmocka_unit_test_setup_teardown(twice_is_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* prices_test.c - a ledger of twenty rows, computed by hand: what each costs, what /usage sums, what /savings compares. To the micro-dollar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/store/db_test.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/query.h"
#include "services/usage-tracker/savings.h"
#include "services/usage-tracker/settle.h"

/* --- the prices --- */

/* acme sells 'big': per token 2.5, cached 0.25, answers 10 micro-dollars; from the middle of the month on 2, 0.2 and 8.
 * A second of gpu1 costs 500 micro-dollars, then 666 2/3; a joule 0.0777… (0.28 dollars a kWh). gpu2 has no price. */
#define CHANGE "2026-11-15T12:34:56Z"
static const struct { const char *from, *provider, *backend, *model; int64_t input, cached, output, gpu_hour, kwh; } price_list[] = {
	{ "2026-11-01T00:00:00Z", "acme", "", "big", 2500000, 250000, 10000000, 0, 0 },
	{ "2026-11-01T00:00:00Z", "", "gpu1", "", 0, 0, 0, 1800000, 280000 },
	{ CHANGE, "acme", "*", "big", 2000000, 200000, 8000000, 0, 0 },
	{ CHANGE, "", "gpu1", "", 0, 0, 0, 2400000, 280000 },
};

/* --- the ledger --- */

enum { NONE = 0, FROM_CACHE = 1, REPORTED = 2 };

static const struct row {
	const char *tenant;
	unsigned request;
	const char *began;
	unsigned attempt;
	const char *model, *provider, *backend, *status;
	uint64_t prompt, cached, completion;
	int64_t gpu_us, energy_mj;
	int what;
	int64_t cost;                 /* micro-dollars, by hand */
} rows[] = {
	/*                                                                                    prompt cached  out    gpu us   energy mJ */
	{ "one",  1, "2026-11-02T10:00:00Z",   1, "big",   "acme",     "acme", "ok",            1000,    0, 200,       0,      0, NONE, 4500 },       /* 2500 + 2000 */
	{ "one",  2, "2026-11-02T10:05:00Z",   1, "big",   "acme",     "acme", "ok",            1001,  400,  33,       0,      0, NONE, 1933 },       /* 1502.5 + 100 + 330 */
	{ "one",  3, "2026-11-03T09:00:00Z",   1, "small", "llamacpp", "gpu1", "ok",             500,    0, 100, 2000000, 300000, NONE, 1023 },       /* 1000 + 23 1/3 */
	{ "one",  4, "2026-11-03T09:10:00Z",   0, "small", "",         "",     "ok",             500,    0, 100,       0,      0, FROM_CACHE, 0 },
	{ "one",  5, "2026-11-04T12:00:00Z",   1, "small", "llamacpp", "gpu1", "error",            0,    0,   0,  500000,      0, NONE, 250 },        /* failed, */
	{ "one",  5, "2026-11-04T12:00:01Z",   2, "big",   "acme",     "acme", "ok",             800,    0, 150,       0,      0, NONE, 3500 },       /* tried again elsewhere */
	{ "one",  6, "2026-11-05T08:00:00Z",   1, "big",   "acme",     "acme", "cancelled",     1200,    0,  17,       0,      0, NONE, 3170 },       /* a part: 3000 + 170 */
	{ "one",  7, "2026-11-05T08:01:00Z",   1, "small", "llamacpp", "gpu1", "cancelled",      300,    0,   9,  250000,      0, NONE, 125 },
	{ "one",  8, "2026-11-06T08:00:00Z",   1, "big",   "acme",     "acme", "error",          400,    0,  12,       0,      0, NONE, 1120 },       /* cut in the middle, charged */
	{ "one",  9, "2026-11-07T08:00:00Z",   1, "small", "llamacpp", "gpu1", "unknown",        100,    0,  40,       0,      0, NONE, 0 },
	{ "one", 10, "2026-11-08T08:00:00Z",   0, "",      "",         "",     "error",            0,    0,   0,       0,      0, NONE, 0 },          /* refused */
	{ "one", 11, "2026-11-10T08:00:00Z",   1, "big",   "acme",     "acme", "ok",             300,    0,  30,       0,      0, REPORTED, 777 },    /* acme's own figure */
	{ "one", 12, "2026-11-15T12:34:55.9Z", 1, "big",   "acme",     "acme", "ok",             100,    0,  10,       0,      0, NONE, 350 },        /* began before the change, ended after it */
	{ "one", 13, CHANGE,                   1, "big",   "acme",     "acme", "ok",             100,    0,  10,       0,      0, NONE, 280 },        /* began with it */
	{ "one", 14, "2026-11-15T12:40:00Z",   1, "small", "llamacpp", "gpu1", "ok",             600,    0, 120, 3000000, 450000, NONE, 2035 },       /* 2000 + 35 */
	{ "one", 15, "2026-11-15T13:00:00Z",   1, "big",   "acme",     "acme", "error",            0,    0,   0,       0,      0, NONE, 0 },          /* failed, */
	{ "one", 15, "2026-11-15T13:00:01Z",   2, "big",   "acme",     "acme", "ok",            1000, 1000,   1,       0,      0, NONE, 208 },        /* tried again: 200 + 8 */
	{ "one", 16, "2026-11-20T08:00:00Z",   1, "small", "ollama",   "gpu2", "ok",             700,    0,  70, 5000000,      0, NONE, 0 },          /* no price is known */
	{ "two", 17, "2026-11-25T08:00:00Z",   1, "small", "llamacpp", "gpu1", "ok",              50,    0,   5,     750,      0, NONE, 1 },          /* 0.5, half up */
	{ "two", 18, "2026-11-28T08:00:00Z",   1, "big",   "acme",     "acme", "ok",           12345,   45, 678,       0,      0, NONE, 30033 },      /* 24600 + 9 + 5424 */
};
enum { ROWS = sizeof(rows) / sizeof(*rows), TOTAL = 49305, CLOUD = 45871, LOCAL = 3434 };

/* --- into the ledger --- */

struct fixture {
	char dir[64], url[256];
	struct ledger *l;
	struct prices *prices;
	struct arena *mem;
	uint64_t position;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static int64_t us(const char *time)
{
	int64_t t = 0;

	assert_true(clock_parse_rfc3339(time, &t));
	return t;
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));
	struct why why = { 0 };

	assert_int_equal(ROWS, 20);
	snprintf(f->dir, sizeof(f->dir), "/tmp/prices-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	test_db(f->dir, "ledger.db", ledger_migrations, f->url, sizeof(f->url));
	f->mem = arena_new(1 << 16);
	f->l = ledger_open(f->url, &why);
	if (!f->l)
		fail_msg("%s", why.text);
	f->prices = prices_new(ledger_db(f->l));
	assert_true(prices_load(f->prices, &why));
	ledger_set_pricer(f->l, prices_cost, f->prices);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	prices_free(f->prices);
	ledger_close(f->l);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static enum err set_price(struct fixture *f, size_t i)
{
	Corral__Price p = CORRAL__PRICE__INIT;
	Corral__PutPriceReply reply;
	struct why why = { 0 };

	p.valid_from_us = us(price_list[i].from);
	p.provider = (char *)price_list[i].provider;
	p.backend = (char *)price_list[i].backend;
	p.model = (char *)price_list[i].model;
	p.machine = price_list[i].gpu_hour > 0;
	p.input_microusd = price_list[i].input;
	p.cached_input_microusd = price_list[i].cached;
	p.output_microusd = price_list[i].output;
	p.gpu_hour_microusd = price_list[i].gpu_hour;
	p.kwh_microusd = price_list[i].kwh;
	p.set_by = (char *)"tester";
	return prices_put(f->prices, &p, us("2026-11-01T00:00:00Z"), f->mem, &reply, &why) ? ERR_OK : why.code;
}

static void set_prices(struct fixture *f)
{
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(set_price(f, i), ERR_OK);
}

/* The first row of a request says when it came. */
static void id_of(const struct row *r, uint8_t id[16])
{
	const struct row *first = r;
	int64_t ms;

	while (first > rows && first[-1].request == r->request)
		first--;
	ms = us(first->began) / 1000;
	memset(id, 0x11, 16);
	for (int b = 0; b < 6; b++)
		id[b] = (uint8_t)(ms >> (40 - 8 * b));
	id[6] = 0x70;
	id[8] = 0x80;
	id[15] = (uint8_t)r->request;
}

static struct str fact(struct fixture *f, const struct row *r, bool final)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	uint8_t *id = arena_alloc(f->mem, 16), *packed;

	id_of(r, id);
	e.kind = final ? CORRAL__USAGE_KIND__USAGE_FINAL : CORRAL__USAGE_KIND__USAGE_START;
	e.request_id = (ProtobufCBinaryData){ 16, id };
	e.attempt = r->attempt;
	e.occurred_at_us = us(r->began) + (final ? 2100000 : 0);
	e.tenant = (char *)r->tenant;
	e.key_id = (char *)"key";
	e.model = (char *)r->model;
	e.backend = (char *)r->backend;
	e.provider = (char *)r->provider;
	if (final) {
		e.status = (char *)r->status;
		e.latency_us = 2100000;
		e.prompt_tokens = r->prompt;
		e.cached_prompt_tokens = r->cached;
		e.completion_tokens = r->completion;
		e.gpu_us = r->gpu_us;
		e.energy_mj = r->energy_mj;
		e.cached = r->what == FROM_CACHE;
		e.cost_source = r->what == REPORTED ? CORRAL__COST_SOURCE__COST_REPORTED : CORRAL__COST_SOURCE__COST_PRICED;
		e.cost_microusd = r->what == REPORTED ? 777 : 0;
	}
	packed = arena_alloc(f->mem, corral__usage_event__get_packed_size(&e));
	return str_n((char *)packed, corral__usage_event__pack(&e, packed));
}

static void send(struct fixture *f, const struct str *records, size_t n)
{
	struct ledger_batch b = { .topic = STR("usage.v1"), .source = STR("test"), .epoch = 1, .first = f->position, .next = f->position + n, .records = records, .n = n };
	struct ledger_counts counts;
	struct why why = { 0 };

	if (ledger_ingest(f->l, &b, &f->position, &counts, &why) != LEDGER_APPLIED)
		fail_msg("%s", why.text);
	assert_int_equal(counts.dead, 0);
}

/* FINALs alone; each START before its FINAL in a batch of its own; all FINALs first and the STARTs behind them, last to first. */
static void fill(struct fixture *f, int way)
{
	struct str records[ROWS];

	for (size_t i = 0; i < ROWS; i++) {
		records[i] = fact(f, &rows[i], true);
		if (way == 1 && rows[i].attempt) {
			struct str start = fact(f, &rows[i], false);

			send(f, &start, 1);
			send(f, &records[i], 1);
		} else if (way == 1) {
			send(f, &records[i], 1);
		}
	}
	if (way != 1)
		send(f, records, ROWS);
	for (size_t i = ROWS; way == 2 && i-- > 0;)
		if (rows[i].attempt) {
			struct str start = fact(f, &rows[i], false);

			send(f, &start, 1);
		}
}

/* --- asking --- */

struct costs { struct fixture *f; size_t n; };

static bool check_cost(void *arg, const struct ledger_row *r)
{
	struct costs *c = arg;
	uint8_t id[16];

	for (size_t i = 0; i < ROWS; i++) {
		id_of(&rows[i], id);
		if (memcmp(id, r->request_id, 16) != 0 || r->attempt != rows[i].attempt)
			continue;
		if (r->cost_microusd != rows[i].cost)
			fail_msg("row %zu costs %lld and not %lld micro-dollars", i + 1, (long long)r->cost_microusd, (long long)rows[i].cost);
		c->n++;
	}
	return true;
}

static void check_rows(struct fixture *f)
{
	struct costs c = { f, 0 };
	struct why why = { 0 };

	assert_true(ledger_rows(f->l, us("2026-11-01T00:00:00Z"), us("2026-12-01T00:00:00Z"), check_cost, &c, &why));
	assert_int_equal(c.n, ROWS);
}

static Corral__UsageReport usage(struct fixture *f, const char *by, const char *from, const char *to, const char *tenant)
{
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	char *groups[] = { (char *)by };
	Corral__UsageReport r;
	struct why why = { 0 };

	q.group_by = groups;
	q.n_group_by = *by ? 1 : 0;
	q.from_us = us(from);
	q.to_us = us(to);
	q.tenant = (char *)tenant;
	if (!usage_query(f->l, &q, 1, f->mem, &r, &why))
		fail_msg("%s", why.text);
	return r;
}

static void cost_of(const Corral__UsageReport *r, const char *word, int64_t cost, uint64_t attempts)
{
	for (size_t i = 0; i < r->n_rows; i++)
		if (strcmp(r->rows[i]->groups[0], word) == 0) {
			assert_int_equal(r->rows[i]->cost_microusd, cost);
			assert_int_equal(r->rows[i]->attempts, attempts);
			return;
		}
	fail_msg("no row of '%s'", word);
}

static void check_usage(struct fixture *f)
{
	static const char *const month = "2026-11-01T00:00:00Z", *const next = "2026-12-01T00:00:00Z";
	Corral__UsageReport r = usage(f, "model", month, next, "");

	cost_of(&r, "big", CLOUD, 11);
	cost_of(&r, "small", LOCAL, 7);
	assert_int_equal(r.totals->cost_microusd, TOTAL);
	assert_int_equal(r.totals->requests, 18);
	assert_int_equal(r.totals->attempts, 18);                 /* one was refused, one answered from the cache */
	assert_int_equal(r.totals->errors, 5);                    /* four errors and an unknown end */
	assert_int_equal(r.totals->cached_requests, 1);
	assert_int_equal(r.totals->prompt_tokens, 20996);
	assert_int_equal(r.totals->completion_tokens, 1585);
	assert_true(r.totals->gpu_s > 10.75074 && r.totals->gpu_s < 10.75076 && r.totals->energy_j == 750);
	r = usage(f, "provider", month, next, "");
	cost_of(&r, "acme", CLOUD, 11);
	cost_of(&r, "ollama", 0, 1);
	r = usage(f, "day", month, next, "");
	cost_of(&r, "2026-11-15", 350 + 280 + 2035 + 208, 5);
	r = usage(f, "", month, CHANGE, "");
	assert_int_equal(r.totals->cost_microusd, 16748);
	r = usage(f, "", CHANGE, next, "");
	assert_int_equal(r.totals->cost_microusd, TOTAL - 16748);
	r = usage(f, "", month, next, "two");
	assert_int_equal(r.totals->cost_microusd, 30034);
}

static bool take_int(void *arg, const struct db_row *d)
{
	*(int64_t *)arg = db_int(d, 0);
	return true;
}

static int64_t number(struct fixture *f, const char *sql)
{
	int64_t v = -1;
	struct why why = { 0 };

	if (!db_query(ledger_db(f->l), sql, NULL, 0, take_int, &v, &why))
		fail_msg("%s", why.text);
	return v;
}

/* docs/sql-views.md: the same figures for who asks the database. 20,772 days after 1970 is 2026-11-15. */
static void check_views(struct fixture *f)
{
	assert_int_equal(number(f, "SELECT COUNT(*) FROM v_attempts"), ROWS);
	assert_int_equal(number(f, "SELECT SUM(cost_microusd) FROM v_attempts"), TOTAL);
	assert_int_equal(number(f, "SELECT SUM(cost_microusd) FROM v_attempts WHERE day = 20772"), 350 + 280 + 2035 + 208);
	assert_int_equal(number(f, "SELECT COUNT(*) FROM v_requests"), 18);
	assert_int_equal(number(f, "SELECT COUNT(*) FROM v_requests WHERE answered = 1"), 13);
	assert_int_equal(number(f, "SELECT MAX(rows_of_it) FROM v_requests"), 2);
	assert_int_equal(number(f, "SELECT SUM(cost_microusd) FROM v_usage_daily"), TOTAL);
	assert_int_equal(number(f, "SELECT SUM(cost_microusd) FROM v_usage_daily WHERE day = 20772 AND model = 'big'"), 350 + 280 + 208);
	assert_int_equal(number(f, "SELECT SUM(requests) FROM v_usage_daily"), 18);
	assert_int_equal(number(f, "SELECT COUNT(*) FROM v_prices WHERE valid_until_us IS NULL"), 2);
}

static enum err savings(struct fixture *f, const char *tenant, const char *against, const char *provider, Corral__SavingsReport *r)
{
	Corral__SavingsQuery q = CORRAL__SAVINGS_QUERY__INIT;
	struct why why = { 0 };

	q.from_us = us("2026-11-01T00:00:00Z");
	q.to_us = us("2026-12-01T00:00:00Z");
	q.tenant = (char *)tenant;
	q.against = (char *)against;
	q.provider = (char *)provider;
	return savings_query(f->l, f->prices, &q, 1, f->mem, r, &why) ? ERR_OK : why.code;
}

/* Answers, those that were cancelled too: 5,701 and 649 tokens at the old price are 14,252.5 + 6,490, half up; 14,795 and 884 at the new one
 * 29,590 + 7,072. */
static void check_savings(struct fixture *f)
{
	Corral__SavingsReport r;

	assert_int_equal(savings(f, "", "big", "", &r), ERR_OK);
	assert_int_equal(r.would_cost_microusd, 20743 + 36662);
	assert_int_equal(r.infrastructure_microusd, LOCAL);
	assert_int_equal(r.cloud_microusd, CLOUD);
	assert_int_equal(r.savings_microusd, 8100);
	assert_int_equal(r.requests, 13);
	assert_int_equal(r.local_requests, 5);
	assert_int_equal(r.prompt_tokens, 20496);
	assert_int_equal(r.completion_tokens, 1533);
	assert_int_equal(r.local_tokens, 3054);
	assert_int_equal(r.unpriced_tokens, 0);
	assert_int_equal(r.n_prices, 2);
	assert_int_equal(savings(f, "two", "big", "acme", &r), ERR_OK);
	assert_int_equal(r.would_cost_microusd, 12395 * 2 + 683 * 8);
	assert_int_equal(r.savings_microusd, 12395 * 2 + 683 * 8 - 30034);
	assert_int_equal(savings(f, "", "huge", "", &r), ERR_NOT_FOUND);
	assert_int_equal(savings(f, "", "big", "other", &r), ERR_NOT_FOUND);
	assert_int_equal(savings(f, "", "", "", &r), ERR_INVALID);
}

/* --- tests --- */

static void twenty_rows_in_every_order(void **state)
{
	for (int way = 0; way < 3; way++) {
		struct fixture *f = *state;

		set_prices(f);
		fill(f, way);
		check_rows(f);
		check_usage(f);
		check_savings(f);
		check_views(f);
		teardown(state);
		setup(state);
	}
}

static Corral__RepriceReply reprice(struct fixture *f, bool dry_run)
{
	Corral__RepriceReply sum = CORRAL__REPRICE_REPLY__INIT, one;

	for (int day = 1; day <= 30; day++) {
		Corral__RepriceRequest q = CORRAL__REPRICE_REQUEST__INIT;
		struct why why = { 0 };

		q.from_us = us("2026-11-01T00:00:00Z") + (day - 1) * INT64_C(86400000000);
		q.to_us = q.from_us + INT64_C(86400000000);
		q.dry_run = dry_run;
		if (!prices_rebook(f->prices, f->l, &q, &one, &why))
			fail_msg("%s", why.text);
		sum.attempts += one.attempts;
		sum.changed += one.changed;
		sum.before_microusd += one.before_microusd;
		sum.after_microusd += one.after_microusd;
	}
	return sum;
}

/* A price that is learned late changes nothing of the past by itself; repricing gives the ledger that it would have made. */
static void prices_that_come_late(void **state)
{
	struct fixture *f = *state;
	Corral__RepriceReply r;

	fill(f, 0);
	assert_int_equal(usage(f, "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "").totals->cost_microusd, 777);
	set_prices(f);
	assert_int_equal(usage(f, "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "").totals->cost_microusd, 777);
	r = reprice(f, true);
	assert_true(r.attempts == 19 && r.changed == 14 && r.before_microusd == 0 && r.after_microusd == TOTAL - 777);
	assert_int_equal(usage(f, "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "").totals->cost_microusd, 777);
	r = reprice(f, false);
	assert_true(r.changed == 14 && r.after_microusd == TOTAL - 777);
	check_rows(f);
	check_usage(f);
	check_savings(f);
	assert_int_equal(reprice(f, false).changed, 0);
}

static void a_price_is_never_changed(void **state)
{
	struct fixture *f = *state;
	Corral__PricesReply all;
	struct why why = { 0 };
	Corral__Price p = CORRAL__PRICE__INIT;
	Corral__PutPriceReply reply;

	set_prices(f);
	set_prices(f);                                            /* the same again: there already */
	p.valid_from_us = us(CHANGE);
	p.provider = (char *)"acme";
	p.model = (char *)"big";
	p.input_microusd = 1;
	assert_false(prices_put(f->prices, &p, 1, f->mem, &reply, &why));
	assert_int_equal(why.code, ERR_CONFLICT);
	assert_true(prices_load(f->prices, &why));                /* as after a restart */
	prices_reply(f->prices, 7, f->mem, &all);
	assert_int_equal(all.n_prices, 4);
	assert_int_equal(all.revision, 4);
	assert_string_equal(all.prices[2]->set_by, "tester");
	assert_string_equal(all.prices[2]->backend, "");
	fill(f, 0);
	check_rows(f);
}

static void traffic_before_the_first_price_is_said(void **state)
{
	struct fixture *f = *state;
	Corral__SavingsReport r;

	assert_int_equal(set_price(f, 2), ERR_OK);
	fill(f, 0);
	assert_int_equal(savings(f, "", "big", "", &r), ERR_OK);
	assert_int_equal(r.unpriced_tokens, 5701 + 649);
	assert_int_equal(r.would_cost_microusd, 36662);
	assert_int_equal(r.n_prices, 1);
}

static enum err settle(struct fixture *f, size_t row, uint32_t attempt, uint64_t prompt, uint64_t cached, uint64_t completion, bool *ret_changed)
{
	Corral__SettleRequest q = CORRAL__SETTLE_REQUEST__INIT;
	Corral__SettleReply reply;
	struct why why = { 0 };
	uint8_t id[16];

	id_of(&rows[row], id);
	q.request_id = (ProtobufCBinaryData){ 16, id };
	q.attempt = attempt;
	q.prompt_tokens = prompt;
	q.cached_prompt_tokens = cached;
	q.completion_tokens = completion;
	if (!ledger_settle(f->l, f->prices, &q, f->mem, &reply, &why))
		return why.code;
	*ret_changed = reply.changed;
	return ERR_OK;
}

/* A guess gives way to a provider's word, once: row, sums, and what it costs by the price of its time. */
static void a_guess_is_settled_once(void **state)
{
	struct fixture *f = *state;
	Corral__AttemptsRequest q = CORRAL__ATTEMPTS_REQUEST__INIT;
	Corral__AttemptsReply r;
	Corral__UsageReport sums;
	struct why why = { 0 };
	bool changed;
	uint8_t id[16];

	set_prices(f);
	fill(f, 0);
	assert_int_equal(settle(f, 6, 1, 0, 0, 0, &changed), ERR_OK);                   /* cancelled before it ran: 1,200 and 17 tokens, 3,170 */
	assert_true(changed);
	assert_int_equal(settle(f, 8, 1, 500, 100, 20, &changed), ERR_OK);             /* 400 and 12, 1,120: 400 x 2.5 + 100 x .25 + 20 x 10 */
	assert_true(changed);
	assert_int_equal(settle(f, 6, 1, 9, 9, 9, &changed), ERR_OK);                   /* said again, it changes nothing */
	assert_false(changed);
	assert_int_equal(settle(f, 6, 2, 0, 0, 0, &changed), ERR_NOT_FOUND);
	assert_int_equal(settle(f, 6, 0, 0, 0, 0, &changed), ERR_INVALID);
	sums = usage(f, "", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "");
	assert_int_equal(sums.totals->cost_microusd, TOTAL - 3170 - 1120 + 1225);
	assert_int_equal(sums.totals->prompt_tokens, 20996 - 1200 + 100);
	assert_int_equal(sums.totals->completion_tokens, 1585 - 17 + 8);
	assert_int_equal(reprice(f, false).changed, 0);
	id_of(&rows[8], id);
	q.request_id = (ProtobufCBinaryData){ 16, id };
	assert_true(usage_attempts(f->l, &q, f->mem, &r, &why));
	assert_int_equal(r.attempts[0]->event->prompt_tokens, 500);
	assert_int_equal(r.attempts[0]->event->cached_prompt_tokens, 100);
	assert_int_equal(r.attempts[0]->event->tokens_source, CORRAL__TOKENS_SOURCE__TOKENS_REPORTED);
	assert_int_equal(r.attempts[0]->event->cost_microusd, 1225);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(twenty_rows_in_every_order, setup, teardown), cmocka_unit_test_setup_teardown(prices_that_come_late, setup, teardown),
		cmocka_unit_test_setup_teardown(a_price_is_never_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_before_the_first_price_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(a_guess_is_settled_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

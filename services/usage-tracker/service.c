/* service.c - the usage-tracker's table and life: facts in, answers out, both over RPC; ledger.h does the work. */
#include "services/usage-tracker/service.h"

#include "common/base/clock.h"
#include "common/data/log.h"
#include "facts.pb-c.h"
#include "services/usage-tracker/budget_service.h"
#include "services/usage-tracker/feedback.h"
#include "services/usage-tracker/experiments.h"
#include "services/usage-tracker/from_bus.h"
#include "services/usage-tracker/ledger.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/prices.h"
#include "services/usage-tracker/quality.h"
#include "services/usage-tracker/query.h"
#include "services/usage-tracker/reconcile.h"
#include "services/usage-tracker/savings.h"
#include "services/usage-tracker/settle.h"
#include "services/usage-tracker/speeds.h"

struct usage_config { const char *ledger_db, *budget_time_zone; int64_t budget_in_doubt, reconcile_every; struct bus_config bus; };

static const struct opt options[] = {
	OPT(struct usage_config, STRING, ledger_db, "", "Database of the ledger, sqlite:PATH?sync=full or postgresql://…; empty = as 'db' says, else ledger.db in the service's "
	    "state directory, with sync=full. "
	    "Without it a power cut can take facts whose spool was deleted because the ledger had them."),
	OPT(struct usage_config, STRING, budget_time_zone, "UTC", "Time zone in which a budget's month and day begin: UTC, or a name of tzdata such as Europe/Berlin."),
	OPT(struct usage_config, DURATION, budget_in_doubt, "0", "After so long, what a gateway had been lent and never accounted for counts as used, so that it is in doubt no "
	    "longer; nothing is ever given back by time. 0 = never: it stays in doubt until that gateway's facts are here or the period is over.", .min = 0,
	    .max = 366 * 86400000LL),
	OPT(struct usage_config, DURATION, reconcile_every, "1h", "Pause between two looks through the whole ledger for rows that do not agree with what was added up, and for facts "
	    "that gateways wrote and that never came (metric ledger_unreconciled).", .min = 10, .max = 366 * 86400000LL),
	BUS_OPTIONS(struct usage_config, bus),
	OPT_END
};

enum usage_metric { M_ROWS, M_DUPLICATES, M_DEAD, M_LAG, M_COMMIT, M_FEEDBACK, M_BUDGET_TOKENS, M_BUDGET_MICROUSD, M_BUDGET_OVERDRAWN, M_BUDGET_ASKS,
		    M_UNRECONCILED, M_RECONCILED, M_BUS, M_COUNT = M_BUS + INTAKE_N_METRICS };

static const struct metric_def metrics[M_COUNT] = {
	[M_ROWS] = { METRIC_COUNTER, "usage_rows_total", "Facts entered into the ledger, by kind.", "kind" },
	[M_DUPLICATES] = { METRIC_COUNTER, "usage_duplicates_total", "Facts that the ledger had already; they changed nothing.", "" },
	[M_DEAD] = { METRIC_COUNTER, "usage_dead_letters_total", "Facts that could not be entered and are kept in the table dead_letters.", "" },
	[M_LAG] = { METRIC_GAUGE, "ledger_lag_seconds", "Age of the youngest fact when its batch was committed last.", "" },
	[M_FEEDBACK] = { METRIC_COUNTER, "feedback_total", "Feedback that came: new, replaced what its author had said before, of_others (of another tenant's request: not kept), unsound (in dead_letters).", "kind" },
	[M_BUDGET_TOKENS] = { METRIC_GAUGE, "budget_tokens", "Tokens of each budget in its present period, by account: limit, used, held (lent to gateways), in_doubt. Those of keys and "
			      "users are not shown here.", "scope,period,account" },
	[M_BUDGET_MICROUSD] = { METRIC_GAUGE, "budget_microusd", "The same in micro-dollars.", "scope,period,account" },
	[M_BUDGET_OVERDRAWN] = { METRIC_GAUGE, "budget_overdrawn", "Times that facts passed a budget's limit: answers were longer than what was reserved for them.", "scope,period" },
	[M_BUDGET_ASKS] = { METRIC_COUNTER, "budget_asks_total", "Asks of gateways for leases, by outcome.", "outcome" },
	[M_UNRECONCILED] = { METRIC_GAUGE, "ledger_unreconciled", "What does not agree, 0 in balance. Attempts, shadows too, and tokens that gateways wrote and that are not here (spool_attempts, "
			     "spool_tokens); that were added up and are not in the rows (row_attempts, row_tokens, row_microusd).", "kind" },
	[M_RECONCILED] = { METRIC_GAUGE, "ledger_reconciled_timestamp_seconds", "When the last look through the whole ledger ended.", "" },
	[M_COMMIT] = { METRIC_HISTOGRAM, "ledger_commit_seconds", "Time to apply and commit one batch.", "" },
	INTAKE_METRICS(M_BUS),
};

struct usage_tracker {
	struct svc *svc;
	struct ledger *ledger;
	struct speeds *speeds;
	struct budget_service *budgets;
	struct prices *prices;
	struct reconcile *reconcile;
	struct quality *quality;
	struct experiments *experiments;
	struct loop_timer reconcile_timer, back_timer;
	struct from_bus *from_bus;    /* NULL: facts come by RPC alone */
	struct arena *mem;            /* of the question in hand */
	struct series *starts, *shadows, *finals, *corrections, *duplicates, *dead, *lag, *commit;
	Corral__Facts_Service facts;
	Corral__UsageTracker_Service rpc;
	bool failing;
};

#define OF(member, p) ((struct usage_tracker *)(void *)((char *)(p) - offsetof(struct usage_tracker, member)))

/* --- facts --- */

enum { BACK_US = 200000 };        /* how often a server that is away is thought of; how often it is asked says db_postgres.c */

static void on_back(struct loop_timer *);

/* A failure of the store is said once, and to /readyz as long as it lasts. */
static void ledger_state(struct usage_tracker *u, bool ok, const struct why *why)
{
	if (ok == !u->failing)
		return;
	u->failing = !ok;
	if (ok)
		LOG_INFO("the ledger can be written again");
	else
		LOG_ERROR("the ledger cannot be written; facts wait in their spools", LOG_S("error", why->text));
	svc_need(u->svc, "ledger", ok, ok ? "" : why->text);
	if (!ok)
		loop_timer_set(svc_loop(u->svc), &u->back_timer, BACK_US, on_back);
}

/* Also when no fact comes by which it would be seen. */
static void on_back(struct loop_timer *t)
{
	struct usage_tracker *u = OF(back_timer, t);

	if (u->failing && db_is_back(ledger_db(u->ledger)))
		ledger_state(u, true, NULL);
	if (u->failing)
		loop_timer_set(svc_loop(u->svc), t, BACK_US, on_back);
}

static bool topic_known(const char *topic, void *data)
{
	if (strcmp(topic, "usage.v1") == 0 || strcmp(topic, "feedback.v1") == 0)
		return true;
	rpc_fail(data, ERR_NOT_FOUND, "the ledger keeps the topics usage.v1 and feedback.v1 only");
	return false;
}

static void on_cursor(Corral__Facts_Service *facts, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	struct usage_tracker *u = OF(facts, facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	uint64_t epoch;
	struct why why;

	if (!topic_known(q->topic, data))
		return;
	if (!ledger_cursor(u->ledger, str_of(q->topic), str_of(q->source), &ack.position, &epoch, &why)) {
		ledger_state(u, false, &why);
		rpc_fail(data, why.code, why.text);
	} else if (q->epoch < epoch) {
		rpc_fail(data, ERR_CONFLICT, "the spool of this source was opened again since; its new writer ships it");
	} else {
		closure(&ack, data);
	}
}

static void count(struct usage_tracker *u, const struct ledger_counts *c, int64_t began_us)
{
	series_add(u->starts, (double)c->starts);
	series_add(u->finals, (double)c->finals);
	series_add(u->shadows, (double)c->shadows);
	series_add(u->corrections, (double)c->corrections);
	series_add(u->duplicates, (double)c->duplicates);
	series_add(u->dead, (double)c->dead);
	series_observe(u->commit, (double)(mono_us() - began_us) / 1e6);
	if (c->newest_us)
		series_set(u->lag, (double)(wall_us() - c->newest_us) / 1e6);
	if (c->dead && !u->from_bus)
		LOG_ERROR("facts could not be entered into the ledger; see its table dead_letters", LOG_I("facts", c->dead));
}

struct said { struct usage_tracker *u; struct str source; uint64_t n[FEEDBACK_UNSOUND + 1]; };

static bool feedback_each(void *arg, struct str record, struct why *why)
{
	struct said *s = arg;
	enum feedback_outcome outcome;
	bool ok = feedback_record(ledger_db(s->u->ledger), record, s->source, &outcome, why);

	s->n[outcome]++;
	return ok;
}

/* feedback.v1 */
static enum ledger_outcome apply_feedback(struct usage_tracker *u, const struct ledger_batch *b, uint64_t *ret_position, struct why *why)
{
	static const char *const kinds[] = { "new", "replaced", "of_others", "unsound" };
	struct said s = { .u = u, .source = b->source };
	enum ledger_outcome outcome = ledger_carry(u->ledger, b, feedback_each, &s, ret_position, why);

	for (int i = 0; i <= FEEDBACK_UNSOUND && outcome == LEDGER_APPLIED; i++)
		if (s.n[i])
			series_add(metrics_series(svc_metrics(u->svc), M_FEEDBACK, kinds[i]), (double)s.n[i]);
	return outcome;
}

static enum ledger_outcome apply(struct usage_tracker *u, const Corral__FactBatch *b, uint64_t *ret_position, struct why *why)
{
	struct ledger_batch batch = { .topic = str_of(b->topic), .source = str_of(b->source), .epoch = b->epoch, .first = b->first, .next = b->next,
				      .n = b->n_records };
	struct str *records = arena_alloc(u->mem, (b->n_records + 1) * sizeof(*records));
	struct ledger_counts counts;
	int64_t began_us = mono_us();
	enum ledger_outcome outcome;

	for (size_t i = 0; i < b->n_records; i++)
		records[i] = str_n((const char *)b->records[i].data, b->records[i].len);
	batch.records = records;
	if (strcmp(b->topic, "feedback.v1") == 0)
		return apply_feedback(u, &batch, ret_position, why);
	outcome = ledger_ingest(u->ledger, &batch, ret_position, &counts, why);
	if (outcome == LEDGER_APPLIED)
		count(u, &counts, began_us);
	return outcome;
}

static void on_ingest(Corral__Facts_Service *facts, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct usage_tracker *u = OF(facts, facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	enum ledger_outcome outcome;
	struct why why = { 0 };

	if (!topic_known(b->topic, data))
		return;
	outcome = apply(u, b, &ack.position, &why);
	ledger_state(u, outcome != LEDGER_FAILED, &why);
	if (outcome == LEDGER_FAILED || outcome == LEDGER_STALE)
		rpc_fail(data, why.code, why.text);
	else
		closure(&ack, data);
	arena_reset(u->mem);
}

/* --- answers --- */

static void on_query(Corral__UsageTracker_Service *rpc, const Corral__UsageQuery *q, Corral__UsageReport_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__UsageReport reply;
	struct why why;

	if (usage_query(u->ledger, q, wall_us(), u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_attempts(Corral__UsageTracker_Service *rpc, const Corral__AttemptsRequest *q, Corral__AttemptsReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__AttemptsReply reply;
	struct why why;

	if (usage_attempts(u->ledger, q, u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_speeds(Corral__UsageTracker_Service *rpc, const Corral__SpeedsRequest *q, Corral__SpeedsReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__SpeedsReply reply;

	speeds_reply(u->speeds, wall_us(), u->mem, &reply);
	closure(&reply, data);
	arena_reset(u->mem);
}

/* --- prices --- */

static void on_put_price(Corral__UsageTracker_Service *rpc, const Corral__PutPriceRequest *q, Corral__PutPriceReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__PutPriceReply reply;
	struct why why = { 0 };

	if (!q->price)
		rpc_fail(data, ERR_MALFORMED, "there is no price");
	else if (prices_load(u->prices, &why) && prices_put(u->prices, q->price, wall_us(), u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_prices(Corral__UsageTracker_Service *rpc, const Corral__PricesRequest *q, Corral__PricesReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__PricesReply reply;

	prices_reply(u->prices, wall_us(), u->mem, &reply);
	closure(&reply, data);
	arena_reset(u->mem);
}

static void on_reprice(Corral__UsageTracker_Service *rpc, const Corral__RepriceRequest *q, Corral__RepriceReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__RepriceReply reply;
	struct why why = { 0 };

	if (prices_rebook(u->prices, u->ledger, q, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
}

static void on_savings(Corral__UsageTracker_Service *rpc, const Corral__SavingsQuery *q, Corral__SavingsReport_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__SavingsReport reply;
	struct why why = { 0 };

	if (savings_query(u->ledger, u->prices, q, wall_us(), u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_quality(Corral__UsageTracker_Service *rpc, const Corral__QualityQuery *q, Corral__QualityReport_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__QualityReport reply;
	struct why why = { 0 };

	if (quality_query(u->quality, q, u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_outcomes(Corral__UsageTracker_Service *rpc, const Corral__OutcomesRequest *q, Corral__OutcomesReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__OutcomesReply reply;
	struct why why = { 0 };

	if (experiments_outcomes(ledger_db(u->ledger), q, u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

static void on_settle(Corral__UsageTracker_Service *rpc, const Corral__SettleRequest *q, Corral__SettleReply_Closure closure, void *data)
{
	struct usage_tracker *u = OF(rpc, rpc);
	Corral__SettleReply reply;
	struct why why = { 0 };

	if (ledger_settle(u->ledger, u->prices, q, u->mem, &reply, &why))
		closure(&reply, data);
	else
		rpc_fail(data, why.code, why.text);
	arena_reset(u->mem);
}

/* --- reconciliation: in the background, a little at a time --- */

enum { RECONCILE_STEP_US = 5000, RECONCILE_REST_US = 50000 };

static void reconcile_tell(struct usage_tracker *u)
{
	struct metrics *m = svc_metrics(u->svc);
	struct unreconciled x = reconcile_result(u->reconcile);

	series_set(metrics_series(m, M_UNRECONCILED, "spool_attempts"), (double)x.spool_attempts);
	series_set(metrics_series(m, M_UNRECONCILED, "spool_tokens"), (double)x.spool_tokens);
	series_set(metrics_series(m, M_UNRECONCILED, "row_attempts"), (double)x.row_attempts);
	series_set(metrics_series(m, M_UNRECONCILED, "row_tokens"), (double)x.row_tokens);
	series_set(metrics_series(m, M_UNRECONCILED, "row_microusd"), (double)x.row_microusd);
}

static void on_reconcile(struct loop_timer *t)
{
	struct usage_tracker *u = OF(reconcile_timer, t);
	const struct usage_config *cfg = svc_config(u->svc);
	struct why why = { 0 };
	bool whole = false, ok = reconcile_step(u->reconcile, RECONCILE_STEP_US, &whole, &why);

	if (!ok)
		LOG_WARN("the ledger could not be looked through", LOG_S("error", why.text));
	if (whole)
		series_set(metrics_series(svc_metrics(u->svc), M_RECONCILED), (double)wall_us() / 1e6);
	reconcile_tell(u);
	loop_timer_set(svc_loop(u->svc), t, ok && !whole ? RECONCILE_REST_US : cfg->reconcile_every * 1000, on_reconcile);
}

/* --- life --- */

static enum err check(const void *config, struct why *why)
{
	const struct usage_config *cfg = config;
	enum err err = bus_check(&cfg->bus, why);

	return err ? err : budget_zone_check(cfg->budget_time_zone, why);
}

static void stop(struct svc *svc)
{
	struct usage_tracker *u = svc_state(svc);

	if (!u)
		return;
	from_bus_free(u->from_bus);
	budget_service_free(u->budgets);
	loop_timer_del(&u->reconcile_timer);
	loop_timer_del(&u->back_timer);
	reconcile_free(u->reconcile);
	quality_free(u->quality);
	experiments_free(u->experiments);
	prices_free(u->prices);
	ledger_close(u->ledger);
	speeds_free(u->speeds);
	arena_free(u->mem);
	free(u);
	svc_set_state(svc, NULL);
}

static bool ledger_start(struct usage_tracker *u, struct why *why)
{
	const struct usage_config *cfg = svc_config(u->svc);
	char url[4200];

	snprintf(url, sizeof(url), "sqlite:%s/ledger.db?sync=full", svc_state_dir(u->svc));
	u->ledger = ledger_open(cfg->ledger_db[0] ? cfg->ledger_db : url, why);
	if (!u->ledger || !speeds_load(u->speeds, u->ledger, wall_us(), why))
		return false;
	ledger_on_finished(u->ledger, speeds_add, u->speeds);
	u->prices = prices_new(ledger_db(u->ledger));
	if (!prices_load(u->prices, why))
		return false;
	ledger_set_pricer(u->ledger, prices_cost, u->prices);
	u->reconcile = reconcile_new(u->ledger);
	u->quality = quality_new(u->ledger);
	u->experiments = experiments_new(u->ledger);
	loop_timer_set(svc_loop(u->svc), &u->reconcile_timer, RECONCILE_REST_US, on_reconcile);
	u->budgets = budget_service_new(u->svc, u->ledger, u->prices, &(struct budget_metrics){ M_BUDGET_TOKENS, M_BUDGET_MICROUSD, M_BUDGET_OVERDRAWN, M_BUDGET_ASKS },
					cfg->budget_in_doubt, why);
	return u->budgets != NULL;
}

/* What came by the bus, and whether it could be kept; see from_bus.h. */
static void on_bus_kept(void *arg, const struct ledger_counts *c, int64_t began_us, const struct why *failed)
{
	struct usage_tracker *u = arg;

	ledger_state(u, !failed, failed);
	if (!failed)
		count(u, c, began_us);
}

static bool bus_start(struct usage_tracker *u, struct why *why)
{
	const struct usage_config *cfg = svc_config(u->svc);

	if (!bus_is_kafka(&cfg->bus))
		return true;
	u->from_bus = from_bus_new(u->svc, &cfg->bus, u->ledger, M_BUS, on_bus_kept, u, why);
	return u->from_bus != NULL;
}

static void metrics_start(struct usage_tracker *u)
{
	struct metrics *m = svc_metrics(u->svc);

	u->starts = metrics_series(m, M_ROWS, "start");
	u->shadows = metrics_series(m, M_ROWS, "shadow");
	u->finals = metrics_series(m, M_ROWS, "final");
	u->corrections = metrics_series(m, M_ROWS, "correction");
	u->duplicates = metrics_series(m, M_DUPLICATES);
	u->dead = metrics_series(m, M_DEAD);
	u->lag = metrics_series(m, M_LAG);
	u->commit = metrics_series(m, M_COMMIT);
}

static void serve(struct usage_tracker *u)
{
	corral__facts__init(&u->facts, NULL);
	u->facts.cursor = on_cursor;
	u->facts.ingest = on_ingest;
	corral__usage_tracker__init(&u->rpc, NULL);
	u->rpc.query = on_query;
	u->rpc.attempts = on_attempts;
	u->rpc.speeds = on_speeds;
	u->rpc.put_price = on_put_price;
	u->rpc.prices = on_prices;
	u->rpc.reprice = on_reprice;
	u->rpc.savings = on_savings;
	u->rpc.quality = on_quality;
	u->rpc.outcomes = on_outcomes;
	u->rpc.settle = on_settle;
	rpc_server_add(svc_rpc_server(u->svc), &u->facts.base);
	rpc_server_add(svc_rpc_server(u->svc), &u->rpc.base);
}

static bool start(struct svc *svc, struct why *why)
{
	struct usage_tracker *u = x_calloc(1, sizeof(*u));

	svc_set_state(svc, u);
	u->svc = svc;
	u->mem = arena_new(64 << 10);
	u->speeds = speeds_new();
	metrics_start(u);
	if (!ledger_start(u, why) || !bus_start(u, why)) {
		stop(svc);
		return false;
	}
	serve(u);
	svc_need(svc, "ledger", true, "");
	return true;
}

const struct svc_def usage_tracker_service = {
	.name = "usage-tracker",
	.summary = "Keeps the ledger: every attempt's usage exactly once, and the sums people and the selector ask for.",
	.options = options,
	.databases = (const struct svc_db[]){ { "ledger_db", "ledger.db", ledger_migrations, .of_db = true }, { 0 } },
	.one_writer = true,
	.config_size = sizeof(struct usage_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8115,
	.rpc_port = 7115,
	.check = check,
	.start = start,
	.stop = stop,
};

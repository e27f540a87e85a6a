/* from_bus.c - see from_bus.h. The place in a partition and the rows are one transaction: see common/store/intake.h. */
#include "services/usage-tracker/from_bus.h"

#include "common/base/clock.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/outcome.h"

static const char *const topics[] = { "usage.v1", "task-completed.v1", NULL };
static const char *const dead[] = { "usage.v1.dead", "task-completed.v1.dead", NULL };

struct from_bus {
	struct svc *svc;
	struct ledger *ledger;
	struct intake *intake;
	struct arena *mem;            /* of the batch in hand */
	void (*on_kept)(void *, const struct ledger_counts *, int64_t, const struct why *);
	void *arg;
};

static bool move(void *arg, bool *ret_moved, struct why *why) { return intake_move(arg, ret_moved, why); }

static bool bury(void *arg, size_t record, const char *reason, struct why *why)
{
	const struct intake_batch *b = arg;

	return intake_bury(b, &b->batch->in[record], reason, why);
}

static enum intake_outcome keep_usage(struct from_bus *f, const struct intake_batch *b, struct why *why)
{
	const struct ledger_carrier carrier = { (void *)(uintptr_t)b, move, bury };
	struct ledger_batch batch = { .topic = str_of(b->batch->topic), .source = STR("kafka"), .carrier = &carrier, .n = b->batch->n };
	struct str *records = arena_alloc(f->mem, (batch.n + 1) * sizeof(*records));
	struct ledger_counts counts;
	int64_t began_us = mono_us();
	enum ledger_outcome outcome;
	uint64_t position;

	for (size_t i = 0; i < batch.n; i++)
		records[i] = b->batch->in[i].value;
	batch.records = records;
	outcome = ledger_ingest(f->ledger, &batch, &position, &counts, why);
	if (outcome != LEDGER_OUT_OF_ORDER)
		f->on_kept(f->arg, &counts, began_us, outcome == LEDGER_APPLIED ? NULL : why);
	return outcome == LEDGER_APPLIED ? INTAKE_KEPT : outcome == LEDGER_OUT_OF_ORDER ? INTAKE_WAS_FENCED : INTAKE_FAILED;
}

static const char *keep_outcome(void *arg, const struct bus_in *in, struct why *why)
{
	struct from_bus *f = arg;

	return outcome_keep(ledger_db(f->ledger), in->value, f->mem, why);
}

static enum intake_outcome keep(void *arg, const struct intake_batch *b, struct why *why)
{
	struct from_bus *f = arg;
	bool usage = strcmp(b->batch->topic, "usage.v1") == 0;
	enum intake_outcome outcome = usage ? keep_usage(f, b, why) : intake_each(b, keep_outcome, f, why);

	arena_reset(f->mem);
	return outcome;
}

static void on_state(void *arg, bool ok, const char *text)
{
	struct from_bus *f = arg;

	svc_want(f->svc, "bus", ok, text);
}

struct from_bus *from_bus_new(struct svc *svc, const struct bus_config *config, struct ledger *l, unsigned metrics_at,
			      void (*on_kept)(void *arg, const struct ledger_counts *, int64_t began_us, const struct why *failed), void *arg, struct why *why)
{
	struct from_bus *f = x_calloc(1, sizeof(*f));
	const struct intake_opts o = { .config = config, .group = "usage-tracker", .dir = svc_state_dir(svc), .topics = topics, .dead = dead,
				       .db = ledger_db(l), .statements = L_INTAKE, .metrics_at = metrics_at, .metrics = svc_metrics(svc), .keep = keep,
				       .on_state = on_state, .arg = f };

	f->svc = svc;
	f->ledger = l;
	f->mem = arena_new(64 << 10);
	f->on_kept = on_kept;
	f->arg = arg;
	svc_want(svc, "bus", false, "not heard from the brokers yet");
	f->intake = intake_new(svc_loop(svc), &o, why);
	if (f->intake)
		return f;
	from_bus_free(f);
	return NULL;
}

void from_bus_free(struct from_bus *f)
{
	if (!f)
		return;
	intake_free(f->intake);
	arena_free(f->mem);
	free(f);
}

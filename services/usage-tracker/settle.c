/* settle.c - see settle.h. It goes through ledger_ingest() like any other fact, under a source of its own: once, in one transaction with row and sums. */
#include "services/usage-tracker/settle.h"

#include "common/base/clock.h"
#include "common/base/id.h"
#include "services/usage-tracker/event.h"

enum { SEQ = 0x4f000001 };            /* far from the numbers of gateways' own corrections, and of rebook.c's */

struct found {
	uint32_t attempt;
	struct arena *mem;
	struct ledger_row row;
	Corral__UsageEvent *event;    /* of its FINAL; NULL = there is none */
};

static bool look(void *arg, const struct ledger_row *r)
{
	struct found *f = arg;

	if (r->attempt == f->attempt && r->state & ROW_FINISHED) {
		f->row = *r;
		f->event = event_read(f->mem, arena_str(f->mem, r->event));
	}
	return true;
}

static int64_t cost_of(struct prices *p, const struct found *f, const Corral__SettleRequest *q)
{
	Corral__UsageEvent e = *f->event;

	if (prices_given(&e))
		return f->row.cost_microusd;
	e.prompt_tokens = q->prompt_tokens;
	e.cached_prompt_tokens = q->cached_prompt_tokens;
	e.completion_tokens = q->completion_tokens;
	e.gpu_us = f->row.gpu_us;
	e.energy_mj = f->row.energy_mj;
	return prices_cost(p, &e, ledger_row_began_us(&f->row));
}

static struct str correction(struct prices *p, const struct found *f, const Corral__SettleRequest *q)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id = uuid_v7(wall_us());

	e.event_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	e.kind = CORRAL__USAGE_KIND__USAGE_CORRECTION;
	e.request_id = q->request_id;
	e.attempt = q->attempt;
	e.seq = SEQ;
	e.occurred_at_us = wall_us();
	e.prompt_tokens = q->prompt_tokens - (uint64_t)f->row.prompt_tokens;          /* differences: below 0 they wrap, as those of any correction */
	e.completion_tokens = q->completion_tokens - (uint64_t)f->row.completion_tokens;
	e.cached_prompt_tokens = q->cached_prompt_tokens;
	e.cost_microusd = cost_of(p, f, q) - f->row.cost_microusd;
	e.tokens_source = e.prompt_tokens_source = CORRAL__TOKENS_SOURCE__TOKENS_REPORTED;
	return event_pack(f->mem, &e, 0);
}

static bool enter(struct ledger *l, struct str record, struct why *why)
{
	struct ledger_batch batch = { .topic = STR("usage.v1"), .source = STR("settle"), .records = &record, .n = 1 };
	uint64_t position;

	if (!ledger_cursor(l, batch.topic, batch.source, &batch.first, &batch.epoch, why))
		return false;
	batch.next = batch.first + 1;
	return ledger_ingest(l, &batch, &position, NULL, why) == LEDGER_APPLIED;
}

bool ledger_settle(struct ledger *l, struct prices *p, const Corral__SettleRequest *q, struct arena *mem, Corral__SettleReply *ret, struct why *why)
{
	struct found f = { .attempt = q->attempt, .mem = mem };

	corral__settle_reply__init(ret);
	if (q->request_id.len != 16 || !q->attempt)
		return err_set(why, ERR_INVALID, "an attempt is named by a request id and a number from 1") == ERR_OK;
	if (!ledger_attempts(l, q->request_id.data, look, &f, why))
		return false;
	if (!f.event)
		return err_set(why, ERR_NOT_FOUND, "the ledger has no end of that attempt") == ERR_OK;
	if (f.event->tokens_source == CORRAL__TOKENS_SOURCE__TOKENS_REPORTED)
		return true;
	ret->changed = true;
	return enter(l, correction(p, &f, q), why);
}

/* rebook.c - prices that were learned late: what the list says now of attempts that are booked, the difference as CORRECTIONs.
 * They go through ledger_ingest() like any other fact, under a source of their own: once each, in one transaction with rows and sums. */
#include "common/base/clock.h"
#include "common/base/id.h"
#include "services/usage-tracker/event.h"
#include "services/usage-tracker/prices.h"

#define HOUR_US INT64_C(3600000000)
#define DAY_US (24 * HOUR_US)

enum { SEQ_FIRST = 0x50000000 };      /* far from the numbers that gateways give their own corrections */

struct rebook {
	struct prices *prices;
	struct arena *mem;            /* of the hour in hand */
	struct str *records;
	size_t n, cap;
	uint64_t position;            /* of the source's cursor */
	Corral__RepriceReply *reply;
	bool dry_run;
};

static void correct(struct rebook *b, const struct ledger_row *r, int64_t by)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id = uuid_v7(wall_us());

	e.event_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	e.kind = CORRAL__USAGE_KIND__USAGE_CORRECTION;
	e.request_id = (ProtobufCBinaryData){ sizeof(r->request_id), (uint8_t *)(uintptr_t)r->request_id };
	e.attempt = r->attempt;
	e.seq = (uint32_t)(SEQ_FIRST + b->position + b->n);
	e.occurred_at_us = wall_us();
	e.cost_microusd = by;
	if (b->n == b->cap) {
		struct str *old = b->records;

		b->cap = b->cap ? b->cap * 2 : 256;
		b->records = arena_array(b->mem, struct str, b->cap);
		if (b->n)
			memcpy(b->records, old, b->n * sizeof(*old));
	}
	b->records[b->n++] = event_pack(b->mem, &e, 0);
}

static bool look_at(void *arg, const struct ledger_row *r)
{
	struct rebook *b = arg;
	Corral__UsageEvent *e = r->state & ROW_FINISHED ? event_read(b->mem, r->event) : NULL;
	int64_t cost;

	if (!e || prices_given(e))
		return true;
	e->prompt_tokens = (uint64_t)r->prompt_tokens;            /* as corrected */
	e->completion_tokens = (uint64_t)r->completion_tokens;
	e->gpu_us = r->gpu_us;
	e->energy_mj = r->energy_mj;
	cost = prices_cost(b->prices, e, ledger_row_began_us(r));
	b->reply->attempts++;
	b->reply->before_microusd += r->cost_microusd;
	b->reply->after_microusd += cost;
	if (cost == r->cost_microusd)
		return true;
	b->reply->changed++;
	if (!b->dry_run)
		correct(b, r, cost - r->cost_microusd);
	return true;
}

static bool enter(struct rebook *b, struct ledger *l, struct why *why)
{
	struct ledger_batch batch = { .topic = STR("usage.v1"), .source = STR("reprice"), .first = b->position, .next = b->position + b->n,
				      .records = b->records, .n = b->n };

	if (b->n && ledger_ingest(l, &batch, &b->position, NULL, why) != LEDGER_APPLIED)
		return false;
	b->records = NULL;
	b->n = b->cap = 0;
	arena_reset(b->mem);
	return true;
}

bool prices_rebook(struct prices *p, struct ledger *l, const Corral__RepriceRequest *q, Corral__RepriceReply *ret, struct why *why)
{
	struct rebook b = { .prices = p, .mem = arena_new(64 << 10), .reply = ret, .dry_run = q->dry_run };
	uint64_t epoch;
	bool ok;

	corral__reprice_reply__init(ret);
	if (q->from_us <= 0 || q->to_us <= q->from_us || q->to_us - q->from_us > DAY_US)
		err_field(why, ERR_INVALID, "to", "it is done for a day at most at a time: 'from' and a later 'to'");
	ok = q->from_us > 0 && q->to_us > q->from_us && q->to_us - q->from_us <= DAY_US &&
	     ledger_cursor(l, STR("usage.v1"), STR("reprice"), &b.position, &epoch, why);
	for (int64_t at = q->from_us; ok && at < q->to_us; at += HOUR_US)
		ok = ledger_rows(l, at, at + HOUR_US < q->to_us ? at + HOUR_US : q->to_us, look_at, &b, why) && enter(&b, l, why);
	arena_free(b.mem);
	return ok;
}

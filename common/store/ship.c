/* ship.c - see ship.h. One question is under way at most:
 *
 *   asking --cursor--> idle --timer or kick, records--> sending --ack = next--> idle (or on, when the batch was full)
 *      ^-- back-off -- resting <--- no answer, refused, another position ---'
 *
 * first is the receiver's cursor; next is where the reader is. They differ while a batch is under way, and by records of other types.
 * settled is first, or next when nothing between has to be shipped. */
#include "common/store/ship.h"

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "common/store/spool.h"
#include "common/store/spool_file.h"
#include "facts.pb-c.h"

enum { EVERY_MS = 50, BATCH_RECORDS = 4000, BATCH_BYTES = 1 << 20, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 2000 };
enum { BUSY_RECORDS = 200 };              /* when a batch had as many, the next one waits twice as long: half as many commits for the receiver */
enum { SKIP_BYTES = 4 << 20 };            /* of other types: then the cursor is moved for them alone */

enum ship_state { SHIP_RESTING, SHIP_ASKING, SHIP_IDLE, SHIP_SENDING };

struct shipper {
	struct loop *loop;
	struct rpc_client *receiver;
	char *dir, *topic, *source;
	const struct spool *spool;
	uint8_t type_min, type_max;
	int64_t every_ms, backoff_ms;
	uint32_t batch_records, batch_bytes;
	void (*on_acked)(void *arg, uint64_t position);
	void *arg;

	enum ship_state state;
	bool freed;                   /* while a question is under way: its closure frees */
	bool kicked;                  /* once more at once after the question under way */
	bool away;                    /* logged */
	bool identified;
	uint64_t epoch, origin;
	uint64_t first, next, settled, gaps;
	bool full;                    /* the batch under way: there may be more at once */
	struct spool_reader *reader;
	struct loop_timer timer;

	struct buf bytes;             /* the batch: records one behind the other */
	ProtobufCBinaryData *records; /* data is an offset until the batch is complete */
	size_t n;
};

static void on_timer(struct loop_timer *);
static void ask_cursor(struct shipper *);
static void send_batch(struct shipper *);

struct shipper *shipper_new(struct loop *loop, struct rpc_client *receiver, const struct ship_opts *o,
			    void (*on_acked)(void *arg, uint64_t position), void *arg)
{
	struct shipper *s = x_calloc(1, sizeof(*s));

	s->loop = loop;
	s->receiver = receiver;
	s->dir = x_strdup(o->dir);
	s->topic = x_strdup(o->topic);
	s->source = x_strdup(o->source);
	s->spool = o->spool;
	s->type_min = o->type_min;
	s->type_max = o->type_max;
	s->every_ms = o->every_ms > 0 ? o->every_ms : EVERY_MS;
	s->batch_records = o->batch_records ? o->batch_records : BATCH_RECORDS;
	s->batch_bytes = o->batch_bytes ? o->batch_bytes : BATCH_BYTES;
	s->records = x_calloc(s->batch_records, sizeof(*s->records));
	s->backoff_ms = BACKOFF_MIN_MS;
	s->on_acked = on_acked;
	s->arg = arg;
	loop_timer_set(loop, &s->timer, 0, on_timer);
	return s;
}

static void shipper_delete(struct shipper *s)
{
	spool_reader_close(s->reader);
	buf_free(&s->bytes);
	free(s->records);
	free(s->dir);
	free(s->topic);
	free(s->source);
	free(s);
}

void shipper_free(struct shipper *s)
{
	if (!s)
		return;
	loop_timer_del(&s->timer);
	s->freed = true;
	if (s->state != SHIP_ASKING && s->state != SHIP_SENDING)
		shipper_delete(s);
}

uint64_t shipper_acked(const struct shipper *s) { return s->settled; }
uint64_t shipper_gaps(const struct shipper *s) { return s->gaps; }

void shipper_kick(struct shipper *s)
{
	if (s->state == SHIP_ASKING || s->state == SHIP_SENDING)
		s->kicked = true;
	else
		loop_timer_set(s->loop, &s->timer, 0, on_timer);
}

static void on_timer(struct loop_timer *t)
{
	struct shipper *s = list_entry(t, struct shipper, timer);

	if (s->state == SHIP_IDLE)
		send_batch(s);
	else
		ask_cursor(s);
}

/* --- away and back --- */

static void rest(struct shipper *s, const char *why)
{
	int64_t wait_ms = s->backoff_ms / 2 + (int64_t)(rand_unit() * (double)s->backoff_ms / 2);

	if (!s->away && s->backoff_ms > BACKOFF_MIN_MS)
		LOG_WARN("facts cannot be shipped; they wait in the spool", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_S("why", why));
	s->away |= s->backoff_ms > BACKOFF_MIN_MS;
	s->state = SHIP_RESTING;
	s->kicked = false;
	s->backoff_ms = s->backoff_ms * 2 < BACKOFF_MAX_MS ? s->backoff_ms * 2 : BACKOFF_MAX_MS;
	loop_timer_set(s->loop, &s->timer, wait_ms * 1000, on_timer);
}

static void idle(struct shipper *s, bool at_once)
{
	int64_t wait_ms = at_once || s->kicked ? 0 : s->n < BUSY_RECORDS ? s->every_ms : 2 * s->every_ms;

	s->state = SHIP_IDLE;
	loop_timer_set(s->loop, &s->timer, wait_ms * 1000, on_timer);
	s->kicked = false;
}

static void progress(struct shipper *s)
{
	s->backoff_ms = BACKOFF_MIN_MS;
	if (s->away)
		LOG_INFO("facts are shipped again", LOG_S("topic", s->topic), LOG_S("source", s->source));
	s->away = false;
}

static void acked(struct shipper *s, uint64_t position)
{
	s->first = s->settled = position;
	if (s->on_acked)
		s->on_acked(s->arg, position);
}

static const char *refusal(const struct shipper *s)
{
	const struct why *why = rpc_error(s->receiver);

	return why && why->text[0] ? why->text : "no answer";
}

/* --- the receiver's cursor --- */

static void gap(struct shipper *s, uint64_t from, uint64_t to)
{
	s->gaps++;
	LOG_ERROR("facts between the receiver's cursor and the spool are gone", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_I("cursor", from),
		  LOG_I("next", to));
}

/* A cursor of 0 is that of a receiver that knows nothing yet. One behind the end is of another spool that had this name. */
static bool reader_at(struct shipper *s, uint64_t cursor, struct why *why)
{
	struct spool_list l;
	uint64_t end, from = cursor ? cursor : s->origin;

	spool_reader_close(s->reader);
	s->reader = NULL;
	if (!spool_list_dir(s->dir, &l, why))
		return false;
	end = l.n ? l.at[l.n - 1].first + l.at[l.n - 1].size : s->origin;
	free(l.at);
	if (from > end) {
		gap(s, from, s->origin);
		from = s->origin;
	}
	s->reader = spool_reader_open(s->dir, from, why);
	return s->reader != NULL;
}

static void on_cursor(const Corral__FactAck *ack, void *arg)
{
	struct shipper *s = arg;
	struct why why;

	s->state = SHIP_RESTING;
	if (s->freed) {
		shipper_delete(s);
		return;
	}
	if (!ack) {
		rest(s, refusal(s));
		return;
	}
	if (!reader_at(s, ack->position, &why)) {
		rest(s, why.text);
		return;
	}
	s->next = spool_reader_position(s->reader);
	s->first = s->settled = ack->position;
	/* Not so when the cursor is of another spool: nothing of this one has arrived. */
	if (s->next >= ack->position)
		acked(s, ack->position);
	idle(s, true);
}

/* The epoch is read once: a shipper that outlives its writer must not speak for the next one. */
static void ask_cursor(struct shipper *s)
{
	Corral__FactCursor q = CORRAL__FACT_CURSOR__INIT;
	struct why why;

	if (!s->identified && !spool_identity(s->dir, &s->epoch, &s->origin, &why)) {
		rest(s, why.text);
		return;
	}
	s->identified = true;
	q.topic = s->topic;
	q.source = s->source;
	q.epoch = s->epoch;
	s->state = SHIP_ASKING;
	corral__facts__cursor(rpc_stub(s->receiver, &corral__facts__descriptor), &q, on_cursor, s);
}

/* --- batches --- */

static void batch_clear(struct shipper *s)
{
	buf_clear(&s->bytes);
	s->n = 0;
}

static void batch_add(struct shipper *s, struct str payload)
{
	s->records[s->n++] = (ProtobufCBinaryData){ payload.n, (uint8_t *)s->bytes.n };
	buf_str(&s->bytes, payload);
}

/* Fills the batch with what there is; false when there was less than a batch holds. */
static bool batch_fill(struct shipper *s)
{
	uint64_t at, next, gaps = spool_reader_gaps(s->reader);
	struct str payload;
	struct why why;
	uint8_t type;
	int rc = 1;

	while (s->n < s->batch_records && s->bytes.n < s->batch_bytes && (rc = spool_read(s->reader, &type, &payload, &at, &next, &why)) != 0) {
		if (spool_reader_gaps(s->reader) != gaps)
			gap(s, s->next, at);
		gaps = spool_reader_gaps(s->reader);
		if (rc < 0) {
			LOG_ERROR("a damaged part of the spool is passed over", LOG_S("topic", s->topic), LOG_S("source", s->source), LOG_S("error", why.text));
			gap(s, at, next);
		} else if (type >= s->type_min && type <= s->type_max) {
			batch_add(s, payload);
		}
		s->next = next;
	}
	if (rc == 0)
		s->next = spool_reader_position(s->reader);
	return rc != 0;
}

static void on_ingested(const Corral__FactAck *ack, void *arg)
{
	struct shipper *s = arg;

	s->state = SHIP_RESTING;
	if (s->freed) {
		shipper_delete(s);
		return;
	}
	if (!ack || ack->position != s->next) {
		rest(s, ack ? "the receiver's cursor is elsewhere" : refusal(s));
		return;
	}
	progress(s);
	acked(s, ack->position);
	idle(s, s->full);
}

static void send_batch(struct shipper *s)
{
	Corral__FactBatch b = CORRAL__FACT_BATCH__INIT;

	batch_clear(s);
	/* Where the reader is and where the writer is are the same position: it need not look at the directory to know. */
	s->full = !(s->spool && spool_end(s->spool) == s->next) && batch_fill(s);
	if (s->n == 0 && s->next - (s->first ? s->first : s->origin) < SKIP_BYTES) {
		s->settled = s->next;
		idle(s, s->full);
		return;
	}
	for (size_t i = 0; i < s->n; i++)
		s->records[i].data = (uint8_t *)s->bytes.p + (uintptr_t)s->records[i].data;
	b.topic = s->topic;
	b.source = s->source;
	b.epoch = s->epoch;
	b.first = s->first;
	b.next = s->next;
	b.records = s->records;
	b.n_records = s->n;
	s->state = SHIP_SENDING;
	corral__facts__ingest(rpc_stub(s->receiver, &corral__facts__descriptor), &b, on_ingested, s);
}

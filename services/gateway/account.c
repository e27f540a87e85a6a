/* account.c - see account.h. */
#include "services/gateway/account.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "events.pb-c.h"
#include "services/gateway/budget.h"
#include "services/gateway/cost.h"
#include "services/gateway/decision_pack.h"
#include "services/gateway/recall.h"
#include "services/gateway/shadow.h"
#include "services/gateway/usage_pack.h"

static ProtobufCBinaryData bytes_of(struct uuid *u) { return (ProtobufCBinaryData){ sizeof(u->b), u->b }; }

/* Every string of an event is a name with a bound (see str_copy, cut()); all together they stay far below this. */
enum { EVENT_ROOM = 4096 };

/* Said once. The client learns that it is so, not where our files lie. */
static void spool_broken(struct worker *w, const struct spool *s, struct why *why)
{
	if (s == w->usage && !w->spool_failed)
		LOG_ERROR("the spool cannot be written: no new work is admitted", LOG_S("error", why->text));
	if (s == w->usage)
		w->spool_failed = true;
	err_set(why, ERR_STORE_FAILED, "what is used cannot be booked now, so nothing is sent to a model; the gateway's log says why");
}

/* Room in the spool's map, to pack straight into. */
static uint8_t *reserve(struct worker *w, struct spool *s, uint32_t room, struct why *why)
{
	uint8_t *at = spool_reserve(s, room, why);

	if (!at)
		spool_broken(w, s, why);
	else if (s == w->usage)
		w->spool_failed = false;
	return at;
}

static int64_t append_usage(struct worker *w, uint8_t type, const Corral__UsageEvent *e, struct why *why)
{
	uint8_t *at = reserve(w, w->usage, EVENT_ROOM, why);

	return at ? spool_commit(w->usage, type, (uint32_t)usage_pack(e, at)) : -1;
}

/* Which FINAL of this spool's run it is; the ledger counts them. */
static int64_t append_final(struct worker *w, Corral__UsageEvent *e, struct why *why)
{
	uint64_t tokens = w->run_tokens + e->prompt_tokens + e->completion_tokens;
	int64_t at;

	e->run = w->run;
	e->run_finals = w->run_finals + 1;
	e->run_tokens = tokens;
	at = append_usage(w, REC_FINAL, e, why);
	if (at >= 0) {
		w->run_finals++;
		w->run_tokens = tokens;
	} else {
		e->run = e->run_finals = e->run_tokens = 0;       /* it is written later, if at all, and not counted */
	}
	return at;
}

/* A FINAL that waits for room on the disk. Its START stays needed for recovery meanwhile. */
struct owed {
	struct list node;
	int64_t start_position;
	size_t n;
	char packed[];
};

static void note_oldest(struct worker *w)
{
	uint64_t oldest = UINT64_MAX;

	if (!list_empty(&w->open))
		oldest = (uint64_t)list_entry(w->open.next, struct attempt, open)->start_position;
	list_each(it, &w->owed)
		if ((uint64_t)list_entry(it, struct owed, node)->start_position < oldest)
			oldest = (uint64_t)list_entry(it, struct owed, node)->start_position;
	atomic_store_explicit(&w->oldest_open, oldest, memory_order_release);
}

/* What START and FINAL both say. */
static void common(struct req *r, Corral__UsageEvent *e, struct uuid *event_id)
{
	int64_t now = wall_us();

	*event_id = uuid_v7(now);
	e->event_id = bytes_of(event_id);
	e->request_id = bytes_of(&r->id);
	e->attempt = r->try.number;
	e->occurred_at_us = now;
	e->tenant = (char *)r->tenant.p;
	e->key_id = (char *)r->key_id.p;
	e->model = (char *)req_model_name(r);
	e->backend = (char *)req_backend_name(r);
	if (r->try.number)
		e->provider = (char *)cost_provider(r->world, r->try.replica);
	e->dialect = (char *)llm_dialect_name(r->in.dialect);
	e->stream = r->in.stream;
	e->trace = (ProtobufCBinaryData){ sizeof(r->trace), r->trace };
	if (r->experiment) {
		e->experiment_id = (char *)r->experiment;
		e->arm = (char *)r->arm;
		e->unit = (char *)r->unit;
	}
	if (r->shadow)
		e->shadow_of = bytes_of(shadow_client(r->shadow));
	if (r->try.number && r->budget_stamp.n)
		e->budgets = (ProtobufCBinaryData){ r->budget_stamp.n, (uint8_t *)(uintptr_t)r->budget_stamp.p };
}

static char *policy_version(struct req *r)
{
	const struct policy *p;

	if (!r->world)                    /* it came before the first model list */
		return (char *)"";
	p = &r->world->pol;
	if (!r->policy_id.version || (r->policy_id.epoch == p->epoch && r->policy_id.version == p->version))
		return r->world->policy_version;
	return arena_printf(r->mem, "%llu.%llu", (unsigned long long)r->policy_id.epoch, (unsigned long long)r->policy_id.version);
}

static void describe(struct req *r, Corral__UsageEvent *e)
{
	e->user = r->user_hash;
	e->prompt_hash = r->prompt_hash;
	e->prompt_sketch = r->prompt_sketch;
	e->task_type = r->features.task_type;
	e->complexity = r->features.complexity;
	e->language = r->features.language;
	e->context_size = r->in.prompt_tokens_est;
	e->reason = r->picked_reason;
	e->requested_model = r->features.requested_model;
	e->policy_version = policy_version(r);
	e->queue_us = r->queue_us;
}

static void owe(struct worker *w, const Corral__UsageEvent *e, int64_t start_position)
{
	size_t n = protobuf_c_message_get_packed_size(&e->base);
	struct owed *o = x_malloc(sizeof(*o) + n);

	o->start_position = start_position;
	o->n = protobuf_c_message_pack(&e->base, (uint8_t *)o->packed);
	list_push(&w->owed, &o->node);
}

bool account_flush(struct worker *w)
{
	struct why why;

	if (list_empty(&w->owed))
		return true;
	list_each_safe(it, &w->owed) {
		struct owed *o = list_entry(it, struct owed, node);

		if (spool_append(w->usage, REC_FINAL, str_n(o->packed, o->n), &why) < 0)
			break;
		list_del(&o->node);
		free(o);
	}
	note_oldest(w);
	return list_empty(&w->owed);
}

void account_forget(struct worker *w)
{
	if (!account_flush(w))
		LOG_WARN("the spool is still full: the ledger will have some attempts as unknown");
	list_each_safe(it, &w->owed)
		free(list_entry(it, struct owed, node));
	list_init(&w->owed);
}

static int64_t still_full(struct why *why)
{
	err_set(why, ERR_STORE_FAILED, "the disk of the spool is full: what has been answered cannot be booked yet; free some room");
	return -1;
}

bool account_start(struct req *r, struct why *why)
{
	struct worker *w = r->worker;
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id;

	common(r, &e, &id);
	describe(r, &e);
	r->try.start_wall_us = e.occurred_at_us;
	e.kind = CORRAL__USAGE_KIND__USAGE_START;
	r->try.start_position = !account_flush(w) ? still_full(why) : append_usage(w, REC_BEGUN, &e, why);
	if (r->try.start_position < 0)
		return false;
	list_push(&w->open, &r->try.open);
	note_oldest(w);
	return true;
}

void account_announce(struct req *r, int64_t now_us)
{
	struct attempt *t = &r->try;
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id;
	struct why why;

	if (t->announced || t->start_position < 0 || now_us - t->start_us < ANNOUNCE_US)
		return;
	common(r, &e, &id);
	describe(r, &e);
	e.kind = CORRAL__USAGE_KIND__USAGE_START;
	e.occurred_at_us = t->start_wall_us;
	t->announced = append_usage(r->worker, REC_START, &e, &why) >= 0;
}

static void fill_usage(struct req *r, Corral__UsageEvent *e)
{
	const struct llm_usage *u = r->try.relay ? llm_relay_usage(r->try.relay) : NULL;

	if (!u || r->try.unspent || (!u->reported && !r->try.sent))
		return;
	e->prompt_tokens = u->prompt_tokens;
	e->completion_tokens = u->completion_tokens;
	e->cached_prompt_tokens = u->cached_tokens < u->prompt_tokens ? u->cached_tokens : u->prompt_tokens;
	/* Not reported: pieces of a stream are counted, a whole answer and every prompt are judged by their length. */
	e->tokens_source = u->reported ? CORRAL__TOKENS_SOURCE__TOKENS_REPORTED :
		r->in.stream ? CORRAL__TOKENS_SOURCE__TOKENS_COUNTED : CORRAL__TOKENS_SOURCE__TOKENS_ESTIMATED;
	e->prompt_tokens_source = u->reported ? CORRAL__TOKENS_SOURCE__TOKENS_REPORTED : CORRAL__TOKENS_SOURCE__TOKENS_ESTIMATED;
	r->used = *u;
}

/* It may have cost money, and nobody heard how much: what was sent to a provider broke off, on our side or theirs. A client that left a stream has
 * what it was told; what was heard of a whole answer is an estimate that is near. */
static bool is_in_doubt(const struct req *r, enum err code)
{
	const struct attempt *t = &r->try;

	if (code == ERR_OK || !t->number || !t->sent || t->unspent || !cost_is_cloud(r->world, t->replica))
		return false;
	return !(t->relay && llm_relay_usage(t->relay)->reported) && !(code == ERR_CLIENT_GONE && t->first_us);
}

/* Then the most that it can be stays charged: what was reserved of its budgets. What was refused as a whole has no answer. */
static void fill_most(const struct req *r, Corral__UsageEvent *e)
{
	bool refused = r->try.upstream_status >= 400 && r->try.upstream_status < 500;

	if (!r->reserved_prompt)
		return;
	e->prompt_tokens = r->reserved_prompt;
	e->completion_tokens = refused ? 0 : r->reserved_answer;
	e->cached_prompt_tokens = 0;
	e->tokens_source = e->prompt_tokens_source = CORRAL__TOKENS_SOURCE__TOKENS_IN_DOUBT;
}

void account_checkpoint(struct req *r)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct why why;

	e.kind = CORRAL__USAGE_KIND__USAGE_CHECKPOINT;
	e.request_id = bytes_of(&r->id);
	e.attempt = r->try.number;
	fill_usage(r, &e);
	e.response_bytes = r->try.bytes;
	append_usage(r->worker, REC_CHECKPOINT, &e, &why);
}

void account_final(struct req *r, const char *status, enum err code)
{
	struct worker *w = r->worker;
	struct attempt *t = &r->try;
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id;
	struct why why;
	int64_t now = req_now(r);

	if (t->number && t->start_position < 0)
		return;
	common(r, &e, &id);
	if (!t->announced)
		describe(r, &e);          /* with a START the ledger has it already */
	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.status = (char *)status;
	e.error_code = code == ERR_OK ? (char *)"" : (char *)err_name(code);
	e.http_status = (uint32_t)r->status;
	e.retried = r->retries;
	e.request_us = r->experiment ? now - r->start_us : 0;
	fill_usage(r, &e);
	if (is_in_doubt(r, code))
		fill_most(r, &e);
	if (!recall_is_hit(r))            /* what is given again takes nothing from a limit */
		r->spent_tokens += e.prompt_tokens + e.completion_tokens;
	cost_book(r, &e);
	budget_settle(r, e.prompt_tokens + e.completion_tokens, e.cost_microusd);
	e.response_bytes = t->bytes;
	e.cached = recall_is_hit(r);
	e.latency_us = now - (t->number ? t->start_us : r->start_us);
	if (t->number)                    /* so that who knows no START finds the same beginning, which its price is of */
		e.occurred_at_us = t->start_wall_us + e.latency_us;
	e.ttft_us = t->first_us ? t->first_us - t->start_us : 0;
	if (append_final(w, &e, &why) < 0 && t->number)
		owe(w, &e, t->start_position);
	if (t->number) {
		list_del(&t->open);
		t->start_position = -1;
		note_oldest(w);
	}
}

/* True the first time: then the record carries the snapshot itself, so that no version a decision used can be missing. */
static bool first_use(struct snapshot_id *logged, uint64_t epoch, uint64_t version)
{
	bool first = logged->epoch != epoch || logged->version != version;

	*logged = (struct snapshot_id){ epoch, version };
	return first;
}

static ProtobufCBinaryData binary(struct str s) { return (ProtobufCBinaryData){ s.n, (uint8_t *)s.p }; }

static void attach_snapshots(struct req *r, Corral__DecisionEvent *e)
{
	struct worker *w = r->worker;

	if (first_use(&w->logged_models, e->models_epoch, e->models_version))
		e->models_snapshot = binary(r->world->models_bytes);
	if (r->not_asked && !*r->not_asked)
		return;                   /* decided by the selector, under a policy that it has itself */
	if (first_use(&w->logged_policy, e->policy_epoch, e->policy_version))
		e->policy_snapshot = binary(r->world->policy_bytes);
	if (e->experiments_version && first_use(&w->logged_experiments, e->experiments_epoch, e->experiments_version))
		e->experiments_snapshot = binary(r->world->experiments_bytes);
}

static int64_t append_decision(struct worker *w, const Corral__DecisionEvent *e, struct why *why)
{
	uint8_t *at = reserve(w, w->decisions, (uint32_t)decision_event_room(e), why);

	return at ? spool_commit(w->decisions, REC_DECISION, (uint32_t)decision_event_pack(e, at)) : -1;
}

void account_decision(struct req *r)
{
	Corral__DecisionEvent e = CORRAL__DECISION_EVENT__INIT;
	struct world *world = r->world;
	struct buf outcome = { .cap = decision_packed_size(&r->pick) };
	struct why why;

	e.features.data = arena_alloc(r->mem, features_room(&r->features));
	e.features.len = features_pack(&r->features, e.features.data);
	outcome.p = arena_alloc(r->mem, outcome.cap);     /* as long as it gets: it never grows out of the arena */
	e.load.len = sizeof(struct load) * r->pick_reach.n;
	e.load.data = (uint8_t *)r->pick_load;
	decision_pack(&r->pick, &outcome);
	e.outcome = (ProtobufCBinaryData){ outcome.n, (uint8_t *)outcome.p };
	e.request_id = bytes_of(&r->id);
	e.occurred_at_us = r->start_wall_us;
	e.trace = (ProtobufCBinaryData){ sizeof(r->trace), r->trace };
	e.model = r->model;
	e.alias = r->alias;
	e.models_epoch = world->cat.epoch;
	e.models_version = world->cat.version;
	e.policy_epoch = r->policy_id.epoch;
	e.policy_version = r->policy_id.version;
	e.experiments_epoch = r->experiments_id.epoch;
	e.experiments_version = r->experiments_id.version;
	e.queue_full = (ProtobufCBinaryData){ r->n_full * sizeof(*r->full), (uint8_t *)r->full };
	e.decided_by = r->not_asked && !*r->not_asked ? (char *)"selector" : (char *)"";
	e.not_asked = r->not_asked ? (char *)r->not_asked : (char *)"";
	attach_snapshots(r, &e);
	if (append_decision(r->worker, &e, &why) < 0)
		r->worker->logged_models = r->worker->logged_policy = r->worker->logged_experiments = (struct snapshot_id){ 0 };
}

/* --- recovery --- */

struct open_start {
	struct open_start *next;
	uint8_t key[20];              /* request id and attempt */
	Corral__UsageEvent *start, *checkpoint;
};

enum { BUCKETS = 1024 };

static bool key_of(const Corral__UsageEvent *e, uint8_t key[20])
{
	if (e->request_id.len != 16)
		return false;
	memcpy(key, e->request_id.data, 16);
	memcpy(key + 16, &e->attempt, 4);
	return true;
}

static struct open_start **find(struct open_start **table, const uint8_t key[20])
{
	struct open_start **at = &table[str_hash(str_n((const char *)key, 20), 0) % BUCKETS];

	while (*at && memcmp((*at)->key, key, 20) != 0)
		at = &(*at)->next;
	return at;
}

static void drop(struct open_start **at)
{
	struct open_start *o = *at;

	*at = o->next;
	corral__usage_event__free_unpacked(o->start, NULL);
	if (o->checkpoint)
		corral__usage_event__free_unpacked(o->checkpoint, NULL);
	free(o);
}

static void note(struct open_start **table, uint8_t type, Corral__UsageEvent *e)
{
	uint8_t key[20];
	struct open_start **at;

	if (!key_of(e, key)) {
		corral__usage_event__free_unpacked(e, NULL);
		return;
	}
	at = find(table, key);
	if (type == REC_BEGUN && !*at) {
		*at = x_calloc(1, sizeof(**at));
		memcpy((*at)->key, key, 20);
		(*at)->start = e;
		return;
	}
	if (type == REC_CHECKPOINT && *at) {
		if ((*at)->checkpoint)
			corral__usage_event__free_unpacked((*at)->checkpoint, NULL);
		(*at)->checkpoint = e;
		return;
	}
	if (type == REC_FINAL && *at)
		drop(at);
	corral__usage_event__free_unpacked(e, NULL);
}

/* 'run' counts what is written so, as append_final() does: run, finals, tokens. */
static bool close_one(struct spool *s, struct open_start *o, uint64_t run[3], struct why *why)
{
	Corral__UsageEvent e = CORRAL__USAGE_EVENT__INIT;
	struct uuid id = uuid_v7(wall_us());
	uint8_t *packed;
	size_t n;
	int64_t at;

	e = *o->start;                    /* the same words; nothing of it is freed with e */
	e.event_id = bytes_of(&id);
	e.kind = CORRAL__USAGE_KIND__USAGE_FINAL;
	e.occurred_at_us = wall_us();
	e.status = (char *)"unknown";
	e.error_code = (char *)err_name(ERR_INTERNAL);
	if (o->checkpoint) {
		e.prompt_tokens = o->checkpoint->prompt_tokens;
		e.completion_tokens = o->checkpoint->completion_tokens;
		e.tokens_source = o->checkpoint->tokens_source;
		e.prompt_tokens_source = o->checkpoint->prompt_tokens_source;
		e.response_bytes = o->checkpoint->response_bytes;
	}
	e.run = run[0];
	e.run_finals = ++run[1];
	e.run_tokens = run[2] += e.prompt_tokens + e.completion_tokens;
	n = corral__usage_event__get_packed_size(&e);
	packed = x_malloc(n);
	corral__usage_event__pack(&e, packed);
	at = spool_append(s, REC_FINAL, str_n((char *)packed, n), why);
	free(packed);
	return at >= 0;
}

int account_recover(struct spool *s, const char *dir, struct why *why)
{
	struct open_start **table = x_calloc(BUCKETS, sizeof(*table));
	struct spool_reader *reader = spool_reader_open(dir, 0, why);
	uint64_t run[3] = { rand_u64() | 1 };
	struct str payload;
	uint64_t position, next;
	uint8_t type;
	int got, closed = reader ? 0 : -1;

	while (reader && (got = spool_read(reader, &type, &payload, &position, &next, why)) != 0) {
		Corral__UsageEvent *e;

		if (got < 0) {
			LOG_WARN("a damaged part of the spool was left out", LOG_S("spool", dir), LOG_S("error", why->text));
			continue;
		}
		if (type == REC_BEGUN || type == REC_FINAL || type == REC_CHECKPOINT)
			if ((e = corral__usage_event__unpack(NULL, payload.n, (const uint8_t *)payload.p)))
				note(table, type, e);
	}
	spool_reader_close(reader);
	for (unsigned i = 0; i < BUCKETS; i++)
		while (table[i]) {
			if (closed >= 0)
				closed = close_one(s, table[i], run, why) ? closed + 1 : -1;
			drop(&table[i]);
		}
	free(table);
	return closed;
}

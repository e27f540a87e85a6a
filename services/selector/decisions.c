/* decisions.c - keeps every decision a gateway reports, once, and answers "why" by computing it again from the stored inputs.
 *
 * All of that is works on the thread of the database (db_thread.h), which also reads Kafka: Decide is answered by the service's loop, and waits for none of it. */
#include <pthread.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/data/pbwire.h"
#include "services/selector/blocks.h"
#include "services/selector/selector.h"

enum { Q_CURSOR = Q_BLOCKS, Q_CURSOR_INSERT, Q_CURSOR_MOVE, Q_VERSION, Q_VERSION_GET, Q_DEAD, Q_CLEAN_VERSIONS, Q_INTAKE };

const char *const selector_statements[] = {
	BLOCK_STATEMENTS,
	[Q_CURSOR] = "SELECT position, epoch FROM cursors WHERE source = ?1",
	[Q_CURSOR_INSERT] = "INSERT INTO cursors (source, position, epoch) VALUES (?1, 0, ?2) ON CONFLICT (source) DO NOTHING",
	[Q_CURSOR_MOVE] = "UPDATE cursors SET position = ?2, epoch = ?3 WHERE source = ?1 AND position = ?4 AND epoch <= ?3",
	[Q_VERSION] = "INSERT INTO versions (kind, epoch, version, noted_at_us, bytes) VALUES (?1, ?2, ?3, ?4, ?5) "
		      "ON CONFLICT (kind, epoch, version) DO UPDATE SET noted_at_us = excluded.noted_at_us",
	[Q_VERSION_GET] = "SELECT bytes FROM versions WHERE kind = ?1 AND epoch = ?2 AND version = ?3",
	[Q_DEAD] = "INSERT INTO dead_letters (source, noted_at_us, reason, bytes) VALUES (?1, ?2, ?3, ?4)",
	[Q_CLEAN_VERSIONS] = "DELETE FROM versions WHERE noted_at_us < ?1",
	INTAKE_STATEMENTS(Q_INTAKE),
};
const unsigned selector_n_statements = sizeof(selector_statements) / sizeof(*selector_statements);

const struct db_migration selector_migrations[] = {
	{ 1, "CREATE TABLE cursors (source TEXT PRIMARY KEY, position BIGINT NOT NULL, epoch BIGINT NOT NULL);"
	     "CREATE TABLE decisions (request_id BLOB PRIMARY KEY, occurred_at_us BIGINT NOT NULL, event BLOB NOT NULL) WITHOUT ROWID;"
	     "CREATE INDEX decisions_by_time ON decisions (occurred_at_us);"
	     "CREATE TABLE versions (kind TEXT NOT NULL, epoch BIGINT NOT NULL, version BIGINT NOT NULL, noted_at_us BIGINT NOT NULL,"
	     " bytes BLOB NOT NULL, PRIMARY KEY (kind, epoch, version));"
	     "CREATE TABLE dead_letters (source TEXT NOT NULL, noted_at_us BIGINT NOT NULL, reason TEXT NOT NULL, bytes BLOB NOT NULL);" },
	/* a request's id begins with its time: the rows lie in its order already */
	{ 2, "DROP INDEX decisions_by_time" },
	/* many to a row: see blocks.h */
	{ 3, "CREATE TABLE decision_blocks (id INTEGER PRIMARY KEY, first_id BLOB NOT NULL, last_id BLOB NOT NULL, n BIGINT NOT NULL,"
	     " ids BLOB NOT NULL, events BLOB NOT NULL);"
	     "CREATE INDEX decision_blocks_by_id ON decision_blocks (last_id, first_id);"
	     "INSERT INTO decision_blocks (first_id, last_id, n, ids, events) SELECT request_id, request_id, 1, x'', event FROM decisions ORDER BY request_id;"
	     "DROP TABLE decisions" },
	{ 4, INTAKE_SCHEMA },
	{ 0 },
};

enum { WORKS_MOST = 128 };        /* a batch of facts has a megabyte, and each worker of a gateway sends one at a time */

/* --- versions of snapshots --- */

/* The rings are filled by the loop and read by the thread; never held while the database is asked. */
static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;

void versions_note(struct version_ring *r, struct snapshot_id id, struct str bytes)
{
	struct version *v;
	char *copy = x_malloc(bytes.n + 1);

	if (bytes.n)
		memcpy(copy, bytes.p, bytes.n);
	pthread_mutex_lock(&rings_lock);
	v = &r->v[r->next++ % VERSIONS_KEPT];
	free((void *)v->bytes.p);
	*v = (struct version){ id, str_n(copy, bytes.n), false };
	pthread_mutex_unlock(&rings_lock);
}

void versions_free(struct version_ring *r)
{
	for (unsigned i = 0; i < VERSIONS_KEPT; i++)
		free((void *)r->v[i].bytes.p);
}

/* The newest first: most decisions are made on it. Under the lock. */
static struct version *find_version(struct version_ring *r, uint64_t epoch, uint64_t version)
{
	for (unsigned i = 1; i <= VERSIONS_KEPT; i++) {
		struct version *v = &r->v[(r->next - i) % VERSIONS_KEPT];

		if (v->bytes.p && v->id.epoch == epoch && v->id.version == version)
			return v;
	}
	return NULL;
}

/* The next decision writes its versions again. */
static void forget_stored(struct selector *s)
{
	pthread_mutex_lock(&rings_lock);
	for (unsigned i = 0; i < VERSIONS_KEPT; i++)
		s->models.v[i].stored = s->policies.v[i].stored = s->experiments.v[i].stored = false;
	pthread_mutex_unlock(&rings_lock);
}

/* A copy of it, if it is there; with only_unstored: and is not in the database yet. */
static bool copy_version(struct version_ring *r, uint64_t epoch, uint64_t version, bool only_unstored, struct arena **mem, struct str *ret)
{
	struct version *v;
	bool found;

	pthread_mutex_lock(&rings_lock);
	v = find_version(r, epoch, version);
	found = v && !(only_unstored && v->stored);
	if (found) {
		*mem = *mem ? *mem : arena_new(v->bytes.n + 64);
		*ret = arena_str(*mem, v->bytes);
	}
	pthread_mutex_unlock(&rings_lock);
	return found;
}

static void set_stored(struct version_ring *r, uint64_t epoch, uint64_t version)
{
	struct version *v;

	pthread_mutex_lock(&rings_lock);
	v = find_version(r, epoch, version);
	if (v)
		v->stored = true;
	pthread_mutex_unlock(&rings_lock);
}

static bool write_version(struct selector *s, const char *kind, uint64_t epoch, uint64_t version, struct str bytes, struct why *why)
{
	return db_run(s->db, Q_VERSION, (struct db_value[]){ DB_Z(kind), DB_I(epoch), DB_I(version), DB_I(wall_us()), DB_B(bytes) }, 5, NULL, NULL,
		      NULL, why);
}

/* A version that a decision refers to is written, as the gateway sent it with the first decision on it or as we heard it, and noted once
 * more after each cleaning, so that it lives as long as they do. */
static bool store_version(struct selector *s, struct version_ring *r, uint64_t epoch, uint64_t version, struct str sent, struct why *why)
{
	struct arena *mem = NULL;
	struct str bytes;
	bool ok;

	if (sent.n)
		return write_version(s, r->kind, epoch, version, sent, why);
	if (!copy_version(r, epoch, version, true, &mem, &bytes))
		return true;
	ok = write_version(s, r->kind, epoch, version, bytes, why);
	if (ok)
		set_stored(r, epoch, version);
	arena_free(mem);
	return ok;
}

struct found { struct arena *mem; struct str bytes; bool found; };

static bool take_bytes(void *arg, const struct db_row *row)
{
	struct found *f = arg;

	f->bytes = arena_str(f->mem, db_str(row, 0));
	f->found = true;
	return false;
}

static bool load_version(struct selector *s, struct version_ring *r, uint64_t epoch, uint64_t version, struct arena *mem, struct str *ret)
{
	struct found f = { .mem = mem };
	struct why why;

	if (version == 0) {               /* built-in rules: nothing was published yet */
		*ret = STR("");
		return true;
	}
	if (copy_version(r, epoch, version, false, &mem, ret))
		return true;
	db_run(s->db, Q_VERSION_GET, (struct db_value[]){ DB_Z(r->kind), DB_I(epoch), DB_I(version) }, 3, take_bytes, &f, NULL, &why);
	*ret = f.bytes;
	return f.found;
}

/* --- facts in --- */

struct cursor { uint64_t position, epoch; bool found; };

static bool take_cursor(void *arg, const struct db_row *row)
{
	struct cursor *c = arg;

	*c = (struct cursor){ (uint64_t)db_int(row, 0), (uint64_t)db_int(row, 1), true };
	return false;
}

static bool read_cursor(struct selector *s, const char *source, struct cursor *c, struct why *why)
{
	*c = (struct cursor){ 0 };
	return db_run(s->db, Q_CURSOR, (struct db_value[]){ DB_Z(source) }, 1, take_cursor, c, NULL, why);
}

static bool bury(struct selector *s, const char *source, struct str bytes, struct why *why)
{
	series_inc(metrics_series(svc_metrics(s->svc), M_DECISIONS_DEAD));
	return db_run(s->db, Q_DEAD, (struct db_value[]){ DB_Z(source), DB_I(wall_us()), DB_Z("not a DecisionEvent"), DB_B(bytes) }, 4, NULL, NULL,
		      NULL, why);
}

/* What is read of an event before it is kept. */
struct noted {
	struct str request_id, models_snapshot, policy_snapshot, experiments_snapshot;
	uint64_t models_epoch, models_version, policy_epoch, policy_version, experiments_epoch, experiments_version;
	struct str event;             /* without the snapshots that came with it: they are rows of their own */
	bool later;                   /* it takes the place of one that was kept before: queue_full */
};

static bool note_number(struct noted *e, unsigned field, uint64_t v)
{
	switch (field) {
	case 4: e->models_epoch = v; break;
	case 5: e->models_version = v; break;
	case 6: e->policy_epoch = v; break;
	case 7: e->policy_version = v; break;
	default: return field <= 13;
	}
	return true;
}

static bool note_bytes(struct noted *e, unsigned field, struct str bytes)
{
	switch (field) {
	case 1: e->request_id = bytes; break;
	case 12: e->models_snapshot = bytes; break;
	case 13: e->policy_snapshot = bytes; break;
	case 20: return !e->models_snapshot.p && !e->policy_snapshot.p;        /* the trace, with no snapshot to be cut off before it */
	default: return field <= 13;
	}
	return true;
}

/* Fields in the order of their numbers, as gateways write them: the snapshots are the last. False when it is not so. */
static bool note_ordered(struct noted *e, struct str bytes)
{
	struct pb_reader r = { (const uint8_t *)bytes.p, (const uint8_t *)bytes.p + bytes.n };
	unsigned field, last = 0;
	enum pb_wire wire;
	const uint8_t *at;
	uint64_t v;

	*e = (struct noted){ .event = bytes };
	for (const uint8_t *began = r.p; r.p < r.end; last = field, began = r.p) {
		if (!pb_take_field(&r, &field, &wire, &v, &at) || field <= last)
			return false;
		if (!(wire == PB_VARINT ? note_number(e, field, v) : note_bytes(e, field, str_n((const char *)at, v))))
			return false;
		if (last < 12 && (field == 12 || field == 13))
			e->event.n = (size_t)(began - (const uint8_t *)bytes.p);
	}
	return true;
}

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

/* In any order, as the general decoder has it. */
static bool note_any(struct noted *e, struct arena *mem, struct str bytes)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };
	Corral__DecisionEvent *m = corral__decision_event__unpack(&alloc, bytes.n, (const uint8_t *)bytes.p);
	uint8_t *packed;

	if (!m)
		return false;
	*e = (struct noted){
		.request_id = str_n((char *)m->request_id.data, m->request_id.len),
		.models_snapshot = str_n((char *)m->models_snapshot.data, m->models_snapshot.len),
		.policy_snapshot = str_n((char *)m->policy_snapshot.data, m->policy_snapshot.len),
		.experiments_snapshot = str_n((char *)m->experiments_snapshot.data, m->experiments_snapshot.len),
		.models_epoch = m->models_epoch, .models_version = m->models_version, .policy_epoch = m->policy_epoch, .policy_version = m->policy_version,
		.experiments_epoch = m->experiments_epoch, .experiments_version = m->experiments_version,
	};
	e->later = m->queue_full.len > 0;
	m->models_snapshot = m->policy_snapshot = m->experiments_snapshot = (ProtobufCBinaryData){ 0 };
	packed = arena_alloc(mem, corral__decision_event__get_packed_size(m));
	e->event = str_n((char *)packed, corral__decision_event__pack(m, packed));
	return true;
}

static bool note(struct noted *e, struct arena *mem, struct str bytes)
{
	return (note_ordered(e, bytes) || note_any(e, mem, bytes)) && e->request_id.n == 16;
}

static bool keep_noted(struct selector *s, struct block *block, const struct noted *e, struct why *why)
{
	return store_version(s, &s->models, e->models_epoch, e->models_version, e->models_snapshot, why) &&
	       store_version(s, &s->policies, e->policy_epoch, e->policy_version, e->policy_snapshot, why) &&
	       store_version(s, &s->experiments, e->experiments_epoch, e->experiments_version, e->experiments_snapshot, why) &&
	       block_add(block, s->db, (const uint8_t *)e->request_id.p, e->event, why);
}

static bool keep_one(struct selector *s, struct block *block, struct arena *mem, const char *source, ProtobufCBinaryData rec, struct why *why)
{
	struct str bytes = str_n((const char *)rec.data, rec.len);
	struct noted e;

	return note(&e, mem, bytes) ? keep_noted(s, block, &e, why) : bury(s, source, bytes, why);
}

static bool keep_all(struct selector *s, const Corral__FactBatch *b, struct why *why)
{
	struct arena *mem = arena_new(0);
	struct block block = { 0 };
	size_t i;
	bool ok;

	for (i = 0; i < b->n_records && keep_one(s, &block, mem, b->source, b->records[i], why); i++)
		arena_reset(mem);
	ok = i == b->n_records && block_write(&block, s->db, why);
	block_free(&block);
	arena_free(mem);
	return ok;
}

/* The cursor moves in the same transaction as the rows, from exactly where the batch says it starts: nothing twice, nothing between. */
static bool batch_write(struct selector *s, const Corral__FactBatch *b, int64_t *ret_moved, struct why *why)
{
	if (!db_run(s->db, Q_CURSOR_INSERT, (struct db_value[]){ DB_Z(b->source), DB_I(b->epoch) }, 2, NULL, NULL, NULL, why) ||
	    !db_run(s->db, Q_CURSOR_MOVE, (struct db_value[]){ DB_Z(b->source), DB_I(b->next), DB_I(b->epoch), DB_I(b->first) }, 4, NULL, NULL,
		    ret_moved, why))
		return false;
	return !*ret_moved || keep_all(s, b, why);
}

static bool apply(struct selector *s, const Corral__FactBatch *b, struct why *why)
{
	int64_t moved = 0;
	bool ok;

	if (!db_begin(s->db, why))
		return false;
	ok = batch_write(s, b, &moved, why);
	if (ok && moved && db_commit(s->db, why)) {
		series_add(metrics_series(svc_metrics(s->svc), M_DECISIONS), (double)b->n_records);
		return true;
	}
	db_rollback(s->db);               /* also out of order or a stale writer: the answer says where we are */
	forget_stored(s);
	return ok && !moved;
}

/* A batch to keep, or without one only where we are. */
struct facts_work {
	struct db_work work;          /* first */
	struct selector *s;
	struct arena *mem;            /* of the copies */
	const char *source;
	Corral__FactBatch batch;      /* with 'ingests' */
	bool ingests, ok;
	struct cursor at;
	struct why why;
	Corral__FactAck_Closure closure;
	void *data;
};

static void facts_run(struct db_work *w, struct db *db)
{
	struct facts_work *f = (struct facts_work *)(void *)w;

	(void)db;
	f->ok = (!f->ingests || apply(f->s, &f->batch, &f->why)) && read_cursor(f->s, f->source, &f->at, &f->why);
}

static void facts_done(struct db_work *w, const struct why *dropped)
{
	struct facts_work *f = (struct facts_work *)(void *)w;
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	const struct why *why = dropped ? dropped : &f->why;
	bool ok = f->ok && !dropped;

	if (f->ingests)
		svc_need(f->s->svc, "decision log", ok, ok ? "" : why->text);
	ack.position = f->at.position;
	if (ok)
		f->closure(&ack, f->data);
	else
		rpc_fail(f->data, why->code, why->text);
	arena_free(f->mem);
	free(f);
}

static void facts_ask(Corral__Facts_Service *facts, const char *source, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct facts_work *f = x_calloc(1, sizeof(*f));
	struct why why;

	f->work.run = facts_run;
	f->work.done = facts_done;
	f->s = selector_of_facts(facts);
	f->mem = arena_new(4096);
	f->source = arena_dup(f->mem, source, strlen(source));
	f->ingests = b != NULL;
	f->closure = closure;
	f->data = data;
	if (b) {
		f->batch = *b;
		f->batch.source = (char *)(uintptr_t)f->source;
		f->batch.records = arena_array(f->mem, ProtobufCBinaryData, b->n_records);
		for (size_t i = 0; i < b->n_records; i++)
			f->batch.records[i] = (ProtobufCBinaryData){ b->records[i].len, (uint8_t *)arena_dup(f->mem, b->records[i].data, b->records[i].len) };
	}
	if (db_thread_do(f->s->store, &f->work, &why))
		return;
	rpc_fail(data, why.code, why.text);
	arena_free(f->mem);
	free(f);
}

static void on_cursor(Corral__Facts_Service *facts, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	facts_ask(facts, q->source, NULL, closure, data);
}

static void on_ingest(Corral__Facts_Service *facts, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	facts_ask(facts, b->source, b, closure, data);
}

/* --- facts in, by Kafka --- */

struct bus_keeping { struct selector *s; struct block block; struct arena *mem; };

/* What its writer may have sent before is kept only when it is not here; nothing else comes twice. */
static const char *keep_message(void *arg, const struct bus_in *in, struct why *why)
{
	struct bus_keeping *k = arg;
	struct str known = { 0 };
	struct noted e;

	arena_reset(k->mem);
	if (!note(&e, k->mem, in->value))
		return "it is not a DecisionEvent";
	if (bus_in_header(in, "again").p) {
		/* what is in hand is looked for too */
		if (!block_write(&k->block, k->s->db, why) || !block_find(k->s->db, (const uint8_t *)e.request_id.p, k->mem, &known, why))
			return NULL;
		if (known.p && (!e.later || str_eq(known, e.event)))
			return "";
	}
	return keep_noted(k->s, &k->block, &e, why) ? "" : NULL;
}

static bool bus_write(struct bus_keeping *k, const struct intake_batch *b, bool *ret_moved, struct why *why)
{
	if (!intake_move(b, ret_moved, why) || !*ret_moved)
		return false;
	for (size_t i = 0; i < b->batch->n; i++) {
		const char *flaw = keep_message(k, &b->batch->in[i], why);

		if (!flaw || (*flaw && !intake_bury(b, &b->batch->in[i], flaw, why)))
			return false;
		if (*flaw)
			series_inc(metrics_series(svc_metrics(k->s->svc), M_DECISIONS_DEAD));
	}
	return block_write(&k->block, k->s->db, why) && db_commit(k->s->db, why);
}

static enum intake_outcome keep_bus(void *arg, const struct intake_batch *b, struct why *why)
{
	struct selector *s = arg;
	struct bus_keeping k = { .s = s };
	bool moved = false, ok;

	if (!db_begin(s->db, why))
		return INTAKE_FAILED;
	k.mem = arena_new(0);
	ok = bus_write(&k, b, &moved, why);
	block_free(&k.block);
	arena_free(k.mem);
	if (!ok) {
		db_rollback(s->db);
		forget_stored(s);
	} else {
		series_add(metrics_series(svc_metrics(s->svc), M_DECISIONS), (double)b->batch->n);
	}
	svc_need(s->svc, "decision log", ok || !why->text[0], why->text);
	return ok ? INTAKE_KEPT : moved || why->text[0] ? INTAKE_FAILED : INTAKE_WAS_FENCED;
}

static void on_bus_state(void *arg, bool ok, const char *text) { svc_want(((struct selector *)arg)->svc, "bus", ok, text); }

bool decisions_read_bus(struct selector *s, struct why *why)
{
	static const char *const topics[] = { "decision.v1", NULL }, *const dead[] = { "decision.v1.dead", NULL };
	const struct intake_opts o = { .config = &s->cfg->bus, .group = "selector", .dir = svc_state_dir(s->svc), .topics = topics, .dead = dead, .db = s->db,
				       .statements = Q_INTAKE, .metrics_at = M_BUS, .metrics = svc_metrics(s->svc), .keep = keep_bus,
				       .on_state = on_bus_state, .arg = s };

	if (!bus_is_kafka(&s->cfg->bus))
		return true;
	svc_want(s->svc, "bus", false, "not heard from the brokers yet");
	s->intake = intake_new(db_thread_loop(s->store), &o, why);
	return s->intake != NULL;
}

/* --- explanations out --- */

struct replay {
	struct arena *mem;
	struct catalogue cat;
	struct policy pol;
	struct arms arms;
	struct decision d;
	Corral__DecisionFeatures *features;
	Corral__DecisionOutcome outcome;
};

/* NULL when it is not of this catalogue. Earlier versions logged the load of every replica there is. */
static const struct load *logged_load(const struct replay *r, const Corral__DecisionEvent *e)
{
	struct reach reach = decide_reach(r->features, e->model, &r->cat);
	const struct load *load = (const struct load *)(const void *)arena_dup(r->mem, e->load.data, e->load.len);

	if (e->load.len == sizeof(*load) * reach.n)
		return load;
	return e->load.len == sizeof(*load) * r->cat.n_replicas ? load + reach.first : NULL;
}

static const uint16_t *full_models(const struct replay *r, const Corral__DecisionEvent *e)
{
	return (const uint16_t *)(const void *)arena_dup(r->mem, e->queue_full.data, e->queue_full.len);
}

/* "" when the decision came out the same, else why it cannot be said or how it differs. */
static const char *compute_again(struct selector *s, struct replay *r, const Corral__DecisionEvent *e)
{
	struct str models, policy, experiments;
	struct why why;
	const struct load *load;
	struct buf again = { 0 };
	bool same;

	if (!load_version(s, &s->models, e->models_epoch, e->models_version, r->mem, &models))
		return "the model snapshot of that decision is not kept";
	if (!load_version(s, &s->policies, e->policy_epoch, e->policy_version, r->mem, &policy))
		return "the policy snapshot of that decision is not kept";
	if (!load_version(s, &s->experiments, e->experiments_epoch, e->experiments_version, r->mem, &experiments))
		return "the snapshot of experiments of that decision is not kept";
	if (catalogue_build(&r->cat, r->mem, e->models_epoch, e->models_version, models, &why) != ERR_OK ||
	    policy_build(&r->pol, r->mem, &r->cat, e->policy_epoch, e->policy_version, policy, &why) != ERR_OK ||
	    arms_build(&r->arms, r->mem, e->experiments_epoch, e->experiments_version, experiments, &why) != ERR_OK)
		return arena_dup(r->mem, why.text, strlen(why.text));
	r->pol.arms = e->experiments_version ? &r->arms : NULL;
	if (e->model >= r->cat.n_models || !(load = logged_load(r, e)))
		return "the load vector does not belong to that snapshot";
	decide(&r->d, r->mem, r->features, e->model, e->alias, &r->cat, &r->pol, load, NULL);
	if (e->queue_full.len)
		decision_pass(&r->d, &r->cat, full_models(r, e), e->queue_full.len / sizeof(uint16_t));
	decision_explain(&r->d, r->features, &r->cat, r->mem, &r->outcome);
	decision_pack(&r->d, &again);
	same = again.n == e->outcome.len && memcmp(again.p, e->outcome.data, again.n) == 0;
	buf_free(&again);
	return same ? "" : "computed again, the decision differs from what the gateway did";
}

struct explain_work {
	struct db_work work;          /* first */
	struct selector *s;
	uint8_t id[16];
	bool has_id;
	struct replay replay;
	Corral__DecisionEvent *event; /* NULL: it is not kept */
	const char *flaw;             /* of the replay; NULL: the features cannot be decoded */
	struct why why;               /* code 0: asked */
	Corral__ExplainReply_Closure closure;
	void *data;
};

static void explain_run(struct db_work *w, struct db *db)
{
	struct explain_work *x = (struct explain_work *)(void *)w;
	struct replay *r = &x->replay;
	struct str event = { 0 };

	if (x->has_id && !block_find(db, x->id, r->mem, &event, &x->why))
		return;
	x->event = event.p ? corral__decision_event__unpack(NULL, event.n, (const uint8_t *)event.p) : NULL;
	r->features = x->event ? corral__decision_features__unpack(NULL, x->event->features.len, x->event->features.data) : NULL;
	if (r->features)
		x->flaw = compute_again(x->s, r, x->event);
}

static void explain_answer(struct explain_work *x)
{
	Corral__ExplainReply reply = CORRAL__EXPLAIN_REPLY__INIT;

	if (x->event) {
		reply.found = true;
		reply.decision = x->event;
		reply.features = x->replay.features;
		reply.replay_text = (char *)(uintptr_t)x->flaw;
		reply.replayed = !*x->flaw;
		reply.outcome = &x->replay.outcome;
		series_inc(metrics_series(svc_metrics(x->s->svc), M_EXPLAINED, reply.replayed ? "true" : "false"));
	}
	x->closure(&reply, x->data);
}

static void explain_free(struct explain_work *x)
{
	if (x->replay.features)
		corral__decision_features__free_unpacked(x->replay.features, NULL);
	if (x->event)
		corral__decision_event__free_unpacked(x->event, NULL);
	arena_free(x->replay.mem);
	free(x);
}

static void explain_done(struct db_work *w, const struct why *dropped)
{
	struct explain_work *x = (struct explain_work *)(void *)w;
	const struct why *why = dropped ? dropped : &x->why;

	if (why->code)
		rpc_fail(x->data, why->code, why->text);
	else if (x->event && !x->flaw)
		rpc_fail(x->data, ERR_INTERNAL, "the stored features cannot be decoded");
	else
		explain_answer(x);
	explain_free(x);
}

static void on_explain(Corral__Selector_Service *rpc, const Corral__ExplainRequest *q, Corral__ExplainReply_Closure closure, void *data)
{
	struct explain_work *x = x_calloc(1, sizeof(*x));
	struct why why;

	x->work.run = explain_run;
	x->work.done = explain_done;
	x->s = selector_of_rpc(rpc);
	x->has_id = q->request_id.len == sizeof(x->id);
	if (x->has_id)
		memcpy(x->id, q->request_id.data, sizeof(x->id));
	x->replay.mem = arena_new(16384);
	corral__decision_outcome__init(&x->replay.outcome);
	x->closure = closure;
	x->data = data;
	if (db_thread_do(x->s->store, &x->work, &why))
		return;
	rpc_fail(data, why.code, why.text);
	explain_free(x);
}

/* --- what is old --- */

struct clean_work { struct db_work work; struct selector *s; int64_t before_us; };

static void clean_run(struct db_work *w, struct db *db)
{
	struct clean_work *c = (struct clean_work *)(void *)w;
	struct why why;
	int64_t gone = 0;

	if (!block_clean(db, c->before_us, &gone, &why) ||
	    !db_run(db, Q_CLEAN_VERSIONS, (struct db_value[]){ DB_I(c->before_us - 86400 * (int64_t)1000000) }, 1, NULL, NULL, NULL, &why))
		LOG_WARN("old decisions could not be removed", LOG_S("error", why.text));
	else if (gone)
		LOG_INFO("old decisions removed", LOG_I("blocks", gone));
	forget_stored(c->s);
}

static void clean_done(struct db_work *w, const struct why *dropped)
{
	(void)dropped;
	free(w);
}

void decisions_clean(struct selector *s, int64_t before_us)
{
	struct clean_work *c = x_calloc(1, sizeof(*c));
	struct why why;

	*c = (struct clean_work){ .work = { .run = clean_run, .done = clean_done }, .s = s, .before_us = before_us };
	if (db_thread_do(s->store, &c->work, &why))
		return;
	LOG_WARN("old decisions could not be removed", LOG_S("error", why.text));
	free(c);
}

/* --- life --- */

static void on_end(void *arg)
{
	struct selector *s = svc_state(arg);

	intake_free(s->intake);
}

void decisions_open(struct selector *s, struct loop *loop, struct db *db)
{
	const struct db_thread_opts o = { .service = "selector", .most = WORKS_MOST, .on_wait = svc_db_wait, .end = on_end, .arg = s->svc };

	s->db = db;
	s->store = db_thread_new(loop, db, &o);
}

void decisions_serve(struct selector *s)
{
	s->facts.cursor = on_cursor;
	s->facts.ingest = on_ingest;
	s->rpc.explain = on_explain;
}

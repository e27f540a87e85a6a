/* decisions.c - keeps every decision a gateway reports, once, and answers "why" by computing it again from the stored inputs. */
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/selector/selector.h"

enum { Q_CURSOR, Q_CURSOR_INSERT, Q_CURSOR_MOVE, Q_DECISION, Q_DECISION_GET, Q_VERSION, Q_VERSION_GET, Q_DEAD, Q_CLEAN, Q_CLEAN_VERSIONS };

const char *const selector_statements[] = {
	[Q_CURSOR] = "SELECT position, epoch FROM cursors WHERE source = ?1",
	[Q_CURSOR_INSERT] = "INSERT INTO cursors (source, position, epoch) VALUES (?1, 0, ?2) ON CONFLICT (source) DO NOTHING",
	[Q_CURSOR_MOVE] = "UPDATE cursors SET position = ?2, epoch = ?3 WHERE source = ?1 AND position = ?4 AND epoch <= ?3",
	[Q_DECISION] = "INSERT INTO decisions (request_id, occurred_at_us, event) VALUES (?1, ?2, ?3) ON CONFLICT (request_id) DO NOTHING",
	[Q_DECISION_GET] = "SELECT event FROM decisions WHERE request_id = ?1",
	[Q_VERSION] = "INSERT INTO versions (kind, epoch, version, noted_at_us, bytes) VALUES (?1, ?2, ?3, ?4, ?5) "
		      "ON CONFLICT (kind, epoch, version) DO UPDATE SET noted_at_us = excluded.noted_at_us",
	[Q_VERSION_GET] = "SELECT bytes FROM versions WHERE kind = ?1 AND epoch = ?2 AND version = ?3",
	[Q_DEAD] = "INSERT INTO dead_letters (source, noted_at_us, reason, bytes) VALUES (?1, ?2, ?3, ?4)",
	[Q_CLEAN] = "DELETE FROM decisions WHERE request_id < ?1",
	[Q_CLEAN_VERSIONS] = "DELETE FROM versions WHERE noted_at_us < ?1",
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
	{ 0 },
};

/* --- versions of snapshots --- */

void versions_note(struct version_ring *r, struct snapshot_id id, struct str bytes)
{
	struct version *v = &r->v[r->next++ % VERSIONS_KEPT];
	char *copy = x_malloc(bytes.n + 1);

	if (bytes.n)
		memcpy(copy, bytes.p, bytes.n);
	free((void *)v->bytes.p);
	*v = (struct version){ id, str_n(copy, bytes.n), false };
}

void versions_free(struct version_ring *r)
{
	for (unsigned i = 0; i < VERSIONS_KEPT; i++)
		free((void *)r->v[i].bytes.p);
}

static struct version *find_version(struct version_ring *r, uint64_t epoch, uint64_t version)
{
	for (unsigned i = 0; i < VERSIONS_KEPT; i++)
		if (r->v[i].bytes.p && r->v[i].id.epoch == epoch && r->v[i].id.version == version)
			return &r->v[i];
	return NULL;
}

/* The next decision writes its versions again. */
static void forget_stored(struct selector *s)
{
	for (unsigned i = 0; i < VERSIONS_KEPT; i++)
		s->models.v[i].stored = s->policies.v[i].stored = false;
}

static bool write_version(struct selector *s, const char *kind, uint64_t epoch, uint64_t version, struct str bytes, struct why *why)
{
	return db_run(s->db, Q_VERSION, (struct db_value[]){ DB_Z(kind), DB_I(epoch), DB_I(version), DB_I(wall_us()), DB_B(bytes) }, 5, NULL, NULL,
		      NULL, why);
}

/* A version that a decision refers to is written, as the gateway sent it with the first decision on it or as we heard it, and noted once
 * more after each cleaning, so that it lives as long as they do. */
static bool store_version(struct selector *s, struct version_ring *r, uint64_t epoch, uint64_t version, ProtobufCBinaryData sent, struct why *why)
{
	struct version *v = find_version(r, epoch, version);

	if (sent.len)
		return write_version(s, r->kind, epoch, version, str_n((const char *)sent.data, sent.len), why);
	if (!v || v->stored)
		return true;
	return v->stored = write_version(s, r->kind, epoch, version, v->bytes, why);
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
	struct version *v = find_version(r, epoch, version);
	struct found f = { .mem = mem };
	struct why why;

	if (version == 0) {               /* built-in rules: nothing was published yet */
		*ret = STR("");
		return true;
	}
	if (v) {
		*ret = v->bytes;
		return true;
	}
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

static void on_cursor(Corral__Facts_Service *facts, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	struct selector *s = selector_of_facts(facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	struct cursor c;
	struct why why;

	if (!read_cursor(s, q->source, &c, &why)) {
		rpc_fail(data, why.code, why.text);
		return;
	}
	ack.position = c.position;
	closure(&ack, data);
}

static bool bury(struct selector *s, const char *source, struct str bytes, struct why *why)
{
	series_inc(metrics_series(svc_metrics(s->svc), M_DECISIONS_DEAD));
	return db_run(s->db, Q_DEAD, (struct db_value[]){ DB_Z(source), DB_I(wall_us()), DB_Z("not a DecisionEvent"), DB_B(bytes) }, 4, NULL, NULL,
		      NULL, why);
}

/* The row without the snapshots that came with it: they are rows of their own. */
static bool write_decision(struct selector *s, Corral__DecisionEvent *e, struct str bytes, struct why *why)
{
	ProtobufCBinaryData models = e->models_snapshot, policy = e->policy_snapshot;
	struct db_value p[] = { DB_B(str_n((const char *)e->request_id.data, 16)), DB_I(e->occurred_at_us), DB_B(bytes) };
	uint8_t *packed = NULL;
	bool ok;

	if (models.len || policy.len) {
		e->models_snapshot = e->policy_snapshot = (ProtobufCBinaryData){ 0 };
		packed = x_malloc(corral__decision_event__get_packed_size(e));
		p[2] = DB_B(str_n((char *)packed, corral__decision_event__pack(e, packed)));
		e->models_snapshot = models;
		e->policy_snapshot = policy;
	}
	ok = db_run(s->db, Q_DECISION, p, 3, NULL, NULL, NULL, why);
	free(packed);
	return ok;
}

static void *arena_of(void *arena, size_t n) { return arena_alloc(arena, n); }
static void keep_in_arena(void *arena, void *p) { (void)arena, (void)p; }

static bool keep_one(struct selector *s, struct arena *mem, const char *source, ProtobufCBinaryData rec, struct why *why)
{
	ProtobufCAllocator alloc = { arena_of, keep_in_arena, mem };
	Corral__DecisionEvent *e = corral__decision_event__unpack(&alloc, rec.len, rec.data);
	struct str bytes = str_n((const char *)rec.data, rec.len);

	if (!e || e->request_id.len != 16)
		return bury(s, source, bytes, why);
	return store_version(s, &s->models, e->models_epoch, e->models_version, e->models_snapshot, why) &&
	       store_version(s, &s->policies, e->policy_epoch, e->policy_version, e->policy_snapshot, why) && write_decision(s, e, bytes, why);
}

static bool keep_all(struct selector *s, const Corral__FactBatch *b, struct why *why)
{
	struct arena *mem = arena_new(0);
	size_t i;

	for (i = 0; i < b->n_records && keep_one(s, mem, b->source, b->records[i], why); i++)
		arena_reset(mem);
	arena_free(mem);
	return i == b->n_records;
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

static void on_ingest(Corral__Facts_Service *facts, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct selector *s = selector_of_facts(facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	struct cursor c;
	struct why why;

	if (!apply(s, b, &why) || !read_cursor(s, b->source, &c, &why)) {
		svc_need(s->svc, "decision log", false, why.text);
		rpc_fail(data, why.code, why.text);
		return;
	}
	svc_need(s->svc, "decision log", true, "");
	ack.position = c.position;
	closure(&ack, data);
}

/* --- explanations out --- */

struct replay {
	struct arena *mem;
	struct catalogue cat;
	struct policy pol;
	struct decision d;
	Corral__DecisionFeatures *features;
	Corral__DecisionOutcome outcome;
};

/* "" when the decision came out the same, else why it cannot be said or how it differs. */
static const char *compute_again(struct selector *s, struct replay *r, const Corral__DecisionEvent *e)
{
	struct str models, policy;
	struct why why;
	struct buf again = { 0 };
	bool same;

	if (!load_version(s, &s->models, e->models_epoch, e->models_version, r->mem, &models))
		return "the model snapshot of that decision is not kept";
	if (!load_version(s, &s->policies, e->policy_epoch, e->policy_version, r->mem, &policy))
		return "the policy snapshot of that decision is not kept";
	if (catalogue_build(&r->cat, r->mem, e->models_epoch, e->models_version, models, &why) != ERR_OK ||
	    policy_build(&r->pol, r->mem, &r->cat, e->policy_epoch, e->policy_version, policy, &why) != ERR_OK)
		return arena_dup(r->mem, why.text, strlen(why.text));
	if (e->load.len != sizeof(struct load) * r->cat.n_replicas || e->model >= r->cat.n_models)
		return "the load vector does not belong to that snapshot";
	decide(&r->d, r->mem, r->features, e->model, e->alias, &r->cat, &r->pol, (const struct load *)(const void *)arena_dup(r->mem, e->load.data, e->load.len),
	       NULL);
	decision_explain(&r->d, r->features, &r->cat, r->mem, &r->outcome);
	decision_pack(&r->d, &again);
	same = again.n == e->outcome.len && memcmp(again.p, e->outcome.data, again.n) == 0;
	buf_free(&again);
	return same ? "" : "computed again, the decision differs from what the gateway did";
}

static void answer(struct selector *s, Corral__DecisionEvent *e, Corral__ExplainReply_Closure closure, void *data)
{
	struct replay r = { .mem = arena_new(16384) };
	Corral__ExplainReply reply = CORRAL__EXPLAIN_REPLY__INIT;

	corral__decision_outcome__init(&r.outcome);
	r.features = corral__decision_features__unpack(NULL, e->features.len, e->features.data);
	if (!r.features) {
		rpc_fail(data, ERR_INTERNAL, "the stored features cannot be decoded");
		arena_free(r.mem);
		return;
	}
	reply.found = true;
	reply.decision = e;
	reply.features = r.features;
	reply.replay_text = (char *)compute_again(s, &r, e);
	reply.replayed = !*reply.replay_text;
	reply.outcome = &r.outcome;
	series_inc(metrics_series(svc_metrics(s->svc), M_EXPLAINED, reply.replayed ? "true" : "false"));
	closure(&reply, data);
	corral__decision_features__free_unpacked(r.features, NULL);
	arena_free(r.mem);
}

static void on_explain(Corral__Selector_Service *rpc, const Corral__ExplainRequest *q, Corral__ExplainReply_Closure closure, void *data)
{
	struct selector *s = selector_of_rpc(rpc);
	struct found f = { .mem = arena_new(4096) };
	Corral__ExplainReply nothing = CORRAL__EXPLAIN_REPLY__INIT;
	Corral__DecisionEvent *e = NULL;
	struct why why;

	if (!db_run(s->db, Q_DECISION_GET, (struct db_value[]){ DB_B(str_n((const char *)q->request_id.data, q->request_id.len)) }, 1, take_bytes,
		    &f, NULL, &why)) {
		rpc_fail(data, why.code, why.text);
	} else if (!f.found || !(e = corral__decision_event__unpack(NULL, f.bytes.n, (const uint8_t *)f.bytes.p))) {
		closure(&nothing, data);
	} else {
		answer(s, e, closure, data);
		corral__decision_event__free_unpacked(e, NULL);
	}
	arena_free(f.mem);
}

/* The lowest id of a request of that time. */
static struct str id_at(int64_t us, uint8_t id[16])
{
	uint64_t ms = us > 0 ? (uint64_t)us / 1000 : 0;

	memset(id, 0, 16);
	for (int i = 0; i < 6; i++)
		id[i] = (uint8_t)(ms >> (40 - 8 * i));
	return str_n((const char *)id, 16);
}

void decisions_clean(struct selector *s, int64_t before_us)
{
	struct why why;
	int64_t gone = 0;
	uint8_t id[16];

	if (!db_run(s->db, Q_CLEAN, (struct db_value[]){ DB_B(id_at(before_us, id)) }, 1, NULL, NULL, &gone, &why) ||
	    !db_run(s->db, Q_CLEAN_VERSIONS, (struct db_value[]){ DB_I(before_us - 86400 * (int64_t)1000000) }, 1, NULL, NULL, NULL, &why))
		LOG_WARN("old decisions could not be removed", LOG_S("error", why.text));
	else if (gone)
		LOG_INFO("old decisions removed", LOG_I("decisions", gone));
	forget_stored(s);
}

void decisions_serve(struct selector *s)
{
	s->facts.cursor = on_cursor;
	s->facts.ingest = on_ingest;
	s->rpc.explain = on_explain;
}

/* service.c - the table and life of access: asks of gateways in, the snapshot "access" out; the files beside it do the work. */
#include "services/access/service.h"

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/db_writer.h"
#include "services/access/audit.h"
#include "services/access/facts.h"
#include "services/access/keys.h"
#include "services/access/news.h"
#include "services/access/share.h"
#include "services/access/sql.h"
#include "services/access/tell.h"
#include "services/access/tenants.h"

enum { TICK_US = 1000000, TELL_US = 250000, TELL_MORE_US = 5000, WALK_ROWS = 2000, WALK_PAUSE_US = 2000 };

#define C struct access_config
struct access_config { const char *access_db, *bootstrap_key_file; int64_t audit_checkpoint; struct bus_config bus; };

static const struct opt options[] = {
	OPT(C, STRING, access_db, "", "Database of tenants, keys and the audit log, sqlite:PATH?sync=full or postgresql://…; empty = as 'db' says, else access.db in the service's state directory, with "
	    "sync=full. Without it a power cut can bring a revoked key back."),
	OPT(C, STRING, bootstrap_key_file, "", "File with the key ('corral keys generate' prints one) that is installed as owner key while there is none: for containers "
	    "that have to bind wide at once. A key of this file that was revoked stays revoked."),
	OPT(C, DURATION, audit_checkpoint, "1h", "How often the last line of the audit log is written to the program's log, so that a shortened one can be told: "
	    "'corral audit verify --head SEQ:HASH'.", .min = 1000, .max = 366 * 86400000LL),
	BUS_OPTIONS(C, bus),
	OPT_END
};
#undef C

enum access_metric { M_ACTS, M_KEYS, M_AUDIT, M_BROKEN, M_GATEWAYS, M_SNAPSHOT, M_BUS, M_COUNT = M_BUS + HERALD_METRIC_COUNT };

static const struct metric_def metrics[M_COUNT] = {
	[M_ACTS] = { METRIC_COUNTER, "access_acts_total", "Administrative acts on keys and tenants, by action and outcome.", "action,outcome" },
	[M_KEYS] = { METRIC_GAUGE, "access_keys", "Keys that are neither revoked nor past their time.", "" },
	[M_AUDIT] = { METRIC_GAUGE, "audit_entries", "Entries of the audit log.", "" },
	[M_BROKEN] = { METRIC_GAUGE, "audit_broken_seq", "Entry at which the audit log's chain breaks; 0 = none was found.", "" },
	[M_GATEWAYS] = { METRIC_GAUGE, "access_gateways", "Gateways that share the limits now.", "" },
	[M_SNAPSHOT] = { METRIC_GAUGE, "access_published_bytes", "Size of what was published last: all keys and tenants, or what changed.", "" },
	HERALD_METRICS(M_BUS),
};

struct access {
	struct svc *svc;
	const struct access_config *cfg;
	struct access_store *store;
	struct snapshot_pub *pub;
	struct news *news;
	struct shares *shares;
	struct herald *herald;
	struct teller *teller;
	struct arena *mem;            /* of the ask in hand */
	Corral__Access_Service rpc;
	Corral__Facts_Service facts;
	struct loop_timer tick, walk_timer, tell_timer;
	struct list walks;
	uint64_t checkpoint_seq, counted;
	int64_t checkpoint_us;
	bool failing;
};

/* A walk along the audit log; several may be asked for at once. */
struct walk {
	struct list link;
	struct audit_walk at;
	Corral__AuditVerifyReply_Closure closure;     /* NULL: our own, at the start */
	void *data;
};

static struct access *of(Corral__Access_Service *rpc) { return (struct access *)(void *)((char *)rpc - offsetof(struct access, rpc)); }
static struct access *of_facts(Corral__Facts_Service *f) { return (struct access *)(void *)((char *)f - offsetof(struct access, facts)); }

/* --- the store's state --- */

/* A failure of the store is said once, and to /readyz as long as it lasts. */
static void store_state(struct access *a, enum err e, const struct why *why)
{
	bool ok = e != ERR_STORE_FAILED && e != ERR_INTERNAL;

	if (ok == !a->failing)
		return;
	a->failing = !ok;
	if (ok)
		LOG_INFO("the store of keys and tenants can be used again");
	else
		LOG_ERROR("the store of keys and tenants fails; what gateways know stays in force", LOG_S("error", why->text));
	svc_need(a->svc, "access store", ok, ok ? "" : why->text);
}

static struct act act_of(struct access *a, const Corral__Caller *caller)
{
	return (struct act){ .store = a->store, .mem = a->mem, .caller = caller, .now_us = wall_us() };
}

/* --- acts --- */

/* True: it was done, the closure is to be called. */
static bool acted(struct access *a, const struct act *act, enum err e, const struct why *why, void *data)
{
	store_state(a, e, why);
	series_add(metrics_series(svc_metrics(a->svc), M_ACTS, act->action, e == ERR_OK ? "ok" : err_name(e)), 1);
	if (act->unsure)
		news_doubt(a->news);
	if (e) {
		rpc_fail(data, e, why->text);
		return false;
	}
	LOG_INFO("administrative act", LOG_S("action", act->action), LOG_STR("object", act->object), LOG_S("by", act->caller->key_id[0] ? act->caller->key_id : "no key"),
		 LOG_S("request_id", act->caller->request_id));
	news_tell(a->news, &act->delta);
	series_set(metrics_series(svc_metrics(a->svc), M_SNAPSHOT), (double)news_last_bytes(a->news));
	return true;
}

static void on_create(Corral__Access_Service *rpc, const Corral__CreateKeyRequest *q, Corral__CreateKeyReply_Closure closure, void *data)
{
	static const Corral__Key empty = CORRAL__KEY__INIT;
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__CreateKeyReply reply;
	struct why why;
	enum err e = key_create(&act, q->key ? q->key : &empty, &reply, &why);

	if (acted(a, &act, e, &why, data)) {
		reply.key->hash = (ProtobufCBinaryData){ 0 };
		closure(&reply, data);
	}
	arena_reset(a->mem);
}

static void on_rotate(Corral__Access_Service *rpc, const Corral__RotateKeyRequest *q, Corral__CreateKeyReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__CreateKeyReply reply;
	struct why why;
	enum err e = key_rotate(&act, str_of(q->id), q->overlap_s, &reply, &why);

	if (acted(a, &act, e, &why, data)) {
		reply.key->hash = (ProtobufCBinaryData){ 0 };
		closure(&reply, data);
	}
	arena_reset(a->mem);
}

static void on_limit(Corral__Access_Service *rpc, const Corral__LimitKeyRequest *q, Corral__Key_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__Key *key, shown;
	struct why why;
	enum err e = key_limit(&act, str_of(q->id), q->limits, &key, &why);

	if (acted(a, &act, e, &why, data)) {
		shown = *key;
		shown.hash = (ProtobufCBinaryData){ 0 };
		closure(&shown, data);
	}
	arena_reset(a->mem);
}

static void on_revoke(Corral__Access_Service *rpc, const Corral__RevokeKeyRequest *q, Corral__Done_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__Done reply = CORRAL__DONE__INIT;
	struct why why;
	bool changed = false;
	enum err e = key_revoke(&act, str_of(q->id), &changed, &why);

	reply.changed = changed;
	if (acted(a, &act, e, &why, data))
		closure(&reply, data);
	arena_reset(a->mem);
}

static void on_put_tenant(Corral__Access_Service *rpc, const Corral__PutTenantRequest *q, Corral__Tenant_Closure closure, void *data)
{
	static const Corral__Tenant empty = CORRAL__TENANT__INIT;
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__Tenant *reply;
	struct why why;
	enum err e = tenant_put(&act, q->tenant ? q->tenant : &empty, q->create, &reply, &why);

	if (acted(a, &act, e, &why, data))
		closure(reply, data);
	arena_reset(a->mem);
}

static void on_delete_tenant(Corral__Access_Service *rpc, const Corral__DeleteTenantRequest *q, Corral__Done_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__Done reply = CORRAL__DONE__INIT;
	struct why why;
	enum err e = tenant_delete(&act, str_of(q->name), &why);

	reply.changed = true;
	if (acted(a, &act, e, &why, data))
		closure(&reply, data);
	arena_reset(a->mem);
}

/* --- reading --- */

static bool was_read(struct access *a, enum err e, const struct why *why, void *data)
{
	store_state(a, e, why);
	if (e)
		rpc_fail(data, e, why->text);
	return e == ERR_OK;
}

static void on_list_keys(Corral__Access_Service *rpc, const Corral__ListKeysRequest *q, Corral__ListKeysReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__ListKeysReply reply;
	struct why why;

	if (was_read(a, keys_list(&act, q, &reply, &why), &why, data))
		closure(&reply, data);
	arena_reset(a->mem);
}

static void on_list_tenants(Corral__Access_Service *rpc, const Corral__ListTenantsRequest *q, Corral__ListTenantsReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	Corral__ListTenantsReply reply;
	struct why why;

	if (was_read(a, tenants_list(&act, &reply, &why), &why, data))
		closure(&reply, data);
	arena_reset(a->mem);
}

static void on_cursor(Corral__Facts_Service *facts, const Corral__FactCursor *q, Corral__FactAck_Closure closure, void *data)
{
	struct access *a = of_facts(facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	struct why why;

	if (was_read(a, facts_cursor(a->store, q->source, &ack.position, &why), &why, data))
		closure(&ack, data);
}

static void on_ingest(Corral__Facts_Service *facts, const Corral__FactBatch *b, Corral__FactAck_Closure closure, void *data)
{
	struct access *a = of_facts(facts);
	Corral__FactAck ack = CORRAL__FACT_ACK__INIT;
	struct why why;
	unsigned bad;

	if (!was_read(a, facts_take(a->store, b, wall_us(), &ack.position, &bad, &why), &why, data))
		return;
	if (bad)
		LOG_ERROR("what a gateway told cannot be kept and is left out", LOG_S("source", b->source), LOG_I("records", bad));
	closure(&ack, data);
}

static void on_audit(Corral__Access_Service *rpc, const Corral__AuditQuery *q, Corral__AuditReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	Corral__AuditReply reply;
	struct why why;

	if (was_read(a, audit_query(a->store, q, wall_us(), a->mem, &reply, &why), &why, data))
		closure(&reply, data);
	arena_reset(a->mem);
}

/* --- walks along the audit log --- */

static void walk_done(struct access *a, struct walk *w, bool ok, const struct why *why)
{
	Corral__AuditVerifyReply reply;

	list_del(&w->link);
	if (ok) {
		series_set(metrics_series(svc_metrics(a->svc), M_BROKEN), (double)w->at.broken_seq);
		audit_verdict(&w->at, a->mem, &reply);
		if (!reply.ok)
			LOG_ERROR("the audit log is not as it was written", LOG_I("broken_seq", reply.broken_seq), LOG_S("found", reply.text));
	}
	if (w->closure && ok)
		w->closure(&reply, w->data);
	else if (w->closure)
		rpc_fail(w->data, why->code, why->text);
	arena_reset(a->mem);
	free(w);
}

static void walk_on(struct loop_timer *t)
{
	struct access *a = list_entry(t, struct access, walk_timer);
	struct walk *w = list_entry(a->walks.next, struct walk, link);
	struct why why = { 0 };
	bool ok = audit_walk_on(a->store, &w->at, WALK_ROWS, &why);

	store_state(a, ok ? ERR_OK : why.code, &why);
	if (!ok || w->at.done)
		walk_done(a, w, ok, &why);
	if (!list_empty(&a->walks))
		loop_timer_set(svc_loop(a->svc), t, WALK_PAUSE_US, walk_on);
}

static void walk_begin(struct access *a, Corral__AuditVerifyReply_Closure closure, void *data)
{
	struct walk *w = x_calloc(1, sizeof(*w));

	w->closure = closure;
	w->data = data;
	list_push(&a->walks, &w->link);
	loop_timer_set(svc_loop(a->svc), &a->walk_timer, 0, walk_on);
}

static void on_verify(Corral__Access_Service *rpc, const Corral__AuditQuery *q, Corral__AuditVerifyReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	struct act act = act_of(a, q->caller);
	struct why why;
	enum err e;

	act.action = "audit.read";
	e = act_read(&act, &why);
	if (!e)
		e = act_allowed(&act, STR(""), &why);
	if (was_read(a, e, &why, data))
		walk_begin(a, closure, data);
	arena_reset(a->mem);
}

/* --- shares --- */

static void on_share(Corral__Access_Service *rpc, const Corral__ShareRequest *q, Corral__ShareReply_Closure closure, void *data)
{
	struct access *a = of(rpc);
	Corral__ShareReply reply;
	struct why why;
	enum err e = shares_ask(a->shares, q, mono_us(), a->mem, &reply, &why);

	if (e)
		rpc_fail(data, e, why.text);
	else
		closure(&reply, data);
	arena_reset(a->mem);
}

/* --- time --- */

static void checkpoint(struct access *a)
{
	struct audit_head head;
	char hex[2 * SHA256_BYTES + 1];

	if (!audit_head(a->store, &head, NULL))
		return;
	series_set(metrics_series(svc_metrics(a->svc), M_AUDIT), (double)head.seq);
	if (head.seq == a->checkpoint_seq || mono_us() < a->checkpoint_us)
		return;
	for (int i = 0; i < SHA256_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", head.hash[i]);
	LOG_INFO("audit checkpoint", LOG_I("seq", head.seq), LOG_S("hash", hex));
	a->checkpoint_seq = head.seq;
	a->checkpoint_us = mono_us() + a->cfg->audit_checkpoint * 1000;
}

/* Counted after a change only: there may be many. */
static void count_keys(struct access *a)
{
	int64_t keys;

	if (a->counted == news_version(a->news) || !keys_count(a->store, wall_us(), &keys, NULL))
		return;
	a->counted = news_version(a->news);
	series_set(metrics_series(svc_metrics(a->svc), M_KEYS), (double)keys);
}

static void on_tick(struct loop_timer *t)
{
	struct access *a = list_entry(t, struct access, tick);

	if (a->failing && db_is_back(access_db(a->store)))
		store_state(a, ERR_OK, NULL);
	news_time(a->news, wall_us());
	count_keys(a);
	series_set(metrics_series(svc_metrics(a->svc), M_GATEWAYS), shares_gateways(a->shares, mono_us()));
	checkpoint(a);
	loop_timer_set(svc_loop(a->svc), t, TICK_US, on_tick);
}

/* --- the audit log for others --- */

static void on_bus_state(void *svc, bool ok, const char *text) { svc_want(svc, "bus", ok, text); }

static void on_tell(struct loop_timer *t)
{
	struct access *a = list_entry(t, struct access, tell_timer);
	struct why why = { 0 };
	bool more = false;

	if (!a->failing && !teller_tell(a->teller, &more, &why))
		store_state(a, why.code, &why);
	loop_timer_set(svc_loop(a->svc), t, more ? TELL_MORE_US : TELL_US, on_tell);
}

static void tell_begin(struct access *a)
{
	char root[1024];
	const struct herald_opts o = { .root = root, .service = "access", .name = "audit", .topic = "audit.v1", .schema = "corral.AuditEvent", .label = teller_label,
				       .bus = &a->cfg->bus, .on_state = on_bus_state, .arg = a->svc, .metrics = svc_metrics(a->svc), .first_metric = M_BUS };

	snprintf(root, sizeof(root), "%s/spool", svc_state_dir(a->svc));
	a->herald = herald_new(svc_loop(a->svc), &o);
	a->teller = teller_new(a->store, a->herald);
	on_tell(&a->tell_timer);
}

static void tell_end(struct access *a)
{
	struct why why;
	bool more;

	loop_timer_del(&a->tell_timer);
	if (a->teller)
		(void)teller_tell(a->teller, &more, &why);        /* what is left is told by the next one */
	teller_free(a->teller);
	herald_free(a->herald);
}

/* --- life --- */

static void walks_free(struct access *a)
{
	list_each_safe(l, &a->walks) {
		list_del(l);
		free(list_entry(l, struct walk, link));
	}
}

static void stop(struct svc *svc)
{
	struct access *a = svc_state(svc);

	if (!a)
		return;
	loop_timer_del(&a->tick);
	loop_timer_del(&a->walk_timer);
	walks_free(a);
	tell_end(a);
	if (a->store && a->news) {
		a->checkpoint_us = 0;
		checkpoint(a);
	}
	news_free(a->news);
	snapshot_pub_free(a->pub);
	shares_free(a->shares);
	access_store_close(a->store);
	arena_free(a->mem);
	free(a);
	svc_set_state(svc, NULL);
}

static const char *url_of(const struct access_config *cfg, const char *dir, struct arena *mem)
{
	return cfg->access_db[0] ? cfg->access_db : arena_printf(mem, "sqlite:%s/access.db?sync=full", dir);
}

static bool bootstrap(struct access *a, struct why *why)
{
	const char *path = a->cfg->bootstrap_key_file, *note = "";

	if (!path[0])
		return true;
	if (!key_bootstrap(a->store, path, wall_us(), &note, why))
		return false;
	LOG_INFO(note, LOG_S("file", path));
	return true;
}

static bool begin(struct access *a, struct why *why)
{
	a->store = access_store_open(url_of(a->cfg, svc_state_dir(a->svc), a->mem), why);
	if (!a->store || !bootstrap(a, why))
		return false;
	a->pub = snapshot_pub_new(svc_loop(a->svc), svc_rpc_server(a->svc), svc_pub_url(a->svc, "access"), "access", why);
	if (!a->pub)
		return false;
	a->news = news_new(a->store, a->pub, wall_us(), why);
	return a->news != NULL;
}

static void serve(struct access *a)
{
	corral__access__init(&a->rpc, NULL);
	a->rpc.create_key = on_create;
	a->rpc.rotate_key = on_rotate;
	a->rpc.limit_key = on_limit;
	a->rpc.revoke_key = on_revoke;
	a->rpc.list_keys = on_list_keys;
	a->rpc.put_tenant = on_put_tenant;
	a->rpc.delete_tenant = on_delete_tenant;
	a->rpc.list_tenants = on_list_tenants;
	a->rpc.audit = on_audit;
	a->rpc.verify_audit = on_verify;
	a->rpc.share = on_share;
	rpc_server_add(svc_rpc_server(a->svc), &a->rpc.base);
	corral__facts__init(&a->facts, NULL);
	a->facts.cursor = on_cursor;
	a->facts.ingest = on_ingest;
	rpc_server_add(svc_rpc_server(a->svc), &a->facts.base);
}

/* Its only gateway ends with it, so that nobody holds what an earlier run gave. */
static bool in_one_process(struct svc *svc) { return str_starts(str_of(svc_pub_url(svc, "access")), STR("inproc:")); }

static bool start(struct svc *svc, struct why *why)
{
	struct access *a = x_calloc(1, sizeof(*a));

	svc_set_state(svc, a);
	a->svc = svc;
	a->cfg = svc_config(svc);
	a->mem = arena_new(64 << 10);
	a->shares = shares_new(in_one_process(svc) ? 0 : mono_us() + SHARE_VALID_MS * 1000);
	list_init(&a->walks);
	if (!begin(a, why)) {
		stop(svc);
		return false;
	}
	serve(a);
	svc_need(svc, "access store", true, "");
	series_set(metrics_series(svc_metrics(svc), M_SNAPSHOT), (double)news_last_bytes(a->news));
	walk_begin(a, NULL, NULL);
	on_tick(&a->tick);
	tell_begin(a);
	return true;
}

/* --- without a service --- */

const char *access_file(const void *config, const char *dir, struct arena *mem)
{
	const char *url = url_of(config, dir, mem);

	return str_starts(str_of(url), STR("sqlite:")) ? arena_dup(mem, url + 7, strcspn(url + 7, "?")) : NULL;
}

/* Of a server's database this process is the writer while it writes; a running service would not tell its gateways. A file has a lock. */
static bool become_writer(const char *url, struct db_writer **ret, struct why *why)
{
	const char *other = "";
	enum db_writer_turn turn;

	*ret = NULL;
	if (!db_writer_has(url))
		return true;
	*ret = db_writer_open(url, "command line", NULL, why);
	if (!*ret)
		return false;
	turn = db_writer_try(*ret, &other, why);
	if (turn == DB_WRITER_ANOTHERS)
		err_set(why, ERR_CONFLICT, "the database is in use by another process, %s: ask the gateway instead", other);
	return turn == DB_WRITER_MINE;
}

static enum err make_key(const char *url, const Corral__Key *wanted, struct arena *mem, Corral__CreateKeyReply *ret, struct why *why)
{
	Corral__Caller owner = CORRAL__CALLER__INIT;
	struct access_store *s = access_store_open(url, why);
	struct act act = { .store = s, .mem = mem, .caller = &owner, .now_us = wall_us() };
	enum err e;

	if (!s)
		return why->code;
	owner.role = CORRAL__ROLE__ROLE_OWNER;
	owner.address = (char *)"command line";
	e = key_create(&act, wanted, ret, why);
	access_store_close(s);
	return e;
}

enum err access_make_key(const void *config, const char *dir, const Corral__Key *wanted, struct arena *mem, Corral__CreateKeyReply *ret, struct why *why)
{
	const char *url = url_of(config, dir, mem);
	struct db_writer *writer;
	enum err e = become_writer(url, &writer, why) ? make_key(url, wanted, mem, ret, why) : why->code;

	db_writer_free(writer);
	return e;
}

enum err access_verify_file(const char *path, uint64_t head_seq, const uint8_t *head, struct arena *mem, Corral__AuditVerifyReply *ret, struct why *why)
{
	struct access_store *s = access_store_peek(arena_printf(mem, "sqlite:%s", path), why);
	struct audit_walk walk = { .want_seq = head_seq };
	bool ok = s != NULL;

	if (head_seq)
		memcpy(walk.want, head, SHA256_BYTES);
	while (ok && !walk.done)
		ok = audit_walk_on(s, &walk, WALK_ROWS, why);
	access_store_close(s);
	if (!ok)
		return why->code;
	audit_verdict(&walk, mem, ret);
	return ERR_OK;
}

static enum err check(const void *config, struct why *why) { return bus_check(&((const struct access_config *)config)->bus, why); }

const struct svc_def access_service = {
	.name = "access",
	.summary = "Keeps tenants, keys and their limits, and the audit log; tells gateways who may do what.",
	.options = options,
	.databases = (const struct svc_db[]){ { "access_db", "access.db", access_migrations }, { 0 } },
	.one_writer = true,
	.config_size = sizeof(struct access_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8116,
	.rpc_port = 7116,
	.check = check,
	.start = start,
	.stop = stop,
};

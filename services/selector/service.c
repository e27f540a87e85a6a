/* service.c - the selector's table and life. */
#include "services/selector/service.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "services/selector/selector.h"

#define C struct selector_config
static const struct opt options[] = {
	OPT(C, STRING, selector_db, "", "Database of kept decisions; empty = as 'db' says, else sqlite:<state_dir>/selector/decisions.db."),
	OPT(C, DURATION, decision_keep, "14d", "How long decisions are kept for /explain.", .min = 60000, .max = 3650LL * 86400000, .live = true),
	OPT(C, DURATION, policy_every, "10s", "How often measured speeds are read from the ledger.", .min = 100, .max = 86400000, .live = true),
	OPT(C, NUMBER, switch_margin, "0.05", "How much higher another model has to score before a conversation leaves its model.", .max = 1, .live = true),
	OPT(C, ENUM, cloud_prefer, "medium", "From which complexity on requests for auto prefer a provider in the cloud, if one is configured and can afford them, to the models of the house: "
	    "complex, medium, or none, so that the cloud only answers what the house cannot. SIMPLE always stays.", .words = "none complex medium", .live = true),
	OPT(C, NUMBER, cloud_medium_left, "10", "USD that a provider must have left before requests of medium complexity prefer it; one without a budget of money always has.", .max = 1e9, .live = true),
	OPT(C, NUMBER, cloud_quality, "0.7", "Measured quality (GET /quality, of thirty days) of the best model of the house for a task type below which the cloud is preferred for it; 0 = never.",
	    .max = 1, .live = true),
	OPT(C, INT, cloud_quality_answers, "50", "Answers of a model for a task type before its measured quality counts for cloud_quality.", .min = 1, .max = 1000000000, .live = true),
	BUS_OPTIONS(C, bus),
	OPT_END
};
#undef C

static const struct metric_def metrics[M_COUNT] = {
	[M_DECISIONS] = { METRIC_COUNTER, "decisions_total", "Decisions kept for explanation.", "" },
	[M_DECISIONS_DEAD] = { METRIC_COUNTER, "decision_dead_letters_total", "Decision records that could not be decoded.", "" },
	[M_POLICY_VERSION] = { METRIC_GAUGE, "policy_version", "Version of the policy published last.", "" },
	[M_DECIDED] = { METRIC_COUNTER, "decided_total", "Decisions made for gateways that ask for each request (decide=remote).", "" },
	[M_EXPLAINED] = { METRIC_COUNTER, "explanations_total", "Explanations given, by whether the replay gave the same bits.", "replayed" },
	INTAKE_METRICS(M_BUS),
};

struct selector *selector_of_facts(Corral__Facts_Service *f) { return (struct selector *)(void *)((char *)f - offsetof(struct selector, facts)); }
struct selector *selector_of_rpc(Corral__Selector_Service *r) { return (struct selector *)(void *)((char *)r - offsetof(struct selector, rpc)); }

static void on_models(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct selector *s = arg;

	(void)stale;
	buf_clear(&s->models_bytes);
	buf_str(&s->models_bytes, bytes);
	s->models_id = id;
	cloud_world(s);
	svc_need(s->svc, "model snapshot", s->built, s->built ? "" : "the model snapshot cannot be read");
}

static void on_experiments(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct selector *s = arg;

	(void)stale;
	versions_note(&s->experiments, id, bytes);
	policy_experiments(s, id, bytes);
}

static void policy_tick(struct loop_timer *t)
{
	struct selector *s = (struct selector *)(void *)((char *)t - offsetof(struct selector, policy_timer));

	policy_refresh(s);
	loop_timer_set(svc_loop(s->svc), t, s->cfg->policy_every * 1000, policy_tick);
}

static void clean_tick(struct loop_timer *t)
{
	struct selector *s = (struct selector *)(void *)((char *)t - offsetof(struct selector, clean_timer));

	decisions_clean(s, wall_us() - s->cfg->decision_keep * 1000);
	loop_timer_set(svc_loop(s->svc), t, 3600 * (int64_t)1000000, clean_tick);
}

static void stop(struct svc *svc)
{
	struct selector *s = svc_state(svc);

	if (!s)
		return;
	loop_timer_del(&s->policy_timer);
	loop_timer_del(&s->clean_timer);
	db_thread_free(s->store);
	snapshot_sub_free(s->models_sub);
	cloud_close(s);
	buf_free(&s->models_bytes);
	snapshot_sub_free(s->experiments_sub);
	snapshot_pub_free(s->policy_pub);
	versions_free(&s->models);
	versions_free(&s->policies);
	versions_free(&s->experiments);
	buf_free(&s->experiments_bytes);
	buf_free(&s->policy);
	arena_free(s->mem);
	arena_free(s->policy_mem);
	free(s);
	svc_set_state(svc, NULL);
}

static bool open_db(struct selector *s, struct why *why)
{
	char url[1200];
	struct db *db;

	snprintf(url, sizeof(url), "sqlite:%s/decisions.db", svc_state_dir(s->svc));
	db = db_open(*s->cfg->selector_db ? s->cfg->selector_db : url, selector_statements, selector_n_statements, selector_migrations, why);
	if (db)
		decisions_open(s, svc_loop(s->svc), db);
	return db != NULL;
}

static bool start(struct svc *svc, struct why *why)
{
	struct selector *s = x_calloc(1, sizeof(*s));
	char cache[1200];

	svc_set_state(svc, s);
	s->svc = svc;
	s->cfg = svc_config(svc);
	s->models.kind = "models";
	s->policies.kind = "policy";
	s->experiments.kind = "experiments";
	s->registry = svc_peer(svc, "model-registry");
	s->ledger = svc_peer(svc, "usage-tracker");
	s->ab_testing = svc_peer(svc, "ab-testing");
	corral__selector__init(&s->rpc, NULL);
	corral__facts__init(&s->facts, NULL);
	decisions_serve(s);
	policy_serve(s);
	if (!open_db(s, why) || !(s->policy_pub = snapshot_pub_new(svc_loop(svc), svc_rpc_server(svc), svc_pub_url(svc, "selector"), "policy", why)) ||
	    !decisions_read_bus(s, why)) {
		stop(svc);
		return false;
	}
	db_thread_start(s->store);
	rpc_server_add(svc_rpc_server(svc), &s->rpc.base);
	rpc_server_add(svc_rpc_server(svc), &s->facts.base);
	svc_need(svc, "model snapshot", false, "not heard from the model-registry yet");
	svc_need(svc, "decision log", true, "");
	policy_tick(&s->policy_timer);
	clean_tick(&s->clean_timer);
	snprintf(cache, sizeof(cache), "%s/models.snapshot", svc_state_dir(svc));
	s->models_sub = snapshot_sub_new(svc_loop(svc), s->registry, svc_pub_url(svc, "model-registry"), "models", cache, on_models, s);
	cloud_open(s);
	snprintf(cache, sizeof(cache), "%s/experiments.snapshot", svc_state_dir(svc));
	s->experiments_sub = snapshot_sub_new(svc_loop(svc), s->ab_testing, svc_pub_url(svc, "ab-testing"), "experiments", cache, on_experiments, s);
	return true;
}

static bool reload(struct svc *svc, struct why *why)
{
	struct selector *s = svc_state(svc);

	(void)why;
	s->cfg = svc_config(svc);
	policy_refresh(s);
	svc_reloaded(svc);
	return true;
}

static enum err check(const void *config, struct why *why) { return bus_check(&((const struct selector_config *)config)->bus, why); }

const struct svc_def selector_service = {
	.name = "selector",
	.summary = "Turns what is known into the routing policy; keeps decisions, explains and replays them.",
	.options = options,
	.databases = (const struct svc_db[]){ { "selector_db", "decisions.db", selector_migrations }, { 0 } },
	.one_writer = true,
	.config_size = sizeof(struct selector_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8112,
	.rpc_port = 7112,
	.check = check,
	.start = start,
	.reload = reload,
	.stop = stop,
};

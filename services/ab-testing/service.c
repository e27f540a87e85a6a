/* service.c - the table and life of ab-testing: asks of gateways in, outcomes from the ledger, the snapshot "experiments" out. */
#include "services/ab-testing/service.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/authz.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

#define C struct ab_config
struct ab_config {
	const char *ab_db;
	int64_t outcomes_every, outcomes_keep, challenger_every;
	const char *challengers, *challenger_against;
	double challenger_traffic, challenger_days;
	struct bus_config bus;
};

static const struct opt options[] = {
	OPT(C, STRING, ab_db, "", "Database of experiments and what came of them, sqlite:PATH or postgresql://…; empty = as 'db' says, else experiments.db in the service's state directory."),
	OPT(C, DURATION, outcomes_every, "1s", "How often the ledger is asked for what became of requests in experiments; then each is looked at again, guards first.", .min = 50,
	    .max = 60000, .live = true),
	OPT(C, DURATION, outcomes_keep, "90d", "How long outcomes and units of an experiment are kept after its end; then they are removed, and what is said of its requests later "
	    "changes nothing. Its figures stay.", .min = 1000, .max = 3660LL * 86400000, .live = true),
	OPT(C, ENUM, challengers, "off", "Whether models that are new here, or whose digest has changed, are tried against the one that is used most, one at a time: answer (they answer "
	    "their part of the requests for auto), shadow (they are asked the same and answer nobody).", .words = "off answer shadow", .live = true),
	OPT(C, DURATION, challenger_every, "7d", "How often it is looked for such models. The first look only notes what there is.", .min = 1000, .max = 366 * 86400000LL, .live = true),
	OPT(C, NUMBER, challenger_traffic, "1", "Percent of users whose requests a challenger's experiment takes; half of them get the challenger.", .max = 100, .live = true),
	OPT(C, NUMBER, challenger_days, "7", "Days after which a challenger's experiment ends at the latest.", .max = 3660, .live = true),
	OPT(C, STRING, challenger_against, "", "The model that challengers are compared with; empty = the champion of all requests, else the one with most requests of the last 30 days.",
	    .live = true),
	BUS_OPTIONS(C, bus),
	OPT_END
};
#undef C

enum { M_RUNNING, M_OUTCOMES, M_ENDED, M_LOOKS, M_PRUNED, M_BUS, M_COUNT = M_BUS + HERALD_METRIC_COUNT };

static const struct metric_def metrics[M_COUNT] = {
	[M_RUNNING] = { METRIC_GAUGE, "experiments_running", "Experiments that take requests.", "" },
	[M_OUTCOMES] = { METRIC_COUNTER, "experiment_outcomes_total", "Outcomes of requests taken from the ledger; one that changes later counts again.", "" },
	[M_ENDED] = { METRIC_GAUGE, "experiments_ended", "Experiments that have ended, by how: stopped, promoted, rolled_back.", "state" },
	[M_PRUNED] = { METRIC_COUNTER, "experiment_rows_pruned_total", "Outcomes and units of experiments that ended long ago, removed.", "" },
	[M_LOOKS] = { METRIC_COUNTER, "experiment_looks_total", "Looks for models that are new or were changed, to be tried as challengers.", "" },
	HERALD_METRICS(M_BUS),
};

struct ab_service {
	struct ab ab;
	struct rpc_client *ledger;
	struct loop_timer timer;
	bool asking, failing, more;
	struct {                      /* a look for challengers that is under way */
		struct snapshot_sub *sub;     /* NULL: none is */
		struct buf models;            /* packed */
		bool heard, over;             /* the ledger is asked; the next tick ends it */
	} look;
	Corral__Experiments_Service rpc;
};

static struct ab_service *of(Corral__Experiments_Service *rpc) { return (struct ab_service *)(void *)((char *)rpc - offsetof(struct ab_service, rpc)); }

/* --- the store's state --- */

/* A failure of the store is said once, and to /readyz as long as it lasts. */
static void store_state(struct ab_service *s, bool ok, const struct why *why)
{
	if (ok == !s->failing)
		return;
	s->failing = !ok;
	if (ok)
		LOG_INFO("the store of experiments can be used again");
	else
		LOG_ERROR("the store of experiments fails; what gateways know stays in force", LOG_S("error", why->text));
	svc_need(s->ab.svc, "experiments store", ok, ok ? "" : why->text);
}

static void tell(struct ab_service *s)
{
	static const char *const ended[] = { "stopped", "promoted", "rolled_back" };
	struct metrics *m = svc_metrics(s->ab.svc);
	unsigned n[CORRAL__EXPERIMENT_STATE__EXPERIMENT_ROLLED_BACK + 1] = { 0 };

	list_each(it, &s->ab.trials)
		n[list_entry(it, struct trial, node)->e->state % (sizeof(n) / sizeof(*n))]++;
	series_set(metrics_series(m, M_RUNNING), n[CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING]);
	for (int i = 0; i < 3; i++)
		series_set(metrics_series(m, M_ENDED, ended[i]), n[CORRAL__EXPERIMENT_STATE__EXPERIMENT_STOPPED + i]);
}

/* --- rights --- */

/* An experiment of all tenants is for those who reach them all. */
static enum err may(const Corral__Caller *caller, const char *action, const char *tenant, struct why *why)
{
	static const Corral__Caller nobody = CORRAL__CALLER__INIT;
	const Corral__Caller *c = caller ? caller : &nobody;
	Corral__Key narrow = CORRAL__KEY__INIT;
	struct subject s = { .role = c->role, .key_id = str_of(c->key_id), .tenant = str_of(c->tenant), .key = &narrow };
	enum err e;

	narrow.n_actions = c->n_actions;
	narrow.actions = c->actions;
	e = authorise(&s, str_of(action), STR("experiment"), str_of(tenant), why);
	if (e == ERR_OK && !*tenant && !role_reaches(s.role, str_of(action)))
		return err_set(why, ERR_FORBIDDEN, "an experiment with the requests of all tenants is for the installation's owner; name a tenant_filter");
	return e;
}

static const char *tenant_of(const Corral__Experiment *e) { return e->filter ? e->filter->tenant : ""; }

static struct trial *find(struct ab_service *s, const Corral__Caller *caller, const char *id, const char *action, void *data)
{
	struct trial *t = trial_find(&s->ab, id);
	struct why why;

	if (!t)
		rpc_fail(data, ERR_NOT_FOUND, "there is no such experiment; GET /tests lists them");
	else if (may(caller, action, tenant_of(t->e), &why) != ERR_OK)
		rpc_fail(data, why.code, why.text);
	else
		return t;
	return NULL;
}

/* --- asks --- */

static void on_create(Corral__Experiments_Service *rpc, const Corral__CreateExperimentRequest *q, Corral__Experiment_Closure closure, void *data)
{
	struct ab_service *s = of(rpc);
	struct trial *t = NULL;
	struct why why = { 0 };

	if (!q->experiment)
		err_set(&why, ERR_MALFORMED, "there is no experiment");
	else if (may(q->caller, "tests.write", tenant_of(q->experiment), &why) == ERR_OK)
		(void)trial_create(&s->ab, q, wall_us(), &t, &why);
	store_state(s, why.code != ERR_STORE_FAILED, &why);
	if (!t) {
		rpc_fail(data, why.code, why.text);
		return;
	}
	LOG_INFO("experiment begun", LOG_S("id", t->e->id), LOG_S("name", t->e->name), LOG_S("by", t->e->created_by));
	tell(s);
	closure(t->e, data);
}

static void on_list(Corral__Experiments_Service *rpc, const Corral__ListExperimentsRequest *q, Corral__ListExperimentsReply_Closure closure, void *data)
{
	struct ab_service *s = of(rpc);
	Corral__ListExperimentsReply reply = CORRAL__LIST_EXPERIMENTS_REPLY__INIT;
	Corral__Champion **champions;
	struct why why;
	size_t n = 0;

	list_each(it, &s->ab.trials)
		n++;
	reply.experiments = arena_array(s->ab.mem, Corral__Experiment *, n + 1);
	list_each(it, &s->ab.trials) {
		Corral__Experiment *e = list_entry(it, struct trial, node)->e;

		if ((!q->running || !trial_is_over(e)) && may(q->caller, "tests.read", tenant_of(e), &why) == ERR_OK)
			reply.experiments[reply.n_experiments++] = e;
	}
	if (!trials_champions(&s->ab, s->ab.mem, &champions, &n, &why)) {
		store_state(s, false, &why);
		rpc_fail(data, why.code, why.text);
	} else {
		reply.champions = champions;
		for (size_t i = 0; i < n; i++)
			if (may(q->caller, "tests.read", champions[i]->filter ? champions[i]->filter->tenant : "", &why) == ERR_OK)
				champions[reply.n_champions++] = champions[i];
		closure(&reply, data);
	}
	arena_reset(s->ab.mem);
}

static void on_show(Corral__Experiments_Service *rpc, const Corral__ExperimentRequest *q, Corral__Experiment_Closure closure, void *data)
{
	struct trial *t = find(of(rpc), q->caller, q->id, "tests.read", data);

	if (t)
		closure(t->e, data);
}

static void on_analyse(Corral__Experiments_Service *rpc, const Corral__ExperimentRequest *q, Corral__ExperimentAnalysis_Closure closure, void *data)
{
	struct ab_service *s = of(rpc);
	struct trial *t = find(s, q->caller, q->id, "tests.read", data);
	Corral__ExperimentAnalysis reply;

	if (!t)
		return;
	judge_analyse(&s->ab, t, wall_us(), s->ab.mem, &reply);
	closure(&reply, data);
	arena_reset(s->ab.mem);
}

/* Who says promote without an arm means the one that is ahead. */
static const char *ahead(struct ab_service *s, const struct trial *t)
{
	Corral__ExperimentAnalysis a;

	judge_analyse(&s->ab, t, wall_us(), s->ab.mem, &a);
	return a.winner;
}

static void on_change(Corral__Experiments_Service *rpc, const Corral__ChangeExperimentRequest *q, Corral__Experiment_Closure closure, void *data)
{
	struct ab_service *s = of(rpc);
	struct trial *t = find(s, q->caller, q->id, "tests.write", data);
	const char *arm = q->arm, *reason, *by = q->caller && *q->caller->key_id ? q->caller->key_id : "no key";
	struct why why = { 0 };
	enum err err;

	if (!t)
		return;
	if (q->act == CORRAL__EXPERIMENT_ACT__ACT_PROMOTE && !*arm)
		arm = ahead(s, t);
	reason = *q->reason ? arena_printf(s->ab.mem, "%s (%s)", q->reason, by) : arena_printf(s->ab.mem, "by hand (%s)", by);
	err = trial_change(&s->ab, t, &(struct change){ q->act, q->act == CORRAL__EXPERIMENT_ACT__ACT_PROMOTE ? arm : "", reason, .by = by }, wall_us(), &why);
	store_state(s, err != ERR_STORE_FAILED, &why);
	tell(s);
	if (err == ERR_OK)
		closure(t->e, data);
	else
		rpc_fail(data, err, why.text);
	arena_reset(s->ab.mem);
}

/* --- outcomes --- */

enum { OUTCOMES_AT_ONCE = 500 };

static void tick(struct loop_timer *);

static void judge(struct ab_service *s)
{
	struct why why = { 0 };
	bool ok = results_load(&s->ab, &why) && judge_all(&s->ab, wall_us(), &why);

	store_state(s, ok, &why);
	tell(s);
}

static void on_outcomes(const Corral__OutcomesReply *reply, void *arg)
{
	struct ab_service *s = arg;
	struct why why = { 0 };
	bool ok;

	s->asking = s->more = false;
	if (!reply)
		return;                   /* asked again in a moment; the ledger keeps them */
	ok = results_take(&s->ab, reply, &why);
	store_state(s, ok, &why);
	if (!ok)
		return;
	series_add(metrics_series(svc_metrics(s->ab.svc), M_OUTCOMES), (double)reply->n_rows);
	s->more = reply->more;
	judge(s);
	if (s->more)
		loop_timer_set(svc_loop(s->ab.svc), &s->timer, 0, tick);
}

static void prune_tick(struct ab_service *s)
{
	const struct ab_config *cfg = svc_config(s->ab.svc);
	int64_t removed;
	struct why why;

	if (s->failing)
		return;
	store_state(s, prune(&s->ab, cfg->outcomes_keep * 1000, wall_us(), &removed, &why), &why);
	if (!s->failing && removed)
		series_add(metrics_series(svc_metrics(s->ab.svc), M_PRUNED), (double)removed);
}

/* --- challengers --- */

#define USED_OF_US (30 * 86400 * INT64_C(1000000))

static void look_end(struct ab_service *s)
{
	snapshot_sub_free(s->look.sub);
	buf_free(&s->look.models);
	s->look.sub = NULL;
	s->look.heard = s->look.over = false;
}

static void on_used(const Corral__UsageReport *used, void *arg)
{
	struct ab_service *s = arg;
	const struct ab_config *cfg = svc_config(s->ab.svc);
	const struct challenger_rules rules = { cfg->challenger_traffic, cfg->challenger_days, strcmp(cfg->challengers, "shadow") == 0, cfg->challenger_against };
	struct sight sight = { .used = used };
	struct why why;

	s->look.over = true;
	if (!used)
		return;                   /* away: looked again with the next ticks */
	sight.models = ab_unpack(s->ab.mem, &corral__model_snapshot__descriptor, buf_as_str(&s->look.models));
	if (sight.models) {
		store_state(s, challengers_look(&s->ab, &rules, &sight, wall_us(), &why), &why);
		series_inc(metrics_series(svc_metrics(s->ab.svc), M_LOOKS));
	}
	arena_reset(s->ab.mem);
	tell(s);
}

static void on_models(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct ab_service *s = arg;
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	char *by[] = { (char *)"model" };

	(void)id, (void)stale;
	if (s->look.heard)
		return;
	s->look.heard = true;
	buf_str(&s->look.models, bytes);
	q.group_by = by;
	q.n_group_by = 1;
	q.from_us = wall_us() - USED_OF_US;
	corral__usage_tracker__query(rpc_stub(s->ledger, &corral__usage_tracker__descriptor), &q, on_used, s);
}

/* The registry's list is heard for as long as a look takes. */
static void challengers_tick(struct ab_service *s)
{
	const struct ab_config *cfg = svc_config(s->ab.svc);

	if (s->look.over)
		look_end(s);
	if (s->look.sub || s->failing || *cfg->challengers == 'o' || !challengers_due(&s->ab, cfg->challenger_every * 1000, wall_us()))
		return;
	s->look.sub = snapshot_sub_new(svc_loop(s->ab.svc), svc_peer(s->ab.svc, "model-registry"), svc_pub_url(s->ab.svc, "model-registry"), "models", NULL, on_models, s);
}

static void tick(struct loop_timer *t)
{
	struct ab_service *s = (struct ab_service *)(void *)((char *)t - offsetof(struct ab_service, timer));
	const struct ab_config *cfg = svc_config(s->ab.svc);
	Corral__OutcomesRequest q = CORRAL__OUTCOMES_REQUEST__INIT;

	loop_timer_set(svc_loop(s->ab.svc), t, cfg->outcomes_every * 1000, tick);
	notes_tell(&s->ab);
	news_send(&s->ab);
	challengers_tick(s);
	prune_tick(s);
	if (s->failing && db_is_back(s->ab.db))
		store_state(s, true, NULL);
	if (s->asking)
		return;
	if (list_empty(&s->ab.trials))
		return;
	judge(s);                         /* time passes without outcomes too */
	s->asking = true;
	q.after = s->ab.cursor;
	q.limit = OUTCOMES_AT_ONCE;
	corral__usage_tracker__outcomes(rpc_stub(s->ledger, &corral__usage_tracker__descriptor), &q, on_outcomes, s);
}

/* --- life --- */

static void stop(struct svc *svc)
{
	struct ab_service *s = svc_state(svc);

	if (!s)
		return;
	loop_timer_del(&s->timer);
	look_end(s);
	news_send(&s->ab);
	herald_free(s->ab.events.herald);
	snapshot_pub_free(s->ab.pub);
	trials_free(&s->ab);
	arena_free(s->ab.mem);
	db_close(s->ab.db);
	free(s);
	svc_set_state(svc, NULL);
}

static void on_bus_state(void *svc, bool ok, const char *text) { svc_want(svc, "bus", ok, text); }

static void herald_set(struct ab_service *s)
{
	const struct ab_config *cfg = svc_config(s->ab.svc);
	char root[1024];
	const struct herald_opts o = { .root = root, .service = "ab-testing", .name = "experiments", .topic = "experiments.v1", .schema = "corral.ExperimentEvent",
				       .label = news_label, .bus = &cfg->bus, .on_state = on_bus_state, .arg = s->ab.svc, .metrics = svc_metrics(s->ab.svc),
				       .first_metric = M_BUS };

	snprintf(root, sizeof(root), "%s/spool", svc_state_dir(s->ab.svc));
	s->ab.events.herald = herald_new(svc_loop(s->ab.svc), &o);
	s->ab.events.on_kafka = bus_is_kafka(&cfg->bus);
}

static bool store_open(struct ab_service *s, struct why *why)
{
	const struct ab_config *cfg = svc_config(s->ab.svc);
	char url[4200];

	snprintf(url, sizeof(url), "sqlite:%s/experiments.db", svc_state_dir(s->ab.svc));
	s->ab.db = db_open(*cfg->ab_db ? cfg->ab_db : url, ab_sql, X_STATEMENTS, ab_migrations, why);
	return s->ab.db && trials_load(&s->ab, why);
}

static void serve(struct ab_service *s)
{
	corral__experiments__init(&s->rpc, NULL);
	s->rpc.create = on_create;
	s->rpc.list = on_list;
	s->rpc.show = on_show;
	s->rpc.analyse = on_analyse;
	s->rpc.change = on_change;
	rpc_server_add(svc_rpc_server(s->ab.svc), &s->rpc.base);
}

static bool start(struct svc *svc, struct why *why)
{
	struct ab_service *s = x_calloc(1, sizeof(*s));

	svc_set_state(svc, s);
	s->ab.svc = svc;
	s->ab.mem = arena_new(16384);
	list_init(&s->ab.trials);
	s->ledger = svc_peer(svc, "usage-tracker");
	s->ab.notes.access = svc_peer(svc, "access");
	if (!store_open(s, why) ||
	    !(s->ab.pub = snapshot_pub_new(svc_loop(svc), svc_rpc_server(svc), svc_pub_url(svc, "ab-testing"), "experiments", why)) ||
	    !trials_publish(&s->ab, why)) {
		stop(svc);
		return false;
	}
	herald_set(s);
	serve(s);
	svc_need(svc, "experiments store", true, "");
	tell(s);
	tick(&s->timer);
	return true;
}

static bool reload(struct svc *svc, struct why *why)
{
	(void)why;
	herald_bus(((struct ab_service *)svc_state(svc))->ab.events.herald, &((const struct ab_config *)svc_config(svc))->bus);   /* where the options are from now on */
	svc_reloaded(svc);
	return true;
}

static enum err check(const void *config, struct why *why) { return bus_check(&((const struct ab_config *)config)->bus, why); }

const struct svc_def ab_testing_service = {
	.name = "ab-testing",
	.summary = "Runs experiments on models, parameters and prompts: who gets what, what came of it, and what follows.",
	.options = options,
	.databases = (const struct svc_db[]){ { "ab_db", "experiments.db", ab_migrations }, { 0 } },
	.one_writer = true,
	.config_size = sizeof(struct ab_config),
	.metrics = metrics,
	.n_metrics = M_COUNT,
	.admin_port = 8114,
	.rpc_port = 7114,
	.check = check,
	.start = start,
	.reload = reload,
	.stop = stop,
};

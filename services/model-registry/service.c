/* service.c - the model registry as a service: publishes ModelSnapshot "models", answers ModelRegistry.Sync, keeps its last snapshot. */
#include "services/model-registry/service.h"

#include <stdio.h>
#include <string.h>

#include "common/data/log.h"
#include "common/io/snapshot_file.h"
#include "services/model-registry/gazette.h"
#include "services/model-registry/health.h"
#include "services/model-registry/jobs_rpc.h"
#include "services/model-registry/lend.h"
#include "services/model-registry/power.h"
#include "services/model-registry/preload.h"
#include "services/model-registry/registry.h"

static bool start(struct svc *, struct why *);
static bool reload(struct svc *, struct why *);
static void stop(struct svc *);

static enum err check(const void *config, struct why *why)
{
	enum err e = settings_check(config, why);

	return e ? e : bus_check(&((const struct registry_config *)config)->bus, why);
}

const struct svc_def model_registry_service = {
	.name = "model-registry",
	.summary = "Finds out which models the backends have, and tells everyone.",
	.options = registry_options, .config_size = sizeof(struct registry_config),
	.databases = (const struct svc_db[]){ { "jobs_db", "jobs.db", jobs_migrations }, { 0 } },
	.one_writer = true,
	.metrics = registry_metrics, .n_metrics = M_COUNT,
	.admin_port = 8111, .rpc_port = 7111,
	.check = check,
	.start = start, .reload = reload, .stop = stop,
};

struct endpoint {
	Corral__ModelRegistry_Service base;   /* first: freed by the RPC server */
	struct keeper *keeper;
};

struct keeper {
	struct svc *svc;
	struct registry *registry;
	struct lender *lender;
	struct snapshot_pub *pub;
	struct endpoint *endpoint;
	struct jobs *jobs;
	struct jobs_endpoint *jobs_endpoint;
	struct health *health;
	struct preload *preload;
	struct power_watch *power;
	struct herald *herald;
	struct gazette *gazette;
	struct loop_timer tell_timer;
	bool told;                    /* the gazette has heard all of what was published last */
	char *path;                   /* of the kept snapshot */
	struct snapshot_id id;        /* published last */
};

struct waiting {
	struct keeper *keeper;
	Corral__SyncReply_Closure closure;
	void *closure_data;
};

static void registry_rpc_sync(Corral__ModelRegistry_Service *, const Corral__SyncRequest *, Corral__SyncReply_Closure, void *closure_data);

static void tell(struct keeper *);

static void on_snapshot(void *arg, struct str packed)
{
	struct keeper *keeper = arg;

	lender_set_totals(keeper->lender, keeper->registry->last);
	keeper->id = (struct snapshot_id){ snapshot_pub_epoch(keeper->pub), snapshot_publish(keeper->pub, packed) };
	if (!snapshot_file_save(keeper->path, "models", keeper->id, packed))
		LOG_WARN("the list of models cannot be kept for the next start", LOG_S("path", keeper->path));
	tell(keeper);
}

/* --- what changed, for others --- */

enum { TELL_US = 1000000, TELL_AGAIN_US = 200000 };

static void on_tell(struct loop_timer *);

/* Once it has heard a version it is not asked again: it looks at every model and replica, on the loop that lends slots. */
static void tell(struct keeper *keeper)
{
	keeper->told = gazette_hear(keeper->gazette, keeper->registry->last, keeper->id);
	if (!keeper->told)
		loop_timer_set(svc_loop(keeper->svc), &keeper->tell_timer, TELL_AGAIN_US, on_tell);
}

static void on_bus_state(void *svc, bool ok, const char *text) { svc_want(svc, "bus", ok, text); }

static void on_tell(struct loop_timer *t)
{
	struct keeper *keeper = list_entry(t, struct keeper, tell_timer);

	loop_timer_set(t->loop, t, TELL_US, on_tell);
	if (!herald_open(keeper->herald))
		return;
	if (keeper->id.version && !keeper->told)
		tell(keeper);
	herald_tick(keeper->herald);
}

static void tell_begin(struct keeper *keeper)
{
	const struct registry_config *config = svc_config(keeper->svc);
	char root[1024];
	const struct herald_opts o = { .root = root, .service = "model-registry", .name = "catalogue", .topic = "catalogue.v1", .schema = "corral.CatalogueEvent",
				       .label = gazette_label, .bus = &config->bus, .on_state = on_bus_state, .arg = keeper->svc, .metrics = svc_metrics(keeper->svc),
				       .first_metric = M_BUS };

	snprintf(root, sizeof(root), "%s/spool", svc_state_dir(keeper->svc));
	keeper->herald = herald_new(svc_loop(keeper->svc), &o);
	keeper->gazette = gazette_new(keeper->herald, svc_state_dir(keeper->svc));
	loop_timer_set(svc_loop(keeper->svc), &keeper->tell_timer, 0, on_tell);
}

/* Ready once it has looked: a backend that is down is a state it tells of, not one that it is in. */
static void on_state(void *arg, unsigned up, unsigned known, unsigned n)
{
	struct keeper *keeper = arg;
	char text[100];

	(void)snprintf(text, sizeof text, "%u of %u backends are up", up, n);
	svc_need(keeper->svc, "backends", up > 0 || known == n, text);
}

static void endpoint_destroy(ProtobufCService *service)
{
	free(service);
}

static void endpoint_add(struct keeper *keeper, struct rpc_server *server)
{
	static const Corral__ModelRegistry_Service methods = CORRAL__MODEL_REGISTRY__INIT(registry_rpc_);

	keeper->endpoint = x_calloc(1, sizeof *keeper->endpoint);
	keeper->endpoint->base = methods;
	keeper->endpoint->base.base.destroy = endpoint_destroy;
	keeper->endpoint->keeper = keeper;
	rpc_server_add(server, &keeper->endpoint->base.base);
}

static void keeper_free(struct keeper *keeper)
{
	loop_timer_del(&keeper->tell_timer);
	jobs_endpoint_close(keeper->jobs_endpoint);
	preload_free(keeper->preload);
	power_watch_free(keeper->power);
	health_free(keeper->health);
	jobs_free(keeper->jobs);
	registry_free(keeper->registry);
	gazette_free(keeper->gazette);
	herald_free(keeper->herald);
	lender_free(keeper->lender);
	snapshot_pub_free(keeper->pub);
	if (keeper->endpoint)
		keeper->endpoint->keeper = NULL;
	free(keeper->path);
	free(keeper);
}

static bool start_jobs(struct keeper *keeper, struct why *why)
{
	const struct registry_config *config = svc_config(keeper->svc);
	struct buf url = { 0 };

	buf_printf(&url, "sqlite:%s/jobs.db", svc_state_dir(keeper->svc));
	keeper->registry->on_db_wait = svc_db_wait;
	keeper->registry->db_wait_arg = keeper->svc;
	keeper->jobs = keeper->registry->jobs = jobs_new(keeper->registry, config->jobs_db[0] ? config->jobs_db : buf_z(&url), why);
	buf_free(&url);
	if (!keeper->jobs)
		return false;
	registry_changed(keeper->registry);       /* what is hidden or marked */
	if (keeper->jobs_endpoint)
		jobs_endpoint_open(keeper->jobs_endpoint, keeper->jobs);
	else
		keeper->jobs_endpoint = jobs_endpoint_add(svc_rpc_server(keeper->svc), keeper->jobs);
	return true;
}

static void on_lease(void *arg, const Corral__LeaseRequest *request)
{
	struct keeper *keeper = arg;

	health_hear(keeper->health, request);
	power_watch_hear(keeper->power, request);
}

static void on_powers(void *arg, struct arena *mem, Corral__LeaseReply *reply) { power_watch_put(((struct keeper *)arg)->power, mem, reply); }

static void on_loads(void *arg, struct arena *mem, Corral__LeaseRequest *r) { jobs_loads(((struct keeper *)arg)->jobs, mem, r); }

static bool start(struct svc *svc, struct why *why)
{
	struct keeper *keeper = x_calloc(1, sizeof *keeper);
	struct buf kept = { 0 }, path = { 0 };
	struct snapshot_id id;

	keeper->svc = svc;
	buf_printf(&path, "%s/models.snapshot", svc_state_dir(svc));
	keeper->path = x_strdup(buf_z(&path));
	buf_free(&path);
	svc_need(svc, "backends", false, "no backend has been asked yet");
	keeper->pub = snapshot_pub_new(svc_loop(svc), svc_rpc_server(svc), svc_pub_url(svc, svc_name(svc)), "models", why);
	tell_begin(keeper);
	if (keeper->pub) {
		(void)snapshot_file_load(keeper->path, "models", &id, &kept);
		keeper->registry = registry_new(svc_loop(svc), svc_config(svc), svc_metrics(svc), buf_as_str(&kept), on_snapshot, on_state, keeper, why);
		buf_free(&kept);
	}
	if (!keeper->registry || !start_jobs(keeper, why)) {
		keeper_free(keeper);
		return false;
	}
	endpoint_add(keeper, svc_rpc_server(svc));
	keeper->lender = lender_new(svc, snapshot_pub_epoch(keeper->pub));
	if (keeper->registry->last)
		lender_set_totals(keeper->lender, keeper->registry->last);
	keeper->health = health_new(keeper->registry, svc_state_dir(svc));
	lender_tell(keeper->lender, on_lease, keeper);
	lender_loads(keeper->lender, on_loads, keeper);
	lender_powers(keeper->lender, on_powers, keeper);
	keeper->preload = preload_new(svc, &keeper->jobs);
	keeper->power = power_watch_new(svc, &keeper->registry);
	svc_set_state(svc, keeper);
	return true;
}

/* What was seen of a backend that stays where it was; one that is gone is up no more. */
static void carry_over(struct registry *from, struct registry *to)
{
	for (size_t i = 0; i < from->n; i++) {
		struct backend *old = &from->backends[i];

		if (old->up)
			series_set(old->up, 0);
		for (size_t j = 0; j < to->n; j++) {
			struct backend *new = &to->backends[j];

			if (strcmp(old->name, new->name) != 0 || strcmp(old->url_text, new->url_text) != 0)
				continue;
			new->state = old->state;
			new->checked_at_us = old->checked_at_us;
			memcpy(new->reason, old->reason, sizeof(new->reason));
			if (new->up)
				series_set(new->up, old->state == CORRAL__BACKEND_STATE__BACKEND_UP);
		}
	}
}

static bool same_backends(const struct registry *registry, const struct registry_config *config)
{
	struct arena *mem = arena_new(0);
	struct backend_setting *list;
	struct why why;
	size_t n;
	bool same = settings_backends(config, mem, &list, &n, &why) == ERR_OK && n == registry->n;

	for (size_t i = 0; same && i < n; i++)
		same = strcmp(list[i].name, registry->backends[i].name) == 0 && strcmp(list[i].url_text, registry->backends[i].url_text) == 0 &&
		       list[i].kind == registry->backends[i].configured;
	arena_free(mem);
	return same;
}

static bool reword(struct registry *registry, const struct registry_config *config, struct why *why)
{
	const struct families *families = families_load(registry->mem, config->families, why);

	if (!families)
		return false;
	registry->families = families;
	registry->config = config;
	registry_changed(registry);
	return true;
}

/* With other backends the registry is made anew from what this one holds, and its jobs are taken up again as at a start. */
static bool replace(struct keeper *keeper, struct why *why)
{
	struct svc *svc = keeper->svc;
	struct registry *next = registry_new(svc_loop(svc), svc_config(svc), svc_metrics(svc), buf_as_str(&keeper->registry->last_packed), on_snapshot,
					     on_state, keeper, why), *before = keeper->registry;

	if (!next)
		return false;
	carry_over(before, next);
	jobs_endpoint_close(keeper->jobs_endpoint);
	jobs_free(keeper->jobs);
	keeper->jobs = before->jobs = NULL;
	keeper->registry = next;
	health_set_registry(keeper->health, next);
	registry_free(before);
	if (!start_jobs(keeper, why))
		LOG_ERROR("jobs on models cannot go on", LOG_S("error", why->text));
	return true;
}

static bool reload(struct svc *svc, struct why *why)
{
	struct keeper *keeper = svc_state(svc);

	if (!(same_backends(keeper->registry, svc_config(svc)) ? reword(keeper->registry, svc_config(svc), why) : replace(keeper, why)))
		return false;
	herald_bus(keeper->herald, &((const struct registry_config *)svc_config(svc))->bus);      /* where the options are from now on */
	svc_reloaded(svc);
	return true;
}

static void stop(struct svc *svc)
{
	keeper_free(svc_state(svc));
}

static void on_synced(void *arg, const Corral__SyncReply *reply)
{
	struct waiting *waiting = arg;
	Corral__SyncReply told;

	if (reply) {
		told = *reply;
		told.epoch = waiting->keeper->id.epoch;
		told.version = waiting->keeper->id.version;
		waiting->closure(&told, waiting->closure_data);
	} else {
		rpc_fail(waiting->closure_data, ERR_UNAVAILABLE, "the registry is shutting down");
	}
	free(waiting);
}

static void registry_rpc_sync(Corral__ModelRegistry_Service *service, const Corral__SyncRequest *request, Corral__SyncReply_Closure closure,
			      void *closure_data)
{
	struct keeper *keeper = ((struct endpoint *)(void *)service)->keeper;
	struct waiting *waiting;
	struct why why;

	if (!keeper) {
		rpc_fail(closure_data, ERR_UNAVAILABLE, "the registry is shutting down");
		return;
	}
	waiting = x_calloc(1, sizeof *waiting);
	*waiting = (struct waiting){ keeper, closure, closure_data };
	if (registry_sync(keeper->registry, str_of(request->backend), on_synced, waiting, &why)) {
		rpc_fail(closure_data, why.code, why.text);
		free(waiting);
	}
}

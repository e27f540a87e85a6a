/* discovery.c - visits the backends: lists at start, every sync_every and on demand; looks every residency_every, all at the same
 * time, each with its own connections and its own time, so that one that hangs delays nobody. One visit to a backend at a time. */
#include <stdio.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/tls.h"
#include "services/model-registry/registry.h"

enum {
	PUBLISH_AFTER_US = 20 * 1000,         /* visits that end together make one snapshot */
	PATIENCE_US = 250 * 1000              /* so that a question which ran out of time is told as that */
};

const struct metric_def registry_metrics[M_COUNT] = {
	[M_BACKEND_UP] = { METRIC_GAUGE, "backend_up", "1 while the backend answers and is ready, else 0.", "backend" },
	[M_MODELS] = { METRIC_GAUGE, "models", "Models listed.", "" },
	[M_SYNC_SECONDS] = { METRIC_HISTOGRAM, "sync_seconds", "Time that one listing of a backend took.", "" },
	[M_SYNC_FAILURES] = { METRIC_COUNTER, "sync_failures_total", "Visits to a backend that failed, by reason: unreachable, status, malformed.",
			      "backend,reason" },
	[M_GATEWAYS] = { METRIC_GAUGE, "gateways", "Gateways that share the slots of the backends.", "" },
	[M_JOBS] = { METRIC_COUNTER, "jobs_total", "Jobs on models that ended, by kind and outcome: done, failed, cancelled.", "kind,outcome" },
	[M_JOBS_ACTIVE] = { METRIC_GAUGE, "jobs_active", "Jobs on models that wait or run.", "" },
	[M_CHECKS] = { METRIC_COUNTER, "backend_checks_total", "Checks whether a backend can generate, by outcome: ok, failed.", "backend,outcome" },
	[M_RESTARTS] = { METRIC_COUNTER, "backend_restarts_total", "Restart commands that were run for a backend, by outcome: ok, failed.", "backend,outcome" },
	[M_TURNS] = { METRIC_COUNTER, "model_turns_total", "Times that requests of other models were held back for one that waited to be loaded.", "backend" },
	[M_STANDBY] = { METRIC_GAUGE, "backend_standby", "1 while the standby command of a backend runs.", "backend" },
	HERALD_METRICS(M_BUS),
};

struct sync {
	struct sync *next;
	struct registry *registry;
	struct loop_timer patience;   /* a visit asks several questions; who waits is answered after the time of one */
	void (*done)(void *arg, const Corral__SyncReply *);
	void *arg;
	uint64_t *needed;             /* for each backend: lists_ended when it is answered; 0 = not asked */
	struct arena *mem;            /* of this and what it holds */
	const char **before;          /* names of the models when it was asked */
	size_t n_before;
};

static void backend_open(struct registry *, struct backend *, const struct backend_setting *);
static void on_sync_time(struct loop_timer *);
static void on_look_time(struct loop_timer *);
static void on_publish_time(struct loop_timer *);
static void visit_backend(struct backend *, enum visit_task);
static void on_visit_end(struct visit *, void *arg);
static void publish_soon(struct registry *);
static void publish(struct registry *);
static void check_syncs(struct registry *);
static void on_patience_over(struct loop_timer *);

/* The authorities of a whole system are some megabytes: only for who has a use for them. */
static bool trust_load(struct registry *registry, const struct backend_setting *settings, struct why *why)
{
	for (size_t i = 0; i < registry->n && !registry->trust; i++)
		if (settings[i].url.tls && !(registry->trust = tls_trust_load(registry->config->backend_ca, why)))
			return false;
	return true;
}

struct registry *registry_new(struct loop *loop, const struct registry_config *config, struct metrics *metrics, struct str kept,
			      void (*on_snapshot)(void *arg, struct str packed), void (*on_state)(void *arg, unsigned up, unsigned known, unsigned n), void *arg,
			      struct why *why)
{
	struct arena *mem = arena_new(0);
	struct registry *registry = arena_new_of(mem, struct registry);
	struct backend_setting *settings;

	registry->mem = mem;
	registry->config = config;
	registry->families = families_load(mem, config->families, why);
	if (!registry->families || settings_backends(config, mem, &settings, &registry->n, why) || !trust_load(registry, settings, why)) {
		arena_free(mem);
		return NULL;
	}
	registry->loop = loop;
	registry->metrics = metrics;
	registry->on_snapshot = on_snapshot;
	registry->on_state = on_state;
	registry->arg = arg;
	registry->backends = arena_array(mem, struct backend, registry->n + 1);
	for (size_t i = 0; i < registry->n; i++)
		backend_open(registry, &registry->backends[i], &settings[i]);
	registry->last = kept.n ? corral__model_snapshot__unpack(NULL, kept.n, (const uint8_t *)kept.p) : NULL;
	if (registry->last)
		stock_restore(registry, registry->last);
	loop_timer_set(loop, &registry->sync_timer, 0, on_sync_time);
	loop_timer_set(loop, &registry->look_timer, config->residency_every * 1000, on_look_time);
	if (registry->last)
		publish_soon(registry);
	return registry;
}

void registry_free(struct registry *registry)
{
	if (!registry)
		return;
	loop_timer_del(&registry->sync_timer);
	loop_timer_del(&registry->look_timer);
	loop_timer_del(&registry->publish_timer);
	for (size_t i = 0; i < registry->n; i++) {
		struct backend *backend = &registry->backends[i];

		if (backend->visiting)
			visit_cancel(&backend->visit);
		http_pool_free(backend->pool);
		listing_free(backend->held);
	}
	while (registry->syncs) {
		struct sync *sync = registry->syncs;

		registry->syncs = sync->next;
		loop_timer_del(&sync->patience);
		sync->done(sync->arg, NULL);
		arena_free(sync->mem);
	}
	if (registry->last)
		corral__model_snapshot__free_unpacked(registry->last, NULL);
	buf_free(&registry->last_packed);
	tls_trust_free(registry->trust);
	arena_free(registry->mem);
}

static void backend_open(struct registry *registry, struct backend *backend, const struct backend_setting *setting)
{
	backend->registry = registry;
	backend->name = setting->name;
	backend->url_text = setting->url_text;
	backend->kind = backend->configured = setting->kind;
	backend->pool = http_pool_new(registry->loop, &setting->url, &(struct http_pool_opts){ .trust = registry->trust });
	backend->held = listing_new();
	backend->up = metrics_series(registry->metrics, M_BACKEND_UP, backend->name);
	series_set(backend->up, 0);
	(void)snprintf(backend->reason, sizeof backend->reason, "not asked yet");
}

/* --- when --- */

static void list_all(struct registry *registry)
{
	for (size_t i = 0; i < registry->n; i++) {
		if (registry->backends[i].visiting)
			registry->backends[i].list_again = true;
		else
			visit_backend(&registry->backends[i], VISIT_LIST);
	}
}

static void on_sync_time(struct loop_timer *timer)
{
	struct registry *registry = list_entry(timer, struct registry, sync_timer);

	loop_timer_set(registry->loop, timer, registry->config->sync_every * 1000, on_sync_time);
	list_all(registry);
}

static void on_look_time(struct loop_timer *timer)
{
	struct registry *registry = list_entry(timer, struct registry, look_timer);

	loop_timer_set(registry->loop, timer, registry->config->residency_every * 1000, on_look_time);
	for (size_t i = 0; i < registry->n; i++) {
		struct backend *backend = &registry->backends[i];

		if (!backend->visiting)
			visit_backend(backend, backend->state == CORRAL__BACKEND_STATE__BACKEND_UP ? VISIT_LOOK : VISIT_LIST);
	}
}

static void visit_backend(struct backend *backend, enum visit_task task)
{
	backend->visiting = true;
	backend->visit_began_us = mono_us();
	if (task == VISIT_LIST)
		backend->lists_begun++;
	backend->visit = (struct visit){
		.pool = backend->pool, .kind = backend->kind, .task = task, .timeout_ms = backend->registry->config->list_timeout,
		.held = backend->held, .on_end = on_visit_end, .arg = backend
	};
	visit_start(&backend->visit);
}

/* --- how a visit ended --- */

static void set_state(struct backend *backend, Corral__BackendState state, const char *reason)
{
	struct registry *registry = backend->registry;
	unsigned up = 0, known = 0;

	backend->checked_at_us = wall_us();
	if (state != backend->state) {
		if (state == CORRAL__BACKEND_STATE__BACKEND_UP)
			LOG_INFO("backend is up", LOG_S("backend", backend->name), LOG_S("kind", backend->kind->name), LOG_I("models", backend->held->n));
		else
			LOG_WARN("backend is not up", LOG_S("backend", backend->name), LOG_S("url", backend->url_text), LOG_S("reason", reason));
	}
	backend->state = state;
	str_copy(backend->reason, sizeof backend->reason, str_of(reason));
	series_set(backend->up, state == CORRAL__BACKEND_STATE__BACKEND_UP);
	for (size_t i = 0; i < registry->n; i++) {
		up += registry->backends[i].state == CORRAL__BACKEND_STATE__BACKEND_UP;
		known += registry->backends[i].state != CORRAL__BACKEND_STATE__BACKEND_UNKNOWN;
	}
	if (registry->on_state)
		registry->on_state(registry->arg, up, known, (unsigned)registry->n);
}

void registry_set_sick(struct backend *backend, const char *why)
{
	(void)str_copy(backend->sick, sizeof backend->sick, str_of(why ? why : ""));
	if (why)
		set_state(backend, CORRAL__BACKEND_STATE__BACKEND_DOWN, why);
	registry_look(backend->registry, backend);
}

static void list_ended(struct backend *backend, struct visit *visit)
{
	if (visit->end == VISIT_GOOD) {
		backend->held = stock_accept(backend->held, visit->found, wall_us());
		visit->found = NULL;
		series_observe(metrics_series(backend->registry->metrics, M_SYNC_SECONDS), (double)(mono_us() - backend->visit_began_us) / 1e6);
	}
	listing_free(visit->found);
	visit->found = NULL;
	backend->lists_ended++;
}

/* One failure of a backend that was well says little: a connection was cut, an answer came late. It is asked once more, at once, and the second counts;
 * where nobody listens any more that is the same moment. */
static bool ask_again(struct backend *backend, struct visit *visit)
{
	enum visit_task task = visit->task;

	if (visit->end != VISIT_FAILED || backend->state != CORRAL__BACKEND_STATE__BACKEND_UP || backend->doubted) {
		backend->doubted = false;
		return false;
	}
	backend->doubted = true;
	series_inc(metrics_series(backend->registry->metrics, M_SYNC_FAILURES, backend->name, visit->reason));
	LOG_INFO("a backend that was up did not answer well; it is asked again", LOG_S("backend", backend->name), LOG_S("reason", visit->text));
	listing_free(visit->found);
	visit->found = NULL;
	backend->lists_begun -= task == VISIT_LIST;       /* it is the same listing */
	visit_backend(backend, task);
	return true;
}

static void note_residency(struct backend *backend, const struct visit *visit)
{
	if (visit->end != VISIT_FAILED && !visit->untold) {
		backend->resident_us = backend->visit_began_us;
		backend->untold_us = 0;
	} else if (!backend->untold_us) {
		backend->untold_us = backend->visit_began_us;
	}
}

static void on_visit_end(struct visit *visit, void *arg)
{
	struct backend *backend = arg;
	enum visit_task task = visit->task;

	backend->visiting = false;
	if (ask_again(backend, visit))
		return;
	/* Something else may answer at that address now. */
	backend->kind = visit->end == VISIT_FAILED && strcmp(visit->reason, "unreachable") != 0 ? backend->configured : visit->kind;
	if (task == VISIT_LIST)
		list_ended(backend, visit);
	backend->looked_us = mono_us();
	note_residency(backend, visit);
	(void)str_copy(backend->down_reason, sizeof backend->down_reason, str_of(visit->end == VISIT_FAILED ? visit->text : ""));
	backend->visited |= task == VISIT_LIST && visit->end == VISIT_GOOD;
	if (visit->end == VISIT_FAILED) {
		series_inc(metrics_series(backend->registry->metrics, M_SYNC_FAILURES, backend->name, visit->reason));
		set_state(backend, CORRAL__BACKEND_STATE__BACKEND_DOWN, visit->text);
	} else if (visit->end == VISIT_LOADING) {
		set_state(backend, CORRAL__BACKEND_STATE__BACKEND_LOADING, visit->text);
	} else if (backend->sick[0]) {
		set_state(backend, CORRAL__BACKEND_STATE__BACKEND_DOWN, backend->sick);
	} else {
		set_state(backend, CORRAL__BACKEND_STATE__BACKEND_UP, "");
	}
	if (backend->list_again || visit->end == VISIT_CHANGED) {
		backend->list_again = false;
		visit_backend(backend, VISIT_LIST);
	}
	publish_soon(backend->registry);
	if (task == VISIT_LIST)
		check_syncs(backend->registry);
}

/* --- snapshots --- */

static void publish_soon(struct registry *registry)
{
	if (!registry->publish_timer.heap_index)
		loop_timer_set(registry->loop, &registry->publish_timer, PUBLISH_AFTER_US, on_publish_time);
}

void registry_changed(struct registry *registry) { publish_soon(registry); }

void registry_list_again(struct registry *registry, struct backend *backend)
{
	(void)registry;
	if (backend->visiting)
		backend->list_again = true;
	else
		visit_backend(backend, VISIT_LIST);
}

void registry_look(struct registry *registry, struct backend *backend)
{
	if (!backend->visiting)
		visit_backend(backend, backend->state == CORRAL__BACKEND_STATE__BACKEND_UP ? VISIT_LOOK : VISIT_LIST);
	publish_soon(registry);
}

static void on_publish_time(struct loop_timer *timer)
{
	publish(list_entry(timer, struct registry, publish_timer));
}

static void pack(const Corral__ModelSnapshot *snapshot, struct buf *out)
{
	buf_clear(out);
	buf_reserve(out, corral__model_snapshot__get_packed_size(snapshot));
	out->n = corral__model_snapshot__pack(snapshot, (uint8_t *)out->p + out->n);
}

/* True when something but the times of checking differs from what was published last. */
static bool is_news(struct registry *registry, Corral__ModelSnapshot *snapshot)
{
	struct buf packed = { 0 };
	int64_t made_at_us = snapshot->made_at_us;
	bool news;

	snapshot->made_at_us = 0;
	for (size_t i = 0; i < snapshot->n_backends; i++)
		snapshot->backends[i]->checked_at_us = 0;
	pack(snapshot, &packed);
	snapshot->made_at_us = made_at_us;
	for (size_t i = 0; i < snapshot->n_backends; i++)
		snapshot->backends[i]->checked_at_us = registry->backends[i].checked_at_us;
	news = !str_eq(buf_as_str(&packed), buf_as_str(&registry->last_packed));
	if (news) {
		buf_clear(&registry->last_packed);
		buf_str(&registry->last_packed, buf_as_str(&packed));
	}
	buf_free(&packed);
	return news;
}

static void publish(struct registry *registry)
{
	struct arena *mem = arena_new(65536);
	Corral__ModelSnapshot *snapshot = catalog_make(registry, mem, wall_us());
	struct buf packed = { 0 };

	loop_timer_del(&registry->publish_timer);
	if (is_news(registry, snapshot)) {
		pack(snapshot, &packed);
		if (registry->last)
			corral__model_snapshot__free_unpacked(registry->last, NULL);
		registry->last = corral__model_snapshot__unpack(NULL, packed.n, (uint8_t *)packed.p);
		series_set(metrics_series(registry->metrics, M_MODELS), (double)snapshot->n_models);
		registry->on_snapshot(registry->arg, buf_as_str(&packed));
		buf_free(&packed);
	}
	arena_free(mem);
}

/* --- those who wait --- */

static void sync_remember(struct sync *sync, const Corral__ModelSnapshot *last)
{
	sync->n_before = last ? last->n_models : 0;
	sync->before = arena_array(sync->mem, const char *, sync->n_before + 1);
	for (size_t i = 0; i < sync->n_before; i++)
		sync->before[i] = arena_str(sync->mem, str_of(last->models[i]->name)).p;
}

enum err registry_sync(struct registry *registry, struct str name, void (*done)(void *arg, const Corral__SyncReply *), void *arg, struct why *why)
{
	struct arena *mem = arena_new(0);
	struct sync *sync = arena_new_of(mem, struct sync);
	size_t asked = 0;

	sync->mem = mem;
	sync->registry = registry;
	sync->done = done;
	sync->arg = arg;
	sync->needed = arena_array(mem, uint64_t, registry->n + 1);
	sync_remember(sync, registry->last);
	for (size_t i = 0; i < registry->n; i++) {
		struct backend *backend = &registry->backends[i];

		if (name.n && !str_eqz(name, backend->name))
			continue;
		asked++;
		/* A listing that has begun may have read the old state: the next one counts. */
		sync->needed[i] = backend->lists_begun + 1;
		if (backend->visiting)
			backend->list_again = true;
		else
			visit_backend(backend, VISIT_LIST);
	}
	if (asked) {
		sync->next = registry->syncs;
		registry->syncs = sync;
		loop_timer_set(registry->loop, &sync->patience, registry->config->list_timeout * 1000 + PATIENCE_US, on_patience_over);
		return ERR_OK;
	}
	arena_free(mem);
	return err_set(why, ERR_NOT_FOUND, "there is no backend '" STR_FMT "'", STR_ARG(name));
}

static bool is_answered(const struct registry *registry, const struct sync *sync)
{
	for (size_t i = 0; i < registry->n; i++)
		if (registry->backends[i].lists_ended < sync->needed[i])
			return false;
	return true;
}

/* Both sorted: how many names of one are not in the other. */
static void count_changes(const struct sync *sync, const Corral__ModelSnapshot *now, Corral__SyncReply *reply)
{
	size_t i = 0, j = 0;

	while (i < sync->n_before || j < now->n_models) {
		int c = i == sync->n_before ? 1 : j == now->n_models ? -1 : strcmp(sync->before[i], now->models[j]->name);

		reply->removed += c < 0;
		reply->added += c > 0;
		i += c <= 0;
		j += c >= 0;
	}
}

static void sync_answer(struct registry *registry, struct sync *sync)
{
	Corral__SyncReply reply = CORRAL__SYNC_REPLY__INIT;

	for (size_t i = 0; i < registry->last->n_backends && i < registry->n; i++)
		registry->last->backends[i]->checked_at_us = registry->backends[i].checked_at_us;
	reply.models = (uint32_t)registry->last->n_models;
	reply.backends = registry->last->backends;
	reply.n_backends = registry->last->n_backends;
	count_changes(sync, registry->last, &reply);
	loop_timer_del(&sync->patience);
	sync->done(sync->arg, &reply);
	arena_free(sync->mem);
}

/* Answered with what there is; a backend that has not answered says so itself, by its time of checking. */
static void on_patience_over(struct loop_timer *timer)
{
	struct sync *sync = list_entry(timer, struct sync, patience), **at = &sync->registry->syncs;

	while (*at != sync)
		at = &(*at)->next;
	*at = sync->next;
	publish(sync->registry);
	sync_answer(sync->registry, sync);
}

static void check_syncs(struct registry *registry)
{
	struct sync *ready = NULL;

	for (struct sync **at = &registry->syncs; *at;) {
		struct sync *sync = *at;

		if (!is_answered(registry, sync)) {
			at = &sync->next;
			continue;
		}
		*at = sync->next;
		sync->next = ready;
		ready = sync;
	}
	if (ready)
		publish(registry);        /* what is answered has been published */
	while (ready) {
		struct sync *sync = ready;

		ready = sync->next;
		sync_answer(registry, sync);
	}
}

/* preload.c - see preload.h. */
#include "services/model-registry/preload.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "hardware.pb-c.h"
#include "services/model-registry/acts.h"
#include "usage.pb-c.h"

enum { LOOK_US = 500 * 1000, GIVE_UP_US = 60 * 1000000, CANDIDATES = 64, ASK_MS = 10000 };

enum stage { BACKENDS, LEDGER, HARDWARE, READY, OVER };

struct preload {
	struct svc *svc;
	struct jobs **jobs;
	struct loop_timer timer;
	int64_t began_us, start_wall_us;
	enum stage stage;
	bool asked;
	char models[CANDIDATES][256];         /* the most used first */
	size_t n;
};

/* --- what is loaded --- */

static bool is_loaded(const struct registry *r, struct str model)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct found *f = held_model(&r->backends[i], model);

		if (f && (f->loaded || r->backends[i].kind == &kind_openai || (r->backends[i].kind == &kind_llamacpp && !is_router(&r->backends[i]))))
			return true;
	}
	return false;
}

static struct backend *where(const struct registry *r, struct str model)
{
	for (size_t i = 0; i < r->n; i++) {
		struct backend *b = &r->backends[i];

		if (b->state == CORRAL__BACKEND_STATE__BACKEND_UP && (b->kind == &kind_ollama || is_router(b)) && held_model(b, model))
			return b;
	}
	return NULL;
}

/* Weights, and a fifth of them for the context and the engine. */
static int64_t needed(const struct found *f) { return (int64_t)(f->size_bytes + f->size_bytes / 5); }

unsigned preload_models(struct jobs *jobs, const char *const *models, size_t n, int64_t *memory_bytes)
{
	const struct registry *r = jobs->registry;
	int64_t *left = x_calloc(r->n + 1, sizeof(*left));
	unsigned started = 0, loaded = 0;

	for (size_t i = 0; i < r->n; i++)
		left[i] = r->config->preload_memory ? r->config->preload_memory : INT64_MAX;
	for (size_t i = 0; i < n && started + loaded < (unsigned)r->config->preload_top; i++) {
		struct str model = str_of(models[i]);
		struct backend *b = where(r, model);
		int64_t need, *room;
		bool joined;
		struct why why;

		loaded += is_loaded(r, model);
		if (!b || is_loaded(r, model))
			continue;
		need = needed(held_model(b, model));
		room = r->config->preload_memory || !settings_is_here(b->url_text) || *memory_bytes < 0 ? &left[b - r->backends] : memory_bytes;
		if (need > *room) {
			LOG_INFO("a model that is used much does not fit and is not loaded at the start", LOG_S("model", models[i]), LOG_S("backend", b->name),
				 LOG_I("needed_bytes", need), LOG_I("free_bytes", *room));
			continue;
		}
		*room -= *room == INT64_MAX ? 0 : need;
		if (jobs_act(jobs, STR("preload"), model, str_of(b->name), -1, &joined, &why))
			started++;
	}
	free(left);
	return started;
}

/* --- asking, one after another --- */

static void look(struct loop_timer *);
static void later(struct preload *p) { loop_timer_set(svc_loop(p->svc), &p->timer, LOOK_US, look); }

static void finish(struct preload *p, int64_t memory_bytes)
{
	const char *names[CANDIDATES];
	unsigned started;

	p->stage = OVER;
	for (size_t i = 0; i < p->n; i++)
		names[i] = p->models[i];
	started = *p->jobs ? preload_models(*p->jobs, names, p->n, &memory_bytes) : 0;
	if (p->n)
		LOG_INFO("the models that were used most are loaded", LOG_I("used", p->n), LOG_I("loads", started));
}

static void on_hardware(const Corral__HardwareReply *reply, void *arg)
{
	struct preload *p = arg;
	int64_t gpu = 0, memory = -1;

	if (!reply) {                     /* not there; or this is the end, and look() will not run */
		p->stage = READY;
		later(p);
		return;
	}
	if (reply->hardware) {
		for (size_t i = 0; i < reply->hardware->n_gpus; i++)
			if (!reply->hardware->gpus[i]->split && !reply->hardware->gpus[i]->shared_memory && reply->hardware->gpus[i]->memory_free_bytes > 0)
				gpu += reply->hardware->gpus[i]->memory_free_bytes;
		if (reply->hardware->memory)
			memory = reply->hardware->memory->usable_bytes;
	}
	memory = gpu ? gpu : memory;
	finish(p, memory < 0 ? -1 : memory / 10 * 8);
}

static void ask_hardware(struct preload *p)
{
	Corral__HardwareRequest q = CORRAL__HARDWARE_REQUEST__INIT;
	struct rpc_client *probe = svc_peer(p->svc, "hardware-probe");

	p->stage = HARDWARE;
	rpc_deadline(probe, ASK_MS);
	corral__hardware_probe__get(rpc_stub(probe, &corral__hardware_probe__descriptor), &q, on_hardware, p);
}

static int by_requests(const void *a, const void *b)
{
	const Corral__UsageRow *x = *(Corral__UsageRow *const *)a, *y = *(Corral__UsageRow *const *)b;

	return (x->requests < y->requests) - (x->requests > y->requests);
}

static void on_usage(const Corral__UsageReport *report, void *arg)
{
	struct preload *p = arg;
	Corral__UsageRow **rows;

	p->asked = false;
	if (!report) {                    /* not there yet */
		later(p);
		return;
	}
	rows = x_calloc(report->n_rows + 1, sizeof(*rows));
	for (size_t i = 0; i < report->n_rows; i++)
		rows[i] = report->rows[i];
	qsort(rows, report->n_rows, sizeof(*rows), by_requests);
	for (size_t i = 0; i < report->n_rows && p->n < CANDIDATES; i++)
		if (rows[i]->n_groups && rows[i]->groups[0][0] && rows[i]->requests > rows[i]->errors)
			(void)str_copy(p->models[p->n++], sizeof(p->models[0]), str_of(rows[i]->groups[0]));
	free(rows);
	if (p->n)
		ask_hardware(p);
	else
		p->stage = OVER;
}

static void ask_ledger(struct preload *p)
{
	const struct registry_config *config = svc_config(p->svc);
	Corral__UsageQuery q = CORRAL__USAGE_QUERY__INIT;
	struct rpc_client *ledger = svc_peer(p->svc, "usage-tracker");
	char *group[1] = { (char *)(uintptr_t)"model" };

	p->stage = LEDGER;
	p->asked = true;
	q.group_by = group;
	q.n_group_by = 1;
	q.to_us = p->start_wall_us;       /* what is used since then loads itself, or was unloaded since */
	q.from_us = q.to_us - config->preload_window * 1000;
	rpc_deadline(ledger, ASK_MS);
	corral__usage_tracker__query(rpc_stub(ledger, &corral__usage_tracker__descriptor), &q, on_usage, p);
}

static bool all_known(const struct registry *r)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->backends[i].state == CORRAL__BACKEND_STATE__BACKEND_UNKNOWN || r->backends[i].state == CORRAL__BACKEND_STATE__BACKEND_LOADING ||
		    (r->backends[i].state == CORRAL__BACKEND_STATE__BACKEND_UP && !r->backends[i].visited))
			return false;
	return true;
}

static void look(struct loop_timer *t)
{
	struct preload *p = list_entry(t, struct preload, timer);

	if (p->stage == READY) {
		finish(p, -1);
		return;
	}
	if (mono_us() - p->began_us > GIVE_UP_US && p->stage != OVER && !p->asked) {
		LOG_INFO("no model is loaded at the start: what was used most could not be found out in time");
		p->stage = OVER;
		return;
	}
	if (p->stage == BACKENDS && !(*p->jobs && all_known((*p->jobs)->registry)))
		later(p);
	else
		ask_ledger(p);
}

struct preload *preload_new(struct svc *svc, struct jobs **jobs)
{
	struct preload *p;

	if (!((const struct registry_config *)svc_config(svc))->preload_top)
		return NULL;
	p = x_calloc(1, sizeof(*p));
	p->svc = svc;
	p->jobs = jobs;
	p->began_us = mono_us();
	p->start_wall_us = wall_us();
	later(p);
	return p;
}

/* stop() comes after calls to peers have ended. */
void preload_free(struct preload *p)
{
	if (!p)
		return;
	loop_timer_del(&p->timer);
	free(p);
}

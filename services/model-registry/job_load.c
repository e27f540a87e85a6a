/* job_load.c - into memory and out of it. The request that loads is ours and waits as long as it takes: a client that leaves during a load
 * would abort it on an Ollama. A llama-server with several models (router) is told, and asked until it is so. */
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/caps.h"
#include "services/model-registry/acts.h"

enum { ASK_MS = 30000, ANSWER_MAX = 4 << 20, POLL_US = 300 * 1000, TRIES_MOST = 4 };

static void preload_go(struct job *);
static void unload_go(struct job *);

const struct job_work job_preload_work = { "preload", preload_go }, job_unload_work = { "unload", unload_go };

typedef void done_fn(void *arg, int status, struct str body, const char *error);

/* With keep_alive when it is not NULL; "input" makes an embedding model load. */
static void ask_model(struct job *j, struct backend *b, const char *path, const struct found *f, const char *keep_alive, bool input, int64_t ms,
		      done_fn *done)
{
	struct json_out out;

	buf_clear(&j->request);
	json_begin(&out, &j->request);
	jw_obj(&out);
	jw_kv_strz(&out, "model", f->remote_name);
	if (keep_alive)
		jw_kv_raw(&out, "keep_alive", str_of(keep_alive));
	if (input)
		jw_kv_strz(&out, "input", "");
	jw_end(&out);
	j->fetch = http_fetch(b->pool, "POST", str_of(path), STR("Content-Type: application/json\r\n"), buf_as_str(&j->request), ms, ANSWER_MAX, done, j);
}

static bool only_embeds(const struct found *f) { return (f->caps & LLM_CAP_EMBEDDING) && !(f->caps & LLM_CAP_COMPLETION); }
static const char *ollama_path(const struct found *f) { return only_embeds(f) ? "/api/embed" : "/api/generate"; }

static void give_up(struct job *j, struct backend *b, int status, struct str body, const char *error)
{
	char said[300];

	if (status)
		(void)str_copy(said, sizeof(said), body);
	else
		(void)str_copy(said, sizeof(said), str_of(error));
	if (j->tries + 1 >= TRIES_MOST || (status >= 400 && status < 500))
		job_failed(j, ERR_BACKEND_FAILED, "backend '%s' could not load '%s': %s", b->name, j->model, said);
	else
		job_wait(j, "backend '%s' did not load '%s': %s", b->name, j->model, said);
}

/* --- preload --- */

static void loaded(struct job *j, struct backend *b, struct found *f)
{
	int64_t us = mono_us() - j->began_us;

	if (f && !f->loaded)                      /* else it says nothing about loading */
		store_load_time(j->jobs, j->model, b->name, us);
	if (f)
		f->loaded = true;
	b->moved_us = mono_us();
	job_done(j);
	registry_look(j->jobs->registry, b);
}

static void on_ollama_loaded(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;
	struct backend *b = jobs_backend(j->jobs, j->backend);

	j->fetch = NULL;
	if (status == 200)
		loaded(j, b, held_model(b, str_of(j->model)));
	else
		give_up(j, b, status, body, error);
}

/* The state of one model in a router's /models; "" = it is not there. */
static const char *router_state(struct str body, const char *remote_name, struct arena *mem, bool *ret_failed)
{
	struct json doc;
	uint32_t data, status;

	*ret_failed = false;
	if (json_parse(&doc, mem, body, NULL, NULL) || !(data = json_get(&doc, 0, "data")))
		return "";
	for (uint32_t i = json_first(&doc, data); i; i = json_next(&doc, data, i)) {
		if (strcmp(read_str(&doc, i, "id", mem), remote_name) != 0)
			continue;
		status = json_get(&doc, i, "status");
		if (!status)
			return "";
		*ret_failed = read_bool(&doc, status, "failed");
		return read_str(&doc, status, "value", mem);
	}
	return "";
}

static void poll_router(struct loop_timer *);
static void went(struct job *, struct backend *, struct found *);

/* A load is for one backend; unloading goes from one to the next. */
static struct backend *at_backend(const struct job *j)
{
	return j->kind == JOB_UNLOAD ? &j->jobs->registry->backends[j->at] : jobs_backend(j->jobs, j->backend);
}

static void poll_later(struct job *j) { loop_timer_set(j->jobs->loop, &j->timer, POLL_US, poll_router); }

static void on_router_models(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;
	struct backend *b = at_backend(j);
	struct found *f = held_model(b, str_of(j->model));
	struct arena *mem = arena_new(0);
	bool failed = false, loading = j->kind == JOB_PRELOAD;
	const char *state = status == 200 && f ? router_state(body, f->remote_name, mem, &failed) : "";

	j->fetch = NULL;
	if (status != 200)
		give_up(j, b, status, body, error);
	else if (loading && !strcmp(state, "loaded"))
		loaded(j, b, f);
	else if (loading && failed && !strcmp(state, "unloaded"))
		job_failed(j, ERR_BACKEND_FAILED, "backend '%s' failed to load '%s'; its log says why", b->name, j->model);
	else if (!loading && (!f || !strcmp(state, "unloaded")))
		went(j, b, f);
	else if (mono_us() - j->began_us > j->jobs->registry->config->load_timeout * 1000)
		job_failed(j, ERR_DEADLINE, "backend '%s' did not %s '%s' in time", b->name, loading ? "load" : "unload", j->model);
	else
		poll_later(j);
	arena_free(mem);
}

static void poll_router(struct loop_timer *t)
{
	struct job *j = list_entry(t, struct job, timer);
	struct backend *b = at_backend(j);

	j->fetch = http_fetch(b->pool, "GET", STR("/models"), STR(""), STR(""), ASK_MS, ANSWER_MAX, on_router_models, j);
}

/* "already running" is as good as told. */
static void on_router_told(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;
	struct backend *b = at_backend(j);

	j->fetch = NULL;
	if (status == 200 || (status == 400 && (str_find(body, STR("already")) || str_find(body, STR("not running")))))
		poll_later(j);
	else
		give_up(j, b, status, body, error);
}

static void preload_go(struct job *j)
{
	struct jobs *jobs = j->jobs;
	struct backend *b = jobs_backend(jobs, j->backend);
	struct found *f = b ? held_model(b, str_of(j->model)) : NULL;

	if (!f) {
		job_failed(j, ERR_MODEL_NOT_FOUND, "'%s' is not on backend '%s' any more", j->model, j->backend);
		return;
	}
	j->expected_us = f->loaded ? 0 : store_last_load_us(jobs, j->model, j->backend);
	job_phase(j, "loading");
	if (b->kind == &kind_ollama)
		ask_model(j, b, ollama_path(f), f, jobs_pinned(jobs, str_of(j->model)) ? "-1" : NULL, only_embeds(f), jobs->registry->config->load_timeout,
			  on_ollama_loaded);
	else if (is_router(b))
		ask_model(j, b, "/models/load", f, NULL, false, ASK_MS, on_router_told);
	else
		loaded(j, b, f);          /* it holds its model as long as it runs */
}

/* The model that it waits for; NULL: for none, or the engine is not one that loads by itself. */
static const struct found *waits_for(const struct job *j)
{
	struct backend *b = j->kind == JOB_PRELOAD && j->fetch ? jobs_backend(j->jobs, j->backend) : NULL;
	const struct found *f = b && b->kind == &kind_ollama ? held_model(b, str_of(j->model)) : NULL;

	return f && !f->loaded ? f : NULL;
}

void jobs_loads(const struct jobs *jobs, struct arena *mem, Corral__LeaseRequest *ret)
{
	size_t n = 0;

	for (const struct list *it = jobs ? jobs->all.next : NULL; it && it != &jobs->all; it = it->next)
		n += waits_for(list_entry(it, struct job, node)) != NULL;
	ret->active = arena_array(mem, Corral__SlotActivity *, n + 1);
	for (const struct list *it = n ? jobs->all.next : NULL; it && it != &jobs->all; it = it->next) {
		const struct job *j = list_entry(it, struct job, node);
		const struct found *f = waits_for(j);
		Corral__SlotActivity *a;

		if (!f)
			continue;
		a = ret->active[ret->n_active++] = arena_new_of(mem, Corral__SlotActivity);
		corral__slot_activity__init(a);
		a->backend = (char *)(uintptr_t)j->backend;
		a->model = (char *)(uintptr_t)f->name;
		a->in_use = 1;
		a->load_wait_ms = (uint64_t)(mono_us() - j->began_us) / 1000 + 1;
	}
}

/* --- unload --- */

static void unload_next(struct job *);

static void went(struct job *j, struct backend *b, struct found *f)
{
	if (f)
		f->loaded = false;
	b->moved_us = mono_us();
	registry_look(j->jobs->registry, b);
	j->at++;
	unload_next(j);
}

static void on_ollama_unloaded(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;
	struct backend *b = &j->jobs->registry->backends[j->at];
	struct found *f = held_model(b, str_of(j->model));

	j->fetch = NULL;
	if (status != 200 && status != 404) {
		give_up(j, b, status, body, error);
		return;
	}
	went(j, b, f);
}

static void unload_next(struct job *j)
{
	struct registry *r = j->jobs->registry;

	for (; j->at < r->n; j->at++) {
		struct backend *b = &r->backends[j->at];
		struct found *f = j->backend[0] && strcmp(j->backend, b->name) != 0 ? NULL : held_model(b, str_of(j->model));

		if (!f)
			continue;
		if (b->kind == &kind_ollama) {
			ask_model(j, b, ollama_path(f), f, "0", only_embeds(f), ASK_MS, on_ollama_unloaded);
			return;
		}
		if (is_router(b)) {
			ask_model(j, b, "/models/unload", f, NULL, false, ASK_MS, on_router_told);
			return;
		}
	}
	job_done(j);
}

static void unload_go(struct job *j)
{
	j->at = 0;
	job_phase(j, "unloading");
	unload_next(j);
}

/* acts.c - what may be asked of models: each action looks whether it can be done and by whom, and makes or joins a job. */
#include "services/model-registry/acts.h"

#include "common/base/clock.h"
#include "common/data/log.h"

enum { PIN_AGAIN_US = 60 * 1000000 };
#define FOR_EVER_US (10 * 365 * 24 * 3600 * INT64_C(1000000))

struct act {
	struct jobs *jobs;
	struct str model;
	const char *backend;          /* "" = not said */
	int64_t grace_ms;
	bool *joined;
	struct why *why;
};

struct backend *jobs_backend(struct jobs *jobs, const char *name)
{
	for (size_t i = 0; i < jobs->registry->n; i++)
		if (strcmp(jobs->registry->backends[i].name, name) == 0)
			return &jobs->registry->backends[i];
	return NULL;
}

struct found *held_model(const struct backend *b, struct str model)
{
	for (size_t i = 0; i < b->held->n; i++)
		if (name_same(str_of(b->held->models[i].name), model))
			return &b->held->models[i];
	return NULL;
}

bool is_router(const struct backend *b) { return b->kind == &kind_llamacpp && b->held->router; }
static bool can_load(const struct backend *b) { return b->kind == &kind_ollama || is_router(b); }
static bool is_up(const struct backend *b) { return b->state == CORRAL__BACKEND_STATE__BACKEND_UP; }

bool jobs_hide(const struct jobs *jobs, const char *backend, struct str model)
{
	if (!jobs)
		return false;
	list_each(it, &jobs->all) {
		const struct job *j = list_entry(it, struct job, node);

		if (j->kind == JOB_DELETE && job_is_active(j) && (!j->backend[0] || !strcmp(j->backend, backend)) && name_same(str_of(j->model), model))
			return true;
	}
	return false;
}

static struct mark *mark_of(const struct jobs *jobs, struct str model)
{
	for (struct mark *m = jobs->marks; m; m = m->next)
		if (name_same(str_of(m->model), model))
			return m;
	return NULL;
}

bool jobs_pinned(const struct jobs *jobs, struct str model)
{
	const struct mark *m = jobs ? mark_of(jobs, model) : NULL;

	return m && m->pinned;
}

/* --- looking --- */

static bool meant(const struct act *a, const struct backend *b) { return !a->backend[0] || !strcmp(a->backend, b->name); }

/* A model that clients can see, on a backend that is meant. */
static struct found *visible(const struct act *a, const struct backend *b)
{
	struct found *f = meant(a, b) ? held_model(b, a->model) : NULL;

	return f && !jobs_hide(a->jobs, b->name, str_of(f->name)) ? f : NULL;
}

static const char *no_model(const struct act *a)
{
	if (a->backend[0] && !jobs_backend(a->jobs, a->backend))
		err_set(a->why, ERR_NOT_FOUND, "there is no backend '%s'", a->backend);
	else
		err_field(a->why, ERR_MODEL_NOT_FOUND, "name", "model '" STR_FMT "' is not %s%s", STR_ARG(a->model), a->backend[0] ? "on backend " : "here", a->backend);
	return NULL;
}

/* Its name as it is listed; NULL with *why. */
static const char *listed_name(const struct act *a)
{
	for (size_t i = 0; i < a->jobs->registry->n; i++) {
		const struct found *f = visible(a, &a->jobs->registry->backends[i]);

		if (f)
			return f->name;
	}
	return no_model(a);
}

/* For work that only an Ollama does: the one that is named, else the first that is up, else the first. */
static struct backend *ollama_for(const struct act *a)
{
	struct registry *r = a->jobs->registry;
	struct backend *found = NULL;

	if (a->backend[0]) {
		found = jobs_backend(a->jobs, a->backend);
		if (!found)
			err_set(a->why, ERR_NOT_FOUND, "there is no backend '%s'", a->backend);
		else if (found->kind != &kind_ollama)
			err_set(a->why, ERR_NOT_IMPLEMENTED, "backend '%s' is no Ollama but %s, which has no such thing", a->backend, found->kind->name);
		return found && found->kind == &kind_ollama ? found : NULL;
	}
	for (size_t i = 0; i < r->n; i++)
		if (r->backends[i].kind == &kind_ollama && (!found || (is_up(&r->backends[i]) && !is_up(found))))
			found = &r->backends[i];
	if (!found)
		err_set(a->why, ERR_NOT_IMPLEMENTED, "no backend here is an Ollama, and only that can do this");
	return found;
}

/* --- actions --- */

static struct job *join(const struct act *a, struct job *j)
{
	j->asked++;
	*a->joined = true;
	(void)store_put(a->jobs, j, NULL);
	return j;
}

static struct job *start(const struct act *a, enum job_kind kind, struct str model, const char *backend)
{
	struct job *same = jobs_active(a->jobs, kind, model, backend);

	return same ? join(a, same) : job_begin(job_new(a->jobs, kind, model, backend), a->why);
}

static bool refuse_protected(const struct act *a, struct str model, const char *what)
{
	const char *text;

	if (!jobs_protected(a->jobs->registry, model, &text))
		return false;
	err_set(a->why, ERR_FORBIDDEN, "model '" STR_FMT "' is protected and cannot be %s: %s", STR_ARG(model), what, text);
	return true;
}

static bool bad_name(const struct act *a, struct str name)
{
	const char *fault = model_name_fault(name);

	if (fault)
		err_field(a->why, ERR_INVALID, "name", "'" STR_FMT "' is not the name of a model: %s", STR_ARG(name), fault);
	return fault != NULL;
}

/* Who wants a model again does not want it deleted. */
static bool keep_after_all(const struct act *a, struct str model)
{
	struct job *j = jobs_active(a->jobs, JOB_DELETE, model, NULL);

	return !j || j->state != JOB_WAITING || jobs_cancel(a->jobs, j, a->why) == ERR_OK;
}

static struct job *pull(struct act *a)
{
	struct backend *b = ollama_for(a);
	bool insecure;

	if (!b || bad_name(a, name_bare(a->model)) || registry_allowed(a->jobs->registry->config, a->model, &insecure, a->why))
		return NULL;
	if (held_model(b, name_bare(a->model)) && refuse_protected(a, name_bare(a->model), "replaced"))
		return NULL;
	if (!keep_after_all(a, name_bare(a->model)))
		return NULL;
	return start(a, JOB_PULL, a->model, b->name);
}

/* One that cannot delete would go on listing it. */
static bool all_can_delete(const struct act *a, const char *name)
{
	for (size_t i = 0; i < a->jobs->registry->n; i++) {
		const struct backend *b = &a->jobs->registry->backends[i];

		if (!visible(a, b) || b->kind == &kind_ollama)
			continue;
		err_set(a->why, ERR_NOT_IMPLEMENTED, "'%s' is on backend '%s', a %s, which cannot delete models; name another backend, or remove its file there",
			name, b->name, b->kind->name);
		return false;
	}
	return true;
}

static struct job *delete(struct act *a)
{
	struct job *j = jobs_active(a->jobs, JOB_DELETE, a->model, NULL);
	int64_t grace_ms = a->grace_ms >= 0 ? a->grace_ms : a->jobs->registry->config->delete_grace;
	const char *name;

	if (j) {                          /* asked again: sooner is possible, later is not */
		if (a->grace_ms >= 0 && wall_us() + grace_ms * 1000 < j->removes_at_us && j->state == JOB_WAITING) {
			j->removes_at_us = wall_us() + grace_ms * 1000;
			job_again(j, 0);
		}
		return join(a, j);
	}
	name = listed_name(a);
	if (!name || refuse_protected(a, str_of(name), "deleted") || !all_can_delete(a, name))
		return NULL;
	j = job_new(a->jobs, JOB_DELETE, str_of(name), a->backend);
	j->removes_at_us = j->created_us + grace_ms * 1000;
	j = job_begin(j, a->why);
	registry_changed(a->jobs->registry);
	return j;
}

static struct job *undelete(struct act *a)
{
	struct job *j = jobs_active(a->jobs, JOB_DELETE, a->model, NULL);

	if (!j) {
		err_set(a->why, ERR_MODEL_NOT_FOUND, "no deletion of '" STR_FMT "' waits; what was removed has to be pulled again", STR_ARG(a->model));
		return NULL;
	}
	return jobs_cancel(a->jobs, j, a->why) ? NULL : j;
}

/* Where it is loaded already, else the first that is up and can load. */
static struct backend *load_where(const struct act *a)
{
	struct registry *r = a->jobs->registry;
	struct backend *best = NULL;
	int most = -1;

	for (size_t i = 0; i < r->n; i++) {
		const struct found *f = visible(a, &r->backends[i]);
		int rank = !f || r->backends[i].kind == &kind_openai ? -1 : is_up(&r->backends[i]) * 4 + f->loaded * 2 + can_load(&r->backends[i]);

		if (rank > most) {
			most = rank;
			best = &r->backends[i];
		}
	}
	return best;
}

static struct job *preload(struct act *a)
{
	const char *name = listed_name(a);
	struct backend *b = name ? load_where(a) : NULL;

	if (name && !b)
		err_set(a->why, ERR_NOT_IMPLEMENTED, "'%s' is only on servers that cannot be told to load a model", name);
	return b ? start(a, JOB_PRELOAD, str_of(name), b->name) : NULL;
}

static struct job *unload(struct act *a)
{
	struct registry *r = a->jobs->registry;
	const char *name = listed_name(a);

	if (!name)
		return NULL;
	if (jobs_pinned(a->jobs, str_of(name))) {
		err_set(a->why, ERR_CONFLICT, "'%s' is pinned to memory; unpin it first", name);
		return NULL;
	}
	for (size_t i = 0; i < r->n; i++)
		if (visible(a, &r->backends[i]) && can_load(&r->backends[i]))
			return start(a, JOB_UNLOAD, str_of(name), a->backend);
	err_set(a->why, ERR_NOT_IMPLEMENTED, "'%s' is only on servers that hold their model as long as they run", name);
	return NULL;
}

static bool set_mark(const struct act *a, const char *name, bool is_protected, bool pinned)
{
	struct mark *m = mark_of(a->jobs, str_of(name)), was = { 0 };

	if (!m) {
		m = x_calloc(1, sizeof(*m));
		(void)str_copy(m->model, sizeof(m->model), model_key(str_of(name)));
		m->next = a->jobs->marks;
		a->jobs->marks = m;
	}
	was = *m;
	m->is_protected = is_protected;
	m->pinned = pinned;
	m->again_us = 0;
	if (store_mark(a->jobs, m, a->why))
		return true;
	*m = was;
	return false;
}

static struct job *mark(struct act *a, enum job_kind kind, bool is_protected, bool pinned)
{
	const struct mark *m = mark_of(a->jobs, a->model);
	/* a mark can be taken off what is not there now */
	const char *name = m ? m->model : listed_name(a);
	struct job *j = name && set_mark(a, name, is_protected, pinned) ? start(a, kind, str_of(name), a->backend) : NULL;

	if (j)
		registry_changed(a->jobs->registry);
	return j;
}

static bool has_mark(const struct act *a, bool pinned)
{
	const struct mark *m = mark_of(a->jobs, a->model);

	return m && (pinned ? m->pinned : m->is_protected);
}

static struct job *protect(struct act *a) { return mark(a, JOB_PROTECT, true, has_mark(a, true)); }
static struct job *unpin(struct act *a) { return mark(a, JOB_UNPIN, has_mark(a, false), false); }

/* By something else than the mark. */
static bool stays_protected(const struct act *a, const char **ret_why)
{
	struct mark *m = mark_of(a->jobs, a->model);
	bool was = m && m->is_protected, stays;

	if (m)
		m->is_protected = false;
	stays = jobs_protected(a->jobs->registry, a->model, ret_why);
	if (m)
		m->is_protected = was;
	return stays;
}

static struct job *unprotect(struct act *a)
{
	const char *text;

	if (!stays_protected(a, &text))
		return mark(a, JOB_UNPROTECT, false, has_mark(a, true));
	err_set(a->why, ERR_CONFLICT, "model '" STR_FMT "' stays protected: %s", STR_ARG(a->model), text);
	return NULL;
}

static struct job *pin(struct act *a)
{
	struct job *j = listed_name(a) ? mark(a, JOB_PIN, has_mark(a, false), true) : NULL;

	if (j)
		acts_keep_pinned(a->jobs);
	return j;
}

struct job *jobs_act(struct jobs *jobs, struct str action, struct str model, struct str backend, int64_t grace_ms, bool *ret_joined, struct why *why)
{
	static const struct { const char *name; struct job *(*fn)(struct act *); } actions[] = {
		{ "pull", pull }, { "delete", delete }, { "undelete", undelete }, { "preload", preload }, { "unload", unload },
		{ "protect", protect }, { "unprotect", unprotect }, { "pin", pin }, { "unpin", unpin },
	};
	char name[128];
	struct act a = { jobs, model, name, grace_ms, ret_joined, why };

	*ret_joined = false;
	if (!str_copy(name, sizeof(name), backend)) {
		err_set(why, ERR_INVALID, "the name of the backend is too long");
		return NULL;
	}
	if (model.n == 0 || model.n > 255) {
		err_field(why, ERR_INVALID, "name", "the name of the model is missing or too long");
		return NULL;
	}
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		if (str_eqz(action, actions[i].name))
			return actions[i].fn(&a);
	err_set(why, ERR_INVALID, "'" STR_FMT "' is nothing that can be done to a model", STR_ARG(action));
	return NULL;
}

/* --- what is pinned stays in memory --- */

static bool stays_loaded(const struct backend *b, const struct found *f, int64_t now_us)
{
	return f->loaded && (b->kind != &kind_ollama || !f->expires_at_us || f->expires_at_us > now_us + FOR_EVER_US);
}

static void keep_one(struct jobs *jobs, struct mark *m)
{
	struct why why;
	bool joined;
	struct act a = { jobs, str_of(m->model), "", -1, &joined, &why };
	struct backend *b = load_where(&a);
	const struct found *f = b ? visible(&a, b) : NULL;
	int64_t now = mono_us();

	if (!f || !is_up(b) || stays_loaded(b, f, wall_us()) || now < m->again_us || jobs_active(jobs, JOB_PRELOAD, str_of(m->model), NULL))
		return;
	m->again_us = now + PIN_AGAIN_US;
	a.why = NULL;                     /* nobody is told, so nothing waits for the database */
	(void)start(&a, JOB_PRELOAD, str_of(f->name), b->name);
}

void acts_keep_pinned(struct jobs *jobs)
{
	for (struct mark *m = jobs->marks; m; m = m->next)
		if (m->pinned)
			keep_one(jobs, m);
}

void acts_unmark(struct jobs *jobs, struct str model)
{
	struct mark *m = mark_of(jobs, model);

	if (!m || !m->pinned)
		return;
	m->pinned = false;
	(void)store_mark(jobs, m, NULL);
}

/* --- what Ollama's clients do themselves --- */

static enum err fail(struct why *why) { return why->code; }

static enum err check_source(const struct act *a, const struct backend *b, struct str source, struct arena *mem, Corral__AdminTarget *ret)
{
	const struct found *f = held_model(b, source);

	if (!f || jobs_hide(a->jobs, b->name, source))
		return err_field(a->why, ERR_MODEL_NOT_FOUND, "from", "model '" STR_FMT "' is not on backend '%s'", STR_ARG(source), b->name);
	ret->source = arena_dup(mem, f->remote_name, strlen(f->remote_name));
	return ERR_OK;
}

static enum err check_push(const struct act *a, struct str name)
{
	const struct registry_config *config = a->jobs->registry->config;
	struct registry_config as_push = { .pull_from = config->push_to };
	bool insecure;

	if (registry_allowed(&as_push, name, &insecure, a->why))
		return err_set(a->why, ERR_FORBIDDEN, "nothing may be pushed to where '" STR_FMT "' belongs; the option push_to lists the registries that are trusted",
			       STR_ARG(name));
	return ERR_OK;
}

enum err jobs_check(struct jobs *jobs, const Corral__AdminCheck *q, struct arena *mem, Corral__AdminTarget *ret, struct why *why)
{
	bool joined;
	struct act a = { jobs, str_of(q->model), q->backend, -1, &joined, why };
	const struct backend *b = ollama_for(&a);
	bool makes = !strcmp(q->action, "create") || !strcmp(q->action, "copy");

	corral__admin_target__init(ret);
	if (!b)
		return fail(why);
	if (q->model[0] && bad_name(&a, a.model))
		return fail(why);
	/* what is protected by its name is not made anew either: it may be there since the last listing */
	if (makes && (held_model(b, a.model) || jobs_protected_by_name(jobs->registry, a.model, NULL)) && refuse_protected(&a, a.model, "replaced"))
		return fail(why);
	if (q->source[0] && (bad_name(&a, str_of(q->source)) || check_source(&a, b, str_of(q->source), mem, ret)))
		return fail(why);
	if (!strcmp(q->action, "push") && (check_push(&a, a.model) || check_source(&a, b, a.model, mem, ret)))
		return fail(why);
	if (makes && !keep_after_all(&a, a.model))
		return fail(why);
	ret->backend = (char *)(uintptr_t)b->name;
	ret->url = (char *)(uintptr_t)b->url_text;
	ret->model = (char *)(uintptr_t)q->model;
	return ERR_OK;
}

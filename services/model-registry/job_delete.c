/* job_delete.c - a deletion: waits for the end of its grace time, hidden meanwhile (jobs_hide), then out of memory and off the disk, on
 * one backend after another. What is protected by then stays. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/model-registry/acts.h"

enum { ASK_MS = 60000, ANSWER_MAX = 65536, LOOK_AGAIN_US = 60 * 1000000 };

static void go(struct job *);
static void next(struct job *);
static void on_unloaded(void *arg, int status, struct str body, const char *error);
static void on_deleted(void *arg, int status, struct str body, const char *error);

const struct job_work job_delete_work = { "delete", go };

/* The wall clock may be set meanwhile, so it is looked at now and then. */
static void go(struct job *j)
{
	int64_t left_us = j->removes_at_us - wall_us();
	const char *text;

	if (left_us > 0) {
		(void)str_copy(j->phase, sizeof(j->phase), STR("waiting for the end of the grace time"));
		job_again(j, left_us < LOOK_AGAIN_US ? left_us : LOOK_AGAIN_US);
	} else if (jobs_protected(j->jobs->registry, str_of(j->model), &text)) {
		job_failed(j, ERR_FORBIDDEN, "'%s' was protected meanwhile and stays: %s", j->model, text);
	} else {
		j->at = 0;
		next(j);
	}
}

static struct found *on_backend(const struct job *j, const struct backend *b)
{
	return (j->backend[0] && strcmp(j->backend, b->name) != 0) || b->kind != &kind_ollama ? NULL : held_model(b, str_of(j->model));
}

static void ask(struct job *j, const char *method, const char *path, bool keep_alive_0,
		void (*done)(void *arg, int status, struct str body, const char *error))
{
	struct backend *b = &j->jobs->registry->backends[j->at];
	struct json_out out;

	buf_clear(&j->request);
	json_begin(&out, &j->request);
	jw_obj(&out);
	jw_kv_strz(&out, "model", on_backend(j, b)->remote_name);
	if (keep_alive_0)
		jw_kv_i64(&out, "keep_alive", 0);
	jw_end(&out);
	j->fetch = http_fetch(b->pool, method, str_of(path), STR("Content-Type: application/json\r\n"), buf_as_str(&j->request), ASK_MS, ANSWER_MAX,
			      done, j);
}

/* Deleting does not take a model out of memory: that comes first. */
static void next(struct job *j)
{
	struct registry *r = j->jobs->registry;

	while (j->at < r->n && !on_backend(j, &r->backends[j->at]))
		j->at++;
	if (j->at == r->n) {
		acts_unmark(j->jobs, str_of(j->model));
		job_done(j);
		return;
	}
	job_phase(j, "deleting");
	if (on_backend(j, &r->backends[j->at])->loaded)
		ask(j, "POST", "/api/generate", true, on_unloaded);
	else
		ask(j, "DELETE", "/api/delete", false, on_deleted);
}

static void on_unloaded(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;

	(void)status, (void)body, (void)error;
	j->fetch = NULL;
	if (on_backend(j, &j->jobs->registry->backends[j->at]))
		ask(j, "DELETE", "/api/delete", false, on_deleted);
	else
		next(j);
}

static void on_deleted(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;
	struct backend *b = &j->jobs->registry->backends[j->at];
	struct found *f = on_backend(j, b);

	j->fetch = NULL;
	if (status == 200 || status == 404) {
		if (f)
			listing_drop(b->held, f);
		registry_list_again(j->jobs->registry, b);
		j->at++;
		next(j);
	} else if (status == 0) {
		job_wait(j, "backend '%s' does not answer: %s", b->name, error);
	} else {
		job_wait(j, "backend '%s' answers %d to the deletion: " STR_FMT, b->name, status, STR_ARG(str_n(body.p, body.n < 200 ? body.n : 200)));
	}
}

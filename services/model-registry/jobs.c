/* jobs.c - see jobs.h: asking, joining, cancelling, ending, and going on after a restart. */
#include "services/model-registry/jobs.h"

#include <stdarg.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/model-registry/acts.h"

enum { WAIT_MOST_S = 60, KEEP_US = 2000000, MEASURE_US = 500000, TEND_US = 5000000, LISTED_MOST = 500, KEPT_AGAIN = 16 };
#define DAY_US (24 * 3600 * INT64_C(1000000))

static const struct job_work at_once[] = { { "protect", NULL }, { "unprotect", NULL }, { "pin", NULL }, { "unpin", NULL } };
static const struct job_work *const works[JOB_KINDS] = {
	[JOB_PULL] = &job_pull_work, [JOB_DELETE] = &job_delete_work, [JOB_PRELOAD] = &job_preload_work, [JOB_UNLOAD] = &job_unload_work,
	[JOB_PROTECT] = &at_once[0], [JOB_UNPROTECT] = &at_once[1], [JOB_PIN] = &at_once[2], [JOB_UNPIN] = &at_once[3],
};

static void run(struct loop_timer *);
static void tend(struct loop_timer *);

const char *job_kind_name(enum job_kind kind) { return works[kind]->name; }

bool job_is_active(const struct job *j) { return j->state == JOB_WAITING || j->state == JOB_RUNNING; }

/* --- the whole of them --- */

static void count_active(struct jobs *jobs)
{
	unsigned n = 0;

	list_each(it, &jobs->all)
		n += job_is_active(list_entry(it, struct job, node));
	series_set(jobs->active, n);
}

static void job_free(struct job *j)
{
	job_stop_calls(j);
	ndjson_free(&j->lines);
	buf_free(&j->request);
	buf_free(&j->answer);
	arena_free(j->mem);
	list_del(&j->node);
	free(j);
}

static void metrics_start(struct jobs *jobs)
{
	static const char *const outcomes[] = { "done", "failed", "cancelled" };

	for (unsigned k = 0; k < JOB_KINDS; k++)
		for (unsigned i = 0; i < 3; i++)
			jobs->ended[k][i] = metrics_series(jobs->registry->metrics, M_JOBS, works[k]->name, outcomes[i]);
	jobs->active = metrics_series(jobs->registry->metrics, M_JOBS_ACTIVE);
}

/* Rows that have been read: what was under way waits again. */
static void resume(struct jobs *jobs)
{
	list_each(it, &jobs->all) {
		struct job *j = list_entry(it, struct job, node);

		if (!job_is_active(j))
			continue;
		LOG_INFO("a job goes on after the restart", LOG_S("job", j->id), LOG_S("kind", job_kind_name(j->kind)), LOG_S("model", j->model));
		j->state = JOB_WAITING;
		loop_timer_set(jobs->loop, &j->timer, 0, run);
	}
}

struct jobs *jobs_new(struct registry *registry, const char *url, struct why *why)
{
	struct jobs *jobs = x_calloc(1, sizeof(*jobs));

	jobs->registry = registry;
	jobs->loop = registry->loop;
	list_init(&jobs->all);
	metrics_start(jobs);
	if (!store_open(jobs, url, why)) {
		jobs_free(jobs);
		return NULL;
	}
	resume(jobs);
	count_active(jobs);
	loop_timer_set(jobs->loop, &jobs->tend_timer, TEND_US, tend);
	return jobs;
}

void jobs_free(struct jobs *jobs)
{
	if (!jobs)
		return;
	loop_timer_del(&jobs->tend_timer);
	while (!list_empty(&jobs->all))
		job_free(list_entry(jobs->all.next, struct job, node));
	while (jobs->marks) {
		struct mark *m = jobs->marks;

		jobs->marks = m->next;
		free(m);
	}
	store_close(jobs);
	free(jobs);
}

struct job *jobs_find(struct jobs *jobs, struct str id)
{
	list_each(it, &jobs->all)
		if (str_eqz(id, list_entry(it, struct job, node)->id))
			return list_entry(it, struct job, node);
	return NULL;
}

struct job *jobs_active(struct jobs *jobs, enum job_kind kind, struct str model, const char *backend)
{
	list_each(it, &jobs->all) {
		struct job *j = list_entry(it, struct job, node);

		if (job_is_active(j) && j->kind == kind && name_same(str_of(j->model), model) && (!backend || strcmp(j->backend, backend) == 0))
			return j;
	}
	return NULL;
}

/* What ended long ago goes, from disk and from memory; the youngest stay however many. */
static void forget_old(struct jobs *jobs)
{
	int64_t before = wall_us() - jobs->registry->config->jobs_keep * 1000;
	unsigned n = 0;

	for (struct list *it = jobs->all.prev, *prev; it != &jobs->all; it = prev) {
		struct job *j = list_entry(it, struct job, node);

		prev = it->prev;
		if (!job_is_active(j) && !j->unkept && (j->ended_us < before || ++n > LISTED_MOST))
			job_free(j);
	}
	store_forget(jobs, before);
}

/* Some at a time: there may be no database for long. */
static void keep_again(struct jobs *jobs)
{
	unsigned n = 0;

	list_each(it, &jobs->all) {
		struct job *j = list_entry(it, struct job, node);

		if (j->unkept && n++ < KEPT_AGAIN)
			(void)store_put(jobs, j, NULL);
	}
}

static void tend(struct loop_timer *t)
{
	struct jobs *jobs = list_entry(t, struct jobs, tend_timer);

	loop_timer_set(jobs->loop, t, TEND_US, tend);
	keep_again(jobs);
	acts_keep_pinned(jobs);
	forget_old(jobs);
}

/* --- one of them --- */

struct job *job_new(struct jobs *jobs, enum job_kind kind, struct str model, const char *backend)
{
	struct job *j = x_calloc(1, sizeof(*j));
	int64_t now = wall_us();

	j->jobs = jobs;
	uuid_format(uuid_v7(now), j->id);
	j->kind = kind;
	j->created_us = now;
	j->asked = 1;
	(void)str_copy(j->model, sizeof(j->model), model);
	(void)str_copy(j->backend, sizeof(j->backend), str_of(backend));
	(void)str_copy(j->phase, sizeof(j->phase), STR("waiting"));
	list_push(&jobs->all, &j->node);
	return j;
}

/* On disk before anybody is told of it. */
struct job *job_begin(struct job *j, struct why *why)
{
	struct jobs *jobs = j->jobs;

	if (!works[j->kind]->go) {
		j->state = JOB_DONE;
		j->started_us = j->ended_us = j->created_us;
		(void)str_copy(j->phase, sizeof(j->phase), STR("done"));
	}
	if (!store_put(jobs, j, why)) {
		job_free(j);
		return NULL;
	}
	LOG_INFO("job", LOG_S("job", j->id), LOG_S("kind", job_kind_name(j->kind)), LOG_S("model", j->model), LOG_S("backend", j->backend));
	if (j->state == JOB_DONE)
		series_inc(jobs->ended[j->kind][0]);
	else
		loop_timer_set(jobs->loop, &j->timer, 0, run);
	count_active(jobs);
	return j;
}

static void run(struct loop_timer *t)
{
	struct job *j = list_entry(t, struct job, timer);

	if (j->state == JOB_WAITING && !j->started_us)
		j->started_us = wall_us();
	j->began_us = mono_us();
	j->measured_us = 0;
	j->succeeded = false;
	j->answer_status = 0;
	buf_clear(&j->answer);
	ndjson_free(&j->lines);
	works[j->kind]->go(j);
}

void job_again(struct job *j, int64_t delay_us)
{
	j->state = JOB_WAITING;
	loop_timer_set(j->jobs->loop, &j->timer, delay_us, run);
}

void job_stop_calls(struct job *j)
{
	loop_timer_del(&j->timer);
	if (j->call)
		http_call_cancel(j->call);
	http_fetch_cancel(j->fetch);
	j->call = NULL;
	j->fetch = NULL;
}

void job_phase(struct job *j, const char *phase)
{
	bool news = j->state != JOB_RUNNING || strcmp(j->phase, phase) != 0;

	j->state = JOB_RUNNING;
	(void)str_copy(j->phase, sizeof(j->phase), str_of(phase));
	if (news)
		(void)store_put(j->jobs, j, NULL);
}

void job_progress(struct job *j)
{
	int64_t now = mono_us(), us = now - j->measured_us;

	if (!j->measured_us || j->bytes_done < j->measured_bytes) {
		j->measured_us = now;
		j->measured_bytes = j->bytes_done;
	} else if (us >= MEASURE_US) {
		double rate = (double)(j->bytes_done - j->measured_bytes) * 1e6 / (double)us;

		j->bytes_per_s = j->bytes_per_s > 0 ? 0.7 * j->bytes_per_s + 0.3 * rate : rate;
		j->measured_us = now;
		j->measured_bytes = j->bytes_done;
	}
	if (now - j->kept_us >= KEEP_US) {
		j->kept_us = now;
		(void)store_put(j->jobs, j, NULL);
	}
}

static void ended(struct job *j)
{
	enum job_state state = j->state;

	job_stop_calls(j);
	j->bytes_per_s = 0;
	series_inc(j->jobs->ended[j->kind][state - JOB_DONE]);
	count_active(j->jobs);
	if (state == JOB_FAILED)
		LOG_WARN("job failed", LOG_S("job", j->id), LOG_S("kind", job_kind_name(j->kind)), LOG_S("model", j->model), LOG_S("error", j->error));
	else
		LOG_INFO(state == JOB_DONE ? "job done" : "job cancelled", LOG_S("job", j->id), LOG_S("kind", job_kind_name(j->kind)),
			 LOG_S("model", j->model), LOG_I("took_ms", (j->ended_us - j->created_us) / 1000));
	registry_changed(j->jobs->registry);
}

static void end(struct job *j, enum job_state state)
{
	j->state = state;
	j->ended_us = wall_us();
	(void)store_put(j->jobs, j, NULL);
	ended(j);
}

void job_done(struct job *j)
{
	j->error[0] = j->error_code[0] = '\0';
	(void)str_copy(j->phase, sizeof(j->phase), STR("done"));
	end(j, JOB_DONE);
}

static void set_error(struct job *j, enum err code, const char *fmt, va_list ap)
{
	(void)str_copy(j->error_code, sizeof(j->error_code), str_of(err_name(code)));
	(void)vsnprintf(j->error, sizeof(j->error), fmt, ap);
}

void job_failed(struct job *j, enum err code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_error(j, code, fmt, ap);
	va_end(ap);
	(void)str_copy(j->phase, sizeof(j->phase), STR("failed"));
	end(j, JOB_FAILED);
}

void job_wait(struct job *j, const char *fmt, ...)
{
	unsigned s = j->tries >= 6 ? WAIT_MOST_S : 1u << j->tries;
	va_list ap;

	va_start(ap, fmt);
	set_error(j, ERR_UNAVAILABLE, fmt, ap);
	va_end(ap);
	job_stop_calls(j);
	j->tries++;
	j->bytes_per_s = 0;
	(void)str_copy(j->phase, sizeof(j->phase), STR("waiting to try again"));
	job_again(j, s * INT64_C(1000000));
	(void)store_put(j->jobs, j, NULL);
	LOG_WARN("a job has to wait", LOG_S("job", j->id), LOG_S("model", j->model), LOG_I("seconds", s), LOG_S("error", j->error));
}

/* On disk before anybody is told: a deletion that is taken back must not be gone on with after a kill -9. */
static enum err cancel(struct jobs *jobs, struct job *j, struct why *why)
{
	enum job_state was = j->state;
	char phase[sizeof(j->phase)];

	memcpy(phase, j->phase, sizeof(phase));
	(void)str_copy(j->phase, sizeof(j->phase), STR("cancelled"));
	j->state = JOB_CANCELLED;
	j->ended_us = wall_us();
	if (store_put(jobs, j, why)) {
		j->unkept = false;
		ended(j);
		return ERR_OK;
	}
	j->state = was;
	j->ended_us = 0;
	memcpy(j->phase, phase, sizeof(phase));
	return why->code;
}

enum err jobs_cancel(struct jobs *jobs, struct job *j, struct why *why)
{
	if (!job_is_active(j))
		return err_set(why, ERR_CONFLICT, "job %s has ended: it is %s", j->id,
			       j->state == JOB_DONE ? "done" : j->state == JOB_FAILED ? "failed" : "cancelled");
	if (j->kind == JOB_DELETE && j->state == JOB_RUNNING)
		return err_set(why, ERR_CONFLICT, "'%s' is being deleted now; it is too late to keep it", j->model);
	if (j->kind == JOB_UNLOAD)
		return err_set(why, ERR_CONFLICT, "unloading cannot be taken back; preload '%s' again", j->model);
	return cancel(jobs, j, why);
}

/* --- in protobuf --- */

static double percent_of(const struct job *j)
{
	if (j->state == JOB_DONE)
		return 100;
	if (j->bytes_total)
		return j->bytes_done >= j->bytes_total ? 100 : (double)j->bytes_done * 100 / (double)j->bytes_total;
	if (j->state == JOB_RUNNING && j->expected_us) {
		double p = (double)(mono_us() - j->began_us) * 100 / (double)j->expected_us;

		return p > 99 ? 99 : p;
	}
	return -1;
}

static int64_t eta_s(const struct job *j)
{
	int64_t us = -1;

	if (!job_is_active(j))
		return -1;
	if (j->kind == JOB_DELETE && j->removes_at_us)
		us = j->removes_at_us - wall_us();
	else if (j->bytes_total > j->bytes_done && j->bytes_per_s > 1)
		us = (int64_t)((double)(j->bytes_total - j->bytes_done) * 1e6 / j->bytes_per_s);
	else if (j->state == JOB_RUNNING && j->expected_us)
		us = j->began_us + j->expected_us - mono_us();
	else
		return -1;
	return us < 0 ? 0 : (us + 999999) / 1000000;
}

static void layers_pb(const struct job *j, struct arena *mem, Corral__Job *pb)
{
	pb->layers = arena_array(mem, Corral__JobLayer *, j->n_layers + 1);
	for (unsigned i = 0; i < j->n_layers; i++) {
		Corral__JobLayer *l = arena_new_of(mem, Corral__JobLayer);

		corral__job_layer__init(l);
		l->digest = (char *)(uintptr_t)j->layers[i].digest;
		l->total = j->layers[i].total;
		l->completed = j->layers[i].completed;
		pb->layers[pb->n_layers++] = l;
	}
}

/* Valid until the job changes. */
void job_pb(const struct job *j, struct arena *mem, Corral__Job *pb)
{
	corral__job__init(pb);
	pb->id = (char *)(uintptr_t)j->id;
	pb->kind = (char *)(uintptr_t)job_kind_name(j->kind);
	pb->model = (char *)(uintptr_t)j->model;
	pb->backend = (char *)(uintptr_t)j->backend;
	pb->state = (Corral__JobState)j->state;
	pb->phase = (char *)(uintptr_t)j->phase;
	pb->status_text = (char *)(uintptr_t)j->status_text;
	pb->percent = percent_of(j);
	pb->bytes_done = j->bytes_done;
	pb->bytes_total = j->bytes_total;
	pb->bytes_per_s = j->bytes_per_s;
	pb->eta_s = eta_s(j);
	pb->created_at_us = j->created_us;
	pb->started_at_us = j->started_us;
	pb->ended_at_us = j->ended_us;
	pb->removes_at_us = j->removes_at_us;
	pb->error_code = (char *)(uintptr_t)j->error_code;
	pb->error = (char *)(uintptr_t)j->error;
	pb->asked = j->asked;
	pb->tries = j->tries;
	layers_pb(j, mem, pb);
}

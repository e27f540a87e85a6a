/* job.c - one job of the queue: a request to the gateway, what comes of it piece by piece, and its answer.
 *
 *   plan ──▶ try ──▶ pieces … ──▶ end ──▶ (pieces handed in) ──▶ answer handed in ──▶ gone
 *             ▲  └ nobody there, nothing said yet: again, until job_retry is over
 *
 * Pieces are handed in one after another, for the queue knows their order by when they come. What cannot be handed in whole is an error, and no shorter
 * answer. A job that was stopped is gone at once and answers nothing. */
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "common/io/ndjson.h"
#include "common/io/sse.h"
#include "services/runpod-worker/worker.h"

enum {
	PENDING_MAX = 1024 * 1024,    /* then the gateway's answer is not read until half of it was handed in */
	OUTPUT_MAX = 64 * 1024 * 1024,
	AGAIN_MS = 1000, AGAIN_MAX_MS = 10000,
	POST_TRIES = 5, POST_WAIT_MS = 500,
	CONNECT_MS = 5000
};

enum form { WHOLE, EVENTS, LINES };

struct piece {
	struct list link;
	size_t n;
	char json[];
};

struct job {
	struct list link;
	struct worker *w;
	struct arena *mem;
	struct str id;
	struct plan plan;
	int64_t since_us;
	unsigned tries;

	/* the gateway's answer */
	struct http_call *call;
	struct loop_timer again;
	int status;
	int64_t retry_after_s;
	enum form form;
	bool paused, ended, failed;   /* ended: nothing more comes from there */
	struct sse_reader events;
	struct ndjson_reader lines;
	struct buf whole;
	const char *error;            /* why it failed; in the arena */
	char request_id[64], model[128];

	/* what was said, on its way to the queue */
	struct list pieces;           /* JSON, or ... */
	struct buf text;              /* ... text of an event stream, for plan.as_worker */
	size_t pending;               /* bytes of both */
	struct buf all;               /* the pieces that were handed in, with commas between */
	unsigned n_said, n_handed;
	struct https_fetch *post;
	struct loop_timer repost;
	struct buf body;              /* being handed in, until that worked */
	unsigned posts;               /* of it */
	bool answering;               /* it is the answer */
};

static void hand_in(struct job *);

/* --- the end --- */

static void drop_pieces(struct job *j)
{
	list_each_safe(it, &j->pieces) {
		list_del(it);
		free(list_entry(it, struct piece, link));
	}
	buf_clear(&j->text);
	j->pending = 0;
}

static void job_free(struct job *j)
{
	loop_timer_del(&j->again);
	loop_timer_del(&j->repost);
	if (j->call)
		http_call_cancel(j->call);
	if (j->post)
		https_fetch_cancel(j->post);
	drop_pieces(j);
	list_del(&j->link);
	sse_free(&j->events);
	ndjson_free(&j->lines);
	buf_free(&j->whole);
	buf_free(&j->text);
	buf_free(&j->all);
	buf_free(&j->body);
	arena_free(j->mem);           /* it lies there itself */
}

static void gone(struct job *j, const char *result)
{
	struct worker *w = j->w;
	struct metrics *m = svc_metrics(w->svc);

	LOG_INFO("job", LOG_STR("job", j->id), LOG_S("result", result), LOG_STR("path", j->plan.path), LOG_S("model", j->model), LOG_S("request_id", j->request_id),
		 LOG_I("pieces", j->n_handed), LOG_I("tries", j->tries), LOG_I("took_ms", (mono_us() - j->since_us) / 1000), LOG_S("error", j->error ? j->error : ""));
	series_inc(metrics_series(m, M_JOBS, result));
	series_observe(metrics_series(m, M_SECONDS), (double)(mono_us() - j->since_us) / 1e6);
	job_free(j);
	w->n_jobs--;
	worker_job_ended(w);
}

/* Nothing more is to come from the gateway; its connection is closed, when it is still open. */
static void end(struct job *j, const char *error)
{
	loop_timer_del(&j->again);
	if (j->call)
		http_call_cancel(j->call);
	j->call = NULL;
	j->ended = true;
	if (!error)
		return;
	j->failed = true;
	j->error = arena_printf(j->mem, "%s", error);
	drop_pieces(j);
}

/* --- handing in --- */

static void count_post(struct job *j, const char *result)
{
	series_inc(metrics_series(svc_metrics(j->w->svc), M_POSTS, j->answering ? "output" : "stream", result));
}

static void make_answer(struct job *j)
{
	bool is_list = j->form != WHOLE || j->plan.as_worker;

	buf_clear(&j->body);
	if (j->failed) {
		add_error(&j->body, str_of(j->error));
	} else if (is_list) {
		buf_addz(&j->body, "{\"output\":[");
		buf_str(&j->body, buf_as_str(&j->all));
		buf_addz(&j->body, "]}");
	} else {
		add_output(&j->body, buf_as_str(&j->whole));
	}
}

static void on_posted(void *arg, int status, struct str body, const char *error);

static void post(struct job *j)
{
	bool is_stream = j->answering && (j->form != WHOLE || j->plan.as_worker);

	j->posts++;
	j->post = queue_post(j->w, j->answering, is_stream, j->id, buf_as_str(&j->body), on_posted, j);
}

static void post_again(struct loop_timer *t) { post(list_entry(t, struct job, repost)); }

static void post_new(struct job *j)
{
	j->posts = 0;
	post(j);
}

/* The queue will not have it. Of an answer that is too large at least that is told. */
static void refused(struct job *j, int status, const char *error)
{
	const char *what = status ? arena_printf(j->mem, "the queue answers with status %d %s", status, http_reason(status)) : error;

	count_post(j, "lost");
	LOG_ERROR("something of a job could not be handed in", LOG_STR("job", j->id), LOG_S("what", j->answering ? "answer" : "piece"), LOG_S("error", what),
		  LOG_I("bytes", j->body.n), LOG_I("tries", j->posts));
	if (j->answering && (j->failed || queue_may_repeat(status))) {
		gone(j, "lost");
		return;
	}
	end(j, arena_printf(j->mem, "the %s of %zu bytes could not be handed in: %s", j->answering ? "answer" : "piece", j->body.n, what));
	j->answering = false;
	hand_in(j);
}

static void handed(struct job *j)
{
	count_post(j, "ok");
	if (j->answering) {
		gone(j, j->failed ? "failed" : "completed");
		return;
	}
	j->n_handed++;
	if (j->paused && j->pending < PENDING_MAX / 2 && j->call) {
		j->paused = false;
		http_call_resume(j->call);
	}
	hand_in(j);
}

static void on_posted(void *arg, int status, struct str body, const char *error)
{
	struct job *j = arg;

	j->post = NULL;
	if (status >= 200 && status < 300) {
		handed(j);
	} else if (queue_may_repeat(status) && j->posts < POST_TRIES) {
		count_post(j, "again");
		loop_timer_set(j->w->loop, &j->repost, (POST_WAIT_MS << (j->posts - 1)) * 1000, post_again);
	} else {
		refused(j, status, error);
	}
}

/* The next piece becomes 'body'. Text that has gathered goes together: the client puts it together anyway. */
static bool take_piece(struct job *j)
{
	size_t before = j->all.n;

	if (j->text.n) {
		buf_addz(&j->all, before ? ",\"" : "\"");
		json_escape(&j->all, buf_as_str(&j->text));
		buf_char(&j->all, '"');
		buf_clear(&j->text);
		j->pending = 0;
	} else if (!list_empty(&j->pieces)) {
		struct piece *p = list_entry(j->pieces.next, struct piece, link);

		if (before)
			buf_char(&j->all, ',');
		buf_add(&j->all, p->json, p->n);
		j->pending -= p->n;
		list_del(&p->link);
		free(p);
	} else {
		return false;
	}
	buf_clear(&j->body);
	add_output(&j->body, str_from(buf_as_str(&j->all), before ? before + 1 : 0));
	return true;
}

static void hand_in(struct job *j)
{
	if (j->post || j->repost.heap_index || j->answering)
		return;
	while (take_piece(j)) {
		if (!j->w->stream_url.n)
			continue;
		post_new(j);
		return;
	}
	if (!j->ended)
		return;
	j->answering = true;
	make_answer(j);
	post_new(j);
}

/* --- what the gateway says --- */

static void say(struct job *j, struct str event, struct str data)
{
	struct arena *mem = arena_new(0);
	struct str error = error_in(data, mem);
	struct buf json = { 0 };

	if (j->failed) {
		;                             /* what follows an error is of no use */
	} else if (error.n) {
		j->failed = true;
		j->error = arena_str(j->mem, error).p;
	} else if (j->plan.as_worker && j->form == EVENTS) {
		size_t before = j->text.n;

		sse_write(&j->text, event, data);
		j->pending += j->text.n - before;
		j->n_said++;
	} else if (!str_eqz(data, "[DONE]")) {
		struct piece *p;

		json_one_line(&json, data);
		p = x_malloc(sizeof(*p) + json.n);
		p->n = json.n;
		memcpy(p->json, json.p, json.n);
		list_push(&j->pieces, &p->link);
		j->pending += p->n;
		j->n_said++;
	}
	buf_free(&json);
	arena_free(mem);
}

static void on_event(void *arg, struct str event, struct str data) { say(arg, event, data); }
static void on_line(void *arg, struct str line) { say(arg, STR(""), line); }

static void keep(const struct http_head *h, const char *name, char *to, size_t cap)
{
	const struct http_header *v = http_find(h, name);

	if (v)
		(void)str_copy(to, cap, v->value);
}

static void on_head(struct http_call *call, const struct http_head *h, void *arg)
{
	const struct http_header *type = http_find(h, "Content-Type"), *after = http_find(h, "Retry-After");
	struct job *j = arg;

	j->status = h->status;
	j->retry_after_s = 0;
	if (after)
		(void)str_i64(after->value, &j->retry_after_s);
	j->form = WHOLE;
	if (h->status == 200 && type && str_starts(type->value, STR("text/event-stream")))
		j->form = EVENTS;
	else if (h->status == 200 && type && str_starts(type->value, STR("application/x-ndjson")))
		j->form = LINES;
	keep(h, "X-Request-Id", j->request_id, sizeof(j->request_id));
	keep(h, "X-Corral-Model", j->model, sizeof(j->model));
}

static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct job *j = arg;
	struct why why = { 0 };

	if (j->form == WHOLE)
		buf_str(&j->whole, data);
	else if (j->form == EVENTS)
		(void)sse_feed(&j->events, data, on_event, j, &why);
	else
		(void)ndjson_feed(&j->lines, data, on_line, j, &why);
	if (j->whole.n + j->all.n + j->pending > OUTPUT_MAX)
		err_set(&why, ERR_TOO_LARGE, "the answer is larger than a job's may be (64 MiB)");
	if (j->failed)
		end(j, j->error);
	else if (why.code)
		end(j, why.text);
	else if (j->pending > PENDING_MAX && !j->paused) {
		j->paused = true;
		http_call_pause(call);
	}
	hand_in(j);
}

/* --- asking --- */

static void try_it(struct loop_timer *);

static bool may_try_again(struct job *j) { return !j->n_said && mono_us() - j->since_us < j->w->cfg->job_retry * 1000; }

static void try_again(struct job *j, const char *why)
{
	int64_t wait_ms = j->retry_after_s > AGAIN_MAX_MS / 1000 ? AGAIN_MAX_MS : j->retry_after_s > 0 ? j->retry_after_s * 1000 : AGAIN_MS;

	LOG_INFO("a job is tried again", LOG_STR("job", j->id), LOG_S("error", why), LOG_I("tries", j->tries));
	series_inc(metrics_series(svc_metrics(j->w->svc), M_TRIES));
	j->status = 0;
	j->form = WHOLE;
	j->retry_after_s = 0;
	sse_free(&j->events);
	ndjson_free(&j->lines);
	buf_clear(&j->whole);
	loop_timer_set(j->w->loop, &j->again, wait_ms * 1000, try_it);
}

static const char *sentence(struct job *j)
{
	struct str said = error_in(buf_as_str(&j->whole), j->mem);

	return said.n ? said.p : arena_printf(j->mem, "the gateway answers with status %d %s", j->status, http_reason(j->status));
}

static void whole_came(struct job *j)
{
	struct buf json = { 0 };

	json_one_line(&json, buf_as_str(&j->whole));
	buf_free(&j->whole);
	j->whole = json;
	if (j->plan.as_worker)
		say(j, STR(""), buf_as_str(&j->whole));
}

static void on_end(struct http_call *call, void *arg)
{
	struct job *j = arg;
	struct str rest;

	j->call = NULL;
	if (j->status >= 400) {
		const char *text = sentence(j);

		if ((j->status == 429 || j->status == 503) && may_try_again(j)) {
			try_again(j, text);
			return;
		}
		end(j, text);
	} else {
		if (j->form == WHOLE)
			whole_came(j);
		else if (j->form == LINES && ndjson_finish(&j->lines, &rest))
			say(j, STR(""), rest);
		end(j, j->failed ? j->error : NULL);
	}
	hand_in(j);
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct job *j = arg;

	j->call = NULL;
	if (e == HTTP_CALL_CANCELLED)
		return;
	if (e != HTTP_CALL_DEADLINE)
		worker_gateway_gone(j->w);
	if (e != HTTP_CALL_DEADLINE && e != HTTP_CALL_BAD_FRAMING && may_try_again(j)) {
		try_again(j, text);
		return;
	}
	if (e == HTTP_CALL_DEADLINE)
		end(j, arena_printf(j->mem, "the job ran longer than its time of %lld s (job_timeout)", (long long)j->w->cfg->job_timeout / 1000));
	else
		end(j, arena_printf(j->mem, "%s: %s", j->status ? "the gateway's answer broke off" : "the gateway cannot be reached", text));
	hand_in(j);
}

static void try_it(struct loop_timer *t)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	struct job *j = list_entry(t, struct job, again);
	struct worker *w = j->w;
	struct http_call_opts opts = { .connect_ms = CONNECT_MS, .deadline_us = j->since_us + w->cfg->job_timeout * 1000 };
	bool has_body = strcmp(j->plan.method, "POST") == 0;
	struct str headers = arena_fmt(j->mem, STR_FMT "X-Request-Id: " STR_FMT "\r\n", STR_ARG(w->headers), STR_ARG(j->id));
	struct str head = http_call_head(j->mem, w->pool, j->plan.method, j->plan.path, headers, has_body, j->plan.body.n);

	j->tries++;
	j->call = http_call_start(w->pool, head, &j->plan.body, has_body, &opts, &ops, j);
}

/* --- from outside --- */

static struct job *job_of(struct worker *w, struct str id)
{
	list_each(it, &w->jobs)
		if (str_eq(list_entry(it, struct job, link)->id, id))
			return list_entry(it, struct job, link);
	return NULL;
}

static struct job *job_new(struct worker *w, struct str id)
{
	struct arena *mem = arena_new(0);
	struct job *j = arena_new_of(mem, struct job);

	j->w = w;
	j->mem = mem;
	j->id = arena_str(mem, id);
	j->since_us = mono_us();
	list_init(&j->pieces);
	list_push(&w->jobs, &j->link);
	w->n_jobs++;
	series_set(metrics_series(svc_metrics(w->svc), M_RUNNING), w->n_jobs);
	return j;
}

void job_start(struct worker *w, const struct taken *t)
{
	struct why why = { 0 };
	struct job *j;

	if (!t->id.n) {
		LOG_ERROR("the queue gave a job without an id; nobody can be answered");
		series_inc(metrics_series(svc_metrics(w->svc), M_JOBS, "malformed"));
		return;
	}
	if (job_of(w, t->id)) {
		LOG_WARN("the queue gave a job that is under way here", LOG_STR("job", t->id));
		return;
	}
	j = job_new(w, t->id);
	if (plan_read(&j->plan, arena_str(j->mem, t->input), j->mem, &why) == ERR_OK) {
		loop_timer_set(w->loop, &j->again, 0, try_it);
		return;
	}
	end(j, why.text);
	hand_in(j);
}

void job_stop(struct worker *w, struct str id)
{
	struct job *j = job_of(w, id);

	if (j && !j->answering)
		gone(j, "stopped");
}

void jobs_end(struct worker *w, const char *why)
{
	list_each_safe(it, &w->jobs) {
		struct job *j = list_entry(it, struct job, link);

		if (j->ended && !j->pending)
			continue;             /* all was said; its answer is on its way */
		if (j->post)
			https_fetch_cancel(j->post);
		j->post = NULL;
		loop_timer_del(&j->repost);
		end(j, why);
		hand_in(j);
	}
}

void jobs_drop(struct worker *w)
{
	list_each_safe(it, &w->jobs)
		job_free(list_entry(it, struct job, link));
	w->n_jobs = 0;
}

void add_job_ids(struct worker *w, struct buf *b)
{
	list_each(it, &w->jobs) {
		if (b->n)
			buf_char(b, ',');
		buf_str(b, list_entry(it, struct job, link)->id);
	}
}

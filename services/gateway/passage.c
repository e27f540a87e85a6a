/* passage.c - see passage.h. Worker thread; the questions in between go to the control thread and back (ask.h). */
#include "services/gateway/passage.h"

#include <stdlib.h>

#include "common/data/log.h"
#include "models.pb-c.h"
#include "services/gateway/jobs_json.h"

enum { POLL_US = 200 * 1000, CONNECT_MS = 5000, SYNC_MS = 10000, SEEN_POLL_US = 5000, SEEN_MOST_US = 2000000 };

struct passage {
	struct req *req;
	struct http_call *call;
	struct loop_timer timer;
	const char *backend;          /* in the request's arena */
	bool lists, failed;
	struct buf held;              /* the end of a good answer, until the models are listed */
	/* until this gateway's own list says so too */
	const char *model;            /* NULL: nothing is waited for */
	bool there;
	int64_t seen_until_us;
	enum step (*seen)(struct req *);
	/* of a job */
	const char *job_id;
	bool stream;
	char said[160];               /* the last line about no layer */
	unsigned n_layers;
	uint64_t completed[64];
};

static struct passage *passage_new(struct req *r, const char *backend)
{
	struct passage *p = x_calloc(1, sizeof(*p));

	p->req = r;
	p->backend = arena_dup(r->mem, backend, strlen(backend));
	r->passage = p;
	return p;
}

void passage_free(struct passage *p)
{
	if (!p)
		return;
	if (p->call)
		http_call_cancel(p->call);
	loop_timer_del(&p->timer);
	buf_free(&p->held);
	free(p);
}

/* --- the end: what changed is listed, then the client is told --- */

static enum step end_reply(struct req *r)
{
	struct passage *p = r->passage;

	if (p->held.n)
		http_reply_data(r->x, buf_as_str(&p->held));
	http_reply_end(r->x);
	r->x = NULL;
	return STEP_DONE;
}

static bool is_seen(const struct req *r)
{
	const struct passage *p = r->passage;
	const struct world *w = r->worker->world;

	return !p->model || !w || (catalogue_model(&w->cat, str_of(p->model)) >= 0) == p->there || req_now(r) >= p->seen_until_us;
}

static void look(struct loop_timer *t)
{
	struct passage *p = list_entry(t, struct passage, timer);

	if (is_seen(p->req))
		req_resume(p->req, p->seen(p->req));
	else
		loop_timer_set(p->req->worker->loop, t, SEEN_POLL_US, look);
}

/* The registry's list comes here by another way than its answers: who asks for the list next finds what was done. */
static enum step when_seen(struct req *r, enum step (*then)(struct req *))
{
	struct passage *p = r->passage;

	p->seen_until_us = req_now(r) + SEEN_MOST_US;
	if (is_seen(r))
		return then(r);
	p->seen = then;
	loop_timer_set(r->worker->loop, &p->timer, SEEN_POLL_US, look);
	return STEP_WAIT;
}

static enum step reply_empty(struct req *r) { return req_reply(r, 200, "application/json", STR("")); }

enum step passage_hidden(struct req *r, const char *model)
{
	struct passage *p = passage_new(r, "");

	p->model = arena_dup(r->mem, model, strlen(model));
	return when_seen(r, reply_empty);
}

static enum step listed(struct req *r, struct ask *a)
{
	(void)a;
	return when_seen(r, end_reply);
}

static void sync_reply(const Corral__SyncReply *reply, void *arg)
{
	(void)reply;                      /* the answer is the backend's, whether or not it could be listed */
	ask_done(arg);
}

static void sync_call(struct ask *a)
{
	Corral__SyncRequest q = CORRAL__SYNC_REQUEST__INIT;

	q.backend = a->query;
	rpc_deadline(a->gw->registry, SYNC_MS);
	corral__model_registry__sync(rpc_stub(a->gw->registry, &corral__model_registry__descriptor), &q, sync_reply, a);
	rpc_deadline(a->gw->registry, 5000);
}

static enum step finish(struct req *r)
{
	struct passage *p = r->passage;
	struct ask *a;

	if (!p->lists || p->failed)
		return end_reply(r);
	a = ask_new(r, sync_call);
	a->query = arena_dup(a->mem, p->backend, strlen(p->backend));
	a->then = listed;
	return ask_send(a);
}

/* --- a backend's answer --- */

static void on_head(struct http_call *call, const struct http_head *head, void *arg)
{
	struct passage *p = arg;
	struct req *r = p->req;
	const struct http_header *type = http_find(head, "content-type");
	struct str kind = type && http_value_ok(type->value) && type->value.n < 100 ? type->value : STR("application/json");

	(void)call;
	p->failed = head->status >= 400;
	r->status = head->status;
	r->extra_headers = arena_fmt(r->mem, "X-Corral-Backend: %s\r\n", p->backend);
	http_reply_start(r->x, head->status, req_headers(r, arena_str(r->mem, kind).p), -1);
	r->head_sent = r->answer_begun = true;
}

/* The last line of a stream, which says how it went, waits for the listing. */
static void on_data(struct http_call *call, struct str data, void *arg)
{
	struct passage *p = arg;
	struct req *r = p->req;

	r->sent_bytes += data.n;
	if (p->held.n) {
		http_reply_data(r->x, buf_as_str(&p->held));
		buf_clear(&p->held);
	}
	if (p->lists && str_find(data, STR("\"success\"")))
		buf_str(&p->held, data);
	else
		http_reply_data(r->x, data);
	p->failed |= str_starts(data, STR("{\"error\""));
	if (http_reply_full(r->x)) {
		r->paused = true;
		http_call_pause(call);
	}
}

static void on_end(struct http_call *call, void *arg)
{
	struct passage *p = arg;

	(void)call;
	p->call = NULL;
	req_resume(p->req, finish(p->req));
}

static void on_error(struct http_call *call, enum http_call_error e, const char *text, void *arg)
{
	struct passage *p = arg;
	struct req *r = p->req;

	(void)call;
	p->call = NULL;
	LOG_WARN("a backend broke an answer off", LOG_S("backend", p->backend), LOG_S("cause", http_call_error_name(e)), LOG_S("error", text));
	req_fail(r, ERR_BACKEND_FAILED, "backend '%s' failed (%s)", p->backend, http_call_error_name(e));
	if (r->head_sent) {               /* as Ollama itself: a last line with the error */
		struct str line = arena_fmt(r->mem, "{\"error\":\"%s\"}\n", r->err.text);

		http_reply_data(r->x, line);
		http_reply_end(r->x);
		r->x = NULL;
	}
	req_resume(r, STEP_FAIL);
}

bool passage_resume(struct passage *p)
{
	if (!p || !p->call)
		return false;
	http_call_resume(p->call);
	return true;
}

enum step passage_start(struct req *r, const char *url, const char *backend, const char *method, struct str path, struct str body, bool is_json, const char *makes)
{
	static const struct http_call_ops ops = { on_head, on_data, on_end, on_error };
	struct http_call_opts opts = { .connect_ms = CONNECT_MS, .idle_ms = r->worker->gw->cfg->admin_timeout, .first_byte_ms = r->worker->gw->cfg->admin_timeout,
				       .head_request = str_eqz(str_of(method), "HEAD") };
	struct passage *p = passage_new(r, backend);
	struct http_url to;
	struct http_pool *pool;
	struct why why;

	if (!http_url_parse(&to, str_of(url), &why))
		return req_fail_why(r, &why);
	p->lists = makes != NULL;
	p->model = makes ? arena_dup(r->mem, makes, strlen(makes)) : NULL;
	p->there = true;
	pool = worker_pool(r->worker, &to);
	p->call = http_call_start(pool, http_call_head(r->mem, pool, method, path, is_json ? STR("Content-Type: application/json\r\n") : STR("Content-Type: application/octet-stream\r\n"),
						       !opts.head_request, body.n),
				  &body, body.n ? 1 : 0, &opts, &ops, p);
	return STEP_WAIT;
}

/* --- a job as Ollama tells of a pull --- */

struct job_state { Corral__JobsQuery q; const Corral__Job *job; Corral__JobsReply *kept; };

static void jobs_reply(const Corral__JobsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct job_state *s = a->query;
	uint8_t *packed;
	size_t n;

	if (!reply) {
		jobs_ask_failed(a);
		return;
	}
	/* the reply is the control thread's; this one is the worker's */
	n = corral__jobs_reply__get_packed_size(reply);
	packed = arena_alloc(a->mem, n + 1);
	corral__jobs_reply__pack(reply, packed);
	s->kept = corral__jobs_reply__unpack(NULL, n, packed);
	s->job = s->kept && s->kept->n_jobs ? s->kept->jobs[0] : NULL;
	ask_done(a);
}

static void jobs_call(struct ask *a)
{
	corral__model_jobs__jobs(rpc_stub(a->gw->registry, &corral__model_jobs__descriptor), &((struct job_state *)a->query)->q, jobs_reply, a);
}

static void say(struct passage *p, struct buf *out, const char *status)
{
	struct json_out jo;

	if (!status[0] || strcmp(p->said, status) == 0)
		return;
	(void)str_copy(p->said, sizeof(p->said), str_of(status));
	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_strz(&jo, "status", status);
	jw_end(&jo);
	buf_char(out, '\n');
}

static void say_layer(struct buf *out, const Corral__JobLayer *l)
{
	struct str digest = str_of(l->digest), hex = str_starts(digest, STR("sha256:")) ? str_from(digest, 7) : digest;
	struct json_out jo;
	char status[40];

	(void)snprintf(status, sizeof(status), "pulling %.12s", hex.p);
	json_begin(&jo, out);
	jw_obj(&jo);
	jw_kv_strz(&jo, "status", status);
	jw_kv_strz(&jo, "digest", l->digest);
	jw_kv_u64(&jo, "total", l->total);
	if (l->completed)
		jw_kv_u64(&jo, "completed", l->completed);
	jw_end(&jo);
	buf_char(out, '\n');
}

static void tell_progress(struct passage *p, const Corral__Job *j, struct buf *out)
{
	for (size_t i = 0; i < j->n_layers && i < sizeof(p->completed) / sizeof(*p->completed); i++) {
		if (i < p->n_layers && p->completed[i] == j->layers[i]->completed)
			continue;
		p->n_layers = i >= p->n_layers ? (unsigned)i + 1 : p->n_layers;
		p->completed[i] = j->layers[i]->completed;
		say_layer(out, j->layers[i]);
	}
	if (!str_starts(str_of(j->status_text), STR("pulling ")) || str_eqz(str_of(j->status_text), "pulling manifest"))
		if (strcmp(j->status_text, "success") != 0)
			say(p, out, j->status_text);
	if (j->state == CORRAL__JOB_STATE__JOB_WAITING && *j->error)
		say(p, out, j->error);
}

static void poll(struct loop_timer *);

static enum step job_ended(struct req *r, const Corral__Job *j)
{
	struct passage *p = r->passage;
	const char *error = *j->error ? j->error : "the pull was cancelled";
	struct json_out jo;

	p->failed = j->state != CORRAL__JOB_STATE__JOB_DONE;
	if (p->failed && !p->stream)
		return req_fail(r, ERR_BACKEND_FAILED, "%s", error);
	json_begin(&jo, &p->held);
	jw_obj(&jo);
	jw_kv_strz(&jo, p->failed ? "error" : "status", p->failed ? error : "success");
	jw_end(&jo);
	buf_char(&p->held, '\n');
	if (!p->stream) {
		http_reply_start(r->x, 200, req_headers(r, "application/json"), -1);
		r->head_sent = r->answer_begun = true;
		r->status = 200;
	}
	return finish(r);
}

static enum step heard(struct req *r, struct ask *a)
{
	struct passage *p = r->passage;
	struct job_state *s = a->query;
	struct buf out = { 0 };
	enum step step = STEP_WAIT;

	if (!s->job) {
		step = req_fail(r, ERR_INTERNAL, "the job is not there any more");
	} else {
		if (p->stream)
			tell_progress(p, s->job, &out);
		if (out.n)
			http_reply_data(r->x, buf_as_str(&out));
		if (s->job->state >= CORRAL__JOB_STATE__JOB_DONE)
			step = job_ended(r, s->job);
		else
			loop_timer_set(r->worker->loop, &p->timer, POLL_US, poll);
	}
	buf_free(&out);
	return step;
}

static void free_reply(void *reply) { corral__jobs_reply__free_unpacked(((struct job_state *)reply)->kept, NULL); }

static void poll(struct loop_timer *t)
{
	struct passage *p = list_entry(t, struct passage, timer);
	struct ask *a = ask_new(p->req, jobs_call);
	struct job_state *s = arena_new_of(a->mem, struct job_state);

	corral__jobs_query__init(&s->q);
	s->q.id = arena_dup(a->mem, p->job_id, strlen(p->job_id));
	arena_defer(a->mem, free_reply, s);
	a->query = s;
	a->then = heard;
	(void)ask_send(a);
}

enum step passage_watch(struct req *r, const char *job_id, const char *backend, const char *model, bool stream)
{
	struct passage *p = passage_new(r, backend);

	p->model = arena_dup(r->mem, model, strlen(model));
	p->there = true;
	p->job_id = arena_dup(r->mem, job_id, strlen(job_id));
	p->stream = stream;
	p->lists = true;
	if (stream) {
		http_reply_start(r->x, 200, req_headers(r, "application/x-ndjson"), -1);
		r->head_sent = r->answer_begun = true;
		r->status = 200;
	}
	poll(&p->timer);
	return STEP_WAIT;
}

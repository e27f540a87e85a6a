/* run_exec.c - see run_exec.h. */
#include "services/gateway/run_exec.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/gateway/routes.h"

enum { FLUSH_US = 100 * 1000, FLUSH_BYTES = 64 << 10, AGAIN_US = 1000000, AGAIN_MAX_US = 30 * 1000000 };

struct run_exec *run_exec_new(struct gateway *g, struct arena *mem, const struct run *run, void (*look)(void *arg))
{
	struct run_exec *e = x_calloc(1, sizeof(*e));

	*e = (struct run_exec){ .gw = g, .mem = mem, .run = *run, .look = look };
	list_init(&e->link);
	list_init(&e->node);
	pthread_mutex_init(&e->lock, NULL);
	return e;
}

void run_exec_free(struct run_exec *e)
{
	http_local_free(e->http);
	sse_free(&e->events);
	ndjson_free(&e->lines);
	buf_free(&e->whole);
	buf_free(&e->pieces);
	pthread_mutex_destroy(&e->lock);
	arena_free(e->mem);
	free(e);
}

/* --- to the control thread --- */

static void post_look(struct run_exec *e)
{
	bool post;

	pthread_mutex_lock(&e->lock);
	post = !e->posted;
	e->posted = true;
	pthread_mutex_unlock(&e->lock);
	if (post)
		loop_post(e->gw->loop, e->look, e);
}

/* The worker lets go; the other thread may have freed it when this returns. */
static void let_go(struct run_exec *e)
{
	bool post;

	loop_timer_del(&e->flush);
	list_del(&e->node);
	http_local_free(e->http);
	e->http = NULL;
	pthread_mutex_lock(&e->lock);
	e->ended = true;
	post = !e->posted;
	e->posted = true;
	pthread_mutex_unlock(&e->lock);
	if (post)
		loop_post(e->gw->loop, e->look, e);
}

static void flush(struct loop_timer *t)
{
	struct run_exec *e = list_entry(t, struct run_exec, flush);

	if (e->leave)
		http_local_leave(e->http, e->leave);
	else
		post_look(e);
}

/* --- what is answered --- */

static void say(struct run_exec *e, struct str piece)
{
	size_t held;

	if (e->leave)
		return;
	pthread_mutex_lock(&e->lock);
	json_one_line(&e->pieces, piece);
	buf_char(&e->pieces, '\n');
	e->n_pieces++;
	held = e->pieces.n;
	pthread_mutex_unlock(&e->lock);
	e->said_bytes += piece.n;
	if (e->said_bytes > RUN_OUTPUT_MAX)
		e->leave = "its answer is larger than a job's may be (64 MiB)";
	if (held >= FLUSH_BYTES && !e->leave)
		post_look(e);
	else if (!e->flush.heap_index)
		loop_timer_set(e->worker->loop, &e->flush, e->leave ? 0 : FLUSH_US, flush);
}

static void on_event(void *arg, struct str event, struct str data)
{
	(void)event;
	if (!str_eqz(data, "[DONE]"))
		say(arg, data);
}

static void on_line(void *arg, struct str line) { say(arg, line); }

static void on_start(void *arg, int status, struct str headers)
{
	struct run_exec *e = arg;

	(void)status;
	if (str_ifind(headers, STR("Content-Type: text/event-stream")))
		e->form = RUN_EVENTS;
	else if (str_ifind(headers, STR("Content-Type: application/x-ndjson")))
		e->form = RUN_LINES;
}

static void on_data(void *arg, struct str data)
{
	struct run_exec *e = arg;
	struct why why;

	if (e->form == RUN_WHOLE)
		buf_str(&e->whole, data);
	else if (e->form == RUN_EVENTS)
		(void)sse_feed(&e->events, data, on_event, e, &why);
	else
		(void)ndjson_feed(&e->lines, data, on_line, e, &why);
}

static void on_end(void *arg, bool whole) { (void)arg, (void)whole; }         /* run_request_ended() knows more */

static const struct http_local_ops ops = { on_start, on_data, on_end };

/* --- the end --- */

static bool may_come_back(enum err code)
{
	return code == ERR_UNAVAILABLE || code == ERR_QUEUE_FULL || code == ERR_RATE_LIMITED || code == ERR_STORE_FAILED;
}

static void judge(struct run_exec *e, const struct req *r)
{
	int64_t wait_us = r->retry_after_s * 1000000;

	e->why = r->err;
	e->state = RUN_FAILED;
	if (e->leave) {                   /* first: its last read may have been too much, and all was well */
		err_set(&e->why, ERR_TOO_LARGE, "%s", e->leave);
	} else if (r->err.code == ERR_OK) {
		e->state = RUN_COMPLETED;
	} else if (r->err.code == ERR_DEADLINE) {
		e->state = RUN_TIMED_OUT;
		err_set(&e->why, ERR_DEADLINE, "the job ran longer than its execution time of %lld ms", (long long)e->run.execution_ms);
	} else if (may_come_back(r->err.code) && !r->answer_begun) {
		e->again = true;
		e->wait_us = wait_us < AGAIN_US ? AGAIN_US : wait_us > AGAIN_MAX_US ? AGAIN_MAX_US : wait_us;
	}
}

void run_request_ended(struct req *r)
{
	struct run_exec *e = r->run;
	struct str rest;

	if (e->form == RUN_LINES && !e->leave && ndjson_finish(&e->lines, &rest))
		say(e, rest);
	judge(e, r);
	memcpy(e->request_id, r->id_text, sizeof(e->request_id));
	if (e->state == RUN_COMPLETED && e->form == RUN_WHOLE) {
		struct buf text = { 0 };

		json_one_line(&text, buf_as_str(&e->whole));
		buf_free(&e->whole);
		e->whole = text;
	} else {
		buf_clear(&e->whole);
	}
	let_go(e);
}

static void failed(struct run_exec *e, enum err code, const char *text)
{
	e->state = RUN_FAILED;
	err_set(&e->why, code, "%s", text);
	let_go(e);
}

/* --- the beginning --- */

/* Who asked then, with what he may do now. False: it has failed, or waits for the keys to be known. */
static bool admit(struct run_exec *e, struct admission *a)
{
	struct worker *w = e->worker;
	struct subject who;

	a->role = (Corral__Role)e->run.role;
	a->home = w->ring ? keyring_tenant(w->ring, str_of(e->run.tenant)) : NULL;
	if (!*e->run.key_id)
		return true;
	if (!w->ring) {
		e->again = true;
		e->wait_us = AGAIN_US;
		failed(e, ERR_UNAVAILABLE, "the keys are not known yet");
		return false;
	}
	a->key = keyring_key(w->ring, str_of(e->run.key_id));
	if (!a->key || (a->key->pb.expires_at_us && wall_us() >= a->key->pb.expires_at_us)) {
		failed(e, ERR_UNAUTHENTICATED, "the key that this job was sent with was revoked or has expired");
		return false;
	}
	a->role = a->key->pb.role;
	who = (struct subject){ .role = a->role, .key_id = a->key->e.name, .tenant = str_of(a->key->pb.tenant), .key = &a->key->pb,
		.home = a->home ? &a->home->pb : NULL };
	if ((a->home && a->home->pb.suspended) || authorise(&who, STR("inference"), STR(""), STR(""), &a->why) != ERR_OK) {
		failed(e, ERR_FORBIDDEN, "the key that this job was sent with may not ask a model any more, or its tenant is suspended");
		return false;
	}
	return true;
}

static void begin(void *arg)
{
	struct run_exec *e = arg;
	struct worker *w = e->worker;
	struct http_head head = { .method = STR("POST") };
	struct admission a = { 0 };

	list_push(&w->runs, &e->node);
	a.route = route_find(&head, str_of(e->run.path), &a.param, &a.no_route);
	if (!a.route || a.no_route.code) {
		failed(e, ERR_NOT_FOUND, "this Corral no longer serves the route of this job");
		return;
	}
	if (!admit(e, &a))
		return;
	e->http = http_local_new(str_of(e->run.path), e->run.body, "job", &ops, e);
	req_start_run(w, http_local_xchg(e->http), &a, e, e->run.execution_ms * 1000);
}

void run_exec_post(struct run_exec *e, struct worker *w)
{
	e->worker = w;
	loop_post(w->loop, begin, e);
}

struct stop_order { struct worker *worker; const char *why; char id[40]; };

static void obey(void *arg)
{
	struct stop_order *o = arg;

	list_each_safe(it, &o->worker->runs) {
		struct run_exec *e = list_entry(it, struct run_exec, node);

		if (e->http && strcmp(e->run.id, o->id) == 0) {
			http_local_leave(e->http, o->why);
			break;
		}
	}
	free(o);
}

void run_exec_stop(struct worker *w, const char *id, const char *why)
{
	struct stop_order *o = x_calloc(1, sizeof(*o));

	o->worker = w;
	o->why = why;
	(void)str_copy(o->id, sizeof(o->id), str_of(id));
	loop_post(w->loop, obey, o);
}

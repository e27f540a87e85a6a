/* runs.c - see runs.h. */
#include "services/gateway/runs.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "services/gateway/own_name.h"
#include "services/gateway/run_exec.h"

enum { TICK_US = 1000000, STREAM_BYTES = 1 << 20, OPEN_AGAIN_US = 2000000, ALIVE_TICKS = 3, REST_US = 1000000, REST_MAX_US = 4000000 };

/* A tenant whose job was refused for want of room: what else it has waiting would be refused as well, and each refusal costs. */
struct rest {
	struct list link;
	int64_t until_us, length_us;  /* mono; grows while refusals repeat */
	char tenant[256];
};

struct end_waiter {
	struct list link;
	struct ask *ask;
	char id[40];
	int64_t until_us;             /* mono */
};

struct runs {
	struct gateway *gw;
	struct run_store *store;      /* NULL: its server has not been reached yet */
	char url[1100], owner[40];
	pthread_t opener;             /* a server that does not answer would hold up the loop */
	bool opening;
	_Atomic bool tried;           /* the opener is through: */
	struct run_store *opened;
	struct why trouble;
	int64_t again_us;             /* mono */
	struct list running;          /* struct run_exec, ours */
	unsigned n_running, next_worker, ticks;
	struct list waiters;
	struct list owed;             /* struct run_exec whose end the disk did not take yet */
	struct list rests;            /* struct rest */
	struct loop_timer tick;
	int64_t bytes;                /* on disk, as counted last and added to since */
	int64_t waiting_bytes;        /* of those at most this much of jobs that wait */
	bool going, draining, failing;
};

static void schedule(struct runs *);
static void tick(struct loop_timer *);

/* --- life --- */

/* Where several gateways share the database each has its own jobs; so has a successor beside one that drains, as it has spools of its own. */
static bool read_owner(struct gateway *g, char owner[40], struct why *why)
{
	char file[32];

	snprintf(file, sizeof(file), g->spool_base ? "runs.owner-%u" : "runs.owner", g->spool_base);
	return own_name(g, file, owner, why);
}

static void say_away(struct runs *rs, const struct why *why)
{
	LOG_WARN("the database of jobs cannot be opened yet; /run is refused until it can", LOG_S("error", why->text));
	svc_want(rs->gw->svc, "jobs", false, "their database cannot be opened yet");
	rs->again_us = mono_us() + OPEN_AGAIN_US;
}

static bool open_first(struct runs *rs, struct why *why)
{
	const char *url = rs->gw->cfg->runs_db;

	if (!read_owner(rs->gw, rs->owner, why))
		return false;
	if (*url)
		(void)str_copy(rs->url, sizeof(rs->url), str_of(url));
	else
		snprintf(rs->url, sizeof(rs->url), "sqlite:%s/runs.db", svc_state_dir(rs->gw->svc));
	rs->store = run_store_open(rs->url, rs->owner, wall_us(), why);
	if (!rs->store && (db_migrates_at_open(rs->url) || why->code != ERR_STORE_FAILED))
		return false;             /* a file, or a server whose schema is another */
	if (!rs->store)
		say_away(rs, why);
	return true;
}

static void *open_again(void *arg)
{
	struct runs *rs = arg;

	rs->opened = run_store_open(rs->url, rs->owner, wall_us(), &rs->trouble);
	atomic_store(&rs->tried, true);
	return NULL;
}

/* False: there is no database yet. */
static bool has_store(struct runs *rs)
{
	if (rs->store)
		return true;
	if (rs->opening && atomic_load(&rs->tried)) {
		(void)pthread_join(rs->opener, NULL);
		rs->opening = false;
		rs->store = rs->opened;
		rs->again_us = mono_us() + OPEN_AGAIN_US;
		if (!rs->store)
			LOG_DEBUG("the database of jobs cannot be opened yet", LOG_S("error", rs->trouble.text));
	}
	if (rs->store) {
		LOG_INFO("the database of jobs is open");
		svc_want(rs->gw->svc, "jobs", true, "");
		return true;
	}
	if (!rs->opening && mono_us() >= rs->again_us) {
		atomic_store(&rs->tried, false);
		rs->opening = pthread_create(&rs->opener, NULL, open_again, rs) == 0;
	}
	return false;
}

struct runs *runs_open(struct gateway *g, struct why *why)
{
	struct runs *rs = x_calloc(1, sizeof(*rs));

	rs->gw = g;
	if (!open_first(rs, why)) {
		free(rs);
		return NULL;
	}
	list_init(&rs->running);
	list_init(&rs->waiters);
	list_init(&rs->owed);
	list_init(&rs->rests);
	tick(&rs->tick);
	return rs;
}

void runs_go(struct runs *rs)
{
	if (rs->draining)
		return;
	rs->going = true;
	schedule(rs);
}

/* The error is told when it begins and when it ends, and not every second. */
static bool stored(struct runs *rs, bool ok, const struct why *why)
{
	if (!ok && !rs->failing)
		LOG_ERROR("jobs cannot be written", LOG_S("error", why->text));
	else if (ok && rs->failing)
		LOG_INFO("jobs can be written again");
	rs->failing = !ok;
	return ok;
}

/* --- what is told --- */

static void answer_error(struct ask *a, const struct why *why)
{
	if (why->code == ERR_STORE_FAILED || why->code == ERR_INTERNAL)
		err_set(&a->err, ERR_STORE_FAILED, "jobs cannot be read or written now; the gateway's log says why");
	else
		a->err = *why;
	ask_done(a);
}

/* False: it is answered. */
static bool may_ask(struct ask *a)
{
	if (a->gw->runs->store)
		return true;
	err_set(&a->err, ERR_STORE_FAILED, "jobs cannot be taken or told now: their database cannot be reached. It is tried again; all else goes on");
	ask_done(a);
	return false;
}

static void add_output(struct runs *rs, struct json_out *jo, const struct run *r, struct arena *mem)
{
	struct str pieces, piece;
	struct why why;
	uint32_t n;

	if (r->output.n) {
		jw_kv_raw(jo, "output", r->output);
	} else if (r->chunks && run_pieces(rs->store, r->id, 0, SIZE_MAX / 2, mem, &pieces, &n, &why)) {
		jw_key(jo, "output");
		jw_arr(jo);
		while (pieces.n && str_split(&pieces, '\n', &piece))
			jw_raw(jo, piece);
		jw_end(jo);
	}
}

static void add_state(struct json_out *jo, const struct run *r)
{
	jw_kv_strz(jo, "id", r->id);
	jw_kv_strz(jo, "status", run_state_name(r->state));
}

static void run_json(struct runs *rs, struct json_out *jo, const struct run *r, struct arena *mem)
{
	jw_obj(jo);
	add_state(jo, r);
	if (r->started_us)
		jw_kv_i64(jo, "delayTime", (r->started_us - r->created_us) / 1000);
	if (r->started_us && r->ended_us)
		jw_kv_i64(jo, "executionTime", (r->ended_us - r->started_us) / 1000);
	if (*r->request_id)
		jw_kv_strz(jo, "request_id", r->request_id);
	if (run_ended_state(r->state))
		add_output(rs, jo, r, mem);
	if (*r->error)
		jw_kv_strz(jo, "error", r->error);
	if (*r->error_code)
		jw_kv_strz(jo, "error_code", r->error_code);
	jw_end(jo);
}

static void answer_run(struct runs *rs, struct ask *a, const struct run *r)
{
	struct json_out jo;

	json_begin(&jo, &a->body);
	run_json(rs, &jo, r, a->mem);
	a->status = 200;
	ask_done(a);
}

static bool find(struct runs *rs, struct ask *a, struct run *ret)
{
	const struct run_ask *q = a->query;
	struct why why;

	if (!may_ask(a))
		return false;
	if (run_get(rs->store, str_of(q->id), false, a->mem, ret, &why) && (q->sees_all || strcmp(ret->tenant, q->tenant) == 0))
		return true;
	if (why.code == ERR_OK)
		err_set(&why, ERR_NOT_FOUND, "there is no job '%s' here; results are kept for %lld s (CORRAL_RUNS_KEEP)", q->id, (long long)(rs->gw->cfg->runs_keep / 1000));
	answer_error(a, &why);
	return false;
}

void runs_status(struct ask *a)
{
	struct run r;

	if (find(a->gw->runs, a, &r))
		answer_run(a->gw->runs, a, &r);
}

/* --- /stream: each piece once, or from a number on as often as one likes --- */

static void stream_items(struct json_out *jo, struct str pieces)
{
	struct str piece;

	while (pieces.n && str_split(&pieces, '\n', &piece)) {
		jw_obj(jo);
		jw_kv_raw(jo, "output", piece);
		jw_end(jo);
	}
}

void runs_stream(struct ask *a)
{
	struct runs *rs = a->gw->runs;
	const struct run_ask *q = a->query;
	struct str pieces = STR("");
	struct json_out jo;
	struct run r;
	struct why why;
	uint32_t from, n = 0;

	if (!find(rs, a, &r))
		return;
	from = q->from >= 0 ? (uint32_t)q->from : r.delivered;
	if (r.output.n && from == 0) {            /* an answer that was no stream is one piece */
		pieces = r.output;
		n = 1;
	} else if (from < r.chunks && !run_pieces(rs->store, r.id, from, STREAM_BYTES, a->mem, &pieces, &n, &why)) {
		answer_error(a, &why);
		return;
	}
	if (n && q->from < 0 && !run_delivered(rs->store, r.id, from + n, &why)) {
		answer_error(a, &why);
		return;
	}
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	add_state(&jo, &r);
	jw_key(&jo, "stream");
	jw_arr(&jo);
	stream_items(&jo, pieces);
	jw_end(&jo);
	jw_kv_i64(&jo, "next", from + n);
	jw_end(&jo);
	a->status = 200;
	ask_done(a);
}

/* --- those who wait for an end --- */

static void release(struct runs *rs, struct end_waiter *w)
{
	struct run r;
	struct why why;

	list_del(&w->link);
	if (run_get(rs->store, str_of(w->id), false, w->ask->mem, &r, &why)) {
		answer_run(rs, w->ask, &r);
	} else {
		if (why.code == ERR_OK)
			err_set(&why, ERR_NOT_FOUND, "job '%s' is no longer here", w->id);
		answer_error(w->ask, &why);
	}
	free(w);
}

static void wake(struct runs *rs, const char *id)
{
	list_each_safe(it, &rs->waiters) {
		struct end_waiter *w = list_entry(it, struct end_waiter, link);

		if (strcmp(w->id, id) == 0)
			release(rs, w);
	}
}

static bool has_ended(struct runs *rs, const char *id)
{
	struct arena *mem = arena_new(0);
	struct run r;
	struct why why;
	bool ended = run_get(rs->store, str_of(id), false, mem, &r, &why) ? run_ended_state(r.state) : why.code == ERR_OK;

	arena_free(mem);
	return ended;
}

static struct run_exec *exec_of(struct runs *rs, const char *id)
{
	list_each(it, &rs->running)
		if (strcmp(list_entry(it, struct run_exec, link)->run.id, id) == 0)
			return list_entry(it, struct run_exec, link);
	return NULL;
}

/* Those whose time is over, and those whose job another gateway did. */
static void look_after_waiters(struct runs *rs, bool all)
{
	list_each_safe(it, &rs->waiters) {
		struct end_waiter *w = list_entry(it, struct end_waiter, link);
		bool ours = exec_of(rs, w->id) != NULL;

		if (mono_us() >= w->until_us || (all && !ours) || (!ours && has_ended(rs, w->id)))
			release(rs, w);
	}
}

/* --- executing --- */

static struct rest *rest_of(struct runs *rs, const char *tenant)
{
	list_each(it, &rs->rests)
		if (strcmp(list_entry(it, struct rest, link)->tenant, tenant) == 0)
			return list_entry(it, struct rest, link);
	return NULL;
}

/* Several that were under way are refused together: that is one refusal. */
static void refused(struct runs *rs, const char *tenant)
{
	struct rest *r = rest_of(rs, tenant);

	if (!r) {
		r = x_calloc(1, sizeof(*r));
		(void)str_copy(r->tenant, sizeof(r->tenant), str_of(tenant));
		list_push(&rs->rests, &r->link);
	}
	if (mono_us() < r->until_us)
		return;
	r->length_us = !r->length_us ? REST_US : r->length_us * 2 > REST_MAX_US ? REST_MAX_US : r->length_us * 2;
	r->until_us = mono_us() + r->length_us;
}

static void served(struct runs *rs, const char *tenant)
{
	struct rest *r = rest_of(rs, tenant);

	if (r)
		r->length_us = 0;
}

static void forget_rests(struct runs *rs, int64_t before_us)
{
	list_each_safe(it, &rs->rests) {
		struct rest *r = list_entry(it, struct rest, link);

		if (r->until_us < before_us) {
			list_del(&r->link);
			free(r);
		}
	}
}

static unsigned weight(void *arg, const char *tenant)
{
	struct runs *rs = arg;
	struct rest *r = rest_of(rs, tenant);
	unsigned n = 0;

	if (r && mono_us() < r->until_us)
		return RUN_NOT_NOW;
	list_each(it, &rs->running)
		n += strcmp(list_entry(it, struct run_exec, link)->run.tenant, tenant) == 0;
	return n;
}

static void count(struct runs *rs, enum run_state s) { series_inc(metrics_series(rs->gw->metrics, M_RUNS, run_state_name(s))); }

/* 'bytes' may be below 0: what is written frees more than it takes. */
static bool make_room(struct runs *rs, int64_t bytes)
{
	struct why why;
	int64_t freed;

	while (rs->bytes + bytes > rs->gw->cfg->runs_max) {
		freed = run_forget_oldest(rs->store, &why);
		if (!freed)
			return false;
		rs->bytes -= freed;
	}
	return true;
}

static void failed(struct run_exec *e, struct run *end, const char *text)
{
	end->state = e->state = RUN_FAILED;
	end->error_code = err_name(ERR_STORE_FAILED);
	end->error = text;
	end->output = STR("");
}

/* False: the disk does not take it; it stays owed. */
static bool book(struct runs *rs, struct run_exec *e)
{
	struct run end = { .id = e->run.id, .state = e->state, .ended_us = wall_us(), .error_code = "", .error = "", .request_id = e->request_id,
		.output = buf_as_str(&e->whole) };
	struct why why;
	bool ours = false;

	if (e->gone)
		return true;
	if (e->lost)
		e->again = false;
	if (e->again)
		return stored(rs, run_requeue(rs->store, e->run.id, end.ended_us + e->wait_us, e->why.text, NULL, &why), &why);
	if (e->why.code) {
		end.error_code = err_name(e->why.code);
		end.error = e->why.text;
	}
	if (e->lost)
		failed(e, &end, "what this job answers cannot be kept: the disk, or the room for results (CORRAL_RUNS_MAX), is full");
	else if (!make_room(rs, (int64_t)end.output.n - (int64_t)e->run.body.n))
		failed(e, &end, "the result is larger than the room that is left for results (CORRAL_RUNS_MAX)");
	if (!stored(rs, run_finish(rs->store, &end, &ours, &why), &why))
		return false;
	rs->bytes += (int64_t)end.output.n - (ours ? (int64_t)e->run.body.n : 0);
	if (ours)
		count(rs, end.state);
	return true;
}

static void over(struct runs *rs, struct run_exec *e)
{
	list_del(&e->link);
	if (e->again)
		refused(rs, e->run.tenant);
	else
		served(rs, e->run.tenant);
	if (!book(rs, e)) {
		list_push(&rs->owed, &e->link);
		return;
	}
	if (!e->again)
		wake(rs, e->run.id);
	run_exec_free(e);
}

/* What a stream has said since. Where that cannot be kept, the job ends: its client could not get it. */
static void keep_pieces(struct runs *rs, struct run_exec *e, struct buf *pieces, uint32_t n)
{
	struct why why = { 0 };
	bool ours = false;

	if (e->lost || e->gone)
		return;
	if (!make_room(rs, (int64_t)pieces->n) || !stored(rs, run_say(rs->store, e->run.id, buf_as_str(pieces), n, &ours, &why), &why)) {
		e->lost = true;
		run_exec_stop(e->worker, e->run.id, "its answer cannot be kept");
	} else if (!ours) {
		e->gone = true;
		run_exec_stop(e->worker, e->run.id, "the job is not this gateway's any more");
	} else {
		rs->bytes += (int64_t)pieces->n;
	}
}

static void look(void *arg)
{
	struct run_exec *e = arg;
	struct runs *rs = e->gw->runs;
	struct buf pieces;
	uint32_t n;
	bool ended;

	pthread_mutex_lock(&e->lock);
	pieces = e->pieces;
	n = e->n_pieces;
	ended = e->ended;
	e->pieces = (struct buf){ 0 };
	e->n_pieces = 0;
	e->posted = false;
	pthread_mutex_unlock(&e->lock);
	if (n)
		keep_pieces(rs, e, &pieces, n);
	buf_free(&pieces);
	if (!ended)
		return;
	rs->n_running--;
	over(rs, e);
	schedule(rs);
}

static bool begin_one(struct runs *rs)
{
	struct arena *mem = arena_new(4096);
	struct run_exec *e;
	struct run r;
	struct why why;

	if (!run_claim(rs->store, wall_us(), weight, rs, mem, &r, &why)) {
		if (why.code != ERR_OK)
			(void)stored(rs, false, &why);
		arena_free(mem);
		return false;
	}
	e = run_exec_new(rs->gw, mem, &r, look);
	list_push(&rs->running, &e->link);
	rs->n_running++;
	run_exec_post(e, rs->gw->workers[rs->next_worker++ % rs->gw->n_workers]);
	return true;
}

static void schedule(struct runs *rs)
{
	while (rs->store && rs->going && rs->n_running < (unsigned)rs->gw->cfg->runs_parallel && list_empty(&rs->owed) && begin_one(rs))
		;
}

/* --- submitting, cancelling --- */

/* Jobs that wait may not drive out every result: half of the room is theirs, and of that half of it one tenant's. */
static bool may_wait(struct runs *rs, const struct run *r, struct why *why)
{
	const int64_t max = rs->gw->cfg->runs_max, n = (int64_t)r->body.n;
	int64_t tenants, all;

	if (rs->waiting_bytes + n <= max / 4)
		return true;
	if (!run_waiting_bytes(rs->store, str_of(r->tenant), &tenants, &all, why))
		return false;
	rs->waiting_bytes = all;
	if (tenants + n > max / 4)
		return err_set(why, ERR_QUEUE_FULL, "this job and those of its tenant that wait would be larger than a quarter of the room for jobs and results "
						    "(CORRAL_RUNS_MAX); send it again when some are done") == ERR_OK;
	if (all + n > max / 2)
		return err_set(why, ERR_QUEUE_FULL, "this job and those that wait would be larger than half of the room for jobs and results (CORRAL_RUNS_MAX); "
						    "try again later") == ERR_OK;
	return true;
}

static bool accept(struct runs *rs, struct ask *a, struct run *r, struct why *why)
{
	const struct gateway_config *cfg = rs->gw->cfg;

	if (run_waiting(rs->store, str_of(r->tenant)) >= cfg->runs_queue_max)
		return err_set(why, ERR_QUEUE_FULL, "%lld jobs of this tenant wait already (CORRAL_RUNS_QUEUE_MAX); send this one again when some are done",
			       (long long)cfg->runs_queue_max) == ERR_OK;
	if (!may_wait(rs, r, why))
		return false;
	if (!make_room(rs, (int64_t)r->body.n))
		return err_set(why, ERR_QUEUE_FULL, "jobs that wait and results that are kept fill the room for them (CORRAL_RUNS_MAX); try again later") == ERR_OK;
	r->id = arena_zero(a->mem, 40);
	uuid_format(uuid_v7(wall_us()), (char *)(uintptr_t)r->id);
	r->created_us = wall_us();
	r->expires_us += r->created_us;
	if (!stored(rs, run_add(rs->store, r, why), why))
		return false;
	rs->bytes += (int64_t)r->body.n;
	rs->waiting_bytes += (int64_t)r->body.n;
	return true;
}

void runs_submit(struct ask *a)
{
	struct runs *rs = a->gw->runs;
	struct run_ask *q = a->query;
	struct json_out jo;
	struct end_waiter *w;
	struct why why = { 0 };

	if (!may_ask(a))
		return;
	if (!accept(rs, a, &q->run, &why)) {
		answer_error(a, &why);
		return;
	}
	if (q->wait_ms) {
		w = x_calloc(1, sizeof(*w));
		w->ask = a;
		w->until_us = mono_us() + q->wait_ms * 1000;
		(void)str_copy(w->id, sizeof(w->id), str_of(q->run.id));
		list_push(&rs->waiters, &w->link);
	} else {
		json_begin(&jo, &a->body);
		jw_obj(&jo);
		add_state(&jo, &q->run);
		jw_end(&jo);
		a->status = 202;
		ask_done(a);
	}
	schedule(rs);
}

void runs_cancel(struct ask *a)
{
	struct runs *rs = a->gw->runs;
	struct run_exec *e;
	struct run r;
	struct json_out jo;
	struct why why;
	bool changed = false;

	if (!find(rs, a, &r))
		return;
	if (!run_cancel(rs->store, r.id, wall_us(), &changed, &why)) {
		answer_error(a, &why);
		return;
	}
	e = exec_of(rs, r.id);
	if (changed) {
		r.state = RUN_CANCELLED;
		count(rs, RUN_CANCELLED);
		wake(rs, r.id);
	}
	if (changed && e)
		run_exec_stop(e->worker, r.id, "the job was cancelled");
	json_begin(&jo, &a->body);
	jw_obj(&jo);
	add_state(&jo, &r);
	jw_end(&jo);
	a->status = 200;
	ask_done(a);
}

/* --- once a second --- */

static void cancelled_elsewhere(void *arg, const char *id)
{
	struct run_exec *e = exec_of(arg, id);

	if (e)
		run_exec_stop(e->worker, id, "the job was cancelled");
}

static void pay(struct runs *rs)
{
	list_each_safe(it, &rs->owed) {
		struct run_exec *e = list_entry(it, struct run_exec, link);

		if (!book(rs, e))
			return;
		list_del(&e->link);
		if (!e->again)
			wake(rs, e->run.id);
		run_exec_free(e);
	}
}

static void measure(struct runs *rs)
{
	struct run_counts c;
	struct why why;

	if (!run_count(rs->store, &c, &why))
		return;
	rs->bytes = c.bytes;
	rs->waiting_bytes = c.waiting_bytes;
	series_set(metrics_series(rs->gw->metrics, M_RUNS_HELD, "waiting"), (double)c.waiting);
	series_set(metrics_series(rs->gw->metrics, M_RUNS_HELD, "running"), (double)c.running);
	series_set(metrics_series(rs->gw->metrics, M_RUNS_HELD, "ended"), (double)c.ended);
	series_set(metrics_series(rs->gw->metrics, M_RUNS_BYTES), (double)c.bytes);
}

static void tick(struct loop_timer *t)
{
	struct runs *rs = list_entry(t, struct runs, tick);
	int64_t now = wall_us();
	struct why why = { 0 };

	loop_timer_set(rs->gw->loop, t, TICK_US, tick);
	if (!has_store(rs))
		return;
	pay(rs);
	if (rs->ticks++ % ALIVE_TICKS == 0)
		(void)stored(rs, run_alive(rs->store, now, &why), &why);
	if (!run_expire(rs->store, now, rs->gw->cfg->runs_keep * 1000, &why))       /* that nothing had to go says nothing of the store */
		(void)stored(rs, false, &why);
	if (rs->n_running)
		(void)run_cancelled(rs->store, now - 10 * (int64_t)TICK_US, cancelled_elsewhere, rs, &why);
	measure(rs);
	(void)make_room(rs, 0);
	look_after_waiters(rs, rs->draining);
	forget_rests(rs, mono_us() - 2 * (int64_t)REST_MAX_US);
	schedule(rs);
}

/* --- the end --- */

void runs_drain(struct runs *rs)
{
	rs->going = false;
	rs->draining = true;
	look_after_waiters(rs, true);     /* theirs begin at the next start, if not elsewhere */
}

static void close_one(struct runs *rs, struct run_exec *e)
{
	struct why why;

	if (e->n_pieces && !e->lost && !e->gone)
		e->lost = !run_say(rs->store, e->run.id, buf_as_str(&e->pieces), e->n_pieces, NULL, &why);
	if (!e->ended)                    /* the worker never saw it */
		e->again = true;
	if (!book(rs, e))
		LOG_WARN("the end of a job cannot be written; the next start finds it interrupted", LOG_S("job", e->run.id));
	run_exec_free(e);
}

void runs_close(struct runs *rs)
{
	if (!rs)
		return;
	loop_timer_del(&rs->tick);
	list_each_safe(it, &rs->running)
		close_one(rs, list_entry(it, struct run_exec, link));
	list_each_safe(it, &rs->owed)
		close_one(rs, list_entry(it, struct run_exec, link));
	list_each_safe(it, &rs->waiters)
		free(list_entry(it, struct end_waiter, link));
	forget_rests(rs, INT64_MAX);
	if (rs->opening) {                /* a few seconds at most */
		(void)pthread_join(rs->opener, NULL);
		run_store_close(rs->opened);
	}
	run_store_close(rs->store);
	free(rs);
}

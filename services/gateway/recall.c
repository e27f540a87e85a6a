/* recall.c - see recall.h: the stage, hits, what is kept. Worker threads, but for opening, closing and the sweep. */
#include "services/gateway/recall.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/data/hmac.h"
#include "common/data/log.h"
#include "common/data/secret.h"
#include "common/llm/reshape.h"
#include "services/gateway/account.h"
#include "services/gateway/attempt.h"
#include "services/gateway/recall_entry.h"
#include "services/gateway/recall_memo.h"

/* What recollection.bypass can be; the commonest first. */
enum { BYPASSES = 6 };
static const char *const bypasses[BYPASSES] = { "sampling", "tools", "asked", "digest", "nothing_asked", "not_sent" };
enum { SECRET_BYTES = 32, SECRET_MOST = 4096, TENANTS = 64, HELD_FREE = 64 << 10, HELD_STEP = 256 << 10, ANSWER_MOST = 64 << 20, UNHEARD = 3 };

struct recall {
	struct cache *cache;
	struct flights *flights;
	uint8_t seed[HMAC_BYTES];     /* of the installation; each seat derives its tenants' from it */
	_Atomic uint64_t events[CACHE_EVENTS];
	_Atomic int ready;            /* seats whose store is asked */
	uint64_t told[CACHE_EVENTS], evictions;       /* what the metrics have of it */
	bool far;                     /* there is a Redis behind the memory */
	unsigned unheard;             /* looks in a row at which no seat's Redis answered */
};

struct tenant_key { char name[64]; struct hmac_key *key; };

struct recall_seat {
	struct recall *recall;
	struct cache_seat *seat;
	struct loop *loop;
	struct hmac_key *installation;
	struct tenant_key tenants[TENANTS];
	struct recall_memo *memo;
	struct buf text, source;
	bool ready;                   /* as recall.ready has it */
	struct series *hits, *misses, *shared, *kept, *seconds, *bypassed[BYPASSES];
};

/* --- the secret --- */

static bool read_secret(const char *path, uint8_t ret[HMAC_BYTES], struct why *why)
{
	char text[SECRET_MOST];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	int error = errno;

	if (fd >= 0)
		close(fd);
	if (n >= SECRET_BYTES)
		sha256(str_n(text, (size_t)n), ret);
	secret_wipe(text, sizeof(text));
	if (n < 0)
		err_set(why, ERR_STORE_FAILED, "%s cannot be read: %s", path, strerror(error));
	else if (n < SECRET_BYTES)
		err_set(why, ERR_INVALID, "%s holds %zd bytes; a secret has at least %d", path, n, SECRET_BYTES);
	return n >= SECRET_BYTES;
}

/* This gateway's own, made once. */
static bool make_secret(const char *path, struct why *why)
{
	uint8_t secret[SECRET_BYTES];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool ok;

	if (fd < 0 && errno == EEXIST)
		return true;
	secret_random(secret, sizeof(secret));
	ok = fd >= 0 && write(fd, secret, sizeof(secret)) == SECRET_BYTES && fsync(fd) == 0;
	if (!ok)
		err_set(why, ERR_STORE_FAILED, "%s cannot be written: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	if (fd >= 0 && !ok)
		(void)unlink(path);
	secret_wipe(secret, sizeof(secret));
	return ok;
}

static bool find_secret(struct gateway *g, uint8_t ret[HMAC_BYTES], struct why *why)
{
	char path[600];

	if (g->cfg->master_key_file[0])
		return read_secret(g->cfg->master_key_file, ret, why);
	(void)snprintf(path, sizeof(path), "%s/cache.key", svc_state_dir(g->svc));
	return make_secret(path, why) && read_secret(path, ret, why);
}

/* --- life --- */

static const char *url_of(const char *option)
{
	static const char *const on[] = { "on", "true", "yes", "1" }, *const off[] = { "", "off", "false", "no", "0", "none" };

	for (size_t i = 0; i < sizeof(on) / sizeof(*on); i++)
		if (str_ieq(str_of(option), str_of(on[i])))
			return "memory:";
	for (size_t i = 0; i < sizeof(off) / sizeof(*off); i++)
		if (str_ieq(str_of(option), str_of(off[i])))
			return NULL;
	return option;
}

bool recall_url_check(const char *option, struct why *why)
{
	const char *url = url_of(option);

	return !url || cache_url_check(url, why);
}

bool recall_open(struct gateway *g, struct why *why)
{
	struct recall *rl;
	struct cache_opts o = { .url = url_of(g->cfg->cache), .memory_bytes = (size_t)g->cfg->cache_size, .lookup_us = g->cfg->cache_lookup * 1000 };

	if (!o.url)
		return true;
	rl = x_calloc(1, sizeof(*rl));
	o.events = rl->events;
	if (!find_secret(g, rl->seed, why) || !(rl->cache = cache_open(&o, why))) {
		free(rl);
		return false;
	}
	rl->far = str_starts(str_of(o.url), STR("redis"));
	rl->flights = flights_new();
	g->recall = rl;
	return true;
}

void recall_close(struct gateway *g)
{
	struct recall *rl = g->recall;

	if (!rl)
		return;
	flights_free(rl->flights);
	cache_close(rl->cache);
	secret_wipe(rl->seed, sizeof(rl->seed));
	free(rl);
	g->recall = NULL;
}

struct recall_seat *recall_seat_new(struct gateway *g, struct loop *loop)
{
	struct recall_seat *s;

	if (!g->recall)
		return NULL;
	s = x_calloc(1, sizeof(*s));
	s->recall = g->recall;
	s->loop = loop;
	s->seat = cache_seat_new(g->recall->cache, loop);
	s->memo = recall_memo_new();
	s->installation = hmac_key_new(str_n((const char *)g->recall->seed, HMAC_BYTES));
	s->hits = metrics_series(g->metrics, M_CACHE_HITS, "kept");
	s->shared = metrics_series(g->metrics, M_CACHE_HITS, "shared");
	s->misses = metrics_series(g->metrics, M_CACHE_MISSES);
	s->kept = metrics_series(g->metrics, M_CACHE_STORED);
	s->seconds = metrics_series(g->metrics, M_CACHE_SECONDS);
	for (unsigned i = 0; i < BYPASSES; i++)
		s->bypassed[i] = metrics_series(g->metrics, M_CACHE_BYPASSED, bypasses[i]);
	return s;
}

void recall_seat_free(struct recall_seat *s)
{
	if (!s)
		return;
	cache_seat_free(s->seat);
	hmac_key_free(s->installation);
	for (unsigned i = 0; i < TENANTS; i++)
		hmac_key_free(s->tenants[i].key);
	recall_memo_free(s->memo);
	buf_free(&s->text);
	buf_free(&s->source);
	free(s);
}

/* A rest of a moment is nothing that an operator is told. */
static void tell_need(struct gateway *g, int ready)
{
	struct recall *rl = g->recall;

	rl->unheard = ready ? 0 : rl->unheard + 1;
	if (rl->far && (ready || rl->unheard == UNHEARD))
		svc_want(g->svc, "cache", ready > 0, ready ? "" : "its Redis does not answer; requests go on without it");
}

void recall_sweep(struct gateway *g)
{
	static const char *const kinds[CACHE_EVENTS] = { "late", "broken", "resting", "dropped", "foreign" };
	struct recall *rl = g->recall;
	struct cache_figures f;
	int ready;

	if (!rl)
		return;
	cache_memory_figures(cache_near(rl->cache), &f);
	ready = atomic_load_explicit(&rl->ready, memory_order_relaxed);
	tell_need(g, ready);
	series_set(metrics_series(g->metrics, M_CACHE_READY), (double)ready);
	series_set(metrics_series(g->metrics, M_CACHE_BYTES), (double)f.bytes);
	series_set(metrics_series(g->metrics, M_CACHE_ENTRIES), (double)f.entries);
	series_add(metrics_series(g->metrics, M_CACHE_EVICTIONS), (double)(f.evictions - rl->evictions));
	rl->evictions = f.evictions;
	for (unsigned i = 0; i < CACHE_EVENTS; i++) {
		uint64_t n = atomic_load_explicit(&rl->events[i], memory_order_relaxed);

		series_add(metrics_series(g->metrics, M_CACHE_TROUBLE, kinds[i]), (double)(n - rl->told[i]));
		rl->told[i] = n;
	}
}

void recall_seat_sweep(struct recall_seat *s)
{
	bool ready = s && cache_seat_ready(s->seat);

	if (!s || ready == s->ready)
		return;
	s->ready = ready;
	atomic_fetch_add_explicit(&s->recall->ready, ready ? 1 : -1, memory_order_relaxed);
}

/* --- the key --- */

static struct hmac_key *tenant_key(struct recall_seat *s, struct str tenant)
{
	struct tenant_key *t = &s->tenants[str_hash(tenant, 0) % TENANTS];
	struct str parts[] = { STR("corral cache of tenant "), tenant };
	uint8_t secret[HMAC_BYTES];

	if (t->key && str_eqz(tenant, t->name))
		return t->key;
	hmac_key_free(t->key);
	(void)str_copy(t->name, sizeof(t->name), tenant);
	hmac(s->installation, parts, 2, secret);
	t->key = hmac_key_new(str_n((const char *)secret, sizeof(secret)));
	secret_wipe(secret, sizeof(secret));
	return t->key;
}

/* What it is made of, for the memo; empty when it is longer than that keeps. */
static struct str source_of(const struct recollection *rc, struct buf *to)
{
	buf_clear(to);
	if (rc->plan.length <= RECALL_MEMO_MOST)
		recall_source(rc, to);
	return buf_as_str(to);
}

static bool make_key(struct recollection *rc)
{
	struct req *r = rc->req;
	struct recall_seat *s = r->worker->recall;
	struct why why;
	struct str text, source;

	rc->target = attempt_target(r, rc->replica);
	if (r->tenant.n >= sizeof(s->tenants[0].name) || llm_plan(&rc->plan, &r->in, &rc->target, r->mem, &why) != ERR_OK)
		return false;             /* the attempt will say why */
	source = source_of(rc, &s->source);
	if (recall_memo_find(s->memo, source, rc->key))
		return true;
	buf_clear(&s->text);
	if (!recall_text(rc, &s->text))
		return false;
	text = buf_as_str(&s->text);
	hmac(tenant_key(s, r->tenant), &text, 1, rc->key);
	recall_memo_keep(s->memo, source, rc->key);
	return true;
}

/* --- a hit --- */

/* llama.cpp counts unasked, in another place: a stream that was not asked for its usage has none to show. */
static bool is_counted(const struct recollection *rc)
{
	return !rc->plan.passthrough || rc->target.kind != LLM_BACKEND_LLAMACPP || rc->req->in.want_usage || json_get(&rc->req->in.doc, 0, "n");
}

static enum entry_form form_of(const struct recollection *rc)
{
	return !rc->req->in.stream ? ENTRY_WHOLE : rc->target.kind == LLM_BACKEND_OLLAMA ? ENTRY_LINES : ENTRY_EVENTS;
}

static bool as_asked(const struct recollection *rc, const struct entry_head *h)
{
	return h->form == form_of(rc) && (h->form != ENTRY_EVENTS || h->counted == is_counted(rc));
}

/* Of native requests the backend sees a chat, whatever their dialect calls them. */
static enum llm_op op_of(const struct recollection *rc)
{
	const char *path = rc->plan.path;

	if (llm_embeds(rc->req->in.op))
		return rc->req->in.op;
	return strcmp(path, "/v1/chat/completions") == 0 || strcmp(path, "/api/chat") == 0 ? LLM_CHAT : LLM_COMPLETE;
}

static void turn(struct buf *a, struct buf *b)
{
	struct buf was = *a;

	*a = *b;
	*b = was;
	buf_clear(b);
}

/* It was kept as a stream and is asked for whole, or the other way round. */
static bool reshaped(const struct recollection *rc, const struct entry_head *h, struct buf *body)
{
	bool from_stream = h->form != ENTRY_WHOLE, to_stream = rc->req->in.stream;
	struct buf other = { 0 };
	bool ok = as_asked(rc, h);

	if (!ok && strcmp(rc->plan.path, "/infill") != 0 && llm_reshape(rc->target.kind, op_of(rc), buf_as_str(body), from_stream, &other)) {
		turn(body, &other);
		ok = !from_stream || !to_stream;
		if (!ok && (ok = llm_reshape(rc->target.kind, op_of(rc), buf_as_str(body), false, &other)))     /* a stream that is counted otherwise: once more */
			turn(body, &other);
	}
	buf_free(&other);
	return ok;
}

static int64_t costs_nothing(void *arg, const struct llm_usage *used) { return 0; }

/* The bytes go the way of an answer that comes now, into r->out. */
static bool replay(struct req *r, struct recollection *rc, struct str body)
{
	static const char *const types[] = { "application/json", "text/event-stream", "application/x-ndjson" };
	struct { struct http_head head; } h = { .head = { .status = 200, .n_headers = 1 } };
	struct llm_extra extra;
	struct why why = { 0 };

	h.head.headers[0] = (struct http_header){ STR("content-type"), str_of(types[form_of(rc)]) };
	extra = attempt_extra(r);
	extra.cached = true;
	extra.backend = STR("");
	if (llm_relay_head(r->try.relay, &h.head, &why) != LLM_FAILED && llm_relay_data(r->try.relay, body, &r->out, &why) != LLM_FAILED &&
	    llm_relay_end(r->try.relay, &extra, &r->out, &why) == LLM_DONE)
		return true;
	LOG_DEBUG("a kept answer cannot be given", LOG_S("request_id", r->id_text), LOG_S("error", why.text));
	buf_clear(&r->out);
	return false;
}

/* These very bytes went to a client before and were read then; the note says what was in them. */
static bool give_known(struct req *r, struct cached *c)
{
	const struct llm_known *known = atomic_load_explicit(&c->note, memory_order_acquire);
	struct entry_head head;

	if (!known || !llm_relay_again(r->try.relay, known))
		return false;
	return entry_unpack(&head, cached_bytes(c), ANSWER_MOST, &r->out);
}

static void note_known(const struct req *r, const struct recollection *rc, const struct entry_head *h, struct cached *c)
{
	struct llm_known known, *kept;

	if (!as_asked(rc, h) || atomic_load_explicit(&c->note, memory_order_relaxed) || !llm_relay_known(r->try.relay, &known))
		return;
	kept = x_malloc(sizeof(*kept));
	*kept = known;
	cached_note(c, kept);
}

/* Into r->out. What comes from memory was read once; from a store behind it, each time, for others can write there. */
static bool fetch(struct req *r, struct recollection *rc, struct cached *c)
{
	struct entry_head head;
	struct buf body = { 0 };
	bool ok;

	r->try.replica = rc->replica;
	r->try.plan = rc->plan;
	r->try.relay = llm_relay_new(r->mem, &r->in, &r->try.plan, &rc->target);
	llm_relay_price(r->try.relay, costs_nothing, NULL);
	r->try.sent = true;               /* what it counts was counted then */
	buf_clear(&r->out);
	if (give_known(r, c))
		return true;
	ok = entry_unpack(&head, cached_bytes(c), ANSWER_MOST, &body) && reshaped(rc, &head, &body) && replay(r, rc, buf_as_str(&body));
	if (ok)
		note_known(r, rc, &head, c);
	buf_free(&body);
	if (!ok) {
		r->try.relay = NULL;
		r->try.sent = false;
	}
	return ok;
}

static enum step send(struct req *r)
{
	struct str body = buf_as_str(&r->out);
	const char *type = llm_relay_content_type(r->try.relay);

	if (!r->in.stream)
		return req_reply(r, 200, type, body);
	if (!r->head_sent)
		http_reply_start(r->x, 200, req_headers(r, type), -1);
	r->head_sent = r->answer_begun = true;
	r->status = 200;
	r->sent_bytes += body.n;
	http_reply_data(r->x, body);
	http_reply_end(r->x);
	r->x = NULL;
	return STEP_DONE;
}

static struct str with_age(struct req *r, int64_t age_s)
{
	char digits[20];
	const struct str parts[] = { r->extra_headers, STR("Age: "), str_from_u64((uint64_t)age_s, digits), STR("\r\n") };

	return arena_join(r->mem, parts, sizeof(parts) / sizeof(*parts));
}

/* False: it cannot be used, and the request goes on as if there was none. Takes the reference. */
static bool give(struct req *r, struct cached *c, struct series *counter, enum step *ret)
{
	struct recollection *rc = r->recall;
	int64_t age_us = r->start_wall_us + (req_now(r) - r->start_us) - c->stored_us;
	bool ok = (!rc->max_age_us || age_us <= rc->max_age_us) && fetch(r, rc, c);

	cached_unref(c);
	if (!ok)
		return false;
	rc->hit = true;
	rc->age_us = age_us < 0 ? 0 : age_us;
	r->status = 200;
	r->extra_headers = with_age(r, rc->age_us / 1000000);
	account_final(r, "ok", ERR_OK);
	series_inc(counter);
	*ret = send(r);
	return true;
}

/* --- looking --- */

static void note_seconds(struct recollection *rc)
{
	series_observe(rc->req->worker->recall->seconds, (double)(mono_us() - rc->asked_us) / 1e6);
}

static enum step miss(struct recollection *rc)
{
	series_inc(rc->req->worker->recall->misses);
	return STEP_NEXT;
}

static void on_news(void *arg, enum flight_news news, struct cached *c)
{
	struct recollection *rc = arg;
	struct req *r = rc->req;
	enum step step = STEP_NEXT;

	rc->follows = false;
	if (news != FLIGHT_LEAD)
		rc->place = NULL;
	if (news != FLIGHT_ANSWER || !give(r, c, r->worker->recall->shared, &step))
		step = miss(rc);
	req_resume(r, step);
}

/* Between the look-up and now another may have brought it. */
static bool landed_meanwhile(struct recollection *rc, enum step *ret)
{
	struct recall *rl = rc->req->worker->recall->recall;
	struct cached *c = cache_memory_get(cache_near(rl->cache), rc->key, wall_us());
	struct flight_place *place = rc->place;

	if (!c)
		return false;
	rc->place = NULL;
	flight_landed(place, c);
	return give(rc->req, c, rc->req->worker->recall->hits, ret);
}

static enum step take_off(struct recollection *rc)
{
	struct recall_seat *s = rc->req->worker->recall;
	enum step step;
	bool leads;

	rc->place = flight_join(s->recall->flights, rc->key, s->loop, on_news, rc, &leads);
	if (rc->place && !leads) {
		rc->follows = true;
		return STEP_WAIT;
	}
	return leads && rc->place && landed_meanwhile(rc, &step) ? step : miss(rc);
}

static enum step found(struct recollection *rc, struct cached *c)
{
	enum step step;

	if (c && give(rc->req, c, rc->req->worker->recall->hits, &step))
		return step;
	return c ? miss(rc) : take_off(rc);
}

static void on_found(struct cache_ask *a, struct cached *c)
{
	struct recollection *rc = list_entry(a, struct recollection, ask);

	note_seconds(rc);
	req_resume(rc->req, found(rc, c));
}

static enum step look_up(struct recollection *rc)
{
	struct cached *c = NULL;

	rc->ask.done = on_found;
	if (cache_get(rc->req->worker->recall->seat, rc->key, &rc->ask, &c) == CACHE_ASKED) {
		rc->asked_us = mono_us();
		return STEP_WAIT;
	}
	return found(rc, c);
}

static void count_bypass(const struct recall_seat *s, const char *why)
{
	unsigned i = 0;

	while (i < BYPASSES - 1 && strcmp(bypasses[i], why) != 0)
		i++;
	series_inc(s->bypassed[i]);
}

enum step recall_look(struct req *r)
{
	struct recollection *rc = r->recall;

	if (rc || !r->worker->recall)             /* another try of the same request; or the cache is off */
		return STEP_NEXT;
	rc = r->recall = arena_new_of(r->mem, struct recollection);
	rc->req = r;
	rc->replica = r->pick.ranked[0].replica;
	recall_may(rc, r->worker->gw->cfg);
	if (rc->writes && !make_key(rc)) {
		rc->writes = rc->reads = false;
		rc->bypass = "not_sent";
	}
	if (rc->reads)
		return look_up(rc);
	count_bypass(r->worker->recall, rc->bypass);
	return STEP_NEXT;
}

const char *recall_word(const struct req *r)
{
	return !r->recall || r->recall->bypass ? "bypass" : r->recall->hit ? "hit" : "miss";
}

/* --- keeping --- */

void recall_begin(struct req *r)
{
	struct recollection *rc = r->recall;

	if (!rc)
		return;
	buf_clear(&rc->heard);
	rc->records = rc->writes && recall_same_model(r->world, r->try.replica, rc->replica);
}

void recall_spoil(struct req *r)
{
	struct recollection *rc = r->recall;

	if (!rc)
		return;
	rc->records = false;
	buf_free(&rc->heard);
}

/* What is written down counts with the bodies and answers that are held. */
static bool has_room(struct req *r, struct buf *b, size_t more)
{
	size_t was = b->n / HELD_STEP, is = (b->n + more) / HELD_STEP;

	if (b->n + more > (size_t)r->worker->gw->cfg->cache_entry_max)
		return false;
	if (b->n + more <= HELD_FREE || (is == was && b->n > HELD_FREE))
		return true;
	if (!budget_take(&r->worker->gw->held, HELD_STEP))
		return false;
	r->held_bytes += HELD_STEP;
	return true;
}

void recall_record(struct req *r, struct str data)
{
	struct recollection *rc = r->recall;

	if (!rc || !rc->records)
		return;
	if (has_room(r, &rc->heard, data.n))
		buf_str(&rc->heard, data);
	else
		recall_spoil(r);
}

static bool is_proper(const struct req *r)
{
	const char *finish = llm_relay_finish(r->try.relay);

	if (llm_embeds(r->in.op) || strcmp(finish, "stop") == 0)
		return true;
	if (strcmp(finish, "length") == 0)
		return r->in.max_tokens > 0;      /* so long was asked for; else the context was full */
	return r->recall->opted_in && (strcmp(finish, "tool_calls") == 0 || strcmp(finish, "function_call") == 0);
}

static struct cached *keep(struct req *r, struct recollection *rc)
{
	struct entry_head head = { .form = form_of(rc), .counted = is_counted(rc) };
	int64_t now = wall_us();
	struct buf packed = { 0 };
	struct cached *c;

	entry_pack(&head, buf_as_str(&rc->heard), &packed);
	c = cached_new(rc->key, now, now + rc->ttl_us, buf_as_str(&packed));
	buf_free(&packed);
	cache_put(r->worker->recall->seat, c);
	series_inc(r->worker->recall->kept);
	return c;
}

void recall_keep(struct req *r)
{
	struct recollection *rc = r->recall;
	struct cached *c = NULL;

	if (!rc)
		return;
	if (rc->records && is_proper(r))
		c = keep(r, rc);
	if (rc->place)
		flight_landed(rc->place, c);
	rc->place = NULL;
	cached_unref(c);
	recall_spoil(r);
}

void recall_end(struct req *r)
{
	struct recollection *rc = r->recall;

	if (!rc)
		return;
	cache_forget(&rc->ask);
	flight_leave(rc->place);
	rc->place = NULL;
	rc->follows = false;
	recall_spoil(r);
}

void recall_tick(struct req *r, int64_t now_us)
{
	if (!r->recall || !r->recall->follows || now_us < r->deadline_us)
		return;
	req_fail(r, ERR_DEADLINE, "the request was not answered within %lld s", (long long)(r->worker->gw->cfg->request_timeout / 1000));
	req_resume(r, STEP_FAIL);
}

static enum step enter(struct req *r) { return recall_look(r); }

const struct stage stage_cache = { "cache", enter };

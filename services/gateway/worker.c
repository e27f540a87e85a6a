/* worker.c - see worker.h. */
#include "services/gateway/worker.h"

#include <ctype.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/io/tls.h"
#include "common/policy/price_list.h"
#include "services/gateway/account.h"
#include "services/gateway/attempt.h"
#include "services/gateway/budget.h"
#include "services/gateway/cors.h"
#include "services/gateway/limits.h"
#include "services/gateway/certificate.h"
#include "services/gateway/recall.h"
#include "services/gateway/shadow.h"
#include "services/gateway/stages/stages.h"
#include "services/gateway/routes.h"
#include "services/gateway/upload.h"

enum {
	SWEEP_US = 100 * 1000,
	IDLE_CALLS = 1024             /* connections kept for the next request, of one backend; never more than were in use together a few seconds ago */
};

/* --- the door --- */

/* DNS rebinding (CVE-2024-28224 is the well-known case): on loopback a page in a browser may reach us under a foreign name. */
static bool host_allowed(const struct gateway_config *cfg, struct str host)
{
	static const char *const suffixes[] = { ".localhost", ".local", ".internal" };
	size_t digits = 0;

	if (host.n && host.p[0] == '[')
		return true;              /* a literal address cannot be rebound */
	for (size_t i = 0; i < host.n; i++)
		if (host.p[i] == ':')
			host.n = i;
	while (digits < host.n && (isdigit((unsigned char)host.p[digits]) || host.p[digits] == '.'))
		digits++;
	if (digits == host.n || str_ieq(host, STR("localhost")))
		return true;
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++)
		if (host.n > strlen(suffixes[i]) && str_ieq(str_from(host, host.n - strlen(suffixes[i])), str_of(suffixes[i])))
			return true;
	for (size_t i = 0; i < cfg->allowed_hosts.n; i++)
		if (str_ieq(host, str_of(cfg->allowed_hosts.items[i])))
			return true;
	return false;
}

static void plain_error(struct worker *w, struct http_xchg *x, const struct why *why)
{
	struct arena *mem = arena_new(1024);
	struct buf body = { 0 };
	char id[37];
	const char *type, *again = err_status(why->code) == 503 ? "Retry-After: 1\r\n" : "";
	struct str cors = cors_lines(&w->gw->cfg->cors_origins, &x->head, mem);

	uuid_format(uuid_v7(wall_us()), id);
	type = llm_error_body(route_dialect(x->path), why, str_of(id), wall_us(), &body);
	http_reply(x, err_status(why->code), arena_fmt(mem, "X-Request-Id: %s\r\nContent-Type: %s\r\nCache-Control: no-store\r\n%s" STR_FMT, id, type, again,
						       STR_ARG(cors)), buf_as_str(&body));
	buf_free(&body);
	arena_free(mem);
}

static size_t on_head(struct http_xchg *x, void *arg)
{
	struct worker *w = arg;
	struct why why;
	size_t allowed;

	if (x->head.host.n && !host_allowed(w->gw->cfg, x->head.host)) {
		err_field(&why, ERR_FORBIDDEN, "Host", "host '" STR_FMT "' is not allowed here; add it to CORRAL_ALLOWED_HOSTS if it is this gateway's name",
			  STR_ARG(x->head.host));
		plain_error(w, x, &why);
		return 0;
	}
	admission_check(w, x, &w->admission);
	if (w->admission.refused != REFUSED_NOT) {
		req_start(w, x);          /* answers at once, with log line and all */
	} else if (x->head.framing != HTTP_NO_BODY && budget_is_full(&w->gw->held)) {
		err_set(&why, ERR_UNAVAILABLE, "bodies and answers fill the memory that is set aside for them (CORRAL_HOLD_MAX); try again");
		plain_error(w, x, &why);
	} else if (upload_begin(w->gw, x, &allowed)) {
		return allowed;
	}
	return (size_t)w->gw->cfg->max_body;
}

static void on_request(struct http_xchg *x, void *arg) { req_start(arg, x); }
static void on_refused(struct http_xchg *x, const struct why *why, void *arg)
{
	struct upload *u = upload_take(x);
	struct why told = *why;
	size_t n = strlen(told.text);

	if (why->code == ERR_TOO_LARGE)
		snprintf(told.text + n, sizeof(told.text) - n, "; %s allows more", u ? "CORRAL_MAX_BLOB" : "CORRAL_MAX_BODY");
	upload_free(u);
	x->on_gone = NULL;
	plain_error(arg, x, &told);
}

/* --- calls to backends --- */

struct http_pool *worker_pool(struct worker *w, const struct http_url *url)
{
	struct backend_pool *p;

	for (p = w->pools; p; p = p->next)
		if (p->url.port == url->port && p->url.tls == url->tls && strcmp(p->url.host, url->host) == 0 && strcmp(p->url.base, url->base) == 0)
			return p->pool;
	p = x_calloc(1, sizeof(*p));
	p->url = *url;
	p->pool = http_pool_new(w->loop, url, &(struct http_pool_opts){ .max_idle = IDLE_CALLS, .trust = w->gw->backend_trust });
	p->next = w->pools;
	w->pools = p;
	return p->pool;
}

/* --- time --- */

static void queue_tick(struct req *r, int64_t now)
{
	if (!r->waiting || now < r->queue_deadline_us)
		return;
	req_resume(r, queue_overdue(r, now));
}

/* Once its answer flows nothing is waited for but the moment at which the ledger is told of it. */
static int64_t next_look(const struct req *r)
{
	if (!r->answer_begun)
		return 0;
	return r->try.start_position < 0 || r->try.announced ? INT64_MAX : r->try.start_us + ANNOUNCE_US;
}

void worker_sweep(struct worker *w, int64_t now)
{
	list_each_safe(it, &w->requests) {
		struct req *r = list_entry(it, struct req, node);

		if (now < r->look_us)
			continue;
		account_announce(r, now);
		req_heartbeat(r, now);
		r->look_us = next_look(r);
		if (r->waiting)               /* either may be its end */
			queue_tick(r, now);
		else
			recall_tick(r, now);
	}
	shadows_sweep(w);
	limits_news(w);
	recall_seat_sweep(w->recall);
	budget_news(w);
	(void)account_flush(w);
	if (w->draining && w->server_idle && w->n_requests == 0) {
		w->draining = false;
		gateway_worker_idle(w->gw);
	}
}

static void sweep(struct loop_timer *t)
{
	struct worker *w = (struct worker *)(void *)((char *)t - offsetof(struct worker, sweep));

	loop_timer_set(w->loop, t, SWEEP_US, sweep);
	worker_sweep(w, loop_now_us(w->loop));
}

/* --- life --- */

static struct spool *open_spool(struct worker *w, const char *kind, char *dir, size_t cap, int64_t sync_ms, struct why *why)
{
	const struct gateway_config *cfg = w->gw->cfg;
	struct spool_opts o = { .sync_ms = sync_ms, .segment_bytes = (uint32_t)cfg->spool_segment, .max_bytes = (uint64_t)cfg->spool_max };

	snprintf(dir, cap, "%s/spool", svc_state_dir(w->gw->svc));
	(void)mkdir(dir, 0700);                   /* spool_open() says so when it is not there */
	snprintf(dir, cap, "%s/spool/%s-%u", svc_state_dir(w->gw->svc), kind, w->gw->spool_base + w->index);
	return spool_open(dir, &o, why);
}

/* With port 0 the first worker's port is everybody's. */
static void note_port(char *address, size_t cap, uint16_t port)
{
	char *colon = strrchr(address, ':');

	if (!str_starts(str_of(address), STR("unix:")))
		snprintf(colon + 1, cap - (size_t)(colon + 1 - address), "%u", port);
}

const char *const door_names[DOORS] = { "listen", "public_tls_listen" };

bool worker_add_door(struct worker *w, unsigned door, int fd)
{
	struct gateway *g = w->gw;
	const struct http_listen l = { .address = g->addresses[door], .door = (uint8_t)door, .given = true, .fd = fd, .or_none = true,
		.tls = door == DOOR_TLS ? certificate_identity(g->certificate) : NULL };

	return http_server_listen(w->server, &l, NULL);
}

static bool open_doors(struct worker *w, struct why *why)
{
	struct gateway *g = w->gw;
	struct http_handler handler = { on_head, on_request, on_refused, w };
	struct http_server_opts opts = { .max_body = (size_t)g->cfg->max_body, .reuseport = true, .first = w->index == 0,
		.max_conns = (uint32_t)g->cfg->max_connections, .held = &g->held, .paused = svc_is_heir(g->svc) };

	w->server = http_server_new(w->loop, NULL, &handler, &opts, why);
	for (unsigned d = 0, n = 0; d < DOORS; d++) {
		struct http_listen l = { .address = g->addresses[d], .door = (uint8_t)d, .tls = d == DOOR_TLS ? certificate_identity(g->certificate) : NULL };

		if (!l.address[0])
			continue;
		l.fd = svc_inherit(g->svc, door_names[d]);
		l.given = l.fd >= 0;
		if (!http_server_listen(w->server, &l, why))
			return false;
		if (w->index == 0)
			note_port(g->addresses[d], sizeof(g->addresses[d]), http_server_port_at(w->server, n));
		n++;
	}
	return true;
}

struct worker *worker_new(struct gateway *g, unsigned index, struct why *why)
{
	struct worker *w = x_calloc(1, sizeof(*w));
	int closed;

	w->gw = g;
	w->index = index;
	list_init(&w->open);
	list_init(&w->owed);
	list_init(&w->requests);
	list_init(&w->limit_waiters);
	list_init(&w->budget_waiters);
	list_init(&w->runs);
	list_init(&w->shadows);
	atomic_store(&w->oldest_open, UINT64_MAX);
	w->loop = loop_new();
	w->m_gone = metrics_series(g->metrics, M_CLIENT_GONE);
	w->m_queue_seconds = metrics_series(g->metrics, M_QUEUE_SECONDS);
	w->usage = open_spool(w, "usage", w->usage_dir, sizeof(w->usage_dir), 20, why);
	w->decisions = w->usage ? open_spool(w, "decisions", w->decisions_dir, sizeof(w->decisions_dir), 1000, why) : NULL;
	w->recall = recall_seat_new(g, w->loop);
	w->run = rand_u64() | 1;
	closed = w->decisions ? account_recover(w->usage, w->usage_dir, why) : -1;
	if (closed > 0)
		LOG_WARN("attempts were under way when the last run ended; the ledger has them as unknown", LOG_I("attempts", closed));
	if (closed < 0 || !open_doors(w, why)) {
		worker_free(w);
		return NULL;
	}
	return w;
}

static void *thread_main(void *arg)
{
	struct worker *w = arg;

	log_thread_service("gateway");
	loop_timer_set(w->loop, &w->sweep, SWEEP_US, sweep);
	loop_run(w->loop);
	return NULL;
}

bool worker_run(struct worker *w, struct why *why)
{
	if (pthread_create(&w->thread, NULL, thread_main, w) != 0) {
		err_set(why, ERR_INTERNAL, "cannot start worker thread %u", w->index);
		return false;
	}
	w->running = true;
	return true;
}

struct handover { struct worker *worker; struct world *world; };

static void take_world(void *arg)
{
	struct handover *h = arg;

	world_unref(h->worker->world);
	h->worker->world = h->world;
	free(h);
}

void worker_set_world(struct worker *w, struct world *world)
{
	struct handover *h = x_malloc(sizeof(*h));

	*h = (struct handover){ w, world };
	if (w->running)
		loop_post(w->loop, take_world, h);
	else
		take_world(h);
}

struct tls_handover { struct worker *worker; struct tls_identity *identity; };

static void take_tls(void *arg)
{
	struct tls_handover *h = arg;

	http_server_set_tls(h->worker->server, h->identity);
	tls_identity_unref(h->identity);
	free(h);
}

void worker_set_tls(struct worker *w, struct tls_identity *identity)
{
	struct tls_handover *h = x_malloc(sizeof(*h));

	*h = (struct tls_handover){ w, tls_identity_ref(identity) };
	if (w->running)
		loop_post(w->loop, take_tls, h);
	else
		take_tls(h);
}

struct ring_handover { struct worker *worker; struct keyring *ring; };

static void take_ring(void *arg)
{
	struct ring_handover *h = arg;

	keyring_unref(h->worker->ring);
	h->worker->ring = h->ring;
	h->worker->admission.x = NULL;    /* it was let in by another ring */
	free(h);
}

void worker_set_ring(struct worker *w, struct keyring *ring)
{
	struct ring_handover *h = x_malloc(sizeof(*h));

	*h = (struct ring_handover){ w, ring };
	if (w->running)
		loop_post(w->loop, take_ring, h);
	else
		take_ring(h);
}

struct price_handover { struct worker *worker; struct price_list *prices; };

static void take_prices(void *arg)
{
	struct price_handover *h = arg;

	price_list_free(h->worker->prices);
	h->worker->prices = h->prices;
	free(h);
}

void worker_set_prices(struct worker *w, struct price_list *prices)
{
	struct price_handover *h = x_malloc(sizeof(*h));

	*h = (struct price_handover){ w, prices };
	if (w->running)
		loop_post(w->loop, take_prices, h);
	else
		take_prices(h);
}

static void limits_here(void *arg) { limits_news(arg); }

void worker_limits_news(struct worker *w)
{
	if (atomic_load(&w->n_limit_waiters))
		loop_post(w->loop, limits_here, w);
}

static void budgets_here(void *arg) { budget_news(arg); }

void worker_budget_news(struct worker *w)
{
	if (atomic_load(&w->n_budget_waiters))
		loop_post(w->loop, budgets_here, w);
}

void worker_offer_doors(struct worker *w)
{
	int fd;

	for (unsigned i = 0; (fd = http_server_fd(w->server, i)) >= 0; i++)
		svc_offer(w->gw->svc, door_names[http_server_door_at(w->server, i)], fd);
}

static void accept_clients(void *arg) { http_server_accept(((struct worker *)arg)->server); }
void worker_open(struct worker *w) { loop_post(w->loop, accept_clients, w); }

static void server_idle(void *arg) { ((struct worker *)arg)->server_idle = true; }

/* Nothing of them was sent, and the slot that they wait for may be long in coming: the next start does them. */
static void give_waiting_jobs_back(struct worker *w)
{
	list_each_safe(it, &w->requests) {
		struct req *r = list_entry(it, struct req, node);

		if (r->run && r->waiting) {
			req_fail(r, ERR_UNAVAILABLE, "the gateway is shutting down");
			req_resume(r, STEP_FAIL);
		}
	}
}

static void start_drain(void *arg)
{
	struct worker *w = arg;

	w->draining = true;
	give_waiting_jobs_back(w);
	shadows_end(w);
	if (svc_handed_over(w->gw->svc))
		http_server_hand_over(w->server);
	http_server_drain(w->server, server_idle, w);
}

void worker_drain(struct worker *w) { loop_post(w->loop, start_drain, w); }

static void end_requests(void *arg)
{
	struct worker *w = arg;

	shadows_end(w);
	while (!list_empty(&w->requests)) {
		struct req *r = list_entry(w->requests.next, struct req, node);

		req_fail(r, ERR_UNAVAILABLE, "the gateway is shutting down");
		req_resume(r, STEP_FAIL);
	}
}

/* The drain's time is over: what still runs gets its dialect's error and its FINAL. */
void worker_hurry(struct worker *w) { loop_post(w->loop, end_requests, w); }

static void settle(void *arg) { gateway_worker_settled(((struct worker *)arg)->gw); }

void worker_settle(struct worker *w) { loop_post(w->loop, settle, w); }

static void stop_loop(void *arg) { loop_stop(((struct worker *)arg)->loop); }

void worker_stop(struct worker *w)
{
	if (w->running) {
		loop_post(w->loop, stop_loop, w);
		pthread_join(w->thread, NULL);
		w->running = false;
	}
	end_requests(w);
	if (w->usage)
		account_forget(w);
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	worker_stop(w);
	http_server_free(w->server);
	recall_seat_free(w->recall);
	while (w->pools) {
		struct backend_pool *p = w->pools;

		w->pools = p->next;
		http_pool_free(p->pool);
		free(p);
	}
	while (w->n_spare)
		arena_free(w->spare[--w->n_spare]);
	while (w->n_spare_req) {
		buf_free(&w->spare_req[--w->n_spare_req]->out);
		free(w->spare_req[w->n_spare_req]);
	}
	buf_free(&w->out);
	world_unref(w->world);
	keyring_unref(w->ring);
	price_list_free(w->prices);
	spool_close(w->usage);
	spool_close(w->decisions);
	loop_free(w->loop);
	free(w);
}

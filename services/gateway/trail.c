/* trail.c - see trail.h. */
#include "services/gateway/trail.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "common/policy/rate_limit.h"
#include "common/store/spool.h"
#include "services/gateway/routes.h"
#include "services/gateway/worker.h"

enum { LONGEST_OBJECT = 512, SEGMENT_BYTES = 1 << 20, MOST_BYTES = 256 << 20 };
static const int64_t minute_us = 60 * 1000000;

/* What a request carries from its begin to its end. */
struct trail_note {
	char action[64], address[64];
	struct str object;
	const char *method;
	struct str path;
	bool at_door;                 /* turned away before anything else */
};

struct trail {
	struct gateway *gw;
	pthread_mutex_t lock;         /* of what follows */
	struct spool *spool;          /* one for all workers: there is little */
	struct rate_window refused;
	char dir[1200];
};

/* --- life --- */

struct trail *trail_new(struct gateway *g, struct why *why)
{
	static const struct spool_opts opts = { .segment_bytes = SEGMENT_BYTES, .max_bytes = MOST_BYTES };
	struct trail *t = x_calloc(1, sizeof(*t));

	t->gw = g;
	pthread_mutex_init(&t->lock, NULL);
	snprintf(t->dir, sizeof(t->dir), "%s/spool", svc_state_dir(g->svc));
	(void)mkdir(t->dir, 0700);        /* spool_open() says so when it is not there */
	snprintf(t->dir, sizeof(t->dir), "%s/spool/trail-%u", svc_state_dir(g->svc), g->spool_base);
	t->spool = spool_open(t->dir, &opts, why);
	if (t->spool)
		return t;
	trail_free(t);
	return NULL;
}

void trail_free(struct trail *t)
{
	if (!t)
		return;
	spool_close(t->spool);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

struct spool *trail_spool(struct trail *t, const char **ret_dir)
{
	*ret_dir = t->dir;
	return t->spool;
}

/* --- the worker's side --- */

/* What changes something here, and what shows who has which key. */
static bool is_administration(const char *action)
{
	struct str a = str_of(action);

	if (str_starts(a, STR("keys.")) || str_starts(a, STR("tenants.")) || str_starts(a, STR("audit.")))
		return true;
	return !action_reads(a) && !str_eqz(a, "inference") && !str_eqz(a, "feedback");
}

static bool is_accesses_own(const char *action)
{
	struct str a = str_of(action);

	return str_starts(a, STR("keys.")) || str_starts(a, STR("tenants.")) || str_starts(a, STR("audit."));
}

static struct str without_port(const char *peer)
{
	const char *colon = strrchr(peer, ':');

	return colon ? str_n(peer, (size_t)(colon - peer)) : str_of(peer);
}

void trail_begin(struct req *r, const struct admission *a)
{
	bool at_door = a->refused != REFUSED_NOT;
	struct str param = a->param;
	struct why unused = { 0 };
	const struct route *route = a->route;
	struct trail_note *n;

	if (at_door && !route)            /* it was not even looked up */
		route = route_find(&r->x->head, r->x->path, &param, &unused);
	if (str_eqz(r->x->head.method, "HEAD") && !at_door)
		return;
	if (!route || unused.code || a->no_route.code || !is_administration(route->action) || (is_accesses_own(route->action) && !at_door))
		return;
	n = r->trail = arena_new_of(r->mem, struct trail_note);
	str_copy(n->action, sizeof(n->action), str_of(route->action));
	str_copy(n->address, sizeof(n->address), without_port(r->x->peer));
	n->object = arena_str(r->mem, param);
	n->method = route->method;
	n->path = str_of(route->path);
	n->at_door = at_door;
}

void trail_act(struct req *r, const char *verb, struct str object)
{
	struct trail_note *n = r->trail;
	char *dot = n ? strchr(n->action, '.') : NULL;

	if (!dot)
		return;
	str_copy(dot + 1, sizeof(n->action) - (size_t)(dot + 1 - n->action), str_of(verb));
	n->object = arena_str(r->mem, object);
}

/* Text of clients: bounded, and UTF-8. */
static struct str fit(struct str s)
{
	if (s.n > LONGEST_OBJECT)
		for (s.n = LONGEST_OBJECT; s.n && ((unsigned char)s.p[s.n] & 0xc0) == 0x80;)
			s.n--;
	return str_utf8_valid(s) && !memchr(s.p ? s.p : "", '\0', s.n) ? s : STR("(not UTF-8)");
}

static const char *outcome(const struct req *r, const struct trail_note *n)
{
	if (r->err.code == ERR_CLIENT_GONE)
		return "unknown";         /* it may have been done all the same */
	return n->at_door || r->status == 401 || r->status == 403 ? "refused" : r->status < 400 ? "ok" : "failed";
}

static struct str detail(struct req *r, const struct trail_note *n)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str text;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "method", n->method);
	jw_kv_str(&jo, "path", n->path);
	jw_kv_i64(&jo, "status", r->status);
	if (r->err.code)
		jw_kv_strz(&jo, "error_code", err_name(r->err.code));
	jw_end(&jo);
	text = arena_str(r->mem, buf_as_str(&b));
	buf_free(&b);
	return text;
}

static const char *actor(const struct req *r, const struct trail_note *n)
{
	if (r->key_id.n)
		return arena_str(r->mem, r->key_id).p;
	if (n->at_door && r->err.code == ERR_UNAUTHENTICATED)
		return "unknown";
	return r->who.role == CORRAL__ROLE__ROLE_OWNER ? "loopback" : "anonymous";
}

static void lose(struct trail *t, const char *why) { series_inc(metrics_series(t->gw->metrics, M_AUDIT_LOST, why)); }

/* Under the lock. */
static bool append(struct trail *t, const Corral__AccessFact *f, struct why *why)
{
	size_t n = corral__access_fact__get_packed_size(f);
	uint8_t *at = spool_reserve(t->spool, (uint32_t)n, why);

	return at && spool_commit(t->spool, REC_ACCESS, (uint32_t)corral__access_fact__pack(f, at)) >= 0;
}

/* Somebody who tries keys a thousand times a second must not fill the log: from there on they are counted. Under the lock. */
static bool is_flood(struct trail *t, const Corral__AuditEntry *e)
{
	int64_t now = mono_us();

	if (strcmp(e->outcome, "refused") != 0)
		return false;
	if (rate_used(&t->refused, now) >= TRAIL_REFUSED_PER_MINUTE)
		return true;
	rate_add(&t->refused, now, 1);
	return false;
}

static void put(struct trail *t, Corral__AuditEntry *e)
{
	Corral__AccessFact f = CORRAL__ACCESS_FACT__INIT;
	struct why why;
	bool flood, ok;

	f.entry = e;
	pthread_mutex_lock(&t->lock);
	flood = is_flood(t, e);
	ok = !flood && append(t, &f, &why);
	pthread_mutex_unlock(&t->lock);
	if (ok)
		return;
	lose(t, flood ? "flood" : "full");
	if (!flood)
		LOG_ERROR("an audit entry is lost: it cannot be written to the spool", LOG_S("action", e->action), LOG_S("object", e->object),
			  LOG_S("actor", e->actor), LOG_S("outcome", e->outcome), LOG_S("request_id", e->request_id), LOG_S("error", why.text));
}

static char *z(struct req *r, struct str s) { return arena_dup(r->mem, s.n ? s.p : "", s.n); }

void trail_end(struct req *r)
{
	Corral__AuditEntry e = CORRAL__AUDIT_ENTRY__INIT;
	struct trail_note *n = r->trail;

	r->trail = NULL;
	if (!n || !r->worker->gw->trail)
		return;
	e.at_us = r->start_wall_us;
	e.actor = (char *)actor(r, n);
	e.role = (char *)(r->who.role ? role_name(r->who.role) : "");
	e.tenant = z(r, r->tenant);
	e.address = n->address;
	e.action = n->action;
	e.object = z(r, fit(n->object));
	e.outcome = (char *)outcome(r, n);
	e.detail = z(r, detail(r, n));
	e.request_id = r->id_text;
	put(r->worker->gw->trail, &e);
}

void trail_key_used(struct trail *t, const struct ring_key *k, int64_t wall_us)
{
	int64_t minute = wall_us / minute_us;
	_Atomic int64_t *was = k ? (_Atomic int64_t *)&k->used_minute : NULL;       /* the one thing of a key that changes */
	Corral__AccessFact f = CORRAL__ACCESS_FACT__INIT;
	Corral__KeyUse use = CORRAL__KEY_USE__INIT;
	char id[APIKEY_ID + 1];
	struct why why;

	if (!t || !k || atomic_load_explicit(was, memory_order_relaxed) >= minute || atomic_exchange(was, minute) >= minute)
		return;
	str_copy(id, sizeof(id), k->e.name);
	use.id = id;
	use.at_us = minute * minute_us;
	f.use = &use;
	pthread_mutex_lock(&t->lock);
	(void)append(t, &f, &why);        /* it is for people who look for keys that nobody needs: with no room for it the time stays as it was */
	pthread_mutex_unlock(&t->lock);
}

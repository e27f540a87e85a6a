/* trail.c - see trail.h. */
#include "services/gateway/trail.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/data/log.h"
#include "common/policy/rate_limit.h"
#include "services/gateway/door.h"
#include "services/gateway/routes.h"
#include "services/gateway/worker.h"

enum { AT_ONCE = 200, TICK_US = 200 * 1000, DEADLINE_MS = 3000, LONGEST_OBJECT = 512 };

/* What a request carries from its begin to its end. */
struct trail_note {
	char action[64], address[64];
	struct str object;
	const char *method;
	struct str path;
	bool at_door;                 /* turned away before anything else */
};

/* An entry on its way to access: the strings lie behind it. */
struct line {
	struct list node;
	Corral__AuditEntry entry;
};

struct trail {
	struct gateway *gw;
	pthread_mutex_t lock;         /* of 'arrived', and of nothing else */
	struct list arrived;          /* from the workers */
	struct list lines;            /* for access, oldest first */
	size_t n, sent;               /* 'sent' of them are with access, and wait for its word */
	uint64_t batch;
	char source[33];
	struct rate_window refused;
	struct loop_timer timer;
	bool calling;
};

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

static void arrive(struct trail *t, struct line *l)
{
	pthread_mutex_lock(&t->lock);
	list_push(&t->arrived, &l->node);
	pthread_mutex_unlock(&t->lock);
}

void trail_end(struct req *r)
{
	struct trail_note *n = r->trail;
	struct str texts[9];
	char **fields[9];
	struct line *l;
	size_t room = 0;
	char *at;

	r->trail = NULL;
	if (!n || !r->worker->gw->trail)
		return;
	texts[0] = str_of(actor(r, n)), texts[1] = str_of(r->who.role ? role_name(r->who.role) : ""), texts[2] = r->tenant;
	texts[3] = str_of(n->address), texts[4] = str_of(n->action), texts[5] = fit(n->object), texts[6] = str_of(outcome(r, n));
	texts[7] = detail(r, n), texts[8] = str_of(r->id_text);
	for (int i = 0; i < 9; i++)
		room += texts[i].n + 1;
	l = x_malloc(sizeof(*l) + room);
	corral__audit_entry__init(&l->entry);
	l->entry.at_us = r->start_wall_us;
	fields[0] = &l->entry.actor, fields[1] = &l->entry.role, fields[2] = &l->entry.tenant, fields[3] = &l->entry.address, fields[4] = &l->entry.action;
	fields[5] = &l->entry.object, fields[6] = &l->entry.outcome, fields[7] = &l->entry.detail, fields[8] = &l->entry.request_id;
	at = (char *)(l + 1);
	for (int i = 0; i < 9; i++) {
		*fields[i] = at;
		memcpy(at, texts[i].n ? texts[i].p : "", texts[i].n);
		at[texts[i].n] = '\0';
		at += texts[i].n + 1;
	}
	arrive(r->worker->gw->trail, l);
}

/* --- the control side --- */

static void lose(struct trail *t, const char *why) { series_inc(metrics_series(t->gw->metrics, M_AUDIT_LOST, why)); }

/* Somebody who tries keys a thousand times a second must not fill the log: from there on they are counted. */
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

static void put(struct trail *t, struct line *l)
{
	bool flood = is_flood(t, &l->entry);

	if (!flood && t->n < TRAIL_MOST) {
		list_push(&t->lines, &l->node);
		t->n++;
		return;
	}
	lose(t, flood ? "flood" : "full");
	if (!flood)
		LOG_ERROR("an audit entry is lost: too many wait for the access service", LOG_S("action", l->entry.action), LOG_S("object", l->entry.object),
			  LOG_S("actor", l->entry.actor), LOG_S("outcome", l->entry.outcome), LOG_S("request_id", l->entry.request_id));
	free(l);
}

static void collect(struct trail *t)
{
	struct list got = { 0 };

	pthread_mutex_lock(&t->lock);
	list_push(&t->arrived, &got);     /* the head changes, the members stay */
	list_del(&t->arrived);
	pthread_mutex_unlock(&t->lock);
	while (!list_empty(&got)) {
		struct line *l = list_entry(got.next, struct line, node);

		list_del(&l->node);
		put(t, l);
	}
}

static void send_batch(struct trail *);

void trail_kick(struct trail *t)
{
	if (!t)
		return;
	collect(t);
	if (t->n && !t->calling)
		send_batch(t);
}

static void tick(struct loop_timer *timer)
{
	struct trail *t = (struct trail *)(void *)((char *)timer - offsetof(struct trail, timer));

	loop_timer_set(t->gw->loop, timer, TICK_US, tick);
	trail_kick(t);
}

struct trail *trail_new(struct gateway *g)
{
	struct trail *t = x_calloc(1, sizeof(*t));

	t->gw = g;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->arrived);
	list_init(&t->lines);
	snprintf(t->source, sizeof(t->source), "%016llx%016llx", (unsigned long long)rand_u64(), (unsigned long long)rand_u64());
	tick(&t->timer);
	return t;
}

bool trail_empty(const struct trail *t) { return !t || t->n == 0; }

static void drop_first(struct trail *t, size_t n)
{
	while (n-- && t->n) {
		struct line *l = list_entry(t->lines.next, struct line, node);

		list_del(&l->node);
		free(l);
		t->n--;
	}
}

void trail_free(struct trail *t)
{
	if (!t)
		return;
	loop_timer_del(&t->timer);
	collect(t);
	if (t->n)
		LOG_ERROR("audit entries are lost: the access service could not be told of them", LOG_I("entries", t->n));
	drop_first(t, t->n);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static void on_done(const Corral__Done *, void *arg);

/* The same entries have the same number until access has them, so that an answer that got lost does not write them twice. */
static void send_batch(struct trail *t)
{
	Corral__AuditAppend q = CORRAL__AUDIT_APPEND__INIT;
	Corral__AuditEntry *entries[AT_ONCE];
	struct rpc_client *access = t->gw->door->access;

	if (!t->sent) {
		t->sent = t->n < AT_ONCE ? t->n : AT_ONCE;
		t->batch++;
	}
	q.source = t->source;
	q.batch = t->batch;
	q.entries = entries;
	list_each(it, &t->lines) {
		if (q.n_entries == t->sent)
			break;
		entries[q.n_entries++] = &list_entry(it, struct line, node)->entry;
	}
	t->calling = true;
	rpc_deadline(access, DEADLINE_MS);
	corral__access__append(rpc_stub(access, &corral__access__descriptor), &q, on_done, t);
	rpc_deadline(access, 5000);
}

/* What access will never take must not hold up the rest. */
static bool is_hopeless(const struct why *why) { return why && (why->code == ERR_INVALID || why->code == ERR_MALFORMED || why->code == ERR_TOO_LARGE); }

static void on_done(const Corral__Done *reply, void *arg)
{
	struct trail *t = arg;
	const struct why *why = reply ? NULL : rpc_error(t->gw->door->access);

	t->calling = false;
	if (!reply && !is_hopeless(why))
		return;                   /* again with the next tick */
	if (!reply) {
		LOG_ERROR("audit entries are lost: the access service refused them", LOG_I("entries", t->sent), LOG_S("error", why->text));
		for (size_t i = 0; i < t->sent; i++)
			lose(t, "refused");
	}
	drop_first(t, t->sent);
	t->sent = 0;
	if (t->n)
		send_batch(t);
}

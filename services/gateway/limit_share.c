/* limit_share.c - see limit_share.h; the other side is services/access/share.c. */
#include "services/gateway/limit_share.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/gateway/sharers.h"
#include "services/gateway/worker.h"

enum {
	ALONE_US = 500 * 1000, SHARED_US = 200 * 1000,
	PAUSE_US = 5 * 1000,          /* between two asks, however many requests wait */
	DEADLINE_MS = 1000, FIRST_DEADLINE_MS = 500,
	SILENT_US = 2500 * 1000, SILENT_CALLS = 3,    /* then it goes on by itself */
	MOST_US = 120 * 1000 * 1000,
	MOST_SCOPES = 100000
};

struct limit_share {
	struct door *door;
	struct gateway *gw;
	struct loop_timer timer;
	char id[33];
	struct arena *mem;            /* of the ask that is being made */
	bool calling, again;          /* an ask is on its way; another is wanted after it */
	bool heard, leaving;
	unsigned failures;
	uint32_t gateways;            /* as access said last; also on disk */
	uint32_t most;                /* as it said within MOST_US; one that was killed comes back */
	int64_t most_us;
	int64_t called_us, heard_us;
};

static void send_ask(struct loop_timer *);

/* --- how many share, for a start without access --- */

static const char *const count_file = "limit-gateways";

static void save_gateways(struct limit_share *s, uint32_t n)
{
	if (n >= s->most || mono_us() - s->most_us > MOST_US) {
		s->most = n;
		s->most_us = mono_us();
	}
	if (n == s->gateways)
		return;
	s->gateways = n;
	series_set(metrics_series(s->gw->metrics, M_LIMIT_GATEWAYS), n);
	sharers_save(s->gw, count_file, n);
}

/* --- life --- */

static void renew(struct limit_share *s)
{
	int64_t wait = s->called_us + PAUSE_US - mono_us();

	if (s->calling)
		s->again = true;
	else
		loop_timer_set(s->gw->loop, &s->timer, wait > 0 ? wait : 0, send_ask);
}

static void renew_here(void *arg) { renew(arg); }

/* A worker's thread. */
static void on_need(void *arg)
{
	struct limit_share *s = arg;

	loop_post(s->gw->loop, renew_here, s);
}

struct limit_share *limit_share_new(struct door *d)
{
	struct limit_share *s = x_calloc(1, sizeof(*s));

	s->door = d;
	s->gw = d->gw;
	snprintf(s->id, sizeof(s->id), "%016llx%016llx", (unsigned long long)rand_u64(), (unsigned long long)rand_u64());
	s->gateways = sharers_load(s->gw, count_file);
	s->heard_us = mono_us();
	scope_table_share(d->scopes, on_need, s);
	series_set(metrics_series(s->gw->metrics, M_LIMIT_GATEWAYS), s->gateways);
	send_ask(&s->timer);
	return s;
}

void limit_share_leave(struct limit_share *s)
{
	if (!s)
		return;
	s->leaving = true;
	scope_table_recall(s->door->scopes, mono_us());
	renew(s);
}

void limit_share_free(struct limit_share *s)
{
	if (!s)
		return;
	loop_timer_del(&s->timer);
	free(s);
}

/* --- asking --- */

static Corral__Units *units(struct arena *mem, const uint64_t n[LIMIT_KINDS])
{
	Corral__Units *u = arena_alloc(mem, sizeof(*u));

	corral__units__init(u);
	u->requests = n[LIMIT_REQUESTS];
	u->tokens = n[LIMIT_TOKENS];
	u->in_flight = n[LIMIT_CONCURRENCY];
	return u;
}

struct asking { struct limit_share *s; Corral__ShareRequest *q; size_t room; int64_t now_us; };

static void grow(struct asking *a)
{
	size_t room = a->room ? 2 * a->room : 64;
	Corral__ScopeDemand **list = arena_array(a->s->mem, Corral__ScopeDemand *, room);

	if (a->q->n_scopes)
		memcpy(list, a->q->scopes, a->q->n_scopes * sizeof(*list));
	a->q->scopes = list;
	a->room = room;
}

/* What comes in a moment is as much as came in the last one; that falls off slowly. */
static void plan(struct scope *s)
{
	for (int k = 0; k < LIMIT_KINDS; k++) {
		s->want[k] = s->asked[k] > s->want[k] / 2 ? s->asked[k] : s->want[k] / 2;
		s->asked[k] = 0;
	}
}

/* False: nothing of it is used or wanted, so that it need not be told of. */
static bool put_scope(struct scope *s, void *arg)
{
	struct asking *a = arg;
	uint64_t used[LIMIT_KINDS];
	Corral__ScopeDemand *d;

	scope_used(s, a->now_us, used);
	plan(s);
	if (!(used[0] | used[1] | used[2] | s->want[0] | s->want[1] | s->want[2])) {
		memset(s->given, 0, sizeof(s->given));
		return false;
	}
	if (a->q->n_scopes == MOST_SCOPES)
		return true;
	if (a->q->n_scopes == a->room)
		grow(a);
	d = arena_alloc(a->s->mem, sizeof(*d));
	corral__scope_demand__init(d);
	d->scope = arena_dup(a->s->mem, s->name, strlen(s->name));
	d->limit = units(a->s->mem, s->limit);
	d->used = units(a->s->mem, used);
	d->held = units(a->s->mem, s->given);
	d->want = units(a->s->mem, s->want);
	a->q->scopes[a->q->n_scopes++] = d;
	return true;
}

static void on_reply(const Corral__ShareReply *, void *arg);

static void send_ask(struct loop_timer *t)
{
	struct limit_share *s = (struct limit_share *)(void *)((char *)t - offsetof(struct limit_share, timer));
	Corral__ShareRequest q = CORRAL__SHARE_REQUEST__INIT;
	struct asking a = { s, &q, 0, mono_us() };
	struct rpc_client *access = s->door->access;

	s->mem = arena_new(0);
	q.gateway = s->id;
	q.leaving = s->leaving;
	q.alone = scope_table_is(s->door->scopes) == SCOPES_ALONE && !s->leaving;
	scope_table_told(s->door->scopes);
	if (!q.alone)
		scope_table_busy(s->door->scopes, put_scope, &a);
	s->calling = true;
	s->again = false;
	s->called_us = a.now_us;
	rpc_deadline(access, s->heard ? DEADLINE_MS : FIRST_DEADLINE_MS);
	corral__access__share(rpc_stub(access, &corral__access__descriptor), &q, on_reply, s);
	rpc_deadline(access, 5000);
	arena_free(s->mem);
}

/* --- what comes back --- */

static void read_units(const Corral__Units *u, uint64_t ret[LIMIT_KINDS])
{
	ret[LIMIT_REQUESTS] = u ? u->requests : 0;
	ret[LIMIT_TOKENS] = u ? u->tokens : 0;
	ret[LIMIT_CONCURRENCY] = u ? u->in_flight : 0;
}

static void apply_scope(struct limit_share *s, const Corral__ScopeShare *share)
{
	struct scope *scope = scope_find(s->door->scopes, share->scope);
	uint64_t given[LIMIT_KINDS], others[LIMIT_KINDS];

	if (!scope)
		return;
	read_units(share->given, given);
	read_units(share->others, others);
	scope_give(scope, mono_us(), given, others);
}

static void set_mode(struct limit_share *s, enum scope_mode mode, int64_t valid_until_us)
{
	static const char *const words[] = {
		[SCOPES_ALONE] = "all limits are this gateway's", [SCOPES_SHARED] = "the limits are shared with other gateways",
		[SCOPES_ON_THEIR_OWN] = "the access service is not heard; this gateway uses its part of each limit",
	};
	enum scope_mode was = scope_table_is(s->door->scopes);

	if (was != mode)
		LOG_INFO(words[mode], LOG_I("gateways", s->gateways));
	scope_table_mode(s->door->scopes, mode, mode == SCOPES_ON_THEIR_OWN && s->most > s->gateways ? s->most : s->gateways, valid_until_us);
	if (was == SCOPES_ALONE && mode == SCOPES_SHARED) {
		scope_table_recall(s->door->scopes, mono_us());
		s->again = true;
	}
}

static void heard(struct limit_share *s, const Corral__ShareReply *reply)
{
	s->heard = true;
	s->failures = 0;
	s->heard_us = mono_us();
	save_gateways(s, reply->gateways);
	for (size_t i = 0; i < reply->n_scopes; i++)
		apply_scope(s, reply->scopes[i]);
	set_mode(s, reply->alone ? SCOPES_ALONE : SCOPES_SHARED, s->called_us + reply->valid_ms * 1000);
}

static void unheard(struct limit_share *s)
{
	s->failures++;
	if (!s->heard || (mono_us() - s->heard_us > SILENT_US && s->failures >= SILENT_CALLS))
		set_mode(s, SCOPES_ON_THEIR_OWN, INT64_MAX);
}

static void on_reply(const Corral__ShareReply *reply, void *arg)
{
	struct limit_share *s = arg;

	s->calling = false;
	if (reply)
		heard(s, reply);
	else
		unheard(s);
	for (unsigned i = 0; i < s->gw->n_workers; i++)
		worker_limits_news(s->gw->workers[i]);
	if (reply && s->again)
		renew(s);
	else
		loop_timer_set(s->gw->loop, &s->timer, scope_table_is(s->door->scopes) == SCOPES_SHARED ? SHARED_US : ALONE_US, send_ask);
}

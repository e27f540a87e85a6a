/* unused.c - GET /models/unused: models that nobody has asked for in a while, proposed for removal. Nothing is removed by itself.
 *
 * The ledger says what was asked for, the world what there is. A model counts when it was known for all of that time. */
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "services/gateway/ask.h"
#include "services/gateway/stages/stages.h"
#include "usage.pb-c.h"

enum { DAYS = 30, DAYS_MAX = 3650 };

struct unused {
	Corral__UsageQuery q;
	uint64_t days;
	struct str *used;             /* names of models that were asked for */
	size_t n_used;
};

static void usage_came(const Corral__UsageReport *report, void *arg)
{
	struct ask *a = arg;
	struct unused *u = a->query;

	if (!report) {
		ask_failed(a, a->gw->ledger, "usage-tracker");
		return;
	}
	u->used = arena_array(a->mem, struct str, report->n_rows + 1);
	for (size_t i = 0; i < report->n_rows; i++)       /* the report is the control thread's */
		if (report->rows[i]->n_groups)
			u->used[u->n_used++] = arena_str(a->mem, str_of(report->rows[i]->groups[0]));
	ask_done(a);
}

static void call(struct ask *a)
{
	struct unused *u = a->query;

	corral__usage_tracker__query(rpc_stub(a->gw->ledger, &corral__usage_tracker__descriptor), &u->q, usage_came, a);
}

static bool is_used(const struct unused *u, struct str model)
{
	for (size_t i = 0; i < u->n_used; i++)
		if (str_eq(u->used[i], model))
			return true;
	return false;
}

/* Somebody has said that it is to stay. */
static bool stays(const struct cat_model *m) { return m->pb->is_protected || m->pb->pinned; }

static void entry(struct json_out *jo, const struct world *w, const struct cat_model *m)
{
	char since[40];

	clock_rfc3339(m->pb->first_seen_us, 0, since, sizeof(since));
	jw_obj(jo);
	jw_kv_str(jo, "name", m->name);
	jw_kv_u64(jo, "size_bytes", m->pb->size_bytes);
	jw_kv_strz(jo, "first_seen_at", since);
	jw_key(jo, "backends");
	jw_arr(jo);
	for (uint16_t i = 0; i < m->n; i++)
		jw_str(jo, w->cat.backends[w->cat.replicas[m->first + i].backend].name);
	jw_end(jo);
	jw_kv_bool(jo, "is_protected", m->pb->is_protected);
	jw_kv_bool(jo, "pinned", m->pb->pinned);
	jw_kv_bool(jo, "proposed", !stays(m));
	jw_end(jo);
}

static enum step came(struct req *r, struct ask *a)
{
	const struct unused *u = a->query;
	const struct world *w = r->world;
	struct buf b = { 0 };
	struct json_out jo;
	uint64_t bytes = 0;
	enum step s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_u64(&jo, "days", u->days);
	jw_key(&jo, "models");
	jw_arr(&jo);
	for (uint16_t i = 0; w && i < w->cat.n_models; i++) {
		const struct cat_model *m = &w->cat.models[i];

		if (!m->n || !authorise_model(&r->who, m->name) || !m->pb->first_seen_us || m->pb->first_seen_us > u->q.from_us || is_used(u, m->name))
			continue;
		entry(&jo, w, m);
		bytes += stays(m) ? 0 : m->pb->size_bytes;
	}
	jw_end(&jo);
	jw_kv_u64(&jo, "proposed_bytes", bytes);
	json_done(&jo);
	s = req_reply_json(r, 200, &b);
	buf_free(&b);
	return s;
}

static enum step unused(struct req *r)
{
	static char *by_model[] = { (char *)(uintptr_t)"model" };
	struct ask *a = ask_new(r, call);
	struct unused *u = arena_new_of(a->mem, struct unused);
	struct str days = STR("");
	struct why why;

	corral__usage_query__init(&u->q);
	u->q.group_by = by_model;
	u->q.n_group_by = 1;
	u->days = DAYS;
	a->query = u;
	a->then = came;
	http_query_get(r->x->head.query, "days", a->mem, &days);
	if (days.n && (!str_u64(days, &u->days) || u->days > DAYS_MAX)) {
		err_field(&why, ERR_INVALID, "days", "days is a number from 0 to %d, not '" STR_FMT "'", DAYS_MAX, STR_ARG(days));
		ask_drop(a);
		return req_fail_why(r, &why);
	}
	u->q.from_us = wall_us() - (int64_t)u->days * 86400 * 1000000;
	return ask_send(a);
}

const struct stage stage_unused = { "unused", unused };

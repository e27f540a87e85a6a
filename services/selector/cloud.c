/* cloud.c - what the selector knows of the cloud: providers, merged into the catalogue as gateways do it, and how good the models of the house
 * are measured to be, which is asked of the ledger only while there is a provider to go to. */
#include <math.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/policy/cloud.h"
#include "services/selector/selector.h"

enum { ASK_EVERY_US = 60 * 1000000, DAYS = 30, ROWS_MAX = 2000 };
#define DAY_US (86400 * INT64_C(1000000))

struct measured { char model[256], task_type[64]; double sum; uint64_t answers; };

struct cloud {
	struct str view;              /* malloc'ed */
	struct snapshot_sub *sub;
	struct measured *rows;
	size_t n;
	int64_t asked_us;
};

static struct cloud *cloud_here(struct selector *s)
{
	if (!s->cloud)
		s->cloud = x_calloc(1, sizeof(*s->cloud));
	return s->cloud;
}

/* --- providers --- */

void cloud_world(struct selector *s)
{
	struct str models = buf_as_str(&s->models_bytes);
	struct snapshot_id id = s->models_id;
	struct buf merged = { 0 };
	struct why why = { 0 };

	if (!models.n && !id.version)
		return;
	if (cloud_merge(&merged, &id.epoch, models, s->cloud ? s->cloud->view : STR(""), &why) != ERR_OK)
		LOG_ERROR("the snapshot of providers was not applied", LOG_S("error", why.text));
	versions_note(&s->models, id, merged.n ? buf_as_str(&merged) : models);
	policy_rebuild(s, id, merged.n ? buf_as_str(&merged) : models);
	buf_free(&merged);
}

static void on_providers(void *arg, struct snapshot_id id, struct str bytes, bool stale)
{
	struct selector *s = arg;
	struct cloud *c = cloud_here(s);
	struct arena *mem = arena_new(4096);
	struct why why = { 0 };
	struct str view;

	(void)id, (void)stale;
	if (cloud_view(mem, bytes, &view, &why) != ERR_OK) {
		LOG_ERROR("the snapshot of providers was not applied", LOG_S("error", why.text));
	} else if (!str_eq(view, c->view)) {
		free((void *)(uintptr_t)c->view.p);
		c->view = str_n(x_malloc(view.n + 1), view.n);
		if (view.n)
			memcpy((void *)(uintptr_t)c->view.p, view.p, view.n);
		cloud_world(s);
	}
	arena_free(mem);
}

void cloud_open(struct selector *s)
{
	cloud_here(s)->sub = snapshot_sub_new(svc_loop(s->svc), svc_peer(s->svc, "cloud-fallback"), svc_pub_url(s->svc, "cloud-fallback"), "providers", NULL, on_providers, s);
}

void cloud_close(struct selector *s)
{
	if (!s->cloud)
		return;
	snapshot_sub_free(s->cloud->sub);
	free((void *)(uintptr_t)s->cloud->view.p);
	free(s->cloud->rows);
	free(s->cloud);
	s->cloud = NULL;
}

/* --- measured quality --- */

static void add(struct cloud *c, const Corral__QualityRow *row)
{
	size_t i = 0;

	while (i < c->n && !(strcmp(c->rows[i].model, row->model) == 0 && strcmp(c->rows[i].task_type, row->task_type) == 0))
		i++;
	if (i == c->n) {
		if (c->n == ROWS_MAX)
			return;
		c->rows = x_realloc(c->rows, ++c->n * sizeof(*c->rows));
		c->rows[i] = (struct measured){ 0 };
		(void)str_copy(c->rows[i].model, sizeof(c->rows[i].model), str_of(row->model));
		(void)str_copy(c->rows[i].task_type, sizeof(c->rows[i].task_type), str_of(row->task_type));
	}
	c->rows[i].sum += row->quality * (double)row->answers;
	c->rows[i].answers += row->answers;
}

static void on_quality(const Corral__QualityReport *report, void *arg)
{
	struct selector *s = arg;

	if (!report || !s->cloud)
		return;                   /* what was measured before stays */
	s->cloud->n = 0;
	for (size_t i = 0; i < report->n_rows; i++)
		add(s->cloud, report->rows[i]);
}

void cloud_measure(struct selector *s)
{
	Corral__QualityQuery q = CORRAL__QUALITY_QUERY__INIT;
	struct cloud *c = s->cloud;
	int64_t now = mono_us();

	if (!c || !c->view.n || s->cfg->cloud_quality <= 0 || (c->asked_us && now - c->asked_us < ASK_EVERY_US))
		return;
	c->asked_us = now;
	q.to_day = wall_us() / DAY_US + 1;
	q.from_day = q.to_day - DAYS;
	corral__usage_tracker__quality(rpc_stub(s->ledger, &corral__usage_tracker__descriptor), &q, on_quality, s);
}

/* --- what policy says of it --- */

static void put_quality(const struct measured *m, struct arena *mem, Corral__PolicySnapshot *p)
{
	Corral__TaskQuality *q = arena_new_of(mem, Corral__TaskQuality);

	corral__task_quality__init(q);
	q->model = arena_dup(mem, m->model, strlen(m->model));
	q->task_type = arena_dup(mem, m->task_type, strlen(m->task_type));
	q->quality = round(m->sum / (double)m->answers * 100) / 100;
	p->qualities[p->n_qualities++] = q;
}

void cloud_policy(struct selector *s, struct arena *mem, Corral__PolicySnapshot *p)
{
	const struct selector_config *cfg = s->cfg;
	const struct cloud *c = s->cloud;

	p->cloud = arena_new_of(mem, Corral__CloudRules);
	corral__cloud_rules__init(p->cloud);
	p->cloud->prefer = (char *)(cfg->cloud_prefer ? cfg->cloud_prefer : "");
	p->cloud->medium_left_microusd = (int64_t)llround(cfg->cloud_medium_left * 1e6);
	p->cloud->quality_least = cfg->cloud_quality;
	p->qualities = arena_array(mem, Corral__TaskQuality *, (c ? c->n : 0) + 1);
	for (size_t i = 0; c && i < c->n; i++)
		if (c->rows[i].answers >= (uint64_t)cfg->cloud_quality_answers && c->rows[i].answers)
			put_quality(&c->rows[i], mem, p);
}

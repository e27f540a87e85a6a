/* outbox.c - see outbox.h. */
#include "services/gateway/outbox.h"

#include <dirent.h>
#include <stdlib.h>

#include "common/data/log.h"
#include "common/store/ship.h"
#include "services/gateway/account.h"

struct line {
	struct line *next;
	struct gateway *gw;
	struct worker *worker;        /* NULL: left behind by an earlier run */
	struct spool *spool;          /* the worker's, or our own when left behind */
	struct shipper *shipper;
	bool usage;
};

struct outbox { struct line *lines; };

static void acked(void *arg, uint64_t position)
{
	struct line *l = arg;
	uint64_t open = l->usage && l->worker ? atomic_load_explicit(&l->worker->oldest_open, memory_order_acquire) : UINT64_MAX;

	spool_release(l->spool, position < open ? position : open);
}

static void add(struct outbox *o, struct gateway *g, struct worker *w, struct spool *s, const char *dir, const char *name, bool usage)
{
	struct line *l = x_calloc(1, sizeof(*l));
	char source[128];
	struct ship_opts opts = { .dir = dir, .spool = s, .topic = usage ? "usage.v1" : "decision.v1", .source = source,
		.type_min = usage ? REC_START : REC_DECISION, .type_max = usage ? REC_CORRECTION : REC_DECISION, .every_ms = usage ? 50 : 200 };

	snprintf(source, sizeof(source), "gateway/%s", name);
	*l = (struct line){ .next = o->lines, .gw = g, .worker = w, .spool = s, .usage = usage };
	l->shipper = shipper_new(g->loop, usage ? g->ledger : g->selector, &opts, acked, l);
	o->lines = l;
}

static bool owned(const struct gateway *g, const char *name, bool *ret_usage)
{
	struct str n = str_of(name);
	uint64_t index = 0;
	const char *dash = strrchr(name, '-');

	*ret_usage = str_starts(n, STR("usage-"));
	return dash && str_u64(str_of(dash + 1), &index) && index < g->n_workers;
}

static void adopt(struct outbox *o, struct gateway *g, const char *root, const char *name)
{
	char dir[1200];
	struct why why;
	struct spool *s;
	bool usage;

	if (name[0] == '.' || owned(g, name, &usage))
		return;
	snprintf(dir, sizeof(dir), "%s/%s", root, name);
	s = spool_open(dir, NULL, &why);
	if (!s || (usage && account_recover(s, dir, &why) < 0)) {
		LOG_ERROR("a spool of an earlier run cannot be read", LOG_S("spool", dir), LOG_S("error", why.text));
		spool_close(s);
		return;
	}
	add(o, g, NULL, s, dir, name, usage);
}

struct outbox *outbox_new(struct gateway *g)
{
	struct outbox *o = x_calloc(1, sizeof(*o));
	char root[900], name[64];
	struct dirent *e;
	DIR *d;

	for (unsigned i = 0; i < g->n_workers; i++) {
		snprintf(name, sizeof(name), "usage-%u", i);
		add(o, g, g->workers[i], g->workers[i]->usage, g->workers[i]->usage_dir, name, true);
		snprintf(name, sizeof(name), "decisions-%u", i);
		add(o, g, g->workers[i], g->workers[i]->decisions, g->workers[i]->decisions_dir, name, false);
	}
	snprintf(root, sizeof(root), "%s/spool", svc_state_dir(g->svc));
	d = opendir(root);
	while (d && (e = readdir(d)))
		adopt(o, g, root, e->d_name);
	if (d)
		closedir(d);
	return o;
}

void outbox_kick(struct outbox *o)
{
	for (struct line *l = o->lines; l; l = l->next)
		shipper_kick(l->shipper);
}

bool outbox_empty(struct outbox *o)
{
	for (struct line *l = o->lines; l; l = l->next)
		if (shipper_acked(l->shipper) < spool_end(l->spool))
			return false;
	return true;
}

void outbox_free(struct outbox *o)
{
	while (o && o->lines) {
		struct line *l = o->lines;

		o->lines = l->next;
		shipper_free(l->shipper);
		if (!l->worker)
			spool_close(l->spool);
		free(l);
	}
	free(o);
}

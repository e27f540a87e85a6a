/* outbox.c - see outbox.h. */
#include "services/gateway/outbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/data/log.h"
#include "common/store/ship.h"
#include "common/store/ship_bus.h"
#include "services/gateway/account.h"
#include "services/gateway/door.h"
#include "services/gateway/own_name.h"
#include "services/gateway/trail.h"

enum { BASE_MAX = 4096 };

struct kind { const char *prefix, *topic; uint8_t type_min, type_max; int64_t every_ms; };

static const struct kind kinds[] = {
	{ "usage", "usage.v1", REC_START, REC_CORRECTION, 50 }, { "decisions", "decision.v1", REC_DECISION, REC_DECISION, 200 },
	{ "trail", "access.v1", REC_ACCESS, REC_ACCESS, 200 },
};
enum { USAGE, DECISIONS, TRAIL, KINDS };

struct line {
	struct line *next;
	struct gateway *gw;
	struct worker *worker;        /* NULL: the trail's, or left behind by an earlier run */
	bool own;                     /* of this run */
	struct spool *spool;          /* the worker's, or our own when left behind */
	struct shipper *shipper;      /* this … */
	struct bus_shipper *by_bus;   /* … or this */
	struct bus_ship_counts told;
	const struct kind *kind;
	uint64_t past;                /* where it ended when it was found: before is of earlier runs */
	char name[64];
};

/* A spool that was left behind, and of which all has been shipped. */
struct emptied { struct emptied *next; char name[64]; };

struct outbox {
	struct gateway *gw;
	char name[40];                /* several gateways may have one ledger, and each has a usage-0 */
	struct line *lines;
	struct emptied *emptied;
	bool lost;                    /* a spool of usage could not be read: what was in it is not told */
	struct bus_producer *producer;        /* NULL: without Kafka */
};

/* --- one spool --- */

static bool is_usage(const struct line *l) { return l->kind == &kinds[USAGE]; }

static void acked(void *arg, uint64_t position)
{
	struct line *l = arg;
	uint64_t open = is_usage(l) && l->worker ? atomic_load_explicit(&l->worker->oldest_open, memory_order_acquire) : UINT64_MAX;

	spool_release(l->spool, position < open ? position : open);
}

/* Of a UsageEvent 7 is its tenant, 50 its trace; of a DecisionEvent 1 is its request, which is its key too, 20 its trace. */
static void label_usage(struct str payload, struct bus_label *ret) { bus_label_of(payload, 7, 50, ret); }
static void label_decision(struct str payload, struct bus_label *ret) { bus_label_of(payload, 1, 20, ret); }

static void ship_by_bus(struct outbox *o, struct line *l, const struct ship_opts *s)
{
	const struct bus_ship_opts opts = { .dir = s->dir, .spool = s->spool, .topic = s->topic, .source = s->source, .type_min = s->type_min,
		.type_max = s->type_max, .every_ms = s->every_ms, .schema = is_usage(l) ? "corral.UsageEvent" : "corral.DecisionEvent",
		.label = is_usage(l) ? label_usage : label_decision };

	l->by_bus = bus_shipper_new(o->gw->loop, o->producer, &opts, acked, l);
}

static uint64_t line_acked(const struct line *l) { return l->by_bus ? bus_shipper_acked(l->by_bus) : shipper_acked(l->shipper); }

void outbox_count(struct gateway *g, const char *topic, const struct bus_shipper *shipper, struct bus_ship_counts *told)
{
	struct metrics *m = g->metrics;
	struct bus_ship_counts now;

	if (!shipper)
		return;
	bus_shipper_counts(shipper, &now);
	series_add(metrics_series(m, M_BUS_PRODUCED, topic), (double)(now.persisted - told->persisted));
	series_add(metrics_series(m, M_BUS_AGAIN, topic), (double)(now.again - told->again));
	series_add(metrics_series(m, M_BUS_REFUSED, topic), (double)(now.too_large - told->too_large));
	*told = now;
}

static void line_count(struct line *l) { outbox_count(l->gw, l->kind->topic, l->by_bus, &l->told); }

static struct rpc_client *receiver(const struct gateway *g, const struct kind *k)
{
	return k == &kinds[USAGE] ? g->ledger : k == &kinds[DECISIONS] ? g->selector : g->door ? g->door->access : NULL;
}

/* own: its writer is this process, by that worker or, of the trail, by all. What is for access goes to it alone. */
static void add(struct outbox *o, struct gateway *g, struct worker *w, bool own, struct spool *s, const char *dir, const char *name, const struct kind *k)
{
	struct line *l = x_calloc(1, sizeof(*l));
	char source[128];
	struct ship_opts opts = { .dir = dir, .spool = s, .topic = k->topic, .source = source,
		.type_min = k->type_min, .type_max = k->type_max, .every_ms = k->every_ms };

	snprintf(source, sizeof(source), "gateway-%s/%s", o->name, name);
	*l = (struct line){ .next = o->lines, .gw = g, .worker = w, .spool = s, .own = own, .kind = k, .past = spool_end(s) };
	snprintf(l->name, sizeof(l->name), "%s", name);
	if (o->producer && k != &kinds[TRAIL])
		ship_by_bus(o, l, &opts);
	else
		l->shipper = shipper_new(g->loop, receiver(g, k), &opts, acked, l);
	o->lines = l;
}

/* --- spools of others --- */

static void forget(struct outbox *o, const char *name)
{
	struct emptied *e = x_calloc(1, sizeof(*e));

	snprintf(e->name, sizeof(e->name), "%s", name);
	e->next = o->emptied;
	o->emptied = e;
}

static void root_of(const struct gateway *g, char *ret, size_t cap) { snprintf(ret, cap, "%s/spool", svc_state_dir(g->svc)); }

/* Does another process write it? Its lock says so; asked without making anything. */
static bool is_held(const char *dir)
{
	char path[1300];
	int fd;
	bool held;

	snprintf(path, sizeof(path), "%s/lock", dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;
	if (fd >= 0)
		close(fd);
	return held;
}

static bool all_free(const struct gateway *g, unsigned base)
{
	char root[900], dir[1200];
	bool held = false;

	root_of(g, root, sizeof(root));
	for (unsigned i = 0; i < g->n_workers && !held; i++)
		for (unsigned k = 0; k < KINDS; k++) {
			snprintf(dir, sizeof(dir), "%s/%s-%u", root, kinds[k].prefix, base + i);
			held |= is_held(dir);
		}
	return !held;
}

unsigned outbox_free_base(const struct gateway *g)
{
	unsigned base = 0;

	while (base < BASE_MAX && !all_free(g, base))
		base++;
	return base;
}

static bool is_known(const struct outbox *o, const char *name)
{
	for (const struct line *l = o->lines; l; l = l->next)
		if (strcmp(l->name, name) == 0)
			return true;
	for (const struct emptied *e = o->emptied; e; e = e->next)
		if (strcmp(e->name, name) == 0)
			return true;
	return false;
}

/* "usage-0"; NULL: nothing that we know. */
static const struct kind *kind_of(const char *name)
{
	for (unsigned k = 0; k < KINDS; k++)
		if (str_starts(str_of(name), str_of(kinds[k].prefix)) && name[strlen(kinds[k].prefix)] == '-')
			return &kinds[k];
	return NULL;
}

/* One that somebody else still writes is looked at again later. */
static void adopt(struct outbox *o, const char *root, const char *name)
{
	struct gateway *g = o->gw;
	const struct kind *k = kind_of(name);
	char dir[1200];
	struct why why;
	struct spool *s;

	if (!k || !receiver(g, k) || name[0] == '.' || strlen(name) >= sizeof(o->lines->name) || is_known(o, name))
		return;
	snprintf(dir, sizeof(dir), "%s/%s", root, name);
	if (is_held(dir))
		return;
	s = spool_open(dir, NULL, &why);
	if (!s || (k == &kinds[USAGE] && account_recover(s, dir, &why) < 0)) {
		LOG_ERROR("a spool of an earlier run cannot be read", LOG_S("spool", dir), LOG_S("error", why.text));
		o->lost |= k == &kinds[USAGE];
		forget(o, name);
		spool_close(s);
		return;
	}
	add(o, g, NULL, false, s, dir, name, k);
}

static void adopt_all(struct outbox *o)
{
	char root[900];
	struct dirent *e;
	DIR *d;

	root_of(o->gw, root, sizeof(root));
	d = opendir(root);
	while (d && (e = readdir(d)))
		adopt(o, root, e->d_name);
	if (d)
		closedir(d);
}

static void on_bus_state(void *arg, bool ok, const char *text) { svc_want(((struct gateway *)arg)->svc, "bus", ok, text); }

static bool bus_open(struct outbox *o, struct why *why)
{
	static const char *const topics[] = { "usage.v1", "decision.v1", "feedback.v1", NULL };
	struct gateway *g = o->gw;
	const struct bus_config *cfg = &((const struct gateway_config *)g->cfg)->bus;

	if (!bus_is_kafka(cfg))
		return true;
	svc_want(g->svc, "bus", false, "not heard from the brokers yet");
	o->producer = bus_producer_new(g->loop, cfg, topics, on_bus_state, g, why);
	return o->producer != NULL;
}

struct outbox *outbox_new(struct gateway *g, struct why *why)
{
	struct outbox *o = x_calloc(1, sizeof(*o));
	struct why no_name;
	char name[64];

	o->gw = g;
	if (!bus_open(o, why)) {
		free(o);
		return NULL;
	}
	if (!own_name(g, "instance", o->name, &no_name))
		LOG_ERROR("this gateway has no name of its own; beside others its facts may not be taken", LOG_S("error", no_name.text));
	for (unsigned i = 0; i < g->n_workers; i++) {
		snprintf(name, sizeof(name), "usage-%u", g->spool_base + i);
		add(o, g, g->workers[i], true, g->workers[i]->usage, g->workers[i]->usage_dir, name, &kinds[USAGE]);
		snprintf(name, sizeof(name), "decisions-%u", g->spool_base + i);
		add(o, g, g->workers[i], true, g->workers[i]->decisions, g->workers[i]->decisions_dir, name, &kinds[DECISIONS]);
	}
	if (g->trail) {
		const char *dir;
		struct spool *s = trail_spool(g->trail, &dir);

		add(o, g, NULL, true, s, dir, strrchr(dir, '/') + 1, &kinds[TRAIL]);
	}
	adopt_all(o);
	return o;
}

static void line_free(struct line *l)
{
	line_count(l);
	shipper_free(l->shipper);
	bus_shipper_free(l->by_bus);
	if (!l->own)
		spool_close(l->spool);
	free(l);
}

void outbox_sweep(struct outbox *o)
{
	struct line **at = &o->lines, *l;

	if (o->producer)
		series_set(metrics_series(o->gw->metrics, M_BUS_QUEUE), (double)bus_producer_queue(o->producer));
	while ((l = *at)) {
		line_count(l);
		if (l->own || line_acked(l) < spool_end(l->spool)) {
			at = &l->next;
			continue;
		}
		*at = l->next;
		forget(o, l->name);
		line_free(l);
	}
	adopt_all(o);
}

void outbox_kick(struct outbox *o)
{
	for (struct line *l = o->lines; l; l = l->next) {
		if (l->by_bus)
			bus_shipper_kick(l->by_bus);
		else
			shipper_kick(l->shipper);
	}
}

bool outbox_empty(struct outbox *o)
{
	for (struct line *l = o->lines; l; l = l->next)
		if (line_acked(l) < spool_end(l->spool))
			return false;
	return true;
}

struct bus_producer *outbox_producer(struct outbox *o) { return o->producer; }

bool outbox_past_is_told(struct outbox *o)
{
	for (struct line *l = o->lines; l; l = l->next)
		if (is_usage(l) && line_acked(l) < l->past)
			return false;
	return !o->lost && !o->producer;      /* Kafka has it; when the ledger has it from there is not said to us */
}

void outbox_free(struct outbox *o)
{
	while (o && o->lines) {
		struct line *l = o->lines;

		o->lines = l->next;
		line_free(l);
	}
	if (o)
		bus_producer_free(o->producer);
	while (o && o->emptied) {
		struct emptied *e = o->emptied;

		o->emptied = e->next;
		free(e);
	}
	free(o);
}

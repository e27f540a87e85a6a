/* news.c - what becomes of experiments, as events of the topic experiments.v1.
 *
 *   transaction of the deed ─▶ table events ─▶ spool "experiments-0" ─▶ Kafka, or, without one, whoever reads the spool (corral events tail)
 *
 * A row leaves the table when the spool has it on disk. Who is killed between has it in the spool twice, with one event_id. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/id.h"
#include "common/data/log.h"
#include "common/store/ship_bus.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { EVENTS_AT_ONCE = 100, KEPT_BYTES = 4 << 20, SEGMENT_BYTES = 256 << 10, REC_EXPERIMENT = 1 };

/* --- writing --- */

static const char *model_of(const Corral__Experiment *e, const char *arm)
{
	for (size_t i = 0; i < e->n_arms; i++)
		if (strcmp(e->arms[i]->name, arm) == 0)
			return e->arms[i]->model;
	return "";
}

bool news_note(struct ab *ab, const Corral__Experiment *e, const struct news *n, int64_t now_us, struct why *why)
{
	Corral__ExperimentEvent x = CORRAL__EXPERIMENT_EVENT__INIT;
	int64_t at = now_us > ab->herald.last ? now_us : ab->herald.last + 1;
	struct uuid id = uuid_v7(now_us);
	struct arena *mem = arena_new(2048);
	bool ok;

	x.event_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	x.occurred_at_us = now_us;
	x.kind = (char *)n->kind;
	x.experiment_id = e->id;
	x.name = e->name;
	x.tenant = e->filter ? e->filter->tenant : (char *)"";
	x.namespace_ = e->namespace_;
	x.arm = (char *)n->arm;
	x.model = (char *)model_of(e, n->arm);
	x.metric = (char *)n->metric;
	x.reason = (char *)n->reason;
	x.by = (char *)n->by;
	x.shadow = e->shadow;
	ok = db_run(ab->db, X_EVENT_PUT, (struct db_value[]){ DB_I(at), DB_B(ab_pack(mem, &x.base)) }, 2, NULL, NULL, NULL, why);
	ab->herald.last = ok ? at : ab->herald.last;
	ab->herald.due |= ok;
	arena_free(mem);
	return ok;
}

/* --- the spool, and Kafka behind it --- */

static void label(struct str payload, struct bus_label *ret) { bus_label_of(payload, 6, 0, ret); }

static void acked(void *arg, uint64_t position) { spool_release(((struct ab *)arg)->herald.spool, position); }

static bool ship(struct ab *ab, const char *dir, struct why *why)
{
	static const char *const topics[] = { "experiments.v1", NULL };
	struct herald *h = &ab->herald;
	const struct bus_ship_opts o = { .dir = dir, .spool = h->spool, .topic = topics[0], .schema = "corral.ExperimentEvent", .source = "ab-testing/experiments-0",
					 .type_min = REC_EXPERIMENT, .type_max = REC_EXPERIMENT, .every_ms = 200, .label = label };

	h->producer = bus_producer_new(svc_loop(ab->svc), h->bus, topics, h->on_state, ab->svc, why);
	if (h->producer)
		h->shipper = bus_shipper_new(svc_loop(ab->svc), h->producer, &o, acked, ab);
	return h->shipper != NULL;
}

/* One that another process holds (the one before, on its way out) is tried again; the events wait in the table. */
static bool open_spool(struct ab *ab)
{
	const struct spool_opts o = { .segment_bytes = SEGMENT_BYTES, .sync_ms = 100, .max_bytes = 16 * KEPT_BYTES };
	struct herald *h = &ab->herald;
	char dir[1100];
	struct why why = { 0 };

	if (h->spool || !h->dir[0])
		return h->spool != NULL;
	(void)mkdir(h->dir, 0700);                /* spool_open() says so when it is not there */
	snprintf(dir, sizeof(dir), "%s/experiments-0", h->dir);
	h->spool = spool_open(dir, &o, &why);
	if (h->spool && (!h->bus || !bus_is_kafka(h->bus) || ship(ab, dir, &why)))
		return true;
	if (!h->told)
		LOG_WARN("events of experiments wait: their spool cannot be used", LOG_S("error", why.text));
	h->told = true;
	news_close(ab);
	return false;
}

void news_close(struct ab *ab)
{
	struct herald *h = &ab->herald;

	bus_shipper_free(h->shipper);
	bus_producer_free(h->producer);
	spool_close(h->spool);
	h->shipper = NULL;
	h->producer = NULL;
	h->spool = NULL;
}

/* --- from the table into the spool --- */

static bool take_event(void *arg, const struct db_row *row)
{
	struct herald *h = arg;
	struct why why;

	if (spool_append(h->spool, REC_EXPERIMENT, db_str(row, 1), &why) < 0) {
		if (!h->told)
			LOG_WARN("events of experiments wait: their spool takes nothing", LOG_S("error", why.text));
		h->told = true;
		return false;
	}
	h->told = false;
	h->spooled = db_int(row, 0);
	return true;
}

static bool take_last(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

bool news_load(struct ab *ab, struct why *why)
{
	if (!db_run(ab->db, X_EVENT_LAST, NULL, 0, take_last, &ab->herald.last, NULL, why))
		return false;
	ab->herald.due = ab->herald.last > 0;
	return true;
}

/* Without Kafka nobody says how far he has read: the newest stay. */
static void keep_newest(struct herald *h)
{
	if (!h->shipper && spool_end(h->spool) > KEPT_BYTES)
		spool_release(h->spool, spool_end(h->spool) - KEPT_BYTES);
}

void news_send(struct ab *ab)
{
	struct herald *h = &ab->herald;
	struct why why = { 0 };

	if (!h->due && !(h->bus && bus_is_kafka(h->bus)))
		return;
	if (!open_spool(ab) || !h->due)   /* with Kafka: what the spool still holds goes there */
		return;
	if (!db_run(ab->db, X_EVENTS, (struct db_value[]){ DB_I(h->spooled), DB_I(EVENTS_AT_ONCE) }, 2, take_event, h, NULL, &why))
		return;                           /* the store's state is told elsewhere; tried again with the next tick */
	if (h->spooled < h->last || spool_durable(h->spool) < spool_end(h->spool))
		return;
	h->due = !db_run(ab->db, X_EVENTS_SENT, (struct db_value[]){ DB_I(h->spooled) }, 1, NULL, NULL, NULL, &why);
	keep_newest(h);
}

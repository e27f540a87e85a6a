/* news.c - what becomes of experiments, as events of the topic experiments.v1.
 *
 *   transaction of the deed ─▶ table events ─▶ spool "experiments-0" ─▶ Kafka, or, without one, whoever reads the spool (corral events tail)
 *
 * A row leaves the table when the spool has it on disk. Who is killed between has it in the spool twice, with one event_id. */
#include "common/base/id.h"
#include "events.pb-c.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

enum { EVENTS_AT_ONCE = 100 };

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
	int64_t at = now_us > ab->events.last ? now_us : ab->events.last + 1;
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
	ab->events.last = ok ? at : ab->events.last;
	ab->events.due |= ok;
	arena_free(mem);
	return ok;
}

void news_label(struct str payload, struct bus_label *ret) { bus_label_of(payload, 6, 0, ret); }

/* --- from the table into the spool --- */

static bool take_event(void *arg, const struct db_row *row)
{
	struct ab_events *v = arg;

	if (!herald_say(v->herald, db_str(row, 1)))
		return false;
	v->spooled = db_int(row, 0);
	return true;
}

static bool take_last(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

bool news_load(struct ab *ab, struct why *why)
{
	if (!db_run(ab->db, X_EVENT_LAST, NULL, 0, take_last, &ab->events.last, NULL, why))
		return false;
	ab->events.due = ab->events.last > 0;
	return true;
}

void news_send(struct ab *ab)
{
	struct ab_events *v = &ab->events;
	struct why why = { 0 };

	if (!v->herald || (!v->due && !v->on_kafka))
		return;
	if (!herald_open(v->herald))              /* with Kafka: what the spool still holds goes there */
		return;
	herald_tick(v->herald);
	if (!v->due || !db_run(ab->db, X_EVENTS, (struct db_value[]){ DB_I(v->spooled), DB_I(EVENTS_AT_ONCE) }, 2, take_event, v, NULL, &why))
		return;                           /* the store's state is told elsewhere; tried again with the next tick */
	if (v->spooled < v->last || herald_durable(v->herald) < herald_end(v->herald))
		return;
	v->due = !db_run(ab->db, X_EVENTS_SENT, (struct db_value[]){ DB_I(v->spooled) }, 1, NULL, NULL, NULL, &why);
}

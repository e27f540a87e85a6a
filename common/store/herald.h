/* herald.h - what a service tells other systems: events into a spool of its own, and from there to Kafka or, without one, to whoever reads the
 * spool (corral events tail).
 *
 * Who tells keeps what it has to say until herald_kept() (or herald_told()) says that it is safe: what cannot be written now is told later.
 * Everything on the loop's thread. With Kafka there is one herald a loop, for it has the loop's producer. */
#ifndef CORRAL_STORE_HERALD_H
#define CORRAL_STORE_HERALD_H
#include "common/base/buf.h"
#include "common/data/metrics.h"
#include "common/store/bus.h"
#include "common/store/ship_bus.h"

struct herald;

struct herald_opts {
	const char *root;             /* the service's folder of spools; made */
	const char *service, *name;   /* "ab-testing", "experiments": the spool is experiments-0 */
	const char *topic, *schema;   /* "experiments.v1", "corral.ExperimentEvent" */
	void (*label)(struct str payload, struct bus_label *);
	const struct bus_config *bus; /* NULL: without; read when it is opened */
	bus_on_state *on_state;
	void *arg;                    /* of on_state */
	struct metrics *metrics;      /* NULL: none */
	unsigned first_metric;        /* where HERALD_METRICS stand in its table */
};

enum { HERALD_METRIC_COUNT = 5 };
#define HERALD_METRICS(first) \
	[first] = { METRIC_COUNTER, "bus_produced_total", "Facts that Kafka says it has.", "topic" }, \
	[(first) + 1] = { METRIC_COUNTER, "bus_sent_again_total", "Facts given to Kafka that may have been given before: after a restart, or a report that did not " \
			"say persisted.", "topic" }, \
	[(first) + 2] = { METRIC_COUNTER, "bus_too_large_total", "Facts too large for Kafka or the spool, passed over and named in the log.", "topic" }, \
	[(first) + 3] = { METRIC_GAUGE, "bus_queue_records", "Facts given to Kafka's producer of which nothing is known yet.", "" }, \
	[(first) + 4] = { METRIC_GAUGE, "bus_spool_bytes", "Events on disk in the spool of a topic that are not released yet.", "topic" }

struct herald *herald_new(struct loop *, const struct herald_opts *);     /* texts are copied, but topic and schema */
void herald_bus(struct herald *, const struct bus_config *);      /* the options are there from now on */
/* Whether it can be written; else tried again, after a rest of a second or, when it could not be opened, more each time: another process may hold it, the
 * one before on its way out. What is wrong is logged once a minute. */
bool herald_open(struct herald *);
void herald_close(struct herald *);                               /* opened again by herald_open() */
bool herald_say(struct herald *, struct str payload);             /* false: later. One that no spool takes is logged, counted and passed over: true */
uint64_t herald_end(const struct herald *);                       /* of the spool */
uint64_t herald_durable(const struct herald *);                   /* below it a power cut takes nothing */
bool herald_settled(const struct herald *);                       /* a power cut takes nothing; or the disk says that it cannot promise that any more */
bool herald_by_kafka(const struct herald *);
uint64_t herald_told(const struct herald *);                      /* below it Kafka has all; without Kafka as herald_durable() */
/* The last event in the spool, told or not. False: there is none. */
bool herald_last(const struct herald *, struct buf *ret);
void herald_tick(struct herald *);                                /* now and then: metrics; and without Kafka the newest 4 MiB stay */
void herald_free(struct herald *);                                /* NULL is fine */
#endif

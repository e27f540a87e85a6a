/* ship_bus.h - carries facts from a spool to Kafka: ship.h's brother, for a bus between the one who writes and the one who keeps.
 *
 * One per (spool directory, topic), on the loop of its producer. Records go out in order, as many at a time as the window holds; the spool may
 * be released up to the first record without a report that says persisted. After a report that does not, everything from there on is sent
 * again: its reader finds a fact twice at worst. How far it came is kept in the directory ("shipped.TOPIC", once a second), so a restart sends
 * little again; what may have been sent before carries the header "again".
 *
 * Each message: key and event id as label() says; headers event-id, schema, content-type, source, position ("EPOCH:POSITION" of the source's spool), again,
 * traceparent (W3C). */
#ifndef CORRAL_STORE_SHIP_BUS_H
#define CORRAL_STORE_SHIP_BUS_H
#include "common/store/bus.h"

struct bus_shipper;
struct spool;

struct bus_label { struct str key, event_id, trace; };    /* event_id: 16 bytes, or none; trace: a trace's id and a span's, 16 and 8 bytes, or none */

/* Of a packed message whose fields come in their order: 1 is its id; the key's and, where it has one (else 0), the trace's numbers are said. */
void bus_label_of(struct str payload, unsigned key_field, unsigned trace_field, struct bus_label *);

struct bus_ship_opts {
	const char *dir;              /* of the spool */
	const struct spool *spool;    /* its writer, when that is in this process and outlives the shipper */
	const char *topic;            /* "usage.v1" */
	const char *schema;           /* "corral.UsageEvent" */
	const char *source;           /* unique name of the writer: "gateway-…/usage-0" */
	uint8_t type_min, type_max;   /* record types that are shipped; others are skipped */
	int64_t every_ms;             /* default 50 */
	uint32_t window;              /* records without a report; default 8192 */
	void (*label)(struct str payload, struct bus_label *);     /* views into the payload; what it finds nothing of stays empty */
};

struct bus_ship_counts {
	uint64_t persisted, again;    /* reported; of those that were sent, how many perhaps not for the first time */
	uint64_t too_large;           /* records that no broker takes: logged, and passed over */
	uint64_t gaps;                /* as shipper_gaps() */
};

struct bus_shipper *bus_shipper_new(struct loop *, struct bus_producer *, const struct bus_ship_opts *, void (*on_acked)(void *arg, uint64_t position), void *arg);
/* Everything below is with Kafka, or of a type that is not shipped: equals spool_end() when nothing waits. */
uint64_t bus_shipper_acked(const struct bus_shipper *);
void bus_shipper_counts(const struct bus_shipper *, struct bus_ship_counts *);
void bus_shipper_kick(struct bus_shipper *);
/* What is under way is given up, and sent again by the next one. The producer must outlive it, or be freed right after. NULL is fine. */
void bus_shipper_free(struct bus_shipper *);
#endif

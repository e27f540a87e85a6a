/* herald.c - see herald.h. */
#include "common/store/herald.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/spool.h"

enum { KEPT_BYTES = 4 << 20, SEGMENT_BYTES = 256 << 10, REC_EVENT = 1, SHIP_MS = 200, SYNC_MS = 100 };
/* After a failure. An open that fails has made a spool, a thread and perhaps a producer, only to take them down again. */
enum { REST_US = 1000000, OPEN_REST_MOST_US = 32000000, WARN_US = 60000000 };

struct herald {
	struct loop *loop;
	struct herald_opts o;
	char root[1024], dir[1100], source[128];
	const char *topics[2];
	struct spool *spool;          /* NULL: not open */
	struct bus_producer *producer;        /* with Kafka, as the next */
	struct bus_shipper *shipper;
	struct bus_ship_counts counted;
	int64_t until_us, open_rest_us;       /* nothing is tried before; how long it rests when the next open fails */
	int64_t warn_us;              /* when a failure is worth a line again */
};

struct herald *herald_new(struct loop *loop, const struct herald_opts *o)
{
	struct herald *h = x_calloc(1, sizeof(*h));

	h->loop = loop;
	h->o = *o;
	h->topics[0] = o->topic;
	snprintf(h->root, sizeof(h->root), "%s", o->root);
	snprintf(h->dir, sizeof(h->dir), "%s/%s-0", h->root, o->name);
	snprintf(h->source, sizeof(h->source), "%s/%s-0", o->service, o->name);
	h->o.root = h->o.service = h->o.name = NULL;
	h->open_rest_us = REST_US;
	return h;
}

void herald_bus(struct herald *h, const struct bus_config *bus) { h->o.bus = bus; }

bool herald_by_kafka(const struct herald *h) { return h->o.bus && bus_is_kafka(h->o.bus); }

static void rest(struct herald *h, int64_t us, const char *error)
{
	int64_t now_us = mono_us();

	h->until_us = now_us + us;
	if (now_us < h->warn_us)
		return;
	h->warn_us = now_us + WARN_US;
	LOG_WARN("events wait: their spool cannot be written", LOG_S("topic", h->o.topic), LOG_S("spool", h->dir), LOG_S("error", error));
}

/* --- the spool, and Kafka behind it --- */

static void acked(void *arg, uint64_t position) { spool_release(((struct herald *)arg)->spool, position); }

static bool ship(struct herald *h, struct why *why)
{
	const struct bus_ship_opts o = { .dir = h->dir, .spool = h->spool, .topic = h->o.topic, .schema = h->o.schema, .source = h->source,
					 .type_min = REC_EVENT, .type_max = REC_EVENT, .every_ms = SHIP_MS, .label = h->o.label };

	if (h->o.on_state)
		h->o.on_state(h->o.arg, false, "not heard from the brokers yet");
	h->producer = bus_producer_new(h->loop, h->o.bus, h->topics, h->o.on_state, h->o.arg, why);
	if (h->producer)
		h->shipper = bus_shipper_new(h->loop, h->producer, &o, acked, h);
	return h->shipper != NULL;
}

bool herald_open(struct herald *h)
{
	const struct spool_opts o = { .segment_bytes = SEGMENT_BYTES, .sync_ms = SYNC_MS, .max_bytes = 16 * KEPT_BYTES };
	struct why why = { 0 };

	if (mono_us() < h->until_us)
		return false;
	if (h->spool)
		return true;
	(void)mkdir(h->root, 0700);               /* spool_open() says so when it is not there */
	h->spool = spool_open(h->dir, &o, &why);
	if (h->spool && (!herald_by_kafka(h) || ship(h, &why))) {
		h->open_rest_us = REST_US;
		return true;
	}
	rest(h, h->open_rest_us, why.text);
	h->open_rest_us = h->open_rest_us * 2 < OPEN_REST_MOST_US ? h->open_rest_us * 2 : OPEN_REST_MOST_US;
	herald_close(h);
	return false;
}

static void count(struct herald *h)
{
	struct metrics *m = h->o.metrics;
	unsigned first = h->o.first_metric;
	struct bus_ship_counts now;

	if (!m || !h->spool)
		return;
	series_set(metrics_series(m, first + 4, h->o.topic), (double)spool_bytes(h->spool));
	if (!h->shipper)
		return;
	bus_shipper_counts(h->shipper, &now);
	series_add(metrics_series(m, first, h->o.topic), (double)(now.persisted - h->counted.persisted));
	series_add(metrics_series(m, first + 1, h->o.topic), (double)(now.again - h->counted.again));
	series_add(metrics_series(m, first + 2, h->o.topic), (double)(now.too_large - h->counted.too_large));
	series_set(metrics_series(m, first + 3), (double)bus_producer_queue(h->producer));
	h->counted = now;
}

void herald_close(struct herald *h)
{
	count(h);
	bus_shipper_free(h->shipper);
	bus_producer_free(h->producer);
	spool_close(h->spool);
	h->shipper = NULL;
	h->producer = NULL;
	h->spool = NULL;
	h->counted = (struct bus_ship_counts){ 0 };
}

void herald_free(struct herald *h)
{
	if (h)
		herald_close(h);
	free(h);
}

/* --- events --- */

/* It would be too large each time, and all behind it would wait. */
static bool pass_over(struct herald *h, const struct why *why)
{
	LOG_ERROR("an event is too large for its spool and is passed over", LOG_S("topic", h->o.topic), LOG_S("error", why->text));
	if (h->o.metrics)
		series_inc(metrics_series(h->o.metrics, h->o.first_metric + 2, h->o.topic));
	return true;
}

bool herald_say(struct herald *h, struct str payload)
{
	struct why why = { 0 };

	if (!herald_open(h))
		return false;
	if (spool_append(h->spool, REC_EVENT, payload, &why) >= 0)
		return true;
	if (why.code == ERR_TOO_LARGE)
		return pass_over(h, &why);
	rest(h, REST_US, why.text);
	return false;
}

uint64_t herald_end(const struct herald *h) { return h->spool ? spool_end(h->spool) : 0; }
uint64_t herald_durable(const struct herald *h) { return h->spool ? spool_durable(h->spool) : 0; }
bool herald_settled(const struct herald *h) { return h->spool && (spool_durable(h->spool) >= spool_end(h->spool) || spool_sync_errors(h->spool)); }
uint64_t herald_told(const struct herald *h) { return h->shipper ? bus_shipper_acked(h->shipper) : herald_durable(h); }

bool herald_last(const struct herald *h, struct buf *ret)
{
	struct why why;
	struct spool_reader *r = h->spool ? spool_reader_open(h->dir, 0, &why) : NULL;
	struct str payload;
	uint64_t at, next;
	uint8_t type;
	int n;
	bool found = false;

	while (r && (n = spool_read(r, &type, &payload, &at, &next, &why)) != 0) {
		if (n < 0 || type != REC_EVENT)
			continue;
		buf_clear(ret);
		buf_str(ret, payload);
		found = true;
	}
	if (r)
		spool_reader_close(r);
	return found;
}

/* Without Kafka nobody says how far he has read: the newest stay. */
void herald_tick(struct herald *h)
{
	if (h->spool && !h->shipper && spool_end(h->spool) > KEPT_BYTES)
		spool_release(h->spool, spool_end(h->spool) - KEPT_BYTES);
	count(h);
}

/* feedback_box.c - see feedback_box.h. Spools in STATE/feedback/N: a process has the first one that no other holds, and those that others left. */
#include "services/gateway/feedback_box.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/data/log.h"
#include "common/store/ship.h"
#include "common/store/ship_bus.h"
#include "services/gateway/outbox.h"
#include "services/gateway/own_name.h"

enum { REC_FEEDBACK = 32 };           /* a record type of its own: no spool of usage has it */
enum { SEGMENT_BYTES = 1 << 20, SYNC_MS = 5, LOOK_US = 5000, PATIENCE_US = 5000000, MOST = 64 };
enum { COPY_BYTES = 256 << 20 };      /* most that is kept for Kafka alone */

struct place {
	struct place *next;
	struct gateway *gw;
	unsigned number;
	struct spool *spool;
	struct shipper *shipper;
	struct bus_shipper *by_bus;   /* NULL: without Kafka */
	struct bus_ship_counts told;
	bool given_up;                /* something was released that Kafka does not have: logged */
};

/* Written, and not yet known to be on the disk. */
struct waiting { struct waiting *next; struct ask *ask; struct spool *spool; uint64_t position; int64_t until_us; };

struct feedback_box {
	struct gateway *gw;
	struct bus_producer *producer;
	char root[900], name[40];
	struct place *places;         /* the first one is written to */
	struct waiting *waiting;
	struct loop_timer timer;
};

static uint64_t by_ledger(const struct place *p) { return p->shipper ? shipper_acked(p->shipper) : 0; }
static uint64_t by_kafka(const struct place *p) { return p->by_bus ? bus_shipper_acked(p->by_bus) : UINT64_MAX; }

uint64_t feedback_box_needless(uint64_t ledger, uint64_t kafka, uint64_t end, uint64_t bytes)
{
	uint64_t both = ledger < kafka ? ledger : kafka, old;

	if (!kafka || bytes <= COPY_BYTES)
		return both;
	old = end - COPY_BYTES < ledger ? end - COPY_BYTES : ledger;
	return both > old ? both : old;
}

/* A topic that nobody makes must not fill the spool until no feedback is taken any more. */
static void release(struct place *p)
{
	uint64_t ledger = by_ledger(p), kafka = by_kafka(p), below = feedback_box_needless(ledger, kafka, spool_end(p->spool), spool_bytes(p->spool));

	if (below > kafka && !p->given_up) {
		LOG_ERROR("feedback that Kafka does not take leaves the spool; the usage-tracker has it, feedback.v1 will not", LOG_I("spool", p->number),
			  LOG_I("kept_bytes", COPY_BYTES));
		p->given_up = true;
	}
	if (kafka >= ledger)
		p->given_up = false;
	spool_release(p->spool, below);
}

static void acked(void *arg, uint64_t position)
{
	(void)position;
	release(arg);
}

/* Its tenant is the key. */
static void label(struct str payload, struct bus_label *ret) { bus_label_of(payload, 4, 0, ret); }

/* Both read the spool, each at its own place. */
static void place_ship(const struct feedback_box *b, struct place *p, const char *dir, const char *source)
{
	const struct ship_opts ship = { .dir = dir, .spool = p->spool, .topic = "feedback.v1", .source = source, .type_min = REC_FEEDBACK, .type_max = REC_FEEDBACK };
	const struct bus_ship_opts copy = { .dir = dir, .spool = p->spool, .topic = "feedback.v1", .schema = "corral.FeedbackEvent", .source = source,
					    .type_min = REC_FEEDBACK, .type_max = REC_FEEDBACK, .every_ms = 200, .label = label };

	if (b->producer)
		p->by_bus = bus_shipper_new(b->gw->loop, b->producer, &copy, acked, p);
	p->shipper = shipper_new(b->gw->loop, b->gw->ledger, &ship, acked, p);
}

static struct place *place_of(const struct feedback_box *b, unsigned number)
{
	struct place *p = b->places;

	while (p && p->number != number)
		p = p->next;
	return p;
}

/* NULL: another process has it, or it cannot be opened. */
static struct place *place_open(struct feedback_box *b, unsigned number, struct why *why)
{
	struct spool_opts o = { .segment_bytes = SEGMENT_BYTES, .sync_ms = SYNC_MS };
	char dir[1000], source[128];
	struct place *p, **at = &b->places;
	struct spool *s;

	snprintf(dir, sizeof(dir), "%s/%u", b->root, number);
	snprintf(source, sizeof(source), "gateway-%s/feedback-%u", b->name, number);
	s = spool_open(dir, &o, why);
	if (!s)
		return NULL;
	p = x_calloc(1, sizeof(*p));
	p->gw = b->gw;
	p->number = number;
	p->spool = s;
	place_ship(b, p, dir, source);
	while (*at)
		at = &(*at)->next;
	return *at = p;
}

static struct place *place_to_write(struct feedback_box *b, struct why *why)
{
	struct place *p = b->places;

	if (!p)
		(void)mkdir(b->root, 0700);       /* spool_open() says so when it is not there */
	for (unsigned number = 0; !p && number < MOST; number++)
		p = place_open(b, number, why);
	return p;
}

void feedback_box_sweep(struct feedback_box *b)
{
	struct dirent *e;
	DIR *d = b ? opendir(b->root) : NULL;

	while (d && (e = readdir(d))) {
		uint64_t number;
		struct why why;

		if (str_u64(str_of(e->d_name), &number) && number < MOST && !place_of(b, (unsigned)number))
			(void)place_open(b, (unsigned)number, &why);
	}
	if (d)
		closedir(d);
	for (struct place *p = b ? b->places : NULL; p; p = p->next)
		outbox_count(p->gw, "feedback.v1", p->by_bus, &p->told);
}

struct feedback_box *feedback_box_new(struct gateway *g, struct bus_producer *producer)
{
	struct feedback_box *b = x_calloc(1, sizeof(*b));
	struct why why;

	b->gw = g;
	b->producer = producer;
	snprintf(b->root, sizeof(b->root), "%s/feedback", svc_state_dir(g->svc));
	if (!own_name(g, "instance", b->name, &why))
		LOG_ERROR("this gateway has no name of its own; beside others its feedback may not be taken", LOG_S("error", why.text));
	feedback_box_sweep(b);
	return b;
}

/* --- until it is on the disk --- */

static void answer(struct ask *a, bool kept)
{
	if (kept) {
		a->status = 202;
		buf_addz(&a->body, "{\"success\":true}");
	} else {
		err_set(&a->err, ERR_STORE_FAILED, "the feedback cannot be written down now; the gateway's log says why");
	}
	ask_done(a);
}

static void on_timer(struct loop_timer *t)
{
	struct feedback_box *b = (struct feedback_box *)(void *)((char *)t - offsetof(struct feedback_box, timer));
	int64_t now_us = loop_now_us(b->gw->loop);

	for (struct waiting **at = &b->waiting, *w; (w = *at);) {
		bool kept = spool_durable(w->spool) > w->position;

		if (!kept && now_us < w->until_us) {
			at = &w->next;
			continue;
		}
		if (!kept)
			LOG_ERROR("feedback did not reach the disk", LOG_I("sync_errors", spool_sync_errors(w->spool)));
		answer(w->ask, kept);
		*at = w->next;
		free(w);
	}
	if (b->waiting)
		loop_timer_set(b->gw->loop, t, LOOK_US, on_timer);
}

static void wait_for_disk(struct feedback_box *b, struct ask *a, struct spool *s, int64_t position)
{
	struct waiting *w = x_calloc(1, sizeof(*w));

	*w = (struct waiting){ b->waiting, a, s, (uint64_t)position, loop_now_us(b->gw->loop) + PATIENCE_US };
	b->waiting = w;
	loop_timer_set(b->gw->loop, &b->timer, LOOK_US, on_timer);
}

void feedback_box_put(struct feedback_box *b, struct ask *a, const Corral__FeedbackEvent *e)
{
	struct why why = { 0 };
	struct place *p = place_to_write(b, &why);
	size_t n = corral__feedback_event__get_packed_size(e);
	uint8_t *packed = arena_alloc(a->mem, n + 1);
	int64_t at = -1;

	corral__feedback_event__pack(e, packed);
	if (p)
		at = spool_append(p->spool, REC_FEEDBACK, str_n((char *)packed, n), &why);
	if (at >= 0) {
		wait_for_disk(b, a, p->spool, at);
		return;
	}
	LOG_ERROR("feedback cannot be written down", LOG_S("error", why.text));
	answer(a, false);
}

/* --- the end --- */

void feedback_box_kick(struct feedback_box *b)
{
	for (struct place *p = b ? b->places : NULL; p; p = p->next) {
		shipper_kick(p->shipper);
		if (p->by_bus)
			bus_shipper_kick(p->by_bus);
	}
}

bool feedback_box_empty(const struct feedback_box *b)
{
	bool copied = b && b->producer && !bus_producer_misses(b->producer, "feedback.v1");

	for (const struct place *p = b ? b->places : NULL; p; p = p->next)
		if (by_ledger(p) < spool_end(p->spool) || (copied && by_kafka(p) < spool_end(p->spool)))
			return false;
	return true;
}

void feedback_box_free(struct feedback_box *b)
{
	if (!b)
		return;
	loop_timer_del(&b->timer);
	for (struct waiting *w = b->waiting, *next; w; w = next) {
		next = w->next;
		free(w);
	}
	for (struct place *p = b->places, *next; p; p = next) {
		next = p->next;
		outbox_count(p->gw, "feedback.v1", p->by_bus, &p->told);
		shipper_free(p->shipper);
		bus_shipper_free(p->by_bus);
		spool_close(p->spool);
		free(p);
	}
	free(b);
}

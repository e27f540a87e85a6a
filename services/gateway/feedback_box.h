/* feedback_box.h - what people and programs say of answers, on its way to the usage-tracker: on our own disk first, then shipped as feedback.v1.
 * Whether the usage-tracker is there does not matter to who says it. Control thread.
 *
 * With Kafka the topic gets a copy for other systems, and the usage-tracker takes its own from us all the same. It does not read that topic: an event says
 * for whom it speaks (tenant, sees_all), which is believed because a gateway has found it out, and a topic may be written to by others (what these have to say
 * comes by task-completed.v1). One way in also means that nothing is counted twice when 'bus' is changed: the usage-tracker's cursor is of our spool. A
 * record stays in it until both have it; for the copy alone, the newest 256 MiB do. */
#ifndef CORRAL_GATEWAY_FEEDBACK_BOX_H
#define CORRAL_GATEWAY_FEEDBACK_BOX_H
#include "events.pb-c.h"
#include "services/gateway/ask.h"

struct feedback_box;

struct bus_producer;
struct feedback_box *feedback_box_new(struct gateway *, struct bus_producer *);   /* NULL: without Kafka; it must outlive this */
/* Ends the ask: 202 when a power cut cannot take it any more, STORE_FAILED when it cannot be written. */
void feedback_box_put(struct feedback_box *, struct ask *, const Corral__FeedbackEvent *);
void feedback_box_sweep(struct feedback_box *);   /* once a second: what a process left that has ended since. NULL is fine, in all these */
void feedback_box_kick(struct feedback_box *);
bool feedback_box_empty(const struct feedback_box *);     /* a topic that is known to be missing is not waited for */
/* Below it a spool may be released: how far the usage-tracker and Kafka (0: not known yet; UINT64_MAX: without) have it, where it ends, and its size. */
uint64_t feedback_box_needless(uint64_t ledger, uint64_t kafka, uint64_t end, uint64_t bytes);
void feedback_box_free(struct feedback_box *);    /* before the asks are forgotten */
#endif

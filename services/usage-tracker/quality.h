/* quality.h - how good answers are, by model, task type and language: what people and programs said, and what they did.
 *
 * An answer is a finished attempt that met a backend (ok, error, cancelled, unknown; not not_sent, and nothing given again by the cache).
 *   ok           it ended as the backend meant it to end; success_rate = ok / (answers - aborted)
 *   aborted      the client left before the end (status cancelled)
 *   regenerated  the same asker (tenant, key and user) sent the very same text again, REASK_US at most after the answer had ended
 *   asked_again  the same with a text that is alike (common/policy/sketch.h) and not the same
 * The last two count once, against the answer that was not good enough, and only where the gateway reads the text anyway: auto and native requests.
 * A cached repetition is none. They are kept in memory until then, so a restart of this service forgets the last minutes of askers.
 *   explicit     feedback.v1 and what other systems report: tests passed, success, rating, thumbs; of several authors each counts
 * quality is the mean outcome in 0..1, weighed by how much its source says: tests passed 1, what somebody said .8 (success, else rating from
 * 1 to 5 as 0..1, else thumbs), aborted or asked again .3 (as 0), a technical end .1 (ok 1, error 0).
 * Sums are kept by day in the transaction that enters the attempts; corrections do not change them. */
#ifndef CORRAL_USAGE_QUALITY_H
#define CORRAL_USAGE_QUALITY_H
#include "services/usage-tracker/ledger.h"
#include "usage.pb-c.h"

#define REASK_US INT64_C(600000000)

struct quality;

struct quality *quality_new(struct ledger *);     /* watches the ledger from now on */
void quality_free(struct quality *);              /* NULL is fine; before the ledger */
bool quality_query(struct quality *, const Corral__QualityQuery *, struct arena *, Corral__QualityReport *ret, struct why *);
#endif

/* decide.h - which model, on which backend: a pure function of features, snapshots and load.
 *
 * The gateway calls it on the request path (about a microsecond); the selector calls the very same function to explain,
 * simulate and replay, and gets the same bits. No clock, no randomness, no allocation but the caller's arrays.
 *
 *   filter (context, capability, backend, breaker) ─▶ score = quality·wq + latency·wl + cost·wc ─▶ rank
 *   ─▶ the model of its arm, of a champion, or of the conversation comes first (arms.h)
 *
 * Models of the cloud stand behind those of the house, as spares, unless policy prefers them (cloud.h); never where the request must stay at home. */
#ifndef CORRAL_POLICY_DECIDE_H
#define CORRAL_POLICY_DECIDE_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/policy/arms.h"
#include "common/policy/catalogue.h"
#include "selector.pb-c.h"

/* The selector's PolicySnapshot, indexed by replica of one catalogue. */
struct policy {
	Corral__PolicySnapshot *pb;   /* NULL: built-in rules */
	uint64_t epoch, version;
	const Corral__Speed **speeds; /* per replica index, NULL = never measured */
	const struct arms *arms;      /* NULL: no experiments, no champions. Set by whoever built it */
};
/* 'packed' empty = built-in rules. In the arena. */
enum err policy_build(struct policy *, struct arena *, const struct catalogue *, uint64_t epoch, uint64_t version, struct str packed, struct why *);

/* Load of one replica at the moment of deciding. */
struct load { uint32_t in_use, slots, queued; bool breaker_open; };

enum rule { RULE_NONE, RULE_NOT_ASKED, RULE_BACKEND_DOWN, RULE_BREAKER_OPEN, RULE_CAPABILITY, RULE_CONTEXT, RULE_TRIED, RULE_NOT_CHAT, RULE_SCORE, RULE_LOCAL_ONLY,
	RULE_BUDGET, RULE_HOME_UNKNOWN, RULE_QUEUE_FULL, RULE_HOME_BUSY, RULE_MODEL_RESTS, RULE_COUNT };
const char *rule_name(enum rule);     /* "context" */

struct ranked {
	uint16_t replica;
	double score, quality, latency, cost;    /* terms 0..1, higher is better */
	double expected_s;            /* predicted time to the last token */
};
struct rejected { uint16_t replica; uint8_t rule; uint32_t need, have; };   /* context: tokens; capability: the missing bits */

enum { DECIDE_MAX = 256 };            /* replicas looked at; further ones are left out and counted */
struct decision {
	struct ranked *ranked;        /* best first; arrays are the caller's or the arena's, DECIDE_MAX long at most */
	struct rejected *rejected;
	uint16_t n_ranked, n_rejected, n_left_out;
	enum err err;                 /* ERR_OK, ERR_MODEL_NOT_FOUND, ERR_CONTEXT_TOO_LONG, ERR_NO_MODEL_FITS, ERR_UNAVAILABLE, ERR_QUEUE_FULL */
	/* "asked", "alias", "rules", "sticky", "experiment", "champion", "fallback": to the cloud, because the house cannot, or not well enough; or from an
	 * arm whose model cannot serve now, or from a model whose queue is full */
	const char *reason;
	double confidence;            /* margin of the first over the second model, 0..1 */
	const char *experiment, *arm; /* ids; NULL = no arm. Of the snapshot, or of the arena */
	bool champion;                /* the arm was promoted: the request is no part of the experiment */
};

/* The replicas that a decision looks at, one behind the other: those of the model, or as many of all as it may have to: for auto, and for a model of the
 * house where the cloud may answer in its place. */
struct reach { uint16_t first, n; };
struct reach decide_reach(const Corral__DecisionFeatures *, int model, const struct catalogue *);

/* 'model' >= 0 asks for that one model (index); < 0 means auto. load[] is that of the replicas in reach, the first one's first. 'tried' (may be
 * NULL) marks replicas not to use again, by their index. */
void decide(struct decision *ret, struct arena *, const Corral__DecisionFeatures *, int model, bool alias, const struct catalogue *,
	    const struct policy *, const struct load *load, const bool *tried);

/* Takes those models (by index) out of what was decided, because there is no place in their queues. Those of the cloud that stand behind one of the house
 * go with it: that the house is busy is no reason to spend. */
void decision_pass(struct decision *, const struct catalogue *, const uint16_t *full, size_t n);

/* Every number of the decision in a fixed order, little-endian: what is logged and what a replay must reproduce bit for bit. */
void decision_pack(const struct decision *, struct buf *out);
size_t decision_packed_size(const struct decision *);
/* The same back, in the arena. False for bytes that are no decision over that many replicas. */
bool decision_unpack(struct decision *, struct arena *, struct str packed, uint16_t n_replicas);
/* In words: why it failed (a sentence for the client), and for each rejected or lower-ranked replica why it lost. */
void decision_why(const struct decision *, const Corral__DecisionFeatures *, const struct catalogue *, struct why *);
void decision_explain(const struct decision *, const Corral__DecisionFeatures *, const struct catalogue *, struct arena *, Corral__DecisionOutcome *ret);
#endif

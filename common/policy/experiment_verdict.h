/* experiment_verdict.h - what the outcomes of an experiment say, in one word and in a sentence. Pure; on the statistics of sequential.h.
 *
 *   an arm is surely worse in what a guard watches, and by its margin as it stands,
 *   on the whole or of late (experiment_lately.h)                                   ─▶ ROLLBACK
 *   units do not come in the proportion of the weights                             ─▶ SPLIT: nothing else is concluded
 *   an arm is surely better in what decides, and every guard surely kept           ─▶ PROMOTE
 *   every other arm is surely worse in what decides                                ─▶ KEEP
 *   its time is over, or it has as many units as were allowed                      ─▶ EVEN
 *
 * It may be asked after every outcome. Over the whole experiment, the chance that PROMOTE or KEEP is ever said of equal arms is at most sure.alpha, that
 * ROLLBACK is ever said of arms that are no worse at most guard_alpha, that SPLIT is said of a right one at most 0.1 %. */
#ifndef CORRAL_POLICY_EXPERIMENT_VERDICT_H
#define CORRAL_POLICY_EXPERIMENT_VERDICT_H
#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/policy/experiment_lately.h"
#include "common/policy/sequential.h"

/* What is known of an arm. */
struct arm_outcomes {
	struct str name;
	double weight;                /* as it was assigned by */
	uint64_t units;               /* that were assigned to it */
	const struct tally *by;       /* METRIC_COUNT of them */
	const struct late_tallies *late;         /* METRIC_COUNT of them, where the rules have 'lately' */
};

/* How much worse an arm may be in a metric. */
struct guard { bool on; double margin; };        /* on the metric's scale */
/* From what people write: 0.05 is five points of a hundred of success or error, 0.2 is so many points of a rating, a fifth more of latency or cost. */
double guard_margin(enum metric, double written);

struct verdict_rules {
	struct sequential sure;       /* alpha: of what decides, all arms together */
	double guard_alpha;           /* of all guards and arms together; 0.05 */
	enum metric primary;          /* decides */
	const struct lately *lately;  /* METRIC_COUNT: guards see late outcomes by themselves too; NULL = the whole history only */
	struct guard guards[METRIC_COUNT];       /* one on the primary metric may break, but is kept by who wins */
	uint64_t max_units;           /* of each arm, in the primary metric; 0 = no limit */
	bool may_promote;             /* false: too early, or for people to do: a winner has to WAIT */
	bool over;                    /* its time is up */
};
/* Success decides, no guards, may promote. */
struct verdict_rules verdict_rules_default(void);

enum verdict_kind { VERDICT_WAIT, VERDICT_PROMOTE, VERDICT_KEEP, VERDICT_ROLLBACK, VERDICT_SPLIT, VERDICT_EVEN, VERDICT_KINDS };
const char *verdict_name(enum verdict_kind);             /* "promote" */

struct verdict {
	enum verdict_kind kind;
	int arm;                      /* to promote or to roll back; WAIT and SPLIT: that leads for sure, -1 = none; KEEP, EVEN: the champion */
	enum metric metric;           /* that it is about */
	char words[640];              /* a sentence without a stop */
};
/* 2 to 8 arms; 'champion' is the index of the one that the others are compared with. */
void verdict_of(struct verdict *ret, const struct verdict_rules *, const struct arm_outcomes *, int n_arms, int champion);

/* The same of one guard: whether it breaks in that arm. */
bool verdict_guard_breaks(const struct verdict_rules *, const struct arm_outcomes *, int n_arms, int champion, int arm, enum metric);

/* Success, latency and rating (40, 30, 30 %) in one figure, which decides nothing: how much better than the champion, in standard deviations of outcomes,
 * each at most 3. Of a metric without outcomes in both arms nothing is said, and the others' weights grow; 'known' is the weight of what is known. */
struct composite { double score, known, part[METRIC_COUNT]; };
void composite_of(struct composite *ret, const struct tally *arm, const struct tally *champion);
#endif

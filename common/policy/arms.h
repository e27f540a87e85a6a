/* arms.h - the experiments and champions in force, as ab-testing publishes them (snapshot "experiments"), made ready for deciding.
 *
 * Two kinds of experiment. On models: the arms name different models, and what takes part are auto requests that each of these models can serve by
 * its capabilities, context and visibility (whether it is up or not: an arm is kept when its model is down, and another one answers). On one model:
 * all arms name the same, and differ in parameters or prompt; what takes part are requests that this model was chosen for, asked by name or not.
 * A request is part of one experiment at most. What was promoted is a champion: it counts for the same requests, where no experiment has them. */
#ifndef CORRAL_POLICY_ARMS_H
#define CORRAL_POLICY_ARMS_H
#include "common/base/arena.h"
#include "common/policy/experiment.h"
#include "experiments.pb-c.h"
#include "selector.pb-c.h"

struct arms {
	Corral__ExperimentSnapshot *pb;      /* NULL: none */
	uint64_t epoch, version;
	struct experiment *experiments;      /* of pb->experiments, in their order */
};

/* 'packed' empty = none. In the arena. */
enum err arms_build(struct arms *, struct arena *, uint64_t epoch, uint64_t version, struct str packed, struct why *);
/* The same of one experiment, for whoever looks for a place in its namespace; strings stay the message's. */
enum err arms_experiment(struct experiment *ret, const Corral__Experiment *, struct why *);
/* Whether it can be run: everything but its id and its place. The field of *why is that of POST /tests. */
enum err arms_check(const Corral__Experiment *, struct why *);
bool arms_of_one_model(const Corral__Experiment *);

/* The arm that the request has in experiment i; -1 = it takes no part in it. */
int arms_assign(const struct arms *, size_t i, const Corral__DecisionFeatures *);
/* The arm that is asked beside the first one for such a unit; NULL = the experiment is not one of shadows. */
const Corral__ExperimentArm *arms_shadow(const struct arms *, const Corral__Experiment *, const char *unit);
/* Whether the filter lets the request in. */
bool arms_filter(const Corral__ExperimentFilter *, const Corral__DecisionFeatures *);
/* Whom the experiment knows the request by; "" = it does not say. */
const char *arms_unit(const Corral__Experiment *, const Corral__DecisionFeatures *);
/* An arm by name, of an experiment that runs or of a champion; NULL = it is none (any more). */
const Corral__ExperimentArm *arms_find(const struct arms *, const char *experiment_id, const char *arm, bool champion);
/* The same experiment; NULL = it does not run. */
const Corral__Experiment *arms_running(const struct arms *, const char *experiment_id);
#endif

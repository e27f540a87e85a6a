/* ab.h - what ab-testing has in hand: experiments with what came of them.
 *
 * Nouns: trial (an experiment as it is kept, with the sums of its arms), outcome (a request that was part of one, as the ledger has it now),
 * champion (an arm that was promoted, in force for a filter). One loop thread has all of it; the database has it too, and is written first. */
#ifndef CORRAL_AB_TESTING_AB_H
#define CORRAL_AB_TESTING_AB_H
#include "common/base/list.h"
#include "common/io/snapshot.h"
#include "common/policy/arms.h"
#include "common/policy/experiment_lately.h"
#include "common/policy/sequential.h"
#include "common/store/db.h"
#include "common/store/herald.h"
#include "common/svc/svc.h"
#include "experiments.pb-c.h"
#include "facts.pb-c.h"
#include "models.pb-c.h"
#include "usage.pb-c.h"

/* What is added up for an arm; all in its own units but the tallies. Rows of the database begin with what was there first: add at the end. */
struct arm_sums {
	struct tally of[METRIC_COUNT];
	uint64_t units, requests, tokens, latency_n;
	double latency_ms;
	int64_t cost_microusd;
	struct late_tallies late[METRIC_COUNT];
	uint64_t late_since[METRIC_COUNT][LATE_WINDOWS];        /* the begin of the window that each is of */
};

struct trial {
	struct list node;             /* by creation */
	struct arena *mem;            /* of 'e' */
	Corral__Experiment *e;
	struct arm_sums arms[EXPERIMENT_ARMS];
	struct lately lately[METRIC_COUNT];
	int64_t judged_us;            /* wall: when it was looked at last */
	bool changed;                 /* outcomes came since */
	bool pruned;                  /* none of its outcomes is left */
};

/* Deeds on their way to the audit log. */
struct notes {
	struct rpc_client *access;    /* NULL: nobody hears (tests) */
	int64_t last;                 /* number of the last one */
	bool due, asking;
};

/* Events on their way to the bus. */
struct ab_events {
	struct herald *herald;        /* NULL: they stay in the table (tests) */
	bool on_kafka;
	int64_t last, spooled;        /* numbers of the last one, and of the last one in the spool */
	bool due;
};

struct ab {
	struct svc *svc;
	struct db *db;
	struct snapshot_pub *pub;     /* NULL: nobody hears (tests) */
	struct list trials;
	struct arena *mem;            /* of the ask in hand */
	uint64_t cursor;
	bool in_doubt;                /* a batch of outcomes failed: cursor and sums here may not be what the database has */
	int64_t looked_us, first_look_us;     /* wall: for challengers; 0 = never */
	struct notes notes;
	struct ab_events events;
};

/* --- trials.c: what there is, and its states --- */
bool trials_load(struct ab *, struct why *);
void trials_free(struct ab *);
struct trial *trial_find(const struct ab *, const char *id);
int trial_arm(const struct trial *, const char *arm);         /* -1 = it has none of that name */
bool trial_is_over(const Corral__Experiment *);
/* A new one: what is not said gets its default, it gets a place in its namespace and runs. */
enum err trial_create(struct ab *, const Corral__CreateExperimentRequest *, int64_t now_us, struct trial **ret, struct why *);
/* The same, with what else is to be in that transaction ('also' may be NULL). */
struct trial_also { bool (*write)(struct ab *, const Corral__Experiment *, void *arg, int64_t now_us, struct why *); void *arg; };
enum err trial_begin(struct ab *, const Corral__CreateExperimentRequest *, const struct trial_also *also, int64_t now_us, struct trial **ret, struct why *);
/* Brings it into another state, with champions, in one transaction, and tells the gateways. 'arm' is for a promotion; by_itself: nobody asked for it, so
 * it is noted for the audit log in that transaction. */
struct change {
	Corral__ExperimentAct act;
	const char *arm, *reason;
	bool by_itself;
	const char *by;               /* who asked, when somebody did */
	const char *guard_arm, *guard_metric;         /* a guard broke there; NULL = none did */
};
enum err trial_change(struct ab *, struct trial *, const struct change *, int64_t now_us, struct why *);
/* Once: that its units do not come in the proportion of the weights. */
bool trial_split(struct ab *, struct trial *, const char *words, int64_t now_us, struct why *);
/* What comes of it from now on changes nothing. */
bool trial_close(struct ab *, struct trial *, int64_t now_us, struct why *);
bool trials_publish(struct ab *, struct why *);
/* Those in force, in the arena. */
bool trials_champions(struct ab *, struct arena *, Corral__Champion ***ret, size_t *ret_n, struct why *);
/* The packed bytes of a message, and back, in an arena. */
struct str ab_pack(struct arena *, const ProtobufCMessage *);
void *ab_unpack(struct arena *, const ProtobufCMessageDescriptor *, struct str);

/* --- notes.c: what it did by itself, for the audit log --- */
bool notes_load(struct ab *, struct why *);
/* In the transaction of the deed. action: "tests.rollback"; words: why. */
bool note_deed(struct ab *, const Corral__Experiment *, const char *action, const char *words, int64_t now_us, struct why *);
void notes_tell(struct ab *);         /* now and then: what access may lack */

/* --- news.c: what becomes of experiments, for the bus --- */
struct news { const char *kind, *arm, *metric, *reason, *by; };
bool news_load(struct ab *, struct why *);
/* In the transaction of the deed. */
bool news_note(struct ab *, const Corral__Experiment *, const struct news *, int64_t now_us, struct why *);
void news_send(struct ab *);          /* now and then: what the bus may lack */
void news_label(struct str payload, struct bus_label *);

/* --- challengers.c: new models and changed ones, tried by themselves --- */
struct challenger_rules { double traffic_percent, days; bool shadow; const char *against; };         /* against "" = the one that is used most */
struct sight { const Corral__ModelSnapshot *models; const Corral__UsageReport *used; };          /* used: by model; NULL = not known */
bool challengers_load(struct ab *, struct why *);
bool challengers_due(const struct ab *, int64_t every_us, int64_t now_us);
/* Looks, and begins one experiment at most. False with *why when the store failed; then it is to be done again. */
bool challengers_look(struct ab *, const struct challenger_rules *, const struct sight *, int64_t now_us, struct why *);

/* --- results.c: outcomes into sums --- */
/* Reads cursor and sums, if they are in doubt. False when that fails: nothing is to be counted or judged before it was done. */
bool results_load(struct ab *, struct why *);
/* Windows of late outcomes, the first ones or as they were kept: an arm's sums of an older window than the experiment's are emptied. */
void results_begin(struct trial *);
/* Rows in the order of their seq, the first one after the cursor: cursor, outcomes and sums move in one transaction. */
bool results_take(struct ab *, const Corral__OutcomesReply *, struct why *);

/* --- prune.c: outcomes and units of experiments that ended long ago --- */
/* Some rows of one experiment; *ret_removed 0 = there is nothing (more) of it to remove. Now and then. */
bool prune(struct ab *, int64_t keep_us, int64_t now_us, int64_t *ret_removed, struct why *);

/* --- judge.c: what they say, and what follows --- */
void judge_analyse(struct ab *, const struct trial *, int64_t now_us, struct arena *, Corral__ExperimentAnalysis *ret);
/* Ends what is to be ended: guards, time, a winner. Every trial that runs, when outcomes came for it. False with *why when the store failed. */
bool judge_all(struct ab *, int64_t now_us, struct why *);
/* Keeps a point of its history. */
bool judge_point(struct ab *, struct trial *, int64_t now_us, struct why *);
#endif

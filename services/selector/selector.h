/* selector.h - turns what is known into policy, and keeps decisions so that they can be explained.
 *
 * Nouns: policy (rules and measured speeds, published as snapshot "policy"), decision (a fact of a gateway, kept 14 days),
 * snapshot store (the bytes of each version that a kept decision refers to, so that it can be computed again). */
#ifndef CORRAL_SELECTOR_SELECTOR_H
#define CORRAL_SELECTOR_SELECTOR_H
#include "common/base/buf.h"
#include "common/io/snapshot.h"
#include "common/policy/decide.h"
#include "common/store/db_thread.h"
#include "common/store/intake.h"
#include "common/svc/svc.h"
#include "events.pb-c.h"
#include "facts.pb-c.h"
#include "selector.pb-c.h"
#include "usage.pb-c.h"

struct selector_config {
	const char *selector_db;
	int64_t decision_keep, policy_every;
	double switch_margin;
	const char *cloud_prefer;
	double cloud_medium_left, cloud_quality;
	int64_t cloud_quality_answers;
	struct bus_config bus;
};

enum selector_metric { M_DECISIONS, M_DECISIONS_DEAD, M_POLICY_VERSION, M_EXPLAINED, M_DECIDED,
		       M_BUS, M_COUNT = M_BUS + INTAKE_N_METRICS };

enum { VERSIONS_KEPT = 64 };
struct version { struct snapshot_id id; struct str bytes; bool stored; };     /* bytes malloc'ed */

/* The last versions of one kind of snapshot, in memory; older ones only as far as decisions refer to them, in the database. Of both threads, under
 * the lock that decisions.c has. */
struct version_ring { const char *kind; struct version v[VERSIONS_KEPT]; unsigned next; };

struct cloud;

struct selector {
	struct svc *svc;
	const struct selector_config *cfg;
	struct db *db;                /* of the store, for its works alone */
	struct db_thread *store;
	struct snapshot_sub *models_sub, *experiments_sub;
	struct snapshot_pub *policy_pub;
	struct rpc_client *registry, *ledger, *ab_testing;
	struct version_ring models, policies, experiments;
	struct buf experiments_bytes; /* as heard last */
	struct snapshot_id experiments_id;
	struct arms arms;             /* of it, over policy_mem */
	struct buf policy;            /* packed, as published last */
	struct loop_timer policy_timer, clean_timer;
	Corral__Selector_Service rpc;
	Corral__Facts_Service facts;
	struct snapshot_id policy_id; /* of it */
	struct intake *intake;        /* decisions by Kafka, on the store's thread; NULL: by RPC alone */
	struct arena *mem, *policy_mem;       /* catalogue, and policy over it; rebuilt with each snapshot */
	struct catalogue cat;
	struct policy pol;
	bool built;
	struct buf models_bytes;      /* of the house, as heard last */
	struct snapshot_id models_id;
	struct cloud *cloud;
};

/* decisions.c: the log and its replay */
extern const char *const selector_statements[];
extern const unsigned selector_n_statements;
extern const struct db_migration selector_migrations[];
struct selector *selector_of_facts(Corral__Facts_Service *);
struct selector *selector_of_rpc(Corral__Selector_Service *);
void decisions_serve(struct selector *);
/* The database, on a thread that has not started yet and goes with db_thread_free(). loop NULL: it never starts. */
void decisions_open(struct selector *, struct loop *, struct db *);
bool decisions_read_bus(struct selector *, struct why *);     /* when it is configured; before the thread starts */
void decisions_clean(struct selector *, int64_t before_us);
void versions_note(struct version_ring *, struct snapshot_id, struct str bytes);
void versions_free(struct version_ring *);

/* cloud.c */
void cloud_open(struct selector *);           /* hears of providers */
void cloud_close(struct selector *);
void cloud_world(struct selector *);          /* the models of the house or the providers are others: puts them together */
void cloud_measure(struct selector *);        /* asks the ledger how good the models of the house are */
void cloud_policy(struct selector *, struct arena *, Corral__PolicySnapshot *);      /* its part of the policy */

/* policy.c */
void policy_serve(struct selector *);         /* Decide, and the policy that is published */
void policy_refresh(struct selector *);       /* asks for speeds; publishes when something changed */
void policy_rebuild(struct selector *, struct snapshot_id, struct str models);
void policy_experiments(struct selector *, struct snapshot_id, struct str experiments);
#endif

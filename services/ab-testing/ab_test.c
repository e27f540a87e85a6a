/* ab_test.c - experiments as they are kept: places, states, champions; outcomes into sums, once; what follows from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/id.h"
#include "common/store/db_test.h"
#include "common/store/spool.h"
#include "events.pb-c.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

#define T0 INT64_C(1795251600000000)

struct fixture { char dir[64], url[256]; struct ab ab; struct arena *mem; uint64_t seq; };

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) { return remove(path); }

static void open_it(struct fixture *f)
{
	struct why why = { 0 };

	memset(&f->ab, 0, sizeof(f->ab));
	list_init(&f->ab.trials);
	f->ab.mem = arena_new(0);
	f->ab.db = db_open(f->url, ab_sql, X_STATEMENTS, ab_migrations, &why);
	if (!f->ab.db || !trials_load(&f->ab, &why))
		fail_msg("%s", why.text);
}

static void close_it(struct fixture *f)
{
	herald_free(f->ab.events.herald);
	trials_free(&f->ab);
	arena_free(f->ab.mem);
	db_close(f->ab.db);
}

static int setup(void **state)
{
	struct fixture *f = x_calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/ab-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	test_db(f->dir, "experiments.db", ab_migrations, f->url, sizeof(f->url));
	f->mem = arena_new(0);
	open_it(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_it(f);
	arena_free(f->mem);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* --- making --- */

static Corral__CreateExperimentRequest *said(struct fixture *f, const char *name, const char *model_b, double traffic)
{
	Corral__CreateExperimentRequest *q = arena_new_of(f->mem, Corral__CreateExperimentRequest);
	Corral__Experiment *e = q->experiment = arena_new_of(f->mem, Corral__Experiment);

	corral__create_experiment_request__init(q);
	q->experiment = e;
	corral__experiment__init(e);
	e->name = (char *)name;
	e->namespace_ = (char *)"default";
	e->unit = (char *)"user";
	e->metric = (char *)"success";
	e->traffic_percent = traffic;
	e->auto_promote = true;
	e->arms = arena_array(f->mem, Corral__ExperimentArm *, 2);
	for (; e->n_arms < 2; e->n_arms++) {
		Corral__ExperimentArm *a = e->arms[e->n_arms] = arena_new_of(f->mem, Corral__ExperimentArm);

		corral__experiment_arm__init(a);
		a->name = (char *)(e->n_arms ? "b" : "a");
		a->model = (char *)(e->n_arms ? model_b : "one");
		a->weight = 1;
	}
	return q;
}

static Corral__ExperimentGuard *guard(struct fixture *f, const char *metric, double margin)
{
	Corral__ExperimentGuard *g = arena_new_of(f->mem, Corral__ExperimentGuard);

	corral__experiment_guard__init(g);
	g->metric = (char *)metric;
	g->margin = margin;
	return g;
}

static Corral__CreateExperimentRequest *guarded(struct fixture *f, const char *metric, double margin)
{
	Corral__CreateExperimentRequest *q = said(f, "guarded", "two", 100);

	q->experiment->guards = arena_array(f->mem, Corral__ExperimentGuard *, 1);
	q->experiment->guards[q->experiment->n_guards++] = guard(f, metric, margin);
	return q;
}

static struct trial *make(struct fixture *f, const Corral__CreateExperimentRequest *q)
{
	struct trial *t = NULL;
	struct why why = { 0 };

	if (trial_create(&f->ab, q, T0, &t, &why) != ERR_OK)
		fail_msg("%s", why.text);
	return t;
}

static size_t champions(struct fixture *f, const char **ret_model)
{
	Corral__Champion **at;
	struct why why;
	size_t n = 0;

	assert_true(trials_champions(&f->ab, f->mem, &at, &n, &why));
	*ret_model = n ? at[0]->arm->model : "";
	return n;
}

static enum err change(struct fixture *f, struct trial *t, Corral__ExperimentAct act, const char *arm, int64_t at_us)
{
	struct why why = { 0 };

	return trial_change(&f->ab, t, &(struct change){ act, arm, "because", false }, at_us, &why);
}

static void each_has_a_place_of_its_own(void **state)
{
	struct fixture *f = *state;
	struct trial *first = make(f, said(f, "first", "two", 60)), *third, *t;
	struct why why = { 0 };

	assert_int_equal(first->e->end_slot - first->e->first_slot, 6000);
	assert_int_equal(trial_create(&f->ab, said(f, "second", "two", 50), T0, &t, &why), ERR_CONFLICT);
	assert_string_equal(why.field, "namespace");
	third = make(f, said(f, "third", "two", 40));
	assert_int_equal(third->e->first_slot, 6000);
	assert_int_equal(change(f, first, CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0 + 1), ERR_OK);
	assert_int_equal(make(f, said(f, "fourth", "two", 60))->e->first_slot, 0);         /* in the place that was left */
	close_it(f);
	open_it(f);
	assert_int_equal(trial_create(&f->ab, said(f, "fifth", "two", 1), T0, &t, &why), ERR_CONFLICT);
}

static void states_follow_each_other(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 10));

	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_RESUME, "", T0), ERR_CONFLICT);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_PAUSE, "", T0), ERR_OK);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_RESUME, "", T0), ERR_OK);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, "c", T0), ERR_INVALID);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0), ERR_OK);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_RESUME, "", T0), ERR_CONFLICT);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", T0), ERR_CONFLICT);
	assert_true(trial_is_over(t->e) && t->e->ended_at_us == T0);
	assert_string_equal(t->e->reason, "because");
}

static void a_champion_is_followed_and_comes_back(void **state)
{
	struct fixture *f = *state;
	struct trial *first = make(f, said(f, "first", "two", 10)), *second = make(f, said(f, "second", "three", 10));
	const char *model;

	assert_int_equal(change(f, first, CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, "b", T0 + 10), ERR_OK);
	assert_int_equal(champions(f, &model), 1);
	assert_string_equal(model, "two");
	assert_int_equal(change(f, second, CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, "b", T0 + 20), ERR_OK);
	assert_int_equal(champions(f, &model), 1);
	assert_string_equal(model, "three");
	close_it(f);
	open_it(f);
	second = trial_find(&f->ab, list_entry(f->ab.trials.next->next, struct trial, node)->e->id);
	assert_int_equal(change(f, second, CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", T0 + 30), ERR_OK);
	assert_int_equal(champions(f, &model), 1);
	assert_string_equal(model, "two");
	assert_int_equal(change(f, list_entry(f->ab.trials.next, struct trial, node), CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", T0 + 40), ERR_OK);
	assert_int_equal(champions(f, &model), 0);
}

struct read_notes { struct fixture *f; Corral__AuditEntry *last; size_t n; };

static bool read_note(void *arg, const struct db_row *row)
{
	struct read_notes *r = arg;
	Corral__AccessFact *fact = ab_unpack(r->f->mem, &corral__access_fact__descriptor, db_str(row, 1));

	assert_non_null(fact);
	r->last = fact->entry;
	r->n++;
	return true;
}

/* How many deeds are noted for the audit log; the last one. */
static size_t notes(struct fixture *f, Corral__AuditEntry **ret)
{
	struct read_notes r = { .f = f };
	struct why why;

	assert_true(db_run(f->ab.db, X_NOTES, (struct db_value[]){ DB_I(0), DB_I(50) }, 2, read_note, &r, NULL, &why));
	*ret = r.last;
	return r.n;
}

/* --- events --- */

/* "started started paused": the kinds in the spool, in order. */
static const char *told(struct fixture *f)
{
	const char *all = "";
	struct why why;
	struct spool_reader *r = spool_reader_open(arena_printf(f->mem, "%s/spool/experiments-0", f->dir), 0, &why);
	struct str payload;
	uint64_t at, next;
	uint8_t type;

	assert_non_null(r);
	while (spool_read(r, &type, &payload, &at, &next, &why) > 0) {
		Corral__ExperimentEvent *e = ab_unpack(f->mem, &corral__experiment_event__descriptor, payload);

		assert_true(e && e->event_id.len == 16 && *e->experiment_id && *e->by);
		all = arena_printf(f->mem, "%s%s%s%s", all, *all ? " " : "", e->kind, *e->arm ? arena_printf(f->mem, ":%s/%s", e->arm, e->model) : "");
	}
	spool_reader_close(r);
	return all;
}

static bool count_it(void *arg, const struct db_row *row)
{
	*(int *)arg += 1;
	return db_int(row, 0) > 0;
}

static int waiting(struct fixture *f)
{
	struct why why;
	int n = 0;

	assert_true(db_run(f->ab.db, X_EVENTS, (struct db_value[]){ DB_I(0), DB_I(100) }, 2, count_it, &n, NULL, &why));
	return n;
}

static void tell_all(struct fixture *f)
{
	const struct herald_opts o = { .root = arena_printf(f->mem, "%s/spool", f->dir), .service = "ab-testing", .name = "experiments", .topic = "experiments.v1" };

	if (!f->ab.events.herald)
		f->ab.events.herald = herald_new(NULL, &o);
	for (int i = 0; i < 2000 && (news_send(&f->ab), f->ab.events.due); i++)
		usleep(10000);            /* for the spool's own thread to bring it to the disk */
	assert_false(f->ab.events.due);
	assert_int_equal(waiting(f), 0);
}

/* Kept with the deed, and told when the spool can be had: once, in order. */
static void what_becomes_of_experiments_is_told(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 10));
	struct why why = { 0 };

	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_PAUSE, "", T0), ERR_OK);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_PAUSE, "", T0), ERR_CONFLICT);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_RESUME, "", T0), ERR_OK);
	news_send(&f->ab);                /* no spool yet */
	assert_int_equal(waiting(f), 3);
	close_it(f);                      /* as a kill leaves it */
	open_it(f);
	tell_all(f);
	assert_string_equal(told(f), "started paused resumed");
	t = list_entry(f->ab.trials.next, struct trial, node);
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, "b", T0 - 5000000), ERR_OK);   /* a clock that was set back */
	assert_int_equal(trial_change(&f->ab, t, &(struct change){ CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK, "", "it broke", true, .guard_arm = "b", .guard_metric = "cost" },
				      T0 + 9, &why), ERR_OK);
	t = make(f, said(f, "other", "two", 10));
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0 + 9), ERR_OK);
	tell_all(f);
	assert_string_equal(told(f), "started paused resumed promoted:b/two guard_breached:b/two rolled_back started stopped");
	herald_free(f->ab.events.herald);
	f->ab.events.herald = NULL;
	tell_all(f);
	assert_string_equal(told(f), "started paused resumed promoted:b/two guard_breached:b/two rolled_back started stopped");
}

/* --- challengers, in virtual time --- */

#define DAY (86400 * INT64_C(1000000))

static Corral__Model *add_model(struct fixture *f, Corral__ModelSnapshot *s, const char *name, const char *digest, int64_t seen_us)
{
	static char *chats[] = { (char *)"completion" };
	Corral__Model *m = s->models[s->n_models++] = arena_new_of(f->mem, Corral__Model);
	Corral__Replica *r = s->replicas[s->n_replicas++] = arena_new_of(f->mem, Corral__Replica);

	corral__model__init(m);
	corral__replica__init(r);
	m->name = r->model = (char *)name;
	m->digest = (char *)digest;
	m->capabilities = chats, m->n_capabilities = 1;
	m->first_seen_us = seen_us;
	r->backend = (char *)"gpu";
	return m;
}

static Corral__ModelSnapshot *catalogue(struct fixture *f)
{
	Corral__ModelSnapshot *s = arena_new_of(f->mem, Corral__ModelSnapshot);

	corral__model_snapshot__init(s);
	s->models = arena_array(f->mem, Corral__Model *, 8);
	s->replicas = arena_array(f->mem, Corral__Replica *, 8);
	s->backends = arena_array(f->mem, Corral__Backend *, 1);
	s->backends[s->n_backends++] = arena_new_of(f->mem, Corral__Backend);
	corral__backend__init(s->backends[0]);
	s->backends[0]->name = (char *)"gpu";
	s->backends[0]->state = CORRAL__BACKEND_STATE__BACKEND_UP;
	return s;
}

static Corral__UsageReport *used(struct fixture *f, const char *most)
{
	const char *names[] = { "small", most, "gone" };
	Corral__UsageReport *u = arena_new_of(f->mem, Corral__UsageReport);

	corral__usage_report__init(u);
	u->rows = arena_array(f->mem, Corral__UsageRow *, 3);
	for (; u->n_rows < 3; u->n_rows++) {
		Corral__UsageRow *row = u->rows[u->n_rows] = arena_new_of(f->mem, Corral__UsageRow);

		corral__usage_row__init(row);
		row->groups = arena_array(f->mem, char *, 1);
		row->groups[row->n_groups++] = (char *)names[u->n_rows];
		row->requests = 10 * (u->n_rows + 1);
	}
	return u;
}

static size_t trials(const struct fixture *f)
{
	size_t n = 0;

	list_each(it, &f->ab.trials)
		n++;
	return n;
}

static struct trial *newest(const struct fixture *f) { return list_entry(f->ab.trials.prev, struct trial, node); }

/* Looks, when it is time to; how many experiments there are then. */
static size_t look(struct fixture *f, const Corral__ModelSnapshot *s, int64_t now_us)
{
	const struct challenger_rules rules = { 2, 7, false, "" };
	struct sight sight = { s, used(f, "large") };
	struct why why = { 0 };

	if (challengers_due(&f->ab, 7 * DAY, now_us) && !challengers_look(&f->ab, &rules, &sight, now_us, &why))
		fail_msg("%s", why.text);
	return trials(f);
}

static void is_tried(const struct trial *t, const char *name, const char *against)
{
	assert_string_equal(t->e->name, name);
	assert_string_equal(t->e->arms[0]->model, against);
	assert_string_equal(t->e->namespace_, "challengers");
	assert_string_equal(t->e->created_by, "system");
	assert_true(t->e->n_guards == 2 && !t->e->auto_promote && t->e->traffic_percent == 2 && t->e->end_slot - t->e->first_slot == 200);
}

static void a_new_model_is_tried_and_a_changed_one(void **state)
{
	struct fixture *f = *state;
	Corral__ModelSnapshot *s = catalogue(f);
	Corral__AuditEntry *line;
	struct trial *t;

	assert_int_equal(look(f, s, T0), 0);      /* nothing is here yet: no look */
	add_model(f, s, "large", "sha256:1", T0 - DAY);
	add_model(f, s, "small", "", T0 - DAY);
	assert_int_equal(look(f, s, T0), 0);
	add_model(f, s, "second", "sha256:3", T0 + 2 * DAY);
	add_model(f, s, "first", "sha256:2", T0 + DAY);
	add_model(f, s, "was away", "sha256:4", T0 - DAY);
	assert_int_equal(look(f, s, T0 + 3 * DAY), 0);    /* once a week */
	assert_int_equal(look(f, s, T0 + 7 * DAY), 1);
	t = newest(f);
	is_tried(t, "challenger: first (new)", "large");
	assert_int_equal(t->e->ends_at_us, T0 + 14 * DAY);
	assert_int_equal(notes(f, &line), 1);
	assert_string_equal(line->action, "tests.create");
	assert_string_equal(line->actor, "system");
	close_it(f);
	open_it(f);
	assert_int_equal(look(f, s, T0 + 13 * DAY), 1);
	assert_int_equal(look(f, s, T0 + 14 * DAY - 1), 1);
	assert_int_equal(change(f, newest(f), CORRAL__EXPERIMENT_ACT__ACT_PAUSE, "", T0 + 14 * DAY), ERR_OK);
	assert_int_equal(look(f, s, T0 + 14 * DAY), 1);   /* one is under way, if paused */
	assert_int_equal(change(f, newest(f), CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0 + 15 * DAY), ERR_OK);
	assert_int_equal(look(f, s, T0 + 21 * DAY), 2);
	is_tried(newest(f), "challenger: second (new)", "large");
	assert_int_equal(change(f, newest(f), CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0 + 22 * DAY), ERR_OK);
	assert_int_equal(look(f, s, T0 + 28 * DAY), 2);   /* all are known */
	s->models[0]->digest = (char *)"sha256:9";        /* the one that is used most was pulled again */
	assert_int_equal(look(f, s, T0 + 35 * DAY), 3);
	is_tried(newest(f), "challenger: large (updated)", "small");
	assert_int_equal(change(f, newest(f), CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0 + 36 * DAY), ERR_OK);
	assert_int_equal(look(f, s, T0 + 42 * DAY), 3);
}

static void who_can_be_no_challenger_is_left_alone(void **state)
{
	struct fixture *f = *state;
	static char *embeds[] = { (char *)"embedding" };
	Corral__ModelSnapshot *s = catalogue(f);
	const struct challenger_rules rules = { 2, 7, true, "small" };
	struct sight sight = { s, NULL };
	struct why why = { 0 };

	add_model(f, s, "large", "sha256:1", T0 - DAY);
	assert_int_equal(look(f, s, T0), 0);
	add_model(f, s, "vectors", "sha256:2", T0 + DAY)->capabilities = embeds;
	assert_int_equal(look(f, s, T0 + 7 * DAY), 0);
	add_model(f, s, "new", "sha256:3", T0 + 8 * DAY);
	assert_true(challengers_look(&f->ab, &rules, &sight, T0 + 14 * DAY, &why));       /* what it is to be compared with is not there */
	assert_int_equal(trials(f), 0);
	s->backends[0]->state = CORRAL__BACKEND_STATE__BACKEND_DOWN;
	assert_int_equal(look(f, s, T0 + 21 * DAY), 0);
	s->backends[0]->state = CORRAL__BACKEND_STATE__BACKEND_UP;
	add_model(f, s, "small", "", T0 - DAY);
	assert_true(challengers_look(&f->ab, &rules, &sight, T0 + 21 * DAY, &why));
	assert_int_equal(trials(f), 1);
	is_tried(newest(f), "challenger: new (new)", "small");
	assert_true(newest(f)->e->shadow);
	assert_int_equal(change(f, newest(f), CORRAL__EXPERIMENT_ACT__ACT_PROMOTE, "b", T0 + 22 * DAY), ERR_OK);
	add_model(f, s, "next", "sha256:4", T0 + 23 * DAY);
	assert_int_equal(look(f, s, T0 + 28 * DAY), 2);
	is_tried(newest(f), "challenger: next (new)", "new");     /* the champion of all */
}

/* --- outcomes --- */

struct of_request { unsigned number; const char *arm; bool ok; int said; unsigned rating; int64_t ms; };

static Corral__Outcome *outcome(struct fixture *f, const struct trial *t, struct of_request r)
{
	Corral__Outcome *o = arena_new_of(f->mem, Corral__Outcome);
	uint8_t *id = arena_zero(f->mem, 16);

	corral__outcome__init(o);
	memcpy(id, &r.number, sizeof(r.number));
	id[15] = (uint8_t)*r.arm;
	o->seq = ++f->seq;
	o->request_id = (ProtobufCBinaryData){ 16, id };
	o->experiment_id = t->e->id;
	o->arm = (char *)r.arm;
	o->unit = arena_printf(f->mem, "%s%u", r.arm, r.number);
	o->status = (char *)(r.ok ? "ok" : "error");
	o->request_us = r.ms * 1000;
	o->tokens = 100;
	o->cost_microusd = 7;
	o->said_good = r.said > 0;
	o->said_bad = r.said < 0;
	o->ratings = r.rating > 0;
	o->rating = r.rating;
	return o;
}

static void take(struct fixture *f, Corral__Outcome **rows, size_t n)
{
	Corral__OutcomesReply reply = CORRAL__OUTCOMES_REPLY__INIT;
	struct why why = { 0 };

	reply.n_rows = n;
	reply.rows = rows;
	if (!results_take(&f->ab, &reply, &why))
		fail_msg("%s", why.text);
}

static void take_one(struct fixture *f, const struct trial *t, struct of_request r)
{
	Corral__Outcome *o = outcome(f, t, r);

	take(f, &o, 1);
}

static Corral__ExperimentAnalysis analysis(struct fixture *f, const struct trial *t)
{
	Corral__ExperimentAnalysis a;

	judge_analyse(&f->ab, t, T0, f->mem, &a);
	return a;
}

static void an_outcome_counts_once_and_as_it_is_now(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 100));
	Corral__Outcome *again;
	Corral__ExperimentAnalysis a;

	take_one(f, t, (struct of_request){ 1, "b", true, 0, 0, 200 });
	again = outcome(f, t, (struct of_request){ 2, "b", true, 0, 0, 400 });
	take(f, &again, 1);
	take(f, &again, 1);                                          /* sent twice: its number is not new */
	a = analysis(f, t);
	assert_int_equal(a.arms[1]->requests, 2);
	assert_int_equal(a.arms[1]->units, 2);
	assert_true(a.arms[1]->success_rate == 1 && isnan(a.arms[1]->avg_rating) && fabs(a.arms[1]->avg_latency_ms - 300) < .001 && a.arms[1]->avg_tokens == 100);
	assert_true(isnan(a.arms[0]->success_rate) && isnan(a.arms[0]->avg_latency_ms));
	take_one(f, t, (struct of_request){ 2, "b", true, -1, 2, 400 });          /* somebody says it was not good: in the place of what it was */
	for (int round = 0; round < 2; round++) {
		a = analysis(f, t);
		assert_int_equal(a.arms[1]->requests, 2);
		assert_int_equal(a.arms[1]->ratings, 1);
		assert_true(a.arms[1]->success_rate == .5 && a.arms[1]->avg_rating == 2 && a.arms[1]->avg_cost_microusd == 7);
		close_it(f);                                         /* and the same after a restart */
		open_it(f);
		t = list_entry(f->ab.trials.next, struct trial, node);
		assert_int_equal(f->ab.cursor, f->seq);
	}
	again = outcome(f, t, (struct of_request){ 9, "nobody's", true, 0, 0, 1 });
	take(f, &again, 1);                                          /* of no arm: passed over */
	assert_int_equal(analysis(f, t).arms[1]->requests, 2);
}

static void sql(struct fixture *f, const char *text)
{
	struct why why = { 0 };

	if (!db_query(f->ab.db, text, NULL, 0, NULL, NULL, &why))
		fail_msg("%s", why.text);
}

static bool takes(struct fixture *f, Corral__Outcome *o)
{
	Corral__OutcomesReply reply = CORRAL__OUTCOMES_REPLY__INIT;
	struct why why = { 0 };

	reply.n_rows = 1;
	reply.rows = &o;
	return results_take(&f->ab, &reply, &why);
}

/* A batch fails, and what is kept cannot be read again at once, as when the server is gone: then it is read before anything more is counted. */
static void a_failed_batch_leaves_the_sums_as_they_were(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 100));
	Corral__Outcome *late;
	uint64_t before;

	take_one(f, t, (struct of_request){ 1, "b", true, 0, 0, 200 });
	take_one(f, t, (struct of_request){ 2, "b", true, 0, 0, 400 });
	sql(f, "ALTER TABLE tallies RENAME TO away");
	late = outcome(f, t, (struct of_request){ 3, "b", true, 0, 0, 600 });
	assert_false(takes(f, late));
	assert_false(takes(f, late));
	assert_true(f->ab.in_doubt);
	sql(f, "ALTER TABLE away RENAME TO tallies");
	assert_true(takes(f, late));
	assert_false(f->ab.in_doubt);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(analysis(f, t).arms[1]->requests, 3);
		assert_true(fabs(analysis(f, t).arms[1]->avg_latency_ms - 400) < .001);
		close_it(f);                                         /* and so it was written */
		open_it(f);
		t = list_entry(f->ab.trials.next, struct trial, node);
	}
	before = f->ab.cursor;
	take_one(f, t, (struct of_request){ 4, "b", true, 0, 0, 800 });
	late = outcome(f, t, (struct of_request){ 5, "b", true, 0, 0, 1000 });
	f->ab.cursor = before;                                       /* the commit was done, and not answered */
	f->ab.in_doubt = true;
	assert_true(takes(f, late));
	assert_int_equal(analysis(f, t).arms[1]->requests, 5);
	assert_int_equal(f->ab.cursor, f->seq);
}

/* n of each arm; of 'b' every 'bad'-th is said to be bad. */
static void many_from(struct fixture *f, const struct trial *t, unsigned from, unsigned n, unsigned bad_a, unsigned bad_b)
{
	Corral__Outcome **rows = arena_array(f->mem, Corral__Outcome *, 2 * n);
	size_t k = 0;

	for (unsigned i = 0; i < n; i++) {
		rows[k++] = outcome(f, t, (struct of_request){ from + i, "a", true, bad_a && i % bad_a == 0 ? -1 : 1, 0, 200 });
		rows[k++] = outcome(f, t, (struct of_request){ from + i, "b", true, bad_b && i % bad_b == 0 ? -1 : 1, 0, 200 });
	}
	take(f, rows, k);
}

static void many(struct fixture *f, const struct trial *t, unsigned n, unsigned bad_a, unsigned bad_b) { many_from(f, t, 1000, n, bad_a, bad_b); }

static Corral__ExperimentState judged(struct fixture *f, struct trial *t, int64_t now_us)
{
	struct why why = { 0 };

	if (!judge_all(&f->ab, now_us, &why))
		fail_msg("%s", why.text);
	return t->e->state;
}

static void a_broken_guard_rolls_back(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, guarded(f, "success", .1));
	Corral__AuditEntry *line;

	many(f, t, 60, 0, 0);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	assert_string_equal(analysis(f, t).verdict, "no difference is sure yet");
	many(f, t, 60, 0, 1);
	assert_int_equal(judged(f, t, T0 + 2000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_ROLLED_BACK);
	assert_non_null(strstr(t->e->reason, "guard success broke"));
	assert_int_equal(analysis(f, t).n_history, 2);
	assert_int_equal(notes(f, &line), 1);
	assert_string_equal(line->action, "tests.rollback");
	assert_string_equal(line->actor, "system");
	assert_string_equal(line->object, t->e->id);
	assert_non_null(strstr(line->detail, "guard success broke: arm 'b'"));
	tell_all(f);
	assert_string_equal(told(f), "started guard_breached:b/two rolled_back");
}

static struct trial *again(struct fixture *f)
{
	close_it(f);
	open_it(f);
	return list_entry(f->ab.trials.next, struct trial, node);
}

/* On the whole it is worse by less than the margin; of late it is bad. What is known of that outlasts a restart. */
static void an_arm_that_turns_bad_after_long_rolls_back(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, guarded(f, "success", .1));

	many_from(f, t, 0, 2000, 20, 20);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	many_from(f, t, 10000, 40, 20, 1);
	t = again(f);
	assert_int_equal(judged(f, t, T0 + 2000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	many_from(f, t, 20000, 40, 20, 1);
	t = again(f);
	assert_int_equal(judged(f, t, T0 + 3000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_ROLLED_BACK);
	assert_non_null(strstr(t->e->reason, "guard success broke of late: arm 'b' has success of 0.0 %"));
	assert_true(analysis(f, t).arms[1]->success_rate > .9);
}

/* A window takes what is learnt of old requests too: those that counted as good, because they were answered, are said to be bad. */
static void words_that_come_late_are_news(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, guarded(f, "rating", .5));

	for (unsigned i = 0; i < 700; i++) {
		take_one(f, t, (struct of_request){ i, "a", true, 0, 5, 200 });
		take_one(f, t, (struct of_request){ i, "b", true, 0, 5, 200 });
	}
	assert_int_equal(t->lately[METRIC_RATING].number[0], 8);
	for (unsigned i = 0; i < 90; i++) {
		take_one(f, t, (struct of_request){ i, "a", true, 0, 4, 200 });
		take_one(f, t, (struct of_request){ i, "b", true, 0, 1, 200 });
	}
	assert_int_equal(t->arms[1].late[METRIC_RATING].in[0].n, 90);
	assert_true(t->arms[1].late[METRIC_RATING].in[0].sum == 90 && t->arms[1].of[METRIC_RATING].n == 700);
	take_one(f, t, (struct of_request){ 1, "b", true, 0, 2, 200 });          /* of one that the window has: in its place */
	assert_true(t->arms[1].late[METRIC_RATING].in[0].n == 90 && t->arms[1].late[METRIC_RATING].in[0].sum == 91);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_ROLLED_BACK);
}

static void a_winner_is_promoted_when_its_guards_are_clear(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, guarded(f, "latency", .5));
	const char *model;

	many(f, t, 300, 2, 0);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_PROMOTED);
	assert_string_equal(t->e->winner, "b");
	assert_int_equal(champions(f, &model), 1);
	assert_string_equal(model, "two");
	assert_string_equal(analysis(f, t).winner, "b");
	assert_true(analysis(f, t).arms[1]->probability_best > .99 && analysis(f, t).confidence > .95);
}

static void without_leave_nothing_is_promoted_and_time_ends_it(void **state)
{
	struct fixture *f = *state;
	Corral__CreateExperimentRequest *q = said(f, "by hand", "two", 100);
	struct trial *t;

	q->experiment->auto_promote = false;
	q->duration_days = 1;
	t = make(f, q);
	many(f, t, 300, 2, 0);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	assert_string_equal(analysis(f, t).winner, "b");
	assert_int_equal(judged(f, t, T0 + INT64_C(86400000000)), CORRAL__EXPERIMENT_STATE__EXPERIMENT_STOPPED);
	assert_non_null(strstr(t->e->reason, "its time is over: arm 'b'"));
}

static void when_no_arm_is_better_it_stops(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 100));

	many(f, t, 300, 0, 2);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_STOPPED);
	assert_string_equal(t->e->winner, "a");
}

/* Who is in an arm is not as it was drawn: what the arms say cannot be trusted. */
static int rows_of(struct fixture *f, const char *table, const char *id)
{
	static const char *const sql[] = { "SELECT 1 FROM outcomes WHERE experiment_id = ?1", "SELECT 1 FROM units WHERE experiment_id = ?1" };
	struct why why = { 0 };
	struct db *db = db_open(f->url, sql, 2, ab_migrations, &why);
	int n = 0;

	if (!db || !db_run(db, *table == 'u', (struct db_value[]){ DB_Z(id) }, 1, count_it, &n, NULL, &why))
		fail_msg("%s", why.text);
	db_close(db);
	return n;
}

/* Until nothing is removed any more; how many rows it was. */
static int64_t pruned(struct fixture *f, int64_t now_us)
{
	struct why why = { 0 };
	int64_t sum = 0, removed;

	do {
		if (!prune(&f->ab, 90 * DAY, now_us, &removed, &why))
			fail_msg("%s", why.text);
		sum += removed;
	} while (removed);
	return sum;
}

static void what_ended_long_ago_is_removed_but_for_its_figures(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "old", "two", 50)), *runs = make(f, said(f, "runs", "two", 50));
	char id[40];

	snprintf(id, sizeof(id), "%s", t->e->id);
	many(f, t, 300, 2, 0);
	take_one(f, runs, (struct of_request){ 7, "b", true, 0, 0, 100 });
	assert_int_equal(change(f, t, CORRAL__EXPERIMENT_ACT__ACT_STOP, "", T0), ERR_OK);
	assert_int_equal(pruned(f, T0 + 90 * DAY - 1), 0);
	assert_true(rows_of(f, "outcomes", id) == 600 && rows_of(f, "units", id) == 600 && t->e->closed_at_us == 0);
	assert_int_equal(pruned(f, T0 + 90 * DAY), 1200);
	assert_true(rows_of(f, "outcomes", id) == 0 && rows_of(f, "units", id) == 0);
	assert_true(rows_of(f, "outcomes", runs->e->id) == 1 && rows_of(f, "units", runs->e->id) == 1);
	for (int again = 0; again < 2; again++) {
		take_one(f, t, (struct of_request){ 1000, "a", true, 1, 5, 100 });        /* somebody says something all the same */
		assert_true(analysis(f, t).arms[0]->requests == 300 && analysis(f, t).arms[0]->success_rate == .5 && analysis(f, t).arms[0]->ratings == 0);
		assert_int_equal(rows_of(f, "outcomes", id), 0);
		close_it(f);
		open_it(f);
		t = trial_find(&f->ab, id);
		assert_true(t && t->e->closed_at_us == T0 + 90 * DAY);
		assert_int_equal(pruned(f, T0 + 91 * DAY), 0);
	}
}

/* Of a shadow nobody has said anything, and it runs where there is room: neither words nor proportions count. */
static void a_shadow_counts_by_its_answers_alone(void **state)
{
	struct fixture *f = *state;
	Corral__CreateExperimentRequest *q = guarded(f, "success", .1);
	struct why why = { 0 };
	struct trial *t;

	q->experiment->shadow = true;
	assert_int_equal(trial_create(&f->ab, q, T0, &t, &why), ERR_INVALID);
	assert_string_equal(why.field, "auto_promote");
	q->experiment->auto_promote = false;
	t = make(f, q);
	for (unsigned i = 0; i < 400; i++)
		take_one(f, t, (struct of_request){ i, "a", true, -1, 1, 100 });
	for (unsigned i = 0; i < 60; i++)
		take_one(f, t, (struct of_request){ i, "b", true, 0, 0, 50 });
	assert_true(judge_all(&f->ab, T0 + 1000000, &why));
	assert_int_equal(t->e->state, CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	assert_true(t->e->split_at_us == 0 && analysis(f, t).sample_ratio_p == 1 && !analysis(f, t).sample_ratio_alarm);
	assert_true(analysis(f, t).arms[0]->success_rate == 1 && analysis(f, t).arms[0]->ratings == 0 && analysis(f, t).arms[1]->avg_tokens == 100);
}

static void units_out_of_proportion_promote_nobody(void **state)
{
	struct fixture *f = *state;
	struct trial *t = make(f, said(f, "one", "two", 100));
	Corral__Outcome **rows = arena_array(f->mem, Corral__Outcome *, 1000);
	Corral__AuditEntry *line;
	size_t k = 0;

	for (unsigned i = 0; i < 1000; i++)
		rows[k++] = outcome(f, t, (struct of_request){ i, i % 5 ? "b" : "a", true, i % 5 || i % 2 ? 1 : -1, 0, 100 });
	take(f, rows, k);
	assert_int_equal(judged(f, t, T0 + 1000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	assert_true(analysis(f, t).sample_ratio_alarm && analysis(f, t).sample_ratio_p < .001);
	assert_non_null(strstr(analysis(f, t).verdict, "proportion"));
	take_one(f, t, (struct of_request){ 2000, "b", true, 1, 0, 100 });
	assert_int_equal(judged(f, t, T0 + 2000000), CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING);
	assert_int_equal(notes(f, &line), 1);                        /* said once, as it was then */
	assert_string_equal(line->action, "tests.split");
	assert_non_null(strstr(line->detail, "a 200 (weight 1), b 800 (weight 1)"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_has_a_place_of_its_own), T(states_follow_each_other), T(a_champion_is_followed_and_comes_back),
		T(an_outcome_counts_once_and_as_it_is_now), T(a_failed_batch_leaves_the_sums_as_they_were), T(a_broken_guard_rolls_back),
		T(an_arm_that_turns_bad_after_long_rolls_back), T(words_that_come_late_are_news),
		T(a_winner_is_promoted_when_its_guards_are_clear),
		T(without_leave_nothing_is_promoted_and_time_ends_it), T(when_no_arm_is_better_it_stops), T(a_shadow_counts_by_its_answers_alone),
		T(what_becomes_of_experiments_is_told), T(a_new_model_is_tried_and_a_changed_one),
		T(who_can_be_no_challenger_is_left_alone), T(what_ended_long_ago_is_removed_but_for_its_figures),
		 T(units_out_of_proportion_promote_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

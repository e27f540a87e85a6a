/* challengers.c - models that are new here, or were changed, tried by themselves against the one that is used most, one at a time.
 *
 * A look at what the model-registry has: the first one only notes what there is. A later one finds models that were not there, or whose digest is
 * another, and begins an experiment with the one that was found first; the others wait for the next look. What was tried is noted in the
 * transaction that begins its experiment, so each is tried once. */
#include <stdlib.h>

#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

#define SPACE "challengers"

/* --- what there is --- */

static bool can(const Corral__Model *m, const char *what)
{
	for (size_t i = 0; i < m->n_capabilities; i++)
		if (strcmp(m->capabilities[i], what) == 0)
			return true;
	return false;
}

static bool is_up(const Corral__ModelSnapshot *s, const char *backend)
{
	for (size_t i = 0; i < s->n_backends; i++)
		if (strcmp(s->backends[i]->name, backend) == 0)
			return s->backends[i]->state == CORRAL__BACKEND_STATE__BACKEND_UP && !s->backends[i]->cloud;
	return false;
}

/* It chats, and a backend of the house that is up has it. */
static bool is_usable(const Corral__ModelSnapshot *s, const Corral__Model *m)
{
	if (m->n_capabilities && !can(m, "completion"))
		return false;
	for (size_t i = 0; i < s->n_replicas; i++)
		if (strcmp(s->replicas[i]->model, m->name) == 0 && is_up(s, s->replicas[i]->backend))
			return true;
	return false;
}

static const Corral__Model *model_of(const Corral__ModelSnapshot *s, const char *name)
{
	for (size_t i = 0; i < s->n_models; i++)
		if (strcmp(s->models[i]->name, name) == 0)
			return s->models[i];
	return NULL;
}

/* --- what is known --- */

struct known { char digest[256]; bool found; };

static bool take_known(void *arg, const struct db_row *row)
{
	struct known *k = arg;

	(void)str_copy(k->digest, sizeof(k->digest), db_str(row, 0));
	return k->found = true;
}

static bool note_model(struct ab *ab, const Corral__Model *m, int64_t now_us, struct why *why)
{
	return db_run(ab->db, X_KNOWN_PUT, (struct db_value[]){ DB_Z(m->name), DB_Z(m->digest), DB_I(now_us) }, 3, NULL, NULL, NULL, why);
}

static bool take_look(void *arg, const struct db_row *row)
{
	struct ab *ab = arg;

	ab->looked_us = db_int(row, 0);
	ab->first_look_us = db_int(row, 1);
	return true;
}

bool challengers_load(struct ab *ab, struct why *why) { return db_run(ab->db, X_LOOK, NULL, 0, take_look, ab, NULL, why); }

static bool note_look(struct ab *ab, int64_t now_us, struct why *why)
{
	if (!db_run(ab->db, X_LOOK_PUT, (struct db_value[]){ DB_I(now_us) }, 1, NULL, NULL, NULL, why))
		return false;
	ab->looked_us = now_us;
	if (!ab->first_look_us)
		ab->first_look_us = now_us;
	return true;
}

bool challengers_due(const struct ab *ab, int64_t every_us, int64_t now_us)
{
	return !ab->looked_us || now_us - ab->looked_us >= every_us || now_us < ab->looked_us;
}

/* --- who against whom --- */

struct found { const Corral__Model *model; bool updated; };

/* One that was here before the first look, on a backend that was away then, is not new. */
static bool is_news(struct ab *ab, const Corral__Model *m, bool *ret, bool *ret_updated, struct why *why)
{
	struct known k = { 0 };

	if (!db_run(ab->db, X_KNOWN, (struct db_value[]){ DB_Z(m->name) }, 1, take_known, &k, NULL, why))
		return false;
	*ret_updated = k.found && *k.digest && *m->digest && strcmp(k.digest, m->digest) != 0;
	*ret = *ret_updated || (!k.found && m->first_seen_us > ab->first_look_us);
	return true;
}

/* The first one that was found, of those that nobody has tried. Without a look before, all are noted, and none is news. *ret_any: there are models. */
static bool find(struct ab *ab, const Corral__ModelSnapshot *s, int64_t now_us, struct found *ret, bool *ret_any, struct why *why)
{
	*ret = (struct found){ 0 };
	*ret_any = false;
	for (size_t i = 0; i < s->n_models; i++) {
		const Corral__Model *m = s->models[i];
		bool news = false, updated = false;

		if (!is_usable(s, m))
			continue;
		*ret_any = true;
		if (!ab->looked_us ? !note_model(ab, m, now_us, why) : !is_news(ab, m, &news, &updated, why))
			return false;
		if (news && (!ret->model || m->first_seen_us < ret->model->first_seen_us))
			*ret = (struct found){ m, updated };
	}
	return true;
}

static bool may_be(const struct sight *s, const char *name, const Corral__Model *challenger)
{
	const Corral__Model *m = model_of(s->models, name);

	return m && m != challenger && is_usable(s->models, m);
}

static bool is_of_all(const Corral__Champion *h)
{
	return !h->of_one_model && (!h->filter || (!*h->filter->task_type && !*h->filter->language && !*h->filter->tenant));
}

/* The one that was named; else the champion of all; else the one that most requests went to. NULL = there is none. */
static const char *incumbent(struct ab *ab, const struct challenger_rules *o, const struct sight *s, const Corral__Model *challenger, struct arena *mem)
{
	Corral__Champion **champions;
	const char *best = NULL;
	uint64_t most = 0;
	struct why why;
	size_t n = 0;

	if (*o->against)
		return may_be(s, o->against, challenger) ? o->against : NULL;
	(void)trials_champions(ab, mem, &champions, &n, &why);
	for (size_t i = 0; i < n; i++)
		if (is_of_all(champions[i]) && may_be(s, champions[i]->arm->model, challenger))
			return champions[i]->arm->model;
	for (size_t i = 0; s->used && i < s->used->n_rows; i++) {
		const Corral__UsageRow *row = s->used->rows[i];

		if (row->n_groups && row->requests > most && may_be(s, row->groups[0], challenger)) {
			best = row->groups[0];
			most = row->requests;
		}
	}
	return best;
}

/* --- its experiment --- */

static bool is_under_way(const struct ab *ab)
{
	list_each(it, &ab->trials) {
		const Corral__Experiment *e = list_entry(it, struct trial, node)->e;

		if (!trial_is_over(e) && strcmp(e->namespace_, SPACE) == 0)
			return true;
	}
	return false;
}

static Corral__ExperimentArm *arm_new(struct arena *mem, const char *name, const char *model)
{
	Corral__ExperimentArm *a = arena_alloc(mem, sizeof(*a));

	corral__experiment_arm__init(a);
	a->name = (char *)name;
	a->model = (char *)model;
	a->weight = 1;
	return a;
}

static Corral__ExperimentGuard *guard_new(struct arena *mem, const char *metric)
{
	Corral__ExperimentGuard *g = arena_alloc(mem, sizeof(*g));

	corral__experiment_guard__init(g);
	g->metric = (char *)metric;
	g->margin = 0.05;
	return g;
}

static Corral__Experiment *experiment_new(struct arena *mem, const struct challenger_rules *o, const struct found *f, const char *against)
{
	Corral__Experiment *e = arena_alloc(mem, sizeof(*e));

	corral__experiment__init(e);
	e->name = arena_printf(mem, "challenger: %.60s (%s)", f->model->name, f->updated ? "updated" : "new");
	e->namespace_ = (char *)SPACE;
	e->unit = (char *)"user";
	e->metric = (char *)"success";
	e->traffic_percent = o->traffic_percent;
	e->shadow = o->shadow;
	e->arms = arena_array(mem, Corral__ExperimentArm *, 2);
	e->arms[e->n_arms++] = arm_new(mem, "a", against);
	e->arms[e->n_arms++] = arm_new(mem, "b", f->model->name);
	e->guards = arena_array(mem, Corral__ExperimentGuard *, 2);
	e->guards[e->n_guards++] = guard_new(mem, "success");
	e->guards[e->n_guards++] = guard_new(mem, "error");
	return e;
}

struct tried { const Corral__Model *model; const char *words; };

static bool note_tried(struct ab *ab, const Corral__Experiment *e, void *arg, int64_t now_us, struct why *why)
{
	const struct tried *t = arg;

	return note_model(ab, t->model, now_us, why) && note_deed(ab, e, "tests.create", t->words, now_us, why);
}

static enum err try(struct ab *ab, const struct challenger_rules *o, const struct found *f, const char *against, int64_t now_us, struct arena *mem, struct why *why)
{
	Corral__CreateExperimentRequest q = CORRAL__CREATE_EXPERIMENT_REQUEST__INIT;
	Corral__Caller system = CORRAL__CALLER__INIT;
	struct tried t = { f->model, arena_printf(mem, "%.80s %s; tried against %.80s", f->model->name, f->updated ? "was updated" : "is new here", against) };
	struct trial *made;

	system.key_id = (char *)"system";
	q.caller = &system;
	q.experiment = experiment_new(mem, o, f, against);
	q.duration_days = o->days;
	return trial_begin(ab, &q, &(struct trial_also){ note_tried, &t }, now_us, &made, why);
}

/* One that cannot be tried now is still news at the next look. */
static bool look(struct ab *ab, const struct challenger_rules *o, const struct sight *s, int64_t now_us, struct arena *mem, struct why *why)
{
	const char *against;
	struct found f;
	bool any;

	if (!find(ab, s->models, now_us, &f, &any, why))
		return false;
	if (!any)                         /* the registry has just begun, or everything is down: that is no look */
		return true;
	if (f.model && !is_under_way(ab)) {
		against = incumbent(ab, o, s, f.model, mem);
		if (!against)
			LOG_INFO("a new model is not tried: there is none to compare it with", LOG_S("model", f.model->name));
		else if (try(ab, o, &f, against, now_us, mem, why) == ERR_STORE_FAILED)
			return false;
		else if (why->code != ERR_OK)
			LOG_WARN("a new model is not tried", LOG_S("model", f.model->name), LOG_S("error", why->text));
		else
			LOG_INFO("a challenger is tried", LOG_S("model", f.model->name), LOG_S("against", against));
	}
	return note_look(ab, now_us, why);
}

bool challengers_look(struct ab *ab, const struct challenger_rules *o, const struct sight *s, int64_t now_us, struct why *why)
{
	struct arena *mem = arena_new(4096);
	bool ok;

	why_clear(why);
	ok = look(ab, o, s, now_us, mem, why);
	arena_free(mem);
	return ok;
}

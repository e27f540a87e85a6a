/* trials.c - experiments and champions as they are kept, their states, and the snapshot that gateways decide by. */
#include <math.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/id.h"
#include "common/data/log.h"
#include "services/ab-testing/ab.h"
#include "services/ab-testing/sql.h"

static void *in_arena(void *arena, size_t n) { return arena_alloc(arena, n); }
static void not_freed(void *arena, void *p) { (void)arena, (void)p; }

void *ab_unpack(struct arena *mem, const ProtobufCMessageDescriptor *d, struct str body)
{
	ProtobufCAllocator a = { in_arena, not_freed, mem };

	return protobuf_c_message_unpack(d, &a, body.n, (const uint8_t *)body.p);
}

struct str ab_pack(struct arena *mem, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	char *p = arena_alloc(mem, n + 1);

	protobuf_c_message_pack(m, (uint8_t *)p);
	return str_n(p, n);
}

/* A copy to be changed. */
static Corral__Experiment *copy(struct arena *mem, const Corral__Experiment *e)
{
	return ab_unpack(mem, &corral__experiment__descriptor, ab_pack(mem, &e->base));
}

bool trial_is_over(const Corral__Experiment *e)
{
	return e->state != CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING && e->state != CORRAL__EXPERIMENT_STATE__EXPERIMENT_PAUSED;
}

struct trial *trial_find(const struct ab *ab, const char *id)
{
	list_each(it, &ab->trials)
		if (strcmp(list_entry(it, struct trial, node)->e->id, id) == 0)
			return list_entry(it, struct trial, node);
	return NULL;
}

int trial_arm(const struct trial *t, const char *arm)
{
	for (size_t i = 0; i < t->e->n_arms; i++)
		if (strcmp(t->e->arms[i]->name, arm) == 0)
			return (int)i;
	return -1;
}

/* --- load --- */

static struct trial *add(struct ab *ab, struct arena *mem, Corral__Experiment *e)
{
	struct trial *t = x_calloc(1, sizeof(*t));

	t->mem = mem;
	t->e = e;
	list_push(&ab->trials, &t->node);
	return t;
}

static bool load_one(void *arg, const struct db_row *row)
{
	struct ab *ab = arg;
	struct arena *mem = arena_new(2048);
	Corral__Experiment *e = ab_unpack(mem, &corral__experiment__descriptor, db_str(row, 0));

	if (e && e->n_arms >= 2 && e->n_arms <= EXPERIMENT_ARMS) {
		(void)add(ab, mem, e);
	} else {
		LOG_ERROR("an experiment that is kept cannot be read, and is left out");
		arena_free(mem);
	}
	return true;
}

bool trials_load(struct ab *ab, struct why *why)
{
	ab->in_doubt = true;
	return db_run(ab->db, X_EXPERIMENTS, NULL, 0, load_one, ab, NULL, why) && notes_load(ab, why) && news_load(ab, why) && challengers_load(ab, why) &&
	       results_load(ab, why);
}

void trials_free(struct ab *ab)
{
	list_each_safe(it, &ab->trials) {
		struct trial *t = list_entry(it, struct trial, node);

		list_del(&t->node);
		arena_free(t->mem);
		free(t);
	}
}

/* --- the snapshot --- */

struct champions { struct arena *mem; Corral__Champion *at[1024]; size_t n; };

static bool take_champion(void *arg, const struct db_row *row)
{
	struct champions *c = arg;
	Corral__Champion *h = ab_unpack(c->mem, &corral__champion__descriptor, db_str(row, 0));

	if (h && h->arm && c->n < sizeof(c->at) / sizeof(*c->at))
		c->at[c->n++] = h;
	return true;
}

static int words_of(const Corral__ExperimentFilter *f) { return f ? (*f->task_type != 0) + (*f->language != 0) + (*f->tenant != 0) : 0; }

/* Those with most of a filter first, of equal ones the newest. */
static int closer(const void *a, const void *b)
{
	const Corral__Champion *x = *(Corral__Champion *const *)a, *y = *(Corral__Champion *const *)b;
	int by = words_of(y->filter) - words_of(x->filter);

	return by ? by : (y->since_us > x->since_us) - (y->since_us < x->since_us);
}

static bool champions_of(struct ab *ab, struct champions *c, struct why *why)
{
	if (!db_run(ab->db, X_CHAMPIONS, NULL, 0, take_champion, c, NULL, why))
		return false;
	qsort(c->at, c->n, sizeof(*c->at), closer);
	return true;
}

bool trials_champions(struct ab *ab, struct arena *mem, Corral__Champion ***ret, size_t *ret_n, struct why *why)
{
	struct champions *c = arena_new_of(mem, struct champions);

	c->mem = mem;
	*ret = c->at;
	if (!champions_of(ab, c, why))
		return false;
	*ret_n = c->n;
	return true;
}

bool trials_publish(struct ab *ab, struct why *why)
{
	Corral__ExperimentSnapshot s = CORRAL__EXPERIMENT_SNAPSHOT__INIT;
	struct arena *mem = arena_new(8192);
	size_t n = 0;
	bool ok;

	list_each(it, &ab->trials)
		n++;
	s.experiments = arena_array(mem, Corral__Experiment *, n + 1);
	list_each(it, &ab->trials)
		if (list_entry(it, struct trial, node)->e->state == CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING)
			s.experiments[s.n_experiments++] = list_entry(it, struct trial, node)->e;
	ok = trials_champions(ab, mem, &s.champions, &s.n_champions, why);
	if (ok && ab->pub)
		(void)snapshot_publish(ab->pub, ab_pack(mem, &s.base));
	arena_free(mem);
	return ok;
}

/* --- a new one --- */

/* Its part of the namespace, of those that are not over. */
static enum err claim(struct ab *ab, Corral__Experiment *e, struct why *why)
{
	struct experiment *others, own;
	struct experiment_view view = { 0 };
	uint16_t slots = (uint16_t)lround(e->traffic_percent * NAMESPACE_SLOTS / 100);
	size_t n = 0;
	enum err err;

	list_each(it, &ab->trials)
		n++;
	others = x_calloc(n + 1, sizeof(*others));
	list_each(it, &ab->trials) {
		const Corral__Experiment *o = list_entry(it, struct trial, node)->e;
		struct why ignored;

		if (!trial_is_over(o) && arms_experiment(&others[view.n], o, &ignored) == ERR_OK)
			view.n++;
	}
	view.at = others;
	err = arms_experiment(&own, e, why);
	if (err == ERR_OK)
		err = experiment_claim(&own, slots ? slots : 1, &view, why);
	e->first_slot = own.first_slot;
	e->end_slot = own.end_slot;
	free(others);
	return err;
}

static enum err complete(struct ab *ab, const Corral__CreateExperimentRequest *q, Corral__Experiment *e, struct arena *mem, int64_t now_us, struct why *why)
{
	struct uuid id = uuid_v7(now_us);

	e->id = arena_alloc(mem, 37);
	uuid_format(id, e->id);
	e->created_at_us = e->changed_at_us = now_us;
	e->ends_at_us = q->duration_days > 0 ? now_us + (int64_t)(q->duration_days * 86400e6) : 0;
	e->ended_at_us = 0;
	e->state = CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING;
	e->winner = e->reason = (char *)"";
	e->created_by = (char *)(q->caller && *q->caller->key_id ? q->caller->key_id : "no key");
	return arms_check(e, why) ? why->code : claim(ab, e, why);
}

static bool put(struct ab *ab, struct arena *mem, const Corral__Experiment *e, struct why *why)
{
	return db_run(ab->db, X_EXPERIMENT_PUT, (struct db_value[]){ DB_Z(e->id), DB_I(e->created_at_us), DB_B(ab_pack(mem, &e->base)) }, 3, NULL, NULL, NULL, why);
}

static bool put_new(struct ab *ab, struct arena *mem, const Corral__Experiment *e, const struct trial_also *also, int64_t now_us, struct why *why)
{
	const struct news started = { "started", "", "", "", e->created_by };

	if (!db_begin(ab->db, why))
		return false;
	if (put(ab, mem, e, why) && news_note(ab, e, &started, now_us, why) && (!also || also->write(ab, e, also->arg, now_us, why)) && db_commit(ab->db, why))
		return true;
	db_rollback(ab->db);
	return false;
}

enum err trial_create(struct ab *ab, const Corral__CreateExperimentRequest *q, int64_t now_us, struct trial **ret, struct why *why)
{
	return trial_begin(ab, q, NULL, now_us, ret, why);
}

enum err trial_begin(struct ab *ab, const Corral__CreateExperimentRequest *q, const struct trial_also *also, int64_t now_us, struct trial **ret, struct why *why)
{
	struct arena *mem = arena_new(2048);
	Corral__Experiment *e = copy(mem, q->experiment);
	enum err err = complete(ab, q, e, mem, now_us, why);

	if (err == ERR_OK && !put_new(ab, mem, e, also, now_us, why))
		err = why->code;
	if (err != ERR_OK) {
		arena_free(mem);
		return err;
	}
	*ret = add(ab, mem, e);
	results_begin(*ret);
	return trials_publish(ab, why) ? ERR_OK : why->code;
}

/* --- champions --- */

/* What there is one champion of: a filter, and for parameters and prompts the model that they are of. */
static const char *scope_of(struct arena *mem, const Corral__ExperimentFilter *f, const char *one_model)
{
	struct buf b = { 0 };
	const char *words[] = { f ? f->task_type : "", f ? f->language : "", f ? f->tenant : "", one_model };
	char *out;

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		buf_addz(&b, words[i]);
		buf_char(&b, '\n');
	}
	out = arena_dup(mem, b.p, b.n);
	buf_free(&b);
	return out;
}

static bool crown(struct ab *ab, const Corral__Experiment *e, Corral__ExperimentArm *arm, struct arena *mem, int64_t now_us, struct why *why)
{
	Corral__Champion h = CORRAL__CHAMPION__INIT;
	bool one = arms_of_one_model(e);
	const char *scope = scope_of(mem, e->filter, one ? arm->model : "");

	h.filter = e->filter;
	h.arm = arm;
	h.experiment_id = e->id;
	h.since_us = now_us;
	h.of_one_model = one;
	return db_run(ab->db, X_CHAMPION_END, (struct db_value[]){ DB_Z(scope), DB_I(now_us) }, 2, NULL, NULL, NULL, why) &&
	       db_run(ab->db, X_CHAMPION_ADD, (struct db_value[]){ DB_Z(scope), DB_Z(e->id), DB_I(now_us), DB_B(ab_pack(mem, &h.base)) }, 4, NULL, NULL, NULL, why);
}

struct reign { struct arena *mem; const char *scope; int64_t since_us, before; };

static bool take_reign(void *arg, const struct db_row *row)
{
	struct reign *r = arg;

	r->scope = arena_str(r->mem, db_str(row, 0)).p;
	r->since_us = db_int(row, 1);
	return true;
}

static bool take_before(void *arg, const struct db_row *row)
{
	((struct reign *)arg)->before = db_int(row, 0);
	return true;
}

/* Its champion, if it is still in force, gives way to the one that it had followed. */
static bool dethrone(struct ab *ab, const Corral__Experiment *e, struct arena *mem, int64_t now_us, struct why *why)
{
	struct reign r = { .mem = mem };

	if (!db_run(ab->db, X_CHAMPION_OF, (struct db_value[]){ DB_Z(e->id) }, 1, take_reign, &r, NULL, why))
		return false;
	if (!r.scope)
		return true;
	if (!db_run(ab->db, X_CHAMPION_END, (struct db_value[]){ DB_Z(r.scope), DB_I(now_us) }, 2, NULL, NULL, NULL, why) ||
	    !db_run(ab->db, X_CHAMPION_BEFORE, (struct db_value[]){ DB_Z(r.scope), DB_I(r.since_us), DB_Z(e->id) }, 3, take_before, &r, NULL, why))
		return false;
	return !r.before || db_run(ab->db, X_CHAMPION_BACK, (struct db_value[]){ DB_I(r.before) }, 1, NULL, NULL, NULL, why);
}

/* --- states --- */

static const char *const state_names[] = { "running", "paused", "stopped", "promoted", "rolled back" };
static const char *const act_names[] = { "", "paused", "resumed", "stopped", "promoted", "rolled back" };

/* What an act makes of a state; -1 = it cannot be done then. */
static int after(Corral__ExperimentState now, Corral__ExperimentAct act)
{
	bool runs = now == CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING, paused = now == CORRAL__EXPERIMENT_STATE__EXPERIMENT_PAUSED;

	switch (act) {
	case CORRAL__EXPERIMENT_ACT__ACT_PAUSE: return runs ? CORRAL__EXPERIMENT_STATE__EXPERIMENT_PAUSED : -1;
	case CORRAL__EXPERIMENT_ACT__ACT_RESUME: return paused ? CORRAL__EXPERIMENT_STATE__EXPERIMENT_RUNNING : -1;
	case CORRAL__EXPERIMENT_ACT__ACT_STOP: return runs || paused ? CORRAL__EXPERIMENT_STATE__EXPERIMENT_STOPPED : -1;
	case CORRAL__EXPERIMENT_ACT__ACT_PROMOTE:
		return runs || paused || now == CORRAL__EXPERIMENT_STATE__EXPERIMENT_STOPPED ? CORRAL__EXPERIMENT_STATE__EXPERIMENT_PROMOTED : -1;
	case CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK:
		return runs || paused || now == CORRAL__EXPERIMENT_STATE__EXPERIMENT_PROMOTED ? CORRAL__EXPERIMENT_STATE__EXPERIMENT_ROLLED_BACK : -1;
	default: return -1;
	}
}

/* What the audit log calls an act that nobody asked for. */
static const char *deed(Corral__ExperimentAct act)
{
	return act == CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK ? "tests.rollback" : act == CORRAL__EXPERIMENT_ACT__ACT_PROMOTE ? "tests.promote" : "tests.stop";
}

/* A guard that broke is said first, and then what followed. */
static bool news_of(struct ab *ab, const Corral__Experiment *e, const struct change *c, int64_t now_us, struct why *why)
{
	static const char *const kinds[] = { "", "paused", "resumed", "stopped", "promoted", "rolled_back" };
	const char *by = c->by_itself ? "system" : c->by ? c->by : "no key";
	const struct news broke = { "guard_breached", c->guard_arm, c->guard_metric, e->reason, by }, became = { kinds[c->act], e->winner, "", e->reason, by };

	return (!c->guard_arm || news_note(ab, e, &broke, now_us, why)) && news_note(ab, e, &became, now_us, why);
}

static bool write_change(struct ab *ab, const struct trial *t, const Corral__Experiment *e, const struct change *c, struct arena *mem, int64_t now_us, struct why *why)
{
	int arm = c->act == CORRAL__EXPERIMENT_ACT__ACT_PROMOTE ? trial_arm(t, e->winner) : -1;
	bool ok;

	if (!db_begin(ab->db, why))
		return false;
	ok = put(ab, mem, e, why);
	if (ok && arm >= 0)
		ok = crown(ab, e, e->arms[arm], mem, now_us, why);
	if (ok && c->act == CORRAL__EXPERIMENT_ACT__ACT_ROLLBACK)
		ok = dethrone(ab, e, mem, now_us, why);
	if (ok && c->by_itself)
		ok = note_deed(ab, e, deed(c->act), e->reason, now_us, why);
	if (ok)
		ok = news_of(ab, e, c, now_us, why);
	if (ok && db_commit(ab->db, why))
		return true;
	db_rollback(ab->db);
	return false;
}

/* The changed one in the place of what was. */
static void turn_into(struct trial *t, struct arena *mem, Corral__Experiment *e)
{
	arena_free(t->mem);
	t->mem = mem;
	t->e = e;
}

enum err trial_change(struct ab *ab, struct trial *t, const struct change *c, int64_t now_us, struct why *why)
{
	int state = after(t->e->state, c->act);
	struct arena *mem;
	Corral__Experiment *e;

	if (state < 0)
		return err_set(why, ERR_CONFLICT, "the experiment '%.80s' is %s; it cannot be %s then", t->e->name, state_names[t->e->state],
			       act_names[(unsigned)c->act < sizeof(act_names) / sizeof(*act_names) ? c->act : 0]);
	if (c->act == CORRAL__EXPERIMENT_ACT__ACT_PROMOTE && trial_arm(t, c->arm) < 0)
		return err_field(why, ERR_INVALID, "arm", *c->arm ? "the experiment has no arm '%.40s'" : "no arm is ahead yet; say which one%.0s", c->arm);
	mem = arena_new(2048);
	e = copy(mem, t->e);
	e->state = (Corral__ExperimentState)state;
	e->changed_at_us = now_us;
	e->ended_at_us = trial_is_over(e) ? now_us : 0;
	e->reason = arena_dup(mem, c->reason, strlen(c->reason));
	e->winner = arena_dup(mem, c->arm, strlen(c->arm));
	if (!write_change(ab, t, e, c, mem, now_us, why)) {
		arena_free(mem);
		return why->code;
	}
	turn_into(t, mem, e);
	LOG_INFO("experiment", LOG_S("id", e->id), LOG_S("name", e->name), LOG_S("state", state_names[e->state]), LOG_S("arm", e->winner), LOG_S("reason", e->reason));
	return trials_publish(ab, why) ? ERR_OK : why->code;
}

/* The changed one, and what is said of it, in one transaction; action NULL: nothing is. Takes the arena. */
static bool rewrite(struct ab *ab, struct trial *t, struct arena *mem, Corral__Experiment *e, const char *action, const char *words, int64_t now_us, struct why *why)
{
	bool begun = db_begin(ab->db, why);

	if (begun && put(ab, mem, e, why) && (!action || note_deed(ab, e, action, words, now_us, why)) && db_commit(ab->db, why)) {
		turn_into(t, mem, e);
		return true;
	}
	if (begun)
		db_rollback(ab->db);
	arena_free(mem);
	return false;
}

bool trial_split(struct ab *ab, struct trial *t, const char *words, int64_t now_us, struct why *why)
{
	struct arena *mem = arena_new(2048);
	Corral__Experiment *e = copy(mem, t->e);

	e->split_at_us = now_us;
	if (!rewrite(ab, t, mem, e, "tests.split", words, now_us, why))
		return false;
	LOG_WARN("experiment", LOG_S("id", e->id), LOG_S("name", e->name), LOG_S("alarm", words));
	return true;
}

bool trial_close(struct ab *ab, struct trial *t, int64_t now_us, struct why *why)
{
	struct arena *mem = arena_new(2048);
	Corral__Experiment *e = copy(mem, t->e);

	e->closed_at_us = now_us;
	if (!rewrite(ab, t, mem, e, NULL, "", now_us, why))
		return false;
	LOG_INFO("the outcomes of an experiment are removed; its figures stay", LOG_S("id", e->id), LOG_S("name", e->name));
	return true;
}

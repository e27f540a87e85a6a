/* arms_test.c - arms and champions as part of a decision: who takes part, what comes first, what is packed; and what cannot be run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/policy/caps.h"
#include "common/policy/decide.h"

enum { MODELS = 3, PEOPLE = 200 };
static const char *const names[MODELS] = { "one", "three", "two" };

struct fix {
	struct arena *mem;
	struct catalogue cat;
	struct policy pol;
	struct arms arms;
	struct load load[MODELS];
	Corral__DecisionFeatures f;
	Corral__Experiment e;
	Corral__ExperimentArm a, b, *arm[2];
	Corral__ExperimentFilter filter;
	Corral__Champion champion;
	bool with_champion, without_experiment;
};

static struct str pack(struct arena *mem, const ProtobufCMessage *m)
{
	uint8_t *p = arena_alloc(mem, protobuf_c_message_get_packed_size(m) + 1);

	return str_n((char *)p, protobuf_c_message_pack(m, p));
}

static void models(struct fix *x, bool two_is_down)
{
	Corral__ModelSnapshot *s = arena_new_of(x->mem, Corral__ModelSnapshot);
	static const char *const backends[] = { "p", "q" };
	struct why why;

	corral__model_snapshot__init(s);
	s->backends = arena_array(x->mem, Corral__Backend *, 2);
	for (; s->n_backends < 2; s->n_backends++) {
		Corral__Backend *b = s->backends[s->n_backends] = arena_new_of(x->mem, Corral__Backend);

		corral__backend__init(b);
		b->name = (char *)backends[s->n_backends];
		b->kind = (char *)"openai";
		b->url = (char *)"http://127.0.0.1:1";
		b->state = s->n_backends && two_is_down ? CORRAL__BACKEND_STATE__BACKEND_DOWN : CORRAL__BACKEND_STATE__BACKEND_UP;
	}
	s->models = arena_array(x->mem, Corral__Model *, MODELS);
	s->replicas = arena_array(x->mem, Corral__Replica *, MODELS);
	for (int i = 0; i < MODELS; i++) {
		Corral__Model *m = s->models[s->n_models++] = arena_new_of(x->mem, Corral__Model);
		Corral__Replica *r = s->replicas[s->n_replicas++] = arena_new_of(x->mem, Corral__Replica);

		corral__model__init(m);
		corral__replica__init(r);
		m->name = r->model = r->remote_name = (char *)names[i];
		m->context_length = i == 2 ? 4096 : 32768;       /* two's is short */
		m->parameter_count = 7000000000;
		r->backend = (char *)backends[i == 2];
		r->slots = 2;
		r->loaded = true;
		x->load[i] = (struct load){ .slots = 2 };
	}
	assert_int_equal(catalogue_build(&x->cat, x->mem, 1, 1, pack(x->mem, &s->base), &why), ERR_OK);
	assert_int_equal(policy_build(&x->pol, x->mem, &x->cat, 1, 1, STR(""), &why), ERR_OK);
}

static void build(struct fix *x)
{
	Corral__ExperimentSnapshot s = CORRAL__EXPERIMENT_SNAPSHOT__INIT;
	Corral__Experiment *es[] = { &x->e };
	Corral__Champion *cs[] = { &x->champion };
	struct why why = { 0 };

	s.experiments = es, s.n_experiments = !x->without_experiment;
	s.champions = cs, s.n_champions = x->with_champion;
	if (arms_build(&x->arms, x->mem, 1, 1, pack(x->mem, &s.base), &why) != ERR_OK)
		fail_msg("%s", why.text);
	x->pol.arms = &x->arms;
}

static int setup(void **state)
{
	struct fix *x = x_calloc(1, sizeof(*x));

	x->mem = arena_new(0);
	models(x, false);
	corral__experiment__init(&x->e);
	corral__experiment_arm__init(&x->a);
	corral__experiment_arm__init(&x->b);
	corral__experiment_filter__init(&x->filter);
	corral__champion__init(&x->champion);
	x->arm[0] = &x->a, x->arm[1] = &x->b;
	x->a.name = (char *)"a", x->b.name = (char *)"b";
	x->a.model = (char *)"one", x->b.model = (char *)"two";
	x->a.weight = x->b.weight = 1;
	x->e.id = (char *)"0190b7f0-0000-7000-8000-000000000000";
	x->e.name = (char *)"n";
	x->e.namespace_ = (char *)"default";
	x->e.unit = (char *)"user";
	x->e.metric = (char *)"success";
	x->e.traffic_percent = 100;
	x->e.end_slot = NAMESPACE_SLOTS;
	x->e.filter = &x->filter;
	x->e.arms = x->arm, x->e.n_arms = 2;
	x->champion.arm = &x->b;
	x->champion.experiment_id = x->e.id;
	corral__decision_features__init(&x->f);
	x->f.requested_model = (char *)"auto";
	x->f.is_auto = true;
	x->f.task_type = (char *)"SQL";
	x->f.tenant = (char *)"north";
	x->f.policy = (char *)"balanced";
	x->f.prompt_tokens = 100;
	x->f.user = (char *)"u";
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;

	arena_free(x->mem);
	free(x);
	return 0;
}

static struct decision ask(struct fix *x, int person, int model)
{
	struct decision d;

	x->f.user = arena_printf(x->mem, "user %d", person);
	decide(&d, x->mem, &x->f, model, false, &x->cat, &x->pol, &x->load[decide_reach(&x->f, model, &x->cat).first], NULL);
	return d;
}

static const char *first_model(const struct fix *x, const struct decision *d) { return x->cat.replicas[d->ranked[0].replica].pb->model; }

/* How many of all got each arm; each got its model. */
static void poll(struct fix *x, unsigned ret[3])
{
	memset(ret, 0, 3 * sizeof(*ret));
	for (int i = 0; i < PEOPLE; i++) {
		struct decision d = ask(x, i, -1), again = ask(x, i, -1);

		if (!d.experiment) {
			ret[2]++;
			continue;
		}
		assert_string_equal(d.arm, again.arm);
		assert_string_equal(d.reason, "experiment");
		assert_string_equal(first_model(x, &d), *d.arm == 'a' ? "one" : "two");
		ret[*d.arm - 'a']++;
	}
}

static void each_gets_its_arm(void **state)
{
	struct fix *x = *state;
	unsigned n[3];

	build(x);
	poll(x, n);
	assert_true(n[0] > 60 && n[1] > 60 && n[2] == 0);
	x->e.end_slot = NAMESPACE_SLOTS / 2;
	build(x);
	poll(x, n);
	assert_true(n[2] > 60 && n[2] < 140);
	x->filter.task_type = (char *)"CHAT";
	build(x);
	poll(x, n);
	assert_int_equal(n[2], PEOPLE);
}

static void of_shadows_the_first_arm_answers(void **state)
{
	struct fix *x = *state;
	unsigned n[3];

	x->e.shadow = true;
	build(x);
	poll(x, n);
	assert_int_equal(n[0], PEOPLE);
	assert_string_equal(arms_shadow(&x->arms, arms_running(&x->arms, x->e.id), "user 1")->name, "b");
	x->e.shadow = false;
	build(x);
	assert_null(arms_shadow(&x->arms, arms_running(&x->arms, x->e.id), "user 1"));
}

/* A request that one of the models could not serve is in no arm: that would be told by the arm. */
static void who_cannot_be_served_by_both_takes_no_part(void **state)
{
	struct fix *x = *state;
	unsigned n[3];

	build(x);
	x->f.prompt_tokens = 8000;
	poll(x, n);
	assert_int_equal(n[2], PEOPLE);
	x->f.prompt_tokens = 100;
	x->f.n_key_models = 1;
	x->f.key_models = (char *[]){ (char *)"one" };
	poll(x, n);
	assert_int_equal(n[2], PEOPLE);
}

/* A model that is down keeps its arm, and another one answers: else its failures would not be its own. */
static void an_arm_outlives_its_model(void **state)
{
	struct fix *x = *state;
	unsigned of_b = 0;

	models(x, true);
	build(x);
	for (int i = 0; i < PEOPLE; i++) {
		struct decision d = ask(x, i, -1);

		assert_non_null(d.experiment);
		if (*d.arm != 'b')
			continue;
		of_b++;
		assert_string_equal(d.reason, "fallback");
		assert_string_not_equal(first_model(x, &d), "two");
	}
	assert_true(of_b > 60);
}

static void an_experiment_on_one_model_takes_what_that_model_gets(void **state)
{
	struct fix *x = *state;
	int one, three;
	bool alias;
	struct decision d;

	x->b.model = (char *)"one";
	x->b.parameters = (char *)"{\"temperature\":0}";
	build(x);
	one = catalogue_resolve(&x->cat, STR("one"), &alias);
	three = catalogue_resolve(&x->cat, STR("three"), &alias);
	x->f.is_auto = false;
	d = ask(x, 1, one);
	assert_non_null(d.experiment);
	assert_string_equal(d.reason, "asked");
	assert_non_null(arms_find(&x->arms, d.experiment, d.arm, false));
	d = ask(x, 1, three);
	assert_null(d.experiment);
	x->f.needs = LLM_CAP_EMBEDDING;
	assert_null(ask(x, 1, one).experiment);
}

static void a_champion_counts_where_no_experiment_does(void **state)
{
	struct fix *x = *state;
	struct decision d;

	x->with_champion = true;
	x->e.end_slot = 1;                /* of ten thousand */
	x->champion.filter = &x->filter;
	build(x);
	d = ask(x, 3, -1);
	assert_true(d.champion);
	assert_string_equal(d.reason, "champion");
	assert_string_equal(first_model(x, &d), "two");
	x->e.end_slot = NAMESPACE_SLOTS;
	build(x);
	assert_false(ask(x, 3, -1).champion);
	x->e.end_slot = 1;
	x->filter.tenant = (char *)"south";
	build(x);
	assert_null(ask(x, 3, -1).experiment);
	x->filter.tenant = (char *)"";
	models(x, true);
	build(x);
	d = ask(x, 3, -1);                /* its model is down: as if there was none */
	assert_null(d.experiment);
	assert_string_equal(d.reason, "rules");
}

static void an_arm_is_packed_and_comes_back(void **state)
{
	struct fix *x = *state;
	struct decision d, back;
	struct buf packed = { 0 }, again = { 0 };

	build(x);
	d = ask(x, 5, -1);
	decision_pack(&d, &packed);
	assert_int_equal(packed.n, decision_packed_size(&d));
	assert_true(decision_unpack(&back, x->mem, buf_as_str(&packed), x->cat.n_replicas));
	assert_string_equal(back.experiment, d.experiment);
	assert_string_equal(back.arm, d.arm);
	decision_pack(&back, &again);
	assert_true(str_eq(buf_as_str(&packed), buf_as_str(&again)));
	for (size_t n = 0; n < packed.n; n++)
		if (n != packed.n - strlen(d.experiment) - strlen(d.arm) - 3)      /* without an arm it is whole too */
			assert_false(decision_unpack(&back, x->mem, str_n(packed.p, n), x->cat.n_replicas));
	buf_free(&packed);
	buf_free(&again);
}

static void wrong(struct fix *x, const char *field)
{
	struct why why = { 0 };

	assert_true(arms_check(&x->e, &why) != ERR_OK);
	assert_string_equal(why.field, field);
}

static void what_cannot_be_run_is_named(void **state)
{
	struct fix *x = *state;
	struct why why = { 0 };

	assert_int_equal(arms_check(&x->e, &why), ERR_OK);
	x->e.traffic_percent = 0.001;
	wrong(x, "traffic_percent");
	x->e.traffic_percent = 10;
	x->b.parameters = (char *)"{\"temperature\":3}";
	wrong(x, "arms[1]");
	x->b.parameters = (char *)"{\"mood\":1}";
	wrong(x, "arms[1]");
	x->b.parameters = (char *)"{\"max_tokens\":1.5}";
	wrong(x, "arms[1]");
	x->b.parameters = (char *)"[]";
	wrong(x, "arms[1]");
	x->b.parameters = (char *)"";
	x->b.prompt_template = (char *)"no place for it";
	wrong(x, "arms[1]");
	x->b.prompt_template = (char *)"";
	x->b.name = (char *)"a";
	wrong(x, "arms[1]");
	x->b.name = (char *)"b";
	x->b.model = (char *)"one";
	wrong(x, "arms");
	x->b.model = (char *)"two";
	x->e.shadow = x->e.auto_promote = true;
	wrong(x, "auto_promote");
	x->e.auto_promote = false;
	assert_int_equal(arms_check(&x->e, &why), ERR_OK);
	x->e.metric = (char *)"rating";
	wrong(x, "metric");
	x->e.shadow = false;
	assert_int_equal(arms_check(&x->e, &why), ERR_OK);
	x->e.n_arms = 1;
	wrong(x, "arms");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_gets_its_arm), T(of_shadows_the_first_arm_answers), T(who_cannot_be_served_by_both_takes_no_part), T(an_arm_outlives_its_model),
		T(an_experiment_on_one_model_takes_what_that_model_gets), T(a_champion_counts_where_no_experiment_does), T(an_arm_is_packed_and_comes_back),
		T(what_cannot_be_run_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* decide_test.c - three models (one for code, one small with a 4k context, one with vision) and what is decided over them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/policy/caps.h"
#include "common/policy/decide.h"
#include "common/policy/features.h"

struct fix {
	struct arena *mem;
	struct catalogue cat;
	struct policy pol;
	struct load load[8];
	Corral__DecisionFeatures f;
	struct features x;
};

struct spec { const char *name, *family; double billions; uint32_t context; const char *caps[4]; const char *task; double score; bool loaded; const char *backend; };

static const struct spec three[] = {
	{ "coder", "c", 7, 32768, { "completion", "tools" }, "BUG_FIX,FEATURE,REFACTOR,TEST_GENERATION,SQL", 0.9, true, "gpu" },
	{ "small", "s", 1.5, 4096, { "completion" }, "CHAT,QA", 0.6, true, "cpu" },
	{ "viewer", "v", 8, 131072, { "completion", "vision", "tools" }, "SUMMARIZE,TRANSLATE,REASONING", 0.8, true, "gpu" },
};

static void add_strengths(struct arena *a, Corral__Model *m, const struct spec *s)
{
	struct str rest = str_of(s->task), word;

	m->strengths = arena_array(a, Corral__Strength *, 16);
	while (str_split(&rest, ',', &word)) {
		Corral__Strength *x = arena_new_of(a, Corral__Strength);

		corral__strength__init(x);
		x->task_type = arena_dup(a, word.p, word.n);
		x->score = s->score;
		m->strengths[m->n_strengths++] = x;
	}
}

static struct str snapshot(struct arena *a, const struct spec *specs, size_t n, bool gpu_down)
{
	static const char *const backends[] = { "cpu", "gpu" };
	Corral__ModelSnapshot *s = arena_new_of(a, Corral__ModelSnapshot);
	uint8_t *out;
	size_t size;

	corral__model_snapshot__init(s);
	s->backends = arena_array(a, Corral__Backend *, 2);
	for (s->n_backends = 0; s->n_backends < 2; s->n_backends++) {
		Corral__Backend *b = s->backends[s->n_backends] = arena_new_of(a, Corral__Backend);

		corral__backend__init(b);
		b->name = (char *)backends[s->n_backends];
		b->kind = (char *)"llamacpp";
		b->url = (char *)"http://127.0.0.1:1";
		b->state = gpu_down && s->n_backends ? CORRAL__BACKEND_STATE__BACKEND_DOWN : CORRAL__BACKEND_STATE__BACKEND_UP;
		b->reason = (char *)(gpu_down && s->n_backends ? "connection refused" : "");
	}
	s->models = arena_array(a, Corral__Model *, n + 1);
	s->replicas = arena_array(a, Corral__Replica *, n + 1);
	for (size_t i = 0; i < n; i++) {
		Corral__Model *m = s->models[s->n_models++] = arena_new_of(a, Corral__Model);
		Corral__Replica *r = s->replicas[s->n_replicas++] = arena_new_of(a, Corral__Replica);

		corral__model__init(m);
		corral__replica__init(r);
		m->name = r->model = r->remote_name = (char *)specs[i].name;
		m->family = (char *)specs[i].family;
		m->parameter_count = (uint64_t)(specs[i].billions * 1e9);
		m->context_length = specs[i].context;
		m->capabilities = (char **)specs[i].caps;
		while (m->n_capabilities < 4 && specs[i].caps[m->n_capabilities])
			m->n_capabilities++;
		add_strengths(a, m, &specs[i]);
		r->backend = (char *)specs[i].backend;
		r->slots = 2;
		r->loaded = specs[i].loaded;
	}
	size = corral__model_snapshot__get_packed_size(s);
	out = arena_alloc(a, size);
	corral__model_snapshot__pack(s, out);
	return str_n((char *)out, size);
}

static void set_up_with(struct fix *x, const struct spec *specs, size_t n, bool gpu_down)
{
	struct why why = { 0 };

	memset(x, 0, sizeof(*x));
	x->mem = arena_new(0);
	assert_int_equal(catalogue_build(&x->cat, x->mem, 1, 1, snapshot(x->mem, specs, n, gpu_down), &why), ERR_OK);
	assert_int_equal(policy_build(&x->pol, x->mem, &x->cat, 1, 1, STR(""), &why), ERR_OK);
	for (int i = 0; i < 8; i++)
		x->load[i] = (struct load){ .slots = 2 };
}

static int set_up(void **state)
{
	struct fix *x = x_calloc(1, sizeof(*x));

	set_up_with(x, three, 3, false);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fix *x = *state;

	arena_free(x->mem);
	free(x);
	return 0;
}

static Corral__DecisionFeatures *ask(struct fix *x, const char *prompt, uint32_t tokens, uint32_t needs)
{
	struct feature_text t = { .user = str_of(prompt), .prompt_tokens = tokens, .n_messages = 1,
		.has_images = (needs & LLM_CAP_VISION) != 0, .has_tools = (needs & LLM_CAP_TOOLS) != 0 };

	features_extract(&x->x, &t);
	corral__decision_features__init(&x->f);
	x->f.requested_model = (char *)"auto";
	x->f.is_auto = true;
	x->f.task_type = (char *)task_name(x->x.task);
	x->f.complexity = (char *)complexity_name(x->x.complexity);
	x->f.language = x->x.language;
	x->f.prompt_tokens = tokens;
	x->f.needs = needs;
	x->f.policy = (char *)"balanced";
	return &x->f;
}

static struct decision run(struct fix *x)
{
	struct decision d;

	decide(&d, x->mem, &x->f, -1, false, &x->cat, &x->pol, x->load, NULL);
	return d;
}

static const char *winner(struct fix *x, const struct decision *d)
{
	assert_int_equal(d->err, ERR_OK);
	return x->cat.replicas[d->ranked[0].replica].pb->model;
}

static const struct rejected *rejection(struct fix *x, const struct decision *d, const char *model)
{
	for (uint16_t i = 0; i < d->n_rejected; i++)
		if (strcmp(x->cat.replicas[d->rejected[i].replica].pb->model, model) == 0)
			return &d->rejected[i];
	return NULL;
}

static void code_goes_to_the_code_model(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "Fix this bug: `for (i = 0; i <= n; i++) a[i] = 0;` writes past the end", 60, 0);
	assert_string_equal(x->f.task_type, "BUG_FIX");
	d = run(x);
	assert_string_equal(winner(x, &d), "coder");
	assert_string_equal(d.reason, "rules");
	assert_int_equal(d.n_ranked, 3);
}

static void without_the_code_model_another_answers(void **state)
{
	struct fix *x = *state;
	struct decision d;

	arena_free(x->mem);
	set_up_with(x, three + 1, 2, false);
	ask(x, "Fix this bug: `for (i = 0; i <= n; i++) a[i] = 0;` writes past the end", 60, 0);
	d = run(x);
	assert_string_not_equal(winner(x, &d), "coder");
}

static void a_greeting_goes_to_the_small_model(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "Hello, how are you?", 8, 0);
	d = run(x);
	assert_string_equal(winner(x, &d), "small");
}

static void an_image_needs_vision(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "What is in this picture?", 300, LLM_CAP_VISION);
	d = run(x);
	assert_string_equal(winner(x, &d), "viewer");
	assert_int_equal(rejection(x, &d, "coder")->rule, RULE_CAPABILITY);
	assert_int_equal(rejection(x, &d, "small")->rule, RULE_CAPABILITY);
}

static void embeddings_need_a_model_for_them(void **state)
{
	static const struct spec two[] = {
		{ "chatter", "c", 7, 4096, { "completion", "tools" }, "CHAT", 0.9, true, "gpu" },
		{ "embedder", "e", 0.3, 512, { "embedding" }, "CHAT", 0.1, true, "gpu" },
	};
	struct fix *x = *state;
	struct decision d;
	struct why why;
	bool alias;

	arena_free(x->mem);
	set_up_with(x, two, 2, false);
	ask(x, "some text", 60, LLM_CAP_EMBEDDING);
	d = run(x);
	assert_string_equal(winner(x, &d), "embedder");
	assert_int_equal(rejection(x, &d, "chatter")->rule, RULE_CAPABILITY);
	ask(x, "some text", 60, 0);
	d = run(x);
	assert_string_equal(winner(x, &d), "chatter");
	assert_int_equal(rejection(x, &d, "embedder")->rule, RULE_NOT_CHAT);

	ask(x, "some text", 60, LLM_CAP_EMBEDDING);
	x->f.is_auto = false;
	x->f.requested_model = (char *)"chatter";
	decide(&d, x->mem, &x->f, catalogue_resolve(&x->cat, STR("chatter"), &alias), false, &x->cat, &x->pol, x->load, NULL);
	assert_int_equal(d.err, ERR_NO_MODEL_FITS);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_string_equal(why.text, "model 'chatter' cannot do what the request needs: embedding");
	arena_free(x->mem);
	set_up_with(x, three, 3, false);
	ask(x, "some text", 60, LLM_CAP_EMBEDDING);
	d = run(x);
	assert_int_equal(d.err, ERR_NO_MODEL_FITS);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_string_equal(why.text, "no available model has what the request needs: embedding");
}

static void a_long_text_needs_a_long_context(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "Hello, how are you?", 5000, 0);
	d = run(x);
	assert_int_equal(rejection(x, &d, "small")->rule, RULE_CONTEXT);
	assert_int_equal(rejection(x, &d, "small")->have, 4096);
	ask(x, "Fix this bug", 60000, 0);
	d = run(x);
	assert_string_equal(winner(x, &d), "viewer");
	assert_int_equal(rejection(x, &d, "coder")->rule, RULE_CONTEXT);
}

static void tools_need_a_model_with_tools(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "hello", 8, LLM_CAP_TOOLS);
	d = run(x);
	assert_string_not_equal(winner(x, &d), "small");
	assert_int_equal(rejection(x, &d, "small")->rule, RULE_CAPABILITY);
}

static void a_summary_goes_to_the_strong_summariser(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "Summarize the key points of this text", 2000, 0);
	assert_string_equal(x->f.task_type, "SUMMARIZE");
	d = run(x);
	assert_string_equal(winner(x, &d), "viewer");
}

static void load_and_breakers_change_the_pick(void **state)
{
	struct fix *x = *state;
	struct decision d;
	int coder = catalogue_model(&x->cat, STR("coder"));

	ask(x, "Refactor this function", 60, 0);
	d = run(x);
	assert_string_equal(winner(x, &d), "coder");
	x->load[x->cat.models[coder].first].breaker_open = true;
	d = run(x);
	assert_string_not_equal(winner(x, &d), "coder");
	assert_int_equal(rejection(x, &d, "coder")->rule, RULE_BREAKER_OPEN);
	x->load[x->cat.models[coder].first] = (struct load){ .slots = 2, .in_use = 2, .queued = 40 };
	d = run(x);
	assert_string_not_equal(winner(x, &d), "coder");
}

static void a_down_backend_is_left_out_and_named(void **state)
{
	struct fix *x = *state;
	Corral__DecisionOutcome o;
	struct decision d;
	struct why why = { 0 };

	arena_free(x->mem);
	set_up_with(x, three, 3, true);
	ask(x, "Fix this bug", 60, LLM_CAP_VISION);
	d = run(x);
	assert_int_equal(d.err, ERR_UNAVAILABLE);
	decision_why(&d, &x->f, &x->cat, &why);
	decision_explain(&d, &x->f, &x->cat, x->mem, &o);
	assert_int_equal(o.n_rejected, 3);
	for (size_t i = 0; i < o.n_rejected; i++)
		if (strcmp(o.rejected[i]->model, "viewer") == 0)
			assert_non_null(strstr(o.rejected[i]->text, "connection refused"));
}

static void a_conversation_stays_unless_the_gain_is_large(void **state)
{
	struct fix *x = *state;
	struct decision d;

	ask(x, "And what is the capital of France?", 12, 0);
	d = run(x);
	assert_string_equal(winner(x, &d), "small");
	x->f.conversation_model = (char *)"viewer";
	d = run(x);
	if (d.ranked[0].score - d.ranked[1].score < 0.05)
		assert_string_equal(d.reason, "sticky");
	x->pol.pb = NULL;
	ask(x, "Fix this bug in the function", 60, 0);
	x->f.conversation_model = (char *)"small";
	d = run(x);
	assert_string_equal(winner(x, &d), "coder");
}

static void a_named_model_is_asked_and_only_it(void **state)
{
	struct fix *x = *state;
	struct decision d;
	bool alias;
	int m = catalogue_resolve(&x->cat, STR("SMALL:latest"), &alias);

	ask(x, "hello", 9000, LLM_CAP_VISION);
	x->f.is_auto = false;
	x->load[0].breaker_open = true;           /* of the one replica in reach, wherever it stands */
	assert_true(x->cat.models[m].first > 0);
	assert_int_equal(decide_reach(&x->f, m, &x->cat).first, x->cat.models[m].first);
	assert_int_equal(decide_reach(&x->f, m, &x->cat).n, 1);
	decide(&d, x->mem, &x->f, m, false, &x->cat, &x->pol, x->load, NULL);
	assert_int_equal(d.n_ranked, 0);
	assert_int_equal(d.rejected[0].rule, RULE_BREAKER_OPEN);
	x->load[0].breaker_open = false;
	decide(&d, x->mem, &x->f, m, false, &x->cat, &x->pol, x->load, NULL);
	assert_string_equal(winner(x, &d), "small");
	assert_int_equal(d.n_ranked, 1);
	assert_string_equal(d.reason, "asked");
	assert_int_equal(catalogue_resolve(&x->cat, STR("nobody"), &alias), -1);
}

static void what_may_not_be_seen_is_not_there(void **state)
{
	struct fix *x = *state;
	char *only[] = { (char *)"sm*" }, *none[] = { (char *)"nothing" };
	struct decision d;
	struct why why = { 0 };

	ask(x, "hello", 20, 0);
	x->f.key_models = only;
	x->f.n_key_models = 1;
	d = run(x);
	assert_string_equal(winner(x, &d), "small");
	assert_int_equal(d.n_ranked, 1);
	assert_int_equal(d.n_rejected, 0);        /* nobody learns what else there is */
	x->f.tenant_models = none;
	x->f.n_tenant_models = 1;
	d = run(x);
	assert_int_equal(d.n_ranked + d.n_rejected, 0);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_int_equal(why.code, ERR_MODEL_NOT_FOUND);

	x->f.is_auto = false;                     /* nor by asking for a name much like it */
	x->f.requested_model = (char *)"coder:8b";
	x->f.n_tenant_models = 0;
	d = (struct decision){ .err = ERR_MODEL_NOT_FOUND };
	decision_why(&d, &x->f, &x->cat, &why);
	assert_null(strstr(why.text, "did you mean"));
	x->f.requested_model = (char *)"smal";
	decision_why(&d, &x->f, &x->cat, &why);
	assert_non_null(strstr(why.text, "did you mean 'small'"));
}

static void nothing_that_fits_says_what_was_missing(void **state)
{
	struct fix *x = *state;
	struct decision d;
	struct why why = { 0 };

	ask(x, "hello", 200000, 0);
	d = run(x);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_int_equal(why.code, ERR_CONTEXT_TOO_LONG);
	assert_non_null(strstr(why.text, "131072"));
	ask(x, "hello", 20, LLM_CAP_AUDIO);
	d = run(x);
	decision_why(&d, &x->f, &x->cat, &why);
	assert_int_equal(why.code, ERR_NO_MODEL_FITS);
	assert_non_null(strstr(why.text, "audio"));
}

static void the_same_inputs_give_the_same_bits(void **state)
{
	struct fix *x = *state;
	struct buf a = { 0 }, b = { 0 };
	struct decision d;

	ask(x, "Write a function that sorts", 60, 0);
	d = run(x);
	decision_pack(&d, &a);
	for (int i = 0; i < 100; i++) {
		buf_clear(&b);
		d = run(x);
		decision_pack(&d, &b);
		assert_int_equal(a.n, b.n);
		assert_memory_equal(a.p, b.p, a.n);
	}
	buf_free(&a);
	buf_free(&b);
}

/* What travels from the selector is the decision, to the bit, or is refused. */
static void comes_back_from_its_bytes(void **state)
{
	struct fix *x = *state;
	struct buf a = { 0 }, b = { 0 };
	struct decision d, back;

	ask(x, "Write a function that sorts", 5000, LLM_CAP_TOOLS);
	d = run(x);
	decision_pack(&d, &a);
	assert_true(decision_unpack(&back, x->mem, buf_as_str(&a), 3));
	decision_pack(&back, &b);
	assert_int_equal(a.n, b.n);
	assert_memory_equal(a.p, b.p, a.n);
	for (size_t n = 0; n < a.n; n++)
		assert_false(decision_unpack(&back, x->mem, str_n(a.p, n), 3));
	assert_false(decision_unpack(&back, x->mem, buf_as_str(&a), 1));      /* names a replica that is not there */
	buf_char(&a, 0);
	assert_false(decision_unpack(&back, x->mem, buf_as_str(&a), 3));
	buf_free(&a);
	buf_free(&b);
}

static void every_loser_has_a_reason(void **state)
{
	struct fix *x = *state;
	Corral__DecisionOutcome o;
	struct decision d;

	ask(x, "Hello", 5000, LLM_CAP_TOOLS);
	d = run(x);
	decision_explain(&d, &x->f, &x->cat, x->mem, &o);
	assert_int_equal(o.n_rejected, 2);
	assert_string_equal(o.rejected[0]->rule, "score");
	assert_string_equal(o.rejected[1]->rule, "capability");
	assert_true(strlen(o.rejected[0]->text) > 10);
}

static void suggests(const char *asked, const char *want)
{
	static const struct spec library[] = {
		{ "org/qwen2.5-coder:7b", "q", 7, 4096, { "completion" }, "CHAT", 0.5, true, "gpu" },
		{ "qwen2.5:3b", "q", 3, 4096, { "completion" }, "CHAT", 0.5, true, "gpu" },
		{ "qwen2.5:7b", "q", 7, 4096, { "completion" }, "CHAT", 0.5, true, "gpu" },
		{ "mistral:latest", "m", 7, 4096, { "completion" }, "CHAT", 0.5, true, "gpu" },
	};
	struct fix x;
	struct why why;

	set_up_with(&x, library, 4, false);
	assert_int_equal(catalogue_not_found(&x.cat, str_of(asked), NULL, NULL, &why), ERR_MODEL_NOT_FOUND);
	assert_string_equal(why.field, "model");
	if (*want ? !strstr(why.text, want) : strstr(why.text, "did you mean") != NULL)
		fail_msg("%s", why.text);
	arena_free(x.mem);
}

static void names_what_was_perhaps_meant(void **state)
{
	struct why why;

	suggests("qwen2.5-coder", "did you mean 'org/qwen2.5-coder:7b'");
	suggests("other/qwen2.5-coder:7b", "did you mean 'org/qwen2.5-coder:7b'");
	suggests("qwen2.5:8b", "did you mean 'qwen2.5:3b' or 'qwen2.5:7b'");
	suggests("Mistal", "did you mean 'mistral:latest'");
	suggests("mistrl:7b", "did you mean 'mistral:latest'");
	suggests("gpt-4o", "");
	suggests("", "");
	suggests("llama3.2:1b", "");
	assert_int_equal(catalogue_not_found(NULL, STR("m"), NULL, NULL, &why), ERR_MODEL_NOT_FOUND);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(code_goes_to_the_code_model), T(without_the_code_model_another_answers), T(a_greeting_goes_to_the_small_model),
		T(an_image_needs_vision), T(embeddings_need_a_model_for_them), T(a_long_text_needs_a_long_context), T(tools_need_a_model_with_tools),
		T(a_summary_goes_to_the_strong_summariser), T(load_and_breakers_change_the_pick), T(a_down_backend_is_left_out_and_named),
		T(a_conversation_stays_unless_the_gain_is_large), T(a_named_model_is_asked_and_only_it),
		T(nothing_that_fits_says_what_was_missing), T(what_may_not_be_seen_is_not_there), T(the_same_inputs_give_the_same_bits), T(comes_back_from_its_bytes),
		T(every_loser_has_a_reason),
		T(names_what_was_perhaps_meant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

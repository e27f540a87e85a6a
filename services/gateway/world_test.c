/* world_test.c - what is known at one moment: built from snapshots that may be wrong, shared, and let go by the last who has it. */
#include "services/gateway/gateway_test.h"

static struct world *make(void)
{
	struct why why = { 0 };
	struct world *w = world_new(&h.gw, &why);

	if (!w)
		fail_msg("%s", why.text);
	return w;
}

static void refused(void)
{
	struct why why = { 0 };

	assert_null(world_new(&h.gw, &why));
	assert_true(why.code != ERR_OK && why.text[0]);
}

/* The snapshot of the house, changed. */
static void change(void (*how)(Corral__ModelSnapshot *))
{
	Corral__ModelSnapshot *s = corral__model_snapshot__unpack(NULL, h.gw.models_bytes.n, (const uint8_t *)h.gw.models_bytes.p);

	assert_non_null(s);
	how(s);
	buf_clear(&h.gw.models_bytes);
	buf_reserve(&h.gw.models_bytes, corral__model_snapshot__get_packed_size(s));
	h.gw.models_bytes.n = corral__model_snapshot__pack(s, (uint8_t *)h.gw.models_bytes.p);
	corral__model_snapshot__free_unpacked(s, NULL);
}

static void put(char **at, const char *z)
{
	free(*at);
	*at = x_strdup(z);
}

/* --- snapshots that are wrong --- */

static void bytes_that_are_no_snapshot_are_refused(void **state)
{
	buf_clear(&h.gw.models_bytes);
	buf_str(&h.gw.models_bytes, STR("\xff\xff\xff no snapshot"));
	refused();
}

static void half_a_snapshot_is_refused(void **state)
{
	h.gw.models_bytes.n /= 2;
	refused();
}

static void policy_that_is_none_is_refused(void **state)
{
	buf_str(&h.gw.policy_bytes, STR("\xff\xff\xff no policy"));
	refused();
}

static void on_a_backend_of_nobody(Corral__ModelSnapshot *s) { put(&s->replicas[0]->backend, "c"); }

static void a_replica_without_its_backend_is_refused(void **state)
{
	change(on_a_backend_of_nobody);
	refused();
}

static void a_cannot_be_used(Corral__ModelSnapshot *s) { put(&s->backends[0]->url, "ftp://elsewhere/"); }
static void b_is_of_a_newer_kind(Corral__ModelSnapshot *s) { put(&s->backends[1]->kind, "telepathy"); }

/* One that this gateway does not understand takes nothing from the others. */
static void a_backend_that_cannot_be_used_is_down_and_the_others_are_not(void **state)
{
	struct world *w;

	change(a_cannot_be_used);
	w = make();
	assert_false(w->backends[0].usable || w->cat.backends[0].up);
	assert_true(w->backends[1].usable && w->cat.backends[1].up);
	world_unref(w);
	change(b_is_of_a_newer_kind);
	w = make();
	assert_false(w->backends[1].usable || w->cat.backends[1].up);
	world_unref(w);
}

static void nobody(Corral__ModelSnapshot *s)
{
	for (size_t i = 0; i < s->n_replicas; i++)
		corral__replica__free_unpacked(s->replicas[i], NULL);
	s->n_replicas = 0;
}

static void models_without_replicas_are_a_world_too(void **state)
{
	struct world *w;
	struct load load[1];

	change(nobody);
	w = make();
	assert_int_equal(w->cat.n_replicas, 0);
	world_load(w, (struct reach){ 0, 0 }, 0, load);
	world_unref(w);
}

/* A request goes on under a world whose successor could not be made. */
static void what_cannot_be_understood_does_not_replace_what_was(void **state)
{
	struct world *before = world_ref(h.w->world);

	h.gw.models_bytes.n /= 2;
	refused();
	assert_ptr_equal(h.w->world, before);
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	world_unref(before);
}

/* --- what it knows --- */

static void it_lives_from_its_own_copy(void **state)
{
	struct world *w = make();

	memset(h.gw.models_bytes.p, 'x', h.gw.models_bytes.n);
	assert_int_equal(catalogue_model(&w->cat, STR("m")), 0);
	assert_string_equal(w->cat.backends[0].pb->name, "a");
	assert_int_equal(w->models_bytes.n, h.gw.models_bytes.n);
	assert_true(w->models_bytes.p[0] != 'x');
	world_unref(w);
}

static void the_last_who_has_it_lets_it_go(void **state)
{
	struct world *w = make();

	assert_ptr_equal(world_ref(w), w);
	world_unref(w);
	assert_int_equal(catalogue_model(&w->cat, STR("only")), 1);      /* still there: under a sanitizer this can fail */
	world_unref(w);
	world_unref(NULL);
}

static void counts_go_on_in_the_next_world(void **state)
{
	struct replica_state *a = replica("m", "a");
	struct world *w;

	assert_true(slot_take(a));
	h.gw.models_id.version++;
	w = make();
	assert_ptr_equal(w->states[0], a);
	assert_int_equal(atomic_load(&w->states[0]->in_use), 1);
	world_unref(w);
	slot_free(a, 0);
}

static void more_slots(Corral__ModelSnapshot *s) { s->replicas[0]->slots = 3; }

static void load_is_what_is_so_at_that_moment(void **state)
{
	struct breaker_opts o = gateway_breaker_opts(&h.cfg);
	struct load load[2];
	struct world *w;
	int64_t now = mono_us();

	change(more_slots);
	w = make();
	assert_true(slot_take(w->states[0]) && slot_take(w->states[0]));
	while (!breaker_failure(&w->states[1]->breaker, &o, now, true, "refused", 0))
		;
	world_load(w, (struct reach){ 0, 2 }, now, load);
	assert_int_equal(load[0].in_use, 2);
	assert_int_equal(load[0].slots, 3);
	assert_false(load[0].breaker_open);
	assert_int_equal(load[1].in_use, 0);
	assert_true(load[1].breaker_open);
	world_load(w, (struct reach){ 1, 1 }, now, load);         /* from the second on */
	assert_true(load[0].breaker_open);
	slot_free(w->states[0], 0);
	slot_free(w->states[0], 0);
	world_unref(w);
}

static void kinds_of_backends_have_names(void **state)
{
	enum llm_backend kind = LLM_BACKEND_OLLAMA;

	assert_true(llm_backend_parse("llamacpp", &kind) && kind == LLM_BACKEND_LLAMACPP);
	assert_true(llm_backend_parse("openai", &kind) && kind == LLM_BACKEND_OPENAI);
	assert_true(llm_backend_parse("ollama", &kind) && kind == LLM_BACKEND_OLLAMA);
	assert_false(llm_backend_parse("", &kind));
	assert_false(llm_backend_parse("Ollama", &kind));
	assert_int_equal(kind, LLM_BACKEND_OLLAMA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(bytes_that_are_no_snapshot_are_refused), HOUSE(half_a_snapshot_is_refused), HOUSE(policy_that_is_none_is_refused),
		HOUSE(a_replica_without_its_backend_is_refused), HOUSE(a_backend_that_cannot_be_used_is_down_and_the_others_are_not),
		HOUSE(models_without_replicas_are_a_world_too), HOUSE(what_cannot_be_understood_does_not_replace_what_was),
		HOUSE(it_lives_from_its_own_copy), HOUSE(the_last_who_has_it_lets_it_go), HOUSE(counts_go_on_in_the_next_world),
		HOUSE(load_is_what_is_so_at_that_moment), HOUSE(kinds_of_backends_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* fit_test.c - memory is computed, tiers are found, and each sentence says what is true. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "services/hardware-probe/fit.h"

static struct arena *mem;
static const struct catalogue_file *file;

static int setup(void **state)
{
	struct why why;

	mem = arena_new(0);
	file = catalogue_load(mem, "", &why);
	assert_non_null(file);
	return 0;
}

static int teardown(void **state)
{
	arena_free(mem);
	return 0;
}

#define GB_(n) ((int64_t)((n) * 1e9))

static Corral__HardwareSnapshot *machine(double ram_gb, uint32_t cores)
{
	Corral__HardwareSnapshot *hw = arena_new_of(mem, Corral__HardwareSnapshot);

	corral__hardware_snapshot__init(hw);
	hw->memory = arena_new_of(mem, Corral__Memory);
	corral__memory__init(hw->memory);
	hw->memory->total_bytes = hw->memory->available_bytes = hw->memory->usable_bytes = GB_(ram_gb);
	hw->memory->limit_bytes = -1;
	hw->cpu = arena_new_of(mem, Corral__Cpu);
	corral__cpu__init(hw->cpu);
	hw->cpu->usable_cores = cores;
	hw->cpu->limit_cores = -1;
	hw->gpus = arena_array(mem, Corral__Gpu *, 8);
	return hw;
}

static Corral__Gpu *add_gpu(Corral__HardwareSnapshot *hw, double gb, const char *vendor)
{
	Corral__Gpu *g = arena_new_of(mem, Corral__Gpu);

	corral__gpu__init(g);
	g->id = arena_printf(mem, "GPU-%zu", hw->n_gpus);
	g->name = arena_printf(mem, "Example %g", gb);
	g->vendor = arena_printf(mem, "%s", vendor);
	g->memory_total_bytes = g->memory_free_bytes = GB_(gb);
	return hw->gpus[hw->n_gpus++] = g;
}

static Corral__HardwareReply ask(const Corral__HardwareSnapshot *hw, uint32_t context, bool all)
{
	Corral__HardwareReply r = CORRAL__HARDWARE_REPLY__INIT;

	recommend(hw, file, context, all, mem, &r);
	return r;
}

static const Corral__Recommendation *first(const Corral__HardwareReply *r, const char *role)
{
	for (size_t i = 0; i < r->n_recommended; i++)
		if (r->recommended[i]->first && strcmp(r->recommended[i]->role, role) == 0)
			return r->recommended[i];
	return NULL;
}

static const Corral__Recommendation *named(const Corral__HardwareReply *r, const char *name)
{
	for (size_t i = 0; i < r->n_recommended; i++)
		if (strcmp(r->recommended[i]->name, name) == 0)
			return r->recommended[i];
	return NULL;
}

static const struct entry *biggest(void)
{
	const struct entry *best = file->entries;

	for (size_t i = 0; i < file->n_entries; i++)
		if (file->entries[i].download_bytes > best->download_bytes)
			best = &file->entries[i];
	return best;
}

static void test_memory_is_a_sum(void **state)
{
	struct entry e = { .download_bytes = GB_(4), .layers = 32, .kv_heads = 8, .head_size = 128, .context = 16384 };
	Corral__Recommendation r = CORRAL__RECOMMENDATION__INIT;

	entry_needs(&e, 8192, &r);
	assert_int_equal(r.kv_bytes, INT64_C(1) << 30);       /* 2 x 32 x 8 x 128 x 2 bytes x 8192 */
	assert_int_equal(r.needed_bytes, r.weights_bytes + r.kv_bytes + r.overhead_bytes);
	entry_needs(&e, 1000000, &r);
	assert_int_equal(r.context, 16384);                   /* not more than it can */
}

static void test_tiers(void **state)
{
	static const struct { double gpu; const char *tier; } cases[] = { { 24, "24gb" }, { 80, "24gb" }, { 16, "16gb" }, { 8, "8gb" }, { 4, "cpu" }, { 0, "cpu" } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		Corral__HardwareSnapshot *hw = machine(32, 8);
		Corral__HardwareReply r;

		if (cases[i].gpu > 0)
			add_gpu(hw, cases[i].gpu, "nvidia");
		r = ask(hw, 0, false);
		assert_string_equal(r.tier, cases[i].tier);
	}
}

/* Each tier has something to begin with in every role, it fits, and a larger tier never begins with a weaker one. */
static void test_every_tier_has_its_first_ones(void **state)
{
	static const char *const roles[] = { "chat", "code", "vision", "fast", "embedding", "reasoning" };
	static const double sizes[] = { 8, 16, 24 };

	for (size_t k = 0; k < sizeof(roles) / sizeof(*roles); k++) {
		int64_t before = 0;

		for (size_t i = 0; i < 3; i++) {
			Corral__HardwareSnapshot *hw = machine(32, 8);
			const Corral__Recommendation *f;
			Corral__HardwareReply r;

			add_gpu(hw, sizes[i], "nvidia");
			r = ask(hw, 0, false);
			f = first(&r, roles[k]);
			assert_non_null(f);
			assert_string_equal(f->fits, "gpu");
			assert_true(f->needed_bytes <= GB_(sizes[i]));
			assert_true(f->download_bytes >= before || strcmp(roles[k], "fast") == 0 || strcmp(roles[k], "embedding") == 0 || i == 2);
			before = f->download_bytes;
			assert_non_null(strstr(f->why, "needs "));
		}
	}
}

static void test_two_cards(void **state)
{
	Corral__HardwareSnapshot *hw = machine(32, 8);
	const Corral__Recommendation *big;
	Corral__HardwareReply r;

	add_gpu(hw, 16, "nvidia");
	add_gpu(hw, 16, "nvidia");
	add_gpu(hw, 24, "amd")->split = true;     /* neither its kind nor a unit */
	r = ask(hw, 0, true);
	big = named(&r, arena_str(mem, biggest()->name).p);
	assert_string_equal(big->fits, "gpus");
	assert_non_null(strstr(big->why, "2 together"));
	assert_string_equal(r.tier, "24gb");
}

static void test_parts_of_a_card_do_not_add_up(void **state)
{
	Corral__HardwareSnapshot *hw = machine(64, 8);
	const Corral__Recommendation *big;
	Corral__HardwareReply r;
	char whole[] = "GPU-0";

	add_gpu(hw, 40, "nvidia")->split = true;
	add_gpu(hw, 20, "nvidia")->parent = whole;
	add_gpu(hw, 20, "nvidia")->parent = whole;
	r = ask(hw, 0, true);
	big = named(&r, arena_str(mem, biggest()->name).p);
	assert_string_equal(big->fits, "partly");
	assert_string_equal(r.tier, "16gb");
}

static void test_processor_only(void **state)
{
	Corral__HardwareSnapshot *hw = machine(8, 2), *large = machine(64, 16);
	Corral__HardwareReply small = ask(hw, 0, false), r = ask(large, 0, false);

	assert_non_null(first(&small, "chat"));
	assert_true(first(&small, "chat")->needed_bytes < GB_(6));
	assert_null(named(&small, arena_str(mem, biggest()->name).p));
	assert_true(first(&r, "chat")->download_bytes > first(&small, "chat")->download_bytes);
	hw->cpu->limit_cores = 0.5;               /* of a container */
	small = ask(hw, 0, true);
	assert_string_equal(named(&small, arena_str(mem, biggest()->name).p)->fits, "no");
	assert_non_null(strstr(named(&small, arena_str(mem, biggest()->name).p)->why, "more than the"));
}

static void test_what_is_in_use_is_said(void **state)
{
	Corral__HardwareSnapshot *hw = machine(32, 8);
	Corral__HardwareReply r;

	add_gpu(hw, 24, "nvidia")->memory_free_bytes = GB_(1);
	r = ask(hw, 0, false);
	assert_string_equal(first(&r, "chat")->fits, "gpu");
	assert_non_null(strstr(first(&r, "chat")->why, "only 1.0 GB are free right now"));
}

static void test_nothing_is_known(void **state)
{
	Corral__HardwareSnapshot hw = CORRAL__HARDWARE_SNAPSHOT__INIT;
	Corral__HardwareReply r = ask(&hw, 0, false);

	assert_int_equal(r.n_recommended, 0);
	assert_string_equal(r.tier, "cpu");
}

static void refused(const char *text, const char *says)
{
	struct catalogue_file f;
	struct why why = { 0 };

	assert_int_equal(catalogue_parse(mem, str_of(text), &f, &why), ERR_INVALID);
	if (!strstr(why.text, says))
		fail_msg("'%s' does not say '%s'", why.text, says);
}

static void test_a_wrong_file_is_refused(void **state)
{
	struct why why;

	refused("", "last tier");
	refused("tier\tcpu\t0\tx\n", "no model");
	refused("# x\n\nmodle\tm\n", "line 3: a line begins with");
	refused("tier\ta\t1\tx\ntier\tb\t2\tx\n", "from the largest");
	refused("tier\tcpu\tmany\tx\n", "no memory size");
	refused("model\tm\tchat\t1\n", "11 columns");
	refused("model\tm\tchat\t1\t1\tmany\t1\t1\t1\t1\t1\n", "sizes of 'm'");
	refused("model\tm\tchat\t1\t1\t5\t1\t1\t1\t1\t-1\n", "whole numbers");
	refused("model\tm\tchat\t1\t1\t5\t1\t1\t1\t1\t1\t7\n", "11 columns");
	assert_null(catalogue_load(mem, "/no/such/file", &why));
	assert_non_null(strstr(why.text, "/no/such/file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_memory_is_a_sum), T(test_tiers), T(test_every_tier_has_its_first_ones), T(test_two_cards), T(test_parts_of_a_card_do_not_add_up),
		T(test_processor_only), T(test_what_is_in_use_is_said), T(test_nothing_is_known), T(test_a_wrong_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* settings_test.c - providers as people write them, keys and what only looks like one, the table of prices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/cloud-fallback/catalogue.h"
#include "services/cloud-fallback/keys.h"
#include "services/cloud-fallback/settings.h"

static struct arena *mem;
static struct provider_setting *list;
static size_t n;
static struct why why;

static int begin(void **state)
{
	mem = arena_new(0);
	return 0;
}

static int end(void **state)
{
	arena_free(mem);
	return 0;
}

static enum err settings(const char *item)
{
	static const char *items[1];
	const struct cloud_config c = { .providers = { items, 1 }, .cloud_slots = 8 };

	items[0] = item;
	why = (struct why){ 0 };
	return cloud_settings_providers(&c, mem, &list, &n, &why);
}

static void a_provider_is_a_line(void **state)
{
	assert_int_equal(settings("oa=openai"), ERR_OK);
	assert_string_equal(list[0].url, "https://api.openai.com/v1");
	assert_true(list[0].enabled && list[0].monthly_tokens == CAP_NOT_SAID && list[0].slots == 8 && list[0].n_models == 0);
	assert_int_equal(settings("rp=runpod+https://h/v2/e"), ERR_OK);
	assert_false(list[0].queue);
	assert_int_equal(settings("rp=runpod+https://h/v2/e;api=queue"), ERR_OK);
	assert_true(list[0].queue);
	assert_int_equal(settings("my-box=compatible+http://127.0.0.1:9/v1/;models=a|b/c;key_file=/k;monthly_tokens=5;monthly_microusd=unlimited;slots=3;enabled=no"), ERR_OK);
	assert_string_equal(list[0].url, "http://127.0.0.1:9/v1");
	assert_int_equal(list[0].n_models, 2);
	assert_string_equal(list[0].models[1], "b/c");
	assert_true(list[0].monthly_tokens == 5 && list[0].monthly_microusd == CAP_UNLIMITED && list[0].slots == 3 && !list[0].enabled);
}

static void what_makes_no_sense_is_refused(void **state)
{
	static const char *const bad[] = { "oa", "ollama=openai", "vllm=compatible+http://h", "llamacpp=openai", "=openai", "Oa=openai", "a/b=openai", "oa=nobody", "rp=runpod", "x=compatible", "x=compatible+ftp://h", "x=compatible+https://h?key=k",
					   "oa=openai;monthly_tokens=-1", "oa=openai;monthly_tokens=much", "oa=openai;slots=0", "oa=openai;enabled=maybe", "oa=openai;what=1", "oa=openai;api=queue", "rp=runpod+http://h/v2/e;api=any",
					   "oa=openai;models", "oa=openai;models=a b" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		if (settings(bad[i]) != ERR_INVALID)
			fail_msg("'%s' was taken", bad[i]);
		assert_string_equal(why.field, "providers");
	}
}

static void the_environment_goes_before_the_item(void **state)
{
	setenv("CORRAL_PROVIDER_MY_BOX_MODELS", "x|y", 1);
	setenv("CORRAL_PROVIDER_MY_BOX_MONTHLY_TOKENS", "unlimited", 1);
	assert_int_equal(settings("my-box=openai;models=a;monthly_tokens=5"), ERR_OK);
	assert_int_equal(list[0].n_models, 2);
	assert_true(list[0].monthly_tokens == CAP_UNLIMITED);
	unsetenv("CORRAL_PROVIDER_MY_BOX_MODELS");
	unsetenv("CORRAL_PROVIDER_MY_BOX_MONTHLY_TOKENS");
}

static void a_wide_door_needs_a_token(void **state)
{
	static const char *items[] = { "oa=openai" };
	struct cloud_config c = { .providers = { items, 1 }, .cloud_slots = 8, .cloud_listen = "10.0.0.1:8101", .cloud_endpoint = "", .cloud_token = "", .cloud_catalogue = "" };

	assert_int_equal(cloud_settings_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "cloud_token");
	c.cloud_token = "short";
	assert_int_equal(cloud_settings_check(&c, &why), ERR_INVALID);
	c.cloud_token = "0123456789abcdef";
	assert_int_equal(cloud_settings_check(&c, &why), ERR_OK);
	c.cloud_listen = "0.0.0.0:8101";
	assert_int_equal(cloud_settings_check(&c, &why), ERR_INVALID);
	assert_string_equal(why.field, "cloud_endpoint");
	c.cloud_endpoint = "http://cloud:8101";
	assert_int_equal(cloud_settings_check(&c, &why), ERR_OK);
	c = (struct cloud_config){ .cloud_listen = "0.0.0.0:8101", .cloud_endpoint = "", .cloud_token = "", .cloud_catalogue = "" };
	assert_int_equal(cloud_settings_check(&c, &why), ERR_OK);     /* nothing listens */
}

/* --- keys --- */

static void placeholders_are_no_keys(void **state)
{
	static const char *const not[] = { "", "sk-...", "changeme", "CHANGEME-please", "<your key>", "<api-key>", "your-api-key-here", "sk-xxxxxxxxxxxx", "short", "sk-your_key_1234" };
	static const char *const keys[] = { "sk-proj-4f9aKq82LmZ0", "AIzaSyD4k2m9Qw81n", "0a1b2c3d4e5f6071" };

	for (size_t i = 0; i < sizeof(not) / sizeof(*not); i++)
		assert_true(key_is_placeholder(str_of(not[i])));
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		assert_false(key_is_placeholder(str_of(keys[i])));
}

static void write_keys(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void a_key_rests_for_one_model(void **state)
{
	struct keyring r = { .n = 2, .keys = { { .id = "a", .weight = 1 }, { .id = "b", .weight = 1 } } };
	struct provider_key *a = &r.keys[0];
	int64_t now = 1000000;
	char name[16];

	key_rest_for(a, "m1", now + 5000);
	for (int i = 0; i < 4; i++)
		assert_ptr_equal(keyring_pick(&r, "m1", now, NULL, 0), &r.keys[1]);
	assert_true(key_usable(a, "m2", now) && key_usable(a, NULL, now) && !key_usable(a, "m1", now) && key_usable(a, "m1", now + 5000));
	assert_int_equal(keyring_good(&r, now), 2);
	key_rest_for(&r.keys[1], "m1", now + 9000);
	assert_null(keyring_pick(&r, "m1", now, NULL, 0));
	assert_int_equal(keyring_model_back_us(&r, "m1", now), now + 5000);
	assert_int_equal(keyring_model_back_us(&r, "m2", now), 0);
	assert_true(keyring_model_rests_wall_us(&r, "m1", now) == a->models[0].until_wall_us && keyring_model_rests_wall_us(&r, "m2", now) == 0);
	assert_true(keyring_model_rests_wall_us(&r, "m1", now + 5000) == 0);          /* one of the two is enough */
	assert_int_equal(keyring_model_back_us(&r, "m1", now + 9000), 0);
	for (int i = 0; i < KEY_MODELS; i++) {          /* more than it remembers: what ends first gives its place */
		snprintf(name, sizeof(name), "x%d", i);
		key_rest_for(a, name, now + 6000 + i);
	}
	assert_true(key_usable(a, "m1", now) && !key_usable(a, "x0", now) && !key_usable(a, "x15", now));
	key_rest_for(a, "x15", now + 1);
	assert_true(key_usable(a, "x15", now + 1) && !key_usable(a, "x14", now + 1));
}

static void keys_take_turns_by_weight_and_rest(void **state)
{
	char path[] = "/tmp/corral-keys-test.XXXXXX", tried[KEY_TRIES][KEY_ID];
	struct provider_setting p = { .name = "p", .key_file = path, .key_env = "" };
	struct keyring r = { 0 };
	struct provider_key *k;
	int64_t now = 1000000;
	int first = 0;

	close(mkstemp(path));
	write_keys(path, "# the first is worth three\nkey-number-one-a1 3\n\nkey-number-two-b2\n");
	assert_true(keyring_load(&r, &p, mem));
	assert_false(keyring_load(&r, &p, mem));
	assert_int_equal(r.n, 2);
	for (int i = 0; i < 8; i++)
		first += keyring_pick(&r, NULL, now, NULL, 0) == &r.keys[0];
	assert_int_equal(first, 6);
	key_rest(&r.keys[0], KEY_REFUSED, now, 5000000);
	assert_int_equal(keyring_good(&r, now), 1);
	for (int i = 0; i < 4; i++)
		assert_ptr_equal(keyring_pick(&r, NULL, now, NULL, 0), &r.keys[1]);
	memcpy(tried[0], r.keys[1].id, KEY_ID);
	assert_null(keyring_pick(&r, NULL, now, (const char (*)[KEY_ID])tried, 1));
	now += 5000000;
	k = keyring_pick(&r, NULL, now, (const char (*)[KEY_ID])tried, 1);  /* one tries it again */
	assert_ptr_equal(k, &r.keys[0]);
	assert_null(keyring_pick(&r, NULL, now, (const char (*)[KEY_ID])tried, 1));
	key_is_good(k);
	assert_int_equal(keyring_good(&r, now), 2);
	key_rest(&r.keys[1], KEY_RESTS, now, 0);
	assert_int_equal(r.keys[1].until_us - now, 2000000);
	now = r.keys[1].until_us;
	key_rest(&r.keys[1], KEY_RESTS, now, 0);
	assert_int_equal(r.keys[1].until_us - now, 4000000);

	write_keys(path, "key-number-two-b2\nkey-number-three-c3 2\nchangeme\n");
	assert_true(keyring_load(&r, &p, mem));
	assert_int_equal(r.n, 2);
	assert_int_equal(r.keys[0].state, KEY_RESTS);                 /* it is the same key */
	assert_int_equal(r.keys[1].state, KEY_GOOD);
	assert_non_null(strstr(r.problem, "placeholder"));
	unlink(path);
	assert_true(keyring_load(&r, &p, mem));
	assert_int_equal(r.n, 0);
	assert_non_null(strstr(r.problem, "cannot be read"));
	keyring_free(&r);
}

/* --- the table --- */

static void the_built_in_table_is_sound(void **state)
{
	const struct catalogue *c = cloud_catalogue_load(mem, "", &why);

	assert_non_null(c);
	assert_null(cloud_catalogue_find(c, STR("compatible"), STR("box"), STR("nobody-knows-it")));
}

static void a_file_goes_before_it(void **state)
{
	char path[] = "/tmp/corral-prices-test.XXXXXX";
	const struct catalogue *c;
	const struct catalogue_row *r;

	close(mkstemp(path));
	write_keys(path, "# mine\nbox\tm*\t8192\t-\tcompletion tools\t100\t10\t400\t2026-11-20\tthe contract\n*\tfree\t-\t-\t-\t0\t-\t0\t2026-11-20\tours\n");
	c = cloud_catalogue_load(mem, path, &why);
	assert_non_null(c);
	r = cloud_catalogue_find(c, STR("compatible"), STR("box"), STR("m-7"));
	assert_non_null(r);
	assert_true(r->context_tokens == 8192 && r->max_output_tokens == 0 && r->priced && r->input == 100 && r->cached_input == 10 && r->output == 400);
	assert_null(cloud_catalogue_find(c, STR("compatible"), STR("other"), STR("m-7")));
	r = cloud_catalogue_find(c, STR("openai"), STR("oa"), STR("free"));
	assert_true(r && r->priced && r->input == 0);
	write_keys(path, "box\tm\t8192\t-\tx\t100\t-\t-\t2026-11-20\tthe contract\n");
	assert_null(cloud_catalogue_load(mem, path, &why));
	assert_non_null(strstr(why.text, ":1: prices"));
	write_keys(path, "box\tm\n");
	assert_null(cloud_catalogue_load(mem, path, &why));
	unlink(path);
	assert_null(cloud_catalogue_load(mem, path, &why));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_provider_is_a_line, begin, end), cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, begin, end),
		cmocka_unit_test_setup_teardown(the_environment_goes_before_the_item, begin, end), cmocka_unit_test_setup_teardown(a_wide_door_needs_a_token, begin, end),
		cmocka_unit_test(placeholders_are_no_keys), cmocka_unit_test(a_key_rests_for_one_model),
		cmocka_unit_test_setup_teardown(keys_take_turns_by_weight_and_rest, begin, end),
		cmocka_unit_test_setup_teardown(the_built_in_table_is_sound, begin, end), cmocka_unit_test_setup_teardown(a_file_goes_before_it, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

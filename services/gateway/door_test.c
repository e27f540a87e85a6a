/* door_test.c - who may come in: what addresses and networks mean, and the keyring that is heard, not heard, wrong, or from before. */
#include "services/gateway/gateway_test.h"

#include "access.pb-c.h"
#include "common/policy/apikey.h"
#include "common/svc/runtime.h"

static const struct svc_def access_def = { .name = "access" }, other_def = { .name = "other" };
static struct svc services[2];
static struct rpc_server *server;
static struct snapshot_pub *pub;
static struct door *door;
static const char *peers[] = { "access=tcp://127.0.0.1:1" };   /* nobody is there */

static int open_all(void **state)
{
	house_open(state);
	h.svc.loop = h.rt.loop = h.loop;
	h.svc.mem = h.mem;
	pthread_mutex_init(&h.svc.lock, NULL);
	services[0] = (struct svc){ .def = &access_def };
	services[1] = (struct svc){ .def = &other_def };
	h.rt.name = "test";
	h.rt.svcs = services;
	h.rt.n = 2;
	h.rt.ending = true;           /* a failure is only noted */
	return 0;
}

static void access_open(void)
{
	struct why why;

	server = rpc_server_new(h.loop, "inproc://access", &why);
	assert_non_null(server);
	pub = snapshot_pub_new(h.loop, server, "inproc://access.pub", "access", &why);
	assert_non_null(pub);
}

static void access_away(void)
{
	snapshot_pub_free(pub);
	rpc_server_free(server);
	pub = NULL;
	server = NULL;
}

static void door_gone(void)
{
	door_free(door);
	door = NULL;
	peers_free(&h.svc);
}

static int close_all(void **state)
{
	door_gone();
	access_away();
	while (h.svc.needs) {
		struct need *n = h.svc.needs;

		h.svc.needs = n->next;
		free(n);
	}
	pthread_mutex_destroy(&h.svc.lock);
	return house_close(state);
}

static void open_door(void)
{
	door = door_new(&h.gw);
	door_open(door);
}

static void publish(size_t n_keys)
{
	Corral__AccessSnapshot s = CORRAL__ACCESS_SNAPSHOT__INIT;
	Corral__Tenant t = CORRAL__TENANT__INIT, *tenants[] = { &t };
	char text[APIKEY_TEXT + 1], ids[4][APIKEY_ID + 1];
	uint8_t hashes[4][SHA256_BYTES], *bytes;
	Corral__Key keys[4], *list[4];
	size_t n;

	t.name = (char *)"default";
	for (size_t i = 0; i < n_keys; i++) {
		apikey_make(text, ids[i], hashes[i]);
		corral__key__init(&keys[i]);
		keys[i].id = ids[i];
		keys[i].hash = (ProtobufCBinaryData){ SHA256_BYTES, hashes[i] };
		keys[i].tenant = (char *)"default";
		keys[i].role = CORRAL__ROLE__ROLE_USER;
		list[i] = &keys[i];
	}
	s.tenants = tenants, s.n_tenants = 1;
	s.keys = list, s.n_keys = n_keys;
	bytes = x_malloc(corral__access_snapshot__get_packed_size(&s) + 1);
	n = corral__access_snapshot__pack(&s, bytes);
	snapshot_publish(pub, str_n((char *)bytes, n));
	free(bytes);
}

static const struct need *need(void)
{
	for (const struct need *n = h.svc.needs; n; n = n->next)
		if (strcmp(n->name, "keys") == 0)
			return n;
	fail_msg("nothing is said of keys");
	return NULL;
}

static bool need_says(const char *part) { return strstr(need()->text, part) != NULL; }
static bool has_ring(void) { return h.w->ring != NULL; }
static bool is_judged(void) { return door->judged; }
static bool has_failed(void) { return h.rt.status != 0; }
static size_t expected_keys;
static bool has_those_keys(void) { return h.w->ring && keyring_keys(h.w->ring) == expected_keys; }

static void until_keys(size_t n)
{
	expected_keys = n;
	run_until(has_those_keys);
}

/* --- addresses and networks --- */

static void some_addresses_stay_on_this_machine(void **state)
{
	static const char *const near[] = { "127.0.0.1:8100", "127.9.9.9:1", "[::1]:8100", "localhost:8100", ":8100", "unix:/run/x" };
	static const char *const far[] = { "0.0.0.0:8100", "[::]:8100", "10.0.0.1:8100", "*:8100", "", "localhost.example.org:80", "128.0.0.1:1", "[::1%eth0]:1" };

	for (size_t i = 0; i < sizeof(near) / sizeof(*near); i++)
		assert_true(listen_is_loopback(str_of(near[i])));
	for (size_t i = 0; i < sizeof(far) / sizeof(*far); i++)
		assert_false(listen_is_loopback(str_of(far[i])));
}

static void networks_are_checked_before_they_are_believed(void **state)
{
	static const char *const wrong[] = { "10.0.0.1/8", "everybody", "10.0.0.0/33", "", "::1/129", "10.0.0.0/8 " };
	static const char *const right[] = { "10.0.0.0/8", "fd00::/8", "192.168.1.7", "::1" };
	struct gateway_config c = { 0 };
	const char *items[1];
	struct why why;

	c.anonymous.items = items;
	assert_int_equal(door_check(&c, &why), ERR_OK);
	c.anonymous.n = 1;
	for (size_t i = 0; i < sizeof(right) / sizeof(*right); i++) {
		items[0] = right[i];
		assert_int_equal(door_check(&c, &why), ERR_OK);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		items[0] = wrong[i];
		assert_int_equal(door_check(&c, &why), ERR_INVALID);
		assert_non_null(strstr(why.text, wrong[i]));
		assert_string_equal(why.field, "anonymous");
	}
}

static void the_address_that_others_can_reach_is_named(void **state)
{
	struct gateway_config c = { .listen = "127.0.0.1:1", .public_tls_listen = "" };

	assert_null(door_wide_address(&c));
	c.public_tls_listen = "[::1]:2";
	assert_null(door_wide_address(&c));
	c.public_tls_listen = "0.0.0.0:2";
	assert_string_equal(door_wide_address(&c), "0.0.0.0:2");
	c.listen = "10.1.2.3:1";
	assert_string_equal(door_wide_address(&c), "10.1.2.3:1");
	c.listen = "none";
	assert_string_equal(door_wide_address(&c), "0.0.0.0:2");
	c.public_tls_listen = "";
	assert_null(door_wide_address(&c));
}

static void loopback_is_the_owners_unless_keys_are_required(void **state)
{
	door = door_new(&h.gw);
	assert_false(door->wide);
	assert_true(door->keyless_owner[DOOR_PLAIN]);
	door_gone();
	h.cfg.require_keys = true;
	door = door_new(&h.gw);
	assert_false(door->keyless_owner[DOOR_PLAIN] || door->keyless_owner[DOOR_TLS]);
	door_gone();
	h.cfg.require_keys = false;
	h.cfg.listen = "0.0.0.0:0";
	h.cfg.public_tls_listen = "127.0.0.1:0";
	door = door_new(&h.gw);
	assert_true(door->wide);
	assert_false(door->keyless_owner[DOOR_PLAIN]);
	assert_true(door->keyless_owner[DOOR_TLS]);
}

/* --- the keyring --- */

static void until_it_is_heard_only_loopback_needs_no_key(void **state)
{
	open_door();
	assert_true(need()->ok && need_says("loopback needs no key"));
	door_gone();
	h.cfg.require_keys = true;
	open_door();
	assert_false(need()->ok);
	assert_true(need_says("not heard"));
	assert_null(h.w->ring);
}

static void the_keys_that_are_heard_are_the_workers(void **state)
{
	access_open();
	publish(2);
	h.cfg.require_keys = true;
	open_door();
	until_keys(2);
	run_until(is_judged);
	assert_true(need()->ok && need_says("2 keys"));
	assert_ptr_equal(door->ring, h.w->ring);
	publish(3);
	until_keys(3);
	assert_false(has_failed());
}

static void what_is_no_snapshot_leaves_the_keys_as_they_were(void **state)
{
	access_open();
	publish(2);
	open_door();
	until_keys(2);
	snapshot_publish(pub, STR("\xff\xff\xff no snapshot"));
	publish(1);                                       /* what comes after it is heard */
	until_keys(1);
	assert_false(has_failed());
}

static void a_wide_address_without_any_key_is_a_mistake_of_one_program(void **state)
{
	h.cfg.listen = "0.0.0.0:0";
	access_open();
	publish(0);
	open_door();
	run_until(has_failed);
	assert_true(has_ring());
}

static void unless_a_network_may_come_in_without(void **state)
{
	static const char *items[] = { "10.0.0.0/8" };

	h.cfg.listen = "0.0.0.0:0";
	h.cfg.anonymous = (struct opt_list){ .items = items, .n = 1 };
	access_open();
	publish(0);
	open_door();
	run_until(is_judged);
	turn();
	assert_false(has_failed());
	assert_int_equal(door->n_anonymous, 1);
}

/* Apart, keys may be made later: the gateway refuses everybody until then, and lives. */
static void a_gateway_of_its_own_waits_for_the_first_key(void **state)
{
	h.rt.n = 1;
	h.rt.svcs = &services[1];
	h.rt.config.peer = (struct opt_list){ .items = peers, .n = 1 };
	h.cfg.listen = "0.0.0.0:0";
	door = door_new(&h.gw);
	door_open(door);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(has_failed());
	assert_false(need()->ok);
	assert_false(door->judged);
}

/* The access service is away: those that were there may still come in, and nobody is judged by what is old. */
static void keys_are_kept_for_a_start_without_the_access_service(void **state)
{
	access_open();
	publish(2);
	open_door();
	until_keys(2);
	door_close(door);
	door_close(door);                                 /* twice is fine */
	door_gone();
	access_away();
	h.cfg.require_keys = true;
	open_door();
	until_keys(2);
	assert_false(door->judged);
	assert_true(need()->ok && need_says("as kept on disk"));
	door_sweep(door, mono_us());
	assert_int_equal(door->heard_us, 0);
	access_open();
	publish(1);
	until_keys(1);
	run_until(is_judged);
}

static void silence_is_said_with_its_length(void **state)
{
	access_open();
	publish(1);
	h.cfg.require_keys = true;
	open_door();
	until_keys(1);
	run_until(is_judged);
	access_away();
	door->heard_us -= 10 * 1000000;
	door_close(door);
	door_sweep(door, mono_us());
	assert_true(need()->ok && need_says("silent since 1"));
	door_free(NULL);
}

int main(void)
{
#define D(f) cmocka_unit_test_setup_teardown(f, open_all, close_all)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(some_addresses_stay_on_this_machine), cmocka_unit_test(networks_are_checked_before_they_are_believed),
		cmocka_unit_test(the_address_that_others_can_reach_is_named), D(loopback_is_the_owners_unless_keys_are_required),
		D(until_it_is_heard_only_loopback_needs_no_key), D(the_keys_that_are_heard_are_the_workers), D(what_is_no_snapshot_leaves_the_keys_as_they_were),
		D(a_wide_address_without_any_key_is_a_mistake_of_one_program), D(unless_a_network_may_come_in_without),
		D(a_gateway_of_its_own_waits_for_the_first_key), D(keys_are_kept_for_a_start_without_the_access_service), D(silence_is_said_with_its_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

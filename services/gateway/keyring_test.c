/* keyring_test.c - keys found by what clients show; deltas; what is shared and what is freed; scopes that outlive rings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "common/base/arena.h"
#include "common/policy/apikey.h"
#include "services/gateway/keyring.h"

struct made { char text[APIKEY_TEXT + 1], id[APIKEY_ID + 1]; uint8_t hash[SHA256_BYTES]; };

static void fill(Corral__Key *k, struct made *m, const char *tenant)
{
	corral__key__init(k);
	k->id = m->id;
	k->hash = (ProtobufCBinaryData){ SHA256_BYTES, m->hash };
	k->tenant = (char *)tenant;
	k->role = CORRAL__ROLE__ROLE_USER;
}

static struct str packed(const ProtobufCMessage *m, char **ret_owned)
{
	size_t n = protobuf_c_message_get_packed_size(m);

	*ret_owned = malloc(n + 1);
	return str_n(*ret_owned, protobuf_c_message_pack(m, (uint8_t *)*ret_owned));
}

static struct keyring *ring_of(struct scope_table *scopes, struct made *made, size_t n, const char *tenant)
{
	Corral__AccessSnapshot s = CORRAL__ACCESS_SNAPSHOT__INIT;
	Corral__Tenant t = CORRAL__TENANT__INIT, *tenants[] = { &t };
	Corral__Key *keys = calloc(n + 1, sizeof(*keys)), **list = calloc(n + 1, sizeof(*list));
	struct keyring *ring;
	struct why why;
	char *bytes;

	t.name = (char *)tenant;
	for (size_t i = 0; i < n; i++) {
		apikey_make(made[i].text, made[i].id, made[i].hash);
		fill(&keys[i], &made[i], tenant);
		list[i] = &keys[i];
	}
	s.keys = list;
	s.n_keys = n;
	s.tenants = tenants;
	s.n_tenants = 1;
	ring = keyring_new(packed(&s.base, &bytes), (struct snapshot_id){ 1, 1 }, scopes, &why);
	assert_non_null(ring);
	free(bytes);
	free(keys);
	free(list);
	return ring;
}

/* Every answer twice: the second comes from what was seen before. */
static const struct ring_key *show(const struct keyring *r, const char *text)
{
	const struct ring_key *k;
	struct str id;

	assert_true(apikey_parse(str_of(text), &id));
	k = keyring_verify(r, id, str_of(text));
	assert_ptr_equal(keyring_verify(r, id, str_of(text)), k);
	return k;
}

static struct keyring *with(struct keyring *old, Corral__AccessDelta *d, struct scope_table *scopes)
{
	struct why why;
	char *bytes;
	struct keyring *r = keyring_with(old, packed(&d->base, &bytes), (struct snapshot_id){ 1, keyring_id(old).version + 1 }, scopes, &why);

	assert_non_null(r);
	free(bytes);
	return r;
}

enum { N = 3000 };

static void a_key_is_found_by_what_is_shown(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made *made = calloc(N + 1, sizeof(*made)), other;
	struct keyring *r = ring_of(scopes, made, N, "acme");

	assert_int_equal(keyring_keys(r), N);
	for (int i = 0; i < N; i++) {
		const struct ring_key *k = show(r, made[i].text);

		assert_non_null(k);
		assert_string_equal(k->pb.id, made[i].id);
		assert_string_equal(k->pb.tenant, "acme");
	}
	for (int i = 0; i < 100; i++) {           /* nobody's key; and a known id with another secret */
		apikey_make(other.text, other.id, other.hash);
		assert_null(show(r, other.text));
		assert_null(keyring_verify(r, str_of(made[i].id), str_of(other.text)));
	}
	assert_non_null(keyring_tenant(r, STR("acme")));
	assert_null(keyring_tenant(r, STR("other")));
	keyring_unref(r);
	scope_table_free(scopes);
	free(made);
}

/* The same id with another secret: what was seen of the old one counts no more, and the new one is not taken for it. */
static void what_was_seen_goes_with_its_entry(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made made[1], later;
	struct keyring *r1 = ring_of(scopes, made, 1, "acme"), *r2;
	Corral__AccessDelta d = CORRAL__ACCESS_DELTA__INIT;
	Corral__Key changed, *put[] = { &changed };

	assert_non_null(show(r1, made[0].text));
	assert_int_not_equal(keyring_key(r1, str_of(made[0].id))->seen[0], 0);
	apikey_make(later.text, later.id, later.hash);
	fill(&changed, &later, "acme");
	changed.id = made[0].id;
	d.put_keys = put, d.n_put_keys = 1;
	r2 = with(r1, &d, scopes);
	assert_null(show(r2, made[0].text));
	assert_int_equal(keyring_key(r2, str_of(made[0].id))->seen[0], 0);
	assert_non_null(keyring_verify(r2, str_of(made[0].id), str_of(later.text)));
	assert_null(keyring_verify(r1, str_of(made[0].id), str_of(later.text)));
	assert_null(show(r2, made[0].text));
	keyring_unref(r1);
	keyring_unref(r2);
	scope_table_free(scopes);
}

static void an_empty_ring_refuses(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made made;
	struct keyring *r = ring_of(scopes, NULL, 0, "t");

	apikey_make(made.text, made.id, made.hash);
	assert_null(show(r, made.text));
	keyring_unref(r);
	scope_table_free(scopes);
}

static void a_delta_changes_what_it_names_and_nothing_else(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made *made = calloc(N + 1, sizeof(*made)), fresh;
	struct keyring *r1 = ring_of(scopes, made, N, "acme"), *r2;
	Corral__AccessDelta d = CORRAL__ACCESS_DELTA__INIT;
	Corral__Key k, changed, *put[] = { &k, &changed };
	Corral__Tenant t = CORRAL__TENANT__INIT, *tenants[] = { &t };
	char *del[] = { made[7].id, (char *)"nobody" };

	apikey_make(fresh.text, fresh.id, fresh.hash);
	fill(&k, &fresh, "new");
	fill(&changed, &made[9], "acme");
	changed.role = CORRAL__ROLE__ROLE_ADMIN;
	t.name = (char *)"new";
	d.put_keys = put, d.n_put_keys = 2;
	d.del_keys = del, d.n_del_keys = 2;
	d.put_tenants = tenants, d.n_put_tenants = 1;
	r2 = with(r1, &d, scopes);
	assert_null(show(r2, made[7].text));
	assert_non_null(show(r1, made[7].text));          /* who still has the old one sees it whole */
	assert_int_equal(keyring_keys(r2), N);
	assert_int_equal(keyring_keys(r1), N);
	assert_non_null(show(r2, fresh.text));
	assert_null(show(r1, fresh.text));
	assert_int_equal(show(r2, made[9].text)->pb.role, CORRAL__ROLE__ROLE_ADMIN);
	assert_int_equal(show(r1, made[9].text)->pb.role, CORRAL__ROLE__ROLE_USER);
	assert_int_equal(keyring_tenants(r2), 2);
	keyring_unref(r1);
	for (int i = 0; i < N; i++)
		assert_true(i == 7 || show(r2, made[i].text));
	keyring_unref(r2);
	scope_table_free(scopes);
	free(made);
}

static void many_deltas_end_where_one_snapshot_would(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made *made = calloc(N + 1, sizeof(*made));
	struct keyring *r = ring_of(scopes, made, 0, "acme"), *next;
	char *del;
	Corral__Key k, *put[] = { &k };

	for (int i = 0; i < N; i++) {
		Corral__AccessDelta d = CORRAL__ACCESS_DELTA__INIT;

		apikey_make(made[i].text, made[i].id, made[i].hash);
		fill(&k, &made[i], "acme");
		d.put_keys = put, d.n_put_keys = 1;
		if (i % 3 == 2) {
			del = made[i - 1].id;
			d.del_keys = &del, d.n_del_keys = 1;
		}
		next = with(r, &d, scopes);
		keyring_unref(r);
		r = next;
	}
	assert_int_equal(keyring_keys(r), N - N / 3);
	for (int i = 0; i < N; i++)
		assert_int_equal(show(r, made[i].text) != NULL, i % 3 != 1);
	keyring_unref(r);
	scope_table_free(scopes);
	free(made);
}

/* A request that is over at once. */
static bool takes(struct scope *s)
{
	struct limit_hold hold = { .scopes = { s } };
	struct limit_refusal why;

	if (!scopes_take(&hold, 0, 1000000, &why))
		return false;
	scopes_end(&hold, 0, 1000000);
	return true;
}

static void count(struct scope *s, void *n) { (void)s, ++*(int *)n; }

static void limits_outlive_the_ring_that_named_them(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made made[2];
	struct keyring *r1 = ring_of(scopes, made, 1, "acme"), *r2;
	Corral__AccessDelta d = CORRAL__ACCESS_DELTA__INIT;
	Corral__Limits limits = CORRAL__LIMITS__INIT;
	Corral__Key k, *put[] = { &k };
	char *del = made[0].id;
	int n = 0;

	assert_null(show(r1, made[0].text)->scope);
	limits.requests_per_minute = 2;
	limits.concurrency = 1;
	fill(&k, &made[0], "acme");
	k.limits = &limits;
	d.put_keys = put, d.n_put_keys = 1;
	r2 = with(r1, &d, scopes);
	keyring_unref(r1);
	assert_true(takes(show(r2, made[0].text)->scope) && takes(show(r2, made[0].text)->scope));
	assert_false(takes(show(r2, made[0].text)->scope));
	limits.requests_per_minute = 3;
	r1 = with(r2, &d, scopes);                        /* the limit is raised: what was used stays used */
	keyring_unref(r2);
	assert_true(takes(show(r1, made[0].text)->scope));
	assert_false(takes(show(r1, made[0].text)->scope));
	scope_table_sweep(scopes, count, &n);
	assert_int_equal(n, 1);
	d.n_put_keys = 0;
	d.del_keys = &del, d.n_del_keys = 1;
	r2 = with(r1, &d, scopes);
	keyring_unref(r1);
	scope_table_sweep(scopes, count, &n);
	assert_int_equal(n, 1);
	keyring_unref(r2);
	scope_table_free(scopes);
}

static void what_cannot_be_decoded_is_refused(void **state)
{
	struct scope_table *scopes = scope_table_new();
	struct made made[1];
	struct keyring *r = ring_of(scopes, made, 1, "acme");
	struct why why = { 0 };

	assert_null(keyring_new(STR("\xff\xff\xff"), (struct snapshot_id){ 1, 1 }, scopes, &why));
	assert_int_equal(why.code, ERR_MALFORMED);
	assert_null(keyring_with(r, STR("\xff\xff\xff"), (struct snapshot_id){ 1, 2 }, scopes, &why));
	assert_non_null(show(r, made[0].text));
	keyring_unref(r);
	scope_table_free(scopes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_is_found_by_what_is_shown), cmocka_unit_test(what_was_seen_goes_with_its_entry), cmocka_unit_test(an_empty_ring_refuses),
		cmocka_unit_test(a_delta_changes_what_it_names_and_nothing_else), cmocka_unit_test(many_deltas_end_where_one_snapshot_would),
		cmocka_unit_test(limits_outlive_the_ring_that_named_them), cmocka_unit_test(what_cannot_be_decoded_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

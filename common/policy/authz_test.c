/* authz_test.c - roles, actions, tenants, and what a key narrows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/policy/authz.h"

static const struct str none = STR_INIT("");

static enum err may(const struct subject *s, const char *action, const char *tenant)
{
	struct why why = { 0 };
	enum err e = authorise(s, str_of(action), STR("x"), str_of(tenant), &why);

	assert_int_equal(why.code, e);
	assert_true(e == ERR_OK || why.text[0]);
	return e;
}

static struct subject as(Corral__Role role) { return (struct subject){ .role = role, .tenant = STR("a") }; }

static void nothing_is_allowed_by_default(void **state)
{
	struct subject nobody = as(CORRAL__ROLE__ROLE_NONE), strange = as((Corral__Role)99);

	for (const char *const *a = all_actions; *a; a++) {
		assert_int_equal(may(&nobody, *a, ""), ERR_FORBIDDEN);
		assert_int_equal(may(&strange, *a, ""), ERR_FORBIDDEN);
	}
	for (int r = 0; r <= CORRAL__ROLE__ROLE_SERVICE; r++)
		assert_false(r != CORRAL__ROLE__ROLE_OWNER && role_may((Corral__Role)r, STR("no.such.action")));
}

static void roles_have_what_the_table_says(void **state)
{
	static const struct { Corral__Role role; const char *can, *cannot; } t[] = {
		{ CORRAL__ROLE__ROLE_ADMIN, "models.manage", "tenants.write" }, { CORRAL__ROLE__ROLE_OPERATOR, "models.write", "models.manage" },
		{ CORRAL__ROLE__ROLE_AUDITOR, "audit.read", "inference" }, { CORRAL__ROLE__ROLE_DEVELOPER, "usage.read", "keys.create" },
		{ CORRAL__ROLE__ROLE_USER, "inference", "usage.read" }, { CORRAL__ROLE__ROLE_SERVICE, "inference", "models.write" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct subject s = as(t[i].role);

		assert_int_equal(may(&s, t[i].can, ""), ERR_OK);
		assert_int_equal(may(&s, t[i].cannot, ""), ERR_FORBIDDEN);
	}
	for (const char *const *a = all_actions; *a; a++)
		assert_true(role_may(CORRAL__ROLE__ROLE_OWNER, str_of(*a)));
}

static void another_tenants_things_do_not_exist(void **state)
{
	for (int r = CORRAL__ROLE__ROLE_OWNER; r <= CORRAL__ROLE__ROLE_SERVICE; r++)
		for (const char *const *a = all_actions; *a; a++) {
			struct subject s = as((Corral__Role)r);
			bool can = role_may(s.role, str_of(*a)), far = role_reaches(s.role, str_of(*a));

			assert_int_equal(may(&s, *a, "a"), can ? ERR_OK : ERR_FORBIDDEN);
			assert_int_equal(may(&s, *a, "b"), !can ? ERR_FORBIDDEN : far ? ERR_OK : ERR_NOT_FOUND);
		}
	assert_true(role_reaches(CORRAL__ROLE__ROLE_ADMIN, STR("usage.read")));
	assert_false(role_reaches(CORRAL__ROLE__ROLE_ADMIN, STR("keys.create")));
	assert_false(role_reaches(CORRAL__ROLE__ROLE_DEVELOPER, STR("usage.read")));
}

static void a_key_narrows_and_never_widens(void **state)
{
	char *actions[] = { (char *)"models.*", (char *)"keys.create" };
	Corral__Key key = CORRAL__KEY__INIT;
	struct subject s = as(CORRAL__ROLE__ROLE_OPERATOR);

	key.actions = actions;
	key.n_actions = 2;
	s.key = &key;
	assert_int_equal(may(&s, "models.read", ""), ERR_OK);
	assert_int_equal(may(&s, "inference", ""), ERR_FORBIDDEN);
	assert_int_equal(may(&s, "models.manage", ""), ERR_FORBIDDEN);
	assert_int_equal(may(&s, "keys.create", ""), ERR_FORBIDDEN);
}

static void models_are_allowed_by_key_and_by_tenant(void **state)
{
	char *of_key[] = { (char *)"qwen*", (char *)"org/*:7b", (char *)"plain" }, *of_tenant[] = { (char *)"*:7b", (char *)"qwen2:latest", (char *)"plain" };
	Corral__Key key = CORRAL__KEY__INIT;
	Corral__Tenant home = CORRAL__TENANT__INIT;
	struct subject s = { .key = &key, .home = &home };

	assert_true(authorise_model(&s, STR("anything")));
	key.models = of_key;
	key.n_models = 3;
	assert_true(authorise_model(&s, STR("qwen3:4b")));
	assert_true(authorise_model(&s, STR("org/m:7b")));
	assert_true(authorise_model(&s, STR("plain:latest")));
	assert_false(authorise_model(&s, STR("org/m:8b")));
	assert_false(authorise_model(&s, STR("xqwen")));
	home.models = of_tenant;
	home.n_models = 3;
	assert_false(authorise_model(&s, STR("qwen3:4b")));
	assert_true(authorise_model(&s, STR("qwen3:7b")));
	assert_true(authorise_model(&s, STR("qwen2")));
	assert_false(authorise_model(&s, none));
}

static void roles_have_names_and_an_order(void **state)
{
	Corral__Role r;

	for (int i = CORRAL__ROLE__ROLE_OWNER; i <= CORRAL__ROLE__ROLE_SERVICE; i++) {
		assert_true(role_parse(str_of(role_name((Corral__Role)i)), &r));
		assert_int_equal(r, i);
		assert_true(role_within(r, r));
		assert_true(role_within(r, CORRAL__ROLE__ROLE_OWNER));
	}
	assert_false(role_parse(STR("none"), &r));
	assert_false(role_parse(STR("Owner"), &r));
	assert_false(role_within(CORRAL__ROLE__ROLE_OWNER, CORRAL__ROLE__ROLE_ADMIN));
	assert_true(role_within(CORRAL__ROLE__ROLE_USER, CORRAL__ROLE__ROLE_DEVELOPER));
	assert_true(role_within(CORRAL__ROLE__ROLE_AUDITOR, CORRAL__ROLE__ROLE_ADMIN));
	assert_false(role_within(CORRAL__ROLE__ROLE_AUDITOR, CORRAL__ROLE__ROLE_DEVELOPER));
	assert_false(role_within(CORRAL__ROLE__ROLE_OPERATOR, CORRAL__ROLE__ROLE_AUDITOR));
}

static void the_page_names_every_action_and_role(void **state)
{
	struct buf b = { 0 };
	size_t rows = 0;

	authz_dump(&b);
	for (const char *const *a = all_actions; *a; a++, rows++) {
		char cell[64];

		snprintf(cell, sizeof(cell), "| `%s` |", *a);
		assert_non_null(str_find(buf_as_str(&b), str_of(cell)));
	}
	for (size_t i = 0; i + 4 < b.n; i++)
		rows -= memcmp(b.p + i, "\n| `", 4) == 0;
	assert_int_equal(rows, 0);        /* all_actions and the table are one set */
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_allowed_by_default), cmocka_unit_test(roles_have_what_the_table_says),
		cmocka_unit_test(another_tenants_things_do_not_exist), cmocka_unit_test(a_key_narrows_and_never_widens),
		cmocka_unit_test(models_are_allowed_by_key_and_by_tenant), cmocka_unit_test(roles_have_names_and_an_order),
		cmocka_unit_test(the_page_names_every_action_and_role),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* outcome_test.c - what other systems say of tasks becomes feedback, as protobuf and as JSON; what says nothing is told why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "common/base/id.h"
#include "events.pb-c.h"
#include "services/usage-tracker/ledger_sql.h"
#include "services/usage-tracker/outcome.h"

#define ID "01a1ff94-1fb6-7002-a5d2-e89c4889b600"

struct store { char dir[64]; struct db *db; struct arena *mem; };

static int setup(void **state)
{
	struct store *s = *state = x_calloc(1, sizeof(*s));
	char url[128];
	struct why why;

	snprintf(s->dir, sizeof(s->dir), "/tmp/outcome-test.XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(url, sizeof(url), "sqlite:%s/ledger.db", s->dir);
	s->db = db_open(url, ledger_sql, L_STATEMENTS, ledger_migrations, &why);
	assert_non_null(s->db);
	s->mem = arena_new(0);
	return 0;
}

static int teardown(void **state)
{
	static const char *const files[] = { "ledger.db", "ledger.db-wal", "ledger.db-shm", "" };
	struct store *s = *state;
	char path[128];

	db_close(s->db);
	arena_free(s->mem);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "%s/%s", s->dir, files[i]);
		(void)remove(path);
	}
	free(s);
	return 0;
}

static bool take_row(void *arg, const struct db_row *row)
{
	char *text = arg;

	snprintf(text + strlen(text), 200 - strlen(text), STR_FMT " %d %d/%d %d;", STR_ARG(db_str(row, 0)), db_col(row, 1).type == DB_NULL ? -1 : (int)db_int(row, 1),
		 (int)db_int(row, 2), (int)db_int(row, 3), (int)db_int(row, 4));
	return true;
}

/* "author success passed/total rating;" of each, in order. */
static void kept_are(struct store *s, const char *wanted)
{
	char text[200] = "";
	struct why why;

	assert_true(db_query(s->db, "SELECT author, success, tests_passed, tests_total, rating FROM feedback ORDER BY author", NULL, 0, take_row, text, &why));
	assert_string_equal(text, wanted);
}

static const char *keep(struct store *s, struct str bytes)
{
	struct why why;
	const char *reason = outcome_keep(s->db, bytes, s->mem, &why);

	assert_non_null(reason);
	return reason;
}

static void as_json(void **state)
{
	struct store *s = *state;

	assert_string_equal(keep(s, STR("{\"task_id\":\"a\",\"request_id\":\"" ID "\",\"success\":true,\"tests_passed\":2,\"tests_total\":3,\"rating\":4,\"duration_ms\":5}")), "");
	assert_string_equal(keep(s, STR("{\"task_id\":\"b\",\"request_id\":\"" ID "\",\"success\":false,\"occurred_at_us\":1795289227196000,\"more\":[]}")), "");
	assert_string_equal(keep(s, STR("{\"task_id\":\"c\",\"request_id\":\"" ID "\",\"success\":null}")), "");
	assert_string_equal(keep(s, STR("\r\n  {\n\t\"task_id\" : \"d\",\n\t\"request_id\" : \"" ID "\",\n\t\"rating\" : 2\n}\n")), "");
	kept_are(s, "task:a 1 2/3 4;task:b 0 0/0 0;task:c -1 0/0 0;task:d -1 0/0 2;");
}

static void as_protobuf(void **state)
{
	struct store *s = *state;
	Corral__TaskCompletedEvent e = CORRAL__TASK_COMPLETED_EVENT__INIT;
	struct uuid id;
	uint8_t bytes[200];

	assert_true(uuid_parse(STR(ID), &id));
	e.task_id = (char *)(uintptr_t)"p";
	e.request_id = (ProtobufCBinaryData){ sizeof(id.b), id.b };
	e.success = CORRAL__VERDICT__VERDICT_BAD;
	e.tests_total = 9;
	assert_string_equal(keep(s, str_n((char *)bytes, corral__task_completed_event__pack(&e, bytes))), "");
	e.request_id = (ProtobufCBinaryData){ 36, (uint8_t *)(uintptr_t)ID };
	e.task_id = (char *)(uintptr_t)"q";
	assert_string_equal(keep(s, str_n((char *)bytes, corral__task_completed_event__pack(&e, bytes))), "");
	kept_are(s, "task:p 0 0/9 0;task:q 0 0/9 0;");
}

static void what_says_nothing(void **state)
{
	static const char *const wrong[] = {
		"", "{", "{}", "[]", "\xff\xff", "{\"task_id\":\"a\"}", "{\"task_id\":\"a\",\"request_id\":\"17\"}", "{\"request_id\":\"" ID "\"}",
		"{\"task_id\":\"a\",\"request_id\":\"" ID "\",\"rating\":6}", "{\"task_id\":\"a\",\"request_id\":\"" ID "\",\"success\":\"yes\"}",
		"{\"task_id\":\"a\",\"request_id\":\"" ID "\",\"tests_passed\":2,\"tests_total\":1}", "{\"task_id\":\"a\",\"request_id\":\"" ID "\",\"tests_total\":-1}",
		"{\"task_id\":7,\"request_id\":\"" ID "\"}",
	};
	struct store *s = *state;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_true(strlen(keep(s, str_of(wrong[i]))) > 10);
	kept_are(s, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(as_json, setup, teardown),
		cmocka_unit_test_setup_teardown(as_protobuf, setup, teardown),
		cmocka_unit_test_setup_teardown(what_says_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

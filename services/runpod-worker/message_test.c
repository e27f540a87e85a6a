/* message_test.c - addresses, jobs and answers as bytes: what is asked of the queue, what is taken from it, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/runpod-worker/message.h"

static struct arena *mem;
static struct buf b;
static struct why why;

static int set_up(void **state) { return mem = arena_new(0), why = (struct why){ 0 }, 0; }
static int tear_down(void **state) { return arena_free(mem), buf_free(&b), b = (struct buf){ 0 }, 0; }

static const char *text(void)
{
	static char last[512];

	assert_true(str_copy(last, sizeof(last), buf_as_str(&b)));
	buf_clear(&b);
	return last;
}

static void addresses_are_made(void **state)
{
	struct str take = STR("https://q.example/v2/ep/job-take/w1?gpu=A");

	url_of_worker(&b, "https://q.example/v2/ep/job-take/$ID?gpu=A", "w 1/&", true);
	assert_string_equal(text(), "https://q.example/v2/ep/job-take/w%201%2F%26?gpu=A");
	url_of_worker(&b, "https://q.example/done/$RUNPOD_POD_ID/$ID", "w1", false);
	assert_string_equal(text(), "https://q.example/done/w1/$ID");
	url_take(&b, take, 1, false);
	assert_string_equal(text(), "https://q.example/v2/ep/job-take/w1?gpu=A&job_in_progress=0");
	url_take(&b, take, 4, true);
	assert_string_equal(text(), "https://q.example/v2/ep/job-take-batch/w1?gpu=A&batch_size=4&job_in_progress=1");
	url_take(&b, STR("http://q/take"), 4, true);
	assert_string_equal(text(), "http://q/take?job_in_progress=1");
	assert_true(url_stop(&b, take));
	assert_string_equal(text(), "https://q.example/v2/ep/job-stop/w1?gpu=A");
	assert_false(url_stop(&b, STR("http://q/take")));
	buf_clear(&b);
	url_post(&b, STR("https://q/done/$ID?gpu=A"), STR("a/b?c"), true);
	assert_string_equal(text(), "https://q/done/a%2Fb%3Fc?gpu=A&isStream=true");
	url_ping(&b, STR("https://q/ping/w1"), STR("j1,j2"), "1");
	assert_string_equal(text(), "https://q/ping/w1?job_id=j1%2Cj2&runpod_version=1");
	url_ping(&b, STR("https://q/ping/w1"), STR(""), "1");
	assert_string_equal(text(), "https://q/ping/w1?runpod_version=1");
}

static void what_is_no_address_is_named(void **state)
{
	static const char *const bad[] = { "", "q.example", "ftp://q", "https://", "https:///path", "https://me:secret@q/", "https://q/a b", "https://q/\r\nX: y" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(url_check(bad[i], "RUNPOD_WEBHOOK_PING", &why), ERR_INVALID);
		assert_non_null(strstr(why.text, "RUNPOD_WEBHOOK_PING"));
		assert_null(strstr(why.text, "secret"));
	}
	assert_int_equal(url_check("http://127.0.0.1:80/$ID?key=secret", "X", &why), ERR_OK);
	assert_true(str_eqz(url_host(STR("https://q.example:1/a?key=secret")), "https://q.example:1"));
	assert_true(str_eqz(url_host(STR("https://q.example?key=secret")), "https://q.example"));
}

static void jobs_are_read(void **state)
{
	struct taken *t = NULL;
	unsigned n = 0;

	assert_int_equal(taken_read(STR("{\"id\":\"j1\",\"input\":{\"prompt\":\"x\"},\"webhook\":null}"), mem, &t, &n, &why), ERR_OK);
	assert_int_equal(n, 1);
	assert_true(str_eqz(t[0].id, "j1") && str_eqz(t[0].input, "{\"prompt\":\"x\"}"));
	assert_int_equal(taken_read(STR("[{\"id\":\"j1\"},{\"input\":{}},{\"id\":7,\"input\":1},8,{\"id\":\"a\\nb\",\"input\":{}}]"), mem, &t, &n, &why), ERR_OK);
	assert_int_equal(n, 5);
	assert_true(str_eqz(t[0].id, "j1") && !t[0].input.n && !t[1].id.n && !t[2].id.n && !t[3].id.n && !t[4].id.n);
	assert_int_equal(taken_read(STR(""), mem, &t, &n, &why), ERR_OK);
	assert_int_equal(n, 0);
	assert_int_equal(taken_read(STR("[]"), mem, &t, &n, &why), ERR_OK);
	assert_int_equal(n, 0);
	assert_int_equal(taken_read(STR("null"), mem, &t, &n, &why), ERR_OK);
	assert_int_equal(n, 0);
	assert_int_equal(taken_read(STR("\"j1\""), mem, &t, &n, &why), ERR_MALFORMED);
	assert_int_equal(taken_read(STR("{\"id\":\"j1\""), mem, &t, &n, &why), ERR_MALFORMED);
}

static void stops_are_read(void **state)
{
	struct str *ids = NULL;

	assert_int_equal(stops_read(STR("{\"jobsToStop\":[\"a\",7,\"b\"]}"), mem, &ids), 2);
	assert_true(str_eqz(ids[0], "a") && str_eqz(ids[1], "b"));
	assert_int_equal(stops_read(STR("{\"jobsToStop\":\"a\"}"), mem, &ids), 0);
	assert_int_equal(stops_read(STR("{}"), mem, &ids), 0);
	assert_int_equal(stops_read(STR("[\"a\"]"), mem, &ids), 0);
	assert_int_equal(stops_read(STR("<html>"), mem, &ids), 0);
}

static enum err planned(const char *input, struct plan *p) { return plan_read(p, str_of(input), mem, &why); }

static void an_input_becomes_a_request(void **state)
{
	struct plan p = { 0 };

	assert_int_equal(planned("{\"prompt\":\"x\"}", &p), ERR_OK);
	assert_true(str_eqz(p.path, "/inference") && !p.as_worker && strcmp(p.method, "POST") == 0);
	assert_int_equal(planned("{\"messages\":[],\"sampling_params\":{\"max_tokens\":2},\"stream\":true}", &p), ERR_OK);
	assert_true(str_eqz(p.path, "/v1/chat/completions") && str_find(p.body, STR("\"max_tokens\":2")));
	assert_int_equal(planned("{\"openai_route\":\"/v1/completions\",\"openai_input\":{\"a\":1}}", &p), ERR_OK);
	assert_true(str_eqz(p.path, "/v1/completions") && p.as_worker && str_eqz(p.body, "{\"a\":1}"));
	assert_int_equal(planned("{\"openai_route\":\"/v1/models\"}", &p), ERR_OK);
	assert_true(strcmp(p.method, "GET") == 0 && p.as_worker && !p.body.n);
	assert_int_equal(planned("{\"route\":\"/anthropic/v1/messages\",\"request\":{}}", &p), ERR_OK);
	assert_false(p.as_worker);
}

static void what_asks_no_model_is_refused(void **state)
{
	static const char *const routes[] = { "/keys", "/run", "/v1/models", "/v1/chat/completions/", "/v1/chat/completions?x=1", "/v1/inference", "//inference", "/openai/v1",
					      "/v1/../keys", "/api/pull", "/cancel/1", "http://other/v1/completions" };
	struct plan p = { 0 };

	for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++)
		assert_int_equal(planned(arena_printf(mem, "{\"route\":\"%s\",\"request\":{}}", routes[i]), &p), ERR_INVALID);
	assert_int_equal(planned("", &p), ERR_MALFORMED);
	assert_int_equal(planned("null", &p), ERR_MALFORMED);
	assert_int_equal(planned("[]", &p), ERR_MALFORMED);
	assert_int_equal(planned("{\"openai_route\":\"/v1/completions\"}", &p), ERR_MALFORMED);
}

static void answers_are_json(void **state)
{
	add_output(&b, STR("[1]"));
	assert_string_equal(text(), "{\"output\":[1]}");
	add_error(&b, STR("it said \"no\"\n"));
	assert_string_equal(text(), "{\"error\":\"it said \\\"no\\\"\\n\"}");
	assert_true(str_eqz(error_in(STR("{\"error\":{\"message\":\"no\"}}"), mem), "no"));
	assert_true(str_eqz(error_in(STR("{\"type\":\"error\",\"error\":{\"type\":\"t\"}}"), mem), "{\"type\":\"t\"}"));
	assert_true(str_eqz(error_in(STR("{\"success\":false,\"error\":\"no\"}"), mem), "no"));
	assert_true(error_in(STR("{\"error\":\"\"}"), mem).n > 0);
	assert_int_equal(error_in(STR("{\"error\":null}"), mem).n, 0);
	assert_int_equal(error_in(STR("{\"choices\":[]}"), mem).n, 0);
	assert_int_equal(error_in(STR("[DONE]"), mem).n, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(addresses_are_made), T(what_is_no_address_is_named), T(jobs_are_read), T(stops_are_read), T(an_input_becomes_a_request),
		T(what_asks_no_model_is_refused), T(answers_are_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

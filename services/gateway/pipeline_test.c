/* pipeline_test.c - the driver: what every answer carries, whose words an error is in, and that every way out is the same way out. */
#include "services/gateway/gateway_test.h"

#include "services/gateway/admission.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"

static struct req *newest(void) { return list_entry(h.w->requests.prev, struct req, node); }

static struct str header_of(const char *name)
{
	struct str rest = reply.headers, line;

	while (str_split(&rest, '\n', &line))
		if (str_ieq(str_n(line.p, strlen(name) < line.n ? strlen(name) : line.n), str_of(name)))
			return str_trim(str_from(line, strlen(name) + 1));
	return STR("");
}

/* --- what every answer carries --- */

static void every_answer_has_an_id_of_its_own(void **state)
{
	static const struct { const char *method, *path, *body; int status; } ways[] = {
		{ "GET", "/v1/models", "", 200 }, { "POST", "/v1/chat/completions", CHAT("m", ""), 200 }, { "GET", "/nowhere", "", 404 },
		{ "GET", "/v1/chat/completions", "", 405 }, { "POST", "/v1/chat/completions", "{", 400 }, { "OPTIONS", "/v1/models", "", 204 },
		{ "POST", "/v1/chat/completions", CHAT("m", ",\"stream\":true"), 200 }, { "HEAD", "/v1/models", "", 200 },
	};
	char before[40] = "";

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		ask_for(ways[i].method, ways[i].path, ways[i].body);
		assert_int_equal(reply.status, ways[i].status);
		assert_int_equal(header_of("X-Request-Id").n, 36);
		assert_false(str_eqz(header_of("X-Request-Id"), before));
		str_copy(before, sizeof(before), header_of("X-Request-Id"));
		assert_true(str_starts(header_of("Cache-Control"), STR("no-store")));
	}
}

static void head_is_get_without_a_body(void **state)
{
	ask_for("HEAD", "/v1/models", "");
	assert_int_equal(reply.status, 200);
	assert_int_equal(reply.body.n, 0);
	assert_true(header_of("Content-Length").n > 0 && !str_eqz(header_of("Content-Length"), "0"));
}

static void a_trace_goes_on_to_the_backend_as_another_span(void **state)
{
	send_to("POST", "/v1/chat/completions", "traceparent: 00-" TRACE "-00f067aa0ba902b7-01\r\n", CHAT("m", ""));
	run_until(replied);
	assert_true(str_starts(str_of(h.last_traceparent), STR("00-" TRACE "-")));
	assert_null(strstr(h.last_traceparent, "00f067aa0ba902b7"));
}

static void what_is_no_trace_is_replaced(void **state)
{
	static const char *const wrong[] = { "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-" TRACE, "ff", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		char line[128];

		snprintf(line, sizeof(line), "traceparent: %s\r\n", wrong[i]);
		send_to("POST", "/v1/chat/completions", line, CHAT("m", ""));
		run_until(replied);
		assert_int_equal(strlen(h.last_traceparent), 55);
		assert_null(strstr(h.last_traceparent, "00000000000000000000"));
		assert_null(strstr(h.last_traceparent, TRACE));
		assert_null(strstr(h.last_traceparent, "4BF9"));
	}
}

/* --- errors --- */

static void an_error_is_in_the_words_of_who_asked(void **state)
{
	static const struct { const char *path, *body, *words; int status; } ways[] = {
		{ "/v1/chat/completions", CHAT("gone", ""), "{\"error\":{\"message\":", 404 },
		{ "/api/chat", CHAT("gone", ""), "{\"error\":\"model 'gone'", 404 },
		{ "/v1/messages", "{\"model\":\"gone\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\"", 404 },
		{ "/inference", "{\"prompt\":\"x\",\"model\":\"gone\"}", "\"error_code\":\"MODEL_NOT_FOUND\"", 404 },
		{ "/v1/messages", "{\"model\":\"m\",\"messages\":[]}", "invalid_request_error", 400 },      /* 422 anywhere else */
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		ask_for("POST", ways[i].path, ways[i].body);
		if (reply.status != ways[i].status || !has_body(ways[i].words))
			fail_msg("%s: %d %.*s", ways[i].path, reply.status, (int)reply.body.n, reply.body.p);
	}
}

static void who_is_refused_for_now_is_told_when_to_come_back(void **state)
{
	world_unref(h.w->world);
	h.w->world = NULL;                        /* just started */
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_header("Retry-After: ") && has_body("no model list yet"));
	ask_for("GET", "/v1/models", "");
	assert_int_equal(reply.status, 200);      /* an empty list is one */
	set_world();
}

static void the_first_failure_is_the_one_that_is_told(void **state)
{
	struct why second = { .code = ERR_INTERNAL, .text = "second" };

	h.does = HANGS;
	send_chat(CHAT("m", ""));
	run_until(in_backend);
	req_fail(newest(), ERR_CONFLICT, "the %s", "first");
	req_fail_why(newest(), &second);
	req_resume(newest(), STEP_FAIL);
	run_until(replied);
	assert_int_equal(reply.status, 409);
	assert_true(has_body("the first"));
	assert_false(has_body("second"));
	run_until(backend_was_left);
	assert_string_equal(books().code, "CONFLICT");
}

/* --- what a path takes --- */

static void options_and_refusals_say_what_a_path_takes(void **state)
{
	ask_for("OPTIONS", "/v1/models", "");
	assert_true(str_eqz(header_of("Allow"), "GET, HEAD, OPTIONS"));
	ask_for("DELETE", "/v1/chat/completions", "");
	assert_int_equal(reply.status, 405);
	assert_true(str_eqz(header_of("Allow"), "POST, OPTIONS"));
	ask_for("OPTIONS", "/nowhere", "");
	assert_int_equal(reply.status, 404);
}

/* A browser asks without the key that it will send. What it may not do it learns with the request itself. */
static void options_need_no_key_and_the_refusal_can_be_read_by_the_page(void **state)
{
	static const char *origins[] = { "https://chat.example.org" };

	h.keyless.keyless_owner[DOOR_PLAIN] = false;
	h.cfg.cors_origins = (struct opt_list){ origins, 1 };
	send_to("OPTIONS", "/v1/chat/completions", "Origin: https://chat.example.org\r\nAccess-Control-Request-Method: POST\r\n"
		"Access-Control-Request-Headers: authorization, content-type\r\n", "");
	run_until(replied);
	assert_int_equal(reply.status, 204);
	assert_true(has_header("Access-Control-Allow-Origin: https://chat.example.org"));
	assert_true(has_header("Access-Control-Allow-Headers: authorization, content-type"));
	send_to("POST", "/v1/chat/completions", "Origin: https://chat.example.org\r\n", CHAT("m", ""));
	run_until(replied);
	assert_int_equal(reply.status, 401);
	assert_true(has_header("WWW-Authenticate: Bearer") && has_header("Access-Control-Allow-Origin: https://chat.example.org"));
	ask_for("OPTIONS", "/nowhere", "");
	assert_int_equal(reply.status, 401);      /* nor does it tell what is there */
	assert_int_equal(h.calls, 0);
	assert_int_equal(books().finals, 0);
}

/* --- signs of life --- */

static void only_event_streams_get_signs_of_life(void **state)
{
	static const struct { const char *path, *body; bool alive; } ways[] = {
		{ "/v1/chat/completions", CHAT("only", ",\"stream\":true"), true }, { "/v1/chat/completions", CHAT("only", ""), false },
		{ "/api/chat", CHAT("only", ""), false }, { "/api/chat", CHAT("only", ",\"stream\":false"), false },
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		h.does = HANGS;
		h.calls = h.left = 0;
		send_to("POST", ways[i].path, "", ways[i].body);
		run_until(in_backend);
		req_heartbeat(newest(), newest()->start_us + h.cfg.heartbeat * 1000);
		assert_int_equal(newest()->head_sent, ways[i].alive);
		reply_free(&reply);
		run_until(backend_was_left);
		run_until(no_requests);
	}
}

static void heartbeats_can_be_off(void **state)
{
	h.does = HANGS;
	h.cfg.heartbeat = 0;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(in_backend);
	req_heartbeat(newest(), newest()->start_us + 3600000000LL);
	assert_false(newest()->head_sent);
}

/* A sign of life was a head, but no answer: another replica may still give that. */
static void after_a_sign_of_life_another_replica_may_answer(void **state)
{
	h.does = HANGS;
	send_chat(CHAT("m", ",\"stream\":true"));
	run_until(in_backend);
	req_heartbeat(newest(), newest()->start_us + h.cfg.heartbeat * 1000);
	http_reply_abort(h.hanging);
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_true(has_body(": waiting for the model") && has_body("w1") && has_body("[DONE]"));
	assert_string_equal(books().story, "1error@a 2ok@b ");
}

/* --- the end --- */

static double counted(const char *dialect, const char *status) { return series_get(metrics_series(h.gw.metrics, M_REQUESTS, dialect, status)); }

static void every_request_is_counted_once_by_how_it_ended(void **state)
{
	chat(CHAT("m", ""));
	chat(CHAT("gone", ""));
	chat(CHAT("gone", ""));
	ask_for("POST", "/api/chat", CHAT("m", ",\"stream\":false"));
	h.does = HANGS;
	h.calls = h.calls_b = 0;
	send_chat(CHAT("m", ""));
	run_until(in_backend);
	reply_free(&reply);
	run_until(no_requests);
	assert_true(counted("openai", "200") == 1 && counted("openai", "404") == 2 && counted("openai", "499") == 1 && counted("ollama", "200") == 1);
}

/* Requests are used again: nothing of one may be seen by the next, large or small. */
static void nothing_of_a_request_is_left_for_the_next(void **state)
{
	h.does = ANSWERS_AT_LENGTH;
	chat(CHAT("m", ""));
	assert_true(reply.body.n > LONG_BYTES);
	h.does = CUTS;
	chat(CHAT("m", ""));
	assert_true(has_header("X-Corral-Attempts: 2"));
	h.does = ANSWERS;
	for (int i = 0; i < 200; i++) {
		chat(i % 2 ? CHAT("m", "") : CHAT("gone", ""));
		assert_int_equal(reply.status, i % 2 ? 200 : 404);
		assert_int_equal(has_header("X-Corral-Backend"), i % 2);
		assert_false(has_header("X-Corral-Attempts: 2"));
	}
	assert_true(h.w->n_spare <= sizeof(h.w->spare) / sizeof(*h.w->spare));
	assert_int_equal(budget_used(&h.gw.held), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(every_answer_has_an_id_of_its_own), HOUSE(head_is_get_without_a_body), HOUSE(a_trace_goes_on_to_the_backend_as_another_span),
		HOUSE(what_is_no_trace_is_replaced), HOUSE(an_error_is_in_the_words_of_who_asked), HOUSE(who_is_refused_for_now_is_told_when_to_come_back),
		HOUSE(the_first_failure_is_the_one_that_is_told), HOUSE(options_and_refusals_say_what_a_path_takes),
		HOUSE(options_need_no_key_and_the_refusal_can_be_read_by_the_page), HOUSE(only_event_streams_get_signs_of_life), HOUSE(heartbeats_can_be_off),
		HOUSE(after_a_sign_of_life_another_replica_may_answer), HOUSE(every_request_is_counted_once_by_how_it_ended),
		HOUSE(nothing_of_a_request_is_left_for_the_next),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

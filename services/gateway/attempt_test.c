/* attempt_test.c - one try on one backend, and what follows when it fails: another before the first byte and none after it, one FINAL
 * for every BEGUN, the slot given back, and the breaker told what it should know. */
#include "services/gateway/gateway_test.h"

#define STREAM CHAT("m", ",\"stream\":true")
#define STREAM_ONLY CHAT("only", ",\"stream\":true")

/* Whatever happened: nothing is under way, nothing is held, every BEGUN has its FINAL. */
static struct booked in_order(void)
{
	struct booked b;

	run_until(no_requests);
	b = books();
	assert_int_equal(b.begun, b.closed);
	assert_int_equal(atomic_load(&replica("m", "a")->in_use), 0);
	assert_int_equal(atomic_load(&replica("m", "b")->in_use), 0);
	assert_int_equal(atomic_load(&replica("only", "a")->in_use), 0);
	assert_int_equal(budget_used(&h.gw.held), 0);
	assert_true(list_empty(&h.w->open));
	assert_true(atomic_load(&h.w->oldest_open) == UINT64_MAX);
	return b;
}

static enum breaker_state state_of(const char *model, const char *backend)
{
	return breaker_state(&replica(model, backend)->breaker, loop_now_us(h.loop));
}

static void an_answer_is_passed_on_and_booked(void **state)
{
	struct booked b;

	chat(CHAT("m", ""));
	b = in_order();
	assert_int_equal(reply.status, 200);
	assert_true(has_body("w0 w1"));
	assert_true(has_header("X-Corral-Backend: a") && has_header("X-Corral-Attempts: 1"));
	assert_string_equal(b.story, "1ok@a ");
	assert_int_equal(b.prompt, 7);
	assert_int_equal(b.completion, 2);
	assert_int_equal(b.tokens, CORRAL__TOKENS_SOURCE__TOKENS_REPORTED);
	assert_int_equal(b.bytes, strlen(WHOLE_ANSWER));
}

static void a_stream_is_passed_on_as_it_came(void **state)
{
	chat(STREAM);
	assert_int_equal(reply.status, 200);
	assert_true(str_starts(buf_as_str(&reply.body), STR(CHUNK("w0 ") CHUNK("w1"))));
	assert_true(str_ends(buf_as_str(&reply.body), STR("data: [DONE]\n\n")));
	assert_string_equal(in_order().story, "1ok@a ");
}

static void before_the_first_byte_another_replica_is_asked(void **state)
{
	static const struct { enum does does; const char *body, *story; bool asked; } cases[] = {
		{ CUTS, CHAT("m", ""), "1error@a 2ok@b ", true }, { CUTS, STREAM, "1error@a 2ok@b ", true },
		{ FAILS, CHAT("m", ""), "1error@a 2ok@b ", true }, { IS_BUSY, STREAM, "1error@a 2ok@b ", true },
		{ CUTS_HALF, CHAT("m", ""), "1error@a 2ok@b ", true }, { IS_AWAY, STREAM, "1not_sent@a 2ok@b ", false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		house_close(state);
		house_open(state);
		h.does = cases[i].does;
		set_world();
		chat(cases[i].body);
		assert_int_equal(reply.status, 200);
		assert_true(has_header("X-Corral-Attempts: 2") && has_header("X-Corral-Backend: b"));
		assert_int_equal(h.calls, cases[i].asked);
		assert_string_equal(in_order().story, cases[i].story);
	}
}

static void after_the_first_byte_no_other_is_asked(void **state)
{
	struct booked b;

	h.does = STREAMS_AND_CUTS;
	chat(STREAM);
	b = in_order();
	assert_int_equal(h.calls_b, 0);
	assert_true(has_body("w0 ") && has_body("\"error\""));
	assert_false(has_body("[DONE]"));
	assert_string_equal(b.story, "1error@a ");
	assert_string_equal(b.code, "BACKEND_FAILED");
	assert_int_equal(b.completion, 1);        /* what was made has to be paid */
	assert_int_equal(b.tokens, CORRAL__TOKENS_SOURCE__TOKENS_COUNTED);
	assert_int_equal(b.http_status, 502);     /* how it ended, though the head said 200 */
}

static void half_an_answer_everywhere_is_an_error_and_nothing_of_it_is_shown(void **state)
{
	h.does = h.does_b = CUTS_HALF;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 502);
	assert_false(has_body("w0"));
	assert_string_equal(in_order().story, "1error@a 2error@b ");
}

/* Another backend would say the same, and it says nothing about this one's health. */
static void what_a_backend_refuses_is_not_asked_again(void **state)
{
	h.does = REFUSES;
	h.cfg.breaker_failures = 1;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 400);
	assert_true(has_body("not like this"));
	assert_int_equal(h.calls_b, 0);
	assert_string_equal(in_order().code, "BACKEND_REFUSED");
	assert_int_equal(in_order().http_status, 400);    /* as the client was told */
	assert_int_equal(state_of("m", "a"), BREAKER_CLOSED);
}

static void no_more_are_tried_than_may_be(void **state)
{
	h.does = CUTS;
	h.cfg.attempts = 1;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 502);
	assert_int_equal(h.calls_b, 0);
	assert_string_equal(in_order().story, "1error@a ");
}

static void silence_before_the_answer_is_a_failure_and_another_is_asked(void **state)
{
	h.does = HANGS;
	h.cfg.first_byte_timeout = 30;
	chat(STREAM);
	assert_int_equal(reply.status, 200);
	assert_int_equal(h.left, 1);
	assert_string_equal(in_order().story, "1error@a 2ok@b ");
}

static void silence_within_an_answer_breaks_it(void **state)
{
	h.does = STREAMS_AND_HANGS;
	h.cfg.idle_timeout = 30;
	chat(STREAM);
	assert_true(has_body("\"error\""));
	assert_false(has_body("[DONE]"));
	assert_int_equal(h.calls_b, 0);
	assert_string_equal(in_order().code, "DEADLINE");
	assert_int_equal(h.left, 1);
}

/* The request's own time, not the backend's fault: nobody else is asked, no breaker counts it. */
static void the_time_of_a_request_ends_it(void **state)
{
	h.does = HANGS;
	h.cfg.request_timeout = 40;
	h.cfg.breaker_failures = 1;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 504);
	assert_int_equal(h.calls_b, 0);
	assert_string_equal(in_order().code, "DEADLINE");
	assert_int_equal(state_of("m", "a"), BREAKER_CLOSED);
}

static void failures_open_the_breaker_and_a_probe_closes_it(void **state)
{
	h.does = FAILS;
	h.cfg.breaker_failures = 2;
	h.cfg.breaker_open = 50;
	for (int i = 0; i < 2; i++) {
		chat(CHAT("only", ""));
		assert_int_equal(reply.status, 502);
	}
	assert_int_equal(state_of("only", "a"), BREAKER_OPEN);
	chat(CHAT("only", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_header("Retry-After: 1"));
	assert_int_equal(h.calls, 2);             /* it is spared */
	h.does = ANSWERS;
	while (state_of("only", "a") == BREAKER_OPEN)
		turn();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(state_of("only", "a"), BREAKER_HALF_OPEN);
		chat(CHAT("only", ""));
		assert_int_equal(reply.status, 200);
	}
	assert_int_equal(state_of("only", "a"), BREAKER_CLOSED);
	assert_int_equal(in_order().finals, 5);   /* the refusal stands alone: attempt 0 */
}

static void who_is_busy_is_left_in_peace_for_as_long_as_it_says(void **state)
{
	h.does = IS_BUSY;
	chat(CHAT("only", ""));
	assert_int_equal(reply.status, 429);
	assert_true(has_header("Retry-After: 7"));
	chat(CHAT("only", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_header("Retry-After: 7"));
	assert_int_equal(h.calls, 1);
	assert_int_equal(replica("only", "a")->breaker.run, 0);   /* no failure */
	assert_string_equal(in_order().story, "1error@a 0not_sent ");
}

static void who_leaves_is_left_by_the_backend_too(void **state)
{
	h.does = HANGS;
	send_chat(STREAM);
	run_until(in_backend);
	reply_free(&reply);
	run_until(backend_was_left);
	assert_string_equal(in_order().story, "1cancelled@a ");
	assert_int_equal(books().http_status, 499);
	assert_int_equal(state_of("m", "a"), BREAKER_CLOSED);
}

static void client_leaves(struct loop_deferred *d) { reply_free(&reply); }

/* The gateway sees both at once, the answer first. */
static void who_leaves_when_the_answer_is_there_has_it_booked_whole(void **state)
{
	struct loop_deferred leaves = { 0 };

	h.does = HANGS;
	send_chat(CHAT("only", ""));
	run_until(in_backend);
	http_reply(h.hanging, 200, STR("Content-Type: application/json\r\n"), STR(WHOLE_ANSWER));
	h.hanging = NULL;
	loop_defer(h.loop, &leaves, LOOP_PHASE_SEND, client_leaves);
	run_until(no_requests);
	assert_string_equal(in_order().story, "1ok@a ");
	assert_int_equal(books().prompt, 7);
	assert_int_equal(books().completion, 2);
	assert_int_equal(h.left, 0);
}

static bool first_piece(void) { return has_body("w0 "); }

static void who_leaves_within_a_stream_has_it_booked_as_far_as_it_came(void **state)
{
	h.does = STREAMS_AND_HANGS;
	send_chat(STREAM_ONLY);
	run_until(first_piece);
	reply_free(&reply);
	run_until(backend_was_left);
	assert_string_equal(in_order().story, "1cancelled@a ");
	assert_int_equal(books().completion, 1);
	assert_true(books().bytes >= strlen(CHUNK("w0 ")));
}

/* Ollama gives up loading when its client leaves, and the next would wait from the start. */
static void a_load_is_let_finish_though_its_client_left(void **state)
{
	h.kind = "ollama";
	h.unloaded = true;
	set_world();
	h.does = HANGS;
	send_chat(CHAT("only", ""));
	run_until(in_backend);
	reply_free(&reply);
	for (int i = 0; i < 10; i++)
		turn();
	assert_int_equal(h.left, 0);
	assert_int_equal(h.w->n_requests, 1);
	assert_int_equal(atomic_load(&replica("only", "a")->in_use), 1);
	assert_non_null(h.hanging);
	http_reply_start(h.hanging, 200, STR("Content-Type: application/json\r\n"), -1);      /* loaded */
	run_until(backend_was_left);
	assert_string_equal(in_order().story, "1cancelled@a ");
}

static void a_load_that_fails_after_its_client_left_is_booked_too(void **state)
{
	h.kind = "ollama";
	h.unloaded = true;
	set_world();
	h.does = HANGS;
	send_chat(CHAT("m", ""));
	run_until(in_backend);
	reply_free(&reply);
	for (int i = 0; i < 10; i++)
		turn();
	http_reply_abort(h.hanging);
	assert_string_equal(in_order().story, "1cancelled@a ");
	assert_int_equal(h.calls_b, 0);           /* for nobody */
	assert_int_equal(replica("m", "a")->breaker.run, 1);      /* it failed all the same */
}

static void what_cannot_be_booked_is_not_sent(void **state)
{
	disk_fill();
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_body("booked"));
	assert_int_equal(h.calls + h.calls_b, 0);
	assert_int_equal(atomic_load(&replica("m", "a")->in_use), 0);
	disk_free();
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
}

static void an_answer_that_finds_no_room_is_ended(void **state)
{
	h.does = ANSWERS_AT_LENGTH;
	h.gw.held.max = 300000;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_body("CORRAL_HOLD_MAX"));
	assert_string_equal(in_order().code, "UNAVAILABLE");
	assert_int_equal(h.calls_b, 0);
	assert_int_equal(state_of("m", "a"), BREAKER_CLOSED);
	h.gw.held.max = 2 << 20;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
	assert_true(reply.body.n > LONG_BYTES);
	assert_string_equal(in_order().status, "ok");
}

/* Every way out at once: a worker that ends with requests in all states. */
static void the_end_of_the_worker_books_what_runs(void **state)
{
	struct booked b;

	h.does = STREAMS_AND_HANGS;
	send_chat(STREAM_ONLY);
	run_until(first_piece);
	worker_stop(h.w);
	assert_int_equal(h.w->n_requests, 0);
	b = books();
	assert_string_equal(b.story, "1error@a ");
	assert_string_equal(b.code, "UNAVAILABLE");
	run_until(replied);
	assert_true(has_body("shutting down"));
	assert_false(has_body("[DONE]"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(an_answer_is_passed_on_and_booked), HOUSE(a_stream_is_passed_on_as_it_came), HOUSE(before_the_first_byte_another_replica_is_asked),
		HOUSE(after_the_first_byte_no_other_is_asked), HOUSE(half_an_answer_everywhere_is_an_error_and_nothing_of_it_is_shown),
		HOUSE(what_a_backend_refuses_is_not_asked_again), HOUSE(no_more_are_tried_than_may_be),
		HOUSE(silence_before_the_answer_is_a_failure_and_another_is_asked), HOUSE(silence_within_an_answer_breaks_it),
		HOUSE(the_time_of_a_request_ends_it), HOUSE(failures_open_the_breaker_and_a_probe_closes_it),
		HOUSE(who_is_busy_is_left_in_peace_for_as_long_as_it_says), HOUSE(who_leaves_is_left_by_the_backend_too),
		HOUSE(who_leaves_when_the_answer_is_there_has_it_booked_whole),
		HOUSE(who_leaves_within_a_stream_has_it_booked_as_far_as_it_came), HOUSE(a_load_is_let_finish_though_its_client_left),
		HOUSE(a_load_that_fails_after_its_client_left_is_booked_too), HOUSE(what_cannot_be_booked_is_not_sent),
		HOUSE(an_answer_that_finds_no_room_is_ended), HOUSE(the_end_of_the_worker_books_what_runs),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* worker_test.c - a worker's door, its clock and its end. */
#include "services/gateway/gateway_test.h"

static bool first_piece(void) { return has_body("w0 "); }
static struct req *newest(void) { return list_entry(h.w->requests.prev, struct req, node); }

/* --- the door --- */

static void ask_as(const char *host, int status)
{
	reply_begin(&reply);
	send_raw(&reply, arena_fmt(reply.mem, "GET /v1/models HTTP/1.1\r\nHost: %s\r\n\r\n", host), "");
	run_until(replied);
	if (reply.status != status)
		fail_msg("host '%s' got %d", host, reply.status);
}

/* A page in a browser reaches loopback under its own name (DNS rebinding); our clients use ours. */
static void a_foreign_host_is_turned_away(void **state)
{
	static const char *const ours[] = { "localhost", "localhost:8100", "127.0.0.1:8100", "[::1]:8100", "10.1.2.3", "printer.local", "api.internal:80" };
	static const char *const foreign[] = { "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "local", "xlocalhost" };
	static const char *allowed[] = { "llm.example.org" };

	for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
		ask_as(ours[i], 200);
	for (size_t i = 0; i < sizeof(foreign) / sizeof(*foreign); i++)
		ask_as(foreign[i], 403);
	assert_true(has_body("CORRAL_ALLOWED_HOSTS"));
	ask_as("llm.example.org", 403);
	h.cfg.allowed_hosts = (struct opt_list){ allowed, 1 };
	ask_as("llm.example.org:8100", 200);
	ask_as("other.example.org", 403);
}

static void a_body_that_is_too_large_is_refused_in_the_askers_dialect(void **state)
{
	static const char *origins[] = { "https://chat.example.org" };
	static char body[5000];

	memset(body, ' ', sizeof(body) - 1);
	h.cfg.max_body = 1000;
	ask_for("POST", "/v1/chat/completions", body);
	assert_int_equal(reply.status, 413);
	assert_true(has_body("{\"error\":{\"message\":") && has_body("CORRAL_MAX_BODY allows more"));
	ask_for("POST", "/v1/messages", body);
	assert_int_equal(reply.status, 413);
	assert_true(has_body("\"type\":\"error\""));
	assert_int_equal(h.calls, 0);
	assert_false(has_header("Access-Control"));
	h.cfg.cors_origins = (struct opt_list){ origins, 1 };     /* a page may read why */
	send_to("POST", "/v1/chat/completions", "Origin: https://chat.example.org\r\n", body);
	run_until(replied);
	assert_int_equal(reply.status, 413);
	assert_true(has_header("Access-Control-Allow-Origin: https://chat.example.org"));
}

static void where_memory_is_full_bodies_are_not_read_and_the_rest_goes_on(void **state)
{
	budget_force(&h.gw.held, (size_t)h.gw.held.max);
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 503);
	assert_true(has_header("Retry-After") && has_body("CORRAL_HOLD_MAX"));
	ask_for("GET", "/v1/models", "");
	assert_int_equal(reply.status, 200);
	budget_give(&h.gw.held, (size_t)h.gw.held.max);
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
}

/* --- time --- */

static struct reply first;                /* another client */

static void who_waits_too_long_for_a_slot_is_told_when_to_come_back(void **state)
{
	h.does = HANGS;
	send_as(&first, "POST", "/v1/chat/completions", "", CHAT("only", ""));
	run_until(in_backend);
	send_chat(CHAT("only", ""));
	while (!newest()->waiting)
		turn();
	worker_sweep(h.w, newest()->queue_deadline_us - 1);
	turn();
	assert_false(reply.done);
	worker_sweep(h.w, newest()->queue_deadline_us);
	run_until(replied);
	assert_int_equal(reply.status, 429);
	assert_true(has_header("Retry-After: "));
	assert_int_equal(h.w->n_requests, 1);             /* the first one waits on */
	assert_int_equal(h.calls, 1);
	assert_int_equal(atomic_load(&replica("only", "a")->queue->n), 0);
	reply_free(&first);
}

static void a_sweep_keeps_a_waiting_stream_alive(void **state)
{
	h.does = HANGS;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(in_backend);
	worker_sweep(h.w, newest()->start_us + h.cfg.heartbeat * 1000 - 1);
	turn();
	assert_int_equal(reply.status, 0);
	worker_sweep(h.w, newest()->start_us + h.cfg.heartbeat * 1000);
	for (int i = 0; i < 1000 && !reply.body.n; i++)
		turn();
	assert_int_equal(reply.status, 200);
	assert_true(has_body(": waiting for the model"));
	http_reply_abort(h.hanging);                      /* too late for a status */
	run_until(replied);
	assert_true(has_body("\"error\""));
}

/* --- handing over --- */

/* A request keeps the world that it began with; the next one has the new one. */
static void a_new_world_is_for_those_who_come_later(void **state)
{
	struct world *before = h.w->world;
	struct req *r;

	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("m", ",\"stream\":true"));
	run_until(first_piece);
	r = newest();
	set_world();
	turn();
	assert_ptr_not_equal(h.w->world, before);
	assert_ptr_equal(r->world, before);               /* ASan would know if it were gone */
	assert_int_equal(r->world->cat.n_models, 2);
	reply_free(&reply);
	run_until(no_requests);
	h.does = ANSWERS;
	chat(CHAT("m", ""));
	assert_int_equal(reply.status, 200);
}

static void one_pool_serves_a_backend_and_another_address_has_another(void **state)
{
	struct http_url url, other;
	struct why why;

	assert_true(http_url_parse(&url, STR("http://127.0.0.1:9/a"), &why) && http_url_parse(&other, STR("http://127.0.0.1:9/b"), &why));
	assert_ptr_equal(worker_pool(h.w, &url), worker_pool(h.w, &url));
	assert_ptr_not_equal(worker_pool(h.w, &url), worker_pool(h.w, &other));
}

/* --- beginning and end --- */

static void a_worker_that_cannot_be_is_not_and_says_why(void **state)
{
	struct why why = { 0 };
	char *address = h.gw.addresses[DOOR_PLAIN];

	assert_null(worker_new(&h.gw, 0, &why));   /* its spool is taken */
	assert_true(*why.text);
	snprintf(address, sizeof(h.gw.addresses[0]), "127.0.0.1:%u", http_server_port(h.backend));
	why = (struct why){ 0 };
	assert_null(worker_new(&h.gw, 1, &why));
	assert_non_null(strstr(why.text, address));
	h.svc.state_dir = "/nonexistent";
	why = (struct why){ 0 };
	assert_null(worker_new(&h.gw, 2, &why));
	assert_non_null(strstr(why.text, "/nonexistent"));
}

static bool is_idle(void)
{
	worker_sweep(h.w, mono_us());
	return h.gw.draining == 1;
}

static void draining_lets_what_runs_end_and_takes_no_more(void **state)
{
	struct http_pool *late;
	struct http_url url;
	struct why why;

	h.gw.draining = 2;                                /* another worker, that is not here, stays busy */
	h.does = HANGS;
	send_chat(CHAT("only", ""));
	run_until(in_backend);
	worker_drain(h.w);
	turn();
	assert_false(is_idle());
	assert_true(http_url_parse(&url, arena_fmt(h.mem, "http://127.0.0.1:%u", http_server_port(h.w->server)), &why));
	http_reply(h.hanging, 200, STR("Content-Type: application/json\r\n"), STR(WHOLE_ANSWER));
	run_until(replied);
	assert_int_equal(reply.status, 200);
	assert_true(has_body("w0 w1"));
	run_until(is_idle);
	late = h.door;
	h.door = http_pool_new(h.loop, &url, NULL);
	http_pool_free(late);
	ask_for("GET", "/v1/models", "");
	assert_int_equal(reply.status, 0);
	assert_string_equal(reply.error, "refused");
}

static void when_time_is_over_what_runs_gets_its_error_and_its_final(void **state)
{
	h.gw.draining = 2;
	h.does = STREAMS_AND_HANGS;
	send_chat(CHAT("only", ",\"stream\":true"));
	run_until(first_piece);
	worker_drain(h.w);
	worker_hurry(h.w);
	run_until(replied);
	assert_true(has_body("shutting down"));
	assert_false(has_body("[DONE]"));
	run_until(is_idle);
	assert_string_equal(books().story, "1error@a ");
	assert_int_equal(h.left, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(a_foreign_host_is_turned_away), HOUSE(a_body_that_is_too_large_is_refused_in_the_askers_dialect),
		HOUSE(where_memory_is_full_bodies_are_not_read_and_the_rest_goes_on), HOUSE(who_waits_too_long_for_a_slot_is_told_when_to_come_back),
		HOUSE(a_sweep_keeps_a_waiting_stream_alive), HOUSE(a_new_world_is_for_those_who_come_later),
		HOUSE(one_pool_serves_a_backend_and_another_address_has_another), HOUSE(a_worker_that_cannot_be_is_not_and_says_why),
		HOUSE(draining_lets_what_runs_end_and_takes_no_more), HOUSE(when_time_is_over_what_runs_gets_its_error_and_its_final),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* stages_test.c - what each stage on the way of an inference request lets through, answers itself, or refuses; and the lists of models. */
#include "services/gateway/gateway_test.h"

#define PATH_CHAT "/v1/chat/completions"

static struct req *newest(void) { return list_entry(h.w->requests.prev, struct req, node); }

static void post(const char *path, const char *headers, const char *body)
{
	send_to("POST", path, headers, body);
	run_until(replied);
	run_until(no_requests);
}

/* A request that stays in its backend, to be looked at. */
static struct req *stays(const char *path, const char *headers, const char *body)
{
	reply_free(&reply);
	run_until(no_requests);
	h.does = h.does_b = HANGS;
	h.calls = h.calls_b = 0;
	send_to("POST", path, headers, body);
	run_until(in_backend);
	return newest();
}

/* --- parse --- */

static void parse_takes_json_by_any_name_that_clients_give_it(void **state)
{
	static const struct { const char *header; int status; } ways[] = {
		{ "", 200 }, { "Content-Type: application/json; charset=utf-8\r\n", 200 }, { "Content-Type: application/vnd.api+json\r\n", 200 },
		{ "Content-Type: application/x-www-form-urlencoded\r\n", 200 }, { "Content-Type: text/plain\r\n", 200 },
		{ "Content-Type: multipart/form-data\r\n", 415 }, { "Content-Type: application/xml\r\n", 415 },
		{ "Content-Encoding: identity\r\n", 200 }, { "Content-Encoding: gzip\r\n", 415 }, { "Content-Encoding: br\r\n", 415 },
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		post(PATH_CHAT, ways[i].header, CHAT("m", ""));
		if (reply.status != ways[i].status)
			fail_msg("%s got %d", ways[i].header, reply.status);
	}
	assert_int_equal(h.calls, 6);
}

static void parse_reads_what_headers_say_and_the_body_wins(void **state)
{
	struct req *r = stays(PATH_CHAT, "X-Corral-Task-Type: SQL\r\nX-Corral-Policy: fast\r\nX-OpenWebUI-Chat-Id: c7\r\nX-OpenWebUI-User-Id: ada\r\n", CHAT("auto", ""));
	char ada[17], bob[17];

	assert_string_equal(r->features.task_type, "SQL");
	assert_string_equal(r->features.policy, "fast");
	assert_true(str_eqz(r->in.conversation, "c7"));
	str_copy(ada, sizeof(ada), str_of(r->user_hash));
	assert_int_equal(strlen(ada), 16);
	assert_null(strstr(ada, "ada"));
	r = stays(PATH_CHAT, "X-OpenWebUI-User-Id: bob\r\nX-Corral-User: ada\r\n", CHAT("m", ""));
	assert_string_equal(r->user_hash, ada);           /* our own header comes first */
	r = stays("/inference", "X-Corral-User: ada\r\n", "{\"prompt\":\"x\",\"user_id\":\"bob\"}");
	str_copy(bob, sizeof(bob), str_of(r->user_hash));
	assert_string_not_equal(bob, ada);
	assert_string_equal(stays("/inference", "", "{\"prompt\":\"x\",\"user_id\":\"bob\"}")->user_hash, bob);
	assert_string_equal(stays(PATH_CHAT, "", CHAT("m", ",\"user\":\"bob\""))->user_hash, bob);          /* OpenAI's own field */
	assert_string_equal(stays(PATH_CHAT, "", CHAT("m", ""))->user_hash, "");
}

static void parse_refuses_what_it_would_have_to_guess(void **state)
{
	static const struct { const char *path, *header, *body; int status; const char *words; } ways[] = {
		{ "/inference", "", "{\"prompt\":\"x\",\"policy\":\"luxury\"}", 422, "\"field\":\"policy\"" },
		{ "/inference", "", "{\"prompt\":\"x\",\"policy\":\"cheap\"}", 200, "" },
		{ "/inference", "", "{\"prompt\":\"x\",\"cache_ttl_s\":-1}", 422, "\"field\":\"cache_ttl_s\"" },
		{ "/inference", "", "{\"prompt\":\"x\",\"cache_ttl_s\":0}", 200, "" },
		{ PATH_CHAT, "X-Corral-Policy: Fast\r\n", CHAT("auto", ""), 422, "not 'Fast'" },
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		post(ways[i].path, ways[i].header, ways[i].body);
		if (reply.status != ways[i].status || !has_body(ways[i].words))
			fail_msg("%s%s got %d", ways[i].header, ways[i].body, reply.status);
	}
}

/* --- decide --- */

static void decide_stays_with_the_model_of_a_conversation(void **state)
{
	static const char *const named = "X-Corral-Conversation: c1\r\n";
	char first[32];
	struct req *r = stays(PATH_CHAT, named, CHAT("auto", ""));

	str_copy(first, sizeof(first), str_of(req_model_name(r)));
	assert_string_equal(r->features.conversation_model, "");
	r = stays(PATH_CHAT, named, CHAT("auto", ""));
	assert_string_equal(r->features.conversation_model, first);
	assert_string_equal(stays(PATH_CHAT, "X-Corral-Conversation: c2\r\n", CHAT("auto", ""))->features.conversation_model, "");
	assert_string_equal(stays(PATH_CHAT, named, CHAT("m", ""))->features.conversation_model, "");     /* who names a model gets it */
}

static void decide_cuts_long_labels_between_characters(void **state)
{
	char headers[700] = "X-Corral-Task-Type: ", *at = headers + strlen(headers);
	struct req *r;

	for (int i = 0; i < 300; i += 2)
		at = memcpy(at, "\xc3\xa4", 2), at += 2;
	memcpy(at, "\r\n", 3);
	r = stays(PATH_CHAT, headers, CHAT("m", ""));
	assert_int_equal(strlen(r->features.task_type), 254);
	assert_int_equal((unsigned char)r->features.task_type[253], 0xa4);
}

#define IMAGE(model) "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":" \
	"{\"url\":\"data:image/png;base64,AAAA\"}}]}]}"

/* What auto knows no model for; whoever names a model gets its own answer. */
static void decide_names_what_is_missing(void **state)
{
	struct buf body = { 0 };

	buf_addz(&body, "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"");
	for (int i = 0; i < 20000; i++)
		buf_addz(&body, "word ");
	buf_addz(&body, "\"}]}");
	buf_char(&body, '\0');
	chat(body.p);
	buf_free(&body);
	assert_int_equal(reply.status, 400);
	assert_true(has_body("4096"));
	chat(IMAGE("auto"));
	assert_int_equal(reply.status, 400);
	assert_true(has_body("vision"));
	assert_int_equal(h.calls + h.calls_b, 0);
	chat(IMAGE("m"));
	assert_int_equal(reply.status, 200);
	assert_int_equal(h.calls, 1);
	chat(CHAT("mm", ""));
	assert_int_equal(reply.status, 404);
	assert_true(has_body("did you mean 'm'"));
}

/* --- queue --- */

static struct reply second, third;        /* other clients */
static bool third_replied(void) { return third.done; }

static struct req *waits(struct reply *to)
{
	struct req *before = list_empty(&h.w->requests) ? NULL : newest();

	send_as(to, "POST", PATH_CHAT, "", CHAT("only", ""));
	while (list_empty(&h.w->requests) || newest() == before || !newest()->waiting)
		turn();
	return newest();
}

static void answer_now(void)
{
	h.calls = 0;
	http_reply(h.hanging, 200, STR("Content-Type: application/json\r\n"), STR(WHOLE_ANSWER));
}

static void queue_gives_a_slot_that_comes_free_to_who_waits_longest(void **state)
{
	struct req *r2, *r3;

	stays(PATH_CHAT, "", CHAT("only", ""));
	r2 = waits(&second);
	r3 = waits(&third);
	answer_now();
	run_until(in_backend);
	assert_null(r2->waiting);
	assert_non_null(r3->waiting);
	assert_true(r2->queue_us > 0);
	reply_free(&second);              /* its slot goes on, though it was not answered */
	h.calls = 0;
	run_until(in_backend);
	assert_null(r3->waiting);
	answer_now();
	run_until(third_replied);
	run_until(no_requests);
	assert_int_equal(third.status, 200);
	assert_int_equal(atomic_load(&replica("only", "a")->in_use), 0);
	reply_free(&third);
}

static void queue_lets_go_who_leaves(void **state)
{
	struct req *r3;

	stays(PATH_CHAT, "", CHAT("only", ""));
	waits(&second);
	r3 = waits(&third);
	reply_free(&second);
	while (h.w->n_requests > 2)
		turn();
	assert_int_equal(atomic_load(&replica("only", "a")->queue->n), 1);
	answer_now();
	run_until(in_backend);
	assert_null(r3->waiting);
	assert_string_equal(books().story, "0cancelled 1ok@a ");
	reply_free(&third);
	run_until(no_requests);
}

static void queue_refuses_when_it_is_full_or_the_wait_too_long(void **state)
{
	h.cfg.queue_max = 1;
	stays(PATH_CHAT, "", CHAT("only", ""));
	waits(&second);
	send_as(&third, "POST", PATH_CHAT, "", CHAT("only", ""));
	run_until(third_replied);
	assert_int_equal(third.status, 429);
	assert_non_null(str_ifind(third.headers, STR("Retry-After: ")));
	reply_free(&second);
	while (h.w->n_requests > 1)
		turn();
	atomic_store(&replica("only", "a")->service_us, 60 * 1000000LL);          /* as measured: a minute each */
	h.cfg.queue_timeout = 1000;
	send_as(&third, "POST", PATH_CHAT, "", CHAT("only", ""));
	run_until(third_replied);
	assert_int_equal(third.status, 429);      /* at once, and not after a second of waiting for nothing */
	assert_non_null(str_ifind(third.headers, STR("Retry-After: 60")));
	assert_string_equal(books().code, "QUEUE_FULL");
	assert_int_equal(h.calls, 1);
	reply_free(&third);
}

/* "only" has one slot and no place to wait; "m" has two. Who named neither gets the other, until that is full too. */
static void queue_passes_by_a_full_one_for_who_named_none(void **state)
{
	static const char *const named = "X-Corral-Conversation: c1\r\n";

	h.cfg.queue_max = 0;
	sticky_put(h.gw.sticky, STR("default"), STR("c1"), "only", mono_us());        /* so that "only" is the first choice */
	assert_string_equal(req_model_name(stays(PATH_CHAT, named, CHAT("auto", ""))), "only");
	sticky_put(h.gw.sticky, STR("default"), STR("c1"), "only", mono_us());
	send_as(&second, "POST", PATH_CHAT, named, CHAT("auto", ""));
	while (h.calls + h.calls_b < 2)
		turn();
	assert_string_equal(req_model_name(newest()), "m");
	assert_string_equal(newest()->picked_reason, "fallback");
	send_as(&third, "POST", PATH_CHAT, "", CHAT("only", ""));
	run_until(third_replied);
	assert_int_equal(third.status, 429);      /* it was asked for by name */
	reply_free(&third);
	reply_free(&second);
}

static void queue_takes_any_backend_that_has_the_model(void **state)
{
	stays(PATH_CHAT, "", CHAT("m", ""));
	send_as(&second, "POST", PATH_CHAT, "", CHAT("m", ""));
	while (h.calls + h.calls_b < 2)
		turn();
	assert_int_equal(h.calls, 1);
	assert_int_equal(h.calls_b, 1);
	reply_free(&second);
}

/* --- what is answered here --- */

static void explain_decides_and_sends_nothing(void **state)
{
	ask_for("POST", "/explain", "{\"prompt\":\"hello\"}");
	assert_int_equal(reply.status, 200);
	assert_true(has_body("\"candidates\"") && has_body("\"request_id\""));
	assert_int_equal(h.calls + h.calls_b, 0);
	assert_int_equal(books().finals, 0);
	assert_int_equal(atomic_load(&replica("m", "a")->in_use), 0);
}

/* Ollama's clients load a model with an empty question. Other servers hold theirs always. */
static void load_is_answered_here_where_there_is_nothing_to_load(void **state)
{
	ask_for("POST", "/api/generate", "{\"model\":\"m\"}");
	assert_int_equal(reply.status, 200);
	assert_true(has_body("\"done_reason\":\"load\"") && has_body("\"response\":\"\""));
	ask_for("POST", "/api/chat", "{\"model\":\"m\",\"messages\":[]}");
	assert_true(has_body("\"done_reason\":\"load\"") && has_body("\"message\":{\"role\":\"assistant\",\"content\":\"\"}"));
	assert_int_equal(h.calls + h.calls_b, 0);
	h.kind = "ollama";
	set_world();
	h.does = HANGS;
	send_to("POST", "/api/generate", "", "{\"model\":\"m\"}");
	run_until(in_backend);
	assert_string_equal(h.last_path, "/a/api/generate");
}

static void tokens_are_estimated_where_no_backend_counts(void **state)
{
	static const char *const question = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"how many are these few words?\"}]}";

	h.kind = "ollama";
	set_world();
	ask_for("POST", "/v1/messages/count_tokens", question);
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Tokens-Source: estimated") && has_body("\"input_tokens\":"));
	assert_int_equal(h.calls, 0);
	h.kind = "llamacpp";
	set_world();
	h.does = CUTS;                            /* asked, and gone: an estimate is better than an error */
	ask_for("POST", "/v1/messages/count_tokens", question);
	assert_int_equal(h.calls, 1);
	assert_int_equal(reply.status, 200);
	assert_true(has_header("X-Corral-Tokens-Source: estimated"));
	assert_int_equal(books().finals, 0);
	assert_int_equal(atomic_load(&replica("m", "a")->in_use), 0);
}

static void who_leaves_while_tokens_are_counted_costs_nothing(void **state)
{
	h.kind = "llamacpp";
	h.does = HANGS;
	set_world();
	send_to("POST", "/v1/messages/count_tokens", "", "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
	run_until(in_backend);
	reply_free(&reply);
	run_until(backend_was_left);
	run_until(no_requests);
	assert_int_equal(books().finals, 0);
}

/* --- lists --- */

static void a_name_may_hold_what_paths_hold_and_an_alias_is_a_model(void **state)
{
	ask_for("GET", "/v1/models/m", "");
	assert_true(reply.status == 200 && has_body("\"id\":\"m\""));
	ask_for("GET", "/v1/models/auto", "");
	assert_true(reply.status == 200 && has_body("\"id\":\"auto\""));
	ask_for("GET", "/v1/models/org%2Fm", "");
	assert_int_equal(reply.status, 404);
	assert_true(has_body("model 'org/m'") && has_body("did you mean 'm'"));
	ask_for("POST", "/api/show", "{\"model\":\"only\"}");
	assert_true(reply.status == 200 && has_body("FROM only") && has_body("\"f.context_length\":4096"));
	ask_for("POST", "/api/show", "{\"model\":7}");
	assert_true(reply.status >= 400 && reply.status < 500);
	ask_for("POST", "/api/show", "");
	assert_true(reply.status >= 400 && reply.status < 500);
}

static void lists_show_backends_and_what_is_loaded(void **state)
{
	ask_for("GET", "/health", "");
	assert_true(has_body("\"status\":\"ok\"") && has_body("\"models\":2"));
	ask_for("GET", "/backends", "");
	assert_true(has_body("\"name\":\"a\"") && has_body("\"name\":\"b\""));
	ask_for("GET", "/api/ps", "");
	assert_true(has_body("\"name\":\"m\""));
	h.unloaded = true;
	set_world();
	ask_for("GET", "/api/ps", "");
	assert_false(has_body("\"name\":\"m\""));
	ask_for("GET", "/api/tags", "");
	assert_true(has_body("\"name\":\"m\""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(parse_takes_json_by_any_name_that_clients_give_it), HOUSE(parse_reads_what_headers_say_and_the_body_wins),
		HOUSE(parse_refuses_what_it_would_have_to_guess),
		HOUSE(decide_stays_with_the_model_of_a_conversation), HOUSE(decide_cuts_long_labels_between_characters), HOUSE(decide_names_what_is_missing),
		HOUSE(queue_gives_a_slot_that_comes_free_to_who_waits_longest), HOUSE(queue_lets_go_who_leaves),
		HOUSE(queue_refuses_when_it_is_full_or_the_wait_too_long), HOUSE(queue_passes_by_a_full_one_for_who_named_none),
		HOUSE(queue_takes_any_backend_that_has_the_model),
		HOUSE(explain_decides_and_sends_nothing), HOUSE(load_is_answered_here_where_there_is_nothing_to_load),
		HOUSE(tokens_are_estimated_where_no_backend_counts), HOUSE(who_leaves_while_tokens_are_counted_costs_nothing),
		HOUSE(a_name_may_hold_what_paths_hold_and_an_alias_is_a_model), HOUSE(lists_show_backends_and_what_is_loaded),
	};

	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

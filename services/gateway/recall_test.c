/* recall_test.c - which question is the same question: every field of the request tables, the tenant, the model; and how an answer is kept. */
#include "services/gateway/gateway_test.h"

#include "common/llm/fields.h"
#include "common/llm/reshape.h"
#include "services/gateway/attempt.h"
#include "services/gateway/recall.h"
#include "services/gateway/recall_entry.h"
#include "services/gateway/recall_memo.h"

/* --- the question --- */

struct form { enum llm_form form; enum llm_dialect dialect; enum llm_op op; const char *body; const char *options; /* begins the object that OPTIONS go into */ };
static const struct form forms[] = {
	{ FORM_OPENAI_CHAT, LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]", NULL },
	{ FORM_OPENAI_COMPLETE, LLM_OPENAI, LLM_COMPLETE, "{\"model\":\"m\",\"prompt\":\"hello\"", NULL },
	{ FORM_OLLAMA_CHAT, LLM_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]", NULL },
	{ FORM_OLLAMA_GENERATE, LLM_OLLAMA, LLM_COMPLETE, "{\"model\":\"m\",\"prompt\":\"hello\"", NULL },
	{ FORM_NATIVE, LLM_NATIVE, LLM_CHAT, "{\"model\":\"m\",\"prompt\":\"hello\"", NULL },
	{ FORM_ANTHROPIC, LLM_ANTHROPIC, LLM_CHAT, "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]", NULL },
	{ FORM_OPTIONS, LLM_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]", "\"options\":{" },
	{ FORM_OPENAI_EMBED, LLM_OPENAI, LLM_EMBED, "{\"model\":\"m\",\"input\":\"hello\"", NULL },
	{ FORM_OLLAMA_EMBED, LLM_OLLAMA, LLM_EMBED, "{\"model\":\"m\",\"input\":\"hello\"", NULL },
};

/* Two questions are never made of the same source: checked for each that follows another. */
static struct str checked(struct str text, struct str source)
{
	static char last_text[8192], last_source[8192];
	static size_t text_n, source_n;

	assert_true(text.n <= sizeof(last_text) && source.n <= sizeof(last_source));
	if (str_eq(source, str_n(last_source, source_n)) && !str_eq(text, str_n(last_text, text_n)))
		fail_msg("two questions of one source: " STR_FMT, STR_ARG(source));
	memcpy(last_text, text.p, text_n = text.n);
	memcpy(last_source, source.p, source_n = source.n);
	return text;
}

/* The question that a body is to the backend; "" = it is refused. In memory of the house. */
static struct str question(const struct form *f, const char *body, const char *tenant)
{
	struct req *r = arena_new_of(h.mem, struct req);
	struct recollection *rc = arena_new_of(h.mem, struct recollection);
	struct buf text = { 0 };
	struct why why;
	struct str got = STR("");

	*r = (struct req){ .mem = h.mem, .worker = h.w, .world = h.w->world, .tenant = str_of(tenant), .model = 0 };
	rc->req = r;
	if (llm_read(&r->in, f->dialect, f->op, arena_str(h.mem, str_of(body)), STR(""), h.mem, &why) != ERR_OK)
		return got;
	rc->target = attempt_target(r, 0);
	rc->target.context_length = 0;            /* unknown: nothing is refused for being long */
	if (llm_plan(&rc->plan, &r->in, &rc->target, h.mem, &why) == ERR_OK && recall_text(rc, &text))
		got = arena_str(h.mem, buf_as_str(&text));
	buf_clear(&text);
	if (got.n) {
		recall_source(rc, &text);
		got = checked(got, buf_as_str(&text));
	}
	buf_free(&text);
	return got;
}

static void as(const char *kind)
{
	h.kind = kind;
	set_world();
}

static enum llm_backend kind_of(void) { return h.w->world->backends[0].kind; }

/* Two values of each kind that a field may have. */
static const struct { enum json_kind kind; const char *one, *other; } samples[] = {
	{ JSON_NUMBER, "3", "4" }, { JSON_NUMBER, "0.25", "0.5" }, { JSON_TRUE, "true", "false" }, { JSON_STRING, "\"low\"", "\"high\"" }, { JSON_STRING, "\"a\"", "\"b\"" },
	{ JSON_ARRAY, "[\"a\"]", "[\"b\"]" }, { JSON_OBJECT, "{\"a\":1}", "{\"a\":2}" }, { JSON_OBJECT, "{\"type\":\"json_object\"}", "{\"type\":\"text\"}" },
};

static const char *with(const struct form *f, const char *name, const char *value)
{
	const char *needs = strcmp(name, "top_logprobs") == 0 ? ",\"logprobs\":true" : "";      /* means nothing alone */

	return arena_fmt(h.mem, "%s%s,%s\"%s\":%s%s}", f->body, needs, f->options ? f->options : "", name, value, f->options ? "}" : "").p;
}

/* A key is found by every byte of what it was made of, wherever the other differs; long ones are not kept. */
static void a_key_is_remembered_for_the_same_bytes_alone(void **state)
{
	struct recall_memo *m = recall_memo_new();
	uint8_t key[CACHE_KEY_BYTES], got[CACHE_KEY_BYTES];
	char text[RECALL_MEMO_MOST + 1];
	struct str asked = str_n(text, 700);

	memset(text, 'x', sizeof(text));
	memset(key, 7, sizeof(key));
	assert_false(recall_memo_find(m, asked, got));
	recall_memo_keep(m, asked, key);
	for (size_t i = 0; i < asked.n; i++) {
		text[i] = 'y';
		assert_false(recall_memo_find(m, asked, got));
		text[i] = 'x';
	}
	assert_false(recall_memo_find(m, str_n(text, asked.n - 1), got) || recall_memo_find(m, str_n(text, asked.n + 1), got));
	assert_true(recall_memo_find(m, asked, got));
	assert_memory_equal(got, key, sizeof(key));
	recall_memo_keep(m, str_n(text, sizeof(text)), key);
	assert_false(recall_memo_find(m, str_n(text, sizeof(text)), got));
	recall_memo_keep(m, STR(""), key);
	assert_false(recall_memo_find(m, STR(""), got));
	recall_memo_keep(m, STR("ab"), key);
	assert_true(recall_memo_find(m, STR("ab"), got) && !recall_memo_find(m, STR("ac"), got));
	recall_memo_free(m);
}

/* The table says that no answer of this backend depends on it: then, and only then, it may be left out. */
static bool may_be_the_same(const struct form *f, const struct field *field, bool passes)
{
	if (field->id == F_MODEL || field->id == F_STREAM || field->id == F_STREAM_OPTIONS || field_is_for_gateway(field) || field_has_no_effect(field))
		return true;
	return !passes && (!field->as[kind_of()] || strcmp(field->as[kind_of()], IGNORED) == 0);
}

static bool passes(const struct form *f)
{
	struct llm_in in;
	struct llm_target t = { .kind = kind_of(), .remote_model = STR("m"), .shown_model = STR("m") };
	struct llm_plan p;
	struct why why;

	assert_int_equal(llm_read(&in, f->dialect, f->op, arena_fmt(h.mem, "%s}", f->body), STR(""), h.mem, &why), ERR_OK);
	return llm_plan(&p, &in, &t, h.mem, &why) == ERR_OK && p.passthrough;
}

static unsigned compare(const struct form *f, const struct field *field, unsigned sample, bool pass)
{
	const char *bodies[] = { with(f, field->name, samples[sample].one), with(f, field->name, samples[sample].other) };
	struct str one = question(f, bodies[0], "t"), other = question(f, bodies[1], "t");

	if (!one.n || !other.n)
		return 0;
	if (str_eq(one, other) && !may_be_the_same(f, field, pass))
		fail_msg("%s: %s and %s are one question", h.kind, bodies[0], bodies[1]);
	if (!str_eq(one, other) && field_has_no_effect(field))
		fail_msg("%s: %s and %s differ in what nothing depends on", h.kind, bodies[0], bodies[1]);
	return !str_eq(one, other);
}

static bool given_already(const struct form *f, const char *name)
{
	return str_find(str_of(f->body), arena_fmt(h.mem, "\"%s\":", name)) != NULL;
}

static unsigned compare_form(const struct form *f)
{
	bool pass = passes(f);
	unsigned differ = 0;

	for (unsigned i = 0; field_at(i); i++) {
		const struct field *field = field_at(i);

		if (!(field->forms & 1u << f->form) || given_already(f, field->name))
			continue;
		for (unsigned s = 0; s < sizeof(samples) / sizeof(*samples); s++)
			if (field->kinds & 1u << samples[s].kind)
				differ += compare(f, field, s, pass);
	}
	return differ;
}

static void two_values_of_any_field_are_two_questions(void **state)
{
	static const char *const kinds[] = { "llamacpp", "openai", "ollama" };
	unsigned differ = 0;

	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		as(kinds[k]);
		for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++)
			differ += compare_form(&forms[i]);
	}
	print_message("          %u pairs of values told apart\n", differ);
	assert_true(differ > 250);
}

static void what_no_table_knows_is_part_of_the_question(void **state)
{
	as("llamacpp");
	assert_false(str_eq(question(&forms[0], with(&forms[0], "x_new", "1"), "t"), question(&forms[0], with(&forms[0], "x_new", "2"), "t")));
	assert_false(str_eq(question(&forms[0], with(&forms[0], "x_new", "1"), "t"), question(&forms[0], with(&forms[0], "x_new", "null"), "t")));
}

static void the_same_said_otherwise_is_the_same_question(void **state)
{
	static const char *const same[] = {
		"{\"model\":\"m\",\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"A\"}]}",
		"{\"messages\":[{\"content\":\"\\u0041\",\"role\":\"user\"}],\"temperature\":0.0,\"stream\":true,\"model\":\"m\",\"user\":\"u\"}",
		" { \"temperature\" : -0e3 , \"model\":\"M\",\n\"stream_options\":{\"include_usage\":true},\"stream\":false, \"messages\" : [ {\"role\":\"user\",\"content\":\"A\"} ] } ",
	};
	struct str first;

	as("llamacpp");
	first = question(&forms[0], same[0], "t");
	assert_true(first.n > 0);
	for (size_t i = 1; i < sizeof(same) / sizeof(*same); i++)
		assert_true(str_eq(question(&forms[0], same[i], "t"), first));
	assert_true(str_eq(question(&forms[4], "{\"model\":\"m\",\"prompt\":\"A\",\"temperature\":0}", "t"), first));     /* native, and Ollama's */
	assert_true(str_eq(question(&forms[2], "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"A\"}],\"options\":{\"temperature\":0}}", "t"), first));
}

static void fields_do_not_run_into_each_other(void **state)
{
	static const char *const pairs[][2] = {
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"ab\"},{\"role\":\"user\",\"content\":\"c\"}]}",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"bc\"}]}" },
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"stop\":[\"a\",\"b\"]}",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"stop\":[\"ab\"]}" },
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"logit_bias\":{\"1\":2}}",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"logit_bias\":{\"12\":null}}" },
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"seed\":9007199254740993}",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"seed\":9007199254740992}" },
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}]}", "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"1\"}]}" },
		{ "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"1\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]}" },
	};

	as("llamacpp");
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
		if (str_eq(question(&forms[0], pairs[i][0], "t"), question(&forms[0], pairs[i][1], "t")))
			fail_msg("%s", pairs[i][0]);
}

/* As a world has it that is made of such a catalogue. */
static void digest_is(const char *digest)
{
	Corral__Replica *replica = (Corral__Replica *)(uintptr_t)h.w->world->cat.replicas[0].pb;

	replica->digest = *digest ? arena_dup(h.mem, digest, strlen(digest)) : (char *)(uintptr_t)protobuf_c_empty_string;
	h.w->world->asked[0] = recall_model_text(h.w->world, 0, h.mem);
}

static void another_tenant_or_model_is_another_question(void **state)
{
	const char *body = arena_fmt(h.mem, "%s}", forms[0].body).p;
	struct str first, second;

	as("ollama");
	first = question(&forms[0], body, "t");
	assert_false(str_eq(question(&forms[0], body, "u"), first));
	h.w->world->cat.models[0].pb->digest[0] ? fail() : (void)0;
	digest_is("d1");
	second = question(&forms[0], body, "t");
	assert_false(str_eq(first, second));
	digest_is("d2");
	assert_false(str_eq(question(&forms[0], body, "t"), second));
	digest_is("");
}

/* --- how it is kept --- */

static void there_and_back(enum entry_form form, const char *text)
{
	struct entry_head head = { form, true }, got;
	struct buf packed = { 0 }, back = { 0 };

	entry_pack(&head, str_of(text), &packed);
	assert_true(entry_unpack(&got, buf_as_str(&packed), 1 << 20, &back));
	assert_int_equal(got.form, form);
	assert_true(got.counted);
	assert_true(str_eq(buf_as_str(&back), str_of(text)));
	buf_free(&packed);
	buf_free(&back);
}

static void an_answer_comes_back_byte_for_byte(void **state)
{
	static const char *const texts[] = { "", "x", "\n", "\n\n", "\n\n\n\n", "data: a\n\ndata: a\n\n", CHUNK("w0 ") CHUNK("w1") LAST_CHUNKS, "data: no end", "a\r\n\r\nb\n\n",
					     "{\"a\":1}\n{\"a\":2}\n{\"a\":1}\n{}\n", WHOLE_ANSWER };

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		for (int form = ENTRY_WHOLE; form <= ENTRY_LINES; form++)
			there_and_back((enum entry_form)form, texts[i]);
}

static void a_stream_takes_little_more_than_its_text(void **state)
{
	struct entry_head head = { ENTRY_EVENTS, false };
	struct buf stream = { 0 }, packed = { 0 };

	for (unsigned i = 0; i < 1000; i++)
		buf_printf(&stream, CHUNK("word %u "), i);
	entry_pack(&head, buf_as_str(&stream), &packed);
	assert_true(packed.n < stream.n / 15);
	buf_free(&stream);
	buf_free(&packed);
}

static void what_is_cut_or_foreign_is_no_answer(void **state)
{
	static const struct str wrong[] = { STR_INIT(""), STR_INIT("\1"), STR_INIT("\2\0abc"), STR_INIT("\1\3abc"), STR_INIT("\1\1\1\0\0"), STR_INIT("\1\1\0\1\0"),
					    STR_INIT("\1\1\0\0\5abc"), STR_INIT("\1\1\377\377\377\377\377\377\377"), STR_INIT("\1\1\0\0") };
	struct entry_head head = { ENTRY_EVENTS, false }, got;
	struct buf packed = { 0 }, back = { 0 };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_false(entry_unpack(&got, wrong[i], 100, &back));
	buf_clear(&back);
	entry_pack(&head, STR(CHUNK("w0") CHUNK("w1")), &packed);
	assert_false(entry_unpack(&got, buf_as_str(&packed), 200, &back));        /* longer than is allowed */
	buf_free(&packed);
	buf_free(&back);
}

/* --- the other form --- */

static struct str turned(enum llm_backend kind, enum llm_op op, const char *body, bool from_stream)
{
	struct buf out = { 0 };
	struct str got = STR("");

	if (llm_reshape(kind, op, str_of(body), from_stream, &out))
		got = arena_str(h.mem, buf_as_str(&out));
	buf_free(&out);
	return got;
}

static void a_stream_becomes_one_body_and_a_body_a_stream(void **state)
{
	struct str whole = turned(LLM_BACKEND_OPENAI, LLM_CHAT, CHUNK("w0 ") CHUNK("\\u0041\\n") LAST_CHUNKS, true), lines;

	assert_string_equal(whole.p, "{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
				     "\"content\":\"w0 \\u0041\\n\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,"
				     "\"total_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
	lines = turned(LLM_BACKEND_OPENAI, LLM_CHAT, WHOLE_ANSWER, false);
	assert_true(str_find(lines, STR("\"delta\":{\"role\":\"assistant\",\"content\":\"w0 w1\"},\"finish_reason\":null")) != NULL);
	assert_true(str_ends(lines, STR("data: [DONE]\n\n")));
	assert_true(str_eq(turned(LLM_BACKEND_OPENAI, LLM_CHAT, lines.p, true), turned(LLM_BACKEND_OPENAI, LLM_CHAT,
		    turned(LLM_BACKEND_OPENAI, LLM_CHAT, turned(LLM_BACKEND_OPENAI, LLM_CHAT, lines.p, true).p, false).p, true)));
	lines = turned(LLM_BACKEND_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"a b\"},\"done\":true,\"done_reason\":\"stop\","
						     "\"eval_count\":2,\"prompt_eval_count\":1}", false);
	assert_string_equal(lines.p, "{\"model\":\"m\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"a b\"},\"done\":false}\n"
				     "{\"model\":\"m\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":2,"
				     "\"prompt_eval_count\":1}\n");
	whole = turned(LLM_BACKEND_OLLAMA, LLM_COMPLETE, "{\"model\":\"m\",\"response\":\"a \",\"done\":false}\n{\"model\":\"m\",\"response\":\"b\",\"done\":false}\n"
							 "{\"model\":\"m\",\"response\":\"\",\"done\":true,\"done_reason\":\"stop\",\"eval_count\":2}\n", true);
	assert_string_equal(whole.p, "{\"model\":\"m\",\"response\":\"a b\",\"done\":true,\"done_reason\":\"stop\",\"eval_count\":2}");
}

static void what_one_form_alone_can_say_is_not_turned(void **state)
{
	assert_int_equal(turned(LLM_BACKEND_OPENAI, LLM_CHAT, CHUNK("w0 "), true).n, 0);  /* no end */
	assert_int_equal(turned(LLM_BACKEND_OPENAI, LLM_CHAT, "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"},"
							      "{\"index\":1,\"message\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}", false).n, 0);
	assert_int_equal(turned(LLM_BACKEND_OPENAI, LLM_CHAT, "{\"choices\":[{\"index\":0,\"message\":{\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\","
							      "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}", false).n, 0);
	assert_int_equal(turned(LLM_BACKEND_OPENAI, LLM_EMBED, WHOLE_ANSWER, false).n, 0);
	assert_int_equal(turned(LLM_BACKEND_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n", true).n, 0);
	assert_int_equal(turned(LLM_BACKEND_OLLAMA, LLM_CHAT, "nothing", false).n, 0);
}

/* --- through the gateway --- */

#define ASKED "Cache-Control: max-age=60\r\n"

static void ask_cached(const char *headers, const char *body)
{
	send_to("POST", "/v1/chat/completions", headers, body);
	run_until(replied);
	run_until(no_requests);
}

static void a_hit_is_booked_once_and_costs_no_call(void **state)
{
	struct booked b;
	char first[2048];

	ask_cached(ASKED, CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: miss"));
	ask_cached(ASKED, CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: hit"));
	(void)str_copy(first, sizeof(first), buf_as_str(&reply.body));
	assert_non_null(strstr(first, "choices"));
	ask_cached(ASKED, CHAT("m", ""));             /* what was in it is known now, and not read again */
	assert_true(has_header("X-Corral-Cache: hit"));
	assert_string_equal(buf_z(&reply.body), first);
	assert_int_equal(h.calls + h.calls_b, 1);
	b = books();
	assert_int_equal(b.finals, 3);
	assert_int_equal(b.closed, 1);
	assert_int_equal(b.attempt, 0);
	assert_string_equal(b.status, "ok");
	assert_string_equal(b.model, "m");
	assert_int_equal(b.prompt, 7);
	assert_int_equal(b.completion, 2);
}

static void what_failed_or_is_too_long_is_not_kept(void **state)
{
	static const enum does ways[] = { FAILS, CUTS_HALF, REFUSES, ANSWERS_AT_LENGTH };
	struct gateway_config *cfg = &h.cfg;

	cfg->cache_entry_max = LONG_BYTES / 2;
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		h.does = h.does_b = ways[i];
		ask_cached(ASKED, CHAT("m", ""));
	}
	h.does = h.does_b = ANSWERS;
	ask_cached(ASKED, CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: miss"));
	assert_int_equal(reply.status, 200);
}

/* Lines of one name are one list: what forbids keeping may stand in any of them. */
static void each_line_of_cache_control_counts(void **state)
{
	ask_cached("Cache-Control: max-age=60\r\nX-Other: 1\r\ncache-control: no-store\r\n", CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: bypass"));
	ask_cached(ASKED, CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: miss"));
	ask_cached("Cache-Control: private\r\nCache-Control: max-age=60\r\n", CHAT("m", ""));
	assert_true(has_header("X-Corral-Cache: hit"));
}

static int open_with_cache(void **state)
{
	int rc = house_open(state);
	struct why why;

	h.w->recall = NULL;
	if (!recall_open(&h.gw, &why))
		fail_msg("%s", why.text);
	h.w->recall = recall_seat_new(&h.gw, h.loop);
	return rc;
}

static int close_with_cache(void **state)
{
	struct gateway gw = h.gw;
	int rc = house_close(state);

	recall_close(&gw);
	return rc;
}

#define CACHED(f) cmocka_unit_test_setup_teardown(f, open_with_cache, close_with_cache)

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOUSE(two_values_of_any_field_are_two_questions),
		HOUSE(what_no_table_knows_is_part_of_the_question),
		HOUSE(the_same_said_otherwise_is_the_same_question),
		HOUSE(fields_do_not_run_into_each_other),
		HOUSE(another_tenant_or_model_is_another_question),
		cmocka_unit_test(a_key_is_remembered_for_the_same_bytes_alone),
		cmocka_unit_test(an_answer_comes_back_byte_for_byte),
		cmocka_unit_test(a_stream_takes_little_more_than_its_text),
		cmocka_unit_test(what_is_cut_or_foreign_is_no_answer),
		HOUSE(a_stream_becomes_one_body_and_a_body_a_stream),
		HOUSE(what_one_form_alone_can_say_is_not_turned),
		CACHED(a_hit_is_booked_once_and_costs_no_call),
		CACHED(what_failed_or_is_too_long_is_not_kept),
		CACHED(each_line_of_cache_control_counts),
	};

	clock_init();
	log_threshold = LOG_LEVEL_ERROR + 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

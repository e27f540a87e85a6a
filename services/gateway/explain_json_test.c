/* explain_json_test.c - a decision and a job in JSON: what is unknown is null, what a peer says wrongly stays JSON. */
#include "services/gateway/explain_json.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/policy/caps.h"
#include "services/gateway/jobs_json.h"

static struct buf out;
static struct json_out jo;

static void begin(void)
{
	buf_clear(&out);
	json_begin(&jo, &out);
}

/* What was written is one whole value and reads as JSON. */
static const char *written(void)
{
	struct arena *mem = arena_new(0);
	static const struct json_limits limits = { .max_depth = 16, .max_nodes = 10000 };
	struct json doc;
	struct why why;

	assert_true(json_done(&jo));
	if (json_parse(&doc, mem, buf_as_str(&out), &limits, &why) != ERR_OK)
		fail_msg("%s: %s", why.text, buf_z(&out));
	arena_free(mem);
	return buf_z(&out);
}

static void has(const char *part)
{
	if (!strstr(buf_z(&out), part))
		fail_msg("'%s' is not in %s", part, buf_z(&out));
}

static const char *explained(const Corral__DecisionFeatures *f, const Corral__DecisionOutcome *o)
{
	begin();
	jw_obj(&jo);
	explain_json(&jo, f, o);
	jw_end(&jo);
	return written();
}

/* --- decisions --- */

static void a_decision_shows_who_won_who_could_have_and_who_lost_why(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	Corral__Candidate first = CORRAL__CANDIDATE__INIT, second = CORRAL__CANDIDATE__INIT, *candidates[] = { &first, &second };
	Corral__Rejected no = CORRAL__REJECTED__INIT, *rejected[] = { &no };
	Corral__DecisionOutcome o = CORRAL__DECISION_OUTCOME__INIT;

	f.requested_model = (char *)"auto";
	f.task_type = (char *)"code";
	f.language = (char *)"de";
	f.needs = LLM_CAP_TOOLS | LLM_CAP_VISION;
	first.model = (char *)"coder", first.backend = (char *)"a", first.score = 0.75, first.warmth = 1, first.context = 4096, first.load = 2.5;
	second.model = (char *)"other", second.backend = (char *)"b";
	no.model = (char *)"small", no.backend = (char *)"a", no.rule = (char *)"context", no.text = (char *)"needs 9000 tokens, has 4096";
	o.candidates = candidates, o.n_candidates = 2;
	o.rejected = rejected, o.n_rejected = 1;
	o.reason = (char *)"rules";
	explained(&f, &o);
	has("\"chosen\":{\"model\":\"coder\",\"backend\":\"a\"}");
	has("\"needs\":[\"tools\",\"vision\"]");
	has("\"language\":\"de\"");
	has("\"expected_s\":2.5,\"warm\":true,\"context_length\":4096");
	has("{\"model\":\"other\",\"backend\":\"b\",\"score\":0,");
	has("\"rejected\":[{\"model\":\"small\",\"backend\":\"a\",\"rule\":\"context\",\"text\":\"needs 9000 tokens, has 4096\"}]");
	assert_null(strstr(buf_z(&out), "error"));
}

static void where_nothing_fits_there_is_a_reason_and_no_model(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	Corral__DecisionOutcome o = CORRAL__DECISION_OUTCOME__INIT;

	o.err = ERR_CONTEXT_TOO_LONG;
	o.text = (char *)"the prompt is longer than any model reads";
	explained(&f, &o);
	has("\"chosen\":null");
	has("\"error_code\":\"CONTEXT_TOO_LONG\",\"error\":\"the prompt is longer than any model reads\"");
	has("\"candidates\":[],\"rejected\":[]");
	has("\"language\":null");
	has("\"conversation_model\":null");
	has("\"needs\":[]");
}

/* The selector may be newer than this gateway, or wrong. */
static void what_a_peer_says_wrongly_is_still_json(void **state)
{
	Corral__DecisionFeatures f = CORRAL__DECISION_FEATURES__INIT;
	Corral__Candidate c = CORRAL__CANDIDATE__INIT, *candidates[] = { &c };
	Corral__DecisionOutcome o = CORRAL__DECISION_OUTCOME__INIT;

	f.needs = 0xffffffffu;
	f.task_type = (char *)"\"}\xff\n";
	c.score = 0.0 / 0.0;
	c.load = 1.0 / 0.0;
	c.context = 8192;
	o.candidates = candidates, o.n_candidates = 1;
	o.err = 60000;
	explained(&f, &o);
	has("\"score\":null");
	has("\"expected_s\":null");
	has("\"task_type\":\"\\\"}");
	has("\"audio\",null");                            /* a capability without a name */
}

static void who_decided_is_named_and_why_not_the_selector(void **state)
{
	static const struct { const char *by, *not_asked, *json; } cases[] = {
		{ "", NULL, "{\"decided_by\":\"gateway\",\"not_asked\":null}" },
		{ "selector", "", "{\"decided_by\":\"selector\",\"not_asked\":null}" },
		{ "", "it was late", "{\"decided_by\":\"gateway\",\"not_asked\":\"it was late\"}" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		begin();
		jw_obj(&jo);
		decider_json(&jo, cases[i].by, cases[i].not_asked);
		jw_end(&jo);
		assert_string_equal(written(), cases[i].json);
	}
}

static void a_time_that_never_was_is_null(void **state)
{
	begin();
	jw_obj(&jo);
	time_json(&jo, "never", 0);
	time_json(&jo, "then", 1795000000123456);
	jw_end(&jo);
	assert_string_equal(written(), "{\"never\":null,\"then\":\"2026-11-18T11:06:40.123Z\"}");
}

/* --- jobs --- */

static const char *job(const Corral__Job *j)
{
	begin();
	job_json(&jo, j);
	return written();
}

static void a_job_that_waits_knows_little(void **state)
{
	Corral__Job j = CORRAL__JOB__INIT;

	j.id = (char *)"1", j.kind = (char *)"pull", j.model = (char *)"m";
	j.percent = -1;
	j.eta_s = -1;
	j.created_at_us = 1795000000000000;
	job(&j);
	has("\"backend\":null,\"state\":\"waiting\"");
	has("\"percent\":null");
	has("\"eta_s\":null");
	has("\"started_at\":null,\"ended_at\":null,\"error\":null,\"error_code\":null");
	assert_null(strstr(buf_z(&out), "removes_at"));
}

static void a_job_under_way_tells_how_far_it_is(void **state)
{
	Corral__Job j = CORRAL__JOB__INIT;

	j.state = CORRAL__JOB_STATE__JOB_RUNNING;
	j.backend = (char *)"a";
	j.percent = 33.3999;
	j.bytes_done = 1ull << 40, j.bytes_total = 3ull << 40;
	j.bytes_per_s = 1234.9;
	j.eta_s = 7;
	job(&j);
	has("\"backend\":\"a\",\"state\":\"running\"");
	has("\"percent\":33.3,\"bytes\":1099511627776,\"bytes_total\":3298534883328,\"rate\":1234,\"eta_s\":7");
	j.percent = 0, j.eta_s = 0;
	job(&j);
	has("\"percent\":0,");                            /* known, not null */
	has("\"eta_s\":0,");
}

static void a_job_that_failed_says_why_and_one_that_removes_says_when(void **state)
{
	Corral__Job j = CORRAL__JOB__INIT;

	j.state = CORRAL__JOB_STATE__JOB_FAILED;
	j.error = (char *)"no space left on device";
	j.error_code = (char *)"BACKEND_FAILED";
	j.removes_at_us = 1795000000000000;
	j.tries = 3, j.asked = 2;
	job(&j);
	has("\"state\":\"failed\"");
	has("\"removes_at\":\"2026-11-18T11:06:40.000Z\",\"error\":\"no space left on device\",\"error_code\":\"BACKEND_FAILED\",\"asked\":2,\"tries\":3");
}

static void states_of_a_newer_registry_have_no_name_here(void **state)
{
	static const char *const names[] = { "waiting", "running", "done", "failed", "cancelled", "unknown" };
	Corral__Job j = CORRAL__JOB__INIT;
	char want[40];

	for (int i = 0; i < 6; i++) {
		j.state = (Corral__JobState)i;
		job(&j);
		snprintf(want, sizeof(want), "\"state\":\"%s\"", names[i]);
		has(want);
	}
	j.state = (Corral__JobState)-1;
	job(&j);
	has("\"state\":\"unknown\"");
}

static int forget(void **state)
{
	buf_free(&out);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_decision_shows_who_won_who_could_have_and_who_lost_why), cmocka_unit_test(where_nothing_fits_there_is_a_reason_and_no_model),
		cmocka_unit_test(what_a_peer_says_wrongly_is_still_json), cmocka_unit_test(who_decided_is_named_and_why_not_the_selector),
		cmocka_unit_test(a_time_that_never_was_is_null), cmocka_unit_test(a_job_that_waits_knows_little),
		cmocka_unit_test(a_job_under_way_tells_how_far_it_is), cmocka_unit_test(a_job_that_failed_says_why_and_one_that_removes_says_when),
		cmocka_unit_test(states_of_a_newer_registry_have_no_name_here),
	};

	return cmocka_run_group_tests(tests, NULL, forget);
}

/* run_input_test.c - which route and which body an input becomes; what is refused, by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/run_input.h"

static struct arena *mem;
static struct why why;

static enum err read(const char *body, struct run_input *in) { return why = (struct why){ 0 }, run_input_read(in, str_of(body), mem, &why); }

static void becomes(const char *body, const char *path, const char *sent)
{
	struct run_input in;

	assert_int_equal(read(body, &in), ERR_OK);
	assert_true(str_eqz(in.job.path, path));
	if (!str_eqz(in.job.body, sent))
		fail_msg("%s became " STR_FMT ", not %s", body, STR_ARG(in.job.body), sent);
}

static void refused(const char *body, enum err code, const char *field)
{
	struct run_input in = { .ttl_ms = 7 };

	assert_int_equal(read(body, &in), code);
	assert_string_equal(why.field, field);
	assert_int_equal(in.ttl_ms, 7);
}

static void inputs_of_every_dialect(void **state)
{
	becomes("{\"input\":{\"prompt\":\"x\"}}", "/inference", "{\"prompt\":\"x\",\"model\":\"auto\"}");
	becomes("{\"input\":{\"prompt\":\"x\",\"model\":\"m\"}}", "/inference", "{\"prompt\":\"x\",\"model\":\"m\"}");
	becomes("{\"input\":{\"messages\":[],\"model\":\"m\"}}", "/v1/chat/completions", "{\"messages\":[],\"model\":\"m\"}");
	becomes("{\"input\":{\"model\":\"m\",\"messages\":[],\"system\":\"s\"}}", "/v1/messages", "{\"model\":\"m\",\"messages\":[],\"system\":\"s\"}");
	becomes("{\"input\":{\"model\":\"m\",\"messages\":[],\"options\":{}}}", "/api/chat", "{\"model\":\"m\",\"messages\":[],\"options\":{}}");
	becomes("{\"input\":{\"route\":\"/v1/completions\",\"request\":{\"a\": 1}}}", "/v1/completions", "{\"a\": 1}");
	becomes("{\"input\":{\"openai_route\":\"/v1/completions\",\"openai_input\":{\"a\": 1}}}", "/v1/completions", "{\"a\": 1}");
}

static void the_form_of_the_vllm_worker(void **state)
{
	becomes("{\"input\":{\"prompt\":\"x\",\"sampling_params\":{\"max_tokens\":5}}}", "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":5,\"model\":\"auto\"}");
	becomes("{\"input\":{\"prompt\":\"x\",\"apply_chat_template\":true,\"sampling_params\":{\"n\":1}}}", "/inference", "{\"prompt\":\"x\",\"n\":1,\"model\":\"auto\"}");
	becomes("{\"input\":{\"messages\":[],\"sampling_params\":{},\"batch_size_growth_factor\":3,\"stream\":true}}", "/v1/chat/completions",
		"{\"messages\":[],\"stream\":true,\"model\":\"auto\"}");
	refused("{\"input\":{\"prompt\":\"x\",\"sampling_params\":7}}", ERR_MALFORMED, "input.sampling_params");
}

static void times_of_the_policy(void **state)
{
	struct run_input in;

	assert_int_equal(read("{\"input\":{\"prompt\":\"x\"},\"policy\":{\"executionTimeout\":5000,\"ttl\":10000,\"lowPriority\":true}}", &in), ERR_OK);
	assert_int_equal(in.execution_ms, 5000);
	assert_int_equal(in.ttl_ms, 10000);
	refused("{\"input\":{\"prompt\":\"x\"},\"policy\":{\"ttl\":999}}", ERR_INVALID, "policy.ttl");
	refused("{\"input\":{\"prompt\":\"x\"},\"policy\":{\"executionTimeout\":604800001}}", ERR_INVALID, "policy.executionTimeout");
	refused("{\"input\":{\"prompt\":\"x\"},\"policy\":{\"ttl\":\"1\"}}", ERR_MALFORMED, "ttl");
	refused("{\"input\":{\"prompt\":\"x\"},\"policy\":[]}", ERR_MALFORMED, "policy");
	refused("{\"input\":{\"prompt\":\"x\"},\"policy\":{\"cheap\":1}}", ERR_UNSUPPORTED_FIELD, "policy.cheap");
}

static void what_is_no_job(void **state)
{
	refused("", ERR_MALFORMED, "");
	refused("[]", ERR_MALFORMED, "");
	refused("{}", ERR_MALFORMED, "input");
	refused("{\"input\":{}}", ERR_MALFORMED, "input");
	refused("{\"input\":{\"prompt\":null}}", ERR_MALFORMED, "input");
	refused("{\"input\":{\"route\":\"/v1/completions\"}}", ERR_MALFORMED, "input");
	refused("{\"input\":{\"route\":\"/x\",\"request\":{},\"model\":\"m\"}}", ERR_UNSUPPORTED_FIELD, "input.model");
	refused("{\"input\":{\"prompt\":\"x\"},\"webhook\":\"http://x\"}", ERR_UNSUPPORTED_FIELD, "webhook");
}

static int setup(void **state) { return (mem = arena_new(0)) ? 0 : 1; }
static int teardown(void **state) { return arena_free(mem), 0; }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(inputs_of_every_dialect, setup, teardown), cmocka_unit_test_setup_teardown(the_form_of_the_vllm_worker, setup, teardown),
		cmocka_unit_test_setup_teardown(times_of_the_policy, setup, teardown), cmocka_unit_test_setup_teardown(what_is_no_job, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

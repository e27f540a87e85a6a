/* treat_test.c - an arm's parameters and prompt in every dialect: what a request says itself stays, what comes out is read again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/treat.h"

static struct str treated(struct arena *mem, enum llm_dialect d, enum llm_op op, const char *body, const char *parameters, const char *prompt)
{
	Corral__ExperimentArm a = CORRAL__EXPERIMENT_ARM__INIT;
	struct why why = { 0 };
	struct llm_in in;
	struct str out;

	if (llm_read(&in, d, op, arena_str(mem, str_of(body)), STR(""), mem, &why) != ERR_OK)
		fail_msg("%s: %s", body, why.text);
	a.parameters = (char *)parameters;
	a.prompt_template = (char *)prompt;
	out = treat_body(&in, &a, mem);
	if (llm_read(&in, d, op, out, STR(""), mem, &why) != ERR_OK)
		fail_msg("what comes out cannot be read: %s: " STR_FMT, why.text, STR_ARG(out));
	return arena_str(mem, out);
}

static void each_dialect_has_its_place(void **state)
{
	static const struct { enum llm_dialect d; enum llm_op op; const char *body, *parameters, *prompt, *want; } cases[] = {
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "{\"temperature\":0.5,\"max_tokens\":9}", "",
		  "{\"temperature\":0.5,\"max_tokens\":9,\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}" },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"temperature\":1,\"max_completion_tokens\":3,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
		  "{\"temperature\":0.5,\"max_tokens\":9}", "",
		  "{\"model\":\"m\",\"temperature\":1,\"max_completion_tokens\":3,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}" },
		{ LLM_OLLAMA, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "{\"max_tokens\":9}", "Say: {{prompt}}!",
		  "{\"options\":{\"num_predict\":9},\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Say: hi!\"}]}" },
		{ LLM_OLLAMA, LLM_COMPLETE, "{\"model\":\"m\",\"prompt\":\"hi\",\"options\":{\"top_p\":0.1}}", "{\"top_p\":1,\"temperature\":0}", "",
		  "{\"model\":\"m\",\"prompt\":\"hi\",\"options\":{\"temperature\":0,\"top_p\":0.1}}" },
		{ LLM_NATIVE, LLM_CHAT, " {\"prompt\":\"a \\\"b\\\"\",\"options\":{}}", "{\"presence_penalty\":1,\"top_p\":0.5}", "<{{prompt}}|{{prompt}}>",
		  " {\"top_p\":0.5,\"prompt\":\"<a \\\"b\\\"|a \\\"b\\\">\",\"options\":{\"presence_penalty\":1}}" },
		{ LLM_ANTHROPIC, LLM_CHAT, "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":\"y\"}]}]}",
		  "{\"presence_penalty\":1,\"max_tokens\":9,\"temperature\":0}", "{{prompt}}?",
		  "{\"temperature\":0,\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"text\",\"text\":\"y?\"}]}]}" },
		{ LLM_OPENAI, LLM_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"},{\"role\":\"user\",\"content\":\"three\"}]}",
		  "", "({{prompt}})",
		  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"},{\"role\":\"user\",\"content\":\"(three)\"}]}" },
	};
	struct arena *mem = arena_new(0);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_string_equal(treated(mem, cases[i].d, cases[i].op, cases[i].body, cases[i].parameters, cases[i].prompt).p, cases[i].want);
	arena_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(each_dialect_has_its_place) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

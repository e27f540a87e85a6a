/* kind_openai.c - asks any server with OpenAI's GET /v1/models: vLLM, SGLang, LM Studio and others.
 *
 * The form has no traits; vLLM adds max_model_len. What a model can do beyond completing is for the configuration to say. */
#include "common/policy/caps.h"
#include "services/model-registry/visit.h"

static void start(struct visit *);
static void on_models(struct visit *, const struct answer *);

const struct kind kind_openai = { .name = "openai", .start = start };

static void start(struct visit *visit)
{
	visit_ask(visit, "GET", STR("/v1/models"), STR(""), visit->timeout_ms, on_models);
}

static void read_model(struct visit *visit, const struct json *json, uint32_t entry, struct arena *scratch)
{
	struct str id = str_of(read_str(json, entry, "id", scratch));
	struct found *found;

	if (!listing_wants(visit->found, id))
		return;
	found = listing_add(visit->found, id);
	found->context_length = read_u32(json, entry, "max_model_len");
	if (!found->context_length)
		found->context_length = read_u32(json, entry, "context_length");
	found->context_in_force = found->context_length;
	found->loaded = true;
	found->detailed = true;
}

static bool same_models(const struct listing *held, const struct json *json, uint32_t data, struct arena *scratch)
{
	size_t n = 0;

	for (uint32_t i = json_first(json, data); i; i = json_next(json, data, i), n++) {
		const struct found *found = listing_find(held, str_of(read_str(json, i, "id", scratch)));

		if (!found || found->missed)
			return false;
	}
	return n == listing_present(held);
}

static void on_models(struct visit *visit, const struct answer *answer)
{
	uint32_t data;

	if (!visit_need(visit, answer))
		return;
	data = json_get(answer->json, 0, "data");
	if (!data || json_kind(answer->json, data) != JSON_ARRAY) {
		visit_fail(visit, "malformed", "/v1/models has no list 'data'");
		return;
	}
	if (visit->task == VISIT_LOOK) {
		visit_done(visit, same_models(visit->held, answer->json, data, answer->mem) ? VISIT_GOOD : VISIT_CHANGED);
		return;
	}
	for (uint32_t i = json_first(answer->json, data); i; i = json_next(answer->json, data, i))
		read_model(visit, answer->json, i, answer->mem);
	visit_done(visit, VISIT_GOOD);
}

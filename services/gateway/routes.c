/* routes.c - every route of the public port with its ordered stages: the request's way, on a page. */
#include "services/gateway/routes.h"

#include "services/gateway/stages/stages.h"

static const struct stage *const inference[] = {
	&stage_parse, &stage_limits, &stage_decide, &stage_load_only, &stage_cache, &stage_queue, &stage_reserve, &stage_dispatch, NULL
};
static const struct stage *const count[] = { &stage_parse, &stage_limits, &stage_decide, &stage_count_tokens, NULL };
static const struct stage *const explain_only[] = { &stage_parse, &stage_decide, &stage_explain_only, NULL };

#define ONE(only) ((const struct stage *const[]){ &(only), NULL })

/* Bare and doubled prefixes are what people type who mean /v1: "base URL without /v1" is the commonest mistake. */
#define OPENAI(method, rest, action, summary, op, stages) \
	{ method, "/v1" rest, action, summary, LLM_OPENAI, op, stages }, { method, "/openai/v1" rest, action, summary, LLM_OPENAI, op, stages }

/* Its base URL has no /v1 for Anthropic's own package and one for others; people add it, leave it out, or name the vendor. */
#define ANTHROPIC(rest, summary, op, stages) \
	{ "POST", "/v1" rest, "inference", summary, LLM_ANTHROPIC, op, stages }, \
	{ "POST", "/anthropic/v1" rest, "inference", summary, LLM_ANTHROPIC, op, stages }, \
	{ "POST", rest, "inference", "The same, for base URLs without /v1.", LLM_ANTHROPIC, op, stages }

const struct route gateway_routes[] = {
	OPENAI("POST", "/chat/completions", "inference", "OpenAI chat, streamed or not.", LLM_CHAT, inference),
	{ "POST", "/chat/completions", "inference", "The same, for base URLs without /v1.", LLM_OPENAI, LLM_CHAT, inference },
	OPENAI("POST", "/completions", "inference", "OpenAI text completion.", LLM_COMPLETE, inference),
	{ "POST", "/completions", "inference", "The same, for base URLs without /v1.", LLM_OPENAI, LLM_COMPLETE, inference },
	OPENAI("GET", "/models", "models.read", "Models in OpenAI's shape.", LLM_CHAT, ONE(stage_openai_models)),
	OPENAI("GET", "/models/", "models.read", "One model in OpenAI's shape; the name may hold '/' and ':'.", LLM_CHAT, ONE(stage_openai_model)),

	OPENAI("POST", "/embeddings", "inference", "OpenAI embeddings; floats or base64.", LLM_EMBED, inference),
	{ "POST", "/embeddings", "inference", "The same, for base URLs without /v1.", LLM_OPENAI, LLM_EMBED, inference },

	ANTHROPIC("/messages", "Anthropic messages, streamed or not.", LLM_CHAT, inference),
	ANTHROPIC("/messages/count_tokens", "Tokens of an Anthropic request, counted by the backend where it can.", LLM_COUNT, count),

	{ "POST", "/api/chat", "inference", "Ollama chat; streams by default.", LLM_OLLAMA, LLM_CHAT, inference },
	{ "POST", "/api/generate", "inference", "Ollama generate; streams by default.", LLM_OLLAMA, LLM_COMPLETE, inference },
	{ "POST", "/generate", "inference", "The same.", LLM_OLLAMA, LLM_COMPLETE, inference },
	{ "POST", "/api/embed", "inference", "Ollama embed: a text or several.", LLM_OLLAMA, LLM_EMBED, inference },
	{ "POST", "/api/embeddings", "inference", "Ollama embeddings, its older form: one text.", LLM_OLLAMA, LLM_EMBED_OLD, inference },
	{ "GET", "/", "health", "\"Ollama is running\", as clients of Ollama expect.", LLM_OLLAMA, LLM_CHAT, ONE(stage_alive) },
	{ "GET", "/api/version", "health", "The version of Ollama's API that is spoken.", LLM_OLLAMA, LLM_CHAT, ONE(stage_version) },
	{ "GET", "/api/tags", "models.read", "Models in Ollama's shape.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_tags) },
	{ "GET", "/api/ps", "models.read", "Loaded models in Ollama's shape.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_ps) },
	{ "POST", "/api/show", "models.read", "One model in Ollama's shape.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_show) },
	{ "POST", "/api/pull", "models.manage", "Ollama pull, told as it goes: joined to the job of the same model.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_pull) },
	{ "DELETE", "/api/delete", "models.manage", "Ollama delete: the model leaves the disk after the grace time.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_delete) },
	{ "POST", "/api/create", "models.manage", "Ollama create, passed on to an Ollama (backend=NAME).", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_create) },
	{ "POST", "/api/copy", "models.manage", "Ollama copy, passed on.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_copy) },
	{ "POST", "/api/push", "models.manage", "Ollama push, passed on; only to registries of push_to.", LLM_OLLAMA, LLM_CHAT, ONE(stage_ollama_push) },
	{ "HEAD", "/api/blobs/", "models.manage", "Whether an Ollama has a file.", LLM_OLLAMA, LLM_CHAT, ONE(stage_blob_head) },
	{ "POST", "/api/blobs/", "models.manage", "A file for an Ollama; passed on when it is what its digest says.", LLM_OLLAMA, LLM_CHAT, ONE(stage_blob_put) },

	{ "POST", "/api/ollama/inference", "inference", "Native inference.", LLM_NATIVE, LLM_CHAT, inference },
	{ "POST", "/inference", "inference", "The same.", LLM_NATIVE, LLM_CHAT, inference },
	{ "POST", "/code-generation", "inference", "The same.", LLM_NATIVE, LLM_CHAT, inference },
	{ "POST", "/run", "inference", "Takes {\"input\": an inference request} as a durable job; 202 with its id. As RunPod.", LLM_NATIVE, LLM_CHAT, ONE(stage_run) },
	{ "POST", "/runsync", "inference", "The same, and waits for its end (wait=MILLISECONDS), then answers with its state.", LLM_NATIVE, LLM_CHAT, ONE(stage_runsync) },
	{ "GET", "/status/", "inference", "A job's state, and its output when it has ended.", LLM_NATIVE, LLM_CHAT, ONE(stage_run_status) },
	{ "GET", "/stream/", "inference", "What a job has said since the last time; from=N repeats.", LLM_NATIVE, LLM_CHAT, ONE(stage_run_stream) },
	{ "POST", "/cancel/", "inference", "Ends a job; its backend's connection is closed.", LLM_NATIVE, LLM_CHAT, ONE(stage_run_cancel) },
	{ "POST", "/explain", "inference", "A native inference request that is decided and not sent.", LLM_NATIVE, LLM_CHAT, explain_only },
	{ "GET", "/explain/", "explain", "How a request was decided, replayed.", LLM_NATIVE, LLM_CHAT, ONE(stage_explain) },
	{ "POST", "/feedback", "feedback", "What somebody says of an answer: rating, thumbs, success, tests, a correction; said again, it replaces.", LLM_NATIVE, LLM_CHAT, ONE(stage_feedback) },
	{ "GET", "/requests/", "requests.read", "Every attempt of a request with its ledger record.", LLM_NATIVE, LLM_CHAT, ONE(stage_requests) },
	{ "GET", "/usage", "usage.read", "Tokens, requests, latency and cost, grouped; JSON or CSV; of one tenant with tenant=NAME.", LLM_NATIVE, LLM_CHAT, ONE(stage_usage) },
	{ "GET", "/quality", "usage.read", "How good answers are, by model, task type and language; from, to (days), tenant=NAME.", LLM_NATIVE, LLM_CHAT, ONE(stage_quality) },
	{ "GET", "/savings", "usage.read", "What one's own machines saved in a month (month=YYYY-MM) at the price of a cloud model (against=NAME).", LLM_NATIVE, LLM_CHAT, ONE(stage_savings) },
	{ "GET", "/prices", "prices.read", "What tokens and machines cost, with the history.", LLM_NATIVE, LLM_CHAT, ONE(stage_prices) },
	{ "PUT", "/prices", "prices.write", "A price from a time on; what was booked before keeps its cost.", LLM_NATIVE, LLM_CHAT, ONE(stage_price_put) },
	{ "POST", "/prices/reprice", "prices.write", "Books for the requests of [from, to), a day at most, what prices say that were set since.", LLM_NATIVE, LLM_CHAT, ONE(stage_reprice) },
	{ "GET", "/settings/active-model", "providers.read", "The model that auto means; null: auto chooses.", LLM_NATIVE, LLM_CHAT, ONE(stage_active_model) },
	{ "PUT", "/settings/active-model", "settings.write", "{model, version}: what auto means from the next request on; null, and it chooses again. 409 when the version is another.", LLM_NATIVE,
	  LLM_CHAT, ONE(stage_active_model_put) },
	{ "GET", "/models", "models.read", "Models, one body for OpenAI-style, Ollama-style and native readers.", LLM_NATIVE, LLM_CHAT, ONE(stage_models) },
	{ "POST", "/models/sync", "models.write", "Lists every backend now.", LLM_NATIVE, LLM_CHAT, ONE(stage_sync) },
	{ "POST", "/models/pull", "models.manage", "Pulls {name, backend}: a durable job.", LLM_NATIVE, LLM_CHAT, ONE(stage_pull) },
	{ "POST", "/models/", "models.write", "NAME/preload, unload, pin, unpin, protect, unprotect, undelete.", LLM_NATIVE, LLM_CHAT, ONE(stage_change_model) },
	{ "DELETE", "/models/", "models.manage", "Deletes a model when its grace time (grace_s) is over; 403 when it is protected.", LLM_NATIVE, LLM_CHAT, ONE(stage_remove_model) },
	{ "GET", "/jobs", "jobs.read", "Jobs on models, newest first; active=true, limit=N.", LLM_NATIVE, LLM_CHAT, ONE(stage_jobs) },
	{ "GET", "/jobs/", "jobs.read", "One job: phase, percent, bytes, rate, eta_s.", LLM_NATIVE, LLM_CHAT, ONE(stage_job) },
	{ "DELETE", "/jobs/", "jobs.write", "Cancels a job; a deletion that waits is undone so.", LLM_NATIVE, LLM_CHAT, ONE(stage_job_cancel) },
	{ "GET", "/models/unused", "models.read", "Models that nobody asked for in days=30, proposed for removal; nothing is removed by itself.", LLM_NATIVE, LLM_CHAT,
	  ONE(stage_unused) },
	{ "GET", "/models/", "models.read", "One model.", LLM_NATIVE, LLM_CHAT, ONE(stage_model) },
	{ "GET", "/budgets", "budgets.read", "Budgets with what is used, held and in doubt of them; scope=SCOPE, tenant=NAME.", LLM_NATIVE, LLM_CHAT, ONE(stage_budgets) },
	{ "PUT", "/budgets", "budgets.write", "Sets {scope, period, tokens, microusd, mode, unlimited}: null = no limit of that kind, 0 = nothing.", LLM_NATIVE, LLM_CHAT, ONE(stage_budget_put) },
	{ "DELETE", "/budgets", "budgets.write", "Removes the budget of scope=SCOPE and period=PERIOD; tenant=NAME for a team, key or user of another.", LLM_NATIVE, LLM_CHAT, ONE(stage_budget_delete) },
	{ "POST", "/tests", "tests.write", "Begins an experiment on models, or on parameters and prompts of one.", LLM_NATIVE, LLM_CHAT, ONE(stage_test_create) },
	{ "GET", "/tests", "tests.read", "Experiments, and champions in force; running=true.", LLM_NATIVE, LLM_CHAT, ONE(stage_tests) },
	{ "GET", "/tests/", "tests.read", "ID: one; ID/analysis: every figure of it.", LLM_NATIVE, LLM_CHAT, ONE(stage_test) },
	{ "POST", "/tests/", "tests.write", "ID/pause, resume, stop, promote, rollback.", LLM_NATIVE, LLM_CHAT, ONE(stage_test_change) },
	{ "POST", "/keys", "keys.create", "Makes a key; its secret is in this answer and nowhere else.", LLM_NATIVE, LLM_CHAT, ONE(stage_key_create) },
	{ "GET", "/keys", "keys.read", "Keys; tenant=NAME, all=true for those that ended too, limit=N, after=ID.", LLM_NATIVE, LLM_CHAT, ONE(stage_keys) },
	{ "POST", "/keys/", "keys.rotate", "ID/rotate: a new key in its place; the old one lives on for overlap_s.", LLM_NATIVE, LLM_CHAT, ONE(stage_key_rotate) },
	{ "PUT", "/keys/", "keys.limit", "ID: {limits} in the place of those it has; in force within a second or two.", LLM_NATIVE, LLM_CHAT, ONE(stage_key_limit) },
	{ "DELETE", "/keys/", "keys.revoke", "Ends a key, everywhere within seconds.", LLM_NATIVE, LLM_CHAT, ONE(stage_key_revoke) },
	{ "GET", "/tenants", "tenants.read", "Tenants.", LLM_NATIVE, LLM_CHAT, ONE(stage_tenants) },
	{ "PUT", "/tenants/", "tenants.write", "Makes a tenant, or replaces what is known of it.", LLM_NATIVE, LLM_CHAT, ONE(stage_tenant_put) },
	{ "DELETE", "/tenants/", "tenants.delete", "Deletes a tenant that has no keys.", LLM_NATIVE, LLM_CHAT, ONE(stage_tenant_delete) },
	{ "GET", "/audit", "audit.read", "Who did what; from, to, actor, action, after=SEQ, limit=N.", LLM_NATIVE, LLM_CHAT, ONE(stage_audit) },
	{ "GET", "/audit/verify", "audit.read", "Whether the chain of the audit log is whole.", LLM_NATIVE, LLM_CHAT, ONE(stage_audit_verify) },
	{ "GET", "/backends", "backends.read", "Backends with state, slots and load.", LLM_NATIVE, LLM_CHAT, ONE(stage_backends) },
	{ "GET", "/hardware", "hardware.read", "What this machine has, and which models to begin with.", LLM_NATIVE, LLM_CHAT, ONE(stage_hardware) },
	{ "GET", "/providers", "providers.read", "Providers in the cloud: state, why, what is left to spend, models and prices.", LLM_NATIVE, LLM_CHAT, ONE(stage_providers) },
	{ "GET", "/health", "health", "One word about all of it, and each backend's state.", LLM_NATIVE, LLM_CHAT, ONE(stage_health) },
	{ 0 },
};

/* Lengths of the table's paths, measured once: every request walks it. */
static uint8_t path_lengths[sizeof(gateway_routes) / sizeof(*gateway_routes)];

static bool route_roles[sizeof(gateway_routes) / sizeof(*gateway_routes)][CORRAL__ROLE__ROLE_SERVICE + 1];

bool route_role_may(const struct route *r, Corral__Role role)
{
	return (unsigned)role <= CORRAL__ROLE__ROLE_SERVICE && route_roles[r - gateway_routes][role];
}

static bool path_matches(const struct route *r, struct str path, struct str *ret_param)
{
	struct str want = str_n(r->path, path_lengths[r - gateway_routes]);

	if (want.n > 1 && want.p[want.n - 1] == '/') {
		if (path.n <= want.n || !str_starts(path, want))
			return false;
		*ret_param = str_from(path, want.n);
		return true;
	}
	*ret_param = STR("");
	return str_eq(path, want);
}

static bool method_matches(const struct route *r, struct str method)
{
	return str_eqz(method, r->method) || (str_eqz(method, "HEAD") && strcmp(r->method, "GET") == 0);
}

const struct route *route_find(const struct http_head *head, struct str path, struct str *ret_param, struct why *why)
{
	const struct route *other = NULL;
	struct str param;

	for (const struct route *r = gateway_routes; r->method; r++) {
		if (!path_matches(r, path, &param))
			continue;
		*ret_param = param;
		if (method_matches(r, head->method))
			return r;
		other = r;
	}
	if (other)
		err_set(why, ERR_METHOD_NOT_ALLOWED, "%s takes %s, not " STR_FMT, other->path, other->method, STR_ARG(head->method));
	else
		err_set(why, ERR_NOT_FOUND, "this Corral does not serve " STR_FMT " " STR_FMT "; docs/reference/routes.md lists what it serves", STR_ARG(head->method), STR_ARG(path));
	return other;
}

struct str route_allow(struct str path, struct arena *mem)
{
	struct str allow = STR(""), param;

	for (const struct route *r = gateway_routes; r->method; r++) {
		const char *methods = strcmp(r->method, "GET") == 0 ? "GET, HEAD" : r->method;

		if ((str_eqz(path, "*") || path_matches(r, path, &param)) && !str_find(allow, str_of(methods)))
			allow = arena_fmt(mem, STR_FMT "%s, ", STR_ARG(allow), methods);
	}
	return allow.n ? arena_fmt(mem, STR_FMT "OPTIONS", STR_ARG(allow)) : allow;
}

enum llm_dialect route_dialect(struct str path)
{
	static const struct { const char *begin; enum llm_dialect dialect; } whose[] = {
		{ "/v1/messages", LLM_ANTHROPIC }, { "/messages", LLM_ANTHROPIC }, { "/anthropic/", LLM_ANTHROPIC },
		{ "/v1/", LLM_OPENAI }, { "/openai/", LLM_OPENAI }, { "/embeddings", LLM_OPENAI }, { "/responses", LLM_OPENAI },
		{ "/api/ollama/", LLM_NATIVE }, { "/api/ai/", LLM_NATIVE }, { "/api/", LLM_OLLAMA },
	};
	struct str param;

	for (const struct route *r = gateway_routes; r->method; r++)
		if (path_matches(r, path, &param))
			return r->dialect;
	for (size_t i = 0; i < sizeof(whose) / sizeof(*whose); i++)
		if (str_starts(path, str_of(whose[i].begin)))
			return whose[i].dialect;
	return LLM_NATIVE;
}

/* --dump=routes wants the runtime's shape; copied once so that there is one table to keep. */
struct svc_route gateway_route_docs[sizeof(gateway_routes) / sizeof(*gateway_routes)];

__attribute__((constructor)) static void prepare(void)
{
	for (size_t i = 0; gateway_routes[i].method; i++) {
		path_lengths[i] = (uint8_t)strlen(gateway_routes[i].path);
		gateway_route_docs[i] = (struct svc_route){ gateway_routes[i].method, gateway_routes[i].path, gateway_routes[i].action,
							    gateway_routes[i].summary };
		for (unsigned role = 0; role <= CORRAL__ROLE__ROLE_SERVICE; role++)
			route_roles[i][role] = role_may((Corral__Role)role, str_of(gateway_routes[i].action));
	}
}

/* providers.c - GET /providers: asked of cloud-fallback, which knows what its providers can do and why some cannot. */
#include "providers.pb-c.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/asked.h"
#include "services/gateway/stages/stages.h"

static const char *state_name(Corral__ProviderState s)
{
	static const char *const names[] = { "unknown", "ready", "not configured", "no budget", "cooling" };

	return (unsigned)s < sizeof(names) / sizeof(*names) ? names[s] : "unknown";
}

static void amount(struct json_out *jo, const char *key, bool known, int64_t n)
{
	jw_key(jo, key);
	if (known)
		jw_i64(jo, n);
	else
		jw_null(jo);
}

static void model(struct json_out *jo, const Corral__ProviderModel *m)
{
	bool priced = m->price && m->price->known;

	jw_obj(jo);
	jw_kv_strz(jo, "name", m->name);
	amount(jo, "context_tokens", m->context_tokens > 0, m->context_tokens);
	amount(jo, "max_output_tokens", m->max_output_tokens > 0, m->max_output_tokens);
	jw_key(jo, "capabilities");
	jw_arr(jo);
	for (size_t i = 0; i < m->n_capabilities; i++)
		jw_strz(jo, m->capabilities[i]);
	jw_end(jo);
	amount(jo, "input_microusd", priced, priced ? m->price->input : 0);
	amount(jo, "cached_input_microusd", priced, priced ? m->price->cached_input : 0);
	amount(jo, "output_microusd", priced, priced ? m->price->output : 0);
	time_json(jo, "rests_until", m->rests_until_ms * 1000);
	jw_kv_strz(jo, "reason", *m->rests_why ? m->rests_why : NULL);
	jw_end(jo);
}

static void provider(struct json_out *jo, const Corral__Provider *p)
{
	jw_obj(jo);
	jw_kv_strz(jo, "name", p->name);
	jw_kv_strz(jo, "kind", p->kind);
	jw_kv_strz(jo, "state", state_name(p->state));
	jw_kv_strz(jo, "reason", *p->why ? p->why : NULL);
	time_json(jo, "ready_at", p->ready_at_ms * 1000);
	jw_kv_u64(jo, "keys", p->keys);
	jw_kv_u64(jo, "slots", p->slots);
	amount(jo, "left_tokens", p->budget_left_tokens >= 0, p->budget_left_tokens);
	amount(jo, "left_microusd", p->budget_left_microusd >= 0, p->budget_left_microusd);
	amount(jo, "cold_start_ms", p->cold_start_ms > 0, p->cold_start_ms);
	jw_key(jo, "models");
	jw_arr(jo);
	for (size_t i = 0; i < p->n_models; i++)
		model(jo, p->models[i]);
	jw_end(jo);
	jw_end(jo);
}

static void listed(const Corral__ListProvidersReply *r, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!r) {
		ask_failed(a, a->gw->cloud, "cloud-fallback");
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "providers");
	jw_arr(&jo);
	for (size_t i = 0; i < r->n_providers; i++)
		provider(&jo, r->providers[i]);
	jw_end(&jo);
	jw_key(&jo, "active_model");
	jw_obj(&jo);
	jw_kv_strz(&jo, "model", r->active_model && *r->active_model->model ? r->active_model->model : NULL);
	jw_kv_u64(&jo, "version", r->active_model ? r->active_model->version : 0);
	jw_end(&jo);
	ask_json_done(a, &jo);
}

static void list(struct ask *a)
{
	corral__providers__list(rpc_stub(a->gw->cloud, &corral__providers__descriptor), a->query, listed, a);
}

enum step asked_providers(struct req *r, void (*call)(struct ask *))
{
	struct ask *a = ask_new(r, call);
	Corral__ListProvidersRequest *q = arena_new_of(a->mem, Corral__ListProvidersRequest);

	corral__list_providers_request__init(q);
	q->caller = arena_new_of(a->mem, Corral__Caller);
	asked_by(r, a, q->caller);
	a->query = q;
	return ask_send(a);
}

static enum step enter(struct req *r) { return asked_providers(r, list); }

const struct stage stage_providers = { "providers", enter };

/* settings.c - /settings/active-model: the model that "auto" means until somebody says otherwise; kept by cloud-fallback, heard with its snapshot. */
#include "providers.pb-c.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/asked.h"
#include "services/gateway/stages/stages.h"

static ProtobufCService *peer(struct ask *a) { return rpc_stub(a->gw->cloud, &corral__providers__descriptor); }

static void tell(struct ask *a, const Corral__ActiveModel *m)
{
	struct json_out jo = ask_json(a, 200);

	jw_kv_strz(&jo, "model", m && *m->model ? m->model : NULL);
	jw_kv_u64(&jo, "version", m ? m->version : 0);
	time_json(&jo, "set_at", m ? m->set_at_us : 0);
	ask_json_done(a, &jo);
}

static void listed(const Corral__ListProvidersReply *r, void *arg)
{
	struct ask *a = arg;

	if (r)
		tell(a, r->active_model);
	else
		ask_failed(a, a->gw->cloud, "cloud-fallback");
}

static void list(struct ask *a) { corral__providers__list(peer(a), a->query, listed, a); }

static enum step get(struct req *r) { return asked_providers(r, list); }

static void was_set(const Corral__ActiveModel *m, void *arg)
{
	struct ask *a = arg;

	if (m)
		tell(a, m);
	else
		ask_failed(a, a->gw->cloud, "cloud-fallback");
}

static void set(struct ask *a) { corral__providers__set_active_model(peer(a), a->query, was_set, a); }

/* A model that is there, or nothing: null, "" and "auto". */
static bool read_model(struct req *r, const struct json *doc, struct ask *a, char **ret, struct why *why)
{
	struct str name = STR("");
	bool alias;

	if (!json_get(doc, 0, "model"))
		return err_field(why, ERR_MALFORMED, "model", "the model is missing; null makes auto choose again") == ERR_OK;
	if (!json_opt_str(doc, 0, "model", &name, a->mem, why))
		return false;
	if (str_ieq(name, STR("auto")))
		name = STR("");
	if (name.n && (!r->world || catalogue_resolve(&r->world->cat, name, &alias) < 0))
		return catalogue_not_found(r->world ? &r->world->cat : NULL, name, NULL, NULL, why) == ERR_OK;
	*ret = arena_dup(a->mem, name.p ? name.p : "", name.n);
	return true;
}

static enum step put(struct req *r)
{
	static const char *const known[] = { "model", "version", NULL };
	struct ask *a = ask_new(r, set);
	Corral__SetActiveModelRequest *q = arena_new_of(a->mem, Corral__SetActiveModelRequest);
	struct why why = { 0 };
	struct json doc;
	int64_t version = -1;

	corral__set_active_model_request__init(q);
	q->caller = arena_new_of(a->mem, Corral__Caller);
	asked_by(r, a, q->caller);
	a->query = q;
	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (!read_model(r, &doc, a, &q->model, &why) || !json_opt_i64(&doc, 0, "version", &version, &why)) {
		req_fail_why(r, &why);
		return asked_send(a, false);
	}
	q->if_version = version >= 0;
	q->version = version >= 0 ? (uint64_t)version : 0;
	return asked_send(a, true);
}

const struct stage stage_active_model = { "active_model", get }, stage_active_model_put = { "active_model_put", put };

/* access.c - /keys, /tenants and /audit: asked of the access service, which checks the rights again, acts, and writes it down. */
#include "access.pb-c.h"
#include "common/base/clock.h"
#include "common/data/json_write.h"
#include "common/policy/access_json.h"
#include "services/gateway/ask.h"
#include "services/gateway/door.h"
#include "services/gateway/explain_json.h"
#include "services/gateway/stages/asked.h"
#include "services/gateway/stages/stages.h"

/* One of these is asked, with the caller in it. */
struct access_ask {
	Corral__Caller caller;
	Corral__CreateKeyRequest create;
	Corral__RotateKeyRequest rotate;
	Corral__LimitKeyRequest limit;
	Corral__RevokeKeyRequest revoke;
	Corral__ListKeysRequest list;
	Corral__PutTenantRequest put;
	Corral__DeleteTenantRequest del;
	Corral__ListTenantsRequest tenants;
	Corral__AuditQuery audit;
	Corral__Key key;
	Corral__Tenant tenant;
	Corral__Limits limits;
};

static char *z(struct ask *a, struct str s) { return arena_dup(a->mem, s.p ? s.p : "", s.n); }

/* The peer's address without its port. */
static struct str address_of(const struct req *r)
{
	const char *colon = strrchr(r->x->peer, ':');

	return colon ? str_n(r->x->peer, (size_t)(colon - r->x->peer)) : str_of(r->x->peer);
}

/* Without a key and let in by its network, somebody is "anonymous" in the audit log; the service tells by the role. */
void asked_by(struct req *r, struct ask *a, Corral__Caller *c)
{
	corral__caller__init(c);
	c->key_id = z(a, r->key_id);
	c->tenant = z(a, r->tenant);
	c->role = r->who.role;
	c->address = z(a, address_of(r));
	c->request_id = z(a, str_of(r->id_text));
}

static struct access_ask *begin(struct req *r, struct ask **ret_ask, void (*call)(struct ask *))
{
	struct ask *a = *ret_ask = ask_new(r, call);
	struct access_ask *q = arena_new_of(a->mem, struct access_ask);

	asked_by(r, a, &q->caller);
	corral__create_key_request__init(&q->create), q->create.caller = &q->caller, q->create.key = &q->key;
	corral__rotate_key_request__init(&q->rotate), q->rotate.caller = &q->caller;
	corral__limit_key_request__init(&q->limit), q->limit.caller = &q->caller;
	corral__revoke_key_request__init(&q->revoke), q->revoke.caller = &q->caller;
	corral__list_keys_request__init(&q->list), q->list.caller = &q->caller;
	corral__put_tenant_request__init(&q->put), q->put.caller = &q->caller, q->put.tenant = &q->tenant;
	corral__delete_tenant_request__init(&q->del), q->del.caller = &q->caller;
	corral__list_tenants_request__init(&q->tenants), q->tenants.caller = &q->caller;
	corral__audit_query__init(&q->audit), q->audit.caller = &q->caller;
	corral__key__init(&q->key);
	corral__tenant__init(&q->tenant);
	corral__limits__init(&q->limits);
	a->query = q;
	return q;
}

static struct access_ask *of(struct ask *a) { return a->query; }
static ProtobufCService *access_of(struct ask *a) { return rpc_stub(a->gw->door->access, &corral__access__descriptor); }

/* What it says of keys and rights is for the client; what it says of itself is not. */
static void failed(struct ask *a)
{
	const struct why *why = rpc_error(a->gw->door->access);

	if (why && why->code != ERR_UNAVAILABLE && why->code != ERR_DEADLINE && why->code != ERR_INTERNAL && why->code != ERR_STORE_FAILED) {
		a->err = *why;
		ask_done(a);
	} else {
		ask_failed(a, a->gw->door->access, "access service");
	}
}

/* --- out --- */

static void tenant_members(struct json_out *jo, const Corral__Tenant *t)
{
	jw_kv_strz(jo, "name", t->name);
	jw_kv_strz(jo, "display_name", t->display_name);
	json_limits_member(jo, t->limits);
	json_list_member(jo, "models", t->models, t->n_models);
	jw_kv_bool(jo, "suspended", t->suspended);
	jw_kv_bool(jo, "optimize_context", t->optimize_context);
	jw_kv_bool(jo, "local_only", t->local_only);
	json_list_member(jo, "teams", t->teams, t->n_teams);
	time_json(jo, "created_at", t->created_at_us);
}

/* --- in: only fields that are known, for a misspelt limit would be no limit --- */

static bool known_fields(const struct json *doc, const char *const *known, struct why *why)
{
	for (uint32_t i = json_first(doc, 0); i; i = json_next(doc, 0, i)) {
		const char *const *k = known;

		while (*k && !json_key_is(doc, i, *k))
			k++;
		if (!*k) {
			char name[64];

			(void)str_copy(name, sizeof(name), json_key_raw(doc, i));
			err_field(why, ERR_MALFORMED, name, "there is no field '%s' here", name);
			return false;
		}
	}
	return true;
}

/* An absent body is an empty object. */
bool asked_body(struct req *r, struct ask *a, struct json *doc, const char *const *known)
{
	struct why why = { 0 };
	struct str body = r->x->body.n ? arena_str(a->mem, r->x->body) : STR("{}");

	if (json_parse(doc, a->mem, body, &json_limits_default, &why) != ERR_OK) {
		req_fail_why(r, &why);
		return false;
	}
	if (json_kind(doc, 0) != JSON_OBJECT) {
		req_fail(r, ERR_MALFORMED, "the body must be a JSON object, not %s", json_kind_name(json_kind(doc, 0)));
		return false;
	}
	if (!known_fields(doc, known, &why))
		req_fail_why(r, &why);
	return why.code == ERR_OK;
}

static bool text(const struct json *doc, const char *key, char **ret, struct ask *a, struct why *why)
{
	struct str s = STR("");

	if (!json_opt_str(doc, 0, key, &s, a->mem, why))
		return false;
	if (s.n && memchr(s.p, '\0', s.n)) {
		err_field(why, ERR_INVALID, key, "%s has a zero character", key);
		return false;
	}
	*ret = z(a, s);
	return true;
}

static bool texts(const struct json *doc, const char *key, char ***ret, size_t *ret_n, struct ask *a, struct why *why)
{
	uint32_t list = json_get(doc, 0, key);

	if (!list || json_kind(doc, list) == JSON_NULL)
		return true;
	*ret = arena_array(a->mem, char *, json_count(doc, list) + 1);
	for (uint32_t i = json_first(doc, list); i; i = json_next(doc, list, i)) {
		struct str s = json_string(doc, i, a->mem);

		if (!json_is_string(doc, i) || !s.n || memchr(s.p, '\0', s.n))
			break;
		(*ret)[(*ret_n)++] = z(a, s);
	}
	if (json_kind(doc, list) == JSON_ARRAY && *ret_n == json_count(doc, list))
		return true;
	err_field(why, ERR_MALFORMED, key, "%s must be an array of strings", key);
	return false;
}

static bool limit(const struct json *doc, uint32_t at, const char *key, uint64_t most, uint64_t *ret, struct why *why)
{
	int64_t v = 0;

	if (!json_opt_i64(doc, at, key, &v, why))
		return false;
	if (v < 0 || (uint64_t)v > most) {
		err_field(why, ERR_INVALID, key, "%s is 0 (no limit) to %llu, not %lld", key, (unsigned long long)most, (long long)v);
		return false;
	}
	*ret = (uint64_t)v;
	return true;
}

static bool limits(const struct json *doc, struct access_ask *q, Corral__Limits **ret, struct why *why)
{
	static const char *const known[] = { "requests_per_minute", "tokens_per_minute", "concurrency" };
	uint32_t at = json_get(doc, 0, "limits");
	uint64_t concurrency = 0;

	if (!at || json_kind(doc, at) == JSON_NULL)
		return true;
	if (json_kind(doc, at) != JSON_OBJECT) {
		err_field(why, ERR_MALFORMED, "limits", "limits must be an object");
		return false;
	}
	for (uint32_t i = json_first(doc, at); i; i = json_next(doc, at, i))
		if (!json_key_is(doc, i, known[0]) && !json_key_is(doc, i, known[1]) && !json_key_is(doc, i, known[2])) {
			err_field(why, ERR_MALFORMED, "limits", "limits has requests_per_minute, tokens_per_minute and concurrency, not '" STR_FMT "'",
				  STR_ARG(json_key_raw(doc, i)));
			return false;
		}
	*ret = &q->limits;
	if (!limit(doc, at, known[0], 1000000000, &q->limits.requests_per_minute, why) ||
	    !limit(doc, at, known[1], 1000000000000, &q->limits.tokens_per_minute, why) || !limit(doc, at, known[2], 1000000, &concurrency, why))
		return false;
	q->limits.concurrency = (uint32_t)concurrency;
	return true;
}

/* "90d", "12h", "30m", "3600s", "2w". */
static bool duration_us(struct str s, int64_t *ret)
{
	static const struct { char unit; int64_t s; } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 } };
	uint64_t n;

	for (size_t i = 0; s.n > 1 && i < sizeof(units) / sizeof(*units); i++)
		if (s.p[s.n - 1] == units[i].unit && str_u64(str_n(s.p, s.n - 1), &n) && n > 0 && n <= 100000000) {
			*ret = (int64_t)n * units[i].s * 1000000;
			return true;
		}
	return false;
}

static bool expiry(const struct json *doc, Corral__Key *k, struct ask *a, struct why *why)
{
	struct str in = STR(""), at = STR("");
	int64_t us = 0;

	if (!json_opt_str(doc, 0, "expires_in", &in, a->mem, why) || !json_opt_str(doc, 0, "expires_at", &at, a->mem, why))
		return false;
	if (in.n && at.n)
		err_field(why, ERR_MALFORMED, "expires_in", "expires_in and expires_at exclude each other");
	else if (in.n && !duration_us(in, &us))
		err_field(why, ERR_INVALID, "expires_in", "'" STR_FMT "' is no time from now; write 90d, 12h, 30m or 2w", STR_ARG(in));
	else if (at.n && !clock_parse_rfc3339(z(a, at), &us))
		err_field(why, ERR_INVALID, "expires_at", "'" STR_FMT "' is not a time; write 2026-11-21 or 2026-11-21T09:00:00Z", STR_ARG(at));
	else if (at.n && us <= wall_us())
		err_field(why, ERR_INVALID, "expires_at", "'" STR_FMT "' is over already", STR_ARG(at));
	else
		why->code = ERR_OK;
	k->expires_at_us = in.n ? wall_us() + us : us;
	return why->code == ERR_OK;
}

static bool read_key(struct req *r, struct ask *a, struct access_ask *q)
{
	static const char *const known[] = { "name", "role", "tenant", "team", "user", "expires_in", "expires_at", "models", "actions", "networks", "limits", "local_only", NULL };
	Corral__Key *k = &q->key;
	struct why why = { 0 };
	bool local = false;
	char *role = NULL;
	struct json doc;

	if (!asked_body(r, a, &doc, known))
		return false;
	if (!text(&doc, "name", &k->name, a, &why) || !text(&doc, "tenant", &k->tenant, a, &why) || !text(&doc, "team", &k->team, a, &why) ||
	    !text(&doc, "user", &k->user, a, &why) || !text(&doc, "role", &role, a, &why) || !expiry(&doc, k, a, &why) ||
	    !texts(&doc, "models", &k->models, &k->n_models, a, &why) || !texts(&doc, "actions", &k->actions, &k->n_actions, a, &why) ||
	    !texts(&doc, "networks", &k->networks, &k->n_networks, a, &why) || !limits(&doc, q, &k->limits, &why) ||
	    !json_opt_bool(&doc, 0, "local_only", &local, &why)) {
		req_fail_why(r, &why);
		return false;
	}
	k->local_only = local;
	if (*role && !role_parse(str_of(role), &k->role)) {
		err_field(&why, ERR_INVALID, "role", "'%s' is no role; there are owner, admin, operator, auditor, developer, user and service", role);
		req_fail_why(r, &why);
		return false;
	}
	if (!*role)
		k->role = CORRAL__ROLE__ROLE_USER;
	return true;
}

enum step asked_send(struct ask *a, bool good)
{
	if (good)
		return ask_send(a);
	ask_drop(a);
	return STEP_FAIL;
}

/* --- keys --- */

static void key_made(const Corral__CreateKeyReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 201);
	jw_key(&jo, "key");
	json_access_key(&jo, reply->key);
	jw_kv_strz(&jo, "secret", reply->secret);
	ask_json_done(a, &jo);
}

static void create_call(struct ask *a) { corral__access__create_key(access_of(a), &of(a)->create, key_made, a); }

static enum step create(struct req *r)
{
	struct ask *a;
	struct access_ask *q = begin(r, &a, create_call);

	return asked_send(a, read_key(r, a, q));
}

static void rotate_call(struct ask *a) { corral__access__rotate_key(access_of(a), &of(a)->rotate, key_made, a); }

/* POST /keys/ID/rotate {overlap_s} */
static enum step rotate(struct req *r)
{
	static const char *const known[] = { "overlap_s", NULL };
	struct str rest = r->param, id;
	struct ask *a;
	struct access_ask *q;
	struct why why = { 0 };
	struct json doc;

	if (!str_split(&rest, '/', &id) || !str_eqz(rest, "rotate"))
		return req_fail(r, ERR_NOT_FOUND, "there is no such thing to do with a key; POST /keys/ID/rotate replaces one");
	q = begin(r, &a, rotate_call);
	q->rotate.id = z(a, id);
	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (!json_opt_i64(&doc, 0, "overlap_s", &q->rotate.overlap_s, &why))
		req_fail_why(r, &why);
	return asked_send(a, why.code == ERR_OK);
}

static void key_limited(const Corral__Key *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "key");
	json_access_key(&jo, reply);
	ask_json_done(a, &jo);
}

static void limit_call(struct ask *a) { corral__access__limit_key(access_of(a), &of(a)->limit, key_limited, a); }

/* PUT /keys/ID {limits: {…}} */
static enum step limit_key(struct req *r)
{
	static const char *const known[] = { "limits", NULL };
	struct ask *a;
	struct access_ask *q = begin(r, &a, limit_call);
	struct why why = { 0 };
	struct json doc;

	q->limit.id = z(a, r->param);
	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (!json_get(&doc, 0, "limits"))
		err_field(&why, ERR_MALFORMED, "limits", "limits is missing: of a key that is there only the limits can be changed");
	else
		(void)limits(&doc, q, &q->limit.limits, &why);
	if (why.code)
		req_fail_why(r, &why);
	return asked_send(a, why.code == ERR_OK);
}

/* {"KEY":"ID","WORD":true} */
static void ended(const Corral__Done *reply, struct ask *a, const char *key, const char *id, const char *word)
{
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_kv_strz(&jo, key, id);
	jw_kv_bool(&jo, word, true);
	ask_json_done(a, &jo);
}

static void revoked(const Corral__Done *reply, void *arg) { ended(reply, arg, "id", of(arg)->revoke.id, "revoked"); }

static void revoke_call(struct ask *a) { corral__access__revoke_key(access_of(a), &of(a)->revoke, revoked, a); }

static enum step revoke(struct req *r)
{
	struct ask *a;
	struct access_ask *q = begin(r, &a, revoke_call);

	q->revoke.id = z(a, r->param);
	return ask_send(a);
}

static void keys_listed(const Corral__ListKeysReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "keys");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_keys; i++)
		json_access_key(&jo, reply->keys[i]);
	jw_end(&jo);
	jw_kv_strz(&jo, "next", *reply->next ? reply->next : NULL);
	ask_json_done(a, &jo);
}

static void list_call(struct ask *a) { corral__access__list_keys(access_of(a), &of(a)->list, keys_listed, a); }

char *asked_param(struct req *r, struct ask *a, const char *name)
{
	struct str s = STR("");

	http_query_get(r->x->head.query, name, a->mem, &s);
	return z(a, s);
}

static bool number(struct req *r, struct ask *a, const char *name, uint64_t most, uint64_t *ret)
{
	const char *s = asked_param(r, a, name);
	struct why why;

	if (!*s || (str_u64(str_of(s), ret) && *ret <= most))
		return true;
	err_field(&why, ERR_INVALID, name, "%s is a number up to %llu, not '%s'", name, (unsigned long long)most, s);
	req_fail_why(r, &why);
	return false;
}

static enum step list(struct req *r)
{
	struct ask *a;
	struct access_ask *q = begin(r, &a, list_call);
	const char *all = asked_param(r, a, "all");
	uint64_t limit_n = 0;
	bool good = number(r, a, "limit", 10000, &limit_n);

	q->list.tenant = asked_param(r, a, "tenant");
	q->list.after = asked_param(r, a, "after");
	q->list.with_ended = strcmp(all, "true") == 0 || strcmp(all, "1") == 0;
	q->list.limit = (uint32_t)limit_n;
	return asked_send(a, good);
}

/* --- tenants --- */

static void tenant_put(const Corral__Tenant *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	tenant_members(&jo, reply);
	ask_json_done(a, &jo);
}

static void put_call(struct ask *a) { corral__access__put_tenant(access_of(a), &of(a)->put, tenant_put, a); }

/* The whole tenant as it is to be: what is not said is as in a new one. */
static enum step put_tenant(struct req *r)
{
	static const char *const known[] = { "name", "display_name", "limits", "models", "suspended", "teams", "optimize_context", "local_only", NULL };
	struct ask *a;
	struct access_ask *q = begin(r, &a, put_call);
	Corral__Tenant *t = &q->tenant;
	struct why why = { 0 };
	struct json doc;
	bool suspended = false, optimize = false, local = false;

	if (!asked_body(r, a, &doc, known))
		return asked_send(a, false);
	if (!text(&doc, "display_name", &t->display_name, a, &why) || !limits(&doc, q, &t->limits, &why) ||
	    !texts(&doc, "models", &t->models, &t->n_models, a, &why) || !texts(&doc, "teams", &t->teams, &t->n_teams, a, &why) ||
	    !json_opt_bool(&doc, 0, "suspended", &suspended, &why) || !json_opt_bool(&doc, 0, "optimize_context", &optimize, &why) ||
	    !json_opt_bool(&doc, 0, "local_only", &local, &why))
		req_fail_why(r, &why);
	t->suspended = suspended;
	t->optimize_context = optimize;
	t->local_only = local;
	t->name = z(a, r->param);
	return asked_send(a, why.code == ERR_OK);
}

static void tenant_deleted(const Corral__Done *reply, void *arg) { ended(reply, arg, "name", of(arg)->del.name, "deleted"); }

static void delete_call(struct ask *a) { corral__access__delete_tenant(access_of(a), &of(a)->del, tenant_deleted, a); }

static enum step delete_tenant(struct req *r)
{
	struct ask *a;
	struct access_ask *q = begin(r, &a, delete_call);

	q->del.name = z(a, r->param);
	return ask_send(a);
}

static void tenants_listed(const Corral__ListTenantsReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "tenants");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_tenants; i++) {
		jw_obj(&jo);
		tenant_members(&jo, reply->tenants[i]);
		jw_end(&jo);
	}
	jw_end(&jo);
	ask_json_done(a, &jo);
}

static void tenants_call(struct ask *a) { corral__access__list_tenants(access_of(a), &of(a)->tenants, tenants_listed, a); }

static enum step tenants(struct req *r)
{
	struct ask *a;

	begin(r, &a, tenants_call);
	return ask_send(a);
}

/* --- the audit log --- */

static void hash_json(struct json_out *jo, const char *key, ProtobufCBinaryData hash)
{
	char hex[65] = "";

	for (size_t i = 0; i < hash.len && i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", hash.data[i]);
	jw_kv_strz(jo, key, hash.len ? hex : NULL);
}

static void entry_json(struct json_out *jo, const Corral__AuditEntry *e)
{
	jw_obj(jo);
	jw_kv_u64(jo, "seq", e->seq);
	time_json(jo, "at", e->at_us);
	jw_kv_strz(jo, "actor", e->actor);
	jw_kv_strz(jo, "role", e->role);
	jw_kv_strz(jo, "tenant", e->tenant);
	jw_kv_strz(jo, "address", e->address);
	jw_kv_strz(jo, "action", e->action);
	jw_kv_strz(jo, "object", e->object);
	jw_kv_strz(jo, "outcome", e->outcome);
	jw_kv_strz(jo, "detail", e->detail);          /* as it was hashed: JSON in a string */
	jw_kv_strz(jo, "request_id", e->request_id);
	hash_json(jo, "hash", e->hash);
	jw_end(jo);
}

static void audit_read(const Corral__AuditReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_key(&jo, "entries");
	jw_arr(&jo);
	for (size_t i = 0; i < reply->n_entries; i++)
		entry_json(&jo, reply->entries[i]);
	jw_end(&jo);
	jw_key(&jo, "next_seq");
	if (reply->next_seq)
		jw_u64(&jo, reply->next_seq);
	else
		jw_null(&jo);
	ask_json_done(a, &jo);
}

static void audit_call(struct ask *a) { corral__access__audit(access_of(a), &of(a)->audit, audit_read, a); }

static enum step audit(struct req *r)
{
	struct ask *a;
	struct access_ask *q = begin(r, &a, audit_call);
	uint64_t limit_n = 0;
	bool good = ask_time(r, a, "from", &q->audit.from_us) && ask_time(r, a, "to", &q->audit.to_us) &&
		    number(r, a, "after", UINT64_MAX, &q->audit.after_seq) && number(r, a, "limit", 10000, &limit_n);

	q->audit.actor = asked_param(r, a, "actor");
	q->audit.action = asked_param(r, a, "action");
	q->audit.limit = (uint32_t)limit_n;
	return asked_send(a, good);
}

static void audit_verified(const Corral__AuditVerifyReply *reply, void *arg)
{
	struct ask *a = arg;
	struct json_out jo;

	if (!reply) {
		failed(a);
		return;
	}
	jo = ask_json(a, 200);
	jw_kv_bool(&jo, "ok", reply->ok);
	jw_kv_u64(&jo, "entries", reply->entries);
	hash_json(&jo, "head", reply->head);
	jw_key(&jo, "broken_seq");
	if (reply->broken_seq)
		jw_u64(&jo, reply->broken_seq);
	else
		jw_null(&jo);
	jw_kv_strz(&jo, "text", reply->text);
	ask_json_done(a, &jo);
}

static void verify_call(struct ask *a)
{
	rpc_deadline(a->gw->door->access, 60000);
	corral__access__verify_audit(access_of(a), &of(a)->audit, audit_verified, a);
	rpc_deadline(a->gw->door->access, 5000);
}

static enum step verify(struct req *r)
{
	struct ask *a;

	begin(r, &a, verify_call);
	return ask_send(a);
}

const struct stage stage_key_create = { "key_create", create }, stage_key_rotate = { "key_rotate", rotate }, stage_key_revoke = { "key_revoke", revoke },
	stage_key_limit = { "key_limit", limit_key }, stage_keys = { "keys", list }, stage_tenant_put = { "tenant_put", put_tenant }, stage_tenant_delete = { "tenant_delete", delete_tenant },
	stage_tenants = { "tenants", tenants }, stage_audit = { "audit", audit }, stage_audit_verify = { "audit_verify", verify };

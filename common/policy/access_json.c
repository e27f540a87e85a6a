/* access_json.c - see access_json.h. */
#include "common/policy/access_json.h"

#include "common/base/clock.h"
#include "common/policy/authz.h"

static void time_member(struct json_out *jo, const char *name, int64_t us)
{
	char text[32];

	if (us <= 0) {
		jw_kv_null(jo, name);
		return;
	}
	clock_rfc3339(us, 6, text, sizeof(text));
	jw_kv_strz(jo, name, text);
}

void json_list_member(struct json_out *jo, const char *name, char *const *items, size_t n)
{
	jw_key(jo, name);
	jw_arr(jo);
	for (size_t i = 0; i < n; i++)
		jw_strz(jo, items[i]);
	jw_end(jo);
}

void json_limits_member(struct json_out *jo, const Corral__Limits *l)
{
	jw_key(jo, "limits");
	jw_obj(jo);
	jw_kv_u64(jo, "requests_per_minute", l ? l->requests_per_minute : 0);
	jw_kv_u64(jo, "tokens_per_minute", l ? l->tokens_per_minute : 0);
	jw_kv_u64(jo, "concurrency", l ? l->concurrency : 0);
	jw_end(jo);
}

void json_list_if_any(struct json_out *jo, const char *name, char *const *items, size_t n)
{
	if (n)
		json_list_member(jo, name, items, n);
}

void json_limits_if_set(struct json_out *jo, const Corral__Limits *l)
{
	if (!l)
		return;
	if (l->requests_per_minute)
		jw_kv_u64(jo, "requests_per_minute", l->requests_per_minute);
	if (l->tokens_per_minute)
		jw_kv_u64(jo, "tokens_per_minute", l->tokens_per_minute);
	if (l->concurrency)
		jw_kv_u64(jo, "concurrency", l->concurrency);
}

static void hex_member(struct json_out *jo, const char *name, ProtobufCBinaryData d)
{
	static const char digits[] = "0123456789abcdef";
	char text[64];
	size_t n = d.len < sizeof(text) / 2 ? d.len : sizeof(text) / 2;

	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digits[d.data[i] >> 4];
		text[2 * i + 1] = digits[d.data[i] & 15];
	}
	jw_kv_str(jo, name, str_n(text, 2 * n));
}

void json_access_key(struct json_out *jo, const Corral__Key *k)
{
	jw_obj(jo);
	jw_kv_strz(jo, "id", k->id);
	jw_kv_strz(jo, "name", k->name);
	jw_kv_strz(jo, "role", role_name(k->role));
	jw_kv_strz(jo, "tenant", k->tenant);
	jw_kv_strz(jo, "team", *k->team ? k->team : NULL);
	jw_kv_strz(jo, "user", *k->user ? k->user : NULL);
	time_member(jo, "created_at", k->created_at_us);
	jw_kv_strz(jo, "created_by", k->created_by);
	time_member(jo, "expires_at", k->expires_at_us);
	time_member(jo, "last_used_at", k->last_used_us);
	json_list_member(jo, "models", k->models, k->n_models);
	json_list_member(jo, "actions", k->actions, k->n_actions);
	json_list_member(jo, "networks", k->networks, k->n_networks);
	jw_kv_bool(jo, "local_only", k->local_only);
	json_limits_member(jo, k->limits);
	jw_kv_strz(jo, "replaces", k->replaces && k->replaces[0] ? k->replaces : NULL);
	jw_end(jo);
}

void json_audit_verdict(struct json_out *jo, const Corral__AuditVerifyReply *r)
{
	jw_obj(jo);
	jw_kv_bool(jo, "ok", r->ok);
	jw_kv_u64(jo, "entries", r->entries);
	if (r->broken_seq)
		jw_kv_u64(jo, "broken_seq", r->broken_seq);
	else
		jw_kv_null(jo, "broken_seq");
	hex_member(jo, "head", r->head);
	jw_kv_strz(jo, "text", r->text);
	jw_end(jo);
}

void json_new_key(struct json_out *jo, const Corral__CreateKeyReply *r)
{
	jw_obj(jo);
	jw_key(jo, "key");
	json_access_key(jo, r->key);
	jw_kv_strz(jo, "secret", r->secret);
	jw_end(jo);
}

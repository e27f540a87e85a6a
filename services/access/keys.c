/* keys.c - see keys.h. */
#include "services/access/keys.h"

#include "common/base/cidr.h"
#include "common/data/json_write.h"
#include "common/policy/access_json.h"
#include "common/policy/apikey.h"
#include "services/access/key_file.h"
#include "services/access/narrow.h"
#include "services/access/tenants.h"

enum { MOST_KEYS = 1000, USUAL_KEYS = 100, MOST_NETWORKS = 64, LONGEST_OVERLAP_S = 366 * 86400 };

/* --- rows --- */

struct got { struct arena *mem; struct key_row row; bool found; };

static bool keep(void *arg, const struct db_row *row)
{
	struct got *g = arg;

	g->found = true;
	g->row.key = access_unpack(g->mem, &corral__key__descriptor, db_str(row, 0));
	g->row.ended_us = db_int(row, 1);
	return false;
}

static enum err absent(struct str id, struct why *why)
{
	/* the words of authorise() for another tenant's: the two cannot be told apart */
	return err_set(why, ERR_NOT_FOUND, "there is no '" STR_FMT "' here", STR_ARG(id));
}

enum err key_get(struct access_store *s, struct arena *mem, struct str id, struct key_row *ret, struct why *why)
{
	struct got g = { .mem = mem };

	if (!access_run(s, A_KEY_GET, (struct db_value[]){ DB_S(id) }, 1, keep, &g, why))
		return why->code;
	if (!g.found)
		return absent(id, why);
	if (!g.row.key)
		return err_set(why, ERR_STORE_FAILED, "the record of key '" STR_FMT "' cannot be read", STR_ARG(id));
	*ret = g.row;
	return ERR_OK;
}

bool key_is_live(const struct key_row *row, int64_t now_us)
{
	return !row->ended_us && (!row->key->expires_at_us || row->key->expires_at_us > now_us);
}

bool keys_live(struct access_store *s, int64_t now_us, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *why)
{
	return access_run(s, A_KEYS_LIVE, (struct db_value[]){ DB_I(now_us) }, 1, on_row, arg, why);
}

bool keys_expired(struct access_store *s, int64_t from_us, int64_t to_us, bool (*on_row)(void *, const struct db_row *), void *arg, struct why *why)
{
	return access_run(s, A_KEYS_EXPIRED, (struct db_value[]){ DB_I(from_us), DB_I(to_us) }, 2, on_row, arg, why);
}

static bool keep_count(void *arg, const struct db_row *row)
{
	*(int64_t *)arg = db_int(row, 0);
	return true;
}

bool keys_count(struct access_store *s, int64_t now_us, int64_t *ret, struct why *why)
{
	return access_run(s, A_KEYS_COUNT, (struct db_value[]){ DB_I(now_us) }, 1, keep_count, ret, why);
}

static bool add_row(struct act *a, const Corral__Key *k, struct why *why)
{
	struct db_value p[] = {
		DB_Z(k->id), DB_B(str_n((const char *)k->hash.data, k->hash.len)), DB_Z(k->tenant), DB_Z(k->name), DB_I(k->role), DB_I(k->created_at_us),
		DB_I(k->expires_at_us), DB_Z(k->replaces), DB_B(access_pack(a->mem, &k->base)),
	};

	return access_run(a->store, A_KEY_ADD, p, sizeof(p) / sizeof(*p), NULL, NULL, why);
}

static bool set_row(struct act *a, const Corral__Key *k, int64_t ended_us, struct why *why)
{
	struct db_value p[] = { DB_Z(k->id), DB_I(k->expires_at_us), DB_I(ended_us), DB_B(access_pack(a->mem, &k->base)) };

	return access_run(a->store, A_KEY_SET, p, sizeof(p) / sizeof(*p), NULL, NULL, why);
}

/* --- what is allowed --- */

static bool is_an_action(const char *pattern)
{
	for (const char *const *p = all_actions; *p; p++)
		if (pattern_within(str_of(*p), str_of(pattern)))
			return true;
	return false;
}

static enum err check_actions(const Corral__Key *k, struct why *why)
{
	for (size_t i = 0; i < k->n_actions; i++)
		if (!is_an_action(k->actions[i]))
			return err_field(why, ERR_INVALID, "actions", "there is no action '%.60s'; examples are inference, models.read and models.*", k->actions[i]);
	return ERR_OK;
}

static enum err check_networks(const Corral__Key *k, struct why *why)
{
	struct cidr c;

	if (k->n_networks > MOST_NETWORKS)
		return err_field(why, ERR_INVALID, "networks", "a key has at most %d networks", MOST_NETWORKS);
	for (size_t i = 0; i < k->n_networks; i++)
		if (!cidr_parse(str_of(k->networks[i]), &c))
			return err_field(why, ERR_INVALID, "networks", "'%.60s' is no network; write 10.0.0.0/8 or 2001:db8::/32, without bits behind the prefix",
					 k->networks[i]);
	return ERR_OK;
}

static enum err check_key(const struct act *a, const Corral__Key *k, struct why *why)
{
	enum err e;

	if (k->role <= CORRAL__ROLE__ROLE_NONE || k->role > CORRAL__ROLE__ROLE_SERVICE)
		return err_field(why, ERR_INVALID, "role", "a key needs a role: owner, admin, operator, auditor, developer, user or service");
	if ((e = check_label(k->name, "name", why)) || (e = check_label(k->team, "team", why)) || (e = check_label(k->user, "user", why)) ||
	    (e = check_patterns(k->models, k->n_models, "models", why)) || (e = check_patterns(k->actions, k->n_actions, "actions", why)) ||
	    (e = check_actions(k, why)) || (e = check_networks(k, why)))
		return e;
	if (k->expires_at_us < 0 || (k->expires_at_us && k->expires_at_us <= a->now_us))
		return err_field(why, ERR_INVALID, "expires_at", "the key would have ended already");
	return ERR_OK;
}

static enum err check_team(const Corral__Tenant *t, const char *team, struct why *why)
{
	for (size_t i = 0; i < t->n_teams; i++)
		if (strcmp(t->teams[i], team) == 0)
			return ERR_OK;
	return team[0] ? err_field(why, ERR_INVALID, "team", "the tenant '%s' has no team '%s'", t->name, team) : ERR_OK;
}

static enum err check_home(struct act *a, const Corral__Key *k, struct why *why)
{
	Corral__Tenant *t;
	enum err e = tenant_get(a->store, a->mem, str_of(k->tenant), &t, why);

	if (e == ERR_NOT_FOUND)
		return err_field(why, ERR_INVALID, "tenant", "there is no tenant '%s'; make it with: corral tenants create %s", k->tenant, k->tenant);
	return e ? e : check_team(t, k->team, why);
}

struct found { struct arena *mem; struct str id; };

static bool keep_id(void *arg, const struct db_row *row)
{
	struct found *f = arg;

	f->id = arena_str(f->mem, db_str(row, 0));
	return false;
}

static enum err check_name_free(struct act *a, const Corral__Key *k, struct why *why)
{
	struct db_value p[] = { DB_I(a->now_us), DB_Z(k->tenant), DB_Z(k->name) };
	struct found f = { a->mem, { 0 } };

	if (!k->name[0])
		return ERR_OK;
	if (!access_run(a->store, A_KEY_NAMED, p, 3, keep_id, &f, why))
		return why->code;
	if (f.id.n)
		return err_field(why, ERR_CONFLICT, "name", "the key " STR_FMT " of tenant '%s' has the name '%s' already; revoke or rotate it, or use another name",
				 STR_ARG(f.id), k->tenant, k->name);
	return ERR_OK;
}

/* --- making --- */

static struct str detail(struct arena *mem, const Corral__Key *k)
{
	struct buf b = { 0 };
	struct json_out jo;
	struct str s;

	json_begin(&jo, &b);
	jw_obj(&jo);
	jw_kv_strz(&jo, "name", k->name);
	jw_kv_strz(&jo, "role", role_name(k->role));
	jw_kv_strz(&jo, "tenant", k->tenant);
	if (k->expires_at_us)
		jw_kv_i64(&jo, "expires_at_us", k->expires_at_us);
	json_list_if_any(&jo, "models", k->models, k->n_models);
	json_list_if_any(&jo, "actions", k->actions, k->n_actions);
	json_list_if_any(&jo, "networks", k->networks, k->n_networks);
	if (k->local_only)
		jw_kv_bool(&jo, "local_only", true);
	json_limits_if_set(&jo, k->limits);
	if (k->replaces[0])
		jw_kv_strz(&jo, "replaces", k->replaces);
	json_done(&jo);
	s = arena_str(mem, buf_as_str(&b));
	buf_free(&b);
	return s;
}

static void wipe(void *text) { secret_wipe(text, APIKEY_TEXT); }

/* Gives the key its id and secret, writes it, and tells gateways. */
static enum err make(struct act *a, Corral__Key *k, Corral__CreateKeyReply *ret, struct why *why)
{
	char *text = arena_alloc(a->mem, APIKEY_TEXT + 1), id[APIKEY_ID + 1];
	uint8_t *hash = arena_alloc(a->mem, SHA256_BYTES);

	apikey_make(text, id, hash);
	arena_defer(a->mem, wipe, text);
	k->id = arena_dup(a->mem, id, APIKEY_ID);
	k->hash = (ProtobufCBinaryData){ SHA256_BYTES, hash };
	k->created_at_us = a->now_us;
	k->created_by = a->caller->key_id[0] ? a->caller->key_id : (char *)"loopback";
	a->object = str_of(k->id);
	a->detail = detail(a->mem, k);
	if (!add_row(a, k, why))
		return why->code;
	a->delta.put_keys = arena_array(a->mem, Corral__Key *, 2);
	a->delta.put_keys[a->delta.n_put_keys++] = k;
	corral__create_key_reply__init(ret);
	ret->key = k;
	ret->secret = text;
	return ERR_OK;
}

static enum err create(struct act *a, const Corral__Key *wanted, Corral__CreateKeyReply *ret, struct why *why)
{
	Corral__Key *k = arena_alloc(a->mem, sizeof(*k));
	enum err e;

	*k = *wanted;
	k->replaces = (char *)"";
	if (!k->tenant[0])
		k->tenant = a->subject.tenant.n ? (char *)arena_str(a->mem, a->subject.tenant).p : (char *)TENANT_DEFAULT;
	a->object = str_of(k->tenant);
	if ((e = act_allowed(a, str_of(k->tenant), why)) || (e = check_key(a, k, why)) || (e = narrow(&a->subject, k, why)) ||
	    (e = check_home(a, k, why)) || (e = check_name_free(a, k, why)))
		return e;
	return make(a, k, ret, why);
}

enum err key_create(struct act *a, const Corral__Key *wanted, Corral__CreateKeyReply *ret, struct why *why)
{
	enum err e;

	a->action = "keys.create";
	e = act_begin(a, why);
	return act_end(a, e ? e : create(a, wanted, ret, why), why);
}

/* --- a key that is there --- */

/* Finds it for this act. Whoever may not do this at all learns nothing about which keys there are. */
static enum err find(struct act *a, struct str id, struct key_row *ret, struct why *why)
{
	enum err e = act_allowed(a, STR(""), why);

	if (e || (e = key_get(a->store, a->mem, id, ret, why)))
		return e;
	return act_allowed(a, str_of(ret->key->tenant), why);
}

static enum err check_not_rotated(struct act *a, struct str id, struct why *why)
{
	struct found f = { a->mem, { 0 } };

	if (!access_run(a->store, A_KEY_SUCCESSOR, (struct db_value[]){ DB_I(a->now_us), DB_S(id) }, 2, keep_id, &f, why))
		return why->code;
	return f.id.n ? err_set(why, ERR_CONFLICT, "the key " STR_FMT " was replaced by " STR_FMT " already", STR_ARG(id), STR_ARG(f.id)) : ERR_OK;
}

static int64_t end_of_next(const struct act *a, const Corral__Key *old)
{
	const Corral__Key *maker = a->subject.key;
	int64_t end = old->expires_at_us ? a->now_us + (old->expires_at_us - old->created_at_us) : 0;

	if (maker && maker->expires_at_us && (!end || end > maker->expires_at_us))
		end = maker->expires_at_us;
	return end;
}

/* The old key lives on for the overlap, never longer than it would have. */
static enum err let_go(struct act *a, Corral__Key *old, int64_t overlap_s, struct why *why)
{
	int64_t end = a->now_us + overlap_s * 1000000;

	if (old->expires_at_us && old->expires_at_us < end)
		end = old->expires_at_us;
	if (overlap_s)
		old->expires_at_us = end;
	if (!set_row(a, old, overlap_s ? 0 : a->now_us, why))
		return why->code;
	if (overlap_s) {
		a->delta.put_keys[a->delta.n_put_keys++] = old;
		return ERR_OK;
	}
	a->delta.n_del_keys = 1;
	a->delta.del_keys = arena_array(a->mem, char *, 1);
	a->delta.del_keys[0] = old->id;
	return ERR_OK;
}

static enum err rotate(struct act *a, struct str id, int64_t overlap_s, Corral__CreateKeyReply *ret, struct why *why)
{
	Corral__Key *next = arena_alloc(a->mem, sizeof(*next));
	struct key_row row;
	enum err e = find(a, id, &row, why);

	if (e)
		return e;
	if (overlap_s < 0 || overlap_s > LONGEST_OVERLAP_S)
		return err_field(why, ERR_INVALID, "overlap_s", "the overlap is 0 to %d seconds", LONGEST_OVERLAP_S);
	if (!key_is_live(&row, a->now_us))
		return err_set(why, ERR_CONFLICT, "the key " STR_FMT " has ended; make a new one", STR_ARG(id));
	*next = *row.key;
	next->expires_at_us = end_of_next(a, row.key);
	next->replaces = row.key->id;
	if ((e = check_not_rotated(a, id, why)) || (e = narrow_holds(&a->subject, next, why)) || (e = make(a, next, ret, why)))
		return e;
	return let_go(a, row.key, overlap_s, why);
}

enum err key_rotate(struct act *a, struct str id, int64_t overlap_s, Corral__CreateKeyReply *ret, struct why *why)
{
	enum err e;

	a->action = "keys.rotate";
	a->object = id;
	e = act_begin(a, why);
	return act_end(a, e ? e : rotate(a, id, overlap_s, ret, why), why);
}

static enum err limit(struct act *a, struct str id, Corral__Limits *limits, Corral__Key **ret, struct why *why)
{
	struct key_row row;
	enum err e = find(a, id, &row, why);

	if (e)
		return e;
	if (!key_is_live(&row, a->now_us))
		return err_set(why, ERR_CONFLICT, "the key " STR_FMT " has ended; make a new one", STR_ARG(id));
	row.key->limits = limits;
	if ((e = narrow_holds(&a->subject, row.key, why)))
		return e;
	a->detail = detail(a->mem, row.key);
	if (!set_row(a, row.key, 0, why))
		return why->code;
	a->delta.put_keys = arena_array(a->mem, Corral__Key *, 1);
	a->delta.put_keys[a->delta.n_put_keys++] = row.key;
	*ret = row.key;
	return ERR_OK;
}

enum err key_limit(struct act *a, struct str id, Corral__Limits *limits, Corral__Key **ret, struct why *why)
{
	enum err e;

	a->action = "keys.limit";
	a->object = id;
	e = act_begin(a, why);
	return act_end(a, e ? e : limit(a, id, limits, ret, why), why);
}

static enum err revoke(struct act *a, struct str id, bool *ret_changed, struct why *why)
{
	struct key_row row;
	enum err e = find(a, id, &row, why);

	if (e)
		return e;
	if (!role_within(row.key->role, a->subject.role))
		return err_set(why, ERR_FORBIDDEN, "role %s may not end a key of role %s", role_name(a->subject.role), role_name(row.key->role));
	*ret_changed = !row.ended_us;
	if (row.ended_us)
		return ERR_OK;
	a->detail = detail(a->mem, row.key);
	if (!set_row(a, row.key, a->now_us, why))
		return why->code;
	a->delta.n_del_keys = 1;
	a->delta.del_keys = arena_array(a->mem, char *, 1);
	a->delta.del_keys[0] = row.key->id;
	return ERR_OK;
}

enum err key_revoke(struct act *a, struct str id, bool *ret_changed, struct why *why)
{
	enum err e;

	a->action = "keys.revoke";
	a->object = id;
	e = act_begin(a, why);
	return act_end(a, e ? e : revoke(a, id, ret_changed, why), why);
}

/* --- listing --- */

struct listing { struct arena *mem; Corral__ListKeysReply *reply; bool bad; };

static bool list_row(void *arg, const struct db_row *row)
{
	struct listing *l = arg;
	Corral__Key *k = access_unpack(l->mem, &corral__key__descriptor, db_str(row, 0));

	if (!k) {
		l->bad = true;
		return true;
	}
	k->hash = (ProtobufCBinaryData){ 0 };
	k->last_used_us = db_int(row, 1);
	l->reply->keys[l->reply->n_keys++] = k;
	return true;
}

static enum err list(struct act *a, const Corral__ListKeysRequest *q, Corral__ListKeysReply *ret, struct why *why)
{
	uint32_t limit = !q->limit ? USUAL_KEYS : q->limit > MOST_KEYS ? MOST_KEYS : q->limit;
	struct str tenant = q->tenant[0] || role_reaches(a->subject.role, str_of(a->action)) ? str_of(q->tenant) : a->subject.tenant;
	struct db_value p[] = { DB_I(a->now_us), DB_S(tenant), DB_I(q->with_ended), DB_Z(q->after), DB_I(limit + 1) };
	struct listing l = { a->mem, ret, false };
	enum err e = act_allowed(a, tenant, why);

	if (e)
		return e;
	ret->keys = arena_array(a->mem, Corral__Key *, limit + 1);
	if (!access_run(a->store, A_KEY_LIST, p, sizeof(p) / sizeof(*p), list_row, &l, why))
		return why->code;
	if (l.bad)
		return err_set(why, ERR_STORE_FAILED, "the record of a key cannot be read");
	if (ret->n_keys > limit)
		ret->next = ret->keys[--ret->n_keys - 1]->id;
	return ERR_OK;
}

enum err keys_list(struct act *a, const Corral__ListKeysRequest *q, Corral__ListKeysReply *ret, struct why *why)
{
	enum err e;

	a->action = "keys.read";
	a->object = str_of(q->tenant);
	corral__list_keys_reply__init(ret);
	e = act_read(a, why);
	return e ? e : list(a, q, ret, why);
}

/* --- the first key --- */

static enum err install(struct act *a, struct str id, struct str text, struct why *why)
{
	Corral__Key k = CORRAL__KEY__INIT;
	uint8_t hash[SHA256_BYTES];

	sha256(text, hash);
	k.id = (char *)arena_str(a->mem, id).p;
	k.hash = (ProtobufCBinaryData){ SHA256_BYTES, hash };
	k.tenant = (char *)TENANT_DEFAULT;
	k.role = CORRAL__ROLE__ROLE_OWNER;
	k.name = (char *)"bootstrap";
	k.created_at_us = a->now_us;
	k.created_by = (char *)"bootstrap";
	a->detail = detail(a->mem, &k);
	return add_row(a, &k, why) ? ERR_OK : why->code;
}

static bool same_key(const Corral__Key *k, struct str text)
{
	uint8_t hash[SHA256_BYTES];

	sha256(text, hash);
	return k->hash.len == SHA256_BYTES && secret_equal(k->hash.data, hash, SHA256_BYTES);
}

/* What stands against installing it; NULL: nothing does. */
static enum err look(struct act *a, struct str id, struct str text, const char **ret_note, struct why *why)
{
	struct db_value p[] = { DB_I(a->now_us), DB_I(CORRAL__ROLE__ROLE_OWNER) };
	struct key_row row;
	int64_t owners = 0;
	enum err e = key_get(a->store, a->mem, id, &row, why);

	*ret_note = NULL;
	if (e == ERR_OK && !same_key(row.key, text))
		return err_set(why, ERR_CONFLICT, "the key of the bootstrap file has the id of another key; make a new one with: corral keys generate");
	if (e == ERR_OK)
		*ret_note = key_is_live(&row, a->now_us) ? "the bootstrap key is installed" : "the bootstrap key was revoked and stays so; put a new one into its file";
	if (e == ERR_OK || e != ERR_NOT_FOUND)
		return e;
	if (!access_run(a->store, A_KEYS_OF_ROLE, p, 2, keep_count, &owners, why))
		return why->code;
	*ret_note = owners ? "there is an owner key already, the bootstrap key is not used" : NULL;
	return ERR_OK;
}

bool key_bootstrap(struct access_store *s, const char *path, int64_t now_us, const char **ret_note, struct why *why)
{
	Corral__Caller system = CORRAL__CALLER__INIT;
	struct act a = { .store = s, .mem = arena_new(0), .caller = &system, .now_us = now_us, .by_system = true,
			 .action = "keys.create" };
	struct str text, id;
	enum err e = key_file_read(path, a.mem, &text, &id, why);

	system.role = CORRAL__ROLE__ROLE_OWNER;
	system.address = (char *)"bootstrap";
	if (e == ERR_OK)
		e = look(&a, id, text, ret_note, why);
	if (e == ERR_OK && !*ret_note) {
		a.object = id;
		e = act_begin(&a, why);
		e = act_end(&a, e ? e : install(&a, id, text, why), why);
		*ret_note = "the bootstrap key was installed as the first owner key";
	}
	arena_free(a.mem);
	return e == ERR_OK;
}

/* --- use --- */

bool key_used(struct access_store *s, const Corral__KeyUse *use, int64_t now_us, struct why *why)
{
	if (strlen(use->id) != APIKEY_ID || use->at_us > now_us + 60 * INT64_C(1000000))
		return true;
	return access_run(s, A_KEY_USED, (struct db_value[]){ DB_Z(use->id), DB_I(use->at_us) }, 2, NULL, NULL, why);
}
